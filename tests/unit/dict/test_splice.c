/* Rows with latents set to other values, against sums made by hand, on any number of ranks. */
#include "synthetic.h"

#include "darkfield/splice.h"

enum { WIDTH = 5, LATENTS = 96, ROWS = 7 };
static df_comm *world;
static df_kernels *kernels;
static char site_name[] = "blocks.0.hook_resid_post", names[2][2] = {"a", "b"};

static double number(size_t j, size_t c, size_t seed) {
    return 2.0 * df_random_uniform(seed, DF_STREAM_TEST, j * 64 + c) - 1.0;
}

static double scale_of(size_t c) {
    return c < WIDTH ? 0.5 : 0.25;
}

static df_dict *make_dict(void) {
    const df_dict_site sites[2] = {
        {site_name, names[0], 0, WIDTH, 0.5, true, true, DF_TOKEN_NONE},
        {site_name, names[1], WIDTH, WIDTH, 0.25, true, true, DF_TOKEN_NONE}};
    df_dict *d = NULL;
    if (df_dict_new(world, LATENTS, sites, 2, &d) != DF_OK) return NULL;
    for (size_t l = 0; l < d->mine.count; l++)
        for (size_t c = 0; c < d->width; c++) {
            d->w_enc[l * d->width + c] = (float)number(d->mine.first + l, c, 1);
            d->w_dec[l * d->width + c] = (float)number(d->mine.first + l, c, 2);
        }
    for (size_t c = 0; c < d->width; c++) d->b_dec[c] = (float)number(0, c, 3);
    d->activation = DF_RELU;
    d->subtract_bias = false;
    return d;
}

/* f of latent j on a row, in double. */
static double code(size_t j, const float *x) {
    double p = 0;
    for (size_t c = 0; c < 2 * WIDTH; c++)
        p += (double)(float)number(j, c, 1) * (double)x[c] * scale_of(c);
    return p > 0 ? p : 0;
}

/* Rows normalised one by one: what undoing multiplies a site's part by. */
static double size_of(df_token_norm how, const float *x) {
    double mean = 0, squares = 0;
    for (size_t c = 0; c < WIDTH && how == DF_TOKEN_LAYER; c++) mean += (double)x[c] / WIDTH;
    for (size_t c = 0; c < WIDTH; c++) squares += ((double)x[c] - mean) * ((double)x[c] - mean);
    if (how == DF_TOKEN_LAYER) return sqrt(squares / (WIDTH - 1));
    return how == DF_TOKEN_NORM ? sqrt(squares / WIDTH) : 1.0;
}

static double mean_of(df_token_norm how, const float *x) {
    double mean = 0;
    for (size_t c = 0; c < WIDTH && how == DF_TOKEN_LAYER; c++) mean += (double)x[c] / WIDTH;
    return mean;
}

static bool row_is_right(const float *x, const float *change, const float *x_hat) {
    bool good = true;
    for (size_t c = 0; c < 2 * WIDTH; c++) {
        double rebuilt = (double)(float)number(0, c, 3);
        double expected = (8.0 - code(17, x)) * (double)(float)number(17, c, 2) -
                          code(70, x) * (double)(float)number(70, c, 2);
        for (size_t j = 0; j < LATENTS; j++) rebuilt += code(j, x) * (double)(float)number(j, c, 2);
        good = good && fabs((double)change[c] - expected / scale_of(c)) < 1e-4 &&
               fabs((double)x_hat[c] - (rebuilt + expected) / scale_of(c)) < 2e-4;
    }
    return good;
}

static void clamps_and_ablates(void **state) {
    (void)state;
    const df_clamp clamps[] = {{17, 8.0f}, {70, 0.0f}};
    df_dict *d = make_dict();
    df_splice *s = NULL;
    float x[ROWS * 2 * WIDTH], change[ROWS * 2 * WIDTH], x_hat[ROWS * 2 * WIDTH];
    for (size_t i = 0; i < ROWS * 2 * WIDTH; i++) x[i] = (float)number(i, 0, 4);
    df_test_all(world,
                d != NULL && df_splice_open(world, kernels, d, &(df_splice_plan){clamps, 2, ROWS},
                                            &s) == DF_OK);
    df_test_all(world, df_splice_rows(s, x, ROWS, change, x_hat) == DF_OK);
    bool good = true;
    for (size_t r = 0; r < ROWS; r++)
        good =
            row_is_right(x + r * 2 * WIDTH, change + r * 2 * WIDTH, x_hat + r * 2 * WIDTH) && good;
    df_test_all(world, good);
    float one[2 * WIDTH];
    df_test_all(world, df_splice_rows(s, x + 4 * 2 * WIDTH, 1, one, NULL) == DF_OK);
    df_test_all(world, memcmp(one, change + 4 * 2 * WIDTH, sizeof one) == 0);
    df_splice_close(&s);
    df_dict_free(&d);
}

/* The same changes and reconstructions as of rows that were normalised before, brought back to the
 * length and level of each site of each row. */
static void undoes_normalised_rows(void **state) {
    (void)state;
    const df_clamp clamps[] = {{17, 8.0f}, {70, 0.0f}};
    for (int how = DF_TOKEN_LAYER; how <= DF_TOKEN_NORM; how++) {
        df_dict *d = make_dict();
        df_splice *s = NULL;
        float x[ROWS * 2 * WIDTH], n[ROWS * 2 * WIDTH], change[ROWS * 2 * WIDTH],
            x_hat[ROWS * 2 * WIDTH];
        for (size_t i = 0; i < ROWS * 2 * WIDTH; i++) x[i] = 20.0f * (float)number(i, 0, 4) + 3.0f;
        for (size_t p = 0; p < ROWS * 2; p++) {
            const float *part = x + p * WIDTH;
            double size = size_of((df_token_norm)how, part) + (how == DF_TOKEN_LAYER ? 1e-5 : 0.0),
                   mean = mean_of((df_token_norm)how, part);
            for (size_t c = 0; c < WIDTH; c++)
                n[p * WIDTH + c] = (float)(((double)part[c] - mean) / size);
        }
        d->site[0].token_norm = d->site[1].token_norm = (df_token_norm)how;
        df_test_all(world, df_splice_open(world, kernels, d, &(df_splice_plan){clamps, 2, ROWS},
                                          &s) == DF_OK &&
                               df_splice_rows(s, x, ROWS, change, x_hat) == DF_OK);
        for (size_t p = 0; p < ROWS * 2; p++)
            for (size_t c = p * WIDTH; c < (p + 1) * WIDTH; c++) {
                double size = size_of((df_token_norm)how, x + p * WIDTH);
                change[c] = (float)((double)change[c] / size);
                x_hat[c] =
                    (float)(((double)x_hat[c] - mean_of((df_token_norm)how, x + p * WIDTH)) / size);
            }
        bool good = true;
        for (size_t r = 0; r < ROWS; r++)
            good = row_is_right(n + r * 2 * WIDTH, change + r * 2 * WIDTH, x_hat + r * 2 * WIDTH) &&
                   good;
        df_test_all(world, good);
        df_splice_close(&s);
        df_dict_free(&d);
    }
}

/* A latent that reconstructs one site alone is taken from that site alone. */
static void clamps_by_site(void **state) {
    (void)state;
    const df_clamp gone[] = {{17, 0.0f}};
    df_dict *d = make_dict();
    df_splice *s = NULL;
    float x[ROWS * 2 * WIDTH], change[ROWS * 2 * WIDTH];
    for (size_t i = 0; i < ROWS * 2 * WIDTH; i++) x[i] = (float)number(i, 0, 4);
    d->activation = DF_BATCHTOPK;
    d->k = 4;
    d->code_norm = DF_NORM_DECOUPLED;
    d->site_threshold[0] = 1e6f, d->site_threshold[1] = 0.0f;
    df_test_all(world,
                df_splice_open(world, kernels, d, &(df_splice_plan){gone, 1, ROWS}, &s) == DF_OK &&
                    df_splice_rows(s, x, ROWS, change, NULL) == DF_OK);
    bool good = true, any = false;
    for (size_t i = 0; i < ROWS * 2 * WIDTH; i++) {
        size_t c = i % (2 * WIDTH);
        double f = code(17, x + i - c), row = (double)(float)number(17, c, 2) / scale_of(c);
        good = good && fabs((double)change[i] + (c < WIDTH ? 0.0 : f * row)) < 1e-4;
        any = any || (c >= WIDTH && f > 0.1);
    }
    df_test_all(world, good && any);
    df_splice_close(&s);
    df_dict_free(&d);
}

static void refuses_clamps(void **state) {
    (void)state;
    const df_clamp far[] = {{LATENTS, 1.0f}}, twice[] = {{3, 1.0f}, {3, 2.0f}};
    df_dict *d = make_dict();
    df_splice *s = NULL;
    df_test_all(world, d != NULL &&
                           df_splice_open(world, kernels, d, &(df_splice_plan){far, 1, 2}, &s) ==
                               DF_USAGE &&
                           strstr(df_error_text(), "latents 0 to 95, not 96") != NULL && s == NULL);
    df_error_clear();
    df_test_all(world,
                df_splice_open(world, kernels, d, &(df_splice_plan){twice, 2, 2}, &s) == DF_USAGE &&
                    strstr(df_error_text(), "set twice") != NULL && s == NULL);
    df_error_clear();
    df_dict_free(&d);
}

static int set_up(void **state) {
    (void)state;
    return df_kernels_open("auto", &kernels) != DF_OK;
}

static int tear_down(void **state) {
    (void)state;
    df_kernels_close(&kernels);
    return 0;
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(clamps_and_ablates), cmocka_unit_test(undoes_normalised_rows),
    cmocka_unit_test(clamps_by_site), cmocka_unit_test(refuses_clamps)};

DF_TEST_MPI_MAIN(world, tests, set_up, tear_down)
