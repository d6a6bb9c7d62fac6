/* The families we can run, one row each. To add one: its tensor rules, its parts, and where a part
 * is new, one more value of the enums in arch.h and its case in forward.c. */
#include "arch.h"

#include <string.h>

#define LENGTH(array) (sizeof(array) / sizeof *(array))

static const tensor_rule llama_rules[] = {
    {ROLE_EMBED, "embed_tokens.weight", EXTENT_VOCABULARY, EXTENT_WIDTH, NEED_ALWAYS},
    {ROLE_FINAL_GAIN, "norm.weight", EXTENT_WIDTH, EXTENT_NONE, NEED_ALWAYS},
    {ROLE_UNEMBED, "/lm_head.weight", EXTENT_VOCABULARY, EXTENT_WIDTH, NEED_UNTIED},
    {ROLE_ATTENTION_GAIN, "layers.{l}.input_layernorm.weight", EXTENT_WIDTH, EXTENT_NONE,
     NEED_ALWAYS},
    {ROLE_MLP_GAIN, "layers.{l}.post_attention_layernorm.weight", EXTENT_WIDTH, EXTENT_NONE,
     NEED_ALWAYS},
    {ROLE_Q, "layers.{l}.self_attn.q_proj.weight", EXTENT_QUERY, EXTENT_WIDTH, NEED_ALWAYS},
    {ROLE_K, "layers.{l}.self_attn.k_proj.weight", EXTENT_KEY, EXTENT_WIDTH, NEED_ALWAYS},
    {ROLE_V, "layers.{l}.self_attn.v_proj.weight", EXTENT_KEY, EXTENT_WIDTH, NEED_ALWAYS},
    {ROLE_O, "layers.{l}.self_attn.o_proj.weight", EXTENT_WIDTH, EXTENT_QUERY, NEED_ALWAYS},
    {ROLE_GATE, "layers.{l}.mlp.gate_proj.weight", EXTENT_MLP, EXTENT_WIDTH, NEED_ALWAYS},
    {ROLE_UP, "layers.{l}.mlp.up_proj.weight", EXTENT_MLP, EXTENT_WIDTH, NEED_ALWAYS},
    {ROLE_DOWN, "layers.{l}.mlp.down_proj.weight", EXTENT_WIDTH, EXTENT_MLP, NEED_ALWAYS},
    {ROLE_Q_BIAS, "layers.{l}.self_attn.q_proj.bias", EXTENT_QUERY, EXTENT_NONE,
     NEED_ATTENTION_BIAS},
    {ROLE_K_BIAS, "layers.{l}.self_attn.k_proj.bias", EXTENT_KEY, EXTENT_NONE, NEED_ATTENTION_BIAS},
    {ROLE_V_BIAS, "layers.{l}.self_attn.v_proj.bias", EXTENT_KEY, EXTENT_NONE, NEED_ATTENTION_BIAS},
    {ROLE_O_BIAS, "layers.{l}.self_attn.o_proj.bias", EXTENT_WIDTH, EXTENT_NONE,
     NEED_ATTENTION_BIAS},
    {ROLE_GATE_BIAS, "layers.{l}.mlp.gate_proj.bias", EXTENT_MLP, EXTENT_NONE, NEED_MLP_BIAS},
    {ROLE_UP_BIAS, "layers.{l}.mlp.up_proj.bias", EXTENT_MLP, EXTENT_NONE, NEED_MLP_BIAS},
    {ROLE_DOWN_BIAS, "layers.{l}.mlp.down_proj.bias", EXTENT_WIDTH, EXTENT_NONE, NEED_MLP_BIAS},
};
static const char *const llama_ignored[] = {".rotary_emb.inv_freq"};
static const char *const llama_activations[] = {"silu"};

static const model_family families[] = {
    {.model_type = "llama",
     .prefix = "model.",
     .rules = llama_rules,
     .n_rules = LENGTH(llama_rules),
     .ignored = llama_ignored,
     .n_ignored = LENGTH(llama_ignored),
     .activations = llama_activations,
     .n_activations = LENGTH(llama_activations),
     .norm = NORM_RMS,
     .rope = ROPE_HALF_SPLIT,
     .mlp = MLP_GATED_SILU,
     .order = BLOCK_SEQUENTIAL},
};

const model_family *df_family_find(const char *model_type) {
    for (size_t i = 0; i < LENGTH(families); i++)
        if (strcmp(families[i].model_type, model_type) == 0) return &families[i];
    return NULL;
}

df_status df_family_unknown(const char *file, const char *model_type) {
    char known[256] = "";
    for (size_t i = 0; i < LENGTH(families); i++) {
        size_t used = strlen(known);
        snprintf(known + used, sizeof known - used, "%s%s", i > 0 ? ", " : "",
                 families[i].model_type);
    }
    return df_fail(DF_BAD_INPUT, "%s: model_type is \"%s\"; darkfield can run: %s", file,
                   model_type, known);
}
