/* Activations files: declared, written by several ranks, opened, read as fp32, compared, and
 * refused when wrong. */
#define DF_TEST_MPI
#include "df_test.h"

#include "darkfield/store.h"

enum { N = 40, WINDOWS = 3, DOCUMENTS = 4, WIDTH = 6 };

static df_comm *world;
static char folder[256], path[400];

/* The content, which a test may spoil before it is written. */
typedef struct content {
    uint32_t tokens[N], token_end[N];
    uint64_t window[WINDOWS + 1], document[DOCUMENTS + 1], source[DOCUMENTS];
    uint8_t heldout[DOCUMENTS];
    float x[N * WIDTH];
    double mean_square;
} content;

static int set_up(void **state) {
    (void)state;
    if (df_comm_rank(world) == 0)
        snprintf(folder, sizeof folder, "%s", df_test_folder("store-acts"));
    df_broadcast(world, 0, folder, sizeof folder);
    snprintf(path, sizeof path, "%s/a.acts.h5", folder);
    return 0;
}

// Token 0 is BOS and starts each document; windows of 16 rows; documents 1 and 3 are held out.
static content good(void) {
    content c = {.window = {0, 16, 32, N},
                 .document = {0, 10, 10, 30, N},
                 .source = {0, 1, 5, 6},
                 .heldout = {0, 1, 0, 1},
                 .mean_square = 2.5};
    for (uint32_t i = 0; i < N; i++) {
        c.tokens[i] = i == 0 || i == 10 || i == 30 ? 0 : 100 + i;
        c.token_end[i] = i;
        for (int j = 0; j < WIDTH; j++) c.x[i * WIDTH + j] = (float)i + (float)j / 4;
    }
    return c;
}

static df_status write_site(df_file *file, int id, df_type type, const content *c) {
    df_range mine = df_share(N, df_comm_size(world), df_comm_rank(world));
    float rows[N * WIDTH];
    df_from_f32(type, c->x + mine.first * WIDTH, rows, mine.count * WIDTH);
    return df_file_write(file, id, mine.first, mine.count, rows);
}

static df_status write_index(df_file *file, const content *c) {
    if (df_comm_rank(world) != 0) return DF_OK;
    DF_TRY(df_file_write(file, DF_ACTS_TOKENS, 0, N, c->tokens));
    DF_TRY(df_file_write(file, DF_ACTS_TOKEN_END, 0, N, c->token_end));
    DF_TRY(df_file_write(file, DF_ACTS_WINDOWS, 0, WINDOWS + 1, c->window));
    DF_TRY(df_file_write(file, DF_ACTS_DOCUMENT_ROW, 0, DOCUMENTS + 1, c->document));
    DF_TRY(df_file_write(file, DF_ACTS_DOCUMENT_SOURCE, 0, DOCUMENTS, c->source));
    return df_file_write(file, DF_ACTS_DOCUMENT_HELDOUT, 0, DOCUMENTS, c->heldout);
}

static df_status write_acts(const char *where, df_type type, const content *c) {
    const df_acts_spec spec = {
        .rows = N,
        .windows = WINDOWS,
        .documents = DOCUMENTS,
        .type = type,
        .sites = 2,
        .site = (const char *[]){"blocks.2.hook_resid_post", "blocks.0.hook_mlp_out"},
        .width = (uint64_t[]){WIDTH, WIDTH},
        .layer = (int64_t[]){2, 0},
        .model = "toy",
        .model_path = "/models/toy",
        .dtype = "f32",
        .architecture = "llama",
        .hidden = WIDTH,
        .layers = 3,
        .corpus = "text.jsonl",
        .field = "text",
        .packing = "stream",
        .context = 16,
        .bos = 0,
        .model_hash = 1,
        .corpus_hash = 0xabc,
        .tokenizer_hash = 3};
    df_file *file;
    DF_TRY(df_file_create(world, where, "darkfield-activations", &file));
    DF_TRY(df_acts_declare(file, &spec));
    DF_TRY(df_file_ready(file));
    df_status status = write_index(file, c);
    if (status == DF_OK) status = write_site(file, DF_ACTS_SITE, type, c);
    if (status == DF_OK) status = write_site(file, DF_ACTS_SITE + 1, type, c);
    DF_TRY(df_file_agree(file, status));
    DF_TRY(df_file_set_real(file, "/model", "loss", 1.5));
    DF_TRY(
        df_file_set_real(file, "/sites/blocks.2.hook_resid_post", "mean_square", c->mean_square));
    DF_TRY(df_file_set_real(file, "/sites/blocks.0.hook_mlp_out", "mean_square", c->mean_square));
    return df_file_finish(&file);
}

static bool index_is_right(const df_acts *acts, const content *c) {
    return acts->rows == N && acts->windows == WINDOWS && acts->documents == DOCUMENTS &&
           acts->sites == 2 && memcmp(acts->tokens, c->tokens, sizeof c->tokens) == 0 &&
           memcmp(acts->window, c->window, sizeof c->window) == 0 &&
           memcmp(acts->document, c->document, sizeof c->document) == 0 &&
           memcmp(acts->heldout, c->heldout, sizeof c->heldout) == 0 && acts->bos == 0 &&
           strcmp(acts->model, "toy") == 0 && strcmp(acts->model_path, "/models/toy") == 0 &&
           strcmp(acts->corpus, "text.jsonl 0000000000000abc") == 0 &&
           strcmp(acts->tokenizer, "0000000000000003") == 0 && acts->site[1].mean_square == 2.5;
}

static void reads_back_in(df_type type) {
    content c = good();
    df_acts *acts = NULL;
    size_t site = 9;
    float out[4 * 8];
    const uint64_t rows[4] = {39, 3, 4, 0};
    uint64_t digest = 0;
    df_test_all(world, write_acts(path, type, &c) == DF_OK);
    df_test_all(world, df_acts_open(path, &acts) == DF_OK && index_is_right(acts, &c));
    df_test_all(world, df_acts_site(acts, "blocks.2.hook_resid_post", &site) == DF_OK && site == 1);
    df_test_all(world, acts->site[site].type == type && acts->site[site].width == WIDTH);
    df_test_all(world, df_acts_gather(acts, site, rows, 4, out, 8) == DF_OK);
    bool same = true;
    for (int i = 0; i < 4; i++) // every value fits bf16 exactly
        same = same && memcmp(out + 8 * i, c.x + rows[i] * WIDTH, WIDTH * 4) == 0;
    df_test_all(world, same);
    df_test_all(world, df_acts_read(acts, site, 38, 3, out, 8) == DF_BAD_INPUT); // past the end
    df_test_all(world, df_digest(path, &digest) == DF_OK && digest == acts->hash);
    df_acts_close(&acts);
    df_error_clear();
}

static void rows_read_back_in_every_type(void **state) {
    (void)state;
    reads_back_in(DF_F32);
    reads_back_in(DF_F16);
    reads_back_in(DF_BF16);
}

static void rows_to_use_are_chosen(void **state) {
    (void)state;
    content c = good();
    df_acts *acts = NULL;
    uint64_t *rows;
    size_t n;
    df_test_all(world, write_acts(path, DF_F32, &c) == DF_OK && df_acts_open(path, &acts) == DF_OK);
    df_test_all(world,
                df_acts_rows(acts, 2, false, &rows, &n) == DF_OK && n == N && rows[N - 1] == N - 1);
    df_free(rows);
    // Training: documents 0 and 2, rows 0..29, without BOS rows 0 and 10 and the window start 16.
    df_test_all(world, df_acts_rows(acts, 0, true, &rows, &n) == DF_OK && n == 27 && rows[0] == 1 &&
                           rows[9] == 11);
    df_free(rows);
    // Held out: rows 30..39 without BOS row 30 and the window start 32.
    df_test_all(world, df_acts_rows(acts, 1, true, &rows, &n) == DF_OK && n == 8 && rows[0] == 31 &&
                           rows[1] == 33);
    df_free(rows);
    df_acts_close(&acts);
}

static void alignment_is_compared_by_content(void **state) {
    (void)state;
    char other[420];
    content c = good(), d = good();
    df_acts *a = NULL, *b = NULL;
    snprintf(other, sizeof other, "%s/b.acts.h5", folder);
    d.x[3] = 7; // activations may differ
    df_test_all(world, write_acts(path, DF_F32, &c) == DF_OK && df_acts_open(path, &a) == DF_OK);
    df_test_all(world, write_acts(other, DF_BF16, &d) == DF_OK && df_acts_open(other, &b) == DF_OK);
    df_test_all(world, df_acts_aligned(a, b) == DF_OK && a->hash != b->hash);
    df_acts_close(&b);
    d.heldout[2] = 1;
    df_test_all(world, write_acts(other, DF_F32, &d) == DF_OK && df_acts_open(other, &b) == DF_OK);
    df_test_all(world, df_acts_aligned(a, b) == DF_BAD_INPUT &&
                           strstr(df_error_text(), "/documents differ") != NULL);
    df_acts_close(&b);
    d.tokens[3] = 1;
    df_test_all(world, write_acts(other, DF_F32, &d) == DF_OK && df_acts_open(other, &b) == DF_OK);
    df_test_all(world, df_acts_aligned(a, b) == DF_BAD_INPUT &&
                           strstr(df_error_text(), "/tokens differ") != NULL);
    df_acts_close(&b);
    df_acts_close(&a);
    df_error_clear();
}

static bool refused(const content *c, const char *because) {
    df_acts *acts = NULL;
    char *summary = NULL;
    if (write_acts(path, DF_F32, c) != DF_OK) return false;
    bool opened = df_acts_open(path, &acts) == DF_OK;
    bool named = strstr(df_error_text(), because) != NULL;
    bool checked = df_check(path, &summary) == DF_OK;
    df_acts_close(&acts);
    df_free(summary);
    return !opened && named && !checked;
}

static void inconsistent_indices_are_refused(void **state) {
    (void)state;
    content c = good();
    c.window[1] = 33;
    df_test_all(world, refused(&c, "/windows/offset descends"));
    c = good();
    c.window[WINDOWS] = N + 1;
    df_test_all(world, refused(&c, "/windows/offset ends at row 41"));
    c = good();
    c.document[0] = 1;
    df_test_all(world, refused(&c, "/documents/row starts at 1"));
    c = good();
    c.heldout[1] = 2;
    df_test_all(world, refused(&c, "/documents/heldout[1] is 2"));
    c = good();
    c.mean_square = (double)NAN;
    df_test_all(world, refused(&c, "mean_square"));
    df_error_clear();
}

// Two files as one: index and rows run on over the border; what does not go together is refused.
static void files_join(void **state) {
    (void)state;
    content first = good(), second = good();
    char other[400];
    second.mean_square = 7.5;
    for (size_t i = 0; i < N * WIDTH; i++) second.x[i] += 100.0f;
    snprintf(other, sizeof other, "%s/b.acts.h5", folder);
    df_test_all(world, write_acts(path, DF_F32, &first) == DF_OK);
    df_test_all(world, write_acts(other, DF_F32, &second) == DF_OK);
    df_acts *part[2], *all = NULL;
    df_test_all(world, df_acts_open(path, &part[0]) == DF_OK);
    df_test_all(world, df_acts_open(other, &part[1]) == DF_OK);
    df_test_all(world, df_acts_join(part, 2, &all) == DF_OK);
    df_test_all(world, all->rows == 2 * N && all->windows == 2 * WINDOWS &&
                           all->documents == 2 * DOCUMENTS && all->sites == 2);
    df_test_all(world, all->window[WINDOWS + 1] == N + 16 && all->document[DOCUMENTS] == N &&
                           all->document[2 * DOCUMENTS] == 2 * N && all->heldout[5] == 1 &&
                           all->tokens[N + 1] == 101 && all->site[0].mean_square == 5.0);
    float rows[4 * WIDTH], want[2] = {(float)(N - 1), 100.0f};
    df_test_all(world, df_acts_read(all, 1, N - 1, 2, rows, WIDTH) == DF_OK);
    df_test_all(world, rows[0] == want[0] && rows[WIDTH] == want[1]);
    const uint64_t wanted[4] = {N + 3, 2, N - 1, N};
    df_test_all(world, df_acts_gather(all, 0, wanted, 4, rows, WIDTH) == DF_OK);
    df_test_all(world, rows[0] == 103.0f && rows[WIDTH] == 2.0f && rows[2 * WIDTH] == want[0] &&
                           rows[3 * WIDTH] == want[1]);
    const uint64_t beyond = 2 * N;
    df_test_all(world, df_acts_read(all, 1, 2 * N - 1, 2, rows, WIDTH) == DF_BAD_INPUT &&
                           df_acts_gather(all, 0, &beyond, 1, rows, WIDTH) == DF_BAD_INPUT);
    df_acts_close(&all);
    df_test_all(world, write_acts(other, DF_BF16, &second) == DF_OK);
    df_test_all(world, df_acts_open(path, &part[0]) == DF_OK);
    df_test_all(world, df_acts_open(other, &part[1]) == DF_OK);
    df_test_all(world, df_acts_join(part, 2, &all) == DF_BAD_INPUT && all == NULL &&
                           strstr(df_error_text(), "b.acts.h5") != NULL);
    df_error_clear();
}

static void a_nan_is_named_by_row(void **state) {
    (void)state;
    content c = good();
    df_acts *acts = NULL;
    float out[N * WIDTH];
    size_t site = 0;
    c.x[17 * WIDTH + 2] = -INFINITY;
    df_test_all(world,
                write_acts(path, DF_BF16, &c) == DF_OK && df_acts_open(path, &acts) == DF_OK);
    df_test_all(world, df_acts_read(acts, 0, 0, 17, out, WIDTH) == DF_OK);
    df_test_all(world, df_acts_read(acts, 0, 0, N, out, WIDTH) == DF_BAD_INPUT);
    df_test_all(world, strstr(df_error_text(), "site blocks.0.hook_mlp_out, row 17") != NULL);
    df_test_all(world, df_acts_site(acts, "blocks.2.hook_resid_pre", &site) == DF_BAD_INPUT);
    df_test_all(world, strstr(df_error_text(), "nearest is blocks.2.hook_resid_post") != NULL);
    df_acts_close(&acts);
    df_error_clear();
}

static void threads_may_read_together(void **state) {
    (void)state;
    content c = good();
    df_acts *acts = NULL;
    uint64_t wrong = 0;
    df_test_all(world, write_acts(path, DF_F32, &c) == DF_OK && df_acts_open(path, &acts) == DF_OK);
#pragma omp parallel for num_threads(4) reduction(+ : wrong)
    for (int i = 0; i < 400; i++) {
        float row[WIDTH];
        size_t r = (size_t)i % N;
        if (df_acts_read(acts, 1, r, 1, row, WIDTH) != DF_OK ||
            memcmp(row, c.x + r * WIDTH, sizeof row) != 0)
            wrong++;
    }
    df_test_all(world, wrong == 0);
    df_acts_close(&acts);
}

// More than eight attributes, or one of more than 64 KiB, move to another place inside HDF5.
static void many_attributes_and_long_texts_fit(void **state) {
    (void)state;
    df_file *file = NULL;
    df_reader *reader = NULL;
    char *text = NULL, *found = NULL, name[32];
    double value = 0;
    bool done = true;
    df_test_all(world, DF_NEW(text, 200001) == DF_OK);
    memset(text, 'j', 200000);
    df_test_all(world, df_file_create(world, path, "darkfield-test", &file) == DF_OK);
    df_test_all(world, df_file_text(file, "/", "job", text) == DF_OK);
    for (int i = 0; i < 60; i++) {
        snprintf(name, sizeof name, "name%d", i);
        done = done && df_file_text(file, "/concepts", name, name) == DF_OK;
        done = done && df_file_real(file, "/concepts", name + 2, (double)NAN) == DF_OK;
    }
    df_test_all(world, done && df_file_ready(file) == DF_OK);
    df_test_all(world, df_file_set_real(file, "/concepts", "me59", 59) == DF_OK &&
                           df_file_finish(&file) == DF_OK);
    df_test_all(world, df_reader_open(path, "darkfield-test", &reader) == DF_OK);
    df_test_all(world,
                df_reader_text(reader, "/", "job", &found) == DF_OK && strcmp(found, text) == 0);
    df_test_all(world, df_reader_real(reader, "/concepts", "me59", &value) == DF_OK && value == 59);
    df_reader_close(&reader);
    df_free(found);
    df_free(text);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test_setup(rows_read_back_in_every_type, set_up),
    cmocka_unit_test_setup(rows_to_use_are_chosen, set_up),
    cmocka_unit_test_setup(alignment_is_compared_by_content, set_up),
    cmocka_unit_test_setup(inconsistent_indices_are_refused, set_up),
    cmocka_unit_test_setup(files_join, set_up),
    cmocka_unit_test_setup(a_nan_is_named_by_row, set_up),
    cmocka_unit_test_setup(threads_may_read_together, set_up),
    cmocka_unit_test_setup(many_attributes_and_long_texts_fit, set_up),
};

DF_TEST_MPI_MAIN(world, tests, NULL, NULL)
