/* The global shuffle, out of core. Places of the output fall into ranges of `places` rows, owned by
 * ranks. First pass: rows go to the owners of their ranges in the order of the source and are
 * appended there. Second pass: each range is put in order in memory. */
#include "rows_parts.h"

#include "darkfield/kernels.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_SITES = 256, PIECE = 1024 }; // PIECE: rows read at once

typedef struct shuffle {
    df_comm *comm;
    const df_rows *rows;
    const df_shuffle_options *o;
    df_file *file;
    int id[MAX_SITES + 1];                // of each site, then of /source
    size_t bytes[MAX_SITES], row, widest; // of one row of each site; of all, of the widest
    uint64_t places, ranges;              // rows of a range; number of ranges
    df_range mine;                        // ranges of this rank
    uint64_t chunk;                       // rows that one rank reads in a round
    uint64_t *range_of;                   // [chunk] of each row just read
    uint64_t *count;                      // [ranges] rows for each
    uint64_t *offset;                     // [ranges] where they stand in `out`, in rows
    uint64_t *got;                        // [size * mine.count] rows from each rank for my ranges
    uint64_t *filled;                     // [mine.count] rows appended so far
    size_t *send, *receive;               // [size] bytes
    char *out, *in;                       // rows to send, and received
    size_t in_bytes;
    df_progress progress;
} shuffle;

/* ---- sizes - */

static uint64_t smaller(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

static void plan(shuffle *s, int ranks, int rank) {
    uint64_t memory = s->o->memory, n = s->rows->n, size = (uint64_t)ranks;
    for (size_t i = 0; i < s->rows->sites; i++) {
        s->bytes[i] = s->rows->site[i].width * df_type_bytes(s->rows->site[i].type);
        s->row += s->bytes[i];
        if (s->bytes[i] > s->widest) s->widest = s->bytes[i];
    }
    s->places = smaller(memory / (2 * s->widest + 40), (n + size - 1) / size);
    s->chunk = smaller(memory / (2 * s->row + s->row / 4 + 16), (n + size - 1) / size);
    if (s->places == 0) s->places = 1;
    if (s->chunk == 0) s->chunk = 1;
    s->ranges = (n + s->places - 1) / s->places;
    s->mine = df_share((size_t)s->ranges, ranks, rank);
}

static df_status get_memory(shuffle *s) {
    size_t size = (size_t)df_comm_size(s->comm);
    DF_TRY(DF_NEW(s->range_of, s->chunk));
    DF_TRY(DF_NEW(s->count, s->ranges));
    DF_TRY(DF_NEW(s->offset, s->ranges));
    DF_TRY(DF_NEW(s->got, size * s->mine.count));
    DF_TRY(DF_NEW(s->filled, s->mine.count));
    DF_TRY(DF_NEW(s->send, size));
    DF_TRY(DF_NEW(s->receive, size));
    return DF_NEW(s->out, s->chunk * s->row);
}

static void release(shuffle *s) {
    void *owned[] = {s->range_of, s->count,   s->offset, s->got, s->filled,
                     s->send,     s->receive, s->out,    s->in};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) df_free(owned[i]);
}

/* ---- first pass - */

/* Where the rows of this round will go, and where they stand among those to send: range after
 * range, so rank after rank. */
static void address(shuffle *s, df_range chunk) {
    uint64_t at = 0;
    memset(s->count, 0, s->ranges * sizeof *s->count);
    for (size_t r = 0; r < chunk.count; r++) {
        uint64_t place =
            df_random_unpermute(s->o->seed, DF_STREAM_SHUFFLE, s->rows->n, chunk.first + r);
        s->range_of[r] = place / s->places;
        s->count[s->range_of[r]]++;
    }
    for (uint64_t b = 0; b < s->ranges; b++) {
        s->offset[b] = at;
        at += s->count[b];
    }
}

/* A range's rows stand site by site. `sent`: rows of that range before this one. */
static char *slot(const shuffle *s, uint64_t range, uint64_t sent, size_t site) {
    char *at = s->out + s->offset[range] * s->row;
    for (size_t i = 0; i < site; i++) at += s->count[range] * s->bytes[i];
    return at + sent * s->bytes[site];
}

/* Raw rows of one site, n <= PIECE of them from row `first` of the data set, each to its slot. */
static df_status take_rows(shuffle *s, size_t site, const uint64_t *source, df_range run,
                           uint64_t *sent) {
    size_t f = rows_file_of(s->rows, source[0]), at = f * s->rows->sites + site;
    uint64_t first = source[0] - s->rows->start[f];
    char *raw = NULL;
    df_status status = DF_NEW(raw, run.count * s->bytes[site]);
    if (status == DF_OK)
        status = df_acts_raw(s->rows->acts[at], s->rows->index[at], first, run.count, raw);
    for (size_t r = 0; r < run.count && status == DF_OK; r++) {
        uint64_t range = s->range_of[run.first + r];
        memcpy(slot(s, range, sent[range]++, site), raw + r * s->bytes[site], s->bytes[site]);
    }
    df_free(raw);
    return status;
}

/* Runs of consecutive rows of one file are read at once. */
static df_status read_site(shuffle *s, size_t site, df_range chunk, uint64_t *sent) {
    uint64_t source[PIECE];
    size_t run;
    memset(sent, 0, s->ranges * sizeof *sent);
    for (size_t done = 0; done < chunk.count; done += run) {
        source[0] = df_rows_source(s->rows, chunk.first + done);
        uint64_t end = s->rows->start[rows_file_of(s->rows, source[0]) + 1];
        for (run = 1; done + run < chunk.count && run < PIECE; run++) {
            source[run] = df_rows_source(s->rows, chunk.first + done + run);
            if (source[run] != source[run - 1] + 1 || source[run] >= end) break;
        }
        DF_TRY(take_rows(s, site, source, (df_range){done, run}, sent));
    }
    return DF_OK;
}

static df_status read_chunk(shuffle *s, df_range chunk) {
    uint64_t *sent = NULL;
    address(s, chunk);
    df_status status = DF_NEW(sent, s->ranges);
    for (size_t i = 0; i < s->rows->sites && status == DF_OK; i++)
        status = read_site(s, i, chunk, sent);
    df_free(sent);
    return status;
}

/* Every rank tells the owners how many rows come, then sends them. */
static df_status send_counts(shuffle *s) {
    int size = df_comm_size(s->comm);
    size_t all = 0;
    for (int r = 0; r < size; r++) {
        s->send[r] = df_share((size_t)s->ranges, size, r).count * sizeof *s->count;
        s->receive[r] = s->mine.count * sizeof *s->got;
    }
    df_exchange(s->comm, s->count, s->send, s->got, s->receive);
    for (int r = 0; r < size; r++) {
        df_range theirs = df_share((size_t)s->ranges, size, r);
        s->send[r] = s->receive[r] = 0;
        for (size_t b = theirs.first; b < theirs.first + theirs.count; b++)
            s->send[r] += (size_t)s->count[b] * s->row;
        for (size_t b = 0; b < s->mine.count; b++)
            s->receive[r] += (size_t)s->got[(size_t)r * s->mine.count + b] * s->row;
        all += s->receive[r];
    }
    if (all <= s->in_bytes) return DF_OK;
    df_free(s->in);
    s->in_bytes = all + all / 16;
    return DF_NEW(s->in, s->in_bytes);
}

/* Appends what came, rank after rank: the order of the source. */
static df_status append(shuffle *s) {
    const char *from = s->in;
    for (int r = 0; r < df_comm_size(s->comm); r++)
        for (size_t b = 0; b < s->mine.count; b++) {
            uint64_t n = s->got[(size_t)r * s->mine.count + b];
            uint64_t first = (s->mine.first + b) * s->places + s->filled[b];
            for (size_t i = 0; i < s->rows->sites; from += n * s->bytes[i++])
                if (n > 0) DF_TRY(df_file_write(s->file, s->id[i], first, n, from));
            s->filled[b] += n;
        }
    return DF_OK;
}

static df_status run_round(shuffle *s, uint64_t first) {
    int size = df_comm_size(s->comm);
    uint64_t all = smaller(s->rows->n - first, s->chunk * (uint64_t)size);
    df_range chunk = df_share((size_t)all, size, df_comm_rank(s->comm));
    chunk.first += first;
    df_timer_start("read");
    df_status status = read_chunk(s, chunk);
    df_timer_stop("read");
    DF_TRY(df_agree(s->comm, status));
    df_timer_start("exchange");
    status = df_agree(s->comm, send_counts(s));
    if (status == DF_OK) df_exchange(s->comm, s->out, s->send, s->in, s->receive);
    df_timer_stop("exchange");
    DF_TRY(status);
    df_timer_start("write");
    status = df_file_agree(s->file, append(s));
    df_timer_stop("write");
    df_progress_at(&s->progress, first + all, NULL);
    return status;
}

/* ---- second pass - */

typedef struct arrival {
    uint64_t row, place; // of the data set; in the range
} arrival;

static int by_row(const void *a, const void *b) {
    uint64_t x = ((const arrival *)a)->row, y = ((const arrival *)b)->row;
    return (x > y) - (x < y);
}

/* Which row belongs at each place of a range; sorted as the rows have arrived. */
static void list_arrivals(const shuffle *s, uint64_t first, uint64_t n, arrival *list) {
    for (uint64_t p = 0; p < n; p++)
        list[p] =
            (arrival){df_random_permute(s->o->seed, DF_STREAM_SHUFFLE, s->rows->n, first + p), p};
    qsort(list, n, sizeof *list, by_row);
}

static df_status order_site(const shuffle *s, size_t site, df_range range, const arrival *list) {
    char *arrived = NULL, *placed = NULL;
    size_t bytes = s->bytes[site];
    df_status status = DF_NEW(arrived, range.count * bytes);
    if (status == DF_OK) status = DF_NEW(placed, range.count * bytes);
    if (status == DF_OK)
        status = df_file_read(s->file, s->id[site], range.first, range.count, arrived);
    for (size_t i = 0; i < range.count && status == DF_OK; i++)
        memcpy(placed + list[i].place * bytes, arrived + i * bytes, bytes);
    if (status == DF_OK)
        status = df_file_write(s->file, s->id[site], range.first, range.count, placed);
    df_free(arrived);
    df_free(placed);
    return status;
}

static df_status write_source(const shuffle *s, df_range range, const arrival *list) {
    uint64_t *source = NULL;
    DF_TRY(DF_NEW(source, range.count));
    for (size_t i = 0; i < range.count; i++)
        source[list[i].place] = df_rows_source(s->rows, list[i].row);
    df_status status =
        df_file_write(s->file, s->id[s->rows->sites], range.first, range.count, source);
    df_free(source);
    return status;
}

static df_status order_range(const shuffle *s, uint64_t b) {
    df_range range = {b * s->places, 0};
    range.count = smaller(s->rows->n - range.first, s->places);
    arrival *list = NULL;
    df_status status = DF_NEW(list, range.count);
    if (status == DF_OK) list_arrivals(s, range.first, range.count, list);
    if (status == DF_OK) status = write_source(s, range, list);
    for (size_t i = 0; i < s->rows->sites && status == DF_OK; i++)
        status = order_site(s, i, range, list);
    df_free(list);
    return status;
}

/* ---- all of it - */

static df_status stop_here(void) {
    return df_fail(DF_STOPPED, "stopped on request while shuffling: run the same job again, the "
                               "shuffle begins anew");
}

static df_status run_passes(shuffle *s) {
    uint64_t n = s->rows->n, size = (uint64_t)df_comm_size(s->comm), done = 0;
    df_progress_start(&s->progress, "shuffle", "rows", 0, 2 * n);
    for (uint64_t first = 0; first < n; first += s->chunk * size) {
        if (df_stop_requested(s->comm)) return stop_here();
        DF_TRY(run_round(s, first));
    }
    df_free(s->out);
    df_free(s->in);
    s->out = s->in = NULL;
    df_timer_start("order");
    df_status status = DF_OK;
    size_t most = df_share((size_t)s->ranges, (int)size, 0).count;
    for (size_t b = 0; b < most && status == DF_OK; b++) {
        if (b < s->mine.count) status = order_range(s, s->mine.first + b);
        status = df_file_agree(s->file, status);
        if (status == DF_OK && df_stop_requested(s->comm)) status = stop_here();
        done = smaller(n, (b + 1) * size * s->places);
        df_progress_at(&s->progress, n + done, NULL);
    }
    df_timer_stop("order");
    if (status == DF_OK) df_progress_end(&s->progress, 2 * n);
    return status;
}

static df_status declare_site(shuffle *s, size_t i) {
    const df_rows_site *site = &s->rows->site[i];
    char path[32];
    snprintf(path, sizeof path, "/sites/%zu", i);
    const df_dataset spec = {.path = path,
                             .type = site->type,
                             .dims = 2,
                             .shape = {s->rows->n, site->width},
                             .units = "activation",
                             .long_name = site->name,
                             .labels = "place, width"};
    DF_TRY(df_file_dataset(s->file, &spec, &s->id[i]));
    DF_TRY(df_file_text(s->file, path, "site", site->name));
    DF_TRY(df_file_text(s->file, path, "model", site->model));
    return df_file_int(s->file, path, "width", (int64_t)site->width);
}

static df_status declare(shuffle *s) {
    const df_dataset source = {
        "/source", DF_U64, 1, {s->rows->n}, "row", "row of the activation files, one after another",
        "place"};
    for (size_t i = 0; i < s->rows->sites; i++) DF_TRY(declare_site(s, i));
    DF_TRY(df_file_dataset(s->file, &source, &s->id[s->rows->sites]));
    DF_TRY(df_file_text(s->file, "/", "job", s->o->job));
    DF_TRY(df_file_int(s->file, "/", "rows", (int64_t)s->rows->n));
    DF_TRY(df_file_int(s->file, "/", "seed", (int64_t)s->o->seed));
    DF_TRY(df_file_int(s->file, "/", "dropped", (int64_t)s->o->dropped));
    DF_TRY(df_file_text(s->file, "/", "rule",
                        "place j holds row df_random_permute(seed, 2, rows, j) of the rows in use, "
                        "in file order: /source[j] of the activation files, one after another"));
    return df_file_provenance(s->file, &s->o->facts);
}

static df_status cannot(void) {
    return df_fail(DF_USAGE, "only activation files of at most %d sites can be shuffled",
                   (int)MAX_SITES);
}

df_status df_rows_shuffle(df_comm *comm, const df_rows *rows, const df_shuffle_options *options) {
    shuffle s = {.comm = comm, .rows = rows, .o = options};
    df_status status = DF_OK;
    if (rows->kind != ROWS_FILES || rows->sites > MAX_SITES) return cannot();
    plan(&s, df_comm_size(comm), df_comm_rank(comm));
    DF_GO(df_agree(comm, get_memory(&s)));
    DF_GO(df_file_create(comm, options->output, "darkfield-rows", &s.file));
    DF_GO(df_file_agree(s.file, declare(&s)));
    DF_GO(df_file_ready(s.file));
    DF_GO(run_passes(&s));
    DF_GO(df_file_finish(&s.file));
done:
    if (s.file != NULL) df_file_abandon(&s.file, false);
    release(&s);
    return status;
}

/* ---- the plan - */

/* Buffers of the first pass. A rank receives what its ranges draw of every round, and keeps that
 * room while it reads the next. */
static uint64_t first_pass_bytes(const shuffle *s, uint64_t size) {
    uint64_t n = s->rows->n, raw = smaller(s->chunk, PIECE) * s->widest + DF_CHECK_BYTES;
    double share = (double)smaller(s->mine.count * s->places, n) / (double)n;
    uint64_t in = (uint64_t)((double)(s->chunk * size * s->row) * share * 17 / 16);
    bool again = s->chunk * size < n;
    return s->chunk * (s->row + sizeof(uint64_t)) +
           (again      ? in + raw
            : in > raw ? in
                       : raw) +
           (3 * s->ranges + (size + 1) * s->mine.count) * sizeof(uint64_t);
}

df_status df_rows_shuffle_plan(const df_rows *rows, const df_shuffle_options *options, int size,
                               df_need *out) {
    shuffle s = {.rows = rows, .o = options};
    if (rows->kind != ROWS_FILES || rows->sites > MAX_SITES) return cannot();
    plan(&s, size, 0);
    DF_TRY(df_file_outline("darkfield-rows", &s.file));
    df_status status = declare(&s);
    *out = df_file_need(&s.file);
    uint64_t first = first_pass_bytes(&s, (uint64_t)size);
    uint64_t second = s.places * (sizeof(arrival) + 2 * s.widest);
    if (first > out->memory) out->memory = first;
    if (second > out->memory) out->memory = second;
    return status;
}
