/* The table of objects of one file, read through HDF5 once and checked against the file's size. */
#include "parts.h"

#include <stdlib.h>
#include <string.h>

#define MAX_DEPTH 16
#define MAX_OBJECTS 1000000

uint64_t store_block_rows(uint64_t row_bytes) {
    if (row_bytes == 0 || row_bytes >= STORE_BLOCK_BYTES) return 1;
    return STORE_BLOCK_BYTES / row_bytes;
}

df_status store_measure(store_object *object) {
    size_t row = df_type_bytes(object->type), bytes;
    for (int d = 1; d < object->dims; d++)
        DF_TRY_AS(df_mul(row, object->shape[d], &row), "measuring %s", object->path);
    DF_TRY_AS(df_mul(row, object->shape[0], &bytes), "measuring %s", object->path);
    object->row_bytes = row;
    object->bytes = bytes;
    object->block_rows = store_block_rows(row);
    object->blocks = 0;
    if (bytes > 0) object->blocks = (object->shape[0] - 1 + object->shift) / object->block_rows + 1;
    return DF_OK;
}

bool store_under(const char *path, const char *group) {
    size_t n = strlen(group);
    return strncmp(path, group, n) == 0 && (path[n] == '\0' || path[n] == '/');
}

/* ---- one object ----------------------------------------------------------------------------- */

typedef struct walk {
    store_table *table;
    uint64_t size;
} walk;

static df_status read_shape(hid_t dataset, store_object *object) {
    hid_t space = H5Dget_space(dataset);
    int dims = space < 0 ? -1 : H5Sget_simple_extent_ndims(space);
    hsize_t shape[H5S_MAX_RANK];
    if (dims >= 1 && dims <= DF_MAX_DIMS) dims = H5Sget_simple_extent_dims(space, shape, NULL);
    if (space >= 0) H5Sclose(space);
    if (dims < 1 || dims > DF_MAX_DIMS)
        return df_fail(DF_BAD_INPUT, "dataset %s: expected 1 to %d dimensions, found %d",
                       object->path, DF_MAX_DIMS, dims);
    object->dims = dims;
    for (int d = 0; d < dims; d++) object->shape[d] = shape[d];
    if (store_measure(object) == DF_OK) return DF_OK;
    return df_fail(DF_BAD_INPUT, "dataset %s: its extents overflow", object->path);
}

static df_status read_type(hid_t dataset, store_object *object) {
    hid_t type = H5Dget_type(dataset);
    bool known = type >= 0 && store_h5_type_of(type, &object->type);
    if (type >= 0) H5Tclose(type);
    if (known) return DF_OK;
    return df_fail(DF_BAD_INPUT, "dataset %s: its element type is none of ours", object->path);
}

static df_status read_place(const walk *to, hid_t dataset, store_object *object) {
    hid_t plist = H5Dget_create_plist(dataset);
    bool plain =
        plist >= 0 && H5Pget_layout(plist) == H5D_CONTIGUOUS && H5Pget_external_count(plist) == 0;
    df_status status = DF_OK;
    object->split = plist >= 0 && H5Pget_layout(plist) == H5D_VIRTUAL;
    if (object->split) status = store_split_read(plist, object, &to->table->split);
    if (plist >= 0) H5Pclose(plist);
    if (object->split) return status;
    if (!plain) return df_fail(DF_BAD_INPUT, "dataset %s is not contiguous", object->path);
    if (object->bytes == 0) return DF_OK;
    haddr_t offset = H5Dget_offset(dataset);
    if (offset == HADDR_UNDEF || offset > to->size || object->bytes > to->size - offset)
        return df_fail(DF_BAD_INPUT,
                       "dataset %s: its %llu bytes reach past the end of the file (truncated?)",
                       object->path, (unsigned long long)object->bytes);
    object->offset = offset;
    return DF_OK;
}

static df_status read_dataset(const walk *to, hid_t dataset, store_object *object) {
    object->is_dataset = true;
    DF_TRY(read_type(dataset, object));
    DF_TRY(read_shape(dataset, object));
    return read_place(to, dataset, object);
}

/* ---- walking the tree ----------------------------------------------------------------------- */

static df_status walk_group(const walk *to, hid_t group, const char *path, int depth);

// Of a part: the blocks of its datasets are those of the whole.
static df_status apply_shift(store_object *object) {
    const store_attribute *shift = store_find_attribute(object, "block_shift");
    if (!object->is_dataset || shift == NULL) return DF_OK;
    if (shift->kind != STORE_INT || shift->integer < 0 ||
        (uint64_t)shift->integer >= object->block_rows)
        return df_fail(DF_BAD_INPUT, "dataset %s: its block_shift is out of range", object->path);
    object->shift = (uint64_t)shift->integer;
    return store_measure(object);
}

static df_status add_object(const walk *to, hid_t id, const char *path, int depth) {
    store_table *table = to->table;
    if (table->n >= MAX_OBJECTS) return df_fail(DF_BAD_INPUT, "too many objects");
    DF_TRY(
        df_grow((void **)&table->objects, &table->capacity, table->n + 1, sizeof *table->objects));
    store_object *object = &table->objects[table->n];
    memset(object, 0, sizeof *object);
    table->n++;
    object->path = df_strdup(path);
    if (object->path == NULL) return DF_FAILED;
    H5I_type_t type = H5Iget_type(id);
    if (type == H5I_DATASET)
        DF_TRY(read_dataset(to, id, object));
    else if (type != H5I_GROUP)
        return df_fail(DF_BAD_INPUT, "%s is neither a group nor a dataset", path);
    DF_TRY(store_h5_attributes(id, object));
    DF_TRY(apply_shift(object));
    if (type == H5I_GROUP)
        return walk_group(to, id, path, depth); // `object` may move: last use above
    return DF_OK;
}

static df_status add_child(const walk *to, hid_t group, const char *path, hsize_t i, int depth) {
    char name[1024];
    ssize_t length = H5Lget_name_by_idx(group, ".", H5_INDEX_NAME, H5_ITER_INC, i, name,
                                        sizeof name, H5P_DEFAULT);
    H5L_info_t info;
    if (length <= 0 || (size_t)length >= sizeof name ||
        H5Lget_info(group, name, &info, H5P_DEFAULT) < 0)
        return df_fail(DF_BAD_INPUT, "cannot read the entries of group %s: %s", path,
                       store_h5_reason());
    if (info.type != H5L_TYPE_HARD) // a link out of the file must not be followed
        return df_fail(DF_BAD_INPUT, "%s/%s is a soft or external link", path, name);
    hid_t id = H5Oopen(group, name, H5P_DEFAULT);
    if (id < 0)
        return df_fail(DF_BAD_INPUT, "cannot open %s/%s: %s", path, name, store_h5_reason());
    char *full = df_format("%s/%s", strcmp(path, "/") == 0 ? "" : path, name);
    df_status status = full == NULL ? DF_FAILED : add_object(to, id, full, depth);
    df_free(full);
    H5Oclose(id);
    return status;
}

static df_status walk_group(const walk *to, hid_t group, const char *path, int depth) {
    H5G_info_t info;
    if (depth >= MAX_DEPTH) return df_fail(DF_BAD_INPUT, "groups nest too deep at %s", path);
    if (H5Gget_info(group, &info) < 0)
        return df_fail(DF_BAD_INPUT, "cannot read group %s: %s", path, store_h5_reason());
    for (hsize_t i = 0; i < info.nlinks; i++) DF_TRY(add_child(to, group, path, i, depth + 1));
    return DF_OK;
}

static int by_path(const void *a, const void *b) {
    return strcmp(((const store_object *)a)->path, ((const store_object *)b)->path);
}

static df_status read_tree(hid_t file, const walk *to) {
    hid_t root = H5Gopen2(file, "/", H5P_DEFAULT);
    if (root < 0) return df_fail(DF_BAD_INPUT, "no root group: %s", store_h5_reason());
    df_status status = add_object(to, root, "/", 0);
    H5Gclose(root);
    if (status == DF_OK)
        qsort(to->table->objects, to->table->n, sizeof *to->table->objects, by_path);
    return status;
}

df_status store_table_read(const char *path, uint64_t size, store_table *table) {
    store_h5_quiet();
    memset(table, 0, sizeof *table);
    walk to = {.table = table, .size = size};
    hid_t access = store_h5_access();
    hid_t file = access < 0 ? -1 : H5Fopen(path, H5F_ACC_RDONLY, access);
    const char *reason = store_h5_reason();
    if (access >= 0) H5Pclose(access);
    if (file < 0)
        return df_fail(DF_BAD_INPUT,
                       "%s: not a readable HDF5 file: %s; it is damaged, truncated or "
                       "of another kind",
                       path, reason);
    df_status status = read_tree(file, &to);
    if (status != DF_OK) df_context("reading the structure of %s", path);
    H5Fclose(file);
    if (status != DF_OK) store_table_free(table);
    return status;
}

static void free_object(store_object *object) {
    for (size_t i = 0; i < object->n_attributes; i++) {
        df_free(object->attributes[i].name);
        df_free(object->attributes[i].text);
    }
    df_free(object->attributes);
    df_free(object->checksum);
    df_free((void *)object->sound);
    df_free(object->path);
}

void store_table_free(store_table *table) {
    for (size_t i = 0; i < table->n; i++) free_object(&table->objects[i]);
    df_free(table->objects);
    store_split_free(&table->split);
    memset(table, 0, sizeof *table);
}

store_object *store_table_find(const store_table *table, const char *path) {
    store_object key = {.path = (char *)(path[0] == '\0' ? "/" : path)};
    if (table->n == 0) return NULL;
    return bsearch(&key, table->objects, table->n, sizeof *table->objects, by_path);
}

const store_attribute *store_find_attribute(const store_object *object, const char *name) {
    for (size_t i = 0; i < object->n_attributes; i++)
        if (strcmp(object->attributes[i].name, name) == 0) return &object->attributes[i];
    return NULL;
}
