/* Reading a file in parts: the whole opens its parts, and its rows come from them. */
#include "parts.h"

#include <string.h>

/* ---- opening -------------------------------------------------------------------------------- */

static df_status check_rows(const df_reader *reader, const store_object *whole, size_t p) {
    const store_split *split = &reader->table.split;
    const df_reader *part = reader->part[p];
    const store_object *piece = store_table_find(&part->table, whole->path);
    uint64_t rows = split->cut[p + 1] - split->cut[p];
    if (piece != NULL && piece->checksum != NULL && piece->type == whole->type &&
        piece->row_bytes == whole->row_bytes && piece->shape[0] == rows &&
        piece->shift == split->cut[p] % whole->block_rows)
        return DF_OK;
    return df_fail(DF_BAD_INPUT, "%s: expected %llu rows of %s like those of %s", part->path,
                   (unsigned long long)rows, whole->path, reader->path);
}

// The content must be that which the whole was finished with: files of other parts, or of another
// harvest, are told by it.
static df_status check_hash(const df_reader *reader, size_t p) {
    char name[32], found[20], *listed = NULL;
    snprintf(name, sizeof name, "hash%zu", p);
    snprintf(found, sizeof found, "%016llx",
             (unsigned long long)store_stored_digest(reader->part[p]));
    DF_TRY(df_reader_text(reader, STORE_PARTS, name, &listed));
    df_status status = DF_OK;
    if (strcmp(listed, found) != 0)
        status = df_fail(DF_BAD_INPUT,
                         "%s is not part %zu of %s: expected the content %s, found %s; it was "
                         "exchanged or made again: restore it, or harvest again",
                         reader->part[p]->path, p, reader->path, listed, found);
    df_free(listed);
    return status;
}

static df_status open_part(df_reader *reader, size_t p) {
    char *path = store_split_path(reader->path, reader->table.split.name[p]);
    if (path == NULL) return DF_FAILED;
    df_status status = df_reader_open(path, STORE_PART_FORMAT, &reader->part[p]);
    df_free(path);
    DF_TRY_AS(status, "opening part %zu of %zu of %s", p, reader->table.split.parts, reader->path);
    DF_TRY(check_hash(reader, p));
    for (size_t i = 0; i < reader->table.n; i++)
        if (reader->table.objects[i].split)
            DF_TRY(check_rows(reader, &reader->table.objects[i], p));
    return DF_OK;
}

df_status store_parts_open(df_reader *reader) {
    size_t parts = reader->table.split.parts;
    if (parts == 0) return DF_OK;
    if (strcmp(reader->format, STORE_PART_FORMAT) == 0)
        return df_fail(DF_BAD_INPUT, "%s: a part cannot be in parts", reader->path);
    DF_TRY(DF_NEW(reader->part, parts));
    for (size_t p = 0; p < parts; p++) {
        DF_TRY(open_part(reader, p));
        reader->size += reader->part[p]->size;
    }
    return DF_OK;
}

void store_parts_close(df_reader *reader) {
    for (size_t p = 0; reader->part != NULL && p < reader->table.split.parts; p++)
        df_reader_close(&reader->part[p]);
    df_free(reader->part);
}

/* ---- rows ----------------------------------------------------------------------------------- */

df_status store_parts_rows(const df_reader *reader, const store_object *object, df_range rows,
                           bool verify, void *out) {
    const store_split *split = &reader->table.split;
    char *to = out;
    while (rows.count > 0) {
        size_t p = df_run_holding(split->cut, split->parts, rows.first);
        uint64_t left = split->cut[p + 1] - rows.first, n = rows.count < left ? rows.count : left;
        DF_TRY(df_reader_rows(reader->part[p], object->path, rows.first - split->cut[p], n, verify,
                              to));
        to += n * object->row_bytes;
        rows = (df_range){rows.first + n, rows.count - n};
    }
    return DF_OK;
}

/* ---- verifying ------------------------------------------------------------------------------ */

// The whole's checksums of a dataset against its parts'.
static df_status verify_whole(const df_reader *reader, const store_part *part,
                              const store_object *object) {
    char *scratch = NULL;
    uint64_t found = 0;
    df_status status = DF_NEW(scratch, object->block_rows * object->row_bytes);
    for (size_t b = 0; b < object->blocks && status == DF_OK; b++) {
        status = store_split_hash(&reader->table.split, part, object, b, scratch, &found);
        if (status == DF_OK && found != object->checksum[b])
            status = df_fail(DF_BAD_INPUT,
                             "%s: its checksum of block %zu of %s does not fit its parts; harvest "
                             "again or restore a copy",
                             reader->path, b, object->path);
    }
    df_free(scratch);
    return status;
}

df_status store_parts_verify(const df_reader *reader) {
    size_t parts = reader->table.split.parts;
    store_part *part = NULL;
    if (parts == 0) return DF_OK;
    for (size_t p = 0; p < parts; p++) DF_TRY(store_verify_all(reader->part[p]));
    DF_TRY(DF_NEW(part, parts));
    for (size_t p = 0; p < parts; p++)
        part[p] = (store_part){reader->part[p]->descriptor, reader->part[p]->path,
                               &reader->part[p]->table};
    df_status status = DF_OK;
    for (size_t i = 0; i < reader->table.n && status == DF_OK; i++)
        if (reader->table.objects[i].split)
            status = verify_whole(reader, part, &reader->table.objects[i]);
    df_free(part);
    return status;
}
