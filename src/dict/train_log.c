/* What a training prints: a table with a line per interval and dictionary, at most 120 columns wide
 * and as much wider as the names of a sweep are long, and a bar below it on a terminal. */
#include "train_internal.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

enum { FVU_COLUMNS = 27, MOST_FVU = 3 };

df_status log_measure(train_run *run, double *rate) {
    df_status status = DF_OK;
    if (!(*rate > 0.0)) status = df_gemm_rate(run->dict, run->options->batch, rate);
    DF_TRY(df_agree(run->groups.world, status));
    run->gemm_seconds = df_gemm_flop(run->dict, run->rows.count, run->dict->mine) / *rate;
    df_max_double(run->groups.world, &run->gemm_seconds, 1);
    return DF_OK;
}

/* ---- columns -------------------------------------------------------------------------------- */

/* The term beside loss, error and sparsity: the one that the objective is about. */
static const char *fourth_term(const df_train_options *o) {
    if (o->activation == DF_GATED) return "gate";
    return o->objective.preact > 0.0 ? "preactivation" : "auxiliary";
}

/* The models of the sites that a member writes; more than MOST_FVU are counted alone. */
static size_t written(const df_train_member *member, const row_sites *all,
                      const char *model[MOST_FVU]) {
    df_dict_site sites[DF_MAX_SITES];
    size_t numbers[DF_MAX_SITES], n = member_sites(member, all, numbers, sites), out = 0;
    (void)train_shape(member->options, sites, n);
    for (size_t s = 0; s < n; s++) {
        if (!sites[s].output) continue;
        if (out < MOST_FVU) model[out] = sites[s].model;
        out++;
    }
    return out;
}

void log_table(const df_train_member *members, size_t n, const row_sites *all, train_table *out) {
    const char *model[MOST_FVU];
    *out = (train_table){.term = fourth_term(members[0].options)};
    out->columns = written(&members[0], all, out->fvu);
    out->range = out->columns > MOST_FVU;
    for (size_t m = 0; m < n; m++) {
        size_t sites = written(&members[m], all, model);
        if (sites != out->columns) out->range = true;
        for (size_t s = 0; s < sites && s < MOST_FVU && !out->range; s++)
            out->range = strcmp(model[s], out->fvu[s]) != 0;
        if (strcmp(fourth_term(members[m].options), out->term) != 0) out->term = "term";
        int length = members[m].name != NULL ? (int)strlen(members[m].name) : 0;
        if (length > out->name) out->name = length;
    }
    if (!out->range) return;
    out->columns = 2;
    out->fvu[0] = "min";
    out->fvu[1] = "max";
}

static int fvu_width(const train_table *t) {
    return FVU_COLUMNS / (int)(t->columns > 1 ? t->columns : 2);
}

static size_t put_fvu_name(const train_table *t, size_t i, char *out, size_t room) {
    char text[32];
    int width = fvu_width(t);
    snprintf(text, sizeof text, "FVU %s", t->fvu[i]);
    return (size_t)snprintf(out, room, " %*.*s", width - 1, width - 1, text);
}

static double fvu_of(const train_table *t, const train_run *run, size_t i) {
    if (!t->range) return history_fvu(run->logged, i);
    double found = history_fvu(run->logged, 0);
    for (size_t s = 1; s < df_dict_outputs(run->dict); s++) {
        double next = history_fvu(run->logged, s);
        found = i == 0 ? fmin(found, next) : fmax(found, next);
    }
    return found;
}

/* A member's name, or nothing. */
static size_t put_name(const train_table *t, const char *name, char line[LOG_LINE]) {
    line[0] = '\0';
    if (t->name == 0) return 0;
    int n = snprintf(line, LOG_LINE / 2, "%-*s ", t->name, name);
    return n < LOG_LINE / 2 ? (size_t)n : LOG_LINE / 2 - 1;
}

/* ---- the table ------------------------------------------------------------------------------ */

void log_names(const train_table *t) {
    char line[LOG_LINE];
    size_t n = put_name(t, "", line);
    n += (size_t)snprintf(line + n, sizeof line - n, "%9s %8s %8s %8s %8.6s", "step", "loss",
                          "error", "sparsity", t->term);
    for (size_t i = 0; i < t->columns; i++) n += put_fvu_name(t, i, line + n, sizeof line - n);
    snprintf(line + n, sizeof line - n, " %7s %6s %7s %7s %5s %10s", "L0", "dead", "lr", "rows/s",
             "GEMMs", "ETA");
    df_info("%s", line);
}

/* Seconds from step to step in this interval, which ends now; *own: of these in the dictionary's
 * own steps, or all of them where there is no sweep. */
static double lap(train_run *run, double *own) {
    double now = df_now(), steps = (double)(run->state->step - run->clock.step);
    double seconds = now - run->clock.since;
    *own = run->name != NULL ? run->clock.busy : seconds;
    run->clock = (train_clock){.since = now, .step = run->state->step};
    if (steps < 1.0) steps = 1.0;
    *own /= steps;
    return seconds / steps;
}

void log_row(const train_table *t, train_run *run, char line[LOG_LINE]) {
    char left[16];
    const double *row = run->logged;
    double own, seconds = lap(run, &own), rows = (double)run->options->batch;
    uint64_t steps_left = run->options->steps - run->state->step;
    df_human_time(seconds * (double)steps_left, left);
    if (steps_left == 0) snprintf(left, sizeof left, "-");
    size_t n = put_name(t, run->name, line);
    n += (size_t)snprintf(line + n, LOG_LINE - n, "%9.0f %8.3g %8.3g %8.3g %8.3g",
                          history_value(row, "step"), history_value(row, "loss"),
                          history_value(row, "reconstruction"), history_value(row, "sparsity"),
                          history_value(row, fourth_term(run->options)));
    for (size_t i = 0; i < t->columns; i++)
        n +=
            (size_t)snprintf(line + n, LOG_LINE - n, " %*.5f", fvu_width(t) - 1, fvu_of(t, run, i));
    snprintf(line + n, LOG_LINE - n, " %7.2f %6.0f %7.1e %7.0f %5.2f %10s",
             history_value(row, "l0"), history_value(row, "dead"), history_value(row, "lr"),
             rows / (seconds > 0 ? seconds : 1e-9),
             run->gemm_seconds > 0 ? own / run->gemm_seconds : 0.0, left);
}

/* ---- the bar -------------------------------------------------------------------------------- */

void log_note(const train_run *run, char note[LOG_LINE]) {
    size_t sites = df_dict_outputs(run->dict), n = 0;
    if (run->name != NULL) n = (size_t)snprintf(note, LOG_LINE / 2, "%.60s: ", run->name);
    n += (size_t)snprintf(note + n, LOG_LINE - n, "step %" PRIu64 "/%" PRIu64 ", FVU",
                          run->state->step, run->options->steps);
    for (size_t s = 0; s < sites && s < MOST_FVU; s++)
        n += (size_t)snprintf(note + n, LOG_LINE - n, " %.4f", run->report.fvu[s]);
    snprintf(note + n, LOG_LINE - n, ", dead %" PRIu64, run->report.dead);
}
