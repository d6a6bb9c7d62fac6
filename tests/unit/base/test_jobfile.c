/* Job files that are right: values by type, where they came from, --set, what must be given. */
#include "jobfile_table.h"

static void test_defaults(void **state) {
    (void)state;
    static const char *const empty[] = {"", "# nothing\n", "---\n", "{}", "train:\ntext:\n"};
    for (size_t i = 0; i < sizeof empty / sizeof *empty; i++) {
        df_job *job;
        const char *const *sites;
        assert_ok(parse(empty[i], &job));
        assert_int_equal(df_job_int(job, "train.latents"), 4096);
        assert_true(df_job_real(job, "train.learning_rate") == 1e-3);
        assert_true(df_job_bool(job, "train.resume"));
        assert_string_equal(df_job_text(job, "train.coder"), "topk");
        assert_int_equal(df_job_list(job, "train.sites", &sites), 2);
        assert_string_equal(sites[0], "a");
        assert_string_equal(sites[1], "b");
        assert_null(df_job_text(job, "models.b.path"));
        assert_false(df_job_has(job, "text.limit"));
        assert_false(df_job_has(job, "text.files"));
        assert_true(df_job_has(job, "seed"));
        assert_string_equal(df_job_where(job, "seed"), "default");
        df_job_free(job);
    }
}

/* A presumed value stands behind the file and --set, and in front of the table's default. */
static void test_presumed(void **state) {
    (void)state;
    df_job *job;
    assert_ok(parse("train: {latents: 8}\n", &job));
    assert_ok(df_job_presume(job, "train.latents", "16", "preset one"));
    assert_ok(df_job_presume(job, "train.coder", "relu", "preset one"));
    assert_ok(df_job_presume(job, "train.coder", "topk", "preset two"));
    assert_int_equal(df_job_int(job, "train.latents"), 8);
    assert_string_equal(df_job_text(job, "train.coder"), "relu");
    assert_string_equal(df_job_where(job, "train.coder"), "preset one");
    assert_int_equal(df_job_presume(job, "train.resume", "perhaps", "preset one"), DF_USAGE);
    assert_non_null(strstr(df_error_text(), "preset one: train.resume"));
    assert_int_equal(df_job_presume(job, "train.latent", "8", "preset one"), DF_USAGE);
    assert_non_null(strstr(df_error_text(), "train.latents"));
    assert_true(df_job_bool(job, "train.resume"));
    df_error_clear();
    df_job_free(job);
}

static const char full[] = "seed: 7          # a comment\n"
                           "text:\n"
                           "  files: [a.jsonl, \"b, c.txt\"]\n"
                           "  limit: 1e6\n"
                           "models:\n"
                           "  a: {path: true}\n"
                           "train:\n"
                           "  latents: 16384\n"
                           "  learning_rate: 3.0e-4\n"
                           "  coder: relu\n"
                           "  resume: false\n"
                           "  sites:\n"
                           "  - blocks.2.hook_resid_post\n"
                           "  - 'null'\n";

static void test_values(void **state) {
    (void)state;
    df_job *job;
    const char *const *items;
    assert_ok(parse(full, &job));
    assert_int_equal(df_job_int(job, "seed"), 7);
    assert_int_equal(df_job_list(job, "text.files", &items), 2);
    assert_string_equal(items[1], "b, c.txt");
    assert_int_equal(df_job_int(job, "text.limit"), 1000000);
    assert_string_equal(df_job_text(job, "models.a.path"), "true"); // the table says text
    assert_true(df_job_real(job, "train.learning_rate") == 3e-4);
    assert_string_equal(df_job_text(job, "train.coder"), "relu");
    assert_false(df_job_bool(job, "train.resume"));
    assert_int_equal(df_job_list(job, "train.sites", &items), 2);
    assert_string_equal(items[0], "blocks.2.hook_resid_post");
    assert_string_equal(items[1], "null");
    assert_string_equal(df_job_where(job, "seed"), "run.yaml:1");
    assert_string_equal(df_job_where(job, "models.a.path"), "run.yaml:6");
    assert_string_equal(df_job_where(job, "train.sites"), "run.yaml:12");
    assert_string_equal(df_job_where(job, "train.out"), "default");
    df_job_free(job);
}

static void test_integers(void **state) {
    (void)state;
    static const struct {
        const char *text;
        int64_t value;
    } cases[] = {{"seed: 9223372036854775807", INT64_MAX},
                 {"seed: -9223372036854775808", INT64_MIN},
                 {"seed: 2.5e3", 2500},
                 {"seed: 010", 10},
                 {"seed: +4", 4},
                 {"seed: '12'", 12},
                 {"seed: 9007199254740992.0", INT64_C(1) << 53}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        df_job *job;
        assert_ok(parse(cases[i].text, &job));
        assert_true(df_job_int(job, "seed") == cases[i].value);
        df_job_free(job);
    }
}

static void test_sets(void **state) {
    (void)state;
    static const char *const sets[] = {
        "train.latents=64",       "train.latents=128", "seed=3",    "models.b.path=x=y z",
        "text.files= a ,b c,, d", "train.sites=",      "train.out="};
    df_job *job;
    const char *const *items;
    assert_ok(parse_with(full, sets, sizeof sets / sizeof *sets, &job));
    assert_int_equal(df_job_int(job, "train.latents"), 128);
    assert_int_equal(df_job_int(job, "seed"), 3);
    assert_string_equal(df_job_where(job, "seed"), "--set");
    assert_string_equal(df_job_text(job, "models.b.path"), "x=y z");
    assert_string_equal(df_job_text(job, "train.out"), "");
    assert_int_equal(df_job_list(job, "text.files", &items), 4);
    assert_string_equal(items[0], "a");
    assert_string_equal(items[1], "b c");
    assert_string_equal(items[2], "");
    assert_int_equal(df_job_list(job, "train.sites", &items), 0);
    assert_true(df_job_has(job, "train.sites"));
    df_job_free(job);
}

static void test_bad_sets(void **state) {
    (void)state;
    static const struct {
        const char *set, *part;
    } cases[] = {
        {"train.latents", "--set: expected KEY=VALUE, found 'train.latents'"},
        {"=3", "expected KEY=VALUE"},
        {"train.latent=3", "unknown key 'train.latent'; did you mean 'train.latents'?"},
        {"trian.latents=3", "did you mean 'train.latents'?"},
        {"latents=3", "did you mean 'train.latents'?"},
        {"train=3", "'train' is a section"},
        {"train.latents=many", "--set: train.latents: expected an integer, found 'many'"},
        {"train.latents=0", "expected a value from 1 to 1000000000 latents, found '0'"},
        {"train.coder=jump", "one of: topk batchtopk relu"},
        {"train.out=\xff", "not valid UTF-8"},
        {"\xff=3", "unknown key"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        df_job *job = (df_job *)&cases;
        assert_fails(parse_with(full, &cases[i].set, 1, &job), DF_USAGE, cases[i].part);
        assert_null(job);
    }
}

static void test_require(void **state) {
    (void)state;
    df_job *job;
    assert_ok(parse("models:\n  b: {path: x}\n", &job));
    assert_fails(df_job_require(job, "models"), DF_USAGE,
                 "run.yaml: 'models.a.path' must be given: folder of model A");
    assert_fails(df_job_require(job, "text"), DF_USAGE, "'text.files' must be given");
    assert_ok(df_job_require(job, "train"));
    assert_ok(df_job_require(job, "seed"));
    assert_ok(df_job_require(job, "tex"));
    df_job_free(job);
    assert_ok(parse(full, &job));
    assert_ok(df_job_require(job, "models"));
    assert_ok(df_job_require(job, "text"));
    df_job_free(job);
}

static void test_nearest(void **state) {
    (void)state;
    static const char *const known[] = {"latents", "learning_rate", "coder", "k"};
    assert_string_equal(df_nearest("latnets", known, 4), "latents");
    assert_string_equal(df_nearest("LATENTS", known, 4), "latents");
    assert_string_equal(df_nearest("learning-rate", known, 4), "learning_rate");
    assert_string_equal(df_nearest("code", known, 4), "coder");
    assert_string_equal(df_nearest("k", known, 4), "k");
    assert_null(df_nearest("z", known, 4));
    assert_null(df_nearest("wavelength", known, 4));
    assert_null(df_nearest("", known, 4));
    assert_null(df_nearest("latents", known, 0));
}

// A default that does not fit its own row is found by whichever run comes first.
static void test_wrong_table(void **state) {
    (void)state;
    static const df_option wrong[] = {
        {.key = "k", .type = DF_OPT_INT, .fallback = "32", .min = 1, .max = 8}};
    df_job *job;
    assert_fails(df_job_parse("run.yaml", "", 0, wrong, 1, NULL, 0, &job), DF_FAILED,
                 "default in the option table: k: expected a value from 1 to 8");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),    cmocka_unit_test(test_presumed),
        cmocka_unit_test(test_values),      cmocka_unit_test(test_integers),
        cmocka_unit_test(test_sets),        cmocka_unit_test(test_bad_sets),
        cmocka_unit_test(test_require),     cmocka_unit_test(test_nearest),
        cmocka_unit_test(test_wrong_table),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
