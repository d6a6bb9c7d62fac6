/* Reading the sums: second moments, scatter, covariance, FVU, quadratic forms. */
#include "parts.h"

void df_sums_free(df_sums **sums) {
    if (*sums == NULL) return;
    df_free((*sums)->sum);
    df_free((*sums)->second);
    df_free((*sums)->bucket_sum);
    df_free(*sums);
    *sums = NULL;
}

void df_sums_add(df_sums *into, const df_sums *part) {
    size_t width = into->width;
    into->rows += part->rows;
    for (size_t j = 0; j < 2 * width; j++) into->sum[j] += part->sum[j];
    for (size_t k = 0; k < df_tiles_size(width); k++) into->second[k] += part->second[k];
    for (size_t k = 0; k < DF_BUCKETS * 2 * width; k++) into->bucket_sum[k] += part->bucket_sum[k];
    for (size_t b = 0; b < DF_BUCKETS; b++) {
        into->bucket[b].rows += part->bucket[b].rows;
        into->bucket[b].x_square += part->bucket[b].x_square;
        into->bucket[b].e_square += part->bucket[b].e_square;
        into->bucket[b].form = 0;
    }
}

/* Element (i, j) of the sum of a b'; x_hat x_hat' follows from x_hat = x - e. */
static double second_at(const df_sums *s, df_product product, size_t i, size_t j) {
    size_t d = s->width;
    const double *z = s->second;
    double xx = z[df_tiles_at(d, i, j)], xe = z[df_tiles_at(d, i, d + j)];
    double ee = z[df_tiles_at(d, d + i, d + j)];
    switch (product) {
    case DF_XX:
        return xx;
    case DF_XE:
        return xe;
    case DF_EE:
        return ee;
    case DF_HH:
        break;
    }
    return xx - xe - z[df_tiles_at(d, d + i, j)] + ee;
}

/* The sums of the two factors at i and j. */
static double left_sum(const df_sums *s, df_product product, size_t i) {
    double x = s->sum[i], e = s->sum[s->width + i];
    if (product == DF_HH) return x - e;
    return product == DF_EE ? e : x;
}

static double right_sum(const df_sums *s, df_product product, size_t j) {
    double x = s->sum[j], e = s->sum[s->width + j];
    if (product == DF_HH) return x - e;
    return product == DF_XX ? x : e;
}

void df_sums_second(const df_sums *sums, df_product product, double *out) {
    size_t d = sums->width;
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < d; i++)
        for (size_t j = 0; j < d; j++) out[i * d + j] = second_at(sums, product, i, j);
}

/* Symmetric products are mirrored from the lower triangle: equal bits on both sides. */
static void centred(const df_sums *s, df_product product, double divisor, double *out) {
    size_t d = s->width;
    double rows = s->rows > 0 ? s->rows : 1;
    df_sums_second(s, product, out);
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < d; i++) {
        double left = left_sum(s, product, i);
        for (size_t j = 0; j < d; j++)
            out[i * d + j] = (out[i * d + j] - left * right_sum(s, product, j) / rows) / divisor;
    }
    if (product == DF_XE) return;
    for (size_t i = 0; i < d; i++)
        for (size_t j = 0; j < i; j++) out[j * d + i] = out[i * d + j];
}

void df_sums_scatter(const df_sums *sums, df_product product, double *out) {
    centred(sums, product, 1, out);
}

void df_sums_covariance(const df_sums *sums, df_product product, double *out) {
    centred(sums, product, sums->rows > 1 ? sums->rows - 1 : 1, out);
}

double df_sums_fvu(const df_sums *sums) {
    double error = 0, total = 0;
    for (size_t b = 0; b < DF_BUCKETS; b++) {
        error += sums->bucket[b].e_square;
        total += sums->bucket[b].x_square;
    }
    for (size_t j = 0; j < sums->width; j++) total -= sums->sum[j] * sums->sum[j] / sums->rows;
    return error / total;
}

/* Diagonal tiles hold both halves of their products, the others one: those count twice. */
static double weight(size_t row, size_t column) {
    return row / TILE == column / TILE ? 1 : 2;
}

size_t df_form_bytes(size_t width) {
    return df_tiles_size(width) * sizeof(double);
}

df_status df_form_new(size_t width, const double *w, const double *ww, double **out) {
    size_t d = width;
    DF_TRY(DF_NEW(*out, df_tiles_size(d)));
    for (size_t i = 0; i < d; i++) {
        for (size_t j = i; j < d; j++) {
            (*out)[df_tiles_at(d, i, j)] = weight(i, j) * ww[i * d + j];
            if (i / TILE == j / TILE) (*out)[df_tiles_at(d, j, i)] = ww[j * d + i];
        }
        for (size_t j = 0; j < d; j++) {
            (*out)[df_tiles_at(d, i, d + j)] = -weight(i, d + j) * w[i * d + j];
            if (i / TILE == (d + j) / TILE) (*out)[df_tiles_at(d, d + j, i)] = -w[i * d + j];
        }
        (*out)[df_tiles_at(d, d + i, d + i)] = 1;
    }
    return DF_OK;
}
