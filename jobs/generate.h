/* generate.h: `darkfield generate`, which needs no job file. */
#ifndef DARKFIELD_GENERATE_H
#define DARKFIELD_GENERATE_H

#include "convert.h"

/* Is --NAME an option of generate that takes a value? */
bool df_generate_takes(const char *flag);

typedef struct df_generate {
    const char *const *operands; /* MODEL, PROMPT */
    size_t n_operands;
    const df_setting *settings;
    size_t n_settings;
} df_generate;
/* Continues the prompt and prints it. Collective. */
df_status df_generate_run(df_comm *world, const df_generate *what) DF_MUST_CHECK;
void df_generate_help(void); /* to standard output */

#endif
