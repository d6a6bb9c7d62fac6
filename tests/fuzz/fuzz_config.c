/* config.json: whatever the bytes, parsing ends with a usable shape or one message. */
#include "arch.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void check_rope(const rope_plan *rope, size_t rotary, size_t n) {
    double *frequency = df_alloc(rotary / 2, sizeof *frequency);
    if (frequency == NULL) abort();
    df_rope_frequencies(rope, rotary, n, frequency);
    for (size_t i = 0; i < rotary / 2; i++)
        if (isnan(frequency[i])) abort();
    df_free(frequency);
}

static void check_shape(const model_config *config) {
    const df_model_shape *s = &config->shape;
    for (size_t n = 1; n <= 1000000; n *= 1000) {
        check_rope(&config->rope, config->rotary, n);
        check_rope(&config->local_rope, config->rotary, n);
    }
    if (s->layers < 1 || s->heads % s->kv_heads != 0 || config->rotary % 2 != 0 ||
        config->rotary > s->head_width || s->parameters < s->vocabulary * s->width)
        abort();
    for (size_t l = 0; l < s->layers; l++)
        if (config->local[l] && config->window < 1) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    size_t before = df_memory_now();
    char *text = df_alloc(size + 1, 1);
    if (text == NULL) return 0;
    if (size > 0) memcpy(text, data, size);
    model_config config;
    df_status status = df_config_parse(text, size, "config.json", &config);
    if (status == DF_OK)
        check_shape(&config);
    else if (df_error_text()[0] == '\0')
        abort();
    df_free(text);
    df_error_clear();
    if (df_memory_now() != before) abort();
    return 0;
}
