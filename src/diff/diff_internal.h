/* diff_internal.h: the comparison on rank 0, and its table of concepts. */
#ifndef DIFF_INTERNAL_H
#define DIFF_INTERNAL_H

#include "darkfield/diff.h"

/* Per latent, all m of them. */
typedef struct comparison {
    size_t latents, living;
    double *norm_a, *norm_b, *relative, *delta, *cosine;
    uint8_t *class, *alive;
    uint64_t *sorted; /* [living] ascending by delta, then by index */
} comparison;

enum { ANY, NOT_SHARED, KINDS };

/* One row per concept, KINDS entries each; latent UINT64_MAX where no latent qualifies. */
typedef struct concept_table {
    size_t n;
    char **name;
    uint64_t *latent;
    uint8_t *class;
    double *delta, *precision, *recall, *train_precision, *train_recall;
} concept_table;

/* Chooses by F1 on training documents, ties to the smaller index; scores on held-out ones. wanted
 * NULL: all concepts. */
df_status table_new(const df_reader *stats, const comparison *c, const df_diff_options *options,
                    concept_table *out) DF_MUST_CHECK;
void table_free(concept_table *t);
/* Labelled concepts of the statistics; rows of the table; bytes of making it and of the table. */
df_status table_plan(const df_reader *stats, size_t latents, const df_diff_options *options,
                     size_t *rows, size_t *bytes) DF_MUST_CHECK;

#endif
