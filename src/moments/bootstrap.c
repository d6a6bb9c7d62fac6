/* The bootstrap over documents. */
#include "darkfield/moments.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void sum_sample(const double *units, uint64_t n, size_t width, uint64_t seed,
                       uint64_t sample, double *sum) {
    memset(sum, 0, width * sizeof *sum);
    for (uint64_t i = 0; i < n; i++) {
        double u = df_random_uniform(seed, DF_STREAM_BOOTSTRAP, sample * n + i);
        const double *unit = units + (size_t)(u * (double)n) * width;
        for (size_t j = 0; j < width; j++) sum[j] += unit[j];
    }
}

void df_bootstrap(const double *units, uint64_t n, size_t width, uint64_t seed, double *out) {
#pragma omp parallel for schedule(static)
    for (size_t s = 0; s < DF_RESAMPLES; s++) sum_sample(units, n, width, seed, s, out + s * width);
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double point(const double *sorted, size_t n, double share) {
    double place = share * (double)(n - 1), below = floor(place);
    size_t i = (size_t)below, next = i + 1 < n ? i + 1 : i;
    return sorted[i] + (place - below) * (sorted[next] - sorted[i]);
}

df_interval df_percentile_interval(double *values, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!isfinite(values[i])) return (df_interval){(double)NAN, (double)NAN};
    if (n == 0) return (df_interval){(double)NAN, (double)NAN};
    qsort(values, n, sizeof *values, by_value);
    return (df_interval){point(values, n, 0.025), point(values, n, 0.975)};
}
