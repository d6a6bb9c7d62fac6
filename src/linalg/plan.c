/* What the operations take, for plans: the sizes of matrix.c, eigen.c and solve.c. */
#include "parts.h"

/* Rank 0's part of [rows, columns]. */
static void part_of(size_t rows, size_t columns, int size, size_t part[static 2]) {
    int down, across;
    df_grid_choose(size, &down, &across);
    part[0] = df_block_count(rows, 0, down);
    part[1] = df_block_count(columns, 0, across);
}

size_t df_matrix_bytes(size_t rows, size_t columns, int size) {
    size_t part[2];
    part_of(rows, columns, size, part);
    return part[0] * part[1] * sizeof(double) + sizeof(df_matrix);
}

size_t df_collect_bytes(size_t rows, size_t columns, int size) {
    return rows * columns * sizeof(double) + (size_t)size * sizeof(size_t);
}

/* A scratch matrix, signs, and PDSYEVD's workspace. */
size_t df_eigen_bytes(size_t n, int size) {
    size_t part[2];
    int down, across;
    df_grid_choose(size, &down, &across);
    part_of(n, n, size, part);
    return df_matrix_bytes(n, n, size) +
           (2 * n + df_eigen_work(n, part[0], part[1])) * sizeof(double) +
           (7 * n + 8 * (size_t)across + 2) * sizeof(int);
}

/* A copy of the matrix, and PDPOCON's workspace (its own formula, to a few blocks). */
size_t df_solve_bytes(size_t n, int size) {
    size_t part[2];
    part_of(n, n, size, part);
    return df_matrix_bytes(n, n, size) + (2 * part[0] + 3 * part[1] + 2 * BLOCK) * sizeof(double) +
           part[0] * sizeof(int);
}
