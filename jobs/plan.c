/* The stages that study a dictionary, and what --dry-run tells of them. */
#include "jobs.h"

bool df_plan_is_early(const df_run *run, const char *stage, const char *dictionary,
                      const char *statistics) {
    uint8_t missing[2] = {0, 0};
    bool early = df_inputs_are_missing(run);
    if (df_comm_rank(run->world) == 0) {
        missing[0] = !df_file_exists(dictionary);
        missing[1] = statistics != NULL && !df_file_exists(statistics);
    }
    df_broadcast(run->world, 0, missing, sizeof missing);
    const char *after = early ? "harvest" : missing[0] ? "train" : missing[1] ? "stats" : NULL;
    if (after == NULL) return false;
    df_info("%s: memory and disk can be told after %s", stage, after);
    return true;
}

df_status df_plan_dict(const df_run *run, const char *path, df_dict_plan *out, df_dict **dict) {
    int size = df_comm_size(run->world);
    DF_TRY(df_agree(run->world, df_dict_load_outline(path, size, 0, dict)));
    *out = (df_dict_plan){*dict, df_kernels_spare_screen(run->kernels), size};
    return DF_OK;
}

df_status df_run_study(df_run *run, char *output, df_study *plan, df_study *work) {
    char *dict = df_path_dict(run);
    df_status status = df_agree(run->world, dict != NULL && output != NULL ? DF_OK : DF_FAILED);
    if (status == DF_OK) status = (run->dry_run ? plan : work)(run, dict, output);
    df_free(dict);
    df_free(output);
    return status;
}
