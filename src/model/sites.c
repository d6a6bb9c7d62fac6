/* The names of hook sites, as TransformerLens spells them, and their widths. */
#include "arch.h"

#include <stdlib.h>
#include <string.h>

/* What a model must have for a site to exist. */
typedef enum { HAVE_ALWAYS, HAVE_LEARNED, HAVE_ROTARY, HAVE_GATE, HAVE_SEQUENCE } have;

static const struct {
    const char *name; // after "blocks.L." where the site belongs to a block
    site_kind kind;
    bool of_block;
    have when;
} site_names[] = {
    {"hook_embed", SITE_EMBED, false, HAVE_ALWAYS},
    {"hook_pos_embed", SITE_POSITION, false, HAVE_LEARNED},
    {"ln_final.hook_scale", SITE_FINAL_SCALE, false, HAVE_ALWAYS},
    {"ln_final.hook_normalized", SITE_FINAL, false, HAVE_ALWAYS},
    {"logits", SITE_LOGITS, false, HAVE_ALWAYS},
    {"hook_resid_pre", SITE_RESID_PRE, true, HAVE_ALWAYS},
    {"ln1.hook_scale", SITE_ATTENTION_SCALE, true, HAVE_ALWAYS},
    {"ln1.hook_normalized", SITE_ATTENTION_NORMALIZED, true, HAVE_ALWAYS},
    {"attn.hook_q", SITE_Q, true, HAVE_ALWAYS},
    {"attn.hook_k", SITE_K, true, HAVE_ALWAYS},
    {"attn.hook_v", SITE_V, true, HAVE_ALWAYS},
    {"attn.hook_rot_q", SITE_ROTATED_Q, true, HAVE_ROTARY},
    {"attn.hook_rot_k", SITE_ROTATED_K, true, HAVE_ROTARY},
    {"attn.hook_pattern", SITE_PATTERN, true, HAVE_ALWAYS},
    {"attn.hook_z", SITE_Z, true, HAVE_ALWAYS},
    {"attn.hook_result", SITE_RESULT, true, HAVE_ALWAYS},
    {"hook_attn_out", SITE_ATTN_OUT, true, HAVE_ALWAYS},
    {"hook_resid_mid", SITE_RESID_MID, true, HAVE_SEQUENCE},
    {"ln2.hook_scale", SITE_MLP_SCALE, true, HAVE_ALWAYS},
    {"ln2.hook_normalized", SITE_MLP_NORMALIZED, true, HAVE_ALWAYS},
    {"mlp.hook_in", SITE_MLP_IN, true, HAVE_ALWAYS},
    {"mlp.hook_pre", SITE_MLP_PRE, true, HAVE_ALWAYS},
    {"mlp.hook_pre_linear", SITE_MLP_PRE_LINEAR, true, HAVE_GATE},
    {"mlp.hook_post", SITE_MLP_POST, true, HAVE_ALWAYS},
    {"hook_mlp_out", SITE_MLP_OUT, true, HAVE_ALWAYS},
    {"hook_resid_post", SITE_RESID_POST, true, HAVE_ALWAYS},
};
enum { SITES = sizeof site_names / sizeof *site_names, SITE_BYTES = 64 };

static bool is_there(const df_model_shape *shape, have when) {
    switch (when) {
    case HAVE_ALWAYS:
        return true;
    case HAVE_LEARNED:
        return shape->learned;
    case HAVE_ROTARY:
        return !shape->learned;
    case HAVE_GATE:
        return shape->gated;
    case HAVE_SEQUENCE:
        return !shape->parallel;
    }
    return false;
}

// Cuts "blocks.L." off the front; *layer = -1 when the name does not start so.
static const char *cut_block(const char *name, int64_t *layer) {
    *layer = -1;
    if (strncmp(name, "blocks.", 7) != 0 || name[7] < '0' || name[7] > '9') return name;
    char *end;
    unsigned long value = strtoul(name + 7, &end, 10);
    bool plain = end - (name + 7) <= 6 && (name[7] != '0' || end == name + 8);
    if (*end != '.' || !plain) return name;
    *layer = (int64_t)value;
    return end + 1;
}

int64_t df_site_layer(const char *site) {
    int64_t layer;
    cut_block(site, &layer);
    return layer;
}

static df_status unknown_site(const df_model_shape *shape, const char *name, int64_t layer) {
    char text[SITES][SITE_BYTES];
    const char *known[SITES];
    size_t n = 0, near_layer = layer < 0 || (size_t)layer >= shape->layers ? shape->layers - 1
                                                                           : (size_t)layer;
    for (size_t i = 0; i < SITES; i++) {
        if (!is_there(shape, site_names[i].when)) continue;
        if (site_names[i].of_block)
            snprintf(text[n], SITE_BYTES, "blocks.%zu.%s", near_layer, site_names[i].name);
        else
            snprintf(text[n], SITE_BYTES, "%s", site_names[i].name);
        known[n] = text[n];
        n++;
    }
    const char *near = df_nearest(name, known, n);
    return df_fail(DF_USAGE, "the model has no site %s; it has blocks.0 to blocks.%zu%s%s%s", name,
                   shape->layers - 1, near != NULL ? " (did you mean " : "",
                   near != NULL ? near : "", near != NULL ? "?)" : "");
}

df_status df_site_find(const df_model_shape *shape, const char *name, site_place *out) {
    int64_t layer;
    const char *rest = cut_block(name, &layer);
    for (size_t i = 0; i < SITES; i++) {
        if (strcmp(rest, site_names[i].name) != 0 || site_names[i].of_block != (layer >= 0))
            continue;
        if (layer >= (int64_t)shape->layers || !is_there(shape, site_names[i].when)) break;
        *out = (site_place){site_names[i].kind, layer < 0 ? 0 : (size_t)layer};
        return DF_OK;
    }
    return unknown_site(shape, name, layer);
}

static size_t home_of(const df_model_shape *shape, site_place place) {
    bool behind =
        place.kind == SITE_FINAL_SCALE || place.kind == SITE_FINAL || place.kind == SITE_LOGITS;
    return behind ? shape->layers - 1 : place.layer;
}

size_t df_site_home(const df_model_shape *shape, const char *site) {
    site_place place;
    if (df_site_find(shape, site, &place) == DF_OK) return home_of(shape, place);
    df_error_clear();
    return 0;
}

df_status df_site_find_in(const df_model *model, const char *name, site_place *out) {
    const df_model_shape *shape = &model->config.shape;
    DF_TRY(df_site_find(shape, name, out));
    if (home_of(shape, *out) - model->part.first < model->part.count) return DF_OK;
    return df_fail(DF_USAGE, "site %s is not one of blocks %zu to %zu, the part that is here", name,
                   model->part.first, model->part.first + model->part.count - 1);
}

size_t df_site_columns(const df_model_shape *s, site_kind kind, size_t context) {
    switch (kind) {
    case SITE_ATTENTION_SCALE:
    case SITE_MLP_SCALE:
    case SITE_FINAL_SCALE:
        return 1;
    case SITE_Q:
    case SITE_ROTATED_Q:
    case SITE_Z:
        return s->heads * s->head_width;
    case SITE_K:
    case SITE_V:
    case SITE_ROTATED_K:
        return s->kv_heads * s->head_width;
    case SITE_PATTERN:
        return s->heads * context;
    case SITE_RESULT:
        return s->heads * s->width;
    case SITE_MLP_PRE:
    case SITE_MLP_PRE_LINEAR:
    case SITE_MLP_POST:
        return s->mlp_width;
    case SITE_LOGITS:
        return s->vocabulary;
    default:
        return s->width;
    }
}

df_status df_model_site_width(const df_model_shape *shape, const char *site, size_t context,
                              size_t *width) {
    site_place place;
    DF_TRY(df_site_find(shape, site, &place));
    *width = df_site_columns(shape, place.kind, context);
    return DF_OK;
}
