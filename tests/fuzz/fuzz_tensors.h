/* fuzz_tensors.h: archives of tensors: whatever the bytes, a status; every tensor handed out lies
 * inside the file, and nothing is left allocated. */
#ifndef FUZZ_TENSORS_H
#define FUZZ_TENSORS_H

#include "darkfield/store.h"
#include "fuzz_file.h"

static int fuzz_tensors(const uint8_t *data, size_t size, const char *suffix) {
    const char *path = fuzz_file(data, size, suffix);
    df_tensors *tensors;
    if (df_tensors_open(path, &tensors) == DF_OK) {
        uint64_t sum = 0;
        for (size_t i = 0; i < df_tensors_count(tensors); i++) {
            const df_tensor *tensor = df_tensors_at(tensors, i);
            sum += df_hash(tensor->data,
                           tensor->elements * df_type_bytes(tensor->type)); // reads every byte
        }
        if (sum == 1) fprintf(stderr, "so that the reads are not optimised away\n");
    }
    df_tensors_close(&tensors);
    unlink(path);
    if (df_memory_now() != 0) abort();
    return 0;
}

#endif
