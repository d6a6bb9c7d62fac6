/* Writing tensors: space reserved and headers written first, elements by any rank at their places,
 * then the rename. */
#include "tensor_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

/* ---- life --------------------------------------------------------------------------------------
 */

static void free_file(df_tensor_file **pointer) {
    df_tensor_file *file = *pointer;
    *pointer = NULL;
    if (file == NULL) return;
    if (file->descriptor >= 0) close(file->descriptor);
    for (size_t i = 0; i < file->n && file->places != NULL; i++) {
        df_free(file->places[i].name);
        df_free(file->places[i].prefix);
    }
    df_free(file->places);
    df_free(file->path);
    df_free(file->part);
    df_free(file);
}

// Gone when any rank goes on.
static void remove_part(const df_tensor_file *file) {
    if (df_comm_rank(file->comm) == 0) unlink(file->part);
    df_barrier(file->comm);
}

static df_status take_spec(const char *path, const df_tensor_spec *spec, tensor_place *out) {
    size_t elements = 1, bytes;
    for (int d = 0; d < spec->dims; d++) {
        DF_TRY_AS(df_mul(elements, spec->shape[d], &elements), "laying out %s of %s", spec->name,
                  path);
        out->shape[d] = spec->shape[d];
    }
    DF_TRY(df_mul(elements, df_type_bytes(spec->type), &bytes));
    out->type = spec->type;
    out->dims = spec->dims;
    out->elements = elements;
    out->name = df_strdup(spec->name);
    return out->name != NULL ? DF_OK : DF_FAILED;
}

static df_status new_file(df_comm *comm, const char *path, const df_tensor_spec *specs, size_t n,
                          df_tensor_file **out) {
    size_t length = strlen(path);
    DF_TRY(DF_NEW(*out, 1));
    df_tensor_file *file = *out;
    file->comm = comm;
    file->descriptor = -1;
    file->npz = length > 4 && strcmp(path + length - 4, ".npz") == 0;
    file->path = df_strdup(path);
    file->part = df_format("%s.part", path);
    if (file->path == NULL || file->part == NULL) return DF_FAILED;
    DF_TRY(DF_NEW(file->places, n));
    file->n = n;
    for (size_t i = 0; i < n; i++) DF_TRY(take_spec(path, &specs[i], &file->places[i]));
    return DF_OK;
}

static df_status open_part(df_tensor_file *file, int flags) {
    file->descriptor = open(file->part, flags | O_RDWR | O_CLOEXEC, 0666);
    if (file->descriptor >= 0) return DF_OK;
    return df_fail(DF_FAILED, "cannot create %s: %s", file->part, strerror(errno));
}

// Rank 0: the file at full size, with the header where it is known already.
static df_status begin(df_tensor_file *file, const char *header, size_t header_bytes) {
    DF_TRY(open_part(file, O_CREAT | O_TRUNC));
    DF_TRY(store_reserve(file->descriptor, file->part, file->bytes));
    if (ftruncate(file->descriptor, (off_t)file->bytes) != 0)
        return df_fail(DF_FAILED, "cannot size %s: %s", file->part, strerror(errno));
    return store_pwrite(file->descriptor, file->part, header, header_bytes, 0);
}

df_status df_tensor_file_create(df_comm *comm, const char *path, const df_tensor_spec *specs,
                                size_t n, df_tensor_file **out) {
    df_tensor_file *file = NULL;
    char *header = NULL;
    size_t header_bytes = 0;
    bool first = df_comm_rank(comm) == 0;
    *out = NULL;
    df_status status = new_file(comm, path, specs, n, &file);
    if (status == DF_OK)
        status =
            file->npz ? store_lay_npz(file) : store_lay_safetensors(file, &header, &header_bytes);
    status = df_agree(comm, status);
    if (status == DF_OK) status = df_agree(comm, first ? begin(file, header, header_bytes) : DF_OK);
    if (status == DF_OK) status = df_agree(comm, first ? DF_OK : open_part(file, 0));
    df_free(header);
    if (status == DF_OK)
        *out = file;
    else {
        if (first && file != NULL && file->part != NULL) unlink(file->part);
        free_file(&file);
    }
    return status;
}

/* ---- elements ----------------------------------------------------------------------------------
 */

static df_status put(const df_tensor_file *file, size_t i, uint64_t first, uint64_t count,
                     const void *data) {
    const tensor_place *p = &file->places[i];
    size_t bytes = df_type_bytes(p->type);
    if (first > p->elements || count > p->elements - first)
        return df_fail(DF_FAILED, "%s: elements %llu to %llu of tensor %zu, which it lacks",
                       file->part, (unsigned long long)first, (unsigned long long)(first + count),
                       i);
    return store_pwrite(file->descriptor, file->part, data, count * bytes,
                        p->offset + first * bytes);
}

df_status df_tensor_file_put(df_tensor_file *file, size_t i, uint64_t first, uint64_t count,
                             const void *data) {
    df_status status = put(file, i, first, count, data);
    int none = DF_OK;
    if (status != DF_OK && atomic_compare_exchange_strong(&file->failure, &none, (int)status))
        snprintf(file->failure_text, sizeof file->failure_text, "%s", df_error_text());
    return status;
}

/* ---- end ---------------------------------------------------------------------------------------
 */

static df_status close_part(const df_tensor_file *file) {
    if (file->npz) DF_TRY(store_close_npz(file));
    DF_TRY(store_fsync(file->descriptor, file->part));
    if (rename(file->part, file->path) != 0)
        return df_fail(DF_FAILED, "cannot rename %s to %s: %s", file->part, file->path,
                       strerror(errno));
    return store_fsync_folder(file->path);
}

df_status df_tensor_file_finish(df_tensor_file **pointer) {
    df_tensor_file *file = *pointer;
    bool first = df_comm_rank(file->comm) == 0;
    df_status status = DF_OK;
    if (file->failure != DF_OK)
        status = df_fail((df_status)file->failure, "%s", file->failure_text);
    if (status == DF_OK) status = store_fsync(file->descriptor, file->part);
    status = df_agree(file->comm, status);
    if (status == DF_OK) status = df_agree(file->comm, first ? close_part(file) : DF_OK);
    if (status != DF_OK) remove_part(file);
    free_file(pointer);
    return status;
}

void df_tensor_file_abandon(df_tensor_file **pointer) {
    df_tensor_file *file = *pointer;
    if (file == NULL) return;
    df_barrier(file->comm); // nobody writes any more
    remove_part(file);
    free_file(pointer);
}
