/* Batches. A thread of its own reads pieces of rows into two buffers, one ahead of the other, while
 * steps compute; it calls neither MPI nor HDF5. A piece is this rank's share of a batch, or of a
 * shuffle buffer. An exchange between groups, of a shuffle buffer, and one
 * allgather then give every rank the rows of its group. */
#include "train_internal.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { SLOTS = 2, READ_ROWS = 4096 };

typedef struct slot {
    float *rows; // [room, width] in dictionary units
    bool full;
    df_status status; // of reading it; its text when it failed
    char text[1024];
} slot;

/* A place of this rank's part of a buffer, and the row that belongs there. */
typedef struct seat {
    uint64_t row, place;
} seat;

struct loader {
    df_groups groups; // borrowed comms
    const df_rows *rows;
    const row_sites *all;
    size_t batch, room; // rows of a slot
    df_range mine;      // rows of a batch that this group needs
    df_order order;
    slot slot[SLOTS];
    uint64_t next;  // piece that the thread reads next
    uint64_t last;  // the last one that is needed
    uint64_t taken; // pieces before this one have been used
    bool stop, running;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    seat *seats;            // [room] buffer shuffle: those of the piece that is read
    float *read;            // [READ_ROWS, width] rows on their way to their seats
    float *x;               // [mine, width]
    size_t *counts;         // [size] bytes that each rank has of them
    size_t *send, *receive; // [size] bytes: to each group, and from it or from each shard
    float *packed;          // buffer shuffle: [batch, width] of this rank, group after group
    float *crossed;         // [mine, width] of this rank's replicas; NULL: there is one group
    float *joined;          // [mine, width] of all, shard after shard
    int *owner;             // [batch] rank that has each row
    double waited;          // seconds
};

/* ---- pieces - */

static bool buffered(const loader *l) {
    return l->order.how == DF_SHUFFLE_BUFFER;
}

/* This rank's part of a piece: places of a buffer, or numbers of rows in the order of training. */
static df_range part_of(const loader *l, uint64_t piece) {
    const df_group_place *at = &l->groups.at;
    if (buffered(l))
        return df_share((size_t)df_order_room(&l->order, piece), df_groups_size(at),
                        df_groups_rank(at));
    df_range part = df_share(l->mine.count, at->shards, at->shard);
    part.first += (size_t)piece * l->batch + l->mine.first;
    return part;
}

static df_status read_batch(const loader *l, df_range part, float *out) {
    uint64_t wanted[READ_ROWS];
    for (size_t done = 0, n; done < part.count; done += n) {
        n = part.count - done < READ_ROWS ? part.count - done : READ_ROWS;
        for (size_t i = 0; i < n; i++) wanted[i] = df_order_at(&l->order, part.first + done + i);
        DF_TRY(df_rows_read(l->rows, wanted, n, out + done * l->all->width));
    }
    return DF_OK;
}

static int by_row(const void *a, const void *b) {
    uint64_t x = ((const seat *)a)->row, y = ((const seat *)b)->row;
    return (x > y) - (x < y);
}

/* Runs of one buffer often lie side by side, or in one window of a model that makes them: rows are
 * read in their own order, each window once, and then seated. */
static df_status read_buffer(const loader *l, uint64_t piece, df_range part, float *out) {
    uint64_t wanted[READ_ROWS];
    size_t width = l->all->width;
    for (size_t i = 0; i < part.count; i++)
        l->seats[i] = (seat){df_order_place(&l->order, piece, part.first + i), i};
    qsort(l->seats, part.count, sizeof *l->seats, by_row);
    for (size_t done = 0, n; done < part.count; done += n) {
        n = part.count - done < READ_ROWS ? part.count - done : READ_ROWS;
        for (size_t i = 0; i < n; i++) wanted[i] = l->seats[done + i].row;
        DF_TRY(df_rows_read(l->rows, wanted, n, l->read));
        for (size_t i = 0; i < n; i++)
            memcpy(out + l->seats[done + i].place * width, l->read + i * width,
                   width * sizeof *out);
    }
    return DF_OK;
}

static df_status read_part(const loader *l, uint64_t piece, float *out) {
    df_range part = part_of(l, piece);
    DF_TRY(buffered(l) ? read_buffer(l, piece, part, out) : read_batch(l, part, out));
    row_sites_scale(l->all, out, part.count);
    return DF_OK;
}

/* Failures are recorded per thread, so the text travels in the slot. */
static void fill(loader *l, uint64_t piece) {
    slot *s = &l->slot[piece % SLOTS];
    s->status = read_part(l, piece, s->rows);
    if (s->status != DF_OK) snprintf(s->text, sizeof s->text, "%s", df_error_text());
    df_error_clear();
}

static void *read_ahead(void *argument) {
    loader *l = argument;
    pthread_mutex_lock(&l->lock);
    while (!l->stop && l->next <= l->last) {
        slot *s = &l->slot[l->next % SLOTS];
        if (s->full) {
            pthread_cond_wait(&l->changed, &l->lock);
            continue;
        }
        uint64_t piece = l->next;
        pthread_mutex_unlock(&l->lock);
        fill(l, piece);
        pthread_mutex_lock(&l->lock);
        s->full = true;
        l->next = piece + 1;
        pthread_cond_broadcast(&l->changed);
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

/* ---- opening - */

/* Rows of one slot on a rank, at most. */
static size_t slot_rows(const df_order *order, size_t mine, const df_group_place *at) {
    if (order->how != DF_SHUFFLE_BUFFER) return df_share(mine, at->shards, 0).count;
    uint64_t all = order->buffer < order->n ? order->buffer : order->n;
    return df_share((size_t)all, df_groups_size(at), 0).count;
}

static size_t read_rows(size_t room) {
    return room < READ_ROWS ? room : READ_ROWS;
}

size_t loader_plan_bytes(const df_order *order, size_t batch, size_t width,
                         const df_group_place *at) {
    size_t mine = df_groups_rows(at, at->group, batch).count, room = slot_rows(order, mine, at);
    size_t rows = SLOTS * room + mine, places = 0;
    if (order->how == DF_SHUFFLE_BUFFER) {
        rows += batch + mine + (at->groups > 1 ? mine : 0) + read_rows(room);
        places = batch * sizeof(int) + room * sizeof(seat);
    }
    return sizeof(loader) + rows * width * sizeof(float) + places +
           3 * (size_t)df_groups_size(at) * sizeof(size_t);
}

static df_status get_memory(loader *l) {
    size_t width = l->all->width, size = (size_t)df_groups_size(&l->groups.at);
    for (int i = 0; i < SLOTS; i++) DF_TRY(DF_NEW(l->slot[i].rows, l->room * width));
    DF_TRY(DF_NEW(l->x, l->mine.count * width));
    DF_TRY(DF_NEW(l->counts, 3 * size));
    l->send = l->counts + size;
    l->receive = l->send + size;
    if (!buffered(l)) return DF_OK;
    DF_TRY(DF_NEW(l->seats, l->room));
    DF_TRY(DF_NEW(l->read, read_rows(l->room) * width));
    DF_TRY(DF_NEW(l->packed, l->batch * width));
    DF_TRY(DF_NEW(l->joined, l->mine.count * width));
    if (l->groups.at.groups > 1) DF_TRY(DF_NEW(l->crossed, l->mine.count * width));
    return DF_NEW(l->owner, l->batch);
}

df_status loader_open(const df_groups *groups, const df_rows *rows, const row_sites *all,
                      const df_order *order, size_t batch, loader **out) {
    loader *l = NULL;
    DF_TRY(DF_NEW(l, 1));
    *out = l;
    *l = (loader){.groups = *groups, .rows = rows, .all = all, .batch = batch, .order = *order};
    l->mine = df_groups_rows(&groups->at, groups->at.group, batch);
    l->room = slot_rows(order, l->mine.count, &groups->at);
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->changed, NULL);
    return get_memory(l);
}

void loader_close(loader **pointer) {
    loader *l = *pointer;
    if (l == NULL) return;
    if (l->running) {
        pthread_mutex_lock(&l->lock);
        l->stop = true;
        pthread_cond_broadcast(&l->changed);
        pthread_mutex_unlock(&l->lock);
        pthread_join(l->thread, NULL);
    }
    pthread_cond_destroy(&l->changed);
    pthread_mutex_destroy(&l->lock);
    for (int i = 0; i < SLOTS; i++) df_free(l->slot[i].rows);
    void *owned[] = {l->seats,   l->read,   l->x,     l->counts, l->packed,
                     l->crossed, l->joined, l->owner, l};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) df_free(owned[i]);
    *pointer = NULL;
}

void loader_start(loader *l, uint64_t step, uint64_t steps) {
    uint64_t place;
    l->next = step;
    l->last = steps - 1;
    if (buffered(l)) {
        df_order_find(&l->order, step * l->batch, &l->next, &place);
        df_order_find(&l->order, steps * l->batch - 1, &l->last, &place);
    }
    l->taken = l->next;
    l->running = pthread_create(&l->thread, NULL, read_ahead, l) == 0;
}

double loader_waited(const loader *l) {
    return l->waited;
}

/* ---- taking - */

/* Waits for a piece; all ranks leave with the same status. */
static df_status wait_for(loader *l, uint64_t piece) {
    slot *s = &l->slot[piece % SLOTS];
    double start = df_now();
    pthread_mutex_lock(&l->lock);
    if (!l->running && !s->full) { // no thread to be had: read now
        fill(l, piece);
        s->full = true;
    }
    while (!s->full) pthread_cond_wait(&l->changed, &l->lock);
    pthread_mutex_unlock(&l->lock);
    df_status status = s->status != DF_OK ? df_fail(s->status, "%s", s->text) : DF_OK;
    status = df_agree(l->groups.world, status);
    l->waited += df_now() - start;
    return status;
}

static void give_back(loader *l, uint64_t piece) {
    pthread_mutex_lock(&l->lock);
    l->slot[piece % SLOTS].full = false;
    l->taken = piece + 1;
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->lock);
}

static df_status take_batch(loader *l, uint64_t step) {
    df_timer_start("read");
    df_status status = wait_for(l, step);
    df_timer_stop("read");
    DF_TRY(status);
    int shards = l->groups.at.shards;
    for (int r = 0; r < shards; r++)
        l->counts[r] = df_share(l->mine.count, shards, r).count * l->all->width * sizeof *l->x;
    df_timer_start("share rows");
    df_allgather(l->groups.shards, l->slot[step % SLOTS].rows, l->counts, l->x);
    df_timer_stop("share rows");
    give_back(l, step);
    return DF_OK;
}

/* The rank that holds a place of a buffer, and where among its rows. */
static int holder(size_t room, int size, uint64_t place, size_t *local) {
    size_t each = room / (size_t)size, more = room % (size_t)size, edge = more * (each + 1);
    int rank = place < edge ? (int)(place / (each + 1))
                            : (int)(more + (place - edge) / (each > 0 ? each : 1));
    *local = (size_t)place - df_share(room, size, rank).first;
    return rank;
}

/* Counts row i of the batch, which rank `owner` has. */
static void count_row(loader *l, size_t i, int owner) {
    const df_group_place *at = &l->groups.at;
    size_t bytes = l->all->width * sizeof(float);
    int group = 0;
    l->owner[i] = owner;
    if (i >= l->mine.first && i < l->mine.first + l->mine.count) l->counts[owner] += bytes;
    if (owner != df_groups_rank(at)) return;
    for (df_range rows = df_groups_rows(at, 0, l->batch); i >= rows.first + rows.count;)
        rows = df_groups_rows(at, ++group, l->batch);
    l->send[group] += bytes;
}

/* Packs this rank's rows of the batch, buffer after buffer; notes who has each row. */
static df_status pack(loader *l, uint64_t first) {
    size_t bytes = l->all->width * sizeof(float), mine = 0;
    int size = df_groups_size(&l->groups.at), rank = df_groups_rank(&l->groups.at);
    memset(l->counts, 0, 2 * (size_t)size * sizeof *l->counts); // and send
    uint64_t ready = l->taken, piece, place;
    bool waited = false;
    for (size_t i = 0; i < l->batch; i++) {
        size_t local;
        df_order_find(&l->order, first + i, &piece, &place);
        if (piece != ready) {
            give_back(l, ready);
            ready = piece;
            waited = false;
        }
        if (!waited) DF_TRY(wait_for(l, piece));
        waited = true;
        count_row(l, i, holder((size_t)df_order_room(&l->order, piece), size, place, &local));
        if (l->owner[i] == rank)
            memcpy(l->packed + mine++ * l->all->width,
                   l->slot[piece % SLOTS].rows + local * l->all->width, bytes);
    }
    return DF_OK;
}

/* What the replicas of this rank have of this group's rows, group after group; then what all
 * shards have, shard after shard. */
static void share_packed(loader *l) {
    const df_group_place *at = &l->groups.at;
    const float *part = l->packed;
    if (at->groups > 1) {
        for (int g = 0; g < at->groups; g++) l->receive[g] = l->counts[g * at->shards + at->shard];
        df_exchange(l->groups.replicas, l->packed, l->send, l->crossed, l->receive);
        part = l->crossed;
    }
    memset(l->receive, 0, (size_t)at->shards * sizeof *l->receive);
    for (int r = 0; r < df_groups_size(at); r++) l->receive[r % at->shards] += l->counts[r];
    df_allgather(l->groups.shards, part, l->receive, l->joined);
}

/* From there back into the order of the batch. */
static df_status unpack(loader *l) {
    const df_group_place *at = &l->groups.at;
    size_t width = l->all->width, *from = NULL, sum = 0;
    int size = df_groups_size(at);
    DF_TRY(df_agree(l->groups.world, DF_NEW(from, (size_t)size)));
    for (int i = 0; i < size; i++) {
        int rank = i % at->groups * at->shards + i / at->groups;
        from[rank] = sum;
        sum += l->counts[rank] / (width * sizeof(float));
    }
    for (size_t i = 0; i < l->mine.count; i++)
        memcpy(l->x + i * width, l->joined + from[l->owner[l->mine.first + i]]++ * width,
               width * sizeof(float));
    df_free(from);
    return DF_OK;
}

static df_status take_buffered(loader *l, uint64_t step) {
    df_timer_start("read");
    df_status status = pack(l, step * l->batch);
    df_timer_stop("read");
    DF_TRY(status);
    df_timer_start("share rows");
    share_packed(l);
    status = unpack(l);
    df_timer_stop("share rows");
    return status;
}

df_status loader_take(loader *l, uint64_t step, const float **x) {
    *x = l->x;
    return buffered(l) ? take_buffered(l, step) : take_batch(l, step);
}
