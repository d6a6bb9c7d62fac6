/* Names of kinds, activations and norms, as files and job files spell them. */
#include "train_internal.h"

#include <string.h>

/* The names of an enumeration, in its order. */
typedef struct vocabulary {
    const char *what, *expected;
    const char *const *name;
    int names;
} vocabulary;

#define NAMES(...)                                                                                 \
    (const char *const[]) {                                                                        \
        __VA_ARGS__                                                                                \
    }
static const vocabulary kinds = {"kind", "sae, crosscoder, transcoder, skip-transcoder or clt",
                                 NAMES("sae", "crosscoder", "transcoder", "skip-transcoder", "clt"),
                                 DF_CLT + 1};
static const vocabulary activations = {"activation", "relu, topk, batchtopk, jumprelu or gated",
                                       NAMES("relu", "topk", "batchtopk", "jumprelu", "gated"),
                                       DF_GATED + 1};
static const vocabulary code_norms = {"code norm", "none, sum, root, mixed or decoupled",
                                      NAMES("none", "sum", "root", "mixed", "decoupled"),
                                      DF_NORM_DECOUPLED + 1};
static const vocabulary token_norms = {"token norm", "none, layer or norm",
                                       NAMES("none", "layer", "norm"), DF_TOKEN_NORM + 1};

static df_status parse(const vocabulary *v, const char *name, int *out) {
    for (*out = 0; *out < v->names; ++*out)
        if (strcmp(v->name[*out], name) == 0) return DF_OK;
    return df_fail(DF_BAD_INPUT, "%s \"%.40s\" is not known: expected %s", v->what, name,
                   v->expected);
}

const char *df_dict_kind_name(df_dict_kind kind) {
    return kinds.name[kind];
}

const char *activation_name(df_activation activation) {
    return activations.name[activation];
}

const char *code_norm_name(df_code_norm norm) {
    return code_norms.name[norm];
}

const char *token_norm_name(df_token_norm norm) {
    return token_norms.name[norm];
}

df_status kind_parse(const char *name, df_dict_kind *out) {
    int i;
    df_status status = parse(&kinds, name, &i);
    *out = (df_dict_kind)i;
    return status;
}

df_status activation_parse(const char *name, df_activation *out) {
    int i;
    df_status status = parse(&activations, name, &i);
    *out = (df_activation)i;
    return status;
}

df_status code_norm_parse(const char *name, df_code_norm *out) {
    int i;
    df_status status = parse(&code_norms, name, &i);
    *out = (df_code_norm)i;
    return status;
}

df_status token_norm_parse(const char *name, df_token_norm *out) {
    int i;
    df_status status = parse(&token_norms, name, &i);
    *out = (df_token_norm)i;
    return status;
}
