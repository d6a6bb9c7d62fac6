/* The screen: products of packed rows and latents in register tiles, compared with each row's floor before they leave the cache.
 *
 * A tile is 14 rows by 32 latents: 28 registers of 16 sums, and 4 left for operands. Rows stand in panels [width, 14], latents in
 * panels [width, 32]; in bf16 two neighbouring columns share a 32-bit word. This file is compiled with contraction allowed: a
 * screened product is never used as a value, only within its bound. */
#include "darkfield/kernels.h"

#include "lanes.h"

#include <string.h>

#ifdef __AVX512F__
#define SUM_ROWS DF_TILE_ROWS
#else
#define SUM_ROWS 2 // what 16 registers of 8 hold
#endif
_Static_assert(DF_TILE_ROWS % SUM_ROWS == 0 && DF_TILE_LATENTS == 2 * LANES, "tile shape");

typedef float vector __attribute__((vector_size(64), aligned(4), may_alias));

/* ---- products ---------------------------------------------------------------------------------- */

static void multiply_fp32(const df_tile *t, size_t row, float *out) {
    const float *a = (const float *)t->rows + row, *b = t->latents;
    vector sum[SUM_ROWS][2] = {{{0.0f}}};
    for (size_t k = 0; k < t->width; k++) {
        vector b0 = *(const vector *)b, b1 = *(const vector *)(b + LANES);
        for (size_t i = 0; i < SUM_ROWS; i++) {
            sum[i][0] += a[i] * b0;
            sum[i][1] += a[i] * b1;
        }
        a += DF_TILE_ROWS;
        b += DF_TILE_LATENTS;
    }
    memcpy(out + row * DF_TILE_LATENTS, sum, sizeof sum);
}

#ifdef __AVX512BF16__
static void multiply_bf16(const df_tile *t, float *out) {
    const int32_t *a = t->rows;
    const char *b = t->latents;
    __m512 sum[DF_TILE_ROWS][2];
    for (size_t i = 0; i < DF_TILE_ROWS; i++) sum[i][0] = sum[i][1] = _mm512_setzero_ps();
    for (size_t k = 0; k < (t->width + 1) / 2; k++) {
        __m512bh b0 = (__m512bh)_mm512_loadu_si512(b), b1 = (__m512bh)_mm512_loadu_si512(b + 64);
        for (size_t i = 0; i < DF_TILE_ROWS; i++) {
            __m512bh pair = (__m512bh)_mm512_set1_epi32(a[i]);
            sum[i][0] = _mm512_dpbf16_ps(sum[i][0], pair, b0);
            sum[i][1] = _mm512_dpbf16_ps(sum[i][1], pair, b1);
        }
        a += DF_TILE_ROWS;
        b += 128;
    }
    memcpy(out, sum, sizeof sum);
}

df_precision df_screen_best(void) {
    return DF_SCREEN_BF16;
}
#else
static void multiply_bf16(const df_tile *t, float *out) { // never chosen; correct all the same
    const uint32_t *a = t->rows, *b = t->latents;
    for (size_t i = 0; i < DF_TILE_ROWS * DF_TILE_LATENTS; i++) {
        size_t row = i / DF_TILE_LATENTS, latent = i % DF_TILE_LATENTS;
        out[i] = 0.0f;
        for (size_t k = 0; k < (t->width + 1) / 2; k++)
            out[i] += df_bf16_pair(a[k * DF_TILE_ROWS + row], b[k * DF_TILE_LATENTS + latent]);
    }
}

df_precision df_screen_best(void) {
    return DF_SCREEN_FP32;
}
#endif

/* ---- the tile ---------------------------------------------------------------------------------- */

size_t df_screen_tile(const df_tile *t, float *upper, uint32_t *label, uint32_t counts[static DF_TILE_ROWS]) {
    float product[DF_TILE_ROWS * DF_TILE_LATENTS] __attribute__((aligned(64)));
    size_t kept = 0;
    if (t->precision == DF_SCREEN_BF16) multiply_bf16(t, product);
    else
        for (size_t row = 0; row < DF_TILE_ROWS; row += SUM_ROWS) multiply_fp32(t, row, product);
    for (size_t r = 0; r < DF_TILE_ROWS; r++) {
        lanes floor_ = lanes_all(t->floor[r]), norm = lanes_all(t->norm[r]), lost = lanes_all(t->lost[r]);
        size_t before = kept;
        for (size_t i = 0; i < DF_TILE_LATENTS; i += LANES) {
            lanes u = lanes_fma(lanes_load(product + r * DF_TILE_LATENTS + i), lanes_load(t->scale + i), lanes_load(t->lift + i));
            u = lanes_fma(norm, lanes_load(t->slack + i), u);
            u = lanes_fma(lost, lanes_load(t->length + i), u);
            kept += lanes_keep(u, floor_, t->first + (uint32_t)i, upper + kept, label + kept);
        }
        counts[r] = (uint32_t)(kept - before);
    }
    return kept;
}
