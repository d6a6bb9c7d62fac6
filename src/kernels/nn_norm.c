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

static void rotate_head(const float *restrict cosine, const float *restrict sine, size_t half,
                        float *restrict x) {
    for (size_t i = 0; i < half; i++) {
        float a = x[i], b = x[i + half];
        x[i] = a * cosine[i] - b * sine[i];
        x[i + half] = b * cosine[i] + a * sine[i];
    }
}

void df_rotate(const float *cosine, const float *sine, size_t head_width, df_extent rows_heads,
               float *x) {
    size_t half = head_width / 2;
    for (size_t t = 0; t < rows_heads.rows; t++)
        for (size_t h = 0; h < rows_heads.width; h++)
            rotate_head(cosine + t * half, sine + t * half, half,
                        x + (t * rows_heads.width + h) * head_width);
}

void df_silu_gate(const float *up, size_t n, float *gate) {
    for (size_t i = 0; i < n; i++) gate[i] = gate[i] / (1.0f + exp_lane(-gate[i])) * up[i];
}
