/* The job file: YAML by libyaml's events, down to exactly what the option table knows. Every event
 * carries its line. Whatever the table does not ask for is refused at once, so that the depth of
 * the recursion is that of the table. */
#include "sweep.h"

#include <string.h>
#include <yaml.h>

#define KEY_BYTES 256
#define LEVELS 8 // sections within sections that a table may have
#define TREE_DEPTH 3
#define LARGEST ((size_t)1 << 20)

typedef struct reader {
    df_job *job; // NULL: the text is that of --set
    const char *path;
    const char *text;
    size_t bytes;
    yaml_parser_t parser;
    yaml_event_t event;  // the current one
    char key[KEY_BYTES]; // path of the key being read
    size_t line;         // of that key
    char *where;         // "file:line" for messages and df_job_where
    size_t *sections; // [n_options, LEVELS] line where a section began; its first option is the row
} reader;

// ---- messages ----------------------------------------------------------------------------------

static df_status at_line(reader *r, size_t line) {
    df_free(r->where);
    r->where = r->job != NULL ? df_format("%s:%zu", r->path, line) : df_strdup("--set");
    return r->where == NULL ? DF_FAILED : DF_OK;
}

static df_status refuse(reader *r, const char *message) {
    DF_TRY(at_line(r, r->event.start_mark.line + 1));
    return df_fail(DF_USAGE, "%s: %s", r->where, message);
}

// Where the decoder stumbled over a byte it gives an offset and no line.
static size_t line_of_offset(const reader *r, size_t offset) {
    size_t line = 1;
    for (size_t i = 0; i < offset && i < r->bytes; i++) line += r->text[i] == '\n';
    return line;
}

static df_status broken(reader *r) {
    const yaml_parser_t *p = &r->parser;
    const char *problem = p->problem != NULL ? p->problem : "not valid YAML";
    if (p->error == YAML_MEMORY_ERROR)
        return df_fail(DF_FAILED, "out of memory while parsing %s", r->path);
    if (p->error == YAML_READER_ERROR) {
        DF_TRY(at_line(r, line_of_offset(r, p->problem_offset)));
        return df_fail(DF_USAGE, "%s: not a YAML text file: %s", r->where, problem);
    }
    DF_TRY(at_line(r, p->problem_mark.line + 1));
    if (p->context == NULL) return df_fail(DF_USAGE, "%s: not valid YAML: %s", r->where, problem);
    return df_fail(DF_USAGE, "%s: not valid YAML: %s, %s begun in line %zu", r->where, problem,
                   p->context, p->context_mark.line + 1);
}

// ---- events ------------------------------------------------------------------------------------

// Anchors, aliases and tags would let a file mean more than it shows.
static df_status check_plain(reader *r) {
    const yaml_event_t *e = &r->event;
    const yaml_char_t *anchor = NULL, *tag = NULL;
    if (e->type == YAML_ALIAS_EVENT)
        return refuse(r, "aliases (*name) are not allowed in job files; write the value out");
    if (e->type == YAML_SCALAR_EVENT) {
        anchor = e->data.scalar.anchor;
        tag = e->data.scalar.tag;
    } else if (e->type == YAML_SEQUENCE_START_EVENT) {
        anchor = e->data.sequence_start.anchor;
        tag = e->data.sequence_start.tag;
    } else if (e->type == YAML_MAPPING_START_EVENT) {
        anchor = e->data.mapping_start.anchor;
        tag = e->data.mapping_start.tag;
    }
    if (anchor != NULL) return refuse(r, "anchors (&name) are not allowed in job files");
    if (tag != NULL)
        return refuse(r, "tags (!name) are not allowed in job files; types come from the key");
    return DF_OK;
}

static df_status next(reader *r) {
    yaml_event_delete(&r->event);
    if (!yaml_parser_parse(&r->parser, &r->event)) return broken(r);
    return check_plain(r);
}

static const char *scalar(const reader *r) {
    return (const char *)r->event.data.scalar.value;
}

static bool is_unquoted(const reader *r) {
    return r->event.data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
}

static bool is_empty_scalar(const reader *r) {
    return r->event.type == YAML_SCALAR_EVENT && is_unquoted(r) && scalar(r)[0] == '\0';
}

// A scalar that may be a value: `null`, `~`, nothing and texts with zero bytes are none.
static df_status check_scalar(reader *r) {
    const char *text = scalar(r);
    if (is_unquoted(r) && text[0] == '\0')
        return refuse(r,
                      "the value is missing; leave the key out to have its default, or write \"\"");
    if (is_unquoted(r) && (strcmp(text, "~") == 0 || strcmp(text, "null") == 0))
        return refuse(r, "null is not a value; leave the key out to have its default, or quote it");
    if (strlen(text) != r->event.data.scalar.length)
        return refuse(r, "the value holds a zero byte");
    return DF_OK;
}

// ---- values ------------------------------------------------------------------------------------

static df_status collect(reader *r, char ***texts, size_t *n) {
    size_t capacity = 0;
    for (;;) {
        DF_TRY(next(r));
        if (r->event.type == YAML_SEQUENCE_END_EVENT) return DF_OK;
        if (r->event.type != YAML_SCALAR_EVENT)
            return refuse(r, "a list holds texts only, no lists or mappings");
        DF_TRY(check_scalar(r));
        DF_TRY(df_grow((void **)texts, &capacity, *n + 1, sizeof **texts));
        (*texts)[*n] = df_strdup(scalar(r));
        if ((*texts)[*n] == NULL) return DF_FAILED;
        *n += 1;
    }
}

static df_status store(reader *r, size_t i, const char *const *texts, size_t n) {
    df_value *value = &r->job->values[i];
    df_value_clear(value); // the default
    value->line = r->line;
    DF_TRY(at_line(r, r->line));
    value->where = df_strdup(r->where);
    if (value->where == NULL) return DF_FAILED;
    df_status status = df_value_read(&r->job->options[i], texts, n, value);
    return status == DF_OK ? DF_OK : df_fail_at(status, r->where, r->job->options[i].key);
}

static df_status read_sequence(reader *r, size_t i) {
    char **texts = NULL;
    size_t n = 0;
    df_status status = collect(r, &texts, &n);
    if (status == DF_OK) status = store(r, i, (const char *const *)texts, n);
    for (size_t t = 0; t < n; t++) df_free(texts[t]);
    df_free(texts);
    return status;
}

static df_status wrong_shape(reader *r, size_t i, const char *expected) {
    DF_TRY(at_line(r, r->event.start_mark.line + 1));
    return df_fail(DF_USAGE, "%s: %s: expected %s, found a %s", r->where, r->job->options[i].key,
                   expected,
                   r->event.type == YAML_SCALAR_EVENT           ? "single value"
                   : r->event.type == YAML_SEQUENCE_START_EVENT ? "list"
                                                                : "mapping");
}

// YAML as deep as a sweep goes: a mapping of lists of lists of texts.
static df_status read_tree(reader *r, size_t depth, df_yaml *out) {
    yaml_event_type_t type = r->event.type;
    out->line = r->event.start_mark.line + 1;
    if (type == YAML_SCALAR_EVENT) {
        DF_TRY(check_scalar(r));
        out->text = df_strdup(scalar(r));
        return out->text != NULL ? DF_OK : DF_FAILED;
    }
    if (depth == TREE_DEPTH) return refuse(r, "nested too deeply");
    out->type = type == YAML_SEQUENCE_START_EVENT ? DF_YAML_LIST : DF_YAML_MAP;
    for (;;) {
        DF_TRY(next(r));
        if (r->event.type == YAML_SEQUENCE_END_EVENT || r->event.type == YAML_MAPPING_END_EVENT)
            return DF_OK;
        DF_TRY(df_grow((void **)&out->child, &out->capacity, out->n + 1, sizeof *out->child));
        out->child[out->n] = (df_yaml){0};
        DF_TRY(read_tree(r, depth + 1, &out->child[out->n++]));
    }
}

void df_yaml_clear(df_yaml *node) {
    for (size_t i = 0; i < node->n; i++) df_yaml_clear(&node->child[i]);
    df_free(node->child);
    df_free(node->text);
    *node = (df_yaml){0};
}

static df_status read_sweep(reader *r, size_t i) {
    df_value *value = &r->job->values[i];
    df_yaml tree = {0};
    value->line = r->line;
    DF_TRY(at_line(r, r->line));
    value->where = df_strdup(r->where);
    if (value->where == NULL) return DF_FAILED;
    df_status status = read_tree(r, 0, &tree);
    if (status == DF_OK) status = df_sweep_read(r->job, i, &tree, true, value);
    df_yaml_clear(&tree);
    return status;
}

static df_status read_value(reader *r, size_t i) {
    bool wants_list = r->job->options[i].type == DF_OPT_LIST;
    if (r->job->values[i].line != 0) {
        DF_TRY(at_line(r, r->line));
        return df_fail(DF_USAGE, "%s: duplicate key '%s', first given in line %zu", r->where,
                       r->key, r->job->values[i].line);
    }
    if (r->job->options[i].type == DF_OPT_SWEEP) return read_sweep(r, i);
    if (wants_list && r->event.type == YAML_SEQUENCE_START_EVENT) return read_sequence(r, i);
    if (r->event.type == YAML_SCALAR_EVENT) DF_TRY(check_scalar(r));
    if (wants_list) return wrong_shape(r, i, "a list ([a, b], or one '- item' a line)");
    if (r->event.type != YAML_SCALAR_EVENT) return wrong_shape(r, i, "a single value");
    const char *text = scalar(r);
    return store(r, i, &text, 1);
}

// ---- mappings ----------------------------------------------------------------------------------

// Appends the current scalar to the path of the mapping, which is the first `prefix` characters of
// r->key.
static df_status read_key(reader *r, size_t prefix) {
    if (r->event.type != YAML_SCALAR_EVENT) return refuse(r, "a key must be a plain word");
    const char *word = scalar(r);
    size_t length = r->event.data.scalar.length, dot = prefix > 0 ? 1 : 0;
    r->line = r->event.start_mark.line + 1;
    if (strcmp(word, "<<") == 0) return refuse(r, "merge keys (<<) are not allowed in job files");
    if (length == 0 || strlen(word) != length) return refuse(r, "a key must be a plain word");
    if (strchr(word, '.') != NULL)
        return refuse(r, "a key holds no dots; write 'section:' and the key indented below it");
    if (prefix + dot + length + 1 > KEY_BYTES) return refuse(r, "unknown key, and a very long one");
    if (dot == 1) r->key[prefix] = '.';
    memcpy(r->key + prefix + dot, word, length + 1);
    return DF_OK;
}

// A section stands in a file once. Its row is the first option below it, its column the level.
static df_status check_once(reader *r) {
    size_t row = 0, level = 0, length = strlen(r->key);
    while (strncmp(r->job->options[row].key, r->key, length) != 0 ||
           r->job->options[row].key[length] != '.')
        row++;
    for (const char *c = r->key; *c != '\0'; c++) level += *c == '.';
    if (level >= LEVELS) return refuse(r, "sections are nested too deeply");
    size_t *first = &r->sections[row * LEVELS + level];
    if (*first != 0) {
        DF_TRY(at_line(r, r->line));
        return df_fail(DF_USAGE, "%s: duplicate key '%s', first given in line %zu", r->where,
                       r->key, *first);
    }
    *first = r->line;
    return DF_OK;
}

static df_status read_mapping(reader *r, size_t prefix);

static df_status read_entry(reader *r) {
    const df_job *job = r->job;
    size_t i = df_option_find(job->options, job->n_options, r->key);
    if (i < job->n_options) {
        DF_TRY(next(r));
        return read_value(r, i);
    }
    if (!df_option_is_section(job->options, job->n_options, r->key)) {
        DF_TRY(at_line(r, r->line));
        return df_unknown_key(job, r->where, r->key);
    }
    DF_TRY(check_once(r));
    DF_TRY(next(r));
    if (is_empty_scalar(r)) return DF_OK; // a section with everything below it commented out
    if (r->event.type == YAML_MAPPING_START_EVENT) return read_mapping(r, strlen(r->key));
    DF_TRY(at_line(r, r->line));
    return df_fail(DF_USAGE, "%s: '%s' is a section: expected keys indented below it", r->where,
                   r->key);
}

static df_status read_mapping(reader *r, size_t prefix) {
    for (;;) {
        DF_TRY(next(r));
        if (r->event.type == YAML_MAPPING_END_EVENT) return DF_OK;
        DF_TRY(read_key(r, prefix));
        DF_TRY(read_entry(r));
    }
}

// ---- the document ------------------------------------------------------------------------------

static df_status read_document(reader *r) {
    const yaml_event_t *e = &r->event;
    if (e->data.document_start.tag_directives.start != e->data.document_start.tag_directives.end)
        return refuse(r, "tag directives (%TAG) are not allowed in job files");
    DF_TRY(next(r));
    if (e->type == YAML_MAPPING_START_EVENT) {
        DF_TRY(read_mapping(r, 0));
    } else if (!is_empty_scalar(r)) {
        return refuse(r, "a job file is a mapping: expected 'key: value' lines");
    }
    return next(r); // the document's end
}

static df_status read_stream(reader *r) {
    DF_TRY(next(r)); // the stream's start
    DF_TRY(next(r));
    if (r->event.type == YAML_STREAM_END_EVENT) return DF_OK; // an empty file: all defaults
    DF_TRY(read_document(r));
    DF_TRY(next(r));
    if (r->event.type != YAML_STREAM_END_EVENT)
        return refuse(r, "a job file holds one document, here a second one begins");
    return DF_OK;
}

df_status df_job_read_yaml(df_job *job, const char *text, size_t bytes) {
    reader r = {.job = job, .path = job->path, .text = text, .bytes = bytes};
    if (bytes > LARGEST)
        return df_fail(DF_USAGE, "%s: %zu bytes are too many for a job file (at most %zu)",
                       job->path, bytes, LARGEST);
    size_t cells;
    DF_TRY(df_mul(job->n_options, LEVELS, &cells));
    DF_TRY(DF_NEW(r.sections, cells));
    if (!yaml_parser_initialize(&r.parser)) {
        df_free(r.sections);
        return df_fail(DF_FAILED, "out of memory: no parser for %s", job->path);
    }
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)text, bytes);
    df_status status = read_stream(&r);
    yaml_event_delete(&r.event);
    yaml_parser_delete(&r.parser);
    df_free(r.sections);
    df_free(r.where);
    return status;
}

static df_status read_set(reader *r, df_yaml *out) {
    DF_TRY(next(r)); // the stream's start
    DF_TRY(next(r));
    if (r->event.type == YAML_STREAM_END_EVENT) return refuse(r, "the value is missing");
    DF_TRY(next(r));
    DF_TRY(read_tree(r, 0, out));
    DF_TRY(next(r)); // the document's end
    DF_TRY(next(r));
    return r->event.type == YAML_STREAM_END_EVENT ? DF_OK : refuse(r, "expected one value");
}

df_status df_yaml_read(const df_job *job, const char *text, df_yaml *out) {
    reader r = {.path = job->path, .text = text, .bytes = strlen(text)};
    if (!yaml_parser_initialize(&r.parser))
        return df_fail(DF_FAILED, "out of memory: no parser for --set");
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)text, r.bytes);
    df_status status = read_set(&r, out);
    yaml_event_delete(&r.event);
    yaml_parser_delete(&r.parser);
    df_free(r.where);
    return status;
}
