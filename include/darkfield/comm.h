/* darkfield/comm.h: the environment that owns the communicators, and everything that crosses ranks.
 *
 * MPI_ is called only here (and where a third library needs a communicator). Sums of floating-point
 * numbers cross ranks only through df_tree_*, whose result does not depend on the number of ranks.
 * Unless it says "Not collective", a function here is collective on the df_comm it is given. A
 * failure of MPI itself ends the process (MPI_ERRORS_ARE_FATAL): there is nothing to agree on
 * without it. */
#ifndef DARKFIELD_COMM_H
#define DARKFIELD_COMM_H

#include "darkfield/base.h"
#include <mpi.h>

/* A communicator with its own tag space. Made by df_comm_start or df_comm_split. */
typedef struct df_comm df_comm;

/* Starts MPI (thread level FUNNELED, checked), duplicates the world, silences the log on ranks > 0
 * and installs the handler of SIGUSR1 (stop request; SIGTERM the same). Free with df_comm_finish,
 * which also ends MPI. */
df_status df_comm_start(int *argc, char ***argv, df_comm **world) DF_MUST_CHECK;
void df_comm_finish(df_comm **world);

/* Ranks with equal color form one comm, ordered by key; color < 0: *out = NULL on that rank. The
 * caller frees. */
df_status df_comm_split(df_comm *comm, int color, int key, df_comm **out) DF_MUST_CHECK;
void df_comm_free(df_comm **comm);

/* A comm of this rank alone. Not collective. The caller frees. */
df_status df_comm_self(df_comm **out) DF_MUST_CHECK;

int df_comm_rank(const df_comm *comm);     /* Not collective */
int df_comm_size(const df_comm *comm);     /* Not collective */
MPI_Comm df_comm_mpi(const df_comm *comm); /* Not collective; for ScaLAPACK; borrowed */
void df_comm_hosts(df_comm *comm, char *out,
                   size_t bytes); /* "node1 x 4, node2 x 4", on every rank */

/* ---- agreement ------------------------------------------------------------------------------ */

/* Every rank brings its own status and leaves with the same one: DF_OK when all are, else the code
 * of the lowest failing rank, whose text is installed as the pending failure on every rank (with
 * "[rank r] " before it, the rank among all, when size > 1 and it is not there). Call after
 * rank-local work and before the next collective.
 */
df_status df_agree(df_comm *comm, df_status mine) DF_MUST_CHECK;

/* True on all ranks when any of them has received SIGUSR1 or SIGTERM, the time limit has passed, or
 * the halt file exists (rank 0 looks). The safe point calls this, writes a checkpoint and returns
 * DF_STOPPED. */
bool df_stop_requested(df_comm *comm);
void df_stop_after(double seconds); /* time limit counted from now; <= 0: none. Not collective */
void df_stop_halt_file(const char *path); /* borrowed; NULL: none. Not collective */
void df_stop_raise(void); /* what the signal handler does; for tests. Not collective */

/* ---- moving bytes --------------------------------------------------------------------------- */

void df_barrier(df_comm *comm); /* returns when every rank has called it */
void df_broadcast(df_comm *comm, int root, void *data,
                  size_t bytes); /* root's bytes, on every rank */

/* Contributions of any size (counts in bytes, [size]; the same array on every rank) in rank order.
 */
void df_allgather(df_comm *comm, const void *mine, const size_t *counts, void *all);
void df_gather(df_comm *comm, int root, const void *mine, const size_t *counts, void *all);
/* send_counts[r] bytes to rank r, packed in rank order; likewise received. Both arrays [size]. */
void df_exchange(df_comm *comm, const void *send, const size_t *send_counts, void *receive,
                 const size_t *receive_counts);
/* One size_t from every rank, [size]. */
void df_allgather_size(df_comm *comm, size_t mine, size_t *all);

/* Exact whatever the order: integer sums, maxima and minima, in place, result on every rank. */
void df_sum_u64(df_comm *comm, uint64_t *values, size_t n);
void df_max_u64(df_comm *comm, uint64_t *values, size_t n);
void df_max_double(df_comm *comm, double *values, size_t n);
void df_min_double(df_comm *comm, double *values, size_t n);

/* Bytes and messages that this rank has handed to MPI since start, for the communication model. Not
 * collective. */
typedef struct df_traffic {
    uint64_t bytes, messages;
} df_traffic;
df_traffic df_comm_traffic(const df_comm *comm);
/* The time it has spent there, waiting for others included; 0 on one rank. Not collective. */
double df_comm_seconds(const df_comm *comm);

/* ---- how work is split ---------------------------------------------------------------------- */

typedef struct df_range {
    size_t first, count;
} df_range;
/* Contiguous, as even as possible, earlier ranks take the remainder. Not collective. */
df_range df_share(size_t n, int size, int rank);

/* ---- ordered reductions --------------------------------------------------------------------- */

/* The fixed tree over leaves 0..n-1: node (h, i) covers leaves [i*2^h, (i+1)*2^h) clipped to n; its
 * value is left + right, or the left child alone where the right one covers nothing. It depends on
 * n only. Rank r owns the leaves of df_share(n, size, r); it reduces the maximal subtrees inside
 * its share (one for power-of-two n and size, at most 2 log2 n otherwise) and sends only those.
 *
 * df_tree_sum: `leaves` holds this rank's leaves, [count, width]; it is used as scratch. `out`
 * [width] is the same on every rank, bit for bit, for any number of ranks. Leaves all exist; give
 * zeros for empty ones. */
df_status df_tree_sum(df_comm *comm, size_t n, size_t width, double *leaves,
                      double *out) DF_MUST_CHECK;

/* The maximal subtrees of the fixed tree over n leaves that lie inside [first, first + count), left
 * to right. Writes at most 2*64 nodes; returns their number. Not collective. */
typedef struct df_node {
    uint32_t height;
    uint32_t index;
} df_node;
size_t df_tree_nodes(size_t n, size_t first, size_t count, df_node out[static 128]);

/* The same tree taken one value at a time, for values too big to keep one per leaf. Push the leaves
 * {0, i} (or any nodes) from left to right: siblings meet at once, the right value added into the
 * left one, whose memory [width] stays; what a push leaves on the stack are the maximal subtrees so
 * far. Start from {.leaves, .width}. Not collective. */
typedef struct df_tree {
    size_t leaves, width, depth;
    df_node node[128];
    double *value[128];
} df_tree;
void df_tree_push(df_tree *tree, df_node node, double *value);

/* The second half of df_tree_sum: values [nodes of this rank's share, width] left to right, not
 * changed. */
df_status df_tree_finish(df_comm *comm, size_t n, size_t width, const double *values,
                         double *out) DF_MUST_CHECK;

/* ---- what communication costs --------------------------------------------------------------- */

/* One rank's part of an operation: what it hands to MPI, as df_comm_traffic counts it (exact where
 * no message is longer than 1 GiB), the latencies that follow one another, and the bytes through
 * its link (sent or received, whichever is more). Collectives are taken as binomial or recursive
 * doubling trees of ceil(log2 size) rounds, the exchange as size - 1 rounds (Thakur, Rabenseifner,
 * Gropp 2005, "Optimization of collective communication operations in MPICH"). Nothing on one rank.
 * None of these is collective. */
typedef struct df_cost {
    df_traffic traffic;
    uint64_t latencies, link_bytes;
} df_cost;
df_cost df_cost_add(df_cost a, df_cost b);
df_cost df_cost_times(df_cost a, uint64_t n);
df_cost df_cost_agree(int size);            /* df_agree, where all is well */
df_cost df_cost_reduce(int size, size_t n); /* df_sum_u64 and the other reductions of n values */
df_cost df_cost_broadcast(int size, int rank, size_t bytes);  /* from rank 0 */
df_cost df_cost_allgather(int size, size_t mine, size_t all); /* bytes */
/* df_exchange: `partners` other ranks get something; bytes to them, bytes from others. */
df_cost df_cost_exchange(int size, size_t partners, size_t out, size_t in);
df_cost df_cost_tree_sum(int size, int rank, size_t n, size_t width);
/* Memory that df_tree_finish takes while it runs: bytes on this rank. */
size_t df_tree_bytes(int size, int rank, size_t n, size_t width);
/* Seconds on a network of this latency (s) and bandwidth of a rank's link (bytes/s). */
double df_cost_seconds(df_cost cost, double latency, double bandwidth);

/* ---- timers --------------------------------------------------------------------------------- */

/* Named sections, exclusive of children (a start inside a section pauses it). Fixed small set per
 * run. */
void df_timer_start(const char *name);     /* Not collective; name must be a literal */
void df_timer_stop(const char *name);      /* Not collective */
double df_timer_seconds(const char *name); /* Not collective */
/* Table on rank 0: section, calls, min, avg, max over ranks, % of total, ending in "other". */
void df_timer_report(df_comm *comm, double total_seconds);
void df_timer_reset(void); /* Not collective */

#endif
