/* Added tokens: a trie searched leftmost-longest, and the list of a tokenizer.json that fills it.
 */
#include "tokenizer_parts.h"

#include <string.h>
#include <utf8proc.h>

// ---- the trie: node 0 is the root; an edge's slot holds the child and the number of the token
// ending there

static df_status insert(df_added *added, const df_bytes *content, size_t number, uint32_t *nodes) {
    uint32_t node = 0;
    for (size_t i = 0; i < content->count; i++) {
        uint64_t key = (uint64_t)node << 8 | (unsigned char)content->at[i];
        const df_pair_slot *edge = df_pair_map_get(&added->edges, key);
        uint32_t child = edge != NULL ? edge->id : ++*nodes, rank = edge != NULL ? edge->rank : 0;
        if (i + 1 == content->count) rank = (uint32_t)number + 1;
        df_pair_map_put(&added->edges, key, rank, child);
        node = child;
    }
    added->first[(unsigned char)content->at[0]] = true;
    added->empty = false;
    return DF_OK;
}

df_status df_added_build(df_added *added, const df_added_token *tokens, const df_bytes *contents,
                         size_t n) {
    size_t bytes = 0;
    uint32_t nodes = 0;
    for (size_t i = 0; i < n; i++) bytes += contents[i].count;
    added->tokens = tokens;
    added->empty = true;
    DF_TRY(df_pair_map_new(&added->edges, bytes));
    for (size_t i = 0; i < n; i++)
        if (contents[i].count > 0) DF_TRY(insert(added, &contents[i], i, &nodes));
    return DF_OK;
}

// The number + 1 of the longest token that starts at text[0]; 0: none.
static uint32_t longest(const df_added *added, const char *text, size_t n, size_t *length) {
    uint32_t node = 0, best = 0;
    for (size_t i = 0; i < n; i++) {
        const df_pair_slot *edge =
            df_pair_map_get(&added->edges, (uint64_t)node << 8 | (unsigned char)text[i]);
        if (edge == NULL) break;
        node = edge->id;
        if (edge->rank == 0) continue;
        best = edge->rank;
        *length = i + 1;
    }
    return best;
}

// ---- what surrounds a match

static int32_t code_after(const char *text, size_t n, size_t at, size_t *length) {
    utf8proc_int32_t code = 0;
    *length = 0;
    if (at >= n) return -1;
    utf8proc_ssize_t used =
        utf8proc_iterate((const utf8proc_uint8_t *)text + at, (utf8proc_ssize_t)(n - at), &code);
    if (used <= 0) return -1;
    *length = (size_t)used;
    return code;
}

static int32_t code_before(const char *text, size_t at, size_t *length) {
    size_t start = at;
    while (start > 0 && ((unsigned char)text[--start] & 0xc0) == 0x80) {
    }
    return code_after(text, at, start, length);
}

static bool stands_alone(const char *text, size_t n, size_t begin, size_t end) {
    size_t length;
    int32_t before = code_before(text, begin, &length), after = code_after(text, n, end, &length);
    return !(before >= 0 && df_is_word(before)) && !(after >= 0 && df_is_word(after));
}

static void eat_spaces(const df_added_token *token, const char *text, size_t n, size_t floor,
                       df_added_match *match) {
    size_t length;
    while (token->left_strip && match->begin > floor &&
           df_is_space(code_before(text, match->begin, &length)))
        match->begin = match->begin - length > floor ? match->begin - length : floor;
    while (token->right_strip && df_is_space(code_after(text, n, match->end, &length)))
        match->end += length;
}

bool df_added_next(const df_added *added, const char *text, size_t n, size_t from,
                   df_added_match *match) {
    if (added->empty) return false;
    for (size_t i = from; i < n; i++) {
        if (!added->first[(unsigned char)text[i]]) continue;
        size_t length = 0;
        uint32_t number = longest(added, text + i, n - i, &length);
        if (number == 0) continue;
        const df_added_token *token = &added->tokens[number - 1];
        if (token->single_word && !stands_alone(text, n, i, i + length)) {
            i += length - 1;
            continue;
        }
        *match = (df_added_match){i, i + length, token->id};
        eat_spaces(token, text, n, from, match);
        return true;
    }
    return false;
}

// ---- the list in the file

static df_status read_added(const json_t *item, df_added_token *token, bool *special) {
    int64_t id;
    const char *content;
    if (!json_is_object(item))
        return df_fail(DF_BAD_INPUT, "an entry of added_tokens is not an object");
    DF_TRY(df_json_int(item, "added_tokens", "id", &id));
    DF_TRY(df_json_text(item, "added_tokens", "content", &content));
    DF_TRY(df_json_bool_or(item, "added_tokens", "special", false, special));
    DF_TRY(df_json_bool_or(item, "added_tokens", "single_word", false, &token->single_word));
    DF_TRY(df_json_bool_or(item, "added_tokens", "lstrip", false, &token->left_strip));
    DF_TRY(df_json_bool_or(item, "added_tokens", "rstrip", false, &token->right_strip));
    DF_TRY(df_json_bool_or(item, "added_tokens", "normalized", !*special, &token->normalized));
    token->id = (uint32_t)id; // the loader has checked that all ids are small
    token->content = df_strdup(content);
    return token->content != NULL ? DF_OK : DF_FAILED;
}

// Gives the token its id, or finds that the id and the content do not belong together.
static df_status place(df_vocabulary *vocabulary, const df_added_token *token, bool special) {
    size_t bytes = strlen(token->content);
    uint32_t known = df_vocabulary_find(vocabulary, token->content, bytes);
    df_token *entry = &vocabulary->token[token->id];
    bool same = (entry->in_model || entry->added) && entry->form_bytes == bytes &&
                memcmp(vocabulary->text.at + entry->form, token->content, bytes) == 0;
    if (known != DF_NO_ID && known != token->id)
        return df_fail(DF_BAD_INPUT, "added token \"%s\" has id %u, but %u in the vocabulary",
                       token->content, (unsigned)token->id, (unsigned)known);
    if ((entry->in_model || entry->added) && !same)
        return df_fail(DF_BAD_INPUT, "added token \"%s\" has the id %u of another token",
                       token->content, (unsigned)token->id);
    if (!same) {
        entry->form = (uint32_t)vocabulary->text.count;
        entry->form_bytes = (uint32_t)bytes;
        DF_TRY(df_bytes_add(&vocabulary->text, token->content, bytes));
    }
    entry->added = true;
    entry->special = special;
    return DF_OK;
}

// Normalized tokens are looked for in normalized text, so their content is normalized too.
static df_status search_text(const df_steps *normalizer, const df_added_token *token, df_pass *pass,
                             df_bytes *out) {
    size_t n = strlen(token->content);
    df_view view = {token->content, NULL, 0, n};
    if (n == 0) return DF_OK;
    if (token->normalized) {
        pass->pieces.count = 0;
        DF_TRY(df_spans_add(&pass->pieces, 0, n));
        DF_TRY(df_pass_run(pass, normalizer, &view));
    }
    return df_bytes_add(out, view.text, view.bytes);
}

static df_status build_tries(df_tokenizer *tokenizer, df_pass *pass, df_bytes *contents) {
    size_t n = tokenizer->n_added; // contents [2, n]: raw, then normalized
    for (size_t i = 0; i < n; i++) {
        const df_added_token *token = &tokenizer->added[i];
        df_bytes *content = &contents[token->normalized ? n + i : i];
        DF_TRY(search_text(&tokenizer->normalizer, token, pass, content));
    }
    DF_TRY(df_added_build(&tokenizer->raw, tokenizer->added, contents, n));
    return df_added_build(&tokenizer->normalized, tokenizer->added, contents + n, n);
}

df_status df_tokenizer_load_added(df_tokenizer *tokenizer, const json_t *list) {
    size_t n = json_array_size(list);
    df_pass pass = {0};
    df_bytes *contents = NULL;
    df_status status = DF_OK;
    DF_TRY(DF_NEW(tokenizer->added, n));
    for (size_t i = 0; i < n; i++) {
        bool special;
        df_added_token *token = &tokenizer->added[i];
        tokenizer->n_added = i + 1;
        DF_TRY_AS(read_added(json_array_get(list, i), token, &special), "reading added token %zu",
                  i);
        DF_TRY(place(&tokenizer->vocabulary, token, special));
    }
    DF_GO(DF_NEW(contents, 2 * n));
    DF_GO(build_tries(tokenizer, &pass, contents));
done:
    for (size_t i = 0; contents != NULL && i < 2 * n; i++) df_free(contents[i].at);
    df_free(contents);
    df_pass_free(&pass);
    return status;
}
