/* Packed panels of the screen, their rounding, and the plain twin of a tile. */
#include "darkfield/kernels.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* ---- bf16 -------------------------------------------------------------------------------------- */

/* Round to nearest even; what bf16 could only hold as a subnormal becomes zero, as the CPU would read it. Finite x below 3e38. */
static uint32_t round_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
    return (rounded & 0x7f80u) != 0 ? rounded : 0;
}

static float widen(uint32_t half) {
    uint32_t bits = half << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

float df_bf16_pair(uint32_t a, uint32_t b) {
    return widen(a & 0xffffu) * widen(b & 0xffffu) + widen(a >> 16) * widen(b >> 16);
}

/* ---- packing ----------------------------------------------------------------------------------- */

size_t df_panel_bytes(df_precision precision, size_t lanes, size_t width) {
    return lanes * sizeof(float) * (precision == DF_SCREEN_BF16 ? (width + 1) / 2 : width);
}

static void pack_fp32(const df_panel *to, size_t lane, const float *row) {
    float *out = (float *)to->packed + lane;
    for (size_t c = 0; c < to->width; c++) out[c * to->lanes] = row != NULL ? row[c] : 0.0f;
}

/* A row rounded 64 columns at a time, so that rounding vectorises and the scattered stores stay near. */
static float pack_bf16(const df_panel *to, size_t lane, const float *row) {
    uint32_t *out = (uint32_t *)to->packed + lane;
    double lost = 0.0;
    for (size_t c = 0; c < to->width; c += 64) {
        size_t n = to->width - c < 64 ? to->width - c : 64;
        uint32_t half[64] = {0};
        float gone[64];
        for (size_t i = 0; i < n; i++) half[i] = round_bf16(row[c + i]);
        for (size_t i = 0; i < n; i++) gone[i] = row[c + i] - widen(half[i]);
        for (size_t i = 0; i < (n + 1) / 2; i++) out[(c / 2 + i) * to->lanes] = half[2 * i] | half[2 * i + 1] << 16;
        lost += df_sum_squares(gone, n);
    }
    return (float)(sqrt(lost) * (1.0 + 1e-6) + (double)FLT_MIN);
}

void df_pack(const df_panel *to, const float *rows, size_t count, float *lost) {
    if (count < to->lanes) memset(to->packed, 0, df_panel_bytes(to->precision, to->lanes, to->width));
    for (size_t i = 0; i < count; i++) {
        const float *row = rows + i * to->width;
        lost[i] = 0.0f;
        if (to->precision == DF_SCREEN_BF16) lost[i] = pack_bf16(to, i, row);
        else pack_fp32(to, i, row);
    }
}

void df_panel_copy(const df_panel *to, size_t lane, const df_panel *from, size_t from_lane) {
    uint32_t *out = (uint32_t *)to->packed + lane;
    const uint32_t *in = (const uint32_t *)from->packed + from_lane;
    size_t words = df_panel_bytes(to->precision, 1, to->width) / sizeof *out;
    for (size_t i = 0; i < words; i++) out[i * to->lanes] = in[i * from->lanes];
}

/* ---- the twin ---------------------------------------------------------------------------------- */

static float product_plain(const df_tile *t, size_t row, size_t latent) {
    const float *a = (const float *)t->rows + row, *b = (const float *)t->latents + latent;
    const uint32_t *pair_a = (const uint32_t *)t->rows + row, *pair_b = (const uint32_t *)t->latents + latent;
    double sum = 0.0;
    for (size_t k = 0; k < t->width && t->precision == DF_SCREEN_FP32; k++)
        sum += (double)a[k * DF_TILE_ROWS] * (double)b[k * DF_TILE_LATENTS];
    for (size_t k = 0; k < (t->width + 1) / 2 && t->precision == DF_SCREEN_BF16; k++)
        sum += (double)df_bf16_pair(pair_a[k * DF_TILE_ROWS], pair_b[k * DF_TILE_LATENTS]);
    return (float)sum;
}

size_t df_screen_tile_plain(const df_tile *t, float *upper, uint32_t *label, uint32_t counts[static DF_TILE_ROWS]) {
    size_t kept = 0;
    for (size_t r = 0; r < DF_TILE_ROWS; r++) {
        counts[r] = 0;
        for (size_t l = 0; l < DF_TILE_LATENTS; l++) {
            float u = product_plain(t, r, l) * t->scale[l] + t->lift[l] + t->norm[r] * t->slack[l] + t->lost[r] * t->length[l];
            if (!(u >= t->floor[r])) continue;
            upper[kept] = u;
            label[kept++] = t->first + (uint32_t)l;
            counts[r]++;
        }
    }
    return kept;
}
