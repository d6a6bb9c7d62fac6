/* Dictionaries of centred rows, folded, against float64 PyTorch (tests/golden/centre_oracle.py):
 * from rows as they are they give the codes and reconstructions that the normaliser of
 * crosscoder_learning leads to, whatever they read and write. */
#include "golden.h"

#include "darkfield/dict.h"

#define LATENTS 64
#define ROWS 24
#define MOST_SITES 6

static df_comm *world;

typedef struct oracle_case {
    const char *name;
    df_dict_kind kind;
    df_activation activation;
    size_t sites, inputs, width[MOST_SITES];
    bool subtract;
} oracle_case;

static const oracle_case cases[] = {
    {"sae", DF_SAE, DF_RELU, 1, 1, {12}, true},
    {"gated", DF_SAE, DF_GATED, 1, 1, {12}, false},
    {"crosscoder", DF_CROSSCODER, DF_BATCHTOPK, 3, 3, {7, 11, 6}, false},
    {"jump", DF_TRANSCODER, DF_JUMPRELU, 2, 1, {14, 10}, false},
    {"skip", DF_SKIP_TRANSCODER, DF_RELU, 2, 1, {9, 70}, false},
    {"clt", DF_CLT, DF_RELU, 6, 3, {6, 8, 5, 4, 7, 6}, false}};

typedef struct run {
    golden file;
    df_kernels *kernels;
    df_dict *dict;
    df_coder *coder;
    float *x, *mean; // [ROWS, width], [width] in the models' units
} run;

static df_status make_dict(const oracle_case *oracle, const golden *file, df_dict **out) {
    static char name[] = "site", model[] = "model";
    df_dict_site sites[MOST_SITES] = {{0}};
    bool apart = oracle->kind > DF_CROSSCODER;
    for (size_t s = 0; s < oracle->sites; s++)
        sites[s] = (df_dict_site){.name = name,
                                  .model = model,
                                  .width = oracle->width[s],
                                  .scale = number(file, "scale", oracle->sites, s),
                                  .input = !apart || s < oracle->inputs,
                                  .output = !apart || s >= oracle->inputs};
    const df_dict_shape shape = {
        .kind = oracle->kind, .latents = LATENTS, .sites = oracle->sites, .site = sites};
    DF_TRY(df_dict_make(world, &shape, out));
    (*out)->activation = oracle->activation;
    (*out)->code_norm = DF_NORM_SUM;
    (*out)->k = 5;
    (*out)->threshold = 1.0f;
    (*out)->subtract_bias = oracle->subtract;
    return DF_OK;
}

static df_status open_run(const oracle_case *oracle, run *r) {
    *r = (run){0};
    DF_TRY(golden_open(&r->file, "centre_", oracle->name));
    DF_TRY(df_kernels_open("auto", &r->kernels));
    DF_TRY(make_dict(oracle, &r->file, &r->dict));
    size_t width = r->dict->width;
    take_weights(&r->file, r->dict);
    DF_TRY(DF_NEW(r->x, ROWS * width));
    DF_TRY(DF_NEW(r->mean, width));
    take(&r->file, "x", ROWS * width, (df_range){0, ROWS * width}, r->x);
    take(&r->file, "mean", width, (df_range){0, width}, r->mean);
    return df_coder_open(world, r->kernels, r->dict, ROWS, &r->coder);
}

static void close_run(run *r) {
    df_coder_close(&r->coder);
    df_dict_free(&r->dict);
    df_kernels_close(&r->kernels);
    df_free(r->x);
    df_free(r->mean);
    df_free(r->file.bytes);
}

/* Relative L2 distance of this rank's codes. */
static double codes_off(const run *r, const df_codes *codes) {
    const df_dict *d = r->dict;
    double above = 0.0, below = 1e-30;
    for (size_t i = 0; i < ROWS; i++)
        for (size_t j = 0; j < d->mine.count; j++) {
            double f = 0.0;
            for (uint64_t e = codes->start[i]; e < codes->start[i + 1]; e++)
                if (codes->latent[e] == j) f = (double)codes->value[e];
            double want = number(&r->file, "f", ROWS * LATENTS, i * LATENTS + d->mine.first + j);
            above += (f - want) * (f - want);
            below += want * want;
        }
    return sqrt(above / below);
}

/* Of this rank's reconstructions, brought into the models' units. */
static double rows_off(const run *r, float *x_hat) {
    const df_dict *d = r->dict;
    df_range mine = df_share(ROWS, df_comm_size(world), df_comm_rank(world));
    for (size_t i = 0; i < mine.count; i++)
        for (size_t s = 0; s < d->sites; s++)
            for (size_t c = 0; d->site[s].output && c < d->site[s].width; c++)
                x_hat[i * d->out.count + d->site[s].first - d->out.first + c] /=
                    (float)d->site[s].scale;
    df_range all = {mine.first * d->out.count, mine.count * d->out.count};
    return distance(&r->file, "x_hat", ROWS * d->out.count, all, x_hat);
}

static void folded_reads_raw_rows(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const df_codes *codes;
        run r;
        df_test_all(world, open_run(&cases[i], &r) == DF_OK);
        df_dict *d = r.dict;
        float *x_hat = df_alloc(ROWS * d->out.count, sizeof *x_hat);
        df_rows_scale(d, r.mean, 1);
        df_rows_scale(d, r.x, ROWS);
        df_test_all(world, df_dict_fold_mean(world, d, r.mean) == DF_OK);
        df_test_all(world, df_coder_encode(r.coder, r.x, ROWS, false, &codes) == DF_OK);
        double f_off = codes_off(&r, codes);
        df_test_all(world, df_coder_decode(r.coder, codes, x_hat) == DF_OK);
        double x_off = rows_off(&r, x_hat);
        print_message("%s: codes off by %.1e, reconstructions by %.1e\n", cases[i].name, f_off,
                      x_off);
        df_test_all(world, f_off <= 1e-5 && x_off <= 1e-6);
        df_free(x_hat);
        close_run(&r);
    }
}

static const struct CMUnitTest tests[] = {cmocka_unit_test(folded_reads_raw_rows)};

DF_TEST_MPI_MAIN(world, tests, NULL, NULL)
