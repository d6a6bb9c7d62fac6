/* checkpoint_parts.h: the datasets of a checkpoint, the same list for writing and reading. */
#ifndef CHECKPOINT_PARTS_H
#define CHECKPOINT_PARTS_H

#include "train_internal.h"

/* One tensor of the run's state, flat. Those of latents are stored in global order: a rank writes
 * and reads its own run of them. Replicated ones are written by rank 0, read by all. */
typedef struct checkpoint_part {
    const char *path;
    df_type type;
    bool replicated;
    void *data;
    df_range mine; // of this rank
    size_t all;    // elements
} checkpoint_part;

/* WEIGHTS come first, the mean of centred rows among them: they are read before the coder is opened
 * over them. */
enum { CHECKPOINT_WEIGHTS = 9, CHECKPOINT_PARTS = 34 };

/* state may be NULL: then only the weights are listed. Returns how many. */
size_t checkpoint_parts(const train_run *run, const df_trainer_state *state,
                        checkpoint_part out[static CHECKPOINT_PARTS]);

/* The attribute that holds the n-th threshold of BatchTopK; into `room`, which it returns. */
const char *checkpoint_threshold(const df_dict *d, size_t n, char room[static 32]);

/* p-annealing as numbers: factor, count, now, next. */
enum { ANNEAL_NUMBERS = 2 + 2 * DF_ANNEAL_QUEUE };
void anneal_pack(const df_anneal *anneal, double out[static ANNEAL_NUMBERS]);
/* False when these are no state of an annealing. */
bool anneal_unpack(const double in[static ANNEAL_NUMBERS], df_anneal *anneal);

#endif
