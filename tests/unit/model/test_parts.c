/* Parts of a model: blocks of every family run by two passes, the stream handed from one to the
 * other, give the bits of one pass; a part holds its own weights only. */
#include "family_sites.h"

#include "darkfield/hooks.h"

enum { TOKENS = 61 }; // fewer than the context, so that padding is handed on too

static void random_ids(const df_model_shape *shape, uint32_t *ids) {
    for (size_t t = 0; t < TOKENS; t++)
        ids[t] = (uint32_t)(df_random_bits(11, DF_STREAM_TEST, t) % shape->vocabulary);
}

/* A pass over some sites, their rows, and the losses. */
typedef struct pass {
    df_model *model;
    df_forward *forward;
    float *out[MOST_SITES];
    double nll[TOKENS];
} pass;

// The sites of `all` whose home is in the part: their numbers.
static size_t sites_of(df_model_part part, const df_model_shape *shape, const site_list *all,
                       size_t *which) {
    size_t n = 0;
    for (size_t i = 0; i < all->n; i++)
        if (df_site_home(shape, all->name[i]) - part.first < part.count) which[n++] = i;
    return n;
}

static void run_pass(const char *path, df_model_part part, bool bf16, const float *stream,
                     pass *p) {
    static site_list all;
    size_t which[MOST_SITES], before = df_memory_now();
    const char *name[MOST_SITES];
    uint32_t ids[TOKENS];
    assert_ok(df_model_open_part(path, part, &p->model));
    if (bf16) assert_ok(df_model_use_bf16(p->model));
    const df_model_shape *shape = df_model_facts(p->model);
    uint64_t planned = df_model_part_bytes(shape, part, bf16);
    // Beside the weights: the description, and tables of pointers to them.
    assert_in_range(df_memory_now() - before, planned, planned + (64 << 10));
    list_sites(shape, &all);
    size_t n = sites_of(part, shape, &all, which);
    for (size_t i = 0; i < n; i++) name[i] = all.name[which[i]];
    for (size_t i = 0; i < n; i++) assert_ok(DF_NEW(p->out[i], TOKENS * all.width[which[i]]));
    before = df_memory_now();
    assert_ok(df_forward_open(p->model, CONTEXT, name, n, &p->forward));
    assert_int_equal(df_memory_now() - before,
                     df_forward_part_bytes(shape, part, CONTEXT, name, n));
    if (stream != NULL)
        memcpy(df_forward_stream(p->forward), stream,
               df_forward_rows(CONTEXT) * shape->width * sizeof *stream);
    random_ids(shape, ids);
    assert_ok(df_forward_run(p->forward, ids, TOKENS, p->out, NULL));
    if (part.first + part.count == shape->layers)
        assert_ok(df_forward_nll(p->forward, p->nll));
    else
        assert_fails(df_forward_nll(p->forward, p->nll), DF_FAILED, "last block");
}

static void close_pass(pass *p) {
    for (size_t i = 0; i < MOST_SITES; i++) df_free(p->out[i]);
    df_forward_close(&p->forward);
    df_model_close(&p->model);
    *p = (pass){0};
}

static void compare_sites(const df_model_shape *shape, df_model_part part, const pass *one,
                          const pass *some) {
    static site_list all;
    size_t which[MOST_SITES];
    list_sites(shape, &all);
    size_t n = sites_of(part, shape, &all, which);
    assert_true(n > 0);
    for (size_t i = 0; i < n; i++) {
        size_t bytes = TOKENS * all.width[which[i]] * sizeof(float);
        if (memcmp(one->out[which[i]], some->out[i], bytes) != 0)
            fail_msg("%s: other bits than in the whole model", all.name[which[i]]);
    }
}

static void compare_cut(const char *path, size_t cut, bool bf16) {
    static pass one, front, back;
    df_model_shape shape;
    assert_ok(df_model_plan(path, &shape));
    df_model_part first = {0, cut}, second = {cut, shape.layers - cut};
    run_pass(path, df_model_whole(&shape), bf16, NULL, &one);
    run_pass(path, first, bf16, NULL, &front);
    run_pass(path, second, bf16, df_forward_stream(front.forward), &back);
    compare_sites(&shape, first, &one, &front);
    compare_sites(&shape, second, &one, &back);
    assert_memory_equal(one.nll, back.nll, (TOKENS - 1) * sizeof *one.nll);
    close_pass(&one);
    close_pass(&front);
    close_pass(&back);
}

static void test_cuts(void **state) {
    size_t before = df_memory_now();
    char path[256];
    df_model_shape shape;
    snprintf(path, sizeof path, GOLDEN "/%s", (const char *)*state);
    assert_ok(df_model_plan(path, &shape));
    for (size_t cut = 1; cut < shape.layers; cut++) {
        compare_cut(path, cut, false);
        compare_cut(path, cut, true);
    }
    assert_int_equal(df_memory_now(), before);
}

// Parts of a model with four blocks: what they hold adds up, the tied matrix twice.
static void test_bytes(void **state) {
    (void)state;
    df_model_shape shape;
    assert_ok(df_model_plan(DF_SOURCE_DIR "/jobs/quickstart/base", &shape));
    assert_true(shape.tied && shape.layers == 4);
    uint64_t table = shape.vocabulary * shape.width * sizeof(float),
             block = shape.block_parameters * sizeof(float);
    assert_int_equal(df_model_part_bytes(&shape, df_model_whole(&shape), false),
                     shape.parameters * sizeof(float));
    assert_int_equal(df_model_part_bytes(&shape, (df_model_part){0, 1}, false), table + block);
    assert_int_equal(df_model_part_bytes(&shape, (df_model_part){1, 2}, false), 2 * block);
    assert_int_equal(df_model_part_bytes(&shape, (df_model_part){2, 2}, false),
                     2 * block + table + shape.width * sizeof(float));
    assert_int_equal(df_model_part_bytes(&shape, df_model_whole(&shape), true),
                     shape.parameters * sizeof(float) + df_model_bf16_bytes(&shape));
}

static void test_refusals(void **state) {
    (void)state;
    const char *path = DF_SOURCE_DIR "/jobs/quickstart/base";
    const char *logits = "logits", *late = "blocks.3.hook_resid_post";
    float row[640];
    uint32_t id = 1;
    df_model *model = NULL;
    df_forward *forward = NULL;
    assert_fails(df_model_open_part(path, (df_model_part){0, 0}, &model), DF_USAGE, "0 blocks");
    assert_fails(df_model_open_part(path, (df_model_part){3, 2}, &model), DF_USAGE, "4 blocks");
    assert_fails(df_model_open_part(path, (df_model_part){SIZE_MAX, 2}, &model), DF_USAGE,
                 "4 blocks");
    assert_ok(df_model_open_part(path, (df_model_part){1, 2}, &model));
    assert_null(df_model_unembed(model));
    assert_int_equal(df_model_held(model).first, 1);
    assert_fails(df_forward_open(model, 8, &logits, 1, &forward), DF_USAGE, "blocks 1 to 2");
    assert_fails(df_forward_open(model, 8, &late, 1, &forward), DF_USAGE, late);
    assert_ok(df_forward_open(model, 8, NULL, 0, &forward));
    assert_fails(df_forward_keep(forward), DF_USAGE, "whole model");
    assert_fails(df_forward_tape(forward), DF_USAGE, "whole model");
    assert_fails(df_forward_run(forward, &id, 1, NULL, row), DF_FAILED, "last block");
    const df_intervention edit = {.site = late, .edit = DF_EDIT_REPLACE};
    assert_fails(df_forward_intervene(forward, &edit, 1), DF_USAGE, late);
    df_forward_close(&forward);
    df_model_close(&model);
}

#define FAMILY(name)                                                                               \
    { "parts of " name, test_cuts, NULL, NULL, (void *)name }

int main(void) {
    const struct CMUnitTest tests[] = {
        FAMILIES(FAMILY),
        cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
