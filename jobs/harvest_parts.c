/* Cutting a large harvest: rows go to files of at most harvest.file_size, each of whole units, so
 * that no unit is written to two of them. */
#include "harvest.h"

static df_status read_size(const harvest *h, uint64_t *out) {
    const df_job *job = h->run->job;
    const char *text = df_job_text(job, "harvest.file_size");
    *out = 0;
    if (text == NULL || (df_parse_bytes(text, out) && *out > 0)) return DF_OK;
    return df_fail(DF_USAGE, "%s: harvest.file_size is \"%s\", expected a size like 64GB or 500MiB",
                   df_job_where(job, "harvest.file_size"), text);
}

uint64_t df_harvest_row_bytes(const harvest *h) {
    return df_harvest_columns(h, h->sites) * df_type_bytes(h->type) + 2 * sizeof(uint32_t);
}

// Where units begin, in rows; the last one's end for unit = their number.
static uint64_t row_of(const harvest *h, uint64_t unit) {
    uint64_t window = unit * HARVEST_UNIT;
    return h->text.window[window < h->text.windows ? window : h->text.windows];
}

// As many units as fit, at least one: cut [parts + 1], or NULL to count.
static size_t cut_units(const harvest *h, uint64_t size, uint64_t *cut) {
    uint64_t units = (h->text.windows + HARVEST_UNIT - 1) / HARVEST_UNIT, first = 0;
    size_t parts = 0;
    for (uint64_t u = 1; u <= units; u++) {
        bool full = (row_of(h, u + 1) - row_of(h, first)) * df_harvest_row_bytes(h) > size;
        if (u < units && !full) continue;
        parts++;
        if (cut != NULL) cut[parts] = row_of(h, u);
        first = u;
    }
    return parts;
}

df_status df_harvest_cuts(const harvest *h, uint64_t **cut, size_t *parts) {
    uint64_t size;
    *cut = NULL;
    *parts = 1;
    DF_TRY(read_size(h, &size));
    if (size == 0) return DF_OK;
    *parts = cut_units(h, size, NULL);
    DF_TRY(DF_NEW(*cut, *parts + 1));
    cut_units(h, size, *cut);
    return DF_OK;
}

df_status df_harvest_split(harvest *h) {
    int id[2 + HARVEST_MOST_SITES] = {DF_ACTS_TOKENS, DF_ACTS_TOKEN_END};
    uint64_t *cut = NULL;
    df_split how = {.id = id, .n = 2 + h->sites};
    for (size_t s = 0; s < h->sites; s++) id[2 + s] = DF_ACTS_SITE + (int)s;
    df_status status = df_agree(h->run->world, df_harvest_cuts(h, &cut, &how.parts));
    how.cut = cut;
    if (status == DF_OK && how.parts > 1) status = df_file_split(h->file, &how);
    df_free(cut);
    return status;
}
