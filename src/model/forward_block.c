/* One block of a transformer. Where families differ, the model's configuration decides (arch.h). */
#include "forward.h"

#include <math.h>
#include <string.h>

/* ---- sites ---------------------------------------------------------------------------------- */

bool df_forward_wants(const df_forward *f, site_kind kind, size_t layer) {
    for (size_t i = 0; i < f->sites; i++)
        if (f->place[i].kind == kind && f->place[i].layer == layer) return true;
    return false;
}

void df_forward_reach(const df_forward *f, site_kind kind, size_t layer, const float *rows) {
    size_t columns = df_site_columns(&f->model->config.shape, kind, f->context);
    for (size_t i = 0; i < f->sites; i++)
        if (f->place[i].kind == kind && f->place[i].layer == layer)
            memcpy(f->out[i], rows, f->tokens * columns * sizeof *rows);
}

// Weights of every query: rows of the pattern, head beside head.
static void reach_pattern(const df_forward *f, size_t layer) {
    size_t heads = f->model->config.shape.heads, wide = f->rows;
    for (size_t i = 0; i < f->sites; i++) {
        if (f->place[i].kind != SITE_PATTERN || f->place[i].layer != layer) continue;
        for (size_t t = 0; t < f->tokens; t++)
            for (size_t h = 0; h < heads; h++)
                memcpy(f->out[i] + (t * heads + h) * f->context, f->pattern + (h * wide + t) * wide,
                       f->context * sizeof(float));
    }
}

/* ---- parts ---------------------------------------------------------------------------------- */

// y [rows, outputs] = x [rows, inputs] W' + bias; extent holds inputs (rows) and outputs (width).
static void project(const df_forward *f, role weight, size_t layer, df_extent extent,
                    const float *x, float *y) {
    const float *bias = df_weight(f->model, weight - ROLE_Q + ROLE_Q_BIAS, layer);
    size_t inputs = extent.rows, outputs = extent.width;
    df_gemm_nt(&(df_gemm){.m = f->rows,
                          .n = outputs,
                          .k = inputs,
                          .alpha = 1.0f,
                          .a = x,
                          .lda = inputs,
                          .b = df_weight(f->model, weight, layer),
                          .ldb = inputs,
                          .c = y,
                          .ldc = outputs});
    if (bias != NULL) df_add_rows(bias, (df_extent){f->rows, outputs}, y);
}

// y = norm(x) with a given gain and bias; y may be x.
static void normalise(const df_forward *f, const float *x, const float *gain, const float *bias,
                      float *y) {
    const model_config *config = &f->model->config;
    df_extent extent = {f->rows, config->shape.width};
    switch (config->family->norm) {
    case NORM_RMS:
        df_rms_norm(x, gain, config->norm_epsilon, extent, y);
        return;
    case NORM_LAYER:
        df_layer_norm(x, gain, bias, config->norm_epsilon, extent, y);
    }
}

// What the norm divides by, one number a row, into the first floats of `change`.
static void scales(const df_forward *f) {
    size_t width = f->model->config.shape.width;
    for (size_t t = 0; t < f->tokens; t++) {
        const float *x = f->stream + t * width;
        double mean = 0.0, squares = 0.0;
        for (size_t i = 0; i < width; i++) mean += (double)x[i] / (double)width;
        if (f->model->config.family->norm == NORM_RMS) mean = 0.0;
        for (size_t i = 0; i < width; i++) squares += ((double)x[i] - mean) * ((double)x[i] - mean);
        double epsilon = (double)f->model->config.norm_epsilon;
        f->change[t] = (float)sqrt(squares / (double)width + epsilon);
    }
}

void df_forward_norm(const df_forward *f, norm_place place, size_t layer) {
    if (df_forward_wants(f, place.scale, layer)) {
        scales(f);
        df_forward_reach(f, place.scale, layer, f->change);
    }
    if (df_forward_wants(f, place.normalized, layer)) {
        normalise(f, f->stream, f->ones, NULL, f->normed);
        df_forward_reach(f, place.normalized, layer, f->normed);
    }
    normalise(f, f->stream, df_weight(f->model, place.gain, layer),
              f->model->config.family->norm == NORM_LAYER
                  ? df_weight(f->model, place.gain + 1, layer)
                  : NULL,
              f->normed);
}

static void rotate(const df_forward *f, size_t layer, size_t heads, float *x) {
    const model_config *config = &f->model->config;
    bool local = config->local[layer] != 0;
    if (config->rotary > 0)
        df_rotate(f->cosine[local], f->sine[local],
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

static df_score_rule score_rule(const model_config *config, size_t layer) {
    double scale = config->attention_scale;
    if (config->scale_by_layer) scale /= (double)(layer + 1);
    return (df_score_rule){.scale = (float)scale,
                           .cap = (float)config->attention_cap,
                           .window = config->local[layer] ? config->window : 0};
}

// attn.hook_result: what each head adds, head beside head; `change` is scratch.
static void reach_result(const df_forward *f, size_t layer) {
    const df_model_shape *s = &f->model->config.shape;
    size_t query = s->heads * s->head_width;
    if (!df_forward_wants(f, SITE_RESULT, layer)) return;
    for (size_t h = 0; h < s->heads; h++) {
        df_gemm_nt(&(df_gemm){.m = f->rows,
                              .n = s->width,
                              .k = s->head_width,
                              .alpha = 1.0f,
                              .a = f->mixed + h * s->head_width,
                              .lda = query,
                              .b = df_weight(f->model, ROLE_O, layer) + h * s->head_width,
                              .ldb = query,
                              .c = f->change,
                              .ldc = s->width});
        for (size_t i = 0; i < f->sites; i++)
            for (size_t t = 0; t < f->tokens; t++)
                if (f->place[i].kind == SITE_RESULT && f->place[i].layer == layer)
                    memcpy(f->out[i] + (t * s->heads + h) * s->width, f->change + t * s->width,
                           s->width * sizeof(float));
    }
}

// change = attention(normed)
static void attention(const df_forward *f, size_t layer) {
    const df_model_shape *s = &f->model->config.shape;
    size_t query = s->heads * s->head_width, key = s->kv_heads * s->head_width;
    project(f, ROLE_Q, layer, (df_extent){s->width, query}, f->normed, f->q);
    project(f, ROLE_K, layer, (df_extent){s->width, key}, f->normed, f->k);
    project(f, ROLE_V, layer, (df_extent){s->width, key}, f->normed, f->v);
    df_forward_reach(f, SITE_Q, layer, f->q);
    df_forward_reach(f, SITE_K, layer, f->k);
    df_forward_reach(f, SITE_V, layer, f->v);
    place_heads(f, layer);
    df_attend(&(df_attention){.rows = f->rows,
                              .heads = s->heads,
                              .kv_heads = s->kv_heads,
                              .head_width = s->head_width,
                              .rule = score_rule(&f->model->config, layer),
                              .q = f->q,
                              .k = f->k,
                              .v = f->v,
                              .out = f->mixed,
                              .scratch = f->scores,
                              .pattern = f->pattern});
    reach_pattern(f, layer);
    df_forward_reach(f, SITE_Z, layer, f->mixed);
    reach_result(f, layer);
    project(f, ROLE_O, layer, (df_extent){query, s->width}, f->mixed, f->change);
}

// change = mlp(normed)
static void mlp(const df_forward *f, size_t layer) {
    const df_model_shape *s = &f->model->config.shape;
    bool gated = f->model->config.family->gated;
    float *hidden = gated ? f->gate : f->up;
    df_forward_reach(f, SITE_MLP_IN, layer, f->normed);
    project(f, ROLE_UP, layer, (df_extent){s->width, s->mlp_width}, f->normed, f->up);
    if (gated) project(f, ROLE_GATE, layer, (df_extent){s->width, s->mlp_width}, f->normed, hidden);
    df_forward_reach(f, SITE_MLP_PRE, layer, hidden);
    df_forward_reach(f, SITE_MLP_PRE_LINEAR, layer, f->up);
    df_activate(f->model->config.activation, gated ? f->up : NULL, f->rows * s->mlp_width, hidden);
    df_forward_reach(f, SITE_MLP_POST, layer, hidden);
    project(f, ROLE_DOWN, layer, (df_extent){s->mlp_width, s->width}, hidden, f->change);
}

/* ---- the block ------------------------------------------------------------------------------ */

// What a part adds to the stream: sandwich norms apply to it first.
static void finish_part(const df_forward *f, role post_gain, site_kind site, size_t layer) {
    if (f->model->config.family->post_norms)
        normalise(f, f->change, df_weight(f->model, post_gain, layer), NULL, f->change);
    df_forward_reach(f, site, layer, f->change);
}

static void add_to_stream(const df_forward *f, const float *change) {
    df_add_row(f->stream, change, f->rows * f->model->config.shape.width);
}

void df_forward_block(const df_forward *f, size_t layer) {
    const norm_place first = {ROLE_ATTENTION_GAIN, SITE_ATTENTION_SCALE, SITE_ATTENTION_NORMALIZED};
    const norm_place second = {ROLE_MLP_GAIN, SITE_MLP_SCALE, SITE_MLP_NORMALIZED};
    size_t numbers = f->rows * f->model->config.shape.width;
    bool parallel = f->model->config.parallel;
    df_forward_reach(f, SITE_RESID_PRE, layer, f->stream);
    df_forward_norm(f, first, layer);
    attention(f, layer);
    finish_part(f, ROLE_ATTENTION_POST_GAIN, SITE_ATTN_OUT, layer);
    if (parallel)
        memcpy(f->attended, f->change, numbers * sizeof *f->change);
    else
        add_to_stream(f, f->change);
    df_forward_reach(f, SITE_RESID_MID, layer, f->stream);
    df_forward_norm(f, second, layer);
    mlp(f, layer);
    finish_part(f, ROLE_MLP_POST_GAIN, SITE_MLP_OUT, layer);
    if (parallel) add_to_stream(f, f->attended);
    add_to_stream(f, f->change);
    df_forward_reach(f, SITE_RESID_POST, layer, f->stream);
}
