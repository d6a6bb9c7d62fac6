"""What the lens finds in models that others trained, worked out anew with numpy from their own tensors and from the published
definitions (Elhage et al. 2021, Olsson et al. 2022): whole matrices, one head after the other, all in float64.

    lens_known.py fold FIXTURE.safetensors FOLDER   an attention-only model with TransformerLens's names as a GPT-2 checkpoint
    lens_known.py text FOLDER                       its task: eight letters, the last of them seen before
    lens_known.py heads LENS.h5 NAME FIXTURE.safetensors FOLDER ROLE   ROLE: intact, or broken at the induction head
    lens_known.py weights LENS.h5 NAME FOLDER       a Llama of whole heads: eigenvalues, norms, compositions
"""
import json
import pathlib
import struct
import sys

import h5py
import numpy as np

LETTERS, LENGTH, PERIOD = 26, 8, 4
FLAT = 1e8  # added to a variance of about 1, it makes a norm with gain sqrt(FLAT) the identity, to one part in 1e8


def read(path):
    """name -> array in float64."""
    blob = pathlib.Path(path).read_bytes()
    size = struct.unpack("<Q", blob[:8])[0]
    tensors, data = json.loads(blob[8:8 + size]), blob[8 + size:]
    found = {}
    for name, t in tensors.items():
        if name == "__metadata__":
            continue
        raw = data[t["data_offsets"][0]:t["data_offsets"][1]]
        flat = np.frombuffer(raw, "<f4") if t["dtype"] == "F32" else (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4")
        found[name] = flat.reshape(t["shape"]).astype(float)
    return found


def write(path, tensors):
    header, data = {}, b""
    for name, x in tensors.items():
        raw = np.ascontiguousarray(x, "<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(x.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    pathlib.Path(path).write_bytes(struct.pack("<Q", len(text)) + text + data)


# ---- the attention-only model as a GPT-2 ----------------------------------------------------------
# GPT-2 has norms and MLPs, and its heads share the width. So the stream is written twice, as [x, -x], whose mean is 0; norms
# are the identity (see FLAT); readers take half of either copy; heads are padded with zeros; MLPs are zero.


def twice(x):
    return np.concatenate([x, -x], axis=-1)


def fold(source, folder):
    w, folder = read(source), pathlib.Path(folder)
    d = w["embed.W_E"].shape[1]
    wide, one, none = 2 * d, np.full(2 * d, FLAT**0.5), np.zeros(2 * d)
    pad = lambda x: np.concatenate([x, np.zeros_like(x)], axis=-1)
    out = {"transformer.wte.weight": twice(w["embed.W_E"]), "transformer.wpe.weight": twice(w["pos_embed.W_pos"]),
           "lm_head.weight": twice(w["unembed.W_U"].T / 2), "transformer.ln_f.weight": one,
           "transformer.ln_f.bias": twice(np.linalg.lstsq(w["unembed.W_U"].T, w["unembed.b_U"], rcond=None)[0])}
    for l in range(2):
        at, to = f"blocks.{l}.attn.", f"transformer.h.{l}."
        scale = {"Q": 2**0.5, "K": 1.0, "V": 1.0}  # queries and keys are divided by the root of the padded width
        readers = {k: pad(w[at + "W_" + k][0]) * scale[k] / 2 for k in scale}
        out[to + "attn.c_attn.weight"] = np.concatenate([np.concatenate([m, -m]) for m in readers.values()], axis=1)
        out[to + "attn.c_attn.bias"] = np.concatenate([pad(w[at + "b_" + k][0]) * scale[k] for k in scale])
        out[to + "attn.c_proj.weight"] = np.concatenate([twice(w[at + "W_O"][0]), np.zeros((d, wide))])
        out[to + "attn.c_proj.bias"] = twice(w[at + "b_O"])
        for norm in ("ln_1", "ln_2"):
            out[to + norm + ".weight"], out[to + norm + ".bias"] = one, none
        out[to + "mlp.c_fc.weight"], out[to + "mlp.c_fc.bias"] = np.zeros((wide, 2)), np.zeros(2)
        out[to + "mlp.c_proj.weight"], out[to + "mlp.c_proj.bias"] = np.zeros((2, wide)), none
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "model.safetensors", out)
    config = {"model_type": "gpt2", "n_layer": 2, "n_embd": wide, "n_inner": 2, "n_head": 1, "n_positions": LENGTH, "vocab_size": LETTERS,
              "activation_function": "relu", "layer_norm_epsilon": FLAT, "tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config))
    letters = {chr(ord("a") + i): i for i in range(LETTERS)}
    tokenizer = {"version": "1.0", "added_tokens": [], "normalizer": None,
                 "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
                 "post_processor": None, "decoder": {"type": "ByteLevel"}, "model": {"type": "BPE", "vocab": letters, "merges": []}}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def text(folder):
    rng = np.random.default_rng(1)
    rows = np.argsort(rng.random((600, LETTERS)), axis=1)[:, :LENGTH]
    rows[:, -1] = rows[np.arange(len(rows)), rng.integers(0, LENGTH - 2, len(rows))]
    np.save(pathlib.Path(folder) / "task.npy", rows.astype("<u4"))


# ---- its figures ---------------------------------------------------------------------------------


def run(w, ids):
    """Streams [3, B, n, d], patterns [2, B, n, n] and what heads add, [2, B, n, d], of sequences ids [B, n]."""
    n = ids.shape[1]
    x = w["embed.W_E"][ids] + w["pos_embed.W_pos"][:n]
    streams, patterns, added = [x], [], []
    for l in range(2):
        at = f"blocks.{l}.attn."
        q, k, v = (streams[-1] @ w[at + "W_" + p][0] + w[at + "b_" + p][0] for p in "QKV")
        score = q @ k.swapaxes(1, 2) / q.shape[-1]**0.5
        score[:, np.triu(np.ones((n, n), bool), 1)] = -np.inf
        e = np.exp(score - score.max(-1, keepdims=True))
        patterns.append(e / e.sum(-1, keepdims=True))
        added.append(patterns[-1] @ v @ w[at + "W_O"][0])
        streams.append(streams[-1] + added[-1] + w[at + "b_O"])
    return streams, patterns, added


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def on_text(w, ids):
    """Figures of the file that are means over the text's predicted tokens."""
    streams, patterns, added = run(w, ids)
    unembed, n = w["unembed.W_U"], ids.shape[1]
    logp = [log_softmax(x @ unembed + w["unembed.b_U"])[:, :-1] for x in streams]
    target = ids[:, 1:, None]
    take = lambda x: np.take_along_axis(x, target, -1).mean()
    off = lambda x: take(x - x.mean(-1, keepdims=True))  # a logit less the mean over the vocabulary
    part = lambda x: off(np.broadcast_to(x, streams[0].shape)[:, :-1] @ unembed)
    behind = np.arange(1, n - 1)  # positions that predict and have one before them
    return {
        "logit_lens/nll": [-take(x) for x in logp],
        "logit_lens/kl": [(np.exp(logp[-1]) * (logp[-1] - x)).sum(-1).mean() for x in logp],
        "logit_lens/entropy": [-(np.exp(x) * x).sum(-1).mean() for x in logp],
        "logit_lens/top1": [(x.argmax(-1) == logp[-1].argmax(-1)).mean() for x in logp],
        "attribution/whole": [part(w["embed.W_E"][ids]), part(w["pos_embed.W_pos"][:n]),
                              off(np.broadcast_to(w["unembed.b_U"], logp[0].shape)), off(streams[-1][:, :-1] @ unembed + w["unembed.b_U"])],
        "attribution/head": [[part(x)] for x in added],
        "attribution/attention_bias": [part(w[f"blocks.{l}.attn.b_O"]) for l in range(2)],
        "attribution/mlp": [0.0, 0.0],
        "heads/previous_token_text": [[p[:, behind, behind - 1].mean()] for p in patterns],
    }


def on_repeats(w, count):
    """Detectors on `count` draws of PERIOD different letters written twice: means and their errors, each [2, 1]."""
    once = np.argsort(np.random.default_rng(2).random((count, LETTERS)), axis=1)[:, :PERIOD]
    patterns = run(w, np.concatenate([once, once], axis=1))[1]
    found = {}
    for name, back, first in (("previous_token", 1, 1), ("duplicate_token", PERIOD, PERIOD), ("induction", PERIOD - 1, PERIOD)):
        i = np.arange(first, 2 * PERIOD)
        each = np.array([p[:, i, i - back].mean(-1) for p in patterns])
        found[name] = each.mean(1)[:, None], each.std(1)[:, None] / count**0.5
    return found


# ---- weights -------------------------------------------------------------------------------------


def share(matrix):
    values = np.linalg.eigvals(matrix)
    return values.real.sum() / np.abs(values).sum()


def from_weights(qk, ov, embed, unembed):
    """qk, ov [L][H] of matrices [d, d] that act on column vectors; embed, unembed [V, d]."""
    layers, heads, norm = len(qk), len(qk[0]), np.linalg.norm
    each = lambda f: np.array([[f(l, h) for h in range(heads)] for l in range(layers)])
    found = {"weights/qk": each(lambda l, h: share(qk[l][h])), "weights/ov": each(lambda l, h: share(ov[l][h])),
             "weights/qk_full": each(lambda l, h: share(embed @ qk[l][h] @ embed.T)),
             "weights/ov_full": each(lambda l, h: share(unembed @ ov[l][h] @ embed.T)),
             "weights/qk_norm": each(lambda l, h: norm(qk[l][h])), "weights/ov_norm": each(lambda l, h: norm(ov[l][h]))}
    for name, reader in (("q", lambda l, h: qk[l][h].T), ("k", lambda l, h: qk[l][h]), ("v", lambda l, h: ov[l][h])):
        score = lambda a, i, b, j: norm(reader(b, j) @ ov[a][i]) / norm(reader(b, j)) / norm(ov[a][i]) if b > a else 0.0
        found["composition/" + name] = np.array([[[[score(a, i, b, j) for j in range(heads)] for b in range(layers)]
                                                  for i in range(heads)] for a in range(layers)])
    return found


def fold_heads(w):
    qk = [[w[f"blocks.{l}.attn.W_Q"][0] @ w[f"blocks.{l}.attn.W_K"][0].T] for l in range(2)]
    ov = [[(w[f"blocks.{l}.attn.W_V"][0] @ w[f"blocks.{l}.attn.W_O"][0]).T] for l in range(2)]
    return from_weights(qk, ov, w["embed.W_E"], w["unembed.W_U"].T)


def llama_weights(folder):
    folder = pathlib.Path(folder)
    c, w = json.loads((folder / "config.json").read_text()), read(folder / "model.safetensors")
    heads, d, kv = c["num_attention_heads"], c["hidden_size"], c.get("num_key_value_heads", c["num_attention_heads"])
    width = c.get("head_dim", d // heads)
    qk, ov = [], []
    for l in range(c["num_hidden_layers"]):
        at, gain = f"model.layers.{l}.", w[f"model.layers.{l}.input_layernorm.weight"]
        m = {k: w[at + f"self_attn.{k}_proj.weight"] for k in "qkvo"}
        rows = lambda k, h: m[k][h * width:(h + 1) * width] * gain
        group = lambda h: h * kv // heads
        qk.append([rows("q", h).T @ rows("k", group(h)) for h in range(heads)])
        ov.append([m["o"][:, h * width:(h + 1) * width] @ rows("v", group(h)) for h in range(heads)])
    embed = w["model.embed_tokens.weight"]
    return from_weights(qk, ov, embed, w.get("lm_head.weight", embed) * w["model.norm.weight"])


# ---- against the file ------------------------------------------------------------------------------


def same(lens, expected, tolerance):
    for name, value in expected.items():
        value, found = np.array(value), lens[name][...]
        worst = np.abs(found - value).max() / max(np.abs(value).max(), 1e-9)
        if not (found.shape == value.shape and worst <= tolerance):
            sys.exit(f"{name} is {found.tolist()}, numpy says {value.tolist()}")


def heads(path, name, source, folder, role):
    w, ids = read(source), np.load(pathlib.Path(folder) / "task.npy").astype(int)
    with h5py.File(path) as file:
        lens = file[name]
        same(lens, on_text(w, ids), 2e-5)
        weights = fold_heads(w)
        weights["weights/qk_norm"] *= FLAT / 2**0.5  # gains are part of it; and the two copies, and the padded width
        weights["weights/ov_norm"] *= FLAT**0.5
        same(lens, weights, 1e-5)
        scores = {}
        for detector, (value, error) in on_repeats(w, 20000).items():
            found, own = lens["heads/" + detector][...], lens[f"heads/{detector}_error"][...]
            if (np.abs(found - value) > 5 * np.hypot(error, own) + 1e-5).any():
                sys.exit(f"{detector} is {found.tolist()} +- {own.tolist()}, numpy says {value.tolist()} +- {error.tolist()}")
            scores[detector] = found[:, 0]
        q, k, v = (lens["composition/" + c][0, 0, 1, 0] for c in "qkv")
    said = ", ".join(f"{d} {s[0]:.3f} {s[1]:.3f}" for d, s in scores.items()) + f", composition q {q:.3f} k {k:.3f} v {v:.3f}"
    paired = scores["previous_token"].argmax() == 0 and scores["previous_token"][0] > 0.7 and k > 2 * max(q, v)
    inducing = scores["induction"].argmax() == 1 and scores["induction"][1] > 0.8
    if not paired or inducing != (role == "intact"):
        sys.exit(f"the {role} pair is not seen: {said}")
    print(said)


def main(what, *arguments):
    if what == "weights":
        with h5py.File(arguments[0]) as file:
            same(file[arguments[1]], llama_weights(arguments[2]), 1e-6)
    else:
        {"fold": fold, "text": text, "heads": heads}[what](*arguments)


main(*sys.argv[1:])
