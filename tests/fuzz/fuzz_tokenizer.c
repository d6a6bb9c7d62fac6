/* Tokenizers: whatever the bytes of a tokenizer.json, opening ends with a tokenizer or one message;
 * a tokenizer encodes any valid text with places that never decrease, and decodes what it encoded,
 * or says why not (a pattern that takes for ever).
 * A line "%text" in the input, where there is one, ends the file and starts the text. */
#include "darkfield/tokenizer.h"

#include <stdlib.h>
#include <string.h>

static const char probe[] =
    "It's  a caf\xc3\xa9, e\xcc\x81\n\t12 <s>X \xf0\x9f\x98\x80 \xe2\x96\x81";

static void check_encoding(const df_tokenizer *tokenizer, const char *text, size_t bytes) {
    df_tokens tokens = {0};
    uint32_t before = 0;
    df_status status = df_tokenizer_encode(tokenizer, text, bytes, false, &tokens);
    if (status == DF_OK) {
        for (size_t i = 0; i < tokens.count; i++) {
            if (tokens.id[i] >= df_tokenizer_size(tokenizer)) abort();
            if (tokens.end[i] < before || tokens.end[i] > bytes) abort();
            before = tokens.end[i];
        }
        char *back = NULL;
        size_t n;
        status = df_tokenizer_decode(tokenizer, tokens.id, tokens.count, true, &back, &n);
        if (status != DF_OK && (status != DF_BAD_INPUT || df_error_text()[0] == '\0')) abort();
        df_free(back);
    } else if (status != DF_BAD_INPUT || df_error_text()[0] == '\0') {
        abort();
    }
    df_tokens_free(&tokens);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char divider[] = "\n%text\n";
    size_t n = sizeof divider - 1, file = size, before = df_memory_now();
    for (size_t i = 0; i + n <= size && file == size; i++)
        if (memcmp(data + i, divider, n) == 0) file = i;
    df_tokenizer *tokenizer = NULL;
    df_status status = df_tokenizer_parse((const char *)data, file, "tokenizer.json", &tokenizer);
    if (status == DF_OK) {
        check_encoding(tokenizer, probe, sizeof probe - 1);
        if (file < size) check_encoding(tokenizer, (const char *)data + file + n, size - file - n);
    } else if (status != DF_BAD_INPUT || tokenizer != NULL || df_error_text()[0] == '\0') {
        abort();
    }
    df_tokenizer_close(tokenizer);
    df_error_clear();
    if (df_memory_now() != before) abort();
    return 0;
}
