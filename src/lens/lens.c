/* A model's results: their memory, and what fills them. */
#include "parts.h"

/* ---- memory --------------------------------------------------------------------------------- */

static size_t estimates_of(const df_model_shape *s) {
    return DF_LENS_QUANTITIES * (s->layers + 1) + DF_LENS_WHOLES + 2 * s->layers +
           (2 + DF_LENS_DETECTORS) * s->layers * s->heads;
}

static size_t composition_of(const df_model_shape *s) {
    return df_lens_pairs(s) * s->heads * DF_LENS_COMPOSITIONS;
}

static df_lens outline(const df_lens_input *input, const df_model_shape *shape) {
    return (df_lens){.name = input->name,
                     .shape = *shape,
                     .windows = input->text.windows,
                     .sequences = input->sequences,
                     .period = input->period,
                     .against = input->against};
}

static df_status open_results(df_comm *comm, const df_lens_input *input, df_lens *out) {
    const df_model_shape *s = df_model_facts(input->model);
    size_t heads = s->layers * s->heads;
    *out = outline(input, s);
    DF_TRY(DF_NEW(out->numbers, estimates_of(s)));
    out->point = out->numbers;
    out->whole = out->point + DF_LENS_QUANTITIES * (s->layers + 1);
    out->mlp = out->whole + DF_LENS_WHOLES;
    out->bias = out->mlp + s->layers;
    out->head = out->bias + s->layers;
    out->previous = out->head + heads;
    out->detector = out->previous + heads;
    DF_TRY(DF_NEW(out->weight, DF_LENS_WEIGHTS * heads));
    if (df_comm_rank(comm) != 0) return DF_OK;
    return DF_NEW(out->composition, composition_of(s));
}

void df_lens_free(df_lens *lens) {
    df_free(lens->numbers);
    df_free(lens->weight);
    df_free(lens->composition);
    *lens = (df_lens){0};
}

/* ---- the run -------------------------------------------------------------------------------- */

// What would else be found in the middle of a run.
static df_status check_input(const df_lens_input *input) {
    size_t longest = df_model_facts(input->model)->positions;
    size_t sequence = (input->bos >= 0) + 2 * input->period;
    if (longest > 0 && sequence > longest)
        return df_fail(DF_USAGE,
                       "sequences of %zu tokens (twice %zu, and BOS where there is one): the model "
                       "has positions for %zu",
                       sequence, input->period, longest);
    if (input->n_random < input->period)
        return df_fail(DF_USAGE, "sequences repeat %zu different tokens: there are %zu",
                       input->period, input->n_random);
    for (uint64_t r = 0; r < input->text.window[input->text.windows]; r++)
        if (input->text.scored[r]) return DF_OK;
    return df_fail(DF_BAD_INPUT, "the held-out text has no token to predict");
}

static df_status read_weights(df_comm *comm, const df_model *model, df_lens *out) {
    lens_grams grams;
    df_status status = df_lens_grams(comm, model, &grams);
    if (status == DF_OK) status = df_lens_heads(comm, model, &grams, out);
    if (status == DF_OK) status = df_lens_compositions(comm, model, &grams, out);
    df_free(grams.all);
    return status;
}

df_status df_lens_run(df_comm *comm, const df_lens_input *input, df_lens *out) {
    df_status status = open_results(comm, input, out);
    if (status == DF_OK) status = check_input(input);
    DF_TRY(df_agree(comm, status));
    df_timer_start("weights of heads");
    status = read_weights(comm, input->model, out);
    df_timer_stop("weights of heads");
    DF_TRY(status);
    df_timer_start("sequences");
    status = df_lens_detect(comm, input, out);
    df_timer_stop("sequences");
    DF_TRY(status);
    df_timer_start("text");
    status = df_lens_read(comm, input, out);
    df_timer_stop("text");
    return status;
}

/* ---- the plan ------------------------------------------------------------------------------- */

static uint64_t kept_bytes(const df_model_shape *s) {
    return estimates_of(s) * sizeof(df_estimate) +
           (DF_LENS_WEIGHTS * s->layers * s->heads + composition_of(s)) * sizeof(double);
}

// While one model runs, beside it and what is kept.
static df_status running_bytes(const df_lens_input *input, const df_model_shape *s, int size,
                               size_t threads, uint64_t *out) {
    uint64_t grams = df_lens_grams_doubles(s), text;
    const uint64_t doubles[] = {df_lens_grams_work(s, size, threads),
                                df_lens_heads_work(s, size, threads),
                                df_lens_compositions_work(s, size, threads)};
    DF_TRY(df_lens_read_bytes(input, s, size, threads, &text));
    *out = df_lens_detect_bytes(input, s, size, threads);
    if (text > *out) *out = text;
    for (size_t i = 0; i < sizeof doubles / sizeof *doubles; i++)
        if ((grams + doubles[i]) * sizeof(double) > *out)
            *out = (grams + doubles[i]) * sizeof(double);
    return DF_OK;
}

df_status df_lens_plan(const df_lens_input *inputs, const df_model_shape *shapes, size_t models,
                       int size, size_t threads, df_need *out) {
    df_lens *lens = NULL;
    uint64_t kept = 0, most = 0, running;
    df_status status;
    *out = (df_need){0};
    DF_GO(DF_NEW(lens, models));
    for (size_t m = 0; m < models; m++) {
        lens[m] = outline(&inputs[m], &shapes[m]);
        DF_GO(running_bytes(&inputs[m], &shapes[m], size, threads, &running));
        kept += kept_bytes(&shapes[m]);
        running += kept + shapes[m].parameters * sizeof(float);
        if (running > most) most = running;
    }
    DF_GO(df_lens_file_need(lens, models, out));
    if (kept + out->memory > most) most = kept + out->memory;
    out->memory = most;
done:
    df_free(lens);
    return status;
}
