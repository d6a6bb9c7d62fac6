/* Counting batches of codes against a plain recount over all rows: frequencies, histogram, top
 * windows with their activations, labelled stretches; and spans of a text as stretches of rows. */
#include "df_test.h"

#include "stats_internal.h"

enum { ROWS = 600, LATENTS = 13, WINDOW = 40, SHOWN = 9, KEPT = 3, CONCEPTS = 2, DOCUMENTS = 12 };

/* A corpus of 600 rows in windows of 40 and documents of 50, and a random sparse code,
 * dense[row][latent]. */
typedef struct world {
    df_acts acts;
    uint64_t window[ROWS / WINDOW + 1], document[DOCUMENTS + 1], source[DOCUMENTS];
    uint8_t heldout[DOCUMENTS];
    float dense[ROWS][LATENTS];
    df_stretch stretch[40];
    size_t stretches;
} world;

static void make_world(world *w, uint64_t seed) {
    *w = (world){.acts = {.rows = ROWS, .windows = ROWS / WINDOW, .documents = DOCUMENTS}};
    for (size_t i = 0; i <= ROWS / WINDOW; i++) w->window[i] = i * WINDOW;
    for (size_t i = 0; i <= DOCUMENTS; i++) w->document[i] = i * (ROWS / DOCUMENTS);
    for (size_t i = 0; i < DOCUMENTS; i++) w->heldout[i] = i % 3 == 0;
    w->acts.window = w->window;
    w->acts.document = w->document;
    w->acts.source = w->source;
    w->acts.heldout = w->heldout;
    for (size_t r = 0; r < ROWS; r++)
        for (size_t j = 0; j < LATENTS; j++) {
            double u = df_random_uniform(seed, DF_STREAM_TEST, r * LATENTS + j);
            // few distinct values, so that ties are common; latent 0 never fires
            w->dense[r][j] =
                j > 0 && u < 0.08 * (double)j / LATENTS ? (float)(1 + (int)(u * 1e4) % 4) : 0.0f;
        }
    for (size_t d = 0; d < DOCUMENTS; d++)
        for (size_t s = 0; s < 3; s++) {
            uint64_t first = w->document[d] + 3 + 14 * s;
            w->stretch[w->stretches++] =
                (df_stretch){first, first + 2 + s, (uint32_t)(s % CONCEPTS), w->heldout[d]};
        }
}

/* Codes of rows first .. first + n as the coder gives them. */
static df_codes codes_of(const world *w, size_t first, size_t n, uint64_t *start, uint32_t *latent,
                         float *value) {
    uint64_t used = 0;
    for (size_t r = 0; r < n; r++) {
        start[r] = used;
        for (uint32_t j = 0; j < LATENTS; j++)
            if (w->dense[first + r][j] > 0.0f) {
                latent[used] = j;
                value[used++] = w->dense[first + r][j];
            }
    }
    start[n] = used;
    return (df_codes){.rows = n, .start = start, .latent = latent, .value = value};
}

typedef struct counted {
    tally tally;
    examples examples;
    concept_counts concepts;
} counted;

static void count_rows(const world *w, size_t batch_rows, counted *out) {
    static uint64_t start[ROWS + 1], rows[ROWS];
    static uint32_t latent[ROWS * LATENTS], window[ROWS], stretch_of[ROWS * 8];
    static float value[ROWS * LATENTS];
    static uint8_t heldout[ROWS];
    static size_t near[ROWS + 1];
    by_latent order;
    assert_ok(by_latent_new(LATENTS, 2, &order));
    assert_ok(tally_new(LATENTS, &out->tally));
    assert_ok(examples_new(LATENTS, KEPT, SHOWN, &out->examples));
    assert_ok(concepts_new(LATENTS, CONCEPTS, w->stretch, w->stretches, &out->concepts));
    for (size_t first = 0; first < ROWS; first += batch_rows) {
        size_t n = ROWS - first < batch_rows ? ROWS - first : batch_rows, used = 0;
        for (size_t r = 0; r < n; r++) {
            rows[r] = first + r;
            window[r] = (uint32_t)(rows[r] / WINDOW);
            heldout[r] = w->heldout[rows[r] / (ROWS / DOCUMENTS)];
            near[r] = used;
            for (uint32_t s = 0; s < w->stretches; s++)
                if (w->stretch[s].first <= rows[r] && rows[r] <= w->stretch[s].last)
                    stretch_of[used++] = s;
        }
        near[n] = used;
        df_codes codes = codes_of(w, first, n, start, latent, value);
        assert_ok(by_latent_fill(&order, &codes));
        batch b = {.acts = &w->acts,
                   .rows = rows,
                   .n = n,
                   .heldout = heldout,
                   .window = window,
                   .near = near,
                   .stretch_of = stretch_of};
        for (size_t j = 0; j < LATENTS; j++) {
            count_latent(&out->tally, j, &order);
            count_examples(&out->examples, j, &order, &b);
            count_concepts(&out->concepts, j, &order, &b);
        }
    }
    by_latent_free(&order);
}

static void counted_free(counted *c) {
    tally_free(&c->tally);
    examples_free(&c->examples);
    concepts_free(&c->concepts);
}

static void frequencies_equal_a_plain_recount(void **state) {
    (void)state;
    static world w;
    make_world(&w, 1);
    counted c;
    count_rows(&w, 2 * WINDOW, &c);
    for (size_t j = 0; j < LATENTS; j++) {
        uint64_t fires = 0, binned = 0;
        double sum = 0.0;
        float max = 0.0f;
        for (size_t r = 0; r < ROWS; r++) {
            fires += w.dense[r][j] > 0.0f;
            sum += (double)w.dense[r][j];
            max = fmaxf(max, w.dense[r][j]);
        }
        for (size_t b = 0; b < DF_STATS_BINS; b++)
            binned += c.tally.histogram[j * DF_STATS_BINS + b];
        assert_int_equal(c.tally.fires[j], fires);
        assert_int_equal(binned, fires);
        assert_close(c.tally.sum[j], sum, 0.0, 0.0);
        assert_close(c.tally.max[j], max, 0.0, 0.0);
    }
    assert_int_equal(c.tally.fires[0], 0);
    counted_free(&c);
}

/* The best windows by (peak, then earlier peak row), found by sorting all windows. */
static void top_windows_equal_a_full_sort(void **state) {
    (void)state;
    static world w;
    make_world(&w, 2);
    counted c;
    count_rows(&w, 3 * WINDOW, &c);
    for (size_t j = 0; j < LATENTS; j++) {
        float taken[ROWS / WINDOW] = {0};
        for (size_t e = 0; e < KEPT; e++) {
            size_t best = ROWS; // row of the best peak among windows not yet taken
            for (size_t v = 0; v < ROWS / WINDOW; v++) {
                if (taken[v] != 0.0f) continue;
                for (size_t r = v * WINDOW; r < (v + 1) * WINDOW; r++)
                    if (w.dense[r][j] > (best == ROWS ? 0.0f : w.dense[best][j])) best = r;
            }
            size_t at = j * KEPT + e;
            assert_close(c.examples.value[at], best == ROWS ? 0.0f : w.dense[best][j], 0.0, 0.0);
            if (best == ROWS) continue;
            taken[best / WINDOW] = 1.0f;
            assert_int_equal(c.examples.row[at], best);
            uint64_t first = c.examples.first[at];
            size_t shown = c.examples.shown[at];
            assert_true(first <= best && best < first + shown && shown <= SHOWN);
            assert_int_equal(first / WINDOW, (first + shown - 1) / WINDOW);
            assert_int_equal(first / (ROWS / DOCUMENTS), (first + shown - 1) / (ROWS / DOCUMENTS));
            for (size_t i = 0; i < shown; i++)
                assert_close(c.examples.activation[at * SHOWN + i], w.dense[first + i][j], 0.0,
                             0.0);
        }
    }
    counted_free(&c);
}

static void stretches_are_counted_once_each(void **state) {
    (void)state;
    static world w;
    make_world(&w, 3);
    w.stretch[w.stretches++] =
        (df_stretch){ROWS - 4, ROWS - 1, 0, w.heldout[DOCUMENTS - 1]}; // overlapping twins
    w.stretch[w.stretches++] = (df_stretch){ROWS - 3, ROWS - 1, 0, w.heldout[DOCUMENTS - 1]};
    for (size_t r = ROWS - 3; r < ROWS; r++) w.dense[r][5] = 1.0f;
    counted c;
    count_rows(&w, WINDOW, &c);
    for (size_t j = 0; j < LATENTS; j++)
        for (size_t k = 0; k < CONCEPTS; k++)
            for (size_t part = 0; part < 2; part++) {
                uint64_t inside = 0, found = 0;
                for (size_t r = 0; r < ROWS; r++) {
                    bool in = false;
                    for (size_t s = 0; s < w.stretches; s++)
                    in |= w.stretch[s].concept == k && w.stretch[s].first <= r &&
                          r <= w.stretch[s].last;
                    inside +=
                        in && w.dense[r][j] > 0.0f && w.heldout[r / (ROWS / DOCUMENTS)] == part;
                }
                for (size_t s = 0; s < w.stretches; s++) {
                    bool hit = false;
                    for (uint64_t r = w.stretch[s].first; r <= w.stretch[s].last; r++)
                        hit |= w.dense[r][j] > 0.0f;
                    found += hit && w.stretch[s].concept == k && w.stretch[s].heldout == part;
                }
                assert_int_equal(c.concepts.inside[2 * (j * CONCEPTS + k) + part], inside);
                assert_int_equal(c.concepts.found[2 * (j * CONCEPTS + k) + part], found);
            }
    counted_free(&c);
}

static void spans_become_rows_with_the_token_before(void **state) {
    (void)state;
    const char *folder = df_test_folder("stretches");
    char *path = df_format("%s/text.jsonl", folder);
    const char *text = "{\"text\": \"ab cd ef\", \"labels\": [[\"x\", 3, 5], [\"y\", 0, "
                       "2]]}\n{\"text\": \"gh ij\", \"labels\": [[\"x\", 4, 5]]}\n";
    assert_ok(df_write_file(path, text, strlen(text)));
    df_corpus *corpus = NULL;
    assert_ok(df_corpus_open(path, &(df_corpus_how){.labels = "labels"}, &corpus));
    uint32_t end[] = {0, 2, 3, 5, 8,
                      0, 3, 4, 5}; // BOS, "ab", " ", "cd", " ef"; BOS, "gh ", "i", "j"
    uint64_t document[] = {0, 5, 9}, source[] = {0, 1}, spans[4] = {0};
    uint8_t heldout[] = {0, 1};
    df_acts acts = {.rows = 9,
                    .documents = 2,
                    .token_end = end,
                    .document = document,
                    .source = source,
                    .heldout = heldout,
                    .path = path};
    df_stretch *stretch = NULL;
    size_t n = 0;
    assert_ok(df_stats_stretches(&acts, corpus, &stretch, &n, spans));
    assert_int_equal(n, 3);
    assert_true(stretch[0].concept == 1 && stretch[0].first == 0 && stretch[0].last == 1);
    assert_true(stretch[1].concept == 0 && stretch[1].first == 2 && stretch[1].last == 3);
    assert_true(stretch[2].concept == 0 && stretch[2].first == 7 && stretch[2].last == 8 &&
                stretch[2].heldout == 1);
    assert_true(spans[0] == 1 && spans[1] == 1 && spans[2] == 1 && spans[3] == 0);
    df_free(stretch);
    source[1] = 7;
    assert_fails(df_stats_stretches(&acts, corpus, &stretch, &n, spans), DF_BAD_INPUT,
                 "made from another text");
    df_corpus_close(&corpus);
    df_free(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frequencies_equal_a_plain_recount),
        cmocka_unit_test(top_windows_equal_a_full_sort),
        cmocka_unit_test(stretches_are_counted_once_each),
        cmocka_unit_test(spans_become_rows_with_the_token_before),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
