/* A training step of ReLU as whole matrices: what a dense trainer does, by the same sgemm. */
#ifndef DF_BENCH_DENSE_H
#define DF_BENCH_DENSE_H

#include "darkfield/dict.h"

#define DENSE_ROWS 1024 /* at a time */

/* One rank's W_enc, W_dec [latents, width], their gradients and moments, and products. */
typedef struct dense_step {
    size_t latents, width;
    float *enc, *dec, *d_enc, *d_dec, *m, *v; /* m, v [2, latents, width] */
    float *code, *gradient;                   /* [DENSE_ROWS, latents] */
    float *error;                             /* [DENSE_ROWS, width] */
} dense_step;

df_status dense_open(size_t latents, size_t width, const df_dict *from, dense_step *out);
void dense_close(dense_step *s);
/* Encode, decode, gradients of codes and of both matrices, Adam; x [rows, width], rows a multiple
 * of DENSE_ROWS. Returns seconds. */
double dense_run(dense_step *s, const float *x, size_t rows);

#endif
