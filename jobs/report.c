/* darkfield report: one self-contained HTML page, made by the Python under analysis/ from the result files. */
#include "jobs.h"

#include <errno.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

extern char **environ;

static const df_option options[] = {
    {.key = "report.title", .type = DF_OPT_TEXT, .fallback = "Model diffing report", .help = "headline of the page"},
    {.key = "report.null", .type = DF_OPT_TEXT, .optional = true, .is_volatile = true,
     .help = "folder of a finished null run (a model against itself), shown beside the real one"},
    {.key = "report.python", .type = DF_OPT_TEXT, .fallback = "python3", .is_volatile = true,
     .help = "Python with h5py, matplotlib and jinja2"},
};

/* The folder with report.py: beside the sources of a build tree, else where it was installed. */
static const char *analysis_folder(void) {
    const char *chosen = getenv("DARKFIELD_ANALYSIS");
    if (chosen != NULL) return chosen;
    return df_file_exists(DF_ANALYSIS_SOURCE "/report.py") ? DF_ANALYSIS_SOURCE : DF_ANALYSIS_INSTALLED;
}

static df_status spawn_python(char *const *arguments) {
    pid_t child;
    int code = posix_spawnp(&child, arguments[0], NULL, NULL, arguments, environ);
    if (code != 0)
        return df_fail(DF_FAILED, "%s cannot be started (%s): install python3 or set report.python",
                       arguments[0], strerror(code));
    int state = 0;
    while (waitpid(child, &state, 0) < 0) {
        if (errno != EINTR) return df_fail(DF_FAILED, "waiting for %s: %s", arguments[0], strerror(errno));
    }
    if (WIFEXITED(state) && WEXITSTATUS(state) == 0) return DF_OK;
    return df_fail(DF_FAILED, "%s %s failed (status %d): its message stands above", arguments[0], arguments[1],
                   WIFEXITED(state) ? WEXITSTATUS(state) : state);
}

static df_status make_page(const df_run *run) {
    const char *out = df_job_text(run->job, "out"), *null = df_job_text(run->job, "report.null");
    char *script = df_format("%s/report.py", analysis_folder());
    char *page = df_format("%s/report.html", out);
    df_status status = script != NULL && page != NULL ? DF_OK : DF_FAILED;
    if (status == DF_OK) {
        char *arguments[] = {(char *)df_job_text(run->job, "report.python"), script, (char *)out, "--output", page, "--title",
                             (char *)df_job_text(run->job, "report.title"), null != NULL ? "--null" : NULL, (char *)null, NULL};
        status = spawn_python(arguments);
    }
    if (status == DF_OK) df_info("report: %s", page);
    df_free(script);
    df_free(page);
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

const df_stage df_stage_report = {"report", "one self-contained HTML page from the results", options,
                                  sizeof options / sizeof *options, run_report};
