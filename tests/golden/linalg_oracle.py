#!/usr/bin/env python3
"""Makes linalg_oracle.json: a symmetric matrix with numpy's eigenvalues, and a ridge system with numpy's solution.

tests/unit/linalg reads the file; Python is not needed to run the tests. Run again only to change the cases.
"""
import json
import pathlib

import numpy as np

N, RIGHT, RIDGE = 37, 3, 0.25  # 37: not a multiple of the 32 x 32 blocks

rng = np.random.default_rng(20261123)
half = rng.standard_normal((N, N)).round(6)
symmetric = half + half.T
tall = rng.standard_normal((2 * N, N)).round(6)
gram = (tall.T @ tall).round(6)
gram = (gram + gram.T) / 2
right = rng.standard_normal((N, RIGHT)).round(6)

values = np.linalg.eigvalsh(symmetric)[::-1]
solution = np.linalg.solve(gram + RIDGE * np.eye(N), right)
condition = np.linalg.cond(gram + RIDGE * np.eye(N), 1)

path = pathlib.Path(__file__).with_suffix(".json")
path.write_text(json.dumps({
    "n": N, "right_columns": RIGHT, "ridge": RIDGE,
    "symmetric": symmetric.ravel().tolist(), "eigenvalues": values.tolist(),
    "gram": gram.ravel().tolist(), "right": right.ravel().tolist(),
    "solution": solution.ravel().tolist(), "rcond": 1 / condition,
}) + "\n")
