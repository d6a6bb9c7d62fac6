/* Sweeps in job files: their members' names and values, what is written back, what is refused. */
#include "df_test.h"

static const df_option table[] = {
    {.key = "seed", .type = DF_OPT_INT, .fallback = "1"},
    {.key = "train.k", .type = DF_OPT_INT, .fallback = "8", .min = 1, .max = 1e9},
    {.key = "train.latents", .type = DF_OPT_INT, .fallback = "64", .tag = "m"},
    {.key = "train.weight", .type = DF_OPT_REAL, .fallback = "0", .tag = "w"},
    {.key = "train.kind", .type = DF_OPT_CHOICE, .fallback = "sae", .choices = "sae clt"},
    {.key = "train.input", .type = DF_OPT_LIST, .optional = true},
    {.key = "train.model", .type = DF_OPT_TEXT, .optional = true},
    {.key = "train.tied", .type = DF_OPT_BOOL, .fallback = "false"},
    {.key = "train.batch", .type = DF_OPT_INT, .fallback = "32", .fixed = true},
    {.key = "train.path", .type = DF_OPT_TEXT, .fallback = "x", .is_volatile = true},
    {.key = "train.toy.width", .type = DF_OPT_INT, .fallback = "4"},
    {.key = "train.sweep", .type = DF_OPT_SWEEP, .optional = true},
};
#define N_TABLE (sizeof table / sizeof *table)
#define SWEEP "train.sweep"

static df_status parse_set(const char *text, const char *set, df_job **job) {
    return df_job_parse("run.yaml", text, strlen(text), table, N_TABLE, &set, set != NULL, job);
}

/* "NAME NAME ..." of the members; how many. */
static size_t names(const df_job *job, char out[static 512]) {
    size_t n = df_job_members(job, SWEEP), used = 0;
    out[0] = '\0';
    for (size_t i = 0; i < n; i++) {
        char *name = df_job_member_name(job, SWEEP, i);
        used += (size_t)snprintf(out + used, 512 - used, "%s%s", i > 0 ? " " : "", name);
        df_free(name);
    }
    return n;
}

static void test_names(void **state) {
    (void)state;
    static const struct {
        const char *sweep, *names;
    } cases[] = {
        {"{k: [4, 8], latents: [512, 1024]}", "k4-m512 k4-m1024 k8-m512 k8-m1024"},
        {"{weight: [0.1, 1e-4, 2]}", "w0.1 w0.0001 w2"},
        {"{kind: [sae, clt], tied: [true, false]}",
         "sae-tiedtrue sae-tiedfalse clt-tiedtrue clt-tiedfalse"},
        {"{input: [a.b, [c, d/e]]}", "a.b c+d_e"},
        {"[{k: 4}, {k: 8, latents: 96}, {name: wide, latents: 4096}, {name: plain}]",
         "k4 k8-m96 wide plain"},
        {"[{input: [a, b]}, {model: base, input: c}]", "a+b base-c"},
        {"none", ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *text = df_format("train:\n  sweep: %s\n", cases[i].sweep), found[512];
        char *set = df_format("train.sweep=%s", cases[i].sweep);
        df_job *job;
        assert_ok(parse_set(text, NULL, &job));
        names(job, found);
        assert_string_equal(found, cases[i].names);
        df_job_free(job);
        assert_ok(parse_set("train: {sweep: {k: [1]}}", set, &job));
        names(job, found);
        assert_string_equal(found, cases[i].names);
        df_job_free(job);
        df_free(text);
        df_free(set);
    }
}

static void test_members(void **state) {
    (void)state;
    df_job *job, *member;
    const char *const *items;
    assert_ok(parse_set("seed: 7\n"
                        "train:\n"
                        "  latents: 128\n"
                        "  model: tuned\n"
                        "  sweep:\n"
                        "    k: [4,\n"
                        "        5]\n"
                        "    input: [[a, b], c]\n",
                        NULL, &job));
    assert_int_equal(df_job_members(job, SWEEP), 4);
    assert_true(df_job_has(job, SWEEP));
    assert_ok(df_job_presume(job, "train.weight", "3", "preset"));
    assert_ok(df_job_presume(job, "train.model", "base", "preset"));
    assert_ok(df_job_member(job, SWEEP, 2, &member));
    assert_int_equal(df_job_int(member, "train.k"), 5);
    assert_int_equal(df_job_int(member, "train.latents"), 128);
    assert_int_equal(df_job_int(member, "seed"), 7);
    assert_string_equal(df_job_text(member, "train.model"), "tuned");
    assert_true(df_job_real(member, "train.weight") == 0.0); // presumed for the job, not for this
    assert_int_equal(df_job_list(member, "train.input", &items), 2);
    assert_string_equal(items[1], "b");
    assert_string_equal(df_job_where(member, "train.k"), "run.yaml:7");
    assert_string_equal(df_job_where(member, "train.latents"), "run.yaml:3");
    assert_false(df_job_has(member, SWEEP));
    assert_int_equal(df_job_members(member, SWEEP), 0);
    // As the member's job file would be, alone.
    char *text = df_job_resolved(member, NULL, false), *alone;
    df_job *same;
    assert_ok(parse_set("seed: 7\ntrain: {latents: 128, model: tuned, k: 5, input: [a, b]}", NULL,
                        &same));
    alone = df_job_resolved(same, NULL, false);
    assert_string_equal(text, alone);
    df_free(text);
    df_free(alone);
    df_job_free(same);
    df_job_free(member);
    df_job_free(job);
}

static void test_written_back(void **state) {
    (void)state;
    static const char *const sweeps[] = {
        "{k: [4, 8], weight: [0.1, 1e-300], kind: [clt], input: [[a, \"x, y\"], [z]], "
        "model: [\"true\", b]}",
        "[{name: \"5\", k: 4, input: [a]}, {name: plain}, {tied: true}]"};
    for (size_t i = 0; i < 2; i++) {
        char *text = df_format("train: {sweep: %s}", sweeps[i]), first[512], second[512];
        df_job *job, *again;
        assert_ok(parse_set(text, NULL, &job));
        char *resolved = df_job_resolved(job, NULL, false);
        assert_ok(parse_set(resolved, NULL, &again));
        char *twice = df_job_resolved(again, NULL, false);
        assert_string_equal(resolved, twice);
        assert_int_equal(names(job, first), names(again, second));
        assert_string_equal(first, second);
        df_free(text);
        df_free(resolved);
        df_free(twice);
        df_job_free(job);
        df_job_free(again);
    }
}

static const struct {
    const char *sweep, *part;
} bad[] = {
    {"{kk: [1]}", "run.yaml:3: unknown key 'train.kk', and no known key is near"},
    {"\n    k: [1]\n    latent: [2]", "run.yaml:5: unknown key 'train.latent'; did you mean "
                                      "'train.latents'?"},
    {"{k: []}", "run.yaml:3: train.sweep: expected a list of values for each option"},
    {"{k: 4}", "run.yaml:3: train.sweep: expected a list of values for each option"},
    {"{}", "run.yaml:3: train.sweep: the sweep has no members"},
    {"[]", "run.yaml:3: train.sweep: the sweep has no members"},
    {"k", "expected a mapping from options to lists"},
    {"{k: [4, 8, 4]}", "run.yaml:3: train.sweep: members 1 and 3 are both called k4"},
    {"\n  - {k: 4}\n  - {name: k4, k: 5}", "run.yaml:5: train.sweep: members 1 and 2 are both"},
    {"\n    k:\n    - 4\n    - 0", "run.yaml:6: train.k: expected a value from 1"},
    {"{kind: [sae, topk]}", "train.kind: expected one of: sae clt, found 'topk'"},
    {"{k: [[1, 2]]}", "run.yaml:3: train.k: expected a single value, found a list"},
    {"{k: [{a: b}]}", "run.yaml:3: train.k: expected a single value, found a mapping"},
    {"{input: [[[a]]]}", "nested too deeply"},
    {"{input: [[{a: b}]]}", "nested too deeply"},
    {"[{input: [[a], b]}]", "nested too deeply"},
    {"{batch: [1, 2]}", "run.yaml:3: train.sweep: train.batch cannot be swept"},
    {"{path: [a, b]}", "train.path cannot be swept"},
    {"{sweep: [a, b]}", "train.sweep cannot be swept"},
    {"{seed: [1, 2]}", "unknown key 'train.seed'"},
    {"{toy: [1, 2]}", "unknown key 'train.toy'"},
    {"{toy.width: [1, 2]}", "a key must be the name of an option of this section"},
    {"{[k]: [1]}", "a key must be the name of an option of this section"},
    {"{k: [1], k: [2]}", "run.yaml:3: duplicate key 'k'"},
    {"[{k: 1, k: 2}]", "duplicate key 'k'"},
    {"[{name: a, name: b}]", "duplicate key 'name'"},
    {"[{name: a/b, k: 1}]", "a member's name is part of a file's"},
    {"[{name: .a, k: 1}]", "a member's name is part of a file's"},
    {"[{name: '', k: 1}]", "a member's name is part of a file's"},
    {"{name: [a, b]}", "unknown key 'train.name'"},
    {"[{}]", "a member that changes no option needs a name"},
    {"[k]", "expected a mapping for each member"},
    {"[{k: ~}]", "null is not a value"},
    {"{k: [*a]}", "aliases (*name) are not allowed"},
    {"{k: [1, 2, 3, 4, 5, 6, 7], latents: [1, 2, 3, 4, 5, 6, 7], weight: [1, 2, 3, 4, 5, 6]}",
     "more than 256 members"},
    {"{model: "
     "[aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
     "aaaaaaaaaaaaaaaaaa]}",
     "more than 80 letters"},
};

static void test_refused(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char *text = df_format("seed: 1\ntrain:\n  sweep: %s\n", bad[i].sweep);
        df_job *job;
        assert_int_equal(parse_set(text, NULL, &job), DF_USAGE);
        if (strstr(df_error_text(), bad[i].part) == NULL)
            fail_msg("%s: \"%s\" lacks \"%s\"", bad[i].sweep, df_error_text(), bad[i].part);
        df_error_clear();
        df_free(text);
    }
    static const struct {
        const char *set, *part;
    } sets[] = {{"train.sweep={kk: [1]}", "--set: unknown key 'train.kk'"},
                {"train.sweep=", "--set: the value is missing"},
                {"train.sweep={k: [0]}", "--set: train.k: expected a value"},
                {"train.sweep={k: [1]", "--set: not valid YAML"},
                {"train.sweep={k: [1]}\n---\na", "--set: "}};
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
        df_job *job;
        assert_int_equal(parse_set("", sets[i].set, &job), DF_USAGE);
        if (strstr(df_error_text(), sets[i].part) == NULL)
            fail_msg("%s: \"%s\" lacks \"%s\"", sets[i].set, df_error_text(), sets[i].part);
        df_error_clear();
    }
}

static void test_out_of_memory(void **state) {
    (void)state;
    const char *text = "train: {sweep: [{name: x, k: 4, input: [a, b]}, {weight: 0.5}]}";
    bool done = false;
    size_t before = df_memory_now();
    for (int64_t calls = 0; !done; calls++) {
        df_job *job = NULL, *member = NULL;
        df_memory_fail_after(calls);
        df_status status = parse_set(text, "train.sweep={k: [2, 3], input: [[a], b]}", &job);
        if (status == DF_OK) status = df_job_member(job, SWEEP, 1, &member);
        df_memory_fail_after(-1);
        df_error_clear();
        done = status == DF_OK;
        df_job_free(member);
        df_job_free(job);
        assert_int_equal(df_memory_now(), before);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),         cmocka_unit_test(test_members),
        cmocka_unit_test(test_written_back),  cmocka_unit_test(test_refused),
        cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
