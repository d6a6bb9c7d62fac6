/* The adjoints of norms, activations and projections. */
#include "backward.h"

#include <math.h>
#include <string.h>

/* ---- sites ---------------------------------------------------------------------------------- */

// The adjoint of one intervention on one row's columns: what is replaced passes nothing on.
static void edit_back(const df_intervention *e, size_t n, float *g) {
    double along = 0.0, square = 0.0;
    if (e->edit == DF_EDIT_REPLACE) memset(g, 0, n * sizeof *g);
    for (size_t i = 0; i < n && e->edit == DF_EDIT_SCALE; i++) g[i] *= e->factor;
    if (e->edit != DF_EDIT_PROJECT) return;
    for (size_t i = 0; i < n; i++) {
        along += (double)g[i] * (double)e->values[i];
        square += (double)e->values[i] * (double)e->values[i];
    }
    for (size_t i = 0; i < n; i++)
        g[i] = (float)((double)g[i] - along / square * (double)e->values[i]);
}

void df_backward_reach(const backward *b, site_kind kind, size_t layer, float *g) {
    const df_forward *f = b->f;
    size_t columns = df_site_columns(&f->model->config.shape, kind, f->context);
    for (size_t i = 0; i < f->sites; i++)
        if (f->place[i].kind == kind && f->place[i].layer == layer)
            memcpy(b->gradient[i], g, f->tokens * columns * sizeof *g);
    for (size_t i = f->edits != NULL ? f->edits->n : 0; i-- > 0;) {
        const df_intervention *e = &f->edits->list[i];
        if (f->edits->place[i].kind != kind || f->edits->place[i].layer != layer) continue;
        size_t to = e->to > 0 && e->to < f->tokens ? e->to : f->tokens;
        for (size_t t = e->from; t < to; t++)
            edit_back(e, e->columns > 0 ? e->columns : columns, g + t * columns + e->column);
    }
}

/* ---- norms ---------------------------------------------------------------------------------- */

static void centre(const float *x, size_t n, bool wanted, double *out) {
    double mean = 0.0;
    for (size_t i = 0; i < n && wanted; i++) mean += (double)x[i] / (double)n;
    for (size_t i = 0; i < n; i++) out[i] = (double)x[i] - mean;
}

static double dot(const float *a, const double *b, size_t n) {
    double sum = 0.0;
    for (size_t i = 0; i < n; i++) sum += (double)a[i] * b[i];
    return sum;
}

static double size_of(const double *x, size_t n, double epsilon) {
    double square = 0.0;
    for (size_t i = 0; i < n; i++) square += x[i] * x[i];
    return sqrt(square / (double)n + epsilon);
}

// d/dx of g . (x / s) with the gradient `slope` of s: g / s + slope x / (n s'), s' the size of x.
static void norm_row(const double *x, size_t n, double scale, double slope, float *g) {
    for (size_t i = 0; i < n; i++) g[i] = (float)((double)g[i] / scale + slope * x[i]);
}

void df_backward_norm(const backward *b, norm_place place, size_t layer, const float *x,
                      const float *scale, float *g) {
    const df_forward *f = b->f;
    size_t n = f->model->config.shape.width;
    const float *gain = df_weight(f->model, place.gain, layer);
    bool centred = f->model->config.family->norm == NORM_LAYER;
    double *row = b->row;
    for (size_t t = 0; t < f->tokens; t++)
        for (size_t i = 0; i < n; i++) g[t * n + i] *= gain[i];
    df_backward_reach(b, place.normalized, layer, g);
    for (size_t t = 0; t < f->tokens; t++) {
        centre(x + t * n, n, centred, row);
        b->scale[t] = (float)(-dot(g + t * n, row, n) / ((double)scale[t] * (double)scale[t]));
    }
    df_backward_reach(b, place.scale, layer, b->scale);
    for (size_t t = 0; t < f->tokens; t++) {
        centre(x + t * n, n, centred, row);
        double size = size_of(row, n, (double)f->model->config.norm_epsilon), mean = 0.0;
        norm_row(row, n, (double)scale[t], (double)b->scale[t] / ((double)n * size), g + t * n);
        for (size_t i = 0; i < n && centred; i++) mean += (double)g[t * n + i] / (double)n;
        for (size_t i = 0; i < n && centred; i++)
            g[t * n + i] = (float)((double)g[t * n + i] - mean);
    }
}

void df_backward_rms(const float *x, const float *gain, double epsilon, df_extent extent,
                     float *g) {
    size_t n = extent.width;
    for (size_t r = 0; r < extent.rows; r++, x += n, g += n) {
        double square = 0.0, along = 0.0;
        for (size_t i = 0; i < n; i++) {
            g[i] *= gain[i];
            square += (double)x[i] * (double)x[i];
            along += (double)g[i] * (double)x[i];
        }
        double size = sqrt(square / (double)n + epsilon);
        double slope = along / ((double)n * size * size * size);
        for (size_t i = 0; i < n; i++) g[i] = (float)((double)g[i] / size - slope * (double)x[i]);
    }
}

/* ---- the activation ------------------------------------------------------------------------- */

// act(x) and its derivative.
static double activation(df_activation_kind kind, double x, double *slope) {
    const double root_half = 0.70710678118654752440, factor = 0.79788456080286535588;
    double gate, u, t;
    switch (kind) {
    case DF_ACT_SILU:
        gate = 1.0 / (1.0 + exp(-x));
        *slope = gate * (1.0 + x * (1.0 - gate));
        return x * gate;
    case DF_ACT_GELU:
        gate = 0.5 * erfc(-x * root_half);
        *slope = gate + x * exp(-0.5 * x * x) * 0.39894228040143267794;
        return x * gate;
    case DF_ACT_GELU_TANH:
        u = factor * (x + 0.044715 * x * x * x);
        t = tanh(u);
        *slope =
            0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * factor * (1.0 + 3.0 * 0.044715 * x * x);
        return 0.5 * x * (1.0 + t);
    case DF_ACT_RELU:
        *slope = x > 0.0;
        return x > 0.0 ? x : 0.0;
    }
    *slope = 1.0;
    return x;
}

void df_backward_activate(df_activation_kind kind, const float *pre, const float *up, size_t n,
                          float *hidden, float *slope_up) {
    for (size_t i = 0; i < n; i++) {
        double slope, value = activation(kind, (double)pre[i], &slope), g = (double)hidden[i];
        if (up != NULL) slope_up[i] = (float)(g * value);
        hidden[i] = (float)(g * slope * (up != NULL ? (double)up[i] : 1.0));
    }
}

void df_backward_project(const backward *b, role weight, size_t layer, df_extent extent,
                         const float *y, float *x, float beta) {
    size_t inputs = extent.rows, outputs = extent.width;
    df_gemm_nn(&(df_gemm){.m = b->f->rows,
                          .n = inputs,
                          .k = outputs,
                          .alpha = 1.0f,
                          .beta = beta,
                          .a = y,
                          .lda = outputs,
                          .b = df_weight(b->f->model, weight, layer),
                          .ldb = inputs,
                          .c = x,
                          .ldc = inputs});
}
