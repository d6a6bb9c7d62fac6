/* Products of whole tiles, in plain fp32 and in the order of df_dot. */
#include "pack.h"

#include "lanes.h"

#include <string.h>

#define SUM_ROWS 2 // whose 64 sums fit the registers of most CPUs

/* ---- plain order ---------------------------------------------------------------------------- */

void df_multiply_tile_plain(const float *left, const float *right, size_t n, bool add,
                            float out[static DF_TILE_ENTRIES]) {
    for (size_t r = 0; r < DF_TILE_ROWS; r++)
        for (size_t l = 0; l < DF_TILE_LATENTS; l++) {
            float sum = 0.0f;
            for (size_t k = 0; k < n; k++)
                sum = fmaf(left[k * DF_TILE_ROWS + r], right[k * DF_TILE_LATENTS + l], sum);
            out[r * DF_TILE_LATENTS + l] = add ? out[r * DF_TILE_LATENTS + l] + sum : sum;
        }
}

static void put(float *to, lanes sum, bool add) {
    lanes_store(to, add ? lanes_add(lanes_load(to), sum) : sum);
}

static void multiply_rows(const float *left, const float *right, size_t n, bool add, float *out) {
    lanes sum[SUM_ROWS][2];
    for (size_t i = 0; i < SUM_ROWS; i++) sum[i][0] = sum[i][1] = lanes_all(0.0f);
    for (size_t k = 0; k < n; k++, left += DF_TILE_ROWS, right += DF_TILE_LATENTS) {
        lanes b0 = lanes_load(right), b1 = lanes_load(right + LANES);
        for (size_t i = 0; i < SUM_ROWS; i++) {
            sum[i][0] = lanes_fma(lanes_all(left[i]), b0, sum[i][0]);
            sum[i][1] = lanes_fma(lanes_all(left[i]), b1, sum[i][1]);
        }
    }
    for (size_t i = 0; i < SUM_ROWS; i++) {
        put(out + i * DF_TILE_LATENTS, sum[i][0], add);
        put(out + i * DF_TILE_LATENTS + LANES, sum[i][1], add);
    }
}

void df_multiply_tile(const float *left, const float *right, size_t n, bool add,
                      float out[static DF_TILE_ENTRIES]) {
    if (df_has_avx512(DF_SCREEN_FP32)) {
        df_multiply_avx512(left, right, n, add, out);
        return;
    }
    for (size_t r = 0; r < DF_TILE_ROWS; r += SUM_ROWS)
        multiply_rows(left + r, right, n, add, out + r * DF_TILE_LATENTS);
}

/* ---- df_dot's order ------------------------------------------------------------------------- */

static size_t steps_of(size_t n) {
    return (n + LANES - 1) / LANES;
}

size_t df_dot_floats(size_t n) {
    return LANES * steps_of(n);
}

void df_pack_dots(const float *from, df_extent extent, size_t ld, size_t lanes_of, float *to) {
    size_t n = extent.width, steps = steps_of(n);
    if (extent.rows < lanes_of || n % LANES != 0)
        memset(to, 0, df_dot_floats(n) * lanes_of * sizeof *to);
    for (size_t v = 0; v < extent.rows; v++)
        for (size_t i = 0; i < n; i++)
            to[(i % LANES * steps + i / LANES) * lanes_of + v] = from[v * ld + i];
}

typedef struct dots {
    const float *left, *right;
    size_t steps;
} dots;

static void one_lane(const dots *d, size_t lane, bool add, float *out) {
    size_t at = lane * d->steps;
    df_multiply_tile(d->left + at * DF_TILE_ROWS, d->right + at * DF_TILE_LATENTS, d->steps, add,
                     out);
}

/* The sum of lanes that lie `apart`, beginning with `lane`: of each half in its turn. */
static void sum_lanes(const dots *d, size_t lane, size_t apart, float *out) {
    float other[DF_TILE_ENTRIES];
    if (apart == LANES / 2) {
        one_lane(d, lane, false, out);
        one_lane(d, lane + apart, true, out);
        return;
    }
    sum_lanes(d, lane, 2 * apart, out);
    sum_lanes(d, lane + apart, 2 * apart, other);
    df_add_row(out, other, DF_TILE_ENTRIES);
}

void df_dot_tile(const float *left, const float *right, size_t n,
                 float out[static DF_TILE_ENTRIES]) {
    sum_lanes(&(dots){left, right, steps_of(n)}, 0, 1, out);
}
