#!/usr/bin/env python3
"""Makes tests/golden/loss_oracle.json: what splicing a small crosscoder costs the pocket pair, in float64 by PyTorch.

Dictionary and text follow from formulas that tests/unit/eval/test_loss.c repeats. The forward pass is family_oracle.py's. Run by hand.
"""
import json
import math
import pathlib

import numpy as np
import torch

from family_oracle import Plan, forward

ROOT = pathlib.Path(__file__).resolve().parents[2]
SITE, LATENTS, WIDTH, SCALES = "blocks.2.hook_resid_post", 48, 128, [0.11, 0.07]
LENGTHS = [90, 90, 41]


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


def jackknife(sums, statistic):
    """sums [windows, columns]."""
    without = np.array([statistic(np.delete(sums, b, 0).sum(0)) for b in range(len(sums))])
    n = len(without)
    return [statistic(sums.sum(0)), math.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum())]


def main():
    torch.set_num_threads(1)
    models = [load(ROOT / "jobs/quickstart" / name) for name in ("base", "tuned")]
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
        f = torch.relu((x * scale - b_dec) @ w_enc.T + b_enc)
        w["x"], w["x_hat"] = x, (f @ w_dec + b_dec) / scale
    mean = torch.cat([w["x"][w["changed"]] for w in windows]).mean(0)
    result = {"models": []}
    for m, (p, weights) in enumerate(models):
        columns, conditions, curves = slice(m * WIDTH, (m + 1) * WIDTH), {}, {}
        for condition in ("clean", "spliced", "zero", "mean", "minus_error"):
            sums, curve = [], np.zeros((3, 90))
            for w in windows:
                x, x_hat = w["x"][:, columns], w["x_hat"][:, columns]
                new = {"clean": x, "spliced": x_hat, "zero": 0 * x, "mean": mean[columns].expand_as(x), "minus_error": 2 * x - x_hat}[condition]
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
            conditions[condition], curves[condition] = np.array(sums), curve
        entry = {c: [jackknife(s, lambda v, i=i: v[i] / v[0]) for i in (1, 2, 3)] for c, s in conditions.items()}
        for reference in ("zero", "mean"):
            table = np.stack([conditions[c][:, 1] for c in (reference, "spliced", "clean")], 1)
            entry["recovered_" + reference] = jackknife(table, lambda v: (v[0] - v[1]) / (v[0] - v[2]))
        table = np.stack([conditions[c][:, 2] for c in ("spliced", "minus_error")], 1)
        entry["kl_ratio_minus_error"] = jackknife(table, lambda v: v[0] / v[1])
        count = np.zeros(90)
        for w in windows:
            count[: len(w["ids"])] += w["scored"].numpy()
        with np.errstate(invalid="ignore"):
            entry["curve"] = [None if math.isnan(v) else v for v in curves["spliced"][1] / count]
        result["models"].append(entry)
    path = pathlib.Path(__file__).with_name("loss_oracle.json")
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(path, json.dumps({k: v for k, v in result["models"][1].items() if k != "curve"}))


if __name__ == "__main__":
    main()
