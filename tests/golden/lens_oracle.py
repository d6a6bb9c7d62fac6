#!/usr/bin/env python3
"""Makes tests/golden/lens_oracle.json: logit lens, attribution, detectors and weights of the checkpoints in tests/golden/family/, in float64.

The forward pass is family_oracle.py's; everything else is done the long way round: whole [d, d] and [V, V] matrices, one head's
result after the other. Text and sequences follow from formulas that tests/unit/lens/test_lens.c repeats. Run by hand.
"""
import json
import math
import pathlib

import numpy as np
import torch

from family_oracle import CASES, CONTEXT, Plan, block_weights, ends, forward
from loss_oracle import read

HERE = pathlib.Path(__file__).parent
LENGTHS, PERIOD, SEQUENCES, SEED, STREAM = [90, 90, 41], 12, 4, 5, 42
RANDOM = list(range(3, 41))


# ---- tokens of the sequences: Philox4x32-10 and the permutation of base.h, written anew ----------


def philox(counter, key):
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * counter[0], 1 << 32)
        high1, low1 = divmod(0xCD9E8D57 * counter[2], 1 << 32)
        counter = [high1 ^ counter[1] ^ key[0], low1, high0 ^ counter[3] ^ key[1], low0]
        key = [(key[0] + 0x9E3779B9) % (1 << 32), (key[1] + 0xBB67AE85) % (1 << 32)]
    return counter


def permute(seed, n, i):
    half = max(3, ((n - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = i >> half, i & mask
        for r in range(8):
            left, right = right, left ^ (philox([right, 0, STREAM, 1 + r], [seed, 0])[0] & mask)
        i = left << half | right
        if i < n:
            return i


def sequence(s, bos):
    once = [RANDOM[permute(SEED + s, len(RANDOM), i)] for i in range(PERIOD)]
    return ([bos] if bos >= 0 else []) + once + once


# ---- figures ------------------------------------------------------------------------------------


def jackknife(sums, counts):
    """Mean and its error over blocks: sums [blocks, ...], counts [blocks]."""
    sums, counts = np.array(sums), np.array(counts, float)
    without = np.array([np.delete(sums, b, 0).sum(0) / np.delete(counts, b).sum() for b in range(len(counts))])
    n = len(counts)
    return {"value": (sums.sum(0) / counts.sum()).tolist(), "error": np.sqrt((n - 1) / n * ((without - without.mean(0)) ** 2).sum(0)).tolist()}


def read_out(p, w, x):
    """Logits before and after the cap of rows of the stream, and the norm's scale."""
    _, _, final, unembed = ends(p, w)
    x = x - x.mean(-1, keepdim=True) if p.gpt else x
    scale = torch.sqrt((x * x).mean(-1, keepdim=True) + p.eps)
    x = x / scale * w[final + ".weight"] + w[final + ".bias"] if p.gpt else x / scale * (w[final + ".weight"] + p.gemma)
    raw, cap = x @ unembed.T, p.c.get("final_logit_softcapping")
    return raw, cap * torch.tanh(raw / cap) if cap else raw, scale


def window(p, w, ids, scored, against):
    """Sums over scored positions: logit lens [4, L + 1], parts, previous-token attention [L, H]."""
    _, _, final, unembed = ends(p, w)
    out, rows = forward(p, w, ids), np.flatnonzero(scored)
    points = [out[f"blocks.{l}.hook_resid_pre"] for l in range(p.layers)] + [out[f"blocks.{p.layers - 1}.hook_resid_post"]]
    raw, capped, scale = read_out(p, w, points[-1])
    last, target = capped.log_softmax(-1)[rows], ids[rows + 1]
    lens = []
    for x in points:
        logp = read_out(p, w, x)[1].log_softmax(-1)[rows]
        lens.append([-logp[range(len(rows)), target].sum(), (last.exp() * (last - logp)).sum(), -(logp.exp() * logp).sum(),
                     (logp.argmax(-1) == last.argmax(-1)).sum()])
    offset = unembed.mean(0) if against < 0 else unembed[against]
    direction = unembed[target] - offset

    def part(x):
        x = x[rows]
        x = x - x.mean(-1, keepdim=True) if p.gpt else x
        return (x / scale[rows] * (w[final + ".weight"] + p.gemma) * direction).sum()

    zero = torch.zeros_like(points[0])
    whole = [part(out["hook_embed"]), part(out.get("hook_pos_embed", zero)), (w[final + ".bias"] * direction).sum() if p.gpt else torch.tensor(0.0)]
    logit = raw[rows, target].sum() - (raw[rows].mean(-1).sum() if against < 0 else raw[rows, against].sum())
    heads, biases, mlps, previous = [], [], [], []
    for l in range(p.layers):
        s, b = f"blocks.{l}.", block_weights(p, w, l)
        result = out[s + "attn.hook_result"].view(len(ids), p.heads, p.d)
        bias = b["ob"].expand(len(ids), -1) if b["ob"] is not None else zero
        behind = 1.0
        if p.sandwich:
            a = result.sum(1) + bias
            behind = (w[b["post1"] + ".weight"] + 1) / torch.sqrt((a * a).mean(-1, keepdim=True) + p.eps)
        heads.append([part(result[:, h] * behind) for h in range(p.heads)])
        biases.append(part(bias * behind))
        mlps.append(part(out[s + "hook_mlp_out"]))
        pattern = out[s + "attn.hook_pattern"].view(len(ids), p.heads, CONTEXT)
        previous.append([sum(pattern[i, h, i - 1] for i in rows if i > 0) for h in range(p.heads)])
    total = sum(whole) + sum(map(sum, heads)) + sum(biases) + sum(mlps)
    assert abs(total - logit) < 1e-8 * abs(logit) + 1e-8, (total, logit)
    numbers = lambda x: np.array(torch.tensor(x).tolist())
    return {"point": numbers(lens).T, "whole": numbers(whole + [logit]), "head": numbers(heads), "bias": numbers(biases), "mlp": numbers(mlps),
            "previous": numbers(previous)}, len(rows), int((rows > 0).sum())


def detectors(p, w, bos):
    """Sums and numbers of positions of one sequence after the other, [3, L, H]."""
    sums = []
    for s in range(SEQUENCES):
        ids = sequence(s, bos)
        out, n, one = forward(p, w, torch.tensor(ids)), len(ids), []
        for offset, first in ((1, 1), (PERIOD, n - PERIOD), (PERIOD - 1, n - PERIOD)):
            layers = []
            for l in range(p.layers):
                pattern = out[f"blocks.{l}.attn.hook_pattern"].view(n, p.heads, CONTEXT)
                layers.append([float(np.mean([float(pattern[i, h, i - offset]) for i in range(first, n)])) for h in range(p.heads)])
            one.append(layers)
        sums.append(one)
    return jackknife(sums, [1] * SEQUENCES)


def share(matrix):
    values = np.linalg.eigvals(matrix)
    return float(values.real.sum() / np.abs(values).sum())


def weights(p, w):
    embed, _, final, unembed = (x.numpy() if torch.is_tensor(x) else x for x in ends(p, w))
    array = lambda x: None if x is None else x.numpy()
    centre = np.eye(p.d) - p.gpt / p.d
    read_at = lambda name: np.diag(w[name + ".weight"].numpy() + p.gemma) @ centre
    out = {k: [] for k in ("ov", "ov_full", "qk", "qk_full", "ov_norm", "qk_norm")}
    qks, ovs = [], []
    for l in range(p.layers):
        b = {k: array(v) if torch.is_tensor(v) else v for k, v in block_weights(p, w, l).items()}
        gain = lambda k: np.diag(b[k] + p.gemma) if b.get(k) is not None else np.eye(p.hw)
        for h in range(p.heads):
            g = h // (p.heads // p.kv)
            piece = lambda m, i: m[i * p.hw:(i + 1) * p.hw]
            q, k = gain("qn") @ piece(b["q"], h) @ read_at(b["ln1"]), gain("kn") @ piece(b["k"], g) @ read_at(b["ln1"])
            v, o = piece(b["v"], g) @ read_at(b["ln1"]), b["o"][:, h * p.hw:(h + 1) * p.hw]
            if p.sandwich:
                o = np.diag(w[b["post1"] + ".weight"].numpy() + 1) @ o
            qks.append(q.T @ k)
            ovs.append(centre @ o @ v)
            for name, value in (("ov", share(ovs[-1])), ("ov_full", share(unembed @ read_at(final) @ ovs[-1] @ embed.T)), ("qk", share(qks[-1])),
                                ("qk_full", share(embed @ qks[-1] @ embed.T)), ("ov_norm", np.linalg.norm(ovs[-1])), ("qk_norm", np.linalg.norm(qks[-1]))):
                out[name].append(float(value))
    n = p.layers * p.heads
    score = lambda r, l: float(np.linalg.norm(r @ l) / np.linalg.norm(r) / np.linalg.norm(l))
    for name, reader in (("q", lambda i: qks[i].T), ("k", lambda i: qks[i]), ("v", lambda i: ovs[i])):
        out["composition_" + name] = [[score(reader(j), ovs[i]) if j // p.heads > i // p.heads else 0.0 for j in range(n)] for i in range(n)]
    return out


def main():
    result = {}
    for number, (name, config) in enumerate(CASES.items()):
        p, w = Plan(config), {n: torch.tensor(v) for n, v in read(HERE / "family" / name / "model.safetensors")}
        against, bos, first, found = (-1, 2, 0, []) if number % 2 == 0 else (5, -1, 0, [])
        for n in LENGTHS:
            r = np.arange(first, first + n)
            found.append(window(p, w, torch.tensor((r * r * 37 + r * 11 + 5) % 41), (r < first + n - 1) & (r % 5 != 3), against))
            first += n
        sums, scored, behind = zip(*found)
        text = {k: jackknife([s[k] for s in sums], behind if k == "previous" else scored) for k in sums[0]}
        result[name] = {"against": against, "bos": bos, "tokens": sequence(1, bos), **text, "detector": detectors(p, w, bos), **weights(p, w)}
        print(name)
    text = json.dumps(json.loads(json.dumps(result), parse_float=lambda x: float(f"{float(x):.9g}")), separators=(",", ":"))
    (HERE / "lens_oracle.json").write_text(text.replace('},"', '},\n"') + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
