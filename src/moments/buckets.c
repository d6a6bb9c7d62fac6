/* Document buckets and the jackknife over them. */
#include "darkfield/moments.h"

#include <math.h>
#include <string.h>

void df_buckets_make(const uint64_t *document, uint64_t documents, df_buckets *out) {
    uint64_t first = documents > 0 ? document[0] : 0, d = 0;
    uint64_t rows = documents > 0 ? document[documents] - first : 0;
    memset(out, 0, sizeof *out);
    out->row[0] = first;
    for (uint64_t b = 1; b <= DF_BUCKETS; b++) {
        // rows * b / 64 without overflow
        uint64_t end = first + rows / DF_BUCKETS * b + rows % DF_BUCKETS * b / DF_BUCKETS;
        while (d < documents && document[d] < end) d++;
        if (b == DF_BUCKETS) d = documents;
        out->document[b] = d;
        out->row[b] = documents > 0 ? document[d] : 0;
    }
}

static void add_row(double *into, const double *row, size_t width) {
    for (size_t j = 0; j < width; j++) into[j] += row[j];
}

/* Sums over all buckets but one; `left_out` >= 64 leaves none out. */
static void sum_without(const double *buckets, size_t width, size_t left_out, double *sums) {
    memset(sums, 0, width * sizeof *sums);
    for (size_t b = 0; b < DF_BUCKETS; b++)
        if (b != left_out) add_row(sums, buckets + b * width, width);
}

static double error_of(const double *without, size_t n) {
    double mean = 0, squares = 0;
    if (n < 2) return (double)NAN;
    for (size_t i = 0; i < n; i++) mean += without[i] / (double)n;
    for (size_t i = 0; i < n; i++) squares += (without[i] - mean) * (without[i] - mean);
    return sqrt((double)(n - 1) / (double)n * squares);
}

df_status df_jackknife(const double *buckets, size_t width, df_statistic statistic, void *context,
                       df_estimate *out) {
    double *sums, without[DF_BUCKETS];
    size_t n = 0;
    DF_TRY(DF_NEW(sums, width));
    sum_without(buckets, width, DF_BUCKETS, sums);
    out->value = statistic(sums, context);
    for (size_t b = 0; b < DF_BUCKETS; b++) {
        if (buckets[b * width] == 0) continue;
        sum_without(buckets, width, b, sums);
        without[n++] = statistic(sums, context);
    }
    out->error = error_of(without, n);
    df_free(sums);
    return DF_OK;
}
