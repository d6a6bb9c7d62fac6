"""What evaluate, stats and spectrum say of a BatchTopK crosscoder of rows that are normalised one by one, worked out anew with numpy
in float64 from the activations and the dictionary file: each site's part of a row becomes (x - mean) / (std + 1e-5), std over n - 1,
times the site's scale; what is written comes back as y / scale * std + mean, so that FVU and spectra are those of whole rows.

    token_known.py FOLDER   with base.acts.h5, tuned.acts.h5, crosscoder.dict.h5, evaluate.h5, stats.h5, spectrum.h5
"""
import pathlib
import sys

import h5py
import numpy as np

NAMES = ("base", "tuned")
folder = pathlib.Path(sys.argv[1])
problems = []


def check(what, found, expected, tolerance):
    off = np.abs(np.asarray(found) - expected).sum() / np.abs(expected).sum()
    if not off <= tolerance:
        problems.append(f"{what} is off by {off:.1e} of it")


def rows_of(name, site):
    """The rows in use, and whether each is held out: neither BOS nor the first of a window."""
    with h5py.File(folder / f"{name}.acts.h5") as f:
        use = f["tokens"][:] != f["tokenizer"].attrs["bos"]
        use[f["windows/offset"][:-1].astype(int)] = False
        held = np.repeat(f["documents/heldout"][:] != 0, np.diff(f["documents/row"][:].astype(int)))
        return f["sites/" + site][:].astype(float)[use], held[use]


def codes(d, n):
    g = d["group/0"]
    enc, dec, b_dec = g["W_enc"][:].astype(float), g["W_dec"][:].astype(float), d["b_dec"][:].astype(float)
    half = dec.shape[1] // 2
    f = np.maximum((n - d.attrs["subtract_bias"] * b_dec) @ enc.T + g["b_enc"][:], 0)
    norm = np.linalg.norm(dec[:, :half], axis=1) + np.linalg.norm(dec[:, half:], axis=1)
    f[f * norm <= g["threshold"][0]] = 0
    return f, f @ dec + b_dec


def fvu(x, e):
    return (e**2).sum() / ((x - x.mean(0)) ** 2).sum()


with h5py.File(folder / "crosscoder.dict.h5") as d:
    sites = d["sites/output"]
    for key in ("token_norm0", "token_norm1"):
        if sites.attrs.get(key) not in (b"layer", "layer"):
            problems.append(f"/sites/output has {key} = {sites.attrs.get(key)}")
    name = sites.attrs["name0"]
    site = name.decode() if isinstance(name, bytes) else name
    (a, held), (b, _) = (rows_of(model, site) for model in NAMES)
    parts, scale = (a, b), sites["scale"][:]
    mean = [x.mean(1, keepdims=True) for x in parts]
    std = [x.std(1, ddof=1, keepdims=True) for x in parts]
    f, y = codes(d, np.concatenate([(x - m) / (s + 1e-5) * c for x, m, s, c in zip(parts, mean, std, scale)], 1))
    x_hat = [p / c * s + m for p, c, s, m in zip(np.split(y, 2, 1), scale, std, mean)]
with h5py.File(folder / "evaluate.h5") as e:
    check("the number of held-out rows", e.attrs["rows"], held.sum(), 0)
    check("held-out firing", e["latents/fires"][:].astype(float), (f[held] > 0).sum(0), 1e-3)
    check("FVU", e["sites/fvu"][:], np.array([fvu(x[held], (x - r)[held]) for x, r in zip(parts, x_hat)]), 1e-5)
with h5py.File(folder / "stats.h5") as s:
    check("firing", s["latents/fires"][:].astype(float), (f > 0).sum(0), 1e-3)
    check("the largest activations", s["latents/max"][:].astype(float), f.max(0), 1e-4)
with h5py.File(folder / "spectrum.h5") as s:
    for model, x, r in zip(NAMES, parts, x_hat):
        check(f"{model}'s FVU", s[model].attrs["fvu"], fvu(x[held], (x - r)[held]), 1e-5)
        for side, rows in (("x", x), ("xhat", r), ("residual", x - r)):
            values = np.linalg.eigvalsh(np.cov(rows.T))[::-1]
            check(f"{model}'s spectrum of {side}", s[f"{model}/{side}/eigenvalues"][:], values, 1e-5)
print("; ".join(problems))
sys.exit(bool(problems))
