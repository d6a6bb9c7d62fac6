/* darkfield/dict.h: dictionaries (SAE, transcoder, crosscoder, cross-layer transcoder), the
 * distributed coder that runs them and takes training steps, their files. Whole trainings are in
 * train.h.
 *
 * One abstraction for every kind (design section 3): a row holds all sites of all models side by
 * side. Latents come in groups; a group reads a range of columns and writes a range of columns. An
 * autoencoder's target is the row itself, a transcoder's the output columns of the same row.
 *
 * Owner computes: ranks of one comm share the batch and split the latents. A latent's encoder row,
 * decoder row, optimiser state and counters live on one rank, which sees every row of the batch.
 * Selection is exact over all latents, ties broken by the smaller row, then the smaller latent.
 * Every result is a function of the dictionary, the settings and the rows, never of the number of
 * ranks or threads. */
#ifndef DARKFIELD_DICT_H
#define DARKFIELD_DICT_H

#include "darkfield/base.h"
#include "darkfield/comm.h"
#include "darkfield/groups.h"
#include "darkfield/kernels.h"
#include "darkfield/rows.h"
#include "darkfield/store.h"

/* ---- the dictionary ------------------------------------------------------------------------- */

/* Which latents are active: positive ones; the k best of a row; the k best per row on average over
 * a batch; those above a threshold of their own (Rajamanoharan et al. 2024, arXiv 2407.14435);
 * those whose gate is open (the same authors, arXiv 2404.16014). */
typedef enum df_activation { DF_RELU, DF_TOPK, DF_BATCHTOPK, DF_JUMPRELU, DF_GATED } df_activation;

/* What ranks latents against each other in TopK and BatchTopK, and weighs the penalties: the code
 * alone; times the sum of the sites' decoder norms (crosscoder: Lindsey et al. 2024, "Sparse
 * crosscoders"); times the norm of the whole decoder row, the root of the sum of their squares
 * (SAE); times that norm and DF_MIXED_SUM times the sum (crosscoder_learning, MIXED). DECOUPLED
 * (crosscoder_learning too): TopK and BatchTopK select once for each output site, k each time, by
 * the code times that site's decoder norm; a latent is then active for some of the sites and
 * reconstructs these alone. What does not select (penalties, AuxK) sees the sum. */
typedef enum df_code_norm {
    DF_NORM_NONE,
    DF_NORM_SUM,
    DF_NORM_ROOT,
    DF_NORM_MIXED,
    DF_NORM_DECOUPLED
} df_code_norm;
#define DF_MIXED_SUM 0.1
enum { DF_MAX_DECOUPLED = 32 }; /* output sites of a decoupled dictionary: at least two */

/* What the groups read and write:
 *   SAE               one group, one site, read and written
 *   CROSSCODER        one group, several sites (of models or layers), all read and all written
 *   TRANSCODER        one group, reads the input sites, writes the output sites
 *   SKIP_TRANSCODER   the same, and x^ += W_skip x (Paulo et al., arXiv 2501.18823)
 *   CLT               any groups; by default one for each input site l, which writes output sites
 * l, l + 1, ... (Ameisen et al. 2025, "Circuit tracing", cross-layer transcoder) */
typedef enum df_dict_kind {
    DF_SAE,
    DF_CROSSCODER,
    DF_TRANSCODER,
    DF_SKIP_TRANSCODER,
    DF_CLT
} df_dict_kind;
const char *df_dict_kind_name(df_dict_kind kind); /* "skip-transcoder" */

enum { DF_MAX_SITES = 256, DF_MAX_PREFIXES = 16 };

/* One site of one model: columns [first, first + width) of a row; a row holds n(x) * scale, where n
 * normalises this site's part of each row by its own numbers (kernels.h). */
typedef struct df_dict_site {
    char *name, *model;
    uint64_t first, width;
    double scale; /* by default 1 / sqrt(mean |x|^2) over the training rows: every site has unit
                     mean squared norm */
    bool input, output;       /* read, written; at least one of them */
    df_token_norm token_norm; /* other than NONE only where it is read and written: what is written
                                 alone would have to be known before it can be undone */
} df_dict_site;

/* Latents that read and write the same columns, which begin and end where sites do. Groups follow
 * each other without gap from latent 0; their columns may overlap. */
typedef struct df_dict_group {
    size_t first, count; /* latents */
    df_range in, out;    /* columns of a row that its encoders read, its decoders write */
    size_t block;        /* number of its first block; here and below: set with the dictionary */
    df_range local;      /* its latents on this rank, by local index */
    size_t enc, dec;     /* where the rows of local.first begin in w_enc and w_dec, in floats */
} df_dict_group;

/* What a dictionary is made of. Sites side by side in the order of a row: `first` is set from the
 * widths. Input sites are contiguous, so are output sites. group NULL: those of the kind, latents
 * of a CLT shared out evenly. */
typedef struct df_dict_shape {
    df_dict_kind kind;
    size_t latents;
    size_t sites, groups;
    const df_dict_site *site;
    const df_dict_group *group; /* first, count, in and out are read */
} df_dict_shape;

/* Encoder: p = W_enc (x_in - subtract_bias * b_dec) + b_enc, f = selected relu(p). Decoder: x^_out
 * = sum f W_dec (+ W_skip x_in) + b_dec. Latents are split into fixed blocks, which depend on the
 * groups' latents alone and never straddle two groups; a rank owns a contiguous run of whole
 * blocks. Rows of W_skip are shared out in fixed blocks too. */
typedef struct df_dict {
    df_dict_kind kind;
    size_t latents, width; /* m; columns of a row, all sites side by side */
    df_range in, out;      /* columns of all input sites, of all output sites */
    df_range mine;         /* latents of this rank: empty when there are more ranks than blocks */
    size_t block, blocks;  /* latents of a full block; blocks of the whole dictionary */
    float *w_enc, *w_dec;  /* latent after latent: rows of the group's in.count and out.count */
    float *b_enc;          /* [mine.count]; Gated: the bias of the gate */
    float *theta;          /* [mine.count] JumpReLU: f = p where p > theta >= 0; others: 0 */
    float *r_mag, *b_mag;  /* [mine.count] Gated: f = relu(exp(r_mag) (p - b_enc) + b_mag), p > 0 */
    float *b_dec;          /* [out.count], replicated */
    float *w_skip;         /* [skip_rows.count, in.count]; NULL: the kind has none */
    df_range skip_rows;    /* rows of W_skip on this rank, of out.count */
    df_activation activation;
    df_code_norm code_norm;
    size_t k;        /* TopK: per row; BatchTopK: mean per row in training */
    size_t prefixes; /* Matryoshka: latents [0, prefix[i]) reconstruct x too; 0: not nested */
    size_t prefix[DF_MAX_PREFIXES]; /* ascending, the last is m; the first may be 0: b_dec alone */
    float threshold; /* BatchTopK at inference: active where f * norm > threshold; < 0: not yet
                        known */
    float site_threshold[DF_MAX_DECOUPLED]; /* the same of each output site, where they select
                                               decoupled */
    bool subtract_bias;                     /* only where in is out */
    size_t sites, groups;
    df_dict_site *site;
    df_dict_group *group;
    uint16_t *group_index; /* [mine.count] group of each latent; NULL: there is one group */
    /* Crosscoders over models; df_dict_bind sets all four. */
    size_t shared;    /* latents [0, shared) have one decoder row, the same in every model */
    size_t dedicated; /* the last `dedicated` latents of each model, model after model, read and
                         write its columns alone: what they hold of others is zero */
    size_t models;    /* 0: no latent is bound */
    df_range *model;  /* [models] columns */
    char *job;        /* resolved job file, or NULL */
} df_dict;

/* The group, encoder row [in.count] and decoder row [out.count] of a local latent. */
static inline const df_dict_group *df_dict_group_of(const df_dict *d, size_t local) {
    return &d->group[d->group_index == NULL ? 0 : d->group_index[local]];
}
static inline float *df_dict_enc(const df_dict *d, size_t local) {
    const df_dict_group *g = df_dict_group_of(d, local);
    return d->w_enc + g->enc + (local - g->local.first) * g->in.count;
}
static inline float *df_dict_dec(const df_dict *d, size_t local) {
    const df_dict_group *g = df_dict_group_of(d, local);
    return d->w_dec + g->dec + (local - g->local.first) * g->out.count;
}
/* Does the group write the site? Then at column site->first - group->out.first of a decoder row. */
static inline bool df_dict_writes(const df_dict_group *g, const df_dict_site *site) {
    return site->output && site->first >= g->out.first && site->first < g->out.first + g->out.count;
}
/* The block of a local latent. */
static inline size_t df_dict_block_of(const df_dict *d, size_t local) {
    const df_dict_group *g = df_dict_group_of(d, local);
    return g->block + (d->mine.first + local - g->first) / d->block;
}

/* The code norm of a local latent, from its decoder row as it is: the sum where it is decoupled.
 * Not collective. */
double df_dict_code_norm(const df_dict *dict, size_t local);
/* Does it select for each output site by itself? */
static inline bool df_dict_decoupled(const df_dict *d) {
    return d->code_norm == DF_NORM_DECOUPLED &&
           (d->activation == DF_TOPK || d->activation == DF_BATCHTOPK);
}
/* DF_USAGE says what it lacks for that: sites, one group, no prefixes. Not collective. */
df_status df_parts_check(const df_dict *dict) DF_MUST_CHECK;
/* BatchTopK's thresholds: how many, and the n-th. Not collective. */
size_t df_dict_thresholds(const df_dict *dict);
static inline float *df_dict_threshold(df_dict *d, size_t n) {
    return df_dict_decoupled(d) ? &d->site_threshold[n] : &d->threshold;
}

/* The block size for m latents: a multiple of 16, about m / 64. Not collective. */
size_t df_dict_block_latents(size_t latents);
/* Latents of a block, and of one rank of `size`. Not collective. */
df_range df_dict_block(const df_dict *dict, size_t block);
df_range df_dict_share(const df_dict *dict, int size, int rank);
/* Rows of W_skip of one rank: whole blocks of DF_SKIP_ROWS. Not collective. */
enum { DF_SKIP_ROWS = 64 };
df_range df_dict_skip_share(const df_dict *dict, int size, int rank);
/* Floats of the encoder (decoder) rows of latents [0, latents). Not collective. */
size_t df_dict_enc_floats(const df_dict *dict, size_t latents);
size_t df_dict_dec_floats(const df_dict *dict, size_t latents);
/* How many sites are written, and the n-th of them (from 0). Not collective. */
size_t df_dict_outputs(const df_dict *dict);
const df_dict_site *df_dict_output(const df_dict *dict, size_t n);

/* The columns of each model of a crosscoder, out [DF_MAX_SITES]; returns how many models. Sites of
 * one model are neighbours; of two sites each is a model's, even where a model is compared with
 * itself. Not collective. */
size_t df_dict_models(const df_dict *dict, df_range *out);
/* Makes latents of a crosscoder shared ("Insights on crosscoder model diffing", Anthropic, February
 * 2025: features that both models have need not be found twice, and leave the others free for what
 * differs) and dedicated (arXiv 2602.11729, dedicated feature crosscoders). Weights there are must
 * be brought in line with df_dict_bind_latent. DF_USAGE: the kind is another, there is one model,
 * shared models have sites of different widths, or there are too few latents. Not collective. */
df_status df_dict_bind(df_dict *dict, size_t shared, size_t dedicated) DF_MUST_CHECK;
/* Brings a local latent in line: the first model's part of its decoder row stands for all, columns
 * of other models become zero. Nothing where the latent is not bound. Not collective. */
void df_dict_bind_latent(df_dict *dict, size_t local);
/* Is it? Not collective. */
bool df_dict_latent_is_bound(const df_dict *dict, size_t local);
/* The columns that a latent of a bound dictionary may read and write. Not collective. */
df_range df_dict_reach(const df_dict *dict, size_t local);
static inline bool df_dict_is_shared(const df_dict *d, size_t local) {
    return d->mine.first + local < d->shared;
}

/* Allocates an all-zero dictionary with this rank's share; sites and groups are copied.
 * DF_BAD_INPUT names what does not fit: groups that leave gaps, ranges that are no sites', a kind
 * with other groups. subtract_bias starts true where in is out. Not collective. */
df_status df_dict_make(df_comm *comm, const df_dict_shape *shape, df_dict **out) DF_MUST_CHECK;
/* The usual ones: an SAE or, of several sites, a crosscoder; all sites are read and written. */
df_status df_dict_new(df_comm *comm, size_t latents, const df_dict_site *sites, size_t n_sites,
                      df_dict **out) DF_MUST_CHECK;
/* Rank `rank` of `size` without its weights: what plans need. Not collective. */
df_status df_dict_outline(const df_dict_shape *shape, int size, int rank,
                          df_dict **out) DF_MUST_CHECK;
/* Bytes of the weights that df_dict_make gives the rank of a dictionary or an outline. */
size_t df_dict_bytes(const df_dict *dict);
void df_dict_free(df_dict **dict);
/* Decoder rows drawn N(0,1) by (seed, latent, column), each site's part scaled to `norm`. Encoder =
 * decoder transposed times `encoder_scale` where a group reads what it writes; elsewhere drawn the
 * same way in its own columns, of norm `norm * encoder_scale`. b_enc and W_skip 0; b_dec as given
 * [out.count]. Not collective; same numbers on any rank count. */
void df_dict_initialise(df_dict *dict, uint64_t seed, double norm, double encoder_scale,
                        const float *b_dec);
/* A dictionary of rows less a mean [width], in dictionary units, becomes the same of whole rows:
 * b_enc -= W_enc mean_in (Gated: b_mag -= exp(r_mag) W_enc mean_in too), unless the encoder
 * subtracts b_dec; b_dec += mean_out - W_skip mean_in. Codes stay as they are, up to the rounding
 * of the biases. Collective where there is a W_skip, else not, and `comm` may be NULL. */
df_status df_dict_fold_mean(df_comm *comm, df_dict *dict, const float *mean) DF_MUST_CHECK;

/* ---- the coder ------------------------------------------------------------------------------ */

/* Active latents of a batch on this rank: row r has entries start[r] .. start[r+1], ascending by
 * latent. */
typedef struct df_codes {
    size_t rows;
    uint64_t *start;  /* [rows + 1] */
    uint32_t *latent; /* LOCAL index: global latent = dict->mine.first + latent */
    float *value;     /* f > 0, settled */
    uint32_t *sites;  /* decoupled: bit n where it is active for the n-th output site, at least one
                         of them; NULL: active for all */
} df_codes;

typedef struct df_coder df_coder; /* a dictionary with its comm, kernels and scratch */
/* Borrows all three. max_rows bounds the rows of one call. Collective. */
df_status df_coder_open(df_comm *comm, df_kernels *kernels, df_dict *dict, size_t max_rows,
                        df_coder **out) DF_MUST_CHECK;
/* The same by data groups, for training: `dict` is this rank's share among the shards of its group;
 * max_rows are a batch's. Wherever rows of a batch are told, x, codes and errors are then of this
 * group's rows alone: df_groups_rows. */
df_status df_coder_open_groups(const df_groups *groups, df_kernels *kernels, df_dict *dict,
                               size_t max_rows, df_coder **out) DF_MUST_CHECK;
void df_coder_close(df_coder **coder);
/* What open (and train_open) will allocate for this rank's share of `dict`, on `size` ranks. */
size_t df_coder_plan_bytes(const df_dict *dict, df_screen screen, size_t max_rows, int size,
                           bool training);
size_t df_coder_plan_groups(const df_dict *dict, df_screen screen, size_t max_rows,
                            const df_group_place *at, bool training);

/* Entries that plans count for the codes of so many rows on this rank: k a row (TopK), DF_ABOVE_K
 * times k (BatchTopK at inference, where a threshold selects: half-trained dictionaries have most),
 * an eighth of all where nothing bounds them. For buffers that can grow; the coder's own have the
 * same room, or that of all entries where nothing bounds them. A BatchTopK batch with more takes
 * more memory than planned, and is warned of. */
enum { DF_ABOVE_K = 2 };
size_t df_codes_expected(const df_dict *dict, size_t rows);

/* x [rows, width], the same on every rank, in dictionary units (scaled). training selects BatchTopK
 * by batch instead of by threshold. *codes points into the coder and holds until its next call.
 * Collective. */
df_status df_coder_encode(df_coder *coder, const float *x, size_t rows, bool training,
                          const df_codes **codes) DF_MUST_CHECK;
/* x_hat [share of rows, out.count] for the rows df_share(rows, size, rank) of this rank, summed
 * over latent blocks in the fixed tree, then W_skip x of the rows last encoded, b_dec last.
 * Collective. */
df_status df_coder_decode(df_coder *coder, const df_codes *codes, float *x_hat) DF_MUST_CHECK;
/* encode (inference) then decode for rows that each rank brings: x_mine [n, width], n the same on
 * every rank (pad with zero rows), x_hat_mine [n, out.count]. `codes` may be NULL. Collective. */
df_status df_coder_apply(df_coder *coder, const float *x_mine, size_t n, float *x_hat_mine,
                         const df_codes **codes) DF_MUST_CHECK;

/* ---- one training step ---------------------------------------------------------------------- */

/* What a step minimises:
 *   L = reconstruction + weight * sparsity + preact * pre-activation loss + gate + aux * AuxK,
 * each a sum over rows divided by their number. Public trainers disagree on most of the following;
 * every disagreement is named here, with who holds which (reference dictionaries.md 2.1 to 2.9).
 * All zero is the squared error alone. */

/* mean over rows of sum e^2 (dictionary_learning, SAELens); that divided by the number of output
 * sites, or by that of the columns written (BatchTopK's authors); mean over rows and output sites
 * of |e_site|, not squared (crosscoder_learning, and dictionary_learning's p-annealing); sum e^2 /
 * sum (x - mean x)^2 over the batch (sparsify), or the sum of that of every output site
 * (clt-training, whose layers have a loss each); mean over rows of sum e^2, divided by `variance`,
 * that of a fixed sample (OpenAI: every batch has the same scale). */
typedef enum df_reconstruction {
    DF_SQUARED_SUM,
    DF_SQUARED_MEAN,
    DF_SQUARED_COLUMNS,
    DF_UNSQUARED,
    DF_FVU,
    DF_FVU_SITES,
    DF_FVU_SAMPLE
} df_reconstruction;

/* Sparsity, with s = f times code norm (Gated: of relu(p), the gate's code, for f):
 *   L1         sum_j s                               dictionary_learning, Anthropic April 2024
 *   LP         sum_j s^p, or its root ^(1/p)         Lp^p and Lp of p-annealing; SAELens, OpenMOSS
 *   TANH       sum_j tanh(c s)                       Anthropic January 2025, SAELens
 *   L0         mean number active                    Gemma Scope, SAELens; JumpReLU
 *   L0_TARGET  (mean number active / target - 1)^2   dictionary_learning; JumpReLU
 * NONE reports sum_j s and gives it no weight. */
typedef enum df_penalty {
    DF_PENALTY_NONE,
    DF_PENALTY_L1,
    DF_PENALTY_LP,
    DF_PENALTY_TANH,
    DF_PENALTY_L0,
    DF_PENALTY_L0_TARGET
} df_penalty;

typedef struct df_objective {
    df_reconstruction reconstruction;
    double variance; /* FVU_SAMPLE: mean over a sample's rows of sum (x - mean x)^2; positive */
    df_penalty penalty;
    double weight;        /* lambda, where warm-up and annealing stand */
    double power;         /* LP: p > 0 */
    double next_power;    /* LP: reports the penalty at this p too, for annealing; 0: does not */
    bool rooted;          /* LP: the root of each row's sum */
    double shared_weight; /* what the penalty of shared latents is multiplied by (Anthropic,
                             February 2025: 0.1 to 0.2); L1, LP without root and TANH */
    double tanh_scale;    /* TANH: c (4) */
    double target_l0;     /* L0_TARGET */
    /* JumpReLU. With r = 1 where |p - theta| < bandwidth / 2:  df/dtheta = -theta / bandwidth r,
     * d(number active)/dtheta = -1 / bandwidth r. */
    double bandwidth; /* 0.001 (Gemma Scope, dictionary_learning), 0.05 (SAELens), 2 (Anthropic) */
    bool raw_threshold; /* Adam moves theta (dictionary_learning; kept from falling below 0), else
                           its logarithm (Gemma Scope, SAELens, Anthropic) */
    bool plain_log;     /* the logarithm gets dL/dtheta as it is (crosscode, BatchTopK), else times
                           theta */
    bool positive_window; /* r = 0 where p <= 0 (OpenMOSS) */
    bool step_on_codes;   /* r of the number active sees f for p: entries below theta count only
                             where theta < bandwidth / 2 (dictionary_learning) */
    bool gradient_to_all; /* p gets minus what theta gets (Anthropic January 2025), else nothing */
    /* Pre-activation loss: mean over rows of sum_j relu(theta_j - p_j) norm_j over all latents
     * (Anthropic January 2025: weight 3e-6), or the dead ones (SAELens). Not TopK, BatchTopK; theta
     * is 0 where there is none. */
    double preact;
    bool preact_dead;
    /* Gated: mean over rows of |x - (relu(p) W_dec + b_dec)|^2 trains W_dec and b_dec too
     * (SAELens), else not (dictionary_learning). */
    bool gate_trains_decoder;
} df_objective;

/* AuxK lets the dead latents explain the error: weight * sum |e^ - t|^2 / rows / normaliser, where
 * e^ is decoded from the min(aux_k, dead) dead latents of each row with the largest scores and
 * t = e. What public trainers do differently: */
typedef enum df_aux_normaliser {
    DF_AUX_RESIDUAL, /* mean over rows of sum (e - mean e)^2: dictionary_learning, OpenAI */
    DF_AUX_TARGET,   /* mean over rows of sum (x - mean x)^2: sparsify */
    DF_AUX_NONE      /* SAELens */
} df_aux_normaliser;
typedef enum df_aux_bias {
    DF_AUX_BIAS_NONE,   /* dictionary_learning, crosscoder_learning */
    DF_AUX_BIAS_DECODE, /* e^ has b_dec: SAELens, sparsify */
    DF_AUX_BIAS_BOTH    /* e^ has it, and t = e + b_dec with b_dec held fixed: OpenAI */
} df_aux_bias;

typedef struct df_step_settings {
    double lr, beta1, beta2, epsilon;
    df_objective objective;
    double prefix_weight; /* Matryoshka: of the squared error of every prefix */
    double multi; /* Multi-TopK: weight of the FVU with 4 k latents (sparsify: 1/8); TopK only */
    double aux;   /* AuxK weight (1/32); 0: none */
    size_t aux_k; /* min(aux_k, dead) dead latents per row */
    df_aux_normaliser aux_normaliser;
    df_aux_bias aux_bias;
    bool aux_raw;      /* those latents are ranked by their pre-activations (times the code norm)
                          and decoded from them, negative ones too, which get gradients as any
                          (SAELens, curt-tigges/crosslayer-coding); else by what relu leaves */
    bool aux_scaled;   /* times min(dead / aux_k, 1): SAELens, sparsify */
    bool aux_attached; /* e is not held fixed: OpenMOSS, crosscode; normaliser TARGET or NONE */
    bool aux_decoder_only; /* the encoder gets no gradient of AuxK and Multi-TopK: sparsify, whose
                              fused encoder drops it, so that it revives no dead latent */
    uint64_t dead_rows;    /* a latent is dead when it has not fired for this many rows */
    double fired_above;    /* a latent fires with a code above this: 0, or 1e-3 (OpenAI) */
    bool fired_selected;   /* or by being among the k selected, even with a code of 0: where a row
                              has fewer positive ones, the first of the others (TopK of
                              dictionary_learning and sparsify, whose lists of indices count) */
    double clip; /* gradients are scaled so that their norm over all is at most this; 0: not */
    double ema;  /* the averages of the weights keep this share (0.999); 0: none are kept */
    bool unit_decoder; /* decoder rows have norm 1 (whole row): project the gradient off the row,
                          clip, Adam, normalise (dictionary_learning) */
    bool unit_first;   /* or: normalise, project, clip, Adam, so that rows leave a step without unit
                          norm (OpenAI) */
    double threshold_rate;    /* BatchTopK: threshold <- (1 - rate) threshold + rate * smallest
                                 selected score */
    bool threshold_from_zero; /* it begins as 0 (SAELens), else as the first such score
                                 (dictionary_learning, crosscoder_learning) */
} df_step_settings;

typedef struct df_step_report {
    double loss;                                /* the weighted sum of the terms */
    double reconstruction, sparsity, auxiliary; /* without their weights */
    double preactivation, gate, next_sparsity;  /* the latter at objective.next_power */
    double
        nested; /* Matryoshka: the weighted errors of all prefixes, which is reconstruction then */
    double multi;  /* FVU with 4 k latents */
    double norm;   /* of all gradients together, before clipping; 0 where nothing is clipped */
    double l0;     /* mean active per row */
    uint64_t dead; /* before this step's update */
    double fvu[DF_MAX_SITES]; /* per output site, of this batch: error / spread */
    double error[DF_MAX_SITES], spread[DF_MAX_SITES]; /* sum e^2, sum (x - batch mean)^2 */
    /* Screening; the rest of encoding (packing, selection); settling; decode, error, code gradients
     * and statistics; sorting by latent, losses and AuxK; gradients and Adam. The first and third
     * are means over threads. Communication is also part of those. */
    double screen_seconds, select_seconds, settle_seconds, decode_seconds, gradient_seconds,
        adam_seconds, comm_seconds;
    uint64_t dense_rows; /* rows whose candidates were too many and were settled early */
} df_step_report;

/* Optimiser state of this rank's latents, and the replicated b_dec's. */
typedef struct df_trainer_state {
    float *m_enc, *v_enc, *m_dec, *v_dec; /* laid out like w_enc and w_dec */
    float *m_bias, *v_bias;               /* [mine.count] b_enc */
    float *m_theta, *v_theta;             /* [mine.count] JumpReLU: theta or its logarithm */
    float *m_r_mag, *v_r_mag, *m_b_mag, *v_b_mag; /* [mine.count] Gated */
    float *m_center, *v_center;                   /* [out.count] b_dec */
    float *m_skip, *v_skip;                       /* laid out like w_skip */
    uint64_t *silent;                             /* [mine.count] rows since last fired */
    uint64_t step;                                /* Adam steps taken */
    df_dict *ema; /* averages of the weights, from 0: to be divided by 1 - ema^step; NULL: none */
} df_trainer_state;

/* Batches with at least this share of all entries active are trained by products of whole matrices
 * (ReLU, JumpReLU and Gated, of one group and not nested; 1/8 unless set). The same bytes need the
 * same share. Not collective. */
void df_coder_dense_above(df_coder *coder, double share);

df_status df_coder_train_open(df_coder *coder) DF_MUST_CHECK; /* allocates the state, zero */
df_trainer_state *df_coder_state(df_coder *coder);
/* Room for what not every training needs, after train_open: Multi-TopK, averages of the weights,
 * and the prefixes of a Matryoshka dictionary; and its bytes. Collective; plan: not collective. */
typedef struct df_train_room {
    bool multi, ema;
} df_train_room;
df_status df_coder_train_extend(df_coder *coder, const df_train_room *room) DF_MUST_CHECK;
/* Puts the averages, freed of their start from 0, in the place of the weights. Not collective. */
void df_coder_use_averages(df_coder *coder, double ema);
size_t df_coder_room_bytes(const df_dict *dict, size_t batch, const df_group_place *at,
                           const df_train_room *room);
/* One step of the objective, AuxK being |e - e^_aux|^2 / |e - mean e|^2 (e detached; DL's AuxK;
 * reference dictionaries.md 2.3), and Adam (PyTorch's formula). NaN loss is DF_FAILED; an objective
 * that the dictionary's kind does not have is DF_USAGE. Collective. */
df_status df_coder_step(df_coder *coder, const float *x, size_t rows,
                        const df_step_settings *settings, df_step_report *report) DF_MUST_CHECK;
/* What a step would refuse (DF_USAGE): settings that do not go together, or not with a dictionary
 * of this kind, activation, code norm, shared latents and prefixes; more AuxK latents than a coder
 * has room for, told of an outline whose k is the largest of the training. Not collective. */
df_status df_step_check(const df_dict *dict, const df_step_settings *settings) DF_MUST_CHECK;
df_status df_step_fits(const df_dict *dict, size_t aux_k) DF_MUST_CHECK;
/* Dead latents begin anew (dictionary_learning, resample_neurons; Anthropic, "Towards
 * monosemanticity"): rows are drawn without replacement, probability as |e|^power of their error
 * under the present weights; a dead latent gets such a row times scale times the mean norm of the
 * living encoder rows as its encoder, the row brought to norm 1 as its decoder, b_enc 0 and zero
 * moments. Draws depend on (seed, step, row) alone; the i-th dead latent gets the i-th row drawn.
 * Where there are more of them than rows with an error, the last ones stay as they are. Collective.
 */
typedef struct df_resample {
    uint64_t dead_rows, seed, step;
    double power; /* 1: dictionary_learning; 2: crosscoder_learning, Anthropic */
    bool unit; /* the row is brought to norm 1 for the encoder too (Anthropic): as it is, a long row
                  gives a latent that outshouts the others */
    double scale; /* 0.2; crosscoder_learning: 0.05 */
} df_resample;
df_status df_coder_resample(df_coder *coder, const float *x, size_t rows, const df_resample *how,
                            uint64_t *replaced) DF_MUST_CHECK;
/* The gradients alone, for tests: this rank's rows of each tensor, weights untouched. NULL members
 * are skipped. Collective. */
typedef struct df_gradients {
    float *w_enc, *w_dec, *b_enc, *b_dec, *w_skip;
    float *theta; /* with respect to what Adam moves: theta or its logarithm */
    float *r_mag, *b_mag;
} df_gradients;
df_status df_coder_gradients(df_coder *coder, const float *x, size_t rows,
                             const df_step_settings *settings, df_gradients *out,
                             df_step_report *report) DF_MUST_CHECK;

/* p-annealing (dictionary_learning, PAnnealTrainer): the power falls from `from` to `to` in equal
 * updates at equal distances between the steps `start` and `end`, each taking effect after its
 * step; at each, the weight is multiplied by mean(penalty at p) / mean(penalty at the next p) over
 * the last DF_ANNEAL_QUEUE steps. */
enum { DF_ANNEAL_QUEUE = 10 };
typedef struct df_anneal_plan {
    uint64_t start, end; /* steps; end - start >= updates */
    double from, to;     /* both positive */
    size_t updates;      /* at least 2 */
} df_anneal_plan;
typedef struct df_anneal {
    double factor; /* of the weight so far; start from 1 */
    size_t count;
    double now[DF_ANNEAL_QUEUE], next[DF_ANNEAL_QUEUE];
} df_anneal;
/* power, next_power and weight of a step (from 0). Not collective. */
void df_anneal_set(const df_anneal_plan *plan, const df_anneal *anneal, uint64_t step,
                   df_objective *objective);
/* Takes in the report of that step. Not collective. */
void df_anneal_note(const df_anneal_plan *plan, df_anneal *anneal, uint64_t step,
                    const df_step_report *report);

/* ---- communication of a step ---------------------------------------------------------------- */

/* What one step of a dictionary costs a rank in communication, rows being those of all data groups:
 * the formula, one line for each collective of df_coder_step in its order. Counts as
 * df_comm_traffic does. Exact but for BatchTopK, whose cut takes none, 3 or 9 passes of a radix
 * count, as the batch has it, and TopK and AuxK, which exchange winners again where a floor was too
 * high: `least` and `most`. objective: the terms it has; next_power counts. aux_k: latents that
 * AuxK uses, 0 while none is dead. Independent of the latents but for the number of blocks: O(rows
 * * width), and with several groups the gradients of a share of latents besides. What Matryoshka,
 * Multi-TopK, clipping, resampling and fired_selected add is not in it. Not collective. */
typedef struct df_step_cost {
    df_cost least, most;
} df_step_cost;
df_step_cost df_coder_step_cost(const df_dict *dict, const df_objective *objective, size_t rows,
                                size_t aux_k, const df_group_place *at);

/* flop/s of the encoder GEMM alone on this rank's threads, fp32, B = rows, for this rank's latents
 * of the dictionary: the unit in which the time of a step is stated. Takes about as long as three
 * of them, at most some tenths of a second. Not collective. */
df_status df_gemm_rate(const df_dict *dict, size_t rows, double *out) DF_MUST_CHECK;
/* Its flop for latents [first, first + count): 2 rows sum of the encoder rows' widths. */
double df_gemm_flop(const df_dict *dict, size_t rows, df_range latents);

/* ---- files ---------------------------------------------------------------------------------- */

/* *.dict.h5 (design section 5). Reads this rank's share; DF_BAD_INPUT names what is
 * wrong. Collective. */
df_status df_dict_load(df_comm *comm, const char *path, df_dict **out) DF_MUST_CHECK;
/* The share of rank `rank` of `size` without its weights: only the header is read and checked. Not
 * collective. */
df_status df_dict_load_outline(const char *path, int size, int rank, df_dict **out) DF_MUST_CHECK;

/* What plans of stages that read a dictionary know of it: rank 0 of `size`, which has most. */
typedef struct df_dict_plan {
    const df_dict *dict; /* an outline */
    df_screen screen;    /* that the coder will have room for: df_kernels_spare_screen */
    int size;
} df_dict_plan;

/* The training history, one row per logging interval: written into the dictionary file as
 * /history/<column> f64. Loss terms and L0 are means over the interval's steps, an FVU is the sum
 * of its errors over the sum of its spreads; step, rows, dead and lr are those of its last step. */
typedef struct df_history {
    size_t rows, capacity, sites; /* sites that are written */
    double *values; /* [rows, 13 + sites]: step, rows seen, loss, reconstruction, sparsity,
                       auxiliary, l0, dead, lr, preactivation, gate, nested, multi, fvu per
                       output site */
    double *sums;   /* of the interval so far: what a checkpoint must hold too */
} df_history;
df_status df_dict_save(df_comm *comm, const char *path, const df_dict *dict,
                       const df_history *history, const char *resolved_job, uint64_t seed,
                       uint64_t rows_seen, const df_provenance *facts) DF_MUST_CHECK;

/* ---- rows ----------------------------------------------------------------------------------- */

/* Rows [n, width] from the models' units into the dictionary's. Not collective. */
void df_rows_scale(const df_dict *dict, float *x, size_t n);
/* Back into the models' units: what stands for a site [site width] of the row whose part x is in
 * them, and x_hat [n, out.count] of the rows x [n, width]. Not collective. */
void df_site_restore(const df_dict_site *site, const float *x, float *x_hat);
void df_rows_restore(const df_dict *dict, const float *x, size_t n, float *x_hat);
/* Is some site normalised row by row? Units then differ from row to row. Not collective. */
bool df_dict_tokenwise(const df_dict *dict);
/* Reads rows (ascending or not) of all sites side by side in dictionary units: out [n, width]; raw:
 * in the models' units. Not collective. */
df_status df_rows_gather_raw(const df_dict *dict, df_acts *const *acts, const size_t *site,
                             const uint64_t *rows, size_t n, float *out) DF_MUST_CHECK;
df_status df_rows_gather(const df_dict *dict, df_acts *const *acts, const size_t *site,
                         const uint64_t *rows, size_t n, float *out) DF_MUST_CHECK;

#endif
