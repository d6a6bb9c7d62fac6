/* Files mapped read-only, and UTF-8 repair. */
#include "mapping.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static df_status map_open(int descriptor, const char *path, store_mapping *out) {
    struct stat facts;
    if (fstat(descriptor, &facts) != 0)
        return df_fail(DF_BAD_INPUT, "cannot look at %s: %s", path, strerror(errno));
    if (!S_ISREG(facts.st_mode))
        return df_fail(DF_BAD_INPUT, "%s: expected a file, found a folder or device", path);
    *out = (store_mapping){.bytes = "", .size = (size_t)facts.st_size};
    if (out->size == 0) return DF_OK; // nothing to map
    void *at = mmap(NULL, out->size, PROT_READ, MAP_PRIVATE, descriptor, 0);
    if (at == MAP_FAILED) {
        *out = (store_mapping){.bytes = ""};
        return df_fail(DF_FAILED, "cannot map %s: %s", path, strerror(errno));
    }
    out->bytes = at;
    return DF_OK;
}

df_status store_map(const char *path, store_mapping *out) {
    *out = (store_mapping){.bytes = ""};
    int descriptor = open(path, O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) return df_fail(DF_BAD_INPUT, "cannot open %s: %s", path, strerror(errno));
    df_status status = map_open(descriptor, path, out);
    close(descriptor);
    return status;
}

void store_unmap(store_mapping *mapping) {
    if (mapping->size > 0) munmap((void *)mapping->bytes, mapping->size);
    *mapping = (store_mapping){.bytes = ""};
}

/* ---- UTF-8 ---------------------------------------------------------------------------------- */

// How many bytes a lead byte asks for, and the range of the second one; 0: no lead byte.
static int lead(unsigned char c, unsigned char *low, unsigned char *high) {
    *low = 0x80;
    *high = 0xbf;
    if (c < 0x80) return 1;
    if (c >= 0xc2 && c <= 0xdf) return 2;
    if (c >= 0xe0 && c <= 0xef) {
        if (c == 0xe0) *low = 0xa0;  // shorter forms exist below
        if (c == 0xed) *high = 0x9f; // surrogates
        return 3;
    }
    if (c >= 0xf0 && c <= 0xf4) {
        if (c == 0xf0) *low = 0x90;
        if (c == 0xf4) *high = 0x8f; // past U+10FFFF
        return 4;
    }
    return 0;
}

// The length of the character at `in`, or minus the length of the invalid part there.
static int character(const char *in, size_t left) {
    const unsigned char *c = (const unsigned char *)in;
    unsigned char low, high;
    int n = lead(c[0], &low, &high);
    if (n == 0) return -1;
    for (int i = 1; i < n; i++) {
        if ((size_t)i >= left || c[i] < low || c[i] > high) return -i;
        low = 0x80;
        high = 0xbf;
    }
    return n;
}

bool store_valid_utf8(const char *in, size_t bytes) {
    for (size_t i = 0; i < bytes;) {
        int n = character(in + i, bytes - i);
        if (n < 0) return false;
        i += (size_t)n;
    }
    return true;
}

size_t store_repair_utf8(const char *in, size_t bytes, char *out, uint64_t *repairs) {
    size_t written = 0;
    for (size_t i = 0; i < bytes;) {
        int n = character(in + i, bytes - i);
        size_t used = (size_t)(n < 0 ? -n : n);
        if (n < 0) {
            memcpy(out + written, "\xef\xbf\xbd", 3);
            written += 3;
            (*repairs)++;
        } else {
            memcpy(out + written, in + i, used);
            written += used;
        }
        i += used;
    }
    return written;
}
