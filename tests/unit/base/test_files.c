/* Small files: read back what was written, and nothing under either name when writing fails. */
#include "df_test.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static char *folder;

static char *in_folder(const char *name) {
    char *path = df_format("%s/%s", folder, name);
    assert_non_null(path);
    return path;
}

static bool temporary_left(const char *path) {
    char *temporary = df_format("%s.tmp", path);
    bool left = df_file_exists(temporary);
    df_free(temporary);
    return left;
}

static void check_content(const char *path, const void *data, size_t bytes) {
    char *text = NULL;
    size_t n = 0;
    assert_ok(df_read_file(path, &text, &n));
    assert_int_equal(n, bytes);
    assert_memory_equal(text, data, bytes);
    assert_int_equal(text[n], 0);
    df_free(text);
}

static void test_round_trip(void **state) {
    (void)state;
    char *path = in_folder("file");
    static const size_t sizes[] = {0, 1, 4095, 4096, 4097, 1000000};
    char *data = df_alloc(1000000, 1);
    for (size_t i = 0; i < 1000000; i++) data[i] = (char)(i * 7 % 251);
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        assert_ok(df_write_file(path, data, sizes[s]));
        check_content(path, data, sizes[s]);
        assert_false(temporary_left(path));
    }
    df_free(data);
    df_free(path);
}

static void test_pipe(void **state) {
    (void)state;
    int ends[2];
    char name[64], *text = NULL, sent[6000];
    size_t n = 0;
    memset(sent, 'p', sizeof sent);
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(write(ends[1], sent, sizeof sent), sizeof sent);
    close(ends[1]);
    snprintf(name, sizeof name, "/dev/fd/%d", ends[0]);
    assert_ok(df_read_file(name, &text, &n));
    close(ends[0]);
    assert_int_equal(n, sizeof sent);
    df_free(text);
}

static void test_read_errors(void **state) {
    (void)state;
    char *none = in_folder("none"), *text = (char *)1;
    size_t n = 1;
    assert_fails(df_read_file(none, &text, &n), DF_BAD_INPUT, none);
    assert_null(text);
    assert_fails(df_read_file(folder, &text, &n), DF_BAD_INPUT, "folder");
    df_memory_fail_after(0);
    assert_fails(df_read_file("/proc/self/status", &text, &n), DF_FAILED, "out of memory");
    assert_null(text);
    df_free(none);
}

// A file system that is full is played by a limit on the size of files.
static void test_full_disk(void **state) {
    (void)state;
    char *path = in_folder("kept");
    struct rlimit old, small;
    assert_ok(df_write_file(path, "old", 3));
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = old;
    small.rlim_cur = 5000;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    char *data = df_alloc(100000, 1);
    df_status status = df_write_file(path, data, 100000);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_fails(status, DF_FAILED, "cannot write");
    assert_false(temporary_left(path));
    check_content(path, "old", 3);
    df_free(data);
    df_free(path);
}

static void test_write_errors(void **state) {
    (void)state;
    char *taken = in_folder("taken/full"), *path = in_folder("taken"),
         *lost = in_folder("no/where");
    assert_ok(df_make_folder(taken));
    assert_fails(df_write_file(path, "x", 1), DF_FAILED, path);
    assert_false(temporary_left(path));
    assert_fails(df_write_file(lost, "x", 1), DF_FAILED, "cannot create");
    for (int64_t k = 0; k < 2; k++) {
        char *file = in_folder("memory");
        df_memory_fail_after(k);
        assert_fails(df_write_file(file, "x", 1), DF_FAILED, "out of memory");
        assert_false(temporary_left(file));
        df_free(file);
    }
    df_free(taken);
    df_free(path);
    df_free(lost);
}

static void test_relative_and_root(void **state) {
    (void)state;
    assert_int_equal(chdir(folder), 0);
    assert_ok(df_write_file("here", "h", 1));
    check_content("here", "h", 1);
    assert_ok(df_make_folder("a/b//c/"));
    assert_ok(df_make_folder("a/b/c"));
    assert_ok(df_make_folder("/"));
    assert_true(df_file_exists("a/b/c"));
    assert_fails(df_make_folder("here/below"), DF_FAILED, "here");
    assert_fails(df_make_folder("here"), DF_FAILED, "here");
    assert_fails(df_make_folder(""), DF_FAILED, "empty");
    assert_false(df_file_exists("nowhere"));
}

static int setup(void **state) {
    (void)state;
    folder = df_strdup(df_test_folder("files"));
    return folder == NULL;
}

static int teardown(void **state) {
    (void)state;
    df_free(folder);
    return df_memory_now() != 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),   cmocka_unit_test(test_pipe),
        cmocka_unit_test(test_read_errors),  cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_write_errors), cmocka_unit_test(test_relative_and_root),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
