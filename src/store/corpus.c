/* Corpora: JSON Lines or plain text, read once; the texts are kept in one piece of memory. */
#include "corpus_parts.h"

#include <stdlib.h>
#include <string.h>

/* ---- documents ------------------------------------------------------------------------------ */

// The bytes that the next document may need are there already.
static df_status add_document(df_corpus *corpus, const char *text, size_t bytes) {
    size_t most;
    DF_TRY(df_mul(bytes, 3, &most));
    DF_TRY(df_add(most, corpus->text_bytes + 1, &most));
    DF_TRY(df_grow((void **)&corpus->documents, &corpus->document_capacity, corpus->n_documents + 1,
                   sizeof *corpus->documents));
    bool valid = store_valid_utf8(text, bytes);
    DF_TRY(df_grow((void **)&corpus->text, &corpus->text_capacity,
                   valid ? corpus->text_bytes + bytes + 1 : most, 1));
    char *to = corpus->text + corpus->text_bytes;
    size_t n = bytes;
    if (valid)
        memcpy(to, text, bytes);
    else
        n = store_repair_utf8(text, bytes, to, &corpus->repairs);
    to[n] = '\0';
    corpus->documents[corpus->n_documents++] =
        (passage){.first = corpus->text_bytes, .bytes = n, .first_span = corpus->n_spans};
    corpus->text_bytes += n + 1;
    return DF_OK;
}

static void hash_documents(df_corpus *corpus) {
    bool ids = corpus->tokens != NULL;
    for (size_t i = 0; i < corpus->n_documents; i++) {
        uint64_t n = corpus->documents[i].bytes, first = corpus->documents[i].first;
        corpus->hash = df_hash_more(corpus->hash, &n, sizeof n);
        corpus->hash =
            ids ? df_hash_more(corpus->hash, corpus->tokens + first, n * sizeof(uint32_t))
                : df_hash_more(corpus->hash, corpus->text + first, n);
    }
}

/* ---- labels --------------------------------------------------------------------------------- */

static df_status bad_label(const corpus_source *from, const char *what) {
    return df_fail(DF_BAD_INPUT,
                   "%s:%llu: \"%s\": %s; expected [[name, first byte, end byte], ...]", from->path,
                   (unsigned long long)from->line, from->labels, what);
}

static df_status concept_number(df_corpus *corpus, const char *name, uint32_t *out) {
    json_t *known = json_object_get(corpus->numbers, name);
    *out = (uint32_t)json_integer_value(known);
    if (known != NULL) return DF_OK;
    *out = (uint32_t)json_object_size(corpus->numbers);
    if (json_object_set_new(corpus->numbers, name, json_integer(*out)) == 0) return DF_OK;
    return df_fail(DF_FAILED, "out of memory for concept \"%s\"", name);
}

static df_status add_span(df_corpus *corpus, const corpus_source *from, const json_t *label) {
    passage *owner = &corpus->documents[corpus->n_documents - 1];
    const json_t *name = json_array_get(label, 0), *first = json_array_get(label, 1);
    const json_t *end = json_array_get(label, 2);
    if (json_array_size(label) != 3 || !json_is_string(name) || !json_is_integer(first) ||
        !json_is_integer(end))
        return bad_label(from, "an entry is not of that form");
    json_int_t a = json_integer_value(first), b = json_integer_value(end);
    if (a < 0 || a >= b || (uint64_t)b > owner->bytes || b > UINT32_MAX)
        return bad_label(from, "a stretch is empty or reaches past the end of its text");
    DF_TRY(df_grow((void **)&corpus->spans, &corpus->span_capacity, corpus->n_spans + 1,
                   sizeof *corpus->spans));
    df_span *span = &corpus->spans[corpus->n_spans];
    *span = (df_span){.first = (uint32_t)a, .end = (uint32_t)b};
    DF_TRY(concept_number(corpus, json_string_value(name), &span->concept));
    corpus->n_spans++;
    owner->spans++;
    return DF_OK;
}

// A document without labels is one without the field.
static df_status add_spans(df_corpus *corpus, const corpus_source *from, const json_t *object) {
    const json_t *labels = from->labels != NULL ? json_object_get(object, from->labels) : NULL;
    if (labels == NULL || json_is_null(labels)) return DF_OK;
    if (!json_is_array(labels)) return bad_label(from, "it is no array");
    for (size_t i = 0; i < json_array_size(labels); i++)
        DF_TRY(add_span(corpus, from, json_array_get(labels, i)));
    return DF_OK;
}

typedef struct concept {
    const char *name;
    uint32_t number;
}
concept;

static int by_name(const void *a, const void *b) {
    return strcmp(((const concept *)a)->name, ((const concept *)b)->name);
}

// Numbers by first mention become numbers by name.
static df_status renumber(df_corpus *corpus, const concept *sorted, size_t n) {
    uint32_t *place;
    DF_TRY(DF_NEW(corpus->concepts, n));
    for (size_t i = 0; i < n; i++) {
        corpus->concepts[i] = df_strdup(sorted[i].name);
        if (corpus->concepts[i] == NULL) return DF_FAILED;
        corpus->n_concepts++;
    }
    DF_TRY(DF_NEW(place, n));
    for (size_t i = 0; i < n; i++) place[sorted[i].number] = (uint32_t)i;
    for (size_t i = 0; i < corpus->n_spans; i++)
    corpus->spans[i].concept = place[corpus->spans[i].concept];
    df_free(place);
    return DF_OK;
}

static df_status sort_concepts(df_corpus *corpus) {
    size_t n = 0;
    concept *list;
    const char *name;
    json_t *number;
    DF_TRY(DF_NEW(list, json_object_size(corpus->numbers)));
    json_object_foreach(corpus->numbers, name, number) list[n++] =
        (concept){.name = name, .number = (uint32_t)json_integer_value(number)};
    if (n > 0) qsort(list, n, sizeof *list, by_name);
    df_status status = renumber(corpus, list, n);
    df_free(list);
    return status;
}

/* ---- JSON Lines ----------------------------------------------------------------------------- */

static df_status add_chat(df_corpus *corpus, const corpus_source *from, const json_t *messages) {
    char *text;
    size_t bytes;
    DF_TRY(store_chat_text(from, messages, &text, &bytes));
    df_status status = add_document(corpus, text, bytes);
    df_free(text);
    return status;
}

static df_status not_found(const corpus_source *from, const json_t *text) {
    return df_fail(DF_BAD_INPUT, "%s:%llu: expected %s \"%s\" (the document's %s), found %s",
                   from->path, (unsigned long long)from->line,
                   from->chat != NULL ? "a list" : "a string", from->field,
                   from->chat != NULL ? "messages" : "text",
                   text == NULL          ? "no such field"
                   : json_is_array(text) ? "a list: is it of messages? (text.chat)"
                                         : "another type");
}

static df_status add_object(df_corpus *corpus, const corpus_source *from, const json_t *object) {
    const json_t *text = json_object_get(object, from->field);
    if (!json_is_object(object))
        return df_fail(DF_BAD_INPUT, "%s:%llu: expected a JSON object on each line", from->path,
                       (unsigned long long)from->line);
    if (from->chat != NULL ? !json_is_array(text) : !json_is_string(text))
        return not_found(from, text);
    DF_TRY(from->chat != NULL
               ? add_chat(corpus, from, text)
               : add_document(corpus, json_string_value(text), json_string_length(text)));
    return add_spans(corpus, from, object);
}

// jansson wants valid UTF-8: a line that is not is repaired first.
static df_status parse_line(df_corpus *corpus, const corpus_source *from, const char *line,
                            size_t bytes) {
    json_t *object = NULL;
    char *repaired = NULL;
    size_t room;
    df_status status = DF_OK;
    char *what = df_format("%s, line %llu", from->path, (unsigned long long)from->line);
    if (what == NULL) return DF_FAILED;
    if (!store_valid_utf8(line, bytes)) {
        DF_GO(df_mul(bytes, 3, &room));
        DF_GO(DF_NEW(repaired, room));
        bytes = store_repair_utf8(line, bytes, repaired, &corpus->repairs);
        line = repaired;
    }
    DF_GO(df_json_parse(line, bytes, what, &object));
    DF_GO(add_object(corpus, from, object));
done:
    json_decref(object);
    df_free(repaired);
    df_free(what);
    return status;
}

static bool blank(const char *line, size_t bytes) {
    for (size_t i = 0; i < bytes; i++)
        if (strchr(" \t\r", line[i]) == NULL || line[i] == '\0') return false;
    return true;
}

static df_status read_lines(df_corpus *corpus, corpus_source *from, const char *text,
                            size_t bytes) {
    while (bytes > 0) {
        const char *newline = memchr(text, '\n', bytes);
        size_t n = newline != NULL ? (size_t)(newline - text) : bytes;
        from->line++;
        if (!blank(text, n)) DF_TRY(parse_line(corpus, from, text, n));
        if (store_corpus_is_full(corpus, from)) return DF_OK;
        n += newline != NULL;
        text += n;
        bytes -= n;
    }
    return DF_OK;
}

/* ---- any text ------------------------------------------------------------------------------- */

static df_status read_text(df_corpus *corpus, corpus_source *from, const store_content *content) {
    bool marked = content->size >= 3 && memcmp(content->bytes, "\xef\xbb\xbf", 3) == 0;
    size_t skip = marked ? 3 : 0; // byte order mark
    const char *text = content->bytes + skip;
    if (store_is_lines(from->path)) return read_lines(corpus, from, text, content->size - skip);
    if (from->labels != NULL || from->chat != NULL)
        return df_fail(DF_BAD_INPUT,
                       "%s: %s (\"%s\") need JSON Lines: a name ending in .jsonl (.gz, .zst)",
                       from->path, from->labels != NULL ? "labels" : "messages",
                       from->labels != NULL ? from->labels : from->field);
    return content->size > skip ? add_document(corpus, text, content->size - skip) : DF_OK;
}

static df_status read_file(df_corpus *corpus, corpus_source *from) {
    store_content content;
    bool arrays = store_is_arrays(from->path);
    if (corpus->n_documents > 0 && arrays != (corpus->tokens != NULL))
        return df_fail(DF_BAD_INPUT, "%s: texts and arrays of tokens make no one corpus",
                       from->path);
    if (arrays) return store_read_tokens(corpus, from);
    DF_TRY(store_read_content(from->path, &content));
    from->line = 0;
    df_status status = read_text(corpus, from, &content);
    store_free_content(&content);
    return status;
}

static df_status read_files(df_corpus *corpus, const char *path, corpus_source *from) {
    char **files;
    size_t n;
    DF_TRY(store_list_texts(path, &files, &n));
    df_status status = DF_OK;
    for (size_t i = 0; i < n && status == DF_OK && !store_corpus_is_full(corpus, from); i++) {
        from->path = files[i];
        status = read_file(corpus, from);
    }
    store_free_list(files, n);
    if (status == DF_OK && corpus->n_documents == 0)
        status = df_fail(DF_BAD_INPUT, "%s holds no documents: expected at least one", path);
    return status;
}

static df_status fill(df_corpus *corpus, const char *path, corpus_source *from) {
    corpus->numbers = json_object();
    if (corpus->numbers == NULL) return df_fail(DF_FAILED, "out of memory for %s", path);
    DF_TRY(read_files(corpus, path, from));
    DF_TRY(sort_concepts(corpus));
    hash_documents(corpus);
    if (corpus->repairs > 0)
        df_warn("%s: %llu invalid UTF-8 sequences were replaced by U+FFFD", path,
                (unsigned long long)corpus->repairs);
    return DF_OK;
}

df_status df_corpus_open(const char *path, const df_corpus_how *how, df_corpus **out) {
    df_corpus *corpus;
    corpus_source from = {.field = how->field != NULL ? how->field : "text",
                          .labels = how->labels,
                          .chat = how->chat,
                          .max_documents = how->max_documents};
    *out = NULL;
    DF_TRY(DF_NEW(corpus, 1));
    df_status status = fill(corpus, path, &from);
    json_decref(corpus->numbers);
    corpus->numbers = NULL;
    if (status == DF_OK)
        *out = corpus;
    else
        df_corpus_close(&corpus);
    return status;
}

void df_corpus_close(df_corpus **corpus_pointer) {
    df_corpus *corpus = *corpus_pointer;
    *corpus_pointer = NULL;
    if (corpus == NULL) return;
    for (size_t i = 0; i < corpus->n_concepts; i++) df_free(corpus->concepts[i]);
    df_free(corpus->concepts);
    df_free(corpus->spans);
    df_free(corpus->documents);
    df_free(corpus->text);
    df_free(corpus->tokens);
    df_free(corpus);
}

uint64_t df_corpus_documents(const df_corpus *corpus) {
    return corpus->n_documents;
}

uint64_t df_corpus_hash(const df_corpus *corpus) {
    return corpus->hash;
}

const uint32_t *df_corpus_tokens(const df_corpus *corpus, uint64_t document, size_t *n) {
    *n = corpus->documents[document].bytes;
    return corpus->tokens != NULL ? corpus->tokens + corpus->documents[document].first : NULL;
}

const char *df_corpus_text(const df_corpus *corpus, uint64_t document, size_t *bytes) {
    if (bytes != NULL) *bytes = 0;
    if (corpus->tokens != NULL) return "";
    if (bytes != NULL) *bytes = corpus->documents[document].bytes;
    return corpus->text + corpus->documents[document].first;
}

size_t df_corpus_concepts(const df_corpus *corpus) {
    return corpus->n_concepts;
}

const char *df_corpus_concept(const df_corpus *corpus, size_t i) {
    return corpus->concepts[i];
}

const df_span *df_corpus_spans(const df_corpus *corpus, uint64_t document, size_t *n) {
    *n = corpus->documents[document].spans;
    if (*n == 0) return NULL;
    return corpus->spans + corpus->documents[document].first_span;
}
