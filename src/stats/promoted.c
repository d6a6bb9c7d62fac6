/* What tokens a latent promotes: its decoder direction through the final norm's gain and the
 * unembedding (the logit lens of a direction; nostalgebraist 2020). The direction is scaled to unit
 * length, so that latents compare. */
#include "stats_internal.h"

#include <math.h>

enum {
    LATENTS_AT_ONCE = 16
}; /* divides every rank's share of latents but the last: fixed shapes, fixed bits */

/* direction [16, width]: unit decoder rows of one site times the gain; missing latents, and those
 * that do not write the site, are zero rows. */
static void directions(const df_dict *dict, size_t site, size_t first, const float *gain,
                       float *direction) {
    const df_dict_site *s = &dict->site[site];
    for (size_t i = 0; i < LATENTS_AT_ONCE; i++) {
        float *out = direction + i * s->width;
        bool writes =
            first + i < dict->mine.count && df_dict_writes(df_dict_group_of(dict, first + i), s);
        if (!writes) {
            for (size_t c = 0; c < s->width; c++) out[c] = 0.0f;
            continue;
        }
        size_t column = s->first - df_dict_group_of(dict, first + i)->out.first;
        const float *row = df_dict_dec(dict, first + i) + column;
        double square = 0.0;
        for (size_t c = 0; c < s->width; c++) square += (double)row[c] * (double)row[c];
        float scale = square > 0.0 ? (float)(1.0 / sqrt(square)) : 0.0f;
        for (size_t c = 0; c < s->width; c++) out[c] = row[c] * scale * gain[c];
    }
}

/* The p largest of logits [vocabulary], ties to the smaller token. */
static void best_tokens(const float *logits, size_t vocabulary, size_t p, uint32_t *token,
                        float *logit) {
    size_t kept = 0;
    for (size_t v = 0; v < vocabulary; v++) {
        if (kept == p && !(logits[v] > logit[p - 1])) continue;
        size_t at = kept < p ? kept++ : p - 1;
        while (at > 0 && logit[at - 1] < logits[v]) {
            logit[at] = logit[at - 1];
            token[at] = token[at - 1];
            at--;
        }
        logit[at] = logits[v];
        token[at] = (uint32_t)v;
    }
}

/* The tokens of one site, the n-th that is written. */
static df_status promote(const df_dict *dict, const df_model *model, size_t site, size_t n,
                         promoted *out) {
    size_t vocabulary = df_model_vocabulary(model), width = dict->site[site].width;
    float *direction = NULL, *logits = NULL;
    df_status status;
    DF_GO(DF_NEW(direction, LATENTS_AT_ONCE * width));
    DF_GO(DF_NEW(logits, LATENTS_AT_ONCE * vocabulary));
    for (size_t first = 0; first < dict->mine.count; first += LATENTS_AT_ONCE) {
        directions(dict, site, first, df_model_final_norm(model), direction);
        df_gemm_nt(&(df_gemm){.m = LATENTS_AT_ONCE,
                              .n = vocabulary,
                              .k = width,
                              .alpha = 1.0f,
                              .a = direction,
                              .lda = width,
                              .b = df_model_unembed(model),
                              .ldb = width,
                              .c = logits,
                              .ldc = vocabulary});
        for (size_t i = 0; i < LATENTS_AT_ONCE && first + i < dict->mine.count; i++) {
            size_t at = ((first + i) * out->models + n) * out->p;
            best_tokens(logits + i * vocabulary, vocabulary, out->p, out->token + at,
                        out->logit + at);
        }
    }
done:
    df_free(direction);
    df_free(logits);
    return status;
}

size_t promoted_tokens(const df_dict *dict, const df_model_shape *const *shape, size_t p) {
    for (size_t s = 0; p > 0 && s < dict->sites; s++) {
        if (!dict->site[s].output) continue;
        if (shape == NULL || shape[s]->width != dict->site[s].width) return 0;
        if (p > shape[s]->vocabulary) p = shape[s]->vocabulary;
    }
    return p;
}

size_t promoted_bytes(const df_dict *dict, size_t p) {
    return dict->mine.count * df_dict_outputs(dict) * p * (sizeof(uint32_t) + sizeof(float));
}

size_t promoted_scratch(const df_dict *dict, const df_model_shape *const *shape, size_t p) {
    size_t most = 0;
    for (size_t s = 0; p > 0 && s < dict->sites; s++) {
        size_t each = dict->site[s].width + shape[s]->vocabulary;
        if (dict->site[s].output && each > most) most = each;
    }
    return LATENTS_AT_ONCE * most * sizeof(float);
}

df_status promoted_new(const df_dict *dict, const df_stats_input *input, size_t p, promoted *out) {
    const df_model_shape *shape[DF_MAX_SITES];
    for (size_t s = 0; input->models != NULL && s < input->n; s++)
        shape[s] = df_model_facts(input->models[s]);
    *out = (promoted){.count = dict->mine.count,
                      .models = df_dict_outputs(dict),
                      .p = promoted_tokens(dict, input->models != NULL ? shape : NULL, p)};
    DF_TRY(DF_NEW(out->token, out->count * out->models * out->p));
    DF_TRY(DF_NEW(out->logit, out->count * out->models * out->p));
    for (size_t s = 0, n = 0; out->p > 0 && s < input->n; s++)
        if (dict->site[s].output) DF_TRY(promote(dict, input->models[s], s, n++, out));
    return DF_OK;
}

void promoted_free(promoted *x) {
    df_free(x->token);
    df_free(x->logit);
}
