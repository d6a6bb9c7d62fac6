/* The pass over the corpus: batches of whole context windows, encoded by all ranks, counted by each
 * latent's owner. */
#include "stats_internal.h"

#include <string.h>

/* The rows in use and where the batches begin: functions of the files alone. */
typedef struct plan {
    uint64_t *rows; /* ascending */
    size_t n;
    size_t *start; /* [batches + 1] index into rows */
    size_t batches, largest;
} plan;

static void plan_free(plan *p) {
    df_free(p->rows);
    df_free(p->start);
}

/* Fills batches with whole windows up to `limit` rows. */
static df_status plan_new(const df_acts *acts, const df_stats_options *options, plan *p) {
    DF_TRY(df_acts_rows(acts, 2, options->skip_first, &p->rows, &p->n));
    DF_TRY(DF_NEW(p->start, acts->windows + 2));
    size_t at = 0, begin = 0;
    for (uint64_t w = 0; w < acts->windows; w++) {
        size_t end = at;
        while (end < p->n && p->rows[end] < acts->window[w + 1]) end++;
        if (end - begin > options->batch && at > begin) {
            p->start[++p->batches] = at;
            begin = at;
        }
        at = end;
    }
    if (at > begin) p->start[++p->batches] = at;
    for (size_t b = 0; b < p->batches; b++)
        if (p->start[b + 1] - p->start[b] > p->largest) p->largest = p->start[b + 1] - p->start[b];
    return DF_OK;
}

/* ---- one batch ------------------------------------------------------------------------------ */

typedef struct pass {
    df_comm *comm;
    df_coder *coder;
    const df_dict *dict;
    const df_stats_input *input;
    plan plan;
    float *x, *mine; /* [largest, width], [share of largest, width] */
    size_t *counts;  /* [size] bytes of each rank's rows */
    batch batch;
    by_latent order;
    findings found;
    df_stretch *stretch;
    size_t stretches, next_stretch; /* stretches before next_stretch ended before this batch */
} pass;

static df_status pass_new(pass *p, const df_stats_options *options) {
    size_t width = p->dict->width, count = p->dict->mine.count,
           concepts = p->input->corpus != NULL ? df_corpus_concepts(p->input->corpus) : 0;
    const df_acts *acts = p->input->acts[0];
    DF_TRY(plan_new(acts, options, &p->plan));
    DF_TRY(DF_NEW(p->x, p->plan.largest * width));
    DF_TRY(DF_NEW(p->mine, df_share(p->plan.largest, df_comm_size(p->comm), 0).count * width));
    DF_TRY(DF_NEW(p->counts, (size_t)df_comm_size(p->comm)));
    DF_TRY(DF_NEW(p->batch.heldout, p->plan.largest));
    DF_TRY(DF_NEW(p->batch.window, p->plan.largest));
    DF_TRY(DF_NEW(p->batch.near, p->plan.largest + 1));
    DF_TRY(DF_NEW(p->found.spans, 2 * concepts));
    if (concepts > 0)
        DF_TRY(
            df_stats_stretches(acts, p->input->corpus, &p->stretch, &p->stretches, p->found.spans));
    DF_TRY(by_latent_new(count, df_codes_expected(p->dict, p->plan.largest), &p->order));
    DF_TRY(tally_new(count, &p->found.tally));
    DF_TRY(examples_new(count, options->examples, options->window, &p->found.examples));
    DF_TRY(concepts_new(count, concepts, p->stretch, p->stretches, &p->found.concepts));
    p->found.rows = p->plan.n;
    p->batch.acts = acts;
    return promoted_new(p->dict, p->input, options->promoted, &p->found.promoted);
}

static void pass_free(pass *p) {
    plan_free(&p->plan);
    df_free(p->x);
    df_free(p->mine);
    df_free(p->counts);
    df_free(p->batch.heldout);
    df_free(p->batch.window);
    df_free(p->batch.near);
    df_free(p->batch.stretch_of);
    df_free(p->stretch);
    df_free(p->found.spans);
    by_latent_free(&p->order);
    tally_free(&p->found.tally);
    examples_free(&p->found.examples);
    concepts_free(&p->found.concepts);
    promoted_free(&p->found.promoted);
}

/* Lists, for each row of the batch, the stretches that hold it. Stretches ascend by first row. */
static df_status find_stretches(pass *p) {
    batch *b = &p->batch;
    size_t used = 0;
    for (size_t r = 0; r < b->n; r++) {
        b->near[r] = used;
        for (size_t s = p->next_stretch; s < p->stretches && p->stretch[s].first <= b->rows[r];
             s++) {
            if (p->stretch[s].last < b->rows[r]) continue;
            DF_TRY(df_grow((void **)&b->stretch_of, &b->near_capacity, used + 1,
                           sizeof *b->stretch_of));
            b->stretch_of[used++] = (uint32_t)s;
        }
        while (p->next_stretch < p->stretches && p->stretch[p->next_stretch].last < b->rows[r])
            p->next_stretch++;
    }
    b->near[b->n] = used;
    return DF_OK;
}

static df_status describe_batch(pass *p, size_t index) {
    batch *b = &p->batch;
    const df_acts *acts = b->acts;
    b->rows = p->plan.rows + p->plan.start[index];
    b->n = p->plan.start[index + 1] - p->plan.start[index];
    size_t w = df_run_holding(acts->window, acts->windows, b->rows[0]),
           d = df_run_holding(acts->document, acts->documents, b->rows[0]);
    for (size_t r = 0; r < b->n; r++) {
        while (acts->window[w + 1] <= b->rows[r]) w++;
        while (acts->document[d + 1] <= b->rows[r]) d++;
        b->window[r] = (uint32_t)w;
        b->heldout[r] = acts->heldout[d];
    }
    return find_stretches(p);
}

/* Each rank reads its share of the batch; one allgather gives x to all. */
static df_status gather_rows(pass *p) {
    size_t row_bytes = p->dict->width * sizeof *p->x;
    int size = df_comm_size(p->comm), rank = df_comm_rank(p->comm);
    df_range share = df_share(p->batch.n, size, rank);
    df_timer_start("read");
    df_status status = df_rows_gather(p->dict, p->input->acts, p->input->site,
                                      p->batch.rows + share.first, share.count, p->mine);
    df_timer_stop("read");
    DF_TRY(df_agree(p->comm, status));
    for (int r = 0; r < size; r++) p->counts[r] = df_share(p->batch.n, size, r).count * row_bytes;
    df_timer_start("communication");
    df_allgather(p->comm, p->mine, p->counts, p->x);
    df_timer_stop("communication");
    return DF_OK;
}

static void count_batch(pass *p) {
#pragma omp parallel for schedule(dynamic, 16)
    for (size_t j = 0; j < p->order.latents; j++) {
        count_latent(&p->found.tally, j, &p->order);
        count_examples(&p->found.examples, j, &p->order, &p->batch);
        count_concepts(&p->found.concepts, j, &p->order, &p->batch);
    }
}

static df_status run_batch(pass *p, size_t index) {
    const df_codes *codes = NULL;
    DF_TRY(df_agree(p->comm, describe_batch(p, index)));
    DF_TRY(gather_rows(p));
    df_timer_start("encode");
    df_status status = df_coder_encode(p->coder, p->x, p->batch.n, false, &codes);
    df_timer_stop("encode");
    DF_TRY(status);
    DF_TRY(df_agree(p->comm, by_latent_fill(&p->order, codes)));
    df_timer_start("count");
    count_batch(p);
    df_timer_stop("count");
    return DF_OK;
}

static df_status run_batches(pass *p) {
    df_progress progress;
    df_progress_start(&progress, "statistics", "rows", 0, p->plan.n);
    for (size_t b = 0; b < p->plan.batches; b++) {
        DF_TRY(run_batch(p, b));
        df_progress_at(&progress, p->plan.start[b + 1], NULL);
    }
    df_progress_end(&progress, p->plan.n);
    return DF_OK;
}

df_status df_stats_run(df_comm *comm, df_kernels *kernels, df_dict *dict,
                       const df_stats_input *input, const df_stats_options *options) {
    pass p = {.comm = comm, .dict = dict, .input = input};
    df_status status = df_agree(comm, pass_new(&p, options));
    if (status == DF_OK && p.plan.n == 0)
        status =
            df_fail(DF_BAD_INPUT, "%s has no rows to count: all are BOS or the first of a window",
                    input->acts[0]->path);
    if (status == DF_OK) status = df_coder_open(comm, kernels, dict, p.plan.largest, &p.coder);
    if (status == DF_OK) status = run_batches(&p);
    if (status == DF_OK) status = stats_write(comm, dict, input, options, &p.found);
    df_coder_close(&p.coder);
    pass_free(&p);
    return status;
}

/* ---- the plan ------------------------------------------------------------------------------- */

static size_t concepts_of(const df_stats_input *input) {
    return input->corpus != NULL ? df_corpus_concepts(input->corpus) : 0;
}

/* Labelled spans of the documents, which become stretches. */
static df_status stretch_bytes(const df_stats_input *input, size_t *out) {
    df_stretch *stretch = NULL;
    uint64_t *spans = NULL;
    size_t n = 0;
    df_status status;
    DF_GO(DF_NEW(spans, 2 * concepts_of(input)));
    if (concepts_of(input) > 0)
        DF_GO(df_stats_stretches(input->acts[0], input->corpus, &stretch, &n, spans));
    *out = n * sizeof *stretch;
done:
    df_free(stretch);
    df_free(spans);
    return status;
}

/* What pass_new allocates, but for promoted tokens. */
static df_status pass_bytes(const df_dict_plan *p, const df_stats_input *input,
                            const df_stats_options *o, const plan *batches, uint64_t *out) {
    size_t width = p->dict->width, count = p->dict->mine.count, stretches = 0;
    size_t share = df_share(batches->largest, p->size, 0).count;
    const df_acts *acts = input->acts[0];
    DF_TRY(stretch_bytes(input, &stretches));
    *out = (acts->rows + acts->windows) * sizeof(uint64_t) +
           (batches->largest + share) * width * sizeof(float) + batches->largest * 13 + stretches +
           by_latent_bytes(count, df_codes_expected(p->dict, batches->largest)) +
           tally_bytes(count) + examples_bytes(count, o->examples, o->window) +
           concepts_bytes(count, concepts_of(input));
    return DF_OK;
}

static size_t read_bytes(const df_stats_input *input, size_t rows) {
    size_t most = 0;
    for (size_t s = 0; s < input->n; s++) {
        size_t bytes = df_acts_read_bytes(input->acts[s], input->site[s], rows);
        if (bytes > most) most = bytes;
    }
    return most + DF_CHECK_BYTES;
}

static uint64_t larger(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}

df_status df_stats_plan(const df_dict_plan *p, const df_stats_input *input,
                        const df_model_shape *const *shape, const df_stats_options *options,
                        df_need *out) {
    plan batches = {0};
    uint64_t own = 0;
    size_t promote = promoted_tokens(p->dict, shape, options->promoted);
    df_status status;
    DF_GO(plan_new(input->acts[0], options, &batches));
    DF_GO(pass_bytes(p, input, options, &batches, &own));
    DF_GO(stats_write_need(p->dict, input, options, promote, out));
    uint64_t coder = df_coder_plan_bytes(p->dict, p->screen, batches.largest, p->size, false);
    uint64_t later = coder + larger(out->memory, read_bytes(input, batches.largest));
    out->memory = df_dict_bytes(p->dict) + own + promoted_bytes(p->dict, promote) +
                  larger(promoted_scratch(p->dict, shape, promote), later);
done:
    plan_free(&batches);
    return status;
}
