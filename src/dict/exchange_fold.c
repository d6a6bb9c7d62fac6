/* What stands between dictionary units and raw activations: scales of sites, norms of decoder rows,
 * and b_dec where a format does not subtract it. */
#include "exchange.h"

#include <math.h>
#include <string.h>

/* A latent whose decoder is zero must rank last, and come back: a factor of two that small. */
#define NO_NORM 0x1p-100

df_status exchange_norms(const df_dict *d, double **out) {
    DF_TRY(DF_NEW(*out, d->mine.count));
    for (size_t j = 0; j < d->mine.count; j++) (*out)[j] = df_dict_code_norm(d, j);
    return DF_OK;
}

static bool ranks(const df_dict *d) {
    bool selects = d->activation == DF_TOPK || d->activation == DF_BATCHTOPK;
    return selects && d->code_norm != DF_NORM_NONE;
}

// b_enc as the format wants it: with b_dec taken up where it is no longer subtracted, and back.
static df_status fold_bias(const exchange *x, const df_dict *d, exchange_fold *fold) {
    DF_TRY(DF_NEW(fold->b_enc, d->mine.count));
    double sign = x->subtract_bias ? 1.0 : -1.0;
    for (size_t j = 0; j < d->mine.count; j++) {
        const float *row = df_dict_enc(d, j);
        double sum = 0.0, a = fold->norm != NULL ? fold->norm[j] : 1.0;
        for (size_t c = 0; fold->bias && c < d->in.count; c++)
            sum += (double)row[c] * (double)d->b_dec[c];
        fold->b_enc[j] = a * ((double)d->b_enc[j] + sign * sum);
    }
    return DF_OK;
}

df_status exchange_fold_open(const exchange *x, const df_dict *d, exchange_fold *out) {
    *out = (exchange_fold){.bias = d->subtract_bias != x->subtract_bias};
    for (size_t s = 0; s < d->sites; s++)
        out->scale[s] = x->family->keeps_scale ? 1.0 : d->site[s].scale;
    bool by_threshold = x->family->latent_thresholds && d->activation == DF_BATCHTOPK;
    if (ranks(d) && !x->family->ranks_by_norm && !by_threshold) {
        DF_TRY(exchange_norms(d, &out->norm));
        for (size_t j = 0; j < d->mine.count; j++)
            if (out->norm[j] == 0.0) out->norm[j] = NO_NORM;
    }
    return fold_bias(x, d, out);
}

void exchange_fold_close(exchange_fold *fold) {
    df_free(fold->norm);
    df_free(fold->b_enc);
    *fold = (exchange_fold){0};
}

double exchange_enc_factor(const exchange_fold *fold, size_t local, size_t site) {
    return fold->scale[site] * (fold->norm != NULL ? fold->norm[local] : 1.0);
}

double exchange_dec_factor(const exchange_fold *fold, size_t local, size_t site) {
    return 1.0 / (fold->scale[site] * (fold->norm != NULL ? fold->norm[local] : 1.0));
}
