/* darkfield/line.h: ranks in a line, each of which hands blocks of bytes to the next one (a part of
 * module comm). The stages of a pipeline stand in it.
 *
 * A rank has two blocks on either side: while it works on one, the next arrives and the last one
 * leaves. Blocks keep their order. A rank that cannot make a block gives a bad one in its place and
 * goes on; who takes a bad block gives a bad one too. So a line moves until its ranks meet to
 * agree, and none waits for another in vain. The ends are ordinary ranks: what the first one takes
 * and the last one gives is nothing. */
#ifndef DARKFIELD_LINE_H
#define DARKFIELD_LINE_H

#include "darkfield/comm.h"

typedef struct df_line df_line;

/* Collective on `comm`, whose ranks stand in the line in order; borrowed, one line at a time.
 * bytes: the most that a block holds, the same on every rank. The status is agreed. */
df_status df_line_open(df_comm *comm, size_t bytes, df_line **out) DF_MUST_CHECK;
/* Collective: takes what was given and never taken. *line may be NULL if it is on every rank. */
void df_line_close(df_line **line);
/* Memory of a line on one rank. Not collective. */
uint64_t df_line_bytes(int size, int rank, size_t bytes);

/* Waits for the next block of the rank before. *block is valid until the next take, NULL on the
 * first rank. False: the block is bad. */
bool df_line_take(df_line *line, const void **block) DF_MUST_CHECK;
/* Where the next block is to be written, NULL on the last rank; waits until the one before the last
 * has left. */
void *df_line_room(df_line *line);
/* Hands on the first `bytes` of df_line_room, or a bad block. Returns at once. */
void df_line_give(df_line *line, size_t bytes, bool good);

#endif
