/* XXH3-64 against its published sanity values, in memory and in files. */
#include "df_test.h"

#include <unistd.h>

#define PRIME32 UINT64_C(2654435761)
#define PRIME64 UINT64_C(11400714785074694797)

// The buffer of xxHash's own sanity check.
static void fill(unsigned char *buffer, size_t n) {
    uint64_t generator = PRIME32;
    for (size_t i = 0; i < n; i++) {
        buffer[i] = (unsigned char)(generator >> 56);
        generator *= PRIME64;
    }
}

static const struct {
    size_t bytes;
    uint64_t seed, answer;
} published[] = {
    {0, 0, UINT64_C(0x2D06800538D394C2)},   {0, PRIME64, UINT64_C(0xA8A6B918B2F0364A)},
    {1, 0, UINT64_C(0xC44BDFF4074EECDB)},   {6, 0, UINT64_C(0x27B56A84CD2D7325)},
    {12, 0, UINT64_C(0xA713DAF0DFBB77E7)},  {24, 0, UINT64_C(0xA3FE70BF9D3510EB)},
    {48, 0, UINT64_C(0x397DA259ECBA1F11)},  {80, 0, UINT64_C(0xBCDEFBBB2C47C90A)},
    {195, 0, UINT64_C(0xCD94217EE362EC3A)}, {403, 0, UINT64_C(0xCDEB804D65C6DEA4)},
    {512, 0, UINT64_C(0x617E49599013CB6B)}, {2048, 0, UINT64_C(0xDD59E2C3A5F038E0)},
};

static void test_published_values(void **state) {
    (void)state;
    unsigned char buffer[2048];
    fill(buffer, sizeof buffer);
    for (size_t i = 0; i < sizeof published / sizeof *published; i++) {
        uint64_t more = df_hash_more(published[i].seed, buffer, published[i].bytes);
        assert_true(more == published[i].answer);
        if (published[i].seed == 0)
            assert_true(df_hash(buffer, published[i].bytes) == published[i].answer);
    }
}

static void test_files(void **state) {
    (void)state;
    const char *folder = df_test_folder("hash");
    size_t bytes = 3 * ((size_t)1 << 20) + 17;
    unsigned char *data = df_alloc(bytes, 1);
    char *path = df_format("%s/data", folder), *none = df_format("%s/none", folder);
    uint64_t hash = 0;
    fill(data, bytes);
    assert_ok(df_write_file(path, data, bytes));
    assert_ok(df_hash_file(path, &hash));
    assert_true(hash == df_hash(data, bytes));
    assert_fails(df_hash_file(none, &hash), DF_BAD_INPUT, none);
    assert_fails(df_hash_file(folder, &hash), DF_BAD_INPUT, "directory");
    df_memory_fail_after(0);
    assert_fails(df_hash_file(path, &hash), DF_FAILED, "out of memory");
    df_free(data);
    df_free(path);
    df_free(none);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_published_values),
        cmocka_unit_test(test_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
