/* The screen's tiles for AVX-512: sums, test and products in registers. Compiled for any x86, taken
 * where the CPU has the instructions. */
#include "pack.h"

#ifdef __x86_64__
#include <immintrin.h>

#define FOR(extension) __attribute__((target("avx512f" extension)))

bool df_has_avx512(df_screen screen) {
    if (!__builtin_cpu_supports("avx512f")) return false;
    if (screen == DF_SCREEN_BF16) return __builtin_cpu_supports("avx512bf16");
    if (screen == DF_SCREEN_INT8) return __builtin_cpu_supports("avx512vnni");
    return true;
}

/* Every row has two registers of sums, s0_<row> and s1_<row>: named one by one, because compilers
 * keep an array of 28 in memory. */
#define EACH_ROW(DO)                                                                               \
    DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11) DO(12) DO(13)
_Static_assert(DF_TILE_ROWS == 14 && DF_TILE_LATENTS == 32, "EACH_ROW and the two registers");

/* What is done with a row's finished products p0 and p1. */
#define FINISH(r, p0, p1)                                                                          \
    {                                                                                              \
        const __m512 unit = _mm512_set1_ps(t->unit[r]), least = _mm512_set1_ps(t->floor[r]);       \
        __m512 u0 = _mm512_fmadd_ps(_mm512_mul_ps(p0, gain0), unit, lift0);                        \
        __m512 u1 = _mm512_fmadd_ps(_mm512_mul_ps(p1, gain1), unit, lift1);                        \
        mask[r] = (uint32_t)_mm512_cmp_ps_mask(u0, least, _CMP_GE_OQ) |                            \
                  (uint32_t)_mm512_cmp_ps_mask(u1, least, _CMP_GE_OQ) << 16;                       \
        any |= mask[r];                                                                            \
        _mm512_storeu_ps(product + (r)*32, p0);                                                    \
        _mm512_storeu_ps(product + (r)*32 + 16, p1);                                               \
    }

#define LOAD_TEST                                                                                  \
    const __m512 gain0 = _mm512_loadu_ps(t->gain), gain1 = _mm512_loadu_ps(t->gain + 16),          \
                 lift0 = _mm512_loadu_ps(t->lift), lift1 = _mm512_loadu_ps(t->lift + 16);          \
    uint32_t any = 0;

#define ZERO(r) __m512 s0_##r = _mm512_setzero_ps(), s1_##r = _mm512_setzero_ps();
#define FINISH_FLOATS(r) FINISH(r, s0_##r, s1_##r)

#define STEP_FP32(r)                                                                               \
    {                                                                                              \
        __m512 x = _mm512_set1_ps(a[r]);                                                           \
        s0_##r = _mm512_fmadd_ps(x, b0, s0_##r);                                                   \
        s1_##r = _mm512_fmadd_ps(x, b1, s1_##r);                                                   \
    }

FOR("") uint32_t df_tile_fp32_avx512(const df_tile *t, float *product, uint32_t *mask) {
    const float *a = t->rows, *b = t->latents;
    EACH_ROW(ZERO)
    for (size_t k = 0; k < t->width; k++) {
        const __m512 b0 = _mm512_loadu_ps(b), b1 = _mm512_loadu_ps(b + 16);
        EACH_ROW(STEP_FP32)
        a += DF_TILE_ROWS;
        b += DF_TILE_LATENTS;
    }
    LOAD_TEST
    EACH_ROW(FINISH_FLOATS)
    return any;
}

#define STORE(r)                                                                                   \
    _mm512_storeu_ps(out + (r)*32, s0_##r);                                                        \
    _mm512_storeu_ps(out + (r)*32 + 16, s1_##r);
#define ADD(r)                                                                                     \
    _mm512_storeu_ps(out + (r)*32, _mm512_add_ps(_mm512_loadu_ps(out + (r)*32), s0_##r));          \
    _mm512_storeu_ps(out + (r)*32 + 16, _mm512_add_ps(_mm512_loadu_ps(out + (r)*32 + 16), s1_##r));

FOR("") void df_multiply_avx512(const float *a, const float *b, size_t n, bool add, float *out) {
    EACH_ROW(ZERO)
    for (size_t k = 0; k < n; k++) {
        const __m512 b0 = _mm512_loadu_ps(b), b1 = _mm512_loadu_ps(b + 16);
        EACH_ROW(STEP_FP32)
        a += DF_TILE_ROWS;
        b += DF_TILE_LATENTS;
    }
    if (add) {
        EACH_ROW(ADD)
    } else {
        EACH_ROW(STORE)
    }
}

#define STEP_BF16(r)                                                                               \
    {                                                                                              \
        __m512bh x = (__m512bh)_mm512_set1_epi32(a[r]);                                            \
        s0_##r = _mm512_dpbf16_ps(s0_##r, x, b0);                                                  \
        s1_##r = _mm512_dpbf16_ps(s1_##r, x, b1);                                                  \
    }

FOR(",avx512bf16") uint32_t df_tile_bf16_avx512(const df_tile *t, float *product, uint32_t *mask) {
    const int32_t *a = t->rows, *b = t->latents;
    size_t words = df_screen_words(DF_SCREEN_BF16, t->width);
    EACH_ROW(ZERO)
    for (size_t k = 0; k < words; k++) {
        const __m512bh b0 = (__m512bh)_mm512_loadu_si512(b),
                       b1 = (__m512bh)_mm512_loadu_si512(b + 16);
        EACH_ROW(STEP_BF16)
        a += DF_TILE_ROWS;
        b += DF_TILE_LATENTS;
    }
    LOAD_TEST
    EACH_ROW(FINISH_FLOATS)
    return any;
}

/* By name, because GCC 12 spills every register around the intrinsic. */
#define DOT(sum, x, y) __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(y))
#define START(r) __m512i s0_##r = start0, s1_##r = start1;
#define STEP_INT8(r)                                                                               \
    {                                                                                              \
        __m512i x = _mm512_set1_epi32(a[r]);                                                       \
        DOT(s0_##r, x, b0);                                                                        \
        DOT(s1_##r, x, b1);                                                                        \
    }
#define FINISH_INTEGERS(r)                                                                         \
    {                                                                                              \
        const __m512 p0 = _mm512_cvtepi32_ps(s0_##r), p1 = _mm512_cvtepi32_ps(s1_##r);             \
        FINISH(r, p0, p1)                                                                          \
    }

FOR(",avx512vnni") uint32_t df_tile_int8_avx512(const df_tile *t, float *product, uint32_t *mask) {
    const int32_t *a = t->rows, *b = t->latents;
    size_t words = df_screen_words(DF_SCREEN_INT8, t->width);
    const __m512i start0 = _mm512_loadu_si512(t->start), start1 = _mm512_loadu_si512(t->start + 16);
    EACH_ROW(START)
    for (size_t k = 0; k < words; k++) {
        const __m512i b0 = _mm512_loadu_si512(b), b1 = _mm512_loadu_si512(b + 16);
        EACH_ROW(STEP_INT8)
        a += DF_TILE_ROWS;
        b += DF_TILE_LATENTS;
    }
    LOAD_TEST
    EACH_ROW(FINISH_INTEGERS)
    return any;
}

bool df_has_compress(void) {
    return __builtin_cpu_supports("avx512vbmi2") && __builtin_cpu_supports("avx512bw");
}

/* Without branches: where the few bits are cannot be predicted. */
FOR(",avx512bw,avx512vbmi2,popcnt")
size_t df_mask_places_avx512(const uint32_t *mask, uint16_t *place) {
    static const uint16_t lanes[DF_TILE_LATENTS] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10,
                                                    11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21,
                                                    22, 23, 24, 25, 26, 27, 28, 29, 30, 31};
    __m512i at = _mm512_loadu_si512(lanes);
    size_t n = 0;
    for (size_t r = 0; r < DF_TILE_ROWS; r++) {
        _mm512_storeu_si512(place + n, _mm512_maskz_compress_epi16(mask[r], at));
        n += (size_t)__builtin_popcount(mask[r]);
        at = _mm512_add_epi16(at, _mm512_set1_epi16(DF_TILE_LATENTS));
    }
    return n;
}

#else

bool df_has_compress(void) {
    return false;
}

size_t df_mask_places_avx512(const uint32_t *mask, uint16_t *place) {
    return df_mask_places_plain(mask, place);
}

bool df_has_avx512(df_screen screen) {
    (void)screen;
    return false;
}

uint32_t df_tile_fp32_avx512(const df_tile *t, float *product, uint32_t *mask) {
    return df_screen_tile_plain(t, product, mask);
}

void df_multiply_avx512(const float *left, const float *right, size_t n, bool add, float *out) {
    df_multiply_tile_plain(left, right, n, add, out);
}

uint32_t df_tile_bf16_avx512(const df_tile *t, float *product, uint32_t *mask) {
    return df_screen_tile_plain(t, product, mask);
}

uint32_t df_tile_int8_avx512(const df_tile *t, float *product, uint32_t *mask) {
    return df_screen_tile_plain(t, product, mask);
}

#endif
