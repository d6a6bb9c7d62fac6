/* The training of one dictionary: its start, a step, its end. */
#include "train_internal.h"

#include <inttypes.h>
#include <string.h>

/* ---- opening -------------------------------------------------------------------------------- */

size_t member_sites(const df_train_member *member, const row_sites *all, size_t *numbers,
                    df_dict_site *sites) {
    size_t n = member->site != NULL ? member->sites : all->n;
    for (size_t s = 0; s < n && s < DF_MAX_SITES; s++) {
        numbers[s] = member->site != NULL ? member->site[s] : s;
        sites[s] = all->site[numbers[s]];
        sites[s].scale = 1.0;
    }
    return n;
}

/* The dictionary with its sites side by side; scales are 1 until they are known. */
static df_status new_dict(train_run *run, df_dict_site *sites) {
    const df_train_options *o = run->options;
    df_dict_shape shape = train_shape(o, sites, run->from.sites);
    DF_TRY(df_dict_make(run->comm, &shape, &run->dict));
    return train_describe(o, run->dict);
}

df_status open_coder(train_run *run) {
    DF_TRY(df_coder_open_groups(&run->groups, run->kernels, run->dict, run->options->batch,
                                &run->coder));
    DF_TRY(df_coder_train_open(run->coder));
    df_train_room room = train_room(run->options);
    DF_TRY(df_coder_train_extend(run->coder, &room));
    run->state = df_coder_state(run->coder);
    return DF_OK;
}

df_status train_begin(train_run *run, const float *all) {
    const df_train_options *o = run->options;
    float *center = NULL; // [width]
    for (size_t s = 0; s < run->dict->sites; s++)
        run->dict->site[s].scale = run->from.all->site[run->site[s]].scale;
    if (run->mean != NULL)
        row_sites_pick(run->from.all, run->site, run->from.sites, run->from.all->mean, 1,
                       run->mean);
    for (size_t n = 0; n < df_dict_thresholds(run->dict); n++)
        *df_dict_threshold(run->dict, n) = -1.0f;
    run->anneal = (df_anneal){.factor = 1.0};
    DF_TRY(df_agree(run->groups.world, DF_NEW(center, run->dict->width)));
    row_sites_pick(run->from.all, run->site, run->from.sites, all, 1, center);
    df_status status = initialise(run->comm, &run->from, o, run->dict, center, &run->variance);
    if (run->groups.at.groups > 1) status = df_agree(run->groups.world, status);
    if (status == DF_OK) status = open_coder(run);
    run->dict->k = schedule_k(o, 0); // the encoder fits what training begins with
    if (status == DF_OK && o->init_fit)
        status = fit_encoder(run->comm, run->coder, run->dict, o->seed, o->batch);
    df_free(center);
    return status;
}

df_status train_open_groups(train_run *run, df_comm *world, const df_train_options *o) {
    DF_TRY(df_groups_open(world, train_runs(o), &run->groups));
    run->comm = run->groups.shards;
    run->rows = df_groups_rows(&run->groups.at, run->groups.at.group, o->batch);
    return DF_OK;
}

df_status train_open(train_run *run, const df_train_member *member, const row_sites *all,
                     const df_rows *rows) {
    const df_train_options *o = member->options;
    df_dict_site sites[DF_MAX_SITES];
    run->name = member->name;
    run->options = o;
    size_t n = member->site != NULL ? member->sites : all->n;
    DF_TRY(DF_NEW(run->site, n));
    member_sites(member, all, run->site, sites);
    run->from = (train_rows){.rows = rows, .all = all, .site = run->site, .sites = n};
    run->whole = n == all->n;
    for (size_t s = 0; s < n; s++) run->whole = run->whole && run->site[s] == s;
    DF_TRY(new_dict(run, sites));
    if (o->centre) DF_TRY(DF_NEW(run->mean, run->dict->width));
    DF_TRY(history_open(history_rows(o), df_dict_outputs(run->dict), &run->history));
    run->kernel_history = df_strdup(df_kernels_path(run->kernels));
    return run->kernel_history != NULL ? DF_OK : DF_FAILED;
}

void train_close(train_run *run) {
    df_coder_close(&run->coder);
    df_dict_free(&run->dict);
    if (run->groups.world != NULL) df_groups_close(&run->groups);
    history_close(&run->history);
    df_free(run->site);
    df_free(run->mean);
    df_free(run->kernel_history);
    df_free(run->checkpoint);
}

/* ---- a step --------------------------------------------------------------------------------- */

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

df_status train_step(train_run *run, const float *x) {
    const df_train_options *o = run->options;
    uint64_t step = run->state->step;
    df_step_settings settings = step_settings(o, run->dict, &run->anneal, step);
    settings.objective.variance = run->variance;
    df_step_report *report = &run->report;
    double start = df_now();
    *report = (df_step_report){0};
    run->dict->k = schedule_k(o, step);
    df_timer_start("step");
    df_status status = df_coder_step(run->coder, x, o->batch, &settings, report);
    if (status == DF_OK) status = resample(run, step, x);
    df_timer_stop("step");
    DF_TRY(status);
    if (o->anneal.updates > 0) df_anneal_note(&o->anneal, &run->anneal, step, report);
    bool logged = (step + 1) % o->log_every == 0 || step + 1 == o->steps;
    history_note(&run->history, report);
    const double last[4] = {(double)(step + 1), (double)(step + 1) * (double)o->batch,
                            (double)report->dead, settings.lr};
    run->logged = logged ? history_add(&run->history, last) : NULL;
    run->clock.busy += df_now() - start;
    return DF_OK;
}

/* ---- the end -------------------------------------------------------------------------------- */

/* What is written is a dictionary of rows as they are. */
static df_status fold_mean(train_run *run) {
    const df_dict *d = run->dict;
    for (size_t s = 0; s < d->sites; s++)
        for (size_t c = d->site[s].first; c < d->site[s].first + d->site[s].width; c++)
            run->mean[c] = (float)((double)run->mean[c] * d->site[s].scale);
    return df_dict_fold_mean(run->comm, run->dict, run->mean);
}

/* The dictionary is safe on disk before the checkpoints go. */
df_status train_finish(train_run *run) {
    const df_train_options *o = run->options;
    df_provenance facts = o->facts;
    facts.kernel_path = run->kernel_history;
    run->dict->k = o->k;
    if (o->ema > 0.0) df_coder_use_averages(run->coder, o->ema);
    if (run->mean != NULL) DF_TRY(fold_mean(run));
    df_timer_start("write");
    df_status status = DF_OK;
    if (run->groups.at.group == 0)
        status = df_dict_save(run->comm, o->output, run->dict, &run->history, o->resolved_job,
                              o->seed, o->steps * o->batch, &facts);
    if (run->groups.at.groups > 1) status = df_agree(run->groups.world, status);
    df_timer_stop("write");
    if (status == DF_OK && df_comm_rank(run->groups.world) == 0) checkpoint_prune(o, o->steps, 0);
    run->finished = status == DF_OK;
    return status;
}
