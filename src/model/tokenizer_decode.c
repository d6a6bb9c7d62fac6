/* What single tokens show, and texts put together from tokens by the decoder of the file. */
#include "tokenizer_parts.h"

#include <string.h>

// Bytes that the decoder's steps may write for all tokens alone: so often those of the vocabulary
// (twice the most steps), and so many beside.
#define MOST_WRITTEN 64u
#define MOST_WRITTEN_BESIDE (16u << 20)

static df_status add_text(df_texts *texts, const char *text, size_t n) {
    size_t begin = texts->text.count;
    DF_TRY(df_bytes_add(&texts->text, text, n));
    return df_spans_add(&texts->parts, begin, texts->text.count);
}

// ---- pieces

static df_status show(const df_decoder *decoder, const df_token *token, const char *text,
                      df_decode_run *run) {
    run->in.text.count = run->in.parts.count = 0;
    DF_TRY(add_text(&run->in, text, token->content_bytes));
    return token->added ? DF_OK : df_decoder_run(decoder, run);
}

static df_status make_piece(df_tokenizer *tokenizer, df_token *token, df_decode_run *run) {
    df_vocabulary *vocabulary = &tokenizer->vocabulary;
    const df_bytes *shown = &run->in.text;
    DF_TRY(show(&tokenizer->decoder, token, vocabulary->text.at + token->content, run));
    if (vocabulary->text.count + shown->count >= UINT32_MAX)
        return df_fail(DF_BAD_INPUT, "decoder: the decoded tokens take more than 4 GiB");
    token->piece = (uint32_t)vocabulary->text.count;
    token->piece_bytes = (uint32_t)shown->count;
    DF_TRY(df_bytes_add(&vocabulary->text, shown->at, shown->count));
    return df_bytes_add(&vocabulary->text, "", 1);
}

df_status df_tokenizer_make_pieces(df_tokenizer *tokenizer) {
    df_vocabulary *vocabulary = &tokenizer->vocabulary;
    uint64_t most = MOST_WRITTEN * (uint64_t)vocabulary->text.count + MOST_WRITTEN_BESIDE;
    df_decode_run run = {.inside = true};
    df_status status = DF_OK;
    for (size_t i = 0; status == DF_OK && i < vocabulary->size; i++) {
        df_token *token = &vocabulary->token[i];
        token->content = token->form;
        token->content_bytes = token->form_bytes;
        if (token->in_model || token->added) status = make_piece(tokenizer, token, &run);
        if (status == DF_OK && run.written > most)
            status = df_fail(DF_BAD_INPUT,
                             "decoder: its steps write more than %llu bytes to decode "
                             "the tokens one by one",
                             (unsigned long long)most);
    }
    df_decode_run_free(&run);
    return status;
}

const char *df_tokenizer_piece(const df_tokenizer *tokenizer, uint32_t id, size_t *bytes) {
    const df_vocabulary *vocabulary = &tokenizer->vocabulary;
    *bytes = id < vocabulary->size ? vocabulary->token[id].piece_bytes : 0;
    return *bytes > 0 ? vocabulary->text.at + vocabulary->token[id].piece : "";
}

// ---- texts

// The contents of the tokens; without a decoder spaces stand between them.
static df_status collect(const df_tokenizer *tokenizer, const uint32_t *ids, size_t n,
                         bool skip_special, df_texts *texts) {
    const df_vocabulary *vocabulary = &tokenizer->vocabulary;
    for (size_t i = 0; i < n; i++) {
        const df_token *token = ids[i] < vocabulary->size ? &vocabulary->token[ids[i]] : NULL;
        if (token == NULL || token->content_bytes == 0) continue;
        if (skip_special && token->special) continue;
        bool gap = !tokenizer->decoder.present && texts->parts.count > 0;
        if (gap) DF_TRY(df_bytes_add(&texts->text, " ", 1));
        DF_TRY(add_text(texts, vocabulary->text.at + token->content, token->content_bytes));
    }
    return DF_OK;
}

df_status df_tokenizer_decode(const df_tokenizer *tokenizer, const uint32_t *ids, size_t n,
                              bool skip_special, char **text, size_t *bytes) {
    df_decode_run run = {.inside = false};
    df_status status = collect(tokenizer, ids, n, skip_special, &run.in);
    if (status == DF_OK) status = df_decoder_run(&tokenizer->decoder, &run);
    if (status == DF_OK) status = df_bytes_add(&run.in.text, "", 1);
    if (status == DF_OK) {
        *text = run.in.text.at;
        *bytes = run.in.text.count - 1;
        run.in.text.at = NULL; // the caller's now
    }
    df_decode_run_free(&run);
    return status;
}
