/* What a training run will need, and where its schedules stand. */
#include "train_internal.h"

/* A file being written: the buffer of one checksum block, and the description of its objects. */
enum { FILE_BYTES = (1 << 20) + (32 << 10) };

size_t history_rows(const df_train_options *options) {
    uint64_t every = options->log_every > 0 ? options->log_every : 1;
    return (size_t)(options->steps / every) + 1;
}

size_t df_train_plan_bytes(const df_train_options *options, size_t width, size_t n_sites,
                           uint64_t rows, int size) {
    df_range mine = df_dict_share(options->latents, size, 0);
    df_dict_site sites[TRAIN_MAX_SITES] = {
        0}; // even widths: the plan depends on their number alone
    for (size_t i = 0; i < n_sites && i < TRAIN_MAX_SITES; i++)
        sites[i] = (df_dict_site){.first = i * (width / n_sites), .width = width / n_sites};
    const df_dict shape = {.latents = options->latents,
                           .width = width,
                           .mine = mine,
                           .activation = options->activation,
                           .code_norm = options->code_norm,
                           .k = options->k,
                           .subtract_bias = options->subtract_bias,
                           .sites = n_sites,
                           .site = sites};
    size_t weights = (2 * mine.count * width + mine.count + width) * sizeof(float);
    size_t history = history_rows(options) * history_columns(n_sites) * sizeof(double);
    return (size_t)rows * sizeof(uint64_t) + weights + history + FILE_BYTES +
           loader_plan_bytes(options->batch, width, size) +
           df_coder_plan_bytes(&shape, options->batch, size, true);
}

/* Linear from 0 over `rise` steps, and linear to 0 over the last `fall` of `steps`. */
static double trapezium(uint64_t step, uint64_t rise, uint64_t fall, uint64_t steps) {
    double factor = 1;
    if (step + 1 < rise) factor = (double)(step + 1) / (double)rise;
    uint64_t left = steps - step;
    if (left < fall && (double)left / (double)fall < factor) factor = (double)left / (double)fall;
    return factor;
}

static size_t auxiliary_latents(const df_train_options *options, const train_data *data) {
    size_t half = data->width / data->n_sites / 2;
    if (options->aux_k > 0) return options->aux_k;
    return half > 0 ? half : 1;
}

df_step_settings step_settings(const df_train_options *options, const train_data *data,
                               uint64_t step) {
    // A short run must have found its threshold too: the average begins half-way at the latest.
    uint64_t half = options->steps / 2;
    uint64_t start = options->threshold_start < half ? options->threshold_start : half;
    return (df_step_settings){
        .lr = options->lr * trapezium(step, options->warmup, options->decay, options->steps),
        .beta1 = options->beta1,
        .beta2 = options->beta2,
        .epsilon = options->epsilon,
        .l1 = options->l1 * trapezium(step, options->l1_warmup, 0, options->steps),
        .aux = options->aux,
        .aux_k = auxiliary_latents(options, data),
        .dead_rows = options->dead_rows,
        .unit_decoder = options->unit_decoder,
        .threshold_rate = step >= start ? options->threshold_rate : 0};
}
