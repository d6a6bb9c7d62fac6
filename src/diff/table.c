/* The best latent for each labelled concept: chosen on training documents, scored on held-out ones.
 */
#include "diff_internal.h"

#include <string.h>

/* The counts of the statistics file; arrays as in darkfield/stats.h. */
typedef struct counts {
    size_t latents, concepts;
    uint64_t *fires, *inside, *found, *spans;
} counts;

static df_status counts_read(const df_reader *stats, size_t latents, size_t concepts, counts *out) {
    *out = (counts){.latents = latents, .concepts = concepts};
    int64_t pairs = (int64_t)(latents * concepts * 2);
    DF_TRY(df_reader_all(stats, "/concepts/fires", DF_U64, (int64_t)(2 * latents),
                         (void **)&out->fires));
    DF_TRY(df_reader_all(stats, "/concepts/inside", DF_U64, pairs, (void **)&out->inside));
    DF_TRY(df_reader_all(stats, "/concepts/found", DF_U64, pairs, (void **)&out->found));
    return df_reader_all(stats, "/concepts/spans", DF_U64, (int64_t)(2 * concepts),
                         (void **)&out->spans);
}

static void counts_free(counts *c) {
    df_free(c->fires);
    df_free(c->inside);
    df_free(c->found);
    df_free(c->spans);
}

static double share(uint64_t part, uint64_t whole) {
    return whole > 0 ? (double)part / (double)whole : 0.0;
}

typedef struct score {
    double precision, recall;
} score;

/* part 0: training, 1: held-out. */
static score score_of(const counts *c, size_t concept, size_t latent, size_t part) {
    size_t at = 2 * (latent * c->concepts + concept) + part;
    return (score){share(c->inside[at], c->fires[2 * latent + part]),
                   share(c->found[at], c->spans[2 * concept + part])};
}

static double f1(score s) {
    double sum = s.precision + s.recall;
    return sum > 0.0 ? 2.0 * s.precision * s.recall / sum : 0.0;
}

static uint64_t best_latent(const counts *c, const comparison *all, size_t concept, int kind) {
    uint64_t best = UINT64_MAX;
    double most = 0.0;
    for (size_t j = 0; j < c->latents; j++) {
        if (kind == NOT_SHARED && all->class[j] == DF_SHARED) continue;
        double value = f1(score_of(c, concept, j, 0));
        if (value > most) {
            most = value;
            best = j;
        }
    }
    return best;
}

static void fill_row(concept_table *t, const counts *c, const comparison *all, size_t row,
                     size_t concept) {
    for (int kind = 0; kind < KINDS; kind++) {
        size_t at = row * KINDS + (size_t)kind;
        uint64_t j = t->latent[at] = best_latent(c, all, concept, kind);
        if (j == UINT64_MAX) continue;
        score train = score_of(c, concept, j, 0), heldout = score_of(c, concept, j, 1);
        t->class[at] = all->class[j];
        t->delta[at] = all->delta[j];
        t->precision[at] = heldout.precision;
        t->recall[at] = heldout.recall;
        t->train_precision[at] = train.precision;
        t->train_recall[at] = train.recall;
    }
}

static df_status table_room(size_t n, concept_table *t) {
    *t = (concept_table){.n = n};
    DF_TRY(DF_NEW(t->name, n));
    DF_TRY(DF_NEW(t->latent, n * KINDS));
    DF_TRY(DF_NEW(t->class, n * KINDS));
    DF_TRY(DF_NEW(t->delta, n * KINDS));
    DF_TRY(DF_NEW(t->precision, n * KINDS));
    DF_TRY(DF_NEW(t->recall, n * KINDS));
    DF_TRY(DF_NEW(t->train_precision, n * KINDS));
    return DF_NEW(t->train_recall, n * KINDS);
}

static df_status read_names(const df_reader *stats, char **names, size_t n) {
    for (size_t i = 0; i < n; i++) {
        char key[32];
        snprintf(key, sizeof key, "name%zu", i);
        DF_TRY(df_reader_text(stats, "/concepts", key, &names[i]));
    }
    return DF_OK;
}

static df_status find_concept(char *const *names, size_t n, const char *wanted, size_t *out) {
    for (*out = 0; *out < n; (*out)++)
        if (strcmp(names[*out], wanted) == 0) return DF_OK;
    const char *near = df_nearest(wanted, (const char *const *)names, n);
    return df_fail(DF_USAGE, "diff.concepts: the text has no label \"%s\"%s%s%s", wanted,
                   near ? " (did you mean \"" : "", near ? near : "", near ? "\"?)" : "");
}

static df_status fill_table(const df_reader *stats, const comparison *all,
                            const df_diff_options *options, char **names, size_t concepts,
                            concept_table *t) {
    counts c = {0};
    df_status status;
    DF_GO(counts_read(stats, all->latents, concepts, &c));
    for (size_t i = 0; i < t->n; i++) {
        size_t concept = i;
        if (options->concepts != NULL)
            DF_GO(find_concept(names, concepts, options->concepts[i], &concept));
        DF_GO((t->name[i] = df_strdup(names[concept])) != NULL ? DF_OK : DF_FAILED);
        fill_row(t, &c, all, i, concept);
    }
done:
    counts_free(&c);
    return status;
}

df_status table_new(const df_reader *stats, const comparison *c, const df_diff_options *options,
                    concept_table *out) {
    *out = (concept_table){0};
    if (!df_reader_has(stats, "/concepts/spans")) return DF_OK;
    int64_t concepts = 0;
    DF_TRY(df_reader_int(stats, "/concepts", "count", &concepts));
    char **names = NULL;
    DF_TRY(DF_NEW(names, (size_t)concepts));
    df_status status = read_names(stats, names, (size_t)concepts);
    if (status == DF_OK)
        status =
            table_room(options->concepts != NULL ? options->n_concepts : (size_t)concepts, out);
    if (status == DF_OK) status = fill_table(stats, c, options, names, (size_t)concepts, out);
    for (size_t i = 0; i < (size_t)concepts; i++) df_free(names[i]);
    df_free(names);
    return status;
}

void table_free(concept_table *t) {
    for (size_t i = 0; t->name != NULL && i < t->n; i++) df_free(t->name[i]);
    df_free(t->name);
    df_free(t->latent);
    df_free(t->class);
    df_free(t->delta);
    df_free(t->precision);
    df_free(t->recall);
    df_free(t->train_precision);
    df_free(t->train_recall);
}

df_status table_plan(const df_reader *stats, size_t latents, const df_diff_options *options,
                     size_t *rows, size_t *bytes) {
    int64_t concepts = 0;
    *rows = *bytes = 0;
    if (!df_reader_has(stats, "/concepts/spans")) return DF_OK;
    DF_TRY(df_reader_int(stats, "/concepts", "count", &concepts));
    *rows = options->concepts != NULL ? options->n_concepts : (size_t)concepts;
    *bytes = (2 * latents + (4 * latents + 2) * (size_t)concepts) * sizeof(uint64_t) +
             *rows * (sizeof(char *) + KINDS * (1 + 6 * sizeof(double)));
    return DF_OK;
}
