/* Where the schedules of a training run stand at a step: pure functions of the options. */
#include "train_internal.h"

#include <math.h>

#define PI 3.14159265358979323846

static double smaller(double a, double b) {
    return a < b ? a : b;
}

/* The factor of a linear rise over `rise` steps; 1 afterwards. */
static double warm(df_warmup law, uint64_t step, uint64_t rise) {
    double t = (double)step, n = (double)rise;
    if (rise == 0) return 1.0;
    switch (law) {
    case DF_WARMUP_ZERO:
        return smaller(t / n, 1.0);
    case DF_WARMUP_TORCH:
        return smaller(1.0 / n + (1.0 - 1.0 / n) * t / n, 1.0);
    case DF_WARMUP_ONE:
        break;
    }
    return smaller((t + 1.0) / n, 1.0);
}

/* The factor of the fall from 1 to `end` over the last `decay` steps. */
static double fall(const df_train_options *o, uint64_t step) {
    uint64_t left = o->steps - step;
    if (left >= o->decay) return 1.0;
    double share = (double)left / (double)o->decay;
    if (o->cosine) share = 0.5 * (1.0 - cos(PI * share));
    return o->lr_end + (1.0 - o->lr_end) * share;
}

double schedule_rate(const df_train_options *o, uint64_t step) {
    uint64_t since = o->rewarm && o->resample > 0 ? step % o->resample : step;
    return o->lr * smaller(warm(o->warmup_law, since, o->warmup), fall(o, step));
}

double schedule_penalty(const df_train_options *o, uint64_t step) {
    return warm(o->warmup_law, step, o->penalty_warmup);
}

size_t schedule_k(const df_train_options *o, uint64_t step) {
    if (o->k_start == 0 || step >= o->k_steps) return o->k;
    double ratio = (double)step / (double)o->k_steps;
    if (o->k_curve > 0.0) ratio = (1.0 - exp(-o->k_curve * ratio)) / (1.0 - exp(-o->k_curve));
    double start = (double)o->k_start, end = (double)o->k;
    // In the order of operations of who rounds so: it decides which numbers are whole.
    double now =
        o->k_round == DF_K_UP ? start + (end - start) * ratio : start * (1.0 - ratio) + end * ratio;
    return (size_t)(o->k_round == DF_K_UP        ? ceil(now)
                    : o->k_round == DF_K_NEAREST ? rint(now)
                                                 : floor(now));
}

size_t schedule_largest_k(const df_train_options *o) {
    return o->k_start > o->k ? o->k_start : o->k;
}
