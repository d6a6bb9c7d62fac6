/* Validating any file of ours: what df_reader_open refuses, checksums, and the layout of the
 * format. */
#include "parts.h"

#include <string.h>

typedef struct report {
    char *text;
    size_t used, capacity;
} report;

static df_status add_line(report *to, char *line) {
    if (line == NULL) return DF_FAILED;
    size_t n = strlen(line);
    df_status status = df_grow((void **)&to->text, &to->capacity, to->used + n + 2, 1);
    if (status == DF_OK) {
        memcpy(to->text + to->used, line, n);
        to->used += n;
        memcpy(to->text + to->used, "\n", 2);
        to->used++;
    }
    df_free(line);
    return status;
}

/* ---- activations ---------------------------------------------------------------------------- */

static df_status check_activations(const df_reader *reader, report *to) {
    df_acts *acts;
    DF_TRY(df_acts_open(reader->path, &acts));
    df_status status = add_line(
        to,
        df_format("activations of %s over %s: %llu rows, %llu windows, %llu documents, %zu sites",
                  acts->model, acts->corpus, (unsigned long long)acts->rows,
                  (unsigned long long)acts->windows, (unsigned long long)acts->documents,
                  acts->sites));
    for (size_t i = 0; i < acts->sites && status == DF_OK; i++)
        status =
            add_line(to, df_format("site %s: width %llu, %s, mean |x|^2 %g", acts->site[i].name,
                                   (unsigned long long)acts->site[i].width,
                                   df_type_name(acts->site[i].type), acts->site[i].mean_square));
    df_acts_close(&acts);
    return status;
}

/* ---- dictionaries --------------------------------------------------------------------------- */

static df_status expect(const df_reader *reader, const char *path, int dims,
                        const uint64_t *shape) {
    df_type type;
    uint64_t found[DF_MAX_DIMS];
    DF_TRY(df_reader_find(reader, path, dims, &type, found));
    if (type != DF_F32)
        return df_fail(DF_BAD_INPUT, "%s: %s holds %s, expected f32", reader->path, path,
                       df_type_name(type));
    for (int d = 0; d < dims; d++)
        if (found[d] != shape[d])
            return df_fail(DF_BAD_INPUT, "%s: extent %d of %s is %llu, expected %llu", reader->path,
                           d, path, (unsigned long long)found[d], (unsigned long long)shape[d]);
    return DF_OK;
}

static df_status expect_in(const df_reader *reader, const char *group, const char *name, int dims,
                           const uint64_t *shape) {
    char *path = df_format("%s/%s", group, name);
    df_status status = path == NULL ? DF_FAILED : expect(reader, path, dims, shape);
    df_free(path);
    return status;
}

// W_enc [m, D_in], W_dec [m, D_out], b_enc [m]; the bias of the output is as wide as W_dec.
static df_status check_group(const df_reader *reader, const char *group, report *to) {
    uint64_t encoder[DF_MAX_DIMS], decoder[DF_MAX_DIMS], bias[DF_MAX_DIMS];
    char *w_enc = df_format("%s/W_enc", group), *w_dec = df_format("%s/W_dec", group);
    df_status status = w_enc != NULL && w_dec != NULL ? DF_OK : DF_FAILED;
    if (status != DF_OK) goto done;
    DF_GO(df_reader_find(reader, w_enc, 2, NULL, encoder));
    DF_GO(df_reader_find(reader, w_dec, 2, NULL, decoder));
    decoder[0] = encoder[0];
    DF_GO(expect(reader, w_enc, 2, encoder));
    DF_GO(expect(reader, w_dec, 2, decoder));
    DF_GO(expect_in(reader, group, "b_enc", 1, encoder));
    DF_GO(df_reader_find(reader, "/b_dec", 1, NULL, bias));
    if (decoder[1] > bias[0])
        DF_GO(df_fail(DF_BAD_INPUT, "%s: %s is wider (%llu) than /b_dec (%llu)", reader->path,
                      w_dec, (unsigned long long)decoder[1], (unsigned long long)bias[0]));
    DF_GO(add_line(to, df_format("%s: %llu latents, reads %llu columns, writes %llu", group,
                                 (unsigned long long)encoder[0], (unsigned long long)encoder[1],
                                 (unsigned long long)decoder[1])));
done:
    df_free(w_enc);
    df_free(w_dec);
    return status;
}

static df_status check_history(const df_reader *reader) {
    char **names = NULL;
    size_t n = 0;
    uint64_t rows = 0;
    df_status status = DF_OK;
    if (store_table_find(&reader->table, "/history") == NULL) return DF_OK;
    DF_TRY(df_reader_list(reader, "/history", &names, &n));
    for (size_t i = 0; i < n; i++) {
        char *path = df_format("/history/%s", names[i]);
        uint64_t shape[DF_MAX_DIMS];
        if (status == DF_OK)
            status = path != NULL ? df_reader_find(reader, path, 1, NULL, shape) : DF_FAILED;
        if (status == DF_OK && i > 0 && shape[0] != rows)
            status =
                df_fail(DF_BAD_INPUT, "%s: %s has %llu rows, expected %llu like the others",
                        reader->path, path, (unsigned long long)shape[0], (unsigned long long)rows);
        rows = shape[0];
        df_free(path);
        df_free(names[i]);
    }
    df_free(names);
    return status;
}

static df_status check_dictionary(const df_reader *reader, report *to) {
    size_t groups = 0;
    for (size_t i = 0; i < reader->table.n; i++) {
        const store_object *object = &reader->table.objects[i];
        if (strncmp(object->path, "/group/", 7) != 0 || object->is_dataset) continue;
        DF_TRY(check_group(reader, object->path, to));
        groups++;
    }
    if (groups == 0)
        return df_fail(DF_BAD_INPUT, "%s has no group of latents under /group", reader->path);
    return check_history(reader);
}

/* ---- any file ------------------------------------------------------------------------------- */

static df_status check_layout(const df_reader *reader, report *to) {
    if (strcmp(reader->format, "darkfield-activations") == 0) return check_activations(reader, to);
    if (strcmp(reader->format, "darkfield-dictionary") == 0) return check_dictionary(reader, to);
    return DF_OK;
}

static df_status check_open(const df_reader *reader, report *to) {
    size_t datasets = 0, blocks = 0;
    char size[16];
    for (size_t i = 0; i < reader->table.n; i++) {
        if (reader->table.objects[i].checksum == NULL) continue;
        datasets++;
        blocks += reader->table.objects[i].blocks;
    }
    df_human_bytes((double)reader->size, size);
    DF_TRY(store_verify_all(reader));
    DF_TRY(add_line(to, df_format("%s: %s, complete, %s", reader->path, reader->format, size)));
    DF_TRY(add_line(to, df_format("%zu datasets, %zu checksum blocks verified", datasets, blocks)));
    DF_TRY(check_layout(reader, to));
    return add_line(to,
                    df_format("digest %016llx", (unsigned long long)store_stored_digest(reader)));
}

df_status df_check(const char *path, char **summary) {
    df_reader *reader;
    report to = {0};
    *summary = NULL;
    DF_TRY(df_reader_open(path, NULL, &reader));
    df_status status = check_open(reader, &to);
    if (status == DF_OK)
        *summary = to.text;
    else
        df_free(to.text);
    df_reader_close(&reader);
    return status;
}
