/* objective_cases.h: the cases of tests/golden/objective_oracle.py. */
#ifndef OBJECTIVE_CASES_H
#define OBJECTIVE_CASES_H

#include "golden.h"

#include "darkfield/dict.h"

#define LATENTS 32
#define WIDTH 12
#define ROWS 24
#define BATCHES 2
#define STEPS 200
#define WEIGHTS (LATENTS * WIDTH)
static const size_t uneven[] = {0, 7, WIDTH}, even[] = {0, 6, WIDTH};

/* ---- cases: CASES of the oracle ------------------------------------------------------------- */

typedef struct objective_case {
    const char *name;
    df_activation activation;
    df_code_norm norm;
    bool unit, no_subtract, adam_without_mean, slow; // slow: lr 0.001
    double aux;
    df_objective o;
    df_anneal_plan anneal;
    /* where finite differences hold: weights and biases; everything */
    bool smooth, smooth_all;
    size_t shared, dedicated; // latents bound to models; shared ones need sites of one width
} objective_case;

static inline const size_t *site_first(const objective_case *k) {
    return k->shared > 0 ? even : uneven;
}

#define L1(w) .penalty = DF_PENALTY_L1, .weight = (w)
#define TANH(w) .penalty = DF_PENALTY_TANH, .weight = (w), .tanh_scale = 4.0
#define LP(w, p) .penalty = DF_PENALTY_LP, .weight = (w), .power = (p)
#define L0(w) .penalty = DF_PENALTY_L0, .weight = (w)

static const objective_case cases[] = {
    {"l1_unit", .unit = true, .o = {L1(0.1)}, .smooth_all = true},
    {"l1_unsquared", .slow = true, .norm = DF_NORM_SUM, .no_subtract = true,
     .o = {L1(0.04), .reconstruction = DF_UNSQUARED}, .smooth_all = true},
    {"l1_mean", .norm = DF_NORM_ROOT, .o = {L1(0.05), .reconstruction = DF_SQUARED_MEAN},
     .smooth_all = true},
    {"l1_columns", .norm = DF_NORM_SUM, .o = {L1(0.004), .reconstruction = DF_SQUARED_COLUMNS},
     .smooth_all = true},
    {"l1_fvus", .norm = DF_NORM_SUM, .no_subtract = true,
     .o = {L1(0.05), .reconstruction = DF_FVU_SITES}, .smooth_all = true},
    {"tanh", .norm = DF_NORM_SUM, .o = {TANH(0.02)}, .smooth_all = true},
    {"lp_power", .slow = true, .norm = DF_NORM_SUM, .o = {LP(0.03, 0.8)}, .smooth_all = true},
    {"lp_root", .slow = true, .norm = DF_NORM_ROOT, .o = {LP(0.03, 0.85), .rooted = true},
     .smooth_all = true},
    {"anneal", .slow = true, .unit = true, .o = {LP(0.05, 1.0), .reconstruction = DF_UNSQUARED},
     .anneal = {40, 200, 1.0, 0.7, 5}, .smooth_all = true},
    {"jump_l0", DF_JUMPRELU, .o = {L0(0.02), .bandwidth = 0.1}},
    {"jump_target", DF_JUMPRELU, .unit = true, .no_subtract = true, .adam_without_mean = true,
     .o = {.penalty = DF_PENALTY_L0_TARGET,
           .weight = 0.5,
           .target_l0 = 5.0,
           .bandwidth = 0.1,
           .raw_threshold = true,
           .step_on_codes = true}},
    {"jump_all", DF_JUMPRELU, .norm = DF_NORM_SUM,
     .o = {TANH(0.02), .bandwidth = 0.6, .gradient_to_all = true, .preact = 0.003}},
    {"jump_l0_all", DF_JUMPRELU,
     .o = {L0(0.02), .bandwidth = 0.1, .gradient_to_all = true, .raw_threshold = true}},
    {"jump_dead", DF_JUMPRELU, .norm = DF_NORM_ROOT,
     .o = {TANH(0.02), .bandwidth = 0.1, .preact = 0.05, .preact_dead = true}, .smooth = true},
    {"jump_plain", DF_JUMPRELU, .norm = DF_NORM_SUM,
     .o = {L1(0.03), .bandwidth = 0.5, .plain_log = true, .positive_window = true}, .smooth = true},
    {"jump_aux", DF_JUMPRELU, .aux = 1.0 / 32, .o = {L0(0.02), .bandwidth = 0.1}},
    {"preact", .norm = DF_NORM_SUM, .o = {L1(0.05), .preact = 0.01}, .smooth_all = true},
    {"gated_frozen", DF_GATED, .unit = true, .adam_without_mean = true, .o = {L1(0.05)}},
    {"gated_trained", DF_GATED, .norm = DF_NORM_ROOT, .o = {L1(0.05), .gate_trains_decoder = true},
     .smooth_all = true},
    {"batch_unsquared", DF_BATCHTOPK, .norm = DF_NORM_SUM, .no_subtract = true, .aux = 1.0 / 32,
     .o = {.reconstruction = DF_UNSQUARED}},
    {"batch_fvus", DF_BATCHTOPK, .norm = DF_NORM_SUM, .aux = 1.0 / 32,
     .o = {.reconstruction = DF_FVU_SITES}},
    {"decoupled", DF_BATCHTOPK, .norm = DF_NORM_DECOUPLED, .no_subtract = true, .aux = 1.0 / 32,
     .o = {.reconstruction = DF_UNSQUARED}},
    {"decoupled_squared", DF_BATCHTOPK, .norm = DF_NORM_DECOUPLED},
    {"shared", .norm = DF_NORM_SUM, .no_subtract = true, .o = {L1(0.1), .shared_weight = 0.15},
     .shared = 12, .smooth_all = true},
    {"shared_tanh", DF_JUMPRELU, .norm = DF_NORM_SUM,
     .o = {TANH(0.02), .bandwidth = 0.6, .gradient_to_all = true, .preact = 0.003,
           .shared_weight = 0.2},
     .shared = 10},
    {"dedicated", DF_BATCHTOPK, .norm = DF_NORM_MIXED, .no_subtract = true, .aux = 1.0 / 32,
     .o = {.reconstruction = DF_UNSQUARED}, .dedicated = 7},
    {"bound_unit", .unit = true, .norm = DF_NORM_MIXED, .o = {L1(0.1), .shared_weight = 0.1},
     .shared = 9, .dedicated = 5, .smooth_all = true},
};
#define CASES (sizeof cases / sizeof *cases)

static inline bool raw(const objective_case *k) {
    return k->o.raw_threshold;
}

static inline bool near(const objective_case *k, const char *what, double found, double limit) {
    if (found <= limit) return true;
    print_error("%s: %s is off by %.3g\n", k->name, what, found);
    return false;
}

#endif
