/* train_objective.h: the options of train that say what is minimised. */
#ifndef DARKFIELD_TRAIN_OBJECTIVE_H
#define DARKFIELD_TRAIN_OBJECTIVE_H

#include "jobs.h"

df_activation df_chosen_activation(const df_run *run);

/* objective, its warm-up and annealing, and the initial threshold. */
void df_read_objective(const df_run *run, df_train_options *options);

/* Their table, ended by an option without key. */
extern const df_option df_objective_options[];

#endif
