/* Trainings with nested prefixes, resampling, clipping, averages, annealed k and other starts: the
 * same dictionary on any number of ranks and after a stop; the median is where distances balance.
 */
#include "training.h"

enum { ROWS = 800, LATENTS = 96, WIDTH = 16, BATCH = 64, STEPS = 40 };

static int set_up(void **state) {
    static const synthetic file = {"a.acts.h5", "a", ROWS, 40, WIDTH, .bad_row = -1};
    (void)state;
    training_open("methods", &file, 1, 1);
    return 0;
}

#define COMMON                                                                                     \
    TRAINING_COMMON, .latents = LATENTS, .batch = BATCH, .steps = STEPS, .warmup = 5, .decay = 10, \
                     .threshold_start = 10

static const df_train_options trainings[] = {
    {COMMON, .activation = DF_BATCHTOPK, .prefixes = 3, .prefix = {0, 20, LATENTS},
     .prefix_weight = 1.0 / 3, .dead_rows = 300, .resample = 8, .resample_power = 1,
     .resample_scale = 0.2, .rewarm = true, .warmup_law = DF_WARMUP_ZERO,
     .init_bias = DF_INIT_MEDIAN, .clip = 0.05, .ema = 0.9},
    {COMMON, .activation = DF_TOPK, .objective = {.reconstruction = DF_FVU}, .multi = 0.125,
     .k_start = 9, .k_steps = 20, .unit_first = true, .aux = 1.0 / 32, .aux_bias = DF_AUX_BIAS_BOTH,
     .dead_rows = 300, .fired_above = 1e-3, .init_bias = DF_INIT_ZERO, .init_uniform = true,
     .init_ratio = true},
    {COMMON, .activation = DF_JUMPRELU,
     .objective = {.penalty = DF_PENALTY_TANH, .weight = 0.01, .tanh_scale = 4, .bandwidth = 0.5},
     .init_threshold = 0.3, .dead_rows = 300, .init_bias = DF_INIT_MEDIAN, .init_untied = true,
     .init_bias_enc = DF_INIT_ENC_QUANTILE, .init_active = 0.2, .normalise = DF_NORMALISE_NORM},
    {COMMON, .activation = DF_TOPK, .objective = {.reconstruction = DF_FVU_SAMPLE}, .aux = 1.0 / 32,
     .aux_raw = true, .dead_rows = 300, .fired_selected = true, .init_bias = DF_INIT_MEDIAN},
};
enum { TRAININGS = 4 };

static void same_on_any_ranks(void **state) {
    (void)state;
    for (size_t i = 0; i < TRAININGS; i++) df_test_all(world, same_on_all(&trainings[i]));
}

static void resumes(void **state) {
    (void)state;
    for (size_t i = 0; i < TRAININGS; i++) {
        char *name = df_format("stopped%zu", i);
        df_test_all(world, resumes_to_the_same(name, &trainings[i], 9));
        df_free(name);
    }
}

/* ---- what is written ------------------------------------------------------------------------ */

static void prefixes_are_kept(void **state) {
    (void)state;
    df_dict *d = NULL;
    char *path = df_format("%s/nested.dict.h5", folder);
    df_test_all(world, train(world, "nested", &trainings[0]) == DF_OK);
    df_test_all(world, df_dict_load(world, path, &d) == DF_OK);
    df_test_all(world, d->prefixes == 3 && d->prefix[0] == 0 && d->prefix[1] == 20 &&
                           d->prefix[2] == LATENTS);
    df_dict_free(&d);
    df_free(path);
    df_train_options wrong = trainings[0];
    wrong.prefix[1] = 0;
    df_test_all(world, train(world, "wrong", &wrong) == DF_USAGE);
    df_test_all(world, strstr(df_error_text(), "ascend") != NULL);
    df_error_clear();
}

/* At the geometric median the unit vectors towards all rows cancel. */
static void median_balances(void **state) {
    (void)state;
    df_train_options o = trainings[0];
    df_dict *d = NULL;
    uint64_t *rows = NULL;
    size_t n = 0;
    char *path = df_format("%s/median.dict.h5", folder);
    o.steps = 1;
    o.lr = o.ema = 0.0;
    o.resample = 0;
    df_test_all(world, train(world, "median", &o) == DF_OK);
    df_test_all(world, df_dict_load(world, path, &d) == DF_OK);
    df_test_all(world, df_acts_rows(acts[0], 0, true, &rows, &n) == DF_OK);
    float *x = df_alloc(n, WIDTH * sizeof *x);
    df_test_all(world, x != NULL && df_rows_gather(d, acts, site, rows, n, x) == DF_OK);
    double pull[WIDTH] = {0}, mean[WIDTH] = {0}, length = 0.0, apart = 0.0;
    for (size_t r = 0; r < n; r++) {
        double distance = 0.0;
        for (size_t i = 0; i < WIDTH; i++)
            distance += pow((double)x[r * WIDTH + i] - (double)d->b_dec[i], 2);
        for (size_t i = 0; i < WIDTH; i++) {
            pull[i] +=
                ((double)x[r * WIDTH + i] - (double)d->b_dec[i]) / sqrt(distance) / (double)n;
            mean[i] += (double)x[r * WIDTH + i] / (double)n;
        }
    }
    for (size_t i = 0; i < WIDTH; i++) {
        length += pull[i] * pull[i];
        apart += pow(mean[i] - (double)d->b_dec[i], 2);
    }
    df_test_all(world, sqrt(length) < 1e-4 && sqrt(apart) > 1e-3); // and it is not the mean
    df_free(x);
    df_free(rows);
    df_dict_free(&d);
    df_free(path);
}

/* Uniform rows fill +-1 / sqrt(columns), encoders are columns / latents of them. */
static void uniform_start(void **state) {
    (void)state;
    df_train_options o = trainings[1];
    df_dict *d = NULL;
    char *path = df_format("%s/uniform.dict.h5", folder);
    o.steps = 1;
    o.lr = 0.0;
    o.unit_first = false;
    df_test_all(world, train(world, "uniform", &o) == DF_OK);
    df_test_all(world, df_dict_load(self, path, &d) == DF_OK);
    double sum = 0.0, squares = 0.0, largest = 0.0, n = LATENTS * WIDTH;
    for (size_t i = 0; i < LATENTS * WIDTH; i++) {
        double w = (double)d->w_dec[i];
        sum += w / n;
        squares += w * w / n;
        largest = fmax(largest, fabs(w));
        df_test_all(world, fabs((double)d->w_enc[i] - w * WIDTH / LATENTS) < 1e-7);
    }
    df_test_all(world, fabs(sum) < 0.02 && fabs(squares * 3 * WIDTH - 1.0) < 0.1);
    df_test_all(world, largest <= 0.25 && largest > 0.24);
    for (size_t i = 0; i < WIDTH; i++) df_test_all(world, d->b_dec[i] == 0.0f);
    df_dict_free(&d);
    df_free(path);
}

/* The rows trained on, in dictionary units: x [n, WIDTH]. New memory. */
static float *scaled_rows(const df_dict *d, size_t *n) {
    uint64_t *rows = NULL;
    assert_ok(df_acts_rows(acts[0], 0, true, &rows, n));
    float *x = df_alloc(*n, WIDTH * sizeof *x);
    assert_ok(df_rows_gather(d, acts, site, rows, *n, x));
    df_free(rows);
    return x;
}

/* How far the latents are from being active on 0.2 of the rows, which come less b_dec. */
static double off_share(const df_dict *d, const float *x, size_t n) {
    double worst = 0.0;
    for (size_t j = 0; j < LATENTS; j++) {
        double active = 0.0;
        for (size_t r = 0; r < n; r++)
            active +=
                df_dot(x + r * WIDTH, d->w_enc + j * WIDTH, WIDTH) + d->b_enc[j] > d->theta[j];
        worst = df_test_worse(worst, fabs(active / (double)n - 0.2));
    }
    return worst;
}

/* Of all rows, which are fewer than a sample, every latent is active on the share asked for; the
 * encoders are their own, as long as the decoders; rows have a mean norm of sqrt(width). */
static void starts_from_data(void **state) {
    (void)state;
    df_train_options o = trainings[2];
    df_dict *d = NULL;
    size_t n = 0;
    char *path = df_format("%s/data.dict.h5", folder);
    o.steps = 1;
    o.lr = 0.0;
    df_test_all(world, train(world, "data", &o) == DF_OK);
    df_test_all(world, df_dict_load(self, path, &d) == DF_OK);
    float *x = scaled_rows(d, &n);
    double length = 0.0, norms = 0.0, tied = 0.0;
    for (size_t r = 0; r < n; r++) {
        length += sqrt(df_sum_squares(x + r * WIDTH, WIDTH)) / (double)n;
        for (size_t c = 0; c < WIDTH; c++) x[r * WIDTH + c] -= d->b_dec[c];
    }
    for (size_t j = 0; j < LATENTS; j++) {
        const float *enc = d->w_enc + j * WIDTH, *dec = d->w_dec + j * WIDTH;
        double ratio = df_sum_squares(enc, WIDTH) / df_sum_squares(dec, WIDTH);
        norms = df_test_worse(norms, fabs(ratio - 1.0));
        tied =
            df_test_worse(tied, fabs((double)df_dot(enc, dec, WIDTH)) / df_sum_squares(dec, WIDTH));
    }
    df_test_all(world, fabs(length - sqrt((double)WIDTH)) < 1e-5);
    df_test_all(world, off_share(d, x, n) <= 1.5 / (double)n && norms < 1e-5 && tied < 0.9);
    df_dict_free(&d);
    o.activation = DF_RELU; // a threshold at the start is JumpReLU's alone
    df_test_all(world, train(world, "data", &o) == DF_OK);
    df_test_all(world, df_dict_load(self, path, &d) == DF_OK);
    df_test_all(world, off_share(d, x, n) <= 1.5 / (double)n);
    df_dict_free(&d);
    df_free(x);
    o.activation = DF_JUMPRELU;
    o.normalise = DF_NORMALISE_NONE;
    o.init_bias_enc = DF_INIT_ENC_UNIFORM;
    df_test_all(world, train(world, "data", &o) == DF_OK);
    df_test_all(world, df_dict_load(self, path, &d) == DF_OK);
    double sum = 0.0, largest = 0.0;
    for (size_t j = 0; j < LATENTS; j++) {
        sum += (double)d->b_enc[j] / LATENTS;
        largest = fmax(largest, fabs((double)d->b_enc[j]));
    }
    df_test_all(world, d->site[0].scale == 1.0);
    df_test_all(world, largest <= 0.25 && largest > 0.24 && fabs(sum) < 0.05);
    df_dict_free(&d);
    df_free(path);
}

/* The largest mean of a latent's pre-activations over the rows, whose encoder rows have norm 1. */
static double largest_mean(const df_dict *d, const float *x, size_t n) {
    double worst = 0.0;
    for (size_t j = 0; j < LATENTS; j++) {
        double sum = 0.0;
        for (size_t r = 0; r < n; r++)
            for (size_t c = 0; c < WIDTH; c++)
                sum += (double)d->w_enc[j * WIDTH + c] *
                       ((double)x[r * WIDTH + c] - (d->subtract_bias ? (double)d->b_dec[c] : 0.0));
        worst = df_test_worse(worst, fabs(sum / (double)n + (double)d->b_enc[j]));
    }
    return worst;
}

/* Whether the encoder subtracts b_dec or not. */
static void centred_start(void **state) {
    (void)state;
    for (int i = 0; i < 2; i++) {
        df_train_options o = trainings[3];
        size_t n = 0;
        o.steps = 1;
        o.lr = 0.0;
        o.init_bias_enc = DF_INIT_ENC_CENTRED;
        o.subtract_bias = i == 1;
        df_test_all(world, train(world, "centred", &o) == DF_OK);
        df_dict *d = load(self, "centred");
        float *x = scaled_rows(d, &n);
        df_test_all(world, largest_mean(d, x, n) <= 1e-6 && fabsf(d->b_enc[0]) > 1e-4f);
        df_free(x);
        df_dict_free(&d);
        o.init_fit = true;
        df_test_all(world, train(world, "wrong", &o) == DF_USAGE);
        df_test_all(world, strstr(df_error_text(), "centred biases") != NULL);
        df_error_clear();
    }
}

/* Decoder rows begin as 0, the encoder as it would with others; and they learn. */
static void zero_start(void **state) {
    (void)state;
    df_train_options o = trainings[3];
    double worst = 0.0;
    o.init_zero = true;
    df_test_all(world, train(world, "wrong", &o) == DF_USAGE);
    df_test_all(world, strstr(df_error_text(), "have no norm") != NULL);
    df_error_clear();
    o.code_norm = DF_NORM_NONE;
    o.init_encoder = 0.5;
    df_test_all(world, same_on_all(&o));
    df_dict *d = load(self, "all");
    for (size_t j = 0; j < LATENTS; j++)
        worst = df_test_worse(worst, df_sum_squares(d->w_dec + j * WIDTH, WIDTH));
    df_test_all(world, worst > 1e-3);
    df_dict_free(&d);
    o.steps = 1;
    o.lr = 0.0;
    df_test_all(world, train(world, "zero", &o) == DF_OK);
    d = load(self, "zero");
    for (size_t i = 0; i < LATENTS * WIDTH; i++) df_test_all(world, d->w_dec[i] == 0.0f);
    worst = fabs(df_sum_squares(d->w_enc, WIDTH) - 0.25);
    df_test_all(world, worst < 1e-6);
    df_dict_free(&d);
}

/* The reconstruction of the first step, from the file's history. */
static double first_reconstruction(const char *name) {
    char *path = df_format("%s/%s.dict.h5", folder, name);
    df_reader *file = NULL;
    double value = 0.0;
    assert_ok(df_reader_open(path, NULL, &file));
    assert_ok(df_reader_rows(file, "/history/reconstruction", 0, 1, true, &value));
    df_reader_close(&file);
    df_free(path);
    return value;
}

/* mean over rows of sum (x - mean x)^2 of the rows trained on, which are fewer than a sample. */
static double row_variance(const char *name) {
    size_t n = 0;
    df_dict *d = load(self, name);
    float *x = scaled_rows(d, &n);
    double sum = 0.0;
    for (size_t c = 0; c < WIDTH; c++) {
        double mean = 0.0;
        for (size_t r = 0; r < n; r++) mean += (double)x[r * WIDTH + c] / (double)n;
        for (size_t r = 0; r < n; r++) sum += pow((double)x[r * WIDTH + c] - mean, 2) / (double)n;
    }
    df_free(x);
    df_dict_free(&d);
    return sum;
}

/* The first batch's sum of squares, divided by the variance of all rows. */
static void divides_by_the_samples_variance(void **state) {
    (void)state;
    df_train_options o = trainings[3];
    o.steps = 1;
    df_test_all(world, train(world, "divided", &o) == DF_OK);
    o.objective.reconstruction = DF_SQUARED_SUM;
    df_test_all(world, train(world, "squared", &o) == DF_OK);
    double ratio = first_reconstruction("squared") / first_reconstruction("divided");
    df_test_all(world, fabs(ratio / row_variance("squared") - 1.0) < 1e-6);
}

static const struct CMUnitTest tests[] = {cmocka_unit_test(same_on_any_ranks),
                                          cmocka_unit_test(resumes),
                                          cmocka_unit_test(prefixes_are_kept),
                                          cmocka_unit_test(median_balances),
                                          cmocka_unit_test(uniform_start),
                                          cmocka_unit_test(starts_from_data),
                                          cmocka_unit_test(zero_start),
                                          cmocka_unit_test(centred_start),
                                          cmocka_unit_test(divides_by_the_samples_variance)};

DF_TEST_MPI_MAIN(world, tests, set_up, training_close)
