/* The median of measured times. */
#ifndef DF_BENCH_MEDIAN_H
#define DF_BENCH_MEDIAN_H

#include <stdlib.h>

static inline int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Sorts them. */
static inline double median(double *v, size_t n) {
    qsort(v, n, sizeof *v, by_value);
    return (v[(n - 1) / 2] + v[n / 2]) / 2.0;
}

#endif
