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

/* A score that entry i certainly reaches. */
static float lower_bound(const df_coder *c, const df_candidates *s, size_t i) {
    if (i < s->exact) return s->upper[i];
    size_t j = s->latent[i];
    return s->upper[i] - 2.0f * (df_row_norm(c, s->row[i], j) * c->slack[j] + c->extra[j]);
}

static void drop_below_floor(df_candidates *s) {
    size_t kept = 0, exact = 0;
    for (size_t i = 0; i < s->count; i++) {
        if (s->upper[i] < s->floor) continue;
        exact += i < s->exact;
        if (kept != i) move(s, kept, i);
        kept++;
    }
    s->count = kept;
    s->exact = exact;
}

void df_candidates_narrow(df_coder *c, df_worker *w, df_candidates *s, size_t keep) {
    if (s->count > keep) {
        for (size_t i = 0; i < s->count; i++) w->order[i] = lower_bound(c, s, i);
        float reached = df_nth_largest(w->order, s->count, keep);
        if (reached > s->floor) s->floor = reached;
    }
    drop_below_floor(s);
}

/* f = relu(w x + b), settled; the score it is ranked by. With cuts: p itself, and what it exceeds
 * its cut by (positive exactly where p > cut: gradual underflow). */
static void set_exact(const df_coder *c, df_candidates *s, size_t i, float product) {
    size_t j = s->latent[i];
    float p = product + c->dict->b_enc[j];
    s->value[i] = p > 0.0f || s->cut != NULL ? p : 0.0f;
    s->upper[i] = s->cut != NULL ? p - s->cut[j] : s->value[i] * c->scale[j];
}

/* Entries i .. i + 3 are of one row, and their latents read the same columns. */
static bool four_alike(const df_coder *c, const df_candidates *s, size_t i) {
    if (i + 4 > s->count) return false;
    for (size_t n = 1; n < 4; n++)
        if (s->row[i + n] != s->row[i] || !df_same_group(c, s->latent[i], s->latent[i + n]))
            return false;
    return true;
}

void df_candidates_settle(const df_coder *c, df_candidates *s) {
    size_t i = s->exact;
    while (i < s->count) {
        df_range in = df_dict_group_of(c->dict, s->latent[i])->in;
        const float *x = c->input + (size_t)s->row[i] * c->width + in.first;
        bool four = four_alike(c, s, i);
        const float *w[4];
        float product[4];
        for (size_t n = 0; n < (four ? 4 : 1); n++) w[n] = df_dict_enc(c->dict, s->latent[i + n]);
        if (four)
            df_dot4(x, w, in.count, product);
        else
            product[0] = df_dot(x, w[0], in.count);
        for (size_t n = 0; n < (four ? 4 : 1); n++) set_exact(c, s, i + n, product[n]);
        i += four ? 4 : 1;
    }
    s->exact = s->count;
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
