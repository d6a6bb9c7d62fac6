/* AuxK: dead latents learn to explain the error (Gao et al. 2024, arXiv 2406.04093), in the
 * variants of public trainers. */
#include "objective.h"

static uint64_t list_dead(df_coder *c, uint64_t dead_rows) {
    c->dead = 0;
    for (size_t j = 0; j < c->local; j++)
        if (c->state.silent[j] >= dead_rows) c->dead_list[c->dead++] = (uint32_t)j;
    uint64_t total = c->dead;
    df_sum_u64(c->comm, &total, 1);
    return total;
}

/* e^ - t of all rows into aux_error; b_dec on both sides leaves the difference as it is. */
static void aux_error(df_coder *c, df_aux_bias bias) {
    df_range mine = df_share(c->rows, c->size, c->rank);
    float *out = c->size > 1 ? c->mine : c->aux_error;
    const float *e = c->error + mine.first * c->out;
    df_decode(c, &c->aux.codes, false, out);
    for (size_t r = 0; r < mine.count && bias == DF_AUX_BIAS_DECODE; r++)
        df_add_row(out + r * c->out, c->dict->b_dec, c->out);
    for (size_t i = 0; i < mine.count * c->out; i++) out[i] -= e[i];
    if (c->size > 1) df_gather_rows(c, c->mine, c->aux_error);
}

static void add_squares(const df_coder *c, const df_row_terms *t, df_range rows, double *out) {
    for (size_t r = rows.first; r < rows.first + rows.count; r++)
        *out += df_sum_squares(t->rows + r * c->out, c->out);
}

df_status df_total_squares(df_coder *c, const float *vectors, double *out) {
    return df_row_sums(c, 1, &(df_row_terms){.add = add_squares, .rows = vectors}, out);
}

static double normaliser(const df_coder *c, df_aux_normaliser which, double spread) {
    return which == DF_AUX_RESIDUAL ? spread
           : which == DF_AUX_TARGET ? c->variance / (double)c->batch
                                    : 1.0;
}

/* An attached error pulls on the codes that left it: all prefixes' errors change by the same. */
static void attach(df_coder *c, df_code_factor factor) {
    float share = -c->aux_factor / c->error_factor;
    size_t n = c->rows * c->out, planes = c->dict->prefixes;
    for (size_t g = 0; g < (planes > 0 ? planes : 1); g++) {
        float *vectors = planes > 0 ? c->nested + g * c->max_rows * c->out : c->error;
        for (size_t i = 0; i < n; i++) vectors[i] -= share * c->aux_error[i];
    }
    if (planes > 0)
        df_nested_code_gradients(c, factor);
    else
        df_code_gradients(c, &c->main, c->error, factor);
}

/* b_dec learns from the auxiliary decode, and from an attached error. */
static df_status add_center(df_coder *c, const df_step_settings *set) {
    double share = (set->aux_bias != DF_AUX_BIAS_NONE) + (set->aux_attached ? 1.0 : 0.0);
    if (!(share > 0.0)) return DF_OK;
    DF_TRY(df_column_sums(c, c->aux_error, c->out, c->out, c->totals));
    for (size_t i = 0; i < c->out; i++)
        c->center_gradient[i] += (float)(share * (double)c->aux_factor * c->totals[i]);
    return DF_OK;
}

df_status df_auxiliary_fits(size_t k, size_t room) {
    if (k <= room) return DF_OK;
    return df_fail(DF_USAGE,
                   "aux_k is %zu; the coder has room for at most %zu (the larger of 512 and half a "
                   "site's width)",
                   k, room);
}

df_status df_auxiliary(df_coder *c, const df_step_settings *set, df_code_factor factor,
                       double spread, df_step_report *report) {
    report->dead = list_dead(c, set->dead_rows);
    c->aux_factor = 0.0f;
    c->aux.codes.rows = 0;
    double below = normaliser(c, set->aux_normaliser, spread), scale = 1.0;
    size_t k = report->dead < set->aux_k ? report->dead : set->aux_k;
    if (!(set->aux > 0.0) || k == 0 || !(below > 0.0)) return DF_OK;
    DF_TRY(df_auxiliary_fits(k, c->aux_room));
    c->raw = set->aux_raw;
    df_select_rows(c, (df_view){.n = c->dead, .list = c->dead_list}, k, NULL, &c->aux);
    c->raw = false;
    aux_error(c, set->aux_bias);
    double squares;
    DF_TRY(df_total_squares(c, c->aux_error, &squares));
    if (set->aux_scaled) scale = (double)k / (double)set->aux_k;
    report->auxiliary = scale * squares / (double)c->batch / below;
    c->aux_factor = (float)(2.0 * set->aux * scale / ((double)c->batch * below));
    const df_code_factor back = {.product = set->aux_decoder_only ? 0.0f : c->aux_factor};
    df_code_gradients(c, &c->aux, c->aux_error, back);
    df_sort_by_latent(c, &c->aux);
    if (set->aux_attached) attach(c, factor);
    return add_center(c, set);
}
