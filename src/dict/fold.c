/* Rows less their mean: what a dictionary of such rows becomes for the rows themselves. */
#include "train_internal.h"

#include <math.h>

/* W_skip mean, of all output columns: each rank has those of its rows. Collective. */
static df_status skip_of_mean(df_comm *comm, const df_dict *d, const float *mean, double *out) {
    size_t *bytes = NULL, in = d->in.count;
    double *mine = NULL;
    df_status status = DF_NEW(bytes, (size_t)df_comm_size(comm));
    if (status == DF_OK) status = DF_NEW(mine, d->skip_rows.count);
    status = df_agree(comm, status);
    if (status == DF_OK) {
        for (int r = 0; r < df_comm_size(comm); r++)
            bytes[r] = df_dict_skip_share(d, df_comm_size(comm), r).count * sizeof *mine;
        for (size_t i = 0; i < d->skip_rows.count; i++)
            for (size_t c = 0; c < in; c++)
                mine[i] += (double)d->w_skip[i * in + c] * (double)mean[d->in.first + c];
        df_allgather(comm, mine, bytes, out);
    }
    df_free(bytes);
    df_free(mine);
    return status;
}

/* Where b_dec is not subtracted, the biases of what reads take up W_enc mean. */
static void fold_encoders(df_dict *d, const float *mean) {
#pragma omp parallel for schedule(static)
    for (size_t j = 0; j < d->mine.count; j++) {
        const df_range in = df_dict_group_of(d, j)->in;
        const float *row = df_dict_enc(d, j);
        double sum = 0.0;
        for (size_t c = 0; c < in.count; c++) sum += (double)row[c] * (double)mean[in.first + c];
        d->b_enc[j] = (float)((double)d->b_enc[j] - sum);
        if (d->activation == DF_GATED)
            d->b_mag[j] = (float)((double)d->b_mag[j] - exp((double)d->r_mag[j]) * sum);
    }
}

df_status df_dict_fold_mean(df_comm *comm, df_dict *d, const float *mean) {
    double *skip = NULL; // [out.count] W_skip mean
    bool has_skip = d->kind == DF_SKIP_TRANSCODER;
    if (has_skip) {
        DF_TRY(df_agree(comm, DF_NEW(skip, d->out.count)));
        df_status status = skip_of_mean(comm, d, mean, skip);
        if (status != DF_OK) df_free(skip);
        DF_TRY(status);
    }
    if (!d->subtract_bias) fold_encoders(d, mean);
    for (size_t c = 0; c < d->out.count; c++) {
        double shift = (double)mean[d->out.first + c] - (has_skip ? skip[c] : 0.0);
        d->b_dec[c] = (float)((double)d->b_dec[c] + shift);
    }
    df_free(skip);
    return DF_OK;
}
