/* Writing *.dict.h5 (design section 5): the groups, the sites, the training history. */
#include "train_internal.h"

enum { W_ENC, W_DEC, B_ENC, THRESHOLD, R_MAG, B_MAG, PER_GROUP }; /* datasets of a group */
enum { FIRST, WIDTH, SCALE, PER_SIDE }; /* of the input or the output sites */
enum { GROUPS, B_DEC, W_SKIP, SHARED };

typedef struct dict_writer {
    df_comm *comm;
    const df_dict *dict;
    const df_history *history; // may be NULL
    df_file *file;
    int (*id_group)[PER_GROUP]; // [groups]
    int id_side[2][PER_SIDE];   // input, output
    int id[SHARED], id_history, id_prefixes, id_bound;
} dict_writer;

static df_status declare_shared(dict_writer *w) {
    const df_dict *d = w->dict;
    const df_dataset groups = {"/groups",
                               DF_U64,
                               2,
                               {d->groups, 6},
                               "1",
                               "first latent, latents, first input column, input columns, first "
                               "output column, output columns",
                               "group, field"};
    const df_dataset b_dec = {"/b_dec", DF_F32, 1, {d->out.count}, "1", "decoder bias", "column"};
    const df_dataset skip = {"/W_skip",
                             DF_F32,
                             2,
                             {d->out.count, d->in.count},
                             "1",
                             "linear part of the reconstruction",
                             "output column, input column"};
    DF_TRY(df_file_dataset(w->file, &groups, &w->id[GROUPS]));
    DF_TRY(df_file_dataset(w->file, &b_dec, &w->id[B_DEC]));
    return d->kind == DF_SKIP_TRANSCODER ? df_file_dataset(w->file, &skip, &w->id[W_SKIP]) : DF_OK;
}

/* Does a group of this kind have the dataset? */
static bool has_dataset(df_activation activation, int i) {
    if (i == THRESHOLD) return activation == DF_BATCHTOPK || activation == DF_JUMPRELU;
    return i < THRESHOLD || activation == DF_GATED;
}

static df_status declare_group(dict_writer *w, size_t g) {
    bool jump = w->dict->activation == DF_JUMPRELU;
    const df_dict_group *group = &w->dict->group[g];
    uint64_t m = group->count;
    char path[PER_GROUP][64];
    static const char *const names[PER_GROUP] = {"W_enc",     "W_dec", "b_enc",
                                                 "threshold", "r_mag", "b_mag"};
    for (int i = 0; i < PER_GROUP; i++)
        snprintf(path[i], sizeof path[i], "/group/%zu/%s", g, names[i]);
    const df_dataset all[PER_GROUP] = {
        [W_ENC] =
            {path[W_ENC], DF_F32, 2, {m, group->in.count}, "1", "encoder rows", "latent, column"},
        [W_DEC] = {path[W_DEC],
                   DF_F32,
                   2,
                   {m, group->out.count},
                   "1",
                   "decoder directions",
                   "latent, column"},
        [B_ENC] = {path[B_ENC], DF_F32, 1, {m}, "1", "encoder bias", "latent"},
        [THRESHOLD] = {path[THRESHOLD],
                       DF_F32,
                       1,
                       {jump ? m : df_dict_thresholds(w->dict)},
                       "1",
                       jump ? "active where the pre-activation is above it"
                            : "active where code times norm is above it",
                       jump                         ? "latent"
                       : df_dict_decoupled(w->dict) ? "output site"
                                                    : "group"},
        [R_MAG] = {path[R_MAG], DF_F32, 1, {m}, "1", "logarithm of the magnitude's gain", "latent"},
        [B_MAG] = {path[B_MAG], DF_F32, 1, {m}, "1", "bias of the magnitude", "latent"}};
    for (int i = 0; i < PER_GROUP; i++) {
        if (!has_dataset(w->dict->activation, i)) continue;
        DF_TRY(df_file_dataset(w->file, &all[i], &w->id_group[g][i]));
    }
    return DF_OK;
}

static bool is_of_side(const df_dict_site *site, int side) {
    return side == 0 ? site->input : site->output;
}

static size_t sites_of_side(const df_dict *dict, int side) {
    size_t n = 0;
    for (size_t s = 0; s < dict->sites; s++) n += is_of_side(&dict->site[s], side);
    return n;
}

static df_status declare_sites(dict_writer *w, int side) {
    const df_dict *dict = w->dict;
    const char *where = side == 0 ? "/sites/input" : "/sites/output";
    uint64_t n = sites_of_side(dict, side);
    char path[PER_SIDE][64];
    snprintf(path[FIRST], sizeof path[FIRST], "%s/first", where);
    snprintf(path[WIDTH], sizeof path[WIDTH], "%s/width", where);
    snprintf(path[SCALE], sizeof path[SCALE], "%s/scale", where);
    const df_dataset all[PER_SIDE] = {
        [FIRST] = {path[FIRST], DF_U64, 1, {n}, "1", "first column", "site"},
        [WIDTH] = {path[WIDTH], DF_U64, 1, {n}, "1", "columns", "site"},
        [SCALE] = {path[SCALE], DF_F64, 1, {n}, "1", "what activations are multiplied by", "site"}};
    for (int i = 0; i < PER_SIDE; i++)
        DF_TRY(df_file_dataset(w->file, &all[i], &w->id_side[side][i]));
    for (size_t s = 0, i = 0; s < dict->sites; s++) {
        char name[32];
        if (!is_of_side(&dict->site[s], side)) continue;
        snprintf(name, sizeof name, "name%zu", i);
        DF_TRY(df_file_text(w->file, where, name, dict->site[s].name));
        snprintf(name, sizeof name, "model%zu", i);
        DF_TRY(df_file_text(w->file, where, name, dict->site[s].model));
        snprintf(name, sizeof name, "token_norm%zu", i++);
        if (dict->site[s].token_norm == DF_TOKEN_NONE) continue;
        DF_TRY(df_file_text(w->file, where, name, token_norm_name(dict->site[s].token_norm)));
    }
    return DF_OK;
}

/* The columns get consecutive ids from id_history. */
static df_status declare_history(dict_writer *w) {
    size_t columns = w->history != NULL ? history_columns(w->history->sites) : 0;
    for (size_t c = 0; c < columns; c++) {
        char *name = history_column_name(w->dict, c), *path = NULL;
        if (name != NULL) path = df_format("/history/%s", name);
        const df_dataset spec = {path,      DF_F64,
                                 1,         {w->history->rows},
                                 "1",       "mean over a logging interval, or at its end",
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

/* Matryoshka dictionaries say which latents stand for themselves. */
static df_status declare_prefixes(dict_writer *w) {
    const df_dataset spec = {"/prefixes", DF_U64,
                             1,           {w->dict->prefixes},
                             "latents",   "the first latents that reconstruct by themselves",
                             "prefix"};
    return w->dict->prefixes > 0 ? df_file_dataset(w->file, &spec, &w->id_prefixes) : DF_OK;
}

static df_status write_prefixes(const dict_writer *w) {
    for (size_t i = 0; i < w->dict->prefixes; i++) {
        uint64_t end = w->dict->prefix[i];
        DF_TRY(df_file_write(w->file, w->id_prefixes, i, 1, &end));
    }
    return DF_OK;
}

/* Crosscoders with latents bound to models say which. */
static df_status declare_bound(dict_writer *w) {
    const df_dataset spec = {"/bound_latents",
                             DF_U64,
                             1,
                             {2},
                             "latents",
                             "the first latents, with one decoder for all models; the last ones, "
                             "of each model alone",
                             "shared, dedicated"};
    return w->dict->models > 0 ? df_file_dataset(w->file, &spec, &w->id_bound) : DF_OK;
}

static df_status write_bound(const dict_writer *w) {
    const uint64_t bound[2] = {w->dict->shared, w->dict->dedicated};
    return w->dict->models > 0 ? df_file_write(w->file, w->id_bound, 0, 2, bound) : DF_OK;
}

static df_status describe(df_file *file, const df_dict *dict) {
    DF_TRY(df_file_text(file, "/", "kind", df_dict_kind_name(dict->kind)));
    DF_TRY(df_file_text(file, "/", "activation", activation_name(dict->activation)));
    DF_TRY(df_file_text(file, "/", "code_norm", code_norm_name(dict->code_norm)));
    DF_TRY(df_file_int(file, "/", "k", (int64_t)dict->k));
    DF_TRY(df_file_int(file, "/", "latents", (int64_t)dict->latents));
    DF_TRY(df_file_int(file, "/", "width", (int64_t)dict->width));
    return df_file_int(file, "/", "subtract_bias", dict->subtract_bias);
}

static df_status write_sites(const dict_writer *w, int side) {
    const int *id = w->id_side[side];
    for (size_t s = 0, i = 0; s < w->dict->sites; s++) {
        const df_dict_site *site = &w->dict->site[s];
        if (!is_of_side(site, side)) continue;
        DF_TRY(df_file_write(w->file, id[FIRST], i, 1, &site->first));
        DF_TRY(df_file_write(w->file, id[WIDTH], i, 1, &site->width));
        DF_TRY(df_file_write(w->file, id[SCALE], i++, 1, &site->scale));
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
    DF_TRY(write_prefixes(w));
    DF_TRY(write_bound(w));
    for (size_t g = 0; g < dict->groups; g++) {
        const df_dict_group *group = &dict->group[g];
        const uint64_t fields[6] = {group->first,    group->count,     group->in.first,
                                    group->in.count, group->out.first, group->out.count};
        DF_TRY(df_file_write(w->file, w->id[GROUPS], g, 1, fields));
        const float *threshold = df_dict_decoupled(dict) ? dict->site_threshold : &dict->threshold;
        if (dict->activation == DF_BATCHTOPK)
            DF_TRY(df_file_write(w->file, w->id_group[g][THRESHOLD], 0, df_dict_thresholds(dict),
                                 threshold));
    }
    DF_TRY(df_file_write(w->file, w->id[B_DEC], 0, dict->out.count, dict->b_dec));
    DF_TRY(write_sites(w, 0));
    DF_TRY(write_sites(w, 1));
    return write_history(w);
}

static df_status write_all(const dict_writer *w) {
    const df_dict *dict = w->dict;
    for (size_t g = 0; g < dict->groups; g++) {
        const df_dict_group *group = &dict->group[g];
        size_t local = group->local.first, n = group->local.count;
        uint64_t first = n > 0 ? dict->mine.first + local - group->first : 0;
        const int *id = w->id_group[g];
        DF_TRY(df_file_write(w->file, id[W_ENC], first, n, dict->w_enc + group->enc));
        DF_TRY(df_file_write(w->file, id[W_DEC], first, n, dict->w_dec + group->dec));
        DF_TRY(df_file_write(w->file, id[B_ENC], first, n, dict->b_enc + local));
        if (dict->activation == DF_JUMPRELU)
            DF_TRY(df_file_write(w->file, id[THRESHOLD], first, n, dict->theta + local));
        if (dict->activation != DF_GATED) continue;
        DF_TRY(df_file_write(w->file, id[R_MAG], first, n, dict->r_mag + local));
        DF_TRY(df_file_write(w->file, id[B_MAG], first, n, dict->b_mag + local));
    }
    if (dict->w_skip != NULL)
        DF_TRY(df_file_write(w->file, w->id[W_SKIP], dict->skip_rows.first, dict->skip_rows.count,
                             dict->w_skip));
    return df_comm_rank(w->comm) == 0 ? write_shared(w) : DF_OK;
}

/* Local, like all declarations: the caller agrees. */
static df_status declare_all(dict_writer *w, const char *job, uint64_t seed, uint64_t rows_seen) {
    DF_TRY(DF_NEW(w->id_group, w->dict->groups));
    DF_TRY(describe(w->file, w->dict));
    DF_TRY(declare_shared(w));
    for (size_t g = 0; g < w->dict->groups; g++) DF_TRY(declare_group(w, g));
    DF_TRY(declare_sites(w, 0));
    DF_TRY(declare_sites(w, 1));
    DF_TRY(declare_history(w));
    DF_TRY(declare_prefixes(w));
    DF_TRY(declare_bound(w));
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
    df_free(w.id_group);
    if (status != DF_OK) df_context("writing the dictionary %s", path);
    return status;
}
