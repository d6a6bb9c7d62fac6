/* Job files: whatever the bytes, parsing ends with a job or one message; a job's resolved copy
 * reads back as the same job. The first lines may be --set values: "%set KEY=VALUE". */
#include "darkfield/base.h"

#include <stdlib.h>
#include <string.h>

#define MOST_SETS 8

static const df_option options[] = {
    {.key = "seed", .type = DF_OPT_INT, .fallback = "1", .help = "seed of every draw"},
    {.key = "text.files", .type = DF_OPT_LIST, .help = "corpus files"},
    {.key = "text.limit", .type = DF_OPT_INT, .optional = true, .min = 1, .max = 1e15},
    {.key = "models.a.path", .type = DF_OPT_TEXT, .optional = true},
    {.key = "models.b.path", .type = DF_OPT_TEXT, .optional = true},
    {.key = "train.latents", .type = DF_OPT_INT, .fallback = "4096", .min = 1, .max = 1e9},
    {.key = "train.rate", .type = DF_OPT_REAL, .fallback = "1e-3"},
    {.key = "train.coder", .type = DF_OPT_CHOICE, .fallback = "topk", .choices = "topk relu"},
    {.key = "train.resume", .type = DF_OPT_BOOL, .fallback = "true"},
    {.key = "train.out", .type = DF_OPT_TEXT, .fallback = "out.h5", .is_volatile = true},
    {.key = "train.sites", .type = DF_OPT_LIST, .optional = true},
    {.key = "train.sweep", .type = DF_OPT_SWEEP, .optional = true},
    {.key = "train.deep.er.tag", .type = DF_OPT_TEXT, .optional = true},
};
#define N_OPTIONS (sizeof options / sizeof *options)

static void check_read_back(const df_job *job) {
    df_job *again = NULL;
    char *text = df_job_resolved(job, NULL, false);
    if (text == NULL) abort();
    if (df_job_parse("resolved", text, strlen(text), options, N_OPTIONS, NULL, 0, &again) != DF_OK)
        abort();
    char *second = df_job_resolved(again, NULL, false);
    if (second == NULL || strcmp(text, second) != 0) abort();
    df_free(text);
    df_free(second);
    df_job_free(again);
}

// Every member of a sweep is a job, and has a name that its file can have.
static void check_members(const df_job *job) {
    for (size_t i = 0; i < df_job_members(job, "train.sweep"); i++) {
        df_job *member = NULL;
        char *name = df_job_member_name(job, "train.sweep", i);
        if (name == NULL || strchr(name, '/') != NULL) abort();
        if (df_job_member(job, "train.sweep", i, &member) != DF_OK) abort();
        check_read_back(member);
        df_free(name);
        df_job_free(member);
    }
}

// Cuts "%set KEY=VALUE" lines off the front of text.
static char *take_sets(char *text, const char *sets[static MOST_SETS], size_t *n_sets) {
    while (*n_sets < MOST_SETS && strncmp(text, "%set ", 5) == 0) {
        char *end = strchr(text, '\n');
        if (end == NULL) break;
        *end = '\0';
        sets[(*n_sets)++] = text + 5;
        text = end + 1;
    }
    return text;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *sets[MOST_SETS];
    size_t n_sets = 0, before = df_memory_now();
    char *text = df_alloc(size + 1, 1);
    if (text == NULL) return 0;
    if (size > 0) memcpy(text, data, size);
    char *body = take_sets(text, sets, &n_sets);
    size_t bytes = size - (size_t)(body - text);
    df_job *job = NULL;
    df_status status =
        df_job_parse("job.yaml", body, bytes, options, N_OPTIONS, sets, n_sets, &job);
    if (status == DF_OK) {
        check_read_back(job);
        check_members(job);
    } else if (status != DF_USAGE || job != NULL || df_error_text()[0] == '\0')
        abort();
    df_job_free(job);
    df_free(text);
    df_error_clear();
    if (df_memory_now() != before) abort();
    return 0;
}
