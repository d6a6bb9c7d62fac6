/* Data sets: activation files behind a filter, and what all kinds have in common. */
#include "rows_parts.h"

#include <string.h>

enum { WORD = 64, BLOCK_WORDS = 8 };

/* ---- which rows - */

static size_t words_of(uint64_t rows) {
    return (size_t)(rows / WORD + 1);
}

void rows_count_kept(df_rows *rows) {
    size_t words = words_of(rows->start[rows->files]);
    rows->n = 0;
    for (size_t w = 0; w < words; w++) {
        if (w % BLOCK_WORDS == 0) rows->before[w / BLOCK_WORDS] = rows->n;
        rows->n += (uint64_t)__builtin_popcountll(rows->kept[w]);
    }
}

/* The place of the i-th kept row among all. */
static uint64_t select_kept(const df_rows *rows, uint64_t i) {
    size_t low = 0, high = words_of(rows->start[rows->files]) / BLOCK_WORDS + 1;
    while (high - low > 1) { // before[low] <= i
        size_t middle = low + (high - low) / 2;
        if (middle * BLOCK_WORDS < words_of(rows->start[rows->files]) && rows->before[middle] <= i)
            low = middle;
        else
            high = middle;
    }
    uint64_t left = i - rows->before[low];
    size_t w = low * BLOCK_WORDS;
    for (uint64_t n; (n = (uint64_t)__builtin_popcountll(rows->kept[w])) <= left; w++) left -= n;
    uint64_t bits = rows->kept[w];
    for (; left > 0; left--) bits &= bits - 1;
    return (uint64_t)w * WORD + (uint64_t)__builtin_ctzll(bits);
}

size_t rows_file_of(const df_rows *rows, uint64_t row) {
    size_t f = 0;
    while (row >= rows->start[f + 1]) f++;
    return f;
}

static df_status mark_kept(df_rows *rows, const df_acts_filter *filter) {
    for (size_t f = 0; f < rows->files; f++) {
        uint64_t *list = NULL;
        size_t n = 0;
        DF_TRY(df_acts_filtered(rows->acts[f * rows->sites], filter, &list, &n));
        for (size_t i = 0; i < n; i++) {
            uint64_t row = rows->start[f] + list[i];
            rows->kept[row / WORD] |= UINT64_C(1) << row % WORD;
        }
        df_free(list);
    }
    rows_count_kept(rows);
    if (rows->n > 0) return DF_OK;
    return df_fail(DF_BAD_INPUT, "%s%s has no %s rows: %s", rows->acts[0]->path,
                   rows->files > 1 ? " and those after it" : "",
                   filter->part == 0   ? "training"
                   : filter->part == 1 ? "held-out"
                                       : "usable",
                   filter->part == 1 ? "harvest with text.heldout above 0"
                                     : "all documents are held out, or all rows skipped");
}

/* ---- opening - */

static df_status check_file(const df_rows *rows, size_t f) {
    df_acts *const *acts = rows->acts + f * rows->sites;
    for (size_t s = 0; s < rows->sites; s++) {
        const struct df_site *site = &acts[s]->site[rows->index[f * rows->sites + s]];
        if (s > 0)
            DF_TRY_AS(df_acts_aligned(acts[0], acts[s]), "pairing the rows of %s and %s",
                      acts[0]->path, acts[s]->path);
        const df_rows_site *first = &rows->site[s];
        if (site->width != first->width || strcmp(site->name, first->name) != 0 ||
            strcmp(acts[s]->model, first->model) != 0 ||
            strcmp(acts[s]->tokenizer, rows->acts[s]->tokenizer) != 0)
            return df_fail(DF_BAD_INPUT,
                           "%s holds %s of model %s, width %llu; the files before it %s of %s, "
                           "width %llu, or have another tokenizer: they make no one data set",
                           acts[s]->path, site->name, acts[s]->model,
                           (unsigned long long)site->width, first->name, first->model,
                           (unsigned long long)first->width);
    }
    return DF_OK;
}

static df_status copy_files(df_rows *rows, const df_rows_files *from) {
    size_t all = from->files * from->sites;
    rows->kind = ROWS_FILES;
    rows->files = from->files;
    rows->sites = from->sites;
    DF_TRY(DF_NEW(rows->acts, all));
    DF_TRY(DF_NEW(rows->index, all));
    DF_TRY(DF_NEW(rows->start, rows->files + 1));
    DF_TRY(DF_NEW(rows->site, rows->sites));
    memcpy(rows->acts, from->acts, all * sizeof(df_acts *));
    memcpy(rows->index, from->index, all * sizeof *rows->index);
    for (size_t s = 0; s < rows->sites; s++) {
        const struct df_site *site = &rows->acts[s]->site[rows->index[s]];
        rows->site[s] = (df_rows_site){site->name, rows->acts[s]->model, site->width, site->type};
        DF_TRY(df_add(rows->width, site->width, &rows->width));
    }
    for (size_t f = 0; f < rows->files; f++)
        rows->start[f + 1] = rows->start[f] + rows->acts[f * rows->sites]->rows;
    return DF_OK;
}

static df_status open_files(df_rows *rows, const df_rows_files *from,
                            const df_acts_filter *filter) {
    if (from->files < 1 || from->sites < 1)
        return df_fail(DF_USAGE, "a data set needs at least one file and one site");
    DF_TRY(copy_files(rows, from));
    for (size_t f = 0; f < rows->files; f++) DF_TRY(check_file(rows, f));
    size_t words = words_of(rows->start[rows->files]);
    DF_TRY(DF_NEW(rows->kept, words));
    DF_TRY(DF_NEW(rows->before, words / BLOCK_WORDS + 1));
    return mark_kept(rows, filter);
}

df_status df_rows_open(const df_rows_files *from, const df_acts_filter *filter, df_rows **out) {
    DF_TRY(DF_NEW(*out, 1));
    df_status status = open_files(*out, from, filter);
    if (status != DF_OK) df_rows_close(out);
    return status;
}

void df_rows_close(df_rows **pointer) {
    df_rows *rows = *pointer;
    *pointer = NULL;
    if (rows == NULL) return;
    for (size_t s = 0; rows->kind == ROWS_SHUFFLED && rows->site != NULL && s < rows->sites; s++) {
        df_free((char *)rows->site[s].name);
        df_free((char *)rows->site[s].model);
    }
    void *owned[] = {rows->site, rows->acts,   rows->index,     rows->start,
                     rows->kept, rows->before, rows->directions};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) df_free(owned[i]);
    df_reader_close(&rows->file);
    df_free(rows);
}

/* ---- looking - */

uint64_t df_rows_count(const df_rows *rows) {
    return rows->n;
}

size_t df_rows_width(const df_rows *rows) {
    return rows->width;
}

size_t df_rows_sites(const df_rows *rows, const df_rows_site **sites) {
    *sites = rows->site;
    return rows->sites;
}

uint64_t df_rows_source(const df_rows *rows, uint64_t i) {
    if (rows->kind == ROWS_FILES) return select_kept(rows, i);
    return rows->kind == ROWS_SHUFFLED ? shuffled_source(rows, i) : i;
}

static df_status file_documents(const df_rows *rows, uint64_t **first, uint64_t *n) {
    *n = 0;
    for (size_t f = 0; f < rows->files; f++) *n += rows->acts[f * rows->sites]->documents;
    DF_TRY(DF_NEW(*first, *n + 1));
    uint64_t at = 0;
    for (size_t f = 0; f < rows->files; f++) {
        const df_acts *acts = rows->acts[f * rows->sites];
        for (uint64_t d = 0; d < acts->documents; d++)
            (*first)[at++] = rows->start[f] + acts->document[d];
    }
    (*first)[at] = rows->start[rows->files];
    return DF_OK;
}

df_status df_rows_documents(const df_rows *rows, uint64_t count, uint64_t **first, uint64_t *n) {
    enum { SHARES = 64 };
    if (rows->kind == ROWS_FILES) return file_documents(rows, first, n);
    *n = SHARES;
    DF_TRY(DF_NEW(*first, SHARES + 1));
    for (uint64_t d = 0; d < SHARES; d++)
        (*first)[d] = df_share((size_t)count, SHARES, (int)d).first;
    (*first)[SHARES] = count;
    return DF_OK;
}

/* ---- reading - */

/* Source rows [n] of one site after another. */
static df_status read_sites(const df_rows *rows, size_t f, const uint64_t *source, size_t n,
                            float *out) {
    float *column = out;
    for (size_t s = 0; s < rows->sites; column += rows->site[s++].width) {
        size_t at = f * rows->sites + s;
        DF_TRY(df_acts_gather(rows->acts[at], rows->index[at], source, n, column, rows->width));
    }
    return DF_OK;
}

/* Source rows [n] within file f, which stand at out rows: as many at once as all models have. */
static df_status read_file(const df_rows *rows, size_t f, const uint64_t *source, size_t n,
                           float *out) {
    for (size_t done = 0, count; done < n; done += count) {
        count = n - done;
        for (size_t s = 0; s < rows->sites; s++)
            count = df_acts_fit(rows->acts[f * rows->sites + s], source + done, count);
        DF_TRY(read_sites(rows, f, source + done, count, out + done * rows->width));
    }
    return DF_OK;
}

/* Rows that are made come in large pieces: windows run side by side. */
static df_status files_read(const df_rows *rows, const uint64_t *i, size_t n, float *out) {
    enum { PIECE = 256, LARGE = 4096 };
    uint64_t source[LARGE];
    for (size_t done = 0, count; done < n; done += count) {
        uint64_t row = select_kept(rows, i[done]);
        size_t f = rows_file_of(rows, row);
        size_t most = rows->acts[f * rows->sites]->made.self != NULL ? LARGE : PIECE;
        for (count = 0; done + count < n && count < most; count++) {
            if (count > 0) row = select_kept(rows, i[done + count]);
            if (row < rows->start[f] || row >= rows->start[f + 1]) break;
            source[count] = row - rows->start[f];
        }
        DF_TRY(read_file(rows, f, source, count, out + done * rows->width));
    }
    return DF_OK;
}

df_status df_rows_read(const df_rows *rows, const uint64_t *i, size_t n, float *out) {
    if (rows->kind == ROWS_FILES) return files_read(rows, i, n, out);
    if (rows->kind == ROWS_SHUFFLED) return shuffled_read(rows, i, n, out);
    synthetic_read(rows, i, n, out);
    return DF_OK;
}

/* ---- rows that are not finite - */

/* This rank's words of the bit field: clears the bits of bad rows. */
static df_status clear_bad(df_rows *rows, df_range words) {
    enum { PIECE = 1024 };
    uint8_t bad[PIECE];
    uint64_t first = (uint64_t)words.first * WORD, end = first + (uint64_t)words.count * WORD;
    if (end > rows->start[rows->files]) end = rows->start[rows->files];
    for (size_t n; first < end; first += n) {
        size_t f = rows_file_of(rows, first);
        uint64_t stop = rows->start[f + 1] < end ? rows->start[f + 1] : end;
        n = (size_t)(stop - first < PIECE ? stop - first : PIECE);
        memset(bad, 0, n);
        for (size_t s = 0; s < rows->sites; s++) {
            size_t at = f * rows->sites + s;
            DF_TRY(
                df_acts_mark_bad(rows->acts[at], rows->index[at], first - rows->start[f], n, bad));
        }
        for (size_t r = 0; r < n; r++)
            if (bad[r]) rows->kept[(first + r) / WORD] &= ~(UINT64_C(1) << (first + r) % WORD);
    }
    return DF_OK;
}

df_status df_rows_drop_bad(df_comm *comm, df_rows *rows, uint64_t *dropped) {
    size_t all = words_of(rows->start[rows->files]), *counts = NULL;
    int size = df_comm_size(comm);
    df_range mine = df_share(all, size, df_comm_rank(comm));
    uint64_t before = rows->n, *kept = NULL;
    df_status status = DF_NEW(counts, (size_t)size);
    if (status == DF_OK) status = DF_NEW(kept, all);
    if (status == DF_OK) status = clear_bad(rows, mine);
    status = df_agree(comm, status);
    if (status == DF_OK) {
        for (int r = 0; r < size; r++) counts[r] = df_share(all, size, r).count * sizeof *kept;
        df_allgather(comm, rows->kept + mine.first, counts, kept);
        memcpy(rows->kept, kept, all * sizeof *kept);
        rows_count_kept(rows);
        *dropped = before - rows->n;
    }
    df_free(counts);
    df_free(kept);
    if (status == DF_OK && rows->n == 0)
        return df_fail(DF_BAD_INPUT, "%s: no row of the data set is finite", rows->acts[0]->path);
    return status;
}
