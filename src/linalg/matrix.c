/* Distributed matrices: making, filling, collecting, multiplying. */
#include "parts.h"

#include <limits.h>
#include <math.h>
#include <string.h>

static df_status describe(df_matrix *m) {
    int rows = (int)m->rows, columns = (int)m->columns, block = BLOCK, zero = 0, info = 0;
    int leading = m->local_rows > 0 ? (int)m->local_rows : 1;
    if (m->grid->row < 0) { // no context here: other routines only look at the context, -1
        m->desc[1] = -1;
        return DF_OK;
    }
    descinit_(m->desc, &rows, &columns, &block, &block, &zero, &zero, &m->grid->context, &leading,
              &info);
    if (info == 0) return DF_OK;
    return df_fail(DF_FAILED, "descinit: argument %d of a %zu x %zu matrix", -info, m->rows,
                   m->columns);
}

static df_status make(df_grid *grid, size_t rows, size_t columns, df_matrix **out) {
    size_t elements;
    DF_TRY(DF_NEW(*out, 1));
    df_matrix *m = *out;
    if (rows == 0 || columns == 0 || rows > INT_MAX || columns > INT_MAX)
        return df_fail(DF_FAILED, "a matrix of %zu x %zu: both must be 1 to %d", rows, columns,
                       INT_MAX);
    m->grid = grid;
    m->rows = rows;
    m->columns = columns;
    m->local_rows = df_block_count(rows, grid->row, grid->rows);
    m->local_columns = df_block_count(columns, grid->column, grid->columns);
    DF_TRY(df_mul(m->local_rows, m->local_columns, &elements));
    if (elements > INT_MAX)
        return df_fail(DF_FAILED,
                       "%zu x %zu elements of a matrix on one rank do not fit ScaLAPACK's "
                       "32-bit integers: use more ranks",
                       m->local_rows, m->local_columns);
    DF_TRY(DF_NEW(m->local, elements));
    return describe(m);
}

df_status df_matrix_new(df_grid *grid, size_t rows, size_t columns, df_matrix **out) {
    *out = NULL;
    df_status status = df_agree(grid->comm, make(grid, rows, columns, out));
    if (status != DF_OK) df_matrix_free(out);
    return status;
}

void df_matrix_free(df_matrix **matrix) {
    if (*matrix == NULL) return;
    df_free((*matrix)->local);
    df_free(*matrix);
    *matrix = NULL;
}

size_t df_matrix_rows(const df_matrix *matrix) {
    return matrix->rows;
}

size_t df_matrix_columns(const df_matrix *matrix) {
    return matrix->columns;
}

df_status df_matrix_copy(const df_matrix *from, df_matrix **out) {
    DF_TRY(df_matrix_new(from->grid, from->rows, from->columns, out));
    memcpy((*out)->local, from->local, from->local_rows * from->local_columns * sizeof(double));
    return DF_OK;
}

df_status df_matrix_largest(const df_matrix *m, const char *what, double *out) {
    double largest = 0;
    bool finite = true;
    for (size_t i = 0; i < m->local_rows * m->local_columns; i++) {
        double size = fabs(m->local[i]);
        finite = finite && isfinite(size);
        if (size > largest) largest = size;
    }
    df_status mine = DF_OK;
    if (!finite) mine = df_fail(DF_BAD_INPUT, "%s holds values that are not finite", what);
    DF_TRY(df_agree(m->grid->comm, mine));
    df_max_double(m->grid->comm, &largest, 1);
    *out = largest;
    return DF_OK;
}

/* ---- between row-major arrays and local parts ----------------------------------------------- */

/* One rank's part of a matrix: its place in the grid and its shape. */
typedef struct part {
    int row, column;
    size_t rows, columns;
} part;

static part part_of(const df_matrix *m, int rank) {
    const df_grid *g = m->grid;
    part p = {-1, -1, 0, 0};
    if (rank >= g->rows * g->columns) return p;
    p.row = rank / g->columns;
    p.column = rank % g->columns;
    p.rows = df_block_count(m->rows, p.row, g->rows);
    p.columns = df_block_count(m->columns, p.column, g->columns);
    return p;
}

/* Copies a part out of the whole (into local, column-major) or back into it. */
static void copy_out(const df_matrix *m, part p, const double *all, double *local) {
    for (size_t j = 0; j < p.columns; j++) {
        const double *from = all + df_block_global(j, p.column, m->grid->columns);
        for (size_t i = 0; i < p.rows; i++)
            local[j * p.rows + i] = from[df_block_global(i, p.row, m->grid->rows) * m->columns];
    }
}

static void copy_back(const df_matrix *m, part p, const double *local, double *all) {
    for (size_t j = 0; j < p.columns; j++) {
        double *to = all + df_block_global(j, p.column, m->grid->columns);
        for (size_t i = 0; i < p.rows; i++)
            to[df_block_global(i, p.row, m->grid->rows) * m->columns] = local[j * p.rows + i];
    }
}

void df_matrix_set(df_matrix *matrix, const double *all) {
    copy_out(matrix, part_of(matrix, df_comm_rank(matrix->grid->comm)), all, matrix->local);
}

df_status df_matrix_spread(df_matrix *matrix, int root, const double *all) {
    df_comm *comm = matrix->grid->comm;
    size_t size = (size_t)df_comm_size(comm), *give = NULL, *take = NULL, packed = 0;
    double *outgoing = NULL;
    bool here = df_comm_rank(comm) == root;
    df_status status = DF_NEW(give, size);
    if (status == DF_OK) status = DF_NEW(take, size);
    if (status == DF_OK) status = DF_NEW(outgoing, here ? matrix->rows * matrix->columns : 0);
    DF_GO(df_agree(comm, status));
    for (int r = 0; here && r < (int)size; r++) {
        part p = part_of(matrix, r);
        copy_out(matrix, p, all, outgoing + packed);
        packed += p.rows * p.columns;
        give[r] = p.rows * p.columns * sizeof(double);
    }
    take[root] = matrix->local_rows * matrix->local_columns * sizeof(double);
    df_exchange(comm, outgoing, give, matrix->local, take);
done:
    df_free(give);
    df_free(take);
    df_free(outgoing);
    return status;
}

df_status df_matrix_collect(const df_matrix *matrix, int root, double *all) {
    df_comm *comm = matrix->grid->comm;
    size_t size = (size_t)df_comm_size(comm), *counts = NULL;
    double *packed = NULL;
    bool here = root < 0 || df_comm_rank(comm) == root;
    df_status status = DF_NEW(counts, size);
    if (status == DF_OK) status = DF_NEW(packed, here ? matrix->rows * matrix->columns : 0);
    DF_GO(df_agree(comm, status));
    for (int r = 0; r < (int)size; r++) {
        part p = part_of(matrix, r);
        counts[r] = p.rows * p.columns * sizeof(double);
    }
    if (root < 0)
        df_allgather(comm, matrix->local, counts, packed);
    else
        df_gather(comm, root, matrix->local, counts, packed);
    const double *from = packed;
    for (int r = 0; here && r < (int)size; r++) {
        part p = part_of(matrix, r);
        copy_back(matrix, p, from, all);
        from += p.rows * p.columns;
    }
done:
    df_free(counts);
    df_free(packed);
    return status;
}

/* ---- products ------------------------------------------------------------------------------- */

df_status df_matrix_multiply(df_op op_a, const df_matrix *a, df_op op_b, const df_matrix *b,
                             df_matrix *out) {
    bool flip_a = op_a == DF_TRANSPOSED, flip_b = op_b == DF_TRANSPOSED;
    size_t m = flip_a ? a->columns : a->rows, k = flip_a ? a->rows : a->columns;
    size_t k_b = flip_b ? b->columns : b->rows, n = flip_b ? b->rows : b->columns;
    if (k != k_b || out->rows != m || out->columns != n)
        return df_fail(DF_FAILED, "product of [%zu, %zu] and [%zu, %zu] into [%zu, %zu]", m, k, k_b,
                       n, out->rows, out->columns);
    if (out->grid->row < 0) return DF_OK;
    int rows = (int)m, columns = (int)n, inner = (int)k, one = 1;
    double alpha = 1, beta = 0;
    pdgemm_(flip_a ? "T" : "N", flip_b ? "T" : "N", &rows, &columns, &inner, &alpha, a->local, &one,
            &one, a->desc, b->local, &one, &one, b->desc, &beta, out->local, &one, &one, out->desc);
    return DF_OK;
}
