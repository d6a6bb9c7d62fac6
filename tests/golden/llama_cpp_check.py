#!/usr/bin/env python3
"""Checks family_oracle.py against llama.cpp, which shares no line with it: random checkpoints as GGUF in F32, logits of both.

    npm install node-llama-cpp --ignore-scripts        # prebuilt libraries
    llama_cpp_check.py node_modules/@node-llama-cpp/linux-x64/bins/linux-x64

Prints for each family the largest relative L2 distance over positions, and fails above 1e-5, or 3e-4 where its half-precision
table of GELU rounds differently.
"""
import pathlib
import sys
import tempfile

import numpy as np
import torch

from family_oracle import GEMMA, GPT, LLAMA, Plan, V, forward, gelu_tanh, tensors
from llama_cpp import Library, write_gguf

BIG = dict(hidden_size=64, intermediate_size=96, head_dim=16)
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
CASES = {
    "llama": {"model_type": "llama", **LLAMA, **BIG, "rope_theta": 10000.0},
    "mistral": {"model_type": "mistral", **LLAMA, **BIG, "sliding_window": None, "rope_theta": 1000000.0},
    "qwen2": {"model_type": "qwen2", **LLAMA, **BIG, "use_sliding_window": False, "rope_theta": 1000000.0},
    "qwen3": {"model_type": "qwen3", **LLAMA, **BIG, "rope_theta": 1000000.0},
    "gemma": {"model_type": "gemma", **GEMMA, **BIG},
    "gemma2": {"model_type": "gemma2", **GEMMA, **BIG, "sliding_window": 24, "query_pre_attn_scalar": 16, "attn_logit_softcapping": 5.0,
               "final_logit_softcapping": 3.0},
    "gemma3": {"model_type": "gemma3_text", **GEMMA, **BIG, "num_hidden_layers": 6, "sliding_window": 16, "sliding_window_pattern": 6,
               "query_pre_attn_scalar": 16, "rope_theta": 1000000.0, "rope_local_base_freq": 10000.0},
    "gpt2": {"model_type": "gpt2", "n_layer": 2, "n_embd": 64, "n_head": 4, "n_positions": 128, **GPT},
    "gptneox": {"model_type": "gpt_neox", "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 96, "vocab_size": V,
                "max_position_embeddings": 128, "hidden_act": "gelu", "rotary_pct": 0.25, "layer_norm_eps": 1e-5, "use_parallel_residual": True},
}

# ---- names and layouts ---------------------------------------------------------------------------


def gguf_keys(arch, p):
    c = p.c
    keys = {"general.architecture": arch, f"{arch}.context_length": p.positions, f"{arch}.embedding_length": p.d, f"{arch}.block_count": p.layers,
            f"{arch}.feed_forward_length": p.mlp, f"{arch}.attention.head_count": p.heads, f"{arch}.attention.head_count_kv": p.kv,
            f"{arch}.vocab_size": V, "tokenizer.ggml.model": "no_vocab"}
    keys[f"{arch}.attention.layer_norm_epsilon" if p.gpt else f"{arch}.attention.layer_norm_rms_epsilon"] = float(p.eps)
    if not p.learned:
        keys |= {f"{arch}.rope.dimension_count": p.turned, f"{arch}.rope.freq_base": float(c.get("rope_theta", c.get("rotary_emb_base", 10000.0)))}
    if not p.gpt:
        keys |= {f"{arch}.attention.key_length": p.hw, f"{arch}.attention.value_length": p.hw}
    if p.type == "gpt_neox":
        keys[f"{arch}.use_parallel_residual"] = p.parallel
    if c.get("sliding_window"):
        keys[f"{arch}.attention.sliding_window"] = c["sliding_window"]
    if p.type == "gemma2":
        keys |= {f"{arch}.attn_logit_softcapping": c["attn_logit_softcapping"], f"{arch}.final_logit_softcapping": c["final_logit_softcapping"]}
    return keys


NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
         "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
         "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "pre_feedforward_layernorm": "ffn_norm",
         "post_feedforward_layernorm": "post_ffw_norm", "ln_1": "attn_norm", "ln_2": "ffn_norm", "attn.c_attn": "attn_qkv",
         "attn.c_proj": "attn_output", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down", "attention.query_key_value": "attn_qkv",
         "attention.dense": "attn_output", "mlp.dense_h_to_4h": "ffn_up", "mlp.dense_4h_to_h": "ffn_down"}
ENDS = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "transformer.wte": "token_embd",
        "transformer.wpe": "position_embd", "transformer.ln_f": "output_norm", "gpt_neox.embed_in": "token_embd",
        "gpt_neox.final_layer_norm": "output_norm", "embed_out": "output"}


def interleave(w, heads):
    """llama.cpp turns neighbouring pairs for these families: half-split rows are brought together."""
    half = w.reshape(heads, 2, w.shape[0] // heads // 2, -1)
    return half.transpose(0, 2, 1, 3).reshape(w.shape)


def gguf_weights(p, stored):
    out = {}
    for name, w in stored.items():
        stem, kind = name.rsplit(".", 1)
        if stem in ENDS:
            target = ENDS[stem]
        else:
            rest = stem.split(".layers.")[-1].split(".h.")[-1]
            layer, part = rest.split(".", 1)
            part_name = NAMES.get(part) or ("post_attention_norm" if p.sandwich else "ffn_norm")
            target = f"blk.{layer}.{part_name}"
        if p.gemma and w.ndim == 1:
            w = w + 1
        if p.type == "gpt2" and w.ndim == 2 and stem.split(".")[-1].startswith("c_"):
            w = w.T
        if p.type in ("llama", "mistral") and target.endswith(("attn_q", "attn_k")):
            w = interleave(w, p.heads if target.endswith("attn_q") else p.kv)
        if p.type == "gpt_neox" and target.endswith("attn_qkv"):
            w = w.reshape(p.heads, 3, p.hw, -1).swapaxes(0, 1).reshape(w.shape)
        out[f"{target}.{kind}"] = np.ascontiguousarray(w)
    return out


def tabled_gelu(x):
    """llama.cpp looks the tanh form up in a table of half precision, whatever the family's own form is."""
    table = gelu_tanh(x.half().float()).half().double()
    return torch.where(x <= -10, torch.zeros_like(x), torch.where(x >= 10, x, table))


def main(folder):
    library, worst_of_all = Library(folder), 0.0
    for seed, (arch, config) in enumerate(CASES.items()):
        p, r = Plan(config), np.random.default_rng(seed)
        stored = {}
        for name, shape in tensors(p).items():
            gain = len(shape) == 1 and name.endswith(".weight")
            stored[name] = (r.normal(size=shape) * (0.15 if len(shape) == 2 else 0.4) + (gain and not p.gemma)).astype(np.float32)
        ids = r.integers(0, V, 90)
        if config["model_type"] in ("gemma", "gemma2", "gemma3_text", "gpt2", "gpt_neox"):
            p.act = tabled_gelu
        ours = forward(p, {n: torch.tensor(v.astype(np.float64)) for n, v in stored.items()}, torch.tensor(ids))["logits"].numpy()
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "model.gguf"
            write_gguf(path, gguf_keys("llama" if arch == "mistral" else arch, p), gguf_weights(p, stored))
            theirs = library.logits(path, ids, V)
        worst = max(np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(theirs, ours))
        worst_of_all = max(worst_of_all, worst / (1e-5 if p.act is not tabled_gelu else 3e-4))
        print(f"{arch:8} {worst:.2e}")
    sys.exit(0 if worst_of_all < 1 else 1)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
