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

/* The dictionary of the first rank, which has most. */
static df_status outline(const df_planned *p, int size, df_dict **out) {
    return df_train_outline(p->options, p->sites, p->n_sites, size, 0, out);
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
    DF_TRY(outline(p, 1, &d));
    df_status status = df_gemm_rate(d, p->options->batch, &m->rate);
    df_dict_free(&d);
    return status;
}

/* One line of the table; alone: the seconds of a step on one rank. */
static df_status print_ranks(const df_planned *p, const machine *m, int size, double alone) {
    df_dict *d = NULL;
    char memory[16], bytes[16];
    DF_TRY(outline(p, size, &d));
    size_t batch = p->options->batch;
    df_cost cost = df_train_step_cost(d, &p->options->objective, batch, 0, size, 0).most;
    double compute = m->step * df_gemm_flop(d, batch, d->mine) / m->rate;
    double network = df_cost_seconds(cost, m->latency, m->bandwidth), step = compute + network;
    df_human_bytes((double)df_train_plan_bytes(p->options, d, p->screen, p->rows, size), memory);
    df_human_bytes((double)cost.traffic.bytes, bytes);
    df_dict_free(&d);
    df_info("  %6d %11s %12s %9llu %11.2f %11.2f %10.0f %6.0f %% %9.2f", size, memory, bytes,
            (unsigned long long)cost.traffic.messages, 1e3 * compute, 1e3 * network,
            (double)batch / step, 100 * alone / (step * size),
            step * (double)p->options->steps / 3600);
    return DF_OK;
}

static df_status print_scaling(const df_run *run, const df_planned *p) {
    machine m;
    df_dict *d = NULL;
    DF_TRY(read_machine(run, p, &m));
    DF_TRY(outline(p, 1, &d));
    double alone = m.step * df_gemm_flop(d, p->options->batch, (df_range){0, d->latents}) / m.rate;
    int most = (int)d->blocks; // more ranks would have nothing to do
    df_dict_free(&d);
    df_info(
        "  on a network of %g us and %g GB/s a rank, ranks of %.4g GFLOP/s, steps of %g encoder "
        "GEMMs, nothing overlapped:",
        1e6 * m.latency, 1e-9 * m.bandwidth, 1e-9 * m.rate, m.step);
    df_info("  %6s %11s %12s %9s %11s %11s %10s %8s %9s", "ranks", "memory/rank", "bytes/step",
            "messages", "compute ms", "network ms", "rows/s", "effic.", "hours");
    for (int size = 1; size <= most; size *= 2) DF_TRY(print_ranks(p, &m, size, alone));
    return DF_OK;
}

/* ---- the plan ------------------------------------------------------------------------------- */

static uint64_t weight_bytes(const df_dict *d) {
    size_t skip = d->kind == DF_SKIP_TRANSCODER ? d->out.count * d->in.count : 0;
    return sizeof(float) * (df_dict_enc_floats(d, d->latents) + df_dict_dec_floats(d, d->latents) +
                            d->latents + d->out.count + skip);
}

static void print_rows(const df_rows *rows, const df_train_options *o) {
    uint64_t n = df_rows_count(rows);
    if (n == UINT64_MAX)
        df_info("  training rows: synthetic, never the same; steps: %llu of %zu rows",
                (unsigned long long)o->steps, o->batch);
    else
        df_info("  training rows: %llu; steps: %llu of %zu rows, %.2f epochs",
                (unsigned long long)n, (unsigned long long)o->steps, o->batch,
                (double)o->steps * (double)o->batch / (double)n);
}

df_status df_print_train_plan(const df_run *run, const df_planned *p) {
    df_dict *d = NULL;
    const df_train_options *o = p->options;
    int size = df_comm_size(run->world);
    char checkpoints[16];
    DF_TRY(outline(p, size, &d));
    df_need need = {df_train_plan_bytes(o, d, p->screen, p->rows, size), weight_bytes(d)};
    df_human_bytes(3 * 3 * (double)weight_bytes(d), checkpoints);
    df_info("train: %s of %zu latents over %zu columns (%zu site%s)", df_dict_kind_name(d->kind),
            o->latents, d->width, p->n_sites, p->n_sites == 1 ? "" : "s");
    df_dict_free(&d);
    print_rows(p->rows, o);
    df_print_plan(p->output, need);
    df_info("  checkpoints: at most %s on disk while it runs", checkpoints);
    print_free_space(df_job_text(run->job, "out"));
    return print_scaling(run, p);
}
