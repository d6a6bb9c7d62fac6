/* What the loss evaluation will need: the sizes that loss.c allocates. */
#include "loss_parts.h"

#include <string.h>

static uint64_t larger(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}

typedef struct loss_sizes {
    const df_dict *dict;
    const df_loss_input *input;
    const df_model_shape *const *shape;
    uint64_t context, models, slots, sums; // sums: numbers of a window
    uint64_t widest, written, vocabulary;
} loss_sizes;

static loss_sizes measure(const df_dict_plan *plan, const df_loss_input *input, size_t slots,
                          const df_model_shape *const *shape) {
    size_t conditions = df_loss_outline(plan->dict, input).conditions;
    loss_sizes z = {.dict = plan->dict,
                    .input = input,
                    .shape = shape,
                    .context = input->text->context,
                    .models = input->models,
                    .slots = slots,
                    .written = df_dict_outputs(plan->dict)};
    z.sums = z.models * conditions * DF_LOSS_QUANTITIES * z.context;
    for (size_t s = 0; s < z.written; s++)
        if (df_dict_output(plan->dict, s)->width > z.widest)
            z.widest = df_dict_output(plan->dict, s)->width;
    for (size_t m = 0; m < z.models; m++)
        if (shape[m]->vocabulary > z.vocabulary) z.vocabulary = shape[m]->vocabulary;
    return z;
}

static uint64_t forward_bytes(const loss_sizes *z, size_t model) {
    const char *site[DF_MAX_SITES];
    size_t n = 0;
    for (size_t s = 0; s < z->dict->sites; s++)
        if (strcmp(z->dict->site[s].model, z->input->name[model]) == 0)
            site[n++] = z->dict->site[s].name;
    return df_forward_bytes(z->shape[model], z->context, site, n) +
           z->context * z->shape[model]->vocabulary * sizeof(float);
}

static uint64_t window_bytes(const loss_sizes *z) {
    uint64_t floats = z->context * (z->dict->width + z->dict->out.count + z->vocabulary);
    uint64_t doubles = 2 * z->context + 2 * z->models * z->context + 2 * z->widest + z->sums;
    if (z->input->nulls) doubles += KEPT_DIRECTIONS * z->context * z->dict->out.count;
    uint64_t bytes = sizeof(loss_window) + floats * sizeof(float) + doubles * sizeof(double) +
                     z->models * z->context * sizeof(uint32_t) +
                     z->written * (sizeof(loss_splice) + sizeof(df_intervention));
    for (size_t m = 0; m < z->models; m++) bytes += forward_bytes(z, m);
    return bytes;
}

static uint64_t site_bytes(const df_dict_site *site, bool nulls) {
    uint64_t maps = 4 * site->width * site->width + 2 * site->width;
    return sizeof(loss_site) + 2 * sizeof(df_moments *) + site->width * sizeof(float) +
           (nulls ? maps * sizeof(double) : 0);
}

// While covariances and linear maps are made, site after site: one half's sums are joined, then the
// other's, then both are there.
static uint64_t moments_bytes(const loss_sizes *z, int size) {
    uint64_t now = 0, most = 0;
    for (size_t s = 0; s < z->written; s++)
        now += 2 * df_moments_plan((size_t)df_dict_output(z->dict, s)->width, size).open;
    most = now;
    for (size_t s = 0; s < z->written; s++) {
        size_t width = (size_t)df_dict_output(z->dict, s)->width;
        df_moments_need need = df_moments_plan(width, size);
        uint64_t first = now - need.block + need.sums + need.join;
        uint64_t second = first - (need.open - need.block) - need.block + need.sums;
        now -= 2 * need.open;
        uint64_t fit = now + 2 * need.sums + (width + 1) * width * sizeof(double);
        most = larger(most, larger(first, larger(second, fit)));
    }
    return most;
}

// While the figures are made, then the intervals.
static uint64_t figures_bytes(const loss_sizes *z, int size, size_t buckets) {
    const df_loss_text *text = z->input->text;
    uint64_t stride = 1 + z->sums / z->context, lines = z->sums / z->context / DF_LOSS_QUANTITIES;
    uint64_t kept =
        (DF_BUCKETS * stride + z->sums) * sizeof(double) + z->context * sizeof(uint64_t);
    uint64_t figures = buckets * DF_BUCKETS * stride * sizeof(double) +
                       df_tree_bytes(size, 0, DF_BUCKETS, DF_BUCKETS * stride);
    uint64_t pieces = df_loss_pieces(text, 0, text->windows);
    uint64_t samples = text->documents > 1 ? DF_RESAMPLES * (lines + 1) : 0;
    uint64_t intervals =
        (pieces * lines + samples) * sizeof(double) + (size_t)size * sizeof(size_t);
    return kept + larger(figures, z->input->nulls ? intervals : 0);
}

// KL by document of the windows of rank 0.
static uint64_t pieces_bytes(const loss_sizes *z, size_t buckets) {
    const df_loss_text *text = z->input->text;
    if (!z->input->nulls) return 0;
    return df_loss_pieces(text, 0, df_loss_bucket(text, buckets)) *
           (z->sums / z->context / DF_LOSS_QUANTITIES) * sizeof(double);
}

uint64_t df_loss_bytes(const df_dict_plan *plan, const df_loss_input *input, size_t threads,
                       const df_model_shape *const *shape) {
    const loss_sizes z = measure(plan, input, threads, shape);
    size_t buckets = df_share(DF_BUCKETS, plan->size, 0).count, rows = threads * z.context;
    uint64_t kept = z.slots * window_bytes(&z) + z.context * 2 * z.widest * sizeof(float) +
                    rows * (z.dict->width + z.dict->out.count) * sizeof(float) +
                    (buckets * z.sums + DF_BUCKETS * (1 + z.dict->out.count)) * sizeof(double) +
                    input->text->window[input->text->windows] + pieces_bytes(&z, buckets);
    for (size_t s = 0; s < z.written; s++)
        kept += site_bytes(df_dict_output(z.dict, s), input->nulls);
    kept += df_coder_plan_bytes(z.dict, plan->screen, rows * (size_t)plan->size, plan->size, false);
    uint64_t first = input->nulls ? moments_bytes(&z, plan->size) : 0;
    uint64_t last = figures_bytes(&z, plan->size, buckets);
    return kept + larger(first, last);
}
