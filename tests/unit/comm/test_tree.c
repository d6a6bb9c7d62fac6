/* The fixed tree: the nodes of any stretch, and sums that are equal to the bit for every rank
 * count. */
#define DF_TEST_MPI
#include "df_test.h"

static df_comm *world;

/* Written from the definition in comm.h, one value at a time: the oracle of df_tree_sum. */
static double by_definition(size_t n, uint32_t height, size_t index, const double *leaf) {
    if (height == 0) return leaf[index];
    size_t right = (2 * index + 1) << (height - 1);
    double left = by_definition(n, height - 1, 2 * index, leaf);
    return right >= n ? left : left + by_definition(n, height - 1, 2 * index + 1, leaf);
}

static uint32_t height_of(size_t n) {
    uint32_t height = 0;
    while (((size_t)1 << height) < n) height++;
    return height;
}

/* Values over twelve orders of magnitude, so that any other order of addition shows. */
static double leaf_value(size_t leaf, size_t column) {
    uint64_t at = leaf * 1000003u + column;
    double scale = pow(10.0, 12 * df_random_uniform(1, DF_STREAM_TEST, at));
    return scale * (df_random_uniform(2, DF_STREAM_TEST, at) - 0.5);
}

/* What was handed to MPI since then is what the model says. */
static bool costs(df_comm *comm, size_t n, size_t width, df_traffic before) {
    df_traffic now = df_comm_traffic(comm);
    df_cost said = df_cost_tree_sum(df_comm_size(comm), df_comm_rank(comm), n, width);
    return now.bytes - before.bytes == said.traffic.bytes &&
           now.messages - before.messages == said.traffic.messages;
}

static bool sum_is_the_tree(df_comm *comm, size_t n, size_t width) {
    df_range share = df_share(n, df_comm_size(comm), df_comm_rank(comm));
    double *leaves = df_alloc(share.count * width, sizeof *leaves);
    double *out = df_alloc(width, sizeof *out), *column = df_alloc(n, sizeof *column);
    for (size_t i = 0; i < share.count; i++)
        for (size_t j = 0; j < width; j++) leaves[i * width + j] = leaf_value(share.first + i, j);
    df_traffic before = df_comm_traffic(comm);
    bool good = df_tree_sum(comm, n, width, leaves, out) == DF_OK && costs(comm, n, width, before);
    for (size_t j = 0; j < width && good; j += 1 + width / 50) {
        for (size_t i = 0; i < n; i++) column[i] = leaf_value(i, j);
        double expected = n == 0 ? 0 : by_definition(n, height_of(n), 0, column);
        good = memcmp(&expected, &out[j], sizeof expected) == 0;
    }
    df_free(leaves);
    df_free(out);
    df_free(column);
    return good;
}

static void sums_equal_the_serial_tree(void **state) {
    (void)state;
    const size_t sizes[] = {0, 1, 2, 3, 5, 7, 8, 13, 64, 100};
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        df_test_all(world, sum_is_the_tree(world, sizes[k], 1));
        df_test_all(world, sum_is_the_tree(world, sizes[k], 37));
    }
    df_test_all(world, sum_is_the_tree(world, 8, 0));
}

/* Wide enough for the path that shares the columns, and for more than one slice of them. */
static void wide_sums(void **state) {
    (void)state;
    df_test_all(world, sum_is_the_tree(world, 13, 5001));
    df_test_all(world, sum_is_the_tree(world, 5, ((size_t)1 << 18) + 12345));
}

static void sums_on_a_split(void **state) {
    (void)state;
    df_comm *half = NULL;
    df_test_all(world, df_comm_split(world, df_comm_rank(world) % 2, 0, &half) == DF_OK);
    df_test_all(world, sum_is_the_tree(half, 21, 3) && sum_is_the_tree(half, 6, 4000));
    df_comm_free(&half);
}

static void nodes_cover_a_stretch(void **state) {
    (void)state;
    for (size_t n = 1; n <= 40; n++) {
        for (size_t first = 0; first < n; first++) {
            for (size_t count = 0; first + count <= n; count++) {
                df_node node[128];
                size_t nodes = df_tree_nodes(n, first, count, node), at = first;
                for (size_t k = 0; k < nodes; k++) {
                    assert_int_equal((size_t)node[k].index << node[k].height, at);
                    at += (size_t)1 << node[k].height;
                    if (at > n) at = n;
                }
                assert_int_equal(at, first + count);
                assert_true(nodes <= 2 * (height_of(n) + 1));
            }
        }
    }
}

static void whole_tree_is_one_node(void **state) {
    (void)state;
    df_node node[128];
    assert_int_equal(df_tree_nodes(64, 0, 64, node), 1);
    assert_int_equal(node[0].height, 6);
    assert_int_equal(df_tree_nodes(5, 4, 1, node), 1);
    assert_int_equal(node[0].height, 2);
    assert_int_equal(node[0].index, 1);
    assert_int_equal(df_tree_nodes(64, 10, 0, node), 0);
}

static void finish_without_memory(void **state) {
    (void)state;
    double leaves[64] = {0}, out[1];
    if (df_comm_rank(world) == 0) df_memory_fail_after(1);
    df_status status = df_tree_sum(world, 64, 1, leaves, out);
    df_memory_fail_after(-1);
    df_test_all(world, status == DF_FAILED && strstr(df_error_text(), "out of memory") != NULL);
    df_error_clear();
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(sums_equal_the_serial_tree),
    cmocka_unit_test(wide_sums),
    cmocka_unit_test(sums_on_a_split),
    cmocka_unit_test(nodes_cover_a_stretch),
    cmocka_unit_test(whole_tree_is_one_node),
    cmocka_unit_test(finish_without_memory),
};

DF_TEST_MPI_MAIN(world, tests, NULL, NULL)
