/* Agreement between ranks: on failures and on requests to stop. */
#include "parts.h"

#include <signal.h>
#include <string.h>

#define TEXT_BYTES 4096

/* ---- failures ------------------------------------------------------------------------------- */

/* Installs the text of `rank` as the pending failure of every rank, with that rank's code. Where a
 * smaller comm has agreed on it before, the text tells its rank already. */
static df_status adopt(df_comm *comm, int rank, df_status mine) {
    char text[TEXT_BYTES] = "";
    int code[2] = {(int)mine, comm->world_rank};
    if (comm->rank == rank) snprintf(text, sizeof text, "%s", df_error_text());
    df_broadcast(comm, rank, code, sizeof code);
    df_broadcast(comm, rank, text, sizeof text);
    if (text[0] == '\0') snprintf(text, sizeof text, "failed with code %d and no message", code[0]);
    bool told = strncmp(text, "[rank ", 6) == 0;
    if (comm->size == 1 || told) return df_fail((df_status)code[0], "%s", text);
    return df_fail((df_status)code[0], "[rank %d] %s", code[1], text);
}

df_status df_agree(df_comm *comm, df_status mine) {
    int first = mine == DF_OK ? comm->size : comm->rank;
    df_comm_enter(comm);
    df_comm_count(comm, sizeof first);
    MPI_Allreduce(MPI_IN_PLACE, &first, 1, MPI_INT, MPI_MIN, comm->mpi);
    df_comm_leave(comm);
    return first == comm->size ? DF_OK : adopt(comm, first, mine);
}

/* ---- stop requests -------------------------------------------------------------------------- */

static volatile sig_atomic_t signalled;
static double deadline; // on df_now's clock; 0: none
static const char *halt_file;

static void on_signal(int number) {
    (void)number;
    signalled = 1;
}

df_status df_stop_watch(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal;
    action.sa_flags = SA_RESTART;
    sigemptyset(&action.sa_mask);
    if (sigaction(SIGUSR1, &action, NULL) != 0 || sigaction(SIGTERM, &action, NULL) != 0)
        return df_fail(DF_FAILED, "cannot install the handler of stop requests");
    return DF_OK;
}

void df_stop_after(double seconds) {
    deadline = seconds > 0 ? df_now() + seconds : 0;
}

void df_stop_halt_file(const char *path) {
    halt_file = path;
}

void df_stop_raise(void) {
    signalled = 1;
}

bool df_stop_requested(df_comm *comm) {
    bool late = deadline > 0 && df_now() >= deadline;
    bool halted = comm->rank == 0 && halt_file != NULL && df_file_exists(halt_file);
    uint64_t any = signalled != 0 || late || halted;
    df_max_u64(comm, &any, 1);
    return any != 0;
}
