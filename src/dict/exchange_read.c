/* From the tensors of a file to this rank's part of a dictionary. */
#include "exchange.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

/* exp(r_mag) beyond this is no gain of a trained dictionary and would overflow. */
#define MOST_GAIN 80.0f

/* ---- shape - */

static const char *name_or(const exchange *x, size_t s, const char *fallback) {
    return s < x->sites && x->site[s] != NULL ? x->site[s] : fallback;
}

static size_t sites_of(const exchange *x) {
    if (x->kind == DF_SAE) return 1;
    if (x->kind == DF_CROSSCODER) return x->layers;
    return x->kind == DF_CLT ? 2 * x->layers : 2;
}

static void set_sites(const exchange *x, df_dict_site *site, char (*room)[32]) {
    size_t n = sites_of(x);
    bool both = x->kind == DF_SAE || x->kind == DF_CROSSCODER;
    for (size_t s = 0; s < n; s++) {
        bool output = !both && s >= n / 2;
        snprintf(room[s], sizeof room[s], "%s%zu",
                 both     ? "site"
                 : output ? "out"
                          : "in",
                 output ? s - n / 2 : s);
        site[s] = (df_dict_site){.name = (char *)name_or(x, s, room[s]),
                                 .model = (char *)(x->model != NULL ? x->model : ""),
                                 .width = output ? x->out : x->in,
                                 .scale = 1.0,
                                 .token_norm = x->token_norm,
                                 .input = !output,
                                 .output = both || output};
    }
}

// Group l of a set of transcoders, each of which writes its own layer.
static df_status own_groups(const exchange *x, df_dict_group **out) {
    DF_TRY(DF_NEW(*out, x->layers));
    for (size_t l = 0; l < x->layers; l++)
        (*out)[l] = (df_dict_group){.first = l * x->latents,
                                    .count = x->latents,
                                    .in = {l * x->in, x->in},
                                    .out = {x->layers * x->in + l * x->out, x->out}};
    return DF_OK;
}

static df_status make(const exchange *x, df_comm *comm, df_dict **out) {
    df_dict_site *site = NULL;
    df_dict_group *group = NULL;
    char(*room)[32] = NULL;
    size_t groups = x->kind == DF_CLT ? x->layers : 1, latents;
    df_status status = DF_OK;
    if (sites_of(x) > DF_MAX_SITES)
        return df_fail(DF_BAD_INPUT, "%s: %zu sites, expected at most %d", x->folder, sites_of(x),
                       DF_MAX_SITES);
    DF_TRY(df_mul(x->latents, groups, &latents));
    DF_GO(DF_NEW(site, sites_of(x)));
    DF_GO(DF_NEW(room, sites_of(x)));
    set_sites(x, site, room);
    if (x->own_layer) DF_GO(own_groups(x, &group));
    const df_dict_shape shape = {.kind = x->kind,
                                 .latents = latents,
                                 .sites = sites_of(x),
                                 .groups = group != NULL ? groups : 0,
                                 .site = site,
                                 .group = group};
    DF_GO(df_dict_make(comm, &shape, out));
done:
    df_free(site);
    df_free(room);
    df_free(group);
    return status;
}

/* ---- numbers - */

static df_status finite(const exchange *x, const exchange_tensor *t, const float *values, size_t n,
                        size_t first) {
    for (size_t i = 0; i < n; i++)
        if (!isfinite(values[i]))
            return df_fail(DF_BAD_INPUT, "%s: tensor \"%s\" holds %g at latent or row %zu",
                           x->folder, t->name, (double)values[i], first + i);
    return DF_OK;
}

static df_status load_run(const exchange *x, const exchange_tensor *t, uint64_t first, size_t n,
                          float *out) {
    const char *data = t->found->data;
    df_to_f32(t->found->type, data + first * df_type_bytes(t->found->type), out, n);
    return finite(x, t, out, n, first);
}

// Columns side by side in the file: row by row.
static df_status load_rows(const exchange *x, const exchange_tensor *t, uint64_t at, df_range rows,
                           float *out, const size_t shape[2]) {
    exchange_view view = exchange_view_of(x, t);
    for (size_t j = 0; j < rows.count; j++)
        DF_TRY(load_run(x, t, at + (rows.first + j) * view.latent, shape[0], out + j * shape[1]));
    return DF_OK;
}

// Latents side by side in the file: column by column.
static df_status load_columns(const exchange *x, const exchange_tensor *t, uint64_t at,
                              df_range rows, float *out, const size_t shape[2]) {
    exchange_view view = exchange_view_of(x, t);
    float *column;
    DF_TRY(DF_NEW(column, rows.count));
    df_status status = DF_OK;
    for (size_t c = 0; c < shape[0] && status == DF_OK; c++) {
        status =
            load_run(x, t, at + c * view.column + rows.first * view.latent, rows.count, column);
        for (size_t j = 0; j < rows.count; j++) out[j * shape[1] + c] = column[j];
    }
    df_free(column);
    return status;
}

exchange_span exchange_span_of(const df_dict *d, const df_dict_group *g, bool output) {
    df_range columns = output ? g->out : g->in;
    exchange_span span = {0};
    for (size_t s = 0; s < d->sites; s++) {
        const df_dict_site *site = &d->site[s];
        bool inside = (output ? site->output : site->input) && site->first >= columns.first &&
                      site->first < columns.first + columns.count;
        if (!inside) continue;
        if (span.sites++ == 0) {
            span.first = s;
            span.width = site->width;
        }
    }
    return span;
}

// A matrix of one group: this rank's latents, each site's columns.
static df_status load_matrix(const exchange *x, const exchange_tensor *t, df_dict *d, bool output) {
    const df_dict_group *g = &d->group[t->group];
    exchange_span span = exchange_span_of(d, g, output);
    exchange_view view = exchange_view_of(x, t);
    df_range local = {d->mine.first + g->local.first - g->first, g->local.count};
    if (local.count == 0) return DF_OK;
    float *base = output ? df_dict_dec(d, g->local.first) : df_dict_enc(d, g->local.first);
    const size_t shape[2] = {span.width, output ? g->out.count : g->in.count};
    size_t first = t->part == EXCHANGE_ALL ? 0 : t->part;
    size_t n = t->part == EXCHANGE_ALL ? span.sites : 1;
    for (size_t s = 0; s < n; s++) {
        uint64_t at = view.offset + s * view.site;
        float *out = base + (first + s) * span.width;
        DF_TRY(view.column == 1 ? load_rows(x, t, at, local, out, shape)
                                : load_columns(x, t, at, local, out, shape));
    }
    return DF_OK;
}

// A number for each latent of this rank's share of the group.
static df_status load_vector(const exchange *x, const exchange_tensor *t, const df_dict *d,
                             float *out) {
    const df_dict_group *g = &d->group[t->group];
    exchange_view view = exchange_view_of(x, t);
    return load_run(x, t, view.offset + d->mine.first + g->local.first - g->first, g->local.count,
                    out + g->local.first);
}

static df_status load_bias(const exchange *x, const exchange_tensor *t, df_dict *d) {
    size_t first = t->part == EXCHANGE_ALL ? 0 : t->part * x->out;
    exchange_view view = exchange_view_of(x, t);
    size_t n = t->part == EXCHANGE_ALL ? view.elements : x->out;
    return load_run(x, t, view.offset, n, d->b_dec + first);
}

static df_status load_skip(const exchange *x, const exchange_tensor *t, df_dict *d) {
    for (size_t r = 0; r < d->skip_rows.count; r++)
        DF_TRY(load_run(x, t, (d->skip_rows.first + r) * d->in.count, d->in.count,
                        d->w_skip + r * d->in.count));
    return DF_OK;
}

static df_status load_number(const exchange *x, const exchange_tensor *t, df_dict *d) {
    float number = 0.0f;
    if (t->role == ROLE_K) {
        int64_t k = 0;
        int32_t narrow = 0;
        if (t->found->type == DF_I32) {
            memcpy(&narrow, t->found->data, sizeof narrow);
            k = narrow;
        } else
            memcpy(&k, t->found->data, sizeof k);
        if (k < 1 || (uint64_t)k > d->latents)
            return df_fail(DF_BAD_INPUT, "%s: tensor \"%s\" is %" PRId64 ", expected 1 to %zu",
                           x->folder, t->name, k, d->latents);
        d->k = (size_t)k;
        return DF_OK;
    }
    if (df_dict_decoupled(d)) return load_run(x, t, 0, df_dict_thresholds(d), d->site_threshold);
    DF_TRY(load_run(x, t, 0, 1, &number));
    d->threshold = number;
    return DF_OK;
}

static df_status load_scales(const exchange *x, const exchange_tensor *t, df_dict *d) {
    float scale[DF_MAX_SITES];
    DF_TRY(load_run(x, t, 0, d->sites, scale));
    for (size_t s = 0; s < d->sites; s++) {
        d->site[s].scale = (double)scale[s];
        if (!(scale[s] > 0.0f))
            return df_fail(DF_BAD_INPUT, "%s: tensor \"%s\" holds %g, expected positive scales",
                           x->folder, t->name, (double)scale[s]);
    }
    return DF_OK;
}

// (x - mean) is read and mean is added to what is written: the biases take it up.
static df_status load_mean(const exchange *x, const exchange_tensor *t, df_dict *d) {
    float *mean;
    df_status status = DF_OK;
    bool none = true;
    DF_TRY(DF_NEW(mean, d->width));
    df_to_f32(t->found->type, t->found->data, mean, d->width);
    for (size_t c = 0; c < d->width; c++) none = none && isnan(mean[c]);
    if (!none) status = finite(x, t, mean, d->width, 0);
    for (size_t s = 0; !none && s < d->sites; s++)
        for (size_t c = d->site[s].first; c < d->site[s].first + d->site[s].width; c++)
            mean[c] = (float)((double)mean[c] * d->site[s].scale);
    if (!none && status == DF_OK) status = df_dict_fold_mean(NULL, d, mean); // there is no W_skip
    df_free(mean);
    return status;
}

static df_status load(const exchange *x, const exchange_tensor *t, df_dict *d) {
    if (t->found == NULL) return DF_OK;
    switch (t->role) {
    case ROLE_ENC:
        return load_matrix(x, t, d, false);
    case ROLE_DEC:
        return load_matrix(x, t, d, true);
    case ROLE_B_ENC:
        return load_vector(x, t, d, d->b_enc);
    case ROLE_B_DEC:
        return load_bias(x, t, d);
    case ROLE_THETA:
        return load_vector(x, t, d, d->theta);
    case ROLE_R_MAG:
        return load_vector(x, t, d, d->r_mag);
    case ROLE_B_MAG:
        return load_vector(x, t, d, d->b_mag);
    case ROLE_SKIP:
        return load_skip(x, t, d);
    case ROLE_K:
    case ROLE_CUT:
        return load_number(x, t, d);
    case ROLE_SCALE:
        return load_scales(x, t, d);
    case ROLE_MEAN:
        return load_mean(x, t, d);
    case ROLE_STD:
    case ROLE_CARRIED:
        break;
    }
    return DF_OK;
}

static df_status check_latents(const exchange *x, df_dict *d) {
    for (size_t j = 0; j < d->mine.count; j++) {
        if (x->family->relu_first && d->theta[j] < 0.0f) d->theta[j] = 0.0f;
        if (d->theta[j] < 0.0f)
            return df_fail(DF_BAD_INPUT,
                           "%s: the threshold of latent %zu is %g: codes below zero are not ours",
                           x->folder, d->mine.first + j, (double)d->theta[j]);
        if (fabsf(d->r_mag[j]) > MOST_GAIN)
            return df_fail(DF_BAD_INPUT, "%s: r_mag of latent %zu is %g, expected -%g to %g",
                           x->folder, d->mine.first + j, (double)d->r_mag[j], (double)MOST_GAIN,
                           (double)MOST_GAIN);
    }
    bool needs_k = d->activation == DF_TOPK || d->activation == DF_BATCHTOPK;
    if (!needs_k || (d->k >= 1 && d->k <= d->latents)) return DF_OK;
    return df_fail(DF_BAD_INPUT, "%s: k is %zu, expected 1 to %zu", x->folder, d->k, d->latents);
}

df_status exchange_fill(exchange *x, df_comm *comm, df_dict **out) {
    DF_TRY(make(x, comm, out));
    df_dict *d = *out;
    d->activation = x->activation;
    d->code_norm = x->code_norm;
    d->subtract_bias = x->subtract_bias;
    d->k = x->k;
    d->threshold = (float)x->cut;
    if (df_parts_check(d) != DF_OK) return DF_BAD_INPUT;
    for (size_t i = 0; i < x->tensors; i++) DF_TRY(load(x, &x->tensor[i], d));
    return check_latents(x, d);
}
