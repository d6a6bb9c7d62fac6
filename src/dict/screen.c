/* Screen, then settle (design section 3): packed tiles bound every pre-activation, only candidates are computed exactly. */
#include "coder.h"

#include <float.h>
#include <math.h>
#include <omp.h>
#include <string.h>

#define UNIT 5.9604644775390625e-8 /* 2^-24 */
#define LARGEST 1e37               /* products beyond it would not be safe in fp32 */

/* How many parts of `each` cover n. */
static size_t panels(size_t n, size_t each) {
    return (n + each - 1) / each;
}

df_worker *df_coder_worker(df_coder *c) {
    return &c->worker[omp_get_thread_num()];
}

/* ---- bounds ------------------------------------------------------------------------------------ */

static double code_norm(const df_dict *d, const float *row) {
    if (d->code_norm == DF_NORM_NONE) return 1.0;
    if (d->code_norm == DF_NORM_ROOT) return sqrt(df_sum_squares(row, d->width));
    double sum = 0.0;
    for (size_t s = 0; s < d->sites; s++) sum += sqrt(df_sum_squares(row + d->site[s].first, d->site[s].width));
    return sum;
}

/* |p - p~| <= |dx| |w| + |bf16(x)| |dw| + 2 D u |x| |w|: rounding of the operands, then of two sums in any order. The factors above 1
 * and the absolute part cover the norms' own rounding, bias, scale, and underflow. */
static double bound_latent(df_coder *c, size_t j, float lost) {
    const df_dict *d = c->dict;
    double size = sqrt(df_sum_squares(d->w_enc + j * c->width, c->width)), width = (double)c->width;
    c->norm[j] = (float)code_norm(d, d->w_dec + j * c->width);
    c->scale[j] = d->activation == DF_RELU ? 1.0f : c->norm[j];
    double scale = (double)c->scale[j], bias = fabs((double)d->b_enc[j]);
    c->length[j] = (float)(scale * size * 1.01);
    c->slack[j] = (float)(scale * (size * 2.1 * (width + 16.0) * UNIT + (double)lost * 1.02));
    c->extra[j] = (float)(scale * bias * 40.0 * UNIT + (1.0 + scale) * width * 1e-36);
    c->lift[j] = d->b_enc[j] * c->scale[j] + c->extra[j];
    return (size + bias) * (1.0 + scale);
}

/* Packs 32 latents and bounds them; returns the largest size a score can have per unit of |x|. */
static double prepare_latents(df_coder *c, size_t panel) {
    size_t first = panel * DF_TILE_LATENTS, n = c->local - first < DF_TILE_LATENTS ? c->local - first : DF_TILE_LATENTS;
    float lost[DF_TILE_LATENTS];
    double largest = 0.0;
    df_panel to = {c->precision, DF_TILE_LATENTS, c->width, c->packed_latents + panel * c->latent_panel};
    df_pack(&to, c->dict->w_enc + first * c->width, n, lost);
    for (size_t i = 0; i < n; i++) {
        double size = bound_latent(c, first + i, lost[i]);
        if (!(size <= largest)) largest = size < DBL_MAX ? size : DBL_MAX; // not a number counts as the largest
    }
    for (size_t i = first + n; i < first + DF_TILE_LATENTS; i++) {
        c->scale[i] = c->slack[i] = c->length[i] = 0.0f;
        c->lift[i] = -FLT_MAX;
    }
    return largest;
}

static double prepare_all_latents(df_coder *c) {
    double largest = 1.0;
#pragma omp parallel for schedule(static) reduction(max : largest)
    for (size_t panel = 0; panel < panels(c->local, DF_TILE_LATENTS); panel++) {
        double size = prepare_latents(c, panel);
        if (size > largest) largest = size;
    }
    return largest;
}

static void center_row(df_coder *c, size_t r) {
    const float *x = c->x + r * c->width;
    float *out = c->centered + r * c->width;
    if (c->dict->subtract_bias)
        for (size_t i = 0; i < c->width; i++) out[i] = x[i] - c->dict->b_dec[i];
    c->x_norm[r] = (float)(sqrt(df_sum_squares(c->input + r * c->width, c->width)) * (1.0 + 1e-6));
}

static void prepare_rows(df_coder *c, size_t panel) {
    size_t first = panel * DF_TILE_ROWS, n = c->rows - first < DF_TILE_ROWS ? c->rows - first : DF_TILE_ROWS;
    df_panel to = {c->precision, DF_TILE_ROWS, c->width, c->packed_rows + panel * c->row_panel};
    for (size_t i = 0; i < n; i++) center_row(c, first + i);
    df_pack(&to, c->input + first * c->width, n, c->x_lost + first);
    for (size_t i = first + n; i < first + DF_TILE_ROWS; i++) c->x_norm[i] = c->x_lost[i] = 0.0f;
}

df_status df_coder_prepare(df_coder *c, const float *x, size_t rows) {
    if (rows > c->max_rows) return df_fail(DF_FAILED, "%zu rows in a batch; the coder was opened for %zu", rows, c->max_rows);
    c->x = x;
    c->rows = rows;
    c->input = c->dict->subtract_bias ? c->centered : x;
    double largest = prepare_all_latents(c);
#pragma omp parallel for schedule(static)
    for (size_t panel = 0; panel < panels(rows, DF_TILE_ROWS); panel++) prepare_rows(c, panel);
    for (size_t r = 0; r < rows; r++) {
        if (!(c->x_norm[r] < FLT_MAX))
            return df_fail(DF_BAD_INPUT, "row %zu of the batch holds a value that is not finite", r);
        if (!((double)c->x_norm[r] * largest < LARGEST))
            return df_fail(DF_FAILED, "row %zu of the batch (norm %g) times the largest encoder row (%g) leaves the range of fp32", r,
                           (double)c->x_norm[r], largest);
    }
    return DF_OK;
}

/* ---- one tile ---------------------------------------------------------------------------------- */

/* A panel of latents: the dictionary's own, or gathered from a list. `first` counts along the view. */
static df_tile latent_panel(df_coder *c, df_worker *w, df_view view, size_t first) {
    df_tile t = {.precision = c->precision, .width = c->width, .first = (uint32_t)first};
    if (view.list == NULL) {
        t.latents = c->packed_latents + first / DF_TILE_LATENTS * c->latent_panel;
        t.scale = c->scale + first;
        t.lift = c->lift + first;
        t.slack = c->slack + first;
        t.length = c->length + first;
        return t;
    }
    df_panel to = {c->precision, DF_TILE_LATENTS, c->width, w->panel};
    for (size_t i = 0; i < DF_TILE_LATENTS; i++) {
        bool inside = first + i < view.n;
        size_t j = view.list[inside ? first + i : first];
        df_panel from = to;
        from.packed = c->packed_latents + j / DF_TILE_LATENTS * c->latent_panel;
        df_panel_copy(&to, i, &from, j % DF_TILE_LATENTS);
        w->scale[i] = inside ? c->scale[j] : 0.0f;
        w->lift[i] = inside ? c->lift[j] : -FLT_MAX;
        w->slack[i] = inside ? c->slack[j] : 0.0f;
        w->length[i] = inside ? c->length[j] : 0.0f;
    }
    t.latents = w->panel;
    t.scale = w->scale;
    t.lift = w->lift;
    t.slack = w->slack;
    t.length = w->length;
    return t;
}

static void set_rows(const df_coder *c, df_tile *t, size_t row, const float *floor) {
    t->rows = c->packed_rows + row / DF_TILE_ROWS * c->row_panel;
    t->norm = c->x_norm + row;
    t->lost = c->x_lost + row;
    t->floor = floor;
}

static void append(df_candidates *s, size_t row, const float *upper, const uint32_t *latent, size_t n) {
    memcpy(s->upper + s->count, upper, n * sizeof *upper);
    memcpy(s->latent + s->count, latent, n * sizeof *latent);
    for (size_t i = 0; i < n; i++) s->row[s->count + i] = (uint32_t)row;
    s->count += n;
}

/* Narrows by the bounds; where too many are too close, makes them exact and keeps the best. */
static void make_room(df_coder *c, df_worker *w, df_candidates *s, size_t keep, size_t room) {
    df_candidates_narrow(c, w, s, keep);
    if (s->count + room <= s->limit) return;
    df_candidates_settle(c, s);
    df_candidates_best(w, s, keep);
    w->settled_rows++;
}

/* Rows of one unit of work: whole panels, at most SCREEN_ROWS, enough units for all threads. */
static size_t unit_rows(const df_coder *c) {
    size_t even = panels(c->rows, (size_t)c->threads);
    size_t rows = panels(even, DF_TILE_ROWS) * DF_TILE_ROWS;
    return rows < SCREEN_ROWS ? rows : SCREEN_ROWS;
}

/* ---- TopK: candidates per row ------------------------------------------------------------------ */

/* Gives a tile's hits to their rows; a row that has gathered k more is narrowed, which raises its floor. */
static void take_row_hits(df_coder *c, df_worker *w, df_view view, size_t row, size_t first, size_t k) {
    const float *upper = w->hit_upper;
    uint32_t *latent = w->hit_latent;
    for (size_t r = 0; r < DF_TILE_ROWS; r++) {
        size_t n = w->hit_counts[r];
        if (n == 0) continue;
        df_candidates *s = &w->rows[row - first + r];
        for (size_t i = 0; i < n && view.list != NULL; i++) latent[i] = view.list[latent[i]];
        append(s, row + r, upper, latent, n);
        upper += n;
        latent += n;
        if (s->count < s->next) continue;
        make_room(c, w, s, k, DF_TILE_LATENTS);
        s->next = s->count + (k > DF_TILE_LATENTS ? k : DF_TILE_LATENTS);
        if (s->next + DF_TILE_LATENTS > s->limit) s->next = s->limit - DF_TILE_LATENTS;
        w->floor[row - first + r] = s->floor;
    }
}

/* The winners of one row, ascending by latent. */
static void finish_row(df_coder *c, df_worker *w, df_candidates *s, size_t row, size_t k) {
    df_candidates_narrow(c, w, s, k);
    df_candidates_settle(c, s);
    df_candidates_above(s, 0.0f);
    df_candidates_best(w, s, k);
    c->picked_count[row] = (uint32_t)s->count;
    memcpy(c->picked_value + row * k, s->value, s->count * sizeof *s->value);
    memcpy(c->picked_latent + row * k, s->latent, s->count * sizeof *s->latent);
}

static void start_rows(df_worker *w, size_t rows, size_t k) {
    for (size_t r = 0; r < SCREEN_ROWS; r++) {
        df_candidates *s = &w->rows[r];
        s->count = s->exact = 0;
        s->next = 2 * k;
        s->floor = FLT_TRUE_MIN;
        w->floor[r] = r < rows ? FLT_TRUE_MIN : INFINITY;
    }
}

static void screen_unit(df_coder *c, df_worker *w, df_view view, df_range rows, size_t k) {
    double start = df_now();
    start_rows(w, rows.count, k);
    for (size_t j = 0; j < view.n; j += DF_TILE_LATENTS) {
        df_tile t = latent_panel(c, w, view, j);
        for (size_t r = rows.first; r < rows.first + rows.count; r += DF_TILE_ROWS) {
            set_rows(c, &t, r, w->floor + (r - rows.first));
            if (df_screen_tile(&t, w->hit_upper, w->hit_latent, w->hit_counts) > 0) take_row_hits(c, w, view, r, rows.first, k);
        }
    }
    double middle = df_now();
    for (size_t r = 0; r < rows.count; r++) finish_row(c, w, &w->rows[r], rows.first + r, k);
    w->screen_seconds += middle - start;
    w->settle_seconds += df_now() - middle;
}

static df_range unit_range(const df_coder *c, size_t step, size_t i) {
    return (df_range){i * step, c->rows - i * step < step ? c->rows - i * step : step};
}

void df_screen_rows(df_coder *c, df_view view, size_t k) {
    size_t step = unit_rows(c);
    c->picked_k = k;
#pragma omp parallel for schedule(dynamic)
    for (size_t i = 0; i < panels(c->rows, step); i++) screen_unit(c, df_coder_worker(c), view, unit_range(c, step, i), k);
}

/* ---- the others: candidates per thread --------------------------------------------------------- */

/* Grows a list when nothing bounds the number selected. */
static void grow(df_worker *w, df_candidates *s) {
    size_t wanted = s->capacity * 2;
    df_candidates bigger = *s;
    float *pool = df_alloc(wanted, 2 * sizeof(float) + 2 * sizeof(uint32_t));
    if (pool == NULL) {
        w->status = DF_FAILED;
        s->count = 0;
        return;
    }
    bigger.upper = pool;
    bigger.value = pool + wanted;
    bigger.row = (uint32_t *)(pool + 2 * wanted);
    bigger.latent = (uint32_t *)(pool + 3 * wanted);
    bigger.capacity = bigger.limit = wanted;
    memcpy(bigger.upper, s->upper, s->count * sizeof *s->upper);
    memcpy(bigger.value, s->value, s->count * sizeof *s->value);
    memcpy(bigger.row, s->row, s->count * sizeof *s->row);
    memcpy(bigger.latent, s->latent, s->count * sizeof *s->latent);
    df_free(s->upper);
    *s = bigger;
}

static void raise_shared_floor(df_coder *c, df_candidates *s) {
    float shared;
#pragma omp atomic read
    shared = c->shared_floor;
    if (shared > s->floor) s->floor = shared;
    if (shared >= s->floor) return;
#pragma omp atomic write
    c->shared_floor = s->floor;
}

static void take_list_hits(df_worker *w, size_t row) {
    size_t at = 0;
    for (size_t r = 0; r < DF_TILE_ROWS; r++) {
        append(&w->list, row + r, w->hit_upper + at, w->hit_latent + at, w->hit_counts[r]);
        at += w->hit_counts[r];
    }
}

static void list_tile(df_coder *c, df_worker *w, df_tile *t, df_range rows, size_t row, size_t keep) {
    df_candidates *s = &w->list;
    if (s->count + DF_TILE_ROOM > s->limit) {
        if (keep == SIZE_MAX) grow(w, s);
        else make_room(c, w, s, keep, DF_TILE_ROOM);
    }
    raise_shared_floor(c, s);
    for (size_t r = 0; r < DF_TILE_ROWS; r++) w->floor[r] = row + r < rows.first + rows.count ? s->floor : INFINITY;
    set_rows(c, t, row, w->floor);
    if (df_screen_tile(t, w->hit_upper, w->hit_latent, w->hit_counts) > 0) take_list_hits(w, row);
}

static void list_unit(df_coder *c, df_worker *w, df_range rows, size_t keep) {
    df_view all = {.n = c->local};
    double start = df_now();
    for (size_t j = 0; j < c->local; j += DF_TILE_LATENTS) {
        df_tile t = latent_panel(c, w, all, j);
        for (size_t r = rows.first; r < rows.first + rows.count; r += DF_TILE_ROWS) list_tile(c, w, &t, rows, r, keep);
    }
    w->screen_seconds += df_now() - start;
}

static df_status first_failure(df_coder *c) {
    for (int t = 0; t < c->threads; t++)
        if (c->worker[t].status != DF_OK) return df_fail(DF_FAILED, "out of memory for the active latents of a batch of %zu rows", c->rows);
    return DF_OK;
}

df_status df_screen_lists(df_coder *c, float floor, size_t keep) {
    size_t step = unit_rows(c);
    c->shared_floor = floor;
    for (int t = 0; t < c->threads; t++) {
        df_worker *w = &c->worker[t];
        w->list.count = w->list.exact = 0;
        w->list.floor = floor;
        w->list.limit = keep == SIZE_MAX ? w->list.capacity : w->order_capacity;
        w->status = DF_OK;
    }
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < panels(c->rows, step); i++) list_unit(c, df_coder_worker(c), unit_range(c, step, i), keep);
    return first_failure(c);
}
