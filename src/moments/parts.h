/* What the files of moments share. */
#ifndef DF_MOMENTS_PARTS_H
#define DF_MOMENTS_PARTS_H

#include "darkfield/moments.h"

#define TILE 256 // columns of a tile; z is padded to whole tiles
#define BLOCK_ROWS 1024

/* The tiles (i, j), i <= j, of the symmetric padded matrix, each [TILE, TILE] row-major, stored one
 * after another by rows of tiles. Diagonal tiles are whole. */
static inline size_t df_tiles_across(size_t width) {
    return (2 * width + TILE - 1) / TILE;
}
static inline size_t df_tiles_size(size_t width) {
    size_t t = df_tiles_across(width);
    return t * (t + 1) / 2 * TILE * TILE;
}
/* Where element (row, column) of the [2 width, 2 width] matrix stands, row and column in any order.
 */
static inline size_t df_tiles_at(size_t width, size_t row, size_t column) {
    size_t t = df_tiles_across(width);
    if (row / TILE > column / TILE) {
        size_t swap = row;
        row = column;
        column = swap;
    }
    size_t i = row / TILE, j = column / TILE, tile = i * t - i * (i + 1) / 2 + j;
    return (tile * TILE + row % TILE) * TILE + column % TILE;
}

#endif
