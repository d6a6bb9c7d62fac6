#!/usr/bin/env python3
"""Makes eval_oracle.json: a small random crosscoder, the activations of two models, and what numpy says of them in fp64.

tests/unit/eval/test_eval.c reads the file. The layout of rows is that of tests/unit/dict/synthetic.h: windows of 16 rows, documents of
equal length, every fifth held out. Run without arguments; the file is written beside this script.
"""
import json
import os

import numpy as np

ROWS, DOCUMENTS, CONTEXT, WIDTHS, LATENTS, K = 400, 40, 16, (4, 3), 48, 3
BUCKETS, FVU_BATCH = 64, 4


def bucket_of_rows():
    """Bucket b ends with the document that holds row (b + 1) * rows / 64 - 1."""
    first = [d * (ROWS // DOCUMENTS) for d in range(DOCUMENTS)] + [ROWS]
    bucket, d = np.empty(ROWS, int), 0
    for b in range(BUCKETS):
        last = (b + 1) * ROWS // BUCKETS - 1
        while d < DOCUMENTS and last >= 0 and first[d] <= last:
            bucket[first[d]:first[d + 1]] = b
            d += 1
    return bucket


def codes(kind, p, norm, threshold):
    f = np.maximum(p, 0)
    if kind == "relu":
        return f
    score = f * norm
    if kind == "batchtopk":
        return f * (score > threshold)
    order = np.argsort(-score, axis=1, kind="stable")[:, :K]
    keep = np.zeros_like(f, bool)
    np.put_along_axis(keep, order, True, axis=1)
    return f * keep


def fvu(e, x):
    return (e ** 2).sum() / ((x - x.mean(0)) ** 2).sum()


def normalise(how, x):
    """Each site's part of a row by its own numbers, and what brings y back: y * a + b."""
    if how == "layer":
        mean, std = x.mean(1, keepdims=True), x.std(1, ddof=1, keepdims=True)
        return (x - mean) / (std + 1e-5), std, mean
    if how == "norm":
        factor = x.shape[1] ** 0.5 / np.linalg.norm(x, axis=1, keepdims=True)
        return x * factor, 1 / factor, 0.0
    return x, 1.0, 0.0


def batches(bucket, most):
    """Places of rows: each bucket's, cut into as few equal runs of at most `most` rows as there can be."""
    for b in np.unique(bucket):
        rows = np.flatnonzero(bucket == b)
        yield from ((b, run) for run in np.array_split(rows, -(-len(rows) // most)))


def other_fvus(e, x, bucket, most):
    """Means over batches and over rows, with jackknife errors over buckets."""
    ratios, rows = [], []
    for b, run in batches(bucket, most):
        apart = ((x[run] - x[run].mean(0)) ** 2).sum(1)
        rows += [(b, ratio) for ratio in (e[run] ** 2).sum(1) / apart]
        ratios.append((b, e[run].var(0).sum() / x[run].var(0).sum()))
    out = []
    for table in (ratios, rows):
        of, value = np.array(table).T
        without = np.array([value[of != b].mean() for b in np.unique(bucket)])
        out.append((value.mean(), jackknife(without)))
    return out


def jackknife(without):
    return np.sqrt((len(without) - 1) / len(without) * ((without - without.mean()) ** 2).sum())


def main():
    r = np.random.default_rng(1)
    x = (r.normal(size=(ROWS, sum(WIDTHS))) + 0.5).astype(np.float32)
    scale = [0.5, 2.0]  # powers of two: scaling is exact
    w_dec = r.normal(size=(LATENTS, sum(WIDTHS))).astype(np.float32) * np.float32(0.5)
    w_enc = (0.15 * w_dec + 0.02 * r.normal(size=w_dec.shape)).astype(np.float32)
    b_enc, b_dec = (0.1 * r.normal(size=LATENTS)).astype(np.float32), (0.2 * r.normal(size=sum(WIDTHS))).astype(np.float32)
    threshold = np.float32(0.75)
    row, document = np.arange(ROWS), np.arange(ROWS) // (ROWS // DOCUMENTS)
    use = (document % 5 == 2) & (row % CONTEXT != 0)
    used, held = bucket_of_rows()[use], x.astype(float)[use]
    parts = [slice(0, WIDTHS[0]), slice(WIDTHS[0], sum(WIDTHS))]
    norm = sum(np.linalg.norm(w_dec[:, part].astype(float), axis=1) for part in parts)
    cases = []
    for kind, how in (("relu", "none"), ("topk", "none"), ("batchtopk", "none"), ("topk", "layer"), ("batchtopk", "norm")):
        tokens = [normalise(how, held[:, part]) for part in parts]
        p = (np.concatenate([t[0] * s for t, s in zip(tokens, scale)], 1) - b_dec) @ w_enc.T.astype(float) + b_enc
        f = codes(kind, p, norm, threshold)
        x_hat = f @ w_dec.astype(float) + b_dec
        error_of = held - np.concatenate([x_hat[:, part] / s * t[1] + t[2] for part, t, s in zip(parts, tokens, scale)], 1)
        case = {"activation": kind, "token_norm": how, "fvu": [], "fvu_error": [], "fvu_batches": [], "fvu_batches_error": [], "fvu_rows": [],
                "fvu_rows_error": [], "fires": (f > 0).sum(0).tolist(), "rows": int(use.sum()), "l0": float((f > 0).sum(1).mean())}
        for part in parts:
            without = np.array([fvu(error_of[used != b][:, part], held[used != b][:, part]) for b in np.unique(used)])
            case["fvu"].append(fvu(error_of[:, part], held[:, part]))
            case["fvu_error"].append(jackknife(without))
            for name, (value, error) in zip(("fvu_batches", "fvu_rows"), other_fvus(error_of[:, part], held[:, part], used, FVU_BATCH)):
                case[name].append(value)
                case[name + "_error"].append(error)
        cases.append(case)
    out = {"rows": ROWS, "documents": DOCUMENTS, "fvu_batch": FVU_BATCH, "latents": LATENTS, "k": K, "widths": WIDTHS, "scale": scale, "threshold": float(threshold), "cases": cases}
    for name, value in (("x", x), ("w_enc", w_enc), ("w_dec", w_dec), ("b_enc", b_enc), ("b_dec", b_dec)):
        out[name] = [float(f"{v:.9g}") for v in value.ravel()]
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "eval_oracle.json"), "w") as file:
        json.dump(out, file)
        file.write("\n")


if __name__ == "__main__":
    main()
