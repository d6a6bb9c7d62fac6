/* The precision of a harvest's products. What bf16 costs is measured on the first window: the
 * distance of each site's rows from those in fp32, as a share of their length. */
#include "harvest.h"

#include <math.h>
#include <string.h>

// The first window's rows of this rank's sites, after one another; the stream goes through the
// line, whatever `status` is.
static df_status run_first(const harvest *h, df_status status, float *rows) {
    float *out[HARVEST_MOST_SITES];
    df_forward *forward = NULL;
    const void *in;
    size_t n = h->text.window[1], bytes = df_pipeline_numbers(h) * sizeof(float);
    bool good = df_line_take(h->pipe.line, &in);
    void *room = df_line_room(h->pipe.line);
    for (size_t i = 0; i < h->own.n; i++) out[i] = rows + n * h->own.before[i];
    if (status == DF_OK)
        status = df_forward_open(h->model, h->how.context, h->own.name, h->own.n, &forward);
    if (status == DF_OK && good) {
        if (in != NULL) memcpy(df_forward_stream(forward), in, bytes);
        status = df_forward_run(forward, h->text.tokens, n, out, NULL);
        if (room != NULL) memcpy(room, df_forward_stream(forward), bytes);
    }
    df_line_give(h->pipe.line, bytes, good && status == DF_OK);
    df_forward_close(&forward);
    return status;
}

static double distance(const float *exact, const float *rounded, size_t n) {
    double apart = 0.0, length = 0.0;
    for (size_t i = 0; i < n; i++) {
        double d = (double)exact[i] - (double)rounded[i];
        apart += d * d;
        length += (double)exact[i] * (double)exact[i];
    }
    return length > 0 ? sqrt(apart / length) : 0.0;
}

// By the first group, for all.
static df_status measure(harvest *h) {
    float *exact = NULL, *rounded = NULL;
    size_t n = h->text.window[1], numbers = n * h->own.columns;
    df_status status = DF_NEW(exact, numbers);
    if (status == DF_OK) status = DF_NEW(rounded, numbers);
    status = run_first(h, status, exact);
    if (status == DF_OK) status = df_model_use_bf16(h->model);
    status = run_first(h, status, rounded);
    for (size_t i = 0; i < h->own.n && status == DF_OK; i++) {
        size_t s = h->own.index[i], at = n * h->own.before[i];
        h->deviation[s] = distance(exact + at, rounded + at, n * h->width[s]);
    }
    df_free(exact);
    df_free(rounded);
    return status;
}

// Each number is one rank's: the others add zero bits.
static void share_deviations(harvest *h) {
    uint64_t bits[HARVEST_MOST_SITES];
    memcpy(bits, h->deviation, sizeof bits);
    df_sum_u64(h->run->world, bits, HARVEST_MOST_SITES);
    memcpy(h->deviation, bits, sizeof bits);
}

df_status df_harvest_precision(harvest *h) {
    df_comm *world = h->run->world;
    if (!h->bf16) return DF_OK;
    if (!df_bf16_is_quick())
        df_warn("this CPU has no bf16 products: harvest.compute: bf16 runs in plain C, slower than "
                "f32");
    DF_TRY(df_agree(world, h->pipe.group == 0 ? measure(h) : df_model_use_bf16(h->model)));
    share_deviations(h);
    for (size_t s = 0; s < h->sites; s++)
        df_info("  %s: bf16 products move the first window's rows by %.2g of their length",
                h->site[s], h->deviation[s]);
    return DF_OK;
}
