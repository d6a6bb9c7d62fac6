/* The whole: two passes, a fit between them, three spectra per model. */
#include "parts.h"

#include <math.h>
#include <string.h>

static const df_product side_product[DF_SIDES] = {DF_EE, DF_XX, DF_HH};

/* ---- spectra -------------------------------------------------------------------------------- */

static void summarise(df_spectrum_result *r, df_spectrum_side side, double scale) {
    double sum = 0, squares = 0;
    for (size_t k = 0; k < r->width; k++) {
        r->values[side][k] /= scale * scale;
        sum += r->values[side][k];
        squares += r->values[side][k] * r->values[side][k];
    }
    r->trace[side] = sum;
    r->participation_ratio[side] = squares > 0 ? sum * sum / squares : 0;
}

static void transpose(double *array, size_t d) {
    for (size_t i = 0; i < d; i++)
        for (size_t j = 0; j < i; j++) {
            double swap = array[i * d + j];
            array[i * d + j] = array[j * d + i];
            array[j * d + i] = swap;
        }
}

/* Eigenvalues of one side, in units of x / scale; of the residual also the vectors, as rows on rank
 * 0. array [d, d] is scratch. */
static df_status one_side(df_grid *grid, const df_sums *all, df_spectrum_side side, double *array,
                          df_spectrum_result *r) {
    size_t d = all->width;
    df_matrix *covariance = NULL, *vectors = NULL;
    df_eigen_quality quality;
    df_status status;
    DF_GO(df_matrix_new(grid, d, d, &covariance));
    DF_GO(df_matrix_new(grid, d, d, &vectors));
    df_sums_covariance(all, side_product[side], array);
    df_matrix_set(covariance, array);
    DF_GO(df_eigen_symmetric(covariance, r->values[side], vectors, &quality));
    r->eigen_residual[side] = quality.residual;
    if (side == DF_SIDE_RESIDUAL) DF_GO(df_matrix_collect(vectors, 0, r->vectors));
    if (r->vectors != NULL && side == DF_SIDE_RESIDUAL) transpose(r->vectors, d);
done:
    df_matrix_free(&covariance);
    df_matrix_free(&vectors);
    return status;
}

/* tr cov(x, x_hat) / tr cov(x), with x_hat = x - e. array [d, d] is scratch. */
static double slope_of(const df_sums *all, double *array) {
    size_t d = all->width;
    double x = 0, xe = 0;
    df_sums_scatter(all, DF_XX, array);
    for (size_t i = 0; i < d; i++) x += array[i * d + i];
    df_sums_scatter(all, DF_XE, array);
    for (size_t i = 0; i < d; i++) xe += array[i * d + i];
    return x > 0 ? 1 - xe / x : 0;
}

static df_status spectra(df_comm *comm, df_grid *grid, const df_sums *all, double scale,
                         df_spectrum_result *r) {
    double *array = NULL;
    df_status status;
    DF_GO(df_agree(comm, DF_NEW(array, all->width * all->width)));
    r->slope = slope_of(all, array);
    for (int side = 0; side < DF_SIDES; side++) {
        DF_GO(one_side(grid, all, (df_spectrum_side)side, array, r));
        summarise(r, (df_spectrum_side)side, scale);
    }
done:
    df_free(array);
    return status;
}

/* ---- the work ------------------------------------------------------------------------------- */

/* Everything that lives while the spectra are made. */
typedef struct work {
    df_comm *comm;
    const df_spectrum_input *input;
    df_grid *grid;
    df_sums **sums[2]; // [models] each
    linear_fit *fit;   // [models]
    df_spectrum_result *result;
} work;

static df_status result_room(df_spectrum_result *r, size_t width, bool vectors) {
    r->width = width;
    for (int side = 0; side < DF_SIDES; side++) DF_TRY(DF_NEW(r->values[side], width));
    return vectors ? DF_NEW(r->vectors, width * width) : DF_OK;
}

static df_status make_room(work *w) {
    size_t models = w->input->models;
    for (int part = 0; part < 2; part++) DF_TRY(DF_NEW(w->sums[part], models));
    DF_TRY(DF_NEW(w->fit, models));
    DF_TRY(DF_NEW(w->result, models));
    for (size_t m = 0; m < models; m++)
        DF_TRY(result_room(&w->result[m], w->input->model[m].width, df_comm_rank(w->comm) == 0));
    return DF_OK;
}

static void free_work(work *w) {
    for (size_t m = 0; m < w->input->models; m++) {
        for (int part = 0; part < 2; part++)
            if (w->sums[part] != NULL) df_sums_free(&w->sums[part][m]);
        if (w->fit != NULL) df_spectrum_fit_free(&w->fit[m]);
    }
    df_free(w->sums[TRAINING]);
    df_free(w->sums[HELD_OUT]);
    df_free(w->fit);
    df_grid_free(&w->grid);
}

static df_status fit_models(work *w, double ridge) {
    df_timer_start("linear fit");
    df_status status = DF_OK;
    for (size_t m = 0; status == DF_OK && m < w->input->models; m++) {
        status = df_spectrum_fit(w->grid, w->comm, w->sums[TRAINING][m], ridge, &w->fit[m]);
        if (status != DF_OK)
            df_context("fitting the residual of model %s", w->input->model[m].name);
    }
    df_timer_stop("linear fit");
    return status;
}

static df_status finish_model(work *w, size_t m) {
    df_sums *train = w->sums[TRAINING][m], *heldout = w->sums[HELD_OUT][m];
    df_spectrum_result *r = &w->result[m];
    r->rows_train = train->rows;
    df_timer_start("linear fit");
    df_status status = df_spectrum_test(w->grid, w->comm, &w->fit[m], heldout, r);
    df_timer_stop("linear fit");
    DF_TRY(status);
    df_sums_add(train, heldout);
    df_timer_start("eigenvalues");
    status = spectra(w->comm, w->grid, train, w->input->model[m].scale, r);
    df_timer_stop("eigenvalues");
    return status;
}

static df_status compute(work *w, double ridge) {
    DF_TRY(df_agree(w->comm, make_room(w)));
    DF_TRY(df_grid_new(w->comm, &w->grid));
    DF_TRY(df_spectrum_pass(w->comm, w->input, TRAINING, NULL, w->sums[TRAINING]));
    DF_TRY(fit_models(w, ridge));
    DF_TRY(df_spectrum_pass(w->comm, w->input, HELD_OUT, w->fit, w->sums[HELD_OUT]));
    for (size_t m = 0; m < w->input->models; m++)
        DF_TRY_AS(finish_model(w, m), "making the spectra of model %s", w->input->model[m].name);
    return DF_OK;
}

static df_status check_model(const df_spectrum_input *in, size_t m) {
    const df_spectrum_model *model = &in->model[m];
    if (model->name[0] == '\0' || strchr(model->name, '/') != NULL)
        return df_fail(DF_FAILED, "'%s' cannot name a group of the result file", model->name);
    for (size_t other = 0; other < m; other++)
        if (strcmp(model->name, in->model[other].name) == 0)
            return df_fail(DF_FAILED, "two models are named '%s'", model->name);
    if (model->width == 0 || model->first > in->width || model->width > in->width - model->first)
        return df_fail(DF_FAILED, "model %s: columns %zu to %zu of %zu", model->name, model->first,
                       model->first + model->width, in->width);
    if (!(model->scale > 0) || !isfinite(model->scale))
        return df_fail(DF_FAILED, "model %s: scale %g", model->name, model->scale);
    return DF_OK;
}

static df_status check_input(const df_spectrum_input *in, double ridge) {
    for (int part = 0; part < 2; part++)
        if (in->n_rows[part] < 2)
            return df_fail(DF_BAD_INPUT, "%zu %s rows, expected at least 2: %s", in->n_rows[part],
                           part == TRAINING ? "training" : "held-out",
                           "harvest more documents, or hold out another share of them");
    if (!(ridge >= 0) || !isfinite(ridge))
        return df_fail(DF_USAGE, "ridge is %g, expected a finite number from 0 up", ridge);
    if (in->batch == 0) return df_fail(DF_FAILED, "a batch of 0 rows");
    for (size_t m = 0; m < in->models; m++) DF_TRY(check_model(in, m));
    return DF_OK;
}

df_status df_spectrum_compute(df_comm *comm, const df_spectrum_input *input, double ridge,
                              df_spectrum_result **out) {
    work w = {.comm = comm, .input = input};
    *out = NULL;
    DF_TRY(df_agree(comm, check_input(input, ridge)));
    df_status status = compute(&w, ridge);
    free_work(&w);
    *out = w.result;
    if (status != DF_OK) df_spectrum_free(out, input->models);
    return status;
}

void df_spectrum_free(df_spectrum_result **results, size_t models) {
    if (*results == NULL) return;
    for (size_t m = 0; m < models; m++) {
        for (int side = 0; side < DF_SIDES; side++) df_free((*results)[m].values[side]);
        df_free((*results)[m].vectors);
    }
    df_free(*results);
    *results = NULL;
}
