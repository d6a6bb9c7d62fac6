/* darkfield/moments.h: streaming second moments of rows and of what a dictionary leaves of them.
 *
 * A corpus is cut into 64 document buckets: contiguous runs of documents, balanced by rows, a
 * function of the document table alone. They are the leaves of the fixed tree of comm.h and the
 * blocks of the jackknife. A rank owns the buckets df_share(64, size, rank) and streams their rows
 * in order; rows are summed in fixed blocks of 1024 on fixed tile shapes in fp64, so the sums are
 * the same to the bit for any number of ranks and threads and for any batch sizes. A rank holds one
 * packed matrix per open level of its subtree, at most seven for power-of-two rank counts. */
#ifndef DARKFIELD_MOMENTS_H
#define DARKFIELD_MOMENTS_H

#include "darkfield/base.h"
#include "darkfield/comm.h"

/* ---- document buckets ----------------------------------------------------------------------- */

#define DF_BUCKETS 64

typedef struct df_buckets {
    uint64_t document[DF_BUCKETS + 1]; /* first document of each bucket, then their number */
    uint64_t row[DF_BUCKETS + 1];      /* first row of each bucket */
} df_buckets;

/* document [documents + 1]: first row of each document. Bucket b ends with the document that holds
 * row (b + 1) * rows / 64 - 1; buckets may be empty. Not collective. */
void df_buckets_make(const uint64_t *document, uint64_t documents, df_buckets *out);

/* ---- accumulating --------------------------------------------------------------------------- */

typedef struct df_moments df_moments;

/* Sums of z = (x, e), e = x - x_hat, both `width` wide, over this rank's buckets. `form` (borrowed,
 * may be NULL) is a symmetric quadratic form made by df_form_new: each bucket's sum of z'Qz is then
 * kept too. Collective. */
df_status df_moments_new(df_comm *comm, size_t width, const double *form,
                         df_moments **out) DF_MUST_CHECK;
void df_moments_free(df_moments **moments);

/* Bytes on rank 0 of `size`, which has most: of df_moments_new; of its block alone, which finish
 * gives back first; of the sums that stay; of what finish takes besides while it joins the ranks.
 * Not collective. */
typedef struct df_moments_need {
    size_t open, block, sums, join;
} df_moments_need;
df_moments_need df_moments_plan(size_t width, int size);

/* The next rows belong to `bucket`: one of this rank's, later than the one before. Not collective.
 */
df_status df_moments_bucket(df_moments *moments, size_t bucket) DF_MUST_CHECK;
/* n rows of x and x_hat [n, width] with row stride `stride`. NaN or infinite values are
 * DF_BAD_INPUT. Not collective. */
df_status df_moments_add(df_moments *moments, const float *x, const float *x_hat, size_t n,
                         size_t stride) DF_MUST_CHECK;

/* ---- the sums ------------------------------------------------------------------------------- */

/* Sums over one bucket. */
typedef struct df_bucket_sums {
    double rows, x_square, e_square; /* n, sum |x|^2, sum |e|^2 */
    double form;                     /* sum z'Qz; 0 without a form */
} df_bucket_sums;

/* The same on every rank. */
typedef struct df_sums {
    size_t width;
    double rows;
    double *sum;    /* [2, width] sum of x, sum of e */
    double *second; /* sum of zz', packed in tiles: read it through df_sums_second */
    df_bucket_sums bucket[DF_BUCKETS];
    double *bucket_sum; /* [64, 2, width] */
} df_sums;

/* Ends the accumulation (the handle is freed in every case) and joins the ranks. Collective. */
df_status df_moments_finish(df_comm *comm, df_moments **moments, df_sums **out) DF_MUST_CHECK;
void df_sums_free(df_sums **sums);
/* Adds another part of the same width (training + held-out), buckets too; forms are not added. Not
 * collective. */
void df_sums_add(df_sums *into, const df_sums *part);

/* Which product of x, e and x_hat = x - e. */
typedef enum df_product { DF_XX, DF_XE, DF_EE, DF_HH } df_product;
/* out [width, width], row-major. second: the plain sum of products. scatter: about the mean, sum (a
 * - mean)(b - mean)'. covariance: the scatter over rows - 1. Not collective. */
void df_sums_second(const df_sums *sums, df_product product, double *out);
void df_sums_scatter(const df_sums *sums, df_product product, double *out);
void df_sums_covariance(const df_sums *sums, df_product product, double *out);

/* sum |x - x_hat|^2 / sum |x - mean|^2, pooled over columns. */
double df_sums_fvu(const df_sums *sums);

/* The quadratic form of the squared error of predicting e by x: z'Qz = |e - W'x|^2 = e'e - 2 e'W'x
 * + x'WW'x, for w = W [width, width] (row: column of x) and ww = WW'. New memory, df_free it. Not
 * collective. */
size_t df_form_bytes(size_t width);
df_status df_form_new(size_t width, const double *w, const double *ww, double **out) DF_MUST_CHECK;

/* ---- the jackknife -------------------------------------------------------------------------- */

/* A statistic of sums over rows: buckets [64, width], column 0 the number of rows. */
typedef double (*df_statistic)(const double *sums, void *context);
typedef struct df_estimate {
    double value,
        error; /* of all buckets; standard error, NaN with fewer than two buckets that hold rows */
} df_estimate;
/* Delete-one-bucket jackknife over the buckets that hold rows: error^2 = (g - 1)/g sum (t_b - mean
 * t)^2 (Tukey 1958). Not collective. */
df_status df_jackknife(const double *buckets, size_t width, df_statistic statistic, void *context,
                       df_estimate *out) DF_MUST_CHECK;

/* ---- the bootstrap -------------------------------------------------------------------------- */

/* Sums over DF_RESAMPLES samples, each of n units (documents) drawn with replacement (Efron 1979):
 * draw i of sample s is unit floor(n u), u number s n + i of DF_STREAM_BOOTSTRAP. units [n, width],
 * out [DF_RESAMPLES, width]. The same for any number of threads. Not collective. */
enum { DF_RESAMPLES = 1000 };
void df_bootstrap(const double *units, uint64_t n, size_t width, uint64_t seed, double *out);

typedef struct df_interval {
    double low, high;
} df_interval;
/* The 95 % interval of a statistic from its n values over samples: their 2.5 % and 97.5 % points,
 * linear between neighbours. Sorts them. NaN where one is not finite. Not collective. */
df_interval df_percentile_interval(double *values, size_t n);

#endif
