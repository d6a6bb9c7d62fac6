/* darkfield/kernels.h: process-local compute. No MPI, no files, no allocation in the hot path; nothing is collective.
 *
 * A fast kernel has a plain twin of the same name with _plain behind it, which a student can check; both give the same bits
 * unless the comment says otherwise. Matrices are row-major; `ld` is the distance between rows in elements. */
#ifndef DARKFIELD_KERNELS_H
#define DARKFIELD_KERNELS_H

#include "darkfield/base.h"

/* ---- the handle -------------------------------------------------------------------------------- */

typedef struct df_kernels df_kernels;

/* Chooses the kernel path. path: "auto", or the text df_kernels_path gave elsewhere: a machine that offers another is
 * DF_USAGE naming both. The caller closes. */
df_status df_kernels_open(const char *path, df_kernels **out) DF_MUST_CHECK;
void df_kernels_close(df_kernels **kernels);

/* "OpenBLAS SkylakeX + avx512": floats that a GEMM made are comparable bit for bit only on the same path. Belongs to the handle. */
const char *df_kernels_path(const df_kernels *kernels);

/* One GEMM of each layout and block shape against the plain twin (a wrong BLAS build is known to exist): DF_FAILED names it. */
df_status df_kernels_check(df_kernels *kernels) DF_MUST_CHECK;

/* ---- fp32 GEMM --------------------------------------------------------------------------------- */

/* C = alpha * op(A) op(B) + beta * C, with C [m, n] and inner length k. */
typedef struct df_gemm {
    size_t m, n, k;
    float alpha, beta;
    const float *a, *b;
    float *c;
    size_t lda, ldb, ldc;
} df_gemm;

/* On the calling thread alone, inside or outside a parallel region. The order of summation, hence the last bits, may depend on
 * the shape and the path: call them on fixed padded shapes where bits matter. m, n or k = 0 is allowed. */
void df_gemm_nt(const df_gemm *g); /* A [m, k], B [n, k] */
void df_gemm_nn(const df_gemm *g); /* A [m, k], B [k, n] */
void df_gemm_tn(const df_gemm *g); /* A [k, m], B [k, n] */

/* Three loops, sums in double. */
void df_gemm_nt_plain(const df_gemm *g);
void df_gemm_nn_plain(const df_gemm *g);
void df_gemm_tn_plain(const df_gemm *g);

#endif
