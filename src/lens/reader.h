/* One window of text under the lens: what its parts share. Private to module lens. */
#ifndef DF_LENS_READER_H
#define DF_LENS_READER_H

#include "parts.h"

#include "darkfield/kernels.h"

enum { LENS_ROWS = DF_FORWARD_ROWS }; // positions that are read out together

/* What all windows share. */
typedef struct lens_text_plan {
    const df_lens_input *input;
    const df_model_shape *shape;
    df_readout read;
    size_t rows;    // of a window, a multiple of LENS_ROWS
    double *offset; // [d] what is taken off a token's row of the unembedding
} lens_text_plan;

/* Columns of the sums of a window: two counts, then figures of df_lens in this order. */
enum { LENS_SCORED, LENS_BEHIND, LENS_FIRST };
typedef struct lens_columns {
    size_t point, whole, mlp, bias, head, previous, all;
} lens_columns;
lens_columns df_lens_columns(const df_model_shape *s);

/* One thread's window. Sites are [rows, width]. */
typedef struct lens_reader {
    const lens_text_plan *plan;
    df_forward *forward;
    float *sites;       // one block for those that follow
    float **stream;     // [L + 1] before each block and behind the last
    float **z, **mlp;   // [L]
    float *scale, *pos; // of the final norm; of learned positions, else NULL
    float **out;        // all of them in the forward's order
    lens_watch *watch;  // [L]
    char (*watched)[LENS_NAME];
    df_intervention *list;
    float *normed, *direction, *turned; // [LENS_ROWS, d]
    float *through;                     // [LENS_ROWS, H h]
    float *p, *logits;                  // [LENS_ROWS, V] the final distribution; logits at hand
    float *row;                         // [V]
    double nll[LENS_ROWS];
    double level[LENS_ROWS], own[LENS_ROWS]; // of the final logits a: log sum e^a, sum p a
    double logit[LENS_ROWS];                 // that is attributed
    uint32_t top[LENS_ROWS];
    double gap;            // over the windows so far
    df_range window;       // its rows in the text
    const uint8_t *scored; // [window.count]
    double *sums;
} lens_reader;

/* A sum of products in eight lanes. */
double df_lens_dot(const float *a, const float *b, size_t n);

/* Positions first .. first + n of the window: the logit lens, which fills p and what follows, then
 * the attribution. */
void df_lens_read_points(lens_reader *r, size_t first, size_t n);
void df_lens_attribute(lens_reader *r, size_t first, size_t n);

#endif
