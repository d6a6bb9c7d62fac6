"""Float64 PyTorch oracle of one training step and of 200 steps, for tests/unit/dict/test_golden.c.

    python3 tests/golden/dict_oracle.py      # rewrites dict_{topk,batchtopk,relu,auxk}.bin beside this script

A .bin file is a sequence of records: name (16 bytes, zero padded), count (uint64), count little-endian doubles. The rows and
the initial weights are representable in float32. A seed is taken whose first batch separates the last selected score from
the first one left out by more than 1e-4, and every later one by more than 2e-6, so that float32 selects the same latents.
"""
import pathlib
import struct

import torch

M, WIDTHS, B, K, BATCHES, STEPS = 96, (14, 10), 48, 6, 4, 200
D = sum(WIDTHS)
LR, AUX, AUX_K, DEAD_ROWS, GAP = 3e-3, 1 / 32, 12, 20000, 1e-4
LATER_GAP = 2e-6
CASES = {
    "topk": dict(act="topk", norm="none", unit=True, l1=0.0, aux=0.0),
    "batchtopk": dict(act="batchtopk", norm="sum", unit=False, l1=0.0, aux=0.0),
    "relu": dict(act="relu", norm="sum", unit=False, l1=0.05, aux=0.0),
    "auxk": dict(act="topk", norm="none", unit=True, l1=0.0, aux=AUX),
}


def f32(x):
    return x.float().double()


def make(seed, case):
    g = torch.Generator().manual_seed(seed)
    directions = torch.randn(3 * D, D, generator=g, dtype=torch.float64) / D**0.5
    codes = torch.rand(BATCHES * B, 3 * D, generator=g, dtype=torch.float64)
    codes = codes * (torch.rand(codes.shape, generator=g) < 0.06)
    x = f32(codes @ directions + 0.05 * torch.randn(BATCHES * B, D, generator=g, dtype=torch.float64) / D**0.5)
    w_dec = torch.randn(M, D, generator=g, dtype=torch.float64)
    w_dec = f32(w_dec / w_dec.norm(dim=1, keepdim=True))
    w_enc = w_dec.clone()
    silent = torch.zeros(M, dtype=torch.int64)
    if case["aux"] > 0:  # a third of the latents: too weak to be selected, long silent
        w_enc[::3] *= 0.02
        silent[::3] = 10**6
    b_enc = f32(0.01 * torch.randn(M, generator=g, dtype=torch.float64))
    b_dec = f32(x.mean(0))
    return x.reshape(BATCHES, B, D), [f32(w_enc), w_dec, b_enc, b_dec], silent


def code_norm(w_dec, kind):
    if kind == "none":
        return torch.ones(M, dtype=torch.float64)
    return sum(part.norm(dim=1) for part in w_dec.split(WIDTHS, dim=1))


def keep(f, score, k):
    """Zeroes all but the k best of the last axis; returns the gap behind them."""
    best = score.topk(min(k + 1, score.shape[-1]), dim=-1)
    mask = torch.zeros_like(f).scatter_(-1, best.indices[..., :k], 1.0)
    if best.values.shape[-1] <= k:
        return f * mask, 1.0
    last, next_one = best.values[..., k - 1], best.values[..., k]
    return f * mask, torch.where(last > 0, last - next_one, torch.ones_like(last)).min().item()  # equal zeros do not matter


def objective(x, p, dead, case):
    w_enc, w_dec, b_enc, b_dec = p
    relu = torch.relu((x - b_dec) @ w_enc.T + b_enc)
    norm = code_norm(w_dec, case["norm"])
    score, gap = (relu * norm).detach(), 1.0
    if case["act"] == "topk":
        f, gap = keep(relu, score, K)
    elif case["act"] == "batchtopk":
        f, gap = keep(relu.reshape(-1), score.reshape(-1), K * B)
        f = f.reshape(relu.shape)
    else:
        f = relu
    e = x - (f @ w_dec + b_dec)
    reconstruction = (e**2).sum(1).mean()
    loss = reconstruction + case["l1"] * (f * norm).sum(1).mean()
    k_aux = min(AUX_K, int(dead.sum()))
    if case["aux"] > 0 and k_aux > 0:
        target = e.detach()
        aux_f, aux_gap = keep(relu * dead, (relu * dead).detach(), k_aux)
        below = ((target - target.mean(0)) ** 2).sum(1).mean()
        loss = loss + case["aux"] * ((target - aux_f @ w_dec) ** 2).sum(1).mean() / below
        gap = min(gap, aux_gap) if k_aux < int(dead.sum()) else gap
    return loss, f, e, gap


def train(x, start, silent, case):
    p = [t.clone().requires_grad_() for t in start]
    optimiser = torch.optim.Adam(p, lr=LR, betas=(0.9, 0.999), eps=1e-8)
    losses, smallest = [], 1.0
    for step in range(STEPS):
        batch = x[step % BATCHES]
        optimiser.zero_grad()
        loss, f, _, gap = objective(batch, p, silent >= DEAD_ROWS, case)
        smallest = min(smallest, gap)
        if smallest < LATER_GAP:
            return None
        loss.backward()
        with torch.no_grad():
            if case["unit"]:
                d = p[1] / p[1].norm(dim=1, keepdim=True)
                p[1].grad -= (p[1].grad * d).sum(1, keepdim=True) * d
            optimiser.step()
            if case["unit"]:
                p[1] /= p[1].norm(dim=1, keepdim=True)
        silent = torch.where((f > 0).any(0), torch.zeros_like(silent), silent + B)
        losses.append(loss.item())
    return losses, p, silent


def final_fvu(x, p, dead, case):
    rows = x[0]
    with torch.no_grad():
        _, _, e, _ = objective(rows, p, dead, case)
    return ((e**2).sum() / ((rows - rows.mean(0)) ** 2).sum()).item()


def write(path, records):
    with open(path, "wb") as out:
        for name, values in records.items():
            data = torch.as_tensor(values, dtype=torch.float64).reshape(-1).tolist()
            out.write(name.encode().ljust(16, b"\0") + struct.pack("<Q", len(data)) + struct.pack(f"<{len(data)}d", *data))


def find(case):
    for seed in range(100000):
        x, start, silent = make(seed, case)
        p = [t.clone().requires_grad_() for t in start]
        loss, _, _, gap = objective(x[0], p, silent >= DEAD_ROWS, case)
        trained = train(x, start, silent, case) if gap > GAP else None
        if trained is not None:
            loss.backward()
            return seed, gap, x, start, silent, p, trained


def main():
    for name, case in CASES.items():
        seed, gap, x, start, silent, p, (losses, trained, after) = find(case)
        fvu = final_fvu(x, trained, after >= DEAD_ROWS, case)
        names = ("w_enc", "w_dec", "b_enc", "b_dec")
        records = {"x": x, "silent": silent, **dict(zip(names, start)), **{"g_" + n: t.grad for n, t in zip(names, p)}}
        records |= {"losses": losses, "fvu": [fvu], "dead": [int((silent >= DEAD_ROWS).sum()), int((after >= DEAD_ROWS).sum())]}
        write(pathlib.Path(__file__).parent / f"dict_{name}.bin", records)
        print(f"{name}: seed {seed}, gap {gap:.2e}, loss {losses[0]:.4f} -> {losses[-1]:.4f}, FVU {fvu:.4f}, dead {records['dead']}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
