/* darkfield/placement.h: which blocks of a model go to which stage of a pipeline (a part of module
 * model).
 *
 * Stages are parts (df_model_part) in the order of the blocks, at least one block each. A pipeline
 * is as fast as its slowest stage, so the largest cost of a stage is made as small as it can be;
 * of the placements that reach it, one whose largest memory is smallest is taken, and of those the
 * one with the shortest last stage, then the shortest before it, and so on. Both minima are exact
 * (dynamic programme over stages and blocks). Nothing here is collective. */
#ifndef DARKFIELD_PLACEMENT_H
#define DARKFIELD_PLACEMENT_H

#include "darkfield/model.h"

/* What is to be placed. bytes: memory of a stage that holds a part, for which a part never
 * needs less than a later beginning with the same end, the first stage's apart. */
typedef struct df_load {
    size_t blocks;
    const double *cost; /* [blocks], in any unit */
    double head;        /* cost of what stands behind the last block */
    uint64_t (*bytes)(const void *context, df_model_part part);
    const void *context;
} df_load;

/* Writes part[stages]. limit: bytes that no stage may exceed, 0: none. DF_USAGE when there are more
 * stages than blocks, or no placement keeps the limit: the message says what is possible. */
df_status df_place(const df_load *load, size_t stages, uint64_t limit,
                   df_model_part *part) DF_MUST_CHECK;
double df_part_cost(const df_load *load, df_model_part part);

/* Floating-point operations of one window of n tokens: products with weights, and of queries, keys
 * and values as far as mask and window let them see; cost [layers] of each block, *head of the
 * unembedding. */
df_status df_model_costs(const char *path, size_t n, double *cost, double *head) DF_MUST_CHECK;

#endif
