/* Counted memory. Each block carries its size in a 64-byte header, so that the count stays exact.
 */
#define _DEFAULT_SOURCE // madvise
#include "darkfield/base.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define HEADER 64
#define LARGE ((size_t)4 << 20) /* blocks that are worth pages of 2 MiB */

static atomic_size_t now, peak;
static _Atomic int64_t fail_after = -1;

static bool told_to_fail(void) {
    if (atomic_load(&fail_after) < 0) return false;
    return atomic_fetch_sub(&fail_after, 1) == 0;
}

static void count_up(size_t bytes) {
    size_t total = atomic_fetch_add(&now, bytes) + bytes, high = atomic_load(&peak);
    while (total > high && !atomic_compare_exchange_weak(&peak, &high, total)) {
    }
}

/* Rows that are read in any order miss the address caches less. A wish: nothing depends on it. */
static void ask_for_large_pages(char *block, size_t bytes) {
#ifdef MADV_HUGEPAGE
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t first = ((uintptr_t)block + page - 1) / page * page;
    if (bytes >= LARGE)
        (void)madvise((void *)first, (uintptr_t)block + bytes - first, MADV_HUGEPAGE);
#else
    (void)block, (void)bytes;
#endif
}

void *df_alloc(size_t n, size_t size) {
    size_t bytes, padded;
    if (df_mul(n, size, &bytes) != DF_OK || df_add(bytes, 2 * HEADER, &padded) != DF_OK)
        return NULL;
    padded -= padded % HEADER;
    char *block = told_to_fail() ? NULL : aligned_alloc(HEADER, padded);
    if (block == NULL) {
        (void)df_fail(DF_FAILED, "out of memory: %zu bytes asked for with %zu in use", bytes,
                      df_memory_now());
        return NULL;
    }
    ask_for_large_pages(block, padded);
    memset(block, 0, padded);
    memcpy(block, &bytes, sizeof bytes);
    count_up(bytes);
    return block + HEADER;
}

void df_free(void *p) {
    if (p == NULL) return;
    char *block = (char *)p - HEADER;
    size_t bytes;
    memcpy(&bytes, block, sizeof bytes);
    atomic_fetch_sub(&now, bytes);
    free(block);
}

df_status df_grow(void **p, size_t *capacity, size_t n, size_t size) {
    if (n <= *capacity) return DF_OK;
    size_t wanted = *capacity * 2 > n ? *capacity * 2 : n;
    void *bigger = df_alloc(wanted, size);
    if (bigger == NULL) return DF_FAILED;
    if (*p != NULL) memcpy(bigger, *p, *capacity * size);
    df_free(*p);
    *p = bigger;
    *capacity = wanted;
    return DF_OK;
}

size_t df_memory_now(void) {
    return atomic_load(&now);
}

size_t df_memory_peak(void) {
    return atomic_load(&peak);
}

void df_memory_reset_peak(void) {
    atomic_store(&peak, atomic_load(&now));
}

size_t df_process_peak(void) {
    char line[256];
    unsigned long long kib = 0;
    FILE *status = fopen("/proc/self/status", "r");
    if (status == NULL) return 0;
    while (fgets(line, sizeof line, status) != NULL)
        if (sscanf(line, "VmHWM: %llu kB", &kib) == 1) break;
    fclose(status);
    return (size_t)kib << 10;
}

void df_memory_fail_after(int64_t calls) {
    atomic_store(&fail_after, calls);
}

char *df_strdup(const char *s) {
    size_t n = strlen(s) + 1;
    char *copy = df_alloc(n, 1);
    if (copy != NULL) memcpy(copy, s, n);
    return copy;
}

char *df_format(const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    char *text = df_alloc((size_t)(n < 0 ? 0 : n) + 1, 1);
    if (text == NULL || n < 0) return text;
    va_start(args, fmt);
    vsnprintf(text, (size_t)n + 1, fmt, args);
    va_end(args);
    return text;
}

df_status df_mul(size_t a, size_t b, size_t *out) {
    if (__builtin_mul_overflow(a, b, out))
        return df_fail(DF_FAILED, "size overflow: %zu x %zu does not fit in %zu bits", a, b,
                       8 * sizeof a);
    return DF_OK;
}

df_status df_add(size_t a, size_t b, size_t *out) {
    if (__builtin_add_overflow(a, b, out))
        return df_fail(DF_FAILED, "size overflow: %zu + %zu does not fit in %zu bits", a, b,
                       8 * sizeof a);
    return DF_OK;
}

size_t df_run_holding(const uint64_t *offset, size_t n, uint64_t row) {
    size_t low = 0, high = n; // offset[low] <= row < offset[high]
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (offset[middle] <= row)
            low = middle;
        else
            high = middle;
    }
    return low;
}
