/* Streaming moments against numpy, against plain loops, and against themselves on other rank
 * counts. */
#define DF_TEST_MPI
#include "darkfield/moments.h"
#include "df_test.h"

#include <omp.h>

static df_comm *world;

/* ---- rows ----------------------------------------------------------------------------------- */

typedef struct corpus {
    size_t width, rows;
    float *x, *x_hat; // [rows, width]
    df_buckets buckets;
} corpus;

/* Rows with large means and spread, so that another order of addition would show in the bits. */
static corpus random_corpus(size_t width, size_t documents, size_t length) {
    corpus c = {.width = width};
    uint64_t *document = df_alloc(documents + 1, sizeof *document);
    for (size_t d = 0; d < documents; d++)
        document[d + 1] = document[d] + 1 + df_random_bits(3, DF_STREAM_TEST, d) % length;
    c.rows = document[documents];
    c.x = df_alloc(c.rows * width, sizeof *c.x);
    c.x_hat = df_alloc(c.rows * width, sizeof *c.x_hat);
    for (size_t i = 0; i < c.rows * width; i++) {
        c.x[i] = (float)(10 + 3 * df_random_normal(4, DF_STREAM_TEST, i));
        c.x_hat[i] = c.x[i] - (float)df_random_normal(5, DF_STREAM_TEST, i);
    }
    df_buckets_make(document, documents, &c.buckets);
    df_free(document);
    return c;
}

static void free_corpus(corpus *c) {
    df_free(c->x);
    df_free(c->x_hat);
}

/* Streams this rank's buckets in batches of at most `batch` rows. */
static df_sums *sums_of(df_comm *comm, const corpus *c, size_t batch, const double *form) {
    df_moments *m;
    df_sums *sums = NULL;
    df_range own = df_share(DF_BUCKETS, df_comm_size(comm), df_comm_rank(comm));
    df_status status = df_moments_new(comm, c->width, form, &m);
    for (size_t b = own.first; status == DF_OK && b < own.first + own.count; b++) {
        size_t end = c->buckets.row[b + 1];
        for (size_t at = c->buckets.row[b]; status == DF_OK && at < end; at += batch) {
            size_t n = end - at < batch ? end - at : batch, first = at * c->width;
            status = df_moments_bucket(m, b);
            if (status == DF_OK)
                status = df_moments_add(m, c->x + first, c->x_hat + first, n, c->width);
        }
    }
    if (status == DF_OK) status = df_moments_finish(comm, &m, &sums);
    return sums;
}

static bool same_bits(const df_sums *a, const df_sums *b) {
    size_t d = a->width, n = d * d;
    bool same = a->rows == b->rows && memcmp(a->sum, b->sum, 2 * d * sizeof(double)) == 0;
    same = same && memcmp(a->bucket, b->bucket, sizeof a->bucket) == 0;
    same = same && memcmp(a->bucket_sum, b->bucket_sum, DF_BUCKETS * 2 * d * sizeof(double)) == 0;
    double *left = df_alloc(n, sizeof *left), *right = df_alloc(n, sizeof *right);
    for (int p = DF_XX; p <= DF_HH; p++) {
        df_sums_second(a, (df_product)p, left);
        df_sums_second(b, (df_product)p, right);
        same = same && memcmp(left, right, n * sizeof(double)) == 0;
    }
    df_free(left);
    df_free(right);
    return same;
}

/* ---- sums ----------------------------------------------------------------------------------- */

static void bits_do_not_depend_on_ranks_threads_or_batches(void **state) {
    (void)state;
    const size_t widths[] = {3, 128, 200}; // one tile, exactly one tile, several with a ragged one
    df_comm *self = NULL, *half = NULL;
    df_test_all(world, df_comm_self(&self) == DF_OK);
    df_test_all(world, df_comm_split(world, df_comm_rank(world) % 2, 0, &half) == DF_OK);
    for (size_t w = 0; w < 3; w++) {
        corpus c = random_corpus(widths[w], 150, w == 0 ? 2000 : 20);
        omp_set_num_threads(1);
        df_sums *all = sums_of(world, &c, 100, NULL), *some = sums_of(half, &c, 1, NULL);
        omp_set_num_threads(df_comm_size(world) <= 2 ? 2 : 1); // more only fight for the cores
        df_sums *alone = sums_of(self, &c, 5000, NULL);
        omp_set_num_threads(1);
        df_test_all(world, all != NULL && some != NULL && alone != NULL);
        df_test_all(world, same_bits(all, alone));
        df_test_all(world, same_bits(some, alone));
        df_sums_free(&all);
        df_sums_free(&some);
        df_sums_free(&alone);
        free_corpus(&c);
    }
    df_comm_free(&self);
    df_comm_free(&half);
}

/* Products by plain loops, in long double. */
static double worst_against_loops(const df_sums *s, const corpus *c) {
    size_t d = c->width;
    double *out = df_alloc(d * d, sizeof *out), worst = 0;
    for (int p = DF_XX; p <= DF_HH; p++) {
        df_sums_second(s, (df_product)p, out);
        for (size_t i = 0; i < d; i++)
            for (size_t j = 0; j < d; j++) {
                long double sum = 0;
                for (size_t r = 0; r < c->rows; r++) {
                    long double x = c->x[r * d + i], h = c->x_hat[r * d + i], e = x - h;
                    long double xj = c->x[r * d + j], hj = c->x_hat[r * d + j], ej = xj - hj;
                    long double a = p == DF_HH ? h : p == DF_EE ? e : x;
                    long double b = p == DF_HH ? hj : p == DF_XX ? xj : ej;
                    sum += a * b;
                }
                double error = (double)(sum - out[i * d + j]) / (double)c->rows;
                worst = df_test_worse(worst, fabs(error));
            }
    }
    df_free(out);
    return worst;
}

static void products_match_loops(void **state) {
    (void)state;
    const size_t widths[] = {2, 130};
    for (size_t w = 0; w < 2; w++) {
        corpus c = random_corpus(widths[w], 20, 25);
        df_sums *s = sums_of(world, &c, 64, NULL);
        df_test_all(world, s != NULL && s->rows == (double)c.rows);
        df_test_all(world, worst_against_loops(s, &c) < 1e-11);
        df_sums_free(&s);
        free_corpus(&c);
    }
}

static const double *stored(const json_t *object, const char *key, double *out) {
    const json_t *array = json_object_get(object, key);
    for (size_t i = 0; i < json_array_size(array); i++)
        out[i] = json_number_value(json_array_get(array, i));
    return out;
}

static json_t *load_golden(corpus *c) {
    json_t *golden = df_test_json(DF_SOURCE_DIR "/tests/golden/moments_oracle.json");
    c->width = (size_t)json_integer_value(json_object_get(golden, "width"));
    c->rows = (size_t)json_integer_value(json_object_get(golden, "rows"));
    size_t n = c->rows * c->width, documents = json_array_size(json_object_get(golden, "heldout"));
    double *values = df_alloc(n, sizeof *values);
    uint64_t document[1000];
    c->x = df_alloc(n, sizeof *c->x);
    c->x_hat = df_alloc(n, sizeof *c->x_hat);
    stored(golden, "x", values);
    for (size_t i = 0; i < n; i++) c->x[i] = (float)values[i];
    stored(golden, "x_hat", values);
    for (size_t i = 0; i < n; i++) c->x_hat[i] = (float)values[i];
    stored(golden, "documents", values);
    for (size_t i = 0; i <= documents; i++) document[i] = (uint64_t)values[i];
    df_buckets_make(document, documents, &c->buckets);
    df_free(values);
    return golden;
}

static void covariance_matches_numpy(void **state) {
    (void)state;
    corpus c = {0};
    json_t *golden = load_golden(&c);
    df_sums *s = sums_of(world, &c, 10, NULL);
    const char *names[] = {"x_spectrum", "residual_spectrum", "xhat_spectrum"};
    const df_product products[] = {DF_XX, DF_EE, DF_HH};
    double expected[36], out[36];
    for (int k = 0; k < 3; k++) {
        stored(json_object_get(golden, names[k]), "covariance", expected);
        df_sums_covariance(s, products[k], out);
        bool good = true;
        for (size_t i = 0; i < 36; i++) good = good && fabs(out[i] - expected[i]) < 1e-11;
        for (size_t i = 0; i < 36; i++) good = good && out[i] == out[i % 6 * 6 + i / 6];
        df_test_all(world, good);
    }
    double fvu = json_real_value(json_object_get(golden, "fvu"));
    df_test_all(world, fabs(df_sums_fvu(s) - fvu) < 1e-12);
    df_sums_free(&s);
    free_corpus(&c);
    json_decref(golden);
}

static void parts_add_up(void **state) {
    (void)state;
    corpus c = random_corpus(5, 100, 9);
    df_sums *once = sums_of(world, &c, 10, NULL), *twice = sums_of(world, &c, 10, NULL);
    df_sums_add(twice, once);
    double a[25], b[25];
    df_sums_second(once, DF_EE, a);
    df_sums_second(twice, DF_EE, b);
    bool good = twice->rows == 2 * once->rows && twice->sum[7] == 2 * once->sum[7];
    for (int i = 0; i < 25; i++) good = good && b[i] == 2 * a[i];
    good = good && twice->bucket[3].e_square == 2 * once->bucket[3].e_square;
    df_test_all(world, good);
    df_sums_free(&once);
    df_sums_free(&twice);
    free_corpus(&c);
}

/* The form gives each bucket's squared error of e ~ W'x: compared with the rows themselves. */
static void form_is_the_squared_error(void **state) {
    (void)state;
    const size_t d = 140;
    corpus c = random_corpus(d, 80, 5);
    double *w = df_alloc(d * d, sizeof *w), *ww = df_alloc(d * d, sizeof *ww), *form;
    for (size_t i = 0; i < d * d; i++) w[i] = 0.1 * df_random_normal(8, DF_STREAM_TEST, i);
    for (size_t i = 0; i < d; i++)
        for (size_t j = 0; j < d; j++)
            for (size_t k = 0; k < d; k++) ww[i * d + j] += w[i * d + k] * w[j * d + k];
    df_test_all(world, df_form_new(d, w, ww, &form) == DF_OK);
    df_sums *s = sums_of(world, &c, 7, form);
    bool good = true;
    for (size_t b = 0; b < DF_BUCKETS; b++) {
        double expected = 0;
        for (size_t r = c.buckets.row[b]; r < c.buckets.row[b + 1]; r++)
            for (size_t j = 0; j < d; j++) {
                double e = (double)c.x[r * d + j] - (double)c.x_hat[r * d + j];
                for (size_t i = 0; i < d; i++) e -= w[i * d + j] * (double)c.x[r * d + i];
                expected += e * e;
            }
        good = good && fabs(s->bucket[b].form - expected) <= 1e-10 * expected;
    }
    df_test_all(world, good);
    df_free(w);
    df_free(ww);
    df_free(form);
    df_sums_free(&s);
    free_corpus(&c);
}

/* ---- misuse and damage ---------------------------------------------------------------------- */

static void damaged_rows_are_refused(void **state) {
    (void)state;
    df_moments *m;
    df_comm *self;
    float x[2] = {1, 2}, bad[2] = {1, NAN}, wide[2] = {1, INFINITY};
    assert_ok(df_comm_self(&self));
    assert_ok(df_moments_new(self, 2, NULL, &m));
    assert_ok(df_moments_add(m, x, x, 1, 2));
    assert_fails(df_moments_add(m, bad, x, 1, 2), DF_BAD_INPUT, "not finite");
    assert_fails(df_moments_add(m, x, wide, 1, 2), DF_BAD_INPUT, "after the dictionary");
    assert_ok(df_moments_bucket(m, 5));
    assert_fails(df_moments_bucket(m, 4), DF_FAILED, "expected one of 5 to 63");
    assert_fails(df_moments_bucket(m, 64), DF_FAILED, "bucket 64");
    df_moments_free(&m);
    assert_null(m);
    assert_fails(df_moments_new(self, SIZE_MAX / 2, NULL, &m), DF_FAILED, "overflow");
    assert_null(m);
    df_comm_free(&self);
}

static void no_rows_at_all(void **state) {
    (void)state;
    corpus c = {.width = 4};
    df_buckets_make(NULL, 0, &c.buckets);
    df_sums *s = sums_of(world, &c, 10, NULL);
    double out[16];
    df_test_all(world, s != NULL && s->rows == 0);
    df_sums_covariance(s, DF_EE, out);
    df_test_all(world, out[0] == 0 && out[15] == 0);
    df_sums_free(&s);
}

static void no_memory_on_one_rank(void **state) {
    (void)state;
    corpus c = random_corpus(3, 10, 4);
    size_t before = df_memory_now();
    df_sums *s = NULL;
    for (int64_t call = 0; s == NULL && call < 30; call++) {
        df_moments *m = NULL;
        if (df_comm_rank(world) == df_comm_size(world) - 1) df_memory_fail_after(call);
        df_status status = df_moments_new(world, 3, NULL, &m);
        if (status == DF_OK) status = df_moments_finish(world, &m, &s);
        df_memory_fail_after(-1);
        df_test_all(world, (status == DF_OK) == (s != NULL));
        df_test_all(world, s != NULL || df_memory_now() == before);
    }
    df_test_all(world, s != NULL);
    df_error_clear();
    df_sums_free(&s);
    free_corpus(&c);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(bits_do_not_depend_on_ranks_threads_or_batches),
    cmocka_unit_test(products_match_loops),
    cmocka_unit_test(covariance_matches_numpy),
    cmocka_unit_test(parts_add_up),
    cmocka_unit_test(form_is_the_squared_error),
    cmocka_unit_test(damaged_rows_are_refused),
    cmocka_unit_test(no_rows_at_all),
    cmocka_unit_test(no_memory_on_one_rank),
};

DF_TEST_MPI_MAIN(world, tests, NULL, NULL)
