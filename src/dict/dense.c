/* The dense form of a batch in which many latents are active, as when ReLU training begins:
 * products of tiles in place of sums over entries.
 *
 * A batch takes it by its number of active entries over all ranks, and every sum has an order that
 * latent blocks, chunks of rows and the width decide: the bytes are the same on any number of ranks
 * and threads. Values and gradients of codes lie in panels of 32 latents, [panels][rows, 32], 0
 * where a latent is not active: tiles are written there as they are made and read from there as
 * they are. */
#include "step.h"

#include <math.h>
#include <string.h>

#define SUM_LEVELS 8 /* of the tree over at most 64 blocks, and one more */
#define LIST_ROWS 64 /* whose lists are made together */

void df_coder_dense_above(df_coder *c, double share) {
    c->dense_above = share;
}

bool df_dense_fits(const df_coder *c) {
    return !df_has_k(c->dict) && c->dict->groups == 1 && c->dict->prefixes == 0 && !df_is_split(c);
}

void df_dense_choose(df_coder *c) {
    double entries = (double)c->batch * (double)c->dict->latents;
    c->active = c->main.codes.start[c->rows];
    df_sum_u64(c->groups.world, &c->active, 1);
    c->dense = df_dense_fits(c) && (double)c->active >= c->dense_above * entries;
    c->was_dense = c->dense;
    if (c->dense && !c->main.panels) df_dense_spread(c);
    if (!c->dense && c->main.panels) df_dense_list(c, &c->main);
}

/* ---- memory --------------------------------------------------------------------------------- */

static size_t larger(size_t a, size_t b) {
    return a > b ? a : b;
}

static size_t at_most(size_t n, size_t most) {
    return n < most ? n : most;
}

static size_t panels_of(size_t columns) {
    return (columns + DF_TILE_LATENTS - 1) / DF_TILE_LATENTS;
}

/* Columns in whole tiles. */
static size_t tiled(size_t columns) {
    return df_row_tiles(columns) * DF_TILE_ROWS;
}

size_t df_dense_packed(const df_coder *c) {
    size_t encoder = panels_of(c->local) * DF_TILE_LATENTS * df_dot_floats(c->dict->in.count);
    size_t decoder = larger(c->local * panels_of(c->out) * DF_TILE_LATENTS,
                            panels_of(c->local) * DF_TILE_LATENTS * c->out);
    size_t rows = c->max_rows * (tiled(c->dict->in.count) + tiled(c->out));
    return larger(encoder, larger(decoder, rows));
}

size_t df_dense_left(const df_coder *c) {
    size_t columns = larger(df_dot_floats(c->dict->in.count), larger(c->dict->block, c->out));
    return larger(DENSE_UNIT * DF_TILE_ROWS * columns, DENSE_LATENTS * DENSE_CHUNK);
}

size_t df_dense_sums(const df_coder *c) {
    return larger(SUM_LEVELS * DENSE_UNIT * DF_TILE_ROWS * c->out,
                  DENSE_LATENTS * (tiled(c->dict->in.count) + tiled(c->out)));
}

/* ---- units of rows -------------------------------------------------------------------------- */

static size_t count_units(const df_coder *c) {
    return (c->rows + DENSE_UNIT * DF_TILE_ROWS - 1) / (DENSE_UNIT * DF_TILE_ROWS);
}

static df_range unit_rows(const df_coder *c, size_t unit) {
    size_t first = unit * DENSE_UNIT * DF_TILE_ROWS;
    return (df_range){first, at_most(c->rows - first, DENSE_UNIT * DF_TILE_ROWS)};
}

static df_range tile_rows(df_range unit, size_t tile) {
    size_t first = tile * DF_TILE_ROWS;
    return (df_range){unit.first + first, at_most(unit.count - first, DF_TILE_ROWS)};
}

/* While tile t of a unit is multiplied by a panel of weights, its part of the next panel is asked
 * for; behind the last one that does no harm. */
static void ask_ahead(const float *panel, size_t floats, size_t t) {
    size_t part = floats / DENSE_UNIT;
    df_prefetch(panel + floats + t * part, part);
}

/* ---- encode --------------------------------------------------------------------------------- */

/* What a panel's latents add and must exceed; no score exceeds what stands behind the last. */
typedef struct panel_terms {
    size_t first;
    float bias[DF_TILE_LATENTS], cut[DF_TILE_LATENTS];
    bool below; /* values below 0 are kept: scores are p - cut */
} panel_terms;

static panel_terms terms_of(const df_coder *c, size_t first) {
    panel_terms t = {.first = first, .below = c->dict->activation == DF_JUMPRELU};
    for (size_t l = 0; l < DF_TILE_LATENTS; l++) {
        bool is = first + l < c->local;
        t.bias[l] = is ? c->dict->b_enc[first + l] : 0.0f;
        t.cut[l] = !is ? INFINITY : t.below ? c->cut[first + l] : 0.0f;
    }
    return t;
}

/* Writes a tile's codes; adds to each row's count how many are above their cut. */
static void take_codes(const df_worker *w, const panel_terms *t, size_t rows, float *to,
                       uint64_t *count) {
    for (size_t r = 0; r < rows; r++, to += DF_TILE_LATENTS) {
        const float *product = w->product + r * DF_TILE_LATENTS;
        uint32_t n = 0;
        for (size_t l = 0; l < DF_TILE_LATENTS; l++) {
            float p = product[l] + t->bias[l];
            to[l] = p > 0.0f || t->below ? p : 0.0f;
            n += to[l] - t->cut[l] > 0.0f;
        }
        count[r] += n;
    }
}

static void encode_unit(const df_coder *c, df_worker *w, df_range unit, df_code_store *s) {
    size_t width = c->dict->in.count, each = df_dot_floats(width);
    uint64_t *count = s->codes.start + unit.first + 1;
    memset(count, 0, unit.count * sizeof *count);
    for (size_t t = 0; t < df_row_tiles(unit.count); t++) {
        df_range rows = tile_rows(unit, t);
        df_pack_dots(c->input + rows.first * c->width + c->dict->in.first,
                     (df_extent){rows.count, width}, c->width, DF_TILE_ROWS,
                     w->dense_left + t * DF_TILE_ROWS * each);
    }
    for (size_t j = 0; j < c->local; j += DF_TILE_LATENTS) {
        panel_terms terms = terms_of(c, j);
        const float *panel = c->dense_packed + j * each;
        for (size_t t = 0; t < df_row_tiles(unit.count); t++) {
            df_range rows = tile_rows(unit, t);
            ask_ahead(panel, DF_TILE_LATENTS * each, t);
            df_dot_tile(w->dense_left + t * DF_TILE_ROWS * each, panel, width, w->product);
            take_codes(w, &terms, rows.count, s->sorted_value + df_dense_at(c, j, rows.first),
                       count + t * DF_TILE_ROWS);
        }
    }
}

void df_dense_encode(df_coder *c, df_code_store *out) {
    size_t width = c->dict->in.count, each = df_dot_floats(width);
#pragma omp parallel for schedule(static)
    for (size_t j = 0; j < c->local; j += DF_TILE_LATENTS)
        df_pack_dots(df_dict_enc(c->dict, j),
                     (df_extent){at_most(c->local - j, DF_TILE_LATENTS), width}, width,
                     DF_TILE_LATENTS, c->dense_packed + j * each);
#pragma omp parallel for schedule(dynamic)
    for (size_t i = 0; i < count_units(c); i++)
        encode_unit(c, df_coder_worker(c), unit_rows(c, i), out);
    out->codes.start[0] = 0;
    for (size_t r = 0; r < c->rows; r++) out->codes.start[r + 1] += out->codes.start[r];
    out->codes.rows = c->rows;
    out->panels = true;
}

/* ---- panels and lists ----------------------------------------------------------------------- */

static df_range list_rows(const df_coder *c, size_t first) {
    return (df_range){first, at_most(c->rows - first, LIST_ROWS)};
}

/* What is above its cut in a row of a panel goes to entry `at`; returns how many. */
static size_t list_panel_row(const float *from, const panel_terms *t, df_codes *to, uint64_t at) {
    float value[DF_TILE_LATENTS];
    uint32_t latent[DF_TILE_LATENTS];
    size_t n = 0;
    for (size_t l = 0; l < DF_TILE_LATENTS; l++) { // without branches: half of them may pass
        value[n] = from[l];
        latent[n] = (uint32_t)(t->first + l);
        n += from[l] - t->cut[l] > 0.0f;
    }
    memcpy(to->value + at, value, n * sizeof *value);
    memcpy(to->latent + at, latent, n * sizeof *latent);
    return n;
}

static void list_some(const df_coder *c, df_code_store *s, df_range rows) {
    uint64_t at[LIST_ROWS];
    memcpy(at, s->codes.start + rows.first, rows.count * sizeof *at);
    for (size_t j = 0; j < c->local; j += DF_TILE_LATENTS) {
        panel_terms terms = terms_of(c, j);
        for (size_t r = 0; r < rows.count; r++)
            at[r] += list_panel_row(s->sorted_value + df_dense_at(c, j, rows.first + r), &terms,
                                    &s->codes, at[r]);
    }
}

void df_dense_list(const df_coder *c, df_code_store *s) {
#pragma omp parallel for schedule(static)
    for (size_t first = 0; first < c->rows; first += LIST_ROWS)
        list_some(c, s, list_rows(c, first));
    s->panels = false;
}

static void spread_some(const df_coder *c, const df_code_store *s, df_range rows) {
    uint64_t at[LIST_ROWS];
    memcpy(at, s->codes.start + rows.first, rows.count * sizeof *at);
    for (size_t j = 0; j < c->local; j += DF_TILE_LATENTS)
        for (size_t r = 0; r < rows.count; r++) {
            float *to = s->sorted_value + df_dense_at(c, j, rows.first + r);
            uint64_t i = at[r], end = s->codes.start[rows.first + r + 1];
            memset(to, 0, DF_TILE_LATENTS * sizeof *to);
            for (; i < end && s->codes.latent[i] < j + DF_TILE_LATENTS; i++)
                to[s->codes.latent[i] - j] = s->codes.value[i];
            at[r] = i;
        }
}

void df_dense_spread(df_coder *c) {
#pragma omp parallel for schedule(static)
    for (size_t first = 0; first < c->rows; first += LIST_ROWS)
        spread_some(c, &c->main, list_rows(c, first));
    c->main.panels = true;
}

/* ---- decode --------------------------------------------------------------------------------- */

/* Columns so many at a time: [panels][rows, lanes], zeros behind the last. */
static void pack_columns(const float *from, size_t ld, df_extent extent, size_t lanes, float *to) {
    for (size_t first = 0; first < extent.width; first += lanes) {
        size_t n = at_most(extent.width - first, lanes);
        for (size_t r = 0; r < extent.rows; r++, to += lanes) {
            memcpy(to, from + r * ld + first, n * sizeof *to);
            if (n < lanes) memset(to + n, 0, (lanes - n) * sizeof *to);
        }
    }
}

/* The codes of a tile's rows, [latents, 14]; what stands behind its last row is not used. */
static void turn_codes(const df_coder *c, df_range rows, df_range latents, float *to) {
    for (size_t j = latents.first; j < latents.first + latents.count;) {
        size_t lane = j % DF_TILE_LATENTS,
               n = at_most(latents.first + latents.count - j, DF_TILE_LATENTS - lane);
        const float *from = c->main.sorted_value + df_dense_at(c, j, rows.first);
        for (size_t l = 0; l < n; l++)
            for (size_t r = 0; r < rows.count; r++)
                to[l * DF_TILE_ROWS + r] = from[r * DF_TILE_LATENTS + l];
        to += n * DF_TILE_ROWS;
        j += n;
    }
}

/* What a block adds to a unit's rows: leaf [unit.count, out]. */
static void block_leaf(const df_coder *c, df_worker *w, df_range unit, df_range latents,
                       float *leaf) {
    size_t tiles = df_row_tiles(unit.count), each = latents.count * DF_TILE_ROWS;
    const float *right = c->dense_packed + latents.first * panels_of(c->out) * DF_TILE_LATENTS;
    for (size_t t = 0; t < tiles; t++)
        turn_codes(c, tile_rows(unit, t), latents, w->dense_left + t * each);
    for (size_t first = 0; first < c->out; first += DF_TILE_LATENTS) {
        size_t columns = at_most(c->out - first, DF_TILE_LATENTS);
        for (size_t t = 0; t < tiles; t++) {
            df_range rows = tile_rows(unit, t);
            float *to = leaf + t * DF_TILE_ROWS * c->out + first;
            const float *panel = right + first * latents.count;
            ask_ahead(panel, DF_TILE_LATENTS * latents.count, t);
            df_multiply_tile(w->dense_left + t * each, panel, latents.count, false, w->product);
            for (size_t r = 0; r < rows.count; r++)
                memcpy(to + r * c->out, w->product + r * DF_TILE_LATENTS, columns * sizeof *to);
        }
    }
}

/* The partials of a unit's rows, one per maximal subtree of this rank: out [rows, nodes, out]. */
static void decode_unit(const df_coder *c, df_worker *w, df_range unit, float *out) {
    size_t first = c->node_start[c->rank], n = c->node_start[c->rank + 1] - first, b = 0;
    for (size_t i = 0; i < n; i++) {
        size_t end = (size_t)(c->nodes[first + i].index + 1) << c->nodes[first + i].height;
        df_sum_tree t = {.sums = w->dense_sums, .width = unit.count * c->out};
        for (; b < c->my_blocks.count && c->my_blocks.first + b < end; b++)
            block_leaf(c, w, unit, df_local_block(c, b),
                       df_sum_tree_leaf(&t, c->my_blocks.first + b, (df_range){0, t.width}));
        df_sum_tree_close(&t);
        for (size_t r = 0; r < unit.count; r++)
            memcpy(out + ((unit.first + r) * n + i) * c->out, t.sums + r * c->out,
                   c->out * sizeof *out);
    }
}

void df_dense_decode(df_coder *c, float *out) {
#pragma omp parallel for schedule(static)
    for (size_t b = 0; b < c->my_blocks.count; b++) {
        df_range latents = df_local_block(c, b);
        pack_columns(df_dict_dec(c->dict, latents.first), c->out,
                     (df_extent){latents.count, c->out}, DF_TILE_LATENTS,
                     c->dense_packed + latents.first * panels_of(c->out) * DF_TILE_LATENTS);
    }
#pragma omp parallel for schedule(dynamic)
    for (size_t i = 0; i < count_units(c); i++)
        decode_unit(c, df_coder_worker(c), unit_rows(c, i), out);
}

/* ---- gradients of codes --------------------------------------------------------------------- */

/* Up to `lanes` vectors side by side: [width, lanes]. */
static void pack_vectors(const float *from, df_extent extent, size_t lanes, float *to) {
    float unit[DF_TILE_LATENTS], lost[DF_TILE_LATENTS];
    df_panel panel = {DF_SCREEN_FP32, lanes, extent.width, to};
    df_pack(&panel, from, extent.width, extent.rows, (df_packed){unit, lost, NULL});
}

static void take_code_gradients(const df_coder *c, const df_worker *w, df_range rows, size_t j,
                                df_code_factor factor) {
    const float *value = c->main.sorted_value + df_dense_at(c, j, rows.first);
    float *to = c->main.sorted_gradient + df_dense_at(c, j, rows.first), price[DF_TILE_LATENTS];
    for (size_t l = 0; l < DF_TILE_LATENTS; l++)
        price[l] = factor.norm * c->price[at_most(j + l, c->local - 1)];
    for (size_t i = 0; i < rows.count * DF_TILE_LATENTS; i += DF_TILE_LATENTS) {
        float slope[DF_TILE_LATENTS]; // of all, so that nothing branches
        for (size_t l = 0; l < DF_TILE_LATENTS; l++)
            slope[l] = factor.product * w->product[i + l] + price[l];
        for (size_t l = 0; l < DF_TILE_LATENTS; l++)
            to[i + l] = value[i + l] > 0.0f ? slope[l] : 0.0f;
    }
}

static void code_gradient_unit(const df_coder *c, df_worker *w, df_range unit, const float *vectors,
                               df_code_factor factor) {
    size_t tiles = df_row_tiles(unit.count), each = c->out * DF_TILE_ROWS;
    for (size_t t = 0; t < tiles; t++) {
        df_range rows = tile_rows(unit, t);
        pack_vectors(vectors + rows.first * c->out, (df_extent){rows.count, c->out}, DF_TILE_ROWS,
                     w->dense_left + t * each);
    }
    for (size_t j = 0; j < c->local; j += DF_TILE_LATENTS)
        for (size_t t = 0; t < tiles; t++) {
            const float *panel = c->dense_packed + j * c->out;
            ask_ahead(panel, DF_TILE_LATENTS * c->out, t);
            df_multiply_tile(w->dense_left + t * each, panel, c->out, false, w->product);
            take_code_gradients(c, w, tile_rows(unit, t), j, factor);
        }
}

void df_dense_code_gradients(df_coder *c, const float *vectors, df_code_factor factor) {
#pragma omp parallel for schedule(static)
    for (size_t j = 0; j < c->local; j += DF_TILE_LATENTS)
        pack_vectors(df_dict_dec(c->dict, j),
                     (df_extent){at_most(c->local - j, DF_TILE_LATENTS), c->out}, DF_TILE_LATENTS,
                     c->dense_packed + j * c->out);
#pragma omp parallel for schedule(dynamic)
    for (size_t i = 0; i < count_units(c); i++)
        code_gradient_unit(c, df_coder_worker(c), unit_rows(c, i), vectors, factor);
}

/* ---- sums over rows ------------------------------------------------------------------------- */

void df_dense_code_sums(const df_coder *c, size_t latent, double *priced, double *codes) {
    size_t first = latent - latent % DF_TILE_LATENTS;
    const float *value = c->main.sorted_value + df_dense_at(c, first, 0);
    double price[DF_TILE_LATENTS], a[DF_TILE_LATENTS] = {0.0}, b[DF_TILE_LATENTS] = {0.0};
    for (size_t l = 0; l < DF_TILE_LATENTS; l++)
        price[l] = (double)c->price[at_most(first + l, c->local - 1)];
    for (size_t r = 0; r < c->rows; r++, value += DF_TILE_LATENTS)
        for (size_t l = 0; l < DF_TILE_LATENTS; l++) {
            a[l] += (double)value[l] * price[l];
            b[l] += (double)value[l];
        }
    memcpy(priced, a, sizeof a);
    memcpy(codes, b, sizeof b);
}

void df_dense_fired(const df_coder *c, size_t panel, float above, bool *fired) {
    size_t first = panel * DF_TILE_LATENTS, n = at_most(c->local - first, DF_TILE_LATENTS);
    const float *value = c->main.sorted_value + df_dense_at(c, first, 0);
    size_t left = n;
    for (size_t l = 0; l < n; l++) fired[l] = false;
    for (size_t row = 0; row < c->rows && left > 0; row += LIST_ROWS) {
        float most[DF_TILE_LATENTS] = {0.0f};
        size_t rows = list_rows(c, row).count;
        for (size_t r = 0; r < rows; r++, value += DF_TILE_LATENTS)
            for (size_t l = 0; l < DF_TILE_LATENTS; l++)
                most[l] = value[l] > most[l] ? value[l] : most[l];
        left = n;
        for (size_t l = 0; l < n; l++) left -= fired[l] |= most[l] > above;
    }
}

/* ---- gradients of weights ------------------------------------------------------------------- */

/* Chunk k of the rows: its columns of what encoders read, or of the error, in tiles [rows, 14]. */
static float *chunk_columns(const df_coder *c, size_t k, bool of_error) {
    size_t first = k * DENSE_CHUNK, n = at_most(c->rows - first, DENSE_CHUNK);
    size_t in = tiled(c->dict->in.count), out = tiled(c->out);
    return c->dense_packed + first * (in + out) + (of_error ? n * in : 0);
}

void df_dense_prepare(df_coder *c) {
    size_t chunks = (c->rows + DENSE_CHUNK - 1) / DENSE_CHUNK;
#pragma omp parallel for schedule(static)
    for (size_t k = 0; k < chunks; k++) {
        size_t first = k * DENSE_CHUNK, n = at_most(c->rows - first, DENSE_CHUNK);
        pack_columns(c->input + first * c->width + c->dict->in.first, c->width,
                     (df_extent){n, c->dict->in.count}, DF_TILE_ROWS, chunk_columns(c, k, false));
        pack_columns(c->error + first * c->out, c->out, (df_extent){n, c->out}, DF_TILE_ROWS,
                     chunk_columns(c, k, true));
    }
}

/* The gradients of a panel's latents: [columns read and written in whole tiles, 32]. */
static float *panel_sums(const df_coder *c, const df_worker *w, size_t panel) {
    return w->dense_sums + panel * (tiled(c->dict->in.count) + tiled(c->out)) * DF_TILE_LATENTS;
}

/* Adds what a chunk of rows gives to the gradients of the encoder or the decoder; panel p's codes
 * stand at right + p * apart, [rows, 32]. */
static void add_chunk(const df_coder *c, df_worker *w, size_t chunk, bool error, size_t panels,
                      const float *right, size_t apart) {
    size_t n = at_most(c->rows - chunk * DENSE_CHUNK, DENSE_CHUNK);
    size_t columns = error ? c->out : c->dict->in.count;
    size_t at = error ? tiled(c->dict->in.count) * DF_TILE_LATENTS : 0;
    const float *left = chunk_columns(c, chunk, error);
    for (size_t t = 0; t < df_row_tiles(columns); t++)
        for (size_t p = 0; p < panels; p++)
            df_multiply_tile(left + t * n * DF_TILE_ROWS, right + p * apart, n, chunk > 0,
                             panel_sums(c, w, p) + at + t * DF_TILE_ENTRIES);
}

/* A chunk's codes times the error's factor: to [panels][DENSE_CHUNK, 32]. */
static void scale_codes(const df_coder *c, size_t chunk, size_t first, size_t panels, float *to) {
    size_t row = chunk * DENSE_CHUNK, n = at_most(c->rows - row, DENSE_CHUNK) * DF_TILE_LATENTS;
    for (size_t p = 0; p < panels; p++, to += DENSE_CHUNK * DF_TILE_LATENTS) {
        const float *from = c->main.sorted_value + df_dense_at(c, first + p * DF_TILE_LATENTS, row);
        for (size_t i = 0; i < n; i++) to[i] = c->error_factor * from[i];
    }
}

/* Gradients of the latents of some panels, the first of which begins with latent `first`. */
static void panel_gradients(const df_coder *c, df_worker *w, size_t first, size_t panels) {
    size_t chunks = (c->rows + DENSE_CHUNK - 1) / DENSE_CHUNK;
    for (size_t k = 0; k < chunks; k++) {
        const float *gradient = c->main.sorted_gradient + df_dense_at(c, first, k * DENSE_CHUNK);
        add_chunk(c, w, k, false, panels, gradient, c->rows * DF_TILE_LATENTS);
        scale_codes(c, k, first, panels, w->dense_left);
        add_chunk(c, w, k, true, panels, w->dense_left, DENSE_CHUNK * DF_TILE_LATENTS);
    }
}

/* sum of dL/df of the latents of a panel. */
static void panel_biases(const df_coder *c, size_t first, double *out) {
    const float *gradient = c->main.sorted_gradient + df_dense_at(c, first, 0);
    double sum[DF_TILE_LATENTS] = {0.0};
    for (size_t r = 0; r < c->rows; r++, gradient += DF_TILE_LATENTS)
        for (size_t l = 0; l < DF_TILE_LATENTS; l++) sum[l] += (double)gradient[l];
    memcpy(out, sum, sizeof sum);
}

double df_dense_latent(const df_coder *c, df_worker *w, size_t j) {
    df_range block = df_local_block(c, df_dict_block_of(c->dict, j) - c->my_blocks.first);
    size_t group = j - j % DENSE_LATENTS, first = larger(block.first, group);
    size_t end = at_most(block.first + block.count, group + DENSE_LATENTS);
    size_t panel = first / DF_TILE_LATENTS, lane = j % DF_TILE_LATENTS;
    if (j == first) panel_gradients(c, w, panel * DF_TILE_LATENTS, panels_of(end) - panel);
    if (j == first || lane == 0) panel_biases(c, j - lane, w->dense_bias);
    const float *from = panel_sums(c, w, j / DF_TILE_LATENTS - panel) + lane;
    for (size_t i = 0; i < c->dict->in.count; i++) w->g_enc[i] = from[i * DF_TILE_LATENTS];
    from += tiled(c->dict->in.count) * DF_TILE_LATENTS;
    for (size_t i = 0; i < c->out; i++) w->g_dec[i] = from[i * DF_TILE_LATENTS];
    return w->dense_bias[lane];
}
