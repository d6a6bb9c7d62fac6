/* fp32 GEMM on the calling thread, and its plain twin. */
#include "darkfield/kernels.h"

#include <cblas.h>
#include <omp.h>

/* The OpenMP build of OpenBLAS opens a team of its own when it sees more than one thread available.
 * Saying "one" to the OpenMP runtime for this thread, and then the old number again, keeps it on
 * the caller (openblas_set_num_threads would change the whole process for good). */
static void gemm(const df_gemm *g, CBLAS_TRANSPOSE a, CBLAS_TRANSPOSE b) {
    if (g->m == 0 || g->n == 0) return;
    int threads = omp_get_max_threads();
    if (threads != 1) omp_set_num_threads(1);
    cblas_sgemm(CblasRowMajor, a, b, (blasint)g->m, (blasint)g->n, (blasint)g->k, g->alpha, g->a,
                (blasint)g->lda, g->b, (blasint)g->ldb, g->beta, g->c, (blasint)g->ldc);
    if (threads != 1) omp_set_num_threads(threads);
}

void df_gemm_nt(const df_gemm *g) {
    gemm(g, CblasNoTrans, CblasTrans);
}

void df_gemm_nn(const df_gemm *g) {
    gemm(g, CblasNoTrans, CblasNoTrans);
}

void df_gemm_tn(const df_gemm *g) {
    gemm(g, CblasTrans, CblasNoTrans);
}

/* One element of C from strided views of a row of op(A) and a column of op(B). */
static float element(const df_gemm *g, const float *a, size_t step_a, const float *b,
                     size_t step_b) {
    double sum = 0.0;
    for (size_t i = 0; i < g->k; i++) sum += (double)a[i * step_a] * (double)b[i * step_b];
    return (float)sum;
}

static void store(const df_gemm *g, size_t row, size_t column, float product) {
    float *c = g->c + row * g->ldc + column;
    *c = g->beta == 0.0f ? g->alpha * product : g->alpha * product + g->beta * *c;
}

void df_gemm_nt_plain(const df_gemm *g) {
    for (size_t r = 0; r < g->m; r++)
        for (size_t c = 0; c < g->n; c++)
            store(g, r, c, element(g, g->a + r * g->lda, 1, g->b + c * g->ldb, 1));
}

void df_gemm_nn_plain(const df_gemm *g) {
    for (size_t r = 0; r < g->m; r++)
        for (size_t c = 0; c < g->n; c++)
            store(g, r, c, element(g, g->a + r * g->lda, 1, g->b + c, g->ldb));
}

void df_gemm_tn_plain(const df_gemm *g) {
    for (size_t r = 0; r < g->m; r++)
        for (size_t c = 0; c < g->n; c++)
            store(g, r, c, element(g, g->a + r, g->lda, g->b + c, g->ldb));
}
