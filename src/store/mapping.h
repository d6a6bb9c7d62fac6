/* mapping.h: a file mapped read-only. */
#ifndef STORE_MAPPING_H
#define STORE_MAPPING_H

#include "darkfield/base.h"

typedef struct store_mapping {
    const char *bytes; /* never NULL */
    size_t size;
} store_mapping;
df_status store_map(const char *path,
                    store_mapping *out) DF_MUST_CHECK; /* DF_BAD_INPUT names the file */
void store_unmap(store_mapping *mapping);

/* UTF-8. Copies `bytes` of `in` to `out` (room for 3 * bytes), each maximal invalid part replaced
 * by U+FFFD (Unicode's "substitution of maximal subparts"); *repairs counts them. Returns the bytes
 * written. */
size_t store_repair_utf8(const char *in, size_t bytes, char *out, uint64_t *repairs);
bool store_valid_utf8(const char *in, size_t bytes);

#endif
