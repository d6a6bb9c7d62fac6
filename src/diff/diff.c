/* Comparing the two halves of a crosscoder. */
#include "diff_internal.h"

#include <math.h>
#include <string.h>
#include <stdlib.h>

enum { BINS = 50 };

/* ---- norms ---------------------------------------------------------------------------------- */

enum { NORM_A, NORM_B, PRODUCT, MEASURES };

static double dot(const float *a, const float *b, size_t n) {
    double sum = 0.0;
    for (size_t i = 0; i < n; i++) sum += (double)a[i] * (double)b[i];
    return sum;
}

/* The columns of both models: sites of one model are neighbours. */
typedef struct sides {
    df_range a, b;
} sides;

static sides split(const df_dict *dict) {
    df_range model[DF_MAX_SITES];
    size_t models = df_dict_models(dict, model);
    return (sides){model[0], models > 1 ? model[1] : (df_range){0, 0}};
}

/* measures [mine, MEASURES]: |d_A|, |d_B|, <d_A, d_B> over the common width (0 when widths differ).
 */
static void measure(const df_dict *dict, double *measures) {
    sides s = split(dict);
    for (size_t j = 0; j < dict->mine.count; j++) {
        const float *a = df_dict_dec(dict, j), *b = a + s.b.first;
        measures[j * MEASURES + NORM_A] = sqrt(dot(a, a, s.a.count));
        measures[j * MEASURES + NORM_B] = sqrt(dot(b, b, s.b.count));
        if (s.a.count == s.b.count) measures[j * MEASURES + PRODUCT] = dot(a, b, s.a.count);
    }
}

/* measures of all latents on rank 0, [m, MEASURES]. */
static df_status gather_measures(df_comm *comm, const df_dict *dict, double *all) {
    double *mine = NULL;
    size_t *counts = NULL;
    df_status status = DF_NEW(mine, dict->mine.count * MEASURES);
    if (status == DF_OK) status = DF_NEW(counts, (size_t)df_comm_size(comm));
    status = df_agree(comm, status);
    if (status == DF_OK) {
        measure(dict, mine);
        for (int r = 0; r < df_comm_size(comm); r++)
            counts[r] = df_dict_share(dict, df_comm_size(comm), r).count * MEASURES * sizeof *mine;
        df_gather(comm, 0, mine, counts, all);
    }
    df_free(mine);
    df_free(counts);
    return status;
}

/* ---- the comparison ------------------------------------------------------------------------- */

static df_status comparison_room(size_t latents, comparison *c) {
    *c = (comparison){.latents = latents};
    DF_TRY(DF_NEW(c->norm_a, latents));
    DF_TRY(DF_NEW(c->norm_b, latents));
    DF_TRY(DF_NEW(c->relative, latents));
    DF_TRY(DF_NEW(c->delta, latents));
    DF_TRY(DF_NEW(c->cosine, latents));
    DF_TRY(DF_NEW(c->class, latents));
    DF_TRY(DF_NEW(c->alive, latents));
    return DF_NEW(c->sorted, latents);
}

static void comparison_free(comparison *c) {
    df_free(c->norm_a);
    df_free(c->norm_b);
    df_free(c->relative);
    df_free(c->delta);
    df_free(c->cosine);
    df_free(c->class);
    df_free(c->alive);
    df_free(c->sorted);
}

typedef struct keyed {
    double delta;
    uint64_t latent;
} keyed;

static int by_delta(const void *a, const void *b) {
    const keyed *x = a, *y = b;
    if (x->delta != y->delta) return x->delta < y->delta ? -1 : 1;
    return (x->latent > y->latent) - (x->latent < y->latent);
}

static df_status sort_living(comparison *c) {
    keyed *keys = NULL;
    DF_TRY(DF_NEW(keys, c->latents));
    for (size_t j = 0; j < c->latents; j++)
        if (c->alive[j]) keys[c->living++] = (keyed){c->delta[j], j};
    qsort(keys, c->living, sizeof *keys, by_delta);
    for (size_t i = 0; i < c->living; i++) c->sorted[i] = keys[i].latent;
    df_free(keys);
    return DF_OK;
}

static df_status compare(const df_reader *stats, const double *measures, comparison *c) {
    uint64_t *fires = NULL;
    DF_TRY(df_reader_all(stats, "/latents/fires", DF_U64, (int64_t)c->latents, (void **)&fires));
    for (size_t j = 0; j < c->latents; j++) {
        double a = c->norm_a[j] = measures[j * MEASURES + NORM_A],
               b = c->norm_b[j] = measures[j * MEASURES + NORM_B];
        c->relative[j] = a + b > 0.0 ? b / (a + b) : 0.5;
        c->delta[j] = df_delta_norm(a, b);
        c->cosine[j] = a * b > 0.0 ? measures[j * MEASURES + PRODUCT] / (a * b) : 0.0;
        c->class[j] = (uint8_t)df_class_of(c->delta[j]);
        c->alive[j] = fires[j] > 0;
    }
    df_free(fires);
    return sort_living(c);
}

/* ---- the file ------------------------------------------------------------------------------- */

enum { A, B, RELATIVE, DELTA, COSINE, CLASS, ALIVE, COUNT, SORTED, HISTOGRAM, EDGES, FIXED };
enum {
    TABLE_LATENT = FIXED,
    TABLE_CLASS,
    TABLE_DELTA,
    PRECISION,
    RECALL,
    TRAIN_PRECISION,
    TRAIN_RECALL,
    DATASETS
};

static df_status declare(df_file *file, uint64_t m, uint64_t living, uint64_t concepts,
                         int id[static DATASETS]) {
    /* One entry, one or two lines. */
    // clang-format off
    const df_dataset all[DATASETS] = {
        [A] = {"/latents/norm_a", DF_F64, 1, {m}, "1", "decoder norm in model A, normalised units",
            "latent"},
        [B] = {"/latents/norm_b", DF_F64, 1, {m}, "1", "decoder norm in model B, normalised units",
            "latent"},
        [RELATIVE] = {"/latents/relative_norm", DF_F64, 1, {m}, "1", "|d_B| / (|d_A| + |d_B|)",
            "latent"},
        [DELTA] = {"/latents/delta_norm", DF_F64, 1, {m}, "1", "((|d_B| - |d_A|) / max + 1) / 2",
            "latent"},
        [COSINE] = {"/latents/cosine", DF_F64, 1, {m}, "1", "cosine of the two decoder directions",
            "latent"},
        [CLASS] = {"/latents/class", DF_U8, 1, {m}, "1",
            "0 A-only, 1 A-leaning, 2 shared, 3 B-leaning, 4 B-only", "latent"},
        [ALIVE] = {"/latents/alive", DF_U8, 1, {m}, "1", "1 where it fired in the statistics",
            "latent"},
        [COUNT] = {"/classes/count", DF_U64, 1, {DF_CLASSES}, "latents",
            "living latents of each class", "class"},
        [SORTED] = {"/sorted/latent", DF_U64, 1, {living}, "1",
            "living latents, ascending by delta_norm", "place"},
        [HISTOGRAM] = {"/histogram/count", DF_U64, 1, {BINS}, "latents",
            "living latents by relative norm", "bin"},
        [EDGES] = {"/histogram/edges", DF_F64, 1, {BINS + 1}, "1", "edges of the bins", "edge"},
        [TABLE_LATENT] = {"/table/latent", DF_U64, 2, {concepts, KINDS}, "1",
            "best latent; 2^64 - 1: none", "concept, kind"},
        [TABLE_CLASS] = {"/table/class", DF_U8, 2, {concepts, KINDS}, "1", "its class",
            "concept, kind"},
        [TABLE_DELTA] = {"/table/delta_norm", DF_F64, 2, {concepts, KINDS}, "1", "its delta_norm",
            "concept, kind"},
        [PRECISION] = {"/table/precision", DF_F64, 2, {concepts, KINDS}, "1",
            "on held-out documents", "concept, kind"},
        [RECALL] = {"/table/recall", DF_F64, 2, {concepts, KINDS}, "1", "on held-out documents",
            "concept, kind"},
        [TRAIN_PRECISION] = {"/table/train_precision", DF_F64, 2, {concepts, KINDS}, "1",
            "on training documents", "concept, kind"},
        [TRAIN_RECALL] = {"/table/train_recall", DF_F64, 2, {concepts, KINDS}, "1",
            "on training documents", "concept, kind"},
    };
    // clang-format on
    for (int i = 0; i < (concepts > 0 ? (int)DATASETS : (int)FIXED); i++)
        DF_TRY(df_file_dataset(file, &all[i], &id[i]));
    return DF_OK;
}

static df_status write_histogram(df_file *file, const int *id, const comparison *c) {
    uint64_t count[BINS] = {0}, classes[DF_CLASSES] = {0};
    double edges[BINS + 1];
    for (int i = 0; i <= BINS; i++) edges[i] = (double)i / BINS;
    for (size_t i = 0; i < c->living; i++) {
        size_t bin = (size_t)(c->relative[c->sorted[i]] * BINS);
        count[bin < BINS ? bin : BINS - 1]++;
        classes[c->class[c->sorted[i]]]++;
    }
    DF_TRY(df_file_write(file, id[COUNT], 0, DF_CLASSES, classes));
    DF_TRY(df_file_write(file, id[HISTOGRAM], 0, BINS, count));
    return df_file_write(file, id[EDGES], 0, BINS + 1, edges);
}

static df_status write_all(df_file *file, const int *id, const comparison *c,
                           const concept_table *t) {
    const struct {
        int which;
        size_t rows;
        const void *data;
    } parts[] = {{A, c->latents, c->norm_a},
                 {B, c->latents, c->norm_b},
                 {RELATIVE, c->latents, c->relative},
                 {DELTA, c->latents, c->delta},
                 {COSINE, c->latents, c->cosine},
                 {CLASS, c->latents, c->class},
                 {ALIVE, c->latents, c->alive},
                 {SORTED, c->living, c->sorted},
                 {TABLE_LATENT, t->n, t->latent},
                 {TABLE_CLASS, t->n, t->class},
                 {TABLE_DELTA, t->n, t->delta},
                 {PRECISION, t->n, t->precision},
                 {RECALL, t->n, t->recall},
                 {TRAIN_PRECISION, t->n, t->train_precision},
                 {TRAIN_RECALL, t->n, t->train_recall}};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (parts[i].rows > 0)
            DF_TRY(df_file_write(file, id[parts[i].which], 0, parts[i].rows, parts[i].data));
    return write_histogram(file, id, c);
}

static df_status describe(df_file *file, const df_dict *dict, const df_diff_options *options,
                          const concept_table *t) {
    DF_TRY(df_file_text(file, "/", "job", options->resolved_job));
    DF_TRY(df_file_text(file, "/", "site", dict->site[0].name));
    DF_TRY(df_file_text(file, "/", "model0", dict->site[0].model));
    DF_TRY(df_file_text(file, "/", "model1", dict->site[1].model));
    for (size_t i = 0; i < t->n; i++) {
        char name[32];
        snprintf(name, sizeof name, "name%zu", i);
        DF_TRY(df_file_text(file, "/table", name, t->name[i]));
    }
    return df_file_provenance(file, &options->facts);
}

/* One rank computes and writes: the arrays are a few numbers a latent. */
static df_status compare_and_write(df_comm *alone, const df_dict *dict, const df_reader *stats,
                                   const double *measures, const df_diff_options *options) {
    comparison c = {0};
    concept_table t = {0};
    df_file *file = NULL;
    int id[DATASETS] = {0};
    df_status status;
    DF_GO(comparison_room(dict->latents, &c));
    DF_GO(compare(stats, measures, &c));
    DF_GO(table_new(stats, &c, options, &t));
    DF_GO(df_file_create(alone, options->output, "darkfield-diff", &file));
    DF_GO(describe(file, dict, options, &t));
    DF_GO(declare(file, c.latents, c.living, t.n, id));
    DF_GO(df_file_ready(file));
    DF_GO(df_file_agree(file, write_all(file, id, &c, &t)));
    DF_GO(df_file_finish(&file));
done:
    if (file != NULL) df_file_abandon(&file, false);
    comparison_free(&c);
    table_free(&t);
    return status;
}

static df_status check_sites(const df_dict *dict, const df_reader *stats) {
    size_t changes = 0; // of the model, along the sites
    for (size_t i = 1; i < dict->sites; i++)
        changes += strcmp(dict->site[i].model, dict->site[i - 1].model) != 0;
    if (dict->kind != DF_CROSSCODER || (changes != 1 && dict->sites != 2))
        return df_fail(DF_BAD_INPUT,
                       "comparing models needs a crosscoder over two models, this dictionary, of "
                       "kind %s, has %zu site%s: train with models.b given and train.model empty",
                       df_dict_kind_name(dict->kind), dict->sites, dict->sites == 1 ? "" : "s");
    df_type type;
    uint64_t shape[DF_MAX_DIMS];
    DF_TRY(df_reader_find(stats, "/latents/fires", 1, &type, shape));
    if (shape[0] == dict->latents) return DF_OK;
    return df_fail(DF_BAD_INPUT,
                   "%s is of %llu latents, the dictionary has %zu: run darkfield stats again",
                   df_reader_path(stats), (unsigned long long)shape[0], dict->latents);
}

df_status df_diff_run(df_comm *comm, const df_dict *dict, const df_reader *stats,
                      const df_diff_options *options) {
    DF_TRY(df_agree(comm, check_sites(dict, stats)));
    bool writer = df_comm_rank(comm) == 0;
    double *measures = NULL;
    df_comm *alone = NULL;
    df_status status = DF_NEW(measures, writer ? dict->latents * MEASURES : 0);
    if (status == DF_OK) status = df_comm_self(&alone);
    status = df_agree(comm, status);
    if (status == DF_OK) status = gather_measures(comm, dict, measures);
    if (status == DF_OK)
        status = df_agree(comm, writer ? compare_and_write(alone, dict, stats, measures, options)
                                       : DF_OK);
    df_comm_free(&alone);
    df_free(measures);
    return status;
}

/* ---- the plan ------------------------------------------------------------------------------- */

df_status df_diff_plan(const df_dict_plan *plan, const df_reader *stats,
                       const df_diff_options *options, df_need *out) {
    const df_dict *d = plan->dict;
    size_t m = d->latents, rows = 0, table = 0;
    int id[DATASETS];
    df_file *file = NULL;
    df_status status;
    DF_GO(check_sites(d, stats));
    DF_GO(table_plan(stats, m, options, &rows, &table));
    DF_GO(df_file_outline("darkfield-diff", &file));
    DF_GO(declare(file, m, m, rows, id));
done:
    *out = df_file_need(&file);
    uint64_t kept = m * ((MEASURES + 5) * sizeof(double) + 2 * sizeof(uint8_t) + sizeof(uint64_t));
    uint64_t gather = d->mine.count * MEASURES * sizeof(double), keys = m * sizeof(keyed);
    uint64_t fires = m * sizeof(uint64_t), most = DF_CHECK_BYTES + (table > fires ? table : fires);
    if (keys > most) most = keys;
    if (gather > most) most = gather;
    if (out->memory > most) most = out->memory;
    out->memory = df_dict_bytes(d) + kept + most;
    return status;
}
