/* Training on centred rows: means and scales against an oracle, the same weights as training on
 * rows that were centred beforehand, the same dictionary on any ranks and after a stop. */
#include "golden.h"
#include "training.h"

enum { ROWS = 400, DOCUMENTS = 20, WIDTH = 10, OTHER = 20, LATENTS = 96, STEPS = 40 };
enum { FLAT = 2, DRAWN = 3 }; // of acts: rows that do not vary, the oracle's

static golden oracle; // centre_rows.bin
static float *rows_of[2];

/* Multiples of 1/64 far from zero: their sums are exact. */
static void fill_coarse(float *x, size_t width, uint64_t seed) {
    for (size_t i = 0; i < ROWS * width; i++) {
        double value = 2.0 * draw(seed, i % width) + df_random_normal(seed + 1, DF_STREAM_TEST, i);
        x[i] = (float)(round(64.0 * value) / 64.0);
    }
}

static int set_up(void **state) {
    (void)state;
    static const size_t widths[2] = {WIDTH, OTHER};
    static float constant[ROWS * WIDTH];
    for (size_t s = 0; s < 2; s++) {
        rows_of[s] = df_alloc(ROWS * widths[s], sizeof **rows_of);
        fill_coarse(rows_of[s], widths[s], 40 + s);
    }
    for (size_t i = 0; i < ROWS * WIDTH; i++) constant[i] = 1.5f;
    const synthetic files[] = {
        {"a.acts.h5", "a", ROWS, DOCUMENTS, WIDTH, .bad_row = -1, .values = rows_of[0]},
        {"b.acts.h5", "b", ROWS, DOCUMENTS, OTHER, .bad_row = -1, .values = rows_of[1]},
        {"flat.acts.h5", "a", ROWS, DOCUMENTS, WIDTH, .bad_row = -1, .values = constant}};
    training_open("centre", files, 3, 2);
    assert_ok(golden_open(&oracle, "centre_", "rows"));
    return 0;
}

static int tear_down(void **state) {
    df_free(rows_of[0]);
    df_free(rows_of[1]);
    df_free(oracle.bytes);
    return training_close(state);
}

static const df_train_options common = {TRAINING_BATCHTOPK, .steps = STEPS, .centre = true};

static df_train_options with(df_dict_kind kind, df_activation activation) {
    df_train_options o = common;
    o.kind = kind;
    o.inputs = 1;
    o.activation = activation;
    o.subtract_bias = kind <= DF_CROSSCODER;
    o.objective = (df_objective){.penalty = DF_PENALTY_L1, .weight = 0.01, .bandwidth = 0.5};
    o.init_threshold = 0.1;
    return o;
}

static df_status train_file(size_t file, const char *name, const df_train_options *o) {
    df_rows *rows = NULL;
    df_test_all(world,
                df_rows_open(&(df_rows_files){&acts[file], site, 1, 1}, &usual, &rows) == DF_OK);
    df_status status = train_on(world, rows, name, o);
    df_rows_close(&rows);
    return status;
}

/* ---- means and scales ----------------------------------------------------------------------- */

/* Without a learning rate from b_dec 0 the dictionary's b_dec is the mean, in its units. */
static void normalisers_are_the_oracles(void **state) {
    (void)state;
    static const char *const names[] = {[DF_NORMALISE_RMS] = "rms",
                                        [DF_NORMALISE_NORM] = "norm",
                                        [DF_NORMALISE_DEVIATION] = "deviation"};
    static float x[ROWS * WIDTH];
    take(&oracle, "x", ROWS * WIDTH, (df_range){0, ROWS * WIDTH}, x);
    const synthetic file = {.model = "a",
                            .rows = ROWS,
                            .documents = DOCUMENTS,
                            .width = WIDTH,
                            .bad_row = -1,
                            .values = x};
    char *path = in_folder("oracle.acts.h5");
    synthetic there = file;
    there.path = path;
    if (df_comm_rank(world) == 0) synthetic_write(&there);
    df_barrier(world);
    df_test_all(world, df_acts_open(path, &acts[DRAWN]) == DF_OK);
    df_free(path);
    for (int how = 0; how < 4; how++) {
        if (names[how] == NULL) continue;
        df_train_options o = with(DF_SAE, DF_TOPK);
        o.steps = 1, o.lr = 0.0;
        o.init_bias = DF_INIT_ZERO;
        o.normalise = (df_normalise)how;
        o.scale = how == DF_NORMALISE_DEVIATION ? 100.0 : 0.0;
        df_test_all(world, train_file(DRAWN, "units", &o) == DF_OK);
        df_dict *d = load(self, "units");
        double scale = number(&oracle, names[how], 1, 0);
        df_test_all(world, fabs(d->site[0].scale / scale - 1.0) <= (how == 1 ? 1e-7 : 1e-12));
        for (size_t c = 0; c < WIDTH; c++) d->b_dec[c] /= (float)d->site[0].scale;
        df_test_all(world, distance(&oracle, "mean", WIDTH, (df_range){0, WIDTH}, d->b_dec) < 1e-6);
        df_dict_free(&d);
    }
}

static void constant_rows_are_refused(void **state) {
    (void)state;
    df_train_options o = with(DF_SAE, DF_TOPK);
    df_test_all(world,
                df_test_fails(train_file(FLAT, "flat", &o), DF_BAD_INPUT, "cannot be centred"));
    o.centre = false;
    o.normalise = DF_NORMALISE_DEVIATION;
    df_test_all(world, df_test_fails(train_file(FLAT, "flat", &o), DF_BAD_INPUT, "deviation"));
    o.normalise = DF_NORMALISE_RMS;
    df_test_all(world, train_file(FLAT, "flat", &o) == DF_OK);
}

/* ---- the same as rows that were centred before ------------------------------------------------
 */

/* Means over the training rows of file s, whose sums are exact; out [width]. */
static void means_of(size_t s, float *out) {
    uint64_t *number = NULL;
    size_t n = 0, width = s == 0 ? WIDTH : OTHER;
    assert_ok(df_acts_rows(acts[s], 0, true, &number, &n));
    for (size_t c = 0; c < width; c++) {
        double sum = 0.0;
        for (size_t r = 0; r < n; r++) sum += (double)rows_of[s][number[r] * width + c];
        out[c] = (float)(sum / (double)n);
    }
    df_free(number);
}

/* Writes both files' rows less their mean, in the units of the dictionary; mean: both, likewise. */
static df_rows *centred_rows(const df_dict *d, float *mean) {
    static df_acts *opened[2];
    df_rows *rows = NULL;
    for (size_t s = 0; s < 2; s++) {
        size_t width = s == 0 ? WIDTH : OTHER;
        float *of = mean + (s == 0 ? 0 : WIDTH), scale = (float)d->site[s].scale;
        float *x = df_alloc(ROWS * width, sizeof *x);
        means_of(s, of);
        for (size_t i = 0; i < ROWS * width; i++) x[i] = (rows_of[s][i] - of[i % width]) * scale;
        for (size_t c = 0; c < width; c++) of[c] = (float)((double)of[c] * d->site[s].scale);
        char *path = df_format("%s/centred%zu.acts.h5", folder, s);
        const synthetic file = {path,  s == 0 ? "a" : "b", ROWS,       DOCUMENTS,
                                width, .bad_row = -1,      .values = x};
        if (df_comm_rank(world) == 0) synthetic_write(&file);
        df_barrier(world);
        df_acts_close(&opened[s]);
        df_test_all(world, df_acts_open(path, &opened[s]) == DF_OK);
        df_free(path);
        df_free(x);
    }
    df_test_all(world, df_rows_open(&(df_rows_files){opened, site, 1, 2}, &usual, &rows) == DF_OK);
    return rows;
}

static bool same_floats(const float *a, const float *b, size_t n) {
    return memcmp(a, b, n * sizeof *a) == 0;
}

/* The biases of `plain`, of centred rows, that `d` of rows as they are must have. */
static bool biases_hold(const df_dict *d, const df_dict *plain, const float *mean) {
    bool good = true;
    for (size_t j = 0; j < LATENTS; j++) {
        const df_range in = df_dict_group_of(d, j)->in;
        double sum = 0.0;
        for (size_t c = 0; c < in.count && !d->subtract_bias; c++)
            sum += (double)df_dict_enc(d, j)[c] * (double)mean[in.first + c];
        good = good && d->b_enc[j] == (float)((double)plain->b_enc[j] - sum);
    }
    for (size_t c = 0; c < d->out.count; c++) {
        double shift = 0.0;
        for (size_t i = 0; i < d->in.count && d->w_skip != NULL; i++)
            shift += (double)d->w_skip[c * d->in.count + i] * (double)mean[d->in.first + i];
        shift = (double)mean[d->out.first + c] - shift;
        good = good && d->b_dec[c] == (float)((double)plain->b_dec[c] + shift);
    }
    return good;
}

static void same_as_centred_before(void **state) {
    (void)state;
    static const struct {
        df_dict_kind kind;
        df_activation activation;
    } cases[] = {{DF_CROSSCODER, DF_BATCHTOPK},
                 {DF_TRANSCODER, DF_TOPK},
                 {DF_SKIP_TRANSCODER, DF_TOPK},
                 {DF_CLT, DF_RELU}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        float mean[WIDTH + OTHER];
        df_train_options o = with(cases[i].kind, cases[i].activation);
        o.init_bias = DF_INIT_ZERO;
        o.ema = i == 2 ? 0.9 : 0.0;
        df_test_all(world, train(world, "raw", &o) == DF_OK);
        df_dict *d = load(self, "raw");
        df_rows *rows = centred_rows(d, mean);
        o.centre = false;
        o.normalise = DF_NORMALISE_NONE;
        df_test_all(world, train_on(world, rows, "plain", &o) == DF_OK);
        df_dict *plain = load(self, "plain");
        df_test_all(world, same_floats(d->w_enc, plain->w_enc, df_dict_enc_floats(d, LATENTS)));
        df_test_all(world, same_floats(d->w_dec, plain->w_dec, df_dict_dec_floats(d, LATENTS)));
        df_test_all(world, d->threshold == plain->threshold && biases_hold(d, plain, mean));
        df_dict_free(&d);
        df_dict_free(&plain);
        df_rows_close(&rows);
    }
}

/* ---- ranks, stops, orders, plans ---------------------------------------------------------------
 */

static df_train_options varied(int i) {
    df_train_options o = with(i == 1 ? DF_SKIP_TRANSCODER : DF_CROSSCODER,
                              (df_activation[]){DF_BATCHTOPK, DF_TOPK, DF_JUMPRELU, DF_GATED}[i]);
    o.normalise = (df_normalise)i;
    o.init_bias = i == 1 ? DF_INIT_MEAN : DF_INIT_MEDIAN;
    o.init_bias_enc = i == 2 ? DF_INIT_ENC_QUANTILE : DF_INIT_ENC_ZERO;
    o.subtract_bias = i == 0;
    o.ema = i == 3 ? 0.9 : 0.0;
    o.shuffle = i == 3 ? DF_SHUFFLE_BUFFER : DF_SHUFFLE_EXACT;
    return o;
}

static void same_on_any_ranks(void **state) {
    (void)state;
    for (int i = 0; i < 4; i++) {
        df_train_options o = varied(i);
        df_test_all(world, same_on_all(&o));
    }
}

static void resumes(void **state) {
    (void)state;
    for (int i = 0; i < 4; i++) {
        df_train_options o = varied(i);
        const char *name = (const char *const[]){"stop0", "stop1", "stop2", "stop3"}[i];
        df_test_all(world, resumes_to_the_same(name, &o, 5));
    }
}

/* Members with other sites than the data set has, one of them resumed, are what they are alone. */
static void members_are_alone(void **state) {
    (void)state;
    static const size_t second[] = {1};
    df_train_options o[2] = {common, with(DF_SAE, DF_TOPK)};
    const char *names[2] = {"both", "second"};
    df_train_member m[2] = {{names[0], &o[0], NULL, 0}, {names[1], &o[1], second, 1}};
    char *path[4];
    uint64_t apart[2];
    for (size_t i = 0; i < 2; i++) {
        o[i].output = path[2 * i] = df_format("%s/%s.dict.h5", folder, names[i]);
        o[i].checkpoint = path[2 * i + 1] = in_folder(names[i]);
    }
    for (size_t i = 0; i < 2; i++) {
        df_test_all(world, df_train_sweep(world, kernels, data, &m[i], 1) == DF_OK);
        apart[i] = digest_of(names[i]);
    }
    for (int round = 0; round < 2; round++) {
        o[0].checkpoint_seconds = o[1].checkpoint_seconds = round == 0 ? 1e-9 : 600;
        stop_watch watch;
        if (round == 0) stop_watch_open(&watch, world, names[0], 7);
        df_status status = df_train_sweep(world, kernels, data, m, 2);
        if (round == 0) stop_watch_close(&watch);
        df_test_all(world, status == (round == 0 ? DF_STOPPED : DF_OK));
        df_error_clear();
    }
    for (size_t i = 0; i < 2; i++) df_test_all(world, digest_of(names[i]) == apart[i]);
    o[1].centre = false;
    df_test_all(
        world, df_test_fails(df_train_sweep(world, kernels, data, m, 2), DF_USAGE, "train.centre"));
    for (size_t i = 0; i < 4; i++) df_free(path[i]);
}

static void synthetic_rows_too(void **state) {
    (void)state;
    const df_synthetic spec = {.models = 2,
                               .width = 12,
                               .directions = 24,
                               .exclusive = 4,
                               .probability = 0.2,
                               .low = 0.5,
                               .high = 1,
                               .seed = 3};
    df_rows *rows = NULL;
    df_train_options o = common;
    df_test_all(world, df_rows_open_synthetic(&spec, &rows) == DF_OK);
    df_test_all(world, df_comm_rank(world) != 0 || train_on(self, rows, "toy1", &o) == DF_OK);
    df_test_all(world, train_on(world, rows, "toy", &o) == DF_OK);
    df_test_all(world, df_comm_rank(world) != 0 || digest_of("toy") == digest_of("toy1"));
    df_rows_close(&rows);
}

static void plan_is_what_is_used(void **state) {
    (void)state;
    df_train_options o = common;
    o.latents = 2048;
    o.steps = 3;
    df_test_all(world, takes_what_is_planned(&o));
}

static void failing_memory(void **state) {
    (void)state;
    char *output = in_folder("memory.dict.h5"), *prefix = in_folder("memory");
    df_train_options o = with(DF_SKIP_TRANSCODER, DF_TOPK);
    o.steps = 2;
    o.normalise = DF_NORMALISE_NORM;
    o.output = output;
    o.checkpoint = prefix;
    fail_memory_anywhere(&o, 200);
    df_free(output);
    df_free(prefix);
}

static const struct CMUnitTest tests[] = {cmocka_unit_test(normalisers_are_the_oracles),
                                          cmocka_unit_test(constant_rows_are_refused),
                                          cmocka_unit_test(same_as_centred_before),
                                          cmocka_unit_test(same_on_any_ranks),
                                          cmocka_unit_test(resumes),
                                          cmocka_unit_test(members_are_alone),
                                          cmocka_unit_test(synthetic_rows_too),
                                          cmocka_unit_test(plan_is_what_is_used),
                                          cmocka_unit_test(failing_memory)};

DF_TEST_MPI_MAIN(world, tests, set_up, tear_down)
