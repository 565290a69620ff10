"""Draw the curves of a training run from its log."""

from __future__ import annotations

import csv
from pathlib import Path


def plot_log(out: str | Path) -> Path:
    """Draw ``log.csv`` of a run as ``curves.png`` beside it and return the figure's path."""
    from matplotlib.figure import Figure

    out = Path(out)
    with (out / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    steps = [int(r["step"]) for r in rows]
    axes.plot(
        steps, [float(r["train_loss"]) for r in rows], lw=0.8, color="#7a9cc6", label="training"
    )
    checked = [(int(r["step"]), float(r["validation_loss"])) for r in rows if r["validation_loss"]]
    if checked:
        axes.plot(
            *zip(*checked, strict=True),
            "o-",
            ms=3,
            color="#b3462c",
            label="validation, averaged weights",
        )
    axes.set(xlabel="optimiser step", ylabel="loss", yscale="log", title=out.name)
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False)
    figure.savefig(out / "curves.png", dpi=150)
    return out / "curves.png"
