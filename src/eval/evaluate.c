/* The pass over the held-out rows. Documents are dealt to 64 buckets and a bucket's rows are summed
 * by one rank in row order, so the sums do not depend on the number of ranks. */
#include "fvu.h"

#include <inttypes.h>
#include <string.h>

typedef struct pass {
    df_comm *comm;
    df_coder *coder;
    df_dict *dict;
    df_acts *const *acts;
    const size_t *site;
    uint64_t *rows;                 // all held-out rows in use, ascending
    uint64_t start[DF_BUCKETS + 1]; // where each bucket begins in `rows`
    df_range buckets;               // of this rank
    size_t each;                    // rows of one rank in one call
    float *x, *x_hat;               // [each, width], [each, out]
    double *sums;                   // [DF_BUCKETS, sums_width]
    size_t *counts;                 // [size]
} pass;

/* ---- which rows ----------------------------------------------------------------------------- */

static df_status check_inputs(const df_dict *dict, df_acts *const *acts, const size_t *site) {
    for (size_t s = 0; s < dict->sites; s++) {
        const struct df_site *found = &acts[s]->site[site[s]];
        if (found->width != dict->site[s].width || strcmp(found->name, dict->site[s].name) != 0)
            return df_fail(DF_BAD_INPUT,
                           "%s: %s of width %" PRIu64 " does not fit the dictionary's site %zu, "
                           "%s of width %" PRIu64,
                           acts[s]->path, found->name, found->width, s, dict->site[s].name,
                           dict->site[s].width);
        if (s > 0) DF_TRY(df_acts_aligned(acts[0], acts[s]));
    }
    return DF_OK;
}

/* Where each bucket of the corpus begins among the n ascending rows: start [DF_BUCKETS + 1]. */
static void cut_into_buckets(const df_acts *acts, const uint64_t *rows, size_t n, uint64_t *start) {
    df_buckets buckets;
    size_t at = 0;
    df_buckets_make(acts->document, acts->documents, &buckets);
    for (size_t b = 0; b < DF_BUCKETS; b++) {
        while (at < n && rows[at] < buckets.row[b]) at++;
        start[b] = at;
    }
    start[DF_BUCKETS] = n;
}

static df_status list_rows(pass *p, bool skip_first, uint64_t *n_rows) {
    size_t n = 0;
    DF_TRY(df_acts_rows(p->acts[0], 1, skip_first, &p->rows, &n));
    *n_rows = n;
    cut_into_buckets(p->acts[0], p->rows, n, p->start);
    if (n > 0) return DF_OK;
    return df_fail(DF_BAD_INPUT, "%s has no held-out rows: harvest with text.heldout above 0",
                   p->acts[0]->path);
}

/* ---- the pass ------------------------------------------------------------------------------- */

static df_status pass_open(pass *p, const df_eval_options *options, df_evaluation *out) {
    int size = df_comm_size(p->comm);
    DF_TRY(check_inputs(p->dict, p->acts, p->site));
    p->buckets = df_share(DF_BUCKETS, size, df_comm_rank(p->comm));
    p->each = (options->batch + (size_t)size - 1) / (size_t)size;
    if (p->each == 0) p->each = 1;
    *out = (df_evaluation){.sites = df_dict_outputs(p->dict), .latents = p->dict->latents};
    DF_TRY(list_rows(p, options->skip_first, &out->rows));
    DF_TRY(DF_NEW(out->fires, p->dict->mine.count));
    DF_TRY(DF_NEW(p->x, p->each * p->dict->width));
    DF_TRY(DF_NEW(p->x_hat, p->each * p->dict->out.count));
    DF_TRY(DF_NEW(p->sums, DF_BUCKETS * sums_width(p->dict)));
    return DF_NEW(p->counts, (size_t)size);
}

static void pass_close(pass *p) {
    df_coder_close(&p->coder);
    df_free(p->rows);
    df_free(p->x);
    df_free(p->x_hat);
    df_free(p->sums);
    df_free(p->counts);
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

/* Cuts this rank's rows at the borders of its buckets. */
static void sum_rows(const pass *p, size_t done, size_t n) {
    size_t base = (size_t)p->start[p->buckets.first], width = p->dict->width,
           out = p->dict->out.count;
    for (size_t b = p->buckets.first; b < p->buckets.first + p->buckets.count; b++) {
        size_t first = (size_t)p->start[b] - base, last = (size_t)p->start[b + 1] - base;
        if (first < done) first = done;
        if (last > done + n) last = done + n;
        if (first >= last) continue;
        sums_add(p->dict, p->x + (first - done) * width, p->x_hat + (first - done) * out,
                 last - first, p->sums + b * sums_width(p->dict));
    }
}

static df_status run_batch(pass *p, size_t done, df_evaluation *out) {
    size_t n = rows_now(p, df_comm_rank(p->comm), done), width = p->dict->width;
    const df_codes *codes = NULL;
    memset(p->x + n * width, 0, (p->each - n) * width * sizeof *p->x);
    df_timer_start("read");
    const uint64_t *rows = p->rows + (n > 0 ? p->start[p->buckets.first] + done : 0);
    df_status status = df_rows_gather(p->dict, p->acts, p->site, rows, n, p->x);
    df_timer_stop("read");
    DF_TRY(df_agree(p->comm, status));
    df_timer_start("encode and decode");
    status = df_coder_apply(p->coder, p->x, p->each, p->x_hat, &codes);
    df_timer_stop("encode and decode");
    DF_TRY(status);
    count_codes(p, codes, done, out);
    sum_rows(p, done, n);
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

df_status df_evaluate(df_comm *comm, df_kernels *kernels, df_dict *dict, df_acts *const *acts,
                      const size_t *site, const df_eval_options *options, df_evaluation *out) {
    pass p = {.comm = comm, .dict = dict, .acts = acts, .site = site};
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
