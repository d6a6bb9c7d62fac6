/* Data sets: which rows they hold, in which order training sees them, the global shuffle, and
 * synthetic rows; training on each of them gives the same bytes on any ranks and after a stop. */
#include "training.h"

#include <math.h>
#include <unistd.h>

enum { ROWS = 1200, WIDE_A = 12, WIDE_B = 20, WIDTH = WIDE_A + WIDE_B };

static df_acts *bad; // acts[0] to acts[3]: two files of models a and b

static int set_up(void **state) {
    static const synthetic files[] = {{"a1.acts.h5", "a", ROWS, ROWS / 30, WIDE_A, .bad_row = -1},
                                      {"b1.acts.h5", "b", ROWS, ROWS / 30, WIDE_B, .bad_row = -1},
                                      {"a2.acts.h5", "a", 660, 22, WIDE_A, .bad_row = -1},
                                      {"b2.acts.h5", "b", 660, 22, WIDE_B, .bad_row = -1},
                                      {"bad.acts.h5", "a", ROWS, ROWS / 30, WIDE_A, .bad_row = 37}};
    (void)state;
    training_open("rows", files, 5, 2);
    bad = acts[4];
    return 0;
}

/* The rows of both models from one or two files. */
static df_rows *open_rows(size_t files, const df_acts_filter *filter) {
    df_rows *rows = NULL;
    df_test_all(world,
                df_rows_open(&(df_rows_files){acts, site, files, 2}, filter, &rows) == DF_OK);
    return rows;
}

/* ---- which rows - */

static void filters_choose_rows(void **state) {
    (void)state;
    const uint32_t tokens[2] = {3, 17};
    for (int c = 0; c < 4; c++) {
        const df_acts_filter filter = {.part = c % 3,
                                       .first = (uint64_t)c,
                                       .token = tokens,
                                       .tokens = (size_t)(c > 1 ? 2 : 0)};
        df_rows *rows = open_rows(2, &filter);
        uint64_t n = 0;
        for (uint64_t r = 0; r < ROWS + 660; r++) {
            const df_acts *from = acts[r < ROWS ? 0 : 2];
            uint64_t at = r < ROWS ? r : r - ROWS;
            bool in = filter.part == 2 || from->heldout[at / 30] == filter.part;
            in = in && at % SYNTHETIC_CONTEXT >= filter.first;
            in = in && !(c > 1 && (from->tokens[at] == 3 || from->tokens[at] == 17));
            if (in && df_rows_source(rows, n++) != r) df_test_all(self, false);
        }
        df_test_all(world, df_rows_count(rows) == n);
        df_rows_close(&rows);
    }
}

static void reads_across_files(void **state) {
    (void)state;
    df_rows *rows = open_rows(2, &usual);
    uint64_t n = df_rows_count(rows);
    const uint64_t wanted[6] = {n - 1, 0, 1, 2, n / 2, n - 2};
    float out[6 * WIDTH], one[WIDTH];
    df_test_all(world, df_rows_read(rows, wanted, 6, out) == DF_OK);
    for (int i = 0; i < 6; i++) {
        uint64_t source = df_rows_source(rows, wanted[i]);
        size_t f = source < ROWS ? 0 : 2;
        uint64_t at = source < ROWS ? source : source - ROWS;
        bool same = df_acts_read(acts[f], 0, at, 1, one, WIDE_A) == DF_OK &&
                    df_acts_read(acts[f + 1], 0, at, 1, one + WIDE_A, WIDE_B) == DF_OK;
        df_test_all(world, same && memcmp(one, out + i * WIDTH, sizeof one) == 0);
    }
    df_rows_close(&rows);
}

/* Rows of a file, a few at a time, as if they were made; reads beyond what fits are counted. */
typedef struct maker {
    df_acts *file;
    size_t most, too_many;
} maker;

static size_t fit_few(void *of, const uint64_t *rows, size_t n) {
    (void)rows;
    const maker *m = of;
    return n < m->most ? n : m->most;
}

static df_status read_few(void *of, size_t at, const uint64_t *rows, size_t n, float *out,
                          size_t ld) {
    maker *m = of;
    m->too_many += n > m->most;
    return df_acts_gather(m->file, at, rows, n, out, ld);
}

static void rows_may_be_made(void **state) {
    (void)state;
    maker of[2] = {{acts[0], 7, 0}, {acts[1], 5, 0}};
    df_acts made[2] = {*acts[0], *acts[1]}, *both[2] = {&made[0], &made[1]};
    for (int m = 0; m < 2; m++) {
        made[m].file = NULL;
        made[m].made = (df_acts_made){&of[m], fit_few, read_few, NULL};
    }
    df_rows *from_file = open_rows(1, &usual), *rows = NULL;
    df_test_all(world, df_rows_open(&(df_rows_files){both, site, 1, 2}, &usual, &rows) == DF_OK);
    uint64_t n = df_rows_count(rows), wanted[300];
    static float x[300 * WIDTH], y[300 * WIDTH];
    for (uint64_t i = 0; i < 300; i++) wanted[i] = i * 31 % n;
    df_test_all(world, n == df_rows_count(from_file));
    df_test_all(world, df_rows_read(rows, wanted, 300, x) == DF_OK);
    df_test_all(world, df_rows_read(from_file, wanted, 300, y) == DF_OK);
    df_test_all(world, memcmp(x, y, sizeof x) == 0 && of[0].too_many + of[1].too_many == 0);
    df_rows_close(&rows);
    df_rows_close(&from_file);
}

static void files_must_fit(void **state) {
    (void)state;
    df_rows *rows = NULL;
    df_acts *swapped[4] = {acts[0], acts[1], acts[3], acts[2]}, *apart[2] = {acts[0], acts[3]};
    const df_acts_filter nothing = {.first = 1000};
    df_test_all(world,
                df_test_fails(df_rows_open(&(df_rows_files){swapped, site, 2, 2}, &usual, &rows),
                              DF_BAD_INPUT, "no one data set"));
    df_test_all(world,
                df_test_fails(df_rows_open(&(df_rows_files){apart, site, 1, 2}, &usual, &rows),
                              DF_BAD_INPUT, "not aligned"));
    df_test_all(world,
                df_test_fails(df_rows_open(&(df_rows_files){acts, site, 1, 2}, &nothing, &rows),
                              DF_BAD_INPUT, "no training rows"));
    df_test_all(world,
                df_test_fails(df_rows_open(&(df_rows_files){acts, site, 0, 2}, &usual, &rows),
                              DF_USAGE, "at least one"));
    df_test_all(world, rows == NULL);
}

/* Row 37 is the eighth of document 1. */
static void bad_rows_are_named_or_dropped(void **state) {
    (void)state;
    df_rows *rows = NULL;
    uint64_t dropped = 0, all[ROWS];
    static float out[ROWS * WIDE_A];
    df_acts *file[1] = {bad};
    df_test_all(world, df_rows_open(&(df_rows_files){file, site, 1, 1}, &usual, &rows) == DF_OK);
    uint64_t n = df_rows_count(rows);
    for (uint64_t i = 0; i < n; i++) all[i] = i;
    df_status status = df_rows_read(rows, all, (size_t)n, out);
    df_test_all(world, df_test_fails(status, DF_BAD_INPUT,
                                     "bad.acts.h5: site blocks.0.hook_resid_post"
                                     ", row 37 (document 1 of the corpus)"));
    df_test_all(world, df_rows_drop_bad(world, rows, &dropped) == DF_OK);
    df_test_all(world, dropped == 1 && df_rows_count(rows) == n - 1);
    df_test_all(world, df_rows_read(rows, all, (size_t)n - 1, out) == DF_OK);
    for (uint64_t i = 0; i < n - 1; i++)
        if (df_rows_source(rows, i) == 37) df_test_all(self, false);
    df_rows_close(&rows);
}

/* ---- order - */

static void every_epoch_has_every_row_once(void **state) {
    (void)state;
    static uint8_t seen[3000];
    const uint64_t sizes[] = {1, 5, 255, 256, 257, 1000, 2999};
    for (int how = DF_SHUFFLE_EXACT; how <= DF_SHUFFLE_GLOBAL; how++)
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
            for (uint64_t buffer = 1; buffer < 4000; buffer = buffer * 7 + 3) {
                const df_order o = {(df_shuffle)how, 11, sizes[s], buffer};
                memset(seen, 0, sizeof seen);
                for (uint64_t i = 0; i < 3 * o.n; i++) {
                    uint64_t row = df_order_at(&o, i);
                    assert_true(row < o.n && seen[row] == i / o.n);
                    seen[row]++;
                }
            }
}

static void epochs_differ_and_buffers_mix(void **state) {
    (void)state;
    const df_order exact = {DF_SHUFFLE_EXACT, 1, 2000, 0},
                   buffer = {DF_SHUFFLE_BUFFER, 1, 2000, 900};
    const df_order global = {DF_SHUFFLE_GLOBAL, 1, 2000, 0};
    uint64_t same[3] = {0}, near = 0;
    for (uint64_t i = 0; i < 2000; i++) {
        same[0] += df_order_at(&exact, i) == df_order_at(&exact, i + 2000);
        same[1] += df_order_at(&buffer, i) == df_order_at(&buffer, i + 2000);
        same[2] += df_order_at(&global, i + 2000) == df_order_at(&global, i + 4000);
        near += i > 0 && df_order_at(&buffer, i) == df_order_at(&buffer, i - 1) + 1;
        assert_int_equal(df_order_at(&global, i), i);
    }
    assert_true(same[0] < 20 && same[1] < 20 && same[2] < 1000 && near < 20);
}

/* ---- the global shuffle - */

static df_status shuffle(df_comm *comm, const df_rows *rows, const char *name, uint64_t memory) {
    char *path = in_folder(name);
    const df_shuffle_options o = {
        .seed = 9, .memory = memory, .output = path, .job = "job\n", .facts = DF_TEST_FACTS};
    df_status status = df_rows_shuffle(comm, rows, &o);
    df_free(path);
    return status;
}

static uint64_t digest_of_rows(const char *name) {
    char *path = in_folder(name);
    uint64_t hash = 0;
    if (df_digest(path, &hash) != DF_OK) hash = 0;
    df_free(path);
    return hash;
}

/* With room for all rows, for some, and for a handful: the same file on one rank and on all. */
static void shuffle_is_exact_on_any_ranks_and_memory(void **state) {
    (void)state;
    df_rows *rows = open_rows(2, &usual), *shuffled = NULL;
    uint64_t first = 0, n = df_rows_count(rows);
    const uint64_t memory[3] = {1 << 20, 20000, 900};
    for (int m = 0; m < 3; m++) {
        df_test_all(world, df_comm_rank(world) != 0 ||
                               shuffle(self, rows, "alone.rows.h5", memory[m]) == DF_OK);
        df_test_all(world, shuffle(world, rows, "all.rows.h5", memory[m]) == DF_OK);
        uint64_t hash = digest_of_rows("all.rows.h5");
        first = m == 0 ? hash : first;
        df_test_all(world, hash == first && hash == digest_of_rows("alone.rows.h5"));
    }
    char *path = in_folder("all.rows.h5");
    df_test_all(world, df_rows_open_shuffled(path, &shuffled) == DF_OK);
    df_test_all(world, df_rows_count(shuffled) == n && df_rows_width(shuffled) == WIDTH);
    bool same = true;
    for (uint64_t j = 0; j < n; j++) {
        uint64_t i = df_random_permute(9, DF_STREAM_SHUFFLE, n, j);
        float x[WIDTH], y[WIDTH];
        same = same && df_rows_read(shuffled, &j, 1, x) == DF_OK &&
               df_rows_read(rows, &i, 1, y) == DF_OK && memcmp(x, y, sizeof x) == 0 &&
               df_rows_source(shuffled, j) == df_rows_source(rows, i);
    }
    df_test_all(world, same);
    char *summary = NULL;
    df_test_all(world, df_check(path, &summary) == DF_OK);
    df_free(summary);
    df_free(path);
    df_rows_close(&shuffled);
    df_rows_close(&rows);
}

static void shuffle_leaves_nothing_behind(void **state) {
    (void)state;
    df_rows *rows = NULL;
    df_acts *file[1] = {bad};
    char *path = in_folder("refused.rows.h5"), *part = in_folder("refused.rows.h5.part");
    df_test_all(world, df_rows_open(&(df_rows_files){file, site, 1, 1}, &usual, &rows) == DF_OK);
    df_test_all(world, df_test_fails(shuffle(world, rows, "refused.rows.h5", 1 << 20), DF_BAD_INPUT,
                                     "row 37 (document 1"));
    df_test_all(world, !df_file_exists(path) && !df_file_exists(part));
    df_stop_halt_file(bad->path);
    df_status stopped = shuffle(world, rows, "refused.rows.h5", 1 << 20);
    df_stop_halt_file(NULL);
    df_test_all(world, df_test_fails(stopped, DF_STOPPED, "begins anew"));
    df_test_all(world, !df_file_exists(path) && !df_file_exists(part));
    df_test_all(world, df_test_fails(shuffle(world, rows, "nowhere/x.rows.h5", 1 << 20), DF_FAILED,
                                     "nowhere/x.rows.h5"));
    df_rows_close(&rows);
    df_free(path);
    df_free(part);
}

static void cut_shuffled_file_is_refused(void **state) {
    (void)state;
    df_rows *rows = open_rows(1, &usual), *shuffled = NULL;
    char *path = in_folder("cut.rows.h5");
    df_test_all(world, shuffle(world, rows, "cut.rows.h5", 1 << 20) == DF_OK);
    if (df_comm_rank(world) == 0 && truncate(path, 40000) != 0) fail();
    df_barrier(world);
    df_test_all(world,
                df_test_fails(df_rows_open_shuffled(path, &shuffled), DF_BAD_INPUT, "cut.rows"));
    df_test_all(world, df_test_fails(df_rows_open_shuffled(acts[0]->path, &shuffled), DF_BAD_INPUT,
                                     "darkfield-rows"));
    df_rows_close(&rows);
    df_free(path);
}

/* ---- synthetic rows - */

static void synthetic_rows_are_what_they_say(void **state) {
    (void)state;
    const df_synthetic toy = {.models = 2,
                              .width = 64,
                              .directions = 128,
                              .exclusive = 16,
                              .probability = 0.05,
                              .low = 0.5,
                              .high = 1,
                              .seed = 3};
    df_rows *rows = NULL;
    enum { N = 4000 };
    static float x[N * 128];
    uint64_t number[N];
    int classes[3] = {0}, kind;
    float direction[128];
    double square[2] = {0};
    df_test_all(world, df_rows_open_synthetic(&toy, &rows) == DF_OK);
    for (uint64_t i = 0; i < N; i++) number[i] = i;
    df_test_all(world, df_rows_read(rows, number, N, x) == DF_OK);
    for (size_t f = 0; f < 128; f++) {
        df_synthetic_direction(&toy, f, direction, &kind);
        classes[kind]++;
        double a = df_sum_squares(direction, 64), b = df_sum_squares(direction + 64, 64);
        df_test_all(world, fabs(a - (kind != 2)) < 1e-6 && fabs(b - (kind != 1)) < 1e-6);
    }
    df_test_all(world, classes[0] == 96 && classes[1] == 16 && classes[2] == 16);
    for (size_t r = 0; r < N; r++)
        for (int m = 0; m < 2; m++)
            square[m] += df_sum_squares(x + (2 * r + (size_t)m) * 64, 64) / N;
    // 112 directions of a model * 0.05 * mean strength squared 7/12, and chance overlaps
    for (int m = 0; m < 2; m++) df_test_all(world, fabs(square[m] - 3.267) < 0.4);
    df_rows_close(&rows);
    df_synthetic wrong = toy;
    wrong.exclusive = 65;
    df_test_all(world, df_test_fails(df_rows_open_synthetic(&wrong, &rows), DF_USAGE, "128"));
}

/* ---- training - */

static const df_train_options common = {TRAINING_BATCHTOPK, .steps = 50};

static uint64_t trained(df_comm *comm, const df_rows *rows, const char *name, df_shuffle how) {
    df_train_options o = common;
    o.shuffle = how;
    df_status status = train_on(comm, rows, name, &o);
    if (status != DF_OK) print_error("%s\n", df_error_text());
    return status == DF_OK ? digest_of(name) : 0;
}

/* Stopped in the middle of an epoch and of a buffer. */
static df_status train_and_stop(df_comm *comm, const df_rows *rows, const char *name,
                                df_shuffle how) {
    df_train_options o = common;
    o.shuffle = how;
    return train_on_and_stop(comm, rows, name, &o, 23);
}

static void every_order_trains_alike_on_any_ranks(void **state) {
    (void)state;
    const df_synthetic toy = {.models = 1,
                              .width = 24,
                              .directions = 40,
                              .probability = 0.1,
                              .low = 0.5,
                              .high = 1,
                              .seed = 3};
    df_rows *rows[3] = {open_rows(1, &usual)};
    char *path = in_folder("train.rows.h5");
    df_test_all(world, shuffle(world, rows[0], "train.rows.h5", 20000) == DF_OK);
    df_test_all(world, df_rows_open_shuffled(path, &rows[1]) == DF_OK);
    df_test_all(world, df_rows_open_synthetic(&toy, &rows[2]) == DF_OK);
    for (int how = DF_SHUFFLE_EXACT; how <= DF_SHUFFLE_PLAIN; how++) {
        const df_rows *set = rows[how < DF_SHUFFLE_GLOBAL ? 0 : how - 1];
        uint64_t alone = 0;
        if (df_comm_rank(world) == 0) alone = trained(self, set, "alone", (df_shuffle)how);
        df_broadcast(world, 0, &alone, sizeof alone);
        df_test_all(world, alone != 0 && trained(world, set, "all", (df_shuffle)how) == alone);
        df_status status = train_and_stop(world, set, "wide", (df_shuffle)how);
        df_test_all(world, df_test_fails(status, DF_STOPPED, "stopped on request"));
        uint64_t resumed = 0;
        if (df_comm_rank(world) == 0) resumed = trained(self, set, "wide", (df_shuffle)how);
        df_broadcast(world, 0, &resumed, sizeof resumed);
        df_test_all(world, resumed == alone);
    }
    for (int i = 0; i < 3; i++) df_rows_close(&rows[i]);
    df_free(path);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(filters_choose_rows),
    cmocka_unit_test(reads_across_files),
    cmocka_unit_test(rows_may_be_made),
    cmocka_unit_test(files_must_fit),
    cmocka_unit_test(bad_rows_are_named_or_dropped),
    cmocka_unit_test(every_epoch_has_every_row_once),
    cmocka_unit_test(epochs_differ_and_buffers_mix),
    cmocka_unit_test(shuffle_is_exact_on_any_ranks_and_memory),
    cmocka_unit_test(shuffle_leaves_nothing_behind),
    cmocka_unit_test(cut_shuffled_file_is_refused),
    cmocka_unit_test(synthetic_rows_are_what_they_say),
    cmocka_unit_test(every_order_trains_alike_on_any_ranks)};

DF_TEST_MPI_MAIN(world, tests, set_up, training_close)
