/* What the files of linalg share. */
#ifndef DF_LINALG_PARTS_H
#define DF_LINALG_PARTS_H

#include "darkfield/linalg.h"
#include "scalapack.h"

#define BLOCK 32 // fastest for PDSYEVD at widths of some thousands; 256 is three times slower

struct df_grid {
    df_comm *comm;       // the grid's own: BLACS keeps one handle per MPI communicator
    int handle, context; // context < 0: this rank is outside the grid
    int rows, columns;   // of processes
    int row, column;     // this process's, -1 outside
};

/* Local storage is column-major with leading dimension max(1, local_rows). */
struct df_matrix {
    df_grid *grid;
    size_t rows, columns;
    size_t local_rows, local_columns;
    int desc[9];
    double *local;
};

/* The shape of the grid over `size` ranks. */
void df_grid_choose(int size, int *rows, int *columns);
/* Doubles that PDSYEVD must have for [n, n], of which np x nq are local. */
size_t df_eigen_work(size_t n, size_t np, size_t nq);

/* Rows or columns of n that process `process` of `processes` holds. */
size_t df_block_count(size_t n, int process, int processes);

/* The global index of local index i. */
static inline size_t df_block_global(size_t i, int process, int processes) {
    return (i / BLOCK * (size_t)processes + (size_t)process) * BLOCK + i % BLOCK;
}
static inline size_t df_matrix_row_at(const df_matrix *m, size_t i) {
    return df_block_global(i, m->grid->row, m->grid->rows);
}
static inline size_t df_matrix_column_at(const df_matrix *m, size_t j) {
    return df_block_global(j, m->grid->column, m->grid->columns);
}

df_status df_matrix_copy(const df_matrix *from, df_matrix **out) DF_MUST_CHECK;
/* max |entry| over all ranks; a NaN or an infinity anywhere is DF_BAD_INPUT naming `what`. */
df_status df_matrix_largest(const df_matrix *m, const char *what, double *out) DF_MUST_CHECK;

/* A workspace size that ScaLAPACK answered in a double, as an int; DF_FAILED when it does not fit
 * one. */
df_status df_work_size(double answer, size_t least, int *out) DF_MUST_CHECK;

#endif
