/* train_methods.h: the options of train that say how it is trained: schedules, nested and multiple
 * reconstructions, dead latents, clipping, averages, initialisation. */
#ifndef DARKFIELD_TRAIN_METHODS_H
#define DARKFIELD_TRAIN_METHODS_H

#include "jobs.h"

/* Values that the table cannot check. DF_USAGE with the place of the key. Not collective. */
df_status df_check_methods(const df_run *run) DF_MUST_CHECK;
/* After df_check_methods. */
void df_read_methods(const df_run *run, df_train_options *options);

/* Their table, ended by an option without key. */
extern const df_option df_method_options[];

#endif
