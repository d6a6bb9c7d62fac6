/* What each condition puts in the place of a site's rows. */
#include "loss_parts.h"

#include <math.h>
#include <string.h>

/* The rows of one written site in one window; x, values [rows, width]. */
typedef struct site_rows {
    const loss_site *site;
    const float *x;       // of the clean run
    const float *x_hat;   // [rows, out.count] in the model's units, as x is
    size_t stride;        // of x_hat
    const uint8_t *used;  // [rows]
    const uint8_t *half;  // [rows]
    size_t n, index;      // index: of the site among the written ones
    uint64_t first, seed; // first: the window's first row in the text
    float *values;
    double *kept[KEPT_DIRECTIONS]; // [rows, width] each; with nulls
} site_rows;

static double error_at(const site_rows *r, size_t t, size_t c) {
    const loss_site *s = r->site;
    return (double)r->x[t * s->width + c] - (double)r->x_hat[t * r->stride + s->out + c];
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

// Minus the part l of the error that is linear in x into u.
static void linear_part(const site_rows *r, size_t t, double *u) {
    size_t width = r->site->width;
    const loss_linear *linear = &r->site->linear[r->half[t]];
    const float *x = r->x + t * width;
    for (size_t c = 0; c < width; c++) u[c] = -linear->b[c];
    for (size_t i = 0; i < width; i++)
        for (size_t c = 0; c < width; c++) u[c] -= linear->w[i * width + c] * (double)x[i];
}

static double *kept_row(const site_rows *r, size_t t, loss_kept which) {
    return r->kept[which] + t * r->site->width;
}

static void keep_row(const site_rows *r, size_t t, double *scratch) {
    size_t width = r->site->width;
    for (int e = 0; e < 2; e++) {
        draw(r, t, DF_LOSS_COVARIANCE_X + (size_t)e, r->site->root[e], scratch);
        memcpy(kept_row(r, t, (loss_kept)(KEPT_COVARIANCE_X + e)), scratch + width,
               width * sizeof *scratch);
    }
    linear_part(r, t, kept_row(r, t, KEPT_LINEAR));
}

// The direction of a null into u; scratch [2, width], u its second half.
static void find_direction(const site_rows *r, size_t t, df_loss_condition null, double *scratch) {
    size_t width = r->site->width;
    double *u = scratch + width;
    switch (null) {
    case DF_LOSS_ISOTROPIC:
        draw(r, t, null, NULL, scratch);
        return;
    case DF_LOSS_COVARIANCE_X:
        memcpy(u, kept_row(r, t, KEPT_COVARIANCE_X), width * sizeof *u);
        return;
    case DF_LOSS_COVARIANCE_E:
        memcpy(u, kept_row(r, t, KEPT_COVARIANCE_E), width * sizeof *u);
        return;
    case DF_LOSS_OTHER_ERROR:
        other_error(r, t, u);
        return;
    case DF_LOSS_MINUS_ERROR:
        for (size_t c = 0; c < width; c++) u[c] = error_at(r, t, c);
        return;
    case DF_LOSS_LINEAR:
        memcpy(u, kept_row(r, t, KEPT_LINEAR), width * sizeof *u);
        return;
    default:
        for (size_t c = 0; c < width; c++)
            u[c] = -error_at(r, t, c) - kept_row(r, t, KEPT_LINEAR)[c];
    }
}

/* ---- steps ---------------------------------------------------------------------------------- */

static double product(const double *a, const double *b, size_t n) {
    double sum = 0.0;
    for (size_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

// x + |e| u / |u|
static void step_along(const site_rows *r, size_t t, const double *u) {
    size_t width = r->site->width;
    double square = product(u, u, width);
    double factor = square > 0.0 ? error_size(r, t) / sqrt(square) : 0.0;
    for (size_t c = 0; c < width; c++)
        r->values[t * width + c] = (float)((double)r->x[t * width + c] + factor * u[c]);
}

// As far from x as x^ is and at the same angle: -e has a part a x along x; the rest goes along u
// without its own part along x. scratch [2, width], u its second half; the first is overwritten.
static void step_at_cosine(const site_rows *r, size_t t, double *scratch) {
    size_t width = r->site->width;
    double *x = scratch, *u = scratch + width, along = 0.0, e = error_size(r, t);
    for (size_t c = 0; c < width; c++) {
        x[c] = (double)r->x[t * width + c];
        along -= error_at(r, t, c) * x[c];
    }
    double square = product(x, x, width), before = product(u, u, width);
    double a = square > 0.0 ? along / square : 0.0;
    double shared = square > 0.0 ? product(u, x, width) / square : 0.0;
    for (size_t c = 0; c < width; c++) u[c] -= shared * x[c];
    double left = product(u, u, width), rest = e * e - a * a * square;
    bool some = left > 1e-24 * before && rest > 0.0; // below: what rounding leaves of nothing
    double factor = some ? sqrt(rest / left) : 0.0;
    for (size_t c = 0; c < width; c++)
        r->values[t * width + c] = (float)(x[c] + a * x[c] + factor * u[c]);
}

/* ---- all conditions ------------------------------------------------------------------------- */

static void fill_null(const site_rows *r, size_t t, df_loss_condition condition, double *scratch) {
    bool turned = condition >= DF_LOSS_SAME_COSINE;
    size_t null = turned ? condition - DF_LOSS_SAME_COSINE + DF_LOSS_ISOTROPIC : condition;
    find_direction(r, t, (df_loss_condition)null, scratch);
    if (turned)
        step_at_cosine(r, t, scratch);
    else
        step_along(r, t, scratch + r->site->width);
}

static void fill_row(const site_rows *r, size_t t, df_loss_condition condition, double *scratch) {
    const loss_site *s = r->site;
    float *to = r->values + t * s->width;
    switch (condition) {
    case DF_LOSS_CLEAN:
        return;
    case DF_LOSS_SPLICED:
        memcpy(to, r->x_hat + t * r->stride + s->out, s->width * sizeof *to);
        return;
    case DF_LOSS_ZERO:
        memset(to, 0, s->width * sizeof *to);
        return;
    case DF_LOSS_MEAN:
        memcpy(to, s->mean, s->width * sizeof *to);
        return;
    default:
        fill_null(r, t, condition, scratch);
    }
}

static site_rows rows_of(const loss_plan *plan, const loss_window *w, size_t s,
                         const float *x_hat) {
    const loss_site *site = &plan->written[s];
    site_rows r = {.site = site,
                   .x = w->raw + plan->context * (size_t)site->site->first,
                   .x_hat = x_hat,
                   .stride = plan->dict->out.count,
                   .used = plan->input->text->changed + w->rows.first,
                   .half = plan->half + w->rows.first,
                   .n = w->rows.count,
                   .index = s,
                   .first = w->rows.first,
                   .seed = plan->input->seed,
                   .values = w->values + plan->context * site->out};
    for (size_t k = 0; w->kept != NULL && k < KEPT_DIRECTIONS; k++)
        r.kept[k] = w->kept + plan->context * (k * plan->dict->out.count + site->out);
    return r;
}

void df_loss_keep(const loss_plan *plan, loss_window *w, size_t s, const float *x_hat) {
    const site_rows r = rows_of(plan, w, s, x_hat);
    for (size_t t = 0; t < r.n; t++)
        if (r.used[t]) keep_row(&r, t, w->draw);
}

void df_loss_fill(const loss_plan *plan, loss_window *w, df_loss_condition condition, size_t s,
                  const float *x_hat) {
    const site_rows r = rows_of(plan, w, s, x_hat);
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
#pragma omp parallel for schedule(static) if (j > 256)
        for (size_t i = j + 1; i < n; i++) {
            double sum = c[i * n + j];
            for (size_t k = 0; k < j; k++) sum -= c[i * n + k] * c[j * n + k];
            c[i * n + j] = root > 0.0 ? sum / root : 0.0;
        }
    }
}
