/* Every objective against float64 PyTorch (tests/golden/objective_oracle.py): gradients of one
 * batch, the loss of 200 steps, FVU; the same bytes on any ranks and threads. */
#include "objective_cases.h"
#include <omp.h>

static df_comm *world;
static df_kernels *kernels;
static double dense_above = 0.5; // share of active entries that makes a batch dense

/* ---- the coder ------------------------------------------------------------------------------ */

typedef struct run {
    golden file;
    df_dict *dict;
    df_coder *coder;
    float *x; // [BATCHES, ROWS, WIDTH]
    df_range latents, weights;
} run;

static void take_parameters(const objective_case *k, const golden *g, df_range part, df_dict *d) {
    if (k->activation == DF_GATED) {
        take(g, "r_mag", LATENTS, part, d->r_mag);
        take(g, "b_mag", LATENTS, part, d->b_mag);
    }
    for (size_t j = 0; j < part.count && k->activation == DF_JUMPRELU; j++) {
        double theta = number(g, "theta", LATENTS, part.first + j);
        d->theta[j] = (float)(raw(k) ? theta : exp(theta));
    }
}

static df_status open_run(df_comm *comm, const objective_case *k, run *r) {
    df_dict_site sites[2] = {
        {.name = (char *)"a", .model = (char *)"one", .width = site_first(k)[1], .scale = 1.0},
        {.name = (char *)"b",
         .model = (char *)"two",
         .width = WIDTH - site_first(k)[1],
         .scale = 1.0}};
    *r = (run){0};
    DF_TRY(golden_open(&r->file, "objective_", k->name));
    DF_TRY(DF_NEW(r->x, BATCHES * ROWS * WIDTH));
    DF_TRY(df_dict_new(comm, LATENTS, sites, 2, &r->dict));
    df_dict *d = r->dict;
    d->activation = k->activation;
    d->code_norm = k->norm;
    d->subtract_bias = !k->no_subtract;
    d->k = 4;
    r->latents = d->mine;
    r->weights = (df_range){d->mine.first * WIDTH, d->mine.count * WIDTH};
    take(&r->file, "x", BATCHES * ROWS * WIDTH, (df_range){0, BATCHES * ROWS * WIDTH}, r->x);
    take(&r->file, "w_enc", WEIGHTS, r->weights, d->w_enc);
    take(&r->file, "w_dec", WEIGHTS, r->weights, d->w_dec);
    take(&r->file, "b_enc", LATENTS, r->latents, d->b_enc);
    take(&r->file, "b_dec", WIDTH, (df_range){0, WIDTH}, d->b_dec);
    take_parameters(k, &r->file, r->latents, d);
    DF_TRY(df_dict_bind(d, k->shared, k->dedicated));
    DF_TRY(df_coder_open(comm, kernels, d, ROWS, &r->coder));
    DF_TRY(df_coder_train_open(r->coder));
    df_coder_dense_above(r->coder, dense_above);
    for (size_t j = 0; j < r->latents.count; j++)
        df_coder_state(r->coder)->silent[j] =
            (uint64_t)number(&r->file, "silent", LATENTS, r->latents.first + j);
    return DF_OK;
}

static void close_run(run *r) {
    df_coder_close(&r->coder);
    df_dict_free(&r->dict);
    df_free(r->x);
    df_free(r->file.bytes);
}

static df_step_settings step_settings(const objective_case *k) {
    return (df_step_settings){.lr = k->slow ? 1e-3 : 3e-3,
                              .beta1 = k->adam_without_mean ? 0.0 : 0.9,
                              .beta2 = 0.999,
                              .epsilon = 1e-8,
                              .objective = k->o,
                              .aux = k->aux,
                              .aux_k = 6,
                              .dead_rows = 20000,
                              .unit_decoder = k->unit};
}

static bool terms_agree(const objective_case *k, const golden *g, const df_step_report *r) {
    const double found[] = {r->reconstruction, r->sparsity,  r->preactivation,
                            r->gate,           r->auxiliary, r->l0};
    const char *name[] = {"reconstruction", "sparsity", "preactivation", "gate", "auxiliary", "l0"};
    bool good = true;
    for (size_t i = 0; i < 6; i++) {
        double expected = number(g, "terms", 6, i);
        if (i == 1 && k->o.penalty == DF_PENALTY_NONE) continue; // reported without weight
        good &= near(k, name[i], fabs(found[i] - expected), 2e-6 * fabs(expected) + 1e-12);
    }
    return good;
}

static bool gradients_agree(run *r, const objective_case *k) {
    const golden *g = &r->file;
    df_step_settings set = step_settings(k);
    df_step_report report;
    df_range columns = {0, WIDTH};
    float *pool = df_alloc(2 * WEIGHTS + 4 * LATENTS + WIDTH, sizeof *pool);
    df_gradients to = {.w_enc = pool, .w_dec = pool + WEIGHTS, .b_enc = pool + 2 * WEIGHTS};
    to.b_dec = to.b_enc + LATENTS;
    float *theta = to.b_dec + WIDTH, *r_mag = theta + LATENTS, *b_mag = r_mag + LATENTS;
    bool jump = k->activation == DF_JUMPRELU, gated = k->activation == DF_GATED;
    if (jump) to.theta = theta;
    if (gated) to.r_mag = r_mag, to.b_mag = b_mag;
    bool good = df_coder_gradients(r->coder, r->x, ROWS, &set, &to, &report) == DF_OK;
    good &= near(k, "W_enc", distance(g, "g_w_enc", WEIGHTS, r->weights, to.w_enc), 1e-5);
    good &= near(k, "W_dec", distance(g, "g_w_dec", WEIGHTS, r->weights, to.w_dec), 1e-5);
    good &= near(k, "b_enc", distance(g, "g_b_enc", LATENTS, r->latents, to.b_enc), 1e-5);
    good &= near(k, "b_dec", distance(g, "g_b_dec", WIDTH, columns, to.b_dec), 1e-5);
    if (jump) good &= near(k, "theta", distance(g, "g_theta", LATENTS, r->latents, theta), 1e-5);
    if (gated) {
        good &= near(k, "r_mag", distance(g, "g_r_mag", LATENTS, r->latents, r_mag), 1e-5);
        good &= near(k, "b_mag", distance(g, "g_b_mag", LATENTS, r->latents, b_mag), 1e-5);
    }
    good &= terms_agree(k, g, &report);
    good &= (double)report.dead == number(g, "dead", 2, 0);
    df_free(pool);
    return good;
}

/* ---- against PyTorch ------------------------------------------------------------------------ */

static df_step_settings scheduled(const objective_case *k, const df_anneal *anneal, size_t step) {
    df_step_settings set = step_settings(k);
    if (k->anneal.updates > 0) df_anneal_set(&k->anneal, anneal, step, &set.objective);
    return set;
}

/* Bound latents stay so, to the bit. */
static bool all_bound(const run *r) {
    bool good = true;
    for (size_t j = 0; j < r->latents.count; j++)
        good = good && df_dict_latent_is_bound(r->dict, j);
    return good;
}

/* Steps on the batches in turn; the losses. */
static df_status train(run *r, const objective_case *k, size_t steps, double *losses) {
    df_anneal anneal = {.factor = 1.0};
    for (size_t s = 0; s < steps; s++) {
        df_step_report report;
        df_step_settings set = scheduled(k, &anneal, s);
        const float *x = r->x + s % BATCHES * ROWS * WIDTH;
        DF_TRY(df_coder_step(r->coder, x, ROWS, &set, &report));
        if (k->anneal.updates > 0) df_anneal_note(&k->anneal, &anneal, s, &report);
        losses[s] = report.loss;
        if (!all_bound(r)) return df_fail(DF_FAILED, "after step %zu a latent is not bound", s);
    }
    return DF_OK;
}

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

static bool same(const float *a, const float *whole, df_range mine, size_t width) {
    return memcmp(a, whole + mine.first * width, mine.count * width * sizeof *a) == 0;
}

static bool same_training(const run *r, const run *whole) {
    const df_trainer_state *a = df_coder_state(r->coder), *b = df_coder_state(whole->coder);
    const df_dict *d = r->dict, *e = whole->dict;
    df_range m = d->mine;
    bool good = same(d->w_enc, e->w_enc, m, WIDTH) && same(d->w_dec, e->w_dec, m, WIDTH) &&
                same(d->b_enc, e->b_enc, m, 1) && memcmp(d->b_dec, e->b_dec, WIDTH * 4) == 0 &&
                same(d->theta, e->theta, m, 1) && same(d->r_mag, e->r_mag, m, 1) &&
                same(d->b_mag, e->b_mag, m, 1) && same(a->v_enc, b->v_enc, m, WIDTH) &&
                same(a->m_dec, b->m_dec, m, WIDTH) &&
                memcmp(a->silent, b->silent + m.first, m.count * sizeof *a->silent) == 0;
    if (d->activation == DF_JUMPRELU) good &= same(a->v_theta, b->v_theta, m, 1);
    if (d->activation == DF_GATED)
        good &= same(a->m_r_mag, b->m_r_mag, m, 1) && same(a->v_b_mag, b->v_b_mag, m, 1);
    return good;
}

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
    for (size_t i = 0; i < CASES; i++) {
        run r;
        double losses[2];
        if (is_skipped(i)) continue;
        df_test_all(world, open_run(world, &cases[i], &r) == DF_OK);
        size_t with = df_memory_now(),
               plan = df_coder_plan_bytes(r.dict, df_kernels_spare_screen(kernels), ROWS,
                                          df_comm_size(world), true);
        df_test_all(world, train(&r, &cases[i], 2, losses) == DF_OK);
        df_test_all(world, df_memory_now() == with); // a step keeps nothing
        df_coder_close(&r.coder);
        double used = (double)(with - df_memory_now());
        df_test_all(world, used <= 1.02 * (double)plan && used >= 0.98 * (double)plan);
        close_run(&r);
    }
}

static int set_up(void **state) {
    (void)state;
    return df_kernels_open("auto", &kernels) != DF_OK;
}

static int tear_down(void **state) {
    (void)state;
    df_kernels_close(&kernels);
    return 0;
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
