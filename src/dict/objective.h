/* Inside a training step: what the objective adds to reconstruction (penalty.c, jumprelu.c,
 * gated.c, unsquared.c), all from entries sorted by latent. */
#ifndef DF_OBJECTIVE_H
#define DF_OBJECTIVE_H

#include "step.h"

/* Does this dictionary have what the objective speaks of? DF_USAGE says what not. */
df_status df_objective_check(const df_dict *d, const df_objective *o);

/* Entries whose codes the penalty sees: of a Gated dictionary the gate's, else the active ones. */
static inline df_code_store *df_penalised(df_coder *c) {
    return c->dict->activation == DF_GATED ? &c->side : &c->main;
}

/* ---- penalty.c ------------------------------------------------------------------------------ */

/* The sums over latents of one block, or of all. */
enum { TERM_SPARSITY, TERM_NEXT, TERM_PREACT, TERMS = BLOCK_TERMS };

/* Sets the latents' prices for code gradients, when the codes and so their norms are known. Not
 * collective. */
void df_objective_prices(df_coder *c, const df_objective *o);

/* Adds the objective's part to the gradients of all sorted entries and fills the latents' own
 * (norm_gradient, theta_gradient, ...); reports sparsity and pre-activation loss. Collective. */
df_status df_objective_terms(df_coder *c, const df_step_settings *set, df_step_report *report);

/* Rows that terms of all rows, active or not, count with the run c->run: those of the whole batch
 * with its first run, none with the others. */
static inline double df_counted_rows(const df_coder *c) {
    return c->run == 0 && c->first_row == 0 ? (double)c->batch : 0.0;
}

/* ---- jumprelu.c ----------------------------------------------------------------------------- */

/* The straight-through gradients of latent j; step_weight is dL/dH of one entry's step function. */
typedef struct df_jump_entries {
    df_entries active, side;
    double step_weight;
} df_jump_entries;
void df_jump_latent(df_coder *c, size_t j, const df_objective *o, const df_jump_entries *e);

/* ---- gated.c -------------------------------------------------------------------------------- */

/* The auxiliary reconstruction from the gate's codes: its loss, error and gradients of codes.
 * Collective. */
df_status df_gated_error(df_coder *c, const df_objective *o, df_step_report *report);
/* Gradients of latent j's magnitude parameters; its entries' gradients become dL/d pre. */
void df_gated_latent(df_coder *c, size_t j, const df_entries *active);

/* ---- unsquared.c ---------------------------------------------------------------------------- */

/* Losses whose gradient is no multiple of the error: mean over rows and output sites of |e_site|
 * (UNSQUARED), or sum over output sites of their FVU (FVU_SITES), whose errors and spreads the
 * report has. */
static inline bool df_is_shaped(const df_objective *o) {
    return o->reconstruction == DF_UNSQUARED || o->reconstruction == DF_FVU_SITES;
}
/* Turns the error of every row into dL/dx^, fills the codes' gradients, adds to center_gradient;
 * reports the loss. Collective. */
df_status df_shaped_error(df_coder *c, const df_objective *o, df_code_factor factor,
                          df_step_report *report);

/* Sums over this rank's leaves of rows, then over all: columns of `rows` [c->rows, stride] into
 * totals [width + 1], the sum of squares last. Collective. */
df_status df_column_sums(df_coder *c, const float *rows, size_t stride, size_t width,
                         double *totals);

#endif
