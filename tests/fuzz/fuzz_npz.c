/* npz archives, as fuzz_tensors.h tries them. */
#include "fuzz_tensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    return fuzz_tensors(data, size, ".npz");
}
