/* The kernel handle: which path this process takes, and the check at start. */
#include "darkfield/kernels.h"

#include <math.h>
#include <string.h>

char *openblas_get_corename(void) __attribute__((weak)); // absent from other BLAS libraries

struct df_kernels {
    char *path;
    df_screen screen, spare;
};

static const char *instructions(void) {
#ifdef __AVX512F__
    return "avx512";
#else
    return "plain";
#endif
}

static df_screen quickest_float(void) {
    return df_screen_quick(DF_SCREEN_BF16) ? DF_SCREEN_BF16 : DF_SCREEN_FP32;
}

static void set_automatic(df_kernels *kernels) {
    kernels->spare = quickest_float();
    kernels->screen = df_screen_quick(DF_SCREEN_INT8) ? DF_SCREEN_INT8 : kernels->spare;
}

df_status df_kernels_set_screen(df_kernels *kernels, const char *name) {
    if (strcmp(name, "auto") == 0) {
        set_automatic(kernels);
        return DF_OK;
    }
    for (int s = 0; s < DF_SCREENS; s++)
        if (strcmp(name, df_screen_name((df_screen)s)) == 0) {
            kernels->screen = kernels->spare = (df_screen)s;
            return DF_OK;
        }
    return df_fail(DF_USAGE, "screen is '%s'; it must be auto, int8, bf16, fp32 or plain", name);
}

df_screen df_kernels_screen(const df_kernels *kernels) {
    return kernels->screen;
}

df_screen df_kernels_spare_screen(const df_kernels *kernels) {
    return kernels->spare;
}

df_status df_kernels_open(const char *path, df_kernels **out) {
    df_kernels *kernels;
    DF_TRY(DF_NEW(kernels, 1));
    const char *core = openblas_get_corename != NULL ? openblas_get_corename() : "unknown";
    kernels->path = df_format("OpenBLAS %s + %s", core, instructions());
    df_status status = kernels->path != NULL ? DF_OK : DF_FAILED;
    set_automatic(kernels);
    if (status == DF_OK && strcmp(path, "auto") != 0 && strcmp(path, kernels->path) != 0)
        status = df_fail(DF_USAGE,
                         "kernel path '%s' was asked for, but this process offers '%s'; use auto, "
                         "or run on the same kind of node",
                         path, kernels->path);
    if (status != DF_OK) df_kernels_close(&kernels);
    *out = kernels;
    return status;
}

void df_kernels_close(df_kernels **kernels) {
    if (*kernels == NULL) return;
    df_free((*kernels)->path);
    df_free(*kernels);
    *kernels = NULL;
}

const char *df_kernels_path(const df_kernels *kernels) {
    return kernels->path;
}

/* ---- the check at start --------------------------------------------------------------------- */

typedef struct layout {
    const char *name;
    void (*fast)(const df_gemm *), (*plain)(const df_gemm *);
} layout;

static const layout layouts[] = {{"nt", df_gemm_nt, df_gemm_nt_plain},
                                 {"nn", df_gemm_nn, df_gemm_nn_plain},
                                 {"tn", df_gemm_tn, df_gemm_tn_plain}};

typedef struct shape {
    size_t m, n, k;
} shape;

/* Square, ragged, one row, and a screen block's edge: small enough to take milliseconds in all. */
static const shape shapes[] = {{128, 128, 128}, {37, 61, 129}, {1, 64, 768}, {16, 512, 96}};

#define EDGE 1024 /* every operand fits in EDGE * 64 elements */
#define ROOM ((size_t)EDGE * 64)

static bool agrees(const float *fast, const float *plain, size_t n, size_t inner) {
    for (size_t i = 0; i < n; i++) // terms are at most 1 in size
        if (!(fabsf(fast[i] - plain[i]) <= 1e-6f * (float)inner))
            return false; // a wrong product is off by far more
    return true;
}

static df_status check_one(float *room, const layout *l, shape s) {
    float *a = room, *b = a + ROOM, *fast = b + ROOM, *plain = fast + ROOM;
    for (size_t i = 0; i < 2 * ROOM; i++)
        room[i] = (float)((i * 7919 + i / 61) % 2001) / 1000.0f - 1.0f;
    memset(fast, 0, 2 * ROOM * sizeof *fast);
    bool a_turned = l->fast == df_gemm_tn, b_turned = l->fast == df_gemm_nt;
    df_gemm g = {
        .m = s.m, .n = s.n, .k = s.k, .alpha = 1.0f, .a = a, .b = b, .c = fast, .ldc = s.n};
    g.lda = a_turned ? s.m : s.k;
    g.ldb = b_turned ? s.k : s.n;
    l->fast(&g);
    g.c = plain;
    l->plain(&g);
    if (agrees(fast, plain, s.m * s.n, s.k)) return DF_OK;
    return df_fail(DF_FAILED,
                   "the BLAS library computes a wrong product (gemm_%s, %zu x %zu x %zu): use "
                   "another build, or set OPENBLAS_CORETYPE",
                   l->name, s.m, s.n, s.k);
}

df_status df_kernels_check(df_kernels *kernels) {
    float *room;
    DF_TRY(DF_NEW(room, 4 * ROOM));
    df_status status = DF_OK;
    for (size_t l = 0; l < sizeof layouts / sizeof *layouts; l++)
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes && status == DF_OK; s++)
            status = check_one(room, &layouts[l], shapes[s]);
    df_free(room);
    if (status != DF_OK) df_context("checking kernel path %s", kernels->path);
    return status;
}
