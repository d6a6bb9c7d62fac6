/* darkfield/rows.h: data sets: the rows that a dictionary is trained on or evaluated with, the
 * order in which training sees them, and the global shuffle.
 *
 * A row holds all sites of all models side by side. A data set is one of
 *   activation files   one or several harvests, file after file, or models that make their rows
 *                      (df_acts_made), without the rows that a filter leaves out;
 *   a shuffled file    the same rows in a recorded random order (df_rows_shuffle);
 *   a synthetic model  sums of known directions, drawn as they are asked for (reference: the toy
 *                      models of sparse dictionary learning), endless.
 * Its rows are numbered from 0. Everything here is a function of files, settings and numbers alone,
 * never of ranks or threads. */
#ifndef DARKFIELD_ROWS_H
#define DARKFIELD_ROWS_H

#include "darkfield/base.h"
#include "darkfield/comm.h"
#include "darkfield/store.h"

/* ---- data sets ------------------------------------------------------------------------------ */

typedef struct df_rows df_rows;

/* Columns of a row; texts belong to the data set. */
typedef struct df_rows_site {
    const char *name, *model;
    uint64_t width;
    df_type type; /* as stored */
} df_rows_site;

/* acts [files * sites]: file f of site s is acts[f * sites + s], its site index[f * sites + s]. The
 * sites of one file are aligned; all files have the same sites. Files are borrowed, both arrays
 * copied. Not collective; the same on every rank. */
typedef struct df_rows_files {
    df_acts *const *acts;
    const size_t *index;
    size_t files, sites;
} df_rows_files;
df_status df_rows_open(const df_rows_files *from, const df_acts_filter *filter,
                       df_rows **out) DF_MUST_CHECK;

/* Toy models (Sharkey et al. 2022, "Taking features out of superposition with sparse
 * autoencoders"): unit directions drawn N(0, 1) and normalised; each is present with a probability,
 * with a strength uniform in [low, high]. Of two models, `exclusive` directions are present in the
 * first alone, as many in the second alone, and the others in both, with directions of their own
 * and the same strength. */
typedef struct df_synthetic {
    size_t models, width, directions, exclusive;
    double probability, low, high;
    uint64_t seed;
    bool fresh; /* other rows of the same directions: for evaluation */
} df_synthetic;
df_status df_rows_open_synthetic(const df_synthetic *spec, df_rows **out) DF_MUST_CHECK;
/* The true direction [models * width], unit in each model that has it and 0 elsewhere. class_ 0:
 * both (or the only) models, 1: the first alone, 2: the second alone. */
void df_synthetic_direction(const df_synthetic *spec, size_t direction, float *out, int *class_);

/* A file of df_rows_shuffle; DF_BAD_INPUT when it is none. Not collective. */
df_status df_rows_open_shuffled(const char *path, df_rows **out) DF_MUST_CHECK;
void df_rows_close(df_rows **rows);

uint64_t df_rows_count(const df_rows *rows); /* UINT64_MAX: endless */
size_t df_rows_width(const df_rows *rows);
size_t df_rows_sites(const df_rows *rows, const df_rows_site **sites);
/* The row of the activation files, one after another, that row `i` is. */
uint64_t df_rows_source(const df_rows *rows, uint64_t i);
/* Where every document begins among those: [n + 1], new memory; of a shuffled or synthetic set: one
 * "document" each row of 0..n, n = 64, even shares of `count` rows. */
df_status df_rows_documents(const df_rows *rows, uint64_t count, uint64_t **first,
                            uint64_t *n) DF_MUST_CHECK;

/* Rows i[0..n) as fp32, out [n, width], in the models' units. Runs of ascending numbers are read at
 * once. A row that is not finite is DF_BAD_INPUT naming file, site, row and document. Thread-safe;
 * not collective. */
df_status df_rows_read(const df_rows *rows, const uint64_t *i, size_t n, float *out) DF_MUST_CHECK;

/* Leaves out rows with NaN or infinity in any site and counts them, in one pass over everything.
 * Numbers shift. Activation files only. Collective. */
df_status df_rows_drop_bad(df_comm *comm, df_rows *rows, uint64_t *dropped) DF_MUST_CHECK;

/* ---- order ---------------------------------------------------------------------------------- */

/* exact   every epoch in a random permutation of its own; rows are read one by one
 * buffer  runs of DF_ORDER_CHUNK rows in random order fill a buffer, which is permuted: reading is
 *         sequential within a run, mixing is as wide as the buffer
 * global  a shuffled file from its begin to its end; in later epochs its runs of DF_ORDER_CHUNK
 *         rows come in another order
 * plain   as they come (synthetic rows) */
typedef enum df_shuffle {
    DF_SHUFFLE_EXACT,
    DF_SHUFFLE_BUFFER,
    DF_SHUFFLE_GLOBAL,
    DF_SHUFFLE_PLAIN
} df_shuffle;
enum { DF_ORDER_CHUNK = 256 };
typedef struct df_order {
    df_shuffle how;
    uint64_t seed, n, buffer; /* rows of the set; of the buffer */
} df_order;
/* The row that is seen as number i, epoch after epoch: n rows each, every row once. */
uint64_t df_order_at(const df_order *order, uint64_t i);
/* Buffer shuffle in two steps. Number i lies in buffer *piece at *place; that holds the rows
 * df_order_place(piece, 0 .. df_order_room(piece)), which are long runs. */
void df_order_find(const df_order *order, uint64_t i, uint64_t *piece, uint64_t *place);
uint64_t df_order_room(const df_order *order, uint64_t piece);
uint64_t df_order_place(const df_order *order, uint64_t piece, uint64_t place);

/* ---- the global shuffle --------------------------------------------------------------------- */

typedef struct df_shuffle_options {
    uint64_t seed;
    uint64_t memory;          /* bytes per rank for the buffers; volatile */
    const char *output, *job; /* job: what the file is compared by */
    uint64_t dropped;         /* by df_rows_drop_bad; recorded */
    df_provenance facts;
} df_shuffle_options;
/* Writes all rows in the order of df_random_permute, format "darkfield-rows":
 *   /sites/0, /sites/1, ...   [n, width] in the type of the source; attributes model, site, width
 *   /source                   u64 [n], the row of the activation files (one after another) at each
 *                             place
 * root attributes rows, seed, dropped, rule: place j holds row df_random_permute(seed,
 * DF_STREAM_SHUFFLE, n, j) of the data set.
 *
 * Out of core in two passes: places fall into ranges that fit into memory. Ranks read the source in
 * order and send each row to the owner of its range, which appends it there, in the output file
 * itself (rows arrive in the order of the source, so that the second pass knows which is where);
 * then every range is read, put in order and written back. Twice read, twice written, bytes
 * independent of ranks and memory. A run that was killed starts again. Collective. */
df_status df_rows_shuffle(df_comm *comm, const df_rows *rows,
                          const df_shuffle_options *options) DF_MUST_CHECK;
/* What that will need on rank 0 of `size`, beside the open data set. Not collective. */
df_status df_rows_shuffle_plan(const df_rows *rows, const df_shuffle_options *options, int size,
                               df_need *out) DF_MUST_CHECK;

#endif
