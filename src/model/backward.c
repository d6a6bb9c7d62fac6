/* Gradients of a weighted sum of logits with respect to hook sites. Blocks are run again from their
 * kept inputs, last block first, so that memory is one block's. */
#include "backward.h"

#include <string.h>

enum { PIECES = KEPT_COUNT + 15 };

typedef struct piece {
    float **at;
    size_t columns; // times rows
} piece;

/* ---- memory --------------------------------------------------------------------------------- */

static bool is_edited(const df_forward *f, site_kind kind) {
    for (size_t l = 0; l < f->model->config.shape.layers; l++)
        if (df_forward_edits(f, kind, l)) return true;
    return false;
}

static bool is_used(const df_forward *f, site_kind kind) {
    for (size_t i = 0; i < f->sites; i++)
        if (f->place[i].kind == kind) return true;
    return is_edited(f, kind);
}

static void list_pieces(backward *b, piece list[static PIECES]) {
    const df_forward *f = b->f;
    const df_model_shape *s = &f->model->config.shape;
    size_t query = s->heads * s->head_width, key = s->kv_heads * s->head_width;
    size_t pattern = is_edited(f, SITE_PATTERN) ? s->heads * f->context : 0;
    size_t result = is_edited(f, SITE_RESULT) ? s->heads * s->width : 0;
    size_t wide = is_used(f, SITE_PATTERN) ? s->heads * f->context : 0;
    if (is_used(f, SITE_RESULT) && s->heads * s->width > wide) wide = s->heads * s->width;
    const piece all[PIECES] = {{&b->kept[KEPT_RESID_PRE], s->width},
                               {&b->kept[KEPT_SCALE1], 1},
                               {&b->kept[KEPT_Q], query},
                               {&b->kept[KEPT_K], key},
                               {&b->kept[KEPT_V], key},
                               {&b->kept[KEPT_PLACED_Q], query},
                               {&b->kept[KEPT_PLACED_K], key},
                               {&b->kept[KEPT_Z], query},
                               {&b->kept[KEPT_RESID_MID], s->width},
                               {&b->kept[KEPT_SCALE2], 1},
                               {&b->kept[KEPT_PRE], s->mlp_width},
                               {&b->kept[KEPT_UP], s->gated ? s->mlp_width : 0},
                               {&b->kept[KEPT_POST], s->mlp_width},
                               {&b->kept[KEPT_PATTERN], pattern},
                               {&b->kept[KEPT_RESULT], result},
                               {&b->stream, s->width},
                               {&b->part, s->width},
                               {&b->raw, s->width},
                               {&b->normed, s->width},
                               {&b->q, query},
                               {&b->k, key},
                               {&b->v, key},
                               {&b->z, query},
                               {&b->hidden, s->mlp_width},
                               {&b->up, s->mlp_width},
                               {&b->scale, 1},
                               {&b->weights, s->heads * f->rows},
                               {&b->slope, s->heads * f->rows},
                               {&b->scores, f->rows},
                               {&b->wide, wide}};
    memcpy(list, all, sizeof all);
}

static df_status allocate(backward *b) {
    piece list[PIECES];
    size_t total = 0;
    list_pieces(b, list);
    for (size_t i = 0; i < PIECES; i++) total += list[i].columns * b->f->rows;
    DF_TRY(DF_NEW(b->block, total));
    DF_TRY(DF_NEW(b->row, b->f->model->config.shape.width));
    float *next = b->block;
    for (size_t i = 0; i < PIECES; i++) {
        *list[i].at = list[i].columns > 0 ? next : NULL;
        next += list[i].columns * b->f->rows;
    }
    return DF_OK;
}

/* ---- running a part again ------------------------------------------------------------------- */

/* The forward pass hands out to other arrays than the caller's for a while. */
typedef struct lent {
    site_place *place;
    size_t sites;
    float *const *out;
    float *tape;
} lent;

static lent lend(df_forward *f, site_place *place, size_t n, float *const *out) {
    lent before = {f->place, f->sites, f->out, f->tape};
    f->place = place;
    f->sites = n;
    f->out = out;
    f->tape = NULL;
    return before;
}

static void give_back(df_forward *f, lent before) {
    f->place = before.place;
    f->sites = before.sites;
    f->out = before.out;
    f->tape = before.tape;
}

static const float *taped(const backward *b, size_t layer) {
    const df_forward *f = b->f;
    return f->tape + layer * f->rows * f->model->config.shape.width;
}

static void run_again(backward *b, size_t layer) {
    static const site_kind kinds[KEPT_COUNT] = {
        SITE_RESID_PRE, SITE_ATTENTION_SCALE, SITE_Q,        SITE_K,         SITE_V,
        SITE_ROTATED_Q, SITE_ROTATED_K,       SITE_Z,        SITE_RESID_MID, SITE_MLP_SCALE,
        SITE_MLP_PRE,   SITE_MLP_PRE_LINEAR,  SITE_MLP_POST, SITE_PATTERN,   SITE_RESULT};
    df_forward *f = b->f;
    site_place place[KEPT_COUNT];
    float *out[KEPT_COUNT];
    size_t n = 0;
    for (size_t i = 0; i < KEPT_COUNT; i++) {
        bool rare = kinds[i] == SITE_PATTERN || kinds[i] == SITE_RESULT;
        if (b->kept[i] == NULL || (rare && !df_forward_edits(f, kinds[i], layer))) continue;
        place[n] = (site_place){kinds[i], layer};
        out[n++] = b->kept[i];
    }
    memcpy(f->stream, taped(b, layer), f->rows * f->model->config.shape.width * sizeof(float));
    lent before = lend(f, place, n, out);
    df_forward_block(f, layer);
    give_back(f, before);
}

/* ---- a block -------------------------------------------------------------------------------- */

static void add(float *y, const float *x, const backward *b) {
    df_add_row(y, x, b->f->rows * b->f->model->config.shape.width);
}

// What attention added before a norm behind it.
static void attention_again(const backward *b, size_t layer) {
    const df_forward *f = b->f;
    const df_model_shape *s = &f->model->config.shape;
    df_extent extent = {s->heads * s->head_width, s->width};
    if (df_forward_edits(f, SITE_RESULT, layer))
        df_forward_sum_results(f, layer, b->kept[KEPT_RESULT], b->raw);
    else
        df_forward_project(f, ROLE_O, layer, extent, b->kept[KEPT_Z], b->raw);
}

// Through the norm behind a part; raw is what it was given.
static void through_post_norm(const backward *b, role gain, size_t layer) {
    const model_config *config = &b->f->model->config;
    df_backward_rms(b->raw, df_weight(b->f->model, gain, layer), (double)config->norm_epsilon,
                    (df_extent){b->f->tokens, config->shape.width}, b->part);
}

// z = gradient of what the heads mixed, from `part`, that of their sum.
static void through_results(const backward *b, size_t layer) {
    const df_forward *f = b->f;
    const df_model_shape *s = &f->model->config.shape;
    size_t query = s->heads * s->head_width, wide = s->heads * s->width;
    bool reached = df_forward_edits(f, SITE_RESULT, layer);
    for (size_t i = 0; i < f->sites; i++)
        reached |= f->place[i].kind == SITE_RESULT && f->place[i].layer == layer;
    if (!reached) {
        df_backward_project(b, ROLE_O, layer, (df_extent){query, s->width}, b->part, b->z, 0.0f);
        return;
    }
    for (size_t t = 0; t < f->tokens; t++)
        for (size_t h = 0; h < s->heads; h++)
            memcpy(b->wide + t * wide + h * s->width, b->part + t * s->width,
                   s->width * sizeof *b->wide);
    df_backward_reach(b, SITE_RESULT, layer, b->wide);
    for (size_t h = 0; h < s->heads; h++)
        df_gemm_nn(&(df_gemm){.m = f->tokens,
                              .n = s->head_width,
                              .k = s->width,
                              .alpha = 1.0f,
                              .a = b->wide + h * s->width,
                              .lda = wide,
                              .b = df_weight(f->model, ROLE_O, layer) + h * s->head_width,
                              .ldb = query,
                              .c = b->z + h * s->head_width,
                              .ldc = query});
}

// normed = gradient of what attention reads, from `part`, that of what it adds.
static void through_attention(const backward *b, size_t layer) {
    const df_model_shape *s = &b->f->model->config.shape;
    df_extent query = {s->width, s->heads * s->head_width};
    df_extent key = {s->width, s->kv_heads * s->head_width};
    df_backward_reach(b, SITE_ATTN_OUT, layer, b->part);
    if (b->f->model->config.family->post_norms) {
        attention_again(b, layer);
        through_post_norm(b, ROLE_ATTENTION_POST_GAIN, layer);
    }
    through_results(b, layer);
    df_backward_reach(b, SITE_Z, layer, b->z);
    df_backward_attend(b, layer);
    df_backward_project(b, ROLE_Q, layer, query, b->q, b->normed, 0.0f);
    df_backward_project(b, ROLE_K, layer, key, b->k, b->normed, 1.0f);
    df_backward_project(b, ROLE_V, layer, key, b->v, b->normed, 1.0f);
}

// The same of the MLP.
static void through_mlp(const backward *b, size_t layer) {
    const model_config *config = &b->f->model->config;
    const df_model_shape *s = &config->shape;
    df_extent in = {s->width, s->mlp_width}, out = {s->mlp_width, s->width};
    df_backward_reach(b, SITE_MLP_OUT, layer, b->part);
    if (config->family->post_norms) {
        df_forward_project(b->f, ROLE_DOWN, layer, out, b->kept[KEPT_POST], b->raw);
        through_post_norm(b, ROLE_MLP_POST_GAIN, layer);
    }
    df_backward_project(b, ROLE_DOWN, layer, out, b->part, b->hidden, 0.0f);
    df_backward_reach(b, SITE_MLP_POST, layer, b->hidden);
    df_backward_activate(config->activation, b->kept[KEPT_PRE], b->kept[KEPT_UP],
                         b->f->rows * s->mlp_width, b->hidden, b->up);
    df_backward_reach(b, SITE_MLP_PRE, layer, b->hidden);
    if (s->gated) df_backward_reach(b, SITE_MLP_PRE_LINEAR, layer, b->up);
    df_backward_project(b, s->gated ? ROLE_GATE : ROLE_UP, layer, in, b->hidden, b->normed, 0.0f);
    if (s->gated) df_backward_project(b, ROLE_UP, layer, in, b->up, b->normed, 1.0f);
    df_backward_reach(b, SITE_MLP_IN, layer, b->normed);
}

static void through_block(backward *b, size_t layer) {
    const norm_place first = {ROLE_ATTENTION_GAIN, SITE_ATTENTION_SCALE, SITE_ATTENTION_NORMALIZED};
    const norm_place second = {ROLE_MLP_GAIN, SITE_MLP_SCALE, SITE_MLP_NORMALIZED};
    const df_forward *f = b->f;
    bool parallel = f->model->config.parallel;
    size_t bytes = f->rows * f->model->config.shape.width * sizeof(float);
    run_again(b, layer);
    df_backward_reach(b, SITE_RESID_POST, layer, b->stream);
    memcpy(b->part, b->stream, bytes);
    through_mlp(b, layer);
    df_backward_norm(b, second, layer, b->kept[parallel ? KEPT_RESID_PRE : KEPT_RESID_MID],
                     b->kept[KEPT_SCALE2], b->normed);
    memcpy(b->part, b->stream, bytes); // of a parallel attention
    add(b->stream, b->normed, b);
    if (!parallel) {
        df_backward_reach(b, SITE_RESID_MID, layer, b->stream);
        memcpy(b->part, b->stream, bytes);
    }
    through_attention(b, layer);
    df_backward_norm(b, first, layer, b->kept[KEPT_RESID_PRE], b->kept[KEPT_SCALE1], b->normed);
    add(b->stream, b->normed, b);
    df_backward_reach(b, SITE_RESID_PRE, layer, b->stream);
}

/* ---- the ends ------------------------------------------------------------------------------- */

// From the logits' gradient [rows of tokens, vocabulary] in f->logits to normed, 64 rows at a time.
static void unembed_back(const backward *b, size_t first, size_t n) {
    const df_forward *f = b->f;
    const df_model_shape *s = &f->model->config.shape;
    df_gemm_nn(&(df_gemm){.m = n,
                          .n = s->width,
                          .k = s->vocabulary,
                          .alpha = 1.0f,
                          .a = f->logits,
                          .lda = s->vocabulary,
                          .b = df_model_unembed(f->model),
                          .ldb = s->width,
                          .c = b->normed + first * s->width,
                          .ldc = s->width});
}

// The gradient of the logits before the soft-cap: 1 - (logit / cap)^2 times the one behind it.
static void through_cap(const backward *b, const float *uncapped, size_t n, float *g) {
    float cap = (float)b->f->model->config.logit_cap;
    for (size_t i = 0; cap > 0.0f && i < n; i++) {
        float capped = uncapped[i];
        df_soft_cap(cap, 1, &capped);
        double share = (double)capped / (double)cap;
        g[i] = (float)((double)g[i] * (1.0 - share * share));
    }
}

// normed = gradient of what the unembedding reads; the final norm's rows stand in f->normed.
static df_status through_logits(const backward *b, const float *seed) {
    df_forward *f = b->f;
    const df_model_shape *s = &f->model->config.shape;
    size_t numbers = f->tokens * s->vocabulary;
    float *g;
    DF_TRY(DF_NEW(g, numbers));
    memcpy(g, seed, numbers * sizeof *g);
    df_backward_reach(b, SITE_LOGITS, 0, g);
    for (size_t first = 0; first < f->tokens; first += DF_FORWARD_ROWS) {
        size_t n = f->tokens - first < DF_FORWARD_ROWS ? f->tokens - first : DF_FORWARD_ROWS;
        float *rows = g + first * s->vocabulary;
        if (f->model->config.logit_cap > 0.0) {
            df_forward_products(f, first);
            through_cap(b, f->logits, n * s->vocabulary, rows);
        }
        memcpy(f->logits, rows, n * s->vocabulary * sizeof *g);
        unembed_back(b, first, n);
    }
    df_free(g);
    return DF_OK;
}

static df_status through_end(backward *b, const float *seed) {
    const norm_place final = {ROLE_FINAL_GAIN, SITE_FINAL_SCALE, SITE_FINAL};
    df_forward *f = b->f;
    const df_model_shape *s = &f->model->config.shape;
    site_place place = {SITE_FINAL_SCALE, 0};
    float *const out[] = {b->kept[KEPT_SCALE1]};
    memcpy(f->stream, taped(b, s->layers), f->rows * s->width * sizeof *f->stream);
    lent before = lend(f, &place, 1, out);
    df_forward_norm(f, final, 0);
    give_back(f, before);
    DF_TRY(through_logits(b, seed));
    df_backward_norm(b, final, 0, taped(b, s->layers), b->kept[KEPT_SCALE1], b->normed);
    memcpy(b->stream, b->normed, f->rows * s->width * sizeof *b->stream);
    return DF_OK;
}

static void through_begin(const backward *b) {
    const df_model_shape *s = &b->f->model->config.shape;
    memcpy(b->part, b->stream, b->f->rows * s->width * sizeof *b->part);
    if (s->learned) df_backward_reach(b, SITE_POSITION, 0, b->part);
    df_backward_reach(b, SITE_EMBED, 0, b->stream);
}

/* ---- the interface -------------------------------------------------------------------------- */

df_status df_forward_tape(df_forward *f) {
    const df_model_shape *s = &f->model->config.shape;
    if (f->tape != NULL) return DF_OK;
    DF_TRY(df_forward_need_whole(f));
    return DF_NEW(f->tape, (s->layers + 1) * f->rows * s->width);
}

static df_status check(const df_forward *f) {
    if (f->tape == NULL || f->tokens == 0 || f->past > 0)
        return df_fail(DF_FAILED, "gradients need a window that was run with a tape");
    for (size_t i = 0; f->edits != NULL && i < f->edits->n; i++)
        if (f->edits->list[i].edit == DF_EDIT_CALL)
            return df_fail(DF_USAGE, "no gradient goes through the function at %s",
                           f->edits->list[i].site);
    return DF_OK;
}

df_status df_forward_gradient(df_forward *f, const float *seed, float *const *gradient) {
    backward b = {.f = f, .gradient = gradient};
    df_status status;
    DF_TRY(check(f));
    DF_GO(allocate(&b));
    DF_GO(through_end(&b, seed));
    for (size_t layer = f->model->config.shape.layers; layer-- > 0;) through_block(&b, layer);
    through_begin(&b);
done:
    df_free(b.block);
    df_free(b.row);
    return status;
}
