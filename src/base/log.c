/* The log: rank 0 speaks, warnings are remembered, and a progress bar never mixes with a line. */
#include "darkfield/base.h"
#include "log.h"

#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define REMEMBERED 20
#define WARNING_BYTES 400

static int log_rank;
static bool log_quiet, bar_drawn;
static atomic_size_t warning_count;
static char remembered[REMEMBERED][WARNING_BYTES];

void df_log_rank(int rank) {
    log_rank = rank;
}

void df_log_quiet(bool quiet) {
    log_quiet = quiet;
}

bool df_log_speaks(void) {
    return log_rank == 0 && !log_quiet;
}

// Both streams may be one terminal, so a bar on stdout goes before anything is written to either.
static void wipe_bar(void) {
    if (bar_drawn) fputs("\r\033[K", stdout);
    bar_drawn = false;
    fflush(stdout);
}

// A wrapped line could not be wiped: what fits in the terminal's width, or all where none is known.
static int bar_columns(void) {
    struct winsize size = {0};
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return INT_MAX;
    return size.ws_col > 20 ? size.ws_col - 1 : 20;
}

void df_log_bar(const char *text) {
    wipe_bar();
    if (text == NULL) return;
    printf("%.*s", bar_columns(), text);
    bar_drawn = true;
    fflush(stdout);
}

void df_info(const char *fmt, ...) {
    if (!df_log_speaks()) return;
    va_list args;
    flockfile(stdout);
    wipe_bar();
    va_start(args, fmt);
    vfprintf(stdout, fmt, args);
    va_end(args);
    putchar('\n');
    fflush(stdout);
    funlockfile(stdout);
}

void df_warn(const char *fmt, ...) {
    char text[WARNING_BYTES];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    size_t number = atomic_fetch_add(&warning_count, 1);
    if (number < REMEMBERED) memcpy(remembered[number], text, sizeof text);
    if (log_rank != 0) return;
    flockfile(stdout);
    wipe_bar();
    fprintf(stderr, "warning: %s\n", text);
    funlockfile(stdout);
}

size_t df_warnings(void) {
    return atomic_load(&warning_count);
}

void df_warnings_repeat(void) {
    size_t count = df_warnings(), shown = count < REMEMBERED ? count : REMEMBERED;
    if (count == 0) return;
    df_info("%zu warning%s:", count, count == 1 ? "" : "s");
    for (size_t i = 0; i < shown; i++) df_info("  %s", remembered[i]);
    if (count > shown) df_info("  and %zu more, printed above", count - shown);
}

static const char *kind_of(df_status code) {
    switch (code) {
    case DF_OK:
        return "ok";
    case DF_FAILED:
        return "failed";
    case DF_USAGE:
        return "usage";
    case DF_BAD_INPUT:
        return "bad input";
    case DF_STOPPED:
        return "stopped";
    }
    return "failed";
}

void df_error_print(df_status code) {
    const char *text = df_error_text();
    flockfile(stdout);
    wipe_bar();
    if (log_rank == 0)
        fprintf(stderr, "darkfield: %s: %s\n", kind_of(code), text);
    else
        fprintf(stderr, "darkfield: rank %d: %s: %s\n", log_rank, kind_of(code), text);
    funlockfile(stdout);
}
