/* Running a decoder: each step reads a list of texts and writes another. */
#include "tokenizer_parts.h"

#include <string.h>

#define REPLACEMENT "\xef\xbf\xbd"
#define MOST_OF_A_TOKEN (1u << 20) // bytes that one token shows: more is damage

static size_t part_of(const df_texts *texts, size_t i, const char **text) {
    *text = texts->text.at != NULL ? texts->text.at + texts->parts.at[i].begin : "";
    return texts->parts.at[i].end - texts->parts.at[i].begin;
}

static df_status put(df_decode_run *run, const char *text, size_t n) {
    size_t most = run->inside ? MOST_OF_A_TOKEN : UINT32_MAX;
    if (n > most - run->out.text.count)
        return df_fail(DF_BAD_INPUT, "decoder: a %s grows beyond %zu bytes",
                       run->inside ? "token" : "text", most);
    return df_bytes_add(&run->out.text, text, n);
}

// Ends the text that began at `begin`.
static df_status end_part(df_decode_run *run, size_t begin) {
    return df_spans_add(&run->out.parts, begin, run->out.text.count);
}

/* ---- bytes ---------------------------------------------------------------------------------- */

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

static df_status put_repaired(df_decode_run *run, const char *text, size_t n) {
    for (size_t i = 0; i < n;) {
        size_t good = df_utf8_valid(text + i, n - i);
        DF_TRY(put(run, text + i, good));
        i += good;
        if (i == n) break;
        DF_TRY(put(run, REPLACEMENT, 3));
        i += broken_length(text + i, n - i);
    }
    return DF_OK;
}

static df_status byte_level(df_decode_run *run) {
    run->work.count = 0;
    for (size_t i = 0; i < run->in.parts.count; i++) {
        const char *text;
        size_t n = part_of(&run->in, i, &text);
        bool mapped;
        DF_TRY(df_chars_to_bytes(&run->work, text, n, &mapped));
        if (!mapped) DF_TRY(df_bytes_add(&run->work, text, n));
    }
    DF_TRY((run->inside ? put : put_repaired)(run, run->work.at, run->work.count));
    return end_part(run, 0);
}

static int hex_of(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

// The byte of "<0x1F>", -1 for other texts.
static int byte_of(const char *text, size_t n) {
    if (n != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>') return -1;
    int high = hex_of(text[3]), low = hex_of(text[4]);
    return high < 0 || low < 0 ? -1 : 16 * high + low;
}

// A run of bytes is a text when it is valid, else one U+FFFD a byte.
static df_status end_run(df_decode_run *run) {
    size_t n = run->work.count, begin = run->out.text.count;
    run->work.count = 0;
    if (n == 0) return DF_OK;
    bool good = run->inside || df_utf8_valid(run->work.at, n) == n;
    if (good) DF_TRY(put(run, run->work.at, n));
    if (good) return end_part(run, begin);
    for (size_t i = 0; i < n; i++) {
        DF_TRY(put(run, REPLACEMENT, 3));
        DF_TRY(end_part(run, run->out.text.count - 3));
    }
    return DF_OK;
}

static df_status byte_fallback(df_decode_run *run) {
    run->work.count = 0;
    for (size_t i = 0; i < run->in.parts.count; i++) {
        const char *text;
        size_t n = part_of(&run->in, i, &text), begin;
        int byte = byte_of(text, n);
        char raw = (char)(unsigned char)byte;
        if (byte >= 0) {
            DF_TRY(df_bytes_add(&run->work, &raw, 1));
            continue;
        }
        DF_TRY(end_run(run));
        begin = run->out.text.count;
        DF_TRY(put(run, text, n));
        DF_TRY(end_part(run, begin));
    }
    return end_run(run);
}

/* ---- replacing ------------------------------------------------------------------------------ */

static df_status replace_text(df_decode_run *run, const char *text, size_t n, const char *from,
                              const char *to) {
    size_t length = strlen(from), i = 0;
    while (i < n) {
        bool hit = length <= n - i && memcmp(text + i, from, length) == 0;
        DF_TRY(hit ? put(run, to, strlen(to)) : put(run, text + i, 1));
        i += hit ? length : 1;
    }
    return DF_OK;
}

static df_status replace_pattern(df_decode_run *run, const df_decode_step *step, const char *text,
                                 size_t n) {
    df_search search = df_search_begin(&run->pass, step->pattern, text, n);
    size_t kept = 0;
    bool found = n > 0;
    if (df_utf8_valid(text, n) != n) return put(run, text, n); // part of a character, inside
    while (found) {
        df_span match;
        DF_TRY(df_search_next(&run->pass, &search, &match, &found));
        size_t until = found ? match.begin : n;
        DF_TRY(put(run, text + kept, until - kept));
        if (found) DF_TRY(put(run, step->to, strlen(step->to)));
        if (found) kept = match.end;
    }
    return DF_OK;
}

static df_status strip(df_decode_run *run, const df_decode_step *step, const char *text, size_t n) {
    size_t length = strlen(step->from), start = 0;
    if (run->inside) return put(run, text, n);
    for (size_t i = 0; i < step->start && n - start >= length; i++, start += length)
        if (memcmp(text + start, step->from, length) != 0) break;
    for (size_t i = 0; i < step->stop && n - start >= length; i++, n -= length)
        if (memcmp(text + n - length, step->from, length) != 0) break;
    return put(run, text + start, n - start);
}

// What English puts no space before; applied one after another, as the WordPiece decoder does.
static df_status clean_up(df_decode_run *run, size_t begin) {
    static const char *const rules[][2] = {{" .", "."},     {" ?", "?"},           {" !", "!"},
                                           {" ,", ","},     {" ' ", "'"},          {" n't", "n't"},
                                           {" 'm", "'m"},   {" do not", " don't"}, {" 's", "'s"},
                                           {" 've", "'ve"}, {" 're", "'re"}};
    df_bytes *out = &run->out.text;
    if (out->count == begin) return DF_OK;
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        run->work.count = 0;
        DF_TRY(df_bytes_add(&run->work, out->at + begin, out->count - begin));
        out->count = begin;
        DF_TRY(replace_text(run, run->work.at, run->work.count, rules[i][0], rules[i][1]));
    }
    return DF_OK;
}

static df_status word_piece(df_decode_run *run, const df_decode_step *step, bool first,
                            const char *text, size_t n) {
    size_t length = strlen(step->from), begin = run->out.text.count;
    bool continues = n >= length && memcmp(text, step->from, length) == 0;
    if (!first && !continues) DF_TRY(put(run, " ", 1));
    size_t cut = !first && continues ? length : 0;
    DF_TRY(put(run, text + cut, n - cut));
    return step->cleanup ? clean_up(run, begin) : DF_OK;
}

/* ---- the program ---------------------------------------------------------------------------- */

// A step that makes one text of each; i: the number of the text.
static df_status one_text(df_decode_run *run, const df_decode_step *step, size_t i) {
    const char *text;
    size_t n = part_of(&run->in, i, &text);
    bool first = i == 0 && !run->inside, last = i + 1 == run->in.parts.count && !run->inside;
    switch (step->kind) {
    case DF_DECODE_METASPACE:
        return replace_text(run, text, n, step->from, first && step->first ? "" : " ");
    case DF_DECODE_SUFFIX:
        return replace_text(run, text, n, step->from, last ? "" : " ");
    case DF_DECODE_WORD_PIECE:
        return word_piece(run, step, first, text, n);
    case DF_DECODE_STRIP:
        return strip(run, step, text, n);
    case DF_DECODE_REPLACE:
        if (step->pattern != NULL) return replace_pattern(run, step, text, n);
        return replace_text(run, text, n, step->from, step->to);
    default:
        return put(run, text, n);
    }
}

static df_status run_step(df_decode_run *run, const df_decode_step *step) {
    run->out.text.count = run->out.parts.count = 0;
    if (step->kind == DF_DECODE_BYTE_LEVEL) return byte_level(run);
    if (step->kind == DF_DECODE_BYTE_FALLBACK) return byte_fallback(run);
    bool fuse = step->kind == DF_DECODE_FUSE;
    if (step->pattern != NULL) df_budget_resume(&run->pass.budget);
    for (size_t i = 0; i < run->in.parts.count; i++) {
        size_t begin = run->out.text.count;
        DF_TRY(one_text(run, step, i));
        if (!fuse) DF_TRY(end_part(run, begin));
    }
    return fuse ? end_part(run, 0) : DF_OK;
}

df_status df_decoder_run(const df_decoder *decoder, df_decode_run *run) {
    for (size_t i = 0; i < decoder->count; i++) {
        DF_TRY(run_step(run, &decoder->at[i]));
        run->written += run->out.text.count;
        df_texts swap = run->in;
        run->in = run->out;
        run->out = swap;
    }
    return DF_OK;
}

void df_decode_run_free(df_decode_run *run) {
    df_free(run->in.text.at);
    df_free(run->in.parts.at);
    df_free(run->out.text.at);
    df_free(run->out.parts.at);
    df_free(run->work.at);
    df_pass_free(&run->pass);
}
