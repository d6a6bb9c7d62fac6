/* The corpus as windows of tokens: documents tokenised by all ranks and threads, laid end to end,
 * cut. */
#include "harvest.h"

#include <string.h>

packing df_packing_read(const df_run *run, const char *context) {
    const df_job *job = run->job;
    return (packing){.context = (size_t)df_job_int(job, context),
                     .by_document = strcmp(df_job_text(job, "harvest.packing"), "document") == 0,
                     .bos = df_job_text(job, "harvest.bos"),
                     .seed = (uint64_t)df_job_int(job, "seed"),
                     .heldout = df_job_real(job, "text.heldout")};
}

df_status df_packing_check(const df_run *run, const char *context, const char *name,
                           const df_model_shape *shape) {
    size_t length = (size_t)df_job_int(run->job, context);
    if (shape->positions == 0 || length <= shape->positions) return DF_OK;
    return df_fail(DF_USAGE, "%s: %s is %zu, but model %s has %zu positions",
                   df_job_where(run->job, context), context, length, name, shape->positions);
}

/* ---- documents ------------------------------------------------------------------------------ */

/* One document's tokens. */
typedef struct piece {
    uint32_t *id, *end;
    size_t count;
} piece;

typedef struct tokenising {
    const df_corpus *corpus;
    const df_tokenizer *tokenizer;
    int64_t bos;
    df_range mine; // documents
    piece *pieces; // [mine.count]
} tokenising;

// Ids that are there already. Bytes are counted in what the tokens show; a BOS token that stands
// there counts as the added one.
static df_status take_tokens(const tokenising *t, size_t document, piece *p) {
    size_t n, vocabulary = df_tokenizer_size(t->tokenizer);
    const uint32_t *id = df_corpus_tokens(t->corpus, document, &n);
    size_t added = t->bos >= 0 && (n == 0 || id[0] != (uint32_t)t->bos),
           skip = !added && t->bos >= 0;
    uint64_t at = 0;
    DF_TRY(DF_NEW(p->id, n + added));
    DF_TRY(DF_NEW(p->end, n + added));
    if (added) p->id[0] = (uint32_t)t->bos;
    p->count = n + added;
    for (size_t i = 0; i < n; i++) {
        size_t bytes;
        if (id[i] >= vocabulary)
            return df_fail(DF_BAD_INPUT,
                           "document %zu, token %zu: id %u is none of the tokenizer's %zu",
                           document, i, id[i], vocabulary);
        df_tokenizer_piece(t->tokenizer, id[i], &bytes);
        at += bytes;
        if (at > UINT32_MAX) return df_fail(DF_BAD_INPUT, "document %zu is too long", document);
        p->id[i + added] = id[i];
        p->end[i + added] = i == 0 && skip ? 0 : (uint32_t)at;
        if (i == 0 && skip) at = 0;
    }
    return DF_OK;
}

static df_status tokenise_one(const tokenising *t, size_t i, df_tokens *tokens) {
    size_t bytes, added = t->bos >= 0;
    piece *p = &t->pieces[i];
    if (df_corpus_tokens(t->corpus, t->mine.first + i, &bytes) != NULL)
        return take_tokens(t, t->mine.first + i, p);
    const char *text = df_corpus_text(t->corpus, t->mine.first + i, &bytes);
    DF_TRY_AS(df_tokenizer_encode(t->tokenizer, text, bytes, false, tokens),
              "tokenising document %zu", t->mine.first + i);
    DF_TRY(DF_NEW(p->id, tokens->count + added));
    DF_TRY(DF_NEW(p->end, tokens->count + added));
    if (added) p->id[0] = (uint32_t)t->bos;
    if (tokens->count > 0) {
        memcpy(p->id + added, tokens->id, tokens->count * sizeof *p->id);
        memcpy(p->end + added, tokens->end, tokens->count * sizeof *p->end);
    }
    p->count = tokens->count + added;
    return DF_OK;
}

static df_status tokenise_mine(const tokenising *t) {
    df_carried failure = {0}; // at: the document
#pragma omp parallel
    {
        df_tokens tokens = {0};
#pragma omp for schedule(dynamic, 8)
        for (size_t i = 0; i < t->mine.count; i++) {
            df_status status = tokenise_one(t, i, &tokens);
            if (status != DF_OK) df_carry(&failure, status, i);
        }
        df_tokens_free(&tokens);
    }
    return df_carried_raise(&failure);
}

/* ---- passing around ------------------------------------------------------------------------- */

// Every rank's bytes in rank order, in new memory on every rank.
static df_status gather_all(df_comm *world, const void *mine, size_t bytes, void **all,
                            size_t *total) {
    size_t *counts;
    *all = NULL;
    *total = 0;
    df_status status;
    DF_GO(df_agree(world, DF_NEW(counts, (size_t)df_comm_size(world))));
    df_allgather_size(world, bytes, counts);
    for (int r = 0; r < df_comm_size(world); r++) *total += counts[r];
    *all = df_alloc(*total, 1);
    DF_GO(df_agree(world, *all != NULL ? DF_OK : DF_FAILED));
    df_allgather(world, mine, counts, *all);
done:
    df_free(counts);
    return status;
}

// This rank's pieces laid end to end: ids, ends [rows], and the rows of each document [count].
typedef struct flat {
    uint32_t *id, *end;
    uint64_t *rows;
    size_t n;
} flat;

static df_status flatten(const tokenising *t, flat *out) {
    for (size_t i = 0; i < t->mine.count; i++) out->n += t->pieces[i].count;
    DF_TRY(DF_NEW(out->id, out->n));
    DF_TRY(DF_NEW(out->end, out->n));
    DF_TRY(DF_NEW(out->rows, t->mine.count));
    size_t at = 0;
    for (size_t i = 0; i < t->mine.count; i++) {
        piece *p = &t->pieces[i];
        memcpy(out->id + at, p->id, p->count * sizeof *p->id);
        memcpy(out->end + at, p->end, p->count * sizeof *p->end);
        out->rows[i] = p->count;
        at += p->count;
        df_free(p->id);
        df_free(p->end);
        *p = (piece){0};
    }
    return DF_OK;
}

static df_status share(df_comm *world, const flat *mine, size_t documents, packed_text *out) {
    size_t bytes;
    void *rows = NULL, *id = NULL, *end = NULL;
    df_status status;
    DF_GO(gather_all(world, mine->rows, documents * sizeof *mine->rows, &rows, &bytes));
    out->documents = bytes / sizeof *mine->rows;
    DF_GO(gather_all(world, mine->id, mine->n * sizeof *mine->id, &id, &bytes));
    out->rows = bytes / sizeof *mine->id;
    DF_GO(gather_all(world, mine->end, mine->n * sizeof *mine->end, &end, &bytes));
    out->tokens = id;
    out->token_end = end;
    DF_GO(df_agree(world, DF_NEW(out->document, out->documents + 1)));
    for (size_t d = 0; d < out->documents; d++)
        out->document[d + 1] = out->document[d] + ((uint64_t *)rows)[d];
done:
    df_free(rows);
    if (status != DF_OK && out->tokens == NULL) {
        df_free(id);
        df_free(end);
    }
    return status;
}

static df_status tokenise(df_comm *world, tokenising *t, packed_text *out) {
    flat mine = {0};
    t->mine = df_share(df_corpus_documents(t->corpus), df_comm_size(world), df_comm_rank(world));
    df_status status = DF_NEW(t->pieces, t->mine.count);
    if (status == DF_OK) status = tokenise_mine(t);
    if (status == DF_OK) status = flatten(t, &mine);
    status = df_agree(world, status);
    for (size_t i = 0; t->pieces != NULL && i < t->mine.count; i++) {
        df_free(t->pieces[i].id);
        df_free(t->pieces[i].end);
    }
    df_free(t->pieces);
    if (status == DF_OK) status = share(world, &mine, t->mine.count, out);
    df_free(mine.id);
    df_free(mine.end);
    df_free(mine.rows);
    return status;
}

/* ---- windows -------------------------------------------------------------------------------- */

// Cuts rows [first, end) every `context` rows, appending window ends; counts only when window is
// NULL.
static uint64_t cut(uint64_t first, uint64_t end, uint64_t context, uint64_t *window, uint64_t n) {
    for (uint64_t at = first; at < end; at += context, n++)
        if (window != NULL) window[n + 1] = end - at < context ? end : at + context;
    return n;
}

static uint64_t cut_all(const packed_text *text, const packing *how, uint64_t *window) {
    if (!how->by_document) return cut(0, text->rows, how->context, window, 0);
    uint64_t n = 0;
    for (uint64_t d = 0; d < text->documents; d++)
        n = cut(text->document[d], text->document[d + 1], how->context, window, n);
    return n;
}

static df_status cut_windows(const packing *how, packed_text *text) {
    text->windows = cut_all(text, how, NULL);
    DF_TRY(DF_NEW(text->window, text->windows + 1));
    cut_all(text, how, text->window);
    DF_TRY(DF_NEW(text->source, text->documents));
    DF_TRY(DF_NEW(text->heldout, text->documents));
    for (uint64_t d = 0; d < text->documents; d++) {
        text->source[d] = d;
        text->heldout[d] = df_random_uniform(how->seed, DF_STREAM_SPLIT, d) < how->heldout;
    }
    return DF_OK;
}

df_status df_choose_bos(const df_tokenizer *tokenizer, const char *bos, int64_t *out) {
    *out = -1;
    if (strcmp(bos, "none") == 0) return DF_OK;
    *out =
        strcmp(bos, "auto") == 0 ? df_tokenizer_bos(tokenizer) : df_tokenizer_find(tokenizer, bos);
    if (*out >= 0 || strcmp(bos, "auto") == 0) return DF_OK;
    return df_fail(
        DF_USAGE,
        "harvest.bos: the tokenizer has no token \"%s\" (auto: what its template puts first; none)",
        bos);
}

df_status df_pack_text(const df_run *run, const df_corpus *corpus, const df_tokenizer *tokenizer,
                       const packing *how, packed_text *out) {
    tokenising t = {.corpus = corpus, .tokenizer = tokenizer};
    *out = (packed_text){0};
    df_status status = df_agree(run->world, df_choose_bos(tokenizer, how->bos, &t.bos));
    out->bos = t.bos;
    if (status == DF_OK) status = tokenise(run->world, &t, out);
    if (status == DF_OK) status = df_agree(run->world, cut_windows(how, out));
    if (status == DF_OK && out->rows == 0)
        status = df_fail(DF_BAD_INPUT, "the text holds no tokens");
    if (status != DF_OK) df_packed_free(out);
    return status;
}

void df_packed_free(packed_text *text) {
    df_free(text->tokens);
    df_free(text->token_end);
    df_free(text->window);
    df_free(text->document);
    df_free(text->source);
    df_free(text->heldout);
    *text = (packed_text){0};
}
