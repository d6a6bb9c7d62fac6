/* darkfield convert: dictionaries from and to the files of other projects. */
#include "convert.h"

#include "darkfield/exchange.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_NAMES = 256 };

static const struct {
    const char *name, *what;
} flags[] = {
    {"from", "format of IN; auto (default) looks at the contents"},
    {"to", "format of OUT; a folder, or NAME.dict.h5 for darkfield, NAME.acts.h5 for acts"},
    {"site", "hook site of IN, or several separated by commas: as read, then as written"},
    {"model", "name of the model, where IN does not say it"},
    {"kind", "sae or transcoder, for gemma-scope, whose files do not tell"},
    {"layer", "circuit-tracer: which layer of the folder"},
    {"ignore", "config keys that may be unknown, separated by commas"},
    {"heldout", "acts: share of the documents that is kept out of training (0.1)"},
    {"seed", "acts: seed of that choice (1)"},
    {"bos", "acts: token id at the beginning of documents, if any"},
};
enum { FLAGS = sizeof flags / sizeof flags[0] };

bool df_convert_takes(const char *flag) {
    for (size_t i = 0; i < FLAGS; i++)
        if (strncmp(flag, "--", 2) == 0 && strcmp(flag + 2, flags[i].name) == 0) return true;
    return false;
}

void df_convert_help(void) {
    const char *help;
    printf("darkfield convert [--from FORMAT] --to FORMAT IN OUT: dictionaries from and to the "
           "files of other projects\n\nFormats:\n  %-22s our own: NAME.dict.h5\n",
           "darkfield");
    for (size_t i = 0; df_exchange_format(i, &help) != NULL; i++)
        printf("  %-22s %s\n", df_exchange_format(i, &help), help);
    printf(
        "  %-22s activations, written only: a safetensors file of tensors [rows, width] (or "
        "[documents,\n  %-22s positions, width]), one for each site, perhaps `tokens` [rows] and "
        "`documents`\n  %-22s [rows] (ascending numbers), becomes NAME.acts.h5\n",
        "acts", "", "");
    printf("\nOptions:\n");
    for (size_t i = 0; i < FLAGS; i++) printf("  --%-20s %s\n", flags[i].name, flags[i].what);
    printf("  --%-20s replace OUT\n", "force");
    printf(
        "\nThe files of other projects work on raw activations. Writing folds the scale of each "
        "site into encoder\nrows, decoder rows and b_dec; b_dec into b_enc where a format does not "
        "subtract it; decoder norms into the\nrows of TopK and BatchTopK where a format ranks by "
        "the code alone. BatchTopK becomes a threshold for each\nlatent where a format knows only "
        "JumpReLU. crosscoder_learning keeps the scales in its normaliser.\nsaelens alone "
        "can tell of rows that are normalised one by one (train.token_norm).\nWhat folding rounds "
        "away stands in darkfield.json and darkfield.safetensors beside the weights: with them\na "
        "dictionary comes back to the bit (its training history does not). Without them, or when "
        "the weights have\nchanged, a folder is read like anybody's, with scales of 1.\n"
        "A config key that is not known, or asks for something that is not done here, is an "
        "error that names it.\n");
}

static const char *setting(const df_convert *what, const char *name) {
    for (size_t i = 0; i < what->n_settings; i++)
        if (strcmp(what->settings[i].name, name) == 0) return what->settings[i].value;
    return NULL;
}

// Splits at commas, in place; returns how many.
static size_t split(char *text, const char *out[MOST_NAMES]) {
    size_t n = 0;
    for (char *at = text; at != NULL && n < MOST_NAMES;) {
        char *comma = strchr(at, ',');
        out[n++] = at;
        if (comma != NULL) *comma++ = '\0';
        at = comma;
    }
    return n;
}

static df_status number(const df_convert *what, const char *name, double fallback, double *out) {
    const char *text = setting(what, name);
    char *end = NULL;
    *out = text != NULL ? strtod(text, &end) : fallback;
    if (text == NULL || (end != text && *end == '\0')) return DF_OK;
    return df_fail(DF_USAGE, "--%s: expected a number, found %s", name, text);
}

static bool ends(const char *text, const char *with) {
    size_t n = strlen(text), m = strlen(with);
    return n >= m && strcmp(text + n - m, with) == 0;
}

/* ---- our own files - */

// Seed and rows seen are the file's, not the dictionary's.
static df_status read_facts(const char *path, df_exchange_facts *facts) {
    df_reader *file = NULL;
    int64_t seed = 0, rows = 0;
    DF_TRY(df_reader_open(path, "darkfield-dictionary", &file));
    df_status status = df_reader_int(file, "/", "seed", &seed);
    if (status == DF_OK) status = df_reader_int(file, "/", "rows_seen", &rows);
    facts->seed = (uint64_t)seed;
    facts->rows_seen = (uint64_t)rows;
    df_reader_close(&file);
    return status;
}

static df_status read_ours(df_comm *world, const char *path, df_dict **dict,
                           df_exchange_facts *facts) {
    DF_TRY(df_dict_load(world, path, dict));
    return df_agree(world, read_facts(path, facts));
}

static df_status write_ours(df_comm *world, const df_convert *what, const df_dict *dict,
                            const df_exchange_facts *facts) {
    const char *out = what->operands[1];
    df_status status = DF_OK;
    if (!ends(out, ".dict.h5"))
        status = df_fail(DF_USAGE, "%s: a dictionary of darkfield is called NAME.dict.h5", out);
    else if (df_file_exists(out) && !what->force)
        status = df_fail(DF_USAGE, "%s exists: give another name, or --force", out);
    DF_TRY(df_agree(world, status));
    return df_dict_save(world, out, dict, NULL, dict->job, facts->seed, facts->rows_seen,
                        what->facts);
}

/* ---- the command - */

static void tell(const df_convert *what, const df_dict *d, const char *from, const char *to,
                 bool restored) {
    df_info("%s (%s) -> %s (%s): %s, %zu latents, %zu columns%s", what->operands[0], from,
            what->operands[1], to, df_dict_kind_name(d->kind), d->latents, d->width,
            restored ? "; restored to the bit from darkfield.json" : "");
}

static df_status convert(df_comm *world, const df_convert *what, df_exchange_options *options,
                         const char *to) {
    const char *from = options->format, *in = what->operands[0];
    df_exchange_facts facts = {0};
    df_dict *dict = NULL;
    bool ours = ends(in, ".h5");
    df_status status = DF_OK;
    if (strcmp(from, "auto") == 0 && ours) from = "darkfield";
    if (strcmp(from, "auto") == 0) status = df_agree(world, df_exchange_recognise(in, &from));
    if (status != DF_OK) return status;
    options->format = from;
    status = strcmp(from, "darkfield") == 0 ? read_ours(world, in, &dict, &facts)
                                            : df_exchange_read(world, in, options, &dict, &facts);
    if (status == DF_OK) {
        bool restored = facts.restored;
        options->format = to;
        status = strcmp(to, "darkfield") == 0
                     ? write_ours(world, what, dict, &facts)
                     : df_exchange_write(world, what->operands[1], dict, options, &facts);
        if (status == DF_OK) tell(what, dict, from, to, restored);
    }
    df_dict_free(&dict);
    return status;
}

static df_status import(df_comm *world, const df_convert *what) {
    double heldout, seed;
    df_status status = number(what, "heldout", 0.1, &heldout);
    if (status == DF_OK) status = number(what, "seed", 1, &seed);
    if (status == DF_OK && !(heldout >= 0.0 && heldout < 1.0))
        status = df_fail(DF_USAGE, "--heldout: expected a share from 0 to 1, found %g", heldout);
    if (status == DF_OK && !(seed >= 0.0 && seed < 9e15))
        status = df_fail(DF_USAGE, "--seed: expected a whole number, found %g", seed);
    if (status == DF_OK && !ends(what->operands[1], ".acts.h5"))
        status = df_fail(DF_USAGE, "%s: activations of darkfield are called NAME.acts.h5",
                         what->operands[1]);
    if (status == DF_OK && df_file_exists(what->operands[1]) && !what->force)
        status = df_fail(DF_USAGE, "%s exists: give another name, or --force", what->operands[1]);
    DF_TRY(df_agree(world, status));
    const df_import all = {.in = what->operands[0],
                           .out = what->operands[1],
                           .model = setting(what, "model"),
                           .sites = setting(what, "site"),
                           .bos = setting(what, "bos"),
                           .heldout = heldout,
                           .seed = (uint64_t)seed,
                           .facts = what->facts};
    return df_import_acts(world, &all);
}

static df_status check_usage(const df_convert *what) {
    const char *kind = setting(what, "kind");
    if (what->n_operands != 2 || setting(what, "to") == NULL)
        return df_fail(DF_USAGE, "darkfield convert needs --to FORMAT and two names, IN and OUT "
                                 "(see darkfield help convert)");
    if (kind != NULL && strcmp(kind, "sae") != 0 && strcmp(kind, "transcoder") != 0)
        return df_fail(DF_USAGE, "--kind: expected sae or transcoder, found %s", kind);
    return DF_OK;
}

df_status df_convert_run(df_comm *world, const df_convert *what) {
    double layer = -1;
    DF_TRY(check_usage(what));
    DF_TRY(number(what, "layer", -1, &layer));
    const char *to = setting(what, "to"), *from = setting(what, "from"), *kind;
    if (strcmp(to, "acts") == 0) return import(world, what);
    const char *site[MOST_NAMES], *ignore[MOST_NAMES];
    kind = setting(what, "kind");
    char *sites = df_strdup(setting(what, "site") != NULL ? setting(what, "site") : "");
    char *ignored = df_strdup(setting(what, "ignore") != NULL ? setting(what, "ignore") : "");
    df_status status = df_agree(world, sites != NULL && ignored != NULL ? DF_OK : DF_FAILED);
    if (status == DF_OK) {
        df_exchange_options options = {.format = from != NULL ? from : "auto",
                                       .model = setting(what, "model"),
                                       .site = site,
                                       .n_sites = sites[0] != '\0' ? split(sites, site) : 0,
                                       .transcoder = kind != NULL && strcmp(kind, "sae") != 0,
                                       .layer = (int64_t)layer,
                                       .ignore = ignore,
                                       .n_ignore = ignored[0] != '\0' ? split(ignored, ignore) : 0,
                                       .overwrite = what->force};
        status = convert(world, what, &options, to);
    }
    df_free(sites);
    df_free(ignored);
    return status;
}
