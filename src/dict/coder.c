/* What runs a dictionary outside training: open, encode, decode, apply. */
#include "step.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* ---- open and close ------------------------------------------------------------------------- */

/* Share of active entries from which whole tiles cost less than single entries. */
#define DENSE_ABOVE 0.125

static df_status open_lists(df_coder *c) {
    size_t n = df_list_capacity(c);
    for (int t = 0; t < c->threads && n > 0; t++) {
        df_candidates *s = &c->worker[t].list;
        float *pool = df_alloc(n, 4 * sizeof *pool);
        if (pool == NULL) return DF_FAILED;
        *s = (df_candidates){.upper = pool,
                             .value = pool + n,
                             .row = (uint32_t *)(pool + 2 * n),
                             .latent = (uint32_t *)(pool + 3 * n),
                             .capacity = n,
                             .limit = n};
    }
    return DF_OK;
}

static df_status allocate(df_coder *c) {
    df_layout count = {0}, real = {0};
    DF_TRY(DF_NEW(c->worker, (size_t)c->threads));
    df_layout_base(c, &count);
    for (int t = 0; t < c->threads; t++) c->worker[t] = (df_worker){0};
    c->arena = df_alloc(count.used, 1);
    if (c->arena == NULL) return DF_FAILED;
    real.base = c->arena;
    df_layout_base(c, &real);
    df_decode_plan(c);
    DF_TRY(open_lists(c));
    if (c->dict->activation == DF_GATED) DF_TRY(df_codes_reserve(&c->side, df_code_capacity(c)));
    for (size_t n = 0; n < c->parts; n++)
        DF_TRY(df_codes_reserve(&c->part[n], df_part_capacity(c)));
    return df_codes_reserve(&c->main, df_code_capacity(c));
}

static df_status check_shape(const df_dict *d, size_t max_rows) {
    if (d->latents == 0 || d->width == 0 || max_rows == 0)
        return df_fail(DF_FAILED,
                       "a coder needs latents, columns and rows; there are %zu, %zu and %zu",
                       d->latents, d->width, max_rows);
    if (d->latents >= UINT32_MAX || max_rows >= UINT32_MAX)
        return df_fail(DF_FAILED, "%zu latents or %zu rows do not fit in 32 bits", d->latents,
                       max_rows);
    if (d->subtract_bias && (d->in.first != d->out.first || d->in.count != d->out.count))
        return df_fail(DF_USAGE, "subtract_bias: the decoder bias can be subtracted from what the "
                                 "encoder reads only where that is what the decoder writes");
    if (df_has_k(d) && (d->k == 0 || d->k > d->latents))
        return df_fail(DF_USAGE, "k is %zu; it must be between 1 and the number of latents, %zu",
                       d->k, d->latents);
    return df_parts_check(d);
}

/* Bounds below upper that a score lies at most, in all likelihood: four standard deviations of the
 * screened score. */
static float likely(const df_coder *c) {
    size_t narrowest = c->width;
    for (size_t g = 0; g < c->dict->groups; g++)
        if (c->dict->group[g].in.count < narrowest) narrowest = c->dict->group[g].in.count;
    return fminf(1.0f + 4.0f / sqrtf(2.0f * (float)narrowest), DF_CERTAIN);
}

df_status df_coder_open(df_comm *comm, df_kernels *kernels, df_dict *dict, size_t max_rows,
                        df_coder **out) {
    const df_groups alone = df_groups_alone(comm);
    return df_coder_open_groups(&alone, kernels, dict, max_rows, out);
}

df_status df_coder_open_groups(const df_groups *groups, df_kernels *kernels, df_dict *dict,
                               size_t max_rows, df_coder **out) {
    df_coder *c;
    *out = NULL;
    DF_TRY(check_shape(dict, max_rows));
    df_status status = DF_NEW(c, 1);
    if (status == DF_OK) {
        c->groups = *groups;
        c->comm = groups->shards;
        c->kernels = kernels;
        c->screen = df_kernels_screen(kernels);
        c->spare = df_kernels_spare_screen(kernels);
        c->dense_above = DENSE_ABOVE;
        c->cut_at.margin = FIRST_MARGIN;
        c->rank = groups->at.shard;
        c->size = groups->at.shards;
        df_coder_shape(c, dict, max_rows);
        c->caution = likely(c);
        status = allocate(c);
    }
    status = df_agree(groups->world, status);
    if (status != DF_OK) df_coder_close(&c);
    *out = c;
    return status;
}

void df_coder_close(df_coder **coder) {
    df_coder *c = *coder;
    if (c == NULL) return;
    for (int t = 0; t < c->threads && c->worker != NULL; t++) df_free(c->worker[t].list.upper);
    df_free(c->main.codes.value);
    df_free(c->aux.codes.value);
    df_free(c->multi.codes.value);
    df_dict_free(&c->state.ema);
    df_free(c->extra_arena);
    df_free(c->side.codes.value);
    for (size_t n = 0; n < c->parts && c->part != NULL; n++) df_free(c->part[n].codes.value);
    df_free(c->worker);
    df_free(c->train_arena);
    df_free(c->arena);
    df_free(c);
    *coder = NULL;
}

/* ---- encode --------------------------------------------------------------------------------- */

/* A decoupled dictionary ranks by each site in turn, so the guess of one is not that of the next.
 */
static df_status encode_rows(df_coder *c, df_code_store *out) {
    df_select_rows(c, (df_view){.n = c->local}, c->dict->k, c->parts > 0 ? NULL : &c->guess, out);
    return DF_OK;
}

/* A batch whose floors began at nothing, or in vain, tells nothing about the screen. */
static void forget_settled(df_coder *c) {
    for (int t = 0; t < c->threads; t++) c->worker[t].settled = 0;
}

/* A margin shrinks, but stays above what the cut has fallen by lately: training lowers it, batches
 * differ, and a margin that misses costs another screen. */
static void learn_margin(df_cut *cut, float before, bool missed) {
    float fall = before > 0.0f ? 1.0f - cut->score / before : 0.0f;
    cut->fall = fmaxf(0.98f * cut->fall, fall);
    float margin = fmaxf((missed ? 2.0f : 0.8f) * cut->margin, 1.5f * cut->fall);
    cut->margin = fminf(fmaxf(margin, LEAST_MARGIN), MOST_MARGIN);
}

/* The last batch's cut is a good floor to start from; where it was not, all is done again with
 * floors that are certain. */
static df_status encode_batch(df_coder *c, df_code_store *out) {
    size_t keep = c->dict->k * c->batch;
    float before = c->cut_at.score, guess = (1.0f - c->cut_at.margin) * before;
    DF_TRY(df_agree(c->groups.world,
                    df_screen_lists(c, guess > FLT_TRUE_MIN ? guess : FLT_TRUE_MIN, keep)));
    bool missed = !df_select_batch(c, keep);
    if (missed) {
        c->caution = DF_CERTAIN;
        df_status status = df_agree(c->groups.world, df_screen_lists(c, FLT_TRUE_MIN, keep));
        if (status == DF_OK) (void)df_select_batch(c, keep); // cannot fail again
        c->caution = likely(c);
        DF_TRY(status);
    }
    learn_margin(&c->cut_at, before, missed);
    if (missed || !(guess > FLT_TRUE_MIN)) forget_settled(c);
    return df_agree(c->groups.world, df_lists_to_codes(c, out));
}

static df_status screen_above(df_coder *c, float threshold, df_code_store *out) {
    DF_TRY(df_screen_lists(c, threshold > FLT_TRUE_MIN ? threshold : FLT_TRUE_MIN, SIZE_MAX));
    df_settle_above(c, threshold);
    return df_lists_to_codes(c, out);
}

/* Of a batch that follows a dense one the threshold is 0; it is agreed on as every other, so that
 * all steps communicate alike. */
static df_status encode_above(df_coder *c, float threshold, df_code_store *out) {
    df_status status = DF_OK;
    if (c->was_dense)
        df_dense_encode(c, out);
    else
        status = screen_above(c, threshold, out);
    return df_agree(c->groups.world, status);
}

df_status df_encode_best(df_coder *c, bool training, float threshold, df_code_store *out) {
    if (c->dict->activation == DF_TOPK) return encode_rows(c, out);
    if (training) return encode_batch(c, out);
    if (!(threshold >= 0.0f))
        return df_fail(DF_BAD_INPUT, "this BatchTopK dictionary has no threshold yet: train it "
                                     "past train.threshold_start");
    return encode_above(c, threshold, out);
}

/* Without a rectangle only active entries are above their cuts. */
static df_status encode_jump(df_coder *c, double half) {
    df_code_store *s = half > 0.0 ? &c->side : &c->main;
    df_jump_prepare(c, half);
    DF_TRY(encode_above(c, 0.0f, s));
    if (s->panels) df_dense_list(c, s);
    return half > 0.0 ? df_agree(c->groups.world, df_jump_split(c)) : DF_OK;
}

static df_status encode_gated(df_coder *c) {
    DF_TRY(encode_above(c, 0.0f, &c->side));
    if (c->side.panels) df_dense_list(c, &c->side);
    return df_agree(c->groups.world, df_gated_open(c));
}

df_status df_coder_encode(df_coder *c, const float *x, size_t rows, bool training,
                          const df_codes **codes) {
    *codes = &c->main.codes;
    DF_TRY(df_encode(c, x, rows, training, 0.0));
    if (c->main.panels) df_dense_list(c, &c->main);
    return DF_OK;
}

/* A candidate of int8 that was not selected costs about as much as the wider screen does for 40
 * latents of a row. The last batch decides, of each rank for itself; no result depends on it. */
static void choose_screen(df_coder *c) {
    if (c->wasted > c->rows * (c->local / 40 + 16)) c->screen = c->spare;
}

static void note_waste(df_coder *c) {
    uint64_t settled = 0;
    for (int t = 0; t < c->threads; t++) settled += c->worker[t].settled;
    c->wasted = settled > c->selected ? settled - c->selected : 0;
}

/* Says once that a threshold selects more than plans of memory count for a whole batch, on the rank
 * where it does so most. Collective. */
static void note_active(df_coder *c) {
    if (c->outgrown || c->main.training || c->dict->activation != DF_BATCHTOPK) return;
    uint64_t planned = df_codes_expected(c->dict, c->max_rows);
    double share = (double)c->main.codes.start[c->rows] / (double)(planned > 0 ? planned : 1);
    df_max_double(c->comm, &share, 1);
    if (!(share > 1.0)) return;
    c->outgrown = true;
    df_warn("this BatchTopK threshold selects %.2f times as many latents in a batch of %zu rows as "
            "the plan of memory counts: k is %zu",
            share, c->rows, c->dict->k);
}

static df_status encode_prepared(df_coder *c, bool training, double bandwidth) {
    switch (c->dict->activation) {
    case DF_TOPK:
    case DF_BATCHTOPK:
        return c->parts > 0 ? df_encode_parts(c, training)
                            : df_encode_best(c, training, c->dict->threshold, &c->main);
    case DF_RELU:
        return encode_above(c, 0.0f, &c->main);
    case DF_JUMPRELU:
        return encode_jump(c, 0.5 * bandwidth);
    case DF_GATED:
        return encode_gated(c);
    }
    return df_fail(DF_FAILED, "unknown activation %d", (int)c->dict->activation);
}

df_status df_encode(df_coder *c, const float *x, size_t rows, bool training, double bandwidth) {
    choose_screen(c);
    c->dense = c->main.panels = false;
    c->selected = 0;
    for (int t = 0; t < c->threads; t++) {
        df_worker *w = &c->worker[t];
        w->settled_rows = w->missed_rows = w->settled = 0;
        w->screen_seconds = w->settle_seconds = 0.0;
    }
    DF_TRY(df_agree(c->groups.world, df_coder_prepare(c, x, df_runs_begin(c, rows))));
    DF_TRY(encode_prepared(c, training, bandwidth));
    note_waste(c);
    note_active(c);
    return DF_OK;
}

/* ---- decode --------------------------------------------------------------------------------- */

static void add_bias(const df_coder *c, float *row) {
    df_add_row(row, c->dict->b_dec, c->out);
}

void df_decode(df_coder *c, const df_codes *codes, bool whole, float *out) {
    df_range mine = df_share(codes->rows, c->size, c->rank);
    if (whole) df_skip(c, codes->rows);
    if (c->size > 1) {
        if (c->dense && codes == &c->main.codes)
            df_dense_decode(c, c->partials);
        else
            df_decode_local(c, codes);
        df_decode_exchange(c, codes->rows);
    }
#pragma omp parallel for schedule(static)
    for (size_t r = 0; r < mine.count; r++) {
        float *row = out + r * c->out;
        if (c->size > 1)
            df_decode_finish(c, r, mine.count, row);
        else
            df_decode_row(c, df_coder_worker(c), codes, r, row);
        if (!whole) continue;
        df_skip_add(c, r, mine.count, row);
        add_bias(c, row);
    }
}

df_status df_coder_decode(df_coder *c, const df_codes *codes, float *x_hat) {
    df_decode(c, codes, true, x_hat);
    return DF_OK;
}

df_status df_coder_apply(df_coder *c, const float *x_mine, size_t n, float *x_hat_mine,
                         const df_codes **codes) {
    size_t rows = n * (size_t)c->size;
    const df_codes *found;
    if (rows > c->max_rows)
        return df_fail(DF_FAILED,
                       "%zu rows on each of %d ranks; the coder was opened for %zu in all", n,
                       c->size, c->max_rows);
    for (int p = 0; p < c->size; p++) c->send_bytes[p] = n * c->width * sizeof *x_mine;
    df_allgather(c->comm, x_mine, c->send_bytes, c->centered); // centred in place
    DF_TRY(df_coder_encode(c, c->centered, rows, false, &found));
    if (codes != NULL) *codes = found;
    return df_coder_decode(c, found, x_hat_mine);
}
