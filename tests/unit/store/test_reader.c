/* Reading what may be damaged: every flipped byte, every length, the wrong kind of file,
 * dictionaries that disagree. */
#define DF_TEST_MPI
#include "df_test.h"

#include "darkfield/store.h"

#include <fcntl.h>
#include <unistd.h>

#define FORMAT "darkfield-test"
#define ROWS 3000 /* of 1 KiB: 1024 rows a block */

static df_comm *world; // one rank
static char folder[256], path[400], broken[420];

static df_status write_file(void) {
    const df_dataset spec = {"/sites/x", DF_F32, 2, {ROWS, 256}, NULL, NULL, NULL};
    const df_dataset small = {"/small", DF_U32, 1, {5}, NULL, NULL, NULL};
    df_file *file;
    float *rows;
    DF_TRY(df_file_create(world, path, FORMAT, &file));
    DF_TRY(df_file_dataset(file, &spec, NULL));
    DF_TRY(df_file_dataset(file, &small, NULL));
    DF_TRY(df_file_text(file, "/", "job", "steps: 4\nseed: 1\n"));
    DF_TRY(df_file_ready(file));
    DF_TRY(DF_NEW(rows, ROWS * 256));
    for (size_t i = 0; i < ROWS * 256; i++) rows[i] = (float)i;
    df_status status = df_file_write(file, 0, 0, ROWS, rows);
    df_free(rows);
    DF_TRY(status);
    DF_TRY(df_file_write(file, 1, 0, 5, (uint32_t[5]){1, 2, 3, 4, 5}));
    return df_file_finish(&file);
}

static int set_up(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "%s", df_test_folder("store-reader"));
    snprintf(path, sizeof path, "%s/x.h5", folder);
    snprintf(broken, sizeof broken, "%s/broken.h5", folder);
    return write_file() == DF_OK ? 0 : -1;
}

static void spill(const char *to, const char *bytes, size_t n) {
    FILE *file = fopen(to, "wb");
    assert_non_null(file);
    assert_true(fwrite(bytes, 1, n, file) == n && fclose(file) == 0);
}

static uint64_t offset_of(const char *dataset) {
    df_reader *reader;
    uint64_t offset;
    assert_ok(df_reader_open(path, FORMAT, &reader));
    assert_ok(df_reader_offset(reader, dataset, &offset));
    df_reader_close(&reader);
    return offset;
}

static void a_flipped_byte_is_found_and_named(void **state) {
    (void)state;
    char *bytes, *summary = NULL;
    size_t n;
    float row[256];
    df_reader *reader;
    uint64_t offset = offset_of("/sites/x"), digest;
    assert_ok(df_read_file(path, &bytes, &n));
    bytes[offset + 2047 * 1024] ^= 4;
    spill(broken, bytes, n);
    df_free(bytes);
    assert_ok(df_reader_open(broken, FORMAT, &reader));
    assert_ok(df_reader_rows(reader, "/sites/x", 1023, 1, true, row));
    assert_ok(df_reader_rows(reader, "/sites/x", 2048, 1, true, row));
    assert_ok(df_reader_rows(reader, "/sites/x", 1500, 1, false, row));
    assert_fails(df_reader_rows(reader, "/sites/x", 1500, 1, true, row), DF_BAD_INPUT,
                 "/sites/x is damaged in block 1 (rows 1024 to 2047)");
    df_reader_close(&reader);
    assert_fails(df_digest(broken, &digest), DF_BAD_INPUT, "/sites/x");
    assert_fails(df_check(broken, &summary), DF_BAD_INPUT, "block 1");
    assert_null(summary);
}

static void every_truncation_is_refused(void **state) {
    (void)state;
    char *bytes;
    size_t n;
    assert_ok(df_read_file(path, &bytes, &n));
    spill(broken, bytes, n);
    df_free(bytes);
    for (size_t length = n - 1;; length = length > 4000 ? length - 4000 + length % 7 : length - 1) {
        df_reader *reader = NULL;
        assert_int_equal(truncate(broken, (off_t)length), 0);
        assert_fails(df_reader_open(broken, FORMAT, &reader), DF_BAD_INPUT, "broken.h5");
        assert_null(reader);
        if (length == 0) break;
        if (length < 3200) length -= length > 60 ? 50 : 0;
    }
}

// One byte anywhere outside the raw data.
static void flipped_structure_is_refused(void **state) {
    (void)state;
    char *bytes, *summary;
    size_t n;
    uint64_t first = offset_of("/sites/x"), end = first + ROWS * 1024;
    assert_ok(df_read_file(path, &bytes, &n));
    spill(broken, bytes, n);
    int descriptor = open(broken, O_RDWR);
    for (size_t at = 0; at < n; at++) {
        if (at >= first && at < end) continue;
        char flipped = (char)(bytes[at] ^ (1 << (at % 8)));
        assert_int_equal(pwrite(descriptor, &flipped, 1, (off_t)at), 1);
        assert_fails(df_check(broken, &summary), DF_BAD_INPUT, "broken.h5");
        assert_int_equal(pwrite(descriptor, bytes + at, 1, (off_t)at), 1);
    }
    close(descriptor);
    df_free(bytes);
    assert_ok(df_check(broken, &summary)); // as it was
    df_free(summary);
}

static void other_files_are_refused(void **state) {
    (void)state;
    df_reader *reader;
    assert_fails(df_reader_open(path, "darkfield-dictionary", &reader), DF_BAD_INPUT,
                 "expected format darkfield-dictionary, found darkfield-test");
    spill(broken, "{\"text\": \"no HDF5\"}", 19);
    assert_fails(df_reader_open(broken, NULL, &reader), DF_BAD_INPUT,
                 "expected an HDF5 file of darkfield");
    assert_fails(df_reader_open(folder, NULL, &reader), DF_BAD_INPUT, "folder");
    assert_fails(df_reader_open("/no/such/file.h5", NULL, &reader), DF_BAD_INPUT,
                 "/no/such/file.h5");
}

static void what_is_asked_must_be_there(void **state) {
    (void)state;
    df_reader *reader;
    uint64_t shape[DF_MAX_DIMS];
    void *data;
    char *text, **names;
    int64_t number;
    size_t n;
    assert_ok(df_reader_open(path, NULL, &reader));
    assert_string_equal(df_reader_path(reader), path);
    assert_true(df_reader_has(reader, "/small") && !df_reader_has(reader, "/sites"));
    assert_fails(df_reader_find(reader, "/smal", 1, NULL, shape), DF_BAD_INPUT,
                 "nearest is /small");
    assert_fails(df_reader_find(reader, "/small", 2, NULL, shape), DF_BAD_INPUT,
                 "expected 2 dimensions");
    assert_fails(df_reader_rows(reader, "/small", 4, 2, true, shape), DF_BAD_INPUT, "rows 4 to 6");
    assert_fails(df_reader_rows(reader, "/small", 6, 0, true, shape), DF_BAD_INPUT, "which has 5");
    assert_fails(df_reader_rows(reader, "/small", 1, UINT64_MAX, true, shape), DF_BAD_INPUT,
                 "rows 1");
    assert_fails(df_reader_all(reader, "/small", DF_F32, -1, &data), DF_BAD_INPUT,
                 "expected /small");
    assert_fails(df_reader_all(reader, "/small", DF_U32, 4, &data), DF_BAD_INPUT, "found 5");
    assert_fails(df_reader_text(reader, "/", "jop", &text), DF_BAD_INPUT, "no attribute jop");
    assert_fails(df_reader_int(reader, "/", "job", &number), DF_BAD_INPUT, "expected an integer");
    assert_fails(df_reader_list(reader, "/nothing", &names, &n), DF_BAD_INPUT, "/nothing");
    df_reader_close(&reader);
}

static void a_job_is_current_or_says_why_not(void **state) {
    (void)state;
    char *why = NULL;
    assert_true(df_file_is_current(path, FORMAT, "steps: 4\nseed: 1\n", &why));
    assert_null(why);
    assert_false(df_file_is_current(path, FORMAT, "steps: 4\nseed: 2\n", &why));
    assert_non_null(strstr(why, "\"seed: 1\", this one has \"seed: 2\""));
    df_free(why);
    assert_false(df_file_is_current("/no/file.h5", FORMAT, "", NULL));
    assert_string_equal(df_error_text(), "");
}

/* ---- dictionaries --------------------------------------------------------------------------- */

static void write_dictionary(uint64_t decoder_rows, uint64_t bias) {
    const df_dataset specs[] = {
        {"/group/0/W_enc", DF_F32, 2, {8, 6}, NULL, NULL, NULL},
        {"/group/0/W_dec", DF_F32, 2, {decoder_rows, 6}, NULL, NULL, NULL},
        {"/group/0/b_enc", DF_F32, 1, {8}, NULL, NULL, NULL},
        {"/b_dec", DF_F32, 1, {bias}, NULL, NULL, NULL},
        {"/history/step", DF_F64, 1, {3}, NULL, NULL, NULL},
        {"/history/loss", DF_F64, 1, {3}, NULL, NULL, NULL},
    };
    df_file *file;
    assert_ok(df_file_create(world, broken, "darkfield-dictionary", &file));
    for (size_t i = 0; i < 6; i++) assert_ok(df_file_dataset(file, &specs[i], NULL));
    assert_ok(df_file_ready(file));
    assert_ok(df_file_finish(&file));
}

static void dictionaries_are_checked(void **state) {
    (void)state;
    char *summary;
    write_dictionary(8, 6);
    assert_ok(df_check(broken, &summary));
    assert_non_null(strstr(summary, "/group/0: 8 latents, reads 6 columns, writes 6"));
    df_free(summary);
    write_dictionary(7, 6);
    assert_fails(df_check(broken, &summary), DF_BAD_INPUT,
                 "extent 0 of /group/0/W_dec is 7, expected 8");
    write_dictionary(8, 5);
    assert_fails(df_check(broken, &summary), DF_BAD_INPUT, "wider");
}

// Memory that fails anywhere while opening and checking: a status, no leak, no crash.
static void failing_memory_is_survived(void **state) {
    (void)state;
    char *summary = NULL;
    size_t before = df_memory_now();
    for (int64_t call = 0;; call++) {
        df_memory_fail_after(call);
        df_status status = df_check(path, &summary);
        df_memory_fail_after(-1);
        if (status == DF_OK) break;
        assert_int_equal(status, DF_FAILED);
        assert_true(df_memory_now() == before);
        assert_true(call < 10000);
    }
    df_free(summary);
    df_error_clear();
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(a_flipped_byte_is_found_and_named),
    cmocka_unit_test(every_truncation_is_refused),
    cmocka_unit_test(flipped_structure_is_refused),
    cmocka_unit_test(other_files_are_refused),
    cmocka_unit_test(what_is_asked_must_be_there),
    cmocka_unit_test(a_job_is_current_or_says_why_not),
    cmocka_unit_test(dictionaries_are_checked),
    cmocka_unit_test(failing_memory_is_survived),
};

DF_TEST_MPI_MAIN(world, tests, set_up, NULL)
