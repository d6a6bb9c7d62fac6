/* The decoder of a tokenizer.json: what single tokens show, and how a text is put together from
 * them. */
#include "tokenizer_parts.h"

#include <string.h>
#include <utf8proc.h>

#define REPLACEMENT "\xef\xbf\xbd"

// ---- reading

static df_status add_replacement(df_decoder *decoder, const char *from, const char *to) {
    size_t at = decoder->replacements;
    if (*from == '\0') return df_fail(DF_BAD_INPUT, "decoder Replace: the pattern is empty");
    if (at == sizeof decoder->from / sizeof *decoder->from)
        return df_fail(DF_BAD_INPUT, "decoder: more than %zu replacements", at);
    decoder->replacements++;
    decoder->from[at] = df_strdup(from);
    decoder->to[at] = df_strdup(to);
    return decoder->from[at] != NULL && decoder->to[at] != NULL ? DF_OK : DF_FAILED;
}

static df_status replace_decoder(df_decoder *decoder, const json_t *part) {
    const json_t *from = json_object_get(json_object_get(part, "pattern"), "String");
    const char *to;
    DF_TRY(df_json_text(part, "decoder Replace", "content", &to));
    if (!json_is_string(from))
        return df_fail(DF_BAD_INPUT, "decoder Replace: only a String pattern is supported");
    return add_replacement(decoder, json_string_value(from), to);
}

static df_status set_strip(df_decoder *decoder, const char *text, int64_t start, int64_t stop) {
    if (start < 0 || stop < 0) return df_fail(DF_BAD_INPUT, "decoder Strip: a negative count");
    if (decoder->strip != NULL) return df_fail(DF_BAD_INPUT, "decoder: a second Strip");
    decoder->strip = df_strdup(text);
    decoder->strip_start = (size_t)start;
    decoder->strip_stop = (size_t)stop;
    return decoder->strip != NULL ? DF_OK : DF_FAILED;
}

static df_status strip_decoder(df_decoder *decoder, const json_t *part) {
    const char *text;
    int64_t start, stop;
    DF_TRY(df_json_text(part, "decoder Strip", "content", &text));
    DF_TRY(df_json_int_or(part, "decoder Strip", "start", 0, &start));
    DF_TRY(df_json_int_or(part, "decoder Strip", "stop", 0, &stop));
    return set_strip(decoder, text, start, stop);
}

static df_status metaspace_decoder(df_decoder *decoder, const json_t *part) {
    const char *mark, *scheme;
    DF_TRY(df_json_text_or(part, "decoder Metaspace", "replacement", "\xe2\x96\x81", &mark));
    DF_TRY(df_json_text_or(part, "decoder Metaspace", "prepend_scheme", "always", &scheme));
    DF_TRY(add_replacement(decoder, mark, " "));
    return strcmp(scheme, "never") == 0 ? DF_OK : set_strip(decoder, " ", 1, 0);
}

df_status df_decoder_load(df_decoder *decoder, const json_t *part) {
    const char *type;
    if (part == NULL || json_is_null(part)) return DF_OK;
    if (!json_is_object(part)) return df_fail(DF_BAD_INPUT, "decoder is not an object");
    DF_TRY(df_json_text(part, "decoder", "type", &type));
    if (strcmp(type, "Sequence") == 0) {
        const json_t *members = json_object_get(part, "decoders");
        if (!json_is_array(members))
            return df_fail(DF_BAD_INPUT, "decoder Sequence: decoders is not a list");
        for (size_t i = 0; i < json_array_size(members); i++)
            DF_TRY(df_decoder_load(decoder, json_array_get(members, i)));
        return DF_OK;
    }
    if (strcmp(type, "Replace") == 0) return replace_decoder(decoder, part);
    if (strcmp(type, "Strip") == 0) return strip_decoder(decoder, part);
    if (strcmp(type, "Metaspace") == 0) return metaspace_decoder(decoder, part);
    if (strcmp(type, "ByteLevel") == 0)
        decoder->byte_level = true;
    else if (strcmp(type, "ByteFallback") == 0)
        decoder->byte_fallback = true;
    else if (strcmp(type, "Fuse") != 0)
        return df_fail(DF_BAD_INPUT, "decoder \"%s\" is not supported", type);
    return DF_OK;
}

// ---- pieces

static df_status replace_all(df_bytes *out, const char *from, const char *to, df_bytes *work) {
    size_t n = strlen(from), m = strlen(to), i = 0;
    work->count = 0;
    while (i < out->count) {
        bool hit = i + n <= out->count && memcmp(out->at + i, from, n) == 0;
        DF_TRY(hit ? df_bytes_add(work, to, m) : df_bytes_add(work, out->at + i, 1));
        i += hit ? n : 1;
    }
    df_bytes swap = *out;
    *out = *work;
    *work = swap;
    return DF_OK;
}

// The byte of "<0x1F>", -1 for other texts.
static int byte_of(const char *text, size_t n) {
    static const char digits[] = "0123456789ABCDEF";
    if (n != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>' || text[3] == '\0' ||
        text[4] == '\0')
        return -1;
    const char *high = strchr(digits, text[3]), *low = strchr(digits, text[4]);
    return high == NULL || low == NULL ? -1 : (int)(16 * (high - digits) + (low - digits));
}

static df_status show(const df_decoder *decoder, df_token *token, const char *text, df_bytes *out,
                      df_bytes *work) {
    size_t n = token->form_bytes;
    int byte = byte_of(text, n);
    bool mapped = false;
    out->count = 0;
    if (token->added) return df_bytes_add(out, text, n);
    if (decoder->byte_level) DF_TRY(df_chars_to_bytes(out, text, n, &mapped));
    if (mapped) return DF_OK;
    token->is_byte = decoder->byte_fallback && byte >= 0;
    if (token->is_byte) {
        char raw = (char)(unsigned char)byte;
        return df_bytes_add(out, &raw, 1);
    }
    DF_TRY(df_bytes_add(out, text, n));
    for (size_t i = 0; i < decoder->replacements; i++)
        DF_TRY(replace_all(out, decoder->from[i], decoder->to[i], work));
    return DF_OK;
}

df_status df_tokenizer_make_pieces(df_tokenizer *tokenizer) {
    df_vocabulary *vocabulary = &tokenizer->vocabulary;
    df_bytes piece = {0}, work = {0};
    df_status status = DF_OK;
    for (size_t i = 0; i < vocabulary->size; i++) {
        df_token *token = &vocabulary->token[i];
        if (!token->in_model && !token->added) continue;
        const char *text = vocabulary->text.at + token->form;
        DF_GO(show(&tokenizer->decoder, token, text, &piece, &work));
        if (vocabulary->text.count + piece.count >= UINT32_MAX)
            DF_GO(df_fail(DF_BAD_INPUT, "decoder: the decoded tokens take more than 4 GiB"));
        token->piece = (uint32_t)vocabulary->text.count;
        token->piece_bytes = (uint32_t)piece.count;
        DF_GO(df_bytes_add(&vocabulary->text, piece.at, piece.count));
        DF_GO(df_bytes_add(&vocabulary->text, "", 1));
    }
done:
    df_free(piece.at);
    df_free(work.at);
    return status;
}

const char *df_tokenizer_piece(const df_tokenizer *tokenizer, uint32_t id, size_t *bytes) {
    const df_vocabulary *vocabulary = &tokenizer->vocabulary;
    *bytes = id < vocabulary->size ? vocabulary->token[id].piece_bytes : 0;
    return *bytes > 0 ? vocabulary->text.at + vocabulary->token[id].piece : "";
}

// ---- texts

// A run of byte tokens is a text when it is valid, else one U+FFFD a byte.
static df_status end_run(df_bytes *out, size_t start) {
    size_t n = out->count - start;
    if (df_utf8_valid(out->at + start, n) == n) return DF_OK;
    out->count = start;
    for (size_t i = 0; i < n; i++) DF_TRY(df_bytes_add(out, REPLACEMENT, 3));
    return DF_OK;
}

static df_status join(const df_tokenizer *tokenizer, const uint32_t *ids, size_t n,
                      bool skip_special, df_bytes *out) {
    const df_vocabulary *vocabulary = &tokenizer->vocabulary;
    bool in_run = false;
    size_t start = 0;
    for (size_t i = 0; i < n; i++) {
        bool known = ids[i] < vocabulary->size;
        if (known && skip_special && vocabulary->token[ids[i]].special) continue;
        bool is_byte = known && vocabulary->token[ids[i]].is_byte;
        if (is_byte && !in_run) start = out->count;
        if (in_run && !is_byte) DF_TRY(end_run(out, start));
        in_run = is_byte;
        size_t bytes;
        const char *piece = df_tokenizer_piece(tokenizer, ids[i], &bytes);
        DF_TRY(df_bytes_add(out, piece, bytes));
    }
    return in_run ? end_run(out, start) : DF_OK;
}

// How much of text is the start of a character cut short: what one U+FFFD stands for (at least one
// byte).
static size_t broken_length(const char *text, size_t n) {
    unsigned char lead = (unsigned char)text[0], second = n > 1 ? (unsigned char)text[1] : 0;
    if (lead < 0xc2 || lead > 0xf4) return 1;
    unsigned char low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    unsigned char high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    if (n < 2 || second < low || second > high) return 1;
    size_t length = df_utf8_length(text[0]), i = 2;
    while (i < length && i < n && ((unsigned char)text[i] & 0xc0) == 0x80) i++;
    return i;
}

static df_status repair(const df_bytes *in, df_bytes *out) {
    for (size_t i = 0; i < in->count;) {
        size_t good = df_utf8_valid(in->at + i, in->count - i);
        DF_TRY(df_bytes_add(out, in->at + i, good));
        i += good;
        if (i == in->count) break;
        DF_TRY(df_bytes_add(out, REPLACEMENT, 3));
        i += broken_length(in->at + i, in->count - i);
    }
    return df_bytes_add(out, "", 1);
}

static void strip(const df_decoder *decoder, df_bytes *text) {
    size_t n = decoder->strip != NULL ? strlen(decoder->strip) : 0, start = 0;
    size_t length = text->count - 1; // the zero at the end
    if (n == 0) return;
    for (size_t i = 0; i < decoder->strip_start && length - start >= n; i++, start += n)
        if (memcmp(text->at + start, decoder->strip, n) != 0) break;
    for (size_t i = 0; i < decoder->strip_stop && length - start >= n; i++, length -= n)
        if (memcmp(text->at + length - n, decoder->strip, n) != 0) break;
    memmove(text->at, text->at + start, length - start);
    text->count = length - start + 1;
    text->at[length - start] = '\0';
}

df_status df_tokenizer_decode(const df_tokenizer *tokenizer, const uint32_t *ids, size_t n,
                              bool skip_special, char **text, size_t *bytes) {
    df_bytes raw = {0}, good = {0};
    df_status status = join(tokenizer, ids, n, skip_special, &raw);
    if (status == DF_OK) status = repair(&raw, &good);
    df_free(raw.at);
    if (status != DF_OK) {
        df_free(good.at);
        return status;
    }
    strip(&tokenizer->decoder, &good);
    *text = good.at;
    *bytes = good.count - 1;
    return DF_OK;
}
