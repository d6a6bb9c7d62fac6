/* Inside the coder: its scratch, and the stages of a batch (bounds, screen, pick, codes, decode,
 * gradients). */
#ifndef DF_CODER_H
#define DF_CODER_H

#include "darkfield/dict.h"
#include "darkfield/groups.h"

#include <float.h>
#include <string.h>

#define SCREEN_TILES 72          /* of rows in one unit of screening, at most */
#define SCREEN_BYTES (768 << 10) /* of packed rows in a unit: the second-level cache */
#define POOL_TILES 18            /* whose candidates may take more than POOL_ENTRIES */
#define POOL_ENTRIES (1 << 19)   /* candidates in a unit, of 24 bytes */
/* How far a floor begins below what the last batch's cut tells, relatively: at first; at least. */
#define FIRST_MARGIN 0.1f
#define LEAST_MARGIN 0.02f
#define MOST_MARGIN 0.5f
#define DF_CERTAIN 2.0f /* bounds below upper that a score lies at most (df_candidates) */
#define BLOCK_TERMS 3   /* sums that a block of latents adds to the losses (objective.h) */
#define STAT_ROWS 64    /* rows in one leaf of the batch statistics */
#define DENSE_UNIT 8    /* tiles of rows in a unit of dense.c */
#define DENSE_LATENTS (8 * DF_TILE_LATENTS) /* whose gradients dense.c makes together, at most */
#define DENSE_CHUNK 512                     /* rows whose products dense.c sums at a time */
#define STACK_DEPTH 20 /* of the tree over blocks: at most 64, and one more for each group */

/* Candidates of one row (TopK) or of a thread's rows (others). The first `exact` are settled: upper
 * is their score, value their code. Of the others, upper is a bound of the score, and value a score
 * that they reach: certainly at upper - 2 bounds (DF_CERTAIN), in all likelihood a little below the
 * screened score, which is upper - 1 bound: the errors of D columns cancel where their bound adds
 * them up, so that their standard deviation is about bound / sqrt(2 D). Floors are made of these;
 * who selects checks that enough exact scores reach them. */
typedef struct df_candidates {
    float *upper, *value;   /* [capacity] */
    uint32_t *row, *latent; /* [capacity] */
    size_t count, exact, capacity;
    size_t limit;     /* entries to hold at most; up to capacity */
    size_t next;      /* a row is narrowed when it holds that many */
    float floor;      /* nothing below it can be selected */
    const float *cut; /* [local] scores are p - cut, values p; NULL: both are of relu(p) */
} df_candidates;

/* A panel of the screen: up to 32 latents of one group, side by side. */
typedef struct df_latents {
    size_t first, count, group; /* local latents */
    size_t packed;              /* where it begins, in bytes */
    float slack, length;        /* the largest of its latents */
} df_latents;

/* Latents to screen: all of this rank's, or those of a list (AuxK). */
typedef struct df_view {
    size_t n;
    const uint32_t *list; /* local latents, ascending; NULL: 0 .. n-1 */
    const float *lift;    /* [local] instead of the coder's, where list is NULL */
} df_view;

/* What TopK's k-th best score will be at least, from earlier batches. */
typedef struct row_guess {
    float level;  /* per size of the row (df_row_size) that nearly all rows of the last one reach */
    float margin; /* how far below it, relatively, the next one's floors begin */
    size_t k;     /* that it was learned with; 0: nothing is known */
} row_guess;

/* dL/df = product * <vector, decoder row> + norm * price. */
typedef struct df_code_factor {
    float product, norm;
} df_code_factor;

/* What a batch of codes needs besides df_codes itself. */
typedef struct df_code_store {
    df_codes codes; /* value is the start of one allocation that holds all [capacity] arrays */
    size_t capacity;
    bool training;          /* the arrays below exist */
    float *gradient;        /* [capacity] dL/df, in the order of codes (not of late ones) */
    uint64_t *latent_start; /* [local + 1] the same entries by latent, rows ascending */
    uint32_t *sorted_row;   /* [capacity] */
    float *sorted_value, *sorted_gradient; /* [capacity] */
    bool panels; /* codes lie in panels (dense.c): their values where sorted_value is, their dL/df
                    where sorted_gradient is; only codes.start and rows stand */
    bool decoupled;         /* codes.sites exist, and: */
    uint32_t *sorted_sites; /* [capacity] in training */
} df_code_store;

/* Where the next batch's floor begins. */
typedef struct df_cut {
    float score;  /* BatchTopK: the smallest selected score; 0 when nothing was selected */
    float margin; /* how far below it, relatively, the next batch's floor begins */
    float fall;   /* what it has fallen by from one batch to the next, relatively, lately at most */
} df_cut;

/* Scratch of one thread. */
typedef struct df_worker {
    float *product;  /* [DF_TILE_ENTRIES] of one tile */
    uint32_t *mask;  /* [DF_TILE_ROWS] */
    uint16_t *place; /* [DF_TILE_PLACES] */
    float *least;    /* [DF_TILE_ROWS] floors, lowered by the bound */
    float *floor;    /* [df_screen_unit(0)] of the rows of a unit */
    char *gathered;  /* a panel of latents of a list, and their bounds [DF_TILE_LATENTS] */
    float *gain, *lift;
    int32_t *start;
    df_candidates *rows; /* [df_screen_unit(0)] views into pool */
    float *pool;         /* [df_screen_unit(k), 4, df_row_capacity(k)] of any k up to row_k */
    uint64_t *places; /* [df_screen_unit(k), df_row_capacity(k)] entries of the rows, to settle */
    uint32_t *latent_end; /* [local + 1] of them, by latent */
    df_candidates list;
    float *order;   /* [order_capacity] scratch of quickselect */
    uint64_t *keys; /* the same */
    size_t order_capacity;
    float *stack;         /* [STACK_DEPTH, out] of the tree */
    float *g_enc, *g_dec; /* of one latent */
    float *run_stack;     /* [df_run_depth, widest gradient of a latent] of the tree over runs */
    float *dense_left, *dense_sums;
    double *dense_bias;                  /* [DF_TILE_LATENTS] */
    uint32_t *entry_row;                 /* [max_rows] one latent's entries, out of their panel */
    float *entry_value, *entry_gradient; /* [max_rows] */
    float *tile;                         /* [DF_SKIP_ROWS, in.count] of W_skip's gradient */
    double screen_seconds, settle_seconds;
    uint64_t settled;      /* candidates that were settled */
    uint64_t settled_rows; /* rows whose candidates did not fit */
    uint64_t missed_rows;  /* rows whose floor was too high */
    df_status status;
} df_worker;

struct df_coder {
    df_comm *comm; /* the ranks of this group */
    df_groups groups;
    df_kernels *kernels;
    df_dict *dict;
    int rank, size, threads;
    size_t max_rows, local;
    size_t max_batch; /* rows of all groups, as max_rows of this one */
    size_t width;     /* columns of a row */
    size_t out;       /* columns that are written: of errors and reconstructions */
    df_range my_blocks;
    void *arena;
    df_worker *worker; /* [threads] */

    size_t row_k; /* the rows' candidates have room for TopK with at most this k */

    const float *x; /* [rows, width] of the current batch: this group's */
    size_t rows;
    size_t batch, first_row; /* rows of all groups; how many come before this one's */
    size_t runs, *run_start; /* of rows; [runs + 1] where each begins among this group's */
    float *centered;         /* [max_rows, width] x - b_dec */
    const float *input;      /* centered or x: what the encoder reads */
    df_screen screen, spare; /* spare: what there is room for, when the first serves badly */
    size_t panels;
    df_latents *panel; /* [panels] this rank's latents */
    char *packed_latents;
    char *packed_rows;      /* by group, then by tile of rows */
    size_t *group_rows;     /* [groups] where a group's begin, in bytes */
    size_t padded_rows;     /* max_rows in whole tiles */
    float *x_norm, *x_lost; /* [groups, padded_rows] sizes of a group's input columns and of what
                               packing lost, rounded up */
    float *x_unit;          /* [groups, padded_rows] of the packed row */
    float *norm;            /* [local + 32, as the next nine: panels are read whole] code norm */
    float *scale;           /* what a code is multiplied by before it is ranked: the norm, or 1 */
    float *unit, *lost;     /* of the packed latents (df_packed) */
    float *gain;            /* scale times unit */
    float *slack, *length, *extra; /* a screened score is off by at most x_norm *
                                     slack + x_lost * length + extra */
    float *lift;                   /* b_enc * scale + extra */
    int32_t *start;                /* of int8 */
    float shared_floor;            /* of all threads' lists */
    float caution;                 /* bounds below upper that value is */
    uint64_t selected, wasted;     /* of those settled for the batch; the others, but for AuxK's */
    bool outgrown;                 /* a batch had more active latents than plans count */
    df_cut cut_at;                 /* of the selection now being made, or made last */

    /* Decoupled: a selection for each output site (decoupled.c) */
    size_t parts;           /* 0: not decoupled */
    df_range *part_columns; /* [parts] of the site in a row of the output */
    df_code_store *part;    /* [parts] the codes of one site */
    df_cut *part_cut;       /* [parts] */
    const df_range *ranked; /* the site by whose norm codes are ranked; NULL: the code norm */
    bool raw; /* TopK is now of pre-activations, of either sign, not of what relu leaves (AuxK) */

    df_code_store main, aux;
    df_code_store
        side; /* JumpReLU in training: inactive entries of the rectangle; Gated: open gates */

    /* JumpReLU and Gated */
    float *cut, *cut_lift; /* [local] */
    float *magnify;        /* [local] exp(r_mag) */
    float half_window;     /* half the bandwidth; 0 outside training */
    bool positive_window;
    /* TopK's local winners, ascending by latent: [max_rows, picked_stride]. On more than one rank
     * first the candidates, with upper in the place of value. */
    size_t picked_stride;
    float *picked_value;
    uint32_t *picked_latent, *picked_count;
    float *picked_least; /* [max_rows] the k-th best score; 0 where there are fewer */
    double *row_floor;   /* [2, rows] floors, and less of what a rank's share of k reaches */
    row_guess guess;
    uint64_t *send_keys,
        *receive_keys;  /* candidate exchange: [rows, k], [ranks, rows of this rank, k] */
    uint64_t *cut_keys; /* [max_rows] the last key selected, or DF_FLOOR_TOO_HIGH */
    uint64_t *counters; /* [2048] */

    df_node *nodes;                     /* all ranks' maximal subtrees, rank by rank */
    size_t *node_start;                 /* [size + 1] */
    size_t *send_bytes, *receive_bytes; /* [size] */
    float *partials;                    /* [rows, nodes of this rank, out] to the row owners */
    float *arrived;                     /* [rows of this rank, nodes, out] */
    float *mine;                        /* [rows of this rank, out] decoded (more than one rank) */
    float *skip;         /* [max_rows, skip_rows] W_skip x, of this rank's rows of W_skip */
    float *skip_arrived; /* [ranks][rows of this rank, skip_rows of that rank] */

    /* training */
    df_trainer_state state;
    void *train_arena;
    double dense_above;     /* share of active entries that makes a batch dense */
    uint64_t active;        /* entries of the batch, over all ranks */
    bool dense;             /* the batch is */
    bool was_dense;         /* the last one was: this one is not screened, but settled whole */
    float *dense_packed;    /* W_enc, W_dec or the rows, in panels of tiles */
    float *error;           /* [max_rows, out] x - x^ of all rows */
    float *aux_error;       /* [max_rows, out] e^_aux - e of all rows */
    double *row_leaves;     /* [leaves of rows on this rank, df_statistics_width] of df_tree_sum */
    double *block_leaves;   /* [my_blocks, out] */
    double *block_squares;  /* [my_blocks] */
    double *skip_squares;   /* [blocks of W_skip's rows on this rank] */
    float *center_gradient; /* [out] */
    double *totals;         /* [df_statistics_width] */
    uint32_t *dead_list;
    size_t aux_room; /* entries of a row in aux, at most */
    size_t dead;
    float error_factor, aux_factor, gate_factor; /* of errors: dL/dx^ */
    float *gate_error;                           /* [max_rows, out] x - x^ of the gate's codes */
    /* Sums over the batch, and behind them those of each run where it is split: df_run_slot */
    float *norm_gradient; /* [local] dL/d code norm */
    float *price;        /* [local] what an L1 penalty multiplies a code by: norm or shared_price */
    float *shared_price; /* [local] norm, times shared_weight where the latent is shared */
    float *theta_gradient;          /* [local] of theta or its logarithm */
    float *r_gradient, *b_gradient; /* [local] of r_mag, b_mag */
    float *preact_factor;           /* [local] -dL/dp of every inactive entry */
    double *input_sum;              /* [in.count + 1] over the rows, of what encoders read */
    double *row_powers;             /* [max_rows] */
    double *power_leaves;           /* [my_blocks, max_rows] */
    size_t run;                     /* whose terms are being summed */
    double *run_sums;               /* [runs, then those of all groups, columns] */
    size_t *replica_bytes;          /* [2, groups] */
    float *gradients;         /* [nodes of this group's runs] of each latent; then their sums */
    float *gradients_arrived; /* [groups, latents finished here, nodes of that group] */
    float fired_above;
    bool preact; /* the step has a pre-activation loss */
    bool late;   /* dL/df of the main codes is made with the decoder's gradient, latent
                    after latent, from the same rows of the error */
    df_code_factor late_factor;
    bool side_moves_encoder, side_moves_decoder;
    bool training;

    /* extras (extras.c) */
    df_train_room room;
    void *extra_arena;
    df_code_store multi;   /* Multi-TopK's 4 k latents per row */
    float *multi_error;    /* [max_rows, out] x - x^ of them */
    df_code_store segment; /* codes between two prefixes: no more than codes */
    float *nested;      /* [prefixes, max_rows, out] E_g, the sum of the errors of prefixes >= g */
    float *running;     /* [rows of this rank, out] the reconstruction so far */
    double variance;    /* of the batch: sum (x - mean x)^2; where wanted */
    float multi_factor; /* of multi_error: dL/dx^ */
};

/* AuxK entries per row that training has room for: half the mean width of an output site (the
 * default of aux_k), at least 512. */
size_t df_coder_aux_room(const df_dict *dict);
/* The same, where TopK's own k asks for more: told of the largest k of the training. */
static inline size_t df_aux_entries(const df_dict *d) {
    size_t room = df_coder_aux_room(d);
    return d->activation == DF_TOPK && d->k > room ? d->k : room;
}

/* Hands out consecutive pieces of one allocation; with base NULL it only counts. */
typedef struct df_layout {
    char *base;
    size_t used;
} df_layout;
void *df_layout_take(df_layout *l, size_t n, size_t size);
void df_coder_shape(df_coder *c, df_dict *dict, size_t max_rows);
void df_layout_base(df_coder *c, df_layout *l);
void df_layout_rows(df_coder *c, df_layout *l, size_t k); /* TopK's scratch */
void df_pick_layout(df_coder *c, size_t k);               /* sets picked_stride */
size_t df_row_capacity(size_t k);                         /* candidates of a row of TopK */
/* Rows in one unit of screening, at most, in whole tiles: as many as stay near while all latents
 * pass, whatever the screen, and every thread gets as many. k: of TopK, whose candidates take room;
 * the larger, the fewer. 0: lists. */
size_t df_screen_unit(const df_coder *c, size_t k);
size_t df_list_capacity(const df_coder *c);
size_t df_code_capacity(const df_coder *c);   /* of all sites, where they are decoupled */
size_t df_part_capacity(const df_coder *c);   /* of one selection */
size_t df_code_bytes(const df_code_store *s); /* of one entry */
size_t df_side_capacity(const df_coder *c, bool training);
size_t df_statistics_width(const df_coder *c);
void df_layout_train(df_coder *c, df_layout *l);

/* ---- runs of rows (groups.c) ---------------------------------------------------------------- */

/* Is the batch cut into more than one run? */
static inline bool df_is_split(const df_coder *c) {
    return c->groups.at.runs > 1;
}
/* Sets where the runs of a batch begin; returns the rows of this group. */
size_t df_runs_begin(df_coder *c, size_t batch);
/* The maximal subtrees of a group's runs; returns how many. */
size_t df_group_nodes(const df_group_place *at, int group, df_node out[static 128]);
/* Gradients of one latent: of its encoder row, its decoder row, and what else is summed over rows
 * for it. Where those of a local latent begin among all, in floats; of `local`: where they end. */
enum {
    SUM_MAIN, /* dL/dp of the main codes, and of the others */
    SUM_OTHER,
    SUM_NORM,
    SUM_THETA,
    SUM_R,
    SUM_B,
    SUM_FIRED, /* in how many runs the latent fired */
    GRADIENT_SUMS
};
size_t df_gradient_at(const df_dict *dict, size_t j);
/* Floats that df_join_gradients brings here. */
size_t df_group_arrivals(const df_coder *c);
/* Places of the tree over runs. */
static inline size_t df_run_depth(const df_coder *c) {
    size_t depth = 2;
    while (((size_t)1 << (depth - 2)) < c->groups.at.runs) depth++;
    return depth;
}

/* ---- stages --------------------------------------------------------------------------------- */

/* Norms, bounds and the centred rows of the batch; refuses rows that are not finite. Not
 * collective. */
df_status df_coder_prepare(df_coder *c, const float *x, size_t rows);
/* Bounds the latents of the prepared batch anew, codes being ranked by the norm of these columns of
 * their decoder row, or by the code norm again (NULL). Not collective. */
void df_coder_rank_by(df_coder *c, const df_range *columns);

/* The largest norm that a group reads of a row of the batch. */
float df_row_size(const df_coder *c, size_t row);

/* TopK over a view, floors beginning at guess times the size of the row. One rank: the k best of
 * each row into picked_*. More: candidates into picked_*, and row_floor; then, once those of all
 * ranks have been made one, the k best of this rank that reach it; then, of the rows whose cut is
 * DF_FLOOR_TOO_HIGH, the k best of this rank without any floor. Not collective. */
#define DF_FLOOR_TOO_HIGH 0 /* the key of no score */
void df_screen_rows(df_coder *c, df_view view, size_t k, float guess);
void df_settle_rows(df_coder *c, size_t k);
void df_find_rows_again(df_coder *c, df_view view, size_t k);
/* Everything else: candidates into the workers' lists, floor as a start, at most `keep` best. Not
 * collective. */
df_status df_screen_lists(df_coder *c, float floor, size_t keep);

/* What TopK and BatchTopK rank a code by: never a negative zero, which would not tie with zero. */
static inline float df_rank_score(const df_coder *c, size_t j, float value) {
    return value * c->scale[j] + 0.0f;
}
/* f = relu(w x + b), or p = w x + b where they are raw, settled; the score it is ranked by. With
 * cuts: p itself, and what it exceeds its cut by (positive exactly where p >
 * cut: gradual underflow). */
static inline float df_settled(const df_coder *c, const float *cut, size_t j, float product,
                               float *value) {
    float p = product + c->dict->b_enc[j];
    *value = p > 0.0f || cut != NULL || c->raw ? p : 0.0f;
    return cut != NULL ? p - cut[j] : df_rank_score(c, j, *value);
}
/* The least score of TopK that can be selected: the floor of rows of which nothing is known. */
static inline float df_lowest(const df_coder *c) {
    return c->raw ? -FLT_MAX : FLT_TRUE_MIN;
}

/* Candidates: a level that at least k reach, if `level` is one; drop what cannot be among the best
 * `keep`; make room; settle. */
float df_candidates_level(df_worker *w, const df_candidates *s, size_t k, float level);
void df_candidates_narrow(df_worker *w, df_candidates *s, size_t keep);
void df_candidates_settle(const df_coder *c, df_worker *w, df_candidates *s);
/* Of w->rows, which are these of the batch, latent after latent: an encoder row is read once for
 * many of them. */
void df_candidates_settle_rows(const df_coder *c, df_worker *w, df_range rows);
void df_candidates_best(df_worker *w, df_candidates *s, size_t keep);
void df_candidates_above(df_candidates *s, float floor);

/* Keys of selection: the key of a better score is smaller. Positive floats order like their bits,
 * negative ones the other way round and behind them. */
#define DF_SIGN 0x80000000u
static inline uint32_t df_score_key(float score) {
    uint32_t bits;
    memcpy(&bits, &score, sizeof bits);
    return bits & DF_SIGN ? bits : ~bits & ~DF_SIGN;
}
static inline float df_key_score(uint32_t key) {
    float score;
    key = key & DF_SIGN ? key : ~key & ~DF_SIGN;
    memcpy(&score, &key, sizeof score);
    return score;
}

/* Collective: the k best of each row of a view, over all ranks (topk.c). `guess` begins with k = 0
 * and learns; NULL: none. */
void df_select_rows(df_coder *c, df_view view, size_t k, row_guess *guess, df_code_store *out);
/* Collective: from lists to codes. */
/* False: the floors were too high for so many; nothing is selected. */
bool df_select_batch(df_coder *c, size_t keep);
df_status df_lists_to_codes(df_coder *c, df_code_store *out);
void df_settle_above(df_coder *c,
                     float above); /* settles the lists, keeps scores > above; not collective */
df_status df_codes_reserve(df_code_store *s, size_t entries);

/* ---- decoupled.c ---------------------------------------------------------------------------- */

/* Selects into `out` by the present ranking: TopK and BatchTopK alone. Collective. */
df_status df_encode_best(df_coder *c, bool training, float threshold, df_code_store *out);
/* The same for each output site; main gets the latents that are active for any. Collective. */
df_status df_encode_parts(df_coder *c, bool training);
/* Room for the parts, of one rank's share; counts or takes. */
void df_layout_parts(df_coder *c, df_layout *l);
/* sum += a w over the columns of the entry's sites; <v, w> over them. */
void df_parts_add(const df_coder *c, uint32_t sites, float *sum, float a, const float *w);
float df_parts_dot(const df_coder *c, uint32_t sites, const float *v, const float *w);

/* ---- the whole ------------------------------------------------------------------------------ */

/* df_coder_encode, but that main may be in panels; in training, JumpReLU's `side` gets the
 * rectangle of this bandwidth. Collective. */
df_status df_encode(df_coder *c, const float *x, size_t rows, bool training, double bandwidth);
/* Multi-TopK's latents per row. */
static inline size_t df_multi_k(const df_dict *d) {
    return 4 * d->k < d->latents ? 4 * d->k : d->latents;
}
/* TopK and BatchTopK have k; the others select by a threshold of each latent. */
static inline bool df_has_k(const df_dict *d) {
    return d->activation == DF_TOPK || d->activation == DF_BATCHTOPK;
}
/* JumpReLU and Gated keep other entries beside the active ones in training. */
static inline bool df_has_side(const df_dict *d) {
    return d->activation == DF_JUMPRELU || d->activation == DF_GATED;
}
/* JumpReLU (objective.h has the rest): cuts of the batch; half is half the bandwidth. */
void df_jump_prepare(df_coder *c, double half);
/* From all entries above their cut, which lie in `side`: main gets the active ones, side keeps the
 * others that lie inside the rectangle. */
df_status df_jump_split(df_coder *c);
/* Gated: main gets the magnitudes behind the open gates, which lie in `side`. */
df_status df_gated_open(df_coder *c);

/* Vectors of one row, or of some, summed in the fixed tree over blocks. */
typedef struct df_sum_tree {
    float *sums; /* [STACK_DEPTH, width] */
    size_t leaf[STACK_DEPTH];
    df_range touched[STACK_DEPTH]; /* columns that hold anything: the others are zero, unwritten */
    size_t depth, width;
} df_sum_tree;
/* Opens the place of the next leaf, to the right of all before; finishes the subtrees that end left
 * of it. The leaf's columns are the caller's to fill. */
float *df_sum_tree_leaf(df_sum_tree *t, size_t leaf, df_range columns);
/* All of the sum is then at the beginning of `sums`. */
void df_sum_tree_close(df_sum_tree *t);

/* The decode of rows: sums of blocks in the fixed tree. */
void df_decode_local(df_coder *c, const df_codes *codes);
void df_decode_exchange(df_coder *c, size_t rows);
void df_decode_finish(df_coder *c, size_t row, size_t rows_mine, float *out);
/* whole: with W_skip x and b_dec. Collective. */
void df_decode(df_coder *c, const df_codes *codes, bool whole, float *out);
void df_decode_plan(df_coder *c); /* fills node_start, and nodes where there is room */
void df_decode_row(const df_coder *c, df_worker *w, const df_codes *codes, size_t row, float *out);

/* W_skip x of the batch's rows (collective), and its part of one of this rank's rows added. Nothing
 * where the kind has none. */
void df_skip(df_coder *c, size_t rows);
void df_skip_add(const df_coder *c, size_t row, size_t rows_mine, float *out);

df_worker *df_coder_worker(df_coder *c); /* of the calling thread */

static inline size_t df_row_tiles(size_t rows) {
    return (rows + DF_TILE_ROWS - 1) / DF_TILE_ROWS;
}

/* The packed tile that begins with a row, as a group reads it. */
static inline char *df_row_panel(const df_coder *c, size_t group, size_t row) {
    return c->packed_rows + c->group_rows[group] +
           row / DF_TILE_ROWS *
               df_panel_bytes(c->screen, DF_TILE_ROWS, c->dict->group[group].in.count);
}

/* Do two local latents read and write the same columns? */
static inline bool df_same_group(const df_coder *c, size_t a, size_t b) {
    const uint16_t *group = c->dict->group_index;
    return group == NULL || group[a] == group[b];
}

/* Where the columns that a group writes begin in a row of the output. */
static inline size_t df_out_offset(const df_coder *c, const df_dict_group *g) {
    return g->out.first - c->dict->out.first;
}

/* The local latents of block b of this rank. */
static inline df_range df_local_block(const df_coder *c, size_t b) {
    df_range latents = df_dict_block(c->dict, c->my_blocks.first + b);
    return (df_range){latents.first - c->dict->mine.first, latents.count};
}

#endif
