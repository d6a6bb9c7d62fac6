/* The unit of training speed: the encoder GEMM alone, in fp32, on all threads of the rank. */
#include "darkfield/dict.h"

#include <omp.h>

enum { TILE_ROWS = 512, TILE_LATENTS = 1024, TILES = 4 };

double df_gemm_flop(const df_dict *d, size_t rows, df_range latents) {
    size_t end = latents.first + latents.count;
    return 2.0 * (double)rows *
           (double)(df_dict_enc_floats(d, end) - df_dict_enc_floats(d, latents.first));
}

/* One thread's tiles: as many rows as it would get, TILES panels of latents. */
static void multiply(float *x, const df_gemm *shape) {
    df_gemm g = *shape;
    float *panels = x + g.m * g.k;
    g.a = x;
    g.c = panels + TILES * g.n * g.k;
    for (size_t i = 0; i < TILES; i++) {
        g.b = panels + i * g.n * g.k;
        df_gemm_nt(&g);
    }
}

static double seconds_of(float *x, size_t each, const df_gemm *shape) {
    double start = df_now();
#pragma omp parallel
    multiply(x + (size_t)omp_get_thread_num() * each, shape);
    return df_now() - start;
}

static size_t smaller(size_t a, size_t b) {
    return a < b ? a : b;
}

df_status df_gemm_rate(const df_dict *d, size_t rows, double *out) {
    size_t threads = (size_t)omp_get_max_threads(), width = 0, latents = TILE_LATENTS;
    for (size_t g = 0; g < d->groups; g++)
        if (d->group[g].in.count > width) width = d->group[g].in.count;
    if (d->mine.count > 0) latents = smaller(latents, d->mine.count);
    const df_gemm shape = {.m = smaller(TILE_ROWS, rows / threads + 1),
                           .n = latents,
                           .k = width,
                           .alpha = 1.0f,
                           .lda = width,
                           .ldb = width,
                           .ldc = latents};
    size_t each = (shape.m + TILES * shape.n) * width + shape.m * shape.n;
    float *x = NULL; // [threads, each], zero
    DF_TRY(DF_NEW(x, threads * each));
    double best = seconds_of(x, each, &shape);
    for (int i = 0; i < 4; i++) {
        double seconds = seconds_of(x, each, &shape);
        if (seconds < best) best = seconds;
    }
    df_free(x);
    *out = 2.0 * (double)(threads * TILES * shape.m * shape.n * shape.k) / (best > 0 ? best : 1e-9);
    return DF_OK;
}
