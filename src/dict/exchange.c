/* Dictionaries in the files of other projects: the table of families, and what is common to reading
 * and writing all of them. */
#include "exchange.h"
#include "train_internal.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const exchange_family *const families[] = {&exchange_saelens,
                                                  &exchange_dictionary_learning,
                                                  &exchange_sparsify,
                                                  &exchange_gemma_scope,
                                                  &exchange_circuit_tracer,
                                                  &exchange_circuit_tracer_clt,
                                                  &exchange_crosscoder_learning,
                                                  &exchange_crosslayer};
enum { FAMILIES = sizeof families / sizeof families[0] };

const char *df_exchange_format(size_t i, const char **help) {
    if (i >= FAMILIES) return NULL;
    *help = families[i]->help;
    return families[i]->name;
}

static df_status find_family(const char *name, const exchange_family **out) {
    const char *known[FAMILIES];
    for (size_t i = 0; i < FAMILIES; i++) {
        known[i] = families[i]->name;
        *out = families[i];
        if (strcmp(known[i], name) == 0) return DF_OK;
    }
    const char *near = df_nearest(name, known, FAMILIES);
    return df_fail(DF_USAGE, "no format is called %s%s%s%s (see darkfield help convert)", name,
                   near != NULL ? " (did you mean " : "", near != NULL ? near : "",
                   near != NULL ? "?)" : "");
}

df_status df_exchange_recognise(const char *path, const char **format) {
    *format = NULL;
    if (access(path, R_OK) != 0)
        return df_fail(DF_BAD_INPUT, "cannot read %s: no such file or folder, or no right to",
                       path);
    for (size_t i = 0; i < FAMILIES; i++) {
        if (!families[i]->recognise(path)) continue;
        if (*format != NULL)
            return df_fail(DF_BAD_INPUT, "%s looks like %s and like %s: say which with --from",
                           path, *format, families[i]->name);
        *format = families[i]->name;
    }
    if (*format != NULL) return DF_OK;
    return df_fail(DF_BAD_INPUT,
                   "%s is in no format that darkfield knows (see darkfield help convert)", path);
}

void exchange_close(exchange *x) {
    for (size_t i = 0; i < x->files; i++) {
        df_tensors_close(&x->file[i]);
        df_free(x->file_name[i]);
    }
    for (size_t s = 0; s < DF_MAX_SITES; s++) df_free(x->site[s]);
    df_free(x->tensor);
    df_free(x->model);
    df_free(x->config);
    df_free(x->variant);
    json_decref(x->origin);
    df_free(x);
}

/* ---- reading - */

// Names given on the command line come before those of the config.
static df_status take_names(exchange *x) {
    const df_exchange_options *o = x->options;
    if (o->model != NULL) DF_TRY(exchange_name(&x->model, o->model));
    for (size_t s = 0; s < o->n_sites && s < DF_MAX_SITES; s++)
        DF_TRY(exchange_name(&x->site[s], o->site[s]));
    if (x->sites < o->n_sites) x->sites = o->n_sites;
    return DF_OK;
}

df_status exchange_look(exchange *x) {
    const char *format = x->options->format;
    if (format == NULL || strcmp(format, "auto") == 0)
        DF_TRY(df_exchange_recognise(x->folder, &format));
    DF_TRY(find_family(format, &x->family));
    DF_TRY(x->family->open(x));
    DF_TRY(take_names(x));
    DF_TRY(x->family->list(x));
    return exchange_match(x);
}

static df_status read_mine(exchange *x, df_comm *comm, df_dict **out) {
    DF_TRY(exchange_look(x));
    DF_TRY(exchange_fill(x, comm, out));
    return exchange_origin_write(x, &(*out)->job);
}

df_status df_exchange_read(df_comm *comm, const char *path, const df_exchange_options *options,
                           df_dict **out, df_exchange_facts *facts) {
    exchange *x;
    *out = NULL;
    *facts = (df_exchange_facts){0};
    df_status status = DF_NEW(x, 1);
    if (status == DF_OK) {
        *x = (exchange){.folder = path, .options = options, .cut = -1.0};
        status = read_mine(x, comm, out);
        if (status == DF_OK) status = exchange_exact_read(x, comm, out, facts);
        exchange_close(x);
    }
    if (status != DF_OK) df_context("reading the dictionary %s", path);
    status = df_agree(comm, status);
    if (status != DF_OK) df_dict_free(out);
    return status;
}

/* ---- writing - */

static df_status check_token_norms(const exchange *x) {
    for (size_t s = 0; s < x->dict->sites; s++) {
        df_token_norm norm = x->dict->site[s].token_norm;
        if (norm != DF_TOKEN_NONE && (x->family->token_norms >> norm & 1) == 0)
            return df_fail(DF_USAGE,
                           "%s cannot say that each row is normalised by its own numbers, as this "
                           "dictionary's are (train.token_norm: %s)",
                           x->family->name, token_norm_name(norm));
    }
    return DF_OK;
}

static df_status check_family(const exchange *x) {
    const exchange_family *f = x->family;
    const df_dict *d = x->dict;
    if ((f->kinds >> d->kind & 1) == 0)
        return df_fail(DF_USAGE, "%s %s, this is a %s", f->name,
                       f->kinds == 0 ? "is only read" : "has no such kind of dictionary",
                       df_dict_kind_name(d->kind));
    if ((f->activations >> d->activation & 1) == 0)
        return df_fail(DF_USAGE, "%s has no activation %s", f->name,
                       activation_name(d->activation));
    DF_TRY(check_token_norms(x));
    if (d->activation == DF_BATCHTOPK && f->latent_thresholds && d->threshold < 0.0f)
        return df_fail(DF_USAGE,
                       "%s needs the threshold of BatchTopK, which this dictionary has "
                       "not learnt yet",
                       f->name);
    if (d->activation == DF_GATED && d->subtract_bias != x->subtract_bias)
        return df_fail(DF_USAGE, "%s subtracts b_dec in Gated dictionaries, this one does not",
                       f->name);
    return DF_OK;
}

// One letter of the axes stands for one size.
static df_status check_groups(const exchange *x) {
    const df_dict *d = x->dict;
    for (size_t g = 0; d->kind == DF_CLT && g < d->groups; g++) {
        const df_dict_group *group = &d->group[g];
        bool usual = group->count == x->latents && group->in.first == g * x->in &&
                     group->in.count == x->in && group->out.count == (d->groups - g) * x->out;
        if (!usual)
            return df_fail(DF_USAGE,
                           "%s has as many latents in every layer, of sites of one width, that "
                           "write all later layers; group %zu of this dictionary is another",
                           x->family->name, g);
    }
    return DF_OK;
}

static size_t layer_of(const char *site) {
    return strncmp(site, "blocks.", 7) == 0 ? strtoul(site + 7, NULL, 10) : 0;
}

static df_status prepare(exchange *x) {
    const df_dict *d = x->dict;
    x->kind = d->kind;
    x->activation = d->activation;
    x->latents = d->group[0].count;
    x->layers = d->kind == DF_CROSSCODER ? d->sites : d->groups;
    x->in = d->site[0].width;
    x->out = df_dict_output(d, 0)->width;
    x->layer = x->options->layer >= 0 ? (size_t)x->options->layer : layer_of(d->site[0].name);
    DF_TRY(find_family(x->options->format, &x->family));
    DF_TRY(exchange_origin_use(x));
    if (x->variant == NULL && x->family->variant != NULL)
        DF_TRY(exchange_name(&x->variant, x->family->variant(d)));
    x->subtract_bias = x->family->subtracts != NULL ? x->family->subtracts(x, d) : d->subtract_bias;
    DF_TRY(check_family(x));
    DF_TRY(check_groups(x));
    char *text = NULL;
    if (x->family->describe != NULL) DF_TRY(x->family->describe(x, d, &text));
    x->config = text;
    DF_TRY(x->family->list(x));
    return exchange_origin_use(x);
}

static df_status write_config(const exchange *x) {
    if (x->config == NULL || x->family->config == NULL) return DF_OK;
    char *path = df_format("%s/%s", x->folder, x->family->config);
    df_status status = path != NULL ? df_write_file(path, x->config, strlen(x->config)) : DF_FAILED;
    df_free(path);
    return status;
}

static df_status write_all(exchange *x, df_comm *comm, const df_exchange_facts *facts) {
    exchange_fold fold = {0};
    df_status status = df_agree(comm, exchange_fold_open(x, x->dict, &fold));
    if (status == DF_OK) status = exchange_put(x, comm, x->dict, &fold);
    if (status == DF_OK) status = df_agree(comm, df_comm_rank(comm) == 0 ? write_config(x) : DF_OK);
    if (status == DF_OK) status = exchange_exact_write(x, comm, x->dict, &fold, facts);
    exchange_fold_close(&fold);
    return status;
}

static df_status write_folder(exchange *x, df_comm *comm, const char *path,
                              const df_exchange_facts *facts) {
    bool first = df_comm_rank(comm) == 0;
    char *part = NULL;
    df_status status = first ? exchange_folder_begin(path, x->options->overwrite, &part)
                             : ((part = df_format("%s.part", path)) != NULL ? DF_OK : DF_FAILED);
    status = df_agree(comm, status);
    if (status == DF_OK) {
        x->folder = part;
        status = write_all(x, comm, facts);
        if (status == DF_OK)
            status = df_agree(comm, first ? exchange_folder_place(part, path) : DF_OK);
        if (status != DF_OK && first) exchange_folder_clear(part);
    }
    df_free(part);
    return status;
}

df_status df_exchange_write(df_comm *comm, const char *path, const df_dict *dict,
                            const df_exchange_options *options, const df_exchange_facts *facts) {
    exchange *x;
    df_status status = DF_NEW(x, 1);
    if (status == DF_OK) {
        *x = (exchange){.folder = path, .options = options, .dict = dict, .cut = -1.0};
        status = prepare(x);
    }
    status = df_agree(comm, status);
    if (status == DF_OK) status = write_folder(x, comm, path, facts);
    if (x != NULL) exchange_close(x);
    if (status != DF_OK) df_context("writing the dictionary %s", path);
    return status;
}
