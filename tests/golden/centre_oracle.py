"""Float64 PyTorch oracle of centred rows, for tests/unit/dict/test_centre.c.

    python3 tests/golden/centre_oracle.py      # rewrites centre_{rows,sae,gated,crosscoder,jump,skip,clt}.bin beside this script

The normaliser of crosscoder_learning (NormalizableMixin, as diffing-toolkit fills it): x -> (x - mean) target_rms / sqrt(sum of the
columns' variances + 1e-8), each site for itself, back by the inverse. centre_rows: the means and scales of the training rows of the
file that the test writes. The others: a dictionary of normalised rows, and what it makes of raw ones: codes f, and x^ in raw units. Rows
and weights are representable in float32. A seed is taken that leaves no pre-activation near a threshold. Format: dict_oracle.py.
"""
import pathlib

import torch

from dict_geometry_oracle import code_norms, flat, outputs
from dict_oracle import f32, write

M, B, GAP, EPSILON = 64, 24, 1e-3, 1e-8
ROWS, DOCUMENTS, CONTEXT, COLUMNS, TARGET = 400, 20, 16, 10, 100.0
CASES = {
    "sae": dict(act="relu", widths=(12,), reads=[(0, 12)], writes=[(0, 12)], subtract=True),
    "gated": dict(act="gated", widths=(12,), reads=[(0, 12)], writes=[(0, 12)]),
    "crosscoder": dict(act="batchtopk", widths=(7, 11, 6), reads=[(0, 24)], writes=[(0, 24)]),
    "jump": dict(act="jumprelu", widths=(14, 10), reads=[(0, 14)], writes=[(14, 24)]),
    "skip": dict(act="relu", widths=(9, 70), reads=[(0, 9)], writes=[(9, 79)], skip=True),
    "clt": dict(act="relu", widths=(6, 8, 5, 4, 7, 6), reads=[(0, 6), (6, 14), (14, 19)], writes=[(19, 36), (23, 36), (30, 36)]),
}


def drawn(seed):
    g = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)


def rows(normal, n, widths):
    """Rows that lie far from zero, each site at a size of its own."""
    return f32(torch.cat([(s + 1) * (3 * normal(1, w) + normal(n, w)) for s, w in enumerate(widths)], 1))


def normaliser(x, widths, target=1.0):
    mean, scales = x.mean(0), []
    for site in x.split(widths, 1):
        scales.append(target / torch.sqrt((site.std(0, unbiased=False) ** 2).sum() + EPSILON))
    return mean, torch.stack(scales)


def weights(normal, case):
    first, last = outputs(case)
    n = len(case["reads"])
    p = {"w_enc": [], "w_dec": [], "b_enc": f32(0.3 * normal(M)), "b_dec": f32(0.2 * normal(last - first))}
    for g, (read, written) in enumerate(zip(case["reads"], case["writes"])):
        m = M // n + (g < M % n)
        p["w_enc"].append(f32(normal(m, read[1] - read[0])))
        p["w_dec"].append(f32(normal(m, written[1] - written[0]) / 8))
    if case.get("skip"):
        p["w_skip"] = f32(0.3 * normal(last - first, case["reads"][0][1]))
    if case["act"] == "jumprelu":
        p["theta"] = f32(normal(M).abs())
    if case["act"] == "gated":
        p["r_mag"], p["b_mag"] = f32(0.3 * normal(M)), f32(0.3 * normal(M))
    return p


def codes(read, p, case):
    """f, and how far the nearest decision was from going the other way."""
    pre = torch.cat([read[:, a:b] @ enc.T for (a, b), enc in zip(case["reads"], p["w_enc"])], 1)
    p_all = pre + p["b_enc"]
    if case["act"] == "gated":
        magnitude = torch.exp(p["r_mag"]) * pre + p["b_mag"]
        return torch.relu(magnitude) * (p_all > 0), p_all.abs().min()
    if case["act"] == "jumprelu":
        return p_all * (p_all > p["theta"]), (p_all - p["theta"]).abs().min()
    f = torch.relu(p_all)
    if case["act"] == "batchtopk":
        score = f * code_norms(p["w_dec"], case | {"norm": "sum"})
        return f * (score > 1.0), (score - 1.0).abs().min()
    return f, p_all.abs().min()


def decode(x, f, p, case):
    first, last = outputs(case)
    x_hat = p["b_dec"].expand(B, -1)
    at = 0
    for dec, (a, b) in zip(p["w_dec"], case["writes"]):
        x_hat = x_hat + torch.nn.functional.pad(f[:, at:at + len(dec)] @ dec, (a - first, last - b))
        at += len(dec)
    if "w_skip" in p:
        a, b = case["reads"][0]
        x_hat = x_hat + x[:, a:b] @ p["w_skip"].T
    return x_hat


def dictionary(name, case):
    first, last = outputs(case)
    for seed in range(100000):
        normal = drawn(seed)
        x = rows(normal, B, case["widths"])
        mean, scale = normaliser(x, case["widths"])
        mean = f32(mean)
        columns = torch.cat([s.expand(w) for s, w in zip(scale, case["widths"])])
        p = weights(normal, case)
        centred = (x - mean) * columns
        f, gap = codes(centred - p["b_dec"] if case.get("subtract") else centred, p, case)
        if gap > GAP:
            break
    x_hat = decode(centred, f, p, case) / columns[first:last] + mean[first:last]
    write(pathlib.Path(__file__).parent / f"centre_{name}.bin",
          {"x": x, "mean": mean, "scale": scale, "f": f, "x_hat": x_hat} | {n: flat(v) for n, v in p.items()})
    print(f"{name}: seed {seed}, gap {gap:.1e}, {(f > 0).double().sum(1).mean():.1f} active")


def training_rows():
    x = rows(drawn(1), ROWS, (COLUMNS,))
    per = ROWS // DOCUMENTS
    kept = x[[r for r in range(ROWS) if (r // per) % 5 != 2 and r % CONTEXT != 0]]
    mean, deviation = normaliser(kept, (COLUMNS,), TARGET)
    lengths = (kept - f32(mean)).norm(dim=1).mean()
    write(pathlib.Path(__file__).parent / "centre_rows.bin",
          {"x": x, "mean": mean, "deviation": deviation, "rms": 1 / ((kept - mean) ** 2).sum(1).mean().sqrt().reshape(1),
           "norm": COLUMNS**0.5 / lengths.reshape(1)})


if __name__ == "__main__":
    torch.set_num_threads(1)
    training_rows()
    for name, case in CASES.items():
        dictionary(name, case)
