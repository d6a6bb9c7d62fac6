/* darkfield/hooks.h: interventions in the forward pass (a part of module model).
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

#endif
