/* A line of ranks. A block travels as one message, or as several where MPI's int counts are too
 * small; its first bytes say how much of it is filled. The receive of the next block is posted when
 * one is taken, so a line that ends needs one last block that says so. */
#include "darkfield/line.h"
#include "parts.h"

enum { LINE_TAG = 1, HEAD_BYTES = 64, SIDE_BLOCKS = 2 };

typedef enum { BLOCK_GOOD, BLOCK_BAD, BLOCK_LAST } block_kind;

/* What stands before a block's bytes. */
typedef struct block_head {
    uint64_t kind;
} block_head;

typedef struct block {
    char *bytes;           // [HEAD_BYTES + capacity]
    MPI_Request *requests; // [pieces]
    bool pending;
} block;

struct df_line {
    df_comm *comm;
    size_t capacity, pieces; // bytes behind the head; messages of a block
    block in[SIDE_BLOCKS], out[SIDE_BLOCKS];
    uint64_t taken, given;
    bool ended; // the rank before gives nothing more
};

static bool is_first(const df_line *line) {
    return line->comm->rank == 0;
}

static bool is_last(const df_line *line) {
    return line->comm->rank == line->comm->size - 1;
}

/* ---- memory --------------------------------------------------------------------------------- */

static size_t pieces_of(size_t bytes) {
    return (HEAD_BYTES + bytes + df_comm_piece - 1) / df_comm_piece;
}

uint64_t df_line_bytes(int size, int rank, size_t bytes) {
    uint64_t sides = (rank > 0) + (rank < size - 1);
    return sizeof(df_line) +
           sides * SIDE_BLOCKS * (HEAD_BYTES + bytes + pieces_of(bytes) * sizeof(MPI_Request));
}

static df_status allocate(const df_line *line, block side[static SIDE_BLOCKS]) {
    for (int i = 0; i < SIDE_BLOCKS; i++) {
        DF_TRY(DF_NEW(side[i].bytes, HEAD_BYTES + line->capacity));
        DF_TRY(DF_NEW(side[i].requests, line->pieces));
    }
    return DF_OK;
}

static void release(df_line **line) {
    for (int i = 0; *line != NULL && i < SIDE_BLOCKS; i++) {
        df_free((*line)->in[i].bytes);
        df_free((*line)->in[i].requests);
        df_free((*line)->out[i].bytes);
        df_free((*line)->out[i].requests);
    }
    df_free(*line);
    *line = NULL;
}

/* ---- messages ------------------------------------------------------------------------------- */

// Bytes of message i of a block that holds `bytes` with its head; a shorter block's last messages
// are empty.
static int piece_bytes(size_t i, size_t bytes) {
    size_t at = i * df_comm_piece;
    if (at >= bytes) return 0;
    return (int)(bytes - at < df_comm_piece ? bytes - at : df_comm_piece);
}

static void post(df_line *line, block *b) {
    df_comm *comm = line->comm;
    for (size_t i = 0; i < line->pieces; i++)
        MPI_Irecv(b->bytes + i * df_comm_piece, piece_bytes(i, HEAD_BYTES + line->capacity),
                  MPI_BYTE, comm->rank - 1, LINE_TAG, comm->mpi, &b->requests[i]);
    b->pending = true;
}

static void wait_for(df_line *line, block *b) {
    if (!b->pending) return;
    df_comm_enter(line->comm);
    MPI_Waitall((int)line->pieces, b->requests, MPI_STATUSES_IGNORE);
    df_comm_leave(line->comm);
    b->pending = false;
}

static void send(df_line *line, size_t bytes, block_kind kind) {
    df_comm *comm = line->comm;
    if (is_last(line)) return;
    block *b = &line->out[line->given++ % SIDE_BLOCKS];
    wait_for(line, b);
    *(block_head *)b->bytes = (block_head){kind};
    df_comm_enter(comm);
    for (size_t i = 0; i < line->pieces; i++) {
        int count = piece_bytes(i, HEAD_BYTES + bytes);
        df_comm_count(comm, (size_t)count);
        MPI_Isend(b->bytes + i * df_comm_piece, count, MPI_BYTE, comm->rank + 1, LINE_TAG,
                  comm->mpi, &b->requests[i]);
    }
    df_comm_leave(comm);
    b->pending = true;
}

/* ---- the line ------------------------------------------------------------------------------- */

static df_status make(df_comm *comm, size_t bytes, df_line **out) {
    df_line *line;
    DF_TRY(DF_NEW(line, 1));
    *line = (df_line){.comm = comm, .capacity = bytes, .pieces = pieces_of(bytes)};
    *out = line;
    if (!is_first(line)) DF_TRY(allocate(line, line->in));
    return is_last(line) ? DF_OK : allocate(line, line->out);
}

df_status df_line_open(df_comm *comm, size_t bytes, df_line **out) {
    *out = NULL;
    df_status status = df_agree(comm, make(comm, bytes, out));
    if (status != DF_OK)
        release(out);
    else if (!is_first(*out))
        post(*out, &(*out)->in[0]);
    return status;
}

bool df_line_take(df_line *line, const void **data) {
    *data = NULL;
    if (is_first(line)) return true;
    if (line->ended) return false;
    block *b = &line->in[line->taken++ % SIDE_BLOCKS];
    wait_for(line, b);
    uint64_t kind = ((const block_head *)b->bytes)->kind;
    line->ended = kind == BLOCK_LAST;
    if (!line->ended) post(line, &line->in[line->taken % SIDE_BLOCKS]);
    *data = b->bytes + HEAD_BYTES;
    return kind == BLOCK_GOOD;
}

void *df_line_room(df_line *line) {
    if (is_last(line)) return NULL;
    block *b = &line->out[line->given % SIDE_BLOCKS];
    wait_for(line, b);
    return b->bytes + HEAD_BYTES;
}

void df_line_give(df_line *line, size_t bytes, bool good) {
    send(line, good ? bytes : 0, good ? BLOCK_GOOD : BLOCK_BAD);
}

void df_line_close(df_line **line) {
    const void *left;
    if (*line == NULL) return;
    send(*line, 0, BLOCK_LAST);
    while (!is_first(*line) && !(*line)->ended) (void)!df_line_take(*line, &left);
    for (int i = 0; i < SIDE_BLOCKS; i++) wait_for(*line, &(*line)->out[i]);
    release(line);
}
