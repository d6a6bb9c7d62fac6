/* Reconstruction measured by lengths instead of squares, or by every site's own variance, and sums
 * of columns over the batch. */
#include "objective.h"

#include <math.h>
#include <string.h>

static void add_columns(const df_coder *c, const df_row_terms *t, df_range rows, double *out) {
    (void)c;
    for (size_t r = rows.first; r < rows.first + rows.count; r++) {
        const float *row = t->rows + r * t->stride;
        for (size_t k = 0; k < t->width; k++) out[k] += (double)row[k];
        out[t->width] += df_sum_squares(row, t->width);
    }
}

df_status df_column_sums(df_coder *c, const float *rows, size_t stride, size_t width,
                         double *totals) {
    const df_row_terms terms = {add_columns, rows, stride, width};
    return df_row_sums(c, width + 1, &terms, totals);
}

static double site_length(const df_coder *c, size_t row, const df_dict_site *site) {
    const float *e = c->error + row * c->out + (site->first - c->dict->out.first);
    return sqrt(df_sum_squares(e, site->width));
}

static void add_lengths(const df_coder *c, const df_row_terms *t, df_range rows, double *out) {
    (void)t;
    for (size_t r = rows.first; r < rows.first + rows.count; r++) {
        double lengths = 0.0;
        for (size_t s = 0; s < c->dict->sites; s++)
            if (c->dict->site[s].output) lengths += site_length(c, r, &c->dict->site[s]);
        *out += lengths;
    }
}

/* e_s becomes -e_s / (rows sites |e_s|), 0 where there is no error (as PyTorch has it). */
static void turn_row(const df_coder *c, size_t r, double share) {
    const df_dict *d = c->dict;
    for (size_t s = 0; s < d->sites; s++) {
        if (!d->site[s].output) continue;
        float *e = c->error + r * c->out + (d->site[s].first - d->out.first);
        double length = site_length(c, r, &d->site[s]);
        float factor = length > 0.0 ? (float)(-share / length) : 0.0f;
        for (size_t i = 0; i < d->site[s].width; i++) e[i] *= factor;
    }
}

static df_status turn_to_directions(df_coder *c, df_step_report *report) {
    double lengths, share = 1.0 / ((double)c->batch * (double)df_dict_outputs(c->dict));
    DF_TRY(df_row_sums(c, 1, &(df_row_terms){.add = add_lengths}, &lengths));
    report->reconstruction = lengths * share;
#pragma omp parallel for schedule(static)
    for (size_t r = 0; r < c->rows; r++) turn_row(c, r, share); // of the group, on every rank
    return DF_OK;
}

/* e_s becomes -2 e_s / sum (x_s - mean x_s)^2; a site that does not vary has no loss. */
static void divide_by_spreads(df_coder *c, df_step_report *report) {
    report->reconstruction = 0.0;
    for (size_t n = 0; n < df_dict_outputs(c->dict); n++) {
        const df_dict_site *site = df_dict_output(c->dict, n);
        double below = report->spread[n];
        float factor = below > 0.0 ? (float)(-2.0 / below) : 0.0f;
        report->reconstruction += below > 0.0 ? report->error[n] / below : 0.0;
#pragma omp parallel for schedule(static)
        for (size_t r = 0; r < c->rows; r++) {
            float *e = c->error + r * c->out + (site->first - c->dict->out.first);
            for (size_t i = 0; i < site->width; i++) e[i] *= factor;
        }
    }
}

df_status df_shaped_error(df_coder *c, const df_objective *o, df_code_factor factor,
                          df_step_report *report) {
    if (o->reconstruction == DF_FVU_SITES)
        divide_by_spreads(c, report);
    else
        DF_TRY(turn_to_directions(c, report));
    df_code_gradients(c, &c->main, c->error, factor);
    DF_TRY(df_column_sums(c, c->error, c->out, c->out, c->totals));
    for (size_t i = 0; i < c->out; i++) c->center_gradient[i] += (float)c->totals[i];
    return DF_OK;
}
