/* darkfield/train.h: from rows to dictionary files: one training, or a sweep of several on the same
 * rows. The step itself is dict.h's. */
#ifndef DARKFIELD_TRAIN_H
#define DARKFIELD_TRAIN_H

#include "darkfield/dict.h"

/* ---- one training --------------------------------------------------------------------------- */

/* The factor of a linear warm-up over n steps, at step t (from 0): (t + 1) / n; t / n, hence 0 at
 * the first step (dictionary_learning); 1/n + (1 - 1/n) t / n (PyTorch's LinearLR, SAELens). */
typedef enum df_warmup { DF_WARMUP_ONE, DF_WARMUP_ZERO, DF_WARMUP_TORCH } df_warmup;

/* b_dec at the start: the mean of the training rows, 0, or the geometric median (Weiszfeld 1937) of
 * at most DF_MEDIAN_ROWS rows drawn by the seed, of each site for itself (OpenAI: 32,768;
 * dictionary_learning, crosscoder_learning: the first batch). */
typedef enum df_init_bias { DF_INIT_MEAN, DF_INIT_ZERO, DF_INIT_MEDIAN } df_init_bias;
enum { DF_MEDIAN_ROWS = 32768 }; /* whose variance FVU_SAMPLE divides by, too */
/* b_enc at the start: 0; or uniform in +-1 / sqrt(columns read), as PyTorch's nn.Linear leaves it
 * (dictionary_learning's standard and p-annealing trainers); or such that each latent is active on
 * a share of at most DF_QUANTILE_ROWS rows drawn by the seed: theta less the quantile of what it
 * reads (Anthropic, January 2025); or such that pre-activations have a mean of 0: -W_enc (mean x),
 * the mean less b_dec where the encoder subtracts it (sparsify's transcoders, which cannot). */
typedef enum df_init_bias_enc {
    DF_INIT_ENC_ZERO,
    DF_INIT_ENC_UNIFORM,
    DF_INIT_ENC_QUANTILE,
    DF_INIT_ENC_CENTRED
} df_init_bias_enc;
enum { DF_QUANTILE_ROWS = 8192, DF_FIT_ROWS = 256 };

/* What the rows of each site are multiplied by, means over the training rows, x being less its mean
 * where rows are centred and what token_norm makes of it where rows are normalised:
 *   RMS        1 / sqrt(mean |x|^2)              dictionary_learning, Gemma Scope
 *   NORM       sqrt(width) / mean |x|            Anthropic, SAELens (expected_average_only_in),
 *                                                OpenMOSS
 *   NONE       1
 *   DEVIATION  1 / sqrt(sum of the columns' variances + 1e-8), centred or not: crosscoder_learning
 * Penalties and thresholds stand in these units. Decoder norms of models of one width compare in
 * all of them, of different widths with RMS and DEVIATION alone. */
typedef enum df_normalise {
    DF_NORMALISE_RMS,
    DF_NORMALISE_NORM,
    DF_NORMALISE_NONE,
    DF_NORMALISE_DEVIATION
} df_normalise;

/* What k becomes of a number between two: dictionary_learning cuts, sparsify rounds (halves to
 * even), OpenMOSS takes the next. */
typedef enum df_k_round { DF_K_DOWN, DF_K_NEAREST, DF_K_UP } df_k_round;

typedef struct df_train_options {
    df_dict_kind kind; /* SAE and CROSSCODER: all sites are read and written */
    size_t inputs; /* transcoders and CLT: the first so many sites are read, the others written */
    size_t latents, k, batch;
    size_t data_groups; /* runs that a batch is cut into (groups.h); 0: one */
    uint64_t steps;
    uint64_t seed;       /* of initialisation and resampling */
    uint64_t order_seed; /* of the order of rows */
    df_activation activation;
    df_code_norm code_norm;
    size_t shared, dedicated; /* of a crosscoder; see df_dict_bind */
    bool unit_decoder, subtract_bias;
    double init_norm;
    double lr, beta1, beta2, epsilon;
    uint64_t warmup, decay; /* steps of warm-up, and of the decay to lr_end * lr at the end */
    df_warmup warmup_law;   /* of the learning rate and of the penalty */
    bool cosine;            /* the decay is half a cosine, not a line */
    double lr_end;
    uint64_t resample; /* dead latents are drawn anew every so many steps; 0: never */
    double resample_power, resample_scale;
    bool resample_unit;
    bool rewarm;             /* and the learning rate warms up again */
    df_objective objective;  /* its weight and power are where the schedules end, start */
    uint64_t penalty_warmup; /* the weight is reached over so many steps */
    df_anneal_plan anneal;   /* of an LP penalty; updates 0: none */
    double init_threshold;   /* JumpReLU: theta at the start, positive */
    size_t prefixes, prefix[DF_MAX_PREFIXES]; /* of the dictionary, and the next ones of a step */
    double prefix_weight, multi, clip, ema;
    bool unit_first;
    df_aux_normaliser aux_normaliser;
    df_aux_bias aux_bias;
    bool aux_raw, aux_scaled, aux_attached, aux_decoder_only;
    double fired_above;
    bool fired_selected;
    df_init_bias init_bias;
    df_init_bias_enc init_bias_enc;
    double init_active; /* QUANTILE: the share of rows; 0: min(10000 / latents, 1/2) (Anthropic) */
    bool init_untied;   /* encoders are drawn for themselves (crosscoder_learning's
                           init_with_transpose = False), of the norm they would have */
    df_normalise normalise;
    df_token_norm token_norm; /* each site's part of a row is normalised by its own numbers before
                                 anything else (OpenAI); the dictionary does so for good. Not for
                                 kinds that write other sites than they read */
    bool
        centre; /* rows are taken less the mean of their site's training rows (crosscoder_learning);
                   the biases of the dictionary that is written have taken it up */
    double scale;   /* and multiplied by this besides (target_rms of crosscoder_learning; 100 in
                       diffing-toolkit); 0: 1 */
    bool init_same; /* a latent's decoder direction is drawn once, for the first site that it
                       writes, and is that of its other ones, and so is its encoder's
                       (crosscoder_learning's same_init_for_all_layers); sites of one width */
    bool init_whole_row; /* init_norm is that of a whole decoder row, not of each site's part */
    bool init_uniform;   /* decoder rows uniform in +-1 / sqrt(columns) instead */
    bool init_zero;      /* decoder rows of 0, encoders as they are drawn from or for others
                            (sparsify's transcoders); code norm NONE, decoder rows free */
    double init_encoder; /* encoder = decoder times this; 0: times 1 */
    bool init_ratio;     /* times columns / latents instead */
    bool init_fit;  /* and then divided by the mean norm of what at most DF_FIT_ROWS rows of norm
                       1 in random directions, about b_dec where the encoder subtracts it, are
                       reconstructed as, about b_dec  (OpenAI: 256); not with biases made from the
                       encoder as it was drawn: QUANTILE and CENTRED */
    size_t k_start; /* k goes from here to its own value over k_steps; 0: it is constant */
    uint64_t k_steps;
    double k_curve; /* linearly: 0; or as (1 - e^(-curve t)) / (1 - e^-curve), t from 0 to 1
                       (OpenMOSS: 3) */
    df_k_round k_round;
    double aux;   /* AuxK weight */
    size_t aux_k; /* 0: width of one site / 2 */
    uint64_t dead_rows;
    double threshold_rate;
    bool threshold_from_zero;
    uint64_t threshold_start;  /* first step that moves the threshold */
    df_shuffle shuffle;        /* the order of rows; a synthetic set needs none */
    uint64_t buffer_rows;      /* of the buffer shuffle */
    uint64_t log_every;        /* steps */
    double checkpoint_seconds; /* volatile */
    const char *checkpoint;    /* path prefix: PREFIX.STEP.ckpt.h5, two are kept */
    const char *output;        /* PATH.dict.h5 */
    const char *resolved_job;  /* stored; compared on resume, as facts.inputs is */
    bool accept_kernel_path; /* volatile: resume a checkpoint of another kernel path, and record it
                                under /provenance */
    df_provenance facts;
} df_train_options;

/* Can a dictionary be trained so, whatever the data are? DF_USAGE says what not. Not collective. */
df_status df_train_check(const df_train_options *options) DF_MUST_CHECK;

/* Trains on a data set (site s of the dictionary is its site s); resumes from the newest valid
 * checkpoint of the same resolved job, on any number of ranks; returns DF_STOPPED after a
 * checkpoint on request. Rows are read ahead of the steps. Collective. */
df_status df_train(df_comm *comm, df_kernels *kernels, const df_rows *rows,
                   const df_train_options *options) DF_MUST_CHECK;

/* How many passes over the rows find their scales when a training begins: one, or two where norms
 * are those of centred rows, whose mean must be known first. Not collective. */
int df_train_passes(const df_train_options *options);

/* ---- a sweep -------------------------------------------------------------------------------- */

/* One dictionary of a sweep. */
typedef struct df_train_member {
    const char *name; /* for the log: "k8-m1024"; NULL: it is the only one */
    const df_train_options *options;
    const size_t *site; /* [sites] of the data set, as they stand in its rows; NULL: all sites */
    size_t sites;
} df_train_member;
/* Trains the members on the same rows, read once, side by side. Each becomes the dictionary that
 * df_train makes with its options and its sites alone, to the bit. They agree in batch, order_seed,
 * shuffle, buffer_rows, normalise, token_norm, centre and scale: DF_USAGE where they do not. Each
 * has its own output and checkpoints, resumes from its newest one and waits there for those that
 * are behind; a checkpoint or a stop is one of all. Collective. */
df_status df_train_sweep(df_comm *comm, df_kernels *kernels, const df_rows *rows,
                         const df_train_member *members, size_t n) DF_MUST_CHECK;
/* Where members are trained: ranks [first, first + count). With at least as many ranks as members a
 * member has ranks of its own, as many as its share of the encoder GEMMs asks for; with fewer, each
 * is trained on one rank, members being spread by the same measure. DF_USAGE where members do not
 * agree. Not collective. */
typedef struct df_train_place {
    int first, count;
} df_train_place;
df_status df_train_place_members(const df_train_member *members, size_t n, const df_rows *rows,
                                 int size, df_train_place *out) DF_MUST_CHECK;

/* ---- plans ---------------------------------------------------------------------------------- */

/* What df_train_sweep needs on rank `rank` (to be given) of `size`. Not collective. */
typedef struct df_train_plan {
    int rank;
    size_t members;        /* that have a part there */
    size_t bytes, scratch; /* own allocations, at most; of these for rows of some of the sites */
    df_cost cost;          /* of a step, at most */
    double flop;           /* of its encoder GEMMs */
} df_train_plan;
df_status df_train_plan_rank(const df_train_member *members, size_t n, const df_rows *rows,
                             df_screen screen, int size, df_train_plan *out) DF_MUST_CHECK;

/* A member's dictionary without its weights: rank `rank` of `size`. Not collective. */
df_status df_train_outline(const df_train_member *member, const df_rows *rows, int size, int rank,
                           df_dict **out) DF_MUST_CHECK;

#endif
