/* Steps of a normalizer that look at one character at a time. */
#include "tokenizer_parts.h"

#include <utf8proc.h>

static size_t code_at(const df_view *view, size_t at, size_t end, utf8proc_int32_t *code) {
    utf8proc_ssize_t used = utf8proc_iterate((const utf8proc_uint8_t *)view->text + at,
                                             (utf8proc_ssize_t)(end - at), code);
    return used > 0 ? (size_t)used : 1;
}

static df_status strip(const df_step *step, const df_view *view, df_span piece, df_rewrite *out) {
    size_t begin = piece.begin, end = piece.end;
    utf8proc_int32_t code;
    while (step->left && begin < end) {
        size_t used = code_at(view, begin, end, &code);
        if (!df_is_space(code)) break;
        begin += used;
    }
    while (step->right && begin < end) {
        size_t last = end - 1;
        while (last > begin && ((unsigned char)view->text[last] & 0xc0) == 0x80) last--;
        (void)code_at(view, last, end, &code);
        if (!df_is_space(code)) break;
        end = last;
    }
    return df_emit_kept(out, view, begin, end);
}

/* ---- what becomes of a character ------------------------------------------------------------ */

// The texts that stand before and in the place of a character; n = SIZE_MAX: as it is.
typedef struct change {
    bool spaced; // a space on both sides
    size_t n;
    utf8proc_uint8_t text[8];
} change;

static const change as_it_is = {false, SIZE_MAX, {0}}, dropped = {false, 0, {0}};

static change to_lower(utf8proc_int32_t code) {
    change c = {false, 0, {0}};
    utf8proc_int32_t lower = utf8proc_tolower(code);
    if (code == 0x130) return (change){false, 3, {'i', 0xcc, 0x87}}; // I with a dot: i, and the dot
    if (lower == code) return as_it_is;
    c.n = (size_t)utf8proc_encode_char(lower, c.text);
    return c;
}

static change without_mark(utf8proc_int32_t code, bool only_inline) {
    utf8proc_category_t category = utf8proc_category(code);
    bool other = category == UTF8PROC_CATEGORY_MC || category == UTF8PROC_CATEGORY_ME;
    return category == UTF8PROC_CATEGORY_MN || (other && !only_inline) ? dropped : as_it_is;
}

// What BERT's normalizer drops: control and format characters, private use, U+FFFD. Its list is
// older than today's Unicode, so it stands here.
static bool is_control(utf8proc_int32_t code) {
    static const utf8proc_int32_t range[][2] = {
        {0x0, 0x8},          {0xb, 0xc},         {0xe, 0x1f},        {0x7f, 0x9f},
        {0xad, 0xad},        {0x600, 0x605},     {0x61c, 0x61c},     {0x6dd, 0x6dd},
        {0x70f, 0x70f},      {0x180e, 0x180e},   {0x200b, 0x200f},   {0x202a, 0x202e},
        {0x2060, 0x2064},    {0x2066, 0x206f},   {0xe000, 0xf8ff},   {0xfeff, 0xfeff},
        {0xfff9, 0xfffb},    {0xfffd, 0xfffd},   {0x110bd, 0x110bd}, {0x1bca0, 0x1bca3},
        {0x1d173, 0x1d17a},  {0xe0001, 0xe0001}, {0xe0020, 0xe007f}, {0xf0000, 0xffffd},
        {0x100000, 0x10fffd}};
    for (size_t i = 0; i < sizeof range / sizeof *range && range[i][0] <= code; i++)
        if (code <= range[i][1]) return true;
    return false;
}

static change clean(utf8proc_int32_t code) {
    if (is_control(code)) return dropped;
    return df_is_space(code) && code != ' ' ? (change){false, 1, " "} : as_it_is;
}

// The blocks that BERT calls Chinese.
static bool is_ideograph(utf8proc_int32_t c) {
    return (c >= 0x4e00 && c <= 0x9fff) || (c >= 0x3400 && c <= 0x4dbf) ||
           (c >= 0x20000 && c <= 0x2a6df) || (c >= 0x2a700 && c <= 0x2b73f) ||
           (c >= 0x2b740 && c <= 0x2b81f) || (c >= 0x2b920 && c <= 0x2ceaf) ||
           (c >= 0xf900 && c <= 0xfaff) || (c >= 0x2f800 && c <= 0x2fa1f);
}

static change change_of(const df_step *step, utf8proc_int32_t code) {
    switch (step->kind) {
    case DF_STEP_LOWER:
        return to_lower(code);
    case DF_STEP_DROP_MARKS:
        return without_mark(code, step->only_inline);
    case DF_STEP_CLEAN:
        return clean(code);
    default:
        return is_ideograph(code) ? (change){true, SIZE_MAX, {0}} : as_it_is;
    }
}

/* ---- all of them ---------------------------------------------------------------------------- */

// A mark that is dropped belongs to the character before it.
static void stretch_last(df_rewrite *out, size_t begin, uint32_t end) {
    if (out->text.count > begin) out->end[out->text.count - 1] = end;
}

static df_status apply(const change *c, const df_view *view, df_span character, df_rewrite *out) {
    uint32_t end = df_view_end(view, character.end);
    if (!c->spaced) return df_emit_new(out, (const char *)c->text, c->n, end);
    DF_TRY(df_emit_new(out, " ", 1, df_view_end(view, character.begin)));
    DF_TRY(df_emit_kept(out, view, character.begin, character.end));
    return df_emit_new(out, " ", 1, end);
}

df_status df_rewrite_characters(const df_step *step, const df_view *view, df_span piece,
                                df_rewrite *out) {
    size_t kept = piece.begin, begin = out->text.count, used;
    utf8proc_int32_t code;
    if (step->kind == DF_STEP_STRIP) return strip(step, view, piece, out);
    for (size_t i = piece.begin; i < piece.end; i += used) {
        used = code_at(view, i, piece.end, &code);
        change c = change_of(step, code);
        if (!c.spaced && c.n == SIZE_MAX) continue;
        DF_TRY(df_emit_kept(out, view, kept, i));
        DF_TRY(apply(&c, view, (df_span){(uint32_t)i, (uint32_t)(i + used)}, out));
        kept = i + used;
        if (step->kind == DF_STEP_DROP_MARKS) stretch_last(out, begin, df_view_end(view, kept));
    }
    return df_emit_kept(out, view, kept, piece.end);
}
