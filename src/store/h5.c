/* HDF5 in small pieces: element types, attributes, reasons of failures. */
#include "parts.h"

#include <stdlib.h>
#include <string.h>

void store_h5_quiet(void) {
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
}

static herr_t keep_reason(unsigned depth, const H5E_error2_t *error, void *data) {
    (void)depth;
    char *text = data;
    if (error->desc != NULL) snprintf(text, 200, "%s", error->desc);
    return 0;
}

const char *store_h5_reason(void) {
    static char text[200];
    snprintf(text, sizeof text, "no reason given");
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_DOWNWARD, keep_reason, text); // the last is the innermost
    return text;
}

/* ---- element types -------------------------------------------------------------------------- */

// HDF5 1.10 has no 2-byte float: an IEEE f32 is narrowed field by field. Memory and file type are
// always the same, since its own conversion rounds ties up and is slow.
static hid_t narrow_float(size_t exponent_bits, size_t bias) {
    hid_t type = H5Tcopy(H5T_IEEE_F32LE);
    if (type < 0) return type;
    size_t fraction_bits = 15 - exponent_bits;
    if (H5Tset_fields(type, 15, fraction_bits, exponent_bits, 0, fraction_bits) < 0 ||
        H5Tset_size(type, 2) < 0 || H5Tset_ebias(type, bias) < 0) {
        H5Tclose(type);
        return -1;
    }
    return type;
}

hid_t store_h5_type(df_type type) {
    switch (type) {
    case DF_U8:
        return H5Tcopy(H5T_STD_U8LE);
    case DF_U32:
        return H5Tcopy(H5T_STD_U32LE);
    case DF_U64:
        return H5Tcopy(H5T_STD_U64LE);
    case DF_I64:
        return H5Tcopy(H5T_STD_I64LE);
    case DF_BF16:
        return narrow_float(8, 127);
    case DF_F16:
        return narrow_float(5, 15);
    case DF_F32:
        return H5Tcopy(H5T_IEEE_F32LE);
    case DF_F64:
        return H5Tcopy(H5T_IEEE_F64LE);
    case DF_I32:
        return H5Tcopy(H5T_STD_I32LE);
    case DF_U16:
        return H5Tcopy(H5T_STD_U16LE);
    }
    return -1;
}

bool store_h5_type_of(hid_t file_type, df_type *out) {
    for (df_type type = DF_U8; type <= DF_U16; type++) {
        hid_t ours = store_h5_type(type);
        bool same = ours >= 0 && H5Tequal(ours, file_type) > 0;
        if (ours >= 0) H5Tclose(ours);
        *out = type;
        if (same) return true;
    }
    return false;
}

hid_t store_h5_access(void) {
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    if (access < 0) return access;
    // v18: object headers carry checksums, and every tool of the last fifteen years reads them;
    // only a virtual dataset takes what v110 brought. No locks: many parallel file systems have
    // none, and nobody opens a file while it is written.
    if (H5Pset_libver_bounds(access, H5F_LIBVER_V18, H5F_LIBVER_V110) < 0 ||
        H5Pset_file_locking(access, false, true) < 0) {
        H5Pclose(access);
        return -1;
    }
    return access;
}

/* ---- writing attributes --------------------------------------------------------------------- */

static df_status write_attribute(hid_t object, const char *name, hid_t type, const void *value) {
    bool done = false;
    hid_t space = H5Screate(H5S_SCALAR);
    hid_t attribute = H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    if (attribute >= 0) done = H5Awrite(attribute, type, value) >= 0;
    const char *reason = store_h5_reason();
    if (attribute >= 0) done = H5Aclose(attribute) >= 0 && done;
    if (space >= 0) H5Sclose(space);
    if (done) return DF_OK;
    return df_fail(DF_FAILED, "cannot write the attribute %s: %s", name, reason);
}

static hid_t text_type(size_t room) {
    hid_t type = H5Tcopy(H5T_C_S1);
    if (type < 0) return type;
    if (H5Tset_size(type, room) < 0 || H5Tset_cset(type, H5T_CSET_UTF8) < 0) {
        H5Tclose(type);
        return -1;
    }
    return type;
}

// Fixed length: variable-length strings live in the global heap, which has no checksum.
df_status store_h5_text(hid_t object, const char *name, const char *padded, size_t room) {
    hid_t type = text_type(room);
    df_status status = write_attribute(object, name, type, padded);
    if (type >= 0) H5Tclose(type);
    return status;
}

df_status store_h5_int(hid_t object, const char *name, int64_t value) {
    return write_attribute(object, name, H5T_STD_I64LE, &value);
}

df_status store_h5_real(hid_t object, const char *name, double value) {
    return write_attribute(object, name, H5T_IEEE_F64LE, &value);
}

/* ---- reading attributes --------------------------------------------------------------------- */

static df_status read_fixed_text(hid_t attribute, hid_t type, store_attribute *out) {
    size_t bytes = H5Tget_size(type);
    if (bytes == 0 || bytes > (size_t)64 << 20)
        return df_fail(DF_BAD_INPUT, "a text of %zu bytes", bytes);
    DF_TRY(DF_NEW(out->text, bytes + 1));
    if (H5Aread(attribute, type, out->text) < 0)
        return df_fail(DF_BAD_INPUT, "cannot be read: %s", store_h5_reason());
    return DF_OK;
}

// What h5py writes for a str.
static df_status read_variable_text(hid_t attribute, store_attribute *out) {
    char *text = NULL;
    hid_t type = text_type(H5T_VARIABLE);
    herr_t code = type < 0 ? -1 : H5Aread(attribute, type, &text);
    if (type >= 0) H5Tclose(type);
    if (code < 0) return df_fail(DF_BAD_INPUT, "cannot be read: %s", store_h5_reason());
    out->text = df_strdup(text != NULL ? text : "");
    if (text != NULL) H5free_memory(text);
    return out->text != NULL ? DF_OK : DF_FAILED;
}

static df_status read_value(hid_t attribute, hid_t type, store_attribute *out) {
    switch (H5Tget_class(type)) {
    case H5T_STRING:
        out->kind = STORE_TEXT;
        if (H5Tis_variable_str(type) > 0) return read_variable_text(attribute, out);
        return read_fixed_text(attribute, type, out);
    case H5T_INTEGER:
        out->kind = STORE_INT;
        if (H5Aread(attribute, H5T_NATIVE_INT64, &out->integer) >= 0) return DF_OK;
        break;
    case H5T_FLOAT:
        out->kind = STORE_REAL;
        if (H5Aread(attribute, H5T_NATIVE_DOUBLE, &out->real) >= 0) return DF_OK;
        break;
    default:
        return df_fail(DF_BAD_INPUT, "is no text, integer or real number");
    }
    return df_fail(DF_BAD_INPUT, "cannot be read: %s", store_h5_reason());
}

static df_status read_attribute(hid_t attribute, store_attribute *out) {
    char name[256] = "";
    hid_t type = H5Aget_type(attribute), space = H5Aget_space(attribute);
    df_status status = DF_OK;
    if (H5Aget_name(attribute, sizeof name, name) < 0 || type < 0 || space < 0)
        DF_GO(df_fail(DF_BAD_INPUT, "cannot be read: %s", store_h5_reason()));
    out->name = df_strdup(name);
    if (out->name == NULL) DF_GO(DF_FAILED);
    if (H5Sget_simple_extent_npoints(space) != 1)
        DF_GO(df_fail(DF_BAD_INPUT, "expected one value, found %lld",
                      (long long)H5Sget_simple_extent_npoints(space)));
    DF_GO(read_value(attribute, type, out));
done:
    if (status != DF_OK) df_context("reading the attribute %s", name);
    if (type >= 0) H5Tclose(type);
    if (space >= 0) H5Sclose(space);
    return status;
}

static df_status read_by_place(hid_t object, hsize_t i, store_object *out) {
    DF_TRY(df_grow((void **)&out->attributes, &out->attribute_capacity, out->n_attributes + 1,
                   sizeof *out->attributes));
    store_attribute *slot = &out->attributes[out->n_attributes];
    memset(slot, 0, sizeof *slot);
    out->n_attributes++;
    hid_t attribute =
        H5Aopen_by_idx(object, ".", H5_INDEX_NAME, H5_ITER_INC, i, H5P_DEFAULT, H5P_DEFAULT);
    if (attribute < 0)
        return df_fail(DF_BAD_INPUT, "cannot open attribute %llu of %s: %s", (unsigned long long)i,
                       out->path, store_h5_reason());
    df_status status = read_attribute(attribute, slot);
    H5Aclose(attribute);
    return status;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const store_attribute *)a)->name, ((const store_attribute *)b)->name);
}

df_status store_h5_attributes(hid_t object, store_object *out) {
    int n = H5Aget_num_attrs(object);
    if (n < 0 || n > 65536)
        return df_fail(DF_BAD_INPUT, "cannot read the attributes of %s: %s", out->path,
                       store_h5_reason());
    for (int i = 0; i < n; i++) DF_TRY(read_by_place(object, (hsize_t)i, out));
    if (n > 0) qsort(out->attributes, out->n_attributes, sizeof *out->attributes, by_name);
    return DF_OK;
}
