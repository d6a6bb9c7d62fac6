/* sweep.h: what a training holds besides its dictionaries. */
#ifndef SWEEP_H
#define SWEEP_H

#include "train_internal.h"

typedef struct sweep {
    df_comm *comm; // all ranks
    df_comm *own;  // the ranks of this rank's dictionaries; NULL: all
    const df_rows *rows;
    const df_train_member *members; // [n]
    size_t n;
    df_train_place *place; // [n]
    row_sites all;
    train_run *run; // [runs] of this rank
    size_t *member; // [runs] which members they are
    size_t runs;
    uint64_t *begin;       // [n] step at which each begins
    uint64_t first, steps; // those of the whole training
    loader *loader;
    df_range given;  // rows of a batch that it gives: all where there are several members
    float *x;        // [batch, columns] of a dictionary that reads not all
    double saved_at; // df_now of the last checkpoints, or of the start
    train_table table;
    df_progress progress;
    size_t *counts; // [size]
    char *lines;    // [2, n, LOG_LINE] all lines of the log on rank 0, and this rank's
} sweep;

#endif
