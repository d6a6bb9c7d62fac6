/* Hostile and mismatched model folders: each is refused with a message that names what is wrong,
 * and nothing leaks. */
#include "df_test.h"

#include "darkfield/model.h"

#define GOLDEN DF_SOURCE_DIR "/tests/golden/forward/linear"

static const char *folder;

static void put(const char *name, const char *bytes, size_t n) {
    char path[400];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    assert_ok(df_write_file(path, bytes, n));
}

static char *take(const char *name, size_t *n) {
    char path[400], *text;
    snprintf(path, sizeof path, GOLDEN "/%s", name);
    assert_ok(df_read_file(path, &text, n));
    return text;
}

// Replaces the first `from` in text by `to`, in new memory.
static char *replaced(const char *text, const char *from, const char *to) {
    const char *at = strstr(text, from);
    assert_non_null(at);
    return df_format("%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
}

// The golden model with one piece of its config.json replaced is refused, naming `part`.
static void refused(const char *from, const char *to, const char *part) {
    size_t n;
    df_model *model;
    char *text = take("config.json", &n), *changed = replaced(text, from, to);
    put("config.json", changed, strlen(changed));
    assert_fails(df_model_open(folder, &model), DF_BAD_INPUT, part);
    assert_null(model);
    df_free(text);
    df_free(changed);
}

static void test_config_values(void **state) {
    (void)state;
    size_t n, before = df_memory_now();
    char *tensors = take("model.safetensors", &n);
    put("model.safetensors", tensors, n);
    df_free(tensors);
    refused("\"llama\"", "\"mamba\"", "model_type is \"mamba\"; darkfield can run: llama");
    refused("\"llama\"", "7", "model_type");
    refused("\"silu\"", "\"mish\"", "hidden_act is \"mish\"");
    refused("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 0",
            "num_hidden_layers must lie in 1..");
    refused("\"num_hidden_layers\": 2", "\"num_hidden_layers\": -1", "found -1");
    refused("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1", "layers.1.");
    refused("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3",
            "tensor model.layers.2.input_layernorm.weight is missing");
    refused("\"num_hidden_layers\": 2,", "", "num_hidden_layers");
    refused("\"hidden_size\": 36", "\"hidden_size\": 16777216",
            "config.json says shape [83, 16777216], found [83, 36]");
    refused("\"hidden_size\": 36", "\"hidden_size\": 9223372036854775807", "hidden_size");
    refused("\"hidden_size\": 36", "\"hidden_size\": 35",
            "config.json says shape [83, 35], found [83, 36]");
    refused("\"hidden_size\": 36", "\"hidden_size\": 36.5", "hidden_size");
    refused("\"vocab_size\": 83", "\"vocab_size\": 82",
            "embed_tokens.weight: config.json says shape [82, 36], found [83, 36]");
    refused("\"head_dim\": 10", "\"head_dim\": 9", "head_dim must be even");
    refused("\"head_dim\": 10", "\"head_dim\": null",
            "self_attn.q_proj.weight: config.json says shape [36, 36], found [60, 36]");
    refused("\"head_dim\": 10", "\"head_dim\": 8", "self_attn.q_proj.weight");
    refused("\"num_key_value_heads\": 2", "\"num_key_value_heads\": 4",
            "no multiple of num_key_value_heads 4");
    refused("\"num_key_value_heads\": 2", "\"num_key_value_heads\": 1", "self_attn.k_proj.weight");
    refused("\"attention_bias\": false", "\"attention_bias\": true",
            "self_attn.q_proj.bias is missing");
    refused("\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false",
            "tensor lm_head.weight is missing");
    refused("\"rms_norm_eps\": 1e-05", "\"rms_norm_eps\": 0",
            "rms_norm_eps must be a positive number");
    refused("\"rope_type\": \"linear\"", "\"rope_type\": \"longrope\"",
            "rope scaling \"longrope\" is not supported");
    refused("\"rope_type\": \"linear\"", "\"rope_type\": \"llama3\"", "lacks low_freq_factor");
    refused("\"factor\": 2.5", "\"factor\": -2.5", "factor must be a positive number");
    refused("\"rope_parameters\": {", "\"rope_parameters\": 3, \"x\": {",
            "rope_parameters must be an object");
    refused("\"hidden_act\"", "\"quantization_config\": {}, \"hidden_act\"", "quantised");
    refused("\"hidden_act\"", "\"partial_rotary_factor\": 0.5, \"hidden_act\"",
            "partial_rotary_factor");
    refused("\"hidden_act\"", "\"hidden_size\": 36, \"hidden_act\"", "hidden_size");
    assert_int_equal(df_memory_now(), before);
}

// A tensor renamed in the header: one is missing, or one is unknown.
static void renamed(const char *from, const char *to, const char *part) {
    size_t n, m;
    df_model *model;
    char *config = take("config.json", &m), *bytes = take("model.safetensors", &n), *at = NULL;
    put("config.json", config, m);
    for (size_t i = 0; i + strlen(from) < n && at == NULL; i++)
        if (memcmp(bytes + i, from, strlen(from)) == 0) at = bytes + i;
    assert_non_null(at);
    memcpy(at, to, strlen(to));
    put("model.safetensors", bytes, n);
    assert_fails(df_model_open(folder, &model), DF_BAD_INPUT, part);
    df_free(config);
    df_free(bytes);
}

static void test_tensor_names(void **state) {
    (void)state;
    renamed("layers.1.mlp.up_proj.weight", "layers.1.mlp.uq_proj.weight",
            "tensor model.layers.1.mlp.up_proj.weight is missing");
    renamed("self_attn.rotary_emb.inv_freq", "self_attn.rotary_emb.inv_frez",
            "layers.0.self_attn.rotary_emb.inv_frez is not one of a llama");
}

static void test_truncated_config(void **state) {
    (void)state;
    size_t n, before = df_memory_now();
    df_model_shape shape;
    char *text = take("config.json", &n);
    for (size_t i = 0; i < n - 1; i += 3) {
        put("config.json", text, i);
        assert_int_equal(df_model_plan(folder, &shape), DF_BAD_INPUT);
        df_error_clear();
    }
    df_free(text);
    assert_int_equal(df_memory_now(), before);
}

static void test_missing_files(void **state) {
    (void)state;
    df_model *model;
    uint64_t hash;
    assert_fails(df_model_open("/nonexistent/model", &model), DF_BAD_INPUT,
                 "/nonexistent/model/config.json");
    assert_fails(df_model_hash("/nonexistent/model", &hash), DF_BAD_INPUT,
                 "/nonexistent/model/config.json");
    folder = df_test_folder("model-config-alone");
    size_t n;
    char *text = take("config.json", &n);
    put("config.json", text, n);
    assert_fails(df_model_open(folder, &model), DF_BAD_INPUT, "model-config-alone");
    df_free(text);
}

// Memory that runs out anywhere is a failure that frees what was taken.
static void test_no_memory(void **state) {
    (void)state;
    df_model *model;
    size_t before = df_memory_now();
    for (int64_t i = 0; i < 40; i++) {
        df_memory_fail_after(i);
        df_status status = df_model_open(GOLDEN, &model);
        df_memory_fail_after(-1);
        if (status == DF_OK) df_model_close(&model);
        df_error_clear();
        assert_int_equal(df_memory_now(), before);
    }
}

static void test_hash(void **state) {
    (void)state;
    uint64_t a, b, c;
    assert_ok(df_model_hash(DF_SOURCE_DIR "/jobs/quickstart/base", &a));
    assert_ok(df_model_hash(DF_SOURCE_DIR "/jobs/quickstart/tuned", &b));
    assert_ok(df_model_hash(DF_SOURCE_DIR "/jobs/quickstart/base", &c));
    assert_true(a == c && a != b);
}

int main(void) {
    folder = df_test_folder("model-config");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_config_values),    cmocka_unit_test(test_tensor_names),
        cmocka_unit_test(test_truncated_config), cmocka_unit_test(test_missing_files),
        cmocka_unit_test(test_no_memory),        cmocka_unit_test(test_hash),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
