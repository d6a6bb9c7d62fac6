/* Distributed matrices against numpy's answers and against what must hold for any matrix. */
#define DF_TEST_MPI
#include "darkfield/linalg.h"
#include "df_test.h"

static df_comm *world;
static df_grid *grid;
static json_t *golden;

static int setup(void **state) {
    (void)state;
    golden = df_test_json(DF_SOURCE_DIR "/tests/golden/linalg_oracle.json");
    return df_grid_new(world, &grid) == DF_OK ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    json_decref(golden);
    df_grid_free(&grid);
    return 0;
}

/* One of the oracle's arrays, in new memory. */
static double *stored(const char *key) {
    const json_t *array = json_object_get(golden, key);
    size_t n = json_array_size(array);
    double *out = df_alloc(n, sizeof *out);
    for (size_t i = 0; i < n; i++) out[i] = json_real_value(json_array_get(array, i));
    return out;
}

static double distance(const double *a, const double *b, size_t n) {
    double most = 0;
    for (size_t i = 0; i < n; i++) most = df_test_worse(most, fabs(a[i] - b[i]));
    return most;
}

static double *random_array(uint64_t seed, size_t n) {
    double *out = df_alloc(n, sizeof *out);
    for (size_t i = 0; i < n; i++) out[i] = df_random_normal(seed, DF_STREAM_TEST, i);
    return out;
}

static df_matrix *from_array(size_t rows, size_t columns, const double *all) {
    df_matrix *m;
    df_test_all(world, df_matrix_new(grid, rows, columns, &m) == DF_OK);
    if (all != NULL) df_matrix_set(m, all);
    return m;
}

static void grid_is_near_square(void **state) {
    (void)state;
    int rows, columns, size = df_comm_size(world);
    df_grid_shape(grid, &rows, &columns);
    assert_true(rows * rows <= size && (rows + 1) * (rows + 1) > size);
    assert_true(rows * columns <= size && rows * (columns + 1) > size);
}

static void grids_come_and_go(void **state) {
    (void)state;
    for (int i = 0; i < 3; i++) {
        df_grid *other = NULL;
        df_test_all(world, df_grid_new(world, &other) == DF_OK);
        df_grid_free(&other);
    }
}

static void arrays_go_around(void **state) {
    (void)state;
    const size_t shapes[][2] = {{1, 1}, {5, 70}, {97, 33}, {64, 64}, {1, 200}};
    int last = df_comm_size(world) - 1;
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        size_t rows = shapes[s][0], columns = shapes[s][1], n = rows * columns;
        double *all = random_array(s, n), *back = df_alloc(n, sizeof *back);
        df_matrix *m = from_array(rows, columns, all);
        df_test_all(world, df_matrix_rows(m) == rows && df_matrix_columns(m) == columns);
        df_test_all(world, df_matrix_collect(m, -1, back) == DF_OK);
        df_test_all(world, distance(all, back, n) == 0);
        df_matrix *spread = from_array(rows, columns, NULL);
        memset(back, 0, n * sizeof *back);
        bool has = df_comm_rank(world) == last;
        df_test_all(world, df_matrix_spread(spread, last, has ? all : NULL) == DF_OK);
        df_test_all(world, df_matrix_collect(spread, 0, back) == DF_OK);
        df_test_all(world, df_comm_rank(world) != 0 || distance(all, back, n) == 0);
        df_matrix_free(&m);
        df_matrix_free(&spread);
        df_free(all);
        df_free(back);
    }
}

static void impossible_shapes_are_refused(void **state) {
    (void)state;
    df_matrix *m = NULL;
    df_test_all(world, df_matrix_new(grid, 0, 3, &m) == DF_FAILED && m == NULL);
    df_test_all(world, df_matrix_new(grid, (size_t)1 << 31, 1, &m) == DF_FAILED && m == NULL);
    df_test_all(world, strstr(df_error_text(), "both must be 1 to") != NULL);
    if (df_comm_size(world) <= 4) { // 4 x 10^10 elements: too many for 4 ranks' 32-bit integers
        df_test_all(world, df_matrix_new(grid, 200000, 200000, &m) == DF_FAILED && m == NULL);
        df_test_all(world, strstr(df_error_text(), "use more ranks") != NULL);
    }
    df_matrix *a = from_array(4, 5, NULL), *b = from_array(4, 4, NULL);
    df_test_all(world, df_matrix_multiply(DF_PLAIN, a, DF_PLAIN, b, b) == DF_FAILED);
    double values[5];
    df_test_all(world, df_eigen_symmetric(a, values, b, NULL) == DF_FAILED);
    df_test_all(world, df_solve_ridge(a, 0, b, NULL) == DF_FAILED);
    df_matrix_free(&a);
    df_matrix_free(&b);
    df_error_clear();
}

static void products_match_loops(void **state) {
    (void)state;
    const size_t m = 45, k = 70, n = 33;
    double *a = random_array(1, m * k), *b = random_array(2, n * k),
           *c = df_alloc(m * n, sizeof *c);
    double *expected = df_alloc(m * n, sizeof *expected);
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++)
            for (size_t l = 0; l < k; l++) expected[i * n + j] += a[i * k + l] * b[j * k + l];
    df_matrix *da = from_array(m, k, a), *db = from_array(n, k, b), *dc = from_array(m, n, NULL);
    df_test_all(world, df_matrix_multiply(DF_PLAIN, da, DF_TRANSPOSED, db, dc) == DF_OK);
    df_test_all(world,
                df_matrix_collect(dc, -1, c) == DF_OK && distance(c, expected, m * n) < 1e-12);
    df_matrix *back = from_array(k, k, NULL);
    df_test_all(world, df_matrix_multiply(DF_TRANSPOSED, da, DF_PLAIN, da, back) == DF_OK);
    df_matrix_free(&back);
    df_matrix_free(&da);
    df_matrix_free(&db);
    df_matrix_free(&dc);
    df_free(a);
    df_free(b);
    df_free(c);
    df_free(expected);
}

static void eigenvalues_match_numpy(void **state) {
    (void)state;
    size_t n = (size_t)json_integer_value(json_object_get(golden, "n"));
    double *a = stored("symmetric"), *expected = stored("eigenvalues"),
           *values = df_alloc(n, sizeof *values);
    df_matrix *da = from_array(n, n, a), *vectors = from_array(n, n, NULL);
    df_eigen_quality quality;
    df_test_all(world, df_eigen_symmetric(da, values, vectors, &quality) == DF_OK);
    df_test_all(world, distance(values, expected, n) <= 1e-10 * fabs(expected[0]));
    df_test_all(world, quality.residual < 1e-12 && quality.orthogonality < 1e-12);
    df_matrix_free(&da);
    df_matrix_free(&vectors);
    df_free(a);
    df_free(expected);
    df_free(values);
}

/* A v = l v by loops, signs, order: for a symmetric array [n, n]. */
static bool decomposition_holds(size_t n, const double *a, double scale) {
    double *values = df_alloc(n, sizeof *values), *v = df_alloc(n * n, sizeof *v);
    df_matrix *da = from_array(n, n, a), *dv = from_array(n, n, NULL);
    df_status status = df_eigen_symmetric(da, values, dv, NULL);
    df_test_all(world, status == DF_OK);
    df_test_all(world, df_matrix_collect(dv, -1, v) == DF_OK);
    bool good = true;
    for (size_t k = 0; k < n; k++) {
        good = good && (k == 0 || values[k] <= values[k - 1]);
        size_t largest = 0;
        for (size_t i = 0; i < n; i++) {
            double sum = -values[k] * v[i * n + k];
            for (size_t j = 0; j < n; j++) sum += a[i * n + j] * v[j * n + k];
            good = good && fabs(sum) <= 1e-10 * scale;
            if (fabs(v[i * n + k]) > fabs(v[largest * n + k])) largest = i;
        }
        good = good && v[largest * n + k] > 0;
    }
    df_matrix_free(&da);
    df_matrix_free(&dv);
    df_free(values);
    df_free(v);
    return good;
}

static void random_matrices(void **state) {
    (void)state;
    const size_t sizes[] = {1, 2, 31, 32, 33, 130};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        size_t n = sizes[s];
        double *half = random_array(10 + s, n * n), *a = df_alloc(n * n, sizeof *a);
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < n; j++) a[i * n + j] = 1e6 * (half[i * n + j] + half[j * n + i]);
        df_test_all(world, decomposition_holds(n, a, 1e6 * 4 * sqrt((double)n)));
        df_free(half);
        df_free(a);
    }
}

/* Two clusters whose members differ by 1e-13 of the norm: vectors must stay orthogonal all the
 * same. */
static void near_degenerate_matrix(void **state) {
    (void)state;
    const size_t n = 80;
    double *a = df_alloc(n * n, sizeof *a), *u = random_array(5, n), norm = 0;
    for (size_t i = 0; i < n; i++) norm += u[i] * u[i];
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++) { // a reflection of a diagonal matrix
            double sum = 0;
            for (size_t k = 0; k < n; k++) {
                double value = (k < n / 2 ? 1.0 : 2.0) + 1e-13 * (double)k;
                double left = (i == k) - 2 * u[i] * u[k] / norm,
                       right = (j == k) - 2 * u[j] * u[k] / norm;
                sum += left * value * right;
            }
            a[i * n + j] = sum;
        }
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < i; j++) a[j * n + i] = a[i * n + j];
    df_test_all(world, decomposition_holds(n, a, 2));
    memset(a, 0, n * n * sizeof *a);
    df_test_all(world, decomposition_holds(n, a, 1));
    df_free(a);
    df_free(u);
}

static void damaged_matrices_are_refused(void **state) {
    (void)state;
    const size_t n = 40;
    double *a = random_array(6, n * n), values[40];
    df_matrix *v = from_array(n, n, NULL);
    for (int kind = 0; kind < 2; kind++) {
        a[n * n - 1] = kind == 0 ? (double)NAN : (double)INFINITY;
        df_matrix *da = from_array(n, n, a);
        df_status status = df_eigen_symmetric(da, values, v, NULL);
        df_test_all(world, status == DF_BAD_INPUT && strstr(df_error_text(), "not finite") != NULL);
        df_test_all(world, df_solve_ridge(da, 0, v, NULL) == DF_BAD_INPUT);
        df_matrix_free(&da);
    }
    a[n * n - 1] = 0; // finite now, but not symmetric
    df_matrix *da = from_array(n, n, a);
    df_test_all(world, df_eigen_symmetric(da, values, v, NULL) == DF_FAILED);
    df_test_all(world, strstr(df_error_text(), "symmetric") != NULL);
    df_matrix_free(&da);
    df_matrix_free(&v);
    df_free(a);
    df_error_clear();
}

static void ridge_matches_numpy(void **state) {
    (void)state;
    size_t n = (size_t)json_integer_value(json_object_get(golden, "n"));
    size_t right = (size_t)json_integer_value(json_object_get(golden, "right_columns"));
    double ridge = json_real_value(json_object_get(golden, "ridge")), rcond;
    double *g = stored("gram"), *b = stored("right"), *expected = stored("solution");
    df_matrix *dg = from_array(n, n, g), *db = from_array(n, right, b);
    df_test_all(world, df_solve_ridge(dg, ridge, db, &rcond) == DF_OK);
    df_test_all(world, df_matrix_collect(db, -1, b) == DF_OK);
    df_test_all(world, distance(b, expected, n * right) < 1e-12);
    double exact = json_real_value(json_object_get(golden, "rcond"));
    df_test_all(world, rcond > 0.999 * exact && rcond < 10 * exact); // an estimate, from above
    df_matrix_free(&dg);
    df_matrix_free(&db);
    df_free(g);
    df_free(b);
    df_free(expected);
}

static void indefinite_system_is_refused(void **state) {
    (void)state;
    double g[4] = {1, 0, 0, -1}, b[2] = {1, 1};
    df_matrix *dg = from_array(2, 2, g), *db = from_array(2, 1, b);
    df_test_all(world, df_solve_ridge(dg, 0, db, NULL) == DF_FAILED);
    df_test_all(world, strstr(df_error_text(), "pivot 2 of 2") != NULL);
    df_test_all(world, df_solve_ridge(dg, 3, db, NULL) == DF_OK);
    df_test_all(world, df_matrix_collect(db, -1, b) == DF_OK);
    df_test_all(world, fabs(b[0] - 0.25) + fabs(b[1] - 0.5) < 1e-15);
    df_matrix_free(&dg);
    df_matrix_free(&db);
    df_error_clear();
}

/* Whatever allocation fails on one rank, all ranks leave with the same message and nothing leaks.
 */
static void no_memory_on_one_rank(void **state) {
    (void)state;
    const size_t n = 40;
    double *a = df_alloc(n * n, sizeof *a), values[40];
    for (size_t i = 0; i < n; i++) a[i * n + i] = (double)i;
    df_matrix *da = from_array(n, n, a), *v = from_array(n, n, NULL);
    size_t before = df_memory_now();
    df_status status = DF_FAILED;
    for (int64_t call = 0; status != DF_OK && call < 50; call++) {
        if (df_comm_rank(world) == 0) df_memory_fail_after(call);
        status = df_eigen_symmetric(da, values, v, NULL);
        df_memory_fail_after(-1);
        df_test_all(world, status == DF_OK || strstr(df_error_text(), "out of memory") != NULL);
        df_test_all(world, df_memory_now() == before);
    }
    df_test_all(world, status == DF_OK);
    df_error_clear();
    df_matrix_free(&da);
    df_matrix_free(&v);
    df_free(a);
}

/* ---- one process's own ---------------------------------------------------------------------- */

/* The companion matrix of (x - 2)(x + 3)(x^2 - 2 x + 5)(x - 0.5): its eigenvalues are the roots. A
 * product BA has the eigenvalues of AB. */
static void local_eigenvalues(void **state) {
    (void)state;
    enum { N = 5, WIDE = 9 };
    const double roots[N][2] = {{2, 0}, {-3, 0}, {1, 2}, {1, -2}, {0.5, 0}};
    double c[N + 1] = {1}, a[N * N] = {0}, real[N], imaginary[N];
    const double factor[4][3] = {{1, -2, 0}, {1, 3, 0}, {1, -0.5, 0}, {1, -2, 5}};
    for (size_t f = 0, degree = 0; f < 4; degree += f < 3 ? 1 : 2, f++)
        for (size_t i = degree + 3; i-- > 0;) {
            double sum = 0;
            for (size_t j = 0; j <= i && j < 3; j++)
                sum += i - j <= degree ? factor[f][j] * c[i - j] : 0;
            if (i <= N) c[i] = sum;
        }
    for (size_t i = 0; i < N; i++) a[i * N + N - 1] = -c[N - i];
    for (size_t i = 1; i < N; i++) a[i * N + i - 1] = 1.0;
    assert_ok(df_local_eigenvalues(N, a, real, imaginary));
    for (size_t r = 0; r < N; r++) {
        double best = HUGE_VAL;
        for (size_t i = 0; i < N; i++)
            best = fmin(best, hypot(real[i] - roots[r][0], imaginary[i] - roots[r][1]));
        assert_close(best, 0, 0, 1e-11);
    }
    double *tall = random_array(3, N * WIDE), *wide = random_array(4, N * WIDE);
    double small[N * N], big[WIDE * WIDE], trace[2] = {0}, big_real[WIDE], big_imaginary[WIDE];
    df_local_multiply(&(df_local_product){.m = N,
                                          .n = N,
                                          .k = WIDE,
                                          .op_b = DF_TRANSPOSED,
                                          .a = tall,
                                          .b = wide,
                                          .c = small,
                                          .lda = WIDE,
                                          .ldb = WIDE,
                                          .ldc = N});
    df_local_multiply(&(df_local_product){.m = WIDE,
                                          .n = WIDE,
                                          .k = N,
                                          .op_a = DF_TRANSPOSED,
                                          .a = wide,
                                          .b = tall,
                                          .c = big,
                                          .lda = WIDE,
                                          .ldb = WIDE,
                                          .ldc = WIDE});
    assert_ok(df_local_eigenvalues(N, small, real, imaginary));
    assert_ok(df_local_eigenvalues(WIDE, big, big_real, big_imaginary));
    for (size_t i = 0; i < N; i++) trace[0] += hypot(real[i], imaginary[i]);
    for (size_t i = 0; i < WIDE; i++) trace[1] += hypot(big_real[i], big_imaginary[i]);
    assert_close(trace[0], trace[1], 1e-10, 0);
    small[3] = (double)NAN;
    assert_fails(df_local_eigenvalues(N, small, real, imaginary), DF_BAD_INPUT, "row 0, column 3");
    df_free(tall);
    df_free(wide);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(grid_is_near_square),
    cmocka_unit_test(grids_come_and_go),
    cmocka_unit_test(arrays_go_around),
    cmocka_unit_test(impossible_shapes_are_refused),
    cmocka_unit_test(products_match_loops),
    cmocka_unit_test(eigenvalues_match_numpy),
    cmocka_unit_test(random_matrices),
    cmocka_unit_test(near_degenerate_matrix),
    cmocka_unit_test(damaged_matrices_are_refused),
    cmocka_unit_test(ridge_matches_numpy),
    cmocka_unit_test(indefinite_system_is_refused),
    cmocka_unit_test(no_memory_on_one_rank),
    cmocka_unit_test(local_eigenvalues),
};

DF_TEST_MPI_MAIN(world, tests, setup, teardown)
