/* Checkpoints: a training that was stopped goes on to the same dictionary on any number of ranks;
 * damaged ones, those of another job, of other activations and of other kernels are told apart. */
#include "training.h"

#include <unistd.h>

enum { ROWS = 1200, STEPS = 60 };

static int set_up(void **state) {
    static const synthetic files[] = {{"a.acts.h5", "a", ROWS, 40, 12, .bad_row = -1},
                                      {"b.acts.h5", "b", ROWS, 40, 20, .bad_row = -1}};
    (void)state;
    training_open("checkpoints", files, 2, 2);
    return 0;
}

static const df_train_options common = {TRAINING_BATCHTOPK, .steps = STEPS};

/* What one rank alone makes of the job: everything is compared with it. */
static uint64_t reference(void) {
    static uint64_t hash;
    if (hash == 0 && df_comm_rank(world) == 0 && train(self, "reference", &common) == DF_OK)
        hash = digest_of("reference");
    df_broadcast(world, 0, &hash, sizeof hash);
    df_test_all(world, hash != 0);
    return hash;
}

static df_status train_and_stop(df_comm *comm, const char *name, const df_train_options *o) {
    return train_on_and_stop(comm, data, name, o, 5);
}

static bool stopped_with_two(const char *name, df_status status) {
    uint64_t steps[8];
    bool told = strstr(df_error_text(), "stopped on request") != NULL;
    df_error_clear();
    return status == DF_STOPPED && told && checkpoints(name, STEPS, steps, 8) == 2 &&
           steps[0] == steps[1] + 1;
}

/* Overwrites some bytes in the middle of a file, or cuts it there. */
static void damage(const char *name, uint64_t step, bool cut) {
    char *path = df_format("%s/%s.%" PRIu64 ".ckpt.h5", folder, name, step);
    FILE *file = fopen(path, "r+b");
    fseek(file, 0, SEEK_END);
    long half = ftell(file) / 2;
    fseek(file, half, SEEK_SET);
    for (int i = 0; i < 64 && !cut; i++) fputc(0x5a, file);
    fclose(file);
    if (cut && truncate(path, half) != 0) fail();
    df_free(path);
}

/* Stopped on all ranks, continued on one; and the other way round. */
static void resumes_on_other_ranks(void **state) {
    (void)state;
    uint64_t alone = reference();
    df_status status = train_and_stop(world, "wide", &common);
    df_test_all(world, stopped_with_two("wide", status));
    df_test_all(world, df_comm_rank(world) != 0 || train(self, "wide", &common) == DF_OK);
    df_test_all(world, digest_of("wide") == alone);
    bool good = df_comm_rank(world) != 0 ||
                stopped_with_two("narrow", train_and_stop(self, "narrow", &common));
    df_test_all(world, good);
    df_test_all(world, train(world, "narrow", &common) == DF_OK);
    df_test_all(world, digest_of("narrow") == alone);
}

/* Each site's threshold goes on from where it stood. */
static void decoupled_resumes(void **state) {
    (void)state;
    df_train_options o = common;
    o.code_norm = DF_NORM_DECOUPLED;
    o.threshold_start = 0;
    bool good = df_comm_rank(world) != 0 || train(self, "sites", &o) == DF_OK;
    df_test_all(world, good);
    df_test_all(world, stopped_with_two("parts", train_and_stop(world, "parts", &o)));
    df_test_all(world, df_comm_rank(world) != 0 || train(self, "parts", &o) == DF_OK);
    df_test_all(world, digest_of("parts") == digest_of("sites"));
}

static void damaged_checkpoint_falls_back(void **state) {
    (void)state;
    uint64_t alone = reference(), steps[8];
    for (int cut = 0; cut < 2; cut++) {
        const char *name = cut ? "cut" : "flipped";
        df_test_all(world, stopped_with_two(name, train_and_stop(world, name, &common)));
        checkpoints(name, STEPS, steps, 8);
        df_barrier(world);
        if (df_comm_rank(world) == 0) damage(name, steps[0], cut);
        df_barrier(world);
        size_t before = df_warnings();
        df_test_all(world, train(world, name, &common) == DF_OK);
        df_test_all(world, df_comm_rank(world) != 0 || df_warnings() == before + 1);
        df_test_all(world, digest_of(name) == alone);
        df_test_all(world, checkpoints(name, STEPS, steps, 8) == 0);
    }
}

/* Another job starts anew and leaves the checkpoints that are not its own. */
static void other_job_is_left_alone(void **state) {
    (void)state;
    uint64_t steps[8];
    df_train_options other = common;
    other.resolved_job = "job: two\n";
    df_test_all(world, stopped_with_two("mixed", train_and_stop(world, "mixed", &other)));
    df_test_all(world, train(world, "mixed", &common) == DF_OK);
    df_test_all(world, digest_of("mixed") == reference());
    df_test_all(world, checkpoints("mixed", STEPS, steps, 8) == 2);
}

/* Activations of the same recipe and other content are other rows: the training starts anew, and
 * leaves the checkpoints of the first alone. Rows whose content is not known go on. */
static void other_inputs_are_left_alone(void **state) {
    (void)state;
    static const char first[] = "00000000000000a1 00000000000000c1 a.acts.h5\n";
    uint64_t steps[8];
    df_train_options o = common;
    o.facts.inputs = first;
    df_test_all(world, stopped_with_two("other", train_and_stop(world, "other", &o)));
    o.facts.inputs = "00000000000000a1 00000000000000c2 a.acts.h5\n";
    df_test_all(world, train(world, "other", &o) == DF_OK && digest_of("other") == reference());
    df_test_all(world, checkpoints("other", STEPS, steps, 8) == 2);
    o.facts.inputs = "00000000000000a1 - a\n";
    df_test_all(world, train(world, "other", &o) == DF_OK && digest_of("other") == reference());
    df_test_all(world, checkpoints("other", STEPS, steps, 8) == 0);
    char *path = in_folder("other.dict.h5"), *recorded = NULL;
    df_reader *file = NULL;
    o.facts.inputs = first;
    df_test_all(world, train(world, "other", &o) == DF_OK && digest_of("other") == reference());
    df_test_all(world, df_reader_open(path, "darkfield-dictionary", &file) == DF_OK);
    df_test_all(world, df_reader_text(file, "/provenance", "inputs", &recorded) == DF_OK);
    df_test_all(world, strcmp(recorded, first) == 0);
    df_free(recorded);
    df_reader_close(&file);
    df_free(path);
}

/* Copies a checkpoint, but for the kernels that it says made it. */
static void copy_checkpoint(const df_reader *from, df_file *to) {
    static const char *const paths[] = {"/weights/W_enc",  "/weights/W_dec",    "/weights/b_enc",
                                        "/weights/b_dec",  "/moments/m_enc",    "/moments/v_enc",
                                        "/moments/m_dec",  "/moments/v_dec",    "/moments/m_bias",
                                        "/moments/v_bias", "/moments/m_center", "/moments/v_center",
                                        "/silent",         "/history",          "/scale",
                                        "/anneal",         "/interval"};
    enum { PATHS = sizeof paths / sizeof *paths };
    uint64_t shape[PATHS][DF_MAX_DIMS] = {{0}};
    char *job = NULL;
    int64_t step = 0;
    double threshold = 0;
    assert_ok(df_reader_text(from, "/", "job", &job));
    assert_ok(df_reader_int(from, "/", "step", &step));
    assert_ok(df_reader_real(from, "/", "threshold", &threshold));
    assert_ok(df_file_text(to, "/", "job", job));
    assert_ok(df_file_text(to, "/", "kernel_path", "an abacus"));
    assert_ok(df_file_text(to, "/", "kernel_history", "an abacus"));
    assert_ok(df_file_int(to, "/", "step", step));
    assert_ok(df_file_real(to, "/", "threshold", threshold));
    df_free(job);
    for (int i = 0; i < PATHS; i++) {
        df_dataset spec = {.path = paths[i], .units = "1", .long_name = "copy", .labels = "row"};
        int id;
        spec.dims = strcmp(paths[i], "/history") == 0 ? 2 : 1;
        assert_ok(df_reader_find(from, paths[i], spec.dims, &spec.type, shape[i]));
        memcpy(spec.shape, shape[i], sizeof spec.shape);
        assert_ok(df_file_dataset(to, &spec, &id));
        assert_int_equal(id, i);
    }
    assert_ok(df_file_ready(to));
    for (int i = 0; i < PATHS; i++) {
        static uint64_t rows[1 << 16];
        assert_ok(df_reader_rows(from, paths[i], 0, shape[i][0], true, rows));
        assert_ok(df_file_write(to, i, 0, shape[i][0], rows));
    }
}

static void rename_kernels(const char *name, uint64_t step) {
    char *path = df_format("%s/%s.%" PRIu64 ".ckpt.h5", folder, name, step);
    df_reader *from = NULL;
    df_file *to = NULL;
    assert_ok(df_reader_open(path, "darkfield-checkpoint", &from));
    assert_ok(df_file_create(self, path, "darkfield-checkpoint", &to));
    copy_checkpoint(from, to);
    assert_ok(df_file_finish(&to));
    df_reader_close(&from);
    df_free(path);
}

/* Refused, unless asked for: then it is done and recorded, outside the digest. */
static void other_kernels_are_refused(void **state) {
    (void)state;
    uint64_t alone = reference(), steps[8];
    df_test_all(world, stopped_with_two("kernels", train_and_stop(world, "kernels", &common)));
    checkpoints("kernels", STEPS, steps, 8);
    df_barrier(world);
    if (df_comm_rank(world) == 0) rename_kernels("kernels", steps[0]);
    df_barrier(world);
    df_test_all(world, df_test_fails(train(world, "kernels", &common), DF_USAGE,
                                     "train.accept_kernel_path"));
    df_train_options o = common;
    o.accept_kernel_path = true;
    df_test_all(world, train(world, "kernels", &o) == DF_OK && digest_of("kernels") == alone);
    char *path = in_folder("kernels.dict.h5"), *recorded = NULL;
    df_reader *file = NULL;
    df_test_all(world, df_reader_open(path, "darkfield-dictionary", &file) == DF_OK);
    df_test_all(world, df_reader_text(file, "/provenance", "kernel_path", &recorded) == DF_OK);
    df_test_all(world, strncmp(recorded, "an abacus; ", 11) == 0 &&
                           strstr(recorded, " from step ") != NULL);
    df_free(recorded);
    df_reader_close(&file);
    df_free(path);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(resumes_on_other_ranks),        cmocka_unit_test(decoupled_resumes),
    cmocka_unit_test(damaged_checkpoint_falls_back), cmocka_unit_test(other_job_is_left_alone),
    cmocka_unit_test(other_inputs_are_left_alone),   cmocka_unit_test(other_kernels_are_refused)};

DF_TEST_MPI_MAIN(world, tests, set_up, training_close)
