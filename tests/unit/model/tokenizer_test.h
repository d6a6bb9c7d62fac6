/* tokenizer_test.h: small tokenizers written inline, and comparing ids. */
#ifndef TOKENIZER_TEST_H
#define TOKENIZER_TEST_H

#include "darkfield/tokenizer.h"
#include "df_test.h"

/* A tokenizer from JSON in which ' stands for ". */
static inline df_status make_tokenizer(const char *json, df_tokenizer **out) {
    char *text = df_strdup(json);
    for (char *p = text; *p != '\0'; p++)
        if (*p == '\'') *p = '"';
    df_status status = df_tokenizer_parse(text, strlen(text), "inline", out);
    df_free(text);
    return status;
}

/* The tokens of `text` are the decimal ids in `expected`. */
static inline void assert_ids(const df_tokenizer *tokenizer, const char *text,
                              const char *expected) {
    df_tokens tokens = {0};
    char got[4096] = "";
    size_t used = 0;
    assert_ok(df_tokenizer_encode(tokenizer, text, strlen(text), true, &tokens));
    for (size_t i = 0; i < tokens.count; i++) {
        const char *gap = i > 0 ? " " : "";
        used += (size_t)snprintf(got + used, sizeof got - used, "%s%u", gap, tokens.id[i]);
        assert_true(used < sizeof got);
    }
    assert_string_equal(got, expected);
    df_tokens_free(&tokens);
}

#endif
