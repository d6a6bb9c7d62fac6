/* training.h: what the tests of training share: options that every one of them gives, and a request
 * to stop that comes when a given checkpoint is there. */
#ifndef TRAINING_H
#define TRAINING_H

#include "synthetic.h"

#include "darkfield/train.h"

#include <inttypes.h>
#include <pthread.h>
#include <time.h>

/* Designated initialisers of df_train_options. */
#define TRAINING_COMMON                                                                            \
    .k = 3, .seed = 5, .code_norm = DF_NORM_SUM, .subtract_bias = true, .init_norm = 1,            \
    .lr = 3e-3, .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .log_every = 7,                     \
    .threshold_rate = 0.01, .resolved_job = "job: one\n",                                          \
    .facts = {.command = "test",                                                                   \
              .hosts = "here",                                                                     \
              .kernel_path = "",                                                                   \
              .volatile_options = "",                                                              \
              .commit = "",                                                                        \
              .build = ""}

/* Between stop_watch_open and stop_watch_close a training stops once the checkpoint of `step` has
 * been written, into FOLDER/NAME.STEP.ckpt.h5. Collective. */
typedef struct stop_watch {
    char *checkpoint, *halt;
    pthread_t thread;
    bool watching;
} stop_watch;

static void *stop_watch_run(void *argument) {
    const stop_watch *w = argument;
    for (int i = 0; i < 40000 && !df_file_exists(w->checkpoint); i++)
        nanosleep(&(struct timespec){.tv_nsec = 500000}, NULL);
    FILE *file = fopen(w->halt, "w");
    if (file != NULL) fclose(file);
    return NULL;
}

static inline void stop_watch_open(stop_watch *w, df_comm *comm, const char *folder,
                                   const char *name, uint64_t step) {
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

#endif
