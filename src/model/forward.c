/* The forward pass of one window. Where families differ, a switch on the parts of the family's row
 * (arch.h). */
#include "arch.h"

#include "darkfield/kernels.h"
#include <math.h>
#include <string.h>

/* Rows of one window, all padded to `rows`, a multiple of DF_FORWARD_ROWS; rows beyond the window's
 * tokens are zero at the start and never reach a token's row. */
struct df_forward {
    const df_model *model;
    size_t context, rows, tokens;    // tokens: of the last window run
    uint32_t *ids;                   // [rows]
    float *block;                    // one allocation for what follows
    float *stream, *normed, *change; // [rows, width]
    float *q, *mixed;                // [rows, heads * head_width]
    float *k, *v;                    // [rows, kv_heads * head_width]
    float *gate, *up;                // [rows, mlp_width]
    float *scores;                   // [df_attention_scratch(rows)]
    float *logits;                   // [DF_FORWARD_ROWS, vocabulary]
    float *cosine, *sine;            // [rows, head_width / 2]
    site_place *place;               // [sites]
    size_t sites;
    float *const *out; // of the current run
};

typedef struct piece {
    float **at;
    size_t floats;
} piece;

enum { PIECES = 13 };

static size_t padded_rows(size_t context) {
    return (context + DF_FORWARD_ROWS - 1) / DF_FORWARD_ROWS * DF_FORWARD_ROWS;
}

// The working arrays and their sizes, each rounded up to 16 floats so that all start on a cache
// line.
static size_t list_pieces(df_forward *f, const df_model_shape *s, size_t rows,
                          piece list[static PIECES]) {
    size_t query = s->heads * s->head_width, key = s->kv_heads * s->head_width, total = 0;
    const piece all[PIECES] = {{&f->stream, rows * s->width},
                               {&f->normed, rows * s->width},
                               {&f->change, rows * s->width},
                               {&f->q, rows * query},
                               {&f->mixed, rows * query},
                               {&f->k, rows * key},
                               {&f->v, rows * key},
                               {&f->gate, rows * s->mlp_width},
                               {&f->up, rows * s->mlp_width},
                               {&f->scores, df_attention_scratch(rows)},
                               {&f->logits, DF_FORWARD_ROWS * s->vocabulary},
                               {&f->cosine, rows * s->head_width / 2},
                               {&f->sine, rows * s->head_width / 2}};
    for (size_t i = 0; i < PIECES; i++) {
        list[i] = all[i];
        list[i].floats = (all[i].floats + 15) / 16 * 16;
        total += list[i].floats;
    }
    return total;
}

uint64_t df_forward_bytes(const df_model_shape *shape, size_t context) {
    df_forward none = {0};
    piece list[PIECES];
    size_t rows = padded_rows(context);
    return sizeof none + rows * sizeof *none.ids +
           sizeof(float) * list_pieces(&none, shape, rows, list);
}

static df_status allocate(df_forward *f) {
    piece list[PIECES];
    size_t total = list_pieces(f, &f->model->config.shape, f->rows, list);
    DF_TRY(DF_NEW(f->block, total));
    DF_TRY(DF_NEW(f->ids, f->rows));
    float *next = f->block;
    for (size_t i = 0; i < PIECES; i++) {
        *list[i].at = next;
        next += list[i].floats;
    }
    return DF_OK;
}

// Angles in double: position * frequency is large at the end of a long window.
static df_status fill_rotary(df_forward *f) {
    size_t half = f->model->config.shape.head_width / 2;
    double *frequency;
    DF_TRY(DF_NEW(frequency, half));
    df_rope_frequencies(&f->model->config, frequency);
    for (size_t t = 0; t < f->rows; t++)
        for (size_t i = 0; i < half; i++) {
            f->cosine[t * half + i] = (float)cos((double)t * frequency[i]);
            f->sine[t * half + i] = (float)sin((double)t * frequency[i]);
        }
    df_free(frequency);
    return DF_OK;
}

df_status df_forward_open(const df_model *model, size_t context, const char *const *sites,
                          size_t n_sites, df_forward **out) {
    const df_model_shape *shape = df_model_facts(model);
    *out = NULL;
    if (context < 1 || (shape->positions > 0 && context > shape->positions))
        return df_fail(DF_USAGE, "a context of %zu tokens: the model has positions for 1..%zu",
                       context, shape->positions);
    df_forward *f;
    df_status status;
    DF_TRY(DF_NEW(f, 1));
    *f = (df_forward){
        .model = model, .context = context, .rows = padded_rows(context), .sites = n_sites};
    DF_GO(DF_NEW(f->place, n_sites));
    for (size_t i = 0; i < n_sites; i++) DF_GO(df_site_find(shape, sites[i], &f->place[i]));
    DF_GO(allocate(f));
    DF_GO(fill_rotary(f));
done:
    if (status != DF_OK) df_forward_close(&f);
    *out = f;
    return status;
}

void df_forward_close(df_forward **forward) {
    df_forward *f = *forward;
    if (f == NULL) return;
    df_free(f->block);
    df_free(f->ids);
    df_free(f->place);
    df_free(f);
    *forward = NULL;
}

/* ---- parts ---------------------------------------------------------------------------------- */

// y [rows, outputs] = x [rows, inputs] W' + bias; extent holds inputs (rows) and outputs (width).
static void project(const df_forward *f, role weight, size_t layer, df_extent extent,
                    const float *x, float *y) {
    const float *bias = NULL;
    if (weight >= ROLE_Q && weight <= ROLE_DOWN)
        bias = df_weight(f->model, weight - ROLE_Q + ROLE_Q_BIAS, layer);
    size_t inputs = extent.rows, outputs = extent.width;
    df_gemm_nt(&(df_gemm){.m = f->rows,
                          .n = outputs,
                          .k = inputs,
                          .alpha = 1.0f,
                          .a = x,
                          .lda = inputs,
                          .b = df_weight(f->model, weight, layer),
                          .ldb = inputs,
                          .c = y,
                          .ldc = outputs});
    if (bias != NULL) df_add_rows(bias, (df_extent){f->rows, outputs}, y);
}

static void normalise(const df_forward *f, role gain, size_t layer) {
    switch (f->model->config.family->norm) {
    case NORM_RMS:
        df_rms_norm(f->stream, df_weight(f->model, gain, layer), f->model->config.norm_epsilon,
                    (df_extent){f->rows, f->model->config.shape.width}, f->normed);
    }
}

static void rotate(const df_forward *f, size_t heads, float *x) {
    switch (f->model->config.family->rope) {
    case ROPE_HALF_SPLIT:
        df_rotate(f->cosine, f->sine, f->model->config.shape.head_width,
                  (df_extent){f->rows, heads}, x);
    }
}

// change = attention(normed)
static void attention(const df_forward *f, size_t layer) {
    const df_model_shape *s = &f->model->config.shape;
    size_t query = s->heads * s->head_width, key = s->kv_heads * s->head_width;
    project(f, ROLE_Q, layer, (df_extent){s->width, query}, f->normed, f->q);
    project(f, ROLE_K, layer, (df_extent){s->width, key}, f->normed, f->k);
    project(f, ROLE_V, layer, (df_extent){s->width, key}, f->normed, f->v);
    rotate(f, s->heads, f->q);
    rotate(f, s->kv_heads, f->k);
    df_attend(&(df_attention){.rows = f->rows,
                              .heads = s->heads,
                              .kv_heads = s->kv_heads,
                              .head_width = s->head_width,
                              .scale = (float)(1.0 / sqrt((double)s->head_width)),
                              .q = f->q,
                              .k = f->k,
                              .v = f->v,
                              .out = f->mixed,
                              .scratch = f->scores});
    project(f, ROLE_O, layer, (df_extent){query, s->width}, f->mixed, f->change);
}

// change = mlp(normed)
static void mlp(const df_forward *f, size_t layer) {
    const df_model_shape *s = &f->model->config.shape;
    switch (f->model->config.family->mlp) {
    case MLP_GATED_SILU:
        project(f, ROLE_GATE, layer, (df_extent){s->width, s->mlp_width}, f->normed, f->gate);
        project(f, ROLE_UP, layer, (df_extent){s->width, s->mlp_width}, f->normed, f->up);
        df_silu_gate(f->up, f->rows * s->mlp_width, f->gate);
        project(f, ROLE_DOWN, layer, (df_extent){s->mlp_width, s->width}, f->gate, f->change);
    }
}

static void add_change(const df_forward *f) {
    for (size_t i = 0; i < f->rows * f->model->config.shape.width; i++)
        f->stream[i] += f->change[i];
}

/* ---- the pass ------------------------------------------------------------------------------- */

// Hands rows that the pass has just made to every site that is this place.
static void reach(const df_forward *f, site_kind kind, size_t layer, const float *rows) {
    size_t bytes = f->tokens * f->model->config.shape.width * sizeof *rows;
    for (size_t i = 0; i < f->sites; i++)
        if (f->place[i].kind == kind && f->place[i].layer == layer) memcpy(f->out[i], rows, bytes);
}

static void run_block(const df_forward *f, size_t layer) {
    switch (f->model->config.family->order) {
    case BLOCK_SEQUENTIAL:
        reach(f, SITE_RESID_PRE, layer, f->stream);
        normalise(f, ROLE_ATTENTION_GAIN, layer);
        attention(f, layer);
        reach(f, SITE_ATTN_OUT, layer, f->change);
        add_change(f);
        reach(f, SITE_RESID_MID, layer, f->stream);
        normalise(f, ROLE_MLP_GAIN, layer);
        mlp(f, layer);
        reach(f, SITE_MLP_OUT, layer, f->change);
        add_change(f);
        reach(f, SITE_RESID_POST, layer, f->stream);
    }
}

static df_status embed(df_forward *f, const uint32_t *ids, size_t n) {
    const df_model_shape *s = &f->model->config.shape;
    if (n < 1 || n > f->context)
        return df_fail(DF_FAILED, "a window of %zu tokens in a context of %zu", n, f->context);
    for (size_t t = 0; t < n; t++) {
        if (ids[t] >= s->vocabulary)
            return df_fail(DF_BAD_INPUT,
                           "token id %u at position %zu: the model's vocabulary has %zu tokens",
                           ids[t], t, s->vocabulary);
        memcpy(f->stream + t * s->width, df_weight(f->model, ROLE_EMBED, 0) + ids[t] * s->width,
               s->width * sizeof(float));
    }
    memset(f->stream + n * s->width, 0, (f->rows - n) * s->width * sizeof(float));
    memcpy(f->ids, ids, n * sizeof *ids);
    f->tokens = n;
    return DF_OK;
}

// Logits of rows [first, first + DF_FORWARD_ROWS) into f->logits.
static void unembed(const df_forward *f, size_t first) {
    const df_model_shape *s = &f->model->config.shape;
    df_gemm_nt(&(df_gemm){.m = DF_FORWARD_ROWS,
                          .n = s->vocabulary,
                          .k = s->width,
                          .alpha = 1.0f,
                          .a = f->normed + first * s->width,
                          .lda = s->width,
                          .b = df_model_unembed(f->model),
                          .ldb = s->width,
                          .c = f->logits,
                          .ldc = s->vocabulary});
}

static size_t rows_at(size_t first, size_t n) {
    return n - first < DF_FORWARD_ROWS ? n - first : DF_FORWARD_ROWS;
}

df_status df_forward_run(df_forward *f, const uint32_t *ids, size_t n, float *const *out,
                         float *logits) {
    const df_model_shape *s = &f->model->config.shape;
    DF_TRY(embed(f, ids, n));
    f->out = out;
    reach(f, SITE_EMBED, 0, f->stream);
    for (size_t layer = 0; layer < s->layers; layer++) run_block(f, layer);
    normalise(f, ROLE_FINAL_GAIN, 0);
    reach(f, SITE_FINAL, 0, f->normed);
    for (size_t first = 0; logits != NULL && first < n; first += DF_FORWARD_ROWS) {
        unembed(f, first);
        memcpy(logits + first * s->vocabulary, f->logits,
               rows_at(first, n) * s->vocabulary * sizeof *logits);
    }
    return DF_OK;
}

df_status df_forward_nll(df_forward *f, double *nll) {
    if (f->tokens < 1) return df_fail(DF_FAILED, "no window has been run");
    for (size_t first = 0; first + 1 < f->tokens; first += DF_FORWARD_ROWS) {
        unembed(f, first);
        df_nll_rows(f->logits, f->ids + first + 1,
                    (df_extent){rows_at(first, f->tokens - 1), f->model->config.shape.vocabulary},
                    nll + first);
    }
    return DF_OK;
}
