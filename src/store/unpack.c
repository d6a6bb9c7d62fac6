/* Texts packed by gzip or zstd, one member or frame after another, unpacked in one go. */
#include "corpus_parts.h"

#include <string.h>
#include <zlib.h>
#include <zstd.h>

#define PIECE ((size_t)1 << 20)
/* Text shrinks five to tenfold. What grows this much beyond a first allowance is a bomb. */
#define FREE_BYTES ((size_t)256 << 20)
#define FREE_RATIO 1000

typedef struct output {
    const char *path;
    size_t packed; /* bytes of the file */
    char *at;
    size_t n, capacity;
} output;

static df_status damaged(const char *path, const char *what) {
    return df_fail(DF_BAD_INPUT, "%s cannot be unpacked: %s", path, what);
}

// Room for one more piece.
static df_status make_room(output *out) {
    if (out->n > FREE_BYTES && out->n / FREE_RATIO > out->packed)
        return damaged(out->path, "it grows more than a thousandfold, which no text does");
    size_t need;
    DF_TRY(df_add(out->n, PIECE, &need));
    return df_grow((void **)&out->at, &out->capacity, need, 1);
}

/* ---- gzip ----------------------------------------------------------------------------------- */

static bool is_gzip(const store_mapping *map) {
    return map->size >= 2 && memcmp(map->bytes, "\x1f\x8b", 2) == 0;
}

// Bytes of the input that the stream has taken; it counts in 32 bits, so input is handed on by
// pieces.
static df_status inflate_member(output *out, z_stream *z, const char *in, size_t n, size_t *used) {
    int code = Z_OK;
    *used = 0;
    z->avail_in = 0;
    while (code != Z_STREAM_END) {
        if (z->avail_in == 0) {
            size_t piece = n - *used < PIECE ? n - *used : PIECE;
            if (piece == 0) return damaged(out->path, "the file is truncated");
            z->next_in = (Bytef *)(in + *used);
            z->avail_in = (uInt)piece;
            *used += piece;
        }
        DF_TRY(make_room(out));
        z->next_out = (Bytef *)(out->at + out->n);
        z->avail_out = (uInt)PIECE;
        code = inflate(z, Z_NO_FLUSH);
        out->n += PIECE - z->avail_out;
        if (code != Z_OK && code != Z_STREAM_END && code != Z_BUF_ERROR)
            return damaged(out->path, z->msg != NULL ? z->msg : "damaged gzip data");
    }
    *used -= z->avail_in;
    return DF_OK;
}

static bool all_zero(const char *bytes, size_t n) {
    return n == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, n - 1) == 0);
}

static df_status unpack_gzip(output *out, const store_mapping *map) {
    z_stream z = {0};
    size_t at = 0, used = 0;
    df_status status = DF_OK;
    if (inflateInit2(&z, 15 + 16) != Z_OK) return df_fail(DF_FAILED, "out of memory for zlib");
    while (status == DF_OK && at < map->size && !all_zero(map->bytes + at, map->size - at)) {
        status = inflate_member(out, &z, map->bytes + at, map->size - at, &used);
        at += used;
        inflateReset(&z);
    }
    inflateEnd(&z);
    return status;
}

/* ---- zstd ----------------------------------------------------------------------------------- */

static bool is_zstd(const store_mapping *map) {
    return map->size >= 4 && memcmp(map->bytes, "\x28\xb5\x2f\xfd", 4) == 0;
}

static df_status unpack_zstd(output *out, const store_mapping *map) {
    ZSTD_DCtx *context = ZSTD_createDCtx();
    ZSTD_inBuffer in = {map->bytes, map->size, 0};
    df_status status = context != NULL ? DF_OK : df_fail(DF_FAILED, "out of memory for zstd");
    size_t left = 1;   // 0 at the end of a frame
    bool full = false; // the decoder may hold more than it could give
    while (status == DF_OK && (in.pos < in.size || full)) {
        status = make_room(out);
        if (status != DF_OK) break;
        ZSTD_outBuffer to = {out->at + out->n, PIECE, 0};
        left = ZSTD_decompressStream(context, &to, &in);
        if (ZSTD_isError(left)) status = damaged(out->path, ZSTD_getErrorName(left));
        out->n += to.pos;
        full = left != 0 && to.pos == to.size;
    }
    if (status == DF_OK && left != 0) status = damaged(out->path, "the file is truncated");
    ZSTD_freeDCtx(context);
    return status;
}

/* ---- either --------------------------------------------------------------------------------- */

bool store_is_packed(const store_mapping *map) {
    return is_gzip(map) || is_zstd(map);
}

df_status store_unpack(const char *path, const store_mapping *map, char **bytes, size_t *n) {
    output out = {.path = path, .packed = map->size};
    df_status status = is_gzip(map) ? unpack_gzip(&out, map) : unpack_zstd(&out, map);
    *bytes = out.at;
    *n = out.n;
    if (status == DF_OK) return DF_OK;
    df_free(out.at);
    *bytes = NULL;
    return status;
}
