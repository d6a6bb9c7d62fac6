/* The coder's memory. One layout function both counts (df_coder_plan_bytes) and hands out
 * (df_coder_open), so that the plan is what is allocated. */
#include "step.h"

#include <omp.h>
#include <string.h>

#define TAKE(pointer, n) ((pointer) = df_layout_take(l, (n), sizeof *(pointer)))

void *df_layout_take(df_layout *l, size_t n, size_t size) {
    void *piece = l->base != NULL ? l->base + l->used : NULL;
    l->used += (n * size + 63) / 64 * 64;
    return piece;
}

static size_t smaller(size_t a, size_t b) {
    return a < b ? a : b;
}

static size_t larger(size_t a, size_t b) {
    return a > b ? a : b;
}

size_t df_coder_aux_room(const df_dict *d) {
    size_t half = d->out.count / df_dict_outputs(d) / 2;
    return smaller(larger(half, 512), d->latents);
}

static size_t widest_input(const df_dict *d) {
    size_t widest = 0;
    for (size_t g = 0; g < d->groups; g++) widest = larger(widest, d->group[g].in.count);
    return widest;
}

size_t df_row_capacity(size_t k) {
    return 8 * k + 4 * DF_TILE_LATENTS;
}

size_t df_screen_unit(const df_coder *c, size_t k) {
    size_t threads = (size_t)c->threads,
           tiles = (df_row_tiles(c->max_rows) + threads - 1) / threads;
    size_t near = SCREEN_BYTES / df_panel_bytes(DF_SCREEN_INT8, DF_TILE_ROWS, c->dict->in.count);
    size_t pool = POOL_ENTRIES / (DF_TILE_ROWS * df_row_capacity(k));
    tiles = smaller(smaller(tiles, near), smaller(SCREEN_TILES, larger(pool, POOL_TILES)));
    return larger(tiles, 1) * DF_TILE_ROWS;
}

/* Candidates in a unit of any k up to this one: where there are fewer rows for it than for a
 * smaller one, it is POOL_ENTRIES or POOL_TILES that bounds both. */
static size_t pool_entries(const df_coder *c, size_t k) {
    size_t least = POOL_TILES * DF_TILE_ROWS * df_row_capacity(k);
    return smaller(df_screen_unit(c, 0) * df_row_capacity(k), larger(POOL_ENTRIES, least));
}

size_t df_list_capacity(const df_coder *c) {
    size_t room = DF_TILE_ENTRIES;
    if (c->dict->activation == DF_TOPK) return 0;
    if (c->dict->activation == DF_BATCHTOPK) return 2 * c->dict->k * c->max_batch + room;
    size_t rows = c->max_rows / (size_t)c->threads + df_screen_unit(c, 0); // of whole units
    return smaller(rows, c->max_rows) * c->local + room;
}

/* Active latents of a row that one selection has room for. */
static size_t selected(const df_dict *d, bool training) {
    bool by_threshold = d->activation == DF_BATCHTOPK && !training;
    return smaller(by_threshold ? DF_ABOVE_K * d->k : d->k, d->mine.count);
}

size_t df_part_capacity(const df_coder *c) {
    return c->max_rows * selected(c->dict, false);
}

/* All latents where k does not bound them, in whole panels of dense.c. */
size_t df_code_capacity(const df_coder *c) {
    size_t k = selected(c->dict, c->main.training) * df_dict_thresholds(c->dict);
    size_t all = (c->local + DF_TILE_LATENTS - 1) / DF_TILE_LATENTS * DF_TILE_LATENTS;
    if (!df_has_k(c->dict)) return c->max_rows * all;
    bool by_batch = c->dict->activation == DF_BATCHTOPK; // one group's rows may take most
    return smaller((by_batch ? c->max_batch : c->max_rows) * k, c->max_rows * c->local);
}

size_t df_codes_expected(const df_dict *d, size_t rows) {
    size_t k = selected(d, false) * df_dict_thresholds(d);
    size_t per_row = df_has_k(d) ? k : d->mine.count / 8 + 1;
    return rows * smaller(per_row, d->mine.count);
}

size_t df_side_capacity(const df_coder *c, bool training) {
    df_activation a = c->dict->activation;
    bool any = a == DF_GATED || (a == DF_JUMPRELU && training);
    return any ? df_code_capacity(c) : 0;
}

/* ---- shared by all activations -------------------------------------------------------------- */

static void lay_out_exchange(df_coder *c, df_layout *l) {
    size_t size = (size_t)c->size, mine = c->max_rows / size + 1;
    TAKE(c->nodes, 128 * size);
    TAKE(c->node_start, size + 1);
    TAKE(c->send_bytes, size);
    TAKE(c->receive_bytes, size);
    if (c->size == 1) return;
    size_t nodes = 0, my_nodes = 0;
    for (int p = 0; p < c->size; p++) {
        df_node room[128];
        df_range blocks = df_share(c->dict->blocks, c->size, p);
        size_t n = df_tree_nodes(c->dict->blocks, blocks.first, blocks.count, room);
        nodes += n;
        if (p == c->rank) my_nodes = n;
    }
    TAKE(c->partials, c->max_rows * my_nodes * c->out);
    TAKE(c->arrived, mine * nodes * c->out);
    TAKE(c->mine, mine * c->out);
}

static void lay_out_skip(df_coder *c, df_layout *l) {
    size_t mine = c->max_rows / (size_t)c->size + 1;
    if (c->dict->kind != DF_SKIP_TRANSCODER) return;
    TAKE(c->skip, c->max_rows * c->dict->skip_rows.count);
    if (c->size > 1) TAKE(c->skip_arrived, mine * c->out);
}

static void lay_out_worker(df_coder *c, df_layout *l, df_worker *w) {
    TAKE(w->product, DF_TILE_ENTRIES);
    TAKE(w->mask, DF_TILE_ROWS);
    TAKE(w->place, DF_TILE_PLACES);
    TAKE(w->least, DF_TILE_ROWS);
    TAKE(w->floor, df_screen_unit(c, 0));
    TAKE(w->stack, STACK_DEPTH * c->out);
    if (c->dict->activation != DF_BATCHTOPK) return;
    w->order_capacity = df_list_capacity(c);
    TAKE(w->order, w->order_capacity);
    TAKE(w->keys, w->order_capacity);
}

static void lay_out_jump(df_coder *c, df_layout *l) {
    if (c->dict->activation == DF_JUMPRELU) {
        TAKE(c->cut, c->local);
        TAKE(c->cut_lift, c->local + DF_TILE_LATENTS);
    }
    if (c->dict->activation == DF_GATED) {
        TAKE(c->magnify, c->local);
        TAKE(c->side.codes.start, c->max_rows + 1);
    }
}

/* Panels never straddle two groups. */
static void lay_out_panels(df_coder *c, df_layout *l) {
    size_t bytes = 0;
    c->panels = 0;
    for (size_t g = 0; g < c->dict->groups; g++)
        c->panels += (c->dict->group[g].local.count + DF_TILE_LATENTS - 1) / DF_TILE_LATENTS;
    TAKE(c->panel, c->panels);
    df_latents *p = c->panel;
    for (size_t g = 0; g < c->dict->groups; g++) {
        const df_dict_group *group = &c->dict->group[g];
        for (size_t i = 0; i < group->local.count; i += DF_TILE_LATENTS) {
            size_t count = smaller(group->local.count - i, DF_TILE_LATENTS);
            if (l->base != NULL) *p++ = (df_latents){group->local.first + i, count, g, bytes, 0, 0};
            bytes += df_panel_bytes(c->spare, DF_TILE_LATENTS, group->in.count);
        }
    }
    TAKE(c->packed_latents, bytes);
}

static void lay_out_rows(df_coder *c, df_layout *l) {
    size_t bytes = 0, tiles = df_row_tiles(c->max_rows), groups = c->dict->groups;
    c->padded_rows = tiles * DF_TILE_ROWS;
    TAKE(c->group_rows, groups);
    for (size_t g = 0; g < groups; g++) {
        if (l->base != NULL) c->group_rows[g] = bytes;
        bytes += tiles * df_panel_bytes(c->spare, DF_TILE_ROWS, c->dict->group[g].in.count);
    }
    TAKE(c->packed_rows, bytes);
    TAKE(c->x_norm, groups * c->padded_rows);
    TAKE(c->x_lost, groups * c->padded_rows);
    TAKE(c->x_unit, groups * c->padded_rows);
}

static void lay_out_screen(df_coder *c, df_layout *l) {
    size_t latents = c->local + DF_TILE_LATENTS;
    lay_out_panels(c, l);
    lay_out_rows(c, l);
    TAKE(c->norm, latents);
    TAKE(c->scale, latents);
    TAKE(c->gain, latents);
    TAKE(c->unit, latents);
    TAKE(c->lost, latents);
    TAKE(c->slack, latents);
    TAKE(c->length, latents);
    TAKE(c->extra, latents);
    TAKE(c->lift, latents);
    TAKE(c->start, latents);
}

void df_layout_base(df_coder *c, df_layout *l) {
    TAKE(c->run_start, c->runs + 1);
    TAKE(c->centered, c->max_rows * c->width);
    lay_out_screen(c, l);
    TAKE(c->counters, 2048);
    TAKE(c->main.codes.start, c->max_rows + 1);
    df_layout_parts(c, l);
    lay_out_jump(c, l);
    lay_out_exchange(c, l);
    lay_out_skip(c, l);
    for (int t = 0; t < c->threads; t++) lay_out_worker(c, l, &c->worker[t]);
    if (c->dict->activation == DF_TOPK) df_layout_rows(c, l, c->dict->k);
}

/* ---- TopK ----------------------------------------------------------------------------------- */

static void lay_out_row_pool(df_coder *c, df_layout *l, df_worker *w, size_t k) {
    size_t capacity = df_row_capacity(k), order = larger(capacity, (size_t)c->size * k);
    TAKE(w->rows, df_screen_unit(c, 0));
    TAKE(w->pool, 4 * pool_entries(c, k));
    TAKE(w->places, pool_entries(c, k));
    TAKE(w->latent_end, c->local + 1);
    if (order > w->order_capacity) {
        w->order_capacity = order;
        TAKE(w->order, order);
        TAKE(w->keys, order);
    }
}

void df_pick_layout(df_coder *c, size_t k) {
    c->picked_stride = c->size > 1 ? smaller(4 * k + 4 * DF_TILE_LATENTS, c->local) : k;
}

void df_layout_rows(df_coder *c, df_layout *l, size_t k) {
    size_t mine = c->max_rows / (size_t)c->size + 1;
    c->row_k = k;
    df_pick_layout(c, k);
    TAKE(c->picked_value, c->max_rows * c->picked_stride);
    TAKE(c->picked_latent, c->max_rows * c->picked_stride);
    TAKE(c->picked_count, c->max_rows);
    TAKE(c->picked_least, c->max_rows);
    if (c->size > 1) {
        TAKE(c->row_floor, 2 * c->max_rows);
        TAKE(c->send_keys, c->max_rows * k);
        TAKE(c->receive_keys, (size_t)c->size * mine * k);
        TAKE(c->cut_keys, c->max_rows);
    }
    for (int t = 0; t < c->threads; t++) lay_out_row_pool(c, l, &c->worker[t], k);
}

/* ---- training ------------------------------------------------------------------------------- */

static void lay_out_state(df_coder *c, df_layout *l) {
    df_trainer_state *s = &c->state;
    const df_dict *d = c->dict;
    size_t end = d->mine.first + d->mine.count;
    size_t enc = df_dict_enc_floats(d, end) - df_dict_enc_floats(d, d->mine.first);
    size_t dec = df_dict_dec_floats(d, end) - df_dict_dec_floats(d, d->mine.first);
    TAKE(s->m_enc, enc);
    TAKE(s->v_enc, enc);
    TAKE(s->m_dec, dec);
    TAKE(s->v_dec, dec);
    TAKE(s->m_bias, c->local);
    TAKE(s->v_bias, c->local);
    TAKE(s->m_center, c->out);
    TAKE(s->v_center, c->out);
    TAKE(s->silent, c->local);
    if (d->kind == DF_SKIP_TRANSCODER) {
        TAKE(s->m_skip, d->skip_rows.count * d->in.count);
        TAKE(s->v_skip, d->skip_rows.count * d->in.count);
    }
    if (d->activation == DF_JUMPRELU) {
        TAKE(s->m_theta, c->local);
        TAKE(s->v_theta, c->local);
    }
    if (d->activation == DF_GATED) {
        TAKE(s->m_r_mag, c->local);
        TAKE(s->v_r_mag, c->local);
        TAKE(s->m_b_mag, c->local);
        TAKE(s->v_b_mag, c->local);
    }
}

/* What objectives need beside reconstruction (objective.h). */
static void lay_out_objective(df_coder *c, df_layout *l) {
    df_activation a = c->dict->activation;
    size_t sums = c->local * (df_is_split(c) ? c->runs + 1 : 1);
    TAKE(c->norm_gradient, sums);
    if (c->dict->shared > 0) TAKE(c->shared_price, c->local);
    if (df_has_k(c->dict)) return;
    TAKE(c->preact_factor, c->local);
    TAKE(c->input_sum, c->dict->in.count + 1);
    if (a != DF_JUMPRELU) { // roots of powers
        TAKE(c->row_powers, c->max_rows);
        TAKE(c->power_leaves, c->my_blocks.count * c->max_rows);
    }
    if (a == DF_RELU) return;
    TAKE(c->side.latent_start, c->local + 1);
    if (a == DF_JUMPRELU) {
        TAKE(c->side.codes.start, c->max_rows + 1);
        TAKE(c->theta_gradient, sums);
    } else {
        TAKE(c->gate_error, c->max_rows * c->out);
        TAKE(c->r_gradient, sums);
        TAKE(c->b_gradient, sums);
    }
}

/* Sums over runs, of `columns` each, and the gradients that groups exchange. */
static void lay_out_runs(df_coder *c, df_layout *l, size_t columns) {
    const df_group_place *at = &c->groups.at;
    df_node node[128];
    if (!df_is_split(c)) return;
    size_t nodes = df_group_nodes(at, at->group, node);
    TAKE(c->run_sums, (c->runs + (at->groups > 1 ? at->runs : 0)) * columns);
    TAKE(c->replica_bytes, 2 * (size_t)at->groups);
    TAKE(c->gradients, nodes * df_gradient_at(c->dict, c->local));
    TAKE(c->gradients_arrived, df_group_arrivals(c));
    size_t stack = df_run_depth(c) * (widest_input(c->dict) + c->out + GRADIENT_SUMS);
    for (int t = 0; t < c->threads; t++) TAKE(c->worker[t].run_stack, stack);
}

void df_layout_train(df_coder *c, df_layout *l) {
    size_t statistics = df_statistics_width(c), widest = widest_input(c->dict);
    size_t run = df_share(c->max_batch, (int)c->groups.at.runs, 0).count; // the longest
    size_t leaves = (run + STAT_ROWS - 1) / STAT_ROWS;
    lay_out_state(c, l);
    lay_out_objective(c, l);
    if (df_dense_fits(c)) TAKE(c->dense_packed, df_dense_packed(c));
    TAKE(c->error, c->max_rows * c->out);
    TAKE(c->aux_error, c->max_rows * c->out);
    size_t columns = larger(statistics, c->dict->in.count + 1);
    TAKE(c->row_leaves, df_share(leaves, c->size, 0).count * columns);
    lay_out_runs(c, l, columns);
    TAKE(c->block_leaves, c->my_blocks.count * larger(c->out, BLOCK_TERMS));
    TAKE(c->block_squares, c->my_blocks.count);
    TAKE(c->skip_squares, (c->dict->skip_rows.count + DF_SKIP_ROWS - 1) / DF_SKIP_ROWS);
    TAKE(c->totals, statistics);
    TAKE(c->center_gradient, c->out);
    TAKE(c->dead_list, c->local);
    TAKE(c->main.latent_start, c->local + 1);
    TAKE(c->aux.latent_start, c->local + 1);
    TAKE(c->aux.codes.start, c->max_rows + 1);
    for (int t = 0; t < c->threads; t++) {
        df_worker *w = &c->worker[t];
        TAKE(w->gathered, df_panel_bytes(c->spare, DF_TILE_LATENTS, widest));
        TAKE(w->gain, DF_TILE_LATENTS);
        TAKE(w->lift, DF_TILE_LATENTS);
        TAKE(w->start, DF_TILE_LATENTS);
        TAKE(w->g_enc, widest);
        if (df_dense_fits(c)) {
            TAKE(w->dense_left, df_dense_left(c));
            TAKE(w->dense_sums, df_dense_sums(c));
            TAKE(w->dense_bias, DF_TILE_LATENTS);
            TAKE(w->entry_row, c->max_rows);
            TAKE(w->entry_value, c->max_rows);
            TAKE(w->entry_gradient, c->max_rows);
        }
        TAKE(w->g_dec, c->out);
        if (c->dict->kind == DF_SKIP_TRANSCODER) TAKE(w->tile, DF_SKIP_ROWS * widest);
    }
    if (df_coder_aux_room(c->dict) > c->row_k) df_layout_rows(c, l, df_coder_aux_room(c->dict));
}

/* ---- the plan ------------------------------------------------------------------------------- */

void df_coder_shape(df_coder *c, df_dict *dict, size_t max_rows) {
    const df_group_place *at = &c->groups.at;
    c->dict = dict;
    c->max_batch = max_rows;
    c->max_rows = df_groups_rows(at, at->group, max_rows).count;
    c->runs = df_groups_runs(at, at->group).count;
    c->width = dict->width;
    c->out = dict->out.count;
    c->local = dict->mine.count;
    c->threads = omp_get_max_threads();
    c->my_blocks = df_share(dict->blocks, c->size, c->rank);
}

/* The rank that holds this share; shares without latents are alike. */
static int rank_of(const df_dict *dict, int size) {
    int rank = 0;
    while (rank + 1 < size && df_dict_share(dict, size, rank).first < dict->mine.first) rank++;
    return rank;
}

size_t df_coder_plan_bytes(const df_dict *dict, df_screen screen, size_t max_rows, int size,
                           bool training) {
    const df_group_place alone = df_groups_place(1, size, rank_of(dict, size));
    return df_coder_plan_groups(dict, screen, max_rows, &alone, training);
}

size_t df_coder_plan_groups(const df_dict *dict, df_screen screen, size_t max_rows,
                            const df_group_place *at, bool training) {
    df_worker workers[64] = {{0}}; // more threads than that repeat the last one's needs
    df_dict copy = *dict;
    df_coder c = {.groups = {.at = *at},
                  .size = at->shards,
                  .rank = at->shard,
                  .worker = workers,
                  .spare = screen};
    df_layout l = {0};
    df_coder_shape(&c, &copy, max_rows);
    int threads = c.threads;
    if (threads > 64) c.threads = 64;
    c.main.training = c.side.training = training;
    df_layout_base(&c, &l);
    if (training) df_layout_train(&c, &l);
    size_t bytes = l.used + sizeof c + (size_t)threads * sizeof(df_worker);
    bytes += (size_t)threads * df_list_capacity(&c) * 16;
    bytes += df_code_capacity(&c) * df_code_bytes(&c.main);
    bytes += df_side_capacity(&c, training) * df_code_bytes(&c.side);
    bytes += c.parts * df_part_capacity(&c) * df_code_bytes(&(df_code_store){0});
    if (training) bytes += c.max_rows * smaller(df_aux_entries(dict), c.local) * 24;
    return bytes;
}
