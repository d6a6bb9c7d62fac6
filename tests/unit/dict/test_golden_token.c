/* Rows normalised one by one, against float64 PyTorch (tests/golden/token_oracle.py): the rows, the
 * gradients of one batch, the loss of 200 steps, reconstructions and FVU in the units of the rows
 * as they came. */
#include "golden.h"

#include "darkfield/dict.h"

enum { LATENTS = 96, WIDTH = 24, FIRST_SITE = 14, ROWS = 48, BATCHES = 4, STEPS = 200 };
enum { NUMBERS = BATCHES * ROWS * WIDTH };

static df_comm *world;

typedef struct oracle_case {
    const char *name;
    df_token_norm how;
    df_activation activation;
    df_code_norm norm;
    bool unit_decoder;
} oracle_case;

static const oracle_case cases[] = {
    {"layer", DF_TOKEN_LAYER, DF_TOPK, DF_NORM_NONE, true},
    {"norm", DF_TOKEN_NORM, DF_BATCHTOPK, DF_NORM_SUM, false},
};

typedef struct run {
    golden file;
    df_kernels *kernels;
    df_dict *dict;
    df_coder *coder;
    float *raw, *x; // [BATCHES, ROWS, WIDTH], as they came and normalised
    float *x_hat;   // [ROWS, WIDTH] of this rank's share
} run;

static df_status open_run(const oracle_case *oracle, run *r) {
    df_dict_site sites[2] = {
        {.name = (char *)"a", .model = (char *)"one", .width = FIRST_SITE, .scale = 1.0},
        {.name = (char *)"b", .model = (char *)"two", .width = WIDTH - FIRST_SITE, .scale = 1.0}};
    *r = (run){0};
    sites[0].token_norm = sites[1].token_norm = oracle->how;
    DF_TRY(golden_open(&r->file, "token_", oracle->name));
    DF_TRY(DF_NEW(r->raw, NUMBERS));
    DF_TRY(DF_NEW(r->x, NUMBERS));
    DF_TRY(DF_NEW(r->x_hat, ROWS * WIDTH));
    DF_TRY(df_kernels_open("auto", &r->kernels));
    DF_TRY(df_dict_new(world, LATENTS, sites, 2, &r->dict));
    r->dict->activation = oracle->activation;
    r->dict->code_norm = oracle->norm;
    r->dict->k = 6;
    take_weights(&r->file, r->dict);
    take(&r->file, "x", NUMBERS, (df_range){0, NUMBERS}, r->raw);
    memcpy(r->x, r->raw, NUMBERS * sizeof *r->x);
    df_rows_scale(r->dict, r->x, BATCHES * ROWS);
    DF_TRY(df_coder_open(world, r->kernels, r->dict, ROWS, &r->coder));
    return df_coder_train_open(r->coder);
}

static void close_run(run *r) {
    df_coder_close(&r->coder);
    df_dict_free(&r->dict);
    df_kernels_close(&r->kernels);
    df_free(r->raw);
    df_free(r->x);
    df_free(r->x_hat);
    df_free(r->file.bytes);
}

static df_step_settings step_settings(const oracle_case *oracle) {
    return (df_step_settings){.lr = 3e-3,
                              .beta1 = 0.9,
                              .beta2 = 0.999,
                              .epsilon = 1e-8,
                              .dead_rows = 20000,
                              .unit_decoder = oracle->unit_decoder};
}

static bool gradients_agree(run *r, const oracle_case *oracle) {
    const df_range latents = r->dict->mine,
                   weights = {latents.first * WIDTH, latents.count * WIDTH};
    df_step_settings set = step_settings(oracle);
    df_step_report report;
    df_gradients g = {.w_enc = df_alloc(weights.count, 4),
                      .w_dec = df_alloc(weights.count, 4),
                      .b_enc = df_alloc(latents.count, 4),
                      .b_dec = df_alloc(WIDTH, 4)};
    bool good = df_coder_gradients(r->coder, r->x, ROWS, &set, &g, &report) == DF_OK;
    good = good && distance(&r->file, "g_w_enc", LATENTS * WIDTH, weights, g.w_enc) <= 1e-5;
    good = good && distance(&r->file, "g_w_dec", LATENTS * WIDTH, weights, g.w_dec) <= 1e-5;
    good = good && distance(&r->file, "g_b_enc", LATENTS, latents, g.b_enc) <= 1e-5;
    good = good && distance(&r->file, "g_b_dec", WIDTH, (df_range){0, WIDTH}, g.b_dec) <= 1e-5;
    df_free(g.w_enc), df_free(g.w_dec), df_free(g.b_enc), df_free(g.b_dec);
    return good;
}

static bool losses_agree(run *r, const oracle_case *oracle) {
    df_step_settings set = step_settings(oracle);
    df_step_report report = {0};
    double worst = 0.0;
    for (size_t s = 0; s < STEPS; s++) {
        const float *x = r->x + s % BATCHES * ROWS * WIDTH;
        if (df_coder_step(r->coder, x, ROWS, &set, &report) != DF_OK) return false;
        double loss = number(&r->file, "losses", STEPS, s);
        worst = df_test_worse(worst, fabs(report.loss - loss) / loss);
    }
    print_message("%s: largest relative difference of the loss over %d steps %.1e\n", oracle->name,
                  STEPS, worst);
    return worst <= 1e-3;
}

/* Of batch b in the units of its rows, this rank's share: into x_hat. */
static df_range reconstruct(run *r, size_t b) {
    const df_codes *codes;
    df_range mine = df_share(ROWS, df_comm_size(world), df_comm_rank(world));
    const float *x = r->x + b * ROWS * WIDTH, *raw = r->raw + (b * ROWS + mine.first) * WIDTH;
    df_test_all(world, df_coder_encode(r->coder, x, ROWS, true, &codes) == DF_OK);
    df_test_all(world, df_coder_decode(r->coder, codes, r->x_hat) == DF_OK);
    df_rows_restore(r->dict, raw, mine.count, r->x_hat);
    return (df_range){(b * ROWS + mine.first) * WIDTH, mine.count * WIDTH};
}

/* Of each site, over all rows, from every rank's errors. */
static bool fvu_agrees(run *r) {
    double error[2] = {0.0, 0.0}, spread[2] = {0.0, 0.0};
    bool good = true;
    for (size_t b = 0; b < BATCHES; b++) {
        df_range mine = reconstruct(r, b);
        for (size_t i = 0; i < mine.count; i++)
            error[i % WIDTH >= FIRST_SITE] +=
                pow((double)r->raw[mine.first + i] - (double)r->x_hat[i], 2.0);
    }
    for (size_t c = 0; c < WIDTH; c++) {
        double mean = 0.0;
        for (size_t i = c; i < NUMBERS; i += WIDTH) mean += (double)r->raw[i] / (BATCHES * ROWS);
        for (size_t i = c; i < NUMBERS; i += WIDTH)
            spread[c >= FIRST_SITE] += pow((double)r->raw[i] - mean, 2.0);
    }
    double mine[2] = {error[0], error[1]};
    good = df_tree_sum(world, (size_t)df_comm_size(world), 2, mine, error) == DF_OK;
    for (size_t s = 0; s < 2; s++) {
        double fvu = number(&r->file, "fvu", 2, s);
        good = good && fabs(error[s] / spread[s] - fvu) <= 1e-3 * fvu;
    }
    return good;
}

static void test_against_torch(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        run r;
        df_test_all(world, open_run(&cases[i], &r) == DF_OK);
        df_test_all(world, distance(&r.file, "n", NUMBERS, (df_range){0, NUMBERS}, r.x) <= 1e-7);
        df_range mine = reconstruct(&r, 0);
        df_test_all(world, distance(&r.file, "x_hat", ROWS * WIDTH, mine, r.x_hat) <= 1e-6);
        df_test_all(world, gradients_agree(&r, &cases[i]));
        df_test_all(world, losses_agree(&r, &cases[i]));
        df_test_all(world, fvu_agrees(&r));
        close_run(&r);
    }
}

static const struct CMUnitTest tests[] = {cmocka_unit_test(test_against_torch)};

DF_TEST_MPI_MAIN(world, tests, NULL, NULL)
