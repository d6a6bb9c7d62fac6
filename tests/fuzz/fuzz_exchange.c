/* Configs of other projects' dictionaries: whatever the bytes, opening the folder ends with sizes
 * that fit its tensors or with one message. The first line of an input names a folder of
 * tests/golden/convert, whose weights stay as they are; the rest is its config. */
#include "exchange.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct {
    const char *folder, *config, *format;
} cases[] = {
    {"saelens_topk", "cfg.json", "saelens"},
    {"saelens_flat", "cfg.json", "saelens"},
    {"saelens_skip", "cfg.json", "saelens"},
    {"dl_AutoEncoderTopK", "config.json", "dictionary_learning"},
    {"dl_JumpReluAutoEncoder", "config.json", "dictionary_learning"},
    {"sparsify_skip", "cfg.json", "sparsify"},
    {"circuit_plt", "config.yaml", "circuit-tracer"},
    {"circuit_clt", "config.yaml", "circuit-tracer-clt"},
    {"crosscoder_normalised", "config.json", "crosscoder_learning"},
    {"crosslayer", "config.yaml", "crosslayer-transcoder"},
};
enum { CASES = sizeof cases / sizeof cases[0] };
static char root[64];

static void run(const char *command) {
    if (system(command) != 0) abort();
}

static void clean_up(void) {
    char command[100];
    snprintf(command, sizeof command, "rm -rf '%s'", root);
    run(command);
}

/* Copies of the folders, in memory where the system has /dev/shm. */
int LLVMFuzzerInitialize(int *argc, char ***argv) {
    char command[1000];
    (void)argc, (void)argv;
    snprintf(root, sizeof root, "%s/darkfield-fuzz-exchange-%ld",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp", (long)getpid());
    snprintf(command, sizeof command,
             "mkdir -p '%s/crosslayer' && cp -r '" DF_SOURCE_DIR "/tests/golden/convert/'*_* '%s'",
             root, root);
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

static void look(const char *folder, const char *format) {
    const df_exchange_options options = {.format = format, .layer = -1};
    exchange *x = NULL;
    if (DF_NEW(x, 1) != DF_OK) abort();
    *x = (exchange){.folder = folder, .options = &options, .cut = -1.0};
    df_status status = exchange_look(x);
    if (status == DF_OK && (x->latents == 0 || x->in == 0 || x->out == 0)) abort();
    if (status != DF_OK && df_error_text()[0] == '\0') abort();
    exchange_close(x);
    df_error_clear();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    size_t line = 0, before = df_memory_now();
    while (line < size && data[line] != '\n') line++;
    size_t i = case_of(data, line), rest = line < size ? line + 1 : size;
    char folder[128], path[200];
    snprintf(folder, sizeof folder, "%s/%s", root, cases[i].folder);
    snprintf(path, sizeof path, "%s/%s", folder, cases[i].config);
    FILE *file = fopen(path, "wb");
    if (file == NULL || fwrite(data + rest, 1, size - rest, file) != size - rest ||
        fclose(file) != 0)
        abort();
    look(folder, cases[i].format);
    if (df_memory_now() != before) abort();
    return 0;
}
