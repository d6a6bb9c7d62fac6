/* The loss evaluation: a pass for means and covariances, a pass for the conditions. Windows fall
 * into 64 buckets, whose ranks run them in order; every rank runs as many windows at a time as it
 * has threads, and all ranks reconstruct together. */
#include "loss_parts.h"

#include <math.h>
#include <omp.h>
#include <string.h>

typedef struct loss_pass {
    df_comm *comm;
    df_kernels *kernels;
    loss_plan plan;
    df_dict *dict;
    df_coder *coder;
    size_t slots;         // windows at a time, the same on every rank
    loss_window *window;  // [slots]
    float *x, *x_hat;     // [slots, context, width], [slots, context, out]
    df_range buckets;     // of this rank
    float *rows;          // [context, 2, widest written site]
    double *sums;         // [buckets, sums of a window]
    double *pieces;       // [pieces of this rank's windows, models * conditions] sums of KL
    size_t n_pieces;      // that are there
    double *column;       // [DF_BUCKETS, 1 + out] number and sums of changed rows
    df_moments **moments; // [n_written, 2] of each half while they are gathered
    size_t bucket;        // that moments are at; DF_BUCKETS: none yet
    df_carried failure;   // of a worker; at: the window
} loss_pass;

static uint64_t bucket_start(const loss_pass *p, size_t bucket) {
    return df_loss_bucket(p->plan.input->text, bucket);
}

static size_t bucket_of(const loss_pass *p, uint64_t window) {
    size_t b = (size_t)((window * DF_BUCKETS) / p->plan.input->text->windows);
    while (b + 1 < DF_BUCKETS && bucket_start(p, b + 1) <= window) b++;
    while (bucket_start(p, b) > window) b--;
    return b;
}

static size_t sums_of(const loss_pass *p) {
    return p->plan.input->models * p->plan.conditions * DF_LOSS_QUANTITIES * p->plan.context;
}

/* ---- opening -------------------------------------------------------------------------------- */

static df_status find_model(loss_plan *plan, size_t s) {
    const df_dict_site *site = &plan->dict->site[s];
    for (size_t m = 0; m < plan->input->models; m++)
        if (strcmp(site->model, plan->input->name[m]) == 0) {
            size_t width;
            plan->of_model[s] = m;
            DF_TRY(df_model_site_width(df_model_facts(plan->input->model[m]), site->name,
                                       plan->context, &width));
            if (width == site->width) return DF_OK;
            return df_fail(DF_BAD_INPUT, "%s of model %s is %zu wide, the dictionary's %zu",
                           site->name, site->model, width, (size_t)site->width);
        }
    return df_fail(DF_BAD_INPUT, "the dictionary reads model %s, which is not among the models",
                   site->model);
}

static df_status null_room(loss_site *w, int i) {
    DF_TRY(DF_NEW(w->root[i], w->width * w->width));
    DF_TRY(DF_NEW(w->linear[i].w, w->width * w->width));
    return DF_NEW(w->linear[i].b, w->width);
}

static df_status make_plan(loss_pass *p, const df_loss_input *input) {
    loss_plan *plan = &p->plan;
    size_t outputs = df_dict_outputs(p->dict);
    *plan = (loss_plan){.dict = p->dict,
                        .input = input,
                        .conditions = df_loss_outline(p->dict, input).conditions,
                        .context = input->text->context};
    DF_TRY(DF_NEW(plan->written, outputs));
    for (size_t s = 0; s < p->dict->sites; s++) {
        const df_dict_site *site = &p->dict->site[s];
        DF_TRY(find_model(plan, s));
        if (!site->output) continue;
        loss_site *w = &plan->written[plan->n_written++];
        *w = (loss_site){.site = site,
                         .model = plan->of_model[s],
                         .width = (size_t)site->width,
                         .out = (size_t)site->first - p->dict->out.first};
        DF_TRY(DF_NEW(w->mean, w->width));
        for (int i = 0; input->nulls && i < 2; i++) DF_TRY(null_room(w, i));
    }
    DF_TRY(DF_NEW(plan->half, input->text->window[input->text->windows]));
    df_loss_halves(input->text, input->seed, plan->half);
    return DF_OK;
}

static df_status open_forward(const loss_plan *plan, size_t model, df_forward **out) {
    const char *site[DF_MAX_SITES];
    size_t n = 0;
    for (size_t s = 0; s < plan->dict->sites; s++)
        if (plan->of_model[s] == model) site[n++] = plan->dict->site[s].name;
    return df_forward_open(plan->input->model[model], plan->context, site, n, out);
}

static size_t widest_site(const loss_plan *plan) {
    size_t widest = 0;
    for (size_t s = 0; s < plan->n_written; s++)
        if (plan->written[s].width > widest) widest = plan->written[s].width;
    return widest;
}

static df_status open_window(const loss_pass *p, loss_window *w) {
    const loss_plan *plan = &p->plan;
    size_t context = plan->context, models = plan->input->models, vocabulary = 0;
    for (size_t m = 0; m < models; m++) {
        size_t words = df_model_vocabulary(plan->input->model[m]);
        if (words > vocabulary) vocabulary = words;
        DF_TRY(open_forward(plan, m, &w->forward[m]));
        DF_TRY(DF_NEW(w->clean[m], context * words));
    }
    DF_TRY(DF_NEW(w->raw, context * p->dict->width));
    DF_TRY(DF_NEW(w->values, context * p->dict->out.count));
    DF_TRY(DF_NEW(w->logits, context * vocabulary));
    DF_TRY(DF_NEW(w->nll, context));
    DF_TRY(DF_NEW(w->now, context));
    DF_TRY(DF_NEW(w->level, models * context));
    DF_TRY(DF_NEW(w->own, models * context));
    DF_TRY(DF_NEW(w->top, models * context));
    DF_TRY(DF_NEW(w->draw, 2 * widest_site(plan)));
    if (plan->input->nulls) DF_TRY(DF_NEW(w->kept, KEPT_DIRECTIONS * context * p->dict->out.count));
    DF_TRY(DF_NEW(w->sums, sums_of(p)));
    DF_TRY(DF_NEW(w->splice, plan->n_written));
    return DF_NEW(w->edit, plan->n_written);
}

static void close_window(loss_window *w) {
    for (size_t m = 0; m < DF_LOSS_MODELS; m++) {
        df_forward_close(&w->forward[m]);
        df_free(w->clean[m]);
    }
    void *const arrays[] = {w->raw, w->values, w->logits, w->nll,    w->now,  w->level, w->own,
                            w->top, w->draw,   w->sums,   w->splice, w->edit, w->kept};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) df_free(arrays[i]);
}

static df_status piece_room(loss_pass *p) {
    uint64_t first = bucket_start(p, p->buckets.first),
             end = bucket_start(p, p->buckets.first + p->buckets.count);
    size_t n = df_loss_pieces(p->plan.input->text, first, end);
    return DF_NEW(p->pieces, n * p->plan.input->models * p->plan.conditions);
}

static df_status open_pass(loss_pass *p, const df_loss_input *input) {
    DF_TRY(make_plan(p, input));
    size_t rows = p->slots * p->plan.context;
    p->buckets = df_share(DF_BUCKETS, df_comm_size(p->comm), df_comm_rank(p->comm));
    DF_TRY(DF_NEW(p->window, p->slots));
    for (size_t i = 0; i < p->slots; i++) DF_TRY(open_window(p, &p->window[i]));
    DF_TRY(DF_NEW(p->x, rows * p->dict->width));
    DF_TRY(DF_NEW(p->x_hat, rows * p->dict->out.count));
    DF_TRY(DF_NEW(p->rows, p->plan.context * 2 * widest_site(&p->plan)));
    DF_TRY(DF_NEW(p->sums, p->buckets.count * sums_of(p)));
    DF_TRY(DF_NEW(p->column, DF_BUCKETS * (1 + p->dict->out.count)));
    if (input->nulls) DF_TRY(piece_room(p));
    return DF_NEW(p->moments, 2 * p->plan.n_written);
}

static void close_site(loss_site *w) {
    df_free(w->mean);
    for (int i = 0; i < 2; i++) {
        df_free(w->root[i]);
        df_free(w->linear[i].w);
        df_free(w->linear[i].b);
    }
}

static void close_pass(loss_pass *p) {
    for (size_t i = 0; p->window != NULL && i < p->slots; i++) close_window(&p->window[i]);
    for (size_t s = 0; s < p->plan.n_written; s++) close_site(&p->plan.written[s]);
    for (size_t i = 0; p->moments != NULL && i < 2 * p->plan.n_written; i++)
        df_moments_free(&p->moments[i]);
    df_coder_close(&p->coder);
    void *const arrays[] = {p->window, p->x,       p->x_hat,        p->rows,      p->sums,
                            p->column, p->moments, p->plan.written, p->plan.half, p->pieces};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) df_free(arrays[i]);
}

/* ---- a batch of windows --------------------------------------------------------------------- */

// The reconstructions of window i's rows into the models' units.
static void restore(const loss_pass *p, size_t i) {
    const loss_plan *plan = &p->plan;
    const loss_window *w = &p->window[i];
    float *x_hat = p->x_hat + i * plan->context * p->dict->out.count;
    for (size_t s = 0; s < plan->n_written; s++) {
        const loss_site *site = &plan->written[s];
        const float *x = w->raw + plan->context * (size_t)site->site->first;
        for (size_t t = 0; t < w->rows.count; t++)
            df_site_restore(site->site, x + t * site->width,
                            x_hat + t * p->dict->out.count + site->out);
    }
}

// Clean runs of windows first .. first + n, and their reconstructions. Collective; n may be 0.
static df_status reconstruct(loss_pass *p, uint64_t first, size_t n) {
    size_t block = p->plan.context * p->dict->width;
    const df_codes *codes;
    memset(p->x, 0, p->slots * block * sizeof *p->x);
    df_timer_start("forward");
#pragma omp parallel for schedule(dynamic, 1) num_threads((int)p->slots)
    for (size_t i = 0; i < n; i++) {
        loss_window *w = &p->window[i];
        const uint64_t *row = p->plan.input->text->window + first + i;
        w->number = first + i;
        w->rows = (df_range){(size_t)row[0], (size_t)(row[1] - row[0])};
        df_status status = df_loss_clean(&p->plan, w, p->x + i * block);
        if (status != DF_OK) df_carry(&p->failure, status, w->number);
    }
    df_timer_stop("forward");
    DF_TRY(df_agree(p->comm, df_carried_raise(&p->failure)));
    df_timer_start("encode and decode");
    df_status status = df_coder_apply(p->coder, p->x, p->slots * p->plan.context, p->x_hat, &codes);
    for (size_t i = 0; status == DF_OK && i < n; i++) restore(p, i);
    df_timer_stop("encode and decode");
    return status;
}

// Calls `each` for this rank's windows in order, as many at a time as there are slots; every rank
// takes part as often as the one with the most.
static df_status walk(loss_pass *p, const char *what, df_status (*each)(loss_pass *p, size_t n)) {
    uint64_t first = bucket_start(p, p->buckets.first),
             end = bucket_start(p, p->buckets.first + p->buckets.count);
    uint64_t rounds = (end - first + p->slots - 1) / p->slots;
    df_progress progress;
    df_max_u64(p->comm, &rounds, 1);
    df_progress_start(&progress, what, "windows of a rank", 0, rounds * p->slots);
    for (uint64_t r = 0; r < rounds; r++) {
        size_t n = first >= end ? 0 : end - first < p->slots ? (size_t)(end - first) : p->slots;
        DF_TRY(reconstruct(p, first, n));
        DF_TRY(df_agree(p->comm, each(p, n)));
        first += n;
        df_progress_at(&progress, (r + 1) * p->slots, NULL);
    }
    df_progress_end(&progress, rounds * p->slots);
    return DF_OK;
}

/* ---- means and covariances ------------------------------------------------------------------ */

// The changed rows of one half of the text in one window at one site, in the model's units, side by
// side: x, then x^.
static size_t gather_rows(const loss_pass *p, size_t slot, const loss_site *s, uint8_t half,
                          float *out) {
    const loss_window *w = &p->window[slot];
    const uint8_t *changed = p->plan.input->text->changed + w->rows.first;
    const float *x = w->raw + p->plan.context * (size_t)s->site->first;
    const float *x_hat = p->x_hat + slot * p->plan.context * p->dict->out.count + s->out;
    size_t n = 0;
    for (size_t t = 0; t < w->rows.count; t++) {
        if (!changed[t] || p->plan.half[w->rows.first + t] != half) continue;
        float *to = out + n++ * 2 * s->width;
        memcpy(to, x + t * s->width, s->width * sizeof *to);
        memcpy(to + s->width, x_hat + t * p->dict->out.count, s->width * sizeof *to);
    }
    return n;
}

static df_status gather_site(loss_pass *p, size_t slot, size_t s, uint8_t half) {
    size_t b = bucket_of(p, p->window[slot].number), stride = 1 + p->dict->out.count;
    const loss_site *site = &p->plan.written[s];
    df_moments *moments = p->moments[2 * s + half];
    double *sum = p->column + b * stride + 1 + site->out;
    size_t n = gather_rows(p, slot, site, half, p->rows);
    for (size_t r = 0; r < n; r++)
        for (size_t c = 0; c < site->width; c++) sum[c] += (double)p->rows[r * 2 * site->width + c];
    if (s == 0) p->column[b * stride] += (double)n;
    if (moments == NULL) return DF_OK;
    if (b != p->bucket) DF_TRY(df_moments_bucket(moments, b));
    return df_moments_add(moments, p->rows, p->rows + site->width, n, 2 * site->width);
}

static df_status gather_window(loss_pass *p, size_t slot) {
    for (size_t s = 0; s < p->plan.n_written; s++)
        for (uint8_t half = 0; half < 2; half++) DF_TRY(gather_site(p, slot, s, half));
    p->bucket = bucket_of(p, p->window[slot].number);
    return DF_OK;
}

static df_status gather(loss_pass *p, size_t n) {
    for (size_t i = 0; i < n; i++) DF_TRY(gather_window(p, i));
    return DF_OK;
}

static df_status finish_means(loss_pass *p, df_loss *out) {
    size_t stride = 1 + p->dict->out.count;
    double *total;
    DF_TRY(df_agree(p->comm, DF_NEW(total, stride)));
    df_status status =
        df_tree_sum(p->comm, DF_BUCKETS, stride, p->column + p->buckets.first * stride, total);
    out->changed = (uint64_t)total[0];
    for (size_t s = 0; status == DF_OK && s < p->plan.n_written; s++)
        for (size_t c = 0; c < p->plan.written[s].width; c++)
            p->plan.written[s].mean[c] = (float)(total[1 + p->plan.written[s].out + c] / total[0]);
    if (status == DF_OK && out->changed < 2)
        status =
            df_fail(DF_BAD_INPUT, "the held-out text has %llu rows to change, expected at least 2",
                    (unsigned long long)out->changed);
    df_free(total);
    return status;
}

// R2 of the linear part over both halves, whose covariance of e this is.
static double linear_r2(const df_sums *both, const double *covariance, double left) {
    double total = 0.0;
    for (size_t c = 0; c < both->width; c++) total += covariance[c * both->width + c];
    total *= both->rows - 1;
    return total > 0.0 ? 1.0 - left / total : (double)NAN;
}

// Each half's linear map from the other's rows, its R2, and the covariances of both.
static double fit_site(const loss_pass *p, loss_site *site, df_sums *half[2], double *scratch) {
    double left = 0.0, r2;
    for (int i = 0; i < 2; i++)
        df_loss_fit(half[i], p->plan.input->ridge, scratch, &site->linear[!i]);
    for (int i = 0; i < 2; i++) left += df_loss_left(half[i], &site->linear[i], scratch);
    df_sums_add(half[0], half[1]);
    df_sums_covariance(half[0], DF_XX, site->root[0]);
    df_sums_covariance(half[0], DF_EE, site->root[1]);
    r2 = linear_r2(half[0], site->root[1], left);
    df_loss_root(site->root[0], site->width);
    df_loss_root(site->root[1], site->width);
    return r2;
}

static df_status finish_site(loss_pass *p, size_t s, df_loss *out) {
    size_t width = p->plan.written[s].width;
    df_sums *half[2] = {NULL, NULL};
    double *scratch = NULL;
    df_status status;
    for (int i = 0; i < 2; i++)
        DF_GO(df_moments_finish(p->comm, &p->moments[2 * s + (size_t)i], &half[i]));
    status = DF_NEW(scratch, (width + 1) * width);
    if (status == DF_OK) out->linear_r2[s] = fit_site(p, &p->plan.written[s], half, scratch);
    status = df_agree(p->comm, status);
done:
    df_sums_free(&half[0]);
    df_sums_free(&half[1]);
    df_free(scratch);
    return status;
}

static df_status finish_nulls(loss_pass *p, df_loss *out) {
    df_timer_start("linear fit");
    df_status status = DF_OK;
    for (size_t s = 0; status == DF_OK && s < p->plan.n_written; s++)
        status = finish_site(p, s, out);
    df_timer_stop("linear fit");
    return status;
}

static df_status first_pass(loss_pass *p, df_loss *out) {
    bool nulls = p->plan.input->nulls;
    p->bucket = DF_BUCKETS;
    for (size_t i = 0; nulls && i < 2 * p->plan.n_written; i++)
        DF_TRY(df_moments_new(p->comm, p->plan.written[i / 2].width, NULL, &p->moments[i]));
    DF_TRY(walk(p, "loss: means", gather));
    DF_TRY(finish_means(p, out));
    return nulls ? finish_nulls(p, out) : DF_OK;
}

/* ---- the conditions ------------------------------------------------------------------------- */

static df_status run_conditions(loss_pass *p, size_t n) {
    size_t block = p->plan.context * p->dict->out.count, sums = sums_of(p);
    df_timer_start("forward with splices");
#pragma omp parallel for schedule(dynamic, 1) num_threads((int)p->slots)
    for (size_t i = 0; i < n; i++) {
        df_status status = df_loss_conditions(&p->plan, &p->window[i], p->x_hat + i * block);
        if (status != DF_OK) df_carry(&p->failure, status, p->window[i].number);
    }
    df_timer_stop("forward with splices");
    for (size_t i = 0; i < n; i++) {
        double *to = p->sums + (bucket_of(p, p->window[i].number) - p->buckets.first) * sums;
        for (size_t j = 0; j < sums; j++) to[j] += p->window[i].sums[j];
        if (p->pieces != NULL)
            p->n_pieces += df_loss_by_document(&p->plan, &p->window[i],
                                               p->pieces + p->n_pieces * p->plan.input->models *
                                                               p->plan.conditions);
    }
    return df_carried_raise(&p->failure);
}

// Scored positions of each place in a window, and in all of each bucket.
static void count_scored(const loss_pass *p, double *bucket, uint64_t *count) {
    const df_loss_text *t = p->plan.input->text;
    for (uint64_t w = 0; w < t->windows; w++)
        for (uint64_t r = t->window[w]; r < t->window[w + 1]; r++) {
            bucket[bucket_of(p, w)] += t->scored[r];
            count[r - t->window[w]] += t->scored[r];
        }
}

static void divide_curve(df_loss *out) {
    size_t lines = out->models * out->conditions * DF_LOSS_QUANTITIES;
    for (size_t i = 0; i < lines * out->context; i++)
        out->curve[i] /= (double)out->count[i % out->context]; // 0 / 0: NaN
}

// Sums of every bucket on every rank: [DF_BUCKETS, 1 + lines], those of positions added in order.
// A leaf of the tree holds nothing but its own bucket.
static df_status gather_buckets(const loss_pass *p, const double *scored, double *all) {
    size_t context = p->plan.context, lines = sums_of(p) / context, stride = 1 + lines;
    double *leaves;
    df_status status = DF_NEW(leaves, p->buckets.count * DF_BUCKETS * stride);
    for (size_t b = 0; status == DF_OK && b < p->buckets.count; b++) {
        size_t bucket = p->buckets.first + b;
        double *own = leaves + (b * DF_BUCKETS + bucket) * stride;
        own[0] = scored[bucket];
        for (size_t i = 0; i < lines * context; i++)
            own[1 + i / context] += p->sums[b * lines * context + i];
    }
    status = df_agree(p->comm, status);
    if (status == DF_OK)
        status = df_tree_sum(p->comm, DF_BUCKETS, DF_BUCKETS * stride, leaves, all);
    df_free(leaves);
    return status;
}

static df_status summarise(loss_pass *p, df_loss *out) {
    double scored[DF_BUCKETS] = {0}, *all = NULL;
    size_t stride = 1 + sums_of(p) / p->plan.context;
    df_status status = DF_NEW(all, DF_BUCKETS * stride);
    if (status == DF_OK) status = DF_NEW(out->curve, sums_of(p));
    if (status == DF_OK) status = DF_NEW(out->count, p->plan.context);
    DF_GO(df_agree(p->comm, status));
    count_scored(p, scored, out->count);
    for (size_t b = 0; b < DF_BUCKETS; b++) out->scored += (uint64_t)scored[b];
    DF_GO(gather_buckets(p, scored, all));
    DF_GO(df_tree_sum(p->comm, DF_BUCKETS, sums_of(p), p->sums, out->curve));
    divide_curve(out);
    DF_GO(df_loss_intervals(p->comm, p->plan.input, p->pieces, out));
    status = df_agree(p->comm, df_loss_figures(all, out));
done:
    df_free(all);
    return status;
}

df_status df_loss_run(df_comm *comm, df_kernels *kernels, df_dict *dict, const df_loss_input *input,
                      df_loss *out) {
    uint64_t threads = (uint64_t)omp_get_max_threads();
    df_status status;
    df_max_u64(comm, &threads, 1);
    loss_pass p = {.comm = comm, .kernels = kernels, .dict = dict, .slots = (size_t)threads};
    *out = df_loss_outline(dict, input);
    if (input->nulls)
        DF_GO(df_agree(comm, df_loss_half_rows(input->text, input->seed, &out->linear_rows)));
    DF_GO(df_agree(comm, open_pass(&p, input)));
    DF_GO(df_coder_open(comm, kernels, dict, p.slots * p.plan.context * (size_t)df_comm_size(comm),
                        &p.coder));
    DF_GO(first_pass(&p, out));
    DF_GO(walk(&p, "loss: conditions", run_conditions));
    DF_GO(summarise(&p, out));
done:
    if (status != DF_OK) df_loss_free(out);
    close_pass(&p);
    return status;
}

void df_loss_free(df_loss *loss) {
    df_free(loss->curve);
    df_free(loss->count);
    *loss = (df_loss){0};
}
