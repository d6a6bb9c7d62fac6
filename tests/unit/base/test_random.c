/* Random numbers: the published answers of Philox4x32-10, the laws of the draws, permutations. */
#include "df_test.h"

// ---- a second Philox4x32-10, held to the known-answer vectors that Random123 publishes ----------

static void philox_plain(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]) {
    uint32_t k0 = key[0], k1 = key[1];
    memcpy(out, counter, 4 * sizeof *out);
    for (int round = 0; round < 10; round++) {
        uint64_t a = UINT64_C(0xD2511F53) * out[0], b = UINT64_C(0xCD9E8D57) * out[2];
        uint32_t x0 = (uint32_t)(b >> 32) ^ out[1] ^ k0, x2 = (uint32_t)(a >> 32) ^ out[3] ^ k1;
        out[0] = x0;
        out[1] = (uint32_t)b;
        out[2] = x2;
        out[3] = (uint32_t)a;
        k0 += 0x9E3779B9;
        k1 += 0xBB67AE85;
    }
}

static const struct {
    uint32_t counter[4], key[2], answer[4];
} published[] = {
    {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
    {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
     {0xffffffff, 0xffffffff},
     {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
    {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
     {0xa4093822, 0x299f31d0},
     {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
};

static void test_published_vectors(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof published / sizeof *published; i++) {
        uint32_t out[4];
        philox_plain(published[i].counter, published[i].key, out);
        assert_memory_equal(out, published[i].answer, sizeof out);
    }
    assert_true(df_random_bits(0, (df_stream)0, 0) == UINT64_C(0xe169c58d6627e8d5));
}

static void test_bits_are_philox(void **state) {
    (void)state;
    for (uint64_t i = 0; i < 2000; i++) {
        uint64_t seed = df_random_bits(1, DF_STREAM_TEST, 2 * i);
        uint64_t index = df_random_bits(1, DF_STREAM_TEST, 2 * i + 1) >> i % 64;
        uint32_t counter[4] = {(uint32_t)index, (uint32_t)(index >> 32), DF_STREAM_INIT, 0}, out[4];
        uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
        philox_plain(counter, key, out);
        assert_true(df_random_bits(seed, DF_STREAM_INIT, index) ==
                    ((uint64_t)out[1] << 32 | out[0]));
    }
}

// ---- laws --------------------------------------------------------------------------------------

static void test_uniform(void **state) {
    (void)state;
    enum { DRAWS = 200000, BINS = 100 };
    double counts[BINS] = {0}, chi = 0;
    for (uint64_t i = 0; i < DRAWS; i++) {
        double u = df_random_uniform(5, DF_STREAM_TEST, i);
        assert_true(u >= 0 && u < 1);
        assert_true(u == (double)(df_random_bits(5, DF_STREAM_TEST, i) >> 11) / 0x1p53);
        counts[(int)(u * BINS)]++;
    }
    for (int b = 0; b < BINS; b++) chi += pow(counts[b] - DRAWS / BINS, 2) / (DRAWS / BINS);
    assert_in_range((uintmax_t)chi, 50, 160); // 99 degrees of freedom: mean 99, deviation 14
}

static void test_normal(void **state) {
    (void)state;
    enum { DRAWS = 200000 };
    double sum[5] = {0}, inside = 0;
    for (uint64_t i = 0; i < DRAWS; i++) {
        double x = df_random_normal(9, DF_STREAM_TEST, i), power = 1;
        assert_true(isfinite(x));
        for (int p = 1; p < 5; p++) sum[p] += power *= x;
        inside += fabs(x) < 1.959963984540054;
    }
    assert_close(sum[1] / DRAWS, 0, 0, 0.01);
    assert_close(sum[2] / DRAWS, 1, 0, 0.015);
    assert_close(sum[3] / DRAWS, 0, 0, 0.04);
    assert_close(sum[4] / DRAWS, 3, 0, 0.12);
    assert_close(inside / DRAWS, 0.95, 0, 0.003);
}

static void test_streams_are_apart(void **state) {
    (void)state;
    for (uint64_t i = 0; i < 1000; i++) {
        assert_true(df_random_bits(1, DF_STREAM_SPLIT, i) != df_random_bits(1, DF_STREAM_INIT, i));
        assert_true(df_random_bits(1, DF_STREAM_SPLIT, i) != df_random_bits(2, DF_STREAM_SPLIT, i));
    }
}

// ---- permutations ------------------------------------------------------------------------------

static void check_bijection(uint64_t seed, uint64_t n) {
    unsigned char *hit = df_alloc(n, 1);
    assert_non_null(hit);
    for (uint64_t i = 0; i < n; i++) {
        uint64_t to = df_random_permute(seed, DF_STREAM_SHUFFLE, n, i);
        assert_true(to < n);
        assert_int_equal(hit[to], 0);
        assert_int_equal(df_random_unpermute(seed, DF_STREAM_SHUFFLE, n, to), i);
        hit[to] = 1;
    }
    df_free(hit);
}

static void test_bijection(void **state) {
    (void)state;
    for (uint64_t n = 1; n <= 300; n++)
        for (uint64_t seed = 0; seed < 3; seed++) check_bijection(seed, n);
    static const uint64_t sizes[] = {1023, 1024, 1025, 4095, 4096, 4097, 16385, 65537, 100003};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) check_bijection(i, sizes[i]);
}

static void test_huge_permutations(void **state) {
    (void)state;
    static const uint64_t sizes[] = {UINT64_MAX, (UINT64_C(1) << 63) + 5, UINT64_C(1) << 32};
    for (size_t s = 0; s < 3; s++) {
        uint64_t seen[200];
        for (uint64_t i = 0; i < 200; i++) {
            seen[i] = df_random_permute(3, DF_STREAM_SHUFFLE, sizes[s], sizes[s] - 1 - i);
            assert_true(seen[i] < sizes[s]);
            for (uint64_t j = 0; j < i; j++) assert_true(seen[j] != seen[i]);
        }
    }
}

// Over many seeds every order of four elements comes about equally often.
static void test_all_orders(void **state) {
    (void)state;
    enum { SEEDS = 24000 };
    double counts[256] = {0}, chi = 0;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        unsigned code = 0;
        for (uint64_t i = 0; i < 4; i++)
            code = code << 2 | (unsigned)df_random_permute(seed, DF_STREAM_SHUFFLE, 4, i);
        counts[code]++;
    }
    int orders = 0;
    for (int c = 0; c < 256; c++) {
        orders += counts[c] > 0;
        if (counts[c] > 0) chi += pow(counts[c] - 1000, 2) / 1000;
    }
    assert_int_equal(orders, 24);
    assert_in_range((uintmax_t)chi, 5, 60); // 23 degrees of freedom: mean 23, deviation 7
}

// A shuffle leaves no trace of the order: positions before and after do not correlate.
static void test_no_order_left(void **state) {
    (void)state;
    const uint64_t n = 50000;
    double sum = 0, middle = (double)(n - 1) / 2, same = 0;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t to = df_random_permute(11, DF_STREAM_SHUFFLE, n, i);
        sum += ((double)i - middle) * ((double)to - middle);
        same += to == i;
    }
    double variance = ((double)n * (double)n - 1) / 12;
    assert_close(sum / (double)n / variance, 0, 0, 0.02);
    assert_true(same < 10);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_published_vectors), cmocka_unit_test(test_bits_are_philox),
        cmocka_unit_test(test_uniform),           cmocka_unit_test(test_normal),
        cmocka_unit_test(test_streams_are_apart), cmocka_unit_test(test_bijection),
        cmocka_unit_test(test_huge_permutations), cmocka_unit_test(test_all_orders),
        cmocka_unit_test(test_no_order_left),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
