/* Direct logit attribution at some positions of a window. A head's part <W_O z, u> is <z, W_O' u>:
 * one product a layer, whatever the number of heads. */
#include "reader.h"

#include <math.h>
#include <string.h>

// direction = C (gain * (W_U[t] - offset)) / scale at scored positions, 0 elsewhere.
static void aim(const lens_reader *r, size_t first, size_t n) {
    const lens_text_plan *p = r->plan;
    size_t d = p->shape->width;
    const uint32_t *target = p->input->text.token + r->window.first + first + 1;
    memset(r->direction, 0, LENS_ROWS * d * sizeof *r->direction);
    for (size_t t = 0; t < n; t++) {
        const float *row = p->read.unembed + target[t] * d;
        double mean = 0.0, scale = (double)r->scale[first + t];
        if (!r->scored[first + t]) continue;
        for (size_t i = 0; i < d && p->read.centred; i++)
            mean += (double)p->read.gain[i] * ((double)row[i] - p->offset[i]) / (double)d;
        for (size_t i = 0; i < d; i++) {
            double u = (double)p->read.gain[i] * ((double)row[i] - p->offset[i]) - mean;
            r->direction[t * d + i] = (float)(u / scale);
        }
    }
}

static double final_bias(const lens_reader *r, uint32_t target) {
    const lens_text_plan *p = r->plan;
    const float *row = p->read.unembed + target * p->shape->width;
    double sum = 0.0;
    for (size_t i = 0; i < p->shape->width && p->read.bias != NULL; i++)
        sum += (double)p->read.bias[i] * ((double)row[i] - p->offset[i]);
    return sum;
}

// Adds the part to a column; returns it.
static double put(const lens_reader *r, size_t column, double part) {
    r->sums[column] += part;
    return part;
}

// turned = direction through the norm behind attention, its scale frozen.
static void turn_back(const lens_reader *r, const df_attention_weights *w, size_t layer,
                      size_t first, size_t n) {
    const df_model_shape *s = r->plan->shape;
    size_t d = s->width, query = s->heads * s->head_width;
    if (w->post_gain == NULL) {
        memcpy(r->turned, r->direction, LENS_ROWS * d * sizeof *r->turned);
        return;
    }
    df_gemm_nt(&(df_gemm){.m = LENS_ROWS,
                          .n = d,
                          .k = query,
                          .alpha = 1.0f,
                          .a = r->z[layer] + first * query,
                          .lda = query,
                          .b = w->o,
                          .ldb = query,
                          .c = r->turned,
                          .ldc = d});
    if (w->o_bias != NULL) df_add_rows(w->o_bias, (df_extent){LENS_ROWS, d}, r->turned);
    for (size_t t = 0; t < n; t++) {
        float *row = r->turned + t * d;
        double scale = sqrt(df_lens_dot(row, row, d) / (double)d + (double)r->plan->read.epsilon);
        for (size_t i = 0; i < d; i++)
            row[i] = (float)((double)r->direction[t * d + i] * (double)w->post_gain[i] / scale);
    }
}

// Parts of one layer, added to total [n].
static void attribute_layer(const lens_reader *r, size_t layer, size_t first, size_t n,
                            double *total) {
    const df_model_shape *s = r->plan->shape;
    const df_attention_weights w = df_model_attention(r->plan->input->model, layer);
    const lens_columns at = df_lens_columns(s);
    size_t d = s->width, h = s->head_width, query = s->heads * h;
    turn_back(r, &w, layer, first, n);
    df_gemm_nn(&(df_gemm){.m = LENS_ROWS,
                          .n = query,
                          .k = d,
                          .alpha = 1.0f,
                          .a = r->turned,
                          .lda = d,
                          .b = w.o,
                          .ldb = query,
                          .c = r->through,
                          .ldc = query});
    for (size_t t = 0; t < n; t++) {
        const float *z = r->z[layer] + (first + t) * query, *u = r->through + t * query;
        if (!r->scored[first + t]) continue;
        for (size_t i = 0; i < s->heads; i++)
            total[t] +=
                put(r, at.head + layer * s->heads + i, df_lens_dot(z + i * h, u + i * h, h));
        if (w.o_bias != NULL)
            total[t] += put(r, at.bias + layer, df_lens_dot(w.o_bias, r->turned + t * d, d));
        total[t] += put(r, at.mlp + layer,
                        df_lens_dot(r->mlp[layer] + (first + t) * d, r->direction + t * d, d));
    }
}

// What stands before the first block: token and position.
static double attribute_start(const lens_reader *r, size_t first, size_t t) {
    const lens_columns at = df_lens_columns(r->plan->shape);
    size_t d = r->plan->shape->width;
    const float *u = r->direction + t * d;
    double both = df_lens_dot(r->stream[0] + (first + t) * d, u, d);
    double position = r->pos != NULL ? df_lens_dot(r->pos + (first + t) * d, u, d) : 0.0;
    put(r, at.whole + DF_LENS_EMBED, both - position);
    put(r, at.whole + DF_LENS_POSITIONS, position);
    return both;
}

void df_lens_attribute(lens_reader *r, size_t first, size_t n) {
    const lens_columns at = df_lens_columns(r->plan->shape);
    const uint32_t *target = r->plan->input->text.token + r->window.first + first + 1;
    double total[LENS_ROWS] = {0};
    aim(r, first, n);
    for (size_t layer = 0; layer < r->plan->shape->layers; layer++)
        attribute_layer(r, layer, first, n, total);
    for (size_t t = 0; t < n; t++) {
        if (!r->scored[first + t]) continue;
        total[t] += attribute_start(r, first, t);
        total[t] += put(r, at.whole + DF_LENS_FINAL_BIAS, final_bias(r, target[t]));
        put(r, at.whole + DF_LENS_LOGIT, r->logit[t]);
        r->gap = fmax(r->gap, fabs(total[t] - r->logit[t]));
    }
}
