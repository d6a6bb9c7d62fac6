/* Which ranks train which member of a sweep, and what each rank will need. */
#include "train_internal.h"

#include <string.h>

/* A file being written: the buffer of one checksum block, and the description of its objects. */
enum { FILE_BYTES = (1 << 20) + (32 << 10) };

/* ---- what a member is made of --------------------------------------------------------------- */

/* Rank `rank` of `size` of a member's dictionary, without its weights. */
static df_status outline(const df_train_member *member, const row_sites *all, int size, int rank,
                         df_dict **out) {
    df_dict_site sites[DF_MAX_SITES];
    size_t numbers[DF_MAX_SITES], n = member_sites(member, all, numbers, sites);
    df_dict_shape shape = train_shape(member->options, sites, n);
    *out = NULL;
    DF_TRY(df_dict_outline(&shape, size, rank, out));
    df_status status = train_describe(member->options, *out);
    if (status == DF_OK) return DF_OK;
    if (member->name != NULL) df_context("planning member %s", member->name);
    df_dict_free(out);
    return status;
}

df_status df_train_outline(const df_train_member *member, const df_rows *rows, int size, int rank,
                           df_dict **out) {
    row_sites all;
    *out = NULL;
    DF_TRY(row_sites_open(rows, &all));
    return outline(member, &all, size, rank, out);
}

/* All members see the same rows in the same order. */
static df_status check_members(const df_train_member *members, size_t n) {
    const df_train_options *a = members[0].options;
    for (size_t m = 1; m < n; m++) {
        const df_train_options *b = members[m].options;
        if (b->normalise != a->normalise || b->centre != a->centre || b->scale != a->scale ||
            b->token_norm != a->token_norm)
            return df_fail(DF_USAGE,
                           "members %s and %s of a sweep scale rows differently, which all of them "
                           "share: give one train.normalise, train.token_norm, train.centre and "
                           "train.scale beside the sweep",
                           members[0].name, members[m].name);
        if (b->batch != a->batch || b->order_seed != a->order_seed || b->shuffle != a->shuffle ||
            b->buffer_rows != a->buffer_rows)
            return df_fail(DF_USAGE,
                           "members %s and %s of a sweep differ in batch or order of rows, which "
                           "all of them share",
                           members[0].name, members[m].name);
    }
    return DF_OK;
}

/* ---- places --------------------------------------------------------------------------------- */

/* Fewer ranks than members: the longest first, each to the rank that has least. */
static void share_ranks(const double *work, size_t n, int size, double *load, df_train_place *out) {
    for (size_t m = 0; m < n; m++) out[m] = (df_train_place){-1, 1};
    for (size_t placed = 0; placed < n; placed++) {
        size_t longest = n;
        int least = 0;
        for (size_t m = 0; m < n; m++)
            if (out[m].first < 0 && (longest == n || work[m] > work[longest])) longest = m;
        for (int r = 1; r < size; r++)
            if (load[r] < load[least]) least = r;
        out[longest].first = least;
        load[least] += work[longest];
    }
}

/* One rank each; every further one to the member whose ranks have most to do. */
static void split_ranks(const double *work, size_t n, int size, df_train_place *out) {
    for (size_t m = 0; m < n; m++) out[m] = (df_train_place){0, 1};
    for (int left = size - (int)n; left > 0; left--) {
        size_t slowest = 0;
        for (size_t m = 1; m < n; m++)
            if (work[m] / out[m].count > work[slowest] / out[slowest].count) slowest = m;
        out[slowest].count++;
    }
    for (size_t m = 1; m < n; m++) out[m].first = out[m - 1].first + out[m - 1].count;
}

df_status df_train_place_members(const df_train_member *members, size_t n, const df_rows *rows,
                                 int size, df_train_place *out) {
    row_sites all;
    double *work = NULL, *load = NULL; // [n], [size]
    df_status status = DF_OK;
    DF_GO(row_sites_open(rows, &all));
    DF_GO(check_members(members, n));
    DF_GO(DF_NEW(work, n));
    DF_GO(DF_NEW(load, (size_t)size));
    for (size_t m = 0; m < n; m++) {
        df_dict *d = NULL;
        DF_GO(outline(&members[m], &all, 1, 0, &d));
        work[m] = df_gemm_flop(d, 1, (df_range){0, d->latents});
        df_dict_free(&d);
    }
    if ((size_t)size < n)
        share_ranks(work, n, size, load, out);
    else
        split_ranks(work, n, size, out);
done:
    df_free(work);
    df_free(load);
    return status;
}

/* ---- what a rank needs ---------------------------------------------------------------------- */

/* A dictionary on one rank. */
/* What a rank holds of its members: dictionaries throughout; coders, which are opened one after
 * another, each once its weights have begun; at most, while some begin. */
typedef struct member_bytes {
    const df_rows *rows;
    size_t columns; /* of the rows */
    size_t dictionaries, coders, start;
} member_bytes;

static void add_bytes(const df_train_options *o, const df_dict *d, df_screen screen,
                      const df_group_place *at, member_bytes *out) {
    df_train_room room = train_room(o);
    size_t start = out->coders + initialise_bytes(o, d, out->rows, out->columns, at);
    if (start > out->start) out->start = start;
    size_t outputs = df_dict_outputs(d);
    size_t history = history_rows(o) * history_columns(outputs) + history_sums(outputs);
    size_t mean = o->centre ? d->width * sizeof(float) : 0;
    out->dictionaries += df_dict_bytes(d) + history * sizeof(double) + mean;
    out->coders += df_coder_plan_groups(d, screen, o->batch, at, true) +
                   df_coder_room_bytes(d, o->batch, at, &room);
}

/* Adds a member's part to what a rank needs. */
static df_status add_member(const df_train_member *member, const row_sites *all, df_screen screen,
                            const df_train_place *place, member_bytes *bytes, df_train_plan *out) {
    const df_train_options *o = member->options;
    df_group_place at = df_groups_place(train_runs(o), place->count, out->rank - place->first);
    df_dict *d = NULL;
    DF_TRY(outline(member, all, at.shards, at.shard, &d));
    df_step_cost cost = df_coder_step_cost(d, &o->objective, o->batch, 0, &at);
    out->cost = df_cost_add(out->cost, cost.most);
    out->flop += df_gemm_flop(d, df_groups_rows(&at, at.group, o->batch).count, d->mine);
    add_bytes(o, d, screen, &at, bytes);
    if (d->width < all->width && o->batch * d->width * sizeof(float) > out->scratch)
        out->scratch = o->batch * d->width * sizeof(float);
    out->members++;
    df_dict_free(&d);
    return DF_OK;
}

df_status df_train_plan_rank(const df_train_member *members, size_t n, const df_rows *rows,
                             df_screen screen, int size, df_train_plan *out) {
    const df_train_options *o = members[0].options;
    df_train_place *place = NULL;
    row_sites all;
    df_order order = train_order(o, rows);
    df_status status = DF_OK;
    *out = (df_train_plan){.rank = out->rank};
    DF_GO(row_sites_open(rows, &all));
    DF_GO(DF_NEW(place, n));
    DF_GO(df_train_place_members(members, n, rows, size, place));
    member_bytes bytes = {.rows = rows, .columns = all.width};
    for (size_t m = 0; m < n; m++)
        if (out->rank >= place[m].first && out->rank < place[m].first + place[m].count)
            DF_GO(add_member(&members[m], &all, screen, &place[m], &bytes, out));
    const df_group_place at = df_groups_place(n == 1 ? train_runs(o) : 1, size, out->rank);
    size_t steps = FILE_BYTES + bytes.coders;
    out->bytes = bytes.dictionaries + (steps > bytes.start ? steps : bytes.start) +
                 loader_plan_bytes(&order, o->batch, all.width, &at) + out->scratch;
    if (o->centre) out->bytes += all.width * sizeof(float);
    out->cost = df_cost_add(out->cost, train_loop_cost(&order, all.width, o->batch, &at));
    if (n > 1) out->cost = df_cost_add(out->cost, df_cost_agree(size));
done:
    df_free(place);
    return status;
}
