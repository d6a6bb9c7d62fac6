# Writes version.c with the commit of SOURCE; run at every build, touches the file only when it changes.
execute_process(COMMAND git -C ${SOURCE} describe --always --dirty --abbrev=12 --match=NeVeR
  OUTPUT_VARIABLE commit OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE failed)
if(failed OR commit STREQUAL "")
  set(commit unknown)
endif()
file(CONFIGURE OUTPUT ${OUTPUT} CONTENT [[
#include "version.h"
const char df_version[] = "@VERSION@";
const char df_commit[] = "@commit@";
const char df_build[] = "@BUILD@";
]] @ONLY)
