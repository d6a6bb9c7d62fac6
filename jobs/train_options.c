/* The options of darkfield train, beside those of its objective and methods. */
#include "train_options.h"

#include "train_methods.h"
#include "train_objective.h"

#include <string.h>

const df_option df_train_table[] = {
    {.key = "train.model",
     .type = DF_OPT_TEXT,
     .optional = true,
     .help = "train on this model alone; all models together when not given"},
    {.key = "train.site",
     .type = DF_OPT_TEXT,
     .optional = true,
     .help = "read this site alone; all sites under study when not given"},
    {.key = "train.sweep",
     .type = DF_OPT_SWEEP,
     .optional = true,
     .is_volatile = true,
     .help = "several dictionaries from one pass over the rows, each what it would be alone: "
             "{k: [4, 8], latents: [512, 1024]} trains every combination, [{k: 4}, {name: wide, "
             "latents: 4096}] those listed; none: no sweep. Any option of this stage may differ "
             "but those that choose rows, their order, scale, batch and log: presets that scale "
             "rows differently need train.normalise, train.token_norm, train.centre and "
             "train.scale beside the sweep. Files are "
             "OUT/train-MEMBER.dict.h5, members being named after what differs (k4-m512)"},
    {.key = "train.use",
     .type = DF_OPT_TEXT,
     .optional = true,
     .is_volatile = true,
     .help = "member of the sweep that stats, diff and spectrum study; the first when not given"},
    {.key = "train.source",
     .fixed = true,
     .type = DF_OPT_CHOICE,
     .fallback = "activations",
     .choices = "activations synthetic-a synthetic-b",
     .help = "rows of activation files, or of a synthetic model with known directions (a: one "
             "model; b: two, which share most of them)"},
    {.key = "train.from_models",
     .fixed = true,
     .type = DF_OPT_BOOL,
     .fallback = "false",
     .is_volatile = true,
     .help = "take the rows from the models, run over the text as training needs them, instead of "
             "from files: no harvest is needed, and the dictionary is that of the harvest's files "
             "to the byte; needs train.shuffle: buffer, and ranks that hold a whole model each; a "
             "window is run once for every rank's share of a buffer that has rows of it, so large "
             "buffers are quicker"},
    {.key = "train.files.a",
     .type = DF_OPT_LIST,
     .fallback = "",
     .is_volatile = true,
     .help = "activation files of the first model, which make one data set, for the stages after "
             "it too; OUT/NAME.acts.h5 when not given"},
    {.key = "train.files.b",
     .type = DF_OPT_LIST,
     .fallback = "",
     .is_volatile = true,
     .help = "of the second model, one for each of the first"},
    {.key = "train.shuffle",
     .fixed = true,
     .type = DF_OPT_CHOICE,
     .fallback = "exact",
     .choices = "exact buffer global",
     .help =
         "exact: any row next, every epoch in another order, rows read one by one; buffer: runs "
         "of 256 rows fill a buffer, which is shuffled; global: darkfield shuffle has written "
         "all rows in random order, which are read from begin to end"},
    {.key = "train.buffer_rows",
     .fixed = true,
     .type = DF_OPT_INT,
     .fallback = "65536",
     .unit = "rows",
     .min = 1,
     .max = 1e12,
     .help = "size of the shuffle buffer over all ranks; two are in memory"},
    {.key = "train.bad_rows",
     .fixed = true,
     .type = DF_OPT_CHOICE,
     .fallback = "refuse",
     .choices = "refuse drop",
     .help =
         "rows with NaN or infinity: refuse them, naming the first; or leave them out and count "
         "them, which takes one more pass over the data"},
    {.key = "train.skip_tokens",
     .fixed = true,
     .type = DF_OPT_LIST,
     .fallback = "",
     .help = "ids of tokens whose rows are left out"},
    {.key = "train.synthetic.width",
     .type = DF_OPT_INT,
     .fallback = "64",
     .unit = "columns",
     .min = 1,
     .max = 65536,
     .help = "width of each synthetic model"},
    {.key = "train.synthetic.directions",
     .type = DF_OPT_INT,
     .fallback = "128",
     .min = 1,
     .max = 1048576,
     .help = "true directions, those of one model alone among them"},
    {.key = "train.synthetic.exclusive",
     .type = DF_OPT_INT,
     .fallback = "16",
     .min = 0,
     .max = 524288,
     .help = "synthetic-b: directions of each model alone"},
    {.key = "train.synthetic.probability",
     .type = DF_OPT_REAL,
     .fallback = "0.05",
     .min = 1e-9,
     .max = 1,
     .help = "how often a direction is present in a row"},
    {.key = "train.synthetic.low",
     .type = DF_OPT_REAL,
     .fallback = "0.5",
     .min = 1e-9,
     .max = 1e9,
     .help = "least strength of a direction that is present"},
    {.key = "train.synthetic.high",
     .type = DF_OPT_REAL,
     .fallback = "1",
     .min = 1e-9,
     .max = 1e9,
     .help = "its greatest strength"},
    {.key = "train.kind",
     .type = DF_OPT_CHOICE,
     .fallback = "auto",
     .choices = "auto sae crosscoder transcoder skip-transcoder clt",
     .help = "sae: one site of one model; crosscoder: all sites of all models, read and written; "
             "transcoder: reads train.input, writes train.output; skip-transcoder: and a linear "
             "map; clt: latents of layer l read input l and write outputs l, l + 1, ...; auto: sae "
             "or crosscoder"},
    {.key = "train.input",
     .type = DF_OPT_LIST,
     .optional = true,
     .help = "sites that the dictionary reads; `sites` or `site` when not given"},
    {.key = "train.output",
     .type = DF_OPT_LIST,
     .optional = true,
     .help = "sites that a transcoder or clt writes; hook_mlp_out of each input's layer when not "
             "given"},
    {.key = "train.latents",
     .tag = "m",
     .type = DF_OPT_INT,
     .fallback = "1024",
     .unit = "latents",
     .min = 1,
     .max = 16777216,
     .help = "size of the dictionary"},
    {.key = "train.activation",
     .type = DF_OPT_CHOICE,
     .fallback = "batchtopk",
     .choices = "topk batchtopk relu jumprelu gated",
     .help = "which latents are active: k per row, k per row on average over a batch, all positive "
             "ones, those above a threshold of their own, or those whose gate is open"},
    {.key = "train.k",
     .type = DF_OPT_INT,
     .fallback = "8",
     .unit = "latents per row",
     .min = 1,
     .max = 65536,
     .help = "active latents of topk and batchtopk"},
    {.key = "train.steps",
     .type = DF_OPT_INT,
     .fallback = "2500",
     .unit = "steps",
     .min = 1,
     .max = 1e12,
     .help = "optimiser steps"},
    {.key = "train.batch",
     .fixed = true,
     .type = DF_OPT_INT,
     .fallback = "1024",
     .unit = "rows",
     .min = 1,
     .max = 1048576,
     .help = "rows of one step over all ranks"},
    {.key = "train.data_groups",
     .type = DF_OPT_INT,
     .fallback = "1",
     .min = 1,
     .max = DF_MAX_RUNS,
     .help = "runs of rows that a batch is cut into, whose gradients are summed in a fixed tree: "
             "the dictionary depends on their number, on no number of ranks. Ranks form as many "
             "groups as divide both, each with the whole dictionary and its runs alone: less "
             "traffic where a batch is large beside the dictionary, but more memory; --dry-run "
             "tells. Not with train.resample, train.init_encoder_fit, train.power_root, "
             "train.code_norm decoupled, train.fired selected, skip transcoders"},
    {.key = "train.lr",
     .type = DF_OPT_REAL,
     .fallback = "0.003",
     .min = 0,
     .max = 10,
     .help = "learning rate of Adam"},
    {.key = "train.warmup",
     .type = DF_OPT_INT,
     .fallback = "100",
     .unit = "steps",
     .min = 0,
     .max = 1e12,
     .help = "the learning rate rises linearly over these first steps (see train.warmup_law)"},
    {.key = "train.decay",
     .type = DF_OPT_INT,
     .fallback = "1000",
     .unit = "steps",
     .min = 0,
     .max = 1e12,
     .help = "and falls over these last ones (see train.decay_law)"},
    {.key = "train.aux",
     .type = DF_OPT_REAL,
     .fallback = "0.03125",
     .min = 0,
     .max = 1e6,
     .help = "weight of AuxK, which lets dead latents explain the error; 0: none"},
    {.key = "train.aux_k",
     .type = DF_OPT_INT,
     .fallback = "0",
     .unit = "latents per row",
     .min = 0,
     .max = 65536,
     .help = "dead latents that AuxK uses; 0: half the width of a site"},
    {.key = "train.dead_rows",
     .type = DF_OPT_INT,
     .fallback = "100000",
     .unit = "rows",
     .min = 1,
     .max = 1e15,
     .help = "a latent that has not fired for so many rows is dead"},
    {.key = "train.code_norm",
     .type = DF_OPT_CHOICE,
     .fallback = "sum",
     .choices = "none sum root mixed decoupled",
     .help =
         "what weighs a code in selection and penalties: nothing; the sum of its decoder norms "
         "over sites (crosscoders, Lindsey et al. 2024); the norm of its whole decoder row "
         "(SAEs); that and a tenth of the sum (crosscoder_learning); decoupled: topk and "
         "batchtopk select k for each site by its own norm, and a latent reconstructs the sites "
         "that selected it (crosscoder_learning)"},
    {.key = "train.shared",
     .type = DF_OPT_INT,
     .fallback = "0",
     .unit = "latents",
     .min = 0,
     .max = 16777216,
     .help = "crosscoder: so many latents, the first ones, have one decoder direction, the same in "
             "every model, which leaves the others free for what differs (Anthropic, February "
             "2025, Insights on crosscoder model diffing)"},
    {.key = "train.shared_penalty",
     .type = DF_OPT_REAL,
     .fallback = "0.1",
     .min = 0,
     .max = 1e6,
     .help = "the penalty of shared latents is multiplied by this (0.1 to 0.2 there)"},
    {.key = "train.dedicated",
     .type = DF_OPT_INT,
     .fallback = "0",
     .unit = "latents",
     .min = 0,
     .max = 16777216,
     .help = "crosscoder: so many latents of each model, the last ones, read and write its columns "
             "alone (dedicated feature crosscoders, arXiv 2602.11729)"},
    {.key = "train.decoder",
     .type = DF_OPT_CHOICE,
     .fallback = "free",
     .choices = "free unit unit-first",
     .help =
         "decoder norms are learned (crosscoders), or kept at 1 over the whole row: gradient "
         "projected, clipped, step, norm set (dictionary_learning), or norm set first (OpenAI)"},
    {.key = "train.subtract_bias",
     .type = DF_OPT_BOOL,
     .optional = true,
     .help = "subtract the decoder bias from what the encoder reads; true when not given, but for "
             "transcoders and clt, which cannot"},
    {.key = "train.init_norm",
     .type = DF_OPT_REAL,
     .fallback = "0.5",
     .min = 1e-6,
     .max = 1000,
     .help = "norm of each site's part of a decoder row at the start"},
    {.key = "train.beta1",
     .type = DF_OPT_REAL,
     .fallback = "0.9",
     .min = 0,
     .max = 0.9999999,
     .help = "Adam: mean of gradients"},
    {.key = "train.beta2",
     .type = DF_OPT_REAL,
     .fallback = "0.999",
     .min = 0,
     .max = 0.9999999,
     .help = "Adam: mean of squares"},
    {.key = "train.epsilon",
     .type = DF_OPT_REAL,
     .fallback = "1e-8",
     .min = 1e-30,
     .max = 1,
     .help = "Adam: added to the root"},
    {.key = "train.threshold_rate",
     .type = DF_OPT_REAL,
     .fallback = "0.01",
     .min = 0,
     .max = 1,
     .help = "batchtopk: rate of the running mean that becomes the threshold at inference"},
    {.key = "train.threshold_from",
     .type = DF_OPT_CHOICE,
     .fallback = "first",
     .choices = "first zero",
     .help = "batchtopk: that mean begins as its first value (dictionary_learning), or as 0 "
             "(SAELens)"},
    {.key = "train.threshold_start",
     .type = DF_OPT_INT,
     .fallback = "1000",
     .unit = "steps",
     .min = 0,
     .max = 1e12,
     .help = "first step that moves the threshold, at the latest half-way"},
    {.key = "train.seed",
     .tag = "s",
     .type = DF_OPT_INT,
     .optional = true,
     .min = 0,
     .max = 4294967295.0,
     .help =
         "seed of initialisation and resampling; the job's seed when not given, which the order "
         "of rows follows in any case"},
    {.key = "train.skip_first",
     .fixed = true,
     .type = DF_OPT_TEXT,
     .fallback = "true",
     .help = "rows to leave out: true: BOS and the first of each window; bos: BOS alone; a number: "
             "BOS and so many first of each window; false: none"},
    {.key = "train.log_every",
     .fixed = true,
     .type = DF_OPT_INT,
     .fallback = "50",
     .unit = "steps",
     .min = 1,
     .max = 1e9,
     .help = "interval of the training history and of the lines in a log"},
    {.key = "train.checkpoint_minutes",
     .type = DF_OPT_REAL,
     .fallback = "10",
     .unit = "minutes",
     .min = 0,
     .max = 1e6,
     .is_volatile = true,
     .help = "time between checkpoints; 0: only when asked to stop"},
    {.key = "train.accept_kernel_path",
     .type = DF_OPT_BOOL,
     .fallback = "false",
     .is_volatile = true,
     .help =
         "go on from a checkpoint made with other kernels; the dictionary's provenance records it"},
    {.key = NULL}};

static size_t count_of(const df_run *run, const char *key) {
    return (size_t)df_job_int(run->job, key);
}

static df_code_norm chosen_norm(const df_run *run) {
    const char *name = df_job_text(run->job, "train.code_norm");
    return strcmp(name, "none") == 0    ? DF_NORM_NONE
           : strcmp(name, "sum") == 0   ? DF_NORM_SUM
           : strcmp(name, "root") == 0  ? DF_NORM_ROOT
           : strcmp(name, "mixed") == 0 ? DF_NORM_MIXED
                                        : DF_NORM_DECOUPLED;
}

df_shuffle df_chosen_shuffle(const df_run *run) {
    const char *name = df_job_text(run->job, "train.shuffle");
    return strcmp(name, "exact") == 0    ? DF_SHUFFLE_EXACT
           : strcmp(name, "buffer") == 0 ? DF_SHUFFLE_BUFFER
                                         : DF_SHUFFLE_GLOBAL;
}

static bool subtracts_bias(const df_run *run) {
    df_dict_kind kind = df_job_kind(run);
    if (df_job_has(run->job, "train.subtract_bias"))
        return df_job_bool(run->job, "train.subtract_bias");
    return kind == DF_SAE || kind == DF_CROSSCODER;
}

/* What is read and what is written; synthetic rows are always both. */
static df_status read_kind(const df_run *run, df_train_options *o) {
    df_columns columns;
    o->kind = df_job_kind(run);
    if (df_job_is_synthetic(run)) return DF_OK;
    DF_TRY(df_job_columns(run, &columns));
    o->inputs = columns.inputs;
    df_columns_free(&columns);
    return DF_OK;
}

static df_train_options read_all(const df_run *run) {
    const df_job *job = run->job;
    df_train_options o = {
        .latents = count_of(run, "train.latents"),
        .k = count_of(run, "train.k"),
        .batch = count_of(run, "train.batch"),
        .data_groups = count_of(run, "train.data_groups"),
        .steps = count_of(run, "train.steps"),
        .seed = (uint64_t)df_job_int(job, df_job_has(job, "train.seed") ? "train.seed" : "seed"),
        .order_seed = (uint64_t)df_job_int(job, "seed"),
        .activation = df_chosen_activation(run),
        .code_norm = chosen_norm(run),
        .shared = count_of(run, "train.shared"),
        .dedicated = count_of(run, "train.dedicated"),
        .unit_decoder = strcmp(df_job_text(job, "train.decoder"), "unit") == 0,
        .subtract_bias = subtracts_bias(run),
        .init_norm = df_job_real(job, "train.init_norm"),
        .lr = df_job_real(job, "train.lr"),
        .beta1 = df_job_real(job, "train.beta1"),
        .beta2 = df_job_real(job, "train.beta2"),
        .epsilon = df_job_real(job, "train.epsilon"),
        .aux = df_job_real(job, "train.aux"),
        .aux_k = count_of(run, "train.aux_k"),
        .dead_rows = count_of(run, "train.dead_rows"),
        .threshold_rate = df_job_real(job, "train.threshold_rate"),
        .threshold_from_zero = strcmp(df_job_text(job, "train.threshold_from"), "zero") == 0,
        .threshold_start = count_of(run, "train.threshold_start"),
        .shuffle = df_chosen_shuffle(run),
        .buffer_rows = (uint64_t)df_job_int(job, "train.buffer_rows"),
        .log_every = count_of(run, "train.log_every"),
        .checkpoint_seconds = 60.0 * df_job_real(job, "train.checkpoint_minutes"),
        .accept_kernel_path = df_job_bool(job, "train.accept_kernel_path"),
        .facts = run->provenance};
    df_read_objective(run, &o);
    df_read_methods(run, &o);
    return o;
}

/* What else bound latents need, the dictionary tells when its sites are known. */
static df_status check_bound(const df_run *run) {
    const df_job *job = run->job;
    long long shared = df_job_int(job, "train.shared"), own = df_job_int(job, "train.dedicated");
    if (shared == 0 && own == 0) return DF_OK;
    const char *key = shared > 0 ? "train.shared" : "train.dedicated";
    if (df_job_kind(run) != DF_CROSSCODER)
        return df_fail(DF_USAGE, "%s: %s is for crosscoders of several models, this is kind %s",
                       df_job_where(job, key), key, df_dict_kind_name(df_job_kind(run)));
    if (shared + own > df_job_int(job, "train.latents"))
        return df_fail(DF_USAGE,
                       "%s: %lld shared latents and %lld dedicated ones for each model "
                       "are more than the %lld there are",
                       df_job_where(job, key), shared, own,
                       (long long)df_job_int(job, "train.latents"));
    return DF_OK;
}

static df_status check_choices(const df_run *run) {
    const df_job *job = run->job;
    const char *model = df_job_text(job, "train.model");
    df_activation a = df_chosen_activation(run);
    bool self = df_job_kind(run) == DF_SAE || df_job_kind(run) == DF_CROSSCODER;
    if (!self && df_job_is_synthetic(run))
        return df_fail(DF_USAGE,
                       "%s: synthetic rows have no sites to write: train an sae or a "
                       "crosscoder on them",
                       df_job_where(job, "train.kind"));
    if (!self && subtracts_bias(run))
        return df_fail(DF_USAGE,
                       "%s: a %s reads other columns than it writes: its decoder bias "
                       "cannot be subtracted",
                       df_job_where(job, "train.subtract_bias"),
                       df_dict_kind_name(df_job_kind(run)));
    if ((a == DF_TOPK || a == DF_BATCHTOPK) &&
        df_job_int(job, "train.k") > df_job_int(job, "train.latents"))
        return df_fail(DF_USAGE, "%s: train.k is %lld, more than the %lld latents",
                       df_job_where(job, "train.k"), (long long)df_job_int(job, "train.k"),
                       (long long)df_job_int(job, "train.latents"));
    DF_TRY(df_check_methods(run));
    DF_TRY(check_bound(run));
    if (model == NULL || *model == '\0') return DF_OK;
    for (size_t i = 0; i < df_models(run); i++)
        if (strcmp(model, df_model_name(run, i)) == 0) return DF_OK;
    return df_fail(DF_USAGE, "%s: train.model is %s, but the job's models are %s%s%s",
                   df_job_where(job, "train.model"), model, df_model_name(run, 0),
                   df_models(run) > 1 ? " and " : "",
                   df_models(run) > 1 ? df_model_name(run, 1) : "");
}

df_status df_read_train_options(const df_run *run, df_train_options *out) {
    *out = read_all(run);
    DF_TRY(check_choices(run));
    return read_kind(run, out);
}
