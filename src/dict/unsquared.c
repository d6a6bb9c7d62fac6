/* Reconstruction measured by lengths instead of squares, or by every site's own variance, and sums
 * of columns over the batch. */
#include "objective.h"

#include <math.h>
#include <string.h>

static df_range leaf_rows(const df_coder *c, size_t leaf) {
    size_t first = leaf * STAT_ROWS;
    return (df_range){first, c->rows - first < STAT_ROWS ? c->rows - first : STAT_ROWS};
}

df_status df_column_sums(df_coder *c, const float *rows, size_t stride, size_t width,
                         double *totals) {
    size_t leaves = (c->rows + STAT_ROWS - 1) / STAT_ROWS;
    df_range mine = df_share(leaves, c->size, c->rank);
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < mine.count; i++) {
        double *sum = c->row_leaves + i * (width + 1);
        df_range some = leaf_rows(c, mine.first + i);
        memset(sum, 0, (width + 1) * sizeof *sum);
        for (size_t r = some.first; r < some.first + some.count; r++) {
            for (size_t k = 0; k < width; k++) sum[k] += (double)rows[r * stride + k];
            sum[width] += df_sum_squares(rows + r * stride, width);
        }
    }
    return df_tree_sum(c->comm, leaves, width + 1, c->row_leaves, totals);
}

/* e_s becomes -e_s / (rows sites |e_s|), 0 where there is no error (as PyTorch has it); returns the
 * sum of lengths. */
static double turn_row(const df_coder *c, size_t r, double share) {
    const df_dict *d = c->dict;
    double lengths = 0.0;
    for (size_t s = 0; s < d->sites; s++) {
        if (!d->site[s].output) continue;
        float *e = c->error + r * c->out + (d->site[s].first - d->out.first);
        double length = sqrt(df_sum_squares(e, d->site[s].width));
        float factor = length > 0.0 ? (float)(-share / length) : 0.0f;
        for (size_t i = 0; i < d->site[s].width; i++) e[i] *= factor;
        lengths += length;
    }
    return lengths;
}

static df_status sum_lengths(df_coder *c, double share, double *out) {
    size_t leaves = (c->rows + STAT_ROWS - 1) / STAT_ROWS;
    df_range mine = df_share(leaves, c->size, c->rank);
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < leaves; i++) { // every rank turns all rows, and sums its own
        df_range some = leaf_rows(c, i);
        double sum = 0.0;
        for (size_t r = some.first; r < some.first + some.count; r++) sum += turn_row(c, r, share);
        if (i >= mine.first && i < mine.first + mine.count) c->row_leaves[i - mine.first] = sum;
    }
    return df_tree_sum(c->comm, leaves, 1, c->row_leaves, out);
}

static df_status turn_to_directions(df_coder *c, df_step_report *report) {
    double lengths, share = 1.0 / ((double)c->rows * (double)df_dict_outputs(c->dict));
    DF_TRY(sum_lengths(c, share, &lengths));
    report->reconstruction = lengths * share;
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
    for (size_t i = 0; i < c->out; i++) c->center_gradient[i] = (float)c->totals[i];
    return DF_OK;
}
