/* Moving bytes between ranks. MPI counts are ints, so whatever is longer than a piece is cut. */
#include "parts.h"

#include <string.h>

size_t df_comm_piece = (size_t)1 << 30;

static size_t smaller(size_t a, size_t b) {
    return a < b ? a : b;
}

void df_barrier(df_comm *comm) {
    df_comm_enter(comm);
    MPI_Barrier(comm->mpi);
    df_comm_leave(comm);
}

void df_broadcast(df_comm *comm, int root, void *data, size_t bytes) {
    df_comm_enter(comm);
    for (size_t at = 0; at < bytes; at += df_comm_piece) {
        size_t count = smaller(bytes - at, df_comm_piece);
        if (comm->rank == root) df_comm_count(comm, count);
        MPI_Bcast((char *)data + at, (int)count, MPI_BYTE, root, comm->mpi);
    }
    df_comm_leave(comm);
}

/* Fills the int counts and offsets; false when they would not fit and pieces are needed. */
static bool as_ints(df_comm *comm, const size_t *counts) {
    size_t total = 0;
    for (int r = 0; r < comm->size; r++) {
        if (counts[r] > df_comm_piece - total) return false;
        comm->counts[r] = (int)counts[r];
        comm->offsets[r] = (int)total;
        total += counts[r];
    }
    return true;
}

static void allgather(df_comm *comm, const void *mine, const size_t *counts, void *all) {
    if (as_ints(comm, counts)) {
        df_comm_count(comm, counts[comm->rank]);
        MPI_Allgatherv(mine, comm->counts[comm->rank], MPI_BYTE, all, comm->counts, comm->offsets,
                       MPI_BYTE, comm->mpi);
        return;
    }
    char *to = all;
    for (int r = 0; r < comm->size; to += counts[r++]) {
        if (r == comm->rank && counts[r] > 0) memmove(to, mine, counts[r]);
        df_broadcast(comm, r, to, counts[r]);
    }
}

void df_allgather(df_comm *comm, const void *mine, const size_t *counts, void *all) {
    df_comm_enter(comm);
    allgather(comm, mine, counts, all);
    df_comm_leave(comm);
}

static void send_pieces(df_comm *comm, int to, const char *data, size_t bytes) {
    for (size_t at = 0; at < bytes; at += df_comm_piece) {
        size_t count = smaller(bytes - at, df_comm_piece);
        df_comm_count(comm, count);
        MPI_Send(data + at, (int)count, MPI_BYTE, to, 0, comm->mpi);
    }
}

static void receive_pieces(df_comm *comm, int from, char *data, size_t bytes) {
    for (size_t at = 0; at < bytes; at += df_comm_piece)
        MPI_Recv(data + at, (int)smaller(bytes - at, df_comm_piece), MPI_BYTE, from, 0, comm->mpi,
                 MPI_STATUS_IGNORE);
}

static void gather(df_comm *comm, int root, const void *mine, const size_t *counts, void *all) {
    if (as_ints(comm, counts)) {
        if (comm->rank != root) df_comm_count(comm, counts[comm->rank]);
        MPI_Gatherv(mine, comm->counts[comm->rank], MPI_BYTE, all, comm->counts, comm->offsets,
                    MPI_BYTE, root, comm->mpi);
        return;
    }
    if (comm->rank != root) {
        send_pieces(comm, root, mine, counts[comm->rank]);
        return;
    }
    char *to = all;
    for (int r = 0; r < comm->size; to += counts[r++]) {
        if (r != root)
            receive_pieces(comm, r, to, counts[r]);
        else if (counts[r] > 0)
            memmove(to, mine, counts[r]);
    }
}

void df_gather(df_comm *comm, int root, const void *mine, const size_t *counts, void *all) {
    df_comm_enter(comm);
    gather(comm, root, mine, counts, all);
    df_comm_leave(comm);
}

/* One step of the exchange: bytes to one partner while others come from another, piece by piece. */
typedef struct pair {
    int to, from;
    const char *out;
    char *in;
    size_t out_bytes, in_bytes;
} pair;

static void exchange_pair(df_comm *comm, const pair *p) {
    size_t longest = p->out_bytes > p->in_bytes ? p->out_bytes : p->in_bytes;
    for (size_t at = 0; at < longest; at += df_comm_piece) {
        MPI_Request request[2];
        int n = 0;
        if (at < p->in_bytes)
            MPI_Irecv(p->in + at, (int)smaller(p->in_bytes - at, df_comm_piece), MPI_BYTE, p->from,
                      0, comm->mpi, &request[n++]);
        if (at < p->out_bytes) {
            size_t count = smaller(p->out_bytes - at, df_comm_piece);
            df_comm_count(comm, count);
            MPI_Isend(p->out + at, (int)count, MPI_BYTE, p->to, 0, comm->mpi, &request[n++]);
        }
        MPI_Waitall(n, request, MPI_STATUSES_IGNORE);
    }
}

static size_t before(const size_t *counts, int rank) {
    size_t sum = 0;
    for (int r = 0; r < rank; r++) sum += counts[r];
    return sum;
}

/* Pairwise: in step s every rank sends to rank + s and receives from rank - s. It needs no
 * agreement on whether the totals fit in an int, and skips partners that have nothing to say. */
void df_exchange(df_comm *comm, const void *send, const size_t *send_counts, void *receive,
                 const size_t *receive_counts) {
    int size = comm->size, me = comm->rank;
    df_comm_enter(comm);
    if (send_counts[me] > 0)
        memcpy((char *)receive + before(receive_counts, me),
               (const char *)send + before(send_counts, me), send_counts[me]);
    for (int step = 1; step < size; step++) {
        int to = (me + step) % size, from = (me - step + size) % size;
        pair p = {to,
                  from,
                  (const char *)send + before(send_counts, to),
                  (char *)receive + before(receive_counts, from),
                  send_counts[to],
                  receive_counts[from]};
        exchange_pair(comm, &p);
    }
    df_comm_leave(comm);
}

void df_allgather_size(df_comm *comm, size_t mine, size_t *all) {
    uint64_t value = mine; // size_t is 64 bits wherever this runs; MPI has a name for uint64_t only
    df_comm_enter(comm);
    df_comm_count(comm, sizeof value);
    MPI_Allgather(&value, 1, MPI_UINT64_T, all, 1, MPI_UINT64_T, comm->mpi);
    df_comm_leave(comm);
}

static void reduce(df_comm *comm, void *values, size_t n, MPI_Datatype type, MPI_Op op) {
    size_t piece = df_comm_piece / sizeof(uint64_t) > 0 ? df_comm_piece / sizeof(uint64_t) : 1;
    df_comm_enter(comm);
    for (size_t at = 0; at < n; at += piece) {
        size_t count = smaller(n - at, piece);
        df_comm_count(comm, count * sizeof(uint64_t));
        MPI_Allreduce(MPI_IN_PLACE, (char *)values + at * sizeof(uint64_t), (int)count, type, op,
                      comm->mpi);
    }
    df_comm_leave(comm);
}

void df_sum_u64(df_comm *comm, uint64_t *values, size_t n) {
    reduce(comm, values, n, MPI_UINT64_T, MPI_SUM);
}

void df_max_u64(df_comm *comm, uint64_t *values, size_t n) {
    reduce(comm, values, n, MPI_UINT64_T, MPI_MAX);
}

void df_max_double(df_comm *comm, double *values, size_t n) {
    reduce(comm, values, n, MPI_DOUBLE, MPI_MAX);
}

void df_min_double(df_comm *comm, double *values, size_t n) {
    reduce(comm, values, n, MPI_DOUBLE, MPI_MIN);
}
