/* The training history: one row per logging interval, kept in memory, written with the dictionary.
 */
#include "train_internal.h"

#include <string.h>

static const char *const fixed[] = {"step",     "rows",          "loss", "reconstruction",
                                    "sparsity", "auxiliary",     "l0",   "dead",
                                    "lr",       "preactivation", "gate"};
enum { FIXED = sizeof fixed / sizeof *fixed };

size_t history_columns(size_t sites) {
    return FIXED + sites;
}

df_status history_open(size_t capacity, size_t sites, df_history *out) {
    *out = (df_history){.capacity = capacity, .sites = sites};
    return DF_NEW(out->values, capacity * history_columns(sites));
}

void history_close(df_history *history) {
    df_free(history->values);
    *history = (df_history){0};
}

void history_add(df_history *history, uint64_t step, size_t batch, double lr,
                 const df_step_report *report) {
    if (history->rows == history->capacity) return;
    double *row = history->values + history->rows++ * history_columns(history->sites);
    const double values[FIXED] = {(double)step,
                                  (double)step * (double)batch,
                                  report->loss,
                                  report->reconstruction,
                                  report->sparsity,
                                  report->auxiliary,
                                  report->l0,
                                  (double)report->dead,
                                  lr,
                                  report->preactivation,
                                  report->gate};
    memcpy(row, values, sizeof values);
    memcpy(row + FIXED, report->fvu, history->sites * sizeof *row);
}

char *history_column_name(const df_dict *dict, size_t column) {
    if (column < FIXED) return df_strdup(fixed[column]);
    size_t site = column - FIXED, alike = 0;
    const char *model = df_dict_output(dict, site)->model;
    for (size_t s = 0; s < df_dict_outputs(dict); s++)
        alike += strcmp(df_dict_output(dict, s)->model, model) == 0;
    return alike > 1 ? df_format("fvu.%s.%zu", model, site) : df_format("fvu.%s", model);
}

double *history_column(const df_history *history, size_t column) {
    double *out = df_alloc(history->rows, sizeof *out);
    size_t columns = history_columns(history->sites);
    for (size_t r = 0; r < history->rows && out != NULL; r++)
        out[r] = history->values[r * columns + column];
    return out;
}
