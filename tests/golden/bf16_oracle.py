#!/usr/bin/env python3
"""Makes tests/golden/family/NAME/bf16.h5: the sites of a checkpoint run with products in bf16, by PyTorch.

What is rounded is what `harvest.compute: bf16` rounds: the weights of all products with weights, the unembedding among them,
and the rows that they are multiplied with (norms' outputs, attn.hook_z, mlp.hook_post), to nearest, ties to even. Everything
else, and every sum, is float64 here. Layout and prompt are those of reference.h5 (family_oracle.py), with fewer positions.

bf16_oracle.py   (needs PyTorch and h5py; writes beside the checkpoints)
"""
import json

import h5py
import numpy as np
import torch
import torch.nn.functional as F

from family_oracle import BLOCK, HERE, WHOLE, Plan, forward
from loss_oracle import read

NAMES, ROWS = ("gpt2", "gpt_neox", "opt", "llama-yarn", "qwen3", "gemma2"), [0, 17, 89]


def rounded(x):
    """By way of float32, as it is stored."""
    return x.float().bfloat16().double()


def product(x, w, bias):
    return F.linear(rounded(x), rounded(w), bias)


def main():
    for name in NAMES:
        folder = HERE / name
        p = Plan(json.loads((folder / "config.json").read_text()))
        w = {n: torch.tensor(v) for n, v in read(folder / "model.safetensors")}
        with h5py.File(folder / "reference.h5") as f:
            ids = f["prompt0/tokens"][...]
        out = forward(p, w, torch.tensor(ids.astype(np.int64)), product=product)
        order = [s for s in WHOLE + [f"blocks.{l}.{s}" for l in range(p.layers) for s in BLOCK] if s in out]
        with h5py.File(folder / "bf16.h5", "w") as f:
            f["prompt0/tokens"], f["prompt0/rows"] = ids, np.array(ROWS, dtype=np.uint32)
            f["prompt0/values"] = torch.cat([out[s][ROWS].reshape(-1) for s in order]).numpy().astype(np.float32)
        print(name)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
