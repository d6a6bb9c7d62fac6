/* Weights: every tensor that the family's rules name, and no other, widened to fp32 in one block.
 */
#include "arch.h"

#include <string.h>

enum { LONGEST_NAME = 256 };

static size_t extent_value(extent_kind which, const model_config *config) {
    const df_model_shape *shape = &config->shape;
    switch (which) {
    case EXTENT_NONE:
        return 1;
    case EXTENT_WIDTH:
        return shape->width;
    case EXTENT_VOCABULARY:
        return shape->vocabulary;
    case EXTENT_QUERY:
        return shape->heads * shape->head_width;
    case EXTENT_KEY:
        return shape->kv_heads * shape->head_width;
    case EXTENT_HEAD:
        return shape->head_width;
    case EXTENT_MLP:
        return shape->mlp_width;
    case EXTENT_POSITIONS:
        return shape->positions + config->family->position_skip;
    }
    return 0;
}

static bool is_needed(const tensor_rule *rule, const model_config *config) {
    switch (rule->when) {
    case NEED_ALWAYS:
        return true;
    case NEED_ATTENTION_BIAS:
        return config->attention_bias;
    case NEED_OUTPUT_BIAS:
        return config->output_bias;
    case NEED_MLP_BIAS:
        return config->mlp_bias;
    case NEED_QK_NORM:
        return config->qk_norm;
    case NEED_UNTIED:
        return !config->tied;
    }
    return false;
}

static size_t rule_elements(const tensor_rule *rule, const model_config *config) {
    return extent_value(rule->rows, config) * extent_value(rule->columns, config);
}

// The k-th rule of a family, NULL behind the last.
static const tensor_rule *rule_at(const model_family *family, size_t k) {
    for (size_t i = 0; i < sizeof family->lists / sizeof *family->lists; i++) {
        if (k < family->lists[i].n) return &family->lists[i].rules[k];
        k -= family->lists[i].n;
    }
    return NULL;
}

static size_t rule_copies(const tensor_rule *rule, const df_model_shape *shape) {
    return rule->use < ROLE_PER_LAYER ? 1 : shape->layers;
}

static bool is_of_head(role use) {
    return use == ROLE_FINAL_GAIN || use == ROLE_FINAL_GAIN_BIAS || use == ROLE_UNEMBED;
}

df_status df_weights_count(model_config *config) {
    df_model_shape *shape = &config->shape;
    size_t total = 0, block = 0, head = 0, one;
    const tensor_rule *rule;
    for (size_t i = 0; (rule = rule_at(config->family, i)) != NULL; i++) {
        if (!is_needed(rule, config)) continue;
        size_t elements = rule_elements(rule, config);
        DF_TRY(df_mul(elements, rule_copies(rule, shape), &one));
        DF_TRY(df_add(total, one, &total));
        if (is_of_head(rule->use)) head += elements;
        if (rule->use >= ROLE_PER_LAYER) block += elements;
    }
    shape->tied = config->tied;
    shape->parameters = total;
    shape->block_parameters = block;
    shape->head_parameters = head + (config->tied ? shape->vocabulary * shape->width : 0);
    return DF_OK;
}

uint64_t df_model_part_bytes(const df_model_shape *shape, df_model_part part, bool bf16) {
    uint64_t unembed = shape->tied ? shape->vocabulary * shape->width : 0;
    uint64_t outside = shape->parameters - shape->layers * shape->block_parameters,
             embed = outside - (shape->head_parameters - unembed);
    uint64_t numbers = part.count * shape->block_parameters;
    if (df_has_embedding(part)) numbers += embed;
    if (df_has_head(shape, part)) numbers += shape->head_parameters;
    if (df_has_embedding(part) && df_has_head(shape, part)) numbers -= unembed;
    return numbers * sizeof(float) + (bf16 ? df_packed_bytes(shape, part) : 0);
}

/* ---- finding a tensor ----------------------------------------------------------------------- */

// Writes the rule's name for one layer behind a prefix.
static void write_name(const char *prefix, const tensor_rule *rule, size_t layer,
                       char out[LONGEST_NAME]) {
    const char *name = rule->name;
    if (*name == '/') {
        name++;
        prefix = "";
    }
    const char *mark = strstr(name, "{l}");
    if (mark == NULL)
        snprintf(out, LONGEST_NAME, "%s%s", prefix, name);
    else
        snprintf(out, LONGEST_NAME, "%s%.*s%zu%s", prefix, (int)(mark - name), name, layer,
                 mark + 3);
}

static const df_tensor *find_tensor(const df_tensors *tensors, const model_family *family,
                                    const tensor_rule *rule, size_t layer) {
    const size_t prefixes = sizeof family->prefixes / sizeof *family->prefixes;
    char name[LONGEST_NAME];
    const df_tensor *tensor = NULL;
    for (size_t i = 0; i <= prefixes && tensor == NULL; i++) {
        const char *prefix = i < prefixes ? family->prefixes[i] : "";
        if (prefix == NULL) continue;
        write_name(prefix, rule, layer, name);
        tensor = df_tensors_find(tensors, name);
    }
    return tensor;
}

static void write_shape(int dims, const uint64_t *shape, char out[static 96]) {
    size_t used = (size_t)snprintf(out, 96, "[");
    for (int i = 0; i < dims && used < 80; i++)
        used += (size_t)snprintf(out + used, 96 - used, "%s%llu", i > 0 ? ", " : "",
                                 (unsigned long long)shape[i]);
    snprintf(out + used, 96 - used, "]");
}

// What the file must hold for a rule; returns the number of dimensions.
static int stored_shape(const tensor_rule *rule, const model_config *config, uint64_t shape[2]) {
    bool fused = rule->layout == LAYOUT_FUSED || rule->layout == LAYOUT_HEADS;
    uint64_t rows = extent_value(rule->rows, config) * (fused ? 3 : 1);
    uint64_t columns = extent_value(rule->columns, config);
    bool turned = rule->layout == LAYOUT_TRANSPOSED || rule->layout == LAYOUT_FUSED;
    if (rule->columns == EXTENT_NONE) turned = false;
    shape[0] = turned ? columns : rows;
    shape[1] = turned ? rows : columns;
    return rule->columns == EXTENT_NONE ? 1 : 2;
}

static df_status check_tensor(const df_tensor *tensor, const tensor_rule *rule,
                              const model_config *config) {
    uint64_t expected[2];
    int dims = stored_shape(rule, config, expected);
    bool right = tensor->dims == dims && tensor->shape[0] == expected[0] &&
                 (dims == 1 || tensor->shape[1] == expected[1]);
    if (!right) {
        char want[96], have[96];
        write_shape(dims, expected, want);
        write_shape(tensor->dims, tensor->shape, have);
        return df_fail(DF_BAD_INPUT, "tensor %s: config.json says shape %s, found %s", tensor->name,
                       want, have);
    }
    if (tensor->type == DF_F32 || tensor->type == DF_F16 || tensor->type == DF_BF16) return DF_OK;
    return df_fail(DF_BAD_INPUT, "tensor %s: expected F32, F16 or BF16, found %s", tensor->name,
                   df_type_name(tensor->type));
}

/* ---- reading -------------------------------------------------------------------------------- */

typedef struct loading {
    const model_config *config;
    df_model_part part;
    const df_tensors *tensors;
    model_weights *weights;
    size_t used;   // floats of the block
    bool *claimed; // [tensors] named by a rule
} loading;

static void claim(loading *load, const df_tensor *tensor) {
    for (size_t i = 0; i < df_tensors_count(load->tensors); i++)
        if (df_tensors_at(load->tensors, i) == tensor) load->claimed[i] = true;
}

static df_status missing_tensor(const loading *load, const tensor_rule *rule, size_t layer) {
    char name[LONGEST_NAME];
    write_name(load->config->family->prefixes[0], rule, layer, name);
    return df_fail(
        DF_BAD_INPUT,
        "tensor %s is missing (%zu layers, attention_bias %s, mlp_bias %s, tie_word_embeddings %s)",
        name, load->config->shape.layers, load->config->attention_bias ? "true" : "false",
        load->config->mlp_bias ? "true" : "false", load->config->tied ? "true" : "false");
}

// Before memory is asked for: the configuration may describe far more than the files hold.
static df_status check_rule(loading *load, const tensor_rule *rule, size_t layer) {
    const df_tensor *tensor = find_tensor(load->tensors, load->config->family, rule, layer);
    if (tensor == NULL) return missing_tensor(load, rule, layer);
    claim(load, tensor);
    return check_tensor(tensor, rule, load->config);
}

// Row of the file (of its transpose where it is turned) that holds output `row`: q, k and v are
// parts 0, 1 and 2 of a fused tensor.
static size_t stored_row(const tensor_rule *rule, size_t rows, size_t head_width, size_t row) {
    size_t part =
        rule->use < ROLE_Q_BIAS ? (size_t)(rule->use - ROLE_Q) : (size_t)(rule->use - ROLE_Q_BIAS);
    if (rule->layout == LAYOUT_FUSED) return part * rows + row;
    if (rule->layout == LAYOUT_HEADS)
        return (row / head_width * 3 + part) * head_width + row % head_width;
    return row;
}

// values [rows, columns] from stored, the widened tensor.
static void arrange(const tensor_rule *rule, const model_config *config, const float *stored,
                    float *values) {
    size_t rows = extent_value(rule->rows, config), columns = extent_value(rule->columns, config);
    uint64_t shape[2];
    stored_shape(rule, config, shape);
    bool turned = rule->columns != EXTENT_NONE && rule->layout != LAYOUT_HEADS;
    for (size_t r = 0; r < rows; r++) {
        size_t from = stored_row(rule, rows, config->shape.head_width, r);
        for (size_t c = 0; c < columns; c++)
            values[r * columns + c] = stored[turned ? c * shape[1] + from : from * columns + c];
    }
}

static bool is_gain(role use) {
    return use == ROLE_FINAL_GAIN || use == ROLE_ATTENTION_GAIN || use == ROLE_MLP_GAIN ||
           (use >= ROLE_ATTENTION_POST_GAIN && use <= ROLE_K_GAIN);
}

// Whether the part has a use for it.
static bool is_held(const loading *load, role use, size_t layer) {
    bool head = df_has_head(&load->config->shape, load->part);
    if (use >= ROLE_PER_LAYER) return layer - load->part.first < load->part.count;
    if (is_of_head(use)) return head;
    return df_has_embedding(load->part) || (head && use == ROLE_EMBED && load->config->tied);
}

static df_status read_rule(loading *load, const tensor_rule *rule, size_t layer) {
    const model_config *config = load->config;
    if (!is_held(load, rule->use, layer)) return DF_OK;
    const df_tensor *tensor = find_tensor(load->tensors, config->family, rule, layer);
    float *values = load->weights->block + load->used;
    size_t n = rule_elements(rule, config);
    if (rule->layout == LAYOUT_PLAIN)
        df_to_f32(tensor->type, tensor->data, values, n);
    else {
        float *stored;
        DF_TRY(DF_NEW(stored, tensor->elements));
        df_to_f32(tensor->type, tensor->data, stored, tensor->elements);
        arrange(rule, config, stored, values);
        df_free(stored);
    }
    for (size_t i = 0; i < n && is_gain(rule->use); i++) values[i] += config->family->gain_offset;
    load->weights->at[df_weight_slot(rule->use, layer)] = values;
    load->used += n;
    return DF_OK;
}

static df_status for_each_rule(loading *load,
                               df_status (*act)(loading *, const tensor_rule *, size_t)) {
    const tensor_rule *rule;
    for (size_t i = 0; (rule = rule_at(load->config->family, i)) != NULL; i++) {
        if (!is_needed(rule, load->config)) continue;
        size_t copies = rule_copies(rule, &load->config->shape);
        for (size_t layer = 0; layer < copies; layer++) DF_TRY(act(load, rule, layer));
    }
    return DF_OK;
}

// A tied checkpoint may store its unembedding all the same, as long as it is the embedding.
static df_status check_tied(loading *load) {
    const tensor_rule *unembed = NULL, *rule;
    for (size_t i = 0; (rule = rule_at(load->config->family, i)) != NULL; i++)
        if (rule->use == ROLE_UNEMBED) unembed = rule;
    const df_tensor *tensor =
        unembed != NULL ? find_tensor(load->tensors, load->config->family, unembed, 0) : NULL;
    if (tensor == NULL) return DF_OK;
    DF_TRY(check_tensor(tensor, unembed, load->config));
    claim(load, tensor);
    size_t width = load->config->shape.width;
    const float *embed = load->weights->at[ROLE_EMBED];
    float *row;
    if (embed == NULL) return DF_OK;
    DF_TRY(DF_NEW(row, width));
    bool same = true;
    for (size_t v = 0; v < load->config->shape.vocabulary && same; v++) {
        df_to_f32(tensor->type,
                  (const char *)tensor->data + v * width * df_type_bytes(tensor->type), row, width);
        same = memcmp(row, embed + v * width, width * sizeof *row) == 0;
    }
    df_free(row);
    if (same) return DF_OK;
    return df_fail(
        DF_BAD_INPUT,
        "tensor %s differs from the embedding although config.json says tie_word_embeddings",
        tensor->name);
}

static df_status refuse_unexpected(const loading *load) {
    const model_family *family = load->config->family;
    for (size_t i = 0; i < df_tensors_count(load->tensors); i++) {
        const char *name = df_tensors_at(load->tensors, i)->name;
        bool known = load->claimed[i];
        for (size_t j = 0; j < family->n_ignored && !known; j++)
            known = strstr(name, family->ignored[j]) != NULL;
        if (!known)
            return df_fail(
                DF_BAD_INPUT,
                "tensor %s is not one of a %s model with %zu layers as config.json describes it",
                name, family->model_type, load->config->shape.layers);
    }
    return DF_OK;
}

static df_status read_all(loading *load) {
    DF_TRY(for_each_rule(load, read_rule));
    if (!load->config->tied) return DF_OK;
    if (df_has_head(&load->config->shape, load->part))
        load->weights->at[ROLE_UNEMBED] = load->weights->at[ROLE_EMBED];
    return check_tied(load);
}

df_status df_weights_read(const char *folder, const model_config *config, df_model_part part,
                          model_weights *out) {
    df_tensors *tensors = NULL;
    loading load = {.config = config, .part = part, .weights = out};
    df_status status;
    *out = (model_weights){0};
    DF_GO(df_tensors_open(folder, &tensors));
    load.tensors = tensors;
    DF_GO(DF_NEW(load.claimed, df_tensors_count(tensors)));
    DF_GO(for_each_rule(&load, check_rule));
    DF_GO(
        DF_NEW(out->block, df_model_part_bytes(&config->shape, part, false) / sizeof *out->block));
    out->slots = df_weight_slot(ROLE_PER_LAYER, config->shape.layers);
    DF_GO(DF_NEW(out->at, out->slots));
    DF_GO(read_all(&load));
    DF_GO(refuse_unexpected(&load));
done:
    if (status != DF_OK) {
        df_context("reading the weights of %s", folder);
        df_weights_free(out);
    }
    df_free(load.claimed);
    df_tensors_close(&tensors);
    return status;
}

void df_weights_free(model_weights *weights) {
    for (size_t i = 0; weights->packed != NULL && i < weights->slots; i++)
        df_free(weights->packed[i]);
    df_free(weights->packed);
    df_free(weights->block);
    df_free(weights->at);
    *weights = (model_weights){0};
}
