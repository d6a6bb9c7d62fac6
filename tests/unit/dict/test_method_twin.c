/* The plain twin of nested and multiple reconstructions, AuxK's variants, clipping and resampling
 * (method_twin.h): against float64 PyTorch to 1e-8 (tests/golden/method_oracle.py), and against
 * finite differences with what the objective holds fixed held fixed. Resampling draws and has no
 * derivative: its new weights are PyTorch's, and the coder's are the twin's. */
#include "method_cases.h"
#include "method_twin.h"

enum { WEIGHTS = LATENTS * WIDTH, TENSORS = 4 };
static const size_t site_first[] = {0, FIRST_SITE, WIDTH};
static df_comm *world;

/* ---- a twin --------------------------------------------------------------------------------- */

static double *doubles(size_t n) {
    return df_alloc(n, sizeof(double));
}

static method_weights new_weights(void) {
    return (method_weights){doubles(WEIGHTS), doubles(WEIGHTS), doubles(LATENTS), doubles(WIDTH)};
}

static void open_twin(const family *f, const golden *g, const df_dict *shape, method_twin *t) {
    double *x = doubles(ROWS * WIDTH);
    uint8_t *dead = df_alloc(LATENTS, 1);
    *t = (method_twin){.rows = ROWS,
                       .latents = LATENTS,
                       .width = WIDTH,
                       .k = 4,
                       .first = site_first,
                       .shape = shape,
                       .set = f->set,
                       .dead = dead,
                       .x = x,
                       .w = new_weights(),
                       .g = new_weights()};
    for (size_t i = 0; i < ROWS * WIDTH; i++) x[i] = number(g, "x", BATCHES * ROWS * WIDTH, i);
    for (size_t j = 0; j < LATENTS; j++)
        dead[j] = number(g, "silent", LATENTS, j) >= (double)f->set.dead_rows;
    take_doubles(g, "w_enc", WEIGHTS, t->w.w_enc), take_doubles(g, "w_dec", WEIGHTS, t->w.w_dec);
    take_doubles(g, "b_enc", LATENTS, t->w.b_enc), take_doubles(g, "b_dec", WIDTH, t->w.b_dec);
    t->f = doubles(ROWS * LATENTS), t->gf = doubles(ROWS * LATENTS);
    t->main = doubles(ROWS * LATENTS), t->side = doubles(ROWS * LATENTS);
    t->still = doubles(ROWS * LATENTS), t->lost = doubles(ROWS * LATENTS);
    t->raw = doubles(ROWS * LATENTS), t->g_raw = doubles(ROWS * LATENTS);
    t->norm = doubles(LATENTS), t->g_norm = doubles(LATENTS);
    t->e = doubles(ROWS * WIDTH), t->q = doubles(ROWS * WIDTH), t->target = doubles(ROWS * WIDTH);
}

static void close_twin(method_twin *t) {
    double *all[] = {
        t->w.w_enc, t->w.w_dec, t->w.b_enc, t->w.b_dec, t->g.w_enc, t->g.w_dec,
        t->g.b_enc, t->g.b_dec, t->f,       t->gf,      t->main,    t->side,
        t->norm,    t->g_norm,  t->e,       t->q,       t->target,  (double *)(uintptr_t)t->x,
        t->still,   t->lost,    t->raw,     t->g_raw};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) df_free(all[i]);
    df_free((uint8_t *)(uintptr_t)t->dead);
}

/* One tensor, by its name behind g_, u_ and n_. */
typedef struct tensor {
    const char *name;
    double *weight, *gradient;
    size_t n;
} tensor;

static void list_tensors(const method_twin *t, tensor out[static TENSORS]) {
    const tensor all[TENSORS] = {{"w_enc", t->w.w_enc, t->g.w_enc, WEIGHTS},
                                 {"w_dec", t->w.w_dec, t->g.w_dec, WEIGHTS},
                                 {"b_enc", t->w.b_enc, t->g.b_enc, LATENTS},
                                 {"b_dec", t->w.b_dec, t->g.b_dec, WIDTH}};
    memcpy(out, all, sizeof all);
}

static bool near(const family *f, const char *what, double off, double limit) {
    if (off <= limit) return true;
    print_error("%s: %s is off by %.3g\n", f->name, what, off);
    return false;
}

/* Relative L2 distance of a record PREFIX NAME. */
static double off_torch(const golden *g, const char *prefix, const tensor *x, const double *a) {
    char name[16];
    snprintf(name, sizeof name, "%s%s", prefix, x->name);
    return distance_doubles(g, name, x->n, a);
}

/* ---- against PyTorch and finite differences ------------------------------------------------- */

static bool matches_torch(const family *f, const golden *g, method_twin *t) {
    tensor all[TENSORS];
    bool good = true;
    list_tensors(t, all);
    method_run(t);
    for (size_t i = 0; i < TENSORS; i++)
        good &= near(f, all[i].name, off_torch(g, "g_", &all[i], all[i].gradient), 1e-8);
    good &= near(f, "loss", fabs(t->loss / number(g, "losses", STEPS, 0) - 1.0), 1e-10);
    if (!(f->set.clip > 0.0) && !f->set.unit_decoder && !f->set.unit_first) return good;
    double norm = method_clip(t);
    for (size_t i = 0; i < TENSORS; i++)
        good &= near(f, all[i].name, off_torch(g, "u_", &all[i], all[i].gradient), 1e-8);
    if (f->set.clip > 0.0)
        good &= near(f, "norm", fabs(norm / number(g, "norms", STEPS, 0) - 1.0), 1e-10);
    return good;
}

/* dL/dw by central differences. */
static double difference(method_twin *t, double *weight) {
    double old = *weight, h = 1e-6;
    *weight = old + h;
    method_run(t);
    double up = t->loss;
    *weight = old - h;
    method_run(t);
    *weight = old;
    return (up - t->loss) / (2.0 * h);
}

static bool differences_agree(const family *f, method_twin *t, const tensor *x) {
    double *formula = doubles(x->n), worst = 0.0;
    t->hold = false;
    method_run(t);
    t->hold = true;
    memcpy(formula, x->gradient, x->n * sizeof *formula);
    for (size_t i = 0; i < x->n; i += 1 + x->n / 23) {
        double found = difference(t, &x->weight[i]);
        worst = df_test_worse(worst, fabs(found - formula[i]) / (1.0 + fabs(formula[i])));
    }
    df_free(formula);
    return near(f, x->name, worst, 1e-8);
}

static df_dict *new_shape(const family *f) {
    df_dict_site sites[2] = {
        {.name = (char *)"a", .model = (char *)"one", .width = FIRST_SITE, .scale = 1.0},
        {.name = (char *)"b", .model = (char *)"two", .width = WIDTH - FIRST_SITE, .scale = 1.0}};
    df_dict *d = NULL;
    assert_ok(df_dict_new(world, LATENTS, sites, 2, &d));
    d->activation = f->activation;
    d->code_norm = f->norm;
    d->k = 4;
    d->prefixes = f->prefixes;
    memcpy(d->prefix, f->prefix, sizeof f->prefix);
    return d;
}

static void gradients_are_right(void **state) {
    (void)state;
    for (size_t i = 0; i < FAMILIES; i++) {
        golden g;
        method_twin t;
        tensor all[TENSORS];
        df_reconstruction shaped = families[i].set.objective.reconstruction;
        if (shaped == DF_FVU_SITES || shaped == DF_UNSQUARED) continue; // objective_twin.h has them
        df_dict *shape = new_shape(&families[i]);
        assert_ok(golden_open(&g, "method_", families[i].name));
        open_twin(&families[i], &g, shape, &t);
        assert_true(matches_torch(&families[i], &g, &t));
        list_tensors(&t, all);
        for (size_t n = 0; n < TENSORS; n++)
            assert_true(differences_agree(&families[i], &t, &all[n]));
        close_twin(&t);
        df_dict_free(&shape);
        df_free(g.bytes);
    }
}

/* ---- resampling ----------------------------------------------------------------------------- */

static void narrow(const double *from, size_t n, float *to) {
    for (size_t i = 0; i < n; i++) to[i] = (float)from[i];
}

static double apart(const float *a, const double *b, size_t n) {
    double above = 0.0, below = 1e-30;
    for (size_t i = 0; i < n; i++) {
        above += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        below += b[i] * b[i];
    }
    return sqrt(above / below);
}

/* The coder's resampling of the same start. */
static df_status resample_coder(const family *f, const method_twin *start, df_resample how,
                                df_dict *d) {
    df_kernels *kernels = NULL;
    df_coder *coder = NULL;
    uint64_t replaced;
    float x[ROWS * WIDTH];
    narrow(start->x, ROWS * WIDTH, x);
    narrow(start->w.w_enc, WEIGHTS, d->w_enc), narrow(start->w.w_dec, WEIGHTS, d->w_dec);
    narrow(start->w.b_enc, LATENTS, d->b_enc), narrow(start->w.b_dec, WIDTH, d->b_dec);
    df_status status = df_kernels_open("auto", &kernels);
    if (status == DF_OK) status = df_coder_open(world, kernels, d, ROWS, &coder);
    if (status == DF_OK) status = df_coder_train_open(coder);
    for (size_t j = 0; j < LATENTS && status == DF_OK; j++)
        df_coder_state(coder)->silent[j] = start->dead[j] ? f->set.dead_rows : 0;
    if (status == DF_OK) status = df_coder_resample(coder, x, ROWS, &how, &replaced);
    df_coder_close(&coder);
    df_kernels_close(&kernels);
    return status;
}

static void new_latents_are_right(void **state) {
    (void)state;
    for (size_t i = 0; i < FAMILIES; i++) {
        const family *f = &families[i];
        golden g;
        method_twin t;
        tensor all[TENSORS];
        if (f->resample == 0) continue;
        df_resample how = f->how;
        how.step = f->resample;
        df_dict *d = new_shape(f);
        assert_ok(golden_open(&g, "method_", f->name));
        open_twin(f, &g, d, &t);
        assert_ok(resample_coder(f, &t, how, d));
        method_run(&t);
        method_resample(&t, &how);
        list_tensors(&t, all);
        for (size_t n = 0; n < TENSORS; n++)
            assert_true(near(f, all[n].name, off_torch(&g, "n_", &all[n], all[n].weight), 1e-8));
        assert_true(near(f, "the coder's W_enc", apart(d->w_enc, t.w.w_enc, WEIGHTS), 1e-6));
        assert_true(near(f, "the coder's W_dec", apart(d->w_dec, t.w.w_dec, WEIGHTS), 1e-6));
        assert_true(near(f, "the coder's b_enc", apart(d->b_enc, t.w.b_enc, LATENTS), 1e-6));
        close_twin(&t);
        df_dict_free(&d);
        df_free(g.bytes);
    }
}

static const struct CMUnitTest tests[] = {cmocka_unit_test(gradients_are_right),
                                          cmocka_unit_test(new_latents_are_right)};

DF_TEST_MPI_MAIN(world, tests, NULL, NULL)
