/* How much of a synthetic model's known directions a dictionary has found. */
#include "darkfield/eval.h"

#include <math.h>
#include <string.h>

/* A direction in one site's units. Rows that are normalised one by one each have a length of their
 * own; what they have in common is the mean that LAYER takes off. */
static double to_site(const df_dict_site *site, float *direction) {
    if (site->token_norm == DF_TOKEN_LAYER) {
        const double mean = df_token_of(DF_TOKEN_LAYER, direction, site->width).mean;
        for (size_t c = 0; c < site->width; c++) direction[c] -= (float)mean;
    }
    for (size_t c = 0; c < site->width; c++) direction[c] *= (float)site->scale;
    return df_sum_squares(direction, site->width);
}

/* True directions in dictionary units, unit over the whole row: [directions, width]. */
static void true_directions(const df_dict *dict, const df_synthetic *toy, float *out,
                            uint8_t *class_) {
    for (size_t f = 0; f < toy->directions; f++, out += dict->width) {
        int kind;
        df_synthetic_direction(toy, f, out, &kind);
        class_[f] = (uint8_t)kind;
        double square = 0;
        for (size_t s = 0; s < dict->sites; s++)
            square += to_site(&dict->site[s], out + dict->site[s].first);
        for (size_t c = 0; c < dict->width; c++) out[c] = (float)((double)out[c] / sqrt(square));
    }
}

/* Of each latent of this rank the best cosine, and of each direction the best among them. */
static void compare(const df_dict *dict, const df_synthetic *toy, const float *truth,
                    df_recovery *r) {
    for (size_t f = 0; f < toy->directions; f++) r->direction[f] = -1;
    for (size_t j = 0; j < dict->mine.count; j++) {
        const float *decoder = df_dict_dec(dict, j);
        double norm = sqrt(df_sum_squares(decoder, dict->width));
        r->latent[j] = norm > 0 ? -1 : (double)NAN;
        for (size_t f = 0; f < toy->directions && norm > 0; f++) {
            double cosine = (double)df_dot(decoder, truth + f * dict->width, dict->width) / norm;
            if (cosine > r->latent[j]) r->latent[j] = cosine;
            if (cosine > r->direction[f]) r->direction[f] = cosine;
        }
    }
}

static double decoder_norm(const df_dict *dict, size_t j, size_t site) {
    const df_dict_site *s = &dict->site[site];
    return sqrt(df_sum_squares(df_dict_dec(dict, j) + s->first, s->width));
}

/* Latents that fire, and those among them whose decoder lies almost in one model alone:
 * |d_B| / (|d_A| + |d_B|) below 0.1, above 0.9. */
static void count_exclusive(df_comm *comm, const df_dict *dict, const uint64_t *fires,
                            df_recovery *r) {
    uint64_t counts[3] = {0};
    for (size_t j = 0; j < dict->mine.count; j++) {
        if (fires[j] == 0) continue;
        counts[0]++;
        if (dict->sites < 2) continue;
        double a = decoder_norm(dict, j, 0), b = decoder_norm(dict, j, 1);
        counts[1] += b < 0.1 * (a + b);
        counts[2] += b > 0.9 * (a + b);
    }
    df_sum_u64(comm, counts, 3);
    r->alive = counts[0];
    r->only_a = counts[1];
    r->only_b = counts[2];
}

/* Means over directions, all and by class. */
static void summarise_directions(df_recovery *r) {
    double sum[3] = {0}, all = 0;
    uint64_t n[3] = {0};
    for (size_t f = 0; f < r->directions; f++) {
        all += r->direction[f];
        sum[r->class_[f]] += r->direction[f];
        n[r->class_[f]]++;
        r->found += r->direction[f] > 0.9;
    }
    r->true_to_learned = all / (double)r->directions;
    for (int c = 0; c < 3; c++) r->by_class[c] = n[c] > 0 ? sum[c] / (double)n[c] : (double)NAN;
}

/* The mean over all latents, in their order. */
static df_status summarise_latents(df_comm *comm, const df_dict *dict, df_recovery *r) {
    int size = df_comm_size(comm);
    double *all = NULL, sum = 0;
    size_t *counts = NULL, n = 0;
    df_status status = DF_NEW(all, dict->latents);
    if (status == DF_OK) status = DF_NEW(counts, (size_t)size);
    status = df_agree(comm, status);
    if (status == DF_OK) {
        for (int k = 0; k < size; k++) counts[k] = df_dict_share(dict, size, k).count * sizeof *all;
        df_allgather(comm, r->latent, counts, all);
        for (size_t j = 0; j < dict->latents; j++) {
            if (isnan(all[j])) continue;
            sum += all[j];
            n++;
        }
        r->learned_to_true = sum / (double)n;
    }
    df_free(all);
    df_free(counts);
    return status;
}

static df_status check_fit(const df_dict *dict, const df_synthetic *toy) {
    if (dict->kind <= DF_CROSSCODER && dict->sites == toy->models &&
        dict->width == toy->models * toy->width)
        return DF_OK;
    return df_fail(DF_BAD_INPUT,
                   "a dictionary of %zu sites and %zu columns was not trained on %zu synthetic "
                   "models of width %zu",
                   dict->sites, dict->width, toy->models, toy->width);
}

df_status df_recover(df_comm *comm, const df_dict *dict, const df_synthetic *toy,
                     const uint64_t *fires, df_recovery *out) {
    float *truth = NULL;
    *out = (df_recovery){.directions = toy->directions};
    df_status status = check_fit(dict, toy);
    if (status == DF_OK) status = DF_NEW(truth, toy->directions * dict->width);
    if (status == DF_OK) status = DF_NEW(out->latent, dict->mine.count);
    if (status == DF_OK) status = DF_NEW(out->direction, toy->directions);
    if (status == DF_OK) status = DF_NEW(out->class_, toy->directions);
    if (status == DF_OK) true_directions(dict, toy, truth, out->class_);
    status = df_agree(comm, status);
    if (status == DF_OK) {
        compare(dict, toy, truth, out);
        df_max_double(comm, out->direction, toy->directions);
        count_exclusive(comm, dict, fires, out);
        summarise_directions(out);
        status = summarise_latents(comm, dict, out);
    }
    df_free(truth);
    if (status != DF_OK) df_recovery_free(out);
    return status;
}

void df_recovery_free(df_recovery *r) {
    df_free(r->latent);
    df_free(r->direction);
    df_free(r->class_);
    *r = (df_recovery){0};
}
