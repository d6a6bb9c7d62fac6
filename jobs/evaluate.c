/* darkfield evaluate: what a dictionary explains of held-out documents. */
#include "jobs.h"

#include "darkfield/eval.h"

static const df_option options[] = {
    {.key = "evaluate.batch",
     .type = DF_OPT_INT,
     .fallback = "4096",
     .unit = "rows",
     .min = 1,
     .max = 1048576,
     .is_volatile = true,
     .help = "rows encoded at a time over all ranks"},
    {.key = "evaluate.skip_first",
     .type = DF_OPT_BOOL,
     .fallback = "true",
     .help = "leave out BOS rows and the first position of each window"},
};

static void print_figures(const df_dict *dict, const df_evaluation *e) {
    for (size_t s = 0; s < e->sites; s++)
        df_info("  FVU of %s at %s: %.5f +- %.5f", df_dict_output(dict, s)->model,
                df_dict_output(dict, s)->name, e->fvu[s], e->fvu_error[s]);
    df_info("  L0 %.3f over %llu held-out rows; %llu of %llu latents dead, %llu dense", e->l0,
            (unsigned long long)e->rows, (unsigned long long)e->dead,
            (unsigned long long)e->latents, (unsigned long long)e->dense);
}

static df_status evaluate(df_run *run, df_inputs *in, const char *dict_path,
                          const df_eval_options *o) {
    df_dict *dict = NULL;
    df_evaluation found = {0};
    df_status status;
    DF_GO(df_dict_load(run->world, dict_path, &dict));
    DF_GO(df_agree(run->world, df_inputs_match(in, dict)));
    DF_GO(df_evaluate(run->world, run->kernels, dict, in->acts, in->site, o, &found));
    print_figures(dict, &found);
    DF_GO(df_evaluation_write(run->world, dict, &found, o));
    df_info("evaluate: wrote %s", o->output);
done:
    df_free(found.fires);
    df_dict_free(&dict);
    return status;
}

static df_status run_with(df_run *run, const char *dict_path, const char *output) {
    df_inputs inputs = {0};
    uint64_t hash = 0;
    char *job = NULL;
    df_status status;
    DF_GO(df_input_digest(run, dict_path, &hash));
    DF_GO(df_inputs_open(run, &inputs));
    job = df_resolved_with(run, "evaluate", hash, &inputs);
    DF_GO(df_agree(run->world, job != NULL ? DF_OK : DF_FAILED));
    df_eval_options o = {.batch = (size_t)df_job_int(run->job, "evaluate.batch"),
                         .skip_first = df_job_bool(run->job, "evaluate.skip_first"),
                         .output = output,
                         .resolved_job = job,
                         .facts = run->provenance};
    if (!df_stage_is_current(run, output, "darkfield-evaluation", job))
        status = evaluate(run, &inputs, dict_path, &o);
done:
    df_inputs_close(&inputs);
    df_free(job);
    return status;
}

static df_status run_evaluate(df_run *run) {
    char *dict = df_path_dict(run), *output = df_path_result(run, "evaluate");
    df_status status = df_agree(run->world, dict != NULL && output != NULL ? DF_OK : DF_FAILED);
    if (status == DF_OK && run->dry_run)
        df_info("evaluate: would write %s: FVU, L0 and dead latents of %s", output, dict);
    else if (status == DF_OK)
        status = run_with(run, dict, output);
    df_free(dict);
    df_free(output);
    return status;
}

const df_stage df_stage_evaluate = {
    .name = "evaluate",
    .help = "FVU, L0 and dead latents on held-out documents",
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .run = run_evaluate,
};
