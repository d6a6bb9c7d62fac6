/* What the files of a model share: the table of families, the configuration, the weights. Private
 * to module model. */
#ifndef DF_MODEL_ARCH_H
#define DF_MODEL_ARCH_H

#include "darkfield/model.h"
#include "darkfield/store.h"

/* ---- the table of families ------------------------------------------------------------------ */

typedef enum { NORM_RMS } norm_kind;           // x / sqrt(mean x^2 + eps) * gain
typedef enum { ROPE_HALF_SPLIT } rope_style;   // pairs (i, i + width / 2)
typedef enum { MLP_GATED_SILU } mlp_kind;      // down(silu(gate x) * up x)
typedef enum { BLOCK_SEQUENTIAL } block_order; // x + attention(norm x), then x + mlp(norm x)

/* The extents a tensor may have, resolved against the configuration. */
typedef enum {
    EXTENT_NONE,
    EXTENT_WIDTH,
    EXTENT_VOCABULARY,
    EXTENT_QUERY,
    EXTENT_KEY,
    EXTENT_MLP
} extent_kind;

/* When a family's tensor must be there. */
typedef enum { NEED_ALWAYS, NEED_ATTENTION_BIAS, NEED_MLP_BIAS, NEED_UNTIED } need;

/* What a tensor is for. Roles before ROLE_PER_LAYER exist once, the others once a layer. */
typedef enum {
    ROLE_EMBED,
    ROLE_FINAL_GAIN,
    ROLE_UNEMBED,
    ROLE_PER_LAYER,
    ROLE_ATTENTION_GAIN = ROLE_PER_LAYER,
    ROLE_MLP_GAIN,
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
    const char
        *name; // "layers.{l}.self_attn.q_proj.weight"; the family's prefix may stand before it
    extent_kind rows, columns;
    need when;
} tensor_rule;

typedef struct model_family {
    const char *model_type; // as config.json names it
    const char
        *prefix; // before every name except those that start with '/'; some files leave it out
    const tensor_rule *rules;
    size_t n_rules;
    const char *const *ignored; // suffixes of buffers that hold no weights
    size_t n_ignored;
    const char *const *activations; // accepted hidden_act
    size_t n_activations;
    norm_kind norm;
    rope_style rope;
    mlp_kind mlp;
    block_order order;
} model_family;

const model_family *df_family_find(const char *model_type); // NULL when unknown
df_status df_family_unknown(const char *file, const char *model_type);

/* ---- the configuration ---------------------------------------------------------------------- */

typedef enum { ROPE_PLAIN, ROPE_LINEAR, ROPE_LLAMA3 } rope_rule;

typedef struct model_config {
    const model_family *family;
    df_model_shape shape;
    float norm_epsilon;
    bool tied, attention_bias, mlp_bias;
    rope_rule rope;
    double rope_base, rope_factor, rope_low, rope_high, rope_original;
} model_config;

/* text: config.json's content, named `file` in messages. */
df_status df_config_parse(const char *text, size_t bytes, const char *file,
                          model_config *out) DF_MUST_CHECK;
/* hash: of the file's bytes; may be NULL. */
df_status df_config_read(const char *folder, model_config *out, uint64_t *hash) DF_MUST_CHECK;

/* Angle per position of each rotary pair, after the scaling rule: out [head_width / 2]. */
void df_rope_frequencies(const model_config *config, double *out);

/* ---- the weights ---------------------------------------------------------------------------- */

typedef struct model_weights {
    float *block;     // one allocation for everything
    const float **at; // [(ROLE_PER_LAYER + layers * (ROLE_COUNT - ROLE_PER_LAYER))], NULL: absent
} model_weights;

static inline size_t df_weight_slot(role use, size_t layer) {
    if (use < ROLE_PER_LAYER) return (size_t)use;
    return ROLE_PER_LAYER + layer * (ROLE_COUNT - ROLE_PER_LAYER) + (size_t)(use - ROLE_PER_LAYER);
}

/* Reads what the family's rules name from the safetensors of a folder. */
df_status df_weights_read(const char *folder, const model_config *config,
                          model_weights *out) DF_MUST_CHECK;
void df_weights_free(model_weights *weights);

/* Numbers of the weights that the rules name for this configuration. */
df_status df_weights_count(const model_config *config, uint64_t *out) DF_MUST_CHECK;

struct df_model {
    model_config config;
    model_weights weights;
};

static inline const float *df_weight(const df_model *model, role use, size_t layer) {
    return model->weights.at[df_weight_slot(use, layer)];
}

/* ---- sites ---------------------------------------------------------------------------------- */

typedef enum {
    SITE_EMBED,
    SITE_RESID_PRE,
    SITE_ATTN_OUT,
    SITE_RESID_MID,
    SITE_MLP_OUT,
    SITE_RESID_POST,
    SITE_FINAL
} site_kind;
typedef struct site_place {
    site_kind kind;
    size_t layer;
} site_place;
df_status df_site_find(const df_model_shape *shape, const char *name,
                       site_place *out) DF_MUST_CHECK;

#endif
