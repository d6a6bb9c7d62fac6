/* The dense form of a batch in which many latents are active, as when ReLU training begins:
 * products of tiles in place of sums over entries.
 *
 * A batch takes it by its number of active entries over all ranks, and every sum has an order that
 * latent blocks, chunks of rows and the width decide: the bytes are the same on any number of ranks
 * and threads. */
#include "step.h"

#include <string.h>

#define ONES_8 1.0f, 1.0f, 1.0f, 1.0f, 1.0f, 1.0f, 1.0f, 1.0f
#define SORT_EDGE 64
#define SUM_LEVELS 8 /* of the tree over at most 64 blocks, and one more */

void df_coder_dense_above(df_coder *c, double share) {
    c->dense_above = share;
}

bool df_dense_fits(const df_coder *c) {
    return !df_has_k(c->dict) && c->dict->groups == 1 && c->dict->prefixes == 0;
}

void df_dense_choose(df_coder *c) {
    double entries = (double)c->rows * (double)c->dict->latents;
    c->active = c->main.codes.start[c->rows];
    df_sum_u64(c->comm, &c->active, 1);
    c->dense = df_dense_fits(c) && (double)c->active >= c->dense_above * entries;
    c->was_dense = c->dense;
}

/* ---- memory --------------------------------------------------------------------------------- */

static size_t larger(size_t a, size_t b) {
    return a > b ? a : b;
}

static size_t panels_of(size_t columns) {
    return (columns + DF_TILE_LATENTS - 1) / DF_TILE_LATENTS;
}

size_t df_dense_packed(const df_coder *c) {
    size_t out = panels_of(c->out), in = panels_of(c->dict->in.count);
    size_t decoder =
        larger(c->local * out * DF_TILE_LATENTS, panels_of(c->local) * DF_TILE_LATENTS * c->out);
    return larger(decoder, c->max_rows * (in + out) * DF_TILE_LATENTS);
}

size_t df_dense_left(const df_coder *c) {
    size_t unit = DENSE_UNIT * DF_TILE_ROWS * larger(c->dict->block, c->out);
    return larger(unit, 2 * DENSE_LATENTS * DENSE_CHUNK);
}

size_t df_dense_sums(const df_coder *c) {
    return larger(SUM_LEVELS * DENSE_UNIT * DF_TILE_ROWS * c->out,
                  DENSE_LATENTS * (c->dict->in.count + c->out));
}

/* ---- tiles ---------------------------------------------------------------------------------- */

/* product [14, 32] = left [n, 14]' right [n, 32]. */
static void multiply(const float *left, const float *right, size_t n, df_worker *w) {
    static const float ones[] = {ONES_8, ONES_8, ONES_8, ONES_8}, zeros[DF_TILE_LATENTS];
    df_tile t = {.screen = DF_SCREEN_FP32,
                 .width = n,
                 .rows = left,
                 .latents = right,
                 .gain = ones,
                 .lift = zeros,
                 .unit = ones,
                 .floor = zeros};
    (void)df_screen_tile(&t, w->product, w->mask);
}

/* Columns 32 at a time: [panels][rows, 32], zeros behind the last. */
static void pack_columns(const float *from, size_t ld, df_range rows, size_t columns, float *to) {
    for (size_t q = 0; q < panels_of(columns); q++) {
        size_t first = q * DF_TILE_LATENTS, left = columns - first;
        size_t n = left < DF_TILE_LATENTS ? left : DF_TILE_LATENTS;
        for (size_t r = 0; r < rows.count; r++, to += DF_TILE_LATENTS) {
            memcpy(to, from + (rows.first + r) * ld + first, n * sizeof *to);
            if (n < DF_TILE_LATENTS) memset(to + n, 0, (DF_TILE_LATENTS - n) * sizeof *to);
        }
    }
}

/* Writes or adds what lies inside `to` [rows, columns] of a product. */
static void take_product(const df_worker *w, size_t rows, size_t columns, float *to, size_t ld,
                         bool add) {
    for (size_t r = 0; r < rows; r++) {
        const float *from = w->product + r * DF_TILE_LATENTS;
        if (add)
            df_add_row(to + r * ld, from, columns);
        else
            memcpy(to + r * ld, from, columns * sizeof *to);
    }
}

static size_t at_most(size_t n, size_t most) {
    return n < most ? n : most;
}

/* ---- units of rows -------------------------------------------------------------------------- */

static size_t count_units(const df_coder *c) {
    return (c->rows + DENSE_UNIT * DF_TILE_ROWS - 1) / (DENSE_UNIT * DF_TILE_ROWS);
}

static df_range unit_rows(const df_coder *c, size_t unit) {
    size_t first = unit * DENSE_UNIT * DF_TILE_ROWS;
    return (df_range){first, at_most(c->rows - first, DENSE_UNIT * DF_TILE_ROWS)};
}

/* ---- encode --------------------------------------------------------------------------------- */

typedef struct extent {
    size_t rows, latents;
} extent;

/* Appends to each of some rows, whose entries begin `local` apart, which of some latents score
 * above; `count` of the rows so far. */
static void append_tile(const df_coder *c, size_t row, size_t j, extent part, float above,
                        df_codes *to, uint64_t *count) {
    const df_dict *d = c->dict;
    const float *x[DF_DOT_ROWS], *enc[DF_DOT_LATENTS];
    const float *cut = d->activation == DF_JUMPRELU ? c->cut : NULL;
    float product[DF_DOT_ROWS * DF_DOT_LATENTS];
    for (size_t i = 0; i < DF_DOT_ROWS; i++)
        x[i] = c->input + (row + at_most(i, part.rows - 1)) * c->width + d->in.first;
    for (size_t i = 0; i < DF_DOT_LATENTS; i++)
        enc[i] = df_dict_enc(d, j + at_most(i, part.latents - 1));
    df_dot_tile(x, enc, d->in.count, product);
    for (size_t r = 0; r < part.rows; r++) {
        float *value = to->value + (row + r) * c->local;
        uint32_t *latent = to->latent + (row + r) * c->local;
        uint64_t n = count[r];
        for (size_t l = 0; l < part.latents; l++) { // without branches: half of them may pass
            latent[n] = (uint32_t)(j + l);
            n += df_settled(c, cut, j + l, product[DF_DOT_LATENTS * r + l], &value[n]) > above;
        }
        count[r] = n;
    }
}

static void encode_unit(const df_coder *c, df_range unit, float above, df_codes *to) {
    uint64_t *count = to->start + unit.first + 1;
    memset(count, 0, unit.count * sizeof *count);
    for (size_t j = 0; j < c->local; j += DF_DOT_LATENTS)
        for (size_t r = 0; r < unit.count; r += DF_DOT_ROWS)
            append_tile(c, unit.first + r, j,
                        (extent){at_most(unit.count - r, DF_DOT_ROWS),
                                 at_most(c->local - j, DF_DOT_LATENTS)},
                        above, to, count + r);
}

static void move_row(const df_coder *c, df_codes *to, size_t r) {
    size_t n = to->start[r + 1] - to->start[r];
    memmove(to->value + to->start[r], to->value + r * c->local, n * sizeof *to->value);
    memmove(to->latent + to->start[r], to->latent + r * c->local, n * sizeof *to->latent);
}

/* Rows move to the left, one behind the other: together those that end left of where the first of
 * them lies, which are about as many again as have moved when half of the entries are active. */
static void close_gaps(const df_coder *c, df_codes *to) {
    to->start[0] = 0;
    for (size_t r = 0; r < c->rows; r++) to->start[r + 1] += to->start[r];
    for (size_t first = 0, end; first < c->rows; first = end) {
        end = first + 1;
        while (end < c->rows && to->start[end + 1] <= first * c->local) end++;
#pragma omp parallel for schedule(static) if (end - first > 8)
        for (size_t r = first; r < end; r++) move_row(c, to, r);
    }
}

df_status df_dense_encode(df_coder *c, float above, df_code_store *out) {
    df_codes *to = &out->codes;
    DF_TRY(df_codes_reserve(out, c->rows * c->local));
#pragma omp parallel for schedule(dynamic)
    for (size_t i = 0; i < count_units(c); i++) encode_unit(c, unit_rows(c, i), above, to);
    to->rows = c->rows;
    close_gaps(c, to);
    return DF_OK;
}

/* ---- by latent ------------------------------------------------------------------------------ */

/* Entries of some rows and latents on their way into the order of latents: without it, thousands of
 * places would be written in turns. */
typedef struct corner {
    uint32_t row[SORT_EDGE][SORT_EDGE];
    float value[SORT_EDGE][SORT_EDGE], gradient[SORT_EDGE][SORT_EDGE];
    size_t count[SORT_EDGE];
} corner;

/* at [rows.count] moves behind what was taken. */
static void fill_corner(const df_code_store *s, df_range rows, df_range latents, uint64_t *at,
                        corner *k) {
    memset(k->count, 0, sizeof k->count);
    for (size_t r = 0; r < rows.count; r++) {
        uint64_t i = at[r], end = s->codes.start[rows.first + r + 1];
        for (; i < end && s->codes.latent[i] < latents.first + latents.count; i++) {
            size_t l = s->codes.latent[i] - latents.first, n = k->count[l]++;
            k->row[l][n] = (uint32_t)(rows.first + r);
            k->value[l][n] = s->codes.value[i];
            k->gradient[l][n] = s->gradient[i];
        }
        at[r] = i;
    }
}

static void flush_corner(const corner *k, df_range latents, uint64_t *place, df_code_store *s) {
    for (size_t l = 0; l < latents.count; l++) {
        size_t n = k->count[l];
        uint64_t at = place[latents.first + l];
        memcpy(s->sorted_row + at, k->row[l], n * sizeof *s->sorted_row);
        memcpy(s->sorted_value + at, k->value[l], n * sizeof *s->sorted_value);
        memcpy(s->sorted_gradient + at, k->gradient[l], n * sizeof *s->sorted_gradient);
        place[latents.first + l] += n;
    }
}

void df_dense_sort_range(df_code_store *s, df_range latents, uint64_t *place) {
    corner k;
    uint64_t at[SORT_EDGE];
    for (size_t row = 0; row < s->codes.rows; row += SORT_EDGE) {
        df_range rows = {row, at_most(s->codes.rows - row, SORT_EDGE)};
        for (size_t r = 0; r < rows.count; r++)
            at[r] = df_code_entry(&s->codes, row + r, latents.first);
        for (size_t l = 0; l < latents.count; l += SORT_EDGE) {
            df_range some = {latents.first + l, at_most(latents.count - l, SORT_EDGE)};
            fill_corner(s, rows, some, at, &k);
            flush_corner(&k, some, place, s);
        }
    }
}

/* ---- decode --------------------------------------------------------------------------------- */

/* The codes of a tile's rows, [latents, 14]. */
static void spread_codes(const df_codes *codes, df_range rows, df_range latents, float *to) {
    memset(to, 0, latents.count * DF_TILE_ROWS * sizeof *to);
    for (size_t r = 0; r < rows.count; r++) {
        size_t row = rows.first + r;
        for (uint64_t i = df_code_entry(codes, row, latents.first);
             i < codes->start[row + 1] && codes->latent[i] < latents.first + latents.count; i++)
            to[(codes->latent[i] - latents.first) * DF_TILE_ROWS + r] = codes->value[i];
    }
}

static df_range tile_rows(df_range unit, size_t tile) {
    size_t first = tile * DF_TILE_ROWS;
    return (df_range){unit.first + first, at_most(unit.count - first, DF_TILE_ROWS)};
}

/* What a block adds to a unit's rows: leaf [unit.count, out]. */
static void block_leaf(const df_coder *c, df_worker *w, const df_codes *codes, df_range unit,
                       df_range latents, float *leaf) {
    size_t tiles = df_row_tiles(unit.count), each = latents.count * DF_TILE_ROWS;
    const float *right = c->dense_packed + latents.first * panels_of(c->out) * DF_TILE_LATENTS;
    for (size_t t = 0; t < tiles; t++)
        spread_codes(codes, tile_rows(unit, t), latents, w->dense_left + t * each);
    for (size_t q = 0; q < panels_of(c->out); q++) {
        size_t first = q * DF_TILE_LATENTS, columns = at_most(c->out - first, DF_TILE_LATENTS);
        for (size_t t = 0; t < tiles; t++) {
            multiply(w->dense_left + t * each, right + first * latents.count, latents.count, w);
            take_product(w, tile_rows(unit, t).count, columns,
                         leaf + t * DF_TILE_ROWS * c->out + first, c->out, false);
        }
    }
}

/* The partials of a unit's rows, one per maximal subtree of this rank: out [rows, nodes, out]. */
static void decode_unit(const df_coder *c, df_worker *w, const df_codes *codes, df_range unit,
                        float *out) {
    size_t first = c->node_start[c->rank], n = c->node_start[c->rank + 1] - first, b = 0;
    for (size_t i = 0; i < n; i++) {
        size_t end = (size_t)(c->nodes[first + i].index + 1) << c->nodes[first + i].height;
        df_sum_tree t = {.sums = w->dense_sums, .width = unit.count * c->out};
        for (; b < c->my_blocks.count && c->my_blocks.first + b < end; b++)
            block_leaf(c, w, codes, unit, df_local_block(c, b),
                       df_sum_tree_leaf(&t, c->my_blocks.first + b, (df_range){0, t.width}));
        df_sum_tree_close(&t);
        for (size_t r = 0; r < unit.count; r++)
            memcpy(out + ((unit.first + r) * n + i) * c->out, t.sums + r * c->out,
                   c->out * sizeof *out);
    }
}

void df_dense_decode(df_coder *c, const df_codes *codes, float *out) {
#pragma omp parallel for schedule(static)
    for (size_t b = 0; b < c->my_blocks.count; b++) {
        df_range latents = df_local_block(c, b);
        pack_columns(c->dict->w_dec, c->out, latents, c->out,
                     c->dense_packed + latents.first * panels_of(c->out) * DF_TILE_LATENTS);
    }
#pragma omp parallel for schedule(dynamic)
    for (size_t i = 0; i < count_units(c); i++)
        decode_unit(c, df_coder_worker(c), codes, unit_rows(c, i), out);
}

/* ---- gradients of codes --------------------------------------------------------------------- */

static void pack_tile(size_t width, const float *from, df_range rows, float *to) {
    float unit[DF_TILE_ROWS], lost[DF_TILE_ROWS];
    df_panel panel = {DF_SCREEN_FP32, DF_TILE_ROWS, width, to};
    df_pack(&panel, from + rows.first * width, width, rows.count, (df_packed){unit, lost, NULL});
}

/* Takes the entries of latents below `end` from a tile's products; at [rows] moves behind them. */
static void take_code_gradients(const df_coder *c, const df_worker *w, df_code_store *s,
                                df_range rows, df_range latents, uint64_t *at,
                                df_code_factor factor) {
    for (size_t r = 0; r < rows.count; r++)
        for (uint64_t stop = s->codes.start[rows.first + r + 1]; at[r] < stop; at[r]++) {
            size_t j = s->codes.latent[at[r]];
            if (j >= latents.first + latents.count) break;
            float product = w->product[r * DF_TILE_LATENTS + j - latents.first];
            s->gradient[at[r]] = df_code_slope(c, factor, product, j);
        }
}

static void code_gradient_unit(const df_coder *c, df_worker *w, df_code_store *s, df_range unit,
                               const float *vectors, df_code_factor factor) {
    size_t tiles = df_row_tiles(unit.count), each = c->out * DF_TILE_ROWS;
    uint64_t at[DENSE_UNIT * DF_TILE_ROWS];
    memcpy(at, s->codes.start + unit.first, unit.count * sizeof *at);
    for (size_t t = 0; t < tiles; t++)
        pack_tile(c->out, vectors, tile_rows(unit, t), w->dense_left + t * each);
    for (size_t j = 0; j < c->local; j += DF_TILE_LATENTS)
        for (size_t t = 0; t < tiles; t++) {
            multiply(w->dense_left + t * each, c->dense_packed + j * c->out, c->out, w);
            take_code_gradients(c, w, s, tile_rows(unit, t), (df_range){j, DF_TILE_LATENTS},
                                at + t * DF_TILE_ROWS, factor);
        }
}

void df_dense_code_gradients(df_coder *c, df_code_store *s, const float *vectors,
                             df_code_factor factor) {
#pragma omp parallel for schedule(static)
    for (size_t j = 0; j < c->local; j += DF_TILE_LATENTS) {
        float unit[DF_TILE_LATENTS], lost[DF_TILE_LATENTS];
        df_panel to = {DF_SCREEN_FP32, DF_TILE_LATENTS, c->out, c->dense_packed + j * c->out};
        df_pack(&to, df_dict_dec(c->dict, j), c->out, at_most(c->local - j, DF_TILE_LATENTS),
                (df_packed){unit, lost, NULL});
    }
#pragma omp parallel for schedule(dynamic)
    for (size_t i = 0; i < count_units(c); i++)
        code_gradient_unit(c, df_coder_worker(c), s, unit_rows(c, i), vectors, factor);
}

/* ---- gradients of weights ------------------------------------------------------------------- */

/* Chunk k of the rows: its columns of what encoders read, or of the error. */
static float *chunk_columns(const df_coder *c, size_t k, bool of_error) {
    size_t first = k * DENSE_CHUNK, n = at_most(c->rows - first, DENSE_CHUNK);
    size_t in = panels_of(c->dict->in.count), out = panels_of(c->out);
    return c->dense_packed + (first * (in + out) + (of_error ? n * in : 0)) * DF_TILE_LATENTS;
}

void df_dense_prepare(df_coder *c) {
    size_t chunks = (c->rows + DENSE_CHUNK - 1) / DENSE_CHUNK;
#pragma omp parallel for schedule(static)
    for (size_t k = 0; k < chunks; k++) {
        df_range rows = {k * DENSE_CHUNK, at_most(c->rows - k * DENSE_CHUNK, DENSE_CHUNK)};
        pack_columns(c->input + c->dict->in.first, c->width, rows, c->dict->in.count,
                     chunk_columns(c, k, false));
        pack_columns(c->error, c->out, rows, c->out, chunk_columns(c, k, true));
    }
}

/* The entries of a tile's latents in a chunk of rows, [rows, 14]: dL/df, and what the decoder's
 * gradient multiplies the error by. at [latents] moves behind them. */
static void spread_entries(const df_coder *c, df_range latents, df_range rows, uint64_t *at,
                           float *left[2]) {
    const df_code_store *s = &c->main;
    for (size_t k = 0; k < 2; k++) memset(left[k], 0, rows.count * DF_TILE_ROWS * sizeof(float));
    for (size_t l = 0; l < latents.count; l++)
        for (uint64_t stop = s->latent_start[latents.first + l + 1]; at[l] < stop; at[l]++) {
            size_t r = s->sorted_row[at[l]] - rows.first;
            if (r >= rows.count) break;
            left[0][r * DF_TILE_ROWS + l] = s->sorted_gradient[at[l]];
            left[1][r * DF_TILE_ROWS + l] = c->error_factor * s->sorted_value[at[l]];
        }
}

/* Adds what a chunk of rows gives to the encoder's or the decoder's gradient. */
static void add_chunk(const df_coder *c, df_worker *w, df_range latents, size_t chunk, bool error) {
    size_t n = at_most(c->rows - chunk * DENSE_CHUNK, DENSE_CHUNK);
    size_t in = c->dict->in.count, columns = error ? c->out : in;
    float *to = w->dense_sums + (error ? latents.count * in : 0);
    const float *left = w->dense_left + (error ? DENSE_LATENTS * DENSE_CHUNK : 0);
    const float *right = chunk_columns(c, chunk, error);
    for (size_t q = 0; q < columns; q += DF_TILE_LATENTS)
        for (size_t l = 0; l < latents.count; l += DF_TILE_ROWS) {
            multiply(left + l * DENSE_CHUNK, right + q * n, n, w);
            take_product(w, at_most(latents.count - l, DF_TILE_ROWS),
                         at_most(columns - q, DF_TILE_LATENTS), to + l * columns + q, columns,
                         chunk > 0);
        }
}

void df_dense_latents(const df_coder *c, df_worker *w, df_range latents) {
    uint64_t at[DENSE_LATENTS];
    size_t chunks = (c->rows + DENSE_CHUNK - 1) / DENSE_CHUNK;
    memcpy(at, c->main.latent_start + latents.first, latents.count * sizeof *at);
    for (size_t k = 0; k < chunks; k++) {
        df_range rows = {k * DENSE_CHUNK, at_most(c->rows - k * DENSE_CHUNK, DENSE_CHUNK)};
        for (size_t l = 0; l < latents.count; l += DF_TILE_ROWS) {
            float *left[2] = {w->dense_left + l * DENSE_CHUNK,
                              w->dense_left + (DENSE_LATENTS + l) * DENSE_CHUNK};
            df_range tile = {latents.first + l, at_most(latents.count - l, DF_TILE_ROWS)};
            spread_entries(c, tile, rows, at + l, left);
        }
        add_chunk(c, w, latents, k, false);
        add_chunk(c, w, latents, k, true);
    }
}
