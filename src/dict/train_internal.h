/* train_internal.h: the parts of the trainer, and what dictionary files and checkpoints share. */
#ifndef TRAIN_INTERNAL_H
#define TRAIN_INTERNAL_H

#include "darkfield/dict.h"

enum { CHECKPOINTS_KEPT = 2 };

/* ---- names in files (names.c) --------------------------------------------------------------- */

const char *activation_name(df_activation activation); // "batchtopk"
df_status activation_parse(const char *name, df_activation *out) DF_MUST_CHECK;
const char *code_norm_name(df_code_norm norm); // "sum"
df_status kind_parse(const char *name, df_dict_kind *out) DF_MUST_CHECK;
df_status code_norm_parse(const char *name, df_code_norm *out) DF_MUST_CHECK;

/* ---- rows (data.c) -------------------------------------------------------------------------- */

/* Rows that stand for the whole set: all, or the first 65536 of an endless one. */
size_t rows_counted(const df_rows *rows);
/* One pass over the training rows: sets the scale of each site of `dict` to 1 / sqrt(mean |x|^2)
 * and `center` [width] to the mean of the scaled rows. The scales must be 1 before. Collective. */
df_status data_normalise(df_comm *comm, const df_rows *rows, df_dict *dict,
                         float *center) DF_MUST_CHECK;

/* ---- the start (initialise.c) --------------------------------------------------------------- */

/* Weights at the start; center [width]: the mean of the scaled rows. Collective. */
df_status initialise(df_comm *comm, const df_rows *rows, const df_train_options *options,
                     df_dict *dict, const float *center) DF_MUST_CHECK;
/* What a run needs besides a coder's usual state. */
df_train_room train_room(const df_train_options *options);

/* ---- batches (loader.c) --------------------------------------------------------------------- */

/* Reads ahead in a thread of its own while steps compute. */
typedef struct loader loader;
df_status loader_open(df_comm *comm, const df_rows *rows, const df_dict *dict,
                      const df_order *order, size_t batch,
                      loader **out) DF_MUST_CHECK; // Not collective
void loader_close(loader **loader);
/* Begins to read for steps step .. steps - 1; once, when the dictionary's scales are known. */
void loader_start(loader *l, uint64_t step, uint64_t steps);
/* x [batch, width] of the next step; collective. */
df_status loader_take(loader *l, uint64_t step, const float **x) DF_MUST_CHECK;
double loader_waited(const loader *l); // seconds that loader_take has waited for rows
size_t loader_plan_bytes(const df_order *order, size_t batch, size_t width, int size);

/* ---- history (history.c) -------------------------------------------------------------------- */

df_status history_open(size_t capacity, size_t sites, df_history *out) DF_MUST_CHECK;
void history_close(df_history *history);
/* Adds a step to the interval. */
void history_note(df_history *history, const df_step_report *report);
/* Ends the interval; last: step, rows, dead and lr. Returns the new row, NULL when all are there.
 */
const double *history_add(df_history *history, const double last[static 4]);
void history_restart(df_history *history);                 // forgets the interval so far
double history_value(const double *row, const char *name); // of a column ahead of the sites'
double history_fvu(const double *row, size_t site);
size_t history_sums(size_t sites); // how many sums an interval has
size_t history_columns(size_t sites);
/* "fvu.base"; where two sites are of one model, "fvu.base.0" and "fvu.base.1". New memory. */
char *history_column_name(const df_dict *dict, size_t column);
double *history_column(const df_history *history, size_t column); // [rows], new memory

/* ---- schedules (schedule.c) ----------------------------------------------------------------- */

/* At a step (from 0): the learning rate; the factor of the sparsity term; active latents. */
double schedule_rate(const df_train_options *options, uint64_t step);
double schedule_penalty(const df_train_options *options, uint64_t step);
size_t schedule_k(const df_train_options *options, uint64_t step);
size_t schedule_largest_k(const df_train_options *options);

/* ---- a run (train.c) ------------------------------------------------------------------------ */

/* When the interval of the log began. */
typedef struct train_clock {
    double since;
    uint64_t step;
} train_clock;

typedef struct train_run {
    df_comm *comm;
    df_kernels *kernels;
    const df_train_options *options;
    const df_rows *rows;
    df_dict *dict;
    df_coder *coder;
    df_trainer_state *state; // the coder's
    loader *loader;
    df_history history;
    df_anneal anneal;
    char *kernel_history; // the kernel paths of the run so far: "avx512; avx2 from step 120"
    char *checkpoint;     // the last good one, NULL: none
    double saved_at;      // df_now of it, or of the start
    double gemm_seconds;  // of the encoder GEMM alone, on the slowest rank
    train_clock clock;
} train_run;

/* ---- the log (train_log.c) ------------------------------------------------------------------ */

/* Measures gemm_seconds. Collective. */
df_status log_measure(train_run *run) DF_MUST_CHECK;
/* Begins the display; a log file gets the names of its columns. */
void log_start(train_run *run, df_progress *progress);
/* After each step; row: of the interval that it ended, or NULL. A bar moves with every step, a log
 * gets a line per interval. */
void log_step(train_run *run, df_progress *progress, const df_step_report *report,
              const double *row);

/* What is trained on these sites; sets which are read and written. */
df_dict_shape train_shape(const df_train_options *options, df_dict_site *sites, size_t n_sites);
/* The order in which rows are seen. */
df_order train_order(const df_train_options *options, const df_rows *rows);
/* Rows of the history that a run will write. */
size_t history_rows(const df_train_options *options);
/* The settings of a step (from 0): where the schedules stand. */
df_step_settings step_settings(const df_train_options *options, const df_dict *dict,
                               const df_anneal *anneal, uint64_t step);

/* ---- checkpoints (checkpoint.c, checkpoint_load.c) ------------------------------------------ */

/* PREFIX.STEP.ckpt.h5; new memory. */
char *checkpoint_path(const char *prefix, uint64_t step);
/* Steps of the files PREFIX.*.ckpt.h5, descending. `out` holds `room`; returns how many. Not
 * collective. */
size_t checkpoint_list(const char *prefix, uint64_t *out, size_t room);
/* Writes the state of the run, then removes all but the two newest of this job. Collective. */
df_status checkpoint_write(train_run *run) DF_MUST_CHECK;
/* Opens the coder of run->dict with the newest sound checkpoint of the same job, when there is one:
 * *resumed tells. Collective. */
df_status checkpoint_resume(train_run *run, bool *resumed) DF_MUST_CHECK;
/* Removes this job's checkpoints but the newest `keep` that are not past `step`. Rank 0 only. */
void checkpoint_prune(const char *prefix, const char *job, uint64_t step, size_t keep);
/* Opens the coder over the dictionary and its optimiser state, all zero. Collective. */
df_status open_coder(train_run *run) DF_MUST_CHECK;

#endif
