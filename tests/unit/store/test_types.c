/* Element types: names, and conversions checked on every 16-bit pattern and against exact
 * arithmetic. */
#include "df_test.h"

#include "darkfield/store.h"

static float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint16_t narrow(df_type type, float value) {
    uint16_t out;
    df_from_f32(type, &value, &out, 1);
    return out;
}

static float widen(df_type type, uint16_t bits) {
    float out;
    df_to_f32(type, &bits, &out, 1);
    return out;
}

static void names_are_read_in_either_case(void **state) {
    (void)state;
    df_type type;
    assert_ok(df_type_parse("BF16", &type));
    assert_int_equal(type, DF_BF16);
    assert_ok(df_type_parse("f32", &type));
    assert_string_equal(df_type_name(type), "f32");
    assert_int_equal(df_type_bytes(DF_F64), 8);
    assert_fails(df_type_parse("fp8", &type), DF_BAD_INPUT, "bf16");
}

// The value of a 16-bit pattern, by the definition of the format.
static double exact(uint16_t bits, int exponent_bits, int bias) {
    int fraction_bits = 15 - exponent_bits;
    int exponent = (bits >> fraction_bits) & ((1 << exponent_bits) - 1);
    double fraction = bits & ((1 << fraction_bits) - 1), sign = (bits & 0x8000) != 0 ? -1 : 1;
    if (exponent == 0) return sign * ldexp(fraction, 1 - bias - fraction_bits);
    return sign * ldexp(1 + ldexp(fraction, -fraction_bits), exponent - bias);
}

static void check_all_patterns(df_type type, int exponent_bits, int bias) {
    uint32_t special = ((1u << exponent_bits) - 1u) << (15 - exponent_bits);
    for (uint32_t bits = 0; bits < 65536; bits++) {
        float value = widen(type, (uint16_t)bits);
        if ((bits & special) == special) {
            assert_true((bits & 0x7fffu) == special ? isinf(value) : isnan(value));
            assert_true((narrow(type, value) & special) == special);
            continue;
        }
        assert_true((double)value == exact((uint16_t)bits, exponent_bits, bias));
        assert_int_equal(narrow(type, value), bits); // the sign of zero too
    }
}

static void every_pattern_survives(void **state) {
    (void)state;
    check_all_patterns(DF_BF16, 8, 127);
    check_all_patterns(DF_F16, 5, 15);
}

// Between neighbours a < b the result is the nearer one, in the middle the even one.
static void check_rounding(df_type type, uint16_t last) {
    for (uint32_t bits = 0; bits < last; bits++) {
        double a = (double)widen(type, (uint16_t)bits),
               b = (double)widen(type, (uint16_t)(bits + 1));
        float middle = (float)(a + (b - a) / 2); // exact: fp32 has more bits
        uint16_t even = (uint16_t)(bits + (bits & 1));
        assert_int_equal(narrow(type, middle), even);
        assert_int_equal(narrow(type, nextafterf(middle, 0)), bits);
        assert_int_equal(narrow(type, nextafterf(middle, INFINITY)), bits + 1);
        assert_int_equal(narrow(type, -middle), even | 0x8000);
    }
}

static void rounding_is_to_nearest_even(void **state) {
    (void)state;
    check_rounding(DF_BF16, 0x7f7f);
    check_rounding(DF_F16, 0x7bff);
}

static void overflow_becomes_infinity_and_nan_stays(void **state) {
    (void)state;
    assert_int_equal(narrow(DF_F16, 65519.996f), 0x7bff);
    assert_int_equal(narrow(DF_F16, 65520.0f), 0x7c00);
    assert_int_equal(narrow(DF_F16, -1e30f), 0xfc00);
    assert_int_equal(narrow(DF_BF16, 3.4e38f), 0x7f80);
    assert_int_equal(narrow(DF_F16, 1e-10f), 0);
    assert_true((narrow(DF_BF16, float_of(0x7f800001u)) & 0x7fu) != 0);
    assert_true((narrow(DF_F16, float_of(0x7f800001u)) & 0x3ffu) != 0);
}

static void other_types_convert(void **state) {
    (void)state;
    double wide[2] = {0.1, -2};
    float narrow_values[2];
    df_to_f32(DF_F64, wide, narrow_values, 2);
    assert_true(narrow_values[0] == 0.1f && narrow_values[1] == -2.0f);
    df_from_f32(DF_F64, narrow_values, wide, 2);
    assert_true(wide[0] == (double)0.1f);
    df_from_f32(DF_F32, narrow_values, wide, 2);
    assert_memory_equal(wide, narrow_values, 8);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_are_read_in_either_case),
        cmocka_unit_test(every_pattern_survives),
        cmocka_unit_test(rounding_is_to_nearest_even),
        cmocka_unit_test(overflow_becomes_infinity_and_nan_stays),
        cmocka_unit_test(other_types_convert),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
