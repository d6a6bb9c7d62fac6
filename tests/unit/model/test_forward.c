/* The forward pass against float64 references: the pocket pair's and the stories pair's (computed
 * by their training code), and two random checkpoints with biases, grouped queries and scaled
 * rotary positions (tests/golden/forward_oracle.py). */
#include "reference.h"

#include "darkfield/model.h"

#define GOLDEN DF_SOURCE_DIR "/tests/golden/forward"

typedef struct window {
    uint32_t *ids;
    size_t n;
} window;

// Token ids of one prompt, under either of the two names in use.
static window read_ids(const char *file, const char *group) {
    char name[128];
    window w = {0};
    double *ids = NULL;
    const char *const names[] = {"tokens", "ids"};
    for (size_t i = 0; i < 2 && ids == NULL; i++) {
        snprintf(name, sizeof name, "%s/%s", group, names[i]);
        ids = df_test_reference(file, name, &w.n);
    }
    assert_non_null(ids);
    assert_ok(DF_NEW(w.ids, w.n));
    for (size_t i = 0; i < w.n; i++) w.ids[i] = (uint32_t)ids[i];
    df_free(ids);
    return w;
}

// Every row of ours within 1e-4 relative L2 norm of the reference's; row i of the reference is
// ours[rows[i]].
static double worst_row(const float *ours, const double *theirs, size_t n, size_t width,
                        const size_t *rows) {
    double worst = 0;
    for (size_t r = 0; r < n; r++) {
        const float *row = ours + (rows != NULL ? rows[r] : r) * width;
        double apart = 0, size = 0;
        for (size_t i = 0; i < width; i++) {
            double d = (double)row[i] - theirs[r * width + i];
            apart += d * d;
            size += theirs[r * width + i] * theirs[r * width + i];
        }
        worst = df_test_worse(worst, apart > 0 ? sqrt(apart / size) : apart);
    }
    return worst;
}

static const size_t some_rows[] = {0,  1,  50, 63,
                                   64, 98, 99}; // what the oracle keeps of its long prompt

static void compare(const char *file, const char *group, const char *name, const float *ours,
                    size_t width) {
    char path[160];
    size_t n;
    snprintf(path, sizeof path, "%s/%s", group, name);
    double *theirs = df_test_reference(file, path, &n);
    assert_non_null(theirs);
    double worst = worst_row(
        ours, theirs, n / width, width,
        n / width == 7 && strstr(file, GOLDEN) != NULL && strstr(group, "prompt0") ? some_rows
                                                                                   : NULL);
    if (!(worst <= 1e-5)) print_error("%s %s: %.3g\n", file, path, worst);
    assert_true(worst <= 1e-5);
    df_free(theirs);
}

static size_t list_sites(size_t layers, bool all, char names[static 64][64],
                         const char *sites[static 64]) {
    static const char *const parts[] = {"hook_resid_post", "hook_resid_pre", "hook_attn_out",
                                        "hook_resid_mid", "hook_mlp_out"};
    size_t n = 0;
    for (size_t l = 0; l < layers; l++)
        for (size_t p = 0; p < (all ? 5 : 1); p++)
            snprintf(names[n++], 64, "blocks.%zu.%s", l, parts[p]);
    if (all) {
        snprintf(names[n++], 64, "hook_embed");
        snprintf(names[n++], 64, "ln_final.hook_normalized");
    }
    for (size_t i = 0; i < n; i++) sites[i] = names[i];
    return n;
}

static void compare_prompt(const df_model *model, const char *file, const char *group, bool all) {
    char names[64][64];
    const char *sites[64];
    float *out[64], *logits;
    size_t n = list_sites(df_model_facts(model)->layers, all, names, sites),
           width = df_model_width(model);
    window w = read_ids(file, group);
    df_forward *forward;
    assert_ok(df_forward_open(model, 256, sites, n, &forward));
    for (size_t i = 0; i < n; i++) assert_ok(DF_NEW(out[i], w.n * width));
    assert_ok(DF_NEW(logits, w.n * df_model_vocabulary(model)));
    assert_ok(df_forward_run(forward, w.ids, w.n, out, logits));
    for (size_t i = 0; i < n; i++) compare(file, group, sites[i], out[i], width);
    compare(file, group, "logits", logits, df_model_vocabulary(model));
    if (all) {
        double nll[256];
        float narrow[256];
        assert_ok(df_forward_nll(forward, nll));
        for (size_t i = 0; i + 1 < w.n; i++) narrow[i] = (float)nll[i];
        compare(file, group, "nll", narrow, w.n - 1);
    }
    for (size_t i = 0; i < n; i++) df_free(out[i]);
    df_free(logits);
    df_free(w.ids);
    df_forward_close(&forward);
}

static void compare_pair(const char *folder) {
    char path[512], file[512], group[64];
    snprintf(file, sizeof file, "%s/reference.h5", folder);
    const char *const names[] = {"base", "tuned"};
    for (size_t m = 0; m < 2; m++) {
        df_model *model;
        snprintf(path, sizeof path, "%s/%s", folder, names[m]);
        assert_ok(df_model_open(path, &model));
        for (int p = 0; p < 3; p++) {
            snprintf(group, sizeof group, "%s/prompt%d", names[m], p);
            compare_prompt(model, file, group, false);
        }
        df_model_close(&model);
    }
}

static void test_pocket(void **state) {
    (void)state;
    compare_pair(DF_SOURCE_DIR "/jobs/quickstart");
}

static void test_stories(void **state) {
    (void)state;
    const char *fixtures = getenv("DARKFIELD_FIXTURES");
    if (fixtures == NULL) {
        print_message("DARKFIELD_FIXTURES is not set: the stories pair is skipped\n");
        skip();
    }
    char folder[400];
    snprintf(folder, sizeof folder, "%s/stories-pair", fixtures);
    compare_pair(folder);
}

static void compare_golden(const char *name) {
    char path[256], file[300];
    df_model *model;
    snprintf(path, sizeof path, GOLDEN "/%s", name);
    snprintf(file, sizeof file, "%s/reference.h5", path);
    assert_ok(df_model_open(path, &model));
    compare_prompt(model, file, "prompt0", true);
    compare_prompt(model, file, "prompt1", true);
    df_model_close(&model);
}

static void test_scaled(void **state) {
    (void)state;
    compare_golden("scaled");
}

static void test_linear(void **state) {
    (void)state;
    compare_golden("linear");
}

/* A window's numbers depend on its tokens alone: not on what ran before, nor on the tokens that
 * follow. */
static void test_window_alone(void **state) {
    (void)state;
    df_model *model;
    df_forward *forward;
    uint32_t ids[100];
    static float first[100 * 128], second[100 * 128];
    const char *site = "blocks.3.hook_resid_post";
    for (uint32_t i = 0; i < 100; i++) ids[i] = i * 7 % 640;
    assert_ok(df_model_open(DF_SOURCE_DIR "/jobs/quickstart/base", &model));
    assert_ok(df_forward_open(model, 100, &site, 1, &forward));
    assert_ok(df_forward_run(forward, ids, 30, (float *[]){first}, NULL));
    assert_ok(df_forward_run(forward, ids, 100, (float *[]){second}, NULL));
    assert_memory_equal(first, second, 30 * 128 * sizeof *first);
    assert_ok(df_forward_run(forward, ids, 30, (float *[]){second}, NULL));
    assert_memory_equal(first, second, 30 * 128 * sizeof *first);
    df_forward_close(&forward);
    df_model_close(&model);
}

static void test_refusals(void **state) {
    (void)state;
    df_model *model;
    df_forward *forward;
    size_t width, before = df_memory_now();
    const uint32_t outside = 640;
    const char *site = "blocks.3.hook_resid_pst";
    assert_ok(df_model_open(DF_SOURCE_DIR "/jobs/quickstart/base", &model));
    assert_fails(df_forward_open(model, 257, NULL, 0, &forward), DF_USAGE, "1..256");
    assert_fails(df_forward_open(model, 64, &site, 1, &forward), DF_USAGE,
                 "did you mean blocks.3.hook_resid_post?");
    assert_fails(df_model_site_width(df_model_facts(model), "blocks.4.hook_resid_post", 64, &width),
                 DF_USAGE, "blocks.0 to blocks.3");
    assert_fails(
        df_model_site_width(df_model_facts(model), "blocks.03.hook_resid_post", 64, &width),
        DF_USAGE, "no site");
    assert_ok(df_model_site_width(df_model_facts(model), "ln_final.hook_normalized", 64, &width));
    assert_int_equal(width, 128);
    assert_int_equal(df_site_layer("blocks.12.hook_mlp_out"), 12);
    assert_int_equal(df_site_layer("hook_embed"), -1);
    size_t held = df_memory_now();
    assert_ok(df_forward_open(model, 64, NULL, 0, &forward));
    assert_int_equal(df_memory_now() - held, df_forward_bytes(df_model_facts(model), 64, NULL, 0));
    assert_fails(df_forward_run(forward, &outside, 1, NULL, NULL), DF_BAD_INPUT, "640");
    df_forward_close(&forward);
    df_model_close(&model);
    assert_int_equal(df_memory_now(), before);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pocket),       cmocka_unit_test(test_stories),
        cmocka_unit_test(test_scaled),       cmocka_unit_test(test_linear),
        cmocka_unit_test(test_window_alone), cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
