/* Crosscoders whose latents are bound to models: tied and dedicated rows hold to the bit through
 * starts, steps, resampling, averages, files and stops, on any number of ranks; what does not fit
 * is refused. */
#include "training.h"

enum { ROWS = 800, LATENTS = 96, WIDTH = 13, BATCH = 64, STEPS = 40, SHARED = 20, OWN = 9 };

static int set_up(void **state) {
    static const synthetic files[] = {{"a.acts.h5", "a", ROWS, 40, WIDTH, .bad_row = -1},
                                      {"b.acts.h5", "b", ROWS, 40, WIDTH, .bad_row = -1},
                                      {"wide.acts.h5", "b", ROWS, 40, WIDTH + 2, .bad_row = -1}};
    (void)state;
    training_open("bind", files, 3, 2);
    return 0;
}

#define COMMON                                                                                     \
    TRAINING_COMMON, .latents = LATENTS, .batch = BATCH, .steps = STEPS, .warmup = 5, .decay = 10, \
                     .threshold_start = 10, .kind = DF_CROSSCODER, .shared = SHARED,               \
                     .dedicated = OWN

static const df_train_options trainings[] = {
    {COMMON, .activation = DF_BATCHTOPK, .dead_rows = 300, .resample = 8, .resample_power = 2,
     .resample_scale = 0.2, .clip = 0.05, .ema = 0.9, .aux = 1.0 / 32},
    {COMMON, .activation = DF_RELU,
     .objective = {.penalty = DF_PENALTY_L1, .weight = 0.1, .shared_weight = 0.1},
     .unit_decoder = true, .init_uniform = true, .dead_rows = 300},
};
enum { TRAININGS = 2 };

/* Directions that are drawn once: tied, and encoders for themselves. */
static const df_train_options repeated[] = {
    {COMMON, .activation = DF_BATCHTOPK, .dead_rows = 300, .init_same = true},
    {COMMON, .activation = DF_TOPK, .dead_rows = 300, .init_same = true, .init_untied = true},
};

/* ---- training ------------------------------------------------------------------------------- */

static bool is_zero(const float *row, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (row[i] != 0.0f) return false;
    return true;
}

/* Spelled out, not by df_dict_latent_is_bound. */
static bool holds(const df_dict *d) {
    bool good = d->shared == SHARED && d->dedicated == OWN && d->models == 2;
    for (size_t j = 0; j < d->mine.count; j++) {
        size_t latent = d->mine.first + j;
        const float *enc = df_dict_enc(d, j), *dec = df_dict_dec(d, j);
        if (latent < SHARED) good = good && memcmp(dec, dec + WIDTH, WIDTH * sizeof *dec) == 0;
        if (latent >= LATENTS - OWN) good = good && is_zero(enc, WIDTH) && is_zero(dec, WIDTH);
        if (latent >= LATENTS - 2 * OWN && latent < LATENTS - OWN)
            good = good && is_zero(enc + WIDTH, WIDTH) && is_zero(dec + WIDTH, WIDTH);
        good = good && !is_zero(enc, 2 * WIDTH) && !is_zero(dec, 2 * WIDTH);
    }
    return good;
}

static void same_on_any_ranks(void **state) {
    (void)state;
    for (size_t i = 0; i < TRAININGS; i++) {
        df_test_all(world, same_on_all(&trainings[i]));
        df_dict *d = load(world, "all");
        df_test_all(world, holds(d));
        df_dict_free(&d);
    }
}

/* Stopped when the checkpoint of step 9 is there: after dead latents began anew. */
static void resumes(void **state) {
    (void)state;
    for (size_t i = 0; i < TRAININGS; i++) {
        const char *name = i == 0 ? "stopped0" : "stopped1";
        df_test_all(world, resumes_to_the_same(name, &trainings[i], 9));
    }
}

/* The start itself, and one step that begins all latents anew. */
static void start_and_rebirth(void **state) {
    (void)state;
    for (size_t i = 0; i < TRAININGS; i++) {
        df_train_options o = trainings[i];
        o.lr = o.ema = 0.0;
        o.unit_decoder = false;
        o.steps = 1;
        o.resample = 0;
        df_test_all(world, train(world, "start", &o) == DF_OK);
        df_dict *d = load(world, "start");
        df_test_all(world, holds(d));
        bool tied = true; // encoders begin as decoders
        for (size_t j = 0; j < d->mine.count; j++)
            tied = tied &&
                   memcmp(df_dict_enc(d, j), df_dict_dec(d, j), 2 * WIDTH * sizeof(float)) == 0;
        df_test_all(world, tied);
        df_dict_free(&d);
        o.steps = 2;
        o.resample = o.dead_rows = 1;
        o.resample_power = 1;
        o.resample_scale = 0.2;
        df_test_all(world, train(world, "anew", &o) == DF_OK);
        d = load(world, "anew");
        df_test_all(world, holds(d));
        df_dict_free(&d);
    }
}

/* ---- refusals ------------------------------------------------------------------------------- */

static bool binds(const size_t *width, size_t sites, size_t shared, size_t own, const char *word) {
    static char name[] = "blocks.0.hook_resid_post", *model[] = {(char *)"a", (char *)"b"};
    df_dict_site all[4];
    df_dict *d = NULL;
    for (size_t s = 0; s < sites; s++)
        all[s] = (df_dict_site){
            .name = name, .model = model[2 * s / sites], .width = width[s], .scale = 1.0};
    df_status made = df_dict_new(self, 10, all, sites, &d);
    df_status status = made == DF_OK ? df_dict_bind(d, shared, own) : made;
    bool good = word == NULL ? status == DF_OK
                             : status == DF_USAGE && strstr(df_error_text(), word) != NULL;
    df_error_clear();
    df_dict_free(&d);
    return good;
}

static void what_fits_is_bound(void **state) {
    (void)state;
    const size_t same[] = {4, 4}, other[] = {4, 5}, layers[] = {3, 5, 3, 5}, mixed[] = {3, 5, 5, 3};
    df_test_all(world, binds(same, 2, 6, 2, NULL));
    df_test_all(world, binds(layers, 4, 10, 0, NULL));
    df_test_all(world, binds(other, 2, 0, 5, NULL));
    df_test_all(world, binds(same, 1, 0, 0, NULL));
    df_test_all(world, binds(same, 1, 1, 0, "several models"));
    df_test_all(world, binds(same, 1, 0, 1, "several models"));
    df_test_all(world, binds(other, 2, 1, 0, "same widths"));
    df_test_all(world, binds(mixed, 4, 1, 0, "same widths"));
    df_test_all(world, binds(same, 2, 7, 2, "more than the 10"));
    df_test_all(world, binds(same, 2, 11, 0, "more than the 10"));
    df_test_all(world, binds(same, 2, 0, SIZE_MAX / 2, "more than the 10"));
}

/* A file that says more than its rows hold. */
static void broken_ties_are_refused(void **state) {
    (void)state;
    char *path = df_format("%s/broken.dict.h5", folder);
    const char *word[] = {"decoders differ", "reach other models", "reach other models"};
    for (int i = 0; i < 3; i++) {
        df_dict *d = load(world, "all"), *back = NULL;
        size_t at = i == 0 ? SHARED - 1 : LATENTS - 1;
        if (at >= d->mine.first && at < d->mine.first + d->mine.count) {
            float *row =
                i == 2 ? df_dict_enc(d, at - d->mine.first) : df_dict_dec(d, at - d->mine.first);
            row[3] += 0.5f;
        }
        df_test_all(world,
                    df_dict_save(world, path, d, NULL, "", 1, 1, &trainings[0].facts) == DF_OK);
        df_dict_free(&d);
        df_test_all(world, df_dict_load(world, path, &back) == DF_BAD_INPUT &&
                               strstr(df_error_text(), word[i]) != NULL);
        df_error_clear();
    }
    df_free(path);
}

/* Penalties that have no share for shared latents. */
static void penalties_without_shares(void **state) {
    (void)state;
    df_train_options o = trainings[1];
    o.activation = DF_JUMPRELU;
    o.init_threshold = o.objective.bandwidth = 0.1;
    o.objective.penalty = DF_PENALTY_L0;
    df_test_all(world, train(world, "refused", &o) == DF_USAGE &&
                           strstr(df_error_text(), "shared_penalty") != NULL);
    df_error_clear();
    o.objective.shared_weight = 1.0;
    df_test_all(world, train(world, "accepted", &o) == DF_OK);
}

/* Both sites begin alike where a latent has both; the encoder is the decoder, or is not; the same
 * on any ranks. */
static void one_direction_for_all(void **state) {
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        df_train_options o = repeated[i];
        bool good = true;
        df_test_all(world, same_on_all(&o));
        o.steps = 1;
        o.lr = 0.0;
        df_test_all(world, train(world, "start", &o) == DF_OK);
        df_dict *d = load(world, "start");
        good = good && holds(d);
        for (size_t j = 0; j < d->mine.count; j++) {
            const float *enc = df_dict_enc(d, j), *dec = df_dict_dec(d, j);
            bool tied = memcmp(enc, dec, 2 * WIDTH * sizeof *enc) == 0;
            good = good && tied == !o.init_untied;
            if (d->mine.first + j >= LATENTS - 2 * OWN) continue;
            good = good && memcmp(dec, dec + WIDTH, WIDTH * sizeof *dec) == 0;
            good = good && memcmp(enc, enc + WIDTH, WIDTH * sizeof *enc) == 0;
            good = good && fabs(df_sum_squares(dec, WIDTH) - 1.0) < 1e-5;
        }
        df_test_all(world, good);
        df_dict_free(&d);
    }
}

/* Sites of two widths cannot share a direction. */
static void widths_must_agree(void **state) {
    (void)state;
    df_acts *const two[] = {acts[0], acts[2]};
    df_train_options o = repeated[0];
    df_rows *rows = NULL;
    o.shared = o.dedicated = 0;
    df_test_all(world, df_rows_open(&(df_rows_files){two, site, 1, 2}, &usual, &rows) == DF_OK);
    df_test_all(world, train_on(world, rows, "wrong", &o) == DF_USAGE);
    df_test_all(world, strstr(df_error_text(), "one direction cannot begin all sites") != NULL);
    df_error_clear();
    o.steps = 1;
    o.init_same = false;
    df_test_all(world, train_on(world, rows, "right", &o) == DF_OK);
    df_rows_close(&rows);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(same_on_any_ranks),       cmocka_unit_test(resumes),
    cmocka_unit_test(start_and_rebirth),       cmocka_unit_test(what_fits_is_bound),
    cmocka_unit_test(broken_ties_are_refused), cmocka_unit_test(penalties_without_shares),
    cmocka_unit_test(one_direction_for_all),   cmocka_unit_test(widths_must_agree)};

DF_TEST_MPI_MAIN(world, tests, set_up, training_close)
