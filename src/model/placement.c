/* Placing blocks on stages: the largest load of a stage made as small as possible, by a dynamic
 * programme over stages and blocks. */
#include "darkfield/placement.h"
#include "arch.h"

#include <math.h>

/* ---- what blocks cost ----------------------------------------------------------------------- */

// Pairs of a query and a key that it sees, in a window of n tokens.
static double seen_pairs(size_t n, size_t window) {
    double all = (double)n, sees = window > 0 && window < n ? (double)window : all;
    return sees * (sees + 1) / 2 + (all - sees) * sees;
}

// Weights that a token is multiplied with in a block.
static double block_weights(const df_model_shape *s) {
    double query = (double)(s->heads * s->head_width), key = (double)(s->kv_heads * s->head_width);
    double width = (double)s->width, mlp = (double)s->mlp_width;
    return width * (2 * query + 2 * key) + width * mlp * (s->gated ? 3 : 2);
}

df_status df_model_costs(const char *path, size_t n, double *cost, double *head) {
    model_config config;
    DF_TRY(df_config_read(path, &config, NULL));
    const df_model_shape *s = &config.shape;
    double query = (double)(s->heads * s->head_width);
    for (size_t l = 0; l < s->layers; l++) {
        double pairs = seen_pairs(n, config.local[l] ? config.window : 0);
        cost[l] = 2 * (double)n * block_weights(s) + 4 * query * pairs;
    }
    *head = 2 * (double)n * (double)s->width * (double)s->vocabulary;
    return DF_OK;
}

double df_part_cost(const df_load *load, df_model_part part) {
    double total = part.first + part.count == load->blocks ? load->head : 0.0;
    for (size_t i = 0; i < part.count; i++) total += load->cost[part.first + i];
    return total;
}

/* ---- the search ----------------------------------------------------------------------------- */

typedef enum { MEASURE_COST, MEASURE_BYTES } measure_kind;

/* One search: what is made small, and what no stage may exceed. */
typedef struct search {
    const df_load *load;
    size_t stages;
    measure_kind measure;
    double most_cost, most_bytes;
    const double *before; // [blocks + 1] cost of the blocks before
    double *best;         // [stages + 1, blocks + 1] the smallest largest measure of so many stages
                          // with so many blocks
    size_t *cut;          // [the same] where the last of them begins
} search;

// HUGE_VAL where a stage may not hold the part. Never less than that of a part inside.
static double measure(const search *s, df_model_part part) {
    size_t end = part.first + part.count;
    double cost = s->before[end] - s->before[part.first];
    if (end == s->load->blocks) cost += s->load->head;
    double bytes = (double)s->load->bytes(s->load->context, part);
    if (cost > s->most_cost || bytes > s->most_bytes) return HUGE_VAL;
    return s->measure == MEASURE_COST ? cost : bytes;
}

// The best way to put `blocks` blocks on `stage` stages.
static void place_last(search *s, size_t stage, size_t blocks) {
    size_t row = s->load->blocks + 1;
    const double *shorter = s->best + (stage - 1) * row;
    double *best = &s->best[stage * row + blocks];
    *best = HUGE_VAL;
    for (size_t first = blocks; first-- > stage - 1;) {
        if (shorter[first] >= *best) continue; // also where nothing stands before the part
        double last = measure(s, (df_model_part){first, blocks - first});
        if (last >= *best) return; // longer ones are no better
        double both = last > shorter[first] ? last : shorter[first];
        if (both >= *best) continue;
        *best = both;
        s->cut[stage * row + blocks] = first;
    }
}

// The smallest largest measure, HUGE_VAL where no placement is allowed.
static double search_all(search *s) {
    size_t blocks = s->load->blocks, row = blocks + 1;
    for (size_t i = 0; i <= blocks; i++) s->best[i] = i == 0 ? 0.0 : HUGE_VAL;
    for (size_t stage = 1; stage <= s->stages; stage++)
        for (size_t i = 0; i <= blocks; i++) {
            s->best[stage * row + i] = HUGE_VAL;
            if (i >= stage) place_last(s, stage, i);
        }
    return s->best[s->stages * row + blocks];
}

static void read_cuts(const search *s, df_model_part *part) {
    size_t end = s->load->blocks;
    for (size_t stage = s->stages; stage > 0; stage--) {
        size_t first = s->cut[stage * (s->load->blocks + 1) + end];
        part[stage - 1] = (df_model_part){first, end - first};
        end = first;
    }
}

static df_status refuse_limit(search *s) {
    char limit[16], least[16];
    df_human_bytes(s->most_bytes, limit);
    s->most_bytes = HUGE_VAL;
    s->measure = MEASURE_BYTES;
    df_human_bytes(search_all(s), least);
    return df_fail(DF_USAGE,
                   "%zu blocks on %zu stages need %s on one of them at least, allowed are %s",
                   s->load->blocks, s->stages, least, limit);
}

static df_status place(search *s, uint64_t limit, df_model_part *part) {
    s->most_cost = HUGE_VAL;
    s->most_bytes = limit > 0 ? (double)limit : HUGE_VAL;
    s->measure = MEASURE_COST;
    double least = search_all(s);
    if (isinf(least)) return refuse_limit(s);
    s->most_cost = least;
    s->measure = MEASURE_BYTES;
    (void)search_all(s);
    read_cuts(s, part);
    return DF_OK;
}

df_status df_place(const df_load *load, size_t stages, uint64_t limit, df_model_part *part) {
    size_t blocks = load->blocks, cells = (stages + 1) * (blocks + 1);
    search s = {.load = load, .stages = stages};
    double *before = NULL;
    df_status status;
    if (stages < 1 || stages > blocks)
        return df_fail(DF_USAGE, "%zu stages for %zu blocks: each needs one at least", stages,
                       blocks);
    DF_GO(DF_NEW(before, blocks + 1));
    for (size_t i = 0; i < blocks; i++) before[i + 1] = before[i] + load->cost[i];
    s.before = before;
    DF_GO(DF_NEW(s.best, cells));
    DF_GO(DF_NEW(s.cut, cells));
    DF_GO(place(&s, limit, part));
done:
    df_free(before);
    df_free(s.best);
    df_free(s.cut);
    return status;
}
