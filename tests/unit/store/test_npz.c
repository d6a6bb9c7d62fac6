/* npz archives: what numpy wrote is read, stored or deflated, in C or Fortran order; lies, bombs,
 * truncations and mutations are refused. */
#include "df_test.h"

#include "darkfield/store.h"

#include <zlib.h>

#define GOLDEN DF_SOURCE_DIR "/tests/golden/convert/npz/"

static char path[400];
static char *bytes;
static size_t size;

static void load(const char *name) {
    char *full = df_format(GOLDEN "%s", name);
    df_free(bytes);
    assert_ok(df_read_file(full, &bytes, &size));
    df_free(full);
}

static void spill(size_t n) {
    FILE *file = fopen(path, "wb");
    assert_true(file != NULL && fwrite(bytes, 1, n, file) == n && fclose(file) == 0);
}

static int set_up(void **state) {
    (void)state;
    snprintf(path, sizeof path, "%s/case.npz", df_test_folder("store-npz"));
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    df_free(bytes);
    return 0;
}

static double element(const df_tensor *t, uint64_t i) {
    const char *at = (const char *)t->data + i * df_type_bytes(t->type);
    float single;
    if (t->type == DF_I64) {
        int64_t integer;
        memcpy(&integer, at, sizeof integer);
        return (double)integer;
    }
    df_to_f32(t->type, at, &single, 1);
    return (double)single;
}

// Element i is i (i + 1) / 2: as the script that made the files has it.
static void expect(const df_tensors *all, const char *name, df_type type, const uint64_t shape[4],
                   int dims) {
    const df_tensor *t = df_tensors_find(all, name);
    assert_non_null(t);
    assert_true(t->type == type && t->dims == dims);
    for (int d = 0; d < dims; d++) assert_int_equal(t->shape[d], shape[d]);
    for (uint64_t i = 0; i < t->elements; i++)
        assert_close(element(t, i), (double)(i * (i + 1) / 2), 0, 0);
}

static void expect_all(const char *file) {
    df_tensors *all;
    assert_ok(df_tensors_open(file, &all));
    assert_int_equal(df_tensors_count(all), 7);
    expect(all, "W_enc", DF_F32, (const uint64_t[4]){5, 7}, 2);
    expect(all, "W_dec", DF_F32, (const uint64_t[4]){7, 5}, 2);
    expect(all, "b_enc", DF_F64, (const uint64_t[4]){7}, 1);
    expect(all, "half", DF_F16, (const uint64_t[4]){2, 3, 4}, 3);
    expect(all, "cube", DF_I64, (const uint64_t[4]){2, 3, 4}, 3);
    const df_tensor *k = df_tensors_find(all, "k"), *none = df_tensors_find(all, "none");
    assert_true(k->type == DF_I32 && k->dims == 0 && k->elements == 1 &&
                *(const char *)k->data == 0);
    assert_true(none->dims == 2 && none->elements == 0 && none->shape[1] == 3);
    df_tensors_close(&all);
}

static void numpys_archives_are_read(void **state) {
    (void)state;
    size_t before = df_memory_now();
    expect_all(GOLDEN "stored.npz");
    expect_all(GOLDEN "deflated.npz");
    assert_int_equal(df_memory_now(), before);
}

static void refused(const char *because) {
    df_tensors *all;
    size_t before = df_memory_now();
    assert_fails(df_tensors_open(path, &all), DF_BAD_INPUT, because);
    assert_null(all);
    assert_int_equal(df_memory_now(), before);
}

static void other_byte_orders_and_bombs_are_refused(void **state) {
    (void)state;
    load("big_endian.npz");
    spill(size);
    refused("type \">f4\" is not known");
    load("bomb.npz");
    spill(size);
    refused("more than 100 times the whole archive");
}

// The first place of a text in the file.
static char *find(const char *text, size_t n) {
    for (size_t i = 0; i + n <= size; i++)
        if (memcmp(bytes + i, text, n) == 0) return bytes + i;
    fail_msg("the golden file lacks %s", text);
    return NULL;
}

static size_t number(const char *at, size_t n) {
    size_t value = 0;
    for (size_t i = n; i-- > 0;) value = value << 8 | (unsigned char)at[i];
    return value;
}

// The checksum of the first member (W_enc.npy), in the directory, made to fit its bytes again.
static void mend_checksum(void) {
    char *entry = find("PK\1\2", 4),
         *data = bytes + 30 + number(bytes + 26, 2) + number(bytes + 28, 2);
    uLong crc = crc32(0, (const Bytef *)data, (uInt)number(entry + 20, 4));
    for (size_t i = 0; i < 4; i++) entry[16 + i] = (char)(crc >> (8 * i));
}

static void lies_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *from, *to, *because;
    } cases[] = {
        {"(5, 7)", "(5, 8)", "its shape takes 160 bytes, it has 140"},
        {"(5, 7)", "(5;,7)", "\"shape\" is no tuple"},
        {"(5, 7)", "(-, 7)", "no number from 0 on"},
        {"'<f4'", "'<f5'", "is not known"},
        {"'<f4'", "12345", "no plain type"},
        {"'descr'", "'descR'", "a key that is not known"},
        {"'shape'", "'descr'", "no plain type"},
        {"True", "Trie", "no truth value"},
        {"\x93NUMPY\x01", "\x93NUMPY\x07", "version is not 1, 2 or 3"},
        {"\x93NUMPY\x01", "\x93NUMPI\x01", "no .npy array"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        load("stored.npz");
        memcpy(find(cases[i].from, strlen(cases[i].from)), cases[i].to, strlen(cases[i].to));
        spill(size);
        refused("checksum does not fit");
        mend_checksum();
        spill(size);
        refused(cases[i].because);
    }
}

static void lying_directories_are_refused(void **state) {
    (void)state;
    static const struct {
        size_t at, n;
        uint64_t value;
        const char *because;
    } cases[] = {
        {8, 2, 1, "encrypted"},
        {10, 2, 12, "neither none nor deflate"},
        {10, 2, 8, "deflated bytes are damaged"},
        {20, 4, 1, "its two sizes differ"},
        {28, 2, 60000, "directory ends early"},
        {42, 4, 100000, "lies past the directory"},
        {42, 4, 7, "no local header"},
        {42, 4, 0xffffffff, "lies past the directory"},
        {0, 4, 0, "directory ends early"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        load("stored.npz");
        char *entry = find("PK\1\2", 4);
        for (size_t b = 0; b < cases[i].n; b++)
            entry[cases[i].at + b] = (char)(cases[i].value >> (8 * b));
        spill(size);
        refused(cases[i].because);
    }
}

static void members_that_share_bytes_are_refused(void **state) {
    (void)state;
    load("stored.npz");
    char *first = find("PK\1\2", 4), *second = NULL;
    second = first + 46 + number(first + 28, 2) + number(first + 30, 2);
    memcpy(second + 42, first + 42, 4); // the same place
    spill(size);
    refused("overlap another member's");
}

static void every_truncation_is_refused(void **state) {
    (void)state;
    static const char *const files[] = {"stored.npz", "deflated.npz"};
    for (size_t f = 0; f < 2; f++) {
        load(files[f]);
        for (size_t n = 0; n < size; n++) {
            df_tensors *all;
            spill(n);
            assert_int_equal(df_tensors_open(path, &all), DF_BAD_INPUT);
            assert_null(all);
        }
    }
}

static void mutations_never_crash(void **state) {
    (void)state;
    static const char *const files[] = {"stored.npz", "deflated.npz"};
    size_t refusals = 0;
    for (uint64_t seed = 0; seed < 1500; seed++) {
        df_tensors *all;
        load(files[seed % 2]);
        for (uint64_t i = 0; i <= seed % 3; i++)
            bytes[df_random_bits(seed, DF_STREAM_TEST, 2 * i) % size] =
                (char)df_random_bits(seed, DF_STREAM_TEST, 2 * i + 1);
        spill(size);
        df_status status = df_tensors_open(path, &all);
        assert_true(status == DF_OK || status == DF_BAD_INPUT || status == DF_FAILED);
        refusals += status != DF_OK;
        df_tensors_close(&all);
    }
    assert_true(refusals > 500);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numpys_archives_are_read),
        cmocka_unit_test(other_byte_orders_and_bombs_are_refused),
        cmocka_unit_test(lies_are_refused),
        cmocka_unit_test(lying_directories_are_refused),
        cmocka_unit_test(members_that_share_bytes_are_refused),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(mutations_never_crash),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
