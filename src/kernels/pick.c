/* Selection inside one array. */
#include "darkfield/kernels.h"

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
        if (want <= j) high = j;
        else if (want >= i) low = i;
        else break;
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
