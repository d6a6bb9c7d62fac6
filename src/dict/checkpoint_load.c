/* Resuming: the newest sound checkpoint of the same job and inputs, on any number of ranks. */
#include "checkpoint_parts.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

enum { CANDIDATES = 16 };

/* What a rank has read of a checkpoint before its tensors. */
typedef struct header {
    char *job, *kernel_path, *kernel_history;
    int64_t step;
    uint64_t history_rows;
} header;

static void header_free(header *h) {
    df_free(h->job);
    df_free(h->kernel_path);
    df_free(h->kernel_history);
}

/* ---- one file, this rank -------------------------------------------------------------------- */

static df_status read_part(const df_reader *file, const checkpoint_part *part) {
    uint64_t shape[DF_MAX_DIMS];
    df_type type;
    DF_TRY(df_reader_find(file, part->path, 1, &type, shape));
    if (type != part->type || shape[0] != part->all)
        return df_fail(DF_BAD_INPUT, "%s: %s has %" PRIu64 " elements of %s, expected %zu of %s",
                       df_reader_path(file), part->path, shape[0], df_type_name(type), part->all,
                       df_type_name(part->type));
    return df_reader_rows(file, part->path, part->mine.first, part->mine.count, true, part->data);
}

static df_status read_header(const df_reader *file, const train_run *run, header *h) {
    uint64_t shape[DF_MAX_DIMS];
    df_type type;
    DF_TRY(df_reader_text(file, "/", "job", &h->job));
    if (strcmp(h->job, run->options->resolved_job) != 0) return DF_OK; // no need to look further
    DF_TRY(df_reader_text(file, "/", "kernel_path", &h->kernel_path));
    DF_TRY(df_reader_text(file, "/", "kernel_history", &h->kernel_history));
    DF_TRY(df_reader_int(file, "/", "step", &h->step));
    DF_TRY(df_reader_find(file, "/history", 2, &type, shape));
    h->history_rows = shape[0];
    bool fits = type == DF_F64 && shape[0] <= run->history.capacity &&
                shape[1] == history_columns(run->history.sites);
    if (fits && h->step >= 0 && (uint64_t)h->step <= run->options->steps) return DF_OK;
    return df_fail(DF_BAD_INPUT, "%s: step %" PRId64 " with %" PRIu64 " history rows does not fit",
                   df_reader_path(file), h->step, shape[0]);
}

static df_status read_thresholds(const df_reader *file, df_dict *dict) {
    char name[32];
    double threshold;
    for (size_t n = 0; n < df_dict_thresholds(dict); n++) {
        DF_TRY(df_reader_real(file, "/", checkpoint_threshold(dict, n, name), &threshold));
        *df_dict_threshold(dict, n) = (float)threshold;
    }
    return DF_OK;
}

static df_status read_variance(const df_reader *file, train_run *run) {
    if (run->options->objective.reconstruction != DF_FVU_SAMPLE) return DF_OK;
    DF_TRY(df_reader_real(file, "/", "sample_variance", &run->variance));
    if (isfinite(run->variance) && run->variance > 0.0) return DF_OK;
    return df_fail(DF_BAD_INPUT, "%s: sample_variance is %g", df_reader_path(file), run->variance);
}

static df_status read_weights(const df_reader *file, train_run *run) {
    checkpoint_part parts[CHECKPOINT_PARTS];
    size_t n = checkpoint_parts(run, NULL, parts);
    for (size_t i = 0; i < n; i++) DF_TRY(read_part(file, &parts[i]));
    DF_TRY(read_thresholds(file, run->dict));
    DF_TRY(read_variance(file, run));
    for (size_t s = 0; s < run->dict->sites; s++) {
        double *scale = &run->dict->site[s].scale;
        DF_TRY(df_reader_rows(file, "/scale", s, 1, true, scale));
        if (!isfinite(*scale) || *scale <= 0)
            return df_fail(DF_BAD_INPUT, "%s: scale %g of site %zu", df_reader_path(file), *scale,
                           s);
    }
    return DF_OK;
}

static df_status read_anneal(const df_reader *file, df_anneal *anneal) {
    double numbers[ANNEAL_NUMBERS];
    uint64_t shape[DF_MAX_DIMS];
    df_type type;
    DF_TRY(df_reader_find(file, "/anneal", 1, &type, shape));
    bool good = type == DF_F64 && shape[0] == ANNEAL_NUMBERS;
    if (good) DF_TRY(df_reader_rows(file, "/anneal", 0, ANNEAL_NUMBERS, true, numbers));
    if (good && anneal_unpack(numbers, anneal)) return DF_OK;
    return df_fail(DF_BAD_INPUT, "%s: /anneal holds no state of an annealing",
                   df_reader_path(file));
}

static df_status read_interval(const df_reader *file, df_history *history) {
    uint64_t shape[DF_MAX_DIMS];
    df_type type;
    size_t n = history_sums(history->sites);
    DF_TRY(df_reader_find(file, "/interval", 1, &type, shape));
    if (type == DF_F64 && shape[0] == n)
        return df_reader_rows(file, "/interval", 0, n, true, history->sums);
    return df_fail(DF_BAD_INPUT, "%s: /interval has %" PRIu64 " sums, expected %zu",
                   df_reader_path(file), shape[0], n);
}

static df_status read_state(const df_reader *file, train_run *run, const header *h) {
    checkpoint_part parts[CHECKPOINT_PARTS];
    size_t weights = checkpoint_parts(run, NULL, parts);
    size_t n = checkpoint_parts(run, run->state, parts);
    for (size_t i = weights; i < n; i++) DF_TRY(read_part(file, &parts[i]));
    DF_TRY(df_reader_rows(file, "/history", 0, h->history_rows, true, run->history.values));
    DF_TRY(read_anneal(file, &run->anneal));
    DF_TRY(read_interval(file, &run->history));
    run->history.rows = h->history_rows;
    run->state->step = (uint64_t)h->step;
    return DF_OK;
}

/* ---- one file, all ranks -------------------------------------------------------------------- */

/* The same numbers come only from the same kernels. */
static df_status check_kernels(const train_run *run, const header *h, const char *path) {
    const char *here = df_kernels_path(run->kernels);
    if (strcmp(h->kernel_path, here) == 0) return DF_OK;
    if (!run->options->accept_kernel_path)
        return df_fail(DF_USAGE,
                       "%s was made with kernels %s, this run would use %s: set kernel_path to %s, "
                       "or train.accept_kernel_path to true (the dictionary then depends on both)",
                       path, h->kernel_path, here, h->kernel_path);
    df_warn("%s was made with kernels %s; going on with %s, as asked", path, h->kernel_path, here);
    return DF_OK;
}

static df_status note_kernels(train_run *run, const header *h) {
    const char *here = df_kernels_path(run->kernels);
    bool same = strcmp(h->kernel_path, here) == 0;
    df_free(run->kernel_history);
    run->kernel_history =
        same ? df_strdup(h->kernel_history)
             : df_format("%s; %s from step %" PRId64, h->kernel_history, here, h->step);
    return run->kernel_history != NULL ? DF_OK : DF_FAILED;
}

/* Is the file of this job, trained on activations of the same content? Says so when not. */
static bool is_mine(const df_reader *file, const train_run *run, const header *h) {
    const char *path = df_reader_path(file);
    if (strcmp(h->job, run->options->resolved_job) != 0) {
        df_info("checkpoint %s belongs to another job: left alone", path);
        return false;
    }
    if (df_inputs_check(file, run->options->facts.inputs) == DF_OK) return true;
    df_info("checkpoint left alone: %s", df_error_text());
    df_error_clear();
    return false;
}

/* Reads everything; *mine stays false for a file of another job or other inputs. */
static df_status load(train_run *run, const char *path, bool *mine) {
    df_reader *file = NULL;
    header h = {0};
    df_status status = df_reader_open(path, "darkfield-checkpoint", &file);
    if (status == DF_OK) status = read_header(file, run, &h);
    DF_GO(df_agree(run->groups.world, status));
    *mine = is_mine(file, run, &h);
    if (!*mine) goto done;
    DF_GO(df_agree(run->groups.world, check_kernels(run, &h, path)));
    DF_GO(df_agree(run->groups.world, read_weights(file, run)));
    DF_GO(open_coder(run));
    status = read_state(file, run, &h);
    if (status == DF_OK) status = note_kernels(run, &h);
    DF_GO(df_agree(run->groups.world, status));
done:
    header_free(&h);
    df_reader_close(&file);
    if (status != DF_OK) {
        df_coder_close(&run->coder);
        run->state = NULL;
        run->history.rows = 0;
        history_restart(&run->history);
    }
    return status;
}

/* A damaged file is passed over with a warning. */
static df_status try_one(train_run *run, uint64_t step, bool *resumed) {
    char *path = checkpoint_path(run->options->checkpoint, step);
    DF_TRY(df_agree(run->groups.world, path != NULL ? DF_OK : DF_FAILED));
    bool mine = false;
    df_status status = load(run, path, &mine);
    if (status == DF_BAD_INPUT) {
        df_warn("checkpoint %s cannot be used, looking for an older one: %s", path,
                df_error_text());
        df_error_clear();
        status = DF_OK;
    } else if (status == DF_OK && mine) {
        df_info("resuming at step %" PRIu64 " of %" PRIu64 " from %s", step, run->options->steps,
                path);
        *resumed = true;
        run->checkpoint = path;
        return DF_OK;
    }
    df_free(path);
    return status;
}

df_status checkpoint_resume(train_run *run, bool *resumed) {
    uint64_t found[CANDIDATES + 1] = {0};
    *resumed = false;
    if (df_comm_rank(run->groups.world) == 0)
        found[CANDIDATES] = checkpoint_list(run->options->checkpoint, found, CANDIDATES);
    df_broadcast(run->groups.world, 0, found, sizeof found);
    for (size_t i = 0; i < found[CANDIDATES] && !*resumed; i++)
        DF_TRY(try_one(run, found[i], resumed));
    return DF_OK;
}
