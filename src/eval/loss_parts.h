/* The parts of the loss evaluation. Private to module eval. */
#ifndef DF_EVAL_LOSS_PARTS_H
#define DF_EVAL_LOSS_PARTS_H

#include "darkfield/hooks.h"
#include "darkfield/loss.h"

/* The error that x predicts: l = W'x + b. */
typedef struct loss_linear {
    double *w; // [width of x, width of e]
    double *b; // [width]
} loss_linear;

/* One written site. */
typedef struct loss_site {
    const df_dict_site *site;
    size_t model, width, out; // out: its first column of x^
    float *mean;              // [width]
    double *root[2];          // [width, width] Cholesky factors of the covariances of x and of e
    loss_linear linear[2];    // for the rows of each half, fitted on the other
} loss_site;

/* What all windows share. */
typedef struct loss_plan {
    const df_dict *dict;
    const df_loss_input *input;
    size_t conditions, context;
    loss_site *written; // [n_written]
    size_t n_written;
    uint8_t *half;                 // [rows of the text] 0 or 1
    size_t of_model[DF_MAX_SITES]; // the model of each site of a row
} loss_plan;

/* Rows of a site on their way to a model: changed ones are taken from values [n, width]. */
typedef struct loss_splice {
    const float *values;
    const uint8_t *changed; // [n] of the window
} loss_splice;

/* Directions of a row that two or four conditions share: draws of the covariances of x and of e,
 * and minus the linear part of the error. */
typedef enum loss_kept {
    KEPT_COVARIANCE_X,
    KEPT_COVARIANCE_E,
    KEPT_LINEAR,
    KEPT_DIRECTIONS
} loss_kept;

/* One thread's window. Sites stand side by side, each [n, width] from context * its first column.
 */
typedef struct loss_window {
    df_forward *forward[DF_LOSS_MODELS]; // hands out the sites of its model, in the row's order
    float *raw;                          // [context, dict width] of the clean run
    float *values;                       // [context, out] what a condition puts there
    float *clean[DF_LOSS_MODELS];        // [context, vocabulary] the clean run's probabilities p
    float *logits;                       // [context, vocabulary]
    double *nll, *now;                   // [context] losses, log sum e^b of the logits b at hand
    double *level, *own;                 // [models, context] of the clean logits a: log sum e^a,
                                         // sum p a
    uint32_t *top;                       // [models, context] where they are largest
    double *draw;                        // [2, widest written site]
    double *kept;                        // [KEPT_DIRECTIONS, out] columns of [n]; with nulls
    double *sums;                        // [models, conditions, DF_LOSS_QUANTITIES, context]
    loss_splice *splice;                 // [n_written]
    df_intervention *edit;               // [n_written]
    uint64_t number;                     // of the window
    df_range rows;                       // of the text
} loss_window;

/* The first window of a bucket; of DF_BUCKETS the number of windows. */
static inline uint64_t df_loss_bucket(const df_loss_text *text, size_t bucket) {
    return text->windows * bucket / DF_BUCKETS;
}

/* The clean run of every model: raw, and x [n, dict width] in the dictionary's units. */
df_status df_loss_clean(const loss_plan *plan, loss_window *w, float *x) DF_MUST_CHECK;
/* All conditions of the window, from x_hat [n, out.count] in the models' units; fills sums. */
df_status df_loss_conditions(const loss_plan *plan, loss_window *w,
                             const float *x_hat) DF_MUST_CHECK;
/* Makes the kept directions of written site `s`: before nulls are filled in. */
void df_loss_keep(const loss_plan *plan, loss_window *w, size_t s, const float *x_hat);
/* What a condition makes of the rows of written site `s`, into values [n, width]. */
void df_loss_fill(const loss_plan *plan, loss_window *w, df_loss_condition condition, size_t s,
                  const float *x_hat);

/* The sums of one quantity of one condition, by position. */
static inline double *df_loss_sums(const loss_plan *plan, double *sums, size_t model,
                                   size_t condition, size_t quantity) {
    return sums +
           ((model * plan->conditions + condition) * DF_LOSS_QUANTITIES + quantity) * plan->context;
}

/* The lower factor L of a covariance C = L L', in place of C [n, n]; columns of directions without
 * variance are zero. */
void df_loss_root(double *c, size_t n);

/* Deals the text's rows to two halves, whole documents (windows, where documents leave a half
 * without rows to fit on). */
void df_loss_halves(const df_loss_text *text, uint64_t seed, uint8_t *half);
/* Fits e = W'x + b with the ridge on the sums of a half's rows. scratch [width, width]. */
void df_loss_fit(const df_sums *sums, double ridge, double *scratch, loss_linear *out);
/* Sum |e - W'x - b|^2 over the rows of these sums. scratch [width + 1, width]. */
double df_loss_left(const df_sums *sums, const loss_linear *linear, double *scratch);

/* The number of pieces (what a window holds of a document) of windows [first, end). */
size_t df_loss_pieces(const df_loss_text *text, uint64_t first, uint64_t end);
/* Sums of the window's KL into pieces [n, models * conditions]; returns n. */
size_t df_loss_by_document(const loss_plan *plan, const loss_window *w, double *pieces);
/* The intervals of *out from the pieces of this rank's windows. Collective. */
df_status df_loss_intervals(df_comm *comm, const df_loss_input *input, const double *mine,
                            df_loss *out) DF_MUST_CHECK;

/* Figures from the sums of each bucket of windows [DF_BUCKETS, 1 + models * conditions *
 * DF_LOSS_QUANTITIES], the number of scored positions first. */
df_status df_loss_figures(const double *buckets, df_loss *out) DF_MUST_CHECK;

#endif
