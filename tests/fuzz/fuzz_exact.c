/* darkfield.json, the facts that stand beside an exported dictionary: whatever the bytes, reading
 * the folder ends with a whole dictionary or with one message. The first line of an input names a
 * folder of tests/golden/convert, whose files stay as they are; the rest is its darkfield.json,
 * which seeds sign with the hash of a file that is there. */
#include "exchange.h"

#include <sanitizer/lsan_interface.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct {
    const char *folder, *format;
} cases[] = {
    {"saelens_topk", "saelens"},
    {"dl_MatryoshkaBatchTopKSAE", "dictionary_learning"},
    {"circuit_clt", "circuit-tracer-clt"},
    {"crosscoder_decoupled", "crosscoder_learning"},
};
enum { CASES = sizeof cases / sizeof cases[0] };
static char root[64];
static df_comm *world;

static void run(const char *command) {
    if (system(command) != 0) abort();
}

static void clean_up(void) {
    char command[100];
    snprintf(command, sizeof command, "rm -rf '%s'", root);
    run(command);
}

/* Copies of the folders, in memory where the system has /dev/shm. What MPI keeps is no leak. */
int LLVMFuzzerInitialize(int *argc, char ***argv) {
    char command[1000];
    setenv("OMPI_MCA_ess_singleton_isolated", "1", 1);
    __lsan_disable();
    if (df_comm_start(argc, argv, &world) != DF_OK) abort();
    __lsan_enable();
    df_log_quiet(true);
    snprintf(root, sizeof root, "%s/darkfield-fuzz-exact-%ld",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp", (long)getpid());
    snprintf(command, sizeof command,
             "mkdir -p '%s' && cp -r '" DF_SOURCE_DIR "/tests/golden/convert/'*_* '%s'", root,
             root);
    run(command);
    atexit(clean_up);
    return 0;
}

/* The case that the first line names; one of them in any case. */
static size_t case_of(const uint8_t *data, size_t line) {
    for (size_t i = 0; i < CASES; i++)
        if (strlen(cases[i].folder) == line && memcmp(cases[i].folder, data, line) == 0) return i;
    return line > 0 ? data[0] % CASES : 0;
}

static void read_whole(const char *folder, const char *format) {
    const df_exchange_options options = {.format = format, .layer = -1};
    df_dict *d = NULL;
    df_exchange_facts facts;
    df_status status = df_exchange_read(world, folder, &options, &d, &facts);
    if ((status == DF_OK) != (d != NULL)) abort();
    if (status != DF_OK && df_error_text()[0] == '\0') abort();
    if (d != NULL && (d->latents == 0 || d->width == 0 || d->mine.count != d->latents)) abort();
    if (d != NULL && facts.restored && d->job == NULL) abort();
    df_dict_free(&d);
    df_error_clear();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    size_t line = 0, before = df_memory_now();
    while (line < size && data[line] != '\n') line++;
    size_t i = case_of(data, line), rest = line < size ? line + 1 : size;
    char folder[128], path[200];
    snprintf(folder, sizeof folder, "%s/%s", root, cases[i].folder);
    snprintf(path, sizeof path, "%s/darkfield.json", folder);
    FILE *file = fopen(path, "wb");
    if (file == NULL || fwrite(data + rest, 1, size - rest, file) != size - rest ||
        fclose(file) != 0)
        abort();
    read_whole(folder, cases[i].format);
    if (df_memory_now() != before) abort();
    return 0;
}
