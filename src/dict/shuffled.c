/* Reading a shuffled file. */
#include "rows_parts.h"

#include "darkfield/kernels.h"

#include <string.h>

static df_status open_site(df_rows *rows, size_t s) {
    char path[32];
    uint64_t shape[DF_MAX_DIMS];
    snprintf(path, sizeof path, "/sites/%zu", s);
    DF_TRY(df_reader_find(rows->file, path, 2, &rows->site[s].type, shape));
    DF_TRY(df_reader_text(rows->file, path, "site", (char **)&rows->site[s].name));
    DF_TRY(df_reader_text(rows->file, path, "model", (char **)&rows->site[s].model));
    rows->site[s].width = shape[1];
    df_type type = rows->site[s].type;
    if (shape[0] == rows->n && shape[1] > 0 &&
        (type == DF_BF16 || type == DF_F16 || type == DF_F32))
        return df_add(rows->width, shape[1], &rows->width);
    return df_fail(DF_BAD_INPUT, "%s: %s is %s [%llu, %llu], expected bf16, f16 or f32 [%llu, ...]",
                   df_reader_path(rows->file), path, df_type_name(type),
                   (unsigned long long)shape[0], (unsigned long long)shape[1],
                   (unsigned long long)rows->n);
}

static df_status open_file(df_rows *rows, const char *path) {
    uint64_t shape[DF_MAX_DIMS];
    df_type type;
    char **names = NULL;
    size_t sites = 0;
    rows->kind = ROWS_SHUFFLED;
    DF_TRY(df_reader_open(path, "darkfield-rows", &rows->file));
    DF_TRY(df_reader_find(rows->file, "/source", 1, &type, shape));
    DF_TRY(df_reader_list(rows->file, "/sites", &names, &sites));
    for (size_t s = 0; s < sites; s++) df_free(names[s]);
    df_free(names);
    rows->n = shape[0];
    if (type != DF_U64 || rows->n == 0 || sites == 0)
        return df_fail(DF_BAD_INPUT, "%s: expected rows and sites, and /source as u64", path);
    DF_TRY(DF_NEW(rows->site, sites));
    rows->sites = sites;
    for (size_t s = 0; s < sites; s++) DF_TRY(open_site(rows, s));
    return DF_OK;
}

df_status df_rows_open_shuffled(const char *path, df_rows **out) {
    DF_TRY(DF_NEW(*out, 1));
    df_status status = open_file(*out, path);
    if (status != DF_OK) df_rows_close(out);
    return status;
}

uint64_t shuffled_source(const df_rows *rows, uint64_t i) {
    uint64_t source = 0;
    if (df_reader_rows(rows->file, "/source", i, 1, false, &source) != DF_OK) df_error_clear();
    return source;
}

/* ---- rows - */

static df_status refuse(const df_rows *rows, size_t s, uint64_t row) {
    return df_fail(DF_BAD_INPUT,
                   "%s: site %s of model %s, row %llu (row %llu of the activations): found NaN or "
                   "infinity, expected finite numbers",
                   df_reader_path(rows->file), rows->site[s].name, rows->site[s].model,
                   (unsigned long long)row, (unsigned long long)shuffled_source(rows, row));
}

/* Rows [first, first + n) of site s through `raw`. */
static df_status read_run(const df_rows *rows, size_t s, df_range run, char *raw, float *out) {
    char path[32];
    const df_rows_site *site = &rows->site[s];
    size_t bytes = site->width * df_type_bytes(site->type);
    snprintf(path, sizeof path, "/sites/%zu", s);
    DF_TRY(df_reader_rows(rows->file, path, run.first, run.count, true, raw));
    for (size_t r = 0; r < run.count; r++) {
        df_to_f32(site->type, raw + r * bytes, out + r * rows->width, site->width);
        if (!df_all_finite(out + r * rows->width, site->width))
            return refuse(rows, s, run.first + r);
    }
    return DF_OK;
}

static df_status read_site(const df_rows *rows, size_t s, const uint64_t *i, size_t n, float *out) {
    enum { MOST = 1 << 20 };
    size_t bytes = rows->site[s].width * df_type_bytes(rows->site[s].type);
    size_t most = MOST / bytes > 0 ? MOST / bytes : 1;
    char *raw = NULL;
    df_status status = DF_NEW(raw, (n < most ? n : most) * bytes);
    for (size_t at = 0, run; at < n && status == DF_OK; at += run) {
        for (run = 1; at + run < n && run < most && i[at + run] == i[at] + run;) run++;
        status = read_run(rows, s, (df_range){(size_t)i[at], run}, raw, out + at * rows->width);
    }
    df_free(raw);
    return status;
}

df_status shuffled_read(const df_rows *rows, const uint64_t *i, size_t n, float *out) {
    for (size_t s = 0; s < rows->sites; out += rows->site[s++].width)
        DF_TRY(read_site(rows, s, i, n, out));
    return DF_OK;
}
