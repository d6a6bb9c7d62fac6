/* Conversions between fp32 and the 16-bit types of activation files, and the test for numbers that
 * are not finite. */
#include "darkfield/kernels.h"

#include "lanes.h"

#include <string.h>

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

static uint16_t load16(const void *in, size_t i) {
    uint16_t value;
    memcpy(&value, (const char *)in + 2 * i, sizeof value);
    return value;
}

/* ---- one number - */

static uint16_t to_bf16(float value) {
    uint32_t bits = bits_of(value);
    uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    uint32_t quiet = (bits >> 16) | 0x40u; // a NaN must not become infinity
    return (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
}

static float from_f16(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16, exponent = (half >> 10) & 31u;
    uint32_t fraction = half & 0x3ffu;
    if (exponent == 31)
        return float_of(sign | 0x7f800000u | fraction << 13 | (fraction != 0 ? 0x400000u : 0));
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

/* ---- the plain twins - */

void df_widen_bf16_plain(const void *in, float *out, size_t n) {
    for (size_t i = 0; i < n; i++) out[i] = float_of((uint32_t)load16(in, i) << 16);
}

void df_widen_f16_plain(const void *in, float *out, size_t n) {
    for (size_t i = 0; i < n; i++) out[i] = from_f16(load16(in, i));
}

void df_narrow_bf16_plain(const float *in, uint16_t *out, size_t n) {
    for (size_t i = 0; i < n; i++) out[i] = to_bf16(in[i]);
}

void df_narrow_f16_plain(const float *in, uint16_t *out, size_t n) {
    for (size_t i = 0; i < n; i++) out[i] = to_f16(in[i]);
}

bool df_all_finite_plain(const float *x, size_t n) {
    uint32_t bad = 0;
    for (size_t i = 0; i < n; i++) bad |= (bits_of(x[i]) & 0x7f800000u) == 0x7f800000u;
    return bad == 0;
}

/* ---- sixteen at a time - */

#ifdef __AVX512F__
#define SIXTEEN(statement)                                                                         \
    size_t i = 0;                                                                                  \
    for (; i + LANES <= n; i += LANES) statement
#else
#define SIXTEEN(statement) const size_t i = 0
#endif

void df_widen_bf16(const void *in, float *out, size_t n) {
    SIXTEEN(lanes_store(out + i, lanes_from_bf16(halves_load((const char *)in + 2 * i))));
    df_widen_bf16_plain((const char *)in + 2 * i, out + i, n - i);
}

void df_widen_f16(const void *in, float *out, size_t n) {
    SIXTEEN(lanes_store(out + i, lanes_from_f16(halves_load((const char *)in + 2 * i))));
    df_widen_f16_plain((const char *)in + 2 * i, out + i, n - i);
}

void df_narrow_bf16(const float *in, uint16_t *out, size_t n) {
    SIXTEEN(halves_store(out + i, lanes_to_bf16(lanes_load(in + i))));
    df_narrow_bf16_plain(in + i, out + i, n - i);
}

void df_narrow_f16(const float *in, uint16_t *out, size_t n) {
    SIXTEEN(halves_store(out + i, lanes_to_f16(lanes_load(in + i))));
    df_narrow_f16_plain(in + i, out + i, n - i);
}

bool df_all_finite(const float *x, size_t n) {
    int bad = 0;
    SIXTEEN(bad |= lanes_not_finite(lanes_load(x + i)));
    return bad == 0 && df_all_finite_plain(x + i, n - i);
}
