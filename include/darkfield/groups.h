/* darkfield/groups.h: data groups, the second axis of training (design section 3).
 *
 * A batch is cut into a fixed number of runs of rows. What a step sums over rows (gradients,
 * losses, statistics) is summed over each run in the order of its rows, then over the runs in the
 * fixed tree (comm.h): so the bytes depend on the number of runs, and on nothing else. The ranks
 * form groups, as many as divide both the runs and the ranks. Each group holds the whole
 * dictionary, sharded over its ranks, and encodes the rows of its own runs alone; groups apply the
 * same gradients, and so stay equal to the bit. With one run there is one group, which is the coder
 * without groups. */
#ifndef DARKFIELD_GROUPS_H
#define DARKFIELD_GROUPS_H

#include "darkfield/comm.h"

enum { DF_MAX_RUNS = 1024 };

/* Where one of `size` ranks stands: rank `group * shards + shard` of all. */
typedef struct df_group_place {
    size_t runs;       /* that a batch is cut into, at least 1 */
    int groups, group; /* of ranks: the largest number that divides runs and ranks; its own */
    int shards, shard; /* ranks of a group, which share out the latents; its own */
} df_group_place;
/* Not collective. */
df_group_place df_groups_place(size_t runs, int size, int rank);
static inline int df_groups_size(const df_group_place *at) {
    return at->groups * at->shards;
}
static inline int df_groups_rank(const df_group_place *at) {
    return at->group * at->shards + at->shard;
}
/* The runs of a group, and their rows of a batch: one range. Not collective. */
df_range df_groups_runs(const df_group_place *at, int group);
df_range df_groups_rows(const df_group_place *at, int group, size_t batch);

typedef struct df_groups {
    df_group_place at;
    df_comm *world;    /* all ranks; borrowed */
    df_comm *shards;   /* the ranks of this group; the world where there is one group */
    df_comm *replicas; /* of every group the rank with the same latents, by group; NULL: one run */
} df_groups;
/* One run and one group. Not collective; nothing to close. */
df_groups df_groups_alone(df_comm *world);
/* Collective on `world`. DF_USAGE: more than DF_MAX_RUNS runs. */
df_status df_groups_open(df_comm *world, size_t runs, df_groups *out) DF_MUST_CHECK;
void df_groups_close(df_groups *groups);
/* Bytes and messages, and seconds, of all its comms (df_comm_traffic). Not collective. */
df_traffic df_groups_traffic(const df_groups *groups);
double df_groups_seconds(const df_groups *groups);

#endif
