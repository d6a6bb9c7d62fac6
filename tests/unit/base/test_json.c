/* JSON: typed members, messages with line and key, hostile text. */
#include "df_test.h"

static json_t *parse(const char *text) {
    json_t *root = NULL;
    assert_ok(df_json_parse(text, strlen(text), "config.json", &root));
    return root;
}

static void test_members(void **state) {
    (void)state;
    json_t *o = parse("{\"n\": -12, \"big\": 9223372036854775807, \"x\": 1e-5, \"whole\": 10000,"
                      " \"t\": true, \"s\": \"caf\\u00e9\", \"null\": null}");
    int64_t n = 0;
    double x = 0;
    bool t = false;
    const char *s = NULL;
    assert_ok(df_json_int(o, "c", "n", &n));
    assert_int_equal(n, -12);
    assert_ok(df_json_int(o, "c", "big", &n));
    assert_true(n == INT64_MAX);
    assert_ok(df_json_int_or(o, "c", "none", 5, &n));
    assert_int_equal(n, 5);
    assert_ok(df_json_int_or(o, "c", "null", 6, &n));
    assert_int_equal(n, 6);
    assert_ok(df_json_real_or(o, "c", "x", 0, &x));
    assert_true(x == 1e-5);
    assert_ok(df_json_real_or(o, "c", "whole", 0, &x));
    assert_true(x == 10000);
    assert_ok(df_json_real_or(o, "c", "none", 2.5, &x));
    assert_true(x == 2.5);
    assert_ok(df_json_bool_or(o, "c", "t", false, &t));
    assert_true(t);
    assert_ok(df_json_bool_or(o, "c", "null", false, &t));
    assert_false(t);
    assert_ok(df_json_text(o, "c", "s", &s));
    assert_string_equal(s, "caf\xc3\xa9");
    assert_ok(df_json_text_or(o, "c", "none", NULL, &s));
    assert_null(s);
    json_decref(o);
}

static void test_wrong_members(void **state) {
    (void)state;
    json_t *o = parse("{\"n\": 1.5, \"s\": 3, \"l\": [1], \"null\": null}"), *list = parse("[1]");
    int64_t n;
    double x;
    bool t;
    const char *s;
    assert_fails(df_json_int(o, "config.json", "hidden_size", &n), DF_BAD_INPUT,
                 "config.json: \"hidden_size\" is missing: expected an integer");
    assert_fails(df_json_int(o, "c", "null", &n), DF_BAD_INPUT, "missing");
    assert_fails(df_json_int(o, "c", "n", &n), DF_BAD_INPUT, "expected an integer, found a real");
    assert_fails(df_json_int_or(o, "c", "l", 1, &n), DF_BAD_INPUT, "found an array");
    assert_fails(df_json_real_or(o, "c", "l", 1, &x), DF_BAD_INPUT, "expected a number");
    assert_fails(df_json_bool_or(o, "c", "s", true, &t), DF_BAD_INPUT, "expected true or false");
    assert_fails(df_json_text(o, "c", "s", &s), DF_BAD_INPUT,
                 "expected a string, found an integer");
    assert_fails(df_json_text(o, "c", "none", &s), DF_BAD_INPUT, "missing");
    assert_fails(df_json_text_or(list, "c", "none", "", &s), DF_BAD_INPUT, "found an array");
    assert_fails(df_json_int(NULL, "c", "none", &n), DF_BAD_INPUT, "found nothing");
    json_decref(o);
    json_decref(list);
}

static void test_bad_text(void **state) {
    (void)state;
    static const char *const bad[] = {
        "",
        "{",
        "{\"a\": 1,}",
        "{\"a\": 1, \"a\": 2}",
        "{\"a\": NaN}",
        "[1] 2",
        "{'a': 1}",
        "\"\xff\"",
        "{\"a\": 99999999999999999999}",
        "[1e999]",
        "\"\\u0000\"",
        "\"\\ud800\"",
    };
    json_t *root = NULL;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_fails(df_json_parse(bad[i], strlen(bad[i]), "tokenizer.json", &root), DF_BAD_INPUT,
                     "tokenizer.json:");
        assert_null(root);
    }
    assert_fails(df_json_parse("{\n\n \"a\": x}", 11, "t.json", &root), DF_BAD_INPUT, "t.json:3:");
}

static void test_deep_nesting(void **state) {
    (void)state;
    size_t n = 1000000;
    char *deep = df_alloc(n, 1);
    json_t *root = NULL;
    memset(deep, '[', n);
    assert_fails(df_json_parse(deep, n, "deep", &root), DF_BAD_INPUT, "deep:");
    df_free(deep);
}

// Cut anywhere, changed anywhere: a value or a message, never a crash.
static void test_cut_and_changed(void **state) {
    (void)state;
    static const char good[] =
        "{\"a\": [1, 2.5e3, \"x\\n\\u00e9\"], \"b\": {\"c\": null, \"d\": true}}";
    char text[sizeof good];
    json_t *root;
    for (size_t n = 0; n < sizeof good - 1; n++)
        assert_fails(df_json_parse(good, n, "cut", &root), DF_BAD_INPUT, "cut:");
    for (uint64_t i = 0; i < 30000; i++) {
        memcpy(text, good, sizeof good);
        for (uint64_t c = 0; c < 1 + i % 3; c++) {
            uint64_t bits = df_random_bits(c, DF_STREAM_TEST, i);
            text[(bits >> 8) % (sizeof good - 1)] = (char)bits;
        }
        df_status status = df_json_parse(text, sizeof good - 1, "changed", &root);
        assert_true(status == DF_BAD_INPUT ? root == NULL : status == DF_OK);
        json_decref(root);
    }
    df_error_clear();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_members),         cmocka_unit_test(test_wrong_members),
        cmocka_unit_test(test_bad_text),        cmocka_unit_test(test_deep_nesting),
        cmocka_unit_test(test_cut_and_changed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
