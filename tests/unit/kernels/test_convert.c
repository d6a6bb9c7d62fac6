/* 16-bit numbers: every pattern both ways, rounding between all neighbours, fast and plain the same
 * bits at every length and alignment. The values come from the definition of the formats. */
#include "df_test.h"

#include "darkfield/kernels.h"

enum { ALL = 65536 };

typedef struct format {
    int exponent_bits, bias;
    void (*widen)(const void *, float *, size_t), (*widen_plain)(const void *, float *, size_t);
    void (*narrow)(const float *, uint16_t *, size_t);
    void (*narrow_plain)(const float *, uint16_t *, size_t);
} format;

static const format formats[2] = {
    {8, 127, df_widen_bf16, df_widen_bf16_plain, df_narrow_bf16, df_narrow_bf16_plain},
    {5, 15, df_widen_f16, df_widen_f16_plain, df_narrow_f16, df_narrow_f16_plain}};

static uint16_t pattern[ALL], back[ALL], back_plain[ALL];
static float wide[ALL], wide_plain[ALL];

static void fill(void) {
    for (size_t i = 0; i < ALL; i++) pattern[i] = (uint16_t)i;
}

static double exact(uint16_t bits, const format *f) {
    int fraction_bits = 15 - f->exponent_bits;
    int exponent = (bits >> fraction_bits) & ((1 << f->exponent_bits) - 1);
    double fraction = bits & ((1 << fraction_bits) - 1), sign = (bits & 0x8000) != 0 ? -1 : 1;
    if (exponent == 0) return sign * ldexp(fraction, 1 - f->bias - fraction_bits);
    return sign * ldexp(1 + ldexp(fraction, -fraction_bits), exponent - f->bias);
}

static void every_pattern_both_ways(void **state) {
    (void)state;
    fill();
    for (const format *f = formats; f < formats + 2; f++) {
        uint32_t special = ((1u << f->exponent_bits) - 1u) << (15 - f->exponent_bits);
        f->widen(pattern, wide, ALL);
        f->widen_plain(pattern, wide_plain, ALL);
        assert_memory_equal(wide, wide_plain, sizeof wide);
        f->narrow(wide, back, ALL);
        f->narrow_plain(wide, back_plain, ALL);
        assert_memory_equal(back, back_plain, sizeof back);
        for (uint32_t i = 0; i < ALL; i++) {
            bool nan = (i & special) == special && (i & 0x7fffu) != special;
            if (nan) {
                assert_true(isnan(wide[i]) && (back[i] & special) == special &&
                            (back[i] & 0x7fffu) != special);
            } else if ((i & special) == special) {
                assert_true(isinf(wide[i]) && back[i] == i);
            } else {
                assert_true((double)wide[i] == exact((uint16_t)i, f) && back[i] == i);
            }
        }
    }
}

// Between neighbours the nearer one, in the middle the even one; the last "neighbour" is infinity.
static void to_nearest_even(void **state) {
    (void)state;
    fill();
    for (const format *f = formats; f < formats + 2; f++) {
        uint16_t infinite = (uint16_t)(((1u << f->exponent_bits) - 1u) << (15 - f->exponent_bits));
        for (uint16_t i = 0; i < infinite; i++) {
            double a = exact(i, f), b = exact((uint16_t)(i + 1), f);
            float middle = (float)(a + (b - a) / 2);
            float in[4] = {middle, nextafterf(middle, 0), nextafterf(middle, INFINITY), -middle};
            uint16_t even = (uint16_t)(i + (i & 1)), out[4], plain[4];
            f->narrow(in, out, 4);
            f->narrow_plain(in, plain, 4);
            assert_memory_equal(out, plain, sizeof out);
            assert_int_equal(out[0], even);
            assert_int_equal(out[1], i);
            assert_int_equal(out[2], i + 1);
            assert_int_equal(out[3], even | 0x8000);
        }
    }
}

// Patterns over all of fp32, subnormals, NaNs of either kind and infinities among them.
static void fast_is_plain_on_any_float(void **state) {
    (void)state;
    for (uint64_t round = 0; round < 20; round++) {
        for (uint64_t i = 0; i < ALL; i++) {
            uint32_t bits = (uint32_t)df_random_bits(1, DF_STREAM_TEST, round * ALL + i);
            if (i % 7 == 0) bits &= 0x807fffffu;
            if (i % 11 == 0) bits |= 0x7f800000u;
            if (i % 13 == 0) bits = (bits & 0x8fffffffu) | 0x30000000u; // about f16's smallest
            memcpy(&wide[i], &bits, sizeof bits);
        }
        for (const format *f = formats; f < formats + 2; f++) {
            f->narrow(wide, back, ALL);
            f->narrow_plain(wide, back_plain, ALL);
            assert_memory_equal(back, back_plain, sizeof back);
        }
    }
}

static void any_length_and_alignment(void **state) {
    (void)state;
    char shifted[2 * 100 + 1];
    for (uint64_t i = 0; i < 100; i++) pattern[i] = (uint16_t)df_random_bits(2, DF_STREAM_TEST, i);
    for (const format *f = formats; f < formats + 2; f++)
        for (size_t n = 0; n < 100; n++) {
            memcpy(shifted + 1, pattern, 2 * n);
            memset(wide, 0, 101 * sizeof *wide);
            memset(wide_plain, 0, 101 * sizeof *wide);
            f->widen(shifted + 1, wide, n);
            f->widen_plain(pattern, wide_plain, n);
            assert_memory_equal(wide, wide_plain, 101 * sizeof *wide);
            memset(back, 0x55, 101 * sizeof *back);
            memset(back_plain, 0x55, 101 * sizeof *back);
            f->narrow(wide, back, n);
            f->narrow_plain(wide, back_plain, n);
            assert_memory_equal(back, back_plain, 101 * sizeof *back);
        }
}

static void finds_what_is_not_finite(void **state) {
    (void)state;
    const float bad[3] = {NAN, INFINITY, -INFINITY};
    for (size_t n = 1; n < 70; n++) {
        for (size_t i = 0; i < n; i++) wide[i] = i % 2 ? 3e38f : -1e-42f;
        assert_true(df_all_finite(wide, n) && df_all_finite_plain(wide, n));
        for (size_t i = 0; i < n; i++) {
            float good = wide[i];
            wide[i] = bad[i % 3];
            assert_false(df_all_finite(wide, n) || df_all_finite_plain(wide, n));
            assert_true(df_all_finite(wide, i));
            wide[i] = good;
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_pattern_both_ways),    cmocka_unit_test(to_nearest_even),
        cmocka_unit_test(fast_is_plain_on_any_float), cmocka_unit_test(any_length_and_alignment),
        cmocka_unit_test(finds_what_is_not_finite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
