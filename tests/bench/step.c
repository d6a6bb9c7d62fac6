/* Times one training step against the encoder GEMM alone, in alternated pairs. Usage: mpirun -n R
 * bench_step LATENTS WIDTH ROWS K PAIRS NAME. NAME says what is trained: topk, batchtopk,
 * crosscoder (BatchTopK, two sites of half the width), relu or jumprelu (a threshold for K active
 * latents a row), and behind it the screen: step-topk-fp32; "dense" in it: the measure is a dense
 * trainer's step instead (dense.h); "alone": there is none, only steps; "outliers": a few columns
 * are 100 times the others, so that int8 bounds say little. Prints a table and one JSON line on
 * rank 0. */
#include "dense.h"
#include "median.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_ROWS = 4096, MOST_LATENTS = 8192 };

typedef struct shape {
    size_t rows, latents;
} shape;

typedef struct bench {
    df_comm *comm;
    df_kernels *kernels;
    df_dict *dict;
    df_coder *coder;
    float *x;       // [batches, rows, width]
    float *product; // [threads, MOST_ROWS, MOST_LATENTS]
    shape block;    // of the GEMM
    dense_step dense;
    bool alone;
    size_t latents, width, rows, k, batches;
    df_objective objective;
} bench;

static size_t smaller(size_t a, size_t b) {
    return a < b ? a : b;
}

/* The GEMM: 2 * rows * latents of this rank * width flop by sgemm, on all threads, in blocks. */
static double time_gemm(bench *b, shape block, size_t latents) {
    size_t across = (latents + block.latents - 1) / block.latents;
    size_t blocks = (b->rows + block.rows - 1) / block.rows * across;
    df_barrier(b->comm);
    double start = df_now();
#pragma omp parallel for schedule(dynamic)
    for (size_t t = 0; t < blocks; t++) {
        size_t i = t / across * block.rows, j = t % across * block.latents;
        df_gemm g = {.m = smaller(block.rows, b->rows - i),
                     .n = smaller(block.latents, latents - j),
                     .k = b->width,
                     .alpha = 1.0f,
                     .a = b->x + i * b->width,
                     .lda = b->width,
                     .b = b->dict->w_enc + j * b->width,
                     .ldb = b->width,
                     .ldc = block.latents};
        g.c = b->product + (size_t)omp_get_thread_num() * MOST_ROWS * MOST_LATENTS;
        df_gemm_nt(&g);
    }
    double seconds = df_now() - start;
    df_max_double(b->comm, &seconds, 1);
    return seconds;
}

/* The quickest block shape here, tried on a part of the latents. */
static shape best_shape(bench *b) {
    size_t each = b->rows / (size_t)omp_get_max_threads(),
           part = smaller(MOST_LATENTS, b->dict->mine.count);
    shape best = {0, 0};
    double least = INFINITY;
    for (size_t rows = 128; rows <= MOST_ROWS; rows *= 2)
        for (size_t latents = 256; latents <= MOST_LATENTS; latents *= 2) {
            shape tried = {smaller(rows, each), latents};
            double seconds = time_gemm(b, tried, part);
            if (seconds < least) best = tried;
            least = fmin(least, seconds);
        }
    return best;
}

static double time_dense(bench *b, size_t i) {
    df_barrier(b->comm);
    double seconds = dense_run(&b->dense, b->x + (i % b->batches) * b->rows * b->width, b->rows);
    df_max_double(b->comm, &seconds, 1);
    return seconds;
}

static df_status time_step(bench *b, size_t i, df_step_report *report, double *seconds) {
    df_step_settings set = {.lr = 1e-4,
                            .beta1 = 0.9,
                            .beta2 = 0.999,
                            .epsilon = 1e-8,
                            .aux = 1.0 / 32,
                            .aux_k = 256,
                            .dead_rows = 10000000,
                            .unit_decoder = true,
                            .threshold_rate = 0.001};
    set.objective = b->objective;
    df_barrier(b->comm);
    double start = df_now();
    DF_TRY(df_coder_step(b->coder, b->x + (i % b->batches) * b->rows * b->width, b->rows, &set,
                         report));
    *seconds = df_now() - start;
    df_max_double(b->comm, seconds, 1);
    return DF_OK;
}

enum { OUTLIERS = 4 }; // columns of a row

/* Columns that are far larger than all others, as residual streams have them. */
static void enlarge_columns(bench *b) {
    for (size_t r = 0; r < b->batches * b->rows; r++)
        for (size_t n = 0; n < OUTLIERS; n++)
            b->x[r * b->width + n * (b->width / OUTLIERS)] *= 100.0f;
}

/* Rows made of a few of many directions plus noise, so that a dictionary has something to find. */
static void make_rows(bench *b) {
    size_t directions = 2048;
    float *d;
    if (DF_NEW(d, directions * b->width) != DF_OK) return;
    for (size_t i = 0; i < directions * b->width; i++)
        d[i] = (float)df_random_normal(1, DF_STREAM_TEST, i) / sqrtf((float)b->width);
#pragma omp parallel for
    for (size_t r = 0; r < b->batches * b->rows; r++) {
        float *x = b->x + r * b->width;
        for (size_t c = 0; c < b->width; c++)
            x[c] = 0.3f * (float)df_random_normal(2, DF_STREAM_TEST, r * b->width + c) /
                   sqrtf((float)b->width);
        for (size_t n = 0; n < 24; n++) {
            uint64_t draw = df_random_bits(3, DF_STREAM_TEST, r * 24 + n);
            df_add_scaled(x, 0.2f * (1.0f + (float)(draw >> 40 & 3)) / 2.0f,
                          d + (draw % directions) * b->width, b->width);
        }
    }
    df_free(d);
}

/* A name ends in the screen that it asks for: step-topk-fp32. */
static const char *screen_of(const char *name) {
    static const char *const screens[] = {"int8", "bf16", "fp32", "plain"};
    for (size_t i = 0; i < 4; i++)
        if (strstr(name, screens[i]) != NULL) return screens[i];
    return "auto";
}

enum { SAMPLE = 128 }; // rows that tell the threshold

/* The score that k latents a row reach on average: of this rank's latents, with a zero bias. */
static df_status find_threshold(bench *b, float *out) {
    size_t local = b->dict->mine.count, n = SAMPLE * local, wanted = SAMPLE * b->k * local;
    float *scores;
    DF_TRY(DF_NEW(scores, n));
    df_gemm_nt(&(df_gemm){.m = SAMPLE,
                          .n = local,
                          .k = b->width,
                          .alpha = 1.0f,
                          .a = b->x,
                          .lda = b->width,
                          .b = b->dict->w_enc,
                          .ldb = b->width,
                          .c = scores,
                          .ldc = local});
    double level = (double)df_nth_largest(scores, n, wanted / b->latents);
    df_max_double(b->comm, &level, 1);
    df_free(scores);
    *out = (float)level;
    return DF_OK;
}

/* Activation and objective by the bench's name. */
static df_status choose(bench *b, const char *name) {
    float level = 0.0f;
    b->dict->activation = strstr(name, "jumprelu") != NULL    ? DF_JUMPRELU
                          : strstr(name, "relu") != NULL      ? DF_RELU
                          : strstr(name, "step-topk") != NULL ? DF_TOPK
                                                              : DF_BATCHTOPK;
    if (b->dict->activation == DF_TOPK || b->dict->activation == DF_BATCHTOPK) return DF_OK;
    DF_TRY(df_agree(b->comm, find_threshold(b, &level)));
    bool jump = b->dict->activation == DF_JUMPRELU;
    for (size_t j = 0; j < b->dict->mine.count; j++) {
        if (jump)
            b->dict->theta[j] = level;
        else
            b->dict->b_enc[j] = -level;
    }
    if (jump)
        b->objective = (df_objective){
            .penalty = DF_PENALTY_L0, .weight = 1e-6, .bandwidth = 0.05 * (double)level};
    return DF_OK;
}

static df_status open_bench(bench *b, const char *name) {
    size_t sites = strstr(name, "crosscoder") != NULL ? 2 : 1;
    df_dict_site site[2];
    for (size_t s = 0; s < 2; s++)
        site[s] = (df_dict_site){.name = (char *)"blocks.0.hook_resid_post",
                                 .model = (char *)(s == 0 ? "a" : "b"),
                                 .width = b->width / sites,
                                 .scale = 1.0};
    float *zero;
    b->batches = 4;
    DF_TRY(DF_NEW(b->x, b->batches * b->rows * b->width));
    DF_TRY(DF_NEW(b->product, (size_t)omp_get_max_threads() * MOST_ROWS * MOST_LATENTS));
    DF_TRY(DF_NEW(zero, b->width));
    make_rows(b);
    if (strstr(name, "outliers") != NULL) enlarge_columns(b);
    DF_TRY(df_kernels_open("auto", &b->kernels));
    DF_TRY(df_kernels_set_screen(b->kernels, screen_of(name)));
    DF_TRY(df_dict_new(b->comm, b->latents, site, sites, &b->dict));
    b->dict->k = b->k;
    b->dict->code_norm = sites > 1 ? DF_NORM_SUM : DF_NORM_NONE;
    df_dict_initialise(b->dict, 7, 1.0 / sqrt((double)sites), 1.0, zero);
    df_free(zero);
    DF_TRY(choose(b, name));
    if (strstr(name, "dense") != NULL)
        DF_TRY(dense_open(b->dict->mine.count, b->width, b->dict, &b->dense));
    DF_TRY(df_coder_open(b->comm, b->kernels, b->dict, b->rows, &b->coder));
    return df_coder_train_open(b->coder);
}

#define PARTS 8
static void add_parts(const df_step_report *r, double *sum) {
    double parts[PARTS] = {r->screen_seconds, r->select_seconds,    r->settle_seconds,
                           r->decode_seconds, r->gradient_seconds,  r->adam_seconds,
                           r->comm_seconds,   (double)r->dense_rows};
    for (size_t i = 0; i < PARTS; i++) sum[i] += parts[i];
}

static void print(const bench *b, double gemm, double step, const double *parts, const char *name) {
    static const char *const part_names[] = {"screen",        "selection",       "settle",
                                             "decode, error", "codes by latent", "gradients, Adam",
                                             "communication"};
    int ranks = df_comm_size(b->comm), threads = omp_get_max_threads();
    printf("%s: m %zu, d %zu, B %zu, k %zu, %d ranks x %d threads, %s\n", name, b->latents,
           b->width, b->rows, b->k, ranks, threads, df_kernels_path(b->kernels));
    if (b->dense.latents > 0)
        printf("  %-18s %8.1f ms\n", "dense step", gemm * 1e3);
    else if (!b->alone)
        printf("  %-18s %8.1f ms   %6.1f GFLOP/s in blocks of %zu x %zu\n", "GEMM alone",
               gemm * 1e3, 2e-9 * (double)(b->rows * b->latents * b->width) / gemm, b->block.rows,
               b->block.latents);
    printf("  %-18s %8.1f ms", "step", step * 1e3);
    if (!b->alone) printf("   ratio %.3f", step / gemm);
    printf("\n");
    for (size_t i = 0; i + 1 < PARTS; i++)
        printf("    %-16s %8.1f ms\n", part_names[i], parts[i] * 1e3);
    printf("    %-16s %8.1f\n", "rows made exact", parts[PARTS - 1]);
    printf("{\"name\": \"%s\", \"ranks\": %d, \"threads\": %d, \"seconds\": %.6f", name, ranks,
           threads, step);
    if (!b->alone) printf(", \"gemm_seconds\": %.6f, \"ratio\": %.4f", gemm, step / gemm);
    printf("}\n");
}

/* What a step is measured against. */
static double time_unit(bench *b, size_t i) {
    if (b->alone) return 0.0;
    return b->dense.latents > 0 ? time_dense(b, i) : time_gemm(b, b->block, b->dict->mine.count);
}

static df_status run(bench *b, size_t pairs, const char *name) {
    double *gemm, *step, parts[PARTS] = {0};
    df_step_report report;
    DF_TRY(DF_NEW(gemm, pairs));
    DF_TRY(DF_NEW(step, pairs));
    if (!b->alone && b->dense.latents == 0) b->block = best_shape(b);
    for (size_t i = 0; i < 3; i++) DF_TRY(time_step(b, i, &report, &step[0]));
    for (size_t i = 0; i < pairs; i++) {
        gemm[i] = time_unit(b, i);
        DF_TRY(time_step(b, i, &report, &step[i]));
        add_parts(&report, parts);
    }
    for (size_t i = 0; i < PARTS; i++) parts[i] /= (double)pairs;
    if (df_comm_rank(b->comm) == 0) print(b, median(gemm, pairs), median(step, pairs), parts, name);
    df_free(gemm);
    df_free(step);
    return DF_OK;
}

int main(int argc, char **argv) {
    bench b = {0};
    if (df_comm_start(&argc, &argv, &b.comm) != DF_OK) return 1;
    b.latents = argc > 1 ? strtoul(argv[1], NULL, 10) : 16384;
    b.width = argc > 2 ? strtoul(argv[2], NULL, 10) : 768;
    b.rows = argc > 3 ? strtoul(argv[3], NULL, 10) : 4096;
    b.k = argc > 4 ? strtoul(argv[4], NULL, 10) : 32;
    size_t pairs = argc > 5 ? strtoul(argv[5], NULL, 10) : 20;
    const char *name = argc > 6 ? argv[6] : "step-topk";
    b.alone = strstr(name, "alone") != NULL;
    df_status status = open_bench(&b, name);
    if (status == DF_OK) status = run(&b, pairs, name);
    if (status != DF_OK) df_error_print(status);
    dense_close(&b.dense);
    df_coder_close(&b.coder);
    df_dict_free(&b.dict);
    df_kernels_close(&b.kernels);
    df_free(b.x);
    df_free(b.product);
    df_comm_finish(&b.comm);
    return (int)status;
}
