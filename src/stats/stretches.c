/* Labelled spans of the text as stretches of rows. */
#include "stats_internal.h"

#include <stdlib.h>

static int by_first(const void *a, const void *b) {
    const df_stretch *x = a, *y = b;
    if (x->first != y->first) return x->first < y->first ? -1 : 1;
    if (x->concept != y->concept) return x->concept < y->concept ? -1 : 1;
    return (x->last > y->last) - (x->last < y->last);
}

/* The rows of document d whose tokens overlap bytes [span.first, span.end); false when the window's
 * cut left none. */
static bool rows_of(const df_acts *acts, size_t d, df_span span, df_stretch *out) {
    uint64_t first = UINT64_MAX, last = 0, begin = 0;
    for (uint64_t r = acts->document[d]; r < acts->document[d + 1]; r++) {
        uint64_t end = acts->token_end[r];
        if (end > span.first && begin < span.end && end > begin) {
            if (first == UINT64_MAX) first = r;
            last = r;
        }
        begin = end > begin ? end : begin;
    }
    if (first == UINT64_MAX) return false;
    out->first = first > acts->document[d] ? first - 1 : first;
    out->last = last;
    return true;
}

static df_status check_corpus(const df_acts *acts, const df_corpus *corpus) {
    for (size_t d = 0; d < acts->documents; d++)
        if (acts->source[d] >= df_corpus_documents(corpus))
            return df_fail(
                DF_BAD_INPUT,
                "%s holds document %llu, the corpus only %llu: it was made from another text",
                acts->path, (unsigned long long)acts->source[d],
                (unsigned long long)df_corpus_documents(corpus));
    return DF_OK;
}

static size_t count_spans(const df_acts *acts, const df_corpus *corpus) {
    size_t total = 0, n;
    for (size_t d = 0; d < acts->documents; d++) {
        (void)df_corpus_spans(corpus, acts->source[d], &n);
        total += n;
    }
    return total;
}

df_status df_stats_stretches(const df_acts *acts, const df_corpus *corpus, df_stretch **out,
                             size_t *n, uint64_t *spans) {
    DF_TRY(check_corpus(acts, corpus));
    DF_TRY(DF_NEW(*out, count_spans(acts, corpus)));
    *n = 0;
    for (size_t d = 0; d < acts->documents; d++) {
        size_t many;
        const df_span *span = df_corpus_spans(corpus, acts->source[d], &many);
        for (size_t i = 0; i < many; i++) {
            df_stretch *s = *out + *n;
            *s = (df_stretch){.concept = span[i].concept, .heldout = acts->heldout[d]};
            if (!rows_of(acts, d, span[i], s)) continue;
            spans[2 * s->concept + s->heldout]++;
            (*n)++;
        }
    }
    qsort(*out, *n, sizeof **out, by_first);
    return DF_OK;
}
