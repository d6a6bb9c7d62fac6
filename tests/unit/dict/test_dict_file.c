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
    folder = df_test_shared_folder(world, "dict-file");
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    df_free(folder);
    return 0;
}

static const df_provenance facts = DF_TEST_FACTS;

/* Weight c of row j: exact in fp32. */
static float weight(size_t j, size_t c, float part) {
    return (float)j + (float)c / 64.0f + part;
}

static df_dict *make_dict(df_comm *comm) {
    static char name[] = "blocks.1.hook_resid_post", base[] = "base", tuned[] = "tuned";
    const df_dict_site sites[2] = {{name, base, 0, 3, 0.25, true, true, DF_TOKEN_NONE},
                                   {name, tuned, 3, 4, 1.0 / 3, true, true, DF_TOKEN_NONE}};
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

static void comes_back(void **state) {
    (void)state;
    char *path = df_format("%s/whole.dict.h5", folder), *summary = NULL;
    double values[2 * 15] = {0};
    for (int i = 0; i < 30; i++) values[i] = i;
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
                           lr[0] == 8 && lr[1] == 23);
    df_test_all(world, df_reader_has(file, "/history/fvu.tuned"));
    df_free(lr);
    df_reader_close(&file);
    df_free(path);
}

/* Thresholds of sites come back; nested dictionaries have none. */
static void site_thresholds_come_back(void **state) {
    (void)state;
    char *path = df_format("%s/decoupled.dict.h5", folder);
    for (int nested = 0; nested < 2; nested++) {
        df_dict *d = make_dict(world), *back = NULL;
        d->code_norm = DF_NORM_DECOUPLED;
        d->site_threshold[0] = 0.25f, d->site_threshold[1] = 1.0f / 3;
        if (nested) d->prefixes = 1, d->prefix[0] = LATENTS;
        df_test_all(world, df_dict_save(world, path, d, NULL, "", 9, 0, &facts) == DF_OK);
        df_dict_free(&d);
        df_test_all(world, nested ? refused(path, "nested")
                                  : df_dict_load(world, path, &back) == DF_OK &&
                                        back->code_norm == DF_NORM_DECOUPLED &&
                                        back->site_threshold[0] == 0.25f &&
                                        back->site_threshold[1] == 1.0f / 3);
        df_dict_free(&back);
    }
    df_free(path);
}

/* How rows are normalised comes back, site by site; a file that says nothing of it is of rows that
 * are not. */
static void token_norms_come_back(void **state) {
    (void)state;
    char *path = df_format("%s/token.dict.h5", folder), *text = NULL;
    df_dict *d = make_dict(world), *back = NULL;
    df_reader *file = NULL;
    d->site[1].token_norm = DF_TOKEN_NORM;
    df_test_all(world, df_dict_save(world, path, d, NULL, "a job\n", 9, 1000, &facts) == DF_OK);
    df_test_all(world, df_dict_load(world, path, &back) == DF_OK);
    df_test_all(world, same_numbers(back) && back->site[0].token_norm == DF_TOKEN_NONE &&
                           back->site[1].token_norm == DF_TOKEN_NORM && df_dict_tokenwise(back));
    df_dict_free(&back);
    df_test_all(world, df_dict_load_outline(path, 4, 1, &back) == DF_OK && df_dict_tokenwise(back));
    df_test_all(world, df_reader_open(path, "darkfield-dictionary", &file) == DF_OK);
    df_test_all(world, df_test_fails(df_reader_text(file, "/sites/input", "token_norm0", &text),
                                     DF_BAD_INPUT, "token_norm0"));
    df_reader_close(&file);
    df_dict_free(&back);
    df_dict_free(&d);
    df_free(path);
}

/* Thresholds and gates come back; what they must not be is refused. */
static void own_numbers_come_back(void **state) {
    (void)state;
    char *path = df_format("%s/own.dict.h5", folder);
    const df_activation kinds[] = {DF_JUMPRELU, DF_GATED, DF_JUMPRELU,
                                   DF_JUMPRELU, DF_GATED, DF_GATED};
    const char *part[] = {NULL, NULL, "below 0", "holds inf", "logarithm", "holds nan"};
    for (int i = 0; i < 6; i++) {
        df_dict *d = make_dict(world), *back = NULL;
        d->activation = kinds[i];
        for (size_t j = 0; j < d->mine.count; j++) {
            d->theta[j] = weight(d->mine.first + j, 1, 0.0f);
            d->r_mag[j] = weight(0, j % 60, -0.25f);
            d->b_mag[j] = -weight(d->mine.first + j, 2, 0.0f);
        }
        if (d->mine.count > 0 && i == 2) d->theta[d->mine.count - 1] = -1e-3f;
        if (d->mine.count > 0 && i == 3) d->theta[0] = INFINITY;
        if (d->mine.count > 0 && i == 4) d->r_mag[0] = 81.0f;
        if (d->mine.count > 0 && i == 5) d->b_mag[0] = NAN;
        df_test_all(world, df_dict_save(world, path, d, NULL, "a job\n", 9, 1000, &facts) == DF_OK);
        if (part[i] != NULL) {
            df_test_all(world, refused(path, part[i]));
        } else {
            df_test_all(world, df_dict_load(world, path, &back) == DF_OK);
            size_t bytes = d->mine.count * sizeof(float);
            bool jump = kinds[i] == DF_JUMPRELU;
            df_test_all(world, back->activation == kinds[i] && same_numbers(back));
            df_test_all(world, !jump || memcmp(back->theta, d->theta, bytes) == 0);
            df_test_all(world, jump || (memcmp(back->r_mag, d->r_mag, bytes) == 0 &&
                                        memcmp(back->b_mag, d->b_mag, bytes) == 0));
        }
        df_dict_free(&back);
        df_dict_free(&d);
    }
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
    const char *format, *kind, *activation, *norm;
    uint64_t groups, group[2][6];
    uint64_t latents, width, b_dec;                   /* of group 0's matrices; of b_dec */
    uint64_t sites[2], first[2][2], site_width[2][2]; /* input, output */
    double scale;
    int64_t k, subtract;
    float weight, threshold;     /* of group 0's encoder; of the last group */
    const char *token_norm[2];   /* of the first input and output site; NULL: nothing is said */
    const char *left_out, *part; /* a dataset that is missing; what the message must say */
} forged;

static const forged sound = {.format = "darkfield-dictionary",
                             .kind = "crosscoder",
                             .activation = "batchtopk",
                             .norm = "sum",
                             .groups = 1,
                             .group = {{0, 16, 0, 5, 0, 5}},
                             .latents = 16,
                             .width = 5,
                             .b_dec = 5,
                             .sites = {2, 2},
                             .first = {{0, 2}, {0, 2}},
                             .site_width = {{2, 3}, {2, 3}},
                             .scale = 1,
                             .k = 2,
                             .subtract = 1,
                             .weight = 0.5f,
                             .threshold = 0.5f,
                             .left_out = "",
                             .part = ""};

/* Two layers: widths 2 and 3 are read, 1 and 2 are written. */
static const forged layers = {.format = "darkfield-dictionary",
                              .kind = "clt",
                              .activation = "batchtopk",
                              .norm = "sum",
                              .groups = 2,
                              .group = {{0, 16, 0, 2, 5, 3}, {16, 9, 2, 3, 6, 2}},
                              .latents = 16,
                              .width = 2,
                              .b_dec = 3,
                              .sites = {2, 2},
                              .first = {{0, 2}, {5, 6}},
                              .site_width = {{2, 3}, {1, 2}},
                              .scale = 1,
                              .k = 2,
                              .weight = 0.5f,
                              .threshold = 0.5f,
                              .left_out = "",
                              .part = ""};

/* The first layer of it, with a linear skip. */
static const forged skip = {.format = "darkfield-dictionary",
                            .kind = "skip-transcoder",
                            .activation = "batchtopk",
                            .norm = "sum",
                            .groups = 1,
                            .group = {{0, 16, 0, 2, 2, 3}},
                            .latents = 16,
                            .width = 2,
                            .b_dec = 3,
                            .sites = {1, 1},
                            .first = {{0}, {2}},
                            .site_width = {{2}, {3}},
                            .scale = 1,
                            .k = 2,
                            .weight = 0.5f,
                            .threshold = 0.5f,
                            .left_out = "",
                            .part = ""};

/* What is put into the file once it is laid out. */
typedef struct pending {
    int id[24];
    uint64_t rows[24];
    const void *data[24];
    size_t n;
} pending;

static void add(df_file *file, const forged *f, const char *path, df_dataset spec, const void *data,
                pending *p) {
    if (strcmp(f->left_out, path) == 0) return;
    spec.path = path;
    spec.units = "1";
    spec.long_name = spec.labels = "";
    assert_ok(df_file_dataset(file, &spec, &p->id[p->n]));
    p->rows[p->n] = spec.shape[0];
    p->data[p->n++] = data;
}

static void add_group(df_file *file, const forged *f, size_t g, const float *weights, pending *p) {
    uint64_t m = g == 0 ? f->latents : f->group[g][1], in = g == 0 ? f->width : f->group[g][3];
    uint64_t out = f->group[g][5] < 8 ? f->group[g][5] : 8;
    char path[64];
    snprintf(path, sizeof path, "/group/%zu/W_enc", g);
    add(file, f, path, (df_dataset){.type = DF_F32, .dims = 2, .shape = {m, in}}, weights, p);
    snprintf(path, sizeof path, "/group/%zu/W_dec", g);
    add(file, f, path, (df_dataset){.type = DF_F32, .dims = 2, .shape = {m, out}}, weights + 256,
        p);
    snprintf(path, sizeof path, "/group/%zu/b_enc", g);
    add(file, f, path, (df_dataset){.type = DF_F32, .dims = 1, .shape = {m}}, weights + 256, p);
    snprintf(path, sizeof path, "/group/%zu/threshold", g);
    add(file, f, path, (df_dataset){.type = DF_F32, .dims = 1, .shape = {1}},
        g + 1 == f->groups ? &f->threshold : weights + 256, p);
}

static void add_sites(df_file *file, const forged *f, int side, const double *scale, pending *p) {
    const char *where = side == 0 ? "/sites/input" : "/sites/output";
    uint64_t n = f->sites[side];
    char text[64];
    snprintf(text, sizeof text, "%s/first", where);
    add(file, f, text, (df_dataset){.type = DF_U64, .dims = 1, .shape = {n}}, f->first[side], p);
    snprintf(text, sizeof text, "%s/width", where);
    add(file, f, text, (df_dataset){.type = DF_U64, .dims = 1, .shape = {n}}, f->site_width[side],
        p);
    snprintf(text, sizeof text, "%s/scale", where);
    add(file, f, text, (df_dataset){.type = DF_F64, .dims = 1, .shape = {n}}, scale, p);
    for (uint64_t s = 0; s < n; s++) {
        snprintf(text, sizeof text, "name%llu", (unsigned long long)s);
        assert_ok(df_file_text(file, where, text, "blocks.0.hook_resid_post"));
        snprintf(text, sizeof text, "model%llu", (unsigned long long)s);
        assert_ok(df_file_text(file, where, text, "m"));
    }
    if (f->token_norm[side] != NULL)
        assert_ok(df_file_text(file, where, "token_norm0", f->token_norm[side]));
}

static void forge(df_comm *self, const char *path, const forged *f) {
    df_file *file = NULL;
    float weights[512];
    double scale[2] = {f->scale, f->scale};
    pending p = {.n = 0};
    for (int i = 0; i < 512; i++) weights[i] = i == 19 ? f->weight : 0.5f;
    assert_ok(df_file_create(self, path, f->format, &file));
    assert_ok(df_file_text(file, "/", "kind", f->kind));
    assert_ok(df_file_text(file, "/", "activation", f->activation));
    assert_ok(df_file_text(file, "/", "code_norm", f->norm));
    assert_ok(df_file_text(file, "/", "job", "forged"));
    assert_ok(df_file_int(file, "/", "k", f->k));
    assert_ok(df_file_int(file, "/", "subtract_bias", f->subtract));
    add(file, f, "/groups", (df_dataset){.type = DF_U64, .dims = 2, .shape = {f->groups, 6}},
        f->group, &p);
    for (size_t g = 0; g < f->groups; g++) add_group(file, f, g, weights, &p);
    add(file, f, "/b_dec", (df_dataset){.type = DF_F32, .dims = 1, .shape = {f->b_dec}}, weights,
        &p);
    if (strcmp(f->kind, "skip-transcoder") == 0)
        add(file, f, "/W_skip", (df_dataset){.type = DF_F32, .dims = 2, .shape = {3, 2}}, weights,
            &p);
    for (int side = 0; side < 2; side++) add_sites(file, f, side, scale, &p);
    assert_ok(df_file_ready(file));
    for (size_t i = 0; i < p.n; i++)
        assert_ok(df_file_write(file, p.id[i], 0, p.rows[i], p.data[i]));
    assert_ok(df_file_finish(&file));
}

static void refuse_all(const forged *f, size_t n, const forged *good) {
    char *path = df_format("%s/forged.dict.h5", folder);
    df_comm *self = NULL;
    df_test_all(world, df_comm_self(&self) == DF_OK);
    for (size_t i = 0; i < n; i++) {
        if (df_comm_rank(world) == 0) forge(self, path, &f[i]);
        df_barrier(world);
        df_test_all(world, refused(path, f[i].part));
        df_barrier(world);
    }
    if (df_comm_rank(world) == 0) forge(self, path, good);
    df_barrier(world);
    df_dict *d = NULL;
    df_test_all(world, df_dict_load(world, path, &d) == DF_OK && d->threshold == 0.5f);
    df_dict_free(&d);
    df_comm_free(&self);
    df_free(path);
}

static void forged_files_are_refused(void **state) {
    (void)state;
    forged f[24];
    size_t n = 0;
    for (int i = 0; i < 24; i++) f[i] = sound;
    f[n].activation = "jumprelu", f[n++].part = "/group/0/threshold";
    f[n].activation = "gated", f[n++].part = "/group/0/r_mag";
    f[n].format = "darkfield-statistics", f[n++].part = "darkfield-statistics";
    f[n].kind = "autoencoder", f[n++].part = "autoencoder";
    f[n].kind = "sae", f[n++].part = "kind sae";
    f[n].kind = "transcoder", f[n++].part = "kind transcoder";
    f[n].activation = "sigmoid", f[n++].part = "sigmoid";
    f[n].norm = "max", f[n++].part = "max";
    f[n].group[0][1] = 0, f[n++].part = "/groups";
    f[n].group[0][1] = UINT64_MAX, f[n++].part = "/groups";
    f[n].group[0][5] = 4, f[n++].part = "not those of whole sites";
    f[n].latents = 17, f[n++].part = "/group/0/W_enc";
    f[n].width = 6, f[n++].part = "/group/0/W_enc";
    f[n].b_dec = 4, f[n++].part = "/b_dec";
    f[n].k = 0, f[n++].part = "k is 0";
    f[n].k = 17, f[n++].part = "k is 17";
    f[n].scale = -1, f[n++].part = "scale -1";
    f[n].site_width[0][1] = 2, f[n++].part = "is not the same";
    f[n].site_width[0][1] = UINT64_MAX, f[n++].part = "site 1 has columns";
    f[n].first[0][1] = f[n].first[1][1] = 1, f[n++].part = "expected them to begin at 2";
    f[n].weight = NAN, f[n++].part = "in row 3";
    f[n].left_out = "/group/0/threshold", f[n++].part = "/group/0/threshold";
    f[n].token_norm[0] = f[n].token_norm[1] = "batch", f[n++].part = "\"batch\" is not known";
    f[n].token_norm[0] = "layer", f[n++].part = "is not the same";
    refuse_all(f, n, &sound);
}

static void forged_layers_are_refused(void **state) {
    (void)state;
    forged f[17];
    size_t n = 0;
    for (int i = 0; i < 17; i++) f[i] = layers;
    f[n].group[1][0] = 15, f[n++].part = "neither overlap nor leave gaps";
    f[n].group[1][0] = 17, f[n++].part = "neither overlap nor leave gaps";
    f[n].group[1][2] = 1, f[n++].part = "not those of whole sites";
    f[n].group[1][4] = 7, f[n++].part = "not those of whole sites";
    f[n].group[1][4] = 4, f[n++].part = "not those of whole sites";
    f[n].group[1][2] = f[n].group[1][4] = 6, f[n++].part = "not those of whole sites";
    f[n].group[1][3] = 2, f[n++].part = "not those of whole sites";
    f[n].subtract = 1, f[n++].part = "subtract_bias";
    f[n].kind = "crosscoder", f[n++].part = "kind crosscoder";
    f[n].kind = "skip-transcoder", f[n++].part = "/W_skip";
    f[n].threshold = 0.25f, f[n++].part = "all groups share one";
    f[n].left_out = "/group/1/W_dec", f[n++].part = "/group/1/W_dec";
    f[n].left_out = "/sites/output/scale", f[n++].part = "/sites/output/scale";
    f[n].first[1][0] = 4, f[n++].part = "expected them to begin at 5";
    f[n].first[1][0] = 2, f[n++].part = "is not the same";
    f[n].sites[1] = 1, f[n++].part = "/b_dec";
    f[n].b_dec = 8, f[n++].part = "/b_dec";
    refuse_all(f, n, &layers);
    forged without[4] = {skip, skip, skip, skip};
    without[0].left_out = without[0].part = "/W_skip";
    without[1].kind = "clt", without[1].group[0][4] = 0, without[1].part = "not those of whole";
    without[2].token_norm[1] = "layer", without[2].part = "not both read and written";
    without[3].token_norm[0] = "norm", without[3].part = "not both read and written";
    refuse_all(without, 4, &skip);
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

static const struct CMUnitTest tests[] = {cmocka_unit_test(comes_back),
                                          cmocka_unit_test(same_digest),
                                          cmocka_unit_test(site_thresholds_come_back),
                                          cmocka_unit_test(token_norms_come_back),
                                          cmocka_unit_test(own_numbers_come_back),
                                          cmocka_unit_test(forged_files_are_refused),
                                          cmocka_unit_test(forged_layers_are_refused),
                                          cmocka_unit_test(truncated_files_are_refused)};

DF_TEST_MPI_MAIN(world, tests, set_up, tear_down)
