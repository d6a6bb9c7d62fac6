/* darkfield/stats.h: corpus-scale statistics of every latent, in one pass.
 *
 * The pass goes over the corpus in batches of whole context windows; the batches depend on the
 * files alone. A latent's owner sees every row of a batch, so all sums of a latent are made by one
 * rank in row order, whatever the number of ranks. Memory per rank is bounded by its latents:
 * counters, a histogram and the kept examples.
 *
 * Result file, format "darkfield-statistics" (m latents, n examples, w tokens shown, p promoted
 * tokens, C concepts): /latents/fires u64 [m]  frequency f64 [m]  mean f64 [m] (over active rows)
 * max f32 [m]  histogram u64 [m, bins] /histogram/edges f64 [bins + 1]           bins are even in
 * log10; what lies outside counts in the end bins /examples/value f32 [m, n] (0: no example)  row,
 * document, first u64 [m, n]  count u32 [m, n] /examples/token u32 [m, n, w]  activation f32 [m, n,
 * w]   the stretch first .. first + count around the peak /vocabulary/bytes u8, offset u64 [V + 1]
 * the text of each token /promoted/token u32, logit f32 [m, sites, p] of each written site   unit
 * decoder direction times final-norm gain, through the unembedding /concepts/spans u64 [C, 2] fires
 * u64 [m, 2] inside, found u64 [m, C, 2]   (last axis: training, held-out) An example is one
 * context window: its value is the latent's largest activation there; ties go to the smaller row.
 */
#ifndef DARKFIELD_STATS_H
#define DARKFIELD_STATS_H

#include "darkfield/base.h"
#include "darkfield/comm.h"
#include "darkfield/dict.h"
#include "darkfield/model.h"
#include "darkfield/store.h"
#include "darkfield/tokenizer.h"

enum { DF_STATS_BINS = 80 }; /* 10^-5 to 10^3, ten a decade */

/* A labelled stretch in rows: from the token before the span (a latent that predicts fires before)
 * to its last token. */
typedef struct df_stretch {
    uint64_t first, last; /* rows, inclusive */
    uint32_t concept;
    uint8_t heldout;
} df_stretch;

/* The stretches of all labelled spans of the corpus, ascending by first row, then by concept;
 * spans[concept][held-out] counts them. DF_BAD_INPUT when the corpus is not the one the activations
 * were made of. New memory. Not collective. */
df_status df_stats_stretches(const df_acts *acts, const df_corpus *corpus, df_stretch **out,
                             size_t *n, uint64_t *spans) DF_MUST_CHECK;

typedef struct df_stats_options {
    size_t examples, window, promoted, batch; /* batch: rows, at least one context window */
    bool skip_first;
    const char *output, *resolved_job;
    df_provenance facts;
} df_stats_options;

/* What the statistics are of. corpus, tokenizer and models may be NULL: then no concepts,
 * vocabulary, promoted tokens. */
typedef struct df_stats_input {
    df_acts *const *acts;
    const size_t *site;
    size_t n;                /* sites of the dictionary */
    const df_corpus *corpus; /* with labels */
    const df_tokenizer *tokenizer;
    const df_model *const *models; /* [n] of each site of the dictionary */
} df_stats_input;

/* Runs the pass and writes the result file. Collective. */
df_status df_stats_run(df_comm *comm, df_kernels *kernels, df_dict *dict,
                       const df_stats_input *input, const df_stats_options *options) DF_MUST_CHECK;

/* What the statistics of the planned dictionary will need beside what is open. input->models may be
 * NULL: shape [n] says what the models of the sites are like; it may be NULL too. Not collective.
 */
df_status df_stats_plan(const df_dict_plan *plan, const df_stats_input *input,
                        const df_model_shape *const *shape, const df_stats_options *options,
                        df_need *out) DF_MUST_CHECK;

#endif
