/* Names of activations and norms, as files and job files spell them. */
#include "train_internal.h"

#include <string.h>

static const char *const activations[] = {"relu", "topk", "batchtopk", "jumprelu", "gated"};
static const char *const token_norms[] = {"none", "layer", "norm"};
static const char *const norms[] = {"none", "sum", "root", "mixed", "decoupled"};

static const char *const kinds[] = {"sae", "crosscoder", "transcoder", "skip-transcoder", "clt"};

const char *df_dict_kind_name(df_dict_kind kind) {
    return kinds[kind];
}

df_status kind_parse(const char *name, df_dict_kind *out) {
    for (int i = 0; i <= DF_CLT; i++) {
        *out = (df_dict_kind)i;
        if (strcmp(kinds[i], name) == 0) return DF_OK;
    }
    return df_fail(DF_BAD_INPUT,
                   "kind \"%.40s\" is not known: expected sae, crosscoder, transcoder, "
                   "skip-transcoder or clt",
                   name);
}

const char *activation_name(df_activation activation) {
    return activations[activation];
}

const char *code_norm_name(df_code_norm norm) {
    return norms[norm];
}

static df_status find(const char *const *known, int n, const char *name, int *out) {
    for (*out = 0; *out < n; ++*out)
        if (strcmp(known[*out], name) == 0) return DF_OK;
    return DF_BAD_INPUT;
}

df_status activation_parse(const char *name, df_activation *out) {
    int i;
    df_status status = find(activations, DF_GATED + 1, name, &i);
    *out = (df_activation)i;
    return status == DF_OK ? DF_OK
                           : df_fail(status,
                                     "activation \"%.40s\" is not known: expected relu, topk, "
                                     "batchtopk, jumprelu or gated",
                                     name);
}

df_status code_norm_parse(const char *name, df_code_norm *out) {
    int i;
    df_status status = find(norms, DF_NORM_DECOUPLED + 1, name, &i);
    *out = (df_code_norm)i;
    return status == DF_OK ? DF_OK
                           : df_fail(status,
                                     "code norm \"%.40s\" is not known: expected none, sum, root, "
                                     "mixed or decoupled",
                                     name);
}

const char *token_norm_name(df_token_norm norm) {
    return token_norms[norm];
}

df_status token_norm_parse(const char *name, df_token_norm *out) {
    int i;
    df_status status = find(token_norms, DF_TOKEN_NORM + 1, name, &i);
    *out = (df_token_norm)i;
    return status == DF_OK ? DF_OK
                           : df_fail(status,
                                     "token norm \"%.40s\" is not known: expected none, layer or "
                                     "norm",
                                     name);
}
