/* Reading *.dict.h5: everything is checked before it is believed. */
#include "train_internal.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* More columns or latents than this are damage, not a dictionary. */
#define MOST ((uint64_t)1 << 32)
/* And a logarithm of a gain beyond this. */
#define MOST_GAIN 80.0

/* What the file says of itself, before memory is allocated for it. */
typedef struct header {
    df_dict_shape shape;
    df_dict_group *group; // [shape.groups]
    df_dict_site *site;   // [2 DF_MAX_SITES], of which shape.sites are used
    uint64_t out, in;     // columns of all output sites, of all input sites
    uint64_t k;
    df_activation activation;
    df_code_norm code_norm;
    bool subtract_bias;
    char *job;
} header;

static void site_free(df_dict_site *site) {
    df_free(site->name);
    df_free(site->model);
    *site = (df_dict_site){0};
}

static void header_free(header *h) {
    for (size_t s = 0; h->site != NULL && s < h->shape.sites; s++) site_free(&h->site[s]);
    df_free(h->site);
    df_free(h->group);
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

/* Latents and columns that damage could not have made; the rest is df_dict_make's to check. */
static bool is_modest(const uint64_t g[6]) {
    bool modest = g[1] > 0 && g[3] > 0 && g[5] > 0;
    for (int i = 0; i < 6; i++) modest = modest && g[i] < MOST;
    return modest;
}

static df_status read_groups(const df_reader *file, header *h) {
    uint64_t shape[DF_MAX_DIMS], g[6];
    df_type type;
    DF_TRY(df_reader_find(file, "/groups", 2, &type, shape));
    if (shape[0] < 1 || shape[0] > UINT16_MAX)
        return df_fail(DF_BAD_INPUT, "%s: /groups lists %" PRIu64 " groups, expected 1 to %d",
                       df_reader_path(file), shape[0], UINT16_MAX);
    shape[1] = 6;
    DF_TRY(expect_shape(file, "/groups", DF_U64, 2, shape));
    DF_TRY(DF_NEW(h->group, shape[0]));
    h->shape.groups = shape[0];
    h->shape.group = h->group;
    for (size_t i = 0; i < h->shape.groups; i++) {
        DF_TRY(df_reader_rows(file, "/groups", i, 1, true, g));
        if (!is_modest(g))
            return df_fail(DF_BAD_INPUT,
                           "%s: /groups row %zu cannot be (%" PRIu64 " latents, which read %" PRIu64
                           " columns and write %" PRIu64 ")",
                           df_reader_path(file), i, g[1], g[3], g[5]);
        h->group[i] =
            (df_dict_group){.first = g[0], .count = g[1], .in = {g[2], g[3]}, .out = {g[4], g[5]}};
        h->shape.latents += g[1];
    }
    return DF_OK;
}

static df_status read_choices(const df_reader *file, header *h) {
    char *activation = NULL, *norm = NULL, *kind = NULL;
    int64_t k, subtract;
    df_status status;
    DF_GO(df_reader_text(file, "/", "kind", &kind));
    DF_GO(kind_parse(kind, &h->shape.kind));
    DF_GO(df_reader_text(file, "/", "activation", &activation));
    DF_GO(df_reader_text(file, "/", "code_norm", &norm));
    DF_GO(activation_parse(activation, &h->activation));
    DF_GO(code_norm_parse(norm, &h->code_norm));
    DF_GO(df_reader_int(file, "/", "subtract_bias", &subtract));
    DF_GO(df_reader_int(file, "/", "k", &k));
    h->subtract_bias = subtract != 0;
    h->k = (uint64_t)k;
    bool has_k = h->activation == DF_TOPK || h->activation == DF_BATCHTOPK;
    if (has_k && (k < 1 || (uint64_t)k > h->shape.latents))
        status = df_fail(DF_BAD_INPUT, "%s: k is %" PRId64 ", expected 1 to %zu",
                         df_reader_path(file), k, h->shape.latents);
done:
    df_free(kind);
    df_free(activation);
    df_free(norm);
    return status;
}

static df_status read_text(const df_reader *file, const char *where, const char *what, size_t i,
                           char **out) {
    char name[32];
    snprintf(name, sizeof name, "%s%zu", what, i);
    return df_reader_text(file, where, name, out);
}

static df_status read_column(const df_reader *file, const char *where, const char *what, size_t i,
                             void *out) {
    char path[64];
    snprintf(path, sizeof path, "%s/%s", where, what);
    return df_reader_rows(file, path, i, 1, true, out);
}

static df_status read_token_norm(const df_reader *file, const char *where, size_t i,
                                 df_token_norm *out) {
    char name[32], *text;
    snprintf(name, sizeof name, "token_norm%zu", i);
    DF_TRY(df_reader_text_or(file, where, name, "none", &text));
    df_status status = token_norm_parse(text, out);
    df_free(text);
    if (status != DF_OK) df_context("reading %s of %s in %s", name, where, df_reader_path(file));
    return status;
}

static df_status read_site(const df_reader *file, const char *where, size_t i, df_dict_site *site) {
    DF_TRY(read_text(file, where, "name", i, &site->name));
    DF_TRY(read_text(file, where, "model", i, &site->model));
    DF_TRY(read_column(file, where, "first", i, &site->first));
    DF_TRY(read_column(file, where, "width", i, &site->width));
    DF_TRY(read_column(file, where, "scale", i, &site->scale));
    DF_TRY(read_token_norm(file, where, i, &site->token_norm));
    if (!isfinite(site->scale) || site->scale <= 0)
        return df_fail(DF_BAD_INPUT,
                       "%s: %s: site %zu has scale %g, it must be positive and finite",
                       df_reader_path(file), where, i, site->scale);
    if (site->width > 0 && site->width < MOST && site->first < MOST) return DF_OK;
    return df_fail(DF_BAD_INPUT,
                   "%s: %s: site %zu has columns %" PRIu64 " + %" PRIu64 ", which cannot be",
                   df_reader_path(file), where, i, site->first, site->width);
}

static df_status count_sites(const df_reader *file, const char *where, uint64_t *n) {
    uint64_t shape[DF_MAX_DIMS];
    df_type type;
    char path[3][64];
    snprintf(path[0], sizeof path[0], "%s/first", where);
    snprintf(path[1], sizeof path[1], "%s/width", where);
    snprintf(path[2], sizeof path[2], "%s/scale", where);
    DF_TRY(df_reader_find(file, path[0], 1, &type, shape));
    *n = shape[0];
    if (*n < 1 || *n > DF_MAX_SITES)
        return df_fail(DF_BAD_INPUT, "%s: %s: %" PRIu64 " sites, expected 1 to %d",
                       df_reader_path(file), where, *n, DF_MAX_SITES);
    DF_TRY(expect_shape(file, path[0], DF_U64, 1, shape));
    DF_TRY(expect_shape(file, path[1], DF_U64, 1, shape));
    return expect_shape(file, path[2], DF_F64, 1, shape);
}

/* Adds an output site behind the sites so far, or finds it among the input sites. */
static df_status add_output(const df_reader *file, header *h, size_t i) {
    df_dict_site *fresh = &h->site[h->shape.sites++], *same = NULL;
    DF_TRY(read_site(file, "/sites/output", i, fresh));
    fresh->output = true;
    h->out += fresh->width;
    for (size_t s = 0; s + 1 < h->shape.sites; s++)
        if (h->site[s].first == fresh->first) same = &h->site[s];
    if (same == NULL) return DF_OK;
    bool equal = same->input && same->width == fresh->width && same->scale == fresh->scale &&
                 same->token_norm == fresh->token_norm && strcmp(same->name, fresh->name) == 0 &&
                 strcmp(same->model, fresh->model) == 0;
    if (!equal)
        return df_fail(DF_BAD_INPUT,
                       "%s: /sites/output: site %zu, %s, begins at column %" PRIu64
                       " like another site, %s, and is not the same",
                       df_reader_path(file), i, fresh->name, fresh->first, same->name);
    same->output = true;
    site_free(fresh);
    h->shape.sites--;
    return DF_OK;
}

static int by_column(const void *a, const void *b) {
    const df_dict_site *x = a, *y = b;
    return (x->first > y->first) - (x->first < y->first);
}

/* The sites must lie side by side. */
static df_status read_sites(const df_reader *file, header *h) {
    uint64_t inputs, outputs, at = 0;
    DF_TRY(count_sites(file, "/sites/input", &inputs));
    DF_TRY(count_sites(file, "/sites/output", &outputs));
    DF_TRY(DF_NEW(h->site, inputs + outputs));
    h->shape.site = h->site;
    for (size_t i = 0; i < inputs; i++) {
        DF_TRY(read_site(file, "/sites/input", i, &h->site[h->shape.sites++]));
        h->site[i].input = true;
        h->in += h->site[i].width;
    }
    for (size_t i = 0; i < outputs; i++) DF_TRY(add_output(file, h, i));
    qsort(h->site, h->shape.sites, sizeof *h->site, by_column);
    for (size_t s = 0; s < h->shape.sites; s++) {
        const df_dict_site *site = &h->site[s];
        if (site->first != at)
            return df_fail(DF_BAD_INPUT,
                           "%s: site %s of model %s has columns %" PRIu64 " + %" PRIu64
                           ", expected them to begin at %" PRIu64,
                           df_reader_path(file), site->name, site->model, site->first, site->width,
                           at);
        if (site->token_norm != DF_TOKEN_NONE && !(site->input && site->output))
            return df_fail(DF_BAD_INPUT,
                           "%s: site %s of model %s has token norm %s and is not both read and "
                           "written, expected none",
                           df_reader_path(file), site->name, site->model,
                           token_norm_name(site->token_norm));
        at += site->width;
    }
    return DF_OK;
}

static df_status expect_in_group(const df_reader *file, size_t g, const char *name, int dims,
                                 const uint64_t *shape) {
    char path[64];
    snprintf(path, sizeof path, "/group/%zu/%s", g, name);
    return expect_shape(file, path, DF_F32, dims, shape);
}

static df_status check_shapes(const df_reader *file, const header *h) {
    const uint64_t skip[2] = {h->out, h->in};
    uint64_t written = 0;
    for (size_t s = 0; s < h->shape.sites; s++) written += h->site[s].output;
    const uint64_t thresholds = h->code_norm == DF_NORM_DECOUPLED ? written : 1;
    for (size_t g = 0; g < h->shape.groups; g++) {
        const df_dict_group *group = &h->group[g];
        const uint64_t encoder[2] = {group->count, group->in.count};
        const uint64_t decoder[2] = {group->count, group->out.count};
        DF_TRY(expect_in_group(file, g, "W_enc", 2, encoder));
        DF_TRY(expect_in_group(file, g, "W_dec", 2, decoder));
        DF_TRY(expect_in_group(file, g, "b_enc", 1, encoder));
        if (h->activation == DF_BATCHTOPK)
            DF_TRY(expect_in_group(file, g, "threshold", 1, &thresholds));
        if (h->activation == DF_JUMPRELU) DF_TRY(expect_in_group(file, g, "threshold", 1, encoder));
        if (h->activation != DF_GATED) continue;
        DF_TRY(expect_in_group(file, g, "r_mag", 1, encoder));
        DF_TRY(expect_in_group(file, g, "b_mag", 1, encoder));
    }
    DF_TRY(expect_shape(file, "/b_dec", DF_F32, 1, &h->out));
    if (h->shape.kind != DF_SKIP_TRANSCODER) return DF_OK;
    return expect_shape(file, "/W_skip", DF_F32, 2, skip);
}

static df_status read_header(const df_reader *file, header *h) {
    DF_TRY(read_groups(file, h));
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

/* The latents' own numbers of group g. */
static df_status read_column_of(const df_reader *file, const df_dict *dict, size_t g,
                                const char *name, float *out) {
    const df_dict_group *group = &dict->group[g];
    size_t local = group->local.first, n = group->local.count;
    df_range rows = {n > 0 ? dict->mine.first + local - group->first : 0, n};
    char path[64];
    snprintf(path, sizeof path, "/group/%zu/%s", g, name);
    return read_floats(file, path, rows, 1, out + local);
}

/* Thresholds below 0 would let negative codes pass; gains must stay in the range of fp32. */
static df_status read_jumps(const df_reader *file, df_dict *dict, size_t g) {
    df_range local = dict->group[g].local;
    DF_TRY(read_column_of(file, dict, g, "threshold", dict->theta));
    for (size_t j = local.first; j < local.first + local.count; j++)
        if (dict->theta[j] < 0.0f)
            return df_fail(DF_BAD_INPUT,
                           "%s: /group/%zu/threshold is %g for latent %zu, expected none below 0",
                           df_reader_path(file), g, (double)dict->theta[j], dict->mine.first + j);
    return DF_OK;
}

static df_status read_gates(const df_reader *file, df_dict *dict, size_t g) {
    df_range local = dict->group[g].local;
    DF_TRY(read_column_of(file, dict, g, "r_mag", dict->r_mag));
    DF_TRY(read_column_of(file, dict, g, "b_mag", dict->b_mag));
    for (size_t j = local.first; j < local.first + local.count; j++)
        if (fabs((double)dict->r_mag[j]) > MOST_GAIN)
            return df_fail(DF_BAD_INPUT,
                           "%s: /group/%zu/r_mag is %g for latent %zu, expected -%g to %g: it is "
                           "the logarithm of a gain",
                           df_reader_path(file), g, (double)dict->r_mag[j], dict->mine.first + j,
                           MOST_GAIN, MOST_GAIN);
    return DF_OK;
}

/* BatchTopK's threshold, which all groups share, or those of the sites. */
static df_status read_threshold(const df_reader *file, df_dict *dict, size_t g) {
    char path[64];
    float threshold;
    snprintf(path, sizeof path, "/group/%zu/threshold", g);
    if (df_dict_decoupled(dict))
        return read_floats(file, path, (df_range){0, df_dict_thresholds(dict)}, 1,
                           dict->site_threshold);
    DF_TRY(read_floats(file, path, (df_range){0, 1}, 1, &threshold));
    if (g == 0) dict->threshold = threshold;
    if (threshold == dict->threshold) return DF_OK;
    return df_fail(DF_BAD_INPUT, "%s: %s is %g, that of group 0 %g: all groups share one",
                   df_reader_path(file), path, (double)threshold, (double)dict->threshold);
}

static df_status read_group(const df_reader *file, df_dict *dict, size_t g) {
    const df_dict_group *group = &dict->group[g];
    size_t n = group->local.count;
    df_range rows = {n > 0 ? dict->mine.first + group->local.first - group->first : 0, n};
    char path[2][64];
    snprintf(path[0], sizeof path[0], "/group/%zu/W_enc", g);
    snprintf(path[1], sizeof path[1], "/group/%zu/W_dec", g);
    DF_TRY(read_floats(file, path[0], rows, group->in.count, dict->w_enc + group->enc));
    DF_TRY(read_floats(file, path[1], rows, group->out.count, dict->w_dec + group->dec));
    DF_TRY(read_column_of(file, dict, g, "b_enc", dict->b_enc));
    if (dict->activation == DF_BATCHTOPK) return read_threshold(file, dict, g);
    if (dict->activation == DF_JUMPRELU) return read_jumps(file, dict, g);
    return dict->activation == DF_GATED ? read_gates(file, dict, g) : DF_OK;
}

/* Ascending, all latents last; a dictionary that is not nested has none. */
static df_status read_prefixes(const df_reader *file, df_dict *dict) {
    uint64_t shape[DF_MAX_DIMS], prefix[DF_MAX_PREFIXES];
    df_type type;
    if (!df_reader_has(file, "/prefixes")) return DF_OK;
    DF_TRY(df_reader_find(file, "/prefixes", 1, &type, shape));
    bool good = type == DF_U64 && shape[0] >= 1 && shape[0] <= DF_MAX_PREFIXES;
    if (good) DF_TRY(df_reader_rows(file, "/prefixes", 0, shape[0], true, prefix));
    for (size_t i = 0; good && i < shape[0]; i++) {
        good = prefix[i] <= dict->latents && (i == 0 || prefix[i] > prefix[i - 1]);
        dict->prefix[i] = prefix[i];
    }
    if (good && prefix[shape[0] - 1] == dict->latents) {
        dict->prefixes = shape[0];
        return DF_OK;
    }
    return df_fail(DF_BAD_INPUT,
                   "%s: /prefixes must hold 1 to %d ascending numbers that end with %zu latents",
                   df_reader_path(file), DF_MAX_PREFIXES, dict->latents);
}

/* Which latents are bound to models; what they hold must be so. */
static df_status read_bound(const df_reader *file, df_dict *dict) {
    const uint64_t two = 2;
    uint64_t bound[2];
    if (!df_reader_has(file, "/bound_latents")) return DF_OK;
    DF_TRY(expect_shape(file, "/bound_latents", DF_U64, 1, &two));
    DF_TRY(df_reader_rows(file, "/bound_latents", 0, 2, true, bound));
    if (df_dict_bind(dict, bound[0], bound[1]) != DF_OK) return DF_BAD_INPUT;
    for (size_t j = 0; j < dict->mine.count; j++)
        if (!df_dict_latent_is_bound(dict, j))
            return df_fail(DF_BAD_INPUT, "%s: latent %zu is %s, but its rows are not: %s",
                           df_reader_path(file), dict->mine.first + j,
                           df_dict_is_shared(dict, j) ? "shared" : "of one model alone",
                           df_dict_is_shared(dict, j) ? "the models' decoders differ"
                                                      : "they reach other models");
    return DF_OK;
}

static df_status check_parts(const df_reader *file, const df_dict *dict) {
    if (df_parts_check(dict) == DF_OK) return DF_OK;
    df_context("reading %s", df_reader_path(file));
    return DF_BAD_INPUT;
}

static df_status read_numbers(const df_reader *file, df_dict *dict) {
    df_range columns = {0, dict->out.count};
    DF_TRY(read_prefixes(file, dict));
    DF_TRY(check_parts(file, dict));
    for (size_t g = 0; g < dict->groups; g++) DF_TRY(read_group(file, dict, g));
    DF_TRY(read_bound(file, dict));
    DF_TRY(read_floats(file, "/b_dec", columns, 1, dict->b_dec));
    if (dict->w_skip == NULL) return DF_OK;
    return read_floats(file, "/W_skip", dict->skip_rows, dict->in.count, dict->w_skip);
}

static df_status take_choices(const df_reader *file, header *h, df_dict *dict) {
    if (h->subtract_bias && !dict->subtract_bias)
        return df_fail(DF_BAD_INPUT,
                       "%s: subtract_bias is set, but the encoder does not read what the decoder "
                       "writes",
                       df_reader_path(file));
    dict->activation = h->activation;
    dict->code_norm = h->code_norm;
    dict->k = h->k;
    dict->subtract_bias = h->subtract_bias;
    dict->job = h->job;
    h->job = NULL;
    return check_parts(file, dict);
}

static df_status outline(const char *path, int size, int rank, df_dict **out) {
    df_reader *file = NULL;
    header h = {0};
    df_status status;
    DF_GO(df_reader_open(path, "darkfield-dictionary", &file));
    DF_GO(read_header(file, &h));
    DF_GO(df_dict_outline(&h.shape, size, rank, out));
    DF_GO(take_choices(file, &h, *out));
done:
    header_free(&h);
    df_reader_close(&file);
    if (status != DF_OK) df_context("reading the header of the dictionary %s", path);
    return status;
}

df_status df_dict_load_outline(const char *path, int size, int rank, df_dict **out) {
    *out = NULL;
    df_status status = outline(path, size, rank, out);
    if (status != DF_OK) df_dict_free(out);
    return status;
}

static df_status load_mine(df_comm *comm, const char *path, df_dict **out) {
    df_reader *file = NULL;
    header h = {0};
    df_status status;
    DF_GO(df_reader_open(path, "darkfield-dictionary", &file));
    DF_GO(read_header(file, &h));
    DF_GO(df_dict_make(comm, &h.shape, out));
    DF_GO(take_choices(file, &h, *out));
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
