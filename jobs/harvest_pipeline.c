/* Spreading a model over ranks: how many stages, which blocks on which, and the line between them.
 */
#include "harvest.h"

#include "darkfield/placement.h"

#include <omp.h>

/* ---- what a part needs ---------------------------------------------------------------------- */

static bool holds(df_model_part part, size_t block) {
    return block - part.first < part.count;
}

void df_harvest_sites(const harvest *h, df_model_part part, part_sites *out) {
    out->n = out->columns = 0;
    for (size_t s = 0; s < h->sites; s++) {
        if (!holds(part, h->home[s])) continue;
        out->index[out->n] = s;
        out->name[out->n] = h->site[s];
        out->before[out->n++] = out->columns;
        out->columns += h->width[s];
    }
}

size_t df_harvest_columns(const harvest *h, size_t s) {
    size_t columns = 0;
    for (size_t i = 0; i < s; i++) columns += h->width[i];
    return columns;
}

uint64_t df_pipeline_bytes(const harvest *h, df_model_part part) {
    return df_model_part_bytes(&h->shape, part, h->bf16) + df_harvest_bytes(h, part);
}

/* ---- the number of stages ------------------------------------------------------------------- */

// One process may plan for any number of ranks.
static bool ranks_fit(const harvest *h, size_t stages) {
    size_t size = (size_t)df_comm_size(h->run->world);
    return size % stages == 0 || (h->run->dry_run && size == 1);
}

df_status df_pipeline_check(harvest *h) {
    const df_job *job = h->run->job;
    const char *where = df_job_where(job, "harvest.pipeline");
    size_t stages = (size_t)df_job_int(job, "harvest.pipeline");
    int size = df_comm_size(h->run->world);
    h->pipe.limit = (uint64_t)df_job_int(job, "harvest.memory") << 20;
    if (stages == 0 && h->pipe.limit == 0)
        return df_fail(DF_USAGE,
                       "%s: harvest.pipeline is 0, the fewest stages that harvest.memory allows, "
                       "but harvest.memory is not given",
                       where);
    if (stages > h->shape.layers)
        return df_fail(DF_USAGE,
                       "%s: harvest.pipeline is %zu, but model %s has %zu blocks, and each stage "
                       "needs one at least",
                       where, stages, h->name, h->shape.layers);
    if (stages > 0 && !ranks_fit(h, stages))
        return df_fail(
            DF_USAGE,
            "%s: harvest.pipeline is %zu: groups of %zu ranks cannot be made of %d; start a "
            "multiple of %zu, or choose a divisor of %d",
            where, stages, stages, size, stages, size);
    h->pipe.stages = stages;
    return DF_OK;
}

/* ---- the placement -------------------------------------------------------------------------- */

static uint64_t stage_bytes(const void *context, df_model_part part) {
    const harvest *h = context;
    return h->pipe.text + df_pipeline_bytes(h, part);
}

static df_status place_on(harvest *h, df_load load, size_t stages) {
    h->pipe.stages = stages;
    df_free(h->pipe.part);
    DF_TRY(DF_NEW(h->pipe.part, stages));
    return df_place(&load, stages, h->pipe.limit, h->pipe.part);
}

// The fewest stages that keep the limit.
static df_status place_on_fewest(harvest *h, df_load load) {
    df_status status = DF_USAGE;
    for (size_t stages = 1; stages <= h->shape.layers && status == DF_USAGE; stages++)
        if (ranks_fit(h, stages)) status = place_on(h, load, stages);
    return status;
}

static df_status place(harvest *h) {
    df_load load = {.blocks = h->shape.layers, .bytes = stage_bytes, .context = h};
    double *cost;
    DF_TRY(DF_NEW(cost, h->shape.layers));
    load.cost = cost;
    df_status status = df_model_costs(h->model_path, h->how.context, cost, &load.head);
    if (status == DF_OK)
        status = h->pipe.stages > 0 ? place_on(h, load, h->pipe.stages) : place_on_fewest(h, load);
    if (status == DF_USAGE)
        df_context("placing model %s by harvest.pipeline and harvest.memory (%s)", h->name,
                   df_job_where(h->run->job, "harvest.memory"));
    df_free(cost);
    return status;
}

// What the ranks have at most before there is a model.
static void look_at_ranks(harvest *h) {
    uint64_t most[2] = {df_memory_now(), (uint64_t)omp_get_max_threads()};
    df_max_u64(h->run->world, most, 2);
    h->pipe.text = most[0];
    h->pipe.threads = (size_t)most[1];
}

// This rank's group, its stage there and the sites that stage has.
static void find_stage(harvest *h) {
    pipeline *p = &h->pipe;
    size_t size = (size_t)df_comm_size(h->run->world), rank = (size_t)df_comm_rank(h->run->world);
    p->groups = size < p->stages ? 1 : size / p->stages;
    p->group = rank / p->stages;
    p->stage = rank % p->stages;
    df_harvest_sites(h, p->part[p->stage], &h->own);
}

df_status df_pipeline_place(harvest *h) {
    look_at_ranks(h);
    DF_TRY(df_agree(h->run->world, place(h)));
    find_stage(h);
    return DF_OK;
}

df_status df_pipeline_whole(harvest *h) {
    look_at_ranks(h);
    h->pipe.stages = 1;
    DF_TRY(df_agree(h->run->world, DF_NEW(h->pipe.part, 1)));
    h->pipe.part[0] = df_model_whole(&h->shape);
    find_stage(h);
    return DF_OK;
}

static double cost_share(const df_load *load, df_model_part part) {
    return 100.0 * df_part_cost(load, part) / df_part_cost(load, (df_model_part){0, load->blocks});
}

static void print_stage(const harvest *h, const df_load *load, size_t stage) {
    df_model_part part = h->pipe.part[stage];
    uint64_t weights = df_model_part_bytes(&h->shape, part, h->bf16),
             work = df_harvest_bytes(h, part);
    char held[16], worked[16], all[16];
    df_human_bytes((double)weights, held);
    df_human_bytes((double)work, worked);
    df_human_bytes((double)(h->pipe.text + weights + work), all);
    df_info("  stage %zu: blocks %zu to %zu%s%s, %.1f %% of the cost, parameters %s, activations "
            "%s, memory %s",
            stage + 1, part.first, part.first + part.count - 1, stage == 0 ? ", embedding" : "",
            stage + 1 == h->pipe.stages ? ", unembedding" : "", cost_share(load, part), held,
            worked, all);
}

void df_pipeline_print(const harvest *h) {
    df_load load = {.blocks = h->shape.layers};
    double *cost = df_alloc(load.blocks, sizeof *cost);
    load.cost = cost;
    if (h->pipe.stages > 1 && cost != NULL &&
        df_model_costs(h->model_path, h->how.context, cost, &load.head) == DF_OK) {
        df_info("  pipeline: %zu stages, %zu group%s of ranks", h->pipe.stages, h->pipe.groups,
                h->pipe.groups > 1 ? "s" : "");
        for (size_t s = 0; s < h->pipe.stages; s++) print_stage(h, &load, s);
    }
    df_free(cost);
}

/* ---- the line ------------------------------------------------------------------------------- */

size_t df_pipeline_numbers(const harvest *h) {
    return df_forward_rows(h->how.context) * h->shape.width;
}

df_status df_pipeline_open(harvest *h) {
    pipeline *p = &h->pipe;
    size_t bytes = p->threads * df_pipeline_numbers(h) * sizeof(float);
    DF_TRY(df_comm_split(h->run->world, (int)p->group, (int)p->stage, &p->comm));
    return df_agree(h->run->world, df_line_open(p->comm, bytes, &p->line));
}

void df_pipeline_close(harvest *h) {
    df_line_close(&h->pipe.line);
    df_comm_free(&h->pipe.comm);
    df_free(h->pipe.part);
}
