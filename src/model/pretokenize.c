/* Running the steps of a normalizer or pre-tokenizer over one stretch of text. */
#include "tokenizer_parts.h"

#include <string.h>
#include <utf8proc.h>

#define MOST_GROWTH 64u // of a text by the steps, beside
#define MOST_ADDED (1u << 20)

uint32_t df_view_end(const df_view *view, size_t position) {
    if (position == 0 || view->end == NULL) return view->base + (uint32_t)position;
    return view->end[position - 1];
}

// ---- rewriting: text out, with the original end of each byte

static df_status emit(df_rewrite *out, const char *text, size_t n) {
    if (n > out->most - out->text.count)
        return df_fail(DF_BAD_INPUT, "the text grows beyond %zu bytes when normalized", out->most);
    DF_TRY(df_bytes_reserve(&out->text, n));
    void *p = out->end;
    DF_TRY(df_grow(&p, &out->end_capacity, out->text.capacity, sizeof *out->end));
    out->end = p;
    if (n > 0) memcpy(out->text.at + out->text.count, text, n);
    return DF_OK;
}

df_status df_emit_new(df_rewrite *out, const char *text, size_t n, uint32_t end) {
    DF_TRY(emit(out, text, n));
    for (size_t i = 0; i < n; i++) out->end[out->text.count + i] = end;
    out->text.count += n;
    return DF_OK;
}

df_status df_emit_kept(df_rewrite *out, const df_view *view, size_t begin, size_t end) {
    DF_TRY(emit(out, view->text + begin, end - begin));
    if (out->text.count == 0 && end > begin) out->start = df_view_end(view, begin);
    for (size_t i = begin; i < end; i++)
        out->end[out->text.count + i - begin] = df_view_end(view, i + 1);
    out->text.count += end - begin;
    return DF_OK;
}

static df_status replace_text(const df_step *step, const df_view *view, df_span piece,
                              df_rewrite *out) {
    size_t from = strlen(step->from), to = strlen(step->to), kept = piece.begin, i = piece.begin;
    while (i + from <= piece.end) {
        const char *hit = memchr(view->text + i, step->from[0], piece.end - i);
        i = hit != NULL ? (size_t)(hit - view->text) : piece.end;
        if (i + from > piece.end) break;
        if (memcmp(view->text + i, step->from, from) != 0) {
            i++;
            continue;
        }
        DF_TRY(df_emit_kept(out, view, kept, i));
        DF_TRY(df_emit_new(out, step->to, to, df_view_end(view, i + from)));
        i += from;
        kept = i;
    }
    return df_emit_kept(out, view, kept, piece.end);
}

static df_status replace_pattern(df_pass *pass, const df_step *step, const df_view *view,
                                 df_span piece, df_rewrite *out) {
    size_t kept = piece.begin, to = strlen(step->to);
    if (piece.begin == piece.end) return DF_OK;
    df_search search =
        df_search_begin(pass, step->pattern, view->text + piece.begin, piece.end - piece.begin);
    for (;;) {
        df_span match = {0, 0};
        bool found;
        DF_TRY(df_search_next(pass, &search, &match, &found));
        if (!found) return df_emit_kept(out, view, kept, piece.end);
        DF_TRY(df_emit_kept(out, view, kept, piece.begin + match.begin));
        kept = piece.begin + match.end;
        DF_TRY(df_emit_new(out, step->to, to, df_view_end(view, kept)));
    }
}

static df_status replace(df_pass *pass, const df_step *step, const df_view *view, df_span piece,
                         df_rewrite *out) {
    return step->pattern != NULL ? replace_pattern(pass, step, view, piece, out)
                                 : replace_text(step, view, piece, out);
}

static df_status prepend(const df_step *step, const df_view *view, df_span piece, df_rewrite *out) {
    size_t n = strlen(step->to), left = piece.end - piece.begin;
    uint32_t start = df_view_end(view, piece.begin);
    bool present = left >= n && memcmp(view->text + piece.begin, step->to, n) == 0;
    bool elsewhere = start != 0 || piece.begin != 0;
    if (left > 0 && !(step->unless_present && present) && !(step->first_only && elsewhere))
        DF_TRY(df_emit_new(out, step->to, n, start));
    return df_emit_kept(out, view, piece.begin, piece.end);
}

// ---- Unicode's normal forms, one stretch at a time, so that places in the text are kept

// A character that never combines with what stands before it. Kirat Rai's vowel signs are letters
// that do, and so are, in the compatible forms, Hangul letters and the half-width voiced marks.
static bool starts_stretch(df_normal_form form, int32_t code) {
    bool compatible = form == DF_NFKC || form == DF_NFKD;
    if (code < 0x300) return true;
    if (code >= 0x1160 && code <= 0x11ff) return false; // Hangul vowels and finals
    if (code >= 0x16d63 && code <= 0x16d6a) return false;
    if (compatible && code >= 0x3131 && code <= 0x318e) return false;
    if (compatible && code >= 0xff9e && code <= 0xffdc) return false;
    utf8proc_category_t category = utf8proc_category(code);
    return category != UTF8PROC_CATEGORY_MN && category != UTF8PROC_CATEGORY_MC &&
           category != UTF8PROC_CATEGORY_ME;
}

static size_t code_at(const char *text, size_t n, utf8proc_int32_t *code) {
    utf8proc_ssize_t used =
        utf8proc_iterate((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)n, code);
    return used > 0 ? (size_t)used : 1;
}

// Where the stretch that starts at `begin` ends.
static size_t stretch_end(df_normal_form form, const char *text, size_t begin, size_t end) {
    utf8proc_int32_t code;
    size_t i = begin + code_at(text + begin, end - begin, &code);
    while (i < end) {
        size_t used = code_at(text + i, end - i, &code);
        if (starts_stretch(form, code)) break;
        i += used;
    }
    return i;
}

static df_status normalize_stretch(df_normal_form form, const df_view *view, size_t begin,
                                   size_t end, df_rewrite *out) {
    static const int options[] = {UTF8PROC_COMPOSE, UTF8PROC_DECOMPOSE,
                                  UTF8PROC_COMPOSE | UTF8PROC_COMPAT,
                                  UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT};
    const char *text = view->text + begin;
    size_t n = end - begin;
    utf8proc_uint8_t *composed = NULL;
    utf8proc_ssize_t m =
        utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)n, &composed,
                     (utf8proc_option_t)(UTF8PROC_STABLE | options[form]));
    if (m < 0) return df_fail(DF_FAILED, "Unicode normalization failed: %s", utf8proc_errmsg(m));
    bool same = (size_t)m == n && memcmp(composed, text, n) == 0;
    df_status status =
        same ? df_emit_kept(out, view, begin, end)
             : df_emit_new(out, (const char *)composed, (size_t)m, df_view_end(view, end));
    free(composed); // utf8proc's own memory
    return status;
}

static df_status normalize(df_normal_form form, const df_view *view, df_span piece,
                           df_rewrite *out) {
    int32_t plain = form == DF_NFC ? 0x300 : 0x80; // below, every character is its own normal form
    size_t kept = piece.begin, i = piece.begin;
    while (i < piece.end) {
        size_t end = stretch_end(form, view->text, i, piece.end);
        utf8proc_int32_t code;
        bool alone = code_at(view->text + i, piece.end - i, &code) == end - i;
        if (!(alone && code < plain)) {
            DF_TRY(df_emit_kept(out, view, kept, i));
            DF_TRY(normalize_stretch(form, view, i, end, out));
            kept = end;
        }
        i = end;
    }
    return df_emit_kept(out, view, kept, piece.end);
}

static df_status rewrite_piece(df_pass *pass, const df_step *step, const df_view *view,
                               df_span piece, df_rewrite *out) {
    switch (step->kind) {
    case DF_STEP_REPLACE:
        return replace(pass, step, view, piece, out);
    case DF_STEP_PREPEND:
        return prepend(step, view, piece, out);
    case DF_STEP_NORMAL_FORM:
        return normalize(step->form, view, piece, out);
    default:
        return df_rewrite_characters(step, view, piece, out);
    }
}

static df_status rewrite(df_pass *pass, const df_step *step, df_view *view, df_rewrite *out) {
    out->start = pass->pieces.count > 0 ? df_view_end(view, pass->pieces.at[0].begin) : view->base;
    out->text.count = 0;
    for (size_t i = 0; i < pass->pieces.count; i++) {
        df_span *piece = &pass->pieces.at[i];
        size_t begin = out->text.count;
        DF_TRY(rewrite_piece(pass, step, view, *piece, out));
        *piece = (df_span){(uint32_t)begin, (uint32_t)out->text.count};
    }
    const char *text = out->text.at != NULL ? out->text.at : ""; // when nothing is left
    *view = (df_view){text, out->end, out->start, out->text.count};
    return DF_OK;
}

// ---- splitting

typedef struct split_state {
    df_spans *out;
    size_t first; // spans before this one are of other pieces
    bool matched_before;
} split_state;

// One match, or what lies between two matches.
static df_status add_part(split_state *state, const df_step *step, df_span part, bool match) {
    bool before = state->matched_before, follows = state->out->count > state->first, joins = false;
    if (part.begin == part.end) return DF_OK;
    match = match != step->invert;
    state->matched_before = match;
    if (step->behavior == DF_SPLIT_REMOVED && match) return DF_OK;
    if (step->behavior == DF_SPLIT_PREVIOUS) joins = match && !before;
    if (step->behavior == DF_SPLIT_NEXT) joins = !match && before;
    if (step->behavior == DF_SPLIT_CONTIGUOUS) joins = match == before;
    if (!joins || !follows) return df_spans_add(state->out, part.begin, part.end);
    state->out->at[state->out->count - 1].end = part.end;
    return DF_OK;
}

df_status df_split(df_pass *pass, const df_step *step, const char *text, size_t n, df_spans *out) {
    split_state state = {out, out->count, false};
    df_search search = df_search_begin(pass, step->pattern, text, n);
    uint32_t done = 0;
    while (search.from < n) {
        df_span found = {0, 0};
        bool any;
        DF_TRY(df_search_next(pass, &search, &found, &any));
        if (!any || found.begin == n) break; // an empty match at the end
        DF_TRY(add_part(&state, step, (df_span){done, found.begin}, false));
        DF_TRY(add_part(&state, step, found, true));
        done = found.end;
    }
    return add_part(&state, step, (df_span){done, (uint32_t)n}, false);
}

// The same on the byte alphabet: the pattern sees one printable character a byte.
static df_status split_mapped(df_pass *pass, const df_step *step, const char *text, size_t n,
                              df_spans *out) {
    pass->mapped.count = 0;
    if (n > UINT32_MAX / 2)
        return df_fail(DF_BAD_INPUT, "a text of %zu bytes is too long for a byte-level split", n);
    DF_TRY(df_bytes_to_chars(&pass->mapped, text, n));
    df_spans *parts = &pass->mapped_parts;
    parts->count = 0;
    DF_TRY(df_split(pass, step, pass->mapped.at, pass->mapped.count, parts));
    size_t at = 0, bytes = 0; // in mapped text, in text
    for (size_t i = 0; i < parts->count; i++) {
        for (; at < parts->at[i].begin; bytes++) at += df_utf8_length(pass->mapped.at[at]);
        size_t begin = bytes;
        for (; at < parts->at[i].end; bytes++) at += df_utf8_length(pass->mapped.at[at]);
        DF_TRY(df_spans_add(out, begin, bytes));
    }
    return DF_OK;
}

static df_status split_pieces(df_pass *pass, const df_step *step, const df_view *view,
                              bool mapped) {
    pass->next.count = 0;
    for (size_t i = 0; i < pass->pieces.count; i++) {
        df_span piece = pass->pieces.at[i];
        size_t first = pass->next.count;
        DF_TRY((mapped ? split_mapped : df_split)(pass, step, view->text + piece.begin,
                                                  piece.end - piece.begin, &pass->next));
        for (size_t j = first; j < pass->next.count; j++) {
            pass->next.at[j].begin += piece.begin;
            pass->next.at[j].end += piece.begin;
        }
    }
    df_spans swap = pass->pieces;
    pass->pieces = pass->next;
    pass->next = swap;
    return DF_OK;
}

// How much a text of n bytes may become: spans end below 4 GiB.
static size_t most_of(size_t n) {
    size_t most = (UINT32_MAX - MOST_ADDED) / MOST_GROWTH;
    return n < most ? MOST_GROWTH * n + MOST_ADDED : UINT32_MAX;
}

df_status df_pass_run(df_pass *pass, const df_steps *steps, df_view *view) {
    bool mapped = false;
    int turn = 0;
    size_t n = 0;
    for (size_t i = 0; i < pass->pieces.count; i++)
        n += pass->pieces.at[i].end - pass->pieces.at[i].begin;
    pass->rewrite[0].most = pass->rewrite[1].most = most_of(n);
    df_budget_resume(&pass->budget);
    for (size_t i = 0; i < steps->count; i++) {
        const df_step *step = &steps->at[i];
        if (step->kind == DF_STEP_BYTES) {
            mapped = true;
        } else if (step->kind == DF_STEP_SPLIT) {
            DF_TRY(split_pieces(pass, step, view, mapped));
        } else {
            DF_TRY(rewrite(pass, step, view, &pass->rewrite[turn]));
            turn = !turn;
        }
    }
    return DF_OK;
}

void df_pass_free(df_pass *pass) {
    for (int i = 0; i < 2; i++) {
        df_free(pass->rewrite[i].text.at);
        df_free(pass->rewrite[i].end);
    }
    df_free(pass->pieces.at);
    df_free(pass->next.at);
    df_free(pass->mapped.at);
    df_free(pass->mapped_parts.at);
    pcre2_match_data_free(pass->match);
    pcre2_match_context_free(pass->context);
    pcre2_jit_stack_free(pass->stack);
    *pass = (df_pass){0};
}
