/* Weights at the start of a training. */
#include "train_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A sample is summed in this many fixed runs, so that any number of ranks gives the same numbers.
 * Weiszfeld's iteration ends when the median moves by less than CLOSE (of rows of norm about 1). */
enum { CHUNKS = 64, ITERATIONS = 100, PIECE = 256 }; // PIECE: rows read at a time
#define CLOSE 1e-5

/* ---- the geometric median ------------------------------------------------------------------- */

/* This rank's rows of the sample, chunk after chunk. */
typedef struct sample {
    df_comm *comm;
    size_t n, width;       /* rows of the whole sample, columns */
    df_range chunks, rows; /* of this rank */
    df_range columns;      /* of the site whose median is looked for */
    float *x;              /* [rows.count, width] */
    double *leaves;        /* [chunks.count, columns + 1] */
    double *sums;          /* [columns + 1] */
} sample;

static df_range chunk_of(const sample *s, size_t chunk) {
    return df_share(s->n, CHUNKS, (int)chunk);
}

/* Reads whole rows of the data set, a piece at a time, and keeps the columns of the dictionary, in
 * the units of training. */
static df_status read_sample(const train_rows *from, uint64_t seed, sample *s) {
    uint64_t wanted[PIECE], n = rows_counted(from->rows);
    float *x = NULL; // [PIECE, columns of the data set]
    df_status status = DF_NEW(x, PIECE * from->all->width);
    for (size_t done = 0, count; done < s->rows.count && status == DF_OK; done += count) {
        count = s->rows.count - done < PIECE ? s->rows.count - done : PIECE;
        for (size_t i = 0; i < count; i++)
            wanted[i] = df_random_permute(seed, DF_STREAM_INIT, n, s->rows.first + done + i);
        status = df_rows_read(from->rows, wanted, count, x);
        if (status != DF_OK) break;
        row_sites_scale(from->all, x, count);
        row_sites_pick(from->all, from->site, from->sites, x, count, s->x + done * s->width);
    }
    df_free(x);
    return status;
}

static df_status open_sample(df_comm *comm, const train_rows *from, const df_dict *dict,
                             uint64_t seed, sample *s) {
    df_range mine = df_share(CHUNKS, df_comm_size(comm), df_comm_rank(comm));
    *s = (sample){.comm = comm, .width = dict->width, .chunks = mine};
    size_t all = rows_counted(from->rows);
    s->n = all < DF_MEDIAN_ROWS ? all : DF_MEDIAN_ROWS;
    for (size_t i = 0; i < mine.count; i++) {
        df_range chunk = chunk_of(s, mine.first + i);
        if (i == 0) s->rows.first = chunk.first;
        s->rows.count += chunk.count;
    }
    DF_TRY(DF_NEW(s->x, s->rows.count * s->width));
    DF_TRY(DF_NEW(s->leaves, mine.count * (s->width + 1)));
    DF_TRY(DF_NEW(s->sums, s->width + 1));
    return read_sample(from, seed, s);
}

static double distance(const float *x, const double *center, size_t n) {
    double squares = 0.0;
    for (size_t i = 0; i < n; i++)
        squares += ((double)x[i] - center[i]) * ((double)x[i] - center[i]);
    return sqrt(squares);
}

/* A row's weight is 1 / its distance; a row that is the centre has none. */
static void add_rows(const sample *s, df_range rows, const double *center, double *leaf) {
    size_t n = s->columns.count;
    memset(leaf, 0, (n + 1) * sizeof *leaf);
    for (size_t r = 0; r < rows.count; r++) {
        const float *x = s->x + (rows.first - s->rows.first + r) * s->width + s->columns.first;
        double apart = distance(x, center, n);
        if (!(apart > 0.0)) continue;
        for (size_t i = 0; i < n; i++) leaf[i] += (double)x[i] / apart;
        leaf[n] += 1.0 / apart;
    }
}

/* One step of Weiszfeld; *moved: how far the centre went. */
static df_status improve(sample *s, double *center, double *moved) {
    size_t columns = s->columns.count;
    for (size_t i = 0; i < s->chunks.count; i++)
        add_rows(s, chunk_of(s, s->chunks.first + i), center, s->leaves + i * (columns + 1));
    DF_TRY(df_tree_sum(s->comm, CHUNKS, columns + 1, s->leaves, s->sums));
    *moved = 0.0;
    for (size_t i = 0; i < columns && s->sums[columns] > 0.0; i++) {
        double next = s->sums[i] / s->sums[columns];
        *moved += (next - center[i]) * (next - center[i]);
        center[i] = next;
    }
    *moved = sqrt(*moved);
    return DF_OK;
}

/* Of one site; center holds its columns. */
static df_status find_median(sample *s, df_range columns, float *center) {
    double *at, moved = 1.0;
    df_status status = df_agree(s->comm, DF_NEW(at, columns.count));
    if (status != DF_OK) return status;
    s->columns = columns;
    for (size_t i = 0; i < columns.count; i++) at[i] = (double)center[i];
    for (int n = 0; n < ITERATIONS && moved >= CLOSE && status == DF_OK; n++)
        status = improve(s, at, &moved);
    for (size_t i = 0; i < columns.count; i++) center[i] = (float)at[i];
    df_free(at);
    return status;
}

/* Of every site; center comes in as the mean, where the search begins. */
static df_status find_medians(sample *s, const df_dict *dict, float *center) {
    for (size_t i = 0; i < dict->sites; i++) {
        df_range columns = {dict->site[i].first, dict->site[i].width};
        DF_TRY(find_median(s, columns, center + columns.first));
    }
    return DF_OK;
}

/* ---- what else the sample tells ------------------------------------------------------------- */

/* sum x of each column of some rows, and sum x^2 of all: leaf [columns + 1]. */
static void add_moments(const sample *s, df_range rows, double *leaf) {
    size_t n = s->columns.count;
    memset(leaf, 0, (n + 1) * sizeof *leaf);
    for (size_t r = 0; r < rows.count; r++) {
        const float *x = s->x + (rows.first - s->rows.first + r) * s->width + s->columns.first;
        for (size_t i = 0; i < n; i++) leaf[i] += (double)x[i];
        leaf[n] += df_sum_squares(x, n);
    }
}

/* mean over the rows of sum (x - mean x)^2 over some columns. */
static df_status find_variance(sample *s, df_range columns, double *out) {
    size_t n = columns.count;
    s->columns = columns;
    for (size_t i = 0; i < s->chunks.count; i++)
        add_moments(s, chunk_of(s, s->chunks.first + i), s->leaves + i * (n + 1));
    DF_TRY(df_tree_sum(s->comm, CHUNKS, n + 1, s->leaves, s->sums));
    *out = s->sums[n] / (double)s->n;
    for (size_t i = 0; i < n; i++) *out -= s->sums[i] / (double)s->n * (s->sums[i] / (double)s->n);
    if (*out > 0.0) return DF_OK;
    return df_fail(DF_BAD_INPUT,
                   "the %zu rows of the sample are all the same: errors cannot be "
                   "divided by their variance (train.reconstruction fvu-sample)",
                   s->n);
}

/* The median in place of the mean, and the variance, where they are asked for. */
static df_status use_sample(df_comm *comm, const train_rows *from, const df_train_options *o,
                            const df_dict *dict, float *center, double *variance) {
    bool median = o->init_bias == DF_INIT_MEDIAN;
    bool varies = o->objective.reconstruction == DF_FVU_SAMPLE;
    sample s;
    if (!median && !varies) return DF_OK;
    df_status status = df_agree(comm, open_sample(comm, from, dict, o->seed, &s));
    if (status == DF_OK && median) status = find_medians(&s, dict, center);
    if (status == DF_OK && varies) status = find_variance(&s, dict->out, variance);
    df_free(s.x);
    df_free(s.leaves);
    df_free(s.sums);
    return status;
}

/* The rows of this rank's chunks of the sample. */
static size_t sample_bytes(const df_dict *d, size_t rows, const df_group_place *at) {
    df_range mine = df_share(CHUNKS, at->shards, at->shard);
    size_t n = rows < DF_MEDIAN_ROWS ? rows : DF_MEDIAN_ROWS, here = 0;
    for (size_t i = 0; i < mine.count; i++)
        here += df_share(n, CHUNKS, (int)(mine.first + i)).count;
    return here * d->width * sizeof(float) + (mine.count + 1) * (d->width + 1) * sizeof(double);
}

size_t initialise_bytes(const df_train_options *o, const df_dict *d, const df_rows *rows,
                        size_t columns, const df_group_place *at) {
    size_t all = rows_counted(rows), n = all < DF_QUANTILE_ROWS ? all : DF_QUANTILE_ROWS, most = 0;
    if (o->init_bias == DF_INIT_MEDIAN || o->objective.reconstruction == DF_FVU_SAMPLE)
        most = sample_bytes(d, all, at);
    if (o->init_bias_enc == DF_INIT_ENC_QUANTILE && n * (d->width + 1) * sizeof(float) > most)
        most = n * (d->width + 1) * sizeof(float);
    return most + (PIECE * columns + columns + d->width) * sizeof(float);
}

/* ---- weights -------------------------------------------------------------------------------- */

/* Uniform decoder rows, and encoders from them where a latent reads what it writes. */
static void draw_uniform(df_dict *d, uint64_t seed, double encoder) {
    for (size_t j = 0; j < d->mine.count; j++) {
        const df_dict_group *g = df_dict_group_of(d, j);
        float *dec = df_dict_dec(d, j), *enc = df_dict_enc(d, j);
        uint64_t index = (uint64_t)(d->mine.first + j) * d->width + g->out.first;
        double reach = 1.0 / sqrt((double)g->out.count);
        for (size_t i = 0; i < g->out.count; i++)
            dec[i] =
                (float)(reach * (2.0 * df_random_uniform(seed, DF_STREAM_INIT, index + i) - 1));
        df_dict_bind_latent(d, j);
        if (g->in.first != g->out.first || g->in.count != g->out.count) continue;
        for (size_t i = 0; i < g->in.count; i++) enc[i] = (float)encoder * dec[i];
    }
}

static void clear_decoder(df_dict *d) {
    size_t first = d->mine.first, end = first + d->mine.count;
    size_t n = df_dict_dec_floats(d, end) - df_dict_dec_floats(d, first);
    for (size_t i = 0; i < n; i++) d->w_dec[i] = 0.0f;
}

static void draw_biases(df_dict *d, uint64_t seed) {
    for (size_t j = 0; j < d->mine.count; j++) {
        double reach = 1.0 / sqrt((double)df_dict_group_of(d, j)->in.count);
        double drawn = df_random_uniform(seed, DF_STREAM_INIT_BIAS, d->mine.first + j);
        d->b_enc[j] = (float)(reach * (2.0 * drawn - 1.0));
    }
}

/* mean [width] of the rows: pre-activations get a mean of 0. */
static void centre_biases(df_dict *d, const float *mean) {
    for (size_t j = 0; j < d->mine.count; j++) {
        const df_dict_group *g = df_dict_group_of(d, j);
        const float *enc = df_dict_enc(d, j), *x = mean + g->in.first;
        double image = (double)df_dot(x, enc, g->in.count);
        if (d->subtract_bias)
            image -= (double)df_dot(d->b_dec + (g->in.first - d->out.first), enc, g->in.count);
        d->b_enc[j] = (float)-image;
    }
}

/* Of the norms that tied ones would have. */
static void draw_encoders(df_dict *d, uint64_t seed) {
    for (size_t j = 0; j < d->mine.count; j++) {
        const df_dict_group *g = df_dict_group_of(d, j);
        float *enc = df_dict_enc(d, j);
        uint64_t index = (uint64_t)(d->mine.first + j) * d->width + g->in.first;
        for (size_t s = 0; s < d->sites; s++) {
            if (!d->site[s].input || d->site[s].first < g->in.first) continue;
            size_t first = d->site[s].first - g->in.first, n = d->site[s].width;
            if (first + n > g->in.count) continue;
            double norm = sqrt(df_sum_squares(enc + first, n));
            for (size_t i = first; i < first + n; i++)
                enc[i] = (float)df_random_normal(seed, DF_STREAM_INIT_ENCODER, index + i);
            double length = sqrt(df_sum_squares(enc + first, n));
            for (size_t i = first; i < first + n; i++)
                enc[i] *= (float)(length > 0.0 ? norm / length : 0.0);
        }
    }
}

/* A latent's part of the first site that it reaches stands for those of the others. */
static void repeat_part(df_dict *d, size_t j, bool written) {
    const df_dict_group *g = df_dict_group_of(d, j);
    df_range span = written ? g->out : g->in, reach = df_dict_reach(d, j);
    float *row = written ? df_dict_dec(d, j) : df_dict_enc(d, j), *first = NULL;
    size_t from = span.first > reach.first ? span.first : reach.first;
    size_t a = span.first + span.count, b = reach.first + reach.count, end = a < b ? a : b;
    for (size_t s = 0; s < d->sites; s++) {
        const df_dict_site *site = &d->site[s];
        if (!(written ? site->output : site->input)) continue;
        if (site->first < from || site->first >= end) continue;
        float *part = row + (site->first - span.first);
        if (first == NULL)
            first = part;
        else
            memcpy(part, first, site->width * sizeof *part);
    }
}

/* ---- active on a share of the rows ---------------------------------------------------------- */

static int by_size(const void *a, const void *b) {
    const float *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

/* As numpy's quantile: between two values where the place is none's. */
static double quantile(const float *sorted, size_t n, double share) {
    double place = share * (double)(n - 1);
    size_t below = (size_t)place, above = below + 1 < n ? below + 1 : below;
    double part = place - (double)below;
    return (double)sorted[below] + part * ((double)sorted[above] - (double)sorted[below]);
}

/* b_enc of latent j from rows x [n, width] less b_dec where the encoder sees them so. */
static void set_bias(df_dict *d, size_t j, const float *x, size_t n, double share, float *room) {
    df_range in = df_dict_group_of(d, j)->in;
    for (size_t r = 0; r < n; r++)
        room[r] = df_dot(x + r * d->width + in.first, df_dict_enc(d, j), in.count);
    qsort(room, n, sizeof *room, by_size);
    d->b_enc[j] = (float)((double)d->theta[j] - quantile(room, n, 1.0 - share));
}

/* The first n rows of the sample, x [n, width], as the encoder sees them. */
static df_status sample_all(const train_rows *from, const df_dict *d, uint64_t seed, size_t n,
                            float *x) {
    sample s = {.n = n, .width = d->width, .rows = {0, n}, .x = x};
    DF_TRY(read_sample(from, seed, &s));
    for (size_t i = 0; i < n && d->subtract_bias; i++)
        for (size_t c = 0; c < d->in.count; c++) x[i * d->width + d->in.first + c] -= d->b_dec[c];
    return DF_OK;
}

/* Every rank reads the sample whole and sets its own latents. */
static df_status quantile_biases(const train_rows *from, const df_train_options *o, df_dict *d) {
    size_t all = rows_counted(from->rows), n = all < DF_QUANTILE_ROWS ? all : DF_QUANTILE_ROWS;
    double share = o->init_active > 0.0 ? o->init_active : fmin(1e4 / (double)d->latents, 0.5);
    float *x = NULL, *room = NULL;
    df_status status = DF_NEW(x, n * d->width);
    if (status == DF_OK) status = DF_NEW(room, n);
    if (status == DF_OK) status = sample_all(from, d, o->seed, n, x);
    for (size_t j = 0; j < d->mine.count && status == DF_OK; j++) set_bias(d, j, x, n, share, room);
    df_free(x);
    df_free(room);
    return status;
}

/* ---- reconstructions of norm 1 -------------------------------------------------------------- */

/* A random direction of norm 1 in what the encoders read, about b_dec where they subtract it. */
static void draw_direction(const df_dict *d, uint64_t seed, size_t row, float *x) {
    float *in = x + d->in.first;
    memset(x, 0, d->width * sizeof *x);
    for (size_t i = 0; i < d->in.count; i++)
        in[i] = (float)df_random_normal(seed, DF_STREAM_INIT_FIT, row * d->width + i);
    double length = sqrt(df_sum_squares(in, d->in.count));
    for (size_t i = 0; i < d->in.count; i++)
        in[i] = (float)((double)in[i] / length) + (d->subtract_bias ? d->b_dec[i] : 0.0f);
}

/* The mean norm of the reconstructions of rows x [rows, width] about b_dec; room [out] for each row
 * of this rank. */
static df_status mean_norm(df_comm *comm, df_coder *coder, const df_dict *d, const float *x,
                           size_t rows, float *room, double *out) {
    const df_codes *codes;
    double leaf[DF_FIT_ROWS];
    df_range mine = df_share(rows, df_comm_size(comm), df_comm_rank(comm));
    DF_TRY(df_coder_encode(coder, x, rows, true, &codes));
    DF_TRY(df_coder_decode(coder, codes, room));
    for (size_t r = 0; r < mine.count; r++) {
        float *row = room + r * d->out.count;
        for (size_t i = 0; i < d->out.count; i++) row[i] -= d->b_dec[i];
        leaf[r] = sqrt(df_sum_squares(row, d->out.count));
    }
    DF_TRY(df_tree_sum(comm, rows, 1, leaf, out));
    *out /= (double)rows;
    return DF_OK;
}

df_status fit_encoder(df_comm *comm, df_coder *coder, df_dict *d, uint64_t seed, size_t max_rows) {
    size_t rows = max_rows < DF_FIT_ROWS ? max_rows : DF_FIT_ROWS;
    float *x = NULL, *room = NULL;
    double norm = 0.0;
    df_status status = DF_NEW(x, rows * d->width);
    if (status == DF_OK) status = DF_NEW(room, rows * d->out.count);
    status = df_agree(comm, status);
    for (size_t r = 0; r < rows && status == DF_OK; r++)
        draw_direction(d, seed, r, x + r * d->width);
    if (status == DF_OK) status = mean_norm(comm, coder, d, x, rows, room, &norm);
    if (status == DF_OK && !(norm > 0.0))
        status = df_fail(DF_USAGE, "no latent is active on rows of norm 1: the encoder cannot be "
                                   "scaled to reconstruct them");
    size_t end = d->mine.first + d->mine.count;
    size_t n = df_dict_enc_floats(d, end) - df_dict_enc_floats(d, d->mine.first);
    for (size_t i = 0; i < n && status == DF_OK; i++)
        d->w_enc[i] = (float)((double)d->w_enc[i] / norm);
    df_free(x);
    df_free(room);
    return status;
}

/* ---- the start ------------------------------------------------------------------------------ */

df_status initialise(df_comm *comm, const train_rows *from, const df_train_options *o,
                     df_dict *dict, const float *mean, double *variance) {
    float *center = NULL; // [width]
    df_status status = df_agree(comm, DF_NEW(center, dict->width));
    if (status != DF_OK) return status;
    if (o->init_bias != DF_INIT_ZERO) memcpy(center, mean, dict->width * sizeof *center);
    status = use_sample(comm, from, o, dict, center, variance);
    double sites = o->init_whole_row ? (double)df_dict_outputs(dict) : 1.0;
    double encoder = o->init_encoder > 0.0 ? o->init_encoder : 1.0;
    if (o->init_ratio) encoder = (double)dict->in.count / (double)dict->latents;
    df_dict_initialise(dict, o->seed, o->init_norm / sqrt(sites), encoder,
                       center + dict->out.first);
    if (o->init_uniform) draw_uniform(dict, o->seed, encoder);
    for (size_t j = 0; j < dict->mine.count && o->activation == DF_JUMPRELU; j++)
        dict->theta[j] = (float)o->init_threshold;
    if (o->init_untied) draw_encoders(dict, o->seed);
    for (size_t j = 0; j < dict->mine.count && o->init_same; j++) {
        repeat_part(dict, j, true);
        repeat_part(dict, j, false);
    }
    if (o->init_zero) clear_decoder(dict);
    if (o->init_bias_enc == DF_INIT_ENC_UNIFORM) draw_biases(dict, o->seed);
    for (size_t j = 0; j < dict->mine.count; j++) df_dict_bind_latent(dict, j);
    if (o->init_bias_enc == DF_INIT_ENC_CENTRED) centre_biases(dict, mean);
    if (o->init_bias_enc == DF_INIT_ENC_QUANTILE && status == DF_OK)
        status = df_agree(comm, quantile_biases(from, o, dict));
    df_free(center);
    return status;
}

df_train_room train_room(const df_train_options *o) {
    return (df_train_room){.multi = o->multi > 0.0, .ema = o->ema > 0.0};
}
