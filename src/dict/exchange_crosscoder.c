/* crosscoder_learning (science-of-finetuning): config.json and model.safetensors, as its hub mixin
 * writes them. The activations of all sites are stacked: [rows, sites, columns]. Newer files hold a
 * normaliser: x -> (x - activation_mean) activation_global_scale. */
#include "exchange.h"

#include <math.h>
#include <string.h>

#define WEIGHTS "model.safetensors"

static const char harmless[] =
    "activation_dim dict_size num_layers num_encoder_layers num_decoder_layers dict_class k "
    "same_init_for_all_layers norm_init_scale init_with_transpose target_rms activation_mean "
    "activation_std code_normalization_alpha_sae code_normalization_alpha_cc";
static const exchange_key keys[] = {
    {"code_normalization",
     "CROSSCODER|SAE|NONE|MIXED|DECOUPLED|crosscoder|sae|none|mixed|decoupled",
     "codes would be weighed in another way"},
    {"decoder_type", "linear", "the decoder would be stored in another way"},
    {"encoder_layers", "", "only some of the sites would be read"},
    {"encoder_layers_indices", "", "only some of the sites would be read"},
    {"num_decoder_output_layers", "", "other sites would be written than read"},
    {"latent_processor", "", "codes would be changed"},
    {"keep_relative_variance", "true", "every column would have a scale of its own"},
};

static bool recognise(const char *path) {
    return exchange_has(path, WEIGHTS) && exchange_has(path, "config.json");
}

static df_code_norm norm_named(const char *name) {
    if (strcmp(name, "SAE") == 0 || strcmp(name, "sae") == 0) return DF_NORM_ROOT;
    if (strcmp(name, "MIXED") == 0 || strcmp(name, "mixed") == 0) return DF_NORM_MIXED;
    if (strcmp(name, "DECOUPLED") == 0 || strcmp(name, "decoupled") == 0) return DF_NORM_DECOUPLED;
    if (strcmp(name, "NONE") == 0 || strcmp(name, "none") == 0) return DF_NORM_NONE;
    return DF_NORM_SUM;
}

static df_status read_config(exchange *x, const json_t *config) {
    const char *name;
    int64_t k;
    DF_TRY(exchange_check_keys(x, config, keys, sizeof keys / sizeof keys[0], harmless));
    DF_TRY(exchange_size(x, config, "activation_dim", &x->in));
    DF_TRY(exchange_size(x, config, "dict_size", &x->latents));
    DF_TRY(df_json_text_or(config, "config.json", "code_normalization", "CROSSCODER", &name));
    DF_TRY(df_json_int_or(config, "config.json", "k", 0, &k));
    x->kind = DF_CROSSCODER;
    x->code_norm = norm_named(name);
    double whole, sum;
    DF_TRY(df_json_real_or(config, "config.json", "code_normalization_alpha_sae", 1.0, &whole));
    DF_TRY(
        df_json_real_or(config, "config.json", "code_normalization_alpha_cc", DF_MIXED_SUM, &sum));
    if (x->code_norm == DF_NORM_MIXED && (whole != 1.0 || sum != DF_MIXED_SUM))
        return df_fail(DF_BAD_INPUT,
                       "%s: config.json: code_normalization MIXED of %g and %g: darkfield has it "
                       "with the published 1 and %g alone",
                       x->folder, whole, sum, DF_MIXED_SUM);
    x->k = k > 0 ? (size_t)k : 0;
    return DF_OK;
}

static df_status open_it(exchange *x) {
    json_t *config;
    DF_TRY(exchange_config(x, "config.json", &config));
    df_status status = read_config(x, config);
    json_decref(config);
    DF_TRY(status);
    DF_TRY(exchange_open_file(x, WEIGHTS));
    x->activation = exchange_find(x, "threshold") != NULL ? DF_BATCHTOPK : DF_RELU;
    return DF_OK;
}

static bool all_nan(const df_tensor *t) {
    float value;
    for (uint64_t i = 0; i < t->elements; i++) {
        df_to_f32(t->type, (const char *)t->data + i * df_type_bytes(t->type), &value, 1);
        if (!isnan(value)) return false;
    }
    return true;
}

static bool is_real(const df_tensor *t) {
    return t->type == DF_F32 || t->type == DF_F64 || t->type == DF_BF16 || t->type == DF_F16;
}

// Does the file (or what is written) normalise?
static bool normalises(const exchange *x) {
    if (x->dict != NULL) {
        for (size_t s = 0; s < x->dict->sites; s++)
            if (x->dict->site[s].scale != 1.0) return true;
        return false;
    }
    const df_tensor *mean = exchange_find(x, "activation_mean");
    return mean != NULL && !(is_real(mean) && all_nan(mean));
}

static df_status carry(exchange *x, const char *name) {
    DF_TRY(exchange_add(x, name, 0, ROLE_CARRIED, ""));
    exchange_last(x)->optional = true;
    return DF_OK;
}

static df_status list_normaliser(exchange *x) {
    bool real = normalises(x), writing = x->dict != NULL;
    if (!real) {
        DF_TRY(carry(x, "activation_mean"));
        DF_TRY(carry(x, "activation_std"));
        DF_TRY(carry(x, "activation_global_scale"));
    } else {
        DF_TRY(exchange_add(x, "activation_global_scale", 0, ROLE_SCALE, "S"));
        DF_TRY(exchange_add(x, "activation_mean", 0, ROLE_MEAN, "SI"));
        DF_TRY(exchange_add(x, "activation_std", 0, writing ? ROLE_STD : ROLE_CARRIED, "SI"));
    }
    DF_TRY(carry(x, "target_rms"));
    return carry(x, "code_normalization_id");
}

static df_status list(exchange *x) {
    DF_TRY(exchange_add(x, "encoder.weight", 0, ROLE_ENC, "SIF"));
    DF_TRY(exchange_add(x, "encoder.bias", 0, ROLE_B_ENC, "F"));
    DF_TRY(exchange_add(x, "decoder.weight", 0, ROLE_DEC, "SFI"));
    DF_TRY(exchange_add(x, "decoder.bias", 0, ROLE_B_DEC, "SI"));
    if (x->activation == DF_BATCHTOPK) {
        DF_TRY(exchange_add(x, "k", 0, ROLE_K, ""));
        exchange_last(x)->type = DF_I32;
        bool each = (x->dict != NULL ? x->dict->code_norm : x->code_norm) == DF_NORM_DECOUPLED;
        DF_TRY(exchange_add(x, "threshold", 0, ROLE_CUT, each ? "S" : ""));
    }
    return list_normaliser(x);
}

/* ---- writing - */

static bool subtracts(const exchange *x, const df_dict *d) {
    (void)x, (void)d;
    return false;
}

static const char *file_of(const exchange *x, size_t i, char room[64]) {
    (void)x, (void)i, (void)room;
    return WEIGHTS;
}

static df_status describe(const exchange *x, const df_dict *d, char **text) {
    static const char *const norms[] = {[DF_NORM_NONE] = "NONE",
                                        [DF_NORM_SUM] = "CROSSCODER",
                                        [DF_NORM_ROOT] = "SAE",
                                        [DF_NORM_MIXED] = "MIXED",
                                        [DF_NORM_DECOUPLED] = "DECOUPLED"};
    for (size_t s = 1; s < d->sites; s++)
        if (d->site[s].width != d->site[0].width)
            return df_fail(DF_USAGE,
                           "crosscoder_learning stacks the sites; these have %llu and "
                           "%llu columns",
                           (unsigned long long)d->site[0].width,
                           (unsigned long long)d->site[s].width);
    bool batch = d->activation == DF_BATCHTOPK;
    json_t *root = json_pack("{s:s, s:I, s:I, s:I, s:s}", "dict_class",
                             batch ? "BatchTopKCrossCoder" : "CrossCoder", "activation_dim",
                             (json_int_t)x->in, "dict_size", (json_int_t)x->latents, "num_layers",
                             (json_int_t)x->layers, "code_normalization", norms[d->code_norm]);
    if (batch) json_object_set_new(root, "k", json_integer((json_int_t)d->k));
    *text = exchange_dump(root);
    return *text != NULL ? DF_OK : DF_FAILED;
}

const exchange_family exchange_crosscoder_learning = {
    .name = "crosscoder_learning",
    .help = "crosscoder_learning: config.json, model.safetensors",
    .kinds = 1u << DF_CROSSCODER,
    .activations = 1u << DF_RELU | 1u << DF_BATCHTOPK,
    .subtracts = subtracts,
    .keeps_scale = true,
    .ranks_by_norm = true,
    .recognise = recognise,
    .open = open_it,
    .list = list,
    .file_of = file_of,
    .config = "config.json",
    .describe = describe};
