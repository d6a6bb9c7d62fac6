/* Pieces that the families share: files, configs, the list of tensors. */
#include "exchange.h"

#include <stdlib.h>
#include <string.h>

df_status exchange_add(exchange *x, const char *name, size_t number, exchange_role role,
                       const char *axes) {
    if (x->tensors == EXCHANGE_TENSORS)
        return df_fail(DF_BAD_INPUT, "%s: more than %d tensors", x->folder, EXCHANGE_TENSORS);
    if (x->tensor == NULL) DF_TRY(DF_NEW(x->tensor, EXCHANGE_TENSORS));
    exchange_tensor *t = &x->tensor[x->tensors++];
    *t = (exchange_tensor){.role = role, .axes = axes, .part = EXCHANGE_ALL, .type = DF_F32};
    const char *star = strchr(name, '*'); // stands for the number
    size_t head = star != NULL ? (size_t)(star - name) : strlen(name);
    if (star != NULL)
        snprintf(t->name, sizeof t->name, "%.*s%zu%s", (int)head, name, number, star + 1);
    else
        snprintf(t->name, sizeof t->name, "%s", name);
    return DF_OK;
}

exchange_tensor *exchange_last(const exchange *x) {
    return &x->tensor[x->tensors - 1];
}

static char *path_of(const char *folder, const char *name) {
    return name[0] == '\0' ? df_strdup(folder) : df_format("%s/%s", folder, name);
}

bool exchange_has(const char *folder, const char *name) {
    char *path = path_of(folder, name);
    bool there = path != NULL && df_file_exists(path);
    df_free(path);
    return there;
}

df_status exchange_open_file(exchange *x, const char *name) {
    if (x->files == EXCHANGE_FILES)
        return df_fail(DF_BAD_INPUT, "%s: more than %d files", x->folder, EXCHANGE_FILES);
    char *path = path_of(x->folder, name);
    if (path == NULL) return DF_FAILED;
    df_status status = df_tensors_open(path, &x->file[x->files]);
    if (status == DF_OK)
        x->file_name[x->files++] = path;
    else
        df_free(path);
    return status;
}

const df_tensor *exchange_find(const exchange *x, const char *name) {
    for (size_t i = 0; i < x->files; i++) {
        const df_tensor *found = df_tensors_find(x->file[i], name);
        if (found != NULL) return found;
    }
    return NULL;
}

df_status exchange_config(exchange *x, const char *name, json_t **out) {
    char *path = path_of(x->folder, name);
    size_t bytes;
    *out = NULL;
    if (path == NULL) return DF_FAILED;
    df_status status = df_read_file(path, &x->config, &bytes);
    if (status == DF_OK) status = df_json_parse(x->config, bytes, path, out);
    if (status == DF_OK && !json_is_object(*out)) {
        json_decref(*out);
        *out = NULL;
        status = df_fail(DF_BAD_INPUT, "%s: expected an object", path);
    }
    df_free(path);
    return status;
}

df_status exchange_name(char **to, const char *text) {
    char *copy = df_strdup(text);
    if (copy == NULL) return DF_FAILED;
    df_free(*to);
    *to = copy;
    return DF_OK;
}

// A key that is null is one that is left out: its line is blanked.
static void drop_nulls(char *text) {
    for (char *line = text; *line != '\0';) {
        size_t n = strcspn(line, "\n");
        if (n >= 6 && strncmp(line + n - 6, ": null", 6) == 0) memset(line, ' ', n);
        line += n + (line[n] == '\n');
    }
}

df_status exchange_yaml(exchange *x, const char *name, const df_option *keys, size_t n,
                        df_job **job) {
    size_t bytes;
    *job = NULL;
    if (!exchange_has(x->folder, name)) return DF_OK;
    char *path = path_of(x->folder, name);
    df_status status = path != NULL ? df_read_file(path, &x->config, &bytes) : DF_FAILED;
    char *text = status == DF_OK ? df_strdup(x->config) : NULL;
    if (status == DF_OK && text == NULL) status = DF_FAILED;
    if (status == DF_OK) {
        drop_nulls(text);
        status = df_job_parse(path, text, strlen(text), keys, n, NULL, 0, job);
    }
    df_free(text);
    df_free(path);
    return status == DF_USAGE ? DF_BAD_INPUT : status;
}

char *exchange_dump(json_t *root) {
    size_t n = json_dumpb(root, NULL, 0, JSON_INDENT(2));
    char *text = df_alloc(n + 2, 1);
    if (text != NULL) json_dumpb(root, text, n, JSON_INDENT(2));
    if (text != NULL) text[n] = '\n';
    json_decref(root);
    return text;
}

/* ---- keys - */

static bool listed(const char *words, const char *word, char separator) {
    size_t n = strlen(word);
    for (const char *at = words; at != NULL && *at != '\0';) {
        const char *end = strchr(at, separator);
        size_t length = end != NULL ? (size_t)(end - at) : strlen(at);
        if (length == n && strncmp(at, word, n) == 0) return true;
        at = end != NULL ? end + 1 : NULL;
    }
    return false;
}

static bool ignored(const exchange *x, const char *key) {
    for (size_t i = 0; i < x->options->n_ignore; i++)
        if (strcmp(x->options->ignore[i], key) == 0) return true;
    return false;
}

static df_status check_value(const exchange *x, const exchange_key *key, const json_t *value) {
    char *dump = json_is_string(value) ? NULL : json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
    const char *text = json_is_string(value) ? json_string_value(value) : dump;
    df_status status = DF_OK;
    if (text == NULL || !(strcmp(key->allowed, "*") == 0 || listed(key->allowed, text, '|')))
        status = df_fail(DF_BAD_INPUT, "%s: config key \"%s\" is %.60s: %s (understood: %s)",
                         x->folder, key->key, text != NULL ? text : "?", key->why, key->allowed);
    free(dump); // jansson's own memory
    return status;
}

static df_status check_key(const exchange *x, const char *name, const json_t *value,
                           const exchange_key *keys, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (strcmp(keys[i].key, name) == 0)
            return json_is_null(value) ? DF_OK : check_value(x, &keys[i], value);
    return df_fail(
        DF_BAD_INPUT,
        "%s: config key \"%s\" is not known and might change the mathematics; if it does "
        "not: --ignore %s",
        x->folder, name, name);
}

df_status exchange_check_keys(const exchange *x, const json_t *object, const exchange_key *keys,
                              size_t n, const char *harmless) {
    void *at = json_object_iter((json_t *)object);
    for (; at != NULL; at = json_object_iter_next((json_t *)object, at)) {
        const char *name = json_object_iter_key(at);
        if (listed(harmless, name, ' ') || ignored(x, name)) continue;
        DF_TRY(check_key(x, name, json_object_iter_value(at), keys, n));
    }
    return DF_OK;
}

df_status exchange_size(const exchange *x, const json_t *object, const char *key, size_t *to) {
    const json_t *value = json_object_get(object, key);
    if (value == NULL || json_is_null(value)) return DF_OK;
    json_int_t n = json_integer_value(value); // 0 where it is no integer
    if (n < 1 || n > UINT32_MAX)
        return df_fail(DF_BAD_INPUT, "%s: config key \"%s\" is no whole number of 1 and more",
                       x->folder, key);
    *to = (size_t)n;
    return DF_OK;
}
