/* The tokenizer of a model's folder: tokenizer.json, or GPT-2's older pair vocab.json and
 * merges.txt (OPT, early TinyStories), whose special tokens stand in tokenizer_config.json or
 * special_tokens_map.json. The older files are put together into what tokenizer.json would say. */
#include "tokenizer_parts.h"

#include <string.h>

typedef struct folder {
    const char *path;
    json_t *config, *map, *extra; // tokenizer_config, special_tokens_map, added_tokens; or NULL
    json_t *vocab, *merges;
    uint64_t hash;
} folder;

// ---- the files

static df_status missing(const folder *f, const char *file) {
    return df_fail(DF_BAD_INPUT, "%s has neither tokenizer.json nor %s: expected one of them",
                   f->path, file);
}

// The text of a file of the folder, NULL where there is none; its bytes join the hash.
static df_status read_text(folder *f, const char *file, char **text, size_t *bytes) {
    char *path = df_format("%s/%s", f->path, file);
    *text = NULL;
    *bytes = 0;
    if (path == NULL) return DF_FAILED;
    df_status status = df_file_exists(path) ? df_read_file(path, text, bytes) : DF_OK;
    df_free(path);
    f->hash = df_hash_more(f->hash, *text != NULL ? *text : "", *bytes);
    return status;
}

// An object, NULL where there is no such file.
static df_status read_object(folder *f, const char *file, json_t **out) {
    char *text;
    size_t bytes;
    DF_TRY(read_text(f, file, &text, &bytes));
    if (text == NULL) return DF_OK;
    df_status status = df_json_parse(text, bytes, file, out);
    if (status == DF_OK && !json_is_object(*out))
        status = df_fail(DF_BAD_INPUT, "%s does not hold an object", file);
    df_free(text);
    return status;
}

static df_status add_line(json_t *merges, const char *line, size_t n) {
    if (n > 0 && line[n - 1] == '\r') n--;
    if (n == 0 || (n >= 8 && memcmp(line, "#version", 8) == 0)) return DF_OK;
    json_t *merge = json_stringn(line, n);
    if (merge == NULL)
        return df_fail(DF_BAD_INPUT, "merges.txt: merge %zu is not UTF-8", json_array_size(merges));
    if (json_array_append_new(merges, merge) == 0) return DF_OK;
    return df_fail(DF_FAILED, "out of memory for merges.txt");
}

static df_status read_merges(folder *f) {
    char *text;
    size_t bytes;
    DF_TRY(read_text(f, "merges.txt", &text, &bytes));
    if (text == NULL) return missing(f, "merges.txt");
    f->merges = json_array();
    df_status status = f->merges != NULL ? DF_OK : df_fail(DF_FAILED, "out of memory");
    for (const char *line = text; status == DF_OK && line < text + bytes;) {
        size_t left = (size_t)(text + bytes - line);
        const char *newline = memchr(line, '\n', left);
        size_t n = newline != NULL ? (size_t)(newline - line) : left;
        status = add_line(f->merges, line, n);
        line += n + 1;
    }
    df_free(text);
    return status;
}

static df_status read_files(folder *f) {
    DF_TRY(read_object(f, "vocab.json", &f->vocab));
    if (f->vocab == NULL) return missing(f, "vocab.json");
    DF_TRY(read_merges(f));
    DF_TRY(read_object(f, "tokenizer_config.json", &f->config));
    DF_TRY(read_object(f, "special_tokens_map.json", &f->map));
    DF_TRY(read_object(f, "added_tokens.json", &f->extra));
    if (f->config != NULL || f->map != NULL || f->extra != NULL) return DF_OK;
    if (json_object_get(f->vocab, "<|endoftext|>") != NULL) return DF_OK;
    return df_fail(DF_BAD_INPUT,
                   "%s: vocab.json and merges.txt need tokenizer_config.json (or "
                   "special_tokens_map.json), which says what tokens are special",
                   f->path);
}

// ---- added tokens

// "text" or {"content": "text", ...}; NULL for anything else.
static const char *content_of(const json_t *value) {
    return json_string_value(json_is_object(value) ? json_object_get(value, "content") : value);
}

static df_status add_token(const folder *f, json_t *list, const json_t *value, bool special) {
    const char *content = content_of(value);
    if (content == NULL || *content == '\0') return DF_OK;
    for (size_t i = 0; i < json_array_size(list); i++)
        if (strcmp(json_string_value(json_object_get(json_array_get(list, i), "content")),
                   content) == 0)
            return DF_OK;
    const json_t *id = json_object_get(f->vocab, content);
    if (id == NULL) id = json_object_get(f->extra, content);
    if (!json_is_integer(id))
        return df_fail(DF_BAD_INPUT, "%s: the special token \"%.80s\" is not in the vocabulary",
                       f->path, content);
    json_t *token = json_pack("{s:I,s:s,s:b,s:b,s:b,s:b}", "id", json_integer_value(id), "content",
                              content, "special", special, "normalized", 0, "lstrip",
                              json_is_true(json_object_get(value, "lstrip")), "rstrip",
                              json_is_true(json_object_get(value, "rstrip")));
    if (token != NULL && json_array_append_new(list, token) == 0) return DF_OK;
    return df_fail(DF_FAILED, "out of memory for added tokens");
}

// Keys that end in "_token" name one special token each.
static df_status add_named(const folder *f, json_t *list, json_t *object) {
    static const char end[] = "_token";
    const char *key;
    json_t *value;
    json_object_foreach(object, key, value) {
        size_t n = strlen(key), m = sizeof end - 1;
        if (n > m && strcmp(key + n - m, end) == 0) DF_TRY(add_token(f, list, value, true));
    }
    const json_t *more = json_object_get(object, "additional_special_tokens");
    for (size_t i = 0; i < json_array_size(more); i++)
        DF_TRY(add_token(f, list, json_array_get(more, i), true));
    return DF_OK;
}

static df_status add_extra(const folder *f, json_t *list) {
    const char *content;
    json_t *id;
    json_object_foreach(f->extra, content, id) {
        json_t *text = json_string(content);
        df_status status = text != NULL ? add_token(f, list, text, false) : DF_FAILED;
        json_decref(text);
        DF_TRY(status);
    }
    return DF_OK;
}

static df_status list_added(const folder *f, json_t *list) {
    DF_TRY(add_named(f, list, f->config));
    DF_TRY(add_named(f, list, f->map));
    DF_TRY(add_extra(f, list));
    if (f->config != NULL || f->map != NULL) return DF_OK;
    json_t *end = json_string("<|endoftext|>");
    df_status status = end != NULL ? DF_OK : df_fail(DF_FAILED, "out of memory");
    if (json_object_get(f->vocab, "<|endoftext|>") != NULL) status = add_token(f, list, end, true);
    json_decref(end);
    return status;
}

// ---- what tokenizer.json would say

static bool says(const folder *f, const char *key) {
    return json_is_true(json_object_get(f->config, key));
}

static df_status check_class(const folder *f) {
    const char *name = json_string_value(json_object_get(f->config, "tokenizer_class"));
    if (name == NULL || strcmp(name, "GPT2Tokenizer") == 0 ||
        strcmp(name, "GPT2TokenizerFast") == 0)
        return DF_OK;
    return df_fail(DF_BAD_INPUT,
                   "%s: tokenizer_class is \"%s\", which vocab.json and merges.txt do not "
                   "describe: expected tokenizer.json",
                   f->path, name);
}

// The template of add_bos_token, NULL without one.
static df_status template_of(const folder *f, json_t **out) {
    const char *bos = content_of(json_object_get(f->config, "bos_token"));
    *out = json_null();
    if (!says(f, "add_bos_token")) return DF_OK;
    if (bos == NULL) bos = content_of(json_object_get(f->map, "bos_token"));
    const json_t *id = bos != NULL ? json_object_get(f->vocab, bos) : NULL;
    if (!json_is_integer(id))
        return df_fail(DF_BAD_INPUT, "%s: add_bos_token is set, but bos_token is no known token",
                       f->path);
    *out = json_pack("{s:s,s:[{s:{s:s}},{s:{s:s}}],s:{s:{s:[I]}}}", "type", "TemplateProcessing",
                     "single", "SpecialToken", "id", bos, "Sequence", "id", "A", "special_tokens",
                     bos, "ids", json_integer_value(id));
    return *out != NULL ? DF_OK : df_fail(DF_FAILED, "out of memory for the template");
}

static df_status assemble(const folder *f, json_t **out) {
    json_t *added = json_array(), *template = NULL;
    df_status status = added != NULL ? DF_OK : df_fail(DF_FAILED, "out of memory");
    if (status == DF_OK) status = check_class(f);
    if (status == DF_OK) status = list_added(f, added);
    if (status == DF_OK) status = template_of(f, &template);
    if (status == DF_OK) {
        *out =
            json_pack("{s:O,s:{s:s,s:b},s:o,s:{s:s},s:{s:s,s:O,s:O}}", "added_tokens", added,
                      "pre_tokenizer", "type", "ByteLevel", "add_prefix_space",
                      says(f, "add_prefix_space"), "post_processor", template, "decoder", "type",
                      "ByteLevel", "model", "type", "BPE", "vocab", f->vocab, "merges", f->merges);
        if (*out == NULL) status = df_fail(DF_FAILED, "out of memory for the tokenizer");
    }
    json_decref(added);
    return status;
}

static df_status open_older(const char *path, df_tokenizer **out) {
    folder f = {.path = path};
    json_t *root = NULL;
    df_status status = read_files(&f);
    if (status == DF_OK) status = assemble(&f, &root);
    if (status == DF_OK) status = df_tokenizer_make(root, f.hash, out);
    json_decref(f.config);
    json_decref(f.map);
    json_decref(f.extra);
    json_decref(f.vocab);
    json_decref(f.merges);
    json_decref(root);
    if (status != DF_OK) df_context("reading the tokenizer of %s", path);
    return status;
}

df_status df_tokenizer_open_folder(const char *folder_path, df_tokenizer **out) {
    *out = NULL;
    char *path = df_format("%s/tokenizer.json", folder_path);
    if (path == NULL) return DF_FAILED;
    df_status status =
        df_file_exists(path) ? df_tokenizer_open(path, out) : open_older(folder_path, out);
    df_free(path);
    return status;
}
