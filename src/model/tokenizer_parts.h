/* tokenizer_parts.h: the pieces a tokenizer is put together from; private to module model.
 *
 * A tokenizer.json is compiled once into two flat programs of steps (normalizer, pre-tokenizer), a
 * vocabulary with its merges, two tries of added tokens, and the decoded bytes of each token.
 * Encoding runs them over a text:
 *
 *     text -> added tokens cut out -> normalizer steps -> normalized added tokens cut out
 *          -> pre-tokenizer steps -> words -> merges -> ids with the byte each ends at */
#ifndef DF_TOKENIZER_PARTS_H
#define DF_TOKENIZER_PARTS_H

#define PCRE2_CODE_UNIT_WIDTH 8
#include "darkfield/tokenizer.h"
#include <pcre2.h>

#define DF_NO_ID UINT32_MAX

/* ---- growable arrays ------------------------------------------------------------------------ */

typedef struct df_bytes {
    char *at;
    size_t count, capacity;
} df_bytes;
df_status df_bytes_reserve(df_bytes *bytes, size_t more);
df_status df_bytes_add(df_bytes *bytes, const char *text, size_t n);

typedef struct df_span {
    uint32_t begin, end;
} df_span;

typedef struct df_spans {
    df_span *at;
    size_t count, capacity;
} df_spans;
/* DF_BAD_INPUT beyond 4 GiB. */
df_status df_spans_add(df_spans *spans, size_t begin, size_t end);

/* ---- code points ---------------------------------------------------------------------------- */

/* Bytes of valid UTF-8 at the start of text: n when all of it is valid. */
size_t df_utf8_valid(const char *text, size_t n);
size_t df_utf8_length(char lead); // bytes of the character that starts with `lead`, 1 to 4
bool df_is_space(int32_t code);   // Unicode White_Space
bool df_is_word(int32_t code);    // letters (in circles too), marks, digits, connectors

/* The alphabet of byte-level models: each byte has a printable character. */
int32_t df_byte_to_char(unsigned char byte);
int df_char_to_byte(int32_t code); // -1 when it stands for no byte
df_status df_bytes_to_chars(df_bytes *out, const char *text, size_t n); // appends
/* Appends the bytes that `text` spells; *mapped is false, and nothing appended, when a character
 * spells none. */
df_status df_chars_to_bytes(df_bytes *out, const char *text, size_t n, bool *mapped);

/* ---- maps ----------------------------------------------------------------------------------- */

/* (left, right) -> (rank, id); open addressing at half load, size fixed when made. */
typedef struct df_pair_slot {
    uint64_t key; // UINT64_MAX: free
    uint32_t rank, id;
} df_pair_slot;

typedef struct df_pair_map {
    df_pair_slot *slot;
    size_t mask;
} df_pair_map;
df_status df_pair_map_new(df_pair_map *map, size_t entries);
void df_pair_map_put(df_pair_map *map, uint64_t key, uint32_t rank,
                     uint32_t id);                                         // a later one replaces
const df_pair_slot *df_pair_map_get(const df_pair_map *map, uint64_t key); // NULL when absent

/* One token: how the merges spell it (raw bytes in a byte-level model) and what it shows. */
typedef struct df_token {
    uint32_t form, form_bytes;       // in df_vocabulary.text
    uint32_t content, content_bytes; // in df_vocabulary.text: what the file calls it
    uint32_t piece, piece_bytes;     // in df_vocabulary.text, zero-terminated
    bool in_model;                   // reachable by merges, not only as an added token
    bool added, special;
} df_token;

typedef struct df_vocabulary {
    df_token *token; // [size]
    size_t size;
    df_bytes text;
    uint32_t *slot; // id + 1 of in_model tokens by the hash of their form; 0: free
    size_t mask;
} df_vocabulary;
df_status df_vocabulary_index(df_vocabulary *vocabulary); // (re)builds the slots
uint32_t df_vocabulary_find(const df_vocabulary *vocabulary, const char *text, size_t n);

/* ---- steps of normalizer and pre-tokenizer -------------------------------------------------- */

typedef enum df_step_kind {
    DF_STEP_NORMAL_FORM, // of Unicode
    DF_STEP_REPLACE,     // from, or what the pattern matches, -> to, everywhere
    DF_STEP_LOWER,       // every letter by itself
    DF_STEP_STRIP,       // white space at the ends of each piece
    DF_STEP_DROP_MARKS,  // combining marks
    DF_STEP_CLEAN,       // BERT: no control characters, white space becomes " "
    DF_STEP_IDEOGRAPHS,  // BERT: a space on both sides of each
    DF_STEP_PREPEND,     // `to` before each piece that is not empty
    DF_STEP_SPLIT,       // pieces cut by a pattern
    DF_STEP_BYTES        // from here on patterns see one printable character a byte
} df_step_kind;

typedef enum df_normal_form { DF_NFC, DF_NFD, DF_NFKC, DF_NFKD } df_normal_form;

typedef enum df_split_behavior {
    DF_SPLIT_REMOVED,
    DF_SPLIT_ISOLATED,
    DF_SPLIT_PREVIOUS,
    DF_SPLIT_NEXT,
    DF_SPLIT_CONTIGUOUS
} df_split_behavior;

typedef struct df_step {
    df_step_kind kind;
    df_normal_form form;
    char *from, *to;
    bool unless_present,
        first_only;      // PREPEND: not where the piece starts with it; only at the text's start
    pcre2_code *pattern; // SPLIT, REPLACE
    df_split_behavior behavior;
    bool invert;      // SPLIT: the pattern describes what lies between the matches
    bool left, right; // STRIP: the ends to strip
    bool only_inline; // DROP_MARKS: those that take no room of their own (category Mn)
} df_step;

typedef struct df_steps {
    df_step *at;
    size_t count, capacity;
} df_steps;
/* "always", "first" or "never" of a Metaspace part. */
df_status df_metaspace_scheme(const json_t *part, const char *what, const char **scheme);
/* The pattern of Split and Replace: {"String": s} or {"Regex": s}. */
df_status df_pattern_read(const json_t *part, const char *what, const char **text, bool *literal);
df_status df_steps_normalizer(const json_t *part, df_steps *steps);
df_status df_steps_pre_tokenizer(const json_t *part, df_steps *steps);
bool df_steps_have(const df_steps *steps, df_step_kind kind);
void df_steps_free(df_steps *steps);

/* Compiles a tokenizer.json pattern (Oniguruma syntax) with the meaning it has there. */
df_status df_pattern_compile(const char *pattern, bool literal, pcre2_code **out);

/* Text under way through the steps, and where in the original each of its bytes ends. */
typedef struct df_view {
    const char *text;
    const uint32_t *end; // [bytes]; NULL: byte i ends at base + i + 1
    uint32_t base;       // where in the original the view starts
    size_t bytes;
} df_view;
uint32_t df_view_end(const df_view *view,
                     size_t position); // original place of the point before byte `position`

typedef struct df_rewrite {
    df_bytes text;
    uint32_t *end; // [text.capacity]
    size_t end_capacity;
    size_t most;    // bytes that the text may have
    uint32_t start; // where in the original the text starts: behind what was dropped before it
} df_rewrite;

/* How much processor time the patterns may take on one text: from {0}, more for each byte searched.
 */
typedef struct df_budget {
    double granted, spent; // seconds; a constant is allowed beside what is granted
    double clock;          // when the clock was last looked at
    size_t work;           // since then
} df_budget;

/* What one pass of steps needs; two rewrites, since each rewriting step reads one and writes the
 * other. */
typedef struct df_pass {
    df_rewrite rewrite[2];
    df_spans pieces, next; // `pieces` is in and out
    df_bytes mapped;
    df_spans mapped_parts;
    pcre2_match_data *match;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
    df_budget budget;
} df_pass;
df_status df_pass_run(df_pass *pass, const df_steps *steps,
                      df_view *view); // pass->pieces: spans of *view
void df_pass_free(df_pass *pass);

/* pattern_search.c: the matches of one pattern in text[0, n), one after another. */
typedef struct df_search {
    const pcre2_code *pattern;
    const char *text;
    size_t bytes;
    size_t from, last; // where to go on; where the last match ended, SIZE_MAX: none
} df_search;
void df_budget_reset(df_budget *budget);  // a new text
void df_budget_resume(df_budget *budget); // the time until now was spent on something else
df_search df_search_begin(df_pass *pass, const pcre2_code *pattern, const char *text, size_t n);
/* *found is false when there is no other match. An empty match right behind the match before it is
 * passed over, as Oniguruma's iterator does. DF_BAD_INPUT when the pattern takes too long. */
df_status df_search_next(df_pass *pass, df_search *search, df_span *match, bool *found);

/* Bytes that replace a stretch of the original all end at `end`; bytes [begin, end) of the view are
 * kept with their ends. */
df_status df_emit_new(df_rewrite *out, const char *text, size_t n, uint32_t end);
df_status df_emit_kept(df_rewrite *out, const df_view *view, size_t begin, size_t end);
/* The steps that look at one character at a time: LOWER, STRIP, DROP_MARKS, CLEAN, IDEOGRAPHS. */
df_status df_rewrite_characters(const df_step *step, const df_view *view, df_span piece,
                                df_rewrite *out);

/* Cuts text[0, n) by a SPLIT step; appends the spans, moved by `origin`, to *out. */
df_status df_split(df_pass *pass, const df_step *step, const char *text, size_t n, df_spans *out);

/* ---- added tokens
 * -------------------------------------------------------------------------------- */

typedef struct df_added_token {
    uint32_t id;
    char *content;
    bool single_word, left_strip, right_strip, normalized;
} df_added_token;

typedef struct df_added {
    const df_added_token *tokens; // borrowed
    df_pair_map edges;            // (node, byte) -> (1 + number of the token that ends there, node)
    bool first[256];
    bool empty;
} df_added;

typedef struct df_added_match {
    size_t begin, end;
    uint32_t id;
} df_added_match;

/* contents[i] is what tokens[i] looks like in the text searched; NULL: not in this trie. */
df_status df_added_build(df_added *added, const df_added_token *tokens, const df_bytes *contents,
                         size_t n);
/* The first match at or after `from`, leftmost-longest, its whitespace eaten; false when there is
 * none. */
bool df_added_next(const df_added *added, const char *text, size_t n, size_t from,
                   df_added_match *match);

/* ---- merges
 * -------------------------------------------------------------------------------------- */

typedef struct df_bpe {
    df_pair_map merges;     // (left id, right id) -> (rank, id)
    uint32_t unit[256];     // ids of one-byte units, DF_NO_ID where none
    uint32_t fallback[256]; // ids of <0xHH>, DF_NO_ID where none
    bool byte_level, byte_fallback, fuse_unknown, ignore_merges;
    char *prefix, *suffix; // of units that do not start, that end a word; "" for none
    bool cut_at_marks; // no merge crosses the point before a space mark, so words can be cut there
    uint32_t unknown;  // DF_NO_ID: unknown characters leave no token
} df_bpe;

typedef struct df_symbol {
    uint32_t id;  // DF_NO_ID: merged into its left neighbour
    uint32_t end; // in the word
    uint32_t previous, next;
} df_symbol;

typedef struct df_merge_entry {
    uint64_t order; // rank, position
    uint32_t id;
} df_merge_entry;

typedef struct df_word {
    uint64_t hash;      // 0: free
    size_t text, first; // in the cache's text and tokens
    uint32_t bytes, count;
} df_word;

/* Tokens of the words already met, by their bytes; emptied when it has grown large. */
typedef struct df_word_cache {
    df_word *slot;
    size_t mask, used;
    df_bytes text;
    df_spans tokens; // begin: id, end: where in the word it ends
} df_word_cache;

typedef struct df_merger {
    df_symbol *symbol;
    size_t symbols, symbol_capacity;
    df_merge_entry *heap;
    size_t entries, heap_capacity;
    df_spans tokens; // result of the last word: begin: id, end: where in the word it ends
    df_bytes unit;   // a unit with its prefix and suffix
    df_word_cache cache;
} df_merger;

/* The first place in (0, n) where a space mark (U+2581) follows another character; n when there is
 * none. */
size_t df_mark_after(const char *text, size_t n);

/* The tokens of one word; *tokens (begin: id, end: byte in the word) belongs to the merger until
 * the next call. */
df_status df_bpe_word(const df_bpe *bpe, const df_vocabulary *vocabulary, df_merger *merger,
                      const char *text, size_t n, const df_span **tokens, size_t *count);
void df_merger_free(df_merger *merger);

/* ---- the whole
 * ----------------------------------------------------------------------------------- */

/* A decoder is a program over a list of texts, at first the contents of the tokens. */
typedef enum df_decode_kind {
    DF_DECODE_BYTE_LEVEL,    // characters of the byte alphabet to bytes; one text
    DF_DECODE_BYTE_FALLBACK, // runs of <0xHH> to bytes, U+FFFD each where these are no text
    DF_DECODE_FUSE,          // one text
    DF_DECODE_REPLACE,       // from, or what the pattern matches, -> to
    DF_DECODE_STRIP,         // up to start, stop of the character `from` at the ends of each text
    DF_DECODE_METASPACE,     // marks to spaces; `first`: none in the first text
    DF_DECODE_SUFFIX,        // the suffix to a space, in the last text to nothing
    DF_DECODE_WORD_PIECE     // a space before each text that does not start with the prefix
} df_decode_kind;

typedef struct df_decode_step {
    df_decode_kind kind;
    char *from, *to;
    pcre2_code *pattern;
    size_t start, stop;
    bool first;   // METASPACE
    bool cleanup; // WORD_PIECE: no space before full stops and the like
} df_decode_step;

typedef struct df_decoder {
    df_decode_step *at;
    size_t count, capacity;
    bool present; // a file may name a decoder without steps
} df_decoder;

/* Texts side by side. */
typedef struct df_texts {
    df_bytes text;
    df_spans parts;
} df_texts;

/* Runs of a decoder, one after another with the same memory: `in` holds the texts, then what became
 * of them. `inside`: one token's text, shown as if others stood on both sides and as bytes that
 * need not be whole characters. */
typedef struct df_decode_run {
    df_texts in, out;
    df_bytes work;
    df_pass pass;
    bool inside;
    uint64_t written; // bytes, by all steps of all runs
} df_decode_run;
df_status df_decoder_run(const df_decoder *decoder, df_decode_run *run);
void df_decode_run_free(df_decode_run *run);

struct df_tokenizer {
    uint64_t hash, serial;
    df_vocabulary vocabulary;
    df_bpe bpe;
    df_steps normalizer, pre_tokenizer;
    df_added_token *added;
    size_t n_added;
    df_added raw, normalized;
    uint32_t *before, *after; // ids that the template adds
    size_t n_before, n_after;
    df_decoder decoder;
};

/* tokenizer.c: a tokenizer from what its tokenizer.json says; `hash` is that of its files. */
df_status df_tokenizer_make(const json_t *root, uint64_t hash, df_tokenizer **out);
/* tokenizer_load.c: the parts of the parsed file, in the order they are needed. */
df_status df_tokenizer_load(df_tokenizer *tokenizer, const json_t *root);
/* tokenizer_added.c */
df_status df_tokenizer_load_added(df_tokenizer *tokenizer, const json_t *list);
/* decoder.c */
df_status df_decoder_load(df_decoder *decoder, const json_t *part);
void df_decoder_free(df_decoder *decoder);
/* tokenizer_decode.c */
df_status df_tokenizer_make_pieces(df_tokenizer *tokenizer);

struct df_tokens_scratch {
    uint64_t serial; // of the tokenizer whose words the cache holds
    df_pass normal, split;
    df_merger merger;
};

#endif
