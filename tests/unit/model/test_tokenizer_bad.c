/* Damaged and hostile tokenizer files, hostile texts, memory that runs out: one clear failure,
 * nothing leaked. */
#include "tokenizer_test.h"

#define GOLDEN DF_SOURCE_DIR "/tests/golden/tokenizer/"

#define MODEL "'model':{'vocab':{'a':0,'b':1,'ab':2},'merges':['a b']}"

static void refused(const char *json, const char *part) {
    df_tokenizer *tokenizer;
    size_t before = df_memory_now();
    assert_fails(make_tokenizer(json, &tokenizer), DF_BAD_INPUT, part);
    assert_null(tokenizer);
    assert_int_equal(df_memory_now(), before);
}

static void damaged_models(void **state) {
    (void)state;
    df_tokenizer *tokenizer;
    assert_fails(df_tokenizer_open("/nonexistent/tokenizer.json", &tokenizer), DF_BAD_INPUT,
                 "nonexistent");
    refused("", "inline");
    refused("[]", "object");
    refused("{}", "model is missing");
    refused("{'model':{'type':'Unigram','vocab':[]}}", "\"Unigram\" is not supported");
    refused("{'model':{'vocab':{},'merges':[]}}", "empty");
    refused("{'model':{'vocab':{'a':0}}}", "merges is missing");
    refused("{'model':{'vocab':{'a':0,'b':0},'merges':[]}}", "two tokens have the id 0");
    refused("{'model':{'vocab':{'a':-1},'merges':[]}}", "out of range");
    refused("{'model':{'vocab':{'a':4294967296},'merges':[]}}", "out of range");
    refused("{'model':{'vocab':{'a':9223372036854775807},'merges':[]}}", "out of range");
    refused("{'model':{'vocab':{'a':'0'},'merges':[]}}", "not an integer");
    refused("{'model':{'vocab':{'a':0},'merges':['a']}}", "merge 0 is neither");
    refused("{'model':{'vocab':{'a':0},'merges':['a a a']}}", "merge 0 is neither");
    refused("{'model':{'vocab':{'a':0},'merges':[['a']]}}", "merge 0 is neither");
    refused("{'model':{'vocab':{'a':0},'merges':[3]}}", "merge 0 is neither");
    refused("{'model':{'vocab':{'a':0},'merges':['a z']}}", "\"z\", which is not in");
    refused("{'model':{'vocab':{'a':0},'merges':['a a']}}", "\"aa\", which is not in");
    refused("{'model':{'vocab':{'a':0},'merges':[],'unk_token':'u'}}", "unk_token \"u\"");
    refused("{'model':{'vocab':{'a':0},'merges':[],'dropout':0.1}}", "dropout");
    refused("{'model':{'vocab':{'a':0},'merges':[],'end_of_word_suffix':'\u00e9'}}",
            "end_of_word_suffix");
    refused("{'model':{'vocab':{'a':0},'merges':[],'end_of_word_suffix':'$','byte_fallback':true}}",
            "byte_fallback beside");
    refused("{'model':{'vocab':{'a':0},'merges':['a a'],'continuing_subword_prefix':'##'}}",
            "shorter than the prefix");
}

// Patterns that PCRE2 would read otherwise than Oniguruma, or that Oniguruma does not know.
static void foreign_patterns(void **state) {
    (void)state;
    static const char *const patterns[][2] = {{"a{1,2}+", "+ behind {}"},
                                              {"[\\\\W]", "within a class"},
                                              {"[a[b]]", "class within"},
                                              {"[a&&b]", "class within"},
                                              {"\\\\Qa\\\\E", "\\Q"},
                                              {"a\\\\E", "\\E"},
                                              {"\\\\Ga", "\\G"},
                                              {"(*UTF)a", "(*"},
                                              {"a(*COMMIT)b", "(*"},
                                              {"(?s)a.b", "(?s"},
                                              {"(?P<n>a)", "(?P"},
                                              {"a(?i)b|c", "(?i) and a |"},
                                              {"(?im-s:a)", "group (?im-s,"},
                                              {"(?^:a)", "(?^"},
                                              {"(?", "not understood"},
                                              {"(?i", "group (?i,"}};
    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++) {
        char json[300];
        snprintf(json, sizeof json,
                 "{'pre_tokenizer':{'type':'Split','pattern':{'Regex':'%s'}}," MODEL "}",
                 patterns[i][0]);
        refused(json, patterns[i][1]);
    }
}

#define GROWS "{'type':'Replace','pattern':{'String':'a'},'content':'aaaaaaaaaaaaaaaa'}"

static void damaged_parts(void **state) {
    (void)state;
    refused("{'normalizer':{'type':'Precompiled'}," MODEL "}", "normalizer \"Precompiled\"");
    refused("{'normalizer':3," MODEL "}", "normalizer is not an object");
    refused("{'normalizer':{'type':'Sequence'}," MODEL "}", "normalizers is not a list");
    refused("{'normalizer':{'type':'Replace','pattern':{'Regex':'(a'},'content':''}," MODEL "}",
            "not understood");
    refused("{'normalizer':{'type':'Replace','pattern':{'String':''},'content':''}," MODEL "}",
            "empty");
    refused("{'pre_tokenizer':{'type':'UnicodeScripts'}," MODEL "}",
            "pre_tokenizer \"UnicodeScripts\"");
    refused("{'pre_tokenizer':{'type':'CharDelimiterSplit','delimiter':'ab'}," MODEL "}",
            "not one character");
    refused("{'pre_tokenizer':{'type':'Split','pattern':{'Regex':'[\\\\W]'}}," MODEL "}",
            "within a class");
    refused("{'pre_tokenizer':{'type':'Split','pattern':{'Regex':'a{1,2}+'}}," MODEL "}",
            "+ behind {}");
    refused("{'pre_tokenizer':{'type':'Metaspace','add_prefix_space':false,"
            "'prepend_scheme':'first'}," MODEL "}",
            "but add_prefix_space is false");
    refused("{'pre_tokenizer':{'type':'Split','pattern':{'Regex':'(a'}}," MODEL "}",
            "not understood");
    refused("{'pre_tokenizer':{'type':'Split','pattern':{'Regex':'[a[b]]'}}," MODEL "}",
            "class within");
    refused("{'pre_tokenizer':{'type':'Split','pattern':{'Regex':''}}," MODEL "}", "empty");
    refused("{'pre_tokenizer':{'type':'Split','pattern':{'String':'a'},'behavior':'X'}," MODEL "}",
            "\"X\"");
    refused("{'pre_tokenizer':{'type':'Metaspace','prepend_scheme':'x'}," MODEL "}",
            "prepend_scheme");
    refused("{'post_processor':{'type':'Other'}," MODEL "}", "\"Other\"");
    refused("{'post_processor':{'type':'BertProcessing'}," MODEL "}", "outside");
    refused("{'post_processor':{'type':'RobertaProcessing','cls':['a',0],'sep':['z',9]}," MODEL "}",
            "outside");
    refused("{'post_processor':{'type':'TemplateProcessing','single':[]}," MODEL "}", "no text");
    refused("{'post_processor':{'type':'TemplateProcessing','single':[{'SpecialToken':{'id':'x'}}]}"
            "," MODEL "}",
            "without ids");
    refused("{'post_processor':{'type':'TemplateProcessing','single':[{'SpecialToken':{'id':'x'}}],"
            "'special_tokens':{'x':{'ids':[77]}}}," MODEL "}",
            "outside");
    refused("{'decoder':{'type':'CTC'}," MODEL "}", "decoder \"CTC\"");
    refused("{'decoder':{'type':'BPEDecoder','suffix':''}," MODEL "}", "empty");
    refused("{'decoder':{'type':'Strip','content':'ab'}," MODEL "}", "not one character");
    refused("{'decoder':{'type':'Strip','content':'a','start':-1}," MODEL "}", "a count outside");
    refused("{'decoder':{'type':'Replace','pattern':{'Regex':'('},'content':''}," MODEL "}",
            "not understood");
    refused("{'decoder':{'type':'Sequence','decoders':[" GROWS "," GROWS "," GROWS "," GROWS
            "," GROWS "," GROWS "]}," MODEL "}",
            "grows beyond");
    refused("{'added_tokens':{}," MODEL "}", "added_tokens is not a list");
    refused("{'added_tokens':[3]," MODEL "}", "added_tokens");
    refused("{'added_tokens':[{'id':9}]," MODEL "}", "content");
    refused("{'added_tokens':[{'id':1,'content':'X'}]," MODEL "}", "the id 1 of another");
    refused("{'added_tokens':[{'id':5,'content':'a'}]," MODEL "}", "but 0 in the vocabulary");
    refused("{'added_tokens':[{'id':5,'content':'X'},{'id':5,'content':'Y'}]," MODEL "}",
            "of another");
    refused("{'added_tokens':[{'id':999999999,'content':'X'}]," MODEL "}", "out of range");
}

// Opening decodes every token alone: many steps, and many tokens that grow.
static void costly_decoders(void **state) {
    (void)state;
    static char json[100000];
    df_tokenizer *tokenizer;
    for (int steps = 32; steps <= 33; steps++) {
        int n = snprintf(json, sizeof json, "{'decoder':{'type':'Sequence','decoders':[");
        for (int i = 0; i < steps; i++)
            n += snprintf(json + n, sizeof json - (size_t)n, "%s{'type':'Fuse'}", i > 0 ? "," : "");
        snprintf(json + n, sizeof json - (size_t)n, "]}," MODEL "}");
        if (steps == 33) refused(json, "more than 32 steps");
        if (steps == 32) assert_ok(make_tokenizer(json, &tokenizer));
        if (steps == 32) df_tokenizer_close(tokenizer);
    }
    int n = snprintf(json, sizeof json,
                     "{'decoder':{'type':'Sequence','decoders':[" GROWS "," GROWS "," GROWS
                     "," GROWS "]},'model':{'merges':[],'vocab':{'b':0");
    for (int i = 1; i < 500; i++) // 64 KiB each
        n += snprintf(json + n, sizeof json - (size_t)n, ",'a%d':%d", i, i);
    snprintf(json + n, sizeof json - (size_t)n, "}}}");
    refused(json, "decoder: its steps write more than");
}

// Whatever comes out of a changed file either works or is refused.
static void try_text(const char *text, size_t bytes) {
    static const char probe[] = "Hello  w\xc3\xb6rld\n\t12 <|endoftext|> <mask> \xf0\x9f\x98\x80";
    df_tokenizer *tokenizer;
    df_tokens tokens = {0};
    df_status status = df_tokenizer_parse(text, bytes, "changed", &tokenizer);
    assert_true(status == DF_OK || status == DF_BAD_INPUT);
    if (status == DF_OK) {
        status = df_tokenizer_encode(tokenizer, probe, sizeof probe - 1, true, &tokens);
        assert_true(status == DF_OK || status == DF_BAD_INPUT);
        char *back = NULL;
        size_t n;
        assert_ok(df_tokenizer_decode(tokenizer, tokens.id, tokens.count, false, &back, &n));
        df_free(back);
    }
    df_tokens_free(&tokens);
    df_tokenizer_close(tokenizer);
    df_error_clear();
}

static void cut_and_changed_files(void **state) {
    (void)state;
    static const char *const paths[] = {GOLDEN "gpt2_like.json", GOLDEN "fallback.json",
                                        GOLDEN "gpt1_like.json", GOLDEN "prefix.json"};
    size_t before = df_memory_now();
    for (int p = 0; p < 4; p++) {
        char *text;
        size_t bytes;
        assert_ok(df_read_file(paths[p], &text, &bytes));
        for (size_t n = 0; n < bytes; n += 97) try_text(text, n);
        for (uint64_t i = 0; i < 400; i++) {
            size_t at = df_random_bits(5, DF_STREAM_TEST, 2 * i) % bytes;
            char kept = text[at];
            static const char changes[] = "0123456789\"[]{},:\\ nabz";
            text[at] = changes[df_random_bits(5, DF_STREAM_TEST, 2 * i + 1) % (sizeof changes - 1)];
            try_text(text, bytes);
            text[at] = kept;
        }
        df_free(text);
    }
    assert_int_equal(df_memory_now(), before);
}

static void hostile_texts(void **state) {
    (void)state;
    static const char *const broken[] = {
        "a\xff",         "a\xc3",     "a\xe2\x82",         "\x80",
        "a\xed\xa0\x80", "a\xc0\xaf", "a\xf4\x90\x80\x80", "a\xf0\x9f\x98"};
    df_tokenizer *tokenizer;
    df_tokens tokens = {0};
    assert_ok(df_tokenizer_open(GOLDEN "gpt2_like.json", &tokenizer));
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++)
        assert_fails(df_tokenizer_encode(tokenizer, broken[i], strlen(broken[i]), true, &tokens),
                     DF_BAD_INPUT, i == 3 ? "at byte 0" : "at byte 1");
    assert_ok(
        df_tokenizer_encode(tokenizer, "a\0b", 3, true, &tokens)); // a zero byte is a character
    assert_int_equal(tokens.end[tokens.count - 1], 3);
    df_tokens_free(&tokens);
    df_tokenizer_close(tokenizer);
}

// A text of n 'a' that a part with a pattern takes too long on.
static void too_long(const char *part, size_t n) {
    char json[400];
    df_tokenizer *tokenizer;
    df_tokens tokens = {0};
    char *text;
    assert_ok(DF_NEW(text, n));
    memset(text, 'a', n);
    snprintf(json, sizeof json, "{%s," MODEL "}", part);
    assert_ok(make_tokenizer(json, &tokenizer));
    assert_fails(df_tokenizer_encode(tokenizer, text, n, true, &tokens), DF_BAD_INPUT,
                 "takes too long");
    assert_ok(df_tokenizer_encode(tokenizer, "x", 1, true, &tokens)); // another text, a new budget
    df_tokens_free(&tokens);
    df_tokenizer_close(tokenizer);
    df_free(text);
}

// Patterns that would take for ever: at one start, and at every start, with and without a match.
static void hostile_patterns(void **state) {
    (void)state;
    too_long("'pre_tokenizer':{'type':'Split','pattern':{'Regex':'(a+)+(b+|c+)+$'}}", 64);
    too_long("'pre_tokenizer':{'type':'Split','pattern':{'Regex':'(?:(a)|b)*[cd]'}}", 100000);
    too_long("'pre_tokenizer':{'type':'Split','pattern':{'Regex':'(?:a|a){22}b|a'}}", 100000);
    too_long("'normalizer':{'type':'Replace','pattern':{'Regex':'(?:(a)|b)*[cd]'},'content':''}",
             100000);
}

static void hostile_decoder(void **state) {
    (void)state;
    enum { TOKENS = 100000 };
    df_tokenizer *tokenizer;
    char *text = NULL;
    size_t bytes;
    uint32_t *ids;
    assert_ok(DF_NEW(ids, TOKENS)); // of "a"
    assert_ok(make_tokenizer(
        "{'decoder':{'type':'Sequence','decoders':[{'type':'Fuse'},{'type':'Replace','pattern':"
        "{'Regex':'(?:(a)|b)*[cd]'},'content':''}]}," MODEL "}",
        &tokenizer));
    assert_fails(df_tokenizer_decode(tokenizer, ids, TOKENS, false, &text, &bytes), DF_BAD_INPUT,
                 "takes too long");
    df_tokenizer_close(tokenizer);
    df_free(ids);
}

// What a normalizer makes of 20 kB is bounded before there is memory for it.
static void growing_texts(void **state) {
    (void)state;
    enum { BYTES = 20000, CONTENT = 1000 };
    df_tokenizer *tokenizer;
    df_tokens tokens = {0};
    char *text, content[CONTENT + 1], json[2 * CONTENT];
    assert_ok(DF_NEW(text, BYTES));
    memset(text, 'a', BYTES);
    memset(content, 'b', CONTENT);
    content[CONTENT] = '\0';
    for (int i = 0; i < 2; i++) {
        snprintf(json, sizeof json,
                 "{'normalizer':{'type':'Replace','pattern':{%s},'content':'%s'}," MODEL "}",
                 i == 0 ? "'Regex':'x*'" : "'String':'a'", content);
        assert_ok(make_tokenizer(json, &tokenizer));
        size_t before = df_memory_now();
        assert_fails(df_tokenizer_encode(tokenizer, text, BYTES, true, &tokens), DF_BAD_INPUT,
                     "grows beyond 2328576 bytes");
        assert_true(df_memory_now() - before < (size_t)100 << 20);
        assert_ok(df_tokenizer_encode(tokenizer, text, 100, true, &tokens));
        df_tokens_free(&tokens);
        df_tokenizer_close(tokenizer);
    }
    df_free(text);
}

// Matches far apart, and at the borders of what is searched at once, are all found.
static void far_matches(void **state) {
    (void)state;
    enum { BYTES = 300000 };
    df_tokenizer *tokenizer;
    df_tokens tokens = {0};
    char *text;
    static const uint32_t places[] = {4095, 4096, 4097, 8193, 50000, BYTES - 1};
    assert_ok(DF_NEW(text, BYTES));
    memset(text, 'x', BYTES); // leaves no token
    for (size_t i = 0; i < 6; i++) text[places[i]] = 'a';
    assert_ok(make_tokenizer("{'normalizer':{'type':'Replace','pattern':{'Regex':'a'},'content':"
                             "'b'}," MODEL "}",
                             &tokenizer));
    assert_ok(df_tokenizer_encode(tokenizer, text, BYTES, true, &tokens));
    assert_int_equal(tokens.count, 6);
    for (size_t i = 0; i < 6; i++) assert_int_equal(tokens.end[i], places[i] + 1);
    for (size_t i = 0; i < 6; i++) assert_int_equal(tokens.id[i], 1);
    df_tokens_free(&tokens);
    df_tokenizer_close(tokenizer);
    df_free(text);
}

static df_status open_and_encode(const char *path) {
    static const char text[] = "the  caf\xc3\xa9 <s> x<mask> \xe1\x84\x92\xe1\x85\xa1";
    df_tokenizer *tokenizer;
    df_tokens tokens = {0};
    char *back = NULL;
    size_t n;
    df_status status = df_tokenizer_open(path, &tokenizer);
    if (status == DF_OK)
        status = df_tokenizer_encode(tokenizer, text, sizeof text - 1, true, &tokens);
    if (status == DF_OK)
        status = df_tokenizer_decode(tokenizer, tokens.id, tokens.count, false, &back, &n);
    df_free(back);
    df_tokens_free(&tokens);
    df_tokenizer_close(tokenizer);
    return status;
}

static void memory_runs_out(void **state) {
    (void)state;
    static const char *const paths[] = {GOLDEN "gpt2_like.json", GOLDEN "clip_like.json",
                                        GOLDEN "prefix.json"};
    size_t before = df_memory_now();
    for (int p = 0; p < 3; p++) {
        df_status status = DF_FAILED;
        for (int64_t calls = 0; status != DF_OK && calls < 5000; calls++) {
            df_memory_fail_after(calls);
            status = open_and_encode(paths[p]);
            df_memory_fail_after(-1);
            assert_int_equal(df_memory_now(), before);
            assert_true(status == DF_OK || status == DF_FAILED);
            df_error_clear();
        }
        assert_int_equal(status, DF_OK);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(damaged_models),   cmocka_unit_test(damaged_parts),
        cmocka_unit_test(foreign_patterns), cmocka_unit_test(costly_decoders),
        cmocka_unit_test(hostile_texts),    cmocka_unit_test(cut_and_changed_files),
        cmocka_unit_test(hostile_patterns), cmocka_unit_test(hostile_decoder),
        cmocka_unit_test(far_matches),      cmocka_unit_test(growing_texts),
        cmocka_unit_test(memory_runs_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
