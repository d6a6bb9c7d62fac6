/* Multi-TopK (Gao et al. 2024, arXiv 2406.04093; sparsify): four times as many latents must do well
 * too, so that codes stay useful at other k. */
#include "objective.h"

df_status df_multi(df_coder *c, const df_step_settings *set, df_step_report *report) {
    size_t k = df_multi_k(c->dict);
    double squares;
    df_select_rows(c, (df_view){.n = c->local}, k, NULL, &c->multi);
    df_error_rows(c, &c->multi, c->multi_error, NULL);
    DF_TRY(df_total_squares(c, c->multi_error, &squares));
    c->multi_factor = 0.0f;
    if (c->variance > 0.0) {
        report->multi = squares / c->variance;
        c->multi_factor = (float)(-2.0 * set->multi / c->variance);
    }
    const df_code_factor back = {.product = set->aux_decoder_only ? 0.0f : c->multi_factor};
    df_code_gradients(c, &c->multi, c->multi_error, back);
    DF_TRY(df_column_sums(c, c->multi_error, c->out, c->out, c->totals));
    for (size_t i = 0; i < c->out; i++)
        c->center_gradient[i] += (float)((double)c->multi_factor * c->totals[i]);
    return DF_OK;
}
