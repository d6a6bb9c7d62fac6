/* The result file of an evaluation. */
#include "darkfield/eval.h"

enum { FVU, FVU_ERROR, FIRES, DATASETS };

static df_status describe(df_file *file, const df_dict *dict, const df_evaluation *e) {
    DF_TRY(df_file_real(file, "/", "l0", e->l0));
    DF_TRY(df_file_int(file, "/", "rows", (int64_t)e->rows));
    DF_TRY(df_file_int(file, "/", "latents", (int64_t)e->latents));
    DF_TRY(df_file_int(file, "/", "dead", (int64_t)e->dead));
    DF_TRY(df_file_int(file, "/", "dense", (int64_t)e->dense));
    DF_TRY(df_file_int(file, "/", "alive", (int64_t)(e->latents - e->dead)));
    DF_TRY(df_file_int(file, "/", "sites", (int64_t)e->sites));
    for (size_t s = 0; s < e->sites; s++) {
        char name[32];
        snprintf(name, sizeof name, "site%zu", s);
        DF_TRY(df_file_text(file, "/", name, df_dict_output(dict, s)->name));
        snprintf(name, sizeof name, "model%zu", s);
        DF_TRY(df_file_text(file, "/", name, df_dict_output(dict, s)->model));
    }
    return DF_OK;
}

static df_status declare(df_file *file, const df_evaluation *e, int id[static DATASETS]) {
    const df_dataset all[DATASETS] = {[FVU] = {"/sites/fvu",
                                               DF_F64,
                                               1,
                                               {e->sites},
                                               "1",
                                               "fraction of variance unexplained on held-out rows",
                                               "site"},
                                      [FVU_ERROR] = {"/sites/fvu_error",
                                                     DF_F64,
                                                     1,
                                                     {e->sites},
                                                     "1",
                                                     "its jackknife error over 64 document buckets",
                                                     "site"},
                                      [FIRES] = {"/latents/fires",
                                                 DF_U64,
                                                 1,
                                                 {e->latents},
                                                 "rows",
                                                 "held-out rows on which the latent is active",
                                                 "latent"}};
    for (int i = 0; i < DATASETS; i++) DF_TRY(df_file_dataset(file, &all[i], &id[i]));
    return DF_OK;
}

static df_status fill(df_comm *comm, df_file *file, const df_dict *dict, const df_evaluation *e,
                      const int *id) {
    DF_TRY(df_file_write(file, id[FIRES], dict->mine.first, dict->mine.count, e->fires));
    if (df_comm_rank(comm) != 0) return DF_OK;
    DF_TRY(df_file_write(file, id[FVU], 0, e->sites, e->fvu));
    return df_file_write(file, id[FVU_ERROR], 0, e->sites, e->fvu_error);
}

static df_status prepare(df_file *file, const df_dict *dict, const df_evaluation *found,
                         const df_eval_options *options, int *id) {
    DF_TRY(df_file_text(file, "/", "job", options->resolved_job));
    DF_TRY(describe(file, dict, found));
    DF_TRY(declare(file, found, id));
    return df_file_provenance(file, &options->facts);
}

df_status df_evaluation_write(df_comm *comm, const df_dict *dict, const df_evaluation *found,
                              const df_eval_options *options) {
    df_file *file = NULL;
    int id[DATASETS];
    df_status status;
    DF_GO(df_file_create(comm, options->output, "darkfield-evaluation", &file));
    DF_GO(df_file_agree(file, prepare(file, dict, found, options, id)));
    DF_GO(df_file_ready(file));
    DF_GO(df_file_agree(file, fill(comm, file, dict, found, id)));
    DF_GO(df_file_finish(&file));
done:
    if (file != NULL) df_file_abandon(&file, false);
    return status;
}
