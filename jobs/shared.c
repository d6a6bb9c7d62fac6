/* What the stages share: the common options, the paths of a run's files, its inputs. */
#include "jobs.h"

#include <string.h>

const df_option df_shared_options[] = {
    {.key = "seed",
     .type = DF_OPT_INT,
     .fallback = "1",
     .min = 0,
     .max = 4294967295.0,
     .help = "seed of everything drawn: held-out documents, initialisation, row order"},
    {.key = "stages",
     .type = DF_OPT_LIST,
     .fallback = "harvest, shuffle, train, evaluate, stats, diff, spectrum, report",
     .is_volatile = true,
     .help = "what darkfield run runs, in this order whatever the order here; lens too when its "
             "section has a key"},
    {.key = "out", .type = DF_OPT_TEXT, .is_volatile = true, .help = "folder of all outputs"},
    {.key = "threads",
     .type = DF_OPT_INT,
     .fallback = "0",
     .min = 0,
     .max = 1024,
     .is_volatile = true,
     .help = "threads per rank; 0: OMP_NUM_THREADS, else the cores of the rank"},
    {.key = "kernel_path",
     .type = DF_OPT_TEXT,
     .fallback = "auto",
     .is_volatile = true,
     .help = "compute kernels to use; auto picks the best of this CPU"},
    {.key = "screen",
     .type = DF_OPT_TEXT,
     .fallback = "auto",
     .is_volatile = true,
     .help = "what dictionaries screen their pre-activations with before they compute candidates "
             "in fp32: auto, bf16, int8, fp32 or plain; changes the speed, never the result"},
    {.key = "time_limit",
     .type = DF_OPT_REAL,
     .fallback = "0",
     .unit = "minutes",
     .min = 0,
     .max = 1e6,
     .is_volatile = true,
     .help = "stop with a checkpoint and exit code 75 after this long; 0: never"},
    {.key = "halt_file",
     .type = DF_OPT_TEXT,
     .optional = true,
     .is_volatile = true,
     .help = "stop with a checkpoint and exit code 75 when this file exists"},
    {.key = "models.a.name",
     .type = DF_OPT_TEXT,
     .fallback = "base",
     .help = "name of the first model"},
    {.key = "models.a.path",
     .type = DF_OPT_TEXT,
     .is_volatile = true,
     .help = "its Hugging Face folder: config.json, *.safetensors, tokenizer.json "
             "(or vocab.json and merges.txt)"},
    {.key = "models.b.name",
     .type = DF_OPT_TEXT,
     .fallback = "tuned",
     .help = "name of the second model"},
    {.key = "models.b.path",
     .type = DF_OPT_TEXT,
     .optional = true,
     .is_volatile = true,
     .help = "its folder; leave it out to study one model"},
    {.key = "text.file",
     .type = DF_OPT_TEXT,
     .is_volatile = true,
     .help = "the corpus: JSON Lines (*.jsonl), plain text (also .gz, .zst), or token ids (*.npy, "
             "*.npz, *.safetensors); a file, a folder or a pattern"},
    {.key = "text.field",
     .type = DF_OPT_TEXT,
     .fallback = "text",
     .help = "member that holds a document's text, or the array of token ids"},
    {.key = "text.chat",
     .type = DF_OPT_CHOICE,
     .fallback = "none",
     .choices = "none chatml llama2 llama3 mistral mistral-tekken gemma",
     .help = "the field holds a list of {\"role\", \"content\"}, written as text in this format"},
    {.key = "text.labels",
     .type = DF_OPT_TEXT,
     .optional = true,
     .help = "member that holds labelled stretches, [[name, first byte, end byte], ...]"},
    {.key = "text.max_documents",
     .type = DF_OPT_INT,
     .fallback = "0",
     .unit = "documents",
     .min = 0,
     .max = 1e15,
     .help = "read only the first of them; 0: all"},
    {.key = "text.heldout",
     .type = DF_OPT_REAL,
     .fallback = "0.1",
     .unit = "share of documents",
     .min = 0,
     .max = 1,
     .help = "documents kept from training, drawn by seed and document number alone"},
    {.key = "plan.latency",
     .type = DF_OPT_REAL,
     .fallback = "2",
     .unit = "microseconds",
     .min = 0,
     .max = 1e6,
     .is_volatile = true,
     .help = "--dry-run: latency of a message on the network that is planned for"},
    {.key = "plan.bandwidth",
     .type = DF_OPT_REAL,
     .fallback = "10",
     .unit = "GB/s",
     .min = 1e-6,
     .max = 1e6,
     .is_volatile = true,
     .help = "--dry-run: bandwidth that one rank has on it"},
    {.key = "plan.rate",
     .type = DF_OPT_REAL,
     .fallback = "0",
     .unit = "GFLOP/s",
     .min = 0,
     .max = 1e9,
     .is_volatile = true,
     .help = "--dry-run: fp32 GEMM rate of one rank's cores; 0: measured here"},
    {.key = "plan.step",
     .type = DF_OPT_REAL,
     .fallback = "1",
     .unit = "encoder GEMMs",
     .min = 0.01,
     .max = 1000,
     .is_volatile = true,
     .help = "--dry-run: time of a training step on one rank, as a training log shows it"},
    {.key = "site",
     .type = DF_OPT_TEXT,
     .optional = true,
     .help = "hook site under study, e.g. blocks.3.hook_resid_post"},
    {.key = "sites",
     .type = DF_OPT_LIST,
     .optional = true,
     .help = "several of them instead, stored by one harvest; a crosscoder stands over all, a "
             "transcoder reads them"},
};
const size_t df_n_shared_options = sizeof df_shared_options / sizeof *df_shared_options;

size_t df_run_dictionaries(const df_run *run) {
    return run->n_members > 0 ? run->n_members : 1;
}

df_run df_run_of(const df_run *run, size_t dictionary) {
    df_run out = *run;
    if (run->n_members == 0) return out;
    out.job = run->members[dictionary].job;
    out.member = run->members[dictionary].name;
    out.members = NULL;
    out.n_members = 0;
    return out;
}

size_t df_models(const df_run *run) {
    return df_job_has(run->job, "models.b.path") ? 2 : 1;
}

df_status df_different_models(const df_run *run, size_t *n) {
    *n = df_models(run);
    if (*n < 2 || strcmp(df_model_name(run, 0), df_model_name(run, 1)) != 0) return DF_OK;
    *n = 1;
    if (strcmp(df_model_path(run, 0), df_model_path(run, 1)) == 0) return DF_OK;
    return df_fail(DF_USAGE,
                   "models.a and models.b have one name (%s) and two paths: name them apart",
                   df_model_name(run, 0));
}

const char *df_model_name(const df_run *run, size_t i) {
    return df_job_text(run->job, i == 0 ? "models.a.name" : "models.b.name");
}

const char *df_model_path(const df_run *run, size_t i) {
    return df_job_text(run->job, i == 0 ? "models.a.path" : "models.b.path");
}

bool df_job_is_synthetic(const df_run *run) {
    return strcmp(df_job_text(run->job, "train.source"), "activations") != 0;
}

bool df_job_is_live(const df_run *run) {
    return df_job_bool(run->job, "train.from_models");
}

df_synthetic df_job_synthetic(const df_run *run) {
    const df_job *job = run->job;
    bool two = strcmp(df_job_text(job, "train.source"), "synthetic-b") == 0;
    return (df_synthetic){.models = two ? 2 : 1,
                          .width = (size_t)df_job_int(job, "train.synthetic.width"),
                          .directions = (size_t)df_job_int(job, "train.synthetic.directions"),
                          .exclusive = (size_t)df_job_int(job, "train.synthetic.exclusive"),
                          .probability = df_job_real(job, "train.synthetic.probability"),
                          .low = df_job_real(job, "train.synthetic.low"),
                          .high = df_job_real(job, "train.synthetic.high"),
                          .seed = (uint64_t)df_job_int(job, "seed")};
}

char *df_path_acts(const df_run *run, const char *model) {
    return df_format("%s/%s.acts.h5", df_job_text(run->job, "out"), model);
}

static const char *const file_lists[2] = {"train.files.a", "train.files.b"};

size_t df_acts_files(const df_run *run, size_t model) {
    const char *const *items;
    size_t n = df_job_list(run->job, file_lists[model], &items);
    return n > 0 ? n : 1;
}

char *df_path_part(const df_run *run, size_t model, size_t f) {
    const char *const *items;
    size_t n = df_job_list(run->job, file_lists[model], &items);
    return n > 0 ? df_strdup(items[f]) : df_path_acts(run, df_model_name(run, model));
}

df_status df_acts_uneven(const df_run *run) {
    return df_fail(DF_USAGE, "%s names %zu files, %s %zu: one of each belong together",
                   file_lists[0], df_acts_files(run, 0), file_lists[1], df_acts_files(run, 1));
}

char *df_path_result(const df_run *run, const char *name) {
    return df_format("%s/%s.h5", df_job_text(run->job, "out"), name);
}

char *df_path_evaluation(const df_run *run) {
    if (run->member == NULL) return df_path_result(run, "evaluate");
    return df_format("%s/evaluate-%s.h5", df_job_text(run->job, "out"), run->member);
}

char *df_path_dict(const df_run *run) {
    if (run->member != NULL)
        return df_format("%s/train-%s.dict.h5", df_job_text(run->job, "out"), run->member);
    return df_format("%s/%s.dict.h5", df_job_text(run->job, "out"),
                     df_dict_kind_name(df_job_kind(run)));
}

char *df_resolved(const df_run *run, const char *sections) {
    char *all = df_format("seed models text site sites %s", sections);
    if (all == NULL) return NULL;
    char *text = df_job_resolved(run->job, all, false);
    df_free(all);
    return text;
}

/* The files of a model, one after another. */
static df_status open_parts(const df_run *run, size_t model, df_acts **out) {
    size_t n = df_acts_files(run, model), opened = 0;
    df_acts **part = NULL;
    df_status status = DF_NEW(part, n);
    for (; status == DF_OK && opened < n; opened++) {
        char *path = df_path_part(run, model, opened);
        status = path != NULL ? df_acts_open(path, &part[opened]) : DF_FAILED;
        df_free(path);
        if (status != DF_OK) break;
    }
    if (status == DF_OK)
        status = df_acts_join(part, n, out);
    else
        for (size_t f = 0; f < opened; f++) df_acts_close(&part[f]);
    df_free(part);
    return status;
}

/* Opens what this rank reads; the caller agrees on the status. */
static df_status open_mine(const df_run *run, df_inputs *in) {
    if (df_models(run) == 2 && df_acts_files(run, 0) != df_acts_files(run, 1))
        return df_acts_uneven(run);
    for (size_t i = 0; i < df_models(run); i++) {
        DF_TRY_AS(open_parts(run, i, &in->file[i]),
                  "opening the activations of model %s (made by darkfield harvest%s)",
                  df_model_name(run, i),
                  df_job_is_live(run) ? ", which train.from_models does not need, this stage does"
                                      : "");
        in->n = i + 1;
    }
    return in->n == 2 ? df_acts_aligned(in->file[0], in->file[1]) : DF_OK;
}

df_status df_inputs_open(const df_run *run, df_inputs *out) {
    *out = (df_inputs){0};
    df_status status = df_agree(run->world, open_mine(run, out));
    if (status != DF_OK) df_inputs_close(out);
    return status;
}

void df_inputs_close(df_inputs *inputs) {
    for (size_t i = 0; i < inputs->n; i++) df_acts_close(&inputs->file[i]);
    inputs->n = 0;
}

/* How many sites before this one are the same site of a model of the same name. */
static size_t same_before(const df_dict *dict, size_t site) {
    size_t n = 0;
    for (size_t s = 0; s < site; s++)
        n += strcmp(dict->site[s].model, dict->site[site].model) == 0 &&
             strcmp(dict->site[s].name, dict->site[site].name) == 0;
    return n;
}

/* A model compared with itself has its second file behind the first. */
static df_status match_site(df_inputs *in, const df_dict *dict, size_t s) {
    const df_dict_site *site = &dict->site[s];
    size_t skip = same_before(dict, s);
    for (size_t i = 0; i < in->n; i++) {
        if (strcmp(in->file[i]->model, site->model) != 0 || skip-- > 0) continue;
        in->acts[s] = in->file[i];
        DF_TRY(df_acts_site(in->file[i], site->name, &in->site[s]));
        uint64_t width = in->file[i]->site[in->site[s]].width;
        if (width == site->width) return DF_OK;
        return df_fail(DF_BAD_INPUT,
                       "%s: expected %s of width %llu, which the dictionary reads, found width "
                       "%llu: train again",
                       in->file[i]->path, site->name, (unsigned long long)site->width,
                       (unsigned long long)width);
    }
    return df_fail(DF_BAD_INPUT,
                   "the dictionary has %zu site%s, number %zu is %s of model %s; the job's models "
                   "do not fit it: train again",
                   dict->sites, dict->sites == 1 ? "" : "s", s, site->name, site->model);
}

df_status df_inputs_match(df_inputs *inputs, const df_dict *dict) {
    for (size_t s = 0; s < dict->sites; s++) DF_TRY(match_site(inputs, dict, s));
    return DF_OK;
}

df_status df_job_corpus(const df_run *run, df_corpus **out) {
    const df_job *job = run->job;
    const char *chat = df_job_text(job, "text.chat");
    const df_corpus_how how = {.field = df_job_text(job, "text.field"),
                               .labels = df_job_text(job, "text.labels"),
                               .chat = strcmp(chat, "none") != 0 ? chat : NULL,
                               .max_documents = (uint64_t)df_job_int(job, "text.max_documents")};
    return df_corpus_open(df_job_text(job, "text.file"), &how, out);
}

df_status df_inputs_came_from(const df_acts *acts, const char *what, const char *path,
                              uint64_t hash) {
    for (size_t p = 1; p < acts->parts; p++) // the first one's file is that of the whole
        DF_TRY(df_inputs_came_from(acts->part[p], what, path, hash));
    char found[20], *expected = NULL, *where = df_format("/%s", what);
    if (where == NULL) return DF_FAILED;
    snprintf(found, sizeof found, "%016llx", (unsigned long long)hash);
    df_status status = df_reader_text(acts->file, where, "hash", &expected);
    if (status == DF_OK && strcmp(expected, found) != 0)
        status = df_fail(DF_BAD_INPUT,
                         "%s: expected the %s that %s was harvested with (content %s), found "
                         "another (%s): name that one, or harvest again",
                         path, what, acts->path, expected, found);
    df_free(expected);
    df_free(where);
    return status;
}

df_status df_input_digest(const df_run *run, const char *path, uint64_t *out) {
    df_status status = df_comm_rank(run->world) == 0 ? df_digest(path, out) : DF_OK;
    DF_TRY(df_agree(run->world, status));
    df_broadcast(run->world, 0, out, sizeof *out);
    return DF_OK;
}

char *df_resolved_with(const df_run *run, const char *sections, uint64_t dictionary,
                       const df_inputs *inputs) {
    char *resolved = df_resolved(run, sections);
    char *text = resolved == NULL ? NULL
                                  : df_format("%s# dictionary %016llx\n", resolved,
                                              (unsigned long long)dictionary);
    df_free(resolved);
    for (size_t i = 0; i < inputs->n && text != NULL; i++) {
        char *longer =
            df_format("%s# activations %016llx\n", text, (unsigned long long)inputs->file[i]->hash);
        df_free(text);
        text = longer;
    }
    return text;
}

/* Whether a file was made from these inputs, as far as both are known; *why not: new memory. */
static bool has_inputs(const char *path, const char *format, const char *inputs, char **why) {
    df_reader *file = NULL;
    df_status status = df_reader_open(path, format, &file);
    if (status == DF_OK) status = df_inputs_check(file, inputs);
    if (status != DF_OK) *why = df_strdup(df_error_text());
    df_reader_close(&file);
    df_error_clear();
    return status == DF_OK;
}

static df_status trained_on(const char *path, const char *inputs) {
    df_reader *file = NULL;
    DF_TRY(df_reader_open(path, "darkfield-dictionary", &file));
    df_status status = df_inputs_check(file, inputs);
    df_reader_close(&file);
    if (status == DF_OK) return DF_OK;
    char *why = df_strdup(df_error_text());
    df_error_clear();
    status = df_fail(status, "%s: train again, or put back the activations that it was trained on",
                     why != NULL ? why : path);
    df_free(why);
    return status;
}

df_status df_inputs_trained_on(const df_run *run, const char *path, df_acts *const *acts,
                               size_t n) {
    df_status status = DF_OK;
    if (df_comm_rank(run->world) == 0) {
        char *inputs = df_strdup("");
        for (size_t i = 0; i < n; i++) inputs = df_inputs_note(inputs, acts[i]);
        status = inputs != NULL ? trained_on(path, inputs) : DF_FAILED;
        df_free(inputs);
    }
    return df_agree(run->world, status);
}

bool df_stage_is_current(const df_run *run, const char *path, const char *format,
                         const char *resolved) {
    return df_stage_is_current_of(run, path, format, resolved, NULL);
}

bool df_stage_is_current_of(const df_run *run, const char *path, const char *format,
                            const char *resolved, const char *inputs) {
    uint8_t current = 0;
    if (df_comm_rank(run->world) == 0 && !run->force) {
        char *why = NULL;
        current = df_file_is_current(path, format, resolved, &why);
        if (current && inputs != NULL) current = has_inputs(path, format, inputs, &why);
        if (current)
            df_info("%s is complete and current: skipped", path);
        else if (why != NULL && df_file_exists(path))
            df_info("%s will be made anew: %s", path, why);
        df_free(why);
        df_error_clear();
    }
    df_broadcast(run->world, 0, &current, sizeof current);
    return current != 0;
}

void df_print_plan(const char *output, df_need need) {
    char memory[16], disk[16];
    df_human_bytes((double)(df_memory_now() + need.memory), memory);
    df_human_bytes((double)need.disk, disk);
    df_info("  plan: %s (%s on disk), own memory per rank %s", output, disk, memory);
}
