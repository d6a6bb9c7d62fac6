/* coder_fixture.h: a coder on a small crosscoder, its settings, and a few steps of it. */
#ifndef CODER_FIXTURE_H
#define CODER_FIXTURE_H

#define DF_TEST_MPI
#include "df_test.h"

#include "darkfield/dict.h"

static df_comm *world;
static const char *screen = "auto"; // of the fixtures opened next

#define LATENTS 208
#define WIDTH 45
#define ROWS 70
static const size_t site_first[] = {0, 24, WIDTH};

/* ---- cases ---------------------------------------------------------------------------------- */

typedef struct fixture {
    df_comm *comm;
    df_kernels *kernels;
    df_dict *dict;
    df_coder *coder;
    float *x; // [ROWS, WIDTH]
} fixture;

typedef struct setting {
    df_activation activation;
    df_code_norm norm;
    bool subtract_bias, unit_decoder;
    double l1, aux;
} setting;

static const setting settings[] = {
    {DF_TOPK, DF_NORM_NONE, true, true, 0.0, 0.0},
    {DF_TOPK, DF_NORM_ROOT, true, false, 0.0, 1.0 / 32},
    {DF_BATCHTOPK, DF_NORM_SUM, false, false, 0.0, 0.5},
    {DF_BATCHTOPK, DF_NORM_NONE, true, true, 0.0, 0.0},
    {DF_RELU, DF_NORM_SUM, true, false, 0.3, 0.0},
    {DF_RELU, DF_NORM_ROOT, false, false, 0.2, 0.1},
};
#define SETTINGS (sizeof settings / sizeof *settings)

static inline df_step_settings step_settings(const setting *s) {
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

static inline void make_rows(float *x, uint64_t seed) {
    for (size_t i = 0; i < (size_t)ROWS * WIDTH; i++)
        x[i] = (float)df_random_normal(seed, DF_STREAM_TEST, i) * 0.15f;
}

static inline df_status open_fixture(df_comm *comm, const setting *s, fixture *f) {
    df_dict_site sites[2] = {
        {.name = (char *)"a", .model = (char *)"one", .width = site_first[1], .scale = 1.0},
        {.name = (char *)"b",
         .model = (char *)"two",
         .width = WIDTH - site_first[1],
         .scale = 1.0}};
    float center[WIDTH];
    *f = (fixture){.comm = comm};
    for (size_t i = 0; i < WIDTH; i++) center[i] = 0.02f * (float)(i % 7) - 0.05f;
    DF_TRY(DF_NEW(f->x, ROWS * WIDTH));
    make_rows(f->x, 5);
    DF_TRY(df_kernels_open("auto", &f->kernels));
    DF_TRY(df_kernels_set_screen(f->kernels, screen));
    DF_TRY(df_dict_new(comm, LATENTS, sites, 2, &f->dict));
    f->dict->activation = s->activation;
    f->dict->code_norm = s->norm;
    f->dict->subtract_bias = s->subtract_bias;
    f->dict->k = 7;
    df_dict_initialise(f->dict, 11, 0.9, 0.8, center);
    for (size_t j = 0; j < f->dict->mine.count; j++) {
        size_t latent = f->dict->mine.first + j;
        f->dict->b_enc[j] = 0.01f * (float)(latent % 5) - 0.02f;
        for (size_t c = 0; c < WIDTH; c++)
            f->dict->w_enc[j * WIDTH + c] +=
                0.1f * (float)df_random_normal(13, DF_STREAM_TEST, latent * WIDTH + c);
        for (size_t c = 0; c < WIDTH; c++)
            f->dict->w_dec[j * WIDTH + c] *= 1.0f + 0.2f * (float)(latent % 3);
    }
    DF_TRY(df_coder_open(comm, f->kernels, f->dict, ROWS, &f->coder));
    return df_coder_train_open(f->coder);
}

static inline void close_fixture(fixture *f) {
    df_coder_close(&f->coder);
    df_dict_free(&f->dict);
    df_kernels_close(&f->kernels);
    df_free(f->x);
}

/* Every seventh latent has been silent for long. */
static inline void kill_some(fixture *f) {
    for (size_t j = 0; j < f->dict->mine.count; j++)
        df_coder_state(f->coder)->silent[j] = (f->dict->mine.first + j) % 7 == 3 ? 1000 : 0;
}

static inline df_status train(fixture *f, const setting *s, size_t steps, double *losses) {
    df_step_settings set = step_settings(s);
    kill_some(f);
    for (size_t i = 0; i < steps; i++) {
        df_step_report report;
        make_rows(f->x, 20 + i);
        DF_TRY(df_coder_step(f->coder, f->x, ROWS - i, &set, &report));
        losses[i] = report.loss + report.l0 + report.fvu[0] + report.fvu[1] + (double)report.dead;
    }
    return DF_OK;
}

#endif
