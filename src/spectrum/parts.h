/* What the files of spectrum share. */
#ifndef DF_SPECTRUM_PARTS_H
#define DF_SPECTRUM_PARTS_H

#include "darkfield/spectrum.h"

enum { TRAINING, HELD_OUT };

/* e ~ W'x + b of one model, the same on every rank. */
typedef struct linear_fit {
    double *w;    // [width of x, width of e]
    double *b;    // [width]
    double *form; // of the squared error of W alone (moments.h)
    double ridge, rcond;
} linear_fit;

/* Streams one part of the rows through the dictionary. sums [models], freed by the caller even
 * after a failure. fits (may be NULL) give each model's form. Collective. */
df_status df_spectrum_pass(df_comm *comm, const df_spectrum_input *input, int part,
                           const linear_fit *fits, df_sums **sums) DF_MUST_CHECK;

/* Fits on training sums. Collective. */
df_status df_spectrum_fit(df_grid *grid, df_comm *comm, const df_sums *train, double ridge,
                          linear_fit *out) DF_MUST_CHECK;
void df_spectrum_fit_free(linear_fit *fit);
/* Tests on held-out sums that were made with the fit's form: r2_*, fvu*. Collective. */
df_status df_spectrum_test(df_grid *grid, df_comm *comm, const linear_fit *fit,
                           const df_sums *heldout, df_spectrum_result *result) DF_MUST_CHECK;

/* The result file. Collective. */
df_status df_spectrum_write(df_comm *comm, const df_spectrum_input *input,
                            const df_spectrum_result *results,
                            const df_spectrum_options *options) DF_MUST_CHECK;

/* What the result file needs. Not collective. */
df_status df_spectrum_file_need(const df_spectrum_input *input, const df_spectrum_options *options,
                                df_need *out) DF_MUST_CHECK;

#endif
