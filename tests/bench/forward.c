/* The forward pass: bench_forward NAME FOLDER [ROUNDS], NAME one of forward-gpt2, forward-llama,
 * forward-llama-bf16. A model of that shape with random weights is written into FOLDER, read, and
 * run over windows of 512 tokens in turns with one large GEMM, the machine's own rate. Counted are
 * the products of the blocks and of causal attention; neither embedding nor logits are. */
#include "median.h"
#include "shapes.h"

#include "darkfield/kernels.h"
#include "darkfield/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WINDOW = 512, MOST_ROUNDS = 64 };

typedef struct bench {
    df_comm *comm;
    const bench_shape *shape;
    const char *folder;
    df_model *model;
    df_forward *forward;
    float *rows; // what a window's site receives
    size_t rounds;
} bench;

/* ---- measuring ------------------------------------------------------------------------------ */

// Products of the blocks' weights, and of queries, keys and values where the mask allows them.
static double flop_of(const df_model_shape *s) {
    double query = (double)(s->heads * s->head_width), key = (double)(s->kv_heads * s->head_width);
    double width = (double)s->width, mlp = (double)s->mlp_width, tokens = WINDOW;
    double weights = width * (2 * query + 2 * key) + width * mlp * (s->gated ? 3 : 2);
    double attention = 2 * query * (tokens + 1) / 2;
    return 2 * tokens * (double)s->layers * (weights + attention);
}

/* A GEMM of the MLP's shape: the largest of the model. */
typedef struct yardstick {
    size_t m, n, k;
    float *a, *b, *c;
    void *packed, *scratch;
} yardstick;

static df_status open_yardstick(const df_model_shape *s, yardstick *y) {
    *y = (yardstick){.m = WINDOW, .n = s->mlp_width, .k = s->width};
    DF_TRY(DF_NEW(y->a, y->m * y->k));
    DF_TRY(DF_NEW(y->b, y->n * y->k));
    DF_TRY(DF_NEW(y->c, y->m * y->n));
    y->packed = df_alloc(df_bf16_weight_bytes(y->n, y->k), 1);
    y->scratch = df_alloc(df_bf16_scratch_bytes(y->m), 1);
    if (y->packed == NULL || y->scratch == NULL) return DF_FAILED;
    for (size_t i = 0; i < y->m * y->k; i++) y->a[i] = (float)(i % 7) - 3.0f;
    for (size_t i = 0; i < y->n * y->k; i++) y->b[i] = (float)(i % 5) - 2.0f;
    df_bf16_pack_weight(y->b, y->n, y->k, y->packed);
    return DF_OK;
}

static double time_gemm(const yardstick *y, bool bf16) {
    double start = df_now();
    if (bf16)
        df_gemm_bf16_nt(&(df_gemm_bf16){.m = y->m,
                                        .n = y->n,
                                        .k = y->k,
                                        .a = y->a,
                                        .lda = y->k,
                                        .weight = y->packed,
                                        .scratch = y->scratch,
                                        .c = y->c,
                                        .ldc = y->n});
    else
        df_gemm_nt(&(df_gemm){.m = y->m,
                              .n = y->n,
                              .k = y->k,
                              .alpha = 1.0f,
                              .a = y->a,
                              .lda = y->k,
                              .b = y->b,
                              .ldb = y->k,
                              .c = y->c,
                              .ldc = y->n});
    return df_now() - start;
}

static df_status time_window(const bench *b, size_t round, double *seconds) {
    uint32_t ids[WINDOW];
    float *out[1] = {b->rows};
    for (size_t t = 0; t < WINDOW; t++)
        ids[t] = (uint32_t)(df_random_bits(5, DF_STREAM_TEST, round * WINDOW + t) % 4096);
    double start = df_now();
    DF_TRY(df_forward_run(b->forward, ids, WINDOW, out, NULL));
    *seconds = df_now() - start;
    return DF_OK;
}

static df_status measure(const bench *b) {
    double gemm[MOST_ROUNDS], window[MOST_ROUNDS];
    const df_model_shape *s = df_model_facts(b->model);
    bool bf16 = b->shape->bf16;
    yardstick y;
    DF_TRY(open_yardstick(s, &y));
    DF_TRY(time_window(b, 0, window));
    for (size_t i = 0; i < b->rounds; i++) {
        gemm[i] = time_gemm(&y, bf16);
        DF_TRY(time_window(b, i + 1, &window[i]));
    }
    double seconds = median(window, b->rounds), flop = flop_of(s);
    double rate = 2e-9 * (double)(y.m * y.n * y.k) / median(gemm, b->rounds);
    double reached = 1e-9 * flop / seconds;
    printf("%s: width %zu, mlp %zu, %zu layers, window %d, one core\n", b->shape->name, s->width,
           s->mlp_width, s->layers, WINDOW);
    printf("  %-18s %8.1f GFLOP/s\n", bf16 ? "bf16 GEMM alone" : "fp32 GEMM alone", rate);
    printf("  %-18s %8.1f GFLOP/s   share %.3f   %.0f tokens/s\n", "forward", reached,
           reached / rate, WINDOW / seconds);
    printf("{\"name\": \"%s\", \"ranks\": 1, \"threads\": 1, \"tokens_per_second\": %.1f, "
           "\"gflops\": %.2f, \"gemm_gflops\": %.2f, \"share\": %.4f}\n",
           b->shape->name, WINDOW / seconds, reached, rate, reached / rate);
    df_free(y.a);
    df_free(y.b);
    df_free(y.c);
    df_free(y.packed);
    df_free(y.scratch);
    return DF_OK;
}

static df_status run(bench *b) {
    char site[40];
    const char *const sites[] = {site};
    DF_TRY(bench_write_model(b->comm, b->shape, b->folder));
    DF_TRY(df_model_open(b->folder, &b->model));
    if (b->shape->bf16) DF_TRY(df_model_use_bf16(b->model));
    const df_model_shape *s = df_model_facts(b->model);
    snprintf(site, sizeof site, "blocks.%zu.hook_resid_post", s->layers - 1);
    DF_TRY(df_forward_open(b->model, WINDOW, sites, 1, &b->forward));
    DF_TRY(DF_NEW(b->rows, WINDOW * s->width));
    return measure(b);
}

int main(int argc, char **argv) {
    bench b = {.rounds = argc > 3 ? strtoul(argv[3], NULL, 10) : 7};
    if (argc < 3 || b.rounds < 1 || b.rounds > MOST_ROUNDS) {
        fprintf(stderr, "usage: bench_forward NAME FOLDER [ROUNDS]\n");
        return (int)DF_USAGE;
    }
    b.shape = bench_shape_find(argv[1]);
    if (b.shape == NULL || df_comm_start(&argc, &argv, &b.comm) != DF_OK) return (int)DF_USAGE;
    b.folder = argv[2];
    df_status status = run(&b);
    if (status != DF_OK) df_error_print(status);
    df_forward_close(&b.forward);
    df_model_close(&b.model);
    df_free(b.rows);
    df_comm_finish(&b.comm);
    return (int)status;
}
