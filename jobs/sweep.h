/* sweep.h: the members of train.sweep. */
#ifndef DARKFIELD_SWEEP_H
#define DARKFIELD_SWEEP_H

#include "jobs.h"

/* Sets members, n_members and use of a run whose job is parsed; presets are applied to each.
 * DF_USAGE with the place of what does not fit: presets, members alike, train.use naming none. On
 * failure it is still to be closed. Not collective. */
df_status df_sweep_open(df_run *run) DF_MUST_CHECK;
void df_sweep_close(df_run *run);

#endif
