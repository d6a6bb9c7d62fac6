/* The screen's tiles: which code this CPU runs, and the form for any CPU.
 *
 * A tile is 14 rows by 32 latents: 28 registers of 16 sums, and 4 left for operands. */
#include "pack.h"

#include "lanes.h"

#include <string.h>

#define SUM_ROWS 2 // what 16 registers of 8 hold
_Static_assert(DF_TILE_ROWS % SUM_ROWS == 0 && DF_TILE_LATENTS == 2 * LANES, "tile shape");

typedef float vector __attribute__((vector_size(64), aligned(4), may_alias));

const char *df_screen_name(df_screen screen) {
    static const char *const names[] = {"plain", "fp32", "bf16", "int8"};
    return names[screen];
}

bool df_screen_quick(df_screen screen) {
    return screen == DF_SCREEN_FP32 || (screen != DF_SCREEN_PLAIN && df_has_avx512(screen));
}

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

static uint32_t tile_fp32(const df_tile *t, float *product, uint32_t *mask) {
    for (size_t row = 0; row < DF_TILE_ROWS; row += SUM_ROWS) multiply_fp32(t, row, product);
    return df_tile_masks(t, product, mask);
}

uint32_t df_screen_tile(const df_tile *t, float product[static DF_TILE_ENTRIES],
                        uint32_t mask[static DF_TILE_ROWS]) {
    if (t->screen != DF_SCREEN_PLAIN && df_has_avx512(t->screen)) {
        if (t->screen == DF_SCREEN_INT8) return df_tile_int8_avx512(t, product, mask);
        if (t->screen == DF_SCREEN_BF16) return df_tile_bf16_avx512(t, product, mask);
        return df_tile_fp32_avx512(t, product, mask);
    }
    return t->screen == DF_SCREEN_FP32 ? tile_fp32(t, product, mask)
                                       : df_screen_tile_plain(t, product, mask);
}

size_t df_mask_places_plain(const uint32_t mask[static DF_TILE_ROWS],
                            uint16_t place[static DF_TILE_PLACES]) {
    size_t n = 0;
    for (size_t r = 0; r < DF_TILE_ROWS; r++)
        for (uint32_t left = mask[r]; left != 0; left &= left - 1)
            place[n++] = (uint16_t)(r * DF_TILE_LATENTS + (size_t)__builtin_ctz(left));
    return n;
}

size_t df_mask_places(const uint32_t mask[static DF_TILE_ROWS],
                      uint16_t place[static DF_TILE_PLACES]) {
    return df_has_compress() ? df_mask_places_avx512(mask, place)
                             : df_mask_places_plain(mask, place);
}
