/* Sixteen floats side by side: AVX-512 registers where the build has them, else an array that the
 * compiler vectorises as it can. Every operation is one IEEE operation per lane, so both give the
 * same bits. The only place that asks for the ISA. */
#ifndef DF_LANES_H
#define DF_LANES_H

#include <float.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define LANES 16

#ifdef __AVX512F__
#include <immintrin.h>

typedef __m512 lanes;

static inline lanes lanes_load(const float *p) {
    return _mm512_loadu_ps(p);
}
static inline lanes lanes_load_part(const float *p, size_t n) { // zeros behind the first n < 16
    return _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
}
static inline void lanes_store(float *p, lanes a) {
    _mm512_storeu_ps(p, a);
}
static inline lanes lanes_all(float a) {
    return _mm512_set1_ps(a);
}
static inline lanes lanes_fma(lanes a, lanes b, lanes c) {
    return _mm512_fmadd_ps(a, b, c);
}
static inline lanes lanes_add(lanes a, lanes b) {
    return _mm512_add_ps(a, b);
}
static inline lanes lanes_sub(lanes a, lanes b) {
    return _mm512_sub_ps(a, b);
}
static inline lanes lanes_mul(lanes a, lanes b) {
    return _mm512_mul_ps(a, b);
}
static inline lanes lanes_div(lanes a, lanes b) {
    return _mm512_div_ps(a, b);
}
static inline lanes lanes_sqrt(lanes a) {
    return _mm512_sqrt_ps(a);
}
static inline lanes lanes_flush(lanes a) { // subnormals become zero
    __mmask16 normal = _mm512_cmp_ps_mask(_mm512_abs_ps(a), _mm512_set1_ps(FLT_MIN), _CMP_NLT_UQ);
    return _mm512_maskz_mov_ps(normal, a);
}
static inline lanes lanes_max(lanes a, lanes b) {
    return _mm512_max_ps(a, b);
}
static inline size_t lanes_count(lanes a, lanes b) { // how many lanes have a >= b
    return (size_t)__builtin_popcount(_mm512_cmp_ps_mask(a, b, _CMP_GE_OQ));
}
/* Bit i: lane i has a >= b. */
static inline uint32_t lanes_reach(lanes a, lanes b) {
    return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ);
}
/* Of the 16 numbers of 32 bits at `from`, those with a bit in `keep` to `to`, in order; all 16
 * places there may be written. Both may overlap. */
static inline void lanes_keep(void *to, const void *from, uint32_t keep) {
    __m512i all = _mm512_loadu_si512(from);
    _mm512_storeu_si512(to, _mm512_maskz_compress_epi32((__mmask16)keep, all));
}

/* Sixteen 16-bit numbers; the conversions of convert.c. */
typedef __m256i halves;
static inline halves halves_load(const void *p) { // any alignment
    return _mm256_loadu_si256((const __m256i *)p);
}
static inline void halves_store(void *p, halves a) {
    _mm256_storeu_si256((__m256i *)p, a);
}
static inline lanes lanes_from_bf16(halves a) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(a), 16));
}
static inline lanes lanes_from_f16(halves a) {
    return _mm512_cvtph_ps(a);
}
static inline halves lanes_to_bf16(lanes a) {
    __m512i bits = _mm512_castps_si512(a), high = _mm512_srli_epi32(bits, 16);
    __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
    __m512i sum = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    __m512i quiet = _mm512_or_si512(high, _mm512_set1_epi32(0x40));
    __mmask16 nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(_mm512_srli_epi32(sum, 16), nan, quiet));
}
static inline halves lanes_to_f16(lanes a) {
    return _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
/* Whether one of them is NaN or infinite. */
static inline int lanes_not_finite(lanes a) {
    __m512i exponent = _mm512_set1_epi32(0x7f800000);
    return _mm512_cmpeq_epi32_mask(_mm512_and_si512(_mm512_castps_si512(a), exponent), exponent) !=
           0;
}
#else

typedef struct lanes {
    float lane[LANES];
} lanes;

#define EACH_LANE for (size_t i = 0; i < LANES; i++)

static inline lanes lanes_load(const float *p) {
    lanes r;
    EACH_LANE r.lane[i] = p[i];
    return r;
}
static inline lanes lanes_load_part(const float *p, size_t n) {
    lanes r;
    EACH_LANE r.lane[i] = i < n ? p[i] : 0.0f;
    return r;
}
static inline void lanes_store(float *p, lanes a) {
    EACH_LANE p[i] = a.lane[i];
}
static inline lanes lanes_all(float a) {
    lanes r;
    EACH_LANE r.lane[i] = a;
    return r;
}
static inline lanes lanes_fma(lanes a, lanes b, lanes c) {
    EACH_LANE c.lane[i] = fmaf(a.lane[i], b.lane[i], c.lane[i]);
    return c;
}
static inline lanes lanes_add(lanes a, lanes b) {
    EACH_LANE a.lane[i] += b.lane[i];
    return a;
}
static inline lanes lanes_sub(lanes a, lanes b) {
    EACH_LANE a.lane[i] -= b.lane[i];
    return a;
}
static inline lanes lanes_mul(lanes a, lanes b) {
    EACH_LANE a.lane[i] *= b.lane[i];
    return a;
}
static inline lanes lanes_div(lanes a, lanes b) {
    EACH_LANE a.lane[i] /= b.lane[i];
    return a;
}
static inline lanes lanes_sqrt(lanes a) {
    EACH_LANE a.lane[i] = sqrtf(a.lane[i]);
    return a;
}
static inline lanes lanes_flush(lanes a) {
    EACH_LANE a.lane[i] = fabsf(a.lane[i]) < FLT_MIN ? 0.0f : a.lane[i];
    return a;
}
static inline lanes lanes_max(lanes a, lanes b) {
    EACH_LANE a.lane[i] = a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i];
    return a;
}
static inline size_t lanes_count(lanes a, lanes b) {
    size_t n = 0;
    EACH_LANE n += a.lane[i] >= b.lane[i];
    return n;
}
static inline uint32_t lanes_reach(lanes a, lanes b) {
    uint32_t bits = 0;
    EACH_LANE bits |= (uint32_t)(a.lane[i] >= b.lane[i]) << i;
    return bits;
}
static inline void lanes_keep(void *to, const void *from, uint32_t keep) {
    uint32_t all[LANES], kept[LANES];
    size_t n = 0;
    memcpy(all, from, sizeof all);
    for (size_t i = 0; i < LANES; i++) { // without branches: which stay cannot be predicted
        kept[n] = all[i];
        n += keep >> i & 1;
    }
    memcpy(to, kept, n * sizeof *kept);
}
#endif

/* The fixed tree over 16 lanes: i with i + 8, then i + 4, i + 2, i + 1; of four at a time. */
#ifdef __AVX512F__
static inline __m128 lanes_quarter(lanes a) { // i with i + 8, i + 4
    __m256 upper = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(a), 1));
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256(a), upper);
    return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}
static inline void lanes_sum4(const lanes a[4], float out[4]) {
    __m128 q0 = lanes_quarter(a[0]), q1 = lanes_quarter(a[1]), q2 = lanes_quarter(a[2]),
           q3 = lanes_quarter(a[3]);
    __m128 low = _mm_add_ps(_mm_movelh_ps(q0, q1), _mm_movehl_ps(q1, q0));
    __m128 high = _mm_add_ps(_mm_movelh_ps(q2, q3), _mm_movehl_ps(q3, q2));
    _mm_storeu_ps(out,
                  _mm_add_ps(_mm_shuffle_ps(low, high, 0x88), _mm_shuffle_ps(low, high, 0xdd)));
}
static inline float lanes_sum(lanes a) {
    float out[4];
    const lanes four[4] = {a, a, a, a};
    lanes_sum4(four, out);
    return out[0];
}
#else
static inline float lanes_sum(lanes a) {
    float s[LANES];
    lanes_store(s, a);
    for (size_t half = LANES / 2; half > 0; half /= 2)
        for (size_t i = 0; i < half; i++) s[i] += s[i + half];
    return s[0];
}
static inline void lanes_sum4(const lanes a[4], float out[4]) {
    for (size_t i = 0; i < 4; i++) out[i] = lanes_sum(a[i]);
}
#endif

#endif
