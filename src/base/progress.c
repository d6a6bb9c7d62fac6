/* One progress display: a bar rewritten in place on a terminal, one line per interval in a log
 * file. */
#include "darkfield/base.h"
#include "log.h"

#include <string.h>
#include <unistd.h>

#define BAR_CELLS 24
#define TERMINAL_INTERVAL 0.2
#define LOG_INTERVAL 30.0

void df_progress_start(df_progress *p, const char *what, const char *unit, uint64_t base,
                       uint64_t total) {
    // mpirun gives its ranks a terminal on stdout even where its own output goes to a file, but
    // never on stderr
    bool terminal = isatty(STDOUT_FILENO) == 1 && isatty(STDERR_FILENO) == 1;
    double now = df_now();
    *p = (df_progress){.what = what,
                       .unit = unit,
                       .total = total,
                       .base = base,
                       .start = now,
                       .last = now,
                       .interval = terminal ? TERMINAL_INTERVAL : LOG_INTERVAL,
                       .terminal = terminal};
}

// 1234567 -> "1.23M": a rate or a count in few columns.
static void short_number(double value, char out[static 16]) {
    static const char suffix[] = {'k', 'M', 'G', 'T', 'P', 'E'};
    if (value < 9999.5) {
        snprintf(out, 16, value < 99.95 ? "%.3g" : "%.0f", value);
        return;
    }
    size_t i = 0;
    for (value /= 1e3; value >= 999.5 && i < 5; i++) value /= 1e3;
    snprintf(out, 16, "%.3g%c", value, suffix[i]);
}

static void draw_bar(double part, char out[static BAR_CELLS + 4]) {
    int full = (int)(part * BAR_CELLS);
    out[0] = '[';
    for (int i = 0; i < BAR_CELLS; i++) out[1 + i] = i < full ? '#' : '-';
    strcpy(out + 1 + BAR_CELLS, "] ");
}

static double rate_of(const df_progress *p, uint64_t done, double now) {
    double seconds = now - p->start;
    return done > p->base && seconds > 0 ? (double)(done - p->base) / seconds : 0;
}

static void describe(const df_progress *p, uint64_t done, const char *note, size_t bytes,
                     char *out) {
    char bar[BAR_CELLS + 4] = "", have[16], want[16], rate[16], left[16] = "?";
    double part = p->total > 0 ? (double)done / (double)p->total : 1, per_second;
    if (part > 1) part = 1;
    if (p->terminal) draw_bar(part, bar);
    per_second = rate_of(p, done, df_now());
    short_number((double)done, have);
    short_number((double)p->total, want);
    short_number(per_second, rate);
    if (per_second > 0 && done < p->total)
        df_human_time((double)(p->total - done) / per_second, left);
    else if (done >= p->total)
        strcpy(left, "0 s");
    snprintf(out, bytes, "%s %s%3d%% %s/%s %s, %s %s/s, %s left%s%s", p->what, bar,
             (int)(100 * part), have, want, p->unit, rate, p->unit, left, note != NULL ? ", " : "",
             note != NULL ? note : "");
}

void df_progress_at(df_progress *p, uint64_t done, const char *note) {
    double now = df_now();
    if (!df_log_speaks() || now - p->last < p->interval) return;
    char text[400];
    p->last = now;
    describe(p, done, note, sizeof text, text);
    if (p->terminal)
        df_log_bar(text);
    else
        df_info("%s", text);
}

void df_progress_end(df_progress *p, uint64_t done) {
    if (!df_log_speaks()) return;
    char count[16], rate[16], spent[16];
    double now = df_now();
    short_number((double)(done > p->base ? done - p->base : 0), count);
    short_number(rate_of(p, done, now), rate);
    df_human_time(now - p->start, spent);
    df_info("%s: %s %s in %s, %s %s/s", p->what, count, p->unit, spent, rate, p->unit);
}
