/* Every family of the table against float64 references of all its hook sites
 * (tests/golden/family_oracle.py): small random checkpoints in the files' own layouts. With
 * products in bf16, of some families, against references that round as these do. */
#include "family_sites.h"

/* How far a row may be from its reference, as a share of its length: all rows, half of them. */
typedef struct closeness {
    double all, half;
} closeness;

static const closeness exact = {2e-5, 2e-5};
// Products of operands rounded to 8 bits: each is off by up to 2^-8, and patterns by more.
static const closeness coarse = {0.08, 0.08};
// Beside a reference that rounds the same operands (tests/golden/bf16_oracle.py) only sums differ;
// an operand that they push to the other side of a tie, which is rare, changes what follows it.
static const closeness as_rounded = {1.5e-3, 1e-5};

static double *reference(const char *file, int prompt, const char *what, size_t *n) {
    char path[64];
    snprintf(path, sizeof path, "prompt%d/%s", prompt, what);
    double *values = df_test_reference(file, path, n);
    assert_non_null(values);
    return values;
}

static void compare_prompt(const df_model *model, const char *file, int prompt, closeness may) {
    static site_list sites;
    float *out[MOST_SITES];
    uint32_t ids[CONTEXT];
    size_t n, kept, numbers, at = 0, far = 0;
    double *tokens = reference(file, prompt, "tokens", &n);
    double *rows = reference(file, prompt, "rows", &kept);
    double *values = reference(file, prompt, "values", &numbers);
    df_forward *forward;
    for (size_t t = 0; t < n; t++) ids[t] = (uint32_t)tokens[t];
    list_sites(df_model_facts(model), &sites);
    assert_ok(df_forward_open(model, CONTEXT, sites.name, sites.n, &forward));
    for (size_t i = 0; i < sites.n; i++) assert_ok(DF_NEW(out[i], n * sites.width[i]));
    assert_ok(df_forward_run(forward, ids, n, out, NULL));
    for (size_t i = 0; i < sites.n; i++)
        for (size_t r = 0; r < kept; r++, at += sites.width[i]) {
            assert_true(at + sites.width[i] <= numbers);
            double d =
                apart(out[i] + (size_t)rows[r] * sites.width[i], values + at, sites.width[i]);
            if (!(d <= may.all))
                print_error("%s prompt %d, %s, position %g: %.3g\n", file, prompt, sites.name[i],
                            rows[r], d);
            assert_true(d <= may.all);
            far += d > may.half;
        }
    assert_int_equal(at, numbers);
    assert_in_range(far, 0, sites.n * kept / 2);
    for (size_t i = 0; i < sites.n; i++) df_free(out[i]);
    df_free(tokens);
    df_free(rows);
    df_free(values);
    df_forward_close(&forward);
}

static void test_family(void **state) {
    const char *name = *state;
    char path[256], file[300];
    size_t before = df_memory_now();
    df_model *model;
    snprintf(path, sizeof path, GOLDEN "/%s", name);
    snprintf(file, sizeof file, "%s/reference.h5", path);
    assert_ok(df_model_open(path, &model));
    compare_prompt(model, file, 0, exact);
    compare_prompt(model, file, 1, exact);
    assert_ok(df_model_use_bf16(model));
    compare_prompt(model, file, 0, coarse);
    snprintf(file, sizeof file, "%s/bf16.h5", path);
    if (df_file_exists(file)) compare_prompt(model, file, 0, as_rounded);
    df_model_close(&model);
    assert_int_equal(df_memory_now(), before);
}

/* Sites that a family lacks are refused with what it has. */
static void test_absent_sites(void **state) {
    (void)state;
    size_t width;
    df_model_shape shape;
    assert_ok(df_model_plan(GOLDEN "/gpt_neox", &shape));
    assert_fails(df_model_site_width(&shape, "blocks.0.hook_resid_mid", 8, &width), DF_USAGE,
                 "no site blocks.0.hook_resid_mid");
    assert_fails(df_model_site_width(&shape, "hook_pos_embed", 8, &width), DF_USAGE, "no site");
    assert_ok(df_model_plan(GOLDEN "/gpt2", &shape));
    assert_fails(df_model_site_width(&shape, "blocks.1.attn.hook_rot_q", 8, &width), DF_USAGE,
                 "did you mean");
    assert_fails(df_model_site_width(&shape, "blocks.1.mlp.hook_pre_linear", 8, &width), DF_USAGE,
                 "no site");
    assert_ok(df_model_site_width(&shape, "blocks.1.attn.hook_pattern", 8, &width));
    assert_int_equal(width, 32);
}

#define FAMILY(name)                                                                               \
    { "family " name, test_family, NULL, NULL, (void *)name }

int main(void) {
    const struct CMUnitTest tests[] = {
        FAMILIES(FAMILY),
        cmocka_unit_test(test_absent_sites),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
