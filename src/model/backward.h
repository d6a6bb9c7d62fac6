/* Inside the backward pass. Private to module model. */
#ifndef DF_MODEL_BACKWARD_H
#define DF_MODEL_BACKWARD_H

#include "forward.h"

/* What is kept of a block while it is run again, each after its interventions. */
typedef enum {
    KEPT_RESID_PRE,
    KEPT_SCALE1,
    KEPT_Q,
    KEPT_K,
    KEPT_V,
    KEPT_PLACED_Q,
    KEPT_PLACED_K,
    KEPT_Z,
    KEPT_RESID_MID,
    KEPT_SCALE2,
    KEPT_PRE,
    KEPT_UP,
    KEPT_POST,
    KEPT_PATTERN, // where it is intervened upon
    KEPT_RESULT,  // the same
    KEPT_COUNT
} kept_site;

/* The gradient with respect to a site is that with respect to its rows after interventions. Arrays
 * are [rows, columns] of the forward pass; rows that are no tokens are zero. */
typedef struct backward {
    df_forward *f;
    float *const *gradient; // of the forward's sites
    float *block;           // one allocation for what follows
    float *kept[KEPT_COUNT];
    float *stream;     // gradient with respect to the residual stream
    float *part, *raw; // of what a part adds; what it added before a norm behind it
    float *normed;     // of what a part reads
    float *q, *k, *v, *z;
    float *hidden, *up;
    float *scale;           // [rows]
    double *row;            // [width] of a norm
    float *weights, *slope; // [heads, rows, rows] the pattern before interventions; the gradient
    float *scores;          // [rows, rows] of one head
    float *wide;            // [rows, columns] of attn.hook_pattern or attn.hook_result; NULL: no
                            // site and no intervention is there
} backward;

/* A site is reached from behind: its gradient goes to the caller, then back through its
 * interventions. */
void df_backward_reach(const backward *b, site_kind kind, size_t layer, float *g);
/* The gradient with respect to x = the rows before a norm, from that with respect to what the norm
 * hands on, in place; sites of the norm on the way. scale: what was divided by, after
 * interventions. */
void df_backward_norm(const backward *b, norm_place place, size_t layer, const float *x,
                      const float *scale, float *g);
/* The same of n rows of a root-mean-square norm without sites; x, g [n, width]. */
void df_backward_rms(const float *x, const float *gain, double epsilon, df_extent extent, float *g);
/* From act(pre) * up to pre and up, n elements: hidden holds the gradient and becomes pre's; up
 * NULL: none, else slope_up receives up's. */
void df_backward_activate(df_activation_kind kind, const float *pre, const float *up, size_t n,
                          float *hidden, float *slope_up);
/* x [rows, inputs] = beta * x + y [rows, outputs] W. */
void df_backward_project(const backward *b, role weight, size_t layer, df_extent extent,
                         const float *y, float *x, float beta);
/* From b->z to b->q, b->k, b->v. */
void df_backward_attend(const backward *b, size_t layer);

#endif
