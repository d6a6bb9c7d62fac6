/* Sparsity penalties and the pre-activation loss, latent by latent; the formulas are in dict.h. */
#include "objective.h"

#include <math.h>
#include <string.h>

/* ---- checks --------------------------------------------------------------------------------- */

static df_status check_penalty(const df_dict *d, const df_objective *o) {
    bool jump = d->activation == DF_JUMPRELU, steps = o->penalty >= DF_PENALTY_L0;
    if (df_dict_decoupled(d) && o->penalty != DF_PENALTY_NONE)
        return df_fail(DF_USAGE, "a penalty weighs a latent of all sites: code norm decoupled "
                                 "takes none");
    if (steps && !jump)
        return df_fail(DF_USAGE, "the penalties l0 and l0_target move thresholds: only jumprelu "
                                 "has them");
    if (o->penalty == DF_PENALTY_LP && d->activation != DF_RELU && d->activation != DF_GATED)
        return df_fail(DF_USAGE, "the penalty lp is for relu and gated");
    if (d->shared > 0 && o->shared_weight != 1.0 && (steps || o->rooted))
        return df_fail(DF_USAGE, "a penalty of their own for shared latents is for l1, tanh and lp "
                                 "without its root: give shared_penalty 1");
    if (o->penalty == DF_PENALTY_LP && !(o->power > 0.0))
        return df_fail(DF_USAGE, "the power of the lp penalty is %g, it must be positive",
                       o->power);
    if (o->penalty == DF_PENALTY_L0_TARGET && !(o->target_l0 > 0.0))
        return df_fail(DF_USAGE, "the target of l0_target is %g, it must be positive",
                       o->target_l0);
    return DF_OK;
}

df_status df_objective_check(const df_dict *d, const df_objective *o) {
    DF_TRY(check_penalty(d, o));
    if (d->activation == DF_JUMPRELU && !(o->bandwidth > 0.0))
        return df_fail(DF_USAGE,
                       "jumprelu trains its thresholds through a rectangle: the "
                       "bandwidth is %g, it must be positive",
                       o->bandwidth);
    if (o->gate_trains_decoder && d->kind == DF_SKIP_TRANSCODER)
        return df_fail(DF_USAGE, "the gate's own reconstruction cannot train a linear skip: leave "
                                 "gate_decoder frozen");
    if (o->gradient_to_all && o->step_on_codes)
        return df_fail(DF_USAGE, "a step function of codes gives pre-activations no gradient: take "
                                 "ste threshold, or step pre");
    if (o->preact > 0.0 && (d->activation == DF_TOPK || d->activation == DF_BATCHTOPK))
        return df_fail(DF_USAGE, "the pre-activation loss needs a threshold for each latent: relu, "
                                 "jumprelu or gated");
    return DF_OK;
}

/* ---- one entry ------------------------------------------------------------------------------ */

/* The penalty of s = f norm and its derivative; `row` is the row's sum of powers (a root's only).
 * Powers count positive codes alone. */
typedef struct slope {
    double value, derivative;
} slope;

static slope of_code(const df_objective *o, double s, double row) {
    if (o->penalty == DF_PENALTY_TANH) {
        double t = tanh(o->tanh_scale * s);
        return (slope){t, o->tanh_scale * (1.0 - t * t)};
    }
    double power = pow(s, o->power);
    if (o->rooted) return (slope){0.0, pow(row, 1.0 / o->power - 1.0) * power / s};
    return (slope){power, o->power * power / s};
}

/* ---- one latent ----------------------------------------------------------------------------- */

typedef struct latent_terms {
    const df_step_settings *set;
    double per_row, step_weight; /* 1 / rows; dL/dH of an entry's step function */
    double *sum;                 /* [TERMS] of the block */
    df_entries main, side;       /* of the latent; side is empty where the kind has none */
} latent_terms;

/* Entries whose codes the penalty sees: of a Gated dictionary the gate's, else the active ones. */
static const df_entries *penalised(const df_coder *c, const latent_terms *t) {
    return c->dict->activation == DF_GATED ? &t->side : &t->main;
}

/* What the latent's penalty is multiplied by. */
static double share_of(const df_coder *c, size_t j, const df_objective *o) {
    return df_dict_is_shared(c->dict, j) ? o->shared_weight : 1.0;
}

void df_objective_prices(df_coder *c, const df_objective *o) {
    if (c->dict->shared == 0 || o->penalty == DF_PENALTY_NONE) {
        c->price = c->norm;
        return;
    }
    c->price = c->shared_price;
    for (size_t j = 0; j < c->local; j++) c->price[j] = c->norm[j] * (float)share_of(c, j, o);
}

/* sum f norm, from sum f price and sum f. */
static void take_l1(df_coder *c, size_t j, const latent_terms *t, double priced, double codes) {
    const df_objective *o = &t->set->objective;
    double weight = o->penalty == DF_PENALTY_L1 ? o->weight * t->per_row : 0.0;
    t->sum[TERM_SPARSITY] += priced;
    c->norm_gradient[df_run_slot(c, j)] = (float)(weight * share_of(c, j, o) * codes);
}

/* The gradient of the codes was filled with the product already, except a gate's. */
static void add_l1(df_coder *c, size_t j, const latent_terms *t) {
    const df_objective *o = &t->set->objective;
    const df_entries *e = penalised(c, t);
    double sum = 0.0, codes = 0.0, price = (double)c->price[j];
    double weight = o->penalty == DF_PENALTY_L1 ? o->weight * t->per_row : 0.0;
    float of_gate = e == &t->side ? (float)(weight * price) : 0.0f;
    for (size_t i = 0; i < e->n; i++) {
        sum += (double)e->value[i] * price;
        codes += (double)e->value[i];
        if (of_gate > 0.0f) e->gradient[i] += of_gate;
    }
    take_l1(c, j, t, sum, codes);
}

static void add_curved(df_coder *c, size_t j, const latent_terms *t) {
    const df_objective *o = &t->set->objective;
    const df_entries *e = penalised(c, t);
    double of_norm = 0.0, norm = (double)c->norm[j], share = share_of(c, j, o);
    double weight = o->weight * t->per_row * share;
    for (size_t i = 0; i < e->n; i++) {
        double f = (double)e->value[i];
        if (!(f * norm > 0.0)) continue;
        double row = o->rooted ? c->row_powers[e->row[i]] : 0.0;
        slope at = of_code(o, f * norm, row);
        e->gradient[i] += (float)(weight * at.derivative * norm);
        of_norm += weight * at.derivative * f;
        t->sum[TERM_SPARSITY] += share * at.value;
        if (o->next_power > 0.0) t->sum[TERM_NEXT] += share * pow(f * norm, o->next_power);
    }
    c->norm_gradient[df_run_slot(c, j)] = (float)of_norm;
    if (c->dict->activation != DF_JUMPRELU) return;
    for (size_t i = 0; i < t->side.n; i++)
        t->side.gradient[i] += (float)(weight * o->tanh_scale * norm); // at f = 0
}

/* sum over inactive entries of (theta - p) norm, from the sum over all rows less the active ones:
 * its gradient is the same for every inactive entry, so no entry beyond the active ones is needed.
 * input_sum is the sum of what the encoder reads, over the batch. */
static void add_preact(df_coder *c, size_t j, const latent_terms *t) {
    const df_objective *o = &t->set->objective;
    const df_dict *d = c->dict;
    const df_entries *e = penalised(c, t);
    df_range in = df_dict_group_of(d, j)->in;
    const float *row = df_dict_enc(d, j);
    const double *input = c->input_sum + (in.first - d->in.first);
    double theta = d->activation == DF_JUMPRELU ? (double)d->theta[j] : 0.0;
    double active = (double)e->n;
    double rows = df_counted_rows(c), all = rows * (double)d->b_enc[j], some = 0.0;
    double norm = (double)c->norm[j], weight = o->preact * t->per_row;
    for (size_t i = 0; i < in.count && rows > 0.0; i++) all += (double)row[i] * input[i];
    for (size_t i = 0; i < e->n; i++) {
        some += (double)e->value[i];
        e->gradient[i] += (float)(weight * norm);
    }
    double below = (rows - active) * theta - (all - some);
    t->sum[TERM_PREACT] += norm * below;
    c->preact_factor[j] = (float)(weight * norm);
    c->norm_gradient[df_run_slot(c, j)] += (float)(weight * below);
    if (d->activation != DF_JUMPRELU) return;
    double of_theta = weight * norm * (rows - active);
    c->theta_gradient[df_run_slot(c, j)] += (float)(of_theta * (o->raw_threshold ? 1.0 : theta));
}

static void add_latent(df_coder *c, size_t j, const latent_terms *t) {
    const df_objective *o = &t->set->objective;
    c->norm_gradient[df_run_slot(c, j)] = 0.0f;
    if (o->penalty == DF_PENALTY_NONE || o->penalty == DF_PENALTY_L1)
        add_l1(c, j, t);
    else if (o->penalty < DF_PENALTY_L0)
        add_curved(c, j, t);
    if (c->dict->activation == DF_JUMPRELU)
        df_jump_latent(c, j, o, &(df_jump_entries){t->main, t->side, t->step_weight});
    if (c->dict->activation == DF_GATED) df_gated_latent(c, j, &t->main);
    if (!(o->preact > 0.0)) return;
    c->preact_factor[j] = 0.0f;
    if (!o->preact_dead || c->state.silent[j] >= t->set->dead_rows) add_preact(c, j, t);
}

/* ---- all latents ---------------------------------------------------------------------------- */

/* The sum of (f norm)^power of each row, over latent blocks in the fixed tree. */
static df_status sum_powers(df_coder *c, double power) {
    const df_code_store *s = df_penalised(c);
#pragma omp parallel for schedule(static)
    for (size_t b = 0; b < c->my_blocks.count; b++) {
        double *sum = c->power_leaves + b * c->rows;
        df_range latents = df_local_block(c, b);
        memset(sum, 0, c->rows * sizeof *sum);
        for (size_t j = latents.first; j < latents.first + latents.count; j++) {
            df_entries e = df_entries_of(c, df_coder_worker(c), s, j);
            for (size_t i = 0; i < e.n; i++) {
                double code = (double)e.value[i] * (double)c->norm[j];
                if (code > 0.0) sum[e.row[i]] += pow(code, power);
            }
        }
    }
    return df_tree_sum(c->comm, c->dict->blocks, c->rows, c->power_leaves, c->row_powers);
}

/* Mean over rows of the root of the sum of powers. */
static df_status mean_root(df_coder *c, double power, double *out) {
    DF_TRY(sum_powers(c, power));
    *out = 0.0;
    for (size_t r = 0; r < c->rows; r++)
        if (c->row_powers[r] > 0.0) *out += pow(c->row_powers[r], 1.0 / power);
    *out /= (double)c->rows;
    return DF_OK;
}

/* The roots of the next power first: those of this one stay in row_powers. */
static df_status report_roots(df_coder *c, const df_objective *o, df_step_report *report) {
    if (o->penalty != DF_PENALTY_LP || !o->rooted) return DF_OK;
    if (o->next_power > 0.0) DF_TRY(mean_root(c, o->next_power, &report->next_sparsity));
    return mean_root(c, o->power, &report->sparsity);
}

static void report_l0(const df_objective *o, df_step_report *report) {
    double off = report->l0 / o->target_l0 - 1.0;
    if (o->penalty == DF_PENALTY_L0) report->sparsity = report->l0;
    if (o->penalty == DF_PENALTY_L0_TARGET) report->sparsity = off * off;
}

/* dL/dH of the step function of one entry. */
static double step_weight(const df_coder *c, const df_objective *o, double l0) {
    double per_row = o->weight / (double)c->batch;
    if (o->penalty == DF_PENALTY_L0) return per_row;
    if (o->penalty != DF_PENALTY_L0_TARGET) return 0.0;
    return per_row * 2.0 * (l0 / o->target_l0 - 1.0) / o->target_l0;
}

static df_status sum_input(df_coder *c) {
    return df_column_sums(c, c->input + c->dict->in.first, c->width, c->dict->in.count,
                          c->input_sum);
}

/* Latents of a dense batch whose penalty is linear: sums over panels tell all. */
static void add_panels(df_coder *c, df_range latents, const latent_terms *t) {
    double priced[DF_TILE_LATENTS], codes[DF_TILE_LATENTS];
    for (size_t j = latents.first; j < latents.first + latents.count; j++) {
        size_t lane = j % DF_TILE_LATENTS;
        if (j == latents.first || lane == 0) df_dense_code_sums(c, j, priced, codes);
        take_l1(c, j, t, priced[lane], codes[lane]);
    }
}

static df_entries of_run(const df_coder *c, df_entries e) {
    df_range part = df_run_part(c, c->run, e.row, e.n);
    return (df_entries){e.row + part.first, e.value + part.first, e.gradient + part.first,
                        part.count};
}

static void add_latents(df_coder *c, df_range latents, latent_terms *t) {
    df_worker *w = df_coder_worker(c);
    for (size_t j = latents.first; j < latents.first + latents.count; j++) {
        t->main = of_run(c, df_entries_of(c, w, &c->main, j));
        if (df_has_side(c->dict)) t->side = of_run(c, df_entries_of(c, w, &c->side, j));
        add_latent(c, j, t);
        df_entries_put(c, &c->main, j, &t->main);
    }
}

static bool by_panels(const df_coder *c, const df_objective *o) {
    bool linear = o->penalty == DF_PENALTY_NONE || o->penalty == DF_PENALTY_L1;
    return c->dense && linear && !(o->preact > 0.0) && c->dict->activation == DF_RELU;
}

/* The terms of the rows of c->run. */
static df_status sum_terms(df_coder *c, const df_step_settings *set, double weight, double *total) {
    const df_objective *o = &set->objective;
    double per_row = 1.0 / (double)c->batch;
#pragma omp parallel for schedule(static)
    for (size_t b = 0; b < c->my_blocks.count; b++) {
        latent_terms t = {set, per_row, weight, c->block_leaves + b * TERMS, {0}, {0}};
        df_range latents = df_local_block(c, b);
        memset(t.sum, 0, TERMS * sizeof *t.sum);
        if (by_panels(c, o))
            add_panels(c, latents, &t);
        else
            add_latents(c, latents, &t);
    }
    return df_tree_sum(c->comm, c->dict->blocks, TERMS, c->block_leaves, total);
}

df_status df_objective_terms(df_coder *c, const df_step_settings *set, df_step_report *report) {
    const df_objective *o = &set->objective;
    double total[TERMS], rows = (double)c->batch;
    df_status status = DF_OK;
    report->l0 = (double)c->active / rows;
    DF_TRY(report_roots(c, o, report));
    if (o->preact > 0.0) DF_TRY(sum_input(c));
    double weight = step_weight(c, o, report->l0);
    for (c->run = 0; c->run < c->runs && status == DF_OK; c->run++)
        status = sum_terms(c, set, weight, df_run_sum(c, c->run, TERMS, total));
    DF_TRY(df_join_runs(c, status, TERMS, total));
    bool rooted = o->penalty == DF_PENALTY_LP && o->rooted;
    if (!rooted) report->sparsity = total[TERM_SPARSITY] / rows;
    if (!rooted) report->next_sparsity = total[TERM_NEXT] / rows;
    report->preactivation = total[TERM_PREACT] / rows;
    report_l0(o, report);
    return DF_OK;
}
