/* Which sites a job's dictionary reads and writes, what is harvested for it, and what is refused.
 */
#include "df_test.h"

#include "jobs.h"
#include "sweep.h"

static const df_option of_train[] = {
    {.key = "train.source", .type = DF_OPT_TEXT, .fallback = "activations"},
    {.key = "train.kind",
     .type = DF_OPT_CHOICE,
     .fallback = "auto",
     .choices = "auto sae crosscoder transcoder skip-transcoder clt"},
    {.key = "train.model", .type = DF_OPT_TEXT, .optional = true},
    {.key = "train.site", .type = DF_OPT_TEXT, .optional = true},
    {.key = "train.k", .type = DF_OPT_INT, .fallback = "8"},
    {.key = "train.latents", .type = DF_OPT_INT, .fallback = "65536", .tag = "m"},
    {.key = "train.steps", .type = DF_OPT_INT, .fallback = "100", .fixed = true},
    {.key = "train.batch", .type = DF_OPT_INT, .fallback = "10", .fixed = true},
    {.key = "train.lr", .type = DF_OPT_REAL, .fallback = "1"},
    {.key = "train.preset", .type = DF_OPT_TEXT, .optional = true},
    {.key = "train.sweep", .type = DF_OPT_SWEEP, .optional = true, .is_volatile = true},
    {.key = "train.use", .type = DF_OPT_TEXT, .optional = true, .is_volatile = true},
    {.key = "train.input", .type = DF_OPT_LIST, .optional = true},
    {.key = "train.output", .type = DF_OPT_LIST, .optional = true},
    {.key = "harvest.sites", .type = DF_OPT_LIST, .optional = true},
};

#define TWO "models: {a: {path: one}, b: {path: two}}\n"
#define ONE "models: {a: {path: one}}\n"
#define PAIR "sites: [blocks.0.hook_resid_mid, blocks.1.hook_resid_mid]\n"

static df_job *parse(const char *text) {
    static df_option options[64];
    size_t n = 0;
    df_job *job = NULL;
    for (size_t i = 0; i < df_n_shared_options; i++) options[n++] = df_shared_options[i];
    for (size_t i = 0; i < sizeof of_train / sizeof *of_train; i++) options[n++] = of_train[i];
    assert_ok(df_job_parse("job.yaml", text, strlen(text), options, n, NULL, 0, &job));
    return job;
}

/* The columns as "KIND INPUTS: a/site b/site"; what is harvested as "site site". */
static void show(const char *text, bool harvest, char out[static 512]) {
    df_job *job = parse(text);
    const df_run run = {.job = job};
    df_columns c;
    if (harvest)
        assert_ok(df_job_harvest_sites(&run, &c));
    else
        assert_ok(df_job_columns(&run, &c));
    size_t n = harvest ? (size_t)snprintf(out, 512, "%zu:", c.inputs)
                       : (size_t)snprintf(out, 512, "%s %zu:", df_dict_kind_name(c.kind), c.inputs);
    for (size_t i = 0; i < c.n; i++)
        n += (size_t)snprintf(out + n, 512 - n, " %s%s%s",
                              harvest ? "" : df_model_name(&run, c.model[i]), harvest ? "" : "/",
                              c.site[i]);
    df_columns_free(&c);
    df_job_free(job);
}

static void kinds_choose_their_columns(void **state) {
    (void)state;
    static const struct {
        const char *job, *columns, *harvest;
    } cases[] = {
        {ONE "site: s\n", "sae 1: base/s", "1: s"},
        {TWO "site: s\n", "crosscoder 2: base/s tuned/s", "1: s"},
        {TWO "site: s\ntrain: {model: tuned}\n", "sae 1: tuned/s", "1: s"},
        {ONE "sites: [s, t]\n", "crosscoder 2: base/s base/t", "2: s t"},
        {TWO "sites: [s, t]\n", "crosscoder 4: base/s base/t tuned/s tuned/t", "2: s t"},
        {TWO "site: s\ntrain: {input: [t, u], model: base}\n", "crosscoder 2: base/t base/u",
         "1: s t u"},
        {ONE "site: blocks.2.hook_resid_mid\ntrain: {kind: transcoder}\n",
         "transcoder 1: base/blocks.2.hook_resid_mid base/blocks.2.hook_mlp_out",
         "1: blocks.2.hook_resid_mid blocks.2.hook_mlp_out"},
        {ONE "site: s\ntrain: {kind: skip-transcoder, output: [t]}\n",
         "skip-transcoder 1: base/s base/t", "1: s t"},
        {ONE PAIR "train: {kind: clt}\n",
         "clt 2: base/blocks.0.hook_resid_mid base/blocks.1.hook_resid_mid "
         "base/blocks.0.hook_mlp_out base/blocks.1.hook_mlp_out",
         "2: blocks.0.hook_resid_mid blocks.1.hook_resid_mid blocks.0.hook_mlp_out "
         "blocks.1.hook_mlp_out"},
        {ONE "site: s\nharvest: {sites: [x, y]}\n", "sae 1: base/s", "2: x y"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char found[512];
        show(cases[i].job, false, found);
        assert_string_equal(found, cases[i].columns);
        show(cases[i].job, true, found);
        assert_string_equal(found, cases[i].harvest);
    }
}

static void what_does_not_fit_is_refused(void **state) {
    (void)state;
    static const struct {
        const char *job, *part;
    } cases[] = {
        {TWO "site: blocks.0.hook_resid_mid\ntrain: {kind: transcoder}\n", "train.model"},
        {TWO "site: s\ntrain: {kind: sae}\n", "one site of one model"},
        {ONE "site: hook_embed\ntrain: {kind: transcoder}\n", "train.output must be given"},
        {ONE "site: s\ntrain: {output: [t]}\n", "train.output is for transcoders"},
        {ONE "site: s\ntrain: {kind: transcoder, output: [s]}\n", "s is listed twice"},
        {ONE "sites: [s, s]\n", "s is listed twice"},
        {ONE PAIR "train: {kind: clt, output: [t]}\n", "as many sites as it writes"},
        {ONE "site: s\ntrain: {input: []}\n", "lists no sites"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        df_job *job = parse(cases[i].job);
        const df_run run = {.job = job};
        df_columns c;
        assert_fails(df_job_columns(&run, &c), DF_USAGE, cases[i].part);
        assert_int_equal(c.n, 0);
        df_job_free(job);
    }
}

static void sites_are_needed_once(void **state) {
    (void)state;
    df_job *neither = parse(ONE), *both = parse(ONE "site: s\nsites: [t]\n");
    df_job *list = parse(ONE "sites: [t]\n");
    assert_fails(df_job_require_sites(neither), DF_USAGE, "'site' or 'sites'");
    assert_fails(df_job_require_sites(both), DF_USAGE, "job.yaml:3");
    assert_ok(df_job_require_sites(list));
    df_job_free(neither);
    df_job_free(both);
    df_job_free(list);
}

/* The data set that all members of a sweep are trained on, and the file of each. */
static void sweeps_join_their_columns(void **state) {
    (void)state;
    static const struct {
        const char *job, *columns, *files;
        size_t use;
    } cases[] = {
        {TWO "out: o\nsite: s\ntrain: {sweep: {k: [4, 5]}}\n", "base/s tuned/s",
         "o/train-k4.dict.h5 o/train-k5.dict.h5", 0},
        {TWO "out: o\nsite: s\ntrain: {sweep: {model: [tuned, base]}, use: base}\n",
         "tuned/s base/s", "o/train-tuned.dict.h5 o/train-base.dict.h5", 1},
        {ONE "out: o\nsites: [s, t]\ntrain: {sweep: [{site: t}, {name: both}, {input: [u, t]}]}\n",
         "base/t base/s base/u", "o/train-t.dict.h5 o/train-both.dict.h5 o/train-u+t.dict.h5", 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        df_run run = {.job = parse(cases[i].job)};
        char columns[512] = "", files[512] = "";
        df_columns c;
        assert_ok(df_sweep_open(&run));
        assert_ok(df_job_all_columns(&run, &c));
        for (size_t s = 0; s < c.n; s++)
            snprintf(columns + strlen(columns), 512 - strlen(columns), "%s%s/%s", s > 0 ? " " : "",
                     df_model_name(&run, c.model[s]), c.site[s]);
        for (size_t d = 0; d < df_run_dictionaries(&run); d++) {
            df_run one = df_run_of(&run, d);
            char *path = df_path_dict(&one);
            snprintf(files + strlen(files), 512 - strlen(files), "%s%s", d > 0 ? " " : "", path);
            df_free(path);
        }
        assert_string_equal(columns, cases[i].columns);
        assert_string_equal(files, cases[i].files);
        assert_int_equal(run.use, cases[i].use);
        df_columns_free(&c);
        df_sweep_close(&run);
        df_job_free((df_job *)run.job);
    }
}

static void bad_sweeps_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *job, *part;
    } cases[] = {
        {"  sweep: {k: [4, 5]}\n  use: k6\n", "job.yaml:5: train.use: no member of the sweep is "
                                              "called \"k6\" (did you mean k4)"},
        {"  k: 8\n  sweep: [{name: a, k: 8}, {name: b}]\n",
         "job.yaml:5: train.sweep: members a and b have the same settings"},
        {"  sweep: [{preset: x}]\n", "no preset is called"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *text = df_format("%ssite: s\ntrain:\n%s", ONE, cases[i].job);
        df_run run = {.job = parse(text)};
        assert_fails(df_sweep_open(&run), DF_USAGE, cases[i].part);
        df_sweep_close(&run);
        df_job_free((df_job *)run.job);
        df_free(text);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kinds_choose_their_columns),
        cmocka_unit_test(what_does_not_fit_is_refused), cmocka_unit_test(sites_are_needed_once),
        cmocka_unit_test(sweeps_join_their_columns), cmocka_unit_test(bad_sweeps_are_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
