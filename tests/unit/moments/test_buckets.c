/* Document buckets and the jackknife. */
#include "darkfield/moments.h"
#include "df_test.h"

static void buckets_hold_whole_documents(void **state) {
    (void)state;
    uint64_t document[501] = {0};
    for (size_t d = 0; d < 500; d++)
        document[d + 1] = document[d] + df_random_bits(1, DF_STREAM_TEST, d) % 50;
    df_buckets b;
    df_buckets_make(document, 500, &b);
    assert_int_equal(b.row[0], 0);
    assert_int_equal(b.row[DF_BUCKETS], document[500]);
    assert_int_equal(b.document[DF_BUCKETS], 500);
    for (size_t i = 0; i < DF_BUCKETS; i++) {
        assert_true(b.document[i] <= b.document[i + 1]);
        assert_int_equal(b.row[i], document[b.document[i]]);
        uint64_t ideal = document[500] * (i + 1) / DF_BUCKETS; // off by less than a document
        assert_true(b.row[i + 1] >= ideal && b.row[i + 1] < ideal + 50);
    }
}

static void few_documents_leave_empty_buckets(void **state) {
    (void)state;
    uint64_t document[4] = {0, 10, 10, 11};
    df_buckets b;
    uint64_t rows = 0, documents = 0;
    df_buckets_make(document, 3, &b);
    for (size_t i = 0; i < DF_BUCKETS; i++) {
        rows += b.row[i + 1] - b.row[i];
        documents += b.document[i + 1] - b.document[i];
    }
    assert_int_equal(rows, 11);
    assert_int_equal(documents, 3);
    df_buckets_make(NULL, 0, &b);
    assert_int_equal(b.row[DF_BUCKETS], 0);
}

static void huge_row_numbers_do_not_overflow(void **state) {
    (void)state;
    uint64_t document[65];
    df_buckets b;
    for (size_t d = 0; d <= 64; d++) document[d] = d << 57;
    df_buckets_make(document, 64, &b);
    for (size_t i = 0; i <= DF_BUCKETS; i++) assert_int_equal(b.row[i], document[i]);
}

static double mean_of(const double *sums, void *context) {
    (void)context;
    return sums[1] / sums[0];
}

/* For the mean of equal buckets the jackknife is the textbook standard error of the bucket means.
 */
static void jackknife_of_a_mean(void **state) {
    (void)state;
    double buckets[DF_BUCKETS][2] = {{0}}, mean = 0, squares = 0;
    for (size_t b = 0; b < DF_BUCKETS; b++) {
        buckets[b][0] = 10;
        buckets[b][1] = 10 * df_random_normal(2, DF_STREAM_TEST, b);
        mean += buckets[b][1] / 10 / DF_BUCKETS;
    }
    for (size_t b = 0; b < DF_BUCKETS; b++) squares += pow(buckets[b][1] / 10 - mean, 2);
    df_estimate e;
    assert_ok(df_jackknife(buckets[0], 2, mean_of, NULL, &e));
    assert_close(e.value, mean, 1e-12, 1e-14);
    assert_close(e.error, sqrt(squares / (DF_BUCKETS - 1) / DF_BUCKETS), 1e-12, 0);
}

static void jackknife_skips_empty_buckets(void **state) {
    (void)state;
    double buckets[DF_BUCKETS][2] = {{0}};
    df_estimate e;
    buckets[3][0] = 1;
    buckets[3][1] = 5;
    assert_ok(df_jackknife(buckets[0], 2, mean_of, NULL, &e));
    assert_true(e.value == 5 && isnan(e.error));
    buckets[60][0] = 1;
    buckets[60][1] = 7;
    assert_ok(df_jackknife(buckets[0], 2, mean_of, NULL, &e));
    assert_close(e.value, 6, 0, 0);
    assert_close(e.error, 1, 1e-14, 0); // half the difference
    df_memory_fail_after(0);
    assert_fails(df_jackknife(buckets[0], 2, mean_of, NULL, &e), DF_FAILED, "out of memory");
    df_memory_fail_after(-1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(buckets_hold_whole_documents),
        cmocka_unit_test(few_documents_leave_empty_buckets),
        cmocka_unit_test(huge_row_numbers_do_not_overflow),
        cmocka_unit_test(jackknife_of_a_mean),
        cmocka_unit_test(jackknife_skips_empty_buckets),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
