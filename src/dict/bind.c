/* Latents of a crosscoder that are bound to models: shared ones have one decoder row for all,
 * dedicated ones have only one model's columns. */
#include "step.h"

#include <string.h>

size_t df_dict_models(const df_dict *d, df_range *out) {
    size_t n = 0;
    for (size_t s = 0; s < d->sites; s++) {
        const df_dict_site *site = &d->site[s];
        bool same = s > 0 && d->sites > 2 && strcmp(site->model, site[-1].model) == 0;
        if (!same) out[n++] = (df_range){site->first, 0};
        out[n - 1].count += site->width;
    }
    return n;
}

/* The site that begins at a column of a model; NULL: none does. */
static const df_dict_site *site_at(const df_dict *d, size_t column) {
    for (size_t s = 0; s < d->sites; s++)
        if (d->site[s].first == column) return &d->site[s];
    return NULL;
}

/* Shared decoder rows need models whose sites have the same widths, one by one. */
static df_status check_widths(const df_dict *d) {
    for (size_t m = 1; m < d->models; m++)
        for (size_t at = 0; at < d->model[0].count;) {
            const df_dict_site *a = site_at(d, d->model[0].first + at);
            const df_dict_site *b =
                at < d->model[m].count ? site_at(d, d->model[m].first + at) : NULL;
            if (b == NULL || a->width != b->width || d->model[m].count != d->model[0].count)
                return df_fail(DF_USAGE,
                               "shared latents need models whose sites have the same widths; %s "
                               "of model %s has %llu columns, and model %zu none like it",
                               a->name, a->model, (unsigned long long)a->width, m + 1);
            at += a->width;
        }
    return DF_OK;
}

df_status df_dict_bind(df_dict *d, size_t shared, size_t dedicated) {
    df_range model[DF_MAX_SITES];
    if (shared == 0 && dedicated == 0) return DF_OK;
    size_t models = df_dict_models(d, model);
    if (d->kind != DF_CROSSCODER || models < 2)
        return df_fail(DF_USAGE,
                       "shared and dedicated latents are for crosscoders of several models; this "
                       "is a dictionary of kind %s over %zu",
                       df_dict_kind_name(d->kind), models);
    if (shared > d->latents || dedicated > (d->latents - shared) / models)
        return df_fail(DF_USAGE,
                       "%zu shared latents and %zu dedicated ones for each of %zu models are more "
                       "than the %zu there are",
                       shared, dedicated, models, d->latents);
    df_free(d->model);
    DF_TRY(DF_NEW(d->model, models));
    memcpy(d->model, model, models * sizeof *model);
    d->models = models;
    d->shared = shared;
    d->dedicated = dedicated;
    return shared > 0 ? check_widths(d) : DF_OK;
}

df_range df_dict_reach(const df_dict *d, size_t local) {
    size_t latent = d->mine.first + local, first = d->latents - d->models * d->dedicated;
    if (latent < first) return (df_range){0, d->width};
    return d->model[(latent - first) / d->dedicated];
}

static void clear_outside(float *row, df_range kept, size_t width) {
    memset(row, 0, kept.first * sizeof *row);
    memset(row + kept.first + kept.count, 0, (width - kept.first - kept.count) * sizeof *row);
}

void df_dict_bind_latent(df_dict *d, size_t j) {
    if (d->models == 0) return;
    float *enc = df_dict_enc(d, j), *dec = df_dict_dec(d, j);
    df_range reach = df_dict_reach(d, j);
    clear_outside(enc, reach, d->width);
    clear_outside(dec, reach, d->width);
    for (size_t m = 1; m < d->models && df_dict_is_shared(d, j); m++)
        memcpy(dec + d->model[m].first, dec, d->model[0].count * sizeof *dec);
}

static bool is_clear_outside(const float *row, df_range kept, size_t width) {
    for (size_t i = 0; i < width; i++)
        if ((i < kept.first || i >= kept.first + kept.count) && row[i] != 0.0f) return false;
    return true;
}

bool df_dict_latent_is_bound(const df_dict *d, size_t j) {
    if (d->models == 0) return true;
    const float *enc = df_dict_enc(d, j), *dec = df_dict_dec(d, j);
    df_range reach = df_dict_reach(d, j);
    bool good = is_clear_outside(enc, reach, d->width) && is_clear_outside(dec, reach, d->width);
    for (size_t m = 1; m < d->models && df_dict_is_shared(d, j); m++)
        good = good && memcmp(dec + d->model[m].first, dec, d->model[0].count * sizeof *dec) == 0;
    return good;
}

/* ---- training ------------------------------------------------------------------------------- */

void df_bind_gradient(const df_dict *d, size_t j, float *g_enc, float *g_dec) {
    if (d->models == 0) return;
    df_range reach = df_dict_reach(d, j);
    clear_outside(g_enc, reach, d->width);
    clear_outside(g_dec, reach, d->width);
    if (!df_dict_is_shared(d, j)) return;
    for (size_t m = 1; m < d->models; m++)
        df_add_row(g_dec, g_dec + d->model[m].first, d->model[0].count);
    for (size_t m = 1; m < d->models; m++)
        memcpy(g_dec + d->model[m].first, g_dec, d->model[0].count * sizeof *g_dec);
}

/* Rounding may differ with the place of a column in a row. */
void df_bind_moved(df_coder *c, size_t j) {
    df_dict *d = c->dict;
    if (!df_dict_is_shared(d, j)) return;
    size_t at = (size_t)(df_dict_dec(d, j) - d->w_dec);
    float *rows[] = {d->w_dec + at, c->state.m_dec + at, c->state.v_dec + at};
    for (size_t i = 0; i < 3; i++)
        for (size_t m = 1; m < d->models; m++)
            memcpy(rows[i] + d->model[m].first, rows[i], d->model[0].count * sizeof(float));
}
