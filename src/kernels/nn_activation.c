/* Activations of the MLP and the soft-cap, one pass over an array. */
#include "darkfield/kernels.h"
#include "nn_lanes.h"

#include <math.h>

// x / (1 + e^-2u) is x / 2 (1 + tanh u).
static inline float half_and_tanh(float x, float u) {
    return x / (1.0f + exp_lane(-2.0f * u));
}

// e^(z^2) erfc(z) for z >= 0 to 1.2e-7: a Chebyshev fit in t = 1 / (1 + z / 2) (Press et al.,
// Numerical Recipes, 6.2).
static inline float erfc_exponent(float t) {
    float p = 0.17087277f;
    p = p * t - 0.82215223f;
    p = p * t + 1.48851587f;
    p = p * t - 1.13520398f;
    p = p * t + 0.27886807f;
    p = p * t - 0.18628806f;
    p = p * t + 0.09678418f;
    p = p * t + 0.37409196f;
    p = p * t + 1.00002368f;
    return p * t - 1.26551223f;
}

static inline float gelu(float x) {
    float z = fabsf(x) * 0.70710678f, t = 1.0f / (1.0f + 0.5f * z);
    float half = 0.5f * t * exp_lane(erfc_exponent(t) - z * z); // erfc(z) / 2
    return x * (x > 0.0f ? 1.0f - half : half);
}

static void activate(df_activation_kind kind, size_t n, float *restrict x) {
    switch (kind) {
    case DF_ACT_SILU:
        for (size_t i = 0; i < n; i++) x[i] = x[i] / (1.0f + exp_lane(-x[i]));
        return;
    case DF_ACT_GELU:
        for (size_t i = 0; i < n; i++) x[i] = gelu(x[i]);
        return;
    case DF_ACT_GELU_TANH:
        for (size_t i = 0; i < n; i++)
            x[i] = half_and_tanh(x[i], 0.79788456f * (x[i] + 0.044715f * x[i] * x[i] * x[i]));
        return;
    case DF_ACT_RELU:
        for (size_t i = 0; i < n; i++) x[i] = x[i] < 0.0f ? 0.0f : x[i];
    }
}

void df_activate(df_activation_kind kind, const float *up, size_t n, float *x) {
    activate(kind, n, x);
    for (size_t i = 0; i < n && up != NULL; i++) x[i] *= up[i];
}

// 2 / (1 + e^-2u) - 1 loses digits near zero, where tanh u = u - u^3 / 3 + 2 u^5 / 15 is exact
// enough.
void df_soft_cap(float cap, size_t n, float *x) {
    for (size_t i = 0; i < n; i++) {
        float u = x[i] / cap, square = u * u;
        float near = u * (1.0f - square * (0.33333333f - square * 0.13333333f));
        float far = 2.0f / (1.0f + exp_lane(-2.0f * u)) - 1.0f;
        x[i] = cap * (square < 0.01f ? near : far);
    }
}
