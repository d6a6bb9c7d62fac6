#include "dense.h"

#include <string.h>

df_status dense_open(size_t latents, size_t width, const df_dict *from, dense_step *s) {
    size_t n = latents * width;
    *s = (dense_step){.latents = latents, .width = width};
    DF_TRY(DF_NEW(s->enc, n));
    DF_TRY(DF_NEW(s->dec, n));
    DF_TRY(DF_NEW(s->d_enc, n));
    DF_TRY(DF_NEW(s->d_dec, n));
    DF_TRY(DF_NEW(s->m, 2 * n));
    DF_TRY(DF_NEW(s->v, 2 * n));
    DF_TRY(DF_NEW(s->code, DENSE_ROWS * latents));
    DF_TRY(DF_NEW(s->gradient, DENSE_ROWS * latents));
    DF_TRY(DF_NEW(s->error, DENSE_ROWS * width));
    memcpy(s->enc, from->w_enc, n * sizeof *s->enc);
    memcpy(s->dec, from->w_dec, n * sizeof *s->dec);
    return DF_OK;
}

void dense_close(dense_step *s) {
    df_free(s->enc);
    df_free(s->dec);
    df_free(s->d_enc);
    df_free(s->d_dec);
    df_free(s->m);
    df_free(s->v);
    df_free(s->code);
    df_free(s->gradient);
    df_free(s->error);
}

/* out [DENSE_ROWS, latents] = rows [DENSE_ROWS, width] weights'. */
static void times_latents(const dense_step *s, const float *rows, const float *weights,
                          float *out) {
    size_t step = 1024;
#pragma omp parallel for schedule(dynamic)
    for (size_t j = 0; j < s->latents; j += step)
        df_gemm_nt(&(df_gemm){.m = DENSE_ROWS,
                              .n = s->latents - j < step ? s->latents - j : step,
                              .k = s->width,
                              .alpha = 1.0f,
                              .a = rows,
                              .lda = s->width,
                              .b = weights + j * s->width,
                              .ldb = s->width,
                              .c = out + j,
                              .ldc = s->latents});
}

/* error = codes W_dec - x. */
static void decode(dense_step *s, const float *x) {
    size_t step = DENSE_ROWS / 4;
    memcpy(s->error, x, DENSE_ROWS * s->width * sizeof *x);
#pragma omp parallel for schedule(dynamic)
    for (size_t r = 0; r < DENSE_ROWS; r += step)
        df_gemm_nn(&(df_gemm){.m = step,
                              .n = s->width,
                              .k = s->latents,
                              .alpha = 1.0f,
                              .beta = -1.0f,
                              .a = s->code + r * s->latents,
                              .lda = s->latents,
                              .b = s->dec,
                              .ldb = s->width,
                              .c = s->error + r * s->width,
                              .ldc = s->width});
}

/* gradient [latents, width] += codes' rows. */
static void add_gradient(const dense_step *s, const float *codes, const float *rows, float *to) {
    size_t step = 1024;
#pragma omp parallel for schedule(dynamic)
    for (size_t j = 0; j < s->latents; j += step)
        df_gemm_tn(&(df_gemm){.m = s->latents - j < step ? s->latents - j : step,
                              .n = s->width,
                              .k = DENSE_ROWS,
                              .alpha = 1.0f,
                              .beta = 1.0f,
                              .a = codes + j,
                              .lda = s->latents,
                              .b = rows,
                              .ldb = s->width,
                              .c = to + j * s->width,
                              .ldc = s->width});
}

static void some_rows(dense_step *s, const float *x) {
    size_t n = DENSE_ROWS * s->latents;
    times_latents(s, x, s->enc, s->code);
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < n; i++) s->code[i] = s->code[i] > 0.0f ? s->code[i] : 0.0f;
    decode(s, x);
    times_latents(s, s->error, s->dec, s->gradient);
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < n; i++) s->gradient[i] = s->code[i] > 0.0f ? s->gradient[i] : 0.0f;
    add_gradient(s, s->gradient, x, s->d_enc);
    add_gradient(s, s->code, s->error, s->d_dec);
}

double dense_run(dense_step *s, const float *x, size_t rows) {
    double start = df_now();
    size_t n = s->latents * s->width, width = s->width;
    df_adam adam = df_adam_at(1e-4, 0.9, 0.999, 1e-8, 1);
    memset(s->d_enc, 0, n * sizeof *s->d_enc);
    memset(s->d_dec, 0, n * sizeof *s->d_dec);
    for (size_t r = 0; r < rows; r += DENSE_ROWS) some_rows(s, x + r * width);
#pragma omp parallel for schedule(static)
    for (size_t j = 0; j < s->latents; j++) {
        size_t at = j * width;
        df_adam_row(&adam, (df_moments){s->enc + at, s->m + at, s->v + at}, s->d_enc + at, width);
        df_adam_row(&adam, (df_moments){s->dec + at, s->m + n + at, s->v + n + at}, s->d_dec + at,
                    width);
    }
    return df_now() - start;
}
