/* Which sites a job's dictionary reads and writes, what is harvested for it, and what is refused.
 */
#include "df_test.h"

#include "jobs.h"

static const df_option of_train[] = {
    {.key = "train.source", .type = DF_OPT_TEXT, .fallback = "activations"},
    {.key = "train.kind",
     .type = DF_OPT_CHOICE,
     .fallback = "auto",
     .choices = "auto sae crosscoder transcoder skip-transcoder clt"},
    {.key = "train.model", .type = DF_OPT_TEXT, .optional = true},
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

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(kinds_choose_their_columns),
                                       cmocka_unit_test(what_does_not_fit_is_refused),
                                       cmocka_unit_test(sites_are_needed_once)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
