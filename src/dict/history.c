/* The training history: one row per logging interval, means over its steps. Kept in memory, written
 * with the dictionary; the sums of an unfinished interval go into checkpoints. */
#include "train_internal.h"

#include <string.h>

/* Columns ahead of the sites'. MEAN: of this member of the step reports. */
#define MEAN(member)                                                                               \
    { #member, offsetof(df_step_report, member), true }
static const struct {
    const char *name;
    size_t offset;
    bool mean;
} fixed[] = {{.name = "step"}, {.name = "rows"},    MEAN(loss), MEAN(reconstruction),
             MEAN(sparsity),   MEAN(auxiliary),     MEAN(l0),   {.name = "dead"},
             {.name = "lr"},   MEAN(preactivation), MEAN(gate), MEAN(nested),
             MEAN(multi)};
enum { FIXED = sizeof fixed / sizeof *fixed };

size_t history_columns(size_t sites) {
    return FIXED + sites;
}

size_t history_sums(size_t sites) {
    return FIXED + 2 * sites;
}

df_status history_open(size_t capacity, size_t sites, df_history *out) {
    *out = (df_history){.capacity = capacity, .sites = sites};
    DF_TRY(DF_NEW(out->sums, history_sums(sites)));
    return DF_NEW(out->values, capacity * history_columns(sites));
}

void history_close(df_history *history) {
    df_free(history->values);
    df_free(history->sums);
    *history = (df_history){0};
}

void history_note(df_history *h, const df_step_report *report) {
    h->sums[0] += 1;
    for (size_t i = 0; i < FIXED; i++)
        if (fixed[i].mean)
            h->sums[i] += *(const double *)(const void *)((const char *)report + fixed[i].offset);
    for (size_t s = 0; s < h->sites; s++) {
        h->sums[FIXED + 2 * s] += report->error[s];
        h->sums[FIXED + 2 * s + 1] += report->spread[s];
    }
}

const double *history_add(df_history *h, const double last[static 4]) {
    if (h->rows == h->capacity) return NULL;
    double *row = h->values + h->rows++ * history_columns(h->sites);
    const double *sums = h->sums;
    for (size_t i = 0; i < FIXED; i++) row[i] = fixed[i].mean ? sums[i] / sums[0] : *last++;
    for (size_t s = 0; s < h->sites; s++) {
        double spread = sums[FIXED + 2 * s + 1];
        row[FIXED + s] = spread > 0.0 ? sums[FIXED + 2 * s] / spread : 0.0;
    }
    history_restart(h);
    return row;
}

void history_restart(df_history *h) {
    memset(h->sums, 0, history_sums(h->sites) * sizeof *h->sums);
}

double history_value(const double *row, const char *name) {
    for (size_t i = 0; i < FIXED; i++)
        if (strcmp(fixed[i].name, name) == 0) return row[i];
    return 0.0;
}

double history_fvu(const double *row, size_t site) {
    return row[FIXED + site];
}

char *history_column_name(const df_dict *dict, size_t column) {
    if (column < FIXED) return df_strdup(fixed[column].name);
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
