/* golden.h: the records of a file that tests/golden/dict_oracle.py or dict_geometry_oracle.py made:
 * name (16 bytes), count (u64), so many doubles. Include it behind df_test.h and dict.h. */
#ifndef GOLDEN_H
#define GOLDEN_H

typedef struct golden {
    char *bytes;
    size_t size;
} golden;

/* The values of a record, or NULL. */
static inline const char *record(const golden *g, const char *name, size_t n) {
    for (size_t at = 0; at + 24 <= g->size;) {
        uint64_t count;
        memcpy(&count, g->bytes + at + 16, sizeof count);
        if (strncmp(g->bytes + at, name, 16) == 0) return count == n ? g->bytes + at + 24 : NULL;
        at += 24 + count * sizeof(double);
    }
    return NULL;
}

static inline double number(const golden *g, const char *name, size_t n, size_t i) {
    const char *from = record(g, name, n);
    double value = NAN;
    if (from != NULL) memcpy(&value, from + i * sizeof value, sizeof value);
    return value;
}

static inline void take(const golden *g, const char *name, size_t n, df_range part, float *to) {
    for (size_t i = 0; i < part.count; i++) to[i] = (float)number(g, name, n, part.first + i);
}

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

#endif
