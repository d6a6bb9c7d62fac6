/* The precision of a model's products: fp32, or bf16 operands with fp32 sums. */
#include "arch.h"
#include "darkfield/kernels.h"

typedef struct extent {
    size_t n, k; // outputs, inputs
} extent;

// The matrices that products are made with; 0 by 0 for anything else.
static extent extent_of(const df_model_shape *s, role use) {
    size_t query = s->heads * s->head_width, key = s->kv_heads * s->head_width;
    switch (use) {
    case ROLE_Q:
        return (extent){query, s->width};
    case ROLE_K:
    case ROLE_V:
        return (extent){key, s->width};
    case ROLE_O:
        return (extent){s->width, query};
    case ROLE_GATE:
    case ROLE_UP:
        return (extent){s->mlp_width, s->width};
    case ROLE_DOWN:
        return (extent){s->width, s->mlp_width};
    case ROLE_UNEMBED:
        return (extent){s->vocabulary, s->width};
    default:
        return (extent){0, 0};
    }
}

static df_status pack(df_model *model, role use, size_t layer) {
    extent e = extent_of(&model->config.shape, use);
    const float *weight = df_weight(model, use, layer);
    void **to = &model->weights.packed[df_weight_slot(use, layer)];
    if (e.n == 0 || weight == NULL) return DF_OK;
    *to = df_alloc(df_bf16_weight_bytes(e.n, e.k), 1);
    if (*to == NULL) return DF_FAILED;
    df_bf16_pack_weight(weight, e.n, e.k, *to);
    return DF_OK;
}

df_status df_model_use_bf16(df_model *model) {
    if (model->weights.packed != NULL) return DF_OK;
    DF_TRY(DF_NEW(model->weights.packed, model->weights.slots));
    DF_TRY(pack(model, ROLE_UNEMBED, 0));
    for (size_t layer = 0; layer < model->config.shape.layers; layer++)
        for (int use = ROLE_Q; use <= ROLE_DOWN; use++) DF_TRY(pack(model, (role)use, layer));
    return DF_OK;
}

uint64_t df_packed_bytes(const df_model_shape *shape, df_model_part part) {
    uint64_t bytes = 0;
    for (int use = ROLE_Q; use <= ROLE_DOWN; use++) {
        extent e = extent_of(shape, (role)use);
        bool absent = use == ROLE_GATE && !shape->gated;
        bytes += absent ? 0 : part.count * df_bf16_weight_bytes(e.n, e.k);
    }
    bool head = df_has_head(shape, part);
    return bytes + (head ? df_bf16_weight_bytes(shape->vocabulary, shape->width) : 0);
}

uint64_t df_model_bf16_bytes(const df_model_shape *shape) {
    return df_packed_bytes(shape, df_model_whole(shape));
}

void df_weight_multiply(const df_model *model, const weight_product *p) {
    size_t slot = df_weight_slot(p->use, p->layer);
    if (model->weights.packed != NULL)
        df_gemm_bf16_nt(&(df_gemm_bf16){.m = p->rows,
                                        .n = p->n,
                                        .k = p->k,
                                        .a = p->x,
                                        .lda = p->k,
                                        .weight = model->weights.packed[slot],
                                        .scratch = p->scratch,
                                        .c = p->y,
                                        .ldc = p->n});
    else
        df_gemm_nt(&(df_gemm){.m = p->rows,
                              .n = p->n,
                              .k = p->k,
                              .alpha = 1.0f,
                              .a = p->x,
                              .lda = p->k,
                              .b = model->weights.at[slot],
                              .ldb = p->k,
                              .c = p->y,
                              .ldc = p->n});
}
