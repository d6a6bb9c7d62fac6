/* The precision of a harvest's products. What bf16 costs is measured on the first window: the
 * distance of each site's rows from those in fp32, as a share of their length. */
#include "harvest.h"

#include <math.h>

// The first window's rows of all sites, after one another.
static df_status run_first(const harvest *h, float *rows) {
    float *out[HARVEST_MOST_SITES];
    df_forward *forward;
    size_t n = h->text.window[1];
    for (size_t s = 0; s < h->sites; s++) out[s] = rows + n * df_harvest_columns(h, s);
    DF_TRY(df_forward_open(h->model, h->how.context, h->site, h->sites, &forward));
    df_status status = df_forward_run(forward, h->text.tokens, n, out, NULL);
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

// On one rank, for all.
static df_status measure(harvest *h) {
    float *exact = NULL, *rounded = NULL;
    size_t n = h->text.window[1], numbers = n * df_harvest_columns(h, h->sites);
    df_status status = DF_NEW(exact, numbers);
    if (status == DF_OK) status = DF_NEW(rounded, numbers);
    if (status == DF_OK) status = run_first(h, exact);
    if (status == DF_OK) status = df_model_use_bf16(h->model);
    if (status == DF_OK) status = run_first(h, rounded);
    for (size_t s = 0; s < h->sites && status == DF_OK; s++) {
        size_t at = n * df_harvest_columns(h, s);
        h->deviation[s] = distance(exact + at, rounded + at, n * h->width[s]);
    }
    df_free(exact);
    df_free(rounded);
    return status;
}

df_status df_harvest_precision(harvest *h) {
    df_comm *world = h->run->world;
    if (!h->bf16) return DF_OK;
    if (!df_bf16_is_quick())
        df_warn("this CPU has no bf16 products: harvest.compute: bf16 runs in plain C, slower than "
                "f32");
    df_status status = df_comm_rank(world) == 0 ? measure(h) : df_model_use_bf16(h->model);
    DF_TRY(df_agree(world, status));
    df_broadcast(world, 0, h->deviation, h->sites * sizeof *h->deviation);
    for (size_t s = 0; s < h->sites; s++)
        df_info("  %s: bf16 products move the first window's rows by %.2g of their length",
                h->site[s], h->deviation[s]);
    return DF_OK;
}
