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

static df_status refuse(const df_acts *acts, const struct df_site *site, uint64_t row) {
    size_t document = df_run_holding(acts->document, acts->documents, row);
    return df_fail(DF_BAD_INPUT,
                   "%s: site %s, row %llu (document %llu of the corpus): found NaN or infinity, "
                   "expected finite numbers; the model overflows there or the file is damaged",
                   acts->path, site->name, (unsigned long long)row,
                   (unsigned long long)(acts->documents > 0 ? acts->source[document] : 0));
}

static df_status convert(const df_acts *acts, const struct df_site *site, uint64_t first,
                         size_t count, const char *raw, float *out, size_t ld) {
    size_t row_bytes = site->width * df_type_bytes(site->type);
    for (size_t r = 0; r < count; r++) {
        df_to_f32(site->type, raw + r * row_bytes, out + r * ld, site->width);
        if (!df_all_finite(out + r * ld, site->width)) return refuse(acts, site, first + r);
    }
    return DF_OK;
}

typedef struct buffer { /* for raw rows */
    char *raw, *path;
    size_t rows;
} buffer;

// Rows that are read at once.
static size_t rows_at_once(size_t row_bytes, size_t count) {
    size_t rows = CHUNK_BYTES / row_bytes < count ? CHUNK_BYTES / row_bytes : count;
    return rows > 0 ? rows : 1;
}

static size_t row_bytes_of(const df_acts *acts, size_t site) {
    return acts->site[site].width * df_type_bytes(acts->site[site].type);
}

size_t df_acts_read_bytes(const df_acts *acts, size_t site, size_t count) {
    size_t row_bytes = row_bytes_of(acts, site);
    return rows_at_once(row_bytes, count) * row_bytes;
}

static df_status buffer_open(const df_acts *acts, size_t site, size_t count, buffer *out) {
    size_t row_bytes = row_bytes_of(acts, site);
    *out = (buffer){.rows = rows_at_once(row_bytes, count)};
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

/* ---- of joined files - */

// The part that holds a row; the last one's reader refuses what is beyond it.
static size_t part_of(const df_acts *all, uint64_t row) {
    size_t p = 0;
    while (p + 1 < all->parts && row >= all->part_row[p + 1]) p++;
    return p;
}

static df_status read_parts(const df_acts *all, size_t site, df_range rows, float *out, size_t ld) {
    while (rows.count > 0) {
        size_t p = part_of(all, rows.first), n = rows.count;
        if (part_of(all, rows.first + n - 1) != p) n = (size_t)(all->part_row[p + 1] - rows.first);
        DF_TRY(df_acts_read(all->part[p], all->part_site[p * all->sites + site],
                            rows.first - all->part_row[p], n, out, ld));
        rows = (df_range){rows.first + n, rows.count - n};
        out += n * ld;
    }
    return DF_OK;
}

static df_status gather_parts(const df_acts *all, size_t site, const uint64_t *rows, size_t n,
                              float *out, size_t ld) {
    enum { PIECE = 256 };
    uint64_t local[PIECE];
    for (size_t done = 0, count; done < n; done += count) {
        size_t p = part_of(all, rows[done]);
        for (count = 0; done + count < n && count < PIECE; count++) {
            if (part_of(all, rows[done + count]) != p) break;
            local[count] = rows[done + count] - all->part_row[p];
        }
        DF_TRY(df_acts_gather(all->part[p], all->part_site[p * all->sites + site], local, count,
                              out + done * ld, ld));
    }
    return DF_OK;
}

/* ---- rows that are made - */

size_t df_acts_fit(const df_acts *acts, const uint64_t *rows, size_t n) {
    return acts->made.self != NULL ? acts->made.fit(acts->made.self, rows, n) : n;
}

static df_status read_made(const df_acts *acts, size_t site, df_range rows, float *out, size_t ld) {
    enum { PIECE = 256 };
    uint64_t number[PIECE];
    for (size_t done = 0, n; done < rows.count; done += n) {
        n = rows.count - done < PIECE ? rows.count - done : PIECE;
        for (size_t i = 0; i < n; i++) number[i] = rows.first + done + i;
        DF_TRY(acts->made.read(acts->made.self, site, number, n, out + done * ld, ld));
    }
    return DF_OK;
}

/* ---- rows as fp32 - */

df_status df_acts_read(const df_acts *acts, size_t site, uint64_t first, size_t count, float *out,
                       size_t ld) {
    if (acts->parts > 0) return read_parts(acts, site, (df_range){first, count}, out, ld);
    if (acts->made.self != NULL) return read_made(acts, site, (df_range){first, count}, out, ld);
    buffer through;
    df_status status = buffer_open(acts, site, count, &through);
    if (status == DF_OK) status = read_run(acts, site, first, count, &through, out, ld);
    buffer_close(&through);
    return status;
}

// Runs of consecutive rows are read at once.
df_status df_acts_gather(const df_acts *acts, size_t site, const uint64_t *rows, size_t n,
                         float *out, size_t ld) {
    if (acts->parts > 0) return gather_parts(acts, site, rows, n, out, ld);
    if (acts->made.self != NULL) return acts->made.read(acts->made.self, site, rows, n, out, ld);
    buffer through;
    df_status status = buffer_open(acts, site, n, &through);
    for (size_t i = 0, run; i < n && status == DF_OK; i += run) {
        for (run = 1; i + run < n && rows[i + run] == rows[i] + run;) run++;
        status = read_run(acts, site, rows[i], run, &through, out + i * ld, ld);
    }
    buffer_close(&through);
    return status;
}

/* ---- raw rows - */

/* Reads rows into `raw` and converts them one at a time: bad[i] = 1, or a refusal when NULL. */
static df_status look_at(const df_acts *acts, size_t site, uint64_t first, size_t count,
                         uint8_t *bad, char *raw) {
    const struct df_site *s = &acts->site[site];
    size_t row_bytes = s->width * df_type_bytes(s->type);
    float *row = NULL;
    char *path = df_format("/sites/%s", s->name);
    df_status status = path != NULL ? DF_NEW(row, s->width) : DF_FAILED;
    if (status == DF_OK) status = df_reader_rows(acts->file, path, first, count, true, raw);
    for (size_t r = 0; r < count && status == DF_OK; r++) {
        df_to_f32(s->type, raw + r * row_bytes, row, s->width);
        if (df_all_finite(row, s->width)) continue;
        if (bad != NULL)
            bad[r] = 1;
        else
            status = refuse(acts, s, first + r);
    }
    df_free(path);
    df_free(row);
    return status;
}

df_status df_acts_raw(const df_acts *acts, size_t site, uint64_t first, size_t count, void *out) {
    if (acts->made.self != NULL)
        return df_fail(DF_USAGE, "%s: rows that are made cannot be copied", acts->path);
    return look_at(acts, site, first, count, NULL, out);
}

df_status df_acts_mark_bad(const df_acts *acts, size_t site, uint64_t first, size_t count,
                           uint8_t *bad) {
    char *raw = NULL;
    if (acts->made.self != NULL) return DF_OK;
    DF_TRY(DF_NEW(raw, count * acts->site[site].width * df_type_bytes(acts->site[site].type)));
    df_status status = look_at(acts, site, first, count, bad, raw);
    df_free(raw);
    return status;
}

/* ---- which rows - */

bool df_acts_passes(const df_acts *acts, const df_acts_filter *filter, uint32_t token,
                    uint64_t place) {
    if (place < filter->first) return false;
    if (filter->bos && acts->bos >= 0 && (int64_t)token == acts->bos) return false;
    for (size_t t = 0; t < filter->tokens; t++)
        if (filter->token[t] == token) return false;
    return true;
}

df_status df_acts_filtered(const df_acts *acts, const df_acts_filter *filter, uint64_t **rows,
                           size_t *n) {
    uint64_t window = 0;
    *n = 0;
    DF_TRY(DF_NEW(*rows, acts->rows));
    for (uint64_t d = 0; d < acts->documents; d++) {
        if (filter->part != 2 && acts->heldout[d] != filter->part) continue;
        for (uint64_t r = acts->document[d]; r < acts->document[d + 1]; r++) {
            while (window + 1 < acts->windows && acts->window[window + 1] <= r) window++;
            if (df_acts_passes(acts, filter, acts->tokens[r], r - acts->window[window]))
                (*rows)[(*n)++] = r;
        }
    }
    return DF_OK;
}

df_status df_acts_rows(const df_acts *acts, int which, bool skip_first, uint64_t **rows,
                       size_t *n) {
    const df_acts_filter filter = {.part = which, .bos = skip_first, .first = skip_first};
    return df_acts_filtered(acts, &filter, rows, n);
}
