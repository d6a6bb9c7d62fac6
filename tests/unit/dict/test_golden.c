/* The coder against float64 PyTorch (tests/golden/dict_oracle.py): gradients of one batch, the loss
 * of 200 steps, FVU. */
#include "golden.h"

#include "darkfield/dict.h"

#define LATENTS 96
#define WIDTH 24
#define FIRST_SITE 14
#define ROWS 48
#define BATCHES 4
#define STEPS 200

static df_comm *world;

/* ---- a case --------------------------------------------------------------------------------- */

typedef struct oracle_case {
    const char *name;
    df_activation activation;
    df_code_norm norm;
    bool unit_decoder;
    double l1, aux;
} oracle_case;

static const oracle_case cases[] = {{"topk", DF_TOPK, DF_NORM_NONE, true, 0.0, 0.0},
                                    {"batchtopk", DF_BATCHTOPK, DF_NORM_SUM, false, 0.0, 0.0},
                                    {"relu", DF_RELU, DF_NORM_SUM, false, 0.05, 0.0},
                                    {"auxk", DF_TOPK, DF_NORM_NONE, true, 0.0, 1.0 / 32}};

typedef struct run {
    golden file;
    df_kernels *kernels;
    df_dict *dict;
    df_coder *coder;
    float *x; // [BATCHES, ROWS, WIDTH]
    df_range latents, weights;
} run;

static df_status open_run(const oracle_case *oracle, run *r) {
    df_dict_site sites[2] = {
        {.name = (char *)"a", .model = (char *)"one", .width = FIRST_SITE, .scale = 1.0},
        {.name = (char *)"b", .model = (char *)"two", .width = WIDTH - FIRST_SITE, .scale = 1.0}};
    *r = (run){0};
    DF_TRY(golden_open(&r->file, "dict_", oracle->name));
    DF_TRY(DF_NEW(r->x, BATCHES * ROWS * WIDTH));
    DF_TRY(df_kernels_open("auto", &r->kernels));
    DF_TRY(df_dict_new(world, LATENTS, sites, 2, &r->dict));
    df_dict *d = r->dict;
    d->activation = oracle->activation;
    d->code_norm = oracle->norm;
    d->k = 6;
    r->latents = d->mine;
    r->weights = (df_range){d->mine.first * WIDTH, d->mine.count * WIDTH};
    take(&r->file, "x", BATCHES * ROWS * WIDTH, (df_range){0, BATCHES * ROWS * WIDTH}, r->x);
    take(&r->file, "w_enc", LATENTS * WIDTH, r->weights, d->w_enc);
    take(&r->file, "w_dec", LATENTS * WIDTH, r->weights, d->w_dec);
    take(&r->file, "b_enc", LATENTS, r->latents, d->b_enc);
    take(&r->file, "b_dec", WIDTH, (df_range){0, WIDTH}, d->b_dec);
    DF_TRY(df_coder_open(world, r->kernels, d, ROWS, &r->coder));
    DF_TRY(df_coder_train_open(r->coder));
    for (size_t j = 0; j < r->latents.count; j++)
        df_coder_state(r->coder)->silent[j] =
            (uint64_t)number(&r->file, "silent", LATENTS, r->latents.first + j);
    return DF_OK;
}

static void close_run(run *r) {
    df_coder_close(&r->coder);
    df_dict_free(&r->dict);
    df_kernels_close(&r->kernels);
    df_free(r->x);
    df_free(r->file.bytes);
}

static df_step_settings step_settings(const oracle_case *oracle) {
    return (df_step_settings){.lr = 3e-3,
                              .beta1 = 0.9,
                              .beta2 = 0.999,
                              .epsilon = 1e-8,
                              .objective = {.penalty = DF_PENALTY_L1, .weight = oracle->l1},
                              .aux = oracle->aux,
                              .aux_k = 12,
                              .dead_rows = 20000,
                              .unit_decoder = oracle->unit_decoder};
}

static bool gradients_agree(run *r, const oracle_case *oracle) {
    df_step_settings set = step_settings(oracle);
    df_step_report report;
    df_gradients g = {.w_enc = df_alloc(r->weights.count, 4),
                      .w_dec = df_alloc(r->weights.count, 4),
                      .b_enc = df_alloc(r->latents.count, 4),
                      .b_dec = df_alloc(WIDTH, 4)};
    bool good = df_coder_gradients(r->coder, r->x, ROWS, &set, &g, &report) == DF_OK;
    good = good && distance(&r->file, "g_w_enc", LATENTS * WIDTH, r->weights, g.w_enc) <= 1e-5;
    good = good && distance(&r->file, "g_w_dec", LATENTS * WIDTH, r->weights, g.w_dec) <= 1e-5;
    good = good && distance(&r->file, "g_b_enc", LATENTS, r->latents, g.b_enc) <= 1e-5;
    good = good && distance(&r->file, "g_b_dec", WIDTH, (df_range){0, WIDTH}, g.b_dec) <= 1e-5;
    good = good && (double)report.dead == number(&r->file, "dead", 2, 0);
    df_free(g.w_enc), df_free(g.w_dec), df_free(g.b_enc), df_free(g.b_dec);
    return good;
}

static void test_against_torch(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        run r;
        df_step_settings set = step_settings(&cases[i]);
        df_step_report report = {0};
        df_test_all(world, open_run(&cases[i], &r) == DF_OK);
        df_test_all(world, gradients_agree(&r, &cases[i]));
        double worst = 0.0;
        for (size_t s = 0; s < STEPS; s++) {
            df_test_all(world, df_coder_step(r.coder, r.x + s % BATCHES * ROWS * WIDTH, ROWS, &set,
                                             &report) == DF_OK);
            double loss = number(&r.file, "losses", STEPS, s),
                   off = fabs(report.loss - loss) / loss;
            worst = df_test_worse(worst, off);
        }
        print_message("%s: largest relative difference of the loss over %d steps %.2e\n",
                      cases[i].name, STEPS, worst);
        df_test_all(world, worst <= 1e-3);
        df_test_all(world, df_coder_step(r.coder, r.x, ROWS, &set, &report) == DF_OK);
        double above = report.reconstruction * ROWS,
               below = 0.0; // the report gives FVU by site; the oracle's is pooled
        for (size_t c = 0; c < WIDTH; c++) {
            double mean = 0.0;
            for (size_t b = 0; b < ROWS; b++) mean += (double)r.x[b * WIDTH + c] / ROWS;
            for (size_t b = 0; b < ROWS; b++) below += pow((double)r.x[b * WIDTH + c] - mean, 2.0);
        }
        df_test_all(world, fabs(above / below - number(&r.file, "fvu", 1, 0)) <=
                               1e-3 * number(&r.file, "fvu", 1, 0));
        df_test_all(world, (double)report.dead == number(&r.file, "dead", 2, 1));
        close_run(&r);
    }
}

static const struct CMUnitTest tests[] = {cmocka_unit_test(test_against_torch)};

DF_TEST_MPI_MAIN(world, tests, NULL, NULL)
