/* The resolved job file reads back to the same values; the help shows what the table holds. */
#include "jobfile_table.h"

static void test_text(void **state) {
    (void)state;
    df_job *job;
    assert_ok(parse("text: {files: [a.jsonl, 'b: c']}\nmodels: {a: {path: ./x, name: 'no'}}\n"
                    "train: {sites: [], latents: 1e3, learning_rate: 0.1}\n",
                    &job));
    char *fixed = df_job_resolved(job, NULL, false),
         *some = df_job_resolved(job, "seed text", false);
    char *loose = df_job_resolved(job, "train", true), *none = df_job_resolved(job, "text", true);
    assert_string_equal(fixed, "seed: 1\n"
                               "text:\n"
                               "  files:\n"
                               "    - a.jsonl\n"
                               "    - \"b: c\"\n"
                               "models:\n"
                               "  a:\n"
                               "    path: ./x\n"
                               "    name: \"no\"\n"
                               "train:\n"
                               "  latents: 1000\n"
                               "  learning_rate: 0.1\n"
                               "  coder: topk\n"
                               "  resume: true\n"
                               "  sites: []\n");
    assert_string_equal(some, "seed: 1\ntext:\n  files:\n    - a.jsonl\n    - \"b: c\"\n");
    assert_string_equal(loose, "train:\n  out: out.dict.h5\n");
    assert_string_equal(none, "");
    df_free(fixed);
    df_free(some);
    df_free(loose);
    df_free(none);
    df_job_free(job);
}

// Texts that a careless writer would spoil.
static const char *const awkward[] = {
    "",
    " ",
    "a b",
    "  lead",
    "trail ",
    "true",
    "Null",
    "~",
    "1e5",
    "-",
    "- x",
    "#x",
    "a #b",
    "a: b",
    "x:",
    "\"",
    "\\",
    "'",
    "\n",
    "a\nb\n",
    "\t",
    "\r\n",
    "\x01\x1f\x7f",
    "*a",
    "&a",
    "!a",
    "%a",
    "@",
    "`",
    "[a]",
    "{a}",
    "?",
    "|",
    ">",
    "caf\xc3\xa9",
    "\xc2\x85",
    "\xc2\xa0",
    "\xe2\x80\xa8",
    "\xef\xbb\xbf",
    "\xef\xbf\xbe",
    "\xef\xbf\xbf",
    "\xf0\x9f\x98\x80",
    "\xed\x9f\xbf",
    "\xe6\xbc\xa2",
    "/abs/path.h5",
    "../up",
    ".5",
    "./x",
    "a,b",
    "---",
    "...",
    "<<",
    "=",
    "y",
    "0o7",
    "2026-11-23",
};

static void check_text(const char *text) {
    char *set = df_format("models.a.path=%s", text);
    const char *sets[] = {set};
    df_job *job, *again;
    assert_ok(parse_with("", sets, 1, &job));
    char *resolved = df_job_resolved(job, NULL, false);
    assert_ok(parse(resolved, &again));
    assert_string_equal(df_job_text(again, "models.a.path"), text);
    df_job_free(job);
    df_job_free(again);
    df_free(resolved);
    df_free(set);
}

static void test_awkward_texts(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof awkward / sizeof *awkward; i++) check_text(awkward[i]);
    for (uint64_t i = 0; i < 3000; i++) { // strings of these, in any order
        char text[200] = "";
        for (uint64_t c = 0; c < 6; c++) {
            uint64_t bits = df_random_bits(c, DF_STREAM_TEST, i);
            strcat(text, awkward[bits % (sizeof awkward / sizeof *awkward)]);
        }
        check_text(text);
    }
}

static void test_numbers(void **state) {
    (void)state;
    static const df_option one[] = {{.key = "a.x", .type = DF_OPT_REAL, .fallback = "0"}};
    for (uint64_t i = 0; i < 3000; i++) {
        double value;
        uint64_t bits = df_random_bits(0, DF_STREAM_TEST, i);
        memcpy(&value, &bits, sizeof value);
        if (!isfinite(value)) continue;
        char *set = df_format("a.x=%.17g", value);
        const char *sets[] = {set};
        df_job *job, *again;
        assert_ok(df_job_parse("r", "", 0, one, 1, sets, 1, &job));
        char *text = df_job_resolved(job, NULL, false);
        assert_ok(df_job_parse("r", text, strlen(text), one, 1, NULL, 0, &again));
        assert_true(df_job_real(again, "a.x") == value);
        df_job_free(job);
        df_job_free(again);
        df_free(text);
        df_free(set);
    }
}

static void test_out_of_memory(void **state) {
    (void)state;
    df_job *job;
    assert_ok(parse("text: {files: [a, b]}\nmodels: {a: {path: 'a long text with blanks'}}", &job));
    size_t before = df_memory_now();
    char *text = NULL;
    for (int64_t k = 0; text == NULL; k++) {
        assert_int_equal(df_memory_now(), before);
        df_memory_fail_after(k);
        text = df_job_resolved(job, NULL, false);
        df_memory_fail_after(-1);
    }
    df_free(text);
    df_job_free(job);
    df_error_clear();
}

static char *help_text(const char *section) {
    char *path = df_format("%s/help", df_test_folder("help")), *text = NULL;
    size_t bytes;
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    df_options_help(file, table, N_TABLE, section);
    fclose(file);
    assert_ok(df_read_file(path, &text, &bytes));
    df_free(path);
    return text;
}

static void test_help(void **state) {
    (void)state;
    char *train = help_text("train"), *all = help_text(NULL);
    assert_non_null(strstr(train, "\ntrain:\n    train.latents: integer, latents, 1 to 1000000000; "
                                  "default 4096\n        width of the dictionary: one row"));
    assert_non_null(strstr(train, "train.coder: one of topk batchtopk relu; default topk\n"));
    assert_null(strstr(train, "text.files"));
    assert_non_null(
        strstr(all, "    text.files: list of texts; must be given\n        corpus files\n"));
    assert_non_null(strstr(all, "models.b.path: text; optional\n"));
    for (char *line = strtok(all, "\n"); line != NULL; line = strtok(NULL, "\n"))
        assert_true(strlen(line) <= 100);
    df_free(train);
    df_free(all);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text),    cmocka_unit_test(test_awkward_texts),
        cmocka_unit_test(test_numbers), cmocka_unit_test(test_out_of_memory),
        cmocka_unit_test(test_help),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
