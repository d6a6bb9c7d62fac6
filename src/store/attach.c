/* What a file being written knows of its own layout, and changes of attributes that already have
 * their place. */
#include "parts.h"

#include <string.h>
#include <sys/stat.h>

/* ---- attaching ------------------------------------------------------------------------------ */

static bool is_data(const store_object *object) {
    return object->is_dataset && !store_under(object->path, STORE_CHECKSUMS);
}

static df_status damaged(const df_file *file, const char *what) {
    return df_fail(DF_BAD_INPUT, "%s: %s", file->part, what);
}

// A resumed file learns its datasets from the table.
static df_status learn_datasets(df_file *file) {
    size_t n = 0;
    for (size_t i = 0; i < file->table.n; i++) n += is_data(&file->table.objects[i]);
    DF_TRY(DF_NEW(file->datasets, n));
    file->n_datasets = n;
    for (size_t i = 0; i < file->table.n; i++) {
        const store_object *object = &file->table.objects[i];
        if (!is_data(object)) continue;
        const store_attribute *id = store_find_attribute(object, "id");
        if (id == NULL || id->kind != STORE_INT || id->integer < 0 || (size_t)id->integer >= n ||
            file->datasets[id->integer].path != NULL)
            return damaged(file, "a dataset has no valid id");
        store_object *mine = &file->datasets[id->integer];
        *mine = (store_object){.is_dataset = true,
                               .type = object->type,
                               .dims = object->dims,
                               .split = object->split,
                               .shift = object->shift};
        memcpy(mine->shape, object->shape, sizeof mine->shape);
        mine->path = df_strdup(object->path);
        if (mine->path == NULL) return DF_FAILED;
        DF_TRY(store_measure(mine));
    }
    return DF_OK;
}

static df_status check_layout(const df_file *file) {
    const store_object *root = store_table_find(&file->table, "/");
    const store_attribute *layout = store_find_attribute(root, "layout");
    const store_attribute *format = store_find_attribute(root, "format");
    if (layout == NULL || format == NULL) return damaged(file, "no layout or format");
    uint64_t expected;
    DF_TRY(store_layout_hash(file->datasets, file->n_datasets, &expected));
    if ((uint64_t)layout->integer != expected) return damaged(file, "another layout");
    return DF_OK;
}

static df_status check_mirror(const df_file *file, const store_object *object) {
    char *path = df_format("%s%s", STORE_CHECKSUMS, object->path);
    if (path == NULL) return DF_FAILED;
    const store_object *mirror = store_table_find(&file->table, path);
    df_free(path);
    if (mirror != NULL && mirror->type == DF_U64 && mirror->dims == 1 &&
        mirror->shape[0] == object->blocks)
        return DF_OK;
    return damaged(file, "checksums are missing");
}

static df_status find_places(df_file *file) {
    DF_TRY(DF_NEW(file->at, file->n_datasets));
    for (size_t i = 0; i < file->n_datasets; i++) {
        const store_object *object = store_table_find(&file->table, file->datasets[i].path);
        if (object == NULL) return damaged(file, "a dataset is missing");
        DF_TRY(check_mirror(file, object));
        file->at[i] = (size_t)(object - file->table.objects);
    }
    return DF_OK;
}

df_status store_attach(df_file *file) {
    struct stat facts;
    if (fstat(file->descriptor, &facts) != 0) return damaged(file, "cannot be looked at");
    DF_TRY(store_table_read(file->part, (uint64_t)facts.st_size, &file->table));
    if (file->n_datasets == 0) DF_TRY(learn_datasets(file));
    DF_TRY(check_layout(file));
    return find_places(file);
}

/* ---- changing attributes -------------------------------------------------------------------- */

static df_status change_text(hid_t attribute, hid_t type, const store_change *change) {
    char *padded;
    size_t room = H5Tget_size(type);
    if (H5Tget_class(type) != H5T_STRING || H5Tis_variable_str(type) > 0 ||
        room < strlen(change->text) + 1)
        return df_fail(DF_FAILED, "no room for the text \"%s\"", change->text);
    DF_TRY(DF_NEW(padded, room));
    memcpy(padded, change->text, strlen(change->text));
    bool done = H5Awrite(attribute, type, padded) >= 0;
    df_free(padded);
    return done ? DF_OK : df_fail(DF_FAILED, "%s", store_h5_reason());
}

static df_status change_value(hid_t attribute, hid_t type, const store_change *change) {
    if (change->kind == STORE_TEXT) return change_text(attribute, type, change);
    bool is_int = change->kind == STORE_INT;
    if (H5Tget_class(type) != (is_int ? H5T_INTEGER : H5T_FLOAT))
        return df_fail(DF_FAILED, "another kind of attribute");
    const void *value = is_int ? (const void *)&change->integer : (const void *)&change->real;
    if (H5Awrite(attribute, is_int ? H5T_NATIVE_INT64 : H5T_NATIVE_DOUBLE, value) >= 0)
        return DF_OK;
    return df_fail(DF_FAILED, "%s", store_h5_reason());
}

static df_status change_one(hid_t file, const store_change *change) {
    df_status status;
    hid_t object = H5Oopen(file, change->where, H5P_DEFAULT);
    hid_t attribute = object < 0 ? -1 : H5Aopen(object, change->name, H5P_DEFAULT);
    hid_t type = attribute < 0 ? -1 : H5Aget_type(attribute);
    if (type < 0)
        status = df_fail(DF_FAILED, "no such attribute: %s", store_h5_reason());
    else
        status = change_value(attribute, type, change);
    if (status != DF_OK) df_context("setting %s of %s", change->name, change->where);
    if (type >= 0) H5Tclose(type);
    if (attribute >= 0) H5Aclose(attribute);
    if (object >= 0) H5Oclose(object);
    return status;
}

// One rank, the serial driver: values of fixed size are rewritten in place, no object moves or
// grows, so no other rank needs to take part.
df_status store_change_attributes(const char *path, const store_change *changes, size_t n) {
    df_status status = DF_OK;
    store_h5_quiet();
    hid_t access = store_h5_access();
    hid_t file = access < 0 ? -1 : H5Fopen(path, H5F_ACC_RDWR, access);
    const char *reason = store_h5_reason();
    if (access >= 0) H5Pclose(access);
    if (file < 0) return df_fail(DF_FAILED, "cannot reopen %s: %s", path, reason);
    for (size_t i = 0; i < n && status == DF_OK; i++) status = change_one(file, &changes[i]);
    if (H5Fclose(file) < 0 && status == DF_OK)
        status = df_fail(DF_FAILED, "cannot write attributes of %s: %s", path, store_h5_reason());
    return status;
}
