/* training.h: what the tests of training share: a folder with activation files, options that every
 * training gives, trainings that are named, and a request to stop that comes when a given
 * checkpoint is there. All is collective. */
#ifndef TRAINING_H
#define TRAINING_H

#include "synthetic.h"

#include "darkfield/train.h"

#include <inttypes.h>
#include <pthread.h>
#include <time.h>

enum { MOST_FILES = 5 };
static df_comm *world, *self;
static df_kernels *kernels;
static char *folder;
static df_acts *acts[MOST_FILES];
static const size_t site[MOST_FILES] = {0};
static const df_acts_filter usual = {.bos = true, .first = 1};
static df_rows *data; // the training rows of the first files

static inline char *in_folder(const char *name) {
    return df_format("%s/%s", folder, name);
}

/* A dictionary of the folder, as `comm` shares it. */
static inline df_dict *load(df_comm *comm, const char *name) {
    df_dict *d = NULL;
    char *path = df_format("%s/%s.dict.h5", folder, name);
    df_test_all(world, df_dict_load(comm, path, &d) == DF_OK);
    df_free(path);
    return d;
}

/* Writes and opens n files, whose paths are names in the folder; the first `models` of them are the
 * data set. */
static inline void training_open(const char *name, const synthetic *files, size_t n,
                                 size_t models) {
    df_log_quiet(true);
    folder = df_test_shared_folder(world, name);
    df_test_all(world, df_comm_self(&self) == DF_OK);
    for (size_t i = 0; i < n; i++) {
        char *path = in_folder(files[i].path);
        synthetic file = files[i];
        file.path = path;
        if (df_comm_rank(world) == 0) synthetic_write(&file);
        df_barrier(world);
        df_test_all(world, df_acts_open(path, &acts[i]) == DF_OK);
        df_free(path);
    }
    df_test_all(world,
                df_rows_open(&(df_rows_files){acts, site, 1, models}, &usual, &data) == DF_OK);
    df_test_all(world, df_kernels_open("auto", &kernels) == DF_OK);
}

static inline int training_close(void **state) {
    (void)state;
    df_kernels_close(&kernels);
    df_rows_close(&data);
    for (size_t i = 0; i < MOST_FILES; i++) df_acts_close(&acts[i]);
    df_comm_free(&self);
    df_free(folder);
    return 0;
}

/* Designated initialisers of df_train_options. */
#define TRAINING_COMMON                                                                            \
    .k = 3, .seed = 5, .code_norm = DF_NORM_SUM, .subtract_bias = true, .init_norm = 1,            \
    .lr = 3e-3, .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .log_every = 7,                     \
    .threshold_rate = 0.01, .resolved_job = "job: one\n", .facts = DF_TEST_FACTS

/* And of most trainings. */
#define TRAINING_BATCHTOPK                                                                         \
    TRAINING_COMMON, .latents = 96, .batch = 64, .activation = DF_BATCHTOPK, .warmup = 10,         \
                     .decay = 20, .aux = 1.0 / 32, .dead_rows = 600, .threshold_start = 20,        \
                     .buffer_rows = 300

/* Trains into NAME.dict.h5; checkpoints are NAME.*.ckpt.h5. */
static inline df_status train_on(df_comm *comm, const df_rows *rows, const char *name,
                                 const df_train_options *options) {
    df_train_options o = *options;
    char *output = df_format("%s/%s.dict.h5", folder, name), *prefix = in_folder(name);
    o.output = output;
    o.checkpoint = prefix;
    df_status status = df_train(comm, kernels, rows, &o);
    df_free(output);
    df_free(prefix);
    return status;
}

static inline df_status train(df_comm *comm, const char *name, const df_train_options *options) {
    return train_on(comm, data, name, options);
}

/* The digest of NAME.dict.h5; 0: there is none. */
static inline uint64_t digest_of(const char *name) {
    char *path = df_format("%s/%s.dict.h5", folder, name);
    uint64_t hash = 0;
    if (df_digest(path, &hash) != DF_OK) hash = 0;
    df_free(path);
    return hash;
}

/* One rank alone and all of them make the same dictionary. */
static inline bool same_on_all(const df_train_options *o) {
    bool good = df_comm_rank(world) != 0 || train(self, "alone", o) == DF_OK;
    df_test_all(world, good);
    df_test_all(world, train(world, "all", o) == DF_OK);
    return df_comm_rank(world) != 0 || digest_of("alone") == digest_of("all");
}

/* A training takes the memory that its plan says, on every rank; those after the first write no
 * file. */
static inline bool takes_what_is_planned(const df_train_options *o) {
    const df_train_member only = {.options = o};
    df_train_plan plan = {.rank = df_comm_rank(world)};
    df_test_all(world, df_train_plan_rank(&only, 1, data, df_kernels_spare_screen(kernels),
                                          df_comm_size(world), &plan) == DF_OK);
    size_t before = df_memory_now();
    df_memory_reset_peak();
    df_test_all(world, train(world, "plan", o) == DF_OK);
    double used = (double)(df_memory_peak() - before), planned = (double)plan.bytes;
    double file = df_comm_rank(world) == 0 ? 0.0 : 1.1e6;
    return used < 1.02 * planned && used + file > 0.98 * planned;
}

/* No memory at any point of a training, on the last rank: one status on all ranks, nothing hangs.
 */
static inline void fail_memory_anywhere(const df_train_options *o, int64_t allocations) {
    for (int64_t calls = 0; calls < allocations; calls += 7) {
        if (df_comm_rank(world) == df_comm_size(world) - 1) df_memory_fail_after(calls);
        df_status status = df_train(world, kernels, data, o);
        df_memory_fail_after(-1);
        df_error_clear();
        df_test_alike(world, status);
    }
}

/* ---- stopping ------------------------------------------------------------------------------- */

/* Between stop_watch_open and stop_watch_close a training stops once the checkpoint of `step` has
 * been written, into FOLDER/NAME.STEP.ckpt.h5. Collective. */
typedef struct stop_watch {
    char *checkpoint, *halt;
    pthread_t thread;
    bool watching;
} stop_watch;

static inline void *stop_watch_run(void *argument) {
    const stop_watch *w = argument;
    for (int i = 0; i < 40000 && !df_file_exists(w->checkpoint); i++)
        nanosleep(&(struct timespec){.tv_nsec = 500000}, NULL);
    FILE *file = fopen(w->halt, "w");
    if (file != NULL) fclose(file);
    return NULL;
}

static inline void stop_watch_open(stop_watch *w, df_comm *comm, const char *name, uint64_t step) {
    w->checkpoint = df_format("%s/%s.%" PRIu64 ".ckpt.h5", folder, name, step);
    w->halt = df_format("%s/%s.halt", folder, name);
    if (df_comm_rank(comm) == 0) remove(w->halt);
    df_barrier(comm);
    w->watching =
        df_comm_rank(comm) == 0 && pthread_create(&w->thread, NULL, stop_watch_run, w) == 0;
    df_stop_halt_file(w->halt);
}

static inline void stop_watch_close(stop_watch *w) {
    df_stop_halt_file(NULL);
    if (w->watching) pthread_join(w->thread, NULL);
    df_free(w->checkpoint);
    df_free(w->halt);
}

/* With a checkpoint after every step, stopped when that of `step` is there. */
static inline df_status train_on_and_stop(df_comm *comm, const df_rows *rows, const char *name,
                                          const df_train_options *options, uint64_t step) {
    df_train_options o = *options;
    stop_watch watch;
    o.checkpoint_seconds = 1e-9;
    stop_watch_open(&watch, comm, name, step);
    df_status status = train_on(comm, rows, name, &o);
    stop_watch_close(&watch);
    return status;
}

/* The steps up to `last` of the checkpoints NAME.*.ckpt.h5, newest first; how many. */
static inline size_t checkpoints(const char *name, uint64_t last, uint64_t *steps, size_t room) {
    size_t n = 0;
    for (uint64_t step = last + 1; step-- > 0 && n < room;) {
        char *path = df_format("%s/%s.%" PRIu64 ".ckpt.h5", folder, name, step);
        if (df_file_exists(path)) steps[n++] = step;
        df_free(path);
    }
    return n;
}

/* Stopped on all ranks and continued on one, NAME becomes what it is without a stop. */
static inline bool resumes_to_the_same(const char *name, const df_train_options *o, uint64_t step) {
    df_test_all(world, df_comm_rank(world) != 0 || train(self, "whole", o) == DF_OK);
    df_test_all(world, train_on_and_stop(world, data, name, o, step) == DF_STOPPED);
    df_error_clear();
    df_test_all(world, df_comm_rank(world) != 0 || train(self, name, o) == DF_OK);
    return df_comm_rank(world) != 0 || digest_of("whole") == digest_of(name);
}

#endif
