/* jobs.h: what the stages of a job file share. One stage is one C file of this folder: it parses
 * its section, composes modules and writes one result file. */
#ifndef DARKFIELD_JOBS_H
#define DARKFIELD_JOBS_H

#include "darkfield/base.h"
#include "darkfield/comm.h"
#include "darkfield/kernels.h"
#include "darkfield/rows.h"
#include "darkfield/store.h"
#include "darkfield/train.h"

/* One dictionary of train.sweep: its name and the job as it is for it alone. */
typedef struct df_member {
    char *name;
    df_job *job;
} df_member;

/* A run of the program: owned by main, borrowed by stages. */
typedef struct df_run {
    df_comm *world;
    df_kernels *kernels;
    const df_job *job;
    bool dry_run;             /* check inputs, print the plan, compute nothing */
    bool force;               /* run a stage even when its output is current */
    df_provenance provenance; /* ready to be handed to df_file_provenance */
    const df_member *members; /* [n_members] of train.sweep; none: there is no sweep */
    size_t n_members, use;    /* use: the member that later stages study */
    const char *member;       /* the run is of this member: `job` is its job; NULL: of the whole */
} df_run;

/* How many dictionaries the job makes: the members of its sweep, or one. */
size_t df_run_dictionaries(const df_run *run);
/* The run as it is for one of them: its job and its name; without a sweep the run itself. Valid as
 * long as `run`. Not collective. */
df_run df_run_of(const df_run *run, size_t dictionary);

typedef struct df_stage {
    const char *name, *help;
    const df_option *options; /* keys "name.*" */
    size_t n_options;
    /* Collective. Must skip (with a line saying so) when its output is current:
     * df_stage_is_current. */
    df_status (*run)(df_run *run);
    /* Further tables of options, each ended by one without key; the last one is NULL. */
    const df_option *const *more;
    df_status (*presume)(df_job *job); /* completes the parsed job file; NULL: nothing to do */
    void (*more_help)(FILE *to);       /* follows the options in `help`; NULL: nothing */
    bool of_one;     /* studies one dictionary: of a sweep it is run with the member of train.use */
    bool siteless;   /* it needs no `site` */
    bool on_request; /* part of `darkfield run` where `stages` lists it, or, without such a list, a
                        key of its section was given */
} df_stage;

/* train.preset (train_presets.c): gives the options of a published trainer to the keys that were
 * not given; DF_USAGE names the nearest preset. The list, one preset a line. Not collective. */
df_status df_train_presume(df_job *job) DF_MUST_CHECK;
void df_train_list_presets(FILE *to);

extern const df_stage df_stage_harvest, df_stage_shuffle, df_stage_train, df_stage_evaluate,
    df_stage_stats, df_stage_diff, df_stage_spectrum, df_stage_lens, df_stage_report;

/* Options that several stages read: seed, out, models.{a,b}.{name,path}, text.*, site. */
extern const df_option df_shared_options[];
extern const size_t df_n_shared_options;

/* Paths of the files under `out`; new memory each, df_free. model: "base". */
char *df_path_acts(const df_run *run, const char *model); /* OUT/base.acts.h5 */
/* The files that train.files lists for a model (0: a, 1: b), or the job's own alone; the f-th of
 * them, new memory. df_acts_uneven: the error of models that do not have as many. */
size_t df_acts_files(const df_run *run, size_t model);
char *df_path_part(const df_run *run, size_t model, size_t f);
df_status df_acts_uneven(const df_run *run) DF_MUST_CHECK;
char *
df_path_result(const df_run *run,
               const char *name); /* OUT/NAME.h5: "evaluate", "stats", "diff", "spectrum", "lens" */
/* OUT/crosscoder.dict.h5, OUT/sae.dict.h5, ...; of a member OUT/train-MEMBER.dict.h5. */
char *df_path_dict(const df_run *run);
/* OUT/evaluate.h5; of a member OUT/evaluate-MEMBER.h5. */
char *df_path_evaluation(const df_run *run);

/* The number of models named in the job file (1 or 2), and their names and paths (0: a, 1: b). */
size_t df_models(const df_run *run);
/* As many as differ: a model against itself is one. DF_USAGE where one name stands for two paths.
 */
df_status df_different_models(const df_run *run, size_t *n) DF_MUST_CHECK;
const char *df_model_name(const df_run *run, size_t i);
const char *df_model_path(const df_run *run, size_t i);

/* The part of the resolved job file that determines an output: the shared options and the named
 * sections. New memory. */
char *df_resolved(const df_run *run, const char *sections);

/* What the job's dictionary is made of: its kind, and the sites side by side in a row, those that
 * are read before those that are written alone (transcoders, CLT). DF_USAGE names the option that
 * does not fit. Not collective; free what it holds. */
typedef struct df_columns {
    df_dict_kind kind;
    size_t n, inputs;
    size_t model[DF_MAX_SITES]; /* 0: a, 1: b */
    char *site[DF_MAX_SITES];
} df_columns;
df_status df_job_columns(const df_run *run, df_columns *out) DF_MUST_CHECK;
/* The columns of all dictionaries of the job, each once, those of the first in its order: what a
 * data set holds that all are trained on. `kind` and `inputs` are the first's. Not collective. */
df_status df_job_all_columns(const df_run *run, df_columns *out) DF_MUST_CHECK;
void df_columns_free(df_columns *columns);
df_dict_kind df_job_kind(const df_run *run); /* train.kind, `auto` decided */
/* The sites to harvest of each model: harvest.sites, else those under study and those of the
 * dictionary. `inputs` of them are named by shared options. Not collective. */
df_status df_job_harvest_sites(const df_run *run, df_columns *out) DF_MUST_CHECK;
/* site, sites, train.site or train.input is given, not two of the first or of the last. */
df_status df_job_require_sites(const df_job *job) DF_MUST_CHECK;

/* The text of the job, as the options text.* say. Not collective; close with df_corpus_close. */
df_status df_job_corpus(const df_run *run, df_corpus **out) DF_MUST_CHECK;

/* The content hash of an input, taken on rank 0. Collective. */
df_status df_input_digest(const df_run *run, const char *path, uint64_t *out) DF_MUST_CHECK;

/* The activation files of all models (the same file twice when both models have one name), aligned
 * and opened; after df_inputs_match, file and index of every site of a dictionary. Collective;
 * close with df_inputs_close. */
typedef struct df_inputs {
    size_t n; /* files */
    df_acts *file[2];
    df_acts *acts[DF_MAX_SITES]; /* of `file` */
    size_t site[DF_MAX_SITES];
} df_inputs;
df_status df_inputs_open(const df_run *run, df_inputs *out) DF_MUST_CHECK;
void df_inputs_close(df_inputs *inputs);
/* DF_BAD_INPUT where the dictionary at `path` was trained on one of these files, of the same
 * recipe, when it had other content. Collective. */
df_status df_inputs_trained_on(const df_run *run, const char *path, df_acts *const *acts,
                               size_t n) DF_MUST_CHECK;

/* The data set of the training rows of all dictionaries, or of those that the evaluation of one
 * reads: the files of train.files (else the job's own) behind the job's filters, or synthetic rows.
 * Collective; close with df_data_close. */
typedef struct df_data {
    df_acts **opened;              /* [n_opened] */
    df_acts **acts;                /* [files * sites] of those */
    size_t *index;                 /* [files * sites] */
    size_t files, sites, n_opened; /* files: of one model */
    df_rows *rows;
    uint64_t dropped; /* rows that are not finite (train.bad_rows: drop) */
    char *hashes;     /* "# activations HASH" for each file: what an output depends on */
    df_acts *live[2]; /* train.from_models: each model's rows, made when asked for */
    uint64_t need;    /* bytes that making them takes, beside the text */
} df_data;
df_status df_data_open(const df_run *run, bool evaluation, df_data *out) DF_MUST_CHECK;
void df_data_close(df_data *data);
/* What training on these sites (NULL: all) depends on, a line for each file: the hash of what it
 * was made by, which is known of rows that models make as well. New memory. */
char *df_data_recipes(const df_data *data, const size_t *site, size_t sites);
/* The same with their content, for /provenance (df_inputs_note). New memory. */
char *df_data_inputs(const df_data *data, const size_t *site, size_t sites);
/* Which rows evaluation reads; the filter borrows *tokens (df_free), which is new memory in every
 * case. Not collective. */
df_status df_job_evaluation_filter(const df_run *run, df_acts_filter *out,
                                   uint32_t **tokens) DF_MUST_CHECK;
bool df_job_is_synthetic(const df_run *run); /* train.source */
bool df_job_is_live(const df_run *run);      /* train.from_models */
df_synthetic df_job_synthetic(const df_run *run);
/* An activation file of the job does not exist: a dry run comes before harvest. Collective. */
bool df_inputs_are_missing(const df_run *run);

/* The shuffled file, and what it is compared by: new memory each. */
char *df_path_shuffled(const df_run *run);
char *df_describe_shuffled(const df_run *run, const char *hashes);

/* What a stage does that makes one result file, `output`, of the dictionary `dict`; paths. */
typedef df_status df_study(df_run *run, const char *dict, const char *output);
/* `plan` in a dry run, else `work`, with the run's dictionary. Takes `output` (NULL: no memory was
 * left). Collective. */
df_status df_run_study(df_run *run, char *output, df_study *plan, df_study *work) DF_MUST_CHECK;

/* ---- plans: what --dry-run prints ---- */

/* The line of a plan: the output, its size on disk, and own memory per rank: what is needed and
 * what this rank has now. */
void df_print_plan(const char *output, df_need need);
/* An input of `stage` is not there yet (statistics NULL: it reads none): says after which stage
 * more can be told. Collective. */
bool df_plan_is_early(const df_run *run, const char *stage, const char *dictionary,
                      const char *statistics);
/* The plan of the dictionary at `path`, whose outline *dict the caller frees. Collective. */
df_status df_plan_dict(const df_run *run, const char *path, df_dict_plan *out,
                       df_dict **dict) DF_MUST_CHECK;

/* Finds the file and the index of each of the dictionary's sites. Not collective. */
df_status df_inputs_match(df_inputs *inputs, const df_dict *dict) DF_MUST_CHECK;

/* Whether `path`, a "model", "corpus" or "tokenizer" of this content hash, is the one the
 * activations were made with; DF_BAD_INPUT when not. Not collective. */
df_status df_inputs_came_from(const df_acts *acts, const char *what, const char *path,
                              uint64_t hash) DF_MUST_CHECK;

/* df_resolved, and the hashes of the dictionary and of the activations that are read: what an
 * output depends on. New memory. */
char *df_resolved_with(const df_run *run, const char *sections, uint64_t dictionary,
                       const df_inputs *inputs);

/* True on all ranks when the output is complete and was made by the same job and inputs: the stage
 * prints one line and returns DF_OK. Collective. `resolved` is what the stage stores as root
 * attribute "job" (append input hashes to it). */
bool df_stage_is_current(const df_run *run, const char *path, const char *format,
                         const char *resolved);
/* And from the same inputs, lines of df_inputs_note, as far as they are known. Collective. */
bool df_stage_is_current_of(const df_run *run, const char *path, const char *format,
                            const char *resolved, const char *inputs);

#endif
