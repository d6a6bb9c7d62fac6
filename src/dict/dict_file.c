/* Writing *.dict.h5 (design section 5): one group, its sites, the training history. */
#include "train_internal.h"

enum { W_ENC, W_DEC, B_ENC, B_DEC, GROUPS, THRESHOLD, FIRST, WIDTH, SCALE, DATASETS };

typedef struct dict_writer {
    df_comm *comm;
    const df_dict *dict;
    const df_history *history; // may be NULL
    df_file *file;
    int id[DATASETS], id_output[DATASETS], id_history;
} dict_writer;

static df_status declare_matrices(dict_writer *w) {
    uint64_t m = w->dict->latents, d = w->dict->width;
    const df_dataset all[] = {
        [W_ENC] = {"/group/0/W_enc", DF_F32, 2, {m, d}, "1", "encoder rows", "latent, column"},
        [W_DEC] =
            {"/group/0/W_dec", DF_F32, 2, {m, d}, "1", "decoder directions", "latent, column"},
        [B_ENC] = {"/group/0/b_enc", DF_F32, 1, {m}, "1", "encoder bias", "latent"},
        [B_DEC] = {"/b_dec", DF_F32, 1, {d}, "1", "decoder bias", "column"},
        [GROUPS] = {"/groups",
                    DF_U64,
                    2,
                    {1, 6},
                    "1",
                    "first latent, latents, first input column, input columns, first output "
                    "column, output columns",
                    "group, field"},
        [THRESHOLD] = {"/group/0/threshold",
                       DF_F32,
                       1,
                       {1},
                       "1",
                       "active where code times norm is above it",
                       "group"}};
    for (int i = W_ENC; i <= THRESHOLD; i++) {
        if (i == THRESHOLD && w->dict->activation != DF_BATCHTOPK) continue;
        DF_TRY(df_file_dataset(w->file, &all[i], &w->id[i]));
    }
    return DF_OK;
}

/* where: "/sites/input" or "/sites/output". */
static df_status declare_sites(dict_writer *w, const char *where, int *id) {
    const df_dict *dict = w->dict;
    char path[3][64];
    snprintf(path[0], sizeof path[0], "%s/first", where);
    snprintf(path[1], sizeof path[1], "%s/width", where);
    snprintf(path[2], sizeof path[2], "%s/scale", where);
    const df_dataset first = {path[0], DF_U64, 1, {dict->sites}, "1", "first column", "site"};
    const df_dataset width = {path[1], DF_U64, 1, {dict->sites}, "1", "columns", "site"};
    const df_dataset scale = {
        path[2], DF_F64, 1, {dict->sites}, "1", "what activations are multiplied by", "site"};
    DF_TRY(df_file_dataset(w->file, &first, &id[FIRST]));
    DF_TRY(df_file_dataset(w->file, &width, &id[WIDTH]));
    DF_TRY(df_file_dataset(w->file, &scale, &id[SCALE]));
    for (size_t s = 0; s < dict->sites; s++) {
        char name[32];
        snprintf(name, sizeof name, "name%zu", s);
        DF_TRY(df_file_text(w->file, where, name, dict->site[s].name));
        snprintf(name, sizeof name, "model%zu", s);
        DF_TRY(df_file_text(w->file, where, name, dict->site[s].model));
    }
    return DF_OK;
}

/* The columns get consecutive ids from id_history. */
static df_status declare_history(dict_writer *w) {
    size_t columns = w->history != NULL ? history_columns(w->history->sites) : 0;
    for (size_t c = 0; c < columns; c++) {
        char *name = history_column_name(w->dict, c), *path = NULL;
        if (name != NULL) path = df_format("/history/%s", name);
        const df_dataset spec = {
            path,      DF_F64, 1, {w->history->rows}, "1", "at the end of a logging interval",
            "interval"};
        int id = -1;
        df_status status = path != NULL ? DF_OK : DF_FAILED;
        if (status == DF_OK) status = df_file_dataset(w->file, &spec, &id);
        df_free(path);
        df_free(name);
        if (status != DF_OK) return status;
        if (c == 0) w->id_history = id;
    }
    return DF_OK;
}

static df_status describe(df_file *file, const df_dict *dict) {
    DF_TRY(df_file_text(file, "/", "kind", dict->sites == 1 ? "sae" : "crosscoder"));
    DF_TRY(df_file_text(file, "/", "activation", activation_name(dict->activation)));
    DF_TRY(df_file_text(file, "/", "code_norm", code_norm_name(dict->code_norm)));
    DF_TRY(df_file_int(file, "/", "k", (int64_t)dict->k));
    DF_TRY(df_file_int(file, "/", "latents", (int64_t)dict->latents));
    DF_TRY(df_file_int(file, "/", "width", (int64_t)dict->width));
    return df_file_int(file, "/", "subtract_bias", dict->subtract_bias);
}

static df_status write_sites(const dict_writer *w, const int *id) {
    for (size_t s = 0; s < w->dict->sites; s++) {
        const df_dict_site *site = &w->dict->site[s];
        DF_TRY(df_file_write(w->file, id[FIRST], s, 1, &site->first));
        DF_TRY(df_file_write(w->file, id[WIDTH], s, 1, &site->width));
        DF_TRY(df_file_write(w->file, id[SCALE], s, 1, &site->scale));
    }
    return DF_OK;
}

static df_status write_history(const dict_writer *w) {
    size_t columns = w->history != NULL ? history_columns(w->history->sites) : 0;
    for (size_t c = 0; c < columns; c++) {
        double *values = history_column(w->history, c);
        if (values == NULL) return DF_FAILED;
        df_status status =
            df_file_write(w->file, w->id_history + (int)c, 0, w->history->rows, values);
        df_free(values);
        DF_TRY(status);
    }
    return DF_OK;
}

/* What every rank holds is written by rank 0. */
static df_status write_shared(const dict_writer *w) {
    const df_dict *dict = w->dict;
    const uint64_t group[6] = {0, dict->latents, 0, dict->width, 0, dict->width};
    DF_TRY(df_file_write(w->file, w->id[GROUPS], 0, 1, group));
    DF_TRY(df_file_write(w->file, w->id[B_DEC], 0, dict->width, dict->b_dec));
    if (dict->activation == DF_BATCHTOPK)
        DF_TRY(df_file_write(w->file, w->id[THRESHOLD], 0, 1, &dict->threshold));
    DF_TRY(write_sites(w, w->id));
    DF_TRY(write_sites(w, w->id_output));
    return write_history(w);
}

static df_status write_all(const dict_writer *w) {
    df_range mine = w->dict->mine;
    DF_TRY(df_file_write(w->file, w->id[W_ENC], mine.first, mine.count, w->dict->w_enc));
    DF_TRY(df_file_write(w->file, w->id[W_DEC], mine.first, mine.count, w->dict->w_dec));
    DF_TRY(df_file_write(w->file, w->id[B_ENC], mine.first, mine.count, w->dict->b_enc));
    return df_comm_rank(w->comm) == 0 ? write_shared(w) : DF_OK;
}

/* Local, like all declarations: the caller agrees. */
static df_status declare_all(dict_writer *w, const char *job, uint64_t seed, uint64_t rows_seen) {
    DF_TRY(describe(w->file, w->dict));
    DF_TRY(declare_matrices(w));
    DF_TRY(declare_sites(w, "/sites/input", w->id));
    DF_TRY(declare_sites(w, "/sites/output", w->id_output));
    DF_TRY(declare_history(w));
    DF_TRY(df_file_text(w->file, "/", "job", job != NULL ? job : ""));
    DF_TRY(df_file_int(w->file, "/", "seed", (int64_t)seed));
    return df_file_int(w->file, "/", "rows_seen", (int64_t)rows_seen);
}

df_status df_dict_save(df_comm *comm, const char *path, const df_dict *dict,
                       const df_history *history, const char *resolved_job, uint64_t seed,
                       uint64_t rows_seen, const df_provenance *facts) {
    dict_writer w = {.comm = comm, .dict = dict, .history = history};
    df_status status = df_file_create(comm, path, "darkfield-dictionary", &w.file);
    if (status != DF_OK) goto done;
    status = declare_all(&w, resolved_job, seed, rows_seen);
    if (status == DF_OK) status = df_file_provenance(w.file, facts);
    DF_GO(df_file_agree(w.file, status));
    DF_GO(df_file_ready(w.file));
    DF_GO(df_file_agree(w.file, write_all(&w)));
    DF_GO(df_file_finish(&w.file));
done:
    if (w.file != NULL) df_file_abandon(&w.file, false);
    if (status != DF_OK) df_context("writing the dictionary %s", path);
    return status;
}
