/* Writing checkpoints, and keeping only the newest two. */
#include "checkpoint_parts.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

char *checkpoint_path(const char *prefix, uint64_t step) {
    return df_format("%s.%" PRIu64 ".ckpt.h5", prefix, step);
}

/* ---- what is there -------------------------------------------------------------------------- */

/* The step in "BASE.STEP<ending>", when `name` is that. */
static bool parse_name(const char *name, const char *base, const char *ending, uint64_t *step) {
    size_t n = strlen(base);
    if (strncmp(name, base, n) != 0 || name[n] != '.') return false;
    const char *digits = name + n + 1;
    size_t count = strspn(digits, "0123456789");
    if (count == 0 || count > 18 || strcmp(digits + count, ending) != 0) return false;
    *step = strtoull(digits, NULL, 10);
    return true;
}

static int descending(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x < y) - (x > y);
}

/* Steps of the files PREFIX.STEP<ending>. */
static size_t list_ending(const char *prefix, const char *ending, uint64_t *out, size_t room) {
    const char *slash = strrchr(prefix, '/'), *base = slash != NULL ? slash + 1 : prefix;
    char *folder = slash != NULL ? df_format("%.*s/", (int)(slash - prefix), prefix) : NULL;
    DIR *dir = opendir(folder != NULL ? folder : ".");
    size_t n = 0;
    df_free(folder);
    if (dir == NULL) return 0;
    for (struct dirent *entry; n < room && (entry = readdir(dir)) != NULL;)
        if (parse_name(entry->d_name, base, ending, &out[n])) n++;
    closedir(dir);
    qsort(out, n, sizeof *out, descending);
    return n;
}

size_t checkpoint_list(const char *prefix, uint64_t *out, size_t room) {
    return list_ending(prefix, ".ckpt.h5", out, room);
}

/* ---- removing ------------------------------------------------------------------------------- */

/* False only for a sound file of another job or other inputs: that one is not ours to remove. */
static bool is_ours(const char *path, const df_train_options *o) {
    df_reader *file = NULL;
    char *found = NULL;
    bool ours = true;
    if (df_reader_open(path, "darkfield-checkpoint", &file) == DF_OK &&
        df_reader_text(file, "/", "job", &found) == DF_OK)
        ours =
            strcmp(found, o->resolved_job) == 0 && df_inputs_check(file, o->facts.inputs) == DF_OK;
    df_free(found);
    df_reader_close(&file);
    df_error_clear();
    return ours;
}

static void remove_parts(const char *prefix) {
    uint64_t steps[64];
    size_t n = list_ending(prefix, ".ckpt.h5.part", steps, 64);
    for (size_t i = 0; i < n; i++) {
        char *path = df_format("%s.%" PRIu64 ".ckpt.h5.part", prefix, steps[i]);
        if (path != NULL) unlink(path);
        df_free(path);
    }
}

void checkpoint_prune(const df_train_options *o, uint64_t step, size_t keep) {
    uint64_t steps[64];
    size_t n = checkpoint_list(o->checkpoint, steps, 64), kept = 0;
    for (size_t i = 0; i < n; i++) {
        char *path = checkpoint_path(o->checkpoint, steps[i]);
        if (path != NULL && is_ours(path, o)) {
            // A file past the present step was found damaged at the start: its work is redone.
            if (steps[i] <= step && kept < keep)
                kept++;
            else
                unlink(path);
        }
        df_free(path);
    }
    remove_parts(o->checkpoint);
}

/* ---- writing -------------------------------------------------------------------------------- */

static df_status declare_part(df_file *file, const checkpoint_part *part, int *id) {
    df_dataset spec = {.path = part->path,
                       .type = part->type,
                       .dims = 1,
                       .shape = {part->all},
                       .units = "1",
                       .long_name = "state of the training",
                       .labels = "element"};
    return df_file_dataset(file, &spec, id);
}

/* The history, the scales, the annealing and the interval come behind the n parts. */
static df_status declare(df_file *file, const train_run *run, const checkpoint_part *parts,
                         size_t n, int *id) {
    size_t columns = history_columns(run->history.sites);
    const df_dataset history = {
        "/history",        DF_F64, 2, {run->history.rows, columns}, "1", "training history so far",
        "interval, column"};
    const df_dataset scale = {
        "/scale", DF_F64, 1, {run->dict->sites}, "1", "normalisation of each site", "site"};
    const df_dataset anneal = {
        "/anneal", DF_F64, 1, {ANNEAL_NUMBERS}, "1", "weight and queue of p-annealing", "number"};
    const df_dataset interval = {"/interval", DF_F64,
                                 1,           {history_sums(run->history.sites)},
                                 "1",         "sums of the interval so far",
                                 "column"};
    for (size_t i = 0; i < n; i++) DF_TRY(declare_part(file, &parts[i], &id[i]));
    DF_TRY(df_file_dataset(file, &history, &id[n]));
    DF_TRY(df_file_dataset(file, &scale, &id[n + 1]));
    DF_TRY(df_file_dataset(file, &anneal, &id[n + 2]));
    DF_TRY(df_file_dataset(file, &interval, &id[n + 3]));
    DF_TRY(df_file_text(file, "/", "job", run->options->resolved_job));
    DF_TRY(df_file_text(file, "/", "kernel_path", df_kernels_path(run->kernels)));
    DF_TRY(df_file_text(file, "/", "kernel_history", run->kernel_history));
    DF_TRY(df_file_int(file, "/", "step", (int64_t)run->state->step));
    for (size_t t = 0; t < df_dict_thresholds(run->dict); t++) {
        char name[32];
        DF_TRY(df_file_real(file, "/", checkpoint_threshold(run->dict, t, name),
                            (double)*df_dict_threshold(run->dict, t)));
    }
    if (run->options->objective.reconstruction == DF_FVU_SAMPLE)
        DF_TRY(df_file_real(file, "/", "sample_variance", run->variance));
    return df_file_provenance(file, &run->options->facts);
}

static df_status write_parts(df_file *file, const train_run *run, const checkpoint_part *parts,
                             size_t n, const int *id) {
    bool first = df_comm_rank(run->comm) == 0;
    for (size_t i = 0; i < n; i++) {
        df_range mine = parts[i].mine;
        if (!parts[i].replicated || first)
            DF_TRY(df_file_write(file, id[i], mine.first, mine.count, parts[i].data));
    }
    if (!first) return DF_OK;
    for (size_t s = 0; s < run->dict->sites; s++)
        DF_TRY(df_file_write(file, id[n + 1], s, 1, &run->dict->site[s].scale));
    double anneal[ANNEAL_NUMBERS];
    anneal_pack(&run->anneal, anneal);
    DF_TRY(df_file_write(file, id[n + 2], 0, ANNEAL_NUMBERS, anneal));
    DF_TRY(df_file_write(file, id[n + 3], 0, history_sums(run->history.sites), run->history.sums));
    return df_file_write(file, id[n], 0, run->history.rows, run->history.values);
}

static df_status write_file(const train_run *run, const char *path) {
    checkpoint_part parts[CHECKPOINT_PARTS];
    int id[CHECKPOINT_PARTS + 4];
    df_file *file = NULL;
    df_status status;
    size_t n = checkpoint_parts(run, run->state, parts);
    DF_GO(df_file_create(run->comm, path, "darkfield-checkpoint", &file));
    DF_GO(df_file_agree(file, declare(file, run, parts, n, id)));
    DF_GO(df_file_ready(file));
    DF_GO(df_file_agree(file, write_parts(file, run, parts, n, id)));
    DF_GO(df_file_finish(&file));
done:
    if (file != NULL) df_file_abandon(&file, false);
    return status;
}

df_status checkpoint_write(train_run *run) {
    const df_train_options *o = run->options;
    char *path = checkpoint_path(o->checkpoint, run->state->step);
    df_timer_start("checkpoint");
    df_comm *world = run->groups.world;
    df_status status = df_agree(world, path != NULL ? DF_OK : DF_FAILED);
    if (status == DF_OK && run->groups.at.group == 0) status = write_file(run, path);
    if (run->groups.at.groups > 1) status = df_agree(world, status);
    if (status == DF_OK && df_comm_rank(world) == 0)
        checkpoint_prune(o, run->state->step, CHECKPOINTS_KEPT);
    df_timer_stop("checkpoint");
    if (status != DF_OK) {
        df_context("writing checkpoint %s", path != NULL ? path : o->checkpoint);
        df_free(path);
        return status;
    }
    df_free(run->checkpoint);
    run->checkpoint = path;
    return DF_OK;
}
