/* Which known word was meant: the nearest by edit distance. */
#include "job.h"

#include <ctype.h>
#include <string.h>

#define LONGEST 96 // longer words are not compared

static size_t smaller(size_t a, size_t b) {
    return a < b ? a : b;
}

static bool same(char a, char b) {
    return tolower((unsigned char)a) == tolower((unsigned char)b);
}

// Insertions, deletions, changes, and swaps of neighbours (optimal string alignment), case ignored.
static size_t edit_distance(const char *a, size_t na, const char *b, size_t nb) {
    size_t rows[3][LONGEST + 1];
    for (size_t j = 0; j <= nb; j++) rows[0][j] = j;
    for (size_t i = 1; i <= na; i++) {
        size_t *here = rows[i % 3], *above = rows[(i + 2) % 3], *twice = rows[(i + 1) % 3];
        here[0] = i;
        for (size_t j = 1; j <= nb; j++) {
            size_t change = above[j - 1] + !same(a[i - 1], b[j - 1]);
            here[j] = smaller(change, 1 + smaller(above[j], here[j - 1]));
            bool swapped = i > 1 && j > 1 && same(a[i - 1], b[j - 2]) && same(a[i - 2], b[j - 1]);
            if (swapped) here[j] = smaller(here[j], twice[j - 2] + 1);
        }
    }
    return rows[na % 3][nb];
}

const char *df_nearest(const char *word, const char *const *known, size_t n) {
    size_t length = strlen(word), best = (length + 2) / 3 + 1;
    const char *nearest = NULL;
    if (length == 0 || length > LONGEST) return NULL;
    for (size_t i = 0; i < n; i++) {
        size_t other = strlen(known[i]);
        if (other > LONGEST) continue;
        size_t distance = edit_distance(word, length, known[i], other);
        if (distance < best && distance < other) {
            best = distance;
            nearest = known[i];
        }
    }
    return nearest;
}

// ---- unknown keys ------------------------------------------------------------------------------

// The parts of the table's keys that may stand where key + known begins, as copies in words[n].
static df_status words_here(const df_job *job, const char *key, size_t known, char **words) {
    for (size_t i = 0; i < job->n_options; i++) {
        const char *other = job->options[i].key;
        if (strncmp(other, key, known) != 0 || strlen(other) <= known) continue;
        words[i] = df_format("%.*s", (int)strcspn(other + known, "."), other + known);
        if (words[i] == NULL) return DF_FAILED;
    }
    return DF_OK;
}

// How many leading characters of key ("a.b." of "a.b.x.y") name known sections.
static size_t known_part(const df_job *job, const char *key) {
    size_t known = 0;
    for (const char *dot = strchr(key, '.'); dot != NULL; dot = strchr(dot + 1, '.')) {
        size_t length = (size_t)(dot - key) + 1;
        bool found = false;
        for (size_t i = 0; i < job->n_options; i++)
            found = found || strncmp(job->options[i].key, key, length) == 0;
        if (!found) break;
        known = length;
    }
    return known;
}

// A key put into the wrong section: the option whose last part is the same.
static const char *elsewhere(const df_job *job, const char *key) {
    const char *dot = strrchr(key, '.'), *last = dot != NULL ? dot + 1 : key;
    for (size_t i = 0; i < job->n_options; i++) {
        const char *other = job->options[i].key, *end = strrchr(other, '.');
        if (strcmp(end != NULL ? end + 1 : other, last) == 0) return other;
    }
    return NULL;
}

static df_status name_unknown(const df_job *job, const char *where, const char *key, char **words) {
    size_t known = known_part(job, key), n = 0;
    DF_TRY(words_here(job, key, known, words));
    for (size_t i = 0; i < job->n_options; i++) // close the gaps
        if (words[i] != NULL) {
            char *word = words[i];
            words[i] = NULL;
            words[n++] = word;
        }
    size_t length = strcspn(key + known, ".");
    char *part = df_format("%.*s", (int)length, key + known);
    if (part == NULL) return DF_FAILED;
    const char *other = elsewhere(job, key);
    const char *near = df_nearest(part, (const char *const *)words, n);
    df_free(part);
    if (near != NULL)
        return df_fail(DF_USAGE, "%s: unknown key '%.200s'; did you mean '%.*s%s%.100s'?", where,
                       key, (int)known, key, near, key + known + length);
    if (other != NULL)
        return df_fail(DF_USAGE, "%s: unknown key '%.200s'; did you mean '%s'?", where, key, other);
    return df_fail(DF_USAGE,
                   "%s: unknown key '%.200s', and no known key is near it (--help lists them)",
                   where, key);
}

df_status df_unknown_key(const df_job *job, const char *where, const char *key) {
    char **words;
    DF_TRY(DF_NEW(words, job->n_options));
    df_status status = name_unknown(job, where, key, words);
    for (size_t i = 0; i < job->n_options; i++) df_free(words[i]);
    df_free(words);
    return status;
}
