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

/* Which site of which dictionary a statistic is of. */
typedef struct which {
    const df_dict *dict;
    size_t site;
} which;

/* sum |e|^2 / (sum |x|^2 - |sum x|^2 / rows) of one site. */
static double fvu_of(const double *sums, void *context) {
    const which *w = context;
    const df_dict_site *site = &w->dict->site[w->site];
    const double *column = sums + 1, *square = column + w->dict->width;
    const double *error = square + w->dict->sites;
    double mean_part = 0;
    for (size_t c = site->first; c < site->first + site->width; c++)
        mean_part += column[c] * column[c];
    return error[w->site] / (square[w->site] - mean_part / sums[0]);
}

df_status sums_fvu(const df_dict *dict, const double *buckets, df_evaluation *out) {
    for (size_t s = 0; s < dict->sites; s++) {
        which w = {dict, s};
        df_estimate found;
        DF_TRY(df_jackknife(buckets, sums_width(dict), fvu_of, &w, &found));
        if (!isfinite(found.value))
            return df_fail(DF_BAD_INPUT,
                           "the held-out rows of %s, model %s, do not vary: FVU has no meaning",
                           dict->site[s].name, dict->site[s].model);
        out->fvu[s] = found.value;
        out->fvu_error[s] = found.error;
    }
    return DF_OK;
}
