/* Real vocabularies against the public llama.cpp vectors; skipped without DARKFIELD_FIXTURES.
 * Prints the speed of English text with the GPT-2 vocabulary. */
#include "tokenizer_test.h"

static const char *fixtures;

static char *fixture(const char *name, size_t *bytes) {
    char *path = df_format("%s/%s", fixtures, name), *text;
    assert_ok(df_read_file(path, &text, bytes));
    df_free(path);
    return text;
}

static df_tokenizer *open_fixture(const char *name) {
    char *path = df_format("%s/%s", fixtures, name);
    df_tokenizer *tokenizer;
    assert_ok(df_tokenizer_open(path, &tokenizer));
    df_free(path);
    return tokenizer;
}

// Strings separated by a line __ggml_vocab_test__ and their ids without template, one line each.
static void check_vectors(const df_tokenizer *tokenizer, const char *name,
                          size_t expected_strings) {
    static const char separator[] = "\n__ggml_vocab_test__\n";
    char in[100], out[100];
    size_t n, strings = 0;
    snprintf(in, sizeof in, "tokenizers/vectors/%s.inp", name);
    snprintf(out, sizeof out, "tokenizers/vectors/%s.out", name);
    char *texts = fixture(in, &n), *ids = fixture(out, &n), *text = texts, *id = ids;
    df_tokens tokens = {0};
    for (char *end; (end = strstr(text, separator)) != NULL; strings++) {
        assert_ok(df_tokenizer_encode(tokenizer, text, (size_t)(end - text), false, &tokens));
        for (size_t i = 0; i < tokens.count; i++)
            assert_int_equal(tokens.id[i], strtoul(id, &id, 10));
        assert_int_equal(strspn(id, " "), strcspn(id, "\n"));
        id += strcspn(id, "\n") + 1;
        text = end + sizeof separator - 1;
    }
    assert_int_equal(strings, expected_strings);
    df_tokens_free(&tokens);
    df_free(texts);
    df_free(ids);
}

// A folder with GPT-2's two files under the names that they have in Hugging Face folders.
static df_tokenizer *gpt2(void) {
    static const char *const names[][2] = {{"tokenizers/gpt2/encoder.json", "vocab.json"},
                                           {"tokenizers/gpt2/vocab.bpe", "merges.txt"}};
    const char *folder = df_test_folder("gpt2-files");
    df_tokenizer *tokenizer;
    for (int i = 0; i < 2; i++) {
        size_t n;
        char *text = fixture(names[i][0], &n), *path = df_format("%s/%s", folder, names[i][1]);
        assert_ok(df_write_file(path, text, n));
        df_free(text);
        df_free(path);
    }
    assert_ok(df_tokenizer_open_folder(folder, &tokenizer));
    return tokenizer;
}

static void public_vectors(void **state) {
    (void)state;
    static const char *const files[][2] = {{"tokenizers/hf/falcon.json", "falcon"},
                                           {"tokenizers/pythia/20B_tokenizer.json", "mpt"},
                                           {"tokenizers/hf/phi-3-mini.json", "phi-3"},
                                           {"tokenizers/hf/phi-3-mini.json", "llama-spm"}};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        df_tokenizer *tokenizer = open_fixture(files[i][0]);
        check_vectors(tokenizer, files[i][1], 46);
        df_tokenizer_close(tokenizer);
    }
    df_tokenizer *tokenizer = gpt2();
    check_vectors(tokenizer, "gpt-2", 46);
    df_tokenizer_close(tokenizer);
}

// This copy of Llama 2's file has lost its no-break spaces: three merges cannot be read.
static void a_damaged_copy(void **state) {
    (void)state;
    char *path = df_format("%s/tokenizers/hf/llama2.json", fixtures);
    df_tokenizer *tokenizer;
    assert_fails(df_tokenizer_open(path, &tokenizer), DF_BAD_INPUT, "merge 18917");
    df_free(path);
}

// The token ids of the stories pair's reference file.
static void stories_reference(void **state) {
    (void)state;
    df_tokenizer *tokenizer = open_fixture("stories-pair/base/tokenizer.json");
    assert_ids(tokenizer, "Once upon a time, there was a little girl named Lily. She",
               "1 403 407 261 378 432 383 286 261 376 298 315 421 395 317 426 338");
    assert_ids(
        tokenizer, "ROMEO:\nWhat light through yonder window breaks?",
        "1 410 461 441 446 459 441 467 13 448 415 294 278 333 415 413 308 420 277 428 415 348 414 "
        "264 285 263 417 264 327 268 276 412 433 419 450");
    assert_ids(tokenizer, "The red ball and the red", "1 291 352 266 268 388 269 265 352 266");
    df_tokenizer_close(tokenizer);
}

static void speed(void **state) {
    (void)state;
    size_t bytes;
    char *text = fixture("text/wikitext2.valid.txt", &bytes);
    df_tokenizer *tokenizer = gpt2();
    df_tokens tokens = {0};
    double start = df_now();
    assert_ok(df_tokenizer_encode(tokenizer, text, bytes, false, &tokens));
    double first = df_now();
    assert_ok(df_tokenizer_encode(tokenizer, text, bytes, false, &tokens));
    double second = df_now();
    print_message("%zu bytes of English, %zu tokens: %.1f MB/s, %.1f with words seen before\n",
                  bytes, tokens.count, (double)bytes / (first - start) / 1e6,
                  (double)bytes / (second - first) / 1e6);
    df_tokens_free(&tokens);
    df_tokenizer_close(tokenizer);
    df_free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(public_vectors),
        cmocka_unit_test(a_damaged_copy),
        cmocka_unit_test(stories_reference),
        cmocka_unit_test(speed),
    };
    fixtures = getenv("DARKFIELD_FIXTURES");
    if (fixtures == NULL) {
        printf("skipped: DARKFIELD_FIXTURES is not set\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
