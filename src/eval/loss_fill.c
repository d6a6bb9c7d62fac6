/* What each condition puts in the place of a site's rows. */
#include "loss_parts.h"

#include <math.h>
#include <string.h>

/* The rows of one written site in one window; x, values [rows, width]. */
typedef struct site_rows {
    const loss_site *site;
    const float *x;       // of the clean run
    const float *x_hat;   // [rows, out.count] in the dictionary's units
    size_t stride;        // of x_hat
    const uint8_t *used;  // [rows]
    size_t n, index;      // index: of the site among the written ones
    uint64_t first, seed; // first: the window's first row in the text
    float *values;
} site_rows;

static double error_at(const site_rows *r, size_t t, size_t c) {
    const loss_site *s = r->site;
    double x_hat = (double)r->x_hat[t * r->stride + s->out + c] / s->site->scale;
    return (double)r->x[t * s->width + c] - x_hat;
}

static double error_size(const site_rows *r, size_t t) {
    double square = 0.0;
    for (size_t c = 0; c < r->site->width; c++) square += error_at(r, t, c) * error_at(r, t, c);
    return sqrt(square);
}

/* ---- directions ----------------------------------------------------------------------------- */

// Where the random numbers of a row, a site and a null begin: 2^20 of them.
static uint64_t numbers_of(const site_rows *r, size_t t, size_t null) {
    return (((r->first + t) * DF_MAX_SITES + r->index) * DF_LOSS_CONDITIONS + null) << 20;
}

// A draw of N(0, L L') into u [width] by way of g [width]; L NULL: the identity.
static void draw(const site_rows *r, size_t t, size_t null, const double *root, double *g) {
    size_t width = r->site->width;
    double *u = g + width;
    uint64_t first = numbers_of(r, t, null);
    for (size_t c = 0; c < width; c++) g[c] = df_random_normal(r->seed, DF_STREAM_NULL, first + c);
    for (size_t i = 0; i < width; i++) {
        double sum = root == NULL ? g[i] : 0.0;
        for (size_t j = 0; root != NULL && j <= i; j++) sum += root[i * width + j] * g[j];
        u[i] = sum;
    }
}

// The error of another used row of the window into u; its own where there is no other.
static void other_error(const site_rows *r, size_t t, double *u) {
    size_t others = 0, chosen, row = t;
    for (size_t i = 0; i < r->n; i++) others += i != t && r->used[i];
    uint64_t number = numbers_of(r, t, DF_LOSS_OTHER_ERROR);
    chosen = (size_t)(df_random_uniform(r->seed, DF_STREAM_NULL, number) * (double)others);
    for (size_t i = 0; i < r->n && others > 0; i++) {
        if (i == t || !r->used[i]) continue;
        row = i;
        if (chosen-- == 0) break;
    }
    for (size_t c = 0; c < r->site->width; c++) u[c] = error_at(r, row, c);
}

// x + |e| u / |u|
static void step_along(const site_rows *r, size_t t, const double *u) {
    size_t width = r->site->width;
    double square = 0.0;
    for (size_t c = 0; c < width; c++) square += u[c] * u[c];
    double factor = square > 0.0 ? error_size(r, t) / sqrt(square) : 0.0;
    for (size_t c = 0; c < width; c++)
        r->values[t * width + c] = (float)((double)r->x[t * width + c] + factor * u[c]);
}

/* ---- all conditions ------------------------------------------------------------------------- */

static void fill_row(const site_rows *r, size_t t, df_loss_condition condition, double *scratch) {
    const loss_site *s = r->site;
    float *to = r->values + t * s->width;
    const float *x = r->x + t * s->width;
    switch (condition) {
    case DF_LOSS_SPLICED:
        for (size_t c = 0; c < s->width; c++)
            to[c] = (float)((double)r->x_hat[t * r->stride + s->out + c] / s->site->scale);
        return;
    case DF_LOSS_ZERO:
        memset(to, 0, s->width * sizeof *to);
        return;
    case DF_LOSS_MEAN:
        memcpy(to, s->mean, s->width * sizeof *to);
        return;
    case DF_LOSS_MINUS_ERROR:
        for (size_t c = 0; c < s->width; c++) to[c] = (float)((double)x[c] + error_at(r, t, c));
        return;
    case DF_LOSS_ISOTROPIC:
    case DF_LOSS_COVARIANCE_X:
    case DF_LOSS_COVARIANCE_E:
        draw(r, t, condition,
             condition == DF_LOSS_ISOTROPIC ? NULL : s->root[condition == DF_LOSS_COVARIANCE_E],
             scratch);
        break;
    case DF_LOSS_OTHER_ERROR:
        other_error(r, t, scratch + s->width);
        break;
    case DF_LOSS_CLEAN:
    case DF_LOSS_CONDITIONS:
        return;
    }
    step_along(r, t, scratch + s->width);
}

void df_loss_fill(const loss_plan *plan, loss_window *w, df_loss_condition condition, size_t s,
                  const float *x_hat) {
    const loss_site *site = &plan->written[s];
    const site_rows r = {.site = site,
                         .x = w->raw + plan->context * (size_t)site->site->first,
                         .x_hat = x_hat,
                         .stride = plan->dict->out.count,
                         .used = plan->input->text->changed + w->rows.first,
                         .n = w->rows.count,
                         .index = s,
                         .first = w->rows.first,
                         .seed = plan->input->seed,
                         .values = w->values + plan->context * site->out};
    for (size_t t = 0; t < r.n; t++)
        if (r.used[t]) fill_row(&r, t, condition, w->draw);
}

void df_loss_root(double *c, size_t n) {
    double largest = 0.0;
    for (size_t i = 0; i < n; i++)
        if (c[i * n + i] > largest) largest = c[i * n + i];
    for (size_t j = 0; j < n; j++) {
        double pivot = c[j * n + j];
        for (size_t k = 0; k < j; k++) pivot -= c[j * n + k] * c[j * n + k];
        double root = pivot > 1e-12 * largest ? sqrt(pivot) : 0.0;
        c[j * n + j] = root;
        for (size_t i = j + 1; i < n; i++) {
            double sum = c[i * n + j];
            for (size_t k = 0; k < j; k++) sum -= c[i * n + k] * c[j * n + k];
            c[i * n + j] = root > 0.0 ? sum / root : 0.0;
        }
    }
}
