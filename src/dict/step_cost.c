/* The communication of a training step, as a formula. What stands here follows the calls of
 * coder.c, select.c, decode.c, step.c and step_latents.c; tests count those. */
#include "coder.h"

enum { RADIX_COUNTERS = 2048 }; /* of one pass of the radix select */

/* Where the formula is evaluated. */
typedef struct place {
    const df_dict *dict;
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

/* TopK: candidates to the rows' owners, the cuts back. */
static df_cost select_rows(const place *p, size_t k) {
    size_t bytes = k * sizeof(uint64_t);
    return df_cost_add(send_to_owners(p, bytes, bytes * (size_t)p->size),
                       gather_rows(p, sizeof(uint64_t)));
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

/* df_coder_encode; BatchTopK without the passes that look for its cut. */
static df_cost encode(const place *p) {
    df_cost agree = df_cost_agree(p->size), one = df_cost_reduce(p->size, 1);
    if (p->dict->activation == DF_TOPK) return df_cost_add(agree, select_rows(p, p->dict->k));
    if (p->dict->activation == DF_RELU) return df_cost_times(agree, 2);
    return df_cost_add(df_cost_times(agree, 3), df_cost_times(one, 3)); // floor, total, smallest
}

/* Three digits of the cut's score, its ties, six digits of the last tie's place. */
static df_cost radix_passes(const place *p) {
    if (p->dict->activation != DF_BATCHTOPK) return (df_cost){0};
    return df_cost_add(df_cost_times(df_cost_reduce(p->size, RADIX_COUNTERS), 9),
                       df_cost_reduce(p->size, 1));
}

static df_cost auxiliary(const place *p, size_t k) {
    df_cost dead = df_cost_reduce(p->size, 1);
    if (k == 0) return dead;
    dead = df_cost_add(dead, select_rows(p, k));
    dead = df_cost_add(dead, decode(p));
    return df_cost_add(dead, tree(p, (p->rows + STAT_ROWS - 1) / STAT_ROWS, 1));
}

df_step_cost df_coder_step_cost(const df_dict *d, size_t rows, size_t aux_k, int size, int rank) {
    const place p = {d, rows, size, rank};
    size_t leaves = (rows + STAT_ROWS - 1) / STAT_ROWS;
    df_cost sum = encode(&p);
    sum = df_cost_add(sum, df_cost_add(decode(&p), skip(&p)));
    sum = df_cost_add(sum, tree(&p, leaves, 2 * d->out.count + 2 * df_dict_outputs(d)));
    sum = df_cost_add(sum, tree(&p, d->blocks, 1));  // sparsity
    sum = df_cost_add(sum, df_cost_reduce(size, 1)); // active latents
    sum = df_cost_add(sum, auxiliary(&p, aux_k));
    if (d->subtract_bias) sum = df_cost_add(sum, tree(&p, d->blocks, d->out.count));
    return (df_step_cost){sum, df_cost_add(sum, radix_passes(&p))};
}

df_step_cost df_train_step_cost(const df_dict *d, size_t rows, size_t aux_k, int size, int rank) {
    const place p = {d, rows, size, rank};
    df_step_cost step = df_coder_step_cost(d, rows, aux_k, size, rank);
    df_cost loop = df_cost_add(df_cost_reduce(size, 1), df_cost_agree(size)); // stops, reading
    loop = df_cost_add(loop, gather_rows(&p, d->width * sizeof(float)));
    loop = df_cost_add(loop, df_cost_broadcast(size, rank, 1)); // checkpoints
    return (df_step_cost){df_cost_add(step.least, loop), df_cost_add(step.most, loop)};
}
