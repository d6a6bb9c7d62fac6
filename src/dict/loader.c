/* Batches: each rank reads its share of the rows, one allgather gives the batch to all. A thread
 * reads the next share while a step computes; it calls neither MPI nor HDF5. */
#include "train_internal.h"

#include <pthread.h>

struct loader {
    df_comm *comm;
    const train_data *data;
    const df_dict *dict;
    size_t batch;
    uint64_t seed;
    df_range share;   // of the batch's rows
    uint64_t *wanted; // [share.count] rows of the files
    float *mine;      // [share.count, width]
    float *x;         // [batch, width]
    size_t *counts;   // [size] bytes from each rank
    pthread_t thread;
    bool running;
    df_status status; // of the last read; its text when it failed
    char text[1024];
};

size_t loader_plan_bytes(size_t batch, size_t width, int size) {
    size_t mine = df_share(batch, size, 0).count;
    return sizeof(loader) + mine * (sizeof(uint64_t) + width * sizeof(float)) +
           batch * width * sizeof(float) + (size_t)size * sizeof(size_t);
}

df_status loader_open(df_comm *comm, const train_data *data, const df_dict *dict, size_t batch,
                      uint64_t seed, loader **out) {
    int size = df_comm_size(comm);
    loader *l = NULL;
    DF_TRY(DF_NEW(l, 1));
    *out = l;
    *l = (loader){.comm = comm, .data = data, .dict = dict, .batch = batch, .seed = seed};
    l->share = df_share(batch, size, df_comm_rank(comm));
    DF_TRY(DF_NEW(l->wanted, l->share.count));
    DF_TRY(DF_NEW(l->mine, l->share.count * dict->width));
    DF_TRY(DF_NEW(l->x, batch * dict->width));
    DF_TRY(DF_NEW(l->counts, (size_t)size));
    for (int r = 0; r < size; r++)
        l->counts[r] = df_share(batch, size, r).count * dict->width * sizeof *l->x;
    return DF_OK;
}

static void wait_for(loader *l) {
    if (l->running) pthread_join(l->thread, NULL);
    l->running = false;
}

void loader_close(loader **loader_) {
    loader *l = *loader_;
    if (l == NULL) return;
    wait_for(l);
    df_free(l->wanted);
    df_free(l->mine);
    df_free(l->x);
    df_free(l->counts);
    df_free(l);
    *loader_ = NULL;
}

/* Failures are recorded per thread, so the text travels in the loader. */
static void *read_share(void *argument) {
    loader *l = argument;
    l->status =
        df_rows_gather(l->dict, l->data->acts, l->data->site, l->wanted, l->share.count, l->mine);
    if (l->status != DF_OK) snprintf(l->text, sizeof l->text, "%s", df_error_text());
    return NULL;
}

/* Row i of all rows ever trained on: epoch after epoch, each in an order of its own. */
static uint64_t row_at(const loader *l, uint64_t i) {
    uint64_t n = l->data->n;
    return l->data->rows[df_random_permute(l->seed + i / n, DF_STREAM_SHUFFLE, n, i % n)];
}

void loader_start(loader *l, uint64_t step) {
    wait_for(l);
    uint64_t first = step * l->batch + l->share.first;
    for (size_t i = 0; i < l->share.count; i++) l->wanted[i] = row_at(l, first + i);
    l->running = pthread_create(&l->thread, NULL, read_share, l) == 0;
    if (!l->running) read_share(l); // no thread to be had: read now
}

df_status loader_take(loader *l, const float **x) {
    df_timer_start("read");
    wait_for(l);
    df_status status = l->status != DF_OK ? df_fail(l->status, "%s", l->text) : DF_OK;
    status = df_agree(l->comm, status);
    df_timer_stop("read");
    if (status != DF_OK) return status;
    df_timer_start("share rows");
    df_allgather(l->comm, l->mine, l->counts, l->x);
    df_timer_stop("share rows");
    *x = l->x;
    return DF_OK;
}
