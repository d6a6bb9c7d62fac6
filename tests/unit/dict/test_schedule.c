/* Schedules as a training records them: the learning rate against PyTorch's schedulers
 * (tests/golden/schedule_oracle.py), k and the sparsity term against their formulas. */
#include "training.h"

enum { ROWS = 600, STEPS = 60, WARMUP = 12, DECAY = 20, BATCH = 32 };

static int set_up(void **state) {
    static const synthetic file = {"a.acts.h5", "a", ROWS, 20, 16, .bad_row = -1};
    (void)state;
    training_open("schedule", &file, 1, 1);
    return 0;
}

static const df_train_options common = {.latents = 64,
                                        .k = 3,
                                        .batch = BATCH,
                                        .steps = STEPS,
                                        .seed = 5,
                                        .activation = DF_TOPK,
                                        .code_norm = DF_NORM_SUM,
                                        .init_norm = 1,
                                        .lr = 0.004,
                                        .beta1 = 0.9,
                                        .beta2 = 0.999,
                                        .epsilon = 1e-8,
                                        .warmup = WARMUP,
                                        .decay = DECAY,
                                        .lr_end = 0.1,
                                        .dead_rows = 1000000,
                                        .log_every = 1,
                                        .resolved_job = "job: one\n",
                                        .facts = DF_TEST_FACTS};

/* Trains on all training rows, none skipped. */
static df_status train_on_all(const df_train_options *o) {
    const df_acts_filter filter = {.part = 0};
    df_rows *rows = NULL;
    df_status status = df_rows_open(&(df_rows_files){acts, site, 1, 1}, &filter, &rows);
    status = df_agree(world, status);
    if (status == DF_OK) status = train_on(world, rows, "schedule", o);
    df_rows_close(&rows);
    return status;
}

/* Trains and reads one column of the history, [STEPS]. */
static void history_of(df_train_options o, const char *column, double out[static STEPS]) {
    char *output = in_folder("schedule.dict.h5"), *path = df_format("/history/%s", column);
    double *values = NULL;
    df_reader *file = NULL;
    df_test_all(world, train_on_all(&o) == DF_OK);
    df_test_all(world, df_reader_open(output, "darkfield-dictionary", &file) == DF_OK);
    df_test_all(world, df_reader_all(file, path, DF_F64, STEPS, (void **)&values) == DF_OK);
    memcpy(out, values, STEPS * sizeof *out);
    df_free(values);
    df_reader_close(&file);
    df_free(output);
    df_free(path);
    df_barrier(world);
}

static void rates_are_torchs(void **state) {
    (void)state;
    const char *const names[3] = {"torch", "zero", "cosine"};
    df_train_options o[3] = {common, common, common};
    json_t *golden = df_test_json(DF_SOURCE_DIR "/tests/golden/schedule_oracle.json");
    o[0].warmup_law = DF_WARMUP_TORCH;
    o[1].warmup_law = DF_WARMUP_ZERO;
    o[1].lr_end = 0;
    o[2].cosine = true;
    for (int i = 0; i < 3; i++) {
        double rate[STEPS], worst = 0.0;
        history_of(o[i], "lr", rate);
        const json_t *wanted = json_object_get(golden, names[i]);
        for (size_t s = 0; s < STEPS; s++)
            worst =
                df_test_worse(worst, fabs(rate[s] - json_number_value(json_array_get(wanted, s))));
        df_test_all(world, json_array_size(wanted) == STEPS && worst <= 1e-15);
    }
    json_decref(golden);
}

static void k_is_annealed(void **state) {
    (void)state;
    df_train_options o = common;
    double active[STEPS];
    o.k_start = 16;
    o.k_steps = 26;
    o.activation = DF_BATCHTOPK; // a row may have fewer than 16 positive latents, a batch has not
    history_of(o, "l0", active);
    for (int s = 0; s < STEPS; s++) { // dictionary_learning's int(a (1 - ratio) + b ratio)
        double ratio = s < 26 ? s / 26.0 : 1.0;
        df_test_all(world, active[s] == floor(16.0 * (1.0 - ratio) + 3.0 * ratio));
    }
    const char *const names[3] = {"k_up", "k_line", "k_nearest"};
    json_t *golden = df_test_json(DF_SOURCE_DIR "/tests/golden/schedule_oracle.json");
    for (size_t i = 0; i < 3; i++) {
        const json_t *wanted = json_object_get(golden, names[i]);
        o.k_curve = i == 0 ? 3.0 : 0.0;
        o.k_round = i < 2 ? DF_K_UP : DF_K_NEAREST;
        history_of(o, "l0", active);
        for (size_t s = 0; s < STEPS; s++)
            df_test_all(world, active[s] == json_number_value(json_array_get(wanted, s)));
    }
    json_decref(golden);
    o.k_start = 65;
    df_test_all(world, train_on_all(&o) == DF_USAGE);
    df_test_all(world, strstr(df_error_text(), "k_start is 65") != NULL);
    df_error_clear();
}

static void sparsity_warms_up(void **state) {
    (void)state;
    df_train_options o = common;
    double loss[STEPS], error[STEPS], sparsity[STEPS];
    o.activation = DF_RELU;
    o.objective = (df_objective){.penalty = DF_PENALTY_L1, .weight = 0.05};
    o.penalty_warmup = 8;
    o.warmup_law = DF_WARMUP_ZERO;
    history_of(o, "loss", loss);
    history_of(o, "reconstruction", error);
    history_of(o, "sparsity", sparsity);
    for (int s = 0; s < STEPS; s++) {
        double factor = s < 8 ? s / 8.0 : 1.0;
        df_test_all(world, fabs(loss[s] - error[s] - 0.05 * factor * sparsity[s]) <= 1e-12);
    }
}

static const struct CMUnitTest tests[] = {cmocka_unit_test(rates_are_torchs),
                                          cmocka_unit_test(k_is_annealed),
                                          cmocka_unit_test(sparsity_warms_up)};

DF_TEST_MPI_MAIN(world, tests, set_up, training_close)
