/* The dictionary in memory: groups, blocks, shares, allocation, initialisation. */
#include "darkfield/dict.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#define MAX_BLOCKS 64
#define BLOCK_STEP 16

/* ---- blocks and shares ---------------------------------------------------------------------- */

size_t df_dict_block_latents(size_t latents) {
    size_t even = (latents + MAX_BLOCKS - 1) / MAX_BLOCKS;
    size_t block = (even + BLOCK_STEP - 1) / BLOCK_STEP * BLOCK_STEP;
    return block > 0 ? block : BLOCK_STEP;
}

static size_t blocks_of(const df_dict *d, const df_dict_group *g) {
    return (g->count + d->block - 1) / d->block;
}

df_range df_dict_block(const df_dict *d, size_t block) {
    const df_dict_group *g = d->group;
    while (block >= g->block + blocks_of(d, g)) g++;
    size_t before = (block - g->block) * d->block, left = g->count - before;
    return (df_range){g->first + before, left < d->block ? left : d->block};
}

df_range df_dict_share(const df_dict *d, int size, int rank) {
    df_range blocks = df_share(d->blocks, size, rank);
    size_t end = blocks.first + blocks.count;
    size_t first = blocks.first < d->blocks ? df_dict_block(d, blocks.first).first : d->latents;
    size_t last = end < d->blocks ? df_dict_block(d, end).first : d->latents;
    return (df_range){first, last - first};
}

df_range df_dict_skip_share(const df_dict *d, int size, int rank) {
    size_t rows = d->kind == DF_SKIP_TRANSCODER ? d->out.count : 0;
    df_range blocks = df_share((rows + DF_SKIP_ROWS - 1) / DF_SKIP_ROWS, size, rank);
    size_t first = blocks.first * DF_SKIP_ROWS, end = first + blocks.count * DF_SKIP_ROWS;
    if (end > rows) end = rows;
    if (first > end) first = end;
    return (df_range){first, end - first};
}

/* The part of `a` that lies in `b`. */
static df_range common(df_range a, df_range b) {
    size_t first = a.first > b.first ? a.first : b.first;
    size_t end = a.first + a.count < b.first + b.count ? a.first + a.count : b.first + b.count;
    return (df_range){first, end > first ? end - first : 0};
}

size_t df_dict_enc_floats(const df_dict *d, size_t latents) {
    size_t floats = 0;
    for (size_t g = 0; g < d->groups; g++)
        floats +=
            common((df_range){d->group[g].first, d->group[g].count}, (df_range){0, latents}).count *
            d->group[g].in.count;
    return floats;
}

size_t df_dict_dec_floats(const df_dict *d, size_t latents) {
    size_t floats = 0;
    for (size_t g = 0; g < d->groups; g++)
        floats +=
            common((df_range){d->group[g].first, d->group[g].count}, (df_range){0, latents}).count *
            d->group[g].out.count;
    return floats;
}

size_t df_dict_outputs(const df_dict *d) {
    size_t n = 0;
    for (size_t s = 0; s < d->sites; s++) n += d->site[s].output;
    return n;
}

const df_dict_site *df_dict_output(const df_dict *d, size_t n) {
    size_t site = 0;
    while (!d->site[site].output || n-- > 0) site++;
    return &d->site[site];
}

/* ---- sites and groups ----------------------------------------------------------------------- */

static df_status copy_sites(df_dict *d, const df_dict_shape *shape) {
    if (shape->sites < 1 || shape->sites > DF_MAX_SITES)
        return df_fail(DF_BAD_INPUT, "a dictionary of %zu sites, expected 1 to %d", shape->sites,
                       DF_MAX_SITES);
    DF_TRY(DF_NEW(d->site, shape->sites));
    d->sites = shape->sites;
    for (size_t s = 0; s < d->sites; s++) {
        const df_dict_site *from = &shape->site[s];
        d->site[s] = *from;
        d->site[s].name = df_strdup(from->name != NULL ? from->name : "");
        d->site[s].model = df_strdup(from->model != NULL ? from->model : "");
        d->site[s].first = d->width;
        if (from->width == 0)
            return df_fail(DF_BAD_INPUT, "site %zu, %s, has no columns", s, d->site[s].name);
        DF_TRY(df_add(d->width, from->width, &d->width));
    }
    for (size_t s = 0; s < d->sites; s++)
        if (d->site[s].name == NULL || d->site[s].model == NULL) return DF_FAILED;
    return DF_OK;
}

/* The columns of all sites that are read (or written); they must be neighbours. */
static df_status span(const df_dict *d, bool output, df_range *out) {
    *out = (df_range){0, 0};
    for (size_t s = 0; s < d->sites; s++) {
        const df_dict_site *site = &d->site[s];
        if (!(output ? site->output : site->input)) continue;
        if (out->count == 0) out->first = site->first;
        if (out->first + out->count != site->first)
            return df_fail(DF_BAD_INPUT, "%s sites must stand side by side, %s does not",
                           output ? "output" : "input", site->name);
        out->count += site->width;
    }
    if (out->count > 0) return DF_OK;
    return df_fail(DF_BAD_INPUT, "a dictionary without %s columns", output ? "output" : "input");
}

/* Do the columns begin and end where sites of this side do? */
static bool holds_whole_sites(const df_dict *d, bool output, df_range columns) {
    bool begins = false, ends = false;
    for (size_t s = 0; s < d->sites; s++) {
        const df_dict_site *site = &d->site[s];
        if (!(output ? site->output : site->input)) continue;
        begins = begins || site->first == columns.first;
        ends = ends || (columns.count <= d->width && columns.first <= d->width &&
                        site->first + site->width == columns.first + columns.count);
    }
    return begins && ends && columns.count > 0;
}

static df_status check_groups(const df_dict *d) {
    size_t at = 0;
    for (size_t g = 0; g < d->groups; g++) {
        const df_dict_group *group = &d->group[g];
        if (group->first != at || group->count == 0 || group->count > d->latents - at)
            return df_fail(DF_BAD_INPUT,
                           "group %zu holds latents %zu + %zu, expected them to begin at %zu of "
                           "%zu: groups neither overlap nor leave gaps",
                           g, group->first, group->count, at, d->latents);
        if (!holds_whole_sites(d, false, group->in) || !holds_whole_sites(d, true, group->out))
            return df_fail(DF_BAD_INPUT,
                           "group %zu reads columns %zu + %zu and writes %zu + %zu of %zu, which "
                           "are not those of whole sites",
                           g, group->in.first, group->in.count, group->out.first, group->out.count,
                           d->width);
        at += group->count;
    }
    if (at == d->latents) return DF_OK;
    return df_fail(DF_BAD_INPUT, "the groups hold %zu of %zu latents", at, d->latents);
}

static bool same_range(df_range a, df_range b) {
    return a.first == b.first && a.count == b.count;
}

/* One group of everything where the kind has one; a transcoder's input is not its output. */
static df_status check_kind(const df_dict *d) {
    const df_range all = {0, d->width};
    bool whole =
        d->groups == 1 && same_range(d->group[0].in, d->in) && same_range(d->group[0].out, d->out);
    bool self = same_range(d->in, all) && same_range(d->out, all);
    bool apart = common(d->in, d->out).count == 0;
    bool fits = false;
    switch (d->kind) {
    case DF_SAE:
        fits = whole && self && d->sites == 1;
        break;
    case DF_CROSSCODER:
        fits = whole && self;
        break;
    case DF_TRANSCODER:
    case DF_SKIP_TRANSCODER:
        fits = whole && apart;
        break;
    case DF_CLT:
        fits = apart;
        break;
    }
    if (fits) return DF_OK;
    return df_fail(DF_BAD_INPUT,
                   "the %zu group%s and %zu site%s are not those of a dictionary of kind %s",
                   d->groups, d->groups == 1 ? "" : "s", d->sites, d->sites == 1 ? "" : "s",
                   df_dict_kind_name(d->kind));
}

/* Group l of a CLT reads input site l and writes output sites l, l + 1, ... */
static df_status default_layers(df_dict *d) {
    size_t outputs = df_dict_outputs(d), layers = d->sites - outputs;
    if (layers != outputs || layers == 0 || layers > d->latents)
        return df_fail(DF_USAGE,
                       "a cross-layer transcoder needs as many input as output sites and a latent "
                       "for each: there are %zu, %zu and %zu latents",
                       layers, outputs, d->latents);
    DF_TRY(DF_NEW(d->group, layers));
    d->groups = layers;
    for (size_t l = 0; l < layers; l++) {
        df_range latents = df_share(d->latents, (int)layers, (int)l);
        const df_dict_site *in = &d->site[l], *out = &d->site[layers + l];
        d->group[l] = (df_dict_group){.first = latents.first,
                                      .count = latents.count,
                                      .in = {in->first, in->width},
                                      .out = {out->first, d->width - out->first}};
    }
    return DF_OK;
}

static df_status set_groups(df_dict *d, const df_dict_shape *shape) {
    if (shape->group == NULL && d->kind == DF_CLT) return default_layers(d);
    size_t n = shape->group != NULL ? shape->groups : 1;
    if (n < 1 || n > UINT16_MAX)
        return df_fail(DF_BAD_INPUT, "a dictionary of %zu groups, expected 1 to %d", n, UINT16_MAX);
    DF_TRY(DF_NEW(d->group, n));
    d->groups = n;
    for (size_t g = 0; g < n; g++)
        d->group[g] = shape->group != NULL
                          ? (df_dict_group){.first = shape->group[g].first,
                                            .count = shape->group[g].count,
                                            .in = shape->group[g].in,
                                            .out = shape->group[g].out}
                          : (df_dict_group){.count = d->latents, .in = d->in, .out = d->out};
    return DF_OK;
}

/* Blocks, and this rank's part of every group. */
static df_status lay_out_groups(df_dict *d, int size, int rank) {
    size_t enc = 0, dec = 0;
    d->block = df_dict_block_latents(d->latents);
    for (size_t g = 0; g < d->groups; g++) {
        d->group[g].block = d->blocks;
        d->blocks += blocks_of(d, &d->group[g]);
    }
    d->mine = df_dict_share(d, size, rank);
    d->skip_rows = df_dict_skip_share(d, size, rank);
    if (d->groups > 1) DF_TRY(DF_NEW(d->group_index, d->mine.count));
    for (size_t g = 0; g < d->groups; g++) {
        df_dict_group *group = &d->group[g];
        df_range own = common((df_range){group->first, group->count}, d->mine);
        group->local = (df_range){own.count > 0 ? own.first - d->mine.first : 0, own.count};
        group->enc = enc;
        group->dec = dec;
        enc += own.count * group->in.count;
        dec += own.count * group->out.count;
        for (size_t i = 0; i < own.count && d->groups > 1; i++)
            d->group_index[group->local.first + i] = (uint16_t)g;
    }
    return DF_OK;
}

static df_status lay_out(df_dict *d, const df_dict_shape *shape, int size, int rank) {
    d->kind = shape->kind;
    d->latents = shape->latents;
    d->threshold = -1.0f;
    for (size_t n = 0; n < DF_MAX_DECOUPLED; n++) d->site_threshold[n] = -1.0f;
    DF_TRY(copy_sites(d, shape));
    DF_TRY(span(d, false, &d->in));
    DF_TRY(span(d, true, &d->out));
    DF_TRY(set_groups(d, shape));
    DF_TRY(check_groups(d));
    DF_TRY(check_kind(d));
    d->subtract_bias = same_range(d->in, d->out);
    return lay_out_groups(d, size, rank);
}

/* ---- new and free --------------------------------------------------------------------------- */

static df_status allocate(df_dict *d) {
    size_t end = d->mine.first + d->mine.count, all;
    DF_TRY(df_mul(d->latents, d->width, &all)); // the sizes below fit, then
    DF_TRY(DF_NEW(d->w_enc, df_dict_enc_floats(d, end) - df_dict_enc_floats(d, d->mine.first)));
    DF_TRY(DF_NEW(d->w_dec, df_dict_dec_floats(d, end) - df_dict_dec_floats(d, d->mine.first)));
    DF_TRY(DF_NEW(d->b_enc, d->mine.count));
    DF_TRY(DF_NEW(d->theta, d->mine.count));
    DF_TRY(DF_NEW(d->r_mag, d->mine.count));
    DF_TRY(DF_NEW(d->b_mag, d->mine.count));
    DF_TRY(DF_NEW(d->b_dec, d->out.count));
    if (d->kind != DF_SKIP_TRANSCODER) return DF_OK;
    return DF_NEW(d->w_skip, d->skip_rows.count * d->in.count);
}

size_t df_dict_bytes(const df_dict *d) {
    size_t end = d->mine.first + d->mine.count;
    size_t enc = df_dict_enc_floats(d, end) - df_dict_enc_floats(d, d->mine.first);
    size_t dec = df_dict_dec_floats(d, end) - df_dict_dec_floats(d, d->mine.first);
    size_t skip = d->kind == DF_SKIP_TRANSCODER ? d->skip_rows.count * d->in.count : 0;
    return (enc + dec + 4 * d->mine.count + d->out.count + skip) * sizeof(float);
}

static df_status new_dict(const df_dict_shape *shape, df_range rank_of_size, bool weights,
                          df_dict **out) {
    df_dict *d;
    *out = NULL;
    DF_TRY(DF_NEW(d, 1));
    df_status status = lay_out(d, shape, (int)rank_of_size.count, (int)rank_of_size.first);
    if (status == DF_OK && weights) status = allocate(d);
    if (status != DF_OK) df_dict_free(&d);
    *out = d;
    return status;
}

df_status df_dict_make(df_comm *comm, const df_dict_shape *shape, df_dict **out) {
    return new_dict(shape, (df_range){(size_t)df_comm_rank(comm), (size_t)df_comm_size(comm)}, true,
                    out);
}

df_status df_dict_outline(const df_dict_shape *shape, int size, int rank, df_dict **out) {
    return new_dict(shape, (df_range){(size_t)rank, (size_t)size}, false, out);
}

df_status df_dict_new(df_comm *comm, size_t latents, const df_dict_site *sites, size_t n_sites,
                      df_dict **out) {
    df_dict_site all[DF_MAX_SITES];
    *out = NULL;
    for (size_t s = 0; s < n_sites && s < DF_MAX_SITES; s++) {
        all[s] = sites[s];
        all[s].input = all[s].output = true;
    }
    const df_dict_shape shape = {.kind = n_sites == 1 ? DF_SAE : DF_CROSSCODER,
                                 .latents = latents,
                                 .site = all,
                                 .sites = n_sites};
    return df_dict_make(comm, &shape, out);
}

void df_dict_free(df_dict **dict) {
    df_dict *d = *dict;
    if (d == NULL) return;
    for (size_t s = 0; s < d->sites; s++) {
        df_free(d->site[s].name);
        df_free(d->site[s].model);
    }
    df_free(d->site);
    df_free(d->group);
    df_free(d->group_index);
    df_free(d->model);
    df_free(d->w_enc);
    df_free(d->w_dec);
    df_free(d->b_enc);
    df_free(d->theta);
    df_free(d->r_mag);
    df_free(d->b_mag);
    df_free(d->b_dec);
    df_free(d->w_skip);
    df_free(d->job);
    df_free(d);
    *dict = NULL;
}

/* ---- initialisation ------------------------------------------------------------------------- */

/* One site's part of a row: a Gaussian direction of the given norm. */
static void draw_part(float *row, df_dict_site site, uint64_t seed, uint64_t index, double norm) {
    for (size_t c = 0; c < site.width; c++)
        row[c] = (float)df_random_normal(seed, DF_STREAM_INIT, index + site.first + c);
    double length = sqrt(df_sum_squares(row, site.width));
    float scale = length > 0.0 ? (float)(norm / length) : 0.0f;
    for (size_t c = 0; c < site.width; c++) row[c] *= scale;
}

/* All sites within `columns`, which a row of a group holds. */
static void draw_row(const df_dict *d, df_range columns, float *row, uint64_t seed, uint64_t index,
                     double norm) {
    for (size_t s = 0; s < d->sites; s++) {
        size_t first = d->site[s].first;
        if (first >= columns.first && first < columns.first + columns.count)
            draw_part(row + (first - columns.first), d->site[s], seed, index, norm);
    }
}

void df_dict_initialise(df_dict *d, uint64_t seed, double norm, double encoder_scale,
                        const float *b_dec) {
    for (size_t j = 0; j < d->mine.count; j++) {
        const df_dict_group *g = df_dict_group_of(d, j);
        float *dec = df_dict_dec(d, j), *enc = df_dict_enc(d, j);
        uint64_t index = (uint64_t)(d->mine.first + j) * d->width;
        draw_row(d, g->out, dec, seed, index, norm);
        df_dict_bind_latent(d, j);
        if (!same_range(g->in, g->out))
            draw_row(d, g->in, enc, seed, index, norm * encoder_scale);
        else
            for (size_t c = 0; c < g->in.count; c++) enc[c] = dec[c] * (float)encoder_scale;
        d->b_enc[j] = 0.0f;
    }
    if (d->w_skip != NULL)
        memset(d->w_skip, 0, d->skip_rows.count * d->in.count * sizeof *d->w_skip);
    memcpy(d->b_dec, b_dec, d->out.count * sizeof *b_dec);
}
