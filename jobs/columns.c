/* What a job's dictionary is made of: its kind, and the sites that stand side by side in a row. */
#include "jobs.h"

#include "darkfield/model.h"

#include <string.h>

/* ---- lists of sites ------------------------------------------------------------------------- */

/* The sites under study: `sites`, or the one `site`. */
static size_t shared_sites(const df_job *job, const char *const **out, const char **single) {
    if (df_job_has(job, "sites")) return df_job_list(job, "sites", out);
    *single = df_job_text(job, "site");
    *out = single;
    return *single != NULL ? 1 : 0;
}

static size_t input_sites(const df_job *job, const char *const **out, const char **single) {
    if (df_job_has(job, "train.input")) return df_job_list(job, "train.input", out);
    *single = df_job_text(job, "train.site");
    *out = single;
    return *single != NULL ? 1 : shared_sites(job, out, single);
}

/* Where the list of input_sites was given. */
static const char *where_inputs(const df_job *job) {
    if (df_job_has(job, "train.input")) return df_job_where(job, "train.input");
    if (df_job_has(job, "train.site")) return df_job_where(job, "train.site");
    return df_job_where(job, df_job_has(job, "sites") ? "sites" : "site");
}

df_status df_job_require_sites(const df_job *job) {
    bool one = df_job_has(job, "site"), list = df_job_has(job, "sites");
    bool own = df_job_has(job, "train.site"), input = df_job_has(job, "train.input");
    if (one && list)
        return df_fail(DF_USAGE, "%s: sites is given beside site (%s): leave one out",
                       df_job_where(job, "sites"), df_job_where(job, "site"));
    if (own && input)
        return df_fail(DF_USAGE, "%s: train.input is given beside train.site (%s): leave one out",
                       df_job_where(job, "train.input"), df_job_where(job, "train.site"));
    if (one || list || own || input || df_job_has(job, "harvest.sites")) return DF_OK;
    return df_fail(DF_USAGE, "'site' or 'sites' must be given: hook sites under study, e.g. "
                             "blocks.3.hook_resid_post");
}

/* ---- the kind ------------------------------------------------------------------------------- */

/* The models whose rows stand side by side: all, or the one of train.model. */
static size_t chosen_models(const df_run *run, size_t out[2]) {
    const char *one = df_job_text(run->job, "train.model");
    size_t n = 0;
    for (size_t i = 0; i < df_models(run); i++) {
        bool all = one == NULL || *one == '\0';
        if (all || (n == 0 && strcmp(one, df_model_name(run, i)) == 0)) out[n++] = i;
    }
    return n;
}

df_dict_kind df_job_kind(const df_run *run) {
    static const df_dict_kind kinds[] = {DF_SAE, DF_CROSSCODER, DF_TRANSCODER, DF_SKIP_TRANSCODER,
                                         DF_CLT};
    const char *name = df_job_text(run->job, "train.kind"), *single;
    const char *const *items;
    size_t models[2];
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(name, df_dict_kind_name(kinds[i])) == 0) return kinds[i];
    if (df_job_is_synthetic(run)) return df_job_synthetic(run).models == 1 ? DF_SAE : DF_CROSSCODER;
    size_t columns = chosen_models(run, models) * input_sites(run->job, &items, &single);
    return columns == 1 ? DF_SAE : DF_CROSSCODER;
}

static bool is_apart(df_dict_kind kind) {
    return kind == DF_TRANSCODER || kind == DF_SKIP_TRANSCODER || kind == DF_CLT;
}

/* ---- columns -------------------------------------------------------------------------------- */

void df_columns_free(df_columns *c) {
    for (size_t i = 0; i < c->n; i++) df_free(c->site[i]);
    c->n = 0;
}

/* Takes the name, which may be NULL for want of memory. */
static df_status add(const char *where, df_columns *c, size_t model, char *site) {
    df_status status = site != NULL ? DF_OK : DF_FAILED;
    if (status == DF_OK && c->n == DF_MAX_SITES)
        status = df_fail(DF_USAGE, "%s: a dictionary has at most %d sites", where, DF_MAX_SITES);
    for (size_t i = 0; i < c->n && status == DF_OK; i++)
        if (c->model[i] == model && strcmp(c->site[i], site) == 0)
            status = df_fail(DF_USAGE, "%s: %s is listed twice", where, site);
    if (status != DF_OK) {
        df_free(site);
        return status;
    }
    c->model[c->n] = model;
    c->site[c->n++] = site;
    return DF_OK;
}

/* What the MLP of the input's layer writes. New memory. */
static df_status default_output(const df_job *job, const char *input, char **out) {
    int64_t layer = df_site_layer(input);
    if (layer < 0)
        return df_fail(DF_USAGE, "%s: %s belongs to no layer, so train.output must be given",
                       df_job_where(job, "train.kind"), input);
    *out = df_format("blocks.%lld.hook_mlp_out", (long long)layer);
    return *out != NULL ? DF_OK : DF_FAILED;
}

static df_status add_outputs(const df_job *job, df_columns *c, size_t model) {
    const char *const *items;
    size_t n = df_job_list(job, "train.output", &items);
    if (n == 0) {
        for (size_t i = 0; i < c->inputs; i++) {
            char *site = NULL;
            DF_TRY(default_output(job, c->site[i], &site));
            DF_TRY(add(df_job_where(job, "train.kind"), c, model, site));
        }
    }
    for (size_t i = 0; i < n; i++)
        DF_TRY(add(df_job_where(job, "train.output"), c, model, df_strdup(items[i])));
    if (c->kind != DF_CLT || c->n == 2 * c->inputs) return DF_OK;
    return df_fail(DF_USAGE,
                   "%s: a cross-layer transcoder reads as many sites as it writes; train.input "
                   "has %zu, train.output %zu",
                   df_job_where(job, "train.output"), c->inputs, c->n - c->inputs);
}

static df_status check_kind(const df_run *run, const df_columns *c, size_t models) {
    const df_job *job = run->job;
    const char *kind = df_dict_kind_name(c->kind);
    if (c->n == 0)
        return df_fail(DF_USAGE, "%s: train.input lists no sites",
                       df_job_where(job, "train.input"));
    if (is_apart(c->kind) && models > 1)
        return df_fail(DF_USAGE, "%s: a %s is of one model: name it with train.model",
                       df_job_where(job, "train.kind"), kind);
    if (c->kind == DF_SAE && c->n > 1)
        return df_fail(DF_USAGE,
                       "%s: an sae is of one site of one model, here are %zu: name one with "
                       "train.model and site, or train a crosscoder",
                       df_job_where(job, "train.kind"), c->n);
    if (!is_apart(c->kind) && df_job_has(job, "train.output"))
        return df_fail(DF_USAGE,
                       "%s: train.output is for transcoders, not for a dictionary of "
                       "kind %s",
                       df_job_where(job, "train.output"), kind);
    return DF_OK;
}

df_status df_job_columns(const df_run *run, df_columns *out) {
    const char *const *items;
    const char *single;
    size_t models[2] = {0}, n_models = chosen_models(run, models);
    size_t n = input_sites(run->job, &items, &single);
    *out = (df_columns){.kind = df_job_kind(run)};
    df_status status = DF_OK;
    for (size_t m = 0; m < n_models && status == DF_OK; m++)
        for (size_t i = 0; i < n && status == DF_OK; i++)
            status = add(where_inputs(run->job), out, models[m], df_strdup(items[i]));
    if (status == DF_OK) status = check_kind(run, out, n_models);
    out->inputs = out->n;
    if (status == DF_OK && is_apart(out->kind)) status = add_outputs(run->job, out, models[0]);
    if (status != DF_OK) df_columns_free(out);
    return status;
}

static bool holds(const df_columns *c, size_t model, const char *site) {
    for (size_t i = 0; i < c->n; i++)
        if (c->model[i] == model && strcmp(c->site[i], site) == 0) return true;
    return false;
}

static df_status add_missing(const char *where, const df_columns *from, df_columns *to) {
    for (size_t i = 0; i < from->n; i++)
        if (!holds(to, from->model[i], from->site[i]))
            DF_TRY(add(where, to, from->model[i], df_strdup(from->site[i])));
    return DF_OK;
}

df_status df_job_all_columns(const df_run *run, df_columns *out) {
    *out = (df_columns){0};
    df_status status = DF_OK;
    for (size_t d = 0; d < df_run_dictionaries(run) && status == DF_OK; d++) {
        df_run one = df_run_of(run, d);
        df_columns own;
        status = df_job_columns(&one, &own);
        if (status == DF_OK && d == 0) *out = (df_columns){.kind = own.kind, .inputs = own.inputs};
        if (status == DF_OK) status = add_missing(where_inputs(one.job), &own, out);
        df_columns_free(&own);
    }
    if (status != DF_OK) df_columns_free(out);
    return status;
}

/* ---- what is harvested ---------------------------------------------------------------------- */

df_status df_job_harvest_sites(const df_run *run, df_columns *out) {
    const df_job *job = run->job;
    const char *const *items;
    const char *single;
    df_columns wanted = {0};
    *out = (df_columns){0};
    bool listed = df_job_has(job, "harvest.sites");
    size_t n =
        listed ? df_job_list(job, "harvest.sites", &items) : shared_sites(job, &items, &single);
    df_status status = DF_OK;
    for (size_t i = 0; i < n && status == DF_OK; i++)
        status = add(listed ? df_job_where(job, "harvest.sites") : where_inputs(job), out, 0,
                     df_strdup(items[i]));
    out->inputs = out->n; // named by the shared keys
    if (status == DF_OK && !listed) status = df_job_all_columns(run, &wanted);
    for (size_t i = 0; i < wanted.n && status == DF_OK; i++) {
        if (!holds(out, 0, wanted.site[i]))
            status = add(df_job_where(job, "train.kind"), out, 0, df_strdup(wanted.site[i]));
    }
    df_columns_free(&wanted);
    if (status != DF_OK) df_columns_free(out);
    return status;
}
