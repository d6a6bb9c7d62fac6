/* Tokenizers against golden ids (tests/golden/tokenizer_oracle.mjs), and what must hold for any
 * text. */
#include "tokenizer_test.h"

#define GOLDEN DF_SOURCE_DIR "/tests/golden/tokenizer/"
#define POCKET DF_SOURCE_DIR "/jobs/quickstart/base/tokenizer.json"
#define GPT2_LIKE GOLDEN "gpt2_like.json"
#define FALLBACK GOLDEN "fallback.json"

static void compare(const df_tokens *tokens, const json_t *ids, size_t number) {
    bool same = tokens->count == json_array_size(ids);
    for (size_t i = 0; same && i < tokens->count; i++)
        same = tokens->id[i] == (uint32_t)json_integer_value(json_array_get(ids, i));
    if (!same) print_error("string %zu differs\n", number);
    assert_true(same);
}

static void compare_all(const char *path, const char *ids_path) {
    json_t *strings = df_test_json(GOLDEN "strings.json"), *ids = df_test_json(ids_path);
    df_tokenizer *tokenizer;
    df_tokens tokens = {0};
    assert_ok(df_tokenizer_open(path, &tokenizer));
    assert_int_equal(json_array_size(strings), json_array_size(ids));
    for (int round = 0; round < 2; round++) // the second finds its words in the cache
        for (size_t i = 0; i < json_array_size(strings); i++) {
            const json_t *text = json_array_get(strings, i);
            assert_ok(df_tokenizer_encode(tokenizer, json_string_value(text),
                                          json_string_length(text), true, &tokens));
            compare(&tokens, json_array_get(ids, i), i);
        }
    df_tokens_free(&tokens);
    df_tokenizer_close(tokenizer);
    json_decref(strings);
    json_decref(ids);
}

static void golden_ids(void **state) {
    (void)state;
    compare_all(POCKET, GOLDEN "pocket.ids.json");
    compare_all(GPT2_LIKE, GOLDEN "gpt2_like.ids.json");
    compare_all(FALLBACK, GOLDEN "fallback.ids.json");
}

// Token i shows the bytes between the ends of i - 1 and i; a prepended space may stand before them.
static void check_places(const df_tokenizer *tokenizer, const char *text, size_t bytes,
                         bool exact) {
    df_tokens tokens = {0};
    uint32_t before = 0;
    assert_ok(df_tokenizer_encode(tokenizer, text, bytes, false, &tokens));
    for (size_t i = 0; i < tokens.count; i++) {
        size_t n, taken = tokens.end[i] - before;
        const char *piece = df_tokenizer_piece(tokenizer, tokens.id[i], &n);
        assert_true(tokens.end[i] >= before && tokens.end[i] <= bytes);
        size_t extra = exact || n == taken ? 0 : 1;
        if (extra == 1) assert_int_equal(piece[0], ' ');
        assert_int_equal(n, taken + extra);
        assert_memory_equal(piece + extra, text + before, taken);
        before = tokens.end[i];
    }
    assert_int_equal(before, bytes);
    df_tokens_free(&tokens);
}

static void places_in_the_text(void **state) {
    (void)state;
    json_t *strings = df_test_json(GOLDEN "strings.json");
    df_tokenizer *pocket, *fallback;
    assert_ok(df_tokenizer_open(POCKET, &pocket));
    assert_ok(df_tokenizer_open(FALLBACK, &fallback));
    for (size_t i = 0; i < json_array_size(strings); i++) {
        const char *text = json_string_value(json_array_get(strings, i));
        size_t bytes = json_string_length(json_array_get(strings, i));
        check_places(pocket, text, bytes, true);
        if (strstr(text, "\xe2\x96\x81") == NULL) check_places(fallback, text, bytes, false);
    }
    df_tokenizer_close(pocket);
    df_tokenizer_close(fallback);
    json_decref(strings);
}

// Normalization keeps places: composed characters end where their source ends.
static void places_after_composition(void **state) {
    (void)state;
    static const char text[] = "e\xcc\x81 \xe1\x84\x92\xe1\x85\xa1\xe1\x86\xab!";
    df_tokenizer *tokenizer;
    df_tokens tokens = {0};
    assert_ok(df_tokenizer_open(GPT2_LIKE, &tokenizer));
    assert_ok(df_tokenizer_encode(tokenizer, text, sizeof text - 1, true, &tokens));
    uint32_t last = 0;
    for (size_t i = 0; i < tokens.count; i++) {
        uint32_t end = tokens.end[i];
        assert_true(end >= last && (end == 3 || end == 4 || end == 13 || end == 14));
        last = end;
    }
    assert_int_equal(last, 14);
    df_tokens_free(&tokens);
    df_tokenizer_close(tokenizer);
}

static void decodes_back(void **state) {
    (void)state;
    static const char *const paths[] = {POCKET, FALLBACK};
    json_t *strings = df_test_json(GOLDEN "strings.json");
    for (int p = 0; p < 2; p++) {
        df_tokenizer *tokenizer;
        df_tokens tokens = {0};
        assert_ok(df_tokenizer_open(paths[p], &tokenizer));
        for (size_t i = 0; i < json_array_size(strings); i++) {
            const char *text = json_string_value(json_array_get(strings, i));
            size_t bytes = strlen(text), n;
            char *back;
            // space marks and special tokens in the text do not come back as they were
            if (p == 1 && (strstr(text, "\xe2\x96\x81") || strchr(text, '<'))) continue;
            assert_ok(df_tokenizer_encode(tokenizer, text, bytes, false, &tokens));
            assert_ok(df_tokenizer_decode(tokenizer, tokens.id, tokens.count, false, &back, &n));
            assert_int_equal(n, bytes);
            assert_string_equal(back, text);
            df_free(back);
        }
        df_tokens_free(&tokens);
        df_tokenizer_close(tokenizer);
    }
    json_decref(strings);
}

static void pieces_and_parts(void **state) {
    (void)state;
    df_tokenizer *tokenizer;
    char *text;
    size_t bytes;
    assert_ok(df_tokenizer_open(FALLBACK, &tokenizer));
    assert_int_equal(df_tokenizer_bos(tokenizer), 1);
    assert_true(df_tokenizer_is_special(tokenizer, 2) && !df_tokenizer_is_special(tokenizer, 3));
    assert_string_equal(df_tokenizer_piece(tokenizer, 1, &bytes), "<s>");
    assert_string_equal(df_tokenizer_piece(tokenizer, 3 + 'A', &bytes), "A");
    assert_int_equal(bytes, 1);
    assert_string_equal(df_tokenizer_piece(tokenizer, 1u << 30, &bytes), "");
    assert_int_equal(bytes, 0);
    assert_int_equal(df_tokenizer_find(tokenizer, "</s>"), 2);
    assert_int_equal(df_tokenizer_find(tokenizer, "no such token"), -1);
    uint32_t broken[] = {1, 3 + 0xe2, 3 + 0x82, 3 + 'B'};
    assert_ok(df_tokenizer_decode(tokenizer, broken, 4, true, &text, &bytes));
    assert_string_equal(text,
                        "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"); // one for each byte of the run
    df_free(text);
    df_tokenizer_close(tokenizer);
    assert_ok(df_tokenizer_open(POCKET, &tokenizer));
    assert_int_equal(df_tokenizer_size(tokenizer), 640);
    assert_int_equal(df_tokenizer_bos(tokenizer), 639);
    assert_string_equal(df_tokenizer_piece(tokenizer, 32, &bytes), " ");
    uint32_t cut[] = {0xe2, 0x82, 'B'}; // a character cut short is one U+FFFD
    assert_ok(df_tokenizer_decode(tokenizer, cut, 3, true, &text, &bytes));
    assert_string_equal(text, "\xef\xbf\xbd"
                              "B");
    df_free(text);
    df_tokenizer_close(tokenizer);
}

// One word of 100,000 characters is many small ones laid end to end where no merge crosses.
static void a_long_line(void **state) {
    (void)state;
    enum { LENGTH = 100000 };
    static const char *const paths[] = {POCKET, GPT2_LIKE, FALLBACK};
    char *text = df_alloc(LENGTH, 1);
    for (int p = 0; p < 3; p++) {
        df_tokenizer *tokenizer;
        df_tokens tokens = {0};
        assert_ok(df_tokenizer_open(paths[p], &tokenizer));
        for (int kind = 0; kind < 3; kind++) {
            for (size_t i = 0; i < LENGTH; i++)
                text[i] = kind == 0   ? "the"[i % 3]
                          : kind == 1 ? ' '
                                      : (char)('a' + df_random_bits(1, DF_STREAM_TEST, i) % 26);
            assert_ok(df_tokenizer_encode(tokenizer, text, LENGTH, true, &tokens));
            assert_true(tokens.count > 100 && tokens.count <= LENGTH + 2);
            assert_int_equal(tokens.end[tokens.count - 1], LENGTH);
        }
        df_tokens_free(&tokens);
        df_tokenizer_close(tokenizer);
    }
    df_free(text);
}

// Many threads share a tokenizer; each gets what one alone gets.
static void threads_agree(void **state) {
    (void)state;
    json_t *strings = df_test_json(GOLDEN "strings.json"),
           *ids = df_test_json(GOLDEN "pocket.ids.json");
    df_tokenizer *tokenizer;
    int wrong = 0;
    assert_ok(df_tokenizer_open(POCKET, &tokenizer));
#pragma omp parallel for num_threads(4) reduction(+ : wrong)
    for (int task = 0; task < 8; task++) {
        df_tokens tokens = {0};
        for (size_t i = 0; i < json_array_size(strings); i++) {
            const json_t *text = json_array_get(strings, i), *expected = json_array_get(ids, i);
            df_status status = df_tokenizer_encode(tokenizer, json_string_value(text),
                                                   json_string_length(text), true, &tokens);
            wrong += status != DF_OK || tokens.count != json_array_size(expected);
            for (size_t j = 0; j < tokens.count; j++)
                wrong += tokens.id[j] != (uint32_t)json_integer_value(json_array_get(expected, j));
        }
        df_tokens_free(&tokens);
    }
    assert_int_equal(wrong, 0);
    df_tokenizer_close(tokenizer);
    json_decref(strings);
    json_decref(ids);
}

// One df_tokens may go from one tokenizer to another, and closes without leaks.
static void tokens_change_tokenizer(void **state) {
    (void)state;
    size_t before = df_memory_now();
    df_tokens tokens = {0};
    for (int i = 0; i < 4; i++) {
        df_tokenizer *tokenizer;
        assert_ok(df_tokenizer_open(i % 2 == 0 ? POCKET : FALLBACK, &tokenizer));
        assert_ok(df_tokenizer_encode(tokenizer, "the town", 8, true, &tokens));
        assert_int_equal(tokens.id[0], df_tokenizer_bos(tokenizer));
        assert_int_equal(tokens.end[0], 0);
        assert_int_equal(tokens.end[tokens.count - 1], 8);
        size_t n;
        char *text;
        assert_ok(df_tokenizer_decode(tokenizer, tokens.id, tokens.count, true, &text, &n));
        assert_string_equal(text, "the town");
        df_free(text);
        df_tokenizer_close(tokenizer);
    }
    df_tokens_free(&tokens);
    assert_int_equal(df_memory_now(), before);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_ids),       cmocka_unit_test(places_in_the_text),
        cmocka_unit_test(decodes_back),     cmocka_unit_test(places_after_composition),
        cmocka_unit_test(pieces_and_parts), cmocka_unit_test(a_long_line),
        cmocka_unit_test(threads_agree),    cmocka_unit_test(tokens_change_tokenizer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
