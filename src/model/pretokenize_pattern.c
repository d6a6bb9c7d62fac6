/* Patterns of a tokenizer.json. They are written for Oniguruma; PCRE2 reads them alike but for two
 * things: \s is Unicode White_Space there (PCRE2 adds U+180E), and a class may hold another class,
 * which is refused here. */
#include "tokenizer_parts.h"

#include <string.h>

#define WHITE_SPACE                                                                                \
    "\\t-\\r\\x20\\x85\\xa0\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{"   \
    "3000}"

static df_status add(df_bytes *out, const char *text) {
    return df_bytes_add(out, text, strlen(text));
}

// An escape at p; *used is how many bytes of the pattern it takes.
static df_status add_escape(df_bytes *out, const char *p, bool in_class, size_t *used) {
    *used = p[1] == '\0' ? 1 : 2;
    if (p[1] == 's') return add(out, in_class ? WHITE_SPACE : "[" WHITE_SPACE "]");
    if (p[1] == 'S' && !in_class) return add(out, "[^" WHITE_SPACE "]");
    return df_bytes_add(out, p, *used);
}

// The start of a class: "[", "^" and a literal "]" that may follow.
static size_t class_start(const char *p) {
    size_t n = 1;
    if (p[n] == '^') n++;
    if (p[n] == ']') n++;
    return n;
}

static df_status translate(const char *pattern, df_bytes *out) {
    bool in_class = false;
    for (const char *p = pattern; *p != '\0';) {
        size_t used = 1;
        if (*p == '\\') {
            DF_TRY(add_escape(out, p, in_class, &used));
        } else if (in_class && (*p == '[' || (p[0] == '&' && p[1] == '&'))) {
            return df_fail(DF_BAD_INPUT,
                           "the pattern %s has a class within a class, which is not "
                           "supported",
                           pattern);
        } else {
            if (*p == '[') used = class_start(p);
            in_class = *p == '[' || (in_class && *p != ']');
            DF_TRY(df_bytes_add(out, p, used));
        }
        p += used;
    }
    return DF_OK;
}

df_status df_pattern_compile(const char *pattern, bool literal, pcre2_code **out) {
    df_bytes text = {0};
    int code;
    PCRE2_SIZE where;
    df_status status = DF_OK;
    DF_GO(literal ? add(&text, pattern) : translate(pattern, &text));
    DF_GO(text.count > 0 ? DF_OK : df_fail(DF_BAD_INPUT, "the pattern is empty"));
    uint32_t options = PCRE2_UTF | (literal ? PCRE2_LITERAL : PCRE2_UCP);
    *out = pcre2_compile((PCRE2_SPTR)text.at, text.count, options, &code, &where, NULL);
    if (*out == NULL) {
        PCRE2_UCHAR message[200] = "";
        pcre2_get_error_message(code, message, sizeof message);
        status = df_fail(DF_BAD_INPUT, "the pattern %s is not understood: %s", pattern,
                         (const char *)message);
        goto done;
    }
    (void)pcre2_jit_compile(*out, PCRE2_JIT_COMPLETE); // where there is no JIT, matching interprets
done:
    df_free(text.at);
    return status;
}
