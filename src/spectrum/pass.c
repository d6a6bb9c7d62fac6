/* One pass over the training or the held-out rows, in lock step: the dictionary is applied by all
 * ranks together, so a rank whose buckets are used up goes on bringing rows of zeros, which it then
 * drops. */
#include "parts.h"

#include <string.h>

typedef struct pass {
    df_comm *comm;
    const df_spectrum_input *input;
    df_buckets buckets;
    const uint64_t *rows; // this rank's, ascending
    size_t n_rows, at;    // rows[at] is the next one
    float *x, *x_hat;     // [batch, input width]
    df_moments **moments; // [models]
} pass;

/* The first of n ascending rows that is not below `row`. */
static size_t lower_bound(const uint64_t *rows, size_t n, uint64_t row) {
    size_t low = 0, high = n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (rows[middle] < row)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The rows of this part that lie in this rank's buckets. */
static void choose_rows(pass *p, int part) {
    const df_spectrum_input *in = p->input;
    df_range own = df_share(DF_BUCKETS, df_comm_size(p->comm), df_comm_rank(p->comm));
    df_buckets_make(in->document, in->documents, &p->buckets);
    size_t first = lower_bound(in->rows[part], in->n_rows[part], p->buckets.row[own.first]);
    size_t end =
        lower_bound(in->rows[part], in->n_rows[part], p->buckets.row[own.first + own.count]);
    p->rows = in->rows[part] + first;
    p->n_rows = own.count > 0 ? end - first : 0;
}

static df_status make_buffers(pass *p) {
    size_t elements;
    DF_TRY(df_mul(p->input->batch, p->input->width, &elements));
    DF_TRY(DF_NEW(p->x, elements));
    DF_TRY(DF_NEW(p->x_hat, elements));
    return DF_NEW(p->moments, p->input->models);
}

/* The bucket of a row, not before `bucket`. */
static size_t bucket_of(const df_buckets *buckets, size_t bucket, uint64_t row) {
    while (row >= buckets->row[bucket + 1]) bucket++;
    return bucket;
}

/* Hands n rows of the batch, the next of this rank, to each model's moments, bucket by bucket. */
static df_status add_rows(pass *p, size_t n) {
    const df_spectrum_input *in = p->input;
    const uint64_t *rows = p->rows + p->at;
    for (size_t at = 0, bucket = 0, end; at < n; at = end) {
        bucket = bucket_of(&p->buckets, bucket, rows[at]);
        end = at + lower_bound(rows + at, n - at, p->buckets.row[bucket + 1]);
        for (size_t m = 0; m < in->models; m++) {
            size_t first = at * in->width + in->model[m].first;
            DF_TRY(df_moments_bucket(p->moments[m], bucket));
            DF_TRY_AS(
                df_moments_add(p->moments[m], p->x + first, p->x_hat + first, end - at, in->width),
                "summing rows %llu to %llu of model %s", (unsigned long long)rows[at],
                (unsigned long long)rows[end - 1], in->model[m].name);
        }
    }
    return DF_OK;
}

/* One step for all ranks: mine rows here, n rows where there are most. */
static df_status step(pass *p, size_t mine, size_t n) {
    const df_spectrum_input *in = p->input;
    df_timer_start("read rows");
    memset(p->x + mine * in->width, 0, (n - mine) * in->width * sizeof *p->x);
    df_status status = mine > 0 ? in->read(in->context, p->rows + p->at, mine, p->x) : DF_OK;
    df_timer_stop("read rows");
    DF_TRY(df_agree(p->comm, status));
    df_timer_start("dictionary");
    status = in->apply(in->context, p->x, n, p->x_hat);
    df_timer_stop("dictionary");
    DF_TRY(df_agree(p->comm, status));
    df_timer_start("moments");
    status = add_rows(p, mine);
    df_timer_stop("moments");
    p->at += mine;
    return df_agree(p->comm, status);
}

static df_status stream(pass *p, const char *what, uint64_t total) {
    df_progress progress;
    uint64_t done = 0;
    df_progress_start(&progress, what, "rows", 0, total);
    for (;;) {
        size_t left = p->n_rows - p->at, mine = left < p->input->batch ? left : p->input->batch;
        uint64_t most = mine, sum = mine;
        df_max_u64(p->comm, &most, 1);
        if (most == 0) break;
        DF_TRY(step(p, mine, (size_t)most));
        df_sum_u64(p->comm, &sum, 1);
        done += sum;
        df_progress_at(&progress, done, NULL);
    }
    df_progress_end(&progress, done);
    return DF_OK;
}

static df_status open_moments(pass *p, const linear_fit *fits) {
    for (size_t m = 0; m < p->input->models; m++)
        DF_TRY(df_moments_new(p->comm, p->input->model[m].width, fits != NULL ? fits[m].form : NULL,
                              &p->moments[m]));
    return DF_OK;
}

static df_status join(pass *p, df_sums **sums) {
    df_status status = DF_OK;
    df_timer_start("join moments");
    for (size_t m = 0; status == DF_OK && m < p->input->models; m++)
        status = df_moments_finish(p->comm, &p->moments[m], &sums[m]);
    df_timer_stop("join moments");
    return status;
}

df_status df_spectrum_pass(df_comm *comm, const df_spectrum_input *input, int part,
                           const linear_fit *fits, df_sums **sums) {
    pass p = {.comm = comm, .input = input};
    const char *what = part == TRAINING ? "training rows" : "held-out rows";
    df_status status;
    choose_rows(&p, part);
    DF_GO(df_agree(comm, make_buffers(&p)));
    DF_GO(open_moments(&p, fits));
    DF_GO(stream(&p, what, input->n_rows[part]));
    DF_GO(join(&p, sums));
done:
    for (size_t m = 0; p.moments != NULL && m < input->models; m++) df_moments_free(&p.moments[m]);
    df_free(p.moments);
    df_free(p.x);
    df_free(p.x_hat);
    if (status != DF_OK) df_context("streaming the %s", what);
    return status;
}
