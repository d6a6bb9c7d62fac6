/* A file being written: create, declare, make ready, write rows, agree.
 *
 * HDF5 describes the file and then lets go of it: ready lets rank 0 create every object (create.c),
 * and all ranks keep the offsets of the contiguous datasets. Rows go out in parallel, by pwrite at
 * those offsets. H5Dwrite would do the same with less certainty: through MPI-IO a full disk is
 * reported on one rank only, or by a hang, and an open HDF5 file holds metadata in memory that a
 * kill would tear. This way a killed run leaves a file whose metadata were complete before the
 * first row, and an error of a write is an errno on the rank that had it. */
#include "parts.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

/* ---- life ----------------------------------------------------------------------------------- */

static df_status new_file(df_comm *comm, const char *path, const char *format, df_file **out) {
    DF_TRY(DF_NEW(*out, 1));
    df_file *file = *out;
    file->comm = comm;
    file->descriptor = -1;
    file->path = df_strdup(path);
    file->part = df_format("%s.part", path);
    file->format = df_strdup(format);
    return file->path != NULL && file->part != NULL && file->format != NULL ? DF_OK : DF_FAILED;
}

void store_file_free(df_file **file_pointer) {
    df_file *file = *file_pointer;
    *file_pointer = NULL;
    if (file == NULL) return;
    if (file->descriptor >= 0) close(file->descriptor);
    for (size_t i = 0; i < file->n_datasets; i++) df_free(file->datasets[i].path);
    for (size_t i = 0; i < file->n_attributes; i++) {
        df_free(file->attributes[i].where);
        df_free(file->attributes[i].name);
        df_free(file->attributes[i].text);
    }
    for (size_t i = 0; i < file->n_changes; i++) {
        df_free((void *)file->changes[i].where);
        df_free((void *)file->changes[i].name);
    }
    df_free(file->datasets);
    df_free(file->attributes);
    df_free(file->changes);
    df_free(file->at);
    df_free(file->piece);
    store_split_free(&file->split);
    store_table_free(&file->table);
    df_free(file->path);
    df_free(file->part);
    df_free(file->format);
    df_free(file);
}

// The first failure of this rank: it surfaces where the ranks next agree.
df_status store_remember(df_file *file, df_status code) {
    int none = DF_OK;
    if (code != DF_OK && atomic_compare_exchange_strong(&file->failure, &none, (int)code))
        snprintf(file->failure_text, sizeof file->failure_text, "%s", df_error_text());
    return code;
}

// On rank 0: an early answer to whether the output can be written at all.
static df_status touch(const char *part) {
    int descriptor = open(part, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (descriptor < 0) return df_fail(DF_FAILED, "cannot create %s: %s", part, strerror(errno));
    close(descriptor);
    return DF_OK;
}

df_status df_file_create(df_comm *comm, const char *path, const char *format, df_file **out) {
    df_file *file = NULL;
    *out = NULL;
    df_status status = df_agree(comm, new_file(comm, path, format, &file));
    if (status != DF_OK) {
        store_file_free(&file);
        return status;
    }
    status = df_agree(comm, df_comm_rank(comm) == 0 ? touch(file->part) : DF_OK);
    if (status == DF_OK) status = df_file_text(file, "/", "format", format);
    if (status == DF_OK) status = df_file_int(file, "/", "format_version", STORE_VERSION);
    if (status == DF_OK)
        *out = file;
    else
        df_file_abandon(&file, false);
    return status;
}

df_status df_file_outline(const char *format, df_file **out) {
    df_status status = new_file(NULL, "", format, out);
    if (status != DF_OK) store_file_free(out);
    return status;
}

// What describes n data sets, about: so much for each, and no less than a few take.
static uint64_t described(size_t n, uint64_t each) {
    enum { LEAST = 16 << 10 };
    return n * each > LEAST ? n * each : LEAST;
}

df_need df_file_need(df_file **pointer) {
    enum { ON_DISK = 850, IN_MEMORY = 1800 };
    df_file *file = *pointer;
    df_need need = {0};
    if (file == NULL) return need;
    need.disk = described(file->n_datasets, ON_DISK);
    for (size_t i = 0; i < file->n_attributes; i++) need.disk += file->attributes[i].room;
    for (size_t i = 0; i < file->n_datasets; i++) {
        const store_object *object = &file->datasets[i];
        uint64_t checksums = object->block_rows * object->row_bytes + 8 * object->blocks;
        if (checksums > need.memory) need.memory = checksums;
        need.disk += object->bytes + 8 * object->blocks;
    }
    need.memory += described(file->n_datasets, IN_MEMORY);
    store_file_free(pointer);
    return need;
}

void df_file_abandon(df_file **file_pointer, bool keep_part) {
    df_file *file = *file_pointer;
    if (file == NULL) return;
    df_barrier(file->comm); // nobody writes any more
    store_pieces_abandon(file, keep_part);
    if (!keep_part && df_comm_rank(file->comm) == 0) unlink(file->part);
    df_barrier(file->comm);
    store_file_free(file_pointer);
}

/* ---- ready ---------------------------------------------------------------------------------- */

static df_status open_descriptor(df_file *file) {
    if (file->descriptor < 0) file->descriptor = open(file->part, O_RDWR | O_CLOEXEC);
    if (file->descriptor >= 0) return DF_OK;
    return df_fail(DF_FAILED, "cannot open %s: %s; does this node see the folder?", file->part,
                   strerror(errno));
}

// The end of the last dataset, and what the file has already: both must exist before the first row.
df_status store_reserve_and_seal(const df_file *file) {
    uint64_t end = 0;
    for (size_t i = 0; i < file->table.n; i++) {
        const store_object *object = &file->table.objects[i];
        if (!object->split && object->bytes > 0 && object->offset + object->bytes > end)
            end = object->offset + object->bytes;
    }
    off_t size = lseek(file->descriptor, 0, SEEK_END);
    if (size > 0 && (uint64_t)size > end) end = (uint64_t)size;
    DF_TRY(store_reserve(file->descriptor, file->part, end));
    DF_TRY(store_fsync(file->descriptor, file->part));
    DF_TRY(store_seal(file, end));
    return store_fsync_folder(file->part);
}

df_status df_file_ready(df_file *file) {
    bool first = df_comm_rank(file->comm) == 0;
    DF_TRY(df_file_agree(file, file->ready ? df_fail(DF_FAILED, "%s is ready already", file->part)
                                           : DF_OK));
    DF_TRY(df_agree(file->comm, open_descriptor(file)));
    DF_TRY(store_pieces_ready(file));
    DF_TRY_AS(store_create_objects(file), "creating %s", file->part);
    DF_TRY(df_agree(file->comm, store_attach(file)));
    DF_TRY(df_agree(file->comm, first ? store_reserve_and_seal(file) : DF_OK));
    file->ready = true;
    return DF_OK;
}

/* ---- rows ----------------------------------------------------------------------------------- */

static df_status find_rows(const df_file *file, int id, uint64_t first, uint64_t count,
                           const store_object **out) {
    if (!file->ready || id < 0 || (size_t)id >= file->n_datasets)
        return df_fail(DF_FAILED, "%s: rows of dataset %d before it is ready", file->part, id);
    const store_object *object = &file->table.objects[file->at[id]];
    *out = object;
    if (first <= object->shape[0] && count <= object->shape[0] - first) return DF_OK;
    return df_fail(DF_FAILED, "%s: rows %llu to %llu of %s, which has %llu", file->part,
                   (unsigned long long)first, (unsigned long long)(first + count), object->path,
                   (unsigned long long)object->shape[0]);
}

df_status df_file_read(const df_file *file, int id, uint64_t first, uint64_t count, void *data) {
    const store_object *object = NULL;
    DF_TRY(find_rows(file, id, first, count, &object));
    if (count == 0 || object->row_bytes == 0) return DF_OK;
    if (object->split) return store_pieces_read(file, object, (df_range){first, count}, data);
    DF_TRY_AS(store_pread(file->descriptor, file->part, data, count * object->row_bytes,
                          object->offset + first * object->row_bytes),
              "reading back %s", object->path);
    return DF_OK;
}

static df_status write_rows(df_file *file, int id, uint64_t first, uint64_t count,
                            const void *data) {
    const store_object *object = NULL;
    DF_TRY(find_rows(file, id, first, count, &object));
    if (count == 0 || object->row_bytes == 0) return DF_OK;
    if (object->split) return store_pieces_write(file, object, (df_range){first, count}, data);
    DF_TRY_AS(store_pwrite(file->descriptor, file->part, data, count * object->row_bytes,
                           object->offset + first * object->row_bytes),
              "writing rows %llu to %llu of %s", (unsigned long long)first,
              (unsigned long long)(first + count), object->path);
    return DF_OK;
}

df_status df_file_write(df_file *file, int id, uint64_t first, uint64_t count, const void *data) {
    return store_remember(file, write_rows(file, id, first, count, data));
}

df_status df_file_agree(df_file *file, df_status mine) {
    int failure = file->failure;
    if (mine == DF_OK && failure != DF_OK)
        mine = df_fail((df_status)failure, "%s", file->failure_text);
    return df_agree(file->comm, mine);
}

df_status df_file_sync(df_file *file) {
    df_status status = store_fsync(file->descriptor, file->part);
    if (status == DF_OK) status = store_pieces_sync(file);
    return df_file_agree(file, store_remember(file, status));
}

/* ---- resume --------------------------------------------------------------------------------- */

static df_status adopt(df_file *file) {
    DF_TRY(open_descriptor(file));
    off_t size = lseek(file->descriptor, 0, SEEK_END);
    DF_TRY(store_seal_check(file->descriptor, file->part, size > 0 ? (uint64_t)size : 0));
    DF_TRY(store_attach(file));
    file->ready = true;
    const store_object *root = store_table_find(&file->table, "/");
    const store_attribute *format = store_find_attribute(root, "format");
    if (format->kind == STORE_TEXT && strcmp(format->text, file->format) == 0) return DF_OK;
    return df_fail(DF_BAD_INPUT, "%s holds %s", file->part, format->text);
}

// A kill between "complete" and the rename leaves a complete .part: it is open again from now on.
static df_status reopen(df_file *file) {
    store_change open_again = {.where = "/", .name = "complete", .kind = STORE_INT};
    DF_TRY(store_change_attributes(file->part, &open_again, 1));
    return store_reserve_and_seal(file);
}

df_status df_file_resume(df_comm *comm, const char *path, const char *format, df_file **out) {
    df_file *file = NULL;
    *out = NULL;
    DF_TRY(df_agree(comm, new_file(comm, path, format, &file)));
    df_status status = df_agree(comm, adopt(file));
    if (status == DF_OK) status = store_pieces_resume(file);
    if (status != DF_OK) { // nothing usable there is an answer, not an error
        df_error_clear();
        store_pieces_abandon(file, true);
        store_file_free(&file);
        return DF_OK;
    }
    status = df_agree(comm, df_comm_rank(comm) == 0 ? reopen(file) : DF_OK);
    if (status == DF_OK)
        *out = file;
    else
        df_file_abandon(&file, true);
    return status;
}
