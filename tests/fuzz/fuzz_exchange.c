/* Configs of other projects' dictionaries: whatever the bytes, opening the folder ends with sizes
 * that fit its tensors or with one message. Inputs as fuzz_folders.h says. */
#include "exchange.h"
#include "fuzz_folders.h"

static const fuzz_case cases[] = {
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

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    fuzz_copy_folders("exchange");
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    size_t before = df_memory_now();
    char folder[128];
    const fuzz_case *c = fuzz_place(cases, sizeof cases / sizeof *cases, data, size, folder);
    const df_exchange_options options = {.format = c->format, .layer = -1};
    exchange *x = NULL;
    if (DF_NEW(x, 1) != DF_OK) abort();
    *x = (exchange){.folder = folder, .options = &options, .cut = -1.0};
    df_status status = exchange_look(x);
    if (status == DF_OK && (x->latents == 0 || x->in == 0 || x->out == 0)) abort();
    if (status != DF_OK && df_error_text()[0] == '\0') abort();
    exchange_close(x);
    df_error_clear();
    if (df_memory_now() != before) abort();
    return 0;
}
