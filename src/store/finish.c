/* Closing a file: checksums by reading back, late attributes, complete = 1, rename; and its
 * provenance. */
#include "parts.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* ---- checksums ------------------------------------------------------------------------------ */

uint64_t store_block_first(const store_object *object, size_t block) {
    uint64_t first = block * object->block_rows;
    return first > object->shift ? first - object->shift : 0;
}

uint64_t store_block_bytes(const store_object *object, size_t block) {
    uint64_t end = (block + 1) * object->block_rows - object->shift;
    if (end > object->shape[0]) end = object->shape[0];
    return (end - store_block_first(object, block)) * object->row_bytes;
}

df_status store_block_hash(int descriptor, const char *path, const store_object *object,
                           size_t block, void *scratch, uint64_t *out) {
    uint64_t bytes = store_block_bytes(object, block);
    uint64_t offset = object->offset + store_block_first(object, block) * object->row_bytes;
    DF_TRY_AS(store_pread(descriptor, path, scratch, bytes, offset), "reading block %zu of %s",
              block, object->path);
    *out = df_hash(scratch, bytes);
    return DF_OK;
}

static df_status hash_block(const df_file *file, const store_object *object, size_t block,
                            void *scratch, uint64_t *out) {
    if (object->split) return store_piece_hash(file, object, block, scratch, out);
    return store_block_hash(file->descriptor, file->part, object, block, scratch, out);
}

// Hashes blocks [first, first + count) of one dataset and writes them to its mirror.
static df_status checksum_run(const df_file *file, size_t id, size_t first, size_t count) {
    const store_object *object = &file->table.objects[file->at[id]];
    uint64_t *hashes = NULL;
    char *scratch = NULL, *path = df_format("%s%s", STORE_CHECKSUMS, object->path);
    df_status status = path != NULL ? DF_OK : DF_FAILED;
    if (status != DF_OK) goto done;
    DF_GO(DF_NEW(hashes, count));
    DF_GO(DF_NEW(scratch, object->block_rows * object->row_bytes));
    for (size_t i = 0; i < count; i++)
        DF_GO(hash_block(file, object, first + i, scratch, &hashes[i]));
    DF_GO(store_pwrite(file->descriptor, file->part, hashes, 8 * count,
                       store_table_find(&file->table, path)->offset + 8 * first));
done:
    df_free(hashes);
    df_free(scratch);
    df_free(path);
    return status;
}

// Blocks of all datasets in one line, shared out evenly.
static df_status my_checksums(const df_file *file) {
    size_t all = 0, before = 0;
    for (size_t i = 0; i < file->n_datasets; i++) all += file->datasets[i].blocks;
    df_range mine = df_share(all, df_comm_size(file->comm), df_comm_rank(file->comm));
    for (size_t i = 0; i < file->n_datasets; i++) {
        size_t blocks = file->datasets[i].blocks, last = before + blocks;
        size_t first = mine.first > before ? mine.first : before;
        size_t end = mine.first + mine.count < last ? mine.first + mine.count : last;
        if (first < end) DF_TRY(checksum_run(file, i, first - before, end - first));
        before = last;
    }
    return DF_OK;
}

// Opened anew after everybody's fsync: close-to-open file systems then show what other nodes wrote.
static df_status reopen(df_file *file) {
    close(file->descriptor);
    file->descriptor = open(file->part, O_RDWR | O_CLOEXEC);
    if (file->descriptor >= 0) return DF_OK;
    return df_fail(DF_FAILED, "cannot reopen %s: %s", file->part, strerror(errno));
}

df_status store_write_checksums(df_file *file) {
    DF_TRY(df_file_sync(file));
    DF_TRY(df_agree(file->comm, reopen(file)));
    DF_TRY(df_agree(file->comm, my_checksums(file)));
    return df_file_sync(file);
}

/* ---- finish --------------------------------------------------------------------------------- */

static df_status complete_part(df_file *file) {
    store_change complete = {.where = "/", .name = "complete", .kind = STORE_INT, .integer = 1};
    DF_TRY(store_change_attributes(file->part, file->changes, file->n_changes));
    DF_TRY(store_fsync(file->descriptor, file->part));
    DF_TRY(store_change_attributes(file->part, &complete, 1));
    return store_reserve_and_seal(file);
}

// HDF5 has answered "success" on a full disk before: the reader's own eyes decide.
static df_status look_again(const df_file *file, uint64_t *hash) {
    df_reader *reader;
    DF_TRY(df_reader_open(file->part, file->format, &reader));
    *hash = store_stored_digest(reader);
    df_reader_close(&reader);
    return DF_OK;
}

df_status store_complete(df_file *file, uint64_t *hash) {
    DF_TRY(complete_part(file));
    DF_TRY_AS(look_again(file, hash), "reading back %s", file->part);
    return DF_OK;
}

df_status store_rename(df_file *file) {
    if (rename(file->part, file->path) != 0)
        return df_fail(DF_FAILED, "cannot rename %s to %s: %s", file->part, file->path,
                       strerror(errno));
    return store_fsync_folder(file->path);
}

static df_status publish(df_file *file) {
    uint64_t hash;
    DF_TRY(store_pieces_publish(file));
    DF_TRY(store_complete(file, &hash));
    DF_TRY(store_rename(file));
    store_pieces_clear(file);
    return DF_OK;
}

static df_status end_provenance(df_file *file) {
    store_change *end;
    if (!file->has_provenance) return DF_OK;
    DF_TRY(store_change_add(file, STORE_PROVENANCE, "end", &end));
    end->kind = STORE_TEXT;
    store_time_before(0, end->text);
    return DF_OK;
}

static df_status finish(df_file *file) {
    DF_TRY(df_file_agree(file, file->ready ? end_provenance(file)
                                           : df_fail(DF_FAILED, "%s is not ready", file->part)));
    DF_TRY(store_pieces_checksums(file));
    DF_TRY(store_write_checksums(file));
    return df_agree(file->comm, df_comm_rank(file->comm) == 0 ? publish(file) : DF_OK);
}

df_status df_file_finish(df_file **file) {
    df_status status = finish(*file);
    if (status == DF_OK) {
        store_pieces_abandon(*file, true);
        store_file_free(file);
        return DF_OK;
    }
    df_context("finishing %s", (*file)->path);
    df_file_abandon(file, false);
    return status;
}

/* ---- provenance ----------------------------------------------------------------------------- */

void store_time_before(double ago, char out[static 32]) {
    time_t then = time(NULL) - (time_t)(ago > 0 ? ago : 0);
    struct tm parts;
    gmtime_r(&then, &parts);
    strftime(out, 32, "%Y-%m-%dT%H:%M:%S+00:00", &parts);
}

static df_status fact(df_file *file, const char *name, const char *value) {
    return df_file_text(file, STORE_PROVENANCE, name, value != NULL ? value : "unknown");
}

df_status df_file_provenance(df_file *file, const df_provenance *facts) {
    char start[32];
    const char *job = getenv("SLURM_JOB_ID");
    store_time_before(df_now() - facts->start, start);
    DF_TRY(fact(file, "commit", facts->commit));
    DF_TRY(fact(file, "build", facts->build));
    DF_TRY(fact(file, "command", facts->command));
    DF_TRY(fact(file, "hosts", facts->hosts));
    DF_TRY(fact(file, "kernel_path", facts->kernel_path));
    DF_TRY(fact(file, "screen", facts->screen));
    DF_TRY(fact(file, "volatile_options", facts->volatile_options));
    if (facts->inputs != NULL) DF_TRY(fact(file, "inputs", facts->inputs));
    DF_TRY(fact(file, "job_id", job != NULL ? job : "none"));
    DF_TRY(fact(file, "start", start));
    DF_TRY(store_declare_text(file, STORE_PROVENANCE, "end", "not yet",
                              sizeof start)); // set by finish
    DF_TRY(df_file_int(file, STORE_PROVENANCE, "ranks", facts->ranks));
    DF_TRY(df_file_int(file, STORE_PROVENANCE, "threads", facts->threads));
    file->has_provenance = true;
    return DF_OK;
}
