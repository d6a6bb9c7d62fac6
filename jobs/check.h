/* check.h: `darkfield check`, which needs no job file. */
#ifndef DARKFIELD_CHECK_H
#define DARKFIELD_CHECK_H

#include "darkfield/base.h"

/* Validates each file, or prints its content hash. Runs on rank 0; not collective. */
df_status df_check_files(const char *const *paths, size_t n, bool digest) DF_MUST_CHECK;

#endif
