/* Before the screen: rows and latents are packed, and what packing and rounding can cost is
 * bounded. */
#include "coder.h"

#include <float.h>
#include <math.h>

#define UNIT 5.9604644775390625e-8 /* 2^-24 */
#define LARGEST 1e37               /* products beyond it would not be safe in fp32 */

/* ---- latents -------------------------------------------------------------------------------- */

double df_dict_code_norm(const df_dict *d, size_t j) {
    const float *row = df_dict_dec(d, j);
    const df_dict_group *g = df_dict_group_of(d, j);
    double sum = 0.0;
    if (d->code_norm == DF_NORM_NONE) return 1.0;
    if (d->code_norm != DF_NORM_ROOT)
        for (size_t s = 0; s < d->sites; s++)
            if (df_dict_writes(g, &d->site[s]))
                sum +=
                    sqrt(df_sum_squares(row + (d->site[s].first - g->out.first), d->site[s].width));
    if (d->code_norm != DF_NORM_ROOT && d->code_norm != DF_NORM_MIXED) return sum;
    double whole = sqrt(df_sum_squares(row, g->out.count));
    return d->code_norm == DF_NORM_MIXED ? whole + DF_MIXED_SUM * sum : whole;
}

/* What a code is multiplied by before it is ranked. */
static float rank_scale(const df_coder *c, size_t j) {
    if (!df_has_k(c->dict)) return 1.0f;
    if (c->ranked == NULL) return c->norm[j];
    return (float)sqrt(
        df_sum_squares(df_dict_dec(c->dict, j) + c->ranked->first, c->ranked->count));
}

/* What thresholds and magnitudes add to the size of a latent's numbers; `size` is that of p. */
static double bound_parameters(df_coder *c, size_t j, double size) {
    const df_dict *d = c->dict;
    if (d->activation == DF_JUMPRELU) return fabs((double)d->theta[j]);
    if (d->activation != DF_GATED) return 0.0;
    c->magnify[j] = expf(d->r_mag[j]);
    return (double)c->magnify[j] * size + fabs((double)d->b_mag[j]);
}

/* With x = x' + dx and w = w' + dw, of which x' and w' are packed, |x w - x' w'| <= |dx| (|w| +
 * |dw|)
 * + |x| |dw|; two fp32 sums of D products in any order differ by at most 2 D u |x| |w|. A floor
 * that a score reaches is no larger than the score, so that the 64 u beside D u also cover the
 * rounding of floors and bounds; `extra` does so for the bias, and for underflow. */
static double bound_latent(df_coder *c, size_t j) {
    const df_dict *d = c->dict;
    double columns = (double)df_dict_group_of(d, j)->in.count, lost = (double)c->lost[j];
    double size = sqrt(df_sum_squares(df_dict_enc(d, j), (size_t)columns));
    c->norm[j] = (float)df_dict_code_norm(d, j);
    c->scale[j] = rank_scale(c, j);
    double scale = (double)c->scale[j], bias = fabs((double)d->b_enc[j]);
    c->gain[j] = c->scale[j] * c->unit[j];
    c->length[j] = (float)(scale * (size + lost) * 1.0001);
    c->slack[j] = (float)(scale * (size * 2.02 * (columns + 64.0) * UNIT + lost * 1.0001));
    c->extra[j] = (float)(scale * bias * 80.0 * UNIT + (1.0 + scale) * columns * 1e-36);
    c->lift[j] = d->b_enc[j] * c->scale[j] + c->extra[j];
    return (size + bias) * (1.0 + scale) + bound_parameters(c, j, size + bias);
}

static float above(float a, float b) {
    return b > a ? b : a;
}

/* Returns the largest size that a score can have per unit of |x|: not finite when a weight is not.
 */
static double bound_panel(df_coder *c, df_latents *p) {
    double largest = 0.0;
    p->slack = p->length = 0.0f;
    for (size_t j = p->first; j < p->first + p->count; j++) {
        double size = bound_latent(c, j);
        p->slack = above(p->slack, c->slack[j]);
        p->length = above(p->length, c->length[j]);
        if (!(size <= largest)) largest = size < DBL_MAX ? size : DBL_MAX;
    }
    return largest;
}

static void pack_panel(df_coder *c, const df_latents *p) {
    size_t columns = c->dict->group[p->group].in.count;
    df_panel to = {c->screen, DF_TILE_LATENTS, columns, c->packed_latents + p->packed};
    df_pack(&to, df_dict_enc(c->dict, p->first), columns, p->count,
            (df_packed){c->unit + p->first, c->lost + p->first, c->start + p->first});
}

static double prepare_latents(df_coder *c) {
    double largest = 1.0;
#pragma omp parallel for schedule(static) reduction(max : largest)
    for (size_t i = 0; i < c->panels; i++) {
        pack_panel(c, &c->panel[i]);
        double size = bound_panel(c, &c->panel[i]);
        if (size > largest) largest = size;
    }
    return largest;
}

void df_coder_rank_by(df_coder *c, const df_range *columns) {
    c->ranked = columns;
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < c->panels; i++)
        (void)bound_panel(c, &c->panel[i]); // no site's norm is above their sum, found finite
}

/* ---- rows ----------------------------------------------------------------------------------- */

static void center_row(df_coder *c, size_t r) {
    const df_dict *d = c->dict;
    const float *x = c->x + r * c->width + d->in.first;
    float *out = c->centered + r * c->width + d->in.first;
    if (d->subtract_bias)
        for (size_t i = 0; i < d->in.count; i++) out[i] = x[i] - d->b_dec[i];
    for (size_t g = 0; g < d->groups; g++) {
        const float *read = c->input + r * c->width + d->group[g].in.first;
        c->x_norm[g * c->padded_rows + r] =
            (float)(sqrt(df_sum_squares(read, d->group[g].in.count)) * (1.0 + 1e-6));
    }
    // Targets that no encoder reads must be finite too.
    bool read = d->in.first == d->out.first && d->in.count == d->out.count;
    if (!read && !(df_sum_squares(c->x + r * c->width + d->out.first, c->out) < DBL_MAX))
        c->x_norm[r] = INFINITY;
}

static void prepare_rows(df_coder *c, size_t tile) {
    size_t first = tile * DF_TILE_ROWS;
    size_t n = c->rows - first < DF_TILE_ROWS ? c->rows - first : DF_TILE_ROWS;
    for (size_t i = 0; i < n; i++) center_row(c, first + i);
    for (size_t g = 0; g < c->dict->groups; g++) {
        df_range in = c->dict->group[g].in;
        size_t at = g * c->padded_rows + first;
        df_panel to = {c->screen, DF_TILE_ROWS, in.count, df_row_panel(c, g, first)};
        df_pack(&to, c->input + first * c->width + in.first, c->width, n,
                (df_packed){c->x_unit + at, c->x_lost + at, NULL});
    }
}

float df_row_size(const df_coder *c, size_t r) {
    float largest = 0.0f;
    for (size_t g = 0; g < c->dict->groups; g++) {
        float norm = c->x_norm[g * c->padded_rows + r];
        if (!(norm <= largest)) largest = norm < FLT_MAX ? norm : INFINITY;
    }
    return largest;
}

df_status df_coder_prepare(df_coder *c, const float *x, size_t rows) {
    if (rows > c->max_rows)
        return df_fail(DF_FAILED, "%zu rows in a batch; the coder was opened for %zu", rows,
                       c->max_rows);
    c->x = x;
    c->rows = rows;
    c->input = c->dict->subtract_bias ? c->centered : x;
    c->ranked = NULL;
    double largest = prepare_latents(c);
#pragma omp parallel for schedule(static)
    for (size_t tile = 0; tile < df_row_tiles(rows); tile++) prepare_rows(c, tile);
    for (size_t r = 0; r < rows; r++) {
        float size = df_row_size(c, r);
        if (!(size < FLT_MAX))
            return df_fail(DF_BAD_INPUT, "row %zu of the batch holds a value that is not finite",
                           r);
        if (!((double)size * largest < LARGEST))
            return df_fail(DF_FAILED,
                           "row %zu of the batch (norm %g) times the largest encoder row (%g) "
                           "leaves the range of fp32",
                           r, (double)size, largest);
    }
    return DF_OK;
}
