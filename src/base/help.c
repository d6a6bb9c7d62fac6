/* The option table as --help shows it. */
#include "darkfield/base.h"

#include <string.h>

#define WIDTH 96
#define HELP_INDENT 8

static const char *type_word(const df_option *option) {
    switch (option->type) {
    case DF_OPT_INT:
        return "integer";
    case DF_OPT_REAL:
        return "number";
    case DF_OPT_BOOL:
        return "true or false";
    case DF_OPT_TEXT:
        return "text";
    case DF_OPT_CHOICE:
        return "one of";
    case DF_OPT_LIST:
        return "list of texts";
    case DF_OPT_SWEEP:
        return "mapping of lists, or list of mappings";
    }
    return "text";
}

static void print_default(FILE *to, const df_option *option) {
    if (option->fallback != NULL && option->fallback[0] != '\0')
        fprintf(to, "; default %s", option->fallback);
    else if (option->fallback != NULL)
        fprintf(to, "; default %s", option->type == DF_OPT_LIST ? "empty list" : "empty");
    else
        fprintf(to, "%s", option->optional ? "; optional" : "; must be given");
}

static void wrap(FILE *to, const char *text) {
    size_t column = WIDTH;
    while (*text != '\0') {
        size_t n = strcspn(text, " ");
        if (column + 1 + n > WIDTH) {
            fprintf(to, "%s%*s", column == WIDTH ? "" : "\n", HELP_INDENT, "");
            column = HELP_INDENT;
        } else {
            fputc(' ', to);
            column++;
        }
        fwrite(text, 1, n, to);
        column += n;
        text += n;
        text += strspn(text, " ");
    }
    fputc('\n', to);
}

static void print_option(FILE *to, const df_option *option) {
    fprintf(to, "    %s: %s", option->key, type_word(option));
    if (option->type == DF_OPT_CHOICE) fprintf(to, " %s", option->choices);
    if (option->unit != NULL) fprintf(to, ", %s", option->unit);
    if (option->min < option->max) fprintf(to, ", %.15g to %.15g", option->min, option->max);
    print_default(to, option);
    fputc('\n', to);
    if (option->help != NULL && option->help[0] != '\0') wrap(to, option->help);
}

// Length of "train" in "train.latents", 0 for a key that stands alone.
static size_t group_length(const char *key) {
    const char *dot = strrchr(key, '.');
    return dot == NULL ? 0 : (size_t)(dot - key);
}

void df_options_help(FILE *to, const df_option *options, size_t n_options, const char *section) {
    const char *group = NULL;
    size_t length = section == NULL ? 0 : strlen(section);
    for (size_t i = 0; i < n_options; i++) {
        const char *key = options[i].key;
        if (section != NULL && (strncmp(key, section, length) != 0 || key[length] != '.')) continue;
        size_t n = group_length(key);
        if (n > 0 && (group == NULL || group_length(group) != n || strncmp(group, key, n) != 0))
            fprintf(to, "\n%.*s:\n", (int)n, key);
        group = key;
        print_option(to, &options[i]);
    }
}
