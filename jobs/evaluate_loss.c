/* evaluate.loss: the models read held-out text with the dictionary's sites spliced. */
#include "evaluate_loss.h"

#include <math.h>
#include <omp.h>
#include <string.h>

const df_option df_loss_options[] = {
    {.key = "evaluate.loss",
     .type = DF_OPT_BOOL,
     .fallback = "false",
     .help = "run the models on held-out text with the dictionary's sites replaced: loss, KL and "
             "agreement of the splice, of ablations and of perturbations as large as its "
             "error"},
    {.key = "evaluate.loss_windows",
     .type = DF_OPT_INT,
     .fallback = "64",
     .unit = "windows",
     .min = 0,
     .max = 1e9,
     .help = "windows of held-out text to run; 0: all. Each half of them should hold ten rows a "
             "column of a site, or the error's linear part is noise of its fit"},
    {.key = "evaluate.loss_nulls",
     .type = DF_OPT_BOOL,
     .fallback = "true",
     .help = "run the perturbations too: random directions of three kinds, another row's error, "
             "the error reversed, its part that is linear in the activations, and the rest, all as "
             "large as the error"},
    {.key = "evaluate.loss_same_cosine",
     .type = DF_OPT_BOOL,
     .fallback = "true",
     .help = "run each perturbation once more, turned so that the row's length and its angle to "
             "the clean one are the reconstruction's: nearly doubles the time"},
    {.key = "evaluate.loss_ridge",
     .type = DF_OPT_REAL,
     .fallback = "1e-6",
     .min = 0,
     .max = 1,
     .help = "ridge of the error's linear part, fitted on half the held-out documents for the "
             "other half: this share of the mean of the diagonal is added to it"},
    {0}};

/* What the runs read. */
typedef struct sources {
    df_model *model[DF_LOSS_MODELS];
    const char *path[DF_LOSS_MODELS];
    df_loss_text text;
    df_loss_input input;
    uint64_t half; // rows of the smaller half, with nulls
} sources;

static void sources_close(sources *s) {
    for (size_t m = 0; m < DF_LOSS_MODELS; m++) df_model_close(&s->model[m]);
    df_loss_text_free(&s->text);
}

// Notes the model of the job that site s of the dictionary belongs to; *fresh: for the first time.
static df_status name_model(const df_run *run, const df_dict *dict, size_t s, sources *out,
                            bool *fresh) {
    const char *name = dict->site[s].model;
    size_t m = out->input.models, which = 0;
    *fresh = false;
    for (size_t i = 0; i < m; i++)
        if (strcmp(out->input.name[i], name) == 0) return DF_OK;
    while (which < df_models(run) && strcmp(df_model_name(run, which), name) != 0) which++;
    if (which == df_models(run) || m == DF_LOSS_MODELS)
        return df_fail(DF_BAD_INPUT,
                       "the dictionary was trained on model %s, which this job does "
                       "not name: train again",
                       name);
    *fresh = true;
    out->path[m] = df_model_path(run, which);
    out->input.name[m] = name;
    out->input.models++;
    return DF_OK;
}

static df_status open_models(const df_run *run, const df_data *data, const df_dict *dict,
                             sources *out) {
    for (size_t s = 0; s < dict->sites; s++) {
        bool fresh;
        uint64_t hash = 0;
        size_t m = out->input.models;
        DF_TRY(name_model(run, dict, s, out, &fresh));
        if (!fresh) continue;
        DF_TRY(df_model_open(out->path[m], &out->model[m]));
        out->input.model[m] = out->model[m];
        if (df_comm_rank(run->world) != 0) continue; // reading a large model once is enough
        DF_TRY(df_model_hash(out->path[m], &hash));
        for (size_t f = 0; f < data->files; f++) {
            const df_acts *acts = data->acts[f * data->sites + s];
            DF_TRY(df_inputs_came_from(acts, "model", out->path[m], hash));
        }
    }
    return DF_OK;
}

static df_status open_text(const df_run *run, const df_data *data, sources *out) {
    df_acts_filter filter;
    uint32_t *tokens = NULL;
    df_acts **acts = NULL;
    uint64_t most = (uint64_t)df_job_int(run->job, "evaluate.loss_windows");
    df_status status;
    DF_GO(df_job_evaluation_filter(run, &filter, &tokens));
    DF_GO(DF_NEW(acts, data->files));
    for (size_t f = 0; f < data->files; f++) acts[f] = data->acts[f * data->sites];
    DF_GO(df_loss_text_make(acts, data->files, &filter, most, &out->text));
    out->input.text = &out->text;
    out->input.seed = (uint64_t)df_job_int(run->job, "seed");
    out->input.nulls = df_job_bool(run->job, "evaluate.loss_nulls");
    out->input.same_cosine = df_job_bool(run->job, "evaluate.loss_same_cosine");
    out->input.ridge = df_job_real(run->job, "evaluate.loss_ridge");
    if (out->input.nulls) DF_GO(df_loss_half_rows(&out->text, out->input.seed, &out->half));
done:
    df_free(tokens);
    df_free(acts);
    return status;
}

// Which linear parts have few rows to be fitted on.
static void warn_of_few(const df_dict *dict, const sources *from) {
    for (size_t s = 0; from->input.nulls && s < df_dict_outputs(dict); s++) {
        const df_dict_site *site = df_dict_output(dict, s);
        if (from->half < 10 * site->width)
            df_warn("the linear part of the error at %s of %s is fitted on %llu rows, fewer than "
                    "10 a column of %llu: raise evaluate.loss_windows or evaluate.loss_ridge",
                    site->name, site->model, (unsigned long long)from->half,
                    (unsigned long long)site->width);
    }
}

static df_status open_sources(const df_run *run, const df_data *data, const df_dict *dict,
                              sources *out) {
    DF_TRY(open_text(run, data, out));
    return open_models(run, data, dict, out);
}

static void print_condition(const df_loss *loss, size_t m, size_t c) {
    const df_estimate *f = loss->figure[m][c], ratio = loss->kl_ratio[m][c];
    const df_interval interval = loss->kl_interval[m][c];
    char over[40] = "", range[40] = "";
    if (c >= DF_LOSS_ISOTROPIC)
        snprintf(over, sizeof over, "; KL of the splice %.2f of it", ratio.value);
    if (isfinite(interval.low) && isfinite(interval.high))
        snprintf(range, sizeof range, ", 95 %% %.2f to %.2f", interval.low, interval.high);
    df_info("    %-19s loss %.4f, KL %.4f, same top token %.4f%s%s",
            df_loss_name((df_loss_condition)c), f[DF_LOSS_NLL].value, f[DF_LOSS_KL].value,
            f[DF_LOSS_TOP1].value, over, range);
}

// Whether linear and nonlinear mean what they say.
static void print_linear(const df_loss *loss, size_t s) {
    const df_dict_site *site = df_dict_output(loss->dict, s);
    double r2 = loss->linear_r2[s];
    df_info("    linear part of the error at %s of %s: R2 %.4f on the half it was not fitted on",
            site->name, site->model, r2);
    if (r2 < 0.0)
        df_warn("the linear part of the error at %s of %s predicts it worse than its mean does (R2 "
                "%.4f): the conditions linear and nonlinear show noise of the fit",
                site->name, site->model, r2);
}

static void print_loss(const df_loss *loss) {
    df_info("  loss on %llu tokens of %llu held-out windows (%llu documents), %llu rows spliced",
            (unsigned long long)loss->scored, (unsigned long long)loss->windows,
            (unsigned long long)loss->documents, (unsigned long long)loss->changed);
    for (size_t m = 0; m < loss->models; m++) {
        df_info("  %s: recovered %.4f +- %.4f of zero ablation, %.4f +- %.4f of mean ablation",
                loss->name[m], loss->recovered[m][0].value, loss->recovered[m][0].error,
                loss->recovered[m][1].value, loss->recovered[m][1].error);
        for (size_t c = 0; c < loss->conditions; c++) print_condition(loss, m, c);
        for (size_t s = 0; loss->linear_rows > 0 && s < df_dict_outputs(loss->dict); s++)
            if (strcmp(df_dict_output(loss->dict, s)->model, loss->name[m]) == 0)
                print_linear(loss, s);
    }
}

df_status df_run_loss(df_run *run, const df_data *data, df_dict *dict, df_loss *out) {
    sources s = {0};
    df_status status;
    df_timer_start("read model");
    status = df_agree(run->world, open_sources(run, data, dict, &s));
    df_timer_stop("read model");
    if (status == DF_OK) warn_of_few(dict, &s);
    if (status == DF_OK) status = df_loss_run(run->world, run->kernels, dict, &s.input, out);
    if (status == DF_OK) print_loss(out);
    sources_close(&s);
    return status;
}

df_status df_plan_loss(const df_run *run, const df_data *data, const df_dict_plan *plan,
                       df_loss *out, uint64_t *memory) {
    const df_dict *dict = plan->dict;
    df_model_shape shape[DF_LOSS_MODELS];
    const df_model_shape *shapes[DF_LOSS_MODELS];
    sources s = {0};
    size_t before = df_memory_now();
    df_status status;
    DF_GO(open_text(run, data, &s));
    *memory = df_memory_now() - before + df_dict_bytes(dict) + dict->mine.count * sizeof(uint64_t);
    for (size_t i = 0; i < dict->sites; i++) {
        bool fresh;
        size_t m = s.input.models;
        DF_GO(name_model(run, dict, i, &s, &fresh));
        if (!fresh) continue;
        DF_GO(df_model_plan(s.path[m], &shape[m]));
        shapes[m] = &shape[m];
        *memory += shape[m].parameters * sizeof(float);
    }
    *memory += df_loss_bytes(plan, &s.input, (size_t)omp_get_max_threads(), shapes);
    *out = df_loss_outline(dict, &s.input);
    warn_of_few(dict, &s);
done:
    sources_close(&s);
    return status;
}
