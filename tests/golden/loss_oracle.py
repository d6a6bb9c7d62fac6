#!/usr/bin/env python3
"""Makes tests/golden/loss_oracle.json: what splicing a small crosscoder costs the pocket pair, in float64 by PyTorch and numpy.

Dictionary and text follow from formulas that tests/unit/eval/test_loss.c repeats. The forward pass is family_oracle.py's. Random numbers are
Philox4x32-10 (Salmon et al., SC11), written out here; the ridge regression is numpy's solve. Run by hand.
"""
import json
import math
import pathlib

import numpy as np
import torch

from family_oracle import Plan, forward

ROOT = pathlib.Path(__file__).resolve().parents[2]
SITE, LATENTS, WIDTH, SCALES = "blocks.2.hook_resid_post", 48, 128, [0.11, 0.07]
LENGTHS, DOCUMENTS = [90, 90, 41], [0, 37, 101, 130, 200, 221]
SEED, RIDGE, RESAMPLES = 7, 0.1, 1000
NULL, BOOTSTRAP, HALVES = 40, 43, 44  # streams of random numbers
MAX_SITES, CONDITIONS = 256, 18
NULLS = ["isotropic", "covariance_x", "covariance_e", "other_error", "minus_error", "linear", "nonlinear"]


def grid(rows, columns, seed):
    j, i = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    return (((j * 131 + i * 31 + j * i * 7 + seed) % 61 - 30) / 30).astype(np.float32).astype(np.float64)


def read(path):
    """The tensors of a safetensors file as float64."""
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    for name, t in json.loads(raw[8:8 + size]).items():
        if name == "__metadata__":
            continue
        part = raw[8 + size + t["data_offsets"][0]:8 + size + t["data_offsets"][1]]
        if t["dtype"] == "BF16":
            part = (np.frombuffer(part, np.uint16).astype(np.uint32) << 16).view(np.float32)
        else:
            part = np.frombuffer(part, {"F32": np.float32, "F16": np.float16}[t["dtype"]])
        yield name, part.astype(np.float64).reshape(t["shape"])


def load(folder):
    config = json.loads((folder / "config.json").read_text())
    return Plan(config), {n: torch.tensor(v) for n, v in read(folder / "model.safetensors")}


def philox(index, stream):
    """Four 32-bit words of each index."""
    index, low = np.atleast_1d(np.asarray(index, np.uint64)), np.uint64(0xFFFFFFFF)
    c = [index & low, index >> np.uint64(32), np.full_like(index, stream), np.zeros_like(index)]
    k = [SEED, 0]
    for _ in range(10):
        a, b = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = [(b >> np.uint64(32)) ^ c[1] ^ np.uint64(k[0]), b & low, (a >> np.uint64(32)) ^ c[3] ^ np.uint64(k[1]), a & low]
        k = [(k[0] + 0x9E3779B9) % (1 << 32), (k[1] + 0xBB67AE85) % (1 << 32)]
    return c


def fraction(low, high):
    return ((high << np.uint64(32) | low) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def uniform(index, stream):
    r = philox(index, stream)
    return fraction(r[0], r[1])


def normal(index, stream):
    r = philox(index, stream)
    return np.sqrt(-2 * np.log(1 - fraction(r[0], r[1]))) * np.cos(2 * np.pi * fraction(r[2], r[3]))


def halves():
    """Which half each row is in: of two neighbouring documents one is in each."""
    units = [(u ^ int(philox(u // 2, HALVES)[0][0])) & 1 for u in range(len(DOCUMENTS) - 1)]
    return np.repeat(units, np.diff(DOCUMENTS))


def ridge_fit(x, e):
    mx, me = x.mean(0), e.mean(0)
    g = (x - mx).T @ (x - mx)
    w = np.linalg.solve(g + RIDGE * np.trace(g) / len(g) * np.eye(len(g)), (x - mx).T @ (e - me))
    return lambda rows: (rows - mx) @ w + me


def linear_part(x, e, changed):
    """What x predicts of e, fitted on the other half's rows."""
    linear, half = np.zeros_like(e), halves()
    for h in (0, 1):
        fit = ridge_fit(x[changed & (half != h)], e[changed & (half != h)])
        linear[half == h] = fit(x[half == h])
    return linear


def r2_of(linear, e, changed):
    left, total = (e - linear)[changed], e[changed] - e[changed].mean(0)
    return 1 - (left**2).sum() / (total**2).sum()


def directions(x, e, changed, window, m):
    """The direction of every null at every row of one model; x, e [rows, width], window: of each row."""
    rows, width = x.shape
    index = lambda null: ((np.arange(rows) * MAX_SITES + m) * CONDITIONS + 4 + null).astype(np.uint64) << np.uint64(20)
    draw = lambda null: normal(index(null)[:, None] + np.arange(width, dtype=np.uint64), NULL)
    linear = linear_part(x, e, changed)
    other, u = e.copy(), uniform(index(3), NULL)
    for t in np.flatnonzero(changed):
        others = [i for i in np.flatnonzero(changed & (window == window[t])) if i != t]
        other[t] = e[others[int(u[t] * len(others))]]
    root = lambda v: np.linalg.cholesky(np.cov(v[changed].T))
    return [draw(0), draw(1) @ root(x).T, draw(2) @ root(e).T, other, e, -linear, linear - e]


def same_cosine(x, e, u):
    """As far from x as x - e, at the same angle, towards u."""
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    along, across = (-e * unit).sum(1, keepdims=True) * unit, u - (u * unit).sum(1, keepdims=True) * unit
    rest = np.linalg.norm(-e - along, axis=1, keepdims=True)
    return x + along + rest * across / np.linalg.norm(across, axis=1, keepdims=True)


def null_rows(windows, columns, m):
    """What each null puts in the place of the rows; the linear part's R2."""
    x, x_hat = (np.concatenate([w[k][:, columns].numpy() for w in windows]) for k in ("x", "x_hat"))
    changed, window = np.concatenate([w["changed"].numpy() for w in windows]), np.repeat(np.arange(len(LENGTHS)), LENGTHS)
    e = x - x_hat
    out = {}
    for name, u in zip(NULLS, directions(x, e, changed, window, m)):
        out[name] = x + np.linalg.norm(e, axis=1, keepdims=True) * u / np.linalg.norm(u, axis=1, keepdims=True)
        out["cosine_" + name] = same_cosine(x, e, u)
    cut = np.cumsum(LENGTHS)[:-1]
    return {name: [torch.tensor(part) for part in np.split(rows, cut)] for name, rows in out.items()}, r2_of(linear_part(x, e, changed), e, changed)


def interval(spliced, null):
    """The 95 % interval of the ratio, from the KL of every document."""
    n = len(spliced)
    draws = (uniform(np.arange(RESAMPLES * n), BOOTSTRAP) * n).astype(int).reshape(RESAMPLES, n)
    return np.percentile(spliced[draws].sum(1) / null[draws].sum(1), [2.5, 97.5]).tolist()


def jackknife(sums, statistic):
    """sums [windows, columns]."""
    without = np.array([statistic(np.delete(sums, b, 0).sum(0)) for b in range(len(sums))])
    n = len(without)
    return [statistic(sums.sum(0)), math.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum())]


def normalise(how, x):
    """Each row by its own numbers, and what brings y back: y * a + b."""
    if how == "layer":
        mean, std = x.mean(1, keepdim=True), x.std(1, keepdim=True)
        return (x - mean) / (std + 1e-5), std, mean
    if how == "norm":
        size = x.norm(dim=1, keepdim=True) / x.shape[1] ** 0.5
        return x / size, size, 0 * size
    return x, torch.ones_like(x[:, :1]), torch.zeros_like(x[:, :1])


def measure(models, token_norms):
    """What the crosscoder costs each model, its sites' rows being normalised so."""
    w_enc, w_dec = torch.tensor(grid(LATENTS, 2 * WIDTH, 5) / 8), torch.tensor(grid(LATENTS, 2 * WIDTH, 19) / 16)
    b_enc, b_dec = torch.tensor(grid(1, LATENTS, 3)[0] / 4), torch.tensor(grid(1, 2 * WIDTH, 11)[0] / 20)
    scale = torch.tensor(np.repeat(SCALES, WIDTH))
    windows, first = [], 0
    for n in LENGTHS:
        r = np.arange(first, first + n)
        windows.append({"ids": torch.tensor((r * r * 37 + r * 11 + 5) % 640), "changed": torch.tensor((r > first) & (r % 7 != 0)),
                        "scored": torch.tensor((r < first + n - 1) & (r % 5 != 3))})
        first += n
    for w in windows:
        w["clean"] = [forward(p, weights, w["ids"]) for p, weights in models]
        x = torch.cat([out[SITE] for out in w["clean"]], 1)
        n, size, level = (torch.cat([a.expand(-1, WIDTH) for a in of], 1) for of in zip(*map(normalise, token_norms, x.split(WIDTH, 1))))
        f = torch.relu((n * scale - b_dec) @ w_enc.T + b_enc)
        w["x"], w["x_hat"] = x, (f @ w_dec + b_dec) / scale * size + level
    mean = torch.cat([w["x"][w["changed"]] for w in windows]).mean(0)
    result = []
    document = np.repeat(np.arange(len(DOCUMENTS) - 1), np.diff(DOCUMENTS))
    for m, (p, weights) in enumerate(models):
        columns, conditions, curves, by_document = slice(m * WIDTH, (m + 1) * WIDTH), {}, {}, {}
        nulls, r2 = null_rows(windows, columns, m)
        for condition in ("clean", "spliced", "zero", "mean", *nulls):
            sums, curve, kls = [], np.zeros((3, 90)), []
            for number, w in enumerate(windows):
                x, x_hat = w["x"][:, columns], w["x_hat"][:, columns]
                plain = {"clean": x, "spliced": x_hat, "zero": 0 * x, "mean": mean[columns].expand_as(x)}
                new = plain[condition] if condition in plain else nulls[condition][number]
                change = lambda name, rows: torch.where(w["changed"][:, None], new, rows) if name == SITE else rows
                logits = forward(p, weights, w["ids"], change)["logits"].log_softmax(-1)
                clean = w["clean"][m]["logits"].log_softmax(-1)
                s = w["scored"][:-1]
                nll = -logits[:-1].gather(1, w["ids"][1:, None])[:, 0]
                kl = (clean.exp() * (clean - logits)).sum(-1)[:-1]
                top = (clean.argmax(-1) == logits.argmax(-1))[:-1].double()
                q = torch.stack([nll, kl, top]) * s
                sums.append([float(s.sum())] + q.sum(1).tolist())
                curve[:, : q.shape[1]] += q.numpy()
                kls.append(np.append(q[1].numpy(), 0))
            by_document[condition] = np.bincount(document, np.concatenate(kls))
            conditions[condition], curves[condition] = np.array(sums), curve
        entry = {c: [jackknife(s, lambda v, i=i: v[i] / v[0]) for i in (1, 2, 3)] for c, s in conditions.items()}
        for reference in ("zero", "mean"):
            table = np.stack([conditions[c][:, 1] for c in (reference, "spliced", "clean")], 1)
            entry["recovered_" + reference] = jackknife(table, lambda v: (v[0] - v[1]) / (v[0] - v[2]))
        for null in nulls:
            table = np.stack([conditions[c][:, 2] for c in ("spliced", null)], 1)
            entry["kl_ratio_" + null] = jackknife(table, lambda v: v[0] / v[1]) + interval(by_document["spliced"], by_document[null])
        count = np.zeros(90)
        for w in windows:
            count[: len(w["ids"])] += w["scored"].numpy()
        with np.errstate(invalid="ignore"):
            entry["curve"] = [None if math.isnan(v) else v for v in curves["spliced"][1] / count]
        entry["linear_r2"] = r2
        result.append(entry)
    return result


def main():
    torch.set_num_threads(1)
    models = [load(ROOT / "jobs/quickstart" / name) for name in ("base", "tuned")]
    result = {"models": measure(models, ["none", "none"]), "token_models": measure(models, ["layer", "norm"])}
    path = pathlib.Path(__file__).with_name("loss_oracle.json")
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(path, json.dumps({k: v for k, v in result["models"][1].items() if k != "curve"}))


if __name__ == "__main__":
    main()
