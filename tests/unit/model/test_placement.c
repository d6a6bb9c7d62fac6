/* Placement: hand cases, random ones against every placement there is, and the costs of models
 * against a count by hand. */
#include "df_test.h"

#include "darkfield/placement.h"

enum { MOST_BLOCKS = 10 };

/* Bytes of blocks and of what stands at the ends, as a callback sees them. */
typedef struct sizes {
    uint64_t block[MOST_BLOCKS], embed, head;
    size_t blocks;
} sizes;

static uint64_t bytes_of(const void *context, df_model_part part) {
    const sizes *s = context;
    uint64_t total = part.first == 0 ? s->embed : 0;
    for (size_t i = 0; i < part.count; i++) total += s->block[part.first + i];
    return total + (part.first + part.count == s->blocks ? s->head : 0);
}

static df_load load_of(const sizes *s, const double *cost, double head) {
    return (df_load){s->blocks, cost, head, bytes_of, s};
}

static void expect(const df_load *load, size_t stages, uint64_t limit, const size_t *counts) {
    df_model_part part[MOST_BLOCKS];
    size_t first = 0;
    assert_ok(df_place(load, stages, limit, part));
    for (size_t i = 0; i < stages; i++) {
        assert_int_equal(part[i].first, first);
        assert_int_equal(part[i].count, counts[i]);
        first += counts[i];
    }
}

#define EXPECT(load, stages, limit, ...) expect(load, stages, limit, (const size_t[]){__VA_ARGS__})

static void test_by_hand(void **state) {
    (void)state;
    const double equal[] = {1, 1, 1, 1, 1, 1};
    const sizes light = {.block = {1, 1, 1, 1, 1, 1}, .blocks = 6};
    df_load load = load_of(&light, equal, 0);
    EXPECT(&load, 1, 0, 6);
    EXPECT(&load, 2, 0, 3, 3);
    EXPECT(&load, 3, 0, 2, 2, 2);
    EXPECT(&load, 4, 0, 2, 2, 1, 1); // no better than three, and the last ones are short
    EXPECT(&load, 6, 0, 1, 1, 1, 1, 1, 1);
    load.head = 2; // as much as two blocks
    EXPECT(&load, 2, 0, 4, 2);
    // Equal in cost: memory decides. The embedding makes the first stage heavy.
    const sizes heavy = {.block = {1, 1, 1, 1}, .embed = 5, .blocks = 4};
    load = load_of(&heavy, equal, 0);
    EXPECT(&load, 3, 0, 1, 2, 1);
    // A limit that the cheapest placement (2, 2) does not keep.
    EXPECT(&load, 2, 6, 1, 3);
    // One slow block.
    const double uneven[] = {1, 1, 1, 5};
    load = load_of(&heavy, uneven, 0);
    EXPECT(&load, 2, 0, 3, 1);
}

static void test_refusals(void **state) {
    (void)state;
    const double cost[] = {1, 1, 1};
    const sizes s = {.block = {1 << 20, 1 << 20, 1 << 20}, .head = 1 << 20, .blocks = 3};
    const df_load load = load_of(&s, cost, 1);
    df_model_part part[MOST_BLOCKS];
    size_t before = df_memory_now();
    assert_fails(df_place(&load, 4, 0, part), DF_USAGE, "4 stages for 3 blocks");
    assert_fails(df_place(&load, 0, 0, part), DF_USAGE, "0 stages");
    assert_fails(df_place(&load, 2, (2 << 20) - 1, part), DF_USAGE, "2.0 MiB on one of them");
    assert_ok(df_place(&load, 2, 2 << 20, part));
    for (int call = 0; call < 3; call++) {
        df_memory_fail_after(call);
        assert_int_equal(df_place(&load, 2, 0, part), DF_FAILED);
        df_error_clear();
    }
    df_memory_fail_after(-1);
    assert_int_equal(df_memory_now(), before);
}

/* ---- against every placement ---------------------------------------------------------------- */

/* The best of all: the smallest largest cost, and at that cost the smallest largest memory. */
typedef struct best {
    double cost, bytes;
} best;

static void judge(const df_load *load, const df_model_part *part, size_t stages, double limit,
                  best *so_far) {
    double cost = 0, bytes = 0;
    for (size_t i = 0; i < stages; i++) {
        cost = fmax(cost, df_part_cost(load, part[i]));
        bytes = fmax(bytes, (double)load->bytes(load->context, part[i]));
    }
    if (bytes > limit || cost > so_far->cost) return;
    if (cost < so_far->cost) *so_far = (best){cost, bytes};
    so_far->bytes = fmin(so_far->bytes, bytes);
}

// Every way to cut: bit i of `cuts` is set where a stage begins at block i + 1.
static best try_all(const df_load *load, size_t stages, double limit) {
    best found = {INFINITY, INFINITY};
    for (unsigned cuts = 0; cuts < 1u << (load->blocks - 1); cuts++) {
        df_model_part part[MOST_BLOCKS] = {{0, 1}};
        size_t n = 0;
        for (size_t i = 1; i < load->blocks; i++) {
            if (cuts >> (i - 1) & 1) part[++n] = (df_model_part){i, 0};
            part[n].count++;
        }
        if (n + 1 == stages) judge(load, part, stages, limit, &found);
    }
    return found;
}

static uint64_t draw(uint64_t *at, uint64_t most) {
    return 1 + df_random_bits(17, DF_STREAM_TEST, (*at)++) % most;
}

// Costs are whole numbers, so that sums are exact in any order.
static void test_random(void **state) {
    (void)state;
    uint64_t at = 0;
    size_t refused = 0;
    for (int round = 0; round < 400; round++) {
        sizes s = {.embed = draw(&at, 30), .head = draw(&at, 30), .blocks = draw(&at, MOST_BLOCKS)};
        double cost[MOST_BLOCKS];
        for (size_t i = 0; i < s.blocks; i++) {
            s.block[i] = draw(&at, 9);
            cost[i] = (double)draw(&at, 12);
        }
        const df_load load = load_of(&s, cost, (double)draw(&at, 20));
        size_t stages = draw(&at, s.blocks);
        uint64_t limit = round % 3 == 0 ? 0 : draw(&at, 60);
        best found = try_all(&load, stages, limit > 0 ? (double)limit : (double)INFINITY);
        df_model_part part[MOST_BLOCKS];
        df_status status = df_place(&load, stages, limit, part);
        refused += status != DF_OK;
        assert_int_equal(status, isinf(found.cost) ? DF_USAGE : DF_OK);
        df_error_clear();
        best ours = {INFINITY, INFINITY};
        if (status == DF_OK) judge(&load, part, stages, INFINITY, &ours);
        assert_true(ours.cost == found.cost && ours.bytes == found.bytes);
    }
    assert_in_range(refused, 20, 300);
}

/* ---- costs ---------------------------------------------------------------------------------- */

static double pairs_by_hand(size_t n, size_t window) {
    double pairs = 0;
    for (size_t q = 0; q < n; q++)
        for (size_t k = 0; k <= q; k++) pairs += window == 0 || q - k < window;
    return pairs;
}

// Gemma 3's first block has a window of 16 keys, its last one has none.
static void test_costs(void **state) {
    (void)state;
    const char *path = DF_SOURCE_DIR "/tests/golden/family/gemma3_text";
    df_model_shape s;
    double cost[3], head;
    assert_ok(df_model_plan(path, &s));
    assert_int_equal(s.layers, 3);
    assert_ok(df_model_costs(path, 64, cost, &head));
    double query = (double)(s.heads * s.head_width), key = (double)(s.kv_heads * s.head_width);
    double weights = (double)s.width * (2 * query + 2 * key + 3 * (double)s.mlp_width);
    size_t local = 0, full = 0;
    for (size_t l = 0; l < s.layers; l++) {
        local += cost[l] == 2 * 64 * weights + 4 * query * pairs_by_hand(64, 16);
        full += cost[l] == 2 * 64 * weights + 4 * query * pairs_by_hand(64, 0);
    }
    assert_true(local > 0 && full > 0 && local + full == s.layers);
    assert_true(head == 2 * 64 * (double)(s.width * s.vocabulary));
    assert_ok(df_model_costs(path, 8, cost, &head)); // within the window all blocks are alike
    assert_true(cost[0] == cost[1] && cost[1] == cost[2]);
    assert_fails(df_model_costs("/nonexistent", 8, cost, &head), DF_BAD_INPUT, "/nonexistent");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_by_hand),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_costs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
