/* A model as a whole. */
#include "arch.h"

#include <string.h>

df_status df_model_plan(const char *path, df_model_shape *out) {
    model_config config;
    DF_TRY(df_config_read(path, &config, NULL));
    *out = config.shape;
    return DF_OK;
}

static df_status check_part(const df_model_shape *shape, df_model_part part) {
    if (part.count > 0 && part.first < shape->layers && part.count <= shape->layers - part.first)
        return DF_OK;
    return df_fail(DF_USAGE, "a part of %zu blocks from block %zu on: the model has %zu blocks",
                   part.count, part.first, shape->layers);
}

// part NULL: the whole.
static df_status open_model(const char *path, const df_model_part *part, df_model **out) {
    df_model *model;
    *out = NULL;
    DF_TRY(DF_NEW(model, 1));
    df_status status = df_config_read(path, &model->config, NULL);
    model->part = part != NULL ? *part : df_model_whole(&model->config.shape);
    if (status == DF_OK) status = check_part(&model->config.shape, model->part);
    if (status == DF_OK)
        status = df_weights_read(path, &model->config, model->part, &model->weights);
    if (status != DF_OK) {
        df_context("opening the model %s", path);
        df_free(model);
        return status;
    }
    *out = model;
    return DF_OK;
}

df_status df_model_open(const char *path, df_model **out) {
    return open_model(path, NULL, out);
}

df_status df_model_open_part(const char *path, df_model_part part, df_model **out) {
    return open_model(path, &part, out);
}

df_model_part df_model_held(const df_model *model) {
    return model->part;
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

df_attention_weights df_model_attention(const df_model *model, size_t layer) {
    return (df_attention_weights){.gain = df_weight(model, ROLE_ATTENTION_GAIN, layer),
                                  .q = df_weight(model, ROLE_Q, layer),
                                  .k = df_weight(model, ROLE_K, layer),
                                  .v = df_weight(model, ROLE_V, layer),
                                  .q_gain = df_weight(model, ROLE_Q_GAIN, layer),
                                  .k_gain = df_weight(model, ROLE_K_GAIN, layer),
                                  .o = df_weight(model, ROLE_O, layer),
                                  .o_bias = df_weight(model, ROLE_O_BIAS, layer),
                                  .post_gain = df_weight(model, ROLE_ATTENTION_POST_GAIN, layer)};
}

df_readout df_model_readout(const df_model *model) {
    bool centred = model->config.family->norm == NORM_LAYER;
    return (df_readout){.centred = centred,
                        .epsilon = model->config.norm_epsilon,
                        .gain = df_weight(model, ROLE_FINAL_GAIN, 0),
                        .bias = centred ? df_weight(model, ROLE_FINAL_GAIN_BIAS, 0) : NULL,
                        .unembed = df_weight(model, ROLE_UNEMBED, 0),
                        .embed = df_weight(model, ROLE_EMBED, 0),
                        .cap = (float)model->config.logit_cap};
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
