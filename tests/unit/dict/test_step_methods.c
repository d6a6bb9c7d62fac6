/* Nested and multiple reconstructions, AuxK's variants, clipping, averages of weights, resampling:
 * against float64 PyTorch (tests/golden/method_oracle.py), and the same bytes on any number of
 * ranks and threads. */
#include "method_cases.h"

#include <omp.h>

static df_comm *world, *self;

/* ---- numbers --------------------------------------------------------------------------------- */

static bool close_to(const golden *g, const char *name, size_t n, df_range part, const float *a) {
    double off = distance(g, name, n, part, a);
    if (off <= 1e-5) return true;
    print_error("%s: relative distance %.2e\n", name, off);
    return false;
}

/* ---- a run ---------------------------------------------------------------------------------- */

typedef struct run {
    golden file;
    df_kernels *kernels;
    df_dict *dict;
    df_coder *coder;
    float *x; // [BATCHES, ROWS, WIDTH]
    df_range latents, weights;
    uint64_t replaced;
    df_step_report report;
} run;

static const df_range columns = {0, WIDTH};

static df_status open_dict(df_comm *comm, const family *f, run *r) {
    df_dict_site sites[2] = {
        {.name = (char *)"a", .model = (char *)"one", .width = FIRST_SITE, .scale = 1.0},
        {.name = (char *)"b", .model = (char *)"two", .width = WIDTH - FIRST_SITE, .scale = 1.0}};
    DF_TRY(df_dict_new(comm, LATENTS, sites, 2, &r->dict));
    df_dict *d = r->dict;
    d->activation = f->activation;
    d->code_norm = f->norm;
    d->k = 4;
    d->prefixes = f->prefixes;
    memcpy(d->prefix, f->prefix, sizeof f->prefix);
    r->latents = d->mine;
    r->weights = (df_range){d->mine.first * WIDTH, d->mine.count * WIDTH};
    take(&r->file, "w_enc", LATENTS * WIDTH, r->weights, d->w_enc);
    take(&r->file, "w_dec", LATENTS * WIDTH, r->weights, d->w_dec);
    take(&r->file, "b_enc", LATENTS, r->latents, d->b_enc);
    take(&r->file, "b_dec", WIDTH, columns, d->b_dec);
    return DF_OK;
}

static df_status open_run(df_comm *comm, const family *f, run *r) {
    *r = (run){0};
    DF_TRY(golden_open(&r->file, "method_", f->name));
    DF_TRY(DF_NEW(r->x, BATCHES * ROWS * WIDTH));
    take(&r->file, "x", BATCHES * ROWS * WIDTH, (df_range){0, BATCHES * ROWS * WIDTH}, r->x);
    DF_TRY(df_kernels_open("auto", &r->kernels));
    DF_TRY(open_dict(comm, f, r));
    DF_TRY(df_coder_open(comm, r->kernels, r->dict, ROWS, &r->coder));
    DF_TRY(df_coder_train_open(r->coder));
    const df_train_room room = {.multi = f->set.multi > 0, .ema = f->set.ema > 0};
    DF_TRY(df_coder_train_extend(r->coder, &room));
    for (size_t j = 0; j < r->latents.count; j++)
        df_coder_state(r->coder)->silent[j] =
            (uint64_t)number(&r->file, "silent", LATENTS, r->latents.first + j);
    return DF_OK;
}

static void close_run(run *r) {
    df_coder_close(&r->coder);
    df_dict_free(&r->dict);
    df_kernels_close(&r->kernels);
    df_free(r->x);
    df_free(r->file.bytes);
}

static df_status step(run *r, const family *f, size_t s) {
    const float *x = r->x + s % BATCHES * ROWS * WIDTH;
    DF_TRY(df_coder_step(r->coder, x, ROWS, &f->set, &r->report));
    if (f->resample == 0 || s == 0 || s % f->resample != 0) return DF_OK;
    df_resample how = f->how;
    uint64_t replaced;
    how.step = s;
    DF_TRY(df_coder_resample(r->coder, x, ROWS, &how, &replaced));
    r->replaced += replaced;
    return DF_OK;
}

/* ---- against PyTorch ------------------------------------------------------------------------ */

static bool gradients_agree(run *r, const family *f) {
    df_step_report report;
    df_gradients g = {.w_enc = df_alloc(r->weights.count, 4),
                      .w_dec = df_alloc(r->weights.count, 4),
                      .b_enc = df_alloc(r->latents.count, 4),
                      .b_dec = df_alloc(WIDTH, 4)};
    bool good = df_coder_gradients(r->coder, r->x, ROWS, &f->set, &g, &report) == DF_OK;
    good = good && close_to(&r->file, "g_w_enc", LATENTS * WIDTH, r->weights, g.w_enc);
    good = good && close_to(&r->file, "g_w_dec", LATENTS * WIDTH, r->weights, g.w_dec);
    good = good && close_to(&r->file, "g_b_enc", LATENTS, r->latents, g.b_enc);
    good = good && close_to(&r->file, "g_b_dec", WIDTH, columns, g.b_dec);
    good = good && (double)report.dead == number(&r->file, "numbers", 5, 2);
    df_free(g.w_enc), df_free(g.w_dec), df_free(g.b_enc), df_free(g.b_dec);
    return good;
}

static bool near(const char *family_name, const char *what, double found, double wanted) {
    if (fabs(found - wanted) <= 1e-3 * fabs(wanted)) return true;
    print_error("%s: %s is %.9g, PyTorch has %.9g\n", family_name, what, found, wanted);
    return false;
}

/* FVU of the first batch, pooled over both sites. */
static double pooled_fvu(const run *r) {
    double above = 0.0, below = 0.0;
    for (size_t c = 0; c < WIDTH; c++) {
        double mean = 0.0;
        for (size_t b = 0; b < ROWS; b++) mean += (double)r->x[b * WIDTH + c] / ROWS;
        for (size_t b = 0; b < ROWS; b++) below += pow((double)r->x[b * WIDTH + c] - mean, 2.0);
    }
    size_t first[3] = {0, FIRST_SITE, WIDTH};
    for (size_t s = 0; s < 2; s++) { // by site from the report: sum e^2 / spread of the site
        double spread = 0.0;
        for (size_t c = first[s]; c < first[s + 1]; c++) {
            double mean = 0.0;
            for (size_t b = 0; b < ROWS; b++) mean += (double)r->x[b * WIDTH + c] / ROWS;
            for (size_t b = 0; b < ROWS; b++)
                spread += pow((double)r->x[b * WIDTH + c] - mean, 2.0);
        }
        above += r->report.fvu[s] * spread;
    }
    return above / below;
}

static bool dead_agree(run *r, const family *f) {
    uint64_t dead = 0;
    for (size_t j = 0; j < r->latents.count; j++)
        dead += df_coder_state(r->coder)->silent[j] >= f->set.dead_rows;
    df_sum_u64(world, &dead, 1);
    return (double)dead == number(&r->file, "numbers", 5, 3) &&
           (double)r->replaced == number(&r->file, "numbers", 5, 4);
}

static void train_like_torch(run *r, const family *f) {
    double worst = 0.0, worst_norm = 0.0;
    for (size_t s = 0; s < STEPS; s++) {
        df_test_all(world, step(r, f, s) == DF_OK);
        double loss = number(&r->file, "losses", STEPS, s),
               norm = number(&r->file, "norms", STEPS, s);
        worst = df_test_worse(worst, fabs(r->report.loss - loss) / loss);
        worst_norm = df_test_worse(worst_norm, fabs(r->report.norm - norm) / (norm + 1e-30));
    }
    print_message("%s: over %d steps the loss differs by at most %.1e, the norm by %.1e\n", f->name,
                  STEPS, worst, worst_norm);
    df_test_all(world, worst <= 1e-3 && worst_norm <= 1e-3);
}

static void test_against_torch(void **state) {
    (void)state;
    for (size_t i = 0; i < FAMILIES; i++) {
        const family *f = &families[i];
        df_step_settings still = f->set;
        run r;
        df_test_all(world, open_run(world, f, &r) == DF_OK);
        df_test_all(world, gradients_agree(&r, f));
        if (df_comm_size(world) > 1) { // long runs on one rank: test_same_bytes has the others
            close_run(&r);
            continue;
        }
        train_like_torch(&r, f);
        df_test_all(world, dead_agree(&r, f));
        still.aux = 0.0;
        df_gradients none = {0};
        df_test_all(world,
                    df_coder_gradients(r.coder, r.x, ROWS, &still, &none, &r.report) == DF_OK);
        df_test_all(world, near(f->name, "FVU", pooled_fvu(&r), number(&r.file, "numbers", 5, 0)));
        if (f->set.ema > 0.0) {
            df_coder_use_averages(r.coder, f->set.ema);
            df_test_all(world,
                        df_coder_gradients(r.coder, r.x, ROWS, &still, &none, &r.report) == DF_OK);
            df_test_all(world, near(f->name, "FVU of the averages", pooled_fvu(&r),
                                    number(&r.file, "numbers", 5, 1)));
        }
        close_run(&r);
    }
}

/* ---- the same bytes ------------------------------------------------------------------------- */

static bool same_weights(const run *r, const run *whole) {
    const df_dict *a = r->dict, *b = whole->dict;
    size_t first = r->weights.first, bytes = r->weights.count * sizeof(float);
    const df_dict *ema = df_coder_state(r->coder)->ema, *all = df_coder_state(whole->coder)->ema;
    bool same = memcmp(a->w_enc, b->w_enc + first, bytes) == 0 &&
                memcmp(a->w_dec, b->w_dec + first, bytes) == 0 &&
                memcmp(a->b_enc, b->b_enc + r->latents.first, r->latents.count * 4) == 0 &&
                memcmp(a->b_dec, b->b_dec, WIDTH * 4) == 0;
    if (ema != NULL) same = same && memcmp(ema->w_dec, all->w_dec + first, bytes) == 0;
    return same && r->report.loss == whole->report.loss && r->report.norm == whole->report.norm &&
           r->replaced == whole->replaced;
}

/* Steps [first, end) on one rank with one thread, and on all with `threads`. */
static void same_steps(const family *f, int threads, size_t first, size_t end) {
    run one, all;
    omp_set_num_threads(1);
    df_test_all(world, open_run(self, f, &one) == DF_OK);
    for (size_t s = first; s < end; s++) df_test_all(world, step(&one, f, s) == DF_OK);
    omp_set_num_threads(threads);
    df_test_all(world, open_run(world, f, &all) == DF_OK);
    for (size_t s = first; s < end; s++) df_test_all(world, step(&all, f, s) == DF_OK);
    df_test_all(world, same_weights(&all, &one));
    omp_set_num_threads(1);
    close_run(&one);
    close_run(&all);
}

static void test_same_bytes(void **state) {
    (void)state;
    for (size_t i = 0; i < FAMILIES; i++) {
        same_steps(&families[i], 1, 39, 51);
        if (df_comm_size(world) < 3) same_steps(&families[i], 2, 39, 42);
    }
}

/* ---- the norm of every kind ----------------------------------------------------------------- */

static double squares_of(const float *g, size_t n) {
    double sum = 0.0;
    for (size_t i = 0; i < n; i++) sum += (double)g[i] * (double)g[i];
    return sum;
}

/* A skip transcoder of 8 columns into 72, so that W_skip has two blocks of rows. */
static df_dict *skip_transcoder(void) {
    df_dict_site sites[2] = {
        {.name = (char *)"in", .model = (char *)"m", .width = 8, .scale = 1},
        {.name = (char *)"out", .model = (char *)"m", .width = 72, .scale = 1}};
    df_dict *d = NULL;
    float zero[72] = {0};
    sites[0].input = sites[1].output = true;
    const df_dict_shape shape = {
        .kind = DF_SKIP_TRANSCODER, .latents = LATENTS, .sites = 2, .site = sites};
    df_test_all(world, df_dict_make(world, &shape, &d) == DF_OK);
    d->activation = DF_TOPK;
    d->k = 4;
    df_dict_initialise(d, 3, 1.0, 1.0, zero);
    return d;
}

/* Clipping's norm is that of all gradients handed out, W_skip's among them. */
static void test_norm(void **state) {
    (void)state;
    df_dict *d = skip_transcoder();
    df_kernels *kernels = NULL;
    df_coder *coder = NULL;
    df_step_report report;
    float x[ROWS * 80];
    for (size_t i = 0; i < ROWS * 80; i++)
        x[i] = (float)df_random_normal(1, DF_STREAM_TEST, i) / 8.0f;
    df_test_all(world, df_kernels_open("auto", &kernels) == DF_OK &&
                           df_coder_open(world, kernels, d, ROWS, &coder) == DF_OK &&
                           df_coder_train_open(coder) == DF_OK);
    size_t n = d->mine.count, skip = d->skip_rows.count * 8;
    df_gradients g = {.w_enc = df_alloc(n * 8, 4),
                      .w_dec = df_alloc(n * 72, 4),
                      .b_enc = df_alloc(n, 4),
                      .b_dec = df_alloc(72, 4),
                      .w_skip = df_alloc(skip, 4)};
    const df_step_settings set = {ADAM, .clip = 1e-3};
    df_test_all(world, df_coder_gradients(coder, x, ROWS, &set, &g, &report) == DF_OK);
    double mine = squares_of(g.w_enc, n * 8) + squares_of(g.w_dec, n * 72) +
                  squares_of(g.b_enc, n) + squares_of(g.w_skip, skip),
           total;
    double *leaf = df_alloc(1, sizeof *leaf);
    *leaf = mine;
    df_test_all(world, df_tree_sum(world, (size_t)df_comm_size(world), 1, leaf, &total) == DF_OK);
    total += squares_of(g.b_dec, 72);
    df_test_all(world, df_coder_step(coder, x, ROWS, &set, &report) == DF_OK);
    df_test_all(world, fabs(report.norm - sqrt(total)) <= 1e-9 * report.norm);
    df_free(leaf);
    df_free(g.w_enc), df_free(g.w_dec), df_free(g.b_enc), df_free(g.b_dec), df_free(g.w_skip);
    df_coder_close(&coder);
    df_kernels_close(&kernels);
    df_dict_free(&d);
}

/* ---- raw auxiliary codes -------------------------------------------------------------------- */

enum { MANY = 1000, WIDE = 24, MOST = 20 };

typedef struct raw_run {
    df_kernels *kernels;
    df_dict *dict;
    df_coder *coder;
    float x[ROWS * WIDE];
    df_gradients g; // w_dec alone
    df_step_report report;
} raw_run;

/* A TopK dictionary of MANY latents with this bias, all of which have been silent for 10 rows. */
static void open_many(float bias, size_t k, raw_run *r) {
    df_dict_site site = {.name = (char *)"a", .model = (char *)"m", .width = WIDE, .scale = 1};
    float zero[WIDE] = {0};
    df_test_all(world, df_dict_new(world, MANY, &site, 1, &r->dict) == DF_OK);
    df_dict *d = r->dict;
    d->activation = DF_TOPK;
    d->k = k;
    df_dict_initialise(d, 3, 1.0, 1.0, zero);
    for (size_t j = 0; j < d->mine.count; j++) d->b_enc[j] = bias;
    for (size_t i = 0; i < ROWS * WIDE; i++)
        r->x[i] = (float)df_random_normal(1, DF_STREAM_TEST, i) / 4.0f;
    df_test_all(world, df_kernels_open("auto", &r->kernels) == DF_OK &&
                           df_coder_open(world, r->kernels, d, ROWS, &r->coder) == DF_OK &&
                           df_coder_train_open(r->coder) == DF_OK);
    for (size_t j = 0; j < d->mine.count; j++) df_coder_state(r->coder)->silent[j] = 10;
}

/* All latents are dead and every pre-activation is negative; where `same`, those of a row are one
 * number. */
static void open_raw(bool same, raw_run *r) {
    open_many(-9.0f, 4, r);
    for (size_t i = 0; i < r->dict->mine.count * WIDE && same; i++) r->dict->w_enc[i] = 0.1f;
    const df_step_settings set = {
        .lr = 1e-3, .aux = 1, .aux_k = MOST, .aux_raw = true, .dead_rows = 10};
    r->g = (df_gradients){.w_dec = df_alloc(r->dict->mine.count * WIDE, sizeof(float))};
    df_test_all(world, df_coder_gradients(r->coder, r->x, ROWS, &set, &r->g, &r->report) == DF_OK);
}

static void close_raw(raw_run *r) {
    df_coder_close(&r->coder);
    df_kernels_close(&r->kernels);
    df_dict_free(&r->dict);
    df_free(r->g.w_dec);
}

/* Of negative scores that are equal the first latents are taken, whatever rank has them. */
static void test_raw_ties(void **state) {
    (void)state;
    raw_run r = {0};
    bool good = true;
    open_raw(true, &r);
    for (size_t j = 0; j < r.dict->mine.count; j++) {
        bool taken = squares_of(r.g.w_dec + j * WIDE, WIDE) > 0.0;
        good &= taken == (r.dict->mine.first + j < MOST);
    }
    df_test_all(world, good);
    close_raw(&r);
}

/* sum |decode - x|^2 over the variance of x, from the MOST best pre-activations of each row: plain
 * loops over the whole dictionary, which is drawn again. b_dec is zero. */
static double raw_auxiliary(const raw_run *r) {
    df_dict_site site = *r->dict->site;
    df_dict *d = NULL;
    float zero[WIDE] = {0}, *p = df_alloc(MANY, sizeof *p);
    double above = 0.0, below = 0.0;
    df_test_all(world, df_dict_new(self, MANY, &site, 1, &d) == DF_OK);
    df_dict_initialise(d, 3, 1.0, 1.0, zero);
    for (size_t row = 0; row < ROWS; row++) {
        double e[WIDE] = {0};
        for (size_t j = 0; j < MANY; j++)
            p[j] = df_dot(r->x + row * WIDE, df_dict_enc(d, j), WIDE) - 9.0f;
        for (size_t j = 0; j < MANY; j++) {
            size_t better = 0;
            for (size_t o = 0; o < MANY; o++) better += p[o] > p[j];
            for (size_t i = 0; i < WIDE && better < MOST; i++)
                e[i] += (double)p[j] * (double)df_dict_dec(d, j)[i];
        }
        for (size_t i = 0; i < WIDE; i++) above += pow(e[i] - (double)r->x[row * WIDE + i], 2.0);
    }
    for (size_t i = 0; i < WIDE; i++) {
        double mean = 0.0;
        for (size_t row = 0; row < ROWS; row++) mean += (double)r->x[row * WIDE + i] / ROWS;
        for (size_t row = 0; row < ROWS; row++)
            below += pow((double)r->x[row * WIDE + i] - mean, 2.0);
    }
    df_free(p);
    df_dict_free(&d);
    return above / below;
}

/* Of latents that differ, the best of many: the loss that plain loops find. */
static void test_raw_best(void **state) {
    (void)state;
    raw_run r = {0};
    open_raw(false, &r);
    df_test_all(world, r.report.l0 == 0.0);
    df_test_all(world, fabs(raw_auxiliary(&r) / r.report.auxiliary - 1.0) <= 1e-5);
    close_raw(&r);
}

/* ---- firing by selection -------------------------------------------------------------------- */

enum { SELECTED = 300 }; // more than a rank of four has

/* Which latents fire: in every row the active ones, and as many of the first others as make
 * SELECTED. */
static void expect_fired(const raw_run *r, bool fired[static MANY]) {
    df_dict_site site = *r->dict->site;
    df_dict *d = NULL;
    float zero[WIDE] = {0};
    df_test_all(world, df_dict_new(self, MANY, &site, 1, &d) == DF_OK);
    df_dict_initialise(d, 3, 1.0, 1.0, zero);
    for (size_t row = 0; row < ROWS; row++) {
        bool active[MANY];
        size_t n = 0;
        for (size_t j = 0; j < MANY; j++) {
            float p = df_dot(r->x + row * WIDE, df_dict_enc(d, j), WIDE) + r->dict->b_enc[0];
            active[j] = p > 0.0f;
            n += active[j];
        }
        df_test_all(world, n > 0 && n < SELECTED);
        for (size_t j = 0; j < MANY; j++) {
            bool taken = active[j] || n < SELECTED;
            n += !active[j] && taken;
            fired[j] |= taken;
        }
    }
    df_dict_free(&d);
}

static void test_selected(void **state) {
    (void)state;
    bool fired[MANY] = {false};
    const df_step_settings set = {.fired_selected = true, .dead_rows = 1000};
    raw_run r = {0};
    size_t wrong = 0, silent = 0;
    open_many(-0.3f, SELECTED, &r);
    expect_fired(&r, fired);
    df_test_all(world, df_coder_step(r.coder, r.x, ROWS, &set, &r.report) == DF_OK);
    for (size_t j = 0; j < r.dict->mine.count; j++) {
        uint64_t now = df_coder_state(r.coder)->silent[j];
        wrong += now != (fired[r.dict->mine.first + j] ? 0 : 10 + ROWS);
    }
    for (size_t j = 0; j < MANY; j++) silent += !fired[j];
    df_test_all(world, wrong == 0 && silent > 0);
    close_raw(&r);
}

/* ---- many active latents -------------------------------------------------------------------- */

/* Half of all entries are active; a nested latent still learns from the error of its own prefix. */
static void test_nested_relu(void **state) {
    (void)state;
    family f = families[0];
    run sparse, dense;
    f.activation = DF_RELU;
    df_test_all(world, open_run(world, &f, &sparse) == DF_OK);
    df_test_all(world, open_run(world, &f, &dense) == DF_OK);
    df_coder_dense_above(sparse.coder, 2.0);
    df_coder_dense_above(dense.coder, 0.0);
    for (size_t s = 0; s < 3; s++)
        df_test_all(world, step(&sparse, &f, s) == DF_OK && step(&dense, &f, s) == DF_OK);
    df_test_all(world, memcmp(sparse.dict->w_dec, dense.dict->w_dec,
                              sparse.weights.count * sizeof(float)) == 0);
    close_run(&sparse);
    close_run(&dense);
}

static bool same_codes(df_coder *a, df_coder *b, const float *x) {
    const df_codes *one, *other;
    if (df_coder_encode(a, x, ROWS, false, &one) != DF_OK) return false;
    if (df_coder_encode(b, x, ROWS, false, &other) != DF_OK) return false;
    size_t n = one->start[ROWS];
    return memcmp(one->start, other->start, (ROWS + 1) * sizeof *one->start) == 0 &&
           memcmp(one->latent, other->latent, n * sizeof *one->latent) == 0 &&
           memcmp(one->value, other->value, n * sizeof *one->value) == 0;
}

static bool same_gradients(const run *r, const family *f, df_coder *a, df_coder *b) {
    df_step_report report[2];
    df_gradients g[2] = {{.w_enc = df_alloc(r->weights.count, 4), .w_dec = NULL},
                         {.w_enc = df_alloc(r->weights.count, 4), .w_dec = NULL}};
    bool same = df_coder_gradients(a, r->x, ROWS, &f->set, &g[0], &report[0]) == DF_OK &&
                df_coder_gradients(b, r->x, ROWS, &f->set, &g[1], &report[1]) == DF_OK &&
                report[0].loss == report[1].loss &&
                memcmp(g[0].w_enc, g[1].w_enc, r->weights.count * sizeof(float)) == 0;
    df_free(g[0].w_enc);
    df_free(g[1].w_enc);
    return same;
}

/* What follows a dense batch is encoded without a screen: it is what a screen would have found,
 * whether it is dense again or not. */
static void test_after_dense(void **state) {
    (void)state;
    family f = families[0];
    run r;
    df_coder *fresh;
    f.activation = DF_RELU;
    f.prefixes = 0;
    f.set.aux = 0.0;
    df_test_all(world, open_run(world, &f, &r) == DF_OK);
    df_coder_dense_above(r.coder, 0.0);
    for (size_t s = 0; s < 3; s++) df_test_all(world, step(&r, &f, s) == DF_OK);
    df_test_all(world, df_coder_open(world, r.kernels, r.dict, ROWS, &fresh) == DF_OK);
    df_test_all(world, df_coder_train_open(fresh) == DF_OK);
    df_test_all(world, same_codes(r.coder, fresh, r.x));
    df_coder_dense_above(fresh, 0.0);
    df_test_all(world, same_gradients(&r, &f, r.coder, fresh));
    df_coder_close(&fresh);
    df_test_all(world, df_coder_open(world, r.kernels, r.dict, ROWS, &fresh) == DF_OK);
    df_test_all(world, df_coder_train_open(fresh) == DF_OK);
    df_coder_dense_above(fresh, 2.0);
    df_coder_dense_above(r.coder, 2.0);
    df_test_all(world, same_gradients(&r, &f, r.coder, fresh));
    df_coder_close(&fresh);
    close_run(&r);
}

/* ---- what is refused ------------------------------------------------------------------------ */

static void refuses(run *r, df_step_settings set, df_status code, const char *words) {
    df_step_report report;
    df_gradients none = {0};
    df_test_all(world, df_coder_gradients(r->coder, r->x, ROWS, &set, &none, &report) == code);
    df_test_all(world, strstr(df_error_text(), words) != NULL);
    df_error_clear();
}

static void test_refusals(void **state) {
    (void)state;
    run r;
    df_step_settings set = families[0].set;
    const df_train_room multi = {.multi = true};
    df_test_all(world, open_run(world, &families[0], &r) == DF_OK); // nested, BatchTopK
    set.objective.reconstruction = DF_UNSQUARED;
    refuses(&r, set, DF_USAGE, "prefixes go with");
    set = families[0].set;
    set.multi = 0.125;
    refuses(&r, set, DF_USAGE, "Multi-TopK is for TopK");
    set = families[0].set;
    set.aux_attached = true;
    refuses(&r, set, DF_USAGE, "attached");
    set.aux_normaliser = DF_AUX_TARGET;
    set.aux_decoder_only = true;
    refuses(&r, set, DF_USAGE, "encoder that is fixed");
    set = families[0].set;
    set.fired_selected = true;
    refuses(&r, set, DF_USAGE, "fire by being selected");
    set = families[0].set;
    set.ema = 0.9;
    refuses(&r, set, DF_FAILED, "df_coder_train_extend");
    df_dict large = *r.dict;
    large.latents = 4096;
    large.activation = DF_TOPK;
    large.k = 600;
    df_test_all(world, df_step_fits(r.dict, 513) == DF_OK); // no more can be dead
    df_test_all(world, df_step_fits(&large, 600) == DF_OK);
    df_test_all(world, df_step_fits(&large, 601) == DF_USAGE);
    df_test_all(world, df_coder_train_extend(r.coder, &multi) == DF_FAILED);
    df_error_clear();
    close_run(&r);
}

static int set_up(void **state) {
    (void)state;
    return df_comm_self(&self) != DF_OK;
}

static int tear_down(void **state) {
    (void)state;
    df_comm_free(&self);
    return 0;
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_against_torch), cmocka_unit_test(test_same_bytes),
    cmocka_unit_test(test_norm),          cmocka_unit_test(test_raw_ties),
    cmocka_unit_test(test_raw_best),      cmocka_unit_test(test_selected),
    cmocka_unit_test(test_nested_relu),   cmocka_unit_test(test_after_dense),
    cmocka_unit_test(test_refusals)};

DF_TEST_MPI_MAIN(world, tests, set_up, tear_down)
