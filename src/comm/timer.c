/* Named sections, exclusive of children: time always belongs to the innermost open section. */
#include "parts.h"

#include <string.h>

#define MOST_SECTIONS 64
#define MOST_DEPTH 32
#define NAME_BYTES 48

typedef struct section {
    char name[NAME_BYTES];
    uint64_t calls;
    double seconds;
} section;

static section table[MOST_SECTIONS];
static size_t sections;
static size_t open_section[MOST_DEPTH], depth;
static double resumed; // when the innermost section last began to count

/* The section's place in the table; new names are added. One beyond the table: no room. */
static size_t find(section *in, size_t *n, const char *name) {
    for (size_t i = 0; i < *n; i++)
        if (strncmp(in[i].name, name, NAME_BYTES - 1) == 0) return i;
    if (*n == MOST_SECTIONS) return MOST_SECTIONS;
    memset(&in[*n], 0, sizeof in[*n]);
    snprintf(in[*n].name, NAME_BYTES, "%.*s", NAME_BYTES - 1, name);
    return (*n)++;
}

/* Books the time since the last change to the innermost section. */
static void settle(void) {
    double now = df_now();
    if (depth > 0) table[open_section[depth - 1]].seconds += now - resumed;
    resumed = now;
}

void df_timer_start(const char *name) {
    size_t i = find(table, &sections, name);
    if (i == MOST_SECTIONS || depth == MOST_DEPTH) return;
    settle();
    table[i].calls++;
    open_section[depth++] = i;
}

void df_timer_stop(const char *name) {
    if (depth == 0 || strncmp(table[open_section[depth - 1]].name, name, NAME_BYTES - 1) != 0)
        return;
    settle();
    depth--;
}

double df_timer_seconds(const char *name) {
    for (size_t i = 0; i < sections; i++)
        if (strncmp(table[i].name, name, NAME_BYTES - 1) == 0) return table[i].seconds;
    return 0;
}

void df_timer_reset(void) {
    sections = 0;
    depth = 0;
}

/* ---- the table over ranks ------------------------------------------------------------------- */

typedef struct line {
    uint64_t calls;
    int ranks; // that entered the section; the others count as zero seconds
    double least, most, sum;
} line;

/* Adds one rank's section to the lines. */
static void merge(section *names, size_t *n, line *lines, const section *from) {
    size_t i = find(names, n, from->name);
    if (i == MOST_SECTIONS) return;
    line *l = &lines[i];
    if (from->calls > l->calls) l->calls = from->calls;
    if (l->ranks++ == 0 || from->seconds < l->least) l->least = from->seconds;
    if (from->seconds > l->most) l->most = from->seconds;
    l->sum += from->seconds;
}

static void print_table(const section *names, size_t n, const line *lines, int size, double total) {
    double other = total;
    df_info("%-28s %10s %10s %10s %10s %7s", "section", "calls", "min s", "avg s", "max s", "%");
    for (size_t i = 0; i < n; i++) {
        double average = lines[i].sum / size;
        df_info("%-28s %10llu %10.3f %10.3f %10.3f %6.1f%%", names[i].name,
                (unsigned long long)lines[i].calls, lines[i].ranks == size ? lines[i].least : 0.0,
                average, lines[i].most, total > 0 ? 100 * average / total : 0.0);
        other -= average;
    }
    df_info("%-28s %10s %10s %10.3f %10s %6.1f%%", "other", "", "", other > 0 ? other : 0.0, "",
            total > 0 && other > 0 ? 100 * other / total : 0.0);
}

void df_timer_report(df_comm *comm, double total_seconds) {
    section names[MOST_SECTIONS], theirs[MOST_SECTIONS];
    line lines[MOST_SECTIONS];
    size_t n = 0;
    memset(lines, 0, sizeof lines);
    for (int r = 0; r < comm->size; r++) {
        uint64_t count = sections;
        memcpy(theirs, table, sizeof theirs);
        df_broadcast(comm, r, &count, sizeof count);
        df_broadcast(comm, r, theirs, sizeof theirs);
        for (size_t i = 0; i < count; i++) merge(names, &n, lines, &theirs[i]);
    }
    print_table(names, n, lines, comm->size, total_seconds);
}
