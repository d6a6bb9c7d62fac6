/* darkfield harvest: runs each model over the text and writes its activations at the chosen sites.
 */
#include "harvest.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

#define FORMAT "darkfield-activations"

static const df_option options[] = {
    {.key = "harvest.context",
     .type = DF_OPT_INT,
     .fallback = "256",
     .unit = "tokens",
     .min = 2,
     .max = 1048576,
     .help = "length of a window"},
    {.key = "harvest.packing",
     .type = DF_OPT_CHOICE,
     .fallback = "stream",
     .choices = "stream document",
     .help = "stream: documents end to end, cut every `context` tokens; document: a window holds "
             "one document only"},
    {.key = "harvest.bos",
     .type = DF_OPT_TEXT,
     .fallback = "auto",
     .help = "token before each document: auto (what the tokenizer's template puts first), none, "
             "or its text"},
    {.key = "harvest.sites",
     .type = DF_OPT_LIST,
     .optional = true,
     .help = "hook sites to store; those under study and of the dictionary when not given"},
    {.key = "harvest.dtype",
     .type = DF_OPT_CHOICE,
     .fallback = "f32",
     .choices = "f32 bf16 f16",
     .help = "element type of the stored activations"},
    {.key = "harvest.compute",
     .type = DF_OPT_CHOICE,
     .fallback = "f32",
     .choices = "f32 bf16",
     .help = "operands of the products with weights; bf16 (sums in f32) is quicker where the CPU "
             "has it, and what it changes is measured on the first window, printed and stored"},
    {.key = "harvest.pipeline",
     .type = DF_OPT_INT,
     .fallback = "1",
     .unit = "ranks",
     .min = 0,
     .max = 4096,
     .is_volatile = true,
     .help =
         "ranks that hold a model together, each some of its blocks (a divisor of their number; "
         "the others are further such groups); 0: the fewest that harvest.memory allows"},
    {.key = "harvest.memory",
     .type = DF_OPT_INT,
     .fallback = "0",
     .unit = "MiB",
     .min = 0,
     .max = 1 << 30,
     .is_volatile = true,
     .help = "most memory of a rank for text, its blocks and its work; 0: no limit"},
    {.key = "harvest.file_size",
     .type = DF_OPT_TEXT,
     .optional = true,
     .is_volatile = true,
     .help =
         "largest size of a file's rows, e.g. 64GB (at least 16 windows, at most 256 files): they "
         "lie in NAME.000.acts.h5, ..., and NAME.acts.h5 is a small index that is read as if "
         "it held them all; one file when not given"},
    {.key = "harvest.interval",
     .type = DF_OPT_REAL,
     .fallback = "30",
     .unit = "seconds",
     .min = 0,
     .max = 86400,
     .is_volatile = true,
     .help = "how often finished work is secured against a kill"},
};

/* ---- what a model's harvest needs ----------------------------------------------------------- */

static df_status read_sites(harvest *h) {
    const df_job *job = h->run->job;
    DF_TRY(df_job_harvest_sites(h->run, &h->columns));
    h->site = (const char *const *)h->columns.site;
    h->sites = h->columns.n;
    if (h->sites < 1 || h->sites > HARVEST_MOST_SITES)
        return df_fail(DF_USAGE, "%s: %zu sites to harvest, 1 to %d are possible",
                       df_job_where(job, "harvest.sites"), h->sites, HARVEST_MOST_SITES);
    for (size_t i = 0; i < h->sites; i++) {
        DF_TRY_AS(df_model_site_width(&h->shape, h->site[i], h->how.context, &h->width[i]),
                  "choosing sites of model %s", h->name);
        h->home[i] = df_site_home(&h->shape, h->site[i]);
    }
    return DF_OK;
}

// A line for every site that options of other stages ask for. New memory.
static char *list_more_sites(const harvest *h) {
    char *text = df_strdup("");
    for (size_t i = h->columns.inputs; i < h->sites && text != NULL; i++) {
        char *longer = df_format("%s# site %s\n", text, h->site[i]);
        df_free(text);
        text = longer;
    }
    return text;
}

// Content hashes by rank 0 for all: reading a large model once is enough.
static df_status hash_inputs(harvest *h, const df_corpus *corpus, const df_tokenizer *tokenizer) {
    df_comm *world = h->run->world;
    df_status status =
        df_comm_rank(world) == 0 ? df_model_hash(h->model_path, &h->model_hash) : DF_OK;
    DF_TRY(df_agree(world, status));
    df_broadcast(world, 0, &h->model_hash, sizeof h->model_hash);
    h->corpus_hash = df_corpus_hash(corpus);
    h->tokenizer_hash = df_tokenizer_hash(tokenizer);
    char *resolved = df_resolved(h->run, "harvest");
    if (resolved == NULL) return df_agree(world, DF_FAILED);
    char *more = list_more_sites(h);
    if (more == NULL) df_free(resolved);
    if (more == NULL) return df_agree(world, DF_FAILED);
    h->job = df_format("%s%s# inputs: model %s %016llx, text %016llx, tokenizer %016llx\n",
                       resolved, more, h->name, (unsigned long long)h->model_hash,
                       (unsigned long long)h->corpus_hash, (unsigned long long)h->tokenizer_hash);
    df_free(resolved);
    df_free(more);
    return df_agree(world, h->job != NULL ? DF_OK : DF_FAILED);
}

df_status df_model_tokenizer(const char *folder, const df_model_shape *shape, df_tokenizer **out) {
    DF_TRY(df_tokenizer_open_folder(folder, out));
    if (df_tokenizer_size(*out) <= shape->vocabulary) return DF_OK;
    char *path = df_format("%s/tokenizer.json", folder);
    bool one_file = path != NULL && df_file_exists(path);
    df_free(path);
    return df_fail(DF_BAD_INPUT,
                   "%s/%s: its largest token id is %zu, but the model's vocabulary has %zu tokens",
                   folder, one_file ? "tokenizer.json" : "vocab.json", df_tokenizer_size(*out) - 1,
                   shape->vocabulary);
}

// The file's name without its folder: where a text lies is no content.
static const char *corpus_name(const df_run *run) {
    const char *path = df_job_text(run->job, "text.file"), *slash = strrchr(path, '/');
    return slash != NULL && slash[1] != '\0' ? slash + 1 : path;
}

/* ---- the output file ------------------------------------------------------------------------ */

// sites/NAME, attribute bf16_deviation.
static df_status declare_deviations(harvest *h) {
    df_status status = DF_OK;
    for (size_t i = 0; i < h->sites && status == DF_OK; i++) {
        char *path = df_format("/sites/%s", h->site[i]);
        status =
            path == NULL ? DF_FAILED : df_file_real(h->file, path, "bf16_deviation", (double)NAN);
        df_free(path);
    }
    return status;
}

static df_status declare(harvest *h, const uint64_t *width, const int64_t *layer) {
    const df_job *job = h->run->job;
    const df_acts_spec spec = {.rows = h->text.rows,
                               .windows = h->text.windows,
                               .documents = h->text.documents,
                               .type = h->type,
                               .sites = h->sites,
                               .site = h->site,
                               .width = width,
                               .layer = layer,
                               .model = h->name,
                               .model_path = h->model_path,
                               .dtype = df_job_text(job, "harvest.compute"),
                               .architecture = h->shape.family,
                               .hidden = (int64_t)h->shape.width,
                               .layers = (int64_t)h->shape.layers,
                               .corpus = corpus_name(h->run),
                               .field = df_job_text(job, "text.field"),
                               .packing = df_job_text(job, "harvest.packing"),
                               .context = (int64_t)h->how.context,
                               .bos = h->text.bos,
                               .model_hash = h->model_hash,
                               .corpus_hash = h->corpus_hash,
                               .tokenizer_hash = h->tokenizer_hash};
    const df_dataset nll = {.path = "/windows/nll",
                            .type = DF_F64,
                            .dims = 1,
                            .shape = {h->text.windows},
                            .units = "nats",
                            .long_name = "summed loss of the window's scored tokens",
                            .labels = "window"};
    const df_dataset scored = {.path = "/windows/scored",
                               .type = DF_U32,
                               .dims = 1,
                               .shape = {h->text.windows},
                               .units = "tokens",
                               .long_name =
                                   "tokens predicted within the window, added ones left out",
                               .labels = "window"};
    DF_TRY(df_acts_declare(h->file, &spec));
    DF_TRY(df_file_dataset(h->file, &nll, NULL));
    DF_TRY(df_file_dataset(h->file, &scored, NULL));
    DF_TRY(df_file_text(h->file, "/", "job", h->job));
    if (h->bf16) DF_TRY(declare_deviations(h));
    return df_file_provenance(h->file, &h->run->provenance);
}

static df_status create_output(harvest *h) {
    uint64_t width[HARVEST_MOST_SITES];
    int64_t layer[HARVEST_MOST_SITES];
    for (size_t i = 0; i < h->sites; i++) {
        width[i] = h->width[i];
        layer[i] = df_site_layer(h->site[i]);
    }
    DF_TRY(df_file_create(h->run->world, h->path, FORMAT, &h->file));
    DF_TRY(df_file_agree(h->file, declare(h, width, layer)));
    DF_TRY(df_harvest_split(h));
    return df_file_ready(h->file);
}

// True when the .part of a killed run was reopened: same job, same units.
static bool resume_output(harvest *h) {
    if (h->run->force || !df_units_load(h)) return false;
    df_status status = df_file_resume(h->run->world, h->path, FORMAT, &h->file);
    if (status == DF_OK && h->file != NULL) {
        char *job = NULL;
        status = df_file_get_text(h->file, "/", "job", &job);
        if (status == DF_OK && strcmp(job, h->job) != 0)
            status = df_fail(DF_BAD_INPUT, "made by another job");
        df_free(job);
        status = df_agree(h->run->world, status);
        if (status != DF_OK) df_file_abandon(&h->file, false);
    }
    df_error_clear();
    if (h->file != NULL) return true;
    memset(h->table.done, 0, h->table.units);
    return false;
}

static df_status write_index(harvest *h) {
    const packed_text *t = &h->text;
    if (df_comm_rank(h->run->world) != 0) return DF_OK;
    DF_TRY(df_file_write(h->file, DF_ACTS_TOKENS, 0, t->rows, t->tokens));
    DF_TRY(df_file_write(h->file, DF_ACTS_TOKEN_END, 0, t->rows, t->token_end));
    DF_TRY(df_file_write(h->file, DF_ACTS_WINDOWS, 0, t->windows + 1, t->window));
    DF_TRY(df_file_write(h->file, DF_ACTS_DOCUMENT_ROW, 0, t->documents + 1, t->document));
    DF_TRY(df_file_write(h->file, DF_ACTS_DOCUMENT_SOURCE, 0, t->documents, t->source));
    return df_file_write(h->file, DF_ACTS_DOCUMENT_HELDOUT, 0, t->documents, t->heldout);
}

// Means from the units' sums, added in the order of the units.
static df_status set_means(harvest *h) {
    const unit_table *t = &h->table;
    double total[2 + HARVEST_MOST_SITES] = {0};
    for (size_t u = 0; u < t->units; u++)
        for (size_t i = 0; i < t->columns; i++) total[i] += t->sums[u * t->columns + i];
    double loss = total[1] > 0 ? total[0] / total[1] : 0.0;
    DF_TRY(df_file_set_real(h->file, "/model", "loss", loss));
    df_info("model %s: mean loss %.4f nats per token on %.0f predicted tokens", h->name, loss,
            total[1]);
    for (size_t i = 0; i < h->sites; i++) {
        double square = total[2 + i] / (double)h->text.rows;
        char *path = df_format("/sites/%s", h->site[i]);
        df_status status =
            path == NULL ? DF_FAILED : df_file_set_real(h->file, path, "mean_square", square);
        if (status == DF_OK && h->bf16)
            status = df_file_set_real(h->file, path, "bf16_deviation", h->deviation[i]);
        df_free(path);
        DF_TRY(status);
        df_info("  %s: mean |x|^2 %.6g over %llu rows", h->site[i], square,
                (unsigned long long)h->text.rows);
    }
    return DF_OK;
}

static df_status finish_output(harvest *h) {
    df_timer_start("finish");
    df_status status = write_index(h);
    if (status == DF_OK) status = set_means(h);
    status = df_file_agree(h->file, status);
    if (status == DF_OK) status = df_file_finish(&h->file);
    df_timer_stop("finish");
    if (status == DF_OK && df_comm_rank(h->run->world) == 0) unlink(h->progress_path);
    return status;
}

/* ---- a model -------------------------------------------------------------------------------- */

df_status df_harvest_read_model(harvest *h) {
    df_model_part part = h->pipe.part[h->pipe.stage];
    DF_TRY(df_pipeline_open(h));
    df_timer_start("read model");
    df_status status = df_agree(h->run->world, df_model_open_part(h->model_path, part, &h->model));
    if (status == DF_OK) status = df_harvest_precision(h);
    df_timer_stop("read model");
    return status;
}

static df_status fill(harvest *h) {
    df_comm *world = h->run->world;
    DF_TRY(df_agree(world, df_units_new(h)));
    if (resume_output(h)) {
        size_t done = 0;
        for (size_t u = 0; u < h->table.units; u++) done += h->table.done[u];
        df_info("going on where a stopped run was: %zu of %zu units of %d windows are done", done,
                h->table.units, HARVEST_UNIT);
    } else {
        DF_TRY(create_output(h));
    }
    DF_TRY(df_harvest_read_model(h));
    DF_TRY(df_harvest_units(h));
    return finish_output(h);
}

static df_status print_plan(const harvest *h) {
    const df_model_shape *s = &h->shape;
    uint64_t disk = h->text.rows * df_harvest_row_bytes(h), memory = 0, *cut = NULL;
    size_t parts;
    DF_TRY(df_harvest_cuts(h, &cut, &parts));
    df_free(cut);
    for (size_t i = 0; i < h->pipe.stages; i++) {
        uint64_t bytes = df_pipeline_bytes(h, h->pipe.part[i]);
        if (bytes > memory) memory = bytes;
    }
    df_info("model %s (%s): %zu layers, width %zu, %zu heads, vocabulary %zu, %.4g parameters",
            h->name, s->family, s->layers, s->width, s->heads, s->vocabulary,
            (double)s->parameters);
    df_info("  text: %llu documents, %llu tokens in %llu windows of %zu",
            (unsigned long long)h->text.documents, (unsigned long long)h->text.rows,
            (unsigned long long)h->text.windows, h->how.context);
    if (parts > 1) df_info("  rows in %zu files beside %s, their index", parts, h->path);
    df_pipeline_print(h);
    df_print_plan(h->path, (df_need){memory, disk});
    return DF_OK;
}

// Text and hashes, the text only when the output is not current (current NULL: there is none); the
// corpus and the tokenizer are closed again before the model is opened.
static df_status prepare(harvest *h, bool *current) {
    df_comm *world = h->run->world;
    df_corpus *corpus = NULL;
    df_tokenizer *tokenizer = NULL;
    df_timer_start("tokenise");
    df_status status = df_agree(world, df_model_tokenizer(h->model_path, &h->shape, &tokenizer));
    if (status == DF_OK) status = df_agree(world, df_job_corpus(h->run, &corpus));
    if (status == DF_OK) status = hash_inputs(h, corpus, tokenizer);
    if (status == DF_OK && current != NULL)
        *current = df_stage_is_current(h->run, h->path, FORMAT, h->job);
    bool done = current != NULL && *current;
    if (status == DF_OK && !done) status = df_agree(world, df_pipeline_check(h));
    if (status == DF_OK && !done) {
        status = df_pack_text(h->run, corpus, tokenizer, &h->how, &h->text);
        if (status != DF_OK) df_context("tokenising %s", df_job_text(h->run->job, "text.file"));
    }
    df_corpus_close(&corpus);
    df_tokenizer_close(tokenizer);
    df_timer_stop("tokenise");
    return status;
}

// What is harvested of which model.
static df_status look(harvest *h) {
    df_status status = df_model_plan(h->model_path, &h->shape);
    if (status == DF_OK) status = df_packing_check(h->run, "harvest.context", h->name, &h->shape);
    if (status == DF_OK) status = read_sites(h);
    if (status == DF_OK)
        status = df_type_parse(df_job_text(h->run->job, "harvest.dtype"), &h->type);
    return df_agree(h->run->world, status);
}

static df_status harvest_model(harvest *h) {
    bool current = false;
    DF_TRY(look(h));
    DF_TRY(prepare(h, &current));
    if (current) return DF_OK;
    DF_TRY(df_pipeline_place(h));
    DF_TRY(df_agree(h->run->world, print_plan(h)));
    return h->run->dry_run ? DF_OK : fill(h);
}

static df_status begin(const df_run *run, size_t i, harvest *h) {
    *h = (harvest){.run = run,
                   .name = df_model_name(run, i),
                   .model_path = df_model_path(run, i),
                   .how = df_packing_read(run, "harvest.context"),
                   .bf16 = strcmp(df_job_text(run->job, "harvest.compute"), "bf16") == 0,
                   .interval = df_job_real(run->job, "harvest.interval")};
    h->path = df_path_acts(run, h->name);
    if (h->path != NULL) h->progress_path = df_format("%s.progress", h->path);
    return df_agree(run->world, h->progress_path != NULL ? DF_OK : DF_FAILED);
}

df_status df_harvest_open(const df_run *run, size_t model, harvest *out) {
    df_status status = begin(run, model, out);
    if (status == DF_OK) status = look(out);
    if (status == DF_OK) status = prepare(out, NULL);
    if (status != DF_OK) df_context("reading the text for model %s", df_model_name(run, model));
    return status;
}

void df_harvest_close(harvest *h) {
    df_model_close(&h->model);
    df_pipeline_close(h);
    df_columns_free(&h->columns);
    df_packed_free(&h->text);
    df_units_free(&h->table);
    df_free(h->path);
    df_free(h->progress_path);
    df_free(h->job);
    *h = (harvest){0};
}

static df_status harvest_one(df_run *run, size_t i) {
    harvest h;
    df_status status = begin(run, i, &h);
    if (status == DF_OK) status = harvest_model(&h);
    if (h.file != NULL) { // a stopped run can go on; the beginning of a failed one is removed
        df_file_abandon(&h.file, status == DF_STOPPED);
        if (status != DF_STOPPED && df_comm_rank(run->world) == 0) unlink(h.progress_path);
    }
    df_harvest_close(&h);
    if (status != DF_OK) df_context("harvesting model %s", df_model_name(run, i));
    return status;
}

static df_status run_harvest(df_run *run) {
    size_t models;
    DF_TRY(df_different_models(run, &models));
    for (size_t i = 0; i < models; i++) DF_TRY(harvest_one(run, i));
    return DF_OK;
}

const df_stage df_stage_harvest = {
    .name = "harvest",
    .help = "run each model over the text and store its activations",
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .run = run_harvest,
};
