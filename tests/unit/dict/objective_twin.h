/* Every objective of dict.h in plain dense loops and doubles, for a dictionary that reads what it
 * writes. A student can check it against the header; the tests check it against PyTorch and finite
 * differences, and the coder against PyTorch. */
#ifndef OBJECTIVE_TWIN_H
#define OBJECTIVE_TWIN_H

#include "darkfield/dict.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TWIN_RECONSTRUCTION, TWIN_SPARSITY, TWIN_PREACT, TWIN_GATE, TWIN_AUX, TWIN_TERMS };

/* Weights, or their gradients. */
typedef struct twin_weights {
    double *w_enc, *w_dec, *b_enc, *b_dec; /* [latents, width] twice, [latents], [width] */
    double *theta, *r_mag, *b_mag;         /* [latents]; theta or its logarithm */
} twin_weights;

typedef struct twin {
    size_t rows, latents, width, sites, k, aux_k;
    size_t shared, dedicated; /* of two sites, each a model's */
    const size_t *first;      /* [sites + 1] */
    df_activation activation;
    df_code_norm code_norm;
    bool subtract_bias;
    df_objective o;
    double aux;
    const uint8_t *dead; /* [latents] */
    const double *x;     /* [rows, width] */
    twin_weights w, g;
    /* scratch and results */
    double *p, *f, *gf, *gp, *site_mask; /* [rows, latents]; mask [sites, rows, latents] */
    double *e, *v;                       /* [rows, width] */
    double *norm, *g_norm;               /* [latents] */
    double term[TWIN_TERMS], loss, l0;
} twin;

static inline double twin_theta(const twin *t, size_t j) {
    if (t->activation != DF_JUMPRELU) return 0.0;
    return t->o.raw_threshold ? t->w.theta[j] : exp(t->w.theta[j]);
}

static inline double twin_site_norm(const twin *t, size_t j, size_t s) {
    double squares = 0.0;
    for (size_t c = t->first[s]; c < t->first[s + 1]; c++)
        squares += t->w.w_dec[j * t->width + c] * t->w.w_dec[j * t->width + c];
    return sqrt(squares);
}

static inline double twin_norm(const twin *t, size_t j) {
    double sum = 0.0, squares = 0.0;
    for (size_t s = 0; s < t->sites; s++) {
        double length = twin_site_norm(t, j, s);
        sum += length;
        squares += length * length;
    }
    if (t->code_norm == DF_NORM_NONE) return 1.0;
    if (t->code_norm == DF_NORM_MIXED) return sqrt(squares) + 0.1 * sum;
    return t->code_norm == DF_NORM_ROOT ? sqrt(squares) : sum;
}

/* ---- latents bound to models ---------------------------------------------------------------- */

/* Is the column another model's than the one that the latent is dedicated to? */
static inline bool twin_is_out(const twin *t, size_t j, size_t c) {
    if (j + 2 * t->dedicated < t->latents) return false;
    bool second = j + t->dedicated >= t->latents;
    return second != (c >= t->first[1]);
}

/* Does it follow the first model's part of a shared decoder? */
static inline bool twin_follows(const twin *t, size_t j, size_t c) {
    return j < t->shared && c >= t->first[1];
}

static inline void twin_bind(twin *t) {
    for (size_t j = 0; j < t->latents; j++)
        for (size_t c = 0; c < t->width; c++) {
            size_t i = j * t->width + c;
            if (twin_is_out(t, j, c)) t->w.w_enc[i] = t->w.w_dec[i] = 0.0;
            if (twin_follows(t, j, c)) t->w.w_dec[i] = t->w.w_dec[i - t->first[1]];
        }
}

static inline void twin_bind_back(twin *t) {
    for (size_t j = 0; j < t->latents; j++)
        for (size_t c = 0; c < t->width; c++) {
            size_t i = j * t->width + c;
            if (twin_is_out(t, j, c)) t->g.w_enc[i] = t->g.w_dec[i] = 0.0;
            if (!twin_follows(t, j, c)) continue;
            t->g.w_dec[i - t->first[1]] += t->g.w_dec[i];
            t->g.w_dec[i] = t->g.w_dec[i - t->first[1]];
        }
}

static inline double twin_share(const twin *t, size_t j) {
    return j < t->shared ? t->o.shared_weight : 1.0;
}

static inline double twin_input(const twin *t, size_t r, size_t c) {
    return t->x[r * t->width + c] - (t->subtract_bias ? t->w.b_dec[c] : 0.0);
}

/* Marks the `keep` best of n positive scores, smaller index first among equals. */
static inline void twin_best(const double *score, size_t n, size_t keep, double *mask) {
    for (size_t i = 0; i < n; i++) {
        size_t better = 0;
        for (size_t o = 0; o < n; o++)
            better += score[o] > score[i] || (score[o] == score[i] && o < i);
        mask[i] = better < keep && score[i] > 0.0;
    }
}

/* ---- forward -------------------------------------------------------------------------------- */

static inline double twin_code(const twin *t, size_t j, double p) {
    if (t->activation == DF_JUMPRELU) return p > twin_theta(t, j) ? p : 0.0;
    if (t->activation != DF_GATED) return p > 0.0 ? p : 0.0;
    double m = exp(t->w.r_mag[j]) * (p - t->w.b_enc[j]) + t->w.b_mag[j];
    return p > 0.0 && m > 0.0 ? m : 0.0;
}

static inline void twin_select(twin *t) {
    size_t n = t->rows * t->latents;
    for (size_t i = 0; i < t->sites * n; i++) t->site_mask[i] = 1.0;
    if (t->activation != DF_BATCHTOPK) return;
    double *score = calloc(n, sizeof *score);
    for (size_t s = 0; s < t->sites; s++) {
        bool decoupled = t->code_norm == DF_NORM_DECOUPLED;
        for (size_t i = 0; i < n; i++)
            score[i] = t->f[i] *
                       (decoupled ? twin_site_norm(t, i % t->latents, s) : t->norm[i % t->latents]);
        twin_best(score, n, t->k * t->rows, t->site_mask + s * n);
    }
    free(score);
}

static inline void twin_encode(twin *t) {
    for (size_t j = 0; j < t->latents; j++) t->norm[j] = twin_norm(t, j);
    for (size_t r = 0; r < t->rows; r++)
        for (size_t j = 0; j < t->latents; j++) {
            double p = t->w.b_enc[j];
            for (size_t c = 0; c < t->width; c++)
                p += t->w.w_enc[j * t->width + c] * twin_input(t, r, c);
            t->p[r * t->latents + j] = p;
            t->f[r * t->latents + j] = twin_code(t, j, p);
        }
    twin_select(t);
}

static inline size_t twin_site_of(const twin *t, size_t c) {
    size_t s = 0;
    while (c >= t->first[s + 1]) s++;
    return s;
}

/* Code of an entry as one column sees it. */
static inline double twin_seen(const twin *t, size_t i, size_t c) {
    return t->f[i] * t->site_mask[twin_site_of(t, c) * t->rows * t->latents + i];
}

static inline void twin_error(twin *t) {
    for (size_t r = 0; r < t->rows; r++)
        for (size_t c = 0; c < t->width; c++) {
            double sum = t->w.b_dec[c];
            for (size_t j = 0; j < t->latents; j++)
                sum += twin_seen(t, r * t->latents + j, c) * t->w.w_dec[j * t->width + c];
            t->e[r * t->width + c] = t->x[r * t->width + c] - sum;
        }
}

/* What the error of a row and site is divided by. */
static inline double twin_error_share(const twin *t, size_t site) {
    double rows = (double)t->rows, spread = 0.0;
    switch (t->o.reconstruction) {
    case DF_SQUARED_SUM:
        return rows;
    case DF_SQUARED_COLUMNS:
        return rows * (double)t->width;
    case DF_FVU_SITES:
        for (size_t c = t->first[site]; c < t->first[site + 1]; c++) {
            double mean = 0.0;
            for (size_t r = 0; r < t->rows; r++) mean += t->x[r * t->width + c] / rows;
            for (size_t r = 0; r < t->rows; r++) spread += pow(t->x[r * t->width + c] - mean, 2.0);
        }
        return spread;
    default:
        return rows * (double)t->sites;
    }
}

/* The reconstruction term and v = dL/dx^. */
static inline void twin_reconstruct(twin *t) {
    for (size_t r = 0; r < t->rows; r++)
        for (size_t s = 0; s < t->sites; s++) {
            double share = twin_error_share(t, s);
            double *e = t->e + r * t->width, *v = t->v + r * t->width, squares = 0.0;
            for (size_t c = t->first[s]; c < t->first[s + 1]; c++) squares += e[c] * e[c];
            double length = sqrt(squares);
            bool lengths = t->o.reconstruction == DF_UNSQUARED;
            t->term[TWIN_RECONSTRUCTION] += (lengths ? length : squares) / share;
            for (size_t c = t->first[s]; c < t->first[s + 1]; c++)
                v[c] = (lengths ? -e[c] / length : -2.0 * e[c]) / share;
        }
}

/* ---- backward ------------------------------------------------------------------------------- */

static inline void twin_decode_back(twin *t) {
    for (size_t r = 0; r < t->rows; r++)
        for (size_t c = 0; c < t->width; c++) {
            double v = t->v[r * t->width + c];
            t->g.b_dec[c] += v;
            for (size_t j = 0; j < t->latents; j++) {
                size_t i = r * t->latents + j;
                double mask = t->site_mask[twin_site_of(t, c) * t->rows * t->latents + i];
                t->g.w_dec[j * t->width + c] += t->f[i] * mask * v;
                t->gf[i] += mask * v * t->w.w_dec[j * t->width + c];
            }
        }
}

/* Value and derivative of the penalty of one code times norm; row: the row's sum of powers. */
static inline double twin_penalty(const twin *t, double s, double row, double *slope) {
    const df_objective *o = &t->o;
    *slope = 1.0;
    if (o->penalty == DF_PENALTY_L1) return s;
    if (o->penalty == DF_PENALTY_TANH) {
        double value = tanh(o->tanh_scale * s);
        *slope = o->tanh_scale * (1.0 - value * value);
        return value;
    }
    *slope = s > 0.0 ? o->power * pow(s, o->power - 1.0) : 0.0;
    if (o->rooted && s > 0.0) *slope = pow(row, 1.0 / o->power - 1.0) * pow(s, o->power - 1.0);
    return s > 0.0 ? pow(s, o->power) : 0.0;
}

/* The penalty of codes q [rows, latents], into their gradients gq. */
static inline void twin_penalise(twin *t, const double *q, double *gq) {
    double rows = (double)t->rows;
    if (t->o.penalty == DF_PENALTY_NONE || t->o.penalty >= DF_PENALTY_L0) return;
    for (size_t r = 0; r < t->rows; r++) {
        double row = 0.0, slope;
        for (size_t j = 0; j < t->latents; j++)
            row += twin_penalty(t, q[r * t->latents + j] * t->norm[j], 1.0, &slope);
        if (t->o.rooted) t->term[TWIN_SPARSITY] += pow(row, 1.0 / t->o.power) / rows;
        for (size_t j = 0; j < t->latents; j++) {
            size_t i = r * t->latents + j;
            double share = twin_share(t, j) / rows;
            double value = twin_penalty(t, q[i] * t->norm[j], row, &slope);
            if (!t->o.rooted) t->term[TWIN_SPARSITY] += share * value;
            gq[i] += t->o.weight * share * slope * t->norm[j];
            t->g_norm[j] += t->o.weight * share * slope * q[i];
        }
    }
}

/* dL/dH of one entry's step function. */
static inline double twin_step(twin *t) {
    double rows = (double)t->rows, off = t->l0 / t->o.target_l0 - 1.0;
    if (t->o.penalty == DF_PENALTY_L0) t->term[TWIN_SPARSITY] = t->l0;
    if (t->o.penalty == DF_PENALTY_L0) return t->o.weight / rows;
    if (t->o.penalty != DF_PENALTY_L0_TARGET) return 0.0;
    t->term[TWIN_SPARSITY] = off * off;
    return 2.0 * t->o.weight * off / t->o.target_l0 / rows;
}

static inline void twin_jump_back(twin *t) {
    double width = t->o.bandwidth, h = twin_step(t);
    for (size_t j = 0; j < t->latents; j++) {
        double theta = twin_theta(t, j), ste = 0.0;
        for (size_t r = 0; r < t->rows; r++) {
            size_t i = r * t->latents + j;
            double p = t->p[i], seen = t->o.step_on_codes ? t->f[i] : p;
            bool in = fabs(p - theta) < width / 2 && (p > 0.0 || !t->o.positive_window);
            bool step_in = fabs(seen - theta) < width / 2 && (seen > 0.0 || !t->o.positive_window);
            double change = (in ? theta / width * t->gf[i] : 0.0) + (step_in ? h / width : 0.0);
            ste -= change;
            t->gp[i] = (p > theta ? t->gf[i] : 0.0) + (t->o.gradient_to_all ? change : 0.0);
        }
        t->g.theta[j] += ste * (t->o.raw_threshold || t->o.plain_log ? 1.0 : theta);
    }
}

static inline void twin_preact(twin *t) {
    double weight = t->o.preact / (double)t->rows;
    for (size_t i = 0; i < t->rows * t->latents && t->o.preact > 0.0; i++) {
        size_t j = i % t->latents;
        double theta = twin_theta(t, j), below = theta - t->p[i];
        if (below <= 0.0 || (t->o.preact_dead && !t->dead[j])) continue;
        t->term[TWIN_PREACT] += below * t->norm[j] / (double)t->rows;
        t->gp[i] -= weight * t->norm[j];
        t->g_norm[j] += weight * below;
        t->g.theta[j] += weight * t->norm[j] * (t->o.raw_threshold ? 1.0 : theta);
    }
}

/* Gradients of pre-activations to the encoder; `bias`: to b_enc too. */
static inline void twin_encode_back(twin *t, const double *gp, bool bias) {
    for (size_t r = 0; r < t->rows; r++)
        for (size_t j = 0; j < t->latents; j++) {
            double g = gp[r * t->latents + j];
            if (bias) t->g.b_enc[j] += g;
            for (size_t c = 0; c < t->width; c++) {
                t->g.w_enc[j * t->width + c] += g * twin_input(t, r, c);
                if (t->subtract_bias) t->g.b_dec[c] -= g * t->w.w_enc[j * t->width + c];
            }
        }
}

/* Magnitudes first, then the gate: its penalty and its own reconstruction. */
static inline void twin_gated_back(twin *t) {
    size_t n = t->rows * t->latents;
    double *gate = calloc(n, sizeof *gate), *g = calloc(n, sizeof *g), rows = (double)t->rows;
    for (size_t i = 0; i < n; i++) {
        size_t j = i % t->latents;
        double grow = exp(t->w.r_mag[j]), gf = t->f[i] > 0.0 ? t->gf[i] : 0.0;
        t->g.r_mag[j] += gf * grow * (t->p[i] - t->w.b_enc[j]);
        t->g.b_mag[j] += gf;
        t->gp[i] = gf * grow;
        gate[i] = t->p[i] > 0.0 ? t->p[i] : 0.0;
    }
    twin_encode_back(t, t->gp, false);
    twin_penalise(t, gate, g);
    for (size_t r = 0; r < t->rows; r++)
        for (size_t c = 0; c < t->width; c++) {
            double e = t->x[r * t->width + c] - t->w.b_dec[c];
            for (size_t j = 0; j < t->latents; j++)
                e -= gate[r * t->latents + j] * t->w.w_dec[j * t->width + c];
            double v = -2.0 * e / rows;
            t->term[TWIN_GATE] += e * e / rows;
            if (t->o.gate_trains_decoder) t->g.b_dec[c] += v;
            for (size_t j = 0; j < t->latents; j++) {
                size_t i = r * t->latents + j;
                g[i] += v * t->w.w_dec[j * t->width + c];
                if (t->o.gate_trains_decoder) t->g.w_dec[j * t->width + c] += gate[i] * v;
            }
        }
    for (size_t i = 0; i < n; i++) t->gp[i] = t->p[i] > 0.0 ? g[i] : 0.0;
    free(gate);
    free(g);
}

/* AuxK on the dead latents: e is held. */
static inline void twin_auxiliary(twin *t) {
    size_t dead = 0, m = t->latents;
    double below = 0.0, rows = (double)t->rows;
    for (size_t j = 0; j < m; j++) dead += t->dead[j];
    if (!(t->aux > 0.0) || dead == 0) return;
    for (size_t c = 0; c < t->width; c++) {
        double mean = 0.0;
        for (size_t r = 0; r < t->rows; r++) mean += t->e[r * t->width + c] / rows;
        for (size_t r = 0; r < t->rows; r++)
            below += pow(t->e[r * t->width + c] - mean, 2.0) / rows;
    }
    double *score = calloc(m, sizeof *score), *mask = calloc(m, sizeof *mask);
    double *g = calloc(t->rows * m, sizeof *g);
    for (size_t r = 0; r < t->rows; r++) {
        for (size_t j = 0; j < m; j++)
            score[j] = t->dead[j] && t->p[r * m + j] > 0.0
                           ? t->p[r * m + j] * (t->activation == DF_BATCHTOPK ? t->norm[j] : 1.0)
                           : 0.0;
        twin_best(score, m, dead < t->aux_k ? dead : t->aux_k, mask);
        for (size_t c = 0; c < t->width; c++) {
            double q = -t->e[r * t->width + c];
            for (size_t j = 0; j < m; j++)
                q += mask[j] * t->p[r * m + j] * t->w.w_dec[j * t->width + c];
            t->term[TWIN_AUX] += q * q / rows / below;
            double v = 2.0 * t->aux * q / rows / below;
            for (size_t j = 0; j < m; j++) {
                g[r * m + j] += mask[j] * v * t->w.w_dec[j * t->width + c];
                t->g.w_dec[j * t->width + c] += mask[j] * t->p[r * m + j] * v;
            }
        }
    }
    twin_encode_back(t, g, true);
    free(score), free(mask), free(g);
}

static inline void twin_norm_back(twin *t) {
    bool whole = t->code_norm == DF_NORM_ROOT || t->code_norm == DF_NORM_MIXED;
    double parts = t->code_norm == DF_NORM_SUM ? 1.0 : t->code_norm == DF_NORM_MIXED ? 0.1 : 0.0;
    for (size_t j = 0; j < t->latents; j++)
        for (size_t c = 0; c < t->width; c++) {
            double part = twin_site_norm(t, j, twin_site_of(t, c)), all = 0.0;
            double w = t->w.w_dec[j * t->width + c];
            for (size_t s = 0; s < t->sites; s++) all += pow(twin_site_norm(t, j, s), 2.0);
            if (whole) t->g.w_dec[j * t->width + c] += t->g_norm[j] * w / sqrt(all);
            if (parts > 0.0 && part > 0.0)
                t->g.w_dec[j * t->width + c] += parts * t->g_norm[j] * w / part;
        }
}

static inline void twin_clear(twin *t) {
    size_t weights = t->latents * t->width, n = t->rows * t->latents, one = sizeof(double);
    memset(t->g.w_enc, 0, weights * one), memset(t->g.w_dec, 0, weights * one);
    memset(t->g.b_enc, 0, t->latents * one), memset(t->g.b_dec, 0, t->width * one);
    memset(t->g.theta, 0, t->latents * one), memset(t->g.r_mag, 0, t->latents * one);
    memset(t->g.b_mag, 0, t->latents * one), memset(t->g_norm, 0, t->latents * one);
    memset(t->gf, 0, n * one), memset(t->gp, 0, n * one);
    memset(t->term, 0, sizeof t->term);
    t->l0 = 0.0;
}

static inline void twin_run(twin *t) {
    size_t n = t->rows * t->latents;
    twin_clear(t);
    twin_bind(t);
    twin_encode(t);
    for (size_t i = 0; i < n; i++) {
        double any = 0.0;
        for (size_t s = 0; s < t->sites; s++) any += t->site_mask[s * n + i];
        t->l0 += (t->f[i] > 0.0 && any > 0.0) / (double)t->rows;
    }
    twin_error(t);
    twin_reconstruct(t);
    twin_decode_back(t);
    if (t->activation == DF_GATED) {
        twin_gated_back(t);
    } else {
        twin_penalise(t, t->f, t->gf);
        for (size_t i = 0; i < n; i++) t->gp[i] = t->f[i] > 0.0 ? t->gf[i] : 0.0;
    }
    if (t->activation == DF_JUMPRELU) twin_jump_back(t);
    twin_preact(t);
    twin_encode_back(t, t->gp, true);
    twin_auxiliary(t);
    twin_norm_back(t);
    twin_bind_back(t);
    t->loss = t->term[TWIN_RECONSTRUCTION] + t->o.weight * t->term[TWIN_SPARSITY] +
              t->o.preact * t->term[TWIN_PREACT] + t->term[TWIN_GATE] + t->aux * t->term[TWIN_AUX];
}

#endif
