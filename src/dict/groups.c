/* Data groups: where ranks stand; sums over runs of rows and over groups. The contract is in
 * darkfield/groups.h. */
#include "step.h"

#include <string.h>

/* ---- places --------------------------------------------------------------------------------- */

static int greatest_divisor(size_t runs, int size) {
    int groups = size;
    while (size % groups != 0 || runs % (size_t)groups != 0) groups--;
    return groups;
}

df_group_place df_groups_place(size_t runs, int size, int rank) {
    int groups = greatest_divisor(runs, size), shards = size / groups;
    return (df_group_place){runs, groups, rank / shards, shards, rank % shards};
}

df_range df_groups_runs(const df_group_place *at, int group) {
    return df_share(at->runs, at->groups, group); // as many each
}

df_range df_groups_rows(const df_group_place *at, int group, size_t batch) {
    df_range runs = df_groups_runs(at, group);
    df_range first = df_share(batch, (int)at->runs, (int)runs.first);
    df_range last = df_share(batch, (int)at->runs, (int)(runs.first + runs.count - 1));
    return (df_range){first.first, last.first + last.count - first.first};
}

df_groups df_groups_alone(df_comm *world) {
    return (df_groups){.at = df_groups_place(1, df_comm_size(world), df_comm_rank(world)),
                       .world = world,
                       .shards = world};
}

df_status df_groups_open(df_comm *world, size_t runs, df_groups *out) {
    *out = df_groups_alone(world);
    if (runs <= 1) return DF_OK;
    if (runs > DF_MAX_RUNS)
        return df_fail(DF_USAGE, "%zu data groups, expected 1 to %d", runs, DF_MAX_RUNS);
    out->at = df_groups_place(runs, df_comm_size(world), df_comm_rank(world));
    DF_TRY(df_comm_split(world, out->at.shard, out->at.group, &out->replicas));
    if (out->at.groups == 1) return DF_OK;
    return df_comm_split(world, out->at.group, out->at.shard, &out->shards);
}

void df_groups_close(df_groups *groups) {
    if (groups->shards != groups->world) df_comm_free(&groups->shards);
    df_comm_free(&groups->replicas);
    *groups = (df_groups){0};
}

df_traffic df_groups_traffic(const df_groups *g) {
    df_traffic sum = df_comm_traffic(g->world);
    const df_comm *more[] = {g->shards != g->world ? g->shards : NULL, g->replicas};
    for (size_t i = 0; i < sizeof more / sizeof *more; i++) {
        if (more[i] == NULL) continue;
        sum.bytes += df_comm_traffic(more[i]).bytes;
        sum.messages += df_comm_traffic(more[i]).messages;
    }
    return sum;
}

double df_groups_seconds(const df_groups *g) {
    return df_comm_seconds(g->world) + (g->shards != g->world ? df_comm_seconds(g->shards) : 0.0) +
           (g->replicas != NULL ? df_comm_seconds(g->replicas) : 0.0);
}

/* ---- rows ----------------------------------------------------------------------------------- */

size_t df_runs_begin(df_coder *c, size_t batch) {
    const df_group_place *at = &c->groups.at;
    df_range rows = df_groups_rows(at, at->group, batch), runs = df_groups_runs(at, at->group);
    c->batch = batch;
    c->first_row = rows.first;
    for (size_t run = 0; run < runs.count; run++)
        c->run_start[run] =
            df_share(batch, (int)at->runs, (int)(runs.first + run)).first - rows.first;
    c->run_start[runs.count] = rows.count;
    return rows.count;
}

df_range df_run_part(const df_coder *c, size_t run, const uint32_t *row, size_t n) {
    df_range part = {0, n};
    if (!df_is_split(c)) return part;
    size_t edge[2];
    for (size_t e = 0; e < 2; e++) {
        size_t low = 0, high = n;
        while (low < high) {
            size_t middle = low + (high - low) / 2;
            if (row[middle] < c->run_start[run + e])
                low = middle + 1;
            else
                high = middle;
        }
        edge[e] = low;
    }
    return (df_range){edge[0], edge[1] - edge[0]};
}

/* ---- sums of doubles ------------------------------------------------------------------------ */

static void join_tree(size_t runs, size_t width, double *values, double *out) {
    df_tree tree = {.leaves = runs, .width = width};
    for (size_t r = 0; r < runs; r++)
        df_tree_push(&tree, (df_node){0, (uint32_t)r}, values + r * width);
    memcpy(out, tree.value[0], width * sizeof *out);
}

double *df_run_sum(df_coder *c, size_t run, size_t width, double *out) {
    return df_is_split(c) ? c->run_sums + run * width : out;
}

df_status df_join_runs(df_coder *c, df_status mine, size_t width, double *out) {
    const df_group_place *at = &c->groups.at;
    if (!df_is_split(c)) return mine;
    double *all = c->run_sums;
    if (at->groups > 1) {
        DF_TRY(df_agree(c->groups.world, mine));
        all += df_groups_runs(at, 0).count * width;
        size_t bytes = df_groups_runs(at, 0).count * width * sizeof *all;
        for (int g = 0; g < at->groups; g++) c->replica_bytes[g] = bytes;
        df_allgather(c->groups.replicas, c->run_sums, c->replica_bytes, all);
    } else {
        DF_TRY(mine);
    }
    join_tree(at->runs, width, all, out);
    return DF_OK;
}

df_status df_block_sums(df_coder *c, size_t width, double *leaves, double *out) {
    df_status status = df_tree_sum(c->comm, c->dict->blocks, width, leaves, out);
    return c->groups.at.groups > 1 ? df_agree(c->groups.world, status) : status;
}

static df_status sum_run(df_coder *c, size_t run, size_t width, const df_row_terms *terms,
                         double *out) {
    size_t start = c->run_start[run], rows = c->run_start[run + 1] - start;
    size_t leaves = (rows + STAT_ROWS - 1) / STAT_ROWS;
    df_range mine = df_share(leaves, c->size, c->rank);
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < mine.count; i++) {
        double *leaf = c->row_leaves + i * width;
        size_t first = (mine.first + i) * STAT_ROWS;
        size_t n = rows - first < STAT_ROWS ? rows - first : STAT_ROWS;
        memset(leaf, 0, width * sizeof *leaf);
        terms->add(c, terms, (df_range){start + first, n}, leaf);
    }
    return df_tree_sum(c->comm, leaves, width, c->row_leaves, out);
}

df_status df_row_sums(df_coder *c, size_t width, const df_row_terms *terms, double *totals) {
    df_status status = DF_OK;
    for (size_t run = 0; run < c->runs && status == DF_OK; run++)
        status = sum_run(c, run, width, terms, df_run_sum(c, run, width, totals));
    return df_join_runs(c, status, width, totals);
}

/* ---- gradients of latents ------------------------------------------------------------------- */

size_t df_gradient_at(const df_dict *d, size_t j) {
    size_t first = d->mine.first, here = first + j;
    return df_dict_enc_floats(d, here) - df_dict_enc_floats(d, first) +
           df_dict_dec_floats(d, here) - df_dict_dec_floats(d, first) + j * GRADIENT_SUMS;
}

size_t df_group_nodes(const df_group_place *at, int group, df_node out[static 128]) {
    df_range runs = df_groups_runs(at, group);
    return df_tree_nodes(at->runs, runs.first, runs.count, out);
}

/* Latents of which this rank, among its replicas, finishes the sums. */
static df_range finished_here(const df_coder *c, int group) {
    return df_share(c->local, c->groups.at.groups, group);
}

static size_t gradient_floats(const df_coder *c, df_range latents) {
    return df_gradient_at(c->dict, latents.first + latents.count) -
           df_gradient_at(c->dict, latents.first);
}

size_t df_group_arrivals(const df_coder *c) {
    const df_group_place *at = &c->groups.at;
    df_node node[128];
    size_t nodes = 0;
    for (int g = 0; g < at->groups && at->groups > 1; g++) nodes += df_group_nodes(at, g, node);
    return nodes * gradient_floats(c, finished_here(c, at->group));
}

/* Sums a latent's nodes of all groups in the tree; the sum lies where its first node did. */
static void finish_latent(df_coder *c, size_t j) {
    const df_group_place *at = &c->groups.at;
    df_range mine = finished_here(c, at->group);
    size_t width = gradient_floats(c, (df_range){j, 1}), all = gradient_floats(c, mine);
    size_t before = df_gradient_at(c->dict, j) - df_gradient_at(c->dict, mine.first);
    df_sum_tree t = {.sums = df_coder_worker(c)->run_stack, .width = width};
    float *from = c->gradients_arrived, *to = NULL;
    for (int g = 0; g < at->groups; g++) {
        df_node node[128];
        size_t nodes = df_group_nodes(at, g, node);
        float *value = from + nodes * before;
        for (size_t n = 0; n < nodes; n++)
            memcpy(
                df_sum_tree_leaf(&t, (size_t)node[n].index << node[n].height, (df_range){0, width}),
                value + n * width, width * sizeof *value);
        if (to == NULL) to = value;
        from += nodes * all;
    }
    df_sum_tree_close(&t);
    memcpy(to, t.sums, width * sizeof *to);
}

/* The sums one behind the other, as the first group's nodes need not be. */
static void pack_finished(df_coder *c) {
    df_node node[128];
    df_range mine = finished_here(c, c->groups.at.group);
    size_t nodes = df_group_nodes(&c->groups.at, 0, node), at = 0;
    for (size_t j = mine.first; j < mine.first + mine.count && nodes > 1; j++) {
        size_t width = gradient_floats(c, (df_range){j, 1});
        memmove(c->gradients_arrived + at, c->gradients_arrived + nodes * at,
                width * sizeof(float));
        at += width;
    }
}

void df_join_gradients(df_coder *c) {
    const df_group_place *at = &c->groups.at;
    if (at->groups == 1) return;
    df_node node[128];
    df_range mine = finished_here(c, at->group);
    size_t nodes = df_group_nodes(at, at->group, node);
    for (int g = 0; g < at->groups; g++) {
        c->replica_bytes[g] = nodes * gradient_floats(c, finished_here(c, g)) * sizeof(float);
        c->replica_bytes[at->groups + g] =
            df_group_nodes(at, g, node) * gradient_floats(c, mine) * sizeof(float);
    }
    df_exchange(c->groups.replicas, c->gradients, c->replica_bytes, c->gradients_arrived,
                c->replica_bytes + at->groups);
#pragma omp parallel for schedule(static)
    for (size_t j = mine.first; j < mine.first + mine.count; j++) finish_latent(c, j);
    pack_finished(c);
    for (int g = 0; g < at->groups; g++)
        c->replica_bytes[g] = gradient_floats(c, finished_here(c, g)) * sizeof(float);
    df_allgather(c->groups.replicas, c->gradients_arrived, c->replica_bytes, c->gradients);
}

/* ---- checks --------------------------------------------------------------------------------- */

df_status df_groups_check(const df_dict *d, const df_step_settings *set, size_t runs) {
    const df_objective *o = &set->objective;
    const char *what = NULL;
    if (runs <= 1) return DF_OK;
    if (runs > DF_MAX_RUNS)
        return df_fail(DF_USAGE, "%zu data groups, expected 1 to %d", runs, DF_MAX_RUNS);
    if (df_dict_decoupled(d)) what = "code_norm decoupled";
    if (d->kind == DF_SKIP_TRANSCODER) what = "the linear part of a skip transcoder";
    if (o->penalty == DF_PENALTY_LP && o->rooted) what = "the lp penalty with power_root";
    if (set->fired_selected) what = "fired selected (fired active is)";
    if (what == NULL) return DF_OK;
    return df_fail(DF_USAGE, "%s, which is not summed over data groups: data_groups is %zu, give 1",
                   what, runs);
}
