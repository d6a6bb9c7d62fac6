/* The dictionary in memory: shares, blocks, allocation, initialisation. */
#include "darkfield/dict.h"

#include <math.h>
#include <string.h>

#define MAX_BLOCKS 64
#define BLOCK_STEP 16

size_t df_dict_block_latents(size_t latents) {
    size_t even = (latents + MAX_BLOCKS - 1) / MAX_BLOCKS;
    size_t block = (even + BLOCK_STEP - 1) / BLOCK_STEP * BLOCK_STEP;
    return block > 0 ? block : BLOCK_STEP;
}

df_range df_dict_share(size_t latents, int size, int rank) {
    size_t block = df_dict_block_latents(latents);
    df_range blocks = df_share((latents + block - 1) / block, size, rank);
    size_t first = blocks.first * block, end = (blocks.first + blocks.count) * block;
    if (end > latents) end = latents;
    if (first > end) first = end;
    return (df_range){first, end - first};
}

static df_status copy_sites(df_dict *d, const df_dict_site *sites, size_t n) {
    DF_TRY(DF_NEW(d->site, n));
    d->sites = n;
    for (size_t s = 0; s < n; s++) {
        d->site[s] = sites[s];
        d->site[s].name = df_strdup(sites[s].name != NULL ? sites[s].name : "");
        d->site[s].model = df_strdup(sites[s].model != NULL ? sites[s].model : "");
        d->site[s].first = d->width;
        d->width += sites[s].width;
    }
    for (size_t s = 0; s < n; s++)
        if (d->site[s].name == NULL || d->site[s].model == NULL) return DF_FAILED;
    return DF_OK;
}

static df_status fill(df_dict *d, const df_dict_site *sites, size_t n_sites) {
    size_t weights;
    DF_TRY(copy_sites(d, sites, n_sites));
    DF_TRY(df_mul(d->mine.count, d->width, &weights));
    DF_TRY(DF_NEW(d->w_enc, weights));
    DF_TRY(DF_NEW(d->w_dec, weights));
    DF_TRY(DF_NEW(d->b_enc, d->mine.count));
    return DF_NEW(d->b_dec, d->width);
}

df_status df_dict_new(df_comm *comm, size_t latents, const df_dict_site *sites, size_t n_sites,
                      df_dict **out) {
    df_dict *d;
    *out = NULL;
    DF_TRY(DF_NEW(d, 1));
    d->latents = latents;
    d->mine = df_dict_share(latents, df_comm_size(comm), df_comm_rank(comm));
    d->threshold = -1.0f;
    d->subtract_bias = true;
    df_status status = fill(d, sites, n_sites);
    if (status != DF_OK) df_dict_free(&d);
    *out = d;
    return status;
}

void df_dict_free(df_dict **dict) {
    df_dict *d = *dict;
    if (d == NULL) return;
    for (size_t s = 0; s < d->sites; s++) {
        df_free(d->site[s].name);
        df_free(d->site[s].model);
    }
    df_free(d->site);
    df_free(d->w_enc);
    df_free(d->w_dec);
    df_free(d->b_enc);
    df_free(d->b_dec);
    df_free(d->job);
    df_free(d);
    *dict = NULL;
}

/* One site's part of a decoder row: a Gaussian direction of the given norm. */
static void draw_part(float *row, df_dict_site site, uint64_t seed, uint64_t index, double norm) {
    for (size_t c = 0; c < site.width; c++)
        row[site.first + c] = (float)df_random_normal(seed, DF_STREAM_INIT, index + site.first + c);
    double length = sqrt(df_sum_squares(row + site.first, site.width));
    float scale = length > 0.0 ? (float)(norm / length) : 0.0f;
    for (size_t c = 0; c < site.width; c++) row[site.first + c] *= scale;
}

void df_dict_initialise(df_dict *d, uint64_t seed, double norm, double encoder_scale,
                        const float *b_dec) {
    for (size_t j = 0; j < d->mine.count; j++) {
        float *dec = d->w_dec + j * d->width, *enc = d->w_enc + j * d->width;
        uint64_t index = (uint64_t)(d->mine.first + j) * d->width;
        for (size_t s = 0; s < d->sites; s++) draw_part(dec, d->site[s], seed, index, norm);
        for (size_t c = 0; c < d->width; c++) enc[c] = dec[c] * (float)encoder_scale;
        d->b_enc[j] = 0.0f;
    }
    memcpy(d->b_dec, b_dec, d->width * sizeof *b_dec);
}
