"""Two spectrum files agree as what comes out of linalg must: eigenvalues to 1e-10 of the largest, scalars to
1e-8. Eigenvectors are orthonormal, and compared as the matrix they stand for, V' diag(l) V, which knows no bases."""
import sys

import h5py
import numpy as np


def same(name, a, b, tolerance):
    scale = max(float(np.max(np.abs(a))), 1e-300)
    worst = float(np.max(np.abs(a - b))) / scale
    if not worst <= tolerance:
        sys.exit(f"{name}: differs by {worst:.3g} of its largest value (at most {tolerance:g})")


def visit(a, b, name):
    for key, value in a.attrs.items():
        # How small a rounding error came out is no result.
        if key != "eigen_residual" and isinstance(value, (float, np.floating)) and np.isfinite(value):
            same(f"{name}@{key}", np.asarray(value), np.asarray(b.attrs[key]), 1e-8)
    if "eigenvectors" in a and "eigenvalues" in a:  # one vector per row
        vectors = [g["eigenvectors"][...] for g in (a, b)]
        whole = [v.T * g["eigenvalues"][...] @ v for v, g in zip(vectors, (a, b))]
        same(f"{name}/eigenvectors", whole[0], whole[1], 1e-9)
        same(f"{name}/orthonormal", np.eye(len(vectors[1])), vectors[1] @ vectors[1].T, 1e-10)
    for key in a:
        if key in ("provenance", "checksums", "eigenvectors"):
            continue
        if key not in b:
            sys.exit(f"{name}/{key}: missing")
        if isinstance(a[key], h5py.Group):
            visit(a[key], b[key], f"{name}/{key}")
        elif a[key].dtype.kind == "f" and a[key].size:
            same(f"{name}/{key}", a[key][...], b[key][...], 1e-10 if key == "eigenvalues" else 1e-8)


with h5py.File(sys.argv[1]) as first, h5py.File(sys.argv[2]) as second:
    visit(first, second, "")
