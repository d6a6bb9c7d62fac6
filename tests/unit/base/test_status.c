/* The record of a failure: replaced by the next, grown by context, one per thread. */
#include "df_test.h"

#include <pthread.h>

static df_status inner(bool fail) {
    return fail ? df_fail(DF_BAD_INPUT, "x.h5: expected %d rows, found %d", 3, 2) : DF_OK;
}

static df_status outer(bool fail) {
    DF_TRY_AS(inner(fail), "reading %s", "/tokens");
    return DF_OK;
}

static df_status outermost(bool fail, int *cleaned) {
    df_status status = DF_OK;
    DF_GO(outer(fail));
done:
    ++*cleaned;
    return status;
}

static void test_context(void **state) {
    (void)state;
    int cleaned = 0;
    assert_int_equal(outermost(true, &cleaned), DF_BAD_INPUT);
    df_context("training");
    assert_string_equal(
        df_error_text(),
        "x.h5: expected 3 rows, found 2\n  while reading /tokens\n  while training");
    assert_int_equal(outermost(false, &cleaned), DF_OK);
    assert_int_equal(cleaned, 2);
    df_error_clear();
    assert_string_equal(df_error_text(), "");
    df_context("nothing is pending");
    assert_string_equal(df_error_text(), "");
}

static void test_replaced_and_wrapped(void **state) {
    (void)state;
    (void)df_fail(DF_FAILED, "first");
    (void)df_fail(DF_FAILED, "second, not %s", df_error_text());
    assert_string_equal(df_error_text(), "second, not first");
    df_error_clear();
}

static void test_long_messages_are_cut(void **state) {
    (void)state;
    char *longer = df_alloc(20000, 1);
    assert_non_null(longer);
    memset(longer, 'a', 19999);
    (void)df_fail(DF_FAILED, "%s", longer);
    for (int i = 0; i < 100; i++) df_context("%s", longer);
    assert_in_range(strlen(df_error_text()), 1000, 20000);
    df_free(longer);
    df_error_clear();
}

static void *fail_elsewhere(void *empty) {
    *(bool *)empty = df_error_text()[0] == '\0';
    (void)df_fail(DF_FAILED, "other thread");
    return NULL;
}

static void test_threads_are_apart(void **state) {
    (void)state;
    pthread_t thread;
    bool empty = false;
    (void)df_fail(DF_FAILED, "main thread");
    assert_int_equal(pthread_create(&thread, NULL, fail_elsewhere, &empty), 0);
    pthread_join(thread, NULL);
    assert_true(empty);
    assert_string_equal(df_error_text(), "main thread");
    df_error_clear();
}

static void *fail_at_two(void *carried) {
    df_carry(carried, df_fail(DF_BAD_INPUT, "piece 2"), 2);
    return NULL;
}

static void test_the_lowest_failure_is_carried(void **state) {
    (void)state;
    pthread_t thread;
    df_carried carried = {0};
    assert_int_equal(df_carried_raise(&carried), DF_OK);
    df_carry(&carried, df_fail(DF_FAILED, "piece 3"), 3);
    assert_string_equal(df_error_text(), "");
    assert_int_equal(pthread_create(&thread, NULL, fail_at_two, &carried), 0);
    pthread_join(thread, NULL);
    df_carry(&carried, df_fail(DF_FAILED, "piece 4"), 4);
    assert_int_equal(df_carried_raise(&carried), DF_BAD_INPUT);
    assert_string_equal(df_error_text(), "piece 2");
    assert_int_equal(df_carried_raise(&carried), DF_OK);
    df_error_clear();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_context),
        cmocka_unit_test(test_replaced_and_wrapped),
        cmocka_unit_test(test_long_messages_are_cut),
        cmocka_unit_test(test_threads_are_apart),
        cmocka_unit_test(test_the_lowest_failure_is_carried),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
