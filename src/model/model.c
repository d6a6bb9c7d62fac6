/* A model as a whole, and the names of its hook sites. */
#include "arch.h"

#include <stdlib.h>
#include <string.h>

df_status df_model_plan(const char *path, df_model_shape *out) {
    model_config config;
    DF_TRY(df_config_read(path, &config, NULL));
    *out = config.shape;
    return DF_OK;
}

df_status df_model_open(const char *path, df_model **out) {
    df_model *model;
    *out = NULL;
    DF_TRY(DF_NEW(model, 1));
    df_status status = df_config_read(path, &model->config, NULL);
    if (status == DF_OK) status = df_weights_read(path, &model->config, &model->weights);
    if (status != DF_OK) {
        df_context("opening the model %s", path);
        df_free(model);
        return status;
    }
    *out = model;
    return DF_OK;
}

void df_model_close(df_model **model) {
    if (*model == NULL) return;
    df_weights_free(&(*model)->weights);
    df_free(*model);
    *model = NULL;
}

const df_model_shape *df_model_facts(const df_model *model) {
    return &model->config.shape;
}

size_t df_model_width(const df_model *model) {
    return model->config.shape.width;
}

size_t df_model_vocabulary(const df_model *model) {
    return model->config.shape.vocabulary;
}

const float *df_model_unembed(const df_model *model) {
    return df_weight(model, ROLE_UNEMBED, 0);
}

const float *df_model_final_norm(const df_model *model) {
    return df_weight(model, ROLE_FINAL_GAIN, 0);
}

df_status df_model_hash(const char *path, uint64_t *out) {
    model_config config;
    df_tensors *tensors = NULL;
    uint64_t hash;
    DF_TRY(df_config_read(path, &config, &hash));
    DF_TRY(df_tensors_open(path, &tensors));
    for (size_t i = 0; i < df_tensors_count(tensors); i++) {
        const df_tensor *tensor = df_tensors_at(tensors, i);
        hash = df_hash_more(hash, tensor->name, strlen(tensor->name));
        hash = df_hash_more(hash, df_type_name(tensor->type), strlen(df_type_name(tensor->type)));
        hash = df_hash_more(hash, tensor->shape, (size_t)tensor->dims * sizeof *tensor->shape);
        hash = df_hash_more(hash, tensor->data, tensor->elements * df_type_bytes(tensor->type));
    }
    df_tensors_close(&tensors);
    *out = hash;
    return DF_OK;
}

/* ---- hook sites ----------------------------------------------------------------------------- */

static const struct {
    const char *name; // after "blocks.L." where the site belongs to a block
    site_kind kind;
    bool of_block;
} site_names[] = {
    {"hook_embed", SITE_EMBED, false},          {"ln_final.hook_normalized", SITE_FINAL, false},
    {"hook_resid_pre", SITE_RESID_PRE, true},   {"hook_attn_out", SITE_ATTN_OUT, true},
    {"hook_resid_mid", SITE_RESID_MID, true},   {"hook_mlp_out", SITE_MLP_OUT, true},
    {"hook_resid_post", SITE_RESID_POST, true},
};
enum { SITES = sizeof site_names / sizeof *site_names, SITE_BYTES = 64 };

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
    size_t near_layer =
        layer < 0 || (size_t)layer >= shape->layers ? shape->layers - 1 : (size_t)layer;
    for (size_t i = 0; i < SITES; i++) {
        if (site_names[i].of_block)
            snprintf(text[i], SITE_BYTES, "blocks.%zu.%s", near_layer, site_names[i].name);
        else
            snprintf(text[i], SITE_BYTES, "%s", site_names[i].name);
        known[i] = text[i];
    }
    const char *near = df_nearest(name, known, SITES);
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
        if (layer >= (int64_t)shape->layers) break;
        *out = (site_place){site_names[i].kind, layer < 0 ? 0 : (size_t)layer};
        return DF_OK;
    }
    return unknown_site(shape, name, layer);
}

df_status df_model_site_width(const df_model_shape *shape, const char *site, size_t *width) {
    site_place place;
    DF_TRY(df_site_find(shape, site, &place));
    *width = shape->width;
    return DF_OK;
}
