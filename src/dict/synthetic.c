/* Rows of known directions, computed from their numbers. */
#include "rows_parts.h"

#include <math.h>
#include <string.h>

/* Evaluation sees rows that training never reaches. */
#define FRESH (UINT64_C(1) << 40)

void df_synthetic_direction(const df_synthetic *spec, size_t direction, float *out, int *class_) {
    size_t shared = spec->directions - (spec->models > 1 ? 2 * spec->exclusive : 0);
    *class_ = direction < shared ? 0 : direction < shared + spec->exclusive ? 1 : 2;
    memset(out, 0, spec->models * spec->width * sizeof *out);
    for (size_t m = 0; m < spec->models; m++, out += spec->width) {
        if (*class_ != 0 && m + 1 != (size_t)*class_) continue;
        uint64_t first = (m * spec->directions + direction) * spec->width;
        double square = 0;
        for (size_t c = 0; c < spec->width; c++) {
            double value = df_random_normal(spec->seed, DF_STREAM_SYNTHETIC, first + c);
            square += value * value;
            out[c] = (float)value;
        }
        for (size_t c = 0; c < spec->width; c++) out[c] = (float)((double)out[c] / sqrt(square));
    }
}

static df_status check_spec(const df_synthetic *spec) {
    if (spec->models < 1 || spec->models > 2 || spec->width < 1 || spec->directions < 1)
        return df_fail(DF_USAGE, "synthetic rows need one or two models, a width and directions");
    if (spec->models > 1 && 2 * spec->exclusive > spec->directions)
        return df_fail(DF_USAGE, "%zu directions of each model alone are more than %zu in all",
                       spec->exclusive, spec->directions);
    if (spec->probability > 0 && spec->probability <= 1 && spec->low > 0 && spec->low <= spec->high)
        return DF_OK;
    return df_fail(DF_USAGE,
                   "synthetic rows: probability %g must be above 0 and at most 1, strength "
                   "0 < %g <= %g",
                   spec->probability, spec->low, spec->high);
}

static df_status open_toy(df_rows *rows, const df_synthetic *spec) {
    static const char *const models[2] = {"a", "b"};
    DF_TRY(check_spec(spec));
    rows->kind = ROWS_SYNTHETIC;
    rows->toy = *spec;
    rows->n = UINT64_MAX;
    rows->sites = spec->models;
    rows->width = spec->models * spec->width;
    DF_TRY(DF_NEW(rows->site, rows->sites));
    for (size_t s = 0; s < rows->sites; s++)
        rows->site[s] = (df_rows_site){"synthetic", models[s], spec->width, DF_F32};
    DF_TRY(DF_NEW(rows->directions, spec->directions * rows->width));
    for (size_t f = 0; f < spec->directions; f++) {
        int class_;
        df_synthetic_direction(spec, f, rows->directions + f * rows->width, &class_);
    }
    return DF_OK;
}

df_status df_rows_open_synthetic(const df_synthetic *spec, df_rows **out) {
    DF_TRY(DF_NEW(*out, 1));
    df_status status = open_toy(*out, spec);
    if (status != DF_OK) df_rows_close(out);
    return status;
}

/* One draw of 64 bits for a row and direction: the upper half decides presence, the lower one
 * strength. */
void synthetic_read(const df_rows *rows, const uint64_t *i, size_t n, float *out) {
    const df_synthetic *toy = &rows->toy;
    uint32_t below = (uint32_t)fmin(toy->probability * 0x1p32, 0x1p32 - 1);
    memset(out, 0, n * rows->width * sizeof *out);
    for (size_t r = 0; r < n; r++, out += rows->width) {
        uint64_t row = i[r] + (toy->fresh ? FRESH : 0);
        for (size_t f = 0; f < toy->directions; f++) {
            uint64_t bits =
                df_random_bits(toy->seed, DF_STREAM_SYNTHETIC_ROWS, row * toy->directions + f);
            if (bits >> 32 >= below && toy->probability < 1) continue;
            double part = (double)(uint32_t)bits * 0x1p-32;
            float strength = (float)(toy->low + (toy->high - toy->low) * part);
            const float *direction = rows->directions + f * rows->width;
            for (size_t c = 0; c < rows->width; c++) out[c] += strength * direction[c];
        }
    }
}
