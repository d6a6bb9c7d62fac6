/* train_plan.h: what --dry-run tells of a training. */
#ifndef DARKFIELD_TRAIN_PLAN_H
#define DARKFIELD_TRAIN_PLAN_H

#include "jobs.h"

typedef struct df_planned {
    const df_train_options *options;
    const df_dict_site *sites; /* name, model and width of each */
    size_t n_sites;
    const df_rows *rows; /* to train on */
    df_screen screen;    /* that the training will use */
    const char *output;
} df_planned;

/* Memory, disk, and a table over ranks 1, 2, 4, ...: bytes and messages of a step (df_step_cost),
 * time and efficiency on the network of plan.*. Not collective. */
df_status df_print_train_plan(const df_run *run, const df_planned *planned) DF_MUST_CHECK;

#endif
