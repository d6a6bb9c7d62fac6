/* Reading our files: opening with every check, rows by pread, checksums verified once per block,
 * attributes. */
#include "parts.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- opening -------------------------------------------------------------------------------- */

static df_status open_plain(df_reader *reader) {
    struct stat facts;
    reader->descriptor = open(reader->path, O_RDONLY | O_CLOEXEC);
    if (reader->descriptor < 0 || fstat(reader->descriptor, &facts) != 0)
        return df_fail(DF_BAD_INPUT, "cannot open %s: %s", reader->path, strerror(errno));
    if (!S_ISREG(facts.st_mode))
        return df_fail(DF_BAD_INPUT, "%s: expected a file of darkfield, found a folder or device",
                       reader->path);
    reader->size = (uint64_t)facts.st_size;
    return DF_OK;
}

static df_status check_root(df_reader *reader, const char *format) {
    const store_object *root = store_table_find(&reader->table, "/");
    const store_attribute *found = store_find_attribute(root, "format");
    const store_attribute *version = store_find_attribute(root, "format_version");
    const store_attribute *complete = store_find_attribute(root, "complete");
    if (found == NULL || found->kind != STORE_TEXT || strncmp(found->text, "darkfield-", 10) != 0)
        return df_fail(DF_BAD_INPUT,
                       "%s: expected a file of darkfield, found HDF5 of another kind (no "
                       "root attribute \"format\")",
                       reader->path);
    if (format != NULL && strcmp(found->text, format) != 0)
        return df_fail(DF_BAD_INPUT, "%s: expected format %s, found %s", reader->path, format,
                       found->text);
    if (version == NULL || version->kind != STORE_INT || version->integer != STORE_VERSION)
        return df_fail(DF_BAD_INPUT,
                       "%s: expected format version %d, found %lld: made by another "
                       "version of darkfield",
                       reader->path, STORE_VERSION,
                       version != NULL ? (long long)version->integer : -1LL);
    if (complete == NULL || complete->kind != STORE_INT || complete->integer != 1)
        return df_fail(DF_BAD_INPUT,
                       "%s is incomplete: the run that wrote it did not finish; run it "
                       "again",
                       reader->path);
    reader->format = df_strdup(found->text);
    return reader->format != NULL ? DF_OK : DF_FAILED;
}

static df_status load_checksums(const df_reader *reader, store_object *object) {
    char *path = df_format("%s%s", STORE_CHECKSUMS, object->path);
    if (path == NULL) return DF_FAILED;
    const store_object *mirror = store_table_find(&reader->table, path);
    df_free(path);
    if (mirror == NULL || !mirror->is_dataset || mirror->type != DF_U64 || mirror->dims != 1 ||
        mirror->shape[0] != object->blocks)
        return df_fail(DF_BAD_INPUT, "%s: the checksums of %s are missing or of another shape",
                       reader->path, object->path);
    DF_TRY(DF_NEW(object->checksum, object->blocks));
    DF_TRY(DF_NEW(object->sound, object->blocks));
    return store_pread(reader->descriptor, reader->path, object->checksum, mirror->bytes,
                       mirror->offset);
}

static df_status open_reader(df_reader *reader, const char *format) {
    DF_TRY(open_plain(reader));
    DF_TRY(store_seal_check(reader->descriptor, reader->path, reader->size));
    DF_TRY(store_table_read(reader->path, reader->size, &reader->table));
    DF_TRY(check_root(reader, format));
    for (size_t i = 0; i < reader->table.n; i++) {
        store_object *object = &reader->table.objects[i];
        if (object->is_dataset && !store_under(object->path, STORE_CHECKSUMS))
            DF_TRY(load_checksums(reader, object));
    }
    return store_parts_open(reader);
}

df_status df_reader_open(const char *path, const char *format, df_reader **out) {
    df_reader *reader;
    *out = NULL;
    DF_TRY(DF_NEW(reader, 1));
    reader->descriptor = -1;
    reader->path = df_strdup(path);
    df_status status = reader->path != NULL ? open_reader(reader, format) : DF_FAILED;
    if (status == DF_OK)
        *out = reader;
    else
        df_reader_close(&reader);
    return status;
}

void df_reader_close(df_reader **reader_pointer) {
    df_reader *reader = *reader_pointer;
    *reader_pointer = NULL;
    if (reader == NULL) return;
    if (reader->descriptor >= 0) close(reader->descriptor);
    store_parts_close(reader);
    store_table_free(&reader->table);
    df_free(reader->path);
    df_free(reader->format);
    df_free(reader);
}

/* ---- looking up ----------------------------------------------------------------------------- */

const char *df_reader_path(const df_reader *reader) {
    return reader->path;
}

bool df_reader_has(const df_reader *reader, const char *dataset) {
    const store_object *object = store_table_find(&reader->table, dataset);
    return object != NULL && object->is_dataset;
}

static const char *nearest_dataset(const df_reader *reader, const char *path) {
    const char **known, *near = NULL;
    size_t n = 0;
    if (DF_NEW(known, reader->table.n) != DF_OK) return NULL;
    for (size_t i = 0; i < reader->table.n; i++)
        if (reader->table.objects[i].checksum != NULL) known[n++] = reader->table.objects[i].path;
    near = df_nearest(path, known, n);
    df_free(known);
    return near;
}

df_status store_reader_dataset(const df_reader *reader, const char *path, store_object **out) {
    *out = store_table_find(&reader->table, path);
    if (*out != NULL && (*out)->checksum != NULL) return DF_OK;
    const char *near = nearest_dataset(reader, path);
    return df_fail(DF_BAD_INPUT, "%s has no dataset %s%s%s", reader->path, path,
                   near != NULL ? "; the nearest is " : "", near != NULL ? near : "");
}

df_status df_reader_find(const df_reader *reader, const char *dataset, int expected_dims,
                         df_type *type, uint64_t shape[DF_MAX_DIMS]) {
    store_object *object;
    DF_TRY(store_reader_dataset(reader, dataset, &object));
    if (expected_dims >= 0 && object->dims != expected_dims)
        return df_fail(DF_BAD_INPUT, "%s: expected %d dimensions of %s, found %d", reader->path,
                       expected_dims, dataset, object->dims);
    if (type != NULL) *type = object->type;
    for (int d = 0; shape != NULL && d < DF_MAX_DIMS; d++)
        shape[d] = d < object->dims ? object->shape[d] : 1;
    return DF_OK;
}

df_status df_reader_offset(const df_reader *reader, const char *dataset, uint64_t *out) {
    store_object *object;
    DF_TRY(store_reader_dataset(reader, dataset, &object));
    if (object->split)
        return df_fail(DF_BAD_INPUT, "%s: %s stands in files of its own", reader->path, dataset);
    *out = object->offset;
    return DF_OK;
}

/* ---- rows ----------------------------------------------------------------------------------- */

static df_status verify_block(const df_reader *reader, store_object *object, size_t block,
                              void *scratch) {
    uint64_t found;
    DF_TRY(store_block_hash(reader->descriptor, reader->path, object, block, scratch, &found));
    if (found == object->checksum[block]) {
        object->sound[block] = 1;
        return DF_OK;
    }
    uint64_t first = store_block_first(object, block);
    return df_fail(
        DF_BAD_INPUT,
        "%s: dataset %s is damaged in block %zu (rows %llu to %llu): expected checksum "
        "%016llx, found %016llx; make the file again or restore a copy",
        reader->path, object->path, block, (unsigned long long)first,
        (unsigned long long)(first + store_block_bytes(object, block) / object->row_bytes - 1),
        (unsigned long long)object->checksum[block], (unsigned long long)found);
}

static df_status verify_range(const df_reader *reader, store_object *object, size_t first,
                              size_t last) {
    char *scratch = NULL;
    df_status status = DF_OK;
    for (size_t block = first; block <= last && status == DF_OK; block++) {
        if (object->sound[block] != 0) continue;
        if (scratch == NULL) DF_GO(DF_NEW(scratch, object->block_rows * object->row_bytes));
        status = verify_block(reader, object, block, scratch);
    }
done:
    df_free(scratch);
    return status;
}

df_status df_reader_rows(const df_reader *reader, const char *dataset, uint64_t first,
                         uint64_t count, bool verify, void *out) {
    store_object *object;
    DF_TRY(store_reader_dataset(reader, dataset, &object));
    if (first > object->shape[0] || count > object->shape[0] - first)
        return df_fail(DF_BAD_INPUT, "%s: asked for rows %llu to %llu of %s, which has %llu",
                       reader->path, (unsigned long long)first, (unsigned long long)(first + count),
                       dataset, (unsigned long long)object->shape[0]);
    if (count == 0 || object->row_bytes == 0) return DF_OK;
    if (object->split)
        return store_parts_rows(reader, object, (df_range){first, count}, verify, out);
    if (verify)
        DF_TRY(verify_range(reader, object, (first + object->shift) / object->block_rows,
                            (first + object->shift + count - 1) / object->block_rows));
    DF_TRY_AS(store_pread(reader->descriptor, reader->path, out, count * object->row_bytes,
                          object->offset + first * object->row_bytes),
              "reading %s", dataset);
    return DF_OK;
}

df_status df_reader_all(const df_reader *reader, const char *dataset, df_type type,
                        int64_t elements, void **out) {
    store_object *object;
    *out = NULL;
    DF_TRY(store_reader_dataset(reader, dataset, &object));
    uint64_t found = object->bytes / df_type_bytes(object->type);
    if (object->type != type || (elements >= 0 && (uint64_t)elements != found))
        return df_fail(DF_BAD_INPUT,
                       "%s: expected %s as %lld elements of type %s, found %llu of %s",
                       reader->path, dataset, (long long)elements, df_type_name(type),
                       (unsigned long long)found, df_type_name(object->type));
    void *data = df_alloc(object->bytes, 1);
    if (data == NULL) return DF_FAILED;
    df_status status = df_reader_rows(reader, dataset, 0, object->shape[0], true, data);
    if (status == DF_OK)
        *out = data;
    else
        df_free(data);
    return status;
}

df_status store_verify_all(const df_reader *reader) {
    for (size_t i = 0; i < reader->table.n; i++) {
        store_object *object = &reader->table.objects[i];
        if (object->checksum != NULL && !object->split && object->blocks > 0)
            DF_TRY(verify_range(reader, object, 0, object->blocks - 1));
    }
    return store_parts_verify(reader);
}

/* ---- attributes and groups ------------------------------------------------------------------ */

static df_status find_attribute(const df_reader *reader, const char *where, const char *name,
                                store_kind kind, const store_attribute **out) {
    static const char *const kinds[] = {"a text", "an integer", "a real number"};
    const store_object *object = store_table_find(&reader->table, where);
    *out = object != NULL ? store_find_attribute(object, name) : NULL;
    if (object == NULL)
        return df_fail(DF_BAD_INPUT, "%s has no group or dataset %s", reader->path, where);
    if (*out == NULL)
        return df_fail(DF_BAD_INPUT, "%s: %s has no attribute %s", reader->path, object->path,
                       name);
    if ((*out)->kind == kind) return DF_OK;
    return df_fail(DF_BAD_INPUT, "%s: attribute %s of %s: expected %s, found %s", reader->path,
                   name, object->path, kinds[kind], kinds[(*out)->kind]);
}

df_status df_reader_text(const df_reader *reader, const char *where, const char *name, char **out) {
    const store_attribute *found;
    *out = NULL;
    DF_TRY(find_attribute(reader, where, name, STORE_TEXT, &found));
    *out = df_strdup(found->text);
    return *out != NULL ? DF_OK : DF_FAILED;
}

df_status df_reader_text_or(const df_reader *reader, const char *where, const char *name,
                            const char *absent, char **out) {
    const store_object *object = store_table_find(&reader->table, where);
    if (object == NULL || store_find_attribute(object, name) != NULL)
        return df_reader_text(reader, where, name, out);
    *out = df_strdup(absent);
    return *out != NULL ? DF_OK : DF_FAILED;
}

df_status df_reader_int(const df_reader *reader, const char *where, const char *name,
                        int64_t *out) {
    const store_attribute *found;
    DF_TRY(find_attribute(reader, where, name, STORE_INT, &found));
    *out = found->integer;
    return DF_OK;
}

df_status df_reader_real(const df_reader *reader, const char *where, const char *name,
                         double *out) {
    const store_attribute *found;
    DF_TRY(find_attribute(reader, where, name, STORE_REAL, &found));
    *out = found->real;
    return DF_OK;
}

static bool directly_in(const store_object *object, const char *group) {
    size_t n = strcmp(group, "/") == 0 ? 0 : strlen(group);
    return object->checksum != NULL && strncmp(object->path, group, n) == 0 &&
           object->path[n] == '/' && strchr(object->path + n + 1, '/') == NULL;
}

df_status df_reader_list(const df_reader *reader, const char *group, char ***names, size_t *n) {
    char **list;
    *n = 0;
    *names = NULL;
    if (group[0] == '\0') group = "/";
    if (store_table_find(&reader->table, group) == NULL)
        return df_fail(DF_BAD_INPUT, "%s has no group %s", reader->path, group);
    DF_TRY(DF_NEW(list, reader->table.n + 1));
    for (size_t i = 0; i < reader->table.n; i++) {
        const store_object *object = &reader->table.objects[i];
        if (!directly_in(object, group)) continue;
        list[*n] = df_strdup(strrchr(object->path, '/') + 1);
        if (list[*n] != NULL) {
            (*n)++;
            continue;
        }
        for (size_t j = 0; j < *n; j++) df_free(list[j]);
        df_free(list);
        *n = 0;
        return DF_FAILED;
    }
    *names = list;
    return DF_OK;
}
