/* Dictionaries of other projects: what numpy makes of each family's files is what they do here;
 * they go back as they came; ours go out and come back to the bit; hostile folders are refused. */
#include "golden.h"

#include "darkfield/exchange.h"

#include <unistd.h>

#define GOLDEN DF_SOURCE_DIR "/tests/golden/convert/"

static df_comm *world;
static df_kernels *kernels;
static char folder[256];

static int set_up(void **state) {
    (void)state;
    df_log_quiet(true);
    if (df_comm_rank(world) == 0)
        snprintf(folder, sizeof folder, "%s", df_test_folder("dict-exchange"));
    df_broadcast(world, 0, folder, sizeof folder);
    return df_kernels_open("auto", &kernels) != DF_OK;
}

static int tear_down(void **state) {
    (void)state;
    df_kernels_close(&kernels);
    return 0;
}

static const struct {
    const char *name, *format;
} cases[] = {
    {"saelens_standard", "saelens"},
    {"saelens_topk", "saelens"},
    {"saelens_topk_norm", "saelens"},
    {"saelens_jumprelu", "saelens"},
    {"saelens_gated", "saelens"},
    {"saelens_flat", "saelens"},
    {"saelens_skip", "saelens"},
    {"saelens_layer_norm", "saelens"},
    {"saelens_constant_norm_rescale", "saelens"},
    {"dl_AutoEncoder", "dictionary_learning"},
    {"dl_AutoEncoderNew", "dictionary_learning"},
    {"dl_AutoEncoderTopK", "dictionary_learning"},
    {"dl_BatchTopKSAE", "dictionary_learning"},
    {"dl_GatedAutoEncoder", "dictionary_learning"},
    {"dl_JumpReluAutoEncoder", "dictionary_learning"},
    {"dl_MatryoshkaBatchTopKSAE", "dictionary_learning"},
    {"sparsify_sae", "sparsify"},
    {"sparsify_skip", "sparsify"},
    {"gemma_stored", "gemma-scope"},
    {"gemma_deflated", "gemma-scope"},
    {"circuit_plt", "circuit-tracer"},
    {"circuit_clt", "circuit-tracer-clt"},
    {"crosscoder_relu", "crosscoder_learning"},
    {"crosscoder_batchtopk", "crosscoder_learning"},
    {"crosscoder_normalised", "crosscoder_learning"},
    {"crosscoder_decoupled", "crosscoder_learning"},
};
enum { CASES = sizeof cases / sizeof cases[0] };

static const df_exchange_options plain = {.layer = -1};

static df_dict *read_it(const char *path, const df_exchange_options *options,
                        df_exchange_facts *facts) {
    df_dict *d = NULL;
    df_test_all(world, df_exchange_read(world, path, options, &d, facts) == DF_OK);
    return d;
}

/* ---- against numpy -------------------------------------------------------------------------- */

// Codes of this rank as [rows, latents], zeros elsewhere.
static bool same_codes(const df_dict *d, const df_codes *codes, const double *f, double largest) {
    bool good = true;
    for (size_t r = 0; r < codes->rows; r++) {
        size_t at = codes->start[r];
        for (size_t j = 0; j < d->mine.count; j++) {
            double want = f[r * d->latents + d->mine.first + j], have = 0.0;
            if (at < codes->start[r + 1] && codes->latent[at] == j)
                have = (double)codes->value[at++];
            if (!(fabs(want - have) <= 1e-6 * largest)) {
                good = false;
                fprintf(stderr, "row %zu latent %zu: %.9g, numpy has %.9g\n", r, d->mine.first + j,
                        have, want);
            }
        }
    }
    return good;
}

static double biggest(const double *x, uint64_t n) {
    double most = 0.0;
    for (uint64_t i = 0; i < n; i++) most = fabs(x[i]) > most ? fabs(x[i]) : most;
    return most;
}

// x and y in raw activations; scales go in and out here.
static bool does_as(df_dict *d, const golden *g) {
    size_t nx, nf, ny;
    const double *x = golden_find(g, "x", &nx), *f = golden_find(g, "f", &nf),
                 *y = golden_find(g, "y", &ny);
    size_t rows = nx / d->width;
    const df_codes *codes = NULL;
    df_coder *coder = NULL;
    bool good =
        x != NULL && f != NULL && y != NULL && nf == rows * d->latents && ny == rows * d->out.count;
    float *raw = df_alloc(rows * d->width, 4), *in = df_alloc(rows * d->width, 4),
          *out = df_alloc(rows * d->out.count, 4);
    for (size_t i = 0; good && i < nx; i++) in[i] = raw[i] = (float)x[i];
    df_rows_scale(d, in, rows);
    df_status status = df_coder_open(world, kernels, d, rows, &coder);
    if (status == DF_OK) status = df_coder_encode(coder, in, rows, false, &codes);
    good = good && status == DF_OK && same_codes(d, codes, f, biggest(f, nf));
    if (status == DF_OK) status = df_coder_decode(coder, codes, out);
    df_range mine = df_share(rows, df_comm_size(world), df_comm_rank(world));
    df_rows_restore(d, raw + mine.first * d->width, mine.count, out);
    for (size_t i = 0; good && status == DF_OK && i < mine.count * d->out.count; i++) {
        size_t c = i % d->out.count;
        double have = (double)out[i];
        double want = y[mine.first * d->out.count + i];
        good = fabs(have - want) <= 1e-6 * biggest(y, ny);
        if (!good) fprintf(stderr, "column %zu: %.9g, numpy has %.9g\n", c, have, want);
    }
    df_coder_close(&coder);
    df_free(raw);
    df_free(in);
    df_free(out);
    return good && status == DF_OK;
}

static void every_family_does_what_numpy_does(void **state) {
    (void)state;
    for (size_t i = 0; i < CASES; i++) {
        const char *format = NULL;
        char path[400];
        golden numpy = {0};
        df_exchange_facts facts;
        snprintf(path, sizeof path, GOLDEN "%s", cases[i].name);
        df_test_all(world, golden_open(&numpy, "convert/", cases[i].name) == DF_OK);
        df_test_all(world, df_exchange_recognise(path, &format) == DF_OK ||
                               strncmp(cases[i].format, "crosscoder", 10) == 0);
        df_exchange_options options = plain;
        options.format = cases[i].format;
        df_dict *d = read_it(path, &options, &facts);
        bool same = does_as(d, &numpy);
        if (!same) print_error("%s differs\n", cases[i].name);
        df_test_all(world, same);
        df_free(numpy.bytes);
        df_dict_free(&d);
    }
}

/* ---- theirs -> ours -> theirs --------------------------------------------------------------- */

static bool same_tensors(const char *a, const char *b, const char *file) {
    char path[2][500];
    df_tensors *all[2] = {NULL, NULL};
    snprintf(path[0], sizeof path[0], "%s/%s", a, file);
    snprintf(path[1], sizeof path[1], "%s/%s", b, file);
    bool same = df_tensors_open(path[0], &all[0]) == DF_OK &&
                df_tensors_open(path[1], &all[1]) == DF_OK &&
                df_tensors_count(all[0]) == df_tensors_count(all[1]);
    for (size_t i = 0; same && i < df_tensors_count(all[0]); i++) {
        const df_tensor *s = df_tensors_at(all[0], i), *t = df_tensors_at(all[1], i);
        same = strcmp(s->name, t->name) == 0 && s->type == t->type && s->dims == t->dims &&
               memcmp(s->shape, t->shape, sizeof s->shape) == 0 &&
               memcmp(s->data, t->data, s->elements * df_type_bytes(s->type)) == 0;
        if (!same) fprintf(stderr, "%s: %s differs\n", path[1], s->name);
    }
    df_tensors_close(&all[0]);
    df_tensors_close(&all[1]);
    return same;
}

static bool same_text(const char *a, const char *b, const char *file) {
    char path[500], *text[2] = {NULL, NULL};
    size_t n[2];
    snprintf(path, sizeof path, "%s/%s", a, file);
    bool same = df_read_file(path, &text[0], &n[0]) == DF_OK;
    snprintf(path, sizeof path, "%s/%s", b, file);
    same = same && df_read_file(path, &text[1], &n[1]) == DF_OK && n[0] == n[1] &&
           memcmp(text[0], text[1], n[0]) == 0;
    df_free(text[0]);
    df_free(text[1]);
    return same;
}

static const df_provenance nobody = DF_TEST_FACTS;

// By way of a file of ours.
static df_dict *through_file(df_dict *d) {
    char path[400];
    df_dict *again = NULL;
    snprintf(path, sizeof path, "%s/between.dict.h5", folder);
    df_test_all(world, df_dict_save(world, path, d, NULL, d->job, 1, 2, &nobody) == DF_OK);
    df_dict_free(&d);
    df_test_all(world, df_dict_load(world, path, &again) == DF_OK);
    return again;
}

static void what_came_goes_back_as_it_was(void **state) {
    (void)state;
    static const char *const files[] = {"cfg.json",
                                        "config.json",
                                        "config.yaml",
                                        "sae_weights.safetensors",
                                        "params.npz",
                                        "ae.safetensors",
                                        "sae.safetensors",
                                        "layer_3.safetensors",
                                        "model.safetensors",
                                        "W_enc_0.safetensors",
                                        "W_enc_2.safetensors",
                                        "W_dec_1.safetensors"};
    for (size_t i = 0; i < CASES; i++) {
        char path[400], out[400];
        df_exchange_facts facts;
        df_exchange_options options = plain;
        // The mean that its normaliser subtracts has no place of its own with us.
        if (strcmp(cases[i].name, "crosscoder_normalised") == 0) continue;
        options.format = cases[i].format;
        snprintf(path, sizeof path, GOLDEN "%s", cases[i].name);
        snprintf(out, sizeof out, "%s/%s", folder, cases[i].name);
        df_dict *d = through_file(read_it(path, &options, &facts));
        df_test_all(world, df_exchange_write(world, out, d, &options, &facts) == DF_OK);
        df_dict_free(&d);
        for (size_t f = 0; f < sizeof files / sizeof files[0]; f++) {
            char file[500];
            snprintf(file, sizeof file, "%s/%s", path, files[f]);
            if (access(file, F_OK) != 0) continue;
            bool text = strstr(files[f], ".json") != NULL || strstr(files[f], ".yaml") != NULL;
            df_test_all(world,
                        text ? same_text(path, out, files[f]) : same_tensors(path, out, files[f]));
        }
    }
}

/* ---- ours -> theirs -> ours ----------------------------------------------------------------- */

static uint64_t digest_of(const df_dict *d, const char *name) {
    char path[400];
    uint64_t digest = 0;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    df_test_all(world, df_dict_save(world, path, d, NULL, d->job, 3, 4, &nobody) == DF_OK);
    df_test_all(world, df_digest(path, &digest) == DF_OK);
    return digest;
}

static float draw(uint64_t stream, uint64_t i) {
    return (float)df_random_normal(stream, DF_STREAM_TEST, i);
}

// Random weights in dictionary units of sites with scales that are no powers of two.
static df_dict *ours(df_dict_kind kind, df_activation activation, df_code_norm norm) {
    static char name[4][32] = {"blocks.0.hook_a", "blocks.1.hook_b", "blocks.0.hook_c",
                               "blocks.1.hook_d"};
    static char model[] = "toy";
    df_dict_site site[4];
    bool both = kind == DF_SAE || kind == DF_CROSSCODER;
    size_t n = kind == DF_SAE ? 1 : kind == DF_CLT ? 4 : 2;
    for (size_t s = 0; s < n; s++)
        site[s] = (df_dict_site){.name = name[s],
                                 .model = model,
                                 .width = 12,
                                 .scale = 0.123 + 0.711 * (double)s,
                                 .input = both || s < n / 2,
                                 .output = both || s >= n / 2};
    const df_dict_shape shape = {.kind = kind, .latents = 96, .sites = n, .site = site};
    df_dict *d = NULL;
    df_test_all(world, df_dict_make(world, &shape, &d) == DF_OK);
    d->activation = activation;
    d->code_norm = norm;
    d->k = activation == DF_TOPK || activation == DF_BATCHTOPK ? 5 : 0;
    if (activation == DF_BATCHTOPK) *df_dict_threshold(d, 0) = 0.77f;
    if (df_dict_decoupled(d)) *df_dict_threshold(d, 1) = 1.0f / 3;
    for (size_t j = 0; j < d->mine.count; j++) {
        const df_dict_group *g = df_dict_group_of(d, j);
        uint64_t at = (d->mine.first + j) * 1000;
        for (size_t c = 0; c < g->in.count; c++) df_dict_enc(d, j)[c] = draw(1, at + c);
        for (size_t c = 0; c < g->out.count; c++) df_dict_dec(d, j)[c] = 0.3f * draw(2, at + c);
        d->b_enc[j] = 0.2f * draw(3, at);
        if (activation == DF_JUMPRELU) d->theta[j] = fabsf(draw(4, at));
        if (activation == DF_GATED) d->r_mag[j] = 0.1f * draw(5, at);
        if (activation == DF_GATED) d->b_mag[j] = 0.1f * draw(6, at);
    }
    for (size_t c = 0; c < d->out.count; c++) d->b_dec[c] = draw(7, c);
    for (size_t i = 0; i < d->skip_rows.count * d->in.count; i++)
        d->w_skip[i] = 0.1f * draw(8, d->skip_rows.first * d->in.count + i);
    d->job = df_strdup("train:\n  latents: 96\n");
    return d;
}

// Reconstructions of raw rows by this rank, for comparison.
static float *reconstruct(df_dict *d) {
    enum { ROWS = 8 };
    df_coder *coder = NULL;
    const df_codes *codes = NULL;
    float *raw = df_alloc(ROWS * d->width, 4), *x = df_alloc(ROWS * d->width, 4),
          *y = df_alloc(ROWS * d->out.count, 4);
    for (size_t i = 0; i < ROWS * d->width; i++) x[i] = raw[i] = 5.0f * draw(9, i);
    df_rows_scale(d, x, ROWS);
    df_test_all(world, df_coder_open(world, kernels, d, ROWS, &coder) == DF_OK &&
                           df_coder_encode(coder, x, ROWS, false, &codes) == DF_OK &&
                           df_coder_decode(coder, codes, y) == DF_OK);
    df_range mine = df_share(ROWS, df_comm_size(world), df_comm_rank(world));
    df_rows_restore(d, raw + mine.first * d->width, mine.count, y);
    df_coder_close(&coder);
    df_free(raw);
    df_free(x);
    return y;
}

static bool close_to(const float *a, const float *b, size_t n) {
    double most = 0.0, worst = 0.0;
    for (size_t i = 0; i < n; i++) {
        most = fmax(most, fabs((double)a[i]));
        worst = df_test_worse(worst, fabs((double)a[i] - (double)b[i]));
    }
    if (worst > 3e-6 * most) fprintf(stderr, "worst %g of %g\n", worst, most);
    return worst <= 3e-6 * most;
}

static void ours_come_back_to_the_bit(void **state) {
    (void)state;
    static const struct {
        const char *format;
        df_dict_kind kind;
        df_activation activation;
        df_code_norm norm;
        df_token_norm token_norm;
    } trips[] = {
        {"saelens", DF_SAE, DF_RELU, DF_NORM_SUM, DF_TOKEN_NONE},
        {"saelens", DF_SAE, DF_TOPK, DF_NORM_ROOT, DF_TOKEN_NONE},
        {"saelens", DF_SAE, DF_BATCHTOPK, DF_NORM_ROOT, DF_TOKEN_NONE},
        {"saelens", DF_SAE, DF_TOPK, DF_NORM_ROOT, DF_TOKEN_LAYER},
        {"saelens", DF_SAE, DF_BATCHTOPK, DF_NORM_SUM, DF_TOKEN_NORM},
        {"saelens", DF_SAE, DF_GATED, DF_NORM_NONE, DF_TOKEN_NONE},
        {"saelens", DF_SKIP_TRANSCODER, DF_RELU, DF_NORM_NONE, DF_TOKEN_NONE},
        {"dictionary_learning", DF_SAE, DF_TOPK, DF_NORM_ROOT, DF_TOKEN_NONE},
        {"dictionary_learning", DF_SAE, DF_BATCHTOPK, DF_NORM_SUM, DF_TOKEN_NONE},
        {"dictionary_learning", DF_SAE, DF_JUMPRELU, DF_NORM_NONE, DF_TOKEN_NONE},
        {"sparsify", DF_SAE, DF_TOPK, DF_NORM_NONE, DF_TOKEN_NONE},
        {"sparsify", DF_SKIP_TRANSCODER, DF_TOPK, DF_NORM_NONE, DF_TOKEN_NONE},
        {"gemma-scope", DF_SAE, DF_BATCHTOPK, DF_NORM_ROOT, DF_TOKEN_NONE},
        {"gemma-scope", DF_SAE, DF_JUMPRELU, DF_NORM_NONE, DF_TOKEN_NONE},
        {"circuit-tracer", DF_TRANSCODER, DF_TOPK, DF_NORM_SUM, DF_TOKEN_NONE},
        {"circuit-tracer", DF_SKIP_TRANSCODER, DF_JUMPRELU, DF_NORM_NONE, DF_TOKEN_NONE},
        {"circuit-tracer-clt", DF_CLT, DF_JUMPRELU, DF_NORM_NONE, DF_TOKEN_NONE},
        {"circuit-tracer-clt", DF_CLT, DF_BATCHTOPK, DF_NORM_SUM, DF_TOKEN_NONE},
        {"crosscoder_learning", DF_CROSSCODER, DF_BATCHTOPK, DF_NORM_SUM, DF_TOKEN_NONE},
        {"crosscoder_learning", DF_CROSSCODER, DF_BATCHTOPK, DF_NORM_DECOUPLED, DF_TOKEN_NONE},
        {"crosscoder_learning", DF_CROSSCODER, DF_RELU, DF_NORM_ROOT, DF_TOKEN_NONE},
        {"crosscoder_learning", DF_CROSSCODER, DF_BATCHTOPK, DF_NORM_MIXED,
         DF_TOKEN_NONE}, // and bound
    };
    for (size_t i = 0; i < sizeof trips / sizeof trips[0]; i++) {
        char out[400], file[500];
        df_exchange_options options = plain;
        df_exchange_facts facts = {.seed = 3, .rows_seen = 4}, back;
        options.format = trips[i].format;
        snprintf(out, sizeof out, "%s/trip%zu", folder, i);
        df_dict *d = ours(trips[i].kind, trips[i].activation, trips[i].norm);
        d->site[0].token_norm = trips[i].token_norm;
        if (trips[i].norm == DF_NORM_MIXED) df_test_all(world, df_dict_bind(d, 20, 11) == DF_OK);
        for (size_t j = 0; j < d->mine.count; j++) df_dict_bind_latent(d, j);
        uint64_t digest = digest_of(d, "there.dict.h5");
        df_test_all(world, df_exchange_write(world, out, d, &options, &facts) == DF_OK);
        df_dict *again = read_it(out, &options, &back);
        bool same = digest == digest_of(again, "back.dict.h5") && back.restored && back.seed == 3 &&
                    back.rows_seen == 4;
        if (!same) print_error("%s, trip %zu\n", trips[i].format, i);
        df_test_all(world, same);
        df_dict_free(&again);
        // As anybody would read it: scales of 1 (or those of the file), the same on raw rows.
        df_barrier(world);
        snprintf(file, sizeof file, "%s/darkfield.json", out);
        if (df_comm_rank(world) == 0) unlink(file);
        df_barrier(world);
        options.transcoder = trips[i].kind != DF_SAE;
        again = read_it(out, &options, &back);
        df_test_all(world, !back.restored);
        float *a = reconstruct(d), *b = reconstruct(again);
        same = close_to(a, b,
                        df_share(8, df_comm_size(world), df_comm_rank(world)).count * d->out.count);
        if (!same) print_error("%s, trip %zu, raw rows\n", trips[i].format, i);
        df_test_all(world, same);
        df_free(a);
        df_free(b);
        df_dict_free(&again);
        df_dict_free(&d);
    }
}

/* ---- what is refused ------------------------------------------------------------------------ */

static void refused(const char *path, const df_exchange_options *options, df_status code,
                    const char *because) {
    df_dict *d = NULL;
    df_exchange_facts facts;
    df_status status = df_exchange_read(world, path, options, &d, &facts);
    bool named = df_comm_rank(world) != 0 || strstr(df_error_text(), because) != NULL;
    df_test_all(world, status == code && d == NULL && named);
    df_error_clear();
}

// A copy of a golden folder, one text of a file replaced by another of the same length.
static const char *altered(const char *name, const char *file, const char *from, const char *to) {
    static char out[400];
    snprintf(out, sizeof out, "%s/altered", folder);
    if (df_comm_rank(world) == 0) {
        char command[1200], path[500], *text;
        size_t n, found = 0;
        snprintf(command, sizeof command, "rm -rf '%s' && cp -r '" GOLDEN "%s' '%s'", out, name,
                 out);
        assert_int_equal(system(command), 0);
        snprintf(path, sizeof path, "%s/%s", out, file);
        assert_ok(df_read_file(path, &text, &n));
        for (size_t i = 0; i + strlen(from) <= n && found == 0; i++)
            if (memcmp(text + i, from, strlen(from)) == 0) {
                memcpy(text + i, to, strlen(to));
                found = 1;
            }
        assert_int_equal(found, 1);
        FILE *again = fopen(path, "wb");
        assert_true(again != NULL && fwrite(text, 1, n, again) == n && fclose(again) == 0);
        df_free(text);
    }
    df_barrier(world);
    return out;
}

static void other_mathematics_is_refused_by_name(void **state) {
    (void)state;
    static const struct {
        const char *name, *file, *from, *to, *because;
    } lies[] = {
        {"saelens_standard", "cfg.json", "\"normalize_activations\": \"none\"",
         "\"normalize_activations\": \"norm\"", "\"normalize_activations\" is norm"},
        {"saelens_standard", "cfg.json", "\"reshape_activations\": \"none\"",
         "\"reshape_activations\": \"hook\"", "\"reshape_activations\" is hook"},
        {"saelens_standard", "cfg.json", "\"architecture\": \"standard\"",
         "\"architecture\": \"temporal\"", "\"architecture\" is temporal"},
        {"saelens_standard", "cfg.json", "\"device\"", "\"devise\"", "\"devise\" is not known"},
        {"saelens_skip", "cfg.json",
         "\"normalize_activations\": \"none\",\n \"reshape_activations\": \"none\",",
         "\"normalize_activations\": \"layer_norm\",                          ",
         "the numbers of the wrong row"},
        {"saelens_flat", "cfg.json", "\"relu\"", "\"tanh\"", "\"activation_fn_str\" is tanh"},
        {"saelens_topk", "cfg.json", "\"k\": 5", "\"k\": 0", "no whole number k"},
        {"saelens_standard", "sae_weights.safetensors", "W_enc", "W_inc", "\"W_enc\" is missing"},
        {"saelens_standard", "sae_weights.safetensors", "[12, 40]", "[40, 12]",
         "expected [12, 40]"},
        {"sparsify_sae", "cfg.json", "\"topk\"", "\"tapk\"", "\"activation\" is tapk"},
        {"sparsify_sae", "sae.safetensors", "\"F32\"", "\"I32\"", "is of type i32"},
        {"dl_AutoEncoderTopK", "config.json", "AutoEncoderTopK", "AutoEncoderTopM",
         "\"dict_class\" is AutoEncoderTopM"},
        {"crosscoder_relu", "config.json", "CROSSCODER", "DECOUPLED ", "\"code_normalization\" is"},
        {"circuit_plt", "config.yaml", "model_kind", "model_mind", "model_mind"},
    };
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        df_exchange_options options = plain;
        for (size_t c = 0; c < CASES; c++)
            if (strcmp(cases[c].name, lies[i].name) == 0) options.format = cases[c].format;
        refused(altered(lies[i].name, lies[i].file, lies[i].from, lies[i].to), &options,
                DF_BAD_INPUT, lies[i].because);
    }
    df_exchange_options options = plain;
    const char *ignore[] = {"devise"};
    options.ignore = ignore;
    options.n_ignore = 1;
    df_exchange_facts facts;
    df_dict *d = read_it(altered("saelens_standard", "cfg.json", "\"device\"", "\"devise\""),
                         &options, &facts);
    df_dict_free(&d);
}

static void values_that_are_no_weights_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *name, *file, *format;
    } files[] = {{"saelens_jumprelu", "sae_weights.safetensors", "saelens"},
                 {"circuit_clt", "W_dec_1.safetensors", "circuit-tracer-clt"}};
    for (size_t i = 0; i < 2; i++) {
        const char *out = altered(files[i].name, files[i].file, "F32", "F32");
        char path[500];
        snprintf(path, sizeof path, "%s/%s", out, files[i].file);
        if (df_comm_rank(world) == 0) { // NaN as the last element: a threshold, a decoder
            FILE *file = fopen(path, "r+b");
            assert_true(file != NULL && fseek(file, -4, SEEK_END) == 0 &&
                        fwrite("\0\0\xc0\x7f", 1, 4, file) == 4 && fclose(file) == 0);
        }
        df_barrier(world);
        df_exchange_options options = plain;
        options.format = files[i].format;
        df_dict *d = NULL;
        df_exchange_facts facts;
        df_test_all(world, df_exchange_read(world, out, &options, &d, &facts) == DF_BAD_INPUT);
        df_error_clear();
    }
}

static void what_a_format_cannot_say_is_usage(void **state) {
    (void)state;
    static const struct {
        const char *format;
        df_dict_kind kind;
        df_activation activation;
    } wrong[] = {{"sparsify", DF_SAE, DF_RELU},
                 {"gemma-scope", DF_SAE, DF_TOPK},
                 {"saelens", DF_CROSSCODER, DF_TOPK},
                 {"saelens", DF_SKIP_TRANSCODER, DF_TOPK},
                 {"crosscoder_learning", DF_CROSSCODER, DF_TOPK},
                 {"crosslayer-transcoder", DF_CLT, DF_RELU},
                 {"saelense", DF_SAE, DF_RELU}};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        char out[400];
        df_exchange_options options = plain;
        df_exchange_facts facts = {0};
        options.format = wrong[i].format;
        snprintf(out, sizeof out, "%s/never", folder);
        df_dict *d = ours(wrong[i].kind, wrong[i].activation, DF_NORM_NONE);
        df_test_all(world, df_exchange_write(world, out, d, &options, &facts) == DF_USAGE);
        df_test_all(world, access(out, F_OK) != 0);
        df_error_clear();
        df_dict_free(&d);
    }
    refused("/no/such/folder", &plain, DF_BAD_INPUT, "no such file");
}

static void normalised_rows_are_not_everybodys(void **state) {
    (void)state;
    static const char *const formats[] = {"dictionary_learning", "sparsify", "crosscoder_learning"};
    for (size_t i = 0; i < 3; i++) {
        char out[400];
        df_exchange_options options = plain;
        df_exchange_facts facts = {0};
        options.format = formats[i];
        snprintf(out, sizeof out, "%s/never", folder);
        df_dict *d = i == 2 ? ours(DF_CROSSCODER, DF_RELU, DF_NORM_SUM)
                            : ours(DF_SAE, DF_TOPK, DF_NORM_NONE);
        d->site[d->sites - 1].token_norm = DF_TOKEN_LAYER;
        df_test_all(world, df_test_fails(df_exchange_write(world, out, d, &options, &facts),
                                         DF_USAGE, "train.token_norm: layer"));
        df_test_all(world, access(out, F_OK) != 0);
        df_dict_free(&d);
    }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(every_family_does_what_numpy_does),
    cmocka_unit_test(what_came_goes_back_as_it_was),
    cmocka_unit_test(ours_come_back_to_the_bit),
    cmocka_unit_test(other_mathematics_is_refused_by_name),
    cmocka_unit_test(values_that_are_no_weights_are_refused),
    cmocka_unit_test(what_a_format_cannot_say_is_usage),
    cmocka_unit_test(normalised_rows_are_not_everybodys),
};

DF_TEST_MPI_MAIN(world, tests, set_up, tear_down)
