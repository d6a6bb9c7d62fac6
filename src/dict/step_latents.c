/* Gradients and Adam, one pass over the latents: each row of the weights and moments is read and
 * written once. */
#include "step.h"

#include <math.h>
#include <string.h>

void df_sort_by_latent(const df_coder *c, df_code_store *s) {
    uint64_t *start = s->latent_start, entries = s->codes.start[s->codes.rows];
    memset(start, 0, (c->local + 1) * sizeof *start);
    for (uint64_t i = 0; i < entries; i++) start[s->codes.latent[i] + 1]++;
    for (size_t j = 0; j < c->local; j++) start[j + 1] += start[j];
    for (size_t r = 0; r < s->codes.rows; r++)
        for (uint64_t i = s->codes.start[r]; i < s->codes.start[r + 1]; i++) {
            uint64_t at = start[s->codes.latent[i]]++;
            s->sorted_row[at] = (uint32_t)r;
            s->sorted_value[at] = s->codes.value[i];
            s->sorted_gradient[at] = s->gradient[i];
        }
    memmove(start + 1, start, c->local * sizeof *start);
    start[0] = 0;
}

/* Adds the entries of one latent to its gradients; returns sum of dL/df, which is dL/db. */
static double add_entries(const df_coder *c, df_worker *w, const df_code_store *s, size_t j,
                          const float *vectors, float factor) {
    double bias = 0.0;
    for (uint64_t i = s->latent_start[j]; i < s->latent_start[j + 1]; i++) {
        size_t row = s->sorted_row[i];
        df_add_scaled(w->g_enc, s->sorted_gradient[i], c->input + row * c->width, c->width);
        df_add_scaled(w->g_dec, factor * s->sorted_value[i], vectors + row * c->width, c->width);
        bias += (double)s->sorted_gradient[i];
    }
    return bias;
}

/* The L1 term's gradient through the code norm: the sum of f along each site's decoder direction,
 * or the whole row's. */
static void add_norm_gradient(const df_coder *c, df_worker *w, size_t j) {
    const df_dict *d = c->dict;
    if (!(c->l1_factor > 0.0f) || d->code_norm == DF_NORM_NONE) return;
    double sum = 0.0;
    for (uint64_t i = c->main.latent_start[j]; i < c->main.latent_start[j + 1]; i++)
        sum += (double)c->main.sorted_value[i];
    size_t parts = d->code_norm == DF_NORM_ROOT ? 1 : d->sites;
    for (size_t s = 0; s < parts; s++) {
        size_t first = parts == 1 ? 0 : d->site[s].first,
               width = parts == 1 ? c->width : d->site[s].width;
        const float *row = d->w_dec + j * c->width + first;
        double length = sqrt(df_sum_squares(row, width));
        if (length > 0.0)
            df_add_scaled(w->g_dec + first, (float)((double)c->l1_factor * sum / length), row,
                          width);
    }
}

static float latent_gradient(const df_coder *c, df_worker *w, size_t j) {
    memset(w->g_enc, 0, c->width * sizeof *w->g_enc);
    memset(w->g_dec, 0, c->width * sizeof *w->g_dec);
    double bias = add_entries(c, w, &c->main, j, c->error, c->error_factor);
    if (c->aux.codes.rows > 0) bias += add_entries(c, w, &c->aux, j, c->aux_error, c->aux_factor);
    add_norm_gradient(c, w, j);
    return (float)bias;
}

/* Takes the part along the decoder row out of its gradient. */
static void project(const df_coder *c, float *g, const float *row) {
    double squares = df_sum_squares(row, c->width);
    if (squares > 0.0)
        df_add_scaled(g, (float)(-(double)df_dot(g, row, c->width) / squares), row, c->width);
}

static void renormalise(const df_coder *c, float *row) {
    double length = sqrt(df_sum_squares(row, c->width));
    float scale = length > 0.0 ? (float)(1.0 / length) : 1.0f;
    for (size_t i = 0; i < c->width; i++) row[i] *= scale;
}

static void apply_adam(df_coder *c, df_worker *w, size_t j, float bias, const df_sink *sink) {
    size_t at = j * c->width;
    df_trainer_state *s = &c->state;
    if (sink->unit_decoder) project(c, w->g_dec, c->dict->w_dec + at);
    df_adam_row(sink->adam, (df_moments){c->dict->w_enc + at, s->m_enc + at, s->v_enc + at},
                w->g_enc, c->width);
    df_adam_row(sink->adam, (df_moments){c->dict->w_dec + at, s->m_dec + at, s->v_dec + at},
                w->g_dec, c->width);
    df_adam_row(sink->adam, (df_moments){c->dict->b_enc + j, s->m_bias + j, s->v_bias + j}, &bias,
                1);
    if (sink->unit_decoder) renormalise(c, c->dict->w_dec + at);
}

static void hand_out(const df_coder *c, const df_worker *w, size_t j, float bias,
                     const df_gradients *out) {
    size_t at = j * c->width, bytes = c->width * sizeof(float);
    if (out->w_enc != NULL) memcpy(out->w_enc + at, w->g_enc, bytes);
    if (out->w_dec != NULL) memcpy(out->w_dec + at, w->g_dec, bytes);
    if (out->b_enc != NULL) out->b_enc[j] = bias;
}

/* p = W (x - b_dec): b_dec's gradient through the encoder is minus the sum of b_enc's times the
 * encoder rows. */
static void block_gradients(df_coder *c, df_worker *w, size_t b, const df_sink *sink) {
    size_t first = b * c->block, end = first + c->block < c->local ? first + c->block : c->local;
    double *center = c->block_leaves + b * c->width;
    memset(center, 0, c->width * sizeof *center);
    for (size_t j = first; j < end; j++) {
        float bias = latent_gradient(c, w, j);
        const float *row = c->dict->w_enc + j * c->width;
        if (c->dict->subtract_bias && bias != 0.0f)
            for (size_t i = 0; i < c->width; i++) center[i] += (double)bias * (double)row[i];
        if (sink->adam != NULL)
            apply_adam(c, w, j, bias, sink);
        else
            hand_out(c, w, j, bias, sink->out);
    }
}

df_status df_latent_gradients(df_coder *c, const df_sink *sink) {
#pragma omp parallel for schedule(dynamic)
    for (size_t b = 0; b < c->my_blocks.count; b++) block_gradients(c, df_coder_worker(c), b, sink);
    if (!c->dict->subtract_bias) return DF_OK;
    DF_TRY(df_tree_sum(c->comm, c->blocks, c->width, c->block_leaves, c->totals));
    for (size_t i = 0; i < c->width; i++) c->center_gradient[i] -= (float)c->totals[i];
    return DF_OK;
}
