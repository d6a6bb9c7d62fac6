"""The figures of the report, as inline SVG."""
import io

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from markupsafe import Markup

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


def training(history):
    """Loss terms, FVU per model, L0 with dead latents: one panel each, over steps."""
    figure, (loss, fvu, counts) = plt.subplots(1, 3, figsize=(11, 2.9))
    step = history["step"]
    for name, colour in (("loss", INK), ("reconstruction", BLUE), ("sparsity", ORANGE), ("auxiliary", GREEN),
                         ("preactivation", GREY), ("gate", GREY)):
        if name in history and np.any(history[name] > 0):
            loss.plot(step, history[name], label=name, color=colour, lw=1.4)
    loss.set(xlabel="step", yscale="log", title="loss terms")
    for (name, values), colour in zip(((n, v) for n, v in sorted(history.items()) if n.startswith("fvu")), (BLUE, ORANGE, GREEN, INK)):
        fvu.plot(step, values, label=name[4:] or name, color=colour, lw=1.4)
    fvu.set(xlabel="step", yscale="log", title="fraction of variance unexplained (batch)")
    counts.plot(step, history["l0"], color=BLUE, lw=1.4, label="L0")
    counts.set(xlabel="step", title="L0 and dead latents", ylabel="active per row")
    dead = counts.twinx()
    dead.plot(step, history["dead"], color=GREY, lw=1.4, label="dead")
    dead.set_ylabel("dead latents")
    dead.grid(False)
    for axis in (loss, fvu):
        axis.legend(frameon=False)
    counts.legend(handles=counts.lines + dead.lines, frameon=False)
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
