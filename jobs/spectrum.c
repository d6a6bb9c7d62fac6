/* darkfield spectrum: what the dictionary leaves unexplained, and what it looks like. */
#include "jobs.h"

#include "darkfield/spectrum.h"

#include <string.h>

static const df_option options[] = {
    {.key = "spectrum.batch",
     .type = DF_OPT_INT,
     .fallback = "2048",
     .unit = "rows",
     .min = 1,
     .max = 1048576,
     .is_volatile = true,
     .help = "rows that a rank encodes at a time"},
    {.key = "spectrum.ridge",
     .type = DF_OPT_REAL,
     .fallback = "1e-6",
     .min = 0,
     .max = 1,
     .help = "added to the diagonal of the fit of the residual on x, as a share of the mean of the "
             "diagonal"},
    {.key = "spectrum.skip_first",
     .type = DF_OPT_BOOL,
     .fallback = "true",
     .help = "leave out BOS rows and the first position of each window"},
};

/* What the row source and the dictionary need; borrowed by df_spectrum_input as its context. */
typedef struct source {
    df_inputs acts;
    df_dict *dict;
    df_coder *coder;
    uint64_t *rows[2];
    size_t n[2];
    df_spectrum_model model[DF_MAX_SITES]; /* the sites that are written */
    char *name[DF_MAX_SITES];
    size_t models;
    float *scaled; /* [batch, width] rows in dictionary units, where rows come in the models': what
                      is normalised row by row has no other units in common; else NULL */
} source;

static df_status read_rows(void *context, const uint64_t *rows, size_t n, float *x) {
    source *s = context;
    return s->scaled != NULL ? df_rows_gather_raw(s->dict, s->acts.acts, s->acts.site, rows, n, x)
                             : df_rows_gather(s->dict, s->acts.acts, s->acts.site, rows, n, x);
}

/* The reconstructions of raw rows, in their units. */
static df_status apply_to_raw(source *s, const float *x, size_t n, float *x_hat) {
    memcpy(s->scaled, x, n * s->dict->width * sizeof *x);
    df_rows_scale(s->dict, s->scaled, n);
    DF_TRY(df_coder_apply(s->coder, s->scaled, n, x_hat, NULL));
    df_rows_restore(s->dict, x, n, x_hat);
    return DF_OK;
}

/* x_hat gets whole rows like x: of columns that are not written it holds anything. */
static df_status apply_dictionary(void *context, const float *x, size_t n, float *x_hat) {
    source *s = context;
    const df_dict *dict = s->dict;
    size_t out = dict->out.count;
    DF_TRY(s->scaled != NULL ? apply_to_raw(s, x, n, x_hat)
                             : df_coder_apply(s->coder, x, n, x_hat, NULL));
    for (size_t r = n; r-- > 0 && out < dict->width;)
        memmove(x_hat + r * dict->width + dict->out.first, x_hat + r * out, out * sizeof *x_hat);
    return DF_OK;
}

static void source_close(source *s) {
    df_coder_close(&s->coder);
    df_dict_free(&s->dict);
    df_inputs_close(&s->acts);
    df_free(s->scaled);
    for (size_t i = 0; i < s->models; i++) df_free(s->name[i]);
    df_free(s->rows[0]);
    df_free(s->rows[1]);
}

/* Is another written site of a model of this name? */
static bool is_shared(const df_dict *dict, const df_dict_site *site) {
    for (size_t i = 0; i < df_dict_outputs(dict); i++) {
        const df_dict_site *other = df_dict_output(dict, i);
        if (other != site && strcmp(other->model, site->model) == 0) return true;
    }
    return false;
}

/* A group for every written site, named by its model, and by the site where a model has several. A
 * model against itself would need one group twice. */
static df_status name_models(source *s) {
    for (size_t i = 0; i < df_dict_outputs(s->dict); i++) {
        const df_dict_site *site = df_dict_output(s->dict, i);
        s->name[i] = is_shared(s->dict, site) ? df_format("%s.%s", site->model, site->name)
                                              : df_strdup(site->model);
        if (s->name[i] == NULL) return DF_FAILED;
        s->models = i + 1;
        for (size_t other = 0; other < i; other++)
            if (strcmp(s->name[other], s->name[i]) == 0)
                return df_fail(DF_USAGE,
                               "spectrum needs models of different names, both are called %s: "
                               "leave it out of stages",
                               site->model);
        bool raw = df_dict_tokenwise(s->dict);
        s->model[i] = (df_spectrum_model){.name = s->name[i],
                                          .first = site->first,
                                          .width = site->width,
                                          .scale = raw ? 1.0 : site->scale};
    }
    return DF_OK;
}

static df_status open_mine(const df_run *run, source *s) {
    bool skip = df_job_bool(run->job, "spectrum.skip_first");
    DF_TRY(df_inputs_match(&s->acts, s->dict));
    DF_TRY(name_models(s));
    DF_TRY(df_acts_rows(s->acts.acts[0], 0, skip, &s->rows[0], &s->n[0]));
    return df_acts_rows(s->acts.acts[0], 1, skip, &s->rows[1], &s->n[1]);
}

static df_spectrum_input input_of(const df_run *run, source *s) {
    const df_acts *acts = s->acts.acts[0];
    return (df_spectrum_input){.model = s->model,
                               .models = s->models,
                               .width = s->dict->width,
                               .document = acts->document,
                               .documents = acts->documents,
                               .rows = {s->rows[0], s->rows[1]},
                               .n_rows = {s->n[0], s->n[1]},
                               .batch = (size_t)df_job_int(run->job, "spectrum.batch"),
                               .read = read_rows,
                               .apply = apply_dictionary,
                               .context = s};
}

static size_t scaled_floats(const source *s, size_t batch) {
    return df_dict_tokenwise(s->dict) ? batch * s->dict->width : 0;
}

static df_status make_room(source *s, size_t batch) {
    size_t n = scaled_floats(s, batch);
    return n > 0 ? DF_NEW(s->scaled, n) : DF_OK;
}

static df_status measure(df_run *run, source *s, const char *dict_path,
                         const df_spectrum_options *o) {
    DF_TRY(df_dict_load(run->world, dict_path, &s->dict));
    DF_TRY(df_agree(run->world, open_mine(run, s)));
    df_spectrum_input input = input_of(run, s);
    DF_TRY(df_agree(run->world, make_room(s, input.batch)));
    DF_TRY(df_coder_open(run->world, run->kernels, s->dict,
                         input.batch * (size_t)df_comm_size(run->world), &s->coder));
    return df_spectrum_run(run->world, &input, o);
}

/* One line a model, from the file. */
static void print_model(const df_reader *file, const char *model) {
    double r2, error, ratio;
    char group[512], residual[540];
    snprintf(group, sizeof group, "/%s", model);
    snprintf(residual, sizeof residual, "%s/residual", group);
    if (df_reader_real(file, group, "r2_pooled", &r2) == DF_OK &&
        df_reader_real(file, group, "r2_error", &error) == DF_OK &&
        df_reader_real(file, residual, "participation_ratio", &ratio) == DF_OK)
        df_info("  %s: residual spread over %.1f directions; %.1f +- %.1f %% of it linear in x",
                model, ratio, 100 * r2, 100 * error);
}

static void print_figures(const char *path, const source *s) {
    df_reader *file = NULL;
    if (df_reader_open(path, "darkfield-spectrum", &file) == DF_OK)
        for (size_t i = 0; i < s->models; i++) print_model(file, s->name[i]);
    df_reader_close(&file);
    df_error_clear();
}

static df_status run_with(df_run *run, const char *dict_path, const char *output) {
    source s = {0};
    uint64_t hash = 0;
    char *job = NULL;
    df_status status;
    DF_GO(df_input_digest(run, dict_path, &hash));
    DF_GO(df_inputs_open(run, &s.acts));
    DF_GO(df_inputs_trained_on(run, dict_path, s.acts.file, s.acts.n));
    job = df_resolved_with(run, "spectrum", hash, &s.acts);
    DF_GO(df_agree(run->world, job != NULL ? DF_OK : DF_FAILED));
    if (df_stage_is_current(run, output, "darkfield-spectrum", job)) goto done;
    df_spectrum_options o = {.ridge = df_job_real(run->job, "spectrum.ridge"),
                             .output = output,
                             .resolved_job = job,
                             .facts = run->provenance};
    df_timer_start("spectrum");
    status = measure(run, &s, dict_path, &o);
    df_timer_stop("spectrum");
    if (status == DF_OK) print_figures(output, &s);
    if (status == DF_OK) df_info("spectrum: wrote %s", output);
done:
    source_close(&s);
    df_free(job);
    return status;
}

/* The dictionary and its coder live as long as the spectra. */
static df_status plan_spectra(const df_run *run, source *s, const df_dict_plan *plan,
                              df_need *need) {
    const df_spectrum_options o = {.facts = run->provenance};
    DF_TRY(open_mine(run, s));
    df_spectrum_input input = input_of(run, s);
    size_t read[2] = {0, 0};
    for (size_t i = 0; i < s->dict->sites; i++)
        for (int part = 0; part < 2; part++) {
            size_t rows = df_share(s->n[part], plan->size, 0).count;
            if (rows > input.batch) rows = input.batch;
            size_t bytes = df_acts_read_bytes(s->acts.acts[i], s->acts.site[i], rows);
            if (bytes > read[part]) read[part] = bytes;
        }
    read[0] += DF_CHECK_BYTES; // blocks of held-out rows hold training rows too
    DF_TRY(df_spectrum_plan(&input, &o, plan->size, read, need));
    need->memory += df_dict_bytes(plan->dict) + scaled_floats(s, input.batch) * sizeof(float) +
                    df_coder_plan_bytes(plan->dict, plan->screen, input.batch * (size_t)plan->size,
                                        plan->size, false);
    return DF_OK;
}

static df_status print_plan(df_run *run, const char *dict_path, const char *output) {
    source s = {0};
    df_dict_plan plan;
    df_need need;
    df_status status;
    if (df_plan_is_early(run, "spectrum", dict_path, NULL)) return DF_OK;
    DF_GO(df_inputs_open(run, &s.acts));
    DF_GO(df_inputs_trained_on(run, dict_path, s.acts.file, s.acts.n));
    DF_GO(df_plan_dict(run, dict_path, &plan, &s.dict));
    DF_GO(df_agree(run->world, plan_spectra(run, &s, &plan, &need)));
    df_info("spectrum: %zu training and %zu held-out rows of %zu sites", s.n[0], s.n[1], s.models);
    df_print_plan(output, need);
done:
    source_close(&s);
    return status;
}

static df_status run_spectrum(df_run *run) {
    return df_run_study(run, df_path_result(run, "spectrum"), print_plan, run_with);
}

const df_stage df_stage_spectrum = {
    .name = "spectrum",
    .help = "spectra of activations, reconstruction and residual",
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .run = run_spectrum,
    .of_one = true,
};
