/* darkfield stats: one pass over the corpus, everything worth keeping of each latent. */
#include "jobs.h"

#include "darkfield/stats.h"

#include <string.h>

static const df_option options[] = {
    {.key = "stats.examples",
     .type = DF_OPT_INT,
     .fallback = "8",
     .unit = "windows",
     .min = 0,
     .max = 1000,
     .help = "top activating windows kept for each latent"},
    {.key = "stats.window",
     .type = DF_OPT_INT,
     .fallback = "32",
     .unit = "tokens",
     .min = 1,
     .max = 4096,
     .help = "tokens shown around the peak of an example"},
    {.key = "stats.promoted",
     .type = DF_OPT_INT,
     .fallback = "8",
     .unit = "tokens",
     .min = 0,
     .max = 1000,
     .help = "tokens that the decoder direction promotes, for each latent and model"},
    {.key = "stats.batch",
     .type = DF_OPT_INT,
     .fallback = "4096",
     .unit = "rows",
     .min = 1,
     .max = 1e6,
     .help = "rows encoded at a time; at least one context window"},
    {.key = "stats.skip_first",
     .type = DF_OPT_BOOL,
     .fallback = "true",
     .help = "leave out BOS rows and the first position of each window"},
};

/* What a run of this stage has open. */
typedef struct sources {
    df_inputs acts;
    df_dict *dict;
    df_corpus *corpus;
    df_tokenizer *tokenizer;
    df_model *model[2]; /* of the job, those that the dictionary names */
    const df_model *of_site[DF_MAX_SITES];
} sources;

static void sources_close(sources *s) {
    df_inputs_close(&s->acts);
    df_dict_free(&s->dict);
    df_corpus_close(&s->corpus);
    df_tokenizer_close(s->tokenizer);
    for (size_t i = 0; i < 2; i++) df_model_close(&s->model[i]);
}

static df_status open_corpus(const df_run *run, sources *s) {
    if (df_job_text(run->job, "text.labels") == NULL) return DF_OK;
    DF_TRY(df_job_corpus(run, &s->corpus));
    return df_inputs_came_from(s->acts.acts[0], "corpus", df_job_text(run->job, "text.file"),
                               df_corpus_hash(s->corpus));
}

static df_status open_tokenizer(const df_acts *acts, const char *model, sources *s) {
    DF_TRY(df_tokenizer_open_folder(model, &s->tokenizer));
    return df_inputs_came_from(acts, "tokenizer", model, df_tokenizer_hash(s->tokenizer));
}

/* Which model of the job a site of the dictionary is of. */
static size_t model_of(const df_run *run, const sources *s, size_t site) {
    return strcmp(s->dict->site[site].model, df_model_name(run, 0)) == 0 ? 0 : 1;
}

/* What tokens a latent promotes is read from the model: it must be the one that was harvested. */
static df_status open_models(const df_run *run, sources *s) {
    for (size_t i = 0; i < s->dict->sites; i++) {
        const df_acts *acts = s->acts.acts[i];
        size_t which = model_of(run, s, i);
        const char *path = df_model_path(run, which);
        bool known = s->model[which] != NULL;
        uint64_t hash = 0;
        if (!known) DF_TRY(df_model_open(path, &s->model[which]));
        s->of_site[i] = s->model[which];
        if (!known && df_comm_rank(run->world) == 0) { // reading a large model once is enough
            DF_TRY(df_model_hash(path, &hash));
            DF_TRY(df_inputs_came_from(acts, "model", path, hash));
        }
        if (i == 0) DF_TRY(open_tokenizer(acts, path, s));
    }
    return DF_OK;
}

static df_status open_mine(const df_run *run, sources *s) {
    DF_TRY(df_inputs_match(&s->acts, s->dict));
    DF_TRY(open_corpus(run, s));
    return open_models(run, s);
}

static df_stats_input input_of(const sources *s) {
    return (df_stats_input){.acts = s->acts.acts,
                            .site = s->acts.site,
                            .n = s->dict->sites,
                            .corpus = s->corpus,
                            .tokenizer = s->tokenizer};
}

static df_stats_options read_options(const df_run *run, const char *output, const char *job) {
    return (df_stats_options){.examples = (size_t)df_job_int(run->job, "stats.examples"),
                              .window = (size_t)df_job_int(run->job, "stats.window"),
                              .promoted = (size_t)df_job_int(run->job, "stats.promoted"),
                              .batch = (size_t)df_job_int(run->job, "stats.batch"),
                              .skip_first = df_job_bool(run->job, "stats.skip_first"),
                              .output = output,
                              .resolved_job = job,
                              .facts = run->provenance};
}

static df_status run_pass(df_run *run, sources *s, const char *output, const char *job) {
    df_stats_input input = input_of(s);
    df_stats_options o = read_options(run, output, job);
    input.models = s->of_site;
    DF_TRY(df_stats_run(run->world, run->kernels, s->dict, &input, &o));
    df_info("stats: wrote %s", output);
    return DF_OK;
}

static df_status run_with(df_run *run, const char *dict_path, const char *output) {
    sources s = {0};
    char *job = NULL;
    uint64_t hash = 0;
    df_status status;
    DF_GO(df_input_digest(run, dict_path, &hash));
    DF_GO(df_inputs_open(run, &s.acts));
    DF_GO(df_inputs_trained_on(run, dict_path, s.acts.file, s.acts.n));
    job = df_resolved_with(run, "stats", hash, &s.acts);
    DF_GO(df_agree(run->world, job != NULL ? DF_OK : DF_FAILED));
    if (df_stage_is_current(run, output, "darkfield-statistics", job)) goto done;
    DF_GO(df_dict_load(run->world, dict_path, &s.dict));
    DF_GO(df_agree(run->world, open_mine(run, &s)));
    DF_GO(run_pass(run, &s, output, job));
done:
    sources_close(&s);
    df_free(job);
    return status;
}

/* The models are only looked at; their weights will take 4 bytes a parameter. */
static df_status plan_pass(const df_run *run, sources *s, const df_dict_plan *plan,
                           const char *output, df_need *need) {
    const df_model_shape *of_site[DF_MAX_SITES];
    df_model_shape shape[2];
    bool known[2] = {false, false};
    uint64_t weights = 0;
    DF_TRY(df_inputs_match(&s->acts, s->dict));
    DF_TRY(open_corpus(run, s));
    DF_TRY(open_tokenizer(s->acts.acts[0], df_model_path(run, model_of(run, s, 0)), s));
    for (size_t i = 0; i < s->dict->sites; i++) {
        size_t which = model_of(run, s, i);
        of_site[i] = &shape[which];
        if (known[which]) continue;
        DF_TRY(df_model_plan(df_model_path(run, which), &shape[which]));
        weights += shape[which].parameters * sizeof(float);
        known[which] = true;
    }
    df_stats_input input = input_of(s);
    df_stats_options o = read_options(run, output, "");
    DF_TRY(df_stats_plan(plan, &input, of_site, &o, need));
    need->memory += weights;
    return DF_OK;
}

static df_status print_plan(df_run *run, const char *dict_path, const char *output) {
    sources s = {0};
    df_dict_plan plan;
    df_need need;
    df_status status;
    if (df_plan_is_early(run, "stats", dict_path, NULL)) return DF_OK;
    DF_GO(df_inputs_open(run, &s.acts));
    DF_GO(df_inputs_trained_on(run, dict_path, s.acts.file, s.acts.n));
    DF_GO(df_plan_dict(run, dict_path, &plan, &s.dict));
    DF_GO(df_agree(run->world, plan_pass(run, &s, &plan, output, &need)));
    df_info("stats: %lld examples of %lld tokens for each of %zu latents",
            (long long)df_job_int(run->job, "stats.examples"),
            (long long)df_job_int(run->job, "stats.window"), s.dict->latents);
    df_print_plan(output, need);
done:
    sources_close(&s);
    return status;
}

static df_status run_stats(df_run *run) {
    return df_run_study(run, df_path_result(run, "stats"), print_plan, run_with);
}

const df_stage df_stage_stats = {
    .name = "stats",
    .help = "frequency, histogram, top examples and promoted tokens of every latent",
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .run = run_stats,
    .of_one = true,
};
