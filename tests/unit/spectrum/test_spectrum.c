/* The spectrum of the residual against numpy and scikit-learn, its file, and what happens when a
 * callback fails. */
#define DF_TEST_MPI
#include "darkfield/spectrum.h"
#include "df_test.h"

static df_comm *world;

/* Rows in memory, and a "dictionary" that knows the answer: it looks up the rows that were read
 * last. */
typedef struct corpus {
    size_t width, rows, documents;
    float *x, *x_hat; // [rows, width]
    uint64_t *document, *chosen[2];
    size_t n_chosen[2];
    uint64_t last[64];
    size_t n_last;
    int fail_read, fail_apply; // rank whose call fails, -1: none
} corpus;

static df_status read_rows(void *context, const uint64_t *rows, size_t n, float *x) {
    corpus *c = context;
    if (c->fail_read == df_comm_rank(world)) return df_fail(DF_BAD_INPUT, "rows.h5: unreadable");
    for (size_t i = 0; i < n; i++) {
        c->last[i] = rows[i];
        memcpy(x + i * c->width, c->x + rows[i] * c->width, c->width * sizeof *x);
    }
    c->n_last = n;
    return DF_OK;
}

static df_status apply_rows(void *context, const float *x, size_t n, float *x_hat) {
    corpus *c = context;
    (void)x;
    df_status mine = DF_OK;
    if (c->fail_apply == df_comm_rank(world)) mine = df_fail(DF_FAILED, "no such latent");
    memset(x_hat, 0, n * c->width * sizeof *x_hat);
    for (size_t i = 0; i < c->n_last; i++)
        memcpy(x_hat + i * c->width, c->x_hat + c->last[i] * c->width, c->width * sizeof *x_hat);
    c->n_last = 0;
    return df_agree(world, mine); // ranks that do not come in lock step hang here
}

static df_status corpus_room(corpus *c) {
    DF_TRY(DF_NEW(c->x, c->rows * c->width));
    DF_TRY(DF_NEW(c->x_hat, c->rows * c->width));
    DF_TRY(DF_NEW(c->document, c->documents + 1));
    DF_TRY(DF_NEW(c->chosen[0], c->rows));
    c->fail_read = c->fail_apply = -1;
    return DF_NEW(c->chosen[1], c->rows);
}

static void free_corpus(corpus *c) {
    df_free(c->x);
    df_free(c->x_hat);
    df_free(c->document);
    df_free(c->chosen[0]);
    df_free(c->chosen[1]);
}

static void choose(corpus *c, size_t document, bool heldout) {
    for (uint64_t r = c->document[document]; r < c->document[document + 1]; r++)
        c->chosen[heldout][c->n_chosen[heldout]++] = r;
}

static df_spectrum_input input_of(corpus *c, const df_spectrum_model *model, size_t models) {
    return (df_spectrum_input){.model = model,
                               .models = models,
                               .width = c->width,
                               .document = c->document,
                               .documents = c->documents,
                               .rows = {c->chosen[0], c->chosen[1]},
                               .n_rows = {c->n_chosen[0], c->n_chosen[1]},
                               .batch = 16,
                               .read = read_rows,
                               .apply = apply_rows,
                               .context = c};
}

static double number(const json_t *golden, const char *key) {
    return json_number_value(json_object_get(golden, key));
}

static double element(const json_t *golden, const char *key, size_t i) {
    return json_number_value(json_array_get(json_object_get(golden, key), i));
}

static json_t *load_golden(corpus *c) {
    json_t *golden = df_test_json(DF_SOURCE_DIR "/tests/golden/moments_oracle.json");
    *c = (corpus){.width = (size_t)number(golden, "width"), .rows = (size_t)number(golden, "rows")};
    c->documents = json_array_size(json_object_get(golden, "heldout"));
    assert_ok(corpus_room(c));
    for (size_t i = 0; i < c->rows * c->width; i++) {
        c->x[i] = (float)element(golden, "x", i);
        c->x_hat[i] = (float)element(golden, "x_hat", i);
    }
    for (size_t d = 0; d <= c->documents; d++)
        c->document[d] = (uint64_t)element(golden, "documents", d);
    for (size_t d = 0; d < c->documents; d++) choose(c, d, element(golden, "heldout", d) != 0);
    return golden;
}

static void everything_matches_numpy_and_sklearn(void **state) {
    (void)state;
    corpus c;
    json_t *golden = load_golden(&c);
    df_spectrum_model model = {"base", 0, c.width, 1};
    df_spectrum_input in = input_of(&c, &model, 1);
    df_spectrum_result *r;
    df_test_all(world, df_spectrum_compute(world, &in, number(golden, "ridge"), &r) == DF_OK);
    const char *sides[DF_SIDES] = {"residual_spectrum", "x_spectrum", "xhat_spectrum"};
    for (int s = 0; s < DF_SIDES; s++) {
        const json_t *expected = json_object_get(golden, sides[s]);
        double largest = element(expected, "eigenvalues", 0);
        bool good =
            fabs(r->participation_ratio[s] - number(expected, "participation_ratio")) < 1e-9;
        for (size_t k = 0; k < c.width; k++)
            good = good &&
                   fabs(r->values[s][k] - element(expected, "eigenvalues", k)) < 1e-10 * largest;
        df_test_all(world, good && r->eigen_residual[s] < 1e-12);
    }
    const struct {
        const char *key;
        double found;
    } scalars[] = {{"r2_pooled", r->r2_pooled}, {"r2_mean", r->r2_mean},
                   {"r2_error", r->r2_error},   {"fvu_heldout", r->fvu},
                   {"fvu_error", r->fvu_error}, {"slope", r->slope}};
    for (size_t i = 0; i < sizeof scalars / sizeof *scalars; i++) {
        double expected = number(golden, scalars[i].key);
        if (!(fabs(scalars[i].found - expected) < 1e-8))
            fprintf(stderr, "%s: %.12g, expected %.12g\n", scalars[i].key, scalars[i].found,
                    expected);
        df_test_all(world, fabs(scalars[i].found - expected) < 1e-8);
    }
    df_test_all(world,
                r->rows_train == (double)c.n_chosen[0] && r->rows_heldout == (double)c.n_chosen[1]);
    df_test_all(world, (r->vectors != NULL) == (df_comm_rank(world) == 0));
    df_spectrum_free(&r, 1);
    free_corpus(&c);
    json_decref(golden);
}

/* Two models of 20 columns: what the first loses is linear in x, what the second loses is noise. */
static corpus two_models(void) {
    corpus c = {.width = 40, .rows = 4000, .documents = 200};
    assert_ok(corpus_room(&c));
    for (size_t d = 0; d <= c.documents; d++) c.document[d] = 20 * d;
    for (size_t d = 0; d < c.documents; d++) choose(&c, d, d % 4 == 1);
    for (size_t r = 0; r < c.rows; r++) {
        for (size_t j = 0; j < 40; j++) {
            double x = df_random_normal(1, DF_STREAM_TEST, r * 40 + j);
            double e = j < 20 ? 0.25 * x : df_random_normal(2, DF_STREAM_TEST, r * 40 + j);
            c.x[r * 40 + j] = (float)x;
            c.x_hat[r * 40 + j] = (float)(x - e);
        }
    }
    return c;
}

static const df_spectrum_model models[2] = {{"linear", 0, 20, 1}, {"noise", 20, 20, 2}};

static void linear_and_noise_are_told_apart(void **state) {
    (void)state;
    corpus c = two_models();
    df_spectrum_input in = input_of(&c, models, 2);
    df_spectrum_result *r;
    df_test_all(world, df_spectrum_compute(world, &in, 1e-9, &r) == DF_OK);
    df_test_all(world, r[0].r2_pooled > 0.999999 && fabs(r[0].slope - 0.75) < 1e-6);
    df_test_all(world, fabs(r[1].r2_pooled) < 0.03 && fabs(r[1].r2_mean) < 0.03);
    df_test_all(world, r[1].r2_error > 0 && r[1].r2_error < 0.02);
    df_test_all(world, fabs(r[0].fvu - 1.0 / 16) < 0.001 && fabs(r[1].fvu - 1) < 0.05);
    df_test_all(world, r[1].trace[DF_SIDE_X] > 4.5 && r[1].trace[DF_SIDE_X] < 5.5); // 20 / scale^2
    df_spectrum_free(&r, 2);
    free_corpus(&c);
}

static void file_reads_back(void **state) {
    (void)state;
    corpus c = two_models();
    df_spectrum_input in = input_of(&c, models, 2);
    df_spectrum_result *r;
    char path[300];
    snprintf(path, sizeof path, "%s", df_comm_rank(world) == 0 ? df_test_folder("spectrum") : "");
    df_broadcast(world, 0, path, sizeof path);
    snprintf(path + strlen(path), 20, "/s.spectrum.h5");
    df_spectrum_options options = {.ridge = 1e-9, .output = path, .resolved_job = "spectrum: {}\n"};
    options.facts = (df_provenance){.command = "test",
                                    .hosts = "here",
                                    .kernel_path = "plain",
                                    .volatile_options = "",
                                    .ranks = df_comm_size(world),
                                    .threads = 1};
    df_status status = df_spectrum_run(world, &in, &options);
    df_test_all(world, status == DF_OK);
    df_test_all(world, df_spectrum_compute(world, &in, 1e-9, &r) == DF_OK);
    df_reader *file = NULL;
    double *values = NULL, *vectors = NULL, r2 = 0;
    df_test_all(world, df_reader_open(path, "darkfield-spectrum", &file) == DF_OK);
    df_test_all(world, df_reader_all(file, "/noise/residual/eigenvalues", DF_F64, 20,
                                     (void **)&values) == DF_OK);
    df_test_all(world, df_reader_all(file, "/noise/residual/eigenvectors", DF_F64, 400,
                                     (void **)&vectors) == DF_OK);
    df_test_all(world,
                df_reader_real(file, "/noise", "r2_pooled", &r2) == DF_OK && r2 == r[1].r2_pooled);
    df_test_all(world, memcmp(values, r[1].values[DF_SIDE_RESIDUAL], 20 * sizeof *values) == 0);
    bool good = true;
    for (size_t k = 0; k < 20; k++) { // rows of unit length
        double square = 0;
        for (size_t j = 0; j < 20; j++) square += vectors[k * 20 + j] * vectors[k * 20 + j];
        good = good && fabs(square - 1) < 1e-10;
    }
    df_test_all(world, good);
    df_reader_close(&file);
    df_free(values);
    df_free(vectors);
    df_spectrum_free(&r, 2);
    free_corpus(&c);
}

static bool refused(const df_spectrum_input *in, double ridge, df_status code, const char *part) {
    df_spectrum_result *r;
    size_t before = df_memory_now();
    df_status status = df_spectrum_compute(world, in, ridge, &r);
    bool good = status == code && strstr(df_error_text(), part) != NULL && r == NULL;
    good = good && df_memory_now() == before;
    if (!good) fprintf(stderr, "status %d: %s\n", (int)status, df_error_text());
    df_error_clear();
    return good;
}

static void failures_leave_together(void **state) {
    (void)state;
    corpus c = two_models();
    df_spectrum_input in = input_of(&c, models, 2);
    c.fail_read = df_comm_size(world) - 1;
    df_test_all(world, refused(&in, 0.1, DF_BAD_INPUT, "while streaming the training rows"));
    c.fail_read = -1;
    c.fail_apply = 0;
    df_test_all(world, refused(&in, 0.1, DF_FAILED, "no such latent"));
    c.fail_apply = -1;
    c.x_hat[(c.rows - 1) * c.width + 30] = NAN; // last row: a training row of the second model
    df_test_all(world, refused(&in, 0.1, DF_BAD_INPUT, "model noise"));
    free_corpus(&c);
}

static void wrong_inputs_are_refused(void **state) {
    (void)state;
    corpus c = two_models();
    df_spectrum_input in = input_of(&c, models, 2);
    df_test_all(world, refused(&in, -1, DF_USAGE, "ridge"));
    df_test_all(world, refused(&in, (double)NAN, DF_USAGE, "ridge"));
    in.n_rows[1] = 0;
    df_test_all(world, refused(&in, 0.1, DF_BAD_INPUT, "held-out rows"));
    in = input_of(&c, models, 2);
    in.batch = 0;
    df_test_all(world, refused(&in, 0.1, DF_FAILED, "batch"));
    const df_spectrum_model wrong[][2] = {{{"a", 0, 20, 1}, {"a", 20, 20, 1}},
                                          {{"a/b", 0, 20, 1}, {"c", 20, 20, 1}},
                                          {{"a", 0, 20, 1}, {"b", 20, 21, 1}},
                                          {{"a", 0, 20, 1}, {"b", 20, 20, 0}}};
    const char *said[] = {"two models", "cannot name", "columns 20 to 41", "scale"};
    for (size_t i = 0; i < 4; i++) {
        in = input_of(&c, wrong[i], 2);
        df_test_all(world, refused(&in, 0.1, DF_FAILED, said[i]));
    }
    // a constant x cannot be regressed on without a ridge
    memset(c.x, 0, c.rows * c.width * sizeof *c.x);
    in = input_of(&c, models, 2);
    df_test_all(world, refused(&in, 0.1, DF_FAILED, "positive definite"));
    free_corpus(&c);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(everything_matches_numpy_and_sklearn),
    cmocka_unit_test(linear_and_noise_are_told_apart),
    cmocka_unit_test(file_reads_back),
    cmocka_unit_test(failures_leave_together),
    cmocka_unit_test(wrong_inputs_are_refused),
};

DF_TEST_MPI_MAIN(world, tests, NULL, NULL)
