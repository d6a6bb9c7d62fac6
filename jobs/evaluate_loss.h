/* evaluate_loss.h: the part of the evaluate stage that runs models. */
#ifndef DARKFIELD_EVALUATE_LOSS_H
#define DARKFIELD_EVALUATE_LOSS_H

#include "darkfield/loss.h"
#include "jobs.h"

extern const df_option df_loss_options[]; /* ended by one without key */

/* Opens the models and the held-out text of the job, runs all conditions, prints what was found.
 * For jobs with models, not synthetic rows. Collective; df_loss_free. */
df_status df_run_loss(df_run *run, const df_data *data, df_dict *dict, df_loss *out) DF_MUST_CHECK;

/* Bytes of df_run_loss with the planned dictionary, and what the result file must know of *out. Not
 * collective. */
df_status df_plan_loss(const df_run *run, const df_data *data, const df_dict_plan *plan,
                       df_loss *out, uint64_t *memory) DF_MUST_CHECK;

#endif
