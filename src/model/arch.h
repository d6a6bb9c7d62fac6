/* What the files of a model share: the table of families, the configuration, the weights. Private
 * to module model. */
#ifndef DF_MODEL_ARCH_H
#define DF_MODEL_ARCH_H

#include "darkfield/model.h"
#include "darkfield/kernels.h"
#include "darkfield/store.h"

/* ---- the table of families ------------------------------------------------------------------ */

typedef enum {
    NORM_RMS,  // x / sqrt(mean x^2 + eps) * gain
    NORM_LAYER // (x - mean) / sqrt(variance + eps) * gain + bias
} norm_kind;

/* The extents a tensor may have, resolved against the configuration. */
typedef enum {
    EXTENT_NONE,
    EXTENT_WIDTH,
    EXTENT_VOCABULARY,
    EXTENT_QUERY,
    EXTENT_KEY,
    EXTENT_HEAD,
    EXTENT_MLP,
    EXTENT_POSITIONS
} extent_kind;

/* When a family's tensor must be there. */
typedef enum {
    NEED_ALWAYS,
    NEED_ATTENTION_BIAS,
    NEED_OUTPUT_BIAS, // of the attention's output projection
    NEED_MLP_BIAS,
    NEED_QK_NORM,
    NEED_UNTIED
} need;

/* How a tensor of the file holds the rows that are wanted: [outputs, inputs]. */
typedef enum {
    LAYOUT_PLAIN,
    LAYOUT_TRANSPOSED, // [inputs, outputs]: GPT-2's Conv1D
    LAYOUT_FUSED,      // transposed, outputs of q, k and v side by side: GPT-2's c_attn
    LAYOUT_HEADS       // outputs ordered (head, {q, k, v}, column of the head): GPT-NeoX
} tensor_layout;

/* What a tensor is for. Roles before ROLE_PER_LAYER exist once, the others once a layer. A weight
 * and its bias stand at the same distance everywhere. */
typedef enum {
    ROLE_EMBED,
    ROLE_POSITION,
    ROLE_FINAL_GAIN,
    ROLE_FINAL_GAIN_BIAS,
    ROLE_UNEMBED,
    ROLE_PER_LAYER,
    ROLE_ATTENTION_GAIN = ROLE_PER_LAYER,
    ROLE_ATTENTION_GAIN_BIAS,
    ROLE_MLP_GAIN,
    ROLE_MLP_GAIN_BIAS,
    ROLE_ATTENTION_POST_GAIN, // sandwich norms: of what attention and MLP add to the stream
    ROLE_MLP_POST_GAIN,
    ROLE_Q_GAIN, // norms of each head's query and key
    ROLE_K_GAIN,
    ROLE_Q,
    ROLE_K,
    ROLE_V,
    ROLE_O,
    ROLE_GATE,
    ROLE_UP,
    ROLE_DOWN,
    ROLE_Q_BIAS,
    ROLE_K_BIAS,
    ROLE_V_BIAS,
    ROLE_O_BIAS,
    ROLE_GATE_BIAS,
    ROLE_UP_BIAS,
    ROLE_DOWN_BIAS,
    ROLE_COUNT
} role;

typedef struct tensor_rule {
    role use;
    /* "layers.{l}.self_attn.q_proj.weight"; one of the family's prefixes may stand before it */
    const char *name;
    extent_kind rows, columns;
    need when;
    tensor_layout layout;
} tensor_rule;

typedef struct rule_list {
    const tensor_rule *rules;
    size_t n;
} rule_list;

/* What config.json calls the numbers that every family has. */
typedef enum {
    KEY_LAYERS,
    KEY_WIDTH,
    KEY_MLP,
    KEY_HEADS,
    KEY_POSITIONS,
    KEY_ACTIVATION,
    KEY_EPSILON,
    KEY_COUNT
} config_key;

typedef struct model_config model_config;
typedef struct config_source {
    const json_t *object;
    const char *file;
} config_source;

typedef struct model_family {
    const char *model_type; // as config.json names it
    const char *inside;     // the object that holds the text model's keys; NULL: the whole file
    /* Before every name except those that start with '/'; some files leave them out. */
    const char *prefixes[3];
    const char *keys[KEY_COUNT]; // NULL: the name that Llama uses
    rule_list lists[3];
    const char *const *ignored; // pieces of names of tensors that hold no weights of the text model
    size_t n_ignored;
    const char *activation; // when config.json names none
    norm_kind norm;
    double epsilon;       // when config.json names none
    double rope_base;     // the same; 0: 10000
    float gain_offset;    // 1: gains are stored as their distance from one (Gemma)
    bool tied;            // when config.json does not say
    bool gated;           // down(act(gate x) * up x), else down(act(up x))
    bool post_norms;      // sandwich norms
    bool wide_mlp;        // without its key the MLP is four times the width
    size_t position_skip; // rows of the position table before position 0; learned positions only
    bool learned;         // positions: a table, else rotary
    /* What is this family's own: biases, windows, scales. Not NULL. */
    df_status (*read)(config_source from, model_config *config);
} model_family;

const model_family *df_family_find(const char *model_type); // NULL when unknown
df_status df_family_unknown(const char *file, const char *model_type);

/* ---- the configuration ---------------------------------------------------------------------- */

typedef enum { ROPE_PLAIN, ROPE_LINEAR, ROPE_LLAMA3, ROPE_DYNAMIC, ROPE_YARN } rope_rule;

/* Rotary positions: angle = position * base^(-2i/R), changed by a rule. */
typedef struct rope_plan {
    rope_rule rule;
    double base, factor, low, high, original; // low, high: llama3's factors, or yarn's betas
    double magnitude;                         // cosines and sines are multiplied by it
} rope_plan;

enum { MOST_LAYERS = 4096 };

struct model_config {
    const model_family *family;
    df_model_shape shape;
    float norm_epsilon;
    df_activation_kind activation;
    bool tied, attention_bias, output_bias, mlp_bias, qk_norm;
    bool parallel;                   // x + attention(norm x) + mlp(norm' x)
    double attention_scale;          // of q.k
    bool scale_by_layer;             // and divided by the layer's number from 1
    double attention_cap, logit_cap; // cap * tanh(x / cap); 0: none
    double embed_scale;
    size_t rotary;              // columns of a head that turn; 0 with learned positions
    rope_plan rope, local_rope; // local: of layers with a window
    size_t window;              // keys that a local layer sees, itself included
    uint8_t local[MOST_LAYERS]; // 1: the layer has the window
};

/* text: config.json's content, named `file` in messages. */
df_status df_config_parse(const char *text, size_t bytes, const char *file,
                          model_config *out) DF_MUST_CHECK;
/* hash: of the file's bytes; may be NULL. */
df_status df_config_read(const char *folder, model_config *out, uint64_t *hash) DF_MUST_CHECK;

/* Readers for the rows of the table; absent keys take the fallback. */
df_status df_config_extent(config_source from, const char *key, size_t fallback,
                           size_t *out) DF_MUST_CHECK; // at least 1
df_status df_config_positive(config_source from, const char *key, double fallback,
                             double *out) DF_MUST_CHECK;
df_status df_config_flag(config_source from, const char *key, bool fallback,
                         bool *out) DF_MUST_CHECK;
/* layer_types where the file has it; returns false where it does not. */
df_status df_config_layer_types(config_source from, model_config *config,
                                bool *found) DF_MUST_CHECK;

/* Angle per position of each rotary pair, after the scaling rule, for a window of n tokens:
 * out [rotary / 2]. */
void df_rope_frequencies(const rope_plan *rope, size_t rotary, size_t n, double *out);

/* ---- the weights ---------------------------------------------------------------------------- */

typedef struct model_weights {
    float *block;     // one allocation for everything
    size_t slots;     // of `at`
    const float **at; // [(ROLE_PER_LAYER + layers * (ROLE_COUNT - ROLE_PER_LAYER))], NULL: absent
    void **packed;    // [the same] bf16 panels of projections; NULL: products are in fp32
} model_weights;

static inline size_t df_weight_slot(role use, size_t layer) {
    if (use < ROLE_PER_LAYER) return (size_t)use;
    return ROLE_PER_LAYER + layer * (ROLE_COUNT - ROLE_PER_LAYER) + (size_t)(use - ROLE_PER_LAYER);
}

/* Reads what the family's rules name for a part from the safetensors of a folder. */
df_status df_weights_read(const char *folder, const model_config *config, df_model_part part,
                          model_weights *out) DF_MUST_CHECK;
void df_weights_free(model_weights *weights);

/* Numbers of the weights that the rules name for this configuration: fills the shape's counts. */
df_status df_weights_count(model_config *config) DF_MUST_CHECK;

/* What a part has beside its blocks. */
static inline bool df_has_embedding(df_model_part part) {
    return part.first == 0;
}
static inline bool df_has_head(const df_model_shape *shape, df_model_part part) {
    return part.first + part.count == shape->layers;
}

struct df_model {
    model_config config;
    df_model_part part;
    model_weights weights;
};

static inline const float *df_weight(const df_model *model, role use, size_t layer) {
    return model->weights.at[df_weight_slot(use, layer)];
}

/* y [rows, n] = x [rows, k] W', W [n, k] the weight of that role, in the model's precision.
 * scratch: df_bf16_scratch_bytes(rows). */
typedef struct weight_product {
    role use;
    size_t layer, rows, n, k;
    const float *x;
    float *y;
    void *scratch;
} weight_product;
void df_weight_multiply(const df_model *model, const weight_product *product);
/* What the products of a part in bf16 take in packed weights. */
uint64_t df_packed_bytes(const df_model_shape *shape, df_model_part part);

/* ---- sites ---------------------------------------------------------------------------------- */

typedef enum {
    SITE_EMBED,
    SITE_POSITION,
    SITE_RESID_PRE,
    SITE_ATTENTION_SCALE,
    SITE_ATTENTION_NORMALIZED,
    SITE_Q,
    SITE_K,
    SITE_V,
    SITE_ROTATED_Q,
    SITE_ROTATED_K,
    SITE_PATTERN,
    SITE_Z,
    SITE_RESULT,
    SITE_ATTN_OUT,
    SITE_RESID_MID,
    SITE_MLP_SCALE,
    SITE_MLP_NORMALIZED,
    SITE_MLP_IN,
    SITE_MLP_PRE,
    SITE_MLP_PRE_LINEAR,
    SITE_MLP_POST,
    SITE_MLP_OUT,
    SITE_RESID_POST,
    SITE_FINAL_SCALE,
    SITE_FINAL,
    SITE_LOGITS
} site_kind;
typedef struct site_place {
    site_kind kind;
    size_t layer;
} site_place;
df_status df_site_find(const df_model_shape *shape, const char *name,
                       site_place *out) DF_MUST_CHECK;
/* The same, of a part: a site of another one is DF_USAGE. */
df_status df_site_find_in(const df_model *model, const char *name, site_place *out) DF_MUST_CHECK;
/* Columns of a site in windows of `context` tokens. */
size_t df_site_columns(const df_model_shape *shape, site_kind kind, size_t context);

#endif
