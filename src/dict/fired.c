/* Which latents a batch has seen fire: AuxK and resampling call the others dead in time. */
#include "step.h"

/* ---- by their codes ------------------------------------------------------------------------- */

static void count_active(df_coder *c) {
    bool dense[DF_TILE_LATENTS];
    for (size_t j = 0; j < c->local; j++) {
        size_t lane = j % DF_TILE_LATENTS;
        if (c->dense && lane == 0) df_dense_fired(c, j / DF_TILE_LATENTS, c->fired_above, dense);
        bool active = c->dense ? dense[lane] : df_latent_fired(c, j);
        c->state.silent[j] = active ? 0 : c->state.silent[j] + c->batch;
    }
}

/* ---- by TopK's selection -------------------------------------------------------------------- */

/* A row with fewer than k positive pre-activations selects latents that are 0 besides, by index as
 * all ties: the first that are not active. On several ranks a rank must know how many active ones a
 * row has, and how many of them lie before its own. */

static uint64_t active_of(const df_coder *c, size_t row) {
    return c->main.codes.start[row + 1] - c->main.codes.start[row];
}

/* Those of this rank among the `left` first latents of a row that are not active. */
static void fire_first(df_coder *c, size_t row, uint64_t left) {
    uint64_t i = c->main.codes.start[row], end = c->main.codes.start[row + 1];
    for (size_t j = 0; j < c->local && left > 0; j++) {
        if (i < end && c->main.codes.latent[i] == j) {
            i++;
            continue;
        }
        c->state.silent[j] = 0;
        left--;
    }
}

/* active, before [rows]: over all ranks, and on those before this one; NULL: there is one rank. */
static void fire_selected(df_coder *c, const uint64_t *active, const uint64_t *before) {
    for (size_t r = 0; r < c->rows; r++) {
        uint64_t n = active != NULL ? active[r] : active_of(c, r);
        uint64_t passed = before != NULL ? c->dict->mine.first - before[r] : 0;
        if (n + passed < c->dict->k) fire_first(c, r, c->dict->k - n - passed);
    }
}

/* Sums over the ranks before `end` how many active latents each row has: out [rows]. Collective. */
static void sum_active(df_coder *c, int end, uint64_t *out) {
    for (size_t r = 0; r < c->rows; r++) out[r] = c->rank < end ? active_of(c, r) : 0;
    df_sum_u64(c->comm, out, c->rows);
}

/* Only ranks that have some of the first k latents can have such ones: mostly the first alone. */
static void count_selected(df_coder *c) {
    uint64_t *active = c->send_keys, *before = c->cut_keys;
    if (c->active == (uint64_t)c->rows * c->dict->k) return;
    if (c->size > 1) sum_active(c, c->size, active);
    if (c->rank == 0) fire_selected(c, c->size > 1 ? active : NULL, NULL);
    for (int p = 1; p < c->size && df_dict_share(c->dict, c->size, p).first < c->dict->k; p++) {
        sum_active(c, p, before);
        if (c->rank == p) fire_selected(c, active, before);
    }
}

void df_count_silent(df_coder *c, const df_step_settings *set) {
    count_active(c);
    if (set->fired_selected) count_selected(c);
}
