/* One window under every condition. */
#include "loss_parts.h"

#include <math.h>
#include <string.h>

/* ---- the clean run -------------------------------------------------------------------------- */

static uint32_t largest_of(const float *row, size_t n) {
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (row[i] > row[best]) best = i;
    return (uint32_t)best;
}

static size_t vocabulary_of(const loss_plan *plan, size_t model) {
    return df_model_vocabulary(plan->input->model[model]);
}

// Losses of the window's positions but the last, and the logarithms of their normalisers.
static void score(const loss_plan *plan, loss_window *w, size_t model, const float *logits,
                  double *level) {
    size_t vocabulary = vocabulary_of(plan, model), n = w->rows.count - 1;
    const uint32_t *target = plan->input->text->token + w->rows.first + 1;
    df_nll_rows(logits, target, (df_extent){n, vocabulary}, w->nll);
    for (size_t t = 0; t < n; t++)
        level[t] = w->nll[t] + (double)logits[t * vocabulary + target[t]];
}

// Logits of one row to probabilities; returns their mean logit.
static double to_probabilities(float *row, size_t n, double level) {
    double own = 0.0;
    for (size_t i = 0; i < n; i++) {
        float logit = row[i];
        row[i] = (float)exp((double)logit - level);
        own += (double)row[i] * (double)logit;
    }
    return own;
}

// What later conditions are compared with.
static void keep_clean(const loss_plan *plan, loss_window *w, size_t model) {
    size_t vocabulary = vocabulary_of(plan, model), at = model * plan->context;
    const uint8_t *scored = plan->input->text->scored + w->rows.first;
    double *nll = df_loss_sums(plan, w->sums, model, DF_LOSS_CLEAN, DF_LOSS_NLL);
    double *top1 = df_loss_sums(plan, w->sums, model, DF_LOSS_CLEAN, DF_LOSS_TOP1);
    score(plan, w, model, w->clean[model], w->level + at);
    for (size_t t = 0; t + 1 < w->rows.count; t++) {
        float *row = w->clean[model] + t * vocabulary;
        if (!scored[t]) continue;
        w->top[at + t] = largest_of(row, vocabulary);
        w->own[at + t] = to_probabilities(row, vocabulary, w->level[at + t]);
        nll[t] = w->nll[t];
        top1[t] = 1.0;
    }
}

static df_status run_clean(const loss_plan *plan, loss_window *w, size_t model) {
    const df_dict *dict = plan->dict;
    const uint32_t *ids = plan->input->text->token + w->rows.first;
    float *out[DF_MAX_SITES];
    size_t n = 0;
    for (size_t s = 0; s < dict->sites; s++)
        if (plan->of_model[s] == model)
            out[n++] = w->raw + plan->context * (size_t)dict->site[s].first;
    DF_TRY(df_forward_intervene(w->forward[model], NULL, 0));
    DF_TRY(df_forward_run(w->forward[model], ids, w->rows.count, out, w->clean[model]));
    keep_clean(plan, w, model);
    return DF_OK;
}

df_status df_loss_clean(const loss_plan *plan, loss_window *w, float *x) {
    const df_dict *dict = plan->dict;
    size_t numbers = plan->input->models * plan->conditions * DF_LOSS_QUANTITIES * plan->context;
    memset(w->sums, 0, numbers * sizeof *w->sums);
    for (size_t m = 0; m < plan->input->models; m++) DF_TRY(run_clean(plan, w, m));
    for (size_t s = 0; s < dict->sites; s++) {
        const df_dict_site *site = &dict->site[s];
        for (size_t t = 0; t < w->rows.count; t++)
            memcpy(x + t * dict->width + site->first,
                   w->raw + plan->context * site->first + t * site->width, site->width * sizeof *x);
    }
    if (!df_all_finite(x, w->rows.count * dict->width))
        return df_fail(DF_BAD_INPUT,
                       "window %llu of the held-out text: activations that are not "
                       "finite",
                       (unsigned long long)w->number);
    df_rows_scale(dict, x, w->rows.count);
    return DF_OK;
}

/* ---- a condition ---------------------------------------------------------------------------- */

static df_status splice(void *context, const df_site_rows *rows) {
    const loss_splice *s = context;
    for (size_t r = 0; r < rows->n; r++)
        if (s->changed[rows->first + r])
            memcpy(rows->x + r * rows->width, s->values + (rows->first + r) * rows->width,
                   rows->width * sizeof *rows->x);
    return DF_OK;
}

// Interventions at every written site of the model; returns their number.
static size_t prepare(const loss_plan *plan, loss_window *w, size_t model,
                      df_loss_condition condition, const float *x_hat) {
    size_t n = 0;
    for (size_t s = 0; s < plan->n_written; s++) {
        const loss_site *site = &plan->written[s];
        if (site->model != model) continue;
        df_loss_fill(plan, w, condition, s, x_hat);
        w->splice[n] = (loss_splice){w->values + plan->context * site->out,
                                     plan->input->text->changed + w->rows.first};
        w->edit[n] = (df_intervention){.site = site->site->name,
                                       .edit = DF_EDIT_CALL,
                                       .call = splice,
                                       .context = &w->splice[n]};
        n++;
    }
    return n;
}

// sum p b of the clean run's p and these logits.
static double expected(const float *p, const float *b, size_t n) {
    double sum = 0.0;
    for (size_t i = 0; i < n; i++) sum += (double)p[i] * (double)b[i];
    return sum;
}

// KL = sum p (a - b) + log sum e^b - log sum e^a.
static void compare(const loss_plan *plan, loss_window *w, size_t model, size_t condition,
                    double *level) {
    size_t vocabulary = vocabulary_of(plan, model), at = model * plan->context;
    const uint8_t *scored = plan->input->text->scored + w->rows.first;
    double *nll = df_loss_sums(plan, w->sums, model, condition, DF_LOSS_NLL);
    double *kl = df_loss_sums(plan, w->sums, model, condition, DF_LOSS_KL);
    double *top1 = df_loss_sums(plan, w->sums, model, condition, DF_LOSS_TOP1);
    score(plan, w, model, w->logits, level);
    for (size_t t = 0; t + 1 < w->rows.count; t++) {
        const float *p = w->clean[model] + t * vocabulary, *b = w->logits + t * vocabulary;
        if (!scored[t]) continue;
        nll[t] = w->nll[t];
        kl[t] = w->own[at + t] - expected(p, b, vocabulary) + level[t] - w->level[at + t];
        top1[t] = largest_of(b, vocabulary) == w->top[at + t];
    }
}

static df_status run_condition(const loss_plan *plan, loss_window *w, size_t model,
                               df_loss_condition condition, const float *x_hat) {
    size_t edits = prepare(plan, w, model, condition, x_hat);
    const uint32_t *ids = plan->input->text->token + w->rows.first;
    DF_TRY(df_forward_intervene(w->forward[model], w->edit, edits));
    DF_TRY(df_forward_run(w->forward[model], ids, w->rows.count, NULL, w->logits));
    compare(plan, w, model, condition, w->now);
    return DF_OK;
}

df_status df_loss_conditions(const loss_plan *plan, loss_window *w, const float *x_hat) {
    for (size_t s = 0; plan->input->nulls && s < plan->n_written; s++)
        df_loss_keep(plan, w, s, x_hat);
    for (size_t m = 0; m < plan->input->models; m++)
        for (size_t c = DF_LOSS_SPLICED; c < plan->conditions; c++)
            DF_TRY_AS(run_condition(plan, w, m, (df_loss_condition)c, x_hat),
                      "running window %llu of the held-out text under condition %s",
                      (unsigned long long)w->number, df_loss_name((df_loss_condition)c));
    return DF_OK;
}
