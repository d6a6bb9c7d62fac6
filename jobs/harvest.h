/* harvest.h: the parts of the harvest stage. harvest.c holds the stage, harvest_tokens.c turns the
 * corpus into windows of tokens, harvest_units.c runs the windows, harvest_progress.c remembers
 * what a killed run had finished, harvest_precision.c chooses the arithmetic. */
#ifndef DARKFIELD_HARVEST_H
#define DARKFIELD_HARVEST_H

#include "darkfield/model.h"
#include "darkfield/tokenizer.h"
#include "jobs.h"

/* ---- tokens --------------------------------------------------------------------------------- */

/* The corpus as rows and windows, the same on every rank. */
typedef struct packed_text {
    uint64_t rows, windows, documents;
    uint32_t *tokens, *token_end; // [rows]
    uint64_t *window;             // [windows + 1]
    uint64_t *document;           // [documents + 1]
    uint64_t *source;             // [documents]
    uint8_t *heldout;             // [documents]
    int64_t bos;
} packed_text;

/* How the text is turned into windows. */
typedef struct packing {
    size_t context;
    bool by_document;
    const char *bos; // "auto", "none" or a token's text
    uint64_t seed;
    double heldout;
} packing;

/* Collective: ranks tokenise shares of the documents and pass them around. */
df_status df_pack_text(const df_run *run, const df_corpus *corpus, const df_tokenizer *tokenizer,
                       const packing *how, packed_text *out) DF_MUST_CHECK;
void df_packed_free(packed_text *text);

/* The token before each document that harvest.bos names; -1: none. Not collective. */
df_status df_choose_bos(const df_tokenizer *tokenizer, const char *bos, int64_t *out) DF_MUST_CHECK;
/* The tokenizer of a model's folder; DF_BAD_INPUT where it knows more tokens than the model. Not
 * collective. */
df_status df_model_tokenizer(const char *folder, const df_model_shape *shape,
                             df_tokenizer **out) DF_MUST_CHECK;

/* ---- windows -------------------------------------------------------------------------------- */

enum {
    HARVEST_UNIT = 16, // windows that are computed, written and remembered as one
    HARVEST_MOST_SITES = 64
};

/* What a finished unit leaves behind, in this order: summed loss, scored tokens, then each site's
 * summed squares. */
typedef struct unit_table {
    size_t units, columns;
    uint8_t *done; // [units]
    double *sums;  // [units, columns]
} unit_table;

typedef struct harvest {
    const df_run *run;
    const char *name, *model_path;    // of the model
    char *path, *progress_path, *job; // of the output; `job` is what it is compared by
    uint64_t model_hash, corpus_hash, tokenizer_hash;
    packing how;
    packed_text text;
    df_model_shape shape;
    df_model *model;
    df_type type;
    bool bf16;                            // products in bf16
    double deviation[HARVEST_MOST_SITES]; // of bf16 from fp32, for each site
    df_columns columns;
    const char *const *site; // [sites] of columns
    size_t sites;
    size_t width[HARVEST_MOST_SITES]; // columns of each site
    df_file *file;
    unit_table table;
    double interval; // seconds between notes of progress
} harvest;

/* Collective. Runs every unit that is not done; DF_STOPPED after a stop request, with the progress
 * on disk. */
df_status df_harvest_units(harvest *h) DF_MUST_CHECK;

/* Columns of all sites before site s; of all of them for s = sites. */
size_t df_harvest_columns(const harvest *h, size_t s);

/* Bytes that df_harvest_units takes beside model and text. */
uint64_t df_harvest_bytes(const harvest *h);

/* harvest_precision.c. Collective: makes the model multiply in bf16 where the job says so, and
 * fills h->deviation. */
df_status df_harvest_precision(harvest *h) DF_MUST_CHECK;

/* ---- progress ------------------------------------------------------------------------------- */

df_status df_units_new(harvest *h) DF_MUST_CHECK;
void df_units_free(unit_table *table);

/* Collective: syncs the file, then rank 0 replaces the progress file. */
df_status df_units_save(harvest *h) DF_MUST_CHECK;

/* Collective: true when the progress file belongs to this job; the table then says what is done. */
bool df_units_load(harvest *h);

#endif
