/* Transcoders, cross-layer transcoders and crosscoders of uneven widths: groups and their shares,
 * the coder against the plain twin and against itself on other rank and thread counts, files. */
#include "synthetic.h"

#include "darkfield/dict.h"
#include <omp.h>

#define REAL double
#define NAME(x) x##_double
#include "coder_twin.inc"

#define LATENTS 208
#define WIDTH 45
#define ROWS 70
#define MOST_SITES 6

static df_comm *world;

/* ---- cases ---------------------------------------------------------------------------------- */

typedef struct setting {
    df_dict_kind kind;
    df_activation activation;
    df_code_norm norm;
    bool unit_decoder;
    double l1, aux;
    size_t sites, inputs;
    size_t first[MOST_SITES + 1]; // columns
} setting;

static const setting settings[] = {
    {DF_TRANSCODER, DF_TOPK, DF_NORM_NONE, true, 0.0, 1.0 / 32, 2, 1, {0, 24, WIDTH}},
    {DF_SKIP_TRANSCODER, DF_BATCHTOPK, DF_NORM_SUM, false, 0.0, 0.5, 2, 1, {0, 17, WIDTH}},
    {DF_CLT, DF_RELU, DF_NORM_SUM, false, 0.3, 0.0, 6, 3, {0, 8, 17, 24, 30, 37, WIDTH}},
    {DF_CLT, DF_TOPK, DF_NORM_ROOT, false, 0.0, 1.0 / 32, 4, 2, {0, 9, 20, 34, WIDTH}},
    {DF_CROSSCODER, DF_BATCHTOPK, DF_NORM_SUM, false, 0.0, 0.0, 3, 3, {0, 5, 38, WIDTH}},
};
#define SETTINGS (sizeof settings / sizeof *settings)

typedef struct fixture {
    df_comm *comm;
    df_kernels *kernels;
    df_dict *dict;
    df_coder *coder;
    float *x; // [ROWS, WIDTH]
} fixture;

static df_step_settings step_settings(const setting *s) {
    return (df_step_settings){.lr = 1e-2,
                              .beta1 = 0.9,
                              .beta2 = 0.999,
                              .epsilon = 1e-8,
                              .objective = {.penalty = DF_PENALTY_L1, .weight = s->l1},
                              .aux = s->aux,
                              .aux_k = 12,
                              .dead_rows = 50,
                              .unit_decoder = s->unit_decoder,
                              .threshold_rate = 0.01};
}

static void list_sites(const setting *s, df_dict_site *sites) {
    static char name[] = "site", one[] = "one", two[] = "two";
    for (size_t i = 0; i < s->sites && i < MOST_SITES; i++)
        sites[i] = (df_dict_site){.name = name,
                                  .model = i % 2 == 0 ? one : two,
                                  .width = s->first[i + 1] - s->first[i],
                                  .scale = 1.0,
                                  .input = i < s->inputs || s->inputs == s->sites,
                                  .output = i >= s->inputs || s->inputs == s->sites};
}

static float noise(uint64_t seed, uint64_t index, float size) {
    return size * (float)df_random_normal(seed, DF_STREAM_TEST, index);
}

static void make_rows(float *x, uint64_t seed) {
    for (size_t i = 0; i < (size_t)ROWS * WIDTH; i++) x[i] = noise(seed, i, 0.15f);
}

/* Weights that depend on the latent and the column of a row alone. */
static void disturb(df_dict *d) {
    for (size_t j = 0; j < d->mine.count; j++) {
        const df_dict_group *g = df_dict_group_of(d, j);
        size_t latent = d->mine.first + j;
        d->b_enc[j] = 0.01f * (float)(latent % 5) - 0.02f;
        for (size_t c = 0; c < g->in.count; c++)
            df_dict_enc(d, j)[c] += noise(13, latent * WIDTH + g->in.first + c, 0.1f);
        for (size_t c = 0; c < g->out.count; c++)
            df_dict_dec(d, j)[c] *= 1.0f + 0.2f * (float)(latent % 3);
    }
    for (size_t i = 0; i < d->skip_rows.count * d->in.count && d->w_skip != NULL; i++)
        d->w_skip[i] = noise(17, d->skip_rows.first * d->in.count + i, 0.05f);
}

static df_status open_fixture(df_comm *comm, const setting *s, fixture *f) {
    df_dict_site sites[MOST_SITES];
    float center[WIDTH];
    *f = (fixture){.comm = comm};
    list_sites(s, sites);
    for (size_t i = 0; i < WIDTH; i++) center[i] = 0.02f * (float)(i % 7) - 0.05f;
    DF_TRY(DF_NEW(f->x, ROWS * WIDTH));
    make_rows(f->x, 5);
    DF_TRY(df_kernels_open("auto", &f->kernels));
    const df_dict_shape shape = {
        .kind = s->kind, .latents = LATENTS, .sites = s->sites, .site = sites};
    DF_TRY(df_dict_make(comm, &shape, &f->dict));
    f->dict->activation = s->activation;
    f->dict->code_norm = s->norm;
    f->dict->k = 7;
    df_dict_initialise(f->dict, 11, 0.9, 0.8, center);
    disturb(f->dict);
    DF_TRY(df_coder_open(comm, f->kernels, f->dict, ROWS, &f->coder));
    return df_coder_train_open(f->coder);
}

static void close_fixture(fixture *f) {
    df_coder_close(&f->coder);
    df_dict_free(&f->dict);
    df_kernels_close(&f->kernels);
    df_free(f->x);
}

static void kill_some(fixture *f) {
    for (size_t j = 0; j < f->dict->mine.count; j++)
        df_coder_state(f->coder)->silent[j] = (f->dict->mine.first + j) % 7 == 3 ? 1000 : 0;
}

/* ---- the twin ------------------------------------------------------------------------------- */

static double *doubles(size_t n) {
    return df_alloc(n, sizeof(double));
}

/* Spreads a dictionary that one rank holds whole over full rows. */
static void load_twin(twin_double *t, const fixture *f) {
    const df_dict *d = f->dict;
    for (size_t i = 0; i < t->rows * WIDTH; i++) ((double *)(uintptr_t)t->x)[i] = (double)f->x[i];
    for (size_t j = 0; j < LATENTS; j++) {
        const df_dict_group *g = df_dict_group_of(d, j);
        for (size_t c = 0; c < g->in.count; c++)
            t->w_enc[j * WIDTH + g->in.first + c] = (double)df_dict_enc(d, j)[c];
        for (size_t c = 0; c < g->out.count; c++)
            t->w_dec[j * WIDTH + g->out.first + c] = (double)df_dict_dec(d, j)[c];
        t->b_enc[j] = (double)d->b_enc[j];
    }
    for (size_t c = 0; c < d->out.count; c++) t->b_dec[d->out.first + c] = (double)d->b_dec[c];
    for (size_t i = 0; i < d->out.count && d->w_skip != NULL; i++)
        for (size_t c = 0; c < d->in.count; c++)
            t->w_skip[(d->out.first + i) * WIDTH + d->in.first + c] =
                (double)d->w_skip[i * d->in.count + c];
}

static void open_twin(twin_double *t, const setting *s, const fixture *whole, size_t rows) {
    size_t weights = (size_t)LATENTS * WIDTH;
    const df_dict *d = whole->dict;
    uint8_t *dead = df_alloc(LATENTS, 1);
    for (size_t j = 0; j < LATENTS; j++) dead[j] = j % 7 == 3;
    *t = (twin_double){.rows = rows,
                       .latents = LATENTS,
                       .width = WIDTH,
                       .sites = s->sites,
                       .k = 7,
                       .aux_k = 12,
                       .site_first = s->first,
                       .activation = s->activation,
                       .code_norm = s->norm,
                       .subtract_bias = d->subtract_bias,
                       .l1 = s->l1,
                       .aux = s->aux,
                       .dead = dead,
                       .out_first = d->out.first,
                       .out_end = d->out.first + d->out.count};
    t->x = doubles(rows * WIDTH);
    t->w_enc = doubles(weights), t->w_dec = doubles(weights), t->b_enc = doubles(LATENTS);
    t->b_dec = doubles(WIDTH);
    t->f = doubles(rows * LATENTS), t->aux_f = doubles(rows * LATENTS);
    t->error = doubles(rows * WIDTH);
    t->g_enc = doubles(weights), t->g_dec = doubles(weights), t->g_b = doubles(LATENTS);
    t->g_center = doubles(WIDTH);
    if (d->w_skip != NULL) t->w_skip = doubles(WIDTH * WIDTH), t->g_skip = doubles(WIDTH * WIDTH);
    load_twin(t, whole);
}

static void close_twin(twin_double *t) {
    double *all[] = {t->w_enc, t->w_dec, t->b_enc, t->b_dec,    t->f,      t->aux_f, t->error,
                     t->g_enc, t->g_dec, t->g_b,   t->g_center, t->w_skip, t->g_skip};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) df_free(all[i]);
    df_free((double *)(uintptr_t)t->x);
    df_free((uint8_t *)(uintptr_t)t->dead);
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

/* Some of the weights that are not zero: the others are none of the dictionary's. */
static bool check_tensor(twin_double *t, double *weights, const double *gradient, size_t n) {
    bool good = true;
    double *analytic = doubles(n), *freeze = doubles(t->rows * WIDTH);
    run_double(t);
    memcpy(analytic, gradient, n * sizeof *analytic);
    memcpy(freeze, t->error, t->rows * WIDTH * sizeof *freeze);
    t->frozen_error = freeze;
    for (size_t i = 0; i < n; i += 1 + n / 41) {
        if (weights[i] == 0.0) continue;
        double found = difference(t, &weights[i]);
        if (fabs(found - analytic[i]) <= 1e-8 * (1.0 + fabs(analytic[i]))) continue;
        print_error("[%zu]: %.12g by differences, %.12g by formula\n", i, found, analytic[i]);
        good = false;
    }
    t->frozen_error = NULL;
    df_free(analytic);
    df_free(freeze);
    return good;
}

static void twin_matches_differences(void **state) {
    (void)state;
    df_comm *self;
    if (df_comm_size(world) > 1) return; // nothing here depends on the ranks
    assert_ok(df_comm_self(&self));
    for (size_t i = 0; i < SETTINGS; i++) {
        fixture f;
        twin_double t;
        size_t weights = (size_t)LATENTS * WIDTH;
        df_test_all(world, open_fixture(self, &settings[i], &f) == DF_OK);
        open_twin(&t, &settings[i], &f, 9);
        df_test_all(world, check_tensor(&t, t.w_enc, t.g_enc, weights));
        df_test_all(world, check_tensor(&t, t.w_dec, t.g_dec, weights));
        df_test_all(world, check_tensor(&t, t.b_enc, t.g_b, LATENTS));
        df_test_all(world, check_tensor(&t, t.b_dec, t.g_center, WIDTH));
        if (t.w_skip != NULL)
            df_test_all(world, check_tensor(&t, t.w_skip, t.g_skip, (size_t)WIDTH * WIDTH));
        close_twin(&t);
        close_fixture(&f);
    }
    df_comm_free(&self);
}

/* Relative distance of rows of `columns`, one for each of the rows `own`, from full rows. */
typedef struct measured {
    double above, below;
} measured;

static void compare(measured *m, const float *a, const double *full, df_range columns) {
    for (size_t c = 0; c < columns.count; c++) {
        double b = full[columns.first + c];
        m->above += ((double)a[c] - b) * ((double)a[c] - b);
        m->below += b * b;
    }
}

static bool close_enough(measured m) {
    return sqrt(m.above) <= 1e-5 * sqrt(m.below) + 1e-30;
}

static bool gradients_agree(const df_dict *d, const df_gradients *g, const twin_double *t) {
    measured enc = {0}, dec = {0}, bias = {0}, center = {0}, skip = {0};
    for (size_t j = 0; j < d->mine.count; j++) {
        const df_dict_group *group = df_dict_group_of(d, j);
        size_t latent = d->mine.first + j;
        compare(&enc, g->w_enc + (df_dict_enc(d, j) - d->w_enc), t->g_enc + latent * WIDTH,
                group->in);
        compare(&dec, g->w_dec + (df_dict_dec(d, j) - d->w_dec), t->g_dec + latent * WIDTH,
                group->out);
    }
    compare(&bias, g->b_enc, t->g_b, d->mine);
    compare(&center, g->b_dec, t->g_center, d->out);
    for (size_t i = 0; i < d->skip_rows.count; i++)
        compare(&skip, g->w_skip + i * d->in.count,
                t->g_skip + (d->out.first + d->skip_rows.first + i) * WIDTH, d->in);
    return close_enough(enc) && close_enough(dec) && close_enough(bias) && close_enough(center) &&
           close_enough(skip);
}

static void gradients_match_twin(void **state) {
    (void)state;
    df_comm *self;
    assert_ok(df_comm_self(&self));
    for (size_t i = 0; i < SETTINGS; i++) {
        fixture whole, f;
        twin_double t;
        df_step_report report;
        df_step_settings set = step_settings(&settings[i]);
        df_test_all(world, open_fixture(self, &settings[i], &whole) == DF_OK);
        df_test_all(world, open_fixture(world, &settings[i], &f) == DF_OK);
        kill_some(&f);
        open_twin(&t, &settings[i], &whole, ROWS);
        run_double(&t);
        size_t most = (size_t)LATENTS * WIDTH;
        df_gradients g = {.w_enc = df_alloc(most, 4),
                          .w_dec = df_alloc(most, 4),
                          .b_enc = df_alloc(LATENTS, 4),
                          .b_dec = df_alloc(WIDTH, 4),
                          .w_skip = df_alloc(WIDTH * WIDTH, 4)};
        df_test_all(world, df_coder_gradients(f.coder, f.x, ROWS, &set, &g, &report) == DF_OK);
        df_test_all(world, gradients_agree(f.dict, &g, &t));
        df_test_all(world, fabs(report.loss - t.loss) < 1e-6 * fabs(t.loss));
        df_test_all(world, fabs(report.auxiliary - t.auxiliary) < 1e-5 * t.auxiliary + 1e-12);
        df_test_all(world, (report.auxiliary > 0.0) == (settings[i].aux > 0.0));
        float *all[] = {g.w_enc, g.w_dec, g.b_enc, g.b_dec, g.w_skip};
        for (size_t n = 0; n < 5; n++) df_free(all[n]);
        close_twin(&t);
        close_fixture(&f);
        close_fixture(&whole);
    }
    df_comm_free(&self);
}

/* ---- same bytes ----------------------------------------------------------------------------- */

static df_status train(fixture *f, const setting *s, size_t steps, double *losses) {
    df_step_settings set = step_settings(s);
    kill_some(f);
    for (size_t i = 0; i < steps; i++) {
        df_step_report report;
        make_rows(f->x, 20 + i);
        DF_TRY(df_coder_step(f->coder, f->x, ROWS - i, &set, &report));
        losses[i] = report.loss + report.l0 + (double)report.dead;
        for (size_t n = 0; n < df_dict_outputs(f->dict); n++) losses[i] += report.fvu[n];
    }
    return DF_OK;
}

static bool same(const float *a, const float *whole, size_t first, size_t n) {
    return n == 0 || memcmp(a, whole + first, n * sizeof *a) == 0;
}

/* Which floats of the whole tensors a rank has. */
typedef struct extents {
    df_range enc, dec, skip;
} extents;

static extents extents_of(const df_dict *d) {
    size_t first = d->mine.first, end = first + d->mine.count;
    size_t enc = df_dict_enc_floats(d, first), dec = df_dict_dec_floats(d, first);
    return (extents){{enc, df_dict_enc_floats(d, end) - enc},
                     {dec, df_dict_dec_floats(d, end) - dec},
                     {d->skip_rows.first * d->in.count, d->skip_rows.count * d->in.count}};
}

static bool same_weights(const df_dict *d, const df_dict *whole) {
    extents e = extents_of(d);
    return same(d->w_enc, whole->w_enc, e.enc.first, e.enc.count) &&
           same(d->w_dec, whole->w_dec, e.dec.first, e.dec.count) &&
           same(d->b_enc, whole->b_enc, d->mine.first, d->mine.count) &&
           same(d->b_dec, whole->b_dec, 0, d->out.count) &&
           same(d->w_skip, whole->w_skip, e.skip.first, e.skip.count) &&
           d->threshold == whole->threshold;
}

static bool same_training(const fixture *f, const fixture *whole) {
    const df_trainer_state *a = df_coder_state(f->coder), *b = df_coder_state(whole->coder);
    extents e = extents_of(f->dict);
    return same_weights(f->dict, whole->dict) &&
           same(a->v_enc, b->v_enc, e.enc.first, e.enc.count) &&
           same(a->m_dec, b->m_dec, e.dec.first, e.dec.count) &&
           same(a->m_center, b->m_center, 0, f->dict->out.count) &&
           same(a->v_skip, b->v_skip, e.skip.first, e.skip.count);
}

static void same_bytes(void **state) {
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

/* What ranks bring is decoded as if one had brought it all, and as if each row came alone. */
static void apply_does_not_depend_on_neighbours(void **state) {
    (void)state;
    df_comm *self;
    assert_ok(df_comm_self(&self));
    int size = df_comm_size(world), rank = df_comm_rank(world);
    for (size_t i = 0; i < SETTINGS; i++) {
        fixture whole, f;
        size_t n = ROWS / (size_t)size, rows = n * (size_t)size;
        static float all[ROWS * WIDTH], mine[ROWS * WIDTH], one[WIDTH];
        df_test_all(world, open_fixture(self, &settings[i], &whole) == DF_OK &&
                               open_fixture(world, &settings[i], &f) == DF_OK);
        whole.dict->threshold = f.dict->threshold = 0.05f;
        size_t out = f.dict->out.count, at = (size_t)rank * n;
        df_test_all(world, df_coder_apply(whole.coder, whole.x, rows, all, NULL) == DF_OK);
        df_test_all(world, df_coder_apply(f.coder, f.x + at * WIDTH, n, mine, NULL) == DF_OK);
        df_test_all(world, memcmp(mine, all + at * out, n * out * sizeof *mine) == 0);
        df_test_all(world,
                    df_coder_apply(whole.coder, whole.x + 13 * WIDTH, 1, one, NULL) == DF_OK &&
                        memcmp(one, all + 13 * out, out * sizeof *one) == 0);
        close_fixture(&f);
        close_fixture(&whole);
    }
    df_comm_free(&self);
}

/* ---- shares, shapes, files ------------------------------------------------------------------ */

/* Blocks tile the latents, lie in one group each, and ranks own whole ones. */
static void blocks_never_straddle_groups(void **state) {
    (void)state;
    for (size_t i = 0; i < SETTINGS; i++) {
        fixture f;
        df_test_all(world, open_fixture(world, &settings[i], &f) == DF_OK);
        const df_dict *d = f.dict;
        size_t at = 0;
        bool good = true, begins = d->mine.count == 0;
        for (size_t b = 0; b < d->blocks; b++) {
            df_range block = df_dict_block(d, b);
            const df_dict_group *g = d->group;
            while (block.first >= g->first + g->count) g++;
            good = good && block.first == at && block.count > 0 && block.count <= d->block &&
                   block.first + block.count <= g->first + g->count;
            begins = begins || block.first == d->mine.first;
            at += block.count;
        }
        for (size_t j = 0; j < d->mine.count; j++) {
            df_range block = df_dict_block(d, df_dict_block_of(d, j));
            size_t latent = d->mine.first + j;
            good = good && latent >= block.first && latent < block.first + block.count;
        }
        df_test_all(world, good && begins && at == LATENTS);
        size_t most[2] = {df_dict_enc_floats(d, LATENTS), df_dict_dec_floats(d, LATENTS)};
        size_t sums[2] = {0};
        for (size_t g = 0; g < d->groups; g++) {
            sums[0] += d->group[g].count * d->group[g].in.count;
            sums[1] += d->group[g].count * d->group[g].out.count;
        }
        df_test_all(world, sums[0] == most[0] && sums[1] == most[1]);
        close_fixture(&f);
    }
}

static void plan_is_what_is_used(void **state) {
    (void)state;
    for (size_t i = 0; i < SETTINGS; i++) {
        fixture f;
        df_test_all(world, open_fixture(world, &settings[i], &f) == DF_OK);
        double losses[2];
        df_test_all(world, train(&f, &settings[i], 2, losses) == DF_OK);
        size_t with = df_memory_now(),
               plan = df_coder_plan_bytes(f.dict, df_kernels_spare_screen(f.kernels), ROWS,
                                          df_comm_size(world), true);
        df_coder_close(&f.coder);
        double used = (double)(with - df_memory_now()), planned = (double)plan;
        df_test_all(world, used <= 1.02 * planned && used >= 0.98 * planned);
        close_fixture(&f);
    }
}

static bool refused(const df_dict_shape *shape, df_status expected, const char *part) {
    df_dict *d = NULL;
    df_status status = df_dict_make(world, shape, &d);
    bool good = status == expected && d == NULL && strstr(df_error_text(), part) != NULL;
    if (!good) print_error("status %d, \"%s\"; expected \"%s\"\n", status, df_error_text(), part);
    df_error_clear();
    df_dict_free(&d);
    return good;
}

static void shapes_that_do_not_fit_are_refused(void **state) {
    (void)state;
    df_dict_site site[MOST_SITES];
    list_sites(&settings[3], site); // 9 and 11 columns are read, 14 and 11 written
    df_dict_shape shape = {.kind = DF_CLT, .latents = 40, .sites = 4, .site = site};
    shape.sites = 3;
    df_test_all(world, refused(&shape, DF_USAGE, "as many input as output sites"));
    shape.sites = 4, shape.latents = 1;
    df_test_all(world, refused(&shape, DF_USAGE, "a latent for each"));
    shape.latents = 40, shape.sites = 0;
    df_test_all(world, refused(&shape, DF_BAD_INPUT, "0 sites"));
    shape.sites = 2;
    df_test_all(world, refused(&shape, DF_BAD_INPUT, "without output columns"));
    shape.sites = 4, site[1].input = false, site[1].output = true, site[2].input = true;
    site[2].output = false;
    df_test_all(world, refused(&shape, DF_BAD_INPUT, "side by side"));
    list_sites(&settings[3], site);
    site[2].width = 0;
    df_test_all(world, refused(&shape, DF_BAD_INPUT, "no columns"));
    list_sites(&settings[3], site);
    shape.kind = DF_SAE;
    df_test_all(world, refused(&shape, DF_BAD_INPUT, "kind sae"));
    const df_dict_group far = {.count = 40, .in = {0, 20}, .out = {20, SIZE_MAX}};
    shape.kind = DF_TRANSCODER, shape.group = &far, shape.groups = 1;
    df_test_all(world, refused(&shape, DF_BAD_INPUT, "not those of whole sites"));
}

static void bias_is_not_subtracted_from_another_site(void **state) {
    (void)state;
    fixture f;
    df_coder *coder;
    df_test_all(world, open_fixture(world, &settings[0], &f) == DF_OK && !f.dict->subtract_bias);
    f.dict->subtract_bias = true;
    df_test_all(world, df_coder_open(world, f.kernels, f.dict, ROWS, &coder) == DF_USAGE &&
                           strstr(df_error_text(), "subtract_bias") != NULL);
    df_error_clear();
    f.dict->subtract_bias = false;
    f.x[4 * WIDTH + WIDTH - 1] = NAN; // a target that no encoder reads
    const df_codes *codes;
    df_test_all(world, df_coder_encode(f.coder, f.x, ROWS, true, &codes) == DF_BAD_INPUT &&
                           strstr(df_error_text(), "row 4") != NULL);
    df_error_clear();
    close_fixture(&f);
}

/* The same file from any number of ranks, and what is read is what was written. */
static void files_come_back(void **state) {
    (void)state;
    static const df_provenance facts = DF_TEST_FACTS;
    df_comm *self;
    assert_ok(df_comm_self(&self));
    char *folder = df_test_shared_folder(world, "geometry");
    char *together = df_format("%s/together.dict.h5", folder);
    char *alone = df_format("%s/alone.dict.h5", folder);
    for (size_t i = 0; i < SETTINGS; i++) {
        fixture whole, f;
        uint64_t digest[2];
        df_test_all(world, open_fixture(self, &settings[i], &whole) == DF_OK &&
                               open_fixture(world, &settings[i], &f) == DF_OK);
        if (settings[i].activation == DF_BATCHTOPK)
            whole.dict->threshold = f.dict->threshold = 0.25f;
        df_test_all(world,
                    df_dict_save(world, together, f.dict, NULL, "job", 1, 2, &facts) == DF_OK);
        bool first = df_comm_rank(world) == 0;
        df_test_all(world, !first || df_dict_save(self, alone, whole.dict, NULL, "job", 1, 2,
                                                  &facts) == DF_OK);
        df_test_all(world, df_digest(together, &digest[0]) == DF_OK &&
                               df_digest(alone, &digest[1]) == DF_OK && digest[0] == digest[1]);
        df_dict *back = NULL, *made = f.dict;
        df_test_all(world, df_dict_load(world, together, &back) == DF_OK);
        df_test_all(world, back->kind == made->kind && back->groups == made->groups &&
                               back->subtract_bias == made->subtract_bias);
        df_test_all(world, same_weights(back, whole.dict));
        df_dict_free(&back);
        close_fixture(&f);
        close_fixture(&whole);
    }
    df_free(together);
    df_free(alone);
    df_free(folder);
    df_comm_free(&self);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(twin_matches_differences),
    cmocka_unit_test(gradients_match_twin),
    cmocka_unit_test(same_bytes),
    cmocka_unit_test(apply_does_not_depend_on_neighbours),
    cmocka_unit_test(blocks_never_straddle_groups),
    cmocka_unit_test(plan_is_what_is_used),
    cmocka_unit_test(shapes_that_do_not_fit_are_refused),
    cmocka_unit_test(bias_is_not_subtracted_from_another_site),
    cmocka_unit_test(files_come_back),
};

DF_TEST_MPI_MAIN(world, tests, NULL, NULL)
