/* Element types and their conversion to and from fp32. */
#include "darkfield/store.h"

#include <assert.h>
#include <string.h>
#include <strings.h>

static const struct {
    const char *name;
    size_t bytes;
} types[] = {
    [DF_U8] = {"u8", 1},     [DF_U32] = {"u32", 4}, [DF_U64] = {"u64", 8}, [DF_I64] = {"i64", 8},
    [DF_BF16] = {"bf16", 2}, [DF_F16] = {"f16", 2}, [DF_F32] = {"f32", 4}, [DF_F64] = {"f64", 8},
};

size_t df_type_bytes(df_type type) {
    return types[type].bytes;
}

const char *df_type_name(df_type type) {
    return types[type].name;
}

df_status df_type_parse(const char *name, df_type *out) {
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        if (strcasecmp(name, types[i].name) != 0) continue;
        *out = (df_type)i;
        return DF_OK;
    }
    return df_fail(DF_BAD_INPUT,
                   "unknown element type \"%s\": expected u8, u32, u64, i64, bf16, f16, f32 or f64",
                   name);
}

static uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

// Round to nearest, ties to even. A NaN stays one: its top payload bit is set, so that it cannot
// become infinity.
static uint16_t to_bf16(float value) {
    uint32_t bits = bits_of(value);
    uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    uint32_t quiet = (bits >> 16) | 0x40u;
    return (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
}

static float from_f16(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16, exponent = (half >> 10) & 31u;
    uint32_t fraction = half & 0x3ffu;
    if (exponent == 31) return float_of(sign | 0x7f800000u | fraction << 13);
    if (exponent != 0) return float_of(sign | (exponent + 112u) << 23 | fraction << 13);
    float magnitude = (float)fraction * 0x1p-24f; // subnormal, exact
    return sign != 0 ? -magnitude : magnitude;
}

// Shifts right by n >= 1 bits, to nearest, ties to even.
static uint32_t shift_round(uint32_t value, uint32_t n) {
    uint32_t kept = value >> n, rest = value & ((1u << n) - 1u), half = 1u << (n - 1u);
    return kept + (rest > half || (rest == half && (kept & 1u) != 0));
}

static uint16_t to_f16(float value) {
    uint32_t bits = bits_of(value), magnitude = bits & 0x7fffffffu;
    uint32_t sign = (bits >> 16) & 0x8000u;
    if (magnitude > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu)); // NaN, quiet
    if (magnitude >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u);      // 65520 and above
    // Normal: the carry of rounding moves into the exponent, as it must.
    if (magnitude >= 0x38800000u)
        return (uint16_t)(sign | shift_round(magnitude - 0x38000000u, 13));
    uint32_t shift = 126u - (magnitude >> 23); // subnormal: units of 2^-24
    if (shift > 24) return (uint16_t)sign;
    return (uint16_t)(sign | shift_round((magnitude & 0x7fffffu) | 0x800000u, shift));
}

static uint16_t load16(const void *in, size_t i) {
    uint16_t value;
    memcpy(&value, (const char *)in + 2 * i, sizeof value);
    return value;
}

static void f64_to_f32(const void *in, float *out, size_t n) {
    for (size_t i = 0; i < n; i++) {
        double value;
        memcpy(&value, (const char *)in + 8 * i, sizeof value);
        out[i] = (float)value;
    }
}

// `in` may be unaligned: it can point into a mapped file.
void df_to_f32(df_type from, const void *in, float *out, size_t n) {
    if (n == 0) return;
    switch (from) {
    case DF_F32:
        memcpy(out, in, 4 * n);
        return;
    case DF_BF16:
        for (size_t i = 0; i < n; i++) out[i] = float_of((uint32_t)load16(in, i) << 16);
        return;
    case DF_F16:
        for (size_t i = 0; i < n; i++) out[i] = from_f16(load16(in, i));
        return;
    case DF_F64:
        f64_to_f32(in, out, n);
        return;
    default:
        assert(false && "df_to_f32 takes floating-point types");
    }
}

void df_from_f32(df_type to, const float *in, void *out, size_t n) {
    uint16_t *halves = out;
    if (n == 0) return;
    switch (to) {
    case DF_F32:
        memcpy(out, in, 4 * n);
        return;
    case DF_BF16:
        for (size_t i = 0; i < n; i++) halves[i] = to_bf16(in[i]);
        return;
    case DF_F16:
        for (size_t i = 0; i < n; i++) halves[i] = to_f16(in[i]);
        return;
    case DF_F64:
        for (size_t i = 0; i < n; i++) ((double *)out)[i] = (double)in[i];
        return;
    default:
        assert(false && "df_from_f32 takes floating-point types");
    }
}
