/* darkfield/lens.h: what the layers and heads of a model say on their own: logit lens, direct logit
 * attribution, detectors of attention patterns, and what can be read off the weights.
 *
 * L layers, H heads, width d, head width h. A column vector x of the stream passes a norm as
 * C x / r * gain (+ bias), C = I - 11'/d for LayerNorm, I for RMSNorm, r its scale at that
 * position.
 *
 * Logit lens (nostalgebraist 2020). At point l = 0..L the stream before block l (behind the last
 * one for l = L) goes through the final norm, with its own scale, the unembedding and the soft-cap.
 * Of each: the loss of the next token, KL(final || lens), entropy, and the share of positions whose
 * likeliest token is the final one.
 *
 * Direct logit attribution (Elhage et al. 2021). Of the logit of the next token t, before any
 * soft-cap, less the mean over the vocabulary (or less that of a token `against`): with the norm's
 * scale r frozen it is linear in the final stream, so a part p of the stream adds <p, u>, u = C
 * (gain * (W_U[t] - mean_v W_U[v])) / r. Parts: embedding, positions, each head, the attention's
 * output bias, each MLP (its bias included); the final norm's bias adds <bias, W_U[t] - mean>. A
 * head's part is W_O z, and holds what value biases add. Where a norm stands behind attention
 * (Gemma 2, 3) its scale is frozen too. The parts sum to the logit; `gap` is the largest |sum -
 * logit| that was met.
 *
 * Detectors (Olsson et al. 2022), on sequences of T different random tokens written twice, behind
 * BOS where there is one; a_ij: the attention of position i to j. previous_token: mean a_i,i-1 over
 * all i > 0. Over the positions of the second half: duplicate_token a_i,i-T, induction a_i,i-T+1.
 * The first is measured on the text too.
 *
 * Weights (Elhage et al. 2021), with gains folded as TransformerLens folds them: what a head reads
 * is W diag(gain) C, and norms of queries, keys and attention's output leave their gains in the
 * rows; scales, being positive numbers of a position, and attention's soft-cap, are left out.
 * Writing matrices are centred (C W_O) in models with LayerNorm. Rotation is left out: QK is that
 * of equal positions. QK = W_Q' W_K and OV = W_O W_V are [d, d] of rank h; of each the sum of the
 * real parts of its eigenvalues over the sum of their moduli: 1 where all are positive. `full`: the
 * same of the [vocabulary, vocabulary] circuits E QK E' and U OV E', U the unembedding behind the
 * final norm's gain. Eigenvalues of a product AB are those of BA, [h, h]. Composition of head 2
 * with head 1 of an earlier layer: |R OV_1| / (|R| |OV_1|) in Frobenius norms, R = QK_2' for Q,
 * QK_2 for K, OV_2 for V.
 *
 * Windows and sequences fall into 64 buckets, runs of their numbers, which are the blocks of the
 * jackknife (df_jackknife). Every number is a function of model, text and seed, never of ranks or
 * threads.
 *
 * Result file, format "darkfield-lens"; below /NAME of each model:
 *   logit_lens/{nll,kl,entropy,top1}, ..._error f64 [L + 1]
 *   attribution/head, head_error f64 [L, H]   mlp, attention_bias and ..._error f64 [L]
 *     whole, whole_error f64 [4]: embedding, positions, final norm's bias, the logit itself
 *     attributes gap, against (a token, -1: the mean)
 *   heads/{previous_token,duplicate_token,induction,previous_token_text}, ..._error f64 [L, H]
 *   weights/{ov,ov_full,qk,qk_full,ov_norm,qk_norm} f64 [L, H]
 *   composition/{q,k,v} f64 [L, H, L, H]: earlier layer and head, later layer and head; 0 where it
 *     is not later
 * attributes model0, ..., models of the root; family, windows, scored, sequences, period of /NAME
 */
#ifndef DARKFIELD_LENS_H
#define DARKFIELD_LENS_H

#include "darkfield/base.h"
#include "darkfield/comm.h"
#include "darkfield/model.h"
#include "darkfield/moments.h"
#include "darkfield/store.h"

/* ---- what is measured ----------------------------------------------------------------------- */

/* Windows of tokens; scored: at which rows the next token counts. */
typedef struct df_lens_text {
    size_t context;
    uint64_t windows;
    uint64_t *window; // [windows + 1] first row of each
    uint32_t *token;  // [rows]
    uint8_t *scored;  // [rows] never the last of a window
} df_lens_text;

typedef struct df_lens_input {
    const df_model *model; // NULL where only a plan is made
    const char *name;
    df_lens_text text; // at least one scored row
    int64_t against;   // token whose logit is taken off; -1: the mean of all
    size_t sequences, period;
    const uint32_t *random; // [n_random] tokens to draw from, at least `period`
    size_t n_random;
    int64_t bos; // before each sequence; -1: none
    uint64_t seed;
} df_lens_input;

typedef enum df_lens_point { /* of the logit lens */
                             DF_LENS_NLL,
                             DF_LENS_KL,
                             DF_LENS_ENTROPY,
                             DF_LENS_TOP1,
                             DF_LENS_QUANTITIES
} df_lens_point;

typedef enum df_lens_whole { /* parts that belong to no block, and the logit */
                             DF_LENS_EMBED,
                             DF_LENS_POSITIONS,
                             DF_LENS_FINAL_BIAS,
                             DF_LENS_LOGIT,
                             DF_LENS_WHOLES
} df_lens_whole;

typedef enum df_lens_detector {
    DF_LENS_PREVIOUS,
    DF_LENS_DUPLICATE,
    DF_LENS_INDUCTION,
    DF_LENS_DETECTORS
} df_lens_detector;

typedef enum df_lens_weight {
    DF_LENS_OV,
    DF_LENS_OV_FULL,
    DF_LENS_QK,
    DF_LENS_QK_FULL,
    DF_LENS_OV_NORM, /* |OV| and |QK| in Frobenius norm */
    DF_LENS_QK_NORM,
    DF_LENS_WEIGHTS
} df_lens_weight;

enum { DF_LENS_COMPOSITIONS = 3 }; /* Q, K, V */

/* The same on every rank unless it says otherwise. NaN: no such number. */
typedef struct df_lens {
    const char *name; /* the input's */
    df_model_shape shape;
    uint64_t windows, scored;
    size_t sequences, period;
    int64_t against;
    df_estimate *point;          /* [DF_LENS_QUANTITIES, L + 1] */
    df_estimate *whole;          /* [DF_LENS_WHOLES] */
    df_estimate *mlp, *bias;     /* [L] */
    df_estimate *head;           /* [L, H] attribution */
    df_estimate *previous;       /* [L, H] on the text */
    df_estimate *detector;       /* [DF_LENS_DETECTORS, L, H] */
    double gap;                  /* of the attribution */
    double *weight;              /* [DF_LENS_WEIGHTS, L, H] */
    double *composition;         /* rank 0 alone: [df_lens_pairs, H, DF_LENS_COMPOSITIONS] */
    struct df_estimate *numbers; /* the memory of all estimates */
} df_lens;

/* Pairs of an earlier head and a later layer, H L (L - 1) / 2, and the number of one of them. Not
 * collective. */
size_t df_lens_pairs(const df_model_shape *shape);
size_t df_lens_pair(const df_model_shape *shape, size_t earlier_layer, size_t earlier_head,
                    size_t later_layer);

/* Everything of one model. Weights and heads are spread over the ranks, windows too. Memory per
 * thread: of a window the streams, MLP outputs and z of all layers, the patterns of one layer, and
 * 2 * 64 rows of logits; per rank the [h, h] products of all heads. DF_BAD_INPUT when weights or
 * activations are not finite, DF_USAGE when windows or sequences are longer than the model's
 * positions. Collective; df_lens_free, also after a failure. */
df_status df_lens_run(df_comm *comm, const df_lens_input *input, df_lens *out) DF_MUST_CHECK;
void df_lens_free(df_lens *lens); /* Not collective */

/* ---- the result file ------------------------------------------------------------------------ */

typedef struct df_lens_options {
    const char *output, *resolved_job;
    df_provenance facts;
} df_lens_options;
/* Collective. */
df_status df_lens_write(df_comm *comm, const df_lens *lens, size_t models,
                        const df_lens_options *options) DF_MUST_CHECK;

/* ---- plans ----------------------------------------------------------------------------------- */

/* What running one input after the other (each with its model open, 4 bytes a parameter) and
 * writing the file will need on rank 0 of `size`, with so many threads, beside the inputs. Not
 * collective. */
df_status df_lens_plan(const df_lens_input *inputs, const df_model_shape *shapes, size_t models,
                       int size, size_t threads, df_need *out) DF_MUST_CHECK;

#endif
