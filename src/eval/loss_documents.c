/* The KL of every document, and what resampling documents says of the ratios. A piece is what one
 * window holds of one document: ranks bring the pieces of their windows, in the text's order. */
#include "loss_parts.h"

#include <math.h>
#include <string.h>

static uint64_t document_of(const df_loss_text *text, uint64_t row) {
    return df_run_holding(text->document, text->documents, row);
}

size_t df_loss_pieces(const df_loss_text *text, uint64_t first, uint64_t end) {
    size_t n = 0;
    for (uint64_t w = first; w < end; w++)
        n += (size_t)(document_of(text, text->window[w + 1] - 1) -
                      document_of(text, text->window[w]) + 1);
    return n;
}

static double sum_of(const double *values, uint64_t first, uint64_t end) {
    double sum = 0.0;
    for (uint64_t t = first; t < end; t++) sum += values[t];
    return sum;
}

size_t df_loss_by_document(const loss_plan *plan, const loss_window *w, double *pieces) {
    const df_loss_text *text = plan->input->text;
    size_t lines = plan->input->models * plan->conditions, n = 0;
    uint64_t first = w->rows.first, end = first + w->rows.count, document, at, to;
    for (at = first, document = document_of(text, first); at < end; at = to, document++, n++) {
        to = text->document[document + 1] < end ? text->document[document + 1] : end;
        for (size_t i = 0; i < lines; i++) {
            const double *kl =
                df_loss_sums(plan, w->sums, i / plan->conditions, i % plan->conditions, DF_LOSS_KL);
            pieces[n * lines + i] = sum_of(kl, at - first, to - first);
        }
    }
    return n;
}

// Pieces to documents, in place: a document is never behind its pieces.
static void join_pieces(const df_loss_text *text, size_t lines, double *pieces) {
    size_t piece = 0;
    uint64_t last = UINT64_MAX;
    for (uint64_t w = 0; w < text->windows; w++) {
        uint64_t end = document_of(text, text->window[w + 1] - 1);
        for (uint64_t d = document_of(text, text->window[w]); d <= end; d++, piece++) {
            double *to = pieces + d * lines;
            const double *from = pieces + piece * lines;
            if (d != last)
                memmove(to, from, lines * sizeof *to);
            else
                for (size_t i = 0; i < lines; i++) to[i] += from[i];
            last = d;
        }
    }
}

static void find_intervals(const double *samples, double *values, df_loss *out) {
    size_t lines = out->models * out->conditions;
    for (size_t m = 0; m < out->models; m++)
        for (size_t c = DF_LOSS_ISOTROPIC; c < out->conditions; c++) {
            for (size_t s = 0; s < DF_RESAMPLES; s++) {
                const double *kl = samples + s * lines + m * out->conditions;
                values[s] = kl[DF_LOSS_SPLICED] / kl[c];
            }
            out->kl_interval[m][c] = df_percentile_interval(values, DF_RESAMPLES);
        }
}

static df_status resample(const df_loss_text *text, uint64_t seed, const double *documents,
                          df_loss *out) {
    size_t lines = out->models * out->conditions;
    double *samples = NULL, *values = NULL;
    df_status status;
    if (text->documents < 2) return DF_OK;
    DF_GO(DF_NEW(samples, DF_RESAMPLES * lines));
    DF_GO(DF_NEW(values, DF_RESAMPLES));
    df_bootstrap(documents, text->documents, lines, seed, samples);
    find_intervals(samples, values, out);
done:
    df_free(samples);
    df_free(values);
    return status;
}

static void no_intervals(df_loss *out) {
    for (size_t m = 0; m < DF_LOSS_MODELS; m++)
        for (size_t c = 0; c < DF_LOSS_CONDITIONS; c++)
            out->kl_interval[m][c] = (df_interval){(double)NAN, (double)NAN};
}

df_status df_loss_intervals(df_comm *comm, const df_loss_input *input, const double *mine,
                            df_loss *out) {
    const df_loss_text *text = input->text;
    size_t lines = out->models * out->conditions, *counts = NULL;
    double *all = NULL;
    df_status status;
    no_intervals(out);
    if (!input->nulls) return DF_OK;
    status = DF_NEW(all, df_loss_pieces(text, 0, text->windows) * lines);
    if (status == DF_OK) status = DF_NEW(counts, (size_t)df_comm_size(comm));
    DF_GO(df_agree(comm, status));
    for (int r = 0; r < df_comm_size(comm); r++) {
        df_range own = df_share(DF_BUCKETS, df_comm_size(comm), r);
        counts[r] = df_loss_pieces(text, df_loss_bucket(text, own.first),
                                   df_loss_bucket(text, own.first + own.count)) *
                    lines * sizeof *all;
    }
    df_allgather(comm, mine, counts, all);
    join_pieces(text, lines, all);
    status = df_agree(comm, resample(text, input->seed, all, out));
done:
    df_free(all);
    df_free(counts);
    return status;
}
