/* crosslayer-transcoder (Goreg12345): checkpoint.safetensors and config.yaml, read only. Encoders
 * [layers, columns, latents]; cross-layer decoders by the layer written, decoder.W_i [i + 1
 * sources, latents, columns]; per-layer decoders [layers, latents, columns]. Its TopK picks k of
 * all layers' latents together, k being per layer and possibly a fraction. Its JumpReLU keeps p
 * where p > theta and p > 0; some thresholds of its toys are below zero, and without the second
 * condition their unexplained variance is another (0.4396 and 0.8684 instead of 0.4392 and 0.8665).
 */
#include "exchange.h"

#include <stdlib.h>
#include <string.h>

#define ARGS "model.init_args."
static const df_option keys[] = {
    {.key = "model.class_path", .type = DF_OPT_TEXT},
    {.key = ARGS "decoder.class_path", .type = DF_OPT_TEXT},
    {.key = ARGS "decoder.init_args.d_acts", .type = DF_OPT_INT},
    {.key = ARGS "decoder.init_args.d_features", .type = DF_OPT_INT},
    {.key = ARGS "decoder.init_args.n_layers", .type = DF_OPT_INT},
    {.key = ARGS "encoder.class_path", .type = DF_OPT_TEXT},
    {.key = ARGS "encoder.init_args.d_acts", .type = DF_OPT_INT},
    {.key = ARGS "encoder.init_args.d_features", .type = DF_OPT_INT},
    {.key = ARGS "encoder.init_args.n_layers", .type = DF_OPT_INT},
    {.key = ARGS "input_standardizer", .type = DF_OPT_TEXT, .fallback = "null"},
    {.key = ARGS "output_standardizer", .type = DF_OPT_TEXT, .fallback = "null"},
    {.key = ARGS "nonlinearity.class_path", .type = DF_OPT_TEXT},
    {.key = ARGS "nonlinearity.init_args.bandwidth", .type = DF_OPT_REAL, .optional = true},
    {.key = ARGS "nonlinearity.init_args.d_features", .type = DF_OPT_TEXT, .optional = true},
    {.key = ARGS "nonlinearity.init_args.n_layers", .type = DF_OPT_TEXT, .optional = true},
    {.key = ARGS "nonlinearity.init_args.theta", .type = DF_OPT_REAL, .optional = true},
    {.key = ARGS "nonlinearity.init_args.e", .type = DF_OPT_TEXT, .optional = true},
    {.key = ARGS "nonlinearity.init_args.k", .type = DF_OPT_REAL, .optional = true},
    {.key = "model.is_folded", .type = DF_OPT_BOOL, .fallback = "false"},
};

static bool recognise(const char *path) {
    return exchange_has(path, "checkpoint.safetensors") && exchange_has(path, "config.yaml");
}

static bool ends(const char *text, const char *with) {
    size_t n = strlen(text), m = strlen(with);
    return n >= m && strcmp(text + n - m, with) == 0;
}

static df_status take_activation(exchange *x, const df_job *job) {
    const char *name = df_job_text(job, ARGS "nonlinearity.class_path");
    if (ends(name, ".JumpReLU")) x->activation = DF_JUMPRELU;
    if (ends(name, ".JumpReLU")) return DF_OK;
    if (!ends(name, ".LayerTopK"))
        return df_fail(DF_BAD_INPUT, "%s: nonlinearity %s is not understood", x->folder, name);
    x->activation = DF_TOPK;
    double k = df_job_has(job, ARGS "nonlinearity.init_args.k")
                   ? df_job_real(job, ARGS "nonlinearity.init_args.k") * (double)x->layers
                   : 0.0;
    x->k = k >= 1.0 && k < 4e9 ? (size_t)k : 0;
    if (x->k >= 1 && (double)x->k == k) return DF_OK;
    return df_fail(DF_BAD_INPUT, "%s: k times layers is %g, expected a whole number", x->folder, k);
}

static df_status take_config(exchange *x, const df_job *job) {
    const char *decoder = df_job_text(job, ARGS "decoder.class_path");
    int64_t layers = df_job_int(job, ARGS "encoder.init_args.n_layers");
    if (layers < 1 || layers > DF_MAX_SITES / 2)
        return df_fail(DF_BAD_INPUT, "%s: %lld layers, expected 1 to %d", x->folder,
                       (long long)layers, DF_MAX_SITES / 2);
    if (strcmp(df_job_text(job, ARGS "input_standardizer"), "null") != 0 ||
        strcmp(df_job_text(job, ARGS "output_standardizer"), "null") != 0)
        return df_fail(DF_BAD_INPUT, "%s: its rows are standardised: fold that in first",
                       x->folder);
    x->kind = DF_CLT;
    x->layers = (size_t)layers;
    x->own_layer = ends(decoder, ".Decoder");
    if (!x->own_layer && !ends(decoder, ".CrosslayerDecoder"))
        return df_fail(DF_BAD_INPUT, "%s: decoder %s is not understood", x->folder, decoder);
    return take_activation(x, job);
}

static df_status open_it(exchange *x) {
    df_job *job;
    DF_TRY(exchange_yaml(x, "config.yaml", keys, sizeof keys / sizeof keys[0], &job));
    df_status status = df_job_require(job, "model");
    if (status == DF_USAGE) status = DF_BAD_INPUT;
    if (status == DF_OK) status = take_config(x, job);
    df_job_free(job);
    return status == DF_OK ? exchange_open_file(x, "checkpoint.safetensors") : status;
}

static df_status add(exchange *x, const char *name, exchange_role role, const char *axes,
                     size_t group) {
    DF_TRY(exchange_add(x, name, group, role, axes));
    exchange_tensor *t = exchange_last(x);
    t->group = t->pick = group;
    t->lead = x->layers;
    return DF_OK;
}

// Group l writes site `to` by row l of decoder.W_to.
static df_status add_cross(exchange *x, size_t l) {
    for (size_t to = l; to < x->layers; to++) {
        DF_TRY(exchange_add(x, "decoder.W_*", to, ROLE_DEC, "LFO"));
        exchange_tensor *t = exchange_last(x);
        t->group = t->pick = l;
        t->part = to - l;
        t->lead = to + 1;
    }
    return DF_OK;
}

static df_status list(exchange *x) {
    for (size_t l = 0; l < x->layers; l++) {
        DF_TRY(add(x, "encoder.W", ROLE_ENC, "LIF", l));
        DF_TRY(add(x, "encoder.b", ROLE_B_ENC, "LF", l));
        DF_TRY(x->own_layer ? add(x, "decoder.W", ROLE_DEC, "LFO", l) : add_cross(x, l));
        if (x->activation == DF_JUMPRELU)
            DF_TRY(add(x, "nonlinearity.theta", ROLE_THETA, "1LF", l));
    }
    DF_TRY(exchange_add(x, "decoder.b", 0, ROLE_B_DEC, "SO"));
    DF_TRY(exchange_add(x, "nonlinearity.bandwidth", 0, ROLE_CARRIED, ""));
    exchange_last(x)->optional = true;
    return DF_OK;
}

const exchange_family exchange_crosslayer = {
    .name = "crosslayer-transcoder",
    .help = "crosslayer-transcoder, read only: checkpoint.safetensors, config.yaml",
    .relu_first = true,
    .recognise = recognise,
    .open = open_it,
    .list = list};
