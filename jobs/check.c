/* darkfield check: validates any file we write; --digest prints the content hash. */
#include "check.h"

#include "darkfield/store.h"

#include <inttypes.h>

static df_status check_one(const char *path, bool digest) {
    if (digest) {
        uint64_t hash = 0;
        DF_TRY_AS(df_digest(path, &hash), "hashing %s", path);
        printf("%016" PRIx64 "  %s\n", hash, path);
        return DF_OK;
    }
    char *summary = NULL;
    df_status status = df_check(path, &summary);
    if (summary != NULL) printf("%s: %s", status == DF_OK ? "sound" : "NOT SOUND", summary);
    df_free(summary);
    return status;
}

df_status df_check_files(const char *const *paths, size_t n, bool digest) {
    if (n == 0)
        return df_fail(
            DF_USAGE,
            "darkfield check needs at least one file: darkfield check [--digest] FILE...");
    df_status worst = DF_OK;
    for (size_t i = 0; i < n; i++) {
        df_status status = check_one(paths[i], digest);
        if (status == DF_OK) continue;
        if (i + 1 < n) df_error_print(status); // the last failure is printed by main
        worst = status;
    }
    return worst;
}
