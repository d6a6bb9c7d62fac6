/* Held-out documents as windows of tokens. */
#include "darkfield/loss.h"

#include <string.h>

/* What is known while documents are laid end to end. */
typedef struct packing {
    df_loss_text *text;
    const df_acts_filter *filter;
    uint64_t rows, most;
    bool by_document;
} packing;

static df_status read_packing(const df_acts *acts, packing *p) {
    int64_t context = 0;
    char *how = NULL;
    DF_TRY(df_reader_int(acts->file, "/corpus", "context", &context));
    DF_TRY(df_reader_text(acts->file, "/corpus", "packing", &how));
    p->by_document = strcmp(how, "document") == 0;
    bool known = p->by_document || strcmp(how, "stream") == 0;
    p->text->context = context > 0 ? (size_t)context : 0;
    df_free(how);
    if (known && context > 1) return DF_OK;
    return df_fail(DF_BAD_INPUT, "%s holds no windows of text: harvest the text itself",
                   acts->path);
}

// Opens a window at the next row; false when there are enough.
static bool next_window(packing *p) {
    df_loss_text *t = p->text;
    if (p->most > 0 && t->windows == p->most) return false;
    t->window[t->windows++] = p->rows;
    return true;
}

static bool add_rows(packing *p, const df_acts *acts, uint64_t document) {
    df_loss_text *t = p->text;
    for (uint64_t r = acts->document[document]; r < acts->document[document + 1]; r++) {
        bool first = p->by_document && r == acts->document[document];
        bool full = t->windows == 0 || p->rows - t->window[t->windows - 1] == t->context;
        if ((first || full) && !next_window(p)) return false;
        uint64_t place = p->rows - t->window[t->windows - 1];
        bool added = acts->token_end[r] == 0 && (int64_t)acts->tokens[r] == acts->bos;
        t->token[p->rows] = acts->tokens[r];
        t->changed[p->rows] = df_acts_passes(acts, p->filter, acts->tokens[r], place);
        if (place > 0) t->scored[p->rows - 1] = !added;
        p->rows++;
    }
    return true;
}

static bool add_document(packing *p, const df_acts *acts, uint64_t document) {
    uint64_t first = p->rows;
    bool room = add_rows(p, acts, document);
    if (p->rows > first) p->text->document[p->text->documents++] = first;
    return room;
}

static df_status allocate(df_acts *const *acts, size_t files, df_loss_text *t) {
    uint64_t rows = 0, documents = 0;
    for (size_t f = 0; f < files; f++)
        for (uint64_t d = 0; d < acts[f]->documents; d++)
            if (acts[f]->heldout[d]) {
                rows += acts[f]->document[d + 1] - acts[f]->document[d];
                documents++;
            }
    if (rows == 0)
        return df_fail(DF_BAD_INPUT, "%s holds no held-out rows: harvest with text.heldout above 0",
                       acts[0]->path);
    DF_TRY(DF_NEW(t->window, rows + 1));
    DF_TRY(DF_NEW(t->document, documents + 1));
    DF_TRY(DF_NEW(t->token, rows));
    DF_TRY(DF_NEW(t->changed, rows));
    return DF_NEW(t->scored, rows);
}

df_status df_loss_text_make(df_acts *const *acts, size_t files, const df_acts_filter *filter,
                            uint64_t most, df_loss_text *out) {
    packing p = {.text = out, .filter = filter, .most = most};
    df_status status;
    *out = (df_loss_text){0};
    DF_GO(read_packing(acts[0], &p));
    DF_GO(allocate(acts, files, out));
    bool room = true;
    for (size_t f = 0; f < files && room; f++)
        for (uint64_t d = 0; d < acts[f]->documents && room; d++)
            if (acts[f]->heldout[d]) room = add_document(&p, acts[f], d);
    out->window[out->windows] = out->document[out->documents] = p.rows;
done:
    if (status != DF_OK) df_loss_text_free(out);
    return status;
}

void df_loss_text_free(df_loss_text *text) {
    df_free(text->window);
    df_free(text->document);
    df_free(text->token);
    df_free(text->changed);
    df_free(text->scored);
    *text = (df_loss_text){0};
}
