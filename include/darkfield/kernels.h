/* darkfield/kernels.h: process-local compute. No MPI, no files, no allocation in the hot path;
 * nothing is collective.
 *
 * A fast kernel has a plain twin of the same name with _plain behind it, which a student can check;
 * both give the same bits unless the comment says otherwise. Matrices are row-major; `ld` is the
 * distance between rows in elements. */
#ifndef DARKFIELD_KERNELS_H
#define DARKFIELD_KERNELS_H

#include "darkfield/base.h"

/* ---- the handle ----------------------------------------------------------------------------- */

typedef struct df_kernels df_kernels;

/* Chooses the kernel path. path: "auto", or the text df_kernels_path gave elsewhere: a machine that
 * offers another is DF_USAGE naming both. The caller closes. */
df_status df_kernels_open(const char *path, df_kernels **out) DF_MUST_CHECK;
void df_kernels_close(df_kernels **kernels);

/* "OpenBLAS SkylakeX + avx512": floats that a GEMM made are comparable bit for bit only on the same
 * path. Belongs to the handle. */
const char *df_kernels_path(const df_kernels *kernels);

/* One GEMM of each layout and block shape against the plain twin (a wrong BLAS build is known to
 * exist): DF_FAILED names it. */
df_status df_kernels_check(df_kernels *kernels) DF_MUST_CHECK;

/* ---- fp32 GEMM ------------------------------------------------------------------------------ */

/* C = alpha * op(A) op(B) + beta * C, with C [m, n] and inner length k. */
typedef struct df_gemm {
    size_t m, n, k;
    float alpha, beta;
    const float *a, *b;
    float *c;
    size_t lda, ldb, ldc;
} df_gemm;

/* On the calling thread alone, inside or outside a parallel region. The order of summation, hence
 * the last bits, may depend on the shape and the path: call them on fixed padded shapes where bits
 * matter. m, n or k = 0 is allowed. */
void df_gemm_nt(const df_gemm *g); /* A [m, k], B [n, k] */
void df_gemm_nn(const df_gemm *g); /* A [m, k], B [k, n] */
void df_gemm_tn(const df_gemm *g); /* A [k, m], B [k, n] */

/* Three loops, sums in double. */
void df_gemm_nt_plain(const df_gemm *g);
void df_gemm_nn_plain(const df_gemm *g);
void df_gemm_tn_plain(const df_gemm *g);

/* ---- transformer ---------------------------------------------------------------------------- */

/* Fast kernels work on packed fp32 rows and agree with their twins to rounding, not to the bit.
 * Twins exist in float
 * (_plain) and in double (_plain_double), from one source. */
typedef struct df_extent {
    size_t rows, width;
} df_extent;

/* y = x / sqrt(mean x^2 + epsilon) * gain (Zhang and Sennrich 2019). x, y [rows, width], gain
 * [width]; y may be x. */
void df_rms_norm(const float *x, const float *gain, float epsilon, df_extent extent, float *y);
void df_rms_norm_plain(const float *x, const float *gain, float epsilon, df_extent extent,
                       float *y);
void df_rms_norm_plain_double(const double *x, const double *gain, double epsilon, df_extent extent,
                              double *y);

/* x [rows, width] += bias [width] on every row. */
void df_add_rows(const float *bias, df_extent extent, float *x);

/* y = (x - mean) / sqrt(variance + epsilon) * gain + bias, the variance over n (Ba et al. 2016).
 * bias NULL: none. y may be x. */
void df_layer_norm(const float *x, const float *gain, const float *bias, float epsilon,
                   df_extent extent, float *y);
void df_layer_norm_plain(const float *x, const float *gain, const float *bias, float epsilon,
                         df_extent extent, float *y);
void df_layer_norm_plain_double(const double *x, const double *gain, const double *bias,
                                double epsilon, df_extent extent, double *y);

/* Rotary positions, half-split pairs (i, i + turned / 2) of the first `turned` columns of each head
 * (Su et al. 2021). Row t stands at position t; cosine and sine [rows, turned / 2]; x [rows, heads
 * * width], in place. */
typedef struct df_heads {
    size_t rows, heads, width, turned;
} df_heads;
void df_rotate(const float *cosine, const float *sine, df_heads heads, float *x);
void df_rotate_plain(const float *cosine, const float *sine, df_heads heads, float *x);
void df_rotate_plain_double(const double *cosine, const double *sine, df_heads heads, double *x);

/* silu x / (1 + e^-x); gelu x Phi(x); its tanh form (Hendrycks and Gimpel 2016); relu. */
typedef enum df_activation_kind {
    DF_ACT_SILU,
    DF_ACT_GELU,
    DF_ACT_GELU_TANH,
    DF_ACT_RELU
} df_activation_kind;

/* x = act(x), n elements; with `up` x = act(x) * up (Shazeer 2020), NULL: none. */
void df_activate(df_activation_kind kind, const float *up, size_t n, float *x);
void df_activate_plain(df_activation_kind kind, const float *up, size_t n, float *x);
void df_activate_plain_double(df_activation_kind kind, const double *up, size_t n, double *x);

/* x = cap * tanh(x / cap), n elements (Gemma 2's soft-cap). */
void df_soft_cap(float cap, size_t n, float *x);
void df_soft_cap_plain(float cap, size_t n, float *x);
void df_soft_cap_plain_double(double cap, size_t n, double *x);

/* From scores to weights: soft-cap(scale * score) where cap > 0, over the last `window` columns up
 * to the row's own; window 0: all of them. */
typedef struct df_score_rule {
    float scale, cap;
    size_t window;
} df_score_rule;

/* scores [rows, width], in place: row r becomes the softmax by the rule over columns up to first +
 * r, and 0 elsewhere. */
void df_causal_softmax(float *scores, df_extent extent, size_t first, df_score_rule rule);
void df_causal_softmax_plain(float *scores, df_extent extent, size_t first, df_score_rule rule);
void df_causal_softmax_plain_double(double *scores, df_extent extent, size_t first,
                                    df_score_rule rule);

/* Causal attention of one window: query head h reads key and value head h / (heads / kv_heads).
 * rows is a multiple of DF_ATTENTION_ROWS, so that every GEMM has a shape that `rows` alone
 * decides. q, out [rows, heads * head_width], k, v [rows, kv_heads * head_width], scratch
 * [df_attention_scratch(rows)]. The twins take their own arrays, any number of rows, and weights
 * [rows] as scratch. */
#define DF_ATTENTION_ROWS 64
typedef struct df_attention {
    size_t rows, heads, kv_heads, head_width;
    df_score_rule rule;
    const float *q, *k, *v;
    float *out, *scratch;
    float *pattern; /* [heads, rows, rows] the weights; NULL: not wanted */
} df_attention;
size_t df_attention_scratch(size_t rows); /* in floats */
void df_attend(const df_attention *a);
void df_attend_plain(const df_attention *a, const float *q, const float *k, const float *v,
                     float *weights, float *out);
void df_attend_plain_double(const df_attention *a, const double *q, const double *k,
                            const double *v, double *weights, double *out);

/* nll[r] = -log softmax(logits[r])[target[r]]; logits [rows, width]. The fast one sums in double.
 */
void df_nll_rows(const float *logits, const uint32_t *target, df_extent extent, double *nll);
void df_nll_rows_plain(const float *logits, const uint32_t *target, df_extent extent, double *nll);
void df_nll_rows_plain_double(const double *logits, const uint32_t *target, df_extent extent,
                              double *nll);

/* ---- dictionaries --------------------------------------------------------------------------- */

/* The settled product: 16 lanes of fused multiply-adds, lane i taking elements i, i + 16, ..., then
 * the lanes summed in a fixed tree (i with i + 8, then 4, 2, 1). Every fast form gives these bits.
 */
float df_dot(const float *a, const float *b, size_t n);
float df_dot_plain(const float *a, const float *b, size_t n);
void df_dot4(const float *x, const float *const w[4], size_t n,
             float out[4]); /* four df_dots that share x */
void df_dot_pairs(const float *const x[4], const float *const w[4], size_t n,
                  float out[4]); /* df_dot of each pair */
/* y += a * x, the product rounded before the sum. */
void df_add_scaled(float *y, float a, const float *x, size_t n);
/* The same for four rows, one after another. */
void df_add_scaled4(float *y, const float a[4], const float *const x[4], size_t n);
void df_set_scaled(float *y, float a, const float *x,
                   size_t n);                        /* y = 0 + a * x: never a negative zero */
void df_add_row(float *y, const float *x, size_t n); /* y += x */
/* Sum of squares in 8 lanes of double, lanes then summed in a fixed tree. */
double df_sum_squares(const float *x, size_t n);
double df_sum_squares_plain(const float *x, size_t n);

/* ---- rows, token by token ---- */

/* What a row is brought to by its own numbers:
 *   NONE   it stays as it is
 *   LAYER  (x - mean) / (std + 1e-5), std over n - 1     OpenAI's sparse_autoencoder, SAELens
 *          undone: y std + mean                          (layer_norm), BatchTopK's authors
 *   NORM   x sqrt(n) / |x|                               OpenMOSS (token-wise), SAELens
 *          undone: y |x| / sqrt(n)                       (constant_norm_rescale)
 * A constant row becomes zeros with LAYER, and whatever y is, it is undone to the mean; so does a
 * row of one column, whose std counts as 0. With NORM a row of zeros stays, and is undone to zeros,
 * where the formula gives NaN. */
typedef enum df_token_norm { DF_TOKEN_NONE, DF_TOKEN_LAYER, DF_TOKEN_NORM } df_token_norm;
/* What it comes less, what it is then multiplied by, what undoing multiplies by. */
typedef struct df_token {
    double mean, factor, back;
} df_token;
/* Of a row x [n] as it is. Sums in 8 lanes of double, then in a fixed tree. */
df_token df_token_of(df_token_norm how, const float *x, size_t n);
df_token df_token_of_plain(df_token_norm how, const float *x, size_t n);
/* x = (x - mean) * factor, and y = (y / scale) * back + mean, in double, rounded once. */
void df_token_apply(const df_token *token, float *x, size_t n);
void df_token_undo(const df_token *token, double scale, float *y, size_t n);

/* ---- the screen (design section 3) ---- */

/* What the products of rows and latents are made of before anything is settled. It changes no
 * result, only how many candidates there are: plain is three loops in double, the twin of all. */
typedef enum df_screen {
    DF_SCREEN_PLAIN,
    DF_SCREEN_FP32,
    DF_SCREEN_BF16,
    DF_SCREEN_INT8,
    DF_SCREENS
} df_screen;
const char *df_screen_name(df_screen screen);
bool df_screen_quick(df_screen screen); /* does this CPU have instructions made for it? */

/* "auto" is the quickest one here, int8 only as long as the data suit it: a coder whose int8
 * candidates are too many goes on with the spare one, the quickest float (otherwise both are the
 * same). A name that there is not is DF_USAGE. All work on every CPU. Set it before df_coder_open.
 */
df_status df_kernels_set_screen(df_kernels *kernels, const char *name) DF_MUST_CHECK;
df_screen df_kernels_screen(const df_kernels *kernels);
df_screen df_kernels_spare_screen(const df_kernels *kernels);

#define DF_TILE_ROWS 14
#define DF_TILE_LATENTS 32
#define DF_TILE_ENTRIES (DF_TILE_ROWS * DF_TILE_LATENTS)

/* A panel: up to `lanes` vectors (14 rows or 32 latents) side by side, [words, lanes] of 32 bits;
 * a word holds one fp32, two bf16 or four int8 columns. */
typedef struct df_panel {
    df_screen screen;
    size_t lanes, width;
    void *packed;
} df_panel;
size_t df_panel_bytes(df_screen screen, size_t lanes, size_t width);

/* What packing did to a vector v: it stands for unit * packed, and |v - unit * packed| <= lost. In
 * int8, rows are stored as packed + 128, and start is -128 times the sum of a latent's packed. */
typedef struct df_packed {
    float *unit, *lost; /* [count] */
    int32_t *start;     /* [count]; NULL: rows */
} df_packed;
/* Packs count <= lanes vectors of to->width, ld apart; the lanes behind them become zero. */
void df_pack(const df_panel *to, const float *from, size_t ld, size_t count, df_packed out);
/* Copies one lane between panels of latents. */
void df_panel_copy(const df_panel *to, size_t lane, const df_panel *from, size_t from_lane);

/* 14 rows by 32 latents: product[r, l] = <packed row r, packed latent l>; bit l of mask[r] is set
 * where product * gain[l] * unit[r] + lift[l] >= floor[r]. Returns the union of the masks. */
typedef struct df_tile {
    df_screen screen;
    size_t width;
    const void *rows, *latents; /* panels */
    const int32_t *start;       /* [32] int8 only */
    const float *gain, *lift;   /* [32] */
    const float *unit, *floor;  /* [14] */
} df_tile;
uint32_t df_screen_tile(const df_tile *tile, float product[static DF_TILE_ENTRIES],
                        uint32_t mask[static DF_TILE_ROWS]);
uint32_t df_screen_tile_plain(const df_tile *tile, float product[static DF_TILE_ENTRIES],
                              uint32_t mask[static DF_TILE_ROWS]); /* up to rounding */

/* Where in a tile the masks have bits: 32 r + l, ascending. Returns how many there are; what stands
 * behind them is undefined. */
#define DF_TILE_PLACES (DF_TILE_ENTRIES + DF_TILE_LATENTS) /* room for them */
size_t df_mask_places(const uint32_t mask[static DF_TILE_ROWS],
                      uint16_t place[static DF_TILE_PLACES]);
size_t df_mask_places_plain(const uint32_t mask[static DF_TILE_ROWS],
                            uint16_t place[static DF_TILE_PLACES]);

/* ---- whole products ---- */

/* out [14, 32] = left [n, 14]' right [n, 32]: every number is one chain of fused multiply-adds,
 * from 0, first to last. add: it is then added to what stands there. The same bits in every form.
 */
void df_multiply_tile(const float *left, const float *right, size_t n, bool add,
                      float out[static DF_TILE_ENTRIES]);
void df_multiply_tile_plain(const float *left, const float *right, size_t n, bool add,
                            float out[static DF_TILE_ENTRIES]);

/* The same for df_dot of 14 vectors of n floats and 32, from panels in which each lane's elements
 * stand together: df_dot_floats(n) times 14 or 32 floats. */
size_t df_dot_floats(size_t n);
/* Packs count <= lanes vectors, ld apart; the lanes behind them become zero. */
void df_pack_dots(const float *from, df_extent extent, size_t ld, size_t lanes, float *to);
void df_dot_tile(const float *left, const float *right, size_t n,
                 float out[static DF_TILE_ENTRIES]);

/* A level that at least k of n finite values reach, no lower than `level` (which is returned when
 * fewer than k reach it), and not much below the k-th largest. Branch-free, hence much quicker than
 * finding that one. */
float df_level_of(const float *values, size_t n, size_t k, float level);

/* Entries of four columns of 32-bit numbers: those whose key reaches the level move to the front,
 * in order. Returns how many; what stands behind them is undefined. NaN reaches nothing. */
size_t df_keep_reaching(float level, size_t n, float *key, void *const other[3]);
size_t df_keep_reaching_plain(float level, size_t n, float *key, void *const other[3]);

/* ---- bf16 GEMM ------------------------------------------------------------------------------ */

/* C [m, n] = bf16(A) bf16(W)', sums in fp32, on the calling thread; A [m, k] is rounded on the way.
 * W is packed once: df_bf16_weight_bytes. scratch holds df_bf16_scratch_bytes(m), at any address. A
 * row of C depends on its row of A alone, and on the path. Finite operands below 3e38. The twin
 * agrees up to rounding of the sums. */
typedef struct df_gemm_bf16 {
    size_t m, n, k;
    const float *a;
    size_t lda;
    const void *weight;
    void *scratch;
    float *c;
    size_t ldc;
} df_gemm_bf16;
bool df_bf16_is_quick(void); /* this CPU multiplies bf16; elsewhere the twin runs, slowly */
size_t df_bf16_weight_bytes(size_t n, size_t k);
size_t df_bf16_scratch_bytes(size_t m);
void df_bf16_pack_weight(const float *w, size_t n, size_t k, void *packed); /* w [n, k] */
void df_gemm_bf16_nt(const df_gemm_bf16 *g);
void df_gemm_bf16_nt_plain(const df_gemm_bf16 *g);

/* Asks for a row of n floats to be brought near, for use soon. */
static inline void df_prefetch(const float *row, size_t n) {
    for (size_t i = 0; i < n; i += 16) __builtin_prefetch(row + i, 0, 2);
}

/* The k-th largest of n values (1 <= k <= n); reorders them. The k-th smallest of n keys likewise.
 */
float df_nth_largest(float *values, size_t n, size_t k);
uint64_t df_nth_smallest(uint64_t *keys, size_t n, size_t k);

/* Adam (Kingma and Ba 2015) in PyTorch's form, on n weights in place. Subnormal moments are flushed
 * to zero. */
typedef struct df_adam {
    float rate; /* lr / (1 - beta1^t) */
    float beta1, beta2;
    float root; /* sqrt(1 - beta2^t) */
    float epsilon;
} df_adam;
df_adam df_adam_at(double lr, double beta1, double beta2, double epsilon,
                   uint64_t t); /* t counts from 1 */
typedef struct df_moments {
    float *weight, *m, *v;
} df_moments;
void df_adam_row(const df_adam *adam, df_moments row, const float *gradient, size_t n);
void df_adam_row_plain(const df_adam *adam, df_moments row, const float *gradient, size_t n);

/* ---- 16-bit numbers ------------------------------------------------------------------------- */

/* bf16 (the upper half of an fp32) and IEEE f16 to fp32, exactly; fp32 to them, to the nearest,
 * ties to even, too large becoming infinite. A NaN stays one: signalling ones become quiet, but for
 * bf16 to fp32, which keeps all bits. `in` of the widening ones may have any alignment. */
void df_widen_bf16(const void *in, float *out, size_t n);
void df_widen_bf16_plain(const void *in, float *out, size_t n);
void df_widen_f16(const void *in, float *out, size_t n);
void df_widen_f16_plain(const void *in, float *out, size_t n);
void df_narrow_bf16(const float *in, uint16_t *out, size_t n);
void df_narrow_bf16_plain(const float *in, uint16_t *out, size_t n);
void df_narrow_f16(const float *in, uint16_t *out, size_t n);
void df_narrow_f16_plain(const float *in, uint16_t *out, size_t n);

/* Whether none of n numbers is NaN or infinite. */
bool df_all_finite(const float *x, size_t n);
bool df_all_finite_plain(const float *x, size_t n);

#endif
