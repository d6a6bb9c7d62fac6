/* What a run needs: the allocations of pass.c, fit.c and spectrum.c, phase by phase, on rank 0. */
#include "parts.h"

static uint64_t larger(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}

static uint64_t square(size_t d) {
    return (uint64_t)d * d * sizeof(double);
}

/* A pass: rows are streamed, then the ranks join, model after model. */
static uint64_t pass_bytes(const df_spectrum_input *in, int size, size_t read) {
    uint64_t buffers = 2 * (uint64_t)in->batch * in->width * sizeof(float), now = buffers, most;
    for (size_t m = 0; m < in->models; m++) now += df_moments_plan(in->model[m].width, size).open;
    most = now + read;
    for (size_t m = 0; m < in->models; m++) {
        df_moments_need need = df_moments_plan(in->model[m].width, size);
        now = now - need.block + need.sums;
        most = larger(most, now + need.join);
        now -= need.open - need.block;
    }
    return most;
}

/* What is kept of a pass, and of the fits. */
static uint64_t sums_bytes(const df_spectrum_input *in, int size) {
    uint64_t sum = 0;
    for (size_t m = 0; m < in->models; m++) sum += df_moments_plan(in->model[m].width, size).sums;
    return sum;
}

static uint64_t fit_kept(size_t d) {
    return square(d) + d * sizeof(double) + df_form_bytes(d);
}

/* While model m is fitted. */
static uint64_t fit_bytes(size_t d, int size) {
    uint64_t matrix = df_matrix_bytes(d, d, size), collect = df_collect_bytes(d, d, size);
    uint64_t form = matrix + larger(collect, df_form_bytes(d));
    uint64_t step = larger(df_solve_bytes(d, size), larger(collect, form));
    return 2 * square(d) + d * sizeof(double) + 2 * matrix + step;
}

/* The test of a fit, and the spectra. */
static uint64_t finish_bytes(size_t d, int size) {
    uint64_t matrix = df_matrix_bytes(d, d, size), collect = df_collect_bytes(d, d, size);
    uint64_t test = 3 * square(d) + d * sizeof(double) + 3 * matrix + collect;
    uint64_t spectra = square(d) + 2 * matrix + larger(df_eigen_bytes(d, size), collect);
    return larger(test, spectra);
}

/* Eigenvalues of three sides, eigenvectors of one. */
static uint64_t result_bytes(const df_spectrum_input *in) {
    uint64_t sum = 0;
    for (size_t m = 0; m < in->models; m++) {
        size_t d = in->model[m].width;
        sum += sizeof(df_spectrum_result) + square(d) + DF_SIDES * d * sizeof(double);
    }
    return sum;
}

df_status df_spectrum_plan(const df_spectrum_input *in, const df_spectrum_options *options,
                           int size, const size_t read[2], df_need *out) {
    uint64_t fits = 0, sums = sums_bytes(in, size), most = pass_bytes(in, size, read[TRAINING]);
    DF_TRY(df_spectrum_file_need(in, options, out));
    for (size_t m = 0; m < in->models; m++) {
        most = larger(most, sums + fits + fit_bytes(in->model[m].width, size));
        fits += fit_kept(in->model[m].width);
    }
    most = larger(most, sums + fits + pass_bytes(in, size, read[HELD_OUT]));
    for (size_t m = 0; m < in->models; m++)
        most = larger(most, 2 * sums + fits + finish_bytes(in->model[m].width, size));
    out->memory = result_bytes(in) + larger(most, out->memory);
    return DF_OK;
}
