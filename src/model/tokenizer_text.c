/* Growable text, code points and the byte alphabet. */
#include "tokenizer_parts.h"

#include <string.h>
#include <utf8proc.h>

// ---- growable arrays

df_status df_bytes_reserve(df_bytes *bytes, size_t more) {
    size_t n;
    DF_TRY(df_add(bytes->count, more, &n));
    void *p = bytes->at;
    DF_TRY(df_grow(&p, &bytes->capacity, n, 1));
    bytes->at = p;
    return DF_OK;
}

df_status df_bytes_add(df_bytes *bytes, const char *text, size_t n) {
    if (n == 0) return DF_OK;
    DF_TRY(df_bytes_reserve(bytes, n));
    memcpy(bytes->at + bytes->count, text, n);
    bytes->count += n;
    return DF_OK;
}

df_status df_spans_add(df_spans *spans, size_t begin, size_t end) {
    if (end > UINT32_MAX) return df_fail(DF_BAD_INPUT, "tokenizer: a text grows beyond 4 GiB");
    if (spans->count == spans->capacity) {
        void *p = spans->at;
        DF_TRY(df_grow(&p, &spans->capacity, spans->count + 64, sizeof *spans->at));
        spans->at = p;
    }
    spans->at[spans->count++] = (df_span){(uint32_t)begin, (uint32_t)end};
    return DF_OK;
}

// ---- code points

size_t df_utf8_length(char lead) {
    unsigned char byte = (unsigned char)lead;
    return byte < 0x80 ? 1 : byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4;
}

size_t df_utf8_valid(const char *text, size_t n) {
    size_t i = 0;
    while (i < n) {
        uint64_t eight;
        if (i + 8 <= n && (memcpy(&eight, text + i, 8), (eight & 0x8080808080808080u) == 0)) {
            i += 8;
            continue;
        }
        if ((unsigned char)text[i] < 0x80) {
            i++;
            continue;
        }
        utf8proc_int32_t code;
        size_t left = n - i < 4 ? n - i : 4;
        utf8proc_ssize_t used =
            utf8proc_iterate((const utf8proc_uint8_t *)text + i, (utf8proc_ssize_t)left, &code);
        if (used <= 0) return i;
        i += (size_t)used;
    }
    return n;
}

bool df_is_space(int32_t code) {
    if (code < 0x80) return code == ' ' || (code >= '\t' && code <= '\r');
    return code == 0x85 || code == 0xa0 || code == 0x1680 || (code >= 0x2000 && code <= 0x200a) ||
           code == 0x2028 || code == 0x2029 || code == 0x202f || code == 0x205f || code == 0x3000;
}

bool df_is_word(int32_t code) {
    if (code == 0x200c || code == 0x200d) return true; // joiners
    if ((code >= 0x24b6 && code <= 0x24e9) || (code >= 0x1f130 && code <= 0x1f149) ||
        (code >= 0x1f150 && code <= 0x1f169) || (code >= 0x1f170 && code <= 0x1f189))
        return true; // letters in circles and squares
    switch (utf8proc_category(code)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
        return true;
    default:
        return false;
    }
}

// ---- the byte alphabet: printable Latin-1 stands for itself, the other 68 bytes in order for
// U+0100 on

static bool stands_for_itself(int byte) {
    return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
}

// How many of the bytes below `byte` do not stand for themselves.
static int hidden_below(int byte) {
    if (byte <= 33) return byte;
    if (byte <= 126) return 33;
    if (byte <= 161) return 33 + byte - 127;
    return byte <= 173 ? 67 : 68;
}

int32_t df_byte_to_char(unsigned char byte) {
    return stands_for_itself(byte) ? byte : 256 + hidden_below(byte);
}

int df_char_to_byte(int32_t code) {
    if (code >= 0 && code < 256) return stands_for_itself(code) ? code : -1;
    int hidden = code - 256;
    if (hidden < 0 || hidden > 67) return -1;
    if (hidden < 33) return hidden;
    return hidden < 67 ? hidden - 33 + 127 : 173;
}

df_status df_bytes_to_chars(df_bytes *out, const char *text, size_t n) {
    DF_TRY(df_bytes_reserve(out, 2 * n));
    for (size_t i = 0; i < n; i++)
        out->count += (size_t)utf8proc_encode_char(df_byte_to_char((unsigned char)text[i]),
                                                   (utf8proc_uint8_t *)out->at + out->count);
    return DF_OK;
}

df_status df_chars_to_bytes(df_bytes *out, const char *text, size_t n, bool *mapped) {
    size_t before = out->count, i = 0;
    *mapped = true;
    DF_TRY(df_bytes_reserve(out, n + 1));
    while (i < n) {
        utf8proc_int32_t code;
        utf8proc_ssize_t used =
            utf8proc_iterate((const utf8proc_uint8_t *)text + i, (utf8proc_ssize_t)(n - i), &code);
        int byte = used > 0 ? df_char_to_byte(code) : -1;
        if (byte < 0) {
            out->count = before;
            *mapped = false;
            return DF_OK;
        }
        out->at[out->count++] = (char)(unsigned char)byte;
        i += (size_t)used;
    }
    return DF_OK;
}
