/* bf16 GEMM with fp32 sums, out of the screen's tiles: depth by depth, so that a part of the rows
 * stays in the second level of cache while the weights pass by. */
#include "pack.h"

#include <math.h>
#include <string.h>

#define DEPTH 512 // inputs packed at a time

bool df_bf16_is_quick(void) {
    return df_screen_quick(DF_SCREEN_BF16);
}

static size_t panels(size_t n, size_t lanes) {
    return (n + lanes - 1) / lanes;
}

static size_t depth_at(size_t first, size_t k) {
    return k - first < DEPTH ? k - first : DEPTH;
}

static size_t panel_bytes(size_t lanes, size_t depth) {
    return df_panel_bytes(DF_SCREEN_BF16, lanes, depth);
}

size_t df_bf16_weight_bytes(size_t n, size_t k) {
    size_t bytes = 0;
    for (size_t first = 0; first < k; first += DEPTH)
        bytes += panels(n, DF_TILE_LATENTS) * panel_bytes(DF_TILE_LATENTS, depth_at(first, k));
    return bytes;
}

size_t df_bf16_scratch_bytes(size_t m) {
    return panels(m, DF_TILE_ROWS) * panel_bytes(DF_TILE_ROWS, DEPTH);
}

// Packs n vectors of `depth` elements, `ld` apart, panel after panel.
static void pack_panels(const float *from, size_t n, size_t ld, df_panel panel, char *to) {
    float unit[DF_TILE_LATENTS], lost[DF_TILE_LATENTS];
    int32_t start[DF_TILE_LATENTS];
    for (size_t first = 0; first < n; first += panel.lanes) {
        size_t count = n - first < panel.lanes ? n - first : panel.lanes;
        panel.packed = to;
        df_pack(&panel, from + first * ld, ld, count, (df_packed){unit, lost, start});
        to += panel_bytes(panel.lanes, panel.width);
    }
}

void df_bf16_pack_weight(const float *w, size_t n, size_t k, void *packed) {
    char *to = packed;
    for (size_t first = 0; first < k; first += DEPTH) {
        df_panel panel = {DF_SCREEN_BF16, DF_TILE_LATENTS, depth_at(first, k), NULL};
        pack_panels(w + first, n, k, panel, to);
        to += panels(n, DF_TILE_LATENTS) * panel_bytes(DF_TILE_LATENTS, panel.width);
    }
}

// Adds a tile's products to C, or sets it at the first depth.
static void put_tile(const df_gemm_bf16 *g, size_t row, size_t column, bool first,
                     const float *product) {
    size_t rows = g->m - row < DF_TILE_ROWS ? g->m - row : DF_TILE_ROWS;
    size_t columns = g->n - column < DF_TILE_LATENTS ? g->n - column : DF_TILE_LATENTS;
    for (size_t r = 0; r < rows; r++) {
        float *c = g->c + (row + r) * g->ldc + column;
        const float *p = product + r * DF_TILE_LATENTS;
        if (first)
            memcpy(c, p, columns * sizeof *c);
        else
            for (size_t i = 0; i < columns; i++) c[i] += p[i];
    }
}

typedef uint32_t tile_kernel(const df_tile *tile, float *product, uint32_t *mask);

static void multiply_depth(const df_gemm_bf16 *g, size_t first, const char *weight,
                           tile_kernel *run) {
    static const float none[DF_TILE_LATENTS];
    float floor[DF_TILE_ROWS], product[DF_TILE_ENTRIES];
    uint32_t mask[DF_TILE_ROWS];
    size_t depth = depth_at(first, g->k);
    df_tile tile = {.screen = DF_SCREEN_BF16,
                    .width = depth,
                    .gain = none,
                    .lift = none,
                    .unit = none,
                    .floor = floor};
    for (size_t r = 0; r < DF_TILE_ROWS; r++) floor[r] = INFINITY;
    pack_panels(g->a + first, g->m, g->lda, (df_panel){DF_SCREEN_BF16, DF_TILE_ROWS, depth, NULL},
                g->scratch);
    for (size_t column = 0; column < g->n; column += DF_TILE_LATENTS) {
        tile.latents = weight;
        weight += panel_bytes(DF_TILE_LATENTS, depth);
        tile.rows = g->scratch;
        for (size_t row = 0; row < g->m; row += DF_TILE_ROWS) {
            run(&tile, product, mask);
            put_tile(g, row, column, first == 0, product);
            tile.rows = (const char *)tile.rows + panel_bytes(DF_TILE_ROWS, depth);
        }
    }
}

static void multiply(const df_gemm_bf16 *g, tile_kernel *run) {
    const char *weight = g->weight;
    for (size_t first = 0; first < g->k; first += DEPTH) {
        multiply_depth(g, first, weight, run);
        weight +=
            panels(g->n, DF_TILE_LATENTS) * panel_bytes(DF_TILE_LATENTS, depth_at(first, g->k));
    }
}

void df_gemm_bf16_nt(const df_gemm_bf16 *g) {
    multiply(g, df_screen_tile);
}

void df_gemm_bf16_nt_plain(const df_gemm_bf16 *g) {
    multiply(g, df_screen_tile_plain);
}
