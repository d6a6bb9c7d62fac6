/* npz: a zip archive of .npy arrays. The format of numpy: magic, version, the length of a header
 * that is a Python dict of descr, fortran_order and shape, then the elements. */
#include "tensors.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#define MAX_HEADER ((uint64_t)1 << 20)

typedef struct array { /* one .npy */
    const char *file;
    char *name;
    const char *text, *end; // of the header, while it is parsed
    bool fortran;
    bool has_type, has_order, has_shape;
    size_t element_bytes, dims;
    int type; // < 0: valid, but nothing here reads it
    uint64_t shape[DF_MAX_DIMS], elements;
} array;

static df_status bad(const array *a, const char *what) {
    return df_fail(DF_BAD_INPUT, "%s: array \"%s\": %s", a->file, a->name, what);
}

/* ---- the header, a Python dict of three entries ------------------------------------------------
 */

static void skip_space(array *a) {
    while (a->text < a->end && isspace((unsigned char)*a->text)) a->text++;
}

static bool take(array *a, const char *word) {
    skip_space(a);
    size_t n = strlen(word);
    if ((size_t)(a->end - a->text) < n || strncmp(a->text, word, n) != 0) return false;
    a->text += n;
    return true;
}

static bool take_string(array *a, char *out, size_t room) {
    skip_space(a);
    if (a->text == a->end || (*a->text != '\'' && *a->text != '"')) return false;
    char quote = *a->text++;
    size_t n = 0;
    while (a->text < a->end && *a->text != quote && *a->text != '\\' && n + 1 < room)
        out[n++] = *a->text++;
    out[n] = '\0';
    return a->text < a->end && *a->text++ == quote;
}

static df_status take_type(array *a) {
    static const struct {
        const char *descr;
        int type;
    } known[] = {{"<f4", DF_F32}, {"<f8", DF_F64}, {"<f2", DF_F16}, {"<i4", DF_I32},
                 {"<i8", DF_I64}, {"<u4", DF_U32}, {"<u8", DF_U64}, {"|u1", DF_U8},
                 {"|b1", -1},     {"|i1", -1},     {"<i2", -1},     {"<u2", DF_U16}};
    char descr[16];
    if (!take_string(a, descr, sizeof descr)) return bad(a, "\"descr\" is no plain type");
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (strcmp(known[i].descr, descr) != 0) continue;
        a->type = known[i].type;
        a->element_bytes = (size_t)(descr[2] - '0');
        a->has_type = true;
        return DF_OK;
    }
    return df_fail(DF_BAD_INPUT,
                   "%s: array \"%s\": type \"%s\" is not known; expected little-endian numbers "
                   "(<f4, <f2, <f8, <i4, ...)",
                   a->file, a->name, descr);
}

static df_status take_shape(array *a) {
    size_t elements = 1;
    if (!take(a, "(")) return bad(a, "\"shape\" is no tuple");
    for (a->dims = 0; !take(a, ")"); a->dims++) {
        uint64_t extent = 0;
        skip_space(a);
        const char *start = a->text;
        for (; a->text < a->end && isdigit((unsigned char)*a->text); a->text++) {
            if (a->text - start > 18) return bad(a, "its shape overflows");
            extent = extent * 10 + (uint64_t)(*a->text - '0');
        }
        if (a->text == start) return bad(a, "an extent of its shape is no number from 0 on");
        if (df_mul(elements, extent, &elements) != DF_OK) return bad(a, "its shape overflows");
        if (a->dims < DF_MAX_DIMS) a->shape[a->dims] = extent;
        if (!take(a, ",") && (skip_space(a), a->text == a->end || *a->text != ')'))
            return bad(a, "\"shape\" is no tuple");
    }
    a->elements = elements;
    a->has_shape = true;
    return DF_OK;
}

static df_status take_entry(array *a) {
    char key[32];
    if (!take_string(a, key, sizeof key) || !take(a, ":"))
        return bad(a, "its header is no dict of descr, fortran_order and shape");
    if (strcmp(key, "descr") == 0) return take_type(a);
    if (strcmp(key, "shape") == 0) return take_shape(a);
    if (strcmp(key, "fortran_order") != 0) return bad(a, "its header has a key that is not known");
    a->has_order = true;
    a->fortran = take(a, "True");
    return a->fortran || take(a, "False") ? DF_OK : bad(a, "\"fortran_order\" is no truth value");
}

static df_status parse_header(array *a) {
    if (!take(a, "{")) return bad(a, "its header is no dict");
    while (!take(a, "}")) {
        DF_TRY(take_entry(a));
        if (!take(a, ",") && (skip_space(a), a->text == a->end || *a->text != '}'))
            return bad(a, "its header is no dict");
    }
    if (a->has_type && a->has_order && a->has_shape) return DF_OK;
    return bad(a, "its header lacks descr, fortran_order or shape");
}

/* ---- the array ---------------------------------------------------------------------------------
 */

// *data: behind the header.
static df_status open_array(array *a, const char *bytes, uint64_t n, const char **data) {
    if (n < 10 || memcmp(bytes, "\x93NUMPY", 6) != 0) return bad(a, "it is no .npy array");
    size_t field = bytes[6] == 1 ? 2 : 4;
    if (bytes[6] < 1 || bytes[6] > 3) return bad(a, "its .npy version is not 1, 2 or 3");
    if (n < 8 + field) return bad(a, "its header is cut off");
    uint64_t length = store_load(bytes + 8, field), before = 8 + field;
    if (length > MAX_HEADER || length > n - before) return bad(a, "its header is cut off");
    a->text = bytes + before;
    a->end = a->text + length;
    DF_TRY(parse_header(a));
    size_t need;
    if (df_mul(a->elements, a->element_bytes, &need) != DF_OK) return bad(a, "its shape overflows");
    *data = bytes + before + length;
    if (need == n - before - length) return DF_OK;
    return df_fail(DF_BAD_INPUT, "%s: array \"%s\": its shape takes %zu bytes, it has %llu",
                   a->file, a->name, need, (unsigned long long)(n - before - length));
}

// Column-major elements into C order.
static df_status reorder(const array *a, const char *data, void **owned) {
    char *out;
    uint64_t at[DF_MAX_DIMS] = {0};
    DF_TRY(DF_NEW(out, a->elements * a->element_bytes + 1));
    for (uint64_t i = 0; i < a->elements; i++) { // `at` counts with the first index fastest
        uint64_t to = 0;
        for (size_t d = 0; d < a->dims; d++) to = to * a->shape[d] + at[d];
        memcpy(out + to * a->element_bytes, data + i * a->element_bytes, a->element_bytes);
        for (size_t d = 0; d < a->dims && ++at[d] == a->shape[d]; d++) at[d] = 0;
    }
    df_free(*owned);
    *owned = out;
    return DF_OK;
}

static df_status keep(df_tensors *all, const array *a, const char *data, void **owned) {
    df_tensor tensor = {
        .type = (df_type)a->type, .dims = (int)a->dims, .data = data, .elements = a->elements};
    memcpy(tensor.shape, a->shape, sizeof tensor.shape);
    if (a->type < 0 || a->dims > DF_MAX_DIMS) {
        if (all->n_skipped++ > 0) return DF_OK;
        all->skipped = df_strdup(a->name);
        return all->skipped != NULL ? DF_OK : DF_FAILED;
    }
    if (a->fortran && a->dims > 1) {
        DF_TRY(reorder(a, data, owned));
        tensor.data = *owned;
    }
    if (*owned != NULL) {
        DF_TRY(df_grow((void **)&all->owned, &all->owned_capacity, all->n_owned + 1,
                       sizeof *all->owned));
        all->owned[all->n_owned++] = *owned;
        *owned = NULL;
    }
    return store_keep_tensor(all, a->name, tensor);
}

static df_status add_member(df_tensors *all, const char *file, const store_member *member) {
    const char *bytes = NULL, *data = NULL;
    void *owned = NULL;
    size_t n = member->name_bytes;
    bool npy = n > 4 && memcmp(member->name + n - 4, ".npy", 4) == 0;
    if (!npy || memchr(member->name, '\0', n) != NULL)
        return df_fail(DF_BAD_INPUT, "%s: member \"%.*s\" is no .npy array", file,
                       (int)(n < 80 ? n : 80), member->name);
    array a = {.file = file, .name = df_format("%.*s", (int)(n - 4), member->name)};
    if (a.name == NULL) return DF_FAILED;
    df_status status = store_zip_unpack(file, member, &bytes, &owned);
    if (status == DF_OK) status = open_array(&a, bytes, member->bytes, &data);
    if (status == DF_OK) status = keep(all, &a, data, &owned);
    df_free(owned);
    df_free(a.name);
    return status;
}

bool store_is_npy(const store_mapping *map) {
    return map->size >= 6 && memcmp(map->bytes, "\x93NUMPY", 6) == 0;
}

df_status store_npy_read(df_tensors *all, const char *file, const store_mapping *map) {
    const char *slash = strrchr(file, '/'), *name = slash != NULL ? slash + 1 : file, *data = NULL;
    size_t n = strlen(name);
    void *owned = NULL;
    bool suffix = n > 4 && strcmp(name + n - 4, ".npy") == 0;
    array a = {.file = file, .name = df_format("%.*s", (int)(suffix ? n - 4 : n), name)};
    if (a.name == NULL) return DF_FAILED;
    df_status status = open_array(&a, map->bytes, map->size, &data);
    if (status == DF_OK) status = keep(all, &a, data, &owned);
    df_free(owned);
    df_free(a.name);
    return status;
}

df_status store_npz_read(df_tensors *all, const char *file, const store_mapping *map) {
    store_member *members;
    size_t n;
    df_status status = DF_OK;
    DF_TRY(store_zip_members(file, map, &members, &n));
    for (size_t i = 0; i < n && status == DF_OK; i++) status = add_member(all, file, &members[i]);
    df_free(members);
    return status;
}
