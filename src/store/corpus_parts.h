/* corpus_parts.h: what the files of a text corpus share. */
#ifndef STORE_CORPUS_PARTS_H
#define STORE_CORPUS_PARTS_H

#include "darkfield/store.h"
#include "mapping.h"

typedef struct passage { /* one document */
    size_t first, bytes; /* in the text; of a corpus of tokens: in the tokens, how many */
    size_t first_span, spans;
} passage;

struct df_corpus {
    char *text;
    size_t text_bytes, text_capacity;
    uint32_t *tokens; /* instead of text */
    size_t n_tokens, token_capacity;
    passage *documents;
    size_t n_documents, document_capacity;
    df_span *spans;
    size_t n_spans, span_capacity;
    char **concepts; /* sorted */
    size_t n_concepts;
    json_t *numbers; /* while reading: concept -> number of its first mention */
    uint64_t hash, repairs;
};

typedef struct corpus_source { /* what is being read */
    const char *path;          /* of the file */
    const char *field, *labels, *chat;
    uint64_t max_documents, line;
} corpus_source;

/* Whether no more documents are wanted. */
static inline bool store_corpus_is_full(const df_corpus *corpus, const corpus_source *from) {
    return from->max_documents > 0 && corpus->n_documents >= from->max_documents;
}

/* ---- corpus_files.c ------------------------------------------------------------------------- */

/* The files that `path` means, in the order of their bytes: itself, the texts of a folder (names
 * with a suffix that is known, hidden ones left out), or what a pattern with * ? [ matches. New
 * memory: free with store_free_list. DF_BAD_INPUT when there is none. */
df_status store_list_texts(const char *path, char ***files, size_t *n) DF_MUST_CHECK;
void store_free_list(char **files, size_t n);

/* The length of a file's name without .gz or .zst. */
size_t store_plain_length(const char *path);
bool store_is_lines(const char *path);  /* JSON Lines, by its name */
bool store_is_arrays(const char *path); /* npy, npz, safetensors */

/* The bytes of a file, unpacked where its first bytes are those of gzip or zstd. */
typedef struct store_content {
    const char *bytes;
    size_t size;
    store_mapping map;
    char *owned;
} store_content;
df_status store_read_content(const char *path, store_content *out) DF_MUST_CHECK;
void store_free_content(store_content *content);

/* unpack.c: gzip and zstd, whole and undamaged, of bounded expansion; else DF_BAD_INPUT. New
 * memory. */
bool store_is_packed(const store_mapping *map);
df_status store_unpack(const char *path, const store_mapping *map, char **out,
                       size_t *bytes) DF_MUST_CHECK;

/* ---- corpus_tokens.c ------------------------------------------------------------------------ */

/* Adds the documents of a file of token arrays. */
df_status store_read_tokens(df_corpus *corpus, const corpus_source *from) DF_MUST_CHECK;

/* ---- chat.c --------------------------------------------------------------------------------- */

/* The text of a conversation, [{"role": ..., "content": ...}, ...], in a family's format; new
 * memory. */
df_status store_chat_text(const corpus_source *from, const json_t *messages, char **out,
                          size_t *bytes) DF_MUST_CHECK;

#endif
