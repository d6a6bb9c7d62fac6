/* exchange.h: dictionaries in the layouts of other projects.
 *
 * A family is a row of a table (exchange.c): how its folder is recognised, what its config says,
 * and which tensors hold which parameter, with axes as letters. The same list of tensors drives
 * reading and writing, so nothing is transposed by hand. */
#ifndef DICT_EXCHANGE_H
#define DICT_EXCHANGE_H

#include "darkfield/exchange.h"

/* What a tensor holds. */
typedef enum exchange_role {
    ROLE_ENC,    /* encoder rows */
    ROLE_DEC,    /* decoder rows */
    ROLE_B_ENC,  /* [F]; Gated: of the gate */
    ROLE_B_DEC,  /* [columns written] */
    ROLE_THETA,  /* [F] */
    ROLE_R_MAG,  /* [F] */
    ROLE_B_MAG,  /* [F] */
    ROLE_SKIP,   /* [written, read] */
    ROLE_K,      /* a number: k */
    ROLE_CUT,    /* BatchTopK's threshold, or [S] of each site; negative: not known */
    ROLE_SCALE,  /* [S]: what the activations of a site are multiplied by */
    ROLE_MEAN,   /* [S, I]: what is subtracted before that; NaN: nothing */
    ROLE_STD,    /* [S, I]: written only, for programs that derive the scale */
    ROLE_CARRIED /* small and without meaning for encoding: kept for the way back */
} exchange_role;

/* Axes, slowest first: F latents of the group; I columns of one site read; O columns of one site
 * written; S all sites; T sites that the group writes; L an index that `pick` fixes, of extent
 * `lead`; 1 an extent of one. "" is a scalar. */
#define EXCHANGE_ALL SIZE_MAX
typedef struct exchange_tensor {
    char name[64];
    exchange_role role;
    const char *axes;
    size_t group;      /* whose latents */
    size_t part;       /* ENC, DEC, B_DEC: which of the sites that are read or written; or ALL */
    size_t lead, pick; /* of the axis L */
    bool optional;     /* reading: may be absent (a bias is then 0) */
    df_type type;      /* reading: as found; writing: to be written */
    const df_tensor *found;
} exchange_tensor;

enum { EXCHANGE_TENSORS = 2048, EXCHANGE_FILES = 512 };

/* A dictionary on its way in or out, as its config describes it. */
typedef struct exchange {
    const struct exchange_family *family;
    const char *folder;
    df_dict_kind kind;
    df_activation activation;
    df_code_norm code_norm;
    bool subtract_bias;
    df_token_norm token_norm; /* of every site */
    size_t k;
    double cut;             /* BatchTopK's threshold; negative: not known */
    size_t latents, layers; /* of one group; groups of a CLT, sites of a crosscoder */
    size_t in, out;         /* columns of one site read, of one site written */
    char *model;
    char *site[DF_MAX_SITES];
    size_t sites;        /* names given */
    bool own_layer;      /* CLT: group l writes site l alone */
    char *variant;       /* which class of the family, where it has several */
    char *config;        /* the config's text as it stood there; NULL: none */
    json_t *origin;      /* what dict->job remembers of a converted dictionary, or NULL */
    const char *carried; /* names of carried tensors, separated by spaces */
    size_t layer;        /* circuit-tracer: which file of the folder */
    exchange_tensor *tensor;
    size_t tensors;
    df_tensors *file[EXCHANGE_FILES];
    char *file_name[EXCHANGE_FILES];
    size_t files;
    const df_exchange_options *options;
    const df_dict *dict; /* writing: what is written */
} exchange;

typedef struct exchange_family {
    const char *name, *help;
    unsigned kinds, activations; /* bits: 1 << DF_SAE, 1 << DF_RELU */
    unsigned token_norms;        /* bits: 1 << DF_TOKEN_LAYER; NONE all families have */
    /* Writing: will the encoder subtract b_dec? NULL: as the dictionary does (a flag says so). */
    bool (*subtracts)(const exchange *x, const df_dict *dict);
    const char *(*variant)(const df_dict *dict); /* writing: x->variant; NULL: none */
    bool latent_thresholds; /* writing: BatchTopK as one threshold for each latent */
    bool keeps_scale;       /* writing: the scales of sites are stored, not folded */
    bool ranks_by_norm;     /* writing: TopK and BatchTopK may rank by code times decoder norm */
    bool relu_first; /* reading: codes are positive anyway, a threshold below zero is one of zero */
    /* Is this folder (or file) one of the family's? Looks at names and contents, not collective. */
    bool (*recognise)(const char *path);
    /* Opens the files, reads the config: everything of `x` but the sizes and tensors. Not
     * collective. */
    df_status (*open)(exchange *x);
    /* The tensors of a dictionary such as `x` describes, file after file. */
    df_status (*list)(exchange *x);
    /* Writing: the file of tensor i, and the config file's text (new memory) where there is one. */
    const char *(*file_of)(const exchange *x, size_t i, char room[64]);
    const char *config;
    df_status (*describe)(const exchange *x, const df_dict *dict, char **text);
} exchange_family;

extern const exchange_family exchange_saelens, exchange_dictionary_learning, exchange_sparsify,
    exchange_gemma_scope, exchange_circuit_tracer, exchange_circuit_tracer_clt,
    exchange_crosscoder_learning, exchange_crosslayer;

/* ---- the whole (exchange.c) ------------------------------------------------------------------ */

/* Everything before the numbers: which family, its files and config, the list of tensors and the
 * sizes. Not collective. */
df_status exchange_look(exchange *x) DF_MUST_CHECK;
void exchange_close(exchange *x);

/* ---- pieces for families (exchange_parts.c) ------------------------------------------------- */

/* Adds a row to x->tensor; the name is printf'd with `number`. */
df_status exchange_add(exchange *x, const char *name, size_t number, exchange_role role,
                       const char *axes) DF_MUST_CHECK;
/* The last row, to be adjusted. */
exchange_tensor *exchange_last(const exchange *x);
/* Opens FOLDER/NAME and remembers it. */
df_status exchange_open_file(exchange *x, const char *name) DF_MUST_CHECK;
const df_tensor *exchange_find(const exchange *x, const char *name);
bool exchange_has(const char *folder, const char *name); /* FOLDER/NAME exists */
/* Reads FOLDER/NAME into x->config and parses it; the caller json_decrefs. */
df_status exchange_config(exchange *x, const char *name, json_t **out) DF_MUST_CHECK;
df_status exchange_name(char **to, const char *text) DF_MUST_CHECK; /* a copy, replacing */
/* A small YAML file by the table of its keys; DF_BAD_INPUT names others. *job NULL: no such file.
 */
df_status exchange_yaml(exchange *x, const char *name, const df_option *keys, size_t n,
                        df_job **job) DF_MUST_CHECK;
char *exchange_dump(json_t *root); /* as text in new memory; takes the reference; NULL: failed */

/* One key of a config that decides on the mathematics, with the only values that are understood
 * (texts as they are, others as JSON), separated by '|'. Absent, null and "harmless" keys pass. */
typedef struct exchange_key {
    const char *key, *allowed, *why;
} exchange_key;
/* DF_BAD_INPUT names a key of `object` whose value is not allowed, and a key that stands neither in
 * `keys` nor in `harmless` (words separated by spaces) nor among the ignored ones of the options.
 */
df_status exchange_check_keys(const exchange *x, const json_t *object, const exchange_key *keys,
                              size_t n, const char *harmless) DF_MUST_CHECK;

/* What a config says of a size (x->in, x->latents), where it does: the tensors must then have it.
 * DF_BAD_INPUT where it is no size. */
df_status exchange_size(const exchange *x, const json_t *object, const char *key,
                        size_t *to) DF_MUST_CHECK;

/* ---- where a dictionary came from (exchange_origin.c) --------------------------------------- */

/* Text for dict->job: the family, its config, types and small tensors, for the way back. */
df_status exchange_origin_write(const exchange *x, char **job) DF_MUST_CHECK;
/* Writing: what dict->job remembers if it came from the same family; adjusts x->tensor to it. */
df_status exchange_origin_use(exchange *x) DF_MUST_CHECK;

/* ---- folders being written (exchange_folder.c), rank 0 only --------------------------------- */

df_status exchange_folder_begin(const char *path, bool overwrite, char **part) DF_MUST_CHECK;
df_status exchange_folder_place(const char *part, const char *path) DF_MUST_CHECK;
void exchange_folder_clear(const char *part);

/* ---- axes (exchange_axes.c) ----------------------------------------------------------------- */

/* Where element (latent j, site s, column c) of a tensor lies: offset + j latent + s site + c
 * column. */
typedef struct exchange_view {
    uint64_t offset, latent, site, column, elements;
} exchange_view;
exchange_view exchange_view_of(const exchange *x, const exchange_tensor *t);
/* The shape from the axes; returns the dimensions. */
int exchange_shape(const exchange *x, const exchange_tensor *t, uint64_t shape[DF_MAX_DIMS]);
/* Finds every listed tensor in the files and learns x->latents, in, out and layers from the shapes;
 * DF_BAD_INPUT names a tensor that is missing, of another shape or type, or that nobody asked for.
 */
df_status exchange_match(exchange *x) DF_MUST_CHECK;

/* ---- between tensors and a dictionary ------------------------------------------------------- */

/* Makes the dictionary of this rank from the matched tensors (exchange_read.c). Not collective, but
 * `comm` tells the share. */
df_status exchange_fill(exchange *x, df_comm *comm, df_dict **out) DF_MUST_CHECK;
/* The sites of a group's rows: how many, their columns, and which site of the dictionary is the
 * first. */
typedef struct exchange_span {
    size_t sites, width, first;
} exchange_span;
exchange_span exchange_span_of(const df_dict *dict, const df_dict_group *group, bool output);

/* What stands between dictionary units and a file (exchange_fold.c). */
typedef struct exchange_fold {
    double scale[DF_MAX_SITES]; /* 1 where the scale is stored instead */
    double *norm;               /* [mine.count] a_j: encoders times it, decoders divided by it */
    bool bias;                  /* b_enc takes up b_dec, or gives it back */
    double *b_enc;              /* [mine.count] as it is to be written */
} exchange_fold;
df_status exchange_fold_open(const exchange *x, const df_dict *dict,
                             exchange_fold *out) DF_MUST_CHECK;
void exchange_fold_close(exchange_fold *fold);
/* Factors of column c of a latent's row, on the way out. */
double exchange_enc_factor(const exchange_fold *fold, size_t local, size_t site);
double exchange_dec_factor(const exchange_fold *fold, size_t local, size_t site);
/* Norms of decoder rows in dictionary units, as the code norm has it: [mine.count], new memory. */
df_status exchange_norms(const df_dict *dict, double **out) DF_MUST_CHECK;

/* Writes every file of x->tensor but the config into x->folder (exchange_write.c). Collective. */
df_status exchange_put(const exchange *x, df_comm *comm, const df_dict *dict,
                       const exchange_fold *fold) DF_MUST_CHECK;

/* darkfield.json and darkfield.safetensors beside the weights (exchange_exact.c). Collective. */
df_status exchange_exact_write(const exchange *x, df_comm *comm, const df_dict *dict,
                               const exchange_fold *fold,
                               const df_exchange_facts *facts) DF_MUST_CHECK;
df_status exchange_exact_read(const exchange *x, df_comm *comm, df_dict **dict,
                              df_exchange_facts *facts) DF_MUST_CHECK;

#endif
