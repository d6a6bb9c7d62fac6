/* Activations files: declaring one, opening one with its row index, reading rows as fp32. */
#include "parts.h"

#include <math.h>
#include <string.h>

#define FORMAT "darkfield-activations"

/* ---- declaring ------------------------------------------------------------------------------ */

static df_status index_dataset(df_file *file, const char *path, df_type type, uint64_t n,
                               const char *const about[3]) {
    const df_dataset spec = {.path = path,
                             .type = type,
                             .dims = 1,
                             .shape = {n},
                             .units = about[0],
                             .long_name = about[1],
                             .labels = about[2]};
    return df_file_dataset(file, &spec, NULL);
}

// In the order of df_acts_dataset.
static df_status declare_index(df_file *file, const df_acts_spec *spec) {
    DF_TRY(index_dataset(file, "/tokens", DF_U32, spec->rows,
                         (const char *[]){"token id", "token of each row", "row"}));
    DF_TRY(index_dataset(
        file, "/token_end", DF_U32, spec->rows,
        (const char *[]){"byte",
                         "byte just after the token in its document's text; 0 for added tokens",
                         "row"}));
    DF_TRY(index_dataset(file, "/windows/offset", DF_U64, spec->windows + 1,
                         (const char *[]){"row", "first row of each context window", "window"}));
    DF_TRY(index_dataset(file, "/documents/row", DF_U64, spec->documents + 1,
                         (const char *[]){"row", "first row of each document", "document"}));
    DF_TRY(
        index_dataset(file, "/documents/source", DF_U64, spec->documents,
                      (const char *[]){"1", "number of the document in the corpus", "document"}));
    return index_dataset(file, "/documents/heldout", DF_U8, spec->documents,
                         (const char *[]){"1", "1: kept out of training", "document"});
}

static df_status declare_site(df_file *file, const df_acts_spec *spec, size_t i) {
    char *path = df_format("/sites/%s", spec->site[i]);
    if (path == NULL) return DF_FAILED;
    df_status status = DF_OK;
    const df_dataset site = {.path = path,
                             .type = spec->type,
                             .dims = 2,
                             .shape = {spec->rows, spec->width[i]},
                             .units = "activation",
                             .long_name = spec->site[i],
                             .labels = "row, width"};
    DF_GO(df_file_dataset(file, &site, NULL));
    DF_GO(df_file_text(file, path, "model", spec->model));
    DF_GO(df_file_int(file, path, "layer", spec->layer[i]));
    DF_GO(df_file_int(file, path, "width", (int64_t)spec->width[i]));
    DF_GO(df_file_real(file, path, "mean_square", (double)NAN));
done:
    df_free(path);
    return status;
}

static df_status put_hash(df_file *file, const char *where, uint64_t hash) {
    char text[24];
    snprintf(text, sizeof text, "%016llx", (unsigned long long)hash);
    return df_file_text(file, where, "hash", text);
}

static df_status declare_model(df_file *file, const df_acts_spec *spec) {
    DF_TRY(df_file_text(file, "/model", "name", spec->model));
    DF_TRY(put_hash(file, "/model", spec->model_hash));
    DF_TRY(df_file_text(file, "/model", "dtype", spec->dtype));
    DF_TRY(df_file_text(file, "/model", "architecture", spec->architecture));
    DF_TRY(df_file_int(file, "/model", "hidden", spec->hidden));
    DF_TRY(df_file_int(file, "/model", "layers", spec->layers));
    DF_TRY(df_file_real(file, "/model", "loss", (double)NAN));
    // Where the model lay is no content: the same run elsewhere gives the same digest.
    return df_file_text(file, STORE_PROVENANCE, "model_path", spec->model_path);
}

static df_status declare_corpus(df_file *file, const df_acts_spec *spec) {
    DF_TRY(df_file_text(file, "/corpus", "name", spec->corpus));
    DF_TRY(put_hash(file, "/corpus", spec->corpus_hash));
    DF_TRY(df_file_int(file, "/corpus", "documents", (int64_t)spec->documents));
    DF_TRY(df_file_text(file, "/corpus", "field", spec->field));
    DF_TRY(df_file_int(file, "/corpus", "context", spec->context));
    DF_TRY(df_file_text(file, "/corpus", "packing", spec->packing));
    DF_TRY(
        df_file_text(file, "/corpus", "skip_first",
                     "consumers leave out BOS rows and the first row of each window by default"));
    DF_TRY(put_hash(file, "/tokenizer", spec->tokenizer_hash));
    return df_file_int(file, "/tokenizer", "bos", spec->bos);
}

df_status df_acts_declare(df_file *file, const df_acts_spec *spec) {
    DF_TRY(declare_index(file, spec));
    for (size_t i = 0; i < spec->sites; i++) DF_TRY(declare_site(file, spec, i));
    DF_TRY(declare_model(file, spec));
    return declare_corpus(file, spec);
}

/* ---- opening -------------------------------------------------------------------------------- */

static df_status load(df_acts *acts, const char *name, df_type type, uint64_t n, void *out) {
    return df_reader_all(acts->file, name, type, (int64_t)n, out);
}

static df_status count_rows(const df_reader *file, const char *name, uint64_t *out) {
    uint64_t shape[DF_MAX_DIMS];
    DF_TRY(df_reader_find(file, name, 1, NULL, shape));
    *out = shape[0];
    return DF_OK;
}

static df_status load_index(df_acts *acts) {
    uint64_t windows, documents;
    DF_TRY(count_rows(acts->file, "/tokens", &acts->rows));
    DF_TRY(count_rows(acts->file, "/windows/offset", &windows));
    DF_TRY(count_rows(acts->file, "/documents/row", &documents));
    if (windows == 0 || documents == 0)
        return df_fail(DF_BAD_INPUT,
                       "%s: /windows/offset and /documents/row need at least one entry",
                       acts->path);
    acts->windows = windows - 1;
    acts->documents = documents - 1;
    DF_TRY(load(acts, "/tokens", DF_U32, acts->rows, &acts->tokens));
    DF_TRY(load(acts, "/token_end", DF_U32, acts->rows, &acts->token_end));
    DF_TRY(load(acts, "/windows/offset", DF_U64, windows, &acts->window));
    DF_TRY(load(acts, "/documents/row", DF_U64, documents, &acts->document));
    DF_TRY(load(acts, "/documents/source", DF_U64, acts->documents, &acts->source));
    return load(acts, "/documents/heldout", DF_U8, acts->documents, &acts->heldout);
}

// Offsets [n + 1] start at 0, never descend and end at the number of rows. Empty documents are
// allowed.
static df_status check_offsets(const df_acts *acts, const char *name, const uint64_t *offsets,
                               uint64_t n) {
    if (offsets[0] != 0)
        return df_fail(DF_BAD_INPUT, "%s: %s starts at %llu, expected 0", acts->path, name,
                       (unsigned long long)offsets[0]);
    for (uint64_t i = 0; i < n; i++)
        if (offsets[i + 1] < offsets[i])
            return df_fail(DF_BAD_INPUT, "%s: %s descends at %llu", acts->path, name,
                           (unsigned long long)(i + 1));
    if (offsets[n] == acts->rows) return DF_OK;
    return df_fail(DF_BAD_INPUT, "%s: %s ends at row %llu, expected %llu", acts->path, name,
                   (unsigned long long)offsets[n], (unsigned long long)acts->rows);
}

static df_status check_index(const df_acts *acts) {
    DF_TRY(check_offsets(acts, "/windows/offset", acts->window, acts->windows));
    DF_TRY(check_offsets(acts, "/documents/row", acts->document, acts->documents));
    for (uint64_t d = 0; d < acts->documents; d++)
        if (acts->heldout[d] > 1)
            return df_fail(DF_BAD_INPUT, "%s: /documents/heldout[%llu] is %d, expected 0 or 1",
                           acts->path, (unsigned long long)d, acts->heldout[d]);
    return DF_OK;
}

static df_status open_site(df_acts *acts, struct df_site *site) {
    char *path = df_format("/sites/%s", site->name);
    uint64_t shape[DF_MAX_DIMS];
    if (path == NULL) return DF_FAILED;
    df_status status = DF_OK;
    DF_GO(df_reader_find(acts->file, path, 2, &site->type, shape));
    DF_GO(df_reader_real(acts->file, path, "mean_square", &site->mean_square));
    site->width = shape[1];
    if (shape[0] != acts->rows || site->width == 0)
        DF_GO(df_fail(DF_BAD_INPUT,
                      "%s: %s has shape [%llu, %llu], expected %llu rows of at least one "
                      "column",
                      acts->path, path, (unsigned long long)shape[0], (unsigned long long)shape[1],
                      (unsigned long long)acts->rows));
    if (site->type != DF_BF16 && site->type != DF_F16 && site->type != DF_F32)
        DF_GO(df_fail(DF_BAD_INPUT, "%s: %s holds %s, expected bf16, f16 or f32", acts->path, path,
                      df_type_name(site->type)));
    if (acts->rows > 0 && !(isfinite(site->mean_square) && site->mean_square >= 0))
        DF_GO(df_fail(DF_BAD_INPUT, "%s: mean_square of %s is %g, expected a finite number",
                      acts->path, path, site->mean_square));
done:
    df_free(path);
    return status;
}

static df_status open_sites(df_acts *acts) {
    char **names;
    df_status status;
    DF_TRY(df_reader_list(acts->file, "/sites", &names, &acts->sites));
    status = DF_NEW(acts->site, acts->sites);
    if (status != DF_OK) {
        for (size_t i = 0; i < acts->sites; i++) df_free(names[i]);
        acts->sites = 0;
    }
    for (size_t i = 0; i < acts->sites; i++) acts->site[i].name = names[i];
    df_free(names);
    for (size_t i = 0; i < acts->sites && status == DF_OK; i++)
        status = open_site(acts, &acts->site[i]);
    return status;
}

static df_status name_with_hash(const df_reader *file, const char *where, const char *name,
                                char **out) {
    char *hash = NULL;
    DF_TRY(df_reader_text(file, where, "hash", &hash));
    *out = df_format("%s%s%s", name, name[0] != '\0' ? " " : "", hash);
    df_free(hash);
    return *out != NULL ? DF_OK : DF_FAILED;
}

static df_status open_names(df_acts *acts) {
    char *corpus = NULL;
    DF_TRY(df_reader_text(acts->file, "/model", "name", &acts->model));
    DF_TRY(df_reader_text(acts->file, STORE_PROVENANCE, "model_path", &acts->model_path));
    DF_TRY(df_reader_text(acts->file, "/corpus", "name", &corpus));
    df_status status = name_with_hash(acts->file, "/corpus", corpus, &acts->corpus);
    df_free(corpus);
    DF_TRY(status);
    DF_TRY(name_with_hash(acts->file, "/tokenizer", "", &acts->tokenizer));
    return df_reader_int(acts->file, "/tokenizer", "bos", &acts->bos);
}

// [0] tokens, [1] windows, [2] documents: hashes of the stored values.
static void part_hashes(const df_acts *acts, uint64_t out[3]) {
    out[0] = df_hash(acts->tokens, acts->rows * sizeof *acts->tokens);
    out[1] = df_hash(acts->window, (acts->windows + 1) * sizeof *acts->window);
    out[2] = df_hash(acts->document, (acts->documents + 1) * sizeof *acts->document);
    out[2] = df_hash_more(out[2], acts->source, acts->documents * sizeof *acts->source);
    out[2] = df_hash_more(out[2], acts->heldout, acts->documents);
}

void df_acts_align(df_acts *acts) {
    uint64_t parts[3];
    part_hashes(acts, parts);
    acts->alignment = df_hash(parts, sizeof parts);
}

static uint64_t recipe_of(const df_acts *acts) {
    const store_object *root = store_table_find(&acts->file->table, "/");
    const store_attribute *job = store_find_attribute(root, "job");
    if (job == NULL || job->kind != STORE_TEXT) return acts->hash;
    return df_hash(job->text, strlen(job->text));
}

static df_status open_acts(df_acts *acts, const char *path) {
    acts->path = df_strdup(path);
    if (acts->path == NULL) return DF_FAILED;
    DF_TRY(df_reader_open(path, FORMAT, &acts->file));
    DF_TRY(load_index(acts));
    DF_TRY(check_index(acts));
    DF_TRY(open_sites(acts));
    DF_TRY(open_names(acts));
    df_acts_align(acts);
    acts->hash = store_stored_digest(acts->file);
    acts->recipe = recipe_of(acts);
    return DF_OK;
}

df_status df_acts_open(const char *path, df_acts **out) {
    df_acts *acts;
    *out = NULL;
    DF_TRY(DF_NEW(acts, 1));
    df_status status = open_acts(acts, path);
    if (status == DF_OK)
        *out = acts;
    else
        df_acts_close(&acts);
    return status;
}

// The row index of rows that are made goes with their source.
static void close_made(df_acts *acts) {
    acts->made.close(acts->made.self);
    acts->tokens = acts->token_end = NULL;
    acts->window = acts->document = acts->source = NULL;
    acts->heldout = NULL;
}

void df_acts_close(df_acts **acts_pointer) {
    df_acts *acts = *acts_pointer;
    *acts_pointer = NULL;
    if (acts == NULL) return;
    if (acts->made.self != NULL) close_made(acts);
    for (size_t i = 0; acts->site != NULL && i < acts->sites; i++) df_free(acts->site[i].name);
    for (size_t p = 0; p < acts->parts; p++) df_acts_close(&acts->part[p]);
    if (acts->parts > 0) acts->file = NULL; // of the first part
    void *owned[] = {acts->site,     acts->tokens,     acts->token_end, acts->window,
                     acts->document, acts->source,     acts->heldout,   acts->path,
                     acts->model,    acts->model_path, acts->corpus,    acts->tokenizer,
                     acts->part,     acts->part_site,  acts->part_row};
    for (size_t i = 0; i < sizeof owned / sizeof owned[0]; i++) df_free(owned[i]);
    df_reader_close(&acts->file);
    df_free(acts);
}

/* ---- comparing ------------------------------------------------------------------------------ */

df_status df_acts_aligned(const df_acts *a, const df_acts *b) {
    static const char *const names[3] = {"/tokens", "/windows", "/documents"};
    uint64_t of_a[3], of_b[3];
    if (a->alignment == b->alignment) return DF_OK;
    part_hashes(a, of_a);
    part_hashes(b, of_b);
    size_t i = 0;
    while (i < 2 && of_a[i] == of_b[i]) i++;
    return df_fail(
        DF_BAD_INPUT,
        "%s and %s are not aligned: %s differ (%llu and %llu rows, %llu and %llu windows, "
        "%llu and %llu documents); harvest both models over the same text with the same "
        "tokenizer, context and packing",
        a->path, b->path, names[i], (unsigned long long)a->rows, (unsigned long long)b->rows,
        (unsigned long long)a->windows, (unsigned long long)b->windows,
        (unsigned long long)a->documents, (unsigned long long)b->documents);
}
