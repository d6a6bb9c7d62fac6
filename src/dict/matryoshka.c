/* Matryoshka dictionaries (Bussmann et al. 2025, arXiv 2503.17547): the first latents alone, up to
 * each of some prefixes, reconstruct x too. With e_g the error of prefix g and w its weight,
 *   L = w sum_g mean |e_g|^2,   E_g = w sum_{g' >= g} e_g',
 * and a latent whose smallest prefix is g learns from E_g as it would from e. */
#include "objective.h"

#include <string.h>

/* The codes of latents [first, end), in the order they had. */
static void take_segment(df_coder *c, size_t first, size_t end) {
    const df_codes *from = &c->main.codes;
    df_codes *to = &c->segment.codes;
    uint64_t n = 0;
    for (size_t r = 0; r < c->rows; r++) {
        to->start[r] = n;
        for (uint64_t i = from->start[r]; i < from->start[r + 1]; i++) {
            size_t latent = c->dict->mine.first + from->latent[i];
            if (latent < first || latent >= end) continue;
            to->latent[n] = from->latent[i];
            to->value[n++] = from->value[i];
        }
    }
    to->start[c->rows] = n;
    to->rows = c->rows;
}

/* Adds the segment's part to the reconstruction so far; e_g = x - (that + b_dec) into `out`. Every
 * segment has its own fixed tree, and segments are added in their order. */
static void segment_error(df_coder *c, df_range mine, float *out) {
    df_decode(c, &c->segment.codes, false, out);
    for (size_t r = 0; r < mine.count; r++) {
        const float *x = c->x + (mine.first + r) * c->width + c->dict->out.first;
        float *sum = c->running + r * c->out, *e = out + r * c->out;
        df_add_row(sum, e, c->out);
        for (size_t i = 0; i < c->out; i++) e[i] = x[i] - (sum[i] + c->dict->b_dec[i]);
    }
}

static void prefix_errors(df_coder *c) {
    df_range mine = df_share(c->rows, c->size, c->rank);
    size_t plane = c->max_rows * c->out, first = 0;
    memset(c->running, 0, mine.count * c->out * sizeof *c->running);
    df_skip(c, c->rows);
    for (size_t r = 0; r < mine.count; r++) df_skip_add(c, r, mine.count, c->running + r * c->out);
    for (size_t g = 0; g < c->dict->prefixes; g++) {
        float *e = c->nested + g * plane;
        take_segment(c, first, c->dict->prefix[g]);
        segment_error(c, mine, c->size > 1 ? c->mine : e);
        if (c->size > 1) df_gather_rows(c, c->mine, e);
        first = c->dict->prefix[g];
    }
}

/* From the errors to E_g, the last prefix first. */
static void accumulate(df_coder *c, float weight) {
    size_t plane = c->max_rows * c->out, n = c->rows * c->out;
    for (size_t g = c->dict->prefixes; g-- > 0;) {
        float *e = c->nested + g * plane;
        const float *above = g + 1 < c->dict->prefixes ? e + plane : NULL;
#pragma omp parallel for schedule(static)
        for (size_t i = 0; i < n; i++)
            e[i] = above != NULL ? weight * e[i] + above[i] : weight * e[i];
    }
}

void df_nested_code_gradients(df_coder *c, df_code_factor factor) {
    const df_dict *d = c->dict;
    const df_codes *codes = &c->main.codes;
    size_t plane = c->max_rows * c->out;
#pragma omp parallel for schedule(static)
    for (size_t r = 0; r < c->rows; r++) {
        size_t at = codes->start[r];
        for (size_t g = 0; g < d->prefixes; g++) {
            size_t from = at;
            while (at < codes->start[r + 1] && d->mine.first + codes->latent[at] < d->prefix[g])
                at++;
            df_code_gradient_span(c, &c->main, (df_range){from, at - from},
                                  c->nested + g * plane + r * c->out, factor);
        }
    }
}

df_status df_nested_errors(df_coder *c, df_code_factor factor, double weight,
                           df_step_report *report) {
    size_t plane = c->max_rows * c->out;
    double total = 0.0, squares;
    prefix_errors(c);
    for (size_t g = 0; g < c->dict->prefixes; g++) {
        DF_TRY(df_total_squares(c, c->nested + g * plane, &squares));
        total += squares;
    }
    report->nested = weight * total / (double)c->batch;
    memcpy(c->error, c->nested + (c->dict->prefixes - 1) * plane,
           c->rows * c->out * sizeof *c->error);
    accumulate(c, (float)weight);
    df_nested_code_gradients(c, factor);
    return DF_OK;
}

df_status df_nested_center(df_coder *c) {
    DF_TRY(df_column_sums(c, c->nested, c->out, c->out, c->totals));
    for (size_t i = 0; i < c->out; i++)
        c->center_gradient[i] = (float)((double)c->error_factor * c->totals[i]);
    return DF_OK;
}
