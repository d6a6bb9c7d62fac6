/* Tokenizers of other families on small vocabularies, against Hugging Face's own implementation
 * (tests/golden/tokenizer_oracle.mjs), long lines among the texts; and folders that hold vocab.json
 * and merges.txt instead of tokenizer.json. */
#include "tokenizer_test.h"

#define GOLDEN DF_SOURCE_DIR "/tests/golden/tokenizer/"

// ---- variants

// The base's file with the variant's parts and settings in place of its own.
static df_tokenizer *open_variant(const json_t *variant) {
    char *path = df_format(GOLDEN "%s", json_string_value(json_array_get(variant, 1)));
    json_t *root = df_test_json(path);
    df_tokenizer *tokenizer;
    assert_int_equal(json_object_update(root, json_array_get(variant, 2)), 0);
    assert_int_equal(json_object_update(json_object_get(root, "model"), json_array_get(variant, 3)),
                     0);
    char *text = json_dumps(root, 0);
    assert_ok(df_tokenizer_parse(text, strlen(text), path, &tokenizer));
    free(text);
    json_decref(root);
    df_free(path);
    return tokenizer;
}

static uint32_t fold(const df_tokens *tokens) {
    uint32_t sum = 0;
    for (size_t i = 0; i < tokens->count; i++) sum = sum * 31 + tokens->id[i] + 1;
    return sum;
}

// The texts: strings.json, then more and the long lines of variants.json.
static json_t *all_texts(const json_t *more, const json_t *long_lines) {
    json_t *texts = df_test_json(GOLDEN "strings.json");
    for (size_t i = 0; i < json_array_size(more); i++)
        json_array_append(texts, json_array_get(more, i));
    for (size_t i = 0; i < json_array_size(long_lines); i++) {
        const json_t *line = json_array_get(long_lines, i), *unit = json_array_get(line, 0);
        size_t n = json_string_length(unit), times = json_integer_value(json_array_get(line, 1));
        char *text = df_alloc(n * times, 1);
        for (size_t t = 0; t < times; t++) memcpy(text + t * n, json_string_value(unit), n);
        json_array_append_new(texts, json_stringn(text, n * times));
        df_free(text);
    }
    return texts;
}

static void check_variant(const json_t *variant, const json_t *texts, const json_t *ids) {
    const char *name = json_string_value(json_array_get(variant, 0));
    const json_t *sums = json_object_get(ids, name);
    df_tokenizer *tokenizer = open_variant(variant);
    df_tokens tokens = {0};
    assert_int_equal(json_array_size(sums), json_array_size(texts));
    for (size_t i = 0; i < json_array_size(texts); i++) {
        const json_t *text = json_array_get(texts, i);
        assert_ok(df_tokenizer_encode(tokenizer, json_string_value(text), json_string_length(text),
                                      true, &tokens));
        bool same = fold(&tokens) == (uint32_t)json_integer_value(json_array_get(sums, i));
        if (!same) print_error("%s: text %zu differs\n", name, i);
        assert_true(same);
        for (size_t t = 1; t < tokens.count; t++) // those of the template end at 0
            assert_true(tokens.end[t] >= tokens.end[t - 1] ||
                        df_tokenizer_is_special(tokenizer, tokens.id[t]));
    }
    df_tokens_free(&tokens);
    df_tokenizer_close(tokenizer);
}

static void golden_variants(void **state) {
    (void)state;
    json_t *file = df_test_json(GOLDEN "variants.json"),
           *ids = df_test_json(GOLDEN "variants.ids.json");
    const json_t *variants = json_object_get(file, "variants");
    json_t *texts = all_texts(json_object_get(file, "more"), json_object_get(file, "long"));
    assert_true(json_array_size(variants) > 20);
    for (size_t i = 0; i < json_array_size(variants); i++)
        check_variant(json_array_get(variants, i), texts, ids);
    json_decref(file);
    json_decref(ids);
    json_decref(texts);
}

// ---- decoders

static uint32_t fold_decoded(const df_tokenizer *tokenizer, const uint32_t *ids, size_t n) {
    uint32_t sum = 0;
    char *text;
    size_t bytes;
    assert_ok(df_tokenizer_decode(tokenizer, ids, n, true, &text, &bytes));
    for (size_t i = 0; i < bytes; i++) sum = sum * 31 + (unsigned char)text[i] + 1;
    df_free(text);
    return sum;
}

static void check_decoder(const json_t *decoder, const json_t *texts, const json_t *sums) {
    const json_t *part = json_array_get(decoder, 2);
    json_t *parts = json_is_null(part) ? json_object() : json_pack("{s:O}", "decoder", part);
    if (json_is_object(part) && json_object_size(part) == 0)
        json_object_set_new(parts, "decoder", json_null());
    json_t *variant =
        json_pack("[O,O,o,{}]", json_array_get(decoder, 0), json_array_get(decoder, 1), parts);
    df_tokenizer *tokenizer = open_variant(variant);
    df_tokens tokens = {0};
    assert_int_equal(json_array_size(sums), 2 * json_array_size(texts));
    for (size_t i = 0; i < json_array_size(texts); i++) {
        const json_t *text = json_array_get(texts, i);
        assert_ok(df_tokenizer_encode(tokenizer, json_string_value(text), json_string_length(text),
                                      true, &tokens));
        for (size_t turn = 0; turn < 2; turn++) {
            bool same = fold_decoded(tokenizer, tokens.id, tokens.count) ==
                        (uint32_t)json_integer_value(json_array_get(sums, 2 * i + turn));
            if (!same)
                print_error("decoder %s: text %zu differs, turn %zu\n",
                            json_string_value(json_array_get(decoder, 0)), i, turn);
            assert_true(same);
            for (size_t a = 0, b = tokens.count; a + 1 < b; a++) {
                uint32_t swap = tokens.id[a];
                tokens.id[a] = tokens.id[--b];
                tokens.id[b] = swap;
            }
        }
    }
    df_tokens_free(&tokens);
    df_tokenizer_close(tokenizer);
    json_decref(variant);
}

static void golden_decoders(void **state) {
    (void)state;
    json_t *file = df_test_json(GOLDEN "variants.json"),
           *sums = df_test_json(GOLDEN "decoded.json");
    const json_t *decoders = json_object_get(file, "decoders");
    json_t *texts = all_texts(json_object_get(file, "more"), NULL);
    assert_true(json_array_size(decoders) > 10);
    for (size_t i = 0; i < json_array_size(decoders); i++) {
        const json_t *decoder = json_array_get(decoders, i);
        check_decoder(decoder, texts,
                      json_object_get(sums, json_string_value(json_array_get(decoder, 0))));
    }
    json_decref(file);
    json_decref(sums);
    json_decref(texts);
}

// ---- folders

static void put(const char *folder, const char *file, const char *text) {
    char *path = df_format("%s/%s", folder, file), *json = df_strdup(text);
    for (char *p = json; *p != '\0'; p++)
        if (*p == '\'') *p = '"';
    assert_ok(df_write_file(path, json, strlen(json)));
    df_free(json);
    df_free(path);
}

#define VOCAB "{'</s>':2,'<pad>':1,'a':3,'b':4,'ab':5,'\u0120a':6,'\u0120':7}"
#define MERGES "#version: 0.2\na b\r\n\u0120 a\n"
#define CONFIG                                                                                     \
    "{'tokenizer_class':'GPT2Tokenizer','add_bos_token':true,'bos_token':{'content':'</s>'},"      \
    "'pad_token':'<pad>','unk_token':'</s>'}"

static void an_older_folder(void **state) {
    (void)state;
    const char *folder = df_test_folder("older");
    size_t before = df_memory_now();
    df_tokenizer *tokenizer;
    put(folder, "vocab.json", VOCAB);
    put(folder, "merges.txt", MERGES);
    put(folder, "tokenizer_config.json", CONFIG);
    assert_ok(df_tokenizer_open_folder(folder, &tokenizer));
    assert_ids(tokenizer, "ab ab a<pad>", "2 5 7 5 6 1");
    assert_int_equal(df_tokenizer_bos(tokenizer), 2);
    assert_true(df_tokenizer_is_special(tokenizer, 1) && !df_tokenizer_is_special(tokenizer, 3));
    uint64_t hash = df_tokenizer_hash(tokenizer);
    df_tokenizer_close(tokenizer);
    put(folder, "added_tokens.json", "{'<new>':8}"); // counts, and changes the hash
    assert_ok(df_tokenizer_open_folder(folder, &tokenizer));
    assert_ids(tokenizer, "a<new>", "2 3 8");
    assert_false(df_tokenizer_is_special(tokenizer, 8));
    assert_true(df_tokenizer_hash(tokenizer) != hash);
    df_tokenizer_close(tokenizer);
    put(folder, "tokenizer_config.json", "{}");        // no template
    char map[1024] = "{'additional_special_tokens':["; // the last one of many counts too
    for (int i = 0; i < 100; i++) strcat(map, "'</s>',");
    put(folder, "special_tokens_map.json", strcat(map, "'<pad>']}"));
    assert_ok(df_tokenizer_open_folder(folder, &tokenizer));
    assert_int_equal(df_tokenizer_bos(tokenizer), -1);
    assert_true(df_tokenizer_is_special(tokenizer, 1));
    df_tokenizer_close(tokenizer);
    put(folder, "tokenizer.json", "{'model':{'vocab':{'a':0},'merges':[]}}"); // goes before
    assert_ok(df_tokenizer_open_folder(folder, &tokenizer));
    assert_int_equal(df_tokenizer_size(tokenizer), 1);
    df_tokenizer_close(tokenizer);
    assert_int_equal(df_memory_now(), before);
}

static void refused(const char *folder, const char *part) {
    df_tokenizer *tokenizer;
    size_t before = df_memory_now();
    assert_fails(df_tokenizer_open_folder(folder, &tokenizer), DF_BAD_INPUT, part);
    assert_null(tokenizer);
    assert_int_equal(df_memory_now(), before);
}

static void damaged_folders(void **state) {
    (void)state;
    const char *folder = df_test_folder("damaged");
    refused(folder, "neither tokenizer.json nor vocab.json");
    put(folder, "vocab.json", VOCAB);
    refused(folder, "neither tokenizer.json nor merges.txt");
    put(folder, "merges.txt", MERGES);
    refused(folder, "need tokenizer_config.json");
    put(folder, "tokenizer_config.json", "[]");
    refused(folder, "tokenizer_config.json does not hold an object");
    put(folder, "tokenizer_config.json", "{'tokenizer_class':'BertTokenizer'}");
    refused(folder, "\"BertTokenizer\"");
    put(folder, "tokenizer_config.json", "{'bos_token':'<s>'}");
    refused(folder, "special token \"<s>\" is not in the vocabulary");
    put(folder, "tokenizer_config.json", "{'add_bos_token':true}");
    refused(folder, "bos_token is no known token");
    put(folder, "tokenizer_config.json", CONFIG);
    put(folder, "merges.txt", "a b\na z\n");
    refused(folder, "\"z\", which is not in the vocabulary");
    put(folder, "merges.txt", "a \xff\n");
    refused(folder, "not UTF-8");
    put(folder, "merges.txt", MERGES);
    put(folder, "vocab.json", "{'a':");
    refused(folder, "vocab.json");
}

// Without any settings GPT-2's own end-of-text token is known.
static void gpt2_files_alone(void **state) {
    (void)state;
    const char *folder = df_test_folder("gpt2");
    df_tokenizer *tokenizer;
    put(folder, "vocab.json", "{'a':0,'b':1,'ab':2,'<|endoftext|>':3}");
    put(folder, "merges.txt", "a b");
    assert_ok(df_tokenizer_open_folder(folder, &tokenizer));
    assert_ids(tokenizer, "ab<|endoftext|>a", "2 3 0");
    assert_true(df_tokenizer_is_special(tokenizer, 3));
    df_tokenizer_close(tokenizer);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_variants),  cmocka_unit_test(golden_decoders),
        cmocka_unit_test(an_older_folder),  cmocka_unit_test(damaged_folders),
        cmocka_unit_test(gpt2_files_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
