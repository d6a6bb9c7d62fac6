/* Causal attention over one window, by blocks of query rows, and the softmaxes. */
#include "darkfield/kernels.h"
#include "nn_lanes.h"

#include <math.h>

// Row of n scores to weights in place.
static void softmax_row(float *x, size_t n, df_score_rule rule) {
    float lane[LANES] = {0}, scale = rule.scale;
    if (rule.cap > 0.0f) {
        for (size_t i = 0; i < n; i++) x[i] *= scale;
        df_soft_cap(rule.cap, n, x);
        scale = 1.0f;
    }
    float top = largest(x, n) * scale;
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t j = 0; j < LANES; j++) {
            x[i + j] = exp_lane(x[i + j] * scale - top);
            lane[j] += x[i + j];
        }
    for (size_t j = 0; i + j < n; j++) {
        x[i + j] = exp_lane(x[i + j] * scale - top);
        lane[j] += x[i + j];
    }
    float inverse = 1.0f / add_lanes(lane);
    for (i = 0; i < n; i++) x[i] *= inverse;
}

void df_causal_softmax(float *scores, df_extent extent, size_t first, df_score_rule rule) {
    for (size_t r = 0; r < extent.rows; r++) {
        float *row = scores + r * extent.width;
        size_t end = first + r + 1 < extent.width ? first + r + 1 : extent.width;
        size_t from =
            rule.window > 0 && first + r + 1 > rule.window ? first + r + 1 - rule.window : 0;
        if (from > end) from = end;
        for (size_t i = 0; i < from; i++) row[i] = 0.0f;
        if (from < end) softmax_row(row + from, end - from, rule);
        for (size_t i = end; i < extent.width; i++) row[i] = 0.0f;
    }
}

size_t df_attention_scratch(size_t rows) {
    return DF_ATTENTION_ROWS * rows;
}

// The weights of one block into its rows of the pattern.
static void keep_pattern(const df_attention *a, size_t head, size_t first, size_t low) {
    size_t n = first + DF_ATTENTION_ROWS - low;
    for (size_t r = 0; r < DF_ATTENTION_ROWS; r++) {
        float *to = a->pattern + (head * a->rows + first + r) * a->rows;
        for (size_t i = 0; i < a->rows; i++)
            to[i] = i >= low && i < low + n ? a->scratch[r * n + i - low] : 0.0f;
    }
}

// Queries [first, first + DF_ATTENTION_ROWS) of one head: scores against the keys that any of them
// sees, then values.
static void attend_block(const df_attention *a, size_t head, size_t first) {
    size_t width = a->head_width, query = a->heads * width, key = a->kv_heads * width;
    size_t column = head / (a->heads / a->kv_heads) * width, window = a->rule.window;
    size_t low = window > 0 && first + 1 > window ? first + 1 - window : 0;
    size_t seen = first + DF_ATTENTION_ROWS - low;
    df_gemm_nt(&(df_gemm){.m = DF_ATTENTION_ROWS,
                          .n = seen,
                          .k = width,
                          .alpha = 1.0f,
                          .a = a->q + first * query + head * width,
                          .lda = query,
                          .b = a->k + low * key + column,
                          .ldb = key,
                          .c = a->scratch,
                          .ldc = seen}); // scores [DF_ATTENTION_ROWS, seen]
    df_causal_softmax(a->scratch, (df_extent){DF_ATTENTION_ROWS, seen}, first - low, a->rule);
    if (a->pattern != NULL) keep_pattern(a, head, first, low);
    df_gemm_nn(&(df_gemm){.m = DF_ATTENTION_ROWS,
                          .n = width,
                          .k = seen,
                          .alpha = 1.0f,
                          .a = a->scratch,
                          .lda = seen,
                          .b = a->v + low * key + column,
                          .ldb = key,
                          .c = a->out + first * query + head * width,
                          .ldc = query});
}

void df_attend(const df_attention *a) {
    for (size_t head = 0; head < a->heads; head++)
        for (size_t first = 0; first < a->rows; first += DF_ATTENTION_ROWS)
            attend_block(a, head, first);
}

/* ---- loss ----------------------------------------------------------------------------------- */

// log of the sum of e^(x - top), in double.
static double log_sum(const float *x, size_t n, float top) {
    double lane[LANES] = {0}, sum = 0.0;
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t j = 0; j < LANES; j++) lane[j] += (double)exp_lane(x[i + j] - top);
    for (size_t j = 0; i + j < n; j++) lane[j] += (double)exp_lane(x[i + j] - top);
    for (size_t j = 0; j < LANES; j++) sum += lane[j];
    return log(sum);
}

void df_nll_rows(const float *logits, const uint32_t *target, df_extent extent, double *nll) {
    for (size_t r = 0; r < extent.rows; r++) {
        const float *row = logits + r * extent.width;
        float top = largest(row, extent.width);
        nll[r] = log_sum(row, extent.width, top) + ((double)top - (double)row[target[r]]);
    }
}
