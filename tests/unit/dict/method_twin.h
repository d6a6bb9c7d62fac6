/* method_twin.h: nested and multiple reconstructions, AuxK's variants, clipping and resampling in
 * plain dense loops and doubles. What an objective holds fixed (a detached target, its spread) is
 * kept from method_run with hold unset, so that finite differences see what gradients see. */
#ifndef METHOD_TWIN_H
#define METHOD_TWIN_H

#include "darkfield/dict.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct method_weights {
    double *w_enc, *w_dec, *b_enc, *b_dec; /* [latents, width] twice, [latents], [width] */
} method_weights;

typedef struct method_twin {
    size_t rows, latents, width, k;
    const size_t *first;  /* [3] columns of two sites */
    const df_dict *shape; /* activation, code_norm, prefixes */
    df_step_settings set;
    const uint8_t *dead; /* [latents] */
    const double *x;     /* [rows, width] */
    method_weights w, g;
    bool hold;
    /* scratch */
    double *f, *gf;        /* [rows, latents] relu(p), dL/df */
    double *norm, *g_norm; /* [latents] */
    double *main, *side;   /* [rows, latents] selected: 0 or 1 */
    double *e, *q;         /* [rows, width] */
    double *target, below; /* held: [rows, width] */
    double *still, *lost;  /* aux_decoder_only: held codes and their gradient, as f and gf */
    double *raw, *g_raw;   /* aux_raw: pre-activations and their gradient, as f and gf */
    double loss;
} method_twin;

static inline double method_site_norm(const method_twin *t, size_t j, size_t s) {
    double squares = 0.0;
    for (size_t c = t->first[s]; c < t->first[s + 1]; c++)
        squares += t->w.w_dec[j * t->width + c] * t->w.w_dec[j * t->width + c];
    return sqrt(squares);
}

static inline void method_encode(method_twin *t) {
    for (size_t j = 0; j < t->latents; j++)
        t->norm[j] = t->shape->code_norm == DF_NORM_NONE
                         ? 1.0
                         : method_site_norm(t, j, 0) + method_site_norm(t, j, 1);
    for (size_t r = 0; r < t->rows; r++)
        for (size_t j = 0; j < t->latents; j++) {
            double p = t->w.b_enc[j];
            for (size_t c = 0; c < t->width; c++)
                p += t->w.w_enc[j * t->width + c] * (t->x[r * t->width + c] - t->w.b_dec[c]);
            t->raw[r * t->latents + j] = p;
            t->f[r * t->latents + j] = p > 0.0 ? p : 0.0;
        }
}

/* Marks the `keep` best scores of rows [first, first + n) among all latents, or the dead. */
static inline void method_best(const method_twin *t, size_t first, size_t n, size_t keep, bool dead,
                               double *mask) {
    size_t from = first * t->latents, m = n * t->latents;
    double *score = calloc(m, sizeof *score), out = dead && t->set.aux_raw ? -1e300 : 0.0;
    for (size_t i = 0; i < m; i++) {
        size_t j = i % t->latents;
        score[i] = t->f[from + i] * t->norm[j];
        if (dead && !t->dead[j]) score[i] = out;
    }
    for (size_t i = 0; i < m; i++) {
        size_t better = 0;
        for (size_t o = 0; o < m; o++)
            better += score[o] > score[i] || (score[o] == score[i] && o < i);
        mask[from + i] = score[i] > out && better < keep;
    }
    free(score);
}

static inline void method_rows(const method_twin *t, size_t keep, bool dead, double *mask) {
    for (size_t r = 0; r < t->rows; r++) method_best(t, r, 1, keep, dead, mask);
}

static inline void method_select(const method_twin *t) {
    if (t->shape->activation == DF_TOPK)
        method_rows(t, t->k, false, t->main);
    else if (t->shape->activation == DF_BATCHTOPK)
        method_best(t, 0, t->rows, t->k * t->rows, false, t->main);
    else
        method_rows(t, t->latents, false, t->main);
}

/* y less the decode of latents [0, end), into q. */
static inline void method_miss(const method_twin *t, const double *mask, size_t end, bool bias,
                               const double *y, double *q) {
    for (size_t r = 0; r < t->rows; r++)
        for (size_t c = 0; c < t->width; c++) {
            double sum = bias ? t->w.b_dec[c] : 0.0;
            for (size_t j = 0; j < end; j++)
                sum += mask[r * t->latents + j] * t->f[r * t->latents + j] *
                       t->w.w_dec[j * t->width + c];
            q[r * t->width + c] = y[r * t->width + c] - sum;
        }
}

/* v = scale * vectors is dL of that decode. */
static inline void method_flow(method_twin *t, const double *mask, size_t end, bool bias,
                               double scale, const double *vectors) {
    for (size_t r = 0; r < t->rows; r++)
        for (size_t c = 0; c < t->width; c++) {
            double v = scale * vectors[r * t->width + c];
            if (bias) t->g.b_dec[c] += v;
            for (size_t j = 0; j < end; j++) {
                size_t i = r * t->latents + j;
                t->g.w_dec[j * t->width + c] += mask[i] * t->f[i] * v;
                t->gf[i] += mask[i] * v * t->w.w_dec[j * t->width + c];
            }
        }
}

static inline double method_squares(const double *q, size_t n) {
    double sum = 0.0;
    for (size_t i = 0; i < n; i++) sum += q[i] * q[i];
    return sum;
}

/* Adds scale |y - decode|^2 to the loss. */
static inline void method_part(method_twin *t, const double *mask, size_t end, bool bias,
                               const double *y, double scale) {
    method_miss(t, mask, end, bias, y, t->q);
    t->loss += scale * method_squares(t->q, t->rows * t->width);
    method_flow(t, mask, end, bias, -2.0 * scale, t->q);
}

/* The part of the `keep` best latents of each row; held fixed in what they read where AuxK and
 * Multi-TopK train the decoder alone; of dead latents by their pre-activations where they are raw.
 */
static inline void method_side(method_twin *t, size_t keep, bool dead, bool bias, const double *y,
                               double scale) {
    double *f = t->f, *gf = t->gf;
    bool fixed = t->set.aux_decoder_only;
    if (fixed && !t->hold) memcpy(t->still, f, t->rows * t->latents * sizeof *f);
    if (fixed) t->f = t->still, t->gf = t->lost;
    if (dead && t->set.aux_raw) t->f = t->raw, t->gf = t->g_raw;
    method_rows(t, keep, dead, t->side);
    method_part(t, t->side, t->latents, bias, y, scale);
    t->f = f, t->gf = gf;
}

/* sum (y - mean y)^2 */
static inline double method_spread(const method_twin *t, const double *y) {
    double sum = 0.0;
    for (size_t c = 0; c < t->width; c++) {
        double mean = 0.0;
        for (size_t r = 0; r < t->rows; r++) mean += y[r * t->width + c] / (double)t->rows;
        for (size_t r = 0; r < t->rows; r++) sum += pow(y[r * t->width + c] - mean, 2.0);
    }
    return sum;
}

static inline void method_main(method_twin *t) {
    double rows = (double)t->rows, variance = method_spread(t, t->x);
    size_t m = t->latents;
    method_miss(t, t->main, m, true, t->x, t->e);
    if (t->set.objective.reconstruction == DF_FVU)
        method_part(t, t->main, m, true, t->x, 1.0 / variance);
    else if (t->set.objective.reconstruction == DF_FVU_SAMPLE)
        method_part(t, t->main, m, true, t->x, 1.0 / rows / t->set.objective.variance);
    else if (t->shape->prefixes == 0)
        method_part(t, t->main, m, true, t->x, 1.0 / rows);
    for (size_t g = 0; g < t->shape->prefixes; g++)
        method_part(t, t->main, t->shape->prefix[g], true, t->x, t->set.prefix_weight / rows);
    if (!(t->set.multi > 0.0)) return;
    method_side(t, 4 * t->k, false, true, t->x, t->set.multi / variance);
}

static inline void method_l1(method_twin *t) {
    double weight = t->set.objective.weight / (double)t->rows;
    if (t->set.objective.penalty != DF_PENALTY_L1) return;
    for (size_t i = 0; i < t->rows * t->latents; i++) {
        size_t j = i % t->latents;
        t->loss += weight * t->main[i] * t->f[i] * t->norm[j];
        t->gf[i] += weight * t->main[i] * t->norm[j];
        t->g_norm[j] += weight * t->main[i] * t->f[i];
    }
}

static inline void method_hold(method_twin *t) {
    bool both = t->set.aux_bias == DF_AUX_BIAS_BOTH;
    double rows = (double)t->rows;
    if (t->hold) return;
    for (size_t i = 0; i < t->rows * t->width; i++)
        t->target[i] = t->e[i] + (both ? t->w.b_dec[i % t->width] : 0.0);
    t->below = t->set.aux_normaliser == DF_AUX_NONE     ? 1.0
               : t->set.aux_normaliser == DF_AUX_TARGET ? method_spread(t, t->x) / rows
                                                        : method_spread(t, t->target) / rows;
}

static inline void method_auxiliary(method_twin *t) {
    size_t dead = 0, k = t->set.aux_k;
    for (size_t j = 0; j < t->latents; j++) dead += t->dead[j];
    if (!(t->set.aux > 0.0) || dead == 0) return;
    method_hold(t);
    double scale = t->set.aux / (double)t->rows / t->below;
    if (t->set.aux_scaled && dead < k) scale *= (double)dead / (double)k;
    const double *y = t->set.aux_attached ? t->e : t->target;
    method_side(t, dead < k ? dead : k, true, t->set.aux_bias != DF_AUX_BIAS_NONE, y, scale);
    if (!t->set.aux_attached) return;
    method_flow(t, t->main, t->latents, true, -2.0 * scale, t->q); // e = x - x^
}

static inline void method_back(method_twin *t) {
    for (size_t r = 0; r < t->rows; r++)
        for (size_t j = 0; j < t->latents; j++) {
            double g = t->g_raw[r * t->latents + j];
            if (t->f[r * t->latents + j] > 0.0) g += t->gf[r * t->latents + j];
            t->g.b_enc[j] += g;
            for (size_t c = 0; c < t->width; c++) {
                t->g.w_enc[j * t->width + c] += g * (t->x[r * t->width + c] - t->w.b_dec[c]);
                t->g.b_dec[c] -= g * t->w.w_enc[j * t->width + c];
            }
        }
    for (size_t j = 0; j < t->latents && t->shape->code_norm == DF_NORM_SUM; j++)
        for (size_t c = 0; c < t->width; c++)
            t->g.w_dec[j * t->width + c] += t->g_norm[j] * t->w.w_dec[j * t->width + c] /
                                            method_site_norm(t, j, c >= t->first[1]);
}

/* Loss and gradients. */
static inline void method_run(method_twin *t) {
    size_t n = t->rows * t->latents, one = sizeof(double);
    memset(t->g.w_enc, 0, t->latents * t->width * one);
    memset(t->g.w_dec, 0, t->latents * t->width * one);
    memset(t->g.b_enc, 0, t->latents * one), memset(t->g.b_dec, 0, t->width * one);
    memset(t->gf, 0, n * one), memset(t->g_raw, 0, n * one);
    memset(t->g_norm, 0, t->latents * one);
    t->loss = 0.0;
    method_encode(t);
    method_select(t);
    method_main(t);
    method_l1(t);
    method_auxiliary(t);
    method_back(t);
}

/* What Adam gets: the decoder's gradient off its rows, all scaled to the norm `clip`; returns the
 * norm before. */
static inline double method_clip(method_twin *t) {
    size_t weights = t->latents * t->width;
    bool unit = t->set.unit_decoder || t->set.unit_first;
    for (size_t j = 0; j < t->latents && unit; j++) {
        double *g = t->g.w_dec + j * t->width, dot = 0.0, squares = 0.0;
        const double *w = t->w.w_dec + j * t->width;
        for (size_t c = 0; c < t->width; c++) dot += g[c] * w[c], squares += w[c] * w[c];
        for (size_t c = 0; c < t->width; c++) g[c] -= dot / squares * w[c];
    }
    double norm =
        sqrt(method_squares(t->g.w_enc, weights) + method_squares(t->g.w_dec, weights) +
             method_squares(t->g.b_enc, t->latents) + method_squares(t->g.b_dec, t->width));
    double factor = t->set.clip > 0.0 ? t->set.clip / (norm + 1e-6) : 1.0;
    if (factor > 1.0) factor = 1.0;
    for (size_t i = 0; i < weights; i++) t->g.w_enc[i] *= factor, t->g.w_dec[i] *= factor;
    for (size_t j = 0; j < t->latents; j++) t->g.b_enc[j] *= factor;
    for (size_t c = 0; c < t->width; c++) t->g.b_dec[c] *= factor;
    return norm;
}

/* The row that rings at place `at`: clocks of rate |e|^power. */
static inline size_t method_drawn(const method_twin *t, const df_resample *how, size_t at) {
    double *time = calloc(t->rows, sizeof *time);
    size_t found = 0;
    for (size_t r = 0; r < t->rows; r++) {
        double length = sqrt(method_squares(t->e + r * t->width, t->width));
        double u = df_random_uniform(how->seed, DF_STREAM_RESAMPLE, how->step << 32 | r);
        time[r] = -log1p(-u) / pow(length, how->power);
    }
    for (size_t r = 0; r < t->rows; r++) {
        size_t earlier = 0;
        for (size_t o = 0; o < t->rows; o++) earlier += time[o] < time[r];
        if (earlier == at) found = r;
    }
    free(time);
    return found;
}

/* Dead latents begin anew, in w; e is that of the last run. */
static inline void method_resample(method_twin *t, const df_resample *how) {
    double norm = 0.0, living = 0.0;
    size_t at = 0;
    for (size_t j = 0; j < t->latents; j++) {
        if (t->dead[j]) continue;
        norm += sqrt(method_squares(t->w.w_enc + j * t->width, t->width));
        living += 1.0;
    }
    for (size_t j = 0; j < t->latents; j++) {
        if (!t->dead[j] || at == t->rows) continue;
        const double *x = t->x + method_drawn(t, how, at++) * t->width;
        double length = sqrt(method_squares(x, t->width));
        double scale = norm / living * how->scale / (how->unit ? length : 1.0);
        for (size_t c = 0; c < t->width; c++) {
            t->w.w_enc[j * t->width + c] = scale * x[c];
            t->w.w_dec[j * t->width + c] = x[c] / length;
        }
        t->w.b_enc[j] = 0.0;
    }
}

#endif
