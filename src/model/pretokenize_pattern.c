/* Patterns of a tokenizer.json. They are written for Oniguruma; what PCRE2 is known to read
 * otherwise is translated: \s is Unicode White_Space there (PCRE2 adds U+180E); \w is Alphabetic,
 * marks, digits and connectors (PCRE2: letters and numbers), outside classes also the raised and
 * broken numbers of Latin-1, and \b follows it; \h is a hexadecimal digit; ^ and $ stand at every
 * line; {,n} counts from 0; the flag m lets a dot match line ends (s in PCRE2). Refused are: a
 * class within a class, \W and \H within a class, a `+` behind {n,m} (repeats there, possessive in
 * PCRE2), \Q, \E, (*...), flags but i, m and x, flags within a pattern that reach over a |, and \G,
 * since a text is searched in parts. A difference that stays: without regard to case, Oniguruma
 * matches a character also with the several that it folds to (U+00DF with ss), PCRE2 does not. */
#include "tokenizer_parts.h"

#include <string.h>

#define WHITE_SPACE                                                                                \
    "\\t-\\r\\x20\\x85\\xa0\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{"   \
    "3000}"
// Alphabetic beyond letters, letter numbers and marks: letters in circles and squares.
#define WORD                                                                                       \
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}\\x{1f150}-\\x{"     \
    "1f169}"                                                                                       \
    "\\x{1f170}-\\x{1f189}"
#define LONE_WORD WORD "\\xb2\\xb3\\xb9\\xbc-\\xbe"
#define HEX "0-9a-fA-F"
#define AFTER_WORD "(?<=[" LONE_WORD "])"
#define BEFORE_WORD "(?=[" LONE_WORD "])"
#define NOT_AFTER_WORD "(?<![" LONE_WORD "])"
#define NOT_BEFORE_WORD "(?![" LONE_WORD "])"

static df_status add(df_bytes *out, const char *text) {
    return df_bytes_add(out, text, strlen(text));
}

/* What an escape becomes within a class and outside; NULL: as it is. */
static const struct {
    char letter;
    bool refused; // within a class
    const char *within, *outside;
} escapes[] = {
    {'s', false, WHITE_SPACE, "[" WHITE_SPACE "]"},
    {'S', false, NULL, "[^" WHITE_SPACE "]"},
    {'w', false, WORD, "[" LONE_WORD "]"},
    {'W', true, NULL, "[^" LONE_WORD "]"},
    {'h', false, HEX, "[" HEX "]"},
    {'H', true, NULL, "[^" HEX "]"},
    {'b', false, NULL, "(?:" AFTER_WORD NOT_BEFORE_WORD "|" NOT_AFTER_WORD BEFORE_WORD ")"},
    {'B', false, NULL, "(?:" AFTER_WORD BEFORE_WORD "|" NOT_AFTER_WORD NOT_BEFORE_WORD ")"}};

// Quotes, which Oniguruma does not know, and the place where the search began.
static bool refused_escape(char letter) {
    return letter == 'Q' || letter == 'E' || letter == 'G';
}

// An escape at p; *used is how many bytes of the pattern it takes.
static df_status add_escape(df_bytes *out, const char *p, bool in_class, size_t *used) {
    *used = p[1] == '\0' ? 1 : 2;
    if (refused_escape(p[1]))
        return df_fail(DF_BAD_INPUT, "the pattern has \\%c, which is not supported", p[1]);
    for (size_t i = 0; i < sizeof escapes / sizeof *escapes; i++) {
        if (p[1] != escapes[i].letter) continue;
        const char *text = in_class ? escapes[i].within : escapes[i].outside;
        if (in_class && escapes[i].refused)
            return df_fail(DF_BAD_INPUT,
                           "the pattern has \\%c within a class, which is not supported", p[1]);
        return text != NULL ? add(out, text) : df_bytes_add(out, p, *used);
    }
    return df_bytes_add(out, p, *used);
}

// The length of a counted repetition "{2,3}" at p; 0 for anything else.
static size_t counted(const char *p) {
    size_t n = *p == '{' ? 1 : 0;
    while (n > 0 && ((p[n] >= '0' && p[n] <= '9') || p[n] == ',')) n++;
    return n > 1 && p[n] == '}' ? n + 1 : 0;
}

// The start of a class: "[", "^" and a literal "]" that may follow.
static size_t class_start(const char *p) {
    size_t n = 1;
    if (p[n] == '^') n++;
    if (p[n] == ']') n++;
    return n;
}

// A group with flags at p, up to its ':' or ')'.
static df_status add_flags(df_bytes *out, const char *p, bool first, size_t *used) {
    size_t n = 2;
    DF_TRY(add(out, "(?"));
    for (; p[n] == 'i' || p[n] == 'm' || p[n] == 'x' || p[n] == '-'; n++)
        DF_TRY(df_bytes_add(out, p[n] == 'm' ? "s" : p + n, 1));
    if (p[n] != ':' && p[n] != ')')
        return df_fail(DF_BAD_INPUT, "the pattern has the group %.*s, which is not supported",
                       (int)(p[n] == '\0' ? n : n + 1), p);
    if (p[n] == ')' && !first && strchr(p, '|') != NULL)
        return df_fail(DF_BAD_INPUT, "the pattern has %.*s and a | behind, which is not supported",
                       (int)n + 1, p);
    *used = n;
    return DF_OK;
}

static bool has_flags(const char *p) {
    char c = p[0] == '(' && p[1] == '?' ? p[2] : '\0';
    return c == '-' || c == '^' || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

// What stands at p outside a class and is no escape.
static df_status add_plain(df_bytes *out, const char *p, bool first, size_t *used) {
    size_t count = counted(p);
    if (count > 0 && p[count] == '+')
        return df_fail(DF_BAD_INPUT, "the pattern has a + behind {}, which is not supported");
    if (p[0] == '(' && p[1] == '*')
        return df_fail(DF_BAD_INPUT, "the pattern has (*, which is not supported");
    if (has_flags(p)) return add_flags(out, p, first, used);
    if (*p == '[') *used = class_start(p);
    DF_TRY(df_bytes_add(out, p, *used));
    return count > 3 && p[1] == ',' ? add(out, "0") : DF_OK;
}

static df_status translate(const char *pattern, df_bytes *out) {
    bool in_class = false;
    for (const char *p = pattern; *p != '\0';) {
        size_t used = 1;
        if (*p == '\\') {
            DF_TRY(add_escape(out, p, in_class, &used));
        } else if (in_class) {
            if (*p == '[' || (p[0] == '&' && p[1] == '&'))
                return df_fail(DF_BAD_INPUT,
                               "the pattern has a class within a class, which is not supported");
            in_class = *p != ']';
            DF_TRY(df_bytes_add(out, p, 1));
        } else {
            in_class = *p == '[';
            DF_TRY(add_plain(out, p, p == pattern, &used));
        }
        p += used;
    }
    return DF_OK;
}

// Lines end with \n, whatever this machine's PCRE2 was built for. NULL when out of memory.
static pcre2_compile_context *line_feeds(void) {
    pcre2_compile_context *how = pcre2_compile_context_create(NULL);
    if (how != NULL) pcre2_set_newline(how, PCRE2_NEWLINE_LF);
    return how;
}

static df_status compile(const char *pattern, const df_bytes *text, uint32_t options,
                         pcre2_code **out) {
    pcre2_compile_context *how = line_feeds();
    int code;
    PCRE2_SIZE where;
    if (how == NULL) return df_fail(DF_FAILED, "out of memory for a pattern");
    *out = pcre2_compile((PCRE2_SPTR)text->at, text->count, options, &code, &where, how);
    pcre2_compile_context_free(how);
    if (*out != NULL) {
        (void)pcre2_jit_compile(*out, PCRE2_JIT_COMPLETE); // without a JIT, matching interprets
        return DF_OK;
    }
    PCRE2_UCHAR message[200] = "";
    pcre2_get_error_message(code, message, sizeof message);
    return df_fail(DF_BAD_INPUT, "the pattern %s is not understood: %s", pattern,
                   (const char *)message);
}

df_status df_pattern_compile(const char *pattern, bool literal, pcre2_code **out) {
    uint32_t options = literal ? PCRE2_LITERAL : PCRE2_UCP | PCRE2_MULTILINE;
    df_bytes text = {0};
    df_status status = literal ? add(&text, pattern) : translate(pattern, &text);
    if (status != DF_OK) df_context("reading the pattern %s", pattern);
    if (status == DF_OK && text.count == 0) status = df_fail(DF_BAD_INPUT, "the pattern is empty");
    if (status == DF_OK)
        status = compile(pattern, &text, PCRE2_UTF | PCRE2_USE_OFFSET_LIMIT | options, out);
    df_free(text.at);
    return status;
}
