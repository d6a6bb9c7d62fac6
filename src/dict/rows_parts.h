/* rows_parts.h: what the kinds of data set share. */
#ifndef ROWS_PARTS_H
#define ROWS_PARTS_H

#include "darkfield/rows.h"

typedef enum rows_kind { ROWS_FILES, ROWS_SHUFFLED, ROWS_SYNTHETIC } rows_kind;

struct df_rows {
    rows_kind kind;
    uint64_t n;
    size_t width, sites;
    df_rows_site *site;
    // activation files
    df_acts **acts; // [files * sites], borrowed
    size_t *index, files;
    uint64_t *start;  // [files + 1] first row of each among all
    uint64_t *kept;   // bit r: row r is in the set
    uint64_t *before; // [words / 8 + 1] kept rows before each 512
    // shuffled file
    df_reader *file;
    // synthetic
    df_synthetic toy;
    float *directions; // [directions, models * width]
};

/* Rows [first, first + n) of the files' rows, one after another: which file, and the row in it. */
size_t rows_file_of(const df_rows *rows, uint64_t row);
/* The number of kept bits before every 512, and rows->n. */
void rows_count_kept(df_rows *rows);

df_status shuffled_read(const df_rows *rows, const uint64_t *i, size_t n, float *out) DF_MUST_CHECK;
void synthetic_read(const df_rows *rows, const uint64_t *i, size_t n, float *out);
uint64_t shuffled_source(const df_rows *rows, uint64_t i);

#endif
