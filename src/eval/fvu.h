/* fvu.h: sums per document bucket, and what follows from them. */
#ifndef FVU_H
#define FVU_H

#include "darkfield/eval.h"
#include "darkfield/moments.h"

/* The sums of one bucket lie side by side: rows, sum x [out], sum |x|^2 [outputs], sum |e|^2
 * [outputs], then those of its batches [outputs, BATCH_SUMS]. */
size_t sums_width(const df_dict *dict);
/* Adds n rows x [n, width] and the reconstructions of what is written, [n, out], in row order. */
void sums_add(const df_dict *dict, const float *x, const float *x_hat, size_t n, double *sums);
/* Where those of batches begin. */
size_t sums_batches(const df_dict *dict);
/* The columns of the n-th written site within the output. */
df_range written_columns(const df_dict *dict, size_t n);
/* The figures and their jackknife errors of each output site from all buckets, [DF_BUCKETS,
 * sums_width]. Not collective. */
df_status sums_fvu(const df_dict *dict, const double *buckets, df_evaluation *out) DF_MUST_CHECK;

/* ---- fvu_batches.c -------------------------------------------------------------------------- */

/* Sums over the batches, or the rows, of a bucket that vary: of sum |e - mean e|^2 / sum |x - mean
 * x|^2, of batches, of |e|^2 / |x - mean x|^2, of rows. */
enum { BATCH_RATIOS, BATCHES, ROW_RATIOS, ROWS, BATCH_SUMS };

/* The batch now being filled. */
typedef struct fvu_batch {
    const df_dict *dict;
    size_t most, rows; /* rows it may have; has */
    float *x;          /* [most, out] */
    double *error;     /* [most, outputs] |e|^2 */
    double *sums;      /* [2, out] of x and e */
} fvu_batch;
df_status batch_open(const df_dict *dict, uint64_t most, fvu_batch *out) DF_MUST_CHECK;
void batch_close(fvu_batch *batch);
uint64_t batch_bytes(const df_dict *dict, uint64_t most);

/* Some rows of a bucket, which has `all`; they follow those that came before. */
typedef struct batch_rows {
    size_t first, count, all;
} batch_rows;
/* Adds rows as sums_add does, to the sums of batches of their bucket. */
void batch_add(fvu_batch *batch, const batch_rows *rows, const float *x, const float *x_hat,
               double *sums);

/* What the result file needs (write.c). Not collective. */
df_status evaluation_need(const df_dict *dict, const df_eval_more *more,
                          const df_eval_options *options, df_need *out) DF_MUST_CHECK;

#endif
