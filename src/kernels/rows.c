/* Kernels on single rows: settled products, scaled sums, sums of squares, Adam. */
#include "darkfield/kernels.h"

#include "lanes.h"

float df_dot(const float *a, const float *b, size_t n) {
    lanes sum = lanes_all(0.0f);
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) sum = lanes_fma(lanes_load(a + i), lanes_load(b + i), sum);
    if (i < n) sum = lanes_fma(lanes_load_part(a + i, n - i), lanes_load_part(b + i, n - i), sum);
    return lanes_sum(sum);
}

float df_dot_plain(const float *a, const float *b, size_t n) {
    float lane[16] = {0.0f};
    for (size_t i = 0; i < n; i++) lane[i % 16] = fmaf(a[i], b[i], lane[i % 16]);
    for (size_t half = 8; half > 0; half /= 2)
        for (size_t i = 0; i < half; i++) lane[i] += lane[i + half];
    return lane[0];
}

void df_dot4(const float *x, const float *const w[4], size_t n, float out[4]) {
    lanes s0 = lanes_all(0.0f), s1 = s0, s2 = s0, s3 = s0;
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        lanes v = lanes_load(x + i);
        s0 = lanes_fma(v, lanes_load(w[0] + i), s0);
        s1 = lanes_fma(v, lanes_load(w[1] + i), s1);
        s2 = lanes_fma(v, lanes_load(w[2] + i), s2);
        s3 = lanes_fma(v, lanes_load(w[3] + i), s3);
    }
    if (i < n) {
        lanes v = lanes_load_part(x + i, n - i);
        s0 = lanes_fma(v, lanes_load_part(w[0] + i, n - i), s0);
        s1 = lanes_fma(v, lanes_load_part(w[1] + i, n - i), s1);
        s2 = lanes_fma(v, lanes_load_part(w[2] + i, n - i), s2);
        s3 = lanes_fma(v, lanes_load_part(w[3] + i, n - i), s3);
    }
    const lanes sums[4] = {s0, s1, s2, s3};
    lanes_sum4(sums, out);
}

void df_dot_pairs(const float *const x[4], const float *const w[4], size_t n, float out[4]) {
    lanes s0 = lanes_all(0.0f), s1 = s0, s2 = s0, s3 = s0;
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        s0 = lanes_fma(lanes_load(x[0] + i), lanes_load(w[0] + i), s0);
        s1 = lanes_fma(lanes_load(x[1] + i), lanes_load(w[1] + i), s1);
        s2 = lanes_fma(lanes_load(x[2] + i), lanes_load(w[2] + i), s2);
        s3 = lanes_fma(lanes_load(x[3] + i), lanes_load(w[3] + i), s3);
    }
    if (i < n) {
        size_t rest = n - i;
        s0 = lanes_fma(lanes_load_part(x[0] + i, rest), lanes_load_part(w[0] + i, rest), s0);
        s1 = lanes_fma(lanes_load_part(x[1] + i, rest), lanes_load_part(w[1] + i, rest), s1);
        s2 = lanes_fma(lanes_load_part(x[2] + i, rest), lanes_load_part(w[2] + i, rest), s2);
        s3 = lanes_fma(lanes_load_part(x[3] + i, rest), lanes_load_part(w[3] + i, rest), s3);
    }
    const lanes sums[4] = {s0, s1, s2, s3};
    lanes_sum4(sums, out);
}

void df_add_scaled(float *y, float a, const float *x, size_t n) {
    lanes scale = lanes_all(a);
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        lanes_store(y + i, lanes_add(lanes_load(y + i), lanes_mul(scale, lanes_load(x + i))));
    for (; i < n; i++) y[i] += a * x[i];
}

void df_add_scaled4(float *y, const float a[4], const float *const x[4], size_t n) {
    lanes a0 = lanes_all(a[0]), a1 = lanes_all(a[1]), a2 = lanes_all(a[2]), a3 = lanes_all(a[3]);
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        lanes sum = lanes_load(y + i);
        sum = lanes_add(sum, lanes_mul(a0, lanes_load(x[0] + i)));
        sum = lanes_add(sum, lanes_mul(a1, lanes_load(x[1] + i)));
        sum = lanes_add(sum, lanes_mul(a2, lanes_load(x[2] + i)));
        lanes_store(y + i, lanes_add(sum, lanes_mul(a3, lanes_load(x[3] + i))));
    }
    for (; i < n; i++)
        y[i] = ((y[i] + a[0] * x[0][i]) + a[1] * x[1][i]) + a[2] * x[2][i] + a[3] * x[3][i];
}

void df_set_scaled(float *y, float a, const float *x, size_t n) {
    for (size_t i = 0; i < n; i++) y[i] = 0.0f + a * x[i];
}

void df_add_row(float *y, const float *x, size_t n) {
    for (size_t i = 0; i < n; i++) y[i] += x[i];
}

static double tree_of_8(double lane[8]) {
    for (size_t half = 4; half > 0; half /= 2)
        for (size_t i = 0; i < half; i++) lane[i] += lane[i + half];
    return lane[0];
}

double df_sum_squares(const float *x, size_t n) {
    double lane[8] = {0.0};
    size_t whole = n / 8 * 8;
    for (size_t i = 0; i < whole; i += 8)
        for (size_t l = 0; l < 8; l++) lane[l] += (double)x[i + l] * (double)x[i + l];
    for (size_t i = whole; i < n; i++) lane[i - whole] += (double)x[i] * (double)x[i];
    return tree_of_8(lane);
}

double df_sum_squares_plain(const float *x, size_t n) {
    double lane[8] = {0.0};
    for (size_t i = 0; i < n; i++) lane[i % 8] += (double)x[i] * (double)x[i];
    return tree_of_8(lane);
}

/* ---- rows, token by token ------------------------------------------------------------------- */

#define TOKEN_EPSILON 1e-5

static double sum(const float *x, size_t n) {
    double lane[8] = {0.0};
    size_t whole = n / 8 * 8;
    for (size_t i = 0; i < whole; i += 8)
        for (size_t l = 0; l < 8; l++) lane[l] += (double)x[i + l];
    for (size_t i = whole; i < n; i++) lane[i - whole] += (double)x[i];
    return tree_of_8(lane);
}

static double sum_deviations(const float *x, double mean, size_t n) {
    double lane[8] = {0.0};
    size_t whole = n / 8 * 8;
    for (size_t i = 0; i < whole; i += 8)
        for (size_t l = 0; l < 8; l++) {
            double away = (double)x[i + l] - mean;
            lane[l] += away * away;
        }
    for (size_t i = whole; i < n; i++)
        lane[i - whole] += ((double)x[i] - mean) * ((double)x[i] - mean);
    return tree_of_8(lane);
}

static df_token layer_token(double mean, double deviations, size_t n) {
    double std = n > 1 ? sqrt(deviations / (double)(n - 1)) : 0.0;
    return (df_token){.mean = mean, .factor = 1.0 / (std + TOKEN_EPSILON), .back = std};
}

static df_token norm_token(double squares, size_t n) {
    double size = sqrt(squares / (double)n);
    return (df_token){.factor = size > 0.0 ? 1.0 / size : 1.0, .back = size};
}

df_token df_token_of(df_token_norm how, const float *x, size_t n) {
    if (how == DF_TOKEN_NONE || n == 0) return (df_token){.factor = 1.0, .back = 1.0};
    if (how == DF_TOKEN_NORM) return norm_token(df_sum_squares(x, n), n);
    double mean = sum(x, n) / (double)n;
    return layer_token(mean, sum_deviations(x, mean, n), n);
}

df_token df_token_of_plain(df_token_norm how, const float *x, size_t n) {
    double lane[8] = {0.0}, away[8] = {0.0}, mean;
    if (how == DF_TOKEN_NONE || n == 0) return (df_token){.factor = 1.0, .back = 1.0};
    if (how == DF_TOKEN_NORM) return norm_token(df_sum_squares_plain(x, n), n);
    for (size_t i = 0; i < n; i++) lane[i % 8] += (double)x[i];
    mean = tree_of_8(lane) / (double)n;
    for (size_t i = 0; i < n; i++) away[i % 8] += ((double)x[i] - mean) * ((double)x[i] - mean);
    return layer_token(mean, tree_of_8(away), n);
}

void df_token_apply(const df_token *token, float *x, size_t n) {
    for (size_t i = 0; i < n; i++) x[i] = (float)(((double)x[i] - token->mean) * token->factor);
}

void df_token_undo(const df_token *token, double scale, float *y, size_t n) {
    for (size_t i = 0; i < n; i++) y[i] = (float)((double)y[i] / scale * token->back + token->mean);
}

/* ---- Adam ----------------------------------------------------------------------------------- */

df_adam df_adam_at(double lr, double beta1, double beta2, double epsilon, uint64_t t) {
    double first = 1.0 - pow(beta1, (double)t), second = 1.0 - pow(beta2, (double)t);
    return (df_adam){.rate = (float)(lr / first),
                     .beta1 = (float)beta1,
                     .beta2 = (float)beta2,
                     .root = (float)sqrt(second),
                     .epsilon = (float)epsilon};
}

void df_adam_row_plain(const df_adam *adam, df_moments row, const float *gradient, size_t n) {
    for (size_t i = 0; i < n; i++) {
        float g = gradient[i];
        float m = adam->beta1 * row.m[i] + (1.0f - adam->beta1) * g;
        float v = adam->beta2 * row.v[i] + (1.0f - adam->beta2) * (g * g);
        row.m[i] = fabsf(m) < FLT_MIN ? 0.0f : m;
        row.v[i] = v < FLT_MIN ? 0.0f : v;
        row.weight[i] -= adam->rate * (row.m[i] / (sqrtf(row.v[i]) / adam->root + adam->epsilon));
    }
}

void df_adam_row(const df_adam *adam, df_moments row, const float *gradient, size_t n) {
    lanes beta1 = lanes_all(adam->beta1), rest1 = lanes_all(1.0f - adam->beta1),
          rate = lanes_all(adam->rate);
    lanes beta2 = lanes_all(adam->beta2), rest2 = lanes_all(1.0f - adam->beta2),
          root = lanes_all(adam->root);
    lanes epsilon = lanes_all(adam->epsilon);
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        lanes g = lanes_load(gradient + i), w = lanes_load(row.weight + i);
        lanes m = lanes_add(lanes_mul(beta1, lanes_load(row.m + i)), lanes_mul(rest1, g));
        lanes v =
            lanes_add(lanes_mul(beta2, lanes_load(row.v + i)), lanes_mul(rest2, lanes_mul(g, g)));
        m = lanes_flush(m);
        v = lanes_flush(v);
        lanes_store(row.m + i, m);
        lanes_store(row.v + i, v);
        lanes size = lanes_add(lanes_div(lanes_sqrt(v), root), epsilon);
        lanes_store(row.weight + i, lanes_sub(w, lanes_mul(rate, lanes_div(m, size))));
    }
    if (i == n) return;
    df_adam_row_plain(adam, (df_moments){row.weight + i, row.m + i, row.v + i}, gradient + i,
                      n - i);
}
