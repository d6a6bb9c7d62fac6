/* TopK over all latents of all ranks, on settled scores; ties go to the smaller latent.
 *
 * A rank sees only its own latents, whose k-th best is a weak floor: half of what it would settle
 * on two ranks cannot be selected. So the ranks agree on one floor per row before anything is
 * settled: the highest of
 *  - the floors of the ranks, each reached by k candidates of that rank, as far as bounds tell, and
 *  - the lowest of the levels that ceil(k / ranks) candidates of each rank reach, together k.
 * Floors may be too high: a score reaches what bounds tell only in all likelihood (df_candidates),
 * and they begin at a guess. They are checked by what they claim. Where k settled scores of all
 * ranks reach the floor, the k-th best of all scores reaches it too, so that nothing below it,
 * which is all that was dropped, can be selected. Rows where fewer do are found again without that
 * floor. */
#include "coder.h"

#include <math.h>
#include <string.h>

/* ---- keys ----------------------------------------------------------------------------------- */

/* Ties go to the smaller latent. */
static uint64_t key_of(const df_coder *c, uint32_t latent, float value) {
    return (uint64_t)df_score_key(df_rank_score(c, latent, value)) << 32 |
           (uint32_t)(c->dict->mine.first + latent);
}

/* ---- more than one rank --------------------------------------------------------------------- */

static void agree_floors(df_coder *c) {
    double *floor = c->row_floor, *less = floor + c->rows;
    df_max_double(c->comm, floor, 2 * c->rows);
    for (size_t r = 0; r < c->rows; r++)
        if (-less[r] > floor[r]) floor[r] = -less[r];
}

static void fill_keys(df_coder *c, size_t row, size_t k) {
    size_t at = row * c->picked_stride;
    uint64_t *key = c->send_keys + row * k;
    for (size_t i = 0; i < k; i++)
        key[i] = i < c->picked_count[row]
                     ? key_of(c, c->picked_latent[at + i], c->picked_value[at + i])
                     : UINT64_MAX;
}

/* The k-th best key of one of this rank's rows, from the winners of all ranks: receive_keys is
 * [ranks, mine.count, k]. Where there are fewer, all are selected, unless a floor may have kept
 * others away. */
static uint64_t cut_of(df_coder *c, size_t row, df_range mine, size_t k) {
    uint64_t *keys = df_coder_worker(c)->keys;
    size_t n = 0;
    for (int p = 0; p < c->size; p++) {
        const uint64_t *from = c->receive_keys + ((size_t)p * mine.count + row) * k;
        for (size_t i = 0; i < k && from[i] != UINT64_MAX; i++) keys[n++] = from[i];
    }
    if (n >= k) return df_nth_smallest(keys, n, k);
    return c->row_floor[mine.first + row] > (double)df_lowest(c) ? DF_FLOOR_TOO_HIGH : UINT64_MAX;
}

static void row_bytes(const df_coder *c, size_t each, size_t *bytes) {
    for (int p = 0; p < c->size; p++) bytes[p] = df_share(c->rows, c->size, p).count * each;
}

static void exchange_cuts(df_coder *c, size_t k) {
    df_range mine = df_share(c->rows, c->size, c->rank);
#pragma omp parallel for schedule(static)
    for (size_t r = 0; r < c->rows; r++) fill_keys(c, r, k);
    row_bytes(c, k * sizeof(uint64_t), c->send_bytes);
    for (int p = 0; p < c->size; p++) c->receive_bytes[p] = mine.count * k * sizeof(uint64_t);
    df_exchange(c->comm, c->send_keys, c->send_bytes, c->receive_keys, c->receive_bytes);
#pragma omp parallel for schedule(static)
    for (size_t r = 0; r < mine.count; r++) c->send_keys[r] = cut_of(c, r, mine, k);
    row_bytes(c, sizeof(uint64_t), c->receive_bytes);
    df_allgather(c->comm, c->send_keys, c->receive_bytes, c->cut_keys);
}

/* Lowers the floors that were too high; returns how many. The same on every rank. */
static size_t lower_floors(df_coder *c) {
    size_t missed = 0;
    for (size_t r = 0; r < c->rows; r++) {
        if (c->cut_keys[r] != DF_FLOOR_TOO_HIGH) continue;
        c->row_floor[r] = (double)df_lowest(c);
        missed++;
    }
    return missed;
}

/* Drops the local winners behind the row's cut. */
static void apply_cut(df_coder *c, size_t row) {
    float *value = c->picked_value + row * c->picked_stride;
    uint32_t *latent = c->picked_latent + row * c->picked_stride;
    uint64_t cut = c->cut_keys[row];
    uint32_t kept = 0;
    for (uint32_t i = 0; i < c->picked_count[row]; i++) {
        if (key_of(c, latent[i], value[i]) > cut) continue;
        value[kept] = value[i];
        latent[kept++] = latent[i];
    }
    c->picked_count[row] = kept;
    c->picked_least[row] = cut != UINT64_MAX ? df_key_score((uint32_t)(cut >> 32)) : 0.0f;
}

/* Makes one selection of the candidates of all ranks. Returns how many rows had to be found
 * again. */
static size_t join_ranks(df_coder *c, df_view view, size_t k) {
    agree_floors(c);
    df_settle_rows(c, k);
    exchange_cuts(c, k);
    size_t missed = lower_floors(c);
    if (missed > 0) {
        df_find_rows_again(c, view, k);
        exchange_cuts(c, k);
    }
#pragma omp parallel for schedule(static)
    for (size_t r = 0; r < c->rows; r++) apply_cut(c, r);
    return missed;
}

/* ---- the guess ------------------------------------------------------------------------------ */

#define MOST_ROW_MARGIN 0.95f
#define LACKING 64 /* one row in so many may lack scores */
#define RARE 1024  /* one row in so many may lie below the level; a quarter of them may miss it */

static float guess_of(const row_guess *guess, size_t k) {
    return guess->k >= k ? guess->level * (1.0f - guess->margin) : 0.0f; // more latents reach less
}

/* A margin that misses nothing shrinks; one that misses much gives way at once: one row is much on
 * several ranks, which exchange all rows for it. Rows with fewer than k scores above 0 miss any
 * floor: where there are many, none is begun with. */
static void learn(df_coder *c, size_t k, size_t missed, row_guess *guess) {
    float *level = c->picked_least;
    size_t n = 0, lacking = 0;
    for (size_t r = 0; r < c->rows; r++) {
        float size = df_row_size(c, r);
        lacking += size > 0.0f && !(level[r] > 0.0f);
        if (size > 0.0f && level[r] > 0.0f) level[n++] = level[r] / size;
    }
    if (guess->k == 0) guess->margin = FIRST_MARGIN;
    guess->k = n > 0 && LACKING * lacking <= c->rows ? k : 0;
    if (guess->k == 0) return;
    missed -= missed < lacking ? missed : lacking;
    guess->level = df_nth_largest(level, n, n - n / RARE);
    if (missed > 0 && (c->size > 1 || 4 * RARE * missed > c->rows))
        guess->margin = 1.25f * guess->margin + (float)missed / (float)c->rows;
    else
        guess->margin *= 0.95f;
    guess->margin = fminf(fmaxf(guess->margin, LEAST_MARGIN), MOST_ROW_MARGIN);
}

/* ---- selection ------------------------------------------------------------------------------ */

static void take_picked(df_coder *c, df_code_store *out) {
    uint64_t *start = out->codes.start, n = 0;
    for (size_t r = 0; r < c->rows; r++) {
        size_t at = r * c->picked_stride, count = c->picked_count[r];
        start[r] = n;
        memcpy(out->codes.value + n, c->picked_value + at, count * sizeof(float));
        memcpy(out->codes.latent + n, c->picked_latent + at, count * sizeof(uint32_t));
        n += count;
    }
    start[c->rows] = n;
    out->codes.rows = c->rows;
    c->selected += n;
}

void df_select_rows(df_coder *c, df_view view, size_t k, row_guess *guess, df_code_store *out) {
    uint64_t before = 0, missed = 0;
    for (int t = 0; t < c->threads; t++) before += c->worker[t].missed_rows;
    df_screen_rows(c, view, k, guess != NULL ? guess_of(guess, k) : 0.0f);
    for (int t = 0; t < c->threads; t++) missed += c->worker[t].missed_rows;
    missed -= before;
    if (c->size > 1) missed = join_ranks(c, view, k);
    take_picked(c, out);
    if (guess != NULL) learn(c, k, missed, guess);
}
