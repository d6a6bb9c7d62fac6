/* Byte-pair merges of one word: a heap of (rank, position) over a linked list of symbols, and a
 * cache of words. The order is that of Hugging Face tokenizers: lowest rank first, leftmost first
 * among equals. */
#include "tokenizer_parts.h"

#include <string.h>

#define NOWHERE UINT32_MAX
#define CACHED_BYTES 64u       // longer words are not worth a place in the cache
#define CACHE_SLOTS (1u << 16) // most slots; filled to one half, then emptied
#define CACHE_FIRST_SLOTS 1024u

#define SPACE_MARK "\xe2\x96\x81"
#define MARK_BYTES 3u

size_t df_mark_after(const char *text, size_t n) {
    size_t i = 0;
    bool in_marks = true; // marks at the start belong to the word that follows them
    while (i + MARK_BYTES <= n) {
        bool mark = memcmp(text + i, SPACE_MARK, MARK_BYTES) == 0;
        if (mark && !in_marks) return i;
        in_marks = mark;
        i += mark ? MARK_BYTES : 1;
    }
    return n;
}

// ---- symbols

static df_status add_symbol(df_merger *merger, uint32_t id, size_t end) {
    if (merger->symbols == merger->symbol_capacity) {
        void *p = merger->symbol;
        DF_TRY(df_grow(&p, &merger->symbol_capacity, merger->symbols + 64, sizeof *merger->symbol));
        merger->symbol = p;
    }
    uint32_t at = (uint32_t)merger->symbols++;
    merger->symbol[at] = (df_symbol){id, (uint32_t)end, at - 1, at + 1};
    return DF_OK;
}

// A character without a token: its bytes where the model can spell them, else the unknown token,
// else nothing.
static df_status add_unknown(const df_bpe *bpe, df_merger *merger, df_span unit, const char *text,
                             bool *unknown_before) {
    bool spelled = bpe->byte_fallback;
    for (size_t i = unit.begin; spelled && i < unit.end; i++)
        spelled = bpe->fallback[(unsigned char)text[i]] != DF_NO_ID;
    if (spelled) {
        *unknown_before = false;
        for (size_t i = unit.begin; i < unit.end; i++)
            DF_TRY(add_symbol(merger, bpe->fallback[(unsigned char)text[i]], i + 1));
        return DF_OK;
    }
    if (bpe->unknown == DF_NO_ID) return DF_OK;
    if (*unknown_before && bpe->fuse_unknown) {
        merger->symbol[merger->symbols - 1].end = unit.end;
        return DF_OK;
    }
    *unknown_before = true;
    return add_symbol(merger, bpe->unknown, unit.end);
}

// The token of the unit text[begin, end) of a word of n bytes.
static df_status unit_id(const df_bpe *bpe, const df_vocabulary *vocabulary, df_merger *merger,
                         df_span unit, const char *text, size_t n, uint32_t *id) {
    size_t length = unit.end - unit.begin;
    const char *prefix = unit.begin > 0 ? bpe->prefix : "",
               *suffix = unit.end == n ? bpe->suffix : "";
    if (*prefix == '\0' && *suffix == '\0') {
        *id = length == 1 ? bpe->unit[(unsigned char)text[unit.begin]]
                          : df_vocabulary_find(vocabulary, text + unit.begin, length);
        return DF_OK;
    }
    merger->unit.count = 0;
    DF_TRY(df_bytes_add(&merger->unit, prefix, strlen(prefix)));
    DF_TRY(df_bytes_add(&merger->unit, text + unit.begin, length));
    DF_TRY(df_bytes_add(&merger->unit, suffix, strlen(suffix)));
    *id = df_vocabulary_find(vocabulary, merger->unit.at, merger->unit.count);
    return DF_OK;
}

static df_status first_symbols(const df_bpe *bpe, const df_vocabulary *vocabulary,
                               df_merger *merger, const char *text, size_t n) {
    bool unknown_before = false;
    merger->symbols = 0;
    for (size_t i = 0, length; i < n; i += length) {
        length = bpe->byte_level ? 1 : df_utf8_length(text[i]);
        if (length > n - i) length = n - i;
        df_span unit = {(uint32_t)i, (uint32_t)(i + length)};
        uint32_t id;
        DF_TRY(unit_id(bpe, vocabulary, merger, unit, text, n, &id));
        if (id != DF_NO_ID) {
            unknown_before = false;
            DF_TRY(add_symbol(merger, id, i + length));
        } else {
            DF_TRY(add_unknown(bpe, merger, unit, text, &unknown_before));
        }
    }
    if (merger->symbols > 0) merger->symbol[merger->symbols - 1].next = NOWHERE;
    return DF_OK;
}

// ---- the heap

static df_status push(df_merger *merger, df_merge_entry entry) {
    if (merger->entries == merger->heap_capacity) {
        void *p = merger->heap;
        DF_TRY(df_grow(&p, &merger->heap_capacity, merger->entries + 64, sizeof *merger->heap));
        merger->heap = p;
    }
    size_t at = merger->entries++;
    while (at > 0 && merger->heap[(at - 1) / 2].order > entry.order) {
        merger->heap[at] = merger->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    merger->heap[at] = entry;
    return DF_OK;
}

static df_merge_entry pop(df_merger *merger) {
    df_merge_entry top = merger->heap[0], last = merger->heap[--merger->entries];
    size_t at = 0, n = merger->entries;
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= n) break;
        if (child + 1 < n && merger->heap[child + 1].order < merger->heap[child].order) child++;
        if (merger->heap[child].order >= last.order) break;
        merger->heap[at] = merger->heap[child];
        at = child;
    }
    if (n > 0) merger->heap[at] = last;
    return top;
}

// The merge of a symbol with its right neighbour, NULL when they do not merge.
static const df_pair_slot *merge_at(const df_bpe *bpe, const df_merger *merger, uint32_t at) {
    const df_symbol *symbol = &merger->symbol[at];
    if (symbol->id == DF_NO_ID || symbol->next == NOWHERE) return NULL;
    return df_pair_map_get(&bpe->merges,
                           (uint64_t)symbol->id << 32 | merger->symbol[symbol->next].id);
}

static df_status offer(const df_bpe *bpe, df_merger *merger, uint32_t at) {
    const df_pair_slot *merge = merge_at(bpe, merger, at);
    if (merge == NULL) return DF_OK;
    return push(merger, (df_merge_entry){(uint64_t)merge->rank << 32 | at, merge->id});
}

static df_status merge_symbols(const df_bpe *bpe, df_merger *merger) {
    merger->entries = 0;
    for (size_t i = 0; i + 1 < merger->symbols; i++) DF_TRY(offer(bpe, merger, (uint32_t)i));
    while (merger->entries > 0) {
        df_merge_entry entry = pop(merger);
        uint32_t at = (uint32_t)entry.order;
        const df_pair_slot *merge = merge_at(bpe, merger, at);
        if (merge == NULL || merge->id != entry.id) continue; // one of the two has merged since
        df_symbol *left = &merger->symbol[at], *right = &merger->symbol[left->next];
        left->id = entry.id;
        left->end = right->end;
        left->next = right->next;
        right->id = DF_NO_ID;
        if (left->next != NOWHERE) merger->symbol[left->next].previous = at;
        if (left->previous != NOWHERE) DF_TRY(offer(bpe, merger, left->previous));
        DF_TRY(offer(bpe, merger, at));
    }
    return DF_OK;
}

static df_status merge_word(const df_bpe *bpe, const df_vocabulary *vocabulary, df_merger *merger,
                            const char *text, size_t n) {
    merger->tokens.count = 0;
    uint32_t whole = bpe->ignore_merges ? df_vocabulary_find(vocabulary, text, n) : DF_NO_ID;
    if (whole != DF_NO_ID) return df_spans_add(&merger->tokens, whole, n);
    DF_TRY(first_symbols(bpe, vocabulary, merger, text, n));
    DF_TRY(merge_symbols(bpe, merger));
    for (size_t i = 0; i < merger->symbols; i++)
        if (merger->symbol[i].id != DF_NO_ID)
            DF_TRY(df_spans_add(&merger->tokens, merger->symbol[i].id, merger->symbol[i].end));
    return DF_OK;
}

// ---- the cache

static df_word *cache_slot(const df_word_cache *cache, uint64_t hash, const char *text, size_t n) {
    size_t i = (size_t)hash & cache->mask;
    for (;; i = (i + 1) & cache->mask) {
        df_word *word = &cache->slot[i];
        if (word->hash == 0) return word;
        if (word->hash == hash && word->bytes == n &&
            memcmp(cache->text.at + word->text, text, n) == 0)
            return word;
    }
}

static df_status cache_resize(df_word_cache *cache, size_t slots) {
    df_word *old = cache->slot;
    size_t old_slots = old != NULL ? cache->mask + 1 : 0;
    df_word *fresh;
    DF_TRY(DF_NEW(fresh, slots));
    cache->slot = fresh;
    cache->mask = slots - 1;
    for (size_t i = 0; i < old_slots; i++)
        if (old[i].hash != 0)
            *cache_slot(cache, old[i].hash, cache->text.at + old[i].text, old[i].bytes) = old[i];
    df_free(old);
    return DF_OK;
}

static void cache_empty(df_word_cache *cache) {
    if (cache->slot != NULL) memset(cache->slot, 0, (cache->mask + 1) * sizeof *cache->slot);
    cache->used = cache->text.count = cache->tokens.count = 0;
}

static df_status cache_room(df_word_cache *cache) {
    if (cache->slot == NULL) return cache_resize(cache, CACHE_FIRST_SLOTS);
    if (2 * (cache->used + 1) <= cache->mask) return DF_OK;
    if (cache->mask + 1 < CACHE_SLOTS) return cache_resize(cache, 2 * (cache->mask + 1));
    cache_empty(cache);
    return DF_OK;
}

static df_status cache_add(df_word_cache *cache, uint64_t hash, const char *text, size_t n,
                           const df_spans *tokens) {
    df_word word = {hash, cache->text.count, cache->tokens.count, (uint32_t)n,
                    (uint32_t)tokens->count};
    DF_TRY(df_bytes_add(&cache->text, text, n));
    for (size_t i = 0; i < tokens->count; i++)
        DF_TRY(df_spans_add(&cache->tokens, tokens->at[i].begin, tokens->at[i].end));
    *cache_slot(cache, hash, text, n) = word;
    cache->used++;
    return DF_OK;
}

df_status df_bpe_word(const df_bpe *bpe, const df_vocabulary *vocabulary, df_merger *merger,
                      const char *text, size_t n, const df_span **tokens, size_t *count) {
    df_word_cache *cache = &merger->cache;
    bool cached = n <= CACHED_BYTES;
    uint64_t hash = cached ? df_hash(text, n) | 1 : 0; // never 0, which marks a free slot
    if (cached) {
        DF_TRY(cache_room(cache));
        const df_word *word = cache_slot(cache, hash, text, n);
        if (word->hash != 0) {
            *tokens = word->count > 0 ? &cache->tokens.at[word->first] : NULL;
            *count = word->count;
            return DF_OK;
        }
    }
    DF_TRY(merge_word(bpe, vocabulary, merger, text, n));
    if (cached) DF_TRY(cache_add(cache, hash, text, n, &merger->tokens));
    *tokens = merger->tokens.at;
    *count = merger->tokens.count;
    return DF_OK;
}

void df_merger_free(df_merger *merger) {
    df_free(merger->symbol);
    df_free(merger->heap);
    df_free(merger->tokens.at);
    df_free(merger->unit.at);
    df_free(merger->cache.slot);
    df_free(merger->cache.text.at);
    df_free(merger->cache.tokens.at);
    *merger = (df_merger){0};
}
