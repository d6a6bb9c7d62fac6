/* Grids of processes. BLACS keeps state of its own, which goes with the last grid. */
#include "parts.h"

static int grids;

void df_grid_choose(int size, int *rows, int *columns) {
    *rows = 1;
    while ((*rows + 1) * (*rows + 1) <= size) ++*rows;
    *columns = size / *rows;
}

static df_status make(df_comm *comm, df_grid **out, int **ranks) {
    DF_TRY(DF_NEW(*out, 1));
    DF_TRY(DF_NEW(*ranks, (size_t)df_comm_size(comm)));
    return DF_OK;
}

static void map_ranks(df_grid *grid, int *ranks) {
    int me = df_comm_rank(grid->comm);
    df_grid_choose(df_comm_size(grid->comm), &grid->rows, &grid->columns);
    grid->row = me < grid->rows * grid->columns ? me / grid->columns : -1;
    grid->column = grid->row < 0 ? -1 : me % grid->columns;
    for (int r = 0; r < grid->rows * grid->columns; r++) // column-major, as BLACS reads it
        ranks[r % grid->columns * grid->rows + r / grid->columns] = r;
    grid->handle = grid->context = Csys2blacs_handle(df_comm_mpi(grid->comm));
    Cblacs_gridmap(&grid->context, ranks, grid->rows, grid->rows, grid->columns);
    grids++;
}

df_status df_grid_new(df_comm *comm, df_grid **out) {
    df_grid *grid = NULL;
    int *ranks = NULL;
    df_status status;
    *out = NULL;
    DF_GO(df_agree(comm, make(comm, &grid, &ranks)));
    DF_GO(df_comm_split(comm, 0, df_comm_rank(comm), &grid->comm));
    map_ranks(grid, ranks);
    *out = grid;
    grid = NULL;
done:
    df_free(grid);
    df_free(ranks);
    return status;
}

void df_grid_free(df_grid **grid) {
    if (*grid == NULL) return;
    if ((*grid)->row >= 0) Cblacs_gridexit((*grid)->context);
    Cfree_blacs_system_handle((*grid)->handle);
    df_comm_free(&(*grid)->comm);
    df_free(*grid);
    *grid = NULL;
    if (--grids == 0) Cblacs_exit(1);
}

void df_grid_shape(const df_grid *grid, int *rows, int *columns) {
    *rows = grid->rows;
    *columns = grid->columns;
}

size_t df_block_count(size_t n, int process, int processes) {
    if (process < 0) return 0;
    int count = (int)n, block = BLOCK, zero = 0;
    return (size_t)numroc_(&count, &block, &process, &zero, &processes);
}

df_status df_work_size(double answer, size_t least, int *out) {
    double size = answer > (double)least ? answer : (double)least;
    if (!(size < 2147483647.0))
        return df_fail(DF_FAILED,
                       "ScaLAPACK's workspace of %.0f elements does not fit its 32-bit "
                       "integers: use more ranks",
                       size);
    *out = (int)size;
    return DF_OK;
}
