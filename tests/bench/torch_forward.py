"""Times the forward pass of one window of 512 tokens in PyTorch, and in llama.cpp where it is installed, in turns with darkfield's.

Usage: torch_forward.py NAME ROUNDS FOLDER COMMAND...
NAME: forward-gpt2, forward-llama or forward-llama-bf16, the shapes of bench_forward, random weights, one thread, neither
embedding nor logits. COMMAND times darkfield's and prints a line of JSON with "tokens_per_second". Attention is two batched
products and a softmax, as models are written for this version of PyTorch. LLAMA_CPP names the folder of llama.cpp's libraries
(tests/golden/llama_cpp.py tells where they come from), which read the same shape from a file in FOLDER and run it as their
defaults are, with the logits of one position."""
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F

WINDOW, VOCABULARY = 512, 4096


class Shape:
    def __init__(self, name):
        self.llama = "llama" in name
        self.width, self.mlp, self.layers, self.heads, self.kv_heads = (2048, 8192, 4, 32, 8) if self.llama else (768, 3072, 12, 12, 12)
        self.head = self.width // self.heads
        self.type = torch.bfloat16 if name.endswith("bf16") else torch.float32


def make_layer(s):
    key = s.kv_heads * s.head
    sizes = {"q": (s.width, s.width), "k": (key, s.width), "v": (key, s.width), "o": (s.width, s.width),
             "up": (s.mlp, s.width), "down": (s.width, s.mlp), "norm1": (s.width,), "norm2": (s.width,)}
    if s.llama:
        sizes["gate"] = (s.mlp, s.width)
    return {name: (0.02 * torch.randn(size)).to(s.type) for name, size in sizes.items()}


def norm(s, x, weight):
    if not s.llama:
        return F.layer_norm(x, (s.width,), weight, weight)
    wide = x.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-5)).to(x.dtype) * weight


def rotate(x, cosine, sine):
    half = x.shape[-1] // 2
    return x * cosine + torch.cat((-x[..., half:], x[..., :half]), -1) * sine


def attend(s, layer, x, angles, mask):
    def split(y, heads):
        return y.view(WINDOW, heads, s.head).transpose(0, 1)
    q, k, v = split(F.linear(x, layer["q"]), s.heads), split(F.linear(x, layer["k"]), s.kv_heads), split(F.linear(x, layer["v"]), s.kv_heads)
    if s.llama:
        q, k = rotate(q, *angles), rotate(k, *angles)
        k, v = (y.repeat_interleave(s.heads // s.kv_heads, 0) for y in (k, v))
    scores = torch.baddbmm(mask, q, k.transpose(1, 2), alpha=1 / math.sqrt(s.head))
    mixed = torch.bmm(torch.softmax(scores.float(), -1).to(x.dtype), v)
    return F.linear(mixed.transpose(0, 1).reshape(WINDOW, s.width), layer["o"])


def block(s, layer, x, angles, mask):
    x = x + attend(s, layer, norm(s, x, layer["norm1"]), angles, mask)
    y = norm(s, x, layer["norm2"])
    up = F.linear(y, layer["up"])
    hidden = F.silu(F.linear(y, layer["gate"])) * up if s.llama else F.gelu(up)
    return x + F.linear(hidden, layer["down"])


def make_forward(s):
    layers = [make_layer(s) for _ in range(s.layers)]
    mask = torch.full((1, WINDOW, WINDOW), -math.inf).triu(1).to(s.type)
    frequency = 500000.0 ** (-torch.arange(0, s.head, 2) / s.head)
    angle = torch.arange(WINDOW)[:, None] * torch.cat((frequency, frequency))[None]
    angles = (angle.cos().to(s.type), angle.sin().to(s.type))

    def forward(x):
        for layer in layers:
            x = block(s, layer, x, angles, mask)
        return x
    return forward


def gguf(s):
    """Keys and weights of the shape under llama.cpp's names; the weights are one noise over and over."""
    arch = "llama" if s.llama else "gpt2"
    keys = {"general.architecture": arch, "tokenizer.ggml.model": "no_vocab", f"{arch}.vocab_size": VOCABULARY, f"{arch}.context_length": 1024,
            f"{arch}.embedding_length": s.width, f"{arch}.block_count": s.layers, f"{arch}.feed_forward_length": s.mlp,
            f"{arch}.attention.head_count": s.heads, f"{arch}.attention.head_count_kv": s.kv_heads,
            f"{arch}.attention.layer_norm_{'rms_' if s.llama else ''}epsilon": 1e-5}
    if s.llama:
        keys |= {f"{arch}.rope.dimension_count": s.head, f"{arch}.rope.freq_base": 500000.0}
    noise, key = 0.02 * np.random.default_rng(1).normal(size=1 << 16).astype(np.float32), s.kv_heads * s.head
    out = {"token_embd": (VOCABULARY, s.width), "output_norm": (s.width,)} | ({} if s.llama else {"position_embd": (1024, s.width)})
    block = {"attn_norm": (s.width,), "ffn_norm": (s.width,), "attn_output": (s.width, s.width), "ffn_up": (s.mlp, s.width), "ffn_down": (s.width, s.mlp)}
    if s.llama:
        block |= {"attn_q": (s.width, s.width), "attn_k": (key, s.width), "attn_v": (key, s.width), "ffn_gate": (s.mlp, s.width)}
    else:
        block |= {"attn_qkv": (3 * s.width, s.width)}
    out |= {f"blk.{l}.{name}": shape for l in range(s.layers) for name, shape in block.items()}
    tensors = {name + ".weight": shape for name, shape in out.items()}
    if not s.llama:
        tensors |= {name + ".bias": shape[:1] for name, shape in out.items() if "embd" not in name}
    return keys, {name: np.resize(noise, shape) for name, shape in tensors.items()}


def make_llama_cpp(s, folder):
    """A function that gives the seconds of a window, or None."""
    if not os.environ.get("LLAMA_CPP"):
        return None
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "golden"))
    import llama_cpp
    path = pathlib.Path(folder) / "model.gguf"
    llama_cpp.write_gguf(path, *gguf(s), llama_cpp.BF16 if s.type == torch.bfloat16 else llama_cpp.F32)
    library, ids = llama_cpp.Library(os.environ["LLAMA_CPP"]), np.random.default_rng(2).integers(0, VOCABULARY, WINDOW)
    model = library.load(path)
    return lambda: library.seconds(model, ids, 1)


def main():
    name, rounds, folder, command = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4:]
    torch.set_num_threads(1)
    torch.manual_seed(1)
    s = Shape(name)
    forward, x, llama_cpp = make_forward(s), torch.randn(WINDOW, s.width).to(s.type), make_llama_cpp(s, folder)
    torch_rates, llama_rates, our_rates = [], [], []
    with torch.no_grad():
        forward(x)
        if llama_cpp:
            llama_cpp()
        for _ in range(rounds):
            start = time.perf_counter()
            forward(x)
            torch_rates.append(WINDOW / (time.perf_counter() - start))
            if llama_cpp:
                llama_rates.append(WINDOW / llama_cpp())
            lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
            our_rates.append(json.loads([line for line in lines if line.startswith("{")][-1])["tokens_per_second"])
    theirs, ours = statistics.median(torch_rates), statistics.median(our_rates)
    llama = round(statistics.median(llama_rates), 1) if llama_rates else None
    print(f"torch-{name}: PyTorch {torch.__version__} {theirs:.0f} tokens/s, llama.cpp {f'{llama:.0f}' if llama else 'not installed'}, "
          f"darkfield {ours:.0f}, one core")
    print(json.dumps({"name": f"torch-{name}", "threads": 1, "tokens_per_second": round(theirs, 1), "llama_cpp_tokens_per_second": llama,
                      "darkfield_tokens_per_second": round(ours, 1), "ratio": round(ours / theirs, 3)}))


if __name__ == "__main__":
    main()
