/* darkfield shuffle: the training rows of all models in one random order, for train.shuffle:
 * global. */
#include "jobs.h"

#include <string.h>

static const df_option options[] = {
    {.key = "shuffle.memory",
     .type = DF_OPT_INT,
     .fallback = "1024",
     .unit = "MiB per rank",
     .min = 1,
     .max = 1e9,
     .is_volatile = true,
     .help = "buffers of the shuffle; the file does not depend on it"},
};

char *df_path_shuffled(const df_run *run) {
    return df_format("%s/shuffled.rows.h5", df_job_text(run->job, "out"));
}

/* The sites of a row; new memory. */
static char *list_sites(const df_run *run) {
    df_columns c;
    char *text = NULL;
    if (df_job_all_columns(run, &c) != DF_OK) return NULL;
    for (size_t s = 0; s < c.n && (s == 0 || text != NULL); s++) {
        char *longer = s == 0 ? df_strdup(c.site[0]) : df_format("%s, %s", text, c.site[s]);
        df_free(text);
        text = longer;
    }
    df_columns_free(&c);
    return text;
}

/* All that decides which rows, and their order. New memory. */
char *df_describe_shuffled(const df_run *run, const char *hashes) {
    const df_job *job = run->job;
    const char *const *tokens;
    size_t n = df_job_list(job, "train.skip_tokens", &tokens);
    const char *model = df_job_text(job, "train.model");
    char *sites = list_sites(run);
    if (sites == NULL) return NULL;
    char *text =
        df_format("seed %lld, site %s, model %s, skip_first %s, bad_rows %s\n%s",
                  (long long)df_job_int(job, "seed"), sites, model != NULL ? model : "",
                  df_job_text(job, "train.skip_first"), df_job_text(job, "train.bad_rows"), hashes);
    df_free(sites);
    for (size_t i = 0; i < n && text != NULL; i++) {
        char *longer = df_format("%sskip token %s\n", text, tokens[i]);
        df_free(text);
        text = longer;
    }
    return text;
}

static df_status print_plan(const df_run *run, const df_data *d, const df_shuffle_options *o) {
    const df_rows_site *site;
    size_t n = df_rows_sites(d->rows, &site);
    df_need need;
    DF_TRY(df_rows_shuffle_plan(d->rows, o, df_comm_size(run->world), &need));
    df_info("shuffle: %llu rows of %zu site%s", (unsigned long long)df_rows_count(d->rows), n,
            n == 1 ? "" : "s");
    df_print_plan(o->output, need);
    return DF_OK;
}

static df_status shuffle(df_run *run, const df_data *d) {
    const df_job *job = run->job;
    char *path = df_path_shuffled(run), *what = df_describe_shuffled(run, d->hashes);
    df_status status = df_agree(run->world, path != NULL && what != NULL ? DF_OK : DF_FAILED);
    df_shuffle_options o = {.seed = (uint64_t)df_job_int(job, "seed"),
                            .memory = (uint64_t)df_job_int(job, "shuffle.memory") << 20,
                            .output = path,
                            .job = what,
                            .dropped = d->dropped,
                            .facts = run->provenance};
    if (status == DF_OK && run->dry_run) {
        status = df_agree(run->world, print_plan(run, d, &o));
    } else if (status == DF_OK && !df_stage_is_current(run, path, "darkfield-rows", what)) {
        status = df_agree(run->world, print_plan(run, d, &o));
        if (status == DF_OK) status = df_rows_shuffle(run->world, d->rows, &o);
        if (status == DF_OK) df_info("shuffle: wrote %s", path);
    }
    df_free(path);
    df_free(what);
    return status;
}

static df_status run_shuffle(df_run *run) {
    df_data data;
    const char *how = df_job_text(run->job, "train.shuffle");
    if (strcmp(how, "global") != 0 || df_job_is_synthetic(run)) {
        df_info("shuffle: not needed, train.shuffle is %s%s", how,
                df_job_is_synthetic(run) ? " and its rows are synthetic" : "");
        return DF_OK;
    }
    if (run->dry_run && df_inputs_are_missing(run)) {
        df_info("shuffle: rows, memory and disk can be told after harvest");
        return DF_OK;
    }
    DF_TRY(df_data_open(run, false, &data));
    df_status status = shuffle(run, &data);
    df_data_close(&data);
    return status;
}

const df_stage df_stage_shuffle = {
    .name = "shuffle",
    .help = "all training rows in one random order, on disk",
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .run = run_shuffle,
};
