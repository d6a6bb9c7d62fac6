/* The parts of the lens. Private to module lens. */
#ifndef DF_LENS_PARTS_H
#define DF_LENS_PARTS_H

#include "darkfield/hooks.h"
#include "darkfield/lens.h"
#include "darkfield/linalg.h"

/* ---- folded weights, in double -------------------------------------------------------------- */

typedef enum { PART_Q, PART_K, PART_V, PART_O, PART_COUNT } head_part;

/* Key and value heads are shared by as many query heads. */
static inline size_t df_lens_group(const df_model_shape *s, size_t head) {
    return head / (s->heads / s->kv_heads);
}

/* row *= gain, less its mean where `centred`; gain NULL: ones. */
void df_lens_fold(const float *gain, bool centred, size_t n, double *row);
/* What a head reads, W diag(gain) C, and what it writes, (C diag(gain) W_O)', all [h, d]. `head` is
 * a key head for K and V. */
void df_lens_folded(const df_model *model, head_part part, size_t layer, size_t head, double *out);

/* ---- from weights --------------------------------------------------------------------------- */

/* W W' [h, h] of every folded matrix, on every rank. */
typedef struct lens_grams {
    size_t block, heads; // numbers of one; matrices of a layer
    double *all;         // [L, heads, h, h]
} lens_grams;
const double *df_lens_gram(const lens_grams *grams, const df_model_shape *s, head_part part,
                           size_t layer, size_t head);
/* Collective; free `all`. */
df_status df_lens_grams(df_comm *comm, const df_model *model, lens_grams *out) DF_MUST_CHECK;
/* <a, b>, in order. */
double df_lens_inner(const double *a, const double *b, size_t n);

/* out->weight, and out->composition of rank 0. Collective. */
df_status df_lens_heads(df_comm *comm, const df_model *model, const lens_grams *grams,
                        df_lens *out) DF_MUST_CHECK;
df_status df_lens_compositions(df_comm *comm, const df_model *model, const lens_grams *grams,
                               df_lens *out) DF_MUST_CHECK;

/* Every rank's rows of df_share(rows, size, rank), `columns` numbers each, in order: on every rank
 * when root < 0. Collective. */
df_status df_lens_collect(df_comm *comm, int root, size_t rows, size_t columns, const double *mine,
                          double *all) DF_MUST_CHECK;

/* ---- from runs ------------------------------------------------------------------------------ */

/* Sums over items, which fall into DF_BUCKETS runs. `each` fills sums [columns], zero before, of
 * one item with the worker of that slot. */
typedef struct lens_walk {
    df_comm *comm;
    const char *what, *unit;
    uint64_t items;
    size_t columns, slots; // slots: items at a time
    df_status (*each)(void *context, size_t slot, uint64_t item, double *sums);
    void *context;
} lens_walk;
/* all [DF_BUCKETS, columns], the same on every rank. Collective. */
df_status df_lens_walk(const lens_walk *walk, double *all) DF_MUST_CHECK;
/* n means with errors: columns from `first` on over column `count`. Not collective. */
df_status df_lens_means(const lens_walk *walk, const double *all, size_t count, size_t first,
                        size_t n, df_estimate *out) DF_MUST_CHECK;

/* Adds what a pattern [heads, context] of layer `layer` holds to the sums of its item. */
typedef struct lens_watch {
    void *worker;
    size_t layer;
} lens_watch;
/* A call at attn.hook_pattern of every layer, in `list` [L]; `site` [L] holds the names. */
enum { LENS_NAME = 48 };
void df_lens_watch(const df_model_shape *s, void *worker, df_site_call *call, lens_watch *watch,
                   char (*site)[LENS_NAME], df_intervention *list);
/* What df_lens_watch fills, with what setting it takes. */
uint64_t df_lens_watch_bytes(const df_model_shape *s, size_t context);

/* Sequence s: BOS, then `period` tokens twice. Returns its length. */
size_t df_lens_sequence(const df_lens_input *input, uint64_t s, uint32_t *ids);
/* out->detector. Collective. */
df_status df_lens_detect(df_comm *comm, const df_lens_input *input, df_lens *out) DF_MUST_CHECK;
uint64_t df_lens_detect_bytes(const df_lens_input *input, const df_model_shape *s, int size,
                              size_t threads);

/* out's figures of the text. Collective. */
df_status df_lens_read(df_comm *comm, const df_lens_input *input, df_lens *out) DF_MUST_CHECK;
df_status df_lens_read_bytes(const df_lens_input *input, const df_model_shape *s, int size,
                             size_t threads, uint64_t *out) DF_MUST_CHECK;

/* ---- the file ------------------------------------------------------------------------------- */

/* What writing takes, and the file's size. */
df_status df_lens_file_need(const df_lens *lens, size_t models, df_need *out) DF_MUST_CHECK;

/* Numbers (doubles) that these take on rank 0 of `size`: what grams keep, and each while it runs.
 */
uint64_t df_lens_grams_doubles(const df_model_shape *s);
uint64_t df_lens_grams_work(const df_model_shape *s, int size, size_t threads);
uint64_t df_lens_heads_work(const df_model_shape *s, int size, size_t threads);
uint64_t df_lens_compositions_work(const df_model_shape *s, int size, size_t threads);

#endif
