/* Each family's own part of config.json: biases, windows, scales, soft-caps. Defaults are those of
 * the configuration classes of Hugging Face transformers. */
#include "arch_read.h"

#include <math.h>
#include <string.h>

/* ---- windows -------------------------------------------------------------------------------- */

static bool is_null(config_source from, const char *key) {
    const json_t *value = json_object_get(from.object, key);
    return value == NULL || json_is_null(value);
}

// The window of every layer for which layer % period != full; layer_types decides where it is
// given.
static df_status read_windows(config_source from, size_t fallback, size_t period, size_t full,
                              model_config *config) {
    bool found;
    if (fallback == 0 && is_null(from, "sliding_window")) return DF_OK;
    DF_TRY(df_config_extent(from, "sliding_window", fallback, &config->window));
    DF_TRY(df_config_layer_types(from, config, &found));
    for (size_t l = 0; l < config->shape.layers && !found; l++)
        config->local[l] = l % period != full;
    return DF_OK;
}

/* ---- Llama and those that kept its names ---------------------------------------------------- */

df_status read_llama(config_source from, model_config *config) {
    DF_TRY(df_config_flag(from, "attention_bias", false, &config->attention_bias));
    config->output_bias = config->attention_bias;
    return df_config_flag(from, "mlp_bias", false, &config->mlp_bias);
}

df_status read_mistral(config_source from, model_config *config) {
    return read_windows(from, 0, 1, 1, config); // all layers
}

// Windows are off unless asked for, and begin at layer max_window_layers.
static df_status read_qwen_windows(config_source from, model_config *config) {
    bool use, found = false;
    size_t first = 0;
    DF_TRY(df_config_flag(from, "use_sliding_window", false, &use));
    if (!use) return DF_OK;
    DF_TRY(df_config_extent(from, "sliding_window", 4096, &config->window));
    DF_TRY(df_config_layer_types(from, config, &found));
    if (!found) DF_TRY(df_config_extent(from, "max_window_layers", 28, &first));
    for (size_t l = first; l < config->shape.layers && !found; l++) config->local[l] = 1;
    return DF_OK;
}

df_status read_qwen2(config_source from, model_config *config) {
    config->attention_bias = true;
    return read_qwen_windows(from, config);
}

df_status read_qwen3(config_source from, model_config *config) {
    config->qk_norm = true;
    DF_TRY(df_config_flag(from, "attention_bias", false, &config->attention_bias));
    config->output_bias = config->attention_bias;
    return read_qwen_windows(from, config);
}

/* ---- Gemma ---------------------------------------------------------------------------------- */

df_status read_gemma(config_source from, model_config *config) {
    DF_TRY(df_config_flag(from, "attention_bias", false, &config->attention_bias));
    config->output_bias = config->attention_bias;
    config->embed_scale = sqrt((double)config->shape.width);
    return DF_OK;
}

static df_status read_query_scale(config_source from, model_config *config) {
    double scalar;
    DF_TRY(df_config_positive(from, "query_pre_attn_scalar", 256.0, &scalar));
    config->attention_scale = 1.0 / sqrt(scalar);
    return DF_OK;
}

// Absent: the default; null: none.
static df_status read_cap(config_source from, const char *key, double fallback, double *out) {
    *out = 0.0;
    if (json_object_get(from.object, key) != NULL && is_null(from, key)) return DF_OK;
    if (fallback <= 0.0 && is_null(from, key)) return DF_OK;
    return df_config_positive(from, key, fallback, out);
}

df_status read_gemma2(config_source from, model_config *config) {
    DF_TRY(read_gemma(from, config));
    DF_TRY(read_query_scale(from, config));
    DF_TRY(read_cap(from, "attn_logit_softcapping", 50.0, &config->attention_cap));
    DF_TRY(read_cap(from, "final_logit_softcapping", 30.0, &config->logit_cap));
    return read_windows(from, 4096, 2, 1, config); // even layers
}

df_status read_gemma3(config_source from, model_config *config) {
    size_t period;
    DF_TRY(read_gemma(from, config));
    config->qk_norm = true;
    DF_TRY(read_query_scale(from, config));
    DF_TRY(read_cap(from, "attn_logit_softcapping", 0.0, &config->attention_cap));
    DF_TRY(read_cap(from, "final_logit_softcapping", 0.0, &config->logit_cap));
    DF_TRY(df_config_extent(from, "sliding_window_pattern", 6, &period));
    // Older files: layers with a window have a base of their own, and no scaling.
    if (is_null(from, "rope_parameters")) {
        config->local_rope = (rope_plan){.magnitude = 1.0};
        DF_TRY(df_config_positive(from, "rope_local_base_freq", 1e4, &config->local_rope.base));
    }
    return read_windows(from, 4096, period, period - 1, config);
}

/* ---- GPT-2, GPT-Neo, GPT-NeoX, OPT ---------------------------------------------------------- */

static df_status refuse_flag(config_source from, const char *key, bool expected) {
    bool value;
    DF_TRY(df_config_flag(from, key, expected, &value));
    if (value == expected) return DF_OK;
    return df_fail(DF_BAD_INPUT, "%s: %s %s is not supported", from.file, key,
                   value ? "true" : "false");
}

df_status read_gpt2(config_source from, model_config *config) {
    bool scaled;
    DF_TRY(df_config_flag(from, "scale_attn_weights", true, &scaled));
    if (!scaled) config->attention_scale = 1.0;
    DF_TRY(df_config_flag(from, "scale_attn_by_inverse_layer_idx", false, &config->scale_by_layer));
    return refuse_flag(from, "add_cross_attention", false);
}

// attention_types: [[["global", "local"], times], ...]; every run of kinds is repeated.
static df_status expand_attention_types(config_source from, model_config *config) {
    const json_t *runs = json_object_get(from.object, "attention_types"), *run;
    size_t i, layer = 0;
    json_array_foreach(runs, i, run) {
        const json_t *kinds = json_array_get(run, 0), *times = json_array_get(run, 1);
        size_t n = json_array_size(kinds), repeats = (size_t)json_integer_value(times);
        for (size_t j = 0; n > 0 && j < n * repeats && layer < config->shape.layers; j++) {
            const char *kind = json_string_value(json_array_get(kinds, j % n));
            bool local = kind != NULL && strcmp(kind, "local") == 0;
            if (!local && (kind == NULL || strcmp(kind, "global") != 0))
                n = 0;
            else
                config->local[layer++] = local;
        }
    }
    if (layer == config->shape.layers) return DF_OK;
    return df_fail(DF_BAD_INPUT,
                   "%s: attention_types must list \"global\" or \"local\" for %zu layers, as "
                   "[[[kind, ...], times], ...]",
                   from.file, config->shape.layers);
}

df_status read_gpt_neo(config_source from, model_config *config) {
    config->attention_scale = 1.0;
    config->output_bias = config->mlp_bias = true;
    DF_TRY(df_config_extent(from, "window_size", 256, &config->window));
    if (!is_null(from, "attention_types")) return expand_attention_types(from, config);
    for (size_t l = 0; l < config->shape.layers; l++) config->local[l] = l % 2;
    return DF_OK;
}

df_status read_gpt_neox(config_source from, model_config *config) {
    double share;
    DF_TRY(refuse_flag(from, "attention_bias", true));
    DF_TRY(df_config_flag(from, "use_parallel_residual", true, &config->parallel));
    DF_TRY(df_config_positive(from, "partial_rotary_factor", 0.25, &share));
    DF_TRY(df_config_positive(from, "rotary_pct", share, &share));
    DF_TRY(df_config_positive(from, "rotary_emb_base", config->rope.base, &config->rope.base));
    if (share <= 1.0) config->rotary = (size_t)((double)config->shape.head_width * share);
    if (share <= 1.0 && config->rotary >= 2 && config->rotary % 2 == 0) return DF_OK;
    return df_fail(DF_BAD_INPUT, "%s: rotary_pct %g of %zu columns is no even number of them",
                   from.file, share, config->shape.head_width);
}

df_status read_opt(config_source from, model_config *config) {
    size_t projected;
    DF_TRY(df_config_extent(from, "word_embed_proj_dim", config->shape.width, &projected));
    if (projected != config->shape.width)
        return df_fail(DF_BAD_INPUT,
                       "%s: word_embed_proj_dim %zu differs from hidden_size %zu: projected "
                       "embeddings are not supported",
                       from.file, projected, config->shape.width);
    DF_TRY(refuse_flag(from, "do_layer_norm_before", true));
    DF_TRY(refuse_flag(from, "_remove_final_layer_norm", false));
    DF_TRY(refuse_flag(from, "layer_norm_elementwise_affine", true));
    return refuse_flag(from, "enable_bias", true);
}
