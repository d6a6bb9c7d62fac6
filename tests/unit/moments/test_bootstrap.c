/* The bootstrap: its intervals, and samples that do not depend on threads. The numbers of whole
 * runs are compared with numpy in test_loss.c. */
#include "df_test.h"

#include "darkfield/moments.h"

#include <math.h>
#include <omp.h>

enum { UNITS = 400 };
static double units[UNITS][2], samples[DF_RESAMPLES][2], again[DF_RESAMPLES][2];

static void points_between_neighbours(void **state) {
    (void)state;
    double values[1001], two[2] = {3, 1}, bad[2] = {1, (double)INFINITY};
    for (size_t i = 0; i < 1001; i++) values[i] = (double)(i * 619 % 1001);
    df_interval all = df_percentile_interval(values, 1001), pair = df_percentile_interval(two, 2);
    assert_close(all.low, 25, 1e-12, 0);
    assert_close(all.high, 975, 1e-12, 0);
    assert_close(pair.low, 1.05, 1e-12, 0);
    assert_close(pair.high, 2.95, 1e-12, 0);
    assert_true(isnan(df_percentile_interval(bad, 2).low));
    assert_true(isnan(df_percentile_interval(NULL, 0).high));
}

/* Of a mean it is the textbook interval, as far as a thousand samples can tell. */
static void interval_of_a_mean(void **state) {
    (void)state;
    double means[DF_RESAMPLES], mean = 0, squares = 0;
    for (size_t i = 0; i < UNITS; i++) {
        units[i][0] = 1;
        units[i][1] = df_random_normal(5, DF_STREAM_TEST, i);
        mean += units[i][1] / UNITS;
    }
    for (size_t i = 0; i < UNITS; i++) squares += pow(units[i][1] - mean, 2);
    df_bootstrap(units[0], UNITS, 2, 20, samples[0]);
    for (size_t s = 0; s < DF_RESAMPLES; s++) {
        assert_close(samples[s][0], UNITS, 0, 0);
        means[s] = samples[s][1] / samples[s][0];
    }
    df_interval found = df_percentile_interval(means, DF_RESAMPLES);
    double half = 1.96 * sqrt(squares) / UNITS;
    assert_close(found.low, mean - half, 0, 0.1 * half);
    assert_close(found.high, mean + half, 0, 0.1 * half);
}

static void threads_do_not_matter(void **state) {
    (void)state;
    omp_set_num_threads(3);
    df_bootstrap(units[0], UNITS, 2, 20, again[0]);
    assert_memory_equal(again, samples, sizeof again);
    df_bootstrap(units[0], UNITS, 2, 21, again[0]);
    assert_true(again[0][1] != samples[0][1]);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(points_between_neighbours),
                                       cmocka_unit_test(interval_of_a_mean),
                                       cmocka_unit_test(threads_do_not_matter)};
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
