/* The option table: a job's life, its values by key, and --set. */
#include "sweep.h"

#include <assert.h>
#include <string.h>

size_t df_option_find(const df_option *options, size_t n, const char *key) {
    size_t i = 0;
    while (i < n && strcmp(options[i].key, key) != 0) i++;
    return i;
}

bool df_option_is_section(const df_option *options, size_t n, const char *section) {
    size_t length = strlen(section);
    for (size_t i = 0; i < n; i++)
        if (strncmp(options[i].key, section, length) == 0 && options[i].key[length] == '.')
            return true;
    return false;
}

df_status df_fail_at(df_status code, const char *where, const char *key) {
    return df_fail(code, "%s: %s: %s", where, key, df_error_text());
}

// ---- life --------------------------------------------------------------------------------------

static df_status set_defaults(df_job *job) {
    for (size_t i = 0; i < job->n_options; i++) {
        const df_option *option = &job->options[i];
        if (option->fallback == NULL) continue;
        df_status status = df_value_read_one(option, option->fallback, &job->values[i]);
        if (status != DF_OK)
            return df_fail_at(DF_FAILED, "default in the option table", option->key);
    }
    return DF_OK;
}

// Texts end in attributes and messages, which are UTF-8. The command line can hold anything.
static bool is_utf8(const char *text) {
    json_t *string = json_string(text);
    bool valid = string != NULL;
    json_decref(string);
    return valid;
}

/* The value of option i in `text`; a sweep's is YAML. */
static df_status read_text(const df_job *job, size_t i, const char *text, df_value *value) {
    df_yaml tree = {0};
    if (job->options[i].type != DF_OPT_SWEEP)
        return df_value_read_one(&job->options[i], text, value);
    df_status status = df_yaml_read(job, text, &tree);
    if (status == DF_OK) status = df_sweep_read(job, i, &tree, false, value);
    df_yaml_clear(&tree);
    return status;
}

/* Reads text into option i as if it had been given at `where`. */
static df_status replace(df_job *job, size_t i, const char *text, const char *where) {
    df_value value = {0};
    df_status status = read_text(job, i, text, &value);
    bool told = job->options[i].type == DF_OPT_SWEEP; // by its own messages
    if (status != DF_OK) {
        if (!told) status = df_fail_at(status, where, job->options[i].key);
    } else {
        value.where = df_strdup(where);
        if (value.where == NULL) status = DF_FAILED;
    }
    if (status != DF_OK) {
        df_value_clear(&value);
        return status;
    }
    df_value_clear(&job->values[i]);
    job->values[i] = value;
    return DF_OK;
}

static df_status set_value(df_job *job, const char *key, const char *text) {
    size_t i = df_option_find(job->options, job->n_options, key);
    if (df_option_is_section(job->options, job->n_options, key))
        return df_fail(DF_USAGE, "--set: '%s' is a section; set one of its keys", key);
    if (i == job->n_options) return df_unknown_key(job, "--set", key);
    if (!is_utf8(text)) return df_fail(DF_USAGE, "--set: %s: the value is not valid UTF-8", key);
    return replace(job, i, text, "--set");
}

static df_status apply_set(df_job *job, const char *text) {
    const char *equals = strchr(text, '=');
    if (equals == NULL || equals == text)
        return df_fail(DF_USAGE, "--set: expected KEY=VALUE, found '%.80s'", text);
    char *key = df_format("%.*s", (int)(equals - text), text);
    if (key == NULL) return DF_FAILED;
    df_status status = set_value(job, key, equals + 1);
    df_free(key);
    return status;
}

df_status df_job_parse(const char *path, const char *text, size_t bytes, const df_option *options,
                       size_t n_options, const char *const *sets, size_t n_sets, df_job **out) {
    df_status status = DF_OK;
    df_job *job = NULL;
    *out = NULL;
    DF_GO(DF_NEW(job, 1));
    job->options = options;
    job->n_options = n_options;
    DF_GO(DF_NEW(job->values, n_options));
    job->path = df_strdup(path);
    DF_GO(job->path == NULL ? DF_FAILED : DF_OK);
    DF_GO(set_defaults(job));
    DF_GO(df_job_read_yaml(job, text, bytes));
    for (size_t i = 0; i < n_sets; i++) DF_GO(apply_set(job, sets[i]));
    *out = job;
    return DF_OK;
done:
    df_job_free(job);
    return status;
}

df_status df_job_presume(df_job *job, const char *key, const char *text, const char *where) {
    size_t i = df_option_find(job->options, job->n_options, key);
    if (i == job->n_options) return df_unknown_key(job, where, key);
    if (job->values[i].where != NULL) return DF_OK;
    DF_TRY(replace(job, i, text, where));
    job->values[i].presumed = true;
    return DF_OK;
}

df_status df_job_copy(const df_job *job, df_job **out) {
    df_status status = DF_OK;
    df_job *copy = NULL;
    *out = NULL;
    DF_GO(DF_NEW(copy, 1));
    copy->options = job->options;
    copy->n_options = job->n_options;
    DF_GO(DF_NEW(copy->values, job->n_options));
    copy->path = df_strdup(job->path);
    DF_GO(copy->path == NULL ? DF_FAILED : DF_OK);
    DF_GO(set_defaults(copy));
    for (size_t i = 0; i < job->n_options; i++) {
        const df_value *value = &job->values[i];
        if (value->where == NULL || value->presumed || value->sweep != NULL) continue;
        df_value_clear(&copy->values[i]);
        DF_GO(df_value_copy(value, &copy->values[i]));
    }
    *out = copy;
    return DF_OK;
done:
    df_job_free(copy);
    return status;
}

void df_job_free(df_job *job) {
    if (job == NULL) return;
    for (size_t i = 0; job->values != NULL && i < job->n_options; i++)
        df_value_clear(&job->values[i]);
    df_free(job->values);
    df_free(job->path);
    df_free(job);
}

// ---- values by key -----------------------------------------------------------------------------

static const df_value *value_of(const df_job *job, const char *key) {
    size_t i = df_option_find(job->options, job->n_options, key);
    assert(i < job->n_options && "the key is not in the option table");
    return &job->values[i];
}

static const df_value *typed(const df_job *job, const char *key, df_option_type type) {
    const df_value *value = value_of(job, key);
    assert(job->options[value - job->values].type == type && "the option has another type");
    (void)type;
    return value;
}

bool df_job_has(const df_job *job, const char *key) {
    return value_of(job, key)->set;
}

int64_t df_job_int(const df_job *job, const char *key) {
    return typed(job, key, DF_OPT_INT)->integer;
}

double df_job_real(const df_job *job, const char *key) {
    return typed(job, key, DF_OPT_REAL)->real;
}

bool df_job_bool(const df_job *job, const char *key) {
    return typed(job, key, DF_OPT_BOOL)->truth;
}

const char *df_job_text(const df_job *job, const char *key) {
    const df_value *value = value_of(job, key);
    df_option_type type = job->options[value - job->values].type;
    assert((type == DF_OPT_TEXT || type == DF_OPT_CHOICE) && "the option has another type");
    (void)type;
    return value->text;
}

size_t df_job_list(const df_job *job, const char *key, const char *const **items) {
    const df_value *value = typed(job, key, DF_OPT_LIST);
    *items = (const char *const *)value->items;
    return value->n_items;
}

const char *df_job_where(const df_job *job, const char *key) {
    const df_value *value = value_of(job, key);
    return value->where != NULL ? value->where : "default";
}

df_status df_job_require(const df_job *job, const char *section) {
    size_t length = strlen(section);
    for (size_t i = 0; i < job->n_options; i++) {
        const df_option *option = &job->options[i];
        bool inside =
            strcspn(option->key, ".") == length && strncmp(option->key, section, length) == 0;
        if (inside && !job->values[i].set && !option->optional)
            return df_fail(DF_USAGE, "%s: '%s' must be given: %s", job->path, option->key,
                           option->help != NULL ? option->help : "it has no default");
    }
    return DF_OK;
}
