/* BatchTopK's selection over all latents of all ranks and groups, on settled scores; ties go to the
 * smaller row, then the smaller latent. From lists to codes. */
#include "coder.h"

#include <float.h>
#include <math.h>
#include <string.h>

#define DIGIT_BITS 11
#define DIGITS ((size_t)1 << DIGIT_BITS)

/* ---- BatchTopK ------------------------------------------------------------------------------ */

static uint32_t bits_of(float x) {
    return ~df_score_key(x);
}

typedef uint64_t (*key_of)(const df_coder *c, const df_candidates *s, size_t i);

static uint64_t batch_key(const df_coder *c, const df_candidates *s, size_t i) {
    (void)c;
    return df_score_key(s->upper[i]);
}

static uint64_t place_key(const df_coder *c, const df_candidates *s, size_t i) {
    return (uint64_t)(c->first_row + s->row[i]) << 32 | (c->dict->mine.first + s->latent[i]);
}

/* Entries a pass looks at: all, or those with the cut's score. */
typedef struct radix {
    key_of key;
    bool ties_only;
    float score;
    uint64_t prefix; /* the digits found so far, as high bits */
    int shift;       /* the lowest bit of the digit now being found */
} radix;

static void count_digit(df_coder *c, const radix *x, const df_candidates *s) {
    for (size_t i = 0; i < s->count; i++) {
        if (x->ties_only && s->upper[i] != x->score) continue;
        uint64_t key = x->key(c, s, i);
        if (x->shift + DIGIT_BITS < 64 &&
            key >> (x->shift + DIGIT_BITS) != x->prefix >> (x->shift + DIGIT_BITS))
            continue;
        c->counters[key >> x->shift & (DIGITS - 1)]++;
    }
}

/* The n-th smallest key over all ranks; *before gets how many keys are smaller. Collective. */
static uint64_t radix_nth(df_coder *c, radix x, int bits, uint64_t n, uint64_t *before) {
    uint64_t smaller = 0;
    for (x.shift = (bits - 1) / DIGIT_BITS * DIGIT_BITS; x.shift >= 0; x.shift -= DIGIT_BITS) {
        memset(c->counters, 0, DIGITS * sizeof *c->counters);
        for (int t = 0; t < c->threads; t++) count_digit(c, &x, &c->worker[t].list);
        df_sum_u64(c->groups.world, c->counters, DIGITS);
        uint64_t digit = 0;
        while (digit + 1 < DIGITS && smaller + c->counters[digit] < n)
            smaller += c->counters[digit++];
        x.prefix |= digit << x.shift;
    }
    *before = smaller;
    return x.prefix;
}

static void cut_lists(df_coder *c, float score, uint64_t last_tie) {
    for (int t = 0; t < c->threads; t++) {
        df_candidates *s = &c->worker[t].list;
        size_t kept = 0;
        for (size_t i = 0; i < s->count; i++) {
            if (s->upper[i] < score || (s->upper[i] == score && place_key(c, s, i) > last_tie))
                continue;
            s->upper[kept] = s->upper[i];
            s->value[kept] = s->value[i];
            s->row[kept] = s->row[i];
            s->latent[kept++] = s->latent[i];
        }
        s->count = s->exact = kept;
    }
}

/* How many candidates have exactly this score, over all ranks. */
static uint64_t count_ties(df_coder *c, float score) {
    uint64_t n = 0;
    for (int t = 0; t < c->threads; t++)
        for (size_t i = 0; i < c->worker[t].list.count; i++)
            n += c->worker[t].list.upper[i] == score;
    df_sum_u64(c->groups.world, &n, 1);
    return n;
}

/* The highest floor of all threads and ranks. */
static float highest_floor(df_coder *c) {
    double floor = 0.0;
    for (int t = 0; t < c->threads; t++)
        if ((double)c->worker[t].list.floor > floor) floor = (double)c->worker[t].list.floor;
    df_max_double(c->groups.world, &floor, 1);
    return (float)floor;
}

/* Levels of a floor: the bits of a float above the lowest one, 2^14 of them at a time, which is
 * 0.2 % of it. */
#define LEVEL_BITS 14

static uint32_t level_of(const df_candidates *s, size_t i, uint32_t lowest) {
    uint32_t bits = bits_of(i < s->exact ? s->upper[i] : s->value[i]);
    uint32_t level = bits > lowest && bits <= bits_of(FLT_MAX) ? (bits - lowest) >> LEVEL_BITS : 0;
    return level < DIGITS ? level : DIGITS - 1;
}

static void count_levels(df_coder *c, uint32_t lowest) {
    memset(c->counters, 0, DIGITS * sizeof *c->counters);
#pragma omp parallel for schedule(static)
    for (int t = 0; t < c->threads; t++) {
        const df_candidates *s = &c->worker[t].list;
        uint32_t count[DIGITS] = {0};
        for (size_t i = 0; i < s->count; i++) count[level_of(s, i, lowest)]++;
#pragma omp critical
        for (size_t i = 0; i < DIGITS; i++) c->counters[i] += count[i];
    }
    df_sum_u64(c->groups.world, c->counters, DIGITS);
}

/* One floor for all threads and ranks, which at least `keep` of all candidates reach, so that less
 * needs settling. The lowest level may hold scores below it. */
static void share_floor(df_coder *c, size_t keep) {
    float floor = highest_floor(c);
    uint32_t lowest = bits_of(floor);
    count_levels(c, lowest);
    uint64_t reached = 0;
    for (size_t level = DIGITS - 1; level > 0 && reached < keep; level--) {
        reached += c->counters[level];
        if (reached < keep) continue;
        floor = df_key_score(~(lowest + ((uint32_t)level << LEVEL_BITS)));
    }
    for (int t = 0; t < c->threads; t++) c->worker[t].list.floor = floor;
}

/* Drops what is below the floor; returns how many are left on all ranks. */
static uint64_t count_reaching(df_coder *c, float floor) {
    uint64_t total = 0;
    for (int t = 0; t < c->threads; t++) {
        df_candidates *s = &c->worker[t].list;
        df_candidates_above(s, nextafterf(floor, 0.0f));
        total += s->count;
    }
    df_sum_u64(c->groups.world, &total, 1);
    return total;
}

static void settle_lists(df_coder *c, float above) {
#pragma omp parallel for schedule(static)
    for (int t = 0; t < c->threads; t++) {
        df_candidates_narrow(&c->worker[t], &c->worker[t].list, SIZE_MAX);
        df_candidates_settle(c, &c->worker[t], &c->worker[t].list);
        df_candidates_above(&c->worker[t].list, above);
    }
}

static float smallest_score(df_coder *c) {
    double smallest = 1e300;
    for (int t = 0; t < c->threads; t++)
        for (size_t i = 0; i < c->worker[t].list.count; i++)
            if ((double)c->worker[t].list.upper[i] < smallest)
                smallest = (double)c->worker[t].list.upper[i];
    df_min_double(c->groups.world, &smallest, 1);
    return smallest < 1e300 ? (float)smallest : 0.0f;
}

bool df_select_batch(df_coder *c, size_t keep) {
    uint64_t before, ignored;
    share_floor(c, keep);
    settle_lists(c, 0.0f);
    float floor = c->worker[0].list.floor;
    uint64_t total = count_reaching(c, floor);
    if (total < keep && floor > FLT_TRUE_MIN) return false;
    if (total > keep) {
        uint64_t key = radix_nth(c, (radix){.key = batch_key}, 32, keep, &before);
        float score = df_key_score((uint32_t)key);
        uint64_t last = UINT64_MAX;
        if (count_ties(c, score) > keep - before)
            last = radix_nth(c, (radix){.key = place_key, .ties_only = true, .score = score}, 64,
                             keep - before, &ignored);
        cut_lists(c, score, last);
    }
    c->cut_at.score = smallest_score(c);
    return true;
}

/* ---- from lists to codes -------------------------------------------------------------------- */

size_t df_code_bytes(const df_code_store *s) {
    size_t arrays = (s->training ? 6 : 2) + (s->decoupled ? (s->training ? 2 : 1) : 0);
    return arrays * sizeof(float);
}

df_status df_codes_reserve(df_code_store *s, size_t entries) {
    if (entries <= s->capacity) return DF_OK;
    size_t wanted = s->capacity > 0 ? entries + entries / 8 : entries; // others may grow too
    df_free(s->codes.value); // first: the two are never there together
    s->capacity = 0;
    float *pool = s->codes.value = df_alloc(wanted, df_code_bytes(s));
    if (pool == NULL) return DF_FAILED;
    s->codes.latent = (uint32_t *)(pool += wanted);
    if (s->decoupled) s->codes.sites = (uint32_t *)(pool += wanted);
    s->capacity = wanted;
    if (!s->training) return DF_OK;
    s->gradient = pool += wanted;
    s->sorted_row = (uint32_t *)(pool += wanted);
    s->sorted_value = pool += wanted;
    s->sorted_gradient = pool += wanted;
    if (s->decoupled) s->sorted_sites = (uint32_t *)(pool + wanted);
    return DF_OK;
}

/* Within a list a row's entries are ascending by latent, and rows of different lists differ. */
df_status df_lists_to_codes(df_coder *c, df_code_store *out) {
    uint64_t *start = out->codes.start, total = 0;
    for (int t = 0; t < c->threads; t++) total += c->worker[t].list.count;
    c->selected += total;
    DF_TRY(df_codes_reserve(out, total));
    memset(start, 0, (c->rows + 1) * sizeof *start);
#pragma omp parallel for schedule(static)
    for (int t = 0; t < c->threads; t++)
        for (size_t i = 0; i < c->worker[t].list.count; i++) start[c->worker[t].list.row[i] + 1]++;
    for (size_t r = 0; r < c->rows; r++) start[r + 1] += start[r];
#pragma omp parallel for schedule(static)
    for (int t = 0; t < c->threads; t++) {
        const df_candidates *s = &c->worker[t].list;
        for (size_t i = 0; i < s->count; i++) {
            uint64_t at = start[s->row[i]]++;
            out->codes.value[at] = s->value[i];
            out->codes.latent[at] = s->latent[i];
        }
    }
    memmove(start + 1, start, c->rows * sizeof *start);
    start[0] = 0;
    out->codes.rows = c->rows;
    return DF_OK;
}

void df_settle_above(df_coder *c, float above) {
    settle_lists(c, above);
}
