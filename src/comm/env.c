/* The environment: starting and ending MPI, communicators and what they know about themselves. */
#include "parts.h"

#include <string.h>

static df_status wrap(MPI_Comm mpi, bool is_world, df_comm **out) {
    df_comm *comm = NULL;
    df_status status = DF_OK;
    DF_GO(DF_NEW(comm, 1));
    comm->mpi = mpi;
    comm->is_world = is_world;
    MPI_Comm_rank(mpi, &comm->rank);
    MPI_Comm_size(mpi, &comm->size);
    MPI_Comm_rank(MPI_COMM_WORLD, &comm->world_rank);
    DF_GO(DF_NEW(comm->counts, (size_t)comm->size));
    DF_GO(DF_NEW(comm->offsets, (size_t)comm->size));
    *out = comm;
    return DF_OK;
done:
    if (comm != NULL) df_free(comm->counts);
    df_free(comm);
    return status;
}

df_status df_comm_start(int *argc, char ***argv, df_comm **world) {
    int provided = MPI_THREAD_SINGLE;
    *world = NULL;
    MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided);
    if (provided < MPI_THREAD_FUNNELED) {
        MPI_Finalize();
        return df_fail(DF_FAILED,
                       "MPI gives thread level %d, expected at least %d (FUNNELED): "
                       "use an MPI library built with thread support",
                       provided, MPI_THREAD_FUNNELED);
    }
    MPI_Comm mpi;
    MPI_Comm_dup(MPI_COMM_WORLD, &mpi);
    DF_TRY_AS(wrap(mpi, true, world), "starting MPI");
    df_log_rank((*world)->rank);
    return df_stop_watch();
}

void df_comm_finish(df_comm **world) {
    df_comm_free(world);
    MPI_Finalize();
}

df_status df_comm_split(df_comm *comm, int color, int key, df_comm **out) {
    MPI_Comm mpi;
    *out = NULL;
    MPI_Comm_split(comm->mpi, color < 0 ? MPI_UNDEFINED : color, key, &mpi);
    df_status status = mpi == MPI_COMM_NULL ? DF_OK : wrap(mpi, false, out);
    if (status != DF_OK) MPI_Comm_free(&mpi);
    status = df_agree(comm, status);
    if (status != DF_OK) df_comm_free(out);
    return status;
}

df_status df_comm_self(df_comm **out) {
    MPI_Comm mpi;
    *out = NULL;
    MPI_Comm_dup(MPI_COMM_SELF, &mpi);
    df_status status = wrap(mpi, false, out);
    if (status != DF_OK) MPI_Comm_free(&mpi);
    return status;
}

void df_comm_free(df_comm **comm) {
    if (*comm == NULL) return;
    MPI_Comm_free(&(*comm)->mpi);
    df_free((*comm)->counts);
    df_free((*comm)->offsets);
    df_free(*comm);
    *comm = NULL;
}

int df_comm_rank(const df_comm *comm) {
    return comm->rank;
}

int df_comm_size(const df_comm *comm) {
    return comm->size;
}

MPI_Comm df_comm_mpi(const df_comm *comm) {
    return comm->mpi;
}

df_traffic df_comm_traffic(const df_comm *comm) {
    return comm->traffic;
}

double df_comm_seconds(const df_comm *comm) {
    return comm->seconds;
}

void df_comm_count(df_comm *comm, size_t bytes) {
    if (comm->size == 1) return;
    comm->traffic.bytes += bytes;
    comm->traffic.messages++;
}

void df_comm_enter(df_comm *comm) {
    if (comm->size > 1 && comm->inside++ == 0) comm->entered = df_now();
}

void df_comm_leave(df_comm *comm) {
    if (comm->size > 1 && --comm->inside == 0) comm->seconds += df_now() - comm->entered;
}

/* The name of one rank's host, as the other ranks see it. */
static void host_of(df_comm *comm, int rank, char name[MPI_MAX_PROCESSOR_NAME]) {
    int length = 0;
    memset(name, 0, MPI_MAX_PROCESSOR_NAME);
    if (comm->rank == rank) MPI_Get_processor_name(name, &length);
    df_broadcast(comm, rank, name, MPI_MAX_PROCESSOR_NAME);
}

static size_t append_host(char *out, size_t bytes, size_t used, const char *name, int ranks) {
    if (ranks == 0 || used >= bytes) return used;
    int n = snprintf(out + used, bytes - used, "%s%s x %d", used > 0 ? ", " : "", name, ranks);
    return n < 0 ? used : used + (size_t)n;
}

void df_comm_hosts(df_comm *comm, char *out, size_t bytes) {
    char name[MPI_MAX_PROCESSOR_NAME], last[MPI_MAX_PROCESSOR_NAME] = "";
    size_t used = 0;
    int ranks = 0;
    if (bytes > 0) out[0] = '\0';
    for (int rank = 0; rank < comm->size; rank++) {
        host_of(comm, rank, name);
        if (strcmp(name, last) != 0) {
            used = append_host(out, bytes, used, last, ranks);
            memcpy(last, name, sizeof last);
            ranks = 0;
        }
        ranks++;
    }
    append_host(out, bytes, used, last, ranks);
}

df_range df_share(size_t n, int size, int rank) {
    size_t each = n / (size_t)size, rest = n % (size_t)size, r = (size_t)rank;
    return (df_range){r * each + (r < rest ? r : rest), each + (r < rest ? 1 : 0)};
}
