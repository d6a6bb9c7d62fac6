"""Float64 PyTorch oracle of nested and multiple reconstructions, AuxK's variants, clipping, averages and resampling, for
tests/unit/dict/test_step_methods.c.

    python3 tests/golden/method_oracle.py [CASE ...]   # rewrites method_{CASE}.bin beside this script

Gradients come twice: g_ as autograd has them, u_ as Adam gets them (off the decoder's rows, clipped); n_ are the weights after
resampling the start. A .bin file has the records of dict_oracle.py. A seed is taken whose first batch keeps the last selected
score further than GAP from the first one left out, every later batch further than LATER_GAP, so that float32 selects the same
latents. Resampling draws with Philox4x32-10 on (seed, stream, step, row), written out here from the paper (Salmon et al., SC11).
"""
import math
import pathlib
import sys

import torch

from dict_oracle import f32, keep, write

M, WIDTHS, B, K, BATCHES, STEPS = 48, (7, 5), 32, 4, 2, 200
D = sum(WIDTHS)
AUX_K, GAP, LATER_GAP = 6, 1e-4, 2e-6
DEFAULT = dict(act="topk", norm="none", order="free", lr=3e-3, eps=1e-8, prefixes=(), prefix_weight=1.0, fvu=False, shape="", variance=0.0, multi=0.0,
               aux=0.0, normaliser="residual", bias="none", scaled=False, attached=False, fixed=False, raw=False, select=False, dead_every=3,
               dead_rows=2000, fired=0.0, clip=0.0, ema=0.0, l1=0.0, resample=0, power=1.0, scale=0.2, unit=False)
CASES = {
    # Matryoshka: the sum of all prefixes (SAELens), 1/G^2 with AuxK and clipping (dictionary_learning), the mean with b_dec
    # alone (BatchTopK's authors)
    "nested_sum": dict(act="batchtopk", prefixes=(12, 24, M)),
    "nested_square": dict(act="batchtopk", prefixes=(6, 20, M), prefix_weight=1 / 9, order="unit", aux=1 / 32, clip=0.1),
    "nested_bias": dict(act="topk", norm="sum", prefixes=(0, 16, M), prefix_weight=1 / 3, l1=0.01),
    # sparsify: FVU, FVU(4k)/8, AuxK by the variance of x, with b_dec, scaled by the dead
    "multi": dict(fvu=True, multi=1 / 8, aux=1 / 32, normaliser="target", bias="decode", scaled=True, order="unit"),
    # and as its encoder's backward pass has it: what these two terms read is held fixed
    "multi_fixed": dict(fvu=True, multi=1 / 8, aux=1 / 32, normaliser="target", bias="decode", scaled=True, order="unit", fixed=True),
    # errors that are shaped site by site, beside terms that move b_dec too: FVU of every site; lengths
    "shaped_sites": dict(shape="sites", multi=1 / 8, aux=1 / 32, normaliser="target", bias="decode"),
    "shaped_lengths": dict(shape="lengths", aux=1 / 8, bias="both"),
    # SAELens TopK; OpenAI; an auxiliary target that is not held fixed (OpenMOSS), alone and nested
    "aux_plain": dict(aux=1.0, normaliser="none", bias="decode", scaled=True, norm="sum", clip=1.0),
    # SAELens, whose auxiliary codes may be negative: more dead than aux_k, and fewer, which are all taken
    "aux_raw": dict(aux=1.0, normaliser="none", bias="decode", scaled=True, raw=True, norm="sum", clip=1.0),
    "aux_raw_few": dict(aux=0.1, raw=True, dead_every=12),
    "openai": dict(aux=1 / 32, bias="both", order="unit_first", eps=6.25e-10, fired=1e-3, ema=0.99, clip=0.2),
    # and with its reconstruction divided by the variance of a fixed sample, here a number
    "openai_sample": dict(variance=0.7, aux=1 / 32, bias="both", order="unit_first", eps=6.25e-10, fired=1e-3),
    # dictionary_learning TopK, whose latents fire by their place in the list of indices: half of the rows lack positive codes
    "selected": dict(aux=1 / 32, order="unit", clip=1.0, select=True, dead_rows=200),
    "attached": dict(aux=1 / 32, normaliser="none", bias="decode", attached=True),
    "nested_attached": dict(act="batchtopk", prefixes=(16, M), aux=0.1, normaliser="target", attached=True),
    # resampling: rows as they are (dictionary_learning), brought to norm 1 (Anthropic)
    "resample": dict(act="relu", order="unit", l1=0.3, resample=40, dead_rows=600, lr=1e-3),
    "resample_square": dict(resample=50, dead_rows=800, power=2.0, scale=0.05, unit=True, ema=0.98),
}
SEED, STREAM = 77, 5


def philox(counter, key):
    c, k = list(counter), list(key)
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k[0], b & 0xFFFFFFFF, (a >> 32) ^ c[3] ^ k[1], a & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def uniform(seed, stream, index):
    r = philox((index & 0xFFFFFFFF, index >> 32, stream, 0), (seed & 0xFFFFFFFF, seed >> 32))
    return ((r[1] << 32 | r[0]) >> 11) * 2.0**-53


def make(seed, case):
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    codes = torch.rand(BATCHES * B, 3 * D, generator=g, dtype=torch.float64)
    codes = codes * (torch.rand(codes.shape, generator=g) < 0.08)
    x = f32(codes @ normal(3 * D, D) / D**0.5 + 0.05 * normal(BATCHES * B, D) / D**0.5)
    w_dec = normal(M, D)
    w_dec = f32(w_dec / w_dec.norm(dim=1, keepdim=True))
    p = [f32(w_dec + 0.02 * normal(M, D)), w_dec, f32(0.01 * normal(M)), f32(x.mean(0))]
    silent = torch.zeros(M, dtype=torch.int64)
    if case["aux"] > 0 or case["resample"]:
        p[0][::case["dead_every"]] *= 0.02
        p[0] = f32(p[0])
        silent[::case["dead_every"]] = 10**6
    if case["raw"]:
        p[2][::case["dead_every"]] -= 0.02
        p[2] = f32(p[2])
    if case["resample"]:
        p[2][::3] = -0.5
    if case["select"]:
        p[2] = f32(p[2] - 0.35)
    return x.reshape(BATCHES, B, D), p, silent


def code_norm(w_dec, kind):
    if kind == "none":
        return torch.ones(M, dtype=torch.float64)
    return sum(part.norm(dim=1) for part in w_dec.split(WIDTHS, dim=1))


def pre_activations(x, p):
    return (x - p[3]) @ p[0].T + p[2]


def encode(x, p, case):
    relu = torch.relu(pre_activations(x, p))
    score = (relu * code_norm(p[1], case["norm"])).detach()
    if case["act"] == "relu":
        return relu, relu, score, 1.0
    if case["act"] == "topk":
        f, gap = keep(relu, score, K)
        return f, relu, score, gap
    f, gap = keep(relu.reshape(-1), score.reshape(-1), K * B)
    return f.reshape(relu.shape), relu, score, gap


def shaped(x, e, shape):
    loss = 0
    for part, rows in zip(e.split(WIDTHS, 1), x.split(WIDTHS, 1)):
        if shape == "sites":
            loss = loss + (part**2).sum() / ((rows - rows.mean(0)) ** 2).sum()
        else:
            loss = loss + part.norm(dim=1).mean() / len(WIDTHS)
    return loss


def reconstruction(x, f, e, p, case, variance):
    if case["shape"]:
        return shaped(x, e, case["shape"])
    if case["variance"] > 0:
        return (e**2).sum(1).mean() / case["variance"]
    if case["fvu"]:
        return (e**2).sum() / variance
    if not case["prefixes"]:
        return (e**2).sum(1).mean()
    errors = [x - (f[:, :end] @ p[1][:end] + p[3]) for end in case["prefixes"]]
    return case["prefix_weight"] * sum((part**2).sum(1).mean() for part in errors)


def raw_codes(x, p, dead, k, case):
    """The k best pre-activations of the dead latents, of either sign, in their places; the gap of their selection."""
    pre = pre_activations(x, p)
    rank = (pre * code_norm(p[1], case["norm"])).detach().masked_fill(~dead, -math.inf)
    best = rank.topk(min(k + 1, M)).values
    chosen = torch.zeros_like(pre).scatter(1, rank.topk(k).indices, 1.0)
    return pre * chosen, float((best[:, k - 1] - best[:, k]).min())


def auxiliary(x, e, relu, score, p, dead, case, variance):
    """The auxiliary loss and the gap of its selection."""
    n_dead = int(dead.sum())
    k = min(AUX_K, n_dead)
    if not case["aux"] > 0 or k == 0:
        return torch.zeros(()), 1.0
    f, gap = raw_codes(x, p, dead, k, case) if case["raw"] else keep(relu * dead, score * dead, k)
    f = f.detach() if case["fixed"] else f
    target = e if case["attached"] else e.detach()
    if case["bias"] == "both":
        target = target + p[3].detach()
    estimate = f @ p[1] + (0 if case["bias"] == "none" else p[3])
    below = {"residual": ((target - target.mean(0)) ** 2).sum(1).mean().detach(), "target": variance / B, "none": 1.0}
    scale = min(n_dead / AUX_K, 1.0) if case["scaled"] else 1.0
    loss = scale * ((estimate - target) ** 2).sum(1).mean() / below[case["normaliser"]]
    return loss, gap if k < n_dead else 1.0


def objective(x, p, dead, case):
    f, relu, score, gap = encode(x, p, case)
    e = x - (f @ p[1] + p[3])
    variance = ((x - x.mean(0)) ** 2).sum()
    loss = reconstruction(x, f, e, p, case, variance)
    loss = loss + case["l1"] * (f * code_norm(p[1], case["norm"])).sum(1).mean()
    aux, aux_gap = auxiliary(x, e, relu, score, p, dead, case, variance)
    loss, gap = loss + case["aux"] * aux, min(gap, aux_gap)
    if case["multi"] > 0:
        wide, wide_gap = keep(relu, score, 4 * K)
        wide = wide.detach() if case["fixed"] else wide
        loss = loss + case["multi"] * ((x - (wide @ p[1] + p[3])) ** 2).sum() / variance
        gap = min(gap, wide_gap)
    return loss, f, e, gap


def has_fired(f, case):
    """Which latents of the batch fired; of codes that are equal the first is selected."""
    if not case["select"]:
        return (f > case["fired"]).any(0)
    order = torch.sort(f.detach(), dim=1, descending=True, stable=True).indices[:, :K]
    return torch.zeros(f.shape[1], dtype=torch.bool).index_fill(0, order.flatten(), True)


def normalise(w):
    w /= w.norm(dim=1, keepdim=True)


def project(p):
    d = p[1] / p[1].norm(dim=1, keepdim=True)
    p[1].grad -= (p[1].grad * d).sum(1, keepdim=True) * d


def prepare(p, case):
    """From autograd's gradients to Adam's; returns their norm where they are clipped."""
    with torch.no_grad():
        if case["order"] == "unit_first":
            normalise(p[1])
        if case["order"] != "free":
            project(p)
        return float(torch.nn.utils.clip_grad_norm_(p, case["clip"])) if case["clip"] > 0 else 0.0


def update(p, case, optimiser, averages):
    """What follows the gradients; returns their norm where they are clipped."""
    norm = prepare(p, case)
    with torch.no_grad():
        if case["order"] == "unit_first":
            average(averages, p, case)
        optimiser.step()
        if case["order"] == "unit":
            normalise(p[1])
        if case["order"] != "unit_first":
            average(averages, p, case)
    return norm


def average(averages, p, case):
    for mean, now in zip(averages, p):
        mean.lerp_(now, 1 - case["ema"])


def rebirth(x, p, silent, case, step):
    """Which latents began anew, and the smallest distance between clocks that decide."""
    dead = silent >= case["dead_rows"]
    with torch.no_grad():
        if not dead.any():
            return dead.nonzero()[:, 0], 1.0
        f, _, _, gap = encode(x, p, case)
        weight = (x - (f @ p[1] + p[3])).norm(dim=1) ** case["power"]
        clocks = torch.tensor([-math.log1p(-uniform(SEED, STREAM, step << 32 | r)) for r in range(B)]) / weight
        n = min(int(dead.sum()), B)
        order = clocks.argsort()
        gaps = clocks[order][1:] / clocks[order][:-1] - 1
        rows, which = x[order[:n]], dead.nonzero()[:n, 0]
        living = p[0][~dead].norm(dim=1).mean()
        p[0][which] = (rows / rows.norm(dim=1, keepdim=True) if case["unit"] else rows) * living * case["scale"]
        p[1][which] = rows / rows.norm(dim=1, keepdim=True)
        p[2][which] = 0.0
    return which, min(gap, float(gaps.min()))


def resample(x, p, silent, case, optimiser, step):
    which, gap = rebirth(x, p, silent, case, step)
    for t in p[:3]:
        for moment in ("exp_avg", "exp_avg_sq"):
            optimiser.state[t][moment][which] = 0.0
    return len(which), gap


def train(x, start, silent, case):
    p = [t.clone().requires_grad_() for t in start]
    averages = [torch.zeros_like(t) for t in start]
    optimiser = torch.optim.Adam(p, lr=case["lr"], betas=(0.9, 0.999), eps=case["eps"])
    losses, norms, replaced = [], [], 0
    for step in range(STEPS):
        batch = x[step % BATCHES]
        optimiser.zero_grad()
        loss, f, _, gap = objective(batch, p, silent >= case["dead_rows"], case)
        if gap < LATER_GAP:
            return None
        loss.backward()
        norms.append(update(p, case, optimiser, averages))
        silent = torch.where(has_fired(f, case), torch.zeros_like(silent), silent + B)
        losses.append(loss.item())
        if case["resample"] and step > 0 and step % case["resample"] == 0:
            n, gap = resample(batch, p, silent, case, optimiser, step)
            replaced += n
            if gap < LATER_GAP:
                return None
    for mean in averages:
        mean /= 1 - case["ema"] ** STEPS if case["ema"] > 0 else 1.0
    return losses, norms, p, averages, silent, replaced


def fvu(x, p, case):
    with torch.no_grad():
        _, _, e, gap = objective(x[0], p, torch.zeros(M, dtype=torch.bool), case)
    return ((e**2).sum() / ((x[0] - x[0].mean(0)) ** 2).sum()).item() if gap > GAP else None


def find(case):
    for seed in range(100000):
        x, start, silent = make(seed, case)
        p = [t.clone().requires_grad_() for t in start]
        loss, _, _, gap = objective(x[0], p, silent >= case["dead_rows"], case)
        trained = train(x, start, silent, case) if gap > GAP else None
        if trained is None or fvu(x, trained[2], case) is None:
            continue
        if case["ema"] > 0 and fvu(x, trained[3], case) is None:
            continue
        anew = [t.clone() for t in start]
        if case["resample"] and rebirth(x[0], anew, silent, case, case["resample"])[1] < GAP:
            continue
        loss.backward()
        return seed, x, start, silent, p, trained, anew


def main(names):
    for name in names or CASES:
        case = dict(DEFAULT, **CASES[name])
        seed, x, start, silent, p, (losses, norms, trained, averages, after, replaced), anew = find(case)
        dead = [int((s >= case["dead_rows"]).sum()) for s in (silent, after)]
        numbers = [fvu(x, trained, case), fvu(x, averages, case) if case["ema"] > 0 else 0.0, *dead, replaced]
        names_of = ("w_enc", "w_dec", "b_enc", "b_dec")
        records = {"x": x, "silent": silent, **dict(zip(names_of, start)), **{"g_" + n: t.grad.clone() for n, t in zip(names_of, p)}}
        prepare(p, case)
        if case["clip"] > 0 or case["order"] != "free":
            records |= {"u_" + n: t.grad for n, t in zip(names_of, p)}
        if case["resample"]:
            records |= {"n_" + n: t for n, t in zip(names_of, anew)}
        records |= {"losses": losses, "norms": norms, "numbers": numbers}
        write(pathlib.Path(__file__).parent / f"method_{name}.bin", records)
        print(f"{name}: seed {seed}, loss {losses[0]:.4f} -> {losses[-1]:.4f}, FVU {numbers[0]:.4f} ({numbers[1]:.4f}), "
              f"dead {dead}, replaced {replaced}, norms {norms[0]:.3f} -> {norms[-1]:.3f}", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1:])
