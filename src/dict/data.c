/* Reading rows in dictionary units and back, and the normalisation that makes these units: what
 * each row does to itself, what rows are multiplied by and, where they are centred, the mean that
 * they come less. */
#include "train_internal.h"

#include <math.h>
#include <string.h>

/* The normalisation pass sums this many fixed runs of rows, so that any number of ranks gives the
 * same numbers; PIECE rows are read at a time. */
enum { CHUNKS = 64, PIECE = 256, ENDLESS_ROWS = 65536 };

/* Sites side by side in rows of `width` columns. */
typedef struct row_shape {
    const df_dict_site *site;
    size_t sites, width;
} row_shape;

static void normalise_tokens(row_shape of, float *x, size_t n) {
    for (size_t s = 0; s < of.sites; s++) {
        const df_dict_site *site = &of.site[s];
        if (site->token_norm == DF_TOKEN_NONE) continue;
        for (size_t r = 0; r < n; r++) {
            float *part = x + r * of.width + site->first;
            const df_token token = df_token_of(site->token_norm, part, site->width);
            df_token_apply(&token, part, site->width);
        }
    }
}

static void scale_sites(row_shape of, float *x, size_t n) {
    for (size_t r = 0; r < n; r++, x += of.width)
        for (size_t s = 0; s < of.sites; s++) {
            float *first = x + of.site[s].first, scale = (float)of.site[s].scale;
            for (size_t c = 0; c < of.site[s].width; c++) first[c] *= scale;
        }
}

void df_rows_scale(const df_dict *dict, float *x, size_t n) {
    const row_shape shape = {dict->site, dict->sites, dict->width};
    normalise_tokens(shape, x, n);
    scale_sites(shape, x, n);
}

void df_site_restore(const df_dict_site *site, const float *x, float *x_hat) {
    const df_token token = df_token_of(site->token_norm, x, site->width);
    df_token_undo(&token, site->scale, x_hat, site->width);
}

void df_rows_restore(const df_dict *dict, const float *x, size_t n, float *x_hat) {
    for (size_t r = 0; r < n; r++, x += dict->width, x_hat += dict->out.count)
        for (size_t s = 0; s < dict->sites; s++) {
            const df_dict_site *site = &dict->site[s];
            if (site->output)
                df_site_restore(site, x + site->first, x_hat + site->first - dict->out.first);
        }
}

bool df_dict_tokenwise(const df_dict *dict) {
    bool any = false;
    for (size_t s = 0; s < dict->sites; s++) any |= dict->site[s].token_norm != DF_TOKEN_NONE;
    return any;
}

static void subtract(const float *mean, size_t width, float *x, size_t n) {
    for (size_t r = 0; r < n; r++, x += width)
        for (size_t c = 0; c < width; c++) x[c] -= mean[c];
}

void row_sites_scale(const row_sites *all, float *x, size_t n) {
    const row_shape shape = {all->site, all->n, all->width};
    normalise_tokens(shape, x, n);
    if (all->mean != NULL) subtract(all->mean, all->width, x, n);
    scale_sites(shape, x, n);
}

df_status row_sites_open(const df_rows *rows, row_sites *out) {
    const df_rows_site *site;
    size_t n = df_rows_sites(rows, &site);
    if (n < 1 || n > DF_MAX_SITES)
        return df_fail(DF_USAGE, "a dictionary is trained on 1 to %d sites, found %zu",
                       DF_MAX_SITES, n);
    *out = (row_sites){.n = n};
    for (size_t s = 0; s < n; s++) {
        out->site[s] = (df_dict_site){.name = (char *)site[s].name,
                                      .model = (char *)site[s].model,
                                      .first = out->width,
                                      .width = site[s].width,
                                      .scale = 1.0};
        out->width += site[s].width;
    }
    return DF_OK;
}

void row_sites_pick(const row_sites *all, const size_t *sites, size_t n_sites, const float *x,
                    size_t n, float *out) {
    for (size_t r = 0; r < n; r++, x += all->width)
        for (size_t s = 0; s < n_sites; s++) {
            const df_dict_site *site = &all->site[sites[s]];
            memcpy(out, x + site->first, site->width * sizeof *out);
            out += site->width;
        }
}

df_status df_rows_gather_raw(const df_dict *dict, df_acts *const *acts, const size_t *site,
                             const uint64_t *rows, size_t n, float *out) {
    for (size_t s = 0; s < dict->sites; s++) {
        const df_dict_site *columns = &dict->site[s];
        DF_TRY(df_acts_gather(acts[s], site[s], rows, n, out + columns->first, dict->width));
    }
    return DF_OK;
}

df_status df_rows_gather(const df_dict *dict, df_acts *const *acts, const size_t *site,
                         const uint64_t *rows, size_t n, float *out) {
    DF_TRY(df_rows_gather_raw(dict, acts, site, rows, n, out));
    df_rows_scale(dict, out, n);
    return DF_OK;
}

/* ---- normalisation -------------------------------------------------------------------------- */

/* Adds rows x [n, width] to a leaf [width + 2 sites]: sums of the columns, then of |x|^2 per site,
 * then of |x|. */
static void add_rows(const row_sites *all, const float *x, size_t n, double *leaf) {
    for (size_t r = 0; r < n; r++, x += all->width) {
        for (size_t c = 0; c < all->width; c++) leaf[c] += (double)x[c];
        for (size_t s = 0; s < all->n; s++) {
            const float *part = x + all->site[s].first;
            double square = 0;
            for (size_t c = 0; c < all->site[s].width; c++)
                square += (double)part[c] * (double)part[c];
            leaf[all->width + s] += square;
            leaf[all->width + all->n + s] += sqrt(square);
        }
    }
}

size_t rows_counted(const df_rows *rows) {
    uint64_t n = df_rows_count(rows);
    return n == UINT64_MAX ? ENDLESS_ROWS : (size_t)n;
}

static size_t leaf_columns(const row_sites *all) {
    return all->width + 2 * all->n;
}

/* The leaves of this rank, [mine.count, leaf_columns], of rows (each normalised, where sites are)
 * less `mean` (NULL: nothing). */
static df_status sum_chunks(const df_rows *rows, const row_sites *all, const float *mean,
                            df_range mine, double *leaves) {
    float *x = NULL; // [PIECE, width]
    uint64_t number[PIECE];
    df_status status = DF_NEW(x, PIECE * all->width);
    for (size_t i = 0; i < mine.count && status == DF_OK; i++) {
        df_range chunk = df_share(rows_counted(rows), CHUNKS, (int)(mine.first + i));
        for (size_t done = 0; done < chunk.count && status == DF_OK; done += PIECE) {
            size_t n = chunk.count - done < PIECE ? chunk.count - done : PIECE;
            for (size_t r = 0; r < n; r++) number[r] = chunk.first + done + r;
            status = df_rows_read(rows, number, n, x);
            if (status != DF_OK) break;
            normalise_tokens((row_shape){all->site, all->n, all->width}, x, n);
            if (mean != NULL) subtract(mean, all->width, x, n);
            add_rows(all, x, n, leaves + i * leaf_columns(all));
        }
    }
    df_free(x);
    return status;
}

/* The sums over all rows, [leaf_columns]. Collective. */
static df_status sum_rows(df_comm *comm, const df_rows *rows, const row_sites *all,
                          const float *mean, double *sums) {
    size_t columns = leaf_columns(all);
    df_range mine = df_share(CHUNKS, df_comm_size(comm), df_comm_rank(comm));
    double *leaves = NULL;
    df_status status = DF_NEW(leaves, mine.count * columns);
    if (status == DF_OK) status = sum_chunks(rows, all, mean, mine, leaves);
    status = df_agree(comm, status);
    if (status == DF_OK) status = df_tree_sum(comm, CHUNKS, columns, leaves, sums);
    df_free(leaves);
    return status;
}

/* Means over the training rows of one site. */
typedef struct moments {
    double square, spread, length; // |x|^2, |x - mean x|^2, |x| (centred: |x - mean x|)
} moments;

static moments moments_of(const row_sites *all, size_t s, const double *sums, double rows) {
    const df_dict_site *columns = &all->site[s];
    double square = sums[all->width + s] / rows, mean = 0;
    for (size_t c = columns->first; c < columns->first + columns->width; c++)
        mean += (sums[c] / rows) * (sums[c] / rows);
    return (moments){square, square - mean, sums[all->width + all->n + s] / rows};
}

/* Rows that vary by less than this of their mean square are taken for constant: no more is left of
 * the difference of two sums. */
#define LEAST_SPREAD 1e-10
#define DEVIATION_EPSILON 1e-8

static df_status check_moments(const df_train_options *o, const df_dict_site *columns,
                               const moments *of) {
    if (!(of->square > 0) || !isfinite(of->square))
        return df_fail(DF_BAD_INPUT,
                       "%s of model %s has mean |x|^2 = %g over the training rows, it must "
                       "be positive and finite",
                       columns->name, columns->model, of->square);
    bool varies = of->spread > LEAST_SPREAD * of->square;
    if (varies || (!o->centre && o->normalise != DF_NORMALISE_DEVIATION)) return DF_OK;
    return df_fail(DF_BAD_INPUT,
                   "%s of model %s is the same in all training rows (mean |x|^2 = %g, mean "
                   "|x - mean x|^2 = %g): its rows cannot be centred or divided by their deviation",
                   columns->name, columns->model, of->square, of->spread);
}

static double scale_of(const df_train_options *o, uint64_t width, const moments *of) {
    double square = o->centre ? of->spread : of->square;
    double scale = o->normalise == DF_NORMALISE_NONE   ? 1.0
                   : o->normalise == DF_NORMALISE_NORM ? sqrt((double)width) / of->length
                   : o->normalise == DF_NORMALISE_RMS  ? 1.0 / sqrt(square)
                                                       : 1.0 / sqrt(of->spread + DEVIATION_EPSILON);
    return o->scale > 0 ? o->scale * scale : scale;
}

static df_status set_scales(const df_rows *set, const df_train_options *o, const double *sums,
                            row_sites *all, float *center) {
    double rows = (double)rows_counted(set);
    for (size_t s = 0; s < all->n; s++) {
        df_dict_site *columns = &all->site[s];
        moments of = moments_of(all, s, sums, rows);
        DF_TRY(check_moments(o, columns, &of));
        columns->scale = scale_of(o, columns->width, &of);
        for (size_t c = columns->first; c < columns->first + columns->width; c++)
            center[c] = o->centre ? 0.0f : (float)(sums[c] / rows * columns->scale);
    }
    return DF_OK;
}

int df_train_passes(const df_train_options *o) {
    return o->centre && o->normalise == DF_NORMALISE_NORM ? 2 : 1;
}

/* The lengths of centred rows take the place of those of rows as they are; scratch: as sums.
 * Collective. */
static df_status centred_lengths(df_comm *comm, const df_rows *rows, const row_sites *all,
                                 double *sums, double *scratch) {
    size_t lengths = all->width + all->n;
    DF_TRY(sum_rows(comm, rows, all, all->mean, scratch));
    memcpy(sums + lengths, scratch + lengths, all->n * sizeof *sums);
    return DF_OK;
}

df_status data_normalise(df_comm *comm, const df_rows *rows, const df_train_options *o,
                         row_sites *all, float *center) {
    double *sums = NULL, *scratch = NULL, n = (double)rows_counted(rows);
    df_status status = DF_NEW(sums, leaf_columns(all));
    if (status == DF_OK) status = DF_NEW(scratch, leaf_columns(all));
    status = df_agree(comm, status);
    if (status == DF_OK) status = sum_rows(comm, rows, all, NULL, sums);
    for (size_t c = 0; c < all->width && status == DF_OK && o->centre; c++)
        all->mean[c] = (float)(sums[c] / n);
    if (status == DF_OK && df_train_passes(o) > 1)
        status = centred_lengths(comm, rows, all, sums, scratch);
    if (status == DF_OK) status = set_scales(rows, o, sums, all, center);
    df_free(sums);
    df_free(scratch);
    return status;
}
