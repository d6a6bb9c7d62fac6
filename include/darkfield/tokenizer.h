/* darkfield/tokenizer.h: text to token ids and back, from a Hugging Face tokenizer.json (a part of
 * module model).
 *
 * Supported: BPE models (byte-level and byte-fallback, with a prefix of continued words or a suffix
 * of their ends); normalizers Sequence, Prepend, Replace (string or pattern), NFC, NFD, NFKC, NFKD,
 * Lowercase, Strip, StripAccents, BertNormalizer; pre-tokenizers Sequence, Split, ByteLevel,
 * Digits, Punctuation, Metaspace, Whitespace, WhitespaceSplit, BertPreTokenizer,
 * CharDelimiterSplit; added tokens with all their flags; post-processors Sequence, ByteLevel,
 * TemplateProcessing (its `single` part), BertProcessing, RobertaProcessing; decoders Sequence,
 * ByteLevel, Replace (string or pattern), ByteFallback, Fuse, Strip, Metaspace, BPEDecoder,
 * WordPiece. Anything else is DF_BAD_INPUT naming the part, so that no text is ever tokenized by
 * rules that are not the file's. Characters are those of this machine's Unicode: letters, marks and
 * signs that Unicode took up lately may be other ones than for the Rust library. `truncation` and
 * `padding` are ignored: windows are cut by the packing. Nothing here is collective. */
#ifndef DARKFIELD_TOKENIZER_H
#define DARKFIELD_TOKENIZER_H

#include "darkfield/base.h"

typedef struct df_tokenizer df_tokenizer;

/* The tokens of one text. Start from {0}; df_tokens_free at the end. One df_tokens serves many
 * texts, and should: it keeps the working memory and the words already seen, which makes byte-level
 * encoding several times faster. It belongs to one thread at a time. */
typedef struct df_tokens {
    uint32_t *id;  // [count]
    uint32_t *end; // [count] byte just after the token in the text; 0 for the template's tokens
    size_t count, capacity;
    struct df_tokens_scratch *scratch;
} df_tokens;
void df_tokens_free(df_tokens *tokens);

/* Reads tokenizer.json. DF_BAD_INPUT names the file and the part that is damaged or unsupported. */
df_status df_tokenizer_open(const char *path, df_tokenizer **out) DF_MUST_CHECK;
/* The same from the text of such a file, named `what` in messages. */
df_status df_tokenizer_parse(const char *text, size_t bytes, const char *what,
                             df_tokenizer **out) DF_MUST_CHECK;
/* The tokenizer of a Hugging Face folder: tokenizer.json, or where that is missing the older pair
 * vocab.json and merges.txt of GPT-2's tokenizer class (OPT), with the special tokens and the BOS
 * rule of tokenizer_config.json, special_tokens_map.json and added_tokens.json. DF_BAD_INPUT names
 * the file that is missing or damaged. */
df_status df_tokenizer_open_folder(const char *folder, df_tokenizer **out) DF_MUST_CHECK;
void df_tokenizer_close(df_tokenizer *tokenizer); /* NULL is allowed */

/* The largest id + 1, added tokens included; a hash of the file's bytes; the first id that the
 * template puts before a text (-1: none). */
size_t df_tokenizer_size(const df_tokenizer *tokenizer);
uint64_t df_tokenizer_hash(const df_tokenizer *tokenizer);
int64_t df_tokenizer_bos(const df_tokenizer *tokenizer);

/* Replaces the content of *out by the tokens of `text` (UTF-8, not zero-terminated, below 1 GiB).
 * `add_special` adds the template's tokens before and after. As in Hugging Face tokenizers, an
 * added token written out in the text becomes that token. Before the template's tokens behind the
 * text `end` never decreases: bytes that a normalizer added end where the next source byte starts,
 * and a token that ends inside a character ends at that very byte. DF_BAD_INPUT: invalid UTF-8,
 * naming the byte; a pattern that gives up on the text or takes too long (processor time of this
 * thread beyond half a second and 10 us for each byte that the patterns search); a text between
 * added tokens that grows beyond 64 times its length and 1 MiB. Any number of threads may encode
 * with one tokenizer, each with its own df_tokens. */
df_status df_tokenizer_encode(const df_tokenizer *tokenizer, const char *text, size_t bytes,
                              bool add_special, df_tokens *out) DF_MUST_CHECK;

/* The raw bytes that one token stands for, for display: space markers are spaces, byte tokens their
 * byte, added tokens their content. May be part of a character. Zero-terminated, belongs to the
 * tokenizer; "" and 0 bytes for an id without token. */
const char *df_tokenizer_piece(const df_tokenizer *tokenizer, uint32_t id, size_t *bytes);
bool df_tokenizer_is_special(const df_tokenizer *tokenizer, uint32_t id);

/* The id of an added token by its content, or of a token as the merges spell it (raw bytes in a
 * byte-level model, space marks elsewhere); -1 when there is none. */
int64_t df_tokenizer_find(const df_tokenizer *tokenizer, const char *content);

/* Text of n tokens, in new memory (df_free), zero-terminated, always valid UTF-8: what is not
 * becomes U+FFFD. Special tokens are left out when `skip_special`. DF_BAD_INPUT when a pattern of
 * the file's decoder gives up on the text or takes too long, as in encoding, or when the text grows
 * beyond 4 GiB. */
df_status df_tokenizer_decode(const df_tokenizer *tokenizer, const uint32_t *ids, size_t n,
                              bool skip_special, char **text, size_t *bytes) DF_MUST_CHECK;

#endif
