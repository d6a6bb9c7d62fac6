/* The families we can run, one row each, in two files: tensor names here, what config.json says in
 * arch_read.c. To add one: its tensor rules, its row, its reader; where a part is new, one more
 * value of the enums in arch.h and its case in forward_block.c. */
#include "arch_read.h"

#include <string.h>

#define LENGTH(array) (sizeof(array) / sizeof *(array))
#define LIST(array)                                                                                \
    { array, LENGTH(array) }
#define MATRIX(use, name, rows, columns)                                                           \
    { use, name, EXTENT_##rows, EXTENT_##columns, NEED_ALWAYS, LAYOUT_PLAIN }
#define VECTOR(use, name, extent, when)                                                            \
    { use, name, EXTENT_##extent, EXTENT_NONE, NEED_##when, LAYOUT_PLAIN }
#define NORM(use, name)                                                                            \
    VECTOR(use, name ".weight", WIDTH, ALWAYS), VECTOR(use##_BIAS, name ".bias", WIDTH, ALWAYS)
/* A linear layer of the block with its bias. */
#define LINEAR(use, name, rows, columns, when)                                                     \
    MATRIX(use, name ".weight", rows, columns), VECTOR(use##_BIAS, name ".bias", rows, when)

/* ---- Llama and those that kept its names ---------------------------------------------------- */

static const tensor_rule llama_rules[] = {
    MATRIX(ROLE_EMBED, "embed_tokens.weight", VOCABULARY, WIDTH),
    VECTOR(ROLE_FINAL_GAIN, "norm.weight", WIDTH, ALWAYS),
    {ROLE_UNEMBED, "/lm_head.weight", EXTENT_VOCABULARY, EXTENT_WIDTH, NEED_UNTIED, LAYOUT_PLAIN},
    VECTOR(ROLE_ATTENTION_GAIN, "layers.{l}.input_layernorm.weight", WIDTH, ALWAYS),
    LINEAR(ROLE_Q, "layers.{l}.self_attn.q_proj", QUERY, WIDTH, ATTENTION_BIAS),
    LINEAR(ROLE_K, "layers.{l}.self_attn.k_proj", KEY, WIDTH, ATTENTION_BIAS),
    LINEAR(ROLE_V, "layers.{l}.self_attn.v_proj", KEY, WIDTH, ATTENTION_BIAS),
    LINEAR(ROLE_O, "layers.{l}.self_attn.o_proj", WIDTH, QUERY, OUTPUT_BIAS),
    VECTOR(ROLE_Q_GAIN, "layers.{l}.self_attn.q_norm.weight", HEAD, QK_NORM),
    VECTOR(ROLE_K_GAIN, "layers.{l}.self_attn.k_norm.weight", HEAD, QK_NORM),
    LINEAR(ROLE_GATE, "layers.{l}.mlp.gate_proj", MLP, WIDTH, MLP_BIAS),
    LINEAR(ROLE_UP, "layers.{l}.mlp.up_proj", MLP, WIDTH, MLP_BIAS),
    LINEAR(ROLE_DOWN, "layers.{l}.mlp.down_proj", WIDTH, MLP, MLP_BIAS),
};
static const tensor_rule two_norms[] = {
    VECTOR(ROLE_MLP_GAIN, "layers.{l}.post_attention_layernorm.weight", WIDTH, ALWAYS),
};
static const tensor_rule four_norms[] = {
    VECTOR(ROLE_ATTENTION_POST_GAIN, "layers.{l}.post_attention_layernorm.weight", WIDTH, ALWAYS),
    VECTOR(ROLE_MLP_GAIN, "layers.{l}.pre_feedforward_layernorm.weight", WIDTH, ALWAYS),
    VECTOR(ROLE_MLP_POST_GAIN, "layers.{l}.post_feedforward_layernorm.weight", WIDTH, ALWAYS),
};
static const char *const llama_ignored[] = {".rotary_emb.inv_freq"};
static const char *const vision_ignored[] = {".rotary_emb.inv_freq", "vision_tower.",
                                             "multi_modal_projector."};

/* ---- GPT-2, GPT-Neo, GPT-NeoX, OPT ---------------------------------------------------------- */

#define FUSED(use, name, layout)                                                                   \
    {use, name ".weight", EXTENT_QUERY, EXTENT_WIDTH, NEED_ALWAYS, layout}, {                      \
        use##_BIAS, name ".bias", EXTENT_QUERY, EXTENT_NONE, NEED_ALWAYS, layout                   \
    }
#define TURNED(use, name, rows, columns)                                                           \
    {use, name ".weight", EXTENT_##rows, EXTENT_##columns, NEED_ALWAYS, LAYOUT_TRANSPOSED},        \
        VECTOR(use##_BIAS, name ".bias", rows, ALWAYS)

static const tensor_rule gpt2_rules[] = {
    MATRIX(ROLE_EMBED, "wte.weight", VOCABULARY, WIDTH),
    MATRIX(ROLE_POSITION, "wpe.weight", POSITIONS, WIDTH),
    NORM(ROLE_FINAL_GAIN, "ln_f"),
    {ROLE_UNEMBED, "/lm_head.weight", EXTENT_VOCABULARY, EXTENT_WIDTH, NEED_UNTIED, LAYOUT_PLAIN},
    NORM(ROLE_ATTENTION_GAIN, "h.{l}.ln_1"),
    NORM(ROLE_MLP_GAIN, "h.{l}.ln_2"),
    FUSED(ROLE_Q, "h.{l}.attn.c_attn", LAYOUT_FUSED),
    FUSED(ROLE_K, "h.{l}.attn.c_attn", LAYOUT_FUSED),
    FUSED(ROLE_V, "h.{l}.attn.c_attn", LAYOUT_FUSED),
    TURNED(ROLE_O, "h.{l}.attn.c_proj", WIDTH, QUERY),
    TURNED(ROLE_UP, "h.{l}.mlp.c_fc", MLP, WIDTH),
    TURNED(ROLE_DOWN, "h.{l}.mlp.c_proj", WIDTH, MLP),
};
static const char *const gpt2_ignored[] = {".attn.bias", ".attn.masked_bias"};

static const tensor_rule neo_rules[] = {
    MATRIX(ROLE_EMBED, "wte.weight", VOCABULARY, WIDTH),
    MATRIX(ROLE_POSITION, "wpe.weight", POSITIONS, WIDTH),
    NORM(ROLE_FINAL_GAIN, "ln_f"),
    {ROLE_UNEMBED, "/lm_head.weight", EXTENT_VOCABULARY, EXTENT_WIDTH, NEED_UNTIED, LAYOUT_PLAIN},
    NORM(ROLE_ATTENTION_GAIN, "h.{l}.ln_1"),
    NORM(ROLE_MLP_GAIN, "h.{l}.ln_2"),
    MATRIX(ROLE_Q, "h.{l}.attn.attention.q_proj.weight", QUERY, WIDTH),
    MATRIX(ROLE_K, "h.{l}.attn.attention.k_proj.weight", KEY, WIDTH),
    MATRIX(ROLE_V, "h.{l}.attn.attention.v_proj.weight", KEY, WIDTH),
    LINEAR(ROLE_O, "h.{l}.attn.attention.out_proj", WIDTH, QUERY, ALWAYS),
    LINEAR(ROLE_UP, "h.{l}.mlp.c_fc", MLP, WIDTH, ALWAYS),
    LINEAR(ROLE_DOWN, "h.{l}.mlp.c_proj", WIDTH, MLP, ALWAYS),
};
static const char *const neo_ignored[] = {".attn.attention.bias", ".attn.attention.masked_bias"};

static const tensor_rule neox_rules[] = {
    MATRIX(ROLE_EMBED, "embed_in.weight", VOCABULARY, WIDTH),
    NORM(ROLE_FINAL_GAIN, "final_layer_norm"),
    {ROLE_UNEMBED, "/embed_out.weight", EXTENT_VOCABULARY, EXTENT_WIDTH, NEED_UNTIED, LAYOUT_PLAIN},
    NORM(ROLE_ATTENTION_GAIN, "layers.{l}.input_layernorm"),
    NORM(ROLE_MLP_GAIN, "layers.{l}.post_attention_layernorm"),
    FUSED(ROLE_Q, "layers.{l}.attention.query_key_value", LAYOUT_HEADS),
    FUSED(ROLE_K, "layers.{l}.attention.query_key_value", LAYOUT_HEADS),
    FUSED(ROLE_V, "layers.{l}.attention.query_key_value", LAYOUT_HEADS),
    LINEAR(ROLE_O, "layers.{l}.attention.dense", WIDTH, QUERY, ALWAYS),
    LINEAR(ROLE_UP, "layers.{l}.mlp.dense_h_to_4h", MLP, WIDTH, ALWAYS),
    LINEAR(ROLE_DOWN, "layers.{l}.mlp.dense_4h_to_h", WIDTH, MLP, ALWAYS),
};
static const char *const neox_ignored[] = {".attention.bias", ".attention.masked_bias",
                                           ".rotary_emb.inv_freq"};

static const tensor_rule opt_rules[] = {
    MATRIX(ROLE_EMBED, "embed_tokens.weight", VOCABULARY, WIDTH),
    MATRIX(ROLE_POSITION, "embed_positions.weight", POSITIONS, WIDTH),
    NORM(ROLE_FINAL_GAIN, "final_layer_norm"),
    {ROLE_UNEMBED, "/lm_head.weight", EXTENT_VOCABULARY, EXTENT_WIDTH, NEED_UNTIED, LAYOUT_PLAIN},
    NORM(ROLE_ATTENTION_GAIN, "layers.{l}.self_attn_layer_norm"),
    NORM(ROLE_MLP_GAIN, "layers.{l}.final_layer_norm"),
    LINEAR(ROLE_Q, "layers.{l}.self_attn.q_proj", QUERY, WIDTH, ALWAYS),
    LINEAR(ROLE_K, "layers.{l}.self_attn.k_proj", KEY, WIDTH, ALWAYS),
    LINEAR(ROLE_V, "layers.{l}.self_attn.v_proj", KEY, WIDTH, ALWAYS),
    LINEAR(ROLE_O, "layers.{l}.self_attn.out_proj", WIDTH, QUERY, ALWAYS),
    LINEAR(ROLE_UP, "layers.{l}.fc1", MLP, WIDTH, ALWAYS),
    LINEAR(ROLE_DOWN, "layers.{l}.fc2", WIDTH, MLP, ALWAYS),
};

/* ---- the rows ------------------------------------------------------------------------------- */

#define LLAMA_LIKE                                                                                 \
    .prefixes = {"model."}, .ignored = llama_ignored, .n_ignored = LENGTH(llama_ignored),          \
    .norm = NORM_RMS, .epsilon = 1e-6, .gated = true
#define GEMMA_LIKE LLAMA_LIKE, .activation = "gelu_pytorch_tanh", .gain_offset = 1.0f, .tied = true
#define GPT_LIKE                                                                                   \
    .prefixes = {"transformer."}, .norm = NORM_LAYER, .epsilon = 1e-5, .activation = "gelu_new",   \
    .tied = true, .wide_mlp = true, .learned = true

static const model_family families[] = {
    {.model_type = "llama",
     LLAMA_LIKE,
     .lists = {LIST(llama_rules), LIST(two_norms)},
     .activation = "silu",
     .read = read_llama},
    {.model_type = "mistral",
     LLAMA_LIKE,
     .lists = {LIST(llama_rules), LIST(two_norms)},
     .activation = "silu",
     .read = read_mistral},
    {.model_type = "qwen2",
     LLAMA_LIKE,
     .lists = {LIST(llama_rules), LIST(two_norms)},
     .activation = "silu",
     .read = read_qwen2},
    {.model_type = "qwen3",
     LLAMA_LIKE,
     .lists = {LIST(llama_rules), LIST(two_norms)},
     .activation = "silu",
     .read = read_qwen3},
    {.model_type = "gemma",
     GEMMA_LIKE,
     .keys = {[KEY_ACTIVATION] = "hidden_activation"},
     .lists = {LIST(llama_rules), LIST(two_norms)},
     .read = read_gemma},
    {.model_type = "gemma2",
     GEMMA_LIKE,
     .keys = {[KEY_ACTIVATION] = "hidden_activation"},
     .lists = {LIST(llama_rules), LIST(four_norms)},
     .post_norms = true,
     .read = read_gemma2},
    {.model_type = "gemma3_text",
     GEMMA_LIKE,
     .keys = {[KEY_ACTIVATION] = "hidden_activation"},
     .lists = {LIST(llama_rules), LIST(four_norms)},
     .post_norms = true,
     .rope_base = 1e6,
     .read = read_gemma3},
    {.model_type = "gemma3",
     .inside = "text_config",
     .prefixes = {"language_model.model.", "model.language_model."},
     .keys = {[KEY_ACTIVATION] = "hidden_activation"},
     .lists = {LIST(llama_rules), LIST(four_norms)},
     .ignored = vision_ignored,
     .n_ignored = LENGTH(vision_ignored),
     .norm = NORM_RMS,
     .epsilon = 1e-6,
     .gated = true,
     .activation = "gelu_pytorch_tanh",
     .gain_offset = 1.0f,
     .tied = true,
     .post_norms = true,
     .rope_base = 1e6,
     .read = read_gemma3},
    {.model_type = "gpt2",
     GPT_LIKE,
     .keys = {"n_layer", "n_embd", "n_inner", "n_head", "n_positions", "activation_function",
              "layer_norm_epsilon"},
     .lists = {LIST(gpt2_rules)},
     .ignored = gpt2_ignored,
     .n_ignored = LENGTH(gpt2_ignored),
     .read = read_gpt2},
    {.model_type = "gpt_neo",
     GPT_LIKE,
     .keys = {[KEY_LAYERS] = "num_layers",
              [KEY_HEADS] = "num_heads",
              [KEY_ACTIVATION] = "activation_function",
              [KEY_EPSILON] = "layer_norm_epsilon"},
     .lists = {LIST(neo_rules)},
     .ignored = neo_ignored,
     .n_ignored = LENGTH(neo_ignored),
     .read = read_gpt_neo},
    {.model_type = "gpt_neox",
     .prefixes = {"gpt_neox."},
     .keys = {[KEY_EPSILON] = "layer_norm_eps"},
     .lists = {LIST(neox_rules)},
     .ignored = neox_ignored,
     .n_ignored = LENGTH(neox_ignored),
     .activation = "gelu",
     .norm = NORM_LAYER,
     .epsilon = 1e-5,
     .read = read_gpt_neox},
    {.model_type = "opt",
     .prefixes = {"model.decoder.", "decoder."},
     .keys = {[KEY_MLP] = "ffn_dim",
              [KEY_ACTIVATION] = "activation_function",
              [KEY_EPSILON] = "layer_norm_eps"},
     .lists = {LIST(opt_rules)},
     .activation = "relu",
     .norm = NORM_LAYER,
     .epsilon = 1e-5,
     .tied = true,
     .position_skip = 2,
     .learned = true,
     .read = read_opt},
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
