/* The option table that the job-file tests share. */
#ifndef JOBFILE_TABLE_H
#define JOBFILE_TABLE_H

#include "df_test.h"

static const df_option table[] = {
    {.key = "seed", .type = DF_OPT_INT, .fallback = "1", .help = "seed of every draw"},
    {.key = "text.files", .type = DF_OPT_LIST, .help = "corpus files"},
    {.key = "text.limit",
     .type = DF_OPT_INT,
     .optional = true,
     .unit = "documents",
     .min = 1,
     .max = 1e15,
     .help = "read no more than this"},
    {.key = "models.a.path", .type = DF_OPT_TEXT, .help = "folder of model A"},
    {.key = "models.b.path", .type = DF_OPT_TEXT, .optional = true},
    {.key = "train.latents",
     .type = DF_OPT_INT,
     .fallback = "4096",
     .unit = "latents",
     .min = 1,
     .max = 1e9,
     .help = "width of the dictionary: one row of W_enc and one of W_dec each"},
    {.key = "train.learning_rate", .type = DF_OPT_REAL, .fallback = "1e-3", .min = 0, .max = 1},
    {.key = "train.coder",
     .type = DF_OPT_CHOICE,
     .fallback = "topk",
     .choices = "topk batchtopk relu"},
    {.key = "train.resume", .type = DF_OPT_BOOL, .fallback = "true"},
    {.key = "train.out", .type = DF_OPT_TEXT, .fallback = "out.dict.h5", .is_volatile = true},
    {.key = "train.sites", .type = DF_OPT_LIST, .fallback = "a, b"},
    {.key = "models.a.name", .type = DF_OPT_TEXT, .optional = true},
};
#define N_TABLE (sizeof table / sizeof *table)

static inline df_status parse_with(const char *text, const char *const *sets, size_t n_sets,
                                   df_job **job) {
    return df_job_parse("run.yaml", text, strlen(text), table, N_TABLE, sets, n_sets, job);
}

static inline df_status parse(const char *text, df_job **job) {
    return parse_with(text, NULL, 0, job);
}

#endif
