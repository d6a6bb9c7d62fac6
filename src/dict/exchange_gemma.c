/* Gemma Scope: params.npz. JumpReLU, row vectors, b_dec not subtracted; its transcoders hold the
 * same keys. Some files spell the matrices in lower case. */
#include "exchange.h"

#include <string.h>

#define WEIGHTS "params.npz"

static bool is_file(const char *path) {
    size_t n = strlen(path);
    return n > 4 && strcmp(path + n - 4, ".npz") == 0;
}

static bool recognise(const char *path) {
    return is_file(path) || exchange_has(path, WEIGHTS);
}

static df_status open_it(exchange *x) {
    x->kind = x->options->transcoder ? DF_TRANSCODER : DF_SAE;
    x->activation = DF_JUMPRELU;
    DF_TRY(exchange_open_file(x, is_file(x->folder) ? "" : WEIGHTS));
    return exchange_find(x, "w_enc") != NULL ? exchange_name(&x->variant, "lower") : DF_OK;
}

static df_status list(exchange *x) {
    bool lower = x->variant != NULL, sae = x->kind == DF_SAE;
    DF_TRY(exchange_add(x, lower ? "w_enc" : "W_enc", 0, ROLE_ENC, "IF"));
    DF_TRY(exchange_add(x, lower ? "w_dec" : "W_dec", 0, ROLE_DEC, sae ? "FI" : "FO"));
    DF_TRY(exchange_add(x, "b_enc", 0, ROLE_B_ENC, "F"));
    DF_TRY(exchange_add(x, "b_dec", 0, ROLE_B_DEC, sae ? "I" : "O"));
    return exchange_add(x, "threshold", 0, ROLE_THETA, "F");
}

static bool subtracts(const exchange *x, const df_dict *d) {
    (void)x, (void)d;
    return false;
}

static const char *file_of(const exchange *x, size_t i, char room[64]) {
    (void)x, (void)i, (void)room;
    return WEIGHTS;
}

const exchange_family exchange_gemma_scope = {.name = "gemma-scope",
                                              .help = "Gemma Scope: params.npz",
                                              .kinds = 1u << DF_SAE | 1u << DF_TRANSCODER,
                                              .activations = 1u << DF_RELU | 1u << DF_BATCHTOPK |
                                                             1u << DF_JUMPRELU,
                                              .subtracts = subtracts,
                                              .latent_thresholds = true,
                                              .recognise = recognise,
                                              .open = open_it,
                                              .list = list,
                                              .file_of = file_of};
