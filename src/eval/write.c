/* The result file of an evaluation. */
#include "fvu.h"

#include <string.h>

enum { SITES = 6, FIRES = SITES, DATASETS, LATENT = 0, DIRECTION, CLASS, RECOVERED };

/* The figures of sites. */
typedef struct column {
    const char *path, *name;
    const double *values;
} column;

static void list_columns(const df_evaluation *e, column out[static SITES]) {
    const column all[SITES] = {
        {"/sites/fvu", "fraction of variance unexplained on held-out rows", e->fvu},
        {"/sites/fvu_error", "its jackknife error over 64 document buckets", e->fvu_error},
        {"/sites/fvu_batches", "mean over batches of the variance of errors by that of rows",
         e->fvu_batches},
        {"/sites/fvu_batches_error", "its jackknife error", e->fvu_batches_error},
        {"/sites/fvu_rows", "mean over rows of |x - x^|^2 by |x - mean of the batch|^2",
         e->fvu_rows},
        {"/sites/fvu_rows_error", "its jackknife error", e->fvu_rows_error}};
    memcpy(out, all, sizeof all);
}

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
    const df_dataset fires = {
        "/latents/fires", DF_U64, 1,
        {e->latents},     "rows", "held-out rows on which the latent is active",
        "latent"};
    column columns[SITES];
    list_columns(e, columns);
    for (int i = 0; i < SITES; i++) {
        const df_dataset one = {columns[i].path, DF_F64, 1, {e->sites}, "1",
                                columns[i].name, "site"};
        DF_TRY(df_file_dataset(file, &one, &id[i]));
    }
    return df_file_dataset(file, &fires, &id[FIRES]);
}

static df_status declare_recovery(df_file *file, const df_recovery *r, uint64_t latents,
                                  int id[static RECOVERED]) {
    static const char where[] = "/recovery";
    const df_dataset all[RECOVERED] = {
        [LATENT] = {"/recovery/latent_cosine",
                    DF_F64,
                    1,
                    {latents},
                    "1",
                    "largest cosine of each latent with a true direction",
                    "latent"},
        [DIRECTION] = {"/recovery/direction_cosine",
                       DF_F64,
                       1,
                       {r->directions},
                       "1",
                       "largest cosine of each true direction with a latent",
                       "direction"},
        [CLASS] = {"/recovery/direction_class",
                   DF_U8,
                   1,
                   {r->directions},
                   "1",
                   "0: in all models, 1: in the first alone, 2: in the second alone",
                   "direction"}};
    for (int i = 0; i < RECOVERED; i++) DF_TRY(df_file_dataset(file, &all[i], &id[i]));
    DF_TRY(df_file_real(file, where, "mmcs_learned_to_true", r->learned_to_true));
    DF_TRY(df_file_real(file, where, "mmcs_true_to_learned", r->true_to_learned));
    DF_TRY(df_file_real(file, where, "recovery_shared", r->by_class[0]));
    DF_TRY(df_file_real(file, where, "recovery_a", r->by_class[1]));
    DF_TRY(df_file_real(file, where, "recovery_b", r->by_class[2]));
    DF_TRY(df_file_int(file, where, "found", (int64_t)r->found));
    DF_TRY(df_file_int(file, where, "alive", (int64_t)r->alive));
    DF_TRY(df_file_int(file, where, "only_a", (int64_t)r->only_a));
    return df_file_int(file, where, "only_b", (int64_t)r->only_b);
}

static df_status fill_recovery(df_comm *comm, df_file *file, const df_dict *dict,
                               const df_recovery *r, const int *id) {
    DF_TRY(df_file_write(file, id[LATENT], dict->mine.first, dict->mine.count, r->latent));
    if (df_comm_rank(comm) != 0) return DF_OK;
    DF_TRY(df_file_write(file, id[DIRECTION], 0, r->directions, r->direction));
    return df_file_write(file, id[CLASS], 0, r->directions, r->class_);
}

static df_status fill(df_comm *comm, df_file *file, const df_dict *dict, const df_evaluation *e,
                      const int *id) {
    column columns[SITES];
    list_columns(e, columns);
    DF_TRY(df_file_write(file, id[FIRES], dict->mine.first, dict->mine.count, e->fires));
    if (df_comm_rank(comm) != 0) return DF_OK;
    for (int i = 0; i < SITES; i++)
        DF_TRY(df_file_write(file, id[i], 0, e->sites, columns[i].values));
    return DF_OK;
}

static df_status prepare(df_file *file, const df_dict *dict, const df_evaluation *found,
                         const df_eval_options *options, int *id) {
    DF_TRY(df_file_text(file, "/", "job", options->resolved_job));
    DF_TRY(describe(file, dict, found));
    DF_TRY(df_file_int(file, "/", "fvu_batch", (int64_t)options->fvu_batch));
    DF_TRY(declare(file, found, id));
    return df_file_provenance(file, &options->facts);
}

df_status df_evaluation_write(df_comm *comm, const df_dict *dict, const df_evaluation *found,
                              const df_eval_more *more, const df_eval_options *options) {
    df_file *file = NULL;
    int id[DATASETS], known[RECOVERED], loss[DF_LOSS_DATASETS];
    df_status status;
    DF_GO(df_file_create(comm, options->output, "darkfield-evaluation", &file));
    DF_GO(df_file_agree(file, prepare(file, dict, found, options, id)));
    if (more->recovery != NULL)
        DF_GO(df_file_agree(file, declare_recovery(file, more->recovery, found->latents, known)));
    if (more->loss != NULL) DF_GO(df_file_agree(file, df_loss_declare(file, more->loss, loss)));
    DF_GO(df_file_ready(file));
    status = fill(comm, file, dict, found, id);
    if (status == DF_OK && more->recovery != NULL)
        status = fill_recovery(comm, file, dict, more->recovery, known);
    if (status == DF_OK && more->loss != NULL && df_comm_rank(comm) == 0)
        status = df_loss_write(file, more->loss, loss);
    DF_GO(df_file_agree(file, status));
    DF_GO(df_file_finish(&file));
done:
    if (file != NULL) df_file_abandon(&file, false);
    return status;
}

df_status evaluation_need(const df_dict *dict, const df_eval_more *more,
                          const df_eval_options *options, df_need *out) {
    const df_evaluation nothing = {.sites = df_dict_outputs(dict), .latents = dict->latents};
    df_file *file = NULL;
    int id[DATASETS], known[RECOVERED], loss[DF_LOSS_DATASETS];
    DF_TRY(df_file_outline("darkfield-evaluation", &file));
    df_status status = prepare(file, dict, &nothing, options, id);
    if (status == DF_OK && more->recovery != NULL)
        status = declare_recovery(file, more->recovery, dict->latents, known);
    if (status == DF_OK && more->loss != NULL) status = df_loss_declare(file, more->loss, loss);
    *out = df_file_need(&file);
    return status;
}
