/* log.h: what log.c shares with progress.c. */
#ifndef DARKFIELD_BASE_LOG_H
#define DARKFIELD_BASE_LOG_H

#include <stdbool.h>

/* Whether this process tells the story: rank 0, not silenced. */
bool df_log_speaks(void);

/* Draws text over the bar on the terminal; the next line of the log wipes it first. NULL wipes it
 * now. */
void df_log_bar(const char *text);

#endif
