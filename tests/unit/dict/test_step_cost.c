/* The communication model against the counters of comm: exact on every rank, for steps of every
 * activation and kind, with and without dead latents, and for what the trainer adds. */
#define DF_TEST_MPI
#include "df_test.h"

#include "darkfield/train.h"

enum { ROWS = 150, WIDTH = 24, LATENTS = 112 };

static df_comm *world;
static df_groups groups;
static df_kernels *kernels;

typedef struct setting {
    df_dict_kind kind;
    df_activation activation;
    bool subtract_bias;
    size_t rows, aux_k;
    df_objective objective;
} setting;

static const setting settings[] = {
    {DF_CROSSCODER, DF_TOPK, true, ROWS, 0, {0}},
    {DF_CROSSCODER, DF_TOPK, false, ROWS, 5, {0}},
    {DF_CROSSCODER, DF_RELU, true, ROWS, 0, {0}},
    {DF_CROSSCODER, DF_RELU, true, 2, 9, {0}},
    {DF_CROSSCODER, DF_BATCHTOPK, true, ROWS, 0, {0}},
    {DF_CROSSCODER, DF_BATCHTOPK, false, ROWS, 7, {0}},
    {DF_TRANSCODER, DF_TOPK, false, ROWS - 1, 4, {0}},
    {DF_CLT, DF_RELU, false, ROWS, 0, {0}},
    {DF_SKIP_TRANSCODER, DF_TOPK, false, ROWS, 4, {0}},
    {DF_SAE,
     DF_RELU,
     true,
     ROWS,
     0,
     {.penalty = DF_PENALTY_LP, .weight = 0.1, .power = 0.9, .rooted = true}},
    {DF_SAE,
     DF_RELU,
     true,
     ROWS,
     0,
     {.penalty = DF_PENALTY_LP, .weight = 0.1, .power = 0.9, .next_power = 0.8, .rooted = true}},
    {DF_CROSSCODER,
     DF_RELU,
     true,
     ROWS,
     0,
     {.reconstruction = DF_UNSQUARED, .penalty = DF_PENALTY_L1, .weight = 0.1}},
    {DF_CROSSCODER,
     DF_RELU,
     true,
     ROWS,
     0,
     {.reconstruction = DF_FVU_SITES, .penalty = DF_PENALTY_L1, .weight = 0.1}},
    {DF_CROSSCODER,
     DF_JUMPRELU,
     true,
     ROWS,
     0,
     {.penalty = DF_PENALTY_L0, .weight = 0.1, .bandwidth = 0.1, .preact = 0.01}},
    {DF_CROSSCODER,
     DF_JUMPRELU,
     false,
     ROWS,
     3,
     {.penalty = DF_PENALTY_TANH, .weight = 0.1, .tanh_scale = 4.0, .bandwidth = 2.0}},
    {DF_CROSSCODER, DF_GATED, false, ROWS, 0, {.penalty = DF_PENALTY_L1, .weight = 0.1}},
    {DF_CLT, DF_BATCHTOPK, false, ROWS, 3, {0}},
};
static const setting decoupled[] = {
    {DF_CROSSCODER, DF_TOPK, true, ROWS, 0, {0}},
    {DF_TRANSCODER, DF_BATCHTOPK, false, ROWS, 0, {0}},
};

static df_dict *make_dict(const setting *s) {
    bool apart = s->kind > DF_CROSSCODER;
    size_t n = s->kind == DF_SAE ? 1 : 4;
    df_dict_site sites[4];
    for (size_t i = 0; i < n; i++)
        sites[i] = (df_dict_site){.name = (char *)"s",
                                  .model = (char *)(i % 2 == 0 ? "one" : "two"),
                                  .width = WIDTH / n,
                                  .scale = 1.0,
                                  .input = !apart || i < 2,
                                  .output = !apart || i >= 2};
    df_dict_shape shape = {.kind = s->kind, .latents = LATENTS, .site = sites, .sites = n};
    df_dict *d = NULL;
    float center[WIDTH] = {0};
    df_test_all(world, df_dict_make(groups.shards, &shape, &d) == DF_OK);
    d->activation = s->activation;
    d->k = 6;
    d->subtract_bias = s->subtract_bias;
    for (size_t j = 0; j < d->mine.count && d->theta != NULL; j++) d->theta[j] = 0.1f;
    df_dict_initialise(d, 3, 1.0, 1.0, center);
    return d;
}

static float *make_rows(size_t rows) {
    float *x = NULL;
    if (DF_NEW(x, rows * WIDTH) != DF_OK) return NULL;
    for (size_t i = 0; i < rows * WIDTH; i++) x[i] = (float)df_random_normal(8, DF_STREAM_TEST, i);
    return x;
}

static bool equal(df_traffic counted, df_traffic predicted) {
    bool good = counted.bytes == predicted.bytes && counted.messages == predicted.messages;
    if (!good)
        fprintf(stderr, "counted %llu bytes in %llu messages, predicted %llu in %llu\n",
                (unsigned long long)counted.bytes, (unsigned long long)counted.messages,
                (unsigned long long)predicted.bytes, (unsigned long long)predicted.messages);
    return good;
}

static df_traffic since(df_traffic before) {
    df_traffic now = df_groups_traffic(&groups);
    return (df_traffic){now.bytes - before.bytes, now.messages - before.messages};
}

static bool same_traffic(df_traffic a, df_cost b) {
    return a.bytes == b.traffic.bytes && a.messages == b.traffic.messages;
}

static df_traffic less(df_traffic a, df_traffic b) {
    return (df_traffic){a.bytes - b.bytes, a.messages - b.messages};
}

/* BatchTopK's cut: none, the score's digits and its ties, or the last tie's place too; screened
 * once or twice. All that as often as it selects. */
static bool one_of_six(df_traffic counted, df_cost least, size_t parts) {
    int size = df_comm_size(world);
    df_cost one = df_cost_reduce(size, 1), pass = df_cost_reduce(size, 2048);
    const df_cost none = {.latencies = 0};
    const df_cost cut[] = {none, df_cost_add(df_cost_times(pass, 3), one),
                           df_cost_add(df_cost_times(pass, 9), one)};
    const df_cost second = df_cost_add(df_cost_times(one, 2), pass);
    const df_cost again[] = {none, df_cost_add(df_cost_agree(size), second)};
    for (size_t i = 0; i < 6; i++) {
        df_cost with = df_cost_add(least, df_cost_add(cut[i / 2], again[i % 2]));
        if (parts > 1 ? one_of_six(counted, with, parts - 1) : same_traffic(counted, with))
            return true;
    }
    return false;
}

/* What lies between least and most: second exchanges of TopK, or what BatchTopK needs. */
static bool as_predicted(df_traffic counted, const df_dict *d, df_step_cost cost) {
    size_t parts = df_dict_thresholds(d);
    if (d->activation == DF_BATCHTOPK) return one_of_six(counted, cost.least, parts);
    df_traffic all = less(cost.most.traffic, cost.least.traffic);
    df_traffic found = less(counted, cost.least.traffic);
    for (size_t i = 0; i <= parts; i++)
        if (found.bytes * parts == all.bytes * i && found.messages * parts == all.messages * i)
            return true;
    return false;
}

/* The same with AuxK, which may need a second exchange of its own. */
static bool predicted(df_traffic counted, const df_dict *d, const setting *s) {
    df_step_cost cost = df_coder_step_cost(d, &s->objective, s->rows, s->aux_k, &groups.at);
    df_step_cost main = df_coder_step_cost(d, &s->objective, s->rows, 0, &groups.at);
    df_traffic all = less(cost.most.traffic, cost.least.traffic);
    df_traffic again = less(all, less(main.most.traffic, main.least.traffic));
    cost.most.traffic = less(cost.most.traffic, again);
    return as_predicted(counted, d, cost) || as_predicted(less(counted, again), d, cost) ||
           equal(counted, cost.most.traffic);
}

static void count_steps(const setting *all, size_t n, df_code_norm norm) {
    for (size_t i = 0; i < n; i++) {
        const setting *s = &all[i];
        df_dict *d = make_dict(s);
        d->code_norm = norm;
        df_coder *c = NULL;
        float *x = make_rows(s->rows);
        df_test_all(world,
                    x != NULL && df_coder_open_groups(&groups, kernels, d, s->rows, &c) == DF_OK);
        df_test_all(world, df_coder_train_open(c) == DF_OK);
        df_step_settings set = {.lr = 1e-3, .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8};
        set.objective = s->objective;
        set.aux = s->aux_k > 0 ? 1.0 : 0.0;
        set.aux_k = s->aux_k;
        set.dead_rows = s->aux_k > 0 ? 0 : 1000000; // all dead, or none
        for (int step = 0; step < 2; step++) {
            df_step_report report;
            df_traffic before = df_groups_traffic(&groups);
            df_range mine = df_groups_rows(&groups.at, groups.at.group, s->rows);
            df_status status = df_coder_step(c, x + mine.first * WIDTH, s->rows, &set, &report);
            df_traffic counted = since(before); // df_test_all would count too
            df_test_all(world, status == DF_OK);
            df_test_all(world, predicted(counted, d, s));
        }
        df_coder_close(&c);
        df_dict_free(&d);
        df_free(x);
    }
}

static void test_steps(void **state) {
    (void)state;
    count_steps(settings, sizeof settings / sizeof *settings, DF_NORM_NONE);
    count_steps(decoupled, sizeof decoupled / sizeof *decoupled, DF_NORM_DECOUPLED);
}

/* By data groups: what lies between them, and gradients, besides. */
static void test_groups(void **state) {
    (void)state;
    for (size_t runs = 2; runs <= 6; runs++) {
        df_test_all(world, df_groups_open(world, runs, &groups) == DF_OK);
        for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
            const setting *s = &settings[i];
            if (s->kind == DF_SKIP_TRANSCODER || s->objective.rooted || s->rows < runs) continue;
            count_steps(s, 1, DF_NORM_NONE);
        }
        df_groups_close(&groups);
    }
    groups = df_groups_alone(world);
}

/* Equal scores everywhere: the cut needs all nine passes. Outside training there is one more sum:
 * does the batch outgrow its plan? */
static void test_ties(void **state) {
    (void)state;
    setting s = {.kind = DF_CROSSCODER, .activation = DF_BATCHTOPK, .rows = ROWS};
    df_dict *d = make_dict(&s);
    df_coder *c = NULL;
    float *x = make_rows(ROWS);
    const df_codes *codes;
    for (size_t j = 0; j < d->mine.count; j++)
        for (size_t i = 0; i < WIDTH; i++) d->w_enc[j * WIDTH + i] = 0.0f;
    for (size_t j = 0; j < d->mine.count; j++) d->b_enc[j] = 1.0f;
    df_test_all(world, df_coder_open(world, kernels, d, ROWS, &c) == DF_OK);
    int size = df_comm_size(world);
    df_cost one = df_cost_reduce(size, 1);
    df_cost cost =
        df_cost_add(df_cost_times(df_cost_reduce(size, 2048), 10),
                    df_cost_add(df_cost_times(one, 5), df_cost_times(df_cost_agree(size), 3)));
    df_traffic before = df_groups_traffic(&groups);
    df_status status = df_coder_encode(c, x, ROWS, true, &codes);
    df_traffic counted = since(before);
    df_test_all(world, status == DF_OK);
    df_test_all(world, equal(counted, cost.traffic));
    df_coder_close(&c);
    df_dict_free(&d);
    df_free(x);
}

/* More ranks need more messages, and what a rank sends does not depend on the latents. */
static void test_model(void **state) {
    (void)state;
    setting s = settings[0];
    df_dict *d = make_dict(&s);
    const df_group_place alone = df_groups_place(1, 1, 0), first = df_groups_place(1, 2, 0);
    df_step_cost one = df_coder_step_cost(d, &s.objective, 4096, 0, &alone),
                 two = df_coder_step_cost(d, &s.objective, 4096, 0, &first);
    assert_true(one.most.traffic.bytes == 0 && one.most.link_bytes == 0 && one.most.latencies == 0);
    uint64_t row = WIDTH * sizeof(float);
    assert_true(two.most.link_bytes > 4096 * row && two.most.link_bytes < 4 * 4096 * row);
    assert_close(df_cost_seconds(two.most, 1e-6, 1e9),
                 1e-6 * (double)two.most.latencies + 1e-9 * (double)two.most.link_bytes, 1e-12, 0);
    uint64_t last = 0;
    for (int size = 2; size <= 64; size *= 2) {
        const df_group_place last_of = df_groups_place(1, size, size - 1);
        df_step_cost cost = df_coder_step_cost(d, &s.objective, 4096, 0, &last_of);
        assert_true(cost.most.latencies > last);
        last = cost.most.latencies;
    }
    df_dict_free(&d);
}

static void test_rate(void **state) {
    (void)state;
    setting s = settings[7];
    df_dict *d = make_dict(&s);
    double rate = 0;
    assert_ok(df_gemm_rate(d, 4096, &rate));
    assert_true(rate > 1e7 && rate < 1e14);
    assert_close(df_gemm_flop(d, 10, (df_range){0, LATENTS}), 2.0 * 10 * LATENTS * (WIDTH / 4), 0,
                 0);
    df_dict_free(&d);
}

static int set_up(void **state) {
    (void)state;
    df_log_quiet(true);
    groups = df_groups_alone(world);
    assert_ok(df_kernels_open("auto", &kernels));
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    df_kernels_close(&kernels);
    return 0;
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_steps), cmocka_unit_test(test_groups), cmocka_unit_test(test_ties),
    cmocka_unit_test(test_model), cmocka_unit_test(test_rate)};

DF_TEST_MPI_MAIN(world, tests, set_up, tear_down)
