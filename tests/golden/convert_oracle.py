"""Small dictionaries in the layout of every family that `darkfield convert` knows, with what numpy makes of them in float64,
and npz archives as numpy writes them.

    python3 tests/golden/convert_oracle.py      # rewrites tests/golden/convert/
"""
import json
import pathlib
import struct
import zipfile

import numpy as np

HERE = pathlib.Path(__file__).parent / "convert"


def archive(path, arrays, method):
    """np.savez with fixed dates, so that a new run of this script changes nothing."""
    with zipfile.ZipFile(path, "w", method) as out:
        for name, array in arrays.items():
            info = zipfile.ZipInfo(name + ".npy", (1980, 1, 1, 0, 0, 0))
            info.compress_type = method
            with out.open(info, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array)


def npz():
    """Element i of an array of n is i * (i + 1) / 2, counted in C order."""
    folder = HERE / "npz"
    folder.mkdir(parents=True, exist_ok=True)

    def numbers(shape, dtype):
        i = np.arange(int(np.prod(shape)))
        return (i * (i + 1) // 2).astype(dtype).reshape(shape)
    arrays = {
        "W_enc": np.asfortranarray(numbers((5, 7), "<f4")),
        "W_dec": numbers((7, 5), "<f4"),
        "b_enc": numbers((7,), "<f8"),
        "half": numbers((2, 3, 4), "<f2"),
        "cube": np.asfortranarray(numbers((2, 3, 4), "<i8")),
        "k": np.array(0, "<i4"),
        "none": np.zeros((0, 3), "<f4"),
    }
    archive(folder / "stored.npz", arrays, zipfile.ZIP_STORED)
    archive(folder / "deflated.npz", arrays, zipfile.ZIP_DEFLATED)
    archive(folder / "big_endian.npz", {"x": numbers((3,), ">f4")}, zipfile.ZIP_STORED)
    archive(folder / "bomb.npz", {"x": np.zeros((4000, 4300), "<f4")}, zipfile.ZIP_DEFLATED)


# ---- dictionaries -------------------------------------------------------------------------------
#
# A case is a folder NAME/ in the layout of a family, and beside it NAME.bin: records of name (16 bytes, zero padded), count
# (uint64), count float64: x [rows, columns of all sites], f [rows, latents] as darkfield has them (never times a norm), y
# [rows, columns written]; read and written sites in the order of a row. Weights are float32; encode and decode are float64.

D, F, ROWS = 12, 40, 6
RNG = np.random.default_rng(4)


def f32(*shape, scale=1.0):
    return (RNG.standard_normal(shape) * scale).astype(np.float32)


def safetensors(path, tensors):
    names = {np.dtype("<f4"): "F32", np.dtype("<f2"): "F16", np.dtype("<i4"): "I32", np.dtype("<i8"): "I64"}
    header, data = {}, b""
    for name, array in tensors.items():
        kind, array = (array[0], array[1]) if isinstance(array, tuple) else (names[array.dtype], array)
        raw = np.ascontiguousarray(array).tobytes()
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def bf16(array):
    """(values that bf16 holds, their upper halves)"""
    bits = array.view(np.uint32) & np.uint32(0xFFFF0000)
    return bits.view(np.float32), ("BF16", (bits >> 16).astype(np.uint16))


def write(name, folder, x, f, y):
    with open(HERE / f"{name}.bin", "wb") as out:
        for key, value in (("x", x), ("f", f), ("y", y)):
            value = np.asarray(value, np.float64)
            out.write(key.encode().ljust(16, b"\0") + struct.pack("<Q", value.size) + value.tobytes())


def config(folder, name, value):
    (folder / name).write_text(value if isinstance(value, str) else json.dumps(value, indent=1))


def folder_of(name):
    folder = HERE / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class Weights:
    """W_enc [F, d_in], W_dec [F, d_out]: one latent per row."""

    def __init__(self, d_in=D, d_out=None, latents=F):
        d_out = d_out or d_in
        self.W_enc, self.W_dec = f32(latents, d_in, scale=0.5), f32(latents, d_out, scale=0.4)
        self.b_enc, self.b_dec = f32(latents, scale=0.2), f32(d_out, scale=0.3)
        self.threshold = np.abs(f32(latents, scale=0.4))
        self.r_mag, self.b_mag = f32(latents, scale=0.2), f32(latents, scale=0.2)
        self.skip = f32(d_out, d_in, scale=0.1)


def pre(w, x, subtract):
    x = x - w.b_dec.astype(np.float64) if subtract else x
    return x @ w.W_enc.T.astype(np.float64) + w.b_enc.astype(np.float64)


def decode(w, f):
    return f @ w.W_dec.astype(np.float64) + w.b_dec.astype(np.float64)


def topk(p, k, score=None):
    score = p if score is None else score
    keep = np.zeros(p.shape, bool)
    np.put_along_axis(keep, np.argsort(-score, axis=1)[:, :k], True, axis=1)
    return np.where(keep, np.maximum(p, 0), 0)


def jump(p, threshold):
    return np.where((p > threshold) & (p > 0), p, 0)


def rows(*widths):
    return f32(ROWS, sum(widths))


def saelens():
    head = {"model_name": "toy", "hook_name": "blocks.1.hook_resid_post", "hook_head_index": None, "prepend_bos": True}
    base = {"d_in": D, "d_sae": F, "dtype": "float32", "device": "cpu", "normalize_activations": "none",
            "reshape_activations": "none", "metadata": head}
    for name, more in {"standard": {"apply_b_dec_to_input": True}, "topk": {"k": 5, "apply_b_dec_to_input": True},
                       "topk_norm": {"k": 5, "apply_b_dec_to_input": True, "rescale_acts_by_decoder_norm": True},
                       "jumprelu": {"apply_b_dec_to_input": False}, "gated": {"apply_b_dec_to_input": True}}.items():
        w, x, folder = Weights(), rows(D), folder_of("saelens_" + name)
        kind = name.split("_")[0]
        config(folder, "cfg.json", {"architecture": kind, **base, **more})
        tensors = {"W_enc": w.W_enc.T, "W_dec": w.W_dec, "b_dec": w.b_dec}
        p = pre(w, x, more["apply_b_dec_to_input"])
        if kind == "gated":
            tensors |= {"b_gate": w.b_enc, "b_mag": w.b_mag, "r_mag": w.r_mag}
            f = (p > 0) * np.maximum((p - w.b_enc) * np.exp(w.r_mag.astype(np.float64)) + w.b_mag, 0)
        else:
            tensors |= {"b_enc": w.b_enc}
        if kind == "standard":
            f = np.maximum(p, 0)
        if kind == "topk":
            f = topk(p, 5, p * np.linalg.norm(w.W_dec.astype(np.float64), axis=1) if name == "topk_norm" else None)
        if kind == "jumprelu":
            tensors["threshold"] = w.threshold
            f = jump(p, w.threshold)
        safetensors(folder / "sae_weights.safetensors", tensors)
        write(folder.name, folder, x, f, decode(w, f))
    # Before 6.0: a flat config; weights in bf16.
    w, x, folder = Weights(), rows(D), folder_of("saelens_flat")
    w.W_enc, raw_enc = bf16(w.W_enc.T.copy())
    w.W_enc = w.W_enc.T
    w.W_dec, raw_dec = bf16(w.W_dec)
    config(folder, "cfg.json", {"d_in": D, "d_sae": F, "dtype": "bfloat16", "model_name": "toy", "hook_name": "hook",
                                "hook_layer": 1, "hook_head_index": None, "activation_fn_str": "relu",
                                "apply_b_dec_to_input": False, "finetuning_scaling_factor": False,
                                "normalize_activations": "none", "l1_coefficient": 1.0, "lp_norm": 1.0})
    safetensors(folder / "sae_weights.safetensors", {"W_enc": raw_enc, "W_dec": raw_dec, "b_enc": w.b_enc, "b_dec": w.b_dec})
    f = np.maximum(pre(w, x, False), 0)
    write(folder.name, folder, x, f, decode(w, f))
    # A skip transcoder to another width.
    w, x, folder = Weights(D, 9), rows(D), folder_of("saelens_skip")
    config(folder, "cfg.json", {"architecture": "skip_transcoder", **base, "d_out": 9, "apply_b_dec_to_input": False,
                                "metadata": {**head, "hook_name_out": "blocks.1.hook_mlp_out"}})
    safetensors(folder / "sae_weights.safetensors", {"W_enc": w.W_enc.T, "W_dec": w.W_dec, "b_enc": w.b_enc,
                                                     "b_dec": w.b_dec, "W_skip": w.skip})
    f = np.maximum(pre(w, x, False), 0)
    y = decode(w, f) + x @ w.skip.T.astype(np.float64)
    write(folder.name, folder, np.concatenate([x, np.zeros((ROWS, 9))], 1), f, y)


def dictionary_learning():
    for name, plain in {"AutoEncoder": 0, "AutoEncoderNew": 0, "AutoEncoderTopK": 0, "BatchTopKSAE": 0,
                        "GatedAutoEncoder": 0, "JumpReluAutoEncoder": 1, "MatryoshkaBatchTopKSAE": 1}.items():
        # As many latents as columns: only the family's rule tells the orientation.
        latents = D if name == "AutoEncoderNew" else F
        w, x, folder = Weights(latents=latents), rows(D), folder_of("dl_" + name)
        trainer = {"dict_class": name, "trainer_class": "T", "activation_dim": D, "dict_size": latents, "lr": 1e-3,
                   "layer": 1, "lm_name": "toy", "submodule_name": "resid_post_1"}
        k, cut = np.array(4, "<i4"), np.array(0.35, "<f4")
        subtract = name not in ("AutoEncoderNew", "JumpReluAutoEncoder")
        p = pre(w, x, subtract)
        t = {"W_enc": w.W_enc.T, "W_dec": w.W_dec} if plain else {"encoder.weight": w.W_enc, "decoder.weight": w.W_dec.T}
        f = np.maximum(p, 0)
        if name == "AutoEncoder":
            t |= {"encoder.bias": w.b_enc, "bias": w.b_dec}
        elif name == "AutoEncoderNew":
            t |= {"encoder.bias": w.b_enc, "decoder.bias": w.b_dec}
        elif name == "GatedAutoEncoder":
            t |= {"gate_bias": w.b_enc, "mag_bias": w.b_mag, "r_mag": w.r_mag, "decoder_bias": w.b_dec}
            f = (p > 0) * np.maximum((p - w.b_enc) * np.exp(w.r_mag.astype(np.float64)) + w.b_mag, 0)
        elif name == "JumpReluAutoEncoder":
            t |= {"b_enc": w.b_enc, "b_dec": w.b_dec, "threshold": w.threshold}
            f = jump(p, w.threshold)
        else:
            t |= {"b_enc" if plain else "encoder.bias": w.b_enc, "b_dec": w.b_dec, "k": k, "threshold": cut}
            f = topk(p, 4) if name == "AutoEncoderTopK" else jump(p, np.float64(cut))
            if plain:
                t["group_sizes"] = np.array([8, 32], "<i8")
            trainer["k"] = 4
        config(folder, "config.json", {"trainer": trainer, "buffer": {"d_submodule": D, "ctx_len": 128}})
        safetensors(folder / "ae.safetensors", t)
        write(folder.name, folder, x, f, decode(w, f))


def sparsify():
    for name, transcode, skip in (("sae", False, False), ("skip", True, True)):
        w, x, folder = Weights(), rows(D), folder_of("sparsify_" + name)
        config(folder, "cfg.json", {"activation": "topk", "expansion_factor": 32, "normalize_decoder": True,
                                    "num_latents": F, "k": 6, "multi_topk": False, "skip_connection": skip,
                                    "transcode": transcode, "d_in": D})
        t = {"encoder.weight": w.W_enc, "encoder.bias": w.b_enc, "W_dec": w.W_dec, "b_dec": w.b_dec}
        f = topk(pre(w, x, not transcode), 6)
        y = decode(w, f)
        if skip:
            t["W_skip"] = w.skip
            y = y + x @ w.skip.T.astype(np.float64)
            x = np.concatenate([x, np.zeros((ROWS, D))], 1)
        safetensors(folder / "sae.safetensors", t)
        write(folder.name, folder, x, f, y)


def gemma_scope():
    for name, method, case in (("stored", zipfile.ZIP_STORED, str), ("deflated", zipfile.ZIP_DEFLATED, str.lower)):
        w, x, folder = Weights(), rows(D), folder_of("gemma_" + name)
        archive(folder / "params.npz", {case("W_enc"): np.asfortranarray(w.W_enc.T), case("W_dec"): w.W_dec, "b_enc": w.b_enc,
                                        "b_dec": w.b_dec, "threshold": w.threshold}, method)
        f = jump(pre(w, x, False), w.threshold)
        write(folder.name, folder, x, f, decode(w, f))


def circuit_tracer():
    yaml = "model_kind: transcoder_set\nmodel_name: 'toy'\nfeature_input_hook: hook_resid_mid\nfeature_output_hook: hook_mlp_out\n"
    w, x, folder = Weights(), rows(D), folder_of("circuit_plt")
    config(folder, "config.yaml", yaml)
    safetensors(folder / "layer_3.safetensors", {"W_enc": w.W_enc, "W_dec": w.W_dec, "b_enc": w.b_enc, "b_dec": w.b_dec,
                                                 "activation_function.threshold": w.threshold, "W_skip": w.skip})
    f = jump(pre(w, x, False), w.threshold)
    y = decode(w, f) + x @ w.skip.T.astype(np.float64)
    write(folder.name, folder, np.concatenate([x, np.zeros((ROWS, D))], 1), f, y)
    layers, folder = 3, folder_of("circuit_clt")
    config(folder, "config.yaml", yaml.replace("transcoder_set", "cross_layer_transcoder"))
    x = rows(*[D] * layers)
    y, codes = [np.zeros((ROWS, D)) for _ in range(layers)], []
    for l in range(layers):
        w = Weights(D, D, 16)
        dec = f32(16, layers - l, D, scale=0.4)
        f = jump(pre(w, x[:, l * D:(l + 1) * D], False), w.threshold)
        for to in range(l, layers):
            y[to] = y[to] + f @ dec[:, to - l].astype(np.float64)
        y[l] = y[l] + w.b_dec.astype(np.float64)
        codes.append(f)
        safetensors(folder / f"W_enc_{l}.safetensors", {f"W_enc_{l}": w.W_enc, f"b_enc_{l}": w.b_enc, f"b_dec_{l}": w.b_dec,
                                                        f"threshold_{l}": w.threshold})
        safetensors(folder / f"W_dec_{l}.safetensors", {f"W_dec_{l}": dec})
    write(folder.name, folder, np.concatenate([x, np.zeros((ROWS, layers * D))], 1), np.concatenate(codes, 1),
          np.concatenate(y, 1))


def crosscoder_learning():
    """Two sites; without a normaliser (its buffers NaN), with one that shifts and scales, with a threshold for each site."""
    for name in ("relu", "batchtopk", "normalised", "decoupled"):
        x, folder = rows(D, D), folder_of("crosscoder_" + name)
        enc, dec = f32(2, D, F, scale=0.4), f32(2, F, D, scale=0.4)
        b_enc, b_dec = f32(F, scale=0.2), f32(2, D, scale=0.3)
        t = {"encoder.weight": enc, "encoder.bias": b_enc, "decoder.weight": dec, "decoder.bias": b_dec,
             "code_normalization_id": np.array(1, "<i8")}
        norms = np.linalg.norm(dec.astype(np.float64), axis=2)
        mean, scale = np.zeros((2, D)), np.ones(2)
        if name == "normalised":
            mean, scale = f32(2, D, scale=0.5).astype(np.float64), np.array([0.3, 1.7], "<f4").astype(np.float64)
            t |= {"activation_mean": mean.astype("<f4"), "activation_std": np.ones((2, D), "<f4"),
                  "activation_global_scale": scale.astype("<f4"), "target_rms": np.array(1.0, "<f4")}
        else:
            nan = np.full((2, D), np.nan, "<f4")
            t |= {"activation_mean": nan, "activation_std": nan, "activation_global_scale": np.ones(2, "<f4"),
                  "target_rms": np.array(1.0, "<f4")}
        z = (x.reshape(ROWS, 2, D).astype(np.float64) - mean) * scale[:, None]
        f = np.maximum(np.einsum("bld,ldf->bf", z, enc.astype(np.float64)) + b_enc, 0)
        head = {"activation_dim": D, "dict_size": F, "num_layers": 2, "code_normalization": "CROSSCODER"}
        if name in ("batchtopk", "normalised"):
            t |= {"k": np.array(5, "<i4"), "threshold": np.array(1.2, "<f4")}
            head["k"] = 5
            f = np.where(f * norms.sum(0) > np.float64(np.float32(1.2)), f, 0)
        seen = np.stack([f, f], 1)  # [rows, sites, latents]
        if name == "decoupled":
            cuts = np.array([0.9, 1.4], "<f4")
            t |= {"k": np.array(5, "<i4"), "threshold": cuts, "code_normalization_id": np.array(5, "<i8")}
            head |= {"k": 5, "code_normalization": "DECOUPLED"}
            seen = np.where(seen * norms > cuts.astype(np.float64)[:, None], seen, 0)
            f = seen.max(1)
        y = (np.einsum("blf,lfd->bld", seen, dec.astype(np.float64)) + b_dec) / scale[:, None] + mean
        config(folder, "config.json", head)
        safetensors(folder / "model.safetensors", t)
        write(folder.name, folder, x, f, y.reshape(ROWS, 2 * D))


def saelens_tokens():
    """Rows that SAELens normalises one by one, with the formulas of its saes/sae.py."""
    head = {"model_name": "toy", "hook_name": "blocks.1.hook_resid_post", "hook_head_index": None, "prepend_bos": True}
    for how, more in {"layer_norm": {"architecture": "topk", "k": 5, "apply_b_dec_to_input": True},
                      "constant_norm_rescale": {"architecture": "standard", "apply_b_dec_to_input": False}}.items():
        w, folder = Weights(), folder_of("saelens_" + how)
        x = (f32(ROWS, 1, scale=3.0) * rows(D) + f32(ROWS, 1)).astype(np.float32)
        config(folder, "cfg.json", {"d_in": D, "d_sae": F, "dtype": "float32", "device": "cpu", "normalize_activations": how,
                                    "reshape_activations": "none", "metadata": head, **more})
        safetensors(folder / "sae_weights.safetensors", {"W_enc": w.W_enc.T, "W_dec": w.W_dec, "b_enc": w.b_enc, "b_dec": w.b_dec})
        wide = x.astype(np.float64)
        mean, std = wide.mean(1, keepdims=True), wide.std(1, ddof=1, keepdims=True)
        if how == "constant_norm_rescale":
            mean, std = 0.0, np.linalg.norm(wide, axis=1, keepdims=True) / D**0.5
        p = pre(w, (wide - mean) / (std + (1e-5 if how == "layer_norm" else 0.0)), more["apply_b_dec_to_input"])
        f = topk(p, 5) if how == "layer_norm" else np.maximum(p, 0)
        write(folder.name, folder, x, f, decode(w, f) * std + mean)


if __name__ == "__main__":
    npz()
    saelens()
    dictionary_learning()
    sparsify()
    gemma_scope()
    circuit_tracer()
    crosscoder_learning()
    saelens_tokens()
