/* SAELens: cfg.json and sae_weights.safetensors, row vectors (x W). Since 6.0 cfg.json names an
 * architecture; before, it is flat and names an activation function. jbloomAus/SAELens,
 * sae_lens/saes. */
#include "exchange.h"

#include <string.h>

#define WEIGHTS "sae_weights.safetensors"

static const char harmless[] =
    "d_in d_sae d_out dtype device metadata model_name model_class_name model_kwargs hook_name "
    "hook_name_out hook_layer hook_layer_out hook_eval hook_point hook_point_layer d_head "
    "dataset_path dataset_trust_remote_code streaming is_dataset_tokenized context_size "
    "use_cached_activations cached_activations_path b_dec_init_method expansion_factor "
    "activation_fn_kwargs normalize_sae_decoder noise_scale from_pretrained_path "
    "decoder_orthogonal_init decoder_heuristic_init decoder_heuristic_init_norm "
    "init_encoder_as_decoder_transpose n_batches_in_buffer training_tokens finetuning_tokens "
    "store_batch_size store_batch_size_prompts train_batch_size train_batch_size_tokens "
    "seqpos_slice act_store_device seed prepend_bos jumprelu_init_threshold jumprelu_bandwidth "
    "autocast autocast_lm compile_llm llm_compilation_mode compile_sae sae_compilation_mode "
    "adam_beta1 adam_beta2 mse_loss_normalization l1_coefficient lp_norm "
    "scale_sparsity_penalty_by_decoder_norm l1_warm_up_steps lr lr_scheduler_name "
    "lr_warm_up_steps lr_end lr_decay_steps n_restart_cycles finetuning_method use_ghost_grads "
    "feature_sampling_window dead_feature_window dead_feature_threshold n_eval_batches "
    "eval_batch_size_prompts log_to_wandb log_activations_store_to_wandb "
    "log_optimizer_state_to_wandb wandb_project wandb_id run_name wandb_entity wandb_log_frequency "
    "eval_every_n_wandb_logs resume n_checkpoints checkpoint_path verbose "
    "model_from_pretrained_kwargs sae_lens_version sae_lens_training_version tokens_per_buffer "
    "neuronpedia_id aux_loss_coefficient topk_threshold_lr l0_coefficient l0_warm_up_steps "
    "jumprelu_sparsity_loss_mode pre_act_loss_coefficient jumprelu_tanh_scale decoder_init_norm "
    "matryoshka_widths k use_sparse_activations";

static const exchange_key keys[] = {
    {"architecture", "standard|topk|jumprelu|gated|transcoder|skip_transcoder|jumprelu_transcoder",
     "no such architecture here"},
    {"activation_fn_str", "relu|topk", "codes are relu or TopK"},
    {"activation_fn", "relu|topk", "codes are relu or TopK"},
    {"apply_b_dec_to_input", "true|false", "true or false"},
    {"rescale_acts_by_decoder_norm", "true|false", "true or false"},
    {"normalize_activations", "none|layer_norm|constant_norm_rescale",
     "rows would be rescaled by a factor that the file does not hold; fold it in SAELens first"},
    {"reshape_activations", "none", "rows would be reshaped"},
    {"finetuning_scaling_factor", "false", "codes would be rescaled"},
    {"hook_head_index", "", "one head of a site is no site here"},
    {"hook_head_index_out", "", "one head of a site is no site here"},
    {"hook_point_head_index", "", "one head of a site is no site here"},
    {"use_error_term", "false", "the error would be added back"},
};

static bool recognise(const char *path) {
    return exchange_has(path, WEIGHTS) && exchange_has(path, "cfg.json");
}

/* ---- reading - */

typedef struct architecture {
    const char *name;
    df_dict_kind kind;
    df_activation activation;
} architecture;
static const architecture architectures[] = {
    {"standard", DF_SAE, DF_RELU},
    {"topk", DF_SAE, DF_TOPK},
    {"jumprelu", DF_SAE, DF_JUMPRELU},
    {"gated", DF_SAE, DF_GATED},
    {"transcoder", DF_TRANSCODER, DF_RELU},
    {"skip_transcoder", DF_SKIP_TRANSCODER, DF_RELU},
    {"jumprelu_transcoder", DF_TRANSCODER, DF_JUMPRELU},
};
enum { ARCHITECTURES = sizeof architectures / sizeof architectures[0] };

// The metadata of 6.0, or the flat config itself.
static const char *about(const json_t *config, const char *key) {
    const char *text = json_string_value(json_object_get(json_object_get(config, "metadata"), key));
    return text != NULL ? text : json_string_value(json_object_get(config, key));
}

static df_status read_k(exchange *x, const json_t *config) {
    const json_t *k = json_object_get(config, "k");
    if (k == NULL) k = json_object_get(json_object_get(config, "activation_fn_kwargs"), "k");
    if (!json_is_number(k) || json_number_value(k) < 1 ||
        json_number_value(k) != (double)(uint32_t)json_number_value(k))
        return df_fail(DF_BAD_INPUT, "%s: cfg.json has no whole number k for TopK", x->folder);
    x->k = (size_t)json_number_value(k);
    return DF_OK;
}

// What its normalize_activations calls ours.
static const char *const token_norms[] = {[DF_TOKEN_NONE] = "none",
                                          [DF_TOKEN_LAYER] = "layer_norm",
                                          [DF_TOKEN_NORM] = "constant_norm_rescale"};

static df_status read_token_norm(exchange *x, const json_t *config) {
    const char *name = json_string_value(json_object_get(config, "normalize_activations"));
    for (int i = DF_TOKEN_LAYER; name != NULL && i <= DF_TOKEN_NORM; i++)
        if (strcmp(token_norms[i], name) == 0) x->token_norm = (df_token_norm)i;
    if (x->token_norm == DF_TOKEN_NONE || x->kind == DF_SAE) return DF_OK;
    return df_fail(DF_BAD_INPUT,
                   "%s: config key \"normalize_activations\" is %s for what writes another site "
                   "than it reads: it would be undone with the numbers of the wrong row",
                   x->folder, name);
}

static df_status read_architecture(exchange *x, const json_t *config) {
    const char *name = json_string_value(json_object_get(config, "architecture"));
    const char *activation = json_string_value(json_object_get(config, "activation_fn_str"));
    if (activation == NULL)
        activation = json_string_value(json_object_get(config, "activation_fn"));
    for (size_t i = 0; name != NULL && i < ARCHITECTURES; i++) {
        if (strcmp(architectures[i].name, name) != 0) continue;
        x->kind = architectures[i].kind;
        x->activation = architectures[i].activation;
    }
    if (activation != NULL && strcmp(activation, "topk") == 0) {
        if (x->activation != DF_RELU && x->activation != DF_TOPK)
            return df_fail(DF_BAD_INPUT, "%s: cfg.json asks for %s and TopK at once", x->folder,
                           name);
        x->activation = DF_TOPK;
    }
    return x->activation == DF_TOPK ? read_k(x, config) : DF_OK;
}

static df_status read_config(exchange *x, const json_t *config) {
    DF_TRY(exchange_check_keys(x, config, keys, sizeof keys / sizeof keys[0], harmless));
    DF_TRY(exchange_size(x, config, "d_in", &x->in));
    DF_TRY(exchange_size(x, config, "d_sae", &x->latents));
    DF_TRY(read_architecture(x, config));
    DF_TRY(read_token_norm(x, config));
    const json_t *bias = json_object_get(config, "apply_b_dec_to_input");
    x->subtract_bias = x->kind == DF_SAE && !json_is_false(bias);
    if (json_is_true(json_object_get(config, "rescale_acts_by_decoder_norm")))
        x->code_norm = DF_NORM_ROOT;
    const char *names[] = {about(config, "hook_name"), about(config, "hook_name_out")};
    if (names[0] == NULL) names[0] = about(config, "hook_point");
    for (size_t s = 0; s < (x->kind == DF_SAE ? 1u : 2u); s++, x->sites++)
        if (names[s] != NULL) DF_TRY(exchange_name(&x->site[s], names[s]));
    const char *model = about(config, "model_name");
    return model != NULL ? exchange_name(&x->model, model) : DF_OK;
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
    const char *out = x->kind == DF_SAE ? "I" : "O", *dec = x->kind == DF_SAE ? "FI" : "FO";
    bool thresholds = x->activation == DF_JUMPRELU || x->activation == DF_BATCHTOPK;
    DF_TRY(exchange_add(x, "W_enc", 0, ROLE_ENC, "IF"));
    DF_TRY(exchange_add(x, "W_dec", 0, ROLE_DEC, dec));
    if (x->activation == DF_GATED) {
        DF_TRY(exchange_add(x, "b_gate", 0, ROLE_B_ENC, "F"));
        DF_TRY(exchange_add(x, "b_mag", 0, ROLE_B_MAG, "F"));
        DF_TRY(exchange_add(x, "r_mag", 0, ROLE_R_MAG, "F"));
    } else
        DF_TRY(exchange_add(x, "b_enc", 0, ROLE_B_ENC, "F"));
    DF_TRY(exchange_add(x, "b_dec", 0, ROLE_B_DEC, out));
    if (thresholds) DF_TRY(exchange_add(x, "threshold", 0, ROLE_THETA, "F"));
    return x->kind == DF_SKIP_TRANSCODER ? exchange_add(x, "W_skip", 0, ROLE_SKIP, "OI") : DF_OK;
}

/* ---- writing - */

static const char *file_of(const exchange *x, size_t i, char room[64]) {
    (void)x, (void)i, (void)room;
    return WEIGHTS;
}

static df_status describe(const exchange *x, const df_dict *d, char **text) {
    df_activation activation = d->activation == DF_BATCHTOPK ? DF_JUMPRELU : d->activation;
    const architecture *a = NULL;
    for (size_t i = 0; i < ARCHITECTURES; i++)
        if (architectures[i].kind == d->kind && architectures[i].activation == activation)
            a = &architectures[i];
    if (a == NULL)
        return df_fail(DF_USAGE, "SAELens has no architecture for a %s of this activation",
                       df_dict_kind_name(d->kind));
    json_t *meta = json_pack("{s:s, s:s, s:o, s:b}", "model_name", d->site[0].model, "hook_name",
                             d->site[0].name, "hook_head_index", json_null(), "prepend_bos", 1);
    json_t *root = json_pack(
        "{s:s, s:I, s:I, s:s, s:s, s:b, s:s, s:s, s:o}", "architecture", a->name, "d_in",
        (json_int_t)x->in, "d_sae", (json_int_t)x->latents, "dtype", "float32", "device", "cpu",
        "apply_b_dec_to_input", (int)x->subtract_bias, "normalize_activations",
        token_norms[d->site[0].token_norm], "reshape_activations", "none", "metadata", meta);
    if (activation == DF_TOPK) {
        json_object_set_new(root, "k", json_integer((json_int_t)d->k));
        json_object_set_new(root, "rescale_acts_by_decoder_norm",
                            json_boolean(d->code_norm != DF_NORM_NONE));
    }
    if (d->kind != DF_SAE) {
        json_object_set_new(root, "d_out", json_integer((json_int_t)x->out));
        json_object_set_new(root, "hook_name_out", json_string(d->site[1].name));
    }
    *text = exchange_dump(root);
    return *text != NULL ? DF_OK : DF_FAILED;
}

const exchange_family exchange_saelens = {
    .name = "saelens",
    .help = "SAELens: cfg.json, sae_weights.safetensors",
    .kinds = 1u << DF_SAE | 1u << DF_TRANSCODER | 1u << DF_SKIP_TRANSCODER,
    .activations =
        1u << DF_RELU | 1u << DF_TOPK | 1u << DF_BATCHTOPK | 1u << DF_JUMPRELU | 1u << DF_GATED,
    .token_norms = 1u << DF_TOKEN_LAYER | 1u << DF_TOKEN_NORM,
    .latent_thresholds = true,
    .ranks_by_norm = true,
    .recognise = recognise,
    .open = open_it,
    .list = list,
    .file_of = file_of,
    .config = "cfg.json",
    .describe = describe};
