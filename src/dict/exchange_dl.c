/* dictionary_learning (saprmarks and forks): the tensors of ae.pt as ae.safetensors, beside its
 * config.json. nn.Linear layouts, but for the classes that hold plain matrices. Biases there are
 * for raw activations. */
#include "exchange.h"

#include <string.h>

#define WEIGHTS "ae.safetensors"

typedef struct class_row {
    const char *name;
    df_activation activation;
    bool subtract, plain; // plain: W_enc [D, F] and W_dec [F, D]
    const char *dec, *b_enc, *b_dec;
} class_row;
static const class_row classes[] = {
    {"AutoEncoder", DF_RELU, true, false, "decoder.weight", "encoder.bias", "bias"},
    {"AutoEncoderNew", DF_RELU, false, false, "decoder.weight", "encoder.bias", "decoder.bias"},
    {"AutoEncoderTopK", DF_TOPK, true, false, "decoder.weight", "encoder.bias", "b_dec"},
    {"BatchTopKSAE", DF_BATCHTOPK, true, false, "decoder.weight", "encoder.bias", "b_dec"},
    {"GatedAutoEncoder", DF_GATED, true, false, "decoder.weight", "gate_bias", "decoder_bias"},
    {"JumpReluAutoEncoder", DF_JUMPRELU, false, true, "W_dec", "b_enc", "b_dec"},
    {"MatryoshkaBatchTopKSAE", DF_BATCHTOPK, true, true, "W_dec", "b_enc", "b_dec"},
};
enum { CLASSES = sizeof classes / sizeof classes[0] };

static const char harmless_trainer[] =
    "trainer_class activation_dim dict_size lr layer lm_name submodule_name seed steps "
    "warmup_steps "
    "decay_start device wandb_name l1_penalty l1_warmup_steps sparsity_warmup_steps "
    "sparsity_penalty "
    "resample_steps auxk_alpha threshold_beta threshold_start_step k_anneal_steps group_fractions "
    "group_weights group_sizes top_k_aux target_l0 bandwidth sparsity_coeff p_start p_end "
    "anneal_start anneal_end lp_alpha sparsity_function sparsity_queue_length n_sparsity_updates "
    "dead_feature_threshold penalty k";
static const exchange_key trainer_keys[] = {
    {"dict_class",
     "AutoEncoder|AutoEncoderNew|AutoEncoderTopK|BatchTopKSAE|GatedAutoEncoder|JumpReluAutoEncoder|"
     "MatryoshkaBatchTopKSAE",
     "no such class here"},
};
static const exchange_key root_keys[] = {{"trainer", "*", ""}};

static bool recognise(const char *path) {
    return exchange_has(path, WEIGHTS) && exchange_has(path, "config.json");
}

static const class_row *class_of(const exchange *x) {
    for (size_t i = 0; i < CLASSES; i++)
        if (x->variant != NULL && strcmp(classes[i].name, x->variant) == 0) return &classes[i];
    return NULL;
}

static df_status read_config(exchange *x, const json_t *config) {
    const json_t *trainer = json_object_get(config, "trainer");
    const char *name;
    int64_t k;
    DF_TRY(exchange_check_keys(x, config, root_keys, 1, "buffer"));
    DF_TRY(exchange_check_keys(x, trainer, trainer_keys, 1, harmless_trainer));
    DF_TRY(exchange_size(x, trainer, "activation_dim", &x->in));
    DF_TRY(exchange_size(x, trainer, "dict_size", &x->latents));
    DF_TRY(df_json_text(trainer, "config.json", "dict_class", &name));
    DF_TRY(exchange_name(&x->variant, name));
    const class_row *row = class_of(x);
    if (row == NULL) return df_fail(DF_BAD_INPUT, "%s: no class %s here", x->folder, name);
    x->activation = row->activation;
    x->subtract_bias = row->subtract;
    DF_TRY(df_json_int_or(trainer, "config.json", "k", 0, &k));
    x->k = k > 0 ? (size_t)k : 0;
    const char *site = json_string_value(json_object_get(trainer, "submodule_name"));
    const char *model = json_string_value(json_object_get(trainer, "lm_name"));
    if (site != NULL) DF_TRY(exchange_name(&x->site[x->sites++], site));
    return model != NULL ? exchange_name(&x->model, model) : DF_OK;
}

static df_status open_it(exchange *x) {
    json_t *config;
    DF_TRY(exchange_config(x, "config.json", &config));
    df_status status = read_config(x, config);
    json_decref(config);
    DF_TRY(status);
    return exchange_open_file(x, WEIGHTS);
}

static df_status add_carried(exchange *x, const char *name) {
    DF_TRY(exchange_add(x, name, 0, ROLE_CARRIED, ""));
    exchange_last(x)->optional = true;
    return DF_OK;
}

static df_status list(exchange *x) {
    const class_row *c = class_of(x);
    DF_TRY(exchange_add(x, c->plain ? "W_enc" : "encoder.weight", 0, ROLE_ENC,
                        c->plain ? "IF" : "FI"));
    DF_TRY(exchange_add(x, c->dec, 0, ROLE_DEC, c->plain ? "FI" : "IF"));
    DF_TRY(exchange_add(x, c->b_enc, 0, ROLE_B_ENC, "F"));
    DF_TRY(exchange_add(x, c->b_dec, 0, ROLE_B_DEC, "I"));
    if (c->activation == DF_JUMPRELU) return exchange_add(x, "threshold", 0, ROLE_THETA, "F");
    if (c->activation == DF_GATED) {
        DF_TRY(exchange_add(x, "mag_bias", 0, ROLE_B_MAG, "F"));
        return exchange_add(x, "r_mag", 0, ROLE_R_MAG, "F");
    }
    if (c->activation == DF_RELU) return DF_OK;
    DF_TRY(exchange_add(x, "k", 0, ROLE_K, ""));
    exchange_last(x)->type = DF_I32;
    // TopK keeps a threshold as well, but does not use it unless asked.
    if (c->activation == DF_TOPK) return add_carried(x, "threshold");
    DF_TRY(exchange_add(x, "threshold", 0, ROLE_CUT, ""));
    return c->plain ? add_carried(x, "group_sizes") : DF_OK;
}

/* ---- writing - */

static bool subtracts(const exchange *x, const df_dict *d) {
    (void)d;
    const class_row *c = class_of(x);
    return c != NULL && c->subtract;
}

static const char *variant(const df_dict *d) {
    for (size_t i = 0; i < CLASSES; i++)
        if (classes[i].activation == d->activation &&
            (d->activation != DF_RELU || classes[i].subtract == d->subtract_bias))
            return classes[i].name;
    return "";
}

static const char *file_of(const exchange *x, size_t i, char room[64]) {
    (void)x, (void)i, (void)room;
    return WEIGHTS;
}

static df_status describe(const exchange *x, const df_dict *d, char **text) {
    json_t *trainer =
        json_pack("{s:s, s:I, s:I, s:s, s:s}", "dict_class", x->variant, "activation_dim",
                  (json_int_t)x->in, "dict_size", (json_int_t)x->latents, "lm_name",
                  d->site[0].model, "submodule_name", d->site[0].name);
    if (d->activation == DF_TOPK || d->activation == DF_BATCHTOPK)
        json_object_set_new(trainer, "k", json_integer((json_int_t)d->k));
    *text = exchange_dump(json_pack("{s:o}", "trainer", trainer));
    return *text != NULL ? DF_OK : DF_FAILED;
}

const exchange_family exchange_dictionary_learning = {
    .name = "dictionary_learning",
    .help = "dictionary_learning: config.json, ae.safetensors (the tensors of ae.pt)",
    .kinds = 1u << DF_SAE,
    .activations =
        1u << DF_RELU | 1u << DF_TOPK | 1u << DF_BATCHTOPK | 1u << DF_JUMPRELU | 1u << DF_GATED,
    .subtracts = subtracts,
    .variant = variant,
    .recognise = recognise,
    .open = open_it,
    .list = list,
    .file_of = file_of,
    .config = "config.json",
    .describe = describe};
