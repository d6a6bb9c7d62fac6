/* The lens against PyTorch and numpy (tests/golden/lens_oracle.py) for every family on any number
 * of ranks, and what is refused. */
#define DF_TEST_MPI
#include "df_test.h"
#include "same_file.h"

#include "parts.h"

#include <omp.h>

static df_comm *world;
static json_t *golden;

static const char *const families[] = {
    "gpt2",          "gpt2-scaled", "gpt_neo", "gpt_neox", "gpt_neox-sequential",
    "opt",           "mistral",     "qwen2",   "qwen3",    "llama-yarn",
    "llama-dynamic", "gemma",       "gemma2",  "gemma3",   "gemma3_text"};
enum { FAMILIES = sizeof families / sizeof *families };

static int set_up(void **state) {
    (void)state;
    df_log_quiet(true);
    golden = df_test_json(DF_SOURCE_DIR "/tests/golden/lens_oracle.json");
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    json_decref(golden);
    return 0;
}

static bool near(double found, const json_t *expected, double relative, double absolute) {
    double e = json_is_number(expected) ? json_number_value(expected) : (double)NAN;
    bool good = fabs(found - e) <= relative * fabs(e) + absolute;
    if (!good) fprintf(stderr, "found %.9g, expected %.9g\n", found, e);
    return good;
}

static df_model *open_family(const char *name) {
    df_model *model = NULL;
    char *path = df_format(DF_SOURCE_DIR "/tests/golden/family/%s", name);
    df_test_all(world, df_model_open(path, &model) == DF_OK);
    df_free(path);
    return model;
}

/* ---- weights -------------------------------------------------------------------------------- */

static bool weights_agree(const df_lens *lens, const json_t *entry) {
    static const char *const names[DF_LENS_WEIGHTS] = {"ov",      "ov_full", "qk",
                                                       "qk_full", "ov_norm", "qk_norm"};
    size_t heads = lens->shape.layers * lens->shape.heads;
    bool good = true;
    for (size_t w = 0; w < DF_LENS_WEIGHTS; w++)
        for (size_t n = 0; n < heads; n++) {
            const json_t *e = json_array_get(json_object_get(entry, names[w]), n);
            good = near(lens->weight[w * heads + n], e, 1e-7, 1e-7) && good;
        }
    return good;
}

static bool compositions_agree(const df_lens *lens, const json_t *entry) {
    static const char *const names[] = {"composition_q", "composition_k", "composition_v"};
    const df_model_shape *s = &lens->shape;
    bool good = true;
    for (size_t i = 0; i < DF_LENS_COMPOSITIONS; i++)
        for (size_t later = 1; later < s->layers; later++)
            for (size_t l = 0; l < later; l++)
                for (size_t h = 0; h < s->heads * s->heads; h++) {
                    size_t pair = df_lens_pair(s, l, h / s->heads, later), to = h % s->heads;
                    const json_t *row = json_array_get(json_object_get(entry, names[i]),
                                                       l * s->heads + h / s->heads);
                    good =
                        near(lens->composition[(pair * s->heads + to) * DF_LENS_COMPOSITIONS + i],
                             json_array_get(row, later * s->heads + to), 1e-8, 1e-8) &&
                        good;
                }
    return good;
}

/* ---- figures with errors -------------------------------------------------------------------- */

// The i-th number of nested arrays, row by row.
static const json_t *flat(const json_t *array, size_t i) {
    while (json_is_array(json_array_get(array, 0))) {
        size_t below = 1;
        for (const json_t *a = json_array_get(array, 0); json_is_array(a); a = json_array_get(a, 0))
            below *= json_array_size(a);
        array = json_array_get(array, i / below);
        i %= below;
    }
    return json_array_get(array, i);
}

static bool estimates_agree(const df_estimate *found, size_t n, const json_t *entry,
                            const char *name) {
    const json_t *both = json_object_get(entry, name);
    bool good = true;
    for (size_t i = 0; i < n; i++) {
        const json_t *value = flat(json_object_get(both, "value"), i);
        const json_t *error = flat(json_object_get(both, "error"), i);
        good = near(found[i].value, value, 2e-5, 2e-5) && good;
        good = near(found[i].error, error, 1e-3, 2e-5) && good;
    }
    if (!good) fprintf(stderr, "%s differs\n", name);
    return good;
}

static bool text_agrees(const df_lens *lens, const json_t *entry) {
    const df_model_shape *s = &lens->shape;
    size_t heads = s->layers * s->heads;
    bool good = estimates_agree(lens->point, DF_LENS_QUANTITIES * (s->layers + 1), entry, "point");
    good = estimates_agree(lens->whole, DF_LENS_WHOLES, entry, "whole") && good;
    good = estimates_agree(lens->mlp, s->layers, entry, "mlp") && good;
    good = estimates_agree(lens->bias, s->layers, entry, "bias") && good;
    good = estimates_agree(lens->head, heads, entry, "head") && good;
    good = estimates_agree(lens->previous, heads, entry, "previous") && good;
    return estimates_agree(lens->detector, DF_LENS_DETECTORS * heads, entry, "detector") && good;
}

// The parts sum to the logit: at every position, and their means.
static bool parts_sum(const df_lens *lens) {
    const df_model_shape *s = &lens->shape;
    double sum = 0.0;
    for (size_t i = 0; i < DF_LENS_LOGIT; i++) sum += lens->whole[i].value;
    for (size_t l = 0; l < s->layers; l++) sum += lens->mlp[l].value + lens->bias[l].value;
    for (size_t h = 0; h < s->layers * s->heads; h++) sum += lens->head[h].value;
    bool good = fabs(sum - lens->whole[DF_LENS_LOGIT].value) < 1e-5 && lens->gap < 1e-4;
    if (!good)
        fprintf(stderr, "sum %g of %g, gap %g\n", sum, lens->whole[DF_LENS_LOGIT].value, lens->gap);
    return good;
}

/* ---- the oracle's case ---------------------------------------------------------------------- */

enum { ROWS = 221, LONGEST = 90, RANDOM = 38, PERIOD = 12 };
static uint64_t windows[] = {0, 90, 180, ROWS};
static uint32_t tokens[ROWS], drawn[RANDOM];
static uint8_t scored[ROWS];

static df_lens_input make_input(const df_model *model, const char *name) {
    const json_t *entry = json_object_get(golden, name);
    for (size_t w = 0; w < 3; w++)
        for (size_t r = windows[w]; r < windows[w + 1]; r++) {
            tokens[r] = (uint32_t)((r * r * 37 + r * 11 + 5) % 41);
            scored[r] = r + 1 < windows[w + 1] && r % 5 != 3;
        }
    for (uint32_t i = 0; i < RANDOM; i++) drawn[i] = i + 3;
    return (df_lens_input){.model = model,
                           .name = name,
                           .text = {LONGEST, 3, windows, tokens, scored},
                           .against = json_integer_value(json_object_get(entry, "against")),
                           .sequences = 4,
                           .period = PERIOD,
                           .random = drawn,
                           .n_random = RANDOM,
                           .bos = json_integer_value(json_object_get(entry, "bos")),
                           .seed = 5};
}

static bool tokens_agree(const df_lens_input *input, const json_t *entry) {
    uint32_t ids[1 + 2 * PERIOD];
    const json_t *expected = json_object_get(entry, "tokens");
    bool good = df_lens_sequence(input, 1, ids) == json_array_size(expected);
    for (size_t i = 0; i < json_array_size(expected); i++)
        good = good && ids[i] == json_integer_value(json_array_get(expected, i));
    return good;
}

static void every_family_agrees(void **state) {
    (void)state;
    for (size_t f = 0; f < FAMILIES; f++) {
        df_model *model = open_family(families[f]);
        const json_t *entry = json_object_get(golden, families[f]);
        const df_lens_input input = make_input(model, families[f]);
        df_lens lens;
        df_test_all(world, df_lens_run(world, &input, &lens) == DF_OK);
        bool writer = df_comm_rank(world) == 0;
        bool good = weights_agree(&lens, entry) && lens.scored == 174 &&
                    (writer ? compositions_agree(&lens, entry) : lens.composition == NULL);
        good = tokens_agree(&input, entry) && good;
        good = text_agrees(&lens, entry) && parts_sum(&lens) && good;
        if (!good) fprintf(stderr, "family %s\n", families[f]);
        df_test_all(world, good);
        df_lens_free(&lens);
        df_model_close(&model);
    }
}

/* ---- the file ------------------------------------------------------------------------------- */

static const df_provenance facts = DF_TEST_FACTS;

/* One alone on two threads. */
static uint64_t file_digest(df_comm *comm, const char *path, bool all) {
    static const char *const both[2] = {"qwen3", "gemma2"};
    const df_lens_options o = {path, "job\n", facts};
    df_lens lens[2] = {{0}};
    uint64_t hash = 0;
    bool good = true;
    omp_set_num_threads(all ? 1 : 2);
    for (size_t m = 0; m < 2; m++) {
        df_model *model = open_family(both[m]);
        const df_lens_input input = make_input(model, both[m]);
        good = df_lens_run(comm, &input, &lens[m]) == DF_OK && good;
        df_model_close(&model);
    }
    good = good && df_lens_write(comm, lens, 2, &o) == DF_OK && df_digest(path, &hash) == DF_OK;
    for (size_t m = 0; m < 2; m++) df_lens_free(&lens[m]);
    omp_set_num_threads(1);
    return good ? hash : 0;
}

static void same_file_on_any_ranks_and_threads(void **state) {
    (void)state;
    char *folder = df_test_shared_folder(world, "lens");
    df_test_same_file(world, folder, file_digest);
    df_free(folder);
}

/* ---- what is refused ------------------------------------------------------------------------ */

static bool refuses(const df_lens_input *input, df_status code, const char *part) {
    df_lens lens;
    size_t before = df_memory_now();
    bool good = df_test_fails(df_lens_run(world, input, &lens), code, part);
    df_lens_free(&lens);
    return good && df_memory_now() == before;
}

static void bad_inputs_are_refused(void **state) {
    (void)state;
    df_model *model = open_family("gemma2");
    df_lens_input input = make_input(model, "gemma2");
    float *weight = (float *)(uintptr_t)df_model_attention(model, 1).v, kept = weight[7];
    input.period = 64; // the model has 128 positions, BOS is the 129th
    df_test_all(world, refuses(&input, DF_USAGE, "positions for 128"));
    input.period = 39;
    df_test_all(world, refuses(&input, DF_USAGE, "there are 38"));
    input = make_input(model, "gemma2");
    tokens[100] = 41;
    df_test_all(world, refuses(&input, DF_BAD_INPUT, "token id 41"));
    input = make_input(model, "gemma2");
    memset(scored, 0, sizeof scored);
    df_test_all(world, refuses(&input, DF_BAD_INPUT, "no token to predict"));
    input = make_input(model, "gemma2");
    weight[7] = (float)NAN;
    df_test_all(world, refuses(&input, DF_BAD_INPUT, "layer 1"));
    weight[7] = kept;
    df_model_close(&model);
}

/* Wherever memory ends on one rank, all leave together and nothing stays behind. */
static void no_memory_on_one_rank(void **state) {
    (void)state;
    df_model *model = open_family("gpt2");
    const df_lens_input input = make_input(model, "gpt2");
    size_t before = df_memory_now();
    df_status status = DF_FAILED;
    for (int64_t call = 0; status != DF_OK && call < 4000; call += call < 60 ? 1 : 97) {
        df_lens lens;
        if (df_comm_rank(world) == 0) df_memory_fail_after(call);
        status = df_lens_run(world, &input, &lens);
        df_memory_fail_after(-1);
        df_test_all(world, status == DF_OK || strstr(df_error_text(), "out of memory") != NULL);
        df_error_clear();
        df_lens_free(&lens);
        df_test_all(world, df_memory_now() == before);
    }
    df_test_all(world, status == DF_OK);
    df_model_close(&model);
}

/* ---- plans ---------------------------------------------------------------------------------- */

/* With three threads the runs take more than the file. */
static void plan_holds(void **state) {
    (void)state;
    omp_set_num_threads(3);
    char *folder = df_test_shared_folder(world, "lens-plan");
    char *path = df_format("%s/lens.h5", folder);
    const df_lens_options o = {path, "job\n", facts};
    df_need need;
    df_lens lens;
    df_memory_reset_peak();
    size_t before = df_memory_now();
    df_model *model = open_family("gpt_neox");
    const df_lens_input input = make_input(model, "gpt_neox");
    const df_model_shape shape = *df_model_facts(model);
    df_test_all(world, df_lens_run(world, &input, &lens) == DF_OK);
    df_model_close(&model);
    df_test_all(world, df_lens_write(world, &lens, 1, &o) == DF_OK);
    double took = (double)(df_memory_peak() - before);
    df_test_all(world, df_lens_plan(&input, &shape, 1, df_comm_size(world), 3, &need) == DF_OK);
    omp_set_num_threads(1);
    bool good = df_comm_rank(world) != 0 || fabs(took / (double)need.memory - 1) < 0.02;
    if (!good) fprintf(stderr, "planned %g bytes, took %g\n", (double)need.memory, took);
    df_test_all(world, good);
    df_lens_free(&lens);
    df_free(path);
    df_free(folder);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(every_family_agrees),
    cmocka_unit_test(same_file_on_any_ranks_and_threads),
    cmocka_unit_test(bad_inputs_are_refused),
    cmocka_unit_test(no_memory_on_one_rank),
    cmocka_unit_test(plan_holds),
};

DF_TEST_MPI_MAIN(world, tests, set_up, tear_down)
