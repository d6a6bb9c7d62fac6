/* The content hash, and whether a file is the current answer to a job. */
#include "parts.h"

#include <string.h>

static uint64_t mix(uint64_t hash, const void *data, size_t bytes) {
    uint64_t length = bytes; // so that "ab" + "c" differs from "a" + "bc"
    return df_hash_more(df_hash_more(hash, &length, sizeof length), data, bytes);
}

static uint64_t mix_attribute(uint64_t hash, const store_attribute *attribute) {
    uint32_t kind = attribute->kind;
    hash = mix(hash, attribute->name, strlen(attribute->name));
    hash = mix(hash, &kind, sizeof kind);
    if (attribute->kind == STORE_TEXT) return mix(hash, attribute->text, strlen(attribute->text));
    if (attribute->kind == STORE_INT) return mix(hash, &attribute->integer, sizeof(int64_t));
    return mix(hash, &attribute->real, sizeof(double));
}

static uint64_t mix_object(uint64_t hash, const store_object *object) {
    uint64_t facts[3 + DF_MAX_DIMS] = {object->is_dataset, object->type, (uint64_t)object->dims};
    for (int d = 0; d < object->dims; d++) facts[3 + d] = object->shape[d];
    hash = mix(hash, object->path, strlen(object->path));
    hash = mix(hash, facts, sizeof facts);
    for (size_t i = 0; i < object->n_attributes; i++)
        hash = mix_attribute(hash, &object->attributes[i]);
    return object->is_dataset ? mix(hash, object->checksum, 8 * object->blocks) : hash;
}

// The bytes of a dataset stand for themselves by the checksums of its blocks, whose size depends on
// the shape alone: so the digest of an intact file is known without reading its data.
uint64_t store_stored_digest(const df_reader *reader) {
    uint64_t hash = 0;
    for (size_t i = 0; i < reader->table.n; i++) {
        const store_object *object = &reader->table.objects[i];
        if (store_under(object->path, STORE_PROVENANCE) ||
            store_under(object->path, STORE_CHECKSUMS) || store_under(object->path, STORE_PARTS))
            continue;
        hash = mix_object(hash, object);
    }
    return hash;
}

df_status df_digest(const char *path, uint64_t *out) {
    df_reader *reader;
    DF_TRY(df_reader_open(path, NULL, &reader));
    df_status status = store_verify_all(reader);
    if (status == DF_OK) *out = store_stored_digest(reader);
    df_reader_close(&reader);
    return status;
}

// The first line in which two texts differ, of both.
static char *first_difference(const char *stored, const char *wanted) {
    const char *a = stored, *b = wanted;
    for (;;) {
        size_t n = strcspn(a, "\n"), m = strcspn(b, "\n");
        if (n != m || memcmp(a, b, n) != 0)
            return df_format("its job had \"%.*s\", this one has \"%.*s\"", (int)n, a, (int)m, b);
        if (a[n] == '\0' || b[m] == '\0') return df_format("one job is longer than the other");
        a += n + 1;
        b += m + 1;
    }
}

static bool same_job(const df_reader *reader, const char *resolved, char **why) {
    char *stored;
    if (df_reader_text(reader, "/", "job", &stored) != DF_OK) {
        *why = df_strdup(df_error_text());
        return false;
    }
    bool same = strcmp(stored, resolved) == 0;
    if (!same) *why = first_difference(stored, resolved);
    df_free(stored);
    return same;
}

bool df_file_is_current(const char *path, const char *format, const char *resolved, char **why) {
    df_reader *reader = NULL;
    char *reason = NULL;
    bool current = false;
    if (df_reader_open(path, format, &reader) != DF_OK)
        reason = df_strdup(df_error_text());
    else
        current = same_job(reader, resolved, &reason);
    df_reader_close(&reader);
    df_error_clear();
    if (why != NULL)
        *why = reason;
    else
        df_free(reason);
    return current;
}
