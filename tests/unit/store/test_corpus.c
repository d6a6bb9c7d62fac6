/* Text corpora: documents, labels, repair of UTF-8, errors with their line, mutations. */
#include "df_test.h"

#include "darkfield/store.h"

static char folder[256], path[400];

static int set_up(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "%s", df_test_folder("store-corpus"));
    return 0;
}

static void put(const char *name, const char *bytes, size_t n) {
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_true(fwrite(bytes, 1, n, file) == n && fclose(file) == 0);
}

static df_corpus *open_text(const char *name, const char *text, const char *labels) {
    df_corpus *corpus;
    put(name, text, strlen(text));
    assert_ok(df_corpus_open(path, &(df_corpus_how){.labels = labels}, &corpus));
    return corpus;
}

static void assert_text(const df_corpus *corpus, uint64_t document, const char *expected) {
    size_t n;
    const char *text = df_corpus_text(corpus, document, &n);
    assert_int_equal(n, strlen(expected));
    assert_memory_equal(text, expected, n + 1);
}

static void lines_become_documents(void **state) {
    (void)state;
    df_corpus *corpus = open_text("a.jsonl",
                                  "\xef\xbb\xbf{\"text\": \"One\\n\\u00e9\", \"x\": [1]}\r\n\n  \n"
                                  "{\"text\": \"\"}\n{\"x\": 1, \"text\": \"last, no newline\"}",
                                  NULL);
    assert_int_equal(df_corpus_documents(corpus), 3);
    assert_text(corpus, 0, "One\n\xc3\xa9");
    assert_text(corpus, 1, "");
    assert_text(corpus, 2, "last, no newline");
    assert_int_equal(df_corpus_concepts(corpus), 0);
    df_corpus_close(&corpus);
    assert_int_equal(df_memory_now(), 0);
}

static void a_part_or_another_field_can_be_asked_for(void **state) {
    (void)state;
    df_corpus *corpus;
    uint64_t hash;
    const char *text = "{\"body\": \"a\"}\n{\"body\": \"b\"}\nnot JSON, never reached\n";
    put("b.ndjson", text, strlen(text));
    assert_ok(df_corpus_open(path, &(df_corpus_how){.field = "body", .max_documents = 2}, &corpus));
    assert_int_equal(df_corpus_documents(corpus), 2);
    hash = df_corpus_hash(corpus);
    df_corpus_close(&corpus);
    assert_ok(df_corpus_open(path, &(df_corpus_how){.field = "body", .max_documents = 1}, &corpus));
    assert_true(df_corpus_hash(corpus) != hash);
    df_corpus_close(&corpus);
    corpus = open_text("c.jsonl", "{\"text\": \"ab\"}\n", NULL); // other borders, another hash
    assert_true(df_corpus_hash(corpus) != hash);
    df_corpus_close(&corpus);
}

static void plain_text_is_one_document(void **state) {
    (void)state;
    df_corpus *corpus = open_text("plain.txt", "Two\nlines {\n", NULL);
    assert_int_equal(df_corpus_documents(corpus), 1);
    assert_text(corpus, 0, "Two\nlines {\n");
    df_corpus_close(&corpus);
    assert_fails(df_corpus_open(path, &(df_corpus_how){.labels = "concepts"}, &corpus),
                 DF_BAD_INPUT, "need JSON Lines");
}

static void labels_are_sorted_by_name(void **state) {
    (void)state;
    size_t n;
    df_corpus *corpus =
        open_text("l.jsonl",
                  "{\"text\": \"abcdef\", \"labels\": [[\"town\", 0, 2], [\"capital\", 5, 6]]}\n"
                  "{\"text\": \"none\"}\n"
                  "{\"text\": \"xyz\", \"labels\": [[\"town\", 1, 3]]}\n",
                  "labels");
    assert_int_equal(df_corpus_concepts(corpus), 2);
    assert_string_equal(df_corpus_concept(corpus, 0), "capital");
    assert_string_equal(df_corpus_concept(corpus, 1), "town");
    const df_span *spans = df_corpus_spans(corpus, 0, &n);
    assert_int_equal(n, 2);
    assert_true(spans[0].concept == 1 && spans[0].first == 0 && spans[0].end == 2);
    assert_true(spans[1].concept == 0 && spans[1].first == 5 && spans[1].end == 6);
    df_corpus_spans(corpus, 1, &n);
    assert_int_equal(n, 0);
    assert_int_equal(df_corpus_spans(corpus, 2, &n)[0].concept, 1);
    df_corpus_close(&corpus);
}

// Maximal subparts, as Unicode (and Python's "replace") has it.
static void invalid_utf8_is_replaced(void **state) {
    (void)state;
    static const struct {
        const char *in, *out;
    } cases[] = {
        {"a\xff"
         "b",
         "a\xef\xbf\xbd"
         "b"},
        {"\xc3", "\xef\xbf\xbd"},
        {"\xe2\x82x", "\xef\xbf\xbdx"},
        {"\xf0\x9f\x98", "\xef\xbf\xbd"},
        {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xc0\xaf", "\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xf4\x90\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xf0\x9f\x98\x80 \xe2\x82\xac", "\xf0\x9f\x98\x80 \xe2\x82\xac"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char line[64];
        df_corpus *corpus = open_text("bad.txt", cases[i].in, NULL);
        assert_text(corpus, 0, cases[i].out);
        df_corpus_close(&corpus);
        snprintf(line, sizeof line, "{\"text\": \"%s\"}", cases[i].in);
        corpus = open_text("bad.jsonl", line, NULL);
        assert_text(corpus, 0, cases[i].out);
        df_corpus_close(&corpus);
    }
    assert_true(df_warnings() > 0);
}

static void bad(const char *text, const char *labels, const char *because) {
    df_corpus *corpus;
    put("bad.jsonl", text, strlen(text));
    assert_fails(df_corpus_open(path, &(df_corpus_how){.labels = labels}, &corpus), DF_BAD_INPUT,
                 because);
    assert_null(corpus);
    assert_int_equal(df_memory_now(), 0);
}

static void errors_name_the_line(void **state) {
    (void)state;
    df_corpus *corpus;
    bad("{\"text\": \"a\"}\n{\"text\": \"b\"\n", NULL, "line 2");
    bad("{\"text\": \"a\"}\n\n[1]\n", NULL, "bad.jsonl:3: expected a JSON object");
    bad("{\"test\": \"a\"}", NULL, "bad.jsonl:1: expected a string \"text\"");
    bad("{\"text\": 5}", NULL, "another type");
    bad("{\"text\": \"a\", \"text\": \"b\"}", NULL, "line 1");
    bad("", NULL, "holds no documents");
    bad("\n \n", NULL, "holds no documents");
    bad("{\"text\": \"\\ud800\"}", NULL, "line 1");
    bad("{\"text\": \"abc\", \"l\": {}}", "l", "bad.jsonl:1: \"l\": it is no array");
    bad("{\"text\": \"abc\", \"l\": [[\"a\", 0, 4]]}", "l", "past the end");
    bad("{\"text\": \"abc\", \"l\": [[\"a\", 2, 2]]}", "l", "empty");
    bad("{\"text\": \"abc\", \"l\": [[\"a\", -1, 2]]}", "l", "empty or");
    bad("{\"text\": \"abc\", \"l\": [[\"a\", 1]]}", "l", "not of that form");
    assert_fails(df_corpus_open("/no/such.jsonl", &(df_corpus_how){.field = NULL}, &corpus),
                 DF_BAD_INPUT, "/no/such.jsonl");
}

static void mutations_never_crash(void **state) {
    (void)state;
    const char seed[] = "{\"text\": \"ab\\u00e9 c\xc3\xa9\", \"l\": [[\"x\", 0, 2], [\"y\", 1, "
                        "3]]}\n{\"text\": \"b\"}\n";
    size_t opened = 0;
    for (uint64_t i = 0; i < 3000; i++) {
        char bytes[sizeof seed];
        df_corpus *corpus;
        memcpy(bytes, seed, sizeof seed);
        for (uint64_t j = 0; j <= i % 4; j++) {
            uint64_t r = df_random_bits(i, DF_STREAM_TEST, j);
            bytes[r % (sizeof seed - 1)] = (char)(r >> 32);
        }
        put("m.jsonl", bytes, sizeof seed - 1 - (i % 3 == 0 ? i % sizeof seed / 2 : 0));
        df_status status = df_corpus_open(path, &(df_corpus_how){.labels = "l"}, &corpus);
        assert_true(status == DF_OK || status == DF_BAD_INPUT);
        opened += status == DF_OK;
        df_corpus_close(&corpus);
        assert_int_equal(df_memory_now(), 0);
    }
    assert_true(opened > 10 && opened < 2990);
    df_error_clear();
}

static void failing_memory_is_survived(void **state) {
    (void)state;
    df_corpus *corpus = NULL;
    const char *text = "{\"text\": \"a\xff\", \"l\": [[\"x\", 0, 1]]}\n{\"text\": \"b\"}\n";
    put("m.jsonl", text, strlen(text));
    for (int64_t call = 0;; call++) {
        df_memory_fail_after(call);
        df_status status = df_corpus_open(path, &(df_corpus_how){.labels = "l"}, &corpus);
        df_memory_fail_after(-1);
        if (status == DF_OK) break;
        assert_int_equal(status, DF_FAILED);
        assert_int_equal(df_memory_now(), 0);
        assert_true(call < 1000);
    }
    df_corpus_close(&corpus);
    df_error_clear();
}

static void the_quickstart_text_is_read(void **state) {
    (void)state;
    df_corpus *corpus;
    size_t spans = 0, n;
    assert_ok(df_corpus_open(DF_SOURCE_DIR "/jobs/quickstart/text.jsonl",
                             &(df_corpus_how){.labels = "concepts"}, &corpus));
    assert_int_equal(df_corpus_documents(corpus), 6000);
    for (uint64_t d = 0; d < 6000; d++) {
        df_corpus_spans(corpus, d, &n);
        spans += n;
    }
    assert_true(df_corpus_concepts(corpus) > 10 && spans > 10000);
    df_corpus_close(&corpus);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines_become_documents),
        cmocka_unit_test(a_part_or_another_field_can_be_asked_for),
        cmocka_unit_test(plain_text_is_one_document),
        cmocka_unit_test(labels_are_sorted_by_name),
        cmocka_unit_test(invalid_utf8_is_replaced),
        cmocka_unit_test(errors_name_the_line),
        cmocka_unit_test(mutations_never_crash),
        cmocka_unit_test(failing_memory_is_survived),
        cmocka_unit_test(the_quickstart_text_is_read),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
