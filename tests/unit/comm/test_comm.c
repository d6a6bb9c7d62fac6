/* What crosses ranks: agreement, stop requests, gathers and exchanges of uneven and of long arrays.
 */
#define DF_TEST_MPI
#include "df_test.h"
#include "parts.h"

#include <signal.h>
#include <unistd.h>

static df_comm *world;

static int rank_of(void) {
    return df_comm_rank(world);
}

static size_t size_of(void) {
    return (size_t)df_comm_size(world);
}

/* Byte i of what `from` sends to `to`. */
static unsigned char pattern(size_t from, size_t to, size_t i) {
    return (unsigned char)(7 * from + 31 * to + i);
}

static void agree_on_success(void **state) {
    (void)state;
    df_test_all(world, df_agree(world, DF_OK) == DF_OK);
}

static void agree_takes_the_lowest_failing_rank(void **state) {
    (void)state;
    int last = df_comm_size(world) - 1;
    df_status mine = DF_OK;
    if (rank_of() == last) mine = df_fail(DF_BAD_INPUT, "file x: rank %d says no", last);
    df_status agreed = df_agree(world, mine);
    char expected[80];
    snprintf(expected, sizeof expected, "file x: rank %d says no", last);
    df_test_all(world, agreed == DF_BAD_INPUT && strstr(df_error_text(), expected) != NULL);
    df_test_all(world, (strstr(df_error_text(), "[rank ") != NULL) == (size_of() > 1));

    mine = df_fail(rank_of() == 0 ? DF_USAGE : DF_FAILED, "rank %d", rank_of());
    df_test_all(world, df_agree(world, mine) == DF_USAGE);
    df_test_all(world, strstr(df_error_text(), "rank 0") != NULL);
    df_error_clear();
    df_test_all(world, df_agree(world, rank_of() == last ? DF_STOPPED : DF_OK) == DF_STOPPED);
    df_test_all(world, strstr(df_error_text(), "no message") != NULL);
    df_error_clear();
}

static void agree_keeps_context(void **state) {
    (void)state;
    df_status mine = df_fail(DF_FAILED, "disk full");
    df_context("writing a.h5");
    mine = df_agree(world, mine);
    df_test_all(world, mine == DF_FAILED && strstr(df_error_text(), "while writing a.h5") != NULL);
    df_error_clear();
}

/* Contributions of 0, 1, 5, 9 ... bytes, so that some rank always brings nothing. */
static size_t uneven(size_t r) {
    return r == 1 ? 0 : 4 * r + 1;
}

static bool gathers_hold(void) {
    size_t counts[64], total = 0, at = 0, me = (size_t)rank_of();
    unsigned char mine[300], all[64 * 300], root[64 * 300];
    for (size_t r = 0; r < size_of(); r++) total += counts[r] = uneven(r);
    for (size_t i = 0; i < counts[me]; i++) mine[i] = pattern(me, 0, i);
    df_allgather(world, mine, counts, all);
    df_gather(world, df_comm_size(world) - 1, mine, counts, root);
    bool good = true;
    for (size_t r = 0; r < size_of(); r++)
        for (size_t i = 0; i < counts[r]; i++) good = good && all[at++] == pattern(r, 0, i);
    if (me == size_of() - 1) good = good && memcmp(all, root, total) == 0;
    return good;
}

static void gathers_of_uneven_arrays(void **state) {
    (void)state;
    df_test_all(world, gathers_hold());
    df_comm_piece = 3;
    df_test_all(world, gathers_hold());
    df_comm_piece = (size_t)1 << 30;
}

/* Rank a sends 3a + b bytes to rank b, but nothing along the diagonal's upper neighbours. */
static size_t letter(size_t a, size_t b) {
    return b == a + 1 ? 0 : 3 * a + b;
}

static bool exchange_holds(void) {
    size_t give[64], take[64], n = 0, at = 0, me = (size_t)rank_of();
    unsigned char out[64 * 300], in[64 * 300];
    for (size_t r = 0; r < size_of(); r++) {
        give[r] = letter(me, r);
        take[r] = letter(r, me);
        for (size_t i = 0; i < give[r]; i++) out[n++] = pattern(me, r, i);
    }
    df_exchange(world, out, give, in, take);
    bool good = true;
    for (size_t r = 0; r < size_of(); r++)
        for (size_t i = 0; i < take[r]; i++) good = good && in[at++] == pattern(r, me, i);
    return good;
}

static void exchange_of_uneven_letters(void **state) {
    (void)state;
    df_test_all(world, exchange_holds());
    df_comm_piece = 2;
    df_test_all(world, exchange_holds());
    df_comm_piece = (size_t)1 << 30;
}

static void broadcast_in_pieces(void **state) {
    (void)state;
    unsigned char data[100];
    df_comm_piece = 7;
    for (int root = 0; root < df_comm_size(world); root++) {
        memset(data, 0, sizeof data);
        if (rank_of() == root)
            for (size_t i = 0; i < sizeof data; i++) data[i] = pattern((size_t)root, 0, i);
        df_broadcast(world, root, data, sizeof data);
        bool good = true;
        for (size_t i = 0; i < sizeof data; i++)
            good = good && data[i] == pattern((size_t)root, 0, i);
        df_test_all(world, good);
    }
    df_broadcast(world, 0, NULL, 0);
    df_comm_piece = (size_t)1 << 30;
}

static void exact_reductions(void **state) {
    (void)state;
    uint64_t sums[5], most[5];
    double high[3], low[3];
    uint64_t r = (uint64_t)rank_of(), n = size_of();
    for (uint64_t i = 0; i < 5; i++) sums[i] = most[i] = i * 1000000007u + r;
    for (int i = 0; i < 3; i++) high[i] = low[i] = i - (double)r;
    df_comm_piece = 16;
    df_sum_u64(world, sums, 5);
    df_max_u64(world, most, 5);
    df_max_double(world, high, 3);
    df_min_double(world, low, 3);
    df_comm_piece = (size_t)1 << 30;
    bool good = true;
    for (uint64_t i = 0; i < 5; i++) {
        good = good && sums[i] == n * i * 1000000007u + n * (n - 1) / 2;
        good = good && most[i] == i * 1000000007u + n - 1;
    }
    for (int i = 0; i < 3; i++) good = good && high[i] == i && low[i] == i - (double)(n - 1);
    df_test_all(world, good);

    size_t all[64];
    df_allgather_size(world, (size_t)r * 5000000000u, all);
    for (size_t i = 0; i < n; i++) good = good && all[i] == i * 5000000000u;
    df_test_all(world, good);
}

static void split_and_self(void **state) {
    (void)state;
    df_comm *half = NULL, *self = NULL;
    int me = rank_of();
    df_test_all(world, df_comm_split(world, me % 2, -me, &half) == DF_OK);
    uint64_t sum = 1;
    df_sum_u64(half, &sum, 1);
    df_test_all(world, sum == (uint64_t)df_comm_size(half));
    df_test_all(world, (size_t)df_comm_size(half) == (size_of() + (me % 2 == 0)) / 2);
    // keys descend, so the highest world rank comes first
    df_test_all(world, df_comm_rank(half) == (df_comm_size(world) - 1 - me) / 2);
    df_comm_free(&half);
    df_test_all(world, df_comm_split(world, me == 0 ? 0 : -1, 0, &half) == DF_OK);
    df_test_all(world, (half != NULL) == (me == 0));
    df_comm_free(&half);
    df_test_all(world, df_comm_self(&self) == DF_OK && df_comm_size(self) == 1);
    df_comm_free(&self);
    df_test_all(world, self == NULL);
}

/* A failure inside split on one rank leaves with all ranks. */
static void split_without_memory(void **state) {
    (void)state;
    df_comm *out = NULL;
    if (rank_of() == df_comm_size(world) - 1) df_memory_fail_after(1);
    df_status status = df_comm_split(world, 0, 0, &out);
    df_memory_fail_after(-1);
    df_test_all(world, status == DF_FAILED && out == NULL);
    df_error_clear();
}

static void hosts_name_every_rank(void **state) {
    (void)state;
    char hosts[256], expected[32], tiny[4];
    df_comm_hosts(world, hosts, sizeof hosts);
    snprintf(expected, sizeof expected, " x %zu", size_of());
    df_test_all(world, strstr(hosts, expected) != NULL && strstr(hosts, ", ") == NULL);
    df_comm_hosts(world, tiny, sizeof tiny);
    df_test_all(world, strlen(tiny) < sizeof tiny);
}

static void traffic_is_counted(void **state) {
    (void)state;
    df_traffic before = df_comm_traffic(world);
    double seconds = df_comm_seconds(world);
    size_t counts[64];
    unsigned char byte = 1, all[64];
    for (size_t r = 0; r < size_of(); r++) counts[r] = 1;
    df_allgather(world, &byte, counts, all);
    df_traffic after = df_comm_traffic(world);
    uint64_t expected = size_of() > 1;
    df_test_all(world, after.bytes - before.bytes == expected &&
                           after.messages - before.messages == expected);
    df_test_all(world, (df_comm_seconds(world) > seconds) == (size_of() > 1));
}

static void shares_cover_everything_once(void **state) {
    (void)state;
    for (size_t n = 0; n < 20; n++) {
        for (int size = 1; size < 8; size++) {
            size_t next = 0;
            for (int r = 0; r < size; r++) {
                df_range share = df_share(n, size, r);
                assert_int_equal(share.first, next);
                assert_true(share.count >= n / (size_t)size && share.count <= n / (size_t)size + 1);
                next += share.count;
            }
            assert_int_equal(next, n);
        }
    }
}

/* Order matters: a raised signal stays raised, so the other reasons come first. */
static void stop_requests(void **state) {
    (void)state;
    df_test_all(world, !df_stop_requested(world));
    df_stop_after(1e6);
    df_test_all(world, !df_stop_requested(world));
    if (rank_of() == df_comm_size(world) - 1) df_stop_after(1e-9);
    df_test_all(world, df_stop_requested(world));
    df_stop_after(0);
    df_test_all(world, !df_stop_requested(world));

    const char *folder = rank_of() == 0 ? df_test_folder("halt") : "";
    char path[300];
    snprintf(path, sizeof path, "%s/halt", folder);
    df_stop_halt_file(path);
    df_test_all(world, !df_stop_requested(world));
    bool written = rank_of() != 0 || df_write_file(path, "", 0) == DF_OK;
    df_test_all(world, written);
    df_test_all(world, df_stop_requested(world));
    df_stop_halt_file(NULL);
    df_test_all(world, !df_stop_requested(world));

    if (rank_of() == 0) kill(getpid(), SIGUSR1);
    df_test_all(world, df_stop_requested(world));
    kill(getpid(), SIGTERM); // must not end the process
    df_stop_raise();
    df_test_all(world, df_stop_requested(world));
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(agree_on_success),
    cmocka_unit_test(agree_takes_the_lowest_failing_rank),
    cmocka_unit_test(agree_keeps_context),
    cmocka_unit_test(gathers_of_uneven_arrays),
    cmocka_unit_test(exchange_of_uneven_letters),
    cmocka_unit_test(broadcast_in_pieces),
    cmocka_unit_test(exact_reductions),
    cmocka_unit_test(split_and_self),
    cmocka_unit_test(split_without_memory),
    cmocka_unit_test(hosts_name_every_rank),
    cmocka_unit_test(traffic_is_counted),
    cmocka_unit_test(shares_cover_everything_once),
    cmocka_unit_test(stop_requests),
};

DF_TEST_MPI_MAIN(world, tests, NULL, NULL)
