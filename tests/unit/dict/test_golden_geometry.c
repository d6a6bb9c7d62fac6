/* Transcoders, a cross-layer crosscoder of uneven widths and a cross-layer transcoder against
 * float64 PyTorch (tests/golden/dict_geometry_oracle.py): gradients of one batch, the loss of 200
 * steps, FVU. */
#include "golden.h"

#include "darkfield/dict.h"

#define LATENTS 64
#define ROWS 32
#define BATCHES 3
#define STEPS 200
#define MOST_SITES 6

static df_comm *world;

typedef struct oracle_case {
    const char *name;
    df_dict_kind kind;
    df_activation activation;
    df_code_norm norm;
    bool unit_decoder;
    double l1;
    size_t sites, inputs, width[MOST_SITES];
} oracle_case;

static const oracle_case cases[] = {
    {"transcoder", DF_TRANSCODER, DF_TOPK, DF_NORM_NONE, true, 0.0, 2, 1, {14, 10}},
    {"skip", DF_SKIP_TRANSCODER, DF_BATCHTOPK, DF_NORM_SUM, false, 0.0, 2, 1, {9, 13}},
    {"crosscoder", DF_CROSSCODER, DF_BATCHTOPK, DF_NORM_SUM, false, 0.0, 3, 3, {7, 11, 6}},
    {"clt", DF_CLT, DF_RELU, DF_NORM_SUM, false, 0.05, 6, 3, {6, 8, 5, 4, 7, 6}}};

typedef struct run {
    golden file;
    df_kernels *kernels;
    df_dict *dict;
    df_coder *coder;
    float *x;                          // [BATCHES, ROWS, width]
    df_range enc, dec, center, skip;   // this rank's floats of the whole tensors
    size_t all_enc, all_dec, all_skip; // floats of the whole tensors
} run;

static df_status make_dict(const oracle_case *oracle, df_dict **out) {
    static char a[] = "one", b[] = "two";
    df_dict_site sites[MOST_SITES] = {{0}};
    bool apart = oracle->kind != DF_CROSSCODER;
    for (size_t s = 0; s < oracle->sites && s < MOST_SITES; s++)
        sites[s] = (df_dict_site){.name = a,
                                  .model = s % 2 == 0 ? a : b,
                                  .width = oracle->width[s],
                                  .scale = 1.0,
                                  .input = !apart || s < oracle->inputs,
                                  .output = !apart || s >= oracle->inputs};
    const df_dict_shape shape = {
        .kind = oracle->kind, .latents = LATENTS, .sites = oracle->sites, .site = sites};
    DF_TRY(df_dict_make(world, &shape, out));
    (*out)->activation = oracle->activation;
    (*out)->code_norm = oracle->norm;
    (*out)->k = 5;
    return DF_OK;
}

static void measure(run *r) {
    const df_dict *d = r->dict;
    size_t first = d->mine.first, end = first + d->mine.count;
    size_t enc = df_dict_enc_floats(d, first), dec = df_dict_dec_floats(d, first);
    r->enc = (df_range){enc, df_dict_enc_floats(d, end) - enc};
    r->dec = (df_range){dec, df_dict_dec_floats(d, end) - dec};
    r->skip = (df_range){d->skip_rows.first * d->in.count, d->skip_rows.count * d->in.count};
    r->center = (df_range){0, d->out.count};
    r->all_enc = df_dict_enc_floats(d, LATENTS);
    r->all_dec = df_dict_dec_floats(d, LATENTS);
    r->all_skip = d->out.count * d->in.count;
}

static df_status open_run(const oracle_case *oracle, run *r) {
    *r = (run){0};
    DF_TRY(golden_open(&r->file, "dict_", oracle->name));
    DF_TRY(df_kernels_open("auto", &r->kernels));
    DF_TRY(make_dict(oracle, &r->dict));
    df_dict *d = r->dict;
    size_t rows = BATCHES * ROWS * d->width;
    measure(r);
    DF_TRY(DF_NEW(r->x, rows));
    take(&r->file, "x", rows, (df_range){0, rows}, r->x);
    take_weights(&r->file, d);
    DF_TRY(df_coder_open(world, r->kernels, d, ROWS, &r->coder));
    return df_coder_train_open(r->coder);
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
                              .dead_rows = 1000000,
                              .unit_decoder = oracle->unit_decoder};
}

static bool gradients_agree(run *r, const oracle_case *oracle) {
    df_step_settings set = step_settings(oracle);
    df_step_report report;
    const df_dict *d = r->dict;
    df_gradients g = {.w_enc = df_alloc(r->enc.count, 4),
                      .w_dec = df_alloc(r->dec.count, 4),
                      .b_enc = df_alloc(d->mine.count, 4),
                      .b_dec = df_alloc(d->out.count, 4),
                      .w_skip = df_alloc(r->skip.count, 4)};
    bool good = df_coder_gradients(r->coder, r->x, ROWS, &set, &g, &report) == DF_OK;
    good = good && distance(&r->file, "g_w_enc", r->all_enc, r->enc, g.w_enc) <= 1e-5;
    good = good && distance(&r->file, "g_w_dec", r->all_dec, r->dec, g.w_dec) <= 1e-5;
    good = good && distance(&r->file, "g_b_enc", LATENTS, d->mine, g.b_enc) <= 1e-5;
    good = good && distance(&r->file, "g_b_dec", d->out.count, r->center, g.b_dec) <= 1e-5;
    if (d->w_skip != NULL)
        good = good && distance(&r->file, "g_w_skip", r->all_skip, r->skip, g.w_skip) <= 1e-5;
    float *all[] = {g.w_enc, g.w_dec, g.b_enc, g.b_dec, g.w_skip};
    for (size_t i = 0; i < 5; i++) df_free(all[i]);
    return good;
}

/* sum |y - mean y|^2 of the first batch's output columns. */
static double spread(const run *r) {
    const df_dict *d = r->dict;
    double sum = 0.0;
    for (size_t c = d->out.first; c < d->out.first + d->out.count; c++) {
        double mean = 0.0;
        for (size_t b = 0; b < ROWS; b++) mean += (double)r->x[b * d->width + c] / ROWS;
        for (size_t b = 0; b < ROWS; b++) sum += pow((double)r->x[b * d->width + c] - mean, 2.0);
    }
    return sum;
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
            const float *x = r.x + s % BATCHES * ROWS * r.dict->width;
            df_test_all(world, df_coder_step(r.coder, x, ROWS, &set, &report) == DF_OK);
            double loss = number(&r.file, "losses", STEPS, s);
            double off = fabs(report.loss - loss) / loss;
            worst = df_test_worse(worst, off);
        }
        print_message("%s: largest relative difference of the loss over %d steps %.2e\n",
                      cases[i].name, STEPS, worst);
        df_test_all(world, worst <= 1e-3);
        df_test_all(world, df_coder_step(r.coder, r.x, ROWS, &set, &report) == DF_OK);
        double fvu = number(&r.file, "fvu", 1, 0);
        df_test_all(world, fabs(report.reconstruction * ROWS / spread(&r) - fvu) <= 1e-3 * fvu);
        close_run(&r);
    }
}

static const struct CMUnitTest tests[] = {cmocka_unit_test(test_against_torch)};

DF_TEST_MPI_MAIN(world, tests, NULL, NULL)
