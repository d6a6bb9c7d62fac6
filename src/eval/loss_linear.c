/* The part of a dictionary's error that is linear in x, fitted on other rows than it is used for.
 * What is written from it must not depend on the number of ranks, so every rank solves the same
 * system by itself, in one fixed order of operations. */
#include "loss_parts.h"

enum { PANEL = 64 }; // columns solved at a time
enum { FEWEST = 2 }; // rows of a half

/* ---- the halves of the text ----------------------------------------------------------------- */

// Of two neighbours one is in each half; which one is drawn.
static uint8_t half_of(uint64_t seed, uint64_t unit) {
    return (uint8_t)((unit ^ df_random_bits(seed, DF_STREAM_HALVES, unit / 2)) & 1);
}

// Runs of rows that stay together.
typedef struct loss_units {
    const uint64_t *first; // [n + 1]
    uint64_t n;
} loss_units;

// Changed rows of the smaller half.
static uint64_t smaller_half(const df_loss_text *text, uint64_t seed, loss_units units) {
    uint64_t rows[2] = {0, 0};
    for (uint64_t u = 0; u < units.n; u++)
        for (uint64_t r = units.first[u]; r < units.first[u + 1]; r++)
            rows[half_of(seed, u)] += text->changed[r];
    return rows[0] < rows[1] ? rows[0] : rows[1];
}

static loss_units units_of(const df_loss_text *text, uint64_t seed) {
    const loss_units documents = {text->document, text->documents};
    if (smaller_half(text, seed, documents) >= FEWEST) return documents;
    return (loss_units){text->window, text->windows};
}

void df_loss_halves(const df_loss_text *text, uint64_t seed, uint8_t *half) {
    const loss_units units = units_of(text, seed);
    for (uint64_t u = 0; u < units.n; u++)
        for (uint64_t r = units.first[u]; r < units.first[u + 1]; r++) half[r] = half_of(seed, u);
}

df_status df_loss_half_rows(const df_loss_text *text, uint64_t seed, uint64_t *out) {
    *out = smaller_half(text, seed, units_of(text, seed));
    if (*out >= FEWEST) return DF_OK;
    return df_fail(DF_BAD_INPUT,
                   "the held-out text has %llu rows to change in one half, expected at least %d to "
                   "fit the linear part of the error: hold out more documents, run more windows, "
                   "or set evaluate.loss_nulls to false",
                   (unsigned long long)*out, FEWEST);
}

/* ---- the fit -------------------------------------------------------------------------------- */

// Columns [first, end) of b become those of (L L')^-1 b; b [n, n]. Directions without variance are
// left at zero.
static void solve_panel(const double *l, size_t n, double *b, df_range columns) {
    size_t first = columns.first, end = columns.first + columns.count;
    for (size_t i = 0; i < n; i++) {
        double inverse = l[i * n + i] > 0.0 ? 1.0 / l[i * n + i] : 0.0;
        for (size_t k = 0; k < i; k++)
            for (size_t c = first; c < end; c++) b[i * n + c] -= l[i * n + k] * b[k * n + c];
        for (size_t c = first; c < end; c++) b[i * n + c] *= inverse;
    }
    for (size_t i = n; i-- > 0;) {
        double inverse = l[i * n + i] > 0.0 ? 1.0 / l[i * n + i] : 0.0;
        for (size_t c = first; c < end; c++) b[i * n + c] *= inverse;
        for (size_t k = 0; k < i; k++)
            for (size_t c = first; c < end; c++) b[k * n + c] -= l[i * n + k] * b[i * n + c];
    }
}

static void solve(const double *l, size_t n, double *b) {
#pragma omp parallel for schedule(dynamic)
    for (size_t first = 0; first < n; first += PANEL)
        solve_panel(l, n, b, (df_range){first, n - first < PANEL ? n - first : PANEL});
}

void df_loss_fit(const df_sums *sums, double ridge, double *scratch, loss_linear *out) {
    size_t d = sums->width;
    double trace = 0.0;
    df_sums_scatter(sums, DF_XX, scratch);
    for (size_t i = 0; i < d; i++) trace += scratch[i * d + i];
    for (size_t i = 0; i < d; i++) scratch[i * d + i] += ridge * trace / (double)d;
    df_loss_root(scratch, d);
    df_sums_scatter(sums, DF_XE, out->w);
    solve(scratch, d, out->w);
    for (size_t c = 0; c < d; c++) out->b[c] = sums->sum[d + c];
    for (size_t i = 0; i < d; i++)
        for (size_t c = 0; c < d; c++) out->b[c] -= out->w[i * d + c] * sums->sum[i];
    for (size_t c = 0; c < d; c++) out->b[c] /= sums->rows;
}

/* ---- how well it holds ---------------------------------------------------------------------- */

// The diagonal of W'SW into left, for columns of W [n, n]; S symmetric.
static void square_panel(const double *s, const double *w, size_t n, df_range columns,
                         double *left) {
    size_t first = columns.first, count = columns.count;
    for (size_t c = 0; c < count; c++) left[first + c] = 0.0;
    for (size_t i = 0; i < n; i++) {
        double row[PANEL] = {0};
        for (size_t j = 0; j < n; j++)
            for (size_t c = 0; c < count; c++) row[c] += s[i * n + j] * w[j * n + first + c];
        for (size_t c = 0; c < count; c++) left[first + c] += row[c] * w[i * n + first + c];
    }
}

// About the means of these rows, |e - W'x|^2 = e'e - 2 e'W'x + x'WW'x; the means' own part is the
// same for every row.
double df_loss_left(const df_sums *sums, const loss_linear *linear, double *scratch) {
    size_t d = sums->width;
    double *left = scratch + d * d, total = 0.0;
    df_sums_scatter(sums, DF_XX, scratch);
#pragma omp parallel for schedule(dynamic)
    for (size_t first = 0; first < d; first += PANEL)
        square_panel(scratch, linear->w, d,
                     (df_range){first, d - first < PANEL ? d - first : PANEL}, left);
    df_sums_scatter(sums, DF_XE, scratch);
    for (size_t i = 0; i < d; i++)
        for (size_t c = 0; c < d; c++) left[c] -= 2.0 * linear->w[i * d + c] * scratch[i * d + c];
    df_sums_scatter(sums, DF_EE, scratch);
    for (size_t c = 0; c < d; c++) {
        double off = sums->sum[d + c] / sums->rows - linear->b[c];
        for (size_t i = 0; i < d; i++) off -= linear->w[i * d + c] * sums->sum[i] / sums->rows;
        total += left[c] + scratch[c * d + c] + sums->rows * off * off;
    }
    return total;
}
