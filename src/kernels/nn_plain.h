/* The plain twins of the transformer kernels, for one element type: nn_plain.c includes this with
 * REAL, PLAIN(name), EXP, LOG, SQRT, TANH and ERFC defined. No blocks and no lanes: the formulas as
 * papers write them. */

void PLAIN(df_rms_norm)(const REAL *x, const REAL *gain, REAL epsilon, df_extent extent, REAL *y) {
    for (size_t r = 0; r < extent.rows; r++) {
        const REAL *row = x + r * extent.width;
        REAL squares = 0;
        for (size_t i = 0; i < extent.width; i++) squares += row[i] * row[i];
        REAL scale = 1 / SQRT(squares / (REAL)extent.width + epsilon);
        for (size_t i = 0; i < extent.width; i++)
            y[r * extent.width + i] = row[i] * scale * gain[i];
    }
}

void PLAIN(df_layer_norm)(const REAL *x, const REAL *gain, const REAL *bias, REAL epsilon,
                          df_extent extent, REAL *y) {
    for (size_t r = 0; r < extent.rows; r++) {
        const REAL *row = x + r * extent.width;
        REAL mean = 0, variance = 0;
        for (size_t i = 0; i < extent.width; i++) mean += row[i] / (REAL)extent.width;
        for (size_t i = 0; i < extent.width; i++)
            variance += (row[i] - mean) * (row[i] - mean) / (REAL)extent.width;
        REAL scale = 1 / SQRT(variance + epsilon);
        for (size_t i = 0; i < extent.width; i++)
            y[r * extent.width + i] =
                (row[i] - mean) * scale * gain[i] + (bias != NULL ? bias[i] : 0);
    }
}

void PLAIN(df_rotate)(const REAL *cosine, const REAL *sine, df_heads heads, REAL *x) {
    size_t half = heads.turned / 2;
    for (size_t i = 0; i < heads.rows * heads.heads * half; i++) {
        size_t pair = i % half, head = i / half, angle = head / heads.heads * half + pair;
        REAL *at = x + head * heads.width + pair, a = at[0], b = at[half];
        at[0] = a * cosine[angle] - b * sine[angle];
        at[half] = b * cosine[angle] + a * sine[angle];
    }
}

static REAL PLAIN(activate_one)(df_activation_kind kind, REAL x) {
    const REAL root_half = (REAL)0.70710678118654752440, factor = (REAL)0.79788456080286535588;
    switch (kind) {
    case DF_ACT_SILU:
        return x / (1 + EXP(-x));
    case DF_ACT_GELU:
        return x / 2 * ERFC(-x * root_half);
    case DF_ACT_GELU_TANH:
        return x / 2 * (1 + TANH(factor * (x + (REAL)0.044715 * x * x * x)));
    case DF_ACT_RELU:
        return x < 0 ? 0 : x;
    }
    return x;
}

void PLAIN(df_activate)(df_activation_kind kind, const REAL *up, size_t n, REAL *x) {
    for (size_t i = 0; i < n; i++)
        x[i] = PLAIN(activate_one)(kind, x[i]) * (up != NULL ? up[i] : 1);
}

void PLAIN(df_soft_cap)(REAL cap, size_t n, REAL *x) {
    for (size_t i = 0; i < n; i++) x[i] = cap * TANH(x[i] / cap);
}

void PLAIN(df_causal_softmax)(REAL *scores, df_extent extent, size_t first, df_score_rule rule) {
    for (size_t r = 0; r < extent.rows; r++) {
        REAL *x = scores + r * extent.width, top = -(REAL)INFINITY, sum = 0;
        size_t end = first + r + 1 < extent.width ? first + r + 1 : extent.width;
        size_t from =
            rule.window > 0 && first + r + 1 > rule.window ? first + r + 1 - rule.window : 0;
        for (size_t i = from; i < end; i++) x[i] *= (REAL)rule.scale;
        if (rule.cap > 0 && from < end) PLAIN(df_soft_cap)((REAL)rule.cap, end - from, x + from);
        for (size_t i = from; i < end; i++) top = x[i] > top ? x[i] : top;
        for (size_t i = from; i < end; i++) sum += EXP(x[i] - top);
        for (size_t i = 0; i < extent.width; i++)
            x[i] = i >= from && i < end ? EXP(x[i] - top) / sum : 0;
    }
}

// Weights of one query row q [width] of one head on the first `seen.rows` keys, rows of stride ld.
static void PLAIN(weigh)(const REAL *q, const REAL *k, df_extent seen, size_t ld,
                         df_score_rule rule, REAL *weights) {
    for (size_t j = 0; j < seen.rows; j++) {
        weights[j] = 0;
        for (size_t i = 0; i < seen.width; i++) weights[j] += q[i] * k[j * ld + i];
    }
    PLAIN(df_causal_softmax)(weights, (df_extent){1, seen.rows}, seen.rows - 1, rule);
}

// out [width] = sum over the rows of v, stride ld, by weight.
static void PLAIN(mix)(const REAL *weights, const REAL *v, df_extent seen, size_t ld, REAL *out) {
    for (size_t i = 0; i < seen.width; i++) {
        out[i] = 0;
        for (size_t j = 0; j < seen.rows; j++) out[i] += weights[j] * v[j * ld + i];
    }
}

void PLAIN(df_attend)(const df_attention *a, const REAL *q, const REAL *k, const REAL *v,
                      REAL *weights, REAL *out) {
    size_t width = a->head_width, query = a->heads * width, key = a->kv_heads * width;
    for (size_t t = 0; t < a->rows; t++)
        for (size_t h = 0; h < a->heads; h++) {
            size_t column = h / (a->heads / a->kv_heads) * width, at = t * query + h * width;
            df_extent seen = {t + 1, width};
            PLAIN(weigh)(q + at, k + column, seen, key, a->rule, weights);
            PLAIN(mix)(weights, v + column, seen, key, out + at);
        }
}

void PLAIN(df_nll_rows)(const REAL *logits, const uint32_t *target, df_extent extent, double *nll) {
    for (size_t r = 0; r < extent.rows; r++) {
        const REAL *row = logits + r * extent.width;
        REAL top = row[0], sum = 0;
        for (size_t i = 1; i < extent.width; i++) top = row[i] > top ? row[i] : top;
        for (size_t i = 0; i < extent.width; i++) sum += EXP(row[i] - top);
        nll[r] = (double)(LOG(sum) + top - row[target[r]]);
    }
}
