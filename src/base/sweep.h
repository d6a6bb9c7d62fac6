/* sweep.h: what a sweep option holds, as sweep.c, table.c, yaml.c and resolved.c share it. */
#ifndef DARKFIELD_BASE_SWEEP_H
#define DARKFIELD_BASE_SWEEP_H

#include "job.h"

/* YAML of any shape: a scalar, a list, or a mapping as key, value, key, value. */
typedef enum df_yaml_type { DF_YAML_SCALAR, DF_YAML_LIST, DF_YAML_MAP } df_yaml_type;
typedef struct df_yaml {
    df_yaml_type type;
    char *text; /* of a scalar */
    size_t line;
    struct df_yaml *child;
    size_t n, capacity;
} df_yaml;
void df_yaml_clear(df_yaml *node);
/* Reads the text of --set. */
df_status df_yaml_read(const df_job *job, const char *text, df_yaml *out) DF_MUST_CHECK;

/* One option and its values. An entry stands for every combination of its keys' values: a mapping
 * of lists is one entry, a list of mappings is an entry each, with one value per key. */
typedef struct df_sweep_key {
    size_t option; /* row of the table */
    df_value *value;
    size_t n, capacity;
} df_sweep_key;
typedef struct df_sweep_entry {
    char *name; /* NULL: made of the values */
    df_sweep_key *key;
    size_t n, capacity, members;
} df_sweep_entry;
struct df_sweep {
    bool is_list;
    df_sweep_entry *entry;
    size_t n, capacity, members;
};

/* From YAML to a sweep of option i. Lines count from the job file, or *lines is false: --set. The
 * value must be empty; on failure it is still to be cleared. */
df_status df_sweep_read(const df_job *job, size_t i, const df_yaml *tree, bool lines,
                        df_value *value) DF_MUST_CHECK;
void df_sweep_free(df_sweep *sweep);

#endif
