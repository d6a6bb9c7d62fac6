/* A job file that reproduces the run, written so that reading it gives the same values. */
#include "sweep.h"

#include <string.h>
#include <strings.h>

typedef struct writer {
    const df_job *job;
    const char *sections; /* NULL: all */
    bool volatile_part;
    char *text;
    size_t used, capacity;
} writer;

// ---- text --------------------------------------------------------------------------------------

static df_status put(writer *w, const char *bytes, size_t n) {
    DF_TRY(df_grow((void **)&w->text, &w->capacity, w->used + n + 1, 1));
    memcpy(w->text + w->used, bytes, n);
    w->used += n;
    w->text[w->used] = '\0';
    return DF_OK;
}

static df_status put_text(writer *w, const char *text) {
    return put(w, text, strlen(text));
}

static df_status indent(writer *w, size_t level) {
    for (size_t i = 0; i < level; i++) DF_TRY(put_text(w, "  "));
    return DF_OK;
}

// Words that some YAML reader takes for something else than a text.
static bool is_reserved(const char *text) {
    static const char *const words[] = {"true", "false", "yes", "no", "on",
                                        "off",  "null",  "y",   "n"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strcasecmp(text, words[i]) == 0) return true;
    return false;
}

static bool needs_quotes(const char *text) {
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    static const char inner[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./+-";
    bool starts = text[0] == '/' || strncmp(text, "./", 2) == 0 || strncmp(text, "../", 3) == 0 ||
                  (text[0] != '\0' && strchr(letters, text[0]) != NULL);
    return !starts || text[strspn(text, inner)] != '\0' || is_reserved(text);
}

// Decodes one character of valid UTF-8 and says how many bytes it takes.
static size_t decode(const unsigned char *s, uint32_t *code) {
    size_t n = s[0] < 0x80 ? 1 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
    *code = n == 1 ? s[0] : s[0] & (0xffu >> (n + 1));
    for (size_t i = 1; i < n; i++) {
        if (s[i] == '\0') return i; // cannot happen in valid text; never step over the end
        *code = *code << 6 | (s[i] & 0x3fu);
    }
    return n;
}

// What a double-quoted scalar cannot hold as it is: controls, odd line breaks, byte order marks,
// non-characters.
static bool needs_escape(uint32_t c) {
    return c < 0x20 || (c >= 0x7f && c <= 0xa0) || c == 0x2028 || c == 0x2029 || c == 0xfeff ||
           c == 0xfffe || c == 0xffff || c >= 0x10000;
}

static df_status put_quoted(writer *w, const char *text) {
    DF_TRY(put_text(w, "\""));
    while (*text != '\0') {
        uint32_t code;
        char escape[16];
        size_t n = decode((const unsigned char *)text, &code);
        if (code == '"' || code == '\\') DF_TRY(put_text(w, "\\"));
        if (needs_escape(code)) {
            snprintf(escape, sizeof escape, code < 0x100 ? "\\x%02X" : "\\U%08X", code);
            DF_TRY(put_text(w, escape));
        } else {
            DF_TRY(put(w, text, n));
        }
        text += n;
    }
    return put_text(w, "\"");
}

static df_status put_scalar(writer *w, const char *text) {
    return needs_quotes(text) ? put_quoted(w, text) : put_text(w, text);
}

// ---- values and sections -----------------------------------------------------------------------

static df_status put_list(writer *w, const df_value *value, size_t level) {
    if (value->n_items == 0) return put_text(w, " []\n");
    DF_TRY(put_text(w, "\n"));
    for (size_t i = 0; i < value->n_items; i++) {
        DF_TRY(indent(w, level + 1));
        DF_TRY(put_text(w, "- "));
        DF_TRY(put_scalar(w, value->items[i]));
        DF_TRY(put_text(w, "\n"));
    }
    return DF_OK;
}

static df_status put_items(writer *w, const df_value *value) {
    DF_TRY(put_text(w, "["));
    for (size_t i = 0; i < value->n_items; i++) {
        DF_TRY(put_text(w, i > 0 ? ", " : ""));
        DF_TRY(put_scalar(w, value->items[i]));
    }
    return put_text(w, "]");
}

/* A value on one line: of a sweep, or of an option that is no list. */
static df_status put_inline(writer *w, const df_option *option, const df_value *value) {
    if (option->type == DF_OPT_LIST) return put_items(w, value);
    bool quoted = option->type == DF_OPT_TEXT || option->type == DF_OPT_CHOICE;
    char *text = df_value_text(option, value);
    df_status status = text == NULL ? DF_FAILED : quoted ? put_scalar(w, text) : put_text(w, text);
    df_free(text);
    return status;
}

/* "k: [4, 8]", or "k: 4" in a list of members. */
static df_status put_key(writer *w, const df_sweep_key *key, bool is_list) {
    const df_option *option = &w->job->options[key->option];
    DF_TRY(put_text(w, strrchr(option->key, '.') + 1));
    DF_TRY(put_text(w, is_list ? ": " : ": ["));
    for (size_t v = 0; v < key->n; v++) {
        DF_TRY(put_text(w, v > 0 ? ", " : ""));
        DF_TRY(put_inline(w, option, &key->value[v]));
    }
    return put_text(w, is_list ? "" : "]");
}

static df_status put_entry(writer *w, const df_sweep_entry *entry, bool is_list) {
    DF_TRY(put_text(w, "{"));
    if (entry->name != NULL) {
        DF_TRY(put_text(w, "name: "));
        DF_TRY(put_scalar(w, entry->name));
    }
    for (size_t k = 0; k < entry->n; k++) {
        DF_TRY(put_text(w, k > 0 || entry->name != NULL ? ", " : ""));
        DF_TRY(put_key(w, &entry->key[k], is_list));
    }
    return put_text(w, "}");
}

static df_status put_sweep(writer *w, const df_sweep *sweep) {
    DF_TRY(put_text(w, sweep->is_list ? " [" : " "));
    for (size_t e = 0; e < sweep->n; e++) {
        DF_TRY(put_text(w, e > 0 ? ", " : ""));
        DF_TRY(put_entry(w, &sweep->entry[e], sweep->is_list));
    }
    return put_text(w, sweep->is_list ? "]\n" : "\n");
}

static df_status put_value(writer *w, size_t option, size_t level) {
    const df_value *value = &w->job->values[option];
    df_option_type type = w->job->options[option].type;
    if (type == DF_OPT_LIST) return put_list(w, value, level);
    if (type == DF_OPT_SWEEP) return put_sweep(w, value->sweep);
    DF_TRY(put_text(w, " "));
    DF_TRY(put_inline(w, &w->job->options[option], value));
    return put_text(w, "\n");
}

static bool names_section(const char *sections, const char *key) {
    size_t length = strcspn(key, ".");
    for (const char *at = sections; *at != '\0';) {
        size_t n = strcspn(at, " ");
        if (n == length && strncmp(at, key, n) == 0) return true;
        at += n;
        at += strspn(at, " ");
    }
    return false;
}

static bool is_wanted(const writer *w, size_t i, const char *prefix, size_t length) {
    const df_option *option = &w->job->options[i];
    return w->job->values[i].set && option->is_volatile == w->volatile_part &&
           strncmp(option->key, prefix, length) == 0 &&
           (w->sections == NULL || names_section(w->sections, option->key));
}

// Whether option i is the first wanted one whose key begins with the same `length` characters.
static bool is_first(const writer *w, size_t i, size_t length) {
    for (size_t j = 0; j < i; j++)
        if (is_wanted(w, j, w->job->options[i].key, length)) return false;
    return true;
}

// Writes what stands below key[0..length), "a.b." at level 2. A section comes where its first key
// stands.
static df_status put_section(writer *w, const char *prefix, size_t length, size_t level) {
    for (size_t i = 0; i < w->job->n_options; i++) {
        if (!is_wanted(w, i, prefix, length)) continue;
        const char *key = w->job->options[i].key, *part = key + length;
        size_t n = strcspn(part, ".");
        bool is_section = part[n] == '.';
        if (is_section && !is_first(w, i, length + n + 1)) continue;
        DF_TRY(indent(w, level));
        DF_TRY(put(w, part, n));
        DF_TRY(put_text(w, is_section ? ":\n" : ":"));
        if (is_section)
            DF_TRY(put_section(w, key, length + n + 1, level + 1));
        else
            DF_TRY(put_value(w, i, level));
    }
    return DF_OK;
}

char *df_job_resolved(const df_job *job, const char *sections, bool volatile_part) {
    writer w = {.job = job, .sections = sections, .volatile_part = volatile_part};
    if (put_text(&w, "") == DF_OK && put_section(&w, "", 0, 0) == DF_OK) return w.text;
    df_free(w.text);
    return NULL;
}
