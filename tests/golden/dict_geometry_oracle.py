"""Float64 PyTorch oracle of transcoders, a cross-layer crosscoder and a cross-layer transcoder, for tests/unit/dict/test_golden_geometry.c.

    python3 tests/golden/dict_geometry_oracle.py      # rewrites dict_{transcoder,skip,crosscoder,clt}.bin beside this script

A row holds all sites side by side. A group of latents reads the columns `reads` and writes the columns `writes`; its matrices are stored latent
after latent, groups one after another, so w_enc and w_dec of a file are flat. Format and choice of seeds: dict_oracle.py.
"""
import pathlib

import torch

from dict_oracle import GAP, LATER_GAP, LR, f32, keep, write

M, B, K, BATCHES, STEPS = 64, 32, 5, 3, 200
CASES = {
    "transcoder": dict(act="topk", norm="none", unit=True, l1=0.0, widths=(14, 10), reads=[(0, 14)], writes=[(14, 24)]),
    "skip": dict(act="batchtopk", norm="sum", unit=False, l1=0.0, widths=(9, 13), reads=[(0, 9)], writes=[(9, 22)], skip=True),
    "crosscoder": dict(act="batchtopk", norm="sum", unit=False, l1=0.0, widths=(7, 11, 6), reads=[(0, 24)], writes=[(0, 24)], subtract=True),
    "clt": dict(act="relu", norm="sum", unit=False, l1=0.05, widths=(6, 8, 5, 4, 7, 6), reads=[(0, 6), (6, 14), (14, 19)], writes=[(19, 36), (23, 36), (30, 36)]),
}


def latents(case):
    """How many each group has: as even as possible, earlier groups take the remainder."""
    n = len(case["reads"])
    return [M // n + (g < M % n) for g in range(n)]


def outputs(case):
    return min(w[0] for w in case["writes"]), max(w[1] for w in case["writes"])


def make(seed, case):
    g = torch.Generator().manual_seed(seed)
    width = sum(case["widths"])

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    codes = torch.rand(BATCHES * B, 3 * width, generator=g, dtype=torch.float64)
    codes = codes * (torch.rand(codes.shape, generator=g) < 0.06)
    x = f32(codes @ normal(3 * width, width) / width**0.5 + 0.05 * normal(BATCHES * B, width) / width**0.5)
    first, last = outputs(case)
    start = {"w_enc": [], "w_dec": [], "b_enc": f32(0.01 * normal(M)), "b_dec": f32(x.mean(0)[first:last])}
    for m, read, written in zip(latents(case), case["reads"], case["writes"]):
        dec = normal(m, written[1] - written[0])
        enc = dec if read == written else normal(m, read[1] - read[0])
        start["w_dec"].append(f32(dec / dec.norm(dim=1, keepdim=True)))
        start["w_enc"].append(f32(enc / enc.norm(dim=1, keepdim=True)))
    if case.get("skip"):
        start["w_skip"] = f32(0.1 * normal(last - first, case["reads"][0][1]))
    return x.reshape(BATCHES, B, width), start


def code_norms(w_dec, case):
    """The sum of the decoder's norms over the sites that a group writes."""
    norms = []
    edges = [sum(case["widths"][:i]) for i in range(len(case["widths"]) + 1)]
    for dec, written in zip(w_dec, case["writes"]):
        parts = [(a - written[0], b - written[0]) for a, b in zip(edges, edges[1:]) if written[0] <= a and b <= written[1]]
        norms.append(sum(dec[:, a:b].norm(dim=1) for a, b in parts) if case["norm"] == "sum" else torch.ones(len(dec), dtype=torch.float64))
    return torch.cat(norms)


def objective(x, p, case):
    first, last = outputs(case)
    read = x.clone()
    if case.get("subtract"):
        read = x - p["b_dec"]
    relu = torch.relu(torch.cat([read[:, a:b] @ enc.T for (a, b), enc in zip(case["reads"], p["w_enc"])], 1) + p["b_enc"])
    norm = code_norms(p["w_dec"], case)
    f, gap = relu, 1.0
    if case["act"] == "topk":
        f, gap = keep(relu, (relu * norm).detach(), K)
    elif case["act"] == "batchtopk":
        f, gap = keep(relu.reshape(-1), (relu * norm).detach().reshape(-1), K * B)
        f = f.reshape(relu.shape)
    x_hat = p["b_dec"].expand(B, -1)
    for part, dec, (a, b) in zip(f.split(latents(case), 1), p["w_dec"], case["writes"]):
        x_hat = x_hat + torch.nn.functional.pad(part @ dec, (a - first, last - b))
    if "w_skip" in p:
        a, b = case["reads"][0]
        x_hat = x_hat + x[:, a:b] @ p["w_skip"].T
    e = x[:, first:last] - x_hat
    return (e**2).sum(1).mean() + case["l1"] * (f * norm).sum(1).mean(), e, gap


def trainable(start):
    return {n: [t.clone().requires_grad_() for t in v] if isinstance(v, list) else v.clone().requires_grad_() for n, v in start.items()}


def tensors(p):
    return [t for v in p.values() for t in (v if isinstance(v, list) else [v])]


def train(x, start, case):
    p, losses = trainable(start), []
    optimiser = torch.optim.Adam(tensors(p), lr=LR, betas=(0.9, 0.999), eps=1e-8)
    for step in range(STEPS):
        optimiser.zero_grad()
        loss, _, gap = objective(x[step % BATCHES], p, case)
        if gap < LATER_GAP:
            return None
        loss.backward()
        with torch.no_grad():
            for dec in p["w_dec"] if case["unit"] else []:
                d = dec / dec.norm(dim=1, keepdim=True)
                dec.grad -= (dec.grad * d).sum(1, keepdim=True) * d
            optimiser.step()
            for dec in p["w_dec"] if case["unit"] else []:
                dec /= dec.norm(dim=1, keepdim=True)
        losses.append(loss.item())
    return losses, p


def flat(value):
    return torch.cat([t.detach().reshape(-1) for t in value]) if isinstance(value, list) else value.detach()


def gradient(value):
    return torch.cat([t.grad.reshape(-1) for t in value]) if isinstance(value, list) else value.grad


def final_fvu(x, p, case):
    first, last = outputs(case)
    with torch.no_grad():
        target = x[0][:, first:last]
        return ((objective(x[0], p, case)[1] ** 2).sum() / ((target - target.mean(0)) ** 2).sum()).item()


def find(case):
    for seed in range(100000):
        x, start = make(seed, case)
        p = trainable(start)
        loss, _, gap = objective(x[0], p, case)
        trained = train(x, start, case) if gap > GAP else None
        if trained is not None:
            loss.backward()
            return seed, gap, x, start, p, trained


def main():
    for name, case in CASES.items():
        seed, gap, x, start, p, (losses, trained) = find(case)
        fvu = final_fvu(x, trained, case)
        records = {"x": x, **{n: flat(v) for n, v in start.items()}, **{"g_" + n: gradient(v) for n, v in p.items()}}
        write(pathlib.Path(__file__).parent / f"dict_{name}.bin", records | {"losses": losses, "fvu": [fvu]})
        print(f"{name}: seed {seed}, gap {gap:.2e}, loss {losses[0]:.4f} -> {losses[-1]:.4f}, FVU {fvu:.4f}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
