/* Chosen latents set to other values: the rows that follow from it. */
#include "darkfield/splice.h"

#include <string.h>

struct df_splice {
    df_comm *comm;
    df_dict *dict;
    df_coder *coder;
    df_clamp *clamp; // [clamps]
    size_t clamps, max_rows;
    float *decoder; // [clamps, out.count] in the models' units, zero where a latent does not write
    float *x;       // [max_rows, width] in the dictionary's units
    float *x_hat;   // [max_rows, out.count] likewise
    float *value;   // [max_rows] f of one latent
    uint32_t *seen; // [max_rows] the output sites that it is active for
    float *inverse; // [out.count] 1 / scale of the column's site
};

static int owner_of(const df_splice *s, uint64_t latent) {
    int rank = 0, size = df_comm_size(s->comm);
    for (int r = 0; r < size; r++) {
        df_range share = df_dict_share(s->dict, size, r);
        if (latent >= share.first && latent < share.first + share.count) rank = r;
    }
    return rank;
}

static df_status check_clamps(const df_dict *dict, const df_splice_plan *plan) {
    for (size_t i = 0; i < plan->clamps; i++) {
        uint64_t latent = plan->clamp[i].latent;
        if (latent >= dict->latents)
            return df_fail(DF_USAGE, "the dictionary has latents 0 to %zu, not %llu",
                           dict->latents - 1, (unsigned long long)latent);
        for (size_t j = 0; j < i; j++)
            if (plan->clamp[j].latent == latent)
                return df_fail(DF_USAGE, "latent %llu is set twice", (unsigned long long)latent);
    }
    return DF_OK;
}

static df_status allocate(df_splice *s, const df_splice_plan *plan) {
    DF_TRY(check_clamps(s->dict, plan));
    DF_TRY(DF_NEW(s->clamp, plan->clamps));
    memcpy(s->clamp, plan->clamp, plan->clamps * sizeof *s->clamp);
    s->clamps = plan->clamps;
    s->max_rows = plan->max_rows;
    DF_TRY(DF_NEW(s->decoder, s->clamps * s->dict->out.count));
    DF_TRY(DF_NEW(s->x, s->max_rows * s->dict->width));
    DF_TRY(DF_NEW(s->x_hat, s->max_rows * s->dict->out.count));
    DF_TRY(DF_NEW(s->value, s->max_rows));
    DF_TRY(DF_NEW(s->seen, s->max_rows));
    return DF_NEW(s->inverse, s->dict->out.count);
}

// Every rank gets the decoder rows of the clamped latents.
static void share_decoders(df_splice *s) {
    const df_dict *d = s->dict;
    size_t columns = d->out.count;
    for (size_t n = 0; n < d->sites; n++)
        for (size_t c = 0; d->site[n].output && c < d->site[n].width; c++)
            s->inverse[d->site[n].first - d->out.first + c] = (float)(1.0 / d->site[n].scale);
    for (size_t i = 0; i < s->clamps; i++) {
        float *row = s->decoder + i * columns;
        int owner = owner_of(s, s->clamp[i].latent);
        if (owner == df_comm_rank(s->comm)) {
            size_t local = (size_t)s->clamp[i].latent - d->mine.first;
            const df_dict_group *g = df_dict_group_of(d, local);
            memcpy(row + (g->out.first - d->out.first), df_dict_dec(d, local),
                   g->out.count * sizeof *row);
        }
        df_broadcast(s->comm, owner, row, columns * sizeof *row);
        for (size_t c = 0; c < columns; c++) row[c] *= s->inverse[c];
    }
}

df_status df_splice_open(df_comm *comm, df_kernels *kernels, df_dict *dict,
                         const df_splice_plan *plan, df_splice **out) {
    df_status status = DF_NEW(*out, 1);
    DF_GO(df_agree(comm, status));
    (*out)->comm = comm;
    (*out)->dict = dict;
    DF_GO(df_agree(comm, allocate(*out, plan)));
    DF_GO(df_coder_open(comm, kernels, dict, plan->max_rows * (size_t)df_comm_size(comm),
                        &(*out)->coder));
    share_decoders(*out);
done:
    if (status != DF_OK) df_splice_close(out);
    return status;
}

void df_splice_close(df_splice **splice) {
    df_splice *s = *splice;
    if (s == NULL) return;
    df_coder_close(&s->coder);
    void *const arrays[] = {s->clamp, s->decoder, s->x, s->x_hat, s->value, s->seen, s->inverse};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) df_free(arrays[i]);
    df_free(s);
    *splice = NULL;
}

// f of a clamped latent on rows [0, n), on every rank.
static void share_values(df_splice *s, uint64_t latent, const df_codes *codes, size_t n) {
    int owner = owner_of(s, latent);
    memset(s->value, 0, n * sizeof *s->value);
    for (size_t r = 0; owner == df_comm_rank(s->comm) && r < n; r++)
        for (uint64_t i = codes->start[r]; i < codes->start[r + 1]; i++) {
            if (s->dict->mine.first + codes->latent[i] != latent) continue;
            s->value[r] = codes->value[i];
            s->seen[r] = codes->sites != NULL ? codes->sites[i] : UINT32_MAX;
        }
    df_broadcast(s->comm, owner, s->value, n * sizeof *s->value);
    if (df_dict_decoupled(s->dict)) df_broadcast(s->comm, owner, s->seen, n * sizeof *s->seen);
}

// What setting clamp i changes in row r: value - f where the latent was active, value elsewhere.
static void add_change(const df_splice *s, size_t i, size_t r, float *change) {
    size_t columns = s->dict->out.count, n = 0;
    const float *row = s->decoder + i * columns;
    float value = s->clamp[i].value;
    if (!df_dict_decoupled(s->dict)) {
        df_add_scaled(change, value - s->value[r], row, columns);
        return;
    }
    for (size_t o = 0; o < s->dict->sites; o++) {
        const df_dict_site *site = &s->dict->site[o];
        if (!site->output) continue;
        size_t first = site->first - s->dict->out.first;
        float was = s->seen[r] >> n++ & 1 ? s->value[r] : 0.0f;
        df_add_scaled(change + first, value - was, row + first, site->width);
    }
}

/* Where a row was normalised by its own numbers, a change of it is as large as undoing makes it. */
static void undo_tokens(const df_dict *d, const float *x, float *change) {
    for (size_t o = 0; o < d->sites; o++) {
        const df_dict_site *site = &d->site[o];
        if (!site->output || site->token_norm == DF_TOKEN_NONE) continue;
        float *part = change + site->first - d->out.first;
        df_token token = df_token_of(site->token_norm, x + site->first, site->width);
        token.mean = 0.0;
        df_token_undo(&token, 1.0, part, site->width);
    }
}

df_status df_splice_rows(df_splice *s, const float *x, size_t n, float *change, float *x_hat) {
    const df_codes *codes;
    size_t columns = s->dict->out.count;
    memcpy(s->x, x, n * s->dict->width * sizeof *x);
    df_rows_scale(s->dict, s->x, n);
    DF_TRY(df_coder_apply(s->coder, s->x, n, s->x_hat, &codes)); // the first n rows are rank 0's
    memset(change, 0, n * columns * sizeof *change);
    for (size_t i = 0; i < s->clamps; i++) {
        share_values(s, s->clamp[i].latent, codes, n);
        for (size_t r = 0; r < n; r++) add_change(s, i, r, change + r * columns);
    }
    for (size_t r = 0; r < n; r++)
        undo_tokens(s->dict, x + r * s->dict->width, change + r * columns);
    if (x_hat == NULL) return DF_OK;
    memcpy(x_hat, s->x_hat, n * columns * sizeof *x_hat);
    df_rows_restore(s->dict, x, n, x_hat);
    df_add_row(x_hat, change, n * columns);
    return DF_OK;
}
