/* What darkfield train minimises: the options of the objective, read into df_objective. */
#include "train_objective.h"

#include <string.h>

const df_option df_objective_options[] = {
    {.key = "train.reconstruction",
     .type = DF_OPT_CHOICE,
     .fallback = "squared",
     .choices = "squared squared-mean squared-columns unsquared fvu fvu-sites fvu-sample",
     .help = "error of a row: sum of squares (dictionary_learning, SAELens), the same divided by "
             "the number of sites, or of columns (BatchTopK's authors), or mean over sites of its "
             "length (crosscoder_learning); fvu: sum of squares over the batch divided by its "
             "variance (sparsify); fvu-sites: the sum of that of every site (clt-training); "
             "fvu-sample: sum of squares divided by the mean variance of 32768 rows drawn by the "
             "seed, the same for every batch (OpenAI)"},
    {.key = "train.penalty",
     .type = DF_OPT_CHOICE,
     .fallback = "none",
     .choices = "none l1 lp tanh l0 l0-target",
     .help = "mean over rows of a sum over codes f times norm (see train.code_norm): f, f^p "
             "or tanh(c f); jumprelu also has the number of active latents (Gemma Scope), or "
             "(number / target - 1)^2 (dictionary_learning)"},
    {.key = "train.penalty_weight",
     .tag = "penalty",
     .type = DF_OPT_REAL,
     .fallback = "0",
     .min = 0,
     .max = 1e6,
     .help = "weight of the penalty"},
    {.key = "train.penalty_warmup",
     .type = DF_OPT_INT,
     .fallback = "125",
     .unit = "steps",
     .min = 0,
     .max = 1e12,
     .help = "train.penalty_weight is reached linearly over these first steps"},
    {.key = "train.power",
     .type = DF_OPT_REAL,
     .fallback = "1",
     .min = 0.01,
     .max = 8,
     .help = "lp: p, at the start where it is annealed"},
    {.key = "train.power_root",
     .type = DF_OPT_BOOL,
     .fallback = "false",
     .help = "lp: the root (1/p) of each row's sum (SAELens), not the sum of powers"},
    {.key = "train.anneal_updates",
     .type = DF_OPT_INT,
     .fallback = "0",
     .min = 0,
     .max = 1e6,
     .help = "lp: p falls in so many updates, the weight keeping the penalty's size "
             "(dictionary_learning's p-annealing has 10); 0: p stays"},
    {.key = "train.anneal_start",
     .type = DF_OPT_INT,
     .fallback = "0",
     .unit = "steps",
     .min = 0,
     .max = 1e12,
     .help = "step of the first update"},
    {.key = "train.anneal_end",
     .type = DF_OPT_INT,
     .fallback = "0",
     .unit = "steps",
     .min = 0,
     .max = 1e12,
     .help = "step of the last update; 0: train.steps"},
    {.key = "train.anneal_power",
     .type = DF_OPT_REAL,
     .fallback = "0.2",
     .min = 0.01,
     .max = 8,
     .help = "p after the last update"},
    {.key = "train.tanh_scale",
     .type = DF_OPT_REAL,
     .fallback = "4",
     .min = 1e-6,
     .max = 1e6,
     .help = "tanh: c (Anthropic, January 2025)"},
    {.key = "train.target_l0",
     .tag = "target",
     .type = DF_OPT_REAL,
     .fallback = "20",
     .unit = "latents per row",
     .min = 1e-3,
     .max = 1e6,
     .help = "l0-target: the number of active latents to reach"},
    {.key = "train.bandwidth",
     .type = DF_OPT_REAL,
     .fallback = "0.001",
     .min = 1e-9,
     .max = 1e6,
     .help = "jumprelu: width of the rectangle through which thresholds learn (0.001 in "
             "Gemma Scope, 0.05 in SAELens, 2 in Anthropic's January 2025)"},
    {.key = "train.init_threshold",
     .type = DF_OPT_REAL,
     .fallback = "0.001",
     .min = 1e-9,
     .max = 1e6,
     .help = "jumprelu: threshold of every latent at the start"},
    {.key = "train.threshold_parameter",
     .type = DF_OPT_CHOICE,
     .fallback = "log",
     .choices = "log raw",
     .help = "jumprelu: the optimiser moves the threshold's logarithm (Gemma Scope, SAELens) "
             "or the threshold, kept from falling below 0 (dictionary_learning)"},
    {.key = "train.threshold_gradient",
     .type = DF_OPT_CHOICE,
     .fallback = "chain",
     .choices = "chain plain",
     .help = "jumprelu: gradient of the logarithm by the chain rule, or that of the "
             "threshold itself (crosscode, BatchTopK)"},
    {.key = "train.window_positive",
     .type = DF_OPT_BOOL,
     .fallback = "false",
     .help = "jumprelu: only positive pre-activations move thresholds (OpenMOSS)"},
    {.key = "train.step_input",
     .type = DF_OPT_CHOICE,
     .fallback = "pre",
     .choices = "pre code",
     .help = "jumprelu: the number active sees pre-activations, or codes, which are 0 below "
             "the threshold (dictionary_learning)"},
    {.key = "train.ste",
     .type = DF_OPT_CHOICE,
     .fallback = "threshold",
     .choices = "threshold all",
     .help = "jumprelu: the rectangle's gradient moves thresholds alone (Gemma Scope), or "
             "the encoder too (Anthropic, January 2025)"},
    {.key = "train.preactivation",
     .type = DF_OPT_REAL,
     .fallback = "0",
     .min = 0,
     .max = 1e6,
     .help = "weight of mean over rows of sum relu(threshold - pre-activation) norm, which "
             "keeps latents alive (3e-6 in Anthropic's January 2025); relu, jumprelu, gated"},
    {.key = "train.preactivation_of",
     .type = DF_OPT_CHOICE,
     .fallback = "all",
     .choices = "all dead",
     .help = "of which latents: all, or dead ones (SAELens)"},
    {.key = "train.gate_decoder",
     .type = DF_OPT_CHOICE,
     .fallback = "frozen",
     .choices = "frozen trained",
     .help = "gated: the gate's own reconstruction leaves the decoder alone "
             "(dictionary_learning), or trains it too (SAELens)"},
    {.key = NULL}};

/* The place of a choice among those of its option. */
static int chosen(const df_run *run, const char *key, const char *const *names) {
    const char *name = df_job_text(run->job, key);
    int i = 0;
    while (names[i] != NULL && strcmp(names[i], name) != 0) i++;
    return i;
}

static bool is(const df_run *run, const char *key, const char *name) {
    return strcmp(df_job_text(run->job, key), name) == 0;
}

static uint64_t count_of(const df_run *run, const char *key) {
    return (uint64_t)df_job_int(run->job, key);
}

df_activation df_chosen_activation(const df_run *run) {
    static const char *const names[] = {"relu", "topk", "batchtopk", "jumprelu", "gated", NULL};
    return (df_activation)chosen(run, "train.activation", names);
}

static df_anneal_plan read_anneal(const df_run *run) {
    uint64_t end = count_of(run, "train.anneal_end");
    return (df_anneal_plan){.start = count_of(run, "train.anneal_start"),
                            .end = end > 0 ? end : count_of(run, "train.steps"),
                            .from = df_job_real(run->job, "train.power"),
                            .to = df_job_real(run->job, "train.anneal_power"),
                            .updates = count_of(run, "train.anneal_updates")};
}

void df_read_objective(const df_run *run, df_train_options *o) {
    static const char *const reconstructions[] = {
        "squared", "squared-mean", "squared-columns", "unsquared",
        "fvu",     "fvu-sites",    "fvu-sample",      NULL};
    static const char *const penalties[] = {"none", "l1", "lp", "tanh", "l0", "l0-target", NULL};
    const df_job *job = run->job;
    o->objective = (df_objective){
        .reconstruction = (df_reconstruction)chosen(run, "train.reconstruction", reconstructions),
        .penalty = (df_penalty)chosen(run, "train.penalty", penalties),
        .weight = df_job_real(job, "train.penalty_weight"),
        .power = df_job_real(job, "train.power"),
        .rooted = df_job_bool(job, "train.power_root"),
        .shared_weight = df_job_real(job, "train.shared_penalty"),
        .tanh_scale = df_job_real(job, "train.tanh_scale"),
        .target_l0 = df_job_real(job, "train.target_l0"),
        .bandwidth = df_job_real(job, "train.bandwidth"),
        .raw_threshold = is(run, "train.threshold_parameter", "raw"),
        .plain_log = is(run, "train.threshold_gradient", "plain"),
        .positive_window = df_job_bool(job, "train.window_positive"),
        .step_on_codes = is(run, "train.step_input", "code"),
        .gradient_to_all = is(run, "train.ste", "all"),
        .preact = df_job_real(job, "train.preactivation"),
        .preact_dead = is(run, "train.preactivation_of", "dead"),
        .gate_trains_decoder = is(run, "train.gate_decoder", "trained")};
    o->penalty_warmup = count_of(run, "train.penalty_warmup");
    o->init_threshold = df_job_real(job, "train.init_threshold");
    o->anneal = read_anneal(run);
}
