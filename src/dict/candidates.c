/* Candidates of a selection: narrowing by bounds, settling in the fixed order, the exact best. */
#include "coder.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* Moves entry `from` to place `to`. */
static void move(df_candidates *s, size_t to, size_t from) {
    s->upper[to] = s->upper[from];
    s->value[to] = s->value[from];
    s->row[to] = s->row[from];
    s->latent[to] = s->latent[from];
}

/* Drops entries [first, end) whose upper is below the level; returns where the others end. */
static size_t keep_reaching(df_candidates *s, size_t first, size_t end, float level) {
    void *const other[3] = {s->value + first, s->row + first, s->latent + first};
    return first + df_keep_reaching(level, end - first, s->upper + first, other);
}

static void drop_below_floor(df_candidates *s) {
    size_t exact = keep_reaching(s, 0, s->exact, s->floor), kept = exact;
    size_t end = keep_reaching(s, s->exact, s->count, s->floor);
    for (size_t i = s->exact; i < end; i++) move(s, kept++, i);
    s->count = kept;
    s->exact = exact;
}

/* All reach the least of some: a level to begin with where none is known, from which halvings get
 * near. */
static float begin_level(const float *reached, size_t n, float level) {
    float least = reached[0];
    if (level > -FLT_MAX) return level;
    for (size_t i = 1; i < n; i++) least = reached[i] < least ? reached[i] : least;
    return least > level ? least : level;
}

float df_candidates_level(df_worker *w, const df_candidates *s, size_t k, float level) {
    const float *reached = s->value;
    if (s->exact > 0) {
        memcpy(w->order, s->upper, s->exact * sizeof *w->order);
        memcpy(w->order + s->exact, s->value + s->exact, (s->count - s->exact) * sizeof *w->order);
        reached = w->order;
    }
    if (s->count > 0 && k <= s->count) level = begin_level(reached, s->count, level);
    return df_level_of(reached, s->count, k, level);
}

void df_candidates_narrow(df_worker *w, df_candidates *s, size_t keep) {
    if (s->count > keep) s->floor = df_candidates_level(w, s, keep, s->floor);
    drop_below_floor(s);
}

static void set_exact(const df_coder *c, df_candidates *s, size_t i, size_t j, float product) {
    s->upper[i] = df_settled(c, s->cut, j, product, &s->value[i]);
}

static void ask_for(const df_coder *c, const df_candidates *s, size_t i) {
    df_range in = df_dict_group_of(c->dict, s->latent[i])->in;
    df_prefetch(df_dict_enc(c->dict, s->latent[i]), in.count);
    df_prefetch(c->input + (size_t)s->row[i] * c->width + in.first, in.count);
}

/* From entry i on: four whose latents read the same columns, or only the first; returns how many.
 */
static size_t settle_some(const df_coder *c, df_candidates *s, size_t i) {
    df_range in = df_dict_group_of(c->dict, s->latent[i])->in;
    size_t some = i + 4 <= s->count ? 4 : 1;
    for (size_t n = 1; n < some; n++)
        if (!df_same_group(c, s->latent[i], s->latent[i + n])) some = 1;
    const float *x[4], *w[4];
    float product[4];
    for (size_t n = 0; n < some; n++) {
        x[n] = c->input + (size_t)s->row[i + n] * c->width + in.first;
        w[n] = df_dict_enc(c->dict, s->latent[i + n]);
    }
    if (some == 1)
        product[0] = df_dot(x[0], w[0], in.count);
    else if (x[0] == x[1] && x[0] == x[2] && x[0] == x[3])
        df_dot4(x[0], w, in.count, product);
    else
        df_dot_pairs(x, w, in.count, product);
    for (size_t n = 0; n < some; n++) set_exact(c, s, i + n, s->latent[i + n], product[n]);
    return some;
}

void df_candidates_settle(const df_coder *c, df_worker *w, df_candidates *s) {
    w->settled += s->count - s->exact;
    for (size_t i = s->exact; i < s->count;) {
        for (size_t n = i + 4; n < i + 8 && n < s->count; n++) ask_for(c, s, n);
        i += settle_some(c, s, i);
    }
    s->exact = s->count;
}

/* Places of the rows' entries, latent by latent, rows ascending: those of latent j end at
 * latent_end[j], where those of the next one begin. */
static void sort_places(const df_coder *c, df_worker *w, size_t rows) {
    uint32_t *end = w->latent_end;
    memset(end, 0, (c->local + 1) * sizeof *end);
    for (size_t r = 0; r < rows; r++)
        for (size_t i = w->rows[r].exact; i < w->rows[r].count; i++)
            end[w->rows[r].latent[i] + 1]++;
    for (size_t j = 0; j < c->local; j++) end[j + 1] += end[j];
    w->settled += end[c->local];
    for (size_t r = 0; r < rows; r++)
        for (size_t i = w->rows[r].exact; i < w->rows[r].count; i++)
            w->places[end[w->rows[r].latent[i]]++] = (uint64_t)r << 32 | i;
}

/* The entries of latent j: its row stays near, four rows of the batch pass at a time. */
static void settle_latent(const df_coder *c, df_worker *w, size_t j, df_range places,
                          const float *input) {
    const float *row = df_dict_enc(c->dict, j), *x[4];
    df_range in = df_dict_group_of(c->dict, j)->in;
    float product[4];
    for (size_t i = 0; i < places.count; i += 4) {
        const uint64_t *place = w->places + places.first + i;
        size_t n = places.count - i < 4 ? places.count - i : 4;
        for (size_t k = 0; k < 4; k++)
            x[k] = input + (place[k < n ? k : 0] >> 32) * c->width + in.first;
        if (n > 1)
            df_dot4(row, x, in.count, product);
        else
            product[0] = df_dot(row, x[0], in.count);
        for (size_t k = 0; k < n; k++)
            set_exact(c, &w->rows[place[k] >> 32], (uint32_t)place[k], j, product[k]);
    }
}

void df_candidates_settle_rows(const df_coder *c, df_worker *w, df_range rows) {
    const float *input = c->input + rows.first * c->width;
    sort_places(c, w, rows.count);
    for (size_t j = 0, first = 0; j < c->local; first = w->latent_end[j++])
        settle_latent(c, w, j, (df_range){first, w->latent_end[j] - first}, input);
    for (size_t r = 0; r < rows.count; r++) w->rows[r].exact = w->rows[r].count;
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
    s->count = s->exact = keep_reaching(s, 0, s->count, nextafterf(floor, INFINITY));
}
