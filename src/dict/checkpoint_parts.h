/* checkpoint_parts.h: the datasets of a checkpoint, the same list for writing and reading. */
#ifndef CHECKPOINT_PARTS_H
#define CHECKPOINT_PARTS_H

#include "train_internal.h"

/* One tensor of the run's state. Rows of latents are stored in global order: a rank writes and
 * reads its own run of them. Replicated ones (one row per column) are written by rank 0, read by
 * all. */
typedef struct checkpoint_part {
    const char *path;
    df_type type;
    size_t columns;  // 0: one-dimensional
    bool replicated; // [width]
    void *data;
} checkpoint_part;

/* WEIGHTS come first: they are read before the coder is opened over them. */
enum { CHECKPOINT_WEIGHTS = 4, CHECKPOINT_PARTS = 13 };

/* state may be NULL: then only the weights are listed. Returns how many. */
static inline size_t checkpoint_parts(const df_dict *d, const df_trainer_state *state,
                                      checkpoint_part out[static CHECKPOINT_PARTS]) {
    static const df_trainer_state none;
    const df_trainer_state *t = state != NULL ? state : &none;
    const checkpoint_part all[CHECKPOINT_PARTS] = {
        {"/weights/W_enc", DF_F32, d->width, false, d->w_enc},
        {"/weights/W_dec", DF_F32, d->width, false, d->w_dec},
        {"/weights/b_enc", DF_F32, 0, false, d->b_enc},
        {"/weights/b_dec", DF_F32, 0, true, d->b_dec},
        {"/moments/m_enc", DF_F32, d->width, false, t->m_enc},
        {"/moments/v_enc", DF_F32, d->width, false, t->v_enc},
        {"/moments/m_dec", DF_F32, d->width, false, t->m_dec},
        {"/moments/v_dec", DF_F32, d->width, false, t->v_dec},
        {"/moments/m_bias", DF_F32, 0, false, t->m_bias},
        {"/moments/v_bias", DF_F32, 0, false, t->v_bias},
        {"/moments/m_center", DF_F32, 0, true, t->m_center},
        {"/moments/v_center", DF_F32, 0, true, t->v_center},
        {"/silent", DF_U64, 0, false, t->silent}};
    size_t n = state != NULL ? CHECKPOINT_PARTS : CHECKPOINT_WEIGHTS;
    for (size_t i = 0; i < n; i++) out[i] = all[i];
    return n;
}

#endif
