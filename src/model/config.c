/* config.json: the shape of a model and the rules it computes by. */
#include "arch.h"

#include <math.h>
#include <string.h>

/* Extents above these are damage, not models; below them no product of two overflows. */
enum { MOST_LAYERS = 4096, MOST_WIDTH = 1 << 24, MOST_HEADS = 1 << 16, MOST_POSITIONS = 1 << 30 };

typedef struct source {
    const json_t *object;
    const char *file;
} source;

static df_status extent_of(source from, const char *key, int64_t most, size_t *out) {
    int64_t value;
    DF_TRY(df_json_int(from.object, from.file, key, &value));
    if (value < 1 || value > most)
        return df_fail(DF_BAD_INPUT, "%s: %s must lie in 1..%lld, found %lld", from.file, key,
                       (long long)most, (long long)value);
    *out = (size_t)value;
    return DF_OK;
}

static df_status extent_or(source from, const char *key, int64_t most, size_t fallback,
                           size_t *out) {
    const json_t *value = json_object_get(from.object, key);
    if (value != NULL && !json_is_null(value)) return extent_of(from, key, most, out);
    *out = fallback;
    return DF_OK;
}

static df_status positive_or(source from, const char *key, double fallback, double *out) {
    DF_TRY(df_json_real_or(from.object, from.file, key, fallback, out));
    if (isfinite(*out) && *out > 0) return DF_OK;
    return df_fail(DF_BAD_INPUT, "%s: %s must be a positive number, found %g", from.file, key,
                   *out);
}

// A rope rule's parameter has no default: a guess would be a wrong model.
static df_status positive(source from, const char *key, double *out) {
    if (json_object_get(from.object, key) == NULL)
        return df_fail(DF_BAD_INPUT, "%s: the rope scaling lacks %s", from.file, key);
    return positive_or(from, key, 0, out);
}

/* ---- shape ---------------------------------------------------------------------------------- */

static df_status read_heads(source from, df_model_shape *shape) {
    DF_TRY(extent_of(from, "num_attention_heads", MOST_HEADS, &shape->heads));
    DF_TRY(extent_or(from, "num_key_value_heads", MOST_HEADS, shape->heads, &shape->kv_heads));
    if (shape->heads % shape->kv_heads != 0)
        return df_fail(DF_BAD_INPUT,
                       "%s: num_attention_heads %zu is no multiple of num_key_value_heads %zu",
                       from.file, shape->heads, shape->kv_heads);
    DF_TRY(extent_or(from, "head_dim", MOST_HEADS, 0, &shape->head_width));
    if (shape->head_width == 0) {
        if (shape->width % shape->heads != 0)
            return df_fail(DF_BAD_INPUT,
                           "%s: without head_dim, hidden_size %zu must be a multiple of %zu heads",
                           from.file, shape->width, shape->heads);
        shape->head_width = shape->width / shape->heads;
    }
    if (shape->head_width % 2 == 0 && shape->heads * shape->head_width <= MOST_WIDTH) return DF_OK;
    return df_fail(
        DF_BAD_INPUT,
        "%s: head_dim must be even, with at most %d columns in all heads; found %zu x %zu",
        from.file, MOST_WIDTH, shape->heads, shape->head_width);
}

static df_status read_shape(source from, df_model_shape *shape) {
    DF_TRY(extent_of(from, "num_hidden_layers", MOST_LAYERS, &shape->layers));
    DF_TRY(extent_of(from, "hidden_size", MOST_WIDTH, &shape->width));
    DF_TRY(extent_of(from, "intermediate_size", MOST_WIDTH, &shape->mlp_width));
    DF_TRY(extent_of(from, "vocab_size", MOST_WIDTH, &shape->vocabulary));
    DF_TRY(extent_or(from, "max_position_embeddings", MOST_POSITIONS, 0, &shape->positions));
    return read_heads(from, shape);
}

/* ---- rotary positions ----------------------------------------------------------------------- */

static df_status read_rope_rule(source from, const char *rule, model_config *config) {
    if (strcmp(rule, "default") == 0) return DF_OK;
    if (strcmp(rule, "linear") == 0) {
        config->rope = ROPE_LINEAR;
        return positive(from, "factor", &config->rope_factor);
    }
    if (strcmp(rule, "llama3") != 0)
        return df_fail(DF_BAD_INPUT,
                       "%s: rope scaling \"%s\" is not supported (default, linear and llama3 are)",
                       from.file, rule);
    config->rope = ROPE_LLAMA3;
    DF_TRY(positive(from, "factor", &config->rope_factor));
    DF_TRY(positive(from, "low_freq_factor", &config->rope_low));
    DF_TRY(positive(from, "high_freq_factor", &config->rope_high));
    DF_TRY(positive(from, "original_max_position_embeddings", &config->rope_original));
    if (config->rope_high > config->rope_low) return DF_OK;
    return df_fail(DF_BAD_INPUT,
                   "%s: rope scaling needs high_freq_factor above low_freq_factor, found %g and %g",
                   from.file, config->rope_high, config->rope_low);
}

// Older files: rope_theta and rope_scaling; newer ones: both inside rope_parameters.
static df_status read_rope(source from, model_config *config) {
    DF_TRY(positive_or(from, "rope_theta", 10000.0, &config->rope_base));
    const char *key = "rope_parameters";
    const json_t *scaling = json_object_get(from.object, key);
    if (scaling == NULL || json_is_null(scaling))
        scaling = json_object_get(from.object, key = "rope_scaling");
    if (scaling == NULL || json_is_null(scaling)) return DF_OK;
    if (!json_is_object(scaling))
        return df_fail(DF_BAD_INPUT, "%s: %s must be an object or null", from.file, key);
    source inside = {scaling, from.file};
    DF_TRY(positive_or(inside, "rope_theta", config->rope_base, &config->rope_base));
    const char *rule;
    DF_TRY(df_json_text_or(scaling, from.file, "type", "default", &rule));
    DF_TRY(df_json_text_or(scaling, from.file, "rope_type", rule, &rule));
    return read_rope_rule(inside, rule, config);
}

void df_rope_frequencies(const model_config *config, double *out) {
    const double pi = 3.14159265358979323846;
    size_t half = config->shape.head_width / 2;
    for (size_t i = 0; i < half; i++) {
        double frequency = pow(config->rope_base, -(double)i / (double)half);
        double turns =
            config->rope_original * frequency / (2.0 * pi); // turns within the original context
        if (config->rope == ROPE_LINEAR) frequency /= config->rope_factor;
        if (config->rope == ROPE_LLAMA3 && turns < config->rope_high) {
            double s = turns <= config->rope_low
                           ? 0.0
                           : (turns - config->rope_low) / (config->rope_high - config->rope_low);
            frequency *= (1.0 - s) / config->rope_factor + s;
        }
        out[i] = frequency;
    }
}

/* ---- what we would compute wrongly ---------------------------------------------------------- */

static df_status refuse_unsupported(source from, const model_family *family) {
    const char *activation;
    DF_TRY(
        df_json_text_or(from.object, from.file, "hidden_act", family->activations[0], &activation));
    bool known = false;
    for (size_t i = 0; i < family->n_activations; i++)
        known |= strcmp(activation, family->activations[i]) == 0;
    if (!known)
        return df_fail(DF_BAD_INPUT, "%s: hidden_act is \"%s\"; family %s is supported with \"%s\"",
                       from.file, activation, family->model_type, family->activations[0]);
    const json_t *quantised = json_object_get(from.object, "quantization_config");
    if (quantised != NULL && !json_is_null(quantised))
        return df_fail(DF_BAD_INPUT,
                       "%s: quantised checkpoints (quantization_config) are not supported; use the "
                       "F32, F16 or "
                       "BF16 one",
                       from.file);
    double rotary;
    DF_TRY(df_json_real_or(from.object, from.file, "partial_rotary_factor", 1.0, &rotary));
    if (rotary < 1.0 || rotary > 1.0)
        return df_fail(DF_BAD_INPUT,
                       "%s: partial_rotary_factor %g is not supported for family %s (1 is)",
                       from.file, rotary, family->model_type);
    return DF_OK;
}

static df_status read_all(source from, model_config *config) {
    const char *type;
    if (!json_is_object(from.object))
        return df_fail(DF_BAD_INPUT, "%s: expected one JSON object", from.file);
    DF_TRY(df_json_text(from.object, from.file, "model_type", &type));
    config->family = df_family_find(type);
    if (config->family == NULL) return df_family_unknown(from.file, type);
    config->shape.family = config->family->model_type;
    DF_TRY(read_shape(from, &config->shape));
    DF_TRY(read_rope(from, config));
    DF_TRY(refuse_unsupported(from, config->family));
    double epsilon;
    DF_TRY(positive_or(from, "rms_norm_eps", 1e-6, &epsilon));
    config->norm_epsilon = (float)epsilon;
    DF_TRY(df_json_bool_or(from.object, from.file, "tie_word_embeddings", false, &config->tied));
    DF_TRY(
        df_json_bool_or(from.object, from.file, "attention_bias", false, &config->attention_bias));
    DF_TRY(df_json_bool_or(from.object, from.file, "mlp_bias", false, &config->mlp_bias));
    return df_weights_count(config, &config->shape.parameters);
}

df_status df_config_parse(const char *text, size_t bytes, const char *file, model_config *out) {
    json_t *root;
    *out = (model_config){0};
    DF_TRY(df_json_parse(text, bytes, file, &root));
    df_status status = read_all((source){root, file}, out);
    json_decref(root);
    return status;
}

df_status df_config_read(const char *folder, model_config *out, uint64_t *hash) {
    char *path = df_format("%s/config.json", folder), *text = NULL;
    size_t bytes;
    df_status status = path == NULL ? DF_FAILED : df_read_file(path, &text, &bytes);
    if (status == DF_OK) status = df_config_parse(text, bytes, path, out);
    if (status == DF_OK && hash != NULL) *hash = df_hash(text, bytes);
    df_free(text);
    df_free(path);
    return status;
}
