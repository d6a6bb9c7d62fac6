/* darkfield/model.h: transformers read from Hugging Face directories, and their forward pass with
 * hook sites.
 *
 * A directory holds config.json and *.safetensors (F32, F16 or BF16, widened to fp32). Families are
 * rows of one table (src/model/arch.c): GPT-2, GPT-Neo (TinyStories), GPT-NeoX (Pythia), OPT,
 * Llama, Mistral, Qwen2, Qwen3, Gemma 1 to 3; a family joins by naming its tensors and parts there.
 * What cannot be computed exactly as the checkpoint means it (an unknown family, an activation, a
 * rope rule, a missing, unexpected or misshapen tensor) is DF_BAD_INPUT naming the file, the tensor
 * or key, what was expected and what was found. Nothing here is collective. */
#ifndef DARKFIELD_MODEL_H
#define DARKFIELD_MODEL_H

#include "darkfield/base.h"

/* ---- models --------------------------------------------------------------------------------- */

typedef struct df_model df_model;

typedef struct df_model_shape {
    const char *family;   /* "llama" */
    size_t layers, width; /* width: of the residual stream */
    size_t heads, kv_heads, head_width;
    size_t mlp_width, vocabulary;
    size_t positions;              /* max_position_embeddings; 0 when the file does not say */
    bool gated, parallel, learned; /* gated MLP; parallel residual; a table of positions */
    bool tied;                     /* the unembedding is the embedding */
    uint64_t parameters;           /* stored numbers, a tied unembedding counted once */
    uint64_t block_parameters;     /* of each block */
    uint64_t head_parameters; /* of final norm and unembedding, which counts here tied or not */
} df_model_shape;

/* Reads config.json alone: what a plan needs. */
df_status df_model_plan(const char *path, df_model_shape *out) DF_MUST_CHECK;

/* Reads config and weights. Memory: 4 bytes a parameter. */
df_status df_model_open(const char *path, df_model **out) DF_MUST_CHECK;
/* From now on forward passes round the operands of their products with weights to bf16 (sums,
 * norms, attention and the stream stay fp32): quicker where the CPU has bf16, and off by about one
 * part in 200. Weights are packed anew: 2 bytes more a parameter, df_model_bf16_bytes. To be called
 * before passes of this model run. */
df_status df_model_use_bf16(df_model *model) DF_MUST_CHECK;
uint64_t df_model_bf16_bytes(const df_model_shape *shape);
void df_model_close(df_model **model); /* *model may be NULL */

/* ---- parts of a model ----------------------------------------------------------------------- */

/* Blocks [first, first + count), for a model whose blocks are spread over processes. The part with
 * block 0 has the embeddings too, the one with the last block the final norm and the unembedding
 * (both of them a tied matrix). */
typedef struct df_model_part {
    size_t first, count;
} df_model_part;
static inline df_model_part df_model_whole(const df_model_shape *shape) {
    return (df_model_part){0, shape->layers};
}

/* df_model_open for a part: checks the names and shapes of all tensors, reads only those of the
 * part. An empty part, or one that ends behind the last block, is DF_USAGE. */
df_status df_model_open_part(const char *path, df_model_part part, df_model **out) DF_MUST_CHECK;
df_model_part df_model_held(const df_model *model); /* the part that it is */
/* Memory of a part: fp32 weights and, with bf16, what df_model_use_bf16 adds. */
uint64_t df_model_part_bytes(const df_model_shape *shape, df_model_part part, bool bf16);

/* The block whose part hands a site of the model out: 0 for those before the blocks, the last one
 * for those behind. */
size_t df_site_home(const df_model_shape *shape, const char *site);

const df_model_shape *df_model_facts(const df_model *model); /* belongs to the model */
size_t df_model_width(const df_model *model);
size_t df_model_vocabulary(const df_model *model);
/* NULL where the part does not hold them. */
const float *df_model_unembed(const df_model *model); // [vocabulary, width]
const float *
df_model_final_norm(const df_model *model); // [width] gain of the norm before the unembedding

/* Content hash of config.json and of every tensor's name, type, shape and bytes, however they are
 * cut into files. Maps the files and takes no memory. */
df_status df_model_hash(const char *path, uint64_t *out) DF_MUST_CHECK;

/* ---- weights, for analyses that read them --------------------------------------------------- */

/* The attention of one block. Pointers belong to the model; NULL where it has no such part. */
typedef struct df_attention_weights {
    const float *gain;            // [width] of the norm before it
    const float *q, *k, *v;       // [heads * head_width, width], k and v [kv_heads * ..., width]
    const float *q_gain, *k_gain; // [head_width] of the norms of each head's query and key
    const float *o, *o_bias;      // [width, heads * head_width], [width]
    const float *post_gain;       // [width] of the norm of what attention adds
} df_attention_weights;
df_attention_weights df_model_attention(const df_model *model, size_t layer);

/* From tokens to the stream, and from the stream to logits: cap * tanh(norm(x) unembed' / cap). */
typedef struct df_readout {
    bool centred; // norms are LayerNorms, else root mean squares
    float epsilon;
    const float *gain, *bias; // [width] of the norm before the unembedding; bias NULL: none
    const float *unembed;     // [vocabulary, width]
    const float *embed;       // [vocabulary, width], before Gemma's scale; tied: equals unembed
    float cap;                // 0: none
} df_readout;
df_readout df_model_readout(const df_model *model);

/* ---- hook sites ----------------------------------------------------------------------------- */

/* TransformerLens names. Of the whole model: hook_embed (after Gemma's scale), hook_pos_embed
 * (learned positions), ln_final.hook_scale, ln_final.hook_normalized, logits (after the soft-cap).
 * Of block L, behind "blocks.L.": hook_resid_pre, ln1.hook_scale, ln1.hook_normalized, attn.hook_q,
 * attn.hook_k, attn.hook_v (before any norm of heads and rotation), attn.hook_rot_q,
 * attn.hook_rot_k (as they are compared), attn.hook_pattern, attn.hook_z, attn.hook_result (what
 * each head adds), hook_attn_out, hook_resid_mid (not with a parallel residual), ln2.*, mlp.hook_in
 * (what the MLP reads), mlp.hook_pre, mlp.hook_pre_linear (gated), mlp.hook_post, hook_mlp_out,
 * hook_resid_post. hook_scale is what the norm divides by, hook_normalized its quotient before gain
 * and bias (TransformerLens' RMSNorm, and its LayerNorm after folding); attention's and MLP's
 * outputs are what is added to the stream. Heads stand side by side: attn.hook_pattern [heads,
 * context] is wide, for small runs.
 *
 * Writes the number of columns in windows of `context` tokens; an unknown name, or one that the
 * family does not have, is DF_USAGE with the nearest one. */
df_status df_model_site_width(const df_model_shape *shape, const char *site, size_t context,
                              size_t *width) DF_MUST_CHECK;
int64_t df_site_layer(const char *site); /* L of blocks.L.*, -1 for the others */

/* ---- forward -------------------------------------------------------------------------------- */

/* The working memory of one thread. Windows are padded to `context` rows (rounded up to
 * DF_FORWARD_ROWS): every GEMM has a fixed shape, so a window's numbers depend on its tokens alone,
 * not on its neighbours, ranks or threads. */
typedef struct df_forward df_forward;
#define DF_FORWARD_ROWS 64

/* Sites are those of df_forward_run's `out`. The model is borrowed and may be shared by threads.
 * context above the model's positions is DF_USAGE, and so is a site that its part does not hand
 * out. */
df_status df_forward_open(const df_model *model, size_t context, const char *const *sites,
                          size_t n_sites, df_forward **out) DF_MUST_CHECK;
void df_forward_close(df_forward **forward); /* *forward may be NULL */

/* Bytes that df_forward_open takes, for plans: of a whole model, of a part. */
uint64_t df_forward_bytes(const df_model_shape *shape, size_t context, const char *const *sites,
                          size_t n_sites);
uint64_t df_forward_part_bytes(const df_model_shape *shape, df_model_part part, size_t context,
                               const char *const *sites, size_t n_sites);

/* Runs one window of 1..context token ids. out[i] [n, width of site i] receives site i; out NULL:
 * they are not wanted. logits [n, vocabulary] or NULL. An id outside the vocabulary is
 * DF_BAD_INPUT naming it. Of a part that lacks block 0 the window begins with what the caller has
 * put into df_forward_stream; logits and losses need the part with the last block. */
df_status df_forward_run(df_forward *forward, const uint32_t *ids, size_t n, float *const *out,
                         float *logits) DF_MUST_CHECK;

/* The residual stream: before a run of a part what its first block reads, after it what its last
 * block leaves, for the part that follows. [df_forward_rows, width] that belong to `forward`; all
 * rows are handed on, those beyond the window too, so that parts give the bits of the whole. */
float *df_forward_stream(df_forward *forward);
size_t df_forward_rows(size_t context); /* context rounded up to DF_FORWARD_ROWS */

/* After df_forward_run: nll[t] = -log p(ids[t + 1] | ids[0..t]) in nats for t = 0..n-2, of the last
 * window run. */
df_status df_forward_nll(df_forward *forward, double *nll) DF_MUST_CHECK;

#endif
