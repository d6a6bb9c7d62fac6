/* Row kernels against their plain twins: equal bits at every length; selection against sorting. */
#include "df_test.h"

#include "darkfield/kernels.h"
#include <float.h>

#define MOST 203

static void fill(float *x, size_t n, uint64_t seed) {
    for (size_t i = 0; i < n; i++) x[i] = (float)df_random_normal(seed, DF_STREAM_TEST, i);
}

static bool same_bits(const float *a, const float *b, size_t n) {
    return memcmp(a, b, n * sizeof *a) == 0;
}

static void test_dot(void **state) {
    (void)state;
    float x[MOST], w[4][MOST], out[4];
    fill(x, MOST, 1);
    for (uint64_t i = 0; i < 4; i++) fill(w[i], MOST, 2 + i);
    const float *rows[4] = {w[0], w[1], w[2], w[3]};
    for (size_t n = 0; n <= MOST; n++) {
        df_dot4(x, rows, n, out);
        for (size_t i = 0; i < 4; i++) {
            float plain = df_dot_plain(x, w[i], n), fast = df_dot(x, w[i], n);
            assert_true(same_bits(&plain, &fast, 1) && same_bits(&plain, &out[i], 1));
        }
        const float *left[4] = {w[1], x, w[0], w[3]};
        df_dot_pairs(left, rows, n, out);
        for (size_t i = 0; i < 4; i++) {
            float plain = df_dot_plain(left[i], w[i], n);
            assert_true(same_bits(&plain, &out[i], 1));
        }
        double squares = df_sum_squares(x, n), twin = df_sum_squares_plain(x, n);
        assert_memory_equal(&squares, &twin, sizeof twin);
    }
}

static void test_scaled_sums(void **state) {
    (void)state;
    float x[MOST + 3], y[MOST], plain[MOST];
    for (size_t n = 0; n <= MOST; n += 7) {
        fill(x, MOST + 3, 3);
        fill(y, MOST, 4);
        memcpy(plain, y, sizeof y);
        for (size_t i = 0; i < n; i++) plain[i] += 0.3f * x[i];
        df_add_scaled(y, 0.3f, x, n);
        assert_true(same_bits(y, plain, MOST));
        const float *const rows[4] = {x, x + 1, x + 2, x + 3}, a[4] = {0.3f, 0.1f, -2.0f, 1e-3f};
        for (size_t i = 0; i < n; i++)
            for (size_t k = 0; k < 4; k++) plain[i] += a[k] * rows[k][i];
        df_add_scaled4(y, a, rows, n);
        assert_true(same_bits(y, plain, MOST));
        df_add_row(y, x, n);
        for (size_t i = 0; i < n; i++) plain[i] += x[i];
        assert_true(same_bits(y, plain, MOST));
    }
    x[0] = -0.0f;
    df_set_scaled(y, 1.0f, x, 1);
    assert_false(signbit(y[0]));
}

/* Of random rows, some far from zero: the twin's bits; lengths and levels are those asked for, and
 * undoing brings the row back. */
static void test_tokens(void **state) {
    (void)state;
    float x[MOST], y[MOST];
    for (uint64_t n = 1; n <= MOST; n++)
        for (int how = DF_TOKEN_NONE; how <= DF_TOKEN_NORM; how++) {
            fill(x, MOST, 70 + n);
            for (size_t i = 0; i < n; i++)
                x[i] = (float)(1e3 * (double)x[i] + (n % 3 == 0 ? 2e4 : 0));
            df_token token = df_token_of((df_token_norm)how, x, n),
                     twin = df_token_of_plain((df_token_norm)how, x, n);
            assert_memory_equal(&token, &twin, sizeof twin);
            memcpy(y, x, sizeof y);
            df_token_apply(&token, y, n);
            double squares = 0.0, sum = 0.0;
            for (size_t i = 0; i < n; i++) sum += (double)y[i];
            for (size_t i = 0; i < n; i++) squares += (double)y[i] * (double)y[i];
            if (how == DF_TOKEN_NORM) assert_close(squares, (double)n, 1e-6, 0);
            if (how == DF_TOKEN_LAYER) assert_close(sum, 0, 0, 1e-4);
            if (how == DF_TOKEN_LAYER && n > 1) assert_close(squares, (double)(n - 1), 1e-4, 0);
            for (size_t i = 0; i < n; i++) y[i] *= 0.25f;
            df_token_undo(&token, 0.25, y, n);
            for (size_t i = 0; i < n; i++) assert_close(y[i], x[i], 1e-6, 1e-2);
        }
}

/* Rows that have no length or do not vary. */
static void test_still_tokens(void **state) {
    (void)state;
    float level[5] = {3, 3, 3, 3, 3}, zeros[5] = {0}, any[5] = {1, -2, 3, 4, 5};
    df_token token = df_token_of(DF_TOKEN_LAYER, level, 5);
    df_token_apply(&token, level, 5);
    df_token_undo(&token, 2.0, any, 5);
    for (size_t i = 0; i < 5; i++) assert_true(level[i] == 0.0f && any[i] == 3.0f);
    for (size_t i = 0; i < 5; i++) any[i] = 7.0f;
    token = df_token_of(DF_TOKEN_NORM, zeros, 5);
    df_token_apply(&token, zeros, 5);
    df_token_undo(&token, 2.0, any, 5);
    for (size_t i = 0; i < 5; i++) assert_true(zeros[i] == 0.0f && any[i] == 0.0f);
}

static void test_adam(void **state) {
    (void)state;
    float w[2][MOST], m[2][MOST], v[2][MOST], g[MOST];
    for (size_t n = 0; n <= MOST; n += 9) {
        for (uint64_t i = 0; i < 2; i++)
            fill(w[i], MOST, 5), fill(m[i], MOST, 6), fill(v[i], MOST, 7);
        for (size_t i = 0; i < MOST; i++) v[0][i] = v[1][i] = v[0][i] * v[0][i];
        for (uint64_t t = 1; t < 5; t++) {
            df_adam adam = df_adam_at(1e-3, 0.9, 0.999, 1e-8, t);
            fill(g, MOST, 10 + t);
            df_adam_row(&adam, (df_moments){w[0], m[0], v[0]}, g, n);
            df_adam_row_plain(&adam, (df_moments){w[1], m[1], v[1]}, g, n);
        }
        assert_true(same_bits(w[0], w[1], MOST) && same_bits(m[0], m[1], MOST) &&
                    same_bits(v[0], v[1], MOST));
    }
}

/* The first step moves every weight by lr, whatever the gradient (Kingma and Ba, section 2.1). */
static void test_adam_first_step(void **state) {
    (void)state;
    float w[20] = {0}, m[20] = {0}, v[20] = {0}, g[20];
    for (size_t i = 0; i < 20; i++) g[i] = i % 2 ? -3.0f : 0.02f;
    df_adam adam = df_adam_at(0.01, 0.9, 0.999, 1e-12, 1);
    df_adam_row(&adam, (df_moments){w, m, v}, g, 20);
    for (size_t i = 0; i < 20; i++) assert_close(w[i], i % 2 ? 0.01 : -0.01, 1e-4, 0);
}

static void test_adam_flushes(void **state) {
    (void)state;
    float w[20], m[20], v[20], g[20] = {0};
    for (size_t i = 0; i < 20; i++) w[i] = 1.0f, m[i] = FLT_MIN, v[i] = FLT_MIN;
    df_adam adam = df_adam_at(1e-3, 0.9, 0.999, 1e-8, 900);
    df_adam_row(&adam, (df_moments){w, m, v}, g, 20);
    for (size_t i = 0; i < 20; i++) assert_true(m[i] == 0.0f && v[i] == 0.0f && w[i] == 1.0f);
}

static int descending(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

static int ascending(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void test_nth(void **state) {
    (void)state;
    float values[MOST], sorted[MOST], scratch[MOST];
    uint64_t keys[MOST], in_order[MOST], work[MOST];
    for (uint64_t round = 0; round < 40; round++) {
        size_t n = 1 + df_random_bits(30, DF_STREAM_TEST, round) % MOST;
        for (size_t i = 0; i < n; i++) {
            uint64_t bits = df_random_bits(31 + round, DF_STREAM_TEST, i);
            keys[i] = in_order[i] = round % 3 == 0 ? bits % 5 : bits;
            values[i] = sorted[i] = round % 3 == 0
                                        ? (float)(bits % 5)
                                        : (round % 3 == 1 ? (float)i : (float)(bits >> 40));
        }
        qsort(sorted, n, sizeof *sorted, descending);
        qsort(in_order, n, sizeof *in_order, ascending);
        for (size_t k = 1; k <= n; k += 1 + n / 9) {
            memcpy(scratch, values, sizeof scratch);
            memcpy(work, keys, sizeof work);
            assert_true(df_nth_largest(scratch, n, k) == sorted[k - 1]);
            assert_true(df_nth_smallest(work, n, k) == in_order[k - 1]);
        }
    }
}

/* A level is reached by at least k, and is close below the k-th largest; where fewer than k reach
 * the old one, it stays. */
static void test_level(void **state) {
    (void)state;
    float values[MOST], sorted[MOST];
    for (uint64_t round = 0; round < 60; round++) {
        size_t n = 1 + df_random_bits(50, DF_STREAM_TEST, round) % MOST;
        fill(values, MOST, 60 + round);
        for (size_t i = 0; i < n && round % 5 == 0; i++) values[i] = 1.5f; // ties
        memcpy(sorted, values, sizeof sorted);
        qsort(sorted, n, sizeof *sorted, descending);
        for (size_t k = 1; k <= n; k++) {
            float level = df_level_of(values, n, k, -8.0f);
            size_t reach = 0;
            for (size_t i = 0; i < n; i++) reach += values[i] >= level;
            assert_true(reach >= k && level <= sorted[k - 1]);
            assert_true(sorted[k - 1] - level <= 16.0f / 4096.0f);
        }
        assert_true(df_level_of(values, n, n + 1, -8.0f) == -8.0f);
        assert_true(df_level_of(values, n, 1, 100.0f) == 100.0f);
    }
}

/* Keys with ties, NaN and infinities, levels that nothing or everything reaches. */
static void test_keep_reaching(void **state) {
    (void)state;
    enum { ENTRIES = 100 };
    static const float odd[] = {NAN, INFINITY, -INFINITY, 0.0f, -0.0f, FLT_TRUE_MIN};
    for (uint64_t round = 0; round < 2000; round++) {
        float key[2][ENTRIES], value[2][ENTRIES];
        uint32_t a[2][ENTRIES], b[2][ENTRIES];
        size_t n = df_random_bits(1, DF_STREAM_TEST, round) % (ENTRIES + 1);
        for (size_t i = 0; i < n; i++) {
            uint64_t bits = df_random_bits(2, DF_STREAM_TEST, round * ENTRIES + i);
            key[0][i] = key[1][i] = bits % 9 == 0 ? odd[bits >> 8 & 3] : (float)(bits >> 32 & 7);
            value[0][i] = value[1][i] = (float)i;
            a[0][i] = a[1][i] = (uint32_t)bits;
            b[0][i] = b[1][i] = (uint32_t)i;
        }
        float level = round % 10 == 0 ? odd[round / 10 % 6] : (float)(round % 9);
        void *const quick[3] = {value[0], a[0], b[0]}, *const plain[3] = {value[1], a[1], b[1]};
        size_t kept = df_keep_reaching(level, n, key[0], quick), last = 0;
        assert_int_equal(kept, df_keep_reaching_plain(level, n, key[1], plain));
        assert_memory_equal(key[0], key[1], kept * sizeof key[0][0]);
        assert_memory_equal(value[0], value[1], kept * sizeof value[0][0]);
        assert_memory_equal(a[0], a[1], kept * sizeof a[0][0]);
        assert_memory_equal(b[0], b[1], kept * sizeof b[0][0]);
        for (size_t i = 0; i < kept; i++) {
            assert_true(key[0][i] >= level && b[0][i] == (uint32_t)value[0][i]);
            assert_true(i == 0 || b[0][i] > last);
            last = b[0][i];
        }
    }
}

static void test_handle(void **state) {
    (void)state;
    df_kernels *kernels, *again;
    assert_ok(df_kernels_open("auto", &kernels));
    assert_ok(df_kernels_check(kernels));
    assert_ok(df_kernels_open(df_kernels_path(kernels), &again));
    df_kernels_close(&again);
    assert_fails(df_kernels_open("OpenBLAS PDP11 + abacus", &again), DF_USAGE, "abacus");
    df_kernels_close(&again);
    df_kernels_close(&kernels);
    assert_int_equal(df_memory_now(), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dot),           cmocka_unit_test(test_scaled_sums),
        cmocka_unit_test(test_tokens),        cmocka_unit_test(test_still_tokens),
        cmocka_unit_test(test_adam),          cmocka_unit_test(test_adam_first_step),
        cmocka_unit_test(test_adam_flushes),  cmocka_unit_test(test_nth),
        cmocka_unit_test(test_level),         cmocka_unit_test(test_handle),
        cmocka_unit_test(test_keep_reaching),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
