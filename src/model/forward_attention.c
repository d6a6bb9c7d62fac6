/* Attention inside a block: from normed rows to what its heads add, with the sites on the way. */
#include "forward.h"

#include <string.h>

/* ---- queries, keys, values ------------------------------------------------------------------ */

static void rotate(const df_forward *f, size_t layer, size_t heads, float *x) {
    const model_config *config = &f->model->config;
    bool local = config->local[layer] != 0;
    if (config->rotary > 0)
        df_rotate(f->cosine[local] + f->past * config->rotary / 2,
                  f->sine[local] + f->past * config->rotary / 2,
                  (df_heads){f->rows, heads, config->shape.head_width, config->rotary}, x);
}

// Queries and keys as attention compares them.
static void place_heads(const df_forward *f, size_t layer) {
    const model_config *config = &f->model->config;
    const df_model_shape *s = &config->shape;
    if (config->qk_norm) {
        df_rms_norm(f->q, df_weight(f->model, ROLE_Q_GAIN, layer), config->norm_epsilon,
                    (df_extent){f->rows * s->heads, s->head_width}, f->q);
        df_rms_norm(f->k, df_weight(f->model, ROLE_K_GAIN, layer), config->norm_epsilon,
                    (df_extent){f->rows * s->kv_heads, s->head_width}, f->k);
    }
    rotate(f, layer, s->heads, f->q);
    rotate(f, layer, s->kv_heads, f->k);
    df_forward_reach(f, SITE_ROTATED_Q, layer, f->q);
    df_forward_reach(f, SITE_ROTATED_K, layer, f->k);
}

df_score_rule df_score_rule_of(const model_config *config, size_t layer) {
    double scale = config->attention_scale;
    if (config->scale_by_layer) scale /= (double)(layer + 1);
    return (df_score_rule){.scale = (float)scale,
                           .cap = (float)config->attention_cap,
                           .window = config->local[layer] ? config->window : 0};
}

/* ---- the pattern ---------------------------------------------------------------------------- */

// Rows of weights [rows] of every head and query, head beside head: into `to`, or back from it.
static void copy_pattern(const df_forward *f, float *pattern, float *rows, bool back) {
    size_t heads = f->model->config.shape.heads, wide = f->rows;
    for (size_t t = 0; t < f->tokens; t++)
        for (size_t h = 0; h < heads; h++) {
            float *weights = pattern + (h * wide + t) * wide;
            float *row = rows + (t * heads + h) * f->context;
            if (back)
                memcpy(weights, row, f->tokens * sizeof *row);
            else
                memcpy(row, weights, f->context * sizeof *row);
        }
}

static void reach_pattern(const df_forward *f, size_t layer) {
    for (size_t i = 0; f->out != NULL && i < f->sites; i++)
        if (f->place[i].kind == SITE_PATTERN && f->place[i].layer == layer)
            copy_pattern(f, f->pattern, f->out[i], false);
}

// Interventions on the weights, then mixed = weights * v anew.
static void edit_pattern(const df_forward *f, size_t layer, float *pattern) {
    const df_model_shape *s = &f->model->config.shape;
    size_t width = s->head_width, group = s->heads / s->kv_heads;
    copy_pattern(f, pattern, f->edits->wide, false);
    df_forward_reach(f, SITE_PATTERN, layer, f->edits->wide);
    copy_pattern(f, pattern, f->edits->wide, true);
    for (size_t h = 0; h < s->heads; h++)
        df_gemm_nn(&(df_gemm){.m = f->rows,
                              .n = width,
                              .k = f->rows,
                              .alpha = 1.0f,
                              .a = pattern + h * f->rows * f->rows,
                              .lda = f->rows,
                              .b = f->v + h / group * width,
                              .ldb = s->kv_heads * width,
                              .c = f->mixed + h * width,
                              .ldc = s->heads * width});
}

// Keys (0) or values (1) of a layer that were kept: [context, kv_heads * head_width].
static float *kept(const df_forward *f, size_t layer, size_t which) {
    const df_model_shape *s = &f->model->config.shape;
    return f->cache + (2 * layer + which) * f->context * s->kv_heads * s->head_width;
}

static void keep(const df_forward *f, size_t layer) {
    size_t key = f->model->config.shape.kv_heads * f->model->config.shape.head_width;
    if (f->cache == NULL) return;
    memcpy(kept(f, layer, 0) + f->past * key, f->k, f->tokens * key * sizeof *f->k);
    memcpy(kept(f, layer, 1) + f->past * key, f->v, f->tokens * key * sizeof *f->v);
}

// One product of a step's head h with the `seen` kept rows: weights = q K' or mixed = weights V.
static df_gemm head_product(const df_forward *f, size_t layer, size_t which, size_t h) {
    const df_model_shape *s = &f->model->config.shape;
    size_t width = s->head_width, column = h / (s->heads / s->kv_heads) * width;
    float *weights = f->weights + h * f->context;
    size_t seen = f->past + 1;
    df_gemm g = {
        .m = 1, .alpha = 1.0f, .b = kept(f, layer, which) + column, .ldb = s->kv_heads * width};
    g.n = which == 0 ? seen : width;
    g.k = which == 0 ? width : seen;
    g.a = which == 0 ? f->q + h * width : weights;
    g.c = which == 0 ? weights : f->mixed + h * width;
    g.lda = g.k;
    g.ldc = g.n;
    return g;
}

// Attention of one token over everything that was kept.
static void mix_step(const df_forward *f, size_t layer) {
    size_t heads = f->model->config.shape.heads, seen = f->past + 1;
    memset(f->weights, 0, heads * f->context * sizeof *f->weights);
    for (size_t h = 0; h < heads; h++) {
        df_gemm g = head_product(f, layer, 0, h);
        df_gemm_nt(&g);
        df_causal_softmax(g.c, (df_extent){1, seen}, seen - 1,
                          df_score_rule_of(&f->model->config, layer));
    }
    df_forward_reach(f, SITE_PATTERN, layer, f->weights);
    for (size_t h = 0; h < heads; h++) {
        df_gemm g = head_product(f, layer, 1, h);
        df_gemm_nn(&g);
    }
}

static void mix(const df_forward *f, size_t layer) {
    const df_model_shape *s = &f->model->config.shape;
    bool edited = df_forward_edits(f, SITE_PATTERN, layer);
    float *pattern = edited && f->pattern == NULL ? f->edits->pattern : f->pattern;
    df_attend(&(df_attention){.rows = f->rows,
                              .heads = s->heads,
                              .kv_heads = s->kv_heads,
                              .head_width = s->head_width,
                              .rule = df_score_rule_of(&f->model->config, layer),
                              .q = f->q,
                              .k = f->k,
                              .v = f->v,
                              .out = f->mixed,
                              .scratch = f->scores,
                              .pattern = pattern});
    if (edited)
        edit_pattern(f, layer, pattern);
    else
        reach_pattern(f, layer);
}

/* ---- what each head adds -------------------------------------------------------------------- */

// One head's rows into `change`.
static void result_of(const df_forward *f, size_t layer, size_t head) {
    const df_model_shape *s = &f->model->config.shape;
    size_t query = s->heads * s->head_width;
    df_gemm_nt(&(df_gemm){.m = f->rows,
                          .n = s->width,
                          .k = s->head_width,
                          .alpha = 1.0f,
                          .a = f->mixed + head * s->head_width,
                          .lda = query,
                          .b = df_weight(f->model, ROLE_O, layer) + head * s->head_width,
                          .ldb = query,
                          .c = f->change,
                          .ldc = s->width});
}

// attn.hook_result, head beside head: rows of one head from `change`.
static void copy_result(const df_forward *f, size_t head, float *to) {
    const df_model_shape *s = &f->model->config.shape;
    for (size_t t = 0; t < f->tokens; t++)
        memcpy(to + (t * s->heads + head) * s->width, f->change + t * s->width,
               s->width * sizeof *to);
}

static void reach_result(const df_forward *f, size_t layer) {
    if (!df_forward_wants(f, SITE_RESULT, layer)) return;
    for (size_t h = 0; h < f->model->config.shape.heads; h++) {
        result_of(f, layer, h);
        for (size_t i = 0; i < f->sites; i++)
            if (f->place[i].kind == SITE_RESULT && f->place[i].layer == layer)
                copy_result(f, h, f->out[i]);
    }
}

void df_forward_sum_results(const df_forward *f, size_t layer, const float *results, float *sum) {
    const df_model_shape *s = &f->model->config.shape;
    const float *bias = df_weight(f->model, ROLE_O_BIAS, layer);
    memset(sum, 0, f->rows * s->width * sizeof *sum);
    for (size_t t = 0; t < f->tokens; t++)
        for (size_t h = 0; h < s->heads; h++)
            df_add_row(sum + t * s->width, results + (t * s->heads + h) * s->width, s->width);
    if (bias != NULL) df_add_rows(bias, (df_extent){f->rows, s->width}, sum);
}

// Interventions on what the heads add, then change = their sum.
static void edit_result(const df_forward *f, size_t layer) {
    for (size_t h = 0; h < f->model->config.shape.heads; h++) {
        result_of(f, layer, h);
        copy_result(f, h, f->edits->wide);
    }
    df_forward_reach(f, SITE_RESULT, layer, f->edits->wide);
    df_forward_sum_results(f, layer, f->edits->wide, f->change);
}

/* ---- together ------------------------------------------------------------------------------- */

void df_forward_attend(const df_forward *f, size_t layer) {
    const df_model_shape *s = &f->model->config.shape;
    size_t query = s->heads * s->head_width, key = s->kv_heads * s->head_width;
    df_forward_project(f, ROLE_Q, layer, (df_extent){s->width, query}, f->normed, f->q);
    df_forward_project(f, ROLE_K, layer, (df_extent){s->width, key}, f->normed, f->k);
    df_forward_project(f, ROLE_V, layer, (df_extent){s->width, key}, f->normed, f->v);
    df_forward_reach(f, SITE_Q, layer, f->q);
    df_forward_reach(f, SITE_K, layer, f->k);
    df_forward_reach(f, SITE_V, layer, f->v);
    place_heads(f, layer);
    keep(f, layer);
    if (f->past > 0)
        mix_step(f, layer);
    else
        mix(f, layer);
    df_forward_reach(f, SITE_Z, layer, f->mixed);
    if (df_forward_edits(f, SITE_RESULT, layer)) {
        edit_result(f, layer);
        return;
    }
    reach_result(f, layer);
    df_forward_project(f, ROLE_O, layer, (df_extent){query, s->width}, f->mixed, f->change);
}
