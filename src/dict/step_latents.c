/* Gradients and Adam, one pass over the latents: each row of the weights and moments is read and
 * written once. */
#include "step.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* The rows of the next latents' entries are asked for while this one's are added. */
static void ask_ahead(const df_coder *c, const df_code_store *s, const float *vectors, uint64_t i) {
    for (uint64_t n = i + 4; n < i + 8 && n < s->latent_start[c->local]; n++) {
        df_prefetch(c->input + s->sorted_row[n] * c->width, c->width);
        df_prefetch(vectors + s->sorted_row[n] * c->out, c->out);
    }
}

/* Codes that give gradients, and the vectors that decoder rows learn from, times a factor. */
typedef struct source {
    const df_code_store *codes;
    const float *vectors;
    float factor;
} source;

/* A latent's entries in a run of rows. */
static df_range entries_of(const df_coder *c, const df_code_store *s, size_t j, size_t run) {
    uint64_t start = s->latent_start[j], n = s->latent_start[j + 1] - start;
    df_range part = df_run_part(c, run, s->sorted_row + start, n);
    return (df_range){start + part.first, part.count};
}

/* Adds the entries of one latent that are active for some sites. */
static double add_part_entries(const df_coder *c, df_worker *w, const source *from, size_t j) {
    const df_code_store *s = from->codes;
    double bias = 0.0;
    df_range in = c->dict->in;
    for (uint64_t i = s->latent_start[j]; i < s->latent_start[j + 1]; i++) {
        size_t row = s->sorted_row[i];
        df_add_scaled(w->g_enc, s->sorted_gradient[i], c->input + row * c->width + in.first,
                      in.count);
        df_parts_add(c, s->sorted_sites[i], w->g_dec, from->factor * s->sorted_value[i],
                     from->vectors + row * c->out);
        bias += (double)s->sorted_gradient[i];
    }
    return bias;
}

/* dL/df of n entries (4 or 1) of latent j, whose rows of the error are v: df_code_gradient_span. */
static void late_gradients(const df_coder *c, size_t j, const float *const v[4], size_t n,
                           float *out) {
    size_t width = df_dict_group_of(c->dict, j)->out.count;
    const float *row = df_dict_dec(c->dict, j);
    float product[4];
    if (n == 4)
        df_dot4(row, v, width, product);
    else
        product[0] = df_dot(v[0], row, width);
    for (size_t k = 0; k < n; k++) out[k] = df_code_slope(c, c->late_factor, product[k], j);
}

/* Adds the entries of one latent in a run to its gradients; returns sum of dL/df, which is dL/db.
 */
static double add_entries(const df_coder *c, df_worker *w, source from, size_t j, size_t run) {
    const df_code_store *s = from.codes;
    double bias = 0.0;
    if (s->decoupled) return add_part_entries(c, w, &from, j);
    const df_dict_group *g = df_dict_group_of(c->dict, j);
    const float *input = c->input + g->in.first, *written = from.vectors + df_out_offset(c, g);
    df_range entries = entries_of(c, s, j, run);
    uint64_t i = entries.first, end = i + entries.count;
    while (i < end) {
        size_t n = i + 4 <= end ? 4 : 1;
        const float *x[4], *v[4];
        float a[4];
        for (size_t k = 0; k < n; k++) {
            x[k] = input + s->sorted_row[i + k] * c->width;
            v[k] = written + s->sorted_row[i + k] * c->out;
            a[k] = from.factor * s->sorted_value[i + k];
        }
        if (i % 4 == 0 || n == 4) ask_ahead(c, s, from.vectors, i);
        if (c->late && s == &c->main) late_gradients(c, j, v, n, s->sorted_gradient + i);
        for (size_t k = 0; k < n; k++) bias += (double)s->sorted_gradient[i + k];
        if (n == 4) {
            df_add_scaled4(w->g_enc, s->sorted_gradient + i, x, g->in.count);
            df_add_scaled4(w->g_dec, a, v, g->out.count);
        } else {
            df_add_scaled(w->g_enc, s->sorted_gradient[i], x[0], g->in.count);
            df_add_scaled(w->g_dec, a[0], v[0], g->out.count);
        }
        i += n;
    }
    return bias;
}

/* The same of `side` for the encoder alone. */
static double add_encoder_entries(const df_coder *c, df_worker *w, size_t j, size_t run) {
    double bias = 0.0;
    const df_code_store *s = &c->side;
    const df_dict_group *g = df_dict_group_of(c->dict, j);
    const float *input = c->input + g->in.first;
    df_range entries = entries_of(c, s, j, run);
    for (uint64_t i = entries.first; i < entries.first + entries.count; i++) {
        const float *row = input + s->sorted_row[i] * c->width;
        df_add_scaled(w->g_enc, s->sorted_gradient[i], row, g->in.count);
        bias += (double)s->sorted_gradient[i];
    }
    return bias;
}

/* The pre-activation loss's gradient of all rows, active entries having had theirs added; returns
 * what b_enc gets. */
static double add_inactive(const df_coder *c, df_worker *w, size_t j) {
    double factor = (double)c->preact_factor[j];
    df_range in = df_dict_group_of(c->dict, j)->in;
    const double *sum = c->input_sum + (in.first - c->dict->in.first);
    if (!(factor > 0.0)) return 0.0;
    for (size_t i = 0; i < in.count; i++) w->g_enc[i] -= (float)(factor * sum[i]);
    return -factor * (double)c->batch;
}

/* Adds a vector of this length along a part of the decoder row. */
static void add_direction(const df_dict *d, df_worker *w, size_t j, df_range part, double size) {
    const float *row = df_dict_dec(d, j) + part.first;
    double length = sqrt(df_sum_squares(row, part.count));
    if (length > 0.0) df_add_scaled(w->g_dec + part.first, (float)(size / length), row, part.count);
}

/* The penalties' gradient through the code norm: along each site's decoder direction, the whole
 * row's, or both. */
static void add_norm_gradient(const df_coder *c, df_worker *w, size_t j) {
    const df_dict *d = c->dict;
    double size = (double)c->norm_gradient[j];
    if (!(size > 0.0) || d->code_norm == DF_NORM_NONE) return;
    const df_dict_group *g = df_dict_group_of(d, j);
    bool whole = d->code_norm == DF_NORM_ROOT || d->code_norm == DF_NORM_MIXED;
    if (whole) add_direction(d, w, j, (df_range){0, g->out.count}, size);
    if (d->code_norm == DF_NORM_ROOT) return;
    if (d->code_norm == DF_NORM_MIXED) size *= DF_MIXED_SUM;
    for (size_t s = 0; s < d->sites; s++) {
        df_range part = {d->site[s].first - g->out.first, d->site[s].width};
        if (df_dict_writes(g, &d->site[s])) add_direction(d, w, j, part, size);
    }
}

/* Sums of dL/dp: of the main codes, of the others. */
typedef struct pulls {
    double main, other;
} pulls;

/* What the entries of a run give: g_enc, g_dec, and their pulls. */
static pulls run_gradient(const df_coder *c, df_worker *w, size_t j, size_t run) {
    const df_dict_group *g = df_dict_group_of(c->dict, j);
    const source main = {&c->main, df_vectors_of(c, j), c->error_factor};
    memset(w->g_enc, 0, g->in.count * sizeof *w->g_enc);
    memset(w->g_dec, 0, g->out.count * sizeof *w->g_dec);
    pulls p = {c->dense ? df_dense_latent(c, w, j) : add_entries(c, w, main, j, run), 0.0};
    if (c->aux.codes.rows > 0)
        p.other += add_entries(c, w, (source){&c->aux, c->aux_error, c->aux_factor}, j, run);
    if (c->multi.codes.rows > 0)
        p.other += add_entries(c, w, (source){&c->multi, c->multi_error, c->multi_factor}, j, run);
    if (c->side_moves_decoder)
        p.other += add_entries(c, w, (source){&c->side, c->gate_error, c->gate_factor}, j, run);
    else if (c->side_moves_encoder)
        p.other += add_encoder_entries(c, w, j, run);
    return p;
}

/* ---- runs of rows --------------------------------------------------------------------------- */

static bool fired(const df_coder *c, size_t j, size_t run) {
    df_range entries = entries_of(c, &c->main, j, run);
    for (uint64_t i = entries.first; i < entries.first + entries.count; i++)
        if (c->main.sorted_value[i] > c->fired_above) return true;
    return false;
}

/* All that is summed for a latent over a run, in the layout of df_gradient_at. */
static void fill_run(const df_coder *c, df_worker *w, size_t j, size_t run, float *out) {
    const df_dict_group *g = df_dict_group_of(c->dict, j);
    pulls p = run_gradient(c, w, j, run);
    memcpy(out, w->g_enc, g->in.count * sizeof *out);
    memcpy(out + g->in.count, w->g_dec, g->out.count * sizeof *out);
    float *sum = out + g->in.count + g->out.count;
    size_t at = (run + 1) * c->local + j;
    sum[SUM_MAIN] = (float)p.main;
    sum[SUM_OTHER] = (float)p.other;
    sum[SUM_NORM] = c->norm_gradient[at];
    sum[SUM_THETA] = c->theta_gradient != NULL ? c->theta_gradient[at] : 0.0f;
    sum[SUM_R] = c->r_gradient != NULL ? c->r_gradient[at] : 0.0f;
    sum[SUM_B] = c->b_gradient != NULL ? c->b_gradient[at] : 0.0f;
    sum[SUM_FIRED] = fired(c, j, run) ? 1.0f : 0.0f;
}

/* Sums a latent's runs to the maximal subtrees of this group. */
static void split_latent(df_coder *c, df_worker *w, size_t j) {
    const df_group_place *at = &c->groups.at;
    df_node node[128];
    size_t nodes = df_group_nodes(at, at->group, node), start = df_gradient_at(c->dict, j);
    size_t width = df_gradient_at(c->dict, j + 1) - start, run = 0;
    for (size_t n = 0; n < nodes; n++) {
        df_sum_tree t = {.sums = w->run_stack, .width = width};
        size_t end = ((size_t)node[n].index + 1) << node[n].height;
        size_t first = df_groups_runs(at, at->group).first;
        for (; run < c->runs && first + run < end; run++)
            fill_run(c, w, j, run, df_sum_tree_leaf(&t, first + run, (df_range){0, width}));
        df_sum_tree_close(&t);
        memcpy(c->gradients + nodes * start + n * width, t.sums, width * sizeof *t.sums);
    }
}

void df_split_gradients(df_coder *c) {
    if (!df_is_split(c)) return;
#pragma omp parallel for schedule(dynamic, 16)
    for (size_t j = 0; j < c->local; j++) split_latent(c, df_coder_worker(c), j);
    df_join_gradients(c);
}

/* A latent's sums over the whole batch, as run_gradient leaves them. */
static pulls take_gradient(df_coder *c, df_worker *w, size_t j) {
    const df_dict_group *g = df_dict_group_of(c->dict, j);
    const float *from = c->gradients + df_gradient_at(c->dict, j);
    const float *sum = from + g->in.count + g->out.count;
    memcpy(w->g_enc, from, g->in.count * sizeof *from);
    memcpy(w->g_dec, from + g->in.count, g->out.count * sizeof *from);
    c->norm_gradient[j] = sum[SUM_NORM];
    if (c->theta_gradient != NULL) c->theta_gradient[j] = sum[SUM_THETA];
    if (c->r_gradient != NULL) c->r_gradient[j] = sum[SUM_R];
    if (c->b_gradient != NULL) c->b_gradient[j] = sum[SUM_B];
    return (pulls){(double)sum[SUM_MAIN], (double)sum[SUM_OTHER]};
}

bool df_latent_fired(const df_coder *c, size_t j) {
    if (!df_is_split(c)) return fired(c, j, 0);
    return c->gradients[df_gradient_at(c->dict, j + 1) - GRADIENT_SUMS + SUM_FIRED] > 0.0f;
}

/* ---- the whole batch ------------------------------------------------------------------------ */

/* What b_enc gets, and what all pre-activations get: a gate's magnitude leaves out its bias. */
typedef struct flow {
    float bias, all;
} flow;

static flow latent_gradient(df_coder *c, df_worker *w, size_t j) {
    bool gated = c->dict->activation == DF_GATED;
    pulls p = df_is_split(c) ? take_gradient(c, w, j) : run_gradient(c, w, j, 0);
    double bias = p.other;
    if (c->preact) bias += add_inactive(c, w, j);
    add_norm_gradient(c, w, j);
    df_bind_gradient(c->dict, j, w->g_enc, w->g_dec);
    return (flow){(float)(gated ? bias : p.main + bias), (float)(p.main + bias)};
}

/* Takes the part along the decoder row out of its gradient. */
static void project(float *g, const float *row, size_t n) {
    double squares = df_sum_squares(row, n);
    if (squares > 0.0) df_add_scaled(g, (float)(-(double)df_dot(g, row, n) / squares), row, n);
}

static void normalise(float *row, size_t n) {
    double length = sqrt(df_sum_squares(row, n));
    float scale = length > 0.0 ? (float)(1.0 / length) : 1.0f;
    for (size_t i = 0; i < n; i++) row[i] *= scale;
}

/* Adam moves theta, which stops at 0, or its logarithm. */
static void move_theta(df_coder *c, size_t j, const df_sink *sink) {
    df_trainer_state *s = &c->state;
    float *theta = c->dict->theta + j, moved = *theta;
    if (!sink->raw_threshold) moved = (float)log((double)(*theta > FLT_MIN ? *theta : FLT_MIN));
    df_adam_row(sink->adam, (df_moments){&moved, s->m_theta + j, s->v_theta + j},
                c->theta_gradient + j, 1);
    if (sink->raw_threshold)
        *theta = moved < 0.0f ? 0.0f : moved;
    else
        *theta = (float)exp((double)moved);
}

static void move_magnitude(df_coder *c, size_t j, const df_sink *sink) {
    df_trainer_state *s = &c->state;
    df_dict *d = c->dict;
    df_adam_row(sink->adam, (df_moments){d->r_mag + j, s->m_r_mag + j, s->v_r_mag + j},
                c->r_gradient + j, 1);
    df_adam_row(sink->adam, (df_moments){d->b_mag + j, s->m_b_mag + j, s->v_b_mag + j},
                c->b_gradient + j, 1);
}

static void apply_adam(df_coder *c, df_worker *w, size_t j, float bias, const df_sink *sink) {
    const df_dict_group *g = df_dict_group_of(c->dict, j);
    float *enc = df_dict_enc(c->dict, j), *dec = df_dict_dec(c->dict, j);
    size_t enc_at = (size_t)(enc - c->dict->w_enc), dec_at = (size_t)(dec - c->dict->w_dec);
    df_trainer_state *s = &c->state;
    df_adam_row(sink->adam, (df_moments){enc, s->m_enc + enc_at, s->v_enc + enc_at}, w->g_enc,
                g->in.count);
    df_adam_row(sink->adam, (df_moments){dec, s->m_dec + dec_at, s->v_dec + dec_at}, w->g_dec,
                g->out.count);
    df_adam_row(sink->adam, (df_moments){c->dict->b_enc + j, s->m_bias + j, s->v_bias + j}, &bias,
                1);
    if (sink->unit_decoder && !sink->unit_first) normalise(dec, g->out.count);
    df_bind_moved(c, j);
    if (c->dict->activation == DF_JUMPRELU) move_theta(c, j, sink);
    if (c->dict->activation == DF_GATED) move_magnitude(c, j, sink);
}

static double measure(const df_coder *c, const df_worker *w, size_t j, float bias) {
    const df_dict_group *g = df_dict_group_of(c->dict, j);
    double sum = df_sum_squares(w->g_enc, g->in.count) + df_sum_squares(w->g_dec, g->out.count) +
                 df_sum_squares(&bias, 1);
    if (c->dict->activation == DF_JUMPRELU) sum += df_sum_squares(c->theta_gradient + j, 1);
    if (c->dict->activation == DF_GATED)
        sum += df_sum_squares(c->r_gradient + j, 1) + df_sum_squares(c->b_gradient + j, 1);
    return sum;
}

static void scale(float *row, size_t n, float factor) {
    for (size_t i = 0; i < n; i++) row[i] *= factor;
}

static void scale_all(df_coder *c, df_worker *w, size_t j, float factor) {
    const df_dict_group *g = df_dict_group_of(c->dict, j);
    scale(w->g_enc, g->in.count, factor);
    scale(w->g_dec, g->out.count, factor);
    if (c->dict->activation == DF_JUMPRELU) c->theta_gradient[j] *= factor;
    if (c->dict->activation == DF_GATED) {
        c->r_gradient[j] *= factor;
        c->b_gradient[j] *= factor;
    }
}

static void hand_out(const df_coder *c, const df_worker *w, size_t j, float bias,
                     const df_gradients *out) {
    const df_dict *d = c->dict;
    const df_dict_group *g = df_dict_group_of(d, j);
    if (out->w_enc != NULL)
        memcpy(out->w_enc + (df_dict_enc(d, j) - d->w_enc), w->g_enc, g->in.count * sizeof(float));
    if (out->w_dec != NULL)
        memcpy(out->w_dec + (df_dict_dec(d, j) - d->w_dec), w->g_dec, g->out.count * sizeof(float));
    if (out->b_enc != NULL) out->b_enc[j] = bias;
    if (out->theta != NULL) out->theta[j] = c->theta_gradient[j];
    if (out->r_mag != NULL) out->r_mag[j] = c->r_gradient[j];
    if (out->b_mag != NULL) out->b_mag[j] = c->b_gradient[j];
}

/* `squares`: of the latent's block, when a norm is wanted. */
static void use(df_coder *c, df_worker *w, size_t j, float bias, const df_sink *sink,
                double *squares) {
    if (sink->out != NULL) {
        hand_out(c, w, j, bias, sink->out);
        return;
    }
    if (sink->unit_decoder)
        project(w->g_dec, df_dict_dec(c->dict, j), df_dict_group_of(c->dict, j)->out.count);
    if (squares != NULL) {
        *squares += measure(c, w, j, bias);
        return;
    }
    if (sink->factor < 1.0f) scale_all(c, w, j, sink->factor);
    apply_adam(c, w, j, sink->factor < 1.0f ? bias * sink->factor : bias, sink);
}

/* p = W (x - b_dec): b_dec's gradient through the encoder is minus the sum of b_enc's times the
 * encoder rows. */
static void block_gradients(df_coder *c, df_worker *w, size_t b, const df_sink *sink) {
    df_range latents = df_local_block(c, b);
    double *center = c->block_leaves + b * c->out;
    memset(center, 0, c->out * sizeof *center);
    for (size_t j = latents.first; j < latents.first + latents.count; j++) {
        const df_dict_group *g = df_dict_group_of(c->dict, j);
        flow to = latent_gradient(c, w, j);
        const float *row = df_dict_enc(c->dict, j);
        size_t first = g->in.first - c->dict->in.first;
        if (c->dict->subtract_bias && to.all != 0.0f)
            for (size_t i = 0; i < g->in.count; i++)
                center[first + i] += (double)to.all * (double)row[i];
        use(c, w, j, to.bias, sink, sink->squares != NULL ? sink->squares + b : NULL);
    }
}

void df_unit_rows(df_coder *c) {
#pragma omp parallel for schedule(static)
    for (size_t j = 0; j < c->local; j++)
        normalise(df_dict_dec(c->dict, j), df_dict_group_of(c->dict, j)->out.count);
}

df_status df_latent_gradients(df_coder *c, const df_sink *sink) {
    if (c->dense) df_dense_prepare(c);
#pragma omp parallel for schedule(dynamic)
    for (size_t b = 0; b < c->my_blocks.count; b++) block_gradients(c, df_coder_worker(c), b, sink);
    if (!c->dict->subtract_bias || sink->centered) return DF_OK;
    DF_TRY(df_block_sums(c, c->out, c->block_leaves, c->totals));
    for (size_t i = 0; i < c->out; i++) c->center_gradient[i] -= (float)c->totals[i];
    return DF_OK;
}
