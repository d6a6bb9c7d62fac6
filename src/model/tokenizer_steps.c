/* Compiling the normalizer and the pre-tokenizer of a tokenizer.json into flat programs of steps.
 */
#include "tokenizer_parts.h"

#include <string.h>

#define GPT2_PATTERN                                                                               \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
#define PUNCTUATION_PATTERN "[!-/:-@\\[-`{-~\\p{P}]"
#define NUMBER_PATTERN "\\p{N}"
// \w of this pre-tokenizer counts joiners, that of patterns does not.
#define WORDS_PATTERN "[\\w\\x{200c}\\x{200d}]+|[^\\w\\x{200c}\\x{200d}\\s]+"
#define SPACE_MARK "\xe2\x96\x81"

static df_status add_step(df_steps *steps, df_step_kind kind, df_step **out) {
    if (steps->count == steps->capacity) {
        void *p = steps->at;
        DF_TRY(df_grow(&p, &steps->capacity, steps->count + 4, sizeof *steps->at));
        steps->at = p;
    }
    *out = &steps->at[steps->count++];
    **out = (df_step){.kind = kind};
    return DF_OK;
}

static df_status add_prepend(df_steps *steps, const char *text, bool unless_present,
                             bool first_only) {
    df_step *step;
    if (*text == '\0') return DF_OK;
    DF_TRY(add_step(steps, DF_STEP_PREPEND, &step));
    step->unless_present = unless_present;
    step->first_only = first_only;
    step->to = df_strdup(text);
    return step->to != NULL ? DF_OK : DF_FAILED;
}

static df_status add_replace(df_steps *steps, const char *from, const char *to) {
    df_step *step;
    if (*from == '\0') return df_fail(DF_BAD_INPUT, "Replace: the pattern is empty");
    DF_TRY(add_step(steps, DF_STEP_REPLACE, &step));
    step->from = df_strdup(from);
    step->to = df_strdup(to);
    return step->from != NULL && step->to != NULL ? DF_OK : DF_FAILED;
}

static df_status add_split(df_steps *steps, const char *pattern, bool literal,
                           df_split_behavior behavior, bool invert) {
    df_step *step;
    DF_TRY(add_step(steps, DF_STEP_SPLIT, &step));
    step->behavior = behavior;
    step->invert = invert;
    return df_pattern_compile(pattern, literal, &step->pattern);
}

df_status df_pattern_read(const json_t *part, const char *what, const char **text, bool *literal) {
    const json_t *pattern = json_object_get(part, "pattern");
    *literal = json_is_string(json_object_get(pattern, "String"));
    const json_t *value = json_object_get(pattern, *literal ? "String" : "Regex");
    if (!json_is_string(value))
        return df_fail(DF_BAD_INPUT, "%s: the pattern is neither a String nor a Regex", what);
    *text = json_string_value(value);
    return DF_OK;
}

static df_status read_behavior(const json_t *part, const char *fallback, df_split_behavior *out) {
    static const char *const names[] = {"Removed", "Isolated", "MergedWithPrevious",
                                        "MergedWithNext", "Contiguous"};
    const char *name;
    DF_TRY(df_json_text_or(part, "pre_tokenizer", "behavior", fallback, &name));
    for (int i = 0; i < 5; i++) {
        if (strcmp(name, names[i]) != 0) continue;
        *out = (df_split_behavior)i;
        return DF_OK;
    }
    return df_fail(DF_BAD_INPUT, "the split behavior \"%s\" is not supported", name);
}

// ---- normalizers

static df_status replace_normalizer(const json_t *part, df_steps *steps) {
    const char *from = NULL, *to;
    bool literal;
    DF_TRY(df_pattern_read(part, "normalizer Replace", &from, &literal));
    DF_TRY(df_json_text(part, "normalizer Replace", "content", &to));
    if (literal) return add_replace(steps, from, to);
    df_step *step;
    DF_TRY(add_step(steps, DF_STEP_REPLACE, &step));
    step->to = df_strdup(to);
    if (step->to == NULL) return DF_FAILED;
    return df_pattern_compile(from, false, &step->pattern);
}

static df_status prepend_normalizer(const json_t *part, df_steps *steps) {
    const char *text;
    DF_TRY(df_json_text(part, "normalizer Prepend", "prepend", &text));
    return add_prepend(steps, text, false, false);
}

static df_status add_form(df_steps *steps, df_normal_form form) {
    df_step *step;
    DF_TRY(add_step(steps, DF_STEP_NORMAL_FORM, &step));
    step->form = form;
    return DF_OK;
}

static df_status nfc_normalizer(const json_t *part, df_steps *steps) {
    (void)part;
    return add_form(steps, DF_NFC);
}

static df_status nfd_normalizer(const json_t *part, df_steps *steps) {
    (void)part;
    return add_form(steps, DF_NFD);
}

static df_status nfkc_normalizer(const json_t *part, df_steps *steps) {
    (void)part;
    return add_form(steps, DF_NFKC);
}

static df_status nfkd_normalizer(const json_t *part, df_steps *steps) {
    (void)part;
    return add_form(steps, DF_NFKD);
}

static df_status lowercase_normalizer(const json_t *part, df_steps *steps) {
    df_step *step;
    (void)part;
    return add_step(steps, DF_STEP_LOWER, &step);
}

static df_status strip_normalizer(const json_t *part, df_steps *steps) {
    df_step *step;
    DF_TRY(add_step(steps, DF_STEP_STRIP, &step));
    DF_TRY(df_json_bool_or(part, "normalizer Strip", "strip_left", true, &step->left));
    return df_json_bool_or(part, "normalizer Strip", "strip_right", true, &step->right);
}

static df_status strip_accents_normalizer(const json_t *part, df_steps *steps) {
    df_step *step;
    (void)part;
    return add_step(steps, DF_STEP_DROP_MARKS, &step);
}

static df_status bert_normalizer(const json_t *part, df_steps *steps) {
    const char *what = "normalizer BertNormalizer";
    bool clean, ideographs, accents, lowercase;
    df_step *step;
    DF_TRY(df_json_bool_or(part, what, "clean_text", true, &clean));
    DF_TRY(df_json_bool_or(part, what, "handle_chinese_chars", true, &ideographs));
    DF_TRY(df_json_bool_or(part, what, "lowercase", true, &lowercase));
    DF_TRY(df_json_bool_or(part, what, "strip_accents", lowercase, &accents));
    if (clean) DF_TRY(add_step(steps, DF_STEP_CLEAN, &step));
    if (ideographs) DF_TRY(add_step(steps, DF_STEP_IDEOGRAPHS, &step));
    if (accents) {
        DF_TRY(add_form(steps, DF_NFD));
        DF_TRY(add_step(steps, DF_STEP_DROP_MARKS, &step));
        step->only_inline = true;
    }
    return lowercase ? add_step(steps, DF_STEP_LOWER, &step) : DF_OK;
}

// ---- pre-tokenizers

static df_status whitespace_pre_tokenizer(const json_t *part, df_steps *steps) {
    (void)part;
    return add_split(steps, WORDS_PATTERN, false, DF_SPLIT_REMOVED, true);
}

static df_status whitespace_split_pre_tokenizer(const json_t *part, df_steps *steps) {
    (void)part;
    return add_split(steps, "\\s", false, DF_SPLIT_REMOVED, false);
}

static df_status bert_pre_tokenizer(const json_t *part, df_steps *steps) {
    DF_TRY(whitespace_split_pre_tokenizer(part, steps));
    return add_split(steps, PUNCTUATION_PATTERN, false, DF_SPLIT_ISOLATED, false);
}

static df_status delimiter_pre_tokenizer(const json_t *part, df_steps *steps) {
    const char *delimiter, *what = "pre_tokenizer CharDelimiterSplit";
    DF_TRY(df_json_text(part, what, "delimiter", &delimiter));
    if (*delimiter == '\0' || df_utf8_length(*delimiter) != strlen(delimiter))
        return df_fail(DF_BAD_INPUT, "%s: the delimiter is not one character", what);
    return add_split(steps, delimiter, true, DF_SPLIT_REMOVED, false);
}

static df_status split_pre_tokenizer(const json_t *part, df_steps *steps) {
    const char *pattern = NULL;
    bool literal, invert;
    df_split_behavior behavior = DF_SPLIT_ISOLATED;
    DF_TRY(df_pattern_read(part, "pre_tokenizer Split", &pattern, &literal));
    DF_TRY(read_behavior(part, "Isolated", &behavior));
    DF_TRY(df_json_bool_or(part, "pre_tokenizer Split", "invert", false, &invert));
    return add_split(steps, pattern, literal, behavior, invert);
}

static df_status digits_pre_tokenizer(const json_t *part, df_steps *steps) {
    bool each;
    DF_TRY(df_json_bool_or(part, "pre_tokenizer Digits", "individual_digits", false, &each));
    return add_split(steps, NUMBER_PATTERN, false, each ? DF_SPLIT_ISOLATED : DF_SPLIT_CONTIGUOUS,
                     false);
}

static df_status punctuation_pre_tokenizer(const json_t *part, df_steps *steps) {
    df_split_behavior behavior = DF_SPLIT_ISOLATED;
    DF_TRY(read_behavior(part, "Isolated", &behavior));
    return add_split(steps, PUNCTUATION_PATTERN, false, behavior, false);
}

static df_status byte_level_pre_tokenizer(const json_t *part, df_steps *steps) {
    bool prefix, pattern;
    df_step *step;
    DF_TRY(df_json_bool_or(part, "pre_tokenizer ByteLevel", "add_prefix_space", true, &prefix));
    DF_TRY(df_json_bool_or(part, "pre_tokenizer ByteLevel", "use_regex", true, &pattern));
    if (df_steps_have(steps, DF_STEP_BYTES))
        return df_fail(DF_BAD_INPUT, "pre_tokenizer: a second ByteLevel is not supported");
    if (prefix) DF_TRY(add_prepend(steps, " ", true, false));
    if (pattern) DF_TRY(add_split(steps, GPT2_PATTERN, false, DF_SPLIT_ISOLATED, false));
    return add_step(steps, DF_STEP_BYTES, &step);
}

df_status df_metaspace_scheme(const json_t *part, const char *what, const char **scheme) {
    bool prefix;
    DF_TRY(df_json_bool_or(part, what, "add_prefix_space", true, &prefix));
    DF_TRY(df_json_text_or(part, what, "prepend_scheme", prefix ? "always" : "never", scheme));
    bool never = strcmp(*scheme, "never") == 0;
    if (!never && strcmp(*scheme, "first") != 0 && strcmp(*scheme, "always") != 0)
        return df_fail(DF_BAD_INPUT, "%s: prepend_scheme \"%s\" is not supported", what, *scheme);
    if (prefix || never) return DF_OK;
    return df_fail(DF_BAD_INPUT, "%s: prepend_scheme is \"%s\", but add_prefix_space is false",
                   what, *scheme);
}

static df_status metaspace_pre_tokenizer(const json_t *part, df_steps *steps) {
    const char *mark, *scheme, *what = "pre_tokenizer Metaspace";
    bool split;
    DF_TRY(df_json_text_or(part, what, "replacement", SPACE_MARK, &mark));
    DF_TRY(df_metaspace_scheme(part, what, &scheme));
    DF_TRY(df_json_bool_or(part, what, "split", true, &split));
    bool first = strcmp(scheme, "first") == 0, never = strcmp(scheme, "never") == 0;
    if (*mark == '\0') return df_fail(DF_BAD_INPUT, "%s: the replacement is empty", what);
    if (df_steps_have(steps, DF_STEP_BYTES))
        return df_fail(DF_BAD_INPUT, "%s after ByteLevel is not supported", what);
    DF_TRY(add_replace(steps, " ", mark));
    if (!never) DF_TRY(add_prepend(steps, mark, true, first));
    return split ? add_split(steps, mark, true, DF_SPLIT_NEXT, false) : DF_OK;
}

// ---- dispatch

typedef struct part_kind {
    const char *type;
    df_status (*compile)(const json_t *part, df_steps *steps);
} part_kind;

static const part_kind normalizers[] = {{"Prepend", prepend_normalizer},
                                        {"Replace", replace_normalizer},
                                        {"NFC", nfc_normalizer},
                                        {"NFD", nfd_normalizer},
                                        {"NFKC", nfkc_normalizer},
                                        {"NFKD", nfkd_normalizer},
                                        {"Lowercase", lowercase_normalizer},
                                        {"Strip", strip_normalizer},
                                        {"StripAccents", strip_accents_normalizer},
                                        {"BertNormalizer", bert_normalizer},
                                        {NULL, NULL}};

static const part_kind pre_tokenizers[] = {{"Split", split_pre_tokenizer},
                                           {"ByteLevel", byte_level_pre_tokenizer},
                                           {"Digits", digits_pre_tokenizer},
                                           {"Punctuation", punctuation_pre_tokenizer},
                                           {"Metaspace", metaspace_pre_tokenizer},
                                           {"Whitespace", whitespace_pre_tokenizer},
                                           {"WhitespaceSplit", whitespace_split_pre_tokenizer},
                                           {"BertPreTokenizer", bert_pre_tokenizer},
                                           {"CharDelimiterSplit", delimiter_pre_tokenizer},
                                           {NULL, NULL}};

// `list`: the key of a Sequence's members, "normalizers" or "pretokenizers".
static df_status compile(const json_t *part, const part_kind *kinds, const char *what,
                         const char *list, df_steps *steps) {
    const char *type;
    if (part == NULL || json_is_null(part)) return DF_OK;
    if (!json_is_object(part)) return df_fail(DF_BAD_INPUT, "%s is not an object", what);
    DF_TRY(df_json_text(part, what, "type", &type));
    if (strcmp(type, "Sequence") == 0) {
        const json_t *members = json_object_get(part, list);
        if (!json_is_array(members))
            return df_fail(DF_BAD_INPUT, "%s Sequence: %s is not a list", what, list);
        for (size_t i = 0; i < json_array_size(members); i++)
            DF_TRY(compile(json_array_get(members, i), kinds, what, list, steps));
        return DF_OK;
    }
    for (; kinds->type != NULL; kinds++)
        if (strcmp(type, kinds->type) == 0) return kinds->compile(part, steps);
    return df_fail(DF_BAD_INPUT, "%s \"%s\" is not supported", what, type);
}

df_status df_steps_normalizer(const json_t *part, df_steps *steps) {
    return compile(part, normalizers, "normalizer", "normalizers", steps);
}

df_status df_steps_pre_tokenizer(const json_t *part, df_steps *steps) {
    return compile(part, pre_tokenizers, "pre_tokenizer", "pretokenizers", steps);
}

bool df_steps_have(const df_steps *steps, df_step_kind kind) {
    for (size_t i = 0; i < steps->count; i++)
        if (steps->at[i].kind == kind) return true;
    return false;
}

void df_steps_free(df_steps *steps) {
    for (size_t i = 0; i < steps->count; i++) {
        df_free(steps->at[i].from);
        df_free(steps->at[i].to);
        pcre2_code_free(steps->at[i].pattern);
    }
    df_free(steps->at);
    *steps = (df_steps){0};
}
