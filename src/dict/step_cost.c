/* The communication of a training step, as a formula. What stands here follows the calls of
 * coder.c, topk.c, select.c, decode.c, skip.c, step.c, unsquared.c, gated.c, penalty.c and
 * step_latents.c; tests count those. */
#include "train_internal.h"
#include "objective.h"

enum { RADIX_COUNTERS = 2048 }; /* of one pass of the radix select */

/* Where the formula is evaluated. */
typedef struct place {
    const df_dict *dict;
    const df_objective *objective;
    const df_group_place *at;
    size_t batch, rows; /* of all groups, of this one */
    int size, rank;     /* among the shards of this group */
} place;

static place place_of(const df_dict *d, const df_objective *o, size_t batch,
                      const df_group_place *at) {
    size_t rows = df_groups_rows(at, at->group, batch).count;
    return (place){d, o, at, batch, rows, at->shards, at->shard};
}

/* Ranks of all groups. */
static int everyone(const place *p) {
    return df_groups_size(p->at);
}

/* Ranks other than this one that own rows. */
static size_t partners(const place *p) {
    size_t owners = p->rows < (size_t)p->size ? p->rows : (size_t)p->size;
    return owners - (df_share(p->rows, p->size, p->rank).count > 0 ? 1 : 0);
}

/* Every rank brings `bytes` for each row it owns, and gets all. */
static df_cost gather_rows(const place *p, size_t bytes) {
    return df_cost_allgather(p->size, df_share(p->rows, p->size, p->rank).count * bytes,
                             p->rows * bytes);
}

/* Every rank sends the rows' owners what it has of them: `mine` bytes a row of `all` from all
 * ranks. */
static df_cost send_to_owners(const place *p, size_t mine, size_t all) {
    size_t rows = df_share(p->rows, p->size, p->rank).count;
    return df_cost_exchange(p->size, mine > 0 ? partners(p) : 0, (p->rows - rows) * mine,
                            rows * (all - mine));
}

/* TopK: winners to the rows' owners, the cuts back. */
static df_cost exchange_cuts(const place *p, size_t k) {
    size_t bytes = k * sizeof(uint64_t);
    return df_cost_add(send_to_owners(p, bytes, bytes * (size_t)p->size),
                       gather_rows(p, sizeof(uint64_t)));
}

/* Floors agreed on before. */
static df_cost select_rows(const place *p, size_t k) {
    return df_cost_add(df_cost_reduce(p->size, 2 * p->rows), exchange_cuts(p, k));
}

/* Partial sums of maximal subtrees to the rows' owners, the error of the rows to all. */
static df_cost decode(const place *p) {
    size_t bytes = p->dict->out.count * sizeof(float), mine = 0, all = 0;
    for (int r = 0; r < p->size; r++) {
        df_node node[128];
        df_range blocks = df_share(p->dict->blocks, p->size, r);
        size_t nodes = df_tree_nodes(p->dict->blocks, blocks.first, blocks.count, node);
        all += nodes;
        if (r == p->rank) mine = nodes;
    }
    return df_cost_add(send_to_owners(p, mine * bytes, all * bytes), gather_rows(p, bytes));
}

/* The products of W_skip's rows to the rows' owners. */
static df_cost skip(const place *p) {
    const df_dict *d = p->dict;
    if (d->kind != DF_SKIP_TRANSCODER) return (df_cost){0};
    return send_to_owners(p, df_dict_skip_share(d, p->size, p->rank).count * sizeof(float),
                          d->out.count * sizeof(float));
}

static df_cost tree(const place *p, size_t leaves, size_t width) {
    return df_cost_tree_sum(p->size, p->rank, leaves, width);
}

/* Sums of each run become those of the batch: df_join_runs. */
static df_cost join_runs(const place *p, size_t width) {
    size_t each = width * sizeof(double);
    if (p->at->groups == 1) return (df_cost){0};
    return df_cost_add(df_cost_agree(everyone(p)),
                       df_cost_allgather(p->at->groups, df_groups_runs(p->at, 0).count * each,
                                         p->at->runs * each));
}

/* df_row_sums. */
static df_cost row_sums(const place *p, size_t width) {
    df_range runs = df_groups_runs(p->at, p->at->group);
    df_cost sum = join_runs(p, width);
    for (size_t r = runs.first; r < runs.first + runs.count; r++) {
        size_t rows = df_share(p->batch, (int)p->at->runs, (int)r).count;
        sum = df_cost_add(sum, tree(p, (rows + STAT_ROWS - 1) / STAT_ROWS, width));
    }
    return sum;
}

/* Floats of the gradients of which a group's rank finishes the sums. */
static size_t gradient_floats(const place *p, int group) {
    const df_dict *d = p->dict;
    df_range shard = df_dict_share(d, p->size, p->rank);
    df_range some = df_share(shard.count, p->at->groups, group);
    size_t first = shard.first + some.first, end = first + some.count;
    return df_dict_enc_floats(d, end) - df_dict_enc_floats(d, first) + df_dict_dec_floats(d, end) -
           df_dict_dec_floats(d, first) + some.count * GRADIENT_SUMS;
}

/* df_join_gradients. */
static df_cost gradients(const place *p) {
    df_node node[128];
    size_t mine = gradient_floats(p, p->at->group), all = 0, in = 0, partners = 0;
    for (int g = 0; g < p->at->groups; g++) {
        all += gradient_floats(p, g);
        if (g == p->at->group) continue;
        in += df_group_nodes(p->at, g, node) * mine;
        partners += gradient_floats(p, g) > 0;
    }
    if (p->at->groups == 1) return (df_cost){0};
    size_t out = df_group_nodes(p->at, p->at->group, node) * (all - mine);
    return df_cost_add(
        df_cost_exchange(p->at->groups, partners, out * sizeof(float), in * sizeof(float)),
        df_cost_allgather(p->at->groups, mine * sizeof(float), all * sizeof(float)));
}

/* df_coder_encode; BatchTopK without what it may take to find its cut. */
static df_cost encode(const place *p) {
    df_cost agree = df_cost_agree(everyone(p)), one = df_cost_reduce(everyone(p), 1);
    size_t parts = df_dict_thresholds(p->dict), merges = df_dict_decoupled(p->dict);
    if (p->dict->activation == DF_TOPK)
        return df_cost_add(df_cost_times(agree, 1 + merges),
                           df_cost_times(select_rows(p, p->dict->k), parts));
    if (p->dict->activation == DF_RELU) return df_cost_times(agree, 2);
    if (p->dict->activation == DF_JUMPRELU)
        return df_cost_times(agree, p->objective->bandwidth > 0.0 ? 3 : 2);
    if (p->dict->activation == DF_GATED) return df_cost_times(agree, 3);
    df_cost cut = df_cost_times(one, 3); // highest floor, total, smallest
    cut = df_cost_add(cut, df_cost_reduce(everyone(p), RADIX_COUNTERS)); // levels
    return df_cost_add(df_cost_times(agree, 1 + 2 * parts + merges), df_cost_times(cut, parts));
}

/* What BatchTopK may need besides: a second screen where the last batch's cut was too high a start
 * (its status, floor, levels and total); three digits of the cut's score, its ties, six digits of
 * the last tie's place. TopK and AuxK: a second exchange, where a floor was too high. */
static df_cost search(const place *p, size_t aux_k) {
    df_cost one = df_cost_reduce(everyone(p), 1);
    df_cost more = aux_k > 0 ? exchange_cuts(p, aux_k) : (df_cost){0};
    size_t parts = df_dict_thresholds(p->dict);
    if (p->dict->activation == DF_TOPK)
        more = df_cost_add(more, df_cost_times(exchange_cuts(p, p->dict->k), parts));
    if (p->dict->activation != DF_BATCHTOPK) return more;
    df_cost pass = df_cost_reduce(everyone(p), RADIX_COUNTERS), digits = df_cost_times(pass, 9);
    df_cost again =
        df_cost_add(df_cost_agree(everyone(p)), df_cost_add(df_cost_times(one, 2), pass));
    df_cost cut = df_cost_add(again, df_cost_add(digits, one));
    return df_cost_add(more, df_cost_times(cut, parts));
}

static df_cost auxiliary(const place *p, size_t k) {
    df_cost dead = df_cost_reduce(p->size, 1);
    if (k == 0) return dead;
    dead = df_cost_add(dead, select_rows(p, k));
    dead = df_cost_add(dead, decode(p));
    return df_cost_add(dead, row_sums(p, 1));
}

/* The error of a whole reconstruction. */
static df_cost error_rows(const place *p) {
    return df_cost_add(skip(p), decode(p));
}

static df_cost column_sums(const place *p, size_t width) {
    return row_sums(p, width + 1);
}

/* Errors, their statistics and losses. */
static df_cost errors(const place *p, size_t aux_k) {
    const df_dict *d = p->dict;
    df_cost sum = error_rows(p);
    sum = df_cost_add(sum, row_sums(p, 2 * d->out.count + 2 * df_dict_outputs(d)));
    sum = df_cost_add(sum, auxiliary(p, aux_k));
    if (p->objective->reconstruction == DF_UNSQUARED) sum = df_cost_add(sum, row_sums(p, 1));
    if (df_is_shaped(p->objective)) sum = df_cost_add(sum, column_sums(p, d->out.count));
    if (d->activation != DF_GATED) return sum;
    return df_cost_add(sum, df_cost_add(error_rows(p), column_sums(p, d->out.count)));
}

/* Active latents, and the terms that are sums over latents. */
static df_cost objective_terms(const place *p) {
    const df_objective *o = p->objective;
    df_cost sum = df_cost_reduce(everyone(p), 1), roots = tree(p, p->dict->blocks, p->rows);
    if (o->penalty == DF_PENALTY_LP && o->rooted)
        sum = df_cost_add(sum, df_cost_times(roots, o->next_power > 0.0 ? 2 : 1));
    if (o->preact > 0.0) sum = df_cost_add(sum, column_sums(p, p->dict->in.count));
    df_cost terms = df_cost_times(tree(p, p->dict->blocks, TERMS), df_groups_runs(p->at, 0).count);
    return df_cost_add(sum, df_cost_add(terms, join_runs(p, TERMS)));
}

df_step_cost df_coder_step_cost(const df_dict *d, const df_objective *o, size_t rows, size_t aux_k,
                                const df_group_place *at) {
    const place p = place_of(d, o, rows, at);
    df_cost sum = df_cost_add(encode(&p), errors(&p, aux_k));
    sum = df_cost_add(sum, objective_terms(&p));
    sum = df_cost_add(sum, gradients(&p));
    if (d->subtract_bias) sum = df_cost_add(sum, tree(&p, d->blocks, d->out.count));
    if (d->subtract_bias && at->groups > 1) sum = df_cost_add(sum, df_cost_agree(everyone(&p)));
    return (df_step_cost){sum, df_cost_add(sum, search(&p, aux_k))};
}

/* Every rank has its share of a group's rows, of which the others need theirs. */
static df_cost cross_rows(const place *p, size_t bytes) {
    size_t groups = (size_t)p->at->groups, mine = df_share(p->rows, p->size, p->rank).count;
    size_t away = mine * (groups - 1) / groups * bytes;
    return groups > 1 ? df_cost_exchange(p->at->groups, groups - 1, away, away) : (df_cost){0};
}

df_cost train_loop_cost(const df_order *order, size_t width, size_t rows,
                        const df_group_place *at) {
    const place p = place_of(NULL, NULL, rows, at);
    int all = everyone(&p);
    df_cost loop = df_cost_add(df_cost_reduce(all, 1), df_cost_agree(all)); // stops, reading
    if (order->how == DF_SHUFFLE_BUFFER)
        loop = df_cost_add(loop, cross_rows(&p, width * sizeof(float)));
    loop = df_cost_add(loop, gather_rows(&p, width * sizeof(float)));
    return df_cost_add(loop, df_cost_broadcast(all, df_groups_rank(at), 1)); // checkpoints
}
