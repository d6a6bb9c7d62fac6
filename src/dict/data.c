/* Which rows a dictionary is trained on, reading them, and their normalisation. */
#include "train_internal.h"

#include <math.h>

/* The normalisation pass sums this many fixed runs of rows, so that any number of ranks gives the
 * same numbers; PIECE rows are read at a time. */
enum { CHUNKS = 64, PIECE = 256 };

df_status df_rows_gather(const df_dict *dict, df_acts *const *acts, const size_t *site,
                         const uint64_t *rows, size_t n, float *out) {
    for (size_t s = 0; s < dict->sites; s++) {
        const df_dict_site *columns = &dict->site[s];
        float *first = out + columns->first, scale = (float)columns->scale;
        DF_TRY(df_acts_gather(acts[s], site[s], rows, n, first, dict->width));
        for (size_t r = 0; r < n; r++)
            for (size_t c = 0; c < columns->width; c++) first[r * dict->width + c] *= scale;
    }
    return DF_OK;
}

static df_status check_files(df_acts *const *acts, size_t n_sites) {
    if (n_sites < 1 || n_sites > DF_MAX_SITES)
        return df_fail(DF_USAGE, "a dictionary is trained on 1 to %d sites, found %zu",
                       DF_MAX_SITES, n_sites);
    for (size_t s = 1; s < n_sites; s++)
        DF_TRY_AS(df_acts_aligned(acts[0], acts[s]), "pairing the rows of %s and %s", acts[0]->path,
                  acts[s]->path);
    return DF_OK;
}

df_status data_open(df_acts *const *acts, const size_t *site, size_t n_sites, bool skip_first,
                    train_data *out) {
    *out = (train_data){.acts = acts, .site = site, .n_sites = n_sites};
    DF_TRY(check_files(acts, n_sites));
    for (size_t s = 0; s < n_sites; s++)
        DF_TRY(df_add(out->width, acts[s]->site[site[s]].width, &out->width));
    DF_TRY(df_acts_rows(acts[0], 0, skip_first, &out->rows, &out->n));
    if (out->n > 0) return DF_OK;
    return df_fail(DF_BAD_INPUT,
                   "%s has no training rows: all documents are held out, or all rows skipped",
                   acts[0]->path);
}

void data_close(train_data *data) {
    df_free(data->rows);
    data->rows = NULL;
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

/* The leaves of this rank, [mine.count, width + sites]. */
static df_status sum_chunks(const train_data *data, const df_dict *dict, df_range mine,
                            double *leaves) {
    float *x = NULL; // [PIECE, width]
    df_status status = DF_NEW(x, PIECE * dict->width);
    for (size_t i = 0; i < mine.count && status == DF_OK; i++) {
        df_range chunk = df_share(data->n, CHUNKS, (int)(mine.first + i));
        for (size_t done = 0; done < chunk.count && status == DF_OK; done += PIECE) {
            size_t n = chunk.count - done < PIECE ? chunk.count - done : PIECE;
            status =
                df_rows_gather(dict, data->acts, data->site, data->rows + chunk.first + done, n, x);
            if (status == DF_OK) add_rows(dict, x, n, leaves + i * (dict->width + dict->sites));
        }
    }
    df_free(x);
    return status;
}

static df_status set_scales(const train_data *data, const double *sums, df_dict *dict,
                            float *center) {
    double rows = (double)data->n;
    for (size_t s = 0; s < dict->sites; s++) {
        df_dict_site *columns = &dict->site[s];
        double square = sums[dict->width + s] / rows;
        if (!(square > 0) || !isfinite(square))
            return df_fail(DF_BAD_INPUT,
                           "%s: %s has mean |x|^2 = %g over the training rows, it must be "
                           "positive and finite",
                           data->acts[s]->path, columns->name, square);
        columns->scale = 1.0 / sqrt(square);
        for (size_t c = columns->first; c < columns->first + columns->width; c++)
            center[c] = (float)(sums[c] / rows * columns->scale);
    }
    return DF_OK;
}

df_status data_normalise(df_comm *comm, const train_data *data, df_dict *dict, float *center) {
    size_t columns = dict->width + dict->sites;
    df_range mine = df_share(CHUNKS, df_comm_size(comm), df_comm_rank(comm));
    double *leaves = NULL, *sums = NULL;
    df_status status = DF_NEW(leaves, mine.count * columns);
    if (status == DF_OK) status = DF_NEW(sums, columns);
    if (status == DF_OK) status = sum_chunks(data, dict, mine, leaves);
    status = df_agree(comm, status);
    if (status == DF_OK) status = df_tree_sum(comm, CHUNKS, columns, leaves, sums);
    if (status == DF_OK) status = set_scales(data, sums, dict, center);
    df_free(leaves);
    df_free(sums);
    return status;
}
