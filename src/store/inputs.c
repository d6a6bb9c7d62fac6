/* What a file was made from: a line "RECIPE CONTENT NAME" for each activations file, in
 * /provenance. */
#include "parts.h"

#include <string.h>

#define HASH_DIGITS 16
#define UNKNOWN "-"

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash != NULL && slash[1] != '\0' ? slash + 1 : path;
}

static char *note_one(char *lines, const df_acts *acts) {
    char content[HASH_DIGITS + 1] = UNKNOWN;
    if (acts->made.self == NULL)
        snprintf(content, sizeof content, "%016llx", (unsigned long long)acts->hash);
    char *longer = df_format("%s%016llx %s %s\n", lines, (unsigned long long)acts->recipe, content,
                             acts->made.self != NULL ? acts->model : base_name(acts->path));
    df_free(lines);
    return longer;
}

char *df_inputs_note(char *lines, const df_acts *acts) {
    if (lines == NULL || acts->parts == 0) return lines != NULL ? note_one(lines, acts) : NULL;
    for (size_t p = 0; p < acts->parts && lines != NULL; p++)
        lines = note_one(lines, acts->part[p]);
    return lines;
}

/* One line; texts point into it. */
typedef struct input {
    const char *recipe, *content, *name;
    size_t content_length, name_length;
} input;

/* Takes the next line of *text; false at the end, and at what is no such line. */
static bool next_input(const char **text, input *out) {
    size_t length = strcspn(*text, "\n"), content;
    const char *line = *text;
    if (length < HASH_DIGITS + 3 || line[HASH_DIGITS] != ' ') return false;
    content = strcspn(line + HASH_DIGITS + 1, " \n");
    if (HASH_DIGITS + 1 + content >= length) return false;
    *out = (input){.recipe = line,
                   .content = line + HASH_DIGITS + 1,
                   .content_length = content,
                   .name = line + HASH_DIGITS + content + 2};
    out->name_length = length - (size_t)(out->name - line);
    *text += length + (line[length] == '\n');
    return true;
}

static bool is_known(const input *i) {
    return i->content_length != strlen(UNKNOWN) ||
           strncmp(i->content, UNKNOWN, strlen(UNKNOWN)) != 0;
}

/* The content that a stored line has for the recipe of `now`, where none has that of `now`; NULL:
 * there is no such line. */
static const char *other_content(const char *stored, const input *now, size_t *length) {
    const char *other = NULL;
    input was;
    while (next_input(&stored, &was)) {
        if (!is_known(&was) || strncmp(was.recipe, now->recipe, HASH_DIGITS) != 0) continue;
        if (was.content_length == now->content_length &&
            strncmp(was.content, now->content, was.content_length) == 0)
            return NULL;
        other = was.content;
        *length = was.content_length;
    }
    return other;
}

df_status df_inputs_check(const df_reader *file, const char *inputs) {
    const store_object *provenance = store_table_find(&file->table, STORE_PROVENANCE);
    const store_attribute *stored =
        provenance != NULL ? store_find_attribute(provenance, "inputs") : NULL;
    input now;
    if (stored == NULL || stored->kind != STORE_TEXT || inputs == NULL) return DF_OK;
    while (next_input(&inputs, &now)) {
        size_t length = 0;
        const char *other = is_known(&now) ? other_content(stored->text, &now, &length) : NULL;
        if (other == NULL) continue;
        return df_fail(DF_BAD_INPUT,
                       "%s was made from %.*s of content %.*s, whose content is %.*s now, by the "
                       "same job",
                       df_reader_path(file), (int)now.name_length, now.name, (int)length, other,
                       (int)now.content_length, now.content);
    }
    return DF_OK;
}
