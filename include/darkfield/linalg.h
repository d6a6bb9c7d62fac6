/* darkfield/linalg.h: distributed dense linear algebra in fp64, over ScaLAPACK.
 *
 * A df_grid lays the ranks of a comm out as a near-square grid; a df_matrix is dealt to it
 * block-cyclically in blocks of 32 x 32. Ranks that do not fit the grid (the fifth of five) hold
 * nothing and still take part in every call. Everything is collective on the grid's comm unless it
 * says otherwise. Results agree with other rank counts to rounding, not to the bit: 1e-10 of the
 * largest eigenvalue. */
#ifndef DARKFIELD_LINALG_H
#define DARKFIELD_LINALG_H

#include "darkfield/base.h"
#include "darkfield/comm.h"

typedef struct df_grid df_grid;

/* The grid makes its own comm from `comm`, and outlives its matrices; free it before
 * df_comm_finish. */
df_status df_grid_new(df_comm *comm, df_grid **out) DF_MUST_CHECK;
void df_grid_free(df_grid **grid); /* NULL is allowed */
/* floor(sqrt(size)) rows, size / rows columns. Not collective. */
void df_grid_shape(const df_grid *grid, int *rows, int *columns);

typedef struct df_matrix df_matrix;

/* Zeros, [rows, columns], both at least 1. A size that ScaLAPACK's 32-bit integers cannot hold is
 * DF_FAILED. */
df_status df_matrix_new(df_grid *grid, size_t rows, size_t columns, df_matrix **out) DF_MUST_CHECK;
void df_matrix_free(df_matrix **matrix);           /* Not collective; NULL is allowed */
size_t df_matrix_rows(const df_matrix *matrix);    /* Not collective */
size_t df_matrix_columns(const df_matrix *matrix); /* Not collective */

/* Every rank holds the whole row-major array [rows, columns] and keeps its own part. Not
 * collective. */
void df_matrix_set(df_matrix *matrix, const double *all);
/* Rank `root` holds it; elsewhere `all` is not read. */
df_status df_matrix_spread(df_matrix *matrix, int root, const double *all) DF_MUST_CHECK;
/* The reverse: row-major [rows, columns] on rank `root` (elsewhere `all` is not touched), on every
 * rank when root < 0. */
df_status df_matrix_collect(const df_matrix *matrix, int root, double *all) DF_MUST_CHECK;

/* How op(m) reads a matrix. */
typedef enum df_op { DF_PLAIN, DF_TRANSPOSED } df_op;
/* out = op(a) op(b). Shapes that do not fit are DF_FAILED. out is neither a nor b. */
df_status df_matrix_multiply(df_op op_a, const df_matrix *a, df_op op_b, const df_matrix *b,
                             df_matrix *out) DF_MUST_CHECK;

/* What the eigen-decomposition reached: max |A v - l v| / |A|_2 over vectors, and max |V'V - I|. */
typedef struct df_eigen_quality {
    double residual, orthogonality;
} df_eigen_quality;

/* Eigenvalues (descending, [n] on every rank) and eigenvectors (column k of `vectors` [n, n]
 * belongs to value k) of the symmetric a [n, n], which is not changed; its lower triangle is used.
 * Signs are fixed: the component of largest modulus (the first of equals) is positive. Divide and
 * conquer (PDSYEVD) on a / max|a|. NaN or infinite entries are DF_BAD_INPUT; a residual or a loss
 * of orthogonality above 1e-10 is DF_FAILED. quality may be NULL. */
df_status df_eigen_symmetric(const df_matrix *a, double *values, df_matrix *vectors,
                             df_eigen_quality *quality) DF_MUST_CHECK;

/* Solves (g + ridge I) X = B for symmetric g [n, n] by Cholesky; b holds B [n, m] on entry and X on
 * return. g is not changed. *rcond (may be NULL) is the reciprocal condition number in the 1-norm
 * (PDPOCON). A matrix that is not positive definite is DF_FAILED with the pivot and the remedy;
 * non-finite entries are DF_BAD_INPUT. */
df_status df_solve_ridge(const df_matrix *g, double ridge, df_matrix *b,
                         double *rcond) DF_MUST_CHECK;

/* ---- one process's own ----------------------------------------------------------------------- */

/* Row-major matrices of the calling process; not collective, and thread-safe. Inside a parallel
 * region they run on the calling thread alone, so that their bits depend on shapes and values only.
 */

/* C [m, n] = op(A) op(B) + beta C; lda, ldb, ldc: distance between rows in elements. */
typedef struct df_local_product {
    size_t m, n, k;
    df_op op_a, op_b;
    const double *a, *b;
    double beta;
    double *c;
    size_t lda, ldb, ldc;
} df_local_product;
void df_local_multiply(const df_local_product *product);

/* The n eigenvalues of a general a [n, n], which is destroyed, conjugates side by side (DGEEV). NaN
 * or infinite entries are DF_BAD_INPUT, no convergence is DF_FAILED. Takes
 * df_local_eigen_bytes(n) while it runs. */
df_status df_local_eigenvalues(size_t n, double *a, double *real, double *imaginary) DF_MUST_CHECK;
size_t df_local_eigen_bytes(size_t n);

/* ---- what they take -------------------------------------------------------------------------- */

/* Bytes on rank 0 of a grid over `size` ranks, which has most. None of these is collective. */
size_t df_matrix_bytes(size_t rows, size_t columns, int size);  /* df_matrix_new */
size_t df_collect_bytes(size_t rows, size_t columns, int size); /* df_matrix_collect to rank 0 */
/* df_eigen_symmetric of [n, n], and df_solve_ridge of [n, n], beside their arguments. */
size_t df_eigen_bytes(size_t n, int size);
size_t df_solve_bytes(size_t n, int size);

#endif
