/* Screen, then settle (design section 3): tiles of packed products bound every pre-activation, only
 * candidates are computed exactly. */
#include "coder.h"

#include <float.h>
#include <math.h>
#include <omp.h>
#include <string.h>

df_worker *df_coder_worker(df_coder *c) {
    return &c->worker[omp_get_thread_num()];
}

/* ---- one tile ------------------------------------------------------------------------------- */

/* A panel of latents and a tile's other half. */
typedef struct screen_panel {
    df_tile tile;
    size_t group, count;
    const uint32_t *list; /* [count] its latents; NULL: first, first + 1, ... */
    size_t first;
    float slack, length;
} screen_panel;

static void own_panel(const df_coder *c, size_t i, screen_panel *p) {
    const df_latents *l = &c->panel[i];
    *p = (screen_panel){.group = l->group,
                        .count = l->count,
                        .first = l->first,
                        .slack = l->slack,
                        .length = l->length};
    p->tile = (df_tile){.screen = c->screen,
                        .width = c->dict->group[l->group].in.count,
                        .latents = c->packed_latents + l->packed,
                        .start = c->start + l->first,
                        .gain = c->gain + l->first,
                        .lift = c->lift + l->first};
}

/* The panel that holds a latent, and its lane there. */
static size_t panel_of(const df_coder *c, size_t latent, size_t *lane) {
    size_t low = 0, high = c->panels;
    while (high - low > 1) {
        size_t middle = (low + high) / 2;
        if (c->panel[middle].first <= latent)
            low = middle;
        else
            high = middle;
    }
    *lane = latent - c->panel[low].first;
    return low;
}

/* Gathers a panel from a list, latents of one group; returns how many. */
static size_t gather_panel(const df_coder *c, df_worker *w, df_view view, size_t first,
                           screen_panel *p) {
    size_t group = 0, n = 0;
    float slack = 0.0f, length = 0.0f;
    for (; n < DF_TILE_LATENTS && first + n < view.n; n++) {
        size_t j = view.list[first + n], lane;
        const df_latents *l = &c->panel[panel_of(c, j, &lane)];
        if (n > 0 && l->group != group) break;
        group = l->group;
        size_t width = c->dict->group[group].in.count;
        df_panel to = {c->screen, DF_TILE_LATENTS, width, w->gathered};
        df_panel from = {c->screen, DF_TILE_LATENTS, width, c->packed_latents + l->packed};
        df_panel_copy(&to, n, &from, lane);
        w->gain[n] = c->gain[j];
        w->lift[n] = c->lift[j];
        w->start[n] = c->start[j];
        slack = c->slack[j] > slack ? c->slack[j] : slack;
        length = c->length[j] > length ? c->length[j] : length;
    }
    *p = (screen_panel){
        .group = group, .count = n, .list = view.list + first, .slack = slack, .length = length};
    p->tile = (df_tile){.screen = c->screen,
                        .width = c->dict->group[group].in.count,
                        .latents = w->gathered,
                        .start = w->start,
                        .gain = w->gain,
                        .lift = w->lift};
    return n;
}

/* Screens the tile of rows that begins with `row`; floor [DF_TILE_ROWS]. Returns how many places of
 * the tile may reach their floor. */
static size_t screen_tile(const df_coder *c, df_worker *w, screen_panel *p, size_t row,
                          const float *floor) {
    size_t at = p->group * c->padded_rows + row;
    const float *norm = c->x_norm + at, *lost = c->x_lost + at;
    for (size_t r = 0; r < DF_TILE_ROWS; r++)
        w->least[r] = floor[r] - (norm[r] * p->slack + lost[r] * p->length);
    p->tile.rows = df_row_panel(c, p->group, row);
    p->tile.unit = c->x_unit + at;
    p->tile.floor = w->least;
    if (df_screen_tile(&p->tile, w->product, w->mask) == 0) return 0;
    for (size_t r = 0; r < DF_TILE_ROWS && p->count < DF_TILE_LATENTS; r++)
        w->mask[r] &= ((uint32_t)1 << p->count) - 1;
    return df_mask_places(w->mask, w->place);
}

/* Appends what stands at a place of the tile that begins with `row`, by its own bound. */
static void append_hit(const df_coder *c, const df_worker *w, const screen_panel *p, size_t row,
                       size_t place, df_candidates *s) {
    size_t l = place % DF_TILE_LATENTS, j = p->list != NULL ? p->list[l] : p->first + l;
    size_t at = p->group * c->padded_rows + row + place / DF_TILE_LATENTS, n = s->count;
    float bound = c->x_norm[at] * c->slack[j] + c->x_lost[at] * c->length[j];
    float upper = w->product[place] * p->tile.gain[l] * c->x_unit[at] + p->tile.lift[l] + bound;
    s->upper[n] = upper;
    s->value[n] = upper - c->caution * (bound + c->extra[j]);
    s->row[n] = (uint32_t)(row + place / DF_TILE_LATENTS);
    s->latent[n] = (uint32_t)j;
    s->count = n + (upper >= s->floor);
}

/* Narrows by the bounds; where too many are too close for `room` more, makes them exact and keeps
 * the best. */
static void make_room(df_coder *c, df_worker *w, df_candidates *s, size_t keep, size_t room) {
    df_candidates_narrow(w, s, keep);
    if (s->count + room <= s->limit) return;
    df_candidates_settle(c, w, s);
    df_candidates_best(w, s, keep);
    w->settled_rows++;
}

/* ---- units of rows -------------------------------------------------------------------------- */

/* How many units: each of whole tiles that stay near while all latents pass, and every thread gets
 * as many. */
static size_t count_units(const df_coder *c, size_t k) {
    size_t near = SCREEN_BYTES / df_panel_bytes(c->screen, DF_TILE_ROWS, c->dict->in.count);
    size_t most = df_screen_unit(c, k) / DF_TILE_ROWS, threads = (size_t)c->threads;
    if (most > near) most = near > 0 ? near : 1;
    return (df_row_tiles(c->rows) + most * threads - 1) / (most * threads) * threads;
}

/* The rows of unit i; none where there are fewer tiles than threads. */
static df_range unit_range(const df_coder *c, size_t units, size_t i) {
    df_range tiles = df_share(df_row_tiles(c->rows), (int)units, (int)i);
    size_t first = tiles.first * DF_TILE_ROWS, end = first + tiles.count * DF_TILE_ROWS;
    if (end > c->rows) end = c->rows;
    return (df_range){first, end > first ? end - first : 0};
}

/* ---- TopK: candidates per row --------------------------------------------------------------- */

/* Rows to find candidates of. */
typedef struct row_job {
    df_view view;
    df_range unit;
    size_t k;
} row_job;

/* Lays out the rows' candidates one after another, as near as this k allows; none is screened yet.
 */
static void open_rows(const df_coder *c, df_worker *w, size_t k) {
    size_t capacity = df_row_capacity(k);
    for (size_t r = 0; r < df_screen_unit(c, k); r++) {
        float *pool = w->pool + 4 * r * capacity;
        w->rows[r] = (df_candidates){.upper = pool,
                                     .value = pool + capacity,
                                     .row = (uint32_t *)(pool + 2 * capacity),
                                     .latent = (uint32_t *)(pool + 3 * capacity),
                                     .capacity = capacity,
                                     .limit = capacity,
                                     .floor = df_lowest(c)};
        w->floor[r] = INFINITY;
    }
}

/* A floor is never so high that it would close the row. */
static void open_row(const df_coder *c, df_worker *w, size_t r, size_t k, float floor) {
    df_candidates *s = &w->rows[r];
    s->count = s->exact = 0;
    s->next = 2 * k;
    w->floor[r] = s->floor = fminf(fmaxf(floor, df_lowest(c)), FLT_MAX);
}

/* A row that has gathered enough is narrowed, which raises its floor. `row` counts in the unit. */
static void narrow_full_rows(df_coder *c, df_worker *w, size_t k, size_t row) {
    for (size_t r = row; r < row + DF_TILE_ROWS; r++) {
        df_candidates *s = &w->rows[r];
        if (!(w->floor[r] < INFINITY) || s->count < s->next) continue;
        make_room(c, w, s, k, DF_TILE_LATENTS);
        s->next = s->count + s->count / 2 + DF_TILE_LATENTS;
        if (s->next + DF_TILE_LATENTS > s->limit) s->next = s->limit - DF_TILE_LATENTS;
        w->floor[r] = s->floor;
    }
}

/* Gives a tile's hits to their rows. */
static void take_row_hits(df_coder *c, df_worker *w, const screen_panel *p, const row_job *job,
                          size_t row, size_t hits) {
    bool full = false;
    for (size_t i = 0; i < hits; i++) {
        df_candidates *s = &w->rows[row + w->place[i] / DF_TILE_LATENTS];
        append_hit(c, w, p, job->unit.first + row, w->place[i], s);
        full |= s->count >= s->next;
    }
    if (full) narrow_full_rows(c, w, job->k, row);
}

/* Is any row of a tile screened? */
static bool is_open(const float *floor) {
    bool open = false;
    for (size_t r = 0; r < DF_TILE_ROWS; r++) open |= floor[r] < INFINITY;
    return open;
}

/* The candidates of the rows that are open, narrowed. */
static void screen_rows(df_coder *c, df_worker *w, const row_job *job) {
    double start = df_now();
    size_t n = job->view.list == NULL ? c->panels : job->view.n;
    for (size_t i = 0, step; i < n; i += step) {
        screen_panel p;
        step = 1;
        if (job->view.list == NULL)
            own_panel(c, i, &p);
        else
            step = gather_panel(c, w, job->view, i, &p);
        for (size_t r = 0; r < job->unit.count; r += DF_TILE_ROWS) {
            if (!is_open(w->floor + r)) continue;
            size_t hits = screen_tile(c, w, &p, job->unit.first + r, w->floor + r);
            take_row_hits(c, w, &p, job, r, hits);
        }
    }
    for (size_t r = 0; r < job->unit.count; r++) df_candidates_narrow(w, &w->rows[r], job->k);
    w->screen_seconds += df_now() - start;
}

/* Keeps the settled candidates that reach their floor. */
static void keep_reaching(df_candidates *s) {
    df_candidates_above(s, nextafterf(s->floor, -INFINITY));
}

/* Every latent exactly. */
static void settle_densely(df_coder *c, df_worker *w, const row_job *job, size_t r) {
    df_view view = job->view;
    df_candidates *s = &w->rows[r];
    s->count = s->exact = 0;
    s->floor = df_lowest(c);
    for (size_t i = 0; i < view.n; i++) {
        s->row[s->count] = (uint32_t)(job->unit.first + r);
        s->latent[s->count++] = (uint32_t)(view.list != NULL ? view.list[i] : i);
        if (s->count < s->limit && i + 1 < view.n) continue;
        df_candidates_settle(c, w, s);
        keep_reaching(s);
        df_candidates_best(w, s, job->k);
    }
    w->settled_rows++;
}

/* The winners of a settled row, ascending by latent. */
static void pick(df_coder *c, df_worker *w, const row_job *job, size_t r) {
    df_candidates *s = &w->rows[r];
    size_t row = job->unit.first + r, at = row * c->picked_stride;
    df_candidates_best(w, s, job->k);
    float least = s->count == job->k ? s->upper[0] : 0.0f;
    for (size_t i = 0; i < s->count; i++) least = s->upper[i] < least ? s->upper[i] : least;
    c->picked_least[row] = least;
    c->picked_count[row] = (uint32_t)s->count;
    memcpy(c->picked_value + at, s->value, s->count * sizeof *s->value);
    memcpy(c->picked_latent + at, s->latent, s->count * sizeof *s->latent);
    w->floor[r] = INFINITY;
}

/* Settles the candidates of open rows, and picks where k exact scores reach the floor, which has
 * then cost nothing; the lowest floor was never raised. Returns how many rows stay open, with the
 * lowest floor. */
static size_t settle_rows(df_coder *c, df_worker *w, const row_job *job) {
    double start = df_now();
    size_t open = 0;
    df_candidates_settle_rows(c, w, job->unit);
    for (size_t r = 0; r < job->unit.count; r++) {
        df_candidates *s = &w->rows[r];
        if (!(w->floor[r] < INFINITY)) continue;
        keep_reaching(s);
        if (s->count >= job->k || !(s->floor > df_lowest(c))) {
            pick(c, w, job, r);
        } else {
            open_row(c, w, r, job->k, df_lowest(c));
            open++;
        }
    }
    w->settle_seconds += df_now() - start;
    return open;
}

/* The k best of open rows: again from the lowest floor where the first was too high, and of all
 * latents where even that did not do. */
static void find_rows(df_coder *c, df_worker *w, const row_job *job) {
    screen_rows(c, w, job);
    size_t missed = settle_rows(c, w, job);
    w->missed_rows += missed;
    if (missed == 0) return;
    screen_rows(c, w, job);
    if (settle_rows(c, w, job) == 0) return;
    for (size_t r = 0; r < job->unit.count; r++) {
        if (!(w->floor[r] < INFINITY)) continue;
        settle_densely(c, w, job, r);
        pick(c, w, job, r);
    }
}

/* Candidates that other ranks' floors may still spare: as many as there is room for. */
static void hold(df_coder *c, df_worker *w, const row_job *job, size_t r) {
    df_candidates *s = &w->rows[r];
    size_t row = job->unit.first + r, at = row * c->picked_stride, share = (size_t)c->size;
    if (s->count > c->picked_stride) {
        df_candidates_settle(c, w, s);
        df_candidates_best(w, s, job->k);
        w->settled_rows++;
    }
    c->row_floor[row] = (double)s->floor;
    c->row_floor[c->rows + row] =
        -(double)df_candidates_level(w, s, (job->k + share - 1) / share, s->floor);
    c->picked_count[row] = (uint32_t)s->count;
    memcpy(c->picked_value + at, s->upper, s->count * sizeof *s->upper);
    memcpy(c->picked_latent + at, s->latent, s->count * sizeof *s->latent);
}

void df_screen_rows(df_coder *c, df_view view, size_t k, float guess) {
    size_t units = count_units(c, k);
    df_pick_layout(c, k);
#pragma omp parallel for schedule(dynamic)
    for (size_t i = 0; i < units; i++) {
        const row_job job = {view, unit_range(c, units, i), k};
        df_worker *w = df_coder_worker(c);
        open_rows(c, w, k);
        for (size_t r = 0; r < job.unit.count; r++)
            open_row(c, w, r, k,
                     guess > 0.0f ? guess * df_row_size(c, job.unit.first + r) : df_lowest(c));
        if (c->size == 1) {
            find_rows(c, w, &job);
            continue;
        }
        screen_rows(c, w, &job);
        for (size_t r = 0; r < job.unit.count; r++) hold(c, w, &job, r);
    }
}

/* Takes back what `hold` kept and the agreed floor leaves. */
static void take_held(const df_coder *c, df_worker *w, const row_job *job, size_t r) {
    df_candidates *s = &w->rows[r];
    size_t row = job->unit.first + r;
    const float *upper = c->picked_value + row * c->picked_stride;
    const uint32_t *latent = c->picked_latent + row * c->picked_stride;
    size_t n = 0;
    open_row(c, w, r, job->k, (float)c->row_floor[row]);
    for (size_t i = 0; i < c->picked_count[row]; i++) {
        s->row[n] = (uint32_t)row;
        s->latent[n] = latent[i];
        n += upper[i] >= s->floor;
    }
    s->count = n;
}

void df_settle_rows(df_coder *c, size_t k) {
    size_t units = count_units(c, k);
#pragma omp parallel for schedule(dynamic)
    for (size_t i = 0; i < units; i++) {
        const row_job job = {.unit = unit_range(c, units, i), .k = k};
        df_worker *w = df_coder_worker(c);
        double start = df_now();
        open_rows(c, w, k);
        for (size_t r = 0; r < job.unit.count; r++) take_held(c, w, &job, r);
        df_candidates_settle_rows(c, w, job.unit);
        for (size_t r = 0; r < job.unit.count; r++) {
            keep_reaching(&w->rows[r]);
            pick(c, w, &job, r);
        }
        w->settle_seconds += df_now() - start;
    }
}

void df_find_rows_again(df_coder *c, df_view view, size_t k) {
    size_t units = count_units(c, k);
#pragma omp parallel for schedule(dynamic)
    for (size_t i = 0; i < units; i++) {
        const row_job job = {view, unit_range(c, units, i), k};
        df_worker *w = df_coder_worker(c);
        open_rows(c, w, k);
        for (size_t r = 0; r < job.unit.count; r++)
            if (c->cut_keys[job.unit.first + r] == DF_FLOOR_TOO_HIGH)
                open_row(c, w, r, k, df_lowest(c));
        find_rows(c, w, &job);
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

/* A full list: what is not certain to be selected is settled, and dropped where it is not. */
static void squeeze(df_coder *c, df_worker *w, df_candidates *s) {
    df_candidates_settle(c, w, s);
    df_candidates_above(s, nextafterf(s->floor, 0.0f));
    if (s->count + DF_TILE_ENTRIES > s->limit) grow(w, s);
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

static void list_tile(df_coder *c, df_worker *w, screen_panel *p, df_range unit, size_t row,
                      size_t keep) {
    df_candidates *s = &w->list;
    if (s->count + DF_TILE_ENTRIES > s->limit) {
        if (keep == SIZE_MAX)
            squeeze(c, w, s);
        else
            make_room(c, w, s, keep, DF_TILE_ENTRIES);
    }
    raise_shared_floor(c, s);
    for (size_t r = 0; r < DF_TILE_ROWS; r++)
        w->floor[r] = row + r < unit.count ? s->floor : INFINITY;
    size_t hits = screen_tile(c, w, p, unit.first + row, w->floor);
    for (size_t i = 0; i < hits; i++) append_hit(c, w, p, unit.first + row, w->place[i], s);
}

static void list_unit(df_coder *c, df_worker *w, df_range unit, size_t keep) {
    double start = df_now();
    for (size_t i = 0; i < c->panels; i++) {
        screen_panel p;
        own_panel(c, i, &p);
        if (w->list.cut != NULL) p.tile.lift = c->cut_lift + p.first;
        for (size_t r = 0; r < unit.count; r += DF_TILE_ROWS) list_tile(c, w, &p, unit, r, keep);
    }
    w->screen_seconds += df_now() - start;
}

static df_status first_failure(df_coder *c) {
    for (int t = 0; t < c->threads; t++)
        if (c->worker[t].status != DF_OK)
            return df_fail(DF_FAILED, "out of memory for the active latents of a batch of %zu rows",
                           c->rows);
    return DF_OK;
}

df_status df_screen_lists(df_coder *c, float floor, size_t keep) {
    size_t units = count_units(c, 0);
    c->shared_floor = floor;
    for (int t = 0; t < c->threads; t++) {
        df_worker *w = &c->worker[t];
        w->list.count = w->list.exact = 0;
        w->list.floor = floor;
        w->list.cut = c->dict->activation == DF_JUMPRELU ? c->cut : NULL;
        w->list.limit = w->list.capacity;
        if (keep != SIZE_MAX && w->order_capacity < w->list.limit)
            w->list.limit = w->order_capacity; // narrowing needs as much scratch
        w->status = DF_OK;
    }
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < units; i++)
        list_unit(c, df_coder_worker(c), unit_range(c, units, i), keep);
    return first_failure(c);
}
