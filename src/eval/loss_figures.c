/* From sums over buckets of windows to figures with errors. */
#include "loss_parts.h"

#include <math.h>

/* A ratio of two differences of lines of sums: (a - b) / (c - d); a line of SIZE_MAX is zero. */
typedef struct lines {
    size_t a, b, c, d;
} lines;

static double line(const double *sums, size_t i) {
    return i == SIZE_MAX ? 0.0 : sums[i];
}

static double ratio(const double *sums, void *context) {
    const lines *l = context;
    return (line(sums, l->a) - line(sums, l->b)) / (line(sums, l->c) - line(sums, l->d));
}

static size_t line_of(const df_loss *loss, size_t model, size_t condition, size_t quantity) {
    return 1 + (model * loss->conditions + condition) * DF_LOSS_QUANTITIES + quantity;
}

static df_status estimate(const double *buckets, const df_loss *loss, lines l, df_estimate *out) {
    size_t width = 1 + loss->models * loss->conditions * DF_LOSS_QUANTITIES;
    return df_jackknife(buckets, width, ratio, &l, out);
}

static const df_estimate none = {(double)NAN, (double)NAN};

static df_status model_figures(const double *buckets, size_t m, df_loss *out) {
    size_t clean = line_of(out, m, DF_LOSS_CLEAN, DF_LOSS_NLL);
    size_t spliced = line_of(out, m, DF_LOSS_SPLICED, DF_LOSS_NLL);
    size_t kl = line_of(out, m, DF_LOSS_SPLICED, DF_LOSS_KL);
    for (size_t c = 0; c < DF_LOSS_CONDITIONS; c++) {
        bool ran = c < out->conditions, null = ran && c >= DF_LOSS_ISOTROPIC;
        for (size_t q = 0; q < DF_LOSS_QUANTITIES; q++) {
            lines mean = {line_of(out, m, c, q), SIZE_MAX, 0, SIZE_MAX};
            out->figure[m][c][q] = none;
            if (ran) DF_TRY(estimate(buckets, out, mean, &out->figure[m][c][q]));
        }
        lines over = {kl, SIZE_MAX, line_of(out, m, c, DF_LOSS_KL), SIZE_MAX};
        out->kl_ratio[m][c] = none;
        if (null) DF_TRY(estimate(buckets, out, over, &out->kl_ratio[m][c]));
    }
    for (size_t i = 0; i < 2; i++) {
        size_t worst = line_of(out, m, DF_LOSS_ZERO + i, DF_LOSS_NLL);
        DF_TRY(
            estimate(buckets, out, (lines){worst, spliced, worst, clean}, &out->recovered[m][i]));
    }
    return DF_OK;
}

df_status df_loss_figures(const double *buckets, df_loss *out) {
    for (size_t m = 0; m < out->models; m++) DF_TRY(model_figures(buckets, m, out));
    return DF_OK;
}

df_loss df_loss_outline(const df_dict *dict, const df_loss_input *input) {
    df_loss out = {.models = input->models,
                   .conditions = !input->nulls        ? DF_LOSS_ISOTROPIC
                                 : input->same_cosine ? DF_LOSS_CONDITIONS
                                                      : DF_LOSS_SAME_COSINE,
                   .context = input->text->context,
                   .windows = input->text->windows,
                   .documents = input->text->documents,
                   .dict = dict};
    for (size_t s = 0; s < DF_MAX_SITES; s++) out.linear_r2[s] = (double)NAN;
    for (size_t m = 0; m < input->models; m++) out.name[m] = input->name[m];
    return out;
}

const char *df_loss_name(df_loss_condition condition) {
    static const char *const names[DF_LOSS_CONDITIONS] = {"clean",
                                                          "spliced",
                                                          "zero",
                                                          "mean",
                                                          "isotropic",
                                                          "covariance_x",
                                                          "covariance_e",
                                                          "other_error",
                                                          "minus_error",
                                                          "linear",
                                                          "nonlinear",
                                                          "cosine_isotropic",
                                                          "cosine_covariance_x",
                                                          "cosine_covariance_e",
                                                          "cosine_other_error",
                                                          "cosine_minus_error",
                                                          "cosine_linear",
                                                          "cosine_nonlinear"};
    return condition < DF_LOSS_CONDITIONS ? names[condition] : "?";
}
