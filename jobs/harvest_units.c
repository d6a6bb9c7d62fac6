/* Runs the windows. They fall into fixed units of HARVEST_UNIT; in each round every rank takes the
 * next few units that are not done, its threads take the windows, and its main thread writes the
 * rows. */
#include "harvest.h"

#include <math.h>
#include <omp.h>
#include <string.h>

/* What one thread needs. */
typedef struct worker {
    df_forward *forward;
    float *rows; // the sites after one another, each [context, its width]
    double *nll; // [context]
} worker;

/* One rank's part of a harvest. */
typedef struct crew {
    harvest *h;
    size_t threads, units;            // units: of a round, per rank
    worker *workers;                  // [threads]
    char *stored[HARVEST_MOST_SITES]; // [units * HARVEST_UNIT * context, its width] in the file's
                                      // type
    double *nll;                      // [units * HARVEST_UNIT] summed over the window
    uint32_t *scored;                 // [units * HARVEST_UNIT]
    double *squares;                  // [units * HARVEST_UNIT, sites]
    size_t *mine;                     // [units] this round's units of this rank, ascending
    size_t n_mine;
    df_carried failure; // at: the window
} crew;

/* ---- memory --------------------------------------------------------------------------------- */

static size_t thread_count(void) {
    return (size_t)omp_get_max_threads();
}

// Enough windows in a round for each thread to take two or more.
static size_t units_per_round(void) {
    return (2 * thread_count() + HARVEST_UNIT - 1) / HARVEST_UNIT;
}

size_t df_harvest_columns(const harvest *h, size_t s) {
    size_t columns = 0;
    for (size_t i = 0; i < s; i++) columns += h->width[i];
    return columns;
}

uint64_t df_harvest_bytes(const harvest *h) {
    uint64_t context = h->how.context, windows = units_per_round() * HARVEST_UNIT;
    uint64_t numbers = context * df_harvest_columns(h, h->sites);
    uint64_t thread = df_forward_bytes(&h->shape, h->how.context, h->site, h->sites) +
                      numbers * sizeof(float) + context * sizeof(double);
    return thread_count() * thread + windows * numbers * df_type_bytes(h->type);
}

static df_status hire(crew *c) {
    const harvest *h = c->h;
    size_t context = h->how.context, windows = c->units * HARVEST_UNIT;
    DF_TRY(DF_NEW(c->workers, c->threads));
    for (size_t i = 0; i < c->threads; i++) {
        worker *w = &c->workers[i];
        DF_TRY(df_forward_open(h->model, context, h->site, h->sites, &w->forward));
        DF_TRY(DF_NEW(w->rows, context * df_harvest_columns(h, h->sites)));
        DF_TRY(DF_NEW(w->nll, context));
    }
    for (size_t s = 0; s < h->sites; s++) {
        c->stored[s] = df_alloc(windows * context * h->width[s], df_type_bytes(h->type));
        if (c->stored[s] == NULL) return DF_FAILED;
    }
    DF_TRY(DF_NEW(c->nll, windows));
    DF_TRY(DF_NEW(c->scored, windows));
    DF_TRY(DF_NEW(c->squares, windows * h->sites));
    return DF_NEW(c->mine, c->units);
}

static void dismiss(crew *c) {
    for (size_t i = 0; c->workers != NULL && i < c->threads; i++) {
        df_forward_close(&c->workers[i].forward);
        df_free(c->workers[i].rows);
        df_free(c->workers[i].nll);
    }
    for (size_t s = 0; s < c->h->sites; s++) df_free(c->stored[s]);
    df_free(c->workers);
    df_free(c->nll);
    df_free(c->scored);
    df_free(c->squares);
    df_free(c->mine);
}

/* ---- one window ----------------------------------------------------------------------------- */

// The summed squares of rows [n, width], row by row.
static double sum_squares(const float *rows, size_t n, size_t width) {
    double total = 0.0;
    for (size_t r = 0; r < n; r++) {
        double row = 0.0;
        for (size_t i = 0; i < width; i++)
            row += (double)rows[r * width + i] * (double)rows[r * width + i];
        total += row;
    }
    return total;
}

static df_status refuse_rows(const harvest *h, size_t window, size_t site, const float *rows) {
    size_t n = h->text.window[window + 1] - h->text.window[window], i = 0;
    while (i + 1 < n * h->width[site] && isfinite(rows[i])) i++;
    return df_fail(
        DF_BAD_INPUT,
        "model %s (%s), site %s, window %zu: expected finite activations, found %g at row %llu, "
        "column %zu: %s",
        h->name, h->model_path, h->site[site], window, (double)rows[i],
        (unsigned long long)(h->text.window[window] + i / h->width[site]), i % h->width[site],
        h->type == DF_F16 ? "f16 ends at 65504, store f32 or bf16" : "are its weights damaged?");
}

// Rows to the file's type; the summed squares are of what is stored. Slot: the window's place in
// this round.
static df_status store_rows(const crew *c, const worker *w, size_t window, size_t slot) {
    const harvest *h = c->h;
    uint64_t begin = h->text.window[window / HARVEST_UNIT * HARVEST_UNIT],
             first = h->text.window[window];
    size_t n = h->text.window[window + 1] - first,
           base = slot / HARVEST_UNIT * HARVEST_UNIT * h->how.context;
    for (size_t s = 0; s < h->sites; s++) {
        size_t width = h->width[s];
        float *rows = w->rows + h->how.context * df_harvest_columns(h, s);
        void *stored = c->stored[s] + (base + (first - begin)) * width * df_type_bytes(h->type);
        df_from_f32(h->type, rows, stored, n * width);
        df_to_f32(h->type, stored, rows, n * width);
        double squares = sum_squares(rows, n, width);
        if (!isfinite(squares)) return refuse_rows(h, window, s, rows);
        c->squares[slot * h->sites + s] = squares;
    }
    return DF_OK;
}

// The loss of the window's text: every token that was predicted within it, except added BOS tokens.
static void sum_loss(const crew *c, const worker *w, size_t window, size_t slot) {
    const packed_text *text = &c->h->text;
    uint64_t first = text->window[window], n = text->window[window + 1] - first;
    c->nll[slot] = 0.0;
    c->scored[slot] = 0;
    for (uint64_t t = 0; t + 1 < n; t++) {
        uint64_t target = first + t + 1;
        bool added = text->token_end[target] == 0 && (int64_t)text->tokens[target] == text->bos;
        c->nll[slot] += added ? 0.0 : w->nll[t];
        c->scored[slot] += !added;
    }
}

static df_status run_window(const crew *c, const worker *w, size_t window, size_t slot) {
    const harvest *h = c->h;
    float *out[HARVEST_MOST_SITES];
    for (size_t s = 0; s < h->sites; s++)
        out[s] = w->rows + h->how.context * df_harvest_columns(h, s);
    uint64_t first = h->text.window[window], n = h->text.window[window + 1] - first;
    DF_TRY(df_forward_run(w->forward, h->text.tokens + first, n, out, NULL));
    DF_TRY(df_forward_nll(w->forward, w->nll));
    DF_TRY(store_rows(c, w, window, slot));
    sum_loss(c, w, window, slot);
    if (isfinite(c->nll[slot])) return DF_OK;
    return df_fail(DF_BAD_INPUT,
                   "model %s (%s): expected a finite loss, found %g in window %zu although the "
                   "sites are finite: look at the last layers, the final norm and the unembedding",
                   h->name, h->model_path, c->nll[slot], window);
}

/* ---- one round ------------------------------------------------------------------------------ */

// The round's next units that are not done, `units` for each rank in turn; returns how many there
// are in all.
static size_t deal(crew *c, size_t *next) {
    int size = df_comm_size(c->h->run->world), rank = df_comm_rank(c->h->run->world);
    size_t dealt = 0;
    c->n_mine = 0;
    for (; *next < c->h->table.units && dealt < c->units * (size_t)size; (*next)++) {
        if (c->h->table.done[*next]) continue;
        if (dealt / c->units == (size_t)rank) c->mine[c->n_mine++] = *next;
        dealt++;
    }
    return dealt;
}

static df_status compute(crew *c) {
    df_timer_start("forward");
#pragma omp parallel for schedule(dynamic, 1) num_threads((int)c->threads)
    for (size_t slot = 0; slot < c->n_mine * HARVEST_UNIT; slot++) {
        size_t window = c->mine[slot / HARVEST_UNIT] * HARVEST_UNIT + slot % HARVEST_UNIT;
        if (window >= c->h->text.windows) continue;
        df_status status = run_window(c, &c->workers[omp_get_thread_num()], window, slot);
        if (status != DF_OK) df_carry(&c->failure, status, window);
    }
    df_timer_stop("forward");
    return df_carried_raise(&c->failure);
}

// Writes unit i of this round, and its sums into the table.
static df_status write_unit(crew *c, size_t i) {
    harvest *h = c->h;
    size_t unit = c->mine[i], first = unit * HARVEST_UNIT, slot = i * HARVEST_UNIT;
    size_t n = h->text.windows - first < HARVEST_UNIT ? h->text.windows - first : HARVEST_UNIT;
    uint64_t row = h->text.window[first], rows = h->text.window[first + n] - row;
    double *sums = h->table.sums + unit * h->table.columns;
    for (size_t s = 0; s < h->sites; s++)
        DF_TRY(df_file_write(h->file, DF_ACTS_SITE + (int)s, row, rows,
                             c->stored[s] +
                                 slot * h->how.context * h->width[s] * df_type_bytes(h->type)));
    DF_TRY(df_file_write(h->file, DF_ACTS_SITE + (int)h->sites, first, n, c->nll + slot));
    DF_TRY(df_file_write(h->file, DF_ACTS_SITE + (int)h->sites + 1, first, n, c->scored + slot));
    memset(sums, 0, h->table.columns * sizeof *sums);
    for (size_t w = slot; w < slot + n; w++) {
        sums[0] += c->nll[w];
        sums[1] += c->scored[w];
        for (size_t s = 0; s < h->sites; s++) sums[2 + s] += c->squares[w * h->sites + s];
    }
    return DF_OK;
}

static df_status write_round(crew *c) {
    df_timer_start("write");
    df_status status = DF_OK;
    for (size_t i = 0; i < c->n_mine && status == DF_OK; i++) status = write_unit(c, i);
    df_timer_stop("write");
    return status;
}

// Every rank learns the sums of the round's units. Each unit is one rank's: the others add zero
// bits.
static df_status share_round(crew *c, size_t first, size_t end) {
    unit_table *t = &c->h->table;
    size_t fresh = 0, n = 0;
    for (size_t u = first; u < end; u++) fresh += !t->done[u];
    uint64_t *bits;
    DF_TRY(df_agree(c->h->run->world, DF_NEW(bits, fresh * t->columns)));
    for (size_t u = first, mine = 0; u < end; u++) {
        if (t->done[u]) continue;
        bool own = mine < c->n_mine && c->mine[mine] == u;
        if (own) memcpy(bits + n * t->columns, t->sums + u * t->columns, t->columns * sizeof *bits);
        mine += own;
        n++;
    }
    df_sum_u64(c->h->run->world, bits, fresh * t->columns);
    n = 0;
    for (size_t u = first; u < end; u++) {
        if (t->done[u]) continue;
        memcpy(t->sums + u * t->columns, bits + n++ * t->columns, t->columns * sizeof *bits);
        t->done[u] = 1;
    }
    df_free(bits);
    return DF_OK;
}

/* ---- all rounds ----------------------------------------------------------------------------- */

static uint64_t rows_of(const harvest *h, size_t unit) {
    size_t first = unit * HARVEST_UNIT, end = first + HARVEST_UNIT;
    return h->text.window[end < h->text.windows ? end : h->text.windows] - h->text.window[first];
}

static uint64_t rows_done(const harvest *h) {
    uint64_t rows = 0;
    for (size_t u = 0; u < h->table.units; u++) rows += h->table.done[u] ? rows_of(h, u) : 0;
    return rows;
}

// Rank 0's clock decides for all.
static bool is_due(const harvest *h, double *last) {
    uint8_t due = df_now() - *last >= h->interval;
    df_broadcast(h->run->world, 0, &due, sizeof due);
    if (due) *last = df_now();
    return due != 0;
}

static df_status stop_here(harvest *h) {
    DF_TRY(df_units_save(h));
    return df_fail(DF_STOPPED,
                   "stopped on request while harvesting model %s; run the same job again to go on",
                   h->name);
}

static df_status run_rounds(crew *c) {
    harvest *h = c->h;
    df_progress progress;
    double last = df_now();
    size_t next = 0, first = 0;
    uint64_t rows = rows_done(h);
    df_progress_start(&progress, h->name, "tokens", rows, h->text.rows);
    while (deal(c, &next) > 0) {
        df_status status = compute(c);
        if (status == DF_OK) status = write_round(c);
        df_timer_start("wait");
        status = df_file_agree(h->file, status);
        df_timer_stop("wait");
        DF_TRY(status);
        for (size_t u = first; u < next; u++) rows += h->table.done[u] ? 0 : rows_of(h, u);
        DF_TRY(share_round(c, first, next));
        first = next;
        df_progress_at(&progress, rows, NULL);
        if (rows < h->text.rows && df_stop_requested(h->run->world)) return stop_here(h);
        if (rows < h->text.rows && is_due(h, &last)) DF_TRY(df_units_save(h));
    }
    df_progress_end(&progress, rows);
    return DF_OK;
}

df_status df_harvest_units(harvest *h) {
    crew c = {.h = h, .threads = thread_count(), .units = units_per_round()};
    df_status status = df_agree(h->run->world, hire(&c));
    if (status == DF_OK) status = run_rounds(&c);
    dismiss(&c);
    return status;
}
