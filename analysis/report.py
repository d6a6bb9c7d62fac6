#!/usr/bin/env python3
"""Makes one self-contained HTML page from the result files of a run.

    report.py RUN_FOLDER [--output report.html] [--title TEXT] [--null NULL_RUN_FOLDER] [--members A,B,... [--use B]]

The page opens from disk, asks nothing of the network, and escapes all corpus text. Sections whose result file is
missing are left out, and the page says so. Needs h5py, numpy, matplotlib, jinja2.
"""
import argparse
import glob
import os
import sys
from datetime import datetime

import numpy as np

import figures
from darkfield_io import Activations, Dictionary, NotComplete, Results, Vocabulary

CLASSES = ["A-only", "A-leaning", "shared", "B-leaning", "B-only"]
NONE = 2**64 - 1
SHOWN_LATENTS, SHOWN_EXAMPLES = 10, 3


def open_if_made(kind, path, missing):
    """The results at `path`, or None with its name noted as missing."""
    try:
        return kind(path)
    except NotComplete as why:
        missing.append(str(why))
        return None


class Member:
    """A dictionary of a sweep and what was measured of it on held-out documents."""

    def __init__(self, folder, name, missing):
        self.name = name
        self.dictionary = open_if_made(Dictionary, os.path.join(folder, f"train-{name}.dict.h5"), missing)
        self.evaluate = open_if_made(Results, os.path.join(folder, f"evaluate-{name}.h5"), missing)


class Run:
    """The result files of one output folder. Of a sweep, the later ones are of the member `use`."""

    def __init__(self, folder, members=(), use=None):
        self.folder, self.missing, self.use = folder, [], use
        at = lambda name: os.path.join(folder, name)
        self.members = [Member(folder, name, self.missing) for name in members]
        studied = [m for m in self.members if m.name == use] or self.members[:1]
        if studied:
            self.dictionary, self.evaluate = studied[0].dictionary, studied[0].evaluate
        else:
            dictionaries = sorted(glob.glob(at("*.dict.h5")))
            self.dictionary = open_if_made(Dictionary, dictionaries[0] if dictionaries else at("crosscoder.dict.h5"), self.missing)
            self.evaluate = open_if_made(Results, at("evaluate.h5"), self.missing)
        self.stats = open_if_made(Results, at("stats.h5"), self.missing)
        self.diff = open_if_made(Results, at("diff.h5"), self.missing)
        self.spectrum = open_if_made(Results, at("spectrum.h5"), self.missing)
        self.lens = open_if_made(Results, at("lens.h5"), self.missing) if os.path.exists(at("lens.h5")) else None  # only made on request
        self.activations = [Activations(p) for p in sorted(glob.glob(at("*.acts.h5")))]


# ---- examples with highlighted tokens -----------------------------------------------------------------------------

def pieces(vocabulary, tokens, activations):
    """(text, activation) pairs; tokens that hold a part of a character are joined with what follows."""
    out, pending, strongest = [], b"", 0.0
    for token, activation in zip(tokens, activations):
        pending += vocabulary.raw(int(token))
        strongest = max(strongest, float(activation))
        try:
            text = pending.decode("utf-8")
        except UnicodeDecodeError as error:
            if error.reason == "unexpected end of data" and len(pending) < 4:
                continue
            text = pending.decode("utf-8", "replace")
        out.append((text.replace("\n", "\u23ce"), strongest))
        pending, strongest = b"", 0.0
    if pending:
        out.append((pending.decode("utf-8", "replace"), strongest))
    return out


def examples_of(run, vocabulary, latent, many=SHOWN_EXAMPLES):
    stats, out = run.stats, []
    for e in range(min(many, stats.file["examples/value"].shape[1])):
        count = int(stats.file["examples/count"][latent, e])
        if count == 0:
            continue
        activation = stats.file["examples/activation"][latent, e][:count]
        top = max(float(activation.max()), 1e-30)
        shown = pieces(vocabulary, stats.file["examples/token"][latent, e][:count], activation)
        out.append({"document": int(stats.file["examples/document"][latent, e]),
                    "value": float(stats.file["examples/value"][latent, e]),
                    "tokens": [{"text": t, "share": round(a / top, 3), "value": round(a, 3)} for t, a in shown]})
    return out


def promoted_of(run, vocabulary, latent):
    if "promoted/token" not in run.stats:
        return []
    tokens = run.stats.file["promoted/token"][latent]
    return [{"model": run.stats.attributes[f"model{i}"], "tokens": [vocabulary[int(t)] for t in row[:6]]} for i, row in enumerate(tokens)]


def describe_latent(run, vocabulary, latent, columns):
    return {"latent": int(latent), "class": CLASSES[columns["class"][latent]], "delta": float(columns["delta"][latent]),
            "norms": (float(columns["a"][latent]), float(columns["b"][latent])), "cosine": float(columns["cosine"][latent]),
            "frequency": float(columns["frequency"][latent]), "max": float(columns["max"][latent]),
            "promoted": promoted_of(run, vocabulary, latent), "examples": examples_of(run, vocabulary, latent)}


def distinguishing(run, vocabulary):
    """The living latents at both ends of Delta_norm."""
    if run.diff is None or run.stats is None:
        return None
    columns = {"class": run.diff["latents/class"], "delta": run.diff["latents/delta_norm"], "a": run.diff["latents/norm_a"],
               "b": run.diff["latents/norm_b"], "cosine": run.diff["latents/cosine"], "frequency": run.stats["latents/frequency"], "max": run.stats["latents/max"]}
    order = run.diff["sorted/latent"]
    names = [run.diff.attributes["model0"], run.diff.attributes["model1"]]
    return [{"title": f"Largest in {names[1]}", "rows": [describe_latent(run, vocabulary, j, columns) for j in order[::-1][:SHOWN_LATENTS]]},
            {"title": f"Largest in {names[0]}", "rows": [describe_latent(run, vocabulary, j, columns) for j in order[:SHOWN_LATENTS]]}]


def single_model_latents(run, vocabulary):
    """For an SAE: the latents with the largest activations."""
    stats = run.stats
    order = np.argsort(-stats["latents/max"], kind="stable")[:SHOWN_LATENTS]
    return [{"latent": int(j), "frequency": float(stats["latents/frequency"][j]), "max": float(stats["latents/max"][j]),
             "promoted": promoted_of(run, vocabulary, j), "examples": examples_of(run, vocabulary, j)} for j in order]


# ---- tables -------------------------------------------------------------------------------------------------------

def concept_table(diff):
    if diff is None or "table/latent" not in diff:
        return None
    columns = {k: diff[f"table/{k}"] for k in ("latent", "class", "delta_norm", "precision", "recall")}
    rows = []
    for i, name in enumerate(diff.names("table")):
        cells = []
        for kind in range(columns["latent"].shape[1]):
            found = int(columns["latent"][i, kind]) != NONE
            cells.append({"latent": int(columns["latent"][i, kind]), "class": CLASSES[columns["class"][i, kind]], "delta": float(columns["delta_norm"][i, kind]),
                          "precision": float(columns["precision"][i, kind]), "recall": float(columns["recall"][i, kind])} if found else None)
        rows.append({"name": name, "cells": cells})
    return rows


def outside_shared(diff):
    count = diff["classes/count"]
    return int(count.sum() - count[2]), int(count.sum())


def cards(run, null):
    """The numbers to see first: (value, label)."""
    out = []
    if run.evaluate is not None:
        for i, fvu in enumerate(run.evaluate["sites/fvu"]):
            others = ""
            if "sites/fvu_rows" in run.evaluate:
                others = "; mean over batches {:.4f}, over rows {:.4f}".format(run.evaluate["sites/fvu_batches"][i], run.evaluate["sites/fvu_rows"][i])
            out.append((f"{fvu:.4f}", f"FVU of {run.evaluate.attributes.get(f'model{i}', 'model')}, held-out{others}"))
        out.append((f"{run.evaluate.attributes['l0']:.2f}", "latents active per row (L0)"))
        out.append((f"{int(run.evaluate.attributes['dead'])} of {int(run.evaluate.attributes['latents'])}", "latents dead on held-out rows"))
    for diff, label in ((run.diff, "living latents outside shared"), (null.diff if null else None, "the same for a model against itself")):
        if diff is not None:
            out.append(("{} of {}".format(*outside_shared(diff)), label))
    return out


# ---- a sweep ------------------------------------------------------------------------------------------------------

def pareto(points):
    """Which of the (L0, FVU) points no other one beats: none has less of one and no more of the other."""
    return [not any(x <= a and y <= b and (x, y) != (a, b) for x, y in points) for a, b in points]


def sweep_panels(members):
    """For each site that members write: its title and a point for each of them."""
    panels = {}
    for m in members:
        if m.evaluate is None:
            continue
        facts = m.evaluate.attributes
        for i, (fvu, error) in enumerate(zip(m.evaluate["sites/fvu"], m.evaluate["sites/fvu_error"])):
            panels.setdefault((facts[f"model{i}"], facts[f"site{i}"]), []).append(
                {"name": m.name, "l0": float(facts["l0"]), "fvu": float(fvu), "error": float(error)})
    for points in panels.values():
        for point, best in zip(points, pareto([(p["l0"], p["fvu"]) for p in points])):
            point["front"] = best
    one_site = len({site for _, site in panels}) == 1
    return [{"title": model if one_site else f"{model}, {site}", "points": points} for (model, site), points in panels.items()]


def sweep_table(members, panels, use):
    """A row for each member, by L0: what it is, and its FVU in each panel (None where it does not write that site)."""
    rows = []
    for m in members:
        if m.evaluate is None:
            continue
        facts, kind = m.evaluate.attributes, m.dictionary.attributes if m.dictionary is not None else {}
        cells = [next((p for p in panel["points"] if p["name"] == m.name), None) for panel in panels]
        rows.append({"name": m.name, "used": m.name == use, "kind": kind.get("kind", ""), "activation": kind.get("activation", ""),
                     "latents": int(facts["latents"]), "l0": float(facts["l0"]), "dead": int(facts["dead"]), "dense": int(facts["dense"]), "cells": cells})
    return sorted(rows, key=lambda row: row["l0"])


def spectrum_rows(spectrum):
    rows = []
    for name in [m for m in spectrum.members() if m not in ("checksums", "provenance") and "residual" in spectrum.file[m]]:
        facts = spectrum.group(name)
        rows.append({"model": name, **{k: facts.get(k) for k in ("fvu", "r2_pooled", "r2_error", "r2_mean")},
                     "ranks": {part: spectrum.group(f"{name}/{part}").get("participation_ratio") for part in ("x", "xhat", "residual") if part in spectrum.file[name]}})
    return rows


CONDITIONS = {"clean": "themselves (clean)", "spliced": "their reconstruction", "zero": "zero", "mean": "their mean", "isotropic": "+ noise, any direction",
              "covariance_x": "+ noise like the activations", "covariance_e": "+ noise like the error", "other_error": "+ another row's error",
              "minus_error": "+ the error reversed", "linear": "- the error's linear part", "nonlinear": "- the error's nonlinear part"}


def loss_table(evaluate):
    """What each condition of evaluate.loss did to each model, or None."""
    if evaluate is None or "loss/nll" not in evaluate:
        return None
    facts = evaluate.group("loss")
    columns = {k: evaluate[f"loss/{k}"] for k in ("nll", "kl", "top1", "kl_ratio", "kl_ratio_low", "kl_ratio_high")}
    recovered = [evaluate["loss/recovered"], evaluate["loss/recovered_error"]]
    r2 = evaluate["loss/linear_r2"] if "loss/linear_r2" in evaluate else []
    models = [{"name": facts[f"model{m}"], "linear_r2": [float(v) for s, v in enumerate(r2) if facts[f"linear_model{s}"] == m and v == v],
               **{k: [float(part[m, i]) for part in recovered] for i, k in enumerate(("zero", "mean"))}} for m in range(int(facts["models"]))]
    names = [facts[f"condition{c}"] for c in range(int(facts["conditions"]))]
    cells = lambda c: [{"nll": columns["nll"][m, c], "kl": columns["kl"][m, c], "top1": columns["top1"][m, c],
                        "ratio": [float(columns[k][m, c]) for k in ("kl_ratio", "kl_ratio_low", "kl_ratio_high")]} for m in range(len(models))]
    rows = [{"name": CONDITIONS[name], "cells": cells(c)} for c, name in enumerate(names) if name in CONDITIONS]
    nulls = [{"name": row["name"], "equal": [cell["ratio"] for cell in row["cells"]],
              "cosine": [cell["ratio"] for cell in cells(names.index("cosine_" + name))] if "cosine_" + name in names else None}
             for name, row in zip(names, rows) if row["cells"][0]["ratio"][0] == row["cells"][0]["ratio"][0]]
    return {"models": models, "rows": rows, "nulls": nulls, **{k: int(facts[k]) for k in ("windows", "documents", "scored")}}


HEAD_SCORES = {"induction": "heads/induction", "previous token": "heads/previous_token", "duplicate token": "heads/duplicate_token",
               "attributed logits": "attribution/head", "OV copying": "weights/ov_full"}


def strongest_heads(lens, model, many=5):
    """For each score its largest heads: (name, value, error or None), strongest first."""
    out = []
    for label, name in HEAD_SCORES.items():
        values = lens[f"{model}/{name}"]
        errors = lens[f"{model}/{name}_error"] if f"{model}/{name}_error" in lens else np.full(values.shape, np.nan)
        order = np.argsort(-np.nan_to_num(values, nan=-np.inf), axis=None, kind="stable")[:many]
        places = zip(*np.unravel_index(order, values.shape))
        out.append((label, [(f"L{layer}H{head}", float(values[layer, head]), float(errors[layer, head])) for layer, head in places]))
    return out


def lens_models(lens):
    """What lens.h5 holds of each model."""
    if lens is None:
        return None
    names = [lens.attributes[f"model{m}"] for m in range(int(lens.attributes["models"]))]
    return [{"name": name, **{k: int(lens.group(name)[k]) for k in ("windows", "scored", "sequences", "period")}, "against": int(lens.group(f"{name}/attribution")["against"]),
             "gap": float(lens.group(f"{name}/attribution")["gap"]), "heads": strongest_heads(lens, name), "figure": figures.lens(lens, name)} for name in names]


def facts(run):
    """Provenance of each file: what was run, where, for how long."""
    rows = []
    trained = [f for m in run.members for f in (m.dictionary, m.evaluate)] or [run.dictionary, run.evaluate]
    files = run.activations + [f for f in trained + [run.stats, run.diff, run.spectrum, run.lens] if f is not None]
    for file in files:
        p = file.provenance
        rows.append({"file": os.path.basename(file.path), "size": os.path.getsize(file.path), "ranks": p.get("ranks"), "threads": p.get("threads"),
                     "seconds": (datetime.fromisoformat(p["end"]) - datetime.fromisoformat(p["start"])).total_seconds(), "end": p["end"], "commit": p.get("commit", "")})
    return rows


def corpus_rows(run):
    rows = []
    for acts in run.activations:
        model, corpus = acts.group("model"), acts.group("corpus")
        rows.append({"name": model.get("name", ""), "rows": acts.file["tokens"].shape[0], "documents": acts.file["documents/source"].shape[0],
                     "loss": model.get("loss"), "sites": ", ".join(acts.sites), "corpus": corpus.get("name", "")})
    return rows


# ---- the page -----------------------------------------------------------------------------------------------------

def build(run, null, title):
    vocabulary = Vocabulary(run.stats) if run.stats is not None else None
    names = [run.diff.attributes[f"model{i}"] for i in (0, 1)] if run.diff is not None else []
    page = {"title": title, "cards": cards(run, null), "corpus": corpus_rows(run), "facts": facts(run), "missing": run.missing, "names": names,
            "figures": dict.fromkeys(("training", "norms", "density", "loss", "nulls", "spectra")), "distinguishing": distinguishing(run, vocabulary), "concepts": concept_table(run.diff),
            "null": outside_shared(null.diff) if null and null.diff is not None else None,
            "classes": list(zip(CLASSES, (int(c) for c in run.diff["classes/count"]))) if run.diff is not None else None,
            "loss": loss_table(run.evaluate), "lens": lens_models(run.lens),
            "spectrum": spectrum_rows(run.spectrum) if run.spectrum is not None else None}
    if run.stats is not None and run.diff is None:
        page["latents"] = single_model_latents(run, vocabulary)
    if len(run.members) > 1 and any(m.evaluate is not None for m in run.members):
        panels = sweep_panels(run.members)
        page["sweep"] = {"panels": [p["title"] for p in panels], "rows": sweep_table(run.members, panels, run.use), "use": run.use}
        page["figures"]["sweep"] = figures.sweep(panels, run.use)
    if run.dictionary is not None:
        page["figures"]["training"] = figures.training(run.dictionary.history)
        page["job"] = run.dictionary.attributes.get("job", "")
    if run.diff is not None:
        page["figures"]["norms"] = figures.relative_norms(run.diff, null.diff if null else None, names)
    if run.stats is not None:
        page["figures"]["density"] = figures.density(run.stats["latents/frequency"], int(run.stats.attributes["rows"]))
    if page["loss"]:
        names = [m["name"] for m in page["loss"]["models"]]
        page["figures"]["loss"] = figures.loss_by_position(run.evaluate, names)
        if page["loss"]["nulls"]:
            page["figures"]["nulls"] = figures.loss_nulls(page["loss"]["nulls"], names)
    if run.spectrum is not None:
        page["figures"]["spectra"] = figures.spectra(run.spectrum, [r["model"] for r in page["spectrum"]])
    return page


def render(page):
    import jinja2
    loader = jinja2.FileSystemLoader(os.path.join(os.path.dirname(os.path.abspath(__file__)), "templates"))
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    return environment.get_template("report.html").render(**page)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run")
    parser.add_argument("--output", default="report.html")
    parser.add_argument("--title", default="Model diffing report")
    parser.add_argument("--null", help="folder of a finished null run")
    parser.add_argument("--members", default="", help="names of a sweep's members, separated by commas")
    parser.add_argument("--use", help="the member that the other results are of")
    a = parser.parse_args()
    null = Run(a.null) if a.null and os.path.isdir(a.null) else None
    run = Run(a.run, [name for name in a.members.split(",") if name], a.use or None)
    if a.null and null is None:
        run.missing.append(f"{a.null}: no null run there; run the null job first to see it beside this one")
    text = render(build(run, null, a.title))
    with open(a.output + ".tmp", "w", encoding="utf-8") as f:
        f.write(text)
    os.replace(a.output + ".tmp", a.output)


if __name__ == "__main__":
    sys.exit(main())
