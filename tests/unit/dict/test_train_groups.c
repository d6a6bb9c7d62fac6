/* Trainings by data groups: the dictionary depends on their number alone, whatever the ranks, the
 * order of rows and the stops; what cannot go with them is refused before anything runs. */
#include "training.h"

enum { ROWS = 1200, STEPS = 24 };

static int set_up(void **state) {
    static const synthetic files[] = {{"a.acts.h5", "a", ROWS, 40, 12, .bad_row = -1},
                                      {"b.acts.h5", "b", ROWS, 40, 20, .bad_row = -1}};
    (void)state;
    training_open("train_groups", files, 2, 2);
    return 0;
}

static df_train_options with(df_activation activation, size_t groups) {
    df_train_options o = {TRAINING_BATCHTOPK, .steps = STEPS, .data_groups = groups};
    o.activation = activation;
    o.init_threshold = 0.05;
    o.dead_rows = 300;
    if (activation == DF_RELU)
        o.objective = (df_objective){.penalty = DF_PENALTY_L1, .weight = 0.01};
    if (activation == DF_JUMPRELU)
        o.objective = (df_objective){.penalty = DF_PENALTY_L0, .weight = 0.01, .bandwidth = 0.1};
    return o;
}

static void same_on_any_ranks(void **state) {
    (void)state;
    for (size_t groups = 1; groups <= 4; groups++)
        for (df_activation a = DF_RELU; a <= DF_GATED; a++) {
            df_train_options o = with(a, groups);
            df_test_all(world, same_on_all(&o));
        }
}

/* Rows come to the group that needs them out of every rank's part of a shuffle buffer, and in the
 * order of a file. */
static void same_in_any_order_of_rows(void **state) {
    (void)state;
    for (size_t groups = 2; groups <= 4; groups++)
        for (df_shuffle how = DF_SHUFFLE_EXACT; how <= DF_SHUFFLE_GLOBAL; how++) {
            df_train_options o = with(DF_BATCHTOPK, groups);
            o.shuffle = how;
            o.clip = 1.0;
            o.centre = true;
            df_test_all(world, same_on_all(&o));
        }
}

/* Runs of the same options differ in rounding alone. */
static void losses_are_those_of_one_group(void **state) {
    (void)state;
    df_train_options o = with(DF_RELU, 1);
    df_test_all(world, train(world, "one", &o) == DF_OK);
    o.data_groups = 4;
    df_test_all(world, train(world, "four", &o) == DF_OK);
    df_dict *one = load(self, "one"), *four = load(self, "four");
    double far = 0.0;
    for (size_t i = 0; i < one->latents * one->width; i++)
        far = df_test_worse(far, fabs((double)one->w_dec[i] - (double)four->w_dec[i]));
    df_test_all(world, far < 1e-3);
    df_test_all(world, df_comm_rank(world) != 0 || digest_of("one") != digest_of("four"));
    df_dict_free(&one);
    df_dict_free(&four);
}

/* Stopped on all ranks, continued on one; stopped on two, continued on all. */
static void resumes_on_other_ranks(void **state) {
    (void)state;
    df_comm *two = NULL;
    df_train_options o = with(DF_BATCHTOPK, 2);
    df_test_all(world, resumes_to_the_same("wide", &o, 5));
    df_test_all(world, df_comm_split(world, df_comm_rank(world) < 2 ? 0 : -1, 0, &two) == DF_OK);
    bool stopped = two == NULL || train_on_and_stop(two, data, "pair", &o, 5) == DF_STOPPED;
    df_error_clear();
    df_test_all(world, stopped);
    df_test_all(world, train(world, "pair", &o) == DF_OK);
    df_test_all(world, df_comm_rank(world) != 0 || digest_of("pair") == digest_of("whole"));
    df_comm_free(&two);
}

/* Members of a sweep may differ in their groups: each is what it is alone. */
static void members_differ(void **state) {
    (void)state;
    static const size_t one_site[1] = {1};
    df_train_options o[3] = {with(DF_TOPK, 1), with(DF_TOPK, 2), with(DF_BATCHTOPK, 3)};
    df_train_member m[3] = {
        {"m0", &o[0], NULL, 0}, {"m1", &o[1], NULL, 0}, {"m2", &o[2], one_site, 1}};
    uint64_t alone[3], together[3];
    for (size_t i = 0; i < 3; i++) {
        o[i].output = df_format("%s/m%zu.dict.h5", folder, i);
        o[i].checkpoint = df_format("%s/m%zu", folder, i);
        const df_train_member only = {NULL, &o[i], m[i].site, m[i].sites};
        df_test_all(world, df_train_sweep(world, kernels, data, &only, 1) == DF_OK);
        alone[i] = df_digest(o[i].output, &together[0]) == DF_OK ? together[0] : 0;
    }
    df_barrier(world);
    df_test_all(world, df_train_sweep(world, kernels, data, m, 3) == DF_OK);
    for (size_t i = 0; i < 3; i++) {
        df_test_all(world, df_digest(o[i].output, &together[i]) == DF_OK);
        df_test_all(world, alone[i] == together[i]);
    }
    df_barrier(world);
    for (size_t i = 0; i < 3; i++) {
        df_free((char *)o[i].output);
        df_free((char *)o[i].checkpoint);
    }
}

static void refuse(df_train_options o, const char *word) {
    df_test_all(world, df_train_check(&o) == DF_USAGE && strstr(df_error_text(), word) != NULL);
    df_error_clear();
}

static void what_does_not_go_is_named(void **state) {
    (void)state;
    df_train_options o = with(DF_TOPK, 2);
    df_test_all(world, df_train_check(&o) == DF_OK);
    o.resample = 5, refuse(o, "resample");
    o = with(DF_TOPK, 2), o.init_fit = true, refuse(o, "init_encoder_fit");
    o = with(DF_TOPK, 2), o.code_norm = DF_NORM_DECOUPLED, refuse(o, "decoupled");
    o = with(DF_TOPK, 2), o.kind = DF_SKIP_TRANSCODER, o.subtract_bias = false, refuse(o, "skip");
    o = with(DF_TOPK, DF_MAX_RUNS + 1), o.batch = 4096, refuse(o, "1025 data groups");
    o = with(DF_TOPK, 65), refuse(o, "64 rows");
    o = with(DF_TOPK, 2), o.fired_selected = true, refuse(o, "fired selected");
    o = with(DF_RELU, 2);
    o.objective =
        (df_objective){.penalty = DF_PENALTY_LP, .weight = 0.1, .power = 0.9, .rooted = true};
    refuse(o, "power_root");
}

static void plan_is_what_is_used(void **state) {
    (void)state;
    static const size_t runs[] = {2, 3, 4, 5, 6, 10}; // of 10, groups of 2 have 2 and 3 subtrees
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        df_train_options o = with(runs[i] % 2 == 0 ? DF_BATCHTOPK : DF_TOPK, runs[i]);
        if (runs[i] == 4) o.prefixes = 2, o.prefix[0] = 512, o.prefix[1] = 2048;
        o.latents = 2048;
        o.batch = 256;
        o.steps = 3;
        df_test_all(world, takes_what_is_planned(&o));
    }
}

static void failing_memory(void **state) {
    (void)state;
    char *output = in_folder("memory.dict.h5"), *prefix = in_folder("memory");
    df_train_options o = with(DF_BATCHTOPK, 4);
    o.steps = 3;
    o.output = output;
    o.checkpoint = prefix;
    fail_memory_anywhere(&o, 170);
    df_free(output);
    df_free(prefix);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(same_on_any_ranks),
    cmocka_unit_test(same_in_any_order_of_rows),
    cmocka_unit_test(losses_are_those_of_one_group),
    cmocka_unit_test(resumes_on_other_ranks),
    cmocka_unit_test(members_differ),
    cmocka_unit_test(what_does_not_go_is_named),
    cmocka_unit_test(plan_is_what_is_used),
    cmocka_unit_test(failing_memory),
};

DF_TEST_MPI_MAIN(world, tests, set_up, training_close)
