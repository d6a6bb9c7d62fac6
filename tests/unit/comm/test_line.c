/* The line: blocks keep their order and their bytes whatever the pieces they travel in, a bad block
 * runs through to the end, and a line closes with blocks still on their way. */
#define DF_TEST_MPI
#include "df_test.h"
#include "darkfield/line.h"
#include "parts.h"

#include <unistd.h>

static df_comm *world;

enum { CAPACITY = 3000, BLOCKS = 17 };

static bool is_last(void) {
    return df_comm_rank(world) == df_comm_size(world) - 1;
}

// Block i is i * 170 bytes long: the first is empty.
static size_t length_of(size_t i) {
    return i * 170;
}

/* Every rank adds its number to each byte; what arrives is what all before have added. */
static bool is_right(const unsigned char *block, size_t i) {
    unsigned sum = 0;
    for (int r = 0; r < df_comm_rank(world); r++) sum += (unsigned)r + 1;
    for (size_t b = 0; block != NULL && b < length_of(i); b++)
        if (block[b] != (unsigned char)(i + b + sum)) return false;
    return true;
}

static void pass_on(df_line *line, const unsigned char *in, size_t i, bool good) {
    unsigned char *out = df_line_room(line);
    for (size_t b = 0; out != NULL && b < length_of(i); b++)
        out[b] = (unsigned char)((in != NULL ? in[b] : i + b) + (size_t)df_comm_rank(world) + 1);
    df_line_give(line, length_of(i), good);
}

// Blocks through the whole line; from block `bad` on the first rank gives bad ones (BLOCKS: none).
static bool run_blocks(df_line *line, size_t bad) {
    bool good = true;
    for (size_t i = 0; i < BLOCKS; i++) {
        const void *in;
        bool fine = df_line_take(line, &in);
        if (df_comm_rank(world) == 0) fine = i < bad;
        good = good && fine == (i < bad) && (!fine || is_right(in, i));
        pass_on(line, in, i, fine);
    }
    return good;
}

static void keeps_order_and_bytes(void **state) {
    (void)state;
    size_t pieces[] = {(size_t)1 << 30, 1000, 64, 50}, whole = df_comm_piece;
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        size_t before = df_memory_now();
        df_line *line;
        df_comm_piece = pieces[i];
        df_test_all(world, df_line_open(world, CAPACITY, &line) == DF_OK);
        df_test_all(world, df_memory_now() - before ==
                               df_line_bytes(df_comm_size(world), df_comm_rank(world), CAPACITY));
        df_test_all(world, run_blocks(line, BLOCKS));
        df_line_close(&line);
        df_test_all(world, line == NULL && df_memory_now() == before);
    }
    df_comm_piece = whole;
}

static void bad_blocks_run_through(void **state) {
    (void)state;
    df_line *line;
    df_test_all(world, df_line_open(world, CAPACITY, &line) == DF_OK);
    df_test_all(world, run_blocks(line, 5));
    df_line_close(&line);
}

// Ranks leave at their own time: what was given and not taken is no obstacle. Large blocks, so that
// sending needs the other side.
static void closes_early(void **state) {
    (void)state;
    const size_t bytes = (size_t)4 << 20;
    for (int taken = 0; taken < 3; taken++) {
        df_line *line;
        df_test_all(world, df_line_open(world, bytes, &line) == DF_OK);
        for (int i = 0; i < 2; i++) {
            const void *in;
            if (i < taken) (void)!df_line_take(line, &in);
            (void)df_line_room(line);
            df_line_give(line, bytes, true);
        }
        df_line_close(&line);
    }
    df_line *none = NULL;
    df_line_close(&none);
    df_test_all(world, true);
}

// While a rank works on a block the next one may arrive and two may wait behind it: the first rank
// is never more than its two blocks ahead.
static void is_two_blocks_deep(void **state) {
    (void)state;
    df_line *line;
    const void *in;
    df_test_all(world, df_line_open(world, CAPACITY, &line) == DF_OK);
    char *first = df_line_room(line);
    df_line_give(line, 1, true);
    char *second = df_line_room(line);
    df_line_give(line, 1, true);
    for (int i = 0; i < 2; i++) (void)!df_line_take(line, &in);
    char *third = df_line_room(line);
    df_test_all(world, third == first && (first != second || is_last()));
    df_line_close(&line);
}

static void opens_without_memory(void **state) {
    (void)state;
    size_t before = df_memory_now();
    for (int call = 0; call < 6; call++) {
        df_line *line;
        if (is_last()) df_memory_fail_after(call);
        df_status status = df_line_open(world, CAPACITY, &line);
        df_memory_fail_after(-1);
        df_error_clear();
        df_test_all(world, (status == DF_OK) == (line != NULL));
        df_line_close(&line);
        df_test_all(world, df_memory_now() == before);
    }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(keeps_order_and_bytes), cmocka_unit_test(bad_blocks_run_through),
    cmocka_unit_test(closes_early),          cmocka_unit_test(is_two_blocks_deep),
    cmocka_unit_test(opens_without_memory),
};

DF_TEST_MPI_MAIN(world, tests, NULL, NULL)
