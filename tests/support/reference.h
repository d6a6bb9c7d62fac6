/* reference.h: reads a dataset of somebody else's HDF5 file (an oracle's h5py output) as doubles.
 * Tests only: our own reader is strict about our layouts. */
#ifndef DF_TEST_REFERENCE_H
#define DF_TEST_REFERENCE_H

#include "df_test.h"
#include <hdf5.h>

/* Elements of `dataset` in new memory (df_free), their number in *n; NULL when there is no such
 * dataset. */
static inline double *df_test_reference(const char *path, const char *dataset, size_t *n) {
    double *out = NULL;
    *n = 0;
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    hid_t set = file < 0 ? -1 : H5Dopen2(file, dataset, H5P_DEFAULT);
    if (set >= 0) {
        hid_t space = H5Dget_space(set);
        *n = (size_t)H5Sget_simple_extent_npoints(space);
        out = df_alloc(*n, sizeof *out);
        if (out != NULL &&
            H5Dread(set, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, out) < 0) {
            df_free(out);
            out = NULL;
        }
        H5Sclose(space);
        H5Dclose(set);
    }
    if (file >= 0) H5Fclose(file);
    return out;
}

#endif
