/* Sweeps: every member becomes the dictionary that it becomes alone, on any number of ranks and
 * after any stop, though it shares rows, checkpoints' times and failures with the others. */
#include "training.h"

#include <math.h>
#include <unistd.h>

enum { ROWS = 1200, STEPS = 40, MOST = 7 };

static const size_t both[2] = {0, 1}, reversed[2] = {1, 0};

static char *file_of(const char *prefix, const char *name, const char *ending) {
    return df_format("%s/%s-%s%s", folder, prefix, name, ending);
}

static df_status open_rows(const size_t *which, size_t n, df_rows **out) {
    df_acts *files[2];
    for (size_t s = 0; s < n; s++) files[s] = acts[which[s]];
    return df_rows_open(&(df_rows_files){files, site, 1, n}, &usual, out);
}

static int set_up(void **state) {
    static const synthetic files[] = {{"a.acts.h5", "a", ROWS, 40, 12, .bad_row = -1},
                                      {"b.acts.h5", "b", ROWS, 40, 20, .bad_row = -1}};
    (void)state;
    training_open("sweep", files, 2, 2);
    return 0;
}

/* ---- members -------------------------------------------------------------------------------- */

static const df_train_options common = {
    TRAINING_COMMON,       .latents = 64, .batch = 64,     .steps = STEPS,   .order_seed = 3,
    .activation = DF_TOPK, .warmup = 10,  .aux = 1.0 / 32, .dead_rows = 600, .buffer_rows = 300};

/* What can be swept: k, width, seed, penalty, activation, kind, sites, steps. */
static void make(df_train_options o[static MOST], df_train_member m[static MOST]) {
    static const char *const names[MOST] = {"k3", "k5", "a", "b", "ba", "gated", "short"};
    for (size_t i = 0; i < MOST; i++) {
        o[i] = common;
        m[i] = (df_train_member){names[i], &o[i], NULL, 0};
    }
    o[1].k = 5;
    o[1].latents = 96;
    o[1].seed = 6;
    m[2].site = both; // an SAE of the first site
    m[2].sites = 1;
    o[2].activation = DF_BATCHTOPK;
    m[3].site = reversed; // and of the second
    m[3].sites = 1;
    o[3].init_bias = DF_INIT_MEDIAN;
    m[4].site = reversed; // reads the second, writes the first
    m[4].sites = 2;
    o[4].kind = DF_SKIP_TRANSCODER;
    o[4].inputs = 1;
    o[4].subtract_bias = false;
    o[5].activation = DF_GATED;
    o[5].objective = (df_objective){.penalty = DF_PENALTY_L1, .weight = 0.02};
    o[6].steps = STEPS / 2;
    o[6].ema = 0.9;
}

/* Files of member i: FOLDER/PREFIX-NAME.*; frees what it gave before. */
static void name_files(const char *prefix, df_train_options *o, const df_train_member *m,
                       size_t n) {
    for (size_t i = 0; i < n; i++) {
        o[i].output = file_of(prefix, m[i].name, ".dict.h5");
        o[i].checkpoint = file_of(prefix, m[i].name, "");
    }
}

static void free_files(df_train_options *o, size_t n) {
    for (size_t i = 0; i < n; i++) {
        df_free((char *)o[i].output);
        df_free((char *)o[i].checkpoint);
    }
}

static uint64_t digest_of_member(const char *prefix, const char *name) {
    char *file = df_format("%s-%s", prefix, name);
    uint64_t hash = digest_of(file);
    df_error_clear();
    df_free(file);
    return hash;
}

/* What one rank makes of each member alone, of a data set of its own sites. */
static const uint64_t *alone(void) {
    static uint64_t hash[MOST];
    df_train_options o[MOST];
    df_train_member m[MOST];
    make(o, m);
    name_files("alone", o, m, MOST);
    for (size_t i = 0; i < MOST && hash[MOST - 1] == 0 && df_comm_rank(world) == 0; i++) {
        df_rows *own = NULL;
        bool part = m[i].site != NULL;
        df_status status = open_rows(part ? m[i].site : both, part ? m[i].sites : 2, &own);
        if (status == DF_OK) status = df_train(self, kernels, own, &o[i]);
        hash[i] = status == DF_OK ? digest_of_member("alone", m[i].name) : 0;
        df_rows_close(&own);
    }
    free_files(o, MOST);
    df_broadcast(world, 0, hash, sizeof hash);
    for (size_t i = 0; i < MOST; i++) df_test_all(world, hash[i] != 0);
    return hash;
}

/* The first n members, `first` left out, on the ranks of comm. */
static df_status sweep(df_comm *comm, const char *prefix, size_t first, size_t n) {
    df_train_options o[MOST];
    df_train_member m[MOST];
    make(o, m);
    name_files(prefix, o, m, MOST);
    df_status status = df_train_sweep(comm, kernels, data, m + first, n - first);
    free_files(o, MOST);
    return status;
}

static void expect_alone(const char *prefix, size_t first, size_t n) {
    df_train_options o[MOST];
    df_train_member m[MOST];
    const uint64_t *hash = alone();
    make(o, m);
    for (size_t i = first; i < n; i++)
        df_test_all(world, digest_of_member(prefix, m[i].name) == hash[i]);
}

/* ---- tests ---------------------------------------------------------------------------------- */

static void members_are_what_they_are_alone(void **state) {
    (void)state;
    df_test_all(world, sweep(world, "all", 0, MOST) == DF_OK);
    expect_alone("all", 0, MOST);
    df_test_all(world, sweep(world, "two", 1, 3) == DF_OK); // groups of ranks
    expect_alone("two", 1, 3);
    df_test_all(world, sweep(world, "one", 3, 4) == DF_OK); // a sweep of one, of some sites
    expect_alone("one", 3, 4);
}

static size_t checkpoints_of(const char *prefix, const char *name, uint64_t *steps, size_t room) {
    char *file = df_format("%s-%s", prefix, name);
    size_t n = checkpoints(file, STEPS, steps, room);
    df_free(file);
    return n;
}

/* Every member has two checkpoints of the same steps; then the newest of one is lost, as when a
 * kill comes between two of them, and another has none at all. */
static bool stopped_and_hurt(const char *prefix, size_t n) {
    df_train_options o[MOST];
    df_train_member m[MOST];
    uint64_t first[4], steps[4];
    make(o, m);
    bool good = checkpoints_of(prefix, m[0].name, first, 4) == 2;
    for (size_t i = 1; i < n; i++)
        good = good && checkpoints_of(prefix, m[i].name, steps, 4) == 2 && steps[0] == first[0] &&
               steps[1] == first[1];
    for (size_t i = 1; i < 3 && i < n && good; i++)
        for (size_t c = 0; c < i; c++) {
            char ending[32];
            snprintf(ending, sizeof ending, ".%" PRIu64 ".ckpt.h5", first[c]);
            char *path = file_of(prefix, m[i].name, ending);
            good = unlink(path) == 0;
            df_free(path);
        }
    return good;
}

static df_status sweep_and_stop(df_comm *comm, const char *prefix, size_t n) {
    df_train_options o[MOST];
    df_train_member m[MOST];
    stop_watch watch;
    make(o, m);
    char *watched = df_format("%s-%s", prefix, m[0].name);
    name_files(prefix, o, m, MOST);
    for (size_t i = 0; i < MOST; i++) o[i].checkpoint_seconds = 1e-9;
    stop_watch_open(&watch, comm, watched, 5);
    df_status status = df_train_sweep(comm, kernels, data, m, n);
    stop_watch_close(&watch);
    free_files(o, MOST);
    df_free(watched);
    bool told = strstr(df_error_text(), "stopped on request") != NULL;
    df_error_clear();
    return status == DF_STOPPED && told ? DF_OK : DF_FAILED;
}

/* Members that lost a checkpoint go on from an older one, and from the start, while the others
 * wait. */
static void resumes_on_other_ranks(void **state) {
    (void)state;
    df_test_all(world, sweep_and_stop(world, "wide", 3) == DF_OK);
    df_test_all(world, df_comm_rank(world) != 0 || stopped_and_hurt("wide", 3));
    df_test_all(world, df_comm_rank(world) != 0 || sweep(self, "wide", 0, 3) == DF_OK);
    expect_alone("wide", 0, 3);
    bool good = df_comm_rank(world) != 0 || sweep_and_stop(self, "narrow", 5) == DF_OK;
    df_test_all(world, good);
    df_test_all(world, df_comm_rank(world) != 0 || stopped_and_hurt("narrow", 5));
    df_test_all(world, sweep(world, "narrow", 0, 5) == DF_OK);
    expect_alone("narrow", 0, 5);
    df_test_all(world, df_comm_rank(world) != 0 || sweep_and_stop(self, "sound", 2) == DF_OK);
    df_test_all(world, sweep(world, "sound", 0, 2) == DF_OK); // nobody needs the scales anew
    expect_alone("sound", 0, 2);
}

/* What is wrong with one member ends the sweep on all ranks, names it, and leaves checkpoints. */
static void one_failure_ends_all(void **state) {
    (void)state;
    df_train_options o[MOST];
    df_train_member m[MOST];
    uint64_t steps[4];
    make(o, m);
    name_files("fails", o, m, MOST);
    for (size_t i = 0; i < MOST; i++) o[i].checkpoint_seconds = 1e-9;
    o[1].lr = 1e30;
    df_status status = df_train_sweep(world, kernels, data, m, 4);
    df_test_all(world, status == DF_FAILED && strstr(df_error_text(), "of k5") != NULL);
    df_error_clear();
    df_test_all(world, checkpoints_of("fails", "a", steps, 4) > 0);
    o[1].lr = 1e-3;
    o[1].k = 1000;
    status = df_train_sweep(world, kernels, data, m, 4);
    df_test_all(world, status == DF_USAGE && strstr(df_error_text(), "k is 1000") != NULL &&
                           strstr(df_error_text(), "k5") != NULL);
    df_error_clear();
    o[1].k = 5;
    o[1].batch = 32;
    status = df_train_sweep(world, kernels, data, m, 4);
    df_test_all(world, status == DF_USAGE && strstr(df_error_text(), "share") != NULL);
    df_error_clear();
    o[1].batch = 64;
    o[1].normalise = DF_NORMALISE_NONE;
    status = df_train_sweep(world, kernels, data, m, 4);
    df_test_all(world, status == DF_USAGE && strstr(df_error_text(), "train.normalise") != NULL);
    df_error_clear();
    o[1].normalise = o[0].normalise;
    df_free((char *)o[1].output);
    df_free((char *)o[1].checkpoint);
    o[1].output = "/nonexistent/x.dict.h5";
    o[1].checkpoint = "/nonexistent/x";
    status = df_train_sweep(world, kernels, data, m + 1, 2);
    df_test_all(world, status != DF_OK && strstr(df_error_text(), "/nonexistent/x") != NULL);
    df_error_clear();
    o[1].output = o[1].checkpoint = NULL;
    free_files(o, MOST);
}

static void failing_memory(void **state) {
    (void)state;
    df_train_options o[MOST];
    df_train_member m[MOST];
    make(o, m);
    name_files("memory", o, m, MOST);
    for (size_t i = 0; i < MOST; i++) o[i].steps = 2;
    for (int64_t calls = 0; calls < 300; calls += 7) {
        if (df_comm_rank(world) == df_comm_size(world) - 1) df_memory_fail_after(calls);
        df_status status = df_train_sweep(world, kernels, data, m, 3);
        df_memory_fail_after(-1);
        df_error_clear();
        df_test_alike(world, status);
    }
    free_files(o, MOST);
}

/* ---- places and plans ----------------------------------------------------------------------- */

static void every_rank_and_member_has_a_place(void **state) {
    (void)state;
    df_train_options o[MOST];
    df_train_member m[MOST];
    df_train_place place[MOST];
    make(o, m);
    for (int size = 1; size <= 40; size++) {
        int next = 0, members[40] = {0};
        assert_ok(df_train_place_members(m, MOST, data, size, place));
        for (size_t i = 0; i < MOST; i++) {
            assert_true(place[i].first >= 0 && place[i].count >= 1);
            assert_true(place[i].first + place[i].count <= size);
            if (size >= MOST) assert_int_equal(place[i].first, next);
            next = place[i].first + place[i].count;
            members[place[i].first]++;
        }
        if (size >= MOST) assert_int_equal(next, size);
        for (int r = 0; r < size && size < MOST; r++) assert_true(members[r] >= 1);
    }
    for (size_t i = 0; i < 4; i++) o[i] = common; // members alike are dealt in turn
    assert_ok(df_train_place_members(m, 2, data, 7, place));
    assert_int_equal(place[0].count, 4);
    for (size_t i = 0; i < 4; i++) m[i].site = NULL;
    assert_ok(df_train_place_members(m, 4, data, 2, place));
    for (size_t i = 0; i < 4; i++) assert_int_equal(place[i].first, (int)(i % 2));
    o[0].latents = 6400; // a wide one has more ranks
    assert_ok(df_train_place_members(m, 2, data, 11, place));
    assert_int_equal(place[0].count, 10);
}

static void plan_is_what_is_used(void **state) {
    (void)state;
    df_train_options o[MOST];
    df_train_member m[MOST];
    make(o, m);
    name_files("plan", o, m, MOST);
    for (size_t i = 0; i < MOST; i++) {
        o[i].steps = 3;
        o[i].latents = 2048 * (1 + i % 2);
        o[i].batch = 256;
    }
    df_train_plan plan = {.rank = df_comm_rank(world)};
    df_screen screen = df_kernels_spare_screen(kernels);
    int size = df_comm_size(world);
    df_test_all(world, df_train_plan_rank(m, 5, data, screen, size, &plan) == DF_OK);
    size_t before = df_memory_now();
    df_memory_reset_peak();
    df_test_all(world, df_train_sweep(world, kernels, data, m, 5) == DF_OK);
    double used = (double)(df_memory_peak() - before);
    if (fabs(used / (double)plan.bytes - 1) >= 0.02)
        fprintf(stderr, "[rank %d] planned %zu, used %.0f bytes\n", plan.rank, plan.bytes, used);
    df_test_all(world, fabs(used / (double)plan.bytes - 1) < 0.02);
    free_files(o, MOST);
}

static df_traffic traffic_of(df_train_options *o, const df_train_member *m, size_t n,
                             uint64_t steps) {
    df_traffic before = df_comm_traffic(world);
    for (size_t i = 0; i < n; i++) o[i].steps = steps;
    df_test_all(world, df_train_sweep(world, kernels, data, m, n) == DF_OK);
    df_traffic after = df_comm_traffic(world);
    return (df_traffic){after.bytes - before.bytes, after.messages - before.messages};
}

/* Members with one rank each talk to nobody: what is left is sharing the rows. */
static void steps_cost_what_the_plan_says(void **state) {
    (void)state;
    df_train_options o[MOST];
    df_train_member m[MOST];
    make(o, m);
    name_files("traffic", o, m, MOST);
    for (size_t i = 0; i < MOST; i++) o[i].log_every = 1000;
    df_traffic few = traffic_of(o, m, 5, 6), many = traffic_of(o, m, 5, 18);
    df_train_plan plan = {.rank = df_comm_rank(world)};
    df_test_all(world, df_train_plan_rank(m, 5, data, DF_SCREEN_FP32, df_comm_size(world), &plan) ==
                           DF_OK);
    df_test_all(world, many.bytes - few.bytes == 12 * plan.cost.traffic.bytes);
    df_test_all(world, many.messages - few.messages == 12 * plan.cost.traffic.messages);
    free_files(o, MOST);
}

static const struct CMUnitTest tests[] = {cmocka_unit_test(members_are_what_they_are_alone),
                                          cmocka_unit_test(resumes_on_other_ranks),
                                          cmocka_unit_test(one_failure_ends_all),
                                          cmocka_unit_test(failing_memory),
                                          cmocka_unit_test(every_rank_and_member_has_a_place),
                                          cmocka_unit_test(plan_is_what_is_used),
                                          cmocka_unit_test(steps_cost_what_the_plan_says)};

DF_TEST_MPI_MAIN(world, tests, set_up, training_close)
