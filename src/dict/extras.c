/* What not every training needs: room for it, and averages of the weights. */
#include "objective.h"

#include <math.h>
#include <string.h>

#define TAKE(pointer, n) ((pointer) = df_layout_take(l, (n), sizeof *(pointer)))

static void lay_out_nested(df_coder *c, df_layout *l) {
    size_t codes = df_code_capacity(c);
    TAKE(c->nested, c->dict->prefixes * c->max_rows * c->out);
    TAKE(c->running, df_share(c->max_rows, c->size, 0).count * c->out);
    TAKE(c->segment.codes.start, c->max_rows + 1);
    TAKE(c->segment.codes.latent, codes);
    TAKE(c->segment.codes.value, codes);
}

static void lay_out(df_coder *c, const df_train_room *room, df_layout *l) {
    if (c->dict->prefixes > 0) lay_out_nested(c, l);
    if (!room->multi) return;
    TAKE(c->multi_error, c->max_rows * c->out);
    TAKE(c->multi.codes.start, c->max_rows + 1);
    TAKE(c->multi.latent_start, c->local + 1);
    if (df_multi_k(c->dict) > c->row_k) df_layout_rows(c, l, df_multi_k(c->dict));
}

static size_t multi_capacity(const df_coder *c) {
    size_t k = df_multi_k(c->dict);
    return c->max_rows * (k < c->local ? k : c->local);
}

/* A dictionary without weights gives the averages their shape; then weights, all 0. */
static df_status open_averages(df_coder *c) {
    const df_dict *d = c->dict;
    df_dict_shape shape = {.kind = d->kind,
                           .latents = d->latents,
                           .sites = d->sites,
                           .groups = d->groups,
                           .site = d->site,
                           .group = d->group};
    return df_dict_make(c->comm, &shape, &c->state.ema);
}

static df_status extend(df_coder *c, const df_train_room *room) {
    df_layout count = {0}, real = {0};
    size_t row_k = c->row_k, order = c->worker[0].order_capacity;
    lay_out(c, room, &count);
    c->extra_arena = df_alloc(count.used, 1);
    if (c->extra_arena == NULL) return DF_FAILED;
    c->row_k = row_k; // as they were before counting
    for (int t = 0; t < c->threads; t++) c->worker[t].order_capacity = order;
    real.base = c->extra_arena;
    lay_out(c, room, &real);
    c->room = *room;
    if (room->ema) DF_TRY(open_averages(c));
    c->multi.training = true;
    return room->multi ? df_codes_reserve(&c->multi, multi_capacity(c)) : DF_OK;
}

df_status df_coder_train_extend(df_coder *c, const df_train_room *room) {
    if (!c->training || c->extra_arena != NULL)
        return df_fail(DF_FAILED, "df_coder_train_extend comes once, after df_coder_train_open");
    if (room->multi && c->dict->activation != DF_TOPK)
        return df_fail(DF_USAGE, "Multi-TopK is for TopK dictionaries");
    DF_TRY_AS(df_agree(c->groups.world, extend(c, room)),
              "allocating what the training needs besides");
    return DF_OK;
}

size_t df_coder_room_bytes(const df_dict *dict, size_t batch, const df_group_place *at,
                           const df_train_room *room) {
    df_worker workers[64] = {{0}};
    df_dict copy = *dict;
    df_coder c = {.groups = {.at = *at},
                  .size = at->shards,
                  .rank = at->shard,
                  .worker = workers,
                  .main = {.training = true}};
    df_layout l = {0};
    df_coder_shape(&c, &copy, batch);
    if (c.threads > 64) c.threads = 64;
    c.row_k = dict->activation == DF_TOPK ? dict->k : 0;
    if (df_coder_aux_room(dict) > c.row_k) c.row_k = df_coder_aux_room(dict);
    lay_out(&c, room, &l);
    return l.used + (room->multi ? multi_capacity(&c) * 24 : 0) +
           (room->ema ? df_dict_bytes(dict) : 0);
}

df_status df_extras_check(const df_dict *d, const df_step_settings *set) {
    bool squared = set->objective.reconstruction == DF_SQUARED_SUM;
    df_activation a = d->activation;
    if (d->prefixes > 0 && (a == DF_JUMPRELU || a == DF_GATED || !squared))
        return df_fail(DF_USAGE, "prefixes go with relu, topk and batchtopk and the squared error");
    if (set->multi > 0.0 && (a != DF_TOPK || df_dict_decoupled(d)))
        return df_fail(DF_USAGE, "Multi-TopK is for TopK dictionaries that are not decoupled");
    if (set->fired_selected && (a != DF_TOPK || df_dict_decoupled(d) || set->fired_above > 0.0))
        return df_fail(DF_USAGE, "latents fire by being selected in topk dictionaries that are not "
                                 "decoupled, whatever their codes: fired_above must then be 0");
    if (set->aux_attached &&
        (set->aux_normaliser == DF_AUX_RESIDUAL || df_is_shaped(&set->objective)))
        return df_fail(DF_USAGE, "an attached auxiliary target needs the squared error, and a "
                                 "normaliser that does not depend on it: target or none");
    if (set->aux_attached && set->aux_decoder_only)
        return df_fail(DF_USAGE,
                       "an attached auxiliary target trains the encoder by the error that "
                       "it is: it does not go with an auxiliary encoder that is fixed");
    return DF_OK;
}

df_status df_extras_room(const df_coder *c, const df_step_settings *set) {
    bool missing = (c->dict->prefixes > 0 && c->nested == NULL) ||
                   (set->multi > 0.0 && !c->room.multi) || (set->ema > 0.0 && c->state.ema == NULL);
    if (missing) return df_fail(DF_FAILED, "the step needs room: see df_coder_train_extend");
    return DF_OK;
}

/* ---- averages ------------------------------------------------------------------------------- */

/* One tensor of the weights and its average. */
typedef struct pair {
    float *now, *mean;
    size_t n;
} pair;
enum { PAIRS = 8 };

static void list_pairs(const df_coder *c, pair out[static PAIRS]) {
    const df_dict *d = c->dict, *a = c->state.ema;
    size_t first = d->mine.first, end = first + d->mine.count, n = d->mine.count;
    const pair all[PAIRS] = {
        {d->w_enc, a->w_enc, df_dict_enc_floats(d, end) - df_dict_enc_floats(d, first)},
        {d->w_dec, a->w_dec, df_dict_dec_floats(d, end) - df_dict_dec_floats(d, first)},
        {d->b_enc, a->b_enc, n},
        {d->theta, a->theta, n},
        {d->r_mag, a->r_mag, n},
        {d->b_mag, a->b_mag, n},
        {d->b_dec, a->b_dec, d->out.count},
        {d->w_skip, a->w_skip, d->w_skip != NULL ? d->skip_rows.count * d->in.count : 0}};
    memcpy(out, all, sizeof all);
}

void df_ema_update(df_coder *c, double keep) {
    pair all[PAIRS];
    float rate = (float)(1.0 - keep);
    list_pairs(c, all);
    for (size_t p = 0; p < PAIRS; p++) {
#pragma omp parallel for schedule(static)
        for (size_t i = 0; i < all[p].n; i++)
            all[p].mean[i] += rate * (all[p].now[i] - all[p].mean[i]);
    }
}

void df_coder_use_averages(df_coder *c, double ema) {
    pair all[PAIRS];
    double share = 1.0 / (1.0 - pow(ema, (double)c->state.step));
    list_pairs(c, all);
    for (size_t p = 0; p < PAIRS; p++)
        for (size_t i = 0; i < all[p].n; i++)
            all[p].now[i] = (float)(share * (double)all[p].mean[i]);
}
