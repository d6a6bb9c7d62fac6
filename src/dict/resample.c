/* Resampling of dead latents; the contract is in dict.h. */
#include "objective.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A row with the time at which it rings: the earliest n of independent exponential clocks of rate w
 * are n draws without replacement, probability as w. */
typedef struct clock {
    double time;
    size_t row;
} clock;

static int by_time(const void *a, const void *b) {
    const clock *x = a, *y = b;
    if (x->time != y->time) return x->time < y->time ? -1 : 1;
    return (x->row > y->row) - (x->row < y->row);
}

/* Rows in the order in which they are drawn, the same on every rank; returns how many can be. */
static size_t draw_rows(const df_coder *c, const df_resample *how, clock *rows) {
    size_t n = 0;
    for (size_t r = 0; r < c->rows; r++) {
        double length = sqrt(df_sum_squares(c->error + r * c->out, c->out));
        double weight = pow(length, how->power);
        double u = df_random_uniform(how->seed, DF_STREAM_RESAMPLE, how->step << 32 | r);
        if (weight > 0.0) rows[n++] = (clock){-log1p(-u) / weight, r};
    }
    qsort(rows, n, sizeof *rows, by_time);
    return n;
}

static bool is_dead(const df_coder *c, size_t j, const df_resample *how) {
    return c->state.silent[j] >= how->dead_rows;
}

/* The mean norm of the living encoder rows; 1 where nothing lives. */
static df_status living_norm(df_coder *c, const df_resample *how, double *out) {
    double total;
    uint64_t living = 0;
    for (size_t b = 0; b < c->my_blocks.count; b++) {
        df_range latents = df_local_block(c, b);
        c->block_squares[b] = 0.0;
        for (size_t j = latents.first; j < latents.first + latents.count; j++) {
            if (is_dead(c, j, how)) continue;
            size_t width = df_dict_group_of(c->dict, j)->in.count;
            c->block_squares[b] += sqrt(df_sum_squares(df_dict_enc(c->dict, j), width));
            living++;
        }
    }
    DF_TRY(df_tree_sum(c->comm, c->dict->blocks, 1, c->block_squares, &total));
    df_sum_u64(c->comm, &living, 1);
    *out = living > 0 ? total / (double)living : 1.0;
    return DF_OK;
}

static void clear_moments(df_coder *c, size_t j) {
    const df_dict *d = c->dict;
    const df_dict_group *g = df_dict_group_of(d, j);
    df_trainer_state *s = &c->state;
    size_t enc = (size_t)(df_dict_enc(d, j) - d->w_enc),
           dec = (size_t)(df_dict_dec(d, j) - d->w_dec);
    memset(s->m_enc + enc, 0, g->in.count * sizeof(float));
    memset(s->v_enc + enc, 0, g->in.count * sizeof(float));
    memset(s->m_dec + dec, 0, g->out.count * sizeof(float));
    memset(s->v_dec + dec, 0, g->out.count * sizeof(float));
    s->m_bias[j] = s->v_bias[j] = 0.0f;
}

static void begin_anew(df_coder *c, size_t j, const float *x, double norm, bool unit_row) {
    df_dict *d = c->dict;
    const df_dict_group *g = df_dict_group_of(d, j);
    float *enc = df_dict_enc(d, j), *dec = df_dict_dec(d, j);
    memcpy(enc, x + g->in.first, g->in.count * sizeof *enc);
    memcpy(dec, x + g->out.first, g->out.count * sizeof *dec);
    if (d->models > 0) df_bind_gradient(d, j, enc, dec); // a row is bound as its gradients are
    double length = sqrt(df_sum_squares(dec, g->out.count));
    double unit = length > 0.0 ? 1.0 / length : 0.0;
    double reach = sqrt(df_sum_squares(enc, g->in.count));
    if (unit_row && reach > 0.0) norm /= reach;
    for (size_t i = 0; i < g->in.count; i++) enc[i] = (float)(norm * (double)enc[i]);
    for (size_t i = 0; i < g->out.count; i++) dec[i] = (float)(unit * (double)dec[i]);
    d->b_enc[j] = 0.0f;
    clear_moments(c, j);
}

/* Dead latents on lower ranks, and on all. */
static df_status count_dead(df_coder *c, const df_resample *how, uint64_t *before, uint64_t *all) {
    uint64_t *counts;
    DF_TRY(df_agree(c->comm, DF_NEW(counts, (size_t)c->size)));
    for (size_t j = 0; j < c->local; j++) counts[c->rank] += is_dead(c, j, how);
    df_sum_u64(c->comm, counts, (size_t)c->size);
    *before = *all = 0;
    for (int p = 0; p < c->size; p++) {
        if (p < c->rank) *before += counts[p];
        *all += counts[p];
    }
    df_free(counts);
    return DF_OK;
}

static df_status replace(df_coder *c, const df_resample *how, uint64_t at, uint64_t *replaced) {
    clock *rows;
    double norm;
    DF_TRY(living_norm(c, how, &norm));
    DF_TRY(df_agree(c->comm, DF_NEW(rows, c->rows)));
    size_t drawn = draw_rows(c, how, rows);
    if (drawn < *replaced) *replaced = drawn;
    for (size_t j = 0; j < c->local; j++) {
        if (!is_dead(c, j, how)) continue;
        if (at < drawn)
            begin_anew(c, j, c->x + rows[at].row * c->width, norm * how->scale, how->unit);
        at++;
    }
    df_free(rows);
    return DF_OK;
}

df_status df_coder_resample(df_coder *c, const float *x, size_t rows, const df_resample *how,
                            uint64_t *replaced) {
    uint64_t before;
    *replaced = 0;
    if (!c->training) return df_fail(DF_FAILED, "resampling needs df_coder_train_open first");
    if (df_is_split(c)) return df_fail(DF_USAGE, "rows are not drawn anew over data groups");
    DF_TRY(count_dead(c, how, &before, replaced));
    if (*replaced == 0) return DF_OK;
    const df_codes *codes;
    DF_TRY(df_coder_encode(c, x, rows, true, &codes));
    df_error_rows(c, &c->main, c->error, NULL);
    return replace(c, how, before, replaced);
}
