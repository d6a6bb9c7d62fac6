/* From a parsed tokenizer.json to a tokenizer: vocabulary, merges, template, in the order they
 * depend on. */
#include "tokenizer_parts.h"

#include <string.h>

// Ids far beyond the number of tokens are damage, and would make the tables huge.
#define SPARE_IDS 100000

// ---- vocabulary

static df_status check_id(int64_t id, size_t entries, const char *content, size_t *size) {
    if (id < 0 || (uint64_t)id > 4 * (uint64_t)entries + SPARE_IDS)
        return df_fail(DF_BAD_INPUT, "token \"%.80s\" has the id %lld, out of range for %zu tokens",
                       content, (long long)id, entries);
    if ((size_t)id + 1 > *size) *size = (size_t)id + 1;
    return DF_OK;
}

static df_status measure(json_t *vocab, const json_t *added, size_t *size) {
    size_t entries = json_object_size(vocab) + json_array_size(added);
    const char *content;
    json_t *value;
    json_object_foreach(vocab, content, value) {
        if (!json_is_integer(value))
            return df_fail(DF_BAD_INPUT, "the id of \"%.80s\" is not an integer", content);
        DF_TRY(check_id(json_integer_value(value), entries, content, size));
    }
    for (size_t i = 0; i < json_array_size(added); i++) {
        int64_t id;
        DF_TRY(df_json_int(json_array_get(added, i), "added_tokens", "id", &id));
        DF_TRY(check_id(id, entries, "of added_tokens", size));
    }
    return DF_OK;
}

static df_status load_vocabulary(df_vocabulary *vocabulary, const json_t *model,
                                 const json_t *added) {
    DF_TRY(df_bytes_reserve(&vocabulary->text, 1)); // never null, even when the only entry is empty
    json_t *vocab = json_object_get(model, "vocab"), *value;
    const char *content;
    if (!json_is_object(vocab) || json_object_size(vocab) == 0)
        return df_fail(DF_BAD_INPUT, "model: vocab is missing or empty");
    DF_TRY(measure(vocab, added, &vocabulary->size));
    DF_TRY(DF_NEW(vocabulary->token, vocabulary->size));
    json_object_foreach(vocab, content, value) {
        df_token *token = &vocabulary->token[json_integer_value(value)];
        if (token->in_model)
            return df_fail(DF_BAD_INPUT, "model: two tokens have the id %lld, one is \"%.80s\"",
                           (long long)json_integer_value(value), content);
        token->in_model = true;
        token->form = (uint32_t)vocabulary->text.count;
        token->form_bytes = (uint32_t)strlen(content);
        DF_TRY(df_bytes_add(&vocabulary->text, content, token->form_bytes));
    }
    return df_vocabulary_index(vocabulary);
}

// ---- merges

typedef struct text_range {
    const char *at;
    size_t bytes;
} text_range;

// "a b" or ["a", "b"].
static bool read_merge(const json_t *merge, text_range *left, text_range *right) {
    if (json_is_string(merge)) {
        const char *text = json_string_value(merge), *space = strchr(text, ' ');
        if (space == NULL || strchr(space + 1, ' ') != NULL) return false;
        *left = (text_range){text, (size_t)(space - text)};
        *right = (text_range){space + 1, strlen(space + 1)};
        return true;
    }
    const json_t *a = json_array_get(merge, 0), *b = json_array_get(merge, 1);
    if (json_array_size(merge) != 2 || !json_is_string(a) || !json_is_string(b)) return false;
    *left = (text_range){json_string_value(a), json_string_length(a)};
    *right = (text_range){json_string_value(b), json_string_length(b)};
    return true;
}

static df_status known_token(const df_vocabulary *vocabulary, text_range text, size_t number,
                             uint32_t *id) {
    *id = df_vocabulary_find(vocabulary, text.at, text.bytes);
    if (*id != DF_NO_ID) return DF_OK;
    return df_fail(DF_BAD_INPUT, "merge %zu needs \"%.*s\", which is not in the vocabulary", number,
                   (int)(text.bytes < 80 ? text.bytes : 80), text.at);
}

static df_status add_merge(df_bpe *bpe, const df_vocabulary *vocabulary, const json_t *merge,
                           size_t number, df_bytes *joined) {
    text_range left, right;
    uint32_t a, b, both;
    if (!read_merge(merge, &left, &right))
        return df_fail(DF_BAD_INPUT, "merge %zu is neither \"a b\" nor [a, b]", number);
    DF_TRY(known_token(vocabulary, left, number, &a));
    DF_TRY(known_token(vocabulary, right, number, &b));
    size_t cut = strlen(bpe->prefix); // the right one does not start the merged token
    if (right.bytes < cut)
        return df_fail(DF_BAD_INPUT, "merge %zu: \"%.*s\" is shorter than the prefix \"%s\"",
                       number, (int)right.bytes, right.at, bpe->prefix);
    joined->count = 0;
    DF_TRY(df_bytes_add(joined, left.at, left.bytes));
    DF_TRY(df_bytes_add(joined, right.at + cut, right.bytes - cut));
    DF_TRY(known_token(vocabulary, (text_range){joined->at, joined->count}, number, &both));
    if (df_mark_after(joined->at, joined->count) < joined->count) bpe->cut_at_marks = false;
    df_pair_map_put(&bpe->merges, (uint64_t)a << 32 | b, (uint32_t)number, both);
    return DF_OK;
}

static df_status load_merges(df_bpe *bpe, const df_vocabulary *vocabulary, const json_t *model) {
    const json_t *merges = json_object_get(model, "merges"), *first = json_array_get(merges, 0);
    df_bytes joined = {0};
    df_status status = DF_OK;
    if (!json_is_array(merges))
        return df_fail(DF_BAD_INPUT, "model: merges is missing or not a list");
    DF_TRY(df_pair_map_new(&bpe->merges, json_array_size(merges)));
    uint32_t mark = df_vocabulary_find(vocabulary, "\xe2\x96\x81", 3);
    bpe->cut_at_marks =
        mark != DF_NO_ID && !bpe->ignore_merges && *bpe->prefix == '\0' && *bpe->suffix == '\0';
    bool headed = json_is_string(first) && strncmp(json_string_value(first), "#version", 8) == 0;
    for (size_t i = headed ? 1 : 0; i < json_array_size(merges); i++)
        DF_GO(add_merge(bpe, vocabulary, json_array_get(merges, i), i, &joined));
done:
    df_free(joined.at);
    return status;
}

// ---- the model's settings

// A prefix or suffix; they must be ASCII, which is spelled alike in bytes and in characters.
static df_status load_affix(const json_t *model, const char *key, char **out) {
    const char *text;
    DF_TRY(df_json_text_or(model, "model", key, "", &text));
    for (const char *p = text; *p != '\0'; p++)
        if (*p <= ' ' || *p > '~')
            return df_fail(DF_BAD_INPUT, "model: %s \"%s\" is not supported: not printable ASCII",
                           key, text);
    *out = df_strdup(text);
    return *out != NULL ? DF_OK : DF_FAILED;
}

static df_status load_settings(df_bpe *bpe, const df_vocabulary *vocabulary, const json_t *model) {
    const char *unknown;
    double dropout;
    DF_TRY(load_affix(model, "continuing_subword_prefix", &bpe->prefix));
    DF_TRY(load_affix(model, "end_of_word_suffix", &bpe->suffix));
    DF_TRY(df_json_real_or(model, "model", "dropout", 0, &dropout));
    if (dropout != 0) return df_fail(DF_BAD_INPUT, "model: dropout %g is not supported", dropout);
    DF_TRY(df_json_bool_or(model, "model", "byte_fallback", false, &bpe->byte_fallback));
    DF_TRY(df_json_bool_or(model, "model", "fuse_unk", false, &bpe->fuse_unknown));
    DF_TRY(df_json_bool_or(model, "model", "ignore_merges", false, &bpe->ignore_merges));
    if (bpe->byte_fallback && (*bpe->prefix != '\0' || *bpe->suffix != '\0'))
        return df_fail(DF_BAD_INPUT, "model: byte_fallback beside a prefix or suffix of tokens is "
                                     "not supported");
    DF_TRY(df_json_text_or(model, "model", "unk_token", NULL, &unknown));
    bpe->unknown = DF_NO_ID;
    if (unknown == NULL) return DF_OK;
    bpe->unknown = df_vocabulary_find(vocabulary, unknown, strlen(unknown));
    if (bpe->unknown == DF_NO_ID)
        return df_fail(DF_BAD_INPUT, "model: unk_token \"%s\" is not in the vocabulary", unknown);
    return DF_OK;
}

static void load_fallback(df_bpe *bpe, const df_vocabulary *vocabulary) {
    for (unsigned byte = 0; byte < 256; byte++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", byte);
        bpe->fallback[byte] = df_vocabulary_find(vocabulary, name, 6);
    }
}

static df_status load_model(df_tokenizer *tokenizer, const json_t *root) {
    const json_t *model = json_object_get(root, "model"),
                 *added = json_object_get(root, "added_tokens");
    df_vocabulary *vocabulary = &tokenizer->vocabulary;
    const char *type;
    if (!json_is_object(model)) return df_fail(DF_BAD_INPUT, "model is missing or not an object");
    if (added != NULL && !json_is_null(added) && !json_is_array(added))
        return df_fail(DF_BAD_INPUT, "added_tokens is not a list");
    DF_TRY(df_json_text_or(model, "model", "type", "BPE", &type));
    if (strcmp(type, "BPE") != 0)
        return df_fail(DF_BAD_INPUT, "model \"%s\" is not supported; BPE is", type);
    DF_TRY(load_vocabulary(vocabulary, model, added));
    DF_TRY(load_settings(&tokenizer->bpe, vocabulary, model));
    DF_TRY(load_merges(&tokenizer->bpe, vocabulary, model));
    load_fallback(&tokenizer->bpe, vocabulary);
    return df_tokenizer_load_added(tokenizer, added);
}

// In a byte-level model the merges' texts become the bytes they spell; a token that spells none is
// out of reach.
static df_status spell_in_bytes(df_vocabulary *vocabulary) {
    df_bytes bytes = {0};
    df_status status = DF_OK;
    for (size_t i = 0; i < vocabulary->size; i++) {
        df_token *token = &vocabulary->token[i];
        const char *text = vocabulary->text.at + token->form;
        bool mapped;
        if (!token->in_model) continue;
        bytes.count = 0;
        DF_GO(df_chars_to_bytes(&bytes, text, token->form_bytes, &mapped));
        token->in_model = mapped;
        if (!mapped) continue;
        token->form = (uint32_t)vocabulary->text.count;
        token->form_bytes = (uint32_t)bytes.count;
        DF_GO(df_bytes_add(&vocabulary->text, bytes.at, bytes.count));
    }
    DF_GO(df_vocabulary_index(vocabulary));
done:
    df_free(bytes.at);
    return status;
}

static void load_units(df_bpe *bpe, const df_vocabulary *vocabulary) {
    for (unsigned byte = 0; byte < 256; byte++) {
        char unit = (char)(unsigned char)byte;
        bpe->unit[byte] = df_vocabulary_find(vocabulary, &unit, 1);
    }
}

// ---- the template

static df_status add_ids(uint32_t **ids, size_t *n, const json_t *list, size_t size) {
    size_t more = json_array_size(list);
    if (more == 0) return df_fail(DF_BAD_INPUT, "post_processor: a special token without ids");
    void *p = *ids;
    size_t capacity = *n;
    DF_TRY(df_grow(&p, &capacity, *n + more, sizeof **ids));
    *ids = p;
    for (size_t i = 0; i < more; i++) {
        const json_t *id = json_array_get(list, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            (uint64_t)json_integer_value(id) >= size)
            return df_fail(DF_BAD_INPUT, "post_processor: an id outside the vocabulary");
        (*ids)[(*n)++] = (uint32_t)json_integer_value(id);
    }
    return DF_OK;
}

static df_status load_template(df_tokenizer *tokenizer, const json_t *part) {
    const json_t *single = json_object_get(part, "single");
    const json_t *specials = json_object_get(part, "special_tokens");
    bool text_seen = false;
    if (!json_is_array(single))
        return df_fail(DF_BAD_INPUT, "post_processor TemplateProcessing: single is not a list");
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *item = json_array_get(single, i),
                     *special = json_object_get(item, "SpecialToken");
        if (special == NULL) {
            if (text_seen || json_object_get(item, "Sequence") == NULL)
                return df_fail(DF_BAD_INPUT,
                               "post_processor: the template's item %zu is not "
                               "supported",
                               i);
            text_seen = true;
            continue;
        }
        const char *name;
        DF_TRY(df_json_text(special, "post_processor", "id", &name));
        const json_t *ids = json_object_get(json_object_get(specials, name), "ids");
        DF_TRY(text_seen ? add_ids(&tokenizer->after, &tokenizer->n_after, ids,
                                   tokenizer->vocabulary.size)
                         : add_ids(&tokenizer->before, &tokenizer->n_before, ids,
                                   tokenizer->vocabulary.size));
    }
    return text_seen ? DF_OK : df_fail(DF_BAD_INPUT, "post_processor: the template has no text");
}

// BertProcessing and RobertaProcessing: ["<s>", 0] before the text, ["</s>", 2] after it.
static df_status load_ends(df_tokenizer *tokenizer, const json_t *part) {
    const json_t *first = json_array_get(json_object_get(part, "cls"), 1);
    const json_t *last = json_array_get(json_object_get(part, "sep"), 1);
    json_t *before = json_pack("[O?]", first), *after = json_pack("[O?]", last);
    size_t size = tokenizer->vocabulary.size;
    df_status status = add_ids(&tokenizer->before, &tokenizer->n_before, before, size);
    if (status == DF_OK) status = add_ids(&tokenizer->after, &tokenizer->n_after, after, size);
    json_decref(before);
    json_decref(after);
    return status;
}

static df_status load_post_processor(df_tokenizer *tokenizer, const json_t *part) {
    const char *type;
    if (part == NULL || json_is_null(part)) return DF_OK;
    if (!json_is_object(part)) return df_fail(DF_BAD_INPUT, "post_processor is not an object");
    DF_TRY(df_json_text(part, "post_processor", "type", &type));
    if (strcmp(type, "ByteLevel") == 0) return DF_OK; // concerns offsets only
    bool ends = strcmp(type, "BertProcessing") == 0 || strcmp(type, "RobertaProcessing") == 0;
    if (ends || strcmp(type, "TemplateProcessing") == 0) {
        if (tokenizer->n_before + tokenizer->n_after > 0)
            return df_fail(DF_BAD_INPUT, "post_processor: a second template is not supported");
        return ends ? load_ends(tokenizer, part) : load_template(tokenizer, part);
    }
    if (strcmp(type, "Sequence") != 0)
        return df_fail(DF_BAD_INPUT, "post_processor \"%s\" is not supported", type);
    const json_t *members = json_object_get(part, "processors");
    if (!json_is_array(members))
        return df_fail(DF_BAD_INPUT, "post_processor Sequence: processors is not a list");
    for (size_t i = 0; i < json_array_size(members); i++)
        DF_TRY(load_post_processor(tokenizer, json_array_get(members, i)));
    return DF_OK;
}

df_status df_tokenizer_load(df_tokenizer *tokenizer, const json_t *root) {
    if (!json_is_object(root)) return df_fail(DF_BAD_INPUT, "the file does not hold an object");
    DF_TRY(df_steps_normalizer(json_object_get(root, "normalizer"), &tokenizer->normalizer));
    DF_TRY(
        df_steps_pre_tokenizer(json_object_get(root, "pre_tokenizer"), &tokenizer->pre_tokenizer));
    DF_TRY(load_model(tokenizer, root));
    DF_TRY(load_post_processor(tokenizer, json_object_get(root, "post_processor")));
    DF_TRY(df_decoder_load(&tokenizer->decoder, json_object_get(root, "decoder")));
    DF_TRY(df_tokenizer_make_pieces(tokenizer));
    tokenizer->bpe.byte_level = df_steps_have(&tokenizer->pre_tokenizer, DF_STEP_BYTES);
    if (tokenizer->bpe.byte_level) DF_TRY(spell_in_bytes(&tokenizer->vocabulary));
    load_units(&tokenizer->bpe, &tokenizer->vocabulary);
    return DF_OK;
}
