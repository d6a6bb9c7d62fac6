/* Sums, maxima and exponentials that a compiler turns into vector code without reordering: LANES
 * partial results, combined in one fixed order. Private to the transformer kernels. */
#ifndef DF_KERNELS_NN_LANES_H
#define DF_KERNELS_NN_LANES_H

#include <stddef.h>
#include <stdint.h>

#define LANES 16

typedef union float_bits {
    float value;
    uint32_t bits;
} float_bits;

/* e^x to 2 units in the last place for -87 <= x <= 88, clamped outside; NaN stays NaN. (Cody and
 * Waite reduction to |r| <= ln 2 / 2, then a polynomial; the power of two is built in the exponent
 * bits.) */
static inline float exp_lane(float x) {
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    float_bits shifted = {.value =
                              x * 1.44269504f + 12582912.0f}; // the nearest integer in the low bits
    float n = shifted.value - 12582912.0f;
    float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    float_bits power = {.bits = (shifted.bits - 0x4B400000u + 127u) << 23};
    return (p * r * r + r + 1.0f) * power.value;
}

static inline float add_lanes(const float lane[static LANES]) {
    float half[LANES / 2], quarter[LANES / 4];
    for (size_t i = 0; i < LANES / 2; i++) half[i] = lane[i] + lane[i + LANES / 2];
    for (size_t i = 0; i < LANES / 4; i++) quarter[i] = half[i] + half[i + LANES / 4];
    return (quarter[0] + quarter[2]) + (quarter[1] + quarter[3]);
}

static inline float sum_squares(const float *x, size_t n) {
    float lane[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t j = 0; j < LANES; j++) lane[j] += x[i + j] * x[i + j];
    for (size_t j = 0; i + j < n; j++) lane[j] += x[i + j] * x[i + j];
    return add_lanes(lane);
}

static inline float largest(const float *x, size_t n) { // n >= 1
    float lane[LANES];
    for (size_t j = 0; j < LANES; j++) lane[j] = x[0];
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t j = 0; j < LANES; j++) lane[j] = x[i + j] > lane[j] ? x[i + j] : lane[j];
    for (size_t j = 0; i + j < n; j++) lane[j] = x[i + j] > lane[j] ? x[i + j] : lane[j];
    float best = lane[0];
    for (size_t j = 1; j < LANES; j++) best = lane[j] > best ? lane[j] : best;
    return best;
}

#endif
