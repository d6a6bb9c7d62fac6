/* Sweeps: from YAML to the jobs of the members. */
#include "sweep.h"

#include <inttypes.h>
#include <string.h>

enum { MOST_MEMBERS = 256, LONGEST_NAME = 80 };

typedef struct reader {
    const df_job *job;
    size_t option; // the sweep's row
    bool lines;
    char *where; // of the current node
} reader;

static const char name_letters[] =
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+-";

/* ---- life ----------------------------------------------------------------------------------- */

static void key_clear(df_sweep_key *key) {
    for (size_t i = 0; i < key->n; i++) df_value_clear(&key->value[i]);
    df_free(key->value);
}

void df_sweep_free(df_sweep *sweep) {
    if (sweep == NULL) return;
    for (size_t e = 0; e < sweep->n; e++) {
        df_sweep_entry *entry = &sweep->entry[e];
        for (size_t k = 0; k < entry->n; k++) key_clear(&entry->key[k]);
        df_free(entry->key);
        df_free(entry->name);
    }
    df_free(sweep->entry);
    df_free(sweep);
}

/* ---- messages ------------------------------------------------------------------------------- */

static df_status at(reader *r, const df_yaml *node) {
    df_free(r->where);
    r->where = r->lines ? df_format("%s:%zu", r->job->path, node->line) : df_strdup("--set");
    return r->where != NULL ? DF_OK : DF_FAILED;
}

static df_status refuse(reader *r, const df_yaml *node, const char *message) {
    DF_TRY(at(r, node));
    return df_fail(DF_USAGE, "%s: %s: %s", r->where, r->job->options[r->option].key, message);
}

/* ---- values --------------------------------------------------------------------------------- */

/* Scalars are texts for df_value_read; a list is refused where the option takes one value. */
static df_status read_value(reader *r, const df_yaml *node, size_t option, df_value *out) {
    const df_option *o = &r->job->options[option];
    const char **texts = NULL;
    bool list = node->type == DF_YAML_LIST;
    DF_TRY(at(r, node));
    if (node->type == DF_YAML_MAP || (list && o->type != DF_OPT_LIST))
        return df_fail(DF_USAGE, "%s: %s: expected a single value, found a %s", r->where, o->key,
                       list ? "list" : "mapping");
    size_t n = list ? node->n : 1;
    DF_TRY(DF_NEW(texts, n));
    for (size_t i = 0; i < n; i++) texts[i] = list ? node->child[i].text : node->text;
    bool flat = true;
    for (size_t i = 0; i < n; i++) flat = flat && texts[i] != NULL;
    df_status status = flat ? df_value_read(o, texts, n, out)
                            : df_fail(DF_USAGE, "a list of texts holds no lists or mappings");
    df_free(texts);
    if (status != DF_OK) return df_fail_at(status, r->where, o->key);
    out->where = df_strdup(r->where);
    return out->where != NULL ? DF_OK : DF_FAILED;
}

static df_status add_value(reader *r, const df_yaml *node, df_sweep_key *key) {
    DF_TRY(df_grow((void **)&key->value, &key->capacity, key->n + 1, sizeof *key->value));
    key->value[key->n] = (df_value){0};
    return read_value(r, node, key->option, &key->value[key->n++]);
}

/* ---- keys ----------------------------------------------------------------------------------- */

/* The option of the sweep's own section that is called `word`. */
static df_status find_option(reader *r, const df_yaml *word, size_t *out) {
    const df_job *job = r->job;
    const char *own = job->options[r->option].key;
    if (word->type != DF_YAML_SCALAR || strchr(word->text, '.') != NULL)
        return refuse(r, word, "a key must be the name of an option of this section");
    char *key = df_format("%.*s.%s", (int)(strrchr(own, '.') - own), own, word->text);
    if (key == NULL) return DF_FAILED;
    *out = df_option_find(job->options, job->n_options, key);
    df_status status = at(r, word);
    const df_option *o = &job->options[*out < job->n_options ? *out : r->option];
    if (status == DF_OK && *out == job->n_options)
        status = df_unknown_key(job, r->where, key);
    else if (status == DF_OK && (o->fixed || o->is_volatile || o->type == DF_OPT_SWEEP))
        status = df_fail(DF_USAGE,
                         "%s: %s: %s cannot be swept: all members of a sweep share it, so give it "
                         "beside the sweep",
                         r->where, own, key);
    df_free(key);
    return status;
}

static df_status new_key(reader *r, const df_yaml *word, df_sweep_entry *entry,
                         df_sweep_key **out) {
    size_t option = 0;
    DF_TRY(find_option(r, word, &option));
    for (size_t k = 0; k < entry->n; k++)
        if (entry->key[k].option == option)
            return df_fail(DF_USAGE, "%s: duplicate key '%s'", r->where, word->text);
    DF_TRY(df_grow((void **)&entry->key, &entry->capacity, entry->n + 1, sizeof *entry->key));
    *out = &entry->key[entry->n++];
    **out = (df_sweep_key){.option = option};
    return DF_OK;
}

static df_status new_entry(df_sweep *sweep, df_sweep_entry **out) {
    DF_TRY(df_grow((void **)&sweep->entry, &sweep->capacity, sweep->n + 1, sizeof *sweep->entry));
    *out = &sweep->entry[sweep->n++];
    **out = (df_sweep_entry){.members = 1};
    return DF_OK;
}

/* ---- the two forms -------------------------------------------------------------------------- */

static df_status read_product(reader *r, const df_yaml *tree, df_sweep *sweep) {
    df_sweep_entry *entry;
    df_sweep_key *key = NULL;
    DF_TRY(new_entry(sweep, &entry));
    for (size_t i = 0; i < tree->n; i += 2) {
        const df_yaml *values = &tree->child[i + 1];
        DF_TRY(new_key(r, &tree->child[i], entry, &key));
        if (values->type != DF_YAML_LIST || values->n == 0)
            return refuse(r, values,
                          "expected a list of values for each option, such as k: [4, 8]");
        for (size_t v = 0; v < values->n; v++) DF_TRY(add_value(r, &values->child[v], key));
        entry->members *= values->n;
        if (entry->members > MOST_MEMBERS) break; // said by the caller
    }
    return DF_OK;
}

static df_status read_name(reader *r, const df_yaml *node, df_sweep_entry *entry) {
    bool good = node->type == DF_YAML_SCALAR && node->text[0] != '\0' && node->text[0] != '.' &&
                node->text[strspn(node->text, name_letters)] == '\0' &&
                strlen(node->text) <= LONGEST_NAME;
    if (!good)
        return refuse(r, node,
                      "a member's name is part of a file's: letters, digits, . _ + - and "
                      "at most 80 of them");
    if (entry->name != NULL) return refuse(r, node, "duplicate key 'name'");
    entry->name = df_strdup(node->text);
    return entry->name != NULL ? DF_OK : DF_FAILED;
}

static df_status read_member(reader *r, const df_yaml *node, df_sweep *sweep) {
    df_sweep_entry *entry;
    df_sweep_key *key = NULL;
    if (node->type != DF_YAML_MAP)
        return refuse(r, node, "expected a mapping for each member, such as {k: 4, latents: 512}");
    DF_TRY(new_entry(sweep, &entry));
    for (size_t i = 0; i < node->n; i += 2) {
        const df_yaml *word = &node->child[i];
        bool named = word->type == DF_YAML_SCALAR && strcmp(word->text, "name") == 0;
        if (named) {
            DF_TRY(read_name(r, &node->child[i + 1], entry));
            continue;
        }
        DF_TRY(new_key(r, word, entry, &key));
        DF_TRY(add_value(r, &node->child[i + 1], key));
    }
    if (entry->n > 0 || entry->name != NULL) return DF_OK;
    return refuse(r, node, "a member that changes no option needs a name");
}

static df_status read_forms(reader *r, const df_yaml *tree, df_sweep *sweep) {
    if (tree->type == DF_YAML_SCALAR)
        return refuse(r, tree,
                      "expected a mapping from options to lists, a list of mappings, or none");
    if (tree->n == 0) return refuse(r, tree, "the sweep has no members; none switches it off");
    sweep->is_list = tree->type == DF_YAML_LIST;
    if (!sweep->is_list) DF_TRY(read_product(r, tree, sweep));
    for (size_t i = 0; sweep->is_list && i < tree->n; i++)
        DF_TRY(read_member(r, &tree->child[i], sweep));
    for (size_t e = 0; e < sweep->n; e++) sweep->members += sweep->entry[e].members;
    if (sweep->members > MOST_MEMBERS)
        return refuse(r, tree, "more than 256 members; split the sweep");
    return DF_OK;
}

/* ---- members -------------------------------------------------------------------------------- */

/* The entry of member i, and its number within. */
static const df_sweep_entry *entry_of(const df_sweep *sweep, size_t *i) {
    const df_sweep_entry *entry = sweep->entry;
    while (*i >= entry->members) *i -= (entry++)->members;
    return entry;
}

/* The value of key k for member i of an entry; the last key changes fastest. */
static const df_value *value_of(const df_sweep_entry *entry, size_t k, size_t i) {
    for (size_t after = entry->n - 1; after > k; after--) i /= entry->key[after].n;
    return &entry->key[k].value[i % entry->key[k].n];
}

/* "m1024": the option's tag and its value. New memory. */
static char *name_part(const df_option *o, const df_value *value) {
    const char *name = strrchr(o->key, '.') + 1;
    char *text = df_value_text(o, value);
    bool word = o->type == DF_OPT_TEXT || o->type == DF_OPT_CHOICE || o->type == DF_OPT_LIST;
    const char *tag = o->tag != NULL ? o->tag : word ? "" : name;
    char *part = text != NULL ? df_format("%s%s", tag, text) : NULL;
    df_free(text);
    for (char *c = part; c != NULL && *c != '\0'; c++)
        if (strchr(name_letters, *c) == NULL) *c = '_';
    return part;
}

/* New memory. */
static char *name_of(const df_job *job, const df_sweep *sweep, size_t i) {
    const df_sweep_entry *entry = entry_of(sweep, &i);
    char *name = df_strdup(entry->name != NULL ? entry->name : "");
    for (size_t k = 0; k < entry->n && entry->name == NULL && name != NULL; k++) {
        const df_option *o = &job->options[entry->key[k].option];
        char *part = name_part(o, value_of(entry, k, i));
        char *longer = part != NULL ? df_format("%s%s%s", name, k > 0 ? "-" : "", part) : NULL;
        df_free(part);
        df_free(name);
        name = longer;
    }
    return name;
}

static df_status check_names(reader *r, const df_yaml *tree, const df_sweep *sweep) {
    df_status status = DF_OK;
    char **names = NULL;
    DF_TRY(DF_NEW(names, sweep->members));
    for (size_t i = 0; i < sweep->members && status == DF_OK; i++) {
        names[i] = name_of(r->job, sweep, i);
        if (names[i] == NULL) status = DF_FAILED;
        const df_yaml *node = sweep->is_list ? &tree->child[i] : tree;
        if (status == DF_OK) status = at(r, node);
        if (status == DF_OK && strlen(names[i]) > LONGEST_NAME)
            status = refuse(r, node,
                            "the values make a name of more than 80 letters: list the "
                            "members, each with its own name");
        for (size_t j = 0; j < i && status == DF_OK; j++)
            if (strcmp(names[i], names[j]) == 0)
                status = df_fail(DF_USAGE, "%s: %s: members %zu and %zu are both called %s",
                                 r->where, r->job->options[r->option].key, j + 1, i + 1, names[i]);
    }
    for (size_t i = 0; i < sweep->members; i++) df_free(names[i]);
    df_free(names);
    return status;
}

df_status df_sweep_read(const df_job *job, size_t i, const df_yaml *tree, bool lines,
                        df_value *value) {
    reader r = {.job = job, .option = i, .lines = lines};
    if (tree->type == DF_YAML_SCALAR && strcmp(tree->text, "none") == 0) return DF_OK;
    DF_TRY(DF_NEW(value->sweep, 1));
    df_status status = read_forms(&r, tree, value->sweep);
    if (status == DF_OK) status = check_names(&r, tree, value->sweep);
    value->set = status == DF_OK;
    df_free(r.where);
    return status;
}

/* ---- jobs of the members -------------------------------------------------------------------- */

static const df_sweep *sweep_of(const df_job *job, const char *key) {
    return job->values[df_option_find(job->options, job->n_options, key)].sweep;
}

size_t df_job_members(const df_job *job, const char *key) {
    const df_sweep *sweep = sweep_of(job, key);
    return sweep != NULL ? sweep->members : 0;
}

char *df_job_member_name(const df_job *job, const char *key, size_t i) {
    return name_of(job, sweep_of(job, key), i);
}

df_status df_job_member(const df_job *job, const char *key, size_t i, df_job **out) {
    const df_sweep_entry *entry = entry_of(sweep_of(job, key), &i);
    DF_TRY(df_job_copy(job, out));
    df_status status = DF_OK;
    for (size_t k = 0; k < entry->n && status == DF_OK; k++) {
        df_value *value = &(*out)->values[entry->key[k].option];
        df_value_clear(value);
        status = df_value_copy(value_of(entry, k, i), value);
    }
    if (status == DF_OK) return DF_OK;
    df_job_free(*out);
    *out = NULL;
    return status;
}
