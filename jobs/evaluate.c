/* darkfield evaluate: what a dictionary explains of held-out documents. */
#include "jobs.h"

#include "darkfield/eval.h"

#include <string.h>

static const df_option options[] = {
    {.key = "evaluate.batch", .type = DF_OPT_INT, .fallback = "4096", .unit = "rows", .min = 1, .max = 1048576,
     .is_volatile = true, .help = "rows encoded at a time over all ranks"},
    {.key = "evaluate.skip_first", .type = DF_OPT_BOOL, .fallback = "true",
     .help = "leave out BOS rows and the first position of each window"},
};

/* Puts the activation files in the order of the dictionary's sites: an SAE knows one model only. */
static df_status match_sites(df_inputs *in, const df_dict *dict) {
    if (dict->sites == in->n) return DF_OK;
    for (size_t i = 0; i < in->n && dict->sites == 1; i++) {
        if (strcmp(in->acts[i]->model, dict->site[0].model) != 0) continue;
        df_acts *first = in->acts[0];
        in->acts[0] = in->acts[i];
        in->acts[i] = first;
        in->site[0] = in->site[i];
        return DF_OK;
    }
    return df_fail(DF_BAD_INPUT, "the dictionary has %zu site%s, the first of model %s; the job's models do not fit it",
                   dict->sites, dict->sites == 1 ? "" : "s", dict->site[0].model);
}

static void print_figures(const df_dict *dict, const df_evaluation *e) {
    for (size_t s = 0; s < e->sites; s++)
        df_info("  FVU of %s at %s: %.5f +- %.5f", dict->site[s].model, dict->site[s].name, e->fvu[s], e->fvu_error[s]);
    df_info("  L0 %.3f over %llu held-out rows; %llu of %llu latents dead, %llu dense", e->l0, (unsigned long long)e->rows,
            (unsigned long long)e->dead, (unsigned long long)e->latents, (unsigned long long)e->dense);
}

static df_status evaluate(df_run *run, df_inputs *in, const char *dict_path, const df_eval_options *o) {
    df_dict *dict = NULL;
    df_evaluation found = {0};
    df_status status;
    DF_GO(df_dict_load(run->world, dict_path, &dict));
    DF_GO(df_agree(run->world, match_sites(in, dict)));
    DF_GO(df_evaluate(run->world, run->kernels, dict, in->acts, in->site, o, &found));
    print_figures(dict, &found);
    DF_GO(df_evaluation_write(run->world, dict, &found, o));
    df_info("evaluate: wrote %s", o->output);
done:
    df_free(found.fires);
    df_dict_free(&dict);
    return status;
}

/* The resolved job with the hashes of what is read. New memory. */
static char *describe_job(const df_run *run, const df_inputs *in, uint64_t dictionary) {
    char *resolved = df_resolved(run, "evaluate");
    char *text = resolved == NULL ? NULL : df_format("%s# dictionary %016llx\n", resolved, (unsigned long long)dictionary);
    df_free(resolved);
    for (size_t i = 0; i < in->n && text != NULL; i++) {
        char *longer = df_format("%s# activations %016llx\n", text, (unsigned long long)in->acts[i]->hash);
        df_free(text);
        text = longer;
    }
    return text;
}

static df_status run_with(df_run *run, const char *dict_path, const char *output) {
    df_inputs inputs = {0};
    uint64_t hash = 0;
    char *job = NULL;
    df_status status = df_comm_rank(run->world) == 0 ? df_digest(dict_path, &hash) : DF_OK;
    DF_GO(df_agree(run->world, status));
    df_broadcast(run->world, 0, &hash, sizeof hash);
    DF_GO(df_inputs_open(run, &inputs));
    job = describe_job(run, &inputs, hash);
    DF_GO(df_agree(run->world, job != NULL ? DF_OK : DF_FAILED));
    df_eval_options o = {.batch = (size_t)df_job_int(run->job, "evaluate.batch"),
                         .skip_first = df_job_bool(run->job, "evaluate.skip_first"),
                         .output = output, .resolved_job = job, .facts = run->provenance};
    if (!df_stage_is_current(run, output, "darkfield-evaluation", job)) status = evaluate(run, &inputs, dict_path, &o);
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

const df_stage df_stage_evaluate = {"evaluate", "FVU, L0 and dead latents on held-out documents", options,
                                    sizeof options / sizeof *options, run_evaluate};
