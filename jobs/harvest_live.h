/* harvest_live.h: the rows of a harvest without its file: models run over the text when training
 * asks for rows. */
#ifndef DARKFIELD_HARVEST_LIVE_H
#define DARKFIELD_HARVEST_LIVE_H

#include "jobs.h"

/* The activations that df_path_acts would hold for this model after harvest, at those of its sites
 * that are wanted, as a file of df_acts that makes its rows: the values of the file to the bit,
 * through its element type. A few dozen windows, those used last, are kept, so that runs of rows
 * that share one do not run it twice in a row. Every rank holds the whole model, whatever
 * harvest.pipeline says. A plan (dry run) opens no model. *need: bytes that making rows takes
 * beside the text. Close with df_acts_close; `run` must outlive it. Collective. */
df_status df_live_open(const df_run *run, size_t model, const df_columns *wanted, df_acts **out,
                       uint64_t *need) DF_MUST_CHECK;

#endif
