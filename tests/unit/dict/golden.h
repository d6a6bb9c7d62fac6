/* golden.h: the .bin files of tests/golden: records of name (16 bytes, zero padded), count (u64),
 * so many doubles. A record that is not there reads as NaN, which no comparison takes for close. */
#ifndef GOLDEN_H
#define GOLDEN_H

#define DF_TEST_MPI
#include "df_test.h"

#include "darkfield/dict.h"

typedef struct golden {
    char *bytes;
    size_t size;
} golden;

/* Reads tests/golden/FAMILY NAME.bin; df_free its bytes. */
static inline df_status golden_open(golden *g, const char *family, const char *name) {
    char path[512];
    snprintf(path, sizeof path, "%s/tests/golden/%s%s.bin", DF_SOURCE_DIR, family, name);
    return df_read_file(path, &g->bytes, &g->size);
}

/* The values of a record and their number, or NULL and 0. All lie on multiples of 8 bytes. */
static inline const double *golden_find(const golden *g, const char *name, size_t *n) {
    *n = 0;
    for (size_t at = 0; at + 24 <= g->size;) {
        uint64_t count;
        memcpy(&count, g->bytes + at + 16, sizeof count);
        if (strncmp(g->bytes + at, name, 16) == 0) {
            *n = (size_t)count;
            return (const double *)(const void *)(g->bytes + at + 24);
        }
        at += 24 + count * sizeof(double);
    }
    return NULL;
}

/* The values of a record of n, or NULL. */
static inline const double *record(const golden *g, const char *name, size_t n) {
    size_t found;
    const double *values = golden_find(g, name, &found);
    return found == n ? values : NULL;
}

static inline double number(const golden *g, const char *name, size_t n, size_t i) {
    const double *values = record(g, name, n);
    return values != NULL ? values[i] : (double)NAN;
}

/* Part of a record as floats; a whole one, where there is one, as doubles. */
static inline void take(const golden *g, const char *name, size_t n, df_range part, float *to) {
    for (size_t i = 0; i < part.count; i++) to[i] = (float)number(g, name, n, part.first + i);
}

static inline void take_doubles(const golden *g, const char *name, size_t n, double *to) {
    const double *values = record(g, name, n);
    if (values != NULL) memcpy(to, values, n * sizeof *to);
}

/* What this rank has of the weights of a dictionary. */
static inline void take_weights(const golden *file, df_dict *d) {
    size_t first = d->mine.first, end = first + d->mine.count, in = d->in.count;
    size_t enc = df_dict_enc_floats(d, first), dec = df_dict_dec_floats(d, first);
    take(file, "w_enc", df_dict_enc_floats(d, d->latents),
         (df_range){enc, df_dict_enc_floats(d, end) - enc}, d->w_enc);
    take(file, "w_dec", df_dict_dec_floats(d, d->latents),
         (df_range){dec, df_dict_dec_floats(d, end) - dec}, d->w_dec);
    take(file, "b_enc", d->latents, d->mine, d->b_enc);
    take(file, "b_dec", d->out.count, (df_range){0, d->out.count}, d->b_dec);
    if (d->activation == DF_JUMPRELU) take(file, "theta", d->latents, d->mine, d->theta);
    if (d->activation == DF_GATED) {
        take(file, "r_mag", d->latents, d->mine, d->r_mag);
        take(file, "b_mag", d->latents, d->mine, d->b_mag);
    }
    if (d->w_skip != NULL)
        take(file, "w_skip", d->out.count * in,
             (df_range){d->skip_rows.first * in, d->skip_rows.count * in}, d->w_skip);
}

/* Relative L2 distance of `part` of a record from a; of a whole one from doubles. */
static inline double distance(const golden *g, const char *name, size_t n, df_range part,
                              const float *a) {
    double above = 0.0, below = 1e-30;
    for (size_t i = 0; i < part.count; i++) {
        double b = number(g, name, n, part.first + i);
        above += ((double)a[i] - b) * ((double)a[i] - b);
        below += b * b;
    }
    return part.count > 0 ? sqrt(above / below) : 0.0;
}

static inline double distance_doubles(const golden *g, const char *name, size_t n,
                                      const double *a) {
    double above = 0.0, below = 1e-30;
    for (size_t i = 0; i < n; i++) {
        double b = number(g, name, n, i);
        above += (a[i] - b) * (a[i] - b);
        below += b * b;
    }
    return sqrt(above / below);
}

#endif
