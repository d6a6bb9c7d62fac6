/* The trainer: rows in, steps, history, checkpoints, one dictionary out. */
#include "train_internal.h"

#include <inttypes.h>
#include <string.h>

/* ---- opening -------------------------------------------------------------------------------- */

size_t df_train_sites(const df_rows *rows, df_dict_site *sites) {
    const df_rows_site *site;
    size_t n = df_rows_sites(rows, &site);
    for (size_t s = 0; s < n && s < DF_MAX_SITES; s++)
        sites[s] = (df_dict_site){.name = (char *)site[s].name,
                                  .model = (char *)site[s].model,
                                  .width = site[s].width,
                                  .scale = 1.0};
    return n;
}

/* The dictionary with its sites side by side; scales are 1 until they are known. */
static df_status new_dict(train_run *run) {
    const df_train_options *o = run->options;
    df_dict_site sites[DF_MAX_SITES];
    size_t n = df_train_sites(run->rows, sites);
    df_dict_shape shape = train_shape(o, sites, n);
    DF_TRY(df_dict_make(run->comm, &shape, &run->dict));
    run->dict->activation = o->activation;
    run->dict->code_norm = o->code_norm;
    run->dict->k = schedule_largest_k(o); // what the coder must have room for
    run->dict->subtract_bias = o->subtract_bias;
    run->dict->threshold = -1.0f;
    run->dict->prefixes = o->prefixes;
    memcpy(run->dict->prefix, o->prefix, sizeof o->prefix);
    return df_dict_bind(run->dict, o->shared, o->dedicated);
}

df_status open_coder(train_run *run) {
    DF_TRY(df_coder_open(run->comm, run->kernels, run->dict, run->options->batch, &run->coder));
    DF_TRY(df_coder_train_open(run->coder));
    df_train_room room = train_room(run->options);
    DF_TRY(df_coder_train_extend(run->coder, &room));
    run->state = df_coder_state(run->coder);
    return DF_OK;
}

/* A fresh start: scales, b_dec = mean of the scaled rows, random decoders. */
static df_status begin(train_run *run) {
    const df_train_options *o = run->options;
    float *center = NULL; // [width]
    for (size_t s = 0; s < run->dict->sites; s++) run->dict->site[s].scale = 1.0;
    run->dict->threshold = -1.0f;
    run->anneal = (df_anneal){.factor = 1.0};
    DF_TRY(df_agree(run->comm, DF_NEW(center, run->dict->width)));
    df_timer_start("normalise");
    df_status status = data_normalise(run->comm, run->rows, run->dict, center);
    df_timer_stop("normalise");
    if (status == DF_OK) status = initialise(run->comm, run->rows, o, run->dict, center);
    if (status == DF_OK) status = open_coder(run);
    df_free(center);
    return status;
}

static df_status check_options(const df_train_options *o) {
    if (o->latents < 1 || o->batch < 1 || o->steps < 1)
        return df_fail(DF_USAGE, "latents, batch and steps must be at least 1");
    if (o->subtract_bias && o->kind > DF_CROSSCODER)
        return df_fail(DF_USAGE,
                       "subtract_bias is for dictionaries that read what they write, not "
                       "for a %s",
                       df_dict_kind_name(o->kind));
    if ((o->activation == DF_TOPK || o->activation == DF_BATCHTOPK) &&
        (o->k < 1 || o->k > o->latents))
        return df_fail(DF_USAGE, "k is %zu, expected 1 to %zu latents", o->k, o->latents);
    for (size_t i = 0; i < o->prefixes; i++)
        if (o->prefixes > DF_MAX_PREFIXES || (i > 0 && o->prefix[i] <= o->prefix[i - 1]) ||
            o->prefix[o->prefixes - 1] != o->latents)
            return df_fail(DF_USAGE, "prefixes must ascend and end with the number of latents");
    if (o->k_start > o->latents)
        return df_fail(DF_USAGE, "k_start is %zu, expected at most %zu latents", o->k_start,
                       o->latents);
    return DF_OK;
}

/* What the coder cannot tell before its first step. */
static df_status check_objective(const df_train_options *o) {
    const df_anneal_plan *a = &o->anneal;
    if (o->activation == DF_JUMPRELU && !(o->init_threshold > 0.0))
        return df_fail(DF_USAGE, "the initial threshold is %g, it must be positive",
                       o->init_threshold);
    if (a->updates == 0) return DF_OK;
    if (o->objective.penalty != DF_PENALTY_LP)
        return df_fail(DF_USAGE,
                       "annealing lowers the power of the lp penalty, which is not chosen");
    if (a->updates < 2 || a->end < a->start || a->end - a->start < a->updates)
        return df_fail(DF_USAGE,
                       "%zu updates of annealing do not fit between steps %" PRIu64 " and %" PRIu64,
                       a->updates, a->start, a->end);
    if (!(a->from > 0.0 && a->to > 0.0))
        return df_fail(DF_USAGE, "annealing goes from a power of %g to %g, both must be positive",
                       a->from, a->to);
    return DF_OK;
}

static df_status open_mine(train_run *run) {
    const df_train_options *o = run->options;
    const df_rows_site *sites;
    size_t n = df_rows_sites(run->rows, &sites);
    DF_TRY(check_options(o));
    DF_TRY(check_objective(o));
    if (n < 1 || n > DF_MAX_SITES)
        return df_fail(DF_USAGE, "a dictionary is trained on 1 to %d sites, found %zu",
                       DF_MAX_SITES, n);
    DF_TRY(new_dict(run));
    DF_TRY(history_open(history_rows(o), df_dict_outputs(run->dict), &run->history));
    run->kernel_history = df_strdup(df_kernels_path(run->kernels));
    if (run->kernel_history == NULL) return DF_FAILED;
    df_order order = train_order(o, run->rows);
    return loader_open(run->comm, run->rows, run->dict, &order, o->batch, &run->loader);
}

static void close_run(train_run *run) {
    loader_close(&run->loader); // reads into the dictionary's scales: first
    df_coder_close(&run->coder);
    df_dict_free(&run->dict);
    history_close(&run->history);
    df_free(run->kernel_history);
    df_free(run->checkpoint);
}

/* ---- steps ---------------------------------------------------------------------------------- */

/* Dead latents begin anew after the steps that are multiples of the interval. */
static df_status resample(train_run *run, uint64_t step, const float *x) {
    const df_train_options *o = run->options;
    uint64_t replaced;
    if (o->resample == 0 || step == 0 || step % o->resample != 0) return DF_OK;
    const df_resample how = {.dead_rows = o->dead_rows,
                             .seed = o->seed,
                             .step = step,
                             .power = o->resample_power,
                             .scale = o->resample_scale,
                             .unit = o->resample_unit};
    return df_coder_resample(run->coder, x, o->batch, &how, &replaced);
}

static df_status take_step(train_run *run, df_progress *progress) {
    const df_train_options *o = run->options;
    uint64_t step = run->state->step;
    df_step_settings settings = step_settings(o, run->dict, &run->anneal, step);
    df_step_report report = {0};
    const float *x = NULL; // [batch, width]
    DF_TRY(loader_take(run->loader, step, &x));
    run->dict->k = schedule_k(o, step);
    df_timer_start("step");
    df_status status = df_coder_step(run->coder, x, o->batch, &settings, &report);
    if (status == DF_OK) status = resample(run, step, x);
    df_timer_stop("step");
    DF_TRY(status);
    if (o->anneal.updates > 0) df_anneal_note(&o->anneal, &run->anneal, step, &report);
    bool logged = (step + 1) % o->log_every == 0 || step + 1 == o->steps;
    history_note(&run->history, &report);
    const double last[4] = {(double)(step + 1), (double)(step + 1) * (double)o->batch,
                            (double)report.dead, settings.lr};
    log_step(run, progress, &report, logged ? history_add(&run->history, last) : NULL);
    return DF_OK;
}

/* Rank 0's clock decides when a periodic checkpoint is due. */
static bool checkpoint_is_due(const train_run *run) {
    double wait = run->options->checkpoint_seconds;
    uint8_t due = wait > 0 && df_now() - run->saved_at >= wait;
    df_broadcast(run->comm, 0, &due, sizeof due);
    return due != 0;
}

static df_status stop_here(train_run *run) {
    DF_TRY(checkpoint_write(run));
    return df_fail(DF_STOPPED,
                   "stopped on request after step %" PRIu64 " of %" PRIu64
                   ", checkpoint %s: run the same job again to go on",
                   run->state->step, run->options->steps, run->checkpoint);
}

static df_status take_steps(train_run *run) {
    const df_train_options *o = run->options;
    df_progress progress;
    double start = df_now();
    log_start(run, &progress);
    if (run->state->step < o->steps) loader_start(run->loader, run->state->step, o->steps);
    while (run->state->step < o->steps) {
        if (df_stop_requested(run->comm)) return stop_here(run);
        uint64_t step = run->state->step;
        DF_TRY_AS(take_step(run, &progress),
                  "taking training step %" PRIu64 " (last good checkpoint: %s)", step + 1,
                  run->checkpoint != NULL ? run->checkpoint : "none");
        if (run->state->step < o->steps && checkpoint_is_due(run)) DF_TRY(checkpoint_write(run));
    }
    df_progress_end(&progress, o->steps * o->batch);
    df_info("train: %.1f %% of this time went by waiting for rows",
            100 * loader_waited(run->loader) / (df_now() - start));
    return DF_OK;
}

/* ---- the end -------------------------------------------------------------------------------- */

/* The dictionary is safe on disk before the checkpoints go. */
static df_status finish(train_run *run) {
    const df_train_options *o = run->options;
    df_provenance facts = o->facts;
    facts.kernel_path = run->kernel_history;
    run->dict->k = o->k;
    if (o->ema > 0.0) df_coder_use_averages(run->coder, o->ema);
    df_timer_start("write");
    df_status status = df_dict_save(run->comm, o->output, run->dict, &run->history, o->resolved_job,
                                    o->seed, o->steps * o->batch, &facts);
    df_timer_stop("write");
    if (status == DF_OK && df_comm_rank(run->comm) == 0)
        checkpoint_prune(o->checkpoint, o->resolved_job, o->steps, 0);
    return status;
}

df_status df_train(df_comm *comm, df_kernels *kernels, const df_rows *rows,
                   const df_train_options *options) {
    train_run run = {
        .comm = comm, .kernels = kernels, .options = options, .rows = rows, .saved_at = df_now()};
    bool resumed = false;
    df_status status = df_agree(comm, open_mine(&run));
    if (status == DF_OK) status = log_measure(&run);
    if (status == DF_OK) status = checkpoint_resume(&run, &resumed);
    if (status == DF_OK && !resumed) status = begin(&run);
    if (status == DF_OK) status = take_steps(&run);
    if (status == DF_OK) status = finish(&run);
    close_run(&run);
    return status;
}
