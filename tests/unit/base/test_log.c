/* The log: who speaks, what is remembered, how numbers and progress look. */
#define _XOPEN_SOURCE 700 // posix_openpt
#include "df_test.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

// ---- catching an output stream in a file -------------------------------------------------------

typedef struct catcher {
    FILE *stream;
    int saved;
    char path[300];
} catcher;

static void catch (catcher *c, FILE *stream) {
    snprintf(c->path, sizeof c->path, "%s/caught", df_test_folder("log"));
    c->stream = stream;
    fflush(stream);
    c->saved = dup(fileno(stream));
    int file = open(c->path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(c->saved >= 0 && file >= 0);
    assert_true(dup2(file, fileno(stream)) >= 0);
    close(file);
}

static char *caught(catcher *c) {
    char *text = NULL;
    size_t bytes;
    fflush(c->stream);
    assert_true(dup2(c->saved, fileno(c->stream)) >= 0);
    close(c->saved);
    assert_ok(df_read_file(c->path, &text, &bytes));
    return text;
}

// ---- tests -------------------------------------------------------------------------------------

static void test_info(void **state) {
    (void)state;
    catcher c;
    catch (&c, stdout);
    df_info("harvest %d", 1);
    df_log_rank(2);
    df_info("harvest %d", 2);
    df_log_rank(0);
    df_log_quiet(true);
    df_info("harvest %d", 3);
    df_log_quiet(false);
    char *text = caught(&c);
    assert_string_equal(text, "harvest 1\n");
    df_free(text);
}

static void test_warnings(void **state) {
    (void)state;
    catcher c;
    size_t before = df_warnings();
    catch (&c, stderr);
    for (int i = 0; i < 25; i++) df_warn("row %d is odd", i);
    df_log_rank(1);
    df_warn("rank 1 is counted, not heard");
    df_log_rank(0);
    char *text = caught(&c);
    assert_int_equal(df_warnings() - before, 26);
    assert_non_null(strstr(text, "warning: row 24 is odd\n"));
    assert_null(strstr(text, "heard"));
    df_free(text);
    catch (&c, stdout);
    df_warnings_repeat();
    text = caught(&c);
    assert_non_null(strstr(text, "26 warnings:\n  row 0 is odd\n"));
    assert_non_null(strstr(text, "  and 6 more"));
    df_free(text);
}

static void test_error_print(void **state) {
    (void)state;
    catcher c;
    catch (&c, stderr);
    (void)df_fail(DF_BAD_INPUT, "x.h5: damaged");
    df_error_print(DF_BAD_INPUT);
    df_log_rank(3);
    df_error_print(DF_STOPPED);
    df_log_rank(0);
    df_error_clear();
    char *text = caught(&c);
    assert_string_equal(text, "darkfield: bad input: x.h5: damaged\n"
                              "darkfield: rank 3: stopped: x.h5: damaged\n");
    df_free(text);
}

static void test_parse_bytes(void **state) {
    (void)state;
    static const struct {
        const char *text;
        uint64_t bytes;
    } good[] = {{"0", 0},         {"512", 512},          {"64GB", 64000000000},
                {"1.5KiB", 1536}, {"2 MiB", 2097152},    {"3k", 3000},
                {"7B", 7},        {"1TB", 1000000000000}};
    static const char *const bad[] = {"",     "GB",    "-1GB", "64 apples",
                                      "1e30", "5KiBB", "nan",  "1Gi B"};
    uint64_t bytes;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        assert_true(df_parse_bytes(good[i].text, &bytes) && bytes == good[i].bytes);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(df_parse_bytes(bad[i], &bytes));
}

static void test_human_bytes(void **state) {
    (void)state;
    static const struct {
        double bytes;
        const char *text;
    } cases[] = {{0, "0 B"},
                 {1023, "1023 B"},
                 {1024, "1.0 KiB"},
                 {1.5 * 0x1p30, "1.5 GiB"},
                 {1048575, "1.0 MiB"},
                 {0x1p62, "4.0 EiB"},
                 {1e300, "?"},
                 {-1, "?"},
                 {NAN, "?"}};
    char out[16];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        df_human_bytes(cases[i].bytes, out);
        assert_string_equal(out, cases[i].text);
    }
}

static void test_human_time(void **state) {
    (void)state;
    static const struct {
        double seconds;
        const char *text;
    } cases[] = {{0, "0 ms"},
                 {0.0125, "12.5 ms"},
                 {0.9996, "1.0 s"},
                 {12.34, "12.3 s"},
                 {59.97, "1 m 00 s"},
                 {123, "2 m 03 s"},
                 {3599.9, "1 h 00 m"},
                 {3725, "1 h 02 m"},
                 {200000, "2 d 07 h"},
                 {1e9, "11574 d 01 h"},
                 {INFINITY, "?"},
                 {NAN, "?"},
                 {-1, "?"}};
    char out[16];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        df_human_time(cases[i].seconds, out);
        assert_string_equal(out, cases[i].text);
    }
}

static void test_clock(void **state) {
    (void)state;
    char text[32];
    int year, month, day, hour, minute, second;
    double before = df_now();
    assert_true(df_now() >= before);
    df_iso_time(text);
    assert_int_equal(
        sscanf(text, "%d-%d-%dT%d:%d:%d+00:00", &year, &month, &day, &hour, &minute, &second), 6);
    assert_int_equal(strlen(text), 25);
}

static void test_progress_in_a_log(void **state) {
    (void)state;
    catcher c;
    df_progress p;
    catch (&c, stdout);
    df_progress_start(&p, "harvest", "rows", 1000, 2000);
    assert_false(p.terminal);
    df_progress_at(&p, 1001, NULL); // too early: silent
    p.interval = 0;
    df_progress_at(&p, 1500, "FVU 0.31");
    df_progress_end(&p, 2000);
    char *text = caught(&c);
    assert_ptr_equal(strstr(text, "harvest  75% 1500/2000 rows, "), text);
    assert_non_null(strstr(text, " left, FVU 0.31\nharvest: 1000 rows in "));
    df_free(text);
}

static void test_bar(void **state) {
    (void)state;
    catcher c;
    df_progress p;
    catch (&c, stdout);
    df_progress_start(&p, "train", "tokens", 0, 4000000);
    p.terminal = true;
    p.interval = 0;
    df_progress_at(&p, 1000000, NULL);
    df_info("a line between");
    df_progress_at(&p, 9000000, NULL); // more than planned is no harm
    df_progress_end(&p, 4000000);
    char *text = caught(&c);
    assert_ptr_equal(strstr(text, "train [######------------------]  25% 1M/4M tokens, "), text);
    assert_non_null(
        strstr(text, "left\r\033[Ka line between\ntrain [########################] 100%"));
    assert_int_equal(text[strlen(text) - 1], '\n');
    df_free(text);
}

// On a terminal of 40 columns nothing is wrapped.
static void test_bar_fits(void **state) {
    (void)state;
    int terminal = posix_openpt(O_RDWR | O_NOCTTY), kept = dup(STDOUT_FILENO);
    assert_int_equal(grantpt(terminal) | unlockpt(terminal), 0);
    int other = open(ptsname(terminal), O_RDWR | O_NOCTTY);
    struct winsize size = {.ws_row = 10, .ws_col = 40};
    assert_int_equal(ioctl(other, TIOCSWINSZ, &size), 0);
    dup2(other, STDOUT_FILENO);
    df_progress p;
    df_progress_start(&p, "train", "tokens", 0, 4000000);
    p.terminal = true;
    p.interval = 0;
    df_progress_at(&p, 1000000, "a note that is far too long for the width");
    char text[400] = "";
    ssize_t n = read(terminal, text, sizeof text - 1);
    dup2(kept, STDOUT_FILENO);
    close(kept);
    close(other);
    close(terminal);
    assert_int_equal(n, 39);
    assert_ptr_equal(strstr(text, "train [######------------------]  25% "), text);
    df_info("the bar is gone");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_info),        cmocka_unit_test(test_warnings),
        cmocka_unit_test(test_error_print), cmocka_unit_test(test_human_bytes),
        cmocka_unit_test(test_parse_bytes), cmocka_unit_test(test_human_time),
        cmocka_unit_test(test_clock),       cmocka_unit_test(test_progress_in_a_log),
        cmocka_unit_test(test_bar),         cmocka_unit_test(test_bar_fits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
