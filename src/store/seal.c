/* The seal: a checksum of a file's structure, looked at before HDF5 is.
 *
 * HDF5's own checksums do not keep a damaged file from crashing it (1.10.8 frees uninitialised
 * memory on a damaged link), and bad input must not crash us. So the file begins with a user block,
 * which HDF5 leaves alone and skips. It holds the extents of all raw data and the XXH3-64 of every
 * other byte: superblock, headers, links, attributes. A file whose seal does not fit is refused
 * unopened. This finds damage and truncation; it is no defence against a forger. */
#include "parts.h"

#include <stdlib.h>
#include <string.h>

#define TITLE_BYTES 80
#define SMALLEST 4096
#define LARGEST ((uint64_t)64 << 20)
#define CHUNK ((uint64_t)1 << 20)

static const char title[TITLE_BYTES] =
    "darkfield: an HDF5 file; this block holds a checksum of its structure\n";

typedef struct extent {
    uint64_t offset, bytes;
} extent;

typedef struct seal { /* as it stands at byte 0, little-endian */
    char title[TITLE_BYTES];
    uint64_t block_bytes, file_bytes, extents, structure;
    uint64_t self; /* hash of the whole block with this member 0 */
    extent raw[];  /* ascending, apart from each other */
} seal;

// A power of two with room for the extents of n datasets and their checksums.
uint64_t store_seal_bytes(size_t datasets) {
    uint64_t bytes = SMALLEST, need = sizeof(seal) + 2 * datasets * sizeof(extent);
    while (bytes < need) bytes *= 2;
    return bytes;
}

/* ---- hashing -------------------------------------------------------------------------------- */

static df_status hash_span(int descriptor, const char *path, extent span, char *chunk,
                           uint64_t *hash) {
    while (span.bytes > 0) {
        uint64_t n = span.bytes < CHUNK ? span.bytes : CHUNK;
        DF_TRY(store_pread(descriptor, path, chunk, n, span.offset));
        *hash = df_hash_more(*hash, chunk, n);
        span.offset += n;
        span.bytes -= n;
    }
    return DF_OK;
}

// Everything behind the block that is no raw data.
static df_status hash_structure(int descriptor, const char *path, const seal *of, uint64_t *out) {
    char *chunk;
    uint64_t at = of->block_bytes;
    df_status status = DF_OK;
    *out = 0;
    DF_TRY(DF_NEW(chunk, CHUNK));
    for (uint64_t i = 0; i <= of->extents; i++) {
        uint64_t end = i < of->extents ? of->raw[i].offset : of->file_bytes;
        DF_GO(hash_span(descriptor, path, (extent){at, end - at}, chunk, out));
        if (i < of->extents) at = end + of->raw[i].bytes;
    }
done:
    df_free(chunk);
    return status;
}

static uint64_t hash_self(const seal *block) {
    size_t before = offsetof(seal, self), after = offsetof(seal, raw);
    uint64_t hash = df_hash(block, before);
    return df_hash_more(hash, (const char *)block + after, block->block_bytes - after);
}

/* ---- sealing -------------------------------------------------------------------------------- */

static int by_offset(const void *a, const void *b) {
    const extent *x = a, *y = b;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

static void fill_extents(const store_table *table, seal *to) {
    for (size_t i = 0; i < table->n; i++)
        if (table->objects[i].is_dataset && !table->objects[i].split && table->objects[i].bytes > 0)
            to->raw[to->extents++] = (extent){table->objects[i].offset, table->objects[i].bytes};
    if (to->extents > 0) qsort(to->raw, to->extents, sizeof *to->raw, by_offset);
}

df_status store_seal(const df_file *file, uint64_t file_bytes) {
    char *memory;
    uint64_t bytes = store_seal_bytes(file->n_datasets);
    df_status status = DF_OK;
    DF_TRY(DF_NEW(memory, bytes));
    seal *block = (seal *)memory;
    memcpy(block->title, title, sizeof title);
    block->block_bytes = bytes;
    block->file_bytes = file_bytes;
    fill_extents(&file->table, block);
    DF_GO(hash_structure(file->descriptor, file->part, block, &block->structure));
    block->self = hash_self(block);
    DF_GO(store_pwrite(file->descriptor, file->part, block, bytes, 0));
    DF_GO(store_fsync(file->descriptor, file->part));
done:
    df_free(memory);
    return status;
}

/* ---- checking ------------------------------------------------------------------------------- */

static df_status broken(const char *path, const char *what) {
    return df_fail(DF_BAD_INPUT, "%s: %s; the file is damaged, or was changed by another program",
                   path, what);
}

static df_status check_extents(const char *path, const seal *block) {
    uint64_t at = block->block_bytes;
    if (block->extents > (block->block_bytes - sizeof(seal)) / sizeof(extent))
        return broken(path, "its seal names too many datasets");
    for (uint64_t i = 0; i < block->extents; i++) {
        const extent *raw = &block->raw[i];
        if (raw->offset < at || raw->offset > block->file_bytes ||
            raw->bytes > block->file_bytes - raw->offset)
            return broken(path, "its seal names extents outside the file");
        at = raw->offset + raw->bytes;
    }
    return DF_OK;
}

static df_status check_block(int descriptor, const char *path, const seal *block) {
    uint64_t structure;
    if (hash_self(block) != block->self)
        return broken(path, "the seal at its beginning is damaged");
    DF_TRY(check_extents(path, block));
    DF_TRY(hash_structure(descriptor, path, block, &structure));
    if (structure == block->structure) return DF_OK;
    return broken(path, "the checksum of its structure does not fit");
}

static df_status check_start(const char *path, uint64_t size, const seal *start) {
    uint64_t bytes = start->block_bytes;
    if (memcmp(start->title, title, sizeof title) != 0)
        return df_fail(DF_BAD_INPUT,
                       "%s: expected an HDF5 file of darkfield, found a file of another kind",
                       path);
    if (bytes < SMALLEST || bytes > LARGEST || (bytes & (bytes - 1)) != 0 || bytes > size)
        return broken(path, "the seal at its beginning is damaged");
    if (start->file_bytes == size) return DF_OK;
    return df_fail(DF_BAD_INPUT,
                   "%s: expected %llu bytes, found %llu: the file is truncated or incomplete", path,
                   (unsigned long long)start->file_bytes, (unsigned long long)size);
}

df_status store_seal_check(int descriptor, const char *path, uint64_t size) {
    seal start;
    char *memory;
    if (size < sizeof start)
        return df_fail(DF_BAD_INPUT, "%s: expected an HDF5 file of darkfield, found %llu bytes",
                       path, (unsigned long long)size);
    DF_TRY(store_pread(descriptor, path, &start, sizeof start, 0));
    DF_TRY(check_start(path, size, &start));
    DF_TRY(DF_NEW(memory, start.block_bytes));
    df_status status = store_pread(descriptor, path, memory, start.block_bytes, 0);
    if (status == DF_OK) status = check_block(descriptor, path, (const seal *)memory);
    df_free(memory);
    return status;
}
