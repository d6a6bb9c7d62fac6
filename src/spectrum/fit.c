/* How much of the residual is linear in x: fitted on training sums, tested on held-out sums. */
#include "parts.h"

/* ---- the fit -------------------------------------------------------------------------------- */

/* A distributed matrix from sums. `array` [d, d] is scratch. */
static df_status distribute(df_grid *grid, const df_sums *sums, df_product product, double *array,
                            df_matrix **out) {
    DF_TRY(df_matrix_new(grid, sums->width, sums->width, out));
    df_sums_scatter(sums, product, array);
    df_matrix_set(*out, array);
    return DF_OK;
}

static double mean_diagonal(const double *array, size_t d) {
    double trace = 0;
    for (size_t i = 0; i < d; i++) trace += array[i * d + i];
    return trace / (double)d;
}

/* What is left of sum e after W' sum x. sum [2, d] (of x, of e), out [d]. */
static void unexplained(const linear_fit *fit, size_t d, const double *sum, double *out) {
    for (size_t j = 0; j < d; j++) out[j] = sum[d + j];
    for (size_t i = 0; i < d; i++)
        for (size_t j = 0; j < d; j++) out[j] -= fit->w[i * d + j] * sum[i];
}

static df_status make_form(df_grid *grid, const df_matrix *w, double *array, linear_fit *out) {
    size_t d = df_matrix_rows(w);
    df_matrix *ww = NULL;
    df_status status;
    DF_GO(df_matrix_new(grid, d, d, &ww));
    DF_GO(df_matrix_multiply(DF_PLAIN, w, DF_TRANSPOSED, w, ww));
    DF_GO(df_matrix_collect(ww, -1, array));
    DF_GO(df_form_new(d, out->w, array, &out->form));
done:
    df_matrix_free(&ww);
    return status;
}

static df_status fit_room(size_t d, linear_fit *out, double **array) {
    DF_TRY(DF_NEW(*array, d * d));
    DF_TRY(DF_NEW(out->w, d * d));
    return DF_NEW(out->b, d);
}

df_status df_spectrum_fit(df_grid *grid, df_comm *comm, const df_sums *train, double ridge,
                          linear_fit *out) {
    size_t d = train->width;
    double *array = NULL;
    df_matrix *g = NULL, *w = NULL;
    df_status status;
    DF_GO(df_agree(comm, fit_room(d, out, &array)));
    DF_GO(distribute(grid, train, DF_XX, array, &g));
    out->ridge = ridge * mean_diagonal(array, d);
    DF_GO(distribute(grid, train, DF_XE, array, &w));
    DF_GO(df_solve_ridge(g, out->ridge, w, &out->rcond));
    DF_GO(df_matrix_collect(w, -1, out->w));
    DF_GO(df_agree(comm, make_form(grid, w, array, out)));
    unexplained(out, d, train->sum, out->b);
    for (size_t j = 0; j < d; j++) out->b[j] /= train->rows;
done:
    df_free(array);
    df_matrix_free(&g);
    df_matrix_free(&w);
    return status;
}

void df_spectrum_fit_free(linear_fit *fit) {
    df_free(fit->w);
    df_free(fit->b);
    df_free(fit->form);
    *fit = (linear_fit){0};
}

/* ---- the test ------------------------------------------------------------------------------- */

/* numerator / sum |a - mean a|^2 of sums laid out n, numerator, sum |a|^2, sum of a [d]. */
static double pooled_ratio(const double *sums, void *width) {
    size_t d = *(const size_t *)width;
    double total = sums[2];
    for (size_t j = 0; j < d; j++) total -= sums[3 + j] * sums[3 + j] / sums[0];
    return sums[1] / total;
}

/* Squared error of a bucket: its form, which leaves out the intercept, and what the intercept adds.
 */
static double bucket_error(const linear_fit *fit, const df_sums *s, size_t bucket,
                           double *scratch) {
    size_t d = s->width;
    double error = s->bucket[bucket].form;
    unexplained(fit, d, s->bucket_sum + bucket * 2 * d, scratch);
    for (size_t j = 0; j < d; j++)
        error += fit->b[j] * (s->bucket[bucket].rows * fit->b[j] - 2 * scratch[j]);
    return error;
}

/* rows [64, 3 + d] for the jackknife, of the linear error in e or of e in x. */
static void fill_buckets(const linear_fit *fit, const df_sums *s, bool linear, double *rows,
                         double *scratch) {
    size_t d = s->width;
    for (size_t b = 0; b < DF_BUCKETS; b++) {
        double *row = rows + b * (3 + d);
        const double *sum = s->bucket_sum + b * 2 * d + (linear ? d : 0);
        row[0] = s->bucket[b].rows;
        row[1] = linear ? bucket_error(fit, s, b, scratch) : s->bucket[b].e_square;
        row[2] = linear ? s->bucket[b].e_square : s->bucket[b].x_square;
        for (size_t j = 0; j < d; j++) row[3 + j] = sum[j];
    }
}

static df_status pooled(const linear_fit *fit, const df_sums *s, df_spectrum_result *result) {
    size_t d = s->width;
    double *rows = NULL, *scratch = NULL;
    df_estimate linear = {0}, fvu = {0};
    df_status status;
    DF_GO(DF_NEW(rows, DF_BUCKETS * (3 + d)));
    DF_GO(DF_NEW(scratch, d));
    fill_buckets(fit, s, true, rows, scratch);
    DF_GO(df_jackknife(rows, 3 + d, pooled_ratio, &d, &linear));
    fill_buckets(fit, s, false, rows, scratch);
    DF_GO(df_jackknife(rows, 3 + d, pooled_ratio, &d, &fvu));
    result->r2_pooled = 1 - linear.value;
    result->r2_error = linear.error;
    result->fvu = fvu.value;
    result->fvu_error = fvu.error;
done:
    df_free(rows);
    df_free(scratch);
    return status;
}

/* Mean over columns of 1 - SSE_j / SST_j, from G (x'x), GW and C (x'e): columns of e that do not
 * vary are left out. SSE_j = H_jj - 2 w_j'C_j + w_j'G w_j - 2 b_j s_j + n b_j^2. */
static double mean_over_columns(const linear_fit *fit, const df_sums *s, const double *gw,
                                const double *c, const double *h, const double *left) {
    size_t d = s->width, counted = 0;
    double sum = 0;
    for (size_t j = 0; j < d; j++) {
        double error = h[j * d + j] + fit->b[j] * (s->rows * fit->b[j] - 2 * left[j]);
        double total = h[j * d + j] - s->sum[d + j] * s->sum[d + j] / s->rows;
        for (size_t i = 0; i < d; i++)
            error += fit->w[i * d + j] * (gw[i * d + j] - 2 * c[i * d + j]);
        if (!(total > 0)) continue;
        sum += 1 - error / total;
        counted++;
    }
    return counted > 0 ? sum / (double)counted : 0;
}

/* gw [d, d] = G W on every rank; array [d, d] is scratch. */
static df_status multiply_gw(df_grid *grid, const linear_fit *fit, const df_sums *s, double *array,
                             double *gw) {
    size_t d = s->width;
    df_matrix *g = NULL, *w = NULL, *product = NULL;
    df_status status;
    DF_GO(df_matrix_new(grid, d, d, &g));
    DF_GO(df_matrix_new(grid, d, d, &w));
    DF_GO(df_matrix_new(grid, d, d, &product));
    df_sums_second(s, DF_XX, array);
    df_matrix_set(g, array);
    df_matrix_set(w, fit->w);
    DF_GO(df_matrix_multiply(DF_PLAIN, g, DF_PLAIN, w, product));
    DF_GO(df_matrix_collect(product, -1, gw));
done:
    df_matrix_free(&g);
    df_matrix_free(&w);
    df_matrix_free(&product);
    return status;
}

/* arrays [3 d d + d] is scratch. */
static df_status by_column(df_grid *grid, const linear_fit *fit, const df_sums *s, double *arrays,
                           df_spectrum_result *result) {
    size_t d = s->width;
    double *gw = arrays, *c = arrays + d * d, *h = c + d * d, *left = h + d * d;
    DF_TRY(multiply_gw(grid, fit, s, c, gw));
    df_sums_second(s, DF_XE, c);
    df_sums_second(s, DF_EE, h);
    unexplained(fit, d, s->sum, left);
    result->r2_mean = mean_over_columns(fit, s, gw, c, h, left);
    return DF_OK;
}

df_status df_spectrum_test(df_grid *grid, df_comm *comm, const linear_fit *fit,
                           const df_sums *heldout, df_spectrum_result *result) {
    size_t d = heldout->width;
    double *arrays = NULL;
    df_status status;
    DF_GO(df_agree(comm, DF_NEW(arrays, 3 * d * d + d)));
    DF_GO(df_agree(comm, pooled(fit, heldout, result)));
    DF_GO(by_column(grid, fit, heldout, arrays, result));
    result->ridge = fit->ridge;
    result->rcond = fit->rcond;
    result->rows_heldout = heldout->rows;
done:
    df_free(arrays);
    return status;
}
