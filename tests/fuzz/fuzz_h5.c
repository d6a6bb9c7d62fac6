/* Our HDF5 files: whatever the bytes, df_check gives a status. (The format's own checksums reject
 * most mutations of structure early: this guards against damage, not against a forger.) */
#include "darkfield/store.h"
#include "fuzz_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *path = fuzz_file(data, size, ".h5");
    char *summary = NULL;
    if (df_check(path, &summary) == DF_OK && summary == NULL) abort();
    df_free(summary);
    unlink(path);
    if (df_memory_now() != 0) abort();
    return 0;
}
