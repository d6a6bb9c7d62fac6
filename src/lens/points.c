/* The logit lens at some positions of a window. */
#include "reader.h"

#include <string.h>

double df_lens_dot(const float *a, const float *b, size_t n) {
    enum { LANES = 8 };
    double lane[LANES] = {0}, sum = 0.0;
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t j = 0; j < LANES; j++) lane[j] += (double)a[i + j] * (double)b[i + j];
    for (size_t j = 0; i + j < n; j++) lane[j] += (double)a[i + j] * (double)b[i + j];
    for (size_t j = 0; j < LANES; j++) sum += lane[j];
    return sum;
}

static uint32_t largest_of(const float *row, size_t n) {
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (row[i] > row[best]) best = i;
    return (uint32_t)best;
}

// logits = W_U norm(x), before the soft-cap.
static void read_out(const lens_reader *r, const float *x) {
    const lens_text_plan *p = r->plan;
    size_t d = p->shape->width, vocabulary = p->shape->vocabulary;
    const df_extent extent = {LENS_ROWS, d};
    if (p->read.centred)
        df_layer_norm(x, p->read.gain, p->read.bias, p->read.epsilon, extent, r->normed);
    else
        df_rms_norm(x, p->read.gain, p->read.epsilon, extent, r->normed);
    df_gemm_nt(&(df_gemm){.m = LENS_ROWS,
                          .n = vocabulary,
                          .k = d,
                          .alpha = 1.0f,
                          .a = r->normed,
                          .lda = d,
                          .b = p->read.unembed,
                          .ldb = d,
                          .c = r->logits,
                          .ldc = vocabulary});
}

static void cap(const lens_reader *r) {
    const lens_text_plan *p = r->plan;
    if (p->read.cap > 0.0f) df_soft_cap(p->read.cap, LENS_ROWS * p->shape->vocabulary, r->logits);
}

// row = softmax of the logits of position t.
static void distribute(const lens_reader *r, size_t t, float *row) {
    size_t vocabulary = r->plan->shape->vocabulary;
    memcpy(row, r->logits + t * vocabulary, vocabulary * sizeof *row);
    df_causal_softmax(row, (df_extent){1, vocabulary}, vocabulary - 1, (df_score_rule){1.0f, 0, 0});
}

static const uint32_t *target_of(const lens_reader *r, size_t first) {
    return r->plan->input->text.token + r->window.first + first + 1;
}

// The logit that is attributed, of the final logits before the soft-cap.
static double attributed(const lens_reader *r, size_t t, uint32_t target) {
    size_t vocabulary = r->plan->shape->vocabulary;
    const float *row = r->logits + t * vocabulary;
    int64_t against = r->plan->input->against;
    double mean = 0.0;
    if (against >= 0) return (double)row[target] - (double)row[against];
    for (size_t v = 0; v < vocabulary; v++) mean += (double)row[v];
    return (double)row[target] - mean / (double)vocabulary;
}

static double *sum_at(const lens_reader *r, size_t quantity, size_t point) {
    const df_model_shape *s = r->plan->shape;
    return r->sums + df_lens_columns(s).point + quantity * (s->layers + 1) + point;
}

static void add(const lens_reader *r, size_t point, const double figures[DF_LENS_QUANTITIES]) {
    for (size_t q = 0; q < DF_LENS_QUANTITIES; q++) *sum_at(r, q, point) += figures[q];
}

// The last point: what the others are compared with.
static void read_last(lens_reader *r, size_t first, size_t n) {
    const df_model_shape *s = r->plan->shape;
    const uint32_t *target = target_of(r, first);
    size_t vocabulary = s->vocabulary;
    read_out(r, r->stream[s->layers] + first * s->width);
    for (size_t t = 0; t < n; t++)
        if (r->scored[first + t]) r->logit[t] = attributed(r, t, target[t]);
    cap(r);
    df_nll_rows(r->logits, target, (df_extent){n, vocabulary}, r->nll);
    for (size_t t = 0; t < n; t++) {
        const float *logits = r->logits + t * vocabulary;
        if (!r->scored[first + t]) continue;
        distribute(r, t, r->p + t * vocabulary);
        r->level[t] = r->nll[t] + (double)logits[target[t]];
        r->own[t] = df_lens_dot(r->p + t * vocabulary, logits, vocabulary);
        r->top[t] = largest_of(logits, vocabulary);
        add(r, s->layers,
            (double[]){[DF_LENS_NLL] = r->nll[t],
                       [DF_LENS_ENTROPY] = r->level[t] - r->own[t],
                       [DF_LENS_TOP1] = 1.0});
    }
}

// KL = sum p (a - b) + log sum e^b - log sum e^a.
static void read_point(lens_reader *r, size_t point, size_t first, size_t n) {
    const df_model_shape *s = r->plan->shape;
    const uint32_t *target = target_of(r, first);
    size_t vocabulary = s->vocabulary;
    read_out(r, r->stream[point] + first * s->width);
    cap(r);
    df_nll_rows(r->logits, target, (df_extent){n, vocabulary}, r->nll);
    for (size_t t = 0; t < n; t++) {
        const float *logits = r->logits + t * vocabulary;
        if (!r->scored[first + t]) continue;
        double level = r->nll[t] + (double)logits[target[t]];
        double crossed = df_lens_dot(r->p + t * vocabulary, logits, vocabulary);
        distribute(r, t, r->row);
        add(r, point,
            (double[]){[DF_LENS_NLL] = r->nll[t],
                       [DF_LENS_KL] = r->own[t] - crossed + level - r->level[t],
                       [DF_LENS_ENTROPY] = level - df_lens_dot(r->row, logits, vocabulary),
                       [DF_LENS_TOP1] = largest_of(logits, vocabulary) == r->top[t]});
    }
}

void df_lens_read_points(lens_reader *r, size_t first, size_t n) {
    read_last(r, first, n);
    for (size_t point = 0; point < r->plan->shape->layers; point++) read_point(r, point, first, n);
}
