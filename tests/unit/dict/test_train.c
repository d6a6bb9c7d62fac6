/* Training: the same dictionary on any number of ranks and after any stop; what is wrong with
 * inputs and checkpoints is found and named. */
#include "training.h"

enum { ROWS = 1200, LATENTS = 96, BATCH = 64, STEPS = 60 };
enum { SHIFTED = 2, DAMAGED = 3 }; // of acts

static int set_up(void **state) {
    static const synthetic files[] = {
        {"a.acts.h5", "a", ROWS, 40, 12, .bad_row = -1},
        {"b.acts.h5", "b", ROWS, 40, 20, .bad_row = -1},
        {"shifted.acts.h5", "b", ROWS, 40, 20, .token_shift = 1, .bad_row = -1},
        {"nan.acts.h5", "b", ROWS, 40, 20, .bad_row = 5}};
    (void)state;
    training_open("train", files, 4, 2);
    return 0;
}

static const df_train_options common = {TRAINING_BATCHTOPK, .steps = STEPS};

/* Trains on the training rows of two files; output and checkpoints as the options say. */
static df_status train_files(df_acts *const *files, const df_train_options *o) {
    df_rows *rows = NULL;
    df_status status =
        df_agree(world, df_rows_open(&(df_rows_files){files, site, 1, 2}, &usual, &rows));
    if (status == DF_OK) status = df_train(world, kernels, rows, o);
    df_rows_close(&rows);
    return status;
}

/* ---- tests ---------------------------------------------------------------------------------- */

static void same_on_any_ranks(void **state) {
    (void)state;
    uint64_t steps[8];
    df_test_all(world, same_on_all(&common));
    df_test_all(world, checkpoints("all", STEPS, steps, 8) == 0);
}

/* An encoder scaled to reconstruct rows of norm 1 as such, on average: rows drawn here, another
 * reconstruction (plain loops, no learning rate). */
static void encoder_fits_unit_rows(void **state) {
    (void)state;
    df_train_options o = common;
    df_dict *d = NULL;
    o.activation = DF_TOPK;
    o.init_fit = true;
    o.steps = 1, o.lr = 0.0;
    df_test_all(world, same_on_all(&o));
    char *path = df_format("%s/all.dict.h5", folder);
    df_test_all(world, df_dict_load(self, path, &d) == DF_OK);
    double mean = 0.0;
    for (size_t r = 0; r < BATCH; r++) {
        double x[32], length = 0.0, f[LATENTS], y[32] = {0}, squares = 0.0;
        for (size_t i = 0; i < 32; i++) {
            x[i] = df_random_normal(o.seed, DF_STREAM_INIT_FIT, r * 32 + i);
            length += x[i] * x[i];
        }
        for (size_t j = 0; j < LATENTS; j++) {
            f[j] = 0.0;
            for (size_t i = 0; i < 32; i++)
                f[j] += (double)d->w_enc[j * 32 + i] * x[i] / sqrt(length);
        }
        for (size_t k = 0; k < o.k; k++) { // by the code times the norms of both parts
            size_t best = 0;
            for (size_t j = 0; j < LATENTS; j++)
                if (f[j] * df_dict_code_norm(d, j) > f[best] * df_dict_code_norm(d, best)) best = j;
            for (size_t i = 0; i < 32 && f[best] > 0.0; i++)
                y[i] += f[best] * (double)d->w_dec[best * 32 + i];
            f[best] = 0.0;
        }
        for (size_t i = 0; i < 32; i++) squares += y[i] * y[i];
        mean += sqrt(squares) / BATCH;
    }
    df_test_all(world, fabs(mean - 1.0) < 1e-5);
    o.init_bias_enc = DF_INIT_ENC_QUANTILE;
    df_test_all(world, train(world, "both", &o) == DF_USAGE);
    df_error_clear();
    df_dict_free(&d);
    df_free(path);
}

/* Options that differ from `common` by an activation and an objective. */
static df_train_options with(df_activation activation, df_objective objective) {
    df_train_options o = common;
    o.steps = 12;
    o.activation = activation;
    o.objective = objective;
    o.init_threshold = 0.05;
    o.penalty_warmup = 6;
    return o;
}

static df_train_options jumprelu(void) {
    return with(DF_JUMPRELU, (df_objective){.penalty = DF_PENALTY_L0_TARGET,
                                            .weight = 0.3,
                                            .target_l0 = 4,
                                            .bandwidth = 0.1,
                                            .preact = 1e-3});
}

static df_train_options gated(void) {
    return with(DF_GATED, (df_objective){.penalty = DF_PENALTY_L1, .weight = 0.02});
}

static df_train_options annealed(void) {
    df_train_options o = with(DF_RELU, (df_objective){.penalty = DF_PENALTY_LP,
                                                      .weight = 0.02,
                                                      .power = 1,
                                                      .reconstruction = DF_UNSQUARED});
    o.anneal = (df_anneal_plan){.start = 2, .end = 12, .from = 1, .to = 0.5, .updates = 5};
    return o;
}

static void activations_and_norms_agree(void **state) {
    (void)state;
    const df_train_options all[] = {
        with(DF_RELU, (df_objective){.penalty = DF_PENALTY_L1, .weight = 0.01}),
        with(DF_TOPK, (df_objective){0}),
        with(DF_BATCHTOPK, (df_objective){0}),
        jumprelu(),
        gated(),
        annealed()};
    for (int i = 0; i < 6; i++) {
        df_train_options o = all[i];
        o.code_norm = (df_code_norm)(i % 3);
        o.unit_decoder = i == 1;
        df_test_all(world, same_on_all(&o));
    }
}

/* Thresholds, gates and the state of annealing survive a stop. */
static void objectives_resume(void **state) {
    (void)state;
    df_train_options all[] = {jumprelu(), gated(), annealed()};
    for (int i = 0; i < 3; i++) {
        df_train_options o = all[i];
        o.steps = STEPS;
        o.anneal.end = o.anneal.updates > 0 ? STEPS : 0;
        const char *name = (const char *const[]){"jump", "gate", "power"}[i];
        df_test_all(world, resumes_to_the_same(name, &o, 5));
    }
}

static void objectives_are_checked(void **state) {
    (void)state;
    df_train_options o = annealed();
    o.anneal.end = 4;
    df_test_all(world, df_test_fails(train(world, "none", &o), DF_USAGE, "anneal"));
    o = annealed();
    o.anneal.to = 0;
    df_test_all(world, df_test_fails(train(world, "none", &o), DF_USAGE, "anneal"));
    o = annealed();
    o.objective.penalty = DF_PENALTY_L1;
    df_test_all(world, df_test_fails(train(world, "none", &o), DF_USAGE, "anneal"));
    o = jumprelu();
    o.init_threshold = 0;
    df_test_all(world, df_test_fails(train(world, "none", &o), DF_USAGE, "threshold"));
    o = jumprelu();
    o.objective.bandwidth = 0;
    df_test_all(world, df_test_fails(train(world, "none", &o), DF_USAGE, "bandwidth"));
}

static void bad_inputs_are_named(void **state) {
    (void)state;
    char *output = in_folder("bad.dict.h5"), *prefix = in_folder("bad");
    df_train_options o = common;
    o.output = output;
    o.checkpoint = prefix;
    df_acts *nan[2] = {acts[0], acts[DAMAGED]}, *apart[2] = {acts[0], acts[SHIFTED]};
    df_test_all(world, df_test_fails(train_files(nan, &o), DF_BAD_INPUT, "nan.acts.h5"));
    df_test_all(world, df_test_fails(train_files(apart, &o), DF_BAD_INPUT, "shifted.acts.h5"));
    o.k = LATENTS + 1;
    df_test_all(world, df_test_fails(train_files(acts, &o), DF_USAGE, "k is 97"));
    o.k = 3;
    o.lr = 1e30; // diverges: the loss is no number any more
    df_test_all(world, df_test_fails(train_files(acts, &o), DF_FAILED, "training step"));
    df_test_all(world, !df_file_exists(output));
    df_free(output);
    df_free(prefix);
}

/* A file that cannot be written fails on all ranks. */
static void unwritable_output(void **state) {
    (void)state;
    df_train_options o = common;
    o.steps = 3;
    o.output = "/nonexistent/x.dict.h5";
    o.checkpoint = "/nonexistent/x";
    df_status status = train_files(acts, &o);
    df_test_all(world,
                status != DF_OK && strstr(df_error_text(), "/nonexistent/x.dict.h5") != NULL);
    df_error_clear();
}

static df_train_plan plan_of(const df_train_options *o, int rank) {
    const df_train_member only = {.options = o};
    const df_acts_filter filter = {.bos = true, .first = 1};
    df_train_plan plan = {.rank = rank};
    df_rows *rows = NULL;
    df_test_all(world, df_rows_open(&(df_rows_files){acts, site, 1, 2}, &filter, &rows) == DF_OK);
    df_test_all(world, df_train_plan_rank(&only, 1, rows, df_kernels_spare_screen(kernels),
                                          df_comm_size(world), &plan) == DF_OK);
    df_rows_close(&rows);
    return plan;
}

static void plan_is_what_is_used(void **state) {
    (void)state;
    df_train_options o = common;
    o.latents = 2048;
    o.batch = 256;
    o.steps = 3;
    size_t planned = plan_of(&o, 0).bytes;
    size_t before = df_memory_now();
    df_memory_reset_peak();
    df_test_all(world, train(world, "plan", &o) == DF_OK);
    double used = (double)(df_memory_peak() - before);
    if (df_comm_rank(world) == 0) print_message("planned %zu, used %.0f bytes\n", planned, used);
    df_test_all(world, df_comm_rank(world) != 0 || fabs(used / (double)planned - 1) < 0.02);
}

/* No memory at any point of a run: one status on all ranks, nothing hangs or crashes. */
static void failing_memory(void **state) {
    (void)state;
    char *output = in_folder("memory.dict.h5"), *prefix = in_folder("memory");
    df_train_options o = common;
    o.steps = 3;
    o.output = output;
    o.checkpoint = prefix;
    for (int64_t calls = 0; calls < 150; calls += 5) {
        if (df_comm_rank(world) == df_comm_size(world) - 1) df_memory_fail_after(calls);
        df_status status = train_files(acts, &o);
        df_memory_fail_after(-1);
        df_error_clear();
        df_test_alike(world, status);
    }
    df_free(output);
    df_free(prefix);
}

static void gathers_scaled_rows(void **state) {
    (void)state;
    static char name[] = "blocks.0.hook_resid_post", a_name[] = "a", b_name[] = "b";
    const df_dict_site sites[2] = {{name, a_name, 0, 12, 2.0, true, true, DF_TOKEN_NONE},
                                   {name, b_name, 12, 20, 0.5, true, true, DF_TOKEN_NONE}};
    df_dict *dict = NULL;
    uint64_t rows[3] = {900, 3, 4};
    float out[3 * 32], a[12], b[20];
    df_test_all(world, df_dict_new(world, LATENTS, sites, 2, &dict) == DF_OK);
    df_test_all(world, df_rows_gather(dict, acts, site, rows, 3, out) == DF_OK);
    bool same = true;
    for (int r = 0; r < 3; r++) {
        same = same && df_acts_read(acts[0], 0, rows[r], 1, a, 12) == DF_OK &&
               df_acts_read(acts[1], 0, rows[r], 1, b, 20) == DF_OK;
        for (int c = 0; c < 32; c++)
            same = same && out[r * 32 + c] == (c < 12 ? 2.0f * a[c] : 0.5f * b[c - 12]);
    }
    df_test_all(world, same);
    df_dict_free(&dict);
}

/* A column of the history of NAME.dict.h5; new memory. */
static double *history_of(const char *name, const char *column, size_t *n) {
    char *file = df_format("%s/%s.dict.h5", folder, name);
    char *path = df_format("/history/%s", column);
    uint64_t shape[DF_MAX_DIMS] = {0};
    df_reader *reader = NULL;
    double *out = NULL;
    df_type type;
    bool good = df_reader_open(file, "darkfield-dictionary", &reader) == DF_OK &&
                df_reader_find(reader, path, 1, &type, shape) == DF_OK &&
                df_reader_all(reader, path, DF_F64, -1, (void **)&out) == DF_OK;
    *n = (size_t)shape[0];
    df_reader_close(&reader);
    df_free(file);
    df_free(path);
    df_test_all(world, good);
    return out;
}

static void loss_falls(void **state) {
    (void)state;
    size_t n = 0;
    df_test_all(world, train(world, "falls", &common) == DF_OK);
    double *fvu = history_of("falls", "fvu.a", &n);
    df_test_all(world, n == STEPS / 7 + 1 && fvu[n - 1] < 0.5 * fvu[0]);
    df_free(fvu);
}

/* Rows of a coarse history are the means of those of a fine one; an FVU lies between. */
static void history_holds_means(void **state) {
    (void)state;
    static const char *const means[] = {"loss", "reconstruction", "sparsity", "auxiliary", "l0"};
    df_train_options o = common;
    o.log_every = 1;
    df_test_all(world, train(world, "fine", &o) == DF_OK);
    o.log_every = 7;
    df_test_all(world, train(world, "coarse", &o) == DF_OK);
    for (size_t m = 0; m < 6; m++) {
        const char *column = m < 5 ? means[m] : "fvu.b";
        size_t n = 0, rows = 0;
        double *fine = history_of("fine", column, &n),
               *coarse = history_of("coarse", column, &rows);
        bool good = n == STEPS && rows == STEPS / 7 + 1;
        for (size_t r = 0; r < rows && good; r++) {
            size_t end = (r + 1) * 7 < STEPS ? (r + 1) * 7 : STEPS;
            double sum = 0, least = INFINITY, most = -INFINITY;
            for (size_t i = r * 7; i < end; i++) {
                sum += fine[i];
                least = fmin(least, fine[i]);
                most = fmax(most, fine[i]);
            }
            double mean = sum / (double)(end - r * 7);
            good = m < 5 ? fabs(coarse[r] - mean) <= 1e-12 * fabs(mean)
                         : coarse[r] >= least && coarse[r] <= most;
        }
        df_test_all(world, good);
        df_free(fine);
        df_free(coarse);
    }
}

/* A run that blows up names the step and the last good checkpoint, which is still there. */
static void a_loss_that_is_not_finite_stops(void **state) {
    (void)state;
    df_train_options o = common;
    uint64_t steps[8];
    o.activation = DF_RELU;
    o.lr = 1e18;
    o.warmup = 0;
    o.checkpoint_seconds = 1e-9;
    df_status status = train(world, "blown", &o);
    char text[1024];
    snprintf(text, sizeof text, "%s", df_error_text());
    df_error_clear();
    size_t n = checkpoints("blown", STEPS, steps, 8);
    char *last = df_format("blown.%" PRIu64 ".ckpt.h5", n > 0 ? steps[0] : 0);
    char *step = df_format("taking training step %" PRIu64, n > 0 ? steps[0] + 1 : 0);
    bool told = strstr(text, "not finite") != NULL || strstr(text, "range of fp32") != NULL;
    df_test_all(world, status == DF_FAILED && n > 0 && told);
    df_test_all(world, strstr(text, last) != NULL && strstr(text, step) != NULL);
    char *output = in_folder("blown.dict.h5");
    df_test_all(world, !df_file_exists(output));
    df_free(output);
    df_free(last);
    df_free(step);
}

static df_traffic traffic_of(const df_train_options *o) {
    df_traffic before = df_comm_traffic(world);
    df_status status = train(world, "traffic", o);
    df_traffic after = df_comm_traffic(world);
    df_test_all(world, status == DF_OK);
    return (df_traffic){after.bytes - before.bytes, after.messages - before.messages};
}

/* Twelve more steps cost twelve times what the model says of one. */
static void steps_cost_what_the_model_says(void **state) {
    (void)state;
    df_train_options o = common;
    o.activation = DF_RELU; // TopK may exchange its winners twice
    o.aux = 0;
    o.dead_rows = 1000000;
    o.log_every = 1000;
    o.steps = 6;
    df_traffic few = traffic_of(&o);
    o.steps = 18;
    df_traffic many = traffic_of(&o);
    df_cost step = plan_of(&o, df_comm_rank(world)).cost;
    df_test_all(world, many.bytes - few.bytes == 12 * step.traffic.bytes);
    df_test_all(world, many.messages - few.messages == 12 * step.traffic.messages);
}

static const struct CMUnitTest tests[] = {cmocka_unit_test(same_on_any_ranks),
                                          cmocka_unit_test(encoder_fits_unit_rows),
                                          cmocka_unit_test(activations_and_norms_agree),
                                          cmocka_unit_test(objectives_resume),
                                          cmocka_unit_test(objectives_are_checked),
                                          cmocka_unit_test(loss_falls),
                                          cmocka_unit_test(bad_inputs_are_named),
                                          cmocka_unit_test(unwritable_output),
                                          cmocka_unit_test(plan_is_what_is_used),
                                          cmocka_unit_test(failing_memory),
                                          cmocka_unit_test(gathers_scaled_rows),
                                          cmocka_unit_test(steps_cost_what_the_model_says),
                                          cmocka_unit_test(history_holds_means),
                                          cmocka_unit_test(a_loss_that_is_not_finite_stops)};

DF_TEST_MPI_MAIN(world, tests, set_up, training_close)
