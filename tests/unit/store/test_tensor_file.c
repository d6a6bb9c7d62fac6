/* Writing safetensors and npz: what is put comes back, the same bytes on any number of ranks,
 * nothing is left behind after a failure. */
#define DF_TEST_MPI
#include "df_test.h"

#include "darkfield/store.h"

#include <unistd.h>

static df_comm *world;
static char folder[256], path[400];

enum { ROWS = 24, WIDTH = 5 };
static const df_tensor_spec specs[] = {
    {"W_enc", DF_F32, 2, {ROWS, WIDTH}}, {"half", DF_F16, 3, {2, 3, 4}}, {"k", DF_I32, 0, {0}},
    {"none", DF_F64, 2, {0, 9}},         {"long", DF_I64, 1, {3}},
};
enum { SPECS = sizeof specs / sizeof specs[0] };

static int set_up(void **state) {
    (void)state;
    if (df_comm_rank(world) == 0)
        snprintf(folder, sizeof folder, "%s", df_test_folder("tensor-file"));
    df_broadcast(world, 0, folder, sizeof folder);
    return 0;
}

// Rows are shared out; rank 0 writes the small tensors.
static df_status fill(df_tensor_file *file) {
    df_range mine = df_share(ROWS, df_comm_size(world), df_comm_rank(world));
    float row[WIDTH];
    for (size_t r = mine.first; r < mine.first + mine.count; r++) {
        for (size_t c = 0; c < WIDTH; c++) row[c] = (float)(r * WIDTH + c) / 8.0f;
        DF_TRY(df_tensor_file_put(file, 0, r * WIDTH, WIDTH, row));
    }
    if (df_comm_rank(world) != 0) return DF_OK;
    uint16_t half[24];
    int64_t longs[3] = {-1, 1, INT64_MAX};
    int32_t k = -7;
    for (uint16_t i = 0; i < 24; i++) half[i] = i;
    DF_TRY(df_tensor_file_put(file, 1, 0, 24, half));
    DF_TRY(df_tensor_file_put(file, 2, 0, 1, &k));
    return df_tensor_file_put(file, 4, 0, 3, longs);
}

static void write_file(const char *name) {
    df_tensor_file *file = NULL;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    df_test_all(world, df_tensor_file_create(world, path, specs, SPECS, &file) == DF_OK);
    df_test_all(world, fill(file) == DF_OK);
    df_test_all(world, df_tensor_file_finish(&file) == DF_OK && file == NULL);
}

static bool as_written(void) {
    df_tensors *all = NULL;
    bool good = df_tensors_open(path, &all) == DF_OK && df_tensors_count(all) == SPECS;
    for (size_t i = 0; good && i < SPECS; i++) {
        const df_tensor *t = df_tensors_find(all, specs[i].name);
        good = t != NULL && t->type == specs[i].type && t->dims == specs[i].dims &&
               memcmp(t->shape, specs[i].shape, (size_t)t->dims * sizeof t->shape[0]) == 0;
    }
    if (good) {
        int32_t k;
        int64_t last;
        memcpy(&k, df_tensors_find(all, "k")->data, sizeof k);
        memcpy(&last, (const char *)df_tensors_find(all, "long")->data + 16, sizeof last);
        good = k == -7 && last == INT64_MAX;
        const char *at = df_tensors_find(all, "W_enc")->data;
        for (size_t i = 0; good && i < (size_t)ROWS * WIDTH; i++) {
            float value;
            memcpy(&value, at + 4 * i, 4);
            good = value == (float)i / 8.0f;
        }
    }
    df_tensors_close(&all);
    return good;
}

// Hashes of files that numpy (testzip, load) and the rules of safetensors were once asked about:
// on any number of ranks they are the same.
static void files_come_back_and_hold_the_same_bytes(void **state) {
    (void)state;
    size_t memory = df_memory_now();
    static const struct {
        const char *name;
        uint64_t hash;
    } cases[] = {{"t.safetensors", 0x5f4a5b9811576898}, {"t.npz", 0x8592ea420cc68e39}};
    for (size_t i = 0; i < 2; i++) {
        uint64_t hash = 0;
        write_file(cases[i].name);
        df_test_all(world, as_written());
        df_test_all(world, df_hash_file(path, &hash) == DF_OK);
        if (cases[i].hash != hash)
            print_error("%s has hash %016llx\n", cases[i].name, (unsigned long long)hash);
        df_test_all(world, hash == cases[i].hash);
        char *part = df_format("%s.part", path);
        df_test_all(world, access(part, F_OK) != 0);
        df_free(part);
    }
    assert_int_equal(df_memory_now(), memory);
}

static void failures_leave_nothing(void **state) {
    (void)state;
    size_t memory = df_memory_now();
    df_tensor_file *file = NULL;
    snprintf(path, sizeof path, "%s/no/such/folder.safetensors", folder);
    df_test_all(world, df_tensor_file_create(world, path, specs, SPECS, &file) == DF_FAILED);
    df_error_clear();
    snprintf(path, sizeof path, "%s/bad.npz", folder);
    df_test_all(world, df_tensor_file_create(world, path, specs, SPECS, &file) == DF_OK);
    bool last = df_comm_rank(world) == df_comm_size(world) - 1;
    if (last) // one rank alone fails: all of them hear of it
        assert_fails(df_tensor_file_put(file, 4, 2, 2, "x"), DF_FAILED, "which it lacks");
    df_test_all(world, df_tensor_file_finish(&file) == DF_FAILED && file == NULL);
    df_error_clear();
    df_test_all(world, access(path, F_OK) != 0);
    snprintf(path, sizeof path, "%s/bad.npz.part", folder);
    df_test_all(world, access(path, F_OK) != 0);
    snprintf(path, sizeof path, "%s/left.npz", folder);
    df_test_all(world, df_tensor_file_create(world, path, specs, SPECS, &file) == DF_OK);
    df_tensor_file_abandon(&file);
    snprintf(path, sizeof path, "%s/left.npz.part", folder);
    df_test_all(world, access(path, F_OK) != 0);
    assert_int_equal(df_memory_now(), memory);
}

static void numpy_has_no_bf16(void **state) {
    (void)state;
    const df_tensor_spec narrow = {"w", DF_BF16, 1, {4}};
    df_tensor_file *file = NULL;
    snprintf(path, sizeof path, "%s/bf16.npz", folder);
    df_test_all(world, df_tensor_file_create(world, path, &narrow, 1, &file) == DF_USAGE);
    df_error_clear();
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(files_come_back_and_hold_the_same_bytes),
    cmocka_unit_test(failures_leave_nothing),
    cmocka_unit_test(numpy_has_no_bf16),
};

DF_TEST_MPI_MAIN(world, tests, set_up, NULL)
