/* The plain twin of every objective (objective_twin.h): against float64 PyTorch to 1e-8
 * (tests/golden/objective_oracle.py), and against finite differences where an objective is smooth.
 */
#include "objective_cases.h"
#include "objective_twin.h"

static df_comm *world;

static double *doubles(size_t n) {
    return df_alloc(n, sizeof(double));
}

static twin_weights new_weights(void) {
    return (twin_weights){doubles(WEIGHTS), doubles(WEIGHTS), doubles(LATENTS), doubles(WIDTH),
                          doubles(LATENTS), doubles(LATENTS), doubles(LATENTS)};
}

static void free_weights(twin_weights *w) {
    double *all[] = {w->w_enc, w->w_dec, w->b_enc, w->b_dec, w->theta, w->r_mag, w->b_mag};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) df_free(all[i]);
}

static void open_twin(const objective_case *k, const golden *g, twin *t) {
    uint8_t *dead = df_alloc(LATENTS, 1);
    double *x = doubles(ROWS * WIDTH);
    *t = (twin){.rows = ROWS,
                .latents = LATENTS,
                .width = WIDTH,
                .sites = 2,
                .k = 4,
                .aux_k = 6,
                .shared = k->shared,
                .dedicated = k->dedicated,
                .first = site_first(k),
                .activation = k->activation,
                .code_norm = k->norm,
                .subtract_bias = !k->no_subtract,
                .o = k->o,
                .aux = k->aux,
                .dead = dead,
                .x = x,
                .w = new_weights(),
                .g = new_weights()};
    for (size_t i = 0; i < ROWS * WIDTH; i++) x[i] = number(g, "x", BATCHES * ROWS * WIDTH, i);
    for (size_t j = 0; j < LATENTS; j++) dead[j] = number(g, "silent", LATENTS, j) >= 20000.0;
    take_doubles(g, "w_enc", WEIGHTS, t->w.w_enc), take_doubles(g, "w_dec", WEIGHTS, t->w.w_dec);
    take_doubles(g, "b_enc", LATENTS, t->w.b_enc), take_doubles(g, "b_dec", WIDTH, t->w.b_dec);
    take_doubles(g, "theta", LATENTS, t->w.theta), take_doubles(g, "r_mag", LATENTS, t->w.r_mag);
    take_doubles(g, "b_mag", LATENTS, t->w.b_mag);
    t->p = doubles(ROWS * LATENTS), t->f = doubles(ROWS * LATENTS);
    t->gf = doubles(ROWS * LATENTS), t->gp = doubles(ROWS * LATENTS);
    t->site_mask = doubles(2 * ROWS * LATENTS);
    t->e = doubles(ROWS * WIDTH), t->v = doubles(ROWS * WIDTH);
    t->norm = doubles(LATENTS), t->g_norm = doubles(LATENTS);
}

static void close_twin(twin *t) {
    double *all[] = {t->p, t->f, t->gf, t->gp, t->site_mask, t->e, t->v, t->norm, t->g_norm};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) df_free(all[i]);
    df_free((double *)(uintptr_t)t->x);
    df_free((uint8_t *)(uintptr_t)t->dead);
    free_weights(&t->w);
    free_weights(&t->g);
}

/* One tensor of the twin's. */
typedef struct tensor {
    const char *name;
    double *weight, *gradient;
    size_t n;
    bool bias; // of the decoder
    bool own;  // of thresholds
    bool row;  // a row for each latent
} tensor;
enum { TENSORS = 7 };

static void list_tensors(const twin *t, tensor out[static TENSORS]) {
    const tensor all[TENSORS] = {{"g_w_enc", t->w.w_enc, t->g.w_enc, WEIGHTS, false, false, true},
                                 {"g_w_dec", t->w.w_dec, t->g.w_dec, WEIGHTS, false, false, true},
                                 {"g_b_enc", t->w.b_enc, t->g.b_enc, LATENTS, false, false, false},
                                 {"g_b_dec", t->w.b_dec, t->g.b_dec, WIDTH, true, false, false},
                                 {"g_theta", t->w.theta, t->g.theta, LATENTS, false, true, false},
                                 {"g_r_mag", t->w.r_mag, t->g.r_mag, LATENTS, false, false, false},
                                 {"g_b_mag", t->w.b_mag, t->g.b_mag, LATENTS, false, false, false}};
    memcpy(out, all, sizeof all);
}

static bool twin_matches_torch(const objective_case *k, const golden *g, twin *t) {
    tensor all[TENSORS];
    bool good = true;
    list_tensors(t, all);
    twin_run(t);
    for (size_t i = 0; i < TENSORS; i++) {
        if (i >= 4 && record(g, all[i].name, all[i].n) == NULL) continue; // of some activations
        double off = distance_doubles(g, all[i].name, all[i].n, all[i].gradient);
        good &= near(k, all[i].name, off, 1e-8);
    }
    return good & near(k, "loss", fabs(t->loss / number(g, "losses", STEPS, 0) - 1.0), 1e-10);
}

/* dL/dw by central differences. */
static double difference(twin *t, double *weight) {
    double old = *weight, h = 1e-6;
    *weight = old + h;
    twin_run(t);
    double up = t->loss;
    *weight = old - h;
    twin_run(t);
    *weight = old;
    return (up - t->loss) / (2.0 * h);
}

static bool differences_agree(const objective_case *k, twin *t, const tensor *x) {
    double *formula = doubles(x->n), worst = 0.0;
    twin_run(t);
    memcpy(formula, x->gradient, x->n * sizeof *formula);
    for (size_t i = 0; i < x->n; i += 1 + x->n / 23) {
        size_t j = i / WIDTH, c = i % WIDTH;
        bool decoder = x->weight == t->w.w_dec;
        if (x->row && (twin_is_out(t, j, c) || (decoder && twin_follows(t, j, c)))) continue;
        double found = difference(t, &x->weight[i]);
        worst = df_test_worse(worst, fabs(found - formula[i]) / (1.0 + fabs(formula[i])));
    }
    df_free(formula);
    return near(k, x->name, worst, 1e-8);
}

static void gradients_are_right(void **state) {
    (void)state;
    for (size_t i = 0; i < CASES; i++) {
        golden g;
        twin t;
        tensor all[TENSORS];
        assert_ok(golden_open(&g, "objective_", cases[i].name));
        open_twin(&cases[i], &g, &t);
        assert_true(twin_matches_torch(&cases[i], &g, &t));
        list_tensors(&t, all);
        for (size_t n = 0; n < TENSORS; n++)
            if (cases[i].smooth_all || (cases[i].smooth && !all[n].own))
                assert_true(differences_agree(&cases[i], &t, &all[n]));
        close_twin(&t);
        df_free(g.bytes);
    }
}

static const struct CMUnitTest tests[] = {cmocka_unit_test(gradients_are_right)};

DF_TEST_MPI_MAIN(world, tests, NULL, NULL)
