/* The width of a real model (2304), 2 x 2 ranks: made rows whose spectrum and linear share are
 * known. Label "full". */
#define DF_TEST_MPI
#include "darkfield/spectrum.h"
#include "df_test.h"

static df_comm *world;

enum { WIDTH = 2304, DOCUMENTS = 256, LENGTH = 24, ROWS = DOCUMENTS * LENGTH };

/* Column j of x has variance 1 / (1 + j / 8); e is a tenth of x plus noise of standard deviation
 * 0.1. */
static double spread(size_t column) {
    return 1 / sqrt(1 + (double)column / 8);
}

static df_status read_rows(void *context, const uint64_t *rows, size_t n, float *x) {
    (void)context;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < WIDTH; j++)
            x[i * WIDTH + j] =
                (float)(spread(j) * df_random_normal(1, DF_STREAM_TEST, rows[i] * WIDTH + j));
    return DF_OK;
}

/* The noise is drawn by the bits of x, so that it does not depend on where a row stands. */
static df_status apply_rows(void *context, const float *x, size_t n, float *x_hat) {
    (void)context;
    for (size_t i = 0; i < n * WIDTH; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        double noise =
            0.1 * df_random_normal(2, DF_STREAM_TEST, (uint64_t)bits * WIDTH + i % WIDTH);
        x_hat[i] = (float)(0.9 * (double)x[i] - noise);
    }
    return DF_OK;
}

static void spectrum_of_a_real_width(void **state) {
    (void)state;
    static uint64_t document[DOCUMENTS + 1], rows[2][ROWS];
    size_t n[2] = {0, 0};
    for (uint64_t d = 0; d < DOCUMENTS; d++) {
        document[d + 1] = document[d] + LENGTH;
        for (uint64_t r = document[d]; r < document[d + 1]; r++)
            rows[d % 4 == 0][n[d % 4 == 0]++] = r;
    }
    df_spectrum_model model = {"wide", 0, WIDTH, 1};
    df_spectrum_input in = {.model = &model,
                            .models = 1,
                            .width = WIDTH,
                            .document = document,
                            .documents = DOCUMENTS,
                            .rows = {rows[0], rows[1]},
                            .n_rows = {n[0], n[1]},
                            .batch = 256,
                            .read = read_rows,
                            .apply = apply_rows};
    df_spectrum_result *r;
    double start = df_now(), trace = 0;
    df_timer_reset();
    df_test_all(world, df_spectrum_compute(world, &in, 0.01, &r) == DF_OK);
    df_timer_report(world, df_now() - start);
    for (size_t j = 0; j < WIDTH; j++) trace += spread(j) * spread(j);
    df_test_all(world, fabs(r->trace[DF_SIDE_X] / trace - 1) < 0.02);
    double residual = 0.01 * trace + 0.01 * WIDTH;
    df_test_all(world, fabs(r->trace[DF_SIDE_RESIDUAL] / residual - 1) < 0.02);
    df_test_all(world, fabs(r->slope - 0.9) < 0.01);
    for (int side = 0; side < DF_SIDES; side++) df_test_all(world, r->eigen_residual[side] < 1e-10);
    df_test_all(world, r->rcond > 0 && r->r2_error > 0 && isfinite(r->r2_mean));
    print_message(
        "r2 %.4f +- %.4f, fvu %.4f +- %.4f, rcond %.2g, eigen residual %.2g, peak %zu MiB a rank\n",
        r->r2_pooled, r->r2_error, r->fvu, r->fvu_error, r->rcond,
        r->eigen_residual[DF_SIDE_RESIDUAL], df_memory_peak() >> 20);
    df_spectrum_free(&r, 1);
}

static const struct CMUnitTest tests[] = {cmocka_unit_test(spectrum_of_a_real_width)};

DF_TEST_MPI_MAIN(world, tests, NULL, NULL)
