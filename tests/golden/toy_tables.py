#!/usr/bin/env python3
"""The two toy tables of sparse dictionary learning over several seeds, beside what the public trainers reach on the
same toys (dictionary_learning and its crosscoder fork, unmodified, PyTorch 1.13, one seed).

    toy_tables.py DARKFIELD OUT [--seeds N] [--only TEXT] [--table]

Runs jobs/synthetic/toy-{a,b}.yaml with the options below into OUT (what is complete is skipped), then prints the tables
in Markdown: mean and standard deviation over seeds. --table: print what is there, run nothing.
"""
import argparse
import pathlib
import statistics
import subprocess
import sys

import h5py

ROOT = pathlib.Path(__file__).resolve().parents[2]

# name, options over the job file, the public trainer's FVU, L0, MMCS learned to true, true to learned, found (%); where one seed
# lay far from it, the mean and deviation of five others too
DL = {"warmup_law": "zero", "init_bias": "zero", "aux": 0}  # where dictionary_learning differs from the job file
L1 = {**DL, "activation": "relu", "init_norm": 0.1, "init_bias_enc": "uniform", "penalty": "l1", "penalty_warmup": 2000}
TOPK = {**DL, "init_bias": "median", "clip": 1}
TOY_A = [
    ("Standard, l1 0.02", {**L1, "penalty_weight": 0.02}, (0.0244, 57.8, 0.570, 0.620, 2)),
    ("Standard, l1 0.05", {**L1, "penalty_weight": 0.05}, (0.0653, 39.0, 0.704, 0.751, 26)),
    ("Standard, l1 0.1", {**L1, "penalty_weight": 0.1}, (0.1467, 18.2, 0.829, 0.906, 66)),
    ("TopK 6", TOPK, (0.1909, 6.00, 0.958, 0.957, 89)),
    ("BatchTopK 6", {**TOPK, "activation": "batchtopk"}, (0.1888, 6.03, 0.889, 0.911, 74),
     ((0.1748, 0.0025), (6.02, 0.03), (0.909, 0.007), (0.922, 0.004), (77.3, 2.5))),
    ("Matryoshka 6", {**TOPK, "activation": "batchtopk", "prefixes": "1/4,1/2", "prefix_weights": "square"},
     (0.2291, 6.05, 0.848, 0.887, 64)),
    ("JumpReLU, target 6",
     {**DL, "activation": "jumprelu", "penalty": "l0-target", "penalty_weight": 1, "target_l0": 6, "penalty_warmup": 2000,
      "bandwidth": 0.001, "init_threshold": 0.001, "threshold_parameter": "raw", "step_input": "code", "beta1": 0, "clip": 1,
      "subtract_bias": "false"}, (0.1717, 6.55, 0.874, 0.919, 67),
     ((0.1510, 0.0061), (6.48, 0.03), (0.912, 0.009), (0.942, 0.007), (75.6, 2.4))),
    ("Gated, l1 0.05", {**DL, "activation": "gated", "beta1": 0, "penalty": "l1", "penalty_weight": 0.05, "penalty_warmup": 2000},
     (0.0069, 53.7, 0.357, 0.381, 0)),
]

# name, options, FVU A, FVU B, L0, alive, recovery shared, A, B, latents of A alone, of B alone
RELU = {**DL, "activation": "relu", "penalty": "l1", "penalty_warmup": 0}
UNSQUARED = {**RELU, "reconstruction": "unsquared"}
SQUARED = {**RELU, "reconstruction": "squared-mean"}
TOY_B = [
    ("ReLU, unsquared, l1 0.02", {**UNSQUARED, "penalty_weight": 0.02}, (0.0016, 0.0018, 17.5, 192, 0.999, 0.995, 0.999, 32, 27)),
    ("ReLU, unsquared, l1 0.04", {**UNSQUARED, "penalty_weight": 0.04}, (0.0018, 0.0019, 13.5, 192, 0.999, 0.999, 0.999, 27, 26)),
    ("ReLU, squared, l1 0.01", {**SQUARED, "penalty_weight": 0.01}, (0.0028, 0.0029, 11.8, 192, 0.999, 1.000, 1.000, 27, 28)),
    ("ReLU, squared, l1 0.02", {**SQUARED, "penalty_weight": 0.02}, (0.0048, 0.0048, 9.7, 190, 0.999, 1.000, 1.000, 23, 26)),
    ("ReLU, squared, l1 0.05", {**SQUARED, "penalty_weight": 0.05}, (0.0189, 0.0190, 8.6, 191, 0.985, 1.000, 1.000, 28, 25)),
    ("BatchTopK 6, unsquared", {**TOPK, "init_norm": 1, "reconstruction": "unsquared"},
     (0.0297, 0.0391, 6.05, 121, 1.000, 0.873, 0.830, 13, 12)),
]

COLUMNS_A = ("FVU", "L0", "MMCS learned to true", "true to learned", "found %")
COLUMNS_B = ("FVU A", "FVU B", "L0", "alive", "shared", "A", "B", "A alone", "B alone")


def figures_a(f):
    r = f["recovery"].attrs
    return (f["sites/fvu"][0], f.attrs["l0"], r["mmcs_learned_to_true"], r["mmcs_true_to_learned"],
            100 * r["found"] / f["recovery/direction_cosine"].shape[0])


def figures_b(f):
    r = f["recovery"].attrs
    return (f["sites/fvu"][0], f["sites/fvu"][1], f.attrs["l0"], r["alive"], r["recovery_shared"], r["recovery_a"],
            r["recovery_b"], r["only_a"], r["only_b"])


def folder(out, toy, number, seed):
    return out / f"{toy}-{number}-{seed}"


def run(program, out, toy, number, options, seed):
    where = folder(out, toy, number, seed)
    command = [program, "run", f"jobs/synthetic/{toy}.yaml", "--set", f"out={where}", "--set", f"seed={seed}"]
    for key, value in options.items():
        command += ["--set", f"train.{key}={value}"]
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr}")


def show(value, spread=None):
    digits = 4 if abs(value) < 0.5 else 3 if abs(value) <= 1 else 1
    text = f"{value:.{digits}f}"
    return text if spread is None else f"{text} ± {spread:.{digits}f}"


def table(out, toy, rows, columns, figures, seeds):
    print("| trainer | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for number, (name, _, public, *more) in enumerate(rows):
        files = [folder(out, toy, number, seed) / "evaluate.h5" for seed in seeds]
        found = []
        for path in filter(pathlib.Path.exists, files):
            with h5py.File(path) as f:
                found.append(tuple(map(float, figures(f))))
        if not found:
            continue
        cells = [show(statistics.mean(c), statistics.stdev(c) if len(c) > 1 else 0) for c in zip(*found)]
        print(f"| {name}, {len(found)} seeds | " + " | ".join(cells) + " |")
        print("| the public trainer, one seed | " + " | ".join(show(value) for value in public) + " |")
        for five in more:
            print("| the public trainer, five other seeds | " + " | ".join(show(*pair) for pair in five) + " |")
    print()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("darkfield")
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", default="")
    parser.add_argument("--table", action="store_true")
    a = parser.parse_args()
    seeds = range(1, a.seeds + 1)
    toys = (("toy-a", TOY_A, COLUMNS_A, figures_a), ("toy-b", TOY_B, COLUMNS_B, figures_b))
    for toy, rows, _, _ in () if a.table else toys:
        for seed in seeds:
            for number, (name, options, *_) in enumerate(rows):
                if a.only in f"{toy} {name}":
                    run(a.darkfield, a.out.resolve(), toy, number, options, seed)
    for toy, rows, columns, figures in toys:
        table(a.out, toy, rows, columns, figures, seeds)


main()
