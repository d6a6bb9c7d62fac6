/* Single parts of a tokenizer.json, on vocabularies small enough to work out by hand. */
#include "tokenizer_test.h"

#define MARK "\xe2\x96\x81"
#define LETTERS                                                                                    \
    "'a':0,'b':1,'c':2,'ab':3,'abc':4,'1':5,'2':6,'" MARK "':7,'-':8,'?':9,'" MARK "a':10,'bc':11"
#define MERGES "'merges':['b c','a b','ab c','a bc','" MARK " a']"

// Ids of `text` by a BPE over LETTERS with more JSON before the model and in it.
static void check(const char *parts, const char *settings, const char *text, const char *expected) {
    char json[2000];
    df_tokenizer *tokenizer;
    snprintf(json, sizeof json, "{%s'model':{'type':'BPE',%s'vocab':{" LETTERS "}," MERGES "}}",
             parts, settings);
    assert_ok(make_tokenizer(json, &tokenizer));
    assert_ids(tokenizer, text, expected);
    df_tokenizer_close(tokenizer);
}

static void merges_by_rank(void **state) {
    (void)state;
    check("", "", "abc", "4"); // "b c" first, then "a bc"
    check("", "", "abab", "3 3");
    check("", "", "bcab", "11 3");
    check("", "", "", "");
}

static void unknown_characters(void **state) {
    (void)state;
    check("", "", "aXXb",
          "3"); // without an unknown token they leave no trace, as in the Rust library
    check("", "'unk_token':'?',", "aXXb", "0 9 9 1");
    check("", "'unk_token':'?','fuse_unk':true,", "aXYbX", "0 9 1 9");
    check("", "'unk_token':'?','byte_fallback':true,", "a\xc3\xa9", "0 9"); // no byte tokens there
    check("", "'unk_token':'?','fuse_unk':true,",
          "\xc3\xa9\xe6\x97\xa5"
          "a",
          "9 0");
}

static void whole_words_first(void **state) {
    (void)state;
    static const char json[] =
        "{'model':{'ignore_merges':%s,'vocab':{'a':0,'b':1,'ab':2},'merges':[]}}";
    for (int ignore = 0; ignore < 2; ignore++) {
        char text[200];
        df_tokenizer *tokenizer;
        snprintf(text, sizeof text, json, ignore ? "true" : "false");
        assert_ok(make_tokenizer(text, &tokenizer));
        assert_ids(tokenizer, "ab", ignore ? "2" : "0 1");
        df_tokenizer_close(tokenizer);
    }
}

#define SPLIT(pattern, behavior)                                                                   \
    "'pre_tokenizer':{'type':'Split','pattern':{" pattern "},'behavior':'" behavior "'},"

static void split_behaviors(void **state) {
    (void)state;
    check(SPLIT("'String':'b'", "Isolated"), "", "abcb", "0 1 2 1");
    check(SPLIT("'String':'b'", "Removed"), "", "abcb", "0 2");
    check(SPLIT("'String':'b'", "MergedWithPrevious"), "", "abcbb", "3 2 1 1");
    check(SPLIT("'String':'b'", "MergedWithNext"), "", "abcb", "0 11 1");
    check(SPLIT("'Regex':'[bc]'", "Contiguous"), "", "abca", "0 11 0");
    check(SPLIT("'Regex':'b*'", "Isolated"), "", "abca", "0 1 2 0");
    check(SPLIT("'Regex':'b','invert':true", "Isolated"), "", "abc", "0 1 2");
    check("'pre_tokenizer':{'type':'Split','pattern':{'Regex':'b'},'behavior':'Removed','invert':"
          "true},",
          "", "abcb", "1 1");
}

// Counts from nothing and the flag m, as Oniguruma reads them.
static void counts_and_flags(void **state) {
    (void)state;
    check(SPLIT("'Regex':'b{,2}c'", "Removed"), "", "abbca", "0 0");
    check(SPLIT("'Regex':'b.c'", "Removed"), "", "ab\nca", "4 0");
    check(SPLIT("'Regex':'(?m)b.c'", "Removed"), "", "ab\nca", "0 0");
    check(SPLIT("'Regex':'(?mi:B.C)'", "Removed"), "", "ab\nca", "0 0");
    check(SPLIT("'Regex':'(?m)b(?-m:.)c|a'", "Removed"), "", "ab\nc", "11");
}

// White space is Unicode's: U+0085 and U+3000 are, U+180E and U+FEFF are not.
static void white_space(void **state) {
    (void)state;
    check(SPLIT("'Regex':'\\\\s'", "Removed"), "",
          "a\xc2\x85"
          "b\xe3\x80\x80"
          "c",
          "0 1 2");
    check(SPLIT("'Regex':'[x\\\\s]'", "Removed"), "",
          "a\xc2\x85"
          "bxc",
          "0 1 2");
    check(SPLIT("'Regex':'\\\\S+'", "Removed"), "'unk_token':'?',",
          "a\xc2\x85"
          "b",
          "9");
    check(SPLIT("'Regex':'\\\\s'", "Removed"), "",
          "a\xe1\xa0\x8e"
          "b",
          "3");
    check(SPLIT("'Regex':'\\\\s'", "Removed"), "",
          "a\xef\xbb\xbf"
          "b",
          "3");
    check(SPLIT("'Regex':'(?i:S)'", "Removed"), "",
          "a\xc5\xbf"
          "bSc",
          "0 1 2"); // the long s folds to s
}

static void other_pre_tokenizers(void **state) {
    (void)state;
    check("'pre_tokenizer':{'type':'Digits','individual_digits':true},", "", "a12b", "0 5 6 1");
    check("'pre_tokenizer':{'type':'Punctuation'},", "", "a-b", "0 8 1");
    check("'pre_tokenizer':{'type':'Metaspace'},", "", "ab a", "7 3 10");
    check("'pre_tokenizer':{'type':'Metaspace','prepend_scheme':'never'},", "", "ab a", "3 10");
    check("'pre_tokenizer':{'type':'Metaspace','prepend_scheme':'first','split':false},"
          "'added_tokens':[{'id':20,'content':'X'}],",
          "", "aXa a", "10 20 0 10");
    check("'pre_tokenizer':{'type':'Metaspace','prepend_scheme':'always','split':false},"
          "'added_tokens':[{'id':20,'content':'X'}],",
          "", "aXa a", "10 20 10 10");
}

// After ByteLevel a pattern sees one printable character a byte: here the space's, U+0120.
static void patterns_after_bytes(void **state) {
    (void)state;
    static const char json[] = "{'pre_tokenizer':{'type':'Sequence','pretokenizers':[{'type':'"
                               "ByteLevel','use_regex':false,"
                               "'add_prefix_space':%s},{'type':'Split','pattern':{'Regex':'"
                               "\xc4\xa0'},'behavior':'Isolated'}]},"
                               "'model':{'vocab':{'a':0,'\xc4\xa0':1,'\xc4\xa0"
                               "a':2},'merges':['\xc4\xa0 a']}}";
    char text[600];
    df_tokenizer *tokenizer;
    snprintf(text, sizeof text, json, "false");
    assert_ok(make_tokenizer(text, &tokenizer));
    assert_ids(tokenizer, "a a", "0 1 0");
    df_tokenizer_close(tokenizer);
    snprintf(text, sizeof text, json, "true");
    assert_ok(make_tokenizer(text, &tokenizer));
    assert_ids(tokenizer, "a a", "1 0 1 0");
    assert_ids(tokenizer, " a", "1 0");
    df_tokenizer_close(tokenizer);
}

#define ADDED(flags) "'added_tokens':[{'id':20,'content':'X'" flags "},{'id':21,'content':'XX'}],"

static void added_tokens(void **state) {
    (void)state;
    check(ADDED(""), "", "aXbXXXc", "0 20 1 21 20 2"); // leftmost, then longest
    check(ADDED(",'single_word':true"), "", "aXb X X", "3 20 20");
    check(ADDED(",'lstrip':true"), "'unk_token':'?',", "a  Xa X", "0 20 0 20");
    check(ADDED(",'rstrip':true"), "'unk_token':'?',", "X  aX \t", "20 0 20");
    check(ADDED(",'special':true"), "'unk_token':'?',", "X  a", "20 9 9 0");
}

// A normalized added token is looked for in normalized text, by its normalized content.
static void normalized_added_tokens(void **state) {
    (void)state;
    static const char normalizer[] =
        "'normalizer':{'type':'Replace','pattern':{'String':' '},'content':'" MARK "'},"
        "'added_tokens':[{'id':20,'content':'c c','normalized':%s}],";
    char parts[400];
    snprintf(parts, sizeof parts, normalizer, "true");
    check(parts, "", "ac cb", "0 20 1");
    check(parts, "", "ac" MARK "cb", "0 20 1");
    snprintf(parts, sizeof parts, normalizer, "false");
    check(parts, "", "ac cb", "0 20 1");
    check(parts, "", "ac" MARK "cb", "0 2 7 2 1");
}

// A prepended mark that stays a token of its own ends where its section starts.
static void places_of_added_text(void **state) {
    (void)state;
    static const uint32_t ends[] = {0, 1, 2, 2, 3, 4, 5};
    df_tokenizer *tokenizer;
    df_tokens tokens = {0};
    assert_ok(make_tokenizer(
        "{'pre_tokenizer':{'type':'Metaspace'},'added_tokens':[{'id':20,'content':'X'}],"
        "'model':{'vocab':{'b':1,'" MARK "':7},'merges':[]}}",
        &tokenizer));
    assert_ids(tokenizer, "bXb b", "7 1 20 7 1 7 1");
    assert_ok(df_tokenizer_encode(tokenizer, "bXb b", 5, true, &tokens));
    for (size_t i = 0; i < tokens.count; i++) assert_int_equal(tokens.end[i], ends[i]);
    df_tokens_free(&tokens);
    df_tokenizer_close(tokenizer);
}

static void prepended_text(void **state) {
    (void)state;
    check("'normalizer':{'type':'Sequence','normalizers':[{'type':'Prepend','prepend':'" MARK
          "'}]},"
          "'added_tokens':[{'id':20,'content':'X','normalized':false}],",
          "", "aXa", "10 20 10");
    check("'normalizer':{'type':'Prepend','prepend':'" MARK "'},", "", "", "");
}

static void template_around(void **state) {
    (void)state;
    const char *parts = "'post_processor':{'type':'Sequence','processors':[{'type':'ByteLevel'},{'"
                        "type':'TemplateProcessing',"
                        "'single':[{'SpecialToken':{'id':'S'}},{'Sequence':{'id':'A'}},{'"
                        "SpecialToken':{'id':'E'}}],"
                        "'special_tokens':{'S':{'ids':[8,9]},'E':{'ids':[7]}}}]},";
    check(parts, "", "ab", "8 9 3 7");
    check(parts, "", "", "8 9 7");
}

// Where each token of `text` ends, with a model of single characters behind a normalizer.
static void check_ends(const char *normalizer, const char *text, size_t n, const uint32_t *ends) {
    char json[1000];
    df_tokenizer *tokenizer;
    df_tokens tokens = {0};
    snprintf(json, sizeof json,
             "{'normalizer':%s,'model':{'unk_token':'?','vocab':{'?':0,'a':1},'merges':[]}}",
             normalizer);
    assert_ok(make_tokenizer(json, &tokenizer));
    assert_ok(df_tokenizer_encode(tokenizer, text, strlen(text), false, &tokens));
    assert_int_equal(tokens.count, n);
    for (size_t i = 0; i < n; i++) assert_int_equal(tokens.end[i], ends[i]);
    df_tokens_free(&tokens);
    df_tokenizer_close(tokenizer);
}

// A letter that becomes two ends where it did; a dropped mark belongs to the letter before it.
static void places_of_changed_text(void **state) {
    (void)state;
    static const char bert[] = "{'type':'BertNormalizer'}", lower[] = "{'type':'Lowercase'}",
                      strip[] = "{'type':'Strip'}", accents[] = "{'type':'StripAccents'}",
                      pattern[] = "{'type':'Replace','pattern':{'Regex':' +|b'},'content':'xy'}";
    check_ends(lower, "A\xc4\xb0z", 4, (uint32_t[]){1, 3, 3, 4});
    check_ends(strip, " \xc2\xa0z a\n", 3, (uint32_t[]){4, 5, 6});
    check_ends(strip, " \n", 0, NULL);
    check_ends(accents,
               "\xcc\x81"
               "e\xcc\x81\xcc\xa3o",
               2, (uint32_t[]){7, 8});
    check_ends(pattern, "a  bc", 6, (uint32_t[]){1, 3, 3, 4, 4, 5});
    check_ends(bert, "\xe6\xbc\xa2\x07\xc3\x89", 4, (uint32_t[]){0, 3, 3, 6});
}

static const char *piece(const df_tokenizer *tokenizer, uint32_t id) {
    size_t bytes;
    return df_tokenizer_piece(tokenizer, id, &bytes);
}

// A pattern is not looked for in a part of a character.
static void patterns_and_parts_of_characters(void **state) {
    (void)state;
    char *back;
    size_t bytes;
    df_tokenizer *tokenizer;
    assert_ok(make_tokenizer(
        "{'pre_tokenizer':{'type':'ByteLevel'},'decoder':{'type':'Sequence','decoders':["
        "{'type':'ByteLevel'},{'type':'Replace','pattern':{'Regex':'.'},'content':'x'}]},"
        "'model':{'vocab':{'\u00c3':0,'\u00a9':1,'e':2},'merges':[]}}",
        &tokenizer));
    assert_string_equal(piece(tokenizer, 0), "\xc3");
    assert_string_equal(piece(tokenizer, 2), "x");
    assert_ok(df_tokenizer_decode(tokenizer, (uint32_t[]){0, 1, 0, 2}, 4, true, &back, &bytes));
    assert_string_equal(back, "xxx");
    df_free(back);
    df_tokenizer_close(tokenizer);
}

// A decoder without steps puts nothing between the tokens, no decoder a space.
static void decoder_without_steps(void **state) {
    (void)state;
    static const char *const parts[] = {"'decoder':{'type':'Sequence','decoders':[]},",
                                        "'decoder':null,", ""};
    static const char *const expected[] = {"ab", "a b", "a b"};
    for (int i = 0; i < 3; i++) {
        char json[200], *back;
        size_t bytes;
        df_tokenizer *tokenizer;
        snprintf(json, sizeof json, "{%s'model':{'vocab':{'a':0,'b':1},'merges':[]}}", parts[i]);
        assert_ok(make_tokenizer(json, &tokenizer));
        assert_ok(df_tokenizer_decode(tokenizer, (uint32_t[]){0, 1}, 2, true, &back, &bytes));
        assert_string_equal(back, expected[i]);
        df_free(back);
        df_tokenizer_close(tokenizer);
    }
}

// A piece is what a token shows with others on both sides; without a decoder spaces stand between.
static void pieces_of_words(void **state) {
    (void)state;
    static const char json[] =
        "{%s'model':{'vocab':{'a':0,'##b':1,'c$':2,'<0xC3>':3},'merges':[]}}";
    static const char *const parts[] = {"'decoder':{'type':'WordPiece'},",
                                        "'decoder':{'type':'BPEDecoder','suffix':'$'},",
                                        "'decoder':{'type':'ByteFallback'},", ""};
    static const char *const shown[][4] = {{" a", "b", " c$", " <0xC3>"},
                                           {"a", "##b", "c ", "<0xC3>"},
                                           {"a", "##b", "c$", "\xc3"},
                                           {"a", "##b", "c$", "<0xC3>"}};
    static const char *const whole[] = {"ab c$ <0xC3>", "a##bc <0xC3>", "a##bc$\xef\xbf\xbd",
                                        "a ##b c$ <0xC3>"};
    for (size_t i = 0; i < 4; i++) {
        char text[400], *back;
        size_t bytes;
        df_tokenizer *tokenizer;
        snprintf(text, sizeof text, json, parts[i]);
        assert_ok(make_tokenizer(text, &tokenizer));
        for (uint32_t id = 0; id < 4; id++) assert_string_equal(piece(tokenizer, id), shown[i][id]);
        assert_ok(df_tokenizer_decode(tokenizer, (uint32_t[]){0, 1, 2, 3}, 4, true, &back, &bytes));
        assert_string_equal(back, whole[i]);
        df_free(back);
        df_tokenizer_close(tokenizer);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decoder_without_steps),
        cmocka_unit_test(counts_and_flags),
        cmocka_unit_test(merges_by_rank),
        cmocka_unit_test(unknown_characters),
        cmocka_unit_test(whole_words_first),
        cmocka_unit_test(split_behaviors),
        cmocka_unit_test(white_space),
        cmocka_unit_test(other_pre_tokenizers),
        cmocka_unit_test(patterns_after_bytes),
        cmocka_unit_test(added_tokens),
        cmocka_unit_test(normalized_added_tokens),
        cmocka_unit_test(prepended_text),
        cmocka_unit_test(template_around),
        cmocka_unit_test(places_of_added_text),
        cmocka_unit_test(places_of_changed_text),
        cmocka_unit_test(pieces_of_words),
        cmocka_unit_test(patterns_and_parts_of_characters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
