/* circuit-tracer (decoderesearch/circuit-tracer, circuit_tracer/transcoder): a folder of per-layer
 * transcoders, layer_N.safetensors, of which one is read or written; and a cross-layer transcoder,
 * W_enc_N and W_dec_N.safetensors. Both may have config.yaml. Encoders and decoders are [latents,
 * columns]; b_dec is not subtracted. */
#include "exchange.h"

#include <stdlib.h>
#include <string.h>

static const df_option keys[] = {
    {.key = "model_kind", .type = DF_OPT_TEXT, .optional = true},
    {.key = "model_name", .type = DF_OPT_TEXT, .optional = true},
    {.key = "feature_input_hook", .type = DF_OPT_TEXT, .fallback = "hook_resid_mid"},
    {.key = "feature_output_hook", .type = DF_OPT_TEXT, .fallback = "hook_mlp_out"},
    {.key = "scan", .type = DF_OPT_TEXT, .optional = true},
    {.key = "repo_id", .type = DF_OPT_TEXT, .optional = true},
    {.key = "transcoders", .type = DF_OPT_LIST, .optional = true},
    {.key = "activation", .type = DF_OPT_TEXT, .optional = true},
    {.key = "k", .type = DF_OPT_INT, .optional = true},
};

static df_status hook_name(char **to, size_t layer, const char *hook) {
    char *name = df_format("blocks.%zu.%s", layer, hook);
    if (name == NULL) return DF_FAILED;
    df_free(*to);
    *to = name;
    return DF_OK;
}

// Names of the sites of `layers` layers from `first` on: all that are read, then all written.
static df_status take_config(exchange *x, size_t first, size_t layers) {
    df_job *job = NULL;
    const char *in = "hook_resid_mid", *out = "hook_mlp_out";
    df_status status;
    DF_GO(exchange_yaml(x, "config.yaml", keys, sizeof keys / sizeof keys[0], &job));
    if (job != NULL) {
        in = df_job_text(job, "feature_input_hook");
        out = df_job_text(job, "feature_output_hook");
        const char *model = df_job_text(job, "model_name"),
                   *activation = df_job_text(job, "activation");
        if (model != NULL) DF_GO(exchange_name(&x->model, model));
        if (activation != NULL && strcmp(activation, "topk") == 0) x->activation = DF_TOPK;
        if (df_job_has(job, "k")) x->k = (size_t)df_job_int(job, "k");
    }
    for (size_t l = 0; l < layers; l++) {
        DF_GO(hook_name(&x->site[l], first + l, in));
        DF_GO(hook_name(&x->site[layers + l], first + l, out));
    }
    x->sites = 2 * layers;
done:
    df_job_free(job);
    return status;
}

/* ---- one layer - */

static bool is_layer_file(const char *path) {
    const char *slash = strrchr(path, '/'), *name = slash != NULL ? slash + 1 : path;
    size_t n = strlen(name);
    return strncmp(name, "layer_", 6) == 0 && n > 12 && strcmp(name + n - 12, ".safetensors") == 0;
}

static size_t layers_in(const char *path, size_t *last) {
    size_t found = 0;
    for (size_t l = 0; l < DF_MAX_SITES; l++) {
        char name[64];
        snprintf(name, sizeof name, "layer_%zu.safetensors", l);
        if (!exchange_has(path, name)) continue;
        found++;
        *last = l;
    }
    return found;
}

static bool recognise_layer(const char *path) {
    size_t last;
    return is_layer_file(path) || layers_in(path, &last) > 0;
}

static df_status open_layer(exchange *x) {
    char name[64];
    size_t found = 1;
    bool alone = is_layer_file(x->folder);
    if (alone)
        x->layer = strtoul(strrchr(x->folder, '_') + 1, NULL, 10);
    else
        found = layers_in(x->folder, &x->layer);
    if (found > 1 && x->options->layer < 0)
        return df_fail(DF_USAGE,
                       "%s holds transcoders of %zu layers: say which with --layer, each becomes a "
                       "file of its own",
                       x->folder, found);
    if (x->options->layer >= 0) x->layer = (size_t)x->options->layer;
    snprintf(name, sizeof name, "layer_%zu.safetensors", x->layer);
    x->kind = DF_TRANSCODER;
    DF_TRY(exchange_open_file(x, alone ? "" : name));
    if (exchange_find(x, "W_skip") != NULL) x->kind = DF_SKIP_TRANSCODER;
    DF_TRY(take_config(x, x->layer, 1));
    if (exchange_find(x, "k") != NULL) x->activation = DF_TOPK;
    if (exchange_find(x, "activation_function.threshold") != NULL) x->activation = DF_JUMPRELU;
    return DF_OK;
}

static df_status list_layer(exchange *x) {
    bool sae = x->kind == DF_SAE;
    DF_TRY(exchange_add(x, "W_enc", 0, ROLE_ENC, "FI"));
    DF_TRY(exchange_add(x, "W_dec", 0, ROLE_DEC, sae ? "FI" : "FO"));
    DF_TRY(exchange_add(x, "b_enc", 0, ROLE_B_ENC, "F"));
    DF_TRY(exchange_add(x, "b_dec", 0, ROLE_B_DEC, sae ? "I" : "O"));
    if (x->kind == DF_SKIP_TRANSCODER) DF_TRY(exchange_add(x, "W_skip", 0, ROLE_SKIP, "OI"));
    if (x->activation == DF_JUMPRELU || x->activation == DF_BATCHTOPK)
        return exchange_add(x, "activation_function.threshold", 0, ROLE_THETA, "F");
    if (x->activation != DF_TOPK) return DF_OK;
    DF_TRY(exchange_add(x, "k", 0, ROLE_K, ""));
    exchange_last(x)->type = DF_I64;
    exchange_last(x)->optional = true; // config.yaml may say it instead
    return DF_OK;
}

static bool subtracts(const exchange *x, const df_dict *d) {
    (void)x, (void)d;
    return false;
}

static const char *layer_file(const exchange *x, size_t i, char room[64]) {
    (void)i;
    snprintf(room, 64, "layer_%zu.safetensors", x->layer);
    return room;
}

// What follows "blocks.N." in a name.
static const char *hook_of(const char *site) {
    const char *dot = strncmp(site, "blocks.", 7) == 0 ? strchr(site + 7, '.') : NULL;
    return dot != NULL ? dot + 1 : site;
}

static df_status describe_as(const df_dict *d, const char *kind, char **text) {
    const df_dict_site *in = &d->site[0], *out = df_dict_output(d, 0);
    char more[64] = "";
    if (d->activation == DF_TOPK) snprintf(more, sizeof more, "activation: topk\nk: %zu\n", d->k);
    *text = df_format("model_kind: %s\nmodel_name: '%s'\nfeature_input_hook: '%s'\n"
                      "feature_output_hook: '%s'\n%s",
                      kind, in->model, hook_of(in->name), hook_of(out->name), more);
    return *text != NULL ? DF_OK : DF_FAILED;
}

static df_status describe_layer(const exchange *x, const df_dict *d, char **text) {
    (void)x;
    return describe_as(d, "transcoder_set", text);
}

const exchange_family exchange_circuit_tracer = {
    .name = "circuit-tracer",
    .help =
        "circuit-tracer, one layer of a folder of transcoders: layer_N.safetensors, config.yaml",
    .kinds = 1u << DF_SAE | 1u << DF_TRANSCODER | 1u << DF_SKIP_TRANSCODER,
    .activations = 1u << DF_RELU | 1u << DF_TOPK | 1u << DF_BATCHTOPK | 1u << DF_JUMPRELU,
    .subtracts = subtracts,
    .latent_thresholds = true,
    .recognise = recognise_layer,
    .open = open_layer,
    .list = list_layer,
    .file_of = layer_file,
    .config = "config.yaml",
    .describe = describe_layer};

/* ---- cross-layer - */

static bool recognise_clt(const char *path) {
    return exchange_has(path, "W_enc_0.safetensors");
}

static df_status open_clt(exchange *x) {
    char name[64];
    x->kind = DF_CLT;
    for (x->layers = 0; x->layers < DF_MAX_SITES / 2; x->layers++) {
        snprintf(name, sizeof name, "W_enc_%zu.safetensors", x->layers);
        if (!exchange_has(x->folder, name)) break;
        DF_TRY(exchange_open_file(x, name));
        snprintf(name, sizeof name, "W_dec_%zu.safetensors", x->layers);
        DF_TRY(exchange_open_file(x, name));
    }
    DF_TRY(take_config(x, 0, x->layers));
    if (x->activation == DF_TOPK)
        return df_fail(DF_BAD_INPUT,
                       "%s: TopK of each layer apart is not the TopK of a row that we do",
                       x->folder);
    if (exchange_find(x, "threshold_0") != NULL) x->activation = DF_JUMPRELU;
    return DF_OK;
}

static df_status add_of_layer(exchange *x, const char *name, size_t l, exchange_role role,
                              const char *axes) {
    DF_TRY(exchange_add(x, name, l, role, axes));
    exchange_last(x)->group = l;
    if (role == ROLE_B_DEC) exchange_last(x)->part = l;
    return DF_OK;
}

static df_status list_clt(exchange *x) {
    bool thresholds = x->activation == DF_JUMPRELU || x->activation == DF_BATCHTOPK;
    for (size_t l = 0; l < x->layers; l++) {
        DF_TRY(add_of_layer(x, "W_enc_*", l, ROLE_ENC, "FI"));
        DF_TRY(add_of_layer(x, "b_enc_*", l, ROLE_B_ENC, "F"));
        DF_TRY(add_of_layer(x, "b_dec_*", l, ROLE_B_DEC, "O"));
        if (thresholds) DF_TRY(add_of_layer(x, "threshold_*", l, ROLE_THETA, "F"));
        DF_TRY(add_of_layer(x, "W_dec_*", l, ROLE_DEC, "FTO"));
    }
    return DF_OK;
}

static const char *clt_file(const exchange *x, size_t i, char room[64]) {
    const exchange_tensor *t = &x->tensor[i];
    snprintf(room, 64, "W_%s_%zu.safetensors", t->role == ROLE_DEC ? "dec" : "enc", t->group);
    return room;
}

static df_status describe_clt(const exchange *x, const df_dict *d, char **text) {
    (void)x;
    return describe_as(d, "cross_layer_transcoder", text);
}

const exchange_family exchange_circuit_tracer_clt = {
    .name = "circuit-tracer-clt",
    .help = "circuit-tracer, cross-layer transcoder: W_enc_N.safetensors, W_dec_N.safetensors, "
            "config.yaml",
    .kinds = 1u << DF_CLT,
    .activations = 1u << DF_RELU | 1u << DF_BATCHTOPK | 1u << DF_JUMPRELU,
    .subtracts = subtracts,
    .latent_thresholds = true,
    .recognise = recognise_clt,
    .open = open_clt,
    .list = list_clt,
    .file_of = clt_file,
    .config = "config.yaml",
    .describe = describe_clt};
