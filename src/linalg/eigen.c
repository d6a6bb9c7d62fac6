/* Symmetric eigen-problems by divide and conquer, with every answer checked. */
#include "parts.h"

#include <math.h>
#include <string.h>

#define TOLERANCE 1e-10

/* ---- the solver ----------------------------------------------------------------------------- */

typedef struct workspace {
    double *reals;
    int *integers;
    int n_reals, n_integers;
} workspace;

/* What PDSYEVD asks for covers the tridiagonal problem only. The back-transformation (PDORMTR)
 * takes what is left after 2 n, which for n of a few blocks is too little: it then stops on some
 * ranks while others wait. */
size_t df_eigen_work(size_t n, size_t np, size_t nq) {
    size_t conquer = 1 + 6 * n + 2 * np * nq;
    size_t transform = (np + nq + 3 * BLOCK) * BLOCK;
    return 5 * n + 2 * BLOCK + (conquer > transform ? conquer : transform);
}

/* One call; with n_reals == -1 it only answers how much it needs, in w->reals[0] and
 * w->integers[0]. */
static df_status pdsyevd(df_matrix *a, double *values, df_matrix *vectors, workspace *w) {
    int n = (int)a->rows, one = 1, info = 0;
    pdsyevd_("V", "L", &n, a->local, &one, &one, a->desc, values, vectors->local, &one, &one,
             vectors->desc, w->reals, &w->n_reals, w->integers, &w->n_integers, &info, 1, 1);
    if (info == 0) return DF_OK;
    return df_fail(DF_FAILED, "PDSYEVD ended with info %d for n = %d", info, n);
}

static df_status make_workspace(df_matrix *a, double *values, df_matrix *vectors, workspace *w) {
    double reals = 0;
    int integers = 0;
    workspace query = {&reals, &integers, -1, -1};
    size_t least_integers = 7 * a->rows + 8 * (size_t)a->grid->columns + 2;
    DF_TRY(pdsyevd(a, values, vectors, &query));
    DF_TRY(
        df_work_size(reals, df_eigen_work(a->rows, a->local_rows, a->local_columns), &w->n_reals));
    DF_TRY(df_work_size(integers, least_integers, &w->n_integers));
    DF_TRY(DF_NEW(w->reals, (size_t)w->n_reals));
    return DF_NEW(w->integers, (size_t)w->n_integers);
}

/* Ascending values of a, which is destroyed. Values are spread to the ranks outside the grid. */
static df_status solve(df_matrix *a, double *values, df_matrix *vectors) {
    workspace w = {0};
    df_grid *grid = a->grid;
    bool inside = grid->row >= 0;
    df_status status;
    DF_GO(df_agree(grid->comm, inside ? make_workspace(a, values, vectors, &w) : DF_OK));
    DF_GO(df_agree(grid->comm, inside ? pdsyevd(a, values, vectors, &w) : DF_OK));
    df_broadcast(grid->comm, 0, values, a->rows * sizeof *values);
done:
    df_free(w.reals);
    df_free(w.integers);
    return status;
}

/* ---- signs ---------------------------------------------------------------------------------- */

/* scratch [2, n]: row 0 the largest modulus of each column, row 1 the first row that reaches it. */
static void find_largest(const df_matrix *v, double *scratch) {
    size_t n = v->columns;
    for (size_t k = 0; k < 2 * n; k++) scratch[k] = k < n ? 0 : (double)v->rows;
    for (size_t j = 0; j < v->local_columns; j++) {
        double *largest = &scratch[df_matrix_column_at(v, j)];
        for (size_t i = 0; i < v->local_rows; i++)
            *largest = fmax(*largest, fabs(v->local[j * v->local_rows + i]));
    }
    df_max_double(v->grid->comm, scratch, n);
    for (size_t j = 0; j < v->local_columns; j++) {
        size_t k = df_matrix_column_at(v, j);
        for (size_t i = v->local_rows; i-- > 0;)
            if (fabs(v->local[j * v->local_rows + i]) == scratch[k])
                scratch[n + k] = (double)df_matrix_row_at(v, i);
    }
    df_min_double(v->grid->comm, scratch + n, n);
}

/* Row 0 of scratch becomes 1 for the columns to flip. Only the rank that holds the entry knows. */
static void find_flips(const df_matrix *v, double *scratch) {
    size_t n = v->columns;
    memset(scratch, 0, n * sizeof *scratch);
    for (size_t j = 0; j < v->local_columns; j++) {
        size_t k = df_matrix_column_at(v, j);
        for (size_t i = 0; i < v->local_rows; i++)
            if ((double)df_matrix_row_at(v, i) == scratch[n + k])
                scratch[k] = v->local[j * v->local_rows + i] < 0;
    }
    df_max_double(v->grid->comm, scratch, n);
}

static void fix_signs(df_matrix *v, double *scratch) {
    find_largest(v, scratch);
    find_flips(v, scratch);
    for (size_t j = 0; j < v->local_columns; j++) {
        if (scratch[df_matrix_column_at(v, j)] == 0) continue;
        for (size_t i = 0; i < v->local_rows; i++) v->local[j * v->local_rows + i] *= -1;
    }
}

/* ---- checks --------------------------------------------------------------------------------- */

static double largest_on_all(const df_matrix *m, double mine) {
    df_max_double(m->grid->comm, &mine, 1);
    return mine;
}

/* max over entries of |A v - l v|, times sqrt(n): bounds the norm of every column. */
static df_status residual_of(const df_matrix *a, const double *values, const df_matrix *v,
                             df_matrix *scratch, double *out) {
    double largest = 0;
    DF_TRY(df_matrix_multiply(DF_PLAIN, a, DF_PLAIN, v, scratch));
    for (size_t j = 0; j < v->local_columns; j++) {
        double value = values[df_matrix_column_at(v, j)];
        for (size_t i = 0; i < v->local_rows; i++) {
            size_t at = j * v->local_rows + i;
            double error = fabs(scratch->local[at] - value * v->local[at]);
            if (!(error <= largest)) largest = error;
        }
    }
    *out = largest_on_all(a, largest) * sqrt((double)a->rows);
    return DF_OK;
}

static df_status orthogonality_of(const df_matrix *v, df_matrix *scratch, double *out) {
    double largest = 0;
    DF_TRY(df_matrix_multiply(DF_TRANSPOSED, v, DF_PLAIN, v, scratch));
    for (size_t j = 0; j < v->local_columns; j++) {
        for (size_t i = 0; i < v->local_rows; i++) {
            bool diagonal = df_matrix_column_at(v, j) == df_matrix_row_at(v, i);
            double error = fabs(scratch->local[j * v->local_rows + i] - (diagonal ? 1 : 0));
            if (!(error <= largest)) largest = error;
        }
    }
    *out = largest_on_all(v, largest);
    return DF_OK;
}

static df_status check(const df_matrix *a, const double *values, const df_matrix *v,
                       df_matrix *scratch, df_eigen_quality *quality) {
    double norm = fmax(fabs(values[0]), fabs(values[a->rows - 1]));
    // the lower triangle alone was used, so a matrix that is not symmetric shows here
    DF_TRY(residual_of(a, values, v, scratch, &quality->residual));
    DF_TRY(orthogonality_of(v, scratch, &quality->orthogonality));
    if (norm > 0) quality->residual /= norm;
    if (quality->residual <= TOLERANCE && quality->orthogonality <= TOLERANCE) return DF_OK;
    return df_fail(DF_FAILED,
                   "eigenvectors of a [%zu, %zu] matrix: residual %.3g of its norm, "
                   "orthogonality %.3g; both should be below %.0e (is the matrix symmetric?)",
                   a->rows, a->rows, quality->residual, quality->orthogonality, TOLERANCE);
}

/* ---- the whole ------------------------------------------------------------------------------ */

static void scale(df_matrix *m, double factor) {
    for (size_t i = 0; i < m->local_rows * m->local_columns; i++) m->local[i] *= factor;
}

/* The solver gives ascending values, so it gets -A: its k-th vector then belongs to our k-th value.
 */
static df_status decompose(const df_matrix *a, double largest, double *values, df_matrix *vectors,
                           df_matrix *scratch) {
    double unit = largest > 0 ? largest : 1;
    memcpy(scratch->local, a->local, a->local_rows * a->local_columns * sizeof(double));
    scale(scratch, -1);
    scale(scratch, 1 / unit);
    DF_TRY(solve(scratch, values, vectors));
    for (size_t k = 0; k < a->rows; k++) values[k] *= -unit;
    return DF_OK;
}

df_status df_eigen_symmetric(const df_matrix *a, double *values, df_matrix *vectors,
                             df_eigen_quality *quality) {
    size_t n = a->rows;
    double largest, *signs = NULL;
    df_matrix *scratch = NULL;
    df_eigen_quality own;
    if (a->columns != n || vectors->rows != n || vectors->columns != n)
        return df_fail(DF_FAILED, "eigenvectors of [%zu, %zu] into [%zu, %zu]: expected squares", n,
                       a->columns, vectors->rows, vectors->columns);
    DF_TRY(df_matrix_largest(a, "the matrix whose eigenvalues are asked for", &largest));
    df_status status;
    DF_GO(df_agree(a->grid->comm, DF_NEW(signs, 2 * n)));
    DF_GO(df_matrix_new(a->grid, n, n, &scratch));
    DF_GO(decompose(a, largest, values, vectors, scratch));
    fix_signs(vectors, signs);
    DF_GO(check(a, values, vectors, scratch, quality != NULL ? quality : &own));
done:
    df_free(signs);
    df_matrix_free(&scratch);
    return status;
}
