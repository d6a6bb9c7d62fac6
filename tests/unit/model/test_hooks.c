/* Interventions at every site of every family against float64 references
 * (tests/golden/family_oracle.py), their positions and columns, and what is refused. */
#include "family_sites.h"

#include "darkfield/hooks.h"

enum { FROM = 3, TO = 40, KINDS = 5 };
static const size_t kept[] = {17, 70};

typedef struct fixture {
    df_model *model;
    site_list sites;
    uint32_t ids[CONTEXT];
    size_t n, vocabulary;
    double *intervened;
} fixture;

static void open_fixture(const char *family, fixture *x) {
    char path[300];
    size_t n;
    snprintf(path, sizeof path, GOLDEN "/%s", family);
    assert_ok(df_model_open(path, &x->model));
    x->vocabulary = df_model_vocabulary(x->model);
    list_sites(df_model_facts(x->model), &x->sites);
    snprintf(path, sizeof path, GOLDEN "/%s/hooks.h5", family);
    double *tokens = df_test_reference(path, "tokens", &x->n);
    x->intervened = df_test_reference(path, "intervened", &n);
    assert_non_null(tokens);
    assert_non_null(x->intervened);
    assert_int_equal(n, x->sites.n * 2 * x->vocabulary);
    for (size_t t = 0; t < x->n; t++) x->ids[t] = (uint32_t)tokens[t];
    df_free(tokens);
}

static void close_fixture(fixture *x) {
    df_free(x->intervened);
    df_model_close(&x->model);
}

/* ---- the oracle's interventions ------------------------------------------------------------- */

static df_status squash(void *context, const df_site_rows *rows) {
    size_t *seen = context;
    for (size_t i = 0; i < rows->n * rows->width; i++) rows->x[i] = tanhf(rows->x[i]);
    *seen += rows->n;
    return DF_OK;
}

/* What the oracle does at site `number`; values is scratch. */
static df_intervention oracle_edit(const site_list *sites, size_t number, float *values,
                                   size_t *seen) {
    static const df_edit kinds[KINDS] = {DF_EDIT_REPLACE, DF_EDIT_ADD, DF_EDIT_SCALE,
                                         DF_EDIT_PROJECT, DF_EDIT_CALL};
    size_t width = sites->width[number], column = width > 1 ? number % 2 : 0;
    size_t columns = width - column;
    df_edit kind = kinds[number % KINDS];
    bool each = kind == DF_EDIT_REPLACE;
    if (kind == DF_EDIT_PROJECT && columns == 1) kind = DF_EDIT_SCALE;
    for (size_t i = 0; i < columns * (each ? TO - FROM : 1); i++) {
        float v = (float)((int)((i * 7 + 3) % 11) - 5) / 8.0f;
        values[i] = kind == DF_EDIT_ADD ? fabsf(v) : v;
        if (kind == DF_EDIT_REPLACE && columns == 1) values[i] = fabsf(v) + 1.0f;
    }
    return (df_intervention){.site = sites->name[number],
                             .edit = kind,
                             .from = FROM,
                             .to = TO,
                             .column = kind == DF_EDIT_CALL ? 0 : column,
                             .columns = kind == DF_EDIT_CALL ? 0 : columns,
                             .values = values,
                             .per_position = each,
                             .factor = 1.75f,
                             .call = squash,
                             .context = seen};
}

static void test_family(void **state) {
    static fixture x;
    size_t before = df_memory_now(), widest = 0;
    open_fixture(*state, &x);
    float *values, *logits, *clean, *again;
    df_forward *f;
    for (size_t s = 0; s < x.sites.n; s++)
        if (x.sites.width[s] > widest) widest = x.sites.width[s];
    assert_ok(DF_NEW(values, (TO - FROM) * widest));
    assert_ok(DF_NEW(logits, x.n * x.vocabulary));
    assert_ok(DF_NEW(clean, x.n * x.vocabulary));
    assert_ok(DF_NEW(again, x.n * x.vocabulary));
    assert_ok(df_forward_open(x.model, CONTEXT, NULL, 0, &f));
    assert_ok(df_forward_run(f, x.ids, x.n, NULL, clean));
    for (size_t s = 0; s < x.sites.n; s++) {
        size_t seen = 0;
        const df_intervention edit = oracle_edit(&x.sites, s, values, &seen);
        assert_ok(df_forward_intervene(f, &edit, 1));
        assert_ok(df_forward_run(f, x.ids, x.n, NULL, logits));
        assert_int_equal(seen, edit.edit == DF_EDIT_CALL ? TO - FROM : 0);
        for (size_t r = 0; r < 2; r++) {
            double d = apart(logits + kept[r] * x.vocabulary,
                             x.intervened + (s * 2 + r) * x.vocabulary, x.vocabulary);
            if (!(d <= 3e-5))
                print_error("%s, %s, position %zu: %.3g\n", (const char *)*state, x.sites.name[s],
                            kept[r], d);
            assert_true(d <= 3e-5);
        }
        /* what stands before the first changed position stays */
        for (size_t i = 0; i < FROM * x.vocabulary; i++)
            assert_close(logits[i], clean[i], 1e-5, 1e-5);
    }
    assert_ok(df_forward_intervene(f, NULL, 0));
    assert_ok(df_forward_run(f, x.ids, x.n, NULL, again));
    assert_memory_equal(clean, again, x.n * x.vocabulary * sizeof *clean);
    df_forward_close(&f);
    df_free(values);
    df_free(logits);
    df_free(clean);
    df_free(again);
    close_fixture(&x);
    assert_int_equal(df_memory_now(), before);
}

/* ---- composition ---------------------------------------------------------------------------- */

/* A site that is intervened upon is handed out changed; replacing it by itself changes nothing;
 * several interventions act in their order. */
static void test_handed_out(void **state) {
    (void)state;
    static fixture x;
    open_fixture("gemma2", &x);
    const char *site = "blocks.1.attn.hook_pattern";
    size_t width;
    float *rows, *changed, *clean, *logits;
    df_forward *f;
    assert_ok(df_model_site_width(df_model_facts(x.model), site, CONTEXT, &width));
    assert_ok(DF_NEW(rows, x.n * width));
    assert_ok(DF_NEW(changed, x.n * width));
    assert_ok(DF_NEW(clean, x.n * x.vocabulary));
    assert_ok(DF_NEW(logits, x.n * x.vocabulary));
    assert_ok(df_forward_open(x.model, CONTEXT, &site, 1, &f));
    assert_ok(df_forward_run(f, x.ids, x.n, &rows, clean));
    const df_intervention list[] = {
        {.site = site, .edit = DF_EDIT_SCALE, .factor = 3.0f},
        {.site = site, .edit = DF_EDIT_REPLACE, .values = rows, .per_position = true, .to = 80},
        {.site = site, .edit = DF_EDIT_SCALE, .factor = 2.0f, .from = 80}};
    assert_ok(df_forward_intervene(f, list, 3));
    assert_ok(df_forward_run(f, x.ids, x.n, &changed, logits));
    assert_memory_equal(changed, rows, 80 * width * sizeof *rows);
    for (size_t i = 80 * width; i < x.n * width; i++)
        assert_true(changed[i] == 2.0f * (3.0f * rows[i]));
    for (size_t t = 0; t < 80; t++)
        for (size_t v = 0; v < x.vocabulary; v++)
            assert_close(logits[t * x.vocabulary + v], clean[t * x.vocabulary + v], 1e-4, 1e-4);
    df_forward_close(&f);
    df_free(rows);
    df_free(changed);
    df_free(clean);
    df_free(logits);
    close_fixture(&x);
}

static df_status refuse(void *context, const df_site_rows *rows) {
    (void)context;
    return df_fail(DF_FAILED, "no at position %zu", rows->first);
}

static void test_refusals(void **state) {
    (void)state;
    static fixture x;
    open_fixture("gpt2", &x);
    size_t before = df_memory_now();
    const float zeros[20] = {0};
    df_forward *f;
    float *logits;
    assert_ok(DF_NEW(logits, x.n * x.vocabulary));
    assert_ok(df_forward_open(x.model, CONTEXT, NULL, 0, &f));
    df_intervention e = {.site = "blocks.0.hook_resid_past", .edit = DF_EDIT_REPLACE};
    assert_fails(df_forward_intervene(f, &e, 1), DF_USAGE, "hook_resid_post");
    e.site = "blocks.0.hook_resid_post";
    e.column = 10;
    e.columns = 11;
    assert_fails(df_forward_intervene(f, &e, 1), DF_USAGE, "columns 10 to 21: it has 20");
    e.column = e.columns = 0;
    e.from = 96;
    assert_fails(df_forward_intervene(f, &e, 1), DF_USAGE, "positions 96 to 0 of a context of 96");
    e.from = 0;
    e.edit = DF_EDIT_ADD;
    assert_fails(df_forward_intervene(f, &e, 1), DF_USAGE, "no values");
    e.edit = DF_EDIT_PROJECT;
    e.values = zeros;
    assert_fails(df_forward_intervene(f, &e, 1), DF_USAGE, "the zero vector");
    e.edit = DF_EDIT_CALL;
    assert_fails(df_forward_intervene(f, &e, 1), DF_USAGE, "no function");
    e.call = refuse;
    e.from = 4;
    assert_ok(df_forward_intervene(f, &e, 1));
    assert_fails(df_forward_run(f, x.ids, x.n, NULL, logits), DF_FAILED, "no at position 4");
    assert_ok(df_forward_run(f, x.ids, 4, NULL, logits)); // the position does not come
    df_forward_close(&f);
    df_free(logits);
    assert_int_equal(df_memory_now(), before);
    close_fixture(&x);
}

#define FAMILY(name)                                                                               \
    { "interventions " name, test_family, NULL, NULL, (void *)name }

int main(void) {
    const struct CMUnitTest tests[] = {
        FAMILY("gpt2"),
        FAMILY("gpt2-scaled"),
        FAMILY("gpt_neo"),
        FAMILY("gpt_neox"),
        FAMILY("gpt_neox-sequential"),
        FAMILY("opt"),
        FAMILY("mistral"),
        FAMILY("llama-yarn"),
        FAMILY("llama-dynamic"),
        FAMILY("qwen2"),
        FAMILY("qwen3"),
        FAMILY("gemma"),
        FAMILY("gemma2"),
        FAMILY("gemma3_text"),
        FAMILY("gemma3"),
        cmocka_unit_test(test_handed_out),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
