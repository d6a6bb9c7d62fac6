/* darkfield train: learns a crosscoder over both models, an SAE of one, a transcoder, or a sweep of
 * them, from their activation files. */
#include "train_methods.h"
#include "train_objective.h"
#include "train_options.h"
#include "train_plan.h"

#include "darkfield/train.h"

#include <string.h>

/* ---- inputs --------------------------------------------------------------------------------- */

/* The rows to train on: the data set itself, or its shuffled copy, which must be of the same rows.
 */
typedef struct chosen {
    df_data data;
    df_rows *shuffled;
    const df_rows *rows;
} chosen;

static df_status open_shuffled(const df_run *run, chosen *c) {
    char *path = df_path_shuffled(run), *what = df_describe_shuffled(run, c->data.hashes);
    char *why = NULL;
    df_status status = path != NULL && what != NULL ? DF_OK : DF_FAILED;
    if (status == DF_OK && !df_file_is_current(path, "darkfield-rows", what, &why))
        status = df_fail(DF_BAD_INPUT,
                         "%s does not hold the rows of this job in random order (%s): run "
                         "darkfield shuffle first",
                         path, why != NULL ? why : "no such file");
    if (status == DF_OK) status = df_rows_open_shuffled(path, &c->shuffled);
    df_free(path);
    df_free(what);
    df_free(why);
    return status;
}

static void close_chosen(chosen *c) {
    df_rows_close(&c->shuffled);
    df_data_close(&c->data);
}

static void tell_live(const df_data *data, const df_train_options *o) {
    df_info("train: rows come from the models, which run over the text as training asks for them: "
            "each window once for every rank's share of a buffer that has rows of it");
    df_info("  a dictionary that begins needs the rows' scales first: the models run %s over the "
            "training text, %llu rows",
            df_train_passes(o) > 1 ? "twice" : "once",
            (unsigned long long)df_rows_count(data->rows));
}

/* A dry run comes before the rows are shuffled. Collective. */
static df_status choose(const df_run *run, const df_train_options *o, chosen *c) {
    *c = (chosen){0};
    DF_TRY(df_data_open(run, false, &c->data));
    c->rows = c->data.rows;
    if (df_job_is_live(run)) tell_live(&c->data, o);
    if (df_chosen_shuffle(run) != DF_SHUFFLE_GLOBAL || run->dry_run || df_job_is_synthetic(run))
        return DF_OK;
    df_status status = df_agree(run->world, open_shuffled(run, c));
    c->rows = c->shuffled;
    if (status != DF_OK) close_chosen(c);
    return status;
}

/* ---- the dictionaries ----------------------------------------------------------------------- */

/* One dictionary of the stage: the job's only one, or a member of its sweep. */
typedef struct trained {
    df_run run;
    df_train_options options;
    char *job, *inputs, *output, *prefix;
    size_t *site, sites; /* of the data set; NULL: all */
    bool current;        /* its file is complete: nothing to do */
} trained;

/* Where the columns of a dictionary stand among those of the data set. */
static df_status find_sites(const df_run *run, trained *t) {
    df_columns own = {0}, all = {0};
    if (run->n_members == 0 || df_job_is_synthetic(&t->run)) return DF_OK;
    df_status status = df_job_columns(&t->run, &own);
    if (status == DF_OK) status = df_job_all_columns(run, &all);
    if (status == DF_OK) status = DF_NEW(t->site, own.n);
    for (size_t s = 0; s < own.n && status == DF_OK; s++) {
        size_t at = 0;
        while (all.model[at] != own.model[s] || strcmp(all.site[at], own.site[s]) != 0) at++;
        t->site[t->sites++] = at;
    }
    df_columns_free(&own);
    df_columns_free(&all);
    return status;
}

/* The resolved job and what its rows depend on. New memory. */
static char *describe_job(const trained *t, const df_data *data) {
    char *text = df_resolved(&t->run, "train"), *hashes = df_data_recipes(data, t->site, t->sites);
    char *all = text != NULL && hashes != NULL ? df_format("%s%s", text, hashes) : NULL;
    df_free(text);
    df_free(hashes);
    return all;
}

static df_status name_files(trained *t, const df_data *data) {
    t->job = describe_job(t, data);
    t->inputs = df_data_inputs(data, t->site, t->sites);
    t->output = df_path_dict(&t->run);
    if (t->job == NULL || t->inputs == NULL || t->output == NULL) return DF_FAILED;
    t->prefix = df_format("%.*s", (int)(strlen(t->output) - strlen(".dict.h5")), t->output);
    t->options.resolved_job = t->job;
    t->options.facts.inputs = t->inputs;
    t->options.output = t->output;
    t->options.checkpoint = t->prefix;
    return t->prefix != NULL ? DF_OK : DF_FAILED;
}

static df_status open_all(const df_run *run, trained *all, size_t n) {
    for (size_t i = 0; i < n; i++) {
        all[i].run = df_run_of(run, i);
        DF_TRY(df_read_train_options(&all[i].run, &all[i].options));
        DF_TRY_AS(df_train_check(&all[i].options), "reading %s",
                  all[i].run.member != NULL ? all[i].run.member : "train");
        DF_TRY(find_sites(run, &all[i]));
    }
    return DF_OK;
}

static void close_all(trained *all, size_t n) {
    for (size_t i = 0; all != NULL && i < n; i++) {
        df_free(all[i].job);
        df_free(all[i].inputs);
        df_free(all[i].output);
        df_free(all[i].prefix);
        df_free(all[i].site);
    }
    df_free(all);
}

static df_train_member as_member(const trained *t) {
    return (df_train_member){t->run.member, &t->options, t->site, t->sites};
}

/* ---- the stage ------------------------------------------------------------------------------ */

static df_status print_plan(const df_run *run, const chosen *c, const trained *all, size_t n) {
    df_train_member *members = NULL;
    char *output = run->n_members == 0
                       ? df_path_dict(run)
                       : df_format("%s/train-*.dict.h5", df_job_text(run->job, "out"));
    df_status status = output != NULL ? DF_NEW(members, n) : DF_FAILED;
    for (size_t i = 0; i < n && status == DF_OK; i++) members[i] = as_member(&all[i]);
    const df_planned plan = {.members = members,
                             .n = n,
                             .output = output,
                             .rows = c->rows,
                             .live = c->data.need,
                             .screen = df_kernels_spare_screen(run->kernels)};
    if (status == DF_OK) status = df_print_train_plan(run, &plan);
    df_free(members);
    df_free(output);
    return status;
}

/* Trains those that are not there yet. */
static df_status train_missing(df_run *run, const chosen *c, const trained *all, size_t n) {
    df_train_member *members = NULL;
    size_t missing = 0;
    DF_TRY(df_agree(run->world, DF_NEW(members, n)));
    for (size_t i = 0; i < n; i++)
        if (!all[i].current) members[missing++] = as_member(&all[i]);
    df_status status = DF_OK;
    if (missing > 0) status = df_train_sweep(run->world, run->kernels, c->rows, members, missing);
    for (size_t i = 0; i < missing && status == DF_OK; i++)
        df_info("train: wrote %s", members[i].options->output);
    df_free(members);
    return status;
}

static df_status train_all(df_run *run, const chosen *c, trained *all, size_t n) {
    df_status status = DF_OK;
    for (size_t i = 0; i < n && status == DF_OK; i++) status = name_files(&all[i], &c->data);
    DF_TRY(df_agree(run->world, status));
    for (size_t i = 0; i < n; i++)
        all[i].current = df_stage_is_current_of(run, all[i].output, "darkfield-dictionary",
                                                all[i].job, all[i].inputs);
    return train_missing(run, c, all, n);
}

/* A dry run before there are activations. */
static void print_sizes(const trained *all, size_t n) {
    const df_train_options *o = &all[0].options;
    if (n == 1)
        df_info("train: %zu latents, %llu steps of %zu rows; rows, memory and disk can be told "
                "after harvest",
                o->latents, (unsigned long long)o->steps, o->batch);
    else
        df_info(
            "train: a sweep of %zu dictionaries, steps of %zu rows; rows, memory and disk can be "
            "told after harvest",
            n, o->batch);
}

static df_status run_with(df_run *run, trained *all, size_t n) {
    chosen c;
    DF_TRY(df_agree(run->world, open_all(run, all, n)));
    if (run->dry_run && !df_job_is_live(run) && df_inputs_are_missing(run)) {
        print_sizes(all, n);
        return DF_OK;
    }
    DF_TRY(choose(run, &all[0].options, &c));
    df_status status = run->dry_run ? df_agree(run->world, print_plan(run, &c, all, n))
                                    : train_all(run, &c, all, n);
    close_chosen(&c);
    return status;
}

static df_status run_train(df_run *run) {
    size_t n = df_run_dictionaries(run);
    trained *all = NULL;
    DF_TRY(df_agree(run->world, DF_NEW(all, n)));
    df_status status = run_with(run, all, n);
    close_all(all, n);
    return status;
}

static const df_option *const tables[] = {df_train_table, df_objective_options, df_method_options,
                                          NULL};

const df_stage df_stage_train = {
    .name = "train",
    .help = "a crosscoder over the models' activations, an SAE, a transcoder, or a sweep of them",
    .run = run_train,
    .more = tables,
    .presume = df_train_presume,
    .more_help = df_train_list_presets,
};
