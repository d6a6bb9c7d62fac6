/* config.json: whatever the bytes, parsing ends with a usable shape or one message. */
#include "arch.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void check_shape(const model_config *config) {
    const df_model_shape *s = &config->shape;
    double *frequency = df_alloc(s->head_width / 2, sizeof *frequency);
    if (frequency == NULL) abort();
    df_rope_frequencies(config, frequency);
    for (size_t i = 0; i < s->head_width / 2; i++)
        if (isnan(frequency[i])) abort();
    df_free(frequency);
    if (s->layers < 1 || s->heads % s->kv_heads != 0 || s->head_width % 2 != 0 ||
        s->parameters < s->vocabulary * s->width)
        abort();
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
