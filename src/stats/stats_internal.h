/* stats_internal.h: the parts of the statistics pass. */
#ifndef STATS_INTERNAL_H
#define STATS_INTERNAL_H

#include "darkfield/stats.h"

/* Everything kept per latent of this rank (count latents). */
typedef struct tally {
    size_t count;
    uint64_t *fires;     /* [count] */
    double *sum;         /* [count] of f over active rows */
    float *max;          /* [count] */
    uint64_t *histogram; /* [count, DF_STATS_BINS] */
} tally;
size_t tally_bytes(size_t count);
df_status tally_new(size_t count, tally *out) DF_MUST_CHECK;
void tally_free(tally *t);

/* One batch seen latent by latent: entries of latent j are at[start[j]] .. at[start[j + 1]],
 * ascending by row. */
typedef struct by_latent {
    size_t latents, capacity;
    uint64_t *start; /* [latents + 1] */
    uint32_t *slot;  /* row of the batch */
    float *value;
} by_latent;
/* With room for so many entries; it grows where there are more. */
size_t by_latent_bytes(size_t latents, size_t entries);
df_status by_latent_new(size_t latents, size_t entries, by_latent *out) DF_MUST_CHECK;
df_status by_latent_fill(by_latent *b, const df_codes *codes) DF_MUST_CHECK;
void by_latent_free(by_latent *b);

/* The kept examples: per latent n slots, best first. */
typedef struct examples {
    size_t count, n, width;
    float *value;      /* [count, n]; 0: empty */
    uint64_t *row;     /* [count, n] row of the peak */
    uint64_t *first;   /* [count, n] */
    uint32_t *shown;   /* [count, n] */
    float *activation; /* [count, n, width] */
} examples;
size_t examples_bytes(size_t count, size_t n, size_t width);
df_status examples_new(size_t count, size_t n, size_t width, examples *out) DF_MUST_CHECK;
void examples_free(examples *e);

/* Counts against labelled stretches. which: 0 training, 1 held-out. */
typedef struct concept_counts {
    size_t count, n;           /* latents of this rank, concepts */
    const df_stretch *stretch; /* ascending by first row; borrowed */
    size_t stretches;
    uint64_t *fires;          /* [count, 2] */
    uint64_t *inside, *found; /* [count, n, 2] */
    uint64_t *last;           /* [count, n] 1 + the last stretch found by the latent */
} concept_counts;
size_t concepts_bytes(size_t count, size_t n);
df_status concepts_new(size_t count, size_t n, const df_stretch *stretch, size_t stretches,
                       concept_counts *out) DF_MUST_CHECK;
void concepts_free(concept_counts *c);

/* A batch of rows, ready to be counted. */
typedef struct batch {
    const df_acts *acts;
    const uint64_t *rows; /* [n] ascending */
    size_t n;
    uint8_t *heldout;     /* [n] of the row's document */
    uint32_t *window;     /* [n] context window of the row */
    size_t *near;         /* [n + 1] first entry of `stretch_of` for the row */
    uint32_t *stretch_of; /* stretches that contain the row, ascending */
    size_t near_capacity;
} batch;

void count_latent(tally *t, size_t latent, const by_latent *b);
void count_examples(examples *e, size_t latent, const by_latent *b, const batch *rows);
void count_concepts(concept_counts *c, size_t latent, const by_latent *b, const batch *rows);

/* Promoted tokens of this rank's latents: token, logit [count, n, p]. */
typedef struct promoted {
    size_t count, models, p;
    uint32_t *token;
    float *logit;
} promoted;
/* How many tokens there are to promote, p at most. Written sites that are not as wide as the
 * residual stream (heads, MLP neurons) have no direction to unembed: 0. shape [sites], NULL: 0. */
size_t promoted_tokens(const df_dict *dict, const df_model_shape *const *shape, size_t p);
/* Bytes of p of them a latent, and of what promoted_new takes while it runs. */
size_t promoted_bytes(const df_dict *dict, size_t p);
size_t promoted_scratch(const df_dict *dict, const df_model_shape *const *shape, size_t p);
df_status promoted_new(const df_dict *dict, const df_stats_input *input, size_t p,
                       promoted *out) DF_MUST_CHECK;
void promoted_free(promoted *x);

/* Everything the pass found, on its way to the file. */
typedef struct findings {
    uint64_t rows;
    tally tally;
    examples examples;
    concept_counts concepts;
    uint64_t *spans; /* [concepts, 2] */
    promoted promoted;
} findings;
/* What writing them needs: p promoted tokens, so many concepts. Not collective. */
df_status stats_write_need(const df_dict *dict, const df_stats_input *input,
                           const df_stats_options *options, size_t p, df_need *out) DF_MUST_CHECK;
df_status stats_write(df_comm *comm, const df_dict *dict, const df_stats_input *input,
                      const df_stats_options *options, const findings *found) DF_MUST_CHECK;

#endif
