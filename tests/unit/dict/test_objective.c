/* Every objective against float64 PyTorch (tests/golden/objective_oracle.py): gradients of one
 * batch, the loss of 200 steps, FVU; the same bytes on any ranks and threads. */
#include "objective_run.h"
#include <omp.h>

/* ---- against PyTorch ------------------------------------------------------------------------ */

/* Pooled over the columns of the first batch, on one rank. */
static double pooled_fvu(const run *r) {
    float x_hat[ROWS * WIDTH];
    double above = 0.0, below = 0.0;
    const df_codes *codes;
    bool good = df_coder_encode(r->coder, r->x, ROWS, true, &codes) == DF_OK &&
                df_coder_decode(r->coder, codes, x_hat) == DF_OK;
    for (size_t c = 0; c < WIDTH; c++) {
        double mean = 0.0;
        for (size_t b = 0; b < ROWS; b++) mean += (double)r->x[b * WIDTH + c] / ROWS;
        for (size_t b = 0; b < ROWS; b++) below += pow((double)r->x[b * WIDTH + c] - mean, 2.0);
        for (size_t b = 0; b < ROWS; b++)
            above += pow((double)(r->x[b * WIDTH + c] - x_hat[b * WIDTH + c]), 2.0);
    }
    return good ? above / below : (double)NAN;
}

/* 200 steps of one rank: test_same_bytes says that others take the same. */
static bool losses_agree(run *r, const objective_case *k) {
    double losses[STEPS], worst = 0.0, fvu = number(&r->file, "fvu", 1, 0);
    if (train(r, k, STEPS, losses) != DF_OK) return false;
    for (size_t s = 0; s < STEPS; s++)
        worst = df_test_worse(worst, fabs(losses[s] / number(&r->file, "losses", STEPS, s) - 1.0));
    double off = fabs(pooled_fvu(r) / fvu - 1.0);
    print_message("%s: largest relative difference of the loss over %d steps %.1e, of the final "
                  "FVU %.1e\n",
                  k->name, STEPS, worst, off);
    return near(k, "loss", worst, 1e-3) && near(k, "FVU", off, 1e-3);
}

/* Both forms of a batch: sums over entries, and whole tiles. */
static void in_both_forms(void (*test)(void)) {
    dense_above = 2.0;
    test();
    dense_above = 0.0;
    test();
    dense_above = 0.5;
}

/* A batch whose active latents k bounds has one form. */
static bool is_done(size_t i) {
    return cases[i].activation == DF_BATCHTOPK && dense_above < 1.0;
}

static void against_torch(void) {
    for (size_t i = 0; i < CASES; i++) {
        run r;
        if (is_done(i)) continue;
        df_test_all(world, open_run(world, &cases[i], &r) == DF_OK);
        df_test_all(world, gradients_agree(&r, &cases[i]));
        df_test_all(world, df_comm_size(world) > 1 || losses_agree(&r, &cases[i]));
        close_run(&r);
    }
}

static void test_against_torch(void **state) {
    (void)state;
    in_both_forms(against_torch);
}

/* ---- same bytes ----------------------------------------------------------------------------- */

/* Several ranks on a busy machine wait for each other at every collective: they take fewer turns.
 */
static bool is_first_of_kind(size_t i) {
    for (size_t n = 0; n < i; n++)
        if (cases[n].activation == cases[i].activation && cases[n].shared == cases[i].shared &&
            cases[n].dedicated == cases[i].dedicated &&
            (cases[n].norm == DF_NORM_DECOUPLED) == (cases[i].norm == DF_NORM_DECOUPLED))
            return false;
    return true;
}

static bool is_skipped(size_t i) {
    return df_comm_size(world) > 1 && !is_first_of_kind(i);
}

static void same_bytes(void) {
    df_comm *self;
    assert_ok(df_comm_self(&self));
    for (size_t i = 0; i < CASES; i++) {
        run whole, r;
        double alone[3], together[3];
        if (is_skipped(i) || is_done(i)) continue;
        omp_set_num_threads(1);
        df_test_all(world, open_run(self, &cases[i], &whole) == DF_OK &&
                               train(&whole, &cases[i], 3, alone) == DF_OK);
        for (int threads = 1; threads <= 2; threads++) {
            omp_set_num_threads(threads);
            df_test_all(world, open_run(world, &cases[i], &r) == DF_OK &&
                                   train(&r, &cases[i], 3, together) == DF_OK);
            df_test_all(world, memcmp(alone, together, sizeof alone) == 0);
            df_test_all(world, same_training(&r, &whole));
            close_run(&r);
        }
        omp_set_num_threads(1);
        close_run(&whole);
    }
    df_comm_free(&self);
}

static void test_same_bytes(void **state) {
    (void)state;
    in_both_forms(same_bytes);
}

/* ---- inference and counts ------------------------------------------------------------------- */

/* Outside training codes are the active latents alone, the same that training has; a latent inside
 * the rectangle that is not active does not count as fired. */
static void test_active_only(void **state) {
    (void)state;
    for (size_t i = 0; i < CASES; i++) {
        run r;
        const df_codes *codes;
        df_step_report report;
        df_step_settings set = step_settings(&cases[i]);
        if (cases[i].activation != DF_JUMPRELU && cases[i].activation != DF_GATED) continue;
        df_test_all(world, open_run(world, &cases[i], &r) == DF_OK);
        df_test_all(world, df_coder_encode(r.coder, r.x, ROWS, false, &codes) == DF_OK);
        uint64_t active = codes->start[ROWS], all = active, fired[LATENTS] = {0};
        bool good = true;
        for (uint64_t n = 0; n < active; n++) {
            fired[codes->latent[n]] = 1;
            good &= codes->value[n] > r.dict->theta[codes->latent[n]]; // 0 where there is none
        }
        df_sum_u64(world, &all, 1);
        df_test_all(world, df_coder_step(r.coder, r.x, ROWS, &set, &report) == DF_OK);
        df_test_all(world, report.l0 == (double)all / ROWS);
        for (size_t j = 0; j < r.latents.count; j++)
            good &= (df_coder_state(r.coder)->silent[j] == 0) == (fired[j] == 1);
        df_test_all(world, good);
        close_run(&r);
    }
}

/* Thresholds that are the exact pre-activation of a row, zero thresholds, huge, tiny and subnormal
 * encoder rows: codes are those of settled products, whatever the screen bounds. */
static void hurt(run *r) {
    df_dict *d = r->dict;
    for (size_t j = 0; j < d->mine.count; j++) {
        size_t latent = d->mine.first + j;
        float *enc = d->w_enc + j * WIDTH, x[WIDTH];
        for (size_t c = 0; c < WIDTH; c++)
            enc[c] *= latent % 8 == 1 ? 1e12f : latent % 8 == 2 ? 1e-30f : 1.0f;
        for (size_t c = 0; c < WIDTH; c++)
            x[c] = r->x[latent % ROWS * WIDTH + c] - (d->subtract_bias ? d->b_dec[c] : 0.0f);
        float p = df_dot_plain(x, enc, WIDTH) + d->b_enc[j];
        d->theta[j] = latent % 8 == 3 ? 0.0f : fabsf(p);
    }
}

static float settled(const df_dict *d, const float *row, size_t j) {
    float x[WIDTH];
    for (size_t c = 0; c < WIDTH; c++) x[c] = row[c] - (d->subtract_bias ? d->b_dec[c] : 0.0f);
    float p = df_dot_plain(x, d->w_enc + j * WIDTH, WIDTH) + d->b_enc[j];
    if (d->activation == DF_JUMPRELU) return p > d->theta[j] ? p : 0.0f;
    if (!(p > 0.0f)) return 0.0f;
    if (d->activation != DF_GATED) return p;
    float f = expf(d->r_mag[j]) * (p - d->b_enc[j]) + d->b_mag[j];
    return f > 0.0f ? f : 0.0f;
}

static bool exactly_settled(const run *r, const df_codes *codes) {
    uint64_t n = 0;
    bool good = true;
    for (size_t b = 0; b < ROWS; b++)
        for (size_t j = 0; j < r->latents.count; j++) {
            float f = settled(r->dict, r->x + b * WIDTH, j);
            if (!(f > 0.0f)) continue;
            good = good && n < codes->start[b + 1] && codes->latent[n] == j && codes->value[n] == f;
            n += good;
        }
    return good && n == codes->start[ROWS];
}

static void test_adversarial(void **state) {
    (void)state;
    for (size_t i = 0; i < CASES; i++) {
        run r;
        const df_codes *codes;
        if (cases[i].activation != DF_JUMPRELU && cases[i].activation != DF_GATED) continue;
        if (is_skipped(i)) continue;
        df_test_all(world, open_run(world, &cases[i], &r) == DF_OK);
        hurt(&r);
        df_test_all(world, df_coder_encode(r.coder, r.x, ROWS, false, &codes) == DF_OK);
        df_test_all(world, exactly_settled(&r, codes));
        df_test_all(world, df_coder_encode(r.coder, r.x, ROWS, true, &codes) == DF_OK);
        df_test_all(world, exactly_settled(&r, codes));
        close_run(&r);
    }
}

/* ---- decoupled ------------------------------------------------------------------------------ */

/* By thresholds: a latent is active for the sites at which its code times that site's decoder norm
 * is above that site's threshold, and for none where it is above neither. */
static bool seen_by_sites(const run *r, const float *threshold, const df_codes *codes) {
    uint64_t n = 0;
    bool good = codes->sites != NULL || r->latents.count == 0;
    for (size_t b = 0; b < ROWS && good; b++)
        for (size_t j = 0; j < r->latents.count; j++) {
            float f = settled(r->dict, r->x + b * WIDTH, j);
            uint32_t sites = 0;
            for (size_t s = 0; s < 2; s++) {
                const df_dict_site *site = &r->dict->site[s];
                const float *part = r->dict->w_dec + j * WIDTH + site->first;
                float norm = (float)sqrt(df_sum_squares(part, site->width));
                if (f * norm > threshold[s]) sites |= (uint32_t)1 << s;
            }
            if (sites == 0) continue;
            good = good && n < codes->start[b + 1] && codes->latent[n] == j &&
                   codes->value[n] == f && codes->sites[n] == sites;
            n += good;
        }
    return good && n == codes->start[ROWS];
}

static const objective_case *named(const char *name) {
    size_t i = 0;
    while (strcmp(cases[i].name, name) != 0) i++;
    return &cases[i];
}

static void test_decoupled_thresholds(void **state) {
    (void)state;
    run r;
    const df_codes *codes;
    df_step_report report;
    df_step_settings set = step_settings(named("decoupled_squared"));
    df_test_all(world, open_run(world, named("decoupled_squared"), &r) == DF_OK);
    float *threshold = r.dict->site_threshold;
    df_test_all(world, df_coder_encode(r.coder, r.x, ROWS, false, &codes) == DF_BAD_INPUT);
    df_error_clear();
    threshold[0] = 0.11f, threshold[1] = 0.05f;
    df_test_all(world, df_coder_encode(r.coder, r.x, ROWS, false, &codes) == DF_OK &&
                           seen_by_sites(&r, threshold, codes));
    set.threshold_rate = 0.5; // each follows the smallest score that its site selected
    float least[2] = {1e9f, 1e9f}, before[2] = {threshold[0], threshold[1]};
    df_test_all(world, df_coder_encode(r.coder, r.x, ROWS, true, &codes) == DF_OK);
    for (uint64_t n = 0; n < codes->start[ROWS]; n++)
        for (size_t s = 0; s < 2; s++) {
            const df_dict_site *site = &r.dict->site[s];
            const float *part = r.dict->w_dec + codes->latent[n] * WIDTH + site->first;
            float score = codes->value[n] * (float)sqrt(df_sum_squares(part, site->width));
            if ((codes->sites[n] >> s & 1) != 0 && score < least[s]) least[s] = score;
        }
    double all[2] = {(double)least[0], (double)least[1]};
    df_min_double(world, all, 2);
    df_test_all(world, df_coder_step(r.coder, r.x, ROWS, &set, &report) == DF_OK);
    for (size_t s = 0; s < 2; s++)
        df_test_all(world,
                    r.dict->site_threshold[s] == (float)(0.5 * (double)before[s] + 0.5 * all[s]));
    close_run(&r);
}

/* One site, several groups, prefixes, a penalty. */
static void test_decoupled_refusals(void **state) {
    (void)state;
    run r;
    df_step_report report;
    df_step_settings set = step_settings(named("decoupled"));
    set.objective.penalty = DF_PENALTY_L1;
    df_test_all(world, open_run(world, named("decoupled"), &r) == DF_OK);
    df_test_all(world, df_coder_step(r.coder, r.x, ROWS, &set, &report) == DF_USAGE &&
                           strstr(df_error_text(), "decoupled") != NULL);
    df_error_clear();
    df_coder_close(&r.coder);
    r.dict->prefixes = 1, r.dict->prefix[0] = LATENTS;
    df_test_all(world, df_coder_open(world, kernels, r.dict, ROWS, &r.coder) == DF_USAGE &&
                           strstr(df_error_text(), "nested") != NULL);
    df_error_clear();
    r.dict->prefixes = 0, r.dict->site[1].output = false;
    df_test_all(world, df_coder_open(world, kernels, r.dict, ROWS, &r.coder) == DF_USAGE &&
                           strstr(df_error_text(), "has 1") != NULL);
    df_error_clear();
    close_run(&r);
}

/* ---- refusals ------------------------------------------------------------------------------- */

static void refuses(df_activation activation, df_objective o, const char *word) {
    objective_case k = cases[0];
    run r;
    df_step_report report;
    k.o = o;
    df_test_all(world, open_run(world, &k, &r) == DF_OK);
    df_coder_close(&r.coder);
    r.dict->activation = activation;
    df_test_all(world, df_coder_open(world, kernels, r.dict, ROWS, &r.coder) == DF_OK &&
                           df_coder_train_open(r.coder) == DF_OK);
    df_step_settings set = step_settings(&k);
    df_test_all(world, df_coder_step(r.coder, r.x, ROWS, &set, &report) == DF_USAGE &&
                           strstr(df_error_text(), word) != NULL);
    df_error_clear();
    close_run(&r);
}

static void test_refusals(void **state) {
    (void)state;
    refuses(DF_RELU, (df_objective){L0(1.0)}, "jumprelu");
    refuses(DF_TOPK, (df_objective){LP(1.0, 0.5)}, "gated");
    refuses(DF_RELU, (df_objective){LP(1.0, 0.0)}, "positive");
    refuses(DF_JUMPRELU, (df_objective){LP(1.0, 0.5), .bandwidth = 1.0}, "gated");
    refuses(DF_JUMPRELU, (df_objective){L1(1.0)}, "bandwidth");
    refuses(DF_JUMPRELU, (df_objective){.penalty = DF_PENALTY_L0_TARGET, .bandwidth = 1.0},
            "target");
    refuses(
        DF_JUMPRELU,
        (df_objective){L0(1.0), .bandwidth = 1.0, .gradient_to_all = true, .step_on_codes = true},
        "ste");
    refuses(DF_BATCHTOPK, (df_objective){.preact = 1.0}, "pre-activation");
}

/* A threshold or magnitude that is not a number on one rank: every rank fails, weights stay. */
static void test_not_finite(void **state) {
    (void)state;
    for (size_t i = 0; i < CASES; i++) {
        run r;
        df_step_report report;
        df_step_settings set = step_settings(&cases[i]);
        bool jump = cases[i].activation == DF_JUMPRELU;
        if ((!jump && cases[i].activation != DF_GATED) || is_skipped(i)) continue;
        for (int what = 0; what < (jump ? 1 : 2); what++) {
            df_test_all(world, open_run(world, &cases[i], &r) == DF_OK);
            float *own = jump ? r.dict->theta : what == 0 ? r.dict->r_mag : r.dict->b_mag;
            if (r.latents.first == 0 && r.latents.count > 0) own[3] = what == 0 ? NAN : INFINITY;
            df_test_all(world, df_coder_step(r.coder, r.x, ROWS, &set, &report) == DF_FAILED);
            df_error_clear();
            close_run(&r);
        }
    }
}

/* ---- memory --------------------------------------------------------------------------------- */

static void test_plan(void **state) {
    (void)state;
    for (size_t i = 0; i < CASES; i++)
        if (!is_skipped(i)) take_what_is_planned(&cases[i]);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_against_torch),
    cmocka_unit_test(test_same_bytes),
    cmocka_unit_test(test_active_only),
    cmocka_unit_test(test_adversarial),
    cmocka_unit_test(test_refusals),
    cmocka_unit_test(test_not_finite),
    cmocka_unit_test(test_plan),
    cmocka_unit_test(test_decoupled_thresholds),
    cmocka_unit_test(test_decoupled_refusals),
};

DF_TEST_MPI_MAIN(world, tests, set_up, tear_down)
