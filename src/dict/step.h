/* Inside a training step: from codes to gradients. */
#ifndef DF_STEP_H
#define DF_STEP_H

#include "coder.h"

/* dL/df = product * <vector, decoder row> + norm * code norm. */
typedef struct df_code_factor {
    float product, norm;
} df_code_factor;
void df_code_gradient_row(const df_coder *c, df_code_store *s, size_t row, const float *vector,
                          df_code_factor factor);

/* x less the reconstruction from the codes of `s`, for all rows: out [rows, out.count]; with a
 * factor the codes' gradients too. Collective. */
void df_error_rows(df_coder *c, df_code_store *s, float *out, const df_code_factor *factor);

/* Where a latent's gradient goes: into Adam, or out. */
typedef struct df_sink {
    const df_adam *adam;
    bool unit_decoder, raw_threshold;
    df_gradients *out;
} df_sink;

/* One pass over this rank's latents; completes center_gradient. Collective. */
df_status df_latent_gradients(df_coder *c, const df_sink *sink);

/* The same for this rank's rows of W_skip. Not collective. */
void df_skip_gradients(df_coder *c, const df_sink *sink);

/* The codes' entries by latent, rows ascending. */
void df_sort_by_latent(const df_coder *c, df_code_store *s);

#endif
