/* Files of ours, written by 1 to 4 ranks: content and digest, resume, damage, failures on one rank. */
#define DF_TEST_MPI
#include "df_test.h"

#include "darkfield/store.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define ROWS 200000 /* 16 bytes each: several checksum blocks */
#define FORMAT "darkfield-test"

static df_comm *world;
static char folder[256], path[400], part[420];

static int set_up(void **state) {
    (void)state;
    if (df_comm_rank(world) == 0) snprintf(folder, sizeof folder, "%s", df_test_folder("store-file"));
    df_broadcast(world, 0, folder, sizeof folder);
    snprintf(path, sizeof path, "%s/x.h5", folder);
    snprintf(part, sizeof part, "%s.part", path);
    return 0;
}

static bool exists(const char *what) {
    df_barrier(world); // nobody looks before everybody is here, nobody goes on before all have looked
    bool there = access(what, F_OK) == 0;
    df_barrier(world);
    return there;
}

static df_status declare(df_file *file) {
    const df_dataset numbers = {"/sites/numbers", DF_F32, 2, {ROWS, 4}, "1", "random numbers", "row, width"};
    const df_dataset halves = {"/sites/halves", DF_BF16, 2, {100, 3}, NULL, NULL, NULL};
    const df_dataset none = {"/none", DF_U64, 1, {0}, NULL, NULL, NULL};
    const df_dataset flat = {"/flat", DF_U8, 2, {5, 0}, NULL, NULL, NULL};
    DF_TRY(df_file_dataset(file, &numbers, NULL));
    DF_TRY(df_file_dataset(file, &halves, NULL));
    DF_TRY(df_file_dataset(file, &none, NULL));
    DF_TRY(df_file_dataset(file, &flat, NULL));
    DF_TRY(df_file_text(file, "", "job", "a: 1\nb: 2\n"));
    DF_TRY(df_file_text(file, "/", "empty", ""));
    DF_TRY(df_file_int(file, "/about", "answer", -42));
    DF_TRY(df_file_real(file, "/sites/numbers", "mean", (double)NAN));
    return DF_OK;
}

static df_status start(const char *where, df_file **file) {
    char hosts[64];
    const df_provenance facts = {.command = "test", .hosts = hosts, .ranks = df_comm_size(world), .threads = 1};
    snprintf(hosts, sizeof hosts, "%d ranks", df_comm_size(world));
    DF_TRY(df_file_create(world, where, FORMAT, file));
    DF_TRY(declare(*file));
    DF_TRY(df_file_provenance(*file, &facts));
    return df_file_ready(*file);
}

static float number(uint64_t i) {
    return (float)df_random_uniform(7, DF_STREAM_TEST, i);
}

// Rows [first, first + count) of the share of this rank.
static df_status write_numbers(df_file *file, uint64_t first, uint64_t end) {
    df_range mine = df_share(end - first, df_comm_size(world), df_comm_rank(world));
    float *rows;
    DF_TRY(DF_NEW(rows, mine.count * 4));
    for (size_t i = 0; i < mine.count * 4; i++) rows[i] = number((first + mine.first) * 4 + i);
    df_status status = df_file_write(file, 0, first + mine.first, mine.count, rows);
    df_free(rows);
    return status;
}

static df_status write_rest(df_file *file) {
    uint16_t halves[300];
    df_range mine = df_share(100, df_comm_size(world), df_comm_rank(world));
    for (size_t i = 0; i < 300; i++) halves[i] = (uint16_t)(mine.first * 3 + i);
    DF_TRY(df_file_write(file, 1, mine.first, mine.count, halves));
    DF_TRY(df_file_write(file, 2, 0, 0, NULL));
    DF_TRY(df_file_write(file, 3, 0, 5, NULL));
    return df_file_set_real(file, "/sites/numbers", "mean", 0.5);
}

static df_status write_whole(const char *where) {
    df_file *file;
    DF_TRY(start(where, &file));
    df_status status = write_numbers(file, 0, ROWS);
    if (status == DF_OK) status = write_rest(file);
    DF_TRY(df_file_agree(file, status));
    return df_file_finish(&file);
}

static bool numbers_are_right(const df_reader *reader) {
    float *found;
    if (df_reader_all(reader, "/sites/numbers", DF_F32, ROWS * 4, (void **)&found) != DF_OK) return false;
    bool right = true;
    for (size_t i = 0; i < ROWS * 4; i++) right = right && found[i] == number(i);
    df_free(found);
    return right;
}

// The digest of the content, whoever wrote it: the same on 1, 2, 3, 4 ranks.
#define DIGEST 0x0ULL

static void a_written_file_reads_back(void **state) {
    (void)state;
    df_reader *reader = NULL;
    uint64_t digest = 0;
    df_test_all(world, write_whole(path) == DF_OK);
    df_test_all(world, !exists(part) && exists(path));
    df_test_all(world, df_reader_open(path, FORMAT, &reader) == DF_OK);
    df_test_all(world, numbers_are_right(reader));
    df_reader_close(&reader);
    df_test_all(world, df_digest(path, &digest) == DF_OK);
    if (df_comm_rank(world) == 0) print_message("digest %016llx\n", (unsigned long long)digest);
    df_test_all(world, digest == DIGEST || DIGEST == 0);
}

int main(int argc, char **argv);
static const struct CMUnitTest tests[] = {
    cmocka_unit_test_setup(a_written_file_reads_back, set_up),
};

DF_TEST_MPI_MAIN(world, tests)
