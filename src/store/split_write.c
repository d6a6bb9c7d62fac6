/* Writing a file in parts: every part is a df_file of its own, made, synced, finished and dropped
 * together with the whole. */
#include "parts.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// All parts are open at once, of two models in training: fewer than the usual limit of open files.
enum { MOST_PARTS = 256, HASH_ROOM = 24 };

/* ---- declaring ------------------------------------------------------------------------------ */

static df_status check_split(const df_file *file, const df_split *how) {
    if (file->ready || file->split.parts > 0)
        return df_fail(DF_FAILED, "%s: cut too late, or twice", file->part);
    if (how->parts < 1 || how->parts > MOST_PARTS)
        return df_fail(DF_USAGE, "%s would have %zu parts, 1 to %d are possible: make them larger",
                       file->path, how->parts, (int)MOST_PARTS);
    for (size_t p = 0; p < how->parts; p++)
        if (how->cut[p + 1] <= how->cut[p])
            return df_fail(DF_FAILED, "%s: part %zu has no rows", file->path, p);
    for (size_t i = 0; i < how->n; i++) {
        bool known = how->id[i] >= 0 && (size_t)how->id[i] < file->n_datasets;
        if (!known || file->datasets[how->id[i]].shape[0] != how->cut[how->parts])
            return df_fail(DF_FAILED, "%s: dataset %d cannot be cut", file->path, how->id[i]);
    }
    return how->cut[0] == 0 ? DF_OK : df_fail(DF_FAILED, "%s: no part begins at 0", file->path);
}

// "base.acts.h5" -> "base.007.acts.h5". New memory.
static char *name_of(const char *path, size_t p) {
    const char *slash = strrchr(path, '/'), *base = slash != NULL ? slash + 1 : path;
    size_t n = strlen(base);
    for (int dots = 0; n > 0 && dots < 2; n--) dots += base[n - 1] == '.';
    if (n == 0) n = strcspn(base, ".");
    return df_format("%.*s.%03zu%s", (int)n, base, p, base + n);
}

static df_status name_parts(df_file *file, const df_split *how) {
    store_split *split = &file->split;
    DF_TRY(DF_NEW(split->name, how->parts));
    DF_TRY(DF_NEW(split->cut, how->parts + 1));
    DF_TRY(DF_NEW(file->piece, how->parts));
    split->parts = how->parts;
    memcpy(split->cut, how->cut, (how->parts + 1) * sizeof *split->cut);
    for (size_t p = 0; p < how->parts; p++) {
        split->name[p] = name_of(file->path, p);
        if (split->name[p] == NULL) return DF_FAILED;
    }
    return DF_OK;
}

// Texts and numbers that are known by now; late ones are the whole's.
static df_status copy_attributes(const df_file *file, const char *where, df_file *piece) {
    for (size_t i = 0; i < file->n_attributes; i++) {
        const store_declaration *a = &file->attributes[i];
        if (strcmp(a->where, where) != 0) continue;
        if (a->kind == STORE_TEXT) DF_TRY(df_file_text(piece, where, a->name, a->text));
        if (a->kind == STORE_INT) DF_TRY(df_file_int(piece, where, a->name, a->integer));
    }
    return DF_OK;
}

static df_status declare_rows(const df_file *file, const store_object *whole, size_t p,
                              df_file *piece) {
    df_dataset spec = {.path = whole->path, .type = whole->type, .dims = whole->dims};
    int id;
    memcpy(spec.shape, whole->shape, sizeof spec.shape);
    spec.shape[0] = file->split.cut[p + 1] - file->split.cut[p];
    DF_TRY(df_file_dataset(piece, &spec, &id));
    DF_TRY(copy_attributes(file, whole->path, piece));
    uint64_t shift = file->split.cut[p] % whole->block_rows;
    DF_TRY(df_file_int(piece, whole->path, "block_shift", (int64_t)shift));
    if ((size_t)id >= piece->n_datasets) return DF_OK; // short memory, said by ready
    piece->datasets[id].shift = shift;
    return store_measure(&piece->datasets[id]);
}

static df_status create_piece(df_file *file, const df_split *how, size_t p) {
    char *path = store_split_path(file->path, file->split.name[p]);
    DF_TRY(df_agree(file->comm, path != NULL ? DF_OK : DF_FAILED));
    df_status status = df_file_create(file->comm, path, STORE_PART_FORMAT, &file->piece[p]);
    df_free(path);
    DF_TRY(status);
    for (size_t i = 0; i < how->n; i++)
        DF_TRY(declare_rows(file, &file->datasets[how->id[i]], p, file->piece[p]));
    DF_TRY(df_file_int(file->piece[p], "/", "part", (int64_t)p));
    return df_file_int(file->piece[p], "/", "first_row", (int64_t)file->split.cut[p]);
}

// The list of the parts, for readers who do not follow virtual datasets.
static df_status list_piece(df_file *file, size_t p) {
    char name[32];
    snprintf(name, sizeof name, "name%zu", p);
    DF_TRY(df_file_text(file, STORE_PARTS, name, file->split.name[p]));
    snprintf(name, sizeof name, "rows%zu", p);
    DF_TRY(df_file_int(file, STORE_PARTS, name,
                       (int64_t)(file->split.cut[p + 1] - file->split.cut[p])));
    snprintf(name, sizeof name, "hash%zu", p);
    return store_declare_text(file, STORE_PARTS, name, "", HASH_ROOM);
}

df_status df_file_split(df_file *file, const df_split *how) {
    DF_TRY(df_file_agree(file, check_split(file, how)));
    DF_TRY(df_agree(file->comm, name_parts(file, how)));
    for (size_t i = 0; i < how->n; i++) file->datasets[how->id[i]].split = true;
    DF_TRY(df_file_text(file, STORE_PARTS, "format", "darkfield-parts"));
    for (size_t p = 0; p < how->parts; p++) {
        DF_TRY(create_piece(file, how, p));
        DF_TRY(list_piece(file, p));
    }
    return DF_OK;
}

/* ---- with the whole ------------------------------------------------------------------------- */

df_status store_pieces_ready(df_file *file) {
    for (size_t p = 0; p < file->split.parts; p++) DF_TRY(df_file_ready(file->piece[p]));
    return DF_OK;
}

df_status store_pieces_sync(df_file *file) {
    for (size_t p = 0; p < file->split.parts; p++)
        DF_TRY(store_fsync(file->piece[p]->descriptor, file->piece[p]->part));
    return DF_OK;
}

df_status store_pieces_checksums(df_file *file) {
    for (size_t p = 0; p < file->split.parts; p++) DF_TRY(store_write_checksums(file->piece[p]));
    return DF_OK;
}

static df_status note_hash(df_file *file, size_t p, uint64_t hash) {
    char name[32];
    store_change *change;
    snprintf(name, sizeof name, "hash%zu", p);
    DF_TRY(store_change_add(file, STORE_PARTS, name, &change));
    change->kind = STORE_TEXT;
    snprintf(change->text, sizeof change->text, "%016llx", (unsigned long long)hash);
    return DF_OK;
}

// All are complete before the first has its final name: a kill before that loses nothing.
df_status store_pieces_publish(df_file *file) {
    for (size_t p = 0; p < file->split.parts; p++) {
        uint64_t hash = 0;
        DF_TRY(store_complete(file->piece[p], &hash));
        DF_TRY(note_hash(file, p, hash));
    }
    for (size_t p = 0; p < file->split.parts; p++) {
        DF_TRY(store_rename(file->piece[p]));
        file->piece[p]->published = true;
    }
    return DF_OK;
}

void store_pieces_abandon(df_file *file, bool keep) {
    for (size_t p = 0; file->piece != NULL && p < file->split.parts; p++) {
        if (file->piece[p] == NULL) continue;
        if (file->piece[p]->published && !keep) unlink(file->piece[p]->path);
        df_file_abandon(&file->piece[p], keep);
    }
}

static bool is_part(const char *path) {
    df_reader *reader = NULL;
    bool is = df_file_exists(path) && df_reader_open(path, STORE_PART_FORMAT, &reader) == DF_OK;
    df_reader_close(&reader);
    df_error_clear();
    return is;
}

void store_pieces_clear(const df_file *file) {
    for (size_t p = file->split.parts, more = 1; more && p < MOST_PARTS; p++) {
        char *name = name_of(file->path, p);
        char *path = name != NULL ? store_split_path(file->path, name) : NULL;
        more = path != NULL && is_part(path);
        if (more) unlink(path);
        df_free(name);
        df_free(path);
    }
}

/* ---- rows ----------------------------------------------------------------------------------- */

static df_status in_piece(const df_file *file, const store_object *whole, size_t p,
                          const store_object **out) {
    *out = store_table_find(&file->piece[p]->table, whole->path);
    if (*out != NULL && (*out)->row_bytes == whole->row_bytes) return DF_OK;
    return df_fail(DF_FAILED, "%s has no rows of %s", file->piece[p]->part, whole->path);
}

// Rows to the parts that they stand in, from `write`, or from there into `read`; one is NULL.
static df_status move_rows(const df_file *file, const store_object *object, df_range rows,
                           const char *write, char *read) {
    for (uint64_t done = 0, n; done < rows.count; done += n) {
        const store_object *piece = NULL;
        uint64_t row = rows.first + done;
        size_t p = df_run_holding(file->split.cut, file->split.parts, row);
        uint64_t at = row - file->split.cut[p], left = file->split.cut[p + 1] - row;
        n = rows.count - done < left ? rows.count - done : left;
        DF_TRY(in_piece(file, object, p, &piece));
        const df_file *to = file->piece[p];
        uint64_t size = piece->row_bytes, offset = piece->offset + at * size;
        DF_TRY(write != NULL
                   ? store_pwrite(to->descriptor, to->part, write + done * size, n * size, offset)
                   : store_pread(to->descriptor, to->part, read + done * size, n * size, offset));
    }
    return DF_OK;
}

df_status store_pieces_write(df_file *file, const store_object *object, df_range rows,
                             const void *data) {
    return move_rows(file, object, rows, data, NULL);
}

df_status store_pieces_read(const df_file *file, const store_object *object, df_range rows,
                            void *data) {
    return move_rows(file, object, rows, NULL, data);
}

df_status store_piece_hash(const df_file *file, const store_object *object, size_t block,
                           void *scratch, uint64_t *out) {
    store_part part[MOST_PARTS];
    for (size_t p = 0; p < file->split.parts; p++) {
        const df_file *piece = file->piece[p];
        part[p] = (store_part){piece->descriptor, piece->part, &piece->table};
    }
    return store_split_hash(&file->split, part, object, block, scratch, out);
}

/* ---- resume --------------------------------------------------------------------------------- */

// A kill among the renames leaves complete parts: they are open again from now on.
static void take_back(df_file *file) {
    for (size_t p = 0; p < file->split.parts; p++) {
        char *path = store_split_path(file->path, file->split.name[p]);
        char *part = path != NULL ? df_format("%s.part", path) : NULL;
        if (part != NULL && !df_file_exists(part) && df_file_exists(path)) rename(path, part);
        df_free(path);
        df_free(part);
    }
}

// The names and cuts are those of the table.
static df_status adopt_split(df_file *file) {
    const store_split *from = &file->table.split;
    DF_TRY(DF_NEW(file->split.name, from->parts));
    DF_TRY(DF_NEW(file->split.cut, from->parts + 1));
    DF_TRY(DF_NEW(file->piece, from->parts));
    file->split.parts = from->parts;
    memcpy(file->split.cut, from->cut, (from->parts + 1) * sizeof *from->cut);
    for (size_t p = 0; p < from->parts; p++) {
        file->split.name[p] = df_strdup(from->name[p]);
        if (file->split.name[p] == NULL) return DF_FAILED;
    }
    return from->parts <= MOST_PARTS ? DF_OK
                                     : df_fail(DF_BAD_INPUT, "%s: too many parts", file->part);
}

df_status store_pieces_resume(df_file *file) {
    if (file->table.split.parts == 0) return DF_OK;
    DF_TRY(df_agree(file->comm, adopt_split(file)));
    if (df_comm_rank(file->comm) == 0) take_back(file);
    df_barrier(file->comm);
    for (size_t p = 0; p < file->split.parts; p++) {
        char *path = store_split_path(file->path, file->split.name[p]);
        DF_TRY(df_agree(file->comm, path != NULL ? DF_OK : DF_FAILED));
        df_status status = df_file_resume(file->comm, path, STORE_PART_FORMAT, &file->piece[p]);
        if (status == DF_OK && file->piece[p] == NULL)
            status = df_fail(DF_BAD_INPUT, "%s.part is not usable", path);
        df_free(path);
        DF_TRY(status);
    }
    return DF_OK;
}
