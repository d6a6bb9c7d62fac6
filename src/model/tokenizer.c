/* Tokenizers: opening, and encoding a text through all stages. */
#include "tokenizer_parts.h"

#include <stdatomic.h>
#include <string.h>

#define MOST_BYTES (1u << 30)

static _Atomic uint64_t next_serial = 1;

// ---- opening and closing

df_status df_tokenizer_make(const json_t *root, uint64_t hash, df_tokenizer **out) {
    df_tokenizer *tokenizer;
    DF_TRY(DF_NEW(tokenizer, 1));
    tokenizer->hash = hash;
    tokenizer->serial = atomic_fetch_add(&next_serial, 1);
    df_status status = df_tokenizer_load(tokenizer, root);
    if (status == DF_OK)
        *out = tokenizer;
    else
        df_tokenizer_close(tokenizer);
    return status;
}

df_status df_tokenizer_parse(const char *text, size_t bytes, const char *what, df_tokenizer **out) {
    json_t *root = NULL;
    *out = NULL;
    if (bytes >= MOST_BYTES) return df_fail(DF_BAD_INPUT, "%s: larger than 1 GiB", what);
    df_status status = df_json_parse(text, bytes, what, &root);
    if (status == DF_OK) status = df_tokenizer_make(root, df_hash(text, bytes), out);
    if (status != DF_OK) df_context("reading the tokenizer %s", what);
    json_decref(root);
    return status;
}

df_status df_tokenizer_open(const char *path, df_tokenizer **out) {
    char *text = NULL;
    size_t bytes;
    *out = NULL;
    DF_TRY_AS(df_read_file(path, &text, &bytes), "reading the tokenizer %s", path);
    df_status status = df_tokenizer_parse(text, bytes, path, out);
    df_free(text);
    return status;
}

void df_tokenizer_close(df_tokenizer *tokenizer) {
    if (tokenizer == NULL) return;
    for (size_t i = 0; i < tokenizer->n_added; i++) df_free(tokenizer->added[i].content);
    df_free(tokenizer->added);
    df_free(tokenizer->raw.edges.slot);
    df_free(tokenizer->normalized.edges.slot);
    df_free(tokenizer->vocabulary.token);
    df_free(tokenizer->vocabulary.text.at);
    df_free(tokenizer->vocabulary.slot);
    df_free(tokenizer->bpe.merges.slot);
    df_free(tokenizer->bpe.prefix);
    df_free(tokenizer->bpe.suffix);
    df_steps_free(&tokenizer->normalizer);
    df_steps_free(&tokenizer->pre_tokenizer);
    df_free(tokenizer->before);
    df_free(tokenizer->after);
    df_decoder_free(&tokenizer->decoder);
    df_free(tokenizer);
}

size_t df_tokenizer_size(const df_tokenizer *tokenizer) {
    return tokenizer->vocabulary.size;
}

uint64_t df_tokenizer_hash(const df_tokenizer *tokenizer) {
    return tokenizer->hash;
}

int64_t df_tokenizer_bos(const df_tokenizer *tokenizer) {
    return tokenizer->n_before > 0 ? (int64_t)tokenizer->before[0] : -1;
}

bool df_tokenizer_is_special(const df_tokenizer *tokenizer, uint32_t id) {
    return id < tokenizer->vocabulary.size && tokenizer->vocabulary.token[id].special;
}

int64_t df_tokenizer_find(const df_tokenizer *tokenizer, const char *content) {
    for (size_t i = 0; i < tokenizer->n_added; i++)
        if (strcmp(tokenizer->added[i].content, content) == 0) return tokenizer->added[i].id;
    uint32_t id = df_vocabulary_find(&tokenizer->vocabulary, content, strlen(content));
    return id != DF_NO_ID ? (int64_t)id : -1;
}

// ---- encoding

static df_status add_token(df_tokens *out, uint32_t id, uint32_t end) {
    if (out->count == out->capacity) {
        size_t ids = out->capacity, ends = out->capacity;
        void *p = out->id;
        DF_TRY(df_grow(&p, &ids, out->count + 256, sizeof *out->id));
        out->id = p;
        p = out->end;
        DF_TRY(df_grow(&p, &ends, out->count + 256, sizeof *out->end));
        out->end = p;
        out->capacity = ids;
    }
    out->id[out->count] = id;
    out->end[out->count++] = end;
    return DF_OK;
}

static df_status encode_word(const df_tokenizer *tokenizer, const df_view *view, df_span word,
                             df_tokens *out) {
    const df_span *tokens;
    size_t count;
    DF_TRY(df_bpe_word(&tokenizer->bpe, &tokenizer->vocabulary, &out->scratch->merger,
                       view->text + word.begin, word.end - word.begin, &tokens, &count));
    for (size_t i = 0; i < count; i++)
        DF_TRY(add_token(out, tokens[i].begin, df_view_end(view, word.begin + tokens[i].end)));
    return DF_OK;
}

// The tokens of one piece; in models with space marks, word by word, so that words are found in the
// cache.
static df_status encode_piece(const df_tokenizer *tokenizer, const df_view *view, df_span piece,
                              df_tokens *out) {
    while (tokenizer->bpe.cut_at_marks && piece.begin < piece.end) {
        size_t n = df_mark_after(view->text + piece.begin, piece.end - piece.begin);
        df_span word = {piece.begin, piece.begin + (uint32_t)n};
        DF_TRY(encode_word(tokenizer, view, word, out));
        piece.begin = word.end;
    }
    return piece.begin < piece.end ? encode_word(tokenizer, view, piece, out) : DF_OK;
}

// One stretch of normalized text between added tokens.
static df_status encode_plain(const df_tokenizer *tokenizer, df_view view, df_span part,
                              df_tokens *out) {
    df_pass *pass = &out->scratch->split;
    if (part.begin == part.end) return DF_OK;
    pass->pieces.count = 0;
    DF_TRY(df_spans_add(&pass->pieces, part.begin, part.end));
    DF_TRY(df_pass_run(pass, &tokenizer->pre_tokenizer, &view));
    for (size_t i = 0; i < pass->pieces.count; i++)
        DF_TRY(encode_piece(tokenizer, &view, pass->pieces.at[i], out));
    return DF_OK;
}

// One stretch of the original between added tokens: normalized, then searched for normalized added
// tokens.
static df_status encode_section(const df_tokenizer *tokenizer, const char *text, df_span part,
                                df_tokens *out) {
    df_view view = {text + part.begin, NULL, part.begin, part.end - part.begin};
    df_pass *pass = &out->scratch->normal;
    df_added_match match;
    size_t from = 0;
    if (view.bytes == 0) return DF_OK;
    pass->pieces.count = 0;
    DF_TRY(df_spans_add(&pass->pieces, 0, view.bytes));
    DF_TRY(df_pass_run(pass, &tokenizer->normalizer, &view));
    while (df_added_next(&tokenizer->normalized, view.text, view.bytes, from, &match)) {
        df_span plain = {(uint32_t)from, (uint32_t)match.begin};
        DF_TRY(encode_plain(tokenizer, view, plain, out));
        DF_TRY(add_token(out, match.id, df_view_end(&view, match.end)));
        from = match.end;
    }
    return encode_plain(tokenizer, view, (df_span){(uint32_t)from, (uint32_t)view.bytes}, out);
}

static df_status encode_text(const df_tokenizer *tokenizer, const char *text, size_t bytes,
                             df_tokens *out) {
    df_added_match match;
    size_t from = 0;
    while (df_added_next(&tokenizer->raw, text, bytes, from, &match)) {
        df_span plain = {(uint32_t)from, (uint32_t)match.begin};
        DF_TRY(encode_section(tokenizer, text, plain, out));
        DF_TRY(add_token(out, match.id, (uint32_t)match.end));
        from = match.end;
    }
    return encode_section(tokenizer, text, (df_span){(uint32_t)from, (uint32_t)bytes}, out);
}

static df_status get_ready(const df_tokenizer *tokenizer, df_tokens *out) {
    out->count = 0;
    if (out->scratch == NULL) DF_TRY(DF_NEW(out->scratch, 1));
    if (out->scratch->serial != tokenizer->serial) df_merger_free(&out->scratch->merger);
    out->scratch->serial = tokenizer->serial;
    df_budget_reset(&out->scratch->normal.budget);
    df_budget_reset(&out->scratch->split.budget);
    return DF_OK;
}

df_status df_tokenizer_encode(const df_tokenizer *tokenizer, const char *text, size_t bytes,
                              bool add_special, df_tokens *out) {
    if (bytes >= MOST_BYTES)
        return df_fail(DF_BAD_INPUT, "a text of %zu bytes is too long to tokenize (below 1 GiB)",
                       bytes);
    size_t valid = df_utf8_valid(text, bytes);
    if (valid != bytes)
        return df_fail(DF_BAD_INPUT, "the text is not valid UTF-8 at byte %zu", valid);
    DF_TRY(get_ready(tokenizer, out));
    for (size_t i = 0; add_special && i < tokenizer->n_before; i++)
        DF_TRY(add_token(out, tokenizer->before[i], 0));
    DF_TRY(encode_text(tokenizer, text, bytes, out));
    for (size_t i = 0; add_special && i < tokenizer->n_after; i++)
        DF_TRY(add_token(out, tokenizer->after[i], 0));
    return DF_OK;
}

void df_tokens_free(df_tokens *tokens) {
    if (tokens->scratch != NULL) {
        df_pass_free(&tokens->scratch->normal);
        df_pass_free(&tokens->scratch->split);
        df_merger_free(&tokens->scratch->merger);
        df_free(tokens->scratch);
    }
    df_free(tokens->id);
    df_free(tokens->end);
    *tokens = (df_tokens){0};
}
