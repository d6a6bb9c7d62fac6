/* darkfield/loss.h: what a dictionary costs the models it describes (a part of module eval).
 *
 * A model reads held-out text while the sites that the dictionary writes are replaced, all sites of
 * the model at once, by what a condition says. x: the clean run's rows; x^: their reconstruction,
 * read from the clean run of all models; e = x - x^, all in the model's own units.
 *
 *   clean           nothing is changed
 *   spliced         x^
 *   zero, mean      0; the mean of x over the rows in use
 *   isotropic       x + |e| u, u uniform on the sphere (Gurnee 2024)
 *   covariance_x    x + |e| u, u along a draw of N(0, covariance of x)
 *   covariance_e    the same with the covariance of e (Lee and Heimersheim 2024, arXiv 2410.12555)
 *   other_error     x + |e| e'/|e'|, e' the error of another row of the window
 *   minus_error     x + e, as far from x as x^ = x - e is, in the opposite direction
 *   linear          x - |e| l/|l|, l = W'x + b the part of e that is linear in x: the ridge
 *                   regression of spectrum.h, fitted on one half of the documents (of the windows,
 *                   where a half would have fewer than 2 rows) for the rows of the other half
 *   nonlinear       x - |e| (e - l)/|e - l| (Engels et al., arXiv 2410.14670)
 *   cosine_...      each of these seven nulls once more, no farther from x than x^ is and at the
 *                   same angle to it: the error's part along x is kept, and |the rest| goes along
 *                   the null's direction without its part along x. So |x^| is kept too, and no
 *                   difference is one of shrinkage
 *
 * Of every condition: the loss in nats per predicted token, KL(clean || condition) of the next
 * token's distribution, and the share of positions whose most likely token is the clean run's.
 * Recovered: (L_r - L_spliced) / (L_r - L_clean) for r = zero, mean. Ratio: KL(spliced) / KL(null).
 * Errors are the jackknife over 64 runs of windows (df_jackknife). Intervals of the ratios are
 * those of the bootstrap over documents (df_bootstrap). Both hold the linear fits, the means and
 * the covariances as they are: what these would be on other text is in neither.
 * R2 of l: 1 - sum |e - l|^2 / sum |e - mean e|^2, every row's l from the other half's fit. Near or
 * below 0, as with too few rows for the width, l is noise of the fit, and so is what linear and
 * nonlinear show.
 *
 * Every number is a function of models, dictionary, text and seed, never of ranks or threads. */
#ifndef DARKFIELD_LOSS_H
#define DARKFIELD_LOSS_H

#include "darkfield/base.h"
#include "darkfield/comm.h"
#include "darkfield/dict.h"
#include "darkfield/model.h"
#include "darkfield/moments.h"
#include "darkfield/store.h"

typedef enum df_loss_condition {
    DF_LOSS_CLEAN,
    DF_LOSS_SPLICED,
    DF_LOSS_ZERO,
    DF_LOSS_MEAN,
    DF_LOSS_ISOTROPIC, /* the first null */
    DF_LOSS_COVARIANCE_X,
    DF_LOSS_COVARIANCE_E,
    DF_LOSS_OTHER_ERROR,
    DF_LOSS_MINUS_ERROR,
    DF_LOSS_LINEAR,
    DF_LOSS_NONLINEAR,
    DF_LOSS_SAME_COSINE, /* the first null once more, at the same cosine; then the others */
    DF_LOSS_CONDITIONS = 2 * DF_LOSS_SAME_COSINE - DF_LOSS_ISOTROPIC
} df_loss_condition;
const char *df_loss_name(df_loss_condition condition); /* "covariance_x" */

typedef enum df_loss_quantity {
    DF_LOSS_NLL,
    DF_LOSS_KL,
    DF_LOSS_TOP1,
    DF_LOSS_QUANTITIES
} df_loss_quantity;

/* ---- the text ------------------------------------------------------------------------------- */

/* Windows of tokens; row flags say which rows are changed, and at which the next token counts. */
typedef struct df_loss_text {
    size_t context;
    uint64_t windows;
    uint64_t *window; // [windows + 1] first row of each
    uint32_t *token;  // [rows]
    uint8_t *changed; // [rows]
    uint8_t *scored;  // [rows] never the last of a window
    uint64_t documents;
    uint64_t *document; // [documents + 1] first row of each, none empty; then the number of rows
} df_loss_text;

/* The held-out documents of activation files (of one model), packed as the harvest packed its text;
 * at most `most` windows, 0: all. Rows that the filter leaves out stay as they are; added BOS
 * tokens are not scored. DF_BAD_INPUT where the files hold no windows of text or no held-out
 * document. Not collective; df_loss_text_free. */
df_status df_loss_text_make(df_acts *const *acts, size_t files, const df_acts_filter *filter,
                            uint64_t most, df_loss_text *out) DF_MUST_CHECK;
void df_loss_text_free(df_loss_text *text);

/* Changed rows of the smaller of the halves that the linear parts are fitted on. DF_BAD_INPUT where
 * they are fewer than 2: such a text allows no nulls. Not collective. */
df_status df_loss_half_rows(const df_loss_text *text, uint64_t seed, uint64_t *out) DF_MUST_CHECK;

/* ---- the runs ------------------------------------------------------------------------------- */

enum { DF_LOSS_MODELS = 2 };

typedef struct df_loss_input {
    const df_loss_text *text;
    const df_model *model[DF_LOSS_MODELS]; /* those that the dictionary's sites name */
    const char *name[DF_LOSS_MODELS];
    size_t models;
    uint64_t seed;
    double ridge;     /* of the linear part: this share of the mean variance of x */
    bool nulls;       /* run isotropic to nonlinear too */
    bool same_cosine; /* and these at the same cosine */
} df_loss_input;

/* The same on every rank. Conditions that were not run are NaN. */
typedef struct df_loss {
    size_t models, conditions, context;
    const char *name[DF_LOSS_MODELS]; /* the input's */
    uint64_t windows, documents, scored, changed;
    df_estimate figure[DF_LOSS_MODELS][DF_LOSS_CONDITIONS][DF_LOSS_QUANTITIES];
    df_estimate recovered[DF_LOSS_MODELS][2];                    /* of zero, of mean */
    df_estimate kl_ratio[DF_LOSS_MODELS][DF_LOSS_CONDITIONS];    /* spliced over this null */
    df_interval kl_interval[DF_LOSS_MODELS][DF_LOSS_CONDITIONS]; /* of the ratio, 95 % */
    const df_dict *dict;            /* the one spliced, borrowed: whose sites were written */
    double linear_r2[DF_MAX_SITES]; /* of l, by written site; NaN without nulls or where e is
                                       constant */
    uint64_t linear_rows;           /* of the smaller half */
    double *curve;   /* [models, conditions, DF_LOSS_QUANTITIES, context] means by position; NaN
                        where nothing was scored */
    uint64_t *count; /* [context] scored positions */
} df_loss;

/* Runs all conditions. Memory per thread: activations of a window of each model, models + 1 times
 * its logits, and with nulls its written sites' rows three times in double. DF_BAD_INPUT when a
 * site's model is not among those given, or with nulls when half the text has no rows to fit;
 * DF_USAGE when the text's windows are too long for a model. Collective; df_loss_free. */
df_status df_loss_run(df_comm *comm, df_kernels *kernels, df_dict *dict, const df_loss_input *input,
                      df_loss *out) DF_MUST_CHECK;
void df_loss_free(df_loss *loss);

/* Its sizes and names without figures or arrays: what a plan of the result file needs. */
df_loss df_loss_outline(const df_dict *dict, const df_loss_input *input);

/* Bytes that df_loss_run will take on rank 0 beside dictionary, models and text, with so many
 * threads; input->model may be NULL, shape [models] stands in. Not collective. */
uint64_t df_loss_bytes(const df_dict_plan *plan, const df_loss_input *input, size_t threads,
                       const df_model_shape *const *shape);

/* ---- the result file ------------------------------------------------------------------------ */

/* Below /loss of a file of format "darkfield-evaluation" (M models, C conditions):
 *   nll kl top1 (and nll_error, ...) f64 [M, C]      recovered, recovered_error f64 [M, 2]: of
 *   zero, of mean      kl_ratio, kl_ratio_error, kl_ratio_low, kl_ratio_high f64 [M, C]: NaN but
 *   for nulls      by_position/{nll,kl,top1} f64 [M, C, context]    by_position/count u64 [context]
 *   linear_r2 f64 [S]: of the dictionary's S written sites in their order
 * attributes models, conditions, windows, documents, scored, changed, linear_rows (of the smaller
 * half; 0 without nulls), model0, ..., condition0, ..., linear_model0, ... (the number of the model
 * that each written site is of)
 * Declares them and notes their ids: DF_LOSS_DATASETS of them. Collective. */
enum { DF_LOSS_DATASETS = 17 };
df_status df_loss_declare(df_file *file, const df_loss *loss,
                          int id[static DF_LOSS_DATASETS]) DF_MUST_CHECK;
/* Writes them; one rank calls it. Not collective. */
df_status df_loss_write(df_file *file, const df_loss *loss,
                        const int id[static DF_LOSS_DATASETS]) DF_MUST_CHECK;

#endif
