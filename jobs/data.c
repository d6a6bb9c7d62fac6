/* The data set of a job: which activation files, which rows of them, or a synthetic model. */
#include "harvest_live.h"
#include "jobs.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- filters -------------------------------------------------------------------------------- */

static df_status bad_skip(const df_job *job, const char *key) {
    return df_fail(DF_USAGE,
                   "%s: %s is \"%s\", expected true (BOS rows and the first of each window), "
                   "false, bos (BOS rows alone) or a number (BOS rows and so many first ones)",
                   df_job_where(job, key), key, df_job_text(job, key));
}

/* true | false | bos | N. */
static df_status read_skip(const df_job *job, const char *key, df_acts_filter *filter) {
    const char *text = df_job_text(job, key);
    char *end = NULL;
    filter->bos = strcmp(text, "false") != 0;
    filter->first = strcmp(text, "true") == 0;
    if (strcmp(text, "true") == 0 || strcmp(text, "false") == 0 || strcmp(text, "bos") == 0)
        return DF_OK;
    errno = 0;
    filter->first = strtoull(text, &end, 10);
    bool good = text[0] >= '0' && text[0] <= '9' && *end == '\0' && errno == 0;
    return good ? DF_OK : bad_skip(job, key);
}

static df_status read_tokens(const df_job *job, const char *key, uint32_t **out, size_t *n) {
    const char *const *items;
    *n = df_job_list(job, key, &items);
    DF_TRY(DF_NEW(*out, *n));
    for (size_t i = 0; i < *n; i++) {
        char *end = NULL;
        errno = 0;
        unsigned long long id = strtoull(items[i], &end, 10);
        if (items[i][0] < '0' || items[i][0] > '9' || *end != '\0' || errno != 0 || id > UINT32_MAX)
            return df_fail(DF_USAGE, "%s: %s: \"%s\" is no token id", df_job_where(job, key), key,
                           items[i]);
        (*out)[i] = (uint32_t)id;
    }
    return DF_OK;
}

/* ---- activation files ----------------------------------------------------------------------- */

static df_status open_file(const df_run *run, size_t model, size_t f, df_data *d, df_acts **out) {
    *out = d->live[model];
    if (*out != NULL) return DF_OK;
    char *path = df_path_part(run, model, f);
    if (path == NULL) return DF_FAILED;
    df_status status = df_acts_open(path, out);
    df_free(path);
    DF_TRY_AS(status, "opening the activations of model %s (made by darkfield harvest%s)",
              df_model_name(run, model),
              df_job_is_live(run) ? ", which train.from_models does not need, this stage does"
                                  : "");
    d->opened[d->n_opened++] = *out;
    if (strcmp((*out)->model, df_model_name(run, model)) == 0) return DF_OK;
    return df_fail(DF_BAD_INPUT, "%s holds activations of model %s, expected %s", (*out)->path,
                   (*out)->model, df_model_name(run, model));
}

/* File f of every model, and the sites in it. */
static df_status open_part(const df_run *run, const df_columns *c, size_t f, df_data *d) {
    df_acts *of_model[2] = {NULL, NULL};
    for (size_t s = 0; s < c->n; s++) {
        size_t at = f * c->n + s, model = c->model[s];
        if (of_model[model] == NULL) DF_TRY(open_file(run, model, f, d, &of_model[model]));
        d->acts[at] = of_model[model];
        DF_TRY(df_acts_site(d->acts[at], c->site[s], &d->index[at]));
    }
    return DF_OK;
}

static df_status open_files(const df_run *run, const df_columns *c, df_data *d) {
    d->sites = c->n;
    d->files = df_acts_files(run, c->model[0]);
    for (size_t s = 1; s < c->n; s++)
        if (df_acts_files(run, c->model[s]) != d->files) return df_acts_uneven(run);
    DF_TRY(DF_NEW(d->opened, 2 * d->files));
    DF_TRY(DF_NEW(d->acts, d->files * d->sites));
    DF_TRY(DF_NEW(d->index, d->files * d->sites));
    for (size_t f = 0; f < d->files; f++) DF_TRY(open_part(run, c, f, d));
    return DF_OK;
}

/* What holds site[s] of the data set, of one file of every model; site NULL: its site s. */
static const df_acts *acts_of(const df_data *d, size_t file, const size_t *site, size_t s) {
    return d->acts[file * d->sites + (site != NULL ? site[s] : s)];
}

static bool file_is_new(const df_data *d, size_t file, const size_t *site, size_t s) {
    for (size_t i = 0; i < s; i++)
        if (acts_of(d, file, site, i) == acts_of(d, file, site, s)) return false;
    return true;
}

static char *add_line(char *text, uint64_t hash) {
    char *longer = df_format("%s# activations %016llx\n", text, (unsigned long long)hash);
    df_free(text);
    return longer;
}

static char *add_recipe(char *text, const df_acts *acts) {
    return add_line(text, acts->recipe);
}

static char *add_content(char *text, const df_acts *acts) {
    return add_line(text, acts->hash);
}

/* What `add` makes of each file in turn, once each. */
static char *list_files(const df_data *d, const size_t *site, size_t sites,
                        char *(*add)(char *, const df_acts *)) {
    char *text = df_strdup("");
    size_t n = site != NULL ? sites : d->sites;
    for (size_t i = 0; i < d->files * n && text != NULL; i++)
        if (file_is_new(d, i / n, site, i % n)) text = add(text, acts_of(d, i / n, site, i % n));
    return text;
}

char *df_data_recipes(const df_data *d, const size_t *site, size_t sites) {
    return list_files(d, site, sites, add_recipe);
}

char *df_data_inputs(const df_data *d, const size_t *site, size_t sites) {
    return list_files(d, site, sites, df_inputs_note);
}

/* One line for every file: what an output depends on. */
static df_status list_hashes(df_data *d) {
    d->hashes = list_files(d, NULL, 0, add_content);
    return d->hashes != NULL ? DF_OK : DF_FAILED;
}

df_status df_job_evaluation_filter(const df_run *run, df_acts_filter *out, uint32_t **tokens) {
    *out = (df_acts_filter){.part = 1};
    *tokens = NULL;
    DF_TRY(read_skip(run->job, "evaluate.skip_first", out));
    DF_TRY(read_tokens(run->job, "train.skip_tokens", tokens, &out->tokens));
    out->token = *tokens;
    return DF_OK;
}

static df_status open_mine(const df_run *run, bool evaluation, df_data *d) {
    if (df_job_is_synthetic(run)) {
        df_synthetic toy = df_job_synthetic(run);
        toy.fresh = evaluation;
        DF_TRY(list_hashes(d));
        return df_rows_open_synthetic(&toy, &d->rows);
    }
    df_acts_filter filter = {.part = evaluation};
    uint32_t *tokens = NULL;
    DF_TRY(read_skip(run->job, evaluation ? "evaluate.skip_first" : "train.skip_first", &filter));
    df_columns columns;
    DF_TRY(evaluation ? df_job_columns(run, &columns) : df_job_all_columns(run, &columns));
    df_status opened = open_files(run, &columns, d);
    df_columns_free(&columns);
    DF_TRY(opened);
    DF_TRY(list_hashes(d));
    df_status status = read_tokens(run->job, "train.skip_tokens", &tokens, &filter.tokens);
    filter.token = tokens;
    df_rows_files from = {d->acts, d->index, d->files, d->sites};
    if (status == DF_OK) status = df_rows_open(&from, &filter, &d->rows);
    df_free(tokens);
    return status;
}

/* ---- rows from the models ------------------------------------------------------------------- */

static df_status check_live(const df_run *run) {
    const df_job *job = run->job;
    const char *const *files, *how = df_job_text(job, "train.shuffle");
    const char *where = df_job_where(job, "train.from_models");
    if (df_job_is_synthetic(run))
        return df_fail(DF_USAGE, "%s: train.from_models makes activations, train.source is %s",
                       where, df_job_text(job, "train.source"));
    if (strcmp(how, "buffer") != 0)
        return df_fail(DF_USAGE,
                       "%s: train.from_models runs whole windows, so rows must come in runs: set "
                       "train.shuffle to buffer, it is %s",
                       where, how);
    if (df_job_int(job, "harvest.pipeline") != 1 || df_job_int(job, "harvest.memory") != 0)
        return df_fail(DF_USAGE,
                       "%s: train.from_models runs whole models on every rank: leave "
                       "harvest.pipeline at 1 and harvest.memory at 0",
                       where);
    if (df_job_list(job, "train.files.a", &files) + df_job_list(job, "train.files.b", &files) > 0)
        return df_fail(DF_USAGE, "%s: train.from_models reads no files, train.files names some",
                       where);
    return DF_OK;
}

/* Collective. */
static df_status open_live(const df_run *run, df_data *d) {
    df_columns wanted = {0};
    df_status status = check_live(run);
    if (status == DF_OK) status = df_job_all_columns(run, &wanted);
    status = df_agree(run->world, status);
    for (size_t i = 0; i < df_models(run) && status == DF_OK; i++) {
        bool is = false;
        for (size_t c = 0; c < wanted.n; c++) is = is || wanted.model[c] == i;
        uint64_t need = 0;
        if (is) status = df_live_open(run, i, &wanted, &d->live[i], &need);
        d->need += need;
    }
    df_columns_free(&wanted);
    return status;
}

df_status df_data_open(const df_run *run, bool evaluation, df_data *out) {
    *out = (df_data){0};
    df_status status = DF_OK;
    bool live = !evaluation && df_job_is_live(run);
    if (live) status = open_live(run, out);
    if (status == DF_OK) status = df_agree(run->world, open_mine(run, evaluation, out));
    bool drop = strcmp(df_job_text(run->job, "train.bad_rows"), "drop") == 0;
    if (status == DF_OK && drop && !live && !df_job_is_synthetic(run)) {
        df_timer_start("look for bad rows");
        status = df_rows_drop_bad(run->world, out->rows, &out->dropped);
        df_timer_stop("look for bad rows");
        if (status == DF_OK && out->dropped > 0)
            df_warn("%llu of %llu rows hold NaN or infinity and are left out, as asked",
                    (unsigned long long)out->dropped,
                    (unsigned long long)(out->dropped + df_rows_count(out->rows)));
    }
    if (status != DF_OK) df_data_close(out);
    return status;
}

void df_data_close(df_data *data) {
    df_rows_close(&data->rows);
    for (size_t i = 0; i < data->n_opened; i++) df_acts_close(&data->opened[i]);
    for (size_t i = 0; i < 2; i++) df_acts_close(&data->live[i]);
    df_free(data->opened);
    df_free(data->acts);
    df_free(data->index);
    df_free(data->hashes);
    *data = (df_data){0};
}

static bool is_missing(const df_run *run) {
    size_t n = df_job_is_synthetic(run) ? 0 : df_models(run);
    const char *one = df_job_text(run->job, "train.model");
    bool missing = false;
    for (size_t i = 0; i < n; i++)
        for (size_t f = 0; f < df_acts_files(run, i); f++) {
            if (one != NULL && *one != '\0' && strcmp(one, df_model_name(run, i)) != 0) continue;
            char *path = df_path_part(run, i, f);
            missing = missing || (path != NULL && !df_file_exists(path));
            df_free(path);
        }
    return missing;
}

bool df_inputs_are_missing(const df_run *run) {
    uint8_t missing = 0;
    for (size_t d = 0; d < df_run_dictionaries(run) && df_comm_rank(run->world) == 0; d++) {
        df_run one = df_run_of(run, d);
        missing |= is_missing(&one);
    }
    df_broadcast(run->world, 0, &missing, sizeof missing);
    return missing != 0;
}
