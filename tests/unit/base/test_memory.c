/* Counted memory: zeroed, aligned, counted to the byte, refused in good order. */
#include "df_test.h"

static void test_zeroed_aligned_counted(void **state) {
    (void)state;
    size_t before = df_memory_now();
    for (size_t n = 0; n < 300; n++) {
        unsigned char *p = df_alloc(n, 1);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % 64, 0);
        assert_int_equal(df_memory_now(), before + n);
        for (size_t i = 0; i < n; i++) assert_int_equal(p[i], 0);
        if (n > 0) memset(p, 0xff, n);
        df_free(p);
    }
    df_free(NULL);
    assert_int_equal(df_memory_now(), before);
}

static void test_peak(void **state) {
    (void)state;
    df_memory_reset_peak();
    size_t start = df_memory_peak();
    void *p = df_alloc(1000, 8);
    df_free(p);
    assert_int_equal(df_memory_peak(), start + 8000);
    df_memory_reset_peak();
    assert_int_equal(df_memory_peak(), start);
}

static void test_refused(void **state) {
    (void)state;
    assert_null(df_alloc(SIZE_MAX / 2, 3));
    assert_non_null(strstr(df_error_text(), "size overflow"));
    assert_null(df_alloc(SIZE_MAX - 10, 1));
    assert_null(df_alloc((size_t)1 << 60, 1));
    assert_non_null(strstr(df_error_text(), "1152921504606846976 bytes"));
    df_memory_fail_after(1);
    void *first = df_alloc(1, 1);
    assert_non_null(first);
    assert_null(df_alloc(1, 1));
    void *third = df_alloc(1, 1);
    assert_non_null(third);
    df_free(first);
    df_free(third);
    df_error_clear();
}

static void test_grow(void **state) {
    (void)state;
    uint32_t *numbers = NULL;
    size_t capacity = 0, copies = 0;
    for (size_t i = 0; i < 1000; i++) {
        size_t old = capacity;
        assert_ok(df_grow((void **)&numbers, &capacity, i + 1, sizeof *numbers));
        copies += capacity != old;
        numbers[i] = (uint32_t)(3 * i);
    }
    for (size_t i = 0; i < 1000; i++) assert_int_equal(numbers[i], 3 * i);
    assert_in_range(copies, 1, 12);
    df_memory_fail_after(0);
    uint32_t *kept = numbers;
    assert_fails(df_grow((void **)&numbers, &capacity, 1 << 20, sizeof *numbers), DF_FAILED,
                 "out of");
    assert_ptr_equal(numbers, kept);
    df_free(numbers);
}

static void test_texts_and_sizes(void **state) {
    (void)state;
    char *copy = df_strdup("latent"), *text = df_format("%s %d %.1f", copy, 7, 0.5);
    assert_string_equal(text, "latent 7 0.5");
    df_free(copy);
    df_free(text);
    size_t out = 0;
    assert_ok(df_mul(1 << 20, 1 << 20, &out));
    assert_int_equal(out, (size_t)1 << 40);
    assert_ok(df_add(SIZE_MAX - 1, 1, &out));
    assert_fails(df_mul(SIZE_MAX, 2, &out), DF_FAILED, "size overflow");
    assert_fails(df_add(SIZE_MAX, 1, &out), DF_FAILED, "size overflow");
}

static void test_runs(void **state) {
    (void)state;
    const uint64_t offset[] = {0, 3, 3, 7, 10}; // the second run is empty
    const size_t holds[] = {0, 0, 0, 2, 2, 2, 2, 3, 3, 3};
    for (uint64_t row = 0; row < 10; row++)
        assert_int_equal(df_run_holding(offset, 4, row), holds[row]);
    assert_int_equal(df_run_holding(offset, 4, 12), 3);
    assert_int_equal(df_run_holding(offset, 1, 2), 0);
    assert_int_equal(df_run_holding(offset, 0, 2), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_zeroed_aligned_counted),
        cmocka_unit_test(test_peak),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_grow),
        cmocka_unit_test(test_texts_and_sizes),
        cmocka_unit_test(test_runs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
