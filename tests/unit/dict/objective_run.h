/* objective_run.h: a coder on the cases of objective_cases.h, by any number of data groups: its
 * gradients and losses against those of PyTorch, its state against another's. */
#ifndef OBJECTIVE_RUN_H
#define OBJECTIVE_RUN_H

#include "objective_cases.h"

static df_comm *world;
static df_kernels *kernels;
static double dense_above = 0.5; // share of active entries that makes a batch dense
static size_t data_groups = 1;

/* ---- the coder ------------------------------------------------------------------------------ */

typedef struct run {
    golden file;
    df_groups groups;
    df_dict *dict;
    df_coder *coder;
    float *x;      // [BATCHES, ROWS, WIDTH]
    df_range rows; // of a batch, of this rank's group
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
    DF_TRY(df_groups_open(comm, data_groups, &r->groups));
    r->rows = df_groups_rows(&r->groups.at, r->groups.at.group, ROWS);
    DF_TRY(df_dict_new(r->groups.shards, LATENTS, sites, 2, &r->dict));
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
    DF_TRY(df_coder_open_groups(&r->groups, kernels, d, ROWS, &r->coder));
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
    if (r->groups.world != NULL) df_groups_close(&r->groups);
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

/* This group's rows of a batch. */
static const float *batch_of(const run *r, size_t batch) {
    return r->x + (batch * ROWS + r->rows.first) * WIDTH;
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
    bool good = df_coder_gradients(r->coder, batch_of(r, 0), ROWS, &set, &to, &report) == DF_OK;
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
        const float *x = batch_of(r, s % BATCHES);
        DF_TRY(df_coder_step(r->coder, x, ROWS, &set, &report));
        if (k->anneal.updates > 0) df_anneal_note(&k->anneal, &anneal, s, &report);
        losses[s] = report.loss;
        if (!all_bound(r)) return df_fail(DF_FAILED, "after step %zu a latent is not bound", s);
    }
    return DF_OK;
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

/* A coder takes the memory that its plan says, and steps keep nothing. Collective. */
static void take_what_is_planned(const objective_case *k) {
    run r;
    double losses[2];
    df_test_all(world, open_run(world, k, &r) == DF_OK);
    double plan = (double)df_coder_plan_groups(r.dict, df_kernels_spare_screen(kernels), ROWS,
                                               &r.groups.at, true);
    size_t with = df_memory_now();
    df_test_all(world, train(&r, k, 2, losses) == DF_OK);
    df_test_all(world, df_memory_now() == with);
    df_coder_close(&r.coder);
    double used = (double)(with - df_memory_now());
    df_test_all(world, used <= 1.02 * plan && used >= 0.98 * plan);
    close_run(&r);
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

#endif
