/* Reading *.dict.h5: everything is checked before it is believed. */
#include "train_internal.h"

#include <inttypes.h>
#include <math.h>

/* More columns or latents than this are damage, not a dictionary. */
#define MOST ((uint64_t)1 << 32)

/* What the file says of itself, before memory is allocated for it. */
typedef struct header {
    uint64_t latents, width, sites, k;
    df_dict_site *site; // [sites]
    df_activation activation;
    df_code_norm code_norm;
    bool subtract_bias;
    char *job;
} header;

static void header_free(header *h) {
    for (size_t s = 0; s < h->sites && h->site != NULL; s++) {
        df_free(h->site[s].name);
        df_free(h->site[s].model);
    }
    df_free(h->site);
    df_free(h->job);
}

static df_status expect_shape(const df_reader *file, const char *dataset, df_type type, int dims,
                              const uint64_t *shape) {
    uint64_t found[DF_MAX_DIMS];
    df_type found_type;
    DF_TRY(df_reader_find(file, dataset, dims, &found_type, found));
    if (found_type != type)
        return df_fail(DF_BAD_INPUT, "%s: %s is %s, expected %s", df_reader_path(file), dataset,
                       df_type_name(found_type), df_type_name(type));
    for (int i = 0; i < dims; i++)
        if (found[i] != shape[i])
            return df_fail(DF_BAD_INPUT,
                           "%s: %s has extent %" PRIu64 " in dimension %d, expected %" PRIu64,
                           df_reader_path(file), dataset, found[i], i, shape[i]);
    return DF_OK;
}

/* ---- the header ----------------------------------------------------------------------------- */

static df_status read_group(const df_reader *file, header *h) {
    const uint64_t shape[2] = {1, 6};
    uint64_t g[6];
    DF_TRY(expect_shape(file, "/groups", DF_U64, 2, shape));
    DF_TRY(df_reader_rows(file, "/groups", 0, 1, true, g));
    h->latents = g[1];
    h->width = g[3];
    bool good = g[0] == 0 && g[2] == 0 && g[4] == 0 && g[5] == g[3] && g[1] > 0 && g[1] < MOST &&
                g[3] > 0 && g[3] < MOST;
    if (good) return DF_OK;
    return df_fail(DF_BAD_INPUT,
                   "%s: /groups describes no single group that reads and writes the same columns "
                   "(%" PRIu64 " latents of %" PRIu64 " columns)",
                   df_reader_path(file), g[1], g[3]);
}

static df_status read_choices(const df_reader *file, header *h) {
    char *activation = NULL, *norm = NULL;
    int64_t k, subtract;
    df_status status;
    DF_GO(df_reader_text(file, "/", "activation", &activation));
    DF_GO(df_reader_text(file, "/", "code_norm", &norm));
    DF_GO(activation_parse(activation, &h->activation));
    DF_GO(code_norm_parse(norm, &h->code_norm));
    DF_GO(df_reader_int(file, "/", "subtract_bias", &subtract));
    DF_GO(df_reader_int(file, "/", "k", &k));
    h->subtract_bias = subtract != 0;
    h->k = (uint64_t)k;
    if (h->activation != DF_RELU && (k < 1 || (uint64_t)k > h->latents))
        status = df_fail(DF_BAD_INPUT, "%s: k is %" PRId64 ", expected 1 to %" PRIu64,
                         df_reader_path(file), k, h->latents);
done:
    df_free(activation);
    df_free(norm);
    return status;
}

static df_status read_site(const df_reader *file, size_t s, df_dict_site *site) {
    char name[32];
    snprintf(name, sizeof name, "name%zu", s);
    DF_TRY(df_reader_text(file, "/sites/input", name, &site->name));
    snprintf(name, sizeof name, "model%zu", s);
    DF_TRY(df_reader_text(file, "/sites/input", name, &site->model));
    DF_TRY(df_reader_rows(file, "/sites/input/first", s, 1, true, &site->first));
    DF_TRY(df_reader_rows(file, "/sites/input/width", s, 1, true, &site->width));
    DF_TRY(df_reader_rows(file, "/sites/input/scale", s, 1, true, &site->scale));
    if (isfinite(site->scale) && site->scale > 0) return DF_OK;
    return df_fail(DF_BAD_INPUT, "%s: site %zu has scale %g, it must be positive and finite",
                   df_reader_path(file), s, site->scale);
}

/* The sites must lie side by side and fill the row. */
static df_status read_sites(const df_reader *file, header *h) {
    uint64_t shape[DF_MAX_DIMS], at = 0;
    df_type type;
    DF_TRY(df_reader_find(file, "/sites/input/first", 1, &type, shape));
    if (shape[0] < 1 || shape[0] > TRAIN_MAX_SITES)
        return df_fail(DF_BAD_INPUT, "%s: %" PRIu64 " sites, expected 1 to %d",
                       df_reader_path(file), shape[0], TRAIN_MAX_SITES);
    DF_TRY(expect_shape(file, "/sites/input/first", DF_U64, 1, shape));
    DF_TRY(expect_shape(file, "/sites/input/width", DF_U64, 1, shape));
    DF_TRY(expect_shape(file, "/sites/input/scale", DF_F64, 1, shape));
    DF_TRY(DF_NEW(h->site, shape[0]));
    h->sites = shape[0];
    for (size_t s = 0; s < h->sites; s++) {
        DF_TRY(read_site(file, s, &h->site[s]));
        bool good =
            h->site[s].first == at && h->site[s].width > 0 && h->site[s].width <= h->width - at;
        if (!good)
            return df_fail(DF_BAD_INPUT,
                           "%s: site %zu has columns %" PRIu64 " + %" PRIu64
                           ", expected them to begin at %" PRIu64 " of %" PRIu64,
                           df_reader_path(file), s, h->site[s].first, h->site[s].width, at,
                           h->width);
        at += h->site[s].width;
    }
    if (at == h->width) return DF_OK;
    return df_fail(DF_BAD_INPUT, "%s: the sites fill %" PRIu64 " of %" PRIu64 " columns",
                   df_reader_path(file), at, h->width);
}

static df_status check_shapes(const df_reader *file, const header *h) {
    const uint64_t matrix[2] = {h->latents, h->width}, one = 1;
    DF_TRY(expect_shape(file, "/group/0/W_enc", DF_F32, 2, matrix));
    DF_TRY(expect_shape(file, "/group/0/W_dec", DF_F32, 2, matrix));
    DF_TRY(expect_shape(file, "/group/0/b_enc", DF_F32, 1, &matrix[0]));
    DF_TRY(expect_shape(file, "/b_dec", DF_F32, 1, &matrix[1]));
    if (h->activation != DF_BATCHTOPK) return DF_OK;
    return expect_shape(file, "/group/0/threshold", DF_F32, 1, &one);
}

static df_status read_header(const df_reader *file, header *h) {
    DF_TRY(read_group(file, h));
    DF_TRY(read_choices(file, h));
    DF_TRY(read_sites(file, h));
    DF_TRY(check_shapes(file, h));
    return df_reader_text(file, "/", "job", &h->job);
}

/* ---- the numbers ---------------------------------------------------------------------------- */

static df_status read_floats(const df_reader *file, const char *dataset, df_range rows,
                             size_t width, float *out) {
    DF_TRY(df_reader_rows(file, dataset, rows.first, rows.count, true, out));
    for (size_t i = 0; i < rows.count * width; i++)
        if (!isfinite(out[i]))
            return df_fail(DF_BAD_INPUT, "%s: %s holds %g in row %zu", df_reader_path(file),
                           dataset, (double)out[i], rows.first + i / width);
    return DF_OK;
}

static df_status read_numbers(const df_reader *file, df_dict *dict) {
    df_range columns = {0, dict->width}, one = {0, 1};
    DF_TRY(read_floats(file, "/group/0/W_enc", dict->mine, dict->width, dict->w_enc));
    DF_TRY(read_floats(file, "/group/0/W_dec", dict->mine, dict->width, dict->w_dec));
    DF_TRY(read_floats(file, "/group/0/b_enc", dict->mine, 1, dict->b_enc));
    DF_TRY(read_floats(file, "/b_dec", columns, 1, dict->b_dec));
    if (dict->activation != DF_BATCHTOPK) return DF_OK;
    return read_floats(file, "/group/0/threshold", one, 1, &dict->threshold);
}

static df_status load_mine(df_comm *comm, const char *path, df_dict **out) {
    df_reader *file = NULL;
    header h = {0};
    df_status status;
    DF_GO(df_reader_open(path, "darkfield-dictionary", &file));
    DF_GO(read_header(file, &h));
    DF_GO(df_dict_new(comm, h.latents, h.site, h.sites, out));
    (*out)->activation = h.activation;
    (*out)->code_norm = h.code_norm;
    (*out)->k = h.k;
    (*out)->subtract_bias = h.subtract_bias;
    (*out)->job = h.job;
    h.job = NULL;
    DF_GO(read_numbers(file, *out));
done:
    header_free(&h);
    df_reader_close(&file);
    if (status != DF_OK) df_context("reading the dictionary %s", path);
    return status;
}

df_status df_dict_load(df_comm *comm, const char *path, df_dict **out) {
    *out = NULL;
    df_status status = df_agree(comm, load_mine(comm, path, out));
    if (status != DF_OK) df_dict_free(out);
    return status;
}
