/* Selection inside one array. */
#include "darkfield/kernels.h"

#include "lanes.h"

#include <string.h>

#define HALVINGS 12

static size_t count_reaching(const float *values, size_t n, float level) {
    lanes all = lanes_all(level);
    size_t count = 0, i = 0;
    for (; i + LANES <= n; i += LANES) count += lanes_count(lanes_load(values + i), all);
    for (; i < n; i++) count += values[i] >= level;
    return count;
}

static float largest_of(const float *values, size_t n) {
    lanes most = lanes_all(values[0]);
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) most = lanes_max(most, lanes_load(values + i));
    float lane[LANES], largest = values[0];
    lanes_store(lane, most);
    for (size_t l = 0; l < LANES; l++) largest = lane[l] > largest ? lane[l] : largest;
    for (; i < n; i++) largest = values[i] > largest ? values[i] : largest;
    return largest;
}

float df_level_of(const float *values, size_t n, size_t k, float level) {
    if (k > n || count_reaching(values, n, level) < k) return level;
    float high = largest_of(values, n);
    for (size_t i = 0; i < HALVINGS; i++) {
        float middle = level + (high - level) * 0.5f;
        if (count_reaching(values, n, middle) >= k)
            level = middle;
        else
            high = middle;
    }
    return level;
}

static void move_entry(float *key, void *const other[3], size_t to, size_t from) {
    key[to] = key[from];
    for (size_t k = 0; k < 3; k++)
        memcpy((char *)other[k] + 4 * to, (char *)other[k] + 4 * from, 4);
}

size_t df_keep_reaching_plain(float level, size_t n, float *key, void *const other[3]) {
    size_t kept = 0;
    for (size_t i = 0; i < n; i++)
        if (key[i] >= level) move_entry(key, other, kept++, i);
    return kept;
}

size_t df_keep_reaching(float level, size_t n, float *key, void *const other[3]) {
    size_t kept = 0, whole = n / LANES * LANES;
    lanes all = lanes_all(level);
    for (size_t i = 0; i < whole; i += LANES) {
        uint32_t keep = lanes_reach(lanes_load(key + i), all);
        lanes_keep(key + kept, key + i, keep);
        for (size_t k = 0; k < 3; k++)
            lanes_keep((char *)other[k] + 4 * kept, (char *)other[k] + 4 * i, keep);
        kept += (size_t)__builtin_popcount(keep);
    }
    for (size_t i = whole; i < n; i++) {
        bool keep = key[i] >= level;
        move_entry(key, other, kept, i);
        kept += keep;
    }
    return kept;
}

/* Hoare's quickselect, largest first. */
float df_nth_largest(float *v, size_t n, size_t k) {
    ptrdiff_t low = 0, high = (ptrdiff_t)n - 1, want = (ptrdiff_t)k - 1;
    while (low < high) {
        float pivot = v[low + (high - low) / 2];
        ptrdiff_t i = low, j = high;
        while (i <= j) {
            while (v[i] > pivot) i++;
            while (v[j] < pivot) j--;
            if (i > j) break;
            float t = v[i];
            v[i++] = v[j];
            v[j--] = t;
        }
        if (want <= j)
            high = j;
        else if (want >= i)
            low = i;
        else
            break;
    }
    return v[want];
}

/* Radix exchange from the highest bit: no bad case. */
uint64_t df_nth_smallest(uint64_t *v, size_t n, size_t k) {
    for (int bit = 63; bit >= 0 && n > 1; bit--) {
        size_t zeros = 0;
        for (size_t i = 0; i < n; i++) {
            if ((v[i] >> bit & 1) != 0) continue;
            uint64_t t = v[i];
            v[i] = v[zeros];
            v[zeros++] = t;
        }
        bool upper = k > zeros;
        v += upper ? zeros : 0;
        n = upper ? n - zeros : zeros;
        k -= upper ? zeros : 0;
    }
    return v[k - 1];
}
