/* The coder against the plain twin, against itself on other rank and thread counts, and on rows
 * made to hurt. */
#include "coder_fixture.h"

#include <omp.h>

#define REAL double
#define NAME(x) x##_double
#include "coder_twin.inc"

/* ---- the twin ------------------------------------------------------------------------------- */

static double *doubles(size_t n) {
    return df_alloc(n, sizeof(double));
}

static void open_twin(twin_double *t, const setting *s, size_t rows) {
    uint8_t *dead = df_alloc(LATENTS, 1);
    *t = (twin_double){.rows = rows,
                       .latents = LATENTS,
                       .width = WIDTH,
                       .sites = 2,
                       .k = 7,
                       .aux_k = 12,
                       .site_first = site_first,
                       .activation = s->activation,
                       .code_norm = s->norm,
                       .subtract_bias = s->subtract_bias,
                       .l1 = s->l1,
                       .aux = s->aux,
                       .dead = dead};
    for (size_t j = 0; j < LATENTS; j++) dead[j] = j % 7 == 3;
    size_t weights = (size_t)LATENTS * WIDTH;
    t->x = doubles(rows * WIDTH);
    t->w_enc = doubles(weights), t->w_dec = doubles(weights), t->b_enc = doubles(LATENTS),
    t->b_dec = doubles(WIDTH);
    t->f = doubles(rows * LATENTS), t->aux_f = doubles(rows * LATENTS),
    t->error = doubles(rows * WIDTH);
    t->g_enc = doubles(weights), t->g_dec = doubles(weights), t->g_b = doubles(LATENTS),
    t->g_center = doubles(WIDTH);
}

static void close_twin(twin_double *t) {
    double *all[] = {t->w_enc, t->w_dec, t->b_enc, t->b_dec, t->f,       t->aux_f,
                     t->error, t->g_enc, t->g_dec, t->g_b,   t->g_center};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) df_free(all[i]);
    df_free((double *)(uintptr_t)t->x);
    df_free((uint8_t *)(uintptr_t)t->dead);
}

static void widen(double *to, const float *from, size_t n) {
    for (size_t i = 0; i < n; i++) to[i] = (double)from[i];
}

/* Fills the twin from a dictionary that one rank holds whole. */
static void load_twin(twin_double *t, const fixture *f) {
    widen((double *)(uintptr_t)t->x, f->x, t->rows * WIDTH);
    widen(t->w_enc, f->dict->w_enc, (size_t)LATENTS * WIDTH);
    widen(t->w_dec, f->dict->w_dec, (size_t)LATENTS * WIDTH);
    widen(t->b_enc, f->dict->b_enc, LATENTS);
    widen(t->b_dec, f->dict->b_dec, WIDTH);
}

/* dL/dp of one weight by central differences, AuxK's error held. */
static double difference(twin_double *t, double *weight) {
    double old = *weight, h = 1e-6;
    *weight = old + h;
    run_double(t);
    double up = t->loss;
    *weight = old - h;
    run_double(t);
    *weight = old;
    return (up - t->loss) / (2.0 * h);
}

static bool check_tensor(twin_double *t, double *weights, const double *gradient, size_t n,
                         const char *name) {
    bool good = true;
    double *analytic = doubles(n), *freeze = doubles(t->rows * WIDTH);
    run_double(t);
    memcpy(analytic, gradient, n * sizeof *analytic);
    memcpy(freeze, t->error, t->rows * WIDTH * sizeof *freeze);
    t->frozen_error = freeze;
    for (size_t i = 0; i < n; i += 1 + n / 23) {
        double found = difference(t, &weights[i]);
        if (fabs(found - analytic[i]) <= 1e-8 * (1.0 + fabs(analytic[i]))) continue;
        print_error("%s[%zu]: %.12g by differences, %.12g by formula\n", name, i, found,
                    analytic[i]);
        good = false;
    }
    t->frozen_error = NULL;
    df_free(analytic);
    df_free(freeze);
    return good;
}

static void test_twin_differences(void **state) {
    (void)state;
    df_comm *self;
    if (df_comm_size(world) > 1) return; // nothing here depends on the ranks
    assert_ok(df_comm_self(&self));
    for (size_t i = 0; i < SETTINGS; i++) {
        fixture f;
        twin_double t;
        bool good = open_fixture(self, &settings[i], &f) == DF_OK;
        open_twin(&t, &settings[i], 9);
        load_twin(&t, &f);
        good = good && check_tensor(&t, t.w_enc, t.g_enc, (size_t)LATENTS * WIDTH, "W_enc");
        good = good && check_tensor(&t, t.w_dec, t.g_dec, (size_t)LATENTS * WIDTH, "W_dec");
        good = good && check_tensor(&t, t.b_enc, t.g_b, LATENTS, "b_enc");
        good = good && check_tensor(&t, t.b_dec, t.g_center, WIDTH, "b_dec");
        close_twin(&t);
        close_fixture(&f);
        df_test_all(world, good);
    }
    df_comm_free(&self);
}

static double distance(const float *a, const double *b, size_t n) {
    double above = 0.0, below = 1e-30;
    for (size_t i = 0; i < n; i++) {
        above += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        below += b[i] * b[i];
    }
    return n > 0 ? sqrt(above / below) : 0.0;
}

static bool codes_agree(const twin_double *t, const df_codes *codes, df_range mine) {
    uint64_t n = 0;
    for (size_t r = 0; r < t->rows; r++)
        for (size_t j = mine.first; j < mine.first + mine.count; j++) {
            double f = t->f[r * LATENTS + j];
            if (!(f > 0.0)) continue;
            if (n >= codes->start[r + 1] || codes->latent[n] != j - mine.first ||
                fabs((double)codes->value[n] - f) > 1e-5 * (f + 0.1))
                return false;
            n++;
        }
    return n == codes->start[t->rows];
}

static void test_gradients_match_twin(void **state) {
    (void)state;
    df_comm *self;
    assert_ok(df_comm_self(&self));
    for (size_t i = 0; i < SETTINGS; i++) {
        fixture whole, f;
        twin_double t;
        df_step_report report;
        df_step_settings set = step_settings(&settings[i]);
        const df_codes *codes;
        df_test_all(world, open_fixture(self, &settings[i], &whole) == DF_OK);
        df_test_all(world, open_fixture(world, &settings[i], &f) == DF_OK);
        kill_some(&f);
        open_twin(&t, &settings[i], ROWS);
        load_twin(&t, &whole);
        run_double(&t);
        df_range mine = f.dict->mine;
        size_t n = mine.count * WIDTH, at = mine.first * WIDTH;
        df_gradients g = {.w_enc = df_alloc(n, 4),
                          .w_dec = df_alloc(n, 4),
                          .b_enc = df_alloc(mine.count, 4),
                          .b_dec = df_alloc(WIDTH, 4)};
        df_test_all(world, df_coder_encode(f.coder, f.x, ROWS, true, &codes) == DF_OK);
        df_test_all(world, codes_agree(&t, codes, mine));
        df_test_all(world, df_coder_gradients(f.coder, f.x, ROWS, &set, &g, &report) == DF_OK);
        df_test_all(world, distance(g.w_enc, t.g_enc + at, n) < 1e-5);
        df_test_all(world, distance(g.w_dec, t.g_dec + at, n) < 1e-5);
        df_test_all(world, distance(g.b_enc, t.g_b + mine.first, mine.count) < 1e-5);
        df_test_all(world, distance(g.b_dec, t.g_center, WIDTH) < 1e-5);
        df_test_all(world, fabs(report.loss - t.loss) < 1e-6 * fabs(t.loss));
        df_test_all(world, fabs(report.sparsity - t.sparsity) < 1e-6 * t.sparsity);
        df_test_all(world, fabs(report.auxiliary - t.auxiliary) < 1e-5 * t.auxiliary + 1e-12);
        df_test_all(world, (report.auxiliary > 0.0) == (settings[i].aux > 0.0));
        df_free(g.w_enc), df_free(g.w_dec), df_free(g.b_enc), df_free(g.b_dec);
        close_twin(&t);
        close_fixture(&f);
        close_fixture(&whole);
    }
    df_comm_free(&self);
}

/* ---- same bytes ----------------------------------------------------------------------------- */

static bool same(const float *a, const float *whole, df_range mine, size_t width) {
    return memcmp(a, whole + mine.first * width, mine.count * width * sizeof *a) == 0;
}

static bool same_training(const fixture *f, const fixture *whole) {
    const df_trainer_state *a = df_coder_state(f->coder), *b = df_coder_state(whole->coder);
    df_range m = f->dict->mine;
    return same(f->dict->w_enc, whole->dict->w_enc, m, WIDTH) &&
           same(f->dict->w_dec, whole->dict->w_dec, m, WIDTH) &&
           same(f->dict->b_enc, whole->dict->b_enc, m, 1) &&
           memcmp(f->dict->b_dec, whole->dict->b_dec, WIDTH * 4) == 0 &&
           same(a->m_enc, b->m_enc, m, WIDTH) && same(a->v_dec, b->v_dec, m, WIDTH) &&
           same(a->v_bias, b->v_bias, m, 1) && memcmp(a->m_center, b->m_center, WIDTH * 4) == 0 &&
           f->dict->threshold == whole->dict->threshold &&
           memcmp(a->silent, b->silent + m.first, m.count * sizeof *a->silent) == 0;
}

static void test_same_bytes(void **state) {
    (void)state;
    df_comm *self;
    assert_ok(df_comm_self(&self));
    for (size_t i = 0; i < SETTINGS; i++) {
        fixture whole, f;
        double alone[6], together[6];
        omp_set_num_threads(1);
        df_test_all(world, open_fixture(self, &settings[i], &whole) == DF_OK &&
                               train(&whole, &settings[i], 6, alone) == DF_OK);
        for (int threads = 1; threads <= 3; threads++) {
            omp_set_num_threads(threads);
            df_test_all(world, open_fixture(world, &settings[i], &f) == DF_OK);
            df_test_all(world, train(&f, &settings[i], 6, together) == DF_OK);
            df_test_all(world, memcmp(alone, together, sizeof alone) == 0);
            df_test_all(world, same_training(&f, &whole));
            close_fixture(&f);
        }
        omp_set_num_threads(1);
        close_fixture(&whole);
    }
    df_comm_free(&self);
}

/* Inference: apply on rows that ranks bring gives what decode gives, whatever the ranks. */
static void test_apply(void **state) {
    (void)state;
    df_comm *self;
    assert_ok(df_comm_self(&self));
    int size = df_comm_size(world), rank = df_comm_rank(world);
    for (size_t i = 0; i < SETTINGS; i++) {
        fixture whole, f;
        const df_codes *codes;
        size_t n = ROWS / (size_t)size, rows = n * (size_t)size;
        float all[ROWS * WIDTH], mine[ROWS * WIDTH];
        df_test_all(world, open_fixture(self, &settings[i], &whole) == DF_OK &&
                               open_fixture(world, &settings[i], &f) == DF_OK);
        if (settings[i].activation == DF_BATCHTOPK) {
            df_test_all(world, df_coder_encode(f.coder, f.x, rows, false, &codes) == DF_BAD_INPUT);
            df_error_clear();
        }
        whole.dict->threshold = f.dict->threshold = 0.05f;
        df_test_all(world, df_coder_encode(whole.coder, whole.x, rows, false, &codes) == DF_OK &&
                               df_coder_decode(whole.coder, codes, all) == DF_OK);
        df_test_all(world, df_coder_apply(f.coder, f.x + (size_t)rank * n * WIDTH, n, mine,
                                          &codes) == DF_OK);
        df_test_all(world,
                    memcmp(mine, all + (size_t)rank * n * WIDTH, n * WIDTH * sizeof *mine) == 0);
        close_fixture(&f);
        close_fixture(&whole);
    }
    df_comm_free(&self);
}

/* ---- rows and weights made to hurt ---------------------------------------------------------- */

/* Duplicated latents (equal scores at the cut), zero and tiny and huge encoder rows, a zero decoder
 * row, subnormals. */
static void hurt(fixture *f) {
    df_dict *d = f->dict;
    for (size_t j = 0; j < d->mine.count; j++) {
        size_t latent = d->mine.first + j;
        float *enc = d->w_enc + j * WIDTH, *dec = d->w_dec + j * WIDTH;
        for (size_t c = 0; c < WIDTH; c++) {
            if (latent % 4 != 1)
                enc[c] = dec[c] = (float)((latent / 32 + c) % 5) * 0.25f - 0.4f; // many twins
            if (latent % 50 == 7) enc[c] = 0.0f;
            if (latent % 50 == 9) enc[c] *= 1e15f;
            if (latent % 50 == 11) enc[c] *= 1e-41f;
            if (latent % 50 == 13) dec[c] = 0.0f;
            if (latent % 50 == 15) dec[c] *= 1e-30f;
        }
        d->b_enc[j] = 0.0f;
    }
    for (size_t c = 0; c < WIDTH; c++) {
        f->x[c] = 0.0f;
        f->x[WIDTH + c] = 1e-42f;
        f->x[2 * WIDTH + c] = 1e12f * (float)(c % 3);
        f->x[3 * WIDTH + c] = d->b_dec[c];
        f->x[4 * WIDTH + c] = -0.0f;
        f->x[6 * WIDTH + c] = f->x[5 * WIDTH + c];
    }
}

/* What selection must give, from settled products of every latent: all ranks hold the whole copy
 * here. */
static bool exactly_selected(const fixture *whole, const df_codes *codes, const fixture *f,
                             size_t rows) {
    const df_dict *d = whole->dict;
    size_t n = rows * LATENTS;
    double *score = doubles(n), *value = doubles(n);
    for (size_t r = 0; r < rows; r++)
        for (size_t j = 0; j < LATENTS; j++) {
            float x[WIDTH], p, norm = 0.0f;
            double parts = 0.0;
            for (size_t c = 0; c < WIDTH; c++)
                x[c] = d->subtract_bias ? f->x[r * WIDTH + c] - d->b_dec[c] : f->x[r * WIDTH + c];
            p = df_dot_plain(x, d->w_enc + j * WIDTH, WIDTH) + d->b_enc[j];
            const float *dec = d->w_dec + j * WIDTH;
            for (size_t s = 0; s < 2; s++)
                parts += sqrt(
                    df_sum_squares_plain(dec + site_first[s], site_first[s + 1] - site_first[s]));
            norm = d->code_norm == DF_NORM_SUM    ? (float)parts
                   : d->code_norm == DF_NORM_ROOT ? (float)sqrt(df_sum_squares_plain(dec, WIDTH))
                                                  : 1.0f;
            p = p > 0.0f ? p : 0.0f;
            value[r * LATENTS + j] = (double)p;
            score[r * LATENTS + j] = d->activation == DF_RELU ? (double)p : (double)(p * norm);
        }
    for (size_t i = 0; i < n; i++)
        if (!(score[i] > 0.0)) value[i] = 0.0;
    if (d->activation == DF_BATCHTOPK) keep_best_double(score, value, n, d->k * rows);
    for (size_t r = 0; r < rows && d->activation == DF_TOPK; r++)
        keep_best_double(score + r * LATENTS, value + r * LATENTS, LATENTS, d->k);
    bool good = true;
    uint64_t at = 0;
    df_range mine = f->dict->mine;
    for (size_t r = 0; r < rows; r++)
        for (size_t j = mine.first; j < mine.first + mine.count; j++) {
            if (!(value[r * LATENTS + j] > 0.0)) continue;
            good = good && at < codes->start[r + 1] && codes->latent[at] == j - mine.first &&
                   (double)codes->value[at] == value[r * LATENTS + j];
            at += good;
        }
    good = good && at == codes->start[rows];
    df_free(score);
    df_free(value);
    return good;
}

/* Weights and rows that hurt and can still be trained on: twins, outlier columns, tiny rows. */
static void hurt_scaled(fixture *f) {
    df_dict *d = f->dict;
    for (size_t j = 0; j < d->mine.count; j++) {
        size_t latent = d->mine.first + j;
        for (size_t c = 0; c < WIDTH && latent % 3 == 0; c++)
            d->w_enc[j * WIDTH + c] = d->w_dec[j * WIDTH + c] =
                0.3f * (float)((latent / 48 + c) % 5) - 0.5f;
        d->w_enc[j * WIDTH + 4] = 30.0f;
        for (size_t c = 0; c < WIDTH && latent % 50 == 11; c++) d->w_enc[j * WIDTH + c] *= 1e-41f;
    }
}

static void test_adversarial(void **state) {
    (void)state;
    df_comm *self;
    assert_ok(df_comm_self(&self));
    static const char *const screens[] = {"auto", "int8", "bf16", "fp32", "plain"};
    for (size_t n = 0; n < SETTINGS * 5; n++) {
        fixture whole, f;
        const df_codes *codes;
        size_t i = n / 5;
        screen = screens[n % 5];
        df_test_all(world, open_fixture(self, &settings[i], &whole) == DF_OK &&
                               open_fixture(world, &settings[i], &f) == DF_OK);
        screen = "auto";
        hurt(&whole);
        hurt(&f);
        size_t rows = 30;
        df_test_all(world, df_coder_encode(f.coder, f.x, rows, true, &codes) == DF_OK);
        df_test_all(world, exactly_selected(&whole, codes, &f, rows));
        close_fixture(&f);
        close_fixture(&whole);
    }
    df_comm_free(&self);
}

/* The floors of a batch begin at what the last one reached: here many times more, by biases, per
 * size of a row. */
static void test_guess(void **state) {
    (void)state;
    const setting s = {.activation = DF_TOPK, .norm = DF_NORM_ROOT};
    static const char *const screens[] = {"int8", "bf16", "fp32", "plain"};
    df_comm *self;
    assert_ok(df_comm_self(&self));
    for (size_t n = 0; n < 4; n++) {
        fixture whole, f;
        const df_codes *codes;
        screen = screens[n];
        df_test_all(world, open_fixture(self, &s, &whole) == DF_OK &&
                               open_fixture(world, &s, &f) == DF_OK);
        screen = "auto";
        for (int batch = 0; batch < 4; batch++) {
            size_t rows = batch == 3 ? 9 : ROWS;
            float by = batch == 0 ? 1e-4f : batch == 1 ? 1e4f : 1.0f;
            for (size_t i = 0; i < (size_t)ROWS * WIDTH; i++) f.x[i] *= by;
            df_test_all(world, df_coder_encode(f.coder, f.x, rows, true, &codes) == DF_OK);
            df_test_all(world, exactly_selected(&whole, codes, &f, rows));
        }
        close_fixture(&f);
        close_fixture(&whole);
    }
    df_comm_free(&self);
}

/* Every screen leads to the same codes, weights and losses, to the bit: random rows, and rows made
 * to hurt. */
static void test_screens(void **state) {
    (void)state;
    static const char *const screens[] = {"fp32", "bf16", "int8", "auto"};
    for (size_t i = 0; i < SETTINGS; i++)
        for (int hurts = 0; hurts < 2; hurts++) {
            fixture plain, f;
            double first[4], other[4];
            screen = "plain";
            df_test_all(world, open_fixture(world, &settings[i], &plain) == DF_OK);
            if (hurts) hurt_scaled(&plain);
            df_test_all(world, train(&plain, &settings[i], 4, first) == DF_OK);
            for (size_t s = 0; s < sizeof screens / sizeof *screens; s++) {
                screen = screens[s];
                df_test_all(world, open_fixture(world, &settings[i], &f) == DF_OK);
                if (hurts) hurt_scaled(&f);
                df_test_all(world, train(&f, &settings[i], 4, other) == DF_OK);
                df_test_all(world, memcmp(first, other, sizeof first) == 0);
                df_range whole = {0, plain.dict->mine.count};
                df_test_all(world, same(f.dict->w_enc, plain.dict->w_enc, whole, WIDTH) &&
                                       same(f.dict->w_dec, plain.dict->w_dec, whole, WIDTH) &&
                                       same(f.dict->b_enc, plain.dict->b_enc, whole, 1));
                close_fixture(&f);
            }
            screen = "auto";
            close_fixture(&plain);
        }
}

static void test_refusals(void **state) {
    (void)state;
    fixture f;
    const df_codes *codes;
    df_step_report report;
    df_step_settings set = step_settings(&settings[1]);
    df_test_all(world, open_fixture(world, &settings[1], &f) == DF_OK);
    f.x[5 * WIDTH + 2] = NAN;
    df_test_all(world, df_coder_encode(f.coder, f.x, ROWS, true, &codes) == DF_BAD_INPUT &&
                           strstr(df_error_text(), "row 5") != NULL);
    f.x[5 * WIDTH + 2] = INFINITY;
    df_test_all(world, df_coder_step(f.coder, f.x, ROWS, &set, &report) == DF_BAD_INPUT);
    f.x[5 * WIDTH + 2] = 3e38f;
    df_test_all(world, df_coder_step(f.coder, f.x, ROWS, &set, &report) == DF_FAILED &&
                           strstr(df_error_text(), "range") != NULL);
    f.x[5 * WIDTH + 2] = 0.0f;
    df_test_all(world, df_coder_encode(f.coder, f.x, ROWS + 1, true, &codes) == DF_FAILED);
    df_test_all(world, df_coder_step(f.coder, f.x, 0, &set, &report) == DF_FAILED);
    if (f.dict->mine.count > 0 && df_comm_rank(world) == df_comm_size(world) - 1)
        f.dict->w_enc[3] = NAN;
    df_test_all(world, df_coder_step(f.coder, f.x, ROWS, &set, &report) == DF_FAILED);
    close_fixture(&f);
    df_error_clear();
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_twin_differences),
    cmocka_unit_test(test_gradients_match_twin),
    cmocka_unit_test(test_same_bytes),
    cmocka_unit_test(test_apply),
    cmocka_unit_test(test_adversarial),
    cmocka_unit_test(test_screens),
    cmocka_unit_test(test_guess),
    cmocka_unit_test(test_refusals),
};

DF_TEST_MPI_MAIN(world, tests, NULL, NULL)
