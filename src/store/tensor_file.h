/* tensor_file.h: a file of tensors being written, as its two layouts share it. */
#ifndef STORE_TENSOR_FILE_H
#define STORE_TENSOR_FILE_H

#include "parts.h"
#include "tensors.h"

typedef struct tensor_place {
    char *name;
    df_type type;
    int dims;
    uint64_t shape[DF_MAX_DIMS], elements;
    uint64_t header; /* npz: of its local header */
    char *prefix;    /* npz: local header and .npy header, new memory */
    size_t prefix_bytes;
    uint64_t offset; /* of its first element */
} tensor_place;

struct df_tensor_file {
    df_comm *comm;
    char *path, *part;
    int descriptor;
    bool npz;
    size_t n;
    tensor_place *places; /* in the order of the specs */
    uint64_t bytes;       /* of the whole file */
    _Atomic int failure;  /* the first one of this rank's puts */
    char failure_text[1024];
};

/* Places of all tensors and the size of the file, from the specs alone. Not collective. */
df_status store_lay_safetensors(df_tensor_file *file, char **header,
                                size_t *header_bytes) DF_MUST_CHECK;
df_status store_lay_npz(df_tensor_file *file) DF_MUST_CHECK;
/* Rank 0, when all elements are on disk: checksums by reading back, headers, directory. */
df_status store_close_npz(const df_tensor_file *file) DF_MUST_CHECK;

#endif
