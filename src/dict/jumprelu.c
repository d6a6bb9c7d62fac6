/* JumpReLU: f = p where p > theta (Rajamanoharan et al. 2024, arXiv 2407.14435). The jump's delta
 * function is replaced by a rectangle: entries with |p - theta| < bandwidth / 2 move theta although
 * they may be inactive. In training, main holds the active entries (f = p), `side` the inactive
 * ones of the rectangle (value = p). */
#include "objective.h"

#include <math.h>

void df_jump_prepare(df_coder *c, double half) {
    const df_dict *d = c->dict;
    c->half_window = (float)half;
#pragma omp parallel for schedule(static)
    for (size_t j = 0; j < c->local; j++) {
        double bias = (double)d->b_enc[j], cut = (double)d->theta[j] - half;
        c->cut[j] = (float)cut;
        c->cut_lift[j] =
            (float)(bias - cut + (fabs(bias) + fabs(cut)) * 0x1p-18 + (double)c->extra[j]);
    }
}

static bool inside(const df_coder *c, size_t j, float p) {
    return fabsf(p - c->dict->theta[j]) < c->half_window;
}

df_status df_jump_split(df_coder *c) {
    df_codes *from = &c->side.codes, *to = &c->main.codes;
    uint64_t active = 0, kept = 0, i = 0;
    DF_TRY(df_codes_reserve(&c->main, from->start[c->rows]));
    for (size_t r = 0; r < c->rows; r++) {
        uint64_t end = from->start[r + 1];
        to->start[r] = active;
        from->start[r] = kept;
        for (; i < end; i++) {
            size_t j = from->latent[i];
            float p = from->value[i];
            if (p > c->dict->theta[j]) {
                to->value[active] = p;
                to->latent[active++] = (uint32_t)j;
            } else if (inside(c, j, p) && (p > 0.0f || !c->positive_window)) {
                from->value[kept] = p;
                from->latent[kept++] = (uint32_t)j;
            }
        }
    }
    to->start[c->rows] = active;
    from->start[c->rows] = kept;
    to->rows = c->rows;
    return DF_OK;
}

/* What one latent's entries give its threshold, and what their pre-activations get back. */
typedef struct rectangle {
    double jump, step; /* theta / bandwidth, dL/dH / bandwidth where the step function sees p */
    double theta;      /* dL/dtheta so far */
    bool to_all;
} rectangle;

static void add_entry(rectangle *x, float *gradient, bool active) {
    double change = x->jump * (double)*gradient + x->step;
    x->theta -= change;
    if (!active) *gradient = 0.0f;
    if (x->to_all) *gradient += (float)change;
}

/* The step function of DL sees the code, which is 0 for all inactive entries: they lie in the
 * rectangle all together or not at all. */
static double step_of_codes(const df_coder *c, size_t j, uint64_t active, double step) {
    return c->dict->theta[j] < c->half_window ? step * (df_counted_rows(c) - (double)active) : 0.0;
}

void df_jump_latent(df_coder *c, size_t j, const df_objective *o, const df_jump_entries *e) {
    double step = e->step_weight / o->bandwidth, theta = (double)c->dict->theta[j];
    rectangle x = {theta / o->bandwidth, step, 0.0, o->gradient_to_all};
    for (size_t i = 0; i < e->active.n; i++)
        if (inside(c, j, e->active.value[i])) add_entry(&x, &e->active.gradient[i], true);
    if (o->step_on_codes) {
        x.theta -= step_of_codes(c, j, e->active.n, step);
        x.step = 0.0;
    }
    for (size_t i = 0; i < e->side.n; i++) add_entry(&x, &e->side.gradient[i], false);
    bool plain = o->raw_threshold || o->plain_log;
    c->theta_gradient[df_run_slot(c, j)] = (float)(x.theta * (plain ? 1.0 : theta));
}
