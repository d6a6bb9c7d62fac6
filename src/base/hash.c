/* XXH3-64 of memory and of files. */
#include "darkfield/base.h"

#include <errno.h>
#include <string.h>
#include <xxhash.h>

#define CHUNK ((size_t)1 << 20)

uint64_t df_hash(const void *data, size_t bytes) {
    return XXH3_64bits(data, bytes);
}

uint64_t df_hash_more(uint64_t seed, const void *data, size_t bytes) {
    return XXH3_64bits_withSeed(data, bytes, seed);
}

static df_status hash_stream(FILE *file, const char *path, XXH3_state_t *state, void *chunk) {
    size_t n;
    while ((n = fread(chunk, 1, CHUNK, file)) > 0) (void)XXH3_64bits_update(state, chunk, n);
    if (ferror(file)) return df_fail(DF_BAD_INPUT, "cannot read %s: %s", path, strerror(errno));
    return DF_OK;
}

df_status df_hash_file(const char *path, uint64_t *out) {
    df_status status = DF_OK;
    XXH3_state_t *state = NULL;
    char *chunk = NULL;
    FILE *file = fopen(path, "rb");
    if (file == NULL) return df_fail(DF_BAD_INPUT, "cannot open %s: %s", path, strerror(errno));
    DF_GO(DF_NEW(chunk, CHUNK));
    state = XXH3_createState();
    if (state == NULL) DF_GO(df_fail(DF_FAILED, "out of memory: no hash state for %s", path));
    (void)XXH3_64bits_reset(state);
    DF_GO(hash_stream(file, path, state, chunk));
    *out = XXH3_64bits_digest(state);
done:
    XXH3_freeState(state);
    df_free(chunk);
    fclose(file);
    return status;
}
