/* darkfield/spectrum.h: the spectrum of what a dictionary leaves unexplained ("dark matter").
 *
 * For each model (a range of columns of the rows): eigenvalues of the covariances of e = x - x_hat,
 * x and x_hat over all rows, and how much of e is linear in x. The linear part follows Engels et
 * al. (arXiv 2410.14670) with an intercept, a ridge, and a split by documents: e ~ W'x + b is
 * fitted on the training rows and tested on the held-out rows. Everything comes from accumulated
 * moments; every row is read once.
 *
 *   r2_pooled   1 - sum |e - W'x - b|^2 / sum |e - mean e|^2 over held-out rows, all columns
 * together r2_mean     the unweighted mean over columns of the same (scikit-learn's r2_score;
 * Engels et al.) r2_error    standard error of r2_pooled: delete-one jackknife over document
 * buckets fvu         sum |e|^2 / sum |x - mean x|^2 over held-out rows, fvu_error its jackknife
 * error slope       tr cov(x, x_hat) / tr cov(x): below 1 where x_hat is shrunk, which alone makes
 * e linear in x participation_ratio   (sum of eigenvalues)^2 / sum of their squares
 *
 * Result file, format "darkfield-spectrum", a group per model:
 *   /<model>/residual/eigenvalues f64 [d]       descending, attributes participation_ratio, trace,
 * eigen_residual
 *   /<model>/residual/eigenvectors f64 [d, d]   row k belongs to eigenvalue k, its largest
 * component positive
 *   /<model>/x/eigenvalues, /<model>/xhat/eigenvalues f64 [d]   with the same attributes
 *   /<model> attributes: r2_pooled, r2_mean, r2_error, fvu, fvu_error, slope, ridge (what was added
 * to the diagonal), rcond (of the fit), rows_train, rows_heldout */
#ifndef DARKFIELD_SPECTRUM_H
#define DARKFIELD_SPECTRUM_H

#include "darkfield/base.h"
#include "darkfield/comm.h"
#include "darkfield/linalg.h"
#include "darkfield/moments.h"
#include "darkfield/store.h"

/* Columns [first, first + width) of a row. Eigenvalues are those of x / scale (the model's own
 * units when rows are in the dictionary's). name is a group name: not empty, no '/', unlike the
 * others. */
typedef struct df_spectrum_model {
    const char *name;
    size_t first, width;
    double scale;
} df_spectrum_model;

typedef enum df_spectrum_side {
    DF_SIDE_RESIDUAL,
    DF_SIDE_X,
    DF_SIDE_XHAT,
    DF_SIDES
} df_spectrum_side;

/* Where rows come from. All is borrowed and the same on every rank, but for what `context` does. */
typedef struct df_spectrum_input {
    const df_spectrum_model *model;
    size_t models, width;     /* columns of a row */
    const uint64_t *document; /* [documents + 1] first row of each document (df_acts) */
    uint64_t documents;
    const uint64_t *rows[2]; /* training, held-out rows to use, ascending */
    size_t n_rows[2];
    size_t batch; /* most rows of a call */
    /* x [n, width] of rows[0..n). Not collective. */
    df_status (*read)(void *context, const uint64_t *rows, size_t n, float *x);
    /* x_hat [n, width] for each rank's own x; n is the same on every rank, short ranks bring rows
     * of zeros. Collective; the rows' results must not depend on which rows they come with. */
    df_status (*apply)(void *context, const float *x, size_t n, float *x_hat);
    void *context;
} df_spectrum_input;

/* What is found for one model; the same on every rank, but for `vectors`. */
typedef struct df_spectrum_result {
    size_t width;
    double *values[DF_SIDES]; /* [width] descending */
    double *vectors;          /* [width, width] of the residual, on rank 0; NULL elsewhere */
    double participation_ratio[DF_SIDES], trace[DF_SIDES], eigen_residual[DF_SIDES];
    double r2_pooled, r2_mean, r2_error, fvu, fvu_error, slope, ridge, rcond;
    double rows_train, rows_heldout;
} df_spectrum_result;

/* ridge is relative: ridge * tr(scatter of x) / width is added to the diagonal. *out [models] is
 * freed with df_spectrum_free. No training or held-out rows, or non-finite ones: DF_BAD_INPUT.
 * Collective. */
df_status df_spectrum_compute(df_comm *comm, const df_spectrum_input *input, double ridge,
                              df_spectrum_result **out) DF_MUST_CHECK;
void df_spectrum_free(df_spectrum_result **results, size_t models);

typedef struct df_spectrum_options {
    double ridge;
    const char *output, *resolved_job;
    df_provenance facts;
} df_spectrum_options;

/* Computes and writes the result file. Collective. */
df_status df_spectrum_run(df_comm *comm, const df_spectrum_input *input,
                          const df_spectrum_options *options) DF_MUST_CHECK;

/* What df_spectrum_run needs on rank 0 of `size`, beside what is open and what `apply` keeps;
 * `read`: bytes that a call of the input's read takes of training and of held-out rows. Of the
 * input, the models, the batch and the width are looked at. Not collective. */
df_status df_spectrum_plan(const df_spectrum_input *input, const df_spectrum_options *options,
                           int size, const size_t read[2], df_need *out) DF_MUST_CHECK;

#endif
