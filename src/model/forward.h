/* Inside the forward pass: its working arrays, and the parts of a block. Private to module model.
 */
#ifndef DF_MODEL_FORWARD_H
#define DF_MODEL_FORWARD_H

#include "arch.h"
#include "darkfield/hooks.h"

/* Rows of one window, all padded to `rows`, a multiple of DF_FORWARD_ROWS; rows beyond the window's
 * tokens are zero at the start and never reach a token's row. */
struct df_forward {
    const df_model *model;
    size_t context, rows, tokens;    // tokens: rows of the last run that are tokens
    size_t past;                     // positions before row 0: not 0 in a step by one token
    float *cache;                    // [layers, 2, context, kv_heads * head_width] placed keys,
                                     // values of all positions; NULL: not kept
    float *weights;                  // [heads, context] of a step; with the cache
    float *tape;                     // [layers + 1, rows, width] the stream before each block and
                                     // behind the last; NULL: not kept
    struct forward_edits *edits;     // NULL: no interventions
    uint32_t *ids;                   // [rows]
    float *block;                    // one allocation for what follows
    float *stream, *normed, *change; // [rows, width]
    float *attended;                 // [rows, width] what attention adds, while the MLP runs
    float *ones;                     // [width]
    float *q, *mixed;                // [rows, heads * head_width]
    float *k, *v;                    // [rows, kv_heads * head_width]
    float *gate, *up;                // [rows, mlp_width]
    float *packed;                   // rows of a product in bf16
    float *scores;                   // [df_attention_scratch(rows)]
    float *pattern;                  // [heads, rows, rows] where a site wants it, else NULL
    float *logits;                   // [DF_FORWARD_ROWS, vocabulary]
    float *cosine[2], *sine[2];      // [rows, rotary / 2] of full and of local layers
    size_t turned_for;               // tokens that the angles hold for
    site_place *place;               // [sites]
    size_t sites;
    float *const *out; // of the current run
};

/* DF_USAGE where the model is a part. */
df_status df_forward_need_whole(const df_forward *f) DF_MUST_CHECK;
/* Fills the angles for a window of n tokens. */
df_status df_forward_turn(df_forward *f, size_t n) DF_MUST_CHECK;

/* True where a site is handed out, where it is changed. */
bool df_forward_wants(const df_forward *f, site_kind kind, size_t layer);
bool df_forward_edits(const df_forward *f, site_kind kind, size_t layer);
/* A site is reached: its interventions change rows [tokens, columns of the site], then those go to
 * every site of `out` that is this place. */
void df_forward_reach(const df_forward *f, site_kind kind, size_t layer, float *rows);
/* The interventions alone, on n rows from position `first` on. */
void df_forward_edit(const df_forward *f, site_place place, size_t first, size_t n, float *rows);
/* How the interventions went so far. */
df_status df_forward_edited(const df_forward *f);

void df_forward_forget(df_forward *f); // the interventions

/* The interventions of a pass. */
typedef struct forward_edits {
    df_intervention *list;
    site_place *place; // [n]
    size_t n;
    df_status status; // of the first that failed in this run
    float *wide;      // [rows, columns] of attn.hook_pattern or attn.hook_result, where edited
    float *pattern;   // [heads, rows, rows] where edited and no site wants it
} forward_edits;

/* normed = norm(stream), and the sites of that norm. */
typedef struct norm_place {
    role gain;
    site_kind scale, normalized;
} norm_place;
void df_forward_norm(const df_forward *f, norm_place place, size_t layer);
/* change = attention(normed), before a norm behind it. */
void df_forward_attend(const df_forward *f, size_t layer);
/* sum [rows, width] = the heads' results [tokens, heads, width] and the output's bias. */
void df_forward_sum_results(const df_forward *f, size_t layer, const float *results, float *sum);
df_score_rule df_score_rule_of(const model_config *config, size_t layer);
/* y [rows, outputs] = x [rows, inputs] W' + bias; extent holds inputs (rows) and outputs (width).
 */
void df_forward_project(const df_forward *f, role weight, size_t layer, df_extent extent,
                        const float *x, float *y);
/* Logits of rows [first, first + DF_FORWARD_ROWS) into f->logits, before the soft-cap. */
void df_forward_products(const df_forward *f, size_t first);
/* One block: stream to stream. */
void df_forward_block(const df_forward *f, size_t layer);

#endif
