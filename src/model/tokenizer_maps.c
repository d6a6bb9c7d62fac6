/* The two hash maps of a tokenizer: pairs of ids, and token texts. Both are filled once and only
 * read after. */
#include "tokenizer_parts.h"

#include <string.h>

#define FREE_KEY UINT64_MAX

// A power of two at least twice the entries.
static df_status slots_for(size_t entries, size_t *slots) {
    size_t wanted;
    DF_TRY(df_mul(entries + 8, 2, &wanted));
    *slots = 16;
    while (*slots < wanted) *slots *= 2;
    return DF_OK;
}

static size_t scatter(uint64_t key) {
    key *= 0x9e3779b97f4a7c15u;
    return (size_t)(key ^ key >> 29);
}

df_status df_pair_map_new(df_pair_map *map, size_t entries) {
    size_t slots;
    DF_TRY(slots_for(entries, &slots));
    DF_TRY(DF_NEW(map->slot, slots));
    map->mask = slots - 1;
    for (size_t i = 0; i < slots; i++) map->slot[i].key = FREE_KEY;
    return DF_OK;
}

static df_pair_slot *pair_slot(const df_pair_map *map, uint64_t key) {
    size_t i = scatter(key) & map->mask;
    while (map->slot[i].key != key && map->slot[i].key != FREE_KEY) i = (i + 1) & map->mask;
    return &map->slot[i];
}

void df_pair_map_put(df_pair_map *map, uint64_t key, uint32_t rank, uint32_t id) {
    *pair_slot(map, key) = (df_pair_slot){key, rank, id};
}

const df_pair_slot *df_pair_map_get(const df_pair_map *map, uint64_t key) {
    const df_pair_slot *slot = pair_slot(map, key);
    return slot->key == key ? slot : NULL;
}

static uint32_t *text_slot(const df_vocabulary *vocabulary, const char *text, size_t n) {
    size_t i = (size_t)df_hash(text, n) & vocabulary->mask;
    for (;; i = (i + 1) & vocabulary->mask) {
        uint32_t *slot = &vocabulary->slot[i];
        if (*slot == 0) return slot;
        const df_token *token = &vocabulary->token[*slot - 1];
        if (token->form_bytes == n && memcmp(vocabulary->text.at + token->form, text, n) == 0)
            return slot;
    }
}

df_status df_vocabulary_index(df_vocabulary *vocabulary) {
    size_t slots, entries = 0;
    for (size_t i = 0; i < vocabulary->size; i++) entries += vocabulary->token[i].in_model;
    DF_TRY(slots_for(entries, &slots));
    df_free(vocabulary->slot);
    DF_TRY(DF_NEW(vocabulary->slot, slots));
    vocabulary->mask = slots - 1;
    for (size_t i = 0; i < vocabulary->size; i++) {
        const df_token *token = &vocabulary->token[i];
        if (token->in_model)
            *text_slot(vocabulary, vocabulary->text.at + token->form, token->form_bytes) =
                (uint32_t)i + 1;
    }
    return DF_OK;
}

uint32_t df_vocabulary_find(const df_vocabulary *vocabulary, const char *text, size_t n) {
    uint32_t slot = *text_slot(vocabulary, text, n);
    return slot == 0 ? DF_NO_ID : slot - 1;
}
