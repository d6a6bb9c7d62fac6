/* Pooled FVU with its jackknife over document buckets. */
#include "fvu.h"

#include <math.h>

size_t sums_width(const df_dict *dict) {
    return sums_batches(dict) + BATCH_SUMS * df_dict_outputs(dict);
}

size_t sums_batches(const df_dict *dict) {
    return 1 + dict->out.count + 2 * df_dict_outputs(dict);
}

/* Sums of squares of x and of x - x_hat over the columns of one site. */
static void add_squares(df_range columns, const float *x, const float *x_hat, double *square,
                        double *error) {
    double xx = 0, ee = 0;
    for (size_t c = columns.first; c < columns.first + columns.count; c++) {
        double value = (double)x[c], e = value - (double)x_hat[c];
        xx += value * value;
        ee += e * e;
    }
    *square += xx;
    *error += ee;
}

df_range written_columns(const df_dict *dict, size_t n) {
    const df_dict_site *site = df_dict_output(dict, n);
    return (df_range){site->first - dict->out.first, site->width};
}

void sums_add(const df_dict *dict, const float *x, const float *x_hat, size_t n, double *sums) {
    size_t outputs = df_dict_outputs(dict), out = dict->out.count;
    double *column = sums + 1, *square = column + out, *error = square + outputs;
    sums[0] += (double)n;
    x += dict->out.first;
    for (size_t r = 0; r < n; r++, x += dict->width, x_hat += out) {
        for (size_t c = 0; c < out; c++) column[c] += (double)x[c];
        for (size_t s = 0; s < outputs; s++)
            add_squares(written_columns(dict, s), x, x_hat, &square[s], &error[s]);
    }
}

/* Which site of which dictionary a statistic is of. */
typedef struct which {
    const df_dict *dict;
    size_t site;
} which;

/* sum |e|^2 / (sum |x|^2 - |sum x|^2 / rows) of one site. */
static double fvu_of(const double *sums, void *context) {
    const which *w = context;
    const df_range columns = written_columns(w->dict, w->site);
    const double *column = sums + 1, *square = column + w->dict->out.count;
    const double *error = square + df_dict_outputs(w->dict);
    double mean_part = 0;
    for (size_t c = columns.first; c < columns.first + columns.count; c++)
        mean_part += column[c] * column[c];
    return error[w->site] / (square[w->site] - mean_part / sums[0]);
}

static double mean_of(const double *sums, const which *w, int ratios, int count) {
    const double *of = sums + sums_batches(w->dict) + w->site * BATCH_SUMS;
    return of[ratios] / of[count];
}

static double by_batches(const double *sums, void *context) {
    return mean_of(sums, context, BATCH_RATIOS, BATCHES);
}

static double by_rows(const double *sums, void *context) {
    return mean_of(sums, context, ROW_RATIOS, ROWS);
}

df_status sums_fvu(const df_dict *dict, const double *buckets, df_evaluation *out) {
    for (size_t s = 0; s < df_dict_outputs(dict); s++) {
        which w = {dict, s};
        df_estimate found;
        DF_TRY(df_jackknife(buckets, sums_width(dict), fvu_of, &w, &found));
        if (!isfinite(found.value))
            return df_fail(DF_BAD_INPUT,
                           "the held-out rows of %s, model %s, do not vary: FVU has no meaning",
                           df_dict_output(dict, s)->name, df_dict_output(dict, s)->model);
        out->fvu[s] = found.value;
        out->fvu_error[s] = found.error;
        DF_TRY(df_jackknife(buckets, sums_width(dict), by_batches, &w, &found));
        out->fvu_batches[s] = found.value;
        out->fvu_batches_error[s] = found.error;
        DF_TRY(df_jackknife(buckets, sums_width(dict), by_rows, &w, &found));
        out->fvu_rows[s] = found.value;
        out->fvu_rows_error[s] = found.error;
    }
    return DF_OK;
}
