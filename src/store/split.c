/* Files in parts: how the whole file says which rows stand where, and checksum blocks over a cut.
 */
#include "parts.h"

#include <string.h>

void store_split_free(store_split *split) {
    for (size_t p = 0; split->name != NULL && p < split->parts; p++) df_free(split->name[p]);
    df_free(split->name);
    df_free(split->cut);
    *split = (store_split){0};
}

char *store_split_path(const char *whole, const char *name) {
    const char *slash = strrchr(whole, '/');
    return df_format("%.*s%s", slash != NULL ? (int)(slash - whole + 1) : 0, whole, name);
}

/* ---- virtual datasets ----------------------------------------------------------------------- */

// A dataspace of this shape, the rows [first, first + count) of it selected.
static hid_t select_rows(const store_object *object, uint64_t rows, uint64_t first,
                         uint64_t count) {
    hsize_t shape[DF_MAX_DIMS], start[DF_MAX_DIMS] = {first}, extent[DF_MAX_DIMS];
    for (int d = 0; d < object->dims; d++) shape[d] = extent[d] = object->shape[d];
    shape[0] = rows;
    extent[0] = count;
    hid_t space = H5Screate_simple(object->dims, shape, NULL);
    if (space >= 0) H5Sselect_hyperslab(space, H5S_SELECT_SET, start, NULL, extent, NULL);
    return space;
}

hid_t store_split_properties(const store_split *split, const store_object *object) {
    hid_t list = H5Pcreate(H5P_DATASET_CREATE);
    if (list >= 0) H5Pset_obj_track_times(list, false);
    for (size_t p = 0; p < split->parts && list >= 0; p++) {
        uint64_t first = split->cut[p], rows = split->cut[p + 1] - first;
        hid_t here = select_rows(object, object->shape[0], first, rows);
        hid_t there = select_rows(object, rows, 0, rows);
        herr_t done = H5Pset_virtual(list, here, split->name[p], object->path, there);
        if (here >= 0) H5Sclose(here);
        if (there >= 0) H5Sclose(there);
        if (done >= 0) continue;
        H5Pclose(list);
        list = -1;
    }
    return list;
}

static df_status odd_mapping(const store_object *object, size_t p) {
    return df_fail(DF_BAD_INPUT,
                   "dataset %s: part %zu does not follow the one before, or is no file of ours",
                   object->path, p);
}

// Rows [*first, *end) of whole rows, from the dataset of the same path in a file beside this one.
static df_status read_mapping(hid_t properties, size_t p, const store_object *object,
                              char name[static 1024], uint64_t bounds[2]) {
    char inner[1024];
    hsize_t low[H5S_MAX_RANK] = {0}, high[H5S_MAX_RANK] = {0};
    hid_t space = H5Pget_virtual_vspace(properties, p);
    ssize_t n = H5Pget_virtual_filename(properties, p, name, 1024);
    ssize_t m = H5Pget_virtual_dsetname(properties, p, inner, sizeof inner);
    bool good = space >= 0 && n > 0 && n < 1024 && m > 0 && (size_t)m < sizeof inner &&
                H5Sget_simple_extent_ndims(space) == object->dims &&
                H5Sget_select_bounds(space, low, high) >= 0 && strchr(name, '/') == NULL &&
                strcmp(inner, object->path) == 0;
    if (space >= 0) H5Sclose(space);
    for (int d = 1; d < object->dims && good; d++)
        good = low[d] == 0 && high[d] + 1 == object->shape[d];
    if (!good) return odd_mapping(object, p);
    bounds[0] = low[0];
    bounds[1] = high[0] + 1;
    return DF_OK;
}

static df_status learn(hid_t properties, const store_object *object, store_split *split, size_t n) {
    char name[1024];
    uint64_t bounds[2] = {0, 0};
    DF_TRY(DF_NEW(split->name, n));
    split->parts = n;
    DF_TRY(DF_NEW(split->cut, n + 1));
    for (size_t p = 0; p < n; p++) {
        DF_TRY(read_mapping(properties, p, object, name, bounds));
        if (bounds[0] != split->cut[p] || bounds[1] > object->shape[0])
            return odd_mapping(object, p);
        split->cut[p + 1] = bounds[1];
        split->name[p] = df_strdup(name);
        if (split->name[p] == NULL) return DF_FAILED;
    }
    return split->cut[n] == object->shape[0] ? DF_OK : odd_mapping(object, n);
}

static df_status compare(hid_t properties, const store_object *object, const store_split *split) {
    char name[1024];
    uint64_t bounds[2] = {0, 0};
    for (size_t p = 0; p < split->parts; p++) {
        DF_TRY(read_mapping(properties, p, object, name, bounds));
        if (bounds[0] != split->cut[p] || bounds[1] != split->cut[p + 1] ||
            strcmp(name, split->name[p]) != 0)
            return odd_mapping(object, p);
    }
    return split->cut[split->parts] == object->shape[0] ? DF_OK : odd_mapping(object, 0);
}

df_status store_split_read(hid_t properties, const store_object *object, store_split *split) {
    size_t n = 0;
    if (H5Pget_virtual_count(properties, &n) < 0 || n == 0 || object->bytes == 0 ||
        (split->parts > 0 && n != split->parts))
        return odd_mapping(object, n);
    return split->parts == 0 ? learn(properties, object, split, n)
                             : compare(properties, object, split);
}

/* ---- blocks over a cut ---------------------------------------------------------------------- */

// Blocks of a part are those of the whole, so its checksum is the whole's where it has all rows.
static df_status stored_hash(const store_part *part, const store_object *whole, size_t block,
                             uint64_t *out) {
    char *path = df_format("%s%s", STORE_CHECKSUMS, whole->path);
    if (path == NULL) return DF_FAILED;
    const store_object *sums = store_table_find(part->table, path);
    df_free(path);
    if (sums == NULL || block >= sums->shape[0])
        return df_fail(DF_BAD_INPUT, "%s: the checksums of %s are missing or of another shape",
                       part->path, whole->path);
    return store_pread(part->descriptor, part->path, out, sizeof *out,
                       sums->offset + block * sizeof *out);
}

static df_status read_piece(const store_part *part, const store_object *whole, df_range rows,
                            void *out) {
    const store_object *piece = store_table_find(part->table, whole->path);
    if (piece == NULL || piece->row_bytes != whole->row_bytes)
        return df_fail(DF_BAD_INPUT, "%s: %s is missing or of another shape", part->path,
                       whole->path);
    return store_pread(part->descriptor, part->path, out, rows.count * piece->row_bytes,
                       piece->offset + rows.first * piece->row_bytes);
}

df_status store_split_hash(const store_split *split, const store_part *part,
                           const store_object *whole, size_t block, void *scratch, uint64_t *out) {
    uint64_t first = store_block_first(whole, block), bytes = store_block_bytes(whole, block);
    uint64_t end = first + bytes / whole->row_bytes;
    size_t p = df_run_holding(split->cut, split->parts, first);
    if (end <= split->cut[p + 1])
        return stored_hash(&part[p], whole, block - split->cut[p] / whole->block_rows, out);
    char *to = scratch;
    for (uint64_t row = first; row < end; p++) {
        uint64_t stop = split->cut[p + 1] < end ? split->cut[p + 1] : end;
        df_range rows = {row - split->cut[p], stop - row};
        DF_TRY(read_piece(&part[p], whole, rows, to));
        to += rows.count * whole->row_bytes;
        row = stop;
    }
    *out = df_hash(scratch, bytes);
    return DF_OK;
}
