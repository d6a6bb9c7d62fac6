/* method_cases.h: the cases of tests/golden/method_oracle.py. */
#ifndef METHOD_CASES_H
#define METHOD_CASES_H

#include "golden.h"

#include "darkfield/dict.h"

enum { LATENTS = 48, WIDTH = 12, FIRST_SITE = 7, ROWS = 32, BATCHES = 2, STEPS = 200, AUX_K = 6 };

typedef struct family {
    const char *name;
    df_activation activation;
    df_code_norm norm;
    size_t prefixes, prefix[3];
    uint64_t resample;
    df_resample how;
    df_step_settings set;
} family;

#define ADAM                                                                                       \
    .lr = 3e-3, .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .aux_k = AUX_K, .dead_rows = 2000
#define L1(w) .objective = {.penalty = DF_PENALTY_L1, .weight = (w)}

static const family families[] = {
    {"nested_sum",
     DF_BATCHTOPK,
     DF_NORM_NONE,
     3,
     {12, 24, LATENTS},
     .set = {ADAM, .prefix_weight = 1}},
    {"nested_square",
     DF_BATCHTOPK,
     DF_NORM_NONE,
     3,
     {6, 20, LATENTS},
     .set = {ADAM, .prefix_weight = 1.0 / 9, .aux = 1.0 / 32, .clip = 0.1, .unit_decoder = true}},
    {"nested_bias",
     DF_TOPK,
     DF_NORM_SUM,
     3,
     {0, 16, LATENTS},
     .set = {ADAM, .prefix_weight = 1.0 / 3, L1(0.01)}},
    {"multi",
     DF_TOPK,
     DF_NORM_NONE,
     0,
     {0},
     .set = {ADAM, .objective = {.reconstruction = DF_FVU}, .multi = 0.125, .aux = 1.0 / 32,
             .aux_normaliser = DF_AUX_TARGET, .aux_bias = DF_AUX_BIAS_DECODE, .aux_scaled = true,
             .unit_decoder = true}},
    {"multi_fixed",
     DF_TOPK,
     DF_NORM_NONE,
     0,
     {0},
     .set = {ADAM, .objective = {.reconstruction = DF_FVU}, .multi = 0.125, .aux = 1.0 / 32,
             .aux_normaliser = DF_AUX_TARGET, .aux_bias = DF_AUX_BIAS_DECODE, .aux_scaled = true,
             .aux_decoder_only = true, .unit_decoder = true}},
    {"aux_plain",
     DF_TOPK,
     DF_NORM_SUM,
     0,
     {0},
     .set = {ADAM, .aux = 1, .aux_normaliser = DF_AUX_NONE, .aux_bias = DF_AUX_BIAS_DECODE,
             .aux_scaled = true, .clip = 1}},
    {"aux_raw",
     DF_TOPK,
     DF_NORM_SUM,
     0,
     {0},
     .set = {ADAM, .aux = 1, .aux_normaliser = DF_AUX_NONE, .aux_bias = DF_AUX_BIAS_DECODE,
             .aux_raw = true, .aux_scaled = true, .clip = 1}},
    {"aux_raw_few", DF_TOPK, DF_NORM_NONE, 0, {0}, .set = {ADAM, .aux = 0.1, .aux_raw = true}},
    {"openai",
     DF_TOPK,
     DF_NORM_NONE,
     0,
     {0},
     .set = {.lr = 3e-3,
             .beta1 = 0.9,
             .beta2 = 0.999,
             .epsilon = 6.25e-10,
             .aux_k = AUX_K,
             .dead_rows = 2000,
             .aux = 1.0 / 32,
             .aux_bias = DF_AUX_BIAS_BOTH,
             .unit_first = true,
             .fired_above = 1e-3,
             .ema = 0.99,
             .clip = 0.2}},
    {"attached",
     DF_TOPK,
     DF_NORM_NONE,
     0,
     {0},
     .set = {ADAM, .aux = 1.0 / 32, .aux_normaliser = DF_AUX_NONE, .aux_bias = DF_AUX_BIAS_DECODE,
             .aux_attached = true}},
    {"nested_attached",
     DF_BATCHTOPK,
     DF_NORM_NONE,
     2,
     {16, LATENTS},
     .set = {ADAM, .prefix_weight = 1, .aux = 0.1, .aux_normaliser = DF_AUX_TARGET,
             .aux_attached = true}},
    {"resample",
     DF_RELU,
     DF_NORM_NONE,
     0,
     {0},
     40,
     {600, 77, 0, 1, false, 0.2},
     .set = {.lr = 1e-3,
             .beta1 = 0.9,
             .beta2 = 0.999,
             .epsilon = 1e-8,
             .dead_rows = 600,
             L1(0.3),
             .unit_decoder = true}},
    {"resample_square",
     DF_TOPK,
     DF_NORM_NONE,
     0,
     {0},
     50,
     {800, 77, 0, 2, true, 0.05},
     .set = {.lr = 3e-3,
             .beta1 = 0.9,
             .beta2 = 0.999,
             .epsilon = 1e-8,
             .dead_rows = 800,
             .ema = 0.98}},
};
enum { FAMILIES = sizeof families / sizeof *families };

#endif
