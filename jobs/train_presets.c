/* train.preset: the option values of published trainers, as far as they do not depend on the data.
 * Sizes (latents, k, steps, batch) stay with the job file. */
#include "jobs.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* values: "key=value ..." without "train."; a value may be computed from the job's sizes:
 * "20%" of train.steps; "100x" batches, in rows; "rest" what warm-up leaves of the steps;
 * "2e-4w": 2e-4 / sqrt(latents / 2^14), the law of OpenAI's paper. */
typedef struct preset {
    const char *name, *help, *values;
} preset;

#define ADAM "beta1=0.9 beta2=0.999 epsilon=1e-8 "
#define DL_TOPK                                                                                    \
    "code_norm=none decoder=unit subtract_bias=true init_norm=1 init_norm_of=row "                 \
    "init_bias=median lr=2e-4w " ADAM "warmup=1000 warmup_law=zero decay=0 clip=1 aux=0.03125 "    \
    "aux_k=0 dead_rows=10000000 threshold_rate=0.001 threshold_start=1000"
#define DL_SPARSE                                                                                  \
    "code_norm=none subtract_bias=true init_norm=0.1 init_norm_of=row init_bias=zero "             \
    "warmup=1000 warmup_law=zero decay=0 penalty_warmup=2000 aux=0 resample_row=raw "
#define SL                                                                                         \
    "normalise=none decoder=free subtract_bias=true init_norm=0.1 init_norm_of=row "               \
    "init_bias=zero lr=3e-4 " ADAM "warmup=0 warmup_law=torch decay=0 clip=1 dead_rows=1000x "
#define SL_AUX                                                                                     \
    "aux=1 aux_k=0 aux_normaliser=none aux_bias=decode aux_values=raw aux_scaled=true "            \
    "code_norm=root "
/* nn.Linear's rows have norm 1/sqrt(3). */
#define SPARSIFY                                                                                   \
    "normalise=none activation=topk reconstruction=fvu init_norm=1 init_encoder=0.57735 "          \
    "init_bias=mean lr=2e-4w " ADAM "warmup=1000 warmup_law=zero decay=rest aux=0 "                \
    "aux_normaliser=target aux_bias=decode aux_scaled=true aux_encoder=fixed "                     \
    "dead_rows=10000000 fired=selected k_round=nearest"
#define CROSSCODER "subtract_bias=false code_norm=sum decoder=free "
#define CL_BATCHTOPK                                                                               \
    "activation=batchtopk reconstruction=unsquared init_norm=1 init_bias=median centre=true "      \
    "normalise=deviation lr=1e-4 " ADAM                                                            \
    "warmup=1000 warmup_law=zero decay=0 clip=1 aux=0.03125 aux_k=0 dead_rows=10000000 "           \
    "threshold_rate=0.001 threshold_start=1000 "

static const preset presets[] = {
    {"dictionary_learning-standard",
     "ReLU with L1 on unit decoder rows (saprmarks, StandardTrainer)",
     "activation=relu decoder=unit penalty=l1 penalty_weight=0.1 init_bias_enc=uniform "
     "lr=1e-3 " ADAM DL_SPARSE},
    {"dictionary_learning-standard_new",
     "ReLU with norm-weighted L1 (saprmarks, StandardTrainerAprilUpdate)",
     "activation=relu code_norm=root subtract_bias=false decoder=free clip=1 penalty=l1 "
     "penalty_weight=0.1 lr=1e-3 " ADAM DL_SPARSE},
    {"dictionary_learning-top_k", "TopK with AuxK (saprmarks, TopKTrainer)",
     "activation=topk fired=selected " DL_TOPK},
    {"dictionary_learning-batch_top_k", "BatchTopK with AuxK (saprmarks, BatchTopKTrainer)",
     "activation=batchtopk " DL_TOPK},
    {"dictionary_learning-matryoshka",
     "Matryoshka BatchTopK, weights 1/G^2 (saprmarks, MatryoshkaBatchTopKTrainer)",
     "activation=batchtopk prefixes=1/32,3/32,7/32,15/32,1/1 prefix_weights=square " DL_TOPK},
    {"dictionary_learning-jumprelu", "JumpReLU with a target L0 (saprmarks, JumpReluTrainer)",
     "activation=jumprelu penalty=l0-target penalty_weight=1 target_l0=20 bandwidth=0.001 "
     "init_threshold=0.001 threshold_parameter=raw step_input=code decoder=unit init_norm=1 "
     "lr=7e-5 beta1=0 beta2=0.999 epsilon=1e-8 clip=1 subtract_bias=false " DL_SPARSE},
    {"dictionary_learning-gated", "Gated, auxiliary decoder frozen (saprmarks, GatedSAETrainer)",
     "activation=gated penalty=l1 penalty_weight=0.1 gate_decoder=frozen decoder=unit lr=3e-4 "
     "init_norm=1 beta1=0 beta2=0.999 epsilon=1e-8 " DL_SPARSE},
    {"dictionary_learning-p_anneal", "Lp^p, p annealed from 1 to 0.2 (saprmarks, PAnnealTrainer)",
     "activation=relu reconstruction=unsquared penalty=lp penalty_weight=0.1 power=1 "
     "anneal_updates=10 anneal_start=10000 anneal_power=0.2 decoder=unit init_bias_enc=uniform "
     "lr=1e-3 " ADAM DL_SPARSE},
    {"saelens-standard", "ReLU with norm-weighted L1 (SAELens 6, standard)",
     "activation=relu code_norm=root penalty=l1 penalty_weight=1 penalty_warmup=0 aux=0 " SL},
    {"saelens-topk", "TopK on norm-scaled codes with AuxK (SAELens 6, topk)",
     "activation=topk " SL_AUX SL},
    {"saelens-batchtopk", "BatchTopK with AuxK (SAELens 6, batchtopk)",
     "activation=batchtopk threshold_rate=0.01 threshold_start=0 threshold_from=zero " SL_AUX SL},
    {"saelens-matryoshka",
     "Matryoshka BatchTopK, plain sum; train.prefixes is yours (SAELens 6, matryoshka_batchtopk)",
     "activation=batchtopk prefixes=1/16,1/4 prefix_weights=sum threshold_rate=0.01 "
     "threshold_start=0 threshold_from=zero " SL_AUX SL},
    {"saelens-jumprelu", "JumpReLU with a step penalty (SAELens 6, jumprelu)",
     "activation=jumprelu code_norm=root penalty=l0 penalty_weight=1 penalty_warmup=0 "
     "bandwidth=0.05 init_threshold=0.01 threshold_parameter=log aux=0 " SL},
    {"saelens-gated", "Gated, auxiliary decoder trained (SAELens 6, gated)",
     "activation=gated code_norm=root penalty=l1 penalty_weight=1 penalty_warmup=0 "
     "gate_decoder=trained aux=0 " SL},
    {"anthropic-2024-04", "ReLU with norm-weighted L1 (Anthropic, April 2024 update)",
     "activation=relu code_norm=root subtract_bias=false decoder=free init_norm=0.1 "
     "init_norm_of=row init_bias=zero normalise=norm penalty=l1 penalty_weight=5 penalty_warmup=5% "
     "lr=5e-5 " ADAM "warmup=0 decay=20% clip=1 aux=0"},
    {"anthropic-2025-01",
     "JumpReLU, tanh penalty, pre-activation loss (Anthropic, January 2025 update)",
     "activation=jumprelu code_norm=sum subtract_bias=false decoder=free init_draw=uniform "
     "init_encoder=0 init_bias=zero init_bias_enc=quantile normalise=norm penalty=tanh "
     "tanh_scale=4 penalty_weight=20 "
     "penalty_warmup=100% preactivation=3e-6 bandwidth=2 init_threshold=0.1 "
     "threshold_parameter=log ste=all lr=2e-4 " ADAM "warmup=0 decay=20% aux=0"},
    {"anthropic-2025-02",
     "the same with shared latents at a tenth of the penalty (Anthropic, February 2025, model "
     "diffing; sizes of crosscode)",
     "activation=jumprelu code_norm=sum subtract_bias=false decoder=free init_draw=uniform "
     "init_encoder=0 init_bias=zero init_bias_enc=quantile normalise=norm penalty=tanh "
     "tanh_scale=4 penalty_weight=30 "
     "penalty_warmup=100% preactivation=3e-6 bandwidth=2 init_threshold=1.1 shared=0.125m "
     "shared_penalty=0.1 threshold_parameter=log ste=all lr=5e-5 beta1=0 beta2=0.999 epsilon=1e-8 "
     "warmup=5% decay=20% clip=1 aux=0"},
    {"openai-topk", "TopK with AuxK and averaged weights (OpenAI, sparse_autoencoder)",
     "activation=topk reconstruction=fvu-sample code_norm=none decoder=unit-first "
     "subtract_bias=true init_norm=1 init_norm_of=row init_bias=median init_encoder_fit=unit "
     "lr=1e-4 beta1=0.9 beta2=0.999 epsilon=6.25e-10 warmup=0 decay=0 aux=0.03125 aux_k=256 "
     "aux_normaliser=residual aux_bias=both dead_rows=10000000 fired_above=1e-3 ema=0.999 "
     "normalise=none token_norm=layer"},
    {"sparsify", "TopK on the FVU (EleutherAI sparsify with Adam)",
     "code_norm=none decoder=unit subtract_bias=true init_norm_of=row " SPARSIFY},
    {"sparsify-transcoder", "the same for a transcoder, whose decoder begins as 0",
     "code_norm=none decoder=free subtract_bias=false init_draw=zero "
     "init_bias_enc=centred " SPARSIFY},
    {"crosscoder-l1", "two-model crosscoder with L1 (ckkissane, crosscoder-model-diff-replication)",
     CROSSCODER "activation=relu init_norm=0.08 normalise=norm init_bias=zero penalty=l1 "
                "penalty_weight=2 penalty_warmup=5% "
                "lr=5e-5 " ADAM "warmup=0 decay=20% clip=1 aux=0"},
    {"crosscoder-batchtopk", "BatchTopK crosscoder (science-of-finetuning, crosscoder_learning)",
     CROSSCODER CL_BATCHTOPK},
    {"crosscoder-diffing-toolkit",
     "the same as diffing-toolkit runs it: rows 100 times as long, k from 1024 in 2000 steps",
     CROSSCODER CL_BATCHTOPK "scale=100 k_start=1024 k_steps=2000"},
    {"crosscoder-decoupled",
     "crosscoder-batchtopk with k latents for each site, selected by that site's decoder norm "
     "(code normalisation "
     "DECOUPLED there)",
     "subtract_bias=false code_norm=decoupled decoder=free " CL_BATCHTOPK},
};
enum { PRESETS = sizeof presets / sizeof *presets };

/* The text of a value that depends on the job's sizes, or a copy. New memory. */
static char *expand(const df_job *job, const char *value) {
    char *end;
    double number = strtod(value, &end);
    double steps = (double)df_job_int(job, "train.steps");
    double latents = (double)df_job_int(job, "train.latents");
    if (strcmp(value, "rest") == 0) {
        double warmup = (double)df_job_int(job, "train.warmup");
        return df_format("%.0f", warmup < steps ? steps - warmup : 0.0);
    }
    if (end == value) return df_strdup(value);
    if (strcmp(end, "%") == 0) return df_format("%.0f", floor(number / 100.0 * steps));
    if (strcmp(end, "x") == 0)
        return df_format("%.0f", number * (double)df_job_int(job, "train.batch"));
    if (strcmp(end, "m") == 0) return df_format("%.0f", floor(number * latents));
    if (strcmp(end, "w") == 0) return df_format("%.17g", number / sqrt(latents / 16384.0));
    return df_strdup(value);
}

static df_status presume_one(df_job *job, const char *key, const char *value, const char *where) {
    char *text = expand(job, value), *full = df_format("train.%s", key);
    df_status status = text != NULL && full != NULL ? DF_OK : DF_FAILED;
    if (status == DF_OK) status = df_job_presume(job, full, text, where);
    df_free(text);
    df_free(full);
    return status;
}

static df_status presume_all(df_job *job, char *values, const char *where) {
    char *rest = NULL;
    for (char *pair = strtok_r(values, " ", &rest); pair != NULL;
         pair = strtok_r(NULL, " ", &rest)) {
        char *equals = strchr(pair, '=');
        *equals = '\0';
        DF_TRY(presume_one(job, pair, equals + 1, where));
    }
    return DF_OK;
}

static df_status fail_unknown(const df_job *job, const char *name) {
    const char *known[PRESETS];
    for (size_t i = 0; i < PRESETS; i++) known[i] = presets[i].name;
    const char *near = df_nearest(name, known, PRESETS);
    return df_fail(DF_USAGE, "%s: train.preset: no preset is called \"%.60s\"%s%s%s",
                   df_job_where(job, "train.preset"), name, near ? " (did you mean " : "",
                   near ? near : "; darkfield help train lists them", near ? "?)" : "");
}

df_status df_train_presume(df_job *job) {
    const char *name = df_job_text(job, "train.preset");
    size_t i = 0;
    if (name == NULL || *name == '\0') return DF_OK;
    while (i < PRESETS && strcmp(presets[i].name, name) != 0) i++;
    if (i == PRESETS) return fail_unknown(job, name);
    char *where = df_format("preset %s", name), *values = df_strdup(presets[i].values);
    df_status status =
        where != NULL && values != NULL ? presume_all(job, values, where) : DF_FAILED;
    df_free(where);
    df_free(values);
    return status;
}

void df_train_list_presets(FILE *to) {
    fprintf(to,
            "\nPresets (train.preset). Sizes stay with the job file: latents, k, steps, batch.\n"
            "Rows are scaled as the trainer scales them by default (train.normalise,\n"
            "train.token_norm); SAELens and sparsify leave them as they are.\n");
    for (size_t i = 0; i < PRESETS; i++)
        fprintf(to, "    %s\n        %s\n", presets[i].name, presets[i].help);
}
