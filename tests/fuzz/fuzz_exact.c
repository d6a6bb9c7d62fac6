/* darkfield.json, the facts that stand beside an exported dictionary: whatever the bytes, reading
 * the folder ends with a whole dictionary or with one message. Inputs as fuzz_folders.h says; seeds
 * sign theirs with the hash of a file that is there. */
#include "exchange.h"
#include "fuzz_folders.h"

#include <sanitizer/lsan_interface.h>

static const fuzz_case cases[] = {
    {"saelens_topk", "darkfield.json", "saelens"},
    {"dl_MatryoshkaBatchTopKSAE", "darkfield.json", "dictionary_learning"},
    {"circuit_clt", "darkfield.json", "circuit-tracer-clt"},
    {"crosscoder_decoupled", "darkfield.json", "crosscoder_learning"},
};
static df_comm *world;

/* What MPI keeps is no leak. */
int LLVMFuzzerInitialize(int *argc, char ***argv) {
    setenv("OMPI_MCA_ess_singleton_isolated", "1", 1);
    __lsan_disable();
    if (df_comm_start(argc, argv, &world) != DF_OK) abort();
    __lsan_enable();
    df_log_quiet(true);
    fuzz_copy_folders("exact");
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    size_t before = df_memory_now();
    char folder[128];
    const fuzz_case *c = fuzz_place(cases, sizeof cases / sizeof *cases, data, size, folder);
    const df_exchange_options options = {.format = c->format, .layer = -1};
    df_dict *d = NULL;
    df_exchange_facts facts;
    df_status status = df_exchange_read(world, folder, &options, &d, &facts);
    if ((status == DF_OK) != (d != NULL)) abort();
    if (status != DF_OK && df_error_text()[0] == '\0') abort();
    if (d != NULL && (d->latents == 0 || d->width == 0 || d->mine.count != d->latents)) abort();
    if (d != NULL && facts.restored && d->job == NULL) abort();
    df_dict_free(&d);
    df_error_clear();
    if (df_memory_now() != before) abort();
    return 0;
}
