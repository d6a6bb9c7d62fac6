/* Pooled FVU with its jackknife over document buckets. */
#include "fvu.h"

#include <math.h>

size_t sums_width(const df_dict *dict) {
    return 1 + dict->width + 2 * dict->sites;
}

/* Sums of squares of x and of x - x_hat over the columns of one site. */
static void add_squares(const df_dict_site *site, const float *x, const float *x_hat,
                        double *square, double *error) {
    double xx = 0, ee = 0;
    for (size_t c = site->first; c < site->first + site->width; c++) {
        double value = (double)x[c], e = value - (double)x_hat[c];
        xx += value * value;
        ee += e * e;
    }
    *square += xx;
    *error += ee;
}

void sums_add(const df_dict *dict, const float *x, const float *x_hat, size_t n, double *sums) {
    double *column = sums + 1, *square = column + dict->width, *error = square + dict->sites;
    sums[0] += (double)n;
    for (size_t r = 0; r < n; r++, x += dict->width, x_hat += dict->width) {
        for (size_t c = 0; c < dict->width; c++) column[c] += (double)x[c];
        for (size_t s = 0; s < dict->sites; s++)
            add_squares(&dict->site[s], x, x_hat, &square[s], &error[s]);
    }
}

/* sum |e|^2 / (sum |x|^2 - |sum x|^2 / rows) of the total less one bucket (NULL: less nothing). */
static double fvu_without(const df_dict *dict, size_t s, const double *total,
                          const double *bucket) {
    const df_dict_site *site = &dict->site[s];
    size_t squares = 1 + dict->width, errors = squares + dict->sites;
    double rows = total[0] - (bucket != NULL ? bucket[0] : 0), mean_part = 0;
    for (size_t c = site->first; c < site->first + site->width; c++) {
        double sum = total[1 + c] - (bucket != NULL ? bucket[1 + c] : 0);
        mean_part += sum * sum;
    }
    double square = total[squares + s] - (bucket != NULL ? bucket[squares + s] : 0);
    double error = total[errors + s] - (bucket != NULL ? bucket[errors + s] : 0);
    return error / (square - mean_part / rows);
}

/* NaN where fewer than two buckets have rows: one bucket has no spread. */
static double jackknife_error(const df_dict *dict, size_t s, const double *total,
                              const double *buckets) {
    double value[DF_EVAL_BUCKETS], mean = 0, spread = 0;
    size_t n = 0;
    for (size_t b = 0; b < DF_EVAL_BUCKETS; b++) {
        const double *bucket = buckets + b * sums_width(dict);
        if (bucket[0] > 0 && bucket[0] < total[0]) value[n++] = fvu_without(dict, s, total, bucket);
    }
    if (n < 2) return NAN;
    for (size_t i = 0; i < n; i++) mean += value[i] / (double)n;
    for (size_t i = 0; i < n; i++) spread += (value[i] - mean) * (value[i] - mean);
    return sqrt((double)(n - 1) / (double)n * spread);
}

df_status sums_fvu(const df_dict *dict, const double *buckets, df_evaluation *out) {
    size_t width = sums_width(dict);
    double *total = NULL; // [width]
    DF_TRY(DF_NEW(total, width));
    df_status status = DF_OK;
    for (size_t b = 0; b < DF_EVAL_BUCKETS; b++)
        for (size_t i = 0; i < width; i++) total[i] += buckets[b * width + i];
    for (size_t s = 0; s < dict->sites && status == DF_OK; s++) {
        out->fvu[s] = fvu_without(dict, s, total, NULL);
        out->fvu_error[s] = jackknife_error(dict, s, total, buckets);
        if (!isfinite(out->fvu[s]))
            status = df_fail(DF_BAD_INPUT,
                             "the held-out rows of %s, model %s, do not vary: FVU has no meaning",
                             dict->site[s].name, dict->site[s].model);
    }
    df_free(total);
    return status;
}
