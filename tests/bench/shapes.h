/* Models of known shapes with random weights, for the benches of the forward pass. */
#ifndef DF_BENCH_SHAPES_H
#define DF_BENCH_SHAPES_H

#include "darkfield/comm.h"

typedef struct bench_shape {
    const char *name, *config; /* of the bench; config.json */
    bool bf16;                 /* products in bf16 */
} bench_shape;

const bench_shape *bench_shape_find(const char *name); /* NULL when unknown */
/* Writes config.json and model.safetensors into a folder. Collective. */
df_status bench_write_model(df_comm *comm, const bench_shape *shape,
                            const char *folder) DF_MUST_CHECK;

#endif
