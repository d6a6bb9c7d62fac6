/* config.json: the shape of a model and the rules it computes by. */
#include "arch.h"

#include <math.h>
#include <string.h>

/* Extents above these are damage, not models; below them no product of two overflows. */
enum { MOST_WIDTH = 1 << 24, MOST_HEADS = 1 << 16, MOST_POSITIONS = 1 << 30 };

static bool is_absent(config_source from, const char *key) {
    const json_t *value = json_object_get(from.object, key);
    return value == NULL || json_is_null(value);
}

static df_status extent_of(config_source from, const char *key, int64_t most, size_t *out) {
    int64_t value;
    DF_TRY(df_json_int(from.object, from.file, key, &value));
    if (value < 1 || value > most)
        return df_fail(DF_BAD_INPUT, "%s: %s must lie in 1..%lld, found %lld", from.file, key,
                       (long long)most, (long long)value);
    *out = (size_t)value;
    return DF_OK;
}

static df_status extent_or(config_source from, const char *key, int64_t most, size_t fallback,
                           size_t *out) {
    if (!is_absent(from, key)) return extent_of(from, key, most, out);
    *out = fallback;
    return DF_OK;
}

df_status df_config_extent(config_source from, const char *key, size_t fallback, size_t *out) {
    return extent_or(from, key, MOST_POSITIONS, fallback, out);
}

df_status df_config_positive(config_source from, const char *key, double fallback, double *out) {
    *out = fallback;
    if (is_absent(from, key)) return DF_OK;
    DF_TRY(df_json_real_or(from.object, from.file, key, fallback, out));
    if (isfinite(*out) && *out > 0) return DF_OK;
    return df_fail(DF_BAD_INPUT, "%s: %s must be a positive number, found %g", from.file, key,
                   *out);
}

df_status df_config_flag(config_source from, const char *key, bool fallback, bool *out) {
    *out = fallback;
    if (is_absent(from, key)) return DF_OK;
    return df_json_bool_or(from.object, from.file, key, fallback, out);
}

// A rope rule's parameter has no default: a guess would be a wrong model.
static df_status positive(config_source from, const char *key, double *out) {
    if (is_absent(from, key))
        return df_fail(DF_BAD_INPUT, "%s: the rope scaling lacks %s", from.file, key);
    return df_config_positive(from, key, 0, out);
}

/* ---- shape ---------------------------------------------------------------------------------- */

static const char *key_name(const model_family *family, config_key key) {
    static const char *const usual[KEY_COUNT] = {
        "num_hidden_layers",       "hidden_size", "intermediate_size", "num_attention_heads",
        "max_position_embeddings", "hidden_act",  "rms_norm_eps"};
    return family->keys[key] != NULL ? family->keys[key] : usual[key];
}

static df_status read_heads(config_source from, const char *heads, df_model_shape *shape) {
    DF_TRY(extent_of(from, heads, MOST_HEADS, &shape->heads));
    DF_TRY(extent_or(from, "num_key_value_heads", MOST_HEADS, shape->heads, &shape->kv_heads));
    if (shape->heads % shape->kv_heads != 0)
        return df_fail(DF_BAD_INPUT, "%s: %s %zu is no multiple of num_key_value_heads %zu",
                       from.file, heads, shape->heads, shape->kv_heads);
    DF_TRY(extent_or(from, "head_dim", MOST_HEADS, 0, &shape->head_width));
    if (shape->head_width == 0) {
        if (shape->width % shape->heads != 0)
            return df_fail(DF_BAD_INPUT,
                           "%s: without head_dim, the width %zu must be a multiple of %zu heads",
                           from.file, shape->width, shape->heads);
        shape->head_width = shape->width / shape->heads;
    }
    if ((shape->learned || shape->head_width % 2 == 0) &&
        shape->heads * shape->head_width <= MOST_WIDTH)
        return DF_OK;
    return df_fail(
        DF_BAD_INPUT,
        "%s: head_dim must be even, with at most %d columns in all heads; found %zu x %zu",
        from.file, MOST_WIDTH, shape->heads, shape->head_width);
}

static df_status read_shape(config_source from, const model_family *family, df_model_shape *shape) {
    const char *mlp = key_name(family, KEY_MLP), *positions = key_name(family, KEY_POSITIONS);
    DF_TRY(extent_of(from, key_name(family, KEY_LAYERS), MOST_LAYERS, &shape->layers));
    DF_TRY(extent_of(from, key_name(family, KEY_WIDTH), MOST_WIDTH, &shape->width));
    if (family->wide_mlp && is_absent(from, mlp))
        shape->mlp_width = 4 * shape->width;
    else
        DF_TRY(extent_of(from, mlp, MOST_WIDTH, &shape->mlp_width));
    DF_TRY(extent_of(from, "vocab_size", MOST_WIDTH, &shape->vocabulary));
    if (family->learned)
        DF_TRY(extent_of(from, positions, MOST_WIDTH, &shape->positions));
    else
        DF_TRY(extent_or(from, positions, MOST_POSITIONS, 0, &shape->positions));
    shape->gated = family->gated;
    shape->learned = family->learned;
    return read_heads(from, key_name(family, KEY_HEADS), shape);
}

df_status df_config_layer_types(config_source from, model_config *config, bool *found) {
    const json_t *types = json_object_get(from.object, "layer_types"), *type;
    *found = types != NULL && !json_is_null(types);
    if (!*found) return DF_OK;
    size_t l, known = 0;
    json_array_foreach(types, l, type) {
        const char *name = json_string_value(type);
        if (name == NULL || l >= config->shape.layers) break;
        config->local[l] = strcmp(name, "sliding_attention") == 0;
        known += config->local[l] || strcmp(name, "full_attention") == 0;
    }
    if (known == config->shape.layers && json_array_size(types) == known) return DF_OK;
    return df_fail(DF_BAD_INPUT,
                   "%s: layer_types must name \"full_attention\" or \"sliding_attention\" for "
                   "each of %zu layers",
                   from.file, config->shape.layers);
}

/* ---- rotary positions ----------------------------------------------------------------------- */

static df_status read_llama3(config_source from, rope_plan *rope) {
    rope->rule = ROPE_LLAMA3;
    DF_TRY(positive(from, "factor", &rope->factor));
    DF_TRY(positive(from, "low_freq_factor", &rope->low));
    DF_TRY(positive(from, "high_freq_factor", &rope->high));
    DF_TRY(positive(from, "original_max_position_embeddings", &rope->original));
    if (rope->high > rope->low) return DF_OK;
    return df_fail(DF_BAD_INPUT,
                   "%s: rope scaling needs high_freq_factor above low_freq_factor, found %g and %g",
                   from.file, rope->high, rope->low);
}

// Peng et al. 2023: frequencies between two numbers of turns are blended, and attention is
// sharpened through the magnitude of queries and keys.
static df_status read_yarn(config_source from, double positions, rope_plan *rope) {
    rope->rule = ROPE_YARN;
    DF_TRY(positive(from, "factor", &rope->factor));
    DF_TRY(df_config_positive(from, "beta_fast", 32.0, &rope->high));
    DF_TRY(df_config_positive(from, "beta_slow", 1.0, &rope->low));
    DF_TRY(
        df_config_positive(from, "original_max_position_embeddings", positions, &rope->original));
    if (!is_absent(from, "mscale") || !is_absent(from, "mscale_all_dim") ||
        !is_absent(from, "truncate"))
        return df_fail(DF_BAD_INPUT, "%s: yarn's mscale and truncate are not supported", from.file);
    double usual = rope->factor > 1.0 ? 0.1 * log(rope->factor) + 1.0 : 1.0;
    return df_config_positive(from, "attention_factor", usual, &rope->magnitude);
}

static df_status read_rope_rule(config_source from, const char *rule, double positions,
                                rope_plan *rope) {
    if (strcmp(rule, "default") == 0) return DF_OK;
    if (strcmp(rule, "llama3") == 0) return read_llama3(from, rope);
    if (strcmp(rule, "yarn") == 0) return read_yarn(from, positions, rope);
    rope->rule = strcmp(rule, "dynamic") == 0 ? ROPE_DYNAMIC : ROPE_LINEAR;
    rope->original = positions;
    if (rope->rule == ROPE_DYNAMIC || strcmp(rule, "linear") == 0)
        return positive(from, "factor", &rope->factor);
    return df_fail(DF_BAD_INPUT,
                   "%s: rope scaling \"%s\" is not supported (default, linear, dynamic, llama3 and "
                   "yarn are)",
                   from.file, rule);
}

static df_status read_rope_object(config_source inside, double positions, rope_plan *rope) {
    const char *rule;
    DF_TRY(df_config_positive(inside, "rope_theta", rope->base, &rope->base));
    DF_TRY(df_json_text_or(inside.object, inside.file, "type", "default", &rule));
    DF_TRY(df_json_text_or(inside.object, inside.file, "rope_type", rule, &rule));
    return read_rope_rule(inside, rule, positions, rope);
}

// Older files: rope_theta and rope_scaling; newer ones: both inside rope_parameters, for each type
// of layer where they differ.
static df_status read_rope(config_source from, model_config *config) {
    double positions = (double)config->shape.positions;
    rope_plan *rope = &config->rope;
    *rope = (rope_plan){.base = config->family->rope_base > 0.0 ? config->family->rope_base : 1e4,
                        .magnitude = 1.0};
    DF_TRY(df_config_positive(from, "rope_theta", rope->base, &rope->base));
    config->local_rope = *rope;
    const char *key = is_absent(from, "rope_parameters") ? "rope_scaling" : "rope_parameters";
    if (is_absent(from, key)) return DF_OK;
    const json_t *scaling = json_object_get(from.object, key);
    if (!json_is_object(scaling))
        return df_fail(DF_BAD_INPUT, "%s: %s must be an object or null", from.file, key);
    const json_t *full = json_object_get(scaling, "full_attention");
    const json_t *local = json_object_get(scaling, "sliding_attention");
    config_source inside = {full != NULL ? full : scaling, from.file};
    DF_TRY(read_rope_object(inside, positions, rope));
    config->local_rope = *rope;
    if (local == NULL) return DF_OK;
    config->local_rope = (rope_plan){.base = 1e4, .magnitude = 1.0};
    return read_rope_object((config_source){local, from.file}, positions, &config->local_rope);
}

// The pair at which a wave turns `turns` times within the original context.
static double pair_of_turns(const rope_plan *rope, size_t rotary, double turns) {
    const double pi = 3.14159265358979323846;
    return (double)rotary * log(rope->original / (turns * 2.0 * pi)) / (2.0 * log(rope->base));
}

static double yarn_frequency(const rope_plan *rope, size_t rotary, size_t pair, double frequency) {
    double low = fmax(floor(pair_of_turns(rope, rotary, rope->high)), 0.0);
    double high = fmin(ceil(pair_of_turns(rope, rotary, rope->low)), (double)rotary - 1.0);
    if (!(high > low)) high = low + 0.001;
    double ramp = fmin(fmax(((double)pair - low) / (high - low), 0.0), 1.0);
    return frequency * (1.0 - ramp) + frequency / rope->factor * ramp;
}

static double llama3_frequency(const rope_plan *rope, double frequency) {
    const double pi = 3.14159265358979323846;
    double turns = rope->original * frequency / (2.0 * pi); // within the original context
    if (turns >= rope->high) return frequency;
    double s = turns <= rope->low ? 0.0 : (turns - rope->low) / (rope->high - rope->low);
    return frequency * ((1.0 - s) / rope->factor + s);
}

void df_rope_frequencies(const rope_plan *rope, size_t rotary, size_t n, double *out) {
    double base = rope->base, width = (double)rotary;
    if (rope->rule == ROPE_DYNAMIC && (double)n > rope->original)
        base *= pow(rope->factor * (double)n / rope->original - (rope->factor - 1.0),
                    width / (width - 2.0));
    for (size_t i = 0; i < rotary / 2; i++) {
        double frequency = pow(base, -2.0 * (double)i / width);
        if (rope->rule == ROPE_LINEAR) frequency /= rope->factor;
        if (rope->rule == ROPE_LLAMA3) frequency = llama3_frequency(rope, frequency);
        if (rope->rule == ROPE_YARN) frequency = yarn_frequency(rope, rotary, i, frequency);
        out[i] = frequency;
    }
}

/* ---- what we would compute wrongly ---------------------------------------------------------- */

static df_status read_activation(config_source from, model_config *config) {
    static const struct {
        const char *name;
        df_activation_kind kind;
    } known[] = {{"silu", DF_ACT_SILU},          {"swish", DF_ACT_SILU},
                 {"relu", DF_ACT_RELU},          {"gelu", DF_ACT_GELU},
                 {"gelu_new", DF_ACT_GELU_TANH}, {"gelu_pytorch_tanh", DF_ACT_GELU_TANH}};
    const char *name, *key = key_name(config->family, KEY_ACTIVATION);
    if (is_absent(from, key))
        name = config->family->activation;
    else
        DF_TRY(df_json_text(from.object, from.file, key, &name));
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(name, known[i].name) == 0) {
            config->activation = known[i].kind;
            return DF_OK;
        }
    return df_fail(DF_BAD_INPUT,
                   "%s: %s is \"%s\"; silu, relu, gelu, gelu_new and gelu_pytorch_tanh are "
                   "supported",
                   from.file, key, name);
}

static df_status refuse_unsupported(config_source from, const model_family *family) {
    if (!is_absent(from, "quantization_config"))
        return df_fail(DF_BAD_INPUT,
                       "%s: quantised checkpoints (quantization_config) are not supported; use the "
                       "F32, F16 or BF16 one",
                       from.file);
    double rotary;
    if (strcmp(family->model_type, "gpt_neox") == 0) return DF_OK;
    DF_TRY(df_json_real_or(from.object, from.file, "partial_rotary_factor", 1.0, &rotary));
    if (rotary < 1.0 || rotary > 1.0)
        return df_fail(DF_BAD_INPUT,
                       "%s: partial_rotary_factor %g is not supported for family %s (1 is)",
                       from.file, rotary, family->model_type);
    return DF_OK;
}

static df_status read_family(config_source from, model_config *config) {
    const char *type;
    DF_TRY(df_json_text(from.object, from.file, "model_type", &type));
    config->family = df_family_find(type);
    if (config->family == NULL) return df_family_unknown(from.file, type);
    config->shape.family = config->family->model_type;
    return DF_OK;
}

static df_status read_numbers(config_source from, model_config *config) {
    const model_family *family = config->family;
    double epsilon;
    DF_TRY(read_shape(from, family, &config->shape));
    if (!family->learned) DF_TRY(read_rope(from, config));
    DF_TRY(read_activation(from, config));
    DF_TRY(refuse_unsupported(from, family));
    DF_TRY(df_config_positive(from, key_name(family, KEY_EPSILON), family->epsilon, &epsilon));
    config->norm_epsilon = (float)epsilon;
    config->embed_scale = 1.0;
    config->attention_scale = 1.0 / sqrt((double)config->shape.head_width);
    config->rotary = family->learned ? 0 : config->shape.head_width;
    DF_TRY(df_config_flag(from, "tie_word_embeddings", family->tied, &config->tied));
    DF_TRY(family->read(from, config));
    config->shape.parallel = config->parallel;
    return df_weights_count(config);
}

static df_status read_all(config_source from, model_config *config) {
    if (!json_is_object(from.object))
        return df_fail(DF_BAD_INPUT, "%s: expected one JSON object", from.file);
    DF_TRY(read_family(from, config));
    if (config->family->inside == NULL) return read_numbers(from, config);
    const json_t *inside = json_object_get(from.object, config->family->inside);
    if (!json_is_object(inside))
        return df_fail(DF_BAD_INPUT, "%s: expected an object %s in a %s model", from.file,
                       config->family->inside, config->family->model_type);
    return read_numbers((config_source){inside, from.file}, config);
}

df_status df_config_parse(const char *text, size_t bytes, const char *file, model_config *out) {
    json_t *root;
    *out = (model_config){0};
    DF_TRY(df_json_parse(text, bytes, file, &root));
    df_status status = read_all((config_source){root, file}, out);
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
