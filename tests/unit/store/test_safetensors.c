/* safetensors: a real model, shards, every lie a header can tell, mutations. */
#include "df_test.h"

#include "darkfield/store.h"

static char folder[256], path[400];

static int set_up(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "%s", df_test_folder("store-safetensors"));
    return 0;
}

static void spill(const char *name, const char *bytes, size_t n) {
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_true(fwrite(bytes, 1, n, file) == n && fclose(file) == 0);
}

// A file of this header, whose length field says `length`, with `data` bytes 0, 1, 2, ... behind
// it.
static void put_raw(const char *name, const char *header, uint64_t length, size_t data) {
    char bytes[4096];
    size_t n = strlen(header);
    for (int i = 0; i < 8; i++) bytes[i] = (char)(length >> (8 * i));
    memcpy(bytes + 8, header, n);
    for (size_t i = 0; i < data; i++) bytes[8 + n + i] = (char)i;
    spill(name, bytes, 8 + n + data);
}

static void put(const char *name, const char *header, size_t data) {
    put_raw(name, header, strlen(header), data);
}

#define TWO                                                                                        \
    "{\"__metadata__\": {\"format\": \"pt\"},"                                                     \
    " \"b\": {\"dtype\": \"F32\", \"shape\": [2, 1], \"data_offsets\": [2, 10]},"                  \
    " \"a\": {\"dtype\": \"BF16\", \"shape\": [], \"data_offsets\": [0, 2]},"                      \
    " \"none\": {\"dtype\": \"F64\", \"shape\": [0, 7], \"data_offsets\": [10, 10]}} "

static void a_file_is_read(void **state) {
    (void)state;
    df_tensors *tensors;
    put("two.safetensors", TWO, 10);
    assert_ok(df_tensors_open(path, &tensors));
    assert_int_equal(df_tensors_count(tensors), 3);
    assert_string_equal(df_tensors_at(tensors, 0)->name, "a");
    assert_int_equal(df_tensors_at(tensors, 0)->dims, 0);
    assert_int_equal(df_tensors_at(tensors, 0)->elements, 1);
    const df_tensor *b = df_tensors_find(tensors, "b");
    assert_true(b->type == DF_F32 && b->dims == 2 && b->shape[0] == 2 && b->shape[1] == 1 &&
                b->elements == 2);
    assert_memory_equal(b->data, "\x02\x03\x04\x05\x06\x07\x08\x09", 8);
    assert_int_equal(df_tensors_find(tensors, "none")->elements, 0);
    assert_null(df_tensors_find(tensors, "c"));
    df_tensors_close(&tensors);
    assert_int_equal(df_memory_now(), 0);
}

static void real_models_are_read(void **state) {
    (void)state;
    df_tensors *tensors;
    assert_ok(df_tensors_open(DF_SOURCE_DIR "/jobs/quickstart/base", &tensors));
    const df_tensor *embed = df_tensors_find(tensors, "model.embed_tokens.weight");
    assert_non_null(embed);
    assert_true(embed->type == DF_BF16 && embed->dims == 2 && embed->shape[1] == 128);
    df_tensors_close(&tensors);
}

static void refused(const char *header, size_t data, const char *because) {
    df_tensors *tensors;
    put("bad.safetensors", header, data);
    assert_fails(df_tensors_open(path, &tensors), DF_BAD_INPUT, because);
    assert_null(tensors);
    assert_int_equal(df_memory_now(), 0);
}

#define ONE(dtype, shape, offsets)                                                                 \
    "{\"t\": {\"dtype\": " dtype ", \"shape\": " shape ", \"data_offsets\": " offsets "}}"

static void lying_headers_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *header;
        size_t data;
        const char *because;
    } cases[] = {
        {ONE("\"F32\"", "[2]", "[0, 8]"), 7, "ends at byte 8 of 7"},
        {ONE("\"F32\"", "[2]", "[0, 8]"), 9, "9 bytes of data, of which tensors use 8"},
        {ONE("\"F32\"", "[3]", "[0, 8]"), 8, "its shape takes 12 bytes, its data_offsets hold 8"},
        {ONE("\"F32\"", "[2]", "[8, 0]"), 8, "not [begin, end]"},
        {ONE("\"F32\"", "[2]", "[-8, 0]"), 8, "not [begin, end]"},
        {ONE("\"F32\"", "[2]", "[0]"), 8, "not [begin, end]"},
        {ONE("\"F32\"", "[2]", "[0.0, 8]"), 8, "not [begin, end]"},
        {ONE("\"F32\"", "[2]", "[0, 99999999999999999999]"), 8, "JSON"},
        {ONE("\"F32\"", "[-2]", "[0, 8]"), 8, "no number from 0 on"},
        {ONE("\"F32\"", "[2.0]", "[0, 8]"), 8, "no number from 0 on"},
        {ONE("\"F32\"", "2", "[0, 8]"), 8, "expected an array"},
        {ONE("\"F32\"", "[4294967296, 4294967296]", "[0, 8]"), 8, "overflow"},
        {ONE("\"F32\"", "[4611686018427387905]", "[0, 4]"), 4, "overflow"},
        {ONE("\"F33\"", "[2]", "[0, 8]"), 8, "dtype \"F33\""},
        {ONE("7", "[2]", "[0, 8]"), 8, "string \"dtype\""},
        {"{\"t\": 5}", 0, "expected an object"},
        {"{}", 3, "tensors use 0"},
        {"[]", 0, "expected an object as header"},
        {"{\"t\": ", 0, "not valid JSON"},
        {"{\"t\": {}, \"t\": {}}", 0, "not valid JSON"},
        {"{\"a\": {\"dtype\": \"U8\", \"shape\": [4], \"data_offsets\": [0, 4]},"
         " \"b\": {\"dtype\": \"U8\", \"shape\": [4], \"data_offsets\": [2, 6]}}",
         6, "overlap"},
        {"{\"a\": {\"dtype\": \"U8\", \"shape\": [2], \"data_offsets\": [0, 2]},"
         " \"b\": {\"dtype\": \"U8\", \"shape\": [2], \"data_offsets\": [4, 6]}}",
         6, "hole"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        refused(cases[i].header, cases[i].data, cases[i].because);
}

static void lying_lengths_are_refused(void **state) {
    (void)state;
    df_tensors *tensors;
    const uint64_t lengths[] = {UINT64_MAX, UINT64_MAX - 7, (uint64_t)1 << 40, strlen(TWO) + 11};
    for (size_t i = 0; i < 4; i++) {
        put_raw("bad.safetensors", TWO, lengths[i], 10);
        assert_fails(df_tensors_open(path, &tensors), DF_BAD_INPUT, "expected safetensors");
    }
    put_raw("bad.safetensors", TWO, 5, 10);
    assert_fails(df_tensors_open(path, &tensors), DF_BAD_INPUT, "not valid JSON");
    for (size_t n = 0; n < 8; n++) {
        spill("bad.safetensors", "\0\0\0\0\0\0\0", n);
        assert_fails(df_tensors_open(path, &tensors), DF_BAD_INPUT, "truncated");
    }
}

static void unread_types_are_left_out_with_a_warning(void **state) {
    (void)state;
    df_tensors *tensors;
    size_t before = df_warnings();
    put("x.safetensors",
        "{\"mask\": {\"dtype\": \"BOOL\", \"shape\": [2], \"data_offsets\": [0, 2]},"
        " \"five\": {\"dtype\": \"U8\", \"shape\": [1, 1, 1, 1, 2], \"data_offsets\": [2, 4]},"
        " \"w\": {\"dtype\": \"F16\", \"shape\": [1], \"data_offsets\": [4, 6]}}",
        6);
    assert_ok(df_tensors_open(path, &tensors));
    assert_int_equal(df_tensors_count(tensors), 1);
    assert_int_equal(df_warnings(), before + 1);
    df_tensors_close(&tensors);
}

/* ---- shards --------------------------------------------------------------------------------- */

static void put_index(const char *map) {
    char text[512];
    snprintf(text, sizeof text, "{\"metadata\": {}, \"weight_map\": %s}", map);
    spill("model.safetensors.index.json", text, strlen(text));
}

static void shards_are_joined(void **state) {
    (void)state;
    df_tensors *tensors;
    put("one.safetensors", ONE("\"U8\"", "[4]", "[0, 4]"), 4);
    put("two.safetensors", TWO, 10);
    put_index(
        "{\"t\": \"one.safetensors\", \"a\": \"two.safetensors\", \"b\": \"two.safetensors\"}");
    assert_ok(df_tensors_open(folder, &tensors));
    assert_int_equal(df_tensors_count(tensors), 4);
    df_tensors_close(&tensors);
    assert_ok(df_tensors_open(path, &tensors)); // by the index itself
    df_tensors_close(&tensors);
    put_index("{\"t\": \"one.safetensors\", \"u\": \"two.safetensors\"}");
    assert_fails(df_tensors_open(folder, &tensors), DF_BAD_INPUT, "promises tensor \"u\"");
    put_index("{\"t\": \"../../etc/passwd\"}");
    assert_fails(df_tensors_open(folder, &tensors), DF_BAD_INPUT, "beside it");
    put_index("{\"t\": 5}");
    assert_fails(df_tensors_open(folder, &tensors), DF_BAD_INPUT, "beside it");
    put_index("{\"t\": \"three.safetensors\"}");
    assert_fails(df_tensors_open(folder, &tensors), DF_BAD_INPUT, "three.safetensors");
    put_index("{}");
    assert_fails(df_tensors_open(folder, &tensors), DF_BAD_INPUT, "weight_map");
    put("three.safetensors", ONE("\"U8\"", "[4]", "[0, 4]"), 4);
    put_index("{\"t\": \"one.safetensors\", \"v\": \"three.safetensors\"}");
    assert_fails(df_tensors_open(folder, &tensors), DF_BAD_INPUT, "stands there twice");
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", folder);
    remove(path);
    assert_fails(df_tensors_open(folder, &tensors), DF_BAD_INPUT, "found neither");
    assert_fails(df_tensors_open("/no/such/model", &tensors), DF_BAD_INPUT, "/no/such/model");
    assert_int_equal(df_memory_now(), 0);
}

static void mutations_never_crash(void **state) {
    (void)state;
    char *seed;
    size_t n, opened = 0;
    put("seed.safetensors", TWO, 10);
    assert_ok(df_read_file(path, &seed, &n));
    for (uint64_t i = 0; i < 3000; i++) {
        char bytes[1024];
        df_tensors *tensors;
        memcpy(bytes, seed, n);
        for (uint64_t j = 0; j <= i % 3; j++) {
            uint64_t r = df_random_bits(i, DF_STREAM_TEST, j);
            bytes[r % n] = (char)(r >> 32);
        }
        spill("m.safetensors", bytes, i % 4 == 0 ? i % n : n);
        df_status status = df_tensors_open(path, &tensors);
        assert_true(status == DF_OK || status == DF_BAD_INPUT);
        opened += status == DF_OK;
        df_tensors_close(&tensors);
    }
    df_free(seed);
    df_error_clear();
    assert_true(opened < 2990 && df_memory_now() == 0);
}

static void failing_memory_is_survived(void **state) {
    (void)state;
    df_tensors *tensors = NULL;
    put("two.safetensors", TWO, 10);
    put_index("{\"a\": \"two.safetensors\"}");
    for (int64_t call = 0;; call++) {
        df_memory_fail_after(call);
        df_status status = df_tensors_open(folder, &tensors);
        df_memory_fail_after(-1);
        if (status == DF_OK) break;
        assert_int_equal(df_memory_now(), 0);
        assert_true(call < 1000);
    }
    df_tensors_close(&tensors);
    df_error_clear();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_file_is_read),
        cmocka_unit_test(real_models_are_read),
        cmocka_unit_test(lying_headers_are_refused),
        cmocka_unit_test(lying_lengths_are_refused),
        cmocka_unit_test(unread_types_are_left_out_with_a_warning),
        cmocka_unit_test(shards_are_joined),
        cmocka_unit_test(mutations_never_crash),
        cmocka_unit_test(failing_memory_is_survived),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
