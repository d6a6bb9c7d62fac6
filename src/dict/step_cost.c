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
    size_t rows;
    int size, rank;
} place;

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

/* df_coder_encode; BatchTopK without what it may take to find its cut. */
static df_cost encode(const place *p) {
    df_cost agree = df_cost_agree(p->size), one = df_cost_reduce(p->size, 1);
    size_t parts = df_dict_thresholds(p->dict), merges = df_dict_decoupled(p->dict);
    if (p->dict->activation == DF_TOPK)
        return df_cost_add(df_cost_times(agree, 1 + merges),
                           df_cost_times(select_rows(p, p->dict->k), parts));
    if (p->dict->activation == DF_RELU) return df_cost_times(agree, 2);
    if (p->dict->activation == DF_JUMPRELU)
        return df_cost_times(agree, p->objective->bandwidth > 0.0 ? 3 : 2);
    if (p->dict->activation == DF_GATED) return df_cost_times(agree, 3);
    df_cost cut = df_cost_times(one, 3); // highest floor, total, smallest
    cut = df_cost_add(cut, df_cost_reduce(p->size, RADIX_COUNTERS)); // levels
    return df_cost_add(df_cost_times(agree, 1 + 2 * parts + merges), df_cost_times(cut, parts));
}

/* What BatchTopK may need besides: a second screen where the last batch's cut was too high a start
 * (its status, floor, levels and total); three digits of the cut's score, its ties, six digits of
 * the last tie's place. TopK and AuxK: a second exchange, where a floor was too high. */
static df_cost search(const place *p, size_t aux_k) {
    df_cost one = df_cost_reduce(p->size, 1);
    df_cost more = aux_k > 0 ? exchange_cuts(p, aux_k) : (df_cost){0};
    size_t parts = df_dict_thresholds(p->dict);
    if (p->dict->activation == DF_TOPK)
        more = df_cost_add(more, df_cost_times(exchange_cuts(p, p->dict->k), parts));
    if (p->dict->activation != DF_BATCHTOPK) return more;
    df_cost pass = df_cost_reduce(p->size, RADIX_COUNTERS), digits = df_cost_times(pass, 9);
    df_cost again = df_cost_add(df_cost_agree(p->size), df_cost_add(df_cost_times(one, 2), pass));
    df_cost cut = df_cost_add(again, df_cost_add(digits, one));
    return df_cost_add(more, df_cost_times(cut, parts));
}

static df_cost auxiliary(const place *p, size_t k) {
    df_cost dead = df_cost_reduce(p->size, 1);
    if (k == 0) return dead;
    dead = df_cost_add(dead, select_rows(p, k));
    dead = df_cost_add(dead, decode(p));
    return df_cost_add(dead, tree(p, (p->rows + STAT_ROWS - 1) / STAT_ROWS, 1));
}

/* The error of a whole reconstruction. */
static df_cost error_rows(const place *p) {
    return df_cost_add(skip(p), decode(p));
}

static df_cost column_sums(const place *p, size_t width) {
    return tree(p, (p->rows + STAT_ROWS - 1) / STAT_ROWS, width + 1);
}

/* Errors, their statistics and losses. */
static df_cost errors(const place *p, size_t aux_k) {
    const df_dict *d = p->dict;
    size_t leaves = (p->rows + STAT_ROWS - 1) / STAT_ROWS;
    df_cost sum = error_rows(p);
    sum = df_cost_add(sum, tree(p, leaves, 2 * d->out.count + 2 * df_dict_outputs(d)));
    sum = df_cost_add(sum, auxiliary(p, aux_k));
    if (p->objective->reconstruction == DF_UNSQUARED) sum = df_cost_add(sum, tree(p, leaves, 1));
    if (df_is_shaped(p->objective)) sum = df_cost_add(sum, column_sums(p, d->out.count));
    if (d->activation != DF_GATED) return sum;
    return df_cost_add(sum, df_cost_add(error_rows(p), column_sums(p, d->out.count)));
}

/* Active latents, and the terms that are sums over latents. */
static df_cost objective_terms(const place *p) {
    const df_objective *o = p->objective;
    df_cost sum = df_cost_reduce(p->size, 1), roots = tree(p, p->dict->blocks, p->rows);
    if (o->penalty == DF_PENALTY_LP && o->rooted)
        sum = df_cost_add(sum, df_cost_times(roots, o->next_power > 0.0 ? 2 : 1));
    if (o->preact > 0.0) sum = df_cost_add(sum, column_sums(p, p->dict->in.count));
    return df_cost_add(sum, tree(p, p->dict->blocks, TERMS));
}

df_step_cost df_coder_step_cost(const df_dict *d, const df_objective *o, size_t rows, size_t aux_k,
                                int size, int rank) {
    const place p = {d, o, rows, size, rank};
    df_cost sum = df_cost_add(encode(&p), errors(&p, aux_k));
    sum = df_cost_add(sum, objective_terms(&p));
    if (d->subtract_bias) sum = df_cost_add(sum, tree(&p, d->blocks, d->out.count));
    return (df_step_cost){sum, df_cost_add(sum, search(&p, aux_k))};
}

df_cost train_loop_cost(size_t width, size_t rows, int size, int rank) {
    const place p = {.rows = rows, .size = size, .rank = rank};
    df_cost loop = df_cost_add(df_cost_reduce(size, 1), df_cost_agree(size)); // stops, reading
    loop = df_cost_add(loop, gather_rows(&p, width * sizeof(float)));
    return df_cost_add(loop, df_cost_broadcast(size, rank, 1)); // checkpoints
}
