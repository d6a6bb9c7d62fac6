/* job.h: the job as table.c, value.c, yaml.c and resolved.c share it. */
#ifndef DARKFIELD_BASE_JOB_H
#define DARKFIELD_BASE_JOB_H

#include "darkfield/base.h"

typedef struct df_sweep df_sweep; /* sweep.h */

/* What one option holds. A value that came from the table's default has no `where`. */
typedef struct df_value {
    bool set, presumed; /* presumed: by df_job_presume */
    char *where;        /* "file:line" or "--set" */
    size_t line;        /* in the job file; 0 when it did not come from there */
    int64_t integer;
    double real;
    bool truth;
    char *text; /* TEXT and CHOICE */
    char **items;
    size_t n_items;
    df_sweep *sweep;
} df_value;

struct df_job {
    const df_option *options;
    df_value *values; /* one per option */
    size_t n_options;
    char *path;
};

/* Reads texts[n] (one unless the option is a list) into *value, which must be empty. A failure is
 * DF_USAGE with "expected ..., found ..."; *value is then still to be cleared. */
df_status df_value_read(const df_option *option, const char *const *texts, size_t n,
                        df_value *value) DF_MUST_CHECK;
void df_value_clear(df_value *value);
/* A copy of all but a sweep; *out must be empty. On failure it is still to be cleared. */
df_status df_value_copy(const df_value *value, df_value *out) DF_MUST_CHECK;
/* As one word; items of a list are joined by +. New memory. */
char *df_value_text(const df_option *option, const df_value *value);
/* The shortest decimal that reads back as the same number. */
void df_shortest(double value, char out[32]);

/* The job without its sweeps and without what was presumed. */
df_status df_job_copy(const df_job *job, df_job **out) DF_MUST_CHECK;

/* The same from one text; a list's is split at commas. */
df_status df_value_read_one(const df_option *option, const char *text,
                            df_value *value) DF_MUST_CHECK;

/* Row of the table with this key, or n when there is none. */
size_t df_option_find(const df_option *options, size_t n, const char *key);

/* Whether some key of the table starts with `section.` */
bool df_option_is_section(const df_option *options, size_t n, const char *section);

/* Records "where: unknown key ..." with the nearest known key. */
df_status df_unknown_key(const df_job *job, const char *where, const char *key) DF_MUST_CHECK;

/* Reads YAML text into job->values. */
df_status df_job_read_yaml(df_job *job, const char *text, size_t bytes) DF_MUST_CHECK;

/* Replaces the pending failure by the same one with "where: key: " in front, keeping its code. */
df_status df_fail_at(df_status code, const char *where, const char *key) DF_MUST_CHECK;

#endif
