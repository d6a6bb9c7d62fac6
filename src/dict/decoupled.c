/* Decoupled selection: TopK and BatchTopK once for each output site, by the code times the norm of
 * that site's part of the decoder row (crosscoder_learning, code normalisation DECOUPLED). The
 * latents of all selections make the codes of the batch, each with the sites that it is active for.
 * A latent's pre-activation is settled in the same order for every site, so that its code is one
 * number. */
#include "coder.h"

#include <string.h>

#define TAKE(pointer, n) ((pointer) = df_layout_take(l, (n), sizeof *(pointer)))

size_t df_dict_thresholds(const df_dict *d) {
    return df_dict_decoupled(d) ? df_dict_outputs(d) : 1;
}

df_status df_parts_check(const df_dict *d) {
    size_t n = df_dict_thresholds(d);
    if (!df_dict_decoupled(d)) return DF_OK;
    if (n < 2 || n > DF_MAX_DECOUPLED)
        return df_fail(DF_USAGE,
                       "code norm decoupled selects for each site that is written: it needs 2 to "
                       "%d of them, this dictionary has %zu",
                       DF_MAX_DECOUPLED, n);
    if (d->groups > 1 || d->prefixes > 0)
        return df_fail(DF_USAGE, "code norm decoupled is for dictionaries whose latents all write "
                                 "the same sites and that are not nested");
    return DF_OK;
}

/* ---- memory --------------------------------------------------------------------------------- */

static void describe_parts(df_coder *c) {
    for (size_t n = 0; n < c->parts; n++) {
        const df_dict_site *site = df_dict_output(c->dict, n);
        c->part_columns[n] = (df_range){site->first - c->dict->out.first, site->width};
        c->part_cut[n] = (df_cut){.margin = FIRST_MARGIN};
        c->part[n] = (df_code_store){0};
    }
}

void df_layout_parts(df_coder *c, df_layout *l) {
    c->main.decoupled = df_dict_decoupled(c->dict);
    c->parts = c->main.decoupled ? df_dict_outputs(c->dict) : 0;
    TAKE(c->part_columns, c->parts);
    TAKE(c->part, c->parts);
    TAKE(c->part_cut, c->parts);
    if (l->base != NULL) describe_parts(c);
    for (size_t n = 0; n < c->parts; n++) {
        uint64_t *start = df_layout_take(l, c->max_rows + 1, sizeof *start);
        if (l->base != NULL) c->part[n].codes.start = start;
    }
}

/* ---- selection ------------------------------------------------------------------------------ */

/* The latents of one row that any site selected, ascending: into `out` from `to` on, or counted
 * only (NULL). */
static uint64_t merge_row(const df_coder *c, size_t row, df_codes *out, uint64_t to) {
    uint64_t at[DF_MAX_DECOUPLED];
    for (size_t n = 0; n < c->parts; n++) at[n] = c->part[n].codes.start[row];
    for (uint64_t count = 0;; count++, to++) {
        uint32_t least = UINT32_MAX, sites = 0;
        float value = 0.0f;
        for (size_t n = 0; n < c->parts; n++) {
            const df_codes *p = &c->part[n].codes;
            if (at[n] == p->start[row + 1] || p->latent[at[n]] > least) continue;
            if (p->latent[at[n]] < least) sites = 0;
            least = p->latent[at[n]];
            value = p->value[at[n]];
            sites |= (uint32_t)1 << n;
        }
        if (sites == 0) return count;
        for (size_t n = 0; n < c->parts; n++) at[n] += sites >> n & 1;
        if (out == NULL) continue;
        out->latent[to] = least;
        out->value[to] = value;
        out->sites[to] = sites;
    }
}

static df_status merge(df_coder *c) {
    uint64_t *start = c->main.codes.start;
    start[0] = 0;
#pragma omp parallel for schedule(static)
    for (size_t r = 0; r < c->rows; r++) start[r + 1] = merge_row(c, r, NULL, 0);
    for (size_t r = 0; r < c->rows; r++) start[r + 1] += start[r];
    c->main.codes.rows = c->rows;
    DF_TRY(df_codes_reserve(&c->main, start[c->rows]));
#pragma omp parallel for schedule(static)
    for (size_t r = 0; r < c->rows; r++) merge_row(c, r, &c->main.codes, start[r]);
    return DF_OK;
}

df_status df_encode_parts(df_coder *c, bool training) {
    for (size_t n = 0; n < c->parts; n++) {
        df_coder_rank_by(c, &c->part_columns[n]);
        c->cut_at = c->part_cut[n];
        DF_TRY(df_encode_best(c, training, c->dict->site_threshold[n], &c->part[n]));
        c->part_cut[n] = c->cut_at;
    }
    if (training) df_coder_rank_by(c, NULL); // as AuxK ranks
    return df_agree(c->groups.world, merge(c));
}

/* ---- entries -------------------------------------------------------------------------------- */

void df_parts_add(const df_coder *c, uint32_t sites, float *sum, float a, const float *w) {
    for (size_t n = 0; n < c->parts; n++) {
        df_range columns = c->part_columns[n];
        if ((sites >> n & 1) == 0) continue;
        df_add_scaled(sum + columns.first, a, w + columns.first, columns.count);
    }
}

float df_parts_dot(const df_coder *c, uint32_t sites, const float *v, const float *w) {
    float sum = 0.0f;
    for (size_t n = 0; n < c->parts; n++) {
        df_range columns = c->part_columns[n];
        if ((sites >> n & 1) == 0) continue;
        sum += df_dot(v + columns.first, w + columns.first, columns.count);
    }
    return sum;
}
