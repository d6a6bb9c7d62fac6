/* darkfield/splice.h: rows with chosen latents set to other values (a part of module dict): what an
 * intervention puts at a hook site. */
#ifndef DARKFIELD_SPLICE_H
#define DARKFIELD_SPLICE_H

#include "darkfield/dict.h"

/* f of the latent becomes `value` on every row; 0 ablates it. In the dictionary's units, like the
 * activations that statistics list. */
typedef struct df_clamp {
    uint64_t latent;
    float value;
} df_clamp;

typedef struct df_splice df_splice;

/* Borrows comm, kernels and dictionary, copies the clamps. At most max_rows rows a call. A latent
 * that the dictionary lacks, or that is named twice, is DF_USAGE. Collective. */
typedef struct df_splice_plan {
    const df_clamp *clamp;
    size_t clamps, max_rows;
} df_splice_plan;
df_status df_splice_open(df_comm *comm, df_kernels *kernels, df_dict *dict,
                         const df_splice_plan *plan, df_splice **out) DF_MUST_CHECK;
void df_splice_close(df_splice **splice); /* *splice may be NULL */

/* x [n, width], the same on every rank, in the models' units. change [n, out.count], in the models'
 * units too, the same on every rank: the sum over clamps of (value - f) d, which is to be added to
 * the rows and keeps the dictionary's error. x_hat [n, out.count]: the reconstruction with that
 * change, which takes the rows' place; NULL: not wanted. Collective. */
df_status df_splice_rows(df_splice *splice, const float *x, size_t n, float *change,
                         float *x_hat) DF_MUST_CHECK;

#endif
