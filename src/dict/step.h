/* Inside a training step: from codes to gradients. */
#ifndef DF_STEP_H
#define DF_STEP_H

#include "coder.h"

static inline float df_code_slope(const df_coder *c, df_code_factor factor, float product,
                                  size_t latent) {
    return factor.product * product + factor.norm * c->price[latent];
}
/* Gradients of the entries of `span`, all of one row; of those of a row. */
void df_code_gradient_span(const df_coder *c, df_code_store *s, df_range span, const float *vector,
                           df_code_factor factor);
void df_code_gradient_row(const df_coder *c, df_code_store *s, size_t row, const float *vector,
                          df_code_factor factor);

/* x less the reconstruction from the codes of `s`, for all rows: out [rows, out.count]; with a
 * factor the codes' gradients too, but for late ones. Collective. */
void df_error_rows(df_coder *c, df_code_store *s, float *out, const df_code_factor *factor);

/* df_code_gradient_row of all rows, but for codes that get theirs late; vectors [rows, out]. Not
 * collective. */
void df_code_gradients(df_coder *c, df_code_store *s, const float *vectors, df_code_factor factor);
/* The rows of all ranks, [rows, out], from those of each. Collective. */
void df_gather_rows(df_coder *c, const float *mine, float *all);
/* sum of squares over all rows of vectors [rows, out], those of all groups. Collective. */
df_status df_total_squares(df_coder *c, const float *vectors, double *out);

/* ---- groups.c ------------------------------------------------------------------------------- */

/* Terms that add up over rows: `add` puts those of some of this group's rows into out [width],
 * which begins as 0. A batch's leaves are STAT_ROWS rows of a run. */
typedef struct df_row_terms df_row_terms;
struct df_row_terms {
    void (*add)(const df_coder *c, const df_row_terms *terms, df_range rows, double *out);
    const float *rows; /* [rows, stride]: what is added up, where it is one thing */
    size_t stride, width;
};
/* totals [width], over all rows of all groups. Collective. */
df_status df_row_sums(df_coder *c, size_t width, const df_row_terms *terms, double *totals);
/* The same of what is summed over this group's rows run by run: where a run's sums belong (the
 * whole batch's: `out`); then their sum in the tree, when all ranks' status is good. Collective. */
double *df_run_sum(df_coder *c, size_t run, size_t width, double *out);
df_status df_join_runs(df_coder *c, df_status mine, size_t width, double *out);
/* What is known of whole latents, over all blocks: leaves [blocks of this rank, width]. Groups have
 * the same. Collective. */
df_status df_block_sums(df_coder *c, size_t width, double *leaves, double *out);
/* Which of a latent's n entries lie in a run: rows ascend. */
df_range df_run_part(const df_coder *c, size_t run, const uint32_t *row, size_t n);
/* Where a latent's sums over the run c->run are. */
static inline size_t df_run_slot(const df_coder *c, size_t j) {
    return (df_is_split(c) ? c->run + 1 : 0) * c->local + j;
}
/* From c->gradients of this group to those of all. Collective. */
void df_join_gradients(df_coder *c);
/* May a batch be cut into so many runs? DF_USAGE names what may not. */
df_status df_groups_check(const df_dict *d, const df_step_settings *set, size_t runs);

/* ---- dense.c -------------------------------------------------------------------------------- */

/* Counts the batch's active entries and says whether it is dense. Collective. */
void df_dense_choose(df_coder *c);
/* Can it be? Not where k bounds the active ones, nor where latents learn from different errors:
 * those of several groups, or of a Matryoshka dictionary, nor where a batch is split. Then these
 * many floats are needed: of the coder, and twice of each thread. */
bool df_dense_fits(const df_coder *c);
size_t df_dense_packed(const df_coder *c);
size_t df_dense_left(const df_coder *c);
size_t df_dense_sums(const df_coder *c);

/* Where panels hold a latent's code of a row. */
static inline size_t df_dense_at(const df_coder *c, size_t latent, size_t row) {
    return (latent / DF_TILE_LATENTS * c->rows + row) * DF_TILE_LATENTS + latent % DF_TILE_LATENTS;
}

/* The codes of all latents above their cuts, settled without a screen, in panels (of JumpReLU, the
 * others too); codes.start counts them. Not collective, as all that follow. */
void df_dense_encode(df_coder *c, df_code_store *out);
/* From panels to lists, and main from lists to panels. */
void df_dense_list(const df_coder *c, df_code_store *s);
void df_dense_spread(df_coder *c);
/* Of main, in panels: df_decode_local, into out [rows, nodes of this rank, out]; dL/df. */
void df_dense_decode(df_coder *c, float *out);
void df_dense_code_gradients(df_coder *c, const float *vectors, df_code_factor factor);
/* sum f price and sum f, [DF_TILE_LATENTS], of the panel of a latent. */
void df_dense_code_sums(const df_coder *c, size_t latent, double *priced, double *codes);
/* Which latents of a panel have a code above: fired [DF_TILE_LATENTS]. */
void df_dense_fired(const df_coder *c, size_t panel, float above, bool *fired);
/* Packs the batch for df_dense_latent. */
void df_dense_prepare(df_coder *c);
/* What main gives latent j: g_enc, g_dec, and sum of dL/df. Those of a block come in order: the
 * first of some makes them all. */
double df_dense_latent(const df_coder *c, df_worker *w, size_t j);

/* ---- fired.c -------------------------------------------------------------------------------- */

/* Rows since each latent last fired, this batch among them. Collective where latents fire by being
 * selected. */
void df_count_silent(df_coder *c, const df_step_settings *set);

/* ---- auxiliary.c ---------------------------------------------------------------------------- */

/* AuxK on the dead latents: its loss, error and gradients of codes; what an attached error or b_dec
 * adds to the rest. spread: mean over rows of sum (e - mean e)^2. Collective. */
df_status df_auxiliary(df_coder *c, const df_step_settings *set, df_code_factor factor,
                       double spread, df_step_report *report);

/* Is there room for k auxiliary latents a row? DF_USAGE where not. */
df_status df_auxiliary_fits(size_t k, size_t room);

/* ---- matryoshka.c --------------------------------------------------------------------------- */

/* Errors of all prefixes: error gets the last one's, nested the E_g, main the gradients of codes;
 * reports their loss. Collective. */
df_status df_nested_errors(df_coder *c, df_code_factor factor, double weight,
                           df_step_report *report);
void df_nested_code_gradients(df_coder *c, df_code_factor factor); /* of main, from nested */
/* center_gradient, from nested. Collective. */
df_status df_nested_center(df_coder *c);

/* The vectors [rows, out] that latent j's decoder row learns from. */
static inline const float *df_vectors_of(const df_coder *c, size_t j) {
    const df_dict *d = c->dict;
    size_t g = 0;
    if (d->prefixes == 0) return c->error;
    while (d->prefix[g] <= d->mine.first + j) g++;
    return c->nested + g * c->max_rows * c->out;
}

/* ---- multi.c -------------------------------------------------------------------------------- */

/* FVU with 4 k latents per row: its loss and gradients of codes; b_dec's too. Collective. */
df_status df_multi(df_coder *c, const df_step_settings *set, df_step_report *report);

/* Where a latent's gradient goes: into Adam, into a norm, or out. */
typedef struct df_sink {
    const df_adam *adam;
    bool unit_decoder, unit_first, raw_threshold;
    float factor;    /* of all gradients: clipping */
    double *squares; /* [my_blocks] instead: sums of squares of the blocks' gradients */
    bool centered;   /* center_gradient is complete */
    df_gradients *out;
} df_sink;

/* Where a batch is split: the gradients of this rank's latents, summed over its runs and over all
 * groups, for df_latent_gradients to take; else nothing. Collective. */
void df_split_gradients(df_coder *c);
/* Has a code of the latent risen above fired_above, in any group? After the gradients. */
bool df_latent_fired(const df_coder *c, size_t j);
/* One pass over this rank's latents; completes center_gradient. Collective. */
df_status df_latent_gradients(df_coder *c, const df_sink *sink);

/* The same for this rank's rows of W_skip. Not collective. */
void df_skip_gradients(df_coder *c, const df_sink *sink);
/* sum of squares of W_skip's gradient; sink->squares is set. Collective. */
df_status df_skip_norm(df_coder *c, const df_sink *sink, double *squares);

/* ---- bind.c --------------------------------------------------------------------------------- */

/* A bound latent's gradient: a shared decoder's is the sum over models, in every part; columns that
 * a dedicated latent does not have get none. */
void df_bind_gradient(const df_dict *d, size_t j, float *g_enc, float *g_dec);
/* After latent j has moved: shared parts and their moments are the same to the bit. */
void df_bind_moved(df_coder *c, size_t j);

/* ---- entries.c ------------------------------------------------------------------------------ */

/* Sorts lists by latent, rows ascending. */
void df_sort_by_latent(const df_coder *c, df_code_store *s);

/* One latent's entries of main or side, rows ascending: sorted lists, or out of a panel into the
 * worker's scratch, from where df_entries_put takes gradients back. */
typedef struct df_entries {
    const uint32_t *row;
    const float *value;
    float *gradient; /* dL/df */
    size_t n;
} df_entries;
df_entries df_entries_of(const df_coder *c, df_worker *w, const df_code_store *s, size_t j);
void df_entries_put(const df_coder *c, const df_code_store *s, size_t j, const df_entries *e);

/* ---- extras.c, clip.c ----------------------------------------------------------------------- */

/* Do the settings go together, and with the dictionary? DF_USAGE says what does not. */
df_status df_extras_check(const df_dict *d, const df_step_settings *set);
/* Is there room for what they ask for? */
df_status df_extras_room(const df_coder *c, const df_step_settings *set);
/* One step of the averages of this rank's weights. Not collective. */
void df_ema_update(df_coder *c, double keep);
/* Brings all decoder rows to norm 1. Not collective. */
void df_unit_rows(df_coder *c);
/* The norm of all gradients, projected as the sink says; sink->factor brings it down to `most`
 * (PyTorch's clip_grad_norm_). Gradients are made here for their norm alone, and again by
 * df_latent_gradients: the sparse sums are cheap beside storing them. Collective. */
df_status df_clip(df_coder *c, double most, df_sink *sink, df_step_report *report);

#endif
