/* fvu.h: sums per document bucket, and what follows from them. */
#ifndef FVU_H
#define FVU_H

#include "darkfield/eval.h"
#include "darkfield/moments.h"

/* The sums of one bucket lie side by side: rows, sum x [out], sum |x|^2 [outputs], sum |e|^2
 * [outputs]. */
size_t sums_width(const df_dict *dict);
/* Adds n rows x [n, width] and the reconstructions of what is written, [n, out], in row order. */
void sums_add(const df_dict *dict, const float *x, const float *x_hat, size_t n, double *sums);
/* FVU and its jackknife error of each output site from all buckets, [DF_BUCKETS, sums_width]. Not
 * collective. */
df_status sums_fvu(const df_dict *dict, const double *buckets, df_evaluation *out) DF_MUST_CHECK;

/* What the result file needs (write.c). Not collective. */
df_status evaluation_need(const df_dict *dict, const df_eval_more *more,
                          const df_eval_options *options, df_need *out) DF_MUST_CHECK;

#endif
