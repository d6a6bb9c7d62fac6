/* Data groups: the same objectives, summed over runs of rows. The bytes depend on the number of
 * runs alone, whatever the ranks; gradients and losses agree with PyTorch's. */
#include "objective_run.h"

/* ---- places --------------------------------------------------------------------------------- */

static void test_places(void **state) {
    (void)state;
    const struct {
        size_t runs;
        int size, groups;
    } known[] = {{1, 8, 1}, {2, 1, 1}, {2, 3, 1}, {4, 6, 2}, {6, 4, 2}, {3, 3, 3}, {8, 12, 4}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        int size = known[i].size;
        size_t rows = 0;
        for (int rank = 0; rank < size; rank++) {
            df_group_place at = df_groups_place(known[i].runs, size, rank);
            assert_int_equal(at.groups, known[i].groups);
            assert_int_equal(at.groups * at.shards, size);
            assert_int_equal(at.group * at.shards + at.shard, rank);
            df_range mine = df_groups_rows(&at, at.group, 37);
            if (at.shard != 0) continue;
            assert_int_equal(mine.first, rows); // groups follow each other
            rows += mine.count;
        }
        assert_int_equal(rows, 37);
    }
    df_groups none;
    df_test_all(world, df_groups_open(world, DF_MAX_RUNS + 1, &none) == DF_USAGE);
    df_error_clear();
}

/* ---- against PyTorch ------------------------------------------------------------------------ */

static bool is_refused(const objective_case *k) {
    return k->norm == DF_NORM_DECOUPLED || k->o.rooted;
}

enum { FIRST = 100 }; // steps: later ones may select otherwise, where two scores nearly tie

static bool first_losses_agree(run *r, const objective_case *k) {
    double losses[FIRST], worst = 0.0;
    if (train(r, k, FIRST, losses) != DF_OK) return false;
    for (size_t s = 0; s < FIRST; s++)
        worst = df_test_worse(worst, fabs(losses[s] / number(&r->file, "losses", STEPS, s) - 1.0));
    return near(k, "loss", worst, 2e-4);
}

static void test_against_torch(void **state) {
    (void)state;
    for (data_groups = 2; data_groups <= 6; data_groups++)
        for (size_t i = 0; i < CASES; i++) {
            run r;
            if (is_refused(&cases[i])) continue;
            df_test_all(world, open_run(world, &cases[i], &r) == DF_OK);
            df_test_all(world, gradients_agree(&r, &cases[i]));
            df_test_all(world, df_comm_size(world) > 1 || first_losses_agree(&r, &cases[i]));
            close_run(&r);
        }
    data_groups = 1;
}

/* ---- same bytes ----------------------------------------------------------------------------- */

static void test_same_bytes(void **state) {
    (void)state;
    df_comm *self;
    assert_ok(df_comm_self(&self));
    for (data_groups = 1; data_groups <= 6; data_groups++)
        for (size_t i = 0; i < CASES; i++) {
            run whole, r;
            double alone[3], together[3];
            if (is_refused(&cases[i])) continue;
            df_test_all(world, open_run(self, &cases[i], &whole) == DF_OK &&
                                   train(&whole, &cases[i], 3, alone) == DF_OK);
            df_test_all(world, open_run(world, &cases[i], &r) == DF_OK &&
                                   train(&r, &cases[i], 3, together) == DF_OK);
            df_test_all(world, memcmp(alone, together, sizeof alone) == 0);
            df_test_all(world, same_training(&r, &whole));
            close_run(&r);
            close_run(&whole);
        }
    data_groups = 1;
    df_comm_free(&self);
}

/* ---- what a step may do besides ------------------------------------------------------------- */

typedef struct method {
    df_activation activation;
    df_code_norm norm;
    bool nested;
    df_step_settings set;
} method;

#define ADAM .lr = 3e-3, .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .aux_k = 6, .dead_rows = 100
static const method methods[] = {
    {DF_TOPK, DF_NORM_NONE, false, {ADAM, .aux = 0.1, .clip = 0.01, .unit_decoder = true}},
    {DF_TOPK, DF_NORM_SUM, false, {ADAM, .clip = 0.02, .unit_first = true, .ema = 0.9}},
    {DF_TOPK, DF_NORM_NONE, false, {ADAM, .aux = 0.1, .multi = 0.125, .aux_scaled = true}},
    {DF_TOPK,
     DF_NORM_NONE,
     false,
     {ADAM, .aux = 0.1, .aux_normaliser = DF_AUX_TARGET, .aux_attached = true,
      .objective = {.reconstruction = DF_FVU}}},
    {DF_TOPK,
     DF_NORM_NONE,
     false,
     {ADAM, .aux = 0.1, .aux_raw = true,
      .objective = {.reconstruction = DF_FVU_SAMPLE, .variance = 0.7}}},
    {DF_BATCHTOPK, DF_NORM_ROOT, false, {ADAM, .aux = 0.1, .threshold_rate = 0.1, .clip = 10.0}},
    {DF_BATCHTOPK, DF_NORM_NONE, true, {ADAM, .prefix_weight = 0.5, .threshold_rate = 0.1}},
    {DF_RELU, DF_NORM_SUM, true, {ADAM, .prefix_weight = 0.5, .objective = {L1(0.1)}}},
};

/* What steps leave behind: reports, b_dec and the threshold; weights by same_training. */
typedef struct trace {
    double loss[4], norm[4], dead[4];
    float threshold;
} trace;

static df_status take_steps(df_comm *comm, const method *m, run *r, trace *out) {
    objective_case k = cases[0];
    df_train_room room = {.multi = m->set.multi > 0.0, .ema = m->set.ema > 0.0};
    k.activation = m->activation;
    k.norm = m->norm;
    DF_TRY(open_run(comm, &k, r));
    df_coder_close(&r->coder);
    r->dict->prefixes = m->nested ? 2 : 0;
    r->dict->prefix[0] = 9, r->dict->prefix[1] = LATENTS;
    r->dict->threshold = -1.0f;
    DF_TRY(df_coder_open_groups(&r->groups, kernels, r->dict, ROWS, &r->coder));
    DF_TRY(df_coder_train_open(r->coder));
    DF_TRY(df_coder_train_extend(r->coder, &room));
    for (size_t j = 0; j < r->latents.count; j++)
        df_coder_state(r->coder)->silent[j] = (r->latents.first + j) % 4 == 1 ? 90 : 0;
    for (size_t s = 0; s < 4; s++) {
        df_step_report report;
        DF_TRY(df_coder_step(r->coder, batch_of(r, s % BATCHES), ROWS, &m->set, &report));
        out->loss[s] = report.loss;
        out->norm[s] = report.norm;
        out->dead[s] = (double)report.dead;
    }
    out->threshold = r->dict->threshold;
    return DF_OK;
}

/* The same bytes as on one rank, and nearly what a batch of one run gives. */
static void test_methods(void **state) {
    (void)state;
    df_comm *self;
    assert_ok(df_comm_self(&self));
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++)
        for (size_t groups = 2; groups <= 4; groups++) {
            run plain, whole, r;
            trace one = {0}, alone = {0}, together = {0};
            data_groups = 1;
            df_test_all(world, take_steps(self, &methods[i], &plain, &one) == DF_OK);
            data_groups = groups;
            df_test_all(world, take_steps(self, &methods[i], &whole, &alone) == DF_OK);
            df_test_all(world, take_steps(world, &methods[i], &r, &together) == DF_OK);
            df_test_all(world, memcmp(&alone, &together, sizeof alone) == 0);
            df_test_all(world, same_training(&r, &whole));
            for (size_t s = 0; s < 4; s++) {
                assert_close(one.loss[s], alone.loss[s], 1e-5, 0);
                assert_close(one.norm[s], alone.norm[s], 1e-4, 0);
                assert_close(one.dead[s], alone.dead[s], 0, 0);
            }
            assert_close((double)one.threshold, (double)alone.threshold, 1e-5, 0);
            close_run(&plain);
            close_run(&whole);
            close_run(&r);
        }
    data_groups = 1;
    df_comm_free(&self);
}

/* What cannot be summed over runs is named. */
static void test_refusals(void **state) {
    (void)state;
    data_groups = 2;
    for (size_t i = 0; i < CASES; i++) {
        run r;
        double loss[1];
        if (!is_refused(&cases[i])) continue;
        df_test_all(world, open_run(world, &cases[i], &r) == DF_OK);
        df_test_all(world, train(&r, &cases[i], 1, loss) == DF_USAGE &&
                               strstr(df_error_text(), "data_groups is 2, give 1") != NULL);
        df_error_clear();
        close_run(&r);
    }
    data_groups = 1;
}

/* A row that is not a number, in one group's rows: every rank fails, weights stay. */
static void test_not_finite(void **state) {
    (void)state;
    for (data_groups = 2; data_groups <= 4; data_groups++) {
        run r;
        double loss[1];
        df_test_all(world, open_run(world, &cases[0], &r) == DF_OK);
        r.x[(ROWS - 1) * WIDTH + 3] = NAN; // of the last run
        df_test_all(world, train(&r, &cases[0], 1, loss) != DF_OK);
        df_error_clear();
        df_test_all(world, df_coder_state(r.coder)->step == 0);
        close_run(&r);
    }
    data_groups = 1;
}

/* ---- memory --------------------------------------------------------------------------------- */

static void test_plan(void **state) {
    (void)state;
    for (data_groups = 2; data_groups <= 6; data_groups++)
        for (size_t i = 0; i < CASES; i += 3)
            if (!is_refused(&cases[i])) take_what_is_planned(&cases[i]);
    data_groups = 1;
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_places),     cmocka_unit_test(test_against_torch),
    cmocka_unit_test(test_same_bytes), cmocka_unit_test(test_methods),
    cmocka_unit_test(test_refusals),   cmocka_unit_test(test_not_finite),
    cmocka_unit_test(test_plan),
};

DF_TEST_MPI_MAIN(world, tests, set_up, tear_down)
