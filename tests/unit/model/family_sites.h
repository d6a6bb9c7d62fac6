/* Every site that a family has, in the order of the references of tests/golden/family_oracle.py. */
#ifndef DF_FAMILY_SITES_H
#define DF_FAMILY_SITES_H

#include "reference.h"

#include "darkfield/model.h"

#define GOLDEN DF_SOURCE_DIR "/tests/golden/family"
enum { CONTEXT = 96, MOST_SITES = 128 };

static const char *const whole[] = {"hook_embed", "hook_pos_embed", "ln_final.hook_scale",
                                    "ln_final.hook_normalized", "logits"};
static const char *const of_block[] = {"hook_resid_pre",  "ln1.hook_scale",   "ln1.hook_normalized",
                                       "attn.hook_q",     "attn.hook_k",      "attn.hook_v",
                                       "attn.hook_rot_q", "attn.hook_rot_k",  "attn.hook_pattern",
                                       "attn.hook_z",     "attn.hook_result", "hook_attn_out",
                                       "hook_resid_mid",  "ln2.hook_scale",   "ln2.hook_normalized",
                                       "mlp.hook_in",     "mlp.hook_pre",     "mlp.hook_pre_linear",
                                       "mlp.hook_post",   "hook_mlp_out",     "hook_resid_post"};

/* The families of the oracle, as many tests: those whose positions keep their numbers as text
 * grows, and the one whose rotations stretch with its length. */
#define STEADY_FAMILIES(test)                                                                      \
    test("gpt2"), test("gpt2-scaled"), test("gpt_neo"), test("gpt_neox"),                          \
        test("gpt_neox-sequential"), test("opt"), test("mistral"), test("llama-yarn"),             \
        test("qwen2"), test("qwen3"), test("gemma"), test("gemma2"), test("gemma3_text"),          \
        test("gemma3")
#define FAMILIES(test) STEADY_FAMILIES(test), test("llama-dynamic")

typedef struct site_list {
    char text[MOST_SITES][64];
    const char *name[MOST_SITES];
    size_t width[MOST_SITES], n;
} site_list;

static inline void add_site(const df_model_shape *shape, site_list *sites) {
    size_t i = sites->n;
    sites->name[i] = sites->text[i];
    if (df_model_site_width(shape, sites->text[i], CONTEXT, &sites->width[i]) == DF_OK)
        sites->n++;
    else
        df_error_clear(); // the family does not have it
}

static inline void list_sites(const df_model_shape *shape, site_list *sites) {
    sites->n = 0;
    for (size_t i = 0; i < sizeof whole / sizeof *whole; i++) {
        snprintf(sites->text[sites->n], 64, "%s", whole[i]);
        add_site(shape, sites);
    }
    for (size_t l = 0; l < shape->layers; l++)
        for (size_t i = 0; i < sizeof of_block / sizeof *of_block; i++) {
            snprintf(sites->text[sites->n], 64, "blocks.%zu.%s", l, of_block[i]);
            add_site(shape, sites);
        }
}

// |ours - theirs| / |theirs| of one row.
static inline double apart(const float *ours, const double *theirs, size_t width) {
    double difference = 0, size = 0;
    for (size_t i = 0; i < width; i++) {
        double d = (double)ours[i] - theirs[i];
        difference += d * d;
        size += theirs[i] * theirs[i];
    }
    return size > 0 ? sqrt(difference / size) : sqrt(difference);
}

#endif
