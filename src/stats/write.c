/* The result file of the statistics. */
#include "stats_internal.h"

#include <math.h>

/* Datasets in the order of their declaration. */
enum {
    FIRES,
    FREQUENCY,
    MEAN,
    MAX,
    HISTOGRAM,
    EDGES,
    VALUE,
    ROW,
    DOCUMENT,
    FIRST,
    SHOWN,
    TOKEN,
    ACTIVATION,
    FIXED
};
enum {
    BYTES = FIXED,
    OFFSET,
    PROMOTED_TOKEN,
    PROMOTED_LOGIT,
    SPANS,
    CONCEPT_FIRES,
    INSIDE,
    FOUND,
    DATASETS
};

typedef struct vocabulary {
    uint8_t *bytes;
    uint64_t *offset; /* [tokens + 1] */
    uint64_t tokens;
} vocabulary;

static df_status vocabulary_new(const df_tokenizer *tokenizer, vocabulary *out) {
    *out = (vocabulary){.tokens = tokenizer != NULL ? df_tokenizer_size(tokenizer) : 0};
    DF_TRY(DF_NEW(out->offset, out->tokens + 1));
    for (uint64_t id = 0; id < out->tokens; id++) {
        size_t n;
        (void)df_tokenizer_piece(tokenizer, (uint32_t)id, &n);
        out->offset[id + 1] = out->offset[id] + n;
    }
    DF_TRY(DF_NEW(out->bytes, out->offset[out->tokens]));
    for (uint64_t id = 0; id < out->tokens; id++) {
        size_t n;
        const char *piece = df_tokenizer_piece(tokenizer, (uint32_t)id, &n);
        for (size_t i = 0; i < n; i++) out->bytes[out->offset[id] + i] = (uint8_t)piece[i];
    }
    return DF_OK;
}

static df_status declare(df_file *file, const df_dict *dict, const df_stats_options *o,
                         const vocabulary *v, const size_t extent[static 2],
                         int id[static DATASETS]) {
    uint64_t m = dict->latents, n = o->examples, w = o->window, models = extent[0],
             concepts = extent[1];
    /* One entry, one or two lines. */
    // clang-format off
    const df_dataset fixed[DATASETS] = {
        [FIRES] = {"/latents/fires", DF_U64, 1, {m}, "rows", "rows on which the latent is active",
            "latent"},
        [FREQUENCY] = {"/latents/frequency", DF_F64, 1, {m}, "1",
            "share of rows on which it is active", "latent"},
        [MEAN] = {"/latents/mean", DF_F64, 1, {m}, "1", "mean activation over active rows",
            "latent"},
        [MAX] = {"/latents/max", DF_F32, 1, {m}, "1", "largest activation", "latent"},
        [HISTOGRAM] = {"/latents/histogram", DF_U64, 2, {m, DF_STATS_BINS}, "rows",
            "activations by size", "latent, bin"},
        [EDGES] = {"/histogram/edges", DF_F64, 1, {DF_STATS_BINS + 1}, "1",
            "edges of the bins, even in log10", "edge"},
        [VALUE] = {"/examples/value", DF_F32, 2, {m, n}, "1", "peak activation; 0: no example",
            "latent, example"},
        [ROW] = {"/examples/row", DF_U64, 2, {m, n}, "rows", "row of the peak", "latent, example"},
        [DOCUMENT] = {"/examples/document", DF_U64, 2, {m, n}, "1", "document in the corpus",
            "latent, example"},
        [FIRST] = {"/examples/first", DF_U64, 2, {m, n}, "rows", "first row shown",
            "latent, example"},
        [SHOWN] = {"/examples/count", DF_U32, 2, {m, n}, "tokens", "tokens shown",
            "latent, example"},
        [TOKEN] = {"/examples/token", DF_U32, 3, {m, n, w}, "1", "token ids shown",
            "latent, example, token"},
        [ACTIVATION] = {"/examples/activation", DF_F32, 3, {m, n, w}, "1",
            "activation at each token shown", "latent, example, token"},
        [BYTES] = {"/vocabulary/bytes", DF_U8, 1, {v->offset[v->tokens]}, "1",
            "text of all tokens, end to end", "byte"},
        [OFFSET] = {"/vocabulary/offset", DF_U64, 1, {v->tokens + 1}, "bytes",
            "first byte of each token", "token"},
        [PROMOTED_TOKEN] = {"/promoted/token", DF_U32, 3, {m, models, o->promoted}, "1",
            "tokens that the decoder direction promotes", "latent, model, rank"},
        [PROMOTED_LOGIT] = {"/promoted/logit", DF_F32, 3, {m, models, o->promoted}, "1",
            "unit decoder direction through the unembedding", "latent, model, rank"},
        [SPANS] = {"/concepts/spans", DF_U64, 2, {concepts, 2}, "1",
            "labelled spans, in training and held-out documents", "concept, part"},
        [CONCEPT_FIRES] = {"/concepts/fires", DF_U64, 2, {m, 2}, "rows", "active rows",
            "latent, part"},
        [INSIDE] = {"/concepts/inside", DF_U64, 3, {m, concepts, 2}, "rows",
            "active rows inside a stretch", "latent, concept, part"},
        [FOUND] = {"/concepts/found", DF_U64, 3, {m, concepts, 2}, "1",
            "stretches with an active row", "latent, concept, part"},
    };
    // clang-format on
    for (int i = 0; i < DATASETS; i++) {
        id[i] = -1;
        if (i >= SPANS && concepts == 0) continue;
        if ((i == PROMOTED_TOKEN || i == PROMOTED_LOGIT) && (models == 0 || o->promoted == 0))
            continue;
        DF_TRY(df_file_dataset(file, &fixed[i], &id[i]));
    }
    return DF_OK;
}

static df_status describe(df_file *file, const df_dict *dict, const df_stats_input *input,
                          const df_stats_options *o, uint64_t rows) {
    DF_TRY(df_file_text(file, "/", "job", o->resolved_job));
    DF_TRY(df_file_int(file, "/", "rows", (int64_t)rows));
    DF_TRY(df_file_int(file, "/", "latents", (int64_t)dict->latents));
    DF_TRY(df_file_int(file, "/", "models", (int64_t)input->n));
    DF_TRY(df_file_text(file, "/", "site", dict->site[0].name));
    for (size_t i = 0; i < input->n; i++) {
        char name[32];
        snprintf(name, sizeof name, "model%zu", i);
        DF_TRY(df_file_text(file, "/", name, dict->site[i].model));
    }
    size_t concepts = input->corpus != NULL ? df_corpus_concepts(input->corpus) : 0;
    if (concepts == 0) return df_file_provenance(file, &o->facts);
    DF_TRY(df_file_int(file, "/concepts", "count", (int64_t)concepts));
    for (size_t c = 0; c < concepts; c++) {
        char name[32];
        snprintf(name, sizeof name, "name%zu", c);
        DF_TRY(df_file_text(file, "/concepts", name, df_corpus_concept(input->corpus, c)));
    }
    return df_file_provenance(file, &o->facts);
}

/* Frequencies, means and the corpus positions of the examples follow from the counts. */
static df_status write_derived(df_file *file, const int *id, const df_dict *dict,
                               const df_acts *acts, const findings *f) {
    const tally *t = &f->tally;
    const examples *e = &f->examples;
    size_t count = t->count, slots = count * e->n;
    double *frequency = NULL, *mean = NULL;
    uint64_t *document = NULL;
    uint32_t *token = NULL;
    df_status status;
    DF_GO(DF_NEW(frequency, count));
    DF_GO(DF_NEW(mean, count));
    DF_GO(DF_NEW(document, slots));
    DF_GO(DF_NEW(token, slots * e->width));
    for (size_t j = 0; j < count; j++) {
        frequency[j] = f->rows > 0 ? (double)t->fires[j] / (double)f->rows : 0.0;
        mean[j] = t->fires[j] > 0 ? t->sum[j] / (double)t->fires[j] : 0.0;
    }
    for (size_t s = 0; s < slots; s++) {
        if (e->shown[s] > 0)
            document[s] = acts->source[df_run_holding(acts->document, acts->documents, e->row[s])];
        for (size_t i = 0; i < e->shown[s]; i++)
            token[s * e->width + i] = acts->tokens[e->first[s] + i];
    }
    DF_GO(df_file_write(file, id[FREQUENCY], dict->mine.first, count, frequency));
    DF_GO(df_file_write(file, id[MEAN], dict->mine.first, count, mean));
    DF_GO(df_file_write(file, id[DOCUMENT], dict->mine.first, count, document));
    DF_GO(df_file_write(file, id[TOKEN], dict->mine.first, count, token));
done:
    df_free(frequency);
    df_free(mean);
    df_free(document);
    df_free(token);
    return status;
}

static df_status write_latents(df_file *file, const int *id, size_t first, const findings *f) {
    const struct {
        int which;
        const void *data;
    } parts[] = {{FIRES, f->tally.fires},
                 {MAX, f->tally.max},
                 {HISTOGRAM, f->tally.histogram},
                 {VALUE, f->examples.value},
                 {ROW, f->examples.row},
                 {FIRST, f->examples.first},
                 {SHOWN, f->examples.shown},
                 {ACTIVATION, f->examples.activation},
                 {PROMOTED_TOKEN, f->promoted.token},
                 {PROMOTED_LOGIT, f->promoted.logit},
                 {CONCEPT_FIRES, f->concepts.fires},
                 {INSIDE, f->concepts.inside},
                 {FOUND, f->concepts.found}};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (id[parts[i].which] >= 0)
            DF_TRY(df_file_write(file, id[parts[i].which], first, f->tally.count, parts[i].data));
    return DF_OK;
}

static df_status write_shared(df_file *file, const int *id, const vocabulary *v,
                              const findings *f) {
    double edges[DF_STATS_BINS + 1];
    for (int i = 0; i <= DF_STATS_BINS; i++) edges[i] = pow(10.0, i / 10.0 - 5.0);
    DF_TRY(df_file_write(file, id[EDGES], 0, DF_STATS_BINS + 1, edges));
    DF_TRY(df_file_write(file, id[BYTES], 0, v->offset[v->tokens], v->bytes));
    DF_TRY(df_file_write(file, id[OFFSET], 0, v->tokens + 1, v->offset));
    return f->concepts.n > 0 ? df_file_write(file, id[SPANS], 0, f->concepts.n, f->spans) : DF_OK;
}

static df_status fill(df_comm *comm, df_file *file, const int *id, const df_dict *dict,
                      const df_acts *acts, const vocabulary *v, const findings *f) {
    DF_TRY(write_latents(file, id, dict->mine.first, f));
    DF_TRY(write_derived(file, id, dict, acts, f));
    return df_comm_rank(comm) == 0 ? write_shared(file, id, v, f) : DF_OK;
}

df_status stats_write(df_comm *comm, const df_dict *dict, const df_stats_input *input,
                      const df_stats_options *options, const findings *found) {
    vocabulary v = {0};
    df_file *file = NULL;
    int id[DATASETS];
    df_status status = df_agree(comm, vocabulary_new(input->tokenizer, &v));
    size_t models = found->promoted.p > 0 ? found->promoted.models : 0;
    if (status == DF_OK)
        status = df_file_create(comm, options->output, "darkfield-statistics", &file);
    if (status == DF_OK) status = describe(file, dict, input, options, found->rows);
    if (status == DF_OK)
        status = declare(file, dict, options, &v, (size_t[2]){models, found->concepts.n}, id);
    if (status == DF_OK) status = df_file_ready(file);
    if (status == DF_OK)
        status = df_file_agree(file, fill(comm, file, id, dict, input->acts[0], &v, found));
    if (status == DF_OK) status = df_file_finish(&file);
    if (file != NULL) df_file_abandon(&file, false);
    df_free(v.bytes);
    df_free(v.offset);
    return status;
}

/* What write_derived takes. */
static size_t derived_bytes(const df_dict *dict, const df_stats_options *o) {
    return dict->mine.count *
           (2 * sizeof(double) + o->examples * (sizeof(uint64_t) + o->window * sizeof(uint32_t)));
}

df_status stats_write_need(const df_dict *dict, const df_stats_input *input,
                           const df_stats_options *options, size_t p, df_need *out) {
    vocabulary v = {0};
    df_file *file = NULL;
    int id[DATASETS];
    size_t extent[2] = {p > 0 ? df_dict_outputs(dict) : 0,
                        input->corpus != NULL ? df_corpus_concepts(input->corpus) : 0};
    df_status status;
    DF_GO(vocabulary_new(input->tokenizer, &v));
    DF_GO(df_file_outline("darkfield-statistics", &file));
    DF_GO(describe(file, dict, input, options, 0));
    DF_GO(declare(file, dict, options, &v, extent, id));
done:
    *out = df_file_need(&file);
    if (derived_bytes(dict, options) > out->memory) out->memory = derived_bytes(dict, options);
    if (status == DF_OK) out->memory += v.offset[v.tokens] + (v.tokens + 1) * sizeof *v.offset;
    df_free(v.bytes);
    df_free(v.offset);
    return status;
}
