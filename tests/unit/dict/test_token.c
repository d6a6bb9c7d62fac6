/* Training on rows that are normalised one by one: the same weights as training on rows that were
 * normalised before, the same dictionary on any ranks and after a stop, what files say and what is
 * refused. */
#include "training.h"

enum { ROWS = 400, DOCUMENTS = 20, WIDTH = 10, OTHER = 20, STEPS = 40 };
enum { FLAT = 2, NORMALISED = 3 }; // of acts

static const size_t widths[2] = {WIDTH, OTHER};
static float *rows_of[2];

/* Rows at lengths and levels of their own. */
static void fill(float *x, size_t width, uint64_t seed) {
    for (size_t r = 0; r < ROWS; r++) {
        double size = exp(df_random_normal(seed, DF_STREAM_TEST, r)), level = 2.0 * draw(seed, r);
        for (size_t c = 0; c < width; c++) {
            double value = df_random_normal(seed + 1, DF_STREAM_TEST, r * width + c);
            x[r * width + c] = (float)(size * (level + value));
        }
    }
}

static int set_up(void **state) {
    (void)state;
    static float level[ROWS * WIDTH];
    for (size_t s = 0; s < 2; s++) {
        rows_of[s] = df_alloc(ROWS * widths[s], sizeof **rows_of);
        fill(rows_of[s], widths[s], 60 + s);
    }
    for (size_t i = 0; i < ROWS * WIDTH; i++) level[i] = 1.0f + (float)(i / WIDTH);
    const synthetic files[] = {
        {"a.acts.h5", "a", ROWS, DOCUMENTS, WIDTH, .bad_row = -1, .values = rows_of[0]},
        {"b.acts.h5", "b", ROWS, DOCUMENTS, OTHER, .bad_row = -1, .values = rows_of[1]},
        {"flat.acts.h5", "a", ROWS, DOCUMENTS, WIDTH, .bad_row = -1, .values = level}};
    training_open("token", files, 3, 2);
    return 0;
}

static int tear_down(void **state) {
    df_free(rows_of[0]);
    df_free(rows_of[1]);
    return training_close(state);
}

static const df_train_options common = {TRAINING_BATCHTOPK, .steps = STEPS,
                                        .token_norm = DF_TOKEN_LAYER};

/* Each site read and written; i chooses what else differs. */
static df_train_options varied(int i) {
    df_train_options o = common;
    o.activation = (df_activation[]){DF_BATCHTOPK, DF_TOPK, DF_JUMPRELU, DF_GATED}[i];
    o.token_norm = i % 2 == 0 ? DF_TOKEN_LAYER : DF_TOKEN_NORM;
    o.normalise = (df_normalise)i;
    o.centre = i > 0;
    o.init_bias = i == 1 ? DF_INIT_MEAN : DF_INIT_MEDIAN;
    o.shuffle = i == 3 ? DF_SHUFFLE_BUFFER : DF_SHUFFLE_EXACT;
    o.objective = (df_objective){.penalty = DF_PENALTY_L1, .weight = 0.01, .bandwidth = 0.5};
    o.init_threshold = 0.1;
    return o;
}

/* ---- the same as rows that were normalised before ---------------------------------------------
 */

/* Both files' rows, normalised by the plain twin; the caller closes them. */
static df_rows *normalised_rows(df_token_norm how) {
    df_rows *rows = NULL;
    for (size_t s = 0; s < 2; s++) {
        float *x = df_alloc(ROWS * widths[s], sizeof *x);
        memcpy(x, rows_of[s], ROWS * widths[s] * sizeof *x);
        for (size_t r = 0; r < ROWS; r++) {
            float *row = x + r * widths[s];
            const df_token token = df_token_of_plain(how, row, widths[s]);
            for (size_t c = 0; c < widths[s]; c++)
                row[c] = (float)(((double)row[c] - token.mean) * token.factor);
        }
        char *path = df_format("%s/normalised%zu.acts.h5", folder, s);
        const synthetic file = {path,      s == 0 ? "a" : "b", ROWS,       DOCUMENTS,
                                widths[s], .bad_row = -1,      .values = x};
        if (df_comm_rank(world) == 0) synthetic_write(&file);
        df_barrier(world);
        df_acts_close(&acts[NORMALISED + s]);
        df_test_all(world, df_acts_open(path, &acts[NORMALISED + s]) == DF_OK);
        df_free(path);
        df_free(x);
    }
    df_test_all(world, df_rows_open(&(df_rows_files){&acts[NORMALISED], site, 1, 2}, &usual,
                                    &rows) == DF_OK);
    return rows;
}

static bool same_floats(const float *a, const float *b, size_t n) {
    return memcmp(a, b, n * sizeof *a) == 0;
}

static void same_as_normalised_before(void **state) {
    (void)state;
    for (int i = 0; i < 4; i++) {
        df_train_options o = varied(i);
        df_test_all(world, train(world, "raw", &o) == DF_OK);
        df_rows *rows = normalised_rows(o.token_norm);
        df_token_norm how = o.token_norm;
        o.token_norm = DF_TOKEN_NONE;
        df_test_all(world, train_on(world, rows, "plain", &o) == DF_OK);
        df_dict *d = load(world, "raw"), *plain = load(world, "plain");
        size_t latents = d->mine.count;
        bool same = same_floats(d->w_enc, plain->w_enc, latents * d->width) &&
                    same_floats(d->w_dec, plain->w_dec, latents * d->width) &&
                    same_floats(d->b_enc, plain->b_enc, latents) &&
                    same_floats(d->b_dec, plain->b_dec, d->width) &&
                    d->threshold == plain->threshold;
        for (size_t s = 0; s < 2; s++)
            same = same && d->site[s].scale == plain->site[s].scale &&
                   d->site[s].token_norm == how && plain->site[s].token_norm == DF_TOKEN_NONE;
        df_test_all(world, same);
        df_dict_free(&d);
        df_dict_free(&plain);
        df_rows_close(&rows);
    }
}

/* ---- ranks, stops, sweeps, plans ---------------------------------------------------------------
 */

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

static void members_share_it(void **state) {
    (void)state;
    static const size_t second[] = {1};
    df_train_options o[2] = {varied(0), varied(0)};
    const df_train_member m[2] = {{"both", &o[0], NULL, 0}, {"second", &o[1], second, 1}};
    char *path[4];
    uint64_t apart[2];
    for (size_t i = 0; i < 2; i++) {
        o[i].output = path[2 * i] = df_format("%s/%s.dict.h5", folder, m[i].name);
        o[i].checkpoint = path[2 * i + 1] = in_folder(m[i].name);
        df_test_all(world, df_train_sweep(world, kernels, data, &m[i], 1) == DF_OK);
        apart[i] = digest_of(m[i].name);
    }
    df_test_all(world, df_train_sweep(world, kernels, data, m, 2) == DF_OK);
    for (size_t i = 0; i < 2; i++) df_test_all(world, digest_of(m[i].name) == apart[i]);
    o[1].token_norm = DF_TOKEN_NORM;
    df_test_all(world, df_test_fails(df_train_sweep(world, kernels, data, m, 2), DF_USAGE,
                                     "train.token_norm"));
    for (size_t i = 0; i < 4; i++) df_free(path[i]);
}

static void plan_is_what_is_used(void **state) {
    (void)state;
    df_train_options o = common;
    o.latents = 2048;
    o.steps = 3;
    df_test_all(world, takes_what_is_planned(&o));
}

/* ---- what cannot be ----------------------------------------------------------------------------
 */

static void kinds_that_write_elsewhere_are_refused(void **state) {
    (void)state;
    for (int kind = DF_TRANSCODER; kind <= DF_CLT; kind++) {
        df_train_options o = common;
        o.kind = (df_dict_kind)kind;
        o.inputs = 1;
        o.subtract_bias = false;
        df_test_all(world, df_test_fails(df_train_check(&o), DF_USAGE, "token_norm"));
        df_test_all(world, df_test_fails(train(world, "never", &o), DF_USAGE, "token_norm"));
    }
}

/* Rows that do not vary within themselves are zeros once their mean is off. */
static void level_rows_are_refused(void **state) {
    (void)state;
    df_train_options o = common;
    df_rows *rows = NULL;
    df_test_all(world,
                df_rows_open(&(df_rows_files){&acts[FLAT], site, 1, 1}, &usual, &rows) == DF_OK);
    df_test_all(world, df_test_fails(train_on(world, rows, "flat", &o), DF_BAD_INPUT, "positive"));
    o.token_norm = DF_TOKEN_NORM;
    df_test_all(world, train_on(world, rows, "flat", &o) == DF_OK);
    df_rows_close(&rows);
}

static const struct CMUnitTest tests[] = {cmocka_unit_test(same_as_normalised_before),
                                          cmocka_unit_test(same_on_any_ranks),
                                          cmocka_unit_test(resumes),
                                          cmocka_unit_test(members_share_it),
                                          cmocka_unit_test(plan_is_what_is_used),
                                          cmocka_unit_test(kinds_that_write_elsewhere_are_refused),
                                          cmocka_unit_test(level_rows_are_refused)};

DF_TEST_MPI_MAIN(world, tests, set_up, tear_down)
