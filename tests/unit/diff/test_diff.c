/* Comparing the halves of a crosscoder: classes at their edges, norms and cosines worked out by
 * hand, the table of concepts, the same file on any number of ranks, and inputs that do not belong
 * together. */
#define DF_TEST_MPI
#include "df_test.h"

#include "darkfield/diff.h"

static df_comm *world;

enum { LATENTS = 40, WIDTH = 3 };

/* Latent j: |d_A| = 1, |d_B| = j / 20, at an angle whose cosine is 0.6. */
static df_dict *make_dict(df_comm *comm, size_t sites) {
    char name[] = "blocks.0.hook_resid_post", a[] = "base", b[] = "tuned";
    df_dict_site site[2] = {{name, a, 0, WIDTH, 1.0, true, true, DF_TOKEN_NONE},
                            {name, b, WIDTH, WIDTH, 1.0, true, true, DF_TOKEN_NONE}};
    df_dict *dict = NULL;
    assert_ok(df_dict_new(comm, LATENTS, site, sites, &dict));
    for (size_t j = 0; j < dict->mine.count; j++) {
        float *row = dict->w_dec + j * dict->width, length = (float)(dict->mine.first + j) / 20.0f;
        row[0] = 1.0f;
        if (sites < 2) continue;
        row[WIDTH] = 0.6f * length;
        row[WIDTH + 1] = 0.8f * length;
    }
    return dict;
}

/* Statistics in which latent j fired j times; concept "trigger" is found by latent 30 always and by
 * 10 sometimes. */
static void make_stats(const char *path, uint64_t latents) {
    df_comm *self = NULL;
    df_file *file = NULL;
    int id[4];
    assert_ok(df_comm_self(&self));
    assert_ok(df_file_create(self, path, "darkfield-statistics", &file));
    assert_ok(df_file_int(file, "/concepts", "count", 1));
    assert_ok(df_file_text(file, "/concepts", "name0", "trigger"));
    const df_dataset all[4] = {
        {"/latents/fires", DF_U64, 1, {latents}, "rows", "fires", "latent"},
        {"/concepts/fires", DF_U64, 2, {latents, 2}, "rows", "fires", "latent, part"},
        {"/concepts/inside", DF_U64, 3, {latents, 1, 2}, "rows", "inside", "latent, concept, part"},
        {"/concepts/found", DF_U64, 3, {latents, 1, 2}, "1", "found", "latent, concept, part"}};
    for (int i = 0; i < 4; i++) assert_ok(df_file_dataset(file, &all[i], &id[i]));
    const df_dataset spans = {"/concepts/spans", DF_U64, 2, {1, 2}, "1", "spans", "concept, part"};
    int spans_id;
    assert_ok(df_file_dataset(file, &spans, &spans_id));
    assert_ok(df_file_ready(file));
    uint64_t fires[LATENTS], pairs[2 * LATENTS] = {0}, inside[2 * LATENTS] = {0};
    for (uint64_t j = 0; j < latents; j++) {
        fires[j] = j;
        pairs[2 * j] = pairs[2 * j + 1] = 10;
    }
    inside[2 * 30] = inside[2 * 30 + 1] = 10; // precision 1
    inside[2 * 20] = 9;                       // shared latent, better than 10, worse than 30
    inside[2 * 10] = 4;
    inside[2 * 10 + 1] = 5;
    assert_ok(df_file_write(file, id[0], 0, latents, fires));
    assert_ok(df_file_write(file, id[1], 0, latents, pairs));
    assert_ok(df_file_write(file, id[2], 0, latents, inside));
    assert_ok(df_file_write(file, id[3], 0, latents, inside)); // spans found: the same numbers
    assert_ok(df_file_write(file, spans_id, 0, 1, (uint64_t[]){10, 10}));
    assert_ok(df_file_finish(&file));
    df_comm_free(&self);
}

/* One rank alone, with all latents, writes the same file. */
static bool same_alone(const char *folder, const char *output, const df_reader *stats,
                       const df_diff_options *options) {
    df_comm *self = NULL;
    if (df_comm_self(&self) != DF_OK) return false;
    df_dict *dict = make_dict(self, 2);
    char *path = df_format("%s/alone.h5", folder);
    df_diff_options o = *options;
    o.output = path;
    uint64_t together = 0, alone = 1;
    bool same = df_diff_run(self, dict, stats, &o) == DF_OK &&
                df_digest(output, &together) == DF_OK && df_digest(path, &alone) == DF_OK &&
                together == alone;
    df_dict_free(&dict);
    df_comm_free(&self);
    df_free(path);
    return same;
}

static void classes_change_at_their_edges(void **state) {
    (void)state;
    assert_int_equal(df_class_of(0.0), DF_A_ONLY);
    assert_int_equal(df_class_of(0.1), DF_A_LEANING);
    assert_int_equal(df_class_of(0.4), DF_SHARED);
    assert_int_equal(df_class_of(0.6), DF_SHARED);
    assert_int_equal(df_class_of(0.61), DF_B_LEANING);
    assert_int_equal(df_class_of(0.9), DF_B_LEANING);
    assert_int_equal(df_class_of(0.91), DF_B_ONLY);
    assert_close(df_delta_norm(1.0, 3.0), 0.5 * (2.0 / 3.0 + 1.0), 0.0, 1e-15);
    assert_close(df_delta_norm(2.0, 0.0), 0.0, 0.0, 0.0);
    assert_close(df_delta_norm(0.0, 0.0), 0.5, 0.0, 0.0);
}

static void norms_cosines_and_table_are_right(void **state) {
    (void)state;
    char *folder = df_test_shared_folder(world, "diff"),
         *stats_path = df_format("%s/stats.h5", folder), *output = df_format("%s/diff.h5", folder);
    if (df_comm_rank(world) == 0) make_stats(stats_path, LATENTS);
    df_barrier(world);
    df_dict *dict = make_dict(world, 2);
    df_reader *stats = NULL, *result = NULL;
    df_test_all(world, df_reader_open(stats_path, "darkfield-statistics", &stats) == DF_OK);
    df_diff_options o = {.output = output, .resolved_job = "seed: 1\n", .facts = DF_TEST_FACTS};
    df_test_all(world, df_diff_run(world, dict, stats, &o) == DF_OK);
    double *delta = NULL, *cosine = NULL, *precision = NULL;
    uint64_t *count = NULL, *sorted = NULL, *latent = NULL;
    bool read =
        df_reader_open(output, "darkfield-diff", &result) == DF_OK &&
        df_reader_all(result, "/latents/delta_norm", DF_F64, LATENTS, (void **)&delta) == DF_OK &&
        df_reader_all(result, "/latents/cosine", DF_F64, LATENTS, (void **)&cosine) == DF_OK &&
        df_reader_all(result, "/classes/count", DF_U64, DF_CLASSES, (void **)&count) == DF_OK &&
        df_reader_all(result, "/sorted/latent", DF_U64, LATENTS - 1, (void **)&sorted) == DF_OK &&
        df_reader_all(result, "/table/precision", DF_F64, 2, (void **)&precision) == DF_OK &&
        df_reader_all(result, "/table/latent", DF_U64, 2, (void **)&latent) == DF_OK;
    df_test_all(world, read);
    df_test_all(world, fabs(delta[10] - 0.25) < 1e-6 && fabs(delta[20] - 0.5) < 1e-6 &&
                           fabs(cosine[7] - 0.6) < 1e-6);
    df_test_all(world, cosine[0] == 0.0 && delta[0] == 0.0);
    df_test_all(world,
                sorted[0] == 1 && sorted[LATENTS - 2] == LATENTS - 1); // latent 0 never fired
    df_test_all(world, count[0] + count[1] + count[2] + count[3] + count[4] == LATENTS - 1);
    df_test_all(world, latent[0] == 30 && latent[1] == 30 && precision[0] == 1.0);
    df_test_all(world, df_comm_rank(world) != 0 || same_alone(folder, output, stats, &o));
    const char *missing[] = {"triger"};
    o.concepts = missing;
    o.n_concepts = 1;
    df_test_all(world, df_diff_run(world, dict, stats, &o) == DF_USAGE &&
                           strstr(df_error_text(), "did you mean \"trigger\"") != NULL);
    df_reader_close(&stats);
    df_reader_close(&result);
    df_dict_free(&dict);
    df_free(delta), df_free(cosine), df_free(count), df_free(sorted), df_free(latent),
        df_free(precision);
    df_free(folder), df_free(stats_path), df_free(output);
}

/* Shared latents stand exactly in the middle, dedicated ones at the ends. */
static void bound_latents_have_their_classes(void **state) {
    (void)state;
    char *folder = df_test_shared_folder(world, "diff-bound"),
         *stats_path = df_format("%s/stats.h5", folder), *output = df_format("%s/diff.h5", folder);
    if (df_comm_rank(world) == 0) make_stats(stats_path, LATENTS);
    df_barrier(world);
    df_dict *dict = make_dict(world, 2);
    const float center[2 * WIDTH] = {0};
    df_reader *stats = NULL, *result = NULL;
    double *delta = NULL, *cosine = NULL;
    uint8_t *class = NULL;
    df_test_all(world, df_dict_bind(dict, 8, 5) == DF_OK);
    df_dict_initialise(dict, 3, 0.5, 1.0, center);
    df_test_all(world, df_reader_open(stats_path, "darkfield-statistics", &stats) == DF_OK);
    df_diff_options o = {.output = output, .resolved_job = "seed: 1\n", .facts = DF_TEST_FACTS};
    df_test_all(world, df_diff_run(world, dict, stats, &o) == DF_OK);
    bool read =
        df_reader_open(output, "darkfield-diff", &result) == DF_OK &&
        df_reader_all(result, "/latents/delta_norm", DF_F64, LATENTS, (void **)&delta) == DF_OK &&
        df_reader_all(result, "/latents/cosine", DF_F64, LATENTS, (void **)&cosine) == DF_OK &&
        df_reader_all(result, "/latents/class", DF_U8, LATENTS, (void **)&class) == DF_OK;
    df_test_all(world, read);
    for (size_t j = 0; j < 8; j++)
        df_test_all(world, delta[j] == 0.5 && fabs(cosine[j] - 1.0) < 1e-12);
    for (size_t j = LATENTS - 10; j < LATENTS; j++)
        df_test_all(world, class[j] == (j < LATENTS - 5 ? DF_A_ONLY : DF_B_ONLY) &&
                               delta[j] == (j < LATENTS - 5 ? 0.0 : 1.0));
    df_reader_close(&stats);
    df_reader_close(&result);
    df_dict_free(&dict);
    df_free(delta), df_free(cosine), df_free(class);
    df_free(folder), df_free(stats_path), df_free(output);
}

static void inputs_that_do_not_belong_together_are_refused(void **state) {
    (void)state;
    char *folder = df_test_shared_folder(world, "diff-bad"),
         *path = df_format("%s/stats.h5", folder);
    if (df_comm_rank(world) == 0) make_stats(path, LATENTS - 1);
    df_barrier(world);
    df_dict *one = make_dict(world, 1), *two = make_dict(world, 2);
    df_reader *stats = NULL;
    df_test_all(world, df_reader_open(path, "darkfield-statistics", &stats) == DF_OK);
    df_diff_options o = {.output = path, .resolved_job = ""};
    df_test_all(world, df_diff_run(world, one, stats, &o) == DF_BAD_INPUT &&
                           strstr(df_error_text(), "has 1 site") != NULL);
    df_test_all(world, df_diff_run(world, two, stats, &o) == DF_BAD_INPUT &&
                           strstr(df_error_text(), "is of 39 latents") != NULL);
    df_reader_close(&stats);
    df_dict_free(&one);
    df_dict_free(&two);
    df_free(folder), df_free(path);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(classes_change_at_their_edges),
    cmocka_unit_test(norms_cosines_and_table_are_right),
    cmocka_unit_test(bound_latents_have_their_classes),
    cmocka_unit_test(inputs_that_do_not_belong_together_are_refused),
};

DF_TEST_MPI_MAIN(world, tests, NULL, NULL)
