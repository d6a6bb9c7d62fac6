/* Screening scans and selection inside one array. */
#include "darkfield/kernels.h"

#include "lanes.h"

/* The caller leaves room for 16 entries more than n, because a whole register is stored at a time.
 */
size_t df_scan_row(const df_scan *s, float *upper, uint32_t *label) {
    lanes norm = lanes_all(s->norm), floor_ = lanes_all(s->floor);
    size_t i = 0, kept = 0;
    for (; i + LANES <= s->n; i += LANES) {
        lanes u = lanes_fma(lanes_load(s->product + i), lanes_load(s->scale + i),
                            lanes_load(s->lift + i));
        u = lanes_fma(norm, lanes_load(s->slack + i), u);
        kept += lanes_keep(u, floor_, s->first + (uint32_t)i, upper + kept, label + kept);
    }
    df_scan rest = *s;
    rest.product += i, rest.scale += i, rest.lift += i, rest.slack += i;
    rest.n -= i;
    rest.first += (uint32_t)i;
    return kept + df_scan_row_plain(&rest, upper + kept, label + kept);
}

size_t df_scan_row_plain(const df_scan *s, float *upper, uint32_t *label) {
    size_t kept = 0;
    for (size_t i = 0; i < s->n; i++) {
        float u = fmaf(s->norm, s->slack[i], fmaf(s->product[i], s->scale[i], s->lift[i]));
        if (!(u >= s->floor)) continue;
        upper[kept] = u;
        label[kept++] = s->first + (uint32_t)i;
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
