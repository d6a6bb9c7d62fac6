/* Candidates of a selection: narrowing by bounds, settling in the fixed order, the exact best. */
#include "coder.h"

#include <string.h>

/* Moves entry `from` to place `to`. */
static void move(df_candidates *s, size_t to, size_t from) {
    s->upper[to] = s->upper[from];
    s->value[to] = s->value[from];
    s->row[to] = s->row[from];
    s->latent[to] = s->latent[from];
}

/* Without branches: what stays cannot be predicted. */
static void drop_below_floor(df_candidates *s) {
    size_t kept = 0, exact = 0;
    for (size_t i = 0; i < s->count; i++) {
        bool keep = s->upper[i] >= s->floor;
        exact += keep && i < s->exact;
        move(s, kept, i);
        kept += keep;
    }
    s->count = kept;
    s->exact = exact;
}

float df_candidates_level(df_worker *w, const df_candidates *s, size_t k, float level) {
    const float *reached = s->value;
    if (s->exact > 0) {
        memcpy(w->order, s->upper, s->exact * sizeof *w->order);
        memcpy(w->order + s->exact, s->value + s->exact, (s->count - s->exact) * sizeof *w->order);
        reached = w->order;
    }
    return df_level_of(reached, s->count, k, level);
}

void df_candidates_narrow(df_worker *w, df_candidates *s, size_t keep) {
    if (s->count > keep) s->floor = df_candidates_level(w, s, keep, s->floor);
    drop_below_floor(s);
}

static void set_exact(const df_coder *c, df_candidates *s, size_t i, float product) {
    s->upper[i] = df_settled(c, s->cut, s->latent[i], product, &s->value[i]);
}

/* Entry `at` of some candidates. */
typedef struct entry {
    df_candidates *of;
    size_t at;
} entry;

static uint32_t latent_of(entry e) {
    return e.of->latent[e.at];
}

static void ask_for(const df_coder *c, entry e) {
    df_range in = df_dict_group_of(c->dict, latent_of(e))->in;
    df_prefetch(df_dict_enc(c->dict, latent_of(e)), in.count);
    df_prefetch(c->input + (size_t)e.of->row[e.at] * c->width + in.first, in.count);
}

/* Four entries whose latents read the same columns, or only the first; returns how many. */
static size_t settle_some(const df_coder *c, const entry *e, size_t left) {
    df_range in = df_dict_group_of(c->dict, latent_of(e[0]))->in;
    bool four = left >= 4;
    for (size_t n = 1; n < 4 && four; n++)
        four = df_same_group(c, latent_of(e[0]), latent_of(e[n]));
    const float *x[4], *w[4];
    float product[4];
    for (size_t n = 0; n < (four ? 4 : 1); n++) {
        x[n] = c->input + (size_t)e[n].of->row[e[n].at] * c->width + in.first;
        w[n] = df_dict_enc(c->dict, latent_of(e[n]));
    }
    if (four && x[0] == x[1] && x[0] == x[2] && x[0] == x[3])
        df_dot4(x[0], w, in.count, product);
    else if (four)
        df_dot_pairs(x, w, in.count, product);
    else
        product[0] = df_dot(x[0], w[0], in.count);
    for (size_t n = 0; n < (four ? 4 : 1); n++) set_exact(c, e[n].of, e[n].at, product[n]);
    return four ? 4 : 1;
}

void df_candidates_settle(const df_coder *c, df_worker *w, df_candidates *s) {
    w->settled += s->count - s->exact;
    for (size_t i = s->exact; i < s->count;) {
        entry e[8];
        size_t n = 0;
        for (; n < 8 && i + n < s->count; n++) e[n] = (entry){s, i + n};
        for (size_t k = 4; k < n; k++) ask_for(c, e[k]);
        i += settle_some(c, e, n);
    }
    s->exact = s->count;
}

static entry entry_at(df_worker *w, size_t i) {
    return (entry){&w->rows[w->places[i] >> 32], (uint32_t)w->places[i]};
}

/* Entries of the rows by the panel of their latents. */
static size_t sort_places(const df_coder *c, df_worker *w, size_t rows) {
    uint32_t *start = w->panel_start;
    size_t buckets = c->local / DF_TILE_LATENTS + 1, n = 0;
    memset(start, 0, (buckets + 1) * sizeof *start);
    for (size_t r = 0; r < rows; r++)
        for (size_t i = w->rows[r].exact; i < w->rows[r].count; i++)
            start[w->rows[r].latent[i] / DF_TILE_LATENTS + 1]++;
    for (size_t b = 0; b < buckets; b++) start[b + 1] += start[b];
    for (size_t r = 0; r < rows; r++)
        for (size_t i = w->rows[r].exact; i < w->rows[r].count; i++, n++)
            w->places[start[w->rows[r].latent[i] / DF_TILE_LATENTS]++] = (uint64_t)r << 32 | i;
    return n;
}

void df_candidates_settle_rows(const df_coder *c, df_worker *w, size_t rows) {
    size_t count = sort_places(c, w, rows);
    w->settled += count;
    for (size_t i = 0; i < count;) {
        entry e[8];
        size_t n = 0;
        for (; n < 8 && i + n < count; n++) e[n] = entry_at(w, i + n);
        for (size_t k = 4; k < n; k++) ask_for(c, e[k]);
        i += settle_some(c, e, n);
    }
    for (size_t r = 0; r < rows; r++) w->rows[r].exact = w->rows[r].count;
}

static uint64_t place_key(const df_candidates *s, size_t i) {
    return (uint64_t)s->row[i] << 32 | s->latent[i];
}

/* The largest key among the first `need` of those with score exactly t. */
static uint64_t last_tie(df_worker *w, const df_candidates *s, float t, size_t need) {
    size_t n = 0;
    for (size_t i = 0; i < s->count; i++)
        if (s->upper[i] == t) w->keys[n++] = place_key(s, i);
    return df_nth_smallest(w->keys, n, need);
}

void df_candidates_best(df_worker *w, df_candidates *s, size_t keep) {
    if (s->count <= keep) return;
    memcpy(w->order, s->upper, s->count * sizeof *w->order);
    float t = df_nth_largest(w->order, s->count, keep);
    size_t greater = 0, kept = 0;
    for (size_t i = 0; i < s->count; i++) greater += s->upper[i] > t;
    uint64_t last = last_tie(w, s, t, keep - greater);
    for (size_t i = 0; i < s->count; i++)
        if (s->upper[i] > t || (s->upper[i] == t && place_key(s, i) <= last)) move(s, kept++, i);
    s->count = s->exact = kept;
    if (t > s->floor) s->floor = t;
}

void df_candidates_above(df_candidates *s, float floor) {
    size_t kept = 0;
    for (size_t i = 0; i < s->count; i++)
        if (s->upper[i] > floor) move(s, kept++, i);
    s->count = s->exact = kept;
}
