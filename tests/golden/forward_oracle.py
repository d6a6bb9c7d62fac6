#!/usr/bin/env python3
"""Makes tests/golden/forward/: small random Llama checkpoints and their float64 outputs by PyTorch.

scaled/    grouped-query attention, llama3 rope scaling, all biases, an untied unembedding, two F32 shards behind an index
linear/    new-style rope_parameters with the linear rule, tied, F16, names without "model.", an inv_freq buffer to ignore
Each holds reference.h5: for two prompts the tokens, every hook site, the logits and the loss of each next token.

forward_oracle.py   (needs PyTorch and h5py; writes beside itself)
"""
import json
import math
import os
import struct

import h5py
import numpy as np
import torch
import torch.nn.functional as F

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "forward")
LAYERS, WIDTH, HEADS, KV, HEAD, MLP, VOCAB = 2, 36, 6, 2, 10, 50, 83


def llama3(inverse, rule):
    """Llama 3.1's rule: long wavelengths slowed by the factor, short ones kept, those between blended."""
    out = []
    for f in inverse:
        wavelength, original = 2 * math.pi / f, rule["original_max_position_embeddings"]
        if wavelength > original / rule["low_freq_factor"]:
            out.append(f / rule["factor"])
        elif wavelength < original / rule["high_freq_factor"]:
            out.append(f)
        else:
            s = (original / wavelength - rule["low_freq_factor"]) / (rule["high_freq_factor"] - rule["low_freq_factor"])
            out.append((1 - s) * f / rule["factor"] + s * f)
    return out


def frequencies(config):
    rule = config.get("rope_parameters") or config.get("rope_scaling") or {}
    base = rule.get("rope_theta", config.get("rope_theta", 10000.0))
    inverse = [base ** (-2 * i / HEAD) for i in range(HEAD // 2)]
    kind = rule.get("rope_type", rule.get("type", "default"))
    if kind == "linear":
        inverse = [f / rule["factor"] for f in inverse]
    if kind == "llama3":
        inverse = llama3(inverse, rule)
    return torch.tensor(inverse, dtype=torch.float64)


def shapes(config):
    out = {"model.embed_tokens.weight": (VOCAB, WIDTH), "model.norm.weight": (WIDTH,)}
    if not config["tie_word_embeddings"]:
        out["lm_head.weight"] = (VOCAB, WIDTH)
    for layer in range(LAYERS):
        p = f"model.layers.{layer}."
        out[p + "input_layernorm.weight"] = out[p + "post_attention_layernorm.weight"] = (WIDTH,)
        for name, rows, columns in (("q", HEADS * HEAD, WIDTH), ("k", KV * HEAD, WIDTH), ("v", KV * HEAD, WIDTH), ("o", WIDTH, HEADS * HEAD)):
            out[p + f"self_attn.{name}_proj.weight"] = (rows, columns)
            if config["attention_bias"]:
                out[p + f"self_attn.{name}_proj.bias"] = (rows,)
        for name, rows, columns in (("gate", MLP, WIDTH), ("up", MLP, WIDTH), ("down", WIDTH, MLP)):
            out[p + f"mlp.{name}_proj.weight"] = (rows, columns)
            if config["mlp_bias"]:
                out[p + f"mlp.{name}_proj.bias"] = (rows,)
    return out


def forward(config, w, ids):
    """All sites of one window, by the formulas of the Llama papers, in float64."""
    linear = lambda x, name: F.linear(x, w[name + ".weight"], w.get(name + ".bias"))
    norm = lambda x, name: x / torch.sqrt((x * x).mean(-1, keepdim=True) + config["rms_norm_eps"]) * w[name + ".weight"]
    n, out = len(ids), {}
    angle = torch.outer(torch.arange(n, dtype=torch.float64), frequencies(config))
    mask = torch.triu(torch.ones(n, n, dtype=torch.bool), 1)

    def heads(x, count, rotated):
        x = x.view(n, count, HEAD).transpose(0, 1)
        if rotated:
            a, b = x[..., :HEAD // 2], x[..., HEAD // 2:]
            x = torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)
        return x.repeat_interleave(HEADS // count, 0)

    x = out["hook_embed"] = w["model.embed_tokens.weight"][torch.tensor(ids)]
    for layer in range(LAYERS):
        p, site = f"model.layers.{layer}.", f"blocks.{layer}."
        out[site + "hook_resid_pre"] = x
        h = norm(x, p + "input_layernorm")
        q, k, v = (heads(linear(h, p + f"self_attn.{c}_proj"), m, c != "v") for c, m in (("q", HEADS), ("k", KV), ("v", KV)))
        weights = (q @ k.transpose(1, 2) / math.sqrt(HEAD)).masked_fill(mask, -math.inf).softmax(-1)
        a = out[site + "hook_attn_out"] = linear((weights @ v).transpose(0, 1).reshape(n, -1), p + "self_attn.o_proj")
        x = out[site + "hook_resid_mid"] = x + a
        h = norm(x, p + "post_attention_layernorm")
        m = out[site + "hook_mlp_out"] = linear(F.silu(linear(h, p + "mlp.gate_proj")) * linear(h, p + "mlp.up_proj"), p + "mlp.down_proj")
        x = out[site + "hook_resid_post"] = x + m
    h = norm(x, "model.norm")
    out["ln_final.hook_normalized"] = h / w["model.norm.weight"]
    out["logits"] = h @ w["model.embed_tokens.weight" if config["tie_word_embeddings"] else "lm_head.weight"].T
    out["nll"] = F.cross_entropy(out["logits"][:-1], torch.tensor(ids[1:]), reduction="none")
    return out


def write_tensors(path, tensors):
    kinds = {np.dtype("float32"): "F32", np.dtype("float16"): "F16"}
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, value in tensors.items():
        header[name] = {"dtype": kinds[value.dtype], "shape": list(value.shape), "data_offsets": [at, at + value.nbytes]}
        at += value.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + b"".join(v.tobytes() for v in tensors.values()))


def make(name, config, kind, seed):
    folder, r = os.path.join(HERE, name), np.random.default_rng(seed)
    os.makedirs(folder, exist_ok=True)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDTH, "intermediate_size": MLP, "num_hidden_layers": LAYERS,
              "num_attention_heads": HEADS, "num_key_value_heads": KV, "head_dim": HEAD, "vocab_size": VOCAB, "max_position_embeddings": 256,
              "hidden_act": "silu", "rms_norm_eps": 1e-5, **config}
    stored = {n: (r.normal(size=s) * (0.3 if len(s) == 2 else 0.5) + (n.endswith("norm.weight"))).astype(kind) for n, s in shapes(config).items()}
    json.dump(config, open(os.path.join(folder, "config.json"), "w"), indent=1)
    if name == "scaled":
        names, files = sorted(stored), ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
        place = {n: files[i % 2] for i, n in enumerate(names)}
        for f in files:
            write_tensors(os.path.join(folder, f), {n: stored[n] for n in names if place[n] == f})
        json.dump({"metadata": {}, "weight_map": place}, open(os.path.join(folder, "model.safetensors.index.json"), "w"), indent=1)
    else:
        bare = {n.removeprefix("model."): v for n, v in stored.items()}
        bare["layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(HEAD // 2, dtype=kind)
        write_tensors(os.path.join(folder, "model.safetensors"), bare)
    w = {n: torch.tensor(v.astype(np.float64)) for n, v in stored.items()}
    with h5py.File(os.path.join(folder, "reference.h5"), "w") as f:
        for i, n in enumerate((100, 7)):
            ids = r.integers(0, VOCAB, n).tolist()
            f[f"prompt{i}/tokens"] = np.array(ids, dtype=np.uint32)
            for site, value in forward(config, w, ids).items():
                keep = value if site == "nll" or n < 20 else value[[0, 1, 50, 63, 64, 98, 99]]  # a few rows of the long one
                f[f"prompt{i}/{site}"] = keep.numpy()


if __name__ == "__main__":
    make("scaled", {"rope_theta": 500.0, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False,
                    "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                     "original_max_position_embeddings": 64}}, np.float32, 1)
    make("linear", {"rope_parameters": {"rope_type": "linear", "rope_theta": 3000.0, "factor": 2.5}, "attention_bias": False, "mlp_bias": False,
                    "tie_word_embeddings": True}, np.float16, 2)
