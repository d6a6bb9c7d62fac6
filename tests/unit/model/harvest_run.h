/* Runs of the harvest stage inside an MPI test. */
#ifndef DF_HARVEST_RUN_H
#define DF_HARVEST_RUN_H

#define DF_TEST_MPI
#include "df_test.h"

#include "harvest.h"
#include <omp.h>

static df_comm *world;
static const char *folder;

enum { DOCUMENTS = 64 }; // of job_text

static const char job_text[] =
    "models:\n"
    "  a: {name: base, path: " DF_SOURCE_DIR "/jobs/quickstart/base}\n"
    "text: {file: " DF_SOURCE_DIR "/jobs/quickstart/text.jsonl, max_documents: 64}\n"
    "site: blocks.3.hook_resid_post\n"
    "harvest: {context: 16, interval: 0}\n";

/* What other stages say of the sites to harvest. */
static const df_option elsewhere[] = {
    {.key = "train.source", .type = DF_OPT_TEXT, .fallback = "activations"},
    {.key = "train.from_models", .type = DF_OPT_BOOL, .fallback = "false"},
    {.key = "train.kind", .type = DF_OPT_TEXT, .fallback = "auto"},
    {.key = "train.model", .type = DF_OPT_TEXT, .optional = true},
    {.key = "train.site", .type = DF_OPT_TEXT, .optional = true},
    {.key = "train.input", .type = DF_OPT_LIST, .optional = true},
    {.key = "train.output", .type = DF_OPT_LIST, .optional = true},
};

/* How a run differs from job_text: values of --set, ended by NULL. */
typedef struct harvest_run {
    df_comm *comm;
    const char *name; // its output lies under folder/NAME
    const char *set[8];
    int threads;
    bool dry_run;
} harvest_run;

/* Not yet run. Close with close_run in every case. */
static inline df_status open_run(const harvest_run *how, df_run *run) {
    static df_option options[64]; // the job borrows them
    size_t n = 0, n_sets = 1;
    for (size_t i = 0; i < df_n_shared_options; i++) options[n++] = df_shared_options[i];
    for (size_t i = 0; i < df_stage_harvest.n_options; i++)
        options[n++] = df_stage_harvest.options[i];
    for (size_t i = 0; i < sizeof elsewhere / sizeof *elsewhere; i++) options[n++] = elsewhere[i];
    char *out = df_format("out=%s/%s", folder, how->name);
    const char *sets[9] = {out};
    for (; n_sets < 9 && how->set[n_sets - 1] != NULL; n_sets++)
        sets[n_sets] = how->set[n_sets - 1];
    *run = (df_run){.world = how->comm,
                    .dry_run = how->dry_run,
                    .provenance = {.command = "test",
                                   .hosts = "here",
                                   .kernel_path = "test",
                                   .volatile_options = "",
                                   .commit = "none",
                                   .build = "test",
                                   .ranks = df_comm_size(how->comm),
                                   .threads = how->threads}};
    df_job *job = NULL;
    omp_set_num_threads(how->threads);
    df_status status =
        df_job_parse("test.yaml", job_text, sizeof job_text - 1, options, n, sets, n_sets, &job);
    if (status == DF_OK) status = df_make_folder(out + 4);
    run->job = job;
    df_free(out);
    return df_agree(how->comm, status);
}

static inline void close_run(df_run *run) {
    df_job_free((df_job *)run->job);
}

static inline df_status run_harvest_job(const harvest_run *how) {
    df_run run;
    df_status status = open_run(how, &run);
    if (status == DF_OK) status = df_stage_harvest.run(&run);
    close_run(&run);
    return status;
}

/* `set` may be NULL. */
static inline df_status run_stage(df_comm *comm, const char *name, const char *set, int threads) {
    return run_harvest_job(
        &(harvest_run){.comm = comm, .name = name, .set = {set}, .threads = threads});
}

static inline char *acts_path(const char *name) {
    return df_format("%s/%s/base.acts.h5", folder, name);
}

static inline uint64_t digest(const char *name) {
    char *path = acts_path(name);
    uint64_t hash = 0;
    if (df_digest(path, &hash) != DF_OK) hash = 0;
    df_free(path);
    return hash;
}

/* The run on all ranks ends with this code and message and leaves no file. */
static inline bool fails(const harvest_run *how, df_status code, const char *part) {
    harvest_run run = *how;
    run.comm = world;
    run.name = "bad";
    run.threads = 1;
    bool good = df_test_fails(run_harvest_job(&run), code, part);
    char *path = acts_path("bad"), *half = df_format("%s.part", path);
    good = good && !df_file_exists(path) && !df_file_exists(half);
    df_free(path);
    df_free(half);
    return good;
}

/* The pocket model copied to `to` with one BF16 number made NaN, at `place` of the way through
 * its weights. */
static inline df_status spoil_model(const char *to, double place) {
    static const char *const names[] = {"config.json", "tokenizer.json", "model.safetensors"};
    DF_TRY(df_make_folder(to));
    for (size_t i = 0; i < 3; i++) {
        char *from = df_format(DF_SOURCE_DIR "/jobs/quickstart/base/%s", names[i]),
             *path = df_format("%s/%s", to, names[i]), *bytes;
        size_t n;
        DF_TRY(df_read_file(from, &bytes, &n));
        size_t at = n - 2 - (size_t)((1.0 - place) * (double)n) / 2 * 2;
        if (i == 2) memcpy(bytes + at, "\xc0\x7f", 2);
        DF_TRY(df_write_file(path, bytes, n));
        df_free(from);
        df_free(path);
        df_free(bytes);
    }
    return DF_OK;
}

static inline int harvest_folder(const char *what) {
    static char path[300];
    char name[64];
    snprintf(name, sizeof name, "%s-%d", what, df_comm_size(world));
    if (df_comm_rank(world) == 0) snprintf(path, sizeof path, "%s", df_test_folder(name));
    df_broadcast(world, 0, path, sizeof path);
    folder = path;
    df_log_quiet(true);
    return 0;
}

#endif
