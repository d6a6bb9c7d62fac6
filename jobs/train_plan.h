/* train_plan.h: what --dry-run tells of a training. */
#ifndef DARKFIELD_TRAIN_PLAN_H
#define DARKFIELD_TRAIN_PLAN_H

#include "jobs.h"

typedef struct df_planned {
    const df_train_member *members; /* [n] to train */
    size_t n;
    const df_rows *rows; /* to train on */
    uint64_t live;       /* bytes that making the rows takes, when they are made */
    df_screen screen;    /* that the training will use */
    const char *output;  /* what will be written */
} df_planned;

/* Memory, disk, and a table over ranks 1, 2, 4, ...: bytes and messages of a step (df_step_cost),
 * time and efficiency on the network of plan.*; of a sweep also which ranks train what. Figures are
 * those of the rank with most. Not collective. */
df_status df_print_train_plan(const df_run *run, const df_planned *planned) DF_MUST_CHECK;

#endif
