/* A folder that is written whole under another name and renamed last. */
#include "exchange.h"

#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// Calls `act` with every entry of a folder; the first failure ends it.
static df_status each(const char *folder, const char *to,
                      df_status (*act)(const char *from, const char *to)) {
    DIR *open = opendir(folder);
    df_status status = DF_OK;
    if (open == NULL) return df_fail(DF_FAILED, "cannot list %s: %s", folder, strerror(errno));
    for (struct dirent *entry = readdir(open); entry != NULL && status == DF_OK;
         entry = readdir(open)) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        char *from = df_format("%s/%s", folder, entry->d_name);
        char *target = df_format("%s/%s", to, entry->d_name);
        status = from != NULL && target != NULL ? act(from, target) : DF_FAILED;
        df_free(from);
        df_free(target);
    }
    closedir(open);
    return status;
}

static df_status remove_one(const char *from, const char *to) {
    (void)to;
    if (unlink(from) == 0) return DF_OK;
    return df_fail(DF_FAILED, "cannot remove %s: %s", from, strerror(errno));
}

static df_status move_one(const char *from, const char *to) {
    if (rename(from, to) == 0) return DF_OK;
    return df_fail(DF_FAILED, "cannot rename %s to %s: %s", from, to, strerror(errno));
}

df_status exchange_folder_begin(const char *path, bool overwrite, char **part) {
    struct stat facts;
    *part = NULL;
    if (stat(path, &facts) == 0 && (!overwrite || !S_ISDIR(facts.st_mode)))
        return df_fail(DF_USAGE, "%s exists: give another name%s", path,
                       S_ISDIR(facts.st_mode) ? ", or --force to replace its files" : "");
    *part = df_format("%s.part", path);
    if (*part == NULL) return DF_FAILED;
    DF_TRY(df_make_folder(*part));
    return each(*part, *part, remove_one); // what a killed run left
}

df_status exchange_folder_place(const char *part, const char *path) {
    if (!df_file_exists(path)) return move_one(part, path);
    DF_TRY(each(part, path, move_one));
    return rmdir(part) == 0 ? DF_OK
                            : df_fail(DF_FAILED, "cannot remove %s: %s", part, strerror(errno));
}

void exchange_folder_clear(const char *part) {
    if (each(part, part, remove_one) != DF_OK)
        return; // the failure that led here is the one to tell
    rmdir(part);
}
