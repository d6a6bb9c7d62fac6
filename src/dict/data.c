/* Reading rows in dictionary units, and the normalisation that makes these units. */
#include "train_internal.h"

#include <math.h>

/* The normalisation pass sums this many fixed runs of rows, so that any number of ranks gives the
 * same numbers; PIECE rows are read at a time. */
enum { CHUNKS = 64, PIECE = 256, ENDLESS_ROWS = 65536 };

void df_rows_scale(const df_dict *dict, float *x, size_t n) {
    for (size_t r = 0; r < n; r++, x += dict->width)
        for (size_t s = 0; s < dict->sites; s++) {
            const df_dict_site *site = &dict->site[s];
            float *first = x + site->first, scale = (float)site->scale;
            for (size_t c = 0; c < site->width; c++) first[c] *= scale;
        }
}

df_status df_rows_gather(const df_dict *dict, df_acts *const *acts, const size_t *site,
                         const uint64_t *rows, size_t n, float *out) {
    for (size_t s = 0; s < dict->sites; s++) {
        const df_dict_site *columns = &dict->site[s];
        DF_TRY(df_acts_gather(acts[s], site[s], rows, n, out + columns->first, dict->width));
    }
    df_rows_scale(dict, out, n);
    return DF_OK;
}

/* ---- normalisation -------------------------------------------------------------------------- */

/* Adds rows x [n, width] to a leaf [width + sites]: sums of the columns, then of |x|^2 per site. */
static void add_rows(const df_dict *dict, const float *x, size_t n, double *leaf) {
    for (size_t r = 0; r < n; r++, x += dict->width) {
        for (size_t c = 0; c < dict->width; c++) leaf[c] += (double)x[c];
        for (size_t s = 0; s < dict->sites; s++) {
            const float *part = x + dict->site[s].first;
            double square = 0;
            for (size_t c = 0; c < dict->site[s].width; c++)
                square += (double)part[c] * (double)part[c];
            leaf[dict->width + s] += square;
        }
    }
}

size_t rows_counted(const df_rows *rows) {
    uint64_t n = df_rows_count(rows);
    return n == UINT64_MAX ? ENDLESS_ROWS : (size_t)n;
}

/* The leaves of this rank, [mine.count, width + sites]. */
static df_status sum_chunks(const df_rows *rows, const df_dict *dict, df_range mine,
                            double *leaves) {
    float *x = NULL; // [PIECE, width]
    uint64_t number[PIECE];
    df_status status = DF_NEW(x, PIECE * dict->width);
    for (size_t i = 0; i < mine.count && status == DF_OK; i++) {
        df_range chunk = df_share(rows_counted(rows), CHUNKS, (int)(mine.first + i));
        for (size_t done = 0; done < chunk.count && status == DF_OK; done += PIECE) {
            size_t n = chunk.count - done < PIECE ? chunk.count - done : PIECE;
            for (size_t r = 0; r < n; r++) number[r] = chunk.first + done + r;
            status = df_rows_read(rows, number, n, x);
            if (status == DF_OK) add_rows(dict, x, n, leaves + i * (dict->width + dict->sites));
        }
    }
    df_free(x);
    return status;
}

static df_status set_scales(const df_rows *set, const double *sums, df_dict *dict, float *center) {
    double rows = (double)rows_counted(set);
    for (size_t s = 0; s < dict->sites; s++) {
        df_dict_site *columns = &dict->site[s];
        double square = sums[dict->width + s] / rows;
        if (!(square > 0) || !isfinite(square))
            return df_fail(DF_BAD_INPUT,
                           "%s of model %s has mean |x|^2 = %g over the training rows, it must "
                           "be positive and finite",
                           columns->name, columns->model, square);
        columns->scale = 1.0 / sqrt(square);
        for (size_t c = columns->first; c < columns->first + columns->width; c++)
            center[c] = (float)(sums[c] / rows * columns->scale);
    }
    return DF_OK;
}

df_status data_normalise(df_comm *comm, const df_rows *rows, df_dict *dict, float *center) {
    size_t columns = dict->width + dict->sites;
    df_range mine = df_share(CHUNKS, df_comm_size(comm), df_comm_rank(comm));
    double *leaves = NULL, *sums = NULL;
    df_status status = DF_NEW(leaves, mine.count * columns);
    if (status == DF_OK) status = DF_NEW(sums, columns);
    if (status == DF_OK) status = sum_chunks(rows, dict, mine, leaves);
    status = df_agree(comm, status);
    if (status == DF_OK) status = df_tree_sum(comm, CHUNKS, columns, leaves, sums);
    if (status == DF_OK) status = set_scales(rows, sums, dict, center);
    df_free(leaves);
    df_free(sums);
    return status;
}
