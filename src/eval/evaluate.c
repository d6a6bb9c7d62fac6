/* The pass over the held-out rows. Documents are dealt to 64 buckets and a bucket's rows are summed
 * by one rank in row order, so the sums do not depend on the number of ranks. FVU is that of each
 * site in its model's own units: a scale that all rows share cancels, so that dictionary units do,
 * but where rows are normalised one by one. */
#include "fvu.h"

#include <inttypes.h>
#include <string.h>

typedef struct pass {
    df_comm *comm;
    df_coder *coder;
    df_dict *dict;
    const df_rows *rows;
    uint64_t start[DF_BUCKETS + 1]; // number of the first row of each bucket
    df_range buckets;               // of this rank
    size_t each;                    // rows of one rank in one call
    float *x, *x_hat;               // [each, width], [each, out]
    float *raw;                     // [each, width] in the models' units; NULL: x serves as well
    double *sums;                   // [DF_BUCKETS, sums_width]
    fvu_batch batch;
    size_t *counts;   // [size]
    uint64_t *number; // [each] of rows to read
} pass;

/* ---- which rows ----------------------------------------------------------------------------- */

static df_status check_sites(const df_dict *dict, const df_rows *rows) {
    const df_rows_site *found;
    size_t n = df_rows_sites(rows, &found);
    if (n != dict->sites)
        return df_fail(DF_BAD_INPUT,
                       "the dictionary has %zu sites, the first of model %s; the data have %zu, "
                       "the first of model %s: train again",
                       dict->sites, dict->site[0].model, n, found[0].model);
    for (size_t s = 0; s < n; s++)
        if (found[s].width != dict->site[s].width ||
            strcmp(found[s].name, dict->site[s].name) != 0 ||
            strcmp(found[s].model, dict->site[s].model) != 0)
            return df_fail(DF_BAD_INPUT,
                           "%s of model %s, width %" PRIu64 ", does not fit the dictionary's site "
                           "%zu, %s of model %s, width %" PRIu64,
                           found[s].name, found[s].model, found[s].width, s, dict->site[s].name,
                           dict->site[s].model, dict->site[s].width);
    return DF_OK;
}

/* The buckets of documents begin at these rows of the n in use. */
static df_status cut_into_buckets(pass *p, uint64_t n) {
    df_buckets buckets;
    uint64_t *document = NULL, documents = 0;
    DF_TRY(df_rows_documents(p->rows, n, &document, &documents));
    df_buckets_make(document, documents, &buckets);
    df_free(document);
    for (size_t b = 0; b < DF_BUCKETS; b++) {
        uint64_t low = 0, high = n; // the first row in use from buckets.row[b] on
        while (low < high) {
            uint64_t middle = low + (high - low) / 2;
            if (df_rows_source(p->rows, middle) < buckets.row[b])
                low = middle + 1;
            else
                high = middle;
        }
        p->start[b] = low;
    }
    p->start[DF_BUCKETS] = n;
    return DF_OK;
}

static df_status list_rows(pass *p, const df_eval_options *options, uint64_t *n) {
    *n = df_rows_count(p->rows);
    if (*n == UINT64_MAX) *n = options->rows;
    if (*n > 0) return cut_into_buckets(p, *n);
    return df_fail(DF_USAGE, "nothing to evaluate: 0 rows were asked for");
}

/* ---- the pass ------------------------------------------------------------------------------- */

static size_t rows_each(const df_eval_options *options, int size) {
    size_t each = (options->batch + (size_t)size - 1) / (size_t)size;
    return each > 0 ? each : 1;
}

/* Rows of a batch of fvu_batches.c, at most: no more than there are. */
static uint64_t batch_rows_of(const df_rows *rows, const df_eval_options *options) {
    uint64_t n = df_rows_count(rows);
    if (n == UINT64_MAX) n = options->rows;
    return options->fvu_batch < n ? options->fvu_batch : n;
}

static df_status pass_open(pass *p, const df_eval_options *options, df_evaluation *out) {
    int size = df_comm_size(p->comm);
    DF_TRY(check_sites(p->dict, p->rows));
    p->buckets = df_share(DF_BUCKETS, size, df_comm_rank(p->comm));
    p->each = rows_each(options, size);
    *out = (df_evaluation){.sites = df_dict_outputs(p->dict), .latents = p->dict->latents};
    DF_TRY(list_rows(p, options, &out->rows));
    DF_TRY(DF_NEW(out->fires, p->dict->mine.count));
    DF_TRY(DF_NEW(p->x, p->each * p->dict->width));
    DF_TRY(DF_NEW(p->x_hat, p->each * p->dict->out.count));
    if (df_dict_tokenwise(p->dict)) DF_TRY(DF_NEW(p->raw, p->each * p->dict->width));
    DF_TRY(DF_NEW(p->sums, DF_BUCKETS * sums_width(p->dict)));
    DF_TRY(DF_NEW(p->number, p->each));
    DF_TRY(batch_open(p->dict, batch_rows_of(p->rows, options), &p->batch));
    return DF_NEW(p->counts, (size_t)size);
}

static void pass_close(pass *p) {
    df_coder_close(&p->coder);
    df_free(p->number);
    df_free(p->x);
    df_free(p->x_hat);
    df_free(p->raw);
    df_free(p->sums);
    df_free(p->counts);
    batch_close(&p->batch);
}

static size_t rows_of_rank(const pass *p, int rank) {
    df_range buckets = df_share(DF_BUCKETS, df_comm_size(p->comm), rank);
    return (size_t)(p->start[buckets.first + buckets.count] - p->start[buckets.first]);
}

/* Rows that a rank brings to the call that begins at its row `done`. */
static size_t rows_now(const pass *p, int rank, size_t done) {
    size_t all = rows_of_rank(p, rank);
    if (all <= done) return 0;
    return all - done < p->each ? all - done : p->each;
}

/* Rank r's rows stand at r * each; those past its count are padding. */
static void count_codes(const pass *p, const df_codes *codes, size_t done, df_evaluation *out) {
    for (int r = 0; r < df_comm_size(p->comm); r++) {
        size_t first = (size_t)r * p->each;
        uint64_t end = codes->start[first + rows_now(p, r, done)];
        for (uint64_t i = codes->start[first]; i < end; i++)
            if (codes->value[i] > 0) out->fires[codes->latent[i]]++;
    }
}

/* Cuts this rank's rows x at the borders of its buckets. */
static void sum_rows(pass *p, const float *x, size_t done, size_t n) {
    size_t base = (size_t)p->start[p->buckets.first], width = p->dict->width,
           out = p->dict->out.count;
    for (size_t b = p->buckets.first; b < p->buckets.first + p->buckets.count; b++) {
        size_t first = (size_t)p->start[b] - base, last = (size_t)p->start[b + 1] - base;
        size_t begin = first, all = last - first;
        if (first < done) first = done;
        if (last > done + n) last = done + n;
        if (first >= last) continue;
        const float *from = x + (first - done) * width, *x_hat = p->x_hat + (first - done) * out;
        double *sums = p->sums + b * sums_width(p->dict);
        const batch_rows rows = {first - begin, last - first, all};
        sums_add(p->dict, from, x_hat, last - first, sums);
        batch_add(&p->batch, &rows, from, x_hat, sums + sums_batches(p->dict));
    }
}

static df_status run_batch(pass *p, size_t done, df_evaluation *out) {
    size_t n = rows_now(p, df_comm_rank(p->comm), done), width = p->dict->width;
    const df_codes *codes = NULL;
    memset(p->x + n * width, 0, (p->each - n) * width * sizeof *p->x);
    df_timer_start("read");
    for (size_t r = 0; r < n; r++) p->number[r] = p->start[p->buckets.first] + done + r;
    df_status status = df_rows_read(p->rows, p->number, n, p->x);
    if (p->raw != NULL) memcpy(p->raw, p->x, n * width * sizeof *p->x);
    df_rows_scale(p->dict, p->x, n);
    df_timer_stop("read");
    DF_TRY(df_agree(p->comm, status));
    df_timer_start("encode and decode");
    status = df_coder_apply(p->coder, p->x, p->each, p->x_hat, &codes);
    df_timer_stop("encode and decode");
    DF_TRY(status);
    count_codes(p, codes, done, out);
    if (p->raw != NULL) df_rows_restore(p->dict, p->raw, n, p->x_hat);
    sum_rows(p, p->raw != NULL ? p->raw : p->x, done, n);
    return DF_OK;
}

static df_status run_batches(pass *p, df_evaluation *out) {
    size_t longest = 0;
    df_progress progress;
    for (int r = 0; r < df_comm_size(p->comm); r++)
        if (rows_of_rank(p, r) > longest) longest = rows_of_rank(p, r);
    df_progress_start(&progress, "evaluate", "rows of a rank", 0, longest);
    for (size_t done = 0; done < longest; done += p->each) {
        DF_TRY(run_batch(p, done, out));
        df_progress_at(&progress, done + p->each < longest ? done + p->each : longest, NULL);
    }
    df_progress_end(&progress, longest);
    return DF_OK;
}

/* ---- what follows --------------------------------------------------------------------------- */

/* Every rank gets the sums of all buckets: each was made by one rank. */
static void gather_sums(pass *p, double *all) {
    int size = df_comm_size(p->comm);
    size_t width = sums_width(p->dict);
    for (int r = 0; r < size; r++)
        p->counts[r] = df_share(DF_BUCKETS, size, r).count * width * sizeof *all;
    df_allgather(p->comm, p->sums + p->buckets.first * width, p->counts, all);
}

static void count_latents(const pass *p, df_evaluation *out) {
    uint64_t counts[3] = {0}; // active entries, dead, dense
    for (size_t j = 0; j < p->dict->mine.count; j++) {
        counts[0] += out->fires[j];
        counts[1] += out->fires[j] == 0;
        counts[2] += out->fires[j] * 10 > out->rows;
    }
    df_sum_u64(p->comm, counts, 3);
    out->active = counts[0];
    out->dead = counts[1];
    out->dense = counts[2];
    out->l0 = (double)out->active / (double)out->rows;
}

static df_status summarise(pass *p, df_evaluation *out) {
    double *all = NULL; // [DF_BUCKETS, sums_width]
    DF_TRY(df_agree(p->comm, DF_NEW(all, DF_BUCKETS * sums_width(p->dict))));
    gather_sums(p, all);
    df_status status = sums_fvu(p->dict, all, out);
    count_latents(p, out);
    df_free(all);
    return df_agree(p->comm, status);
}

df_status df_evaluate(df_comm *comm, df_kernels *kernels, df_dict *dict, const df_rows *rows,
                      const df_eval_options *options, df_evaluation *out) {
    pass p = {.comm = comm, .dict = dict, .rows = rows};
    df_status status = df_agree(comm, pass_open(&p, options, out));
    size_t all_rows = p.each * (size_t)df_comm_size(comm);
    if (status == DF_OK) status = df_coder_open(comm, kernels, dict, all_rows, &p.coder);
    if (status == DF_OK) status = run_batches(&p, out);
    if (status == DF_OK) status = summarise(&p, out);
    pass_close(&p);
    if (status != DF_OK) {
        df_free(out->fires);
        out->fires = NULL;
    }
    return status;
}

/* ---- the plan ------------------------------------------------------------------------------- */

df_status df_evaluate_plan(const df_dict_plan *plan, const df_rows *rows, const df_eval_more *more,
                           const df_eval_options *options, df_need *out) {
    const df_dict *d = plan->dict;
    size_t each = rows_each(options, plan->size);
    DF_TRY(check_sites(d, rows));
    DF_TRY(evaluation_need(d, more, options, out));
    uint64_t fires = d->mine.count * sizeof(uint64_t);
    size_t columns = d->width + d->out.count + (df_dict_tokenwise(d) ? d->width : 0);
    uint64_t work =
        DF_CHECK_BYTES + each * (columns * sizeof(float) + sizeof(uint64_t)) +
        DF_BUCKETS * sums_width(d) * sizeof(double) + batch_bytes(d, batch_rows_of(rows, options)) +
        df_coder_plan_bytes(d, plan->screen, each * (size_t)plan->size, plan->size, false);
    out->memory = df_dict_bytes(d) + fires + (work > out->memory ? work : out->memory);
    return DF_OK;
}
