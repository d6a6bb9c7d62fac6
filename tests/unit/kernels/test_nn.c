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
    const size_t width = 6, half = 3, rows = 9, heads = 3, n = rows * heads * width;
    float *x = fresh(n, 1.0), *cosine = fresh(rows * half, 1.0), *sine = fresh(rows * half, 1.0),
          *twin = copy(x, n);
    for (size_t i = 0; i < rows * half; i++) {
        sine[i] = (float)sin(0.7 * (double)i);
        cosine[i] = (float)cos(0.7 * (double)i);
    }
    double *xd = widen(x, n), *cosined = widen(cosine, rows * half),
           *sined = widen(sine, rows * half);
    df_rotate_plain_double(cosined, sined, width, (df_extent){rows, heads}, xd);
    df_rotate(cosine, sine, width, (df_extent){rows, heads}, x);
    df_rotate_plain(cosine, sine, width, (df_extent){rows, heads}, twin);
    near(x, xd, n, 1e-6);
    assert_memory_equal(x, twin, n * sizeof *x);
    void *all[] = {x, cosine, sine, twin, xd, cosined, sined};
    for (size_t i = 0; i < 7; i++) df_free(all[i]);
}

static void test_silu_gate(void **state) {
    (void)state;
    const size_t n = 1003;
    float *gate = fresh(n, 8.0), *up = fresh(n, 1.0), *twin = copy(gate, n);
    double *gated = widen(gate, n), *upd = widen(up, n);
    df_silu_gate_plain_double(upd, n, gated);
    df_silu_gate(up, n, gate);
    df_silu_gate_plain(up, n, twin);
    for (size_t i = 0; i < n; i++) assert_close(gate[i], gated[i], 1e-6, 1e-30);
    near(twin, gated, n, 1e-6);
    float far[4] = {-200.0f, 200.0f, 0.0f, NAN}, one[4] = {1, 1, 1, 1};
    df_silu_gate(one, 4, far);
    assert_close(far[0], 0.0, 0, 1e-30);
    assert_close(far[1], 200.0, 1e-6, 0);
    assert_true(far[2] <= 0.0f && far[2] >= 0.0f && isnan(far[3]));
    void *all[] = {gate, up, twin, gated, upd};
    for (size_t i = 0; i < 5; i++) df_free(all[i]);
}

static void test_causal_softmax(void **state) {
    (void)state;
    const size_t columns[] = {1, 7, 16, 33, 200}, firsts[] = {0, 3, 150};
    for (size_t c = 0; c < 5; c++)
        for (size_t f = 0; f < 3; f++) {
            size_t n = 13 * columns[c];
            float *x = fresh(n, 20.0), *twin = copy(x, n);
            double *xd = widen(x, n);
            df_causal_softmax_plain_double(xd, 13, firsts[f], columns[c], 0.25);
            df_causal_softmax(x, 13, firsts[f], columns[c], 0.25f);
            df_causal_softmax_plain(twin, 13, firsts[f], columns[c], 0.25f);
            for (size_t i = 0; i < n; i++) assert_close(x[i], xd[i], 2e-6, 1e-12);
            near(twin, xd, n, 2e-6);
            df_free(x);
            df_free(twin);
            df_free(xd);
        }
}

static void attention_case(size_t heads, size_t kv_heads, size_t width, size_t rows) {
    size_t query = rows * heads * width, key = rows * kv_heads * width;
    df_attention a = {
        .rows = rows, .heads = heads, .kv_heads = kv_heads, .head_width = width, .scale = 0.3f};
    float *q = fresh(query, 2.0), *k = fresh(key, 2.0), *v = fresh(key, 1.0),
          *out = fresh(query, 1.0), *twin = fresh(query, 1.0);
    float *scratch = fresh(df_attention_scratch(rows), 1.0);
    double *qd = widen(q, query), *kd = widen(k, key), *vd = widen(v, key),
           *outd = widen(out, query), *weights = widen(q, rows);
    df_attend_plain_double(&a, qd, kd, vd, weights, outd);
    df_attend_plain(&a, q, k, v, scratch, twin);
    near(twin, outd, query, 1e-5);
    a.q = q, a.k = k, a.v = v, a.out = out, a.scratch = scratch;
    df_attend(&a);
    near(out, outd, query, 1e-5);
    void *all[] = {q, k, v, out, twin, scratch, qd, kd, vd, outd, weights};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) df_free(all[i]);
}

static void test_attention(void **state) {
    (void)state;
    attention_case(1, 1, 2, DF_ATTENTION_ROWS);
    attention_case(4, 2, 32, 2 * DF_ATTENTION_ROWS);
    attention_case(6, 2, 10, 3 * DF_ATTENTION_ROWS);
    attention_case(3, 1, 7, 2 * DF_ATTENTION_ROWS);
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
    df_causal_softmax(x, 1, 2, 3, 1.0f);
    assert_true(isnan(x[0]) && isnan(x[1]) && isnan(x[2]));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rms_norm),    cmocka_unit_test(test_rotate),
        cmocka_unit_test(test_silu_gate),   cmocka_unit_test(test_causal_softmax),
        cmocka_unit_test(test_attention),   cmocka_unit_test(test_nll),
        cmocka_unit_test(test_nan_spreads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
