/* The adjoint of attention, from what the heads mix to queries, keys and values. */
#include "backward.h"

#include <string.h>

typedef struct head {
    size_t rows, width, query, key; // query, key: floats between rows
    size_t q, k;                    // first column of the head's query, of its key and value
} head;

static head head_at(const df_forward *f, size_t h) {
    const df_model_shape *s = &f->model->config.shape;
    return (head){.rows = f->rows,
                  .width = s->head_width,
                  .query = s->heads * s->head_width,
                  .key = s->kv_heads * s->head_width,
                  .q = h * s->head_width,
                  .k = h / (s->heads / s->kv_heads) * s->head_width};
}

// c [rows, rows] = a b' of two arrays of heads.
static void scores_of(head at, const float *q, const float *k, float *c) {
    df_gemm_nt(&(df_gemm){.m = at.rows,
                          .n = at.rows,
                          .k = at.width,
                          .alpha = 1.0f,
                          .a = q + at.q,
                          .lda = at.query,
                          .b = k + at.k,
                          .ldb = at.key,
                          .c = c,
                          .ldc = at.rows});
}

// g of a key or value += weights' y of the head's queries.
static void add_to_key(head at, const float *weights, const float *y, float *g) {
    df_gemm_tn(&(df_gemm){.m = at.rows,
                          .n = at.width,
                          .k = at.rows,
                          .alpha = 1.0f,
                          .beta = 1.0f,
                          .a = weights,
                          .lda = at.rows,
                          .b = y + at.q,
                          .ldb = at.query,
                          .c = g + at.k,
                          .ldc = at.key});
}

static void weigh(const backward *b, size_t layer) {
    const df_forward *f = b->f;
    const df_model_shape *s = &f->model->config.shape;
    df_attend(&(df_attention){.rows = f->rows,
                              .heads = s->heads,
                              .kv_heads = s->kv_heads,
                              .head_width = s->head_width,
                              .rule = df_score_rule_of(&f->model->config, layer),
                              .q = b->kept[KEPT_PLACED_Q],
                              .k = b->kept[KEPT_PLACED_K],
                              .v = b->kept[KEPT_V],
                              .out = f->mixed,
                              .scratch = f->scores,
                              .pattern = b->weights});
}

/* ---- the pattern ---------------------------------------------------------------------------- */

// One head's rows of [tokens, heads * context] to [rows, rows], or back.
static void copy_head(const df_forward *f, size_t h, float *wide, float *square, bool back) {
    size_t heads = f->model->config.shape.heads;
    for (size_t t = 0; t < f->tokens; t++) {
        float *row = wide + (t * heads + h) * f->context, *line = square + t * f->rows;
        if (back)
            memcpy(row, line, f->tokens * sizeof *row);
        else
            memcpy(line, row, f->tokens * sizeof *row);
    }
}

static void reach_pattern(const backward *b, size_t layer) {
    const df_forward *f = b->f;
    size_t heads = f->model->config.shape.heads, square = f->rows * f->rows;
    if (b->wide == NULL) return;
    memset(b->wide, 0, f->tokens * heads * f->context * sizeof *b->wide);
    for (size_t h = 0; h < heads; h++) copy_head(f, h, b->wide, b->slope + h * square, true);
    df_backward_reach(b, SITE_PATTERN, layer, b->wide);
    for (size_t h = 0; h < heads; h++) copy_head(f, h, b->wide, b->slope + h * square, false);
}

// slope = gradient of the pattern; v gets what the pattern, as it mixed, hands to values.
static void through_mixing(const backward *b, size_t layer) {
    const df_forward *f = b->f;
    size_t square = f->rows * f->rows;
    bool edited = df_forward_edits(f, SITE_PATTERN, layer);
    for (size_t h = 0; h < f->model->config.shape.heads; h++) {
        head at = head_at(f, h);
        const float *weights = b->weights + h * square;
        scores_of(at, b->z, b->kept[KEPT_V], b->slope + h * square);
        if (edited) {
            memset(b->scores, 0, square * sizeof *b->scores);
            copy_head(f, h, b->kept[KEPT_PATTERN], b->scores, false);
            weights = b->scores;
        }
        add_to_key(at, weights, b->z, b->v);
    }
    reach_pattern(b, layer);
}

/* ---- the softmax ---------------------------------------------------------------------------- */

// One row: ds = p (g - sum p g), then through soft-cap and scale; raw: products of query and keys.
static void softmax_back(const float *p, const float *raw, size_t n, df_score_rule rule, float *g) {
    double mean = 0.0;
    for (size_t j = 0; j < n; j++) mean += (double)p[j] * (double)g[j];
    for (size_t j = 0; j < n; j++) {
        double slope = (double)p[j] * ((double)g[j] - mean) * (double)rule.scale;
        if (rule.cap > 0.0f) {
            float capped = raw[j] * rule.scale;
            df_soft_cap(rule.cap, 1, &capped);
            double share = (double)capped / (double)rule.cap;
            slope *= 1.0 - share * share;
        }
        g[j] = (float)slope;
    }
}

// From a head's slope to the gradient of its placed query and key.
static void through_scores(const backward *b, size_t layer, size_t h) {
    const df_forward *f = b->f;
    head at = head_at(f, h);
    df_score_rule rule = df_score_rule_of(&f->model->config, layer);
    float *slope = b->slope + h * f->rows * f->rows;
    if (rule.cap > 0.0f) scores_of(at, b->kept[KEPT_PLACED_Q], b->kept[KEPT_PLACED_K], b->scores);
    for (size_t t = 0; t < f->tokens; t++) {
        float *row = slope + t * f->rows;
        softmax_back(b->weights + (h * f->rows + t) * f->rows, b->scores + t * f->rows, t + 1, rule,
                     row);
        memset(row + t + 1, 0, (f->rows - t - 1) * sizeof *row);
    }
    df_gemm_nn(&(df_gemm){.m = f->rows,
                          .n = at.width,
                          .k = f->rows,
                          .alpha = 1.0f,
                          .a = slope,
                          .lda = f->rows,
                          .b = b->kept[KEPT_PLACED_K] + at.k,
                          .ldb = at.key,
                          .c = b->q + at.q,
                          .ldc = at.query});
    add_to_key(at, slope, b->kept[KEPT_PLACED_Q], b->k);
}

/* ---- rotation and head norms ---------------------------------------------------------------- */

// The adjoint of a rotation turns the other way.
static void rotate_back(const backward *b, size_t layer, size_t heads, float *g) {
    const df_forward *f = b->f;
    const model_config *config = &f->model->config;
    size_t half = config->rotary / 2, width = config->shape.head_width;
    const float *cosine = f->cosine[config->local[layer]], *sine = f->sine[config->local[layer]];
    for (size_t t = 0; t < f->tokens; t++)
        for (size_t h = 0; h < heads; h++) {
            float *x = g + (t * heads + h) * width;
            for (size_t i = 0; i < half; i++) {
                float c = cosine[t * half + i], s = sine[t * half + i], a = x[i], y = x[i + half];
                x[i] = a * c + y * s;
                x[i + half] = y * c - a * s;
            }
        }
}

static void take_heads_back(const backward *b, size_t layer) {
    const df_forward *f = b->f;
    const model_config *config = &f->model->config;
    const df_model_shape *s = &config->shape;
    df_backward_reach(b, SITE_ROTATED_Q, layer, b->q);
    df_backward_reach(b, SITE_ROTATED_K, layer, b->k);
    rotate_back(b, layer, s->heads, b->q);
    rotate_back(b, layer, s->kv_heads, b->k);
    if (!config->qk_norm) return;
    df_backward_rms(b->kept[KEPT_Q], df_weight(f->model, ROLE_Q_GAIN, layer),
                    (double)config->norm_epsilon, (df_extent){f->tokens * s->heads, s->head_width},
                    b->q);
    df_backward_rms(b->kept[KEPT_K], df_weight(f->model, ROLE_K_GAIN, layer),
                    (double)config->norm_epsilon,
                    (df_extent){f->tokens * s->kv_heads, s->head_width}, b->k);
}

void df_backward_attend(const backward *b, size_t layer) {
    const df_forward *f = b->f;
    const df_model_shape *s = &f->model->config.shape;
    size_t keys = f->rows * s->kv_heads * s->head_width;
    memset(b->k, 0, keys * sizeof *b->k);
    memset(b->v, 0, keys * sizeof *b->v);
    weigh(b, layer);
    through_mixing(b, layer);
    for (size_t h = 0; h < s->heads; h++) through_scores(b, layer, h);
    take_heads_back(b, layer);
    df_backward_reach(b, SITE_Q, layer, b->q);
    df_backward_reach(b, SITE_K, layer, b->k);
    df_backward_reach(b, SITE_V, layer, b->v);
}
