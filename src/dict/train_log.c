/* What a training prints: a table with a line per interval, at most 120 columns wide, and a bar
 * below it on a terminal. */
#include "train_internal.h"

#include <inttypes.h>
#include <math.h>

enum { LINE_BYTES = 256, FVU_COLUMNS = 27, MOST_FVU = 3 };

df_status log_measure(train_run *run) {
    double rate = 1.0;
    df_status status = df_gemm_rate(run->dict, run->options->batch, &rate);
    DF_TRY(df_agree(run->comm, status));
    run->gemm_seconds = df_gemm_flop(run->dict, run->options->batch, run->dict->mine) / rate;
    df_max_double(run->comm, &run->gemm_seconds, 1);
    return DF_OK;
}

/* ---- the table ------------------------------------------------------------------------------ */

/* Up to MOST_FVU sites have a column each; of more the best and the worst are shown. */
static size_t fvu_columns(const df_dict *d) {
    size_t sites = df_dict_outputs(d);
    return sites > MOST_FVU ? 2 : sites;
}

static int fvu_width(const df_dict *d) {
    return FVU_COLUMNS / (int)(fvu_columns(d) > 1 ? fvu_columns(d) : 2);
}

static size_t put_fvu_name(const df_dict *d, size_t i, char *out, size_t room) {
    bool all = df_dict_outputs(d) <= MOST_FVU;
    const char *name = all ? df_dict_output(d, i)->model : i == 0 ? "min" : "max";
    char text[32];
    int width = fvu_width(d);
    snprintf(text, sizeof text, "FVU %s", name);
    return (size_t)snprintf(out, room, " %*.*s", width - 1, width - 1, text);
}

static double fvu_of(const df_dict *d, const double *row, size_t i) {
    size_t sites = df_dict_outputs(d);
    if (sites <= MOST_FVU) return history_fvu(row, i);
    double found = history_fvu(row, 0);
    for (size_t s = 1; s < sites; s++)
        found = i == 0 ? fmin(found, history_fvu(row, s)) : fmax(found, history_fvu(row, s));
    return found;
}

/* The term beside loss, error and sparsity: the one that the objective is about. */
static const char *fourth_term(const train_run *run) {
    if (run->dict->activation == DF_GATED) return "gate";
    return run->options->objective.preact > 0.0 ? "preactivation" : "auxiliary";
}

static void print_names(const train_run *run) {
    char line[LINE_BYTES];
    size_t n = (size_t)snprintf(line, sizeof line, "%9s %8s %8s %8s %8.6s", "step", "loss", "error",
                                "sparsity", fourth_term(run));
    for (size_t i = 0; i < fvu_columns(run->dict); i++)
        n += put_fvu_name(run->dict, i, line + n, sizeof line - n);
    snprintf(line + n, sizeof line - n, " %7s %6s %7s %7s %5s %10s", "L0", "dead", "lr", "rows/s",
             "GEMMs", "ETA");
    df_info("%s", line);
}

/* The seconds of a step in this interval, which ends now. */
static double lap(train_run *run) {
    double now = df_now(), seconds = now - run->clock.since;
    uint64_t steps = run->state->step - run->clock.step;
    run->clock = (train_clock){now, run->state->step};
    return seconds / (double)(steps > 0 ? steps : 1);
}

static void print_row(train_run *run, const double *row) {
    char line[LINE_BYTES], left[16];
    double seconds = lap(run), rows = (double)run->options->batch;
    uint64_t steps_left = run->options->steps - run->state->step;
    df_human_time(seconds * (double)steps_left, left);
    if (steps_left == 0) snprintf(left, sizeof left, "-");
    size_t n = (size_t)snprintf(
        line, sizeof line, "%9.0f %8.3g %8.3g %8.3g %8.3g", history_value(row, "step"),
        history_value(row, "loss"), history_value(row, "reconstruction"),
        history_value(row, "sparsity"), history_value(row, fourth_term(run)));
    for (size_t i = 0; i < fvu_columns(run->dict); i++)
        n += (size_t)snprintf(line + n, sizeof line - n, " %*.5f", fvu_width(run->dict) - 1,
                              fvu_of(run->dict, row, i));
    snprintf(line + n, sizeof line - n, " %7.2f %6.0f %7.1e %7.0f %5.2f %10s",
             history_value(row, "l0"), history_value(row, "dead"), history_value(row, "lr"),
             rows / (seconds > 0 ? seconds : 1e-9),
             run->gemm_seconds > 0 ? seconds / run->gemm_seconds : 0.0, left);
    df_info("%s", line);
}

/* ---- the bar -------------------------------------------------------------------------------- */

static void move_bar(const train_run *run, df_progress *p, const df_step_report *r) {
    char note[LINE_BYTES];
    size_t sites = df_dict_outputs(run->dict);
    size_t n = (size_t)snprintf(note, sizeof note, "step %" PRIu64 "/%" PRIu64 ", FVU",
                                run->state->step, run->options->steps);
    for (size_t s = 0; s < sites && s < MOST_FVU; s++)
        n += (size_t)snprintf(note + n, sizeof note - n, " %.4f", r->fvu[s]);
    snprintf(note + n, sizeof note - n, ", dead %" PRIu64, r->dead);
    df_progress_at(p, run->state->step * run->options->batch, note);
}

/* ---- both ----------------------------------------------------------------------------------- */

void log_start(train_run *run, df_progress *progress) {
    const df_train_options *o = run->options;
    df_progress_start(progress, "train", "rows", run->state->step * o->batch, o->steps * o->batch);
    run->clock = (train_clock){df_now(), run->state->step};
    df_info("train: %" PRIu64 " steps; the encoder GEMM alone takes %.4g ms of a step here",
            o->steps, 1e3 * run->gemm_seconds);
    print_names(run);
}

void log_step(train_run *run, df_progress *progress, const df_step_report *report,
              const double *row) {
    if (row != NULL) print_row(run, row);
    if (progress->terminal) move_bar(run, progress, report);
}
