/* Items in order, as many at a time as there are slots; every rank takes its buckets. */
#include "parts.h"

#include <string.h>

// The first item of a bucket; of bucket DF_BUCKETS, their number.
static uint64_t start_of(uint64_t items, size_t bucket) {
    return items * bucket / DF_BUCKETS;
}

// n items from `at` on, side by side; room [slots, columns].
static df_status walk_round(const lens_walk *w, uint64_t at, size_t n, double *room) {
    df_carried failure = {0}; // at: the item
    memset(room, 0, n * w->columns * sizeof *room);
#pragma omp parallel for schedule(static, 1) num_threads((int)w->slots)
    for (size_t i = 0; i < n; i++) {
        df_status status = w->each(w->context, i, at + i, room + i * w->columns);
        if (status != DF_OK) df_carry(&failure, status, at + i);
    }
    return df_carried_raise(&failure);
}

static df_status walk_mine(const lens_walk *w, df_range mine, double *room, double *sums) {
    uint64_t first = start_of(w->items, mine.first),
             end = start_of(w->items, mine.first + mine.count);
    size_t bucket = mine.first;
    df_progress progress;
    df_progress_start(&progress, w->what, w->unit, first, end);
    for (uint64_t at = first; at < end; at += w->slots) {
        size_t n = end - at < w->slots ? (size_t)(end - at) : w->slots;
        DF_TRY(walk_round(w, at, n, room));
        for (size_t i = 0; i < n; i++) { // in the order of the items
            while (start_of(w->items, bucket + 1) <= at + i) bucket++;
            double *to = sums + (bucket - mine.first) * w->columns;
            for (size_t c = 0; c < w->columns; c++) to[c] += room[i * w->columns + c];
        }
        df_progress_at(&progress, at + n, NULL);
    }
    df_progress_end(&progress, end);
    return DF_OK;
}

df_status df_lens_walk(const lens_walk *w, double *all) {
    df_range mine = df_share(DF_BUCKETS, df_comm_size(w->comm), df_comm_rank(w->comm));
    double *room = NULL, *sums = NULL;
    df_status status = DF_NEW(room, w->slots * w->columns);
    if (status == DF_OK) status = DF_NEW(sums, mine.count * w->columns);
    if (status == DF_OK) status = walk_mine(w, mine, room, sums);
    status = df_agree(w->comm, status);
    if (status == DF_OK) status = df_lens_collect(w->comm, -1, DF_BUCKETS, w->columns, sums, all);
    df_free(room);
    df_free(sums);
    return status;
}

static double mean(const double *sums, void *context) {
    (void)context;
    return sums[1] / sums[0];
}

df_status df_lens_means(const lens_walk *w, const double *all, size_t count, size_t first, size_t n,
                        df_estimate *out) {
    double pair[DF_BUCKETS * 2];
    for (size_t i = 0; i < n; i++) {
        for (size_t b = 0; b < DF_BUCKETS; b++) {
            pair[2 * b] = all[b * w->columns + count];
            pair[2 * b + 1] = all[b * w->columns + first + i];
        }
        DF_TRY(df_jackknife(pair, 2, mean, NULL, &out[i]));
    }
    return DF_OK;
}
