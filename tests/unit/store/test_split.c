/* Files in parts, written by 1 to 4 ranks: the digest and the rows of one file, whatever the cuts;
 * resume; missing, exchanged and damaged parts. */
#define DF_TEST_MPI
#include "df_test.h"

#include "darkfield/store.h"

#include <fcntl.h>
#include <unistd.h>

/* wide: 16 bytes a row, 65536 rows a checksum block; narrow: 4 bytes, 262144 a block. */
enum { ROWS = 300000, WIDE = 4 };
#define FORMAT "darkfield-test"

static df_comm *world;
static char folder[256], whole[400], path[400];

static int set_up(void **state) {
    (void)state;
    if (df_comm_rank(world) == 0)
        snprintf(folder, sizeof folder, "%s", df_test_folder("store-split"));
    df_broadcast(world, 0, folder, sizeof folder);
    snprintf(whole, sizeof whole, "%s/one.rows.h5", folder);
    snprintf(path, sizeof path, "%s/v1.2.rows.h5", folder);
    return 0;
}

static char *beside(const char *name) {
    static char text[500];
    snprintf(text, sizeof text, "%s/%s", folder, name);
    return text;
}

// Nobody looks before everybody is here, nobody goes on before all have looked.
static bool exists(const char *name) {
    df_barrier(world);
    bool there = access(beside(name), F_OK) == 0;
    df_barrier(world);
    return there;
}

/* ---- writing - */

static const uint64_t few[] = {0, 100, 70000, 262145, ROWS};
static const df_split cut_in_four = {(const int[]){0, 2}, 2, few, 4};

static df_status start_as(const char *format, const char *where, const df_split *split,
                          df_file **file) {
    const df_dataset wide = {"/sites/wide", DF_F32, 2, {ROWS, WIDE}, "1", "numbers", "row, width"};
    const df_dataset kept = {"/kept", DF_U8, 1, {100}, NULL, NULL, NULL};
    const df_dataset narrow = {"/narrow", DF_U32, 1, {ROWS}, NULL, NULL, NULL};
    DF_TRY(df_file_create(world, where, format, file));
    DF_TRY(df_file_dataset(*file, &wide, NULL));
    DF_TRY(df_file_dataset(*file, &kept, NULL));
    DF_TRY(df_file_dataset(*file, &narrow, NULL));
    DF_TRY(df_file_real(*file, "/sites/wide", "mean", 0.5));
    if (split != NULL) DF_TRY(df_file_split(*file, split));
    return df_file_ready(*file);
}

static df_status start(const char *where, const df_split *split, df_file **file) {
    return start_as(FORMAT, where, split, file);
}

static float number(uint64_t row, size_t column, uint64_t seed) {
    return (float)df_random_uniform(seed, 3, row * WIDE + column);
}

// This rank's share of the rows, in pieces that fit no cut.
static df_status write_share(df_file *file, uint64_t seed) {
    enum { PIECE = 777 };
    float x[PIECE * WIDE];
    uint32_t n[PIECE];
    df_range mine = df_share(ROWS, df_comm_size(world), df_comm_rank(world));
    for (size_t done = 0, count; done < mine.count; done += count) {
        count = mine.count - done < PIECE ? mine.count - done : PIECE;
        for (size_t i = 0; i < count; i++) {
            n[i] = (uint32_t)(mine.first + done + i);
            for (size_t c = 0; c < WIDE; c++) x[i * WIDE + c] = number(n[i], c, seed);
        }
        DF_TRY(df_file_write(file, 0, mine.first + done, count, x));
        DF_TRY(df_file_write(file, 2, mine.first + done, count, n));
    }
    return DF_OK;
}

static df_status fill_and_finish(df_file **file, uint64_t seed) {
    uint8_t kept[100] = {7};
    df_status status = write_share(*file, seed);
    if (status == DF_OK && df_comm_rank(world) == 0)
        status = df_file_write(*file, 1, 0, sizeof kept, kept);
    DF_TRY(df_file_agree(*file, status));
    return df_file_finish(file);
}

static df_status write_file(const char *where, const df_split *split, uint64_t seed) {
    df_file *file = NULL;
    DF_TRY(start(where, split, &file));
    return fill_and_finish(&file, seed);
}

/* ---- reading - */

static bool rows_are_right(const df_reader *reader, uint64_t first, size_t n) {
    float *x = NULL;
    bool right = DF_NEW(x, n * WIDE) == DF_OK &&
                 df_reader_rows(reader, "/sites/wide", first, n, true, x) == DF_OK;
    for (size_t i = 0; i < n && right; i++)
        for (size_t c = 0; c < WIDE; c++)
            right = right && x[i * WIDE + c] == number(first + i, c, 1);
    df_free(x);
    return right;
}

static void parts_are_one_file(void **state) {
    (void)state;
    uint64_t one = 1, parts = 2, offset;
    df_reader *reader = NULL;
    char *summary = NULL;
    df_test_all(world, write_file(whole, NULL, 1) == DF_OK);
    df_test_all(world, write_file(path, &cut_in_four, 1) == DF_OK);
    df_test_all(world, exists("v1.2.003.rows.h5") && !exists("v1.2.004.rows.h5"));
    df_test_all(world, df_digest(whole, &one) == DF_OK && df_digest(path, &parts) == DF_OK);
    df_test_all(world, one == parts);
    df_test_all(world, df_check(path, &summary) == DF_OK && summary != NULL);
    df_free(summary);
    df_test_all(world, df_reader_open(path, FORMAT, &reader) == DF_OK);
    df_test_all(world, rows_are_right(reader, 0, ROWS) && rows_are_right(reader, 99, 2) &&
                           rows_are_right(reader, 69999, 192147));
    df_test_all(world, df_test_fails(df_reader_rows(reader, "/narrow", ROWS, 1, true, &offset),
                                     DF_BAD_INPUT, "which has 300000"));
    df_test_all(world, df_test_fails(df_reader_offset(reader, "/narrow", &offset), DF_BAD_INPUT,
                                     "files of its own"));
    df_reader_close(&reader);
}

static void parts_of_before_go(void **state) {
    (void)state;
    const df_split two = {(const int[]){0, 2}, 2, (const uint64_t[]){0, 5, ROWS}, 2};
    df_test_all(world, write_file(path, &cut_in_four, 1) == DF_OK);
    df_test_all(world, write_file(path, &two, 1) == DF_OK);
    df_test_all(world, exists("v1.2.001.rows.h5") && !exists("v1.2.002.rows.h5"));
    df_test_all(world, write_file(path, NULL, 1) == DF_OK && !exists("v1.2.000.rows.h5"));
}

/* ---- a kill - */

static void a_stopped_file_goes_on(void **state) {
    (void)state;
    uint64_t one = 1, parts = 2;
    df_file *file = NULL;
    df_test_all(world, write_file(whole, NULL, 1) == DF_OK && df_digest(whole, &one) == DF_OK);
    df_test_all(world, start(path, &cut_in_four, &file) == DF_OK);
    df_test_all(world, df_file_agree(file, write_share(file, 1)) == DF_OK);
    df_test_all(world, df_file_sync(file) == DF_OK);
    df_file_abandon(&file, true);
    df_test_all(world, exists("v1.2.rows.h5.part") && exists("v1.2.002.rows.h5.part"));
    // As if it had been killed among the renames.
    char part[600];
    snprintf(part, sizeof part, "%s", beside("v1.2.000.rows.h5.part"));
    if (df_comm_rank(world) == 0) rename(part, beside("v1.2.000.rows.h5"));
    df_barrier(world);
    df_test_all(world, df_file_resume(world, path, FORMAT, &file) == DF_OK && file != NULL);
    float row[WIDE];
    df_test_all(world,
                df_file_read(file, 0, 262145, 1, row) == DF_OK && row[1] == number(262145, 1, 1));
    df_test_all(world, fill_and_finish(&file, 1) == DF_OK);
    df_test_all(world, df_digest(path, &parts) == DF_OK && one == parts);
    df_test_all(world, !exists("v1.2.002.rows.h5.part"));
}

static void a_lost_part_starts_anew(void **state) {
    (void)state;
    df_file *file = NULL;
    df_test_all(world, start(path, &cut_in_four, &file) == DF_OK);
    df_file_abandon(&file, true);
    if (df_comm_rank(world) == 0) unlink(beside("v1.2.001.rows.h5.part"));
    if (df_comm_rank(world) == 0) unlink(beside("v1.2.001.rows.h5"));
    df_barrier(world);
    df_test_all(world, df_file_resume(world, path, FORMAT, &file) == DF_OK && file == NULL);
    df_test_all(world, start(path, &cut_in_four, &file) == DF_OK);
    df_file_abandon(&file, false);
    df_test_all(world, !exists("v1.2.rows.h5.part") && !exists("v1.2.000.rows.h5.part"));
}

/* ---- bad parts - */

static bool open_fails(const char *why) {
    df_reader *reader = NULL;
    return df_test_fails(df_reader_open(path, FORMAT, &reader), DF_BAD_INPUT, why);
}

static void swap(const char *a, const char *b) {
    char from[500], to[500];
    snprintf(from, sizeof from, "%s", beside(a));
    snprintf(to, sizeof to, "%s", beside(b));
    df_barrier(world);
    if (df_comm_rank(world) == 0) {
        rename(from, beside("spare"));
        rename(to, from);
        rename(beside("spare"), to);
    }
    df_barrier(world);
}

static void missing_and_exchanged_parts_are_named(void **state) {
    (void)state;
    const df_split even = {(const int[]){0, 2}, 2, (const uint64_t[]){0, ROWS / 2, ROWS}, 2};
    df_test_all(world, write_file(path, &even, 1) == DF_OK);
    swap("v1.2.000.rows.h5", "v1.2.001.rows.h5");
    df_test_all(world, open_fails("v1.2.000.rows.h5 is not part 0 of"));
    swap("v1.2.000.rows.h5", "v1.2.001.rows.h5");
    if (df_comm_rank(world) == 0) unlink(beside("v1.2.001.rows.h5"));
    df_barrier(world);
    df_test_all(world, open_fails("opening part 1 of 2 of"));
    df_test_all(world, open_fails("v1.2.001.rows.h5: No such file"));
}

// Else a file that names itself would be opened for ever: what reads it back refuses it.
static void a_part_is_in_no_parts(void **state) {
    (void)state;
    df_file *file = NULL;
    df_test_all(world, start_as("darkfield-part", path, &cut_in_four, &file) == DF_OK);
    df_test_all(world, df_test_fails(fill_and_finish(&file, 1), DF_BAD_INPUT,
                                     "v1.2.rows.h5.part: a part cannot be in parts"));
    df_file_abandon(&file, false);
    df_test_all(world, !exists("v1.2.rows.h5") && !exists("v1.2.rows.h5.part"));
}

static void damage_is_named_with_its_file(void **state) {
    (void)state;
    uint64_t digest, offset = 0;
    char *summary = NULL;
    float row[WIDE];
    df_reader *reader = NULL;
    df_test_all(world, write_file(path, &cut_in_four, 1) == DF_OK);
    df_test_all(world, df_reader_open(beside("v1.2.002.rows.h5"), NULL, &reader) == DF_OK &&
                           df_reader_offset(reader, "/sites/wide", &offset) == DF_OK);
    df_reader_close(&reader);
    int file = df_comm_rank(world) == 0 ? open(beside("v1.2.002.rows.h5"), O_RDWR) : -1;
    bool done = file < 0 || pwrite(file, "spoilt", 6, (off_t)offset) == 6;
    if (file >= 0) close(file);
    df_test_all(world, done);
    df_test_all(world, df_test_fails(df_check(path, &summary), DF_BAD_INPUT,
                                     "v1.2.002.rows.h5: dataset /sites/wide is damaged"));
    df_test_all(world, df_test_fails(df_digest(path, &digest), DF_BAD_INPUT, "v1.2.002.rows.h5"));
    df_test_all(world, df_reader_open(path, FORMAT, &reader) == DF_OK);
    df_test_all(world, df_test_fails(df_reader_rows(reader, "/sites/wide", 70001, 1, true, row),
                                     DF_BAD_INPUT, "block 0 (rows 0 to 61071)"));
    df_reader_close(&reader);
}

static void impossible_cuts_are_refused(void **state) {
    (void)state;
    df_file *file = NULL;
    const df_split wrong[] = {{(const int[]){0}, 1, (const uint64_t[]){0, 5, 5, ROWS}, 3},
                              {(const int[]){1}, 1, (const uint64_t[]){0, ROWS}, 1},
                              {(const int[]){0}, 1, (const uint64_t[]){1, ROWS}, 1}};
    const char *why[] = {"part 1 has no rows", "dataset 1 cannot be cut", "no part begins at 0"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        df_test_all(world, df_test_fails(start(path, &wrong[i], &file), DF_FAILED, why[i]));
        df_file_abandon(&file, false);
    }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test_setup(parts_are_one_file, set_up),
    cmocka_unit_test_setup(parts_of_before_go, set_up),
    cmocka_unit_test_setup(a_stopped_file_goes_on, set_up),
    cmocka_unit_test_setup(a_lost_part_starts_anew, set_up),
    cmocka_unit_test_setup(missing_and_exchanged_parts_are_named, set_up),
    cmocka_unit_test_setup(a_part_is_in_no_parts, set_up),
    cmocka_unit_test_setup(damage_is_named_with_its_file, set_up),
    cmocka_unit_test_setup(impossible_cuts_are_refused, set_up),
};

DF_TEST_MPI_MAIN(world, tests, NULL, NULL)
