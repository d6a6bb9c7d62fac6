/* Attention patterns on random tokens written twice. */
#include "parts.h"

#include <omp.h>

/* ---- watching patterns ---------------------------------------------------------------------- */

void df_lens_watch(const df_model_shape *s, void *worker, df_site_call *call, lens_watch *watch,
                   char (*site)[LENS_NAME], df_intervention *list) {
    for (size_t l = 0; l < s->layers; l++) {
        watch[l] = (lens_watch){worker, l};
        snprintf(site[l], LENS_NAME, "blocks.%zu.attn.hook_pattern", l);
        list[l] = (df_intervention){
            .site = site[l], .edit = DF_EDIT_CALL, .call = call, .context = &watch[l]};
    }
}

uint64_t df_lens_watch_bytes(const df_model_shape *s, size_t context) {
    return s->layers * (sizeof(lens_watch) + LENS_NAME + sizeof(df_intervention)) +
           df_forward_intervene_bytes(s, context, s->layers, true);
}

/* ---- a sequence ----------------------------------------------------------------------------- */

static size_t length_of(const df_lens_input *input) {
    return (input->bos >= 0) + 2 * input->period;
}

size_t df_lens_sequence(const df_lens_input *input, uint64_t s, uint32_t *ids) {
    size_t n = 0;
    if (input->bos >= 0) ids[n++] = (uint32_t)input->bos;
    for (size_t i = 0; i < input->period; i++, n++) {
        uint64_t which = df_random_permute(input->seed + s, DF_STREAM_REPEAT, input->n_random, i);
        ids[n] = ids[n + input->period] = input->random[which];
    }
    return n + input->period;
}

/* One thread's run. */
typedef struct watcher {
    const df_lens_input *input;
    const df_model_shape *shape;
    df_forward *forward;
    uint32_t *ids;
    lens_watch *watch;
    char (*site)[LENS_NAME];
    df_intervention *list;
    double *sums; // [1 + DF_LENS_DETECTORS, L, H] of the sequence at hand
} watcher;

// Mean over rows [first, n) of the attention of row i to row i - back.
static double diagonal(const df_site_rows *rows, size_t head, size_t first, size_t back) {
    double sum = 0.0;
    size_t context = rows->n;
    for (size_t i = first; i < rows->n; i++)
        sum += (double)rows->x[i * rows->width + head * context + i - back];
    return sum / (double)(rows->n - first);
}

// The forward's context is the sequence's length.
static df_status look(void *context, const df_site_rows *rows) {
    const lens_watch *watch = context;
    const watcher *w = watch->worker;
    size_t heads = w->shape->heads, all = w->shape->layers * heads, period = w->input->period;
    for (size_t h = 0; h < heads; h++) {
        double *to = w->sums + 1 + watch->layer * heads + h;
        to[DF_LENS_PREVIOUS * all] = diagonal(rows, h, 1, 1);
        to[DF_LENS_DUPLICATE * all] = diagonal(rows, h, rows->n - period, period);
        to[DF_LENS_INDUCTION * all] = diagonal(rows, h, rows->n - period, period - 1);
    }
    return DF_OK;
}

static df_status watch_sequence(void *context, size_t slot, uint64_t item, double *sums) {
    watcher *w = (watcher *)context + slot;
    size_t n = df_lens_sequence(w->input, item, w->ids);
    w->sums = sums;
    sums[0] = 1.0;
    DF_TRY_AS(df_forward_run(w->forward, w->ids, n, NULL, NULL), "running sequence %llu",
              (unsigned long long)item);
    for (size_t i = 0; i < DF_LENS_DETECTORS * w->shape->layers * w->shape->heads; i++)
        if (!(sums[1 + i] >= 0.0 && sums[1 + i] <= 1.001))
            return df_fail(DF_BAD_INPUT,
                           "sequence %llu: attention that is not finite: are the model's weights "
                           "damaged?",
                           (unsigned long long)item);
    return DF_OK;
}

/* ---- all of them ---------------------------------------------------------------------------- */

static df_status open_watcher(const df_lens_input *input, watcher *w) {
    const df_model_shape *s = df_model_facts(input->model);
    *w = (watcher){.input = input, .shape = s};
    DF_TRY(df_forward_open(input->model, length_of(input), NULL, 0, &w->forward));
    DF_TRY(DF_NEW(w->ids, length_of(input)));
    DF_TRY(DF_NEW(w->watch, s->layers));
    DF_TRY(DF_NEW(w->site, s->layers));
    DF_TRY(DF_NEW(w->list, s->layers));
    df_lens_watch(s, w, look, w->watch, w->site, w->list);
    return df_forward_intervene(w->forward, w->list, s->layers);
}

static void close_watcher(watcher *w) {
    df_forward_close(&w->forward);
    df_free(w->ids);
    df_free(w->watch);
    df_free(w->site);
    df_free(w->list);
}

static size_t columns_of(const df_model_shape *s) {
    return 1 + DF_LENS_DETECTORS * s->layers * s->heads;
}

static size_t slots_of(const df_lens_input *input, size_t threads) {
    return input->sequences < threads ? input->sequences : threads;
}

df_status df_lens_detect(df_comm *comm, const df_lens_input *input, df_lens *out) {
    const df_model_shape *s = df_model_facts(input->model);
    lens_walk walk = {.comm = comm,
                      .what = "lens: sequences",
                      .unit = "sequences",
                      .items = input->sequences,
                      .columns = columns_of(s),
                      .slots = slots_of(input, (size_t)omp_get_max_threads()),
                      .each = watch_sequence};
    watcher *workers = NULL;
    double *all = NULL;
    df_status status = DF_NEW(workers, walk.slots);
    for (size_t i = 0; status == DF_OK && i < walk.slots; i++)
        status = open_watcher(input, &workers[i]);
    if (status == DF_OK) status = DF_NEW(all, DF_BUCKETS * walk.columns);
    DF_GO(df_agree(comm, status));
    walk.context = workers;
    DF_GO(df_lens_walk(&walk, all));
    status = df_agree(comm, df_lens_means(&walk, all, 0, 1, walk.columns - 1, out->detector));
done:
    for (size_t i = 0; workers != NULL && i < walk.slots; i++) close_watcher(&workers[i]);
    df_free(workers);
    df_free(all);
    return status;
}

uint64_t df_lens_detect_bytes(const df_lens_input *input, const df_model_shape *s, int size,
                              size_t threads) {
    size_t n = length_of(input), slots = slots_of(input, threads), columns = columns_of(s);
    uint64_t worker = sizeof(watcher) + df_forward_bytes(s, n, NULL, 0) + n * sizeof(uint32_t) +
                      df_lens_watch_bytes(s, n);
    return slots * (worker + columns * sizeof(double)) +
           (DF_BUCKETS + df_share(DF_BUCKETS, size, 0).count) * columns * sizeof(double);
}
