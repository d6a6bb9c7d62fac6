/* Files of ours, written by 1 to 4 ranks: content and digest, resume, damage, a failure on one
 * rank, a full disk. */
#define DF_TEST_MPI
#include "df_test.h"

#include "darkfield/store.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define ROWS 200000 /* 16 bytes each: four checksum blocks */
#define FORMAT "darkfield-test"
#define DIGEST 0x4074b7534da85557u /* of the content below, whoever writes it */

static df_comm *world;
static char folder[256], path[400], part[420];

static int set_up(void **state) {
    (void)state;
    if (df_comm_rank(world) == 0)
        snprintf(folder, sizeof folder, "%s", df_test_folder("store-file"));
    df_broadcast(world, 0, folder, sizeof folder);
    snprintf(path, sizeof path, "%s/x.h5", folder);
    snprintf(part, sizeof part, "%s.part", path);
    return 0;
}

// Nobody looks before everybody is here, nobody goes on before all have looked.
static bool exists(const char *what) {
    df_barrier(world);
    bool there = access(what, F_OK) == 0;
    df_barrier(world);
    return there;
}

/* ---- a file --------------------------------------------------------------------------------- */

static df_status declare(df_file *file) {
    const df_dataset numbers = {"/sites/numbers", DF_F32,      2, {ROWS, 4}, "1",
                                "random numbers", "row, width"};
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
    return df_file_real(file, "/sites/numbers", "mean", (double)NAN);
}

static df_status start(const char *where, df_file **file) {
    char hosts[64];
    df_provenance facts = {
        .command = "test", .hosts = hosts, .ranks = df_comm_size(world), .threads = 1};
    facts.start = df_now() - 100;
    snprintf(hosts, sizeof hosts, "%d ranks", df_comm_size(world));
    DF_TRY(df_file_create(world, where, FORMAT, file));
    df_status status = declare(*file);
    if (status == DF_OK) status = df_file_provenance(*file, &facts);
    if (status == DF_OK) status = df_file_ready(*file);
    if (status != DF_OK) df_file_abandon(file, false);
    return status;
}

static float number(uint64_t i) {
    return (float)df_random_uniform(7, DF_STREAM_TEST, i);
}

// This rank's share of rows [first, end).
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
    status = df_file_agree(file, status);
    if (status == DF_OK) return df_file_finish(&file);
    df_file_abandon(&file, false);
    return status;
}

static bool numbers_are_right(const df_reader *reader) {
    float *found;
    if (df_reader_all(reader, "/sites/numbers", DF_F32, ROWS * 4, (void **)&found) != DF_OK)
        return false;
    bool right = true;
    for (size_t i = 0; i < ROWS * 4; i++) right = right && found[i] == number(i);
    df_free(found);
    return right;
}

static bool attributes_are_right(const df_reader *reader) {
    char *job = NULL, *empty = NULL, *end = NULL, *hosts = NULL;
    int64_t answer = 0;
    double mean = 0;
    bool right =
        df_reader_text(reader, "", "job", &job) == DF_OK && strcmp(job, "a: 1\nb: 2\n") == 0;
    right = right && df_reader_text(reader, "/", "empty", &empty) == DF_OK && empty[0] == '\0';
    right = right && df_reader_int(reader, "/about", "answer", &answer) == DF_OK && answer == -42;
    right =
        right && df_reader_real(reader, "/sites/numbers", "mean", &mean) == DF_OK && mean == 0.5;
    right = right && df_reader_text(reader, "/provenance", "end", &end) == DF_OK && end[0] == '2';
    right = right && df_reader_text(reader, "/provenance", "hosts", &hosts) == DF_OK;
    df_free(job);
    df_free(empty);
    df_free(end);
    df_free(hosts);
    return right;
}

static void a_written_file_reads_back(void **state) {
    (void)state;
    df_reader *reader = NULL;
    size_t before = df_memory_now();
    uint64_t digest = 0, shape[DF_MAX_DIMS];
    df_type type;
    char **names = NULL;
    size_t n = 0;
    df_test_all(world, write_whole(path) == DF_OK);
    df_test_all(world, !exists(part) && exists(path));
    df_test_all(world, df_reader_open(path, FORMAT, &reader) == DF_OK);
    df_test_all(world, numbers_are_right(reader) && attributes_are_right(reader));
    df_test_all(world, df_reader_find(reader, "/flat", 2, &type, shape) == DF_OK && shape[0] == 5 &&
                           shape[1] == 0);
    df_test_all(world,
                df_reader_rows(reader, "/sites/halves", 33, 1, true, (uint16_t[3]){0}) == DF_OK);
    df_test_all(world, df_reader_find(reader, "/sites/halves", 2, &type, NULL) == DF_OK &&
                           type == DF_BF16);
    df_test_all(world, df_reader_list(reader, "/sites", &names, &n) == DF_OK && n == 2);
    df_test_all(world, strcmp(names[0], "halves") == 0 && strcmp(names[1], "numbers") == 0);
    for (size_t i = 0; i < n; i++) df_free(names[i]);
    df_free(names);
    df_reader_close(&reader);
    df_test_all(world, df_digest(path, &digest) == DF_OK && digest == DIGEST);
    df_test_all(world, df_memory_now() == before);
}

static df_status write_by(df_comm *comm, const char *where) {
    const df_dataset spec = {"/group/0/W_enc", DF_F32, 2, {ROWS, 4}, "1", NULL, NULL};
    df_range mine = df_share(ROWS, df_comm_size(comm), df_comm_rank(comm));
    df_file *file;
    float *rows;
    DF_TRY(df_file_create(comm, where, FORMAT, &file));
    DF_TRY(df_file_dataset(file, &spec, NULL));
    DF_TRY(df_file_ready(file));
    DF_TRY(DF_NEW(rows, mine.count * 4));
    for (size_t i = 0; i < mine.count * 4; i++) rows[i] = number(mine.first * 4 + i);
    df_status status = df_file_write(file, 0, mine.first, mine.count, rows);
    df_free(rows);
    DF_TRY(df_file_agree(file, status));
    return df_file_finish(&file);
}

// Content is equal by the digest; here the very bytes of the file.
static void any_rank_count_writes_the_same_bytes(void **state) {
    (void)state;
    uint64_t together = 0, alone = 1;
    char own[500];
    df_comm *self = NULL;
    snprintf(own, sizeof own, "%s.%d", path, df_comm_rank(world));
    df_test_all(world, df_comm_self(&self) == DF_OK);
    df_test_all(world, write_by(world, path) == DF_OK && write_by(self, own) == DF_OK);
    df_test_all(world,
                df_hash_file(path, &together) == DF_OK && df_hash_file(own, &alone) == DF_OK);
    df_test_all(world, together == alone);
    df_comm_free(&self);
}

static void late_and_wrong_calls_are_refused(void **state) {
    (void)state;
    df_file *file = NULL;
    const df_dataset bad = {"no/slash", DF_U8, 1, {1}, NULL, NULL, NULL};
    const df_dataset huge = {"/huge", DF_U64, 2, {UINT64_MAX / 4, 9}, NULL, NULL, NULL};
    const df_dataset shadow = {"/checksums/x", DF_U8, 1, {1}, NULL, NULL, NULL};
    const df_dataset good = {"/x", DF_U8, 1, {4}, NULL, NULL, NULL};
    int id = -1;
    df_test_all(world, df_file_create(world, path, FORMAT, &file) == DF_OK);
    df_test_all(world, df_file_dataset(file, &bad, NULL) == DF_FAILED);
    df_test_all(world, df_file_dataset(file, &shadow, NULL) == DF_FAILED);
    df_test_all(world, df_file_dataset(file, &good, &id) == DF_OK && id == 0);
    df_test_all(world, df_file_dataset(file, &good, NULL) == DF_FAILED);
    df_test_all(world, df_file_text(file, "/x", "a", "") == DF_OK &&
                           df_file_text(file, "/x", "a", "") == DF_FAILED);
    df_test_all(world, df_file_set_real(file, "/x", "mean", 1) == DF_FAILED);
    df_test_all(world, df_file_write(file, 0, 0, 1, "x") == DF_FAILED);
    df_test_all(world, df_file_dataset(file, &huge, NULL) == DF_FAILED);
    df_file_abandon(&file, false);
    df_test_all(world, !exists(part) && !exists(path));
    df_error_clear();
}

/* ---- kills and resumes ---------------------------------------------------------------------- */

static void an_abandoned_file_is_resumed(void **state) {
    (void)state;
    df_file *file = NULL;
    df_reader *reader = NULL;
    size_t before = df_memory_now();
    uint64_t digest = 0;
    int id = -1;
    char *job = NULL;
    df_test_all(world, start(path, &file) == DF_OK);
    df_test_all(world, write_numbers(file, 0, 70001) == DF_OK && df_file_sync(file) == DF_OK);
    df_file_abandon(&file, true);
    df_test_all(world, exists(part) && !exists(path));
    df_test_all(world, df_reader_open(part, FORMAT, &reader) == DF_BAD_INPUT);
    df_test_all(world, strstr(df_error_text(), "incomplete") != NULL);
    df_test_all(world, df_file_resume(world, path, FORMAT, &file) == DF_OK && file != NULL);
    df_test_all(world, df_file_get_text(file, "/", "job", &job) == DF_OK &&
                           strcmp(job, "a: 1\nb: 2\n") == 0);
    df_free(job);
    df_test_all(world, df_file_id(file, "/sites/halves", &id) == DF_OK && id == 1);
    df_test_all(world, write_numbers(file, 70001, ROWS) == DF_OK && write_rest(file) == DF_OK);
    df_test_all(world, df_file_finish(&file) == DF_OK);
    df_test_all(world, df_digest(path, &digest) == DF_OK && digest == DIGEST);
    df_test_all(world, df_memory_now() == before);
}

static void resume_starts_anew_when_nothing_is_usable(void **state) {
    (void)state;
    df_file *file = NULL;
    df_test_all(world, df_file_resume(world, path, FORMAT, &file) == DF_OK && file == NULL);
    df_test_all(world, start(path, &file) == DF_OK);
    df_file_abandon(&file, true);
    df_test_all(world,
                df_file_resume(world, path, "darkfield-other", &file) == DF_OK && file == NULL);
    if (df_comm_rank(world) == 0 && truncate(part, 900) != 0) perror("truncate");
    df_barrier(world);
    df_test_all(world, df_file_resume(world, path, FORMAT, &file) == DF_OK && file == NULL);
    df_test_all(world, df_error_text()[0] == '\0');
}

// Killed between "complete" and the rename.
static void a_complete_part_is_opened_again(void **state) {
    (void)state;
    df_file *file = NULL;
    df_reader *reader = NULL;
    uint64_t digest = 0;
    df_test_all(world, write_whole(path) == DF_OK);
    if (df_comm_rank(world) == 0 && rename(path, part) != 0) perror("rename");
    df_barrier(world);
    df_test_all(world, df_file_resume(world, path, FORMAT, &file) == DF_OK && file != NULL);
    df_test_all(world, df_reader_open(part, FORMAT, &reader) == DF_BAD_INPUT);
    df_test_all(world, df_file_finish(&file) == DF_OK);
    df_test_all(world, df_digest(path, &digest) == DF_OK && digest == DIGEST);
}

/* ---- failures ------------------------------------------------------------------------------- */

// A limit on the size of files, on the last rank alone, stands for a disk that fails one node only.
static void a_write_that_fails_on_one_rank_ends_all(void **state) {
    (void)state;
    df_file *file = NULL;
    struct rlimit old, low = {.rlim_cur = 4096, .rlim_max = RLIM_INFINITY};
    bool last = df_comm_rank(world) == df_comm_size(world) - 1;
    df_test_all(world, start(path, &file) == DF_OK);
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &old);
    low.rlim_max = old.rlim_max;
    if (last) setrlimit(RLIMIT_FSIZE, &low);
    df_status mine = write_numbers(file, 0, ROWS);
    setrlimit(RLIMIT_FSIZE, &old);
    df_test_all(world, last ? mine == DF_FAILED : mine == DF_OK);
    df_test_all(world, df_file_agree(file, DF_OK) == DF_FAILED); // remembered
    df_test_all(world, strstr(df_error_text(), "/sites/numbers") != NULL);
    df_test_all(world, df_file_finish(&file) == DF_FAILED);
    df_test_all(world, file == NULL && !exists(part) && !exists(path));
    df_error_clear();
}

// Memory that fails on the last rank alone, anywhere from create to finish: all ranks leave
// together.
static void short_memory_on_one_rank_ends_all(void **state) {
    (void)state;
    size_t before = df_memory_now();
    bool last = df_comm_rank(world) == df_comm_size(world) - 1;
    for (int64_t call = 0;; call += 3) { // enough to come by every place
        df_file *file = NULL;
        df_memory_fail_after(last ? call : -1);
        df_status status = start(path, &file);
        if (status == DF_OK) status = df_file_agree(file, write_rest(file));
        if (status == DF_OK)
            status = df_file_finish(&file);
        else
            df_file_abandon(&file, false);
        df_memory_fail_after(-1);
        df_test_all(world, file == NULL && df_memory_now() == before);
        if (status == DF_OK) break;
        df_test_all(world, status == DF_FAILED && !exists(path) && !exists(part));
        df_test_all(world, call < 2000);
    }
    df_error_clear();
}

// HDF5 itself fails while it makes the structure: a dataset cannot hold another one.
static void a_structure_that_hdf5_refuses_ends_all(void **state) {
    (void)state;
    size_t before = df_memory_now();
    df_file *file = NULL;
    const df_dataset outer = {"/a", DF_U8, 1, {4}, NULL, NULL, NULL};
    const df_dataset inner = {"/a/b", DF_U8, 1, {4}, NULL, NULL, NULL};
    df_test_all(world, df_file_create(world, path, FORMAT, &file) == DF_OK);
    df_test_all(world, df_file_dataset(file, &outer, NULL) == DF_OK);
    df_test_all(world, df_file_dataset(file, &inner, NULL) == DF_OK);
    df_test_all(world, df_file_ready(file) == DF_FAILED);
    df_test_all(world, strstr(df_error_text(), "/a/b") != NULL);
    df_file_abandon(&file, false);
    df_test_all(world, !exists(part) && !exists(path) && df_memory_now() == before);
    df_error_clear();
}

// Ranks that take the file for different ones: in any order of their differences, all leave.
static void a_rank_that_declares_otherwise_ends_all(void **state) {
    (void)state;
    const df_dataset other = {"/other", DF_U8, 1, {4}, NULL, NULL, NULL};
    for (int odd = 0; odd < df_comm_size(world) && df_comm_size(world) > 1; odd++) {
        df_file *file = NULL;
        df_test_all(world, df_file_create(world, path, FORMAT, &file) == DF_OK);
        df_test_all(world, declare(file) == DF_OK);
        if (df_comm_rank(world) == odd && df_file_dataset(file, &other, NULL) != DF_OK)
            fprintf(stderr, "%s\n", df_error_text());
        df_test_all(world, df_file_ready(file) == DF_BAD_INPUT);
        df_test_all(world, strstr(df_error_text(), "layout") != NULL);
        df_file_abandon(&file, false);
        df_test_all(world, !exists(part));
        df_error_clear();
    }
}

static void a_folder_that_is_missing_is_named(void **state) {
    (void)state;
    df_file *file = NULL;
    df_test_all(world, df_file_create(world, "/no-such-folder/x.h5", FORMAT, &file) == DF_FAILED);
    df_test_all(world,
                file == NULL && strstr(df_error_text(), "/no-such-folder/x.h5.part") != NULL);
    df_error_clear();
}

static bool mount_small(char *where, size_t bytes) {
    char command[900];
    snprintf(where, bytes, "%s/small", folder);
    snprintf(command, sizeof command,
             "mkdir -p '%s' && mount -t tmpfs -o size=2m tmpfs '%s' 2>/dev/null", where, where);
    uint64_t failed = df_comm_rank(world) == 0 && (geteuid() != 0 || system(command) != 0);
    df_max_u64(world, &failed, 1);
    return failed == 0;
}

static void a_full_disk_is_said_before_any_row(void **state) {
    (void)state;
    char small[300], file_path[320], command[400];
    df_file *file = NULL;
    if (!mount_small(small, sizeof small)) {
        fprintf(stderr, "SKIPPED: a full disk needs root to mount a small tmpfs\n");
        skip();
    }
    snprintf(file_path, sizeof file_path, "%s/x.h5", small);
    df_status status = start(file_path, &file); // 3.2 MB into 2 MB
    bool said = strstr(df_error_text(), "not enough disk space") != NULL;
    bool left = exists(file_path);
    snprintf(command, sizeof command, "test -z \"$(ls -A '%s')\"", small);
    bool empty = df_comm_rank(world) != 0 || system(command) == 0;
    snprintf(command, sizeof command, "umount '%s'", small);
    df_barrier(world);
    if (df_comm_rank(world) == 0 && system(command) != 0) perror("umount");
    df_test_all(world, status == DF_FAILED && said && file == NULL && !left && empty);
    df_error_clear();
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test_setup(a_written_file_reads_back, set_up),
    cmocka_unit_test_setup(any_rank_count_writes_the_same_bytes, set_up),
    cmocka_unit_test_setup(late_and_wrong_calls_are_refused, set_up),
    cmocka_unit_test_setup(an_abandoned_file_is_resumed, set_up),
    cmocka_unit_test_setup(resume_starts_anew_when_nothing_is_usable, set_up),
    cmocka_unit_test_setup(a_complete_part_is_opened_again, set_up),
    cmocka_unit_test_setup(a_write_that_fails_on_one_rank_ends_all, set_up),
    cmocka_unit_test_setup(short_memory_on_one_rank_ends_all, set_up),
    cmocka_unit_test_setup(a_structure_that_hdf5_refuses_ends_all, set_up),
    cmocka_unit_test_setup(a_rank_that_declares_otherwise_ends_all, set_up),
    cmocka_unit_test_setup(a_folder_that_is_missing_is_named, set_up),
    cmocka_unit_test_setup(a_full_disk_is_said_before_any_row, set_up),
};

DF_TEST_MPI_MAIN(world, tests, NULL, NULL)
