/* Counting one batch, latent by latent: frequencies, histograms, examples, labelled stretches. */
#include "stats_internal.h"

#include <math.h>
#include <string.h>

/* ---- the batch by latent -------------------------------------------------------------------- */

static df_status by_latent_room(by_latent *b, size_t entries) {
    if (entries <= b->capacity) return DF_OK;
    df_free(b->slot);
    df_free(b->value);
    b->slot = NULL;
    b->value = NULL;
    b->capacity = entries;
    DF_TRY(DF_NEW(b->slot, b->capacity));
    return DF_NEW(b->value, b->capacity);
}

size_t by_latent_bytes(size_t latents, size_t entries) {
    return (latents + 1) * sizeof(uint64_t) + entries * (sizeof(uint32_t) + sizeof(float));
}

df_status by_latent_new(size_t latents, size_t entries, by_latent *out) {
    *out = (by_latent){.latents = latents};
    DF_TRY(DF_NEW(out->start, latents + 1));
    return by_latent_room(out, entries);
}

/* Counting sort: rows ascend within a latent because the codes are walked row by row. */
df_status by_latent_fill(by_latent *b, const df_codes *codes) {
    size_t entries = codes->start[codes->rows];
    if (entries > b->capacity) DF_TRY(by_latent_room(b, entries + entries / 2));
    memset(b->start, 0, (b->latents + 1) * sizeof *b->start);
    for (uint64_t i = 0; i < codes->start[codes->rows]; i++) b->start[codes->latent[i] + 1]++;
    for (size_t j = 0; j < b->latents; j++) b->start[j + 1] += b->start[j];
    for (size_t r = 0; r < codes->rows; r++)
        for (uint64_t i = codes->start[r]; i < codes->start[r + 1]; i++) {
            uint64_t to = b->start[codes->latent[i]]++;
            b->slot[to] = (uint32_t)r;
            b->value[to] = codes->value[i];
        }
    for (size_t j = b->latents; j > 0; j--)
        b->start[j] = b->start[j - 1]; // the cursors moved one run on
    b->start[0] = 0;
    return DF_OK;
}

void by_latent_free(by_latent *b) {
    df_free(b->start);
    df_free(b->slot);
    df_free(b->value);
}

/* ---- frequencies and histogram -------------------------------------------------------------- */

size_t tally_bytes(size_t count) {
    return count * ((1 + DF_STATS_BINS) * sizeof(uint64_t) + sizeof(double) + sizeof(float));
}

df_status tally_new(size_t count, tally *out) {
    *out = (tally){.count = count};
    DF_TRY(DF_NEW(out->fires, count));
    DF_TRY(DF_NEW(out->sum, count));
    DF_TRY(DF_NEW(out->max, count));
    return DF_NEW(out->histogram, count * DF_STATS_BINS);
}

void tally_free(tally *t) {
    df_free(t->fires);
    df_free(t->sum);
    df_free(t->max);
    df_free(t->histogram);
}

static size_t bin_of(float value) {
    double at = floor((log10((double)value) + 5.0) * 10.0);
    if (at < 0) return 0;
    return at >= DF_STATS_BINS ? DF_STATS_BINS - 1 : (size_t)at;
}

void count_latent(tally *t, size_t latent, const by_latent *b) {
    for (uint64_t i = b->start[latent]; i < b->start[latent + 1]; i++) {
        float value = b->value[i];
        t->fires[latent]++;
        t->sum[latent] += (double)value;
        if (value > t->max[latent]) t->max[latent] = value;
        t->histogram[latent * DF_STATS_BINS + bin_of(value)]++;
    }
}

/* ---- examples ------------------------------------------------------------------------------- */

size_t examples_bytes(size_t count, size_t n, size_t width) {
    return count * n *
           (2 * sizeof(uint64_t) + sizeof(uint32_t) + sizeof(float) + width * sizeof(float));
}

df_status examples_new(size_t count, size_t n, size_t width, examples *out) {
    *out = (examples){.count = count, .n = n, .width = width};
    DF_TRY(DF_NEW(out->value, count * n));
    DF_TRY(DF_NEW(out->row, count * n));
    DF_TRY(DF_NEW(out->first, count * n));
    DF_TRY(DF_NEW(out->shown, count * n));
    return DF_NEW(out->activation, count * n * width);
}

void examples_free(examples *e) {
    df_free(e->value);
    df_free(e->row);
    df_free(e->first);
    df_free(e->shown);
    df_free(e->activation);
}

/* The stretch of rows shown around a peak: inside its context window and its document, three
 * quarters before it. */
static df_range shown_around(const df_acts *acts, uint64_t peak, size_t window, size_t width) {
    size_t d = df_run_holding(acts->document, acts->documents, peak);
    uint64_t low = acts->window[window], high = acts->window[window + 1];
    if (acts->document[d] > low) low = acts->document[d];
    if (acts->document[d + 1] < high) high = acts->document[d + 1];
    uint64_t before = width - width / 4 - 1;
    uint64_t first = peak - low > before ? peak - before : low;
    uint64_t end = first + width < high ? first + width : high;
    return (df_range){(size_t)first, (size_t)(end - first)};
}

static size_t place_of(const examples *e, size_t latent, float value) {
    size_t at = e->n;
    while (at > 0 && e->value[latent * e->n + at - 1] < value)
        at--; // equal values: the earlier row stays ahead
    return at;
}

static void make_room(examples *e, size_t latent, size_t at) {
    size_t base = latent * e->n, moved = e->n - 1 - at;
    memmove(e->value + base + at + 1, e->value + base + at, moved * sizeof *e->value);
    memmove(e->row + base + at + 1, e->row + base + at, moved * sizeof *e->row);
    memmove(e->first + base + at + 1, e->first + base + at, moved * sizeof *e->first);
    memmove(e->shown + base + at + 1, e->shown + base + at, moved * sizeof *e->shown);
    memmove(e->activation + (base + at + 1) * e->width, e->activation + (base + at) * e->width,
            moved * e->width * sizeof *e->activation);
}

/* Entries begin .. end of the latent lie in one context window; keeps it when its peak is among the
 * n best. */
static void offer(examples *e, size_t latent, const by_latent *b, const batch *rows,
                  df_range entries) {
    size_t peak = entries.first;
    for (size_t i = 1; i < entries.count; i++)
        if (b->value[entries.first + i] > b->value[peak]) peak = entries.first + i;
    size_t at = place_of(e, latent, b->value[peak]);
    if (at == e->n) return;
    make_room(e, latent, at);
    uint64_t row = rows->rows[b->slot[peak]];
    df_range shown = shown_around(rows->acts, row, rows->window[b->slot[peak]], e->width);
    size_t slot = latent * e->n + at;
    e->value[slot] = b->value[peak];
    e->row[slot] = row;
    e->first[slot] = shown.first;
    e->shown[slot] = (uint32_t)shown.count;
    memset(e->activation + slot * e->width, 0, e->width * sizeof *e->activation);
    for (size_t i = 0; i < entries.count; i++) {
        uint64_t r = rows->rows[b->slot[entries.first + i]];
        if (r >= shown.first && r < shown.first + shown.count)
            e->activation[slot * e->width + (r - shown.first)] = b->value[entries.first + i];
    }
}

void count_examples(examples *e, size_t latent, const by_latent *b, const batch *rows) {
    if (e->n == 0) return;
    uint64_t i = b->start[latent], end = b->start[latent + 1];
    while (i < end) {
        uint64_t from = i;
        while (i < end && rows->window[b->slot[i]] == rows->window[b->slot[from]]) i++;
        offer(e, latent, b, rows, (df_range){(size_t)from, (size_t)(i - from)});
    }
}

/* ---- labelled stretches --------------------------------------------------------------------- */

size_t concepts_bytes(size_t count, size_t n) {
    return count * (2 + 5 * n) * sizeof(uint64_t);
}

df_status concepts_new(size_t count, size_t n, const df_stretch *stretch, size_t stretches,
                       concept_counts *out) {
    *out = (concept_counts){.count = count, .n = n, .stretch = stretch, .stretches = stretches};
    DF_TRY(DF_NEW(out->fires, 2 * count));
    DF_TRY(DF_NEW(out->inside, n * 2 * count));
    DF_TRY(DF_NEW(out->found, n * 2 * count));
    return DF_NEW(out->last, n * count);
}

void concepts_free(concept_counts *c) {
    df_free(c->fires);
    df_free(c->inside);
    df_free(c->found);
    df_free(c->last);
}

/* Stretches of one concept that hold the row may overlap: the firing is inside once, and finds each
 * of them. */
void count_concepts(concept_counts *c, size_t latent, const by_latent *b, const batch *rows) {
    for (uint64_t i = b->start[latent]; i < b->start[latent + 1]; i++) {
        size_t slot = b->slot[i], which = rows->heldout[slot];
        c->fires[2 * latent + which]++;
        for (size_t s = rows->near[slot]; s < rows->near[slot + 1]; s++) {
            uint32_t id = rows->stretch_of[s], concept = c->stretch[id].concept;
            size_t pair = latent * c->n + concept, at = 2 * pair + which;
            bool again = false;
            for (size_t t = rows->near[slot]; t < s; t++)
            again |= c->stretch[rows->stretch_of[t]].concept == concept;
            if (!again) c->inside[at]++;
            if (id + 1 <= c->last[pair]) continue;
            c->last[pair] = id + 1;
            c->found[at]++;
        }
    }
}
