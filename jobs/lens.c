/* darkfield lens: what the layers and heads of each model say on their own. */
#include "lens.h"

#include <omp.h>
#include <string.h>

#define FORMAT "darkfield-lens"
enum { MOST_MODELS = 2 };

static const df_option options[] = {
    {.key = "lens.windows",
     .type = DF_OPT_INT,
     .fallback = "32",
     .unit = "windows",
     .min = 0,
     .max = 1e9,
     .help = "windows of held-out text for logit lens and attribution; 0: all"},
    {.key = "lens.context",
     .type = DF_OPT_INT,
     .fallback = "256",
     .unit = "tokens",
     .min = 2,
     .max = 1048576,
     .help = "length of a window; packing and BOS are those of harvest"},
    {.key = "lens.sequences",
     .type = DF_OPT_INT,
     .fallback = "32",
     .unit = "sequences",
     .min = 1,
     .max = 1e6,
     .help = "random sequences, written twice, for the scores of heads"},
    {.key = "lens.period",
     .type = DF_OPT_INT,
     .fallback = "50",
     .unit = "tokens",
     .min = 2,
     .max = 65536,
     .help = "different tokens of such a sequence"},
    {.key = "lens.against",
     .type = DF_OPT_TEXT,
     .optional = true,
     .help = "a token, as the tokenizer spells it: its logit is taken off the correct one's; the "
             "mean over the vocabulary when not given"},
};

/* All that a run reads. */
typedef struct sources {
    lens_source of[MOST_MODELS];
    size_t n;
    packing how;
    char *output, *job; // job: what the output is compared by
} sources;

static void close_sources(sources *s) {
    for (size_t m = 0; m < MOST_MODELS; m++) {
        df_model_close(&s->of[m].model);
        df_lens_text_free(&s->of[m].input.text);
        df_free(s->of[m].random);
    }
    df_free(s->output);
    df_free(s->job);
}

/* ---- the inputs ----------------------------------------------------------------------------- */

static df_status list_models(const df_run *run, sources *s) {
    DF_TRY(df_different_models(run, &s->n));
    for (size_t m = 0; m < s->n; m++) {
        s->of[m].name = df_model_name(run, m);
        s->of[m].path = df_model_path(run, m);
        DF_TRY(df_model_plan(s->of[m].path, &s->of[m].shape));
        DF_TRY(df_packing_check(run, "lens.context", s->of[m].name, &s->of[m].shape));
    }
    return DF_OK;
}

// The token that is taken off, -1: the mean.
static df_status choose_against(const df_run *run, const df_tokenizer *tokenizer,
                                const lens_source *of, int64_t *out) {
    const char *token = df_job_text(run->job, "lens.against");
    *out = token != NULL ? df_tokenizer_find(tokenizer, token) : -1;
    if (token == NULL || *out >= 0) return DF_OK;
    return df_fail(DF_USAGE, "%s: the tokenizer of model %s has no token \"%s\"",
                   df_job_where(run->job, "lens.against"), of->name, token);
}

static df_status read_input(const df_run *run, const sources *s, const df_corpus *corpus,
                            const df_tokenizer *tokenizer, lens_source *of) {
    const df_job *job = run->job;
    df_lens_input *in = &of->input;
    *in = (df_lens_input){.name = of->name,
                          .sequences = (size_t)df_job_int(job, "lens.sequences"),
                          .period = (size_t)df_job_int(job, "lens.period"),
                          .seed = s->how.seed};
    uint64_t most = (uint64_t)df_job_int(job, "lens.windows");
    DF_TRY(choose_against(run, tokenizer, of, &in->against));
    DF_TRY(df_choose_bos(tokenizer, s->how.bos, &in->bos));
    DF_TRY(df_lens_text_read(corpus, tokenizer, &s->how, most, &in->text));
    DF_TRY(df_lens_tokens(tokenizer, of->shape.vocabulary, &of->random, &in->n_random));
    in->random = of->random;
    return DF_OK;
}

// Appends "# inputs: ..." of one model to the job's text.
static df_status note_inputs(sources *s, const lens_source *of, uint64_t corpus) {
    char *longer = df_format("%s# inputs: model %s %016llx, text %016llx, tokenizer %016llx\n",
                             s->job, of->name, (unsigned long long)of->hash[0],
                             (unsigned long long)corpus, (unsigned long long)of->hash[1]);
    df_free(s->job);
    s->job = longer;
    return longer != NULL ? DF_OK : DF_FAILED;
}

// Hashes are rank 0's: reading a large model once is enough.
static df_status describe(const df_run *run, sources *s, const df_corpus *corpus,
                          df_tokenizer *const *tokenizer) {
    char *resolved = df_job_resolved(run->job, "seed models text lens", false);
    df_status status = DF_OK;
    for (size_t m = 0; m < s->n; m++) {
        s->of[m].hash[1] = df_tokenizer_hash(tokenizer[m]);
        if (status == DF_OK && df_comm_rank(run->world) == 0)
            status = df_model_hash(s->of[m].path, &s->of[m].hash[0]);
    }
    if (resolved != NULL)
        s->job = df_format("%s# packing %s, bos %s\n", resolved,
                           s->how.by_document ? "document" : "stream", s->how.bos);
    df_free(resolved);
    if (status == DF_OK && s->job == NULL) status = DF_FAILED;
    DF_TRY(df_agree(run->world, status));
    for (size_t m = 0; m < s->n; m++)
        df_broadcast(run->world, 0, s->of[m].hash, sizeof s->of[m].hash);
    for (size_t m = 0; m < s->n && status == DF_OK; m++)
        status = note_inputs(s, &s->of[m], df_corpus_hash(corpus));
    return df_agree(run->world, status);
}

// Text and tokens; corpus and tokenizers are closed again before a model is opened.
static df_status prepare(const df_run *run, sources *s, bool *current) {
    df_corpus *corpus = NULL;
    df_tokenizer *tokenizer[MOST_MODELS] = {NULL};
    df_status status = list_models(run, s);
    for (size_t m = 0; m < s->n && status == DF_OK; m++)
        status = df_model_tokenizer(s->of[m].path, &s->of[m].shape, &tokenizer[m]);
    if (status == DF_OK) status = df_job_corpus(run, &corpus);
    DF_GO(df_agree(run->world, status));
    DF_GO(describe(run, s, corpus, tokenizer));
    *current = !run->dry_run && df_stage_is_current(run, s->output, FORMAT, s->job);
    for (size_t m = 0; m < s->n && status == DF_OK && !*current; m++)
        status = read_input(run, s, corpus, tokenizer[m], &s->of[m]);
    status = df_agree(run->world, status);
done:
    df_corpus_close(&corpus);
    for (size_t m = 0; m < MOST_MODELS; m++) df_tokenizer_close(tokenizer[m]);
    return status;
}

/* ---- what was found ------------------------------------------------------------------------- */

static void print_best(const df_lens *lens, const char *what, const df_estimate *of) {
    size_t heads = lens->shape.layers * lens->shape.heads, best = 0;
    for (size_t i = 1; i < heads; i++)
        if (of[i].value > of[best].value) best = i;
    df_info("    %-22s L%zuH%zu %.3f", what, best / lens->shape.heads, best % lens->shape.heads,
            of[best].value);
}

static void print_lens(const df_lens *lens) {
    size_t layers = lens->shape.layers, heads = layers * lens->shape.heads;
    const df_estimate *nll = lens->point + DF_LENS_NLL * (layers + 1);
    df_info("  %s: %llu tokens of %llu windows; read out before layer 0 the loss is %.4f, before "
            "the last %.4f, at the end %.4f",
            lens->name, (unsigned long long)lens->scored, (unsigned long long)lens->windows,
            nll[0].value, nll[layers - 1].value, nll[layers].value);
    print_best(lens, "previous token", lens->detector + DF_LENS_PREVIOUS * heads);
    print_best(lens, "duplicate token", lens->detector + DF_LENS_DUPLICATE * heads);
    print_best(lens, "induction", lens->detector + DF_LENS_INDUCTION * heads);
    print_best(lens, "attributed logits", lens->head);
    df_info("    attributed: %.4f logits, its parts sum to it within %.2g",
            lens->whole[DF_LENS_LOGIT].value, lens->gap);
}

/* ---- the stage ------------------------------------------------------------------------------ */

static df_status run_model(const df_run *run, lens_source *of, df_lens *out) {
    df_timer_start("read model");
    df_status status = df_agree(run->world, df_model_open(of->path, &of->model));
    df_timer_stop("read model");
    of->input.model = of->model;
    if (status == DF_OK) status = df_lens_run(run->world, &of->input, out);
    df_model_close(&of->model);
    if (status != DF_OK) df_context("looking at model %s", of->name);
    if (status == DF_OK) print_lens(out);
    return status;
}

static df_status run_models(df_run *run, sources *s) {
    const df_lens_options o = {s->output, s->job, run->provenance};
    df_lens lens[MOST_MODELS] = {{0}};
    df_status status = DF_OK;
    for (size_t m = 0; m < s->n && status == DF_OK; m++)
        status = run_model(run, &s->of[m], &lens[m]);
    if (status == DF_OK) status = df_lens_write(run->world, lens, s->n, &o);
    if (status == DF_OK) df_info("lens: wrote %s", s->output);
    for (size_t m = 0; m < MOST_MODELS; m++) df_lens_free(&lens[m]);
    return status;
}

static df_status print_plan(const df_run *run, const sources *s) {
    df_lens_input inputs[MOST_MODELS];
    df_model_shape shapes[MOST_MODELS];
    df_need need;
    for (size_t m = 0; m < s->n; m++) {
        inputs[m] = s->of[m].input;
        shapes[m] = s->of[m].shape;
        df_info("  model %s: %llu windows of %zu tokens, %zu sequences", s->of[m].name,
                (unsigned long long)inputs[m].text.windows, s->how.context, inputs[m].sequences);
    }
    DF_TRY(df_agree(run->world, df_lens_plan(inputs, shapes, s->n, df_comm_size(run->world),
                                             (size_t)omp_get_max_threads(), &need)));
    uint64_t tokenising = df_memory_peak() - df_memory_now(); // was seen while inputs were read
    if (tokenising > need.memory) need.memory = tokenising;
    df_print_plan(s->output, need);
    return DF_OK;
}

static df_status run_lens(df_run *run) {
    sources s = {.how = df_packing_read(run, "lens.context")};
    bool current = false;
    df_status status = df_job_require(run->job, "models");
    if (status == DF_OK) status = df_job_require(run->job, "text");
    DF_TRY(df_agree(run->world, status));
    s.output = df_path_result(run, "lens");
    DF_GO(df_agree(run->world, s.output != NULL ? DF_OK : DF_FAILED));
    DF_GO(prepare(run, &s, &current));
    if (current) goto done;
    status = run->dry_run ? print_plan(run, &s) : run_models(run, &s);
done:
    close_sources(&s);
    return status;
}

const df_stage df_stage_lens = {
    .name = "lens",
    .help = "logit lens, logit attribution, head scores and weights of heads, per model",
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .run = run_lens,
    .siteless = true,
    .on_request = true,
};
