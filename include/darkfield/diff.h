/* darkfield/diff.h: what a crosscoder says of the difference between two models, latent by latent.
 *
 * Decoder norms are those of normalised units (each model's rows scaled to unit mean square), which
 * is how dictionaries are stored. relative_norm = |d_B| / (|d_A| + |d_B|); Delta_norm = ((|d_B| -
 * |d_A|) / max + 1) / 2 (Minder et al., arXiv 2504.02922). A latent is alive when it fired in the
 * statistics.
 *
 * Result file, format "darkfield-diff":
 *   /latents/norm_a, norm_b, relative_norm, delta_norm, cosine f64 [m]   class, alive u8 [m]
 *   /classes/count u64 [5]   living latents: A-only, A-leaning, shared, B-leaning, B-only
 *   /sorted/latent u64 [alive]   ascending by Delta_norm, then by index
 *   /histogram/count u64 [50], edges f64 [51]   relative_norm of living latents
 *   /table/...   per concept: best latent of any class and best one that is not shared, chosen by
 * F1 on training documents latent u64 [T, 2] (UINT64_MAX: none)  class u8  delta_norm, precision,
 * recall (held-out), train_precision, train_recall f64 [T, 2] names as attributes name0, name1, ...
 */
#ifndef DARKFIELD_DIFF_H
#define DARKFIELD_DIFF_H

#include "darkfield/base.h"
#include "darkfield/comm.h"
#include "darkfield/dict.h"
#include "darkfield/store.h"

typedef enum df_class { DF_A_ONLY, DF_A_LEANING, DF_SHARED, DF_B_LEANING, DF_B_ONLY } df_class;
enum { DF_CLASSES = 5 };
const char *df_class_name(df_class c);   /* "B-leaning" */
df_class df_class_of(double delta_norm); /* below 0.1 A-only, to 0.4 A-leaning, to 0.6 shared, to
                                            0.9 B-leaning, above B-only */
double df_delta_norm(double norm_a, double norm_b); /* 0.5 when both are zero */

typedef struct df_diff_options {
    const char *output, *resolved_job;
    const char *const *concepts; /* rows of the table, NULL: all labelled ones */
    size_t n_concepts;
    df_provenance facts;
} df_diff_options;

/* Compares the two sites of a crosscoder, with the statistics made by df_stats_run, and writes the
 * result file. DF_BAD_INPUT when the dictionary does not hold exactly two sites of one width each,
 * or the statistics are of another. Collective. */
df_status df_diff_run(df_comm *comm, const df_dict *dict, const df_reader *stats,
                      const df_diff_options *options) DF_MUST_CHECK;

/* What comparing will need beside what is open. Not collective. */
df_status df_diff_plan(const df_dict_plan *plan, const df_reader *stats,
                       const df_diff_options *options, df_need *out) DF_MUST_CHECK;

#endif
