/* The screen decides nothing: dictionaries trained with the fp32, bf16, int8 and plain screens have
 * one digest, on rows and latents made to mislead a screen: equal values at the cut, subnormal,
 * huge and tiny ones, columns that outshout all others, latents that are copies of each other. */
#define DF_TEST_MPI
#include "df_test.h"

#include "darkfield/dict.h"

enum { LATENTS = 96, WIDTH = 40, FIRST_SITE = 23, ROWS = 40, STEPS = 6, K = 5 };
static df_comm *world;

typedef struct setting {
    df_activation activation;
    df_code_norm norm;
    bool unit, aux;
} setting;

static const setting settings[] = {
    {DF_TOPK, DF_NORM_NONE, true, true},       {DF_TOPK, DF_NORM_ROOT, false, false},
    {DF_BATCHTOPK, DF_NORM_NONE, true, false}, {DF_BATCHTOPK, DF_NORM_SUM, false, true},
    {DF_RELU, DF_NORM_SUM, false, false},      {DF_JUMPRELU, DF_NORM_SUM, false, false},
    {DF_GATED, DF_NORM_NONE, true, false},
};

/* ---- rows and latents ----------------------------------------------------------------------- */

/* Small whole numbers: products are exact, and many are equal. */
static float whole(uint64_t stream, uint64_t i) {
    return (float)(int)(5.0 * df_random_uniform(stream, DF_STREAM_TEST, i)) - 2.0f;
}

/* Huge rows in every other batch: they would take all of BatchTopK's places. */
static float row_scale(size_t step, size_t r) {
    const float scales[8] = {1.0f, 1.0f, 1.0f, 1e6f, 1e-12f, 1e-41f, 1.0f, 0.0f};
    return r % 8 == 3 && step % 2 == 1 ? 1.0f : scales[r % 8];
}

/* Every 8th row repeats the one before it; one of 8 has a column that outshouts the others. */
static void fill_rows(size_t step, float *x) {
    for (size_t r = 0; r < ROWS; r++)
        for (size_t c = 0; c < WIDTH; c++) {
            size_t from = r % 8 == 1 ? r - 1 : r;
            float value = whole(1, (step * ROWS + from) * WIDTH + c);
            x[r * WIDTH + c] = value * row_scale(step, r) * (r % 8 == 2 && c == 7 ? 4096.0f : 1.0f);
        }
}

static float latent_scale(size_t j) {
    const float scales[6] = {1.0f, 1.0f, 1e5f, 1e-9f, 3e-39f, 1.0f};
    return scales[j / 2 % 6];
}

static void copy_row(float *rows, size_t j, size_t width) {
    memcpy(rows + (j + 1) * width, rows + j * width, width * sizeof *rows);
}

/* Every odd latent becomes a copy of the one before it: pairs lie on one rank. */
static void make_copies(df_dict *d) {
    for (size_t j = 0; j + 1 < d->mine.count; j += 2) {
        copy_row(d->w_enc, j, WIDTH), copy_row(d->w_dec, j, WIDTH);
        copy_row(d->b_enc, j, 1), copy_row(d->theta, j, 1);
        copy_row(d->r_mag, j, 1), copy_row(d->b_mag, j, 1);
    }
}

static df_dict *new_dict(df_comm *comm, const setting *s) {
    df_dict_site sites[2] = {
        {.name = (char *)"a", .model = (char *)"one", .width = FIRST_SITE, .scale = 1.0},
        {.name = (char *)"b", .model = (char *)"two", .width = WIDTH - FIRST_SITE, .scale = 1.0}};
    df_dict *d = NULL;
    if (df_dict_new(comm, LATENTS, sites, 2, &d) != DF_OK) return NULL;
    d->activation = s->activation;
    d->code_norm = s->norm;
    d->k = K;
    for (size_t j = 0; j < d->mine.count; j++) {
        size_t latent = d->mine.first + j;
        for (size_t c = 0; c < WIDTH; c++) {
            float value = whole(2, latent * WIDTH + c);
            d->w_enc[j * WIDTH + c] = value * latent_scale(latent);
            d->w_dec[j * WIDTH + c] = 0.0625f * (value + (c == 0 ? 0.5f : 0.0f));
        }
        d->b_enc[j] = 0.25f * whole(3, latent);
        d->theta[j] = 0.5f + 0.25f * whole(4, latent);
        d->b_mag[j] = 0.125f * whole(5, latent);
    }
    return d;
}

/* ---- a training ----------------------------------------------------------------------------- */

static df_status take_steps(df_coder *coder, df_dict *d, const setting *s) {
    df_step_settings set = {.lr = 1e-3,
                            .beta1 = 0.9,
                            .beta2 = 0.999,
                            .epsilon = 1e-8,
                            .aux = s->aux ? 1.0 / 32 : 0.0,
                            .aux_k = 7,
                            .dead_rows = 2 * ROWS,
                            .unit_decoder = s->unit,
                            .threshold_rate = 0.1};
    if (s->activation == DF_JUMPRELU) set.objective.bandwidth = 0.5;
    float x[ROWS * WIDTH];
    df_step_report report;
    for (size_t step = 0; step < STEPS; step++) {
        fill_rows(step, x);
        make_copies(d);
        DF_TRY(df_coder_step(coder, x, ROWS, &set, &report));
        if (!(report.l0 > 1.0)) return df_fail(DF_FAILED, "nothing was active in step %zu", step);
    }
    return DF_OK;
}

static const df_provenance facts = DF_TEST_FACTS;

/* The digest of the dictionary file; 0: it failed. */
static uint64_t trained(df_comm *comm, const setting *s, const char *screen, const char *path) {
    df_kernels *kernels = NULL;
    df_coder *coder = NULL;
    uint64_t digest = 0;
    df_dict *d = new_dict(comm, s);
    df_status status = d != NULL ? df_kernels_open("auto", &kernels) : DF_FAILED;
    if (status == DF_OK) status = df_kernels_set_screen(kernels, screen);
    if (status == DF_OK) status = df_coder_open(comm, kernels, d, ROWS, &coder);
    if (status == DF_OK) status = df_coder_train_open(coder);
    if (status == DF_OK) status = take_steps(coder, d, s);
    if (status == DF_OK) status = df_dict_save(comm, path, d, NULL, "", 1, ROWS * STEPS, &facts);
    if (status == DF_OK) status = df_digest(path, &digest);
    if (status != DF_OK) print_error("%s: %s\n", screen, df_error_text());
    df_coder_close(&coder);
    df_kernels_close(&kernels);
    df_dict_free(&d);
    return status == DF_OK ? digest : 0;
}

static void one_digest(void **state) {
    (void)state;
    static const char *const screens[] = {"fp32", "bf16", "int8", "plain", "auto"};
    df_comm *self = NULL;
    df_log_quiet(true);
    df_test_all(world, df_comm_self(&self) == DF_OK);
    char *folder = df_test_shared_folder(world, "screens");
    char *together = df_format("%s/all.dict.h5", folder),
         *alone = df_format("%s/one.dict.h5", folder);
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        uint64_t wanted =
            df_comm_rank(world) == 0 ? trained(self, &settings[i], "plain", alone) : 0;
        df_broadcast(world, 0, &wanted, sizeof wanted);
        df_test_all(world, wanted != 0);
        for (size_t s = 0; s < sizeof screens / sizeof *screens; s++) {
            uint64_t found = trained(world, &settings[i], screens[s], together);
            if (found != wanted) print_error("setting %zu, screen %s differs\n", i, screens[s]);
            df_test_all(world, found == wanted);
        }
    }
    df_free(together), df_free(alone), df_free(folder);
    df_comm_free(&self);
}

static const struct CMUnitTest tests[] = {cmocka_unit_test(one_digest)};

DF_TEST_MPI_MAIN(world, tests, NULL, NULL)
