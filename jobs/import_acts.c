/* darkfield convert --to acts: activations that somebody else made, as a file of ours. */
#include "convert.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_SITES = 64, CHUNK_ROWS = 4096 };

typedef struct import {
    const df_import *what;
    df_tensors *tensors;
    const df_tensor *site[MOST_SITES], *tokens, *numbers;
    size_t sites;
    uint64_t rows, documents, windows;
    bool sequences; // [documents, positions, width]
    uint64_t *document, *window;
    uint64_t width[MOST_SITES];
    const char *name[MOST_SITES];
    int64_t layer[MOST_SITES], bos;
    char *names; // --site, cut at commas
} import;

static bool is_real(df_type type) {
    return type == DF_F32 || type == DF_BF16 || type == DF_F16;
}

static int64_t integer(const df_tensor *t, uint64_t i) {
    const char *at = (const char *)t->data + i * df_type_bytes(t->type);
    int64_t wide = 0;
    int32_t narrow;
    if (t->type == DF_I32) {
        memcpy(&narrow, at, sizeof narrow);
        return narrow;
    }
    memcpy(&wide, at, df_type_bytes(t->type));
    return wide;
}

/* ---- what is there - */

static df_status take_site(import *m, const df_tensor *t) {
    uint64_t rows = t->shape[0];
    if (!is_real(t->type) || (t->dims != 2 && t->dims != 3))
        return df_fail(DF_BAD_INPUT,
                       "%s: tensor \"%s\" is %s of %d dimensions, expected f32, bf16 or f16 of "
                       "[rows, width] or [documents, positions, width]",
                       m->what->in, t->name, df_type_name(t->type), t->dims);
    if (m->sites == MOST_SITES)
        return df_fail(DF_BAD_INPUT, "%s: more than %d sites", m->what->in, MOST_SITES);
    if (t->dims == 3) rows *= t->shape[1];
    if (m->sites > 0 &&
        (rows != m->rows || (t->dims == 3) != m->sequences || t->type != m->site[0]->type ||
         (m->sequences && t->shape[0] != m->documents)))
        return df_fail(DF_BAD_INPUT, "%s: tensor \"%s\" has other rows or another type than \"%s\"",
                       m->what->in, t->name, m->site[0]->name);
    m->rows = rows;
    m->sequences = t->dims == 3;
    m->documents = t->shape[0];
    m->width[m->sites] = t->shape[t->dims - 1];
    if (rows == 0 || rows > UINT32_MAX || m->width[m->sites] == 0)
        return df_fail(DF_BAD_INPUT, "%s: tensor \"%s\" has no rows or no columns", m->what->in,
                       t->name);
    m->site[m->sites++] = t;
    return DF_OK;
}

static bool is_integer(const df_tensor *t) {
    return t->type == DF_U32 || t->type == DF_I32 || t->type == DF_I64 || t->type == DF_U64;
}

static df_status take_tensors(import *m) {
    for (size_t i = 0; i < df_tensors_count(m->tensors); i++) {
        const df_tensor *t = df_tensors_at(m->tensors, i);
        if (strcmp(t->name, "tokens") == 0)
            m->tokens = t;
        else if (strcmp(t->name, "documents") == 0)
            m->numbers = t;
        else
            DF_TRY(take_site(m, t));
    }
    if (m->sites == 0) return df_fail(DF_BAD_INPUT, "%s: no activations in it", m->what->in);
    const df_tensor *index[] = {m->tokens, m->numbers};
    for (size_t i = 0; i < 2; i++)
        if (index[i] != NULL && (!is_integer(index[i]) || index[i]->elements != m->rows))
            return df_fail(DF_BAD_INPUT,
                           "%s: tensor \"%s\" must hold an integer for each of %" PRIu64 " rows",
                           m->what->in, index[i]->name, m->rows);
    return DF_OK;
}

// Names of sites: --site in the order of the tensors' names, or these names.
static df_status take_names(import *m) {
    size_t given = 0;
    m->names = df_strdup(m->what->sites != NULL ? m->what->sites : "");
    if (m->names == NULL) return DF_FAILED;
    for (char *at = m->names; m->what->sites != NULL && at != NULL; given++) {
        char *comma = strchr(at, ',');
        if (comma != NULL) *comma++ = '\0';
        if (given < m->sites) m->name[given] = at;
        at = comma;
    }
    if (m->what->sites != NULL && given != m->sites)
        return df_fail(DF_USAGE, "--site names %zu sites, %s holds %zu", given, m->what->in,
                       m->sites);
    for (size_t s = 0; s < m->sites; s++) {
        if (given == 0) m->name[s] = m->site[s]->name;
        if (m->name[s][0] == '\0' || strchr(m->name[s], '/') != NULL)
            return df_fail(DF_USAGE, "\"%s\" is no name for a site: give one with --site",
                           m->name[s]);
        if (strncmp(m->name[s], "blocks.", 7) == 0) m->layer[s] = atoi(m->name[s] + 7);
    }
    return DF_OK;
}

// Documents: sequences, or runs of equal numbers, or every row for itself.
static df_status find_documents(import *m) {
    uint64_t step = m->sequences ? m->rows / m->documents : 1, n = 0;
    if (m->bos < -1 || m->bos > UINT32_MAX)
        return df_fail(DF_USAGE, "--bos: expected a token id, found %s", m->what->bos);
    DF_TRY(DF_NEW(m->document, m->rows + 1));
    for (uint64_t r = 0; r < m->rows; r++) {
        int64_t now = m->numbers != NULL ? integer(m->numbers, r) : (int64_t)(r / step);
        int64_t before = r == 0               ? now
                         : m->numbers != NULL ? integer(m->numbers, r - 1)
                                              : (int64_t)((r - 1) / step);
        if (now < before)
            return df_fail(DF_BAD_INPUT, "%s: \"documents\" descends at row %" PRIu64, m->what->in,
                           r);
        if (r == 0 || now != before) m->document[n++] = r;
    }
    m->document[n] = m->rows;
    m->documents = n;
    // Sequences are context windows; of loose rows nothing is known: one window.
    m->windows = m->sequences ? n : 1;
    DF_TRY(DF_NEW(m->window, m->windows + 1));
    for (uint64_t w = 0; w < m->windows; w++) m->window[w] = m->sequences ? m->document[w] : 0;
    m->window[m->windows] = m->rows;
    return DF_OK;
}

static df_status look(import *m) {
    DF_TRY(df_tensors_open(m->what->in, &m->tensors));
    DF_TRY(take_tensors(m));
    DF_TRY(take_names(m));
    m->bos = m->what->bos != NULL ? strtoll(m->what->bos, NULL, 10) : -1;
    return find_documents(m);
}

/* ---- writing - */

static df_status declare(const import *m, df_file *file) {
    uint64_t hash;
    DF_TRY(df_hash_file(m->what->in, &hash));
    const df_acts_spec spec = {.rows = m->rows,
                               .windows = m->windows,
                               .documents = m->documents,
                               .type = m->site[0]->type,
                               .sites = m->sites,
                               .site = m->name,
                               .width = m->width,
                               .layer = m->layer,
                               .model = m->what->model != NULL ? m->what->model : "",
                               .model_path = m->what->in,
                               .dtype = df_type_name(m->site[0]->type),
                               .architecture = "",
                               .hidden = (int64_t)m->width[0],
                               .layers = 0,
                               .corpus = "imported",
                               .field = "",
                               .packing = m->sequences ? "document" : "rows",
                               .context = m->sequences ? (int64_t)(m->rows / m->documents) : 0,
                               .bos = m->bos,
                               .corpus_hash = hash};
    DF_TRY(df_acts_declare(file, &spec));
    return df_file_provenance(file, m->what->facts);
}

static df_status write_tokens(const import *m, df_file *file) {
    uint32_t *values;
    df_status status = DF_OK;
    DF_TRY(DF_NEW(values, m->rows));
    DF_GO(df_file_write(file, DF_ACTS_TOKEN_END, 0, m->rows, values));
    for (uint64_t r = 0; r < m->rows && m->tokens != NULL; r++) {
        int64_t token = integer(m->tokens, r);
        values[r] = (uint32_t)token;
        if (token < 0 || token > UINT32_MAX)
            DF_GO(df_fail(DF_BAD_INPUT, "%s: token %" PRId64 " at row %" PRIu64, m->what->in, token,
                          r));
    }
    DF_GO(df_file_write(file, DF_ACTS_TOKENS, 0, m->rows, values));
done:
    df_free(values);
    return status;
}

static df_status write_documents(const import *m, df_file *file) {
    uint64_t *source = NULL;
    uint8_t *out = NULL;
    df_status status;
    DF_GO(DF_NEW(source, m->documents));
    DF_GO(DF_NEW(out, m->documents));
    for (uint64_t d = 0; d < m->documents; d++) {
        source[d] = d;
        out[d] = df_random_uniform(m->what->seed, DF_STREAM_SPLIT, d) < m->what->heldout;
    }
    DF_GO(df_file_write(file, DF_ACTS_DOCUMENT_ROW, 0, m->documents + 1, m->document));
    DF_GO(df_file_write(file, DF_ACTS_DOCUMENT_SOURCE, 0, m->documents, source));
    DF_GO(df_file_write(file, DF_ACTS_DOCUMENT_HELDOUT, 0, m->documents, out));
done:
    df_free(source);
    df_free(out);
    return status;
}

// By rank 0.
static df_status write_index(const import *m, df_file *file) {
    DF_TRY(write_tokens(m, file));
    DF_TRY(df_file_write(file, DF_ACTS_WINDOWS, 0, m->windows + 1, m->window));
    return write_documents(m, file);
}

// Sum of |x|^2 over a run of rows; all of them finite.
static df_status square(const import *m, size_t s, uint64_t first, uint64_t n, float *row,
                        double *sum) {
    const df_tensor *t = m->site[s];
    const char *data = t->data;
    size_t bytes = m->width[s] * df_type_bytes(t->type);
    *sum = 0.0;
    for (uint64_t r = first; r < first + n; r++) {
        df_to_f32(t->type, data + r * bytes, row, m->width[s]);
        double part = 0.0;
        for (uint64_t c = 0; c < m->width[s]; c++) part += (double)row[c] * (double)row[c];
        if (!isfinite(part))
            return df_fail(DF_BAD_INPUT,
                           "%s: tensor \"%s\", row %" PRIu64 ": found NaN or infinity", m->what->in,
                           t->name, r);
        *sum += part;
    }
    return DF_OK;
}

// Chunks of rows of a site, of which this rank has some; sums go in the order of chunks.
static df_status write_site(const import *m, df_comm *world, df_file *file, size_t s) {
    uint64_t chunks = (m->rows + CHUNK_ROWS - 1) / CHUNK_ROWS;
    df_range mine = df_share(chunks, df_comm_size(world), df_comm_rank(world));
    double *sums = NULL;
    float *row = NULL;
    const char *data = m->site[s]->data;
    size_t bytes = m->width[s] * df_type_bytes(m->site[s]->type);
    df_status status = DF_NEW(sums, chunks);
    if (status == DF_OK) status = DF_NEW(row, m->width[s]);
    for (uint64_t b = mine.first; b < mine.first + mine.count && status == DF_OK; b++) {
        uint64_t first = b * CHUNK_ROWS, left = m->rows - first;
        uint64_t n = left < CHUNK_ROWS ? left : CHUNK_ROWS;
        status = square(m, s, first, n, row, &sums[b]);
        if (status == DF_OK)
            status = df_file_write(file, DF_ACTS_SITE + (int)s, first, n, data + first * bytes);
    }
    status = df_file_agree(file, status);
    // No sum is negative and only one rank has it: the largest bits are the owner's.
    if (status == DF_OK) df_max_u64(world, (uint64_t *)(void *)sums, chunks);
    double total = 0.0;
    for (uint64_t b = 0; b < chunks && status == DF_OK; b++) total += sums[b];
    char *path = df_format("/sites/%s", m->name[s]);
    if (status == DF_OK && path != NULL)
        status = df_file_set_real(file, path, "mean_square", total / (double)m->rows);
    df_free(path);
    df_free(sums);
    df_free(row);
    return status;
}

static df_status write_all(const import *m, df_comm *world) {
    df_file *file = NULL;
    df_status status;
    DF_GO(df_file_create(world, m->what->out, "darkfield-activations", &file));
    DF_GO(df_file_agree(file, declare(m, file)));
    DF_GO(df_file_ready(file));
    DF_GO(df_file_agree(file, df_comm_rank(world) == 0 ? write_index(m, file) : DF_OK));
    for (size_t s = 0; s < m->sites; s++) DF_GO(write_site(m, world, file, s));
    DF_GO(df_file_agree(file, df_file_set_real(file, "/model", "loss", 0.0)));
    DF_GO(df_file_finish(&file));
    df_info("%s -> %s: %" PRIu64 " rows of %zu site%s, %" PRIu64 " documents", m->what->in,
            m->what->out, m->rows, m->sites, m->sites == 1 ? "" : "s", m->documents);
done:
    if (file != NULL) df_file_abandon(&file, false);
    return status;
}

df_status df_import_acts(df_comm *world, const df_import *what) {
    import *m;
    df_status status = DF_NEW(m, 1);
    if (status == DF_OK) {
        m->what = what;
        status = look(m);
    }
    status = df_agree(world, status);
    if (status == DF_OK) status = write_all(m, world);
    if (status != DF_OK) df_context("importing activations from %s", what->in);
    if (m != NULL) {
        df_tensors_close(&m->tensors);
        df_free(m->document);
        df_free(m->window);
        df_free(m->names);
    }
    df_free(m);
    return status;
}
