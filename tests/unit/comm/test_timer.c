/* Timed sections: exclusive of children, merged over ranks. */
#define DF_TEST_MPI
#include "df_test.h"

static df_comm *world;

static void spend(double seconds) {
    for (double end = df_now() + seconds; df_now() < end;) {
    }
}

static void children_are_not_counted_twice(void **state) {
    (void)state;
    df_timer_reset();
    double start = df_now();
    df_timer_start("outer");
    spend(0.02);
    df_timer_start("inner");
    spend(0.04);
    df_timer_stop("inner");
    df_timer_stop("outer");
    double total = df_now() - start;
    double outer = df_timer_seconds("outer"), inner = df_timer_seconds("inner");
    df_test_all(world, inner >= 0.04 && outer >= 0.02 && outer + inner <= total + 1e-6);
    df_test_all(world, df_timer_seconds("never") == 0);
}

static void a_wrong_stop_is_ignored(void **state) {
    (void)state;
    df_timer_reset();
    df_timer_stop("nothing");
    df_timer_start("a");
    df_timer_stop("b");
    spend(0.005);
    df_timer_stop("a");
    df_test_all(world, df_timer_seconds("a") >= 0.005);
}

/* Sections that only some ranks enter appear in the table, with a minimum of zero. */
static void report_merges_ranks(void **state) {
    (void)state;
    df_timer_reset();
    const char *own = df_comm_rank(world) == 0 ? "read by the first" : "read by the others";
    df_timer_start(own);
    df_timer_stop(own);
    df_timer_report(world, 1.0);
    df_test_all(world, true);
}

static void too_many_sections_are_left_out(void **state) {
    (void)state;
    static char names[100][16];
    df_timer_reset();
    for (int i = 0; i < 100; i++) {
        snprintf(names[i], sizeof names[i], "section %d", i);
        df_timer_start(names[i]);
        df_timer_stop(names[i]);
    }
    df_timer_report(world, 0);
    df_test_all(world, df_timer_seconds("section 99") == 0);
    df_timer_reset();
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(children_are_not_counted_twice),
    cmocka_unit_test(a_wrong_stop_is_ignored),
    cmocka_unit_test(report_merges_ranks),
    cmocka_unit_test(too_many_sections_are_left_out),
};

DF_TEST_MPI_MAIN(world, tests, NULL, NULL)
