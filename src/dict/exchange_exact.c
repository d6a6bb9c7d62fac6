/* What folding rounds away, beside the weights. darkfield.json holds the dictionary's facts and the
 * hashes of the files; darkfield.safetensors, where anything was rounded, by how many steps of fp32
 * a weight that is unfolded again misses the one that was folded, and the vectors as they were. */
#include "exchange.h"
#include "train_internal.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#define FACTS "darkfield.json"
#define REST "darkfield.safetensors"
enum { ZERO = 128 };

/* ---- steps of fp32 - */

// Floats in order as integers.
static int64_t place_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    int64_t magnitude = bits & 0x7fffffffu;
    return (bits >> 31) != 0 ? -magnitude : magnitude;
}

static float at_place(int64_t place) {
    uint32_t bits = (uint32_t)(place < 0 ? -place : place) | (place < 0 ? 0x80000000u : 0);
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

// What reading makes of a folded weight, before the correction.
static float unfolded(float folded, double factor) {
    return (float)((double)folded / factor);
}

// -0 and 0 have one place; the sign survives folding and unfolding by itself.
static uint8_t steps(float weight, double factor, bool *fits) {
    int64_t miss = place_of(weight) - place_of(unfolded((float)((double)weight * factor), factor));
    *fits = *fits && miss >= -ZERO && miss < ZERO;
    return (uint8_t)(miss + ZERO);
}

/* ---- the list of tensors - */

// For each group its encoders and decoders; then b_enc, b_dec, W_skip as they were, and the norms.
typedef struct rest {
    df_tensor_spec *spec;
    char (*name)[32];
    size_t n;
} rest;

static void add(rest *r, const char *name, df_type type, uint64_t rows, uint64_t columns) {
    snprintf(r->name[r->n], sizeof r->name[r->n], "%s", name);
    r->spec[r->n] = (df_tensor_spec){
        .name = r->name[r->n], .type = type, .dims = columns > 0 ? 2 : 1, .shape = {rows, columns}};
    r->n++;
}

static df_status list(const df_dict *d, rest *r) {
    *r = (rest){0};
    DF_TRY(DF_NEW(r->spec, 2 * d->groups + 4));
    DF_TRY(DF_NEW(r->name, 2 * d->groups + 4));
    for (size_t g = 0; g < d->groups; g++) {
        char name[32];
        snprintf(name, sizeof name, "W_enc_%zu", g);
        add(r, name, DF_U8, d->group[g].count, d->group[g].in.count);
        snprintf(name, sizeof name, "W_dec_%zu", g);
        add(r, name, DF_U8, d->group[g].count, d->group[g].out.count);
    }
    add(r, "b_enc", DF_F32, d->latents, 0);
    add(r, "b_dec", DF_F32, d->out.count, 0);
    add(r, "norm", DF_F64, d->latents, 0);
    if (d->w_skip != NULL) add(r, "W_skip", DF_F32, d->out.count, d->in.count);
    return DF_OK;
}

static void rest_free(rest *r) {
    df_free(r->spec);
    df_free(r->name);
}

/* ---- writing - */

static size_t site_at(const df_dict *d, size_t column) {
    size_t s = 0;
    while (column >= d->site[s].first + d->site[s].width) s++;
    return s;
}

static double factor_of(const df_dict *d, const exchange_fold *fold, size_t j, size_t column,
                        bool output) {
    size_t s = site_at(d, column);
    return output ? exchange_dec_factor(fold, j, s) : exchange_enc_factor(fold, j, s);
}

// Steps of one row; *any: some weight is missed.
static void row_steps(const df_dict *d, const exchange_fold *fold, size_t j, bool output,
                      uint8_t *out, bool flags[2]) {
    const df_dict_group *g = df_dict_group_of(d, j);
    const float *row = output ? df_dict_dec(d, j) : df_dict_enc(d, j);
    df_range columns = output ? g->out : g->in;
    for (size_t c = 0; c < columns.count; c++) {
        out[c] = steps(row[c], factor_of(d, fold, j, columns.first + c, output), &flags[1]);
        flags[0] = flags[0] || out[c] != ZERO;
    }
}

static df_status put_rows(const df_dict *d, const exchange_fold *fold, df_tensor_file *file,
                          uint8_t *row) {
    bool flags[2] = {false, true};
    for (size_t j = 0; j < d->mine.count; j++) {
        const df_dict_group *g = df_dict_group_of(d, j);
        size_t at = d->mine.first + j - g->first, i = 2 * (size_t)(g - d->group);
        row_steps(d, fold, j, false, row, flags);
        DF_TRY(df_tensor_file_put(file, i, at * g->in.count, g->in.count, row));
        row_steps(d, fold, j, true, row, flags);
        DF_TRY(df_tensor_file_put(file, i + 1, at * g->out.count, g->out.count, row));
    }
    return DF_OK;
}

static df_status put_vectors(df_comm *comm, const df_dict *d, const exchange_fold *fold,
                             df_tensor_file *file) {
    size_t i = 2 * d->groups;
    const double one = 1.0;
    DF_TRY(df_tensor_file_put(file, i, d->mine.first, d->mine.count, d->b_enc));
    if (df_comm_rank(comm) == 0) DF_TRY(df_tensor_file_put(file, i + 1, 0, d->out.count, d->b_dec));
    for (size_t j = 0; j < d->mine.count; j++)
        DF_TRY(df_tensor_file_put(file, i + 2, d->mine.first + j, 1,
                                  fold->norm != NULL ? &fold->norm[j] : &one));
    if (d->w_skip == NULL) return DF_OK;
    return df_tensor_file_put(file, i + 3, d->skip_rows.first * d->in.count,
                              d->skip_rows.count * d->in.count, d->w_skip);
}

// Is anything rounded on any rank; can all of it be told in a byte?
static df_status survey(df_comm *comm, const df_dict *d, const exchange_fold *fold, uint8_t *row,
                        bool flags[2]) {
    flags[0] = fold->norm != NULL || fold->bias;
    flags[1] = true;
    for (size_t j = 0; j < d->mine.count; j++) {
        row_steps(d, fold, j, false, row, flags);
        row_steps(d, fold, j, true, row, flags);
    }
    for (size_t s = 0; s < d->sites; s++) flags[0] = flags[0] || fold->scale[s] != 1.0;
    uint64_t any[2] = {flags[0], !flags[1]};
    df_max_u64(comm, any, 2);
    flags[0] = any[0] != 0;
    flags[1] = any[1] == 0;
    return DF_OK;
}

static df_status write_rest(const exchange *x, df_comm *comm, const df_dict *d,
                            const exchange_fold *fold, uint8_t *row) {
    rest r;
    df_tensor_file *file = NULL;
    char *path = df_format("%s/" REST, x->folder);
    df_status status = list(d, &r);
    if (path == NULL) status = DF_FAILED;
    DF_GO(df_agree(comm, status));
    DF_GO(df_tensor_file_create(comm, path, r.spec, r.n, &file));
    status = put_rows(d, fold, file, row);
    if (status == DF_OK) status = put_vectors(comm, d, fold, file);
    status = df_agree(comm, status);
    if (status == DF_OK)
        status = df_tensor_file_finish(&file);
    else
        df_tensor_file_abandon(&file);
done:
    rest_free(&r);
    df_free(path);
    return status;
}

/* ---- facts - */

static json_t *exact(double value) { // as hexadecimal digits: every bit
    char text[40];
    snprintf(text, sizeof text, "%a", value);
    return json_string(text);
}

static json_t *facts_of(const df_dict *d, const df_exchange_facts *facts) {
    json_t *sites = json_array(), *groups = json_array();
    for (size_t s = 0; s < d->sites; s++)
        json_array_append_new(
            sites,
            json_pack("{s:s, s:s, s:I, s:o, s:s, s:b, s:b}", "name", d->site[s].name, "model",
                      d->site[s].model, "width", (json_int_t)d->site[s].width, "scale",
                      exact(d->site[s].scale), "token_norm", token_norm_name(d->site[s].token_norm),
                      "input", (int)d->site[s].input, "output", (int)d->site[s].output));
    for (size_t g = 0; g < d->groups; g++)
        json_array_append_new(
            groups, json_pack("[I, I, I, I, I, I]", (json_int_t)d->group[g].first,
                              (json_int_t)d->group[g].count, (json_int_t)d->group[g].in.first,
                              (json_int_t)d->group[g].in.count, (json_int_t)d->group[g].out.first,
                              (json_int_t)d->group[g].out.count));
    return json_pack("{s:s, s:i, s:s, s:s, s:s, s:I, s:o, s:b, s:I, s:I, s:o, s:o, s:s, s:I, s:I}",
                     "format", "darkfield-exchange", "version", 1, "kind",
                     df_dict_kind_name(d->kind), "activation", activation_name(d->activation),
                     "code_norm", code_norm_name(d->code_norm), "k", (json_int_t)d->k, "threshold",
                     exact((double)d->threshold), "subtract_bias", (int)d->subtract_bias, "shared",
                     (json_int_t)d->shared, "dedicated", (json_int_t)d->dedicated, "sites", sites,
                     "groups", groups, "job", d->job != NULL ? d->job : "", "seed",
                     (json_int_t)facts->seed, "rows_seen", (json_int_t)facts->rows_seen);
}

// The prefixes of a nested dictionary.
static void add_prefixes(const df_dict *d, json_t *root) {
    json_t *list = json_array();
    for (size_t i = 0; i < d->prefixes; i++)
        json_array_append_new(list, json_integer((json_int_t)d->prefix[i]));
    json_object_set_new(root, "prefixes", list);
}

// BatchTopK's thresholds where every site has its own.
static void add_thresholds(const df_dict *d, json_t *root) {
    json_t *list = json_array();
    for (size_t n = 0; n < df_dict_thresholds(d); n++)
        json_array_append_new(list, exact((double)d->site_threshold[n]));
    json_object_set_new(root, "site_thresholds", list);
}

// Hashes of every file of weights: facts hold only for them.
static df_status add_hashes(const exchange *x, json_t *root, bool with_rest) {
    json_t *files = json_object();
    json_object_set_new(root, "files", files);
    for (size_t i = 0; i <= x->tensors; i++) {
        char room[64], hash[24];
        const char *name = i < x->tensors ? x->family->file_of(x, i, room) : REST;
        uint64_t value;
        if ((i == x->tensors && !with_rest) || json_object_get(files, name) != NULL) continue;
        char *path = df_format("%s/%s", x->folder, name);
        df_status status = path != NULL ? df_hash_file(path, &value) : DF_FAILED;
        df_free(path);
        DF_TRY(status);
        snprintf(hash, sizeof hash, "%016" PRIx64, value);
        json_object_set_new(files, name, json_string(hash));
    }
    return DF_OK;
}

static df_status write_facts(const exchange *x, const df_dict *d, const df_exchange_facts *facts,
                             bool with_rest) {
    json_t *root = facts_of(d, facts);
    if (root != NULL && d->prefixes > 0) add_prefixes(d, root);
    if (root != NULL && df_dict_decoupled(d)) add_thresholds(d, root);
    df_status status = root != NULL ? add_hashes(x, root, with_rest)
                                    : df_fail(DF_FAILED, "a name is no UTF-8 text");
    char *path = df_format("%s/" FACTS, x->folder);
    if (status != DF_OK || path == NULL) {
        json_decref(root);
        df_free(path);
        return status != DF_OK ? status : DF_FAILED;
    }
    char *text = exchange_dump(root);
    status = text != NULL ? df_write_file(path, text, strlen(text)) : DF_FAILED;
    df_free(text);
    df_free(path);
    return status;
}

df_status exchange_exact_write(const exchange *x, df_comm *comm, const df_dict *d,
                               const exchange_fold *fold, const df_exchange_facts *facts) {
    uint8_t *row;
    bool flags[2];
    df_status status = df_agree(comm, DF_NEW(row, d->width));
    if (status == DF_OK) status = survey(comm, d, fold, row, flags);
    if (status == DF_OK && !flags[1]) {
        df_warn("%s: some weights are too small to be folded and unfolded again: this dictionary "
                "will not come back to the bit, and darkfield.json is left out",
                x->folder);
        df_free(row);
        return DF_OK;
    }
    if (status == DF_OK && flags[0]) status = write_rest(x, comm, d, fold, row);
    df_free(row);
    if (status != DF_OK) return status;
    return df_agree(comm, df_comm_rank(comm) == 0 ? write_facts(x, d, facts, flags[0]) : DF_OK);
}

/* ---- reading - */

static bool hashes_fit(const exchange *x, const json_t *files) {
    size_t n = 0;
    for (void *at = json_object_iter((json_t *)files); at != NULL;
         at = json_object_iter_next((json_t *)files, at), n++) {
        const char *name = json_object_iter_key(at);
        const char *want = json_string_value(json_object_iter_value(at));
        char *path = strchr(name, '/') == NULL ? df_format("%s/%s", x->folder, name) : NULL,
             hash[24];
        uint64_t value = 0;
        bool good = path != NULL && df_hash_file(path, &value) == DF_OK;
        df_free(path);
        snprintf(hash, sizeof hash, "%016" PRIx64, value);
        if (!good || want == NULL || strcmp(hash, want) != 0) return false;
    }
    return n > 0;
}

static df_status bad_facts(const exchange *x, const char *key) {
    return df_fail(DF_BAD_INPUT, "%s/" FACTS ": \"%s\" is not what darkfield writes", x->folder,
                   key);
}

static df_status exact_of(const exchange *x, const json_t *value, const char *key, double *out) {
    const char *text = json_string_value(value);
    char tail;
    if (text == NULL || sscanf(text, "%la%c", out, &tail) != 1 || !isfinite(*out))
        return bad_facts(x, key);
    return DF_OK;
}

static df_status real_of(const exchange *x, const json_t *object, const char *key, double *out) {
    return exact_of(x, json_object_get(object, key), key, out);
}

static df_status read_site(const exchange *x, const json_t *from, df_dict_site *site) {
    int64_t width;
    const char *name, *model, *norm = "none";
    DF_TRY(df_json_text(from, FACTS, "name", &name));
    DF_TRY(df_json_text(from, FACTS, "model", &model));
    DF_TRY(df_json_int(from, FACTS, "width", &width));
    *site = (df_dict_site){.name = (char *)name, .model = (char *)model, .width = (uint64_t)width};
    DF_TRY(real_of(x, from, "scale", &site->scale));
    if (json_object_get(from, "token_norm") != NULL)
        DF_TRY(df_json_text(from, FACTS, "token_norm", &norm));
    DF_TRY(token_norm_parse(norm, &site->token_norm));
    if (!(site->scale > 0.0) || width < 1 || width > UINT32_MAX) return bad_facts(x, "sites");
    DF_TRY(df_json_bool_or(from, FACTS, "input", false, &site->input));
    DF_TRY(df_json_bool_or(from, FACTS, "output", false, &site->output));
    bool both = site->input && site->output;
    return both || site->token_norm == DF_TOKEN_NONE ? DF_OK : bad_facts(x, "sites");
}

static df_status read_group(const exchange *x, const json_t *from, df_dict_group *group) {
    size_t v[6];
    for (size_t i = 0; i < 6; i++) {
        json_int_t value = json_integer_value(json_array_get(from, i));
        if (value < 0 || value > UINT32_MAX) return bad_facts(x, "groups");
        v[i] = (size_t)value;
    }
    *group = (df_dict_group){.first = v[0], .count = v[1], .in = {v[2], v[3]}, .out = {v[4], v[5]}};
    return DF_OK;
}

static df_status make(const exchange *x, df_comm *comm, const json_t *root, const df_dict *like,
                      df_dict **out) {
    const json_t *sites = json_object_get(root, "sites"), *groups = json_object_get(root, "groups");
    const char *kind;
    df_dict_site *site = NULL;
    df_dict_group *group = NULL;
    df_dict_shape shape = {.latents = like->latents,
                           .sites = json_array_size(sites),
                           .groups = json_array_size(groups)};
    df_status status;
    DF_GO(df_json_text(root, FACTS, "kind", &kind));
    DF_GO(kind_parse(kind, &shape.kind));
    if (shape.sites != like->sites && shape.kind != like->kind)
        DF_GO(df_fail(DF_BAD_INPUT,
                      "%s holds a dictionary of kind %s and was read as one of kind %s: say which "
                      "with --kind",
                      x->folder, kind, df_dict_kind_name(like->kind)));
    if (shape.sites != like->sites || shape.groups != like->groups) DF_GO(bad_facts(x, "groups"));
    DF_GO(DF_NEW(site, shape.sites));
    DF_GO(DF_NEW(group, shape.groups));
    for (size_t s = 0; s < shape.sites; s++)
        DF_GO(read_site(x, json_array_get(sites, s), &site[s]));
    for (size_t g = 0; g < shape.groups; g++)
        DF_GO(read_group(x, json_array_get(groups, g), &group[g]));
    shape.site = site;
    shape.group = group;
    DF_GO(df_dict_make(comm, &shape, out));
done:
    df_free(site);
    df_free(group);
    return status;
}

// Ascending, all latents last; none where it is not nested.
static df_status take_prefixes(const exchange *x, const json_t *root, df_dict *d) {
    const json_t *list = json_object_get(root, "prefixes");
    size_t n = json_array_size(list);
    if (list == NULL) return DF_OK;
    bool good = n >= 1 && n <= DF_MAX_PREFIXES;
    for (size_t i = 0; i < n && good; i++) {
        json_int_t prefix = json_integer_value(json_array_get(list, i));
        good =
            prefix > (i > 0 ? (json_int_t)d->prefix[i - 1] : 0) && prefix <= (json_int_t)d->latents;
        if (good) d->prefix[i] = (size_t)prefix;
    }
    if (!good || d->prefix[n - 1] != d->latents) return bad_facts(x, "prefixes");
    d->prefixes = n;
    return DF_OK;
}

static df_status take_thresholds(const exchange *x, const json_t *root, df_dict *d) {
    const char key[] = "site_thresholds";
    const json_t *list = json_object_get(root, key);
    if (!df_dict_decoupled(d)) return DF_OK;
    if (df_parts_check(d) != DF_OK) return bad_facts(x, "code_norm");
    for (size_t n = 0; n < df_dict_thresholds(d); n++) {
        double threshold;
        DF_TRY(exact_of(x, json_array_get(list, n), key, &threshold));
        d->site_threshold[n] = (float)threshold;
    }
    return DF_OK;
}

static df_status take_choices(const exchange *x, const json_t *root, df_dict *d,
                              df_exchange_facts *facts) {
    const char *activation, *norm, *job;
    int64_t k, seed, rows, shared, dedicated;
    double threshold;
    DF_TRY(df_json_text(root, FACTS, "activation", &activation));
    DF_TRY(df_json_text(root, FACTS, "code_norm", &norm));
    DF_TRY(df_json_text(root, FACTS, "job", &job));
    DF_TRY(df_json_int(root, FACTS, "k", &k));
    DF_TRY(df_json_int_or(root, FACTS, "shared", 0, &shared));
    DF_TRY(df_json_int_or(root, FACTS, "dedicated", 0, &dedicated));
    DF_TRY(df_json_int(root, FACTS, "seed", &seed));
    DF_TRY(df_json_int(root, FACTS, "rows_seen", &rows));
    DF_TRY(real_of(x, root, "threshold", &threshold));
    DF_TRY(activation_parse(activation, &d->activation));
    DF_TRY(code_norm_parse(norm, &d->code_norm));
    DF_TRY(df_json_bool_or(root, FACTS, "subtract_bias", false, &d->subtract_bias));
    if (d->subtract_bias && d->in.first != d->out.first) return bad_facts(x, "subtract_bias");
    bool selects = d->activation == DF_TOPK || d->activation == DF_BATCHTOPK;
    if (k < 0 || (selects && (k < 1 || (uint64_t)k > d->latents))) return bad_facts(x, "k");
    if (shared < 0 || dedicated < 0 || df_dict_bind(d, (size_t)shared, (size_t)dedicated) != DF_OK)
        return bad_facts(x, "shared and dedicated");
    DF_TRY(take_prefixes(x, root, d));
    DF_TRY(take_thresholds(x, root, d));
    d->k = (size_t)k;
    d->threshold = (float)threshold;
    d->job = df_strdup(job);
    facts->seed = (uint64_t)seed;
    facts->rows_seen = (uint64_t)rows;
    facts->restored = true;
    return d->job != NULL ? DF_OK : DF_FAILED;
}

// The tensor of darkfield.safetensors; its shape must be the dictionary's.
static df_status need(const exchange *x, const df_tensors *all, const df_tensor_spec *spec,
                      const char **data) {
    const df_tensor *t = df_tensors_find(all, spec->name);
    if (t == NULL || t->type != spec->type || t->dims != spec->dims ||
        t->shape[0] != spec->shape[0] || (spec->dims > 1 && t->shape[1] != spec->shape[1]))
        return df_fail(DF_BAD_INPUT, "%s/" REST ": tensor \"%s\" does not fit the dictionary",
                       x->folder, spec->name);
    *data = t->data;
    return DF_OK;
}

static void correct_row(const df_dict *d, const exchange_fold *fold, size_t j, bool output,
                        const char *by) {
    const df_dict_group *g = df_dict_group_of(d, j);
    float *row = output ? df_dict_dec(d, j) : df_dict_enc(d, j);
    df_range columns = output ? g->out : g->in;
    for (size_t c = 0; c < columns.count; c++) {
        float value = unfolded(row[c], factor_of(d, fold, j, columns.first + c, output));
        int64_t miss = (int64_t)(uint8_t)by[c] - ZERO;
        row[c] = miss == 0 ? value : at_place(place_of(value) + miss);
    }
}

static df_status finite_all(const exchange *x, const df_dict *d) {
    bool good = true;
    for (size_t j = 0; j < d->mine.count && good; j++) {
        const df_dict_group *g = df_dict_group_of(d, j);
        for (size_t c = 0; c < g->in.count; c++) good = good && isfinite(df_dict_enc(d, j)[c]);
        for (size_t c = 0; c < g->out.count; c++) good = good && isfinite(df_dict_dec(d, j)[c]);
        good = good && isfinite(d->b_enc[j]);
    }
    return good ? DF_OK
                : df_fail(DF_BAD_INPUT, "%s: what " REST " restores is not finite", x->folder);
}

static df_status correct(const exchange *x, const df_tensors *all, df_dict *d,
                         exchange_fold *fold) {
    rest r;
    const char **data = NULL;
    size_t v = 2 * d->groups;
    df_status status = list(d, &r);
    if (status == DF_OK) status = DF_NEW(data, r.n);
    for (size_t i = 0; i < r.n && status == DF_OK; i++) status = need(x, all, &r.spec[i], &data[i]);
    if (status == DF_OK) status = DF_NEW(fold->norm, d->mine.count);
    if (status != DF_OK) goto done;
    memcpy(fold->norm, data[v + 2] + 8 * d->mine.first, 8 * d->mine.count);
    memcpy(d->b_enc, data[v] + 4 * d->mine.first, 4 * d->mine.count);
    memcpy(d->b_dec, data[v + 1], 4 * d->out.count);
    if (d->w_skip != NULL)
        memcpy(d->w_skip, data[v + 3] + 4 * d->skip_rows.first * d->in.count,
               4 * d->skip_rows.count * d->in.count);
    for (size_t j = 0; j < d->mine.count; j++) {
        const df_dict_group *g = df_dict_group_of(d, j);
        size_t at = d->mine.first + j - g->first, i = 2 * (size_t)(g - d->group);
        correct_row(d, fold, j, false, data[i] + at * g->in.count);
        correct_row(d, fold, j, true, data[i + 1] + at * g->out.count);
    }
    status = finite_all(x, d);
done:
    df_free(data);
    rest_free(&r);
    return status;
}

// The weights are in `from` as the file holds them; sizes are equal, checked by make().
static void take_weights(const df_dict *from, df_dict *to) {
    memcpy(to->w_enc, from->w_enc,
           4 * (df_dict_enc_floats(to, to->mine.first + to->mine.count) -
                df_dict_enc_floats(to, to->mine.first)));
    memcpy(to->w_dec, from->w_dec,
           4 * (df_dict_dec_floats(to, to->mine.first + to->mine.count) -
                df_dict_dec_floats(to, to->mine.first)));
    const float *vectors[] = {from->b_enc, from->theta, from->r_mag, from->b_mag};
    float *targets[] = {to->b_enc, to->theta, to->r_mag, to->b_mag};
    for (size_t i = 0; i < 4; i++) memcpy(targets[i], vectors[i], 4 * to->mine.count);
    memcpy(to->b_dec, from->b_dec, 4 * to->out.count);
    if (to->w_skip != NULL)
        memcpy(to->w_skip, from->w_skip, 4 * to->skip_rows.count * to->in.count);
}

static bool same_size(const df_dict *a, const df_dict *b) {
    bool same = a->width == b->width && a->in.count == b->in.count &&
                a->out.count == b->out.count && (a->w_skip == NULL) == (b->w_skip == NULL) &&
                a->mine.first == b->mine.first && a->mine.count == b->mine.count;
    for (size_t g = 0; same && g < a->groups; g++)
        same = a->group[g].in.count == b->group[g].in.count &&
               a->group[g].first == b->group[g].first &&
               a->group[g].out.count == b->group[g].out.count;
    return same;
}

static df_status restore(const exchange *x, df_comm *comm, const json_t *root, df_dict *from,
                         df_dict **out, df_exchange_facts *facts) {
    exchange_fold fold = {0};
    df_tensors *all = NULL;
    char *path = df_format("%s/" REST, x->folder);
    df_status status = path != NULL ? make(x, comm, root, from, out) : DF_FAILED;
    if (status == DF_OK && !same_size(from, *out)) status = bad_facts(x, "sites");
    if (status == DF_OK) status = take_choices(x, root, *out, facts);
    if (status != DF_OK) goto done;
    take_weights(from, *out);
    if ((*out)->activation != DF_JUMPRELU) // they stood for one threshold, or for none
        memset((*out)->theta, 0, (*out)->mine.count * sizeof(float));
    for (size_t s = 0; s < from->sites; s++) // what the file stores is not folded
        fold.scale[s] = x->family->keeps_scale ? 1.0 : (*out)->site[s].scale;
    if (json_object_get(json_object_get(root, "files"), REST) != NULL) {
        DF_GO(df_tensors_open(path, &all));
        DF_GO(correct(x, all, *out, &fold));
    }
done:
    exchange_fold_close(&fold);
    df_tensors_close(&all);
    df_free(path);
    return status;
}

static df_status read_facts(const exchange *x, json_t **root) {
    size_t bytes;
    char *text = NULL, *path = df_format("%s/" FACTS, x->folder);
    df_status status = path != NULL ? df_read_file(path, &text, &bytes) : DF_FAILED;
    if (status == DF_OK) status = df_json_parse(text, bytes, path, root);
    df_free(text);
    df_free(path);
    return status;
}

df_status exchange_exact_read(const exchange *x, df_comm *comm, df_dict **dict,
                              df_exchange_facts *facts) {
    json_t *root = NULL;
    df_dict *whole = NULL;
    if (!exchange_has(x->folder, FACTS)) return DF_OK;
    DF_TRY(read_facts(x, &root));
    if (!hashes_fit(x, json_object_get(root, "files"))) {
        df_error_clear();
        df_warn("%s: the weights are not those that " FACTS " belongs to: it is not used",
                x->folder);
        json_decref(root);
        return DF_OK;
    }
    df_status status = restore(x, comm, root, *dict, &whole, facts);
    json_decref(root);
    if (status == DF_OK) {
        df_dict_free(dict);
        *dict = whole;
    } else
        df_dict_free(&whole);
    return status;
}
