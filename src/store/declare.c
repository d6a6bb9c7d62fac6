/* Declaring what a file will hold, and values known late.
 *
 * A declaration is a record in memory until df_file_ready. A wrong one fails at once, on every rank
 * alike. Short memory may strike one rank alone: it is remembered, and all ranks leave
 * df_file_ready together. */
#include "parts.h"

#include <string.h>

static df_status check_path(const char *path) {
    size_t n = strlen(path);
    if (path[0] == '/' && n > 1 && path[n - 1] != '/' && strstr(path, "//") == NULL &&
        !store_under(path, STORE_CHECKSUMS) && n < 900)
        return DF_OK;
    return df_fail(DF_FAILED, "\"%s\" cannot be the path of a dataset", path);
}

static df_status still_open(const df_file *file) {
    if (!file->ready) return DF_OK;
    return df_fail(DF_FAILED, "%s: declared too late, the file is ready", file->part);
}

static store_declaration *new_attribute(df_file *file, const char *where, const char *name) {
    if (df_grow((void **)&file->attributes, &file->attribute_capacity, file->n_attributes + 1,
                sizeof *file->attributes) != DF_OK)
        return NULL;
    store_declaration *made = &file->attributes[file->n_attributes];
    *made = (store_declaration){.where = df_strdup(where), .name = df_strdup(name)};
    if (made->where != NULL && made->name != NULL) {
        file->n_attributes++;
        return made;
    }
    df_free(made->where);
    df_free(made->name);
    return NULL;
}

// *out is NULL when memory was short.
static df_status attribute(df_file *file, const char *where, const char *name,
                           store_declaration **out) {
    DF_TRY(still_open(file));
    if (where[0] == '\0') where = "/";
    for (size_t i = 0; i < file->n_attributes; i++)
        if (strcmp(file->attributes[i].where, where) == 0 &&
            strcmp(file->attributes[i].name, name) == 0)
            return df_fail(DF_FAILED, "%s: attribute %s of %s is declared twice", file->path, name,
                           where);
    *out = new_attribute(file, where, name);
    if (*out == NULL) (void)store_remember(file, DF_FAILED);
    return DF_OK;
}

df_status store_declare_text(df_file *file, const char *where, const char *name, const char *value,
                             size_t room) {
    store_declaration *made;
    DF_TRY(attribute(file, where, name, &made));
    if (made == NULL) return DF_OK;
    made->kind = STORE_TEXT;
    made->room = room;
    if (store_remember(file, DF_NEW(made->text, room)) == DF_OK)
        memcpy(made->text, value, strlen(value));
    return DF_OK;
}

df_status df_file_text(df_file *file, const char *where, const char *name, const char *value) {
    if (value == NULL) value = "";
    return store_declare_text(file, where, name, value, strlen(value) + 1);
}

df_status df_file_int(df_file *file, const char *where, const char *name, int64_t value) {
    store_declaration *made;
    DF_TRY(attribute(file, where, name, &made));
    if (made == NULL) return DF_OK;
    made->kind = STORE_INT;
    made->integer = value;
    return DF_OK;
}

df_status df_file_real(df_file *file, const char *where, const char *name, double value) {
    store_declaration *made;
    DF_TRY(attribute(file, where, name, &made));
    if (made == NULL) return DF_OK;
    made->kind = STORE_REAL;
    made->real = value;
    return DF_OK;
}

static df_status describe(df_file *file, const df_dataset *spec) {
    if (spec->units != NULL) DF_TRY(df_file_text(file, spec->path, "units", spec->units));
    if (spec->long_name != NULL)
        DF_TRY(df_file_text(file, spec->path, "long_name", spec->long_name));
    if (spec->labels != NULL) DF_TRY(df_file_text(file, spec->path, "labels", spec->labels));
    return DF_OK;
}

static df_status check_dataset(const df_file *file, const df_dataset *spec) {
    DF_TRY(still_open(file));
    DF_TRY(check_path(spec->path));
    if (spec->dims < 1 || spec->dims > DF_MAX_DIMS)
        return df_fail(DF_FAILED, "%s: %d dimensions", spec->path, spec->dims);
    for (size_t i = 0; i < file->n_datasets; i++)
        if (strcmp(file->datasets[i].path, spec->path) == 0)
            return df_fail(DF_FAILED, "%s is declared twice", spec->path);
    store_object measured = {.path = (char *)spec->path, .type = spec->type, .dims = spec->dims};
    memcpy(measured.shape, spec->shape, (size_t)spec->dims * sizeof *spec->shape);
    return store_measure(&measured);
}

static df_status new_dataset(df_file *file, const df_dataset *spec) {
    DF_TRY(df_grow((void **)&file->datasets, &file->dataset_capacity, file->n_datasets + 1,
                   sizeof *file->datasets));
    store_object *made = &file->datasets[file->n_datasets];
    *made = (store_object){.is_dataset = true, .type = spec->type, .dims = spec->dims};
    memcpy(made->shape, spec->shape, (size_t)spec->dims * sizeof *made->shape);
    made->path = df_strdup(spec->path);
    if (made->path == NULL) return DF_FAILED;
    file->n_datasets++;
    return store_measure(made);
}

df_status df_file_dataset(df_file *file, const df_dataset *spec, int *id) {
    DF_TRY(check_dataset(file, spec));
    if (id != NULL) *id = (int)file->n_datasets;
    if (store_remember(file, new_dataset(file, spec)) != DF_OK) return DF_OK;
    return describe(file, spec);
}

df_status df_file_id(const df_file *file, const char *dataset, int *id) {
    for (size_t i = 0; i < file->n_datasets; i++) {
        if (strcmp(file->datasets[i].path, dataset) != 0) continue;
        *id = (int)i;
        return DF_OK;
    }
    return df_fail(DF_FAILED, "%s has no dataset %s", file->part, dataset);
}

df_status store_change_add(df_file *file, const char *where, const char *name, store_change **out) {
    if (where[0] == '\0') where = "/";
    for (size_t i = 0; i < file->n_changes; i++) {
        *out = &file->changes[i];
        if (strcmp((*out)->where, where) == 0 && strcmp((*out)->name, name) == 0) return DF_OK;
    }
    DF_TRY(df_grow((void **)&file->changes, &file->change_capacity, file->n_changes + 1,
                   sizeof *file->changes));
    *out = &file->changes[file->n_changes];
    **out = (store_change){.where = df_strdup(where), .name = df_strdup(name)};
    if ((*out)->where != NULL && (*out)->name != NULL) {
        file->n_changes++;
        return DF_OK;
    }
    df_free((void *)(*out)->where);
    df_free((void *)(*out)->name);
    return DF_FAILED;
}

df_status df_file_set_real(df_file *file, const char *where, const char *name, double value) {
    const store_object *object = store_table_find(&file->table, where);
    const store_attribute *known = object != NULL ? store_find_attribute(object, name) : NULL;
    store_change *change;
    if (!file->ready || known == NULL || known->kind != STORE_REAL)
        return df_fail(DF_FAILED, "%s: no real attribute %s of %s is ready to be set", file->part,
                       name, where);
    DF_TRY(store_change_add(file, where, name, &change));
    change->kind = STORE_REAL;
    change->real = value;
    return DF_OK;
}

df_status df_file_get_text(const df_file *file, const char *where, const char *name, char **out) {
    const store_object *object = store_table_find(&file->table, where);
    const store_attribute *known = object != NULL ? store_find_attribute(object, name) : NULL;
    *out = NULL;
    if (known == NULL || known->kind != STORE_TEXT)
        return df_fail(DF_BAD_INPUT, "%s: no text attribute %s of %s", file->part, name, where);
    *out = df_strdup(known->text);
    return *out != NULL ? DF_OK : DF_FAILED;
}
