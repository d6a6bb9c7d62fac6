/* What darkfield train --dry-run tells of a run: memory, disk, and how it would scale. */
#include "train_plan.h"

#include <sys/statvfs.h>

static void print_free_space(const char *folder) {
    struct statvfs disk;
    char text[16];
    if (statvfs(folder, &disk) != 0) return;
    df_human_bytes((double)disk.f_bavail * (double)disk.f_frsize, text);
    df_info("  free in %s: %s", folder, text);
}

/* A member's dictionary on one rank. */
static df_status outline(const df_planned *p, size_t member, df_dict **out) {
    return df_train_outline(&p->members[member], p->rows, 1, 0, out);
}

/* Steps of the member that has most. */
static uint64_t most_steps(const df_planned *p) {
    uint64_t most = 0;
    for (size_t i = 0; i < p->n; i++)
        if (p->members[i].options->steps > most) most = p->members[i].options->steps;
    return most;
}

/* ---- scaling -------------------------------------------------------------------------------- */

/* The machine that is planned for. */
typedef struct machine {
    double rate, step;         /* flop/s of a rank; encoder GEMMs in a step */
    double latency, bandwidth; /* s, bytes/s */
} machine;

static df_status read_machine(const df_run *run, const df_planned *p, machine *m) {
    *m = (machine){.rate = 1e9 * df_job_real(run->job, "plan.rate"),
                   .step = df_job_real(run->job, "plan.step"),
                   .latency = 1e-6 * df_job_real(run->job, "plan.latency"),
                   .bandwidth = 1e9 * df_job_real(run->job, "plan.bandwidth")};
    if (m->rate > 0) return DF_OK;
    df_dict *d = NULL;
    DF_TRY(outline(p, 0, &d));
    df_status status = df_gemm_rate(d, p->members[0].options->batch, &m->rate);
    df_dict_free(&d);
    return status;
}

/* What the ranks need that have most: not all in one place. */
typedef struct need {
    double bytes, traffic, messages, compute, network, step; /* seconds */
} need;

static void add_need(const machine *m, const df_train_plan *plan, need *out) {
    double compute = m->step * plan->flop / m->rate;
    double network = df_cost_seconds(plan->cost, m->latency, m->bandwidth);
    if ((double)plan->bytes > out->bytes) out->bytes = (double)plan->bytes;
    if (compute + network <= out->step) return;
    out->step = compute + network;
    out->compute = compute;
    out->network = network;
    out->traffic = (double)plan->cost.traffic.bytes;
    out->messages = (double)plan->cost.traffic.messages;
}

/* Of the ranks that share a dictionary the first has most of it; groups differ in their runs. */
static df_status add_groups(const df_planned *p, const machine *m, int size,
                            const df_train_place *place, size_t member, need *out) {
    size_t runs = p->members[member].options->data_groups;
    df_group_place at = df_groups_place(runs > 1 ? runs : 1, place->count, 0);
    for (int g = 0; g < at.groups; g++) {
        df_train_plan plan = {.rank = place->first + g * at.shards};
        DF_TRY(df_train_plan_rank(p->members, p->n, p->rows, p->screen, size, &plan));
        add_need(m, &plan, out);
    }
    return DF_OK;
}

/* What the rank that needs most needs. */
static df_status most_needed(const df_planned *p, const machine *m, int size, need *out) {
    df_train_place *place = NULL;
    *out = (need){0};
    DF_TRY(DF_NEW(place, p->n));
    df_status status = df_train_place_members(p->members, p->n, p->rows, size, place);
    for (size_t i = 0; i < p->n && status == DF_OK; i++) {
        bool seen = false;
        for (size_t j = 0; j < i; j++) seen = seen || place[j].first == place[i].first;
        if (!seen) status = add_groups(p, m, size, &place[i], i, out);
    }
    out->bytes += (double)p->live;
    df_free(place);
    return status;
}

/* How the ranks of the only dictionary stand; of a sweep, members have their own. */
static df_group_place place_of(const df_planned *p, int size) {
    size_t runs = p->n == 1 ? p->members[0].options->data_groups : 1;
    return df_groups_place(runs > 1 ? runs : 1, size, 0);
}

/* One line of the table; alone: the seconds of a step on one rank. */
static df_status print_ranks(const df_planned *p, const machine *m, int size, double alone) {
    char memory[16], bytes[16], groups[24] = "";
    df_group_place at = place_of(p, size);
    const df_train_options *o = p->members[0].options;
    need n;
    DF_TRY(most_needed(p, m, size, &n));
    df_human_bytes(n.bytes, memory);
    df_human_bytes(n.traffic, bytes);
    if (at.runs > 1) snprintf(groups, sizeof groups, " %4d x %-4d", at.groups, at.shards);
    df_info("  %6d%s %11s %12s %9.0f %11.2f %11.2f %10.0f %6.0f %% %9.2f", size, groups, memory,
            bytes, n.messages, 1e3 * n.compute, 1e3 * n.network, (double)o->batch / n.step,
            100 * alone / (n.step * size), n.step * (double)most_steps(p) / 3600);
    return DF_OK;
}

/* The largest power of two of ranks whose groups have a block for each of theirs. */
static int useful_ranks(const df_train_options *o, const df_dict *d) {
    size_t runs = o->data_groups > 1 ? o->data_groups : 1;
    int size = 1;
    while ((size_t)df_groups_place(runs, 2 * size, 0).shards <= d->blocks) size *= 2;
    return size;
}

/* The flop of all encoder GEMMs of a step; more ranks than blocks would have nothing to do. */
static df_status whole_work(const df_planned *p, double *flop, int *most) {
    *flop = 0;
    *most = 0;
    for (size_t i = 0; i < p->n; i++) {
        df_dict *d = NULL;
        DF_TRY(outline(p, i, &d));
        *flop += df_gemm_flop(d, p->members[i].options->batch, (df_range){0, d->latents});
        *most += useful_ranks(p->members[i].options, d);
        df_dict_free(&d);
    }
    return DF_OK;
}

static df_status print_scaling(const df_run *run, const df_planned *p) {
    machine m;
    double flop;
    int most;
    DF_TRY(read_machine(run, p, &m));
    DF_TRY(whole_work(p, &flop, &most));
    df_info(
        "  on a network of %g us and %g GB/s a rank, ranks of %.4g GFLOP/s, steps of %g encoder "
        "GEMMs, nothing overlapped:",
        1e6 * m.latency, 1e-9 * m.bandwidth, 1e-9 * m.rate, m.step);
    bool split = place_of(p, 1).runs > 1;
    df_info("  %6s%s %11s %12s %9s %11s %11s %10s %8s %9s", "ranks", split ? " groups x sh" : "",
            "memory/rank", "bytes/step", "messages", "compute ms", "network ms", "rows/s", "effic.",
            "hours");
    for (int size = 1; size <= most; size *= 2)
        DF_TRY(print_ranks(p, &m, size, m.step * flop / m.rate));
    return DF_OK;
}

/* ---- the plan ------------------------------------------------------------------------------- */

static uint64_t weight_bytes(const df_dict *d) {
    size_t skip = d->kind == DF_SKIP_TRANSCODER ? d->out.count * d->in.count : 0;
    return sizeof(float) * (df_dict_enc_floats(d, d->latents) + df_dict_dec_floats(d, d->latents) +
                            d->latents + d->out.count + skip);
}

static void print_rows(const df_planned *p) {
    uint64_t n = df_rows_count(p->rows), steps = most_steps(p);
    size_t batch = p->members[0].options->batch;
    if (n == UINT64_MAX)
        df_info("  training rows: synthetic, never the same; steps: %llu of %zu rows",
                (unsigned long long)steps, batch);
    else
        df_info("  training rows: %llu; steps: %llu of %zu rows, %.2f epochs",
                (unsigned long long)n, (unsigned long long)steps, batch,
                (double)steps * (double)batch / (double)n);
}

static void print_member(const df_planned *p, size_t i, const df_dict *d,
                         const df_train_place *place) {
    int last = place->first + place->count - 1;
    char ranks[32];
    snprintf(ranks, sizeof ranks, place->count == 1 ? "rank %d" : "ranks %d to %d", place->first,
             last);
    df_info("  %-24s %s of %zu latents over %zu columns, %s", p->members[i].name,
            df_dict_kind_name(d->kind), d->latents, d->width, ranks);
}

/* What is trained and where; *weights: bytes of all dictionaries. */
static df_status print_members(const df_planned *p, int size, uint64_t *weights) {
    df_train_place *place = NULL;
    DF_TRY(DF_NEW(place, p->n));
    df_status status = df_train_place_members(p->members, p->n, p->rows, size, place);
    bool sweep = p->members[0].name != NULL;
    if (sweep) df_info("train: a sweep of %zu dictionaries on the same rows", p->n);
    *weights = 0;
    for (size_t i = 0; i < p->n && status == DF_OK; i++) {
        df_dict *d = NULL;
        status = outline(p, i, &d);
        if (status != DF_OK) break;
        *weights += weight_bytes(d);
        if (sweep)
            print_member(p, i, d, &place[i]);
        else
            df_info("train: %s of %zu latents over %zu columns (%zu site%s)",
                    df_dict_kind_name(d->kind), d->latents, d->width, d->sites,
                    d->sites == 1 ? "" : "s");
        df_dict_free(&d);
    }
    df_free(place);
    return status;
}

df_status df_print_train_plan(const df_run *run, const df_planned *p) {
    int size = df_comm_size(run->world);
    char checkpoints[16];
    need n;
    df_need all = {0};
    const machine any = {.rate = 1, .step = 1, .bandwidth = 1};
    DF_TRY(print_members(p, size, &all.disk));
    DF_TRY(most_needed(p, &any, size, &n));
    all.memory = (uint64_t)n.bytes;
    df_human_bytes(3 * 3 * (double)all.disk, checkpoints);
    print_rows(p);
    df_print_plan(p->output, all);
    df_group_place at = place_of(p, size);
    if (at.runs > 1)
        df_info("  data groups: a batch is cut into %zu runs of rows; groups of ranks here: %d, "
                "ranks that share the dictionary in each: %d",
                at.runs, at.groups, at.shards);
    df_info("  checkpoints: at most %s on disk while it runs", checkpoints);
    print_free_space(df_job_text(run->job, "out"));
    return print_scaling(run, p);
}
