/* safetensors: one mapped file, or several behind an index. The format: u64 length of the header,
 * the header (JSON: name
 * -> {dtype, shape, data_offsets}), the bytes. Everything in a header is checked before a tensor is
 * handed out. */
#include "tensors.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define MAX_HEADER ((uint64_t)100 << 20) /* what the reference implementation allows */

/* ---- one entry ------------------------------------------------------------------------------ */

typedef struct entry { /* one tensor of a shard, as its header says */
    const char *file, *name, *dtype;
    uint64_t begin, end; /* bytes behind the header */
} entry;

static const struct {
    const char *name;
    int bytes, type; /* type < 0: valid, but nothing here reads it */
} dtypes[] = {
    {"BF16", 2, DF_BF16}, {"F16", 2, DF_F16}, {"F32", 4, DF_F32}, {"F64", 8, DF_F64},
    {"U8", 1, DF_U8},     {"U32", 4, DF_U32}, {"U64", 8, DF_U64}, {"I64", 8, DF_I64},
    {"BOOL", 1, -1},      {"I8", 1, -1},      {"I16", 2, -1},     {"U16", 2, DF_U16},
    {"I32", 4, DF_I32},   {"F8_E4M3", 1, -1}, {"F8_E5M2", 1, -1},
};

static df_status bad(const entry *e, const char *what) {
    return df_fail(DF_BAD_INPUT, "%s: tensor \"%s\": %s", e->file, e->name, what);
}

static df_status parse_dtype(const entry *e, const json_t *value, size_t *bytes, int *type) {
    const char *name = json_string_value(value);
    if (name == NULL) return bad(e, "expected a string \"dtype\"");
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++) {
        if (strcmp(dtypes[i].name, name) != 0) continue;
        *bytes = (size_t)dtypes[i].bytes;
        *type = dtypes[i].type;
        return DF_OK;
    }
    return df_fail(DF_BAD_INPUT,
                   "%s: tensor \"%s\": dtype \"%s\" is not known; expected F32, BF16, F16, "
                   "...",
                   e->file, e->name, name);
}

// Extents past DF_MAX_DIMS count for the size; *dims says how many there are.
static df_status parse_shape(const entry *e, const json_t *shape, df_tensor *out, size_t *dims) {
    size_t elements = 1;
    if (!json_is_array(shape)) return bad(e, "expected an array \"shape\"");
    *dims = json_array_size(shape);
    for (size_t d = 0; d < *dims; d++) {
        const json_t *extent = json_array_get(shape, d);
        if (!json_is_integer(extent) || json_integer_value(extent) < 0)
            return bad(e, "an extent of its shape is no number from 0 on");
        uint64_t n = (uint64_t)json_integer_value(extent);
        if (df_mul(elements, n, &elements) != DF_OK) return bad(e, "its shape overflows");
        if (d < DF_MAX_DIMS) out->shape[d] = n;
    }
    out->dims = (int)(*dims < DF_MAX_DIMS ? *dims : DF_MAX_DIMS);
    out->elements = elements;
    return DF_OK;
}

static df_status parse_offsets(entry *e, const json_t *offsets, uint64_t data_bytes) {
    const json_t *first = json_array_get(offsets, 0), *last = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(first) || !json_is_integer(last) ||
        json_integer_value(first) < 0 || json_integer_value(last) < json_integer_value(first))
        return bad(e, "\"data_offsets\" are not [begin, end]");
    e->begin = (uint64_t)json_integer_value(first);
    e->end = (uint64_t)json_integer_value(last);
    if (e->end <= data_bytes) return DF_OK;
    return df_fail(DF_BAD_INPUT,
                   "%s: tensor \"%s\" ends at byte %llu of %llu: the file is truncated or "
                   "damaged",
                   e->file, e->name, (unsigned long long)e->end, (unsigned long long)data_bytes);
}

static df_status check_size(const entry *e, uint64_t elements, size_t element_bytes) {
    size_t bytes;
    if (df_mul(elements, element_bytes, &bytes) != DF_OK) return bad(e, "its shape overflows");
    if (bytes == e->end - e->begin) return DF_OK;
    return df_fail(DF_BAD_INPUT,
                   "%s: tensor \"%s\": its shape takes %zu bytes, its data_offsets hold %llu",
                   e->file, e->name, bytes, (unsigned long long)(e->end - e->begin));
}

df_status store_keep_tensor(df_tensors *all, const char *name, df_tensor tensor) {
    DF_TRY(df_grow((void **)&all->tensors, &all->capacity, all->n + 1, sizeof *all->tensors));
    tensor.name = df_strdup(name);
    if (tensor.name == NULL) return DF_FAILED;
    all->tensors[all->n++] = tensor;
    return DF_OK;
}

static df_status add_tensor(df_tensors *all, entry *e, const json_t *value, const char *data,
                            uint64_t data_bytes) {
    df_tensor tensor = {0};
    size_t element_bytes = 0, dims = 0;
    int type = -1;
    if (!json_is_object(value)) return bad(e, "expected an object");
    DF_TRY(parse_dtype(e, json_object_get(value, "dtype"), &element_bytes, &type));
    DF_TRY(parse_shape(e, json_object_get(value, "shape"), &tensor, &dims));
    DF_TRY(parse_offsets(e, json_object_get(value, "data_offsets"), data_bytes));
    DF_TRY(check_size(e, tensor.elements, element_bytes));
    if (type >= 0 && dims <= DF_MAX_DIMS) {
        tensor.type = (df_type)type;
        tensor.data = data + e->begin;
        return store_keep_tensor(all, e->name, tensor);
    }
    if (all->n_skipped++ > 0) return DF_OK;
    all->skipped = df_strdup(e->name);
    return all->skipped != NULL ? DF_OK : DF_FAILED;
}

/* ---- one shard ------------------------------------------------------------------------------ */

static int by_begin(const void *a, const void *b) {
    const entry *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return (x->end > y->end) - (x->end < y->end);
}

// The tensors tile the bytes: no overlap (one would be another's alias), no hole, nothing behind
// the last.
static df_status check_tiling(entry *entries, size_t n, const char *file, uint64_t data_bytes) {
    uint64_t at = 0;
    if (n > 0) qsort(entries, n, sizeof *entries, by_begin);
    for (size_t i = 0; i < n; at = entries[i++].end) {
        if (entries[i].begin < at) return bad(&entries[i], "its bytes overlap another tensor's");
        if (entries[i].begin > at) return bad(&entries[i], "there is a hole before its bytes");
    }
    if (at == data_bytes) return DF_OK;
    return df_fail(DF_BAD_INPUT, "%s: %llu bytes of data, of which tensors use %llu", file,
                   (unsigned long long)data_bytes, (unsigned long long)at);
}

static df_status add_header(df_tensors *all, const char *file, json_t *header, const char *data,
                            uint64_t data_bytes) {
    const char *name;
    json_t *value;
    entry *entries;
    size_t n = 0;
    df_status status = DF_OK;
    if (!json_is_object(header))
        return df_fail(DF_BAD_INPUT, "%s: expected an object as header", file);
    DF_TRY(DF_NEW(entries, json_object_size(header)));
    json_object_foreach(header, name, value) {
        if (strcmp(name, "__metadata__") == 0) continue;
        entries[n] = (entry){.file = file, .name = name};
        DF_GO(add_tensor(all, &entries[n], value, data, data_bytes));
        n++;
    }
    DF_GO(check_tiling(entries, n, file, data_bytes));
done:
    df_free(entries);
    return status;
}

static df_status read_header(df_tensors *all, const char *file, const store_mapping *map) {
    uint64_t length = 0;
    for (int i = 7; i >= 0 && map->size >= 8; i--)
        length = length << 8 | (unsigned char)map->bytes[i];
    if (map->size < 8 || length > map->size - 8 || length > MAX_HEADER)
        return df_fail(
            DF_BAD_INPUT,
            "%s: expected safetensors, found %zu bytes whose first eight name a header of %llu: "
            "truncated, or another format",
            file, map->size, (unsigned long long)length);
    json_t *header;
    char *what = df_format("the header of %s", file);
    if (what == NULL) return DF_FAILED;
    df_status status = df_json_parse(map->bytes + 8, length, what, &header);
    df_free(what);
    DF_TRY(status);
    status = add_header(all, file, header, map->bytes + 8 + length, map->size - 8 - length);
    json_decref(header);
    return status;
}

static df_status add_shard(df_tensors *all, const char *file) {
    DF_TRY(df_grow((void **)&all->shards, &all->shard_capacity, all->n_shards + 1,
                   sizeof *all->shards));
    store_mapping *map = &all->shards[all->n_shards];
    DF_TRY(store_map(file, map));
    all->n_shards++;
    if (store_is_zip(map)) return store_npz_read(all, file, map);
    return store_is_npy(map) ? store_npy_read(all, file, map) : read_header(all, file, map);
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const df_tensor *)a)->name, ((const df_tensor *)b)->name);
}

static df_status sort_tensors(df_tensors *all, const char *path) {
    if (all->n > 0) qsort(all->tensors, all->n, sizeof *all->tensors, by_name);
    for (size_t i = 1; i < all->n; i++)
        if (strcmp(all->tensors[i - 1].name, all->tensors[i].name) == 0)
            return df_fail(DF_BAD_INPUT, "%s: tensor \"%s\" stands there twice", path,
                           all->tensors[i].name);
    return DF_OK;
}

/* ---- shards --------------------------------------------------------------------------------- */

// A shard lies beside its index: a path that leads elsewhere is refused.
static df_status shard_path(const char *index, const char *shard, char **out) {
    const char *slash = strrchr(index, '/');
    *out = NULL;
    if (shard == NULL || shard[0] == '\0' || strchr(shard, '/') != NULL || strcmp(shard, "..") == 0)
        return df_fail(DF_BAD_INPUT,
                       "%s: \"weight_map\" names \"%s\", expected the name of a file beside it",
                       index, shard != NULL ? shard : "something that is no text");
    *out = df_format("%.*s%s", slash != NULL ? (int)(slash - index + 1) : 0, index, shard);
    return *out != NULL ? DF_OK : DF_FAILED;
}

static df_status add_mapped_shards(df_tensors *all, const char *index, json_t *map) {
    const char *name;
    json_t *shard;
    df_status status = DF_OK;
    json_t *seen = json_object();
    if (seen == NULL) return df_fail(DF_FAILED, "out of memory for %s", index);
    json_object_foreach(map, name, shard) {
        char *path;
        const char *file = json_string_value(shard);
        DF_GO(shard_path(index, file, &path));
        if (json_object_get(seen, file) == NULL) status = add_shard(all, path);
        df_free(path);
        if (status == DF_OK && json_object_set_new(seen, file, json_true()) != 0)
            status = df_fail(DF_FAILED, "out of memory for %s", index);
        if (status != DF_OK) goto done;
    }
done:
    json_decref(seen);
    return status;
}

static df_status check_promises(const df_tensors *all, const char *index, json_t *map) {
    const char *name;
    json_t *shard;
    json_object_foreach(map, name, shard) if (
        all->n_skipped == 0 &&
        df_tensors_find(all, name) ==
            NULL) return df_fail(DF_BAD_INPUT,
                                 "%s promises tensor \"%s\" in %s, which does not hold it", index,
                                 name, json_string_value(shard));
    return DF_OK;
}

static df_status open_index(df_tensors *all, const char *index) {
    char *text;
    size_t bytes;
    json_t *root = NULL;
    DF_TRY(df_read_file(index, &text, &bytes));
    df_status status = df_json_parse(text, bytes, index, &root);
    df_free(text);
    DF_TRY(status);
    json_t *map = json_object_get(root, "weight_map");
    if (!json_is_object(map) || json_object_size(map) == 0)
        DF_GO(df_fail(DF_BAD_INPUT, "%s: expected an object \"weight_map\" with tensors", index));
    DF_GO(add_mapped_shards(all, index, map));
    DF_GO(sort_tensors(all, index));
    DF_GO(check_promises(all, index, map));
done:
    json_decref(root);
    return status;
}

static df_status open_single(df_tensors *all, const char *file) {
    DF_TRY(add_shard(all, file));
    return sort_tensors(all, file);
}

static df_status open_folder(df_tensors *all, const char *folder) {
    char *index = df_format("%s/model.safetensors.index.json", folder);
    char *single = df_format("%s/model.safetensors", folder);
    df_status status = index != NULL && single != NULL ? DF_OK : DF_FAILED;
    if (status == DF_OK && df_file_exists(index))
        status = open_index(all, index);
    else if (status == DF_OK && df_file_exists(single))
        status = open_single(all, single);
    else if (status == DF_OK)
        status = df_fail(DF_BAD_INPUT,
                         "%s: expected model.safetensors or model.safetensors.index.json in "
                         "this folder, found neither",
                         folder);
    df_free(index);
    df_free(single);
    return status;
}

static df_status open_any(df_tensors *all, const char *path) {
    struct stat facts;
    size_t n = strlen(path);
    if (stat(path, &facts) == 0 && S_ISDIR(facts.st_mode)) return open_folder(all, path);
    if (n > 5 && strcmp(path + n - 5, ".json") == 0) return open_index(all, path);
    return open_single(all, path);
}

df_status df_tensors_open(const char *path, df_tensors **out) {
    df_tensors *all;
    *out = NULL;
    DF_TRY(DF_NEW(all, 1));
    df_status status = open_any(all, path);
    if (status == DF_OK && all->n_skipped > 0)
        df_warn(
            "%s: %zu tensors are of a type or rank that darkfield does not read and are left out "
            "(\"%s\"%s)",
            path, all->n_skipped, all->skipped, all->n_skipped > 1 ? ", ..." : "");
    if (status == DF_OK)
        *out = all;
    else
        df_tensors_close(&all);
    return status;
}

void df_tensors_close(df_tensors **tensors) {
    df_tensors *all = *tensors;
    *tensors = NULL;
    if (all == NULL) return;
    for (size_t i = 0; i < all->n; i++) df_free((void *)all->tensors[i].name);
    for (size_t i = 0; i < all->n_owned; i++) df_free(all->owned[i]);
    for (size_t i = 0; i < all->n_shards; i++) store_unmap(&all->shards[i]);
    df_free(all->owned);
    df_free(all->tensors);
    df_free(all->shards);
    df_free(all->skipped);
    df_free(all);
}

size_t df_tensors_count(const df_tensors *tensors) {
    return tensors->n;
}

const df_tensor *df_tensors_at(const df_tensors *tensors, size_t i) {
    return &tensors->tensors[i];
}

const df_tensor *df_tensors_find(const df_tensors *tensors, const char *name) {
    df_tensor key = {.name = name};
    if (tensors->n == 0) return NULL;
    return bsearch(&key, tensors->tensors, tensors->n, sizeof *tensors->tensors, by_name);
}
