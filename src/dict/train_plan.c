/* What a training run will need, and the settings of its steps. */
#include "train_internal.h"

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

df_status train_describe(const df_train_options *o, df_dict *d) {
    d->activation = o->activation;
    d->code_norm = o->code_norm;
    d->k = schedule_largest_k(o); // what the coder must have room for
    d->subtract_bias = o->subtract_bias;
    d->prefixes = o->prefixes;
    memcpy(d->prefix, o->prefix, sizeof o->prefix);
    DF_TRY(df_parts_check(d));
    return df_dict_bind(d, o->shared, o->dedicated);
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
                              .aux_scaled = options->aux_scaled,
                              .aux_attached = options->aux_attached,
                              .fired_above = options->fired_above,
                              .clip = options->clip,
                              .ema = options->ema,
                              .unit_first = options->unit_first,
                              .threshold_from_zero = options->threshold_from_zero,
                              .threshold_rate = step >= start ? options->threshold_rate : 0};
}
