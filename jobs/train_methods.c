/* How darkfield train trains: options, read into df_train_options. */
#include "train_methods.h"

#include <stdlib.h>
#include <string.h>

const df_option df_method_options[] = {
    {.key = "train.preset",
     .type = DF_OPT_TEXT,
     .optional = true,
     .help = "defaults of a published trainer (listed below) for the other options of this stage; "
             "a key given in the job file or with --set wins"},
    {.key = "train.warmup_law",
     .type = DF_OPT_CHOICE,
     .fallback = "one",
     .choices = "one zero torch",
     .help = "factor of a warm-up over n steps at step t = 0, 1, ...: (t + 1)/n; t/n, so that the "
             "first step has none (dictionary_learning); 1/n + (1 - 1/n) t/n (PyTorch's LinearLR)"},
    {.key = "train.decay_law",
     .type = DF_OPT_CHOICE,
     .fallback = "linear",
     .choices = "linear cosine",
     .help = "shape of the learning rate's fall over the last train.decay steps"},
    {.key = "train.lr_end",
     .type = DF_OPT_REAL,
     .fallback = "0",
     .min = 0,
     .max = 1,
     .help = "the share of train.lr that the decay ends at"},
    {.key = "train.k_start",
     .type = DF_OPT_INT,
     .fallback = "0",
     .unit = "latents per row",
     .min = 0,
     .max = 1048576,
     .help = "k goes from here to train.k over train.k_steps; 0: it is train.k throughout"},
    {.key = "train.k_steps",
     .type = DF_OPT_INT,
     .fallback = "0",
     .unit = "steps",
     .min = 0,
     .max = 1e12,
     .help = "how long the annealing of k takes"},
    {.key = "train.k_law",
     .type = DF_OPT_CHOICE,
     .fallback = "linear",
     .choices = "linear exponential",
     .help = "how k goes there (OpenMOSS has both); exponential: fast at first, as "
             "(1 - e^(-c t)) / (1 - e^-c), t from 0 to 1"},
    {.key = "train.k_curve",
     .type = DF_OPT_REAL,
     .fallback = "3",
     .min = 1e-3,
     .max = 100,
     .help = "its c"},
    {.key = "train.k_round",
     .type = DF_OPT_CHOICE,
     .fallback = "down",
     .choices = "down nearest up",
     .help = "a number between two k: the lower (dictionary_learning), the nearer (sparsify), the "
             "higher (OpenMOSS)"},
    {.key = "train.prefixes",
     .type = DF_OPT_LIST,
     .fallback = "",
     .help = "Matryoshka: the first latents, up to each of these numbers or shares (1/32) of all, "
             "reconstruct rows by themselves too; 0: the decoder bias alone"},
    {.key = "train.prefix_weights",
     .type = DF_OPT_CHOICE,
     .fallback = "sum",
     .choices = "sum mean square",
     .help = "weight of each of G reconstructions: 1 (SAELens), 1/G (Matryoshka's authors), 1/G^2 "
             "(dictionary_learning)"},
    {.key = "train.multi_topk",
     .type = DF_OPT_REAL,
     .fallback = "0",
     .min = 0,
     .max = 1e6,
     .help = "topk: weight of the FVU with 4 k latents (sparsify: 0.125); 0: none"},
    {.key = "train.aux_normaliser",
     .type = DF_OPT_CHOICE,
     .fallback = "residual",
     .choices = "residual target none",
     .help = "AuxK is divided by the variance of the error (dictionary_learning, OpenAI), of the "
             "rows (sparsify), or not (SAELens)"},
    {.key = "train.aux_bias",
     .type = DF_OPT_CHOICE,
     .fallback = "none",
     .choices = "none decode both",
     .help = "the decoder bias in AuxK: left out (dictionary_learning), in its decode (SAELens, "
             "sparsify), in its decode and its target (OpenAI)"},
    {.key = "train.aux_values",
     .type = DF_OPT_CHOICE,
     .fallback = "positive",
     .choices = "positive raw",
     .help = "AuxK ranks and decodes what relu leaves of the dead latents' pre-activations, or the "
             "pre-activations themselves, negative ones too (SAELens, crosslayer-coding)"},
    {.key = "train.aux_scaled",
     .type = DF_OPT_BOOL,
     .fallback = "false",
     .help = "AuxK times min(dead / aux_k, 1) (SAELens, sparsify)"},
    {.key = "train.aux_target",
     .type = DF_OPT_CHOICE,
     .fallback = "detached",
     .choices = "detached attached",
     .help = "the error that AuxK explains is held fixed, or moves with the other latents "
             "(OpenMOSS); attached needs train.aux_normaliser target or none"},
    {.key = "train.aux_encoder",
     .type = DF_OPT_CHOICE,
     .fallback = "trained",
     .choices = "trained fixed",
     .help = "AuxK and Multi-TopK train the encoder too, or the decoder alone (sparsify, whose "
             "encoder's gradient is that of the selected latents)"},
    {.key = "train.fired_above",
     .type = DF_OPT_REAL,
     .fallback = "0",
     .min = 0,
     .max = 1e6,
     .help = "a latent has fired when a code is above this (OpenAI: 0.001)"},
    {.key = "train.fired",
     .type = DF_OPT_CHOICE,
     .fallback = "active",
     .choices = "active selected",
     .help = "what keeps a latent from being dead: a code above train.fired_above; or, in topk, a "
             "place among the k selected, which a row with fewer positive codes gives to the first "
             "of the other latents, at 0 (dictionary_learning, sparsify)"},
    {.key = "train.resample",
     .type = DF_OPT_INT,
     .fallback = "0",
     .unit = "steps",
     .min = 0,
     .max = 1e12,
     .help = "every so many steps dead latents begin anew, from badly explained rows; 0: never"},
    {.key = "train.resample_power",
     .type = DF_OPT_REAL,
     .fallback = "1",
     .min = 0.01,
     .max = 16,
     .help = "a row is drawn with probability as its error's length to this power "
             "(dictionary_learning: 1; Anthropic, crosscoder_learning: 2)"},
    {.key = "train.resample_scale",
     .type = DF_OPT_REAL,
     .fallback = "0.2",
     .min = 1e-9,
     .max = 1e6,
     .help = "norm of a new encoder row by the mean of the living ones, for a row of norm 1"},
    {.key = "train.resample_row",
     .type = DF_OPT_CHOICE,
     .fallback = "unit",
     .choices = "unit raw",
     .help = "the row is brought to norm 1 for the encoder (Anthropic), or taken as it is "
             "(dictionary_learning)"},
    {.key = "train.rewarm",
     .type = DF_OPT_BOOL,
     .fallback = "false",
     .help = "the learning rate warms up again after every train.resample steps"},
    {.key = "train.clip",
     .type = DF_OPT_REAL,
     .fallback = "0",
     .min = 0,
     .max = 1e12,
     .help = "gradients are scaled so that the norm of all together is at most this; 0: they are "
             "not"},
    {.key = "train.ema",
     .type = DF_OPT_REAL,
     .fallback = "0",
     .min = 0,
     .max = 0.9999999,
     .help = "the dictionary written holds running means of the weights that keep this share at a "
             "step (OpenAI: 0.999); 0: the last weights"},
    {.key = "train.init_bias",
     .type = DF_OPT_CHOICE,
     .fallback = "mean",
     .choices = "mean zero median",
     .help = "decoder bias at the start: mean of the rows, zero, or the geometric median of a "
             "fixed sample of rows, site by site"},
    {.key = "train.init_bias_enc",
     .type = DF_OPT_CHOICE,
     .fallback = "zero",
     .choices = "zero uniform quantile centred",
     .help = "encoder bias at the start: zero; uniform in +-1/sqrt(columns), as PyTorch's "
             "nn.Linear has it (dictionary_learning's standard and p_anneal); such that every "
             "latent is active on train.init_active of a sample (Anthropic, January 2025); or such "
             "that the mean row has pre-activations of 0 (sparsify's transcoders)"},
    {.key = "train.init_active",
     .type = DF_OPT_REAL,
     .fallback = "0",
     .min = 0,
     .max = 1,
     .help = "share of the rows on which a latent is active at the start; 0: 10000/latents, at "
             "most a half"},
    {.key = "train.init_encoder_draw",
     .type = DF_OPT_CHOICE,
     .fallback = "tied",
     .choices = "tied free",
     .help = "the encoder starts as the decoder transposed, or drawn for itself "
             "(crosscoder_learning's init_with_transpose = False)"},
    {.key = "train.normalise",
     .fixed = true,
     .type = DF_OPT_CHOICE,
     .fallback = "rms",
     .choices = "rms norm none deviation",
     .help = "rows of a site are multiplied by 1/sqrt(mean |x|^2) (dictionary_learning, Gemma "
             "Scope), by sqrt(width)/mean |x| (Anthropic, SAELens, OpenMOSS), not, or by 1/sqrt of "
             "the sum of their columns' variances + 1e-8 (crosscoder_learning); penalties and "
             "thresholds stand in these units, and decoder norms of models of different width "
             "compare in the first and the last alone"},
    {.key = "train.token_norm",
     .fixed = true,
     .type = DF_OPT_CHOICE,
     .fallback = "none",
     .choices = "none layer norm",
     .help = "each site's part of a row is normalised by its own numbers before train.centre and "
             "train.normalise: not; (x - mean)/(std + 1e-5), std over width - 1 (OpenAI, SAELens' "
             "layer_norm, BatchTopK's authors); or x sqrt(width)/|x| (OpenMOSS' token-wise, "
             "SAELens' constant_norm_rescale); the dictionary does so wherever it is used, and "
             "undoes it on what it writes: for dictionaries that read what they write"},
    {.key = "train.centre",
     .fixed = true,
     .type = DF_OPT_BOOL,
     .fallback = "false",
     .help = "rows come less the mean of their site's training rows, and |x| in train.normalise is "
             "that of such rows (crosscoder_learning: with deviation); the dictionary that is "
             "written reads and writes rows as they are, its biases hold the mean"},
    {.key = "train.scale",
     .fixed = true,
     .type = DF_OPT_REAL,
     .fallback = "1",
     .min = 1e-9,
     .max = 1e9,
     .help = "rows are multiplied by this besides (target_rms of crosscoder_learning; 100 in "
             "diffing-toolkit)"},
    {.key = "train.init_norm_of",
     .type = DF_OPT_CHOICE,
     .fallback = "site",
     .choices = "site row",
     .help = "train.init_norm is the norm of each site's part of a decoder row, or of the whole"},
    {.key = "train.init_sites",
     .type = DF_OPT_CHOICE,
     .fallback = "each",
     .choices = "each same",
     .help = "a latent's directions at the start are drawn for each site, or once for all, which "
             "then need one width (crosscoder_learning's same_init_for_all_layers)"},
    {.key = "train.init_draw",
     .type = DF_OPT_CHOICE,
     .fallback = "normal",
     .choices = "normal uniform zero",
     .help = "decoder rows at the start: Gaussian directions brought to train.init_norm; uniform "
             "in +-1/sqrt(columns) as they are (Anthropic, January 2025); or 0, while encoders "
             "begin as with normal (sparsify's transcoders)"},
    {.key = "train.init_encoder",
     .type = DF_OPT_REAL,
     .fallback = "1",
     .min = 0,
     .max = 1e6,
     .help = "the encoder starts as the decoder transposed times this; 0: times columns / latents "
             "(Anthropic, January 2025)"},
    {.key = "train.init_encoder_fit",
     .type = DF_OPT_CHOICE,
     .fallback = "none",
     .choices = "none unit",
     .help = "unit: the encoder is then divided by the mean norm of what random rows of norm 1 are "
             "reconstructed as, both taken from the decoder bias (OpenAI)"},
    {.key = NULL}};

static uint64_t count_of(const df_run *run, const char *key) {
    return (uint64_t)df_job_int(run->job, key);
}

/* The place of a choice among those of its option. */
static int chosen(const df_run *run, const char *key, const char *const *names) {
    const char *name = df_job_text(run->job, key);
    int i = 0;
    while (names[i] != NULL && strcmp(names[i], name) != 0) i++;
    return i;
}

/* "16" or "1/32" as a number of latents; false when it is neither. */
static bool read_prefix(const char *text, size_t latents, size_t *out) {
    char *end;
    if (*text < '0' || *text > '9') return false;
    unsigned long long above = strtoull(text, &end, 10), below;
    *out = (size_t)above;
    if (*end == '\0') return above <= latents;
    if (*end != '/' || end[1] < '1' || end[1] > '9') return false;
    below = strtoull(end + 1, &end, 10);
    *out = (size_t)((double)latents * (double)above / (double)below + 0.5);
    return *end == '\0' && above <= below;
}

/* The prefixes, all latents being the last; how many, or 0 with *bad set. */
static size_t read_prefixes(const df_run *run, size_t *out, const char **bad) {
    const char *const *items;
    size_t n = df_job_list(run->job, "train.prefixes", &items), latents, kept = 0;
    latents = (size_t)df_job_int(run->job, "train.latents");
    *bad = NULL;
    for (size_t i = 0; i < n; i++) {
        size_t end = 0;
        bool good = read_prefix(items[i], latents, &end) && kept < DF_MAX_PREFIXES - 1;
        if (!good || (kept > 0 && end <= out[kept - 1])) {
            *bad = items[i];
            return 0;
        }
        out[kept++] = end;
    }
    if (kept > 0 && out[kept - 1] != latents) out[kept++] = latents;
    return kept;
}

df_status df_check_methods(const df_run *run) {
    const df_job *job = run->job;
    size_t prefix[DF_MAX_PREFIXES];
    const char *bad;
    read_prefixes(run, prefix, &bad);
    if (bad != NULL)
        return df_fail(DF_USAGE,
                       "%s: train.prefixes: \"%.40s\": expected at most %d ascending numbers of "
                       "latents, or shares like 1/32, up to %lld",
                       df_job_where(job, "train.prefixes"), bad, DF_MAX_PREFIXES - 1,
                       (long long)df_job_int(job, "train.latents"));
    if (df_job_int(job, "train.k_start") > df_job_int(job, "train.latents"))
        return df_fail(DF_USAGE, "%s: train.k_start is %lld, more than the %lld latents",
                       df_job_where(job, "train.k_start"),
                       (long long)df_job_int(job, "train.k_start"),
                       (long long)df_job_int(job, "train.latents"));
    return DF_OK;
}

static void read_schedules(const df_run *run, df_train_options *o) {
    static const char *const laws[] = {"one", "zero", "torch", NULL};
    static const char *const rounds[] = {"down", "nearest", "up", NULL};
    o->warmup = count_of(run, "train.warmup");
    o->decay = count_of(run, "train.decay");
    o->warmup_law = (df_warmup)chosen(run, "train.warmup_law", laws);
    o->cosine = strcmp(df_job_text(run->job, "train.decay_law"), "cosine") == 0;
    o->lr_end = df_job_real(run->job, "train.lr_end");
    o->rewarm = df_job_bool(run->job, "train.rewarm");
    o->k_start = count_of(run, "train.k_start");
    o->k_steps = count_of(run, "train.k_steps");
    bool curved = strcmp(df_job_text(run->job, "train.k_law"), "exponential") == 0;
    o->k_curve = curved ? df_job_real(run->job, "train.k_curve") : 0.0;
    o->k_round = (df_k_round)chosen(run, "train.k_round", rounds);
}

static void read_dead(const df_run *run, df_train_options *o) {
    static const char *const normalisers[] = {"residual", "target", "none", NULL};
    static const char *const biases[] = {"none", "decode", "both", NULL};
    o->aux_normaliser = (df_aux_normaliser)chosen(run, "train.aux_normaliser", normalisers);
    o->aux_bias = (df_aux_bias)chosen(run, "train.aux_bias", biases);
    o->aux_raw = strcmp(df_job_text(run->job, "train.aux_values"), "raw") == 0;
    o->aux_scaled = df_job_bool(run->job, "train.aux_scaled");
    o->aux_attached = strcmp(df_job_text(run->job, "train.aux_target"), "attached") == 0;
    o->aux_decoder_only = strcmp(df_job_text(run->job, "train.aux_encoder"), "fixed") == 0;
    o->fired_above = df_job_real(run->job, "train.fired_above");
    o->fired_selected = strcmp(df_job_text(run->job, "train.fired"), "selected") == 0;
    o->resample = count_of(run, "train.resample");
    o->resample_power = df_job_real(run->job, "train.resample_power");
    o->resample_scale = df_job_real(run->job, "train.resample_scale");
    o->resample_unit = strcmp(df_job_text(run->job, "train.resample_row"), "unit") == 0;
}

static void read_start(const df_run *run, df_train_options *o) {
    static const char *const biases[] = {"mean", "zero", "median", NULL};
    static const char *const encoder_biases[] = {"zero", "uniform", "quantile", "centred", NULL};
    static const char *const token_norms[] = {"none", "layer", "norm", NULL};
    static const char *const scales[] = {"rms", "norm", "none", "deviation", NULL};
    o->init_bias = (df_init_bias)chosen(run, "train.init_bias", biases);
    o->init_bias_enc = (df_init_bias_enc)chosen(run, "train.init_bias_enc", encoder_biases);
    o->init_active = df_job_real(run->job, "train.init_active");
    o->init_untied = strcmp(df_job_text(run->job, "train.init_encoder_draw"), "free") == 0;
    o->normalise = (df_normalise)chosen(run, "train.normalise", scales);
    o->token_norm = (df_token_norm)chosen(run, "train.token_norm", token_norms);
    o->centre = df_job_bool(run->job, "train.centre");
    o->scale = df_job_real(run->job, "train.scale");
    o->init_whole_row = strcmp(df_job_text(run->job, "train.init_norm_of"), "row") == 0;
    o->init_same = strcmp(df_job_text(run->job, "train.init_sites"), "same") == 0;
    o->init_zero = strcmp(df_job_text(run->job, "train.init_draw"), "zero") == 0;
    o->init_uniform = strcmp(df_job_text(run->job, "train.init_draw"), "uniform") == 0;
    o->init_encoder = df_job_real(run->job, "train.init_encoder");
    o->init_ratio = !(o->init_encoder > 0.0);
    o->init_fit = strcmp(df_job_text(run->job, "train.init_encoder_fit"), "unit") == 0;
}

void df_read_methods(const df_run *run, df_train_options *o) {
    static const char *const weights[] = {"sum", "mean", "square", NULL};
    const char *decoder = df_job_text(run->job, "train.decoder"), *bad;
    read_schedules(run, o);
    read_dead(run, o);
    read_start(run, o);
    o->prefixes = read_prefixes(run, o->prefix, &bad);
    double count = o->prefixes > 0 ? (double)o->prefixes : 1.0;
    int law = chosen(run, "train.prefix_weights", weights);
    o->prefix_weight = law == 0 ? 1.0 : law == 1 ? 1.0 / count : 1.0 / (count * count);
    o->multi = df_job_real(run->job, "train.multi_topk");
    o->clip = df_job_real(run->job, "train.clip");
    o->ema = df_job_real(run->job, "train.ema");
    o->unit_first = strcmp(decoder, "unit-first") == 0;
}
