/* The loss evaluation against PyTorch (tests/golden/loss_oracle.py) on any number of ranks, its
 * nulls, the packing of held-out text, and what is refused. */
#include "synthetic.h"

#include "same_file.h"

#include "darkfield/eval.h"
#include "loss_parts.h"

enum { WIDTH = 128, LATENTS = 48, ROWS = 221, LONGEST = 90 };
static df_comm *world;
static df_kernels *kernels;
static df_model *models[2];
static json_t *golden;
static char site_name[] = "blocks.2.hook_resid_post", names[2][6] = {"base", "tuned"};
static uint64_t windows[] = {0, 90, 180, ROWS};
static uint32_t tokens[ROWS];
static uint8_t changed[ROWS], scored[ROWS];
static uint64_t documents[] = {0, 37, 101, 130, 200, ROWS};
static const df_loss_text text = {LONGEST, 3, windows, tokens, changed, scored, 5, documents};
static const df_provenance facts = DF_TEST_FACTS;

/* ---- the oracle's case ---------------------------------------------------------------------- */

static float grid(size_t j, size_t i, size_t seed) {
    return (float)(((double)((j * 131 + i * 31 + j * i * 7 + seed) % 61) - 30.0) / 30.0);
}

static df_dict *make_dict(df_comm *comm) {
    const df_dict_site sites[2] = {
        {site_name, names[0], 0, WIDTH, 0.11, true, true, DF_TOKEN_NONE},
        {site_name, names[1], WIDTH, WIDTH, 0.07, true, true, DF_TOKEN_NONE}};
    df_dict *d = NULL;
    if (df_dict_new(comm, LATENTS, sites, 2, &d) != DF_OK) return NULL;
    for (size_t l = 0; l < d->mine.count; l++) {
        size_t j = d->mine.first + l;
        for (size_t i = 0; i < d->width; i++) {
            d->w_enc[l * d->width + i] = grid(j, i, 5) / 8.0f;
            d->w_dec[l * d->width + i] = grid(j, i, 19) / 16.0f;
        }
        d->b_enc[l] = grid(0, j, 3) / 4.0f;
    }
    for (size_t c = 0; c < d->width; c++) d->b_dec[c] = (float)((double)grid(0, c, 11) / 20.0);
    d->activation = DF_RELU;
    d->subtract_bias = true;
    return d;
}

static void make_text(void) {
    for (size_t w = 0; w < 3; w++)
        for (size_t r = windows[w]; r < windows[w + 1]; r++) {
            tokens[r] = (uint32_t)((r * r * 37 + r * 11 + 5) % 640);
            changed[r] = r > windows[w] && r % 7 != 0;
            scored[r] = r + 1 < windows[w + 1] && r % 5 != 3;
        }
}

static df_loss_input make_input(bool nulls) {
    return (df_loss_input){.text = &text,
                           .model = {models[0], models[1]},
                           .name = {names[0], names[1]},
                           .models = 2,
                           .seed = 7,
                           .ridge = 0.1,
                           .nulls = nulls,
                           .same_cosine = nulls};
}

static int set_up(void **state) {
    (void)state;
    df_log_quiet(true);
    golden = df_test_json(DF_SOURCE_DIR "/tests/golden/loss_oracle.json");
    assert_ok(df_model_open(DF_SOURCE_DIR "/jobs/quickstart/base", &models[0]));
    assert_ok(df_model_open(DF_SOURCE_DIR "/jobs/quickstart/tuned", &models[1]));
    assert_ok(df_kernels_open("auto", &kernels));
    make_text();
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    df_kernels_close(&kernels);
    df_model_close(&models[0]);
    df_model_close(&models[1]);
    json_decref(golden);
    return 0;
}

/* ---- against PyTorch ------------------------------------------------------------------------ */

static bool near(df_estimate found, const json_t *pair) {
    const double expected[2] = {json_number_value(json_array_get(pair, 0)),
                                json_number_value(json_array_get(pair, 1))};
    bool good = fabs(found.value - expected[0]) <= 2e-5 * fabs(expected[0]) + 1e-9 &&
                fabs(found.error - expected[1]) <= 1e-3 * fabs(expected[1]) + 1e-7;
    if (!good)
        fprintf(stderr, "found %.9g +- %.6g, expected %.9g +- %.6g\n", found.value, found.error,
                expected[0], expected[1]);
    return good;
}

// The ratio of a null: value, error, low, high.
static bool ratio_agrees(const df_loss *loss, size_t m, size_t c, const json_t *entry) {
    char *key = df_format("kl_ratio_%s", df_loss_name((df_loss_condition)c));
    const json_t *four = json_object_get(entry, key);
    const df_interval found = loss->kl_interval[m][c];
    df_free(key);
    bool good = near(loss->kl_ratio[m][c], four) &&
                fabs(found.low - json_number_value(json_array_get(four, 2))) <= 5e-5 * found.low &&
                fabs(found.high - json_number_value(json_array_get(four, 3))) <= 5e-5 * found.high;
    if (!good)
        fprintf(stderr, "%s: %.9g to %.9g\n", df_loss_name((df_loss_condition)c), found.low,
                found.high);
    return good;
}

static bool model_agrees(const df_loss *loss, size_t m, const char *which) {
    const json_t *entry = json_array_get(json_object_get(golden, which), m);
    bool good = true;
    for (size_t c = 0; c < DF_LOSS_CONDITIONS; c++) {
        for (size_t q = 0; q < DF_LOSS_QUANTITIES; q++)
            good = near(loss->figure[m][c][q],
                        json_array_get(json_object_get(entry, df_loss_name((df_loss_condition)c)),
                                       q)) &&
                   good;
        if (c >= DF_LOSS_ISOTROPIC) good = ratio_agrees(loss, m, c, entry) && good;
    }
    const double *curve =
        loss->curve +
        ((m * loss->conditions + DF_LOSS_SPLICED) * DF_LOSS_QUANTITIES + DF_LOSS_KL) * LONGEST;
    for (size_t t = 0; t < LONGEST; t++) {
        const json_t *v = json_array_get(json_object_get(entry, "curve"), t);
        good = good && (json_is_null(v) ? loss->count[t] == 0 && isnan(curve[t])
                                        : fabs(curve[t] - json_number_value(v)) <=
                                              1e-4 * fabs(json_number_value(v)));
    }
    double r2 = json_number_value(json_object_get(entry, "linear_r2"));
    good = good && fabs(loss->linear_r2[m] - r2) <= 2e-5;
    if (!good) fprintf(stderr, "R2 %.9g, expected %.9g\n", loss->linear_r2[m], r2);
    return near(loss->recovered[m][0], json_object_get(entry, "recovered_zero")) &&
           near(loss->recovered[m][1], json_object_get(entry, "recovered_mean")) && good;
}

/* As they are, and normalised row by row: one model's by their deviation, the other's by their
 * length. */
static void agrees_with_pytorch(void **state) {
    (void)state;
    for (int normalised = 0; normalised < 2; normalised++) {
        const char *which = normalised ? "token_models" : "models";
        df_dict *d = make_dict(world);
        const df_loss_input input = make_input(true);
        df_loss loss;
        if (d != NULL && normalised) d->site[0].token_norm = DF_TOKEN_LAYER;
        if (d != NULL && normalised) d->site[1].token_norm = DF_TOKEN_NORM;
        df_test_all(world, d != NULL && df_loss_run(world, kernels, d, &input, &loss) == DF_OK);
        df_test_all(world, model_agrees(&loss, 0, which) && model_agrees(&loss, 1, which));
        df_loss_free(&loss);
        df_dict_free(&d);
    }
}

/* ---- the file ------------------------------------------------------------------------------- */

static uint64_t file_digest(df_comm *comm, const char *path, bool all) {
    (void)all;
    df_dict *d = make_dict(comm);
    const df_loss_input input = make_input(true);
    df_loss loss = {0};
    df_evaluation e = {.sites = 2, .rows = 1, .latents = LATENTS};
    const df_eval_more more = {NULL, &loss};
    const df_eval_options o = {.output = path, .resolved_job = "job\n", .facts = facts};
    uint64_t hash = 0;
    bool good = d != NULL && DF_NEW(e.fires, d->mine.count) == DF_OK &&
                df_loss_run(comm, kernels, d, &input, &loss) == DF_OK &&
                df_evaluation_write(comm, d, &e, &more, &o) == DF_OK &&
                df_digest(path, &hash) == DF_OK;
    df_free(e.fires);
    df_loss_free(&loss);
    df_dict_free(&d);
    return good ? hash : 0;
}

static void same_file_on_any_ranks(void **state) {
    (void)state;
    char *folder = df_test_shared_folder(world, "loss");
    df_test_same_file(world, folder, file_digest);
    df_free(folder);
}

/* ---- nulls ---------------------------------------------------------------------------------- */

/* Every null stands |e| away from x, those of the same cosine at |x^| from zero too; where e has
 * one direction alone, a draw of its covariance lies along it; rows out of use stay as they are. */
static void nulls_are_as_far(void **state) {
    (void)state;
    enum { D = 6, N = 40 };
    char name[] = "site", model[] = "m";
    const df_dict_site site = {name, model, 0, D, 0.5, true, true, DF_TOKEN_NONE};
    df_dict dict = {.width = D, .out = {0, D}, .sites = 1};
    double e_root[D * D] = {0}, x_root[D * D], w[D * D], b[D] = {0.5, -1.0}, draw[2 * D],
                      kept[KEPT_DIRECTIONS * N * D];
    float raw[N * D], values[N * D] = {0}, x_hat[N * D];
    uint8_t used[N], half[N];
    for (size_t i = 0; i < D * D; i++) w[i] = grid(i, 3, 2);
    for (size_t i = 0; i < D; i++)
        for (size_t j = 0; j < D; j++) {
            x_root[i * D + j] = (i == j) + 0.5 * (i / 2 == j / 2);
            e_root[i * D + j] = i == 2 && j == 2 ? 4.0 : 0.0;
        }
    double copy[D * D];
    memcpy(copy, x_root, sizeof copy);
    df_loss_root(x_root, D);
    df_loss_root(e_root, D);
    for (size_t i = 0; i < D; i++)
        for (size_t j = 0; j <= i; j++) {
            double sum = 0;
            for (size_t k = 0; k <= j; k++) sum += x_root[i * D + k] * x_root[j * D + k];
            assert_close(sum, copy[i * D + j], 1e-12, 1e-12);
        }
    for (size_t t = 0; t < N; t++) {
        used[t] = t % 3 != 0;
        half[t] = t % 2;
        for (size_t c = 0; c < D; c++) {
            raw[t * D + c] = grid(t, c, 1);
            x_hat[t * D + c] = raw[t * D + c] - (c == 2 ? grid(t, c, 9) + 2.0f : 0.0f);
        }
    }
    const df_loss_text one = {.context = N, .changed = used};
    const df_loss_input input = {.text = &one, .seed = 3};
    loss_site written = {&site, 0, D, 0, NULL, {x_root, e_root}, {{w, b}, {w, b}}};
    const loss_plan plan = {&dict, &input, DF_LOSS_CONDITIONS, N, &written, 1, half, {0}};
    loss_window window = {.raw = raw, .values = values, .draw = draw, .kept = kept, .rows = {0, N}};
    df_loss_keep(&plan, &window, 0, x_hat);
    for (int c = DF_LOSS_ISOTROPIC; c < DF_LOSS_CONDITIONS; c++) {
        df_loss_fill(&plan, &window, (df_loss_condition)c, 0, x_hat);
        for (size_t t = 0; t < N; t++) {
            double far = 0, length = 0, expected = 0;
            for (size_t i = 0; i < D; i++) {
                double step = (double)values[t * D + i] - (double)raw[t * D + i];
                length += (double)values[t * D + i] * (double)values[t * D + i];
                expected += (double)x_hat[t * D + i] * (double)x_hat[t * D + i];
                if (c == DF_LOSS_COVARIANCE_E && used[t] && i != 2) assert_close(step, 0, 0, 1e-6);
                if (used[t]) far += step * step;
            }
            if (used[t]) assert_close(sqrt(far), (double)grid(t, 2, 9) + 2.0, 1e-5, 0);
            if (used[t] && c >= DF_LOSS_SAME_COSINE) assert_close(length, expected, 1e-5, 0);
            if (!used[t]) assert_close(values[t * D], 0, 0, 0);
        }
    }
}

/* ---- the text ------------------------------------------------------------------------------- */

/* Held-out documents end to end, cut every `context` tokens; a BOS row is neither changed nor
 * predicted; the filter counts places from the window's begin. */
static void packs_heldout_text(void **state) {
    (void)state;
    char *folder = df_test_shared_folder(world, "loss-text"),
         *path = df_format("%s/t.acts.h5", folder);
    float values[64] = {1.0f, 2.0f};
    df_acts *acts = NULL;
    df_loss_text t;
    if (df_comm_rank(world) == 0)
        synthetic_write(&(synthetic){.path = path,
                                     .model = "m",
                                     .rows = 64,
                                     .documents = 4,
                                     .width = 1,
                                     .bad_row = -1,
                                     .values = values});
    df_barrier(world);
    df_test_all(world, df_acts_open(path, &acts) == DF_OK);
    uint8_t *stored = acts->heldout, heldout[4] = {0, 1, 0, 1};
    acts->heldout = heldout;
    const df_acts_filter filter = {.part = 1, .bos = true, .first = 1};
    df_status status = df_loss_text_make(&acts, 1, &filter, 0, &t);
    bool good = status == DF_OK;
    uint64_t rows = acts->document[2] - acts->document[1] + acts->document[4] - acts->document[3];
    good = good && t.window[t.windows] == rows && t.windows == (rows + t.context - 1) / t.context;
    for (uint64_t w = 0; good && w < t.windows; w++) {
        good = good && !t.changed[t.window[w]] && !t.scored[t.window[w + 1] - 1];
        good = good && (w + 1 == t.windows || t.window[w + 1] - t.window[w] == t.context);
    }
    good = good && t.documents == 2 && t.document[0] == 0 && t.document[2] == rows &&
           t.document[1] == acts->document[2] - acts->document[1];
    good = good && t.token[0] == acts->tokens[acts->document[1]] &&
           t.token[rows - 1] == acts->tokens[acts->document[4] - 1];
    df_test_all(world, good);
    df_loss_text_free(&t);
    bool cut = df_loss_text_make(&acts, 1, &filter, 1, &t) == DF_OK && t.windows == 1;
    df_test_all(world, cut);
    df_loss_text_free(&t);
    memset(heldout, 0, sizeof heldout);
    bool none = df_loss_text_make(&acts, 1, &filter, 0, &t) == DF_BAD_INPUT &&
                strstr(df_error_text(), "no held-out rows") != NULL;
    df_error_clear();
    df_test_all(world, none);
    acts->heldout = stored;
    df_acts_close(&acts);
    df_free(path);
    df_free(folder);
}

static void models_that_do_not_fit(void **state) {
    (void)state;
    df_dict *d = make_dict(world);
    df_loss_input input = make_input(false);
    df_loss loss;
    input.name[1] = "other";
    df_test_all(world, d != NULL && df_loss_run(world, kernels, d, &input, &loss) == DF_BAD_INPUT &&
                           strstr(df_error_text(), "reads model tuned") != NULL);
    df_error_clear();
    input = make_input(false);
    tokens[200] = 640;
    df_test_all(world, df_loss_run(world, kernels, d, &input, &loss) == DF_BAD_INPUT &&
                           strstr(df_error_text(), "token id 640") != NULL);
    df_error_clear();
    make_text();
    df_test_all(world, df_loss_run(world, kernels, d, &input, &loss) == DF_OK &&
                           loss.conditions == DF_LOSS_ISOTROPIC && isnan(loss.linear_r2[0]) &&
                           isnan(loss.kl_ratio[0][DF_LOSS_MINUS_ERROR].value));
    df_loss_free(&loss);
    df_dict_free(&d);
}

/* With one document, or where the others have no rows in use, the halves are of windows; with one
 * window too there is nothing to fit on, and without resampled documents there are no intervals. */
static void one_document(void **state) {
    (void)state;
    uint64_t whole[] = {0, ROWS}, uneven[] = {0, 1, ROWS}, one[] = {0, 90}, rows[2];
    df_loss_text single = text, short_text = text;
    single.documents = short_text.documents = short_text.windows = 1;
    single.document = whole;
    short_text.window = short_text.document = one;
    df_dict *d = make_dict(world);
    df_loss_input input = make_input(true);
    df_loss loss;
    input.text = &single;
    input.same_cosine = false;
    df_test_all(world, d != NULL && df_loss_run(world, kernels, d, &input, &loss) == DF_OK &&
                           loss.conditions == DF_LOSS_SAME_COSINE &&
                           loss.figure[0][DF_LOSS_LINEAR][DF_LOSS_KL].value > 0 &&
                           isnan(loss.kl_interval[0][DF_LOSS_LINEAR].low));
    df_loss_free(&loss);
    df_loss_text two = single;
    two.documents = 2;
    two.document = uneven;
    df_test_all(world, df_loss_half_rows(&single, 7, &rows[0]) == DF_OK &&
                           df_loss_half_rows(&two, 7, &rows[1]) == DF_OK && rows[0] >= 30 &&
                           rows[0] == rows[1]);
    input.text = &short_text;
    df_test_all(world, df_loss_run(world, kernels, d, &input, &loss) == DF_BAD_INPUT &&
                           strstr(df_error_text(), "0 rows to change in one half") != NULL);
    df_error_clear();
    df_dict_free(&d);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(agrees_with_pytorch),    cmocka_unit_test(same_file_on_any_ranks),
    cmocka_unit_test(nulls_are_as_far),       cmocka_unit_test(packs_heldout_text),
    cmocka_unit_test(models_that_do_not_fit), cmocka_unit_test(one_document)};

DF_TEST_MPI_MAIN(world, tests, set_up, tear_down)
