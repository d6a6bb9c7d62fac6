/* The result file. Rank 0 holds everything and writes it; the others take part in what is
 * collective. */
#include "parts.h"

static const char *const side_group[DF_SIDES] = {"residual", "x", "xhat"};
static const char *const side_name[DF_SIDES] = {
    "eigenvalues of cov(x - x_hat)", "eigenvalues of cov(x)", "eigenvalues of cov(x_hat)"};

enum { PATH_BYTES = 512 };

/* Dataset numbers of one model. */
typedef struct numbers {
    int values[DF_SIDES], vectors;
} numbers;

static df_status declare_side(df_file *file, const char *model, const df_spectrum_result *r,
                              int side, numbers *id) {
    char group[PATH_BYTES], path[PATH_BYTES + 32];
    snprintf(group, sizeof group, "/%s/%s", model, side_group[side]);
    snprintf(path, sizeof path, "%s/eigenvalues", group);
    df_dataset values = {path,        DF_F64, 1, {r->width}, "squared activation", side_name[side],
                         "eigenvalue"};
    DF_TRY(df_file_dataset(file, &values, &id->values[side]));
    DF_TRY(df_file_real(file, group, "participation_ratio", r->participation_ratio[side]));
    DF_TRY(df_file_real(file, group, "trace", r->trace[side]));
    DF_TRY(df_file_real(file, group, "eigen_residual", r->eigen_residual[side]));
    if (side != DF_SIDE_RESIDUAL) return DF_OK;
    snprintf(path, sizeof path, "%s/eigenvectors", group);
    df_dataset vectors = {path,
                          DF_F64,
                          2,
                          {r->width, r->width},
                          "1",
                          "eigenvectors of cov(x - x_hat)",
                          "eigenvalue, width"};
    return df_file_dataset(file, &vectors, &id->vectors);
}

static df_status describe(df_file *file, const char *model, const df_spectrum_result *r) {
    const struct {
        const char *name;
        double value;
    } reals[] = {{"r2_pooled", r->r2_pooled}, {"r2_mean", r->r2_mean},
                 {"r2_error", r->r2_error},   {"fvu", r->fvu},
                 {"fvu_error", r->fvu_error}, {"slope", r->slope},
                 {"ridge", r->ridge},         {"rcond", r->rcond}};
    char group[PATH_BYTES];
    snprintf(group, sizeof group, "/%s", model);
    for (size_t i = 0; i < sizeof reals / sizeof *reals; i++)
        DF_TRY(df_file_real(file, group, reals[i].name, reals[i].value));
    DF_TRY(df_file_int(file, group, "rows_train", (int64_t)r->rows_train));
    return df_file_int(file, group, "rows_heldout", (int64_t)r->rows_heldout);
}

static df_status declare(df_file *file, const df_spectrum_input *input,
                         const df_spectrum_result *results, const df_spectrum_options *options,
                         numbers *id) {
    if (options->resolved_job != NULL)
        DF_TRY(df_file_text(file, "/", "job", options->resolved_job));
    DF_TRY(df_file_int(file, "/", "models", (int64_t)input->models));
    for (size_t m = 0; m < input->models; m++) {
        char name[32];
        snprintf(name, sizeof name, "model%zu", m);
        DF_TRY(df_file_text(file, "/", name, input->model[m].name));
        for (int side = 0; side < DF_SIDES; side++)
            DF_TRY(declare_side(file, input->model[m].name, &results[m], side, &id[m]));
        DF_TRY(describe(file, input->model[m].name, &results[m]));
    }
    return df_file_provenance(file, &options->facts);
}

static df_status write_model(df_file *file, const df_spectrum_result *r, const numbers *id) {
    for (int side = 0; side < DF_SIDES; side++)
        DF_TRY(df_file_write(file, id->values[side], 0, r->width, r->values[side]));
    return df_file_write(file, id->vectors, 0, r->width, r->vectors);
}

static df_status fill(df_comm *comm, df_file *file, const df_spectrum_input *input,
                      const df_spectrum_result *results, const numbers *id) {
    df_status mine = DF_OK;
    DF_TRY(df_file_ready(file));
    for (size_t m = 0; mine == DF_OK && df_comm_rank(comm) == 0 && m < input->models; m++)
        mine = write_model(file, &results[m], &id[m]);
    return df_file_agree(file, mine);
}

df_status df_spectrum_write(df_comm *comm, const df_spectrum_input *input,
                            const df_spectrum_result *results, const df_spectrum_options *options) {
    df_file *file = NULL;
    numbers *id = NULL;
    df_status status;
    DF_GO(df_agree(comm, DF_NEW(id, input->models)));
    DF_GO(df_file_create(comm, options->output, "darkfield-spectrum", &file));
    DF_GO(declare(file, input, results, options, id));
    DF_GO(fill(comm, file, input, results, id));
    DF_GO(df_file_finish(&file));
done:
    if (file != NULL) df_file_abandon(&file, false);
    df_free(id);
    return status;
}

df_status df_spectrum_run(df_comm *comm, const df_spectrum_input *input,
                          const df_spectrum_options *options) {
    df_spectrum_result *results;
    DF_TRY(df_spectrum_compute(comm, input, options->ridge, &results));
    df_status status = df_spectrum_write(comm, input, results, options);
    df_spectrum_free(&results, input->models);
    if (status != DF_OK) df_context("writing %s", options->output);
    return status;
}

df_status df_spectrum_file_need(const df_spectrum_input *input, const df_spectrum_options *options,
                                df_need *out) {
    df_file *file = NULL;
    numbers *id = NULL;
    df_spectrum_result *empty = NULL;
    df_status status;
    DF_GO(DF_NEW(id, input->models));
    DF_GO(DF_NEW(empty, input->models));
    for (size_t m = 0; m < input->models; m++) empty[m].width = input->model[m].width;
    DF_GO(df_file_outline("darkfield-spectrum", &file));
    DF_GO(declare(file, input, empty, options, id));
done:
    *out = df_file_need(&file);
    df_free(id);
    df_free(empty);
    return status;
}
