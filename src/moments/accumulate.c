/* Streaming sums: rows into blocks, blocks into buckets, buckets into the fixed tree. */
#include "parts.h"

#include <cblas.h>
#include <math.h>
#include <string.h>

struct df_moments {
    size_t width, padded; // of x; of z = (x, e), in whole tiles
    df_range own;         // this rank's buckets
    size_t open;          // the bucket being filled: own.first + (buckets already on the stack)
    const double *form;
    size_t waiting; // rows in the block
    double *block;  // [BLOCK_ROWS, padded]
    df_tree tree;
    double *levels;         // [most values on the stack, tiles]: where the tree's values live
    df_bucket_sums *bucket; // [own.count]
    double *bucket_sum;     // [own.count, 2 width]
};

/* The most values that the stack ever holds: a dry run without values. */
static size_t stack_depth(df_range own) {
    df_tree tree = {.leaves = DF_BUCKETS};
    size_t most = 0;
    for (size_t i = 0; i < own.count; i++) {
        if (tree.depth + 1 > most) most = tree.depth + 1;
        df_tree_push(&tree, (df_node){0, (uint32_t)(own.first + i)}, NULL);
    }
    return most;
}

df_moments_need df_moments_plan(size_t width, int size) {
    df_range own = df_share(DF_BUCKETS, size, 0);
    size_t tiles = df_tiles_size(width), block = BLOCK_ROWS * df_tiles_across(width) * TILE;
    size_t sums = 2 * width + tiles + DF_BUCKETS * 2 * width;
    size_t open = stack_depth(own) * tiles + block + own.count * 2 * width;
    return (df_moments_need){
        .open = open * sizeof(double) + own.count * sizeof(df_bucket_sums) + sizeof(df_moments),
        .block = block * sizeof(double),
        .sums = sums * sizeof(double) + sizeof(df_sums),
        .join = df_tree_bytes(size, 0, DF_BUCKETS, tiles) + (size_t)size * sizeof(size_t)};
}

static df_status make(df_comm *comm, size_t width, df_moments **out) {
    size_t levels, block, bound;
    DF_TRY(df_mul(2 * TILE, width, &bound)); // a width whose tiles would overflow is refused
    DF_TRY(df_mul(bound, bound, &bound));
    DF_TRY(DF_NEW(*out, 1));
    df_moments *m = *out;
    m->width = width;
    m->padded = df_tiles_across(width) * TILE;
    m->own = df_share(DF_BUCKETS, df_comm_size(comm), df_comm_rank(comm));
    m->open = m->own.first;
    m->tree = (df_tree){.leaves = DF_BUCKETS, .width = df_tiles_size(width)};
    DF_TRY(df_mul(stack_depth(m->own), m->tree.width, &levels));
    DF_TRY(df_mul(m->own.count > 0 ? BLOCK_ROWS : 0, m->padded, &block));
    DF_TRY(DF_NEW(m->levels, levels));
    DF_TRY(DF_NEW(m->block, block));
    DF_TRY(DF_NEW(m->bucket, m->own.count));
    return DF_NEW(m->bucket_sum, m->own.count * 2 * width);
}

df_status df_moments_new(df_comm *comm, size_t width, const double *form, df_moments **out) {
    *out = NULL;
    df_status status = df_agree(comm, make(comm, width, out));
    if (status != DF_OK)
        df_moments_free(out);
    else
        (*out)->form = form;
    return status;
}

void df_moments_free(df_moments **moments) {
    df_moments *m = *moments;
    if (m == NULL) return;
    df_free(m->block);
    df_free(m->levels);
    df_free(m->bucket);
    df_free(m->bucket_sum);
    df_free(m);
    *moments = NULL;
}

/* ---- blocks --------------------------------------------------------------------------------- */

/* The matrix of the open bucket: the level above the stack. */
static double *open_tiles(const df_moments *m) {
    return m->levels + m->tree.depth * m->tree.width;
}

/* Adds one tile of the block's z'z. Tile shape and strides are fixed, the number of rows follows
 * from the bucket, and the product runs on the calling thread alone (OpenBLAS starts no threads
 * inside a parallel region): the bits depend on the rows only. */
static void add_tile(const df_moments *m, size_t i, size_t j) {
    int strides = (int)m->padded;
    cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, TILE, TILE, (int)m->waiting, 1.0,
                m->block + i * TILE, strides, m->block + j * TILE, strides, 1.0,
                open_tiles(m) + df_tiles_at(m->width, i * TILE, j * TILE), TILE);
}

static void flush_block(df_moments *m) {
    size_t across = df_tiles_across(m->width);
    if (m->waiting == 0) return;
#pragma omp parallel for schedule(dynamic)
    for (size_t pair = 0; pair < across * across; pair++)
        if (pair / across <= pair % across) add_tile(m, pair / across, pair % across);
    m->waiting = 0;
}

/* ---- buckets -------------------------------------------------------------------------------- */

/* The inner product of the bucket's sums with the form, tile by tile. */
static double form_of(const df_moments *m) {
    const double *tiles = open_tiles(m);
    double total = 0;
    for (size_t at = 0; at < m->tree.width; at += TILE * TILE) {
        double sum = 0;
        for (size_t k = 0; k < TILE * TILE; k++) sum += tiles[at + k] * m->form[at + k];
        total += sum;
    }
    return total;
}

/* Closes the open bucket and puts it on the stack; the level above it starts from zero. */
static void close_bucket(df_moments *m) {
    flush_block(m);
    df_bucket_sums *sums = &m->bucket[m->open - m->own.first];
    if (m->form != NULL && sums->rows > 0) sums->form = form_of(m);
    df_tree_push(&m->tree, (df_node){0, (uint32_t)m->open}, open_tiles(m));
    m->open++;
    if (m->open < m->own.first + m->own.count)
        memset(open_tiles(m), 0, m->tree.width * sizeof *m->levels);
}

df_status df_moments_bucket(df_moments *m, size_t bucket) {
    if (bucket < m->open || bucket >= m->own.first + m->own.count)
        return df_fail(DF_FAILED, "rows of bucket %zu: expected one of %zu to %zu", bucket, m->open,
                       m->own.first + m->own.count - 1);
    while (m->open < bucket) close_bucket(m);
    return DF_OK;
}

/* One row into the block and into the sums that need no matrix. x and e [width]. */
static df_status add_row(df_moments *m, const float *x, const float *x_hat) {
    size_t width = m->width;
    df_bucket_sums *sums = &m->bucket[m->open - m->own.first];
    double *sum = m->bucket_sum + (m->open - m->own.first) * 2 * width;
    double *z = m->block + m->waiting * m->padded, x_square = 0, e_square = 0;
    for (size_t j = 0; j < width; j++) {
        z[j] = (double)x[j];
        z[width + j] = (double)x[j] - (double)x_hat[j];
        x_square += z[j] * z[j];
        e_square += z[width + j] * z[width + j];
    }
    if (!isfinite(x_square) || !isfinite(e_square))
        return df_fail(DF_BAD_INPUT, "row %.0f of document bucket %zu is not finite%s", sums->rows,
                       m->open, isfinite(x_square) ? " after the dictionary" : "");
    for (size_t j = 0; j < 2 * width; j++) sum[j] += z[j];
    sums->rows += 1;
    sums->x_square += x_square;
    sums->e_square += e_square;
    m->waiting++;
    return DF_OK;
}

df_status df_moments_add(df_moments *m, const float *x, const float *x_hat, size_t n,
                         size_t stride) {
    if (n > 0 && m->open >= m->own.first + m->own.count)
        return df_fail(DF_FAILED, "%zu rows on a rank that owns no document bucket", n);
    for (size_t i = 0; i < n; i++) {
        DF_TRY(add_row(m, x + i * stride, x_hat + i * stride));
        if (m->waiting == BLOCK_ROWS) flush_block(m);
    }
    return DF_OK;
}

/* ---- joining the ranks ---------------------------------------------------------------------- */

static df_status make_sums(const df_moments *m, df_sums **out) {
    DF_TRY(DF_NEW(*out, 1));
    (*out)->width = m->width;
    DF_TRY(DF_NEW((*out)->sum, 2 * m->width));
    DF_TRY(DF_NEW((*out)->second, m->tree.width));
    return DF_NEW((*out)->bucket_sum, DF_BUCKETS * 2 * m->width);
}

/* Every rank's bytes about its buckets, `each` a bucket, in bucket order. counts [size] is scratch.
 */
static void gather_buckets(df_comm *comm, const void *mine, size_t each, size_t *counts,
                           void *all) {
    for (int r = 0; r < df_comm_size(comm); r++)
        counts[r] = df_share(DF_BUCKETS, df_comm_size(comm), r).count * each;
    df_allgather(comm, mine, counts, all);
}

static void total_up(df_sums *s) {
    s->rows = 0;
    memset(s->sum, 0, 2 * s->width * sizeof *s->sum);
    for (size_t b = 0; b < DF_BUCKETS; b++) {
        s->rows += s->bucket[b].rows;
        for (size_t j = 0; j < 2 * s->width; j++) s->sum[j] += s->bucket_sum[b * 2 * s->width + j];
    }
}

static df_status join(df_comm *comm, df_moments *m, size_t *counts, df_sums *s) {
    gather_buckets(comm, m->bucket, sizeof *m->bucket, counts, s->bucket);
    gather_buckets(comm, m->bucket_sum, 2 * m->width * sizeof(double), counts, s->bucket_sum);
    total_up(s);
    // the tree's values stand packed: level k of the stack is row k
    return df_tree_finish(comm, DF_BUCKETS, m->tree.width, m->levels, s->second);
}

df_status df_moments_finish(df_comm *comm, df_moments **moments, df_sums **out) {
    df_moments *m = *moments;
    size_t *counts = NULL;
    *out = NULL;
    while (m->open < m->own.first + m->own.count) close_bucket(m);
    df_free(m->block);
    m->block = NULL;
    df_status status = make_sums(m, out);
    if (status == DF_OK) status = DF_NEW(counts, (size_t)df_comm_size(comm));
    status = df_agree(comm, status);
    if (status == DF_OK) status = join(comm, m, counts, *out);
    if (status != DF_OK) df_sums_free(out);
    df_free(counts);
    df_moments_free(moments);
    return status;
}
