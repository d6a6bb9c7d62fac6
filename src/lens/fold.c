/* Weights as the residual stream sees them: gains and centring folded in. */
#include "parts.h"

void df_lens_fold(const float *gain, bool centred, size_t n, double *row) {
    double mean = 0.0;
    for (size_t i = 0; i < n && gain != NULL; i++) row[i] *= (double)gain[i];
    for (size_t i = 0; i < n && centred; i++) mean += row[i] / (double)n;
    for (size_t i = 0; i < n && centred; i++) row[i] -= mean;
}

static void fold_reader(const df_attention_weights *w, head_part part, size_t row, double scale,
                        size_t width, double *out) {
    const float *from = (part == PART_Q ? w->q : part == PART_K ? w->k : w->v) + row * width;
    for (size_t i = 0; i < width; i++) out[i] = (double)from[i] * scale;
}

void df_lens_folded(const df_model *model, head_part part, size_t layer, size_t head, double *out) {
    const df_model_shape *s = df_model_facts(model);
    const df_attention_weights w = df_model_attention(model, layer);
    bool centred = df_model_readout(model).centred;
    const float *rows = part == PART_Q ? w.q_gain : part == PART_K ? w.k_gain : NULL;
    for (size_t j = 0; j < s->head_width; j++) {
        double *to = out + j * s->width;
        size_t row = head * s->head_width + j;
        if (part == PART_O) {
            for (size_t i = 0; i < s->width; i++)
                to[i] = (double)w.o[i * s->heads * s->head_width + row];
            df_lens_fold(w.post_gain, centred, s->width, to);
        } else {
            fold_reader(&w, part, row, rows != NULL ? (double)rows[j] : 1.0, s->width, to);
            df_lens_fold(w.gain, centred, s->width, to);
        }
    }
}
