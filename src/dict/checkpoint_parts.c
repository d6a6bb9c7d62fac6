/* What a checkpoint holds. */
#include "checkpoint_parts.h"

#include <math.h>
#include <string.h>

/* Which elements of a tensor this rank has. */
typedef struct extent {
    df_range mine;
    size_t all;
} extent;

static extent of_rows(const df_dict *d, size_t (*floats)(const df_dict *, size_t)) {
    size_t first = floats(d, d->mine.first), end = floats(d, d->mine.first + d->mine.count);
    return (extent){{first, end - first}, floats(d, d->latents)};
}

static checkpoint_part part(const char *path, df_type type, extent e, void *data) {
    return (checkpoint_part){
        .path = path, .type = type, .data = data, .mine = e.mine, .all = e.all};
}

static checkpoint_part replicated(const char *path, size_t n, void *data) {
    return (checkpoint_part){
        .path = path, .type = DF_F32, .replicated = true, .data = data, .mine = {0, n}, .all = n};
}

size_t checkpoint_parts(const train_run *run, const df_trainer_state *state,
                        checkpoint_part out[static CHECKPOINT_PARTS]) {
    static const df_trainer_state none;
    static const df_dict no_averages;
    const df_dict *d = run->dict;
    const df_trainer_state *t = state != NULL ? state : &none;
    const df_dict *a = t->ema != NULL ? t->ema : &no_averages;
    bool means = t->ema != NULL;
    const extent enc = of_rows(d, df_dict_enc_floats), dec = of_rows(d, df_dict_dec_floats);
    const extent latent = {d->mine, d->latents}, nothing = {{0, 0}, 0};
    const extent jump = d->activation == DF_JUMPRELU ? latent : nothing;
    const extent gate = d->activation == DF_GATED ? latent : nothing;
    const df_range rows = d->skip_rows;
    const extent skip = {{rows.first * d->in.count, rows.count * d->in.count},
                         d->kind == DF_SKIP_TRANSCODER ? d->out.count * d->in.count : 0};
    const checkpoint_part all[CHECKPOINT_PARTS] = {
        part("/weights/W_enc", DF_F32, enc, d->w_enc),
        part("/weights/W_dec", DF_F32, dec, d->w_dec),
        part("/weights/b_enc", DF_F32, latent, d->b_enc),
        replicated("/weights/b_dec", d->out.count, d->b_dec),
        part("/weights/W_skip", DF_F32, skip, d->w_skip),
        part("/weights/theta", DF_F32, jump, d->theta),
        part("/weights/r_mag", DF_F32, gate, d->r_mag),
        part("/weights/b_mag", DF_F32, gate, d->b_mag),
        replicated("/mean", run->mean != NULL ? d->width : 0, run->mean),
        part("/moments/m_enc", DF_F32, enc, t->m_enc),
        part("/moments/v_enc", DF_F32, enc, t->v_enc),
        part("/moments/m_dec", DF_F32, dec, t->m_dec),
        part("/moments/v_dec", DF_F32, dec, t->v_dec),
        part("/moments/m_bias", DF_F32, latent, t->m_bias),
        part("/moments/v_bias", DF_F32, latent, t->v_bias),
        replicated("/moments/m_center", d->out.count, t->m_center),
        replicated("/moments/v_center", d->out.count, t->v_center),
        part("/moments/m_skip", DF_F32, skip, t->m_skip),
        part("/moments/v_skip", DF_F32, skip, t->v_skip),
        part("/moments/m_theta", DF_F32, jump, t->m_theta),
        part("/moments/v_theta", DF_F32, jump, t->v_theta),
        part("/moments/m_r_mag", DF_F32, gate, t->m_r_mag),
        part("/moments/v_r_mag", DF_F32, gate, t->v_r_mag),
        part("/moments/m_b_mag", DF_F32, gate, t->m_b_mag),
        part("/moments/v_b_mag", DF_F32, gate, t->v_b_mag),
        part("/silent", DF_U64, latent, t->silent),
        part("/averages/W_enc", DF_F32, means ? enc : nothing, a->w_enc),
        part("/averages/W_dec", DF_F32, means ? dec : nothing, a->w_dec),
        part("/averages/b_enc", DF_F32, means ? latent : nothing, a->b_enc),
        replicated("/averages/b_dec", means ? d->out.count : 0, a->b_dec),
        part("/averages/W_skip", DF_F32, means ? skip : nothing, a->w_skip),
        part("/averages/theta", DF_F32, means ? jump : nothing, a->theta),
        part("/averages/r_mag", DF_F32, means ? gate : nothing, a->r_mag),
        part("/averages/b_mag", DF_F32, means ? gate : nothing, a->b_mag)};
    size_t listed = state != NULL ? CHECKPOINT_PARTS : CHECKPOINT_WEIGHTS, n = 0;
    for (size_t i = 0; i < listed; i++)
        if (all[i].all > 0) out[n++] = all[i];
    return n;
}

const char *checkpoint_threshold(const df_dict *d, size_t n, char room[static 32]) {
    snprintf(room, 32, df_dict_decoupled(d) ? "threshold%zu" : "threshold", n);
    return room;
}

void anneal_pack(const df_anneal *anneal, double out[static ANNEAL_NUMBERS]) {
    out[0] = anneal->factor;
    out[1] = (double)anneal->count;
    memcpy(out + 2, anneal->now, sizeof anneal->now);
    memcpy(out + 2 + DF_ANNEAL_QUEUE, anneal->next, sizeof anneal->next);
}

bool anneal_unpack(const double in[static ANNEAL_NUMBERS], df_anneal *anneal) {
    if (!(in[0] > 0.0) || !isfinite(in[0])) return false;
    if (!(in[1] >= 0.0 && in[1] <= (double)DF_ANNEAL_QUEUE)) return false;
    *anneal = (df_anneal){.factor = in[0], .count = (size_t)in[1]};
    memcpy(anneal->now, in + 2, sizeof anneal->now);
    memcpy(anneal->next, in + 2 + DF_ANNEAL_QUEUE, sizeof anneal->next);
    return true;
}
