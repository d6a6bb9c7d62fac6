/* darkfield/hooks.h: interventions in the forward pass, one token after another, and gradients (a
 * part of module model).
 *
 * An intervention changes the rows of one hook site before anything downstream reads them, as a
 * hook function of TransformerLens does: everything after the site follows from the changed rows,
 * and the site itself is handed out changed. Sites are those of model.h, all of them; of
 * attn.hook_pattern, columns of keys that the window does not have are ignored. Numbers that no
 * changed row reaches agree with a run without interventions to rounding. Nothing here is
 * collective. */
#ifndef DARKFIELD_HOOKS_H
#define DARKFIELD_HOOKS_H

#include "darkfield/model.h"

typedef enum df_edit {
    DF_EDIT_REPLACE, /* x = values: zero, mean and resample ablation, a spliced reconstruction */
    DF_EDIT_ADD,     /* x += values: steering */
    DF_EDIT_SCALE,   /* x *= factor */
    DF_EDIT_PROJECT, /* x -= (<x, v> / <v, v>) v: the direction v is projected out */
    DF_EDIT_CALL     /* call(context, rows) does what it likes */
} df_edit;

/* Rows of a site on their way: x [n, width], row r at position first + r of the window. */
typedef struct df_site_rows {
    float *x;
    size_t first, n, width;
} df_site_rows;
typedef df_status df_site_call(void *context, const df_site_rows *rows);

/* Positions [from, to), to = 0: all from `from` on. Columns [column, column + columns) of the site,
 * columns = 0: all; head h of attn.hook_z is column = h * head_width, columns = head_width. */
typedef struct df_intervention {
    const char *site;
    df_edit edit;
    size_t from, to;
    size_t column, columns;
    /* [columns]; with per_position [positions, columns], the first row for position `from`. NULL is
     * zero (REPLACE only). PROJECT takes one row, not zero. */
    const float *values;
    bool per_position;
    float factor;       /* SCALE */
    df_site_call *call; /* CALL: sees all columns; once a run, logits 64 rows at a time */
    void *context;
} df_intervention;

/* From now on every run of `forward` makes these n changes, in this order at each site; n = 0:
 * none. The list is copied; sites, values and contexts are borrowed until the next call. A site
 * that the model lacks, columns or positions outside, or a missing value are DF_USAGE, and leave no
 * intervention behind. A failing call ends the run with its status. */
df_status df_forward_intervene(df_forward *forward, const df_intervention *list,
                               size_t n) DF_MUST_CHECK;

/* Bytes that n interventions take as long as they are set, for plans; pattern: some of them are at
 * attn.hook_pattern, which is no site of the forward. Those at attn.hook_result take more. */
uint64_t df_forward_intervene_bytes(const df_model_shape *shape, size_t context, size_t n,
                                    bool pattern);

/* ---- one token after another ---------------------------------------------------------------- */

/* From now on runs keep every layer's keys and values, 8 bytes for each of layers * context *
 * kv_heads * head_width. DF_USAGE for dynamic rope scaling, where they change as a window grows. */
df_status df_forward_keep(df_forward *forward) DF_MUST_CHECK;

/* One more token behind the window last run (and the tokens since): sites and logits of its row
 * alone, out[i] [1, width of site i]. Interventions act at its position; what they did to kept keys
 * and values stays. The same numbers as a run of the longer window, to rounding. A full context is
 * DF_USAGE. Losses and gradients are those of whole windows: they need df_forward_run again. */
df_status df_forward_next(df_forward *forward, uint32_t id, float *const *out,
                          float *logits) DF_MUST_CHECK;

/* ---- gradients ------------------------------------------------------------------------------ */

/* From now on runs keep the residual stream before each block: 4 * (layers + 1) * rows * width
 * bytes. */
df_status df_forward_tape(df_forward *forward) DF_MUST_CHECK;

/* After df_forward_run with a tape: the gradients of S = sum over t, v of seed[t, v] * logits[t, v]
 * with respect to the forward's sites: gradient[i] [n, width of site i]. Every path counts:
 * attention patterns, norms' scales and soft-caps are not frozen. seed [n, vocabulary] = dS/dlogits
 * of any scalar. A site's gradient is that with respect to its rows after interventions, and goes
 * on through them: nothing passes a replacement; a CALL is DF_USAGE. attn.hook_pattern has its
 * gradient at masked weights too. Blocks are run again, so that it takes about three times as long
 * as the run, and memory for one block. */
df_status df_forward_gradient(df_forward *forward, const float *seed,
                              float *const *gradient) DF_MUST_CHECK;

#endif
