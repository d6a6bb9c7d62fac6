"""The figures of the report, as inline SVG."""
import io

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from markupsafe import Markup
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from matplotlib.transforms import Bbox

NOT_TERMS = ("step", "rows", "loss", "reconstruction", "l0", "dead", "lr")  # of the training history
INK, BLUE, ORANGE, GREEN, GREY = "#1d2733", "#2b6cb0", "#c05621", "#2f855a", "#a0aec0"
plt.rcParams.update({"font.family": "DejaVu Sans", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": INK,
                     "axes.labelcolor": INK, "text.color": INK, "svg.fonttype": "none", "svg.hashsalt": "darkfield", "axes.grid": True, "grid.alpha": 0.2})


def _svg(figure):
    """Trusted markup: matplotlib escapes the texts it draws."""
    out = io.StringIO()
    figure.tight_layout()
    figure.savefig(out, format="svg", metadata={"Date": None})
    plt.close(figure)
    text = out.getvalue()
    return Markup(text[text.index("<svg"):])


def _log(axis):
    """A logarithmic x or y axis with plain numbers at 1, 2 and 5 of each decade."""
    (axis.axes.set_xscale if axis.axis_name == "x" else axis.axes.set_yscale)("log")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _lines(axis, step, lines, title, log=False):
    for (name, values), colour in zip(lines, (BLUE, ORANGE, GREEN, INK) + (GREY,) * len(lines)):
        axis.plot(step, values, label=name, color=colour, lw=1.4)
    axis.set(xlabel="step", title=title)
    if log and all(np.all(values > 0) for _, values in lines):
        _log(axis.yaxis)
    else:
        axis.set_ylim(bottom=0)
    if len(lines) > 1:
        axis.legend(frameon=False)


def training(history):
    """A panel for each loss term that is not zero, FVU per model, L0, dead latents: means over logging intervals."""
    others = [name for name in history if name not in NOT_TERMS and not name.startswith("fvu") and np.any(history[name] != 0)]
    panels = [([(name, history[name]) for name in ("loss", "reconstruction")], "loss, and squared error within it", True)]
    panels += [([(name, history[name])], f"{name} term, before its weight", False) for name in others]
    panels += [([(n[4:] or n, v) for n, v in sorted(history.items()) if n.startswith("fvu")], "fraction of variance unexplained (training rows)", True),
               ([("L0", history["l0"])], "active latents per row (L0)", False), ([("dead", history["dead"])], "dead latents", False)]
    rows = (len(panels) + 2) // 3
    figure, axes = plt.subplots(rows, 3, figsize=(11, 2.5 * rows), squeeze=False)
    for axis, (lines, title, log) in zip(axes.flat, panels):
        _lines(axis, history["step"], lines, title, log)
    for axis in axes.flat[len(panels):]:
        axis.set_visible(False)
    return _svg(figure)


PLACES = [(x * (6 + 0.3 * far), y * (5 + far)) for far in (0, 10, 20, 32) for x, y in ((1, 1), (-1, -1), (1, -1), (-1, 1))]  # in points


def _label(axis, points, use):
    """Names beside the points, each in the first place where it covers no other name and no point."""
    renderer = axis.figure.canvas.get_renderer()
    taken = [Bbox.from_extents(x - 4, y - 4, x + 4, y + 4) for x, y in axis.transData.transform([(p["l0"], p["fvu"]) for p in points])]
    for p in points:
        bold = {"color": ORANGE, "fontweight": "bold"} if p["name"] == use else {}
        text = axis.annotate(p["name"], (p["l0"], p["fvu"]), xytext=(0, 0), textcoords="offset points", fontsize=7.5, **bold)
        for x, y in PLACES:
            text.set(position=(x, y), ha="left" if x > 0 else "right", va="bottom" if y > 0 else "top")
            box = text.get_window_extent(renderer)
            if not any(box.overlaps(other) for other in taken):
                break
        taken.append(box)


def sweep(panels, use):
    """FVU against L0 on held-out documents, a panel for each site written; the Pareto front as a line, the studied member in orange."""
    columns = min(len(panels), 2)
    rows = (len(panels) + columns - 1) // columns
    figure, axes = plt.subplots(rows, columns, figsize=(11, 4.2 * rows), squeeze=False)
    for axis, panel in zip(axes.flat, panels):
        points = sorted(panel["points"], key=lambda p: (p["l0"], p["fvu"]))
        front = [p for p in points if p["front"]]
        axis.plot([p["l0"] for p in front], [p["fvu"] for p in front], color=BLUE, lw=1.2, zorder=1, label="Pareto front")
        colours = [ORANGE if p["name"] == use else BLUE if p["front"] else GREY for p in points]
        axis.scatter([p["l0"] for p in points], [p["fvu"] for p in points], 26, colours, zorder=2)
        axis.set(title=panel["title"], xlabel="active latents per row (L0)", ylabel="fraction of variance unexplained (held-out)")
        axis.margins(x=0.22, y=0.15)
        _log(axis.xaxis)
        _log(axis.yaxis)
        axis.legend(frameon=False, loc="upper right")
    for axis in axes.flat[len(panels):]:
        axis.set_visible(False)
    figure.tight_layout()  # what the places of the names are measured in
    for axis, panel in zip(axes.flat, panels):
        _label(axis, sorted(panel["points"], key=lambda p: (p["l0"], p["fvu"])), use)
    return _svg(figure)


def relative_norms(diff, null, names):
    """Histogram of |d_B| / (|d_A| + |d_B|) over living latents; the null as an outline."""
    figure, axis = plt.subplots(figsize=(11, 3.0))
    edges, count = diff["histogram/edges"], diff["histogram/count"]
    axis.bar(edges[:-1], count, np.diff(edges), align="edge", color=BLUE, alpha=0.8, label=f"{names[0]} against {names[1]}")
    if null is not None:
        axis.stairs(null["histogram/count"], null["histogram/edges"], color=ORANGE, lw=1.5, label="null: a model against itself")
    axis.set(xlabel=f"relative decoder norm: 0 only in {names[0]}, 1 only in {names[1]}", ylabel="living latents", yscale="symlog", xlim=(0, 1))
    axis.legend(frameon=False, loc="upper left")
    return _svg(figure)


def density(frequency, rows):
    """How often latents fire: log10 of the share of rows."""
    figure, axis = plt.subplots(figsize=(11, 2.6))
    living = frequency[frequency > 0]
    axis.hist(np.log10(living) if living.size else [], bins=60, color=BLUE, alpha=0.8)
    axis.axvline(-1, color=ORANGE, lw=1.2, ls="--", label="dense: more than 10 % of rows")
    axis.set(xlabel=f"log10 of firing frequency ({rows} rows; {int((frequency == 0).sum())} latents never fired)", ylabel="latents")
    axis.legend(frameon=False)
    return _svg(figure)


def spectra(spectrum, models):
    """Eigenvalues of the covariances of x, of its reconstruction and of the residual, on log axes."""
    figure, axes = plt.subplots(1, len(models), figsize=(11, 3.4), sharey=True, squeeze=False)
    for axis, model in zip(axes[0], models):
        for part, colour in (("x", INK), ("xhat", BLUE), ("residual", ORANGE)):
            values = spectrum[f"{model}/{part}/eigenvalues"]
            values = np.where(values > 0, values, np.nan)
            axis.loglog(np.arange(1, len(values) + 1), values, color=colour, lw=1.5, label={"xhat": "reconstruction"}.get(part, part))
        axis.set(title=model, xlabel="rank of the eigenvalue")
    axes[0][0].set_ylabel("eigenvalue (the model's units, squared)")
    axes[0][0].legend(frameon=False)
    return _svg(figure)


def loss_by_position(evaluate, names, many=16):
    """Loss of the first conditions along the window, in `many` runs of positions of equal length."""
    curve, count = evaluate["loss/by_position/nll"], evaluate["loss/by_position/count"]
    edges = np.linspace(0, len(count), min(many, len(count)) + 1).astype(int)
    figure, axes = plt.subplots(1, len(names), figsize=(4.6 * len(names), 2.6), squeeze=False)
    for m, (axis, name) in enumerate(zip(axes[0], names)):
        for c, (label, colour) in enumerate((("clean", INK), ("spliced", BLUE), ("zero", GREY), ("mean", ORANGE))):
            sums = np.nan_to_num(curve[m, c]) * count
            totals = [(sums[a:b].sum(), count[a:b].sum(), (a + b - 1) / 2) for a, b in zip(edges, edges[1:]) if count[a:b].sum() > 0]
            axis.plot([place for _, _, place in totals], [total / n for total, n, _ in totals], color=colour, lw=1.4, label=label)
        axis.set(xlabel="position in the window", ylabel="loss (nats)", title=name)
        axis.set_ylim(bottom=0)
    axes[0][-1].legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return _svg(figure)


def loss_nulls(nulls, names):
    """KL of the splice over that of each null, with 95 % intervals: at equal norm, and at the same cosine too."""
    figure, axes = plt.subplots(1, len(names), figsize=(1.6 + 4.7 * len(names), 0.9 + 0.34 * len(nulls)), sharey=True, squeeze=False)
    for m, (axis, name) in enumerate(zip(axes[0], names)):
        for key, label, colour, shift in (("equal", "as far as the reconstruction", BLUE, -0.13), ("cosine", "and at the same angle", ORANGE, 0.13)):
            if nulls[0][key] is None:
                continue
            value, low, high = np.array([null[key][m] for null in nulls]).T
            errors = np.nan_to_num(np.stack([value - low, high - value])).clip(min=0)
            axis.errorbar(value, np.arange(len(nulls)) + shift, xerr=errors, fmt="o", ms=4, lw=1.4, capsize=2, color=colour, label=label)
        axis.axvline(1, color=INK, lw=0.8, ls="--")
        axis.set(title=name, xlabel="KL of the reconstruction / KL of the perturbation", yticks=range(len(nulls)), yticklabels=[null["name"] for null in nulls])
        _log(axis.xaxis)
    axes[0][0].invert_yaxis()
    axes[0][-1].legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return _svg(figure)


def _by_head(axis, values, title, colours, low, high):
    """A heatmap, one row a layer, one column a head."""
    image = axis.imshow(values, cmap=colours, vmin=low, vmax=high, aspect="auto", interpolation="nearest")
    axis.set(title=title, xlabel="head", ylabel="layer")
    axis.grid(False)
    for side, many in ((axis.xaxis, values.shape[1]), (axis.yaxis, values.shape[0])):
        side.set_major_locator(FixedLocator(range(0, many, max(1, (many + 7) // 8))))
    axis.figure.colorbar(image, ax=axis, fraction=0.046, pad=0.03)


def _lens_curves(axes, lens, at):
    """Loss and entropy, KL, agreement by depth, with error bars."""
    panels = (((("loss of the next token", "nll", BLUE), ("entropy", "entropy", GREY)), "nats"), ((("KL(final || here)", "kl", ORANGE),), "nats"),
              ((("same top token as the end", "top1", GREEN),), "share of positions"))
    for axis, (lines, unit) in zip(axes, panels):
        for label, quantity, colour in lines:
            values, errors = lens[f"{at}/logit_lens/{quantity}"], np.nan_to_num(lens[f"{at}/logit_lens/{quantity}_error"])
            axis.errorbar(np.arange(len(values)), values, errors, color=colour, lw=1.4, marker="o", ms=3, capsize=2, label=label)
        axis.set(xlabel="blocks before the read-out", ylabel=unit, title="Logit lens: " + lines[0][0])
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_ylim(bottom=0)
    axes[0].legend(frameon=False)


def _parts(axis, lens, at):
    """Direct attribution of the whole parts: embedding, then attention and MLP of each layer, then the final bias."""
    whole, heads, mlp = lens[f"{at}/attribution/whole"], lens[f"{at}/attribution/head"].sum(1), lens[f"{at}/attribution/mlp"]
    attention = heads + lens[f"{at}/attribution/attention_bias"]
    layers = np.arange(len(mlp))
    axis.bar([-1], [whole[0] + whole[1]], 0.6, color=INK, label="embedding, positions")
    axis.bar(layers - 0.2, attention, 0.4, color=BLUE, label="attention")
    axis.bar(layers + 0.2, mlp, 0.4, color=ORANGE, label="MLP")
    axis.bar([len(mlp)], [whole[2]], 0.6, color=GREY, label="final norm's bias")
    axis.axhline(0, color=INK, lw=0.8)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set(xlabel="layer", ylabel="logits", title=f"Attribution of the next token's logit ({whole[3]:.2f})")
    axis.legend(frameon=False, fontsize=8)


def lens(results, at):
    """One model: logit lens by depth, attribution by layer and head, head scores, eigenvalues and composition of heads."""
    figure, axes = plt.subplots(4, 3, figsize=(11, 12))
    _lens_curves(axes[0], results, at)
    _parts(axes[1][0], results, at)
    head = results[f"{at}/attribution/head"]
    most = max(float(np.abs(head).max()), 1e-9)
    _by_head(axes[1][1], head, "Attribution by head (logits)", "RdBu", -most, most)
    _by_head(axes[1][2], results[f"{at}/heads/previous_token_text"], "Previous token, on the text", "Blues", 0, 1)
    for axis, score, title in zip(axes[2], ("previous_token", "duplicate_token", "induction"), ("Previous token", "Duplicate token", "Induction")):
        _by_head(axis, results[f"{at}/heads/{score}"], f"{title}, repeated tokens", "Blues", 0, 1)
    for axis, score, title in zip(axes[3], ("ov_full", "qk_full"), ("OV copying: eigenvalues", "QK matching: eigenvalues")):
        _by_head(axis, results[f"{at}/weights/{score}"], title, "RdBu", -1, 1)
    _by_head(axes[3][2], results[f"{at}/composition/k"].max((0, 1)), "K-composition, best earlier head", "Blues", 0, None)
    return _svg(figure)
