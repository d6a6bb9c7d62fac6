/* Rows of activations as fp32, and which rows to use. */
#include "parts.h"

#include "darkfield/kernels.h"

#include <string.h>

#define CHUNK_BYTES ((size_t)1 << 20)

df_status df_acts_site(const df_acts *acts, const char *name, size_t *out) {
    const char **known;
    for (size_t i = 0; i < acts->sites; i++) {
        if (strcmp(acts->site[i].name, name) != 0) continue;
        *out = i;
        return DF_OK;
    }
    DF_TRY(DF_NEW(known, acts->sites));
    for (size_t i = 0; i < acts->sites; i++) known[i] = acts->site[i].name;
    const char *near = df_nearest(name, known, acts->sites);
    if (near == NULL && acts->sites > 0) near = known[0];
    df_free(known);
    return df_fail(DF_BAD_INPUT, "%s has no site %s; it has %zu%s%s", acts->path, name, acts->sites,
                   near != NULL ? ", the nearest is " : "", near != NULL ? near : "");
}

static df_status convert(const df_acts *acts, const struct df_site *site, uint64_t first,
                         size_t count, const char *raw, float *out, size_t ld) {
    size_t row_bytes = site->width * df_type_bytes(site->type);
    for (size_t r = 0; r < count; r++) {
        df_to_f32(site->type, raw + r * row_bytes, out + r * ld, site->width);
        if (!df_all_finite(out + r * ld, site->width))
            return df_fail(
                DF_BAD_INPUT,
                "%s: site %s, row %llu: found NaN or infinity, expected finite numbers; the "
                "model overflows there or the file is damaged",
                acts->path, site->name, (unsigned long long)(first + r));
    }
    return DF_OK;
}

typedef struct buffer { /* for raw rows */
    char *raw, *path;
    size_t rows;
} buffer;

static df_status buffer_open(const df_acts *acts, size_t site, size_t count, buffer *out) {
    size_t row_bytes = acts->site[site].width * df_type_bytes(acts->site[site].type);
    *out = (buffer){.rows = CHUNK_BYTES / row_bytes};
    if (out->rows > count) out->rows = count;
    if (out->rows == 0) out->rows = 1;
    out->path = df_format("/sites/%s", acts->site[site].name);
    if (out->path == NULL) return DF_FAILED;
    return DF_NEW(out->raw, out->rows * row_bytes);
}

static void buffer_close(buffer *b) {
    df_free(b->raw);
    df_free(b->path);
}

static df_status read_run(const df_acts *acts, size_t site, uint64_t first, size_t count,
                          const buffer *through, float *out, size_t ld) {
    for (size_t done = 0; done < count;) {
        size_t n = count - done < through->rows ? count - done : through->rows;
        DF_TRY(df_reader_rows(acts->file, through->path, first + done, n, true, through->raw));
        DF_TRY(
            convert(acts, &acts->site[site], first + done, n, through->raw, out + done * ld, ld));
        done += n;
    }
    return DF_OK;
}

df_status df_acts_read(const df_acts *acts, size_t site, uint64_t first, size_t count, float *out,
                       size_t ld) {
    buffer through;
    df_status status = buffer_open(acts, site, count, &through);
    if (status == DF_OK) status = read_run(acts, site, first, count, &through, out, ld);
    buffer_close(&through);
    return status;
}

// Runs of consecutive rows are read at once.
df_status df_acts_gather(const df_acts *acts, size_t site, const uint64_t *rows, size_t n,
                         float *out, size_t ld) {
    buffer through;
    df_status status = buffer_open(acts, site, n, &through);
    for (size_t i = 0, run; i < n && status == DF_OK; i += run) {
        for (run = 1; i + run < n && rows[i + run] == rows[i] + run;) run++;
        status = read_run(acts, site, rows[i], run, &through, out + i * ld, ld);
    }
    buffer_close(&through);
    return status;
}

/* ---- which rows ----------------------------------------------------------------------------- */

static bool wanted_part(const df_acts *acts, uint64_t document, int which) {
    return which == 2 || acts->heldout[document] == which;
}

df_status df_acts_rows(const df_acts *acts, int which, bool skip_first, uint64_t **rows,
                       size_t *n) {
    uint64_t window = 0;
    *n = 0;
    DF_TRY(DF_NEW(*rows, acts->rows));
    for (uint64_t d = 0; d < acts->documents; d++) {
        for (uint64_t r = acts->document[d]; r < acts->document[d + 1]; r++) {
            while (window < acts->windows && acts->window[window] < r) window++;
            bool starts = window < acts->windows && acts->window[window] == r;
            bool bos = acts->bos >= 0 && (int64_t)acts->tokens[r] == acts->bos;
            if (wanted_part(acts, d, which) && !(skip_first && (starts || bos)))
                (*rows)[(*n)++] = r;
        }
    }
    return DF_OK;
}
