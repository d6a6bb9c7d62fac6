/* The harvest of a model that is spread over ranks: the file of one rank whatever the depth,
 * threads and precision, for several families; stopped and resumed at other depths; less memory;
 * and what fails on one stage ends all. */
#include "harvest_run.h"

#include <unistd.h>

#define ALL_SITES                                                                                  \
    "harvest.sites=hook_embed,blocks.0.attn.hook_pattern,blocks.0.hook_resid_mid,"                 \
    "blocks.1.attn.hook_q,blocks.1.hook_resid_post,blocks.2.attn.hook_result,"                     \
    "blocks.2.mlp.hook_post,blocks.3.ln2.hook_scale,blocks.3.hook_resid_post,"                     \
    "ln_final.hook_normalized,logits"
#define TWO_BLOCKS                                                                                 \
    "harvest.sites=hook_embed,blocks.0.attn.hook_k,blocks.0.attn.hook_result,"                     \
    "blocks.0.hook_resid_post,blocks.1.attn.hook_pattern,blocks.1.attn.hook_v,"                    \
    "blocks.1.mlp.hook_post,blocks.1.hook_resid_post,ln_final.hook_scale,logits"

enum { FIRST_CALL = 30 }; // before it the test itself makes the job

static size_t size_of(void) {
    return (size_t)df_comm_size(world);
}

// Rank 0 alone, one stage, one thread: what every other way must give.
static bool run_alone(harvest_run how) {
    df_comm *self = NULL;
    df_status status = DF_OK;
    how.threads = 1;
    if (df_comm_rank(world) == 0) {
        status = df_comm_self(&self);
        how.comm = self;
        if (status == DF_OK) status = run_harvest_job(&how);
        if (status != DF_OK) print_error("%s\n", df_error_text());
        if (self != NULL) df_comm_free(&self);
    }
    df_barrier(world);
    return status == DF_OK && digest(how.name) != 0;
}

// The same on all ranks, `depth` stages deep.
static bool run_deep(harvest_run how, size_t depth) {
    char set[40];
    size_t i = 0;
    snprintf(set, sizeof set, "harvest.pipeline=%zu", depth);
    while (how.set[i] != NULL) i++;
    how.set[i] = set;
    how.comm = world;
    df_status status = run_harvest_job(&how);
    if (status != DF_OK) print_error("depth %zu: %s\n", depth, df_error_text());
    return status == DF_OK;
}

// The deepest pipeline of these ranks, of at most `most` stages.
static size_t deepest(size_t most) {
    size_t depth = size_of() < most ? size_of() : most;
    while (size_of() % depth != 0) depth--;
    return depth;
}

// Every depth that the ranks allow, up to `most`; one stage is test_harvest.c's.
static void compare_depths(const harvest_run *alone, size_t most, int most_threads) {
    if (deepest(most) == 1) return;
    df_test_all(world, run_alone(*alone));
    for (size_t depth = 2; depth <= most && depth <= size_of(); depth++)
        for (int threads = 1; threads <= most_threads && size_of() % depth == 0; threads++) {
            harvest_run how = *alone;
            char *name = df_format("%s-%zu-%d", alone->name, depth, threads);
            how.name = name;
            how.threads = threads;
            df_test_all(world, run_deep(how, depth));
            bool same = digest(name) == digest(alone->name);
            if (!same) print_error("%s: other content than on one rank\n", name);
            df_test_all(world, same);
            df_free(name);
        }
}

static void test_depths(void **state) {
    (void)state;
    compare_depths(&(harvest_run){.name = "plain"}, 4, 2);
    compare_depths(&(harvest_run){.name = "sites", .set = {ALL_SITES}}, 4, 2);
    compare_depths(&(harvest_run){.name = "half", .set = {ALL_SITES, "harvest.dtype=f16"}}, 4, 1);
    compare_depths(&(harvest_run){.name = "documents", .set = {"harvest.packing=document"}}, 4, 1);
}

static void test_precision(void **state) {
    (void)state;
    compare_depths(&(harvest_run){.name = "bf16", .set = {ALL_SITES, "harvest.compute=bf16"}}, 4,
                   2);
}

/* ---- families ------------------------------------------------------------------------------- */

static df_status copy(const char *from, const char *to) {
    char *bytes;
    size_t n;
    DF_TRY(df_read_file(from, &bytes, &n));
    df_status status = df_write_file(to, bytes, n);
    df_free(bytes);
    return status;
}

// Letters as tokens, for models of 41 tokens.
static df_status put_letters(const char *path) {
    char vocab[512] = "";
    size_t used = 0;
    for (char c = 'a'; c <= 'z'; c++)
        used += (size_t)snprintf(vocab + used, sizeof vocab - used, "%s\"%c\":%d",
                                 c > 'a' ? "," : "", c, c - 'a');
    char *text = df_format("{\"model\":{\"vocab\":{%s},\"merges\":[]}}", vocab);
    df_status status = text == NULL ? DF_FAILED : df_write_file(path, text, strlen(text));
    df_free(text);
    return status;
}

// 60 documents of 3 to 90 letters.
static df_status put_text(const char *path) {
    char text[60 * 120];
    size_t used = 0;
    for (uint64_t d = 0; d < 60; d++) {
        uint64_t length = 3 + df_random_bits(23, DF_STREAM_TEST, d) % 88;
        used += (size_t)snprintf(text + used, sizeof text - used, "{\"text\":\"");
        for (uint64_t i = 0; i < length; i++)
            text[used++] = (char)('a' + df_random_bits(29, DF_STREAM_TEST, 100 * d + i) % 26);
        used += (size_t)snprintf(text + used, sizeof text - used, "\"}\n");
    }
    return df_write_file(path, text, used);
}

// A checkpoint of the golden files, a tokenizer beside it; its path in new memory.
static char *put_family(const char *family) {
    static const char *const names[] = {"config.json", "model.safetensors"};
    char *to = df_format("%s/model-%s", folder, family),
         *tokenizer = df_format("%s/tokenizer.json", to);
    df_status status = df_make_folder(to);
    for (size_t i = 0; i < 2 && status == DF_OK; i++) {
        char *from = df_format(DF_SOURCE_DIR "/tests/golden/family/%s/%s", family, names[i]),
             *path = df_format("%s/%s", to, names[i]);
        status = copy(from, path);
        df_free(from);
        df_free(path);
    }
    if (status == DF_OK) status = put_letters(tokenizer);
    if (status != DF_OK) print_error("%s\n", df_error_text());
    df_free(tokenizer);
    return to;
}

static void compare_family(const char *family, size_t depth) {
    char *model = NULL, *text = df_format("%s/letters.jsonl", folder),
         *text_set = df_format("text.file=%s", text);
    if (df_comm_rank(world) == 0) {
        model = put_family(family);
        if (put_text(text) != DF_OK) print_error("%s\n", df_error_text());
    }
    df_barrier(world);
    char *path_set = df_format("models.a.path=%s/model-%s", folder, family),
         *rounded = df_format("%s-bf16", family);
    harvest_run how = {
        .name = family,
        .set = {path_set, text_set, "harvest.context=40", "harvest.bos=none", TWO_BLOCKS}};
    compare_depths(&how, depth, 1);
    how.name = rounded;
    how.set[5] = "harvest.compute=bf16";
    compare_depths(&how, depth, 1);
    df_free(model);
    df_free(text);
    df_free(text_set);
    df_free(path_set);
    df_free(rounded);
}

// Learned positions, a parallel residual, an untied head, norms of queries and keys, local and full
// ropes, rotations that stretch with the window.
static void test_families(void **state) {
    (void)state;
    static const char *const families[] = {"gpt2",   "opt",   "gpt_neox",     "gpt_neo",
                                           "gemma2", "qwen3", "llama-dynamic"};
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) compare_family(families[i], 2);
    compare_family("gemma3_text", 3);
}

/* ---- stopped and resumed -------------------------------------------------------------------- */

static df_status run_at(const char *name, size_t depth) {
    char set[40];
    snprintf(set, sizeof set, "harvest.pipeline=%zu", depth);
    return run_harvest_job(
        &(harvest_run){.comm = world, .name = name, .set = {ALL_SITES, set}, .threads = 1});
}

// At the first safe point, at this depth and that; finished without a pipeline, and with one.
static void test_resumes(void **state) {
    (void)state;
    char *halt = df_format("%s/halt", folder);
    df_test_all(world, run_alone((harvest_run){.name = "whole", .set = {ALL_SITES}}));
    df_status made = df_comm_rank(world) == 0 ? df_write_file(halt, "", 0) : DF_OK;
    df_test_all(world, made == DF_OK);
    for (int last = 0; last < 2; last++) {
        char *name = df_format("stopped-%d", last), *path = acts_path(name),
             *progress = df_format("%s.progress", path);
        size_t most = size_of() < 4 ? size_of() : 4;
        df_stop_halt_file(halt);
        df_test_all(world, run_at(name, most) == DF_STOPPED);
        df_test_all(world, run_at(name, 1) == DF_STOPPED);
        df_test_all(world, run_at(name, most) == DF_STOPPED);
        df_test_all(world, !df_file_exists(path) && df_file_exists(progress));
        df_stop_halt_file(NULL);
        df_error_clear();
        df_test_all(world, run_at(name, last ? most : 1) == DF_OK);
        df_test_all(world, digest(name) == digest("whole") && !df_file_exists(progress));
        df_free(name);
        df_free(path);
        df_free(progress);
    }
    df_free(halt);
}

/* ---- memory --------------------------------------------------------------------------------- */

// A rank that may take three quarters of what the model needs cannot hold it; two ranks can, and
// take no more than they may.
static void test_memory(void **state) {
    (void)state;
    size_t before = df_memory_now();
    harvest_run how = {.comm = world, .name = "small", .set = {"harvest.memory=3"}, .threads = 1};
    df_test_all(world, df_test_fails(run_harvest_job(&how), DF_USAGE, "on one of them at least"));
    if (size_of() % 2 == 0) {
        how.set[1] = "harvest.pipeline=0";
        df_memory_reset_peak();
        df_test_all(world, run_harvest_job(&how) == DF_OK);
        size_t taken = df_memory_peak() - before;
        print_message("rank %d: %.2f MiB\n", df_comm_rank(world), (double)taken / (1 << 20));
        df_test_all(world, taken <= (size_t)3 << 20 && digest("small") == digest("plain"));
    }
    df_test_all(world, df_memory_now() == before);
}

/* ---- refusals ------------------------------------------------------------------------------- */

static void test_refusals(void **state) {
    (void)state;
    harvest_run how = {.set = {"harvest.pipeline=5"}};
    df_test_all(world, fails(&how, DF_USAGE, "model base has 4 blocks"));
    how.set[0] = "harvest.pipeline=0";
    df_test_all(world, fails(&how, DF_USAGE, "harvest.memory is not given"));
    how.set[0] = "harvest.pipeline=4";
    if (size_of() < 4) df_test_all(world, fails(&how, DF_USAGE, "groups of 4 ranks"));
    how = (harvest_run){.comm = world, .name = "dry", .set = {"harvest.pipeline=4"}, .threads = 1};
    how.dry_run = true; // one process plans for any number
    if (size_of() == 1) df_test_all(world, run_harvest_job(&how) == DF_OK);
}

// What one stage finds ends all: a NaN weight in an early and in a late block, and behind the last.
static void test_not_finite(void **state) {
    (void)state;
    static const double places[] = {0.3, 0.9, 1.0};
    static const char *const texts[] = {"expected finite", "expected finite", "finite loss"};
    char *model = df_format("%s/spoilt", folder), *path = df_format("models.a.path=%s", model),
         *set = df_format("harvest.pipeline=%zu", size_of());
    const harvest_run how = {.set = {path, set, ALL_SITES}};
    const harvest_run last = {.set = {path, set}};
    for (int i = 0; i < 3; i++) {
        df_test_all(world,
                    (df_comm_rank(world) == 0 ? spoil_model(model, places[i]) : DF_OK) == DF_OK);
        df_barrier(world);
        df_test_all(world, fails(i < 2 ? &how : &last, DF_BAD_INPUT, texts[i]));
        df_barrier(world);
    }
    df_free(model);
    df_free(path);
    df_free(set);
}

// A checkpoint whose file ends early, and one without its last block, are refused by every stage.
static void test_damaged(void **state) {
    (void)state;
    char *model = df_format("%s/spoilt", folder), *path = df_format("models.a.path=%s", model),
         *set = df_format("harvest.pipeline=%zu", size_of()),
         *file = df_format("%s/model.safetensors", model),
         *config = df_format("%s/config.json", model);
    const harvest_run how = {.set = {path, set}};
    df_test_all(world, (df_comm_rank(world) == 0 ? truncate(file, 300000) : 0) == 0);
    df_barrier(world);
    df_test_all(world, fails(&how, DF_BAD_INPUT, "model.safetensors"));
    df_barrier(world);
    if (df_comm_rank(world) == 0) {
        char *text;
        size_t n;
        df_status status = spoil_model(model, 0.5);
        if (status == DF_OK) status = df_read_file(config, &text, &n);
        if (status == DF_OK) memcpy(strstr(text, "\"num_hidden_layers\": 4") + 21, "5", 1);
        if (status == DF_OK) status = df_write_file(config, text, n);
        if (status == DF_OK) df_free(text);
        if (status != DF_OK) print_error("%s\n", df_error_text());
    }
    df_barrier(world);
    df_test_all(world, fails(&how, DF_BAD_INPUT, "model.layers.4"));
    df_free(model);
    df_free(path);
    df_free(set);
    df_free(file);
    df_free(config);
}

// One rank runs out of memory at points spread over its work, the last one behind its end.
static void test_no_memory(void **state) {
    (void)state;
    size_t before = df_memory_now(), failures = 0;
    bool chosen = df_comm_rank(world) == df_comm_size(world) - 1;
    char *set = df_format("harvest.pipeline=%zu", size_of()), *path = acts_path("lean");
    const harvest_run how = {
        .comm = world, .name = "lean", .set = {set, "text.max_documents=5"}, .threads = 1};
    df_status status = DF_FAILED;
    size_t held = df_memory_now();
    for (int64_t call = FIRST_CALL; status != DF_OK; call += 1 + call / 8) {
        if (chosen) df_memory_fail_after(call);
        status = run_harvest_job(&how);
        df_memory_fail_after(-1);
        df_error_clear();
        failures += status != DF_OK;
        df_test_all(world, df_memory_now() == held && (status == DF_OK) == df_file_exists(path));
    }
    print_message("%zu runs without memory\n", failures);
    df_test_all(world, failures > 10);
    df_free(set);
    df_free(path);
    df_test_all(world, df_memory_now() == before);
}

static int make_folder(void **state) {
    (void)state;
    return harvest_folder("pipeline");
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_depths),     cmocka_unit_test(test_precision),
    cmocka_unit_test(test_families),   cmocka_unit_test(test_resumes),
    cmocka_unit_test(test_memory),     cmocka_unit_test(test_refusals),
    cmocka_unit_test(test_not_finite), cmocka_unit_test(test_damaged),
    cmocka_unit_test(test_no_memory),
};

DF_TEST_MPI_MAIN(world, tests, make_folder, NULL)
