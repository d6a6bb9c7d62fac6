/* The order in which training sees rows: a pure function of the number of a row, so that any rank
 * computes it and a run continues anywhere. */
#include "darkfield/rows.h"

/* The chunks of an epoch in random order: which chunk and row stand at place j of n. The last chunk
 * is short; what follows it moves up. */
static uint64_t chunk_order(uint64_t seed, uint64_t n, uint64_t j) {
    uint64_t chunks = (n + DF_ORDER_CHUNK - 1) / DF_ORDER_CHUNK;
    uint64_t rest = n - (chunks - 1) * DF_ORDER_CHUNK; // rows of the last
    uint64_t slot_of_last = df_random_unpermute(seed, DF_STREAM_CHUNKS, chunks, chunks - 1);
    uint64_t end = slot_of_last * DF_ORDER_CHUNK + rest;
    if (j >= end) j += DF_ORDER_CHUNK - rest;
    uint64_t chunk = df_random_permute(seed, DF_STREAM_CHUNKS, chunks, j / DF_ORDER_CHUNK);
    return chunk * DF_ORDER_CHUNK + j % DF_ORDER_CHUNK;
}

/* ---- buffers - */

static uint64_t buffers_per_epoch(const df_order *o) {
    return (o->n + o->buffer - 1) / o->buffer;
}

uint64_t df_order_room(const df_order *o, uint64_t piece) {
    uint64_t first = piece % buffers_per_epoch(o) * o->buffer;
    return o->n - first < o->buffer ? o->n - first : o->buffer;
}

void df_order_find(const df_order *o, uint64_t i, uint64_t *piece, uint64_t *place) {
    uint64_t epoch = i / o->n, buffer = i % o->n / o->buffer;
    *piece = epoch * buffers_per_epoch(o) + buffer;
    uint64_t key = df_random_bits(o->seed, DF_STREAM_BUFFER, *piece);
    *place = df_random_permute(key, DF_STREAM_BUFFER, df_order_room(o, *piece),
                               i % o->n - buffer * o->buffer);
}

uint64_t df_order_place(const df_order *o, uint64_t piece, uint64_t place) {
    uint64_t each = buffers_per_epoch(o);
    return chunk_order(o->seed + piece / each, o->n, piece % each * o->buffer + place);
}

/* ---- any order - */

uint64_t df_order_at(const df_order *o, uint64_t i) {
    uint64_t piece, place;
    switch (o->how) {
    case DF_SHUFFLE_EXACT:
        return df_random_permute(o->seed + i / o->n, DF_STREAM_SHUFFLE, o->n, i % o->n);
    case DF_SHUFFLE_BUFFER:
        df_order_find(o, i, &piece, &place);
        return df_order_place(o, piece, place);
    case DF_SHUFFLE_GLOBAL:
        return i < o->n ? i : chunk_order(o->seed + i / o->n, o->n, i % o->n);
    default:
        return i;
    }
}
