/* Composition of every head with every head of an earlier layer, through [h, h] products alone:
 * |A' X B|^2 = <(A A') X, X (B B')> for X between the two heads, A and B their outer matrices. */
#include "parts.h"

#include <math.h>
#include <omp.h>

size_t df_lens_pairs(const df_model_shape *shape) {
    return shape->heads * shape->layers * (shape->layers - 1) / 2;
}

size_t df_lens_pair(const df_model_shape *shape, size_t earlier_layer, size_t earlier_head,
                    size_t later_layer) {
    return shape->heads * (later_layer * (later_layer - 1) / 2 + earlier_layer) + earlier_head;
}

/* The later layer's readers, shared by the threads, and what a thread needs. */
typedef struct composing {
    const df_model *model;
    const df_model_shape *shape;
    const lens_grams *grams;
    const double *norm[2]; // |OV|, |QK| [L, H]
    size_t readers;        // rows of q, k and v together
    size_t layer;          // the later one
    double *reader;        // [readers, d]
    double *room;          // [threads, room_doubles]
} composing;

static size_t reader_rows(const df_model_shape *s) {
    return (s->heads + 2 * s->kv_heads) * s->head_width;
}

static size_t room_doubles(const df_model_shape *s) {
    size_t h = s->head_width;
    return h * s->width + 2 * reader_rows(s) * h + h * h;
}

// Folded readers of the layer, head under head: all q, then k, then v.
static void read_layer(const composing *c) {
    const df_model_shape *s = c->shape;
    size_t matrices = s->heads + 2 * s->kv_heads, block = s->head_width * s->width;
#pragma omp parallel for schedule(dynamic, 1)
    for (size_t i = 0; i < matrices; i++) {
        bool q = i < s->heads, k = !q && i < s->heads + s->kv_heads;
        size_t head = q ? i : k ? i - s->heads : i - s->heads - s->kv_heads;
        df_lens_folded(c->model,
                       q   ? PART_Q
                       : k ? PART_K
                           : PART_V,
                       c->layer, head, c->reader + i * block);
    }
}

// c [m, h] = a [m, k] b, b [k, h] or its transpose.
static void multiply(size_t m, size_t h, size_t k, const double *a, const double *b, df_op op,
                     double *c) {
    df_local_multiply(&(df_local_product){.m = m,
                                          .n = h,
                                          .k = k,
                                          .op_b = op,
                                          .a = a,
                                          .b = b,
                                          .c = c,
                                          .lda = k,
                                          .ldb = op == DF_TRANSPOSED ? k : h,
                                          .ldc = h});
}

// One score: outer' x (earlier head), x and x times the earlier head's W_V W_V' given.
static double score(const composing *c, const double *outer, const double *x, const double *xb,
                    double *small) {
    size_t h = c->shape->head_width;
    multiply(h, h, h, outer, x, DF_PLAIN, small);
    return sqrt(fmax(df_lens_inner(small, xb, h * h), 0.0));
}

// Every head of the later layer with one earlier head: out [H, DF_LENS_COMPOSITIONS].
static void compose(const composing *c, size_t layer, size_t head, double *room, double *out) {
    const df_model_shape *s = c->shape;
    size_t h = s->head_width, block = h * h, rows = c->readers;
    double *o = room, *x = o + h * s->width, *xb = x + rows * h, *small = xb + rows * h;
    double ov = c->norm[0][layer * s->heads + head];
    df_lens_folded(c->model, PART_O, layer, head, o);
    multiply(rows, h, s->width, c->reader, o, DF_TRANSPOSED, x);
    multiply(rows, h, h, x, df_lens_gram(c->grams, s, PART_V, layer, head), DF_PLAIN, xb);
    for (size_t later = 0; later < s->heads; later++) {
        size_t group = df_lens_group(s, later), number = c->layer * s->heads + later;
        const size_t at[DF_LENS_COMPOSITIONS] = {later, s->heads + group,
                                                 s->heads + s->kv_heads + group};
        const head_part outer[DF_LENS_COMPOSITIONS] = {PART_K, PART_Q, PART_O};
        for (size_t i = 0; i < DF_LENS_COMPOSITIONS; i++) {
            const double *gram = df_lens_gram(c->grams, s, outer[i], c->layer, later);
            double whole = ov * c->norm[i < 2][number];
            out[later * DF_LENS_COMPOSITIONS + i] =
                score(c, gram, x + at[i] * block, xb + at[i] * block, small) / whole;
        }
    }
}

// The pairs of one later layer that are in `mine`, to out, which starts at the first of mine.
static void compose_layer(composing *c, df_range mine, double *out) {
    const df_model_shape *s = c->shape;
    size_t first = df_lens_pair(s, 0, 0, c->layer), end = first + s->heads * c->layer;
    size_t from = first > mine.first ? first : mine.first;
    size_t to = end < mine.first + mine.count ? end : mine.first + mine.count;
    if (from >= to) return;
    read_layer(c);
#pragma omp parallel for schedule(dynamic, 1)
    for (size_t p = from; p < to; p++)
        compose(c, (p - first) / s->heads, (p - first) % s->heads,
                c->room + (size_t)omp_get_thread_num() * room_doubles(s),
                out + (p - mine.first) * s->heads * DF_LENS_COMPOSITIONS);
}

df_status df_lens_compositions(df_comm *comm, const df_model *model, const lens_grams *grams,
                               df_lens *out) {
    const df_model_shape *s = df_model_facts(model);
    size_t pairs = df_lens_pairs(s), columns = s->heads * DF_LENS_COMPOSITIONS;
    size_t heads = s->layers * s->heads;
    df_range mine = df_share(pairs, df_comm_size(comm), df_comm_rank(comm));
    composing c = {.model = model, .shape = s, .grams = grams, .readers = reader_rows(s)};
    double *part = NULL;
    c.norm[0] = out->weight + DF_LENS_OV_NORM * heads;
    c.norm[1] = out->weight + DF_LENS_QK_NORM * heads;
    df_status status = DF_NEW(part, mine.count * columns);
    if (status == DF_OK) status = DF_NEW(c.reader, c.readers * s->width);
    if (status == DF_OK) status = DF_NEW(c.room, (size_t)omp_get_max_threads() * room_doubles(s));
    DF_GO(df_agree(comm, status));
    for (c.layer = 1; c.layer < s->layers; c.layer++) compose_layer(&c, mine, part);
    status = df_lens_collect(comm, 0, pairs, columns, part, out->composition);
done:
    df_free(part);
    df_free(c.reader);
    df_free(c.room);
    return status;
}

uint64_t df_lens_compositions_work(const df_model_shape *s, int size, size_t threads) {
    return df_share(df_lens_pairs(s), size, 0).count * s->heads * DF_LENS_COMPOSITIONS +
           reader_rows(s) * s->width + threads * room_doubles(s);
}
