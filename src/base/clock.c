/* Time, and numbers written for people. */
#include "darkfield/base.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define OUT_BYTES 16

double df_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void df_iso_time(char out[static 32]) {
    time_t now = time(NULL);
    struct tm utc;
    if (gmtime_r(&now, &utc) == NULL || strftime(out, 32, "%Y-%m-%dT%H:%M:%S+00:00", &utc) == 0)
        strcpy(out, "unknown");
}

void df_human_bytes(double bytes, char out[static 16]) {
    static const char *const units[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    if (!(bytes >= 0) || bytes >= 0x1p70) {
        strcpy(out, "?");
        return;
    }
    if (bytes < 1024) {
        snprintf(out, OUT_BYTES, "%.0f B", floor(bytes));
        return;
    }
    size_t unit = 0;
    double value = bytes / 1024;
    while (value >= 1023.95 && unit < 5) {
        value /= 1024;
        unit++;
    }
    snprintf(out, OUT_BYTES, "%.1f %s", value, units[unit]);
}

bool df_parse_bytes(const char *text, uint64_t *out) {
    static const char prefixes[] = "KMGTP";
    char *end = NULL;
    double value = strtod(text, &end);
    if (end == text || text[0] < '0' || text[0] > '9') return false;
    while (*end == ' ') end++;
    const char *prefix = *end != '\0' ? strchr(prefixes, toupper((unsigned char)*end)) : NULL;
    if (prefix != NULL) {
        bool binary = end[1] == 'i';
        value *= pow(binary ? 1024 : 1000, (double)(prefix - prefixes + 1));
        end += 1 + binary;
    }
    if (*end == 'B') end++;
    if (*end != '\0' || !(value >= 0 && value < 0x1p63)) return false;
    *out = (uint64_t)value;
    return true;
}

void df_human_time(double seconds, char out[static 16]) {
    if (!(seconds >= 0) || seconds > 1e9) {
        strcpy(out, "?");
        return;
    }
    if (seconds < 0.9995) {
        snprintf(out, OUT_BYTES, "%.3g ms", 1e3 * seconds);
        return;
    }
    if (seconds < 59.95) {
        snprintf(out, OUT_BYTES, "%.1f s", seconds);
        return;
    }
    uint32_t whole = (uint32_t)llround(seconds);
    uint16_t hours = (uint16_t)(whole / 3600 % 24), days = (uint16_t)(whole / 86400);
    if (whole < 3600)
        snprintf(out, OUT_BYTES, "%u m %02u s", whole / 60, whole % 60);
    else if (days == 0)
        snprintf(out, OUT_BYTES, "%u h %02u m", hours, whole / 60 % 60);
    else
        snprintf(out, OUT_BYTES, "%u d %02u h", days, hours);
}
