"""Times a training step of a TopK autoencoder in PyTorch, as public trainers do it, in turns with darkfield's.

Usage: torch_step.py dense|sparse LATENTS WIDTH ROWS K THREADS ROUNDS COMMAND...
COMMAND times darkfield's step on the same shapes and prints a line of JSON with "seconds".

dense: codes as a full [rows, latents] matrix, as dictionary_learning trains TopK: scatter into
zeros, dense decode, autograd, clipping, gradient projection, Adam, unit decoder.
sparse: as EleutherAI's sparsify does: dense encoder, top-k, embedding_bag as the decoder, gradients
of the encoder from the selected entries alone, then the same projection and Adam.
Both count the latents that fired; none is dead in so few steps, so AuxK does not run."""
import json
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F


def make_rows(rows, width, directions=2048, active=24):
    """A few of many directions plus noise."""
    d = torch.randn(directions, width) / width**0.5
    which = torch.randint(directions, (rows, active))
    strength = 0.1 * (1 + torch.randint(4, (rows, active))).float()
    return F.embedding_bag(which, d, per_sample_weights=strength, mode="sum") + 0.3 * torch.randn(rows, width) / width**0.5


def unit_rows(w):
    return w / w.norm(dim=1, keepdim=True)


class Weights:
    """W_enc and W_dec are [latents, width]."""

    def __init__(self, latents, width):
        self.dec = unit_rows(torch.randn(latents, width)).requires_grad_()
        self.enc = self.dec.detach().clone().requires_grad_()
        self.b_enc = torch.zeros(latents, requires_grad=True)
        self.b_dec = torch.zeros(width, requires_grad=True)
        self.silent = torch.zeros(latents, dtype=torch.long)

    def all(self):
        return [self.enc, self.dec, self.b_enc, self.b_dec]

    def project(self):
        """Takes the part along the decoder direction out of its gradient."""
        along = (self.dec.grad * self.dec).sum(dim=1, keepdim=True)
        self.dec.grad.sub_(along * self.dec)

    def count_silent(self, which, rows):
        fired = torch.zeros_like(self.silent, dtype=torch.bool)
        fired[which.flatten()] = True
        self.silent += rows
        self.silent[fired] = 0


def dense_reconstruction(w, x, k):
    codes = F.relu(F.linear(x - w.b_dec, w.enc, w.b_enc))
    top, which = codes.topk(k, sorted=False)
    kept = torch.zeros_like(codes).scatter_(dim=1, index=which, src=top)
    return kept @ w.dec + w.b_dec, which


class SparseEncoder(torch.autograd.Function):
    """relu(x W' + b), the k largest per row; only those carry gradients back. The pre-activations are
    an output too (AuxK would read them), so that autograd hands back a gradient of zeros for them."""

    @staticmethod
    def forward(ctx, x, weight, bias, k):
        codes = F.relu(F.linear(x, weight, bias))
        top, which = codes.topk(k, sorted=False)
        ctx.save_for_backward(x, weight, bias, which)
        return top, which, codes

    @staticmethod
    def backward(ctx, gradient, _which, _codes):
        x, weight, bias, which = ctx.saved_tensors
        to_x = F.embedding_bag(which, weight, per_sample_weights=gradient, mode="sum") if ctx.needs_input_grad[0] else None
        outer = gradient.unsqueeze(2) * x.unsqueeze(1)  # [rows, k, width]
        to_weight = torch.zeros_like(weight).index_add_(0, which.flatten(), outer.view(-1, x.shape[1]))
        to_bias = torch.zeros_like(bias).index_add_(0, which.flatten(), gradient.flatten())
        return to_x, to_weight, to_bias, None


def sparse_reconstruction(w, x, k):
    top, which, _ = SparseEncoder.apply(x - w.b_dec, w.enc, w.b_enc, k)
    return F.embedding_bag(which, w.dec, per_sample_weights=top, mode="sum") + w.b_dec, which


def dense_loss(x, x_hat):
    return (x - x_hat).pow(2).sum(dim=-1).mean()


def sparse_loss(x, x_hat):
    return (x - x_hat).pow(2).sum() / (x - x.mean(dim=0)).pow(2).sum()


KINDS = {"dense": (dense_reconstruction, dense_loss), "sparse": (sparse_reconstruction, sparse_loss)}


def step(kind, w, adam, x, k):
    reconstruct, loss_of = KINDS[kind]
    x_hat, which = reconstruct(w, x, k)
    w.count_silent(which, len(x))
    loss = loss_of(x, x_hat)
    loss.backward()
    if kind == "dense":
        torch.nn.utils.clip_grad_norm_(w.all(), 1.0)
    w.project()
    adam.step()
    adam.zero_grad(set_to_none=True)
    with torch.no_grad():
        w.dec.copy_(unit_rows(w.dec))
    return loss.item()


def darkfield_seconds(command):
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [json.loads(line)["seconds"] for line in out.splitlines() if line.startswith("{")][-1]


def main():
    kind = sys.argv[1]
    latents, width, rows, k, threads, rounds = map(int, sys.argv[2:8])
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    w = Weights(latents, width)
    adam = torch.optim.Adam(w.all(), lr=1e-4)
    x = make_rows(4 * rows, width).split(rows)
    losses = [step(kind, w, adam, x[0], k)]
    ours, theirs = [], []
    for turn in range(rounds):
        ours.append(darkfield_seconds(sys.argv[8:]))
        for i in range(2):
            start = time.perf_counter()
            losses.append(step(kind, w, adam, x[(2 * turn + i) % 4], k))
            theirs.append(time.perf_counter() - start)
    if not losses[-1] < losses[0]:
        sys.exit(f"the {kind} trainer does not learn: loss {losses[0]:.4g}, then {losses[-1]:.4g}")
    a, b = statistics.median(theirs), statistics.median(ours)
    print(f"torch-{kind}: m {latents}, d {width}, B {rows}, k {k}, {threads} thread{'s' * (threads > 1)}, PyTorch {torch.__version__}")
    print(f"  {'its step':18} {a * 1e3:8.1f} ms   {rows / a:8.0f} rows/s")
    print(f"  {'darkfield step':18} {b * 1e3:8.1f} ms   {rows / b:8.0f} rows/s   {a / b:.1f} times faster")
    print(json.dumps({"name": f"torch-{kind}", "ranks": 1, "threads": threads, "seconds": round(a, 6),
                      "rows_per_second": round(rows / a, 1), "darkfield_seconds": round(b, 6),
                      "times_faster": round(a / b, 3)}), flush=True)


if __name__ == "__main__":
    main()
