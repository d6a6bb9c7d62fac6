/* darkfield/eval.h: how well a dictionary explains rows it was not trained on.
 *
 * FVU of a site = sum |x - x^|^2 / sum |x - mean|^2, pooled over the held-out rows in use; a site's
 * scale cancels, so it is the number in the model's own units. Its error is the jackknife over the
 * 64 document buckets of moments.h (df_jackknife). Active: f > 0. L0: mean number active per row.
 * Dead: never active on these rows. Dense: active on more than 10 %.
 *
 * Only sites that the dictionary writes have an FVU.
 *
 * Result file, format "darkfield-evaluation" (S output sites, m latents):
 *   /sites/fvu, /sites/fvu_error f64 [S]   /latents/fires u64 [m]   (rows on which the latent is
 * active) root attributes l0, rows, latents, dead, dense, alive, sites; site0, model0, ... */
#ifndef DARKFIELD_EVAL_H
#define DARKFIELD_EVAL_H

#include "darkfield/base.h"
#include "darkfield/comm.h"
#include "darkfield/dict.h"
#include "darkfield/store.h"

typedef struct df_eval_options {
    size_t batch;    /* rows encoded at a time over all ranks */
    bool skip_first; /* leave out BOS rows and the first position of each window */
    const char *output, *resolved_job;
    df_provenance facts;
} df_eval_options;

/* The figures, the same on every rank. */
typedef struct df_evaluation {
    size_t sites; /* that are written */
    double fvu[DF_MAX_SITES], fvu_error[DF_MAX_SITES];
    uint64_t rows, active; /* active: entries over all rows */
    double l0;
    uint64_t latents, dead, dense;
    uint64_t *fires; /* this rank's latents; df_free it */
} df_evaluation;

/* Site s of the dictionary is acts[s] / site[s]; the files are aligned. DF_BAD_INPUT when they do
 * not fit the dictionary or hold no held-out rows. Collective. */
df_status df_evaluate(df_comm *comm, df_kernels *kernels, df_dict *dict, df_acts *const *acts,
                      const size_t *site, const df_eval_options *options,
                      df_evaluation *out) DF_MUST_CHECK;
/* Writes the result file. Collective. */
df_status df_evaluation_write(df_comm *comm, const df_dict *dict, const df_evaluation *found,
                              const df_eval_options *options) DF_MUST_CHECK;

#endif
