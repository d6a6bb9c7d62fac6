/* Causal attention over one window, by blocks of query rows, and the softmaxes. */
#include "darkfield/kernels.h"
#include "nn_lanes.h"

#include <math.h>

// Row of n scores to weights in place.
static void softmax_row(float *x, size_t n, float scale) {
    float lane[LANES] = {0}, top = largest(x, n) * scale;
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

void df_causal_softmax(float *scores, size_t rows, size_t first, size_t columns, float scale) {
    for (size_t r = 0; r < rows; r++) {
        float *row = scores + r * columns;
        size_t seen = first + r + 1 < columns ? first + r + 1 : columns;
        softmax_row(row, seen, scale);
        for (size_t i = seen; i < columns; i++) row[i] = 0.0f;
    }
}

size_t df_attention_scratch(size_t rows) {
    return DF_ATTENTION_ROWS * rows;
}

// Queries [first, first + DF_ATTENTION_ROWS) of one head: scores against the keys up to their last
// row, then values.
static void attend_block(const df_attention *a, size_t head, size_t first) {
    size_t width = a->head_width, query = a->heads * width, key = a->kv_heads * width;
    size_t seen = first + DF_ATTENTION_ROWS, column = head / (a->heads / a->kv_heads) * width;
    df_gemm_nt(&(df_gemm){.m = DF_ATTENTION_ROWS,
                          .n = seen,
                          .k = width,
                          .alpha = 1.0f,
                          .a = a->q + first * query + head * width,
                          .lda = query,
                          .b = a->k + column,
                          .ldb = key,
                          .c = a->scratch,
                          .ldc = seen}); // scores [DF_ATTENTION_ROWS, seen]
    df_causal_softmax(a->scratch, DF_ATTENTION_ROWS, first, seen, a->scale);
    df_gemm_nn(&(df_gemm){.m = DF_ATTENTION_ROWS,
                          .n = width,
                          .k = seen,
                          .alpha = 1.0f,
                          .a = a->scratch,
                          .lda = seen,
                          .b = a->v + column,
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
