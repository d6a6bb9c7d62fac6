/* tensors.h: what the readers of safetensors and npz share. */
#ifndef STORE_TENSORS_H
#define STORE_TENSORS_H

#include "darkfield/store.h"
#include "mapping.h"

struct df_tensors {
    store_mapping *shards;
    size_t n_shards, shard_capacity;
    df_tensor *tensors; /* sorted by name */
    size_t n, capacity;
    void **owned; /* tensors that had to be unpacked */
    size_t n_owned, owned_capacity;
    char *skipped; /* the first tensor left out: a type or rank that we do not know how to use */
    size_t n_skipped;
};

df_status store_keep_tensor(df_tensors *all, const char *name, df_tensor tensor) DF_MUST_CHECK;

/* ---- npz ---------------------------------------------------------------------------------------
 */

bool store_is_zip(const store_mapping *map);
/* Every member NAME.npy of a zip archive becomes the tensor NAME. */
df_status store_npz_read(df_tensors *all, const char *file, const store_mapping *map) DF_MUST_CHECK;

/* A single array, named as the file without ".npy". */
bool store_is_npy(const store_mapping *map);
df_status store_npy_read(df_tensors *all, const char *file, const store_mapping *map) DF_MUST_CHECK;

/* One member of an archive, as its central directory says; checked against the file. */
typedef struct store_member {
    const char *name; /* not terminated */
    size_t name_bytes;
    bool deflated;
    uint32_t crc;
    uint64_t packed, bytes; /* as it lies in the file; unpacked */
    uint64_t header;        /* offset of its local header */
    const char *data;       /* [packed] */
} store_member;
/* Members in the order of the directory, in new memory. No two share bytes. */
df_status store_zip_members(const char *file, const store_mapping *map, store_member **out,
                            size_t *n) DF_MUST_CHECK;
/* The unpacked bytes of a member: in the mapping, or in *owned (new memory, else NULL). The
 * checksum is verified. */
df_status store_zip_unpack(const char *file, const store_member *member, const char **bytes,
                           void **owned) DF_MUST_CHECK;

/* Little-endian numbers in unaligned bytes. */
static inline uint64_t store_load(const char *at, size_t bytes) {
    uint64_t value = 0;
    for (size_t i = bytes; i-- > 0;) value = value << 8 | (unsigned char)at[i];
    return value;
}
static inline void store_save(char *at, uint64_t value, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) at[i] = (char)(value >> (8 * i));
}

#endif
