/* darkfield/eval.h: how well a dictionary explains rows it was not trained on.
 *
 * FVU of a site = sum |x - x^|^2 / sum |x - mean|^2, pooled over the held-out rows in use; a site's
 * scale cancels, so it is the number in the model's own units. Its error is the jackknife over the
 * 64 document buckets of moments.h (df_jackknife). Public trainers report two others, which are
 * given beside it so that figures can be compared:
 *   by batches  mean over batches of sum |e - mean e|^2 / sum |x - mean x|^2, means being the
 *               batch's: an error that is the same in all rows costs nothing (dictionary_learning's
 *               1 - frac_variance_explained)
 *   by rows     mean over rows of |e|^2 / |x - mean x|^2, the mean being the batch's: rows near it
 *               count for much (1 - explained variance of ckkissane's and Nanda's crosscoders, and
 *               of SAEBench's tables)
 * Batches are runs of held-out rows in order: those of a bucket, cut into as few equal runs of at
 * most fvu_batch rows as there can be. Active: f > 0. L0: mean number active per row.
 * Dead: never active on these rows. Dense: active on more than 10 %.
 *
 * Only sites that the dictionary writes have an FVU.
 *
 * Result file, format "darkfield-evaluation" (S output sites, m latents):
 *   /sites/fvu, /sites/fvu_error f64 [S], /sites/fvu_batches, /sites/fvu_batches_error,
 *   /sites/fvu_rows, /sites/fvu_rows_error f64 [S]   /latents/fires u64 [m]   (rows on which the
 * latent is active) and of synthetic rows /recovery/latent_cosine f64 [m],
 * /recovery/direction_cosine f64 [directions], /recovery/direction_class u8 [directions] with
 * attributes mmcs_learned_to_true, mmcs_true_to_learned, found, alive, only_a, only_b; where the
 * loss was asked for, /loss/... of loss.h; root attributes l0, rows, fvu_batch, latents, dead,
 * dense, alive, sites; site0, model0, ... */
#ifndef DARKFIELD_EVAL_H
#define DARKFIELD_EVAL_H

#include "darkfield/base.h"
#include "darkfield/comm.h"
#include "darkfield/dict.h"
#include "darkfield/loss.h"
#include "darkfield/rows.h"
#include "darkfield/store.h"

typedef struct df_eval_options {
    size_t batch;  /* rows encoded at a time over all ranks */
    uint64_t rows; /* of an endless set: so many; else all */
    /* Rows of a batch of FVU by batches and rows, at most; at least 1. No batch crosses one of the
     * 64 buckets of documents; where none has two rows that differ, those FVU are NaN. */
    uint64_t fvu_batch;
    const char *output, *resolved_job;
    df_provenance facts;
} df_eval_options;

/* The figures, the same on every rank. */
typedef struct df_evaluation {
    size_t sites; /* that are written */
    double fvu[DF_MAX_SITES], fvu_error[DF_MAX_SITES];
    double fvu_batches[DF_MAX_SITES], fvu_batches_error[DF_MAX_SITES];
    double fvu_rows[DF_MAX_SITES], fvu_rows_error[DF_MAX_SITES];
    uint64_t rows, active; /* active: entries over all rows */
    double l0;
    uint64_t latents, dead, dense;
    uint64_t *fires; /* this rank's latents; df_free it */
} df_evaluation;

/* Site s of the dictionary is site s of the data set. DF_BAD_INPUT when it does not fit. Buckets
 * are of documents, for synthetic rows of equal runs. Collective. */
df_status df_evaluate(df_comm *comm, df_kernels *kernels, df_dict *dict, const df_rows *rows,
                      const df_eval_options *options, df_evaluation *out) DF_MUST_CHECK;

/* ---- known directions ----------------------------------------------------------------------- */

/* Of synthetic rows the true directions are known. Cosines are between whole decoder rows (all
 * models side by side) and true directions in dictionary units. MMCS: mean over one side of the
 * largest cosine with the other (Sharkey et al. 2022). The same on every rank but `latent`. */
typedef struct df_recovery {
    size_t directions;
    double *latent;    /* [mine.count] largest cosine with a direction; NaN: the decoder is 0 */
    double *direction; /* [directions] largest cosine with a latent */
    uint8_t *class_;   /* [directions] 0 shared (or one model), 1 and 2: the first, second alone */
    double learned_to_true, true_to_learned; /* MMCS */
    double by_class[3];                      /* true to learned; NaN: none of that class */
    uint64_t found;                          /* directions with a cosine above 0.9 */
    uint64_t alive, only_a, only_b; /* latents that fire, and whose |d_B| / (|d_A| + |d_B|) is below
                                       0.1, above 0.9 */
} df_recovery;
/* fires [mine.count] of an evaluation. Collective; df_recovery_free. */
df_status df_recover(df_comm *comm, const df_dict *dict, const df_synthetic *toy,
                     const uint64_t *fires, df_recovery *out) DF_MUST_CHECK;
void df_recovery_free(df_recovery *recovery); /* Not collective */

/* What the result file holds beside the figures; NULL: not there. */
typedef struct df_eval_more {
    const df_recovery *recovery;
    const df_loss *loss;
} df_eval_more;
/* Writes the result file. Collective. */
df_status df_evaluation_write(df_comm *comm, const df_dict *dict, const df_evaluation *found,
                              const df_eval_more *more,
                              const df_eval_options *options) DF_MUST_CHECK;

/* What evaluating the planned dictionary on these rows will need beside what is open, without the
 * runs that make `more`: of its recovery, the number of directions is read; of its loss, models,
 * conditions, context and names. Not collective. */
df_status df_evaluate_plan(const df_dict_plan *plan, const df_rows *rows, const df_eval_more *more,
                           const df_eval_options *options, df_need *out) DF_MUST_CHECK;

#endif
