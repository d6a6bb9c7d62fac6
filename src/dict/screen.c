/* Screen, then settle (design section 3): a GEMM bounds every pre-activation, only candidates are
 * computed exactly. */
#include "coder.h"

#include <float.h>
#include <math.h>
#include <omp.h>
#include <string.h>

#define UNIT 5.9604644775390625e-8 /* 2^-24 */
#define LARGEST 1e37               /* products beyond it would not be safe in fp32 */

df_worker *df_coder_worker(df_coder *c) {
    return &c->worker[omp_get_thread_num()];
}

/* ---- bounds --------------------------------------------------------------------------------- */

static double code_norm(const df_dict *d, size_t j) {
    const float *row = df_dict_dec(d, j);
    const df_dict_group *g = df_dict_group_of(d, j);
    if (d->code_norm == DF_NORM_NONE) return 1.0;
    if (d->code_norm == DF_NORM_ROOT) return sqrt(df_sum_squares(row, g->out.count));
    double sum = 0.0;
    for (size_t s = 0; s < d->sites; s++)
        if (df_dict_writes(g, &d->site[s]))
            sum += sqrt(df_sum_squares(row + (d->site[s].first - g->out.first), d->site[s].width));
    return sum;
}

/* What thresholds and magnitudes add to the size of a latent's numbers; `size` is that of p. */
static double bound_parameters(df_coder *c, size_t j, double size) {
    const df_dict *d = c->dict;
    if (d->activation == DF_JUMPRELU) return fabs((double)d->theta[j]);
    if (d->activation != DF_GATED) return 0.0;
    c->magnify[j] = expf(d->r_mag[j]);
    return (double)c->magnify[j] * size + fabs((double)d->b_mag[j]);
}

/* Two fp32 sums of D products in any order differ by at most 2 D u |x| |w|; the rest covers bias,
 * scale and underflow. */
static double bound_latent(df_coder *c, size_t j) {
    const df_dict *d = c->dict;
    size_t columns = df_dict_group_of(d, j)->in.count;
    double length = sqrt(df_sum_squares(df_dict_enc(d, j), columns));
    c->norm[j] = (float)code_norm(d, j);
    c->scale[j] = df_has_k(d) ? c->norm[j] : 1.0f;
    double scale = (double)c->scale[j], bias = fabs((double)d->b_enc[j]);
    c->slack[j] = (float)(scale * length * 2.02 * (double)(columns + 16) * UNIT);
    c->extra[j] = (float)(scale * bias * 40.0 * UNIT + (1.0 + scale) * 1e-36);
    c->lift[j] = d->b_enc[j] * c->scale[j] + c->extra[j];
    return (length + bias) * (1.0 + scale) + bound_parameters(c, j, length + bias);
}

/* The largest size a score can have per unit of |x|; not finite when a weight is not. */
static double bound_latents(df_coder *c) {
    double largest = 0.0;
#pragma omp parallel for schedule(static) reduction(max : largest)
    for (size_t j = 0; j < c->local; j++) {
        double size = bound_latent(c, j);
        if (!(size <= largest)) largest = size < DBL_MAX ? size : DBL_MAX;
    }
    return largest;
}

static void center_row(df_coder *c, size_t r) {
    const df_dict *d = c->dict;
    const float *x = c->x + r * c->width + d->in.first;
    float *out = c->centered + r * c->width + d->in.first;
    if (d->subtract_bias)
        for (size_t i = 0; i < d->in.count; i++) out[i] = x[i] - d->b_dec[i];
    for (size_t g = 0; g < d->groups; g++) {
        const float *read = c->input + r * c->width + d->group[g].in.first;
        c->x_norm[g * c->max_rows + r] =
            (float)(sqrt(df_sum_squares(read, d->group[g].in.count)) * (1.0 + 1e-6));
    }
    // Targets that no encoder reads must be finite too.
    bool read = d->in.first == d->out.first && d->in.count == d->out.count;
    if (!read && !(df_sum_squares(c->x + r * c->width + d->out.first, c->out) < DBL_MAX))
        c->x_norm[r] = INFINITY;
}

/* The largest norm that a group reads of a row. */
static float row_size(const df_coder *c, size_t r) {
    float largest = 0.0f;
    for (size_t g = 0; g < c->dict->groups; g++) {
        float norm = c->x_norm[g * c->max_rows + r];
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
    double largest = bound_latents(c);
    if (largest < 1.0) largest = 1.0;
#pragma omp parallel for schedule(static)
    for (size_t r = 0; r < rows; r++) center_row(c, r);
    for (size_t r = 0; r < rows; r++) {
        float size = row_size(c, r);
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

/* ---- one screen block ----------------------------------------------------------------------- */

typedef struct screen_block {
    size_t row, rows, latent, latents; /* latent counts along the view; all are of one group */
    const df_dict_group *group;
    const float *w, *scale, *lift, *slack, *norm; /* norm [rows] of what the group reads */
} screen_block;

static size_t latent_at(df_view view, size_t i) {
    return view.list != NULL ? view.list[i] : i;
}

/* The latents from b->latent on: at most a screen block, none beyond their group's end. */
static void choose_latents(const df_coder *c, df_view view, screen_block *b) {
    size_t left = view.n - b->latent;
    b->group = df_dict_group_of(c->dict, latent_at(view, b->latent));
    b->latents = left < SCREEN_LATENTS ? left : SCREEN_LATENTS;
    size_t end = b->group->local.first + b->group->local.count;
    while (latent_at(view, b->latent + b->latents - 1) >= end) b->latents--;
    size_t number = (size_t)(b->group - c->dict->group);
    b->norm = c->x_norm + number * c->max_rows + b->row;
}

/* Where the block's encoder rows and bounds stand: in the dictionary, or gathered from a list. */
static void locate(df_coder *c, df_worker *w, df_view view, screen_block *b) {
    if (view.list == NULL) {
        b->w = df_dict_enc(c->dict, b->latent);
        b->scale = c->scale + b->latent;
        b->lift = (view.lift != NULL ? view.lift : c->lift) + b->latent;
        b->slack = c->slack + b->latent;
        return;
    }
    size_t columns = b->group->in.count;
    for (size_t i = 0; i < b->latents; i++) {
        size_t j = view.list[b->latent + i];
        memcpy(w->panel + i * columns, df_dict_enc(c->dict, j), columns * sizeof *w->panel);
        w->scale[i] = c->scale[j];
        w->lift[i] = c->lift[j];
        w->slack[i] = c->slack[j];
    }
    b->w = w->panel;
    b->scale = w->scale;
    b->lift = w->lift;
    b->slack = w->slack;
}

static void multiply(const df_coder *c, df_worker *w, const screen_block *b) {
    df_gemm g = {.m = b->rows,
                 .n = b->latents,
                 .k = b->group->in.count,
                 .alpha = 1.0f,
                 .a = c->input + b->row * c->width + b->group->in.first,
                 .lda = c->width,
                 .b = b->w,
                 .ldb = b->group->in.count,
                 .c = w->block,
                 .ldc = SCREEN_LATENTS};
    double start = df_now();
    df_gemm_nt(&g);
    w->gemm_seconds += df_now() - start;
}

/* Appends the candidates of one row of the block. */
static void scan(df_worker *w, const screen_block *b, size_t r, df_candidates *s) {
    df_scan scan_row = {.product = w->block + r * SCREEN_LATENTS,
                        .scale = b->scale,
                        .lift = b->lift,
                        .slack = b->slack,
                        .n = b->latents,
                        .norm = b->norm[r],
                        .floor = s->floor,
                        .first = (uint32_t)b->latent};
    size_t n = df_scan_row(&scan_row, s->upper + s->count, s->latent + s->count);
    for (size_t i = 0; i < n; i++) s->row[s->count + i] = (uint32_t)(b->row + r);
    s->count += n;
}

static void relabel(df_view view, df_candidates *s, size_t from) {
    if (view.list == NULL) return;
    for (size_t i = from; i < s->count; i++) s->latent[i] = view.list[s->latent[i]];
}

static bool full(const df_candidates *s) {
    return s->count + SCREEN_LATENTS + 16 > s->limit;
}

/* Makes room by the bounds; where too many are too close, settles them. */
static void make_room(df_coder *c, df_worker *w, df_candidates *s, size_t keep) {
    df_candidates_narrow(c, w, s, keep);
    if (!full(s)) return;
    df_candidates_settle(c, s);
    df_candidates_best(w, s, keep);
    w->settled_rows++;
}

static size_t block_rows(const df_coder *c) {
    size_t even = (c->rows + (size_t)c->threads - 1) / (size_t)c->threads;
    size_t padded = (even + 15) / 16 * 16;
    return padded < SCREEN_ROWS ? padded : SCREEN_ROWS;
}

/* ---- TopK: candidates per row --------------------------------------------------------------- */

static void scan_row_block(df_coder *c, df_worker *w, df_view view, const screen_block *b,
                           size_t k) {
    for (size_t r = 0; r < b->rows; r++) {
        df_candidates *s = &w->rows[r];
        size_t before = s->count;
        scan(w, b, r, s);
        relabel(view, s, before);
        if (s->count > 2 * k || full(s)) {
            if (full(s))
                make_room(c, w, s, k);
            else
                df_candidates_narrow(c, w, s, k);
        }
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

static void screen_rows_block(df_coder *c, df_worker *w, df_view view, screen_block b, size_t k) {
    for (size_t r = 0; r < b.rows; r++) {
        w->rows[r].count = w->rows[r].exact = 0;
        w->rows[r].floor = FLT_TRUE_MIN;
    }
    for (b.latent = 0; b.latent < view.n; b.latent += b.latents) {
        choose_latents(c, view, &b);
        locate(c, w, view, &b);
        multiply(c, w, &b);
        double start = df_now();
        scan_row_block(c, w, view, &b, k);
        w->scan_seconds += df_now() - start;
    }
    double start = df_now();
    for (size_t r = 0; r < b.rows; r++) finish_row(c, w, &w->rows[r], b.row + r, k);
    w->settle_seconds += df_now() - start;
}

void df_screen_rows(df_coder *c, df_view view, size_t k) {
    size_t step = block_rows(c), blocks = (c->rows + step - 1) / step;
    c->picked_k = k;
#pragma omp parallel for schedule(dynamic)
    for (size_t i = 0; i < blocks; i++) {
        screen_block b = {.row = i * step,
                          .rows = c->rows - i * step < step ? c->rows - i * step : step};
        screen_rows_block(c, df_coder_worker(c), view, b, k);
    }
}

/* ---- the others: candidates per thread ------------------------------------------------------ */

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

static void scan_list_block(df_coder *c, df_worker *w, const screen_block *b, size_t keep) {
    df_candidates *s = &w->list;
    for (size_t r = 0; r < b->rows; r++) {
        if (full(s) && keep == SIZE_MAX)
            grow(w, s);
        else if (full(s))
            make_room(c, w, s, keep);
        raise_shared_floor(c, s);
        scan(w, b, r, s);
    }
}

static void screen_list_rows(df_coder *c, df_worker *w, screen_block b, size_t keep) {
    df_view all = {.n = c->local, .lift = w->list.cut != NULL ? c->cut_lift : c->lift};
    for (b.latent = 0; b.latent < c->local; b.latent += b.latents) {
        choose_latents(c, all, &b);
        locate(c, w, all, &b);
        multiply(c, w, &b);
        double start = df_now();
        scan_list_block(c, w, &b, keep);
        w->scan_seconds += df_now() - start;
    }
}

static df_status first_failure(df_coder *c) {
    for (int t = 0; t < c->threads; t++)
        if (c->worker[t].status != DF_OK)
            return df_fail(DF_FAILED, "out of memory for the active latents of a batch of %zu rows",
                           c->rows);
    return DF_OK;
}

df_status df_screen_lists(df_coder *c, float floor, size_t keep) {
    size_t step = block_rows(c), blocks = (c->rows + step - 1) / step;
    c->shared_floor = floor;
    for (int t = 0; t < c->threads; t++) {
        c->worker[t].list.count = c->worker[t].list.exact = 0;
        c->worker[t].list.floor = floor;
        c->worker[t].list.cut = c->dict->activation == DF_JUMPRELU ? c->cut : NULL;
        c->worker[t].list.limit =
            keep == SIZE_MAX ? c->worker[t].list.capacity : c->worker[t].order_capacity;
        c->worker[t].status = DF_OK;
    }
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < blocks; i++) {
        screen_block b = {.row = i * step,
                          .rows = c->rows - i * step < step ? c->rows - i * step : step};
        screen_list_rows(c, df_coder_worker(c), b, keep);
    }
    return first_failure(c);
}
