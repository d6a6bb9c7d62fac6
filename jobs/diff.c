/* darkfield diff: what the crosscoder says of the difference between the two models. */
#include "jobs.h"

#include "darkfield/diff.h"

#include <string.h>

static const df_option options[] = {
    {.key = "diff.concepts",
     .type = DF_OPT_LIST,
     .optional = true,
     .help = "labels of the text to find latents for, one row each; all of them when not given"},
};

static void print_classes(const char *path) {
    df_reader *file = NULL;
    uint64_t *count = NULL;
    if (df_reader_open(path, "darkfield-diff", &file) == DF_OK &&
        df_reader_all(file, "/classes/count", DF_U64, DF_CLASSES, (void **)&count) == DF_OK)
        for (int c = 0; c < DF_CLASSES; c++)
            df_info("  %-10s %8llu living latents", df_class_name((df_class)c),
                    (unsigned long long)count[c]);
    df_free(count);
    df_reader_close(&file);
    df_error_clear();
}

/* Statistics name the dictionary they were made with. */
static df_status check_statistics(const df_reader *stats, uint64_t dictionary) {
    char *job = NULL, *line = df_format("# dictionary %016llx\n", (unsigned long long)dictionary);
    df_status status = line != NULL ? df_reader_text(stats, "/", "job", &job) : DF_FAILED;
    if (status == DF_OK && strstr(job, line) == NULL)
        status = df_fail(DF_BAD_INPUT,
                         "%s: expected statistics of this dictionary (content %016llx), found "
                         "those of another: run darkfield stats again",
                         df_reader_path(stats), (unsigned long long)dictionary);
    df_free(job);
    df_free(line);
    return status;
}

/* The dictionary and the statistics decide the result: their hashes join the job text. */
static df_status run_with(df_run *run, const char *dict_path, const char *stats_path,
                          const char *output) {
    df_dict *dict = NULL;
    df_reader *stats = NULL;
    char *resolved = NULL, *job = NULL;
    uint64_t inputs[2] = {0, 0};
    df_diff_options o = {.output = output, .facts = run->provenance};
    df_status status;
    DF_GO(df_input_digest(run, dict_path, &inputs[0]));
    DF_GO(df_input_digest(run, stats_path, &inputs[1]));
    resolved = df_resolved(run, "diff");
    job = resolved != NULL ? df_format("%s# dictionary %016llx\n# statistics %016llx\n", resolved,
                                       (unsigned long long)inputs[0], (unsigned long long)inputs[1])
                           : NULL;
    DF_GO(df_agree(run->world, job != NULL ? DF_OK : DF_FAILED));
    if (df_stage_is_current(run, output, "darkfield-diff", job)) goto done;
    DF_GO(df_dict_load(run->world, dict_path, &dict));
    status = df_reader_open(stats_path, "darkfield-statistics", &stats);
    if (status == DF_OK) status = check_statistics(stats, inputs[0]);
    DF_GO(df_agree(run->world, status));
    o.resolved_job = job;
    if (df_job_has(run->job, "diff.concepts"))
        o.n_concepts = df_job_list(run->job, "diff.concepts", &o.concepts);
    df_timer_start("diff");
    status = df_diff_run(run->world, dict, stats, &o);
    df_timer_stop("diff");
    if (status == DF_OK) df_info("diff: wrote %s", output);
    if (status == DF_OK && df_comm_rank(run->world) == 0) print_classes(output);
done:
    df_reader_close(&stats);
    df_dict_free(&dict);
    df_free(resolved);
    df_free(job);
    return status;
}

static df_status print_plan(df_run *run, const char *dict_path, const char *stats_path,
                            const char *output) {
    df_dict *dict = NULL;
    df_reader *stats = NULL;
    df_dict_plan plan;
    df_need need;
    df_diff_options o = {.output = output};
    df_status status;
    if (df_plan_is_early(run, "diff", dict_path, stats_path)) return DF_OK;
    if (df_job_has(run->job, "diff.concepts"))
        o.n_concepts = df_job_list(run->job, "diff.concepts", &o.concepts);
    DF_GO(df_plan_dict(run, dict_path, &plan, &dict));
    status = df_reader_open(stats_path, "darkfield-statistics", &stats);
    if (status == DF_OK) status = df_diff_plan(&plan, stats, &o, &need);
    DF_GO(df_agree(run->world, status));
    df_info("diff: %s by the statistics %s", dict_path, stats_path);
    df_print_plan(output, need);
done:
    df_reader_close(&stats);
    df_dict_free(&dict);
    return status;
}

static df_status run_diff(df_run *run) {
    char *dict = df_path_dict(run), *stats = df_path_result(run, "stats"),
         *output = df_path_result(run, "diff");
    df_status status = dict != NULL && stats != NULL && output != NULL ? DF_OK : DF_FAILED;
    status = df_agree(run->world, status);
    if (status == DF_OK && df_models(run) < 2)
        df_info("diff: one model only, nothing to compare");
    else if (status == DF_OK && run->dry_run)
        status = print_plan(run, dict, stats, output);
    else if (status == DF_OK)
        status = run_with(run, dict, stats, output);
    df_free(dict);
    df_free(stats);
    df_free(output);
    return status;
}

const df_stage df_stage_diff = {
    .name = "diff",
    .help = "decoder norms, classes and the latents that tell two models apart",
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .run = run_diff,
    .of_one = true,
};
