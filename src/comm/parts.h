/* What the files of comm share. */
#ifndef DF_COMM_PARTS_H
#define DF_COMM_PARTS_H

#include "darkfield/comm.h"

struct df_comm {
    MPI_Comm mpi;
    int rank, size;
    int world_rank; // of this process among all: for messages
    bool is_world;
    int *counts, *offsets; // [size] scratch for the v-collectives, whose counts are ints
    df_traffic traffic;
    double seconds; // spent in MPI
    int inside;     // calls of df_comm_enter that have not been left
    double entered; // when the outermost one was
};

/* MPI counts are ints: what is longer than this goes out in pieces. Tests lower it. */
extern size_t df_comm_piece;

/* How df_tree_finish brings a slice of columns across: few values are gathered whole. */
#define DF_TREE_SLICE ((size_t)1 << 18) /* columns that cross at a time: bounds the buffers */
#define DF_TREE_SMALL 4096              /* doubles; below it everyone finishes the tree alone */

void df_comm_count(df_comm *comm, size_t bytes);
/* Between these two time counts as communication; pairs may nest. */
void df_comm_enter(df_comm *comm);
void df_comm_leave(df_comm *comm);

/* Installs the signal handler of stop requests. Not collective. */
df_status df_stop_watch(void);

#endif
