/* darkfield generate: a model continues a prompt, perhaps with latents of a dictionary set to other
 * values. Before every step each model that the dictionary reads runs undisturbed; from its rows
 * the change at the dictionary's sites follows, and the continued model runs with it. */
#include "generate.h"

#include "darkfield/hooks.h"
#include "darkfield/splice.h"
#include "darkfield/tokenizer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_CLAMPS = 16, MOST_READERS = 8 };

static const struct {
    const char *name, *what;
} flags[] = {
    {"tokens", "tokens to add, at most (32); a special token ends the text"},
    {"temperature", "0 (default): always the likeliest token; else sample from logits / T"},
    {"seed", "of the samples (1)"},
    {"dict", "NAME.dict.h5, whose latents may be set"},
    {"latent", "J=V: activation of latent J becomes V, 0 ablates it; may be repeated"},
    {"splice", "yes: the reconstruction takes the place of the rows, without its error (no)"},
    {"from", "the first position that is changed (1: BOS stays as it is)"},
    {"name", "the model's name in the dictionary, where that reads several"},
    {"reader", "NAME=FOLDER: another model that the dictionary reads; may be repeated"},
    {"cache", "no: run the whole text for every token (yes)"},
};
enum { FLAGS = sizeof flags / sizeof flags[0] };

bool df_generate_takes(const char *flag) {
    for (size_t i = 0; i < FLAGS; i++)
        if (strncmp(flag, "--", 2) == 0 && strcmp(flag + 2, flags[i].name) == 0) return true;
    return false;
}

void df_generate_help(void) {
    printf(
        "darkfield generate MODEL PROMPT: a Hugging Face folder continues a text\n\n"
        "  darkfield generate path/to/model \"The capital of\"\n"
        "  darkfield generate path/to/model \"The capital of\" --dict sae.dict.h5 --latent 17=8\n"
        "\nOptions:\n");
    for (size_t i = 0; i < FLAGS; i++) printf("  --%-14s %s\n", flags[i].name, flags[i].what);
    printf("\nWith --latent, (V - f) times the latent's decoder row is added to the rows of the "
           "dictionary's sites, f being\nits activation there; everything else, the dictionary's "
           "error too, stays.\n");
}

/* ---- the command line ----------------------------------------------------------------------- */

typedef struct request {
    const df_generate *what;
    int64_t tokens, seed, from;
    double temperature;
    bool replaces, keeps; // the rows by their reconstruction; keys and values
    df_clamp clamp[MOST_CLAMPS];
    size_t clamps;
} request;

static const char *setting(const df_generate *what, const char *name) {
    for (size_t i = 0; i < what->n_settings; i++)
        if (strcmp(what->settings[i].name, name) == 0) return what->settings[i].value;
    return NULL;
}

static df_status number(const df_generate *what, const char *name, double fallback, double *out) {
    const char *text = setting(what, name);
    char *end = NULL;
    *out = text == NULL ? fallback : strtod(text, &end);
    if (text == NULL || (end != text && *end == '\0' && *out >= 0 && *out <= 1e15)) return DF_OK;
    return df_fail(DF_USAGE, "--%s %s: expected a number that is not negative", name, text);
}

static df_status whole(const df_generate *what, const char *name, int64_t fallback, int64_t *out) {
    double value;
    DF_TRY(number(what, name, (double)fallback, &value));
    *out = (int64_t)value;
    if ((double)*out == value) return DF_OK;
    return df_fail(DF_USAGE, "--%s %s: expected a whole number", name, setting(what, name));
}

static df_status choice(const df_generate *what, const char *name, bool fallback, bool *out) {
    const char *text = setting(what, name);
    *out = text == NULL ? fallback : strcmp(text, "yes") == 0;
    if (text == NULL || *out || strcmp(text, "no") == 0) return DF_OK;
    return df_fail(DF_USAGE, "--%s %s: expected yes or no", name, text);
}

static df_status read_clamps(request *r) {
    for (size_t i = 0; i < r->what->n_settings; i++) {
        const char *text = r->what->settings[i].value;
        char *end = NULL, *last = NULL;
        if (strcmp(r->what->settings[i].name, "latent") != 0) continue;
        if (r->clamps == MOST_CLAMPS)
            return df_fail(DF_USAGE, "more than %d latents are set", MOST_CLAMPS);
        df_clamp *c = &r->clamp[r->clamps++];
        c->latent = strtoull(text, &end, 10);
        c->value = *end == '=' ? strtof(end + 1, &last) : 0.0f;
        if (text[0] < '0' || text[0] > '9' || *end != '=' || last == end + 1 || *last != '\0' ||
            !isfinite(c->value))
            return df_fail(DF_USAGE, "--latent %s: expected a latent and its value, as 17=8", text);
    }
    return DF_OK;
}

static df_status read_request(const df_generate *what, request *out) {
    *out = (request){.what = what};
    if (what->n_operands != 2)
        return df_fail(DF_USAGE,
                       "darkfield generate needs a model folder and a prompt, found %zu "
                       "operands (see darkfield help generate)",
                       what->n_operands);
    DF_TRY(whole(what, "tokens", 32, &out->tokens));
    DF_TRY(whole(what, "seed", 1, &out->seed));
    DF_TRY(whole(what, "from", 1, &out->from));
    DF_TRY(number(what, "temperature", 0.0, &out->temperature));
    DF_TRY(choice(what, "splice", false, &out->replaces));
    DF_TRY(choice(what, "cache", true, &out->keeps));
    DF_TRY(read_clamps(out));
    if (setting(what, "dict") == NULL && (out->clamps > 0 || out->replaces))
        return df_fail(DF_USAGE, "--latent and --splice need --dict");
    return DF_OK;
}

/* ---- the models ----------------------------------------------------------------------------- */

// A model that the dictionary reads, undisturbed.
typedef struct reader {
    const char *name;
    const df_model *model;
    df_model *own; // NULL: it is the continued one
    df_forward *forward;
    float *out[DF_MAX_SITES]; // [context, width] of its sites, in the row's order
} reader;

typedef struct writer {
    request ask;
    df_comm *world;
    df_kernels *kernels;
    df_tokenizer *tokenizer;
    df_model *model;
    df_forward *forward;          // with interventions
    float *logits;                // [context, vocabulary]; of a step: its first row
    uint32_t *id;                 // [context] of the text
    size_t count;                 // of its tokens
    size_t prompt, context, done; // done: tokens that were run
    df_dict *dict;
    df_splice *splice;
    reader reader[MOST_READERS];
    size_t readers, self; // self: the reader that is the continued model
    size_t of_site[DF_MAX_SITES];
    float *x, *change, *x_hat; // [context, width], [context, out]
    float *values;             // what each intervention takes, site beside site
    df_intervention edit[DF_MAX_SITES];
} writer;

static df_status add_reader(writer *w, const char *name, df_model *own) {
    if (w->readers == MOST_READERS)
        return df_fail(DF_USAGE, "a dictionary of more than %d models", MOST_READERS);
    w->reader[w->readers++] =
        (reader){.name = name, .model = own != NULL ? own : w->model, .own = own};
    return DF_OK;
}

// NAME=FOLDER of an option --reader, for this name.
static const char *folder_of(const df_generate *what, const char *name) {
    size_t length = strlen(name);
    for (size_t i = 0; i < what->n_settings; i++) {
        const char *value = what->settings[i].value;
        if (strcmp(what->settings[i].name, "reader") == 0 && strncmp(value, name, length) == 0 &&
            value[length] == '=')
            return value + length + 1;
    }
    return NULL;
}

// The reader of a site's model; opened when it is met first.
static df_status find_reader(writer *w, size_t site) {
    const char *name = w->dict->site[site].model, *own = setting(w->ask.what, "name");
    const char *folder = folder_of(w->ask.what, name);
    df_model *model = NULL;
    for (size_t i = 0; i < w->readers; i++)
        if (strcmp(w->reader[i].name, name) == 0) {
            w->of_site[site] = i;
            return DF_OK;
        }
    bool self = folder == NULL && (own == NULL || strcmp(own, name) == 0);
    if (!self && folder == NULL)
        return df_fail(DF_USAGE,
                       "the dictionary reads model %s: name its folder, --reader "
                       "%s=FOLDER",
                       name, name);
    if (self && w->self < MOST_READERS)
        return df_fail(DF_USAGE,
                       "the dictionary reads models %s and %s: which is this one (--name), and "
                       "where is the other (--reader NAME=FOLDER)?",
                       w->reader[w->self].name, name);
    if (!self) DF_TRY(df_model_open(folder, &model));
    if (self) w->self = w->readers;
    w->of_site[site] = w->readers;
    return add_reader(w, name, model);
}

static df_status keep(const writer *w, df_forward *f) {
    if (!w->ask.keeps) return DF_OK;
    DF_TRY_AS(df_forward_keep(f), "keeping keys and values (--cache no runs without them)");
    return DF_OK;
}

static df_status open_reader(writer *w, size_t r) {
    const char *site[DF_MAX_SITES];
    size_t n = 0;
    for (size_t s = 0; s < w->dict->sites; s++) {
        if (w->of_site[s] != r) continue;
        const df_dict_site *d = &w->dict->site[s];
        size_t width;
        DF_TRY(
            df_model_site_width(df_model_facts(w->reader[r].model), d->name, w->context, &width));
        if (width != d->width)
            return df_fail(DF_BAD_INPUT, "%s of model %s is %zu wide, the dictionary's %zu",
                           d->name, d->model, width, (size_t)d->width);
        DF_TRY(DF_NEW(w->reader[r].out[n], w->context * width));
        site[n++] = d->name;
    }
    DF_TRY(df_forward_open(w->reader[r].model, w->context, site, n, &w->reader[r].forward));
    return keep(w, w->reader[r].forward);
}

static df_status open_readers(writer *w) {
    w->self = MOST_READERS;
    for (size_t s = 0; s < w->dict->sites; s++) DF_TRY(find_reader(w, s));
    if (w->self == MOST_READERS)
        return df_fail(DF_USAGE, "the dictionary does not read this model");
    for (size_t r = 0; r < w->readers; r++) DF_TRY(open_reader(w, r));
    DF_TRY(DF_NEW(w->x, w->context * w->dict->width));
    DF_TRY(DF_NEW(w->change, w->context * w->dict->out.count));
    DF_TRY(DF_NEW(w->x_hat, w->context * w->dict->out.count));
    return DF_NEW(w->values, w->context * w->dict->out.count);
}

static df_status open_dict(writer *w) {
    const df_splice_plan plan = {w->ask.clamp, w->ask.clamps, w->context};
    const char *path = setting(w->ask.what, "dict");
    if (path == NULL) return DF_OK;
    DF_TRY(df_dict_load(w->world, path, &w->dict));
    DF_TRY(df_agree(w->world, open_readers(w)));
    return df_splice_open(w->world, w->kernels, w->dict, &plan, &w->splice);
}

static df_status read_prompt(writer *w, const char *prompt) {
    df_tokens tokens = {0};
    df_status status;
    DF_GO(df_tokenizer_encode(w->tokenizer, prompt, strlen(prompt), true, &tokens));
    w->count = w->prompt = tokens.count;
    w->context = w->prompt + (size_t)w->ask.tokens;
    if (w->prompt == 0) DF_GO(df_fail(DF_USAGE, "the prompt has no tokens"));
    DF_GO(DF_NEW(w->id, w->context));
    memcpy(w->id, tokens.id, tokens.count * sizeof *w->id);
done:
    df_tokens_free(&tokens);
    return status;
}

static df_status open_model(writer *w) {
    const char *folder = w->ask.what->operands[0], *prompt = w->ask.what->operands[1];
    DF_TRY(df_model_open(folder, &w->model));
    DF_TRY(df_tokenizer_open_folder(folder, &w->tokenizer));
    DF_TRY(read_prompt(w, prompt));
    DF_TRY(df_forward_open(w->model, w->context, NULL, 0, &w->forward));
    DF_TRY(keep(w, w->forward));
    return DF_NEW(w->logits, w->context * df_model_vocabulary(w->model));
}

static void close_writer(writer *w) {
    df_splice_close(&w->splice);
    df_dict_free(&w->dict);
    for (size_t r = 0; r < w->readers; r++) {
        df_forward_close(&w->reader[r].forward);
        df_model_close(&w->reader[r].own);
        for (size_t i = 0; i < DF_MAX_SITES; i++) df_free(w->reader[r].out[i]);
    }
    df_forward_close(&w->forward);
    df_model_close(&w->model);
    df_tokenizer_close(w->tokenizer);
    void *const arrays[] = {w->id, w->logits, w->x, w->change, w->x_hat, w->values};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) df_free(arrays[i]);
    df_kernels_close(&w->kernels);
}

/* ---- a step --------------------------------------------------------------------------------- */

// Runs the tokens that were not run yet; without kept keys, all of them.
static df_status advance(const writer *w, df_forward *f, float *const *out, float *logits) {
    if (w->done > 0 && w->ask.keeps) return df_forward_next(f, w->id[w->done], out, logits);
    return df_forward_run(f, w->id, w->count, out, logits);
}

// The rows of all sites side by side, from the undisturbed models.
static df_status read_rows(writer *w, size_t n) {
    size_t next[MOST_READERS] = {0};
    for (size_t r = 0; r < w->readers; r++)
        DF_TRY(advance(w, w->reader[r].forward, w->reader[r].out, NULL));
    for (size_t s = 0; s < w->dict->sites; s++) {
        const df_dict_site *site = &w->dict->site[s];
        const float *rows = w->reader[w->of_site[s]].out[next[w->of_site[s]]++];
        for (size_t t = 0; t < n; t++)
            memcpy(w->x + t * w->dict->width + site->first, rows + t * site->width,
                   site->width * sizeof *rows);
    }
    return DF_OK;
}

// Interventions of rows at positions first .. first + n; 0 of them where nothing is changed yet.
static df_status intervene(writer *w, size_t first, size_t n) {
    size_t from = first > (size_t)w->ask.from ? first : (size_t)w->ask.from, edits = 0;
    const float *rows = w->ask.replaces ? w->x_hat : w->change;
    for (size_t s = 0; from < first + n && s < w->dict->sites; s++) {
        const df_dict_site *site = &w->dict->site[s];
        if (!site->output || w->of_site[s] != w->self) continue;
        size_t column = (size_t)site->first - w->dict->out.first;
        float *values = w->values + w->context * column;
        for (size_t t = 0; t < n; t++)
            memcpy(values + t * site->width, rows + t * w->dict->out.count + column,
                   site->width * sizeof *values);
        w->edit[edits++] =
            (df_intervention){.site = site->name,
                              .edit = w->ask.replaces ? DF_EDIT_REPLACE : DF_EDIT_ADD,
                              .from = from,
                              .to = first + n,
                              .values = values + (from - first) * site->width,
                              .per_position = true};
    }
    return df_forward_intervene(w->forward, w->edit, edits);
}

static df_status step(writer *w) {
    size_t first = w->ask.keeps ? w->done : 0, n = w->count - first;
    if (w->dict != NULL) {
        DF_TRY(df_agree(w->world, read_rows(w, n)));
        DF_TRY(df_splice_rows(w->splice, w->x, n, w->change, w->x_hat));
        DF_TRY(df_agree(w->world, intervene(w, first, n)));
    }
    DF_TRY(df_agree(w->world, advance(w, w->forward, NULL, w->logits)));
    w->done = w->count;
    return DF_OK;
}

static size_t likeliest(const float *logits, size_t n) {
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (logits[i] > logits[best]) best = i;
    return best;
}

// The first token whose share of the sum, with those before it, exceeds a uniform number.
static uint32_t choose(const writer *w, const float *logits) {
    size_t n = df_model_vocabulary(w->model), best = likeliest(logits, n);
    double t = w->ask.temperature, sum = 0.0;
    if (t == 0.0) return (uint32_t)best;
    for (size_t i = 0; i < n; i++) sum += exp(((double)logits[i] - (double)logits[best]) / t);
    double left = sum * df_random_uniform((uint64_t)w->ask.seed, DF_STREAM_SAMPLE, w->count);
    for (size_t i = 0; i < n; i++) {
        left -= exp(((double)logits[i] - (double)logits[best]) / t);
        if (left < 0.0) return (uint32_t)i;
    }
    return (uint32_t)best;
}

static df_status write_on(writer *w) {
    for (int64_t i = 0; i < w->ask.tokens; i++) {
        size_t rows = w->ask.keeps && w->done > 0 ? 1 : w->count;
        DF_TRY(step(w));
        uint32_t id = choose(w, w->logits + (rows - 1) * df_model_vocabulary(w->model));
        if (df_tokenizer_is_special(w->tokenizer, id)) return DF_OK;
        w->id[w->count++] = id;
    }
    return DF_OK;
}

static df_status print_text(const writer *w, double seconds) {
    char *text = NULL;
    size_t bytes, added = w->count - w->prompt;
    DF_TRY(df_tokenizer_decode(w->tokenizer, w->id, w->count, true, &text, &bytes));
    df_info("%s", text);
    df_free(text);
    df_info("\n%zu tokens read, %zu added in %.2f s (%.4g tokens/s)", w->prompt, added, seconds,
            seconds > 0 ? (double)added / seconds : 0.0);
    return DF_OK;
}

df_status df_generate_run(df_comm *world, const df_generate *what) {
    writer w = {.world = world};
    df_status status;
    DF_GO(df_agree(world, read_request(what, &w.ask)));
    DF_GO(df_agree(world, df_kernels_open("auto", &w.kernels)));
    DF_GO(df_agree(world, open_model(&w)));
    DF_GO(open_dict(&w));
    double start = df_now();
    DF_GO(write_on(&w));
    status = df_agree(world, print_text(&w, df_now() - start));
done:
    close_writer(&w);
    return status;
}
