/* Inside the screen's kernels. */
#ifndef DF_PACK_H
#define DF_PACK_H

#include "darkfield/kernels.h"

size_t df_screen_columns(df_screen screen); /* in a word */
size_t df_screen_words(df_screen screen, size_t width);

/* One product of a tile, and the masks of all, in plain C. */
float df_tile_product(const df_tile *tile, size_t row, size_t latent);
uint32_t df_tile_masks(const df_tile *tile, const float *product, uint32_t *mask);

/* Tiles for CPUs with AVX-512 (and its extension for the precision): call them only where
 * df_screen_quick says so. */
uint32_t df_tile_fp32_avx512(const df_tile *tile, float *product, uint32_t *mask);
uint32_t df_tile_bf16_avx512(const df_tile *tile, float *product, uint32_t *mask);
uint32_t df_tile_int8_avx512(const df_tile *tile, float *product, uint32_t *mask);
/* Where df_has_avx512(DF_SCREEN_FP32). */
void df_multiply_avx512(const float *left, const float *right, size_t n, bool add, float *out);
bool df_has_avx512(df_screen screen);
/* Where df_has_compress. */
size_t df_mask_places_avx512(const uint32_t *mask, uint16_t *place);
bool df_has_compress(void);

#endif
