/* darkfield evaluate: what a dictionary explains of held-out documents. */
#include "evaluate_loss.h"
#include "jobs.h"

#include "darkfield/eval.h"

#include <math.h>

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
     .type = DF_OPT_TEXT,
     .fallback = "true",
     .help = "rows to leave out, as in train.skip_first"},
    {.key = "evaluate.fvu_batch",
     .type = DF_OPT_INT,
     .fallback = "2048",
     .unit = "rows",
     .min = 2,
     .max = 1048576,
     .help = "rows of a batch, at most (none crosses one of the 64 buckets of documents), of the "
             "two other FVUs that are given, means over batches "
             "(dictionary_learning, which takes the mean off the error) and over rows (SAEBench's "
             "tables, many crosscoders)"},
    {.key = "evaluate.rows",
     .type = DF_OPT_INT,
     .fallback = "20000",
     .unit = "rows",
     .min = 64,
     .max = 1e12,
     .help = "fresh rows of a synthetic model"},
};

static void print_figures(const df_dict *dict, const df_evaluation *e) {
    for (size_t s = 0; s < e->sites; s++)
        df_info("  FVU of %s at %s: %.5f +- %.5f; mean over batches %.5f, over rows %.5f",
                df_dict_output(dict, s)->model, df_dict_output(dict, s)->name, e->fvu[s],
                e->fvu_error[s], e->fvu_batches[s], e->fvu_rows[s]);
    df_info("  L0 %.3f over %llu held-out rows; %llu of %llu latents dead, %llu dense", e->l0,
            (unsigned long long)e->rows, (unsigned long long)e->dead,
            (unsigned long long)e->latents, (unsigned long long)e->dense);
}

static void print_recovery(const df_recovery *r) {
    df_info("  MMCS %.3f learned to true, %.3f true to learned; %llu of %zu directions found "
            "(cosine above 0.9)",
            r->learned_to_true, r->true_to_learned, (unsigned long long)r->found, r->directions);
    if (isnan(r->by_class[1])) return;
    df_info("  true to learned %.3f shared, %.3f first model alone, %.3f second alone; of %llu "
            "latents alive %llu and %llu are of one model alone",
            r->by_class[0], r->by_class[1], r->by_class[2], (unsigned long long)r->alive,
            (unsigned long long)r->only_a, (unsigned long long)r->only_b);
}

static df_status evaluate(df_run *run, const df_data *data, const char *dict_path,
                          const df_eval_options *o) {
    df_dict *dict = NULL;
    df_evaluation found = {0};
    df_recovery recovery = {0};
    df_loss loss = {0};
    bool with_loss = df_job_bool(run->job, "evaluate.loss");
    bool known = df_job_is_synthetic(run);
    df_status status;
    DF_GO(df_dict_load(run->world, dict_path, &dict));
    status = df_evaluate(run->world, run->kernels, dict, data->rows, o, &found);
    if (status != DF_OK) {
        df_context("evaluating %s on the activations of this job", dict_path);
        goto done;
    }
    if (run->member != NULL) df_info("  %s", run->member);
    print_figures(dict, &found);
    if (known) {
        df_synthetic toy = df_job_synthetic(run);
        DF_GO(df_recover(run->world, dict, &toy, found.fires, &recovery));
        print_recovery(&recovery);
    }
    if (with_loss) DF_GO(df_run_loss(run, data, dict, &loss));
    const df_eval_more more = {known ? &recovery : NULL, with_loss ? &loss : NULL};
    DF_GO(df_evaluation_write(run->world, dict, &found, &more, o));
    df_info("evaluate: wrote %s", o->output);
done:
    df_free(found.fires);
    df_recovery_free(&recovery);
    df_loss_free(&loss);
    df_dict_free(&dict);
    return status;
}

/* The resolved job and the hashes of what it reads. New memory. */
static char *describe_job(const df_run *run, uint64_t dictionary, const char *hashes) {
    char *resolved = df_resolved(run, "train evaluate");
    char *text = resolved == NULL ? NULL
                                  : df_format("%s# dictionary %016llx\n%s", resolved,
                                              (unsigned long long)dictionary, hashes);
    df_free(resolved);
    return text;
}

static df_eval_options read_options(const df_run *run, const char *output, const char *job) {
    return (df_eval_options){.batch = (size_t)df_job_int(run->job, "evaluate.batch"),
                             .rows = (uint64_t)df_job_int(run->job, "evaluate.rows"),
                             .fvu_batch = (uint64_t)df_job_int(run->job, "evaluate.fvu_batch"),
                             .output = output,
                             .resolved_job = job,
                             .facts = run->provenance};
}

static df_status run_with(df_run *run, const char *dict_path, const char *output) {
    df_data data = {0};
    uint64_t hash = 0;
    char *job = NULL;
    df_status status;
    DF_GO(df_input_digest(run, dict_path, &hash));
    DF_GO(df_data_open(run, true, &data));
    DF_GO(df_inputs_trained_on(run, dict_path, data.opened, data.n_opened));
    job = describe_job(run, hash, data.hashes);
    DF_GO(df_agree(run->world, job != NULL ? DF_OK : DF_FAILED));
    df_eval_options o = read_options(run, output, job);
    if (!df_stage_is_current(run, output, "darkfield-evaluation", job))
        status = evaluate(run, &data, dict_path, &o);
done:
    df_data_close(&data);
    df_free(job);
    return status;
}

static df_status print_plan(df_run *run, const char *dict_path, const char *output) {
    df_data data = {0};
    df_dict *dict = NULL;
    df_dict_plan plan;
    df_need need;
    df_recovery recovery = {0};
    df_eval_options o = read_options(run, output, NULL);
    df_loss loss = {0};
    bool known = df_job_is_synthetic(run), with_loss = df_job_bool(run->job, "evaluate.loss");
    uint64_t running = 0; // bytes while models run
    df_status status;
    if (df_plan_is_early(run, "evaluate", dict_path, NULL)) return DF_OK;
    if (known) recovery.directions = df_job_synthetic(run).directions;
    DF_GO(df_data_open(run, true, &data));
    DF_GO(df_inputs_trained_on(run, dict_path, data.opened, data.n_opened));
    DF_GO(df_plan_dict(run, dict_path, &plan, &dict));
    if (with_loss) DF_GO(df_agree(run->world, df_plan_loss(run, &data, &plan, &loss, &running)));
    const df_eval_more more = {known ? &recovery : NULL, with_loss ? &loss : NULL};
    DF_GO(df_agree(run->world, df_evaluate_plan(&plan, data.rows, &more, &o, &need)));
    if (running > need.memory) need.memory = running;
    df_info("evaluate: FVU, L0 and dead latents of %s%s", dict_path,
            with_loss ? ", and the loss with it spliced" : "");
    df_print_plan(output, need);
done:
    df_dict_free(&dict);
    df_data_close(&data);
    return status;
}

/* Every member of a sweep has a file of its own. */
static df_status run_evaluate(df_run *run) {
    if (df_job_bool(run->job, "evaluate.loss") && df_job_is_synthetic(run))
        return df_fail(DF_USAGE, "%s: synthetic rows have no model: evaluate.loss needs one",
                       df_job_where(run->job, "evaluate.loss"));
    for (size_t d = 0; d < df_run_dictionaries(run); d++) {
        df_run one = df_run_of(run, d);
        DF_TRY(df_run_study(&one, df_path_evaluation(&one), print_plan, run_with));
    }
    return DF_OK;
}

static const df_option *const more_options[] = {df_loss_options, NULL};

const df_stage df_stage_evaluate = {
    .name = "evaluate",
    .help = "FVU, L0 and dead latents on held-out documents; what a splice costs the models",
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .more = more_options,
    .run = run_evaluate,
};
