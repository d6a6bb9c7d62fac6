/* same_file.h: a result file is the same on all ranks and on one. Include after df_test.h with
 * DF_TEST_MPI. */
#ifndef SAME_FILE_H
#define SAME_FILE_H

#include "darkfield/store.h"

/* Writes the file of all ranks, or of one alone; its digest, 0 after a failure. */
typedef uint64_t write_result(df_comm *comm, const char *path, bool all);

/* Both files are the same, and sound. Collective. */
static inline void df_test_same_file(df_comm *world, const char *folder, write_result *write) {
    char *all = df_format("%s/all.h5", folder), *summary = NULL,
         *one = df_format("%s/one-%d.h5", folder, df_comm_rank(world));
    df_comm *self = NULL;
    df_test_all(world, df_comm_self(&self) == DF_OK);
    uint64_t together = write(world, all, true), alone = write(self, one, false);
    df_test_all(world, together != 0 && together == alone);
    df_test_all(world, df_check(all, &summary) == DF_OK);
    df_free(summary);
    df_comm_free(&self);
    df_free(all);
    df_free(one);
}

#endif
