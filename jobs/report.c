/* darkfield report: one self-contained HTML page, made by the Python under analysis/ from the
 * result files. */
#include "jobs.h"

#include <errno.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

extern char **environ;

static const df_option options[] = {
    {.key = "report.title",
     .type = DF_OPT_TEXT,
     .fallback = "Model diffing report",
     .help = "headline of the page"},
    {.key = "report.null",
     .type = DF_OPT_TEXT,
     .optional = true,
     .is_volatile = true,
     .help = "folder of a finished null run (a model against itself), shown beside the real one"},
    {.key = "report.python",
     .type = DF_OPT_TEXT,
     .fallback = "auto",
     .is_volatile = true,
     .help =
         "Python with h5py, matplotlib and jinja2; auto: python3 of the path, else the system's"},
};

/* The folder with report.py: beside the sources of a build tree, else where it was installed. */
static const char *analysis_folder(void) {
    const char *chosen = getenv("DARKFIELD_ANALYSIS");
    if (chosen != NULL) return chosen;
    return df_file_exists(DF_ANALYSIS_SOURCE "/report.py") ? DF_ANALYSIS_SOURCE
                                                           : DF_ANALYSIS_INSTALLED;
}

/* Runs a program to its end; *code is its exit status, 127 when it cannot be started. */
static df_status run_program(const char *const *arguments, int *code) {
    pid_t child;
    *code = 127;
    if (posix_spawnp(&child, arguments[0], NULL, NULL, (char *const *)arguments, environ) != 0)
        return DF_OK;
    int state = 0;
    while (waitpid(child, &state, 0) < 0) {
        if (errno != EINTR)
            return df_fail(DF_FAILED, "waiting for %s: %s", arguments[0], strerror(errno));
    }
    *code = WIFEXITED(state) ? WEXITSTATUS(state) : 1;
    return DF_OK;
}

/* A module that a Python lacks should not end the run when another Python has it. */
static df_status find_python(const char *asked, const char **out) {
    static const char *const candidates[] = {"python3", "/usr/bin/python3"};
    *out = asked;
    if (strcmp(asked, "auto") != 0) return DF_OK;
    for (size_t i = 0; i < sizeof candidates / sizeof *candidates; i++) {
        const char *probe[] = {
            candidates[i], "-c",
            "import sys\ntry:\n import h5py, matplotlib, jinja2\nexcept ImportError: sys.exit(1)",
            NULL};
        int code;
        DF_TRY(run_program(probe, &code));
        *out = candidates[i];
        if (code == 0) return DF_OK;
    }
    return df_fail(DF_FAILED, "no Python with h5py, matplotlib and jinja2 was found: install "
                              "python3-h5py python3-matplotlib "
                              "python3-jinja2, or set report.python");
}

static df_status run_report_script(const char *const *arguments) {
    int code;
    DF_TRY(run_program(arguments, &code));
    if (code == 0) return DF_OK;
    return df_fail(DF_FAILED, "%s %s ended with status %d: its message stands above", arguments[0],
                   arguments[1], code);
}

/* "k4,k8": the members of the sweep, "" without one. New memory. */
static char *list_members(const df_run *run) {
    char *text = df_strdup("");
    for (size_t i = 0; i < run->n_members && text != NULL; i++) {
        char *longer = df_format("%s%s%s", text, i > 0 ? "," : "", run->members[i].name);
        df_free(text);
        text = longer;
    }
    return text;
}

static df_status make_page(const df_run *run) {
    const char *out = df_job_text(run->job, "out"), *null = df_job_text(run->job, "report.null");
    char *script = df_format("%s/report.py", analysis_folder());
    char *page = df_format("%s/report.html", out), *members = list_members(run);
    bool have = script != NULL && page != NULL && members != NULL;
    df_status status = have ? DF_OK : DF_FAILED;
    const char *python = NULL;
    if (status == DF_OK) status = find_python(df_job_text(run->job, "report.python"), &python);
    if (status == DF_OK) {
        const char *arguments[] = {python,
                                   script,
                                   out,
                                   "--output",
                                   page,
                                   "--title",
                                   df_job_text(run->job, "report.title"),
                                   "--members",
                                   members,
                                   "--use",
                                   run->n_members > 0 ? run->members[run->use].name : "",
                                   null != NULL ? "--null" : NULL,
                                   null,
                                   NULL};
        status = run_report_script(arguments);
    }
    if (status == DF_OK) df_info("report: %s", page);
    df_free(script);
    df_free(page);
    df_free(members);
    return status;
}

static df_status run_report(df_run *run) {
    if (run->dry_run) {
        df_info("report: would write %s/report.html", df_job_text(run->job, "out"));
        return DF_OK;
    }
    df_timer_start("report");
    df_status status = df_comm_rank(run->world) == 0 ? make_page(run) : DF_OK;
    df_timer_stop("report");
    return df_agree(run->world, status);
}

const df_stage df_stage_report = {
    .name = "report",
    .help = "one self-contained HTML page from the results",
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .run = run_report,
    .siteless = true,
};
