/* FVU as two public evaluations have it, of batches of held-out rows: dictionary_learning's, which
 * centres the error too, and the one by rows (ckkissane's and Nanda's crosscoders, SAEBench's
 * tables). */
#include "fvu.h"

#include <string.h>

/* ---- a batch -------------------------------------------------------------------------------- */

df_status batch_open(const df_dict *dict, uint64_t most, fvu_batch *b) {
    size_t out = dict->out.count, outputs = df_dict_outputs(dict);
    *b = (fvu_batch){.dict = dict, .most = (size_t)most};
    DF_TRY(DF_NEW(b->x, b->most * out));
    DF_TRY(DF_NEW(b->error, b->most * outputs));
    return DF_NEW(b->sums, 2 * out);
}

void batch_close(fvu_batch *b) {
    df_free(b->x);
    df_free(b->error);
    df_free(b->sums);
}

uint64_t batch_bytes(const df_dict *dict, uint64_t most) {
    uint64_t out = dict->out.count, outputs = df_dict_outputs(dict);
    return most * (out * sizeof(float) + outputs * sizeof(double)) + 2 * out * sizeof(double);
}

/* sum x and sum e by column, and |e|^2 of the row. */
static void add_columns(fvu_batch *b, size_t site, const float *x, const float *x_hat) {
    size_t out = b->dict->out.count;
    df_range columns = written_columns(b->dict, site);
    double squares = 0;
    for (size_t c = columns.first; c < columns.first + columns.count; c++) {
        double value = (double)x[c], e = value - (double)x_hat[c];
        b->sums[c] += value;
        b->sums[out + c] += e;
        squares += e * e;
    }
    b->error[b->rows * df_dict_outputs(b->dict) + site] = squares;
}

static void add_row(fvu_batch *b, const float *x, const float *x_hat) {
    size_t out = b->dict->out.count;
    memcpy(b->x + b->rows * out, x, out * sizeof *x);
    for (size_t s = 0; s < df_dict_outputs(b->dict); s++) add_columns(b, s, x, x_hat);
    b->rows++;
}

/* sum (e - mean e)^2 over the columns of a site. */
static double error_spread(const fvu_batch *b, size_t site) {
    size_t out = b->dict->out.count;
    df_range columns = written_columns(b->dict, site);
    const double *of_e = b->sums + out;
    double squares = 0;
    for (size_t r = 0; r < b->rows; r++) squares += b->error[r * df_dict_outputs(b->dict) + site];
    for (size_t c = columns.first; c < columns.first + columns.count; c++)
        squares -= of_e[c] * of_e[c] / (double)b->rows;
    return squares;
}

/* |x - mean x|^2 of one row over some columns. */
static double apart(const fvu_batch *b, size_t row, df_range columns) {
    const float *x = b->x + row * b->dict->out.count;
    double squares = 0;
    for (size_t c = columns.first; c < columns.first + columns.count; c++) {
        double off = (double)x[c] - b->sums[c] / (double)b->rows;
        squares += off * off;
    }
    return squares;
}

/* Adds what one site of the batch says to its sums; a row that is the mean says nothing, nor does a
 * batch of such rows. */
static void count_site(const fvu_batch *b, size_t site, double *to) {
    df_range columns = written_columns(b->dict, site);
    double below = 0;
    for (size_t r = 0; r < b->rows; r++) {
        double squares = apart(b, r, columns);
        if (!(squares > 0)) continue;
        below += squares;
        to[ROW_RATIOS] += b->error[r * df_dict_outputs(b->dict) + site] / squares;
        to[ROWS] += 1;
    }
    if (!(below > 0)) return;
    to[BATCH_RATIOS] += error_spread(b, site) / below;
    to[BATCHES] += 1;
}

/* ---- batch after batch ---------------------------------------------------------------------- */

static void end_batch(fvu_batch *b, double *to) {
    for (size_t s = 0; s < df_dict_outputs(b->dict); s++) count_site(b, s, to + s * BATCH_SUMS);
    memset(b->sums, 0, 2 * b->dict->out.count * sizeof *b->sums);
    b->rows = 0;
}

void batch_add(fvu_batch *b, const batch_rows *rows, const float *x, const float *x_hat,
               double *to) {
    size_t parts = (rows->all + b->most - 1) / b->most, part = 0;
    for (size_t r = rows->first; r < rows->first + rows->count; r++) {
        add_row(b, x + b->dict->out.first, x_hat);
        x += b->dict->width;
        x_hat += b->dict->out.count;
        df_range now = df_share(rows->all, (int)parts, (int)part);
        while (now.first + now.count <= r) now = df_share(rows->all, (int)parts, (int)++part);
        if (r + 1 == now.first + now.count) end_batch(b, to);
    }
}
