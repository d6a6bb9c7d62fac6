/* Eigenvalues and norms of each head's QK and OV. */
#include "parts.h"

#include <math.h>
#include <omp.h>
#include <string.h>

/* ---- sharing -------------------------------------------------------------------------------- */

df_status df_lens_collect(df_comm *comm, int root, size_t rows, size_t columns, const double *mine,
                          double *all) {
    int size = df_comm_size(comm);
    size_t *counts = NULL;
    df_status status = df_agree(comm, DF_NEW(counts, (size_t)size));
    for (int r = 0; r < size && status == DF_OK; r++)
        counts[r] = df_share(rows, size, r).count * columns * sizeof *mine;
    if (status == DF_OK && root < 0) df_allgather(comm, mine, counts, all);
    if (status == DF_OK && root >= 0) df_gather(comm, root, mine, counts, all);
    df_free(counts);
    return status;
}

/* ---- inner products of rows ----------------------------------------------------------------- */

static size_t grams_of(const df_model_shape *s) {
    return 2 * (s->heads + s->kv_heads);
}

// The first of a part's matrices in a layer.
static size_t first_of(const df_model_shape *s, head_part part) {
    const size_t first[PART_COUNT] = {
        [PART_Q] = 0,
        [PART_K] = s->heads,
        [PART_V] = s->heads + s->kv_heads,
        [PART_O] = s->heads + 2 * s->kv_heads,
    };
    return first[part];
}

const double *df_lens_gram(const lens_grams *grams, const df_model_shape *s, head_part part,
                           size_t layer, size_t head) {
    size_t which =
        first_of(s, part) + (part == PART_K || part == PART_V ? df_lens_group(s, head) : head);
    return grams->all + (layer * grams->heads + which) * grams->block;
}

static void gram_of(const df_model *model, size_t number, double *rows, double *out) {
    const df_model_shape *s = df_model_facts(model);
    size_t layer = number / grams_of(s), which = number % grams_of(s), h = s->head_width;
    int part = PART_O;
    while (which < first_of(s, (head_part)part)) part--;
    df_lens_folded(model, (head_part)part, layer, which - first_of(s, (head_part)part), rows);
    df_local_multiply(&(df_local_product){.m = h,
                                          .n = h,
                                          .k = s->width,
                                          .op_b = DF_TRANSPOSED,
                                          .a = rows,
                                          .b = rows,
                                          .c = out,
                                          .lda = s->width,
                                          .ldb = s->width,
                                          .ldc = h});
}

df_status df_lens_grams(df_comm *comm, const df_model *model, lens_grams *out) {
    const df_model_shape *s = df_model_facts(model);
    size_t n = s->layers * grams_of(s), threads = (size_t)omp_get_max_threads();
    df_range mine = df_share(n, df_comm_size(comm), df_comm_rank(comm));
    double *rows = NULL, *part = NULL;
    *out = (lens_grams){.block = s->head_width * s->head_width, .heads = grams_of(s)};
    df_status status = DF_NEW(out->all, n * out->block);
    if (status == DF_OK) status = DF_NEW(part, mine.count * out->block);
    if (status == DF_OK) status = DF_NEW(rows, threads * s->head_width * s->width);
    DF_GO(df_agree(comm, status));
#pragma omp parallel for schedule(dynamic, 1)
    for (size_t i = 0; i < mine.count; i++)
        gram_of(model, mine.first + i,
                rows + (size_t)omp_get_thread_num() * s->head_width * s->width,
                part + i * out->block);
    status = df_lens_collect(comm, -1, n, out->block, part, out->all);
done:
    df_free(rows);
    df_free(part);
    return status;
}

double df_lens_inner(const double *a, const double *b, size_t n) {
    double sum = 0.0;
    for (size_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

/* ---- embedding and unembedding -------------------------------------------------------------- */

enum { ROWS = 64, CHUNK = 256 }; // of the products below: rows of the result, tokens at a time

/* E'E and E'U [d, d], the second with the final norm folded in. */
typedef struct vocabulary_products {
    double *ee, *eu;
} vocabulary_products;

/* One rank's blocks of rows of a product over the vocabulary. */
typedef struct vocabulary_sum {
    const float *left, *right; // [vocabulary, width]
    size_t vocabulary, width;
    df_range mine;   // blocks of ROWS rows
    double *tokens;  // [CHUNK, width] of `right`
    double *columns; // [threads, CHUNK, ROWS] of `left`
    double *out;     // [mine.count * ROWS, width]
} vocabulary_sum;

static void widen_tokens(const vocabulary_sum *v, size_t first, size_t n) {
#pragma omp parallel for
    for (size_t t = 0; t < CHUNK; t++)
        for (size_t i = 0; i < v->width; i++)
            v->tokens[t * v->width + i] =
                t < n ? (double)v->right[(first + t) * v->width + i] : 0.0;
}

// Adds n tokens to block b of the sum; its columns past the width are zero.
static void add_tokens(const vocabulary_sum *v, size_t b, size_t first, size_t n, double *columns) {
    size_t from = (v->mine.first + b) * ROWS;
    for (size_t t = 0; t < CHUNK; t++)
        for (size_t i = 0; i < ROWS; i++)
            columns[t * ROWS + i] = t < n && from + i < v->width
                                        ? (double)v->left[(first + t) * v->width + from + i]
                                        : 0.0;
    df_local_multiply(&(df_local_product){.m = ROWS,
                                          .n = v->width,
                                          .k = CHUNK,
                                          .op_a = DF_TRANSPOSED,
                                          .a = columns,
                                          .b = v->tokens,
                                          .beta = 1.0,
                                          .c = v->out + b * ROWS * v->width,
                                          .lda = ROWS,
                                          .ldb = v->width,
                                          .ldc = v->width});
}

static void sum_tokens(const vocabulary_sum *v) {
    for (size_t first = 0; first < v->vocabulary; first += CHUNK) {
        size_t n = v->vocabulary - first < CHUNK ? v->vocabulary - first : CHUNK;
        widen_tokens(v, first, n);
#pragma omp parallel for schedule(dynamic, 1)
        for (size_t b = 0; b < v->mine.count; b++)
            add_tokens(v, b, first, n, v->columns + (size_t)omp_get_thread_num() * CHUNK * ROWS);
    }
}

static size_t blocks_of(size_t width) {
    return (width + ROWS - 1) / ROWS;
}

// out [blocks_of(width) * ROWS, width] = left' right, on every rank.
static df_status multiply_vocabulary(df_comm *comm, const df_model *model, const float *right,
                                     double *out) {
    const df_model_shape *s = df_model_facts(model);
    size_t blocks = blocks_of(s->width);
    vocabulary_sum v = {.left = df_model_readout(model).embed,
                        .right = right,
                        .vocabulary = s->vocabulary,
                        .width = s->width,
                        .mine = df_share(blocks, df_comm_size(comm), df_comm_rank(comm))};
    df_status status = DF_NEW(v.tokens, CHUNK * s->width);
    if (status == DF_OK) status = DF_NEW(v.columns, (size_t)omp_get_max_threads() * CHUNK * ROWS);
    if (status == DF_OK) status = DF_NEW(v.out, v.mine.count * ROWS * s->width);
    status = df_agree(comm, status);
    if (status == DF_OK) {
        sum_tokens(&v);
        status = df_lens_collect(comm, -1, blocks, ROWS * s->width, v.out, out);
    }
    df_free(v.tokens);
    df_free(v.columns);
    df_free(v.out);
    return status;
}

static df_status open_products(df_comm *comm, const df_model *model, vocabulary_products *out) {
    const df_readout read = df_model_readout(model);
    size_t d = df_model_width(model), n = blocks_of(d) * ROWS * d;
    df_status status = DF_NEW(out->ee, n);
    if (status == DF_OK) status = DF_NEW(out->eu, n);
    DF_TRY(df_agree(comm, status));
    DF_TRY(multiply_vocabulary(comm, model, read.embed, out->ee));
    if (read.unembed == read.embed)
        memcpy(out->eu, out->ee, n * sizeof *out->ee);
    else
        DF_TRY(multiply_vocabulary(comm, model, read.unembed, out->eu));
    for (size_t i = 0; i < d; i++) df_lens_fold(read.gain, read.centred, d, out->eu + i * d);
    return DF_OK;
}

/* ---- one head ------------------------------------------------------------------------------- */

/* One thread's room: folded matrices [h, d], one of them times a [d, d], a product [h, h]. */
typedef struct head_room {
    double *part[PART_COUNT], *through;
    double *small, *real, *imaginary;
} head_room;

static size_t head_doubles(const df_model_shape *s) {
    size_t h = s->head_width;
    return (PART_COUNT + 1) * h * s->width + h * h + 2 * h;
}

static head_room cut_room(const df_model_shape *s, double *from) {
    size_t h = s->head_width, rows = h * s->width;
    head_room r;
    for (int p = 0; p < PART_COUNT; p++) r.part[p] = from + (size_t)p * rows;
    r.through = from + PART_COUNT * rows;
    r.small = r.through + rows;
    r.real = r.small + h * h;
    r.imaginary = r.real + h;
    return r;
}

// sum Re / sum | | of the eigenvalues of a b' [h, h], of a middle b' with `middle` [d, d] not NULL.
static df_status positive_share(const head_room *r, const df_model_shape *s, const double *a,
                                const double *middle, const double *b, double *out) {
    size_t h = s->head_width, d = s->width;
    double real = 0.0, modulus = 0.0;
    if (middle != NULL)
        df_local_multiply(&(df_local_product){.m = h,
                                              .n = d,
                                              .k = d,
                                              .a = a,
                                              .b = middle,
                                              .c = r->through,
                                              .lda = d,
                                              .ldb = d,
                                              .ldc = d});
    df_local_multiply(&(df_local_product){.m = h,
                                          .n = h,
                                          .k = d,
                                          .op_b = DF_TRANSPOSED,
                                          .a = middle != NULL ? r->through : a,
                                          .b = b,
                                          .c = r->small,
                                          .lda = d,
                                          .ldb = d,
                                          .ldc = h});
    DF_TRY(df_local_eigenvalues(h, r->small, r->real, r->imaginary));
    for (size_t i = 0; i < h; i++) {
        real += r->real[i];
        modulus += hypot(r->real[i], r->imaginary[i]);
    }
    *out = modulus > 0.0 ? real / modulus : (double)NAN;
    return DF_OK;
}

static df_status measure_head(const df_model *model, const vocabulary_products *products,
                              const head_room *r, size_t number, double out[DF_LENS_WEIGHTS]) {
    const df_model_shape *s = df_model_facts(model);
    size_t layer = number / s->heads, head = number % s->heads, group = df_lens_group(s, head);
    for (int p = 0; p < PART_COUNT; p++)
        df_lens_folded(model, (head_part)p, layer, p == PART_K || p == PART_V ? group : head,
                       r->part[p]);
    const double *q = r->part[PART_Q], *k = r->part[PART_K], *v = r->part[PART_V];
    const double *o = r->part[PART_O];
    DF_TRY(positive_share(r, s, v, NULL, o, &out[DF_LENS_OV]));
    DF_TRY(positive_share(r, s, v, products->eu, o, &out[DF_LENS_OV_FULL]));
    DF_TRY(positive_share(r, s, k, NULL, q, &out[DF_LENS_QK]));
    return positive_share(r, s, k, products->ee, q, &out[DF_LENS_QK_FULL]);
}

// |W_O W_V| and |W_Q' W_K| from the inner products of their rows.
static void set_norms(const df_model_shape *s, const lens_grams *g, size_t number, double *out) {
    size_t layer = number / s->heads, head = number % s->heads;
    const double *q = df_lens_gram(g, s, PART_Q, layer, head);
    const double *k = df_lens_gram(g, s, PART_K, layer, head);
    const double *v = df_lens_gram(g, s, PART_V, layer, head);
    const double *o = df_lens_gram(g, s, PART_O, layer, head);
    out[DF_LENS_OV_NORM] = sqrt(fmax(df_lens_inner(o, v, g->block), 0.0));
    out[DF_LENS_QK_NORM] = sqrt(fmax(df_lens_inner(q, k, g->block), 0.0));
}

static df_status measure_mine(const df_model *model, const vocabulary_products *products,
                              df_range mine, double *room, double *out) {
    const df_model_shape *s = df_model_facts(model);
    df_carried failure = {0}; // at: the head
#pragma omp parallel for schedule(dynamic, 1)
    for (size_t i = 0; i < mine.count; i++) {
        head_room r = cut_room(s, room + (size_t)omp_get_thread_num() * head_doubles(s));
        df_status status =
            measure_head(model, products, &r, mine.first + i, out + i * DF_LENS_WEIGHTS);
        if (status != DF_OK) {
            df_context("measuring head %zu of layer %zu", (mine.first + i) % s->heads,
                       (mine.first + i) / s->heads);
            df_carry(&failure, status, i);
        }
    }
    return df_carried_raise(&failure);
}

// all [L H, DF_LENS_WEIGHTS] to weight [DF_LENS_WEIGHTS, L, H].
static void turn(const double *all, size_t heads, double *weight) {
    for (size_t n = 0; n < heads; n++)
        for (size_t w = 0; w < DF_LENS_WEIGHTS; w++)
            weight[w * heads + n] = all[n * DF_LENS_WEIGHTS + w];
}

df_status df_lens_heads(df_comm *comm, const df_model *model, const lens_grams *grams,
                        df_lens *out) {
    const df_model_shape *s = df_model_facts(model);
    size_t heads = s->layers * s->heads, threads = (size_t)omp_get_max_threads();
    df_range mine = df_share(heads, df_comm_size(comm), df_comm_rank(comm));
    vocabulary_products products = {0};
    double *room = NULL, *part = NULL, *all = NULL;
    df_status status;
    DF_GO(open_products(comm, model, &products));
    status = DF_NEW(room, threads * head_doubles(s));
    if (status == DF_OK) status = DF_NEW(part, mine.count * DF_LENS_WEIGHTS);
    if (status == DF_OK) status = DF_NEW(all, heads * DF_LENS_WEIGHTS);
    if (status == DF_OK) status = measure_mine(model, &products, mine, room, part);
    DF_GO(df_agree(comm, status));
    for (size_t i = 0; i < mine.count; i++)
        set_norms(s, grams, mine.first + i, part + i * DF_LENS_WEIGHTS);
    DF_GO(df_lens_collect(comm, -1, heads, DF_LENS_WEIGHTS, part, all));
    turn(all, heads, out->weight);
done:
    df_free(products.ee);
    df_free(products.eu);
    df_free(room);
    df_free(part);
    df_free(all);
    return status;
}

/* ---- the plan ------------------------------------------------------------------------------- */

uint64_t df_lens_grams_doubles(const df_model_shape *s) {
    return (uint64_t)s->layers * grams_of(s) * s->head_width * s->head_width;
}

uint64_t df_lens_grams_work(const df_model_shape *s, int size, size_t threads) {
    size_t mine = df_share(s->layers * grams_of(s), size, 0).count;
    return (uint64_t)mine * s->head_width * s->head_width + threads * s->head_width * s->width;
}

uint64_t df_lens_heads_work(const df_model_shape *s, int size, size_t threads) {
    size_t d = s->width, heads = s->layers * s->heads, blocks = blocks_of(d);
    uint64_t summing =
        CHUNK * d + threads * CHUNK * ROWS + df_share(blocks, size, 0).count * ROWS * d;
    uint64_t measuring =
        threads * (head_doubles(s) + df_local_eigen_bytes(s->head_width) / sizeof(double)) +
        (df_share(heads, size, 0).count + heads) * DF_LENS_WEIGHTS;
    return 2 * blocks * ROWS * d + (summing > measuring ? summing : measuring);
}
