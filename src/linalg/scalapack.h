/* The routines of ScaLAPACK and BLACS that we call. The library ships no C header. Those written in
 * Fortran take the lengths of their character arguments as trailing size_t, as Fortran compilers
 * pass them; PBLAS is written in C. */
#ifndef DF_LINALG_SCALAPACK_H
#define DF_LINALG_SCALAPACK_H

#include <mpi.h>
#include <stddef.h>

int Csys2blacs_handle(MPI_Comm comm);
void Cfree_blacs_system_handle(int handle);
void Cblacs_gridmap(int *context, int *ranks, int leading, int rows, int columns);
void Cblacs_gridexit(int context);
void Cblacs_exit(int keep_mpi);

int numroc_(const int *n, const int *block, const int *process, const int *source,
            const int *processes);
void descinit_(int *desc, const int *m, const int *n, const int *row_block, const int *column_block,
               const int *row_source, const int *column_source, const int *context,
               const int *leading, int *info);

void pdgemm_(const char *op_a, const char *op_b, const int *m, const int *n, const int *k,
             const double *alpha, const double *a, const int *ia, const int *ja, const int *desc_a,
             const double *b, const int *ib, const int *jb, const int *desc_b, const double *beta,
             double *c, const int *ic, const int *jc, const int *desc_c);

void pdsyevd_(const char *job, const char *triangle, const int *n, double *a, const int *ia,
              const int *ja, const int *desc_a, double *values, double *z, const int *iz,
              const int *jz, const int *desc_z, double *work, const int *n_work, int *integers,
              const int *n_integers, int *info, size_t job_length, size_t triangle_length);

double pdlange_(const char *norm, const int *m, const int *n, const double *a, const int *ia,
                const int *ja, const int *desc_a, double *work, size_t norm_length);
void pdpotrf_(const char *triangle, const int *n, double *a, const int *ia, const int *ja,
              const int *desc_a, int *info, size_t triangle_length);
void pdpocon_(const char *triangle, const int *n, const double *a, const int *ia, const int *ja,
              const int *desc_a, const double *norm, double *rcond, double *work, const int *n_work,
              int *integers, const int *n_integers, int *info, size_t triangle_length);
void pdpotrs_(const char *triangle, const int *n, const int *n_right, const double *a,
              const int *ia, const int *ja, const int *desc_a, double *b, const int *ib,
              const int *jb, const int *desc_b, int *info, size_t triangle_length);

#endif
