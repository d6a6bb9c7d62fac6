/* From the text of a scalar to the value its option row asks for. */
#include "sweep.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SHOWN 80 // how much of a wrong value a message repeats

static df_status wrong(const char *expected, const char *found) {
    bool cut = strlen(found) > SHOWN;
    return df_fail(DF_USAGE, "expected %s, found '%.*s%s'", expected, SHOWN, found,
                   cut ? "..." : "");
}

static bool only_of(const char *text, const char *letters) {
    return text[0] != '\0' && text[strspn(text, letters)] == '\0';
}

// Decimal or scientific notation; no hexadecimal, no infinities.
static bool read_number(const char *text, double *out) {
    if (!only_of(text, "0123456789+-.eE")) return false;
    char *end;
    *out = strtod(text, &end);
    return end != text && *end == '\0' && isfinite(*out);
}

// 1e9 is a fine count of tokens, as long as it is whole and exact.
static bool read_whole(const char *text, int64_t *out) {
    char *end;
    double real;
    if (only_of(text, "0123456789+-")) {
        errno = 0;
        *out = strtoll(text, &end, 10);
        return errno == 0 && end != text && *end == '\0';
    }
    if (!read_number(text, &real) || real != floor(real) || fabs(real) > 0x1p53) return false;
    *out = (int64_t)real;
    return true;
}

static df_status check_range(const df_option *option, double number, const char *text) {
    if (option->min >= option->max) return DF_OK;
    if (number >= option->min && number <= option->max) return DF_OK;
    char expected[120];
    snprintf(expected, sizeof expected, "a value from %.15g to %.15g%s%.40s", option->min,
             option->max, option->unit != NULL ? " " : "",
             option->unit != NULL ? option->unit : "");
    return wrong(expected, text);
}

static df_status read_int(const df_option *option, const char *text, df_value *value) {
    if (!read_whole(text, &value->integer)) return wrong("an integer", text);
    return check_range(option, (double)value->integer, text);
}

static df_status read_real(const df_option *option, const char *text, df_value *value) {
    if (!read_number(text, &value->real)) return wrong("a number", text);
    return check_range(option, value->real, text);
}

static df_status read_bool(const char *text, df_value *value) {
    value->truth = strcmp(text, "true") == 0;
    if (!value->truth && strcmp(text, "false") != 0) return wrong("true or false", text);
    return DF_OK;
}

static bool is_word_of(const char *words, const char *word) {
    size_t length = strlen(word);
    if (length == 0 || strchr(word, ' ') != NULL) return false;
    for (const char *at = words; (at = strstr(at, word)) != NULL; at++) {
        bool starts = at == words || at[-1] == ' ', ends = at[length] == '\0' || at[length] == ' ';
        if (starts && ends) return true;
    }
    return false;
}

static df_status read_choice(const df_option *option, const char *text, df_value *value) {
    if (!is_word_of(option->choices, text)) {
        char expected[400];
        snprintf(expected, sizeof expected, "one of: %s", option->choices);
        return wrong(expected, text);
    }
    value->text = df_strdup(text);
    return value->text == NULL ? DF_FAILED : DF_OK;
}

static df_status read_list(const char *const *texts, size_t n, df_value *value) {
    DF_TRY(DF_NEW(value->items, n));
    for (size_t i = 0; i < n; i++) {
        value->items[i] = df_strdup(texts[i]);
        if (value->items[i] == NULL) return DF_FAILED;
        value->n_items = i + 1;
    }
    return DF_OK;
}

df_status df_value_read(const df_option *option, const char *const *texts, size_t n,
                        df_value *value) {
    if (option->type == DF_OPT_LIST) {
        DF_TRY(read_list(texts, n, value));
        value->set = true;
        return DF_OK;
    }
    df_status status = DF_OK;
    switch (option->type) {
    case DF_OPT_INT:
        status = read_int(option, texts[0], value);
        break;
    case DF_OPT_REAL:
        status = read_real(option, texts[0], value);
        break;
    case DF_OPT_BOOL:
        status = read_bool(texts[0], value);
        break;
    case DF_OPT_CHOICE:
        status = read_choice(option, texts[0], value);
        break;
    case DF_OPT_TEXT:
        value->text = df_strdup(texts[0]);
        status = value->text == NULL ? DF_FAILED : DF_OK;
        break;
    case DF_OPT_LIST:
    case DF_OPT_SWEEP: // df_sweep_read
        break;
    }
    value->set = status == DF_OK;
    return status;
}

void df_value_clear(df_value *value) {
    for (size_t i = 0; i < value->n_items; i++) df_free(value->items[i]);
    df_free(value->items);
    df_free(value->text);
    df_free(value->where);
    df_sweep_free(value->sweep);
    *value = (df_value){0};
}

df_status df_value_copy(const df_value *value, df_value *out) {
    *out = *value;
    out->text = out->where = NULL;
    out->items = NULL;
    out->n_items = 0;
    out->sweep = NULL;
    if (value->text != NULL && (out->text = df_strdup(value->text)) == NULL) return DF_FAILED;
    if (value->where != NULL && (out->where = df_strdup(value->where)) == NULL) return DF_FAILED;
    return read_list((const char *const *)value->items, value->n_items, out);
}

// The shortest decimal that reads back as the same number.
void df_shortest(double value, char out[32]) {
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(out, 32, "%.*g", digits, value);
        if (strtod(out, NULL) == value) return;
    }
}

char *df_value_text(const df_option *option, const df_value *value) {
    char number[32], *text = NULL;
    if (option->type == DF_OPT_INT) return df_format("%" PRId64, value->integer);
    if (option->type == DF_OPT_BOOL) return df_strdup(value->truth ? "true" : "false");
    if (option->type == DF_OPT_REAL) {
        df_shortest(value->real, number);
        return df_strdup(number);
    }
    if (option->type != DF_OPT_LIST) return df_strdup(value->text);
    text = df_strdup("");
    for (size_t i = 0; i < value->n_items && text != NULL; i++) {
        char *longer = df_format("%s%s%s", text, i > 0 ? "+" : "", value->items[i]);
        df_free(text);
        text = longer;
    }
    return text;
}

// Cuts the next item off at a comma and trims its blanks; *rest is NULL behind the last.
static const char *next_item(char **rest) {
    char *item = *rest, *comma = strchr(item, ',');
    *rest = comma != NULL ? comma + 1 : NULL;
    char *end = comma != NULL ? comma : item + strlen(item);
    while (item < end && isspace((unsigned char)*item)) item++;
    while (end > item && isspace((unsigned char)end[-1])) end--;
    *end = '\0';
    return item;
}

static df_status read_commas(const df_option *option, char *text, df_value *value) {
    size_t n = 0, most = 1;
    for (const char *c = text; *c != '\0'; c++) most += *c == ',';
    const char **items;
    DF_TRY(DF_NEW(items, most));
    bool empty = text[strspn(text, " ")] == '\0';
    for (char *rest = empty ? NULL : text; rest != NULL;) items[n++] = next_item(&rest);
    df_status status = df_value_read(option, items, n, value);
    df_free(items);
    return status;
}

df_status df_value_read_one(const df_option *option, const char *text, df_value *value) {
    if (option->type != DF_OPT_LIST) return df_value_read(option, &text, 1, value);
    char *copy = df_strdup(text);
    if (copy == NULL) return DF_FAILED;
    df_status status = read_commas(option, copy, value);
    df_free(copy);
    return status;
}
