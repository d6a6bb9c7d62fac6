/* Making the objects of a file: rank 0 alone, through HDF5's serial driver.
 *
 * Through the MPI driver a failure inside HDF5 on one rank leaves the others waiting in the
 * collective close, and on a full disk its collective metadata writes hang or report success. The
 * structure is small and the same whoever writes it, so one rank does, the others wait for its
 * status, and no failure of HDF5 can hang them. The rows, which are large, are then written by all
 * ranks in parallel. An empty file comes first and the planned bytes are reserved behind it, so
 * that a full disk is said here. */
#include "parts.h"

#include <stdlib.h>
#include <string.h>

#define METADATA_BASE                                                                              \
    ((uint64_t)256 << 10) /* generous: what is not needed is given back when HDF5 closes */
#define METADATA_EACH ((uint64_t)4 << 10)
#define ALIGNMENT 4096

/* ---- the plan ------------------------------------------------------------------------------- */

static uint64_t saturating(uint64_t a, uint64_t b) {
    return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

uint64_t store_planned_bytes(const df_file *file) {
    uint64_t bytes = METADATA_BASE + store_seal_bytes(file->n_datasets);
    for (size_t i = 0; i < file->n_datasets; i++) {
        const store_object *object = &file->datasets[i];
        if (!object->split) bytes = saturating(bytes, object->bytes);
        bytes = saturating(bytes, 8 * object->blocks + 2 * ALIGNMENT + 2 * METADATA_EACH);
    }
    for (size_t i = 0; i < file->n_attributes; i++)
        bytes = saturating(bytes, METADATA_EACH + 2 * file->attributes[i].room);
    return bytes;
}

static int by_path(const void *a, const void *b) {
    const store_object *const *x = a, *const *y = b;
    return strcmp((*x)->path, (*y)->path);
}

// Of the datasets, by path: what a resumed file must agree with.
df_status store_layout_hash(const store_object *datasets, size_t n, uint64_t *out) {
    uint64_t hash = 0;
    const store_object **sorted;
    DF_TRY(DF_NEW(sorted, n));
    for (size_t i = 0; i < n; i++) sorted[i] = &datasets[i];
    if (n > 0) qsort(sorted, n, sizeof *sorted, by_path);
    for (size_t i = 0; i < n; i++) {
        uint64_t facts[2 + DF_MAX_DIMS] = {sorted[i]->type, (uint64_t)sorted[i]->dims};
        for (int d = 0; d < sorted[i]->dims; d++) facts[2 + d] = sorted[i]->shape[d];
        hash = df_hash_more(hash, sorted[i]->path, strlen(sorted[i]->path));
        hash = df_hash_more(hash, facts, sizeof facts);
    }
    df_free(sorted);
    *out = hash;
    return DF_OK;
}

/* ---- property lists ------------------------------------------------------------------------- */

// Times would make every file differ.
static hid_t without_times(hid_t kind) {
    hid_t list = H5Pcreate(kind);
    if (list >= 0) H5Pset_obj_track_times(list, false);
    return list;
}

static hid_t open_aligned(const df_file *file) {
    hid_t id = -1, access = store_h5_access();
    if (access < 0) return access;
    if (H5Pset_alignment(access, 16 * ALIGNMENT, ALIGNMENT) >= 0)
        id = H5Fopen(file->part, H5F_ACC_RDWR, access);
    H5Pclose(access);
    return id;
}

// An empty HDF5 file, and the space of the whole one behind it.
static df_status make_empty(const df_file *file) {
    hid_t access = store_h5_access(), creation = without_times(H5P_FILE_CREATE);
    if (creation >= 0) H5Pset_userblock(creation, store_seal_bytes(file->n_datasets));
    hid_t id = H5Fcreate(file->part, H5F_ACC_TRUNC, creation, access);
    bool made = id >= 0 && H5Fclose(id) >= 0;
    const char *reason = store_h5_reason();
    if (access >= 0) H5Pclose(access);
    if (creation >= 0) H5Pclose(creation);
    if (!made) return df_fail(DF_FAILED, "cannot create %s: %s", file->part, reason);
    return store_reserve(file->descriptor, file->part, store_planned_bytes(file));
}

/* ---- objects -------------------------------------------------------------------------------- */

static df_status make_groups(hid_t file, const char *path) {
    char prefix[1024];
    hid_t creation = without_times(H5P_GROUP_CREATE);
    for (const char *slash = strchr(path + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
        snprintf(prefix, sizeof prefix, "%.*s", (int)(slash - path), path);
        if (H5Lexists(file, prefix, H5P_DEFAULT) > 0) continue;
        hid_t group = H5Gcreate2(file, prefix, H5P_DEFAULT, creation, H5P_DEFAULT);
        if (group >= 0) H5Gclose(group);
    }
    H5Pclose(creation);
    return DF_OK; // what could not be made shows when the object inside is
}

static df_status make_group(hid_t file, const char *path) {
    DF_TRY(make_groups(file, path));
    hid_t creation = without_times(H5P_GROUP_CREATE);
    hid_t group = H5Gcreate2(file, path, H5P_DEFAULT, creation, H5P_DEFAULT);
    const char *reason = store_h5_reason();
    if (creation >= 0) H5Pclose(creation);
    if (group < 0) return df_fail(DF_FAILED, "cannot create group %s: %s", path, reason);
    H5Gclose(group);
    return DF_OK;
}

static hid_t dataset_properties(void) {
    hid_t list = without_times(H5P_DATASET_CREATE);
    if (list >= 0) {
        H5Pset_layout(list, H5D_CONTIGUOUS);
        H5Pset_alloc_time(list, H5D_ALLOC_TIME_EARLY);
        H5Pset_fill_time(list, H5D_FILL_TIME_NEVER);
    }
    return list;
}

static df_status make_dataset(hid_t file, const char *path, const store_object *object,
                              const store_split *split) {
    DF_TRY(make_groups(file, path));
    hsize_t shape[DF_MAX_DIMS];
    for (int d = 0; d < object->dims; d++) shape[d] = object->shape[d];
    hid_t type = store_h5_type(object->type);
    hid_t properties = object->split ? store_split_properties(split, object) : dataset_properties();
    hid_t space = H5Screate_simple(object->dims, shape, NULL);
    hid_t dataset = H5Dcreate2(file, path, type, space, H5P_DEFAULT, properties, H5P_DEFAULT);
    const char *reason = store_h5_reason();
    if (type >= 0) H5Tclose(type);
    if (properties >= 0) H5Pclose(properties);
    if (space >= 0) H5Sclose(space);
    if (dataset < 0) return df_fail(DF_FAILED, "cannot create dataset %s: %s", path, reason);
    H5Dclose(dataset);
    return DF_OK;
}

// Checksums mirror the tree: those of /sites/x stand in /checksums/sites/x.
static df_status make_checksums(hid_t file, const store_object *object) {
    store_object mirror = {.type = DF_U64, .dims = 1, .shape = {object->blocks}};
    char path[1024];
    snprintf(path, sizeof path, "%s%s", STORE_CHECKSUMS, object->path);
    return make_dataset(file, path, &mirror, NULL);
}

static df_status put_attribute(hid_t object, const store_declaration *what) {
    switch (what->kind) {
    case STORE_TEXT:
        return store_h5_text(object, what->name, what->text, what->room);
    case STORE_INT:
        return store_h5_int(object, what->name, what->integer);
    default:
        return store_h5_real(object, what->name, what->real);
    }
}

// A group that holds attributes alone is made by its first one.
static df_status make_attribute(hid_t file, const store_declaration *what) {
    hid_t object = H5Oopen(file, what->where, H5P_DEFAULT);
    if (object < 0) {
        DF_TRY(make_group(file, what->where));
        object = H5Oopen(file, what->where, H5P_DEFAULT);
    }
    if (object < 0) return df_fail(DF_FAILED, "cannot open %s: %s", what->where, store_h5_reason());
    df_status status = put_attribute(object, what);
    H5Oclose(object);
    return status;
}

static df_status make_facts(hid_t file, const df_file *declared) {
    DF_TRY(store_h5_int(file, "complete", 0));
    return store_h5_int(file, "layout", (int64_t)declared->layout);
}

static df_status make_ids(hid_t file, const df_file *declared) {
    for (size_t i = 0; i < declared->n_datasets; i++) {
        const char *path = declared->datasets[i].path;
        hid_t dataset = H5Dopen2(file, path, H5P_DEFAULT);
        if (dataset < 0) return df_fail(DF_FAILED, "cannot open %s: %s", path, store_h5_reason());
        df_status status = store_h5_int(dataset, "id", (int64_t)i);
        H5Dclose(dataset);
        DF_TRY(status);
    }
    return DF_OK;
}

static df_status make_everything(hid_t file, const df_file *declared) {
    DF_TRY(make_facts(file, declared));
    for (size_t i = 0; i < declared->n_datasets; i++)
        DF_TRY(make_dataset(file, declared->datasets[i].path, &declared->datasets[i],
                            &declared->split));
    for (size_t i = 0; i < declared->n_datasets; i++)
        DF_TRY(make_checksums(file, &declared->datasets[i]));
    DF_TRY(make_ids(file, declared));
    for (size_t i = 0; i < declared->n_attributes; i++)
        DF_TRY(make_attribute(file, &declared->attributes[i]));
    return DF_OK;
}

static df_status create_objects(const df_file *file) {
    DF_TRY(make_empty(file));
    hid_t id = open_aligned(file);
    if (id < 0) return df_fail(DF_FAILED, "cannot open %s: %s", file->part, store_h5_reason());
    df_status status = make_everything(id, file);
    if (H5Fclose(id) < 0 && status == DF_OK)
        status = df_fail(DF_FAILED, "cannot write the structure of %s: %s", file->part,
                         store_h5_reason());
    return status;
}

df_status store_create_objects(df_file *file) {
    store_h5_quiet();
    df_status status = store_layout_hash(file->datasets, file->n_datasets, &file->layout);
    if (status == DF_OK && df_comm_rank(file->comm) == 0) status = create_objects(file);
    return df_agree(file->comm, status);
}
