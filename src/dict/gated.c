/* Gated dictionaries (Rajamanoharan et al. 2024, arXiv 2404.16014): a gate decides which latents
 * are active, a magnitude how much. `side` holds the open gates with pi = p, main the active
 * latents. */
#include "objective.h"

#include <string.h>

/* f = relu(exp(r_mag) (pi - b_gate) + b_mag). */
static float magnitude(const df_coder *c, size_t j, float gate) {
    const df_dict *d = c->dict;
    float f = c->magnify[j] * (gate - d->b_enc[j]) + d->b_mag[j];
    return f > 0.0f ? f : 0.0f;
}

df_status df_gated_open(df_coder *c) {
    const df_codes *gates = &c->side.codes;
    uint64_t n = 0;
    DF_TRY(df_codes_reserve(&c->main, gates->start[c->rows]));
    df_codes *out = &c->main.codes;
    for (size_t r = 0; r < c->rows; r++) {
        out->start[r] = n;
        for (uint64_t i = gates->start[r]; i < gates->start[r + 1]; i++) {
            float f = magnitude(c, gates->latent[i], gates->value[i]);
            if (!(f > 0.0f)) continue;
            out->value[n] = f;
            out->latent[n++] = gates->latent[i];
        }
    }
    out->start[c->rows] = n;
    out->rows = c->rows;
    return DF_OK;
}

df_status df_gated_error(df_coder *c, const df_objective *o, df_step_report *report) {
    double per_row = 1.0 / (double)c->batch;
    c->gate_factor = (float)(-2.0 * per_row);
    df_error_rows(c, &c->side, c->gate_error, &(df_code_factor){.product = c->gate_factor});
    DF_TRY(df_column_sums(c, c->gate_error, c->out, c->out, c->totals));
    report->gate = c->totals[c->out] * per_row;
    for (size_t i = 0; i < c->out && o->gate_trains_decoder; i++)
        c->center_gradient[i] -= (float)(2.0 * per_row * c->totals[i]);
    return DF_OK;
}

/* f = exp(r) product + b_mag on active entries: df/dr = f - b_mag, df/db_mag = 1, df/d product =
 * exp(r). */
void df_gated_latent(df_coder *c, size_t j, const df_entries *active) {
    double of_r = 0.0, of_b = 0.0;
    for (size_t i = 0; i < active->n; i++) {
        double g = (double)active->gradient[i];
        of_r += g * ((double)active->value[i] - (double)c->dict->b_mag[j]);
        of_b += g;
        active->gradient[i] *= c->magnify[j];
    }
    c->r_gradient[df_run_slot(c, j)] = (float)of_r;
    c->b_gradient[df_run_slot(c, j)] = (float)of_b;
}
