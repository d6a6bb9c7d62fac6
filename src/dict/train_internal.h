/* train_internal.h: the parts of the trainer, and what dictionary files and checkpoints share. */
#ifndef TRAIN_INTERNAL_H
#define TRAIN_INTERNAL_H

#include "darkfield/train.h"

#include "darkfield/groups.h"

enum { CHECKPOINTS_KEPT = 2 };

/* ---- names in files (names.c) --------------------------------------------------------------- */

const char *activation_name(df_activation activation); // "batchtopk"
df_status activation_parse(const char *name, df_activation *out) DF_MUST_CHECK;
const char *code_norm_name(df_code_norm norm); // "sum"
df_status kind_parse(const char *name, df_dict_kind *out) DF_MUST_CHECK;
df_status code_norm_parse(const char *name, df_code_norm *out) DF_MUST_CHECK;
const char *token_norm_name(df_token_norm norm); // "layer"
df_status token_norm_parse(const char *name, df_token_norm *out) DF_MUST_CHECK;

/* ---- rows (data.c) -------------------------------------------------------------------------- */

/* Rows that stand for the whole set: all, or the first 65536 of an endless one. */
size_t rows_counted(const df_rows *rows);
/* All sites of a data set, side by side as its rows hold them; texts are the data set's. */
typedef struct row_sites {
    size_t n, width;
    df_dict_site site[DF_MAX_SITES]; // name, model, first, width, scale, token_norm
    float *mean; // [width], subtracted before rows are scaled; NULL: they are not centred
} row_sites;
/* Scales are 1, there is no mean, rows are not normalised. DF_USAGE: there are none, or more than a
 * dictionary has. Not collective. */
df_status row_sites_open(const df_rows *rows, row_sites *out) DF_MUST_CHECK;
/* Rows x [n, width] into the units of training: (n(x) - mean) scale, n(x) being what token_norm
 * makes of a site's part of a row. */
void row_sites_scale(const row_sites *all, float *x, size_t n);
/* Of rows x [n, width] the columns of `sites` [n_sites], side by side in that order. */
void row_sites_pick(const row_sites *all, const size_t *sites, size_t n_sites, const float *x,
                    size_t n, float *out);
/* The passes over the training rows (df_train_passes): sets the scale of each site and the mean,
 * where there is one, as the options say, and `center` [width] to the mean of the rows in the units
 * of training. Collective. */
df_status data_normalise(df_comm *comm, const df_rows *rows, const df_train_options *options,
                         row_sites *all, float *center) DF_MUST_CHECK;

/* What a dictionary is trained on: these sites of the data set, in the order of its own rows. */
typedef struct train_rows {
    const df_rows *rows;
    const row_sites *all;
    const size_t *site;
    size_t sites;
} train_rows;

/* ---- the start (initialise.c) --------------------------------------------------------------- */

/* Weights at the start; center [width of the dictionary]: the mean of its scaled rows. *variance
 * gets that of what is written, over the rows of the sample, where the objective wants it.
 * Collective. */
df_status initialise(df_comm *comm, const train_rows *from, const df_train_options *options,
                     df_dict *dict, const float *center, double *variance) DF_MUST_CHECK;
/* Own memory that it takes while it runs, at most. Not collective. */
size_t initialise_bytes(const df_train_options *options, const df_dict *dict, const df_rows *rows,
                        size_t columns, const df_group_place *at);
/* df_train_options.init_fit, with the coder of the dictionary at the start. Collective. */
df_status fit_encoder(df_comm *comm, df_coder *coder, df_dict *dict, uint64_t seed,
                      size_t max_rows) DF_MUST_CHECK;
/* What a run needs besides a coder's usual state. */
df_train_room train_room(const df_train_options *options);

/* ---- batches (loader.c) --------------------------------------------------------------------- */

/* Reads ahead in a thread of its own while steps compute. */
typedef struct loader loader;
df_status loader_open(const df_groups *groups, const df_rows *rows, const row_sites *all,
                      const df_order *order, size_t batch,
                      loader **out) DF_MUST_CHECK; // Not collective
void loader_close(loader **loader);
/* Begins to read for steps step .. steps - 1; once, when the scales of all sites are known. */
void loader_start(loader *l, uint64_t step, uint64_t steps);
/* x [rows of this group, width] of the next step; collective. */
df_status loader_take(loader *l, uint64_t step, const float **x) DF_MUST_CHECK;
double loader_waited(const loader *l); // seconds that loader_take has waited for rows
size_t loader_plan_bytes(const df_order *order, size_t batch, size_t width,
                         const df_group_place *at);

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

/* ---- one dictionary (train.c) --------------------------------------------------------------- */

/* Where the interval of the log began, and the seconds that steps of this dictionary took since. */
typedef struct train_clock {
    double since, busy;
    uint64_t step;
} train_clock;

/* The runs that a batch is cut into: train.data_groups. */
static inline size_t train_runs(const df_train_options *o) {
    return o->data_groups > 1 ? o->data_groups : 1;
}

/* The training of one dictionary. The first of its data groups writes. */
typedef struct train_run {
    df_groups groups;
    df_comm *comm; // the ranks of this one's group, which share the dictionary
    df_range rows; // of a batch, that this group takes
    df_kernels *kernels;
    const char *name; // of the member of a sweep, NULL: there is no sweep
    const df_train_options *options;
    train_rows from;
    size_t *site; // of `from`
    bool whole;   // a row of the dictionary is a whole row of the data set
    df_dict *dict;
    float *mean; // [width of the dictionary] what its rows come less; NULL: they are not centred
    df_coder *coder;
    df_trainer_state *state; // the coder's, NULL: training has not begun
    df_history history;
    df_anneal anneal;
    double variance;      // objective.variance of FVU_SAMPLE
    char *kernel_history; // the kernel paths of the run so far: "avx512; avx2 from step 120"
    char *checkpoint;     // the last good one, NULL: none
    double gemm_seconds;  // of the encoder GEMM alone, on the slowest rank
    train_clock clock;
    const double *logged; // row of the history that the last step ended, NULL: it ended none
    df_step_report report;
    bool finished; // the dictionary is written
} train_run;

/* The data groups of all ranks of the run. Collective. */
df_status train_open_groups(train_run *run, df_comm *world,
                            const df_train_options *options) DF_MUST_CHECK;
/* The dictionary and what a run keeps in memory. Not collective. */
df_status train_open(train_run *run, const df_train_member *member, const row_sites *all,
                     const df_rows *rows) DF_MUST_CHECK;
void train_close(train_run *run);
/* A fresh start; center [columns of the data set]: the mean of the scaled rows. Collective. */
df_status train_begin(train_run *run, const float *center) DF_MUST_CHECK;
/* One step on x [rows, width of the dictionary]. Collective. */
df_status train_step(train_run *run, const float *x) DF_MUST_CHECK;
/* Writes the dictionary, then removes its checkpoints. Collective. */
df_status train_finish(train_run *run) DF_MUST_CHECK;
/* The sites of a member, in the order of its row; returns how many. */
size_t member_sites(const df_train_member *member, const row_sites *all, size_t *numbers,
                    df_dict_site *sites);

/* ---- the log (train_log.c) ------------------------------------------------------------------ */

enum { LOG_LINE = 320 };
/* The table that a log file gets. Of up to three sites that are written each has a column of FVU;
 * of more, or where members differ in them, the best and the worst. */
typedef struct train_table {
    const char *fvu[3]; // heads
    size_t columns;
    bool range;       // best and worst
    const char *term; // head of the column beside loss, error and sparsity
    int name;         // width of the members' names, 0: there is no sweep
} train_table;
/* Measures gemm_seconds with this rate of the GEMM; 0: measures that too. Collective. */
df_status log_measure(train_run *run, double *rate) DF_MUST_CHECK;
void log_names(const train_table *table);
/* The line of the interval that the last step ended. */
void log_row(const train_table *table, train_run *run, char line[LOG_LINE]);
/* What the bar of a terminal says beside its figures. */
void log_note(const train_run *run, char note[LOG_LINE]);
/* The columns that fit all members. */
void log_table(const df_train_member *members, size_t n, const row_sites *all, train_table *out);

/* What is trained on these sites; sets which are read and written. */
df_dict_shape train_shape(const df_train_options *options, df_dict_site *sites, size_t n_sites);
/* Gives a new dictionary of that shape, or an outline, what else the options say; DF_USAGE where
 * they cannot be trained with. */
df_status train_describe(const df_train_options *options, df_dict *dict) DF_MUST_CHECK;
/* The order in which rows are seen. */
df_order train_order(const df_train_options *options, const df_rows *rows);
/* Communication of a step besides the coder's: rows of `width` columns are shared out, stops and
 * checkpoints are asked for. What crosses between groups out of a shuffle buffer is an average. */
df_cost train_loop_cost(const df_order *order, size_t width, size_t rows, const df_group_place *at);
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
/* Opens the coder of run->dict with the newest sound checkpoint of the same job and inputs, when
 * there is one: *resumed tells. Collective. */
df_status checkpoint_resume(train_run *run, bool *resumed) DF_MUST_CHECK;
/* Removes the checkpoints of these options' job and inputs but the newest `keep` that are not past
 * `step`. Rank 0 only. */
void checkpoint_prune(const df_train_options *options, uint64_t step, size_t keep);
/* Opens the coder over the dictionary and its optimiser state, all zero. Collective. */
df_status open_coder(train_run *run) DF_MUST_CHECK;

#endif
