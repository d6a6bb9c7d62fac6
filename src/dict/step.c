/* One training step: codes, error, losses, AuxK; then the gradients (step_latents.c). The objective
 * is in dict.h. */
#include "objective.h"

#include <math.h>
#include <string.h>

/* ---- memory --------------------------------------------------------------------------------- */

static df_status open_codes(df_code_store *s, size_t capacity) {
    s->training = true;
    s->capacity = 0;
    return df_codes_reserve(s, capacity);
}

static df_status allocate(df_coder *c) {
    df_layout count = {0}, real = {0};
    size_t row_k = c->row_k, order = c->worker[0].order_capacity;
    df_layout_train(c, &count);
    c->train_arena = df_alloc(count.used, 1);
    if (c->train_arena == NULL) return DF_FAILED;
    c->row_k = row_k; // as it was before counting
    for (int t = 0; t < c->threads; t++) c->worker[t].order_capacity = order;
    real.base = c->train_arena;
    df_layout_train(c, &real);
    c->main.training = true;
    DF_TRY(open_codes(&c->main, df_code_capacity(c)));
    DF_TRY(open_codes(&c->side, df_side_capacity(c, true)));
    size_t aux = c->aux_room = df_aux_entries(c->dict);
    return open_codes(&c->aux, c->max_rows * (aux < c->local ? aux : c->local));
}

df_status df_coder_train_open(df_coder *c) {
    if (c->training) return DF_OK;
    DF_TRY_AS(df_agree(c->groups.world, allocate(c)),
              "allocating the training state of %zu latents", c->dict->latents);
    c->training = true;
    return DF_OK;
}

df_trainer_state *df_coder_state(df_coder *c) {
    return &c->state;
}

/* ---- the error ------------------------------------------------------------------------------ */

void df_code_gradient_span(const df_coder *c, df_code_store *s, df_range span, const float *vector,
                           df_code_factor factor) {
    size_t i = span.first, end = span.first + span.count;
    for (; i < end && s->codes.sites != NULL; i++) {
        const float *w = df_dict_dec(c->dict, s->codes.latent[i]);
        s->gradient[i] = df_code_slope(c, factor, df_parts_dot(c, s->codes.sites[i], vector, w),
                                       s->codes.latent[i]);
    }
    while (i < end) {
        // ascending latents: the first and the last of four tell
        size_t n =
            i + 4 <= end && df_same_group(c, s->codes.latent[i], s->codes.latent[i + 3]) ? 4 : 1;
        const float *w[4];
        float product[4];
        const df_dict_group *g = df_dict_group_of(c->dict, s->codes.latent[i]);
        const float *written = vector + df_out_offset(c, g);
        for (size_t k = 0; k < n; k++) w[k] = df_dict_dec(c->dict, s->codes.latent[i + k]);
        if (n == 4)
            df_dot4(written, w, g->out.count, product);
        else
            product[0] = df_dot(written, w[0], g->out.count);
        for (size_t k = 0; k < n; k++)
            s->gradient[i + k] = df_code_slope(c, factor, product[k], s->codes.latent[i + k]);
        i += n;
    }
}

void df_code_gradient_row(const df_coder *c, df_code_store *s, size_t row, const float *vector,
                          df_code_factor factor) {
    df_range span = {s->codes.start[row], s->codes.start[row + 1] - s->codes.start[row]};
    df_code_gradient_span(c, s, span, vector, factor);
}

/* One rank: a row's decoder rows are read once, while they are near. */
static void error_rows_alone(df_coder *c, df_code_store *s, float *out,
                             const df_code_factor *factor) {
    bool dense = c->dense && s == &c->main;
    if (c->late && s == &c->main) factor = NULL;
    df_skip(c, c->rows);
    if (dense) df_dense_decode(c, out);
#pragma omp parallel for schedule(static)
    for (size_t r = 0; r < c->rows; r++) {
        float *e = out + r * c->out;
        const float *x = c->x + r * c->width + c->dict->out.first;
        if (!dense) df_decode_row(c, df_coder_worker(c), &s->codes, r, e);
        df_skip_add(c, r, c->rows, e);
        for (size_t i = 0; i < c->out; i++) e[i] = x[i] - (e[i] + c->dict->b_dec[i]);
        if (factor != NULL && !dense) df_code_gradient_row(c, s, r, e, *factor);
    }
    if (factor != NULL && dense) df_dense_code_gradients(c, out, *factor);
}

void df_gather_rows(df_coder *c, const float *mine, float *all) {
    for (int p = 0; p < c->size; p++)
        c->receive_bytes[p] = df_share(c->rows, c->size, p).count * c->out * sizeof *all;
    df_allgather(c->comm, mine, c->receive_bytes, all);
}

void df_code_gradients(df_coder *c, df_code_store *s, const float *vectors, df_code_factor factor) {
    if (c->late && s == &c->main) return;
    if (c->dense && s == &c->main) {
        df_dense_code_gradients(c, vectors, factor);
        return;
    }
#pragma omp parallel for schedule(static)
    for (size_t r = 0; r < c->rows; r++)
        df_code_gradient_row(c, s, r, vectors + r * c->out, factor);
}

void df_error_rows(df_coder *c, df_code_store *s, float *out, const df_code_factor *factor) {
    if (c->size == 1) {
        error_rows_alone(c, s, out, factor);
        return;
    }
    df_range mine = df_share(c->rows, c->size, c->rank);
    df_decode(c, &s->codes, true, c->mine);
    for (size_t r = 0; r < mine.count; r++) {
        const float *x = c->x + (mine.first + r) * c->width + c->dict->out.first;
        float *e = c->mine + r * c->out;
        for (size_t i = 0; i < c->out; i++) e[i] = x[i] - e[i];
    }
    df_gather_rows(c, c->mine, out);
    if (factor != NULL) df_code_gradients(c, s, out, *factor);
}

/* ---- statistics of the batch ---------------------------------------------------------------- */

size_t df_statistics_width(const df_coder *c) {
    return 2 * c->out + 2 * df_dict_outputs(c->dict);
}

/* The columns of a site within the output; false when it is not written. */
static bool output_columns(const df_dict *d, size_t site, df_range *out) {
    *out = (df_range){d->site[site].first - d->out.first, d->site[site].width};
    return d->site[site].output;
}

/* Sums of squares of e and x by output site, of one row. */
static void add_squares(const df_dict *d, const float *x, const float *e, double *of_sites) {
    df_range columns;
    for (size_t s = 0; s < d->sites; s++) {
        if (!output_columns(d, s, &columns)) continue;
        *of_sites++ += df_sum_squares(e + columns.first, columns.count);
        *of_sites++ += df_sum_squares(x + columns.first, columns.count);
    }
}

/* Sums of x and of e by output column, sums of squares by site. */
static void add_statistics(const df_coder *c, const df_row_terms *t, df_range rows, double *out) {
    (void)t;
    for (size_t r = rows.first; r < rows.first + rows.count; r++) {
        const float *x = c->x + r * c->width + c->dict->out.first, *e = c->error + r * c->out;
        for (size_t i = 0; i < c->out; i++) out[i] += (double)x[i];
        for (size_t i = 0; i < c->out; i++) out[c->out + i] += (double)e[i];
        add_squares(c->dict, x, e, out + 2 * c->out);
    }
}

static df_status statistics(df_coder *c) {
    return df_row_sums(c, df_statistics_width(c), &(df_row_terms){.add = add_statistics},
                       c->totals);
}

static double site_spread(const df_coder *c, df_range columns, const double *sums, double squares) {
    for (size_t i = columns.first; i < columns.first + columns.count; i++)
        squares -= sums[i] * sums[i] / (double)c->batch;
    return squares;
}

/* What a sum of e^2 is multiplied by to be the reconstruction loss. */
static double squared_share(const df_coder *c, const df_objective *o) {
    double rows = (double)c->batch;
    if (o->reconstruction == DF_FVU) return c->variance > 0.0 ? 1.0 / c->variance : 0.0;
    if (o->reconstruction == DF_FVU_SAMPLE)
        return o->variance > 0.0 ? 1.0 / (rows * o->variance) : 0.0;
    if (o->reconstruction == DF_SQUARED_MEAN) rows *= (double)df_dict_outputs(c->dict);
    if (o->reconstruction == DF_SQUARED_COLUMNS) rows *= (double)c->out;
    return 1.0 / rows;
}

/* Reconstruction loss and FVU by site, and b_dec's gradient, which a shaped error gives later;
 * returns the normaliser of AuxK, mean_rows sum (e - mean e)^2. */
static double report_error(df_coder *c, const df_objective *o, df_step_report *report) {
    const double *squares = c->totals + 2 * c->out; // of e, of x
    double rows = (double)c->batch, spread = 0.0, share = squared_share(c, o);
    size_t n = 0; // of the output sites
    df_range columns;
    report->reconstruction = 0.0; // that of a shaped error is set later
    for (size_t s = 0; s < c->dict->sites; s++) {
        if (!output_columns(c->dict, s, &columns)) continue;
        double below = site_spread(c, columns, c->totals, squares[1]);
        report->reconstruction += squares[0] * share;
        spread += site_spread(c, columns, c->totals + c->out, squares[0]);
        report->error[n] = squares[0];
        report->spread[n] = below;
        report->fvu[n++] = below > 0.0 ? squares[0] / below : 0.0;
        squares += 2;
    }
    for (size_t i = 0; i < c->out; i++)
        c->center_gradient[i] =
            df_is_shaped(o) ? 0.0f : (float)(-2.0 * share * c->totals[c->out + i]);
    return spread / rows;
}

/* ---- the step ------------------------------------------------------------------------------- */

/* The threads' mean times; what encoding took besides them is selection. */
static void report_screen(df_coder *c, double seconds, df_step_report *report) {
    for (int t = 0; t < c->threads; t++) {
        report->screen_seconds += c->worker[t].screen_seconds / c->threads;
        report->settle_seconds += c->worker[t].settle_seconds / c->threads;
        report->dense_rows += c->worker[t].settled_rows;
    }
    report->select_seconds = seconds - report->screen_seconds - report->settle_seconds;
}

/* Factors of the step: of the error, and of an L1 penalty on codes, which code gradients take in
 * the same pass. */
static df_code_factor set_factors(df_coder *c, const df_objective *o) {
    bool gated = c->dict->activation == DF_GATED;
    bool l1 = o->penalty == DF_PENALTY_L1 && !gated; // a gate's codes are penalised, not these
    c->error_factor = df_is_shaped(o) ? 1.0f : (float)(-2.0 * squared_share(c, o));
    c->preact = o->preact > 0.0;
    c->side_moves_encoder = gated || o->gradient_to_all;
    c->side_moves_decoder = gated && o->gate_trains_decoder;
    return (df_code_factor){.product = c->error_factor,
                            .norm = l1 ? (float)(o->weight / (double)c->batch) : 0.0f};
}

/* sum (x - mean x)^2 over the batch, where something is measured by it. */
static df_status batch_variance(df_coder *c, const df_step_settings *set) {
    c->variance = 0.0;
    if (set->objective.reconstruction != DF_FVU && !(set->multi > 0.0) &&
        (set->aux_normaliser != DF_AUX_TARGET || !(set->aux > 0.0)))
        return DF_OK;
    DF_TRY(df_column_sums(c, c->x + c->dict->out.first, c->width, c->out, c->totals));
    c->variance = c->totals[c->out];
    for (size_t i = 0; i < c->out; i++)
        c->variance -= c->totals[i] * c->totals[i] / (double)c->batch;
    return DF_OK;
}

/* Nothing else may add to the gradients of the codes, and the decoder must stay as it was. */
static bool can_be_late(const df_coder *c, const df_step_settings *set) {
    df_penalty penalty = set->objective.penalty;
    return df_has_k(c->dict) && c->parts == 0 && c->dict->prefixes == 0 && !set->unit_first &&
           (penalty == DF_PENALTY_NONE || penalty == DF_PENALTY_L1);
}

/* Errors and gradients of codes of all reconstructions; their losses. */
static df_status errors(df_coder *c, const df_step_settings *set, df_step_report *report) {
    const df_objective *o = &set->objective;
    bool nested = c->dict->prefixes > 0;
    DF_TRY(batch_variance(c, set));
    df_objective_prices(c, o);
    df_code_factor factor = c->late_factor = set_factors(c, o);
    c->late = can_be_late(c, set);
    if (nested)
        DF_TRY(df_nested_errors(c, factor, set->prefix_weight, report));
    else
        df_error_rows(c, &c->main, c->error, df_is_shaped(o) ? NULL : &factor);
    DF_TRY(statistics(c));
    double spread = report_error(c, o, report);
    if (nested) {
        report->reconstruction = report->nested;
        DF_TRY(df_nested_center(c));
    }
    double start = df_now();
    DF_TRY(df_auxiliary(c, set, factor, spread, report));
    report->gradient_seconds = df_now() - start;
    if (set->multi > 0.0) DF_TRY(df_multi(c, set, report));
    if (df_is_shaped(o)) DF_TRY(df_shaped_error(c, o, factor, report));
    if (c->dict->activation == DF_JUMPRELU) df_code_gradients(c, &c->side, c->error, factor);
    return c->dict->activation == DF_GATED ? df_gated_error(c, o, report) : DF_OK;
}

static double weighted_loss(const df_step_settings *set, const df_step_report *report) {
    const df_objective *o = &set->objective;
    double sparsity = o->penalty != DF_PENALTY_NONE ? o->weight * report->sparsity : 0.0;
    return report->reconstruction + sparsity + o->preact * report->preactivation + report->gate +
           set->aux * report->auxiliary + set->multi * report->multi;
}

df_status df_step_check(const df_dict *dict, const df_step_settings *set) {
    DF_TRY(df_extras_check(dict, set));
    return df_objective_check(dict, &set->objective);
}

df_status df_step_fits(const df_dict *d, size_t aux_k) {
    size_t most = aux_k < d->latents ? aux_k : d->latents; // that can be dead
    return df_auxiliary_fits(most, df_aux_entries(d));
}

static df_status check_step(const df_coder *c, size_t rows, const df_step_settings *set) {
    if (!c->training) return df_fail(DF_FAILED, "a training step needs df_coder_train_open first");
    if (rows < c->groups.at.runs)
        return df_fail(DF_FAILED, "a training step needs rows, at least one for each data group");
    DF_TRY(df_step_check(c->dict, set));
    DF_TRY(df_groups_check(c->dict, set, c->groups.at.runs));
    return df_extras_room(c, set);
}

/* Everything up to the gradients of the codes. Weights are untouched. */
static df_status forward(df_coder *c, const float *x, size_t rows, const df_step_settings *set,
                         df_step_report *report) {
    memset(report, 0, sizeof *report);
    DF_TRY(check_step(c, rows, set));
    double t0 = df_now();
    c->positive_window = set->objective.positive_window;
    c->fired_above = (float)set->fired_above;
    DF_TRY(df_encode(c, x, rows, true, set->objective.bandwidth));
    df_dense_choose(c);
    double t1 = df_now();
    DF_TRY(errors(c, set, report));
    double t2 = df_now();
    if (!c->dense) df_sort_by_latent(c, &c->main);
    if (set->multi > 0.0) df_sort_by_latent(c, &c->multi);
    if (df_has_side(c->dict)) df_sort_by_latent(c, &c->side);
    DF_TRY(df_objective_terms(c, set, report));
    report->loss = weighted_loss(set, report);
    report->decode_seconds = t2 - t1 - report->gradient_seconds;
    report->gradient_seconds += df_now() - t2;
    report_screen(c, t1 - t0, report);
    if (!isfinite(report->loss))
        return df_fail(
            DF_FAILED,
            "the loss is not finite (%g): the learning rate is too high, or the data are damaged",
            report->loss);
    return DF_OK;
}

static void move_threshold(float *threshold, float cut, const df_step_settings *set) {
    double rate = set->threshold_rate;
    if (!(rate > 0.0) || !(cut > 0.0f)) return;
    if (*threshold < 0.0f) *threshold = set->threshold_from_zero ? 0.0f : cut;
    *threshold = (float)((1.0 - rate) * (double)*threshold + rate * (double)cut);
}

static void move_thresholds(df_coder *c, const df_step_settings *set) {
    for (size_t n = 0; c->dict->activation == DF_BATCHTOPK && n < df_dict_thresholds(c->dict); n++)
        move_threshold(df_dict_threshold(c->dict, n),
                       c->parts > 0 ? c->part_cut[n].score : c->cut_at.score, set);
}

df_status df_coder_step(df_coder *c, const float *x, size_t rows, const df_step_settings *set,
                        df_step_report *report) {
    double communicated = df_groups_seconds(&c->groups);
    DF_TRY(forward(c, x, rows, set, report));
    double start = df_now();
    df_adam adam = df_adam_at(set->lr, set->beta1, set->beta2, set->epsilon, ++c->state.step);
    df_sink sink = {.adam = &adam,
                    .unit_decoder = set->unit_decoder || set->unit_first,
                    .unit_first = set->unit_first,
                    .raw_threshold = set->objective.raw_threshold,
                    .factor = 1.0f};
    if (set->unit_first) df_unit_rows(c);
    df_split_gradients(c);
    if (set->clip > 0.0) DF_TRY(df_clip(c, set->clip, &sink, report));
    if (set->ema > 0.0 && set->unit_first) df_ema_update(c, set->ema);
    DF_TRY(df_latent_gradients(c, &sink));
    df_skip_gradients(c, &sink);
    for (size_t i = 0; i < c->out && sink.factor < 1.0f; i++) c->center_gradient[i] *= sink.factor;
    df_adam_row(&adam, (df_moments){c->dict->b_dec, c->state.m_center, c->state.v_center},
                c->center_gradient, c->out);
    if (set->ema > 0.0 && !set->unit_first) df_ema_update(c, set->ema);
    move_thresholds(c, set);
    df_count_silent(c, set);
    report->adam_seconds = df_now() - start;
    report->comm_seconds = df_groups_seconds(&c->groups) - communicated;
    return DF_OK;
}

df_status df_coder_gradients(df_coder *c, const float *x, size_t rows, const df_step_settings *set,
                             df_gradients *out, df_step_report *report) {
    DF_TRY(forward(c, x, rows, set, report));
    df_sink sink = {.out = out};
    df_split_gradients(c);
    DF_TRY(df_latent_gradients(c, &sink));
    df_skip_gradients(c, &sink);
    if (out->b_dec != NULL) memcpy(out->b_dec, c->center_gradient, c->out * sizeof *out->b_dec);
    return DF_OK;
}
