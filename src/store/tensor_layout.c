/* Layouts of tensor files: the safetensors header, and a zip archive of .npy members. */
#include "tensor_file.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>

/* ---- safetensors -------------------------------------------------------------------------------
 */

static const char *dtype(df_type type) {
    switch (type) {
    case DF_U8:
        return "U8";
    case DF_U32:
        return "U32";
    case DF_U64:
        return "U64";
    case DF_I64:
        return "I64";
    case DF_I32:
        return "I32";
    case DF_U16:
        return "U16";
    case DF_BF16:
        return "BF16";
    case DF_F16:
        return "F16";
    case DF_F32:
        return "F32";
    case DF_F64:
        return "F64";
    }
    return "";
}

// Larger elements first, then by name: every tensor is aligned to its elements.
static int by_size_then_name(const void *a, const void *b) {
    const tensor_place *x = *(tensor_place *const *)a, *y = *(tensor_place *const *)b;
    size_t bx = df_type_bytes(x->type), by = df_type_bytes(y->type);
    if (bx != by) return bx > by ? -1 : 1;
    return strcmp(x->name, y->name);
}

static json_t *describe(const tensor_place *place, uint64_t begin, uint64_t end) {
    json_t *shape = json_array();
    for (int d = 0; d < place->dims; d++)
        json_array_append_new(shape, json_integer((json_int_t)place->shape[d]));
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", dtype(place->type), "shape", shape,
                     "data_offsets", (json_int_t)begin, (json_int_t)end);
}

// The header's text, padded with spaces so that the elements begin at a multiple of 8.
static df_status print_header(json_t *root, char **header, size_t *bytes) {
    size_t need = json_dumpb(root, NULL, 0, JSON_COMPACT);
    *bytes = 8 + (need + 7) / 8 * 8;
    if (need == 0) return df_fail(DF_FAILED, "out of memory for a safetensors header");
    DF_TRY(DF_NEW(*header, *bytes));
    memset(*header, ' ', *bytes);
    store_save(*header, *bytes - 8, 8);
    json_dumpb(root, *header + 8, need, JSON_COMPACT);
    return DF_OK;
}

df_status store_lay_safetensors(df_tensor_file *file, char **header, size_t *header_bytes) {
    tensor_place **order;
    json_t *root = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
    uint64_t at = 0;
    df_status status = DF_NEW(order, file->n);
    for (size_t i = 0; i < file->n && status == DF_OK; i++) order[i] = &file->places[i];
    if (status == DF_OK && file->n > 0)
        qsort(order, file->n, sizeof(tensor_place *), by_size_then_name);
    for (size_t i = 0; i < file->n && status == DF_OK; i++) {
        uint64_t bytes = order[i]->elements * df_type_bytes(order[i]->type);
        order[i]->offset = at; // behind the header, for now
        if (json_object_set_new(root, order[i]->name, describe(order[i], at, at + bytes)) != 0)
            status = df_fail(DF_FAILED, "out of memory for the header of %s", file->path);
        at += bytes;
    }
    df_free(order);
    if (status == DF_OK) status = print_header(root, header, header_bytes);
    json_decref(root);
    for (size_t i = 0; i < file->n && status == DF_OK; i++) file->places[i].offset += *header_bytes;
    file->bytes = at + *header_bytes;
    return status;
}

/* ---- npz ---------------------------------------------------------------------------------------
 */

enum { LOCAL_BYTES = 30, CENTRAL_BYTES = 46, ZIP64_LOCAL = 20, NPY_ALIGN = 64 };
#define FULL ((uint64_t)0xffffffff)

static const char *npy_type(df_type type) {
    switch (type) {
    case DF_U8:
        return "|u1";
    case DF_U32:
        return "<u4";
    case DF_U64:
        return "<u8";
    case DF_I64:
        return "<i8";
    case DF_I32:
        return "<i4";
    case DF_U16:
        return "<u2";
    case DF_F16:
        return "<f2";
    case DF_F32:
        return "<f4";
    case DF_F64:
        return "<f8";
    case DF_BF16:
        break;
    }
    return NULL;
}

// magic, version 1.0, length, dict, spaces, newline: a multiple of 64 bytes.
static df_status npy_header(const tensor_place *place, char out[256], size_t *bytes) {
    char shape[128] = "";
    const char *type = npy_type(place->type);
    if (type == NULL)
        return df_fail(DF_USAGE, "numpy has no bf16: tensor \"%s\" cannot go into an npz file",
                       place->name);
    for (int d = 0; d < place->dims; d++)
        snprintf(shape + strlen(shape), sizeof shape - strlen(shape), "%llu%s",
                 (unsigned long long)place->shape[d],
                 place->dims == 1      ? ","
                 : d + 1 < place->dims ? ", "
                                       : "");
    memset(out, ' ', 256);
    memcpy(out, "\x93NUMPY\x01\x00", 8);
    int n = snprintf(out + 10, 246, "{'descr': '%s', 'fortran_order': False, 'shape': (%s), }",
                     type, shape);
    out[10 + n] = ' ';
    *bytes = (10 + (size_t)n + 1 + NPY_ALIGN - 1) / NPY_ALIGN * NPY_ALIGN;
    out[*bytes - 1] = '\n';
    store_save(out + 8, *bytes - 10, 2);
    return DF_OK;
}

// Fields that local and central headers share: version needed to time, the checksum, sizes, name.
static void common_fields(char *at, uint64_t member, uint32_t crc, size_t name) {
    uint64_t size = member < FULL ? member : FULL;
    store_save(at, member < FULL ? 20 : 45, 2);
    store_save(at + 8, 33, 2); // 1 January 1980
    store_save(at + 10, crc, 4);
    store_save(at + 14, size, 4);
    store_save(at + 18, size, 4);
    store_save(at + 22, name, 2);
}

static uint64_t member_bytes(const tensor_place *p, size_t npy) {
    return npy + p->elements * df_type_bytes(p->type);
}

static df_status lay_member(tensor_place *p, uint64_t at) {
    char npy[256];
    size_t npy_bytes = 0, name = strlen(p->name) + 4;
    DF_TRY(npy_header(p, npy, &npy_bytes));
    uint64_t member = member_bytes(p, npy_bytes);
    size_t extra = member < FULL ? 0 : ZIP64_LOCAL;
    p->prefix_bytes = LOCAL_BYTES + name + extra + npy_bytes;
    DF_TRY(DF_NEW(p->prefix, p->prefix_bytes + 1));
    store_save(p->prefix, 0x04034b50, 4);
    common_fields(p->prefix + 4, member, 0, name);
    store_save(p->prefix + 28, extra, 2);
    snprintf(p->prefix + LOCAL_BYTES, name + 1, "%s.npy", p->name);
    if (extra > 0) {
        char *field = p->prefix + LOCAL_BYTES + name;
        store_save(field, 1, 2);
        store_save(field + 2, 16, 2);
        store_save(field + 4, member, 8);
        store_save(field + 12, member, 8);
    }
    memcpy(p->prefix + LOCAL_BYTES + name + extra, npy, npy_bytes);
    p->header = at;
    p->offset = at + p->prefix_bytes;
    return DF_OK;
}

static size_t npy_bytes_of(const tensor_place *p) {
    size_t local = LOCAL_BYTES + store_load(p->prefix + 26, 2) + store_load(p->prefix + 28, 2);
    return p->prefix_bytes - local;
}

// Sizes and place that do not fit 32 bits go into an extra field.
static size_t central_bytes(const tensor_place *p) {
    bool wide = member_bytes(p, npy_bytes_of(p)) >= FULL, far = p->header >= FULL;
    return CENTRAL_BYTES + strlen(p->name) + 4 + (wide || far ? 4 + 16 * wide + 8 * far : 0);
}

static bool needs_end64(uint64_t first, uint64_t bytes, size_t n) {
    return first >= FULL || bytes >= FULL || n >= 0xffff;
}

df_status store_lay_npz(df_tensor_file *file) {
    uint64_t at = 0, directory = 0;
    for (size_t i = 0; i < file->n; i++) {
        tensor_place *p = &file->places[i];
        DF_TRY(lay_member(p, at));
        at = p->offset + p->elements * df_type_bytes(p->type);
        directory += central_bytes(p);
    }
    file->bytes = at + directory + (needs_end64(at, directory, file->n) ? 56 + 20 : 0) + 22;
    return DF_OK;
}

// The member's bytes: its .npy header and what was put.
static df_status member_crc(const df_tensor_file *file, const tensor_place *p, char *buffer,
                            size_t room, uint32_t *out) {
    size_t npy = npy_bytes_of(p);
    uint64_t left = p->elements * df_type_bytes(p->type), at = p->offset;
    uLong crc = crc32(0, (const Bytef *)p->prefix + p->prefix_bytes - npy, (uInt)npy);
    while (left > 0) {
        uint64_t part = left < room ? left : room;
        DF_TRY(store_pread(file->descriptor, file->part, buffer, part, at));
        crc = crc32(crc, (const Bytef *)buffer, (uInt)part);
        at += part;
        left -= part;
    }
    *out = (uint32_t)crc;
    return DF_OK;
}

static void central_header(const tensor_place *p, uint32_t crc, char *at) {
    uint64_t member = member_bytes(p, npy_bytes_of(p));
    bool wide = member >= FULL, far = p->header >= FULL;
    size_t name = strlen(p->name) + 4;
    store_save(at, 0x02014b50, 4);
    store_save(at + 4, 45, 2);
    common_fields(at + 6, member, crc, name);
    store_save(at + 42, far ? FULL : p->header, 4);
    memcpy(at + CENTRAL_BYTES, p->prefix + LOCAL_BYTES, name);
    if (!wide && !far) return;
    char *field = at + CENTRAL_BYTES + name;
    store_save(at + 30, 4 + 16 * wide + 8 * far, 2);
    store_save(field, 1, 2);
    store_save(field + 2, 16 * wide + 8 * far, 2);
    if (wide) store_save(field + 4, member, 8);
    if (wide) store_save(field + 12, member, 8);
    if (far) store_save(field + 4 + 16 * wide, p->header, 8);
}

static void end_records(char *at, uint64_t first, uint64_t bytes, size_t n) {
    if (needs_end64(first, bytes, n)) {
        store_save(at, 0x06064b50, 4);
        store_save(at + 4, 56 - 12, 8);
        store_save(at + 12, 45, 2);
        store_save(at + 14, 45, 2);
        store_save(at + 24, n, 8);
        store_save(at + 32, n, 8);
        store_save(at + 40, bytes, 8);
        store_save(at + 48, first, 8);
        store_save(at + 56, 0x07064b50, 4);
        store_save(at + 64, first + bytes, 8);
        store_save(at + 72, 1, 4);
        at += 76;
    }
    store_save(at, 0x06054b50, 4);
    store_save(at + 8, n < 0xffff ? n : 0xffff, 2);
    store_save(at + 10, n < 0xffff ? n : 0xffff, 2);
    store_save(at + 12, bytes < FULL ? bytes : FULL, 4);
    store_save(at + 16, first < FULL ? first : FULL, 4);
}

df_status store_close_npz(const df_tensor_file *file) {
    const size_t room = (size_t)1 << 20;
    char *buffer = NULL, *tail = NULL;
    uint64_t first = 0, directory = 0;
    df_status status = DF_NEW(buffer, room);
    for (size_t i = 0; i < file->n; i++) {
        const tensor_place *p = &file->places[i];
        first = p->offset + p->elements * df_type_bytes(p->type);
        directory += central_bytes(p);
    }
    if (status == DF_OK) status = DF_NEW(tail, file->bytes - first);
    char *at = tail;
    for (size_t i = 0; i < file->n && status == DF_OK; i++) {
        tensor_place *p = &file->places[i];
        uint32_t crc;
        DF_GO(member_crc(file, p, buffer, room, &crc));
        store_save(p->prefix + 14, crc, 4);
        DF_GO(store_pwrite(file->descriptor, file->part, p->prefix, p->prefix_bytes, p->header));
        central_header(p, crc, at);
        at += central_bytes(p);
    }
    if (status == DF_OK) end_records(at, first, directory, file->n);
    if (status == DF_OK)
        status = store_pwrite(file->descriptor, file->part, tail, file->bytes - first, first);
done:
    df_free(buffer);
    df_free(tail);
    return status;
}
