/* lens.h: the parts of the lens stage. lens.c holds the stage, lens_text.c its windows of text. */
#ifndef DARKFIELD_JOBS_LENS_H
#define DARKFIELD_JOBS_LENS_H

#include "darkfield/lens.h"
#include "harvest.h"

/* What a model's lens reads. The input's arrays are owned here. */
typedef struct lens_source {
    const char *name, *path;
    df_model_shape shape;
    df_model *model; // while it runs
    df_lens_input input;
    uint32_t *random; // of the input
    uint64_t hash[2]; // of the model, of its tokenizer
} lens_source;

/* The held-out documents, packed as the harvest packs its text, until there are `most` windows (0:
 * all). DF_BAD_INPUT when no document is held out. Not collective; df_lens_text_free. */
df_status df_lens_text_read(const df_corpus *corpus, const df_tokenizer *tokenizer,
                            const packing *how, uint64_t most, df_lens_text *out) DF_MUST_CHECK;
void df_lens_text_free(df_lens_text *text);

/* Tokens that sequences are drawn from: all of the model that stand for text. New memory. Not
 * collective. */
df_status df_lens_tokens(const df_tokenizer *tokenizer, size_t vocabulary, uint32_t **out,
                         size_t *n) DF_MUST_CHECK;

#endif
