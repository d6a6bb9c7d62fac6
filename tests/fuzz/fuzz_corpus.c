/* JSON Lines with labels, plain text, conversations (each also packed), arrays of ids: whatever the
 * bytes, a status; texts are valid UTF-8, labels lie inside. */
#include "darkfield/store.h"
#include "fuzz_file.h"

#include <string.h>

static void look(const df_corpus *corpus) {
    for (uint64_t d = 0; d < df_corpus_documents(corpus); d++) {
        size_t bytes, n;
        const char *text = df_corpus_text(corpus, d, &bytes);
        const df_span *spans = df_corpus_spans(corpus, d, &n);
        json_t *string = json_stringn(text, bytes); // NULL unless valid UTF-8
        if (string == NULL || text[bytes] != '\0') abort();
        json_decref(string);
        for (size_t i = 0; i < n; i++)
            if (spans[i].first >= spans[i].end || spans[i].end > bytes ||
                spans[i].concept >= df_corpus_concepts(corpus))
                abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *const suffixes[] = {".jsonl", ".txt", ".jsonl", ".npy", ".npz"};
    static const char *const chats[] = {NULL, NULL, "llama2", NULL, NULL};
    df_log_rank(1); // silence
    for (int i = 0; i < 5; i++) {
        const char *path = fuzz_file(data, size, suffixes[i]);
        df_corpus *corpus;
        const df_corpus_how how = {.labels = i == 0 ? "labels" : NULL, .chat = chats[i]};
        if (df_corpus_open(path, &how, &corpus) == DF_OK) look(corpus);
        df_corpus_close(&corpus);
        unlink(path);
    }
    if (df_memory_now() != 0) abort();
    return 0;
}
