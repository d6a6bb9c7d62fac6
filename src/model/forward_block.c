/* One block of a transformer. Where families differ, the model's configuration decides (arch.h). */
#include "forward.h"

#include <math.h>
#include <string.h>

/* ---- sites ---------------------------------------------------------------------------------- */

bool df_forward_wants(const df_forward *f, site_kind kind, size_t layer) {
    for (size_t i = 0; f->out != NULL && i < f->sites; i++)
        if (f->place[i].kind == kind && f->place[i].layer == layer) return true;
    return false;
}

void df_forward_reach(const df_forward *f, site_kind kind, size_t layer, float *rows) {
    df_forward_edit(f, (site_place){kind, layer}, f->past, f->tokens, rows);
    size_t columns = df_site_columns(&f->model->config.shape, kind, f->context);
    for (size_t i = 0; f->out != NULL && i < f->sites; i++)
        if (f->place[i].kind == kind && f->place[i].layer == layer)
            memcpy(f->out[i], rows, f->tokens * columns * sizeof *rows);
}

/* ---- parts ---------------------------------------------------------------------------------- */

void df_forward_project(const df_forward *f, role weight, size_t layer, df_extent extent,
                        const float *x, float *y) {
    const float *bias = df_weight(f->model, weight - ROLE_Q + ROLE_Q_BIAS, layer);
    size_t inputs = extent.rows, outputs = extent.width;
    df_weight_multiply(f->model, &(weight_product){.use = weight,
                                                   .layer = layer,
                                                   .rows = f->rows,
                                                   .n = outputs,
                                                   .k = inputs,
                                                   .x = x,
                                                   .y = y,
                                                   .scratch = f->packed});
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

// The norm in steps, so that interventions on its scale and its quotient count.
static void norm_in_steps(const df_forward *f, norm_place place, size_t layer) {
    size_t width = f->model->config.shape.width;
    bool centred = f->model->config.family->norm == NORM_LAYER;
    const float *gain = df_weight(f->model, place.gain, layer);
    const float *bias = centred ? df_weight(f->model, place.gain + 1, layer) : NULL;
    scales(f);
    df_forward_reach(f, place.scale, layer, f->change);
    for (size_t t = 0; t < f->tokens; t++) {
        double mean = 0.0, scale = (double)f->change[t];
        const float *x = f->stream + t * width;
        for (size_t i = 0; i < width && centred; i++) mean += (double)x[i] / (double)width;
        for (size_t i = 0; i < width; i++)
            f->normed[t * width + i] = (float)(((double)x[i] - mean) / scale);
    }
    memset(f->normed + f->tokens * width, 0, (f->rows - f->tokens) * width * sizeof *f->normed);
    df_forward_reach(f, place.normalized, layer, f->normed);
    for (size_t t = 0; t < f->tokens; t++)
        for (size_t i = 0; i < width; i++) f->normed[t * width + i] *= gain[i];
    if (bias != NULL) df_add_rows(bias, (df_extent){f->tokens, width}, f->normed);
}

void df_forward_norm(const df_forward *f, norm_place place, size_t layer) {
    if (df_forward_edits(f, place.scale, layer) || df_forward_edits(f, place.normalized, layer)) {
        norm_in_steps(f, place, layer);
        return;
    }
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

// change = mlp(normed)
static void mlp(const df_forward *f, size_t layer) {
    const df_model_shape *s = &f->model->config.shape;
    bool gated = f->model->config.family->gated;
    float *hidden = gated ? f->gate : f->up;
    df_forward_reach(f, SITE_MLP_IN, layer, f->normed);
    df_forward_project(f, ROLE_UP, layer, (df_extent){s->width, s->mlp_width}, f->normed, f->up);
    if (gated)
        df_forward_project(f, ROLE_GATE, layer, (df_extent){s->width, s->mlp_width}, f->normed,
                           hidden);
    df_forward_reach(f, SITE_MLP_PRE, layer, hidden);
    df_forward_reach(f, SITE_MLP_PRE_LINEAR, layer, f->up);
    df_activate(f->model->config.activation, gated ? f->up : NULL, f->rows * s->mlp_width, hidden);
    df_forward_reach(f, SITE_MLP_POST, layer, hidden);
    df_forward_project(f, ROLE_DOWN, layer, (df_extent){s->mlp_width, s->width}, hidden, f->change);
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
    if (f->tape != NULL) memcpy(f->tape + layer * numbers, f->stream, numbers * sizeof *f->tape);
    df_forward_reach(f, SITE_RESID_PRE, layer, f->stream);
    df_forward_norm(f, first, layer);
    df_forward_attend(f, layer);
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
