/* convert.h: `darkfield convert`, which needs no job file. */
#ifndef DARKFIELD_CONVERT_H
#define DARKFIELD_CONVERT_H

#include "darkfield/comm.h"
#include "darkfield/store.h"

/* One --NAME VALUE of the command line. */
typedef struct df_setting {
    const char *name, *value;
} df_setting;

/* Is --NAME an option of convert that takes a value? */
bool df_convert_takes(const char *flag);

typedef struct df_convert {
    const char *const *operands; /* IN, OUT */
    size_t n_operands;
    const df_setting *settings;
    size_t n_settings;
    bool force;
    const df_provenance *facts;
} df_convert;
/* Reads a dictionary in one format and writes it in another; or imports activations. Collective. */
df_status df_convert_run(df_comm *world, const df_convert *what) DF_MUST_CHECK;
void df_convert_help(void); /* to standard output */

/* --to acts: IN.safetensors becomes OUT.acts.h5 (import_acts.c). Collective. */
typedef struct df_import {
    const char *in, *out, *model, *sites, *bos;
    double heldout;
    uint64_t seed;
    const df_provenance *facts;
} df_import;
df_status df_import_acts(df_comm *world, const df_import *what) DF_MUST_CHECK;

#endif
