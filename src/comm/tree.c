/* Sums in the fixed tree. Node (h, i) covers leaves [i 2^h, (i+1) 2^h) clipped to n. Values meet
 * left to right on a stack: a node whose left sibling lies below it is added to that one and
 * becomes their parent; a left node without a right sibling becomes its parent as it is. */
#include "parts.h"

#include <string.h>

#define MOST_NODES 128

static uint32_t root_height(size_t n) {
    uint32_t height = 0;
    while (((size_t)1 << height) < n) height++;
    return height;
}

static void add_into(double *left, const double *right, size_t width) {
    for (size_t j = 0; j < width; j++) left[j] += right[j];
}

void df_tree_push(df_tree *tree, df_node node, double *value) {
    tree->node[tree->depth] = node;
    tree->value[tree->depth] = value;
    tree->depth++;
    while (tree->node[tree->depth - 1].height < root_height(tree->leaves)) {
        df_node *last = &tree->node[tree->depth - 1];
        size_t right_first = ((size_t)last->index + 1) << last->height;
        if (last->index % 2 == 1) {
            // what lies below ends where this one starts: of equal height it is the left sibling
            if (tree->depth < 2 || tree->node[tree->depth - 2].height != last->height) return;
            add_into(tree->value[tree->depth - 2], tree->value[tree->depth - 1], tree->width);
            tree->depth--;
        } else if (right_first < tree->leaves) {
            return;
        }
        tree->node[tree->depth - 1].height++;
        tree->node[tree->depth - 1].index /= 2;
    }
}

size_t df_tree_nodes(size_t n, size_t first, size_t count, df_node out[static MOST_NODES]) {
    size_t at = first, end = first + count, nodes = 0;
    uint32_t top = root_height(n);
    while (at < end) {
        uint32_t height = 0;
        for (uint32_t h = 1; h <= top; h++) {
            size_t span = (size_t)1 << h, stop = at + span < n ? at + span : n;
            if (at % span == 0 && stop <= end) height = h;
        }
        out[nodes++] = (df_node){height, (uint32_t)(at >> height)};
        at += (size_t)1 << height;
    }
    return nodes;
}

/* Reduces this rank's leaves to its maximal subtrees, whose values end up packed at the front. */
static void reduce_leaves(size_t n, df_range share, size_t width, double *leaves) {
    df_tree tree = {.leaves = n, .width = width};
    for (size_t i = 0; i < share.count; i++)
        df_tree_push(&tree, (df_node){0, (uint32_t)(share.first + i)}, leaves + i * width);
    for (size_t k = 1; k < tree.depth; k++)
        memmove(leaves + k * width, tree.value[k], width * sizeof *leaves);
}

/* Adds the subtrees of all ranks, values [nodes of all ranks, width] in rank order, into the first
 * row. */
static void reduce_nodes(df_comm *comm, size_t n, size_t width, double *values) {
    df_tree tree = {.leaves = n, .width = width};
    for (int r = 0; r < comm->size; r++) {
        df_node node[MOST_NODES];
        df_range share = df_share(n, comm->size, r);
        size_t nodes = df_tree_nodes(n, share.first, share.count, node);
        for (size_t k = 0; k < nodes; k++, values += width) df_tree_push(&tree, node[k], values);
    }
}

/* Which nodes and columns each rank brings and takes while one slice of columns crosses. */
typedef struct plan {
    df_comm *comm;
    size_t leaves, width, first, columns, total; // columns [first, first + columns); total nodes
    size_t *nodes;                               // [size] of each rank
    size_t *give, *take;                         // [size] bytes
    double *outgoing, *incoming;
} plan;

static void count_nodes(plan *p) {
    df_node node[MOST_NODES];
    p->total = 0;
    for (int r = 0; r < p->comm->size; r++) {
        df_range share = df_share(p->leaves, p->comm->size, r);
        p->nodes[r] = df_tree_nodes(p->leaves, share.first, share.count, node);
        p->total += p->nodes[r];
    }
}

/* Each rank finishes the tree for its share of the slice's columns, then all gather the sums. */
static void cross_slice(plan *p, const double *values, double *out) {
    df_comm *comm = p->comm;
    int size = comm->size, me = comm->rank;
    df_range mine = df_share(p->columns, size, me);
    double *to = p->outgoing;
    for (int r = 0; r < size; r++) {
        df_range theirs = df_share(p->columns, size, r);
        p->give[r] = p->nodes[me] * theirs.count * sizeof *to;
        p->take[r] = p->nodes[r] * mine.count * sizeof *to;
        for (size_t k = 0; k < p->nodes[me]; k++, to += theirs.count)
            memcpy(to, values + k * p->width + p->first + theirs.first, theirs.count * sizeof *to);
    }
    df_exchange(comm, p->outgoing, p->give, p->incoming, p->take);
    reduce_nodes(comm, p->leaves, mine.count, p->incoming);
    for (int r = 0; r < size; r++) p->take[r] = df_share(p->columns, size, r).count * sizeof *to;
    df_allgather(comm, p->incoming, p->take, out + p->first);
}

/* Few values: one gather, and every rank finishes the whole tree. */
static void cross_small(plan *p, const double *values, double *out) {
    for (int r = 0; r < p->comm->size; r++) p->take[r] = p->nodes[r] * p->width * sizeof *values;
    df_allgather(p->comm, values, p->take, p->incoming);
    reduce_nodes(p->comm, p->leaves, p->width, p->incoming);
    memcpy(out, p->incoming, p->width * sizeof *out);
}

static df_status plan_buffers(plan *p) {
    size_t size = (size_t)p->comm->size,
           slice = p->width < DF_TREE_SLICE ? p->width : DF_TREE_SLICE;
    size_t outgoing, incoming;
    bool small = p->total * p->width <= DF_TREE_SMALL;
    DF_TRY(df_mul(small ? 0 : p->nodes[p->comm->rank], slice, &outgoing));
    DF_TRY(df_mul(p->total, small ? p->width : slice / size + 1, &incoming));
    DF_TRY(DF_NEW(p->outgoing, outgoing));
    return DF_NEW(p->incoming, incoming);
}

static df_status plan_make(plan *p) {
    DF_TRY(DF_NEW(p->nodes, 3 * (size_t)p->comm->size));
    p->give = p->nodes + p->comm->size;
    p->take = p->give + p->comm->size;
    count_nodes(p);
    return plan_buffers(p);
}

df_status df_tree_finish(df_comm *comm, size_t n, size_t width, const double *values, double *out) {
    plan p = {.comm = comm, .leaves = n, .width = width};
    memset(out, 0, n == 0 ? width * sizeof *out : 0);
    if (n == 0 || width == 0) return DF_OK;
    df_status status = DF_OK;
    DF_GO(df_agree(comm, plan_make(&p)));
    if (p.total * width <= DF_TREE_SMALL) {
        cross_small(&p, values, out);
    } else {
        for (p.first = 0; p.first < width; p.first += p.columns) {
            p.columns = width - p.first < DF_TREE_SLICE ? width - p.first : DF_TREE_SLICE;
            cross_slice(&p, values, out);
        }
    }
done:
    df_free(p.nodes);
    df_free(p.outgoing);
    df_free(p.incoming);
    return status;
}

df_status df_tree_sum(df_comm *comm, size_t n, size_t width, double *leaves, double *out) {
    reduce_leaves(n, df_share(n, comm->size, comm->rank), width, leaves);
    return df_tree_finish(comm, n, width, leaves, out);
}
