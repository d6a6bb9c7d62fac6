/* Counter-based random numbers: Philox4x32-10 of Salmon, Moraes, Dror and Shaw, "Parallel random
 * numbers: as easy as 1, 2, 3" (SC11). The counter is (index, stream, use): use 0 draws numbers,
 * use 1 + r is round r of the permutation's Feistel network, so that no two uses share a block. */
#include "darkfield/base.h"

#include <Random123/philox.h>
#include <assert.h>
#include <math.h>

#define FEISTEL_ROUNDS 8
#define PI 3.14159265358979323846

static philox4x32_ctr_t block(uint64_t seed, df_stream stream, uint64_t index, uint32_t use) {
    philox4x32_ctr_t counter = {{(uint32_t)index, (uint32_t)(index >> 32), (uint32_t)stream, use}};
    philox4x32_key_t key = {{(uint32_t)seed, (uint32_t)(seed >> 32)}};
    return philox4x32(counter, key);
}

static uint64_t join(uint32_t low, uint32_t high) {
    return (uint64_t)high << 32 | low;
}

// The upper 53 bits as a fraction in [0, 1).
static double fraction(uint64_t bits) {
    return (double)(bits >> 11) * 0x1p-53;
}

uint64_t df_random_bits(uint64_t seed, df_stream stream, uint64_t index) {
    philox4x32_ctr_t r = block(seed, stream, index, 0);
    return join(r.v[0], r.v[1]);
}

double df_random_uniform(uint64_t seed, df_stream stream, uint64_t index) {
    return fraction(df_random_bits(seed, stream, index));
}

double df_random_normal(uint64_t seed, df_stream stream, uint64_t index) {
    philox4x32_ctr_t r = block(seed, stream, index, 0);
    double radius = 1 - fraction(join(r.v[0], r.v[1])); // in (0, 1]: the logarithm is finite
    double turn = fraction(join(r.v[2], r.v[3]));
    return sqrt(-2 * log(radius)) * cos(2 * PI * turn);
}

// Half the even number of bits that holds 0..n-1; at least 3, for on 16 elements the orders that
// the network reaches are visibly uneven.
static unsigned half_width(uint64_t n) {
    unsigned bits = 0;
    while (bits < 64 && (n - 1) >> bits != 0) bits++;
    unsigned half = (bits + 1) / 2;
    return half < 3 ? 3 : half;
}

/* One way or the other through all rounds. */
static uint64_t feistel(uint64_t seed, df_stream stream, unsigned half, uint64_t x, bool back) {
    uint64_t mask = (UINT64_C(1) << half) - 1, left = x >> half, right = x & mask;
    for (uint32_t r = 0; r < FEISTEL_ROUNDS; r++) {
        uint32_t round = back ? FEISTEL_ROUNDS - 1 - r : r;
        uint64_t key = back ? left : right, other = back ? right : left;
        uint64_t mixed = other ^ (block(seed, stream, key, 1 + round).v[0] & mask);
        left = back ? mixed : right;
        right = back ? key : mixed;
    }
    return left << half | right;
}

/* Leaving 0..n-1 we walk on along the cycle until we are back: still a bijection. */
static uint64_t walk(uint64_t seed, df_stream stream, uint64_t n, uint64_t x, bool back) {
    assert(n >= 1 && x < n);
    unsigned half = half_width(n);
    do x = feistel(seed, stream, half, x, back);
    while (x >= n);
    return x;
}

uint64_t df_random_permute(uint64_t seed, df_stream stream, uint64_t n, uint64_t i) {
    return walk(seed, stream, n, i, false);
}

uint64_t df_random_unpermute(uint64_t seed, df_stream stream, uint64_t n, uint64_t i) {
    return walk(seed, stream, n, i, true);
}
