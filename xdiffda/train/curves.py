"""Draw the curves of a training run from its log."""

from __future__ import annotations

from pathlib import Path


def plot_log(out: str | Path) -> Path:
    """Draw ``log.csv`` of a run as ``curves.png`` beside it and return the figure's path."""
    from xdiffda.plot.curves import loss_curves

    out = Path(out)
    loss_curves(out / "log.csv", smooth=4).savefig(out / "curves.png", dpi=150)
    return out / "curves.png"
