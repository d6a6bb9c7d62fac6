/* darkfield/exchange.h: dictionaries in the files of other projects: SAELens, dictionary_learning,
 * sparsify, Gemma Scope, circuit-tracer, crosscoder_learning.
 *
 * Rows of other projects are raw activations; ours are in dictionary units. Reading sets scales to
 * 1 (or to the factor that the file holds). Writing folds them: encoder rows times the scale of the
 * site read, decoder rows and b_dec divided by the scale of the site written, so that the file
 * works on raw activations; codes and thresholds stay as they are. Rows that are normalised one by
 * one (token_norm) go to formats that can say so alone, and come from them. What folding rounds
 * away is kept beside the weights (darkfield.json, darkfield.safetensors), and reading those files
 * restores the dictionary to the bit, as long as the weights are as they were written. */
#ifndef DARKFIELD_EXCHANGE_H
#define DARKFIELD_EXCHANGE_H

#include "darkfield/dict.h"

typedef struct df_exchange_options {
    const char *format; /* "saelens", ...; reading: NULL or "auto" looks at the contents */
    const char *model;  /* reading: name of the model; NULL: what the config says */
    const char *const
        *site; /* reading: hook sites, in the order of a row, for what the config says */
    size_t n_sites;
    bool transcoder;           /* reading: formats that do not tell it: it writes another site */
    int64_t layer;             /* circuit-tracer: which layer of the folder; < 0: the only one */
    const char *const *ignore; /* reading: config keys that may be unknown */
    size_t n_ignore;
    bool overwrite; /* writing: the folder may exist */
} df_exchange_options;

/* What a dictionary file has besides the dictionary. */
typedef struct df_exchange_facts {
    uint64_t seed, rows_seen;
    bool restored; /* darkfield.json fitted: the dictionary is the one that was written */
} df_exchange_facts;

/* The formats: name and one line of help each; NULL behind the last. Not collective. */
const char *df_exchange_format(size_t i, const char **help);

/* Which format lies at `path`; DF_BAD_INPUT when none or more than one. Not collective. */
df_status df_exchange_recognise(const char *path, const char **format) DF_MUST_CHECK;

/* Reads a folder (or file) of another project: this rank's share. dict->job says where it came from
 * and carries its config, for the way back. DF_BAD_INPUT names the tensor or config key that is
 * missing, misshapen, not finite, or changes the mathematics in a way that we do not do.
 * Collective. */
df_status df_exchange_read(df_comm *comm, const char *path, const df_exchange_options *options,
                           df_dict **out, df_exchange_facts *facts) DF_MUST_CHECK;

/* Writes a folder in a format (not "auto"), by way of FOLDER.part. DF_USAGE says what the format
 * cannot express. Collective. */
df_status df_exchange_write(df_comm *comm, const char *path, const df_dict *dict,
                            const df_exchange_options *options,
                            const df_exchange_facts *facts) DF_MUST_CHECK;

#endif
