"""Float64 PyTorch oracle of rows that are normalised one by one, for tests/unit/dict/test_golden_token.c.

    python3 tests/golden/token_oracle.py      # rewrites token_{layer,norm}.bin beside this script

Each site's part of a row becomes (x - mean) / (std + 1e-5), std over n - 1, and comes back as y std + mean (OpenAI's
sparse_autoencoder, model.py; SAELens, layer_norm); or x sqrt(n) / |x|, back by the inverse (OpenMOSS, token-wise; SAELens,
constant_norm_rescale). Rows x lie at lengths and levels of their own; one is constant. On normalised rows: gradients of the first
batch and the loss of 200 steps, as dict_oracle.py has them. With the weights of the start, x_hat: the reconstructions of the first
batch in the units of x. With those of the end, fvu: of each site of all rows, in the units of x.
"""
import pathlib

import torch

import dict_oracle as base
from dict_oracle import B, BATCHES, D, M, WIDTHS, f32, objective, train, write

GAP = 1e-4
CASES = {"layer": dict(act="topk", norm="none", unit=True, l1=0.0, aux=0.0),
         "norm": dict(act="batchtopk", norm="sum", unit=False, l1=0.0, aux=0.0)}


def forward(how, x):
    """Normalised rows, and how they come back."""
    parts, back = [], []
    for part in x.split(WIDTHS, -1):
        if how == "layer":
            mean, std = part.mean(-1, keepdim=True), part.std(-1, keepdim=True)
            parts.append((part - mean) / (std + 1e-5))
            back.append((std, mean))
        else:
            factor = part.shape[-1] ** 0.5 / part.norm(dim=-1, keepdim=True)
            parts.append(part * factor)
            back.append((1 / factor, torch.zeros_like(factor)))
    return torch.cat(parts, -1), lambda y: torch.cat([p * a + b for p, (a, b) in zip(y.split(WIDTHS, -1), back)], -1)


def rows(seed):
    g = torch.Generator().manual_seed(seed)
    x, start, silent = base.make(seed, CASES["layer"])
    sizes = torch.exp(1.5 * torch.randn(BATCHES, B, 1, generator=g, dtype=torch.float64))
    levels = torch.cat([torch.randn(BATCHES, B, 1, generator=g, dtype=torch.float64).expand(-1, -1, w) for w in WIDTHS], -1)
    x = sizes * (x + 0.3 * levels)
    x[0, 5, :WIDTHS[0]] = 0.75
    return f32(x), start, silent


def make(how, seed):
    raw, start, silent = rows(seed)
    x, back = forward(how, raw)
    start[3] = f32(x.reshape(-1, D).mean(0))
    return raw, x, back, start, silent


def find(how, case):
    for seed in range(100000):
        raw, x, back, start, silent = make(how, seed)
        p = [t.clone().requires_grad_() for t in start]
        loss, f, _, gap = objective(x[0], p, silent > 0, case)
        trained = train(x, start, silent, case) if gap > GAP else None
        if trained is not None:
            loss.backward()
            return seed, gap, raw, x, back, start, p, f, trained


def reconstruct(x, p, case):
    with torch.no_grad():
        f = objective(x, p, torch.zeros(M, dtype=torch.bool), case)[1]
        return f @ p[1] + p[3], f


def main():
    for how, case in CASES.items():
        seed, gap, raw, x, back, start, p, _, (losses, trained, _) = find(how, case)
        first, _ = reconstruct(x[0], start, case)
        each = [reconstruct(batch, trained, case) for batch in x]
        error = raw - back(torch.stack([y for y, _ in each]))
        flat, error = raw.reshape(-1, D), error.reshape(-1, D)
        fvu = [((e**2).sum() / ((r - r.mean(0)) ** 2).sum()).item() for e, r in zip(error.split(WIDTHS, 1), flat.split(WIDTHS, 1))]
        names = ("w_enc", "w_dec", "b_enc", "b_dec")
        records = {"x": raw, "n": x, "x_hat": forward(how, raw[0])[1](first), **dict(zip(names, start)),
                   **{"g_" + n: t.grad for n, t in zip(names, p)}, "losses": losses, "fvu": fvu}
        write(pathlib.Path(__file__).parent / f"token_{how}.bin", records)
        print(f"{how}: seed {seed}, gap {gap:.2e}, loss {losses[0]:.4f} -> {losses[-1]:.4f}, FVU {fvu}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
