/* Where a corpus comes from: folders and patterns, gzip and zstd whole and damaged, arrays of token
 * ids as numpy writes them (tests/golden/tokens_oracle.py), conversations. */
#include "df_test.h"

#include "darkfield/store.h"
#include <zlib.h>
#include <zstd.h>

#define TOKENS DF_SOURCE_DIR "/tests/golden/tokens/"

static char folder[256], path[400];

static int set_up(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "%s", df_test_folder("store-corpus-sources"));
    return 0;
}

static const char *put(const char *name, const char *bytes, size_t n) {
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_true(fwrite(bytes, 1, n, file) == n && fclose(file) == 0);
    return path;
}

static df_corpus *open_plain(const char *what) {
    df_corpus *corpus;
    assert_ok(df_corpus_open(what, &(df_corpus_how){.field = NULL}, &corpus));
    return corpus;
}

static void refused(const char *what, const df_corpus_how *how, const char *because) {
    df_corpus *corpus;
    size_t before = df_memory_now();
    assert_fails(df_corpus_open(what, how, &corpus), DF_BAD_INPUT, because);
    assert_null(corpus);
    assert_int_equal(df_memory_now(), before);
}

static void refused_plain(const char *what, const char *because) {
    refused(what, &(df_corpus_how){.field = NULL}, because);
}

static void assert_texts(const df_corpus *corpus, const char *expected) {
    char all[1000] = "";
    for (uint64_t d = 0; d < df_corpus_documents(corpus); d++) {
        strcat(all, d > 0 ? "|" : "");
        strcat(all, df_corpus_text(corpus, d, NULL));
    }
    assert_string_equal(all, expected);
}

/* ---- folders and patterns ------------------------------------------------------------------- */

static void folders_and_patterns(void **state) {
    (void)state;
    char pattern[400], inner[400];
    df_corpus *corpus;
    uint64_t hash;
    snprintf(inner, sizeof inner, "%s/many", folder);
    assert_ok(df_make_folder(inner));
    refused_plain(inner, "holds no texts");
    put("many/b.jsonl", "{\"text\": \"b1\"}\n{\"text\": \"b2\"}\n", 30);
    put("many/a.txt", "a", 1);
    put("many/c.txt", "c", 1);
    put("many/.hidden.txt", "h", 1);
    put("many/README.md", "r", 1);
    put("many/empty.txt", "", 0);
    corpus = open_plain(inner);
    assert_texts(corpus, "a|b1|b2|c");
    hash = df_corpus_hash(corpus);
    df_corpus_close(&corpus);
    snprintf(pattern, sizeof pattern, "%s/many/[abc].*", folder);
    corpus = open_plain(pattern);
    assert_texts(corpus, "a|b1|b2|c");
    assert_true(df_corpus_hash(corpus) == hash);
    df_corpus_close(&corpus);
    assert_ok(df_corpus_open(pattern, &(df_corpus_how){.max_documents = 2}, &corpus));
    assert_texts(corpus, "a|b1");
    df_corpus_close(&corpus);
    snprintf(pattern, sizeof pattern, "%s/m*/none*", folder);
    refused_plain(pattern, "no file matches");
    corpus = open_plain(put("odd[name].txt", "o", 1)); // a file of that very name goes before
    assert_texts(corpus, "o");
    df_corpus_close(&corpus);
    put("many/d.jsonl", "{\"text\": \"d\"}\nnot JSON\n", 23);
    refused_plain(inner, "d.jsonl, line 2"); // lines are counted by file
    put("many/d.jsonl", "{\"text\": \"d\"}\n", 14);
    put("many/e.npy", "", 0);
    refused_plain(inner, "make no one corpus");
    assert_int_equal(df_memory_now(), 0);
}

/* ---- packed texts --------------------------------------------------------------------------- */

#define LINES "{\"text\": \"one\"}\n{\"text\": \"two two two two\"}\n"

static size_t gzip(const char *text, size_t n, char *out, size_t room) {
    z_stream z = {.next_in = (Bytef *)text, .avail_in = (uInt)n};
    z.next_out = (Bytef *)out;
    z.avail_out = (uInt)room;
    assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY), Z_OK);
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    deflateEnd(&z);
    return z.total_out;
}

// With the frame's checksum.
static size_t zstd(const char *text, size_t n, char *out, size_t room) {
    ZSTD_CCtx *context = ZSTD_createCCtx();
    ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1);
    size_t bytes = ZSTD_compress2(context, out, room, text, n);
    ZSTD_freeCCtx(context);
    assert_false(ZSTD_isError(bytes));
    return bytes;
}

typedef size_t packer(const char *text, size_t n, char *out, size_t room);
static packer *const packers[2] = {gzip, zstd};
static const char *const names[2] = {"p.jsonl.gz", "p.jsonl.zst"};

static void packed_texts(void **state) {
    (void)state;
    char packed[2000];
    for (int kind = 0; kind < 2; kind++) {
        size_t n = packers[kind](LINES, strlen(LINES), packed, sizeof packed), m;
        df_corpus *corpus = open_plain(put(names[kind], packed, n));
        assert_texts(corpus, "one|two two two two");
        df_corpus_close(&corpus);
        m = n + packers[kind](LINES, strlen(LINES), packed + n, sizeof packed - n);
        corpus = open_plain(put(names[kind], packed, m)); // member after member
        assert_texts(corpus, "one|two two two two|one|two two two two");
        df_corpus_close(&corpus);
        for (size_t cut = 4; cut < n; cut++)
            refused_plain(put(names[kind], packed, cut), "cannot be unpacked");
        for (size_t cut = n + 2; cut < m; cut++)
            refused_plain(put(names[kind], packed, cut), "cannot be unpacked");
        n = packers[kind]("plain", 5, packed, sizeof packed);
        corpus = open_plain(put(kind == 0 ? "p.txt.gz" : "p.txt.zst", packed, n));
        assert_texts(corpus, "plain");
        df_corpus_close(&corpus);
    }
    size_t n = gzip("end", 3, packed, 1000);
    memset(packed + n, 0, 500); // what tapes leave behind gzip
    df_corpus *corpus = open_plain(put("tape.txt.gz", packed, n + 500));
    assert_texts(corpus, "end");
    df_corpus_close(&corpus);
    refused_plain(put("not.txt.gz", "plain text", 10), "expected gzip or zstd");
    refused_plain(put("not.txt.zst", "", 0), "expected gzip or zstd");
}

// Any byte changed: refused, or (where it is not covered by a checksum) still the same text.
static void damaged_texts(void **state) {
    (void)state;
    char packed[2000];
    for (int kind = 0; kind < 2; kind++) {
        size_t n = packers[kind](LINES, strlen(LINES), packed, sizeof packed), refusals = 0;
        for (size_t i = 0; i < 8 * n; i++) {
            df_corpus *corpus;
            packed[i / 8] = (char)(packed[i / 8] ^ 1 << i % 8);
            put(names[kind], packed, n);
            packed[i / 8] = (char)(packed[i / 8] ^ 1 << i % 8);
            df_status status = df_corpus_open(path, &(df_corpus_how){.max_documents = 0}, &corpus);
            if (status == DF_OK) assert_texts(corpus, "one|two two two two");
            if (status != DF_OK) assert_int_equal(status, DF_BAD_INPUT);
            refusals += status != DF_OK;
            df_corpus_close(&corpus);
            df_error_clear();
        }
        assert_true(refusals > 4 * n);
    }
    assert_int_equal(df_memory_now(), 0);
}

// A file that grows without end stops at a bound. zstd packs zeros about 16000 to 1.
static void bombs_are_refused(void **state) {
    (void)state;
    size_t n = (size_t)300 << 20;
    char *zeros = calloc(n, 1), *packed = malloc(1 << 20);
    assert_non_null(zeros);
    size_t bytes = zstd(zeros, n, packed, 1 << 20);
    free(zeros);
    refused_plain(put("bomb.txt.zst", packed, bytes), "thousandfold");
    free(packed);
}

/* ---- tokens --------------------------------------------------------------------------------- */

static void assert_ids(const char *name, const char *expected) {
    char all[1000] = "", file[400];
    snprintf(file, sizeof file, TOKENS "%s", name);
    df_corpus *corpus = open_plain(file);
    for (uint64_t d = 0; d < df_corpus_documents(corpus); d++) {
        size_t n, used = strlen(all);
        const uint32_t *id = df_corpus_tokens(corpus, d, &n);
        used += (size_t)snprintf(all + used, 20, "%s", d > 0 ? "| " : "");
        for (size_t i = 0; i < n; i++) used += (size_t)snprintf(all + used, 20, "%u ", id[i]);
        assert_string_equal(df_corpus_text(corpus, d, NULL), "");
    }
    assert_string_equal(all, expected);
    df_corpus_close(&corpus);
}

static void arrays_of_tokens(void **state) {
    (void)state;
    assert_ids("flat.npz", "5 50256 0 | | 65535 7 ");
    assert_ids("packed.npz", "5 50256 0 | | 65535 7 ");
    assert_ids("flat.safetensors", "5 50256 0 | | 65535 7 ");
    assert_ids("rows.npy", "1 2 3 | 4 5 70000 ");
    assert_ids("one.npy", "5 50256 0 65535 7 ");
    df_corpus *a = open_plain(TOKENS "flat.npz"), *b = open_plain(TOKENS "packed.npz");
    assert_true(df_corpus_hash(a) == df_corpus_hash(b)); // of the ids, not of how they are stored
    df_corpus_close(&a);
    df_corpus_close(&b);
    assert_ok(df_corpus_open(TOKENS "flat.npz", &(df_corpus_how){.max_documents = 1}, &a));
    assert_int_equal(df_corpus_documents(a), 1);
    df_corpus_close(&a);
    refused_plain(TOKENS "real.npy", "expected token ids");
    refused_plain(TOKENS "negative.npy", "negative");
    refused_plain(TOKENS "past.npz", "they decrease");
    refused(TOKENS "one.npy", &(df_corpus_how){.labels = "l"}, "no labels");
    refused(TOKENS "one.npy", &(df_corpus_how){.chat = "chatml"}, "no messages");
    refused_plain(put("cut.npy", "\x93NUMPY\x01\x00", 8), "no .npy array");
    assert_int_equal(df_memory_now(), 0);
}

static void mutated_tokens(void **state) {
    (void)state;
    static const char *const files[] = {"flat.npz", "rows.npy", "flat.safetensors"};
    size_t opened = 0;
    for (uint64_t i = 0; i < 3000; i++) {
        char *bytes, name[40], source[400];
        size_t n;
        df_corpus *corpus;
        snprintf(source, sizeof source, TOKENS "%s", files[i % 3]);
        snprintf(name, sizeof name, "m-%s", files[i % 3]);
        assert_ok(df_read_file(source, &bytes, &n));
        for (uint64_t j = 0; j <= i % 4; j++) {
            uint64_t r = df_random_bits(i, DF_STREAM_TEST, j);
            bytes[r % n] = (char)(r >> 32);
        }
        put(name, bytes, i % 5 == 0 ? n - i % n : n);
        df_free(bytes);
        df_status status = df_corpus_open(path, &(df_corpus_how){.max_documents = 0}, &corpus);
        assert_true(status == DF_OK || status == DF_BAD_INPUT);
        opened += status == DF_OK;
        df_corpus_close(&corpus);
        assert_int_equal(df_memory_now(), 0);
        df_error_clear();
    }
    assert_true(opened > 10 && opened < 2990);
}

/* ---- conversations -------------------------------------------------------------------------- */

/* The texts are what the families' own published templates give (rendered by @huggingface/jinja of
 * npm), without the BOS token before them. Systems in the first user's message: Gemma 3's rule. */
#define TALK                                                                                       \
    "{\"role\": \"user\", \"content\": \"  Hello\\n\"}, "                                          \
    "{\"role\": \"assistant\", \"content\": \" Hi there \"}, "                                     \
    "{\"role\": \"user\", \"content\": \"Who?\"}, {\"role\": \"assistant\", \"content\": \"Me.\"}"
#define SYSTEM "{\"role\": \"system\", \"content\": \" Be kind. \"}"

static const struct {
    const char *chat, *plain, *with_system;
} talks[] = {
    {"chatml",
     "<|im_start|>user\n  Hello\n<|im_end|>\n<|im_start|>assistant\n Hi there <|im_end|>\n"
     "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\nMe.<|im_end|>\n",
     "<|im_start|>system\n Be kind. <|im_end|>\n<|im_start|>user\n  Hello\n<|im_end|>\n"
     "<|im_start|>assistant\n Hi there <|im_end|>\n<|im_start|>user\nWho?<|im_end|>\n"
     "<|im_start|>assistant\nMe.<|im_end|>\n"},
    {"llama2", "[INST] Hello [/INST] Hi there </s><s>[INST] Who? [/INST] Me. </s>",
     "[INST] <<SYS>>\n Be kind. \n<</SYS>>\n\n  Hello [/INST] Hi there </s><s>[INST] Who? [/INST] "
     "Me. </s>"},
    {"llama3",
     "<|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|>"
     "<|start_header_id|>assistant<|end_header_id|>\n\nHi there<|eot_id|>"
     "<|start_header_id|>user<|end_header_id|>\n\nWho?<|eot_id|>"
     "<|start_header_id|>assistant<|end_header_id|>\n\nMe.<|eot_id|>",
     "<|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>"
     "<|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|>"
     "<|start_header_id|>assistant<|end_header_id|>\n\nHi there<|eot_id|>"
     "<|start_header_id|>user<|end_header_id|>\n\nWho?<|eot_id|>"
     "<|start_header_id|>assistant<|end_header_id|>\n\nMe.<|eot_id|>"},
    {"mistral", "[INST]   Hello\n [/INST] Hi there </s>[INST] Who? [/INST]Me.</s>",
     "[INST]  Be kind. \n\n  Hello\n [/INST] Hi there </s>[INST] Who? [/INST]Me.</s>"},
    {"mistral-tekken", "[INST]  Hello\n[/INST] Hi there </s>[INST]Who?[/INST]Me.</s>",
     "[INST] Be kind. \n\n  Hello\n[/INST] Hi there </s>[INST]Who?[/INST]Me.</s>"},
    {"gemma",
     "<start_of_turn>user\nHello<end_of_turn>\n<start_of_turn>model\nHi there<end_of_turn>\n"
     "<start_of_turn>user\nWho?<end_of_turn>\n<start_of_turn>model\nMe.<end_of_turn>\n",
     "<start_of_turn>user\n Be kind. \n\nHello<end_of_turn>\n<start_of_turn>model\nHi there"
     "<end_of_turn>\n<start_of_turn>user\nWho?<end_of_turn>\n<start_of_turn>model\nMe."
     "<end_of_turn>\n"},
};

static void conversations(void **state) {
    (void)state;
    static const char text[] =
        "{\"messages\": [" TALK "]}\n{\"messages\": [" SYSTEM ", " TALK "]}\n";
    put("talk.jsonl", text, sizeof text - 1);
    for (size_t i = 0; i < sizeof talks / sizeof talks[0]; i++) {
        df_corpus *corpus;
        const df_corpus_how how = {.field = "messages", .chat = talks[i].chat};
        assert_ok(df_corpus_open(path, &how, &corpus));
        assert_string_equal(df_corpus_text(corpus, 0, NULL), talks[i].plain);
        assert_string_equal(df_corpus_text(corpus, 1, NULL), talks[i].with_system);
        df_corpus_close(&corpus);
    }
    assert_int_equal(df_memory_now(), 0);
}

static void bad_talk(const char *chat, const char *messages, const char *because) {
    char line[600];
    int n = snprintf(line, sizeof line, "{\"text\": %s}\n", messages);
    for (char *p = line; *p != '\0'; p++)
        if (*p == '\'') *p = '"';
    refused(put("bad.jsonl", line, (size_t)n), &(df_corpus_how){.chat = chat}, because);
}

static void broken_conversations(void **state) {
    (void)state;
    static const char user[] = "{'role': 'user', 'content': 'x'}";
    char twice[200];
    snprintf(twice, sizeof twice, "[%s, %s]", user, user);
    bad_talk("chatml", "'x'", "expected a list \"text\"");
    bad_talk("chatml", "[3]", "bad.jsonl:1: \"text\": expected messages");
    bad_talk("chatml", "[{'role': 'user', 'content': [1]}]", "expected messages");
    bad_talk("chatml", "[{'role': 'user', 'content': 'a\\u0000b'}]", "bad.jsonl");
    bad_talk("gemma", twice, "two user messages");
    bad_talk("llama2", "[{'role': 'assistant', 'content': 'x'}]", "follows no user");
    bad_talk("mistral", "[{'role': 'tool', 'content': 'x'}]", "the roles");
    bad_talk("gemma", "[{'role': 'system', 'content': 'x'}]", "followed by no user");
    put("bad.jsonl", "{\"text\": [1]}\n", 14);
    refused_plain(path, "is it of messages? (text.chat)");
    refused(put("plain.txt", "x", 1), &(df_corpus_how){.chat = "gemma"}, "need JSON Lines");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(folders_and_patterns), cmocka_unit_test(packed_texts),
        cmocka_unit_test(damaged_texts),        cmocka_unit_test(bombs_are_refused),
        cmocka_unit_test(arrays_of_tokens),     cmocka_unit_test(mutated_tokens),
        cmocka_unit_test(conversations),        cmocka_unit_test(broken_conversations),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
