/* Compiling the decoder of a tokenizer.json into a program of steps. */
#include "tokenizer_parts.h"

#include <string.h>

#define MOST_STRIPPED (1 << 20)
#define MOST_STEPS 32u // each reads every token of the vocabulary when the file is opened

static df_status add_step(df_decoder *decoder, df_decode_kind kind, df_decode_step **out) {
    if (decoder->count == MOST_STEPS)
        return df_fail(DF_BAD_INPUT, "decoder: more than %u steps are not supported", MOST_STEPS);
    if (decoder->count == decoder->capacity) {
        void *p = decoder->at;
        DF_TRY(df_grow(&p, &decoder->capacity, decoder->count + 4, sizeof *decoder->at));
        decoder->at = p;
    }
    *out = &decoder->at[decoder->count++];
    **out = (df_decode_step){.kind = kind};
    return DF_OK;
}

// A step about the text `from`, which `what` must give.
static df_status add_about(df_decoder *decoder, df_decode_kind kind, const char *what,
                           const char *from, df_decode_step **out) {
    if (*from == '\0') return df_fail(DF_BAD_INPUT, "decoder %s: its text is empty", what);
    DF_TRY(add_step(decoder, kind, out));
    (*out)->from = df_strdup(from);
    return (*out)->from != NULL ? DF_OK : DF_FAILED;
}

static df_status one_character(const char *text, const char *what) {
    if (*text != '\0' && df_utf8_length(*text) == strlen(text)) return DF_OK;
    return df_fail(DF_BAD_INPUT, "%s: \"%.40s\" is not one character", what, text);
}

/* ---- the kinds ------------------------------------------------------------------------------ */

static df_status replace_decoder(df_decoder *decoder, const json_t *part) {
    const char *from = NULL, *to;
    bool literal;
    df_decode_step *step = NULL;
    DF_TRY(df_json_text(part, "decoder Replace", "content", &to));
    DF_TRY(df_pattern_read(part, "decoder Replace", &from, &literal));
    DF_TRY(add_about(decoder, DF_DECODE_REPLACE, "Replace", from, &step));
    step->to = df_strdup(to);
    if (step->to == NULL) return DF_FAILED;
    return literal ? DF_OK : df_pattern_compile(from, false, &step->pattern);
}

static df_status strip_decoder(df_decoder *decoder, const json_t *part) {
    const char *text;
    int64_t start, stop;
    df_decode_step *step = NULL;
    DF_TRY(df_json_text(part, "decoder Strip", "content", &text));
    DF_TRY(df_json_int_or(part, "decoder Strip", "start", 0, &start));
    DF_TRY(df_json_int_or(part, "decoder Strip", "stop", 0, &stop));
    DF_TRY(one_character(text, "decoder Strip"));
    if (start < 0 || stop < 0 || start > MOST_STRIPPED || stop > MOST_STRIPPED)
        return df_fail(DF_BAD_INPUT, "decoder Strip: a count outside 0 to %d", MOST_STRIPPED);
    DF_TRY(add_about(decoder, DF_DECODE_STRIP, "Strip", text, &step));
    step->start = (size_t)start;
    step->stop = (size_t)stop;
    return DF_OK;
}

static df_status metaspace_decoder(df_decoder *decoder, const json_t *part) {
    const char *mark, *scheme;
    df_decode_step *step = NULL;
    DF_TRY(df_json_text_or(part, "decoder Metaspace", "replacement", "\xe2\x96\x81", &mark));
    DF_TRY(df_metaspace_scheme(part, "decoder Metaspace", &scheme));
    DF_TRY(one_character(mark, "decoder Metaspace"));
    DF_TRY(add_about(decoder, DF_DECODE_METASPACE, "Metaspace", mark, &step));
    step->first = strcmp(scheme, "never") != 0;
    return DF_OK;
}

static df_status suffix_decoder(df_decoder *decoder, const json_t *part) {
    const char *suffix;
    df_decode_step *step = NULL;
    DF_TRY(df_json_text_or(part, "decoder BPEDecoder", "suffix", "</w>", &suffix));
    return add_about(decoder, DF_DECODE_SUFFIX, "BPEDecoder", suffix, &step);
}

static df_status word_piece_decoder(df_decoder *decoder, const json_t *part) {
    const char *prefix;
    df_decode_step *step = NULL;
    DF_TRY(df_json_text_or(part, "decoder WordPiece", "prefix", "##", &prefix));
    DF_TRY(add_about(decoder, DF_DECODE_WORD_PIECE, "WordPiece", prefix, &step));
    return df_json_bool_or(part, "decoder WordPiece", "cleanup", true, &step->cleanup);
}

static df_status byte_level_decoder(df_decoder *decoder, const json_t *part) {
    df_decode_step *step = NULL;
    (void)part;
    return add_step(decoder, DF_DECODE_BYTE_LEVEL, &step);
}

static df_status byte_fallback_decoder(df_decoder *decoder, const json_t *part) {
    df_decode_step *step = NULL;
    (void)part;
    return add_step(decoder, DF_DECODE_BYTE_FALLBACK, &step);
}

static df_status fuse_decoder(df_decoder *decoder, const json_t *part) {
    df_decode_step *step = NULL;
    (void)part;
    return add_step(decoder, DF_DECODE_FUSE, &step);
}

/* ---- dispatch ------------------------------------------------------------------------------- */

static const struct {
    const char *type;
    df_status (*compile)(df_decoder *decoder, const json_t *part);
} kinds[] = {{"ByteLevel", byte_level_decoder},
             {"ByteFallback", byte_fallback_decoder},
             {"Fuse", fuse_decoder},
             {"Replace", replace_decoder},
             {"Strip", strip_decoder},
             {"Metaspace", metaspace_decoder},
             {"BPEDecoder", suffix_decoder},
             {"WordPiece", word_piece_decoder}};

df_status df_decoder_load(df_decoder *decoder, const json_t *part) {
    const char *type;
    if (part == NULL || json_is_null(part)) return DF_OK;
    if (!json_is_object(part)) return df_fail(DF_BAD_INPUT, "decoder is not an object");
    DF_TRY(df_json_text(part, "decoder", "type", &type));
    decoder->present = true;
    if (strcmp(type, "Sequence") == 0) {
        const json_t *members = json_object_get(part, "decoders");
        if (!json_is_array(members))
            return df_fail(DF_BAD_INPUT, "decoder Sequence: decoders is not a list");
        for (size_t i = 0; i < json_array_size(members); i++)
            DF_TRY(df_decoder_load(decoder, json_array_get(members, i)));
        return DF_OK;
    }
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(type, kinds[i].type) == 0) return kinds[i].compile(decoder, part);
    return df_fail(DF_BAD_INPUT, "decoder \"%s\" is not supported", type);
}

void df_decoder_free(df_decoder *decoder) {
    for (size_t i = 0; i < decoder->count; i++) {
        df_free(decoder->at[i].from);
        df_free(decoder->at[i].to);
        pcre2_code_free(decoder->at[i].pattern);
    }
    df_free(decoder->at);
    *decoder = (df_decoder){0};
}
