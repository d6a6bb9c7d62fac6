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
        double squares = df_sum_squares(x, n), twin = df_sum_squares_plain(x, n);
        assert_memory_equal(&squares, &twin, sizeof twin);
    }
}

static void test_scaled_sums(void **state) {
    (void)state;
    float x[MOST], y[MOST], plain[MOST];
    for (size_t n = 0; n <= MOST; n += 7) {
        fill(x, MOST, 3);
        fill(y, MOST, 4);
        memcpy(plain, y, sizeof y);
        for (size_t i = 0; i < n; i++) plain[i] += 0.3f * x[i];
        df_add_scaled(y, 0.3f, x, n);
        assert_true(same_bits(y, plain, MOST));
        df_add_row(y, x, n);
        for (size_t i = 0; i < n; i++) plain[i] += x[i];
        assert_true(same_bits(y, plain, MOST));
    }
    x[0] = -0.0f;
    df_set_scaled(y, 1.0f, x, 1);
    assert_false(signbit(y[0]));
}

static void test_adam(void **state) {
    (void)state;
    float w[2][MOST], m[2][MOST], v[2][MOST], g[MOST];
    for (size_t n = 0; n <= MOST; n += 9) {
        for (uint64_t i = 0; i < 2; i++) fill(w[i], MOST, 5), fill(m[i], MOST, 6), fill(v[i], MOST, 7);
        for (size_t i = 0; i < MOST; i++) v[0][i] = v[1][i] = v[0][i] * v[0][i];
        for (uint64_t t = 1; t < 5; t++) {
            df_adam adam = df_adam_at(1e-3, 0.9, 0.999, 1e-8, t);
            fill(g, MOST, 10 + t);
            df_adam_row(&adam, (df_moments){w[0], m[0], v[0]}, g, n);
            df_adam_row_plain(&adam, (df_moments){w[1], m[1], v[1]}, g, n);
        }
        assert_true(same_bits(w[0], w[1], MOST) && same_bits(m[0], m[1], MOST) && same_bits(v[0], v[1], MOST));
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

/* ---- the screen -------------------------------------------------------------------------------- */

#define WIDTH 67

typedef struct tile_case {
    float x[DF_TILE_ROWS][WIDTH], w[DF_TILE_LATENTS][WIDTH];
    uint32_t rows[DF_TILE_ROWS * WIDTH], latents[DF_TILE_LATENTS * WIDTH];
    float scale[DF_TILE_LATENTS], lift[DF_TILE_LATENTS], slack[DF_TILE_LATENTS], length[DF_TILE_LATENTS];
    float norm[DF_TILE_ROWS], lost[DF_TILE_ROWS], floor[DF_TILE_ROWS];
    df_tile tile;
} tile_case;

/* The bound of dict's screen.c, for a scale of 1 + l % 3. */
static void make_case(tile_case *t, df_precision precision, float size) {
    float lost[DF_TILE_LATENTS];
    fill(&t->x[0][0], sizeof t->x / sizeof(float), 20);
    fill(&t->w[0][0], sizeof t->w / sizeof(float), 21);
    for (size_t i = 0; i < DF_TILE_ROWS * WIDTH; i++) (&t->x[0][0])[i] *= size;
    df_pack(&(df_panel){precision, DF_TILE_ROWS, WIDTH, t->rows}, &t->x[0][0], DF_TILE_ROWS, t->lost);
    df_pack(&(df_panel){precision, DF_TILE_LATENTS, WIDTH, t->latents}, &t->w[0][0], DF_TILE_LATENTS, lost);
    for (size_t r = 0; r < DF_TILE_ROWS; r++) {
        t->norm[r] = (float)sqrt(df_sum_squares(t->x[r], WIDTH)) * 1.00001f;
        t->floor[r] = (r == 3 ? 1e30f : -2.0f + 0.5f * (float)r) * size;
    }
    for (size_t l = 0; l < DF_TILE_LATENTS; l++) {
        float length = (float)sqrt(df_sum_squares(t->w[l], WIDTH));
        t->scale[l] = 1.0f + (float)(l % 3);
        t->lift[l] = 0.0f;
        t->length[l] = t->scale[l] * length * 1.01f;
        t->slack[l] = t->scale[l] * (length * 2.1f * (WIDTH + 16) * 5.96e-8f + lost[l] * 1.02f);
    }
    t->tile = (df_tile){.precision = precision, .width = WIDTH, .rows = t->rows, .latents = t->latents, .scale = t->scale,
                        .lift = t->lift, .slack = t->slack, .length = t->length, .norm = t->norm, .lost = t->lost,
                        .floor = t->floor, .first = 100};
}

/* Upper bounds are upper bounds, no more than twice the bound too high, and nothing above the floor is missing. */
static void check_hits(const tile_case *t, const float *upper, const uint32_t *label, const uint32_t *counts) {
    size_t at = 0;
    for (size_t r = 0; r < DF_TILE_ROWS; r++) {
        size_t end = at + counts[r];
        for (size_t l = 0; l < DF_TILE_LATENTS; l++) {
            float exact = df_dot(t->x[r], t->w[l], WIDTH) * t->scale[l];
            float bound = t->norm[r] * t->slack[l] + t->lost[r] * t->length[l];
            bool hit = at < end && label[at] == 100 + l;
            if (!hit) assert_true(exact < t->floor[r]);
            if (hit) assert_true(upper[at] >= exact && upper[at] <= exact + 2.0f * bound && upper[at] >= t->floor[r]);
            at += hit;
        }
        assert_int_equal(at, end);
    }
}

static void test_tile(void **state) {
    (void)state;
    const float sizes[] = {1.0f, 1e-30f, 1e20f};
    for (int p = 0; p <= (int)df_screen_best(); p++)
        for (size_t s = 0; s < 3; s++) {
            static tile_case t;
            float upper[2][DF_TILE_ROOM];
            uint32_t label[2][DF_TILE_ROOM], counts[2][DF_TILE_ROWS];
            make_case(&t, (df_precision)p, sizes[s]);
            size_t n = df_screen_tile(&t.tile, upper[0], label[0], counts[0]);
            size_t plain = df_screen_tile_plain(&t.tile, upper[1], label[1], counts[1]);
            assert_true(n > 50 && plain > 50 && counts[0][3] == 0);
            check_hits(&t, upper[0], label[0], counts[0]);
            check_hits(&t, upper[1], label[1], counts[1]);
        }
}

/* Subnormal halves are flushed and counted as lost; a lane copied to another panel is the same lane. */
static void test_packing(void **state) {
    (void)state;
    float rows[2][4] = {{1.0f, 1e-39f, -3.5f, 0.0f}, {1.00390625f, 2.0f, 0.0f, 1e-45f}}, lost[32];
    uint32_t panel[2 * 32], other[2 * 32] = {0};
    df_panel p = {DF_SCREEN_BF16, 32, 4, panel}, q = {DF_SCREEN_BF16, 32, 4, other};
    df_pack(&p, &rows[0][0], 2, lost);
    assert_int_equal(panel[0], 0x3f80);
    assert_int_equal(panel[32], 0xc060);
    assert_int_equal(panel[1], 0x3f80 | 0x4000u << 16); // ties to even
    assert_true(lost[0] >= 1e-39f && lost[0] < 1e-37f);
    assert_close(lost[1], 0.00390625, 1e-5, 0);
    assert_int_equal(panel[2], 0);
    df_panel_copy(&q, 7, &p, 1);
    assert_true(other[7] == panel[1] && other[32 + 7] == panel[32 + 1] && other[6] == 0);
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
            values[i] = sorted[i] = round % 3 == 0 ? (float)(bits % 5) : (round % 3 == 1 ? (float)i : (float)(bits >> 40));
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
        cmocka_unit_test(test_dot),          cmocka_unit_test(test_scaled_sums), cmocka_unit_test(test_adam),
        cmocka_unit_test(test_adam_first_step), cmocka_unit_test(test_adam_flushes), cmocka_unit_test(test_tile),         cmocka_unit_test(test_packing),
        cmocka_unit_test(test_nth),          cmocka_unit_test(test_handle),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
