/* The files of a corpus: which they are, and what they hold. */
#include "corpus_parts.h"

#include <dirent.h>
#include <errno.h>
#include <glob.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* ---- names ---------------------------------------------------------------------------------- */

static bool ends_with(const char *text, size_t n, const char *suffix) {
    size_t m = strlen(suffix);
    return n >= m && memcmp(text + n - m, suffix, m) == 0;
}

static bool has_suffix(const char *path, const char *const *suffixes) {
    size_t n = store_plain_length(path);
    for (; *suffixes != NULL; suffixes++)
        if (ends_with(path, n, *suffixes)) return true;
    return false;
}

size_t store_plain_length(const char *path) {
    size_t n = strlen(path);
    if (ends_with(path, n, ".gz")) return n - 3;
    return ends_with(path, n, ".zst") ? n - 4 : n;
}

bool store_is_lines(const char *path) {
    static const char *const suffixes[] = {".jsonl", ".ndjson", ".json", NULL};
    return has_suffix(path, suffixes);
}

bool store_is_arrays(const char *path) {
    static const char *const suffixes[] = {".npy", ".npz", ".safetensors", NULL};
    return has_suffix(path, suffixes);
}

static bool is_text_name(const char *name) {
    static const char *const suffixes[] = {".txt", ".text", NULL};
    return name[0] != '.' &&
           (store_is_lines(name) || store_is_arrays(name) || has_suffix(name, suffixes));
}

/* ---- lists ---------------------------------------------------------------------------------- */

typedef struct list {
    char **at;
    size_t n, capacity;
} list;

void store_free_list(char **files, size_t n) {
    for (size_t i = 0; i < n; i++) df_free(files[i]);
    df_free(files);
}

// Takes over `path`, which may be NULL for want of memory.
static df_status add(list *all, char *path) {
    df_status status = path != NULL ? DF_OK : DF_FAILED;
    if (status == DF_OK)
        status = df_grow((void **)&all->at, &all->capacity, all->n + 1, sizeof *all->at);
    if (status == DF_OK)
        all->at[all->n++] = path;
    else
        df_free(path);
    return status;
}

static df_status list_folder(const char *folder, list *all) {
    DIR *open = opendir(folder);
    df_status status = DF_OK;
    if (open == NULL)
        return df_fail(DF_BAD_INPUT, "cannot open the folder %s: %s", folder, strerror(errno));
    for (struct dirent *entry; status == DF_OK && (entry = readdir(open)) != NULL;)
        if (is_text_name(entry->d_name))
            status = add(all, df_format("%s/%s", folder, entry->d_name));
    closedir(open);
    if (status == DF_OK && all->n == 0)
        status = df_fail(DF_BAD_INPUT,
                         "%s holds no texts: expected *.jsonl, *.ndjson, *.json, *.txt, *.text "
                         "(also .gz and .zst), *.npy, *.npz or *.safetensors",
                         folder);
    return status;
}

static df_status list_matches(const char *pattern, list *all) {
    glob_t found = {0};
    int code = glob(pattern, GLOB_NOSORT | GLOB_ERR, NULL, &found);
    df_status status = DF_OK;
    if (code == GLOB_NOMATCH)
        status = df_fail(DF_BAD_INPUT, "no file matches %s", pattern);
    else if (code != 0)
        status = df_fail(code == GLOB_NOSPACE ? DF_FAILED : DF_BAD_INPUT,
                         "the files that match %s cannot be listed", pattern);
    for (size_t i = 0; i < found.gl_pathc && status == DF_OK; i++)
        status = add(all, df_strdup(found.gl_pathv[i]));
    globfree(&found);
    return status;
}

static int by_bytes(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

df_status store_list_texts(const char *path, char ***files, size_t *n) {
    struct stat facts;
    list all = {0};
    bool exists = stat(path, &facts) == 0, pattern = strpbrk(path, "*?[") != NULL;
    df_status status = exists && S_ISDIR(facts.st_mode) ? list_folder(path, &all)
                       : !exists && pattern             ? list_matches(path, &all)
                                                        : add(&all, df_strdup(path));
    if (status == DF_OK) qsort(all.at, all.n, sizeof *all.at, by_bytes);
    if (status != DF_OK) {
        store_free_list(all.at, all.n);
        all = (list){0};
    }
    *files = all.at;
    *n = all.n;
    return status;
}

/* ---- contents ------------------------------------------------------------------------------- */

df_status store_read_content(const char *path, store_content *out) {
    *out = (store_content){0};
    DF_TRY(store_map(path, &out->map));
    out->bytes = out->map.bytes;
    out->size = out->map.size;
    if (!store_is_packed(&out->map)) {
        if (store_plain_length(path) == strlen(path)) return DF_OK;
        store_free_content(out);
        return df_fail(DF_BAD_INPUT, "%s: expected gzip or zstd data, as its name says", path);
    }
    df_status status = store_unpack(path, &out->map, &out->owned, &out->size);
    out->bytes = out->owned != NULL ? out->owned : "";
    if (status != DF_OK) store_free_content(out);
    return status;
}

void store_free_content(store_content *content) {
    store_unmap(&content->map);
    df_free(content->owned);
    *content = (store_content){.bytes = "", .map = {.bytes = ""}};
}
