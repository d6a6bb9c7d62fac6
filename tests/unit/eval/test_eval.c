/* Evaluation against numpy (tests/golden/eval_oracle.py), on any number of ranks, and inputs that
 * do not fit. */
#include "synthetic.h"

#include "same_file.h"

#include "darkfield/eval.h"

static df_comm *world;
static df_kernels *kernels;
static char *folder;
static json_t *golden;
static df_acts *acts[2];
static const size_t site[2] = {0, 0};
static char site_name[] = "blocks.0.hook_resid_post", models[2][6] = {"base", "tuned"};
static const df_provenance facts = DF_TEST_FACTS;

static size_t number(const char *key) {
    return (size_t)json_integer_value(json_object_get(golden, key));
}

static size_t width_of(size_t s) {
    return (size_t)json_integer_value(json_array_get(json_object_get(golden, "widths"), s));
}

static float item(const char *key, size_t i) {
    return (float)json_number_value(json_array_get(json_object_get(golden, key), i));
}

/* Columns [first, first + width) of x become the file of one model. */
static void write_acts(size_t s, size_t first, const char *path, uint64_t shift) {
    size_t rows = number("rows"), all = width_of(0) + width_of(1), width = width_of(s);
    float *values = df_alloc(rows * width, sizeof *values);
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < width; c++) values[r * width + c] = item("x", r * all + first + c);
    synthetic_write(&(synthetic){.path = path,
                                 .model = models[s],
                                 .rows = rows,
                                 .documents = number("documents"),
                                 .width = width,
                                 .token_shift = shift,
                                 .bad_row = -1,
                                 .values = values});
    df_free(values);
}

static int set_up(void **state) {
    (void)state;
    char *path[2];
    df_log_quiet(true);
    folder = df_test_shared_folder(world, "eval");
    golden = df_test_json(DF_SOURCE_DIR "/tests/golden/eval_oracle.json");
    for (size_t s = 0; s < 2; s++) {
        path[s] = df_format("%s/%zu.acts.h5", folder, s);
        if (df_comm_rank(world) == 0) write_acts(s, s == 0 ? 0 : width_of(0), path[s], 0);
    }
    df_barrier(world);
    for (size_t s = 0; s < 2; s++) {
        df_test_all(world, df_acts_open(path[s], &acts[s]) == DF_OK);
        df_free(path[s]);
    }
    df_test_all(world, df_kernels_open("auto", &kernels) == DF_OK);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    df_kernels_close(&kernels);
    for (size_t s = 0; s < 2; s++) df_acts_close(&acts[s]);
    json_decref(golden);
    df_free(folder);
    return 0;
}

static df_dict *make_dict(df_comm *comm, df_activation activation) {
    const json_t *scale = json_object_get(golden, "scale");
    const df_dict_site sites[2] = {
        {site_name, models[0], 0, width_of(0), json_real_value(json_array_get(scale, 0)), true,
         true, DF_TOKEN_NONE},
        {site_name, models[1], width_of(0), width_of(1), json_real_value(json_array_get(scale, 1)),
         true, true, DF_TOKEN_NONE}};
    df_dict *d = NULL;
    if (df_dict_new(comm, number("latents"), sites, 2, &d) != DF_OK) return NULL;
    for (size_t i = 0; i < d->mine.count * d->width; i++) {
        d->w_enc[i] = item("w_enc", d->mine.first * d->width + i);
        d->w_dec[i] = item("w_dec", d->mine.first * d->width + i);
    }
    for (size_t j = 0; j < d->mine.count; j++) d->b_enc[j] = item("b_enc", d->mine.first + j);
    for (size_t c = 0; c < d->width; c++) d->b_dec[c] = item("b_dec", c);
    d->activation = activation;
    d->code_norm = DF_NORM_SUM;
    d->k = number("k");
    d->threshold = (float)json_real_value(json_object_get(golden, "threshold"));
    d->subtract_bias = true;
    return d;
}

static df_eval_options options_for(const char *path, size_t batch) {
    return (df_eval_options){.batch = batch,
                             .fvu_batch = number("fvu_batch"),
                             .output = path,
                             .resolved_job = "job\n",
                             .facts = facts};
}

/* Evaluates on the held-out rows of two files. */
static df_status evaluate_on(df_comm *comm, df_dict *d, df_acts *const *files,
                             const df_eval_options *o, df_evaluation *e) {
    const df_acts_filter filter = {.part = 1, .bos = true, .first = 1};
    df_rows *rows = NULL;
    df_status status =
        df_agree(comm, df_rows_open(&(df_rows_files){files, site, 1, 2}, &filter, &rows));
    if (status == DF_OK) status = df_evaluate(comm, kernels, d, rows, o, e);
    df_rows_close(&rows);
    return status;
}

static bool near(double found, double expected) {
    return fabs(found - expected) <= 2e-5 * fabs(expected);
}

/* As a case of the golden file names them. */
static size_t named(const json_t *entry, const char *key, const char *const *names) {
    size_t i = 0;
    while (strcmp(names[i], json_string_value(json_object_get(entry, key))) != 0) i++;
    return i;
}

/* A figure of both sites. */
static bool all_near(const double found[static 2], const json_t *expected, const char *key) {
    const json_t *values = json_object_get(expected, key);
    for (size_t s = 0; s < 2; s++)
        if (!near(found[s], json_real_value(json_array_get(values, s)))) return false;
    return true;
}

/* One case of the golden file. */
static bool agrees(const df_dict *d, const df_evaluation *e, const json_t *expected) {
    const json_t *fires = json_object_get(expected, "fires");
    uint64_t dead = 0, dense = 0;
    bool same = e->rows == (uint64_t)json_integer_value(json_object_get(expected, "rows"));
    for (size_t j = 0; j < d->latents; j++) {
        uint64_t n = (uint64_t)json_integer_value(json_array_get(fires, j));
        dead += n == 0;
        dense += n * 10 > e->rows;
        if (j >= d->mine.first && j < d->mine.first + d->mine.count)
            same = same && e->fires[j - d->mine.first] == n;
    }
    same = same && all_near(e->fvu, expected, "fvu") &&
           all_near(e->fvu_error, expected, "fvu_error") &&
           all_near(e->fvu_batches, expected, "fvu_batches") &&
           all_near(e->fvu_batches_error, expected, "fvu_batches_error") &&
           all_near(e->fvu_rows, expected, "fvu_rows") &&
           all_near(e->fvu_rows_error, expected, "fvu_rows_error");
    return same && e->dead == dead && e->dense == dense &&
           near(e->l0, json_real_value(json_object_get(expected, "l0")));
}

static void agrees_with_numpy(void **state) {
    (void)state;
    char *path = df_format("%s/evaluate.h5", folder);
    static const char *const kinds[] = {"relu", "topk", "batchtopk"};
    static const char *const norms[] = {"none", "layer", "norm"};
    const json_t *cases = json_object_get(golden, "cases");
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *entry = json_array_get(cases, i);
        df_dict *d = make_dict(world, (df_activation)named(entry, "activation", kinds));
        df_evaluation e;
        for (size_t s = 0; d != NULL && s < 2; s++)
            d->site[s].token_norm = (df_token_norm)named(entry, "token_norm", norms);
        df_eval_options o = options_for(path, 17 + 100 * i);
        df_test_all(world, d != NULL && evaluate_on(world, d, acts, &o, &e) == DF_OK);
        df_test_all(world, agrees(d, &e, entry));
        df_free(e.fires);
        df_dict_free(&d);
    }
    df_free(path);
}

/* The file of all ranks with one batch size equals that of one rank with another. */
static uint64_t file_digest(df_comm *comm, const char *path, bool all) {
    df_dict *d = make_dict(comm, DF_BATCHTOPK);
    df_evaluation e = {0};
    df_eval_options o = options_for(path, all ? 24 : 1000);
    uint64_t hash = 0;
    bool good = d != NULL && evaluate_on(comm, d, acts, &o, &e) == DF_OK &&
                df_evaluation_write(comm, d, &e, &(df_eval_more){0}, &o) == DF_OK &&
                df_digest(path, &hash) == DF_OK;
    df_free(e.fires);
    df_dict_free(&d);
    return good ? hash : 0;
}

static void same_file_on_any_ranks(void **state) {
    (void)state;
    df_test_same_file(world, folder, file_digest);
}

static bool refused(df_dict *d, df_acts *const *files, const char *part) {
    df_evaluation e = {0};
    df_eval_options o = options_for("unused", 64);
    df_status status = evaluate_on(world, d, files, &o, &e);
    bool good = status == DF_BAD_INPUT && e.fires == NULL && strstr(df_error_text(), part) != NULL;
    if (!good)
        fprintf(stderr, "status %d, \"%s\"; expected \"%s\"\n", (int)status, df_error_text(), part);
    df_error_clear();
    return good;
}

static void inputs_that_do_not_fit(void **state) {
    (void)state;
    char *path = df_format("%s/shifted.acts.h5", folder);
    df_acts *swapped[2] = {acts[1], acts[0]}, *shifted[2] = {acts[0], NULL};
    df_dict *d = make_dict(world, DF_TOPK);
    if (df_comm_rank(world) == 0) write_acts(1, width_of(0), path, 3);
    df_barrier(world);
    df_test_all(world, d != NULL && df_acts_open(path, &shifted[1]) == DF_OK);
    df_test_all(world, refused(d, swapped, "width"));
    df_test_all(world, refused(d, shifted, "not aligned"));
    uint8_t *heldout = acts[0]->heldout, none[64] = {0};
    acts[0]->heldout = none;
    bool none_held = refused(d, acts, "no held-out rows");
    acts[0]->heldout = heldout;
    df_test_all(world, none_held);
    df_acts_close(&shifted[1]);
    df_dict_free(&d);
    df_free(path);
}

static const struct CMUnitTest tests[] = {cmocka_unit_test(agrees_with_numpy),
                                          cmocka_unit_test(same_file_on_any_ranks),
                                          cmocka_unit_test(inputs_that_do_not_fit)};

DF_TEST_MPI_MAIN(world, tests, set_up, tear_down)
