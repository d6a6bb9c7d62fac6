/* Held-out documents as windows of tokens, straight from the corpus: every rank tokenises the few
 * that are read. */
#include "lens.h"

#include <string.h>

/* What is known while documents are laid end to end. */
typedef struct laying {
    df_lens_text *text;
    const packing *how;
    int64_t bos;
    uint64_t rows, most;
    size_t tokens, scored, windows; // room for so many
} laying;

static df_status make_room(laying *l) {
    df_lens_text *t = l->text;
    DF_TRY(df_grow((void **)&t->token, &l->tokens, l->rows + 1, sizeof *t->token));
    DF_TRY(df_grow((void **)&t->scored, &l->scored, l->rows + 1, sizeof *t->scored));
    return df_grow((void **)&t->window, &l->windows, t->windows + 2, sizeof *t->window);
}

// One row more; *full: there are enough windows. `added`: it is no text; `first`: of a document.
static df_status lay(laying *l, uint32_t id, bool added, bool first, bool *full) {
    df_lens_text *t = l->text;
    uint64_t place = t->windows > 0 ? l->rows - t->window[t->windows - 1] : t->context;
    bool next = place == t->context || (first && l->how->by_document);
    *full = next && l->most > 0 && t->windows == l->most;
    if (*full) return DF_OK;
    DF_TRY(make_room(l));
    if (next) t->window[t->windows++] = l->rows;
    if (!next) t->scored[l->rows - 1] = !added;
    t->token[l->rows] = id;
    t->scored[l->rows++] = 0;
    t->window[t->windows] = l->rows;
    return DF_OK;
}

static df_status lay_document(laying *l, const uint32_t *id, size_t n, bool *full) {
    bool own = l->bos >= 0 && n > 0 && id[0] == (uint32_t)l->bos, added = l->bos >= 0 && !own;
    if (added) DF_TRY(lay(l, (uint32_t)l->bos, true, true, full));
    for (size_t i = 0; i < n && !*full; i++)
        DF_TRY(lay(l, id[i], i == 0 && own, i == 0 && !added, full));
    return DF_OK;
}

static df_status lay_all(laying *l, const df_corpus *corpus, const df_tokenizer *tokenizer) {
    df_tokens tokens = {0};
    df_status status = DF_OK;
    bool full = false;
    for (uint64_t d = 0; d < df_corpus_documents(corpus) && !full; d++) {
        if (df_random_uniform(l->how->seed, DF_STREAM_SPLIT, d) >= l->how->heldout) continue;
        size_t n, bytes;
        const uint32_t *id = df_corpus_tokens(corpus, d, &n);
        if (id == NULL) {
            const char *text = df_corpus_text(corpus, d, &bytes);
            DF_GO(df_tokenizer_encode(tokenizer, text, bytes, false, &tokens));
            id = tokens.id;
            n = tokens.count;
        }
        DF_GO(lay_document(l, id, n, &full));
    }
done:
    df_tokens_free(&tokens);
    return status;
}

df_status df_lens_text_read(const df_corpus *corpus, const df_tokenizer *tokenizer,
                            const packing *how, uint64_t most, df_lens_text *out) {
    laying l = {.text = out, .how = how, .most = most};
    *out = (df_lens_text){.context = how->context};
    df_status status = df_choose_bos(tokenizer, how->bos, &l.bos);
    if (status == DF_OK) status = lay_all(&l, corpus, tokenizer);
    if (status == DF_OK && l.rows == 0)
        status = df_fail(DF_BAD_INPUT, "no document of the text is held out: the lens reads those, "
                                       "set text.heldout above 0");
    if (status != DF_OK) df_lens_text_free(out);
    return status;
}

void df_lens_text_free(df_lens_text *text) {
    df_free(text->window);
    df_free(text->token);
    df_free(text->scored);
    *text = (df_lens_text){0};
}

df_status df_lens_tokens(const df_tokenizer *tokenizer, size_t vocabulary, uint32_t **out,
                         size_t *n) {
    size_t known = df_tokenizer_size(tokenizer), bytes;
    *n = 0;
    if (known > vocabulary) known = vocabulary;
    DF_TRY(DF_NEW(*out, known));
    for (uint32_t id = 0; id < known; id++) {
        df_tokenizer_piece(tokenizer, id, &bytes);
        if (bytes > 0 && !df_tokenizer_is_special(tokenizer, id)) (*out)[(*n)++] = id;
    }
    return DF_OK;
}
