/* The forward pass of one window: memory, embedding, the blocks in order, logits. */
#include "forward.h"

#include <math.h>
#include <string.h>

typedef struct piece {
    float **at;
    size_t floats;
} piece;

enum { PIECES = 19 };

/* What not every pass has. */
typedef struct extras {
    bool pattern, head; // weights of all keys are kept; the part unembeds
} extras;

size_t df_forward_rows(size_t context) {
    return (context + DF_FORWARD_ROWS - 1) / DF_FORWARD_ROWS * DF_FORWARD_ROWS;
}

// The working arrays and their sizes, each rounded up to 16 floats so that all start on a cache
// line.
static size_t list_pieces(df_forward *f, const df_model_shape *s, size_t rows, extras with,
                          piece list[static PIECES]) {
    size_t query = s->heads * s->head_width, key = s->kv_heads * s->head_width, total = 0;
    size_t angles = s->learned ? 0 : rows * s->head_width / 2;
    const piece all[PIECES] = {{&f->stream, rows * s->width},
                               {&f->normed, rows * s->width},
                               {&f->change, rows * s->width},
                               {&f->attended, s->parallel ? rows * s->width : 0},
                               {&f->ones, s->width},
                               {&f->q, rows * query},
                               {&f->mixed, rows * query},
                               {&f->k, rows * key},
                               {&f->v, rows * key},
                               {&f->gate, s->gated ? rows * s->mlp_width : 0},
                               {&f->up, rows * s->mlp_width},
                               {&f->scores, df_attention_scratch(rows)},
                               {&f->packed, df_bf16_scratch_bytes(rows) / sizeof(float)},
                               {&f->pattern, with.pattern ? s->heads * rows * rows : 0},
                               {&f->logits, with.head ? DF_FORWARD_ROWS * s->vocabulary : 0},
                               {&f->cosine[0], angles},
                               {&f->sine[0], angles},
                               {&f->cosine[1], angles},
                               {&f->sine[1], angles}};
    for (size_t i = 0; i < PIECES; i++) {
        list[i] = all[i];
        list[i].floats = (all[i].floats + 15) / 16 * 16;
        total += list[i].floats;
    }
    return total;
}

static bool keeps_pattern(const char *const *sites, size_t n) {
    const char *name = ".attn.hook_pattern";
    size_t length = strlen(name);
    for (size_t i = 0; i < n; i++) {
        size_t have = strlen(sites[i]);
        if (have > length && strcmp(sites[i] + have - length, name) == 0) return true;
    }
    return false;
}

uint64_t df_forward_part_bytes(const df_model_shape *shape, df_model_part part, size_t context,
                               const char *const *sites, size_t n_sites) {
    df_forward none = {0};
    piece list[PIECES];
    size_t rows = df_forward_rows(context);
    extras with = {keeps_pattern(sites, n_sites), df_has_head(shape, part)};
    return sizeof none + rows * sizeof *none.ids + n_sites * sizeof *none.place +
           sizeof(float) * list_pieces(&none, shape, rows, with, list);
}

uint64_t df_forward_bytes(const df_model_shape *shape, size_t context, const char *const *sites,
                          size_t n_sites) {
    return df_forward_part_bytes(shape, df_model_whole(shape), context, sites, n_sites);
}

static df_status allocate(df_forward *f, bool pattern) {
    piece list[PIECES];
    const df_model_shape *shape = &f->model->config.shape;
    size_t total =
        list_pieces(f, shape, f->rows, (extras){pattern, df_has_head(shape, f->model->part)}, list);
    DF_TRY(DF_NEW(f->block, total));
    DF_TRY(DF_NEW(f->ids, f->rows));
    float *next = f->block;
    for (size_t i = 0; i < PIECES; i++) {
        *list[i].at = list[i].floats > 0 ? next : NULL;
        next += list[i].floats;
    }
    for (size_t i = 0; i < f->model->config.shape.width; i++) f->ones[i] = 1.0f;
    return DF_OK;
}

// Angles in double: position * frequency is large at the end of a long window.
df_status df_forward_turn(df_forward *f, size_t n) {
    const model_config *config = &f->model->config;
    size_t half = config->rotary / 2;
    double *frequency;
    f->turned_for = n;
    if (half == 0) return DF_OK;
    DF_TRY(DF_NEW(frequency, half));
    for (int local = 0; local < 2; local++) {
        const rope_plan *rope = local ? &config->local_rope : &config->rope;
        df_rope_frequencies(rope, config->rotary, n, frequency);
        for (size_t t = 0; t < f->rows; t++)
            for (size_t i = 0; i < half; i++) {
                double angle = (double)t * frequency[i];
                f->cosine[local][t * half + i] = (float)(cos(angle) * rope->magnitude);
                f->sine[local][t * half + i] = (float)(sin(angle) * rope->magnitude);
            }
    }
    df_free(frequency);
    return DF_OK;
}

// Dynamic scaling goes on past the positions it was trained with.
static size_t longest_context(const model_config *config) {
    if (config->rope.rule != ROPE_DYNAMIC) return config->shape.positions;
    return (size_t)((double)config->shape.positions * config->rope.factor);
}

df_status df_forward_open(const df_model *model, size_t context, const char *const *sites,
                          size_t n_sites, df_forward **out) {
    size_t longest = longest_context(&model->config);
    *out = NULL;
    if (context < 1 || (longest > 0 && context > longest))
        return df_fail(DF_USAGE, "a context of %zu tokens: the model has positions for 1..%zu",
                       context, longest);
    df_forward *f;
    df_status status;
    DF_TRY(DF_NEW(f, 1));
    *f = (df_forward){
        .model = model, .context = context, .rows = df_forward_rows(context), .sites = n_sites};
    DF_GO(DF_NEW(f->place, n_sites));
    for (size_t i = 0; i < n_sites; i++) DF_GO(df_site_find_in(model, sites[i], &f->place[i]));
    DF_GO(allocate(f, keeps_pattern(sites, n_sites)));
    DF_GO(df_forward_turn(f, context));
done:
    if (status != DF_OK) df_forward_close(&f);
    *out = f;
    return status;
}

void df_forward_close(df_forward **forward) {
    df_forward *f = *forward;
    if (f == NULL) return;
    df_forward_forget(f);
    df_free(f->block);
    df_free(f->cache);
    df_free(f->weights);
    df_free(f->tape);
    df_free(f->ids);
    df_free(f->place);
    df_free(f);
    *forward = NULL;
}

/* ---- the pass ------------------------------------------------------------------------------- */

// Embeddings of the positions, added to the stream; learned positions only.
static void add_positions(const df_forward *f, size_t n) {
    const df_model_shape *s = &f->model->config.shape;
    if (!s->learned) return;
    const float *table = df_weight(f->model, ROLE_POSITION, 0) +
                         (f->model->config.family->position_skip + f->past) * s->width;
    memcpy(f->change, table, n * s->width * sizeof *table);
    df_forward_reach(f, SITE_POSITION, 0, f->change);
    df_add_row(f->stream, f->change, n * s->width);
}

static df_status take_ids(df_forward *f, const uint32_t *ids, size_t n) {
    const df_model_shape *s = &f->model->config.shape;
    if (n < 1 || n > f->context)
        return df_fail(DF_FAILED, "a window of %zu tokens in a context of %zu", n, f->context);
    for (size_t t = 0; t < n; t++)
        if (ids[t] >= s->vocabulary)
            return df_fail(DF_BAD_INPUT,
                           "token id %u at position %zu: the model's vocabulary has %zu tokens",
                           ids[t], t, s->vocabulary);
    memcpy(f->ids + f->past, ids, n * sizeof *ids);
    f->tokens = n;
    return DF_OK;
}

static void embed(const df_forward *f, const uint32_t *ids, size_t n) {
    const df_model_shape *s = &f->model->config.shape;
    const float *table = df_weight(f->model, ROLE_EMBED, 0);
    for (size_t t = 0; t < n; t++)
        memcpy(f->stream + t * s->width, table + ids[t] * s->width, s->width * sizeof *table);
    float scale = (float)f->model->config.embed_scale;
    for (size_t i = 0; i < n * s->width; i++) f->stream[i] *= scale;
    memset(f->stream + n * s->width, 0, (f->rows - n) * s->width * sizeof(float));
    df_forward_reach(f, SITE_EMBED, 0, f->stream);
    add_positions(f, n);
}

static size_t rows_at(size_t first, size_t n) {
    return n - first < DF_FORWARD_ROWS ? n - first : DF_FORWARD_ROWS;
}

static size_t unembedded_rows(const df_forward *f) {
    return f->past > 0 ? 1 : DF_FORWARD_ROWS;
}

void df_forward_products(const df_forward *f, size_t first) {
    const df_model_shape *s = &f->model->config.shape;
    df_weight_multiply(f->model, &(weight_product){.use = ROLE_UNEMBED,
                                                   .rows = unembedded_rows(f),
                                                   .n = s->vocabulary,
                                                   .k = s->width,
                                                   .x = f->normed + first * s->width,
                                                   .y = f->logits,
                                                   .scratch = f->packed});
}

// The same as the model gives them.
static void unembed(const df_forward *f, size_t first) {
    float cap = (float)f->model->config.logit_cap;
    df_forward_products(f, first);
    if (cap > 0.0f)
        df_soft_cap(cap, unembedded_rows(f) * f->model->config.shape.vocabulary, f->logits);
    df_forward_edit(f, (site_place){SITE_LOGITS, 0}, f->past + first, rows_at(first, f->tokens),
                    f->logits);
}

// All logits: to the caller, and to the site of that name.
static void hand_out_logits(const df_forward *f, float *logits) {
    size_t vocabulary = f->model->config.shape.vocabulary;
    bool wanted = df_forward_wants(f, SITE_LOGITS, 0);
    for (size_t first = 0; first < f->tokens && (logits != NULL || wanted);
         first += DF_FORWARD_ROWS) {
        size_t bytes = rows_at(first, f->tokens) * vocabulary * sizeof *logits;
        unembed(f, first);
        if (logits != NULL) memcpy(logits + first * vocabulary, f->logits, bytes);
        for (size_t i = 0; wanted && i < f->sites; i++)
            if (f->place[i].kind == SITE_LOGITS)
                memcpy(f->out[i] + first * vocabulary, f->logits, bytes);
    }
}

// From the stream behind the last block.
static void finish(df_forward *f, float *logits) {
    const norm_place final = {ROLE_FINAL_GAIN, SITE_FINAL_SCALE, SITE_FINAL};
    size_t layers = f->model->config.shape.layers, numbers = f->rows * f->model->config.shape.width;
    if (f->tape != NULL && f->past == 0)
        memcpy(f->tape + layers * numbers, f->stream, numbers * sizeof *f->tape);
    df_forward_norm(f, final, 0);
    hand_out_logits(f, logits);
}

static df_status need_head(const df_forward *f) {
    if (f->logits != NULL) return DF_OK;
    return df_fail(DF_FAILED, "logits need the part of the model that has the last block");
}

// Tokens from position f->past on.
static df_status run(df_forward *f, const uint32_t *ids, size_t n, float *const *out,
                     float *logits) {
    df_model_part part = f->model->part;
    if (logits != NULL) DF_TRY(need_head(f));
    DF_TRY(take_ids(f, ids, n));
    if (f->edits != NULL) f->edits->status = DF_OK;
    f->out = out;
    if (df_has_embedding(part)) embed(f, ids, n);
    for (size_t i = 0; i < part.count; i++) df_forward_block(f, part.first + i);
    if (df_has_head(&f->model->config.shape, part)) finish(f, logits);
    return df_forward_edited(f);
}

float *df_forward_stream(df_forward *f) {
    return f->stream;
}

df_status df_forward_run(df_forward *f, const uint32_t *ids, size_t n, float *const *out,
                         float *logits) {
    f->past = 0;
    if (f->model->config.rope.rule == ROPE_DYNAMIC && n != f->turned_for)
        DF_TRY(df_forward_turn(f, n));
    return run(f, ids, n, out, logits);
}

df_status df_forward_need_whole(const df_forward *f) {
    if (f->model->part.count == f->model->config.shape.layers) return DF_OK;
    return df_fail(DF_USAGE,
                   "gradients and kept keys need the whole model, not %zu of its %zu "
                   "blocks",
                   f->model->part.count, f->model->config.shape.layers);
}

/* ---- one token more ------------------------------------------------------------------------- */

df_status df_forward_keep(df_forward *f) {
    const df_model_shape *s = &f->model->config.shape;
    DF_TRY(df_forward_need_whole(f));
    if (f->model->config.rope.rule == ROPE_DYNAMIC)
        return df_fail(DF_USAGE, "dynamic rope scaling turns all keys anew when a window grows: "
                                 "they cannot be kept");
    if (f->cache != NULL) return DF_OK;
    DF_TRY(DF_NEW(f->weights, s->heads * f->context));
    return DF_NEW(f->cache, 2 * s->layers * f->context * s->kv_heads * s->head_width);
}

df_status df_forward_next(df_forward *f, uint32_t id, float *const *out, float *logits) {
    size_t rows = f->rows, past = f->past, tokens = f->tokens, before = past + tokens;
    if (f->cache == NULL || before == 0)
        return df_fail(DF_FAILED, "a further token needs a window whose keys were kept");
    if (before == f->context)
        return df_fail(DF_USAGE, "the context of %zu tokens is full", f->context);
    f->past = before;
    f->rows = 1;
    df_status status = run(f, &id, 1, out, logits);
    f->rows = rows;
    if (status != DF_OK) { // the window is what it was
        f->past = past;
        f->tokens = tokens;
    }
    return status;
}

df_status df_forward_nll(df_forward *f, double *nll) {
    if (f->tokens < 1 || f->past > 0)
        return df_fail(DF_FAILED, "losses need a window that was run as a whole");
    DF_TRY(need_head(f));
    for (size_t first = 0; first + 1 < f->tokens; first += DF_FORWARD_ROWS) {
        unembed(f, first);
        df_nll_rows(f->logits, f->ids + first + 1,
                    (df_extent){rows_at(first, f->tokens - 1), f->model->config.shape.vocabulary},
                    nll + first);
    }
    return df_forward_edited(f);
}
