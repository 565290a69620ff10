"""Curves of training: loss against steps, as the training module logs them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xdiffda.errors import StorageError
from xdiffda.plot.styles import legend

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe, Ito


def loss_curves(path: str | Path | Mapping[str, str | Path], *, smooth: int = 20) -> Figure:
    """Draw training and validation loss against steps.

    Parameters
    ----------
    path
        A CSV file with columns ``step``, ``train_loss``, ``validation_loss`` (empty where
        it was not computed) and ``seconds``; or label -> file, for several runs in one
        figure.
    smooth
        Rows averaged in the drawn training loss; the raw one is drawn faintly behind.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    StorageError
        If a file lacks a column or is empty.
    """
    import matplotlib.pyplot as plt

    runs = path if isinstance(path, Mapping) else {"": path}
    figure, ax = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    plt.close(figure)
    for colour, (label, file) in zip(_COLOURS * len(runs), runs.items(), strict=False):
        log = read_log(file)
        step, train, validation = log["step"], log["train_loss"], log["validation_loss"]
        prefix = f"{label}: " if label else ""
        has_train, has_validation = np.isfinite(train), np.isfinite(validation)
        ax.plot(step[has_train], train[has_train], color=colour, alpha=0.2, linewidth=0.6)
        mean = _running_mean(train[has_train], smooth)
        ax.plot(step[has_train], mean, color=colour, linewidth=1.2, label=f"{prefix}training")
        if has_validation.any():
            ax.plot(
                step[has_validation],
                validation[has_validation],
                color=colour if len(runs) > 1 else _COLOURS[1],
                linestyle="--",
                marker="o",
                markersize=3,
                linewidth=1.0,
                label=f"{prefix}validation ({validation[has_validation][-1]:.4g} at the end)",
            )
    ax.set_yscale("log")
    ax.set(xlabel="step", ylabel="loss")
    ax.grid(color="0.9", linewidth=0.5, which="both")
    ax.spines[["top", "right"]].set_visible(False)
    legend(figure, [ax], n_column=2)
    return figure


def read_log(path: str | Path) -> dict[str, np.ndarray]:
    """Read a training log into columns of floats, NaN where a cell is empty."""
    import csv

    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    needed = ("step", "train_loss", "validation_loss")
    if not rows or any(name not in rows[0] for name in needed):
        raise StorageError(f"{path} is not a training log: it needs rows with {', '.join(needed)}")
    return {
        name: np.array([float(row[name]) if row[name] else np.nan for row in rows])
        for name in rows[0]
    }


def _running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Return the mean of up to ``width`` values so far."""
    total = np.cumsum(np.r_[0.0, values])
    start = np.maximum(np.arange(1, values.size + 1) - width, 0)
    return (total[1:] - total[start]) / (np.arange(1, values.size + 1) - start)
