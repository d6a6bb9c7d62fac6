/* Rows for training from models that are run as rows are asked for. The reader thread of training
 * asks for runs of rows; the windows that hold them are run by all threads of the rank, as a
 * harvest runs them, and the last ones are kept. */
#include "harvest_live.h"

#include "harvest.h"

#include <omp.h>
#include <pthread.h>
#include <string.h>

enum {
    KEPT = 32,          // windows, at least: a share of a buffer holds many runs
    KEPT_PER_THREAD = 4 // and so many for each thread
};
#define NO_WINDOW UINT64_MAX

/* A window's rows of all sites, as stored. */
typedef struct kept {
    uint64_t window, used; // NO_WINDOW: nothing; used: the reading that needed it last
    char *rows;            // site after site, [context, width] each
} kept;

typedef struct live {
    harvest h;
    const char *site[HARVEST_MOST_SITES]; // those wanted
    size_t threads, n_kept;
    df_forward **forward; // [threads]
    float **scratch;      // [threads] the sites after one another, each [context, its width]
    kept *kept;           // [n_kept]
    size_t *missing;      // [n_kept] places of windows to run
    uint64_t reading;     // number of this reading
    uint64_t ahead;       // the window after the last that was run
    uint64_t ran;         // windows, one as often as it was run
    pthread_mutex_t lock;
} live;

/* ---- windows -------------------------------------------------------------------------------- */

static uint64_t window_of(const packed_text *text, uint64_t row) {
    return df_run_holding(text->window, text->windows, row);
}

static kept *find(const live *l, uint64_t window) {
    for (size_t i = 0; i < l->n_kept; i++)
        if (l->kept[i].window == window) return &l->kept[i];
    return NULL;
}

// The place whose window was needed longest ago.
static kept *oldest(const live *l) {
    kept *old = &l->kept[0];
    for (size_t i = 1; i < l->n_kept; i++)
        if (l->kept[i].used < old->used) old = &l->kept[i];
    return old;
}

// Gives a window that is not there the place of the oldest; false when all are needed now.
static bool take_place(live *l, uint64_t window, size_t *n_missing) {
    kept *place = oldest(l);
    if (place->used == l->reading) return false;
    *place = (kept){window, l->reading, place->rows};
    l->missing[(*n_missing)++] = (size_t)(place - l->kept);
    return true;
}

// Leading rows whose windows fit; those windows, each once, in the order of the rows.
static size_t fit_rows(const live *l, const uint64_t *rows, size_t n, uint64_t *windows,
                       size_t *n_windows) {
    *n_windows = 0;
    for (size_t i = 0; i < n; i++) {
        uint64_t window = window_of(&l->h.text, rows[i]);
        size_t at = *n_windows;
        while (at > 0 && windows[at - 1] != window) at--;
        if (at > 0) continue;
        if (*n_windows == l->n_kept) return i;
        windows[(*n_windows)++] = window;
    }
    return n;
}

static size_t fit(void *self, const uint64_t *rows, size_t n) {
    const live *l = self;
    uint64_t *windows = NULL;
    size_t count;
    if (DF_NEW(windows, l->n_kept) != DF_OK) {
        df_error_clear(); // reading says so
        return 1;
    }
    n = fit_rows(l, rows, n, windows, &count);
    df_free(windows);
    return n;
}

static df_status run_window(const live *l, size_t thread, const kept *place) {
    const harvest *h = &l->h;
    void *stored[HARVEST_MOST_SITES];
    double squares[HARVEST_MOST_SITES];
    for (size_t s = 0; s < h->own.n; s++)
        stored[s] = place->rows + h->how.context * h->own.before[s] * df_type_bytes(h->type);
    return df_harvest_window(h, l->forward[thread], (size_t)place->window, l->scratch[thread],
                             stored, squares);
}

// A failure is one of the reading where the window was asked for, which the first `wanted` are.
static df_status run_missing(live *l, size_t wanted, size_t n) {
    df_carried failure = {0};             // at: the window
    omp_set_num_threads((int)l->threads); // of this thread, which may be a reader's
#pragma omp parallel for schedule(dynamic, 1) num_threads((int)l->threads)
    for (size_t i = 0; i < n; i++) {
        kept *place = &l->kept[l->missing[i]];
        df_status status = run_window(l, (size_t)omp_get_thread_num(), place);
        if (status == DF_OK) continue;
        if (i < wanted)
            df_carry(&failure, status, (size_t)place->window);
        else
            df_error_clear();
        place->window = NO_WINDOW;
    }
    return df_carried_raise(&failure);
}

// In a pass from row to row the next windows will be asked for: idle threads run them.
static void look_ahead(live *l, uint64_t last, size_t *n_missing) {
    while (*n_missing > 0 && *n_missing < l->threads && ++last < l->h.text.windows)
        if (find(l, last) == NULL && !take_place(l, last, n_missing)) return;
}

static df_status make(live *l, const uint64_t *windows, size_t n) {
    size_t missing = 0;
    l->reading++;
    for (size_t i = 0; i < n; i++) {
        kept *place = find(l, windows[i]);
        if (place != NULL) place->used = l->reading;
    }
    for (size_t i = 0; i < n; i++)
        if (find(l, windows[i]) == NULL) (void)take_place(l, windows[i], &missing);
    size_t wanted = missing;
    if (missing > 0 && windows[0] <= l->ahead && l->ahead <= windows[n - 1])
        look_ahead(l, windows[n - 1], &missing);
    l->ahead = windows[n - 1] + 1;
    l->ran += missing;
    return run_missing(l, wanted, missing);
}

static void copy_rows(const live *l, size_t site, const uint64_t *rows, size_t n, float *out,
                      size_t ld) {
    const harvest *h = &l->h;
    size_t bytes = df_type_bytes(h->type), width = h->width[site];
    for (size_t i = 0; i < n; i++) {
        uint64_t window = window_of(&h->text, rows[i]), place = rows[i] - h->text.window[window];
        const char *from = find(l, window)->rows;
        from += (h->how.context * h->own.before[site] + place * width) * bytes;
        df_to_f32(h->type, from, out + i * ld, width);
    }
}

static df_status read_rows(void *self, size_t site, const uint64_t *rows, size_t n, float *out,
                           size_t ld) {
    live *l = self;
    uint64_t *windows = NULL;
    DF_TRY(DF_NEW(windows, l->n_kept));
    df_status status = DF_OK;
    pthread_mutex_lock(&l->lock);
    for (size_t done = 0, count, n_windows; done < n && status == DF_OK; done += count) {
        count = fit_rows(l, rows + done, n - done, windows, &n_windows);
        status = make(l, windows, n_windows);
        if (status == DF_OK) copy_rows(l, site, rows + done, count, out + done * ld, ld);
    }
    pthread_mutex_unlock(&l->lock);
    df_free(windows);
    return status;
}

/* ---- opening -------------------------------------------------------------------------------- */

// Of the harvest's sites those that training reads, in their order.
static void pick_sites(live *l, size_t model, const df_columns *wanted) {
    harvest *h = &l->h;
    size_t n = 0;
    for (size_t s = 0; s < h->sites; s++) {
        bool is = false;
        for (size_t c = 0; c < wanted->n; c++)
            is = is || (wanted->model[c] == model && strcmp(wanted->site[c], h->site[s]) == 0);
        if (!is) continue;
        l->site[n] = h->site[s];
        h->home[n] = h->home[s];
        h->width[n++] = h->width[s];
    }
    h->site = l->site;
    h->sites = n;
}

static uint64_t kept_bytes(const live *l) {
    const harvest *h = &l->h;
    return h->how.context * h->own.columns * df_type_bytes(h->type);
}

static uint64_t live_bytes(const live *l) {
    const harvest *h = &l->h;
    uint64_t thread = df_forward_bytes(&h->shape, h->how.context, h->own.name, h->own.n) +
                      h->how.context * h->own.columns * sizeof(float);
    return df_model_part_bytes(&h->shape, h->pipe.part[0], h->bf16) + df_line_bytes(1, 0, 0) +
           l->threads * thread + l->n_kept * kept_bytes(l);
}

static df_status get_memory(live *l) {
    const harvest *h = &l->h;
    DF_TRY(DF_NEW(l->forward, l->threads));
    DF_TRY(DF_NEW(l->scratch, l->threads));
    for (size_t t = 0; t < l->threads; t++) {
        DF_TRY(df_forward_open(h->model, h->how.context, h->own.name, h->own.n, &l->forward[t]));
        DF_TRY(DF_NEW(l->scratch[t], h->how.context * h->own.columns));
    }
    DF_TRY(DF_NEW(l->kept, l->n_kept));
    DF_TRY(DF_NEW(l->missing, l->n_kept));
    for (size_t i = 0; i < l->n_kept; i++) {
        l->kept[i].window = NO_WINDOW;
        l->kept[i].rows = df_alloc(kept_bytes(l), 1);
        if (l->kept[i].rows == NULL) return DF_FAILED;
    }
    return DF_OK;
}

static void live_close(void *self) {
    live *l = self;
    if (l->ran > 0)
        df_info("model %s: rank 0 ran %llu windows for rows, the text has %llu", l->h.name,
                (unsigned long long)l->ran, (unsigned long long)l->h.text.windows);
    for (size_t t = 0; t < l->threads; t++) {
        if (l->forward != NULL) df_forward_close(&l->forward[t]);
        if (l->scratch != NULL) df_free(l->scratch[t]);
    }
    for (size_t i = 0; l->kept != NULL && i < l->n_kept; i++) df_free(l->kept[i].rows);
    df_free(l->forward);
    df_free(l->scratch);
    df_free(l->kept);
    df_free(l->missing);
    pthread_mutex_destroy(&l->lock);
    df_harvest_close(&l->h);
    df_free(l);
}

/* ---- as activations ------------------------------------------------------------------------- */

static df_status fill_sites(const live *l, df_acts *acts) {
    DF_TRY(DF_NEW(acts->site, l->h.sites));
    for (size_t s = 0; s < l->h.sites; s++) {
        acts->site[s].name = df_strdup(l->h.site[s]);
        acts->site[s].width = l->h.width[s];
        acts->site[s].type = l->h.type;
        acts->sites = s + 1;
        if (acts->site[s].name == NULL) return DF_FAILED;
    }
    return DF_OK;
}

static df_status fill_names(const live *l, df_acts *acts) {
    const harvest *h = &l->h;
    acts->path = df_format("model %s over %s", h->name, df_job_text(h->run->job, "text.file"));
    acts->model = df_strdup(h->name);
    acts->model_path = df_strdup(h->model_path);
    acts->corpus = df_format("%016llx", (unsigned long long)h->corpus_hash);
    acts->tokenizer = df_format("%016llx", (unsigned long long)h->tokenizer_hash);
    acts->recipe = df_hash(h->job, strlen(h->job));
    acts->hash = acts->recipe;
    acts->bos = h->text.bos;
    const char *names[] = {acts->path, acts->model, acts->model_path, acts->corpus,
                           acts->tokenizer};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (names[i] == NULL) return DF_FAILED;
    return DF_OK;
}

// The index is the text's, lent by the source as long as it lives.
static void fill_index(const live *l, df_acts *acts) {
    const packed_text *t = &l->h.text;
    acts->rows = t->rows;
    acts->windows = t->windows;
    acts->documents = t->documents;
    acts->tokens = t->tokens;
    acts->token_end = t->token_end;
    acts->window = t->window;
    acts->document = t->document;
    acts->source = t->source;
    acts->heldout = t->heldout;
    df_acts_align(acts);
}

static df_status describe(live *l, df_acts *acts) {
    acts->made = (df_acts_made){l, fit, read_rows, live_close};
    fill_index(l, acts);
    DF_TRY(fill_sites(l, acts));
    return fill_names(l, acts);
}

df_status df_live_open(const df_run *run, size_t model, const df_columns *wanted, df_acts **out,
                       uint64_t *need_bytes) {
    live *l = NULL;
    df_acts *acts = NULL;
    *out = NULL;
    df_status status = DF_NEW(l, 1);
    if (status == DF_OK) status = DF_NEW(acts, 1);
    status = df_agree(run->world, status);
    if (status != DF_OK) {
        df_free(l);
        df_free(acts);
        return status;
    }
    l->threads = (size_t)omp_get_max_threads();
    l->n_kept = KEPT_PER_THREAD * l->threads > KEPT ? KEPT_PER_THREAD * l->threads : KEPT;
    pthread_mutex_init(&l->lock, NULL);
    acts->made = (df_acts_made){.self = l, .close = live_close};
    status = df_harvest_open(run, model, &l->h);
    if (status == DF_OK) pick_sites(l, model, wanted);
    if (status == DF_OK) status = df_pipeline_whole(&l->h);
    if (status == DF_OK) {
        *need_bytes = live_bytes(l);
        status = df_agree(run->world, describe(l, acts));
    }
    if (status == DF_OK && !run->dry_run) status = df_harvest_read_model(&l->h);
    if (status == DF_OK && !run->dry_run) status = df_agree(run->world, get_memory(l));
    if (status == DF_OK)
        *out = acts;
    else
        df_acts_close(&acts);
    return status;
}
