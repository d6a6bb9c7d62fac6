/* Dense products and eigenvalues of one process: CBLAS and LAPACK. */
#include "darkfield/linalg.h"

#include <cblas.h>
#include <limits.h>
#include <math.h>

// LAPACK is Fortran: column-major, every argument by address, lengths of texts at the end.
void dgeev_(const char *left, const char *right, const int *n, double *a, const int *lda,
            double *real, double *imaginary, double *vl, const int *ldvl, double *vr,
            const int *ldvr, double *work, const int *n_work, int *info, size_t left_length,
            size_t right_length);

static enum CBLAS_TRANSPOSE transpose(df_op op) {
    return op == DF_TRANSPOSED ? CblasTrans : CblasNoTrans;
}

void df_local_multiply(const df_local_product *p) {
    if (p->m == 0 || p->n == 0) return;
    cblas_dgemm(CblasRowMajor, transpose(p->op_a), transpose(p->op_b), (int)p->m, (int)p->n,
                (int)p->k, 1.0, p->a, (int)p->lda, p->b, (int)p->ldb, p->beta, p->c, (int)p->ldc);
}

enum { WORK = 34 }; // doubles per row: blocks of 32 columns

size_t df_local_eigen_bytes(size_t n) {
    return WORK * n * sizeof(double);
}

// Read by columns, a is its transpose, which has the same eigenvalues.
df_status df_local_eigenvalues(size_t n, double *a, double *real, double *imaginary) {
    int order = (int)n, one = 1, n_work = (int)(WORK * n), info = 0;
    double none = 0.0, *work;
    if (n == 0) return DF_OK;
    if (n > INT_MAX / WORK) return df_fail(DF_FAILED, "eigenvalues of %zu rows: too many", n);
    for (size_t i = 0; i < n * n; i++)
        if (!isfinite(a[i]))
            return df_fail(DF_BAD_INPUT, "a matrix [%zu, %zu] holds %g at row %zu, column %zu", n,
                           n, a[i], i / n, i % n);
    DF_TRY(DF_NEW(work, WORK * n));
    dgeev_("N", "N", &order, a, &order, real, imaginary, &none, &one, &none, &one, work, &n_work,
           &info, 1, 1);
    df_free(work);
    if (info == 0) return DF_OK;
    return df_fail(DF_FAILED, "the eigenvalues of a matrix [%zu, %zu] did not converge (%d)", n, n,
                   info);
}
