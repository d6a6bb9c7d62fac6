"""Times the forward pass of one window of 512 tokens in PyTorch, in turns with darkfield's.

Usage: torch_forward.py NAME ROUNDS COMMAND...
NAME: forward-gpt2, forward-llama or forward-llama-bf16, the shapes of bench_forward, random weights, one thread, neither
embedding nor logits. COMMAND times darkfield's and prints a line of JSON with "tokens_per_second". Attention is two batched
products and a softmax, as models are written for this version of PyTorch."""
import json
import math
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F

WINDOW = 512


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


def main():
    name, rounds, command = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    torch.set_num_threads(1)
    torch.manual_seed(1)
    s = Shape(name)
    forward, x = make_forward(s), torch.randn(WINDOW, s.width).to(s.type)
    torch_rates, our_rates = [], []
    with torch.no_grad():
        forward(x)
        for _ in range(rounds):
            start = time.perf_counter()
            forward(x)
            torch_rates.append(WINDOW / (time.perf_counter() - start))
            lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
            our_rates.append(json.loads([line for line in lines if line.startswith("{")][-1])["tokens_per_second"])
    theirs, ours = statistics.median(torch_rates), statistics.median(our_rates)
    print(f"torch-{name}: PyTorch {torch.__version__} {theirs:.0f} tokens/s, darkfield {ours:.0f}, one core")
    print(json.dumps({"name": f"torch-{name}", "threads": 1, "tokens_per_second": round(theirs, 1),
                      "darkfield_tokens_per_second": round(ours, 1), "ratio": round(ours / theirs, 3)}))


if __name__ == "__main__":
    main()
