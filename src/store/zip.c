/* Zip archives as far as numpy makes them: members stored or deflated, zip64 where they are large.
 * The central directory is believed only where it agrees with the bytes. */
#include "tensors.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum {
    LOCAL = 0x04034b50,
    CENTRAL = 0x02014b50,
    END = 0x06054b50,
    END64 = 0x06064b50,
    LOCATOR64 = 0x07064b50,
    LOCAL_BYTES = 30,
    CENTRAL_BYTES = 46,
    END_BYTES = 22,
    END64_BYTES = 56,
    LOCATOR64_BYTES = 20,
    MOST_COMMENT = 65535
};
#define MOST_MEMBERS 100000
/* Deflate reaches 1032 : 1 at most. What is this much larger than the whole archive is no
 * dictionary but a bomb; weights hardly shrink at all. */
#define FREE_BYTES ((uint64_t)64 << 20)
#define FREE_RATIO 100

typedef struct directory {
    const char *file;
    const store_mapping *map;
    uint64_t first, bytes, members; /* of the central directory */
} directory;

bool store_is_zip(const store_mapping *map) {
    if (map->size < 4) return false;
    uint64_t magic = store_load(map->bytes, 4);
    return magic == LOCAL || magic == END;
}

static df_status bad(const char *file, const char *what) {
    return df_fail(DF_BAD_INPUT, "%s: not a sound zip archive: %s", file, what);
}

static df_status bad_member(const char *file, const store_member *m, const char *what) {
    return df_fail(DF_BAD_INPUT, "%s: member \"%.*s\": %s", file,
                   (int)(m->name_bytes < 80 ? m->name_bytes : 80), m->name, what);
}

/* ---- the end of the archive --------------------------------------------------------------------
 */

// The record lies last, but for its comment, whose length it holds.
static const char *find_end(const store_mapping *map) {
    for (size_t back = END_BYTES; back <= map->size && back <= END_BYTES + MOST_COMMENT; back++) {
        const char *at = map->bytes + map->size - back;
        if (store_load(at, 4) == END && store_load(at + 20, 2) == back - END_BYTES) return at;
    }
    return NULL;
}

// Archives above 4 GiB: the numbers stand in another record, to which a locator points.
static df_status read_end64(directory *d, const char *end) {
    uint64_t before = (uint64_t)(end - d->map->bytes);
    if (before < LOCATOR64_BYTES || store_load(end - LOCATOR64_BYTES, 4) != LOCATOR64)
        return bad(d->file, "its end record points to a zip64 record that is not there");
    uint64_t at = store_load(end - LOCATOR64_BYTES + 8, 8);
    if (at > before || before - at < END64_BYTES || store_load(d->map->bytes + at, 4) != END64)
        return bad(d->file, "its zip64 locator points past the end");
    const char *record = d->map->bytes + at;
    d->members = store_load(record + 32, 8);
    d->bytes = store_load(record + 40, 8);
    d->first = store_load(record + 48, 8);
    return DF_OK;
}

static df_status read_end(directory *d) {
    const char *end = find_end(d->map);
    if (end == NULL) return bad(d->file, "no end record: the file is truncated");
    d->members = store_load(end + 10, 2);
    d->bytes = store_load(end + 12, 4);
    d->first = store_load(end + 16, 4);
    if (d->members == 0xffff || d->bytes == 0xffffffff || d->first == 0xffffffff)
        DF_TRY(read_end64(d, end));
    uint64_t before = (uint64_t)(end - d->map->bytes);
    if (d->first > before || d->bytes > before - d->first)
        return bad(d->file, "its directory lies past its end: truncated or damaged");
    if (d->members > MOST_MEMBERS || d->members * CENTRAL_BYTES > d->bytes)
        return bad(d->file, "its directory is too small for the members that it announces");
    return DF_OK;
}

/* ---- one member --------------------------------------------------------------------------------
 */

// Fields that do not fit 32 bits stand in the extra field 1, in this order, each only if needed.
static df_status read_zip64(const char *file, store_member *m, const char *extra, size_t bytes) {
    uint64_t *fields[] = {&m->bytes, &m->packed, &m->header};
    for (size_t at = 0; at + 4 <= bytes;) {
        size_t id = store_load(extra + at, 2), length = store_load(extra + at + 2, 2);
        if (length > bytes - at - 4) return bad_member(file, m, "an extra field is cut off");
        const char *value = extra + at + 4, *end = value + length;
        at += 4 + length;
        if (id != 1) continue;
        for (size_t i = 0; i < 3; i++) {
            if (*fields[i] != 0xffffffff) continue;
            if (end - value < 8) return bad_member(file, m, "its zip64 field is too short");
            *fields[i] = store_load(value, 8);
            value += 8;
        }
    }
    return DF_OK;
}

static df_status check_sizes(const directory *d, const store_member *m) {
    if (!m->deflated && m->packed != m->bytes)
        return bad_member(d->file, m, "it is stored, but its two sizes differ");
    if (m->deflated && m->bytes / 1032 > m->packed + 64)
        return bad_member(d->file, m, "no deflated data of this size unpack to what it announces");
    if (m->bytes > FREE_BYTES && m->bytes / FREE_RATIO > d->map->size)
        return bad_member(d->file, m,
                          "it would unpack to more than 100 times the whole archive: refused");
    return DF_OK;
}

// Where its bytes lie: behind the local header, before the directory.
static df_status locate(const directory *d, store_member *m) {
    if (m->header > d->first || d->first - m->header < LOCAL_BYTES)
        return bad_member(d->file, m, "its header lies past the directory");
    const char *local = d->map->bytes + m->header;
    if (store_load(local, 4) != LOCAL) return bad_member(d->file, m, "it has no local header");
    uint64_t skip = LOCAL_BYTES + store_load(local + 26, 2) + store_load(local + 28, 2);
    uint64_t room = d->first - m->header;
    if (skip > room || m->packed > room - skip)
        return bad_member(d->file, m, "its bytes run into the directory: truncated or damaged");
    m->data = local + skip;
    return DF_OK;
}

static df_status read_member(const directory *d, const char *at, size_t left, store_member *m,
                             size_t *used) {
    if (left < CENTRAL_BYTES || store_load(at, 4) != CENTRAL)
        return bad(d->file, "its directory ends early");
    size_t name = store_load(at + 28, 2), extra = store_load(at + 30, 2),
           comment = store_load(at + 32, 2);
    *used = CENTRAL_BYTES + name + extra + comment;
    if (*used > left) return bad(d->file, "its directory ends early");
    uint64_t method = store_load(at + 10, 2);
    *m = (store_member){.name = at + CENTRAL_BYTES,
                        .name_bytes = name,
                        .deflated = method == Z_DEFLATED,
                        .crc = (uint32_t)store_load(at + 16, 4),
                        .packed = store_load(at + 20, 4),
                        .bytes = store_load(at + 24, 4),
                        .header = store_load(at + 42, 4)};
    if ((store_load(at + 8, 2) & 1) != 0) return bad_member(d->file, m, "it is encrypted");
    if (method != 0 && method != Z_DEFLATED)
        return bad_member(d->file, m, "its compression is neither none nor deflate");
    DF_TRY(read_zip64(d->file, m, at + CENTRAL_BYTES + name, extra));
    DF_TRY(check_sizes(d, m));
    return locate(d, m);
}

static int by_place(const void *a, const void *b) {
    const store_member *x = *(const store_member *const *)a, *y = *(const store_member *const *)b;
    return (x->header > y->header) - (x->header < y->header);
}

// Members that share bytes are how a small archive unpacks to a huge one.
static df_status check_overlaps(const directory *d, const store_member *members, size_t n) {
    const store_member **order;
    df_status status = DF_OK;
    DF_TRY(DF_NEW(order, n));
    for (size_t i = 0; i < n; i++) order[i] = &members[i];
    if (n > 0) qsort(order, n, sizeof *order, by_place);
    for (size_t i = 1; i < n && status == DF_OK; i++) {
        const store_member *before = order[i - 1];
        if (before->data + before->packed > d->map->bytes + order[i]->header)
            status = bad_member(d->file, order[i], "its bytes overlap another member's");
    }
    df_free(order);
    return status;
}

df_status store_zip_members(const char *file, const store_mapping *map, store_member **out,
                            size_t *n) {
    directory d = {.file = file, .map = map};
    df_status status = DF_OK;
    *out = NULL;
    *n = 0;
    DF_TRY(read_end(&d));
    DF_TRY(DF_NEW(*out, d.members));
    const char *at = map->bytes + d.first;
    size_t left = d.bytes, used = 0;
    for (; *n < d.members; at += used, left -= used, ++*n)
        DF_GO(read_member(&d, at, left, &(*out)[*n], &used));
    DF_GO(check_overlaps(&d, *out, *n));
done:
    if (status == DF_OK) return DF_OK;
    df_free(*out);
    *out = NULL;
    return status;
}

/* ---- unpacking ---------------------------------------------------------------------------------
 */

// zlib counts in 32 bits: both sides go in pieces.
static bool inflate_all(z_stream *z, const store_member *m, char *out) {
    const uint64_t most = (uint64_t)1 << 30;
    uint64_t in_left = m->packed, out_left = m->bytes;
    z->next_in = (Bytef *)m->data;
    z->next_out = (Bytef *)out;
    for (int code = Z_OK; code == Z_OK;) {
        if (z->avail_in == 0) z->avail_in = (uInt)(in_left < most ? in_left : most);
        if (z->avail_out == 0) z->avail_out = (uInt)(out_left < most ? out_left : most);
        uInt in = z->avail_in, room = z->avail_out;
        code = inflate(z, Z_NO_FLUSH);
        in_left -= in - z->avail_in;
        out_left -= room - z->avail_out;
        if (code == Z_STREAM_END) return in_left == 0 && out_left == 0;
    }
    return false;
}

static df_status unpack(const char *file, const store_member *m, char *out) {
    z_stream z = {0};
    if (inflateInit2(&z, -MAX_WBITS) != Z_OK)
        return df_fail(DF_FAILED, "%s: zlib cannot start", file);
    bool good = inflate_all(&z, m, out);
    inflateEnd(&z);
    return good ? DF_OK : bad_member(file, m, "its deflated bytes are damaged");
}

static uint32_t checksum(const char *bytes, uint64_t n) {
    const uint64_t most = (uint64_t)1 << 30;
    uLong crc = crc32(0, NULL, 0);
    while (n > 0) {
        uint64_t part = n < most ? n : most;
        crc = crc32(crc, (const Bytef *)bytes, (uInt)part);
        bytes += part;
        n -= part;
    }
    return (uint32_t)crc;
}

df_status store_zip_unpack(const char *file, const store_member *member, const char **bytes,
                           void **owned) {
    *owned = NULL;
    *bytes = member->data;
    if (member->deflated) {
        char *room;
        DF_TRY(DF_NEW(room, member->bytes + 1));
        *owned = room;
        *bytes = room;
        df_status status = unpack(file, member, room);
        if (status != DF_OK) {
            df_free(room);
            *owned = NULL;
            return status;
        }
    }
    if (checksum(*bytes, member->bytes) == member->crc) return DF_OK;
    df_free(*owned);
    *owned = NULL;
    return bad_member(file, member, "its checksum does not fit: the file is damaged");
}
