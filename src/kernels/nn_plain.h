/* The plain twins of the transformer kernels, for one element type: nn_plain.c includes this with
 * REAL, PLAIN(name), EXP, LOG and SQRT defined. No blocks and no lanes: the formulas as papers
 * write them. */

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

void PLAIN(df_rotate)(const REAL *cosine, const REAL *sine, size_t head_width, df_extent rows_heads,
                      REAL *x) {
    size_t half = head_width / 2;
    for (size_t i = 0; i < rows_heads.rows * rows_heads.width * half; i++) {
        size_t pair = i % half, head = i / half, angle = head / rows_heads.width * half + pair;
        REAL *at = x + head * head_width + pair, a = at[0], b = at[half];
        at[0] = a * cosine[angle] - b * sine[angle];
        at[half] = b * cosine[angle] + a * sine[angle];
    }
}

void PLAIN(df_silu_gate)(const REAL *up, size_t n, REAL *gate) {
    for (size_t i = 0; i < n; i++) gate[i] = gate[i] / (1 + EXP(-gate[i])) * up[i];
}

void PLAIN(df_causal_softmax)(REAL *scores, size_t rows, size_t first, size_t columns, REAL scale) {
    for (size_t r = 0; r < rows; r++) {
        REAL *x = scores + r * columns, top = x[0], sum = 0;
        size_t seen = first + r + 1 < columns ? first + r + 1 : columns;
        for (size_t i = 1; i < seen; i++) top = x[i] > top ? x[i] : top;
        for (size_t i = 0; i < seen; i++) sum += EXP((x[i] - top) * scale);
        for (size_t i = 0; i < columns; i++) x[i] = i < seen ? EXP((x[i] - top) * scale) / sum : 0;
    }
}

// Weights of one query row q [width] of one head on the first `seen.rows` keys, rows of stride ld.
static void PLAIN(weigh)(const REAL *q, const REAL *k, df_extent seen, size_t ld, REAL scale,
                         REAL *weights) {
    for (size_t j = 0; j < seen.rows; j++) {
        weights[j] = 0;
        for (size_t i = 0; i < seen.width; i++) weights[j] += q[i] * k[j * ld + i];
    }
    PLAIN(df_causal_softmax)(weights, 1, seen.rows - 1, seen.rows, scale);
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
            PLAIN(weigh)(q + at, k + column, seen, key, (REAL)a->scale, weights);
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
