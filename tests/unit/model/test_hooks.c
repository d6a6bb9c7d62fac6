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

/* ---- one token after another ---------------------------------------------------------------- */

typedef struct stepping {
    df_forward *whole, *steps;
    float *logits, *last, *rows, *row;
    size_t width;
} stepping;

/* The first `n` tokens at once and the others one by one give the rows of all at once. */
static void compare_steps(const fixture *x, const stepping *s, size_t n, const char *what) {
    assert_ok(df_forward_run(s->whole, x->ids, x->n, &s->rows, s->logits));
    assert_ok(df_forward_run(s->steps, x->ids, n, &s->row, s->last));
    for (size_t t = n; t < x->n; t++) {
        double square = 0, apart_square = 0;
        assert_ok(df_forward_next(s->steps, x->ids[t], &s->row, s->last));
        for (size_t v = 0; v < x->vocabulary; v++) {
            double a = (double)s->last[v], b = (double)s->logits[t * x->vocabulary + v];
            square += b * b;
            apart_square += (a - b) * (a - b);
        }
        if (!(apart_square <= 1e-10 * square)) print_error("%s, position %zu\n", what, t);
        assert_true(apart_square <= 1e-10 * square);
        for (size_t c = 0; c < s->width; c++)
            assert_close(s->row[c], s->rows[t * s->width + c], 1e-4, 1e-5);
    }
}

static void test_steps(void **state) {
    static fixture x;
    open_fixture(*state, &x);
    const char *site = "blocks.1.attn.hook_pattern";
    stepping s;
    float push[64];
    char sites[3][64] = {"blocks.0.hook_resid_post", "blocks.1.attn.hook_result",
                         "blocks.0.attn.hook_pattern"};
    assert_ok(df_model_site_width(df_model_facts(x.model), site, CONTEXT, &s.width));
    assert_ok(DF_NEW(s.logits, x.n * x.vocabulary));
    assert_ok(DF_NEW(s.last, x.n * x.vocabulary));
    assert_ok(DF_NEW(s.rows, x.n * s.width));
    assert_ok(DF_NEW(s.row, x.n * s.width));
    assert_ok(df_forward_open(x.model, CONTEXT, &site, 1, &s.whole));
    assert_ok(df_forward_open(x.model, CONTEXT, &site, 1, &s.steps));
    assert_fails(df_forward_next(s.steps, 1, NULL, NULL), DF_FAILED, "kept");
    assert_ok(df_forward_keep(s.steps));
    assert_ok(df_forward_run(s.steps, x.ids, 5, NULL, NULL));
    assert_fails(df_forward_next(s.steps, 41, NULL, NULL), DF_BAD_INPUT, "token id 41");
    assert_ok(df_forward_next(s.steps, x.ids[5], NULL, NULL));
    compare_steps(&x, &s, 70, "no intervention");
    compare_steps(&x, &s, 1, "from the first token on");
    for (size_t i = 0; i < 64; i++) push[i] = (float)((int)(i % 5) - 2) / 4.0f;
    const df_intervention list[] = {
        {.site = sites[0], .edit = DF_EDIT_ADD, .values = push, .from = 60, .to = 80},
        {.site = sites[1], .edit = DF_EDIT_SCALE, .factor = 0.5f, .from = 20},
        {.site = sites[2], .edit = DF_EDIT_SCALE, .factor = 0.75f}};
    assert_ok(df_forward_intervene(s.whole, list, 3));
    assert_ok(df_forward_intervene(s.steps, list, 3));
    compare_steps(&x, &s, 65, "interventions");
    for (size_t t = x.n; t < CONTEXT; t++)
        assert_ok(df_forward_next(s.steps, x.ids[0], NULL, NULL));
    assert_fails(df_forward_next(s.steps, x.ids[0], NULL, NULL), DF_USAGE, "is full");
    df_forward_close(&s.whole);
    df_forward_close(&s.steps);
    df_free(s.logits);
    df_free(s.last);
    df_free(s.rows);
    df_free(s.row);
    close_fixture(&x);
}

static void test_dynamic_keeps_nothing(void **state) {
    (void)state;
    static fixture x;
    df_forward *f;
    open_fixture("llama-dynamic", &x);
    assert_ok(df_forward_open(x.model, CONTEXT, NULL, 0, &f));
    assert_fails(df_forward_keep(f), DF_USAGE, "dynamic rope scaling");
    df_forward_close(&f);
    close_fixture(&x);
}

/* ---- gradients ------------------------------------------------------------------------------ */

typedef struct slopes {
    df_forward *forward;
    float *logits, *seed, *gradient[MOST_SITES];
} slopes;

/* The oracle's weights of the logits. */
static float weight_of(size_t i) {
    return (float)((int)((i * 7 + 3) % 11) - 5) / 8.0f;
}

static void open_slopes(const fixture *x, const char *const *site, size_t n, slopes *s) {
    assert_ok(DF_NEW(s->logits, x->n * x->vocabulary));
    assert_ok(DF_NEW(s->seed, x->n * x->vocabulary));
    for (size_t i = 0; i < x->n * x->vocabulary; i++) s->seed[i] = weight_of(i);
    assert_ok(df_forward_open(x->model, CONTEXT, site, n, &s->forward));
    assert_ok(df_forward_tape(s->forward));
    for (size_t i = 0; i < n; i++) {
        size_t width;
        assert_ok(df_model_site_width(df_model_facts(x->model), site[i], CONTEXT, &width));
        assert_ok(DF_NEW(s->gradient[i], x->n * width));
    }
}

static void close_slopes(slopes *s, size_t n) {
    for (size_t i = 0; i < n; i++) df_free(s->gradient[i]);
    df_forward_close(&s->forward);
    df_free(s->logits);
    df_free(s->seed);
}

/* All sites of a run against the oracle's numbers from *at on. */
static void compare_gradients(const fixture *x, slopes *s, const double *expected, size_t *at,
                              const char *what) {
    assert_ok(df_forward_run(s->forward, x->ids, x->n, NULL, s->logits));
    assert_ok(df_forward_gradient(s->forward, s->seed, s->gradient));
    for (size_t i = 0; i < x->sites.n; i++)
        for (size_t r = 0; r < 2; r++, *at += x->sites.width[i]) {
            const float *ours = s->gradient[i] + kept[r] * x->sites.width[i];
            double d = apart(ours, expected + *at, x->sites.width[i]);
            /* a norm's scale has one number, a sum over the width that may cancel */
            if (x->sites.width[i] == 1 && fabs((double)ours[0] - expected[*at]) <= 1e-4) d = 0;
            if (!(d <= 1e-4))
                print_error("%s, %s, position %zu: %.3g\n", what, x->sites.name[i], kept[r], d);
            assert_true(d <= 1e-4);
        }
}

static void test_gradient(void **state) {
    static fixture x;
    size_t before = df_memory_now(), n, at = 0, first = 0, seen = 0;
    char path[300];
    slopes s;
    float values[2][2 * CONTEXT];
    open_fixture(*state, &x);
    snprintf(path, sizeof path, GOLDEN "/%s/hooks.h5", (const char *)*state);
    double *expected = df_test_reference(path, "gradients", &n);
    assert_non_null(expected);
    open_slopes(&x, x.sites.name, x.sites.n, &s);
    compare_gradients(&x, &s, expected, &at, "plain");
    while (strcmp(x.sites.name[first], "blocks.1.hook_resid_pre") != 0) first++;
    size_t last = first;
    while (strcmp(x.sites.name[last], "blocks.1.hook_mlp_out") != 0) last++;
    site_list two = {.n = 0};
    two.name[2] = x.sites.name[first];
    two.name[3] = x.sites.name[last];
    two.width[2] = x.sites.width[first];
    two.width[3] = x.sites.width[last];
    const df_intervention list[] = {oracle_edit(&two, 2, values[0], &seen),
                                    oracle_edit(&two, 3, values[1], &seen)};
    assert_ok(df_forward_intervene(s.forward, list, 2));
    compare_gradients(&x, &s, expected, &at, "intervened");
    assert_int_equal(at, n);
    close_slopes(&s, x.sites.n);
    df_free(expected);
    close_fixture(&x);
    assert_int_equal(df_memory_now(), before);
}

static double sum_of(const fixture *x, const slopes *s) {
    double sum = 0;
    assert_ok(df_forward_run(s->forward, x->ids, x->n, NULL, s->logits));
    for (size_t i = 0; i < x->n * x->vocabulary; i++)
        sum += (double)s->seed[i] * (double)s->logits[i];
    return sum;
}

/* A small step along a direction at a site changes the sum as its gradient says, through other
 * interventions too. */
static void test_finite_differences(void **state) {
    static fixture x;
    slopes s;
    open_fixture(*state, &x);
    const char *const sites[] = {"hook_embed",
                                 "blocks.0.attn.hook_q",
                                 "blocks.0.attn.hook_v",
                                 "blocks.0.attn.hook_pattern",
                                 "blocks.0.mlp.hook_pre",
                                 "blocks.1.attn.hook_result",
                                 "blocks.1.ln1.hook_scale"};
    enum { SITES = sizeof sites / sizeof *sites };
    float direction[8 * CONTEXT];
    open_slopes(&x, sites, SITES, &s);
    for (size_t i = 0; i < SITES; i++) {
        size_t width;
        assert_ok(df_model_site_width(df_model_facts(x.model), sites[i], CONTEXT, &width));
        for (size_t c = 0; c < width; c++) direction[c] = weight_of(c) * 2e-3f;
        df_intervention list[] = {
            {.site = "blocks.0.attn.hook_pattern", .edit = DF_EDIT_SCALE, .factor = 0.9f},
            {.site = "blocks.1.attn.hook_result", .edit = DF_EDIT_SCALE, .factor = 1.1f},
            {.site = sites[i],
             .edit = DF_EDIT_ADD,
             .values = direction,
             .from = 20,
             .to = 30,
             .columns = i == 3 ? 20 : 0}};
        assert_ok(df_forward_intervene(s.forward, list, 2));
        sum_of(&x, &s);
        assert_ok(df_forward_gradient(s.forward, s.seed, s.gradient));
        double expected = 0;
        for (size_t t = 20; t < 30; t++)
            for (size_t c = 0; c < (i == 3 ? 20 : width); c++)
                expected += 2 * (double)direction[c] * (double)s.gradient[i][t * width + c];
        assert_ok(df_forward_intervene(s.forward, list, 3));
        double above = sum_of(&x, &s);
        for (size_t c = 0; c < width; c++) direction[c] = -direction[c];
        double found = above - sum_of(&x, &s);
        if (!(fabs(found - expected) <= 0.02 * fabs(expected) + 2e-4))
            print_error("%s: found %g, expected %g\n", sites[i], found, expected);
        assert_true(fabs(found - expected) <= 0.02 * fabs(expected) + 2e-4);
    }
    close_slopes(&s, SITES);
    close_fixture(&x);
}

static void test_gradient_refusals(void **state) {
    (void)state;
    static fixture x;
    slopes s;
    open_fixture("gpt2", &x);
    const char *const site = "hook_embed";
    const df_intervention call = {.site = site, .edit = DF_EDIT_CALL, .call = refuse, .from = 95};
    open_slopes(&x, &site, 1, &s);
    assert_fails(df_forward_gradient(s.forward, s.seed, s.gradient), DF_FAILED, "tape");
    assert_ok(df_forward_intervene(s.forward, &call, 1));
    assert_ok(df_forward_run(s.forward, x.ids, x.n, NULL, NULL));
    assert_fails(df_forward_gradient(s.forward, s.seed, s.gradient), DF_USAGE,
                 "no gradient goes through the function at hook_embed");
    close_slopes(&s, 1);
    close_fixture(&x);
}

#define FAMILY(name)                                                                               \
    {"interventions " name, test_family, NULL, NULL, (void *)name}, {                              \
        "gradients " name, test_gradient, NULL, NULL, (void *)name                                 \
    }
#define STEPS(name)                                                                                \
    { "steps " name, test_steps, NULL, NULL, (void *)name }
#define DIFFERENCES(name)                                                                          \
    { "finite differences " name, test_finite_differences, NULL, NULL, (void *)name }

int main(void) {
    const struct CMUnitTest tests[] = {
        FAMILIES(FAMILY),
        cmocka_unit_test(test_handed_out),
        cmocka_unit_test(test_refusals),
        STEADY_FAMILIES(STEPS),
        cmocka_unit_test(test_dynamic_keeps_nothing),
        DIFFERENCES("gpt2"),
        DIFFERENCES("gpt_neox"),
        DIFFERENCES("qwen3"),
        DIFFERENCES("gemma2"),
        cmocka_unit_test(test_gradient_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
