/* The sparse decode: sums of latent blocks, added in the fixed binary tree over all blocks (design
 * section 3).
 *
 * A block without active latents, or a subtree without any, is left out. That changes no bit:
 * partial sums start from +0 and so are never a negative zero, and adding +0 to anything else gives
 * it back. */
#include "coder.h"

#include <string.h>

#define AHEAD 4 // decoder rows asked for before they are needed, the next row's too

/* Height of the smallest subtree that holds both leaves. */
static int join_height(size_t a, size_t b) {
    return a == b ? 0 : 64 - __builtin_clzll((unsigned long long)(a ^ b));
}

/* sum [from, to) is extended by zeros to hold `columns`. */
static void touch(float *sum, df_range *touched, df_range columns) {
    size_t end = touched->first + touched->count, wanted = columns.first + columns.count;
    size_t first = columns.first < touched->first ? columns.first : touched->first;
    if (first < touched->first) memset(sum + first, 0, (touched->first - first) * sizeof *sum);
    if (wanted > end) memset(sum + end, 0, (wanted - end) * sizeof *sum);
    *touched = (df_range){first, (wanted > end ? wanted : end) - first};
}

static void merge_top(df_sum_tree *t) {
    size_t top = --t->depth;
    df_range columns = t->touched[top];
    float *below = t->sums + (top - 1) * t->width;
    touch(below, &t->touched[top - 1], columns);
    df_add_row(below + columns.first, t->sums + top * t->width + columns.first, columns.count);
}

float *df_sum_tree_leaf(df_sum_tree *t, size_t leaf, df_range columns) {
    while (t->depth >= 2 && join_height(t->leaf[t->depth - 2], t->leaf[t->depth - 1]) <
                                join_height(t->leaf[t->depth - 1], leaf))
        merge_top(t);
    t->leaf[t->depth] = leaf;
    t->touched[t->depth] = columns;
    return t->sums + t->depth++ * t->width;
}

void df_sum_tree_close(df_sum_tree *t) {
    while (t->depth >= 2) merge_top(t);
    if (t->depth == 0)
        memset(t->sums, 0, t->width * sizeof *t->sums);
    else
        touch(t->sums, &t->touched[0], (df_range){0, t->width});
}

static void close_tree(df_sum_tree *t, float *out) {
    df_sum_tree_close(t);
    memcpy(out, t->sums, t->width * sizeof *out);
}

/* Adds entry i to the sum of its block, which it may open. */
static void add_entry(const df_coder *c, const df_codes *codes, size_t i, float *sum, bool opens) {
    size_t latent = codes->latent[i], n = df_dict_group_of(c->dict, latent)->out.count;
    const float *row = df_dict_dec(c->dict, latent);
    if (codes->sites != NULL) {
        if (opens) memset(sum, 0, n * sizeof *sum);
        df_parts_add(c, codes->sites[i], sum, codes->value[i], row);
    } else if (opens) {
        df_set_scaled(sum, codes->value[i], row, n);
    } else {
        df_add_scaled(sum, codes->value[i], row, n);
    }
}

/* The sum over entries [from, to) of one row, which lie inside one subtree. */
static void sum_entries(const df_coder *c, df_worker *w, const df_codes *codes, df_range entries,
                        float *out) {
    df_sum_tree t = {.sums = w->stack, .width = c->out};
    size_t open = SIZE_MAX;
    for (size_t i = entries.first; i < entries.first + entries.count; i++) {
        size_t latent = codes->latent[i], leaf = df_dict_block_of(c->dict, latent);
        const df_dict_group *g = df_dict_group_of(c->dict, latent);
        size_t first = df_out_offset(c, g), n = g->out.count;
        if (i + AHEAD < codes->start[codes->rows])
            df_prefetch(df_dict_dec(c->dict, codes->latent[i + AHEAD]), n);
        float *sum = leaf == open ? t.sums + (t.depth - 1) * t.width
                                  : df_sum_tree_leaf(&t, leaf, (df_range){first, n});
        add_entry(c, codes, i, sum + first, leaf != open);
        open = leaf;
    }
    close_tree(&t, out);
}

void df_decode_row(const df_coder *c, df_worker *w, const df_codes *codes, size_t row, float *out) {
    df_range all = {codes->start[row], codes->start[row + 1] - codes->start[row]};
    sum_entries(c, w, codes, all, out);
}

void df_decode_plan(df_coder *c) {
    size_t n = 0;
    for (int p = 0; p < c->size; p++) {
        df_range blocks = df_share(c->dict->blocks, c->size, p);
        df_node room[128];
        c->node_start[p] = n;
        size_t count = df_tree_nodes(c->dict->blocks, blocks.first, blocks.count, room);
        if (c->nodes != NULL) memcpy(c->nodes + n, room, count * sizeof *room);
        n += count;
    }
    c->node_start[c->size] = n;
}

/* The partials of one row: one per maximal subtree of this rank. */
static void partial_row(df_coder *c, df_worker *w, const df_codes *codes, size_t row) {
    size_t first = c->node_start[c->rank], n = c->node_start[c->rank + 1] - first,
           at = codes->start[row];
    for (size_t i = 0; i < n; i++) {
        df_node node = c->nodes[first + i];
        size_t end = (size_t)(node.index + 1) << node.height, from = at;
        while (at < codes->start[row + 1] && df_dict_block_of(c->dict, codes->latent[at]) < end)
            at++;
        sum_entries(c, w, codes, (df_range){from, at - from}, c->partials + (row * n + i) * c->out);
    }
}

void df_decode_local(df_coder *c, const df_codes *codes) {
#pragma omp parallel for schedule(static)
    for (size_t r = 0; r < codes->rows; r++) partial_row(c, df_coder_worker(c), codes, r);
}

void df_decode_exchange(df_coder *c, size_t rows) {
    df_range mine = df_share(rows, c->size, c->rank);
    size_t row = c->out * sizeof(float),
           my_nodes = c->node_start[c->rank + 1] - c->node_start[c->rank];
    for (int p = 0; p < c->size; p++) {
        c->send_bytes[p] = df_share(rows, c->size, p).count * my_nodes * row;
        c->receive_bytes[p] = mine.count * (c->node_start[p + 1] - c->node_start[p]) * row;
    }
    df_exchange(c->comm, c->partials, c->send_bytes, c->arrived, c->receive_bytes);
}

/* Finishes the tree for one of this rank's rows: arrived is [ranks][rows, nodes of that rank,
 * out]. */
void df_decode_finish(df_coder *c, size_t row, size_t rows, float *out) {
    df_sum_tree t = {.sums = df_coder_worker(c)->stack, .width = c->out};
    const float *from = c->arrived;
    for (int p = 0; p < c->size; p++) {
        size_t n = c->node_start[p + 1] - c->node_start[p];
        for (size_t i = 0; i < n; i++) {
            df_node node = c->nodes[c->node_start[p] + i];
            memcpy(df_sum_tree_leaf(&t, (size_t)node.index << node.height, (df_range){0, c->out}),
                   from + (row * n + i) * c->out, c->out * sizeof *out);
        }
        from += rows * n * c->out;
    }
    close_tree(&t, out);
}
