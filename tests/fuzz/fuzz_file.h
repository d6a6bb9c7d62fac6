/* fuzz_file.h: the input as a file, for parsers that map or open one. */
#ifndef FUZZ_FILE_H
#define FUZZ_FILE_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* The path, one for each process; ends in `suffix`. In memory where the system has /dev/shm. */
static const char *fuzz_file(const uint8_t *data, size_t size, const char *suffix) {
    static char path[64];
    const char *root = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(path, sizeof path, "%s/darkfield-fuzz-%ld%s", root, (long)getpid(), suffix);
    FILE *file = fopen(path, "wb");
    if (file == NULL || fwrite(data, 1, size, file) != size || fclose(file) != 0) abort();
    return path;
}

#endif
