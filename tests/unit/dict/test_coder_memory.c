/* What the coder takes: its plan, thresholds that select more than k, and no memory at all. */
#include "coder_fixture.h"

static void test_plan(void **state) {
    (void)state;
    for (size_t i = 0; i < SETTINGS; i++) {
        fixture f;
        df_test_all(world, open_fixture(world, &settings[i], &f) == DF_OK);
        size_t with = df_memory_now(),
               plan = df_coder_plan_bytes(f.dict, df_kernels_spare_screen(f.kernels), ROWS,
                                          df_comm_size(world), true);
        double losses[3];
        df_test_all(world, train(&f, &settings[i], 3, losses) == DF_OK);
        df_test_all(world, df_memory_now() == with); // a step keeps nothing
        df_coder_close(&f.coder);
        double used = (double)(with - df_memory_now());
        df_test_all(world, used <= 1.02 * (double)plan &&
                               (df_comm_rank(world) > 0 || used >= 0.98 * (double)plan));
        close_fixture(&f);
    }
}

/* The threshold at which about `l0` latents are active per row; how many are. */
static double threshold_for(fixture *f, double l0) {
    double low = 0.0, high = 10.0, found = 0.0;
    for (int i = 0; i < 40; i++) {
        const df_codes *codes;
        f->dict->threshold = (float)(0.5 * (low + high));
        df_test_all(world, df_coder_encode(f->coder, f->x, ROWS, false, &codes) == DF_OK);
        uint64_t active = codes->start[ROWS];
        df_sum_u64(world, &active, 1);
        found = (double)active / ROWS;
        if (found > l0)
            low = (double)f->dict->threshold;
        else
            high = (double)f->dict->threshold;
    }
    return found;
}

/* A BatchTopK threshold that selects up to twice k keeps to the plan; one that selects more is
 * warned of, once, and selects what it should. */
static void test_plan_of_thresholds(void **state) {
    (void)state;
    const double l0[] = {7.0, 13.5, 40.0};
    for (size_t i = 0; i < 3; i++) {
        fixture f;
        const df_codes *codes;
        df_test_all(world, open_fixture(world, &settings[2], &f) == DF_OK);
        df_test_all(world, threshold_for(&f, l0[i]) > 0.9 * l0[i]);
        df_coder_close(&f.coder);
        size_t before = df_memory_now(), warned = df_warnings();
        size_t plan = df_coder_plan_bytes(f.dict, df_kernels_spare_screen(f.kernels), ROWS,
                                          df_comm_size(world), false);
        df_test_all(world, df_coder_open(world, f.kernels, f.dict, ROWS, &f.coder) == DF_OK);
        df_memory_reset_peak();
        for (int pass = 0; pass < 2; pass++)
            df_test_all(world, df_coder_encode(f.coder, f.x, ROWS, false, &codes) == DF_OK);
        double used = (double)(df_memory_peak() - before);
        df_test_all(world, i == 2 || (used <= 1.02 * (double)plan && df_warnings() == warned));
        df_test_all(world, i < 2 || df_comm_size(world) > 1 || df_warnings() == warned + 1);
        close_fixture(&f);
    }
}

/* The running mean begins as its first value, or as 0. */
static void test_first_threshold(void **state) {
    (void)state;
    float found[2];
    for (int zero = 0; zero < 2; zero++) {
        fixture f;
        df_step_report report;
        df_step_settings set = step_settings(&settings[2]);
        set.threshold_rate = 0.25;
        set.threshold_from_zero = zero == 1;
        df_test_all(world, open_fixture(world, &settings[2], &f) == DF_OK);
        df_test_all(world, df_coder_step(f.coder, f.x, ROWS, &set, &report) == DF_OK);
        found[zero] = f.dict->threshold;
        close_fixture(&f);
    }
    df_test_all(world, found[0] > 0.0f && found[1] == 0.25f * found[0]);
}

/* The n-th allocation of one rank fails: every rank leaves with the failure, and nothing is lost.
 */
static void test_out_of_memory(void **state) {
    (void)state;
    fixture f;
    df_test_all(world, open_fixture(world, &settings[3], &f) == DF_OK);
    df_coder_close(&f.coder);
    size_t before = df_memory_now();
    df_status status = DF_FAILED;
    for (int64_t calls = 0; calls < 40 && status != DF_OK; calls++) {
        df_coder *coder;
        df_memory_fail_after(df_comm_rank(world) == 0 ? calls : -1);
        status = df_coder_open(world, f.kernels, f.dict, ROWS, &coder);
        if (status == DF_OK) status = df_coder_train_open(coder);
        df_memory_fail_after(-1);
        df_test_all(world, status == DF_OK || strstr(df_error_text(), "out of memory") != NULL);
        df_coder_close(&coder);
        df_test_all(world, df_memory_now() == before);
    }
    df_test_all(world, status == DF_OK);
    df_error_clear();
    close_fixture(&f);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_plan),
    cmocka_unit_test(test_plan_of_thresholds),
    cmocka_unit_test(test_first_threshold),
    cmocka_unit_test(test_out_of_memory),
};

DF_TEST_MPI_MAIN(world, tests, NULL, NULL)
