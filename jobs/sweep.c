/* train.sweep: the members as jobs of their own. */
#include "sweep.h"

#include <string.h>

static df_status make_member(const df_job *job, size_t i, df_member *out) {
    out->name = df_job_member_name(job, "train.sweep", i);
    if (out->name == NULL) return DF_FAILED;
    DF_TRY(df_job_member(job, "train.sweep", i, &out->job));
    DF_TRY_AS(df_train_presume(out->job), "preparing member %s of the sweep", out->name);
    return DF_OK;
}

/* Two members with the same settings would be one dictionary twice. */
static df_status check_settings(const df_job *job, const df_member *members, size_t n) {
    df_status status = DF_OK;
    char **text = NULL;
    DF_TRY(DF_NEW(text, n));
    for (size_t i = 0; i < n && status == DF_OK; i++) {
        text[i] = df_job_resolved(members[i].job, "train", false);
        if (text[i] == NULL) status = DF_FAILED;
        for (size_t j = 0; j < i && status == DF_OK; j++)
            if (strcmp(text[i], text[j]) == 0)
                status =
                    df_fail(DF_USAGE,
                            "%s: train.sweep: members %s and %s have the same "
                            "settings",
                            df_job_where(job, "train.sweep"), members[j].name, members[i].name);
    }
    for (size_t i = 0; i < n; i++) df_free(text[i]);
    df_free(text);
    return status;
}

static df_status find_use(const df_run *run, size_t *out) {
    const char *use = df_job_text(run->job, "train.use");
    const char **names = NULL;
    *out = 0;
    if (use == NULL) return DF_OK;
    DF_TRY(DF_NEW(names, run->n_members));
    for (size_t i = 0; i < run->n_members; i++) names[i] = run->members[i].name;
    while (*out < run->n_members && strcmp(names[*out], use) != 0) ++*out;
    df_status status = DF_OK;
    if (*out == run->n_members) {
        const char *near = df_nearest(use, names, run->n_members);
        status =
            df_fail(DF_USAGE, "%s: train.use: no member of the sweep is called \"%.80s\" (%s %s)",
                    df_job_where(run->job, "train.use"), use,
                    near != NULL ? "did you mean" : "the first is", near != NULL ? near : names[0]);
    }
    df_free(names);
    return status;
}

static df_status open_members(df_run *run, df_member *members, size_t n) {
    for (size_t i = 0; i < n; i++) DF_TRY(make_member(run->job, i, &members[i]));
    DF_TRY(check_settings(run->job, members, n));
    return find_use(run, &run->use);
}

df_status df_sweep_open(df_run *run) {
    size_t n = df_job_members(run->job, "train.sweep");
    df_member *members = NULL;
    if (n == 0) return DF_OK;
    DF_TRY(DF_NEW(members, n));
    run->members = members;
    run->n_members = n;
    return open_members(run, members, n);
}

void df_sweep_close(df_run *run) {
    for (size_t i = 0; i < run->n_members; i++) {
        df_free(run->members[i].name);
        df_job_free(run->members[i].job);
    }
    df_free((df_member *)run->members);
    run->members = NULL;
    run->n_members = 0;
}
