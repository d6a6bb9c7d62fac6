/* train_options.h: from a job to the options of one training. */
#ifndef DARKFIELD_TRAIN_OPTIONS_H
#define DARKFIELD_TRAIN_OPTIONS_H

#include "jobs.h"

/* All but output, checkpoint and resolved_job. DF_USAGE with the place of the key that does not
 * fit. Not collective. */
df_status df_read_train_options(const df_run *run, df_train_options *out) DF_MUST_CHECK;
df_shuffle df_chosen_shuffle(const df_run *run);

/* Their table, ended by an option without key. */
extern const df_option df_train_table[];

#endif
