/* Corpora that are tokens already: arrays of ids in npy, npz or safetensors. */
#include "corpus_parts.h"

#include <string.h>

typedef struct arrays {
    const corpus_source *from;
    const df_tensor *tokens, *offsets;
} arrays;

static df_status bad(const arrays *a, const df_tensor *t, const char *what) {
    return df_fail(DF_BAD_INPUT, "%s: array \"%s\": %s", a->from->path, t->name, what);
}

static bool is_integer(df_type type) {
    return type == DF_U16 || type == DF_U32 || type == DF_I32 || type == DF_U64 || type == DF_I64;
}

// Element i; UINT64_MAX for a negative one.
static uint64_t element(const df_tensor *t, uint64_t i) {
    size_t n = df_type_bytes(t->type);
    const unsigned char *at = (const unsigned char *)t->data + i * n;
    uint64_t value = 0;
    for (size_t b = n; b-- > 0;) value = value << 8 | at[b];
    bool sign = t->type == DF_I32 || t->type == DF_I64;
    return sign && at[n - 1] >= 0x80 ? UINT64_MAX : value;
}

// The field's name, "tokens", "input_ids", or the only array.
static const df_tensor *find_tokens(const corpus_source *from, const df_tensors *all) {
    const char *const names[] = {from->field, "tokens", "input_ids"};
    for (size_t i = 0; i < 3; i++) {
        const df_tensor *found = df_tensors_find(all, names[i]);
        if (found != NULL) return found;
    }
    return df_tensors_count(all) == 1 ? df_tensors_at(all, 0) : NULL;
}

static df_status find_arrays(arrays *a, const df_tensors *all) {
    a->tokens = find_tokens(a->from, all);
    a->offsets = df_tensors_find(all, "offsets");
    if (a->tokens == NULL)
        return df_fail(DF_BAD_INPUT, "%s: expected an array \"%s\", \"tokens\" or \"input_ids\"",
                       a->from->path, a->from->field);
    if (!is_integer(a->tokens->type) || a->tokens->dims < 1 || a->tokens->dims > 2)
        return bad(a, a->tokens,
                   "expected token ids, u16, u32, i32, u64 or i64, of one or two dimensions");
    if (a->offsets == NULL) return DF_OK;
    if (!is_integer(a->offsets->type) || a->offsets->dims != 1 || a->tokens->dims != 1)
        return bad(a, a->offsets, "expected whole numbers of one dimension beside flat tokens");
    if (a->offsets->elements < 1 || element(a->offsets, 0) != 0 ||
        element(a->offsets, a->offsets->elements - 1) != a->tokens->elements)
        return bad(a, a->offsets, "expected to start with 0 and to end with the number of tokens");
    return DF_OK;
}

static df_status add_document(df_corpus *corpus, const arrays *a, uint64_t first, uint64_t end) {
    DF_TRY(df_grow((void **)&corpus->documents, &corpus->document_capacity, corpus->n_documents + 1,
                   sizeof *corpus->documents));
    DF_TRY(df_grow((void **)&corpus->tokens, &corpus->token_capacity,
                   corpus->n_tokens + (end - first) + 1, sizeof *corpus->tokens));
    corpus->documents[corpus->n_documents++] =
        (passage){.first = corpus->n_tokens, .bytes = end - first};
    for (uint64_t i = first; i < end; i++) {
        uint64_t id = element(a->tokens, i);
        if (id > UINT32_MAX) return bad(a, a->tokens, "a token id is negative or beyond 32 bits");
        corpus->tokens[corpus->n_tokens++] = (uint32_t)id;
    }
    return DF_OK;
}

// Documents: by the offsets, else the rows of two dimensions, else all of one.
static uint64_t document_count(const arrays *a) {
    if (a->offsets != NULL) return a->offsets->elements - 1;
    return a->tokens->dims == 2 ? a->tokens->shape[0] : 1;
}

static df_status add_documents(df_corpus *corpus, const arrays *a) {
    uint64_t n = document_count(a), row = n > 0 ? a->tokens->elements / n : 0;
    for (uint64_t d = 0; d < n && !store_corpus_is_full(corpus, a->from); d++) {
        uint64_t first = a->offsets != NULL ? element(a->offsets, d) : d * row;
        uint64_t end = a->offsets != NULL ? element(a->offsets, d + 1) : first + row;
        if (first > end || end > a->tokens->elements) return bad(a, a->offsets, "they decrease");
        DF_TRY(add_document(corpus, a, first, end));
    }
    return DF_OK;
}

df_status store_read_tokens(df_corpus *corpus, const corpus_source *from) {
    df_tensors *all;
    arrays a = {.from = from};
    if (from->labels != NULL || from->chat != NULL)
        return df_fail(DF_BAD_INPUT, "%s: arrays of tokens have no labels and no messages",
                       from->path);
    DF_TRY(df_tensors_open(from->path, &all));
    df_status status = find_arrays(&a, all);
    if (status == DF_OK) status = add_documents(corpus, &a);
    df_tensors_close(&all);
    return status;
}
