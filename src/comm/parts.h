/* What the files of comm share. */
#ifndef DF_COMM_PARTS_H
#define DF_COMM_PARTS_H

#include "darkfield/comm.h"

struct df_comm {
    MPI_Comm mpi;
    int rank, size;
    bool is_world;
    int *counts, *offsets; // [size] scratch for the v-collectives, whose counts are ints
    df_traffic traffic;
};

/* MPI counts are ints: what is longer than this goes out in pieces. Tests lower it. */
extern size_t df_comm_piece;

void df_comm_count(df_comm *comm, size_t bytes);

/* Installs the signal handler of stop requests. Not collective. */
df_status df_stop_watch(void);

#endif
