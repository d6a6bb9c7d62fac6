#!/usr/bin/env python3
"""Makes tests/golden/family/: a small random checkpoint of every family in the Hugging Face layout, and its float64 outputs by PyTorch.

Each folder: config.json, model.safetensors, reference.h5. For two prompts, tokens and `rows` (positions kept), and in `values`
every site of SITES in this order, layer by layer, those that the family lacks left out; float32, sites one behind the other.
The long prompt goes past every window and past the original positions of every rope rule.
hooks.h5, of the long prompt: `intervened`, the logits under an intervention at each site in turn, and `gradients` of a sum of
weighted logits with respect to each site (interventions() and gradients() say which).

family_oracle.py [NAME...]   (needs PyTorch and h5py; writes beside itself)
"""
import json
import math
import pathlib
import sys

import h5py
import numpy as np
import torch
import torch.nn.functional as F

from forward_oracle import write_tensors

HERE = pathlib.Path(__file__).parent / "family"
V, L, CONTEXT = 41, 2, 96
BLOCK = ("hook_resid_pre ln1.hook_scale ln1.hook_normalized attn.hook_q attn.hook_k attn.hook_v attn.hook_rot_q attn.hook_rot_k attn.hook_pattern "
         "attn.hook_z attn.hook_result hook_attn_out hook_resid_mid ln2.hook_scale ln2.hook_normalized mlp.hook_in mlp.hook_pre mlp.hook_pre_linear "
         "mlp.hook_post hook_mlp_out hook_resid_post").split()
WHOLE = "hook_embed hook_pos_embed ln_final.hook_scale ln_final.hook_normalized logits".split()

LLAMA = dict(hidden_size=20, intermediate_size=28, num_hidden_layers=L, num_attention_heads=4, num_key_value_heads=2, head_dim=6, vocab_size=V,
             max_position_embeddings=128, hidden_act="silu", rms_norm_eps=1e-5, tie_word_embeddings=False)
GEMMA = {**LLAMA, "hidden_activation": "gelu_pytorch_tanh", "rms_norm_eps": 1e-6, "tie_word_embeddings": True, "num_key_value_heads": 1}
GPT = dict(vocab_size=V, activation_function="gelu_new", layer_norm_epsilon=1e-5)
CASES = {
    "gpt2": {"model_type": "gpt2", "n_layer": L, "n_embd": 20, "n_head": 4, "n_positions": 100, "n_inner": None, **GPT},
    "gpt2-scaled": {"model_type": "gpt2", "n_layer": L, "n_embd": 20, "n_head": 2, "n_positions": 96, "scale_attn_by_inverse_layer_idx": True, **GPT},
    "gpt_neo": {"model_type": "gpt_neo", "num_layers": L, "hidden_size": 20, "num_heads": 2, "max_position_embeddings": 96, "window_size": 16,
                "intermediate_size": None, "attention_types": [[["global", "local"], 1]], **GPT},
    "gpt_neox": {"model_type": "gpt_neox", "num_hidden_layers": L, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 40,
                 "vocab_size": V, "max_position_embeddings": 128, "hidden_act": "gelu", "rotary_pct": 0.25, "rotary_emb_base": 10000,
                 "layer_norm_eps": 1e-5, "use_parallel_residual": True, "tie_word_embeddings": False},
    "gpt_neox-sequential": {"model_type": "gpt_neox", "num_hidden_layers": L, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24,
                            "vocab_size": V, "max_position_embeddings": 128, "hidden_act": "gelu", "rotary_pct": 0.5, "rotary_emb_base": 1000,
                            "layer_norm_eps": 1e-5, "use_parallel_residual": False, "tie_word_embeddings": False},
    "opt": {"model_type": "opt", "num_hidden_layers": L, "hidden_size": 20, "num_attention_heads": 2, "ffn_dim": 36, "vocab_size": V,
            "max_position_embeddings": 96, "activation_function": "relu", "word_embed_proj_dim": 20, "do_layer_norm_before": True},
    "mistral": {"model_type": "mistral", **LLAMA, "sliding_window": 24, "rope_theta": 10000.0},
    "llama-yarn": {"model_type": "llama", **LLAMA, "rope_theta": 500.0,
                   "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}},
    "llama-dynamic": {"model_type": "llama", **LLAMA, "max_position_embeddings": 48, "rope_theta": 500.0,
                      "rope_scaling": {"type": "dynamic", "factor": 2.0}},
    "qwen2": {"model_type": "qwen2", **LLAMA, "use_sliding_window": True, "sliding_window": 20, "max_window_layers": 1, "rope_theta": 1000000.0},
    "qwen3": {"model_type": "qwen3", **LLAMA, "rms_norm_eps": 1e-6, "tie_word_embeddings": True, "rope_theta": 1000000.0},
    "gemma": {"model_type": "gemma", **GEMMA, "hidden_act": "gelu", "hidden_activation": None},
    "gemma2": {"model_type": "gemma2", **GEMMA, "sliding_window": 24, "query_pre_attn_scalar": 11, "attn_logit_softcapping": 5.0,
               "final_logit_softcapping": 3.0},
    "gemma3_text": {"model_type": "gemma3_text", **GEMMA, "num_hidden_layers": 3, "sliding_window": 16, "sliding_window_pattern": 3,
                    "query_pre_attn_scalar": 9, "rope_theta": 1000000.0, "rope_local_base_freq": 10000.0,
                    "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
    "gemma3": {"model_type": "gemma3", "text_config": {**GEMMA, "num_hidden_layers": 2, "sliding_window": 16, "query_pre_attn_scalar": 9,
                                                       "layer_types": ["sliding_attention", "full_attention"],
                                                       "rope_parameters": {"sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
                                                                           "full_attention": {"rope_type": "linear", "factor": 4.0,
                                                                                              "rope_theta": 1000000.0}}}},
}


# ---- rotary angles ------------------------------------------------------------------------------


def angles(width, base, scaling, n, positions):
    """cos and sin [n, width / 2] as the documents of each rule define them."""
    scaling = scaling or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    base, factor, magnitude = scaling.get("rope_theta", base), scaling.get("factor"), 1.0
    if kind == "dynamic" and n > positions:
        base *= ((factor * n / positions) - (factor - 1)) ** (width / (width - 2))
    exponent = torch.arange(0, width, 2, dtype=torch.float64) / width
    inverse = 1.0 / base**exponent
    if kind == "linear":
        inverse = inverse / factor
    if kind == "yarn":
        original = scaling["original_max_position_embeddings"]
        dimension = lambda turns: width * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(base))
        low, high = max(math.floor(dimension(32)), 0), min(math.ceil(dimension(1)), width - 1)
        ramp = ((torch.arange(width // 2, dtype=torch.float64) - low) / max(high - low, 0.001)).clamp(0, 1)
        inverse = inverse / factor * ramp + inverse * (1 - ramp)
        magnitude = 0.1 * math.log(factor) + 1
    angle = torch.outer(torch.arange(n, dtype=torch.float64), inverse)
    return angle.cos() * magnitude, angle.sin() * magnitude


def turn(x, cos, sin):
    """x [heads, n, width]: the first 2 * half columns turn."""
    half = cos.shape[-1]
    a, b, rest = x[..., :half], x[..., half:2 * half], x[..., 2 * half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], -1)


# ---- what differs between families --------------------------------------------------------------

ACTIVATIONS = {"silu": F.silu, "relu": F.relu, "gelu": F.gelu, "gelu_pytorch_tanh": None, "gelu_new": None}


def gelu_tanh(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


class Plan:
    """The numbers of one model, from its config.json."""

    def __init__(self, config):
        t = self.type = config["model_type"]
        c = self.c = config.get("text_config", config)
        get = lambda *names: next(c[n] for n in names if c.get(n) is not None)
        self.layers, self.d = get("n_layer", "num_layers", "num_hidden_layers"), get("n_embd", "hidden_size")
        self.heads = get("n_head", "num_heads", "num_attention_heads")
        self.kv = c.get("num_key_value_heads", self.heads)
        self.hw = c.get("head_dim") or self.d // self.heads
        self.mlp = c.get("n_inner") or c.get("intermediate_size") or c.get("ffn_dim") or 4 * self.d
        self.gemma, self.gpt = t.startswith("gemma"), t in ("gpt2", "gpt_neo", "gpt_neox", "opt")
        self.eps = get("layer_norm_epsilon", "layer_norm_eps", "rms_norm_eps") if t != "opt" else 1e-5
        self.positions = get("n_positions", "max_position_embeddings")
        self.learned = t in ("gpt2", "gpt_neo", "opt")
        act = "gelu_pytorch_tanh" if self.gemma else get("activation_function", "hidden_act")
        self.act = ACTIVATIONS[act] or gelu_tanh
        self.scale = 1 / math.sqrt(self.hw)
        if t == "gpt_neo":
            self.scale = 1.0
        if "query_pre_attn_scalar" in c:
            self.scale = c["query_pre_attn_scalar"] ** -0.5
        self.qk_norm = t in ("qwen3", "gemma3_text", "gemma3")
        self.sandwich = t in ("gemma2", "gemma3_text", "gemma3")
        self.parallel = t == "gpt_neox" and c["use_parallel_residual"]
        self.tied = c.get("tie_word_embeddings", True)
        self.turned = int(self.hw * c.get("rotary_pct", 1.0)) if not self.learned else 0

    def window(self, layer):
        c, t = self.c, self.type
        if "layer_types" in c:
            return c["sliding_window"] if c["layer_types"][layer] == "sliding_attention" else None
        if t == "gpt_neo":
            return c["window_size"] if layer % 2 == 1 else None
        if t == "mistral":
            return c["sliding_window"]
        if t == "qwen2":
            return c["sliding_window"] if c["use_sliding_window"] and layer >= c["max_window_layers"] else None
        if t == "gemma2":
            return c["sliding_window"] if layer % 2 == 0 else None
        if t == "gemma3_text":
            return c["sliding_window"] if (layer + 1) % c["sliding_window_pattern"] != 0 else None
        return None

    def rope(self, layer, n):
        c = self.c
        scaling, base = c.get("rope_scaling"), c.get("rope_theta", c.get("rotary_emb_base", 10000.0))
        if "rope_parameters" in c:
            scaling = c["rope_parameters"]["sliding_attention" if self.window(layer) else "full_attention"]
        elif self.type == "gemma3_text" and self.window(layer):
            scaling, base = None, c["rope_local_base_freq"]
        return angles(self.turned, base, scaling, n, self.positions)


# ---- weights in the file's own names and layouts ------------------------------------------------


def tensors(p):
    """name -> shape, as Hugging Face stores them."""
    d, q, k, m, out = p.d, p.heads * p.hw, p.kv * p.hw, p.mlp, {}

    def linear(name, o, i, bias, turned=False):
        out[name + ".weight"] = (i, o) if turned else (o, i)
        if bias:
            out[name + ".bias"] = (o,)

    def norm(name, width=d):
        out[name + ".weight"] = (width,)
        if p.gpt:
            out[name + ".bias"] = (width,)

    if p.type in ("gpt2", "gpt_neo"):
        out["transformer.wte.weight"], out["transformer.wpe.weight"] = (V, d), (p.positions, d)
        norm("transformer.ln_f")
        for l in range(p.layers):
            b = f"transformer.h.{l}."
            norm(b + "ln_1"), norm(b + "ln_2")
            if p.type == "gpt2":
                linear(b + "attn.c_attn", 3 * d, d, True, True), linear(b + "attn.c_proj", d, d, True, True)
                linear(b + "mlp.c_fc", m, d, True, True), linear(b + "mlp.c_proj", d, m, True, True)
            else:
                for x in "kvq":
                    linear(b + f"attn.attention.{x}_proj", d, d, False)
                linear(b + "attn.attention.out_proj", d, d, True)
                linear(b + "mlp.c_fc", m, d, True), linear(b + "mlp.c_proj", d, m, True)
    elif p.type == "gpt_neox":
        out["gpt_neox.embed_in.weight"], out["embed_out.weight"] = (V, d), (V, d)
        norm("gpt_neox.final_layer_norm")
        for l in range(p.layers):
            b = f"gpt_neox.layers.{l}."
            norm(b + "input_layernorm"), norm(b + "post_attention_layernorm")
            linear(b + "attention.query_key_value", 3 * d, d, True), linear(b + "attention.dense", d, d, True)
            linear(b + "mlp.dense_h_to_4h", m, d, True), linear(b + "mlp.dense_4h_to_h", d, m, True)
    elif p.type == "opt":
        b = "model.decoder."
        out[b + "embed_tokens.weight"], out[b + "embed_positions.weight"] = (V, d), (p.positions + 2, d)
        norm(b + "final_layer_norm")
        for l in range(p.layers):
            b = f"model.decoder.layers.{l}."
            for x in ("q_proj", "k_proj", "v_proj", "out_proj"):
                linear(b + "self_attn." + x, d, d, True)
            norm(b + "self_attn_layer_norm"), norm(b + "final_layer_norm")
            linear(b + "fc1", m, d, True), linear(b + "fc2", d, m, True)
    else:
        root = "language_model.model." if p.type == "gemma3" else "model."
        out[root + "embed_tokens.weight"] = (V, d)
        norm(root + "norm")
        if not p.tied:
            out["lm_head.weight"] = (V, d)
        for l in range(p.layers):
            b = f"{root}layers.{l}."
            for x, o, i in (("q", q, d), ("k", k, d), ("v", k, d), ("o", d, q)):
                linear(b + f"self_attn.{x}_proj", o, i, p.type == "qwen2" and x != "o")
            for x in ("q", "k") if p.qk_norm else ():
                norm(b + f"self_attn.{x}_norm", p.hw)
            for x in ("input_layernorm", "post_attention_layernorm") + (("pre_feedforward_layernorm", "post_feedforward_layernorm") if p.sandwich else ()):
                norm(b + x)
            linear(b + "mlp.gate_proj", m, d, False), linear(b + "mlp.up_proj", m, d, False), linear(b + "mlp.down_proj", d, m, False)
    return out


def block_weights(p, w, l):
    """One block's matrices [out, in], vectors and norms under common names, whatever the file calls them."""
    g, n = w.get, {}
    if p.type == "gpt2":
        b = f"transformer.h.{l}."
        qkv, bias = w[b + "attn.c_attn.weight"].T, w[b + "attn.c_attn.bias"]
        for x, part, pb in zip("qkv", qkv.split(p.d), bias.split(p.d)):
            n[x], n[x + "b"] = part, pb
        names = {"o": "attn.c_proj", "up": "mlp.c_fc", "down": "mlp.c_proj"}
        for x, name in names.items():
            n[x], n[x + "b"] = w[b + name + ".weight"].T, w[b + name + ".bias"]
        n["ln1"], n["ln2"] = b + "ln_1", b + "ln_2"
    elif p.type == "gpt_neo":
        b = f"transformer.h.{l}."
        for x, name in {"q": "attn.attention.q_proj", "k": "attn.attention.k_proj", "v": "attn.attention.v_proj", "o": "attn.attention.out_proj",
                        "up": "mlp.c_fc", "down": "mlp.c_proj"}.items():
            n[x], n[x + "b"] = w[b + name + ".weight"], g(b + name + ".bias")
        n["ln1"], n["ln2"] = b + "ln_1", b + "ln_2"
    elif p.type == "gpt_neox":
        b = f"gpt_neox.layers.{l}."
        qkv = w[b + "attention.query_key_value.weight"].view(p.heads, 3, p.hw, p.d)
        bias = w[b + "attention.query_key_value.bias"].view(p.heads, 3, p.hw)
        for i, x in enumerate("qkv"):
            n[x], n[x + "b"] = qkv[:, i].reshape(-1, p.d), bias[:, i].reshape(-1)
        for x, name in {"o": "attention.dense", "up": "mlp.dense_h_to_4h", "down": "mlp.dense_4h_to_h"}.items():
            n[x], n[x + "b"] = w[b + name + ".weight"], w[b + name + ".bias"]
        n["ln1"], n["ln2"] = b + "input_layernorm", b + "post_attention_layernorm"
    elif p.type == "opt":
        b = f"model.decoder.layers.{l}."
        for x, name in {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.out_proj", "up": "fc1",
                        "down": "fc2"}.items():
            n[x], n[x + "b"] = w[b + name + ".weight"], w[b + name + ".bias"]
        n["ln1"], n["ln2"] = b + "self_attn_layer_norm", b + "final_layer_norm"
    else:
        b = ("language_model.model." if p.type == "gemma3" else "model.") + f"layers.{l}."
        for x, name in {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj", "gate": "mlp.gate_proj",
                        "up": "mlp.up_proj", "down": "mlp.down_proj"}.items():
            n[x], n[x + "b"] = w[b + name + ".weight"], g(b + name + ".bias")
        n["qn"], n["kn"] = g(b + "self_attn.q_norm.weight"), g(b + "self_attn.k_norm.weight")
        n["ln1"] = b + "input_layernorm"
        n["post1"], n["post2"] = b + "post_attention_layernorm", b + "post_feedforward_layernorm"
        n["ln2"] = b + ("pre_feedforward_layernorm" if p.sandwich else "post_attention_layernorm")
    return n


def ends(p, w):
    """Embedding, positions, final norm, unembedding."""
    if p.type in ("gpt2", "gpt_neo"):
        return w["transformer.wte.weight"], w["transformer.wpe.weight"], "transformer.ln_f", w["transformer.wte.weight"]
    if p.type == "gpt_neox":
        return w["gpt_neox.embed_in.weight"], None, "gpt_neox.final_layer_norm", w["embed_out.weight"]
    if p.type == "opt":
        b = "model.decoder."
        return w[b + "embed_tokens.weight"], w[b + "embed_positions.weight"][2:], b + "final_layer_norm", w[b + "embed_tokens.weight"]
    root = "language_model.model." if p.type == "gemma3" else "model."
    embed = w[root + "embed_tokens.weight"]
    return embed, None, root + "norm", embed if p.tied else w["lm_head.weight"]


# ---- the pass -----------------------------------------------------------------------------------


def forward(p, w, ids, hook=lambda site, x: x, product=F.linear):
    """Every site of one window of float64 tensors. hook(site, x) may change what goes on from there; product(x, w, bias) multiplies with weights."""
    n, out = len(ids), {}
    embed, table, final, unembed = ends(p, w)

    def at(site, x):
        out[site] = x = hook(site, x)
        return x

    def rms(x, gain):
        gain = gain + 1 if p.gemma else gain
        return x / torch.sqrt((x * x).mean(-1, keepdim=True) + p.eps) * gain

    def norm(x, name, site):
        centred = x - x.mean(-1, keepdim=True) if p.gpt else x
        scale = at(site + ".hook_scale", torch.sqrt((centred * centred).mean(-1, keepdim=True) + p.eps))
        x = at(site + ".hook_normalized", centred / scale)
        return x * w[name + ".weight"] + w[name + ".bias"] if p.gpt else x * (w[name + ".weight"] + p.gemma)

    def heads(x, count):
        return x.view(n, count, -1).transpose(0, 1)

    def flat(x):
        return x.transpose(0, 1).reshape(n, -1)

    x = at("hook_embed", embed[ids] * (math.sqrt(p.d) if p.gemma else 1.0))
    if table is not None:
        x = x + at("hook_pos_embed", table[:n])
    for l in range(p.layers):
        s, b = f"blocks.{l}.", block_weights(p, w, l)
        x = at(s + "hook_resid_pre", x)
        h = norm(x, b["ln1"], s + "ln1")
        q, k, v = (at(s + "attn.hook_" + c, product(h, b[c], b[c + "b"])) for c in "qkv")
        q, k, v = heads(q, p.heads), heads(k, p.kv), heads(v, p.kv)
        if p.qk_norm:
            q, k = rms(q, b["qn"]), rms(k, b["kn"])
        if not p.learned:
            cos, sin = p.rope(l, n)
            q, k = heads(at(s + "attn.hook_rot_q", flat(turn(q, cos, sin))), p.heads), heads(at(s + "attn.hook_rot_k", flat(turn(k, cos, sin))), p.kv)
        k, v = (t.repeat_interleave(p.heads // p.kv, 0) for t in (k, v))
        score = q @ k.transpose(1, 2) * p.scale
        if p.c.get("scale_attn_by_inverse_layer_idx"):
            score = score / (l + 1)
        cap = p.c.get("attn_logit_softcapping")
        if cap:
            score = cap * torch.tanh(score / cap)
        i, j = torch.arange(n)[:, None], torch.arange(n)[None, :]
        seen = (j <= i) & (i - j < p.window(l) if p.window(l) else True)
        weights = flat(F.pad(score.masked_fill(~seen, -math.inf).softmax(-1), (0, CONTEXT - n)))
        weights = heads(at(s + "attn.hook_pattern", weights), p.heads)[..., :n]
        z = heads(at(s + "attn.hook_z", flat(weights @ v)), p.heads)
        result = at(s + "attn.hook_result", torch.einsum("hnw,dhw->nhd", z, b["o"].view(p.d, p.heads, p.hw)).reshape(n, -1))
        a = result.view(n, p.heads, p.d).sum(1) + (b["ob"] if b["ob"] is not None else 0)
        if product is not F.linear:
            a = product(flat(z), b["o"], b["ob"])
        if p.sandwich:
            a = rms(a, w[b["post1"] + ".weight"])
        mid = x + at(s + "hook_attn_out", a)
        if not p.parallel:
            mid = at(s + "hook_resid_mid", mid)
        h = at(s + "mlp.hook_in", norm(x if p.parallel else mid, b["ln2"], s + "ln2"))
        up = product(h, b["up"], b["upb"])
        if "gate" in b:
            hidden = p.act(at(s + "mlp.hook_pre", product(h, b["gate"], b["gateb"]))) * at(s + "mlp.hook_pre_linear", up)
        else:
            hidden = p.act(at(s + "mlp.hook_pre", up))
        m = product(at(s + "mlp.hook_post", hidden), b["down"], b["downb"])
        if p.sandwich:
            m = rms(m, w[b["post2"] + ".weight"])
        x = at(s + "hook_resid_post", mid + at(s + "hook_mlp_out", m))
    logits = product(norm(x, final, "ln_final"), unembed, None)
    cap = p.c.get("final_logit_softcapping")
    at("logits", cap * torch.tanh(logits / cap) if cap else logits)
    return out


# ---- interventions and gradients ----------------------------------------------------------------

EDITS = "replace add scale project call".split()
FROM, TO, KEPT = 3, 40, [17, 70]


def values(*shape):
    """Numbers that a test in another language can make too."""
    i = np.arange(np.prod(shape))
    return torch.tensor(((i * 7 + 3) % 11 - 5) / 8.0).reshape(shape)


def edited(number, x):
    """Site `number` of the list changed at positions FROM to TO; of odd sites without the first column, where there are more."""
    x, column = x.clone(), number % 2 if x.shape[-1] > 1 else 0
    columns = x.shape[-1] - column
    part, kind = x[FROM:TO, column:], EDITS[number % len(EDITS)]
    if kind == "replace":  # by rows of their own
        new = values(TO - FROM, columns) if columns > 1 else values(TO - FROM, columns).abs() + 1
    if kind == "add":
        new = part + values(columns).abs()
    if kind == "scale" or columns == 1 and kind == "project":
        new = part * 1.75
    elif kind == "project":
        v = values(columns)
        new = part - (part @ v / (v @ v))[:, None] * v
    if kind == "call":  # tanh, all columns
        x[FROM:TO] = torch.tanh(x[FROM:TO])
        return x
    x[FROM:TO, column:] = new
    return x


def interventions(p, w, ids, sites):
    """Logits at KEPT with an intervention at one site after another [sites, 2, V]."""
    out = []
    for number, site in enumerate(sites):
        change = lambda name, x: edited(number, x) if name == site else x
        out.append(forward(p, w, ids, change)["logits"][KEPT])
    return torch.stack(out)


def gradients(p, w, ids, sites):
    """Of sum_tv seed_tv logits_tv with respect to each site, at KEPT, one behind the other; in the second half the run is intervened upon."""
    out = []
    middle = [s for s in sites if s.startswith("blocks.1.")]
    for change in (None, [middle[0], middle[-2]]):
        leaves = {}

        def watch(name, x):
            if change and name in change:
                x = edited(2 if name == change[0] else 3, x)
            x = x if x.requires_grad else x.clone().requires_grad_()
            x.retain_grad()
            leaves[name] = x
            return x

        logits = forward(p, w, ids, watch)["logits"]
        (logits * values(*logits.shape)).sum().backward()
        out += [leaves[s].grad[KEPT].reshape(-1) for s in sites]
    return torch.cat(out)


def main(names):
    for seed, (name, config) in enumerate(CASES.items()):
        if names and name not in names:
            continue
        p, r = Plan(config), np.random.default_rng(100 + seed)
        stored = {}
        for n, shape in tensors(p).items():
            gain = n.endswith(("norm.weight", "ln_1.weight", "ln_2.weight", "ln_f.weight"))
            stored[n] = (r.normal(size=shape) * (0.35 if len(shape) == 2 else 0.4) + (gain and not p.gemma)).astype(np.float16)
        folder = HERE / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        write_tensors(folder / "model.safetensors", stored)
        w = {n: torch.tensor(v.astype(np.float64)) for n, v in stored.items()}
        with h5py.File(folder / "reference.h5", "w") as f:
            for i, n in enumerate((90, 7)):
                ids = r.integers(0, V, n)
                rows = [0, 17, 64, 89] if n == 90 else [0, 6]
                out = forward(p, w, torch.tensor(ids))
                order = WHOLE + [f"blocks.{l}.{s}" for l in range(p.layers) for s in BLOCK]
                f[f"prompt{i}/tokens"] = ids.astype(np.uint32)
                f[f"prompt{i}/rows"] = np.array(rows, dtype=np.uint32)
                order = [s for s in order if s in out]
                f[f"prompt{i}/values"] = torch.cat([out[s][rows].reshape(-1) for s in order]).numpy().astype(np.float32)
                if n == 90:
                    hooks = ids, order
        ids, order = torch.tensor(hooks[0]), hooks[1]
        with h5py.File(folder / "hooks.h5", "w") as f:
            f["tokens"] = ids.numpy().astype(np.uint32)
            f["intervened"] = interventions(p, w, ids, order).numpy().astype(np.float32)
            f["gradients"] = gradients(p, w, ids, order).numpy().astype(np.float32)
        print(name, sum(v.size for v in stored.values()), "weights")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1:])
