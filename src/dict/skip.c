/* The linear part of a skip transcoder, x^ += W_skip x (Paulo et al., arXiv 2501.18823). A rank has
 * whole blocks of W_skip's rows, that is columns of x^, and sees every row of the batch: products
 * go to the rows' owners, gradients and Adam stay.
 *
 * Products are settled ones (df_dot), so a row's do not depend on the rows it comes with. A block's
 * gradient is one GEMM whose shape the batch and the dictionary decide. */
#include "step.h"

#include <string.h>

#define ROWS_AT_ONCE 64 /* that share a block of W_skip in cache */

/* Products of one row with rows [first, first + n) of this rank's part. */
static void multiply_row(const df_coder *c, size_t row, df_range part) {
    size_t in = c->dict->in.count, end = part.first + part.count, i = part.first;
    const float *x = c->x + row * c->width + c->dict->in.first, *w = c->dict->w_skip;
    float *out = c->skip + row * c->dict->skip_rows.count;
    for (; i + 4 <= end; i += 4) {
        const float *four[4] = {w + i * in, w + (i + 1) * in, w + (i + 2) * in, w + (i + 3) * in};
        df_dot4(x, four, in, out + i);
    }
    for (; i < end; i++) out[i] = df_dot(x, w + i * in, in);
}

static void multiply_rows(const df_coder *c, df_range rows) {
    size_t mine = c->dict->skip_rows.count;
    for (size_t i = 0; i < mine; i += DF_SKIP_ROWS) {
        df_range part = {i, mine - i < DF_SKIP_ROWS ? mine - i : DF_SKIP_ROWS};
        for (size_t r = rows.first; r < rows.first + rows.count; r++) multiply_row(c, r, part);
    }
}

static void exchange(df_coder *c, size_t rows) {
    df_range mine = df_share(rows, c->size, c->rank);
    for (int p = 0; p < c->size; p++) {
        size_t columns = df_dict_skip_share(c->dict, c->size, p).count;
        c->send_bytes[p] =
            df_share(rows, c->size, p).count * c->dict->skip_rows.count * sizeof *c->skip;
        c->receive_bytes[p] = mine.count * columns * sizeof *c->skip;
    }
    df_exchange(c->comm, c->skip, c->send_bytes, c->skip_arrived, c->receive_bytes);
}

void df_skip(df_coder *c, size_t rows) {
    if (c->dict->w_skip == NULL) return;
#pragma omp parallel for schedule(static)
    for (size_t r = 0; r < rows; r += ROWS_AT_ONCE)
        multiply_rows(c, (df_range){r, rows - r < ROWS_AT_ONCE ? rows - r : ROWS_AT_ONCE});
    if (c->size > 1) exchange(c, rows);
}

void df_skip_add(const df_coder *c, size_t row, size_t rows_mine, float *out) {
    if (c->dict->w_skip == NULL) return;
    if (c->size == 1) {
        df_add_row(out, c->skip + row * c->out, c->out);
        return;
    }
    const float *from = c->skip_arrived; // [ranks][rows of this rank, columns of that rank]
    for (int p = 0; p < c->size; p++) {
        df_range columns = df_dict_skip_share(c->dict, c->size, p);
        df_add_row(out + columns.first, from + row * columns.count, columns.count);
        from += rows_mine * columns.count;
    }
}

/* tile = beta * tile + factor * sum over rows of e x', for rows [first, first + n) of this rank's.
 */
static void add_gradient(const df_coder *c, df_worker *w, df_range part, const float *e,
                         float factor, float beta) {
    const df_dict *d = c->dict;
    df_gemm_tn(&(df_gemm){.m = part.count,
                          .n = d->in.count,
                          .k = c->rows,
                          .alpha = factor,
                          .beta = beta,
                          .a = e + d->skip_rows.first + part.first,
                          .lda = c->out,
                          .b = c->x + d->in.first,
                          .ldb = c->width,
                          .c = w->tile,
                          .ldc = d->in.count});
}

/* dL/dW_skip: every reconstruction has W_skip x, of nested prefixes all (E of the first). */
static void block_gradient(const df_coder *c, df_worker *w, size_t first, size_t n) {
    const float *e = c->dict->prefixes > 0 ? c->nested : c->error;
    df_range part = {first, n};
    add_gradient(c, w, part, e, c->error_factor, 0.0f);
    if (c->multi.codes.rows > 0) add_gradient(c, w, part, c->multi_error, c->multi_factor, 1.0f);
}

static void use(df_coder *c, float *tile, size_t at, size_t n, const df_sink *sink) {
    const df_trainer_state *s = &c->state;
    float *weight = c->dict->w_skip + at;
    if (sink->out != NULL) {
        if (sink->out->w_skip != NULL) memcpy(sink->out->w_skip + at, tile, n * sizeof *tile);
        return;
    }
    for (size_t i = 0; i < n && sink->factor < 1.0f; i++) tile[i] *= sink->factor;
    df_adam_row(sink->adam, (df_moments){weight, s->m_skip + at, s->v_skip + at}, tile, n);
}

void df_skip_gradients(df_coder *c, const df_sink *sink) {
    const df_dict *d = c->dict;
    size_t in = d->in.count;
    if (d->w_skip == NULL) return;
#pragma omp parallel for schedule(dynamic)
    for (size_t first = 0; first < d->skip_rows.count; first += DF_SKIP_ROWS) {
        size_t left = d->skip_rows.count - first, n = left < DF_SKIP_ROWS ? left : DF_SKIP_ROWS;
        df_worker *w = df_coder_worker(c);
        block_gradient(c, w, first, n);
        if (sink->squares != NULL)
            c->skip_squares[first / DF_SKIP_ROWS] = df_sum_squares(w->tile, n * in);
        else
            use(c, w->tile, first * in, n * in, sink);
    }
}

df_status df_skip_norm(df_coder *c, const df_sink *sink, double *squares) {
    size_t blocks = (c->out + DF_SKIP_ROWS - 1) / DF_SKIP_ROWS;
    *squares = 0.0;
    if (c->dict->w_skip == NULL) return DF_OK;
    df_skip_gradients(c, sink);
    return df_tree_sum(c->comm, blocks, 1, c->skip_squares, squares);
}
