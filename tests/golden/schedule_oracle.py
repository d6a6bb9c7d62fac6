"""Learning rates of PyTorch's schedulers over 60 steps, for tests/unit/dict/test_schedule.c.

    python3 tests/golden/schedule_oracle.py      # rewrites schedule_oracle.json beside this script

torch: LinearLR from 1/12 over 12 steps (SAELens), then a linear decay to a tenth over the last 20 steps
zero: dictionary_learning's factor min(t / 12, 1), linear to 0 over the last 20 steps
cosine: min((t + 1) / 12, 1), then half a cosine to a tenth over the last 20 steps
k_up, k_line, k_nearest: k from 16 to 3 over 26 steps, OpenMOSS's exponential (factor 3) and linear schedules, sparsify's linear one
"""
import json
import math
import pathlib

import torch
from torch.optim import lr_scheduler as s

STEPS, WARMUP, DECAY, LR = 60, 12, 20, 0.004


def rates(make):
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))], lr=LR)
    scheduler, out = make(optimiser), []
    for _ in range(STEPS):
        out.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    return out


def then(optimiser, first, last):
    return s.SequentialLR(optimiser, [first, last], milestones=[STEPS - DECAY])


CASES = {
    "torch": lambda o: then(o, s.LinearLR(o, 1 / WARMUP, 1.0, WARMUP), s.LinearLR(o, 1.0, 0.1, DECAY)),
    "zero": lambda o: s.LambdaLR(o, lambda t: min(t / WARMUP, 1.0) * min((STEPS - t) / DECAY, 1.0)),
    "cosine": lambda o: then(o, s.LambdaLR(o, lambda t: min((t + 1) / WARMUP, 1.0)), s.CosineAnnealingLR(o, DECAY, 0.1 * LR)),
}

def numbers_active(at):
    return [at(min(t / 26, 1.0)) for t in range(STEPS)]


ACTIVE = {
    "k_up": numbers_active(lambda t: math.ceil(16 - (16 - 3) * ((1.0 - math.exp(-3 * t)) / (1.0 - math.exp(-3))))),
    "k_line": numbers_active(lambda t: math.ceil(16 + (3 - 16) * t)),
    "k_nearest": numbers_active(lambda t: round(16 * (1 - t) + 3 * t)),
}

if __name__ == "__main__":
    path = pathlib.Path(__file__).parent / "schedule_oracle.json"
    path.write_text(json.dumps({name: rates(make) for name, make in CASES.items()} | ACTIVE, indent=0) + "\n")
