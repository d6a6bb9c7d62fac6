/* The bf16 GEMM: against its twin, against products of rounded operands summed in double, on shapes
 * with ragged edges; a row's numbers do not depend on its neighbours. */
#include "df_test.h"

#include "darkfield/kernels.h"

typedef struct product_case {
    size_t m, n, k;
    float *x, *w, *y, *twin;
    void *weight, *scratch;
    df_gemm_bf16 g;
} product_case;

static void fill(float *x, size_t n, uint64_t seed) {
    for (size_t i = 0; i < n; i++) x[i] = (float)df_random_normal(seed, DF_STREAM_TEST, i);
}

static product_case make(size_t m, size_t n, size_t k) {
    product_case c = {.m = m, .n = n, .k = k};
    c.x = df_alloc(m * k, sizeof *c.x);
    c.w = df_alloc(n * k, sizeof *c.w);
    c.y = df_alloc(m * (n + 3), sizeof *c.y);
    c.twin = df_alloc(m * (n + 3), sizeof *c.twin);
    c.weight = df_alloc(df_bf16_weight_bytes(n, k), 1);
    c.scratch = df_alloc(df_bf16_scratch_bytes(m), 1);
    fill(c.x, m * k, 1);
    fill(c.w, n * k, 2);
    for (size_t i = 0; i < m * (n + 3); i++) c.y[i] = c.twin[i] = 77.0f;
    df_bf16_pack_weight(c.w, n, k, c.weight);
    c.g = (df_gemm_bf16){.m = m,
                         .n = n,
                         .k = k,
                         .a = c.x,
                         .lda = k,
                         .weight = c.weight,
                         .scratch = c.scratch,
                         .c = c.y,
                         .ldc = n + 3};
    return c;
}

static void drop(product_case *c) {
    df_free(c->x);
    df_free(c->w);
    df_free(c->y);
    df_free(c->twin);
    df_free(c->weight);
    df_free(c->scratch);
}

static double rounded(float x) {
    uint16_t half;
    float back;
    df_narrow_bf16(&x, &half, 1);
    df_widen_bf16(&half, &back, 1);
    return (double)back;
}

// |y - exact| against the sum of |x||w|: 2^-24 for each of k sums, and some.
static void check(const product_case *c, const float *y) {
    for (size_t r = 0; r < c->m; r++) {
        for (size_t i = 0; i < c->n; i++) {
            double exact = 0, size = 0;
            for (size_t j = 0; j < c->k; j++) {
                double p = rounded(c->x[r * c->k + j]) * rounded(c->w[i * c->k + j]);
                exact += p;
                size += fabs(p);
            }
            assert_close(y[r * (c->n + 3) + i], exact, 0.0, size * 1e-6);
        }
        for (size_t i = c->n; i < c->n + 3; i++) assert_true(y[r * (c->n + 3) + i] == 77.0f);
    }
}

static void products(void **state) {
    (void)state;
    static const size_t shapes[][3] = {{1, 1, 1},     {14, 32, 2},   {15, 33, 513}, {64, 100, 1100},
                                       {28, 31, 512}, {3, 70, 1537}, {13, 64, 7}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        product_case c = make(shapes[i][0], shapes[i][1], shapes[i][2]);
        df_gemm_bf16_nt(&c.g);
        check(&c, c.y);
        c.g.c = c.twin;
        df_gemm_bf16_nt_plain(&c.g);
        check(&c, c.twin);
        drop(&c);
    }
}

static void rows_stand_alone(void **state) {
    (void)state;
    product_case all = make(40, 50, 700), one = make(1, 50, 700);
    df_gemm_bf16_nt(&all.g);
    for (size_t r = 0; r < 40; r++) {
        one.g.a = all.x + r * 700;
        df_gemm_bf16_nt(&one.g);
        assert_memory_equal(one.y, all.y + r * 53, 50 * sizeof *one.y);
    }
    drop(&all);
    drop(&one);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products),
        cmocka_unit_test(rows_stand_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
