/* Norm, bias, rotary positions and the gated activation: one pass over rows each. */
#include "darkfield/kernels.h"
#include "nn_lanes.h"

#include <math.h>

void df_rms_norm(const float *x, const float *gain, float epsilon, df_extent extent, float *y) {
    for (size_t r = 0; r < extent.rows; r++) {
        const float *row = x + r * extent.width;
        float *out = y + r * extent.width;
        float scale = 1.0f / sqrtf(sum_squares(row, extent.width) / (float)extent.width + epsilon);
        for (size_t i = 0; i < extent.width; i++) out[i] = row[i] * scale * gain[i];
    }
}

void df_add_rows(const float *bias, df_extent extent, float *x) {
    for (size_t r = 0; r < extent.rows; r++)
        for (size_t i = 0; i < extent.width; i++) x[r * extent.width + i] += bias[i];
}

static float sum_of(const float *x, size_t n) {
    float lane[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t j = 0; j < LANES; j++) lane[j] += x[i + j];
    for (size_t j = 0; i + j < n; j++) lane[j] += x[i + j];
    return add_lanes(lane);
}

void df_layer_norm(const float *x, const float *gain, const float *bias, float epsilon,
                   df_extent extent, float *y) {
    size_t n = extent.width;
    for (size_t r = 0; r < extent.rows; r++) {
        const float *row = x + r * n;
        float *out = y + r * n, mean = sum_of(row, n) / (float)n;
        for (size_t i = 0; i < n; i++) out[i] = row[i] - mean;
        float scale = 1.0f / sqrtf(sum_squares(out, n) / (float)n + epsilon);
        for (size_t i = 0; i < n; i++) out[i] = out[i] * scale * gain[i];
        for (size_t i = 0; i < n && bias != NULL; i++) out[i] += bias[i];
    }
}

static void rotate_head(const float *restrict cosine, const float *restrict sine, size_t half,
                        float *restrict x) {
    for (size_t i = 0; i < half; i++) {
        float a = x[i], b = x[i + half];
        x[i] = a * cosine[i] - b * sine[i];
        x[i + half] = b * cosine[i] + a * sine[i];
    }
}

void df_rotate(const float *cosine, const float *sine, df_heads heads, float *x) {
    size_t half = heads.turned / 2;
    for (size_t t = 0; t < heads.rows; t++)
        for (size_t h = 0; h < heads.heads; h++)
            rotate_head(cosine + t * half, sine + t * half, half,
                        x + (t * heads.heads + h) * heads.width);
}
