/* What a training run will need, and the settings of its steps. */
#include "step.h"
#include "train_internal.h"

#include <inttypes.h>
#include <string.h>

size_t history_rows(const df_train_options *options) {
    uint64_t every = options->log_every > 0 ? options->log_every : 1;
    return (size_t)(options->steps / every) + 1;
}

df_order train_order(const df_train_options *o, const df_rows *rows) {
    df_order order = {.how = o->shuffle,
                      .seed = o->order_seed,
                      .n = df_rows_count(rows),
                      .buffer = o->buffer_rows};
    if (order.n == UINT64_MAX) order.how = DF_SHUFFLE_PLAIN;
    return order;
}

df_dict_shape train_shape(const df_train_options *o, df_dict_site *sites, size_t n) {
    bool apart = o->kind > DF_CROSSCODER;
    for (size_t s = 0; s < n && s < DF_MAX_SITES; s++) {
        sites[s].input = !apart || s < o->inputs;
        sites[s].output = !apart || s >= o->inputs;
    }
    df_dict_kind kind = apart ? o->kind : n == 1 ? DF_SAE : DF_CROSSCODER;
    return (df_dict_shape){.kind = kind, .latents = o->latents, .site = sites, .sites = n};
}

static size_t auxiliary_latents(const df_train_options *options, const df_dict *dict) {
    size_t half = dict->out.count / df_dict_outputs(dict) / 2;
    if (options->aux_k > 0) return options->aux_k;
    return half > 0 ? half : 1;
}

/* The objective of a step: annealing and warm-up multiply the weight. */
static df_objective step_objective(const df_train_options *o, const df_anneal *anneal,
                                   uint64_t step) {
    df_objective now = o->objective;
    now.weight *= schedule_penalty(o, step);
    if (o->anneal.updates > 0) df_anneal_set(&o->anneal, anneal, step, &now);
    return now;
}

df_step_settings step_settings(const df_train_options *options, const df_dict *dict,
                               const df_anneal *anneal, uint64_t step) {
    // A short run must have found its threshold too: the average begins half-way at the latest.
    uint64_t half = options->steps / 2;
    uint64_t start = options->threshold_start < half ? options->threshold_start : half;
    return (df_step_settings){.lr = schedule_rate(options, step),
                              .beta1 = options->beta1,
                              .beta2 = options->beta2,
                              .epsilon = options->epsilon,
                              .objective = step_objective(options, anneal, step),
                              .aux = options->aux,
                              .aux_k = auxiliary_latents(options, dict),
                              .dead_rows = options->dead_rows,
                              .unit_decoder = options->unit_decoder,
                              .prefix_weight = options->prefix_weight,
                              .multi = options->multi,
                              .aux_normaliser = options->aux_normaliser,
                              .aux_bias = options->aux_bias,
                              .aux_raw = options->aux_raw,
                              .aux_scaled = options->aux_scaled,
                              .aux_attached = options->aux_attached,
                              .aux_decoder_only = options->aux_decoder_only,
                              .fired_above = options->fired_above,
                              .fired_selected = options->fired_selected,
                              .clip = options->clip,
                              .ema = options->ema,
                              .unit_first = options->unit_first,
                              .threshold_from_zero = options->threshold_from_zero,
                              .threshold_rate = step >= start ? options->threshold_rate : 0};
}

/* ---- what a job may ask for ----------------------------------------------------------------- */

static df_status check_options(const df_train_options *o) {
    if (o->latents < 1 || o->batch < 1 || o->steps < 1)
        return df_fail(DF_USAGE, "latents, batch and steps must be at least 1");
    if (o->subtract_bias && o->kind > DF_CROSSCODER)
        return df_fail(DF_USAGE,
                       "subtract_bias is for dictionaries that read what they write, not "
                       "for a %s",
                       df_dict_kind_name(o->kind));
    if (o->token_norm != DF_TOKEN_NONE && o->kind > DF_CROSSCODER)
        return df_fail(DF_USAGE,
                       "token_norm is for dictionaries that read what they write, not for a %s: "
                       "what it writes could be brought back only with numbers of the row that "
                       "is to be found; set it to none",
                       df_dict_kind_name(o->kind));
    if ((o->activation == DF_TOPK || o->activation == DF_BATCHTOPK) &&
        (o->k < 1 || o->k > o->latents))
        return df_fail(DF_USAGE, "k is %zu, expected 1 to %zu latents", o->k, o->latents);
    for (size_t i = 0; i < o->prefixes; i++)
        if (o->prefixes > DF_MAX_PREFIXES || (i > 0 && o->prefix[i] <= o->prefix[i - 1]) ||
            o->prefix[o->prefixes - 1] != o->latents)
            return df_fail(DF_USAGE, "prefixes must ascend and end with the number of latents");
    if (o->init_fit && o->init_bias_enc >= DF_INIT_ENC_QUANTILE)
        return df_fail(DF_USAGE,
                       "%s biases are those of the encoder as it was drawn: it cannot be "
                       "scaled to reconstruct rows of norm 1 besides",
                       o->init_bias_enc == DF_INIT_ENC_QUANTILE ? "quantile" : "centred");
    bool normed = o->unit_decoder || o->unit_first || o->code_norm != DF_NORM_NONE;
    if (o->init_zero && (normed || o->init_fit))
        return df_fail(DF_USAGE, "decoder rows that begin as 0 have no norm: leave them free, with "
                                 "code_norm none and an encoder that is not fitted");
    if (o->k_start > o->latents)
        return df_fail(DF_USAGE, "k_start is %zu, expected at most %zu latents", o->k_start,
                       o->latents);
    return DF_OK;
}

static df_status check_objective(const df_train_options *o) {
    const df_anneal_plan *a = &o->anneal;
    if (o->activation == DF_JUMPRELU && !(o->init_threshold > 0.0))
        return df_fail(DF_USAGE, "the initial threshold is %g, it must be positive",
                       o->init_threshold);
    if (a->updates == 0) return DF_OK;
    if (o->objective.penalty != DF_PENALTY_LP)
        return df_fail(DF_USAGE,
                       "annealing lowers the power of the lp penalty, which is not chosen");
    if (a->updates < 2 || a->end < a->start || a->end - a->start < a->updates)
        return df_fail(DF_USAGE,
                       "%zu updates of annealing do not fit between steps %" PRIu64 " and %" PRIu64,
                       a->updates, a->start, a->end);
    if (!(a->from > 0.0 && a->to > 0.0))
        return df_fail(DF_USAGE, "annealing goes from a power of %g to %g, both must be positive",
                       a->from, a->to);
    return DF_OK;
}

static df_status check_groups(const df_train_options *o, const df_dict *asked,
                              const df_step_settings *first) {
    size_t runs = train_runs(o);
    if (runs > 1 && o->batch < runs)
        return df_fail(DF_USAGE, "a batch of %zu rows cannot be cut into %zu data groups", o->batch,
                       runs);
    if (runs > 1 && o->resample > 0)
        return df_fail(
            DF_USAGE,
            "resample draws from all rows of a batch, of which a data group has its own: "
            "data_groups is %zu, give 1",
            runs);
    if (runs > 1 && o->init_fit)
        return df_fail(
            DF_USAGE, "init_encoder_fit is not summed over data groups: data_groups is %zu, give 1",
            runs);
    return df_groups_check(asked, first, runs);
}

df_status df_train_check(const df_train_options *o) {
    const df_anneal begun = {.factor = 1.0};
    const df_dict asked = {.kind = o->kind,
                           .activation = o->activation,
                           .code_norm = o->code_norm,
                           .latents = o->latents,
                           .shared = o->shared,
                           .prefixes = o->prefixes};
    const df_step_settings first = {.objective = step_objective(o, &begun, 0),
                                    .multi = o->multi,
                                    .aux_normaliser = o->aux_normaliser,
                                    .aux_attached = o->aux_attached,
                                    .aux_decoder_only = o->aux_decoder_only,
                                    .fired_above = o->fired_above,
                                    .fired_selected = o->fired_selected};
    DF_TRY(check_options(o));
    DF_TRY(check_objective(o));
    DF_TRY(check_groups(o, &asked, &first));
    return df_step_check(&asked, &first);
}

/* One direction for all sites needs one width. */
static df_status check_same(const df_dict *d) {
    const df_dict_site *first = df_dict_output(d, 0);
    for (size_t s = 0; s < d->sites; s++) {
        const df_dict_site *other = &d->site[s];
        if (other->width == first->width) continue;
        return df_fail(DF_USAGE,
                       "init_sites same: one direction cannot begin all sites, because %s of %s "
                       "has %zu columns and %s of %s has %zu",
                       first->name, first->model, first->width, other->name, other->model,
                       other->width);
    }
    return DF_OK;
}

df_status train_describe(const df_train_options *o, df_dict *d) {
    DF_TRY(df_train_check(o));
    d->activation = o->activation;
    d->code_norm = o->code_norm;
    d->k = schedule_largest_k(o); // what the coder must have room for
    d->subtract_bias = o->subtract_bias;
    for (size_t s = 0; s < d->sites; s++) d->site[s].token_norm = o->token_norm;
    d->prefixes = o->prefixes;
    memcpy(d->prefix, o->prefix, sizeof o->prefix);
    DF_TRY(df_parts_check(d));
    if (o->init_same) DF_TRY(check_same(d));
    DF_TRY(df_dict_bind(d, o->shared, o->dedicated));
    if (!(o->aux > 0.0)) return DF_OK;
    return df_step_fits(d, auxiliary_latents(o, d));
}
