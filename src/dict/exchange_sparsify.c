/* EleutherAI sparsify: cfg.json and sae.safetensors of one hook point. encoder.weight and W_dec are
 * both [latents, columns]. b_dec is subtracted before the encoder, unless it is a transcoder. */
#include "exchange.h"

#include <string.h>

#define WEIGHTS "sae.safetensors"

static const char harmless[] = "expansion_factor normalize_decoder num_latents multi_topk d_in "
                               "lookup_max_order gram_table_hash";
static const exchange_key keys[] = {
    {"activation", "topk", "codes are TopK"},
    {"k", "*", ""},
    {"transcode", "true|false", "true or false"},
    {"skip_connection", "true|false", "true or false"},
    {"embed_skip", "false", "the token's embedding would be read as well"},
    {"gram_lookup", "false", "means of n-grams would be subtracted"},
    {"signed", "false", "codes below zero are not ours"},
};

static bool recognise(const char *path) {
    return exchange_has(path, WEIGHTS) && exchange_has(path, "cfg.json");
}

static df_status read_config(exchange *x, const json_t *config) {
    bool transcode, skip;
    int64_t k;
    DF_TRY(exchange_check_keys(x, config, keys, sizeof keys / sizeof keys[0], harmless));
    DF_TRY(exchange_size(x, config, "d_in", &x->in));
    if (json_integer_value(json_object_get(config, "num_latents")) != 0) // 0: expansion_factor
        DF_TRY(exchange_size(x, config, "num_latents", &x->latents));
    DF_TRY(df_json_bool_or(config, "cfg.json", "transcode", false, &transcode));
    DF_TRY(df_json_bool_or(config, "cfg.json", "skip_connection", false, &skip));
    DF_TRY(df_json_int(config, "cfg.json", "k", &k));
    if (skip && !transcode)
        return df_fail(DF_BAD_INPUT, "%s: skip_connection without transcode: no such kind here",
                       x->folder);
    x->kind = skip ? DF_SKIP_TRANSCODER : transcode ? DF_TRANSCODER : DF_SAE;
    x->activation = DF_TOPK;
    x->subtract_bias = !transcode;
    x->k = k > 0 ? (size_t)k : 0;
    // The folder is called like the module: layers.5
    const char *slash = strrchr(x->folder, '/');
    DF_TRY(exchange_name(&x->site[0], slash != NULL ? slash + 1 : x->folder));
    x->sites = 1;
    return DF_OK;
}

static df_status open_it(exchange *x) {
    json_t *config;
    DF_TRY(exchange_config(x, "cfg.json", &config));
    df_status status = read_config(x, config);
    json_decref(config);
    DF_TRY(status);
    return exchange_open_file(x, WEIGHTS);
}

static df_status list(exchange *x) {
    // Read and written columns have one width there, so one letter holds them to it.
    DF_TRY(exchange_add(x, "encoder.weight", 0, ROLE_ENC, "FI"));
    DF_TRY(exchange_add(x, "encoder.bias", 0, ROLE_B_ENC, "F"));
    DF_TRY(exchange_add(x, "W_dec", 0, ROLE_DEC, "FI"));
    DF_TRY(exchange_add(x, "b_dec", 0, ROLE_B_DEC, "I"));
    return x->kind == DF_SKIP_TRANSCODER ? exchange_add(x, "W_skip", 0, ROLE_SKIP, "II") : DF_OK;
}

static bool subtracts(const exchange *x, const df_dict *d) {
    (void)x;
    return d->kind == DF_SAE;
}

static const char *file_of(const exchange *x, size_t i, char room[64]) {
    (void)x, (void)i, (void)room;
    return WEIGHTS;
}

static df_status describe(const exchange *x, const df_dict *d, char **text) {
    if (x->in != x->out)
        return df_fail(DF_USAGE,
                       "sparsify reads and writes sites of one width; these are %zu and "
                       "%zu",
                       x->in, x->out);
    *text = exchange_dump(json_pack(
        "{s:s, s:I, s:b, s:I, s:I, s:b, s:b, s:b, s:I}", "activation", "topk", "expansion_factor",
        (json_int_t)(x->latents / x->in), "normalize_decoder", 0, "num_latents",
        (json_int_t)x->latents, "k", (json_int_t)d->k, "multi_topk", 0, "skip_connection",
        d->kind == DF_SKIP_TRANSCODER, "transcode", d->kind != DF_SAE, "d_in", (json_int_t)x->in));
    return *text != NULL ? DF_OK : DF_FAILED;
}

const exchange_family exchange_sparsify = {
    .name = "sparsify",
    .help = "EleutherAI sparsify, one hook point: cfg.json, sae.safetensors",
    .kinds = 1u << DF_SAE | 1u << DF_TRANSCODER | 1u << DF_SKIP_TRANSCODER,
    .activations = 1u << DF_TOPK,
    .subtracts = subtracts,
    .recognise = recognise,
    .open = open_it,
    .list = list,
    .file_of = file_of,
    .config = "cfg.json",
    .describe = describe};
