/* What the loss evaluation leaves in the result file. */
#include "darkfield/loss.h"

#include <string.h>

/* The figures with their errors, then the curves. */
enum { FIGURES = 5, INTERVAL = 2 * FIGURES, CURVE = INTERVAL + 2 };
enum { COUNT = CURVE + DF_LOSS_QUANTITIES, LINEAR_R2 };

// The number of the model that written site s is of.
static int64_t model_of(const df_loss *loss, size_t s) {
    size_t m = 0;
    while (m + 1 < loss->models && strcmp(loss->name[m], df_dict_output(loss->dict, s)->model) != 0)
        m++;
    return (int64_t)m;
}

static df_status describe(df_file *file, const df_loss *loss) {
    char name[40];
    DF_TRY(df_file_int(file, "/loss", "models", (int64_t)loss->models));
    DF_TRY(df_file_int(file, "/loss", "conditions", (int64_t)loss->conditions));
    DF_TRY(df_file_int(file, "/loss", "windows", (int64_t)loss->windows));
    DF_TRY(df_file_int(file, "/loss", "documents", (int64_t)loss->documents));
    DF_TRY(df_file_int(file, "/loss", "scored", (int64_t)loss->scored));
    DF_TRY(df_file_int(file, "/loss", "changed", (int64_t)loss->changed));
    DF_TRY(df_file_int(file, "/loss", "linear_rows", (int64_t)loss->linear_rows));
    for (size_t s = 0; s < df_dict_outputs(loss->dict); s++) {
        snprintf(name, sizeof name, "linear_model%zu", s);
        DF_TRY(df_file_int(file, "/loss", name, model_of(loss, s)));
    }
    for (size_t m = 0; m < loss->models; m++) {
        snprintf(name, sizeof name, "model%zu", m);
        DF_TRY(df_file_text(file, "/loss", name, loss->name[m]));
    }
    for (size_t c = 0; c < loss->conditions; c++) {
        snprintf(name, sizeof name, "condition%zu", c);
        DF_TRY(df_file_text(file, "/loss", name, df_loss_name((df_loss_condition)c)));
    }
    return DF_OK;
}

static df_status declare(df_file *file, const df_dataset *sets, int n, int *id) {
    for (int i = 0; i < n; i++) DF_TRY(df_file_dataset(file, &sets[i], &id[i]));
    return DF_OK;
}

/* The figures and their errors, then the interval of the ratio. */
static df_status declare_figures(df_file *file, const df_loss *loss, int *id) {
    const uint64_t m = loss->models, c = loss->conditions;
    const char *both = "model, condition", *reference = "model, reference";
    const char *error = "its jackknife error over 64 runs of windows";
    const char *top1 = "share whose likeliest token is the clean one";
    const char *recovered = "share of the loss of zero, of mean ablation that is recovered";
    const char *low = "2.5 % point of the ratio over bootstrap samples of documents";
    const char *high = "97.5 % point of the ratio over bootstrap samples of documents";
    const df_dataset sets[CURVE] = {
        {"/loss/nll", DF_F64, 2, {m, c}, "nats", "mean loss per predicted token", both},
        {"/loss/nll_error", DF_F64, 2, {m, c}, "nats", error, both},
        {"/loss/kl", DF_F64, 2, {m, c}, "nats", "mean KL(clean || condition)", both},
        {"/loss/kl_error", DF_F64, 2, {m, c}, "nats", error, both},
        {"/loss/top1", DF_F64, 2, {m, c}, "1", top1, both},
        {"/loss/top1_error", DF_F64, 2, {m, c}, "1", error, both},
        {"/loss/recovered", DF_F64, 2, {m, 2}, "1", recovered, reference},
        {"/loss/recovered_error", DF_F64, 2, {m, 2}, "1", error, reference},
        {"/loss/kl_ratio", DF_F64, 2, {m, c}, "1", "KL of the splice over that of the null", both},
        {"/loss/kl_ratio_error", DF_F64, 2, {m, c}, "1", error, both},
        {"/loss/kl_ratio_low", DF_F64, 2, {m, c}, "1", low, both},
        {"/loss/kl_ratio_high", DF_F64, 2, {m, c}, "1", high, both}};
    return declare(file, sets, CURVE, id);
}

static df_status declare_curves(df_file *file, const df_loss *loss, int *id) {
    const uint64_t m = loss->models, c = loss->conditions, n = loss->context;
    const uint64_t sites = df_dict_outputs(loss->dict);
    const char *place = "model, condition, position", *site = "written site";
    const char *nll = "mean loss by place in the window", *kl = "mean KL by place in the window";
    const char *top1 = "agreement by place in the window";
    const char *r2 = "R2 of the error's linear part, fitted on the other half of the documents";
    const df_dataset sets[DF_LOSS_DATASETS - CURVE] = {
        {"/loss/by_position/nll", DF_F64, 3, {m, c, n}, "nats", nll, place},
        {"/loss/by_position/kl", DF_F64, 3, {m, c, n}, "nats", kl, place},
        {"/loss/by_position/top1", DF_F64, 3, {m, c, n}, "1", top1, place},
        {"/loss/by_position/count", DF_U64, 1, {n}, "tokens", "scored positions", "position"},
        {"/loss/linear_r2", DF_F64, 1, {sites}, "1", r2, site}};
    return declare(file, sets, DF_LOSS_DATASETS - CURVE, id);
}

df_status df_loss_declare(df_file *file, const df_loss *loss, int id[static DF_LOSS_DATASETS]) {
    DF_TRY(declare_figures(file, loss, id));
    DF_TRY(declare_curves(file, loss, id + CURVE));
    return describe(file, loss);
}

// Row m of figure number `f` (nll, kl, top1, recovered, kl_ratio) and of its errors.
static void row_of(const df_loss *loss, size_t m, size_t f, double *value, double *error) {
    size_t n = f == DF_LOSS_QUANTITIES ? 2 : loss->conditions;
    for (size_t i = 0; i < n; i++) {
        const df_estimate *e = f < DF_LOSS_QUANTITIES    ? &loss->figure[m][i][f]
                               : f == DF_LOSS_QUANTITIES ? &loss->recovered[m][i]
                                                         : &loss->kl_ratio[m][i];
        value[i] = e->value;
        error[i] = e->error;
    }
}

static df_status write_intervals(df_file *file, const df_loss *loss, size_t m, const int *id) {
    double low[DF_LOSS_CONDITIONS], high[DF_LOSS_CONDITIONS];
    for (size_t c = 0; c < loss->conditions; c++) {
        low[c] = loss->kl_interval[m][c].low;
        high[c] = loss->kl_interval[m][c].high;
    }
    DF_TRY(df_file_write(file, id[INTERVAL], m, 1, low));
    return df_file_write(file, id[INTERVAL + 1], m, 1, high);
}

// One quantity's curves, [models, conditions, context].
static df_status write_curve(df_file *file, const df_loss *loss, size_t quantity, int id) {
    size_t row = loss->conditions * loss->context;
    double *values;
    df_status status = DF_NEW(values, row);
    for (size_t m = 0; status == DF_OK && m < loss->models; m++) {
        for (size_t c = 0; c < loss->conditions; c++)
            memcpy(values + c * loss->context,
                   loss->curve +
                       ((m * loss->conditions + c) * DF_LOSS_QUANTITIES + quantity) * loss->context,
                   loss->context * sizeof *values);
        status = df_file_write(file, id, m, 1, values);
    }
    df_free(values);
    return status;
}

df_status df_loss_write(df_file *file, const df_loss *loss, const int id[static DF_LOSS_DATASETS]) {
    double value[DF_LOSS_CONDITIONS], error[DF_LOSS_CONDITIONS];
    for (size_t m = 0; m < loss->models; m++) {
        for (size_t f = 0; f < FIGURES; f++) {
            row_of(loss, m, f, value, error);
            DF_TRY(df_file_write(file, id[2 * f], m, 1, value));
            DF_TRY(df_file_write(file, id[2 * f + 1], m, 1, error));
        }
        DF_TRY(write_intervals(file, loss, m, id));
    }
    for (size_t q = 0; q < DF_LOSS_QUANTITIES; q++)
        DF_TRY(write_curve(file, loss, q, id[CURVE + q]));
    DF_TRY(df_file_write(file, id[COUNT], 0, loss->context, loss->count));
    return df_file_write(file, id[LINEAR_R2], 0, df_dict_outputs(loss->dict), loss->linear_r2);
}
