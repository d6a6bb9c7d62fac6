/* harvest.h: the parts of the harvest stage. harvest.c holds the stage, harvest_tokens.c turns the
 * corpus into windows of tokens, harvest_pipeline.c spreads a model over ranks, harvest_units.c
 * runs the windows, harvest_progress.c remembers what a killed run had finished,
 * harvest_precision.c chooses the arithmetic, harvest_parts.c cuts large outputs; harvest_live.h
 * makes the rows without the stage. */
#ifndef DARKFIELD_HARVEST_H
#define DARKFIELD_HARVEST_H

#include "darkfield/line.h"
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

/* What the job says, windows as long as option `context` ("harvest.context"). Not collective. */
packing df_packing_read(const df_run *run, const char *context);
/* DF_USAGE where such windows are longer than the named model has positions. Not collective. */
df_status df_packing_check(const df_run *run, const char *context, const char *name,
                           const df_model_shape *shape) DF_MUST_CHECK;

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

/* Sites of one part of the model: which of the harvest's, and the columns before each of them when
 * their rows stand after one another. */
typedef struct part_sites {
    size_t n, columns;
    size_t index[HARVEST_MOST_SITES], before[HARVEST_MOST_SITES];
    const char *name[HARVEST_MOST_SITES];
} part_sites;

/* How the model is spread: `stages` ranks in a row are a group, which holds it once; stage s has
 * part[s]. Groups take units in turn. */
typedef struct pipeline {
    size_t stages, groups;
    size_t stage, group;  // of this rank
    df_model_part *part;  // [stages]
    uint64_t text, limit; // own memory before the model on the rank that has most; allowed, 0: any
    size_t threads;       // of the rank that has most: windows that travel as one block
    df_comm *comm;        // the group
    df_line *line;
} pipeline;

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
    size_t home[HARVEST_MOST_SITES];  // df_site_home of each
    pipeline pipe;
    part_sites own; // of this rank's part
    df_file *file;
    unit_table table;
    double interval; // seconds between notes of progress
} harvest;

/* A model's harvest up to its text, hashes and `job`; df_harvest_close in every case. Collective.
 */
df_status df_harvest_open(const df_run *run, size_t model, harvest *out) DF_MUST_CHECK;
/* Collective, with the blocks placed: the group's line, and this rank's weights. */
df_status df_harvest_read_model(harvest *h) DF_MUST_CHECK;
/* Collective in the groups of ranks that df_harvest_read_model made. */
void df_harvest_close(harvest *h);

/* Collective. Runs every unit that is not done; DF_STOPPED after a stop request, with the progress
 * on disk. */
df_status df_harvest_units(harvest *h) DF_MUST_CHECK;

/* Runs a window through this rank's blocks: of its own sites, one after another as in h->own,
 * stored[i] receives the rows in the file's type and squares[i] their summed squares. rows: scratch
 * of `context` rows of all of them. Not collective. */
df_status df_harvest_window(const harvest *h, df_forward *forward, size_t window, float *rows,
                            void *const *stored, double *squares) DF_MUST_CHECK;
/* The harvest's sites in a part of the model. Not collective. */
void df_harvest_sites(const harvest *h, df_model_part part, part_sites *out);
/* Columns of all sites before site s; of all of them for s = sites. */
size_t df_harvest_columns(const harvest *h, size_t s);

/* Bytes that df_harvest_units and the line take beside model and text, on a rank with that part. */
uint64_t df_harvest_bytes(const harvest *h, df_model_part part);

/* ---- the pipeline --------------------------------------------------------------------------- */

/* Reads harvest.pipeline against the number of ranks and of blocks. Not collective. */
df_status df_pipeline_check(harvest *h) DF_MUST_CHECK;
/* Collective, with the text in memory: places the blocks. */
df_status df_pipeline_place(harvest *h) DF_MUST_CHECK;
/* Places the whole model on every rank, whatever harvest.pipeline and harvest.memory say.
 * Collective. */
df_status df_pipeline_whole(harvest *h) DF_MUST_CHECK;
/* Memory of a rank with that part: weights, and what df_harvest_bytes says. */
uint64_t df_pipeline_bytes(const harvest *h, df_model_part part);
void df_pipeline_print(const harvest *h); /* the placement, where there is more than one stage */
/* Collective: the group's line. Close is collective too, open or not. */
df_status df_pipeline_open(harvest *h) DF_MUST_CHECK;
void df_pipeline_close(harvest *h);
/* Floats of the residual stream of one window, as it travels. */
size_t df_pipeline_numbers(const harvest *h);

/* harvest_precision.c. Collective: makes the model multiply in bf16 where the job says so, and
 * fills h->deviation. */
df_status df_harvest_precision(harvest *h) DF_MUST_CHECK;

/* ---- files in parts -------------------------------------------------------------------------- */

uint64_t df_harvest_row_bytes(const harvest *h); /* of one row of all sites, with its token */
/* The first rows of the files, cut [parts + 1] in new memory; NULL and 1 when all rows go to one.
 * Not collective. */
df_status df_harvest_cuts(const harvest *h, uint64_t **cut, size_t *parts) DF_MUST_CHECK;
/* Collective: cuts the declared output. */
df_status df_harvest_split(harvest *h) DF_MUST_CHECK;

/* ---- progress ------------------------------------------------------------------------------- */

df_status df_units_new(harvest *h) DF_MUST_CHECK;
void df_units_free(unit_table *table);

/* Collective: syncs the file, then rank 0 replaces the progress file. */
df_status df_units_save(harvest *h) DF_MUST_CHECK;

/* Collective: true when the progress file belongs to this job; the table then says what is done. */
bool df_units_load(harvest *h);

#endif
