/* version.h: what --version, the banner and /provenance say of this build. */
#ifndef DARKFIELD_VERSION_H
#define DARKFIELD_VERSION_H

extern const char df_version[]; /* 0.1.0 */
extern const char df_commit[];  /* git commit at build time, "-dirty" behind it, or "unknown" */
extern const char df_build[];   /* build type, compiler, flags */

#endif
