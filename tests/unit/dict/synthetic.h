/* synthetic.h: small activation files for the tests of training and evaluation, written through
 * store.h. */
#ifndef SYNTHETIC_H
#define SYNTHETIC_H

#define DF_TEST_MPI
#include "df_test.h"

#include "darkfield/store.h"

enum { SYNTHETIC_CONTEXT = 16, SYNTHETIC_FEATURES = 24, SYNTHETIC_LONGEST = 64 };

typedef struct synthetic {
    const char *path, *model;
    uint64_t rows, documents, width;
    uint64_t token_shift; // changes the tokens: such a file is not aligned with one of shift 0
    int64_t bad_row;      // row that gets a NaN; -1: none
    const float *values;  // [rows, width] instead of drawn ones, NULL: draw
} synthetic;

static inline double draw(uint64_t seed, uint64_t index) {
    return df_random_uniform(seed, DF_STREAM_TEST, index);
}

/* Rows are sums of about three of 24 directions of the model: something that a dictionary can
 * learn. */
static inline void synthetic_row(const synthetic *s, uint64_t row, float *out) {
    uint64_t model = (uint64_t)s->model[0];
    for (uint64_t c = 0; c < s->width; c++)
        out[c] = s->values != NULL ? s->values[row * s->width + c]
                                   : 0.5f + 0.05f * (float)df_random_normal(model, DF_STREAM_TEST,
                                                                            row * s->width + c);
    for (uint64_t f = 0; f < SYNTHETIC_FEATURES && s->values == NULL; f++) {
        if (draw(7, row * SYNTHETIC_FEATURES + f) > 0.12) continue;
        for (uint64_t c = 0; c < s->width; c++)
            out[c] += (float)(2 * draw(100 + model, f * s->width + c) - 1);
    }
    if ((int64_t)row == s->bad_row) out[s->width - 1] = NAN;
}

/* Every 5th document is held out; documents have the same length but for the last. */
static inline void synthetic_fill(df_file *file, const synthetic *s) {
    uint64_t windows = (s->rows + SYNTHETIC_CONTEXT - 1) / SYNTHETIC_CONTEXT;
    for (uint64_t r = 0; r < s->rows; r++) {
        uint32_t token = (uint32_t)(r % 50 + s->token_shift), end = 0;
        float row[SYNTHETIC_LONGEST];
        synthetic_row(s, r, row);
        assert_ok(df_file_write(file, DF_ACTS_TOKENS, r, 1, &token));
        assert_ok(df_file_write(file, DF_ACTS_TOKEN_END, r, 1, &end));
        assert_ok(df_file_write(file, DF_ACTS_SITE, r, 1, row));
    }
    for (uint64_t w = 0; w <= windows; w++) {
        uint64_t first = w < windows ? w * SYNTHETIC_CONTEXT : s->rows;
        assert_ok(df_file_write(file, DF_ACTS_WINDOWS, w, 1, &first));
    }
    for (uint64_t d = 0; d <= s->documents; d++) {
        uint64_t first = d < s->documents ? d * (s->rows / s->documents) : s->rows;
        uint8_t heldout = d % 5 == 2;
        assert_ok(df_file_write(file, DF_ACTS_DOCUMENT_ROW, d, 1, &first));
        if (d == s->documents) continue;
        assert_ok(df_file_write(file, DF_ACTS_DOCUMENT_SOURCE, d, 1, &d));
        assert_ok(df_file_write(file, DF_ACTS_DOCUMENT_HELDOUT, d, 1, &heldout));
    }
}

/* Writes the file on this rank alone. */
static inline void synthetic_write(const synthetic *s) {
    uint64_t windows = (s->rows + SYNTHETIC_CONTEXT - 1) / SYNTHETIC_CONTEXT;
    const df_acts_spec spec = {.rows = s->rows,
                               .windows = windows,
                               .documents = s->documents,
                               .type = DF_F32,
                               .sites = 1,
                               .site = (const char *const[]){"blocks.0.hook_resid_post"},
                               .width = &s->width,
                               .layer = (const int64_t[]){0},
                               .model = s->model,
                               .model_path = "nowhere",
                               .dtype = "f32",
                               .architecture = "none",
                               .hidden = (int64_t)s->width,
                               .layers = 1,
                               .corpus = "synthetic",
                               .field = "text",
                               .packing = "stream",
                               .context = SYNTHETIC_CONTEXT,
                               .bos = -1};
    df_comm *self = NULL;
    df_file *file = NULL;
    assert_ok(df_comm_self(&self));
    assert_ok(df_file_create(self, s->path, "darkfield-activations", &file));
    assert_ok(df_acts_declare(file, &spec));
    assert_ok(df_file_provenance(file, &(df_provenance)DF_TEST_FACTS));
    assert_ok(df_file_ready(file));
    synthetic_fill(file, s);
    assert_ok(df_file_set_real(file, "/model", "loss", 1.0));
    assert_ok(df_file_set_real(file, "/sites/blocks.0.hook_resid_post", "mean_square", 1.0));
    assert_ok(df_file_finish(&file));
    df_comm_free(&self);
}

#endif
