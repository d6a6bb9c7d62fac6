/* The transformer kernels against their double twins on random rows of awkward sizes, and by hand
 * where a value is known. */
#include "df_test.h"

#include "darkfield/kernels.h"

static uint64_t drawn;

static void draw(float *x, size_t n, double scale) {
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(scale * df_random_normal(7, DF_STREAM_TEST, drawn++));
}

static double *widen(const float *x, size_t n) {
    double *out = df_alloc(n, sizeof *out);
    assert_non_null(out);
    for (size_t i = 0; i < n; i++) out[i] = (double)x[i];
    return out;
}

static float *fresh(size_t n, double scale) {
    float *out = df_alloc(n, sizeof *out);
    assert_non_null(out);
    draw(out, n, scale);
    return out;
}

static float *copy(const float *x, size_t n) {
    float *out = df_alloc(n, sizeof *out);
    assert_non_null(out);
    memcpy(out, x, n * sizeof *x);
    return out;
}

// |fast - reference| / |reference| over the array, and the same for the float twin.
static void near(const float *fast, const double *reference, size_t n, double limit) {
    double apart = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
        apart += ((double)fast[i] - reference[i]) * ((double)fast[i] - reference[i]);
        size += reference[i] * reference[i];
    }
    assert_true(sqrt(apart) <= limit * sqrt(size));
}

static void test_rms_norm(void **state) {
    (void)state;
    const size_t widths[] = {1, 2, 15, 16, 17, 128, 771};
    for (size_t w = 0; w < sizeof widths / sizeof *widths; w++) {
        df_extent extent = {5, widths[w]};
        size_t n = extent.rows * extent.width;
        float *x = fresh(n, 3.0), *gain = fresh(extent.width, 1.0), *y = fresh(n, 1.0),
              *twin = fresh(n, 1.0);
        double *xd = widen(x, n), *gaind = widen(gain, extent.width), *yd = widen(x, n);
        df_rms_norm_plain_double(xd, gaind, 1e-5, extent, yd);
        df_rms_norm(x, gain, 1e-5f, extent, y);
        df_rms_norm_plain(x, gain, 1e-5f, extent, twin);
        near(y, yd, n, 1e-6);
        near(twin, yd, n, 2e-6);
        df_rms_norm(x, gain, 1e-5f, extent, x); // in place
        assert_memory_equal(x, y, n * sizeof *x);
        void *all[] = {x, gain, y, twin, xd, gaind, yd};
        for (size_t i = 0; i < 7; i++) df_free(all[i]);
    }
}

static void test_rotate(void **state) {
    (void)state;
    const df_heads heads = {.rows = 9, .heads = 3, .width = 8, .turned = 6}; // two columns stay
    const size_t half = 3, rows = 9, n = rows * heads.heads * heads.width;
    float *x = fresh(n, 1.0), *cosine = fresh(rows * half, 1.0), *sine = fresh(rows * half, 1.0),
          *twin = copy(x, n);
    for (size_t i = 0; i < rows * half; i++) {
        sine[i] = (float)sin(0.7 * (double)i);
        cosine[i] = (float)cos(0.7 * (double)i);
    }
    double *xd = widen(x, n), *cosined = widen(cosine, rows * half),
           *sined = widen(sine, rows * half);
    df_rotate_plain_double(cosined, sined, heads, xd);
    df_rotate(cosine, sine, heads, x);
    df_rotate_plain(cosine, sine, heads, twin);
    near(x, xd, n, 1e-6);
    assert_memory_equal(x, twin, n * sizeof *x);
    void *all[] = {x, cosine, sine, twin, xd, cosined, sined};
    for (size_t i = 0; i < 7; i++) df_free(all[i]);
}

static void test_layer_norm(void **state) {
    (void)state;
    const size_t widths[] = {1, 2, 15, 16, 17, 128, 771};
    for (size_t w = 0; w < 2 * sizeof widths / sizeof *widths; w++) {
        df_extent extent = {5, widths[w / 2]};
        size_t n = extent.rows * extent.width;
        float *x = fresh(n, 3.0), *gain = fresh(extent.width, 1.0),
              *bias = fresh(extent.width, 1.0), *y = fresh(n, 1.0), *twin = fresh(n, 1.0);
        double *xd = widen(x, n), *gaind = widen(gain, extent.width),
               *biasd = widen(bias, extent.width), *yd = widen(x, n);
        bool biased = w % 2 != 0;
        df_layer_norm_plain_double(xd, gaind, biased ? biasd : NULL, 1e-5, extent, yd);
        df_layer_norm(x, gain, biased ? bias : NULL, 1e-5f, extent, y);
        df_layer_norm_plain(x, gain, biased ? bias : NULL, 1e-5f, extent, twin);
        near(y, yd, n, 3e-6);
        near(twin, yd, n, 3e-6);
        df_layer_norm(x, gain, biased ? bias : NULL, 1e-5f, extent, x); // in place
        assert_memory_equal(x, y, n * sizeof *x);
        void *all[] = {x, gain, bias, y, twin, xd, gaind, biasd, yd};
        for (size_t i = 0; i < sizeof all / sizeof *all; i++) df_free(all[i]);
    }
}

static void activation_case(df_activation_kind kind, bool gated) {
    const size_t n = 1003;
    float *x = fresh(n, 4.0), *up = fresh(n, 1.0), *twin = copy(x, n);
    double *xd = widen(x, n), *upd = widen(up, n);
    df_activate_plain_double(kind, gated ? upd : NULL, n, xd);
    df_activate(kind, gated ? up : NULL, n, x);
    df_activate_plain(kind, gated ? up : NULL, n, twin);
    for (size_t i = 0; i < n; i++) assert_close(x[i], xd[i], 1e-5, 1e-7);
    near(x, xd, n, 1e-6);
    near(twin, xd, n, 1e-6);
    float far[4] = {-200.0f, 200.0f, 0.0f, NAN};
    df_activate(kind, NULL, 4, far);
    assert_close(far[0], 0.0, 0, 1e-30);
    assert_close(far[1], 200.0, 1e-6, 0);
    assert_true(far[2] <= 0.0f && far[2] >= 0.0f && isnan(far[3]));
    void *all[] = {x, up, twin, xd, upd};
    for (size_t i = 0; i < 5; i++) df_free(all[i]);
}

static void test_activations(void **state) {
    (void)state;
    const df_activation_kind kinds[] = {DF_ACT_SILU, DF_ACT_GELU, DF_ACT_GELU_TANH, DF_ACT_RELU};
    for (size_t i = 0; i < 8; i++) activation_case(kinds[i / 2], i % 2 != 0);
}

static void test_soft_cap(void **state) {
    (void)state;
    const size_t n = 1003;
    const double sizes[] = {0.01, 1.0, 30.0, 1000.0};
    for (size_t s = 0; s < 4; s++) {
        float *x = fresh(n, sizes[s]), *twin = copy(x, n);
        double *xd = widen(x, n);
        df_soft_cap_plain_double(30.0, n, xd);
        df_soft_cap(30.0f, n, x);
        df_soft_cap_plain(30.0f, n, twin);
        for (size_t i = 0; i < n; i++) assert_close(x[i], xd[i], 2e-6, 1e-30);
        near(twin, xd, n, 1e-6);
        df_free(x);
        df_free(twin);
        df_free(xd);
    }
}

static void softmax_case(size_t columns, size_t first, df_score_rule rule) {
    df_extent extent = {13, columns};
    size_t n = extent.rows * columns;
    float *x = fresh(n, 20.0), *twin = copy(x, n);
    double *xd = widen(x, n);
    df_causal_softmax_plain_double(xd, extent, first, rule);
    df_causal_softmax(x, extent, first, rule);
    df_causal_softmax_plain(twin, extent, first, rule);
    for (size_t i = 0; i < n; i++) assert_close(x[i], xd[i], 5e-6, 1e-12);
    near(twin, xd, n, 5e-6);
    df_free(x);
    df_free(twin);
    df_free(xd);
}

static void test_causal_softmax(void **state) {
    (void)state;
    const size_t columns[] = {1, 7, 16, 33, 200}, firsts[] = {0, 3, 150};
    for (size_t c = 0; c < 5; c++)
        for (size_t f = 0; f < 3; f++) {
            softmax_case(columns[c], firsts[f], (df_score_rule){.scale = 0.25f});
            softmax_case(columns[c], firsts[f], (df_score_rule){.scale = 0.25f, .cap = 5.0f});
            softmax_case(columns[c], firsts[f], (df_score_rule){.scale = 0.25f, .window = 4});
        }
}

static void attention_case(size_t heads, size_t kv_heads, size_t width, size_t rows,
                           df_score_rule rule) {
    size_t query = rows * heads * width, key = rows * kv_heads * width;
    df_attention a = {
        .rows = rows, .heads = heads, .kv_heads = kv_heads, .head_width = width, .rule = rule};
    float *q = fresh(query, 2.0), *k = fresh(key, 2.0), *v = fresh(key, 1.0),
          *out = fresh(query, 1.0), *twin = fresh(query, 1.0);
    float *scratch = fresh(df_attention_scratch(rows), 1.0);
    double *qd = widen(q, query), *kd = widen(k, key), *vd = widen(v, key),
           *outd = widen(out, query), *weights = widen(q, rows);
    df_attend_plain_double(&a, qd, kd, vd, weights, outd);
    df_attend_plain(&a, q, k, v, scratch, twin);
    near(twin, outd, query, 1e-5);
    a.q = q, a.k = k, a.v = v, a.out = out, a.scratch = scratch;
    a.pattern = fresh(heads * rows * rows, 1.0);
    df_attend(&a);
    near(out, outd, query, 1e-5);
    for (size_t i = 0; i < heads * rows; i++) { // every row of weights sums to 1
        double sum = 0;
        for (size_t j = 0; j < rows; j++) sum += (double)a.pattern[i * rows + j];
        assert_close(sum, 1.0, 1e-5, 0);
    }
    df_free(a.pattern);
    void *all[] = {q, k, v, out, twin, scratch, qd, kd, vd, outd, weights};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) df_free(all[i]);
}

static void test_attention(void **state) {
    (void)state;
    const df_score_rule plain = {.scale = 0.3f};
    attention_case(1, 1, 2, DF_ATTENTION_ROWS, plain);
    attention_case(4, 2, 32, 2 * DF_ATTENTION_ROWS, plain);
    attention_case(6, 2, 10, 3 * DF_ATTENTION_ROWS, plain);
    attention_case(3, 1, 7, 2 * DF_ATTENTION_ROWS, plain);
    attention_case(4, 2, 8, 3 * DF_ATTENTION_ROWS, (df_score_rule){.scale = 1.0f, .window = 70});
    attention_case(4, 2, 8, 2 * DF_ATTENTION_ROWS, (df_score_rule){.scale = 0.5f, .window = 1});
    attention_case(2, 1, 8, 3 * DF_ATTENTION_ROWS, (df_score_rule){0.4f, 2.0f, 33});
}

static void test_nll(void **state) {
    (void)state;
    const size_t widths[] = {1, 5, 16, 640, 1001};
    for (size_t w = 0; w < 5; w++) {
        df_extent extent = {4, widths[w]};
        size_t n = extent.rows * extent.width;
        uint32_t target[4] = {0, (uint32_t)(widths[w] / 2), (uint32_t)(widths[w] - 1), 0};
        float *x = fresh(n, 10.0);
        double *xd = widen(x, n), fast[4], twin[4], exact[4];
        df_nll_rows_plain_double(xd, target, extent, exact);
        df_nll_rows_plain(x, target, extent, twin);
        df_nll_rows(x, target, extent, fast);
        for (size_t r = 0; r < 4; r++) {
            assert_close(fast[r], exact[r], 1e-6, 2e-6);
            assert_close(twin[r], exact[r], 1e-5, 1e-5);
        }
        df_free(x);
        df_free(xd);
    }
}

static void test_nan_spreads(void **state) {
    (void)state;
    float x[3] = {1.0f, NAN, 2.0f}, gain[3] = {1, 1, 1}, y[3];
    df_rms_norm(x, gain, 1e-5f, (df_extent){1, 3}, y);
    assert_true(isnan(y[0]) && isnan(y[1]) && isnan(y[2]));
    df_causal_softmax(x, (df_extent){1, 3}, 2, (df_score_rule){.scale = 1.0f});
    assert_true(isnan(x[0]) && isnan(x[1]) && isnan(x[2]));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rms_norm),    cmocka_unit_test(test_rotate),
        cmocka_unit_test(test_layer_norm),  cmocka_unit_test(test_activations),
        cmocka_unit_test(test_soft_cap),    cmocka_unit_test(test_causal_softmax),
        cmocka_unit_test(test_attention),   cmocka_unit_test(test_nll),
        cmocka_unit_test(test_nan_spreads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
