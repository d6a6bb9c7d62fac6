/* Models of known shapes with random weights, for the benches of the forward pass. */
#include "shapes.h"

#include "darkfield/kernels.h"
#include "darkfield/store.h"

#include <string.h>

#define LLAMA                                                                                      \
    "{\"model_type\": \"llama\", \"hidden_size\": 2048, \"intermediate_size\": 8192, "             \
    "\"num_hidden_layers\": 4, \"num_attention_heads\": 32, \"num_key_value_heads\": 8, "          \
    "\"vocab_size\": 4096, \"max_position_embeddings\": 2048, \"rms_norm_eps\": 1e-5, "            \
    "\"rope_theta\": 500000.0, \"hidden_act\": \"silu\", \"tie_word_embeddings\": true}"

static const bench_shape shapes[] = {
    {"forward-gpt2",
     "{\"model_type\": \"gpt2\", \"n_embd\": 768, \"n_layer\": 12, \"n_head\": 12, "
     "\"n_positions\": 1024, \"vocab_size\": 4096, \"layer_norm_epsilon\": 1e-5, "
     "\"activation_function\": \"gelu_new\"}",
     false},
    {"forward-llama", LLAMA, false},
    {"forward-llama-bf16", LLAMA, true},
    {"forward-pipeline", LLAMA, false},
};

const bench_shape *bench_shape_find(const char *name) {
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        if (strcmp(shapes[i].name, name) == 0) return &shapes[i];
    return NULL;
}

/* ---- the model ------------------------------------------------------------------------------ */

typedef struct tensor_rule {
    const char *name;       // %zu: the layer
    uint64_t rows, columns; // columns 0: one dimension
} tensor_rule;

static const tensor_rule gpt2[] = {{"wte.weight", 4096, 768},
                                   {"wpe.weight", 1024, 768},
                                   {"ln_f.weight", 768, 0},
                                   {"ln_f.bias", 768, 0},
                                   {"h.%zu.ln_1.weight", 768, 0},
                                   {"h.%zu.ln_1.bias", 768, 0},
                                   {"h.%zu.ln_2.weight", 768, 0},
                                   {"h.%zu.ln_2.bias", 768, 0},
                                   {"h.%zu.attn.c_attn.weight", 768, 2304},
                                   {"h.%zu.attn.c_attn.bias", 2304, 0},
                                   {"h.%zu.attn.c_proj.weight", 768, 768},
                                   {"h.%zu.attn.c_proj.bias", 768, 0},
                                   {"h.%zu.mlp.c_fc.weight", 768, 3072},
                                   {"h.%zu.mlp.c_fc.bias", 3072, 0},
                                   {"h.%zu.mlp.c_proj.weight", 3072, 768},
                                   {"h.%zu.mlp.c_proj.bias", 768, 0},
                                   {NULL, 0, 0}};

static const tensor_rule llama[] = {{"model.embed_tokens.weight", 4096, 2048},
                                    {"model.norm.weight", 2048, 0},
                                    {"model.layers.%zu.input_layernorm.weight", 2048, 0},
                                    {"model.layers.%zu.post_attention_layernorm.weight", 2048, 0},
                                    {"model.layers.%zu.self_attn.q_proj.weight", 2048, 2048},
                                    {"model.layers.%zu.self_attn.k_proj.weight", 512, 2048},
                                    {"model.layers.%zu.self_attn.v_proj.weight", 512, 2048},
                                    {"model.layers.%zu.self_attn.o_proj.weight", 2048, 2048},
                                    {"model.layers.%zu.mlp.gate_proj.weight", 8192, 2048},
                                    {"model.layers.%zu.mlp.up_proj.weight", 8192, 2048},
                                    {"model.layers.%zu.mlp.down_proj.weight", 2048, 8192},
                                    {NULL, 0, 0}};

// Specs of all layers; names are new memory.
static df_status list_tensors(const tensor_rule *rule, size_t layers, df_tensor_spec *out,
                              size_t *n) {
    for (; rule->name != NULL; rule++) {
        size_t times = strchr(rule->name, '%') != NULL ? layers : 1;
        for (size_t l = 0; l < times; l++) {
            const char *place = strchr(rule->name, '%');
            char *name = place == NULL ? df_strdup(rule->name)
                                       : df_format("%.*s%zu%s", (int)(place - rule->name),
                                                   rule->name, l, place + 3);
            if (name == NULL) return DF_FAILED;
            out[(*n)++] = (df_tensor_spec){.name = name,
                                           .type = DF_BF16,
                                           .dims = rule->columns > 0 ? 2 : 1,
                                           .shape = {rule->rows, rule->columns}};
        }
    }
    return DF_OK;
}

static df_status put_noise(df_tensor_file *file, size_t i, uint64_t elements) {
    enum { PART = 1 << 16 };
    static float noise[PART];
    static uint16_t stored[PART];
    if (noise[0] == 0.0f) {
        for (size_t j = 0; j < PART; j++)
            noise[j] = 0.02f * (float)df_random_normal(3, DF_STREAM_TEST, j);
        df_narrow_bf16(noise, stored, PART);
    }
    for (uint64_t first = 0; first < elements; first += PART)
        DF_TRY(df_tensor_file_put(file, i, first, elements - first < PART ? elements - first : PART,
                                  stored));
    return DF_OK;
}

df_status bench_write_model(df_comm *comm, const bench_shape *shape, const char *folder) {
    df_tensor_spec specs[256];
    size_t n = 0;
    bool small = strcmp(shape->name, "forward-gpt2") == 0;
    df_tensor_file *file;
    char *config = df_format("%s/config.json", folder);
    char *weights = df_format("%s/model.safetensors", folder);
    DF_TRY(df_write_file(config, shape->config, strlen(shape->config)));
    DF_TRY(list_tensors(small ? gpt2 : llama, small ? 12 : 4, specs, &n));
    DF_TRY(df_tensor_file_create(comm, weights, specs, n, &file));
    for (size_t i = 0; i < n; i++)
        DF_TRY(
            put_noise(file, i, specs[i].shape[0] * (specs[i].dims == 2 ? specs[i].shape[1] : 1)));
    for (size_t i = 0; i < n; i++) df_free((void *)specs[i].name);
    df_free(config);
    df_free(weights);
    return df_tensor_file_finish(&file);
}
