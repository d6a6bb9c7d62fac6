/* df_test.h: cmocka with what our tests need on top: status checks, closeness, and asserts that all
 * ranks leave together. An MPI test evaluates locally and then calls df_test_all: a plain assert
 * that fails on one rank would leave the others waiting in the next collective. */
#ifndef DF_TEST_H
#define DF_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka needs the four headers above */
#include <cmocka.h>

#include "darkfield/base.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The call succeeds; otherwise the recorded failure is shown. */
#define assert_ok(call)                                                                            \
    do {                                                                                           \
        df_status status_ = (call);                                                                \
        if (status_ != DF_OK) {                                                                    \
            print_error("%s: status %d: %s\n", #call, (int)status_, df_error_text());              \
            _fail(__FILE__, __LINE__);                                                             \
        }                                                                                          \
    } while (0)

/* Whether a call failed as expected, its text holding `part`; what came instead is shown. */
static inline bool df_test_fails(df_status status, df_status expected, const char *part) {
    bool good = status == expected && strstr(df_error_text(), part) != NULL;
    if (!good)
        print_error("status %d, text \"%s\"; expected %d with \"%s\"\n", (int)status,
                    df_error_text(), (int)expected, part);
    df_error_clear();
    return good;
}

/* The call fails with `code` and its text holds `part`. */
#define assert_fails(call, code, part)                                                             \
    do {                                                                                           \
        if (!df_test_fails((call), (code), (part))) {                                              \
            print_error("%s\n", #call);                                                            \
            _fail(__FILE__, __LINE__);                                                             \
        }                                                                                          \
    } while (0)

/* |a - b| <= absolute + relative * |b|, NaN never. */
#define assert_close(a, b, relative, absolute)                                                     \
    do {                                                                                           \
        double a_ = (double)(a), b_ = (double)(b);                                                 \
        if (!(fabs(a_ - b_) <= (absolute) + (relative)*fabs(b_))) {                                \
            print_error("%s = %.17g, %s = %.17g, difference %.3g\n", #a, a_, #b, b_, a_ - b_);     \
            _fail(__FILE__, __LINE__);                                                             \
        }                                                                                          \
    } while (0)

/* A JSON file, such as an oracle's; json_decref it. */
static inline json_t *df_test_json(const char *path) {
    char *text;
    size_t bytes;
    json_t *root = NULL;
    assert_ok(df_read_file(path, &text, &bytes));
    assert_ok(df_json_parse(text, bytes, path, &root));
    df_free(text);
    return root;
}

/* The larger of two; NaN where either is, which fmax would drop. */
static inline double df_test_worse(double a, double b) {
    return a > b || isnan(a) ? a : b;
}

/* All files of this process, so that test programs may run side by side; gone when it ends. */
static inline const char *df_test_root(void) {
    static char root[120];
    const char *above = getenv("TMPDIR");
    if (above == NULL || strlen(above) > 80)
        above = "/tmp"; // never a name cut short: it is removed
    snprintf(root, sizeof root, "%s/darkfield-test-%ld", above, (long)getpid());
    return root;
}

static inline void df_test_clean_up(void) {
    char command[300];
    snprintf(command, sizeof command, "rm -rf '%s'", df_test_root());
    if (system(command) != 0) fprintf(stderr, "%s cannot be removed\n", df_test_root());
}

/* A folder of its own for a test's files, made anew; belongs to a static buffer. */
static inline const char *df_test_folder(const char *name) {
    static char path[256];
    static bool known;
    if (!known) known = atexit(df_test_clean_up) == 0;
    snprintf(path, sizeof path, "%s/%.127s", df_test_root(), name);
    char command[600];
    snprintf(command, sizeof command, "rm -rf '%s' && mkdir -p '%s'", path, path);
    if (system(command) != 0) _fail(__FILE__, __LINE__);
    return path;
}

/* Initialises the df_provenance of a file that nobody asks where it comes from. */
#define DF_TEST_FACTS                                                                              \
    {                                                                                              \
        .command = "test", .hosts = "here", .kernel_path = "", .volatile_options = "",             \
        .commit = "", .build = ""                                                                  \
    }

#ifdef DF_TEST_MPI
#include "darkfield/comm.h"

/* True on every rank, or the test fails on every rank. */
#define df_test_all(comm, condition)                                                               \
    do {                                                                                           \
        bool mine_ = (condition);                                                                  \
        if (!mine_)                                                                                \
            fprintf(stderr, "[rank %d] %s:%d: %s is false; pending failure: %s\n",                 \
                    df_comm_rank(comm), __FILE__, __LINE__, #condition, df_error_text());          \
        uint64_t bad_ = mine_ ? 0 : 1;                                                             \
        df_max_u64(comm, &bad_, 1);                                                                \
        if (bad_ != 0) _fail(__FILE__, __LINE__);                                                  \
    } while (0)

/* A status that every rank has alike, or the test fails on every rank. */
#define df_test_alike(comm, status)                                                                \
    do {                                                                                           \
        uint64_t alike_[2] = {(uint64_t)(status), 0};                                              \
        alike_[1] = ~alike_[0];                                                                    \
        df_max_u64(comm, alike_, 2);                                                               \
        df_test_all(comm, alike_[0] == ~alike_[1]);                                                \
    } while (0)

/* A folder that rank 0 made, on every rank. New memory. */
static inline char *df_test_shared_folder(df_comm *comm, const char *name) {
    char text[300] = "";
    if (df_comm_rank(comm) == 0) snprintf(text, sizeof text, "%s", df_test_folder(name));
    df_broadcast(comm, 0, text, sizeof text);
    return df_strdup(text);
}

/* main of an MPI test program: one group (set_up and tear_down may be NULL), output of rank 0 only,
 * one exit code for all ranks. */
#define DF_TEST_MPI_MAIN(world, tests, set_up, tear_down)                                          \
    int main(int argc, char **argv) {                                                              \
        if (df_comm_start(&argc, &argv, &(world)) != DF_OK) return 1;                              \
        if (df_comm_rank(world) != 0 && freopen("/dev/null", "w", stdout) == NULL) return 1;       \
        uint64_t failed = (uint64_t)cmocka_run_group_tests(tests, set_up, tear_down);              \
        df_max_u64(world, &failed, 1);                                                             \
        df_comm_finish(&(world));                                                                  \
        return failed != 0;                                                                        \
    }
#endif

#endif
