#!/usr/bin/env python3
"""Makes moments_oracle.json: rows, what a dictionary made of them, and what numpy and scikit-learn say about both.

Read by tests/unit/moments and tests/unit/spectrum, which need no Python. Values are multiples of 1/256, so that they
are exact in fp32. Run again only to change the case.
"""
import json
import pathlib

import numpy as np
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score

D, DOCUMENTS, RIDGE = 6, 90, 1e-3

rng = np.random.default_rng(11)
lengths = rng.integers(1, 9, DOCUMENTS)
starts = np.concatenate([[0], np.cumsum(lengths)])
n = int(starts[-1])
heldout = (rng.random(DOCUMENTS) < 0.3).astype(int)
held_row = np.repeat(heldout, lengths).astype(bool)

mix = rng.standard_normal((D, D)) * np.array([4, 2, 1, 1, 0.5, 0.25])
x = rng.standard_normal((n, D)) @ mix.T + rng.standard_normal(D) * 3
linear = rng.standard_normal((D, D)) * 0.1
x_hat = x - (x @ linear + 0.3 * rng.standard_normal((n, D)) + 0.2)
x, x_hat = np.round(x * 256) / 256, np.round(x_hat * 256) / 256
e = x - x_hat


def spectrum(rows):
    values = np.linalg.eigvalsh(np.cov(rows.T))[::-1]
    return {"covariance": np.cov(rows.T).ravel().tolist(), "eigenvalues": values.tolist(),
            "participation_ratio": float(values.sum() ** 2 / (values ** 2).sum())}


# the ridge is relative to the mean diagonal of the training scatter
train, test = ~held_row, held_row
centred = x[train] - x[train].mean(0)
strength = RIDGE * (centred ** 2).sum() / D
model = Ridge(alpha=strength, solver="cholesky").fit(x[train], e[train])
predicted = model.predict(x[test])


def jackknife(numerator, target):
    """Delete-one error over the 64 document buckets of numerator / sum |target - mean|^2 on held-out rows."""
    ends = [int(starts[np.searchsorted(starts, n * b // 64)]) for b in range(65)]
    bucket = np.searchsorted(np.array(ends[1:]), np.flatnonzero(test), side="right")
    without = []
    for b in np.unique(bucket):
        kept = target[bucket != b]
        without.append(numerator[bucket != b].sum() / ((kept - kept.mean(0)) ** 2).sum())
    g = len(without)
    return float(np.sqrt((g - 1) / g * ((np.array(without) - np.mean(without)) ** 2).sum()))


path = pathlib.Path(__file__).with_suffix(".json")
path.write_text(json.dumps({
    "width": D, "rows": n, "ridge": RIDGE, "documents": starts.tolist(), "heldout": heldout.tolist(),
    "x": x.ravel().tolist(), "x_hat": x_hat.ravel().tolist(),
    "x_spectrum": spectrum(x), "residual_spectrum": spectrum(e), "xhat_spectrum": spectrum(x_hat),
    "fvu": float((e ** 2).sum() / ((x - x.mean(0)) ** 2).sum()),
    "fvu_heldout": float((e[test] ** 2).sum() / ((x[test] - x[test].mean(0)) ** 2).sum()),
    "coefficients": model.coef_.T.ravel().tolist(),
    "squared_error": float(((e[test] - predicted) ** 2).sum()),
    "r2_pooled": float(1 - ((e[test] - predicted) ** 2).sum() / ((e[test] - e[test].mean(0)) ** 2).sum()),
    "r2_error": jackknife(((e[test] - predicted) ** 2).sum(1), e[test]),
    "fvu_error": jackknife((e[test] ** 2).sum(1), x[test]),
    "slope": float(1 - ((x - x.mean(0)) * e).sum() / ((x - x.mean(0)) ** 2).sum()),
    "r2_mean": float(r2_score(e[test], predicted, multioutput="uniform_average")),
}) + "\n")
