/* fuzz_folders.h: copies of the folders of tests/golden/convert, of which the first line of an
 * input names one; the rest becomes one of its files, the others stay as they are. */
#ifndef FUZZ_FOLDERS_H
#define FUZZ_FOLDERS_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct fuzz_case {
    const char *folder, *file, *format;
} fuzz_case;

static char fuzz_root[64];

static void fuzz_command(const char *command) {
    if (system(command) != 0) abort();
}

static void fuzz_clean_up(void) {
    char command[100];
    snprintf(command, sizeof command, "rm -rf '%s'", fuzz_root);
    fuzz_command(command);
}

/* Makes the copies, in memory where the system has /dev/shm; they go when the process ends. */
static void fuzz_copy_folders(const char *name) {
    char command[1000];
    snprintf(fuzz_root, sizeof fuzz_root, "%s/darkfield-fuzz-%s-%ld",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp", name, (long)getpid());
    snprintf(command, sizeof command,
             "mkdir -p '%s/crosslayer' && cp -r '" DF_SOURCE_DIR "/tests/golden/convert/'*_* '%s'",
             fuzz_root, fuzz_root);
    fuzz_command(command);
    atexit(fuzz_clean_up);
}

/* The case that the first line names, one of them in any case; its file is written and `folder`
 * is where it stands. */
static const fuzz_case *fuzz_place(const fuzz_case *cases, size_t n, const uint8_t *data,
                                   size_t size, char folder[128]) {
    size_t line = 0;
    while (line < size && data[line] != '\n') line++;
    const fuzz_case *chosen = &cases[line > 0 ? data[0] % n : 0];
    for (size_t i = 0; i < n; i++)
        if (strlen(cases[i].folder) == line && memcmp(cases[i].folder, data, line) == 0)
            chosen = &cases[i];
    size_t rest = line < size ? line + 1 : size;
    char path[200];
    snprintf(folder, 128, "%s/%s", fuzz_root, chosen->folder);
    snprintf(path, sizeof path, "%s/%s", folder, chosen->file);
    FILE *file = fopen(path, "wb");
    if (file == NULL || fwrite(data + rest, 1, size - rest, file) != size - rest ||
        fclose(file) != 0)
        abort();
    return chosen;
}

#endif
