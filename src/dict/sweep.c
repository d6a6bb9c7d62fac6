/* The trainer: rows in, steps, checkpoints, dictionaries out. One dictionary, or the members of a
 * sweep side by side on the same rows. Members that resume at a later step wait for the others. */
#include "sweep.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

/* A status of this rank's dictionaries becomes that of all ranks. */
static df_status together(sweep *s, df_status mine) {
    if (s->n == 1) return mine; // agreed already
    df_timer_start("wait for the others");
    df_status status = df_agree(s->comm, mine);
    df_timer_stop("wait for the others");
    return status;
}

/* What a failure in a run's step is about. */
static void explain(const train_run *run, uint64_t step) {
    const char *last = run->checkpoint != NULL ? run->checkpoint : "none";
    df_context("taking training step %" PRIu64 "%s%s (last good checkpoint: %s)", step + 1,
               run->name != NULL ? " of " : "", run->name != NULL ? run->name : "", last);
}

/* ---- opening -------------------------------------------------------------------------------- */

static df_status open_mine(sweep *s) {
    int size = df_comm_size(s->comm);
    if (s->n < 1) return df_fail(DF_USAGE, "a sweep has no members");
    DF_TRY(row_sites_open(s->rows, &s->all));
    for (size_t i = 0; i < s->all.n; i++)
        s->all.site[i].token_norm = s->members[0].options->token_norm;
    if (s->members[0].options->centre) DF_TRY(DF_NEW(s->all.mean, s->all.width));
    DF_TRY(DF_NEW(s->place, s->n));
    DF_TRY(DF_NEW(s->run, s->n));
    DF_TRY(DF_NEW(s->member, s->n));
    DF_TRY(DF_NEW(s->begin, s->n));
    DF_TRY(DF_NEW(s->counts, (size_t)size));
    DF_TRY(DF_NEW(s->lines, 2 * s->n * LOG_LINE));
    log_table(s->members, s->n, &s->all, &s->table);
    return df_train_place_members(s->members, s->n, s->rows, size, s->place);
}

/* The ranks of one dictionary. With fewer ranks than members each rank is alone with its own. */
static df_status open_group(sweep *s) {
    int rank = df_comm_rank(s->comm), color = 0;
    if (s->n == 1) return DF_OK;
    if ((size_t)df_comm_size(s->comm) < s->n) return df_agree(s->comm, df_comm_self(&s->own));
    while (rank >= s->place[color].first + s->place[color].count) color++;
    return df_comm_split(s->comm, color, rank, &s->own);
}

/* Rows of the columns that not every member reads: [batch, widest of them]. */
static size_t scratch_columns(const sweep *s) {
    size_t widest = 0;
    for (size_t r = 0; r < s->runs; r++)
        if (!s->run[r].whole && s->run[r].dict->width > widest) widest = s->run[r].dict->width;
    return widest;
}

static df_status open_runs(sweep *s, df_kernels *kernels) {
    int rank = df_comm_rank(s->comm);
    const df_train_options *o = s->members[0].options;
    for (size_t m = 0; m < s->n; m++) {
        if (rank < s->place[m].first || rank >= s->place[m].first + s->place[m].count) continue;
        train_run *run = &s->run[s->runs];
        s->member[s->runs++] = m;
        *run = (train_run){.kernels = kernels};
        df_status status =
            train_open_groups(run, s->own != NULL ? s->own : s->comm, s->members[m].options);
        if (status == DF_OK) status = train_open(run, &s->members[m], &s->all, s->rows);
        if (status != DF_OK && s->n > 1) df_context("preparing member %s", s->members[m].name);
        DF_TRY(status);
    }
    DF_TRY(DF_NEW(s->x, o->batch * scratch_columns(s)));
    df_order order = train_order(o, s->rows);
    df_groups groups = s->n == 1 ? s->run[0].groups : df_groups_alone(s->comm);
    s->given = df_groups_rows(&groups.at, groups.at.group, o->batch);
    return loader_open(&groups, s->rows, &s->all, &order, o->batch, &s->loader);
}

static df_status sweep_open(sweep *s, df_kernels *kernels) {
    DF_TRY(df_agree(s->comm, open_mine(s)));
    DF_TRY(open_group(s));
    return df_agree(s->comm, open_runs(s, kernels));
}

static void sweep_close(sweep *s) {
    loader_close(&s->loader); // reads with the scales and means of the sites: first
    for (size_t r = 0; r < s->runs; r++) train_close(&s->run[r]);
    void *owned[] = {s->place, s->run, s->member, s->begin, s->counts, s->lines, s->x, s->all.mean};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) df_free(owned[i]);
    df_comm_free(&s->own);
}

/* ---- the start ------------------------------------------------------------------------------ */

/* Each dictionary's newest sound checkpoint; the unit of its steps' time. */
static df_status resume(sweep *s) {
    df_status status = DF_OK;
    double rate = 0.0; // of the first dictionary: it stands for all
    bool resumed;
    for (size_t r = 0; r < s->runs && status == DF_OK; r++) {
        status = log_measure(&s->run[r], &rate);
        if (status == DF_OK) status = checkpoint_resume(&s->run[r], &resumed);
        if (status == DF_OK && resumed) s->begin[s->member[r]] = s->run[r].state->step;
    }
    DF_TRY(together(s, status));
    df_max_u64(s->comm, s->begin, s->n);
    return DF_OK;
}

/* The means of all sites as the checkpoints have them. Collective. */
static df_status gather_means(sweep *s) {
    double *mean = NULL; // [width]
    df_status status = df_agree(s->comm, DF_NEW(mean, s->all.width));
    if (status != DF_OK) goto done;
    for (size_t c = 0; c < s->all.width; c++)
        mean[c] = -(double)INFINITY; // of a site that nobody reads
    for (size_t r = 0; r < s->runs; r++)
        for (size_t i = 0; i < s->run[r].from.sites; i++) {
            const df_dict_site *from = &s->run[r].dict->site[i];
            for (size_t c = 0; c < from->width; c++)
                mean[s->all.site[s->run[r].site[i]].first + c] =
                    (double)s->run[r].mean[from->first + c];
        }
    df_max_double(s->comm, mean, s->all.width);
    for (size_t c = 0; c < s->all.width; c++)
        s->all.mean[c] = isfinite(mean[c]) ? (float)mean[c] : 0.0f;
done:
    df_free(mean);
    return status;
}

/* The scales and means of all sites: from the rows when a dictionary begins (center [width] is
 * then the mean of the scaled rows), else as the checkpoints have them. */
static df_status find_scales(sweep *s, bool any_fresh, float *center) {
    double scale[DF_MAX_SITES] = {0};
    if (any_fresh) {
        df_timer_start("normalise");
        df_status status = data_normalise(s->comm, s->rows, s->members[0].options, &s->all, center);
        df_timer_stop("normalise");
        return status;
    }
    for (size_t r = 0; r < s->runs; r++)
        for (size_t i = 0; i < s->run[r].from.sites; i++)
            scale[s->run[r].site[i]] = s->run[r].dict->site[i].scale;
    df_max_double(s->comm, scale, s->all.n);
    for (size_t i = 0; i < s->all.n; i++)
        s->all.site[i].scale = scale[i] > 0.0 ? scale[i] : 1.0; // a site that nobody reads
    return s->all.mean != NULL ? gather_means(s) : DF_OK;
}

static df_status begin(sweep *s) {
    float *center = NULL; // [width]
    uint64_t fresh = 0;
    for (size_t r = 0; r < s->runs; r++) fresh |= s->run[r].state == NULL;
    df_max_u64(s->comm, &fresh, 1);
    DF_TRY(df_agree(s->comm, DF_NEW(center, s->all.width)));
    df_status status = find_scales(s, fresh != 0, center);
    for (size_t r = 0; r < s->runs && status == DF_OK; r++)
        if (s->run[r].state == NULL) status = train_begin(&s->run[r], center);
    df_free(center);
    return together(s, status);
}

/* ---- the log -------------------------------------------------------------------------------- */

static void list_members(const sweep *s) {
    for (size_t m = 0; m < s->n; m++) {
        char ranks[32], from[48] = "";
        int first = s->place[m].first, last = first + s->place[m].count - 1;
        snprintf(ranks, sizeof ranks, first == last ? "rank %d" : "ranks %d to %d", first, last);
        if (s->begin[m] > 0) snprintf(from, sizeof from, ", from step %" PRIu64, s->begin[m]);
        df_info("  %-*s  %zu latents, %s%s", s->table.name, s->members[m].name,
                s->members[m].options->latents, ranks, from);
    }
}

static void log_begin(sweep *s) {
    size_t batch = s->members[0].options->batch;
    df_progress_start(&s->progress, "train", "rows", s->first * batch, s->steps * batch);
    for (size_t r = 0; r < s->runs; r++)
        s->run[r].clock = (train_clock){.since = df_now(), .step = s->run[r].state->step};
    if (s->n > 1) {
        df_info("train: %" PRIu64 " steps of %zu dictionaries on the same rows", s->steps, s->n);
        list_members(s);
    } else
        df_info("train: %" PRIu64 " steps; the encoder GEMM alone takes %.4g ms of a step here",
                s->steps, 1e3 * s->run[0].gemm_seconds);
    log_names(&s->table);
}

/* Whether some member ends an interval with this step: the same on every rank. */
static bool interval_ends(const sweep *s, uint64_t step) {
    for (size_t m = 0; m < s->n; m++) {
        const df_train_options *o = s->members[m].options;
        if (step < s->begin[m] || step >= o->steps) continue;
        if ((step + 1) % o->log_every == 0 || step + 1 == o->steps) return true;
    }
    return false;
}

/* Lines of the dictionaries that rank `rank` leads. */
static size_t led(const sweep *s, int rank) {
    size_t n = 0;
    for (size_t m = 0; m < s->n; m++) n += s->place[m].first == rank;
    return n;
}

/* The line of a member among those that came rank after rank. */
static const char *line_of(const sweep *s, size_t member) {
    size_t before = 0;
    int first = s->place[member].first;
    for (size_t m = 0; m < s->n; m++)
        before += s->place[m].first < first || (s->place[m].first == first && m < member);
    return s->lines + before * LOG_LINE;
}

/* Every member's first rank writes its line, rank 0 prints them all. */
static void print_lines(sweep *s) {
    char *mine = s->lines + s->n * LOG_LINE;
    for (int r = 0; r < df_comm_size(s->comm); r++) s->counts[r] = led(s, r) * LOG_LINE;
    memset(mine, 0, s->n * LOG_LINE);
    for (size_t r = 0, at = 0; r < s->runs; r++) {
        if (s->place[s->member[r]].first != df_comm_rank(s->comm)) continue;
        if (s->run[r].logged != NULL) log_row(&s->table, &s->run[r], mine + at);
        at += LOG_LINE;
    }
    df_gather(s->comm, 0, mine, s->counts, s->lines);
    for (size_t m = 0; m < s->n && df_comm_rank(s->comm) == 0; m++)
        if (*line_of(s, m) != '\0') df_info("%s", line_of(s, m));
}

static void log_step(sweep *s, uint64_t step) {
    char text[LOG_LINE];
    if (interval_ends(s, step)) print_lines(s);
    if (!s->progress.terminal) return;
    log_note(&s->run[0], text);
    df_progress_at(&s->progress, (step + 1) * s->members[0].options->batch, text);
}

/* ---- steps ---------------------------------------------------------------------------------- */

/* One member's step, on its rows and columns of the batch: x are those of s->given. */
static df_status step_one(sweep *s, train_run *run, const float *x) {
    uint64_t step = run->state->step;
    const float *mine = x + (run->rows.first - s->given.first) * s->all.width;
    if (!run->whole)
        row_sites_pick(&s->all, run->site, run->from.sites, mine, run->rows.count, s->x);
    df_status status = train_step(run, run->whole ? mine : s->x);
    if (status != DF_OK) explain(run, step);
    return status;
}

static df_status take_step(sweep *s, uint64_t step) {
    const float *x = NULL; // [given, width]
    df_status status = loader_take(s->loader, step, &x);
    if (status != DF_OK) explain(&s->run[0], step);
    DF_TRY(status);
    for (size_t r = 0; r < s->runs && status == DF_OK; r++) {
        s->run[r].logged = NULL;
        bool due = !s->run[r].finished && s->run[r].state->step == step;
        if (due) status = step_one(s, &s->run[r], x);
    }
    DF_TRY(together(s, status));
    log_step(s, step);
    return DF_OK;
}

/* Writes the dictionaries that have taken all their steps. */
static df_status finish_done(sweep *s) {
    df_status status = DF_OK;
    for (size_t r = 0; r < s->runs && status == DF_OK; r++) {
        train_run *run = &s->run[r];
        if (!run->finished && run->state->step >= run->options->steps) status = train_finish(run);
    }
    return status;
}

/* Rank 0's clock decides when a periodic checkpoint is due. */
static bool checkpoint_is_due(const sweep *s) {
    double wait = s->members[0].options->checkpoint_seconds;
    uint8_t due = wait > 0 && df_now() - s->saved_at >= wait;
    df_broadcast(s->comm, 0, &due, sizeof due);
    return due != 0;
}

static df_status save_all(sweep *s) {
    df_status status = DF_OK;
    for (size_t r = 0; r < s->runs && status == DF_OK; r++)
        if (!s->run[r].finished) status = checkpoint_write(&s->run[r]);
    s->saved_at = df_now();
    return together(s, status);
}

static df_status stop_here(sweep *s, uint64_t step) {
    DF_TRY(save_all(s));
    if (s->n == 1)
        return df_fail(DF_STOPPED,
                       "stopped on request after step %" PRIu64 " of %" PRIu64
                       ", checkpoint %s: run the same job again to go on",
                       step, s->steps, s->run[0].checkpoint);
    return df_fail(DF_STOPPED,
                   "stopped on request after step %" PRIu64 " of %" PRIu64
                   ", with a checkpoint of each dictionary: run the same job again to go on",
                   step, s->steps);
}

/* Which steps are left: from that of the member that is behind to the end of the longest. */
static void find_steps(sweep *s) {
    s->first = UINT64_MAX;
    for (size_t m = 0; m < s->n; m++) {
        if (s->members[m].options->steps > s->steps) s->steps = s->members[m].options->steps;
        if (s->begin[m] < s->first) s->first = s->begin[m];
    }
}

static df_status take_steps(sweep *s) {
    double start = df_now();
    find_steps(s);
    log_begin(s);
    DF_TRY(together(s, finish_done(s)));
    if (s->first < s->steps) loader_start(s->loader, s->first, s->steps);
    for (uint64_t step = s->first; step < s->steps; step++) {
        if (df_stop_requested(s->comm)) return stop_here(s, step);
        DF_TRY(take_step(s, step));
        if (interval_ends(s, step)) DF_TRY(together(s, finish_done(s)));
        if (step + 1 < s->steps && checkpoint_is_due(s)) DF_TRY(save_all(s));
    }
    df_progress_end(&s->progress, s->steps * s->members[0].options->batch);
    df_info("train: %.1f %% of this time went by waiting for rows",
            100 * loader_waited(s->loader) / (df_now() - start));
    return DF_OK;
}

/* ---- both ----------------------------------------------------------------------------------- */

df_status df_train_sweep(df_comm *comm, df_kernels *kernels, const df_rows *rows,
                         const df_train_member *members, size_t n) {
    sweep s = {.comm = comm, .rows = rows, .members = members, .n = n, .saved_at = df_now()};
    df_status status = sweep_open(&s, kernels);
    if (status == DF_OK) status = resume(&s);
    if (status == DF_OK) status = begin(&s);
    if (status == DF_OK) status = take_steps(&s);
    sweep_close(&s);
    return status;
}

df_status df_train(df_comm *comm, df_kernels *kernels, const df_rows *rows,
                   const df_train_options *options) {
    const df_train_member only = {.options = options};
    return df_train_sweep(comm, kernels, rows, &only, 1);
}
