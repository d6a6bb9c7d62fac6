/* Status codes with a context stack: one record per thread. */
#include "darkfield/base.h"

#include <pthread.h>
#include <stdarg.h>
#include <string.h>

#define TEXT_BYTES 4096

static _Thread_local char record[TEXT_BYTES];
static _Thread_local size_t used;

static DF_PRINTF(1, 0) void append(const char *fmt, va_list args) {
    if (used >= TEXT_BYTES - 1) return;
    int n = vsnprintf(record + used, TEXT_BYTES - used, fmt, args);
    if (n > 0) used += (size_t)n < TEXT_BYTES - used ? (size_t)n : TEXT_BYTES - used - 1;
}

static void append_text(const char *text) {
    size_t n = strlen(text), room = TEXT_BYTES - 1 - used;
    if (n > room) n = room;
    memcpy(record + used, text, n);
    used += n;
    record[used] = '\0';
}

df_status df_fail(df_status code, const char *fmt, ...) {
    va_list args;
    char fresh[TEXT_BYTES]; // the arguments may point into the record itself
    va_start(args, fmt);
    vsnprintf(fresh, sizeof fresh, fmt, args);
    va_end(args);
    used = 0;
    append_text(fresh);
    return code;
}

void df_context(const char *fmt, ...) {
    if (used == 0) return;
    va_list args;
    append_text("\n  while ");
    va_start(args, fmt);
    append(fmt, args);
    va_end(args);
}

const char *df_error_text(void) {
    return used > 0 ? record : "";
}

void df_error_clear(void) {
    used = 0;
    record[0] = '\0';
}

/* ---- from worker threads to the main one ---- */

static pthread_mutex_t carrying = PTHREAD_MUTEX_INITIALIZER;

void df_carry(df_carried *carried, df_status code, uint64_t at) {
    pthread_mutex_lock(&carrying);
    if (carried->code == DF_OK || at < carried->at) {
        df_free(carried->text);
        *carried = (df_carried){code, at, df_strdup(df_error_text())};
    }
    pthread_mutex_unlock(&carrying);
    df_error_clear();
}

df_status df_carried_raise(df_carried *carried) {
    df_status code = carried->code;
    if (code != DF_OK)
        (void)df_fail(code, "%s", carried->text != NULL ? carried->text : "a thread failed");
    df_free(carried->text);
    *carried = (df_carried){0};
    return code;
}
