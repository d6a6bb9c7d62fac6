/* Dictionary files: what is saved comes back on any number of ranks; damaged and hostile files are
 * named. */
#include "synthetic.h"

#include "darkfield/dict.h"

#include <unistd.h>

enum { LATENTS = 80, WIDTH = 7 };

static df_comm *world;
static char *folder;

static int set_up(void **state) {
    (void)state;
    df_log_quiet(true);
    folder = synthetic_folder(world, "dict-file");
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    df_free(folder);
    return 0;
}

static const df_provenance facts = {.command = "test",
                                    .hosts = "here",
                                    .kernel_path = "",
                                    .volatile_options = "",
                                    .commit = "",
                                    .build = ""};

/* Weight c of row j: exact in fp32. */
static float weight(size_t j, size_t c, float part) {
    return (float)j + (float)c / 64.0f + part;
}

static df_dict *make_dict(df_comm *comm) {
    static char name[] = "blocks.1.hook_resid_post", base[] = "base", tuned[] = "tuned";
    const df_dict_site sites[2] = {{name, base, 0, 3, 0.25}, {name, tuned, 3, 4, 1.0 / 3}};
    df_dict *d = NULL;
    df_test_all(world, df_dict_new(comm, LATENTS, sites, 2, &d) == DF_OK);
    for (size_t i = 0; i < d->mine.count * WIDTH; i++) {
        d->w_enc[i] = weight(d->mine.first + i / WIDTH, i % WIDTH, 0.25f);
        d->w_dec[i] = weight(d->mine.first + i / WIDTH, i % WIDTH, 0.5f);
    }
    for (size_t j = 0; j < d->mine.count; j++) d->b_enc[j] = -(float)(d->mine.first + j);
    for (size_t c = 0; c < WIDTH; c++) d->b_dec[c] = (float)c;
    d->activation = DF_BATCHTOPK;
    d->code_norm = DF_NORM_ROOT;
    d->k = 4;
    d->threshold = 0.125f;
    d->subtract_bias = false;
    return d;
}

static bool same_numbers(const df_dict *d) {
    bool same = true;
    for (size_t i = 0; i < d->mine.count * WIDTH; i++)
        same = same && d->w_enc[i] == weight(d->mine.first + i / WIDTH, i % WIDTH, 0.25f) &&
               d->w_dec[i] == weight(d->mine.first + i / WIDTH, i % WIDTH, 0.5f);
    for (size_t j = 0; j < d->mine.count; j++)
        same = same && d->b_enc[j] == -(float)(d->mine.first + j);
    for (size_t c = 0; c < WIDTH; c++) same = same && d->b_dec[c] == (float)c;
    return same;
}

static bool same_settings(const df_dict *d) {
    return d->latents == LATENTS && d->width == WIDTH && d->activation == DF_BATCHTOPK &&
           d->code_norm == DF_NORM_ROOT && d->k == 4 && d->threshold == 0.125f &&
           !d->subtract_bias && d->sites == 2 &&
           strcmp(d->site[1].name, "blocks.1.hook_resid_post") == 0 &&
           strcmp(d->site[0].model, "base") == 0 && strcmp(d->site[1].model, "tuned") == 0 &&
           d->site[1].first == 3 && d->site[1].width == 4 && d->site[0].scale == 0.25 &&
           d->site[1].scale == 1.0 / 3 && strcmp(d->job, "a job\n") == 0;
}

static void comes_back(void **state) {
    (void)state;
    char *path = df_format("%s/whole.dict.h5", folder), *summary = NULL;
    double values[2 * 11] = {0};
    for (int i = 0; i < 22; i++) values[i] = i;
    df_history history = {.rows = 2, .capacity = 2, .sites = 2, .values = values};
    df_dict *d = make_dict(world), *back = NULL;
    df_test_all(world, df_dict_save(world, path, d, &history, "a job\n", 9, 1000, &facts) == DF_OK);
    df_dict_free(&d);
    df_test_all(world, df_check(path, &summary) == DF_OK);
    df_free(summary);
    df_test_all(world, df_dict_load(world, path, &back) == DF_OK);
    df_test_all(world, same_numbers(back) && same_settings(back));
    df_dict_free(&back);
    df_reader *file = NULL;
    double *lr = NULL;
    df_test_all(world, df_reader_open(path, "darkfield-dictionary", &file) == DF_OK);
    df_test_all(world, df_reader_all(file, "/history/lr", DF_F64, 2, (void **)&lr) == DF_OK &&
                           lr[0] == 8 && lr[1] == 19);
    df_test_all(world, df_reader_has(file, "/history/fvu.tuned"));
    df_free(lr);
    df_reader_close(&file);
    df_free(path);
}

/* The same bytes whether one rank or all write. */
static void same_digest(void **state) {
    (void)state;
    char *all = df_format("%s/all.dict.h5", folder),
         *one = df_format("%s/one-%d.dict.h5", folder, df_comm_rank(world));
    df_comm *self = NULL;
    uint64_t a = 0, b = 1;
    df_dict *d = make_dict(world);
    df_test_all(world, df_dict_save(world, all, d, NULL, "a job\n", 9, 1000, &facts) == DF_OK);
    df_dict_free(&d);
    df_test_all(world, df_comm_self(&self) == DF_OK);
    d = make_dict(self);
    df_test_all(world, df_dict_save(self, one, d, NULL, "a job\n", 9, 1000, &facts) == DF_OK);
    df_test_all(world, df_digest(all, &a) == DF_OK && df_digest(one, &b) == DF_OK && a == b);
    df_dict_free(&d);
    df_comm_free(&self);
    df_free(all);
    df_free(one);
}

/* ---- hostile files -------------------------------------------------------------------------- */

/* A dictionary file with any of its parts wrong. */
typedef struct forged {
    const char *format, *activation, *norm;
    uint64_t group[6], latents, width; /* of the matrices */
    uint64_t sites, first[2], site_width[2];
    double scale;
    int64_t k;
    float weight;
    const char *left_out, *part; /* a dataset that is missing; what the message must say */
} forged;

static const forged sound = {"darkfield-dictionary",
                             "batchtopk",
                             "sum",
                             {0, 16, 0, 5, 0, 5},
                             16,
                             5,
                             2,
                             {0, 2},
                             {2, 3},
                             1,
                             2,
                             0.5f,
                             "",
                             ""};

static int declare(df_file *file, const forged *f, const df_dataset *spec) {
    int id = -1;
    if (strcmp(f->left_out, spec->path) != 0) assert_ok(df_file_dataset(file, spec, &id));
    return id;
}

static void put(df_file *file, int id, uint64_t rows, const void *data) {
    if (id >= 0) assert_ok(df_file_write(file, id, 0, rows, data));
}

static void forge(df_comm *self, const char *path, const forged *f) {
    df_file *file = NULL;
    float weights[32 * 8];
    double scale[2] = {f->scale, f->scale};
    for (int i = 0; i < 32 * 8; i++) weights[i] = i == 19 ? f->weight : 0.5f;
    assert_ok(df_file_create(self, path, f->format, &file));
    assert_ok(df_file_text(file, "/", "activation", f->activation));
    assert_ok(df_file_text(file, "/", "code_norm", f->norm));
    assert_ok(df_file_text(file, "/", "job", "forged"));
    assert_ok(df_file_int(file, "/", "k", f->k));
    assert_ok(df_file_int(file, "/", "subtract_bias", 1));
    const df_dataset all[] = {{"/groups", DF_U64, 2, {1, 6}, "1", "", ""},
                              {"/group/0/W_enc", DF_F32, 2, {f->latents, f->width}, "1", "", ""},
                              {"/group/0/W_dec", DF_F32, 2, {f->latents, f->width}, "1", "", ""},
                              {"/group/0/b_enc", DF_F32, 1, {f->latents}, "1", "", ""},
                              {"/b_dec", DF_F32, 1, {f->width}, "1", "", ""},
                              {"/group/0/threshold", DF_F32, 1, {1}, "1", "", ""},
                              {"/sites/input/first", DF_U64, 1, {f->sites}, "1", "", ""},
                              {"/sites/input/width", DF_U64, 1, {f->sites}, "1", "", ""},
                              {"/sites/input/scale", DF_F64, 1, {f->sites}, "1", "", ""}};
    const void *data[] = {f->group, weights,  weights,       weights, weights,
                          weights,  f->first, f->site_width, scale};
    int id[9];
    for (int i = 0; i < 9; i++) id[i] = declare(file, f, &all[i]);
    for (uint64_t s = 0; s < f->sites; s++) {
        char name[32];
        snprintf(name, sizeof name, "name%llu", (unsigned long long)s);
        assert_ok(df_file_text(file, "/sites/input", name, "blocks.0.hook_resid_post"));
        snprintf(name, sizeof name, "model%llu", (unsigned long long)s);
        assert_ok(df_file_text(file, "/sites/input", name, "m"));
    }
    assert_ok(df_file_ready(file));
    for (int i = 0; i < 9; i++) put(file, id[i], all[i].shape[0], data[i]);
    assert_ok(df_file_finish(&file));
}

static bool refused(const char *path, const char *part) {
    df_dict *d = NULL;
    df_status status = df_dict_load(world, path, &d);
    bool good = status == DF_BAD_INPUT && d == NULL && strstr(df_error_text(), part) != NULL &&
                strstr(df_error_text(), path) != NULL;
    if (!good)
        fprintf(stderr, "status %d, \"%s\"; expected \"%s\"\n", (int)status, df_error_text(), part);
    df_error_clear();
    df_dict_free(&d);
    return good;
}

static void forged_files_are_refused(void **state) {
    (void)state;
    forged f[16];
    size_t n = 0;
    for (int i = 0; i < 16; i++) f[i] = sound;
    f[n].format = "darkfield-statistics", f[n++].part = "darkfield-statistics";
    f[n].activation = "sigmoid", f[n++].part = "sigmoid";
    f[n].norm = "max", f[n++].part = "max";
    f[n].group[1] = 0, f[n++].part = "/groups";
    f[n].group[1] = UINT64_MAX, f[n++].part = "/groups";
    f[n].group[5] = 4, f[n++].part = "/groups";
    f[n].latents = 17, f[n++].part = "/group/0/W_enc";
    f[n].width = 6, f[n++].part = "/group/0/W_enc";
    f[n].k = 0, f[n++].part = "k is 0";
    f[n].k = 17, f[n++].part = "k is 17";
    f[n].scale = -1, f[n++].part = "scale -1";
    f[n].site_width[1] = 2, f[n++].part = "fill 4 of 5";
    f[n].site_width[1] = UINT64_MAX, f[n++].part = "site 1 has columns";
    f[n].first[1] = 1, f[n++].part = "site 1 has columns";
    f[n].weight = NAN, f[n++].part = "in row 3";
    f[n].left_out = "/group/0/threshold", f[n++].part = "/group/0/threshold";
    char *path = df_format("%s/forged.dict.h5", folder);
    df_comm *self = NULL;
    df_test_all(world, df_comm_self(&self) == DF_OK);
    for (size_t i = 0; i < n; i++) {
        if (df_comm_rank(world) == 0) forge(self, path, &f[i]);
        df_barrier(world);
        df_test_all(world, refused(path, f[i].part));
    }
    if (df_comm_rank(world) == 0) forge(self, path, &sound);
    df_barrier(world);
    df_dict *d = NULL;
    df_test_all(world, df_dict_load(world, path, &d) == DF_OK && d->threshold == 0.5f);
    df_dict_free(&d);
    df_comm_free(&self);
    df_free(path);
}

/* Cut anywhere, or missing: refused, never a crash. */
static void truncated_files_are_refused(void **state) {
    (void)state;
    char *path = df_format("%s/cut.dict.h5", folder);
    df_dict *d = make_dict(world);
    df_test_all(world, refused(path, "cut.dict.h5"));
    for (long part = 1; part < 10; part++) {
        df_test_all(world, df_dict_save(world, path, d, NULL, "a job\n", 9, 1000, &facts) == DF_OK);
        if (df_comm_rank(world) == 0) {
            FILE *file = fopen(path, "rb");
            fseek(file, 0, SEEK_END);
            long bytes = ftell(file);
            fclose(file);
            assert_int_equal(truncate(path, bytes * part / 10), 0);
        }
        df_barrier(world);
        df_test_all(world, refused(path, "cut.dict.h5"));
    }
    df_dict_free(&d);
    df_free(path);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(comes_back), cmocka_unit_test(same_digest),
                                       cmocka_unit_test(forged_files_are_refused),
                                       cmocka_unit_test(truncated_files_are_refused)};
    if (df_comm_start(&argc, &argv, &world) != DF_OK) return 1;
    if (df_comm_rank(world) != 0 && freopen("/dev/null", "w", stdout) == NULL) return 1;
    uint64_t failed = (uint64_t)cmocka_run_group_tests(tests, set_up, tear_down);
    df_max_u64(world, &failed, 1);
    df_comm_finish(&world);
    return failed != 0;
}
