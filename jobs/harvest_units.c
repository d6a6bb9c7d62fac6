/* Runs the windows. They fall into fixed units of HARVEST_UNIT; in each round every group of ranks
 * takes the next few units that are not done, threads take the windows, and main threads write the
 * rows.
 *
 * In a pipeline a round is cut into batches, as many windows as there are threads. Time goes in
 * ticks: at tick t stage s runs batch t - s, which it takes from the stage before and gives to the
 * next, and writes the rows of its own sites. Ranks meet after as many ticks as a round has
 * batches; no stage waits there for others to catch up, and a round is done when the last stage
 * has it, some meetings later. Alone a rank has one batch a round. */
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
    size_t threads, units;            // units: of a round, per group
    size_t batch, batches, rounds;    // windows of a batch, batches of a round
    worker *workers;                  // [threads]
    char *stored[HARVEST_MOST_SITES]; // [units * HARVEST_UNIT * context, width] of own sites, in
                                      // the file's type
    double *nll;                      // [units * HARVEST_UNIT] summed over the window
    uint32_t *scored;                 // [units * HARVEST_UNIT]
    double *squares;                  // [units * HARVEST_UNIT, own sites]
    size_t *todo, n_todo;             // units that were not done at the start, ascending
    const size_t *mine;               // [n_mine] this group's units of the round at hand, of todo
    size_t n_mine;
    df_carried failure; // at: the window
    df_status status;   // how this rank's work went
    bool good;          // and that of those before it
} crew;

/* Windows of a round on their way through this stage: slots [first, end). in, out: their streams,
 * slot by slot; NULL at the ends of the line. */
typedef struct batch {
    size_t first, end;
    const float *in;
    float *out;
} batch;

/* ---- memory --------------------------------------------------------------------------------- */

static size_t thread_count(void) {
    return (size_t)omp_get_max_threads();
}

// Enough windows in a round for each thread to take two or more.
static size_t units_per_round(const harvest *h) {
    return (2 * h->pipe.threads + HARVEST_UNIT - 1) / HARVEST_UNIT;
}

// The last rank of a group has the losses.
static bool is_last_stage(const harvest *h) {
    return h->pipe.stage + 1 == h->pipe.stages;
}

static uint64_t line_bytes(const harvest *h, df_model_part part) {
    int stages = (int)h->pipe.stages, last = stages - 1;
    bool end = part.first + part.count == h->shape.layers;
    size_t block = h->pipe.threads * df_pipeline_numbers(h) * sizeof(float);
    return df_line_bytes(stages, part.first == 0 ? 0 : end ? last : 1, block);
}

uint64_t df_harvest_bytes(const harvest *h, df_model_part part) {
    uint64_t context = h->how.context, windows = units_per_round(h) * HARVEST_UNIT;
    part_sites own;
    df_harvest_sites(h, part, &own);
    uint64_t numbers = context * own.columns;
    uint64_t thread = df_forward_part_bytes(&h->shape, part, h->how.context, own.name, own.n) +
                      numbers * sizeof(float) + context * sizeof(double);
    return h->pipe.threads * thread + windows * numbers * df_type_bytes(h->type) +
           line_bytes(h, part);
}

static df_status list_todo(crew *c) {
    const unit_table *t = &c->h->table;
    DF_TRY(DF_NEW(c->todo, t->units));
    for (size_t u = 0; u < t->units; u++)
        if (!t->done[u]) c->todo[c->n_todo++] = u;
    size_t round = c->h->pipe.groups * c->units;
    c->rounds = (c->n_todo + round - 1) / round;
    return DF_OK;
}

static df_status hire(crew *c) {
    const harvest *h = c->h;
    size_t context = h->how.context, windows = c->units * HARVEST_UNIT;
    DF_TRY(DF_NEW(c->workers, c->threads));
    for (size_t i = 0; i < c->threads; i++) {
        worker *w = &c->workers[i];
        DF_TRY(df_forward_open(h->model, context, h->own.name, h->own.n, &w->forward));
        DF_TRY(DF_NEW(w->rows, context * h->own.columns));
        DF_TRY(DF_NEW(w->nll, context));
    }
    for (size_t i = 0; i < h->own.n; i++) {
        size_t width = h->width[h->own.index[i]];
        c->stored[i] = df_alloc(windows * context * width, df_type_bytes(h->type));
        if (c->stored[i] == NULL) return DF_FAILED;
    }
    DF_TRY(DF_NEW(c->nll, windows));
    DF_TRY(DF_NEW(c->scored, windows));
    DF_TRY(DF_NEW(c->squares, windows * h->own.n));
    return list_todo(c);
}

static void dismiss(crew *c) {
    for (size_t i = 0; c->workers != NULL && i < c->threads; i++) {
        df_forward_close(&c->workers[i].forward);
        df_free(c->workers[i].rows);
        df_free(c->workers[i].nll);
    }
    for (size_t i = 0; i < c->h->own.n; i++) df_free(c->stored[i]);
    df_free(c->workers);
    df_free(c->nll);
    df_free(c->scored);
    df_free(c->squares);
    df_free(c->todo);
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

df_status df_harvest_window(const harvest *h, df_forward *forward, size_t window, float *rows,
                            void *const *stored, double *squares) {
    float *out[HARVEST_MOST_SITES];
    for (size_t i = 0; i < h->own.n; i++) out[i] = rows + h->how.context * h->own.before[i];
    uint64_t first = h->text.window[window], n = h->text.window[window + 1] - first;
    DF_TRY(df_forward_run(forward, h->text.tokens + first, n, out, NULL));
    for (size_t i = 0; i < h->own.n; i++) {
        size_t site = h->own.index[i], numbers = n * h->width[site];
        df_from_f32(h->type, out[i], stored[i], numbers);
        df_to_f32(h->type, stored[i], out[i], numbers);
        squares[i] = sum_squares(out[i], n, h->width[site]); // of what is stored
        if (!isfinite(squares[i])) return refuse_rows(h, window, site, out[i]);
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

// Where the rows of a window begin in this round's rows of each of the rank's sites.
static void find_stored(const crew *c, size_t window, size_t slot, void **stored) {
    const harvest *h = c->h;
    uint64_t begin = h->text.window[window / HARVEST_UNIT * HARVEST_UNIT];
    size_t row = slot / HARVEST_UNIT * HARVEST_UNIT * h->how.context +
                 (size_t)(h->text.window[window] - begin);
    for (size_t i = 0; i < h->own.n; i++)
        stored[i] = c->stored[i] + row * h->width[h->own.index[i]] * df_type_bytes(h->type);
}

// The window through this stage's blocks, its rows and, on the last stage, its losses.
static df_status pass_window(const crew *c, const worker *w, const batch *b, size_t window,
                             size_t slot) {
    const harvest *h = c->h;
    void *stored[HARVEST_MOST_SITES];
    size_t numbers = df_pipeline_numbers(h), at = (slot - b->first) * numbers;
    float *stream = df_forward_stream(w->forward);
    find_stored(c, window, slot, stored);
    if (b->in != NULL) memcpy(stream, b->in + at, numbers * sizeof *stream);
    DF_TRY(df_harvest_window(h, w->forward, window, w->rows, stored, c->squares + slot * h->own.n));
    if (b->out != NULL) memcpy(b->out + at, stream, numbers * sizeof *stream);
    return is_last_stage(h) ? df_forward_nll(w->forward, w->nll) : DF_OK;
}

// Slot: the window's place in this round.
static df_status run_window(const crew *c, const worker *w, const batch *b, size_t window,
                            size_t slot) {
    const harvest *h = c->h;
    DF_TRY(pass_window(c, w, b, window, slot));
    if (!is_last_stage(h)) return DF_OK;
    sum_loss(c, w, window, slot);
    if (isfinite(c->nll[slot])) return DF_OK;
    return df_fail(DF_BAD_INPUT,
                   "model %s (%s): expected a finite loss, found %g in window %zu although the "
                   "sites are finite: look at the last layers, the final norm and the unembedding",
                   h->name, h->model_path, c->nll[slot], window);
}

/* ---- one batch ------------------------------------------------------------------------------ */

// The round's units: `units` of those to do for each group in turn.
static void begin_round(crew *c, size_t round) {
    size_t first = (round * c->h->pipe.groups + c->h->pipe.group) * c->units;
    size_t left = first < c->n_todo ? c->n_todo - first : 0;
    c->mine = c->todo + (left > 0 ? first : 0);
    c->n_mine = left < c->units ? left : c->units;
}

// False where the round has no window for this slot: there is none behind it either.
static bool find_window(const crew *c, size_t slot, size_t *window) {
    if (slot / HARVEST_UNIT >= c->n_mine) return false;
    *window = c->mine[slot / HARVEST_UNIT] * HARVEST_UNIT + slot % HARVEST_UNIT;
    return *window < c->h->text.windows;
}

static df_status compute(crew *c, const batch *b) {
    df_timer_start("forward");
#pragma omp parallel for schedule(dynamic, 1) num_threads((int)c->threads)
    for (size_t slot = b->first; slot < b->end; slot++) {
        size_t window;
        if (!find_window(c, slot, &window)) continue;
        df_status status = run_window(c, &c->workers[omp_get_thread_num()], b, window, slot);
        if (status != DF_OK) df_carry(&c->failure, status, window);
    }
    df_timer_stop("forward");
    return df_carried_raise(&c->failure);
}

// Writes this rank's part of unit i of the round, and its sums into the table.
static df_status write_unit(crew *c, size_t i) {
    harvest *h = c->h;
    size_t unit = c->mine[i], first = unit * HARVEST_UNIT, slot = i * HARVEST_UNIT;
    size_t n = h->text.windows - first < HARVEST_UNIT ? h->text.windows - first : HARVEST_UNIT;
    uint64_t row = h->text.window[first], rows = h->text.window[first + n] - row;
    double *sums = h->table.sums + unit * h->table.columns;
    memset(sums, 0, h->table.columns * sizeof *sums);
    for (size_t w = slot; w < slot + n; w++) {
        sums[0] += c->nll[w];
        sums[1] += c->scored[w];
        for (size_t s = 0; s < h->own.n; s++)
            sums[2 + h->own.index[s]] += c->squares[w * h->own.n + s];
    }
    for (size_t s = 0; s < h->own.n; s++) {
        size_t site = h->own.index[s], bytes = h->width[site] * df_type_bytes(h->type);
        DF_TRY(df_file_write(h->file, DF_ACTS_SITE + (int)site, row, rows,
                             c->stored[s] + slot * h->how.context * bytes));
    }
    if (!is_last_stage(h)) return DF_OK;
    DF_TRY(df_file_write(h->file, DF_ACTS_SITE + (int)h->sites, first, n, c->nll + slot));
    return df_file_write(h->file, DF_ACTS_SITE + (int)h->sites + 1, first, n, c->scored + slot);
}

static df_status write_round(crew *c) {
    df_timer_start("write");
    df_status status = DF_OK;
    for (size_t i = 0; i < c->n_mine && status == DF_OK; i++) status = write_unit(c, i);
    df_timer_stop("write");
    return status;
}

// Bytes of the batch's streams.
static size_t stream_bytes(const crew *c, const batch *b) {
    size_t windows = 0, window;
    while (b->first + windows < b->end && find_window(c, b->first + windows, &window)) windows++;
    return windows * df_pipeline_numbers(c->h) * sizeof(float);
}

// Whatever has failed, a block is taken and one is given, so that no rank waits in vain.
static void run_batch(crew *c, size_t number) {
    df_line *line = c->h->pipe.line;
    size_t slots = c->units * HARVEST_UNIT, first = number % c->batches * c->batch;
    batch b = {first, first + c->batch < slots ? first + c->batch : slots, NULL, NULL};
    const void *in;
    if (first == 0) begin_round(c, number / c->batches);
    df_timer_start("wait");
    c->good = df_line_take(line, &in) && c->good;
    b.in = in;
    b.out = df_line_room(line);
    df_timer_stop("wait");
    if (c->good) c->status = compute(c, &b);
    c->good = c->good && c->status == DF_OK;
    df_line_give(line, stream_bytes(c, &b), c->good);
    if (c->good && b.end == slots) c->status = write_round(c);
    c->good = c->good && c->status == DF_OK;
}

/* ---- between rounds ------------------------------------------------------------------------- */

static uint64_t rows_of(const harvest *h, size_t unit) {
    size_t first = unit * HARVEST_UNIT, end = first + HARVEST_UNIT;
    return h->text.window[end < h->text.windows ? end : h->text.windows] - h->text.window[first];
}

// The round's units, of all groups: places of c->todo.
static df_range units_of(const crew *c, size_t round) {
    size_t most = c->h->pipe.groups * c->units, first = round * most, left = c->n_todo - first;
    return (df_range){first, left < most ? left : most};
}

// Every rank learns the sums of the round's units. Each number is one rank's: the others add zero
// bits.
// *rows grows by those of the round.
static df_status share_round(crew *c, size_t round, uint64_t *rows) {
    unit_table *t = &c->h->table;
    df_range fresh = units_of(c, round);
    uint64_t *bits;
    df_status status = DF_NEW(bits, fresh.count * t->columns);
    DF_GO(df_agree(c->h->run->world, status));
    for (size_t i = 0; i < fresh.count; i++)
        if (i / c->units == c->h->pipe.group)
            memcpy(bits + i * t->columns, t->sums + c->todo[fresh.first + i] * t->columns,
                   t->columns * sizeof *bits);
    df_sum_u64(c->h->run->world, bits, fresh.count * t->columns);
    for (size_t i = 0; i < fresh.count; i++) {
        size_t unit = c->todo[fresh.first + i];
        memcpy(t->sums + unit * t->columns, bits + i * t->columns, t->columns * sizeof *bits);
        t->done[unit] = 1;
        *rows += rows_of(c->h, unit);
    }
done:
    df_free(bits);
    return status;
}

/* ---- all rounds ----------------------------------------------------------------------------- */

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

// As many ticks as a round has batches, then all meet.
static df_status run_step(crew *c, size_t step) {
    for (size_t i = 0; i < c->batches; i++) {
        size_t tick = step * c->batches + i, stage = c->h->pipe.stage;
        if (tick >= stage && tick - stage < c->rounds * c->batches) run_batch(c, tick - stage);
    }
    df_timer_start("wait");
    df_status status = df_file_agree(c->h->file, c->status);
    df_timer_stop("wait");
    return status;
}

static df_status run_rounds(crew *c) {
    harvest *h = c->h;
    df_progress progress;
    double last = df_now();
    uint64_t rows = rows_done(h);
    // Steps until a round has reached the last stage.
    size_t behind = (h->pipe.stages - 1 + c->batches - 1) / c->batches;
    df_progress_start(&progress, h->name, "tokens", rows, h->text.rows);
    for (size_t step = 0; c->rounds > 0 && step < c->rounds + behind; step++) {
        DF_TRY(run_step(c, step));
        if (step < behind) continue;
        DF_TRY(share_round(c, step - behind, &rows));
        df_progress_at(&progress, rows, NULL);
        if (rows < h->text.rows && df_stop_requested(h->run->world)) return stop_here(h);
        if (rows < h->text.rows && is_due(h, &last)) DF_TRY(df_units_save(h));
    }
    df_progress_end(&progress, rows);
    return DF_OK;
}

df_status df_harvest_units(harvest *h) {
    crew c = {.h = h, .threads = thread_count(), .units = units_per_round(h), .good = true};
    size_t slots = c.units * HARVEST_UNIT;
    c.batch = h->pipe.stages > 1 ? h->pipe.threads : slots;
    c.batches = (slots + c.batch - 1) / c.batch;
    df_status status = df_agree(h->run->world, hire(&c));
    if (status == DF_OK) status = run_rounds(&c);
    dismiss(&c);
    return status;
}
