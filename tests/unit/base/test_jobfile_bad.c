/* Job files that are wrong: a message with its line for each, and hostile ones never crash. */
#include "jobfile_table.h"

static const struct {
    const char *text, *part;
} bad[] = {
    // keys
    {"seed: 1\ntrain:\n  latent: 5\n",
     "run.yaml:3: unknown key 'train.latent'; did you mean 'train.latents'?"},
    {"trian:\n  latents: 5\n", "run.yaml:1: unknown key 'trian'; did you mean 'train'?"},
    {"models:\n  c:\n    path: x\n",
     "run.yaml:2: unknown key 'models.c', and no known key is near"},
    {"\nlearning_rate: 1\n", "run.yaml:2: unknown key 'learning_rate'; did you mean "
                             "'train.learning_rate'?"},
    {"wavelength: 3\n", "run.yaml:1: unknown key 'wavelength', and no known key is near"},
    {"train.latents: 5\n", "run.yaml:1: a key holds no dots"},
    {"seed: 1\nseed: 2\n", "run.yaml:2: duplicate key 'seed', first given in line 1"},
    {"train:\n  latents: 1\n\nseed: 2\ntrain:\n  coder: topk\n",
     "run.yaml:5: duplicate key 'train', first given in line 1"},
    {"models:\n  a: {path: x}\n  a: {name: y}\n", "run.yaml:3: duplicate key 'models.a'"},
    {"[seed]: 1\n", "a key must be a plain word"},
    {"{a: b}: 1\n", "a key must be a plain word"},
    {"\"\": 1\n", "a key must be a plain word"},
    {"\"seed\\0x\": 1\n", "a key must be a plain word"},
    // shapes
    {"- seed\n", "run.yaml:1: a job file is a mapping"},
    {"seed\n", "run.yaml:1: a job file is a mapping"},
    {"train: 5\n", "run.yaml:1: 'train' is a section: expected keys indented below it"},
    {"train: [latents]\n", "'train' is a section"},
    {"seed:\n  value: 3\n", "run.yaml:2: seed: expected a single value, found a mapping"},
    {"seed: [3]\n", "run.yaml:1: seed: expected a single value, found a list"},
    {"text:\n  files: a.txt\n", "run.yaml:2: text.files: expected a list"},
    {"text:\n  files: {a: b}\n", "expected a list ([a, b], or one '- item' a line), found a mapp"},
    {"text:\n  files:\n  - [a]\n", "run.yaml:3: a list holds texts only"},
    {"text:\n  files: [a, ~]\n", "null is not a value"},
    {"seed: 1\n---\nseed: 2\n", "a job file holds one document, here a second one begins"},
    // values
    {"seed:\n", "run.yaml:1: the value is missing"},
    {"seed: null\n", "null is not a value"},
    {"seed: ~\n", "null is not a value"},
    {"seed: 1.5\n", "run.yaml:1: seed: expected an integer, found '1.5'"},
    {"seed: 0x10\n", "expected an integer, found '0x10'"},
    {"seed: 1_000\n", "expected an integer"},
    {"seed: 9223372036854775808\n", "expected an integer"},
    {"seed: 1e300\n", "expected an integer"},
    {"seed: --1\n", "expected an integer"},
    {"seed: ''\n", "expected an integer, found ''"},
    {"train:\n  latents: 0\n", "run.yaml:2: train.latents: expected a value from 1 to 1000000000"},
    {"train: {learning_rate: .nan}\n", "train.learning_rate: expected a number, found '.nan'"},
    {"train: {learning_rate: inf}\n", "expected a number"},
    {"train: {learning_rate: 1e999}\n", "expected a number"},
    {"train: {learning_rate: 1e}\n", "expected a number"},
    {"train: {learning_rate: 2}\n", "expected a value from 0 to 1, found '2'"},
    {"train: {resume: yes}\n", "train.resume: expected true or false, found 'yes'"},
    {"train: {coder: top}\n", "train.coder: expected one of: topk batchtopk relu, found 'top'"},
    {"train: {coder: 'topk batchtopk'}\n", "expected one of"},
    {"train: {coder: ''}\n", "expected one of"},
    {"train: {out: \"a\\0b\"}\n", "the value holds a zero byte"},
    // what YAML offers and job files do not
    {"seed: &x 3\n", "run.yaml:1: anchors (&name) are not allowed"},
    {"train: &t\n  latents: 4\n", "anchors (&name) are not allowed"},
    {"text:\n  files: &f [a]\n", "run.yaml:2: anchors"},
    {"seed: *x\n", "run.yaml:1: aliases (*name) are not allowed"},
    {"*x : 1\n", "aliases (*name) are not allowed"},
    {"seed: !!int 3\n", "run.yaml:1: tags (!name) are not allowed"},
    {"train: !!map {latents: 3}\n", "tags (!name) are not allowed"},
    {"seed: ! 3\n", "tags (!name) are not allowed"},
    {"%TAG !e! tag:x,2000:\n---\nseed: 1\n", "tag directives (%TAG) are not allowed"},
    {"train:\n  <<: {latents: 3}\n", "run.yaml:2: merge keys (<<) are not allowed"},
    // what is no YAML
    {"seed: 1\nbad\n", "while scanning a simple key begun in line 2"},
    {"train:\n\tlatents: 3\n", "run.yaml:2: not valid YAML"},
    {"text: {files: [a, b}\n", "not valid YAML"},
    {"train: {out: \"open\n", "not valid YAML"},
    {"seed: 1\n  bad: 2\n", "run.yaml:1: seed: expected an integer, found '1 bad'"},
    {"seed: 1\n\n\xff\xfe\n", "run.yaml:3: not a YAML text file"},
    {"seed: \x01\n", "run.yaml:1: not a YAML text file"},
};

static void test_bad_files(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        size_t before = df_memory_now();
        df_job *job = (df_job *)&bad;
        assert_fails(parse(bad[i].text, &job), DF_USAGE, bad[i].part);
        assert_null(job);
        assert_int_equal(df_memory_now(), before);
    }
}

static void test_too_large(void **state) {
    (void)state;
    size_t n = (size_t)2 << 20;
    char *text = df_alloc(n + 1, 1);
    df_job *job;
    memset(text, '#', n);
    assert_fails(df_job_parse("big.yaml", text, n, table, N_TABLE, NULL, 0, &job), DF_USAGE,
                 "big.yaml: 2097152 bytes are too many for a job file");
    df_free(text);
}

static void repeat(const char *pattern, size_t n) {
    size_t length = strlen(pattern);
    char *text = df_alloc(n * length + 1, 1);
    df_job *job = NULL;
    for (size_t i = 0; i < n; i++) memcpy(text + i * length, pattern, length);
    assert_fails(parse(text, &job), DF_USAGE, "run.yaml:");
    df_free(text);
}

// Nesting, long words, many keys: refused at the first thing the table does not know, in little
// time.
static void test_hostile(void **state) {
    (void)state;
    static const char *const patterns[] = {"[",           "{",      "{a: ",  "- ",     "? ", "a",
                                           "&a ",         "*",      "!",     "'",      "\"", "|\n",
                                           "%YAML 1.1\n", "a: b\n", "---\n", "train: "};
    double start = df_now();
    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++) repeat(patterns[i], 100000);
    assert_true(df_now() - start < 20);
}

// ---- cut and changed ---------------------------------------------------------------------------

static const char good[] = "seed: 7\n"
                           "text: {files: [a, \"b\\tc\"], limit: 1e6}\n"
                           "models:\n"
                           "  a: {path: 'x y'}\n"
                           "train:\n"
                           "  learning_rate: 3.0e-4\n"
                           "  coder: relu\n"
                           "  sites:\n"
                           "  - blocks.2.hook_resid_post\n"
                           "  out: >-\n"
                           "    folded\n"
                           "    text\n";

static void check_either(const char *text, size_t bytes) {
    df_job *job;
    size_t before = df_memory_now();
    df_status status = df_job_parse("run.yaml", text, bytes, table, N_TABLE, NULL, 0, &job);
    assert_true(status == DF_OK || status == DF_USAGE);
    assert_true((status == DF_OK) == (job != NULL));
    df_job_free(job);
    assert_int_equal(df_memory_now(), before);
}

static void test_cut(void **state) {
    (void)state;
    for (size_t n = 0; n <= sizeof good - 1; n++) check_either(good, n);
}

static void test_changed(void **state) {
    (void)state;
    static const char signs[] = "\t\n :-[]{}\"'#&*!|>%@`,?~<.e0\\";
    char text[sizeof good];
    for (uint64_t i = 0; i < 20000; i++) {
        memcpy(text, good, sizeof good);
        for (uint64_t c = 0; c < 1 + i % 3; c++) {
            uint64_t bits = df_random_bits(c, DF_STREAM_TEST, i);
            char sign = bits & 1 ? signs[(bits >> 1) % (sizeof signs - 1)] : (char)(bits >> 40);
            text[(bits >> 8) % (sizeof good - 1)] = sign;
        }
        check_either(text, sizeof good - 1);
    }
}

// Every single allocation on the way may fail: one message, nothing lost.
static void test_out_of_memory(void **state) {
    (void)state;
    static const char *const sets[] = {"train.latents=5", "text.files=a,b,c"};
    static const char *const texts[] = {good, "train: {latent: 3}", "seed: [1", "seed: x"};
    for (size_t t = 0; t < sizeof texts / sizeof *texts; t++) {
        size_t before = df_memory_now();
        df_status clean = DF_FAILED;
        for (int64_t k = 0; clean == DF_FAILED; k++) {
            df_job *job = NULL;
            assert_true(k < 1000);
            df_memory_fail_after(k);
            clean = parse_with(texts[t], sets, 2, &job);
            df_memory_fail_after(-1);
            if (clean == DF_FAILED) assert_non_null(strstr(df_error_text(), "out of memory"));
            df_job_free(job);
            assert_int_equal(df_memory_now(), before);
        }
        assert_int_equal(clean, t == 0 ? DF_OK : DF_USAGE);
    }
    df_error_clear();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_files), cmocka_unit_test(test_too_large),
        cmocka_unit_test(test_hostile),   cmocka_unit_test(test_cut),
        cmocka_unit_test(test_changed),   cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
