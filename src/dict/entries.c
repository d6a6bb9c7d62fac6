/* The entries of a batch by latent: lists sorted, or what a dense batch has in panels. */
#include "step.h"

#include <string.h>

#define SORT_EDGE 64

/* ---- sorted lists --------------------------------------------------------------------------- */

/* The first of a row's entries with this latent or a later one. */
static uint64_t first_entry(const df_codes *codes, size_t row, size_t latent) {
    uint64_t low = codes->start[row], high = codes->start[row + 1];
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        if (codes->latent[middle] < latent)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static size_t edge(size_t left) {
    return left < SORT_EDGE ? left : SORT_EDGE;
}

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

static void sort_dense_range(df_code_store *s, df_range latents, uint64_t *place) {
    corner k;
    uint64_t at[SORT_EDGE];
    for (size_t row = 0; row < s->codes.rows; row += SORT_EDGE) {
        df_range rows = {row, edge(s->codes.rows - row)};
        for (size_t r = 0; r < rows.count; r++)
            at[r] = first_entry(&s->codes, row + r, latents.first);
        for (size_t l = 0; l < latents.count; l += SORT_EDGE) {
            df_range some = {latents.first + l, edge(latents.count - l)};
            fill_corner(s, rows, some, at, &k);
            flush_corner(&k, some, place, s);
        }
    }
}

/* Counts a range of latents (place [latent + 1]), or puts their entries where `place` says. */
static void sort_range(df_code_store *s, df_range latents, bool count, bool late, uint64_t *place) {
    for (size_t r = 0; r < s->codes.rows; r++) {
        uint64_t i = first_entry(&s->codes, r, latents.first), end = s->codes.start[r + 1];
        for (; i < end && s->codes.latent[i] < latents.first + latents.count; i++) {
            uint64_t at = place[s->codes.latent[i] + count]++;
            if (count) continue;
            s->sorted_row[at] = (uint32_t)r;
            s->sorted_value[at] = s->codes.value[i];
            if (!late) s->sorted_gradient[at] = s->gradient[i];
            if (s->decoupled) s->sorted_sites[at] = s->codes.sites[i];
        }
    }
}

void df_sort_by_latent(const df_coder *c, df_code_store *s) {
    uint64_t *start = s->latent_start;
    bool late = c->late && s == &c->main;
    memset(start, 0, (c->local + 1) * sizeof *start);
#pragma omp parallel for schedule(static)
    for (int t = 0; t < c->threads; t++)
        sort_range(s, df_share(c->local, c->threads, t), true, late, start);
    for (size_t j = 0; j < c->local; j++) start[j + 1] += start[j];
#pragma omp parallel for schedule(static)
    for (int t = 0; t < c->threads; t++) {
        df_range latents = df_share(c->local, c->threads, t);
        if (c->dense)
            sort_dense_range(s, latents, start);
        else
            sort_range(s, latents, false, late, start);
    }
    memmove(start + 1, start, c->local * sizeof *start);
    start[0] = 0;
}

/* ---- one latent ----------------------------------------------------------------------------- */

static df_entries gather(const df_coder *c, df_worker *w, const df_code_store *s, size_t j) {
    const float *value = s->sorted_value + df_dense_at(c, j, 0),
                *gradient = s->sorted_gradient + df_dense_at(c, j, 0);
    size_t n = 0;
    for (size_t r = 0; r < c->rows; r++) { // without branches: half of them may be active
        w->entry_row[n] = (uint32_t)r;
        w->entry_value[n] = value[r * DF_TILE_LATENTS];
        w->entry_gradient[n] = gradient[r * DF_TILE_LATENTS];
        n += value[r * DF_TILE_LATENTS] > 0.0f;
    }
    return (df_entries){w->entry_row, w->entry_value, w->entry_gradient, n};
}

df_entries df_entries_of(const df_coder *c, df_worker *w, const df_code_store *s, size_t j) {
    if (s->panels) return gather(c, w, s, j);
    uint64_t at = s->latent_start[j];
    return (df_entries){s->sorted_row + at, s->sorted_value + at, s->sorted_gradient + at,
                        s->latent_start[j + 1] - at};
}

void df_entries_put(const df_coder *c, const df_code_store *s, size_t j, const df_entries *e) {
    float *to = s->sorted_gradient + df_dense_at(c, j, 0);
    for (size_t i = 0; i < e->n && s->panels; i++) to[e->row[i] * DF_TILE_LATENTS] = e->gradient[i];
}
