/* The cost of what move.c and tree.c do, counted as they count. */
#include "parts.h"

/* ---- arithmetic ----------------------------------------------------------------------------- */

df_cost df_cost_add(df_cost a, df_cost b) {
    a.traffic.bytes += b.traffic.bytes;
    a.traffic.messages += b.traffic.messages;
    a.latencies += b.latencies;
    a.link_bytes += b.link_bytes;
    return a;
}

df_cost df_cost_times(df_cost a, uint64_t n) {
    return (df_cost){
        {a.traffic.bytes * n, a.traffic.messages * n}, a.latencies * n, a.link_bytes * n};
}

double df_cost_seconds(df_cost cost, double latency, double bandwidth) {
    return (double)cost.latencies * latency + (double)cost.link_bytes / bandwidth;
}

static uint64_t rounds_of(int size) {
    uint64_t rounds = 0;
    while ((uint64_t)1 << rounds < (uint64_t)size) rounds++;
    return rounds;
}

/* ---- operations ----------------------------------------------------------------------------- */

/* Every round of a small allreduce carries all its values. */
static df_cost reduce_bytes(int size, size_t bytes) {
    uint64_t rounds = rounds_of(size);
    if (size == 1) return (df_cost){0};
    return (df_cost){{bytes, 1}, rounds, rounds * bytes};
}

df_cost df_cost_agree(int size) {
    return reduce_bytes(size, sizeof(int));
}

df_cost df_cost_reduce(int size, size_t n) {
    return n == 0 ? (df_cost){0} : reduce_bytes(size, n * sizeof(uint64_t));
}

df_cost df_cost_broadcast(int size, int rank, size_t bytes) {
    if (size == 1 || bytes == 0) return (df_cost){0};
    df_traffic handed = rank == 0 ? (df_traffic){bytes, 1} : (df_traffic){0, 0};
    return (df_cost){handed, rounds_of(size), bytes};
}

df_cost df_cost_allgather(int size, size_t mine, size_t all) {
    if (size == 1) return (df_cost){0};
    size_t others = all - mine;
    return (df_cost){{mine, 1}, rounds_of(size), others > mine ? others : mine};
}

df_cost df_cost_exchange(int size, size_t partners, size_t out, size_t in) {
    if (size == 1) return (df_cost){0};
    return (df_cost){{out, partners}, (uint64_t)size - 1, out > in ? out : in};
}

/* ---- the ordered tree ----------------------------------------------------------------------- */

static size_t nodes_of(int size, int rank, size_t n) {
    df_node node[128];
    df_range share = df_share(n, size, rank);
    return df_tree_nodes(n, share.first, share.count, node);
}

/* One slice: subtrees to the owners of its columns, their sums to all. */
static df_cost slice_cost(int size, int rank, size_t nodes, size_t all_nodes, size_t columns) {
    size_t mine = df_share(columns, size, rank).count, partners = 0;
    for (int p = 0; p < size && nodes > 0; p++)
        partners += p != rank && df_share(columns, size, p).count > 0;
    df_cost out = df_cost_exchange(size, partners, nodes * (columns - mine) * sizeof(double),
                                   (all_nodes - nodes) * mine * sizeof(double));
    return df_cost_add(out,
                       df_cost_allgather(size, mine * sizeof(double), columns * sizeof(double)));
}

size_t df_tree_bytes(int size, int rank, size_t n, size_t width) {
    size_t ranks = (size_t)size, all = 0, slice = width < DF_TREE_SLICE ? width : DF_TREE_SLICE;
    for (int p = 0; p < size; p++) all += nodes_of(size, p, n);
    bool small = all * width <= DF_TREE_SMALL;
    size_t outgoing = small ? 0 : nodes_of(size, rank, n) * slice;
    size_t incoming = all * (small ? width : slice / ranks + 1);
    return (outgoing + incoming) * sizeof(double) + 3 * ranks * sizeof(size_t);
}

df_cost df_cost_tree_sum(int size, int rank, size_t n, size_t width) {
    if (n == 0 || width == 0) return (df_cost){0};
    size_t nodes = nodes_of(size, rank, n), all = 0;
    for (int p = 0; p < size; p++) all += nodes_of(size, p, n);
    df_cost cost = df_cost_agree(size);
    if (all * width <= DF_TREE_SMALL)
        return df_cost_add(cost, df_cost_allgather(size, nodes * width * sizeof(double),
                                                   all * width * sizeof(double)));
    for (size_t first = 0; first < width; first += DF_TREE_SLICE) {
        size_t columns = width - first < DF_TREE_SLICE ? width - first : DF_TREE_SLICE;
        cost = df_cost_add(cost, slice_cost(size, rank, nodes, all, columns));
    }
    return cost;
}
